//! A run: entries sorted by id, in a file that is written once and never changed.
//!
//! | part | what |
//! |---|---|
//! | filter | see `filter`: pages of 4096 bytes, as many as the capacity asks for |
//! | blocks | 4096 bytes each: 85 entries of 48 bytes (id, pack, segment, offset, length and the bit for a delta), a checksum of 16 |
//! | fences | for every block 8 bytes: the beginning of its first id, as a number, little endian |
//! | checksum | 16 bytes, over fences, number of entries and capacity |
//! | footer | 8 bytes magic, 8 each: number of entries, capacity |
//!
//! A block and a page of the filter are held against their checksums whenever they are read: what a disk has garbled would make a
//! blob seem to be lost.
//!
//! Looking up asks the filter and reads one block of the file: which one follows from the fences, which stay in memory (8 bytes for
//! 85 entries). It is a file of its own and not rows in redb, because redb copies a row of 16 KiB for each look-up and needs
//! twice the space to merge.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::Location;
use super::checksum::{CHECKSUM_LENGTH, Checksum};
use super::filter::{Filter, FilterWriter, PAGE_LENGTH, pages_for};
use crate::id::BlobId;

/// Bytes of an entry.
const ENTRY_LENGTH: usize = BlobId::LENGTH + 16;
/// Bytes of a block: what a disk and the page cache read at the least.
const BLOCK_LENGTH: usize = 4096;
/// Entries in every block but the last.
const BLOCK_ENTRIES: usize = BLOCK_LENGTH / ENTRY_LENGTH;
/// Changes whenever the layout does.
const MAGIC: [u8; 8] = *b"aumrun04";
const FOOTER_LENGTH: usize = 24;
/// In an entry's length: the segment is a delta.
const DELTA: u32 = 1 << 31;
/// Blocks that a reader of the whole run takes at a time.
const BLOCKS_AT_A_TIME: usize = 32;

/// An id and its place.
pub type IndexEntry = (BlobId, Location);

/// What a block is found by: the first eight bytes of an id, so that order is kept.
fn fence(id: &BlobId) -> u64 {
    u64::from_be_bytes(id.0[..8].try_into().expect("eight bytes of thirty-two"))
}

fn put_entry(output: &mut Vec<u8>, (id, location): &IndexEntry) {
    output.extend_from_slice(id.as_bytes());
    // No segment is longer than 2^26 bytes, so the highest bit is free.
    let length = location.length & !DELTA | if location.is_delta { DELTA } else { 0 };
    for number in [location.pack, location.segment, location.offset, length] {
        output.extend_from_slice(&number.to_le_bytes());
    }
}

fn read_entry(bytes: &[u8]) -> IndexEntry {
    let id = BlobId(bytes[..BlobId::LENGTH].try_into().expect("an id's length"));
    let number = |at: usize| {
        let start = BlobId::LENGTH + at * 4;
        u32::from_le_bytes(bytes[start..start + 4].try_into().expect("four bytes"))
    };
    let (length, is_delta) = (number(3) & !DELTA, number(3) & DELTA != 0);
    let location =
        Location { pack: number(0), segment: number(1), offset: number(2), length, is_delta };
    (id, location)
}

/// Where a run's bytes are.
enum Bytes {
    File {
        file: File,
        /// Where the blocks begin.
        start: u64,
    },
    Memory(Vec<u8>),
}

impl Bytes {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        match self {
            Bytes::File { file, start } => file.read_exact_at(buffer, start + offset),
            Bytes::Memory(bytes) => {
                let from = bytes.get(offset as usize..).and_then(|rest| rest.get(..buffer.len()));
                buffer.copy_from_slice(from.ok_or(io::ErrorKind::UnexpectedEof)?);
                Ok(())
            }
        }
    }

    fn file(&self) -> Option<&File> {
        match self {
            Bytes::File { file, .. } => Some(file),
            Bytes::Memory(_) => None,
        }
    }
}

/// A run, ready to be looked up in.
pub struct Run {
    bytes: Bytes,
    synced: AtomicBool,
    is_broken: AtomicBool,
    entries: u64,
    fences: Vec<u64>,
    filter: Filter,
}

impl Run {
    /// The run in this file; `None` when the file does not hold a whole one.
    pub fn open(file: File) -> io::Result<Option<Run>> {
        let length = file.metadata()?.len();
        let Some(tail) = length.checked_sub(FOOTER_LENGTH as u64) else { return Ok(None) };
        let Some(tables_end) = tail.checked_sub(CHECKSUM_LENGTH as u64) else { return Ok(None) };
        let mut footer = [0; FOOTER_LENGTH];
        file.read_exact_at(&mut footer, tail)?;
        let number = |at: usize| {
            u64::from_le_bytes(footer[at..at + 8].try_into().expect("eight bytes of the footer"))
        };
        let (entries, capacity) = (number(8), number(16));
        // So that nothing here runs over: no file is as long.
        if footer[..8] != MAGIC || entries.max(capacity) > length.min(1 << 48) {
            return Ok(None);
        }
        let blocks = entries.div_ceil(BLOCK_ENTRIES as u64);
        let start = pages_for(capacity) * PAGE_LENGTH as u64;
        if start + blocks * (BLOCK_LENGTH as u64 + 8) != tables_end {
            return Ok(None);
        }
        let mut bytes = vec![0; blocks as usize * 8];
        file.read_exact_at(&mut bytes, start + blocks * BLOCK_LENGTH as u64)?;
        let checksum = Self::checksum(&bytes, entries, capacity);
        let fences = bytes
            .chunks_exact(8)
            .map(|chunk| u64::from_le_bytes(chunk.try_into().expect("a chunk of eight bytes")))
            .collect();
        let mut stored = [0; CHECKSUM_LENGTH];
        file.read_exact_at(&mut stored, tables_end)?;
        if checksum != stored {
            return Ok(None);
        }
        let filter = Filter::in_file(capacity);
        let (synced, is_broken) = (AtomicBool::new(true), AtomicBool::new(false));
        let bytes = Bytes::File { file, start };
        Ok(Some(Run { bytes, synced, is_broken, entries, fences, filter }))
    }

    fn checksum(fences: &[u8], entries: u64, capacity: u64) -> [u8; CHECKSUM_LENGTH] {
        let shape = [entries.to_le_bytes(), capacity.to_le_bytes()];
        Checksum::START.with(fences).with(shape.as_flattened()).bytes()
    }

    /// Whether a block or a page of the filter was met that is not what was written.
    pub fn is_broken(&self) -> bool {
        self.is_broken.load(Ordering::Relaxed)
    }

    /// Reads whole blocks, and holds them against their checksums.
    fn read_blocks(&self, buffer: &mut [u8], first: usize) -> io::Result<()> {
        self.bytes.read_at(buffer, (first * BLOCK_LENGTH) as u64)?;
        if let Bytes::Memory(_) = self.bytes {
            return Ok(());
        }
        let is_whole = |block: &[u8]| {
            let (entries, stored) = block.split_at(BLOCK_LENGTH - CHECKSUM_LENGTH);
            Checksum::START.with(entries).bytes() == stored
        };
        if buffer.chunks_exact(BLOCK_LENGTH).all(is_whole) {
            return Ok(());
        }
        self.is_broken.store(true, Ordering::Relaxed);
        Err(io::Error::new(io::ErrorKind::InvalidData, "an index file is damaged"))
    }

    /// Whether the filter lets an id through.
    fn may_contain(&self, id: &BlobId) -> io::Result<bool> {
        self.filter.may_contain(id, self.bytes.file()).inspect_err(|error| {
            if error.kind() == io::ErrorKind::InvalidData {
                self.is_broken.store(true, Ordering::Relaxed);
            }
        })
    }

    /// Makes the file durable, unless it is.
    pub fn sync(&self) -> io::Result<()> {
        if let Some(file) = self.bytes.file()
            && !self.synced.load(Ordering::Relaxed)
        {
            file.sync_data()?;
            self.synced.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    /// How many entries it has.
    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// How many entries stand in a block.
    fn entries_in(&self, block: usize) -> usize {
        (self.entries - (block * BLOCK_ENTRIES) as u64).min(BLOCK_ENTRIES as u64) as usize
    }

    /// Hands the places of `id` to `take` until it says that it has had enough. Returns whether it did.
    pub fn search(&self, id: &BlobId, take: &mut impl FnMut(Location) -> bool) -> io::Result<bool> {
        // Before there is a block to be cleared, which takes several times as long as the filter does.
        match self.may_contain(id)? {
            true => self.search_blocks(id, &mut LastBlock::default(), take),
            false => Ok(false),
        }
    }

    /// Like [`Run::search`], for one id after another in their order: the block that was read last is not read again.
    pub fn search_at(
        &self,
        id: &BlobId,
        last: &mut LastBlock,
        take: &mut impl FnMut(Location) -> bool,
    ) -> io::Result<bool> {
        match self.may_contain(id)? {
            true => self.search_blocks(id, last, take),
            false => Ok(false),
        }
    }

    /// The same for an id that the filter lets through.
    fn search_blocks(
        &self,
        id: &BlobId,
        last: &mut LastBlock,
        take: &mut impl FnMut(Location) -> bool,
    ) -> io::Result<bool> {
        let wanted = fence(id);
        // The block before the first that begins at or behind the id may hold it, and so may those behind.
        let first = self.fences.partition_point(|fence| *fence < wanted).saturating_sub(1);
        for block in first..self.fences.len() {
            if block > first && self.fences[block] > wanted {
                break;
            }
            if last.block != Some(block) {
                last.block = None;
                self.read_blocks(&mut last.bytes, block)?;
                last.block = Some(block);
            }
            let (entries, _) =
                last.bytes[..self.entries_in(block) * ENTRY_LENGTH].as_chunks::<ENTRY_LENGTH>();
            let start = entries.partition_point(|entry| entry[..BlobId::LENGTH] < id.0[..]);
            for entry in &entries[start..] {
                let (found, location) = read_entry(entry);
                if found != *id {
                    return Ok(false);
                }
                if !take(location) {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// All entries, in order.
    pub fn rows(self: &Arc<Self>) -> Rows {
        self.rows_between(IdRange::ALL)
    }

    /// The entries whose ids are in this range, in order.
    pub fn rows_between(self: &Arc<Self>, range: IdRange) -> Rows {
        // The block before the first that begins at or behind the range may hold some of it.
        let first = self.fences.partition_point(|fence| *fence < range.first).saturating_sub(1);
        Rows { run: self.clone(), next_block: first, buffer: Vec::new(), at: 0, range }
    }
}

/// A range of ids, told by their first eight bytes as a number: ids are the output of a hash, so ranges of a length
/// hold about as many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdRange {
    /// The lowest number in it.
    pub first: u64,
    /// The highest number in it.
    pub last: u64,
}

impl IdRange {
    /// All ids.
    pub const ALL: IdRange = IdRange { first: 0, last: u64::MAX };

    /// All ids in so many ranges, one at least, in order.
    pub fn split(count: u32) -> Vec<IdRange> {
        let count = u128::from(count.max(1));
        let start = |at: u128| ((at << 64) / count) as u64;
        let last = |at: u128| (((at + 1) << 64) / count - 1) as u64;
        (0..count).map(|at| IdRange { first: start(at), last: last(at) }).collect()
    }
}

/// The block of a run that was read last.
pub struct LastBlock {
    block: Option<usize>,
    bytes: [u8; BLOCK_LENGTH],
}

impl Default for LastBlock {
    fn default() -> Self {
        LastBlock { block: None, bytes: [0; BLOCK_LENGTH] }
    }
}

/// The entries of a run, in order, a few blocks in memory at a time.
pub struct Rows {
    run: Arc<Run>,
    next_block: usize,
    buffer: Vec<u8>,
    at: usize,
    range: IdRange,
}

impl Rows {
    fn end(&mut self) {
        self.next_block = self.run.fences.len();
        self.at = self.buffer.len();
    }

    fn fill(&mut self) -> io::Result<()> {
        let blocks = (self.run.fences.len() - self.next_block).min(BLOCKS_AT_A_TIME);
        self.buffer.resize(blocks * BLOCK_LENGTH, 0);
        self.run.read_blocks(&mut self.buffer, self.next_block)?;
        // Close the gaps between the blocks, so that entries follow one another.
        let mut length = 0;
        for block in 0..blocks {
            let start = block * BLOCK_LENGTH;
            let end = start + self.run.entries_in(self.next_block + block) * ENTRY_LENGTH;
            self.buffer.copy_within(start..end, length);
            length += end - start;
        }
        self.buffer.truncate(length);
        self.next_block += blocks;
        self.at = 0;
        Ok(())
    }
}

impl Iterator for Rows {
    type Item = io::Result<IndexEntry>;

    fn next(&mut self) -> Option<io::Result<IndexEntry>> {
        loop {
            if self.at == self.buffer.len() {
                if self.next_block == self.run.fences.len() {
                    return None;
                }
                if let Err(error) = self.fill() {
                    // Whoever goes on after an error would miss entries: the iterator ends.
                    self.end();
                    return Some(Err(error));
                }
            }
            let entry = read_entry(&self.buffer[self.at..self.at + ENTRY_LENGTH]);
            self.at += ENTRY_LENGTH;
            let number = fence(&entry.0);
            if number > self.range.last {
                self.end();
                return None;
            }
            if number >= self.range.first {
                return Some(Ok(entry));
            }
        }
    }
}

/// The entries of several runs in one order.
pub struct MergedRows {
    sources: Vec<Rows>,
    next: BinaryHeap<Reverse<(IndexEntry, usize)>>,
}

impl MergedRows {
    /// Merges these runs. Memory: 128 KiB for each.
    pub fn new(runs: &[Arc<Run>]) -> io::Result<Self> {
        Self::between(runs, IdRange::ALL)
    }

    /// Merges what these runs have in this range.
    pub fn between(runs: &[Arc<Run>], range: IdRange) -> io::Result<Self> {
        let mut sources: Vec<Rows> = runs.iter().map(|run| run.rows_between(range)).collect();
        let mut next = BinaryHeap::with_capacity(sources.len());
        for (number, source) in sources.iter_mut().enumerate() {
            if let Some(entry) = source.next() {
                next.push(Reverse((entry?, number)));
            }
        }
        Ok(MergedRows { sources, next })
    }
}

impl Iterator for MergedRows {
    type Item = io::Result<IndexEntry>;

    fn next(&mut self) -> Option<io::Result<IndexEntry>> {
        let mut top = self.next.peek_mut()?;
        let Reverse((entry, number)) = *top;
        match self.sources[number].next() {
            // Replacing the top sinks it once, where taking it and putting another would do so twice.
            Some(Ok(following)) => *top = Reverse((following, number)),
            Some(Err(error)) => return Some(Err(error)),
            None => {
                std::collections::binary_heap::PeekMut::pop(top);
            }
        }
        Some(Ok(entry))
    }
}

enum Sink {
    File(BufWriter<File>),
    Memory(Vec<u8>),
}

impl Sink {
    fn file(&self) -> Option<&File> {
        match self {
            Sink::File(file) => Some(file.get_ref()),
            Sink::Memory(_) => None,
        }
    }
}

/// Writes a run.
pub struct RunWriter {
    sink: Sink,
    block: Vec<u8>,
    entries: u64,
    fences: Vec<u64>,
    capacity: u64,
    filter: FilterWriter,
}

impl RunWriter {
    /// A writer of at most `capacity` entries into an empty file; `None`: into memory.
    pub fn new(file: Option<File>, capacity: u64) -> io::Result<Self> {
        let filter = FilterWriter::new(capacity, file.is_none());
        let sink = match file {
            Some(mut file) => {
                file.seek(SeekFrom::Start(pages_for(capacity) * PAGE_LENGTH as u64))?;
                Sink::File(BufWriter::with_capacity(1 << 18, file))
            }
            None => Sink::Memory(Vec::new()),
        };
        Ok(RunWriter {
            sink,
            capacity,
            filter,
            block: Vec::with_capacity(BLOCK_LENGTH),
            entries: 0,
            fences: Vec::with_capacity((capacity as usize).div_ceil(BLOCK_ENTRIES)),
        })
    }

    fn write(sink: &mut Sink, bytes: &[u8]) -> io::Result<()> {
        match sink {
            Sink::File(file) => file.write_all(bytes),
            Sink::Memory(memory) => {
                memory.extend_from_slice(bytes);
                Ok(())
            }
        }
    }

    fn end_block(&mut self) -> io::Result<()> {
        self.block.resize(BLOCK_LENGTH - CHECKSUM_LENGTH, 0);
        let checksum = Checksum::START.with(&self.block);
        self.block.extend_from_slice(&checksum.bytes());
        Self::write(&mut self.sink, &self.block)?;
        self.block.clear();
        Ok(())
    }

    /// The next entry, in order.
    pub fn push(&mut self, entry: &IndexEntry) -> io::Result<()> {
        if self.block.is_empty() {
            self.fences.push(fence(&entry.0));
        }
        self.filter.insert(&entry.0, self.sink.file())?;
        put_entry(&mut self.block, entry);
        self.entries += 1;
        if self.block.len() == BLOCK_ENTRIES * ENTRY_LENGTH {
            self.end_block()?;
        }
        Ok(())
    }

    /// Writes what is left and opens the run, which is not durable yet.
    pub fn finish(mut self) -> io::Result<Run> {
        if !self.block.is_empty() {
            self.end_block()?;
        }
        let RunWriter { sink, entries, fences, capacity, filter, .. } = self;
        let filter = filter.finish(sink.file())?;
        let bytes = match sink {
            Sink::Memory(memory) => Bytes::Memory(memory),
            Sink::File(mut writer) => {
                let bytes: Vec<u8> = fences.iter().flat_map(|fence| fence.to_le_bytes()).collect();
                writer.write_all(&bytes)?;
                writer.write_all(&Run::checksum(&bytes, entries, capacity))?;
                writer.write_all(&MAGIC)?;
                writer.write_all(&entries.to_le_bytes())?;
                writer.write_all(&capacity.to_le_bytes())?;
                let file = writer.into_inner().map_err(io::IntoInnerError::into_error)?;
                Bytes::File { file, start: pages_for(capacity) * PAGE_LENGTH as u64 }
            }
        };
        let (synced, is_broken) = (AtomicBool::new(false), AtomicBool::new(false));
        Ok(Run { bytes, synced, is_broken, entries, fences, filter })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(number: u32, copy: u32) -> IndexEntry {
        let id = BlobId(*blake3::hash(&number.to_le_bytes()).as_bytes());
        let is_delta = number % 2 == 1;
        (id, Location { pack: number, segment: copy, offset: 2, length: 3, is_delta })
    }

    fn write(file: Option<File>, entries: &[IndexEntry]) -> Run {
        let mut writer = RunWriter::new(file, entries.len() as u64).unwrap();
        entries.iter().for_each(|entry| writer.push(entry).unwrap());
        writer.finish().unwrap()
    }

    fn places(run: &Run, id: &BlobId) -> Vec<Location> {
        let mut places = Vec::new();
        run.search(id, &mut |place| {
            places.push(place);
            true
        })
        .unwrap();
        places
    }

    #[test]
    fn entries_are_found_in_memory_in_a_file_and_after_reopening() {
        for count in [1, 84, 85, 86, 170, 1000] {
            let mut entries: Vec<_> = (0..count).map(|number| entry(number, 1)).collect();
            entries.sort();
            let file = tempfile::NamedTempFile::new().unwrap();
            let runs = [
                write(None, &entries),
                write(Some(file.reopen().unwrap()), &entries),
                Run::open(file.reopen().unwrap()).unwrap().unwrap(),
            ];
            for run in runs {
                for (id, place) in &entries {
                    assert_eq!(places(&run, id), [*place]);
                }
                assert_eq!(places(&run, &BlobId([0xff; 32])), []);
                assert_eq!(places(&run, &entry(count, 1).0), []);
                let rows: Result<Vec<_>, _> = Arc::new(run).rows().collect();
                assert_eq!(rows.unwrap(), entries);
            }
        }
    }

    #[test]
    fn copies_of_a_blob_are_found_across_blocks() {
        let mut entries: Vec<_> = (0..200).map(|copy| entry(7, copy)).collect();
        entries.extend((8..100).map(|number| entry(number, 0)));
        entries.sort();
        let run = write(None, &entries);
        assert_eq!(places(&run, &entry(7, 0).0).len(), 200);
        assert_eq!(places(&run, &entry(50, 0).0).len(), 1);
    }

    #[test]
    fn merging_keeps_every_entry_in_order() {
        let mut entries: Vec<_> = (0..3000).map(|number| entry(number % 2500, number)).collect();
        let runs: Vec<_> = entries
            .chunks(700)
            .map(|part| {
                let mut part = part.to_vec();
                part.sort();
                Arc::new(write(None, &part))
            })
            .collect();
        entries.sort();
        let merged: Result<Vec<_>, _> = MergedRows::new(&runs).unwrap().collect();
        assert_eq!(merged.unwrap(), entries);
    }

    #[test]
    fn ranges_hold_every_entry_once_and_in_order() {
        assert_eq!(IdRange::split(1), [IdRange::ALL]);
        let mut entries: Vec<_> = (0..1000).map(|number| entry(number, 1)).collect();
        entries.sort();
        let runs = entries.chunks(300).map(|part| Arc::new(write(None, part))).collect::<Vec<_>>();
        for count in [1, 2, 3, 7, 64] {
            let ranges = IdRange::split(count);
            assert_eq!((ranges[0].first, ranges[ranges.len() - 1].last), (0, u64::MAX));
            assert!(ranges.windows(2).all(|pair| pair[0].last + 1 == pair[1].first));
            let found = ranges.iter().flat_map(|range| MergedRows::between(&runs, *range).unwrap());
            assert_eq!(found.collect::<Result<Vec<_>, _>>().unwrap(), entries);
        }
        let first = fence(&entries[500].0);
        let only = IdRange { first, last: first };
        let found: Vec<_> = MergedRows::between(&runs, only).unwrap().collect();
        assert_eq!(found.len(), 1);
    }

    #[test]
    fn no_byte_can_change_unnoticed() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut entries: Vec<_> = (0..300).map(|number| entry(number, 1)).collect();
        entries.sort();
        write(Some(file.reopen().unwrap()), &entries);
        let whole = std::fs::read(file.path()).unwrap();
        let changed = |at: usize, change: &dyn Fn(&mut [u8])| {
            let mut bytes = whole.clone();
            change(&mut bytes[at..]);
            if bytes == whole {
                return;
            }
            std::fs::write(file.path(), bytes).unwrap();
            if let Some(run) = Run::open(file.reopen().unwrap()).unwrap() {
                let run = Arc::new(run);
                let rows: Result<Vec<_>, _> = run.rows().collect();
                assert!(at < PAGE_LENGTH || rows.is_err() && run.is_broken(), "byte {at}");
                let hurt = entries.iter().filter(|(id, _)| run.search(id, &mut |_| true).is_err());
                assert!(hurt.count() > 0 && run.is_broken(), "byte {at}");
            }
        };
        for at in (0..whole.len()).step_by(97) {
            changed(at, &|bytes| bytes[0] ^= 0x10);
        }
        for at in (0..whole.len() - BLOCK_LENGTH).step_by(BLOCK_LENGTH) {
            changed(at, &|bytes| bytes[..BLOCK_LENGTH].fill(0));
        }
    }

    #[test]
    fn a_file_that_is_cut_or_no_run_is_recognised() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut entries: Vec<_> = (0..300).map(|number| entry(number, 1)).collect();
        entries.sort();
        write(Some(file.reopen().unwrap()), &entries);
        let length = file.as_file().metadata().unwrap().len();
        for cut in [0, 10, 4096, length - 4096, length - 1] {
            file.as_file().set_len(cut).unwrap();
            assert!(Run::open(file.reopen().unwrap()).unwrap().is_none(), "{cut}");
        }
    }
}
