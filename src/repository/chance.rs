//! Randomness, handed in: the system's, or a seeded stream for tests.

use parking_lot::Mutex;

use super::error::{Kind, RepositoryError, Result};

/// Where random bytes come from.
pub enum Chance {
    /// The operating system.
    System,
    /// A stream that follows from a seed: for tests that must repeat. Threads that draw from one stream would race
    /// for it, so with this one everything is done on the calling thread ([`Chance::repeats`]).
    Seeded(Mutex<blake3::OutputReader>),
}

impl Chance {
    /// The stream that follows from `seed`.
    pub fn seeded(seed: u64) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("aumbry test randomness");
        hasher.update(&seed.to_le_bytes());
        Chance::Seeded(Mutex::new(hasher.finalize_xof()))
    }

    /// Whether everything follows from a seed, the order of the calls to the store included.
    pub fn repeats(&self) -> bool {
        matches!(self, Chance::Seeded(_))
    }

    /// `N` random bytes.
    pub fn bytes<const N: usize>(&self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        match self {
            Chance::System => getrandom::fill(&mut bytes).map_err(|error| {
                RepositoryError::new(Kind::Unavailable, "system randomness", error.to_string())
            })?,
            Chance::Seeded(stream) => stream.lock().fill(&mut bytes),
        }
        Ok(bytes)
    }
}
