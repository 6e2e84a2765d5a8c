//! The questions that every store must answer right, whatever stands behind it.

use std::sync::Barrier;
use std::thread;

use super::{Created, Kind, ObjectInfo, Store};

/// How much is asked. What every store is to be asked is [`Extent::FULL`]; a server that is too slow for it is asked less,
/// and whoever asks says so.
#[derive(Debug, Clone, Copy)]
pub struct Extent {
    /// So many create each name at once.
    pub racers: usize,
    /// For so many names.
    pub races: usize,
    /// A listing is of so many objects, several pages everywhere.
    pub listed: usize,
    /// The length of the largest object.
    pub large_bytes: usize,
    /// The length of the longest part of a name.
    pub name_bytes: usize,
}

impl Extent {
    /// 64 racing creators of 200 names, 5000 objects in a listing, an object of 200 MB.
    #[allow(dead_code, reason = "the library's own tests ask less")]
    pub const FULL: Extent =
        Extent { racers: 64, races: 200, listed: 5_000, large_bytes: 200_000_000, name_bytes: 200 };
    /// The same questions with less of each, for tests that everybody waits for.
    #[allow(dead_code, reason = "the library's own tests ask so much; tests/stores asks all")]
    pub const QUICK: Extent =
        Extent { racers: 16, races: 20, listed: 1_200, large_bytes: 40_000_000, ..Extent::FULL };
}

/// Asks them all, in the folder `conformance/`, which must be empty and is empty again afterwards. How many calls the
/// store makes at once bounds how hard races are.
///
/// # Panics
///
/// At the first wrong answer.
pub fn check(store: &Store, extent: &Extent) {
    check_reading(store, extent);
    the_first_bytes_stay(store);
    an_empty_object_is_an_object(store, Created::AlreadyThere);
    races_have_one_winner(store, extent);
}

/// The same of a store that cannot create if absent, as it was told ([`Store::without_conditions`]).
#[allow(dead_code, reason = "the library's own tests ask stores that can")]
pub fn check_writing_over(store: &Store, extent: &Extent) {
    check_reading(store, extent);
    the_last_bytes_stay(store);
    an_empty_object_is_an_object(store, Created::New);
    races_leave_one_whole(store, extent);
}

fn check_reading(store: &Store, extent: &Extent) {
    what_is_created_is_read_back(store);
    ranges_are_exact(store);
    names_of_every_allowed_character_are_kept(store, extent.name_bytes);
    names_that_begin_alike_are_kept_apart(store);
    a_large_object_comes_back(store, extent.large_bytes);
    what_is_absent_is_said_to_be(store);
    deleting_is_final_and_may_be_repeated(store);
    listings_are_sorted_and_complete(store, extent.listed);
}

/// Uploads whose line is cut leave nothing that anybody sees. `cut` is the same store over a line that breaks in every
/// upload that is longer than a megabyte, and tries once.
#[allow(dead_code, reason = "only stores over a network have lines that are cut")]
pub fn check_cut_off(store: &Store, cut: &Store) {
    const UPLOADS: usize = 8;
    let mut visible = 0;
    for upload in 0..UPLOADS {
        let name = name(&format!("cut/{upload}"));
        let bytes = pattern(4_000_000 + upload, upload as u64 + 1);
        let told = cut.create(&name, bytes.clone());
        match store.size(&name).expect("size works") {
            // All bytes were through: what was cut came behind them, or nothing was.
            Some(_) => {
                visible += 1;
                assert!(get(store, &name) == bytes, "{name} is torn: {told:?}");
            }
            None => {
                let error = told.expect_err("what was created is visible");
                assert_eq!(error.kind, Kind::Unavailable, "{error}");
                let absent = store.get(&name).expect_err("it was never whole");
                assert_eq!(absent.kind, Kind::NotFound, "{absent}");
            }
        }
    }
    assert!(visible < UPLOADS / 2, "{visible} uploads were not cut");
    assert_eq!(list(store, &name("cut/")).len(), visible, "what is visible is listed");
    for upload in 0..UPLOADS {
        let name = name(&format!("cut/{upload}"));
        delete(store, &name);
        // Nothing stands in the way of the next one.
        assert_eq!(create(store, &name, b"whole"), Created::New);
        assert_eq!(get(store, &name), b"whole");
        delete(store, &name);
    }
}

fn name(rest: &str) -> String {
    format!("conformance/{rest}")
}

/// Bytes that differ from place to place and from seed to seed.
pub fn pattern(length: usize, seed: u64) -> Vec<u8> {
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
fn names_of_every_allowed_character_are_kept(store: &Store, name_bytes: usize) {
    let long = "n".repeat(name_bytes);
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

/// Of objects whose names are the beginnings of others', each is its own, and so is what is absent.
fn names_that_begin_alike_are_kept_apart(store: &Store) {
    let names = [
        "alike/1.condemned",
        "alike/1",
        "alike/10",
        "alike/1-2",
        "alike/1-21",
        "alike/2/3",
        "alike/2/311",
    ];
    for (number, rest) in names.iter().enumerate() {
        let name = name(rest);
        assert_eq!(store.size(&name), Ok(None), "{name}");
        assert_eq!(create(store, &name, &pattern(10 + number, 5)), Created::New, "{name}");
    }
    for absent in ["alike/1.", "alike/1.condemne", "alike/1-", "alike/100", "alike/2/31", "alik"] {
        assert_eq!(store.size(&name(absent)), Ok(None), "{absent}");
        let error = store.get(&name(absent)).expect_err("there is no such object");
        assert_eq!(error.kind, Kind::NotFound, "{absent}: {error}");
        let error = store.get_range(&name(absent), 0..0).expect_err("there is no such object");
        assert_eq!(error.kind, Kind::NotFound, "{absent}: {error}");
    }
    for (number, rest) in names.iter().enumerate() {
        assert_eq!(store.size(&name(rest)), Ok(Some(10 + number as u64)), "{rest}");
        delete(store, &name(rest));
        assert_eq!(store.size(&name(rest)), Ok(None), "{rest}");
        for (later, rest) in names.iter().enumerate().skip(number + 1) {
            assert_eq!(get(store, &name(rest)), pattern(10 + later, 5), "{rest}");
        }
    }
}

fn ranges_are_exact(store: &Store) {
    let name = name("ranges");
    let bytes = pattern(10_000, 2);
    create(store, &name, &bytes);
    let edges = [0, 1, 2, 4_095, 4_096, 4_097, 8_192, 9_998, 9_999, 10_000];
    for (number, start) in edges.into_iter().enumerate() {
        for end in edges.into_iter().skip(number) {
            let range = store.get_range(&name, start..end).expect("the range lies inside");
            assert_eq!(range, &bytes[start as usize..end as usize], "{start}..{end}");
        }
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

/// `second` is what comes of another create of the same empty object's name, with a byte.
fn an_empty_object_is_an_object(store: &Store, second: Created) {
    let name = name("empty");
    assert_eq!(create(store, &name, b"x"), Created::New);
    delete(store, &name);
    assert_eq!(create(store, &name, b""), Created::New);
    assert_eq!(get(store, &name), b"");
    assert_eq!(store.size(&name), Ok(Some(0)));
    assert_eq!(store.get_range(&name, 0..0), Ok(Vec::new()));
    for (start, end) in [(0, 1), (1, 1), (1, 2)] {
        let error = store.get_range(&name, start..end).expect_err("the range lies outside");
        assert_eq!(error.kind, Kind::Truncated, "{start}..{end}: {error}");
    }
    assert_eq!(create(store, &name, b""), Created::New, "the same bytes may be our own");
    assert_eq!(list(store, &name), [ObjectInfo { name: name.clone(), size: 0, modified: None }]);
    assert_eq!(create(store, &name, b"x"), second);
    assert_eq!(store.size(&name), Ok(Some(u64::from(second == Created::New))));
    delete(store, &name);
}

fn a_large_object_comes_back(store: &Store, length: usize) {
    let name = name("large");
    let bytes = pattern(length, 3);
    assert_eq!(store.create(&name, bytes.clone()), Ok(Created::New));
    assert_eq!(store.size(&name), Ok(Some(length as u64)));
    assert!(get(store, &name) == bytes, "a large object came back changed");
    // Where services and buffers cut, at both ends, and somewhere.
    let places = [0, 65_535, 65_536, (1 << 20) - 1, 1 << 20, (8 << 20) + 1, length / 3, length - 1];
    for start in places {
        for taken in [1, 65_537, 1 << 20] {
            let end = (start + taken).min(length);
            let range = store.get_range(&name, start as u64..end as u64);
            let range = range.expect("the range lies inside");
            assert!(range == bytes[start..end], "{start}..{end} came back changed");
        }
    }
    let beyond = store.get_range(&name, length as u64 - 1..length as u64 + 1);
    assert_eq!(beyond.expect_err("the range lies outside").kind, Kind::Truncated);
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

/// All racers create each name at once, one name after another. Returns who won which race, as they were told.
fn race(store: &Store, extent: &Extent) -> Vec<(usize, usize)> {
    let start = Barrier::new(extent.racers);
    let told = thread::scope(|scope| {
        let racers: Vec<_> = (0..extent.racers)
            .map(|racer| {
                let start = &start;
                scope.spawn(move || {
                    // A racer that failed goes on: the others wait for it at each start.
                    let run = |race: usize| {
                        start.wait();
                        (race, racer, store.create(&race_name(race), race_bytes(racer)))
                    };
                    (0..extent.races).map(run).collect::<Vec<_>>()
                })
            })
            .collect();
        let told = racers.into_iter().flat_map(|racer| racer.join().expect("it does not panic"));
        told.collect::<Vec<_>>()
    });
    let told =
        told.into_iter().map(|(race, racer, told)| (race, racer, told.expect("create works")));
    let won = told.filter(|(_, _, told)| *told == Created::New);
    let mut wins: Vec<(usize, usize)> = won.map(|(race, racer, _)| (race, racer)).collect();
    wins.sort_unstable();
    wins
}

fn race_name(race: usize) -> String {
    name(&format!("race/{race}"))
}

fn race_bytes(racer: usize) -> Vec<u8> {
    pattern(1_000 + racer, racer as u64 + 1)
}

fn races_have_one_winner(store: &Store, extent: &Extent) {
    let wins = race(store, extent);
    let races: Vec<usize> = wins.iter().map(|(race, _)| *race).collect();
    assert_eq!(races, (0..extent.races).collect::<Vec<_>>(), "every race has exactly one winner");
    for (race, winner) in wins {
        assert_eq!(get(store, &race_name(race)), race_bytes(winner), "race {race}");
        delete(store, &race_name(race));
    }
}

/// Where everybody may write over: what stays is what one of them wrote, whole, and the same for all who look.
fn races_leave_one_whole(store: &Store, extent: &Extent) {
    let wins = race(store, extent);
    assert_eq!(wins.len(), extent.races * extent.racers, "nobody was refused");
    for race in 0..extent.races {
        let there = get(store, &race_name(race));
        let racer = there.len().checked_sub(1_000).expect("it is whole");
        assert!(racer < extent.racers && there == race_bytes(racer), "race {race}");
        assert_eq!(store.size(&race_name(race)), Ok(Some(there.len() as u64)));
        delete(store, &race_name(race));
        assert_eq!(store.size(&race_name(race)), Ok(None), "nothing comes up from below");
    }
}

fn listings_are_sorted_and_complete(store: &Store, objects: usize) {
    const THREADS: usize = 8;
    let mut expected: Vec<ObjectInfo> = (0..objects)
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
        "list/06/4",
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
