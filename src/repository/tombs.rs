//! Forgets snapshots and brings them back.
//!
//! A snapshot is forgotten by a tomb, and brought back by a mark beside it that undoes it. Tombs are numbered, and no
//! number is used twice: so an order that the store carries out late, or once more, decides nothing that was decided
//! anew since (`docs/design/collection.md`).

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::Repository;
use super::error::{Kind, RepositoryError, Result};
use super::generations::Generations;
use super::reserve::Spender;
use super::verify::is_damage;
use crate::format::header::ObjectKind;
use crate::format::session::Purpose;
use crate::format::snapshot::{Decision, Snapshot};
use crate::format::tomb::Tomb;
use crate::id::{SessionId, SnapshotId, TombId};
use crate::monitor::Monitor;
use crate::store::layout;

/// A snapshot that was forgotten and can come back.
#[derive(Debug)]
pub struct Forgotten {
    /// Its name.
    pub id: SnapshotId,
    /// What it is; an error where its slot cannot be read.
    pub snapshot: Result<Snapshot>,
    /// Who forgot it, when and why; `None` where the tomb does not say so in words that are understood.
    pub tomb: Option<Tomb>,
}

/// Whether a forgotten snapshot is back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Undeleted {
    /// It is.
    Back,
    /// It is shown again, and an unfinished collection may have looked before that was so: certain when that has
    /// ended.
    Pending,
}

impl Undeleted {
    /// What a session has reached that is over: `in_time` where no collector gave it up, and the generations since.
    pub(super) fn by(session: SessionId, in_time: bool, generations: &Generations) -> Self {
        match &generations.open {
            // A generation after this session has waited for it, unless it gave it up.
            Some((open, _)) if *open <= session.generation || !in_time => Undeleted::Pending,
            _ => Undeleted::Back,
        }
    }
}

/// What stands below `tombs/` of one snapshot, by its names alone.
#[derive(Debug, Default)]
pub(super) struct TombNumbers {
    made: BTreeSet<u32>,
    undone: BTreeSet<u32>,
}

impl TombNumbers {
    /// The tombs that count if they open.
    fn standing(&self) -> impl Iterator<Item = u32> {
        self.made.difference(&self.undone).copied()
    }

    /// The first number that was never used. Whoever saw no tomb standing at any time before, and then gave an order to
    /// forget that has not arrived, gave it this number or one that is undone.
    fn next(&self) -> u32 {
        let is_free = |number: &u32| !self.made.contains(number) && !self.undone.contains(number);
        (1..u32::MAX).find(is_free).unwrap_or(u32::MAX)
    }

    /// The objects that this was read from.
    pub(super) fn names(&self, id: SnapshotId) -> impl Iterator<Item = (SnapshotId, String)> {
        let made = self.made.iter().map(move |number| layout::tomb(tomb_id(id, *number)));
        let undone = self.undone.iter().map(move |number| layout::undone(tomb_id(id, *number)));
        made.chain(undone).map(move |name| (id, name))
    }
}

/// What a listing of `tombs/` shows, and for each snapshot that is forgotten the payload of a tomb.
pub(super) struct StandingTombs {
    pub numbers: BTreeMap<SnapshotId, TombNumbers>,
    pub tombs: HashMap<SnapshotId, Vec<u8>>,
}

fn tomb_id(id: SnapshotId, number: u32) -> TombId {
    TombId { session: id.0, number }
}

impl Repository {
    /// Which tombs there are, and which of them were undone. A mark counts by its name alone: who could plant one could
    /// as well take the tomb away, and if a mark is damaged, it is safer that the snapshot stays.
    pub(super) fn tomb_numbers(&self) -> Result<BTreeMap<SnapshotId, TombNumbers>> {
        let mut numbers = BTreeMap::<SnapshotId, TombNumbers>::new();
        for object in self.store.list(layout::TOMBS)? {
            if let Some(tomb) = layout::parse_tomb(&object.name) {
                numbers.entry(SnapshotId(tomb.session)).or_default().made.insert(tomb.number);
            } else if let Some(tomb) = layout::parse_undone(&object.name) {
                numbers.entry(SnapshotId(tomb.session)).or_default().undone.insert(tomb.number);
            }
        }
        Ok(numbers)
    }

    /// What is in `tombs/`, read.
    pub(super) fn standing_tombs(&self, monitor: &dyn Monitor) -> Result<StandingTombs> {
        let numbers = self.tomb_numbers()?;
        Ok(StandingTombs { tombs: self.tombs(&numbers, monitor)?, numbers })
    }

    /// For each snapshot that is forgotten, the payload of a tomb.
    pub(super) fn tombs(
        &self,
        numbers: &BTreeMap<SnapshotId, TombNumbers>,
        monitor: &dyn Monitor,
    ) -> Result<HashMap<SnapshotId, Vec<u8>>> {
        let mut tombs = HashMap::new();
        for (id, numbers) in numbers {
            for number in numbers.standing() {
                match self.read_tomb(tomb_id(*id, number)) {
                    // A listing that leaves the mark out decides nothing.
                    Ok(_) if self.is_undone(tomb_id(*id, number))? => {}
                    Ok(payload) => {
                        tombs.entry(*id).or_insert(payload);
                    }
                    // Taken away since it was listed.
                    Err(error) if error.kind == Kind::NotFound => {}
                    Err(error) if is_damage(&error) => {
                        monitor.note(&format!("{error}; it does not count, and forgets nothing"));
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(tombs)
    }

    fn is_undone(&self, tomb: TombId) -> Result<bool> {
        Ok(self.store.size(&layout::undone(tomb))?.is_some())
    }

    /// What was listed of one snapshot, and what a listing that is not whole leaves out: numbers follow one another, so
    /// the next one is asked for by its name until there is none.
    fn complete(
        &self,
        id: SnapshotId,
        known: &mut BTreeMap<SnapshotId, TombNumbers>,
    ) -> Result<TombNumbers> {
        let mut numbers = known.remove(&id).unwrap_or_default();
        loop {
            let tomb = tomb_id(id, numbers.next());
            let is_made = self.store.size(&layout::tomb(tomb))?.is_some();
            let is_undone = self.is_undone(tomb)?;
            if is_made {
                numbers.made.insert(tomb.number);
            }
            if is_undone {
                numbers.undone.insert(tomb.number);
            }
            if !is_made && !is_undone {
                return Ok(numbers);
            }
        }
    }

    /// A tomb counts only when it opens: the store, which has no key, could else hide a snapshot.
    fn read_tomb(&self, tomb: TombId) -> Result<Vec<u8>> {
        let name = layout::tomb(tomb);
        let object = self.store.get(&name)?;
        self.sealer().unseal(ObjectKind::Tomb, &name, object)
    }

    /// Forgets these snapshots: a tomb for each, which hides it from every reader until it is undone
    /// ([`Repository::undelete`]) or space is reclaimed. One that is forgotten already stays so. When this
    /// fails, those before the one that the error names are forgotten.
    pub fn forget(&self, ids: &[SnapshotId], why: &str) -> Result<()> {
        let payload = Tomb {
            time: self.environment.clock.now(),
            host: self.environment.host.clone(),
            user: self.environment.user.clone(),
            why: why.to_string(),
        };
        let mut known = self.tomb_numbers()?;
        for id in ids {
            let numbers = self.complete(*id, &mut known)?;
            if self.is_forgotten(*id, &numbers)? {
                continue;
            }
            let name = layout::tomb(tomb_id(*id, numbers.next()));
            let object = self.seal(ObjectKind::Tomb, &name, payload.encode())?;
            // One that is there already was made by somebody who forgets it now, too.
            self.create_at_need(&name, object, Some(Spender::Forgetting))?;
        }
        Ok(())
    }

    fn is_forgotten(&self, id: SnapshotId, numbers: &TombNumbers) -> Result<bool> {
        for number in numbers.standing() {
            match self.read_tomb(tomb_id(id, number)) {
                Ok(_) if self.is_undone(tomb_id(id, number))? => {}
                Ok(_) => return Ok(true),
                Err(error) if is_damage(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    /// The snapshots that were forgotten and can come back, oldest first by claimed time, those that cannot be
    /// read at the end.
    pub fn forgotten(&self, monitor: &dyn Monitor) -> Result<Vec<Forgotten>> {
        let generations = self.generations()?;
        let tombs = self.tombs(&self.tomb_numbers()?, monitor)?;
        let known = self.cache.slots()?;
        let mut forgotten = Vec::new();
        for object in self.store.list(layout::SNAPSHOTS)? {
            let Some(session) = layout::parse_snapshot(&object.name) else { continue };
            let id = SnapshotId(session);
            let Some(payload) = tombs.get(&id).filter(|_| generations.lets_live(session)) else {
                continue;
            };
            let snapshot = match self.read_listed_slot(id, &object, &known, &mut Vec::new()) {
                Ok(Decision::Snapshot(snapshot)) => Ok(*snapshot),
                Ok(Decision::Abort) => continue,
                // Cleared away since it was listed.
                Err(error) if error.kind == Kind::NotFound => continue,
                Err(error) => Err(error),
            };
            forgotten.push(Forgotten { id, snapshot, tomb: Tomb::decode(payload).ok() });
        }
        forgotten.sort_by_key(|forgotten| {
            let time = forgotten.snapshot.as_ref().ok().map(|snapshot| snapshot.time);
            (time.is_none(), time, forgotten.id)
        });
        Ok(forgotten)
    }

    /// Undoes the tombs of these snapshots, so that they are there again. That one has no tomb is fine.
    ///
    /// It is done as a session: a generation that begins later waits for it, and looks again at what is needed
    /// before it sweeps. One that was open may have looked already; then it is certain when it has ended.
    pub fn undelete(&self, ids: &[SnapshotId]) -> Result<Undeleted> {
        let session = self.register(Purpose::Write)?;
        let done = self.undo_tombs(ids);
        let in_time = self.end(session);
        done?;
        let in_time = in_time?;
        let generations = self.generations()?;
        // A sweep that cannot be read may be the one that let them go.
        generations.require_readable()?;
        self.require_living(&generations, ids)?;
        Ok(Undeleted::by(session, in_time, &generations))
    }

    fn undo_tombs(&self, ids: &[SnapshotId]) -> Result<()> {
        let generations = self.generations()?;
        generations.require_readable()?;
        self.require_living(&generations, ids)?;
        let mut known = self.tomb_numbers()?;
        for id in ids {
            let numbers = self.complete(*id, &mut known)?;
            // First the one that may be on its way, since who sees all others undone gives the next order that number.
            self.undo_tomb(tomb_id(*id, numbers.next()))?;
            for number in numbers.standing() {
                self.undo_tomb(tomb_id(*id, number))?;
            }
            // The marks would do. Without the tombs, nothing is forgotten again when a mark is lost, or not listed.
            for number in &numbers.made {
                self.store.delete(&layout::tomb(tomb_id(*id, *number)))?;
            }
        }
        Ok(())
    }

    /// Marks that a tomb does not count, whether it is there, comes later, or never does.
    pub(super) fn undo_tomb(&self, tomb: TombId) -> Result<()> {
        let name = layout::undone(tomb);
        let mark = self.seal(ObjectKind::Mark, &name, Vec::new())?;
        self.store.create(&name, mark)?;
        Ok(())
    }

    fn require_living(&self, generations: &Generations, ids: &[SnapshotId]) -> Result<()> {
        match ids.iter().find(|id| !generations.lets_live(id.0)) {
            None => Ok(()),
            Some(gone) => Err(RepositoryError::new(
                Kind::NotFound,
                layout::snapshot(gone.0),
                "was forgotten, and the space of what only it needed has been given back since",
            )),
        }
    }
}
