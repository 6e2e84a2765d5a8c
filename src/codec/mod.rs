//! Pure bytes to bytes: cut, name, compress, seal, derive, mend. No I/O, no clock, no randomness of its own.

pub mod chunker;
pub mod cipher;
pub mod compress;
pub mod digest;
pub mod exchange;
pub mod kdf;
mod matches;
pub mod parity;
mod sequences;

/// Bytes that do not compress and follow from a seed.
#[cfg(test)]
fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}
