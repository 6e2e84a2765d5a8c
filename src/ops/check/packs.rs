//! Index objects and packs: what lists what, and whether it is there.
//!
//! Memory: 150 bytes a pack, a few index objects at a time, 32 bytes for each blob of a pack that is gone or
//! recorded as damaged, about 100 for each blob that stands in a delta, and 4 for each delta.

use std::collections::{BTreeMap, HashMap, HashSet};

use rayon::iter::{IntoParallelRefIterator, ParallelIterator};

use super::CheckSummary;
use super::known::Known;
use crate::format::header::ObjectKind;
use crate::format::index::PackRecord;
use crate::format::pack::Encoding;
use crate::id::{BlobId, IndexId, PackId, SessionId};
use crate::ops::OpsError;
use crate::ops::findings::{Finding, Findings};
use crate::ops::references::{BlobKey, BlobMap, References};
use crate::ops::walk::Walk;
use crate::repository::Repository;
use crate::repository::error::{Kind, RepositoryError};
use crate::repository::verify::{Inventory, ListedPack, is_damage, names};

/// Index objects decoded at a time (half a million blobs each at most: 40 MB).
const INDEXES_AT_ONCE: usize = 2;
/// Blobs that are in no pack are told one by one up to this many, and together beyond.
const MISSING_NAMED: usize = 100;

/// The packs of the repository.
pub struct Packs {
    /// What the index says of each.
    pub listed: HashMap<PackId, ListedPack>,
    /// Those that are there: id, length in bytes.
    pub present: Vec<(PackId, u64)>,
    /// Those whose lengths are not what the index says.
    pub wrong_length: HashSet<PackId>,
    /// Those that are there, in no index object, and whose directories cannot be read.
    pub unreadable: HashSet<PackId>,
    /// Those that are there, listed, and recorded as damaged.
    pub suspects: HashMap<PackId, Suspect>,
    /// Those that an index object lists and that are not there, with the blobs that they had.
    pub missing: Vec<(PackId, IndexId, Vec<BlobId>)>,
    /// The deltas that snapshots need.
    pub deltas: Deltas,
    /// Those that are there and hold nothing that a snapshot refers to; bases may be in them.
    unreferenced: HashSet<PackId>,
}

/// Deltas, and what they are read against.
#[derive(Default)]
pub struct Deltas {
    /// The blobs of each.
    blobs: Vec<Vec<BlobId>>,
    /// Base → itself, and which deltas are read against it.
    by_base: BlobMap<(BlobId, Vec<u32>)>,
    /// The packs that they are in, and which of these has each.
    packs: Vec<PackId>,
    pack_of: Vec<u32>,
}

impl Deltas {
    /// Takes those that hold something that a snapshot refers to.
    fn take(&mut self, record: &PackRecord, walk: &Walk<'_, '_>) {
        for segment in &record.directory.segments {
            let Encoding::Delta(bases) = &segment.encoding else { continue };
            let blobs = segment.blobs.iter().map(|blob| blob.id);
            let blobs: Vec<BlobId> = blobs.filter(|blob| walk.data.contains(blob)).collect();
            if blobs.is_empty() {
                continue;
            }
            for base in bases {
                let entry = self.by_base.entry(BlobKey::new(base));
                entry.or_insert((*base, Vec::new())).1.push(self.blobs.len() as u32);
            }
            self.blobs.push(blobs);
            if self.packs.last() != Some(&record.id) {
                self.packs.push(record.id);
            }
            self.pack_of.push(self.packs.len() as u32 - 1);
        }
    }

    /// Every base, and the packs of the deltas that are read against it, some more than once.
    pub fn bases_with_packs(
        &self,
    ) -> impl Iterator<Item = (&BlobId, impl Iterator<Item = PackId>)> {
        let pack_of = |delta: &u32| self.packs[self.pack_of[*delta as usize] as usize];
        self.by_base.values().map(move |(base, deltas)| (base, deltas.iter().map(pack_of)))
    }

    /// Every base.
    pub fn bases(&self) -> impl Iterator<Item = &BlobId> {
        self.by_base.values().map(|(base, _)| base)
    }

    /// What is read against this blob.
    pub fn against(&self, base: &BlobId) -> impl Iterator<Item = &BlobId> {
        let deltas = self.by_base.get(&BlobKey::new(base)).map(|(_, deltas)| deltas.as_slice());
        deltas.unwrap_or_default().iter().flat_map(|delta| &self.blobs[*delta as usize])
    }
}

/// A pack that is recorded as damaged.
pub struct Suspect {
    /// What the index says that it holds.
    pub blobs: Vec<BlobId>,
    /// How many blobs that snapshots need stand in such packs only.
    pub only_here: u64,
}

/// What is known of sessions when packs are looked at.
pub struct Sessions<'s> {
    /// Those that committed before the index was listed.
    pub committed: &'s HashSet<SessionId>,
    /// Those of which this client's cache knows an index object that is gone.
    pub lost_indexes: &'s HashSet<SessionId>,
}

/// Reads every index object and holds it against what is there; marks what is found in `walk`.
#[allow(clippy::too_many_arguments, reason = "everything that is known, held against one another")]
pub fn take_stock(
    repository: &Repository,
    walk: &Walk<'_, '_>,
    indexes: &[IndexId],
    inventory: &Inventory,
    sessions: &Sessions<'_>,
    known: &Known,
    findings: &Findings,
    summary: &mut CheckSummary,
) -> Result<Packs, OpsError> {
    let mut packs = Packs {
        listed: HashMap::new(),
        present: inventory.packs.clone(),
        wrong_length: HashSet::new(),
        unreadable: HashSet::new(),
        suspects: HashMap::new(),
        missing: Vec::new(),
        deltas: Deltas::default(),
        unreferenced: HashSet::new(),
    };
    let mut damaged_indexes = 0;
    let mut pending = indexes.to_vec();
    let mut gone: HashMap<IndexId, RepositoryError> = HashMap::new();
    let mut seen = HashSet::new();
    while !pending.is_empty() {
        seen.extend(pending.iter().copied());
        let gone_before = gone.len();
        for batch in pending.chunks(INDEXES_AT_ONCE) {
            let read: Vec<_> =
                batch.par_iter().map(|id| (*id, repository.read_index(*id))).collect();
            for (id, index) in read {
                match index {
                    Ok(index) => {
                        for record in &index.packs {
                            packs.take(id, record, known, walk, findings);
                        }
                    }
                    Err(error) if error.kind == Kind::NotFound => drop(gone.insert(id, error)),
                    Err(error) if is_damage(&error) => {
                        damaged_indexes += 1;
                        findings.add(Finding::of_object(error.item, error.message, Vec::new()));
                    }
                    Err(error) => return Err(error.into()),
                }
            }
        }
        if gone.len() == gone_before {
            break;
        }
        // Somebody has put them together with others, and what took their place is listed by now.
        pending = repository.listed_indexes()?;
        gone.retain(|id, error| {
            let is_listed = pending.contains(id);
            if is_listed {
                damaged_indexes += 1;
                let (item, message) = (error.item.clone(), error.message.clone());
                findings.add(Finding::of_object(item, message, Vec::new()));
            }
            !is_listed
        });
        pending.retain(|id| !seen.contains(id));
    }
    summary.packs = packs.listed.len() as u64;
    packs.take_unlisted(repository, walk, sessions, damaged_indexes, findings, summary)?;
    packs.take_elsewhere(repository, walk)?;
    summary.unreferenced_packs = packs.unreferenced(repository)?.len() as u64;
    for suspect in packs.suspects.values_mut() {
        let is_only_here = |key: &BlobKey| walk.data.is_missing(key) || walk.trees.is_missing(key);
        suspect.only_here =
            suspect.blobs.iter().map(BlobKey::new).filter(is_only_here).count() as u64;
    }
    for blob in packs.suspects.values().flat_map(|suspect| &suspect.blobs) {
        // Whether it can be read there, the end of the check says.
        walk.data.found(blob);
        walk.trees.found(blob);
    }
    tell_missing(&walk.data, findings);
    tell_missing(&walk.trees, findings);
    Ok(packs)
}

fn tell_missing(references: &References, findings: &Findings) {
    let missing = references.missing();
    if missing.len() > MISSING_NAMED {
        let message = format!("{} blobs are in no pack that the repository has", missing.len());
        findings.add(Finding::of_blobs(missing, "blobs".into(), message));
        return;
    }
    for key in missing {
        let message = "is in no pack that the repository has".to_string();
        findings.add(Finding::of_blobs(vec![key], format!("blob {}", key.short()), message));
    }
}

impl Packs {
    fn take(
        &mut self,
        index: IndexId,
        record: &PackRecord,
        known: &Known,
        walk: &Walk<'_, '_>,
        findings: &Findings,
    ) {
        let listed = ListedPack::new(index, record);
        if let Some(before) = self.listed.get(&record.id) {
            if before.fingerprint != listed.fingerprint {
                let (pack, other) = (names::pack(record.id), names::index(before.index));
                let message = format!("says something else of {pack} than {other}");
                findings.add(Finding::of_object(names::index(index), message, Vec::new()));
            }
            return;
        }
        self.listed.insert(record.id, listed);
        self.deltas.take(record, walk);
        let found = self.present.binary_search_by_key(&record.id, |(id, _)| *id);
        let Ok(found) = found else {
            self.missing.push((record.id, index, blobs_of(record).collect()));
            return;
        };
        let length = self.present[found].1;
        if length != record.object_length {
            self.wrong_length.insert(record.id);
        }
        if known.damaged.contains_key(&record.id) {
            let suspect = Suspect { blobs: blobs_of(record).collect(), only_here: 0 };
            self.suspects.insert(record.id, suspect);
            return;
        }
        if !mark(record, walk, findings) {
            self.unreferenced.insert(record.id);
        }
    }

    /// Packs that no index object lists: of writers that were stopped, or of an index object that is lost.
    fn take_unlisted(
        &mut self,
        repository: &Repository,
        walk: &Walk<'_, '_>,
        sessions: &Sessions<'_>,
        damaged_indexes: usize,
        findings: &Findings,
        summary: &mut CheckSummary,
    ) -> Result<(), OpsError> {
        let unlisted: Vec<_> =
            self.present.iter().filter(|(id, _)| !self.listed.contains_key(id)).copied().collect();
        let mut lost: BTreeMap<SessionId, u64> = BTreeMap::new();
        let mut left = 0u64;
        for batch in unlisted.chunks(64) {
            let read: Vec<_> = batch
                .par_iter()
                .map(|(id, length)| (*id, repository.read_pack_directory(*id, *length)))
                .collect();
            for (id, record) in read {
                let committed = sessions.committed.contains(&id.session);
                if committed || sessions.lost_indexes.contains(&id.session) {
                    *lost.entry(id.session).or_default() += 1;
                } else {
                    left += 1;
                }
                match record {
                    Ok(record) => {
                        if !mark(&record, walk, findings) {
                            self.unreferenced.insert(id);
                        }
                    }
                    Err(error) if is_damage(&error) => {
                        self.unreadable.insert(id);
                        let mut message = error.message;
                        match repository.mended_record(id) {
                            Ok(record) => {
                                if !mark(&record, walk, findings) {
                                    self.unreferenced.insert(id);
                                }
                                message.push_str("; parity mends it");
                            }
                            Err(error) if error.kind == Kind::Invalid || is_damage(&error) => {}
                            Err(error) => return Err(error.into()),
                        }
                        message.push_str(" (no index object lists it: `aumbry prune` drops what nobody can read)");
                        findings.add(Finding::of_object(names::pack(id), message, Vec::new()));
                    }
                    Err(error) => return Err(error.into()),
                }
            }
        }
        for (session, count) in lost {
            let message = format!(
                "lost: {count} packs of this session are in no index object; what they hold can still \
                 be read, after the directory of every such pack"
            );
            if damaged_indexes > 0 {
                // Told already, as damage of the index object.
                summary.notes.push(format!("session {session}: index {message}"));
            } else {
                let item = format!("index of session {session}");
                findings.add(Finding::of_object(item, message, Vec::new()));
            }
        }
        if left > 0 {
            summary.notes.push(format!(
                "{left} packs are in no index object: left by backups that were stopped, or of one that \
                 runs just now"
            ));
        }
        Ok(())
    }

    /// Packs that only index objects of other stores list, and that have what snapshots need and nothing here has: they are
    /// gone from this store, and so is what listed them.
    fn take_elsewhere(
        &mut self,
        repository: &Repository,
        walk: &Walk<'_, '_>,
    ) -> Result<(), OpsError> {
        if repository.mirrors().is_empty() || walk.data.is_whole() && walk.trees.is_whole() {
            return Ok(());
        }
        for (id, index) in repository.indexes_elsewhere()? {
            for record in &index.packs {
                let references = match record.header.kind {
                    ObjectKind::TreePack => &walk.trees,
                    _ => &walk.data,
                };
                let mut blobs = blobs_of(record);
                let is_needed = blobs.any(|blob| references.is_missing(&BlobKey::new(&blob)));
                if !is_needed || self.is_present(&record.id) {
                    continue;
                }
                for blob in blobs_of(record) {
                    references.found(&blob);
                }
                self.deltas.take(record, walk);
                self.listed.insert(record.id, ListedPack::new(id, record));
                self.missing.push((record.id, id, blobs_of(record).collect()));
            }
        }
        Ok(())
    }

    /// Packs that are there and that nobody needs.
    fn unreferenced(&self, repository: &Repository) -> Result<HashSet<PackId>, RepositoryError> {
        let mut unreferenced = self.unreferenced.clone();
        for base in self.deltas.bases() {
            for copy in repository.cache().copies(base)? {
                unreferenced.remove(&repository.cache().pack(copy.pack)?.id);
            }
        }
        Ok(unreferenced)
    }

    /// Whether the pack is there.
    pub fn is_present(&self, id: &PackId) -> bool {
        self.present.binary_search_by_key(id, |(id, _)| *id).is_ok()
    }

    /// Whether the pack is there, and so long.
    pub fn has(&self, id: PackId, object_length: u64) -> bool {
        let found = self.present.binary_search_by_key(&id, |(id, _)| *id);
        found.is_ok_and(|found| self.present[found].1 == object_length)
    }
}

fn blobs_of(record: &PackRecord) -> impl Iterator<Item = BlobId> + '_ {
    record.directory.segments.iter().flat_map(|segment| &segment.blobs).map(|blob| blob.id)
}

/// Marks the pack's blobs as found. Returns whether any snapshot refers to one.
fn mark(record: &PackRecord, walk: &Walk<'_, '_>, findings: &Findings) -> bool {
    let mut referenced = false;
    for segment in &record.directory.segments {
        for blob in &segment.blobs {
            if record.header.kind == ObjectKind::TreePack {
                referenced |= walk.trees.found(&blob.id).is_some();
                continue;
            }
            let Some(length) = walk.data.found(&blob.id) else { continue };
            referenced = true;
            if length != blob.length {
                let item = format!("blob {}", blob.id.short());
                let message = format!("is {} bytes long, and a file says {length}", blob.length);
                findings.add(Finding::of_blob(&blob.id, item, message));
            }
        }
    }
    referenced
}
