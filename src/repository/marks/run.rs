//! A run of marks: sorted, in a file that is written once and never changed, or in memory.
//!
//! | part | what |
//! |---|---|
//! | blocks | 8192 bytes each: 408 marks of 20 bytes (key 12, tag 4, count 4, little endian), zeros, a checksum of 16 |
//! | fences | for every block 8 bytes: the beginning of its first key, as a number, little endian |
//!
//! What deletes goes by this, so a block's checksum is a hash, under a key that follows from the run's name: neither
//! another block of the same file nor a block of another is taken for it. The hash of the fences, and how many marks there
//! are, stand in the state that names the run (`shelf`).

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::Mark;
use crate::id::BlobKey;
use crate::repository::index::IdRange;

/// Bytes of a mark.
const MARK_LENGTH: usize = BlobKey::LENGTH + 8;
/// Bytes of a block: as many as BLAKE3 takes in at a time on most processors.
const BLOCK_LENGTH: usize = 8192;
const CHECKSUM_LENGTH: usize = 16;
/// Marks in every block but the last.
const BLOCK_MARKS: usize = (BLOCK_LENGTH - CHECKSUM_LENGTH) / MARK_LENGTH;
/// Blocks that a reader of the whole run takes at a time.
const BLOCKS_AT_A_TIME: usize = 8;

/// What makes a run this one and no other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunName(pub [u8; 16]);

impl RunName {
    /// Of its file.
    pub fn file_name(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn key(&self) -> [u8; 32] {
        blake3::derive_key("aumbry 2026 marks of one run", &self.0)
    }
}

/// What is known of a run beside its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunInfo {
    pub name: RunName,
    /// How many marks it has.
    pub marks: u64,
    /// Hash of its fences.
    pub hash: [u8; 32],
}

impl RunInfo {
    fn blocks(&self) -> u64 {
        self.marks.div_ceil(BLOCK_MARKS as u64)
    }
}

/// What a block is found by: the first eight bytes of a key, so that order is kept.
fn fence(key: &BlobKey) -> u64 {
    u64::from_be_bytes(key.0[..8].try_into().expect("eight bytes of twelve"))
}

fn read_mark(bytes: &[u8]) -> Mark {
    let key = BlobKey(bytes[..12].try_into().expect("twelve bytes of twenty"));
    let number = |at: usize| bytes[at..at + 4].try_into().expect("four bytes of twenty");
    Mark { key, tag: u32::from_le_bytes(number(12)), count: i32::from_le_bytes(number(16)) }
}

enum Bytes {
    File(File),
    Memory(Vec<u8>),
}

/// A run, ready to be read.
pub struct Run {
    bytes: Bytes,
    info: RunInfo,
    key: [u8; 32],
    fences: Vec<u64>,
    /// Where its file is, if that has a name.
    path: Option<PathBuf>,
    /// A state names it.
    is_listed: AtomicBool,
}

impl Drop for Run {
    fn drop(&mut self) {
        // Nobody would find it.
        if let Some(path) = self.path.as_ref().filter(|_| !self.is_listed.load(Ordering::Relaxed)) {
            let _ = std::fs::remove_file(path);
        }
    }
}

fn checksum(key: &[u8; 32], number: usize, block: &[u8]) -> [u8; CHECKSUM_LENGTH] {
    let mut hasher = blake3::Hasher::new_keyed(key);
    hasher.update(block).update(&(number as u64).to_le_bytes());
    let mut checksum = [0; CHECKSUM_LENGTH];
    checksum.copy_from_slice(&hasher.finalize().as_bytes()[..CHECKSUM_LENGTH]);
    checksum
}

fn hash_fences(key: &[u8; 32], fences: &[u8]) -> [u8; 32] {
    *blake3::keyed_hash(key, fences).as_bytes()
}

impl Run {
    /// The run that is described so; `None` when the file does not hold it.
    pub fn open(path: PathBuf, info: RunInfo) -> io::Result<Option<Run>> {
        let file = File::open(&path)?;
        let blocks = info.blocks();
        let expected = blocks.checked_mul(BLOCK_LENGTH as u64 + 8);
        if expected != Some(file.metadata()?.len()) {
            return Ok(None);
        }
        let mut fences = vec![0; blocks as usize * 8];
        file.read_exact_at(&mut fences, blocks * BLOCK_LENGTH as u64)?;
        let key = info.name.key();
        if hash_fences(&key, &fences) != info.hash {
            return Ok(None);
        }
        let (fences, _) = fences.as_chunks::<8>();
        let fences = fences.iter().map(|fence| u64::from_le_bytes(*fence)).collect();
        let (bytes, path, is_listed) = (Bytes::File(file), Some(path), AtomicBool::new(true));
        Ok(Some(Run { bytes, info, key, fences, path, is_listed }))
    }

    /// What it is found again by, if its file has a name.
    pub fn info(&self) -> Option<RunInfo> {
        self.path.is_some().then_some(self.info)
    }

    /// Says that a state names it: its file stays.
    pub fn set_listed(&self) {
        self.is_listed.store(true, Ordering::Relaxed);
    }

    /// How many marks it has.
    pub fn marks(&self) -> u64 {
        self.info.marks
    }

    fn marks_in(&self, block: usize) -> usize {
        (self.info.marks - (block * BLOCK_MARKS) as u64).min(BLOCK_MARKS as u64) as usize
    }

    /// Reads the marks of these blocks, one after another.
    fn read_blocks(&self, buffer: &mut Vec<u8>, first: usize, count: usize) -> io::Result<()> {
        let file = match &self.bytes {
            // Without gaps.
            Bytes::Memory(bytes) => {
                let start = first * BLOCK_MARKS * MARK_LENGTH;
                let end = bytes.len().min((first + count) * BLOCK_MARKS * MARK_LENGTH);
                buffer.clear();
                buffer.extend_from_slice(&bytes[start..end]);
                return Ok(());
            }
            Bytes::File(file) => file,
        };
        buffer.resize(count * BLOCK_LENGTH, 0);
        file.read_exact_at(buffer, (first * BLOCK_LENGTH) as u64)?;
        let mut length = 0;
        for block in 0..count {
            let start = block * BLOCK_LENGTH;
            let (marks, stored) =
                buffer[start..start + BLOCK_LENGTH].split_at(BLOCK_LENGTH - CHECKSUM_LENGTH);
            if checksum(&self.key, first + block, marks) != stored {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a file is damaged"));
            }
            let end = start + self.marks_in(first + block) * MARK_LENGTH;
            buffer.copy_within(start..end, length);
            length += end - start;
        }
        buffer.truncate(length);
        Ok(())
    }

    /// Hands the marks of this key to `take`.
    pub fn search(&self, key: &BlobKey, mut take: impl FnMut(Mark)) -> io::Result<()> {
        let wanted = fence(key);
        // The block before the first that begins at or behind the key may hold it, and so may those behind.
        let first = self.fences.partition_point(|fence| *fence < wanted).saturating_sub(1);
        let mut buffer = Vec::new();
        for block in first..self.fences.len() {
            if block > first && self.fences[block] > wanted {
                break;
            }
            self.read_blocks(&mut buffer, block, 1)?;
            let (marks, _) = buffer.as_chunks::<MARK_LENGTH>();
            let start = marks.partition_point(|mark| mark[..BlobKey::LENGTH] < key.0[..]);
            let marks = marks[start..].iter().map(|mark| read_mark(mark));
            marks.take_while(|mark| mark.key == *key).for_each(&mut take);
        }
        Ok(())
    }

    /// The marks whose keys are in this range, in order.
    pub fn rows(self: &Arc<Self>, range: IdRange) -> Rows {
        let first = self.fences.partition_point(|fence| *fence < range.first).saturating_sub(1);
        Rows { run: self.clone(), next_block: first, buffer: Vec::new(), at: 0, range }
    }
}

/// The marks of a run, in order, a few blocks in memory at a time.
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
}

impl Iterator for Rows {
    type Item = io::Result<Mark>;

    fn next(&mut self) -> Option<io::Result<Mark>> {
        loop {
            if self.at == self.buffer.len() {
                let blocks = (self.run.fences.len() - self.next_block).min(BLOCKS_AT_A_TIME);
                if blocks == 0 {
                    return None;
                }
                if let Err(error) = self.run.read_blocks(&mut self.buffer, self.next_block, blocks)
                {
                    self.end();
                    return Some(Err(error));
                }
                self.next_block += blocks;
                self.at = 0;
            }
            let mark = read_mark(&self.buffer[self.at..self.at + MARK_LENGTH]);
            self.at += MARK_LENGTH;
            let number = fence(&mark.key);
            if number > self.range.last {
                self.end();
                return None;
            }
            if number >= self.range.first {
                return Some(Ok(mark));
            }
        }
    }
}

enum Sink {
    File(BufWriter<File>),
    Memory(Vec<u8>),
}

/// Writes a run.
pub struct RunWriter {
    sink: Sink,
    name: RunName,
    key: [u8; 32],
    block: Vec<u8>,
    marks: u64,
    fences: Vec<u64>,
}

impl RunWriter {
    /// A writer into an empty file; `None`: into memory.
    pub fn new(file: Option<File>, name: RunName) -> Self {
        let sink = match file {
            Some(file) => Sink::File(BufWriter::with_capacity(1 << 17, file)),
            None => Sink::Memory(Vec::new()),
        };
        RunWriter { sink, name, key: name.key(), block: Vec::new(), marks: 0, fences: Vec::new() }
    }

    fn end_block(&mut self) -> io::Result<()> {
        match &mut self.sink {
            Sink::Memory(memory) => memory.extend_from_slice(&self.block),
            Sink::File(file) => {
                self.block.resize(BLOCK_LENGTH - CHECKSUM_LENGTH, 0);
                let checksum = checksum(&self.key, self.fences.len() - 1, &self.block);
                file.write_all(&self.block)?;
                file.write_all(&checksum)?;
            }
        }
        self.block.clear();
        Ok(())
    }

    /// The next mark, in order.
    pub fn push(&mut self, mark: &Mark) -> io::Result<()> {
        if self.block.is_empty() {
            self.fences.push(fence(&mark.key));
        }
        self.block.extend_from_slice(&mark.key.0);
        self.block.extend_from_slice(&mark.tag.to_le_bytes());
        self.block.extend_from_slice(&mark.count.to_le_bytes());
        self.marks += 1;
        if self.block.len() == BLOCK_MARKS * MARK_LENGTH {
            self.end_block()?;
        }
        Ok(())
    }

    /// Writes what is left and opens the run. `path`: where its file is, if that has a name.
    pub fn finish(mut self, path: Option<PathBuf>) -> io::Result<Run> {
        if !self.block.is_empty() {
            self.end_block()?;
        }
        let fences: Vec<u8> = self.fences.iter().flat_map(|fence| fence.to_le_bytes()).collect();
        let hash = hash_fences(&self.key, &fences);
        let (bytes, path) = match self.sink {
            Sink::Memory(mut memory) => {
                memory.shrink_to_fit();
                (Bytes::Memory(memory), None)
            }
            Sink::File(mut file) => {
                file.write_all(&fences)?;
                (Bytes::File(file.into_inner().map_err(io::IntoInnerError::into_error)?), path)
            }
        };
        let info = RunInfo { name: self.name, marks: self.marks, hash };
        let is_listed = AtomicBool::new(false);
        Ok(Run { bytes, info, key: self.key, fences: self.fences, path, is_listed })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::id::BlobId;

    fn marks(count: u32) -> Vec<Mark> {
        let mut marks: Vec<Mark> = (0..count)
            .map(|number| {
                let id = BlobId(*blake3::hash(&number.to_le_bytes()).as_bytes());
                Mark { key: BlobKey::new(&id), tag: number, count: number as i32 - 7 }
            })
            .collect();
        marks.sort();
        marks
    }

    fn write(path: Option<&Path>, marks: &[Mark]) -> Run {
        let file = path.map(|path| {
            let mut options = File::options();
            options.read(true).write(true).truncate(true).open(path).unwrap()
        });
        let mut writer = RunWriter::new(file, RunName([3; 16]));
        marks.iter().for_each(|mark| writer.push(mark).unwrap());
        let run = writer.finish(path.map(Path::to_path_buf)).unwrap();
        run.set_listed();
        run
    }

    fn open(path: &Path, info: RunInfo) -> Option<Run> {
        Run::open(path.to_path_buf(), info).unwrap()
    }

    fn all(run: &Arc<Run>) -> io::Result<Vec<Mark>> {
        run.rows(IdRange::ALL).collect()
    }

    fn found(run: &Run, key: &BlobKey) -> Vec<Mark> {
        let mut found = Vec::new();
        run.search(key, |mark| found.push(mark)).unwrap();
        found
    }

    #[test]
    fn marks_are_found_in_memory_in_a_file_and_after_reopening() {
        for count in [0, 1, 407, 408, 409, 816, 5000] {
            let marks = marks(count);
            let file = tempfile::NamedTempFile::new().unwrap();
            let written = write(Some(file.path()), &marks);
            let opened = open(file.path(), written.info().unwrap());
            for run in [write(None, &marks), written, opened.unwrap()] {
                let run = Arc::new(run);
                assert_eq!(all(&run).unwrap(), marks);
                for mark in marks.iter().step_by(37) {
                    assert_eq!(found(&run, &mark.key), [*mark]);
                }
                assert_eq!(found(&run, &BlobKey([0xff; 12])), []);
                for count in [1, 3, 64] {
                    let ranges = IdRange::split(count);
                    let rows = ranges.iter().flat_map(|range| run.rows(*range));
                    assert_eq!(rows.collect::<io::Result<Vec<_>>>().unwrap(), marks);
                }
            }
        }
    }

    #[test]
    fn a_file_that_no_state_names_goes_with_its_run() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run");
        for is_listed in [false, true] {
            let writer = RunWriter::new(Some(File::create(&path).unwrap()), RunName([3; 16]));
            let run = writer.finish(Some(path.clone())).unwrap();
            if is_listed {
                run.set_listed();
            }
            assert!(path.exists());
            drop(run);
            assert_eq!(path.exists(), is_listed);
        }
    }

    #[test]
    fn marks_of_one_key_are_found_across_blocks() {
        let mut marks = marks(900);
        let key = marks[400].key;
        marks.extend((0..500).map(|tag| Mark { key, tag: 10_000 + tag, count: 1 }));
        marks.sort();
        let run = write(None, &marks);
        assert_eq!(found(&run, &key).len(), 501);
    }

    #[test]
    fn no_byte_can_change_unnoticed_and_no_block_stands_for_another() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let marks = marks(1500);
        let info = write(Some(file.path()), &marks).info().unwrap();
        let whole = std::fs::read(file.path()).unwrap();
        let is_noticed = |bytes: &[u8]| {
            std::fs::write(file.path(), bytes).unwrap();
            let Some(run) = open(file.path(), info) else { return true };
            let run = Arc::new(run);
            all(&run).is_err()
        };
        assert!(!is_noticed(&whole));
        for at in (0..whole.len()).step_by(101) {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x10;
            assert!(is_noticed(&bytes), "byte {at}");
        }
        for at in (0..whole.len()).step_by(997) {
            assert!(is_noticed(&whole[..at]), "cut at {at}");
        }
        let mut swapped = whole.clone();
        swapped[..BLOCK_LENGTH].copy_from_slice(&whole[BLOCK_LENGTH..2 * BLOCK_LENGTH]);
        assert!(is_noticed(&swapped));
        let mut zeros = whole.clone();
        zeros[BLOCK_LENGTH..2 * BLOCK_LENGTH].fill(0);
        assert!(is_noticed(&zeros));
        // The same marks under another name.
        std::fs::write(file.path(), &whole).unwrap();
        let other = RunInfo { name: RunName([4; 16]), ..info };
        assert!(open(file.path(), other).is_none());
    }
}
