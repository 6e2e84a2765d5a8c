//! Generations: what collectors published and nobody can read any more holds up every writer and collector.
//!
//! Nothing that is lost here has to be guessed: a generation may always end by sparing all that it condemned. So the open
//! one is ended, or a new one with nothing in it, as the protocol has it (`docs/design/collection.md`): the
//! sessions before it are given up and commit again, what lives is listed, the sweep drops nothing.
//! Then nobody needs the damaged objects, and they are quarantined.
//!
//! - A condemned list that cannot be read needs no consent. A collector that still knows its content finds the
//!   generation ended and deletes nothing.
//! - The newest sweep is another matter: a collector that has read it may be deleting its packs at this moment, and
//!   nobody else knows which. A writer that met one of them before it went would count on it. So somebody has
//!   to say that no collector runs. What remains then: packs that it had not deleted yet stay (a later prune finds them),
//!   and a snapshot that a writer committed after it had been given up, and never reported, may seem alive.
//! - What lives is what the store lists, what cannot be read, and what this client has seen there: to spare too much costs
//!   space, and a later prune says what is missing. Before this is run against a store whose listings may be
//!   stale or short, wait until they are whole: a snapshot that is neither listed nor known here counts as swept.

use super::{Examined, RepairOptions, Trouble};
use crate::format::snapshot::Decision;
use crate::id::SnapshotId;
use crate::monitor::{Monitor, Phase};
use crate::ops::OpsError;
use crate::repository::Repository;
use crate::repository::collector::SeenIdle;
use crate::repository::error::Kind;
use crate::repository::generations::Generations;
use crate::repository::verify::{is_damage, names};
use crate::units::Timestamp;

/// How often sessions are given up before this is left to another run: between two looks, new ones may come.
const ATTEMPTS: usize = 16;

/// What became of the generations.
#[derive(Debug, Default)]
pub struct GenerationsRepair {
    /// Objects of collection that cannot be read.
    pub damaged: Vec<Trouble>,
    /// Objects that a newer version, or another key, may be able to read: left as they are.
    pub left: Vec<Trouble>,
    /// Nobody can write or collect because of that.
    pub blocked: bool,
    /// Somebody has to say that no collector runs before it can be mended; why.
    pub needs_consent: Option<String>,
    /// The generation that was ended, dropping nothing, or would be in a dry run.
    pub ended: Option<u32>,
    /// Sessions that were given up for it.
    pub fenced: u64,
    /// Where the damaged objects were put.
    pub quarantined: Vec<String>,
}

/// Ends a generation of which something cannot be read, and quarantines what is damaged.
pub fn repair_generations(
    repository: &Repository,
    options: &RepairOptions,
    monitor: &dyn Monitor,
) -> Result<GenerationsRepair, OpsError> {
    monitor.phase(Phase::Repair);
    let mut repair = GenerationsRepair::default();
    let mut examined = Examined::default();
    for (_, name) in repository.inventory()?.generations {
        examined.look(repository, &name)?;
    }
    let generations = repository.generations()?;
    let is_damaged = |name: String| examined.damaged.iter().any(|trouble| trouble.item == name);
    let swept = generations.swept();
    let sweep_is_damaged = swept > 0 && is_damaged(names::sweep(swept));
    let open = (generations.newest > swept).then_some(generations.newest);
    let open_is_damaged = open.is_some_and(|open| is_damaged(names::condemned(open)));
    repair.blocked = sweep_is_damaged || open_is_damaged;
    if repair.blocked {
        repair.ended = Some(open.unwrap_or(generations.newest.saturating_add(1)));
        // With a copy of the sweep in the local cache, nothing is unknown.
        if sweep_is_damaged && generations.last.is_none() {
            repair.needs_consent = Some(format!(
                "{} cannot be read: nobody knows which packs a collector may be deleting just now, so \
                 no collector (`aumbry prune`) may run on any machine until this is done",
                names::sweep(swept)
            ));
        }
    }
    if let Some(error) = generations.trouble.as_ref().filter(|error| error.kind != Kind::Corrupt) {
        // A newer version is at work here.
        return Err(error.clone().into());
    }
    if !options.dry_run {
        if let (Some(concern), false) = (&repair.needs_consent, options.no_collector_runs) {
            return Err(OpsError::Invalid(concern.clone()));
        }
        if let Some(generation) = repair.ended {
            repository.require_maintainer(false)?;
            end(repository, &generations, generation, monitor, &mut repair)?;
        }
        repair.quarantined = examined.quarantine(repository)?;
        for generation in &generations.condemned {
            if is_damaged(names::condemned(*generation)) {
                repository.condemn_nothing(*generation)?;
            }
        }
        for generation in &generations.sweeps {
            if is_damaged(names::sweep(*generation)) {
                repository.put_back_sweep(*generation)?;
            }
        }
    }
    repair.damaged = examined.damaged;
    repair.left = examined.left;
    Ok(repair)
}

/// Ends `generation`, which is begun if it is not open, and drops nothing.
fn end(
    repository: &Repository,
    generations: &Generations,
    generation: u32,
    monitor: &dyn Monitor,
    repair: &mut GenerationsRepair,
) -> Result<(), OpsError> {
    if generation > generations.newest {
        // What the sweep before drops is gone before another generation begins.
        if let Some(last) = &generations.last {
            repository.delete_swept(last)?;
        }
        // Somebody else may be first: then it is theirs that is ended.
        repository.condemn(generations, Vec::new())?;
    }
    for _ in 0..ATTEMPTS {
        for holder in repository.holders(generation, &SeenIdle::new())? {
            repair.fenced += u64::from(repository.abort_at_need(holder.session)?);
        }
        if !repository.is_decided(generation)? {
            continue;
        }
        let live = live(repository, generations, generation, monitor)?;
        repository.spare_all(generation, generations, live)?;
        return Ok(());
    }
    Err(OpsError::Busy("sessions begin faster than they can be given up; run it again".into()))
}

/// The snapshots of sessions before `generation`, with the times when the store first showed them. Those that are
/// forgotten are spared like all else, as far as the last sweep is known to have spared them.
fn live(
    repository: &Repository,
    generations: &Generations,
    generation: u32,
    monitor: &dyn Monitor,
) -> Result<Vec<(SnapshotId, Option<Timestamp>)>, OpsError> {
    let registered = repository.registered_sessions()?;
    let snapshots = repository.snapshots(monitor)?;
    // What is damaged lives, as nobody knows whether it is a snapshot.
    snapshots.require_handed_out()?;
    // What the listing leaves out of the sessions that are registered is asked for by name.
    let decided = snapshots.decided();
    let unlisted = registered.iter().filter(|session| !decided.contains(session));
    let candidates = unlisted.chain(&snapshots.aborted);
    let mut left_out = Vec::new();
    for session in candidates.filter(|session| generations.lets_live(**session)) {
        let id = SnapshotId(*session);
        match repository.read_slot(id) {
            Ok(Decision::Abort) => {}
            Err(error) if error.kind == Kind::NotFound => {}
            Err(error) if !is_damage(&error) => return Err(error.into()),
            Ok(Decision::Snapshot(_)) | Err(_) => left_out.push(id),
        }
    }
    let ids = snapshots.all.iter().map(|(id, _)| *id).chain(left_out);
    let unreadable = snapshots.damaged.iter().map(|(id, _)| *id);
    let ids = ids.chain(unreadable).chain(snapshots.vanished.iter().copied());
    let is_known = generations.last.is_some() || generations.swept() == 0;
    let forgotten = snapshots.tombs.iter().copied();
    let ids = ids.chain(forgotten.filter(|id| is_known && generations.lets_live(id.0)));
    // What was let live, and is not listed now, may be so for the moment only.
    let before = generations.last.iter().flat_map(|last| &last.sweep.live);
    let ids = ids.chain(before.map(|(id, _)| *id));
    let mut live: Vec<_> = ids
        .filter(|id| id.0.generation < generation)
        .map(|id| (id, snapshots.observed.get(&id).copied()))
        .collect();
    live.sort_unstable();
    live.dedup_by_key(|(id, _)| *id);
    Ok(live)
}
