//! Memory for whole packs that are read from a disk one after another: a thread reads the next one into that of the last,
//! which the kernel need not clear again, and which the allocator cannot scatter.

use std::cell::RefCell;

/// Smaller objects are read into memory of their own.
const LEAST: usize = 8 << 20;

/// Room for those that are read into memory that is there again: more than a pack takes with the default settings, and more
/// than 32 MiB, so that glibc's allocator asks the system for it and gives it back (on machines of 64 bits). What is not needed
/// is not touched and costs no memory.
const ROOM: usize = 33 << 20;

#[derive(Default)]
struct Spare {
    /// Whether this thread reads from a disk at all: only then there is a next one.
    is_asked: bool,
    memory: Vec<u8>,
}

thread_local! {
    static SPARE: RefCell<Spare> = RefCell::default();
}

/// An empty buffer with room for so many bytes.
pub(super) fn take(length: usize) -> Vec<u8> {
    if length < LEAST {
        return Vec::with_capacity(length);
    }
    let mut memory = SPARE.with_borrow_mut(|spare| {
        spare.is_asked = true;
        std::mem::take(&mut spare.memory)
    });
    memory.clear();
    memory.reserve_exact(length.max(ROOM));
    memory
}

/// Gives back the memory of an object that this thread has read and that nobody needs any more.
pub fn give_back(memory: Vec<u8>) {
    SPARE.with_borrow_mut(|spare| {
        if spare.is_asked && memory.capacity() >= LEAST {
            spare.memory = memory;
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_object_is_read_into_the_memory_of_the_last() {
        give_back(vec![1; LEAST]);
        assert!(SPARE.with_borrow(|spare| spare.memory.is_empty()), "nobody reads from a disk");
        let first = take(LEAST + 5);
        let place = first.as_ptr();
        give_back(first);
        let next = take(LEAST);
        assert!(next.as_ptr() == place && next.is_empty() && next.capacity() >= LEAST);
        give_back(next);
        let small = take(100);
        assert!(small.as_ptr() != place);
        // Another one that is a little longer is not read into other memory.
        let longer = take(2 * LEAST);
        assert!(longer.as_ptr() == place);
        give_back(longer);
        assert!(take(2 * ROOM).capacity() >= 2 * ROOM);
        assert!(SPARE.with_borrow(|spare| spare.memory.capacity() == 0));
    }
}
