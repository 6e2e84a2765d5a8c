//! Lists and reads snapshots, and notices when one that was seen is gone.

use std::collections::{HashMap, HashSet};

use super::Repository;
use super::error::{Named, RepositoryError, Result};
use crate::format::header::ObjectKind;
use crate::format::snapshot::{Decision, Snapshot};
use crate::id::SnapshotId;
use crate::monitor::Monitor;
use crate::store::layout;

/// The snapshots of a repository.
#[derive(Debug, Default)]
pub struct Snapshots {
    /// Those that are whole, oldest first by claimed time.
    pub all: Vec<(SnapshotId, Snapshot)>,
    /// Those that cannot be read, with the reason.
    pub damaged: Vec<(SnapshotId, RepositoryError)>,
    /// Those that this client has seen, that nobody has forgotten, and that the store no longer shows.
    pub vanished: Vec<SnapshotId>,
}

impl Repository {
    /// All snapshots. Costs two listings, and one read for each snapshot that was not seen before.
    pub fn snapshots(&self, monitor: &dyn Monitor) -> Result<Snapshots> {
        let tombs = self.tombs(monitor)?;
        let known = self.cache.slots()?;
        let mut seen = Vec::new();
        let mut listed = HashSet::new();
        let mut snapshots = Snapshots::default();
        for object in self.store.list(layout::SNAPSHOTS)? {
            let Some(session) = layout::parse_snapshot(&object.name) else { continue };
            let id = SnapshotId(session);
            listed.insert(id);
            if tombs.contains(&id) {
                continue;
            }
            let bytes = match known.get(&id) {
                Some(bytes) if bytes.len() as u64 == object.size => Ok(bytes.clone()),
                _ => self.store.get(&object.name).map_err(RepositoryError::from),
            };
            let decision = bytes.and_then(|bytes| {
                let decision = self.open_slot(&object.name, bytes.clone())?;
                if !known.contains_key(&id) {
                    seen.push((id, bytes));
                }
                Ok(decision)
            });
            match decision {
                Ok(Decision::Snapshot(snapshot)) => snapshots.all.push((id, *snapshot)),
                Ok(Decision::Abort) => {}
                Err(error) => snapshots.damaged.push((id, error)),
            }
        }
        self.note_vanished(&known, &listed, &tombs, &mut snapshots, monitor);
        if !seen.is_empty() {
            self.cache.update_slots(&seen, &[])?;
        }
        snapshots.all.sort_by_key(|(id, snapshot)| (snapshot.time, *id));
        Ok(snapshots)
    }

    /// The snapshots that were forgotten. A tomb counts only when it opens: the store, which has no key,
    /// could else hide a snapshot.
    fn tombs(&self, monitor: &dyn Monitor) -> Result<HashSet<SnapshotId>> {
        let mut tombs = HashSet::new();
        for object in self.store.list(layout::TOMBS)? {
            let Some(session) = layout::parse_tomb(&object.name) else { continue };
            let opened = self
                .store
                .get(&object.name)
                .map_err(RepositoryError::from)
                .and_then(|bytes| self.sealer.unseal(ObjectKind::Tomb, &object.name, bytes));
            match opened {
                Ok(_) => {
                    tombs.insert(SnapshotId(session));
                }
                Err(error) => {
                    monitor.note(&format!("{error}; the snapshot counts as not forgotten"))
                }
            }
        }
        Ok(tombs)
    }

    fn note_vanished(
        &self,
        known: &HashMap<SnapshotId, Vec<u8>>,
        listed: &HashSet<SnapshotId>,
        tombs: &HashSet<SnapshotId>,
        snapshots: &mut Snapshots,
        monitor: &dyn Monitor,
    ) {
        let mut gone: Vec<_> =
            known.iter().filter(|(id, _)| !listed.contains(id) && !tombs.contains(id)).collect();
        gone.sort_by_key(|(id, _)| **id);
        for (id, object) in gone {
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
