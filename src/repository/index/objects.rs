//! Brings index objects, and the packs that no index object lists, into the cache.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::sync::mpsc::sync_channel;

use rayon::iter::{IntoParallelRefIterator, ParallelIterator};

use super::super::Repository;
use super::super::error::{Kind, Named, RepositoryError, Result};
use super::super::generations::Generations;
use super::super::look::{ListedIndexes, Look};
use super::super::mend::{not_whole, plain_length};
use super::super::seal::{frames_covering, unseal_range};
use super::super::verify::is_damage;
use super::cache::Dropped;
use crate::format::bytes::Reader;
use crate::format::header::{HEADER_LENGTH, Header, ObjectKind};
use crate::format::index::{Index, PackRecord};
use crate::format::pack::{PACK_TRAILER_LENGTH, PackDirectory, locate_directory};
use crate::id::{IndexId, PackId, SessionId};
use crate::monitor::{Monitor, Phase};
use crate::store::{ObjectInfo, layout};

/// Bytes of index objects that are taken in together; one that is larger, alone. A writer's own are 18 MB at the
/// most (half a million blobs), so large ones do not share memory, and of small ones few commits are made.
const BATCH: u64 = 16 << 20;
/// Objects read at a time: reading one is waiting, far more than work.
const READERS: usize = 8;
/// How often the index is listed anew because what was listed was merged before it could be read.
const LISTINGS: usize = 8;
/// How much of a pack's end is read at first to find its directory.
const TAIL: u64 = 256 << 10;

/// So many packs are listed at once, which costs fewer calls; of more, one folder after another.
const LISTED_AT_ONCE: u64 = 4096;

/// Numbers of packs, a bit for each up to the highest.
#[derive(Default)]
struct NumberSet(Vec<u64>);

impl NumberSet {
    fn insert(&mut self, number: u32) {
        let word = number as usize / 64;
        if word >= self.0.len() {
            self.0.resize(word + 1, 0);
        }
        self.0[word] |= 1 << (number % 64);
    }

    fn contains(&self, number: u32) -> bool {
        self.0.get(number as usize / 64).is_some_and(|word| word & (1 << (number % 64)) != 0)
    }

    fn extend(&mut self, other: &NumberSet) {
        self.0.resize(self.0.len().max(other.0.len()), 0);
        for (word, other) in self.0.iter_mut().zip(&other.0) {
            *word |= other;
        }
    }
}

fn thread_failed() -> RepositoryError {
    RepositoryError::new(Kind::Unavailable, "reading from the store", "a thread failed")
}

/// Index objects that were read, and those that could not be.
#[derive(Default)]
struct ReadIndexes {
    ids: Vec<IndexId>,
    packs: Vec<PackRecord>,
    superseded: Vec<IndexId>,
    listings: Vec<(IndexId, Vec<PackId>)>,
    damaged: Vec<RepositoryError>,
    /// One was gone when it was to be read: it has been merged with others.
    vanished: bool,
}

impl ReadIndexes {
    fn take(&mut self, indexes: Vec<(IndexId, Result<Index>)>) -> Result<()> {
        for (id, index) in indexes {
            match index {
                Ok(index) => {
                    self.ids.push(id);
                    let listed = index.packs.iter().map(|pack| pack.id).collect();
                    self.listings.push((id, listed));
                    self.packs.extend(index.packs);
                    self.superseded.extend(index.superseded);
                }
                Err(error) if error.kind == Kind::NotFound => self.vanished = true,
                // One flipped bit can make an object look newer, or sealed with another key: it must not
                // stop every command.
                Err(error) if is_damage(&error) => {
                    self.damaged.push(error);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// A pack with its length, and why it could not be read.
type Unread = (PackId, u64, RepositoryError);

/// What bringing the cache up to date found.
#[derive(Debug, Default)]
pub struct IndexReport {
    /// Index objects that cannot be read.
    pub damaged: Vec<RepositoryError>,
    /// What collectors had published when the index was read.
    pub generations: Generations,
    /// Packs that an index object lists and a listing, if one was needed, did not show.
    pub missing: Vec<PackId>,
    /// The oldest generation of the sessions whose index objects were new.
    oldest_session: Option<u32>,
}

/// The index objects that are listed and not known, in parts to be read together.
fn batches(listed: &BTreeMap<IndexId, u64>, known: &BTreeSet<IndexId>) -> Vec<Vec<IndexId>> {
    let mut batches: Vec<Vec<IndexId>> = Vec::new();
    let mut bytes = 0;
    for (id, size) in listed.iter().filter(|(id, _)| !known.contains(id)) {
        bytes += size;
        match batches.last_mut() {
            Some(batch) if bytes <= BATCH => batch.push(*id),
            _ => {
                batches.push(vec![*id]);
                bytes = *size;
            }
        }
    }
    batches
}

/// Packs that no index object lists and that could not be taken in.
#[derive(Debug, Default)]
pub struct NotAdopted {
    /// Those, with their lengths, that nobody will ever take in: parts of uploads, and packs whose directories are
    /// damaged or whose epoch's data key was dropped.
    pub given_up: Vec<(PackId, u64)>,
    /// Why the first of the others could not be read: it is newer, needs a key that is missing here, is another
    /// repository's, or could not be asked for.
    pub unread: Option<RepositoryError>,
}

impl Repository {
    /// Brings the cache up to date: follows the sweeps, and takes in the index objects that it has not seen. A
    /// damaged one is passed over: what only it lists counts as absent, and is stored again by the next backup that
    /// meets it. To be called after registering, because what is learned afterwards is what a collector
    /// must respect.
    pub fn refresh_index(&self, monitor: &dyn Monitor) -> Result<IndexReport> {
        self.prove_remembered_keys()?;
        let generations = self.generations()?;
        self.take_index(generations, None, monitor)
    }

    /// The same by what a reader saw when it had registered, if it looked.
    pub fn refresh_index_by(
        &self,
        look: Option<Look>,
        monitor: &dyn Monitor,
    ) -> Result<IndexReport> {
        match look {
            Some(look) => {
                self.prove_remembered_keys()?;
                self.take_index(look.generations, Some(look.indexes), monitor)
            }
            None => self.refresh_index(monitor),
        }
    }

    /// The same for a writer, by what it saw when it had registered.
    pub(in crate::repository) fn take_index(
        &self,
        generations: Generations,
        mut listed: Option<ListedIndexes>,
        monitor: &dyn Monitor,
    ) -> Result<IndexReport> {
        monitor.phase(Phase::LoadIndex);
        self.follow_sweeps(&generations)?;
        let mut report = IndexReport { generations, ..IndexReport::default() };
        // Once more for each time that an object was merged with others between being listed and being read.
        for _ in 0..LISTINGS {
            let listed = match listed.take() {
                Some(listed) => listed,
                None => {
                    let known = self.cache.indexes()?;
                    ListedIndexes::new(known, &self.store.list(layout::INDEX)?)
                }
            };
            if self.take_index_objects(listed, &mut report)? {
                return self.list_packs_when_needed(report);
            }
        }
        Err(RepositoryError::new(
            Kind::Unavailable,
            layout::INDEX,
            "changes faster than it can be read, or lists what is gone; run the command again, or, where \
             the store's listings are late, when they are up to date",
        ))
    }

    /// Where index objects or sweeps were missed, only a listing tells which packs are there.
    fn list_packs_when_needed(&self, mut report: IndexReport) -> Result<IndexReport> {
        let followed = self.cache.followed()?;
        let from = followed.map_or(0, |followed| followed.from);
        let is_stale = report.oldest_session.is_some_and(|oldest| oldest < from);
        if is_stale || followed.is_some_and(|followed| followed.unlisted) {
            report.missing = self.missing_packs()?;
            // Until no index object lists them any more.
            self.cache.set_unlisted(!report.missing.is_empty())?;
        }
        Ok(report)
    }

    /// Takes in what is new. `false`: something was gone when it was to be read.
    fn take_index_objects(
        &self,
        ListedIndexes { known, listed }: ListedIndexes,
        report: &mut IndexReport,
    ) -> Result<bool> {
        // Following the sweeps may have emptied the cache since.
        let now = self.cache.indexes()?;
        let mut known: BTreeSet<IndexId> = known.intersection(&now).copied().collect();
        let mut is_whole = self.take_batches(&batches(&listed, &now), report)?;
        let gone: Vec<IndexId> =
            known.iter().filter(|id| !listed.contains_key(id)).copied().collect();
        if !gone.is_empty() && !self.cache.forget_superseded(&gone)? {
            // What an index object listed may be gone with it: start over.
            self.cache.clear()?;
            known.clear();
            is_whole &= self.take_batches(&batches(&listed, &known), report)?;
        }
        Ok(is_whole)
    }

    /// Takes in these index objects. `false`: one of them was gone.
    fn take_batches(&self, batches: &[Vec<IndexId>], report: &mut IndexReport) -> Result<bool> {
        if batches.is_empty() {
            return Ok(true);
        }
        let mut is_whole = true;
        if self.threads(2) == 1 {
            for batch in batches {
                is_whole &= self.take_batch(self.read_indexes(batch)?, report)?;
            }
            self.cache.settle()?;
            return Ok(is_whole);
        }
        // The next batch is read while one is taken in: at most two are in memory.
        std::thread::scope(|scope| {
            let (sender, receiver) = sync_channel(0);
            scope.spawn(move || {
                batches.iter().map(|batch| self.read_indexes(batch)).all(|read| {
                    let is_whole = read.is_ok();
                    sender.send(read).is_ok() && is_whole
                })
            });
            for read in receiver {
                is_whole &= self.take_batch(read?, report)?;
            }
            self.cache.settle()
        })?;
        Ok(is_whole)
    }

    /// Takes in a batch that was read. `false`: a part of it was gone.
    fn take_batch(&self, read: ReadIndexes, report: &mut IndexReport) -> Result<bool> {
        let oldest = read.ids.iter().map(|id| id.session.generation).min();
        report.oldest_session = match (report.oldest_session, oldest) {
            (Some(known), Some(new)) => Some(known.min(new)),
            (known, new) => known.or(new),
        };
        for error in read.damaged {
            if report.damaged.iter().all(|known| known.item != error.item) {
                report.damaged.push(error);
            }
        }
        self.cache.append(&read.ids, &read.packs)?;
        self.cache.supersede(&read.superseded)?;
        self.cache.note_listing(&read.listings)?;
        Ok(!read.vanished)
    }

    fn read_indexes(&self, ids: &[IndexId]) -> Result<ReadIndexes> {
        let indexes = self.in_parts(ids, |part| -> Vec<_> {
            part.iter().map(|id| (*id, self.read_index(*id))).collect()
        });
        let mut read = ReadIndexes::default();
        for indexes in indexes {
            read.take(indexes.map_err(|_| thread_failed())?)?;
        }
        Ok(read)
    }

    /// The packs that the index lists and that are missing in the store or have another length there: a writer
    /// must not refer to them, and stores what they held again. Costs one listing of all packs, so it is for
    /// stores where that is cheap, and a question by name for each that it does not show.
    ///
    /// On a disk, many packs are listed a folder at a time. Memory: a bit for each pack, and the listings of as many
    /// folders as threads read, of each a 256th of all packs.
    pub fn missing_packs(&self) -> Result<Vec<PackId>> {
        self.missing_packs_of(LISTED_AT_ONCE)
    }

    /// The same; more packs than `at_once` are listed folder by folder where listing is cheap.
    fn missing_packs_of(&self, at_once: u64) -> Result<Vec<PackId>> {
        let (mut count, mut folders) = (0, BTreeSet::new());
        self.cache.each_pack(|_, id, _| {
            count += 1;
            folders.insert(id.session.random[0]);
        })?;
        let prefixes: Vec<String> = match self.store.lists_cheaply() && count > at_once {
            true => folders.into_iter().map(layout::pack_folder).collect(),
            false => vec![layout::PACKS.to_string()],
        };
        let mut shown = NumberSet::default();
        for part in self.in_parts(&prefixes, |part| self.shown_in(part)) {
            shown.extend(&part.map_err(|_| thread_failed())??);
        }
        // What another thread has uploaded since, and what a listing leaves out although it is there, is asked for.
        let mut unshown = Vec::new();
        self.cache.each_pack(|number, id, length| {
            if !shown.contains(number) {
                unshown.push((id, length));
            }
        })?;
        let asked = self.in_parts(&unshown, |part| -> Result<Vec<PackId>> {
            let mut missing = Vec::new();
            for (id, length) in part {
                if !self.store.has(&layout::pack(*id), *length)? {
                    missing.push(*id);
                }
            }
            Ok(missing)
        });
        let mut missing = Vec::new();
        for part in asked {
            missing.extend(part.map_err(|_| thread_failed())??);
        }
        Ok(missing)
    }

    /// The numbers of the packs that a listing of these folders shows with the length that the index has for them.
    fn shown_in(&self, prefixes: &[String]) -> Result<NumberSet> {
        let mut shown = NumberSet::default();
        for prefix in prefixes {
            let listed: Vec<(PackId, u64)> = self
                .store
                .list(prefix)?
                .iter()
                .filter_map(|object| Some((layout::parse_pack(&object.name)?, object.size)))
                .collect();
            let known = self.cache.lengths(listed.iter().map(|(id, _)| *id))?;
            for ((_, listed), known) in listed.iter().zip(known) {
                if let Some((number, _)) = known.filter(|(_, length)| length == listed) {
                    shown.insert(number);
                }
            }
        }
        Ok(shown)
    }

    /// How long these packs are in the store, in bytes; those that are gone are not in the answer. Costs one listing
    /// of all packs, 150 bytes of memory for each, and a question by name for each that it does not show.
    pub fn lengths_of(
        &self,
        packs: impl IntoIterator<Item = PackId>,
    ) -> Result<HashMap<PackId, u64>> {
        let listed = self.store.list(layout::PACKS)?;
        let mut lengths: HashMap<PackId, u64> = listed
            .iter()
            .filter_map(|object| Some((layout::parse_pack(&object.name)?, object.size)))
            .collect();
        let unlisted: Vec<PackId> =
            packs.into_iter().filter(|id| !lengths.contains_key(id)).collect();
        // A listing may leave out what is there.
        let asked = self.in_parts(&unlisted, |part| -> Result<Vec<(PackId, u64)>> {
            let mut found = Vec::new();
            for id in part {
                found.extend(self.store.size(&layout::pack(*id))?.map(|length| (*id, length)));
            }
            Ok(found)
        });
        for asked in asked {
            lengths.extend(asked.map_err(|_| thread_failed())??);
        }
        Ok(lengths)
    }

    /// Reads one index object.
    pub fn read_index(&self, id: IndexId) -> Result<Index> {
        let name = layout::index(id);
        let object = self.store.get(&name)?;
        let payload = self.sealer().unseal(ObjectKind::Index, &name, object)?;
        Index::decode(&payload).named(name)
    }

    /// Takes in the packs of these sessions that no index object lists: those of writers that were stopped.
    /// Returns how many there were. Packs that cannot be read are passed over.
    pub fn adopt_packs(&self, sessions: &[SessionId]) -> Result<u64> {
        let mut objects = Vec::new();
        for session in sessions {
            objects.extend(self.store.list(&layout::session_packs(*session))?);
        }
        Ok(self.adopt(objects, false)?.0)
    }

    /// Takes in every pack of the store that no index object lists; of several stores, of the first.
    pub fn adopt_all_packs(&self) -> Result<u64> {
        Ok(self.adopt(self.store.leading().list(layout::PACKS)?, false)?.0)
    }

    /// The same for a collector. Returns what could not be taken in.
    pub fn adopt_or_give_up(&self) -> Result<NotAdopted> {
        let (_, unread) = self.adopt(self.store.list(layout::PACKS)?, false)?;
        let mut rest = NotAdopted::default();
        for (id, length, error) in unread {
            // What is in an archive goes unread: nothing is collected if anything that is needed stands nowhere else.
            if error.kind == Kind::Archived || self.is_beyond_reading(id, &error)? {
                rest.given_up.push((id, length));
            } else if error.kind != Kind::NotFound {
                rest.unread.get_or_insert(error);
            }
        }
        Ok(rest)
    }

    /// For whoever misses something: an error when it may be in a pack that no index object lists and that is in an archive,
    /// as far as such packs were looked at. It is not lost then.
    pub fn require_readable_packs(&self) -> Result<()> {
        match self.archived.get() {
            None => Ok(()),
            Some(error) => Err(RepositoryError {
                message: format!(
                    "{}. No index object lists it, and something that is missed may be in it",
                    error.message
                ),
                ..error.clone()
            }),
        }
    }

    /// Whether a pack that could not be read, for this reason, never will be.
    fn is_beyond_reading(&self, id: PackId, error: &RepositoryError) -> Result<bool> {
        if !matches!(error.kind, Kind::Corrupt | Kind::WrongKey) {
            return Ok(false);
        }
        let head = match self.store.get_range(&layout::pack(id), 0..HEADER_LENGTH as u64) {
            Ok(head) => head,
            // Shorter than a header.
            Err(error) if error.kind == crate::store::Kind::Truncated => return Ok(true),
            Err(error) if error.kind == crate::store::Kind::NotFound => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        Ok(match Header::decode(&head) {
            Err(error) => error.kind == crate::format::Kind::Corrupt,
            // Another repository's, unless only the name of the repository is damaged.
            Ok(header) if header.repository != self.id => {
                let ours = Header { repository: self.id, ..header };
                let cipher = self.sealer().object_cipher(&ours, &layout::pack(id));
                cipher.is_ok_and(|cipher| cipher.header.commitment == header.commitment)
            }
            Ok(_) if error.kind == Kind::Corrupt => true,
            Ok(header) => self.sealer().has_dropped(header.epoch),
        })
    }

    /// The same for a reader, who takes what parity can mend. A writer does not: what only a mended pack has is
    /// better stored again.
    pub fn adopt_readable_packs(&self) -> Result<u64> {
        Ok(self.adopt(self.store.list(layout::PACKS)?, true)?.0)
    }

    /// Returns how many were taken in, and which could not be read.
    fn adopt(&self, objects: Vec<ObjectInfo>, mends: bool) -> Result<(u64, Vec<Unread>)> {
        let listed: Vec<(PackId, u64)> = objects
            .iter()
            .filter_map(|object| Some((layout::parse_pack(&object.name)?, object.size)))
            .collect();
        let known = self.cache.lengths(listed.iter().map(|(id, _)| *id))?;
        let new = listed.into_iter().zip(known).filter(|(_, known)| known.is_none());
        let new: Vec<(PackId, u64)> = new.map(|(pack, _)| pack).collect();
        let (mut adopted, mut unread) = (0, Vec::new());
        for batch in new.chunks(64) {
            let mut packs = Vec::new();
            for (id, length, record) in self.read_pack_directories(batch, mends) {
                match record {
                    Ok(record) => packs.push(record),
                    Err(error) => {
                        if error.kind == Kind::Archived {
                            // The first one is told. Set once.
                            let _ = self.archived.set(error.clone());
                        }
                        unread.push((id, length, error));
                    }
                }
            }
            adopted += packs.len() as u64;
            self.cache.append(&[], &packs)?;
        }
        self.cache.settle()?;
        Ok((adopted, unread))
    }

    /// What these packs say of themselves, as far as they can be read. Threads of its own and not rayon's:
    /// whoever adopts holds a lock, and a rayon worker that waits takes up other work, which may want it.
    fn read_pack_directories(
        &self,
        packs: &[(PackId, u64)],
        mends: bool,
    ) -> Vec<(PackId, u64, Result<PackRecord>)> {
        let read_one = |(id, size): &(PackId, u64)| {
            let record = match mends {
                true => self.readable_record(*id, *size),
                false => self.read_pack_directory(*id, *size),
            };
            (*id, *size, record)
        };
        let read = self.in_parts(packs, |part| part.iter().map(read_one).collect::<Vec<_>>());
        read.into_iter().filter_map(std::result::Result::ok).flatten().collect()
    }

    /// What `work` makes of each part of `all`. The parts are worked on at once, by as many threads as read;
    /// a single one by the calling thread.
    pub(in crate::repository) fn in_parts<T: Sync, R: Send>(
        &self,
        all: &[T],
        work: impl Fn(&[T]) -> R + Sync,
    ) -> Vec<std::thread::Result<R>> {
        let length = all.len().div_ceil(self.threads(READERS)).max(1);
        if all.len() <= length {
            return vec![Ok(work(all))];
        }
        let work = &work;
        std::thread::scope(|scope| {
            let parts = all.chunks(length);
            let threads: Vec<_> = parts.map(|part| scope.spawn(move || work(part))).collect();
            threads.into_iter().map(std::thread::ScopedJoinHandle::join).collect()
        })
    }

    /// What the packs that no index object lists say of themselves. One that is gone is dropped.
    pub fn adopted_records(&self) -> Result<Vec<PackRecord>> {
        let adopted = self.cache.adopted_packs()?;
        if adopted.is_empty() {
            return Ok(Vec::new());
        }
        let mut packs = Vec::new();
        self.cache.each_pack(|_, id, length| {
            if adopted.contains(&id) {
                packs.push((id, length));
            }
        })?;
        let read: Vec<_> = packs
            .par_iter()
            .map(|(id, length)| (*id, self.read_pack_directory(*id, *length)))
            .collect();
        let mut records = Vec::new();
        let mut gone = Vec::new();
        for (id, record) in read {
            match record {
                // What only a later version can list whole is left for it to list.
                Ok(record) if record.directory.has_unknown_encodings() => {}
                Ok(record) => records.push(record),
                Err(error) if is_damage(&error) => gone.push(id),
                Err(error) => return Err(error),
            }
        }
        if !gone.is_empty() {
            self.cache.drop_packs(&gone, Dropped::Gone)?;
        }
        Ok(records)
    }

    /// How long a pack is in the store, in bytes.
    pub fn pack_length(&self, id: PackId) -> Result<u64> {
        let name = layout::pack(id);
        let gone = || RepositoryError::new(Kind::NotFound, &name, "is gone");
        self.store.size(&name)?.ok_or_else(gone)
    }

    /// What a pack of `object_length` bytes says of itself, from its header and its end.
    pub fn read_pack_directory(&self, id: PackId, object_length: u64) -> Result<PackRecord> {
        let name = layout::pack(id);
        let head = self.store.get_range(&name, 0..HEADER_LENGTH as u64)?;
        let kinds = [ObjectKind::DataPack, ObjectKind::TreePack];
        let header = self.sealer().check_header(&kinds, &name, &head)?;
        let fetch = |range| Ok(self.store.get_range(&name, range)?);
        self.decode_pack(id, &name, header, object_length, fetch)
    }

    /// What a pack of `object_length` bytes says of itself, after parity has mended it where it is damaged. Where
    /// parity cannot, the pack's own damage says more.
    pub fn readable_record(&self, id: PackId, object_length: u64) -> Result<PackRecord> {
        self.read_pack_directory(id, object_length).or_else(|error| match is_damage(&error) {
            true => self.mended_record(id).map_err(|_| error),
            false => Err(error),
        })
    }

    /// What a pack in no index object says of itself after parity has mended it.
    pub fn mended_record(&self, id: PackId) -> Result<PackRecord> {
        let (name, mended) = (layout::pack(id), self.mend_listed(id, None)?);
        self.remember_mended(id, &mended);
        let fetch = |range: Range<u64>| -> Result<Vec<u8>> {
            let sealed = mended.object.get(range.start as usize..range.end as usize);
            Ok(sealed.ok_or_else(|| RepositoryError::corrupt(&name, "is cut short"))?.to_vec())
        };
        self.decode_pack(id, &name, mended.header, mended.object.len() as u64, fetch)
    }

    /// Finds the directory at the end of a pack's frames, of which `fetch` gives bytes of the object.
    fn decode_pack(
        &self,
        id: PackId,
        name: &str,
        header: Header,
        object_length: u64,
        fetch: impl Fn(Range<u64>) -> Result<Vec<u8>>,
    ) -> Result<PackRecord> {
        let corrupt = |message: &str| RepositoryError::corrupt(name, message);
        let total = plain_length(&header, object_length)
            .ok_or_else(|| corrupt(&not_whole(object_length)))?;
        let cipher = self.sealer().object_cipher(&header, name)?;
        let read = |offset: u64, length: usize| -> Result<Vec<u8>> {
            let (range, first) = frames_covering(offset, length as u64, total);
            unseal_range(&cipher, name, fetch(range)?, first, offset, length, total)
        };
        let tail_length = total.min(TAIL);
        let tail_offset = total - tail_length;
        let tail = read(tail_offset, tail_length as usize)?;
        let (offset, length) = locate_directory(total, &tail).named(name)?;
        let bytes = match offset.checked_sub(tail_offset) {
            Some(start) => tail[start as usize..start as usize + length].to_vec(),
            None => read(offset, length)?,
        };
        let mut reader = Reader::new(&bytes);
        let directory = PackDirectory::decode(&mut reader).named(name)?;
        reader.finish().named(name)?;
        if directory.body_length() + length as u64 + PACK_TRAILER_LENGTH as u64 > total {
            return Err(corrupt("its segments reach into its directory"));
        }
        Ok(PackRecord { id, header, object_length, directory })
    }
}
