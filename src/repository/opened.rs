//! Segments as they are opened, and the memory of those that are not needed any more.

use std::ops::{Deref, Range};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::store;

/// One buffer is kept for so many bytes of a reader's budget, one at least and at most so many.
const SPARE_SHARE: u64 = 8 << 20;
const SPARE_MOST: u64 = 4;
/// Large ones have room in steps of so many bytes, so that the next one fits in it: what is not touched costs no memory.
const SPARE_STEP: usize = 1 << 20;

/// The plaintext of a segment.
pub(super) struct Opened {
    pub(super) plain: Vec<u8>,
    /// If it is a delta: what it was read against was held against its name.
    pub(super) is_proven: bool,
    spare: Spare,
}

impl Opened {
    /// Whose memory goes back to `spare`.
    pub(super) fn new(plain: Vec<u8>, spare: &Spare, is_proven: bool) -> Self {
        Opened { plain, is_proven, spare: spare.clone() }
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        self.spare.give_back(std::mem::take(&mut self.plain));
    }
}

/// A blob's plaintext: a part of a segment that is shared with the blobs beside it.
#[derive(Clone)]
pub struct Blob {
    segment: Arc<Opened>,
    range: Range<usize>,
}

impl Blob {
    /// These bytes of a segment.
    pub(super) fn new(segment: Arc<Opened>, range: Range<usize>) -> Self {
        Blob { segment, range }
    }

    /// Whether the other one stands right behind it.
    fn is_before(&self, other: &Blob) -> bool {
        Arc::ptr_eq(&self.segment, &other.segment) && self.range.end == other.range.start
    }
}

impl Deref for Blob {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.segment.plain[self.range.clone()]
    }
}

/// What a delta is read against: the plaintexts of its bases, one after another. Where they stand like that in one segment, as
/// they mostly do, they are read from there, and else copied.
#[derive(Default)]
pub(super) struct Prefix {
    /// All there is, if nothing was copied.
    in_place: Option<Blob>,
    copied: Vec<u8>,
}

impl Prefix {
    /// Adds a base.
    pub(super) fn push(&mut self, base: Blob) {
        match &mut self.in_place {
            Some(before) if before.is_before(&base) => before.range.end = base.range.end,
            None if self.copied.is_empty() => self.in_place = Some(base),
            _ => {
                if let Some(before) = self.in_place.take() {
                    self.copied.extend_from_slice(&before);
                }
                self.copied.extend_from_slice(&base);
            }
        }
    }

    /// Lets go of all bases, and keeps the memory that they were copied to.
    pub(super) fn clear(&mut self) {
        self.in_place = None;
        self.copied.clear();
    }
}

impl Deref for Prefix {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.in_place.as_deref().unwrap_or(&self.copied)
    }
}

/// Buffers of segments that are not needed any more: the next one is opened into memory that is there, which the
/// kernel need not clear first.
#[derive(Clone)]
pub(super) struct Spare {
    most: usize,
    buffers: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Spare {
    /// For a reader that keeps so many bytes of opened segments.
    pub(super) fn for_budget(budget: u64) -> Self {
        let most = (budget / SPARE_SHARE).clamp(1, SPARE_MOST) as usize;
        Spare { most, buffers: Arc::default() }
    }

    /// An empty buffer for so many bytes: one that is there, if it is not much too large.
    pub(super) fn take(&self, length: usize) -> Vec<u8> {
        let mut buffers = self.buffers.lock();
        let fits = |buffer: &Vec<u8>| (length..=2 * length).contains(&buffer.capacity());
        match buffers.iter().position(fits) {
            Some(at) => buffers.swap_remove(at),
            None => Vec::with_capacity(length.next_multiple_of(SPARE_STEP.min(length.max(1)))),
        }
    }

    fn give_back(&self, buffer: Vec<u8>) {
        let mut buffers = self.buffers.lock();
        if buffers.len() < self.most {
            return buffers.push(buffer);
        }
        // The large ones are worth keeping.
        let least = buffers.iter_mut().min_by_key(|buffer| buffer.capacity());
        match least.filter(|least| least.capacity() < buffer.capacity()) {
            Some(least) => *least = buffer,
            // A segment that is stored as it is was read into it.
            None => store::give_back(buffer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bases_that_follow_each_other_are_read_where_they_are_and_others_are_copied() {
        let spare = Spare::for_budget(1);
        let segments = [1, 2].map(|byte| {
            let plain = (0..100).map(|at| at * byte).collect();
            Arc::new(Opened::new(plain, &spare, true))
        });
        let blob = |segment: usize, range| Blob::new(segments[segment].clone(), range);
        let mut prefix = Prefix::default();
        for _ in 0..2 {
            assert!(prefix.is_empty());
            prefix.push(blob(0, 10..20));
            prefix.push(blob(0, 20..40));
            assert_eq!(*prefix, segments[0].plain[10..40]);
            assert!(std::ptr::eq(prefix.as_ptr(), &segments[0].plain[10]));
            for next in [blob(0, 50..60), blob(0, 60..70), blob(1, 70..80)] {
                let expected = [&prefix[..], &next[..]].concat();
                prefix.push(next);
                assert_eq!(*prefix, *expected);
            }
            prefix.clear();
            assert_eq!(Arc::strong_count(&segments[0]), 1);
        }
        // The same range of another segment is not what follows.
        prefix.push(blob(0, 0..20));
        prefix.push(blob(1, 20..40));
        assert_eq!(*prefix, [&segments[0].plain[..20], &segments[1].plain[20..40]].concat());
    }
}
