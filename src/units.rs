//! Sizes, rates, durations and moments: as values, parsed and printed.

/// A moment: seconds since 1970-01-01T00:00:00Z and the nanoseconds after them (0 to 999 999 999).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp {
    /// Whole seconds; negative before 1970.
    pub seconds: i64,
    /// Nanoseconds that follow `seconds`.
    pub nanoseconds: u32,
}
