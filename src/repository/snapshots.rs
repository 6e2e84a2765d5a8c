//! Lists and reads snapshots, and notices when one that was seen is gone.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::Repository;
use super::error::{Kind, Named, RepositoryError, Result};
use super::generations::Generations;
use super::session::DecisionMarks;
use super::tombs::{StandingTombs, Undeleted};
use super::verify::is_damage;
use crate::format::header::ObjectKind;
use crate::format::session::Purpose;
use crate::format::snapshot::{Decision, Snapshot};
use crate::id::{SessionId, SnapshotId};
use crate::monitor::Monitor;
use crate::store::{Created, ObjectInfo, layout};
use crate::units::Timestamp;

/// The snapshots of a repository.
#[derive(Debug, Default)]
pub struct Snapshots {
    /// Those that are whole, oldest first by claimed time.
    pub all: Vec<(SnapshotId, Snapshot)>,
    /// When the store first showed each of them, as far as that is known. A client does not choose this time,
    /// as it does the one that its snapshot claims.
    pub observed: HashMap<SnapshotId, Timestamp>,
    /// Those that cannot be read, with the reason.
    pub damaged: Vec<(SnapshotId, RepositoryError)>,
    /// Those that this client has seen, or that the last sweep lists, that nobody has forgotten, and that the store
    /// does not show.
    pub vanished: Vec<SnapshotId>,
    /// Sessions that ended without a snapshot.
    pub aborted: Vec<SessionId>,
    /// Those that a sweep did not let live, still to be removed: forgotten, or committed by a session that a
    /// collector had given up.
    pub swept: Vec<SnapshotId>,
    /// Those of a store without create-if-absent that no writer has reported: it was stopped just then, or committed
    /// again under another name. They restore like all others, and are collected when they are forgotten.
    pub unconfirmed: HashSet<SnapshotId>,
    /// Every snapshot that is forgotten: it has a tomb that opens and that was not undone. Still listed or not.
    pub tombs: BTreeSet<SnapshotId>,
    /// Every object below `tombs/`, with the snapshot that it is about.
    pub tomb_objects: Vec<(SnapshotId, String)>,
}

impl Snapshots {
    /// The sessions that this listing shows to have decided.
    pub fn decided(&self) -> HashSet<SessionId> {
        let all = self.all.iter().map(|(id, _)| id.0);
        let damaged = self.damaged.iter().map(|(id, _)| id.0);
        let hidden = self.swept.iter().chain(&self.tombs).map(|id| id.0);
        all.chain(damaged).chain(hidden).chain(self.aborted.iter().copied()).collect()
    }

    /// An error when the store did not hand one out: whoever acts on what is damaged must not take that for damage.
    pub fn require_handed_out(&self) -> Result<()> {
        let failed = self.damaged.iter().find(|(_, error)| !is_damage(error));
        failed.map_or(Ok(()), |(_, error)| Err(error.clone()))
    }

    /// As if these were forgotten.
    pub fn assume_forgotten(&mut self, ids: &BTreeSet<SnapshotId>) {
        self.all.retain(|(id, _)| !ids.contains(id));
        self.damaged.retain(|(id, _)| !ids.contains(id));
        self.vanished.retain(|id| !ids.contains(id));
        self.tombs.extend(ids);
    }
}

impl Repository {
    /// All snapshots. Costs two listings, and one read for each snapshot that was not seen before.
    pub fn snapshots(&self, monitor: &dyn Monitor) -> Result<Snapshots> {
        self.prove_remembered_keys()?;
        let generations = self.generations()?;
        let tombs = self.standing_tombs(monitor)?;
        let mut slots = self.store.list(layout::SNAPSHOTS)?;
        if self.store.has_mirrors() {
            // A mirror may have what was collected long ago.
            let lives = |slot: SessionId| generations.lets_live(slot);
            slots.retain(|object| layout::parse_snapshot(&object.name).is_some_and(lives));
        }
        self.snapshots_of(&generations, tombs, &slots, None, monitor)
    }

    /// The same by what collectors had published, the tombs as they were after that, and a listing of the slots after
    /// that: a tomb is taken away when the slot that it forgets is gone. Marks that were listed after the slots are not
    /// listed again.
    pub(super) fn snapshots_of(
        &self,
        generations: &Generations,
        tombs: StandingTombs,
        slots: &[ObjectInfo],
        marks: Option<DecisionMarks>,
        monitor: &dyn Monitor,
    ) -> Result<Snapshots> {
        let StandingTombs { numbers, tombs } = tombs;
        if let Some(error) = &generations.trouble {
            monitor.note(&format!("{error}; snapshots that were collected may be shown"));
        }
        let known = self.cache.slots()?;
        let mut seen = Vec::new();
        let mut listed = HashMap::new();
        let mut snapshots = Snapshots::default();
        // Half a kilobyte each, and most slots are snapshots: growing step by step it would take up to twice as much.
        snapshots.all.reserve_exact(slots.len());
        let mut unfound = Vec::new();
        let mut read = self.read_unseen(slots, &known, &tombs)?;
        for object in slots {
            let Some(session) = layout::parse_snapshot(&object.name) else { continue };
            let id = SnapshotId(session);
            listed.insert(id, object.modified);
            let lives = generations.lets_live(session);
            if tombs.contains_key(&id) {
                if !lives {
                    snapshots.swept.push(id);
                }
                continue;
            }
            let mut decided = match read.remove(&id) {
                Some(bytes) => bytes.and_then(|bytes| {
                    let known = known.contains_key(&id);
                    self.take_slot(id, object, bytes, known, &mut seen)
                }),
                None => self.read_listed_slot(id, object, &known, &mut seen),
            };
            // An ABORT that was cleared away may have been followed by what its session had still to say, and a repaired
            // sweep lists that: then the one that was seen before is none any more.
            if matches!(decided, Ok(Decision::Abort)) && generations.lists(id) {
                decided = self.read_listed_slot(id, object, &HashMap::new(), &mut seen);
            }
            match decided {
                Ok(Decision::Abort) => snapshots.aborted.push(session),
                Ok(Decision::Snapshot(snapshot)) if lives => snapshots.all.push((id, *snapshot)),
                Ok(Decision::Snapshot(_)) => snapshots.swept.push(id),
                Err(error) if !lives && is_damage(&error) => snapshots.swept.push(id),
                Err(error) if error.kind == Kind::NotFound => unfound.push((id, error)),
                Err(error) => snapshots.damaged.push((id, error)),
            }
        }
        if !unfound.is_empty() {
            // A collector may have cleared it away since it was listed: then it is listed no more.
            let again = self.store.list(layout::SNAPSHOTS)?;
            let again: HashSet<SessionId> =
                again.iter().filter_map(|object| layout::parse_snapshot(&object.name)).collect();
            for (id, error) in unfound {
                match again.contains(&id.0) {
                    true => snapshots.damaged.push((id, error)),
                    false => drop(listed.remove(&id)),
                }
            }
        }
        let marks = match marks {
            Some(marks) => Some(marks),
            None => self.list_marks()?,
        };
        if let Some(DecisionMarks { aborted, confirmed }) = marks {
            let has_no_slot = |session: &SessionId| !listed.contains_key(&SnapshotId(*session));
            snapshots.aborted.extend(aborted.into_iter().filter(has_no_slot));
            let all = snapshots.all.iter().map(|(id, _)| *id);
            snapshots.unconfirmed = all.filter(|id| !confirmed.contains(id)).collect();
        }
        let checkpoint = generations.last.iter().flat_map(|last| &last.sweep.live);
        let gone: BTreeSet<_> = known
            .keys()
            .chain(checkpoint.map(|(id, _)| id))
            .filter(|id| !listed.contains_key(id) && !tombs.contains_key(id))
            .copied()
            .collect();
        // A sweep may have been published, and what it dropped cleared away, since the generations were read.
        let now = match gone.is_empty() {
            true => None,
            false => Some(self.generations()?),
        };
        let now = now.as_ref().unwrap_or(generations);
        let (gone, collected): (Vec<_>, Vec<_>) =
            gone.into_iter().partition(|id| now.lets_live(id.0));
        self.note_vanished(&known, gone, &mut snapshots, monitor);
        if !seen.is_empty() || !collected.is_empty() {
            self.cache.update_slots(&seen, &collected)?;
        }
        snapshots.tombs = tombs.into_keys().collect();
        snapshots.tomb_objects =
            numbers.iter().flat_map(|(id, numbers)| numbers.names(*id)).collect();
        snapshots.all.sort_by_key(|(id, snapshot)| (snapshot.time, *id));
        self.observe(&listed, generations, &mut snapshots)?;
        Ok(snapshots)
    }

    /// What a listed slot holds: from the cache, if it knows an object of this name and size, else from the
    /// store, and then it is added to `seen`.
    pub(super) fn read_listed_slot(
        &self,
        id: SnapshotId,
        object: &ObjectInfo,
        known: &HashMap<SnapshotId, Vec<u8>>,
        seen: &mut Vec<(SnapshotId, Vec<u8>)>,
    ) -> Result<Decision> {
        let bytes = match known.get(&id) {
            Some(bytes) if bytes.len() as u64 == object.size => bytes.clone(),
            _ => self.store.get(&object.name)?,
        };
        self.take_slot(id, object, bytes, known.contains_key(&id), seen)
    }

    fn take_slot(
        &self,
        id: SnapshotId,
        object: &ObjectInfo,
        bytes: Vec<u8>,
        is_known: bool,
        seen: &mut Vec<(SnapshotId, Vec<u8>)>,
    ) -> Result<Decision> {
        let decision = self.open_slot(&object.name, bytes.clone())?;
        if !is_known {
            seen.push((id, bytes));
        }
        Ok(decision)
    }

    /// The listed slots that this client has not seen, several at a time: on a new machine those are all, and each is
    /// a journey. They are held until they are remembered.
    fn read_unseen(
        &self,
        objects: &[ObjectInfo],
        known: &HashMap<SnapshotId, Vec<u8>>,
        tombs: &HashMap<SnapshotId, Vec<u8>>,
    ) -> Result<HashMap<SnapshotId, Result<Vec<u8>>>> {
        let is_seen = |id: &SnapshotId, size: u64| {
            tombs.contains_key(id) || known.get(id).is_some_and(|bytes| bytes.len() as u64 == size)
        };
        let unseen: Vec<(SnapshotId, &str)> = objects
            .iter()
            .filter_map(|object| {
                let id = SnapshotId(layout::parse_snapshot(&object.name)?);
                (!is_seen(&id, object.size)).then_some((id, object.name.as_str()))
            })
            .collect();
        let get = |(id, name): &(SnapshotId, &str)| (*id, self.store.get(name).map_err(Into::into));
        let parts = self.in_parts(&unseen, |part| part.iter().map(get).collect::<Vec<_>>());
        let mut read = HashMap::new();
        for part in parts {
            read.extend(part.map_err(|_| {
                RepositoryError::new(Kind::Unavailable, layout::SNAPSHOTS, "a thread failed")
            })?);
        }
        Ok(read)
    }

    /// Fills in when the store first showed each snapshot: what the last sweep recorded, or this client remembers,
    /// the earlier of the two; and only of one that neither knows, what the store says now, which is remembered. So
    /// copying or touching an object changes nothing for those who have seen it.
    fn observe(
        &self,
        listed: &HashMap<SnapshotId, Option<Timestamp>>,
        generations: &Generations,
        snapshots: &mut Snapshots,
    ) -> Result<()> {
        let remembered = self.cache.observed()?;
        let swept = generations.last.iter().flat_map(|last| &last.sweep.live);
        let recorded: HashMap<SnapshotId, Timestamp> =
            swept.filter_map(|(id, time)| Some((*id, (*time)?))).collect();
        let mut news = Vec::new();
        for (id, _) in &snapshots.all {
            let seen = remembered.get(id).copied();
            let known = seen.into_iter().chain(recorded.get(id).copied()).min();
            let shown = || listed.get(id).copied().flatten();
            let Some(observed) = known.or_else(shown) else { continue };
            if seen != Some(observed) {
                news.push((*id, observed));
            }
            snapshots.observed.insert(*id, observed);
        }
        if !news.is_empty() {
            self.cache.remember_observed(&news)?;
        }
        Ok(())
    }

    /// A snapshot as this client has seen it, whatever the store shows of it now.
    pub fn remembered(&self, id: SnapshotId) -> Result<Option<Snapshot>> {
        let Some(object) = self.cache.slots()?.remove(&id) else { return Ok(None) };
        match self.open_slot(&layout::snapshot(id.0), object)? {
            Decision::Snapshot(snapshot) => Ok(Some(*snapshot)),
            Decision::Abort => Ok(None),
        }
    }

    /// Puts back a snapshot that this client has seen and the store has lost: the same object under the same name.
    /// `None`: this client has none, or the slot holds something else by now.
    ///
    /// It is done as a session, as [`Repository::undelete`] is, and for the same reason.
    pub fn put_back(&self, id: SnapshotId) -> Result<Option<Undeleted>> {
        let Some(object) = self.cache.slots()?.remove(&id) else { return Ok(None) };
        let name = layout::snapshot(id.0);
        self.open_slot(&name, object.clone())?;
        let session = self.register(Purpose::Write)?;
        let created = self.store.create(&name, object);
        let in_time = self.end(session);
        if created? == Created::AlreadyThere {
            return Ok(None);
        }
        let in_time = in_time?;
        let generations = self.generations()?;
        generations.require_readable()?;
        let lives = generations.lets_live(id.0);
        Ok(lives.then(|| Undeleted::by(session, in_time, &generations)))
    }

    fn note_vanished(
        &self,
        known: &HashMap<SnapshotId, Vec<u8>>,
        gone: Vec<SnapshotId>,
        snapshots: &mut Snapshots,
        monitor: &dyn Monitor,
    ) {
        for id in gone {
            if let Some(object) = known.get(&id) {
                let name = layout::snapshot(id.0);
                let decision = self.open_slot(&name, object.clone());
                if !matches!(decision, Ok(Decision::Snapshot(_))) {
                    continue;
                }
            }
            monitor.note(&format!(
                "snapshot {} was in this repository and is gone, and nobody has forgotten it: the \
                 store lost it, or shows an older state",
                id.short()
            ));
            snapshots.vanished.push(id);
        }
    }

    /// BLAKE3 of a snapshot's object as it stands in the store: what its successor records of it.
    pub fn slot_hash(&self, id: SnapshotId) -> Result<[u8; 32]> {
        let object = match self.cache.slots()?.remove(&id) {
            Some(object) => object,
            None => self.store.get(&layout::snapshot(id.0))?,
        };
        Ok(*blake3::hash(&object).as_bytes())
    }

    /// Reads one slot from the store, whatever the cache says.
    pub fn read_slot(&self, id: SnapshotId) -> Result<Decision> {
        let name = layout::snapshot(id.0);
        let object = self.store.get(&name)?;
        self.open_slot(&name, object)
    }

    fn open_slot(&self, name: &str, object: Vec<u8>) -> Result<Decision> {
        let payload = self.sealer().unseal(ObjectKind::Snapshot, name, object)?;
        Decision::decode(&payload).named(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_assumed_to_be_forgotten_is_a_tomb_and_nothing_else() {
        let id = |number| SnapshotId(SessionId { generation: 0, random: [number; 16] });
        let error = |id: SnapshotId| (id, RepositoryError::corrupt("item", "why"));
        let mut snapshots = Snapshots {
            damaged: vec![error(id(1)), error(id(2))],
            vanished: vec![id(3), id(4)],
            ..Snapshots::default()
        };
        snapshots.assume_forgotten(&[id(1), id(3), id(5)].into());
        assert_eq!(snapshots.damaged.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [id(2)]);
        assert_eq!(snapshots.vanished, [id(4)]);
        assert_eq!(snapshots.tombs, [id(1), id(3), id(5)].into());
    }
}
