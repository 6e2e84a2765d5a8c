//! The index: every pack is listed, and what cannot be read is out of the way.
//!
//! The packs' own directories are the truth, so all that a damaged or lost index object said can be said again. New index
//! objects are in the store before a damaged one is quarantined.

use std::collections::HashSet;

use rayon::iter::{IntoParallelRefIterator, ParallelIterator};

use super::{Examined, RepairOptions, Trouble};
use crate::id::{IndexId, PackId};
use crate::monitor::{Monitor, Phase};
use crate::ops::OpsError;
use crate::repository::Repository;
use crate::repository::verify::{is_damage, names};

/// Index objects that are read together.
const READ_AT_ONCE: usize = 16;

/// What became of the index.
#[derive(Debug, Default)]
pub struct IndexRepair {
    /// Index objects that cannot be read.
    pub damaged: Vec<Trouble>,
    /// Index objects that a newer version, or another key, may be able to read: left as they are.
    pub left: Vec<Trouble>,
    /// Packs that were in no index object and are now, or would be in a dry run.
    pub packs_listed: u64,
    /// Packs in no index object whose own directories cannot be read.
    pub unreadable: Vec<Trouble>,
    /// Where the damaged index objects were put.
    pub quarantined: Vec<String>,
}

/// Lists every pack that no readable index object lists, and quarantines the index objects that are damaged.
pub fn repair_index(
    repository: &Repository,
    options: &RepairOptions,
    monitor: &dyn Monitor,
) -> Result<IndexRepair, OpsError> {
    monitor.phase(Phase::Repair);
    let session = if options.dry_run { repository.register_reader(monitor) } else { None };
    let repaired = run(repository, options, monitor);
    repository.end_reader(session, monitor);
    repaired
}

fn run(
    repository: &Repository,
    options: &RepairOptions,
    monitor: &dyn Monitor,
) -> Result<IndexRepair, OpsError> {
    let mut repair = IndexRepair::default();
    let mut examined = Examined::default();
    // Packs first, index objects then: a pack that is listed meanwhile is not taken for unlisted.
    let packs = repository.inventory()?.packs;
    let listed = listed_packs(repository, &mut examined)?;
    let unlisted: Vec<_> = packs.into_iter().filter(|(id, _)| !listed.contains(id)).collect();
    drop(listed);
    if monitor.interrupted() {
        return Err(OpsError::Interrupted);
    }
    if options.dry_run {
        for (id, length) in &unlisted {
            match repository.read_pack_directory(*id, *length) {
                Ok(record) if record.directory.has_unknown_encodings() => {}
                Ok(_) => repair.packs_listed += 1,
                Err(error) if is_damage(&error) => repair.unreadable.push(error.into()),
                Err(error) => return Err(error.into()),
            }
        }
    } else {
        if !unlisted.is_empty() {
            let (listed, unreadable) = repository.list_packs(&unlisted)?;
            repair.packs_listed = listed;
            repair.unreadable = unreadable.into_iter().map(Trouble::from).collect();
        }
        repair.quarantined = examined.quarantine(repository)?;
    }
    repair.damaged = examined.damaged;
    repair.left = examined.left;
    Ok(repair)
}

/// The packs that index objects list, as the store has these now: what a cache knows of an object that is damaged since
/// is of no use to others.
fn listed_packs(
    repository: &Repository,
    examined: &mut Examined,
) -> Result<HashSet<PackId>, OpsError> {
    let indexes = repository.listed_indexes()?;
    let mut listed = HashSet::new();
    for batch in indexes.chunks(READ_AT_ONCE) {
        let read: Vec<(IndexId, _)> =
            batch.par_iter().map(|id| (*id, repository.read_index(*id))).collect();
        for (id, index) in read {
            match index {
                Ok(index) => listed.extend(index.packs.iter().map(|pack| pack.id)),
                // Once more, so that nothing is quarantined for an error on the way, or because it is gone.
                Err(error) if is_damage(&error) => examined.look(repository, &names::index(id))?,
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(listed)
}
