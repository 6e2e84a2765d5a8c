//! The local cache: a redb file of packs and when they were proven, which index objects are in it, which snapshots
//! were seen and when; beside it the runs of blob locations. Disposable: when it is gone or broken it is made anew
//! from the store.
//!
//! A run's file is complete and durable before redb lists it, and goes after redb has ceased to; what redb does
//! not list is a left-over and is removed when the cache is opened. When a run turns out to be damaged,
//! all of them are forgotten, and what follows from them; what was seen of snapshots and sweeps, which no store tells
//! again, stays, if redb finds its own file to be whole.

mod listings;
mod lookup;
mod place;
mod remembered;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use redb::{
    Database, DatabaseError, Durability, ReadOnlyTable, ReadableDatabase, ReadableTable,
    TableDefinition, WriteTransaction,
};

use self::lookup::KnownPacks;
pub use self::lookup::{Excluded, SortedEntries};
use self::place::{Place, remove};
pub use self::remembered::Followed;
use super::super::error::{Kind, RepositoryError, Result};
use super::locations;
use super::rows::{encode_pack, name_bytes, read_name};
use super::run::{IndexEntry, MergedRows, Run, RunWriter};
use crate::format::index::PackRecord;
use crate::id::{IndexId, PackId, RepositoryId};

/// Raised whenever a table changes its meaning: an older cache is thrown away.
const CACHE_VERSION: u64 = 6;
/// redb's page cache, in bytes. Part of the memory budget.
const PAGE_CACHE: usize = 16 << 20;
/// A run is merged with the smaller ones when it is at most this many times as large as they are together:
/// so there are few runs, and an entry is rewritten seldom.
const MERGE_RATIO: u64 = 4;

/// Objects of collection that are kept.
const KEPT_GENERATIONS: u64 = 64;

/// `repository` (with the cache's version), `followed` and `maintainer`.
const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");
/// Names of the index objects whose packs are in the runs.
const INDEXES: TableDefinition<&[u8], ()> = TableDefinition::new("indexes");
/// Name of an index object → names of the packs that it lists, one after another.
const LISTED: TableDefinition<&[u8], &[u8]> = TableDefinition::new("listed");
/// Pack number → what reading needs.
const PACKS: TableDefinition<u32, &[u8]> = TableDefinition::new("packs");
/// Pack name → pack number.
const PACK_NUMBERS: TableDefinition<&[u8], u32> = TableDefinition::new("pack_numbers");
/// Run → number of entries.
const RUNS: TableDefinition<u32, u64> = TableDefinition::new("runs");
/// Names of packs that are in the runs although no index object lists them.
const ADOPTED: TableDefinition<&[u8], ()> = TableDefinition::new("adopted");
/// Names of packs that a sweep dropped, of all sweeps since `followed` says.
const SWEPT: TableDefinition<&[u8], ()> = TableDefinition::new("swept");
/// Names of index objects that those in the cache supersede.
const SUPERSEDED: TableDefinition<&[u8], ()> = TableDefinition::new("superseded");
/// Name of an object of collection → the sealed object.
const GENERATIONS: TableDefinition<&str, &[u8]> = TableDefinition::new("generations");
/// Name of a session that decides nothing → how far it had come, and since when.
const IDLE: TableDefinition<&[u8], &[u8]> = TableDefinition::new("idle");
/// Name of a slot → its sealed object.
const SLOTS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("slots");
/// Pack name → when it was last proven by this client: seconds and nanoseconds. What the index forgets of
/// packs, this does not.
const PROVEN: TableDefinition<&[u8], (i64, u32)> = TableDefinition::new("proven");

/// Name of a slot → when the store first showed it: seconds (8 bytes) and nanoseconds (4), little endian.
const OBSERVED: TableDefinition<&[u8], [u8; 12]> = TableDefinition::new("observed");

/// Why packs leave the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dropped {
    /// The store has them no more.
    Gone,
    /// A sweep names them: they are never taken in again.
    Swept,
}

/// A run and its number.
type NumberedRun = (u32, Arc<Run>);

/// What look-ups read, replaced after every commit.
struct View {
    /// The largest first: it holds most of what is known.
    runs: Vec<NumberedRun>,
    packs: ReadOnlyTable<u32, &'static [u8]>,
}

/// What the next change needs to know.
struct Writing {
    /// Number of the next run.
    next_run: u32,
    /// Number of the next pack, if the table has none as high: readers go by numbers, and one that a pack had which is
    /// gone must not come to mean another.
    next_pack: u32,
    /// Something was taken in that a crash would undo.
    passing: bool,
}

/// The cache of one repository.
pub struct IndexCache {
    database: Database,
    place: Place,
    /// Held by whoever changes the cache.
    writing: Mutex<Writing>,
    view: RwLock<View>,
    packs: Mutex<KnownPacks>,
}

fn cache_error(error: impl std::fmt::Display) -> RepositoryError {
    RepositoryError::new(
        Kind::Unavailable,
        "local cache",
        format!("{error}; deleting the cache directory is safe and makes it anew"),
    )
}

fn next_pack(packs: &impl ReadableTable<u32, &'static [u8]>, writing: &Writing) -> Result<u32> {
    let last = packs.last().map_err(cache_error)?;
    Ok(last.map_or(0, |(number, _)| number.value() + 1).max(writing.next_pack))
}

impl IndexCache {
    /// Opens the cache file at `path` for this repository, or makes it; one that is broken, of another
    /// version or of another repository is thrown away first. `None` as path: a cache in memory that ends
    /// with the process. A file that another process has open: a cache that ends with the process, too, its runs in
    /// files without a name.
    pub fn open(path: Option<&Path>, repository: RepositoryId) -> Result<Self> {
        let Some(path) = path else { return Self::open_passing(Place::Memory, repository) };
        let folder = path.with_extension("runs");
        fs::create_dir_all(&folder).map_err(cache_error)?;
        for attempt in 0..2 {
            let open = || -> std::result::Result<Result<Option<Self>>, DatabaseError> {
                let mut builder = Database::builder();
                builder.set_cache_size(PAGE_CACHE);
                let database = builder.create(path)?;
                let place = Place::Folder(folder.clone());
                Ok(Self::with_database(database, place, repository))
            };
            // redb panics at some files that were cut short or overwritten; whoever has one needs a new cache as well.
            let opened = match panic::catch_unwind(AssertUnwindSafe(open)) {
                Ok(Err(DatabaseError::DatabaseAlreadyOpen)) => {
                    return Self::open_passing(Place::Unnamed(folder), repository);
                }
                Ok(opened) => opened.map_err(cache_error).flatten(),
                Err(_) => Err(cache_error("is broken")),
            };
            match opened {
                Ok(Some(cache)) => {
                    let view = cache.view.read();
                    let runs = view.runs.iter().map(|(number, _)| *number).collect();
                    drop(view);
                    cache.place.keep_only(&runs);
                    return Ok(cache);
                }
                Err(error) if attempt == 1 => return Err(error),
                Ok(None) | Err(_) => remove(path).map_err(cache_error)?,
            }
        }
        Err(cache_error("could not be made anew"))
    }

    /// A cache that ends with the process.
    fn open_passing(place: Place, repository: RepositoryId) -> Result<Self> {
        let mut builder = Database::builder();
        builder.set_cache_size(PAGE_CACHE);
        let database = builder
            .create_with_backend(redb::backends::InMemoryBackend::new())
            .map_err(cache_error)?;
        Self::with_database(database, place, repository)?
            .ok_or_else(|| cache_error("a new cache is of another version"))
    }

    /// `None`: the database is not for this repository or version.
    fn with_database(
        mut database: Database,
        place: Place,
        repository: RepositoryId,
    ) -> Result<Option<Self>> {
        let expected = [&CACHE_VERSION.to_le_bytes()[..], repository.as_bytes()].concat();
        match Self::read_meta(&database)? {
            Some(found) if found != expected => return Ok(None),
            Some(_) => {}
            None => Self::make_tables(&database, &expected)?,
        }
        let opened = Self::open_runs(&database, &place);
        let is_broken = opened.is_err();
        // What has garbled a run may have garbled this, too, and redb looks only when it is told to.
        if is_broken && !database.check_integrity().map_err(cache_error)? {
            return Ok(None);
        }
        let runs = opened.unwrap_or_default();
        let next_run = runs.iter().map(|(number, _)| number + 1).max().unwrap_or(0);
        let view = Self::make_view(&database, runs)?;
        let cache = IndexCache {
            database,
            place,
            writing: Mutex::new(Writing { next_run, next_pack: 0, passing: false }),
            view: RwLock::new(view),
            packs: Mutex::default(),
        };
        if is_broken {
            // Runs are made anew from the store; what was seen of snapshots and sweeps is not.
            cache.clear()?;
        }
        Ok(Some(cache))
    }

    /// Opens the runs that the database lists.
    fn open_runs(database: &Database, place: &Place) -> Result<Vec<NumberedRun>> {
        let Place::Folder(folder) = place else { return Ok(Vec::new()) };
        let transaction = database.begin_read().map_err(cache_error)?;
        let table = transaction.open_table(RUNS).map_err(cache_error)?;
        let mut runs = Vec::new();
        for row in table.iter().map_err(cache_error)? {
            let (number, entries) = row.map_err(cache_error)?;
            let number = number.value();
            let file = File::open(Place::path(folder, number)).map_err(cache_error)?;
            let run = Run::open(file)
                .map_err(cache_error)?
                .filter(|run| run.entries() == entries.value())
                .ok_or_else(|| cache_error(format!("run {number} is broken")))?;
            runs.push((number, Arc::new(run)));
        }
        Ok(runs)
    }

    fn make_view(database: &Database, mut runs: Vec<NumberedRun>) -> Result<View> {
        runs.sort_by_key(|(_, run)| std::cmp::Reverse(run.entries()));
        let transaction = database.begin_read().map_err(cache_error)?;
        Ok(View { runs, packs: transaction.open_table(PACKS).map_err(cache_error)? })
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
        transaction.open_table(RUNS).map_err(cache_error)?;
        transaction.open_table(ADOPTED).map_err(cache_error)?;
        transaction.open_table(LISTED).map_err(cache_error)?;
        transaction.open_table(SWEPT).map_err(cache_error)?;
        transaction.open_table(SUPERSEDED).map_err(cache_error)?;
        transaction.open_table(GENERATIONS).map_err(cache_error)?;
        transaction.open_table(IDLE).map_err(cache_error)?;
        transaction.open_table(SLOTS).map_err(cache_error)?;
        transaction.open_table(OBSERVED).map_err(cache_error)?;
        transaction.open_table(PROVEN).map_err(cache_error)?;
        transaction.commit().map_err(cache_error)
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
        self.append(indexes, packs)?;
        self.settle()
    }

    /// Like [`IndexCache::add`], but a crash undoes it until [`IndexCache::settle`] was called: for many calls
    /// in a row. Most of the runs are merged before they have to reach the disk.
    pub fn append(&self, indexes: &[IndexId], packs: &[PackRecord]) -> Result<()> {
        let mut writing = self.writing.lock();
        let mut transaction = self.begin_write()?;
        transaction.set_durability(Durability::None).map_err(cache_error)?;
        writing.passing = true;
        {
            let mut table = transaction.open_table(INDEXES).map_err(cache_error)?;
            for index in indexes {
                let name = name_bytes(index.session, index.number);
                table.insert(name.as_slice(), ()).map_err(cache_error)?;
            }
        }
        {
            let mut table = transaction.open_table(ADOPTED).map_err(cache_error)?;
            let swept = transaction.open_table(SWEPT).map_err(cache_error)?;
            for pack in packs {
                let name = name_bytes(pack.id.session, pack.id.number);
                if swept.get(name.as_slice()).map_err(cache_error)?.is_some() {
                    continue;
                }
                if indexes.is_empty() {
                    table.insert(name.as_slice(), ()).map_err(cache_error)?;
                } else {
                    table.remove(name.as_slice()).map_err(cache_error)?;
                }
            }
        }
        let entries = Self::add_packs(&mut writing, &transaction, packs)?;
        let mut runs = self.view.read().runs.clone();
        if !entries.is_empty() {
            let count = entries.len() as u64;
            runs.push(self.write_run(&mut writing, count, entries.into_iter().map(Ok))?);
        }
        Self::list_runs(&transaction, &runs)?;
        transaction.commit().map_err(cache_error)?;
        *self.view.write() = Self::make_view(&self.database, runs)?;
        Ok(())
    }

    fn begin_write(&self) -> Result<WriteTransaction> {
        let mut transaction = self.database.begin_write().map_err(cache_error)?;
        transaction.set_quick_repair(true);
        Ok(transaction)
    }

    /// Lists these runs and no others.
    fn list_runs(transaction: &WriteTransaction, runs: &[NumberedRun]) -> Result<()> {
        let numbers: BTreeSet<u32> = runs.iter().map(|(number, _)| *number).collect();
        let mut table = transaction.open_table(RUNS).map_err(cache_error)?;
        table.retain(|number, _| numbers.contains(&number)).map_err(cache_error)?;
        for (number, run) in runs {
            table.insert(number, run.entries()).map_err(cache_error)?;
        }
        Ok(())
    }

    /// Commits for good, with these runs and no others, and lets look-ups see it.
    fn publish(
        &self,
        writing: &mut Writing,
        transaction: WriteTransaction,
        runs: Vec<NumberedRun>,
    ) -> Result<()> {
        for (_, run) in &runs {
            run.sync().map_err(cache_error)?;
        }
        self.place.sync().map_err(cache_error)?;
        Self::list_runs(&transaction, &runs)?;
        transaction.commit().map_err(cache_error)?;
        writing.passing = false;
        let kept: BTreeSet<u32> = runs.iter().map(|(number, _)| *number).collect();
        *self.view.write() = Self::make_view(&self.database, runs)?;
        self.place.keep_only(&kept);
        Ok(())
    }

    /// Writes a run of sorted entries, at most `capacity` of them.
    fn write_run(
        &self,
        writing: &mut Writing,
        capacity: u64,
        entries: impl Iterator<Item = io::Result<IndexEntry>>,
    ) -> Result<NumberedRun> {
        let number = writing.next_run;
        writing.next_run += 1;
        let file = self.place.create(number).map_err(cache_error)?;
        let mut writer = RunWriter::new(file, capacity).map_err(cache_error)?;
        for entry in entries {
            entry.and_then(|entry| writer.push(&entry)).map_err(cache_error)?;
        }
        Ok((number, Arc::new(writer.finish().map_err(cache_error)?)))
    }

    /// Merges small runs with one another and with larger ones, so that a look-up asks few, and makes what was
    /// appended last.
    pub fn settle(&self) -> Result<()> {
        let mut writing = self.writing.lock();
        let mut runs = self.view.read().runs.clone();
        let mut entries = 0;
        let merged_count = runs
            .iter()
            .rev()
            .take_while(|(_, run)| {
                let fits = entries == 0 || run.entries() <= MERGE_RATIO * entries;
                entries += run.entries();
                fits
            })
            .count();
        if merged_count < 2 {
            return match writing.passing {
                true => self.publish(&mut writing, self.begin_write()?, runs),
                false => Ok(()),
            };
        }
        let merged = runs.split_off(runs.len() - merged_count);
        let sources: Vec<Arc<Run>> = merged.iter().map(|(_, run)| run.clone()).collect();
        let capacity = sources.iter().map(|run| run.entries()).sum();
        let rows = MergedRows::new(&sources).map_err(cache_error)?;
        let new = self.write_run(&mut writing, capacity, rows)?;
        runs.push(new);
        self.publish(&mut writing, self.begin_write()?, runs)
    }

    fn add_packs(
        writing: &mut Writing,
        transaction: &WriteTransaction,
        packs: &[PackRecord],
    ) -> Result<Vec<IndexEntry>> {
        let mut table = transaction.open_table(PACKS).map_err(cache_error)?;
        let mut numbers = transaction.open_table(PACK_NUMBERS).map_err(cache_error)?;
        let swept = transaction.open_table(SWEPT).map_err(cache_error)?;
        let mut next = next_pack(&table, writing)?;
        let mut entries =
            Vec::with_capacity(packs.iter().map(|pack| pack.directory.blob_count()).sum());
        for pack in packs {
            let name = name_bytes(pack.id.session, pack.id.number);
            if numbers.get(name.as_slice()).map_err(cache_error)?.is_some()
                || swept.get(name.as_slice()).map_err(cache_error)?.is_some()
            {
                continue;
            }
            numbers.insert(name.as_slice(), next).map_err(cache_error)?;
            table.insert(next, encode_pack(pack).as_slice()).map_err(cache_error)?;
            entries.extend(locations(next, &pack.directory));
            next += 1;
        }
        writing.next_pack = next;
        entries.sort_unstable();
        Ok(entries)
    }

    /// The number of the next pack that is taken in.
    fn next_pack(&self) -> Result<u32> {
        let writing = self.writing.lock();
        let transaction = self.database.begin_read().map_err(cache_error)?;
        next_pack(&transaction.open_table(PACKS).map_err(cache_error)?, &writing)
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

    /// Forgets packs and every place in them. Rewrites the runs, so it is for rare use.
    pub fn drop_packs(&self, packs: &[PackId], why: Dropped) -> Result<()> {
        let mut writing = self.writing.lock();
        let transaction = self.begin_write()?;
        self.drop_in(&mut writing, transaction, packs, why)
    }

    fn drop_in(
        &self,
        writing: &mut Writing,
        transaction: WriteTransaction,
        packs: &[PackId],
        why: Dropped,
    ) -> Result<()> {
        let mut dropped = BTreeSet::new();
        {
            let mut table = transaction.open_table(PACKS).map_err(cache_error)?;
            let mut numbers = transaction.open_table(PACK_NUMBERS).map_err(cache_error)?;
            let mut swept = transaction.open_table(SWEPT).map_err(cache_error)?;
            let mut adopted = transaction.open_table(ADOPTED).map_err(cache_error)?;
            for pack in packs {
                let name = name_bytes(pack.session, pack.number);
                if why == Dropped::Swept {
                    swept.insert(name.as_slice(), ()).map_err(cache_error)?;
                }
                adopted.remove(name.as_slice()).map_err(cache_error)?;
                if let Some(number) = numbers.remove(name.as_slice()).map_err(cache_error)? {
                    table.remove(number.value()).map_err(cache_error)?;
                    dropped.insert(number.value());
                }
            }
        }
        let after_dropped = dropped.last().map_or(0, |number| number + 1);
        writing.next_pack = writing.next_pack.max(after_dropped);
        let before = self.view.read().runs.clone();
        let mut after = before.clone();
        for (number, run) in &before {
            let is_kept = |(_, location): &IndexEntry| !dropped.contains(&location.pack);
            let mut kept = 0;
            for row in run.rows() {
                kept += u64::from(is_kept(&row.map_err(cache_error)?));
            }
            if kept == run.entries() {
                continue;
            }
            if kept > 0 {
                let rows = run.rows().filter(|row| row.as_ref().map_or(true, is_kept));
                after.push(self.write_run(writing, kept, rows)?);
            }
            after.retain(|(other, _)| other != number);
        }
        self.publish(writing, transaction, after)?;
        *self.packs.lock() = KnownPacks::default();
        Ok(())
    }

    /// Forgets every index object and pack; what was seen of snapshots, and when packs were proven, stays.
    pub fn clear(&self) -> Result<()> {
        let mut writing = self.writing.lock();
        let transaction = self.begin_write()?;
        {
            let table = transaction.open_table(PACKS).map_err(cache_error)?;
            let last = table.last().map_err(cache_error)?;
            let next = last.map_or(0, |(number, _)| number.value() + 1);
            writing.next_pack = writing.next_pack.max(next);
        }
        transaction.delete_table(INDEXES).map_err(cache_error)?;
        transaction.delete_table(PACKS).map_err(cache_error)?;
        transaction.delete_table(PACK_NUMBERS).map_err(cache_error)?;
        transaction.delete_table(ADOPTED).map_err(cache_error)?;
        transaction.delete_table(LISTED).map_err(cache_error)?;
        transaction.open_table(LISTED).map_err(cache_error)?;
        transaction.delete_table(SUPERSEDED).map_err(cache_error)?;
        transaction.open_table(SUPERSEDED).map_err(cache_error)?;
        transaction.open_table(INDEXES).map_err(cache_error)?;
        transaction.open_table(PACKS).map_err(cache_error)?;
        transaction.open_table(PACK_NUMBERS).map_err(cache_error)?;
        transaction.open_table(ADOPTED).map_err(cache_error)?;
        self.publish(&mut writing, transaction, Vec::new())?;
        *self.packs.lock() = KnownPacks::default();
        Ok(())
    }
}

impl Drop for IndexCache {
    fn drop(&mut self) {
        // The next one finds that a run is gone, and has the rest looked at.
        if let Place::Folder(folder) = &self.place {
            for (number, _) in self.view.read().runs.iter().filter(|(_, run)| run.is_broken()) {
                let _ = remove(&Place::path(folder, *number));
            }
        }
    }
}

#[cfg(test)]
#[path = "cache_tests.rs"]
mod tests;
