//! Answers "certainly new" without touching the disk: a blocked Bloom filter over blob ids.
//!
//! Blob ids are the output of a keyed hash, so their own bits serve as the filter's hashes. One lookup reads
//! one cache line. Memory: 12 bits an id, 15 MB for ten million; about one absent id in a hundred is not
//! recognised and costs a look-up in redb (Putze, Sanders, Singler, "Cache-, Hash- and Space-Efficient
//! Bloom Filters", WEA 2007).

use crate::id::BlobId;

/// Bits for every id.
const BITS_PER_ID: usize = 12;
/// Words in a block: 512 bits, one cache line.
const BLOCK_WORDS: usize = 8;
/// Bits that an id sets in its block.
const PROBES: usize = 6;

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

    /// The filter whose [`Filter::to_bytes`] these are; `None` when they cannot be.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        if bytes.is_empty() || !bytes.len().is_multiple_of(BLOCK_WORDS * 8) {
            return None;
        }
        let word = |chunk: &[u8]| Some(u64::from_le_bytes(chunk.try_into().ok()?));
        Some(Filter { words: bytes.chunks_exact(8).map(word).collect::<Option<_>>()? })
    }

    /// The filter's bytes, for keeping it.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    /// First word of the id's block, and 54 bits that choose six of its 512 bits.
    fn place(&self, id: &BlobId) -> (usize, u64) {
        let word = |at: usize| {
            let bytes = id.0[at..at + 8].try_into().expect("eight bytes of thirty-two");
            u64::from_le_bytes(bytes)
        };
        let blocks = (self.words.len() / BLOCK_WORDS) as u128;
        let block = (u128::from(word(16)) * blocks) >> 64;
        (block as usize * BLOCK_WORDS, word(24))
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
        let filter = Filter::from_bytes(&filter.to_bytes()).unwrap();
        assert!((0..20_000).all(|number| filter.may_contain(&id(number))));
        let wrong = (20_000..120_000).filter(|number| filter.may_contain(&id(*number))).count();
        assert!(wrong < 1500, "{wrong} of 100 000");
        assert!(Filter::from_bytes(&[0; 63]).is_none() && Filter::from_bytes(&[]).is_none());
    }
}
