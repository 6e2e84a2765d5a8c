//! Lists and reads snapshots, and notices when one that was seen is gone.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::Repository;
use super::error::{Kind, Named, RepositoryError, Result};
use super::generations::Generations;
use super::verify::is_damage;
use crate::format::header::ObjectKind;
use crate::format::snapshot::{Decision, Snapshot};
use crate::id::{SessionId, SnapshotId};
use crate::monitor::Monitor;
use crate::store::{Created, ObjectInfo, layout};
use crate::units::Timestamp;

/// Two times of one snapshot that are further apart than this disagree, in seconds: less is a time zone that
/// was set wrongly, or a long backup.
pub const DISAGREEMENT: u64 = 86_400;

/// How long copying a repository may take, in seconds: so long after a copy's oldest object, the times of its
/// objects are those of the copying.
const COPYING: i64 = 30 * 86_400;

/// The snapshots of a repository.
#[derive(Debug, Default)]
pub struct Snapshots {
    /// Those that are whole, oldest first by claimed time.
    pub all: Vec<(SnapshotId, Snapshot)>,
    /// When the store first showed each of them, as far as that is known. A client cannot choose this time,
    /// as it can the one that its snapshot claims.
    pub observed: HashMap<SnapshotId, Timestamp>,
    /// The store is a copy, and its own times say nothing of snapshots up to here.
    pub copied_until: Option<Timestamp>,
    /// Those that cannot be read, with the reason.
    pub damaged: Vec<(SnapshotId, RepositoryError)>,
    /// Those that this client has seen, that nobody has forgotten, and that the store no longer shows.
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
}

impl Repository {
    /// All snapshots. Costs two listings, and one read for each snapshot that was not seen before.
    pub fn snapshots(&self, monitor: &dyn Monitor) -> Result<Snapshots> {
        let generations = self.generations()?;
        if let Some(error) = &generations.trouble {
            monitor.note(&format!("{error}; snapshots that were collected may be shown"));
        }
        let numbers = self.tomb_numbers()?;
        let tombs = self.tombs(&numbers, monitor)?;
        let known = self.cache.slots()?;
        let mut seen = Vec::new();
        let mut listed = HashMap::new();
        let mut snapshots = Snapshots::default();
        let mut unfound = Vec::new();
        for object in self.store.list(layout::SNAPSHOTS)? {
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
            match self.read_listed_slot(id, &object, &known, &mut seen) {
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
        if !self.store.is_conditional() {
            self.take_marks(&listed, &mut snapshots)?;
        }
        let gone: Vec<_> = known
            .keys()
            .filter(|id| !listed.contains_key(id) && !tombs.contains_key(id))
            .copied()
            .collect();
        // A sweep may have been published, and what it dropped cleared away, since the generations were read.
        let now = match gone.is_empty() {
            true => None,
            false => Some(self.generations()?),
        };
        let now = now.as_ref().unwrap_or(&generations);
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
        self.observe(&listed, &generations, &mut snapshots)?;
        Ok(snapshots)
    }

    /// What marks say where slots cannot: who was given up, and which snapshots were reported.
    fn take_marks(
        &self,
        listed: &HashMap<SnapshotId, Option<Timestamp>>,
        snapshots: &mut Snapshots,
    ) -> Result<()> {
        for object in self.store.list(layout::ABORTS)? {
            let aborted = layout::parse_abort(&object.name);
            snapshots.aborted.extend(aborted.filter(|id| !listed.contains_key(&SnapshotId(*id))));
        }
        let confirmed = self.store.list(layout::CONFIRMED)?;
        let confirmed: HashSet<SnapshotId> = confirmed
            .iter()
            .filter_map(|object| layout::parse_confirmed(&object.name).map(SnapshotId))
            .collect();
        let all = snapshots.all.iter().map(|(id, _)| *id);
        snapshots.unconfirmed = all.filter(|id| !confirmed.contains(id)).collect();
        Ok(())
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
        let decision = self.open_slot(&object.name, bytes.clone())?;
        if !known.contains_key(&id) {
            seen.push((id, bytes));
        }
        Ok(decision)
    }

    /// Fills in when the store first showed each snapshot. This is the one place where all that is known of it
    /// comes together: what the store says now, what the last sweep recorded, and what this client remembers; the
    /// earliest counts, since copying or touching an object can only make it look newer. What is new is remembered.
    fn observe(
        &self,
        listed: &HashMap<SnapshotId, Option<Timestamp>>,
        generations: &Generations,
        snapshots: &mut Snapshots,
    ) -> Result<()> {
        let mut remembered = self.cache.observed()?;
        let swept = generations.last.iter().flat_map(|last| &last.sweep.live);
        for (id, observed) in swept.filter_map(|(id, time)| Some((*id, (*time)?))) {
            let earliest = remembered.entry(id).or_insert(observed);
            *earliest = observed.min(*earliest);
        }
        let created = self.settings.created;
        // An object that is older than its repository was written by a store whose clock was wrong.
        let is_possible = |time: &Timestamp| time.seconds >= created.seconds - DISAGREEMENT as i64;
        let shown = |id: &SnapshotId| listed.get(id).copied().flatten().filter(is_possible);
        let surprises = |(id, snapshot): &(SnapshotId, Snapshot)| {
            shown(id).is_some_and(|time| disagree(time, snapshot.time))
                && !remembered.contains_key(id)
        };
        if snapshots.all.iter().any(surprises) {
            // A copy of a repository that did not keep times would make all of its snapshots look as if they
            // were taken on one day, and retention would keep one of them. Its config shows it.
            let config = self.store.modified(layout::CONFIG)?;
            let copied = config
                .filter(|config| config.seconds > created.seconds && disagree(*config, created));
            snapshots.copied_until = copied.map(|config| Timestamp {
                seconds: config.seconds.saturating_add(COPYING),
                nanoseconds: 0,
            });
        }
        let mut news = Vec::new();
        for (id, _) in &snapshots.all {
            let shown = shown(id).filter(|time| Some(*time) > snapshots.copied_until);
            let earlier = remembered.get(id).copied();
            let Some(observed) = shown.into_iter().chain(earlier).min() else { continue };
            if earlier != Some(observed) {
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
    /// `false`: this client has none, or the slot holds something else by now.
    pub fn put_back(&self, id: SnapshotId) -> Result<bool> {
        let Some(object) = self.cache.slots()?.remove(&id) else { return Ok(false) };
        let name = layout::snapshot(id.0);
        self.open_slot(&name, object.clone())?;
        if self.store.create(&name, object)? == Created::AlreadyThere {
            return Ok(false);
        }
        // As after a commit: a collector may have counted without it.
        Ok(self.generations()?.lets_live(id.0))
    }

    fn note_vanished(
        &self,
        known: &HashMap<SnapshotId, Vec<u8>>,
        mut gone: Vec<SnapshotId>,
        snapshots: &mut Snapshots,
        monitor: &dyn Monitor,
    ) {
        gone.sort_unstable();
        for id in &gone {
            let Some(object) = known.get(id) else { continue };
            let name = layout::snapshot(id.0);
            if let Ok(Decision::Snapshot(_)) = self.open_slot(&name, object.clone()) {
                monitor.note(&format!(
                    "snapshot {} was in this repository and is gone, and nobody has forgotten it: \
                     the store lost it, or shows an older state",
                    id.short()
                ));
                snapshots.vanished.push(*id);
            }
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
        let payload = self.sealer.unseal(ObjectKind::Snapshot, name, object)?;
        Decision::decode(&payload).named(name)
    }
}

/// Whether two times of one snapshot are too far apart to be both right.
pub fn disagree(one: Timestamp, other: Timestamp) -> bool {
    one.seconds.abs_diff(other.seconds) > DISAGREEMENT
}
