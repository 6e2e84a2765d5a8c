//! Deltas in: new chunks of a changed file, compressed against the old ones in their place.
//!
//! What reading one blob of a delta costs is bounded: by the bytes of its bases, and by the segments that have to be
//! opened for them. A delta is kept only if it is clearly smaller than its blobs alone would be, and only after it
//! was read back. See `docs/design/0008-deltas.md`.

use std::collections::BTreeSet;

use super::error::{Named, Result};
use super::index::{Location, SegmentPlace};
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

/// Gathers blobs into deltas.
pub struct DeltaWriter<'w> {
    writer: &'w Writer<'w>,
    reader: &'w BlobReader<'w>,
    bases: Vec<BlobId>,
    base_segments: BTreeSet<SegmentPlace>,
    prefix: Vec<u8>,
    plain: Vec<u8>,
    blobs: Vec<BlobRecord>,
    /// Made with the first delta.
    trial: Option<Trial>,
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
            bases: Vec::new(),
            base_segments: BTreeSet::new(),
            prefix: Vec::new(),
            plain: Vec::new(),
            blobs: Vec::new(),
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
        if old.is_empty() || !self.writer.may_be_delta(&id)? {
            return segments.push(id, plain);
        }
        let mut bases = Vec::new();
        for old in old {
            for (base, location) in self.writer.bases_for(old)? {
                if !bases.iter().any(|(other, _)| *other == base) {
                    bases.push((base, location));
                }
            }
        }
        let is_room = self.plain.len() + plain.len() <= PLAIN_BYTES && self.fit(&bases);
        if !is_room {
            self.flush(segments)?;
        }
        if bases.is_empty() || plain.len() > PLAIN_BYTES || !self.fit(&bases) {
            return segments.push(id, plain);
        }
        for (base, location) in &bases {
            if self.bases.contains(base) {
                continue;
            }
            // What cannot be read is no base; a check will find and name it.
            let Ok(bytes) = self.reader.base(ObjectKind::DataPack, "a delta", base) else {
                return segments.push(id, plain);
            };
            self.prefix.extend_from_slice(&bytes);
            self.bases.push(*base);
            self.base_segments.insert(location.place());
        }
        self.plain.extend_from_slice(plain);
        self.blobs.push(BlobRecord { id, length: plain.len() as u32 });
        Ok(())
    }

    /// Whether these can be bases beside those that are there.
    fn fit(&self, bases: &[(BlobId, Location)]) -> bool {
        let mut segments = self.base_segments.clone();
        let (mut count, mut bytes) = (self.bases.len(), self.prefix.len());
        for (base, location) in bases {
            if !self.bases.contains(base) {
                count += 1;
                bytes += location.length as usize;
                segments.insert(location.place());
            }
        }
        count <= BASES && bytes <= PREFIX_BYTES && segments.len() <= BASE_SEGMENTS
    }

    /// Closes the delta, if there is anything in it.
    pub fn flush(&mut self, segments: &mut SegmentWriter<'_>) -> Result<()> {
        let blobs = std::mem::take(&mut self.blobs);
        let bases = std::mem::take(&mut self.bases);
        if !blobs.is_empty() {
            let writer = self.writer;
            match self.compress(&bases, segments)? {
                Some(delta) => {
                    let encoding = Encoding::Delta(bases);
                    writer.put_segment(ObjectKind::DataPack, delta, encoding, blobs)?;
                }
                None => {
                    let mut rest = &self.plain[..];
                    for blob in blobs {
                        let (bytes, after) = rest.split_at(blob.length as usize);
                        segments.push(blob.id, bytes)?;
                        rest = after;
                    }
                }
            }
        }
        self.base_segments.clear();
        self.prefix.clear();
        self.plain.clear();
        Ok(())
    }

    /// The delta, when it can be read and is clearly smaller than what it stands for would be alone.
    fn compress(
        &mut self,
        bases: &[BlobId],
        segments: &mut SegmentWriter<'_>,
    ) -> Result<Option<&[u8]>> {
        let trial = match &mut self.trial {
            Some(trial) => trial,
            none => {
                let level = self.writer.repository().settings().compression_level;
                none.insert(Trial::new(level).named("zstd")?)
            }
        };
        let (prefix, plain) = (&self.prefix, &self.plain);
        trial.compressor.compress(prefix, plain, &mut trial.delta).named("zstd")?;
        let delta = &trial.delta[..];
        let cost = delta.len() + bases.len() * BlobId::LENGTH;
        // An eighth is less than nearly everything shrinks to alone.
        let is_smaller = cost * 8 <= plain.len() || cost * 4 <= segments.estimate(plain)? * 3;
        if !is_smaller {
            return Ok(None);
        }
        let read = trial.decompressor.decompress_into(delta, prefix, plain.len(), &mut trial.read);
        Ok((read.is_ok() && trial.read == *plain).then_some(delta))
    }
}
