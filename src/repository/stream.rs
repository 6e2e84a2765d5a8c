//! The plaintext of a whole pack, made from its sealed bytes in their own memory.

use std::ops::Range;

use super::error::{Named, RepositoryError};
use super::seal::ObjectCipher;
use crate::codec::cipher::{FRAME_LENGTH, SEALED_FRAME_LENGTH, TAG_LENGTH};
use crate::format::bytes::Reader;
use crate::format::header::HEADER_LENGTH;
use crate::format::pack::{PACK_TRAILER_LENGTH, PackDirectory, locate_directory};
use crate::store;

/// A sealed stream that becomes its plaintext in its own buffer, front to back.
pub(super) struct Stream {
    bytes: Vec<u8>,
    cipher: ObjectCipher,
    /// Length of the whole plaintext, in bytes.
    total: u64,
    /// So many frames stand unsealed and moved together at the buffer's beginning.
    opened: usize,
    /// The first of the frames at the end that were unsealed early, in their places.
    tail: usize,
    /// Frames that do not open.
    pub(super) bad: Vec<usize>,
}

impl Drop for Stream {
    fn drop(&mut self) {
        store::give_back(std::mem::take(&mut self.bytes));
    }
}

impl Stream {
    pub(super) fn new(bytes: Vec<u8>, cipher: ObjectCipher, total: u64) -> Self {
        let frames = total.div_ceil(FRAME_LENGTH as u64) as usize;
        Stream { bytes, cipher, total, opened: 0, tail: frames, bad: Vec::new() }
    }

    pub(super) fn frames(&self) -> usize {
        self.total.div_ceil(FRAME_LENGTH as u64) as usize
    }

    /// Where a frame stands sealed.
    fn sealed_range(&self, frame: usize) -> Range<usize> {
        let start = HEADER_LENGTH + frame * SEALED_FRAME_LENGTH;
        let plain = (self.total as usize - frame * FRAME_LENGTH).min(FRAME_LENGTH);
        start..start + plain + TAG_LENGTH
    }

    /// Unseals a frame where it stands.
    fn unseal(&mut self, frame: usize) {
        let range = self.sealed_range(frame);
        let last = frame + 1 == self.frames();
        let opened = self.bytes.get_mut(range).is_some_and(|sealed| {
            self.cipher.frames.unseal_frame(frame as u64, last, sealed).is_ok()
        });
        if !opened {
            self.bad.push(frame);
        }
    }

    /// The pack's directory and where it begins. `Err(None)`: the frames that hold it do not open.
    pub(super) fn directory(
        &mut self,
    ) -> std::result::Result<(PackDirectory, u64), Option<RepositoryError>> {
        let trailer = self.tail_bytes(PACK_TRAILER_LENGTH as u64).ok_or(None)?;
        let (offset, length) = locate_directory(self.total, &trailer).named("").map_err(Some)?;
        let bytes = self.tail_bytes(self.total - offset).ok_or(None)?;
        let mut reader = Reader::new(&bytes[..length]);
        let directory = PackDirectory::decode(&mut reader).named("").map_err(Some)?;
        reader.finish().named("").map_err(Some)?;
        Ok((directory, offset))
    }

    /// The last `length` bytes of the plaintext, copied: nothing was moved together yet.
    fn tail_bytes(&mut self, length: u64) -> Option<Vec<u8>> {
        let offset = self.total.checked_sub(length)?;
        let first = (offset / FRAME_LENGTH as u64) as usize;
        while self.tail > first {
            self.tail -= 1;
            self.unseal(self.tail);
        }
        let mut bytes = Vec::with_capacity(length as usize);
        for frame in first..self.frames() {
            if self.bad.contains(&frame) {
                return None;
            }
            let range = self.sealed_range(frame);
            let plain = self.bytes.get(range.start..range.end - TAG_LENGTH)?;
            let skip = (offset as usize).saturating_sub(frame * FRAME_LENGTH);
            bytes.extend_from_slice(&plain[skip..]);
        }
        Some(bytes)
    }

    /// Unseals everything before `end`.
    pub(super) fn open_to(&mut self, end: u64) {
        let frames = end.min(self.total).div_ceil(FRAME_LENGTH as u64) as usize;
        while self.opened < frames {
            let frame = self.opened;
            if frame < self.tail {
                self.unseal(frame);
            }
            // What does not open may not be there at all, and is never read.
            if !self.bad.contains(&frame) {
                let range = self.sealed_range(frame);
                self.bytes.copy_within(range.start..range.end - TAG_LENGTH, frame * FRAME_LENGTH);
            }
            self.opened += 1;
        }
    }

    /// Bytes of the plaintext before what is opened; `None` where a frame of them does not open.
    pub(super) fn read(&self, range: Range<u64>) -> Option<&[u8]> {
        if range.end > self.total {
            return None;
        }
        let first = (range.start / FRAME_LENGTH as u64) as usize;
        let frames = first..range.end.div_ceil(FRAME_LENGTH as u64) as usize;
        if self.bad.iter().any(|frame| frames.contains(frame)) {
            return None;
        }
        self.bytes.get(range.start as usize..range.end as usize)
    }

    /// Whether these bytes of the plaintext are zeros, as far as their frames open.
    pub(super) fn is_zero(&self, range: Range<u64>) -> bool {
        let mut start = range.start;
        while start < range.end {
            let end = (start / FRAME_LENGTH as u64 + 1) * FRAME_LENGTH as u64;
            let end = end.min(range.end);
            if self.read(start..end).is_some_and(|bytes| bytes.iter().any(|byte| *byte != 0)) {
                return false;
            }
            start = end;
        }
        true
    }
}
