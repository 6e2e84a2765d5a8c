//! Gathers blobs into segments, and compresses them on the thread that stores them.

use super::Writer;
use crate::codec::compress::Compressor;
use crate::format::header::ObjectKind;
use crate::format::pack::{BlobRecord, Encoding};
use crate::id::BlobId;
use crate::repository::error::{Named, Result};

/// Gathers blobs of one kind into segments.
pub struct SegmentWriter<'w> {
    writer: &'w Writer<'w>,
    kind: ObjectKind,
    plain: Vec<u8>,
    blobs: Vec<BlobRecord>,
    stored: Vec<u8>,
    compressor: Compressor,
}

impl<'w> SegmentWriter<'w> {
    pub(super) fn new(writer: &'w Writer<'w>, kind: ObjectKind) -> Result<Self> {
        let settings = &writer.repository.settings;
        let length = settings.segment_length as usize;
        Ok(SegmentWriter {
            writer,
            kind,
            plain: Vec::with_capacity(length + (length >> 3)),
            blobs: Vec::new(),
            stored: Vec::new(),
            compressor: Compressor::new(settings.compression_level, length).named("zstd")?,
        })
    }

    /// The write session.
    pub fn writer(&self) -> &'w Writer<'w> {
        self.writer
    }

    /// Names the blob, and stores it unless the repository has it. Returns its id and whether it was new.
    pub fn put(&mut self, plain: &[u8]) -> Result<(BlobId, bool)> {
        let (id, new) = self.claim(plain)?;
        if new {
            self.push(id, plain)?;
        }
        Ok((id, new))
    }

    /// Stores the blob unless it stands where a delta can be read against it.
    pub fn put_plain(&mut self, plain: &[u8]) -> Result<()> {
        let id = self.name(plain);
        match self.writer.claim_plain(&id)? {
            true => self.push(id, plain),
            false => Ok(()),
        }
    }

    fn name(&self, plain: &[u8]) -> BlobId {
        let naming = &self.writer.repository.naming;
        match self.kind {
            ObjectKind::DataPack => naming.data_id(plain),
            _ => naming.tree_id(plain),
        }
    }

    /// Names the blob. Returns its id and whether it is new: then the caller must store it.
    pub fn claim(&self, plain: &[u8]) -> Result<(BlobId, bool)> {
        let id = self.name(plain);
        Ok((id, self.writer.claim(&id)?))
    }

    /// Stores a blob that was claimed.
    pub fn push(&mut self, id: BlobId, plain: &[u8]) -> Result<()> {
        self.plain.extend_from_slice(plain);
        self.added(id, plain.len())
    }

    /// About how long these bytes would be as a segment of their own.
    pub(in crate::repository) fn estimate(&mut self, plain: &[u8]) -> Result<usize> {
        self.compressor.estimate(plain).named("zstd")
    }

    /// The segment's buffer, to read a blob's bytes into behind what is there. Whatever is appended must be
    /// handed to [`SegmentWriter::put_tail`] or cut off again.
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.plain
    }

    /// Like [`SegmentWriter::put`] for the bytes that were appended to the buffer from `start` on.
    pub fn put_tail(&mut self, start: usize) -> Result<(BlobId, bool)> {
        let (id, new) = self.claim_tail(start)?;
        if new {
            self.added(id, self.plain.len() - start)?;
        }
        Ok((id, new))
    }

    /// Names the bytes that were appended to the buffer from `start` on, and cuts them off unless they are new: then
    /// the caller must cut them off and store them.
    pub fn claim_tail(&mut self, start: usize) -> Result<(BlobId, bool)> {
        let (id, new) = self.claim(&self.plain[start..])?;
        if !new {
            self.plain.truncate(start);
        }
        Ok((id, new))
    }

    fn added(&mut self, id: BlobId, length: usize) -> Result<()> {
        self.blobs.push(BlobRecord { id, length: length as u32 });
        // Closed where the longest chunk might no longer fit, so that four segments that do not compress fill a
        // pack of 16 MiB to just below a step of its padding, and not to just above one.
        let settings = &self.writer.repository.settings;
        let room = settings.chunk_maximum.min(settings.segment_length / 4);
        if self.plain.len() >= (settings.segment_length - room) as usize {
            self.flush()?;
        }
        Ok(())
    }

    /// Closes the segment, if there is anything in it.
    pub fn flush(&mut self) -> Result<()> {
        if self.blobs.is_empty() {
            return Ok(());
        }
        self.stored.clear();
        let compressed = self.compressor.compress(&self.plain, &mut self.stored).named("zstd")?;
        let (stored, encoding) = match compressed {
            true => (&self.stored, Encoding::Zstd),
            false => (&self.plain, Encoding::Stored),
        };
        let blobs = std::mem::take(&mut self.blobs);
        let put = self.writer.put_segment(self.kind, stored, encoding, blobs);
        self.plain.clear();
        put
    }
}
