//! Everything but index objects and packs: config, key slots, sessions, tombs, slots, what collectors published.

use std::collections::HashSet;

use parking_lot::Mutex;
use rayon::iter::{IndexedParallelIterator, IntoParallelIterator, ParallelIterator};

use super::still_kept;
use crate::format::header::ObjectKind;
use crate::id::{KeySlotId, SessionId, SnapshotId, TombId};
use crate::monitor::SilentMonitor;
use crate::ops::OpsError;
use crate::ops::findings::{Finding, Findings};
use crate::repository::Repository;
use crate::repository::error::{Kind, RepositoryError};
use crate::repository::snapshots::Snapshots;
use crate::repository::verify::{Inventory, is_damage, names as objects};

/// An object that is read whole and proven by itself.
enum SmallObject<'i> {
    Config,
    KeySlot(KeySlotId),
    KeyUpdate(&'i str),
    Session(SessionId),
    Tomb(TombId),
    /// What a collector published, or a mark.
    Sealed(ObjectKind, &'i str),
    Slot(SessionId),
}

fn small_objects(inventory: &Inventory) -> Vec<SmallObject<'_>> {
    let mut all = vec![SmallObject::Config];
    all.extend(inventory.keys.iter().map(|id| SmallObject::KeySlot(*id)));
    all.extend(inventory.key_updates.iter().map(|name| SmallObject::KeyUpdate(name)));
    all.extend(inventory.sessions.iter().map(|id| SmallObject::Session(*id)));
    all.extend(inventory.tombs.iter().map(|id| SmallObject::Tomb(*id)));
    let sealed = inventory.generations.iter().chain(&inventory.marks);
    all.extend(sealed.map(|(kind, name)| SmallObject::Sealed(*kind, name)));
    all.extend(inventory.slots.iter().map(|session| SmallObject::Slot(*session)));
    all
}

/// Everything but index objects and packs, read from the store whatever the cache has of it.
pub fn prove_small_objects(
    repository: &Repository,
    inventory: &Inventory,
    snapshots: &Snapshots,
    findings: &Findings,
) -> Result<(), OpsError> {
    let object = |error: RepositoryError| -> Result<(), OpsError> {
        if !is_damage(&error) {
            return Err(error.into());
        }
        findings.add(Finding::of_object(error.item, error.message, Vec::new()));
        Ok(())
    };
    // What is gone since it was listed was removed by a collector.
    let passing = |error: RepositoryError| match error.kind {
        Kind::NotFound => Ok(()),
        _ => object(error),
    };
    if !inventory.keys.contains(&repository.slot()) {
        let message = "is the key slot that opened the repository, and is gone".to_string();
        findings.add(Finding::of_object(objects::key(repository.slot()), message, Vec::new()));
    }
    let followed: HashSet<_> = snapshots.all.iter().map(|(id, _)| *id).collect();
    let gone = Mutex::new(Vec::new());
    let prove_slot = |session: SessionId| {
        let id = SnapshotId(session);
        match repository.read_slot(id) {
            Ok(_) => Ok(()),
            Err(error) if error.kind == Kind::NotFound => {
                if followed.contains(&id) {
                    gone.lock().push((id, error));
                }
                Ok(())
            }
            Err(error) if is_damage(&error) => {
                findings.add(Finding::of_snapshot(id, error.item, error.message));
                Ok(())
            }
            Err(error) => Err(OpsError::from(error)),
        }
    };
    // All of them together: each may take a round trip.
    small_objects(inventory).into_par_iter().with_max_len(1).try_for_each(|small| match small {
        SmallObject::Config => repository.prove_config().or_else(object),
        SmallObject::KeySlot(id) => repository.prove_key_slot(id).or_else(passing),
        SmallObject::KeyUpdate(name) => repository.prove_key_update(name).or_else(passing),
        SmallObject::Session(id) => repository.session(id).map(drop).or_else(passing),
        SmallObject::Tomb(id) => repository.prove_tomb(id).or_else(passing),
        SmallObject::Sealed(kind, name) => repository.prove_sealed(kind, name).or_else(passing),
        SmallObject::Slot(session) => prove_slot(session),
    })?;
    let gone = gone.into_inner();
    if !gone.is_empty() {
        let kept: HashSet<_> = still_kept(repository, snapshots, &SilentMonitor)?
            .into_iter()
            .map(|(id, _)| id)
            .collect();
        for (id, error) in gone.into_iter().filter(|(id, _)| kept.contains(id)) {
            findings.add(Finding::of_snapshot(id, error.item, error.message));
        }
    }
    prove_predecessors(repository, inventory, snapshots, findings)?;
    for id in &snapshots.vanished {
        let message = "was in this repository and is gone, and nobody has forgotten it: the store \
                       lost it, or shows an older state";
        findings.add(Finding::of_snapshot(*id, objects::snapshot(id.0), message.into()));
    }
    Ok(())
}

/// Each snapshot names the one that was the newest before it. Where nothing was ever forgotten, and every slot
/// can be read, that one must be there.
fn prove_predecessors(
    repository: &Repository,
    inventory: &Inventory,
    snapshots: &Snapshots,
    findings: &Findings,
) -> Result<(), OpsError> {
    let nothing_forgotten = inventory.tombs.is_empty() && inventory.generations.is_empty();
    if !nothing_forgotten || !snapshots.damaged.is_empty() {
        return Ok(());
    }
    let hashes = repository.slot_hashes()?;
    for (id, snapshot) in &snapshots.all {
        if snapshot.predecessor.is_some_and(|hash| !hashes.contains(&hash)) {
            let message = "was made after a snapshot that is gone, and nothing was ever forgotten: \
                           the store lost it, or shows an older state";
            let item = objects::snapshot(id.0);
            findings.add(Finding::of_object(item, message.into(), Vec::new()));
        }
    }
    Ok(())
}
