//! What the cache's files are held against when they are read.

/// Bytes of a checksum.
pub const CHECKSUM_LENGTH: usize = 16;

/// Adler's sums, over words of 64 bits: for what a disk does, not for what a person does. It has to cost little, as every
/// look-up asks for one.
#[derive(Clone, Copy)]
pub struct Checksum(u64, u64);

impl Checksum {
    /// Of nothing; not zero, so that a block of zeros is no block.
    pub const START: Checksum = Checksum(1, 0);

    /// With so many more bytes; a last word that is cut is filled with zeros.
    pub fn with(self, bytes: &[u8]) -> Self {
        let (words, rest) = bytes.as_chunks::<8>();
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        let last = (!rest.is_empty()).then_some(&last);
        words.iter().chain(last).fold(self, |Checksum(sum, sums), word| {
            let sum = sum.wrapping_add(u64::from_le_bytes(*word));
            Checksum(sum, sums.wrapping_add(sum))
        })
    }

    /// The sums.
    pub fn bytes(self) -> [u8; CHECKSUM_LENGTH] {
        let mut bytes = [0; CHECKSUM_LENGTH];
        bytes[..8].copy_from_slice(&self.0.to_le_bytes());
        bytes[8..].copy_from_slice(&self.1.to_le_bytes());
        bytes
    }
}
