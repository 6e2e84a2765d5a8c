//! Chooses snapshots: by id, `latest~2`, date, host, tag and path.

use crate::format::snapshot::Snapshot;
use crate::id::SnapshotId;
use crate::ops::OpsError;
use crate::units::Timestamp;

/// Which snapshots come into question. Empty lists let everything through.
#[derive(Debug, Clone, Default)]
pub struct SnapshotFilter {
    /// Any of these hosts.
    pub hosts: Vec<String>,
    /// Any of these lists; all tags of a list must be there.
    pub tags: Vec<Vec<String>>,
    /// All of these paths must be among the snapshot's sources.
    pub paths: Vec<Vec<u8>>,
}

impl SnapshotFilter {
    /// Whether the snapshot comes into question.
    pub fn matches(&self, snapshot: &Snapshot) -> bool {
        let _ = snapshot;
        true
    }
}

/// How one snapshot was named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SnapshotChoice {
    /// The newest but `n`: `latest` is 0, `latest~2` is 2.
    Latest(usize),
    /// The newest at or before this moment.
    At(Timestamp),
    /// The one whose id begins with these hexadecimal digits.
    Prefix(String),
}

/// The one snapshot that the choice means among those that the filter lets through. Nothing, and more than
/// one for a prefix, are errors that name the nearest ones.
pub fn choose<'s>(
    snapshots: &'s [(SnapshotId, Snapshot)],
    choice: &SnapshotChoice,
    filter: &SnapshotFilter,
) -> Result<&'s (SnapshotId, Snapshot), OpsError> {
    let _ = (snapshots, choice, filter);
    Err(OpsError::Invalid("not built yet".into()))
}
