//! Answers "certainly new" without touching the disk: a blocked Bloom filter over blob ids.
//!
//! Blob ids are the output of a keyed hash, so their own bits serve as the filter's hashes. One lookup reads
//! one cache line. Memory: 16 bits an id, 20 MB for ten million; about one absent id in five hundred is not
//! recognised and costs a look-up in the run's file (Putze, Sanders, Singler, "Cache-, Hash- and
//! Space-Efficient Bloom Filters", WEA 2007).

use crate::id::BlobId;

/// Bits for every id.
const BITS_PER_ID: usize = 16;
/// Words in a block: 512 bits, one cache line.
const BLOCK_WORDS: usize = 8;
/// Bits that an id sets in its block.
const PROBES: usize = 7;

/// A set of ids that may say "perhaps" of what is not in it, but never "no" of what is.
pub struct Filter {
    words: Vec<u64>,
}

impl Filter {
    /// An empty filter with room for `count` ids.
    pub fn with_capacity(count: usize) -> Self {
        let blocks = (count * BITS_PER_ID).div_ceil(BLOCK_WORDS * 64).max(1);
        Filter { words: vec![0; blocks * BLOCK_WORDS] }
    }

    /// The filter whose bytes these are; `None` when they cannot be.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        if bytes.is_empty() || !bytes.len().is_multiple_of(BLOCK_WORDS * 8) {
            return None;
        }
        let word = |chunk: &[u8]| Some(u64::from_le_bytes(chunk.try_into().ok()?));
        Some(Filter { words: bytes.chunks_exact(8).map(word).collect::<Option<_>>()? })
    }

    /// The filter's bytes, eight at a time.
    pub fn bytes(&self) -> impl ExactSizeIterator<Item = [u8; 8]> + '_ {
        self.words.iter().map(|word| word.to_le_bytes())
    }

    /// First word of the id's block, and 63 bits that choose seven of its 512 bits. The block follows from the id's
    /// beginning, so that ids which are inserted in order fill the filter from front to back: from anywhere
    /// else it was a cache miss an id, and half the time of loading an index.
    fn place(&self, id: &BlobId) -> (usize, u64) {
        let bytes = |at: usize| id.0[at..at + 8].try_into().expect("eight bytes of thirty-two");
        let blocks = (self.words.len() / BLOCK_WORDS) as u128;
        let block = (u128::from(u64::from_be_bytes(bytes(0))) * blocks) >> 64;
        (block as usize * BLOCK_WORDS, u64::from_le_bytes(bytes(24)))
    }

    /// Adds an id.
    pub fn insert(&mut self, id: &BlobId) {
        let (start, mut bits) = self.place(id);
        for _ in 0..PROBES {
            self.words[start + (bits as usize >> 6) % BLOCK_WORDS] |= 1 << (bits & 63);
            bits >>= 9;
        }
    }

    /// Whether the id may be in the set.
    pub fn may_contain(&self, id: &BlobId) -> bool {
        let (start, mut bits) = self.place(id);
        (0..PROBES).all(|_| {
            let set = self.words[start + (bits as usize >> 6) % BLOCK_WORDS] >> (bits & 63) & 1;
            bits >>= 9;
            set == 1
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u32) -> BlobId {
        BlobId(*blake3::hash(&number.to_le_bytes()).as_bytes())
    }

    #[test]
    fn what_is_in_is_found_and_little_else_is() {
        let mut filter = Filter::with_capacity(20_000);
        (0..20_000).for_each(|number| filter.insert(&id(number)));
        let bytes: Vec<u8> = filter.bytes().flatten().collect();
        let filter = Filter::from_bytes(&bytes).unwrap();
        assert!((0..20_000).all(|number| filter.may_contain(&id(number))));
        let wrong = (20_000..120_000).filter(|number| filter.may_contain(&id(*number))).count();
        assert!(wrong < 400, "{wrong} of 100 000");
        assert!(Filter::from_bytes(&[0; 63]).is_none() && Filter::from_bytes(&[]).is_none());
    }
}
