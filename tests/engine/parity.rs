//! Parity: damage inside its reach costs nothing and is told; damage beyond it is told, and nothing wrong is read.

use std::collections::BTreeMap;
use std::ops::Range;

use aumbry::codec::cipher::SEALED_FRAME_LENGTH;
use aumbry::format::config::Settings;
use aumbry::format::header::HEADER_LENGTH;
use aumbry::id::PackId;
use aumbry::monitor::{RecordingMonitor, SilentMonitor};
use aumbry::ops::check::{CheckOptions, Damage, DataSelection, check};
use aumbry::ops::restore::restore;
use aumbry::repository::Repository;
use aumbry::repository::error::Kind;
use aumbry::repository::reader::BlobReader;
use aumbry::store::{Store, layout};
use aumbry::view::{DirectoryRoot, Entries, read_file};
use tempfile::TempDir;

use crate::model::{Plain, assert_same, create_quick_with, folder_contents, open_quick};
use crate::support::{back_up, contents, noise, restore_options, small_settings, snapshots};

/// A repository with parity, what its snapshot holds, and all its objects.
struct Fixture {
    store: Store,
    source: TempDir,
    wanted: Plain,
    packs: BTreeMap<PackId, Vec<u8>>,
}

/// Packs of one frame and of several.
fn fixture(percent: u8) -> Fixture {
    let settings = Settings { parity_percent: percent, pack_length: 256 << 10, ..small_settings() };
    let store = Store::memory();
    let repository = create_quick_with(store.clone(), settings, None);
    let source = tempfile::tempdir().unwrap();
    std::fs::create_dir(source.path().join("folder")).unwrap();
    for number in 0..4u8 {
        let bytes = noise(100_000 + 30_000 * usize::from(number), u64::from(number) + 1);
        std::fs::write(source.path().join(format!("folder/{number}")), bytes).unwrap();
    }
    std::fs::write(source.path().join("text"), b"the same again ".repeat(500)).unwrap();
    back_up(&repository, source.path());
    let packs = store.list(layout::PACKS).unwrap().into_iter();
    let packs = packs
        .map(|object| (layout::parse_pack(&object.name).unwrap(), store.get(&object.name).unwrap()))
        .collect();
    let wanted = folder_contents(source.path());
    Fixture { store, source, wanted, packs }
}

/// Frames, parity shards, and the length of a shard: from the header, as `docs/format.md` has it.
fn shape(object: &[u8]) -> (usize, usize, usize) {
    let shards = u16::from_le_bytes(object[40..42].try_into().unwrap());
    let plain = u64::from_le_bytes(object[48..56].try_into().unwrap()) as usize;
    let frames = plain.div_ceil(65_536);
    let shard = if frames == 1 { (plain + 17) / 2 * 2 } else { SEALED_FRAME_LENGTH };
    let sealed = plain + 16 * frames;
    assert_eq!(object.len(), 128 + sealed + usize::from(shards) * (shard + 16) + 128);
    (frames, shards.into(), shard)
}

/// Where every frame, then every parity shard with its tag stands.
fn places(object: &[u8]) -> Vec<Range<usize>> {
    let (frames, shards, shard) = shape(object);
    let behind = object.len() - HEADER_LENGTH - shards * (shard + 16);
    let frame = |number| {
        let start = HEADER_LENGTH + number * SEALED_FRAME_LENGTH;
        start..behind.min(start + SEALED_FRAME_LENGTH)
    };
    let shard_at = |number| behind + number * (shard + 16)..behind + (number + 1) * (shard + 16);
    (0..frames).map(frame).chain((0..shards).map(shard_at)).collect()
}

impl Fixture {
    fn put(&self, pack: PackId, bytes: &[u8]) {
        let name = layout::pack(pack);
        self.store.delete(&name).unwrap();
        self.store.create(&name, bytes.to_vec()).unwrap();
    }

    fn damage(&self, repository: &Repository) -> Vec<Damage> {
        let options = CheckOptions {
            data: DataSelection::All,
            restore_sample: 0,
            share_ledger: false,
            memory_budget: 256 << 20,
        };
        let damage = check(repository, &options, &SilentMonitor).unwrap().damage;
        // What is recorded is told in other words by the next check.
        for object in self.store.list(layout::DAMAGED).unwrap() {
            self.store.delete(&object.name).unwrap();
        }
        damage
    }

    /// With this pack changed: everything is read as it was, a check names the pack and loses no file, and mending
    /// it gives the very object that was written. Once with the index, once without.
    fn expect_mended(&self, case: &str, pack: PackId, bytes: &[u8]) {
        self.put(pack, bytes);
        let repository = open_quick(self.store.clone(), None);
        let snapshot = &snapshots(&repository)[0].1;
        assert_same(&contents(&repository, snapshot), &self.wanted, case);
        let damage = self.damage(&repository);
        let name = layout::pack(pack);
        assert!(damage.len() == 1 && damage[0].item == name, "{case}: {damage:?}");
        assert!(damage[0].message.contains("parity mends it"), "{case}: {damage:?}");
        assert_eq!(damage[0].hit_count, 0, "{case}");
        for repository in [&repository, &open_quick(self.store.clone(), None)] {
            let mended = repository.mend_pack(pack).unwrap();
            assert!(mended.object == self.packs[&pack], "{case}: mended to something else");
            assert!(!mended.was_whole() && !mended.describe().is_empty(), "{case}");
        }
        self.put(pack, &self.packs[&pack]);
    }

    /// With this pack changed: it cannot be mended, a check says so, and what is read is right or not read at all.
    fn expect_refused(&self, case: &str, pack: PackId, bytes: &[u8]) {
        self.put(pack, bytes);
        let repository = open_quick(self.store.clone(), None);
        let refused = repository.mend_pack(pack).map(drop).unwrap_err();
        assert_eq!(refused.kind, Kind::Corrupt, "{case}: {refused}");
        let damage = self.damage(&repository);
        let name = layout::pack(pack);
        let named = damage.iter().find(|damage| damage.item == name);
        let named = named.unwrap_or_else(|| unreachable!("{case}: {damage:?}"));
        assert!(!named.message.contains("parity mends it"), "{case}: {named:?}");
        self.expect_right_or_unread(case, &repository);
        self.put(pack, &self.packs[&pack]);
    }

    fn expect_right_or_unread(&self, case: &str, repository: &Repository) {
        let reader = BlobReader::new(repository, 16 << 20);
        let snapshot = &snapshots(repository)[0].1;
        let mut directories = vec![(Vec::new(), DirectoryRoot::of_snapshot(snapshot))];
        while let Some((path, root)) = directories.pop() {
            for entry in Entries::new(&reader, root).filter_map(Result::ok) {
                let path = [&path[..], b"/", &entry.name].concat();
                if let aumbry::tree::entry::Node::File(file) = &entry.node
                    && let Ok(bytes) = read_file(&reader, file, 1 << 30)
                {
                    assert!(self.wanted[&path] == bytes, "{case}: wrong bytes");
                }
                directories.extend(DirectoryRoot::of_entry(&entry).map(|root| (path, root)));
            }
        }
    }
}

/// With everything in this place changed.
fn broken(object: &[u8], place: Range<usize>) -> Vec<u8> {
    broken_all(object, std::slice::from_ref(&place))
}

/// The same in several places.
fn broken_all(object: &[u8], places: &[Range<usize>]) -> Vec<u8> {
    let mut bytes = object.to_vec();
    places.iter().for_each(|place| bytes[place.clone()].iter_mut().for_each(|byte| *byte ^= 0x55));
    bytes
}

#[test]
fn every_frame_and_every_parity_shard_is_mended() {
    let fixture = fixture(40);
    let mut frames_seen = Vec::new();
    for (pack, object) in &fixture.packs {
        frames_seen.push(shape(object).0);
        for place in places(object) {
            let case = format!("{pack}, bytes {place:?}");
            fixture.expect_mended(&case, *pack, &broken(object, place.clone()));
            // One byte of it: the first, the last, and the tag's first.
            for at in [place.start, place.end - 1, place.end - 16] {
                fixture.expect_mended(&case, *pack, &broken(object, at..at + 1));
            }
        }
    }
    assert!(frames_seen.contains(&1) && frames_seen.iter().any(|frames| *frames > 3));
}

#[test]
fn every_byte_of_both_headers_is_mended() {
    let fixture = fixture(1);
    for (pack, object) in &fixture.packs {
        for at in (0..HEADER_LENGTH).step_by(3) {
            for at in [at, object.len() - 1 - at] {
                let case = format!("{pack}, byte {at}");
                fixture.put(*pack, &broken(object, at..at + 1));
                let repository = open_quick(fixture.store.clone(), None);
                let mended = repository.mend_pack(*pack).unwrap();
                assert!(mended.object == *object && mended.bad_header, "{case}");
                fixture.put(*pack, object);
            }
        }
        let end = object.len() - HEADER_LENGTH;
        fixture.expect_mended("the header", *pack, &broken(object, 0..HEADER_LENGTH));
        fixture.expect_mended("its copy", *pack, &broken(object, end..object.len()));
    }
}

#[test]
fn any_one_stretch_of_damage_as_long_as_a_frame_is_mended() {
    let fixture = fixture(1);
    for (pack, object) in &fixture.packs {
        let (frames, shards, shard) = shape(object);
        assert_eq!(shards, if frames == 1 { 2 } else { 3 }, "one percent of few frames");
        let step = if frames == 1 { shard / 3 } else { shard / 2 + 77 };
        for start in (0..object.len()).step_by(step) {
            let stretch = start..object.len().min(start + shard);
            let case = format!("{pack}, {stretch:?} of {}", object.len());
            fixture.expect_mended(&case, *pack, &broken(object, stretch));
        }
    }
}

#[test]
fn what_is_cut_off_or_added_at_the_end_is_mended() {
    let fixture = fixture(40);
    for (pack, object) in &fixture.packs {
        let places = places(object);
        let shards = shape(object).1;
        // As many frames and shards go as there are shards.
        let reach = places[places.len() - shards].start;
        for length in [object.len() - 1, object.len() - HEADER_LENGTH, reach + 1, reach] {
            let case = format!("{pack}, cut to {length} of {}", object.len());
            fixture.expect_mended(&case, *pack, &object[..length]);
        }
        for more in [1, 128, 70_000] {
            let longer = [&object[..], &vec![0; more]].concat();
            fixture.expect_mended(&format!("{pack}, {more} more"), *pack, &longer);
        }
    }
}

#[test]
fn as_many_as_there_are_parity_shards_are_mended_and_one_more_is_refused_and_named() {
    let fixture = fixture(40);
    for (pack, object) in &fixture.packs {
        let places = places(object);
        let (frames, shards, _) = shape(object);
        // From the first frame on, from the last one backwards, and frames and shards in turns.
        let forwards: Vec<_> = (0..places.len()).collect();
        let backwards: Vec<_> = (0..frames).rev().chain(frames..places.len()).collect();
        let turns = (0..shards.min(frames)).flat_map(|frame| [frame, frames + frame]);
        let rest = (shards.min(frames)..shards).map(|shard| frames + shard);
        let turns: Vec<_> = turns.chain(rest).chain(shards.min(frames)..frames).collect();
        for order in [forwards, backwards, turns] {
            let chosen = |count: usize| -> Vec<_> {
                order.iter().take(count).map(|place| places[*place].clone()).collect()
            };
            let case = format!("{pack}, {order:?}");
            fixture.expect_mended(&case, *pack, &broken_all(object, &chosen(shards)));
            fixture.expect_refused(&case, *pack, &broken_all(object, &chosen(shards + 1)));
        }
        fixture.expect_refused("zeros", *pack, &vec![0; object.len()]);
        fixture.expect_refused("half", *pack, &object[..HEADER_LENGTH + 10]);
    }
}

#[test]
fn what_was_damaged_is_told_in_numbers() {
    let fixture = fixture(40);
    let is_long = |(_, object): &(&PackId, &Vec<u8>)| shape(object).0 > 3;
    let (pack, object) = fixture.packs.iter().find(is_long).unwrap();
    let (frames, shards, _) = shape(object);
    let places = places(object);
    let mend = |bytes: &[u8]| {
        fixture.put(*pack, bytes);
        let mended = open_quick(fixture.store.clone(), None).mend_pack(*pack);
        mended.map(|mended| (mended.was_whole(), mended.describe()))
    };
    let length = object.len();
    let longer = [&object[..], &[0]].concat();
    for (bytes, what) in [
        (object.clone(), String::new()),
        (broken(object, places[1].clone()), format!("1 of {frames} frames")),
        (broken(object, places[frames].clone()), format!("1 of {shards} parity shards")),
        (broken(object, 0..9), "the header or its copy".to_string()),
        (longer, format!("its length ({} of {length} bytes)", length + 1)),
    ] {
        assert_eq!(mend(&bytes).unwrap(), (what.is_empty(), what));
    }
    let too_much = [&places[..shards], &places[frames..=frames]].concat();
    let refused = mend(&broken_all(object, &too_much)).unwrap_err();
    let left = shards - 1;
    let told = format!("{shards} of {frames} frames are damaged and {left} of {shards} parity");
    assert!(refused.message.starts_with(&told), "{refused}");
}

#[test]
fn without_its_header_and_the_copy_a_pack_is_mended_with_the_one_that_the_index_has() {
    let fixture = fixture(40);
    for (pack, object) in &fixture.packs {
        let end = object.len();
        let both = [0..HEADER_LENGTH, end - HEADER_LENGTH..end];
        fixture.put(*pack, &broken_all(object, &both));
        let repository = open_quick(fixture.store.clone(), None);
        assert!(repository.mend_pack(*pack).is_err(), "nothing tells what it was");
        repository.refresh_index(&SilentMonitor).unwrap();
        assert!(repository.mend_pack(*pack).unwrap().object == *object);
        fixture.put(*pack, object);
    }
}

#[test]
fn a_pack_in_no_index_object_is_mended_and_read() {
    let fixture = fixture(10);
    for object in fixture.store.list(layout::INDEX).unwrap() {
        fixture.store.delete(&object.name).unwrap();
    }
    for (pack, object) in &fixture.packs {
        let last = places(object)[shape(object).0 - 1].clone();
        for damage in [0..HEADER_LENGTH, last] {
            fixture.put(*pack, &broken(object, damage));
            let repository = open_quick(fixture.store.clone(), None);
            repository.adopt_readable_packs().unwrap();
            assert!(repository.take_mended().contains_key(pack), "what it holds was asked for");
            let mended = repository.mend_pack(*pack).unwrap();
            assert!(mended.object == *object);
            let snapshot = &snapshots(&repository)[0].1;
            assert_same(&contents(&repository, snapshot), &fixture.wanted, "without an index");
            let named = fixture.damage(&repository);
            let named = named.iter().find(|damage| damage.item == layout::pack(*pack)).unwrap();
            assert!(named.message.contains("parity mends it"), "{named:?}");
            fixture.put(*pack, object);
        }
    }
}

#[test]
fn a_restore_of_damaged_packs_is_exact_and_says_what_it_mended() {
    let fixture = fixture(10);
    for (pack, object) in &fixture.packs {
        fixture.put(*pack, &broken(object, places(object)[0].clone()));
    }
    let cache = tempfile::tempdir().unwrap();
    // The second time tree packs come from the cache, where they were kept whole.
    for round in 0..2 {
        let repository = open_quick(fixture.store.clone(), Some(cache.path()));
        let target = tempfile::tempdir().unwrap();
        let monitor = RecordingMonitor::default();
        let chosen = &snapshots(&repository)[0];
        let summary =
            restore(&repository, chosen, target.path(), &restore_options(), &monitor).unwrap();
        assert_eq!(summary.entries_failed, 0);
        assert_eq!(monitor.problems(), []);
        assert_same(&folder_contents(target.path()), &fixture.wanted, "the restored folder");
        let told = monitor.notes().iter().filter(|note| note.contains("mended")).count();
        assert!(if round == 0 { told == fixture.packs.len() } else { told > 0 }, "{told}");
    }
    drop(fixture.source);
}

#[test]
fn packs_without_parity_are_read_beside_packs_with_it_and_are_not_mended() {
    let fixture = fixture(0);
    let repository = open_quick(fixture.store.clone(), None);
    let (pack, object) = fixture.packs.first_key_value().unwrap();
    assert_eq!(object[33], 0);
    assert_eq!(repository.mend_pack(*pack).map(drop).unwrap_err().kind, Kind::Invalid);
    assert_eq!(fixture.damage(&repository), []);
    for index in fixture.store.list(layout::INDEX).unwrap() {
        fixture.store.delete(&index.name).unwrap();
    }
    fixture.put(*pack, &object[..HEADER_LENGTH + 7]);
    let damage = fixture.damage(&open_quick(fixture.store.clone(), None));
    let told =
        damage.iter().any(|damage| damage.message.contains("135 bytes are not whole frames"));
    assert!(told, "{damage:?}");
    let other = Settings { parity_percent: 5, ..*repository.settings() };
    assert!(Settings::decode(&other.encode()).is_ok_and(|read| read == other));
}
