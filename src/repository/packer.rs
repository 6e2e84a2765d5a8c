//! Fills a pack: segments arrive, one finished object leaves.
//!
//! The pack lies in one buffer in the layout of the finished object, with room left for the header and for
//! every frame's tag, and is sealed in place at the end: the salt depends on every blob's id. Parity is computed of the
//! sealed frames, behind them.

use super::error::{Kind, RepositoryError, Result};
use super::mend::{PackShape, parity_of};
use super::seal::Sealer;
use crate::codec::cipher::{
    FRAME_LENGTH, SEALED_FRAME_LENGTH, TAG_LENGTH, padded_length, sealed_length,
};
use crate::format::header::{HEADER_LENGTH, Header, ObjectKind};
use crate::format::index::PackRecord;
use crate::format::pack::{BlobRecord, Encoding, PACK_TRAILER_LENGTH, PackDirectory};
use crate::id::{BlobId, PackId};

/// From this many bytes on a pack's buffer has room for twice as many. What is not touched
/// costs no memory, as the system is asked for what is so large.
const LARGE: usize = 16 << 20;

/// What a pack's memory is to have room for.
#[derive(Clone, Copy)]
struct Room {
    stored_bytes: usize,
    parity_percent: u8,
    alignment: usize,
}

impl Room {
    /// Bytes that all of it takes.
    fn length(self) -> usize {
        let sealed = sealed_length(self.stored_bytes as u64 + 1) as usize;
        let more = if self.stored_bytes >= LARGE { sealed + sealed / 8 } else { sealed / 16 };
        let object = HEADER_LENGTH + sealed + more;
        object + object * usize::from(self.parity_percent) / 100 + self.alignment - 1
    }
}

/// A pack that is being filled.
pub struct PackBuilder {
    buffer: Vec<u8>,
    room: Room,
    /// Where the object begins in the buffer.
    start: usize,
    plain_length: usize,
    directory: PackDirectory,
}

impl PackBuilder {
    /// An empty pack with room for `capacity` stored bytes.
    pub fn new(capacity: usize) -> Self {
        Self::reusing(Vec::new(), capacity)
    }

    /// The same in memory that is there, if it is large enough.
    pub fn reusing(buffer: Vec<u8>, capacity: usize) -> Self {
        Self::laid_out(buffer, Room { stored_bytes: capacity, parity_percent: 0, alignment: 1 })
    }

    /// The same, empty as it is, with parity of so many percent behind the frames; 0: none. It takes no part in when a pack
    /// is full.
    pub fn with_parity(self, percent: u8) -> Self {
        debug_assert!(self.is_empty());
        Self::laid_out(self.buffer, Room { parity_percent: percent, ..self.room })
    }

    /// The same, empty as it is, where the object begins at a multiple of `alignment` bytes, a power of two, in memory: a
    /// store may write it from where it is ([`crate::store::Store::alignment`]). Should a pack take more than there is room
    /// for, that is lost, and nothing else.
    pub fn aligned_to(self, alignment: usize) -> Self {
        debug_assert!(self.is_empty());
        Self::laid_out(self.buffer, Room { alignment, ..self.room })
    }

    fn laid_out(mut buffer: Vec<u8>, room: Room) -> Self {
        buffer.clear();
        buffer.reserve_exact(room.length());
        let start = buffer.as_ptr().align_offset(room.alignment).min(room.alignment - 1);
        buffer.resize(start + HEADER_LENGTH, 0);
        PackBuilder { buffer, room, start, plain_length: 0, directory: PackDirectory::default() }
    }

    /// Where the object begins in memory: at 0, or, of an aligned one, anywhere before its alignment.
    pub fn start(&self) -> usize {
        self.start
    }

    /// How many stored bytes it holds.
    pub fn body_length(&self) -> usize {
        self.plain_length
    }

    /// Whether it is time to finish a pack that should hold about `target` stored bytes: when another segment as long as
    /// the last would be too much, or from three quarters on as soon as padding would add no more than 0.8 %. Padding to
    /// fixed steps costs 1.5 % of a pack on average, and half as much below 16 MiB; choosing the moment costs nothing and
    /// tells the store nothing more.
    pub fn is_full(&self, target: usize) -> bool {
        // About what the directory will take.
        let tail = self.directory.blob_count() * (BlobId::LENGTH + 3) + PACK_TRAILER_LENGTH;
        let length = (self.plain_length + tail) as u64;
        let padding = padded_length(length) - length;
        let last = self.directory.segments.last().map_or(0, |last| last.stored_length as usize);
        self.plain_length + last > target
            || self.plain_length >= target / 4 * 3 && padding * 125 <= length
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.directory.segments.is_empty()
    }

    /// Appends plaintext in the layout of frames: room for a tag behind every 64 KiB.
    fn append(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let in_frame = self.plain_length % FRAME_LENGTH;
            if in_frame == 0 && self.plain_length > 0 {
                self.buffer.resize(self.buffer.len() + TAG_LENGTH, 0);
            }
            let taken = bytes.len().min(FRAME_LENGTH - in_frame);
            self.buffer.extend_from_slice(&bytes[..taken]);
            self.plain_length += taken;
            bytes = &bytes[taken..];
        }
    }

    /// Adds a segment.
    pub fn push(&mut self, stored: &[u8], encoding: Encoding, blobs: Vec<BlobRecord>) {
        self.append(stored);
        self.directory.push(stored.len() as u32, encoding, blobs);
    }

    /// Seals the pack. Returns the object and what an index says of it.
    pub fn finish(
        self,
        sealer: &Sealer,
        kind: ObjectKind,
        id: PackId,
        name: &str,
        randomness: &[u8; 32],
    ) -> Result<(Vec<u8>, PackRecord)> {
        let start = self.start;
        let (mut object, record) = self.finish_in_place(sealer, kind, id, name, randomness)?;
        object.drain(..start);
        Ok((object, record))
    }

    /// The same; the object is what begins in the memory at [`PackBuilder::start`].
    pub fn finish_in_place(
        mut self,
        sealer: &Sealer,
        kind: ObjectKind,
        id: PackId,
        name: &str,
        randomness: &[u8; 32],
    ) -> Result<(Vec<u8>, PackRecord)> {
        let mut directory = Vec::new();
        self.directory.encode(&mut directory);
        let salt = Sealer::fresh_salt(randomness, &directory);
        let tail = directory.len() + PACK_TRAILER_LENGTH;
        let padded = padded_length((self.plain_length + tail) as u64) as usize;
        let zeros = [0; 4096];
        let mut padding = padded - tail - self.plain_length;
        while padding > 0 {
            let step = padding.min(zeros.len());
            self.append(&zeros[..step]);
            padding -= step;
        }
        self.append(&directory);
        self.append(&(directory.len() as u32).to_le_bytes());
        self.buffer.resize(self.buffer.len() + TAG_LENGTH, 0);

        let parity = parity_of(self.plain_length as u64, self.room.parity_percent);
        let shape = parity.map(|parity| {
            PackShape::new(parity)
                .ok_or_else(|| RepositoryError::new(Kind::Invalid, name, "is too long for parity"))
        });
        let shape = shape.transpose()?;
        let header = Header { parity, ..sealer.new_header(kind, salt) };
        let cipher = sealer.object_cipher(&header, name)?;
        let (header, body) = self.buffer[self.start..].split_at_mut(HEADER_LENGTH);
        header.copy_from_slice(&cipher.header.encode());
        let frames = body.chunks_mut(SEALED_FRAME_LENGTH);
        let last = frames.len() - 1;
        for (number, frame) in frames.enumerate() {
            let (plain, tag) = frame.split_at_mut(frame.len() - TAG_LENGTH);
            tag.copy_from_slice(&cipher.frames.seal_frame(number as u64, number == last, plain));
        }
        if let Some(shape) = shape {
            self.buffer.resize(self.start + shape.object_length(), 0);
            shape.write_parity(&cipher, &mut self.buffer[self.start..]);
        }
        let record = PackRecord {
            id,
            header: cipher.header,
            object_length: (self.buffer.len() - self.start) as u64,
            directory: self.directory,
        };
        Ok((self.buffer, record))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_is_used_again_does_not_grow() {
        for (capacity, percent, alignment) in
            [(1 << 10, 0, 1), (1 << 20, 10, 4096), (LARGE, 2, 4096)]
        {
            let reusing = |memory| {
                PackBuilder::reusing(memory, capacity).with_parity(percent).aligned_to(alignment)
            };
            let room = reusing(Vec::new()).buffer.capacity();
            let mut memory = Vec::new();
            for _ in 0..50 {
                let pack = reusing(memory);
                let begin = pack.buffer[pack.start..].as_ptr();
                assert!(pack.start < alignment && begin.addr().is_multiple_of(alignment));
                memory = pack.buffer;
            }
            assert_eq!(memory.capacity(), room, "{capacity} {percent} {alignment}");
        }
    }
}
