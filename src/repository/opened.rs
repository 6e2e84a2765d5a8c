//! Segments as they are opened, and the memory of those that are not needed any more.

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
