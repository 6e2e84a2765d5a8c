//! Which opened segments a reader keeps, where somebody has said what will be read and in which order.
//!
//! That goes first which nobody awaits, and then what is needed last (L. Bélády, "A study of replacement algorithms for a
//! virtual-storage computer", IBM Systems Journal 5(2), 1966). With two exceptions, as what was said is the order of one reader, and
//! several threads read at different places of it: what was read lately is read on, however far behind it comes; and a delta
//! is kept longer, because opening it again takes its bases, too.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;

use super::index::SegmentPlace;
use super::opened::Opened;

/// Segments of which one of the last so many blobs was read are read on: with 64, a restore of `source` opened 175 MB of 560 a second
/// time, with 256 it was 120, with 1024 and 2048 it was 110, with 8192 (all of them) 120; of `binaries` 140, 116, 97, 109 and 143 of 820.
const READ_ON: u64 = 1024;
/// And deltas so many times as long: 104 and 95 MB instead of 108 and 108.
const READ_ON_DELTAS: u64 = 16;

/// A segment that is being opened or is open. Whoever needs it waits for whoever opens it.
pub(super) type Slot = Arc<Mutex<Option<Arc<Opened>>>>;

/// Open segments, within a budget that is asked for each time.
#[derive(Default)]
pub(super) struct Segments {
    /// Each with the turn at which it was used.
    slots: HashMap<SegmentPlace, (Slot, u64)>,
    bytes: u64,
    turn: u64,
    /// When blobs of a segment will still be read, where somebody has said so: how many blobs come before.
    awaited: HashMap<SegmentPlace, VecDeque<u32>>,
    /// Bytes of the awaited segments that were not opened yet.
    to_come: u64,
    /// The deltas that were opened since somebody said so.
    deltas: HashSet<SegmentPlace>,
}

impl Segments {
    /// Whether it is open, or somebody opens it.
    pub(super) fn contains(&self, place: SegmentPlace) -> bool {
        self.slots.contains_key(&place)
    }

    /// Whether somebody opens it or looks at it now.
    pub(super) fn is_in_use(&self, place: SegmentPlace) -> bool {
        self.slots.get(&place).is_some_and(|(slot, _)| slot.try_lock().is_none())
    }

    /// A segment that is used now.
    pub(super) fn slot(&mut self, place: SegmentPlace) -> Slot {
        self.turn += 1;
        let (slot, used) = self.slots.entry(place).or_default();
        *used = self.turn;
        slot.clone()
    }

    /// What will be read from now on. What was said before is void. `lengths`: each of its segments once, and its bytes.
    pub(super) fn replace_awaited(
        &mut self,
        awaited: HashMap<SegmentPlace, VecDeque<u32>>,
        lengths: impl IntoIterator<Item = (SegmentPlace, u64)>,
    ) {
        let unopened = lengths.into_iter().filter(|(place, _)| !self.contains(*place));
        self.to_come = unopened.map(|(_, length)| length).sum();
        self.awaited = awaited;
        self.deltas.clear();
    }

    /// A delta is opened. Whether for the first time: that its bases are read was said once.
    pub(super) fn begin_delta(&mut self, place: SegmentPlace) -> bool {
        self.deltas.insert(place)
    }

    /// A blob of this segment was read. If it was the last one the segment is dropped, unless all that is still to come
    /// has room beside it: what is said next may begin with what was read last.
    pub(super) fn was_read(&mut self, place: SegmentPlace, budget: u64) {
        let Some(rest) = self.awaited.get_mut(&place) else { return };
        rest.pop_front();
        if rest.is_empty() {
            self.awaited.remove(&place);
            if self.bytes + self.to_come > budget {
                self.remove(place);
            }
        }
    }

    /// Counts a segment that was opened in the place of so many bytes, and drops others until all fit.
    pub(super) fn was_opened(
        &mut self,
        place: SegmentPlace,
        replaced: u64,
        length: u64,
        budget: u64,
    ) {
        self.bytes = self.bytes.saturating_sub(replaced) + length;
        if self.awaited.contains_key(&place) {
            self.to_come = self.to_come.saturating_sub(length);
        }
        while self.bytes > budget {
            let Some(other) = self.most_dispensable(place) else { break };
            self.remove(other);
        }
    }

    /// It could not be opened, and so many bytes that were in its place are gone.
    pub(super) fn has_failed(&mut self, place: SegmentPlace, replaced: u64) {
        self.slots.remove(&place);
        self.bytes = self.bytes.saturating_sub(replaced);
    }

    /// Of all others that nobody looks at.
    fn most_dispensable(&self, except: SegmentPlace) -> Option<SegmentPlace> {
        let is_free = |place: SegmentPlace, slot| place != except && Arc::strong_count(slot) == 1;
        let others = self.slots.iter().filter(|(place, (slot, _))| is_free(**place, slot));
        let worth = |(place, (_, used)): &(&SegmentPlace, &(Slot, u64))| {
            let next = self.awaited.get(place).and_then(VecDeque::front);
            let turns = READ_ON * if self.deltas.contains(place) { READ_ON_DELTAS } else { 1 };
            let is_read_on = next.is_some() && used + turns > self.turn;
            (is_read_on, next.map(|order| Reverse(*order)), *used)
        };
        others.min_by_key(worth).map(|(place, _)| *place)
    }

    /// Drops a segment, unless somebody waits for it or opens it.
    fn remove(&mut self, place: SegmentPlace) {
        let Some((slot, _)) = self.slots.get(&place) else { return };
        if Arc::strong_count(slot) > 1 {
            return;
        }
        let freed = slot.lock().as_ref().map_or(0, |segment| segment.plain.len() as u64);
        self.bytes = self.bytes.saturating_sub(freed);
        self.slots.remove(&place);
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

    /// Opens it, with room for so many.
    fn open(segments: &mut Segments, segment: u32, room: u64) {
        let slot = segments.slot(place(segment));
        let plain = vec![0; LENGTH as usize];
        *slot.lock() = Some(Arc::new(Opened::new(plain, &Spare::for_budget(1), true)));
        drop(slot);
        segments.was_opened(place(segment), 0, LENGTH, room * LENGTH);
    }

    /// Says of each segment when its blobs are read.
    fn say(segments: &mut Segments, orders: &[(u32, &[u32])]) {
        let awaited = orders.iter().map(|(segment, orders)| {
            (place(*segment), orders.iter().copied().collect::<VecDeque<u32>>())
        });
        let lengths = orders.iter().map(|(segment, _)| (place(*segment), LENGTH));
        segments.replace_awaited(awaited.collect(), lengths.collect::<Vec<_>>());
    }

    fn open_ones(segments: &Segments) -> Vec<u32> {
        let mut open: Vec<u32> = segments.slots.keys().map(|place| place.segment).collect();
        open.sort_unstable();
        open
    }

    /// So many blobs are read elsewhere.
    fn pass(segments: &mut Segments, turns: u64) {
        segments.turn += turns;
    }

    #[test]
    fn what_nobody_awaits_goes_first_and_then_what_is_needed_last() {
        let mut segments = Segments::default();
        say(&mut segments, &[(1, &[5]), (2, &[9]), (3, &[7]), (5, &[0]), (6, &[1])]);
        for segment in [4, 1, 2, 3] {
            open(&mut segments, segment, 4);
        }
        pass(&mut segments, READ_ON);
        open(&mut segments, 5, 4);
        assert_eq!(open_ones(&segments), [1, 2, 3, 5], "nobody awaits 4");
        open(&mut segments, 6, 4);
        assert_eq!(open_ones(&segments), [1, 3, 5, 6], "2 is needed last");
        assert_eq!(segments.bytes, 4 * LENGTH);
    }

    #[test]
    fn what_a_thread_reads_on_in_and_deltas_stay_though_they_are_needed_last() {
        let mut segments = Segments::default();
        say(&mut segments, &[(1, &[900]), (2, &[500]), (3, &[100]), (4, &[0]), (5, &[0])]);
        for segment in [1, 2, 3] {
            open(&mut segments, segment, 3);
        }
        assert!(segments.begin_delta(place(2)));
        pass(&mut segments, READ_ON);
        drop(segments.slot(place(1)));
        open(&mut segments, 4, 3);
        assert_eq!(open_ones(&segments), [1, 2, 4], "1 was read lately, 2 is a delta");
        pass(&mut segments, READ_ON * READ_ON_DELTAS);
        drop(segments.slot(place(1)));
        open(&mut segments, 5, 3);
        assert_eq!(open_ones(&segments), [1, 4, 5], "not for ever");
        // Where all are read on, that goes all the same which is needed last.
        say(&mut segments, &[(1, &[2]), (4, &[3]), (5, &[1]), (6, &[0])]);
        for segment in [1, 4, 5] {
            drop(segments.slot(place(segment)));
        }
        open(&mut segments, 6, 3);
        assert_eq!(open_ones(&segments), [1, 5, 6]);
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
        assert_eq!(
            open_ones(&segments),
            [0; 0],
            "three are to come, for which there is no room beside it"
        );
        for segment in [2, 3, 4] {
            open(&mut segments, segment, 3);
            segments.was_read(place(segment), budget);
        }
        assert_eq!(open_ones(&segments), [2, 3, 4]);
        // One that is open is not to come.
        say(&mut segments, &[(4, &[0]), (5, &[1])]);
        assert_eq!(segments.to_come, LENGTH);
        open(&mut segments, 5, 3);
        assert_eq!((open_ones(&segments), segments.to_come), (vec![3, 4, 5], 0));
    }

    #[test]
    fn the_bases_of_a_delta_were_said_to_be_read_once() {
        let mut segments = Segments::default();
        assert!(segments.begin_delta(place(1)) && !segments.begin_delta(place(1)));
        say(&mut segments, &[(1, &[0])]);
        assert!(segments.begin_delta(place(1)));
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
        assert_eq!(open_ones(&segments), [1, 2]);
        drop(waited);
        open(&mut segments, 3, 1);
        assert_eq!(open_ones(&segments), [3]);
        segments.has_failed(place(3), LENGTH);
        assert_eq!((open_ones(&segments), segments.bytes), (vec![], 0));
    }
}
