//! The blobs that snapshots refer to, each once, with a word about each: what a walk remembers.
//!
//! Memory: 16 bytes and one for a blob, in tables that are at worst 7/16 full after growing: 19 to 39 bytes, 40
//! being the budget.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use parking_lot::Mutex;

use crate::id::BlobId;
pub use crate::id::BlobKey;

/// Locks that the table is spread over.
const SHARDS: usize = 64;
/// Set in a tag when the blob was found in a pack.
const FOUND: u32 = 1 << 31;

/// Takes a key's own bits: they are as good as any hash of them.
#[derive(Default)]
pub struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        if let Some(first) = bytes.first_chunk::<8>() {
            self.0 = u64::from_le_bytes(*first);
        }
    }

    fn write_usize(&mut self, _length: usize) {}
}

/// A map by blob.
pub type BlobMap<T> = HashMap<BlobKey, T, BuildHasherDefault<KeyHasher>>;

/// What adding a blob found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Added {
    /// It was not there.
    New,
    /// It was there with the same tag.
    Known,
    /// It was there with this other tag, which stays.
    Differs(u32),
}

/// The table. Shared by threads.
pub struct References {
    shards: Vec<Mutex<BlobMap<[u8; 4]>>>,
}

impl References {
    /// An empty table.
    pub fn new() -> Self {
        References { shards: (0..SHARDS).map(|_| Mutex::default()).collect() }
    }

    fn shard(&self, key: &BlobKey) -> &Mutex<BlobMap<[u8; 4]>> {
        &self.shards[usize::from(key.0[11]) % SHARDS]
    }

    /// Adds a blob with a tag below 2^31.
    pub fn add(&self, id: &BlobId, tag: u32) -> Added {
        let key = BlobKey::new(id);
        let mut shard = self.shard(&key).lock();
        match shard.get(&key) {
            None => {
                shard.insert(key, tag.to_le_bytes());
                Added::New
            }
            Some(known) => match u32::from_le_bytes(*known) & !FOUND {
                known if known == tag => Added::Known,
                known => Added::Differs(known),
            },
        }
    }

    /// Whether anything refers to the blob.
    pub fn contains(&self, id: &BlobId) -> bool {
        let key = BlobKey::new(id);
        self.shard(&key).lock().contains_key(&key)
    }

    /// Says that a pack has the blob. Returns the tag, if anything refers to it.
    pub fn found(&self, id: &BlobId) -> Option<u32> {
        let key = BlobKey::new(id);
        let mut shard = self.shard(&key).lock();
        let tag = shard.get_mut(&key)?;
        let known = u32::from_le_bytes(*tag);
        *tag = (known | FOUND).to_le_bytes();
        Some(known & !FOUND)
    }

    /// Whether anything refers to the blob and no pack was said to have it.
    pub fn is_missing(&self, key: &BlobKey) -> bool {
        let shard = self.shard(key).lock();
        shard.get(key).is_some_and(|tag| u32::from_le_bytes(*tag) & FOUND == 0)
    }

    /// Whether every blob was said to be in a pack.
    pub fn is_whole(&self) -> bool {
        let is_found = |tag: &[u8; 4]| u32::from_le_bytes(*tag) & FOUND != 0;
        self.shards.iter().all(|shard| shard.lock().values().all(is_found))
    }

    /// The blobs that no pack was said to have, sorted.
    pub fn missing(&self) -> Vec<BlobKey> {
        let mut missing = Vec::new();
        for shard in &self.shards {
            let shard = shard.lock();
            let absent = shard.iter().filter(|(_, tag)| u32::from_le_bytes(**tag) & FOUND == 0);
            missing.extend(absent.map(|(key, _)| *key));
        }
        missing.sort_unstable();
        missing
    }

    /// How many blobs there are.
    pub fn count(&self) -> u64 {
        self.shards.iter().map(|shard| shard.lock().len() as u64).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blobs_are_counted_once_and_missed_when_no_pack_has_them() {
        let references = References::new();
        let id = |number: u32| BlobId(*blake3::hash(&number.to_le_bytes()).as_bytes());
        for number in 0..1000 {
            assert_eq!(references.add(&id(number), number), Added::New);
            assert_eq!(references.add(&id(number), number), Added::Known);
            assert_eq!(references.add(&id(number), 5000), Added::Differs(number));
        }
        assert_eq!(references.count(), 1000);
        for number in 1..1000 {
            assert_eq!(references.found(&id(number)), Some(number));
        }
        assert_eq!(references.found(&id(1000)), None);
        assert_eq!(references.add(&id(7), 7), Added::Known);
        assert!(!references.is_missing(&BlobKey::new(&id(7))));
        assert!(references.is_missing(&BlobKey::new(&id(0))));
        assert!(!references.is_missing(&BlobKey::new(&id(1000))));
        assert_eq!(references.missing(), [BlobKey::new(&id(0))]);
        assert_eq!(references.missing()[0].short(), id(0).short());
    }
}
