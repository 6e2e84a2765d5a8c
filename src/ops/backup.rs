//! Back up: a source into a snapshot.

use crate::format::snapshot::BackupCounts;
use crate::id::SnapshotId;
use crate::monitor::Monitor;
use crate::ops::OpsError;
use crate::repository::Repository;
use crate::source::Source;
use crate::units::Timestamp;

/// How a file is found unchanged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ChangeDetection {
    /// Do not compare change times (for file systems that do not keep them).
    pub ignore_ctime: bool,
    /// Do not compare inode and device numbers (for file systems that make them up).
    pub ignore_inode: bool,
    /// Read every file, whatever its times say.
    pub force: bool,
}

/// What to back up beside the source, and how.
pub struct BackupOptions {
    /// Take unchanged files from this snapshot; `None`: from the newest of the same host and paths.
    pub parent: Option<SnapshotId>,
    /// How a file is found unchanged.
    pub detection: ChangeDetection,
    /// The host to record.
    pub host: String,
    /// The user to record.
    pub user: String,
    /// Tags to record.
    pub tags: Vec<String>,
    /// The time to record; `None`: when the backup began.
    pub time: Option<Timestamp>,
    /// Offset of the user's time zone in seconds east of UTC.
    pub zone_offset_seconds: i32,
    /// Find out what would be stored, store nothing.
    pub dry_run: bool,
    /// Make no snapshot when nothing differs from the parent.
    pub skip_if_unchanged: bool,
    /// Name and version of the program, to record.
    pub program: String,
    /// Bytes that everything together may use; see `docs/memory.md`.
    pub memory_budget: u64,
}

/// What a backup did.
#[derive(Debug, Clone)]
pub struct BackupSummary {
    /// The snapshot; `None` for a dry run, and when nothing had changed and that was asked to be skipped.
    pub snapshot: Option<SnapshotId>,
    /// The parent that was used.
    pub parent: Option<SnapshotId>,
    /// What it did, in numbers. `problems` above 0: some files could not be read.
    pub counts: BackupCounts,
    /// When it began.
    pub start: Timestamp,
    /// When it ended.
    pub end: Timestamp,
    /// How long it took.
    pub elapsed: std::time::Duration,
    /// Nothing had changed, and no snapshot was made.
    pub skipped: bool,
}

/// Backs up everything that `source` tells into one snapshot.
pub fn backup(
    repository: &Repository,
    source: &mut dyn Source,
    options: &BackupOptions,
    monitor: &dyn Monitor,
) -> Result<BackupSummary, OpsError> {
    let _ = (repository, source, options, monitor);
    Err(OpsError::Invalid("not built yet".into()))
}
