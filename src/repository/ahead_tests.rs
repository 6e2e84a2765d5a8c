use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::id::SessionId;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

fn pack(number: u32) -> PackId {
    PackId { session: SessionId { generation: 1, random: [7; 16] }, number }
}

fn part(number: u32, range: Range<u64>) -> Wanted {
    Wanted { pack: pack(number), offset: range.start, range, is_whole: false }
}

/// What a pack holds at each place.
fn bytes(number: u32, range: &Range<u64>) -> Vec<u8> {
    range.clone().map(|at| (at * 31 + u64::from(number) * 7) as u8).collect()
}

/// A store that counts what is asked of it at once, and answers when it is told to.
#[derive(Default)]
struct Service {
    asked: Mutex<Vec<Wanted>>,
    at_once: AtomicUsize,
    most_at_once: AtomicUsize,
    is_open: Mutex<bool>,
    opened: Condvar,
    /// What it answers instead of bytes.
    fails: Option<Option<StoreError>>,
    panics: bool,
}

impl Service {
    fn closed() -> Arc<Self> {
        Arc::default()
    }

    fn open() -> Arc<Self> {
        Arc::new(Service { is_open: Mutex::new(true), ..Service::default() })
    }

    fn answer(&self) {
        *self.is_open.lock() = true;
        self.opened.notify_all();
    }

    fn ahead(self: &Arc<Self>, requests: usize, budget: u64) -> Ahead {
        self.ahead_within(requests, budget..=budget)
    }

    fn ahead_within(self: &Arc<Self>, requests: usize, budgets: RangeInclusive<u64>) -> Ahead {
        let service = self.clone();
        let fetch = move |wanted: &Wanted| {
            service.asked.lock().push(wanted.clone());
            let now = service.at_once.fetch_add(1, Ordering::SeqCst) + 1;
            service.most_at_once.fetch_max(now, Ordering::SeqCst);
            let mut is_open = service.is_open.lock();
            service.opened.notify_all();
            while !*is_open {
                service.opened.wait(&mut is_open);
            }
            drop(is_open);
            service.at_once.fetch_sub(1, Ordering::SeqCst);
            assert!(!service.panics, "a fetch that panics");
            match &service.fails {
                None => Ok(bytes(wanted.pack.number, &wanted.range)),
                Some(why) => Err(why.clone()),
            }
        };
        Ahead::over(Box::new(fetch), requests, budgets)
    }

    /// Waits until all that was said has come.
    fn settled(&self, ahead: &Ahead) {
        let mut state = ahead.shared.state.lock();
        while state
            .requests
            .values()
            .any(|it| matches!(it.status, Status::Waiting | Status::UnderWay))
        {
            ahead.shared.changed.wait(&mut state);
        }
    }

    /// Waits until so many requests were made.
    fn await_asked(&self, count: usize) {
        let mut is_open = self.is_open.lock();
        while self.asked.lock().len() < count {
            self.opened.wait(&mut is_open);
        }
    }
}

/// What was taken where the store can be reached.
fn taken(found: Option<Result<Vec<u8>, StoreError>>) -> Option<Vec<u8>> {
    found.map(|found| found.expect("the store can be reached"))
}

fn take(ahead: &Ahead, number: u32, range: Range<u64>) -> Option<Vec<u8>> {
    taken(ahead.take(pack(number), range.start, &range))
}

#[test]
fn what_was_said_comes_whole_and_once_whatever_order_it_is_taken_in() {
    let service = Service::open();
    let ahead = service.ahead(8, 16 * MIB);
    // Three packs in turn, as they are filled.
    let all: Vec<_> = (0..300u64)
        .map(|at| part((at % 3) as u32, (at / 3) * 100 * KIB..(at / 3 + 1) * 100 * KIB))
        .collect();
    ahead.replace(all.clone());
    service.await_asked(1);
    let mut order: Vec<_> = all.iter().collect();
    order.chunks_mut(5).for_each(<[_]>::reverse);
    let mut came = 0;
    for wanted in order {
        if let Some(found) = taken(ahead.take(wanted.pack, wanted.offset, &wanted.range)) {
            assert_eq!(found, bytes(wanted.pack.number, &wanted.range));
            came += 1;
        }
        assert_eq!(taken(ahead.take(wanted.pack, wanted.offset, &wanted.range)), None, "twice");
    }
    assert!(came > 0, "nothing was fetched before it was asked for");
    assert_eq!(ahead.held(), 0);
}

#[test]
fn as_many_requests_are_under_way_as_are_allowed_and_no_more() {
    let service = Service::closed();
    let ahead = service.ahead(8, 64 * MIB);
    ahead.replace((0..40).map(|number| part(number, 0..MIB)));
    service.await_asked(8);
    let first: Vec<_> = service.asked.lock().iter().map(|wanted| wanted.pack.number).collect();
    assert!(first.iter().all(|number| *number < 8), "not in their order: {first:?}");
    service.answer();
    for number in 0..40 {
        if let Some(found) = take(&ahead, number, 0..MIB) {
            assert_eq!(found.len() as u64, MIB);
        }
    }
    assert_eq!(service.most_at_once.load(Ordering::SeqCst), 8);
}

#[test]
fn no_more_bytes_are_held_than_the_budget_has_however_late_they_are_taken() {
    let service = Service::open();
    let ahead = service.ahead(8, 3 * MIB);
    ahead.replace((0..64).map(|number| part(number, 0..MIB)));
    for number in 0..64 {
        service.await_asked((number as usize + 3).min(64));
        for _ in 0..100 {
            assert!(ahead.held() <= 3 * MIB);
            std::thread::yield_now();
        }
        let asked = service.asked.lock().len();
        assert!(asked <= number as usize + 3, "{asked} requests with {number} taken");
        assert_eq!(take(&ahead, number, 0..MIB), Some(bytes(number, &(0..MIB))));
    }
}

#[test]
fn what_is_longer_than_the_budget_comes_alone() {
    let service = Service::open();
    let ahead = service.ahead(8, 3 * MIB);
    ahead.replace([part(0, 0..5 * MIB), part(1, 0..MIB)]);
    service.await_asked(1);
    assert_eq!(take(&ahead, 0, 0..5 * MIB), Some(bytes(0, &(0..5 * MIB))));
    service.await_asked(2);
    assert_eq!(take(&ahead, 1, 0..MIB), Some(bytes(1, &(0..MIB))));
    assert_eq!(service.most_at_once.load(Ordering::SeqCst), 1);
}

#[test]
fn neighbours_come_with_one_request_and_what_is_far_or_needed_late_does_not() {
    let service = Service::open();
    let ahead = service.ahead(1, 64 * MIB);
    let near = [part(1, 0..100 * KIB), part(2, 0..MIB), part(1, 99 * KIB..200 * KIB)];
    let behind_a_gap = [part(1, 230 * KIB..300 * KIB), part(1, 900 * KIB..MIB)];
    let too_long = [part(2, MIB..4 * MIB)];
    let others: Vec<_> = (10..74).map(|number| part(number, 0..KIB)).collect();
    let late = [part(1, MIB..MIB + KIB)];
    let all = [&near[..], &behind_a_gap, &too_long, &others, &late].concat();
    ahead.replace(all.clone());
    service.settled(&ahead);
    let asked = service.asked.lock().clone();
    let of_one = asked.iter().filter(|wanted| wanted.pack == pack(1)).map(|it| it.range.clone());
    let expected = [0..300 * KIB, 900 * KIB..MIB, MIB..MIB + KIB];
    assert_eq!(of_one.collect::<Vec<_>>(), expected);
    assert_eq!(asked.len(), expected.len() + 2 + others.len());
    for wanted in all {
        let found = taken(ahead.take(wanted.pack, wanted.offset, &wanted.range));
        assert_eq!(found, Some(bytes(wanted.pack.number, &wanted.range)));
    }
    assert_eq!(ahead.held(), 0);
}

#[test]
fn neighbours_at_two_places_of_a_pack_come_with_one_request_each() {
    let service = Service::open();
    let ahead = service.ahead(1, 16 * MIB);
    // Two threads read, each at its place.
    let at = |offset: u64| part(1, offset * 100 * KIB..(offset + 1) * 100 * KIB);
    ahead.replace((0..5).flat_map(|step| [at(step), at(50 + step)]));
    service.settled(&ahead);
    let asked: Vec<_> = service.asked.lock().iter().map(|wanted| wanted.range.clone()).collect();
    assert_eq!(asked, [0..500 * KIB, 5000 * KIB..5500 * KIB]);
}

/// Waits until so many requests came since the last time, and for no more to come: nobody takes anything, so that they are those
/// that there is room for.
fn expect_asked(service: &Service, expected: usize) {
    service.await_asked(expected);
    for _ in 0..100 {
        std::thread::yield_now();
    }
    assert_eq!(std::mem::take(&mut *service.asked.lock()).len(), expected);
}

#[test]
fn as_many_long_parts_come_as_have_room_and_what_is_added_changes_nothing() {
    let service = Service::open();
    let ahead = service.ahead_within(1, 4 * MIB..=12 * MIB);
    for (length, expected) in [(MIB / 2, 8), (2 * MIB, 4), (4 * MIB, 3), (MIB / 2, 8)] {
        ahead.replace((0..20).map(|number| part(number, 0..length)));
        expect_asked(&service, expected);
    }
    ahead.add((20..40).map(|number| part(number, 0..4 * MIB)));
    expect_asked(&service, 0);
    ahead.replace([part(1, 0..4 * MIB), part(2, 0..4 * MIB)]);
    expect_asked(&service, 2);
    ahead.replace([]);
    assert_eq!(ahead.budget(), 4 * MIB, "nothing is planned");
    ahead.add((0..20).map(|number| part(number, 0..MIB)));
    expect_asked(&service, 4);
}

#[test]
fn there_is_room_for_all_requests_that_are_under_way_and_more() {
    let service = Service::open();
    let ahead = service.ahead_within(8, MIB..=64 * MIB);
    ahead.replace((0..40).map(|number| part(number, 0..MIB)));
    expect_asked(&service, 11);
}

#[test]
fn parts_that_share_a_frame_come_with_it_each_once() {
    let service = Service::open();
    let ahead = service.ahead(1, 64 * MIB);
    let small = |offset| Wanted { offset, ..part(1, 0..65 * KIB) };
    let all: Vec<_> = (0..20).map(|number| small(number * KIB)).collect();
    ahead.replace(all.clone());
    // What was said already is not fetched twice.
    ahead.add(all[5..9].to_vec());
    service.settled(&ahead);
    for wanted in &all {
        let found = taken(ahead.take(wanted.pack, wanted.offset, &wanted.range));
        assert_eq!(found, Some(bytes(1, &wanted.range)));
    }
    assert_eq!((service.asked.lock().len(), ahead.held()), (1, 0));
}

#[test]
fn what_fails_is_left_to_whoever_needs_it() {
    let service =
        Arc::new(Service { is_open: Mutex::new(true), fails: Some(None), ..Service::default() });
    let ahead = service.ahead(4, 4 * MIB);
    ahead.replace((0..32).map(|number| part(number, 0..MIB)));
    service.await_asked(1);
    for number in 0..32 {
        assert_eq!(take(&ahead, number, 0..MIB), None);
    }
    assert_eq!(ahead.shared.state.lock().by_part.len(), 0);
}

#[test]
fn what_nobody_takes_does_not_stop_what_comes_behind_it() {
    for is_late in [false, true] {
        let service = if is_late { Service::closed() } else { Service::open() };
        let ahead = service.ahead(4, 4 * MIB);
        ahead.replace((0..200).map(|number| part(number, 0..MIB)));
        // No room is left, and the first hundred are forgotten: here already, or not yet.
        service.await_asked(4);
        let mut taken = 0;
        for number in 100..150 {
            taken += u64::from(take(&ahead, number, 0..MIB).is_some());
            if number == 100 {
                service.answer();
                service.await_asked(8);
            }
            while ahead.held() < 4 * MIB {
                std::thread::yield_now();
            }
        }
        assert!(taken > 40, "{taken} of 50 were fetched ahead");
    }
}

#[test]
fn a_new_plan_voids_the_old_one_and_whoever_waits_goes_on() {
    let service = Service::closed();
    let ahead = service.ahead(2, 4 * MIB);
    ahead.replace([part(1, 0..MIB)]);
    service.await_asked(1);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| take(&ahead, 1, 0..MIB));
        ahead.replace([part(2, 0..MIB)]);
        assert_eq!(waiting.join().unwrap(), None);
    });
    service.answer();
    assert_eq!(take(&ahead, 1, 0..MIB), None);
    let _ = take(&ahead, 2, 0..MIB);
}

#[test]
fn dropped_it_waits_for_nobody_and_asks_for_nothing_more() {
    let service = Service::closed();
    let ahead = service.ahead(2, 64 * MIB);
    ahead.replace((0..10).map(|number| part(number, 0..MIB)));
    service.await_asked(2);
    // Would hang if it waited for what is under way.
    let shared = Arc::downgrade(&ahead.shared);
    drop(ahead);
    service.answer();
    while shared.strong_count() > 0 {
        std::thread::yield_now();
    }
    assert_eq!(service.asked.lock().len(), 2);
}

#[test]
fn whole_packs_come_whole() {
    let service = Service::open();
    let ahead = service.ahead(2, 2 * MIB);
    ahead.add_packs((0..5).map(|number| (pack(number), MIB)));
    for number in 0..5 {
        if let Some(found) = taken(ahead.take_pack(pack(number))) {
            assert_eq!(found, bytes(number, &(0..MIB)));
        }
    }
    assert_eq!(taken(ahead.take_pack(pack(9))), None);
    assert_eq!(ahead.held(), 0);
}

#[test]
fn however_much_is_read_only_what_is_planned_and_not_taken_takes_room() {
    let service = Service::open();
    let ahead = service.ahead(4, 4 * MIB);
    const LAG: u32 = 50;
    // Nobody ever takes it, and it is not in anybody's way.
    ahead.add([part(1_000_000, 0..KIB)]);
    for number in 0..5000 {
        ahead.add([part(number, 0..KIB), part(number, 512 * KIB..513 * KIB)]);
        if let Some(slow) = number.checked_sub(LAG) {
            for range in [0..KIB, 512 * KIB..513 * KIB] {
                let found = take(&ahead, slow, range.clone());
                assert!(found.is_none_or(|found| found == bytes(slow, &range)));
            }
        }
        let state = ahead.shared.state.lock();
        let most = 2 * (LAG as usize + 1) + 1;
        assert!(state.requests.len() <= most && state.by_part.len() <= most);
    }
}

#[test]
fn a_fetch_that_panics_leaves_nobody_waiting() {
    let service =
        Arc::new(Service { is_open: Mutex::new(true), panics: true, ..Service::default() });
    let ahead = service.ahead(2, 4 * MIB);
    ahead.replace((0..8).map(|number| part(number, 0..MIB)));
    service.await_asked(1);
    for number in 0..8 {
        assert_eq!(take(&ahead, number, 0..MIB), None);
    }
    // All threads go on.
    service.settled(&ahead);
    assert_eq!(ahead.held(), 0);
}

#[test]
fn who_asks_for_what_the_store_was_given_up_for_is_told_so_once_for_each_part() {
    use crate::store::Kind;
    let why = StoreError {
        kind: Kind::Unavailable,
        name: "packs/far".to_string(),
        message: "nothing came".to_string(),
    };
    let service = Arc::new(Service {
        is_open: Mutex::new(true),
        fails: Some(Some(why.clone())),
        ..Service::default()
    });
    let ahead = service.ahead(1, 4 * MIB);
    ahead.replace([part(1, 0..KIB), part(1, KIB..2 * KIB)]);
    service.settled(&ahead);
    assert_eq!(ahead.held(), 0);
    for range in [0..KIB, KIB..2 * KIB] {
        assert_eq!(ahead.take(pack(1), range.start, &range), Some(Err(why.clone())));
        assert_eq!(ahead.take(pack(1), range.start, &range), None);
    }
    assert_eq!((service.asked.lock().len(), ahead.shared.state.lock().requests.len()), (1, 0));
}
