//! Where every blob is: runs of sorted entries in files, a filter before each; packs and names in redb.
//!
//! A row a blob in redb costs 5 µs to insert and 80 to 216 bytes to keep, which a first backup of a million
//! small files would feel. So entries are kept sorted, in immutable runs, 48 bytes each; a run is written
//! once and merged with others when they are of a size, so there are O(log n) of them. Memory: up to 8 MiB of the
//! filters (all of them, 2 bytes a blob, without a cache folder), fences (0.1 bytes a blob, 1 MB for ten million), redb's page cache (16 MiB), and while index objects are taken
//! in, two batches of at most 16 MiB or one object each (about 100 MB at the peak), whatever the
//! repository's size. Measured by `benches/growth`.
//!
//! The index is a cache: it may be deleted at any moment. The only dangerous error is to say "present"
//! of what is absent, so a pack enters it from an index object, or from its own directory, and from
//! nowhere else.

pub mod cache;
mod checksum;
pub mod filter;
pub mod merge;
pub mod objects;
mod rows;
mod run;

pub use self::run::IdRange;
use crate::format::header::{Header, ObjectKind};
use crate::format::pack::{Encoding, PackDirectory};
use crate::id::{BlobId, PackId};

/// Where a blob is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Location {
    /// The cache's own number for the pack.
    pub pack: u32,
    /// Which of the pack's segments, from 0.
    pub segment: u32,
    /// Where in the segment's plaintext, in bytes.
    pub offset: u32,
    /// Length in bytes.
    pub length: u32,
    /// The segment is a delta: reading it takes its bases as well.
    pub is_delta: bool,
}

impl Location {
    /// The segment that the blob is in.
    pub fn place(&self) -> SegmentPlace {
        SegmentPlace { pack: self.pack, segment: self.segment }
    }
}

/// Where a segment is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentPlace {
    /// The cache's own number for the pack.
    pub pack: u32,
    /// Which of the pack's segments, from 0.
    pub segment: u32,
}

/// A segment, as far as reading needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentInfo {
    /// Where it begins in the pack's plaintext, in bytes.
    pub offset: u64,
    /// How many bytes of the pack's plaintext it takes.
    pub stored_length: u32,
    /// Length of its own plaintext in bytes.
    pub plain_length: u32,
    /// How it is stored.
    pub encoding: Encoding,
}

/// A pack, as far as reading needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackInfo {
    /// Its name.
    pub id: PackId,
    /// Data pack or tree pack.
    pub kind: ObjectKind,
    /// Its header.
    pub header: Header,
    /// Length of the object in bytes.
    pub object_length: u64,
    /// Its segments, in order.
    pub segments: Vec<SegmentInfo>,
}

impl PackInfo {
    /// About how many bytes of its segment a blob takes: blobs of one segment compress alike.
    pub fn share(&self, location: &Location) -> u64 {
        let Some(segment) = self.segments.get(location.segment as usize) else { return 0 };
        let stored = u64::from(segment.stored_length) * u64::from(location.length);
        stored.div_ceil(u64::from(segment.plain_length).max(1))
    }

    /// Whether any of its segments is a delta.
    pub fn has_deltas(&self) -> bool {
        self.segments.iter().any(|segment| segment.encoding.is_delta())
    }

    /// How many bytes a segment takes; none when there is no such segment.
    pub fn stored_length(&self, segment: u32) -> u64 {
        let segment = self.segments.get(segment as usize);
        segment.map_or(0, |segment| u64::from(segment.stored_length))
    }
}

/// The places of a pack's blobs, one after another.
fn locations(
    pack: u32,
    directory: &PackDirectory,
) -> impl Iterator<Item = (BlobId, Location)> + '_ {
    directory.segments.iter().enumerate().flat_map(move |(number, segment)| {
        let mut offset = 0;
        let is_delta = segment.encoding.is_delta();
        segment.blobs.iter().map(move |blob| {
            let segment = number as u32;
            let location = Location { pack, segment, offset, length: blob.length, is_delta };
            offset += blob.length;
            (blob.id, location)
        })
    })
}
