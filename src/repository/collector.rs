//! What a collector publishes, whom it waits for, and what it deletes. Deciding what is garbage is not done here.
//!
//! The order of the calls is the protocol's (`docs/design/collection.md`): condemn, list the sessions that may count on
//! what is condemned, wait for them or fence them, look again at what is needed, sweep, delete. Every step may
//! be repeated, by anybody.

use std::collections::{BTreeSet, HashMap, HashSet};

use rayon::iter::{IntoParallelRefIterator, ParallelIterator};

use super::Repository;
use super::error::{Kind, RepositoryError, Result};
use super::generations::{Generations, PublishedSweep};
use super::reserve::Spender;
use super::snapshots::Snapshots;
use super::verify::is_damage;
use crate::format::generation::{Condemned, Publisher, Sweep};
use crate::format::header::ObjectKind;
use crate::format::snapshot::Decision;
use crate::id::{PackId, SessionId, SnapshotId};
use crate::store::{Created, ObjectInfo, layout};
use crate::units::Timestamp;

/// Sweeps that are kept, the newest among them, so that clients that were away can follow them one by one.
const KEPT_SWEEPS: usize = 16;

/// A session that holds a collector up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Its name.
    pub session: SessionId,
    /// How many objects it has made so far.
    pub objects: u64,
    /// Since when this client has seen it at that number, in an earlier run; `None`: it has not.
    pub idle_since: Option<Timestamp>,
}

/// Sessions with how many objects each had made, and since when it was seen at that number.
pub type SeenIdle = HashMap<SessionId, (u64, Timestamp)>;

/// What clearing away has removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cleared {
    /// Registrations of sessions that have ended.
    pub sessions: u64,
    /// Slots of sessions that ended without a snapshot.
    pub aborts: u64,
    /// Forgotten snapshots.
    pub snapshots: u64,
}

impl Repository {
    fn publisher(&self) -> Publisher {
        Publisher {
            host: self.environment.host.clone(),
            user: self.environment.user.clone(),
            time: self.environment.clock.now(),
        }
    }

    /// Begins the generation after the newest, which must be swept. `None`: another collector was first.
    pub fn condemn(&self, generations: &Generations, packs: Vec<PackId>) -> Result<Option<u32>> {
        // One generation at a time: what an open one condemns would be counted on by who sees only the next.
        if generations.newest != generations.swept() {
            return Ok(None);
        }
        let generation = generations.newest.checked_add(1).ok_or_else(|| {
            RepositoryError::new(Kind::Invalid, layout::GC, "has used up all generations")
        })?;
        match self.publish_condemned(generation, packs)? {
            Created::New => Ok(Some(generation)),
            Created::AlreadyThere => Ok(None),
        }
    }

    fn publish_condemned(&self, generation: u32, packs: Vec<PackId>) -> Result<Created> {
        let condemned = Condemned { packs, publisher: self.publisher() };
        let name = layout::condemned(generation);
        let object = self.seal(ObjectKind::Condemned, &name, condemned.encode())?;
        self.create_at_need(&name, object, Some(Spender::Collecting))
    }

    /// Puts a list of no packs where one that could not be read was: its generation is over, and whoever asks by
    /// name whether it has begun finds it.
    pub fn condemn_nothing(&self, generation: u32) -> Result<()> {
        self.publish_condemned(generation, Vec::new()).map(drop)
    }

    /// The sessions that may count on what `generation` condemns and have not decided. To be asked after the
    /// condemned list was published: whoever registers later sees it. `seen` is what [`Repository::seen_idle`] said
    /// when this run began.
    pub fn holders(&self, generation: u32, seen: &SeenIdle) -> Result<Vec<Holder>> {
        let now = self.environment.clock.now();
        let known = self.cache.idle()?;
        let (mut holders, mut idle) = (Vec::new(), Vec::new());
        for session in self.undecided_sessions()? {
            let objects = self.store.list(&layout::session_packs(session))?.len() as u64;
            let since = |seen: &SeenIdle| match seen.get(&session) {
                Some((before, since)) if *before == objects => Some(*since),
                _ => None,
            };
            idle.push((session, objects, since(&known).unwrap_or(now)));
            if session.generation < generation {
                holders.push(Holder { session, objects, idle_since: since(seen) });
            }
        }
        self.cache.keep_idle(&idle)?;
        Ok(holders)
    }

    /// For whoever has listed `snapshots` when every session before `generation` had decided: `undecided` are those of
    /// which the listing shows no slot. One of them with a snapshot in its slot proves that the listing is not whole: who
    /// registers as late as that begins anew. `false`: there is one that has not decided after all, or that committed
    /// although it was given up (`aborted`), as it may without create-if-absent: then its snapshot counts.
    pub fn require_slots(
        &self,
        generation: u32,
        undecided: &BTreeSet<SessionId>,
        aborted: &[SessionId],
    ) -> Result<bool> {
        if !self.store.is_conditional() {
            for session in aborted.iter().filter(|session| session.generation < generation) {
                if self.store.size(&layout::snapshot(*session))?.is_some() {
                    return Ok(false);
                }
            }
        }
        let mut all_decided = true;
        for session in undecided.iter().filter(|session| session.generation < generation) {
            match self.read_slot(SnapshotId(*session)) {
                // Registered after the list was published, saw it, and decided since the slots were listed.
                Ok(Decision::Abort) => {}
                Err(error) if error.kind == Kind::NotFound => all_decided = false,
                Err(error) if !is_damage(&error) => return Err(error),
                Ok(Decision::Snapshot(_)) | Err(_) => {
                    if self.generations()?.swept() >= generation {
                        // Another collector went on, and has cleared away what told of the session.
                        return Ok(false);
                    }
                    return Err(RepositoryError::new(
                        Kind::Unavailable,
                        layout::snapshot(*session),
                        "is there, and the store's listing leaves it out: what is listed is not everything, \
                         and nothing is collected. Run `aumbry prune` again when the store's listings are whole",
                    ));
                }
            }
        }
        Ok(all_decided)
    }

    /// How many objects each session that had not decided had made when this client last looked, and since when it had
    /// seen it at that number. To be asked once, at the beginning of a run: what one run sees twice says little.
    pub fn seen_idle(&self) -> Result<SeenIdle> {
        self.cache.idle()
    }

    /// The packs that this session has made, as far as they are there.
    pub fn packs_of(&self, session: SessionId) -> Result<Vec<PackId>> {
        let listed = self.store.list(&layout::session_packs(session))?;
        Ok(listed.iter().filter_map(|object| layout::parse_pack(&object.name)).collect())
    }

    /// Whether no session that may count on what `generation` condemns is undecided.
    pub fn is_decided(&self, generation: u32) -> Result<bool> {
        let undecided = self.undecided_sessions()?;
        Ok(undecided.iter().all(|session| session.generation >= generation))
    }

    /// Every snapshot that the last sweep let live must be listed or forgotten: else the listing is not whole, and
    /// what it lacks would be taken for garbage.
    pub fn require_checkpoint(
        &self,
        generations: &Generations,
        snapshots: &Snapshots,
    ) -> Result<()> {
        generations.require_readable()?;
        let incomplete = |id: SnapshotId, why: &str, first: &str| {
            Err(RepositoryError::new(
                Kind::Corrupt,
                layout::snapshot(id.0),
                format!(
                    "{why}, so what is listed is not everything, and nothing is collected. {first} the \
                     object back from a copy, or give the snapshot up with `aumbry forget {}`",
                    id.short()
                ),
            ))
        };
        if let Some((id, error)) = snapshots.damaged.first() {
            let elsewhere = match error.kind {
                Kind::Newer => "Collect with a newer version of Aumbry",
                Kind::WrongKey => "Collect with a key that has the newest keys (`aumbry key list`)",
                Kind::Corrupt | Kind::NotFound => {
                    let why = format!("cannot be read ({})", error.message);
                    return incomplete(*id, &why, "Bring");
                }
                _ => return Err(error.clone()),
            };
            return Err(RepositoryError {
                message: format!(
                    "{}. It may be a good snapshot, and what it needs is unknown, so nothing is \
                     collected. {elsewhere}",
                    error.message
                ),
                ..error.clone()
            });
        }
        let late = "If the store's listings may be late, try again later; else bring";
        if let Some(id) = snapshots.vanished.first() {
            return incomplete(*id, "was here before, was not forgotten, and is not listed", late);
        }
        let Some(last) = &generations.last else { return Ok(()) };
        let listed: HashSet<SnapshotId> = snapshots
            .all
            .iter()
            .map(|(id, _)| *id)
            .chain(snapshots.tombs.iter().copied())
            .collect();
        match last.sweep.live.iter().find(|(id, _)| !listed.contains(id)) {
            None => Ok(()),
            Some((id, _)) => incomplete(
                *id,
                "lives according to the last sweep, was not forgotten, and is not listed",
                late,
            ),
        }
    }

    /// Decides what `generation` drops for good. All sessions before it have decided, and nothing that a live
    /// snapshot needs is only in `packs`. Returns the sweep that stands: another collector's, if it was first.
    pub fn sweep(
        &self,
        generation: u32,
        previous: Option<&PublishedSweep>,
        packs: Vec<PackId>,
        live: Vec<(SnapshotId, Option<Timestamp>)>,
    ) -> Result<PublishedSweep> {
        self.publish_sweep(generation, previous.map(|previous| previous.hash), packs, live)
    }

    /// Ends `generation` sparing everything that it condemned: for when what collectors published cannot be read.
    /// Where the sweep before is what cannot be read, this one names none, and clients begin anew with it: packs
    /// that the other dropped may still be there, and count again.
    pub fn spare_all(
        &self,
        generation: u32,
        generations: &Generations,
        live: Vec<(SnapshotId, Option<Timestamp>)>,
    ) -> Result<PublishedSweep> {
        let previous = generations.last.as_ref().map(|last| last.hash);
        self.publish_sweep(generation, previous, Vec::new(), live)
    }

    fn publish_sweep(
        &self,
        generation: u32,
        previous: Option<[u8; 32]>,
        packs: Vec<PackId>,
        live: Vec<(SnapshotId, Option<Timestamp>)>,
    ) -> Result<PublishedSweep> {
        let sweep = Sweep { packs, live, previous, publisher: self.publisher() };
        let name = layout::sweep(generation);
        let object = self.seal(ObjectKind::Sweep, &name, sweep.encode())?;
        self.create_at_need(&name, object, Some(Spender::Collecting))?;
        self.read_sweep(generation)
    }

    /// Deletes what the newest sweep dropped, as far as it is there. Returns how many packs and bytes that were.
    ///
    /// Nothing is deleted when a later generation has begun. Whoever began it had deleted these packs before; and a
    /// collector that slept through many generations may have published again a sweep that had been cleared away,
    /// of which nothing must come.
    pub fn delete_swept(&self, published: &PublishedSweep) -> Result<(u64, u64)> {
        if self.newest_generation()? != published.generation {
            return Ok((0, 0));
        }
        let sweep = &published.sweep;
        let swept: HashSet<PackId> = sweep.packs.iter().copied().collect();
        let sessions: BTreeSet<SessionId> = sweep.packs.iter().map(|pack| pack.session).collect();
        // One listing a session where there are few, so that nothing is asked about one by one.
        let mut listed = Vec::new();
        if sessions.len() <= 32 {
            for session in sessions {
                listed.extend(self.store.list(&layout::session_packs(session))?);
            }
        } else {
            listed = self.store.list(layout::PACKS)?;
        }
        let present: Vec<_> = listed
            .into_iter()
            .filter(|object| {
                layout::parse_pack(&object.name).is_some_and(|pack| swept.contains(&pack))
            })
            .collect();
        let delete = |object: &ObjectInfo| -> Result<(u64, u64)> {
            let is_gone = self.delete_unless_locked(&object.name)?;
            Ok((u64::from(is_gone), if is_gone { object.size } else { 0 }))
        };
        let add = |one: (u64, u64), more: (u64, u64)| Ok((one.0 + more.0, one.1 + more.1));
        present.par_iter().map(delete).try_reduce(|| (0, 0), add)
    }

    /// Removes damage records of packs that are gone, and ledgers that a later one takes the place of.
    fn clear_health(&self) -> Result<()> {
        let recorded = self.store.list(layout::DAMAGED)?;
        let recorded = recorded.iter().filter_map(|object| layout::parse_damaged(&object.name));
        for pack in recorded {
            // One by one: there are few, and a listing of all packs may cost more.
            if self.store.size(&layout::pack(pack))?.is_none() {
                self.store.delete(&layout::damaged(pack))?;
            }
        }
        let listed = self.store.list(layout::LEDGER)?;
        let ledgers: Vec<_> =
            listed.iter().filter_map(|object| layout::parse_ledger(&object.name)).collect();
        let mut superseded = BTreeSet::new();
        for session in &ledgers {
            match self.read_ledger(*session) {
                Ok(ledger) => superseded.extend(ledger.superseded),
                Err(error) if is_damage(&error) => {}
                Err(error) => return Err(error),
            }
        }
        for session in ledgers.iter().filter(|session| superseded.contains(session)) {
            self.store.delete(&layout::ledger(*session))?;
        }
        Ok(())
    }

    /// Removes what probes left behind that could not delete. Not of the last day: one may be under way, and would
    /// take the store for one that forgets.
    fn clear_probes(&self) -> Result<()> {
        if !self.store.is_unproven() {
            return Ok(());
        }
        let before = self.environment.clock.now().seconds - 24 * 3600;
        for object in self.store.list(layout::PROBE)? {
            if object.modified.is_some_and(|modified| modified.seconds < before) {
                self.store.delete(&object.name)?;
            }
        }
        Ok(())
    }

    /// Where an ABORT stands.
    fn abort_name(&self, session: SessionId) -> String {
        match self.store.is_conditional() {
            true => layout::snapshot(session),
            false => layout::abort(session),
        }
    }

    /// Deletes packs that are there although they were swept: from a request that took effect late. Nobody counts on
    /// them, and who has followed the sweeps does not even see them. Only as far back as the sweeps are kept: a client
    /// that has begun since knows of no older ones, and may count on such a pack.
    ///
    /// Returns the oldest sweep of which a pack is still there, because its lock has not ended: as long as it is, it must
    /// be known that it was swept.
    fn clear_late_packs(&self, last: &PublishedSweep) -> Result<Option<u32>> {
        let chain = self.chain(last, 1)?;
        let swept: HashMap<PackId, u32> = chain
            .iter()
            .flat_map(|published| {
                published.sweep.packs.iter().map(|pack| (*pack, published.generation))
            })
            .collect();
        let mut oldest = None;
        for object in self.store.list(layout::PACKS)? {
            let pack = layout::parse_pack(&object.name);
            let Some(generation) = pack.and_then(|pack| swept.get(&pack)) else { continue };
            if !self.delete_unless_locked(&object.name)? {
                oldest = Some(oldest.map_or(*generation, |oldest: u32| oldest.min(*generation)));
            }
        }
        Ok(oldest)
    }

    /// Removes what has become meaningless: registrations of sessions that have decided, tombs that were undone,
    /// ABORTs and forgotten snapshots from before the last sweep, condemned lists and sweeps that are
    /// long done. `snapshots` was listed after `generations`.
    pub fn clear_away(&self, generations: &Generations, snapshots: &Snapshots) -> Result<Cleared> {
        let mut cleared = Cleared::default();
        let registered = self.store.list(layout::SESSIONS)?;
        let decided = self.decided_sessions()?;
        let aborted: HashSet<SessionId> = snapshots.aborted.iter().copied().collect();
        // Until a sweep lists a snapshot, its registration is the one other thing that tells of it, should a listing
        // leave it out.
        let is_over = |session: &SessionId| {
            decided.contains(session)
                && (session.generation < generations.swept() || aborted.contains(session))
        };
        for object in registered {
            // The registration before the ABORT: the other way round it would seem undecided again.
            if layout::parse_session(&object.name).is_some_and(|session| is_over(&session)) {
                self.store.delete(&object.name)?;
                cleared.sessions += 1;
            }
        }
        // A tomb that is undone: its undelete was stopped, or it came late. The mark stays, and tells that its number was
        // used.
        let below_tombs: BTreeSet<&str> =
            snapshots.tomb_objects.iter().map(|(_, name)| name.as_str()).collect();
        for tomb in below_tombs.iter().filter_map(|name| layout::parse_undone(name)) {
            let name = layout::tomb(tomb);
            if below_tombs.contains(name.as_str()) {
                self.store.delete(&name)?;
            }
        }
        let Some(last) = &generations.last else { return Ok(cleared) };
        for session in &snapshots.aborted {
            if session.generation < last.generation {
                let is_gone = self.delete_unless_locked(&self.abort_name(*session))?;
                cleared.aborts += u64::from(is_gone);
            }
        }
        let mut removed: HashSet<SnapshotId> = HashSet::new();
        for id in &snapshots.swept {
            // While it is there, the sweep hides it.
            if !self.delete_unless_locked(&layout::snapshot(id.0))? {
                continue;
            }
            removed.insert(*id);
            if !self.store.is_conditional() {
                self.delete_unless_locked(&layout::confirmed(id.0))?;
                self.store.delete(&layout::abort(id.0))?;
            }
            cleared.snapshots += 1;
        }
        // Tombs, and marks of those that were undone, after the snapshot; also where the snapshot went in an attempt
        // that was interrupted, or a tomb came late.
        let over = snapshots.tomb_objects.iter().filter(|(id, _)| !generations.lets_live(id.0));
        for (id, name) in over {
            // Not while the snapshot is there: should the sweep be lost, nothing else says that it was forgotten.
            if removed.contains(id) || self.store.size(&layout::snapshot(id.0))?.is_none() {
                self.store.delete(name)?;
            }
        }
        self.clear_health()?;
        self.clear_probes()?;
        let oldest_needed = self.clear_late_packs(last)?.unwrap_or(u32::MAX);
        // The packs of older sweeps are gone: no generation begins before those of the last one are, or are locked.
        let kept = last.generation.saturating_sub(KEPT_SWEEPS as u32 - 1).min(oldest_needed);
        for generation in generations.sweeps.range(..kept) {
            // Upwards: a chain has no gap.
            if !self.delete_unless_locked(&layout::sweep(*generation))? {
                return Ok(cleared);
            }
        }
        // No sooner than its sweep: it is asked for by name.
        for generation in generations.condemned.range(..kept) {
            self.store.delete(&layout::condemned(*generation))?;
        }
        Ok(cleared)
    }
}
