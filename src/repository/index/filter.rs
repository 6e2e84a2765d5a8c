//! Answers "certainly new" without a look into a run: a blocked Bloom filter over blob ids, in pages of which those that are
//! asked are in memory.
//!
//! Blob ids are the output of a keyed hash, so their own bits serve as the filter's hashes. One lookup reads
//! one cache line. 16 bits an id; about one absent id in five hundred is not
//! recognised and costs a look-up in the run's file (Putze, Sanders, Singler, "Cache-, Hash- and
//! Space-Efficient Bloom Filters", WEA 2007).
//!
//! Which page an id belongs to follows from its beginning: ids that are inserted in order fill page after page, so that
//! whoever writes a run holds one of them. A page of a file is read when it is asked for the first time, and held against its
//! checksum; up to [`RESIDENT_MOST`] of all runs together stay, and what is beyond that is read each time.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::checksum::{CHECKSUM_LENGTH, Checksum};
use crate::id::BlobId;

/// Bits for every id.
const BITS_PER_ID: u64 = 16;
/// Words in a block: 512 bits, one cache line.
const BLOCK_WORDS: usize = 8;
/// Bits that an id sets in its block.
const PROBES: usize = 7;
/// Blocks in a page: as many as there is room for beside a checksum.
const PAGE_BLOCKS: usize = 63;
const PAGE_WORDS: usize = PAGE_BLOCKS * BLOCK_WORDS;
/// Bytes of a page in a file: its words, zeros, a checksum of 16 bytes.
pub const PAGE_LENGTH: usize = 4096;

/// Pages of files that stay in memory: 16 MiB, the filters of eight million blobs. A backup asks for each blob that may be new, so
/// that what it holds does not grow with the repository beyond that; a page that is not there costs it about a microsecond where the
/// kernel has it, and else a read of the disk. Whose pages are asked for first has the room, over all repositories of a process.
pub const RESIDENT_MOST: usize = 4096;

/// How many are there now.
static RESIDENT: AtomicUsize = AtomicUsize::new(0);

/// The words of a page.
pub type Page = [u64; PAGE_WORDS];

/// A set of ids that may say "perhaps" of what is not in it, but never "no" of what is.
pub struct Filter {
    pages: Pages,
    blocks: u64,
}

enum Pages {
    Memory(Vec<Page>),
    /// At the file's beginning.
    File(Box<[OnceLock<Box<Page>>]>),
}

impl Pages {
    /// So many of a file, none of which was asked for yet.
    fn unread(count: usize) -> Self {
        Pages::File((0..count).map(|_| OnceLock::new()).collect())
    }
}

/// First word of the id's block in its page, and 63 bits that choose seven of its 512 bits.
struct Place {
    page: usize,
    word: usize,
    bits: u64,
}

impl Place {
    fn of(id: &BlobId, blocks: u64) -> Self {
        let bytes = |at: usize| id.0[at..at + 8].try_into().expect("eight bytes of thirty-two");
        let block = (u128::from(u64::from_be_bytes(bytes(0))) * u128::from(blocks)) >> 64;
        let block = block as usize;
        let (page, word) = (block / PAGE_BLOCKS, block % PAGE_BLOCKS * BLOCK_WORDS);
        Place { page, word, bits: u64::from_le_bytes(bytes(24)) }
    }

    /// The words in the page, and which bit of each.
    fn probes(&self) -> impl Iterator<Item = (usize, u64)> {
        let Place { word, bits, .. } = *self;
        (0..PROBES).map(move |probe| {
            let bits = bits >> (9 * probe);
            (word + (bits as usize >> 6) % BLOCK_WORDS, 1 << (bits & 63))
        })
    }

    fn is_in(&self, page: &Page) -> bool {
        self.probes().all(|(word, bit)| page[word] & bit != 0)
    }
}

/// How many blocks, and how many pages, a filter for so many ids has.
fn shape(capacity: u64) -> (u64, u64) {
    let blocks = (capacity * BITS_PER_ID).div_ceil(BLOCK_WORDS as u64 * 64).max(1);
    (blocks, blocks.div_ceil(PAGE_BLOCKS as u64))
}

/// Of a page in its place: another one's there would say "no" of what is in.
fn checksum(content: &[u8], page: usize) -> [u8; CHECKSUM_LENGTH] {
    Checksum::START.with(content).with(&(page as u64).to_le_bytes()).bytes()
}

/// How many pages a filter for so many ids has.
pub fn pages_for(capacity: u64) -> u64 {
    shape(capacity).1
}

impl Filter {
    /// The filter for so many ids that stands at the beginning of a file.
    pub fn in_file(capacity: u64) -> Self {
        let (blocks, pages) = shape(capacity);
        Filter { pages: Pages::unread(pages as usize), blocks }
    }

    /// Whether the id may be in the set. `file` is where its pages are.
    ///
    /// # Errors
    ///
    /// Of reading, and [`io::ErrorKind::InvalidData`] for a page that is not what was written.
    pub fn may_contain(&self, id: &BlobId, file: Option<&File>) -> io::Result<bool> {
        let place = Place::of(id, self.blocks);
        match (&self.pages, file) {
            (Pages::Memory(pages), _) => Ok(place.is_in(&pages[place.page])),
            (Pages::File(pages), Some(file)) => match pages[place.page].get() {
                Some(page) => Ok(place.is_in(page)),
                None => Self::read(pages, &place, file),
            },
            (Pages::File(_), None) => {
                Err(io::Error::new(io::ErrorKind::NotFound, "a filter without its file"))
            }
        }
    }

    #[cold]
    fn read(pages: &[OnceLock<Box<Page>>], place: &Place, file: &File) -> io::Result<bool> {
        let mut bytes = [0; PAGE_LENGTH];
        file.read_exact_at(&mut bytes, (place.page * PAGE_LENGTH) as u64)?;
        let (content, stored) = bytes.split_at(PAGE_LENGTH - CHECKSUM_LENGTH);
        if checksum(content, place.page) != stored {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "an index file is damaged"));
        }
        let mut page = [0; PAGE_WORDS];
        for (word, bytes) in page.iter_mut().zip(content.as_chunks::<8>().0) {
            *word = u64::from_le_bytes(*bytes);
        }
        let is_in = place.is_in(&page);
        // A few more, where threads come at once.
        if RESIDENT.load(Ordering::Relaxed) < RESIDENT_MOST
            && pages[place.page].set(Box::new(page)).is_ok()
        {
            RESIDENT.fetch_add(1, Ordering::Relaxed);
        }
        Ok(is_in)
    }
}

impl Drop for Filter {
    fn drop(&mut self) {
        if let Pages::File(pages) = &self.pages {
            let resident = pages.iter().filter(|page| page.get().is_some()).count();
            RESIDENT.fetch_sub(resident, Ordering::Relaxed);
        }
    }
}

/// Fills a filter with ids in their order, page after page.
pub struct FilterWriter {
    blocks: u64,
    page: Box<Page>,
    /// The page's number.
    at: usize,
    pages: usize,
    /// Those before it, where they stay in memory.
    kept: Option<Vec<Page>>,
}

impl FilterWriter {
    /// A filter with room for so many ids, which is written or stays in memory.
    pub fn new(capacity: u64, stays: bool) -> Self {
        let (blocks, pages) = shape(capacity);
        FilterWriter {
            blocks,
            page: Box::new([0; PAGE_WORDS]),
            at: 0,
            pages: pages as usize,
            kept: stays.then(|| Vec::with_capacity(pages as usize)),
        }
    }

    /// Adds an id, which must not come before the last one in order. Pages that are done are written to `file`.
    ///
    /// # Errors
    ///
    /// Of writing, and [`io::ErrorKind::InvalidInput`] for an id whose page is done.
    pub fn insert(&mut self, id: &BlobId, file: Option<&File>) -> io::Result<()> {
        let place = Place::of(id, self.blocks);
        while self.at < place.page {
            self.end_page(file)?;
        }
        if place.page < self.at {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "ids are out of order"));
        }
        for (word, bit) in place.probes() {
            self.page[word] |= bit;
        }
        Ok(())
    }

    fn end_page(&mut self, file: Option<&File>) -> io::Result<()> {
        if let Some(kept) = &mut self.kept {
            kept.push(*self.page);
        } else if let Some(file) = file {
            let mut bytes = [0; PAGE_LENGTH];
            let (content, stored) = bytes.split_at_mut(PAGE_LENGTH - CHECKSUM_LENGTH);
            for (bytes, word) in content.as_chunks_mut::<8>().0.iter_mut().zip(&*self.page) {
                *bytes = word.to_le_bytes();
            }
            stored.copy_from_slice(&checksum(content, self.at));
            file.write_all_at(&bytes, (self.at * PAGE_LENGTH) as u64)?;
        }
        self.page.fill(0);
        self.at += 1;
        Ok(())
    }

    /// The filter, whose last pages are written.
    ///
    /// # Errors
    ///
    /// Of writing.
    pub fn finish(mut self, file: Option<&File>) -> io::Result<Filter> {
        while self.at < self.pages {
            self.end_page(file)?;
        }
        let pages = match self.kept {
            Some(pages) => Pages::Memory(pages),
            None => Pages::unread(self.pages),
        };
        Ok(Filter { pages, blocks: self.blocks })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u32) -> BlobId {
        BlobId(*blake3::hash(&number.to_le_bytes()).as_bytes())
    }

    fn sorted(numbers: std::ops::Range<u32>) -> Vec<BlobId> {
        let mut ids: Vec<_> = numbers.map(id).collect();
        ids.sort();
        ids
    }

    #[test]
    fn what_is_in_is_found_and_little_else_is() {
        let file = tempfile::tempfile().unwrap();
        for place in [None, Some(&file)] {
            let mut writer = FilterWriter::new(20_000, place.is_none());
            for id in sorted(0..20_000) {
                writer.insert(&id, place).unwrap();
            }
            let written = writer.finish(place).unwrap();
            let length = file.metadata().unwrap().len();
            assert!(place.is_none() || length == pages_for(20_000) * PAGE_LENGTH as u64);
            let opened = place.map(|_| Filter::in_file(20_000));
            for filter in [Some(written), opened].into_iter().flatten() {
                let may = |number| filter.may_contain(&id(number), place).unwrap();
                assert!((0..20_000).all(may));
                let wrong = (20_000..120_000).filter(|number| may(*number)).count();
                assert!(wrong < 400, "{wrong} of 100 000");
            }
        }
    }

    #[test]
    fn more_pages_than_may_stay_are_read_each_time() {
        let file = tempfile::tempfile().unwrap();
        // Room for twice as many as may stay, in few of which there is anything.
        let capacity = RESIDENT_MOST as u64 * 2 * 2016;
        let ids = sorted(0..30_000);
        let mut writer = FilterWriter::new(capacity, false);
        for id in &ids {
            writer.insert(id, Some(&file)).unwrap();
        }
        let filter = writer.finish(Some(&file)).unwrap();
        let Pages::File(pages) = &filter.pages else { unreachable!() };
        assert!(pages.len() > 2 * RESIDENT_MOST - 100);
        for _ in 0..2 {
            assert!(ids.iter().all(|id| filter.may_contain(id, Some(&file)).unwrap()));
            assert!(pages.iter().filter(|page| page.get().is_some()).count() <= RESIDENT_MOST);
        }
        assert!(!filter.may_contain(&id(30_001), Some(&file)).unwrap());
    }

    #[test]
    fn a_damaged_page_is_an_error() {
        let file = tempfile::tempfile().unwrap();
        let mut writer = FilterWriter::new(100, false);
        for id in sorted(0..100) {
            writer.insert(&id, Some(&file)).unwrap();
        }
        let filter = writer.finish(Some(&file)).unwrap();
        let mut page = vec![0; PAGE_LENGTH];
        file.read_exact_at(&mut page, 0).unwrap();
        file.write_all_at(&[0xa5], 77).unwrap();
        let error = filter.may_contain(&id(1), Some(&file)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        // A whole page in the place of another.
        let mut writer = FilterWriter::new(3000, false);
        let ids = sorted(0..3000);
        ids.iter().for_each(|id| writer.insert(id, Some(&file)).unwrap());
        assert!(writer.insert(&ids[0], Some(&file)).is_err(), "its page is done");
        let larger = writer.finish(Some(&file)).unwrap();
        file.read_exact_at(&mut page, 0).unwrap();
        file.write_all_at(&page, PAGE_LENGTH as u64).unwrap();
        assert!(larger.may_contain(&ids[0], Some(&file)).unwrap());
        assert!(larger.may_contain(&ids[2999], Some(&file)).is_err());
        file.set_len(100).unwrap();
        assert!(filter.may_contain(&id(1), Some(&file)).is_err());
    }
}
