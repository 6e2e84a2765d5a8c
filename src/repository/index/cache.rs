//! The local redb file: runs of blob locations, packs, which index objects are in it, and which snapshots
//! were seen. Disposable: when it is gone or broken it is made anew from the store.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use redb::{
    Database, DatabaseError, ReadOnlyTable, ReadableDatabase, ReadableTable, TableDefinition,
    WriteTransaction,
};

use super::super::error::{Kind, RepositoryError, Result};
use super::filter::Filter;
use super::run::{BlockWriter, IndexEntry, block_key, decode_block, encode_block, search_block};
use super::{Location, PackInfo, SegmentInfo, locations};
use crate::format::bytes::{Reader, put_varint};
use crate::format::header::{HEADER_LENGTH, Header};
use crate::format::index::PackRecord;
use crate::format::pack::Encoding;
use crate::id::{BlobId, IndexId, PackId, RepositoryId, SessionId, SnapshotId};

/// Raised whenever a table changes its meaning: an older cache is thrown away.
const CACHE_VERSION: u64 = 1;
/// redb's page cache, in bytes. Part of the memory budget.
const PAGE_CACHE: usize = 16 << 20;

/// `version` and `repository`.
const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");
/// Names of the index objects whose packs are in the runs.
const INDEXES: TableDefinition<&[u8], ()> = TableDefinition::new("indexes");
/// Pack number → what reading needs.
const PACKS: TableDefinition<u32, &[u8]> = TableDefinition::new("packs");
/// Pack name → pack number.
const PACK_NUMBERS: TableDefinition<&[u8], u32> = TableDefinition::new("pack_numbers");
/// (run, key of the first entry) → block.
const BLOCKS: TableDefinition<(u32, u64), &[u8]> = TableDefinition::new("blocks");
/// Run → number of entries (8 bytes), then the filter.
const RUNS: TableDefinition<u32, &[u8]> = TableDefinition::new("runs");
/// Names of packs that are in the runs although no index object lists them.
const ADOPTED: TableDefinition<&[u8], ()> = TableDefinition::new("adopted");
/// Names of packs that an index object lists and the store has not.
const MISSING: TableDefinition<&[u8], ()> = TableDefinition::new("missing");
/// Name of a slot → its sealed object.
const SLOTS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("slots");

/// A run, as far as looking up needs it in memory.
struct Run {
    number: u32,
    entries: u64,
    filter: Filter,
}

/// What look-ups read, replaced after every commit.
struct View {
    runs: Vec<Run>,
    blocks: ReadOnlyTable<(u32, u64), &'static [u8]>,
    packs: ReadOnlyTable<u32, &'static [u8]>,
}

/// The cache of one repository.
pub struct IndexCache {
    database: Database,
    view: RwLock<Arc<View>>,
    packs: Mutex<HashMap<u32, Arc<PackInfo>>>,
}

fn cache_error(error: impl std::fmt::Display) -> RepositoryError {
    RepositoryError::new(
        Kind::Unavailable,
        "local cache",
        format!("{error}; deleting the cache directory is safe and makes it anew"),
    )
}

fn name_bytes(session: SessionId, number: u32) -> [u8; SessionId::LENGTH + 4] {
    let mut bytes = [0; SessionId::LENGTH + 4];
    bytes[..SessionId::LENGTH].copy_from_slice(&session.to_bytes());
    bytes[SessionId::LENGTH..].copy_from_slice(&number.to_le_bytes());
    bytes
}

fn read_name(bytes: &[u8]) -> Option<(SessionId, u32)> {
    let session = SessionId::from_bytes(bytes.get(..SessionId::LENGTH)?.try_into().ok()?);
    let number = u32::from_le_bytes(bytes.get(SessionId::LENGTH..)?.try_into().ok()?);
    Some((session, number))
}

fn encode_pack(pack: &PackRecord) -> Vec<u8> {
    let mut bytes = name_bytes(pack.id.session, pack.id.number).to_vec();
    bytes.extend_from_slice(&pack.header.encode());
    put_varint(&mut bytes, pack.object_length);
    put_varint(&mut bytes, pack.directory.segments.len() as u64);
    for segment in &pack.directory.segments {
        put_varint(&mut bytes, u64::from(segment.stored_length));
        put_varint(&mut bytes, segment.plain_length());
        match &segment.encoding {
            Encoding::Stored => put_varint(&mut bytes, 0),
            Encoding::Zstd => put_varint(&mut bytes, 1),
            Encoding::Unknown(_) => put_varint(&mut bytes, 2),
            Encoding::Delta(bases) => {
                put_varint(&mut bytes, 3 + bases.len() as u64);
                bases.iter().for_each(|base| bytes.extend_from_slice(base.as_bytes()));
            }
        }
    }
    bytes
}

fn decode_pack(bytes: &[u8]) -> Option<PackInfo> {
    let mut reader = Reader::new(bytes);
    let (session, number) = read_name(reader.take(SessionId::LENGTH + 4).ok()?)?;
    let header = Header::decode(reader.take(HEADER_LENGTH).ok()?).ok()?;
    let object_length = reader.varint().ok()?;
    let mut segments = Vec::new();
    let mut offset = 0;
    for _ in 0..reader.count(3).ok()? {
        let stored_length = reader.varint_u32().ok()?;
        let plain_length = reader.varint_u32().ok()?;
        let encoding = match reader.varint().ok()? {
            0 => Encoding::Stored,
            1 => Encoding::Zstd,
            2 => Encoding::Unknown(u8::MAX),
            more => Encoding::Delta(
                (3..more).map(|_| Some(BlobId(reader.array().ok()?))).collect::<Option<_>>()?,
            ),
        };
        segments.push(SegmentInfo { offset, stored_length, plain_length, encoding });
        offset += u64::from(stored_length);
    }
    let id = PackId { session, number };
    Some(PackInfo { id, kind: header.kind, header, object_length, segments })
}

impl IndexCache {
    /// Opens the cache file at `path` for this repository, or makes it; one that is broken, of another
    /// version or of another repository is thrown away first. `None` as path, or a file that another
    /// process has open: a cache in memory that ends with the process.
    pub fn open(path: Option<&Path>, repository: RepositoryId) -> Result<Self> {
        let Some(path) = path else {
            let backend = redb::backends::InMemoryBackend::new();
            let mut builder = Database::builder();
            builder.set_cache_size(PAGE_CACHE);
            let database = builder.create_with_backend(backend).map_err(cache_error)?;
            return Self::with_database(database, repository)?
                .ok_or_else(|| cache_error("a new cache is of another version"));
        };
        for attempt in 0..2 {
            let mut builder = Database::builder();
            builder.set_cache_size(PAGE_CACHE);
            let opened = match builder.create(path) {
                // Another process holds it: this one works with a cache of its own.
                Err(DatabaseError::DatabaseAlreadyOpen) => return Self::open(None, repository),
                opened => opened.map_err(cache_error),
            };
            match opened.and_then(|database| Self::with_database(database, repository)) {
                Ok(Some(cache)) => return Ok(cache),
                Err(error) if attempt == 1 => return Err(error),
                Ok(None) | Err(_) => {
                    std::fs::remove_file(path)
                        .or_else(|error| match error.kind() {
                            std::io::ErrorKind::NotFound => Ok(()),
                            _ => Err(error),
                        })
                        .map_err(cache_error)?;
                }
            }
        }
        Err(cache_error("could not be made anew"))
    }

    /// `None`: the database is not for this repository or version.
    fn with_database(database: Database, repository: RepositoryId) -> Result<Option<Self>> {
        let expected = [&CACHE_VERSION.to_le_bytes()[..], repository.as_bytes()].concat();
        match Self::read_meta(&database)? {
            Some(found) if found != expected => return Ok(None),
            Some(_) => {}
            None => Self::make_tables(&database, &expected)?,
        }
        let view = Self::load_view(&database)?;
        Ok(Some(IndexCache {
            database,
            view: RwLock::new(Arc::new(view)),
            packs: Mutex::default(),
        }))
    }

    fn read_meta(database: &Database) -> Result<Option<Vec<u8>>> {
        let transaction = database.begin_read().map_err(cache_error)?;
        match transaction.open_table(META) {
            Ok(meta) => {
                let found = meta.get("repository").map_err(cache_error)?;
                Ok(found.map(|value| value.value().to_vec()))
            }
            Err(redb::TableError::TableDoesNotExist(_)) => Ok(None),
            Err(error) => Err(cache_error(error)),
        }
    }

    /// Makes every table, so that reading never meets the absence of one.
    fn make_tables(database: &Database, meta: &[u8]) -> Result<()> {
        let transaction = database.begin_write().map_err(cache_error)?;
        let mut table = transaction.open_table(META).map_err(cache_error)?;
        table.insert("repository", meta).map_err(cache_error)?;
        drop(table);
        transaction.open_table(INDEXES).map_err(cache_error)?;
        transaction.open_table(PACKS).map_err(cache_error)?;
        transaction.open_table(PACK_NUMBERS).map_err(cache_error)?;
        transaction.open_table(BLOCKS).map_err(cache_error)?;
        transaction.open_table(RUNS).map_err(cache_error)?;
        transaction.open_table(ADOPTED).map_err(cache_error)?;
        transaction.open_table(MISSING).map_err(cache_error)?;
        transaction.open_table(SLOTS).map_err(cache_error)?;
        transaction.commit().map_err(cache_error)
    }

    fn load_view(database: &Database) -> Result<View> {
        let transaction = database.begin_read().map_err(cache_error)?;
        let mut runs = Vec::new();
        for row in transaction.open_table(RUNS).map_err(cache_error)?.iter().map_err(cache_error)? {
            let (number, value) = row.map_err(cache_error)?;
            let (entries, filter) = value
                .value()
                .split_first_chunk::<8>()
                .and_then(|(entries, filter)| {
                    Some((u64::from_le_bytes(*entries), Filter::from_bytes(filter)?))
                })
                .ok_or_else(|| cache_error("a run without its filter"))?;
            runs.push(Run { number: number.value(), entries, filter });
        }
        // The largest run holds most of what is known: ask it first.
        runs.sort_by_key(|run| std::cmp::Reverse(run.entries));
        Ok(View {
            runs,
            blocks: transaction.open_table(BLOCKS).map_err(cache_error)?,
            packs: transaction.open_table(PACKS).map_err(cache_error)?,
        })
    }

    /// Where the blob is, if the index knows it: the first copy, when there are several.
    pub fn lookup(&self, id: &BlobId) -> Result<Option<Location>> {
        let mut found = None;
        self.search(id, |location| {
            found = Some(location);
            false
        })?;
        Ok(found)
    }

    /// Every place that has the blob.
    pub fn copies(&self, id: &BlobId) -> Result<Vec<Location>> {
        let mut found = Vec::new();
        self.search(id, |location| {
            found.push(location);
            true
        })?;
        Ok(found)
    }

    /// Hands the blob's places to `take` until it says that it has had enough.
    fn search(&self, id: &BlobId, mut take: impl FnMut(Location) -> bool) -> Result<()> {
        let view = self.view.read().clone();
        for run in view.runs.iter().filter(|run| run.filter.may_contain(id)) {
            let key = (run.number, block_key(id));
            let mut rows = view.blocks.range((run.number, 0)..=key).map_err(cache_error)?;
            if let Some(row) = rows.next_back() {
                let (_, block) = row.map_err(cache_error)?;
                for location in search_block(block.value(), id) {
                    if !take(location) {
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    /// How many blobs the index lists, those in several packs as often as they are there.
    pub fn blob_count(&self) -> u64 {
        self.view.read().runs.iter().map(|run| run.entries).sum()
    }

    /// What is known of the pack with this number.
    pub fn pack(&self, number: u32) -> Result<Arc<PackInfo>> {
        if let Some(pack) = self.packs.lock().get(&number) {
            return Ok(pack.clone());
        }
        let view = self.view.read().clone();
        let row = view.packs.get(number).map_err(cache_error)?;
        let pack = row
            .and_then(|row| decode_pack(row.value()))
            .ok_or_else(|| cache_error(format!("no pack has number {number}")))?;
        let pack = Arc::new(pack);
        let mut known = self.packs.lock();
        if known.len() >= 4096 {
            known.clear();
        }
        known.insert(number, pack.clone());
        Ok(pack)
    }

    /// Every pack that the index lists, by number.
    pub fn packs(&self) -> Result<Vec<(u32, PackInfo)>> {
        let view = self.view.read().clone();
        let mut packs = Vec::new();
        for row in view.packs.iter().map_err(cache_error)? {
            let (number, value) = row.map_err(cache_error)?;
            let pack = decode_pack(value.value())
                .ok_or_else(|| cache_error(format!("pack {} is garbled", number.value())))?;
            packs.push((number.value(), pack));
        }
        Ok(packs)
    }

    /// The index objects whose packs are in the cache.
    pub fn indexes(&self) -> Result<BTreeSet<IndexId>> {
        let transaction = self.database.begin_read().map_err(cache_error)?;
        let table = transaction.open_table(INDEXES).map_err(cache_error)?;
        let mut indexes = BTreeSet::new();
        for row in table.iter().map_err(cache_error)? {
            let (name, ()) = row.map(|(name, _)| (name, ())).map_err(cache_error)?;
            if let Some((session, number)) = read_name(name.value()) {
                indexes.insert(IndexId { session, number });
            }
        }
        Ok(indexes)
    }

    /// Takes in packs, and remembers that these index objects, which list them, are now in the cache. Without
    /// an index object the packs are remembered as adopted. A pack that is there already is passed over.
    pub fn add(&self, indexes: &[IndexId], packs: &[PackRecord]) -> Result<()> {
        let mut transaction = self.database.begin_write().map_err(cache_error)?;
        transaction.set_quick_repair(true);
        {
            let mut table = transaction.open_table(INDEXES).map_err(cache_error)?;
            for index in indexes {
                let name = name_bytes(index.session, index.number);
                table.insert(name.as_slice(), ()).map_err(cache_error)?;
            }
        }
        {
            let mut table = transaction.open_table(ADOPTED).map_err(cache_error)?;
            for pack in packs {
                let name = name_bytes(pack.id.session, pack.id.number);
                if indexes.is_empty() {
                    table.insert(name.as_slice(), ()).map_err(cache_error)?;
                } else {
                    table.remove(name.as_slice()).map_err(cache_error)?;
                }
            }
        }
        let entries = Self::add_packs(&transaction, packs)?;
        if !entries.is_empty() {
            Self::add_run(&transaction, entries)?;
        }
        transaction.commit().map_err(cache_error)?;
        *self.view.write() = Arc::new(Self::load_view(&self.database)?);
        Ok(())
    }

    fn add_packs(transaction: &WriteTransaction, packs: &[PackRecord]) -> Result<Vec<IndexEntry>> {
        let mut table = transaction.open_table(PACKS).map_err(cache_error)?;
        let mut numbers = transaction.open_table(PACK_NUMBERS).map_err(cache_error)?;
        let mut next =
            table.last().map_err(cache_error)?.map_or(0, |(number, _)| number.value() + 1);
        let mut entries = Vec::new();
        for pack in packs {
            let name = name_bytes(pack.id.session, pack.id.number);
            if numbers.get(name.as_slice()).map_err(cache_error)?.is_some() {
                continue;
            }
            numbers.insert(name.as_slice(), next).map_err(cache_error)?;
            table.insert(next, encode_pack(pack).as_slice()).map_err(cache_error)?;
            entries.extend(locations(next, &pack.directory));
            next += 1;
        }
        entries.sort_unstable();
        Ok(entries)
    }

    /// Writes a run, merged with those before it that are less than four times its size.
    fn add_run(transaction: &WriteTransaction, mut entries: Vec<IndexEntry>) -> Result<()> {
        let mut runs = transaction.open_table(RUNS).map_err(cache_error)?;
        let mut blocks = transaction.open_table(BLOCKS).map_err(cache_error)?;
        let mut existing = Vec::new();
        for row in runs.iter().map_err(cache_error)? {
            let (number, value) = row.map_err(cache_error)?;
            let count =
                value.value().first_chunk::<8>().map_or(0, |bytes| u64::from_le_bytes(*bytes));
            existing.push((number.value(), count));
        }
        let number = existing.last().map_or(0, |(number, _)| number + 1);
        while let Some((older, count)) = existing.pop() {
            // Merging happens in memory, so only up to a million entries (48 MB).
            if count > 4 * entries.len() as u64 || count + entries.len() as u64 > 1 << 20 {
                continue;
            }
            let range = (older, 0)..=(older, u64::MAX);
            for row in blocks.extract_from_if(range, |_, _| true).map_err(cache_error)? {
                let (_, block) = row.map_err(cache_error)?;
                entries.extend(decode_block(block.value()));
            }
            runs.remove(older).map_err(cache_error)?;
        }
        entries.sort_unstable();
        let mut filter = Filter::with_capacity(entries.len());
        let mut writer = BlockWriter::new(|key, block: Vec<u8>| {
            blocks.insert((number, key), block.as_slice()).map_err(cache_error)?;
            Ok(())
        });
        for entry in &entries {
            filter.insert(&entry.0);
            writer.push(*entry)?;
        }
        writer.finish()?;
        let mut row = (entries.len() as u64).to_le_bytes().to_vec();
        row.extend_from_slice(&filter.to_bytes());
        runs.insert(number, row.as_slice()).map_err(cache_error)?;
        Ok(())
    }

    /// The packs of one of the tables that hold nothing but names.
    fn names(&self, table: TableDefinition<&[u8], ()>) -> Result<BTreeSet<PackId>> {
        let transaction = self.database.begin_read().map_err(cache_error)?;
        let mut packs = BTreeSet::new();
        for row in
            transaction.open_table(table).map_err(cache_error)?.iter().map_err(cache_error)?
        {
            let (name, _) = row.map_err(cache_error)?;
            if let Some((session, number)) = read_name(name.value()) {
                packs.insert(PackId { session, number });
            }
        }
        Ok(packs)
    }

    /// Packs that are known although no index object lists them.
    pub fn adopted_packs(&self) -> Result<BTreeSet<PackId>> {
        self.names(ADOPTED)
    }

    /// Packs that an index object lists and that were found missing.
    pub fn missing_packs(&self) -> Result<BTreeSet<PackId>> {
        self.names(MISSING)
    }

    /// Forgets packs and every place in them. Rewrites the runs, so it is for rare use.
    pub fn drop_packs(&self, packs: &[PackId]) -> Result<()> {
        let mut transaction = self.database.begin_write().map_err(cache_error)?;
        transaction.set_quick_repair(true);
        let mut dropped = BTreeSet::new();
        {
            let mut table = transaction.open_table(PACKS).map_err(cache_error)?;
            let mut numbers = transaction.open_table(PACK_NUMBERS).map_err(cache_error)?;
            let mut missing = transaction.open_table(MISSING).map_err(cache_error)?;
            let mut adopted = transaction.open_table(ADOPTED).map_err(cache_error)?;
            for pack in packs {
                let name = name_bytes(pack.session, pack.number);
                missing.insert(name.as_slice(), ()).map_err(cache_error)?;
                adopted.remove(name.as_slice()).map_err(cache_error)?;
                if let Some(number) = numbers.remove(name.as_slice()).map_err(cache_error)? {
                    table.remove(number.value()).map_err(cache_error)?;
                    dropped.insert(number.value());
                }
            }
        }
        let runs: Vec<u32> = self.view.read().runs.iter().map(|run| run.number).collect();
        for run in runs {
            let mut blocks = transaction.open_table(BLOCKS).map_err(cache_error)?;
            let mut rows = Vec::new();
            for row in blocks.range((run, 0)..=(run, u64::MAX)).map_err(cache_error)? {
                let (key, block) = row.map_err(cache_error)?;
                let all = decode_block(block.value()).count();
                let kept: Vec<IndexEntry> = decode_block(block.value())
                    .filter(|(_, location)| !dropped.contains(&location.pack))
                    .collect();
                if kept.len() < all {
                    rows.push((key.value(), kept));
                }
            }
            for (key, kept) in rows {
                // The key stays, although it may lie before the first entry now: searching still works.
                blocks.insert(key, encode_block(&kept).as_slice()).map_err(cache_error)?;
            }
        }
        transaction.commit().map_err(cache_error)?;
        self.packs.lock().clear();
        *self.view.write() = Arc::new(Self::load_view(&self.database)?);
        Ok(())
    }

    /// Forgets every index object and pack; what was seen of snapshots stays.
    pub fn clear(&self) -> Result<()> {
        let transaction = self.database.begin_write().map_err(cache_error)?;
        transaction.delete_table(INDEXES).map_err(cache_error)?;
        transaction.delete_table(PACKS).map_err(cache_error)?;
        transaction.delete_table(PACK_NUMBERS).map_err(cache_error)?;
        transaction.delete_table(BLOCKS).map_err(cache_error)?;
        transaction.delete_table(RUNS).map_err(cache_error)?;
        transaction.delete_table(ADOPTED).map_err(cache_error)?;
        transaction.delete_table(MISSING).map_err(cache_error)?;
        transaction.open_table(INDEXES).map_err(cache_error)?;
        transaction.open_table(PACKS).map_err(cache_error)?;
        transaction.open_table(PACK_NUMBERS).map_err(cache_error)?;
        transaction.open_table(BLOCKS).map_err(cache_error)?;
        transaction.open_table(RUNS).map_err(cache_error)?;
        transaction.open_table(ADOPTED).map_err(cache_error)?;
        transaction.open_table(MISSING).map_err(cache_error)?;
        transaction.commit().map_err(cache_error)?;
        self.packs.lock().clear();
        *self.view.write() = Arc::new(Self::load_view(&self.database)?);
        Ok(())
    }

    /// The sealed slots that were seen, by session.
    pub fn slots(&self) -> Result<HashMap<SnapshotId, Vec<u8>>> {
        let transaction = self.database.begin_read().map_err(cache_error)?;
        let table = transaction.open_table(SLOTS).map_err(cache_error)?;
        let mut slots = HashMap::new();
        for row in table.iter().map_err(cache_error)? {
            let (name, object) = row.map_err(cache_error)?;
            if let Ok(name) = name.value().try_into() {
                slots.insert(SnapshotId(SessionId::from_bytes(name)), object.value().to_vec());
            }
        }
        Ok(slots)
    }

    /// Remembers sealed slots, and forgets others.
    pub fn update_slots(&self, seen: &[(SnapshotId, Vec<u8>)], gone: &[SnapshotId]) -> Result<()> {
        let mut transaction = self.database.begin_write().map_err(cache_error)?;
        transaction.set_quick_repair(true);
        let mut table = transaction.open_table(SLOTS).map_err(cache_error)?;
        for (id, object) in seen {
            table.insert(id.0.to_bytes().as_slice(), object.as_slice()).map_err(cache_error)?;
        }
        for id in gone {
            table.remove(id.0.to_bytes().as_slice()).map_err(cache_error)?;
        }
        drop(table);
        transaction.commit().map_err(cache_error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::header::ObjectKind;
    use crate::format::pack::{BlobRecord, PackDirectory};

    fn id(number: u32) -> BlobId {
        BlobId(*blake3::hash(&number.to_le_bytes()).as_bytes())
    }

    fn session() -> SessionId {
        SessionId { generation: 0, random: [1; 16] }
    }

    fn pack(number: u32, blobs: std::ops::Range<u32>) -> PackRecord {
        let mut directory = PackDirectory::default();
        let blobs = blobs.map(|number| BlobRecord { id: id(number), length: 10 }).collect();
        directory.push(100, Encoding::Zstd, blobs);
        directory.push(7, Encoding::Delta(vec![id(1), id(2)]), Vec::new());
        PackRecord {
            id: PackId { session: session(), number },
            header: Header {
                version: 1,
                kind: ObjectKind::DataPack,
                epoch: 1,
                repository: RepositoryId([5; 16]),
                salt: [2; 32],
                commitment: [3; 32],
            },
            object_length: 5000,
            directory,
        }
    }

    fn index(number: u32) -> IndexId {
        IndexId { session: session(), number }
    }

    #[test]
    fn blobs_are_found_after_every_merge_and_reopening() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("index.redb");
        let repository = RepositoryId([5; 16]);
        let cache = IndexCache::open(Some(&path), repository).unwrap();
        for number in 0..20 {
            let start = number * 500;
            cache.add(&[index(number)], &[pack(number, start..start + 500)]).unwrap();
        }
        // Adding the same pack again changes nothing.
        cache.add(&[index(99)], &[pack(0, 0..500)]).unwrap();
        drop(cache);
        for _ in 0..2 {
            let cache = IndexCache::open(Some(&path), repository).unwrap();
            assert_eq!(cache.blob_count(), 10_000);
            assert_eq!(cache.indexes().unwrap().len(), 21);
            assert_eq!(cache.packs().unwrap().len(), 20);
            for number in (0..10_000).step_by(37) {
                let location = cache.lookup(&id(number)).unwrap().unwrap();
                assert_eq!(location.offset, number % 500 * 10);
                let pack = cache.pack(location.pack).unwrap();
                assert_eq!(pack.id.number, number / 500);
                assert_eq!(pack.segments[1].offset, 100);
            }
            assert_eq!(cache.lookup(&id(10_001)).unwrap(), None);
        }
        let cache = IndexCache::open(Some(&path), repository).unwrap();
        cache.drop_packs(&[PackId { session: session(), number: 3 }]).unwrap();
        assert_eq!(cache.lookup(&id(1600)).unwrap(), None);
        assert!(cache.lookup(&id(1400)).unwrap().is_some());
        assert_eq!(cache.packs().unwrap().len(), 19);
        cache.clear().unwrap();
        assert_eq!(cache.lookup(&id(1)).unwrap(), None);
        assert!(cache.indexes().unwrap().is_empty());
    }

    #[test]
    fn a_broken_or_foreign_cache_is_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("index.redb");
        std::fs::write(&path, b"not a database at all").unwrap();
        let cache = IndexCache::open(Some(&path), RepositoryId([5; 16])).unwrap();
        cache.add(&[index(1)], &[pack(0, 0..5)]).unwrap();
        drop(cache);
        let cache = IndexCache::open(Some(&path), RepositoryId([6; 16])).unwrap();
        assert_eq!(cache.blob_count(), 0);
    }

    #[test]
    fn slots_are_remembered_and_forgotten() {
        let cache = IndexCache::open(None, RepositoryId([5; 16])).unwrap();
        let (one, two) =
            (SnapshotId(session()), SnapshotId(SessionId { generation: 1, random: [3; 16] }));
        cache.update_slots(&[(one, vec![1]), (two, vec![2])], &[]).unwrap();
        cache.update_slots(&[], &[one]).unwrap();
        assert_eq!(cache.slots().unwrap(), HashMap::from([(two, vec![2])]));
    }
}
