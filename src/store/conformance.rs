//! The questions that every store must answer right, whatever stands behind it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use super::{Created, Kind, ObjectInfo, Store};

/// Asks them all, in the folder `conformance/`, which must be empty and is empty again afterwards.
///
/// # Panics
///
/// At the first wrong answer.
pub fn check(store: &Store) {
    check_reading(store);
    the_first_bytes_stay(store);
    an_empty_object_is_an_object(store);
    races_have_one_winner(store);
}

/// The same of a store that cannot create if absent, as it was told ([`Store::without_conditions`]).
#[allow(dead_code, reason = "the library's own tests ask stores that can")]
pub fn check_writing_over(store: &Store) {
    check_reading(store);
    the_last_bytes_stay(store);
}

fn check_reading(store: &Store) {
    what_is_created_is_read_back(store);
    ranges_are_exact(store);
    names_of_every_allowed_character_are_kept(store);
    a_large_object_comes_back(store);
    what_is_absent_is_said_to_be(store);
    deleting_is_final_and_may_be_repeated(store);
    listings_are_sorted_and_complete(store);
}

fn name(rest: &str) -> String {
    format!("conformance/{rest}")
}

/// Bytes that differ from place to place and from seed to seed.
fn pattern(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        // xorshift64 (Marsaglia 2003).
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

fn create(store: &Store, name: &str, bytes: &[u8]) -> Created {
    store.create(name, bytes.to_vec()).expect("create works")
}

fn get(store: &Store, name: &str) -> Vec<u8> {
    store.get(name).expect("get works")
}

/// Names and sizes; that times do not change is asked on the way.
fn list(store: &Store, prefix: &str) -> Vec<ObjectInfo> {
    let mut objects = store.list(prefix).expect("list works");
    assert_eq!(store.list(prefix).expect("list works"), objects);
    objects.iter_mut().for_each(|object| object.modified = None);
    objects
}

fn delete(store: &Store, name: &str) {
    store.delete(name).expect("delete works");
}

fn what_is_created_is_read_back(store: &Store) {
    let name = name("deep/er/object-1_2.x");
    let bytes = pattern(70_000, 1);
    assert_eq!(create(store, &name, &bytes), Created::New);
    assert_eq!(get(store, &name), bytes);
    assert_eq!(get(store, &name), bytes, "a second time, too");
    assert_eq!(store.size(&name), Ok(Some(70_000)));
    delete(store, &name);
}

fn the_first_bytes_stay(store: &Store) {
    let name = name("taken");
    assert_eq!(create(store, &name, b"first"), Created::New);
    assert_eq!(create(store, &name, b"other"), Created::AlreadyThere);
    assert_eq!(create(store, &name, b"of another length"), Created::AlreadyThere);
    assert_eq!(create(store, &name, b""), Created::AlreadyThere);
    assert_eq!(create(store, &name, b"first"), Created::New, "the same bytes may be our own");
    assert_eq!(get(store, &name), b"first");
    delete(store, &name);
    assert_eq!(create(store, &name, b"second"), Created::New, "a freed name can be taken");
    assert_eq!(get(store, &name), b"second");
    delete(store, &name);
}

fn the_last_bytes_stay(store: &Store) {
    let name = name("written-over");
    for bytes in [b"first".as_slice(), b"of another length", b"", b"last"] {
        assert_eq!(create(store, &name, bytes), Created::New);
        assert_eq!(get(store, &name), bytes);
        assert_eq!(store.size(&name), Ok(Some(bytes.len() as u64)));
    }
    delete(store, &name);
    assert_eq!(store.size(&name), Ok(None));
}

/// Letters in both cases are different names; dots, dashes and underscores mean nothing; parts may be long.
fn names_of_every_allowed_character_are_kept(store: &Store) {
    let long = "n".repeat(200);
    let names = ["Aa", "aA", "aa", "a.b", "a-b", "a_b", "a..b", "0", "a.", "-a", "_a", &long];
    let names: Vec<String> = names.iter().map(|part| name(&format!("names/{part}"))).collect();
    for (number, name) in names.iter().enumerate() {
        assert_eq!(create(store, name, &pattern(100 + number, 7)), Created::New, "{name}");
    }
    for (number, name) in names.iter().enumerate() {
        assert_eq!(get(store, name), pattern(100 + number, 7), "{name}");
    }
    let mut listed: Vec<String> =
        list(store, &name("names/")).into_iter().map(|object| object.name).collect();
    let mut expected = names.clone();
    expected.sort();
    listed.sort();
    assert_eq!(listed, expected);
    names.iter().for_each(|name| delete(store, name));
}

fn ranges_are_exact(store: &Store) {
    let name = name("ranges");
    let bytes = pattern(10_000, 2);
    create(store, &name, &bytes);
    for (start, end) in
        [(0, 0), (0, 1), (0, 10_000), (1, 9_999), (4_096, 8_192), (9_999, 10_000), (10_000, 10_000)]
    {
        let range = store.get_range(&name, start..end).expect("the range lies inside");
        assert_eq!(range, &bytes[start as usize..end as usize], "{start}..{end}");
    }
    for (start, end) in [
        (0, 10_001),
        (9_999, 10_001),
        (10_000, 10_001),
        (10_001, 10_001),
        (20_000, 30_000),
        (0, u64::MAX),
        (u64::MAX - 1, u64::MAX),
    ] {
        let error = store.get_range(&name, start..end).expect_err("the range lies outside");
        assert_eq!(error.kind, Kind::Truncated, "{start}..{end}: {error}");
    }
    #[allow(clippy::reversed_empty_ranges, reason = "that is the question")]
    let backwards = store.get_range(&name, 5..3).expect_err("the range runs backwards");
    assert_eq!(backwards.kind, Kind::Invalid);
    delete(store, &name);
}

fn an_empty_object_is_an_object(store: &Store) {
    let name = name("empty");
    assert_eq!(create(store, &name, b""), Created::New);
    assert_eq!(create(store, &name, b"x"), Created::AlreadyThere);
    assert_eq!(get(store, &name), b"");
    assert_eq!(store.size(&name), Ok(Some(0)));
    assert_eq!(store.get_range(&name, 0..0), Ok(Vec::new()));
    assert_eq!(list(store, &name), [ObjectInfo { name: name.clone(), size: 0, modified: None }]);
    delete(store, &name);
}

fn a_large_object_comes_back(store: &Store) {
    let name = name("large");
    let bytes = pattern(40_000_000, 3);
    assert_eq!(create(store, &name, &bytes), Created::New);
    assert_eq!(store.size(&name), Ok(Some(40_000_000)));
    assert!(get(store, &name) == bytes, "a large object came back changed");
    let range = store.get_range(&name, 33_333_333..33_433_333).expect("the range lies inside");
    assert!(range == bytes[33_333_333..33_433_333], "a range of it came back changed");
    delete(store, &name);
}

fn what_is_absent_is_said_to_be(store: &Store) {
    let name = name("absent/object");
    for error in [
        store.get(&name).expect_err("there is no such object"),
        store.get_range(&name, 0..1).expect_err("there is no such object"),
        store.get_range(&name, 0..0).expect_err("there is no such object"),
    ] {
        assert_eq!((error.kind, &error.name), (Kind::NotFound, &name), "{error}");
    }
    assert_eq!(store.size(&name), Ok(None));
    assert_eq!(list(store, "conformance/absent/"), []);
    assert_eq!(list(store, "conformance/abs"), []);
}

fn deleting_is_final_and_may_be_repeated(store: &Store) {
    let name = name("deleted/object");
    create(store, &name, b"x");
    delete(store, &name);
    delete(store, &name);
    assert_eq!(store.size(&name), Ok(None));
    assert_eq!(list(store, "conformance/deleted/"), []);
    delete(store, "conformance/never/there");
}

fn races_have_one_winner(store: &Store) {
    const THREADS: usize = 16;
    const NAMES: usize = 20;
    let winners: Vec<AtomicUsize> = (0..NAMES).map(|_| AtomicUsize::new(THREADS)).collect();
    let wins = AtomicUsize::new(0);
    let start = std::sync::Barrier::new(THREADS);
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let (winners, wins, start) = (&winners, &wins, &start);
            scope.spawn(move || {
                start.wait();
                for (race, winner) in winners.iter().enumerate() {
                    let bytes = pattern(1_000 + thread, thread as u64 + 1);
                    if create(store, &name(&format!("race/{race}")), &bytes) == Created::New {
                        winner.store(thread, Ordering::SeqCst);
                        wins.fetch_add(1, Ordering::SeqCst);
                    }
                }
            });
        }
    });
    assert_eq!(wins.load(Ordering::SeqCst), NAMES, "every race has exactly one winner");
    for (race, winner) in winners.iter().enumerate() {
        let winner = winner.load(Ordering::SeqCst);
        assert!(winner < THREADS, "race {race} has a winner");
        let name = name(&format!("race/{race}"));
        assert_eq!(get(store, &name), pattern(1_000 + winner, winner as u64 + 1));
        delete(store, &name);
    }
}

fn listings_are_sorted_and_complete(store: &Store) {
    const OBJECTS: usize = 1_200;
    const THREADS: usize = 8;
    let mut expected: Vec<ObjectInfo> = (0..OBJECTS)
        .map(|number| ObjectInfo {
            name: name(&format!("list/{:02x}/{number:04}-x", number % 7)),
            size: (number % 50) as u64,
            modified: None,
        })
        .collect();
    expected.push(ObjectInfo { name: name("list/00.y"), size: 3, modified: None });
    expected.sort_by(|left, right| left.name.cmp(&right.name));
    let each = |work: &(dyn Fn(&ObjectInfo) + Sync)| {
        thread::scope(|scope| {
            for part in expected.chunks(expected.len().div_ceil(THREADS)) {
                scope.spawn(move || part.iter().for_each(work));
            }
        });
    };
    each(&|object| {
        create(store, &object.name, &pattern(object.size as usize, 9));
    });
    let beginning_with = |prefix: &str| -> Vec<ObjectInfo> {
        let all = expected.iter().filter(|object| object.name.starts_with(prefix));
        all.cloned().collect()
    };
    // A folder, all of it, a part of its names, a folder's name without its end, one object.
    for prefix in [
        "list/",
        "list/03/",
        "list/03/00",
        "list/03/01",
        "list/0",
        "list/00",
        "list/00.",
        "list/9",
        "list/05/0005-x",
        "li",
    ] {
        let prefix = name(prefix);
        assert_eq!(list(store, &prefix), beginning_with(&prefix), "{prefix}");
    }
    assert!(list(store, "").len() >= expected.len());
    each(&|object| delete(store, &object.name));
    assert_eq!(list(store, &name("list/")), []);
}
