//! Names blobs and digests whole files with keyed BLAKE3, and derives keys from keys.

use crate::id::BlobId;

/// A file's bytes are digested in regions of this many bytes, so that regions can be digested on any
/// core and a region of zeros is digested once. `docs/format.md`, "File digest".
pub const DIGEST_REGION: u64 = 16 << 20;

/// A subkey for one purpose: `blake3::derive_key(context, material)`.
pub fn derive_key(context: &str, material: &[u8]) -> [u8; 32] {
    blake3::derive_key(context, material)
}

/// The keys that name content. Each kind of blob has its own, so that one kind's bytes can never stand
/// in for another's.
#[derive(Clone)]
pub struct NamingKeys {
    data: [u8; 32],
    tree: [u8; 32],
    region: [u8; 32],
    file: [u8; 32],
}

impl NamingKeys {
    /// The keys that follow from the repository's id key.
    pub fn new(id_key: &[u8; 32]) -> Self {
        NamingKeys {
            data: derive_key("aumbry v1 data blob id", id_key),
            tree: derive_key("aumbry v1 tree blob id", id_key),
            region: derive_key("aumbry v1 region digest", id_key),
            file: derive_key("aumbry v1 file digest", id_key),
        }
    }

    /// The id of a chunk of a file.
    pub fn data_id(&self, plain: &[u8]) -> BlobId {
        BlobId(*blake3::keyed_hash(&self.data, plain).as_bytes())
    }

    /// The id of a tree blob: a node of a directory or of a chunk list.
    pub fn tree_id(&self, plain: &[u8]) -> BlobId {
        BlobId(*blake3::keyed_hash(&self.tree, plain).as_bytes())
    }

    /// Digest of one region of a file.
    pub fn region_digest(&self, region: &[u8]) -> [u8; 32] {
        *blake3::keyed_hash(&self.region, region).as_bytes()
    }

    /// Digests one region piece by piece.
    pub fn region_hasher(&self) -> RegionHasher {
        RegionHasher(blake3::Hasher::new_keyed(&self.region))
    }

    /// Digest of a whole file from the digests of its regions, in order: of one region its own digest,
    /// of more the hash of all of them, one after another, under a key of its own.
    pub fn file_digest(&self, regions: &[[u8; 32]]) -> [u8; 32] {
        match regions {
            [single] => *single,
            many => *blake3::keyed_hash(&self.file, many.as_flattened()).as_bytes(),
        }
    }
}

/// A region's digest while its bytes arrive.
pub struct RegionHasher(blake3::Hasher);

impl RegionHasher {
    /// The next bytes of the region.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest of all that was handed in.
    pub fn finish(self) -> [u8; 32] {
        *self.0.finalize().as_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_kind_of_blob_never_has_the_id_of_another() {
        let keys = NamingKeys::new(&[1; 32]);
        assert_ne!(keys.data_id(b"x"), keys.tree_id(b"x"));
        assert_ne!(keys.data_id(b"x").0, keys.region_digest(b"x"));
        assert_ne!(keys.data_id(b"x"), NamingKeys::new(&[2; 32]).data_id(b"x"));
    }

    #[test]
    fn a_region_digest_is_the_same_in_pieces() {
        let keys = NamingKeys::new(&[1; 32]);
        let mut hasher = keys.region_hasher();
        hasher.update(b"ab");
        hasher.update(b"c");
        assert_eq!(hasher.finish(), keys.region_digest(b"abc"));
        let two = keys.file_digest(&[[1; 32], [2; 32]]);
        assert_ne!(two, keys.region_digest(&[[1; 32], [2; 32]].concat()));
        assert_eq!(keys.file_digest(&[[1; 32]]), [1; 32]);
    }
}
