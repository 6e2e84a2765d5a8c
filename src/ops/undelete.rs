//! Undelete: bring forgotten snapshots back, until a collection has swept what only they needed.

use crate::id::SnapshotId;
use crate::monitor::Monitor;
use crate::ops::OpsError;
use crate::repository::Repository;
use crate::repository::tombs::Undeleted;

/// What an undelete did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UndeleteSummary {
    /// The snapshots that are shown again.
    pub restored: Vec<SnapshotId>,
    /// An unfinished collection may have looked before that: whether they stay is certain when it has ended.
    pub is_pending: bool,
}

/// Brings back these snapshots.
///
/// # Errors
///
/// Nothing is brought back when one of them is not forgotten, cannot be read, or was swept.
pub fn undelete(
    repository: &Repository,
    ids: &[SnapshotId],
    monitor: &dyn Monitor,
) -> Result<UndeleteSummary, OpsError> {
    let forgotten = repository.forgotten(monitor)?;
    for id in ids {
        match forgotten.iter().find(|forgotten| forgotten.id == *id) {
            Some(found) => {
                if let Err(error) = &found.snapshot {
                    return Err(error.clone().into());
                }
            }
            None => {
                return Err(OpsError::Invalid(format!(
                    "snapshot {} is not among those that were forgotten and can come back",
                    id.short()
                )));
            }
        }
    }
    let is_pending = repository.undelete(ids)? == Undeleted::Pending;
    Ok(UndeleteSummary { restored: ids.to_vec(), is_pending })
}
