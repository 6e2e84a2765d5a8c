//! Memory for packs, and large parts of them, that are read from a disk one after another: the next one is read into memory that
//! is there, which the kernel need not clear again, and which the allocator cannot scatter.

use parking_lot::Mutex;

/// What is smaller is read into memory of its own.
const LEAST: usize = 256 << 10;
/// Room is made in steps of so many bytes, so that the next one fits in it. What is not needed is not touched and costs no memory.
const STEP: usize = 1 << 20;
/// From this length on there is [`ROOM`] for more.
const LARGE: usize = 8 << 20;
/// Room for whole packs: more than one takes with the default settings.
const ROOM: usize = 33 << 20;
/// So many are kept that nobody reads into: about as many as there are threads that read at a time.
const MOST: usize = 4;

/// Memory that nobody needs at the moment.
struct Spare {
    /// Whether anything was read from a disk: only then there is a next one.
    is_asked: bool,
    memory: Vec<Vec<u8>>,
}

static SPARE: Mutex<Spare> = Mutex::new(Spare { is_asked: false, memory: Vec::new() });

/// An empty buffer with room for so many bytes.
pub(super) fn take(length: usize) -> Vec<u8> {
    if length < LEAST {
        return Vec::with_capacity(length);
    }
    SPARE.lock().take(length).unwrap_or_else(|| {
        let room = if length < LARGE { length.next_multiple_of(STEP) } else { length.max(ROOM) };
        Vec::with_capacity(room)
    })
}

/// Gives back the memory of an object, or a part of one, that was read and that nobody needs any more.
pub fn give_back(memory: Vec<u8>) {
    // Longer ones than a usual pack are rare, and would stay as long as the process.
    if (LEAST..=ROOM).contains(&memory.capacity()) {
        let dropped = SPARE.lock().give_back(memory);
        drop(dropped);
    }
}

impl Spare {
    /// The smallest in which so many bytes fit, if it is not much too large: memory that is used whole is not kept for a little.
    fn take(&mut self, length: usize) -> Option<Vec<u8>> {
        self.is_asked = true;
        let most = length.next_multiple_of(STEP).max(2 * length);
        let fits = |room: usize| room >= length && (room <= most || length >= LARGE);
        let all = self.memory.iter().map(Vec::capacity).enumerate();
        let (found, _) = all.filter(|(_, room)| fits(*room)).min_by_key(|(_, room)| *room)?;
        let mut memory = self.memory.swap_remove(found);
        memory.clear();
        Some(memory)
    }

    /// Returns what there is no room for.
    fn give_back(&mut self, memory: Vec<u8>) -> Option<Vec<u8>> {
        if !self.is_asked {
            return Some(memory);
        }
        self.memory.push(memory);
        // That which was given back first, as it may be too small or too large for what is read now.
        (self.memory.len() > MOST).then(|| self.memory.remove(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_one_is_read_into_the_memory_of_the_last() {
        let mut spare = Spare { is_asked: false, memory: Vec::new() };
        spare.give_back(Vec::with_capacity(LARGE));
        assert!(spare.memory.is_empty(), "nobody reads from a disk");
        assert!(spare.take(LARGE).is_none());
        let whole = Vec::with_capacity(ROOM);
        let part = Vec::with_capacity(2 * STEP);
        let places = (whole.as_ptr(), part.as_ptr());
        spare.give_back(whole);
        spare.give_back(part);
        assert!(spare.take(3 * STEP).is_none(), "a whole pack's memory is not for a part");
        let part = spare.take(STEP).unwrap();
        assert!(part.as_ptr() == places.1 && part.is_empty());
        assert!(spare.take(STEP).is_none());
        let whole = spare.take(LARGE).unwrap();
        assert!(whole.as_ptr() == places.0 && spare.take(LARGE).is_none());
        for room in 1..=MOST + 1 {
            spare.give_back(Vec::with_capacity(room * STEP));
        }
        assert!(spare.memory.len() == MOST && spare.memory[0].capacity() == 2 * STEP);
    }

    #[test]
    fn there_is_room_for_what_is_read() {
        for length in [0, 1, LEAST - 1, LEAST, STEP + 1, LARGE, ROOM + 1] {
            let memory = take(length);
            assert!(memory.capacity() >= length && memory.is_empty(), "{length}");
            give_back(memory);
        }
        assert!(SPARE.lock().memory.iter().all(|memory| memory.capacity() <= ROOM));
    }
}
