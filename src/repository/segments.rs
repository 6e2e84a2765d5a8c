//! Which opened segments a reader keeps, where somebody has said what will be read and in which order.
//!
//! That goes first which nobody awaits, and then what is needed last (L. Bélády, "A study of replacement algorithms for a
//! virtual-storage computer", IBM Systems Journal 5(2), 1966). That is as good as what was said: where several threads read, it has to be
//! the order in which all of them together do. Exceptions for what one of them reads on in gain nothing with two threads,
//! and help some and hurt others with 8 and 16 ("Threads" in `docs/benchmarks.md`).

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;

use super::index::SegmentPlace;
use super::opened::Opened;

/// A segment that is being opened or is open. Whoever needs it waits for whoever opens it.
pub(super) type Slot = Arc<Mutex<Option<Arc<Opened>>>>;

/// One that is kept.
#[derive(Default)]
struct Kept {
    slot: Slot,
    /// Bytes, once it is open.
    length: u64,
    /// The turn at which it was used last.
    used: u64,
}

/// A segment of which blobs will be read.
pub(super) struct Awaited {
    /// Bytes when it is open.
    pub(super) length: u64,
    /// How many blobs come before each that will be read.
    pub(super) orders: VecDeque<u32>,
}

/// Open segments. How many bytes they may have, whoever opens one says.
#[derive(Default)]
pub(super) struct Segments {
    kept: HashMap<SegmentPlace, Kept>,
    /// Bytes of those that are open.
    open_bytes: u64,
    /// How often a segment was used.
    turn: u64,
    awaited: HashMap<SegmentPlace, Awaited>,
    /// Bytes of those that are awaited, open or not.
    awaited_bytes: u64,
    /// The deltas whose bases are awaited until they are opened.
    awaited_deltas: HashSet<SegmentPlace>,
}

impl Segments {
    /// Whether it is open, or somebody opens it.
    pub(super) fn contains(&self, place: SegmentPlace) -> bool {
        self.kept.contains_key(&place)
    }

    /// Whether somebody opens it or looks at it now.
    pub(super) fn is_in_use(&self, place: SegmentPlace) -> bool {
        self.kept.get(&place).is_some_and(|kept| kept.slot.try_lock().is_none())
    }

    /// A segment that is used now.
    pub(super) fn slot(&mut self, place: SegmentPlace) -> Slot {
        self.turn += 1;
        let kept = self.kept.entry(place).or_default();
        kept.used = self.turn;
        kept.slot.clone()
    }

    /// What will be read from now on; of `deltas`, their bases, too. What was said before is void.
    pub(super) fn replace_awaited(
        &mut self,
        awaited: HashMap<SegmentPlace, Awaited>,
        deltas: HashSet<SegmentPlace>,
    ) {
        self.awaited_bytes = awaited.values().map(|awaited| awaited.length).sum();
        self.awaited = awaited;
        self.awaited_deltas = deltas;
    }

    /// A delta is opened. Whether its bases are awaited: not if it was opened before, and is opened again.
    pub(super) fn begin_delta(&mut self, place: SegmentPlace) -> bool {
        self.awaited_deltas.remove(&place)
    }

    /// A blob of this segment was read. If it was the last one the segment is dropped, unless all that is still awaited
    /// has room beside it: what is said next may begin with what was read last.
    pub(super) fn was_read(&mut self, place: SegmentPlace, budget: u64) {
        let Some(awaited) = self.awaited.get_mut(&place) else { return };
        awaited.orders.pop_front();
        if awaited.orders.is_empty() {
            let with_it = self.awaited_bytes;
            self.awaited_bytes -= awaited.length;
            self.awaited.remove(&place);
            if with_it > budget {
                self.remove(place);
            }
        }
    }

    /// Counts a segment that was opened in this slot, and drops others until all fit.
    pub(super) fn was_opened(
        &mut self,
        place: SegmentPlace,
        slot: &Slot,
        length: u64,
        budget: u64,
    ) {
        // Another one may be in its place, if it could not be opened at first while somebody waited for it.
        let Some(kept) = self.kept.get_mut(&place).filter(|kept| Arc::ptr_eq(&kept.slot, slot))
        else {
            return;
        };
        self.open_bytes = self.open_bytes - kept.length + length;
        kept.length = length;
        self.trim(budget, Some(place));
    }

    /// Drops segments until the others fit, or only this one and those are left that somebody looks at.
    pub(super) fn trim(&mut self, budget: u64, except: Option<SegmentPlace>) {
        while self.open_bytes > budget {
            let Some(other) = self.most_dispensable(except) else { break };
            self.remove(other);
        }
    }

    /// What is in this slot could not be opened.
    pub(super) fn drop_failed(&mut self, place: SegmentPlace, slot: &Slot) {
        if self.kept.get(&place).is_some_and(|kept| Arc::ptr_eq(&kept.slot, slot)) {
            self.forget(place);
        }
    }

    /// Of all others that nobody looks at.
    fn most_dispensable(&self, except: Option<SegmentPlace>) -> Option<SegmentPlace> {
        let others = self
            .kept
            .iter()
            .filter(|(place, kept)| Some(**place) != except && Arc::strong_count(&kept.slot) == 1);
        let worth = |(place, kept): &(&SegmentPlace, &Kept)| {
            let next = self.awaited.get(place).and_then(|awaited| awaited.orders.front());
            (next.map(|order| Reverse(*order)), kept.used)
        };
        others.min_by_key(worth).map(|(place, _)| *place)
    }

    /// Drops a segment, unless somebody waits for it or opens it.
    fn remove(&mut self, place: SegmentPlace) {
        if self.kept.get(&place).is_some_and(|kept| Arc::strong_count(&kept.slot) == 1) {
            self.forget(place);
        }
    }

    fn forget(&mut self, place: SegmentPlace) {
        if let Some(kept) = self.kept.remove(&place) {
            self.open_bytes -= kept.length;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::opened::Spare;
    use super::*;

    const LENGTH: u64 = 10;

    fn place(segment: u32) -> SegmentPlace {
        SegmentPlace { pack: 0, segment }
    }

    fn fill(slot: &Slot) {
        let plain = vec![0; LENGTH as usize];
        *slot.lock() = Some(Arc::new(Opened::new(plain, &Spare::for_budget(1), true)));
    }

    /// Opens it, with room for so many.
    fn open(segments: &mut Segments, segment: u32, room: u64) {
        let slot = segments.slot(place(segment));
        fill(&slot);
        segments.was_opened(place(segment), &slot, LENGTH, room * LENGTH);
    }

    /// Says of each segment when its blobs are read.
    fn say(segments: &mut Segments, orders: &[(u32, &[u32])]) {
        let awaited = orders.iter().map(|(segment, orders)| {
            let orders = orders.iter().copied().collect();
            (place(*segment), Awaited { length: LENGTH, orders })
        });
        segments.replace_awaited(awaited.collect(), HashSet::new());
    }

    fn open_ones(segments: &Segments) -> Vec<u32> {
        let mut open: Vec<u32> = segments.kept.keys().map(|place| place.segment).collect();
        open.sort_unstable();
        assert_eq!(
            segments.open_bytes,
            segments.kept.values().map(|kept| kept.length).sum::<u64>()
        );
        open
    }

    #[test]
    fn what_nobody_awaits_goes_first_and_then_what_is_needed_last() {
        let mut segments = Segments::default();
        say(&mut segments, &[(1, &[5]), (2, &[9]), (3, &[7]), (5, &[0]), (6, &[1])]);
        for segment in [1, 2, 3] {
            open(&mut segments, segment, 4);
        }
        open(&mut segments, 4, 4);
        open(&mut segments, 5, 4);
        assert_eq!(open_ones(&segments), [1, 2, 3, 5], "nobody awaits 4, lately read as it was");
        open(&mut segments, 6, 4);
        assert_eq!(open_ones(&segments), [1, 3, 5, 6], "2 is needed last");
        segments.trim(4 * LENGTH, None);
        assert_eq!(open_ones(&segments), [1, 3, 5, 6], "there is room");
        segments.trim(3 * LENGTH - 1, None);
        assert_eq!(open_ones(&segments), [5, 6]);
    }

    #[test]
    fn a_segment_goes_with_its_last_blob_but_near_the_end() {
        let mut segments = Segments::default();
        say(&mut segments, &[(1, &[0, 1]), (2, &[2]), (3, &[3]), (4, &[4])]);
        let budget = 3 * LENGTH;
        open(&mut segments, 1, 3);
        segments.was_read(place(1), budget);
        assert_eq!(open_ones(&segments), [1], "one is still to be read");
        segments.was_read(place(1), budget);
        assert!(open_ones(&segments).is_empty(), "for three there is no room beside it");
        for segment in [2, 3, 4] {
            open(&mut segments, segment, 3);
            segments.was_read(place(segment), budget);
        }
        assert_eq!(open_ones(&segments), [2, 3, 4]);
        // They are there for what is said next, and take no room from it.
        say(&mut segments, &[(4, &[0]), (5, &[1]), (6, &[2])]);
        assert_eq!(open_ones(&segments), [2, 3, 4]);
        for segment in [5, 6] {
            open(&mut segments, segment, 3);
        }
        assert_eq!(open_ones(&segments), [4, 5, 6]);
        assert_eq!(segments.awaited_bytes, 3 * LENGTH);
    }

    #[test]
    fn the_bases_of_a_delta_are_awaited_until_it_is_opened() {
        let mut segments = Segments::default();
        assert!(!segments.begin_delta(place(1)), "nothing was said");
        for _ in 0..2 {
            segments.replace_awaited(HashMap::new(), HashSet::from([place(1)]));
            assert!(segments.begin_delta(place(1)) && !segments.begin_delta(place(1)));
        }
    }

    #[test]
    fn one_that_somebody_waits_for_stays() {
        let mut segments = Segments::default();
        open(&mut segments, 1, 1);
        let waited = segments.slot(place(1));
        let held = waited.lock();
        assert!(segments.is_in_use(place(1)) && !segments.is_in_use(place(2)));
        drop(held);
        open(&mut segments, 2, 1);
        say(&mut segments, &[(2, &[0])]);
        assert_eq!(open_ones(&segments), [1, 2]);
        drop(waited);
        open(&mut segments, 3, 1);
        assert_eq!(open_ones(&segments), [3]);
    }

    #[test]
    fn what_could_not_be_opened_takes_no_room_whoever_waited_for_it() {
        let mut segments = Segments::default();
        let failing = segments.slot(place(1));
        let waiting = segments.slot(place(1));
        segments.drop_failed(place(1), &failing);
        // Who waited opens it after all, for itself.
        fill(&waiting);
        segments.was_opened(place(1), &waiting, LENGTH, LENGTH);
        assert!(open_ones(&segments).is_empty());
        // Or fails, too, while another one is open.
        open(&mut segments, 1, 1);
        segments.drop_failed(place(1), &waiting);
        assert_eq!(open_ones(&segments), [1]);
        // What is opened once more, proven, takes the room that it took.
        open(&mut segments, 1, 1);
        assert_eq!((open_ones(&segments), segments.open_bytes), (vec![1], LENGTH));
        let opened = segments.slot(place(1));
        segments.drop_failed(place(1), &opened);
        assert!(open_ones(&segments).is_empty());
    }
}
