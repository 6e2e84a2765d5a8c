//! Dump: one file's bytes, or a folder as a tar archive, into a stream.

use std::io::Write;

use crate::format::snapshot::Snapshot;
use crate::id::SnapshotId;
use crate::monitor::Monitor;
use crate::ops::OpsError;
use crate::repository::Repository;
use crate::tree::path::TreePath;

/// What a dump wrote.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DumpSummary {
    /// Entries written: 1 for a file.
    pub entries: u64,
    /// Bytes of content written.
    pub bytes: u64,
    /// Entries that could not be written (each was reported as a problem).
    pub entries_failed: u64,
}

/// Writes the file at `path` as it is, or the directory there as a tar archive (POSIX pax format, so that long
/// names, nanoseconds, large files and extended attributes survive).
pub fn dump(
    repository: &Repository,
    snapshot: &(SnapshotId, Snapshot),
    path: &TreePath,
    output: &mut dyn Write,
    monitor: &dyn Monitor,
) -> Result<DumpSummary, OpsError> {
    let _ = (repository, snapshot, path, output, monitor);
    Err(OpsError::Invalid("not built yet".into()))
}
