//! Where restores go.

pub mod files;

use std::io;

use rustix::io::Errno;

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

impl TargetError {
    /// What the system said of an item.
    pub fn new(item: impl Into<String>, error: io::Error) -> Self {
        let item = item.into();
        if is_full(&error) { TargetError::Full { item } } else { TargetError::Io { item, error } }
    }
}

/// Whether an error says that there is no room left, on the disk or within a quota: the next file would
/// fare no better.
pub fn is_full(error: &io::Error) -> bool {
    let code = error.raw_os_error();
    code == Some(Errno::NOSPC.raw_os_error()) || code == Some(Errno::DQUOT.raw_os_error())
}
