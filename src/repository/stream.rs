//! The plaintext of a whole pack, front to back: from its sealed bytes, or from parts of them that are read one after another.
//!
//! Memory: the sealed bytes that are there, as many that are fetched meanwhile, and a copy of the plaintext that is asked for.

use std::ops::Range;

use super::ahead::{Ahead, Wanted};
use super::error::{Named, RepositoryError};
use super::seal::ObjectCipher;
use crate::codec::cipher::{FRAME_LENGTH, SEALED_FRAME_LENGTH, TAG_LENGTH};
use crate::format::bytes::Reader;
use crate::format::header::HEADER_LENGTH;
use crate::format::pack::{PACK_TRAILER_LENGTH, PackDirectory, locate_directory};
use crate::id::PackId;
use crate::store::{self, Store, StoreError};

/// Frames that are read together: 2 MiB.
const FRAMES_OF_A_PART: usize = 32;
/// Bytes of the first part, which holds the header, too.
const FIRST_PART: u64 = (HEADER_LENGTH + FRAMES_OF_A_PART * SEALED_FRAME_LENGTH) as u64;

/// The sealed bytes of a pack: all of them, or the first ones and where the rest is.
pub(super) struct Sealed<'s> {
    bytes: Vec<u8>,
    /// Where in the object they begin.
    start: u64,
    rest: Option<Rest<'s>>,
}

#[derive(Clone, Copy)]
struct Rest<'s> {
    store: &'s Store,
    pack: PackId,
    name: &'s str,
    /// Of the object, in bytes.
    length: u64,
    ahead: Option<&'s Ahead>,
}

impl Rest<'_> {
    /// Bytes of the object, fetched by now if they were the last that were expected.
    fn read(&self, range: Range<u64>) -> Result<Vec<u8>, StoreError> {
        match self.ahead.and_then(|ahead| ahead.take(self.pack, range.start, &range)) {
            Some(Ok(bytes)) => Ok(bytes),
            // Whoever needs it finds out what is wrong.
            _ => self.store.get_range(self.name, range),
        }
    }

    /// Begins to fetch what will be read next.
    fn expect(&self, range: Range<u64>) {
        if let Some(ahead) = self.ahead {
            let (pack, offset) = (self.pack, range.start);
            ahead.replace([Wanted { pack, offset, range, is_whole: false }]);
        }
    }
}

impl<'s> Sealed<'s> {
    pub(super) fn whole(bytes: Vec<u8>) -> Self {
        Sealed { bytes, start: 0, rest: None }
    }

    /// The object is read part by part, each of which `ahead` fetches while the one before is proven.
    pub(super) fn in_parts(
        store: &'s Store,
        pack: PackId,
        name: &'s str,
        ahead: Option<&'s Ahead>,
    ) -> Result<Self, StoreError> {
        let Some(length) = store.size(name)?.filter(|length| *length > 2 * FIRST_PART) else {
            return store.get(name).map(Self::whole);
        };
        if let Some(ahead) = ahead {
            // What was expected of another pack, or of this one before.
            ahead.replace([]);
        }
        let bytes = store.get_range(name, 0..FIRST_PART)?;
        Ok(Sealed { bytes, start: 0, rest: Some(Rest { store, pack, name, length, ahead }) })
    }

    /// Bytes of the object.
    pub(super) fn length(&self) -> u64 {
        self.rest.as_ref().map_or(self.bytes.len() as u64, |rest| rest.length)
    }

    /// The object's first bytes, its header among them, as long as nothing was unsealed.
    pub(super) fn beginning(&self) -> &[u8] {
        &self.bytes
    }

    /// All of it, which is read where only a part is there. Nothing was unsealed yet.
    pub(super) fn make_whole(&mut self) -> Result<&[u8], StoreError> {
        if let Some(Rest { store, name, .. }) = self.rest {
            store::give_back(std::mem::take(&mut self.bytes));
            self.bytes = store.get(name)?;
            self.rest = None;
        }
        Ok(&self.bytes)
    }

    /// Bytes of the object that are there.
    fn get_mut(&mut self, range: Range<u64>) -> Option<&mut [u8]> {
        let start = range.start.checked_sub(self.start)? as usize;
        self.bytes.get_mut(start..start + (range.end - range.start) as usize)
    }
}

impl Drop for Sealed<'_> {
    fn drop(&mut self) {
        store::give_back(std::mem::take(&mut self.bytes));
    }
}

/// The frames of a stream.
struct Frames {
    cipher: ObjectCipher,
    /// Length of the whole plaintext, in bytes.
    total: u64,
    /// Those that do not open.
    bad: Vec<usize>,
}

impl Frames {
    fn count(&self) -> usize {
        self.total.div_ceil(FRAME_LENGTH as u64) as usize
    }

    /// Bytes of a frame's plaintext.
    fn plain_length(&self, frame: usize) -> usize {
        (self.total as usize - frame * FRAME_LENGTH).min(FRAME_LENGTH)
    }

    /// Where these frames, one at least, stand sealed.
    fn sealed_range(&self, frames: Range<usize>) -> Range<u64> {
        let start = HEADER_LENGTH + frames.start * SEALED_FRAME_LENGTH;
        let last = frames.end - 1;
        let end = HEADER_LENGTH + last * SEALED_FRAME_LENGTH + self.plain_length(last) + TAG_LENGTH;
        start as u64..end as u64
    }

    /// Unseals a frame where it stands, and appends its plaintext to `plain`; zeros, where it does not open or is not there.
    fn unseal(&mut self, frame: usize, sealed: &mut Sealed<'_>, plain: &mut Vec<u8>) {
        let length = self.plain_length(frame);
        let is_last = frame + 1 == self.count();
        let opened = match sealed.get_mut(self.sealed_range(frame..frame + 1)) {
            Some(sealed) => {
                let unsealed = self.cipher.frames.unseal_frame(frame as u64, is_last, sealed);
                unsealed.ok().map(|plain| &*plain)
            }
            None => None,
        };
        match opened {
            Some(opened) => plain.extend_from_slice(&opened[..length]),
            None => {
                self.bad.push(frame);
                plain.resize(plain.len() + length, 0);
            }
        }
    }
}

/// A sealed stream that becomes its plaintext, front to back.
pub(super) struct Stream<'s> {
    sealed: Sealed<'s>,
    frames: Frames,
    /// The plaintext of these frames.
    window: Vec<u8>,
    in_window: Range<usize>,
    /// The plaintext of the frames at the end, from this one on.
    tail: Vec<u8>,
    tail_first: usize,
    has_failed: bool,
}

impl<'s> Stream<'s> {
    /// `memory` is used, and comes back from [`Stream::into_memory`].
    pub(super) fn new(
        sealed: Sealed<'s>,
        cipher: ObjectCipher,
        total: u64,
        mut memory: Vec<u8>,
    ) -> Self {
        memory.clear();
        let frames = Frames { cipher, total, bad: Vec::new() };
        Stream {
            sealed,
            window: memory,
            in_window: 0..0,
            tail: Vec::new(),
            tail_first: frames.count(),
            frames,
            has_failed: false,
        }
    }

    pub(super) fn into_memory(self) -> Vec<u8> {
        self.window
    }

    pub(super) fn frames(&self) -> usize {
        self.frames.count()
    }

    /// Frames that do not open.
    pub(super) fn bad(&self) -> &[usize] {
        &self.frames.bad
    }

    /// A part could not be read: nothing that this says means anything. Never where the sealed bytes are all there.
    pub(super) fn has_failed(&self) -> bool {
        self.has_failed
    }

    /// The pack's directory and where it begins. `Err(None)`: the frames that hold it do not open.
    pub(super) fn directory(
        &mut self,
    ) -> std::result::Result<(PackDirectory, u64), Option<RepositoryError>> {
        let total = self.frames.total;
        let trailer = self.tail_bytes(PACK_TRAILER_LENGTH as u64).ok_or(None)?;
        let (offset, length) = locate_directory(total, trailer).named("").map_err(Some)?;
        let bytes = self.tail_bytes(total - offset).ok_or(None)?;
        let mut reader = Reader::new(&bytes[..length]);
        let directory = PackDirectory::decode(&mut reader).named("").map_err(Some)?;
        reader.finish().named("").map_err(Some)?;
        self.expect_part(FRAMES_OF_A_PART);
        Ok((directory, offset))
    }

    /// The frames that are read together from this one on.
    fn part(&self, first: usize) -> Range<usize> {
        first..(first + FRAMES_OF_A_PART).min(self.tail_first)
    }

    /// Begins to fetch the part that begins with this frame, if there is one.
    fn expect_part(&self, first: usize) {
        let part = self.part(first);
        if let Some(rest) = self.sealed.rest.as_ref().filter(|_| !part.is_empty()) {
            rest.expect(self.frames.sealed_range(part));
        }
    }

    /// The last `length` bytes of the plaintext: nothing was opened yet.
    fn tail_bytes(&mut self, length: u64) -> Option<&[u8]> {
        let offset = self.frames.total.checked_sub(length)?;
        let first = (offset / FRAME_LENGTH as u64) as usize;
        if first < self.tail_first {
            self.open_tail(first);
        }
        if self.frames.bad.iter().any(|bad| *bad >= first) || self.has_failed {
            return None;
        }
        self.tail.get(offset as usize - self.tail_first * FRAME_LENGTH..)
    }

    /// Unseals the frames from this one to those that were unsealed at the end.
    fn open_tail(&mut self, first: usize) {
        let Stream { sealed, frames, tail, .. } = self;
        let more = first..self.tail_first;
        let range = frames.sealed_range(more.clone());
        let mut apart = None;
        if let Some(rest) = &sealed.rest {
            // It may begin in the first part, which does not hold all of it.
            let bytes = (range.start >= sealed.bytes.len() as u64)
                .then(|| rest.store.get_range(rest.name, range.clone()).ok());
            let Some(bytes) = bytes.flatten() else { return self.has_failed = true };
            apart = Some(Sealed { bytes, start: range.start, rest: None });
        }
        let mut plain = Vec::with_capacity(more.len() * FRAME_LENGTH + tail.len());
        for frame in more {
            frames.unseal(frame, apart.as_mut().unwrap_or(sealed), &mut plain);
        }
        plain.append(tail);
        self.tail = plain;
        self.tail_first = first;
    }

    /// Unseals everything before the end of `range`, whose bytes can be read then, and none before it. Ranges do not go back.
    pub(super) fn open(&mut self, range: Range<u64>) {
        let first = (range.start.min(self.frames.total) / FRAME_LENGTH as u64) as usize;
        let end = range.end.min(self.frames.total).div_ceil(FRAME_LENGTH as u64) as usize;
        // Nobody goes back, as segments follow one another; what is not in the window cannot be read.
        let first = first.max(self.in_window.start);
        let forgotten = first.min(self.in_window.end) - self.in_window.start;
        self.window.drain(..(forgotten * FRAME_LENGTH).min(self.window.len()));
        self.in_window.start += forgotten;
        while self.in_window.end < end && !self.has_failed {
            let frame = self.in_window.end;
            if frame < self.tail_first
                && self.frames.sealed_range(frame..frame + 1).end > self.sealed.length()
            {
                // However many somebody says that there are: nothing stands for them.
                self.frames.bad.extend(frame..end.min(self.tail_first));
                self.window.clear();
                self.in_window = end..end;
                return;
            }
            self.open_frame(frame);
            self.in_window.end += 1;
            if frame < first {
                self.window.clear();
                self.in_window.start = frame + 1;
            }
        }
    }

    /// Appends a frame's plaintext to the window.
    fn open_frame(&mut self, frame: usize) {
        let part = self.part(frame);
        let Stream { sealed, frames, window, .. } = self;
        if let Some(before) = frame.checked_sub(self.tail_first) {
            let start = before * FRAME_LENGTH;
            let plain = &self.tail[start..start + frames.plain_length(frame)];
            return window.extend_from_slice(plain);
        }
        let there = sealed.start + sealed.bytes.len() as u64;
        let is_there = frames.sealed_range(frame..frame + 1).end <= there;
        if let Some(rest) = sealed.rest.as_ref().filter(|_| !is_there) {
            // The next part may be read into its memory.
            store::give_back(std::mem::take(&mut sealed.bytes));
            let range = frames.sealed_range(part.clone());
            sealed.start = range.start;
            match rest.read(range) {
                Ok(bytes) => sealed.bytes = bytes,
                Err(_) => return self.has_failed = true,
            }
            self.expect_part(part.end);
        }
        let Stream { sealed, frames, window, .. } = self;
        frames.unseal(frame, sealed, window);
    }

    /// Bytes of the plaintext in the range that was opened last; `None` where a frame of them does not open.
    pub(super) fn read(&self, range: Range<u64>) -> Option<&[u8]> {
        if range.end > self.frames.total {
            return None;
        }
        let first = (range.start / FRAME_LENGTH as u64) as usize;
        let frames = first..range.end.div_ceil(FRAME_LENGTH as u64) as usize;
        if self.frames.bad.iter().any(|frame| frames.contains(frame)) {
            return None;
        }
        let before = (self.in_window.start * FRAME_LENGTH) as u64;
        let start = range.start.checked_sub(before)? as usize;
        self.window.get(start..range.end.checked_sub(before)? as usize)
    }

    /// Whether these bytes of the plaintext, which were opened, are zeros, as far as their frames open.
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
