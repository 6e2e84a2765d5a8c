//! Sizes, rates, durations and moments: as values, parsed and printed.
//!
//! Everything here is pure: a function that needs to know what time it is, or where on earth, is told.

pub mod bytes;
pub mod duration;
pub mod time;

/// A moment: seconds since 1970-01-01T00:00:00Z and the nanoseconds after them (0 to 999 999 999).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp {
    /// Whole seconds; negative before 1970.
    pub seconds: i64,
    /// Nanoseconds that follow `seconds`.
    pub nanoseconds: u32,
}

/// A text that is no size, share, length of time or moment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnitsError {
    /// The text has none of the forms that are understood.
    #[error("{text:?} is not {expected}")]
    Invalid {
        /// What was given.
        text: String,
        /// What would have been understood, with examples.
        expected: &'static str,
    },
    /// The text was understood, but no value is as large as what it says.
    #[error("{text:?} is out of range: {limit}")]
    OutOfRange {
        /// What was given.
        text: String,
        /// What the limit is.
        limit: &'static str,
    },
}

impl UnitsError {
    fn invalid(text: &str, expected: &'static str) -> Self {
        UnitsError::Invalid { text: text.to_string(), expected }
    }

    fn out_of_range(text: &str, limit: &'static str) -> Self {
        UnitsError::OutOfRange { text: text.to_string(), limit }
    }
}
