//! Deltas in: new chunks of a changed file, compressed against the old ones in their place.
//!
//! What reading one blob of a delta costs is bounded: by the bytes of its bases, and by the segments that have to be
//! opened for them. A delta is kept only if it is clearly smaller than its blobs alone would be, and only after it
//! was read back. See `docs/design/0008-deltas.md`.

use std::collections::BTreeSet;

use super::error::{Named, Result};
use super::index::{Location, SegmentPlace};
use super::opened::Prefix;
use super::reader::BlobReader;
use super::writer::{SegmentWriter, Writer};
use crate::codec::compress::{CompressError, Decompressor, DeltaCompressor};
use crate::format::header::ObjectKind;
use crate::format::pack::{BlobRecord, Encoding};
use crate::id::BlobId;

/// Bases of one delta: each is 32 bytes in the pack's directory and in the index.
const BASES: usize = 16;
/// Segments that hold them.
const BASE_SEGMENTS: usize = 8;
/// Bytes of all bases together.
const PREFIX_BYTES: usize = 2 << 20;
/// Bytes of the blobs.
const PLAIN_BYTES: usize = 1 << 20;
/// Once a delta was not worth it, so many bytes are stored plainly, of those that have something in their place and are not
/// gathered yet; after two in a row, and more, three times as many: what comes near it is mostly as different.
const PAUSE_BYTES: usize = PLAIN_BYTES / 2;

/// Gathers blobs into deltas. While one is gathered, the bases of the one before are fetched, as far as there is room: a delta is
/// made when the next one is full, so that a disk is rarely waited for.
pub struct DeltaWriter<'w> {
    writer: &'w Writer<'w>,
    reader: &'w BlobReader<'w>,
    gathered: Gathered,
    /// Full, and made next.
    full: Gathered,
    prefix: Prefix,
    /// How many deltas in a row were not worth it, and how many bytes are not to be in one because of it.
    failures: usize,
    pause: usize,
    /// Made with the first delta.
    trial: Option<Trial>,
}

/// What becomes one delta.
#[derive(Default)]
struct Gathered {
    /// At most [`BASES`].
    bases: Vec<(BlobId, Location)>,
    plain: Vec<u8>,
    blobs: Vec<BlobRecord>,
}

impl Gathered {
    fn base(&self, base: &BlobId) -> Option<(BlobId, Location)> {
        self.bases.iter().find(|(other, _)| other == base).copied()
    }

    /// Whether a blob of so many bytes and these bases have room beside what is there.
    fn has_room(&self, length: usize, bases: &[(BlobId, Location)]) -> bool {
        let new = bases.iter().filter(|(base, _)| self.base(base).is_none());
        let all: Vec<_> = self.bases.iter().chain(new).map(|(_, location)| location).collect();
        let segments: BTreeSet<_> = all.iter().map(|location| location.place()).collect();
        self.plain.len() + length <= PLAIN_BYTES
            && all.len() <= BASES
            && all.iter().map(|location| location.length as usize).sum::<usize>() <= PREFIX_BYTES
            && segments.len() <= BASE_SEGMENTS
    }

    /// Adds a blob. Returns the segments that have to be read because of it.
    fn add(&mut self, id: BlobId, plain: &[u8], bases: &[(BlobId, Location)]) -> Vec<SegmentPlace> {
        let mut new = Vec::new();
        for (base, location) in bases {
            if self.base(base).is_none() {
                if !self.bases.iter().any(|(_, other)| other.place() == location.place()) {
                    new.push(location.place());
                }
                self.bases.push((*base, *location));
            }
        }
        self.plain.extend_from_slice(plain);
        self.blobs.push(BlobRecord { id, length: plain.len() as u32 });
        new
    }

    fn clear(&mut self) {
        self.bases.clear();
        self.plain.clear();
        self.blobs.clear();
    }
}

/// What makes a delta and reads it back, and the memory that both need.
struct Trial {
    compressor: DeltaCompressor,
    decompressor: Decompressor,
    delta: Vec<u8>,
    read: Vec<u8>,
}

impl Trial {
    fn new(level: i32) -> std::result::Result<Self, CompressError> {
        Ok(Trial {
            compressor: DeltaCompressor::new(level)?,
            decompressor: Decompressor::new()?,
            delta: Vec::new(),
            read: Vec::new(),
        })
    }
}

impl<'w> DeltaWriter<'w> {
    pub(super) fn new(writer: &'w Writer<'w>, reader: &'w BlobReader<'w>) -> Self {
        DeltaWriter {
            writer,
            reader,
            gathered: Gathered::default(),
            full: Gathered::default(),
            prefix: Prefix::default(),
            failures: 0,
            pause: 0,
            trial: None,
        }
    }

    /// Stores a blob that was claimed, against what these old blobs hold, or else in `segments`.
    pub fn push(
        &mut self,
        id: BlobId,
        plain: &[u8],
        old: &[BlobId],
        segments: &mut SegmentWriter<'_>,
    ) -> Result<()> {
        let is_paused = self.pause > 0 && !old.is_empty();
        if is_paused {
            self.pause = self.pause.saturating_sub(plain.len());
        }
        if is_paused || old.is_empty() || !self.writer.may_be_delta(&id)? {
            return segments.push(id, plain);
        }
        let mut bases = Vec::new();
        for old in old {
            // Most are near two new ones.
            let found = match self.gathered.base(old) {
                Some(base) => vec![base],
                None => self.writer.bases_for(old)?,
            };
            for (base, location) in found {
                if !bases.iter().any(|(other, _)| *other == base) {
                    bases.push((base, location));
                }
            }
        }
        if bases.is_empty() || !Gathered::default().has_room(plain.len(), &bases) {
            return segments.push(id, plain);
        }
        if !self.gathered.has_room(plain.len(), &bases) {
            self.make_full(segments)?;
        }
        let new = self.gathered.add(id, plain, &bases);
        self.reader.expect_segments(new);
        Ok(())
    }

    /// Makes what is there into deltas.
    pub fn flush(&mut self, segments: &mut SegmentWriter<'_>) -> Result<()> {
        self.make_full(segments)?;
        self.make(segments)
    }

    /// Nothing more is added to what was gathered: what was full before it is made.
    fn make_full(&mut self, segments: &mut SegmentWriter<'_>) -> Result<()> {
        self.make(segments)?;
        std::mem::swap(&mut self.gathered, &mut self.full);
        Ok(())
    }

    /// Makes what is full into a delta, or, where that is of no use, stores it in `segments`.
    fn make(&mut self, segments: &mut SegmentWriter<'_>) -> Result<()> {
        let blobs = std::mem::take(&mut self.full.blobs);
        if !blobs.is_empty() {
            let writer = self.writer;
            let bases: Vec<_> = self.full.bases.iter().map(|(base, _)| *base).collect();
            match self.compress(segments)? {
                Some(delta) => {
                    let encoding = Encoding::Delta(bases);
                    writer.put_segment(ObjectKind::DataPack, delta, encoding, blobs)?;
                }
                None => {
                    let mut rest = &self.full.plain[..];
                    for blob in blobs {
                        let (bytes, after) = rest.split_at(blob.length as usize);
                        segments.push(blob.id, bytes)?;
                        rest = after;
                    }
                }
            }
        }
        self.full.clear();
        self.prefix.clear();
        Ok(())
    }

    /// The delta, when it can be read and is clearly smaller than what it stands for would be alone.
    fn compress(&mut self, segments: &mut SegmentWriter<'_>) -> Result<Option<&[u8]>> {
        let Gathered { bases, plain, .. } = &self.full;
        self.prefix.clear();
        for (base, location) in bases {
            // What cannot be read is no base; a check will find and name it. Another copy may stand in a pack that does
            // not count.
            let Ok(base) = self.reader.fetch(base, ObjectKind::DataPack, *location) else {
                // Nor will what is beside it, and finding that out may cost reading all of a pack.
                self.pause = PAUSE_BYTES;
                return Ok(None);
            };
            self.prefix.push(base);
        }
        let trial = match &mut self.trial {
            Some(trial) => trial,
            none => {
                let level = self.writer.repository().settings().compression_level;
                none.insert(Trial::new(level).named("zstd")?)
            }
        };
        let prefix = &self.prefix;
        trial.compressor.compress(prefix, plain, &mut trial.delta).named("zstd")?;
        let delta = &trial.delta[..];
        let cost = delta.len() + bases.len() * BlobId::LENGTH;
        // An eighth is less than nearly everything shrinks to alone.
        let is_smaller = cost * 8 <= plain.len() || cost * 4 <= segments.estimate(plain)? * 3;
        if !is_smaller {
            self.pause = if self.failures == 0 { PAUSE_BYTES } else { 3 * PAUSE_BYTES };
            self.failures += 1;
            return Ok(None);
        }
        self.failures = 0;
        let read = trial.decompressor.decompress_into(delta, prefix, plain.len(), &mut trial.read);
        let is_right = read.is_ok() && trial.read == *plain;
        debug_assert!(is_right, "a delta does not read back");
        Ok(is_right.then_some(delta))
    }
}
