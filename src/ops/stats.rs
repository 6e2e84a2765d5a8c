//! Stats: how large things are.

use crate::format::snapshot::Snapshot;
use crate::id::SnapshotId;
use crate::monitor::Monitor;
use crate::ops::OpsError;
use crate::repository::Repository;

/// How large a repository is, and what restoring would give.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StatsSummary {
    /// Snapshots counted.
    pub snapshots: u64,
    /// Files and directories in them, each snapshot counted for itself.
    pub entries: u64,
    /// Files among them.
    pub files: u64,
    /// Bytes of content that restoring all of them would write.
    pub restore_bytes: u64,
    /// Plaintext bytes of the blobs they refer to, each blob counted once.
    pub unique_bytes: u64,
    /// Blobs they refer to, each counted once.
    pub blobs: u64,
    /// Packs in the whole repository.
    pub packs: u64,
    /// Bytes of all objects in the store.
    pub stored_bytes: u64,
    /// Index objects.
    pub indexes: u64,
}

/// Counts what these snapshots hold and what the repository takes.
pub fn stats(
    repository: &Repository,
    snapshots: &[(SnapshotId, Snapshot)],
    monitor: &dyn Monitor,
) -> Result<StatsSummary, OpsError> {
    let _ = (repository, snapshots, monitor);
    Err(OpsError::Invalid("not built yet".into()))
}
