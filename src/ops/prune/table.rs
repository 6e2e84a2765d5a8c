//! The packs of the index, one beside the other: what is asked of them for each blob stands close together, since blobs
//! come in the order of ids and their packs in none.
//!
//! Memory: a row a pack, 8 bytes and a bit for each of its segments, 4 bytes for each number that a pack ever had; while
//! it is made, 28 bytes more for each pack, and its length in the store.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};

use super::usage::Exceptions;
use crate::format::header::ObjectKind;
use crate::format::pack::Encoding;
use crate::id::PackId;
use crate::repository::Repository;
use crate::repository::error::Result;
use crate::repository::index::{Location, PackInfo};

/// Where no pack has the number.
const NONE: u32 = u32::MAX;

/// What is asked of a pack for each blob.
#[derive(Clone, Copy)]
pub struct PackRow {
    /// The number of the row.
    pub row: u32,
    first_segment: u32,
    segment_count: u32,
    /// It holds nodes of trees.
    pub is_tree: bool,
    /// Its blobs can be counted on: it is in the store, as long as it should be, and its key is to stay.
    pub counts: bool,
    /// It is known to be damaged.
    pub is_damaged: bool,
}

impl PackRow {
    fn segment(&self, location: &Location) -> Option<usize> {
        let is_there = location.segment < self.segment_count;
        is_there.then(|| (self.first_segment + location.segment) as usize)
    }
}

/// What is needed from a pack, and what there is. Added to by threads.
#[derive(Default)]
pub struct Tally {
    blob_bytes: AtomicU64,
    used_bytes: AtomicU64,
    used_blobs: AtomicU64,
}

/// What is said of a pack once.
pub struct Described {
    /// The pack; its segments stand in the table.
    pub info: PackInfo,
    /// How long it is in the store, if it is there.
    pub stored_length: Option<u64>,
    /// It belongs to a session that has not decided.
    pub is_busy: bool,
    /// A later version would have to say how some of it is stored.
    pub has_unknown_segments: bool,
    /// Some of it is stored as deltas.
    pub has_deltas: bool,
}

/// All packs of the index.
pub struct PackTable {
    rows_by_number: Vec<u32>,
    rows: Vec<PackRow>,
    described: Vec<Described>,
    tallies: Vec<Tally>,
    /// Stored length and plain length.
    segments: Vec<[u32; 2]>,
    /// A bit for each segment that holds something needed.
    used_segments: Vec<AtomicU64>,
}

impl PackTable {
    /// The packs of the index, nothing counted yet.
    pub fn new(repository: &Repository, exceptions: &Exceptions) -> Result<Self> {
        // Known first, listed then: what is added between the two is not taken for missing. Then the packs that were known are
        // described. One that has gone since is in no row, as if it had gone before: what stands nowhere else counts
        // as lost, and stops the collection. One that has come since has a higher number, as none is given twice.
        let mut known = Vec::new();
        repository.cache().each_pack(|number, id, _| known.push((number, id)))?;
        let lengths = repository.lengths_of(known.iter().map(|(_, id)| *id))?;
        let numbers = known.last().map_or(0, |(number, _)| *number as usize + 1);
        let mut table = PackTable {
            rows_by_number: vec![NONE; numbers],
            rows: Vec::with_capacity(known.len()),
            described: Vec::with_capacity(known.len()),
            tallies: Vec::with_capacity(known.len()),
            segments: Vec::new(),
            used_segments: Vec::new(),
        };
        debug_assert!(known.is_sorted());
        repository.cache().each_pack_info(|number, mut info| {
            if known.binary_search(&(number, info.id)).is_err() {
                return;
            }
            let segments = std::mem::take(&mut info.segments);
            let stored_length = lengths.get(&info.id).copied();
            let stays = !exceptions.epochs.contains(&info.header.epoch);
            let row = table.rows.len() as u32;
            table.rows_by_number[number as usize] = row;
            table.rows.push(PackRow {
                row,
                first_segment: table.segments.len() as u32,
                segment_count: segments.len() as u32,
                is_tree: info.kind == ObjectKind::TreePack,
                counts: stays && stored_length == Some(info.object_length),
                is_damaged: exceptions.damaged.contains(&info.id),
            });
            let mut deltas =
                segments.iter().filter(|segment| segment.encoding.is_delta()).peekable();
            let has_deltas = deltas.peek().is_some();
            // A delta goes or stays as a whole, and counts for what it takes.
            let delta_bytes = deltas.map(|segment| u64::from(segment.stored_length)).sum::<u64>();
            table.tallies.push(Tally { blob_bytes: delta_bytes.into(), ..Tally::default() });
            let is_unknown = |encoding: &Encoding| matches!(encoding, Encoding::Unknown(_));
            table.described.push(Described {
                stored_length,
                is_busy: exceptions.undecided.contains(&info.id.session),
                has_unknown_segments: segments.iter().any(|one| is_unknown(&one.encoding)),
                has_deltas,
                info,
            });
            let lengths = segments.iter().map(|one| [one.stored_length, one.plain_length]);
            table.segments.extend(lengths);
        })?;
        table.used_segments.resize_with(table.segments.len().div_ceil(64), AtomicU64::default);
        Ok(table)
    }

    /// The pack of this number.
    pub fn row(&self, number: u32) -> Option<&PackRow> {
        let row = self.rows_by_number.get(number as usize).copied()?;
        self.rows.get(row as usize)
    }

    /// The name of the pack in this row.
    pub fn id_of(&self, row: u32) -> PackId {
        self.described[row as usize].info.id
    }

    /// Whether any pack has deltas.
    pub fn has_deltas(&self) -> bool {
        self.described.iter().any(|pack| pack.has_deltas)
    }

    /// About how many bytes of its segment a blob takes: blobs of one segment compress alike.
    fn share(&self, row: &PackRow, location: &Location) -> u64 {
        let Some(segment) = row.segment(location) else { return 0 };
        let [stored, plain] = self.segments[segment];
        (u64::from(stored) * u64::from(location.length)).div_ceil(u64::from(plain).max(1))
    }

    /// Counts a blob that is there.
    pub fn hold(&self, row: &PackRow, location: &Location) {
        if !location.is_delta {
            let share = self.share(row, location);
            self.tallies[row.row as usize].blob_bytes.fetch_add(share, Ordering::Relaxed);
        }
    }

    /// Counts a blob that is needed from this place.
    pub fn need(&self, location: &Location) {
        let Some(row) = self.row(location.pack) else { return };
        let Some(segment) = row.segment(location) else { return };
        let bit = 1 << (segment % 64);
        let before = self.used_segments[segment / 64].fetch_or(bit, Ordering::Relaxed);
        let bytes = match (location.is_delta, before & bit == 0) {
            (false, _) => self.share(row, location),
            (true, true) => u64::from(self.segments[segment][0]),
            (true, false) => 0,
        };
        let tally = &self.tallies[row.row as usize];
        tally.used_blobs.fetch_add(1, Ordering::Relaxed);
        tally.used_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// How many bytes are needed from each pack so far, by row.
    pub fn used_bytes(&self) -> Vec<u64> {
        self.tallies.iter().map(|tally| tally.used_bytes.load(Ordering::Relaxed)).collect()
    }

    fn used_segments(&self, row: &PackRow) -> u64 {
        let segments = row.first_segment..row.first_segment + row.segment_count;
        let is_used = |segment: u32| {
            let word = self.used_segments[segment as usize / 64].load(Ordering::Relaxed);
            word >> (segment % 64) & 1
        };
        segments.map(is_used).sum()
    }

    /// Every pack, with what was counted.
    pub fn counted(&self) -> impl Iterator<Item = CountedPack<'_>> {
        self.rows.iter().zip(&self.described).zip(&self.tallies).map(|((row, described), tally)| {
            CountedPack {
                described,
                counts: row.counts,
                blob_bytes: tally.blob_bytes.load(Ordering::Relaxed),
                used_bytes: tally.used_bytes.load(Ordering::Relaxed),
                used_blobs: tally.used_blobs.load(Ordering::Relaxed),
                used_segments: self.used_segments(row),
            }
        })
    }

    /// The rows of these packs.
    pub fn rows_of(&self, packs: &HashSet<&PackId>) -> HashSet<u32> {
        let is_one = |row: &&PackRow| packs.contains(&self.described[row.row as usize].info.id);
        self.rows.iter().filter(is_one).map(|row| row.row).collect()
    }
}

/// A pack, and what was counted of it.
pub struct CountedPack<'t> {
    /// The pack.
    pub described: &'t Described,
    /// Whether it counts.
    pub counts: bool,
    /// About how many bytes its blobs take.
    pub blob_bytes: u64,
    /// About how many of them those that are needed from it.
    pub used_bytes: u64,
    /// How many blobs are needed from it.
    pub used_blobs: u64,
    /// How many of its segments hold any of those.
    pub used_segments: u64,
}

impl CountedPack<'_> {
    /// Requests that reading what is needed takes: header, directory, then segment by segment, or at once into the cache.
    pub fn read_requests(&self, keeps_trees: bool) -> u64 {
        match keeps_trees && self.described.info.kind == ObjectKind::TreePack {
            true => 3,
            false => 2 + self.used_segments,
        }
    }
}
