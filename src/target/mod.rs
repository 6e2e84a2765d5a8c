//! Where restores go.

/// Why a target could not be used at all (one entry's failure is a
/// [`Problem`](crate::monitor::Problem) instead).
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// The system refused.
    #[error("{item}: {error}")]
    Io {
        /// What it was about.
        item: String,
        /// What the system said.
        error: std::io::Error,
    },
    /// The target's disk is full.
    #[error("{item}: the disk is full; what was restored stays, free some space and run it again")]
    Full {
        /// What was being written.
        item: String,
    },
}
