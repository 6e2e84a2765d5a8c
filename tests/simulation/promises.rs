//! What was promised, and what the store must hold for it. Told by the objects themselves and not by the engine's index.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use aumbry::format::bytes::Reader;
use aumbry::format::generation::Sweep;
use aumbry::format::header::{HEADER_LENGTH, ObjectKind};
use aumbry::format::pack::{Encoding, PackDirectory, locate_directory};
use aumbry::format::snapshot::Decision;
use aumbry::id::{BlobId, SnapshotId};
use aumbry::repository::seal::{Sealer, unseal_range};
use aumbry::store::layout;

use super::source::Folder;
use super::world::Object;

/// A blob in a pack, and what it is read against there; nothing, unless it is a delta.
type Copied = (BlobId, Vec<BlobId>);

/// A snapshot that was reported.
pub struct Promise {
    /// What it must restore to.
    pub folder: Folder,
    needed: Vec<BlobId>,
    slot: blake3::Hash,
    /// Nobody has ordered it to be forgotten since it was reported or brought back.
    pub is_kept: bool,
    /// Orders to forget it that began, and those that ended.
    pub forgets: (u64, u64),
}

/// All that was reported, and what of it is there.
#[derive(Default)]
pub struct Promises {
    sealer: Option<Arc<Sealer>>,
    /// What was reported.
    pub reported: BTreeMap<SnapshotId, Promise>,
    copies: HashMap<BlobId, HashMap<Vec<BlobId>, u32>>,
    /// The first content that each name had.
    contents: HashMap<String, blake3::Hash>,
    sweep: Option<(u32, Sweep)>,
}

impl Promises {
    /// The keys, so that objects can be understood. Of newer ones, only what they open counts from now on.
    pub fn learn_keys(&mut self, sealer: &Sealer, objects: &BTreeMap<String, Object>) {
        let revision = sealer.keyring().revision;
        if self.sealer.as_ref().is_some_and(|known| known.keyring().revision >= revision) {
            return;
        }
        self.sealer = Some(Arc::new(Sealer::new(sealer.repository(), sealer.keyring().clone())));
        let copies = objects.iter().flat_map(|(name, object)| self.blobs(name, &object.bytes));
        let copies: Vec<Copied> = copies.collect();
        self.copies.clear();
        for copied in copies {
            *self.copies.entry(copied.0).or_default().entry(copied.1).or_default() += 1;
        }
    }

    /// An object is made. An error: under a name that has had another content.
    pub fn created(&mut self, name: &str, bytes: &[u8]) -> Result<(), String> {
        for (blob, bases) in self.blobs(name, bytes) {
            *self.copies.entry(blob).or_default().entry(bases).or_default() += 1;
        }
        if let (Some(generation), Some(sealer)) = (layout::parse_sweep(name), &self.sealer)
            && self.sweep.as_ref().is_none_or(|(newest, _)| *newest < generation)
            && let Ok(payload) = sealer.unseal(ObjectKind::Sweep, name, bytes.to_vec())
            && let Ok(sweep) = Sweep::decode(&payload)
        {
            self.sweep = Some((generation, sweep));
        }
        let hash = blake3::hash(bytes);
        let first = *self.contents.entry(name.to_string()).or_insert(hash);
        // A slot that was ABORT may become a snapshot that nobody reported when its session wakes after everything; a
        // collector that slept may publish what was cleared away; two may forget a snapshot at once, and one of the tombs
        // come when the other was undone and taken away. `hold` sees that nothing comes of it.
        // Marks say nothing but their names, damage records what anybody may find again, and the config is made again
        // when it was damaged.
        let varies = [
            layout::SNAPSHOTS,
            layout::GC,
            layout::TOMBS,
            layout::ABORTS,
            layout::CONFIRMED,
            layout::MAINTAINER,
            layout::DAMAGED,
            layout::CONFIG,
        ];
        if first != hash && !varies.iter().any(|folder| name.starts_with(folder)) {
            return Err(format!("{name} had another content"));
        }
        let newest = self.sweep.as_ref().map_or(0, |(newest, _)| *newest);
        // What a generation condemned that is over, a repair may say anew.
        let counts = layout::parse_sweep(name).is_some_and(|number| newest <= number)
            || layout::parse_condemned(name).is_some_and(|number| newest < number);
        if first != hash && counts {
            return Err(format!("{name} had another content, and counts"));
        }
        Ok(())
    }

    /// An object is gone.
    pub fn deleted(&mut self, name: &str, bytes: &[u8]) {
        for (blob, bases) in self.blobs(name, bytes) {
            if let Some(count) = self.copies.get_mut(&blob).and_then(|all| all.get_mut(&bases)) {
                *count -= 1;
            }
        }
    }

    /// The blobs in a pack; none in anything else, or in what cannot be read.
    fn blobs(&self, name: &str, bytes: &[u8]) -> Vec<Copied> {
        if layout::parse_pack(name).is_none() {
            return Vec::new();
        }
        self.directory(name, bytes).map_or(Vec::new(), |directory| {
            let segments = directory.segments.iter().flat_map(|segment| {
                let bases = match &segment.encoding {
                    Encoding::Delta(bases) => bases.clone(),
                    _ => Vec::new(),
                };
                segment.blobs.iter().map(move |blob| (blob.id, bases.clone()))
            });
            segments.collect()
        })
    }

    /// Whether a delta can be read against the blob.
    fn is_plainly_there(&self, blob: &BlobId) -> bool {
        self.copies.get(blob).and_then(|all| all.get(&Vec::new())).is_some_and(|count| *count > 0)
    }

    fn directory(&self, name: &str, bytes: &[u8]) -> Option<PackDirectory> {
        let sealer = self.sealer.as_ref()?;
        let kinds = [ObjectKind::DataPack, ObjectKind::TreePack];
        let header = sealer.check_header(&kinds, name, bytes).ok()?;
        let cipher = sealer.object_cipher(&header, name).ok()?;
        // Packs are so small here that they are one frame.
        let sealed = bytes.get(HEADER_LENGTH..)?.to_vec();
        let length = sealed.len().checked_sub(16).filter(|length| *length > 0)?;
        let plain = unseal_range(&cipher, name, sealed, 0, 0, length, length as u64).ok()?;
        let (offset, directory) = locate_directory(length as u64, &plain).ok()?;
        let bytes = plain.get(offset as usize..offset as usize + directory)?;
        PackDirectory::decode(&mut Reader::new(bytes)).ok()
    }

    /// A client was told that this snapshot is there.
    pub fn report(
        &mut self,
        objects: &BTreeMap<String, Object>,
        id: SnapshotId,
        folder: &Folder,
        data: Vec<BlobId>,
    ) -> Result<(), String> {
        let name = layout::snapshot(id.0);
        let object =
            objects.get(&name).ok_or_else(|| format!("{name} is reported, and not there"))?;
        let sealer = self.sealer.as_ref().ok_or("no keys")?;
        let payload = sealer
            .unseal(ObjectKind::Snapshot, &name, object.bytes.to_vec())
            .map_err(|error| error.to_string())?;
        let Ok(Decision::Snapshot(snapshot)) = Decision::decode(&payload) else {
            return Err(format!("{name} is reported, and is no snapshot"));
        };
        if snapshot.height != 0 {
            return Err("the simulation's folders are one node each".into());
        }
        let needed: BTreeSet<BlobId> = data.into_iter().chain([snapshot.root]).collect();
        let promise = Promise {
            folder: folder.clone(),
            needed: needed.into_iter().collect(),
            slot: blake3::hash(&object.bytes),
            is_kept: true,
            forgets: (0, 0),
        };
        self.reported.insert(id, promise);
        self.hold(objects)
    }

    /// Whether every snapshot that was reported, and that nobody has ordered to be forgotten, is there with all that it
    /// needs.
    pub fn hold(&self, objects: &BTreeMap<String, Object>) -> Result<(), String> {
        for (id, promise) in self.reported.iter().filter(|(_, promise)| promise.is_kept) {
            let id = *id;
            let slot = objects.get(&layout::snapshot(id.0));
            if slot.is_none_or(|slot| blake3::hash(&slot.bytes) != promise.slot) {
                return Err(format!("snapshot {id} was reported, and its slot is gone or another"));
            }
            let tombs = objects
                .range(format!("{}{}-", layout::TOMBS, id.0)..)
                .map_while(|(name, _)| layout::parse_tomb(name).or(layout::parse_undone(name)))
                .take_while(|tomb| tomb.session == id.0);
            if let Some(tomb) = tombs.into_iter().find(|tomb| {
                objects.contains_key(&layout::tomb(*tomb))
                    && !objects.contains_key(&layout::undone(*tomb))
            }) {
                let number = tomb.number;
                return Err(format!(
                    "snapshot {id} is forgotten by {number}, and nobody ordered it"
                ));
            }
            if let Some((generation, sweep)) = &self.sweep
                && id.0.generation < *generation
                && !sweep.lists(id)
            {
                return Err(format!(
                    "snapshot {id} was reported, and sweep {generation} lets it go"
                ));
            }
            let is_there = |blob: &&BlobId| {
                let copies = self.copies.get(blob).into_iter().flatten();
                copies
                    .filter(|(_, count)| **count > 0)
                    .any(|(bases, _)| bases.iter().all(|base| self.is_plainly_there(base)))
            };
            if let Some(lost) = promise.needed.iter().find(|blob| !is_there(blob)) {
                let lost = lost.short();
                return Err(format!("snapshot {id} was reported, and blob {lost} is in no pack"));
            }
        }
        Ok(())
    }
}
