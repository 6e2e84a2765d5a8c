//! Where blobs are, whether they can be read from there, and what is known of packs.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use redb::{ReadableDatabase, ReadableTable};

use super::super::rows::{decode_pack, decode_pack_length, name_bytes};
use super::super::run::{IdRange, LastBlock, MergedRows, Run};
use super::super::{Location, PackInfo, SegmentPlace};
use super::{IndexCache, PACK_NUMBERS, PACKS, cache_error};
use crate::format::pack::Encoding;
use crate::id::{BlobId, PackId};
use crate::repository::error::Result;

/// Bytes that packs which were looked up may take.
const KNOWN_PACKS: usize = 8 << 20;

/// Packs that were looked up, and about how many bytes they take.
#[derive(Default)]
pub(super) struct KnownPacks {
    pub(super) packs: HashMap<u32, (Arc<PackInfo>, usize)>,
    bytes: usize,
}

/// Packs that do not count for somebody: those too that come into the cache only later, from an index object that a listing
/// did not show before, or from their own directories.
#[derive(Debug, Default)]
pub struct Excluded {
    packs: HashSet<PackId>,
    numbers: HashSet<u32>,
    /// What was taken in since has this number or a higher one.
    until: u32,
}

impl Excluded {
    /// The packs.
    pub fn packs(&self) -> &HashSet<PackId> {
        &self.packs
    }

    /// The numbers of those that were known when this was made.
    pub fn numbers(&self) -> &HashSet<u32> {
        &self.numbers
    }
}

/// Every place of every blob, as it was known at one moment.
pub struct SortedEntries {
    runs: Vec<Arc<Run>>,
}

impl SortedEntries {
    /// How many there are.
    pub fn count(&self) -> u64 {
        self.runs.iter().map(|run| run.entries()).sum()
    }

    /// Those in a range, in the order of ids: copies of one blob stand together.
    pub fn between(
        &self,
        range: IdRange,
    ) -> Result<impl Iterator<Item = Result<(BlobId, Location)>> + use<>> {
        let rows = MergedRows::between(&self.runs, range).map_err(cache_error)?;
        Ok(rows.map(|row| row.map_err(cache_error)))
    }
}

impl IndexCache {
    /// Leaves these packs out.
    pub fn excluding(&self, packs: impl IntoIterator<Item = PackId>) -> Result<Excluded> {
        let packs: HashSet<PackId> = packs.into_iter().collect();
        // Numbers last: what is taken in between the two is asked for by its name.
        let until = self.next_pack()?;
        let numbers = self.pack_numbers(packs.iter().copied())?;
        Ok(Excluded { packs, numbers, until })
    }

    fn is_excluded(&self, copy: &Location, excluded: &Excluded) -> Result<bool> {
        let is_later = copy.pack >= excluded.until && !excluded.packs.is_empty();
        Ok(excluded.numbers.contains(&copy.pack)
            || is_later && excluded.packs.contains(&self.pack(copy.pack)?.id))
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

    /// Where these blobs are, of those that the index knows in exactly one place: in one go, which reads a block of the
    /// index once for all that stand in it.
    pub fn single_copies(&self, mut ids: Vec<BlobId>) -> Result<HashMap<BlobId, Location>> {
        ids.sort_unstable();
        ids.dedup();
        let mut found: HashMap<BlobId, Location> = HashMap::with_capacity(ids.len());
        let mut several = HashSet::new();
        for (_, run) in &self.view.read().runs {
            let mut last = LastBlock::default();
            for id in &ids {
                let mut take = |location| {
                    if found.insert(*id, location).is_some() {
                        several.insert(*id);
                    }
                    true
                };
                run.search_at(id, &mut last, &mut take).map_err(cache_error)?;
            }
        }
        found.retain(|id, _| !several.contains(id));
        Ok(found)
    }

    /// Whether the blob can be read without these packs: one of its copies stands in another pack,
    /// and if that is a delta, so do its bases.
    pub fn has_outside(&self, id: &BlobId, excluded: &Excluded) -> Result<bool> {
        for copy in self.copies(id)? {
            if self.is_excluded(&copy, excluded)? {
                continue;
            }
            let mut is_readable = true;
            for base in self.bases(&copy)? {
                is_readable = self.base_outside(&base, excluded)?.is_some();
                if !is_readable {
                    break;
                }
            }
            if is_readable {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// A copy of the blob outside these packs that a delta can be read against: one that is no delta itself.
    pub fn base_outside(&self, id: &BlobId, excluded: &Excluded) -> Result<Option<Location>> {
        for copy in self.copies(id)? {
            if !copy.is_delta && !self.is_excluded(&copy, excluded)? {
                return Ok(Some(copy));
            }
        }
        Ok(None)
    }

    /// What the segment at this place is a delta against; nothing when it is none.
    pub fn bases(&self, location: &Location) -> Result<Vec<BlobId>> {
        match location.is_delta {
            true => self.bases_of(location.place()),
            false => Ok(Vec::new()),
        }
    }

    /// What this segment, which is a delta, is read against.
    pub fn bases_of(&self, place: SegmentPlace) -> Result<Vec<BlobId>> {
        let pack = self.pack(place.pack)?;
        let segment = pack.segments.get(place.segment as usize);
        match segment.map(|segment| &segment.encoding) {
            Some(Encoding::Delta(bases)) => Ok(bases.clone()),
            _ => Err(cache_error(format!("pack {} has no such delta", pack.id))),
        }
    }

    /// The numbers of these packs, as far as the index lists them.
    pub fn pack_numbers(&self, packs: impl IntoIterator<Item = PackId>) -> Result<HashSet<u32>> {
        let transaction = self.database.begin_read().map_err(cache_error)?;
        let table = transaction.open_table(PACK_NUMBERS).map_err(cache_error)?;
        let mut numbers = HashSet::new();
        for pack in packs {
            let name = name_bytes(pack.session, pack.number);
            let number = table.get(name.as_slice()).map_err(cache_error)?;
            numbers.extend(number.map(|number| number.value()));
        }
        Ok(numbers)
    }

    /// Which of these packs, as far as they are known, hold a blob that cannot be read without them. Reads all runs, 48
    /// bytes a blob, so it is for when something is wrong.
    pub fn sole_holders(&self, excluded: &Excluded) -> Result<HashSet<u32>> {
        let mut sole = HashSet::new();
        if excluded.numbers.is_empty() {
            return Ok(sole);
        }
        let runs: Vec<_> = self.view.read().runs.iter().map(|(_, run)| run.clone()).collect();
        for row in MergedRows::new(&runs).map_err(cache_error)? {
            let (id, location) = row.map_err(cache_error)?;
            let is_open =
                excluded.numbers.contains(&location.pack) && !sole.contains(&location.pack);
            // What stands elsewhere as a delta only may be the base of others, which cannot be read against that.
            let is_lost = is_open
                && (!self.has_outside(&id, excluded)?
                    || !location.is_delta && self.base_outside(&id, excluded)?.is_none());
            if is_lost {
                sole.insert(location.pack);
                if sole.len() == excluded.numbers.len() {
                    break;
                }
            }
        }
        Ok(sole)
    }

    /// Hands the blob's places to `take` until it says that it has had enough.
    fn search(&self, id: &BlobId, mut take: impl FnMut(Location) -> bool) -> Result<()> {
        for (_, run) in &self.view.read().runs {
            if run.search(id, &mut take).map_err(cache_error)? {
                break;
            }
        }
        Ok(())
    }

    /// How many blobs the index lists, those in several packs as often as they are there.
    pub fn blob_count(&self) -> u64 {
        self.view.read().runs.iter().map(|(_, run)| run.entries()).sum()
    }

    /// What is known of the pack with this number.
    pub fn pack(&self, number: u32) -> Result<Arc<PackInfo>> {
        // Held until the pack is in, so that what is read from a view that goes is forgotten with it.
        let mut known = self.packs.lock();
        if let Some((pack, _)) = known.packs.get(&number) {
            return Ok(pack.clone());
        }
        let row = self.view.read().packs.get(number).map_err(cache_error)?;
        let row = row.ok_or_else(|| cache_error(format!("no pack has number {number}")))?;
        let bytes = 2 * row.value().len();
        let pack = decode_pack(row.value())
            .ok_or_else(|| cache_error(format!("pack {number} is garbled")))?;
        let pack = Arc::new(pack);
        while known.bytes + bytes > KNOWN_PACKS
            && let Some(any) = known.packs.keys().next().copied()
        {
            let dropped = known.packs.remove(&any);
            known.bytes -= dropped.map_or(0, |(_, bytes)| bytes);
        }
        known.bytes += bytes;
        known.packs.insert(number, (pack.clone(), bytes));
        Ok(pack)
    }

    /// Hands number, name and length in bytes of every pack that the index lists to `take`, by number. `take` must not ask the
    /// cache: who changes it may be waiting.
    pub fn each_pack(&self, mut take: impl FnMut(u32, PackId, u64)) -> Result<()> {
        let view = self.view.read();
        for row in view.packs.iter().map_err(cache_error)? {
            let (number, value) = row.map_err(cache_error)?;
            let (id, length) = decode_pack_length(value.value())
                .ok_or_else(|| cache_error(format!("pack {} is garbled", number.value())))?;
            take(number.value(), id, length);
        }
        Ok(())
    }

    /// Number and length in bytes of those of these packs that the index lists, in the same order.
    pub fn lengths(
        &self,
        packs: impl IntoIterator<Item = PackId>,
    ) -> Result<Vec<Option<(u32, u64)>>> {
        self.by_name(packs, decode_pack_length, |number, (_, length)| (number, length))
    }

    /// What is known of the pack with this name, if the index lists it.
    pub fn pack_named(&self, id: PackId) -> Result<Option<PackInfo>> {
        Ok(self.by_name([id], decode_pack, |_, pack| pack)?.pop().flatten())
    }

    /// Of those of these packs that the index lists, what their rows say, in the same order.
    fn by_name<R, T>(
        &self,
        packs: impl IntoIterator<Item = PackId>,
        decode: impl Fn(&[u8]) -> Option<R>,
        made: impl Fn(u32, R) -> T,
    ) -> Result<Vec<Option<T>>> {
        // One state of both tables.
        let transaction = self.database.begin_read().map_err(cache_error)?;
        let numbers = transaction.open_table(PACK_NUMBERS).map_err(cache_error)?;
        let rows = transaction.open_table(PACKS).map_err(cache_error)?;
        let find = |pack: PackId| {
            let name = name_bytes(pack.session, pack.number);
            let Some(number) = numbers.get(name.as_slice()).map_err(cache_error)? else {
                return Ok(None);
            };
            let number = number.value();
            let row = rows.get(number).map_err(cache_error)?;
            let found = row.and_then(|row| decode(row.value()));
            let garbled = || cache_error(format!("pack {number} is garbled"));
            found.map(|row| Some(made(number, row))).ok_or_else(garbled)
        };
        packs.into_iter().map(find).collect()
    }

    /// Hands every pack that the index lists to `take`, by number. Of deltas it is told that they are, and not against
    /// what: see [`IndexCache::bases`]. Half a kilobyte each, so who needs them all keeps what it needs of them. `take` must
    /// not ask the cache: who changes it may be waiting.
    pub fn each_pack_info(&self, mut take: impl FnMut(u32, PackInfo)) -> Result<()> {
        let view = self.view.read();
        for row in view.packs.iter().map_err(cache_error)? {
            let (number, value) = row.map_err(cache_error)?;
            let mut pack = decode_pack(value.value())
                .ok_or_else(|| cache_error(format!("pack {} is garbled", number.value())))?;
            for segment in &mut pack.segments {
                if segment.encoding.is_delta() {
                    segment.encoding = Encoding::Delta(Vec::new());
                }
            }
            take(number.value(), pack);
        }
        Ok(())
    }

    /// All of them at once: for tests, whose repositories are small.
    pub fn packs(&self) -> Result<Vec<(u32, PackInfo)>> {
        let mut packs = Vec::new();
        self.each_pack_info(|number, pack| packs.push((number, pack)))?;
        Ok(packs)
    }

    /// Every place of every blob as it is known now, to be gone through in parts.
    pub fn sorted(&self) -> SortedEntries {
        SortedEntries { runs: self.view.read().runs.iter().map(|(_, run)| run.clone()).collect() }
    }

    /// Every place of every blob, in the order of ids: copies of one blob stand together.
    pub fn entries(&self) -> Result<impl Iterator<Item = Result<(BlobId, Location)>> + use<>> {
        self.sorted().between(IdRange::ALL)
    }
}
