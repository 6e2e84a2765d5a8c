//! What can go wrong with a repository.

use crate::codec::cipher::Unauthentic;
use crate::codec::compress::CompressError;
use crate::format;
use crate::store;

/// What a caller would do differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The thing is not there.
    NotFound,
    /// The thing is there and damaged.
    Corrupt,
    /// No key slot opens with what was given.
    WrongKey,
    /// Something of that name is already there.
    Conflict,
    /// It is in an archive and must be thawed before it can be read.
    Archived,
    /// The store cannot be reached or refuses for now.
    Unavailable,
    /// The store is full.
    Full,
    /// The store may not be written, or not be read.
    Denied,
    /// What was asked for makes no sense.
    Invalid,
    /// A newer Aumbry wrote it.
    Newer,
    /// A person asked to stop.
    Interrupted,
}

/// A failure, with the thing it is about.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{item}: {message}")]
pub struct RepositoryError {
    /// What a caller would do differently.
    pub kind: Kind,
    /// The thing: an object's name, a blob, a snapshot.
    pub item: String,
    /// What is wrong with it.
    pub message: String,
}

/// What the room's functions return.
pub type Result<T> = std::result::Result<T, RepositoryError>;

impl RepositoryError {
    /// A failure of this kind.
    pub fn new(kind: Kind, item: impl ToString, message: impl Into<String>) -> Self {
        RepositoryError { kind, item: item.to_string(), message: message.into() }
    }

    /// A damaged thing.
    pub fn corrupt(item: impl ToString, message: impl Into<String>) -> Self {
        Self::new(Kind::Corrupt, item, message)
    }
}

impl From<store::StoreError> for RepositoryError {
    fn from(error: store::StoreError) -> Self {
        let kind = match error.kind {
            store::Kind::NotFound => Kind::NotFound,
            store::Kind::Truncated => Kind::Corrupt,
            store::Kind::Full => Kind::Full,
            store::Kind::Denied => Kind::Denied,
            store::Kind::Archived => Kind::Archived,
            store::Kind::Unavailable => Kind::Unavailable,
            store::Kind::Invalid => Kind::Invalid,
            store::Kind::Interrupted => Kind::Interrupted,
        };
        RepositoryError { kind, item: error.name, message: error.message }
    }
}

/// Names the object that could not be understood.
pub trait Named<T> {
    /// The same result, its error with the object's name.
    fn named(self, item: impl ToString) -> Result<T>;
}

impl<T> Named<T> for std::result::Result<T, format::FormatError> {
    fn named(self, item: impl ToString) -> Result<T> {
        self.map_err(|error| {
            let kind = match error.kind {
                format::Kind::Corrupt => Kind::Corrupt,
                format::Kind::Newer => Kind::Newer,
                format::Kind::WrongKey => Kind::WrongKey,
            };
            RepositoryError::new(kind, item, error.message)
        })
    }
}

impl<T> Named<T> for std::result::Result<T, Unauthentic> {
    fn named(self, item: impl ToString) -> Result<T> {
        self.map_err(|error| RepositoryError::corrupt(item, error.to_string()))
    }
}

impl<T> Named<T> for std::result::Result<T, CompressError> {
    fn named(self, item: impl ToString) -> Result<T> {
        self.map_err(|error| RepositoryError::corrupt(item, error.to_string()))
    }
}
