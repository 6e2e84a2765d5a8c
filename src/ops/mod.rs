//! Verbs: one file each, `Options` in and `Summary` out. Verbs do not call one another; `find` compares snapshots with what
//! `diff` is made of.

pub mod backup;
mod changes;
pub mod check;
mod complete;
pub mod copy;
mod crew;
pub mod diff;
pub mod dump;
pub mod find;
mod findings;
pub mod forget;
mod marking;
pub mod mirror;
mod nodes;
pub mod prune;
mod quiet;
mod references;
pub mod rekey;
pub mod repair;
pub mod restore;
pub mod select;
pub mod stats;
mod threads;
pub mod undelete;
mod walk;

use crate::repository::error::{Kind, RepositoryError};
use crate::source::SourceError;
use crate::target::TargetError;

/// Why a verb could not go on.
#[derive(Debug, thiserror::Error)]
pub enum OpsError {
    /// The repository or its store.
    #[error(transparent)]
    Repository(RepositoryError),
    /// The source of a backup.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The target of a restore.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// What was asked for makes no sense, or fits nothing.
    #[error("{0}")]
    Invalid(String),
    /// Others were in the way, again and again: trying again helps.
    #[error("{0}")]
    Busy(String),
    /// A person asked to stop.
    #[error("interrupted")]
    Interrupted,
}

impl From<RepositoryError> for OpsError {
    /// A wish to stop that reached a store while it was waited for is the same wish.
    fn from(error: RepositoryError) -> Self {
        match error.kind {
            Kind::Interrupted => OpsError::Interrupted,
            _ => OpsError::Repository(error),
        }
    }
}
