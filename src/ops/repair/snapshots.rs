//! Snapshots: what can be brought back is, and for each that stays damaged there is one with what is left.
//!
//! A snapshot that this client has seen and the store has lost, or damaged, is in the local cache: it is put back, or
//! made anew under another name, because a slot is never taken away. A snapshot with missing content gets a
//! second one beside it, marked with the tag `repaired`, the original's id and what is not in it. The
//! original stays until somebody has it forgotten: what it lacks may still come back.

use super::rewrite::{Rewriter, Rewritten};
use super::{Examined, RepairOptions, Trouble};
use crate::format::snapshot::{Repaired, Snapshot};
use crate::id::SnapshotId;
use crate::monitor::{Monitor, Phase, SilentMonitor};
use crate::ops::OpsError;
use crate::repository::Repository;
use crate::repository::error::{Kind, RepositoryError};
use crate::repository::reader::BlobReader;
use crate::repository::session::Committed;
use crate::repository::snapshots::Snapshots;
use crate::repository::tombs::Undeleted;
use crate::repository::verify::{is_damage, names};
use crate::repository::writer::Writer;
use crate::units::Timestamp;
use crate::view::DirectoryRoot;

/// The tag of a snapshot that a repair made.
pub const REPAIRED: &str = "repaired";
/// So many lines of what is not in it a snapshot records.
const LINES_RECORDED: usize = 1000;
/// How often a repair that a collector gave up is begun anew.
const ATTEMPTS: usize = 16;

/// A snapshot that was made, or would be in a dry run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MadeSnapshot {
    /// The damaged snapshot that it stands for.
    pub original: SnapshotId,
    /// Its own name; `None` in a dry run.
    pub id: Option<SnapshotId>,
    /// The time that both claim.
    pub time: Timestamp,
    /// What is not in it, or not whole, a line each.
    pub left_out: Vec<String>,
}

/// What became of the snapshots.
#[derive(Debug, Default)]
pub struct SnapshotsRepair {
    /// Snapshots that were gone through.
    pub snapshots: u64,
    /// Snapshots that the store had lost, and that the local cache put back.
    pub put_back: Vec<SnapshotId>,
    /// Some of them beside an unfinished collection that may have looked before that: whether they stay is certain when
    /// it has ended.
    pub is_pending: bool,
    /// Snapshots that were made for damaged ones.
    pub made: Vec<MadeSnapshot>,
    /// Damaged snapshots that have a repaired one already.
    pub known: Vec<SnapshotId>,
    /// Damaged snapshots of which nothing can be brought back, or that are left for a newer version.
    pub left: Vec<Trouble>,
    /// Blobs that were in no pack that counts, and were stored again from where they could be read.
    pub blobs_stored_again: u64,
    /// Tombs that cannot be read, which forget nothing.
    pub tombs: Vec<Trouble>,
    /// Where damaged tombs were put.
    pub quarantined: Vec<String>,
    /// Originals that were forgotten, or would be in a dry run.
    pub forgotten: Vec<SnapshotId>,
}

/// What was found before anything is done.
#[derive(Default)]
struct Found {
    snapshots: Snapshots,
    /// Snapshots with missing content.
    damaged: Vec<(SnapshotId, Snapshot)>,
    /// Slots that are damaged, with what the local cache has of them.
    slots: Vec<(SnapshotId, Snapshot)>,
}

/// Repairs the snapshots. Index and packs are to be repaired before: what only they have lost is not lost.
pub fn repair_snapshots(
    repository: &Repository,
    options: &RepairOptions,
    monitor: &dyn Monitor,
) -> Result<SnapshotsRepair, OpsError> {
    monitor.phase(Phase::Repair);
    let mut repair = SnapshotsRepair::default();
    let session = repository.register_reader(monitor);
    let found = find(repository, options, monitor, &mut repair);
    repository.end_reader(session, monitor);
    let found = found?;
    if options.dry_run {
        return Ok(repair);
    }
    repair.made.clear();
    repair.blobs_stored_again = 0;
    repair.forgotten.clear();
    let mut put_back = Vec::new();
    for id in &repair.put_back {
        if let Some(undeleted) = repository.put_back(*id)? {
            put_back.push(*id);
            repair.is_pending |= undeleted == Undeleted::Pending;
        }
    }
    repair.put_back = put_back;
    for trouble in &repair.tombs {
        repair.quarantined.extend(repository.quarantine(&trouble.item)?);
    }
    for (id, snapshot) in found.slots.iter().chain(&found.damaged) {
        mend(repository, options, *id, snapshot, monitor, &mut repair)?;
    }
    if options.forget_originals {
        repair.forgotten = originals(&repair);
        let forgotten: Vec<_> = repair.forgotten.clone();
        repository.forget(&forgotten, "a repaired snapshot stands for it")?;
    }
    Ok(repair)
}

/// The damaged snapshots that a repaired one stands for.
fn originals(repair: &SnapshotsRepair) -> Vec<SnapshotId> {
    repair.made.iter().map(|made| made.original).chain(repair.known.iter().copied()).collect()
}

/// Finds out what is to be done, by doing it without storing anything.
fn find(
    repository: &Repository,
    options: &RepairOptions,
    monitor: &dyn Monitor,
    repair: &mut SnapshotsRepair,
) -> Result<Found, OpsError> {
    let mut found = Found { snapshots: repository.snapshots(monitor)?, ..Found::default() };
    found.snapshots.require_handed_out()?;
    let snapshots = &found.snapshots;
    repair.snapshots = snapshots.all.len() as u64;
    let mut examined = Examined::default();
    for tomb in repository.inventory()?.tombs {
        examined.look(repository, &names::tomb(tomb))?;
    }
    repair.tombs = examined.damaged;
    let standing = |id: SnapshotId| {
        let of = |snapshot: &Snapshot| snapshot.repaired.as_ref().map(|from| from.original);
        snapshots.all.iter().any(|(_, snapshot)| of(snapshot) == Some(id))
    };
    for (id, error) in &snapshots.damaged {
        repair.left.push(Trouble { item: names::snapshot(id.0), message: error.message.clone() });
    }
    let mut readable = Vec::new();
    for id in &snapshots.vanished {
        readable.extend(repository.remembered(*id)?.map(|snapshot| (*id, snapshot)));
    }
    for (id, snapshot) in &snapshots.all {
        // The cache may have what the store has lost.
        match repository.read_slot(*id) {
            Ok(_) => readable.push((*id, snapshot.clone())),
            Err(error) if error.kind == Kind::Corrupt && standing(*id) => repair.known.push(*id),
            Err(error) if error.kind == Kind::Corrupt => {
                found.slots.push((*id, snapshot.clone()));
                repair.made.push(MadeSnapshot {
                    original: *id,
                    id: None,
                    time: snapshot.time,
                    left_out: Vec::new(),
                });
            }
            Err(error) if error.kind == Kind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
    }
    let writer = Writer::begin(repository, true, &SilentMonitor)?;
    let writer = writer.excluding(&repository.missing_packs()?)?;
    let reader = BlobReader::for_a_walk(repository, options.memory_budget);
    let mut rewriter = Rewriter::new(&reader, &writer, monitor)?;
    for (id, snapshot) in readable {
        monitor.current(&id.short());
        let stored_again = rewriter.stored_again;
        let rewritten = rewriter.rewrite(DirectoryRoot::of_snapshot(&snapshot));
        if snapshots.vanished.contains(&id) && !matches!(rewritten, Ok(Rewritten::Lost(_))) {
            repair.put_back.push(id);
        }
        match rewritten {
            Ok(Rewritten::Whole) if rewriter.stored_again == stored_again => continue,
            Ok(Rewritten::Whole) => {}
            Ok(Rewritten::Without(_)) if standing(id) => {
                repair.known.push(id);
                if rewriter.stored_again == stored_again {
                    continue;
                }
            }
            Ok(Rewritten::Without(_)) => repair.made.push(MadeSnapshot {
                original: id,
                id: None,
                time: snapshot.time,
                left_out: rewriter.left_out.clone(),
            }),
            Ok(Rewritten::Lost(error)) => {
                repair.left.push(nothing_left(id, &error));
                continue;
            }
            Err(error) => {
                repair.left.push(left_for_later(id, error)?);
                continue;
            }
        }
        found.damaged.push((id, snapshot));
    }
    repair.blobs_stored_again = rewriter.finish()?;
    if options.forget_originals {
        repair.forgotten = originals(repair);
    }
    Ok(found)
}

fn nothing_left(id: SnapshotId, error: &RepositoryError) -> Trouble {
    let message = format!("nothing of it can be brought back: {error}");
    Trouble { item: names::snapshot(id.0), message }
}

/// What a newer version, or another key, may be able to read is not damage. Other errors stop the repair.
fn left_for_later(id: SnapshotId, error: OpsError) -> Result<Trouble, OpsError> {
    match error {
        OpsError::Repository(error) if matches!(error.kind, Kind::Newer | Kind::WrongKey) => {
            Ok(Trouble {
                item: names::snapshot(id.0),
                message: format!("is left as it is: {error}"),
            })
        }
        error => Err(error),
    }
}

/// Stores again what can be, and makes a snapshot of what is left, as a session; once more when a collector gave it
/// up.
fn mend(
    repository: &Repository,
    options: &RepairOptions,
    id: SnapshotId,
    snapshot: &Snapshot,
    monitor: &dyn Monitor,
    repair: &mut SnapshotsRepair,
) -> Result<(), OpsError> {
    for _ in 0..ATTEMPTS {
        let writer = Writer::begin(repository, false, &SilentMonitor)?;
        let session = writer.session();
        let mended = mend_as(writer, options, id, snapshot, monitor, repair);
        match mended {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            Err(error) => {
                // Nobody is to wait for it; that this fails, too, changes nothing.
                let _ = repository.abort(session);
                return Err(error);
            }
        }
    }
    Err(OpsError::Busy(format!(
        "collectors gave this repair up {ATTEMPTS} times; run it again, and give `prune` more patience"
    )))
}

/// `false`: a collector gave the session up.
fn mend_as(
    writer: Writer<'_>,
    options: &RepairOptions,
    id: SnapshotId,
    snapshot: &Snapshot,
    monitor: &dyn Monitor,
    repair: &mut SnapshotsRepair,
) -> Result<bool, OpsError> {
    let repository = writer.repository();
    let writer = writer.excluding(&repository.missing_packs()?)?;
    let listed = repository.snapshots(monitor)?;
    listed.require_handed_out()?;
    if listed.tombs.contains(&id) || !repository.generations()?.lets_live(id.0) {
        // Forgotten, or let go by a collector, since it was found damaged.
        return Ok(repository.end(writer.session())?);
    }
    let known = listed.all;
    let reader = BlobReader::for_a_walk(repository, options.memory_budget);
    let mut rewriter = Rewriter::new(&reader, &writer, monitor)?;
    let rewritten = rewriter.rewrite(DirectoryRoot::of_snapshot(snapshot))?;
    let left_out = std::mem::take(&mut rewriter.left_out);
    let stored_again = rewriter.finish()?;
    writer.finish()?;
    let slot_is_whole = match repository.read_slot(id) {
        Ok(_) => true,
        Err(error) if is_damage(&error) => false,
        Err(error) => return Err(error.into()),
    };
    let is_known = |(_, other): &(SnapshotId, Snapshot)| {
        other.repaired.as_ref().is_some_and(|from| from.original == id)
    };
    let root = match rewritten {
        // Somebody else has done it meanwhile.
        _ if known.iter().any(is_known) => None,
        Rewritten::Without(root) => Some(root),
        Rewritten::Whole if !slot_is_whole => Some(DirectoryRoot::of_snapshot(snapshot)),
        Rewritten::Whole | Rewritten::Lost(_) => None,
    };
    let Some(root) = root else {
        repair.blobs_stored_again += stored_again;
        return Ok(repository.end(writer.session())?);
    };
    let mut counts = snapshot.counts;
    counts.problems += left_out.len() as u64;
    let mut tags = snapshot.tags.clone();
    if !tags.iter().any(|tag| tag == REPAIRED) {
        tags.push(REPAIRED.to_string());
        tags.sort();
    }
    let made = Snapshot {
        root: root.blob,
        height: root.height,
        time: just_after(snapshot.time),
        tags,
        program: options.program.clone(),
        counts,
        predecessor: known.last().map(|(id, _)| repository.slot_hash(*id)).transpose()?,
        // What lacks something is no copy of what it was copied from: that one may still be whole.
        copied: snapshot.copied.filter(|_| left_out.is_empty()),
        repaired: Some(Repaired { original: id, left_out: recorded(&left_out) }),
        signature: None,
        ..snapshot.clone()
    };
    match writer.commit(made)? {
        Committed::Fenced => Ok(false),
        Committed::Snapshot(new) => {
            repair.blobs_stored_again += stored_again;
            let time = snapshot.time;
            repair.made.push(MadeSnapshot { original: id, id: Some(new), time, left_out });
            Ok(true)
        }
    }
}

/// Right behind the original in the order of snapshots, so that `latest` is the repaired one of the two.
fn just_after(time: Timestamp) -> Timestamp {
    match time.nanoseconds {
        999_999_999 => Timestamp { seconds: time.seconds.saturating_add(1), nanoseconds: 0 },
        nanoseconds => Timestamp { nanoseconds: nanoseconds + 1, ..time },
    }
}

fn recorded(left_out: &[String]) -> String {
    let mut lines: Vec<_> = left_out.iter().take(LINES_RECORDED).cloned().collect();
    if left_out.len() > LINES_RECORDED {
        lines.push(format!("and {} more", left_out.len() - LINES_RECORDED));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::SessionId;

    #[test]
    fn what_a_newer_version_or_another_key_may_read_is_left_and_other_errors_stop() {
        let id = SnapshotId(SessionId { generation: 0, random: [1; 16] });
        let left = |kind| left_for_later(id, RepositoryError::new(kind, "item", "why").into());
        assert!(left(Kind::Newer).unwrap().message.starts_with("is left as it is"));
        assert!(left(Kind::WrongKey).is_ok());
        assert!(left(Kind::Unavailable).is_err() && left(Kind::Corrupt).is_err());
    }

    #[test]
    fn so_many_lines_are_recorded_and_of_more_the_number() {
        let lines = |count: usize| (0..count).map(|line| line.to_string()).collect::<Vec<_>>();
        assert_eq!(recorded(&lines(3)), "0\n1\n2");
        assert_eq!(recorded(&lines(LINES_RECORDED)).lines().last(), Some("999"));
        assert_eq!(recorded(&lines(LINES_RECORDED + 2)).lines().last(), Some("and 2 more"));
    }

    #[test]
    fn a_repaired_snapshot_is_a_nanosecond_behind_its_original() {
        let time = |seconds, nanoseconds| Timestamp { seconds, nanoseconds };
        assert_eq!(just_after(time(5, 7)), time(5, 8));
        assert_eq!(just_after(time(5, 999_999_999)), time(6, 0));
    }
}
