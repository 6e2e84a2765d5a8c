//! Proves objects of the store: what is there, and whether each is what was once written.
//!
//! Nothing here believes a cache. A pack is proven in one pass, on a disk part by part: frames are unsealed where they
//! are and copied together, segments are decompressed into a buffer that is used again, and blobs are
//! named from slices of it. Where all packs are proven, segments that deltas are read against are decompressed
//! and named when they are opened for these (`deferred`).

use std::collections::HashSet;
use std::sync::Arc;

use super::Repository;
use super::ahead::Ahead;
use super::deferred::Deferred;
use super::error::{Kind, Named, RepositoryError, Result};
use super::mend::{PackShape, not_whole, plain_length};
use super::mirrors::Mirror;
use super::opened::Prefix;
use super::reader::BlobReader;
use super::seal::ObjectCipher;
use super::stream::{Sealed, Stream};
use crate::codec::cipher::SEALED_FRAME_LENGTH;
use crate::codec::compress::Decompressor;
use crate::format::config::Settings;
use crate::format::header::{HEADER_LENGTH, ObjectKind};
use crate::format::index::PackRecord;
use crate::format::pack::{BlobRecord, Encoding, SegmentRecord};
use crate::id::{BlobId, IndexId, KeySlotId, PackId, SessionId, TombId};
use crate::store::{Store, StoreError, layout};

/// No pack is longer: 1 GiB of stored bytes, a segment and a directory. An index that says more lies.
const PACK_LENGTH_MAX: u64 = 2 << 30;

/// Rather than to wait for what a delta is read against, that of the delta so many segments behind it is opened.
const DELTAS_AHEAD: usize = 4;

/// Memory for a segment that is kept for the next pack: two of the default settings.
const WINDOW_KEPT: usize = 8 << 20;

/// What is said of a pack that only the first of two readings found damaged.
pub const WHOLE_WHEN_READ_AGAIN: &str = "was damaged when it was read first and whole when it was read again: the \
    memory of this machine, or what lies between it and the store, may be at fault";

/// What the store holds, from one listing. Memory: about 100 bytes an object.
#[derive(Debug, Clone, Default)]
pub struct Inventory {
    /// Packs with their lengths in bytes, by id.
    pub packs: Vec<(PackId, u64)>,
    /// Index objects.
    pub indexes: Vec<IndexId>,
    /// Registered sessions.
    pub sessions: Vec<SessionId>,
    /// Sessions whose slots are decided.
    pub slots: Vec<SessionId>,
    /// Tombs of forgotten snapshots, and those that were undone and not taken away yet.
    pub tombs: Vec<TombId>,
    /// Key slots.
    pub keys: Vec<KeySlotId>,
    /// Key updates and their copies, by name.
    pub key_updates: Vec<String>,
    /// Objects of garbage collection, by name.
    pub generations: Vec<(ObjectKind, String)>,
    /// Packs of which a check has recorded that they are damaged.
    pub damaged: Vec<PackId>,
    /// Sessions that have shared when packs were proven.
    pub ledgers: Vec<SessionId>,
    /// Marks of tombs that were undone, by name; where the store cannot create if absent also marks of other decisions,
    /// and who collects. Records of object locks, too.
    pub marks: Vec<(ObjectKind, String)>,
    /// What repairs took out of the way, with lengths in bytes.
    pub quarantined: Vec<(String, u64)>,
    /// Names that mean nothing to this program.
    pub unknown: Vec<String>,
    /// Bytes of all objects together.
    pub stored_bytes: u64,
}

/// What an index object says of a pack, in 100 bytes: enough to see whether the pack says the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListedPack {
    /// Digest of the whole record.
    pub fingerprint: [u8; 32],
    /// Length of the object in bytes.
    pub object_length: u64,
    /// The index object that lists it, to read the record again.
    pub index: IndexId,
}

impl ListedPack {
    /// The record of `index`, in short.
    pub fn new(index: IndexId, record: &PackRecord) -> Self {
        ListedPack { fingerprint: fingerprint(record), object_length: record.object_length, index }
    }
}

fn fingerprint(record: &PackRecord) -> [u8; 32] {
    let mut bytes = record.header.encode().to_vec();
    bytes.extend_from_slice(&record.object_length.to_le_bytes());
    record.directory.encode(&mut bytes);
    *blake3::hash(&bytes).as_bytes()
}

impl Repository {
    /// Lists the whole store.
    pub fn inventory(&self) -> Result<Inventory> {
        let mut inventory = Inventory::default();
        for object in self.store.list("")? {
            inventory.stored_bytes += object.size;
            let name = object.name;
            if let Some(id) = layout::parse_pack(&name) {
                inventory.packs.push((id, object.size));
            } else if let Some(id) = layout::parse_index(&name) {
                inventory.indexes.push(id);
            } else if let Some(id) = layout::parse_session(&name) {
                inventory.sessions.push(id);
            } else if let Some(id) = layout::parse_snapshot(&name) {
                inventory.slots.push(id);
            } else if let Some(id) = layout::parse_tomb(&name) {
                inventory.tombs.push(id);
            } else if let Some(id) = layout::parse_key(&name) {
                inventory.keys.push(id);
            } else if layout::parse_key_update(&name).is_some() {
                inventory.key_updates.push(name);
            } else if layout::parse_condemned(&name).is_some() {
                inventory.generations.push((ObjectKind::Condemned, name));
            } else if layout::parse_sweep(&name).is_some() {
                inventory.generations.push((ObjectKind::Sweep, name));
            } else if let Some(id) = layout::parse_damaged(&name) {
                inventory.damaged.push(id);
            } else if let Some(id) = layout::parse_ledger(&name) {
                inventory.ledgers.push(id);
            } else if layout::parse_abort(&name).or(layout::parse_confirmed(&name)).is_some()
                || layout::parse_undone(&name).is_some()
            {
                inventory.marks.push((ObjectKind::Mark, name));
            } else if name == layout::MAINTAINER {
                inventory.marks.push((ObjectKind::Maintainer, name));
            } else if layout::parse_lock_record(&name).is_some() {
                inventory.marks.push((ObjectKind::LockRecord, name));
            } else if name.starts_with(layout::QUARANTINE) {
                inventory.quarantined.push((name, object.size));
            } else if name != layout::CONFIG
                && layout::parse_reserve(&name).is_none()
                && layout::parse_hot_mark(&name).is_none()
                && !name.starts_with(layout::PROBE)
            {
                inventory.unknown.push(name);
            }
        }
        // By id, which differs from by name where packs are spread over folders.
        inventory.packs.sort_unstable();
        Ok(inventory)
    }

    /// The index objects that the store lists now.
    pub fn listed_indexes(&self) -> Result<Vec<IndexId>> {
        let objects = self.store.list(layout::INDEX)?;
        Ok(objects.iter().filter_map(|object| layout::parse_index(&object.name)).collect())
    }

    /// BLAKE3 of every slot's object that this client knows, as [`Repository::slot_hash`] has it. After
    /// [`Repository::snapshots`] those are all that can be read.
    pub fn slot_hashes(&self) -> Result<HashSet<[u8; 32]>> {
        let slots = self.cache.slots()?;
        Ok(slots.values().map(|object| *blake3::hash(object).as_bytes()).collect())
    }

    /// Reads the config again and holds it against the settings in use.
    pub fn prove_config(&self) -> Result<()> {
        let object = self.store.get(layout::CONFIG)?;
        let payload = self.sealer().unseal(ObjectKind::Config, layout::CONFIG, object)?;
        if Settings::decode(&payload).named(layout::CONFIG)? != self.settings {
            return Err(RepositoryError::corrupt(
                layout::CONFIG,
                "holds other settings than when it was opened",
            ));
        }
        Ok(())
    }

    /// Unseals an object whose content nobody needs: a tomb, a list of garbage collection.
    pub fn prove_sealed(&self, kind: ObjectKind, name: &str) -> Result<()> {
        let object = self.store.get(name)?;
        self.sealer().unseal(kind, name, object).map(drop)
    }

    /// Unseals the object that says that a session's snapshot is forgotten.
    pub fn prove_tomb(&self, tomb: TombId) -> Result<()> {
        self.prove_sealed(ObjectKind::Tomb, &layout::tomb(tomb))
    }

    /// What an index object says of a pack.
    pub fn read_listed(&self, index: IndexId, pack: PackId) -> Result<PackRecord> {
        let found = self.read_index(index)?.packs.into_iter().find(|record| record.id == pack);
        found.ok_or_else(|| RepositoryError::corrupt(layout::index(index), "lists other packs now"))
    }
}

/// Names of objects, for messages.
pub mod names {
    pub use crate::store::layout::{
        CONFIG, condemned, index, key, pack, parse_pack, session, snapshot, sweep, tomb,
    };
}

/// What a pack turned out to be.
#[derive(Debug, Default)]
pub struct PackProof {
    /// Bytes read from the store for it, its bases not counted.
    pub bytes: u64,
    /// What is wrong with it.
    pub damage: Vec<RepositoryError>,
    /// The store says that there is no such pack.
    pub is_gone: bool,
    /// It is the pack that is wrong, and not this program or its keys that are too old for it.
    pub is_certain: bool,
    /// The blobs that cannot be read from it.
    pub lost: Vec<BlobId>,
    /// Every blob in it, when no index object lists it.
    pub blobs: Vec<BlobId>,
    /// How much of the damage is that of bases, which stand elsewhere.
    of_bases: usize,
    /// Whether something is damaged, and the pack's parity gives all of it back.
    pub is_mendable: bool,
}

impl PackProof {
    /// Whether nothing is wrong but that deltas in it lack their bases.
    pub fn is_of_bases(&self) -> bool {
        self.of_bases > 0 && self.of_bases == self.damage.len()
    }
}

/// Whether an error tells that the object is wrong, and not that the store cannot be reached.
pub fn is_damage(error: &RepositoryError) -> bool {
    matches!(error.kind, Kind::Corrupt | Kind::NotFound | Kind::Newer | Kind::WrongKey)
}

/// Proves pack after pack, with buffers that are used again. One for each thread.
pub struct PackVerifier<'r, 'a> {
    reader: &'r BlobReader<'a>,
    ahead: Option<&'r Ahead>,
    /// Where packs are proven part by part: fetches the next part.
    parts: Option<Arc<Ahead>>,
    deferred: Option<&'r Deferred>,
    /// Whether segments are left for later, of the pack that is proven.
    leaves: bool,
    decompressor: Decompressor,
    prefix: Prefix,
    plain: Vec<u8>,
    window: Vec<u8>,
}

impl<'r, 'a> PackVerifier<'r, 'a> {
    /// How many of them may be at work on packs of these lengths in so much memory: one at least.
    pub fn affordable(
        repository: &Repository,
        packs: &[(PackId, u64)],
        memory_budget: u64,
    ) -> usize {
        let largest = packs.iter().map(|(_, length)| *length).max().unwrap_or(0);
        let each = largest + 2 * u64::from(repository.settings().segment_length);
        (memory_budget / 2 / each.max(1)).max(1) as usize
    }

    /// A verifier that reads the bases of deltas through `reader`.
    pub fn new(reader: &'r BlobReader<'a>) -> Result<Self> {
        let decompressor = Decompressor::new().named("zstd")?;
        Ok(PackVerifier {
            reader,
            ahead: None,
            parts: reader.repository().fetches_next_part().map(Arc::new),
            deferred: None,
            leaves: false,
            decompressor,
            prefix: Prefix::default(),
            plain: Vec::new(),
            window: Vec::new(),
        })
    }

    /// The same, which takes what was fetched ahead.
    pub fn taking(self, ahead: Option<&'r Ahead>) -> Self {
        PackVerifier { ahead, ..self }
    }

    /// The same, which leaves segments for later ([`Deferred`]).
    pub fn deferring(self, deferred: Option<&'r Deferred>) -> Self {
        PackVerifier { deferred, ..self }
    }

    /// Reads all of the pack and proves every byte of it, but of the segments that it leaves for later only that they are
    /// authentic. Damage is in the answer; an error means that the store could not be asked. Where parity gives back
    /// what is damaged, no blob is lost.
    ///
    /// Of several stores, it is the first one's pack.
    pub fn verify(&mut self, id: PackId, listed: Option<&ListedPack>) -> Result<PackProof> {
        let fetched = self.ahead.and_then(|ahead| ahead.take_pack(id));
        self.leaves = true;
        self.verify_at(&self.reader.repository().store.leading(), fetched, id, listed)
    }

    /// The same once more, leaving nothing for later.
    pub fn verify_again(&mut self, id: PackId, listed: Option<&ListedPack>) -> Result<PackProof> {
        self.leaves = false;
        self.verify_at(&self.reader.repository().store.leading(), None, id, listed)
    }

    /// The same of a mirror's pack.
    pub fn verify_in(
        &mut self,
        mirror: &Mirror,
        id: PackId,
        listed: Option<&ListedPack>,
    ) -> Result<PackProof> {
        self.leaves = false;
        self.verify_at(&mirror.store, None, id, listed)
    }

    fn verify_at(
        &mut self,
        store: &Store,
        fetched: Option<std::result::Result<Vec<u8>, StoreError>>,
        id: PackId,
        listed: Option<&ListedPack>,
    ) -> Result<PackProof> {
        let repository = self.reader.repository();
        let name = layout::pack(id);
        // Of two stores, the hot one may be a disk, and the data elsewhere.
        let is_in_parts = fetched.is_none() && store.is_disk() && store.lists_cheaply();
        // That of the first store; what is read again, and again in a mirror, is read by itself.
        let parts = self.parts.clone().filter(|_| self.leaves);
        let sealed = match fetched {
            Some(fetched) => fetched.map(Sealed::whole),
            None if is_in_parts => Sealed::in_parts(store, id, &name, parts.as_deref()),
            None => store.get(&name).map(Sealed::whole),
        };
        let sealed = match sealed {
            Ok(sealed) => sealed,
            Err(error) => {
                let error = RepositoryError::from(error);
                if !is_damage(&error) {
                    return Err(error);
                }
                let mut proof = PackProof {
                    is_gone: error.kind == Kind::NotFound,
                    is_certain: true,
                    ..PackProof::default()
                };
                proof.damage.push(error);
                let record = self.read_record(id, listed, &mut proof)?;
                proof.lost.extend(record.iter().flat_map(blobs_of));
                return Ok(proof);
            }
        };
        let mut proof = match self.prove(id, listed, sealed)? {
            Some(proof) => proof,
            None => {
                // From the beginning, with nothing left for later, and all that is wrong with reading it told.
                self.leaves = false;
                if let Some(deferred) = self.deferred {
                    deferred.forget(id);
                }
                let fetched = store.get(&name);
                return self.verify_at(store, Some(fetched), id, listed);
            }
        };
        if proof.damage.is_empty() {
            return Ok(proof);
        }
        // It is proven as a whole, or found to be damaged.
        self.leaves = false;
        if let Some(deferred) = self.deferred {
            deferred.forget(id);
        }
        // Fetched again, since proving takes the bytes apart, and few packs are damaged.
        let record = self.read_record(id, listed, &mut PackProof::default())?;
        let header = record.map(|record| record.header);
        match repository.mend_in(store, id, header.as_ref()) {
            Ok(mended) if !mended.was_whole() => {
                let after = self.prove(id, listed, Sealed::whole(mended.object))?;
                let after = after.ok_or_else(|| {
                    RepositoryError::corrupt(&name, "what parity gave back cannot be read")
                })?;
                proof.is_mendable = after.damage.is_empty();
                proof.lost = after.lost;
                proof.damage.push(RepositoryError::corrupt(&name, "parity mends it"));
                proof.damage.extend(after.damage);
            }
            // As it was found, or without parity.
            Ok(_) => {}
            Err(error) if error.kind == Kind::Invalid => {}
            Err(error) if is_damage(&error) => {
                if !proof.damage.iter().any(|damage| damage.message == error.message) {
                    proof.damage.push(error);
                }
            }
            Err(error) => return Err(error),
        }
        Ok(proof)
    }

    /// What the index says of the pack: read only where the pack does not say the same of itself.
    fn read_record(
        &self,
        id: PackId,
        listed: Option<&ListedPack>,
        proof: &mut PackProof,
    ) -> Result<Option<PackRecord>> {
        let Some(listed) = listed else { return Ok(None) };
        match self.reader.repository().read_listed(listed.index, id) {
            Ok(record) => Ok(Some(record)),
            Err(error) if is_damage(&error) => {
                proof.damage.push(error);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Proves a pack whose object this is, or ought to be. `None`: a part could not be read; never where all of it is there.
    fn prove(
        &mut self,
        id: PackId,
        listed: Option<&ListedPack>,
        mut sealed: Sealed<'_>,
    ) -> Result<Option<PackProof>> {
        let repository = self.reader.repository();
        let name = layout::pack(id);
        let mut proof =
            PackProof { bytes: sealed.length(), is_certain: true, ..PackProof::default() };
        let length = listed.map_or(proof.bytes, |listed| listed.object_length);
        if length != proof.bytes {
            proof.damage.push(RepositoryError::corrupt(
                &name,
                format!("is {} bytes long instead of {length}", proof.bytes),
            ));
        }
        let kinds = [ObjectKind::DataPack, ObjectKind::TreePack];
        let mut record = None;
        let own = match repository.sealer().check_header(&kinds, &name, sealed.beginning()) {
            Ok(header) => Some(header),
            Err(error) => {
                let is_damage = error.kind == Kind::Corrupt;
                proof.damage.push(error);
                record = self.read_record(id, listed, &mut proof)?;
                // With the header that the index has, this program can read the pack.
                proof.is_certain = is_damage || record.is_some();
                record.as_ref().map(|record| record.header)
            }
        };
        let total = own.as_ref().and_then(|header| plain_length(header, length));
        let total = total.filter(|total| *total <= PACK_LENGTH_MAX);
        let (Some(header), Some(total)) = (own, total) else {
            if proof.damage.is_empty() {
                proof.damage.push(RepositoryError::corrupt(&name, not_whole(length)));
            }
            if record.is_none() {
                record = self.read_record(id, listed, &mut proof)?;
            }
            proof.lost.extend(record.iter().flat_map(blobs_of));
            return Ok(Some(proof));
        };
        let cipher = repository.sealer().object_cipher(&header, &name)?;
        if header.parity.is_some() {
            // Which is behind all frames and told of them all; nothing was opened yet.
            let Ok(object) = sealed.make_whole() else { return Ok(None) };
            if let Some(message) = damaged_parity(&cipher, object) {
                proof.damage.push(RepositoryError::corrupt(&name, message));
            }
        }
        let mut stream = Stream::new(sealed, cipher, total, std::mem::take(&mut self.window));
        let directory = stream.directory();
        if stream.has_failed() {
            return Ok(None);
        }
        let own = directory.map(|(directory, body_end)| {
            let object_length = proof.bytes;
            (PackRecord { id, header, object_length, directory }, body_end)
        });
        let mut body_end = None;
        match own {
            Ok((own, end)) => {
                body_end = Some(end);
                let agrees = listed.is_none_or(|listed| listed.fingerprint == fingerprint(&own));
                if agrees {
                    record = Some(own);
                } else {
                    if proof.damage.is_empty() {
                        proof.damage.push(RepositoryError::corrupt(
                            &name,
                            "its directory is not what the index says of it",
                        ));
                    }
                    // Reading goes by the index.
                    record = self.read_record(id, listed, &mut proof)?.or(Some(own));
                }
            }
            Err(error) => {
                // A frame that does not open is told below, with its place.
                if stream.bad().is_empty() {
                    proof.damage.push(error.map_or_else(
                        || RepositoryError::corrupt(&name, "its directory cannot be found"),
                        |error| RepositoryError { item: name.clone(), ..error },
                    ));
                }
                if record.is_none() {
                    record = self.read_record(id, listed, &mut proof)?;
                }
            }
        }
        if let Some(record) = &record {
            let segments = &record.directory.segments;
            for (number, segment) in segments.iter().enumerate() {
                let kind = record.header.kind;
                let later = segments.get(number + DELTAS_AHEAD).map(|later| &later.encoding);
                if let (Encoding::Delta(now), Some(Encoding::Delta(later))) =
                    (&segment.encoding, later)
                {
                    self.reader.open_meanwhile(now.first(), later.last());
                }
                self.verify_segment(id, kind, number, segment, &mut stream, &mut proof)?;
                if stream.has_failed() {
                    return Ok(None);
                }
            }
            if listed.is_none() {
                proof.blobs.extend(blobs_of(record));
            }
        }
        let padding = record.map_or(0, |record| record.directory.body_length());
        // Without a directory nobody asks what is in it, but that each frame opens.
        stream.open(if body_end.is_some() { padding } else { total }..total);
        if let Some(end) = body_end {
            let padding = padding..end;
            if padding.start > padding.end {
                let message = "its segments reach into its directory";
                proof.damage.push(RepositoryError::corrupt(&name, message));
            } else if !stream.is_zero(padding) {
                let message = "its padding is not zero";
                proof.damage.push(RepositoryError::corrupt(&name, message));
            }
        }
        if let Some(first) = stream.bad().iter().min() {
            let at = HEADER_LENGTH + first * SEALED_FRAME_LENGTH;
            proof.damage.push(RepositoryError::corrupt(
                &name,
                format!(
                    "{} of {} frames fail authentication, the first one at byte {at}",
                    stream.bad().len(),
                    stream.frames(),
                ),
            ));
        }
        proof.is_certain &= !proof.is_of_bases();
        let has_failed = stream.has_failed();
        self.window = stream.into_memory();
        if self.window.capacity() > WINDOW_KEPT {
            self.window = Vec::new();
        }
        Ok((!has_failed).then_some(proof))
    }

    fn verify_segment(
        &mut self,
        id: PackId,
        kind: ObjectKind,
        number: usize,
        segment: &SegmentRecord,
        stream: &mut Stream<'_>,
        proof: &mut PackProof,
    ) -> Result<()> {
        let lost = segment.blobs.iter().map(|blob| blob.id);
        let end = segment.offset + u64::from(segment.stored_length);
        stream.open(segment.offset..end);
        let Some(stored) = stream.read(segment.offset..end) else {
            proof.lost.extend(lost);
            return Ok(());
        };
        if self.leaves
            && segment.encoding == Encoding::Zstd
            && let Some(deferred) = self.deferred
            && deferred.leave((id, number as u32), &segment.blobs)
        {
            return Ok(());
        }
        let name = &layout::pack(id);
        let repository = self.reader.repository();
        let name_of = |blob: &[u8]| repository.name_of(kind, blob);
        let item = || format!("{name}, segment {number}");
        let length = segment.plain_length() as usize;
        let plain = match &segment.encoding {
            Encoding::Stored => stored,
            // Of a later version: nothing here can refer to its blobs, and its frames are proven.
            Encoding::Unknown(_) => return Ok(()),
            encoding => {
                self.prefix.clear();
                let mut prefix = Ok(());
                if let Encoding::Delta(bases) = encoding {
                    // Each byte that comes out is held against its name: only if one is wrong, it matters whether it is for
                    // a base. Bases are proven by themselves where all packs are.
                    if self.deferred.is_some() {
                        prefix = self.reader.fill_prefix(
                            kind,
                            name,
                            bases,
                            false,
                            false,
                            &mut self.prefix,
                        );
                        if self.decompress(stored, length, prefix, item).is_ok()
                            && wrong_blobs(&self.plain, &segment.blobs, name_of).is_none()
                        {
                            return Ok(());
                        }
                    }
                    prefix =
                        self.reader.fill_prefix(kind, name, bases, true, false, &mut self.prefix);
                }
                proof.of_bases += usize::from(prefix.as_ref().is_err_and(is_damage));
                match self.decompress(stored, length, prefix, item) {
                    Ok(()) => &self.plain,
                    Err(error) if is_damage(&error) => {
                        proof.lost.extend(lost);
                        proof.damage.push(error);
                        return Ok(());
                    }
                    Err(error) => return Err(error),
                }
            }
        };
        if let Some(wrong) = wrong_blobs(plain, &segment.blobs, name_of) {
            let (wrong_count, count) = (wrong.len(), segment.blobs.len());
            proof.lost.extend(wrong);
            let message = format!("{wrong_count} of {count} blobs are not what it says");
            proof.damage.push(RepositoryError::corrupt(item(), message));
        }
        Ok(())
    }

    /// Decompresses a segment against the prefix, if there is one.
    fn decompress(
        &mut self,
        stored: &[u8],
        length: usize,
        prefix: Result<()>,
        item: impl Fn() -> String,
    ) -> Result<()> {
        let (bases, plain) = (&self.prefix, &mut self.plain);
        let done = prefix.and_then(|()| {
            self.decompressor.decompress_into(stored, bases, length, plain).named(item())
        });
        self.prefix.clear();
        done
    }
}

/// The blobs of a segment with this content that are not what they are called; `None`: it is all right.
pub(super) fn wrong_blobs(
    plain: &[u8],
    blobs: &[BlobRecord],
    name: impl Fn(&[u8]) -> BlobId,
) -> Option<Vec<BlobId>> {
    let mut rest = plain;
    let mut wrong = Vec::new();
    for blob in blobs {
        let Some((bytes, after)) = rest.split_at_checked(blob.length as usize) else {
            wrong.push(blob.id);
            continue;
        };
        rest = after;
        if name(bytes) != blob.id {
            wrong.push(blob.id);
        }
    }
    (!wrong.is_empty() || !rest.is_empty()).then_some(wrong)
}

/// What is wrong behind the frames of a pack with parity.
fn damaged_parity(cipher: &ObjectCipher, object: &[u8]) -> Option<String> {
    let shape = PackShape::new(cipher.header.parity?)?;
    let damaged = shape.damaged_shards(cipher, object).len();
    if damaged > 0 {
        return Some(format!("{damaged} of {} parity shards are damaged", shape.shards()));
    }
    let is_whole = shape.copy_is_whole(cipher, object);
    (!is_whole).then(|| "the copy of its header is damaged".to_string())
}

fn blobs_of(record: &PackRecord) -> impl Iterator<Item = BlobId> + '_ {
    record.directory.segments.iter().flat_map(|segment| &segment.blobs).map(|blob| blob.id)
}
