//! Restore: a snapshot, or a part of it, into a folder.

use std::path::Path;

use crate::format::snapshot::Snapshot;
use crate::id::SnapshotId;
use crate::monitor::Monitor;
use crate::ops::OpsError;
use crate::repository::Repository;
use crate::tree::filter::{ExcludeFilter, IncludeFilter};
use crate::tree::path::TreePath;

/// What happens to a file that is already in the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Overwrite {
    /// Compare its content with the snapshot's, and write what differs.
    #[default]
    Always,
    /// Leave it when size and modification time agree; else as `Always`.
    IfChanged,
    /// Leave it unless the snapshot's modification time is later.
    IfNewer,
    /// Leave it.
    Never,
}

/// What to restore, and how.
pub struct RestoreOptions {
    /// The part of the snapshot whose contents go into the target; the root for all of it. A file, or any
    /// entry that is no directory, goes into the target under its own name.
    pub subtree: TreePath,
    /// Only what matches, by path in the snapshot. `IncludeFilter::new(&[])` lets everything through.
    pub include: IncludeFilter,
    /// Not what matches, by path in the snapshot.
    pub exclude: ExcludeFilter,
    /// What happens to files that are already there.
    pub overwrite: Overwrite,
    /// Remove from restored directories what the snapshot does not have.
    pub delete: bool,
    /// Tell what would be done, do nothing.
    pub dry_run: bool,
    /// Write runs of zeros as holes, whether they were holes or not.
    pub sparse: bool,
    /// Read everything again after it was written, and compare.
    pub verify: bool,
    /// Bytes that everything together may use.
    pub memory_budget: u64,
}

/// What a restore did, or would do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RestoreSummary {
    /// Entries in the part that was asked for.
    pub total_entries: u64,
    /// Files among them.
    pub total_files: u64,
    /// Bytes of content among them.
    pub total_bytes: u64,
    /// Files written anew or changed.
    pub files_restored: u64,
    /// Files that were already as wanted.
    pub files_unchanged: u64,
    /// Files left as they were because of the overwrite rule.
    pub files_skipped: u64,
    /// Entries removed because the snapshot does not have them.
    pub files_deleted: u64,
    /// Bytes of content written.
    pub bytes_written: u64,
    /// Bytes of content that were already there.
    pub bytes_unchanged: u64,
    /// Pieces of metadata that could not be restored (each was reported as a problem).
    pub metadata_failed: u64,
    /// Entries that could not be restored (each was reported as a problem).
    pub entries_failed: u64,
    /// Files whose content was read again and found right.
    pub files_verified: u64,
    /// How long it took.
    pub elapsed: std::time::Duration,
}

/// Restores a snapshot into the folder `target`, which is made when it is not there.
pub fn restore(
    repository: &Repository,
    snapshot: &(SnapshotId, Snapshot),
    target: &Path,
    options: &RestoreOptions,
    monitor: &dyn Monitor,
) -> Result<RestoreSummary, OpsError> {
    let _ = (repository, snapshot, target, options, monitor);
    Err(OpsError::Invalid("not built yet".into()))
}
