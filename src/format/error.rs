//! What can be wrong with persisted bytes.

/// What a caller would do differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The bytes are not what was written: treat the object as damaged.
    Corrupt,
    /// A newer Aumbry wrote this: use that one.
    Newer,
    /// The key does not belong to these bytes.
    WrongKey,
}

/// Bytes that could not be understood. Says what they should have been; the caller names the object.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct FormatError {
    /// What a caller would do differently.
    pub kind: Kind,
    /// What was expected and what was found.
    pub message: String,
}

impl FormatError {
    /// Damaged bytes.
    pub fn corrupt(message: impl Into<String>) -> Self {
        FormatError { kind: Kind::Corrupt, message: message.into() }
    }

    /// Bytes of a later version.
    pub fn newer(message: impl Into<String>) -> Self {
        FormatError { kind: Kind::Newer, message: message.into() }
    }
}
