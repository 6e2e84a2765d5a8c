//! Where blobs are, whether they can be read from there, and what is known of packs.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use redb::{ReadableDatabase, ReadableTable};

use super::super::rows::{decode_pack, name_bytes};
use super::super::run::{MergedRows, Run};
use super::super::{Location, PackInfo, SegmentPlace};
use super::{IndexCache, PACK_NUMBERS, cache_error};
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

impl IndexCache {
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

    /// Whether the blob can be read without these packs, given by number: one of its copies stands in another
    /// pack, and if that is a delta, so do its bases.
    pub fn has_outside(&self, id: &BlobId, excluded: &HashSet<u32>) -> Result<bool> {
        for copy in self.copies(id)? {
            if excluded.contains(&copy.pack) {
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
    pub fn base_outside(&self, id: &BlobId, excluded: &HashSet<u32>) -> Result<Option<Location>> {
        let mut copies = self.copies(id)?.into_iter();
        Ok(copies.find(|copy| !copy.is_delta && !excluded.contains(&copy.pack)))
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

    /// Which of these packs hold a blob that cannot be read without them. Reads all runs, 48 bytes a blob, so
    /// it is for when something is wrong.
    pub fn sole_holders(&self, excluded: &HashSet<u32>) -> Result<HashSet<u32>> {
        let mut sole = HashSet::new();
        if excluded.is_empty() {
            return Ok(sole);
        }
        let runs: Vec<_> = self.view.read().runs.iter().map(|(_, run)| run.clone()).collect();
        for row in MergedRows::new(&runs).map_err(cache_error)? {
            let (id, location) = row.map_err(cache_error)?;
            let is_open = excluded.contains(&location.pack) && !sole.contains(&location.pack);
            // What stands elsewhere as a delta only may be the base of others, which cannot be read against that.
            let is_lost = is_open
                && (!self.has_outside(&id, excluded)?
                    || !location.is_delta && self.base_outside(&id, excluded)?.is_none());
            if is_lost {
                sole.insert(location.pack);
                if sole.len() == excluded.len() {
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

    /// Every pack that the index lists, by number. Of deltas it is told that they are, and not against what: see
    /// [`IndexCache::bases`].
    pub fn packs(&self) -> Result<Vec<(u32, PackInfo)>> {
        let view = self.view.read();
        let mut packs = Vec::new();
        for row in view.packs.iter().map_err(cache_error)? {
            let (number, value) = row.map_err(cache_error)?;
            let mut pack = decode_pack(value.value())
                .ok_or_else(|| cache_error(format!("pack {} is garbled", number.value())))?;
            for segment in &mut pack.segments {
                if segment.encoding.is_delta() {
                    segment.encoding = Encoding::Delta(Vec::new());
                }
            }
            packs.push((number.value(), pack));
        }
        Ok(packs)
    }

    /// Every place of every blob, in the order of ids: copies of one blob stand together.
    pub fn entries(&self) -> Result<impl Iterator<Item = Result<(BlobId, Location)>> + use<>> {
        let runs: Vec<Arc<Run>> =
            self.view.read().runs.iter().map(|(_, run)| run.clone()).collect();
        let rows = MergedRows::new(&runs).map_err(cache_error)?;
        Ok(rows.map(|row| row.map_err(cache_error)))
    }
}
