//! Cuts a file's bytes by content: FastCDC with a secret gear table.
//!
//! FastCDC 2020 (Xia et al., "The Design of Fast Content-Defined Chunking for Data Deduplication Based
//! Storage Systems", IEEE TPDS 31(9), 2020), from the `fastcdc` crate, normalization level 1. The crate's
//! own 64-bit seed is XORed into a public table and falls to four known cuts, so the whole table is
//! derived from a secret instead; what hides lengths from the store are the frames, not the table.

use fastcdc::v2020::{Normalization, cut_gear, select_masks};

/// How large chunks are, in bytes. Part of the repository's config.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkerParams {
    /// No cut before this many bytes.
    pub minimum: u32,
    /// What normalization aims at.
    pub average: u32,
    /// A cut after this many bytes at the latest.
    pub maximum: u32,
}

impl ChunkerParams {
    /// Whether the chunker can work with these: even numbers in order, within the crate's bounds.
    pub fn is_valid(&self) -> bool {
        let even = [self.minimum, self.average, self.maximum].iter().all(|n| n.is_multiple_of(2));
        even && (64..=1 << 20).contains(&self.minimum)
            && (256..=4 << 20).contains(&self.average)
            && (1024..=16 << 20).contains(&self.maximum)
            && self.minimum < self.average
            && self.average < self.maximum
    }
}

/// Finds cuts. Cheap to share between threads.
pub struct Chunker {
    params: ChunkerParams,
    masks: (u64, u64),
    gear: Box<[u64; 256]>,
    shifted_gear: Box<[u64; 256]>,
}

impl Chunker {
    /// A chunker whose gear table is the BLAKE3 output of `secret`: word `i` is bytes `8 i ..` of
    /// `derive_key("aumbry v1 gear table", secret)` as an extendable output, little endian.
    ///
    /// # Panics
    /// When the parameters are not valid: decoding a config checks them.
    pub fn new(params: ChunkerParams, secret: &[u8; 32]) -> Self {
        assert!(params.is_valid(), "chunker parameters were checked when the config was decoded");
        let mut hasher = blake3::Hasher::new_derive_key("aumbry v1 gear table");
        hasher.update(secret);
        let mut bytes = [0; 256 * 8];
        hasher.finalize_xof().fill(&mut bytes);
        let mut gear = Box::new([0; 256]);
        for (word, chunk) in gear.iter_mut().zip(bytes.chunks_exact(8)) {
            *word = u64::from_le_bytes(chunk.try_into().expect("a chunk of eight bytes"));
        }
        let shifted_gear = Box::new(gear.map(|word| word << 1));
        let masks = select_masks(params.average as usize, Normalization::Level1);
        Chunker { params, masks, gear, shifted_gear }
    }

    /// The sizes it cuts to.
    pub fn params(&self) -> ChunkerParams {
        self.params
    }

    /// Length in bytes of the first chunk of `data`. Hand in at least the maximum chunk size, or
    /// everything up to the end of the file. 0 only for empty data.
    pub fn cut(&self, data: &[u8]) -> usize {
        let (small, large) = self.masks;
        let (_, length) = cut_gear(
            data,
            self.params.minimum as usize,
            self.params.average as usize,
            self.params.maximum as usize,
            small,
            large,
            small << 1,
            large << 1,
            self.gear.as_slice(),
            self.shifted_gear.as_slice(),
        );
        length
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARAMS: ChunkerParams =
        ChunkerParams { minimum: 16 << 10, average: 64 << 10, maximum: 256 << 10 };

    fn noise(length: usize, seed: u8) -> Vec<u8> {
        let mut bytes = vec![0; length];
        blake3::Hasher::new_keyed(&[seed; 32]).finalize_xof().fill(&mut bytes);
        bytes
    }

    fn cuts(chunker: &Chunker, mut data: &[u8]) -> Vec<usize> {
        let mut lengths = Vec::new();
        while !data.is_empty() {
            let length = chunker.cut(data);
            lengths.push(length);
            data = &data[length..];
        }
        lengths
    }

    #[test]
    fn chunks_keep_their_bounds_and_add_up() {
        let data = noise(5 << 20, 1);
        let lengths = cuts(&Chunker::new(PARAMS, &[7; 32]), &data);
        assert_eq!(lengths.iter().sum::<usize>(), data.len());
        let (last, whole) = lengths.split_last().unwrap();
        assert!(*last <= 256 << 10);
        assert!(whole.iter().all(|length| (16 << 10..=256 << 10).contains(length)));
    }

    #[test]
    fn another_secret_cuts_elsewhere() {
        let data = noise(4 << 20, 1);
        let one = cuts(&Chunker::new(PARAMS, &[1; 32]), &data);
        let two = cuts(&Chunker::new(PARAMS, &[2; 32]), &data);
        assert_ne!(one, two);
    }

    #[test]
    fn an_insertion_moves_only_the_cuts_near_it() {
        let chunker = Chunker::new(PARAMS, &[3; 32]);
        let data = noise(8 << 20, 2);
        let mut edited = data.clone();
        edited.splice(4 << 20..4 << 20, noise(100, 9));
        let before = cuts(&chunker, &data);
        let after = cuts(&chunker, &edited);
        assert_eq!(before.last(), after.last());
        let same = before.iter().zip(&after).take_while(|(a, b)| a == b).count();
        assert!(same > before.len() / 3);
    }

    #[test]
    fn odd_or_disordered_sizes_are_not_valid() {
        assert!(PARAMS.is_valid());
        assert!(!ChunkerParams { minimum: 16385, ..PARAMS }.is_valid());
        assert!(!ChunkerParams { average: 8 << 10, ..PARAMS }.is_valid());
    }
}
