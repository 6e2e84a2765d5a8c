//! Healing: what is lost or damaged counts as missing for writers, who store it again while the source is there.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::Arc;

use aumbry::clock::FakeClock;
use aumbry::format::directory::DirectoryNode;
use aumbry::format::header::ObjectKind;
use aumbry::format::snapshot::Snapshot;
use aumbry::monitor::{RecordingMonitor, SilentMonitor};
use aumbry::ops::backup::BackupSummary;
use aumbry::ops::check::sample::Confidence;
use aumbry::ops::check::{CheckOptions, DataSelection, check};
use aumbry::repository::session::Committed;
use aumbry::repository::writer::Writer;
use aumbry::repository::{Environment, Repository};
use aumbry::store::{FaultControl, Store, layout};
use aumbry::tree::entry::{Content, Entry, Extent, FileContent, Metadata, Node};
use aumbry::units::Timestamp;

use crate::support::{
    back_up_with, check_options, checked, contents, create, environment, noise, open, options,
    passphrase, small_settings, snapshots,
};

/// Forty files of noise, one of them long enough for a chunk list.
fn fill(folder: &Path) {
    for number in 0..40 {
        fs::write(folder.join(format!("{number:02}")), noise(20_000, number)).unwrap();
    }
    fs::write(folder.join("long"), noise(900_000, 99)).unwrap();
}

/// Backs up and returns what was said, too.
fn back_up(repository: &Repository, folder: &Path) -> (BackupSummary, Vec<String>) {
    let monitor = RecordingMonitor::default();
    let summary = back_up_with(repository, folder, &options(), &monitor).unwrap();
    (summary, monitor.notes())
}

fn newest(repository: &Repository) -> BTreeMap<Vec<u8>, Vec<u8>> {
    contents(repository, &snapshots(repository).last().unwrap().1)
}

/// The names of all packs, in order.
fn packs(store: &Store) -> Vec<String> {
    store.list(layout::PACKS).unwrap().into_iter().map(|object| object.name).collect()
}

#[test]
fn each_pack_that_goes_missing_is_stored_again_and_then_nothing_is_read_twice() {
    let source = tempfile::tempdir().unwrap();
    fill(source.path());
    let store = Store::memory();
    let cache = tempfile::tempdir().unwrap();
    let wanted = {
        let repository = create(store.clone(), small_settings(), Some(cache.path()));
        back_up(&repository, source.path());
        newest(&repository)
    };
    for name in packs(&store) {
        store.delete(&name).unwrap();
        // The same cache, which knows the pack, and keeps a copy of it if it holds trees.
        let repository = open(store.clone(), Some(cache.path()));
        let (healing, notes) = back_up(&repository, source.path());
        assert!(notes.iter().any(|note| note.contains("gone or cut short")), "{name}: {notes:?}");
        assert!(healing.counts.data_added > 0, "{name}");
        let length = u64::from(small_settings().pack_length);
        assert!(healing.counts.data_added < 4 * length, "{name}: {:?}", healing.counts);
        let (next, notes) = back_up(&repository, source.path());
        assert_eq!(notes, [""; 0], "{name}");
        assert_eq!(next.counts.data_added, 0, "{name}");
        assert_eq!(next.counts.files_unmodified, 41, "{name}");
        // A reader that has nothing but the store.
        assert!(newest(&open(store.clone(), None)) == wanted, "{name}");
    }
}

#[test]
fn a_pack_that_is_back_counts_again() {
    let source = tempfile::tempdir().unwrap();
    fill(source.path());
    let store = Store::memory();
    let cache = tempfile::tempdir().unwrap();
    let repository = create(store.clone(), small_settings(), Some(cache.path()));
    back_up(&repository, source.path());
    let name = packs(&store).remove(0);
    let object = store.get(&name).unwrap();
    store.delete(&name).unwrap();
    // What is not in the source any more cannot be stored again.
    let elsewhere = tempfile::tempdir().unwrap();
    fs::write(elsewhere.path().join("other"), b"of another folder").unwrap();
    for _ in 0..2 {
        let (_, notes) = back_up(&repository, elsewhere.path());
        assert_eq!(notes.len(), 1, "{notes:?}");
    }
    store.create(&name, object).unwrap();
    let (summary, notes) = back_up(&repository, source.path());
    assert_eq!(notes, [""; 0]);
    assert_eq!(summary.counts.data_blobs, 0, "{:?}", summary.counts);
}

/// Flips a bit in the middle of an object.
fn damage(store: &Store, name: &str) {
    let mut bytes = store.get(name).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    store.delete(name).unwrap();
    store.create(name, bytes).unwrap();
}

/// Every file of the source, as the snapshot has it.
fn files(folder: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    let mut files: BTreeMap<_, _> = entries
        .map(|entry| {
            let path = format!("/tree/{}", entry.file_name().to_str().unwrap());
            (path.into_bytes(), fs::read(entry.path()).unwrap())
        })
        .collect();
    files.insert(b"/tree".to_vec(), b"dir".to_vec());
    files
}

#[test]
fn a_damaged_pack_is_recorded_and_the_next_backup_stores_what_it_held_again() {
    let source = tempfile::tempdir().unwrap();
    fill(source.path());
    let wanted = files(source.path());
    for round in 0..4 {
        let store = Store::memory();
        let repository = create(store.clone(), small_settings(), None);
        back_up(&repository, source.path());
        let is_tree = round == 0;
        let kind = if is_tree { ObjectKind::TreePack } else { ObjectKind::DataPack };
        let mut chosen = packs(&store);
        chosen.retain(|name| store.get(name).unwrap()[10] == kind as u8);
        let name = chosen[round * 3 % chosen.len()].clone();
        damage(&store, &name);

        // Nobody knows yet, and everybody trusts the parent.
        let unaware = back_up(&repository, source.path()).0.counts;
        assert!(is_tree || unaware.data_added == 0 && unaware.files_unmodified == 41);
        let found = checked(&repository, DataSelection::All);
        assert!(found.damage.iter().any(|damage| damage.item == name && damage.hit_count > 0));
        assert_eq!(found.recorded, 1);
        // Recorded once; a check that reads no data says so, too.
        let again = checked(&open(store.clone(), None), DataSelection::None);
        assert_eq!(again.recorded, 0);
        assert_eq!(again.damage.len(), 1, "{:?}", again.damage);
        assert!(again.damage[0].item == name && again.damage[0].hit_count > 0);
        assert!(again.damage[0].message.contains("recorded as damaged on"), "{again:?}");

        // Another machine, which has only the store.
        let healer = open(store.clone(), None);
        let (healing, notes) = back_up(&healer, source.path());
        assert!(notes.len() == 1 && notes[0].contains("is damaged"), "{notes:?}");
        assert!(healing.counts.data_blobs + healing.counts.tree_blobs > 0);
        match is_tree {
            // Without its directory every file is read, and none is stored.
            true => assert_eq!(healing.counts.data_blobs, 0, "{name}"),
            false => assert!(healing.counts.files_unmodified > 20, "{name}: {:?}", healing.counts),
        }
        let length = u64::from(small_settings().pack_length);
        assert!(healing.counts.data_added < 4 * length, "{name}: {:?}", healing.counts);
        assert_eq!(healing.counts.problems, 0);

        for data in [DataSelection::None, DataSelection::All] {
            let healed = checked(&open(store.clone(), None), data);
            assert_eq!(healed.damage, [], "{name}");
            let note = healed.notes.iter().find(|note| note.starts_with(&name)).unwrap();
            assert!(note.contains("healed"), "{note}");
        }
        let (next, notes) = back_up(&open(store.clone(), None), source.path());
        assert_eq!((next.counts.data_added, next.counts.files_unmodified), (0, 41));
        assert_eq!(notes, [""; 0]);
        let reader = open(store.clone(), None);
        for (_, snapshot) in snapshots(&reader) {
            assert!(contents(&reader, &snapshot) == wanted, "{name}");
        }
    }
}

#[test]
fn what_is_not_in_the_source_any_more_stays_lost_and_the_rest_of_its_pack_is_told_apart() {
    let source = tempfile::tempdir().unwrap();
    fill(source.path());
    let store = Store::memory();
    let repository = create(store.clone(), small_settings(), None);
    back_up(&repository, source.path());
    let is_data = |name: &String| store.get(name).unwrap()[10] == ObjectKind::DataPack as u8;
    let name = packs(&store).into_iter().find(is_data).unwrap();
    damage(&store, &name);
    let lost = checked(&repository, DataSelection::All).damage;
    let hits = lost.iter().find(|damage| damage.item == name).unwrap().hits.clone();
    for hit in &hits {
        let file = hit.rsplit('/').next().unwrap();
        fs::write(source.path().join(file), b"something else").unwrap();
    }
    back_up(&repository, source.path());
    let after = checked(&repository, DataSelection::All).damage;
    assert_eq!(after.len(), 1);
    assert_eq!(after[0].hits, hits, "what was lost is lost in the old snapshot, and only there");
}

#[test]
fn a_check_that_may_not_write_says_so_and_goes_on() {
    let source = tempfile::tempdir().unwrap();
    fill(source.path());
    let control = FaultControl::new();
    let store = Store::memory();
    let repository = create(store.clone(), small_settings(), None);
    back_up(&repository, source.path());
    damage(&store, &packs(&store)[0]);
    let repository = open(store.clone().with_faults(control.clone()), None);
    control.limit_bytes(Some(0));
    let options = CheckOptions { share_ledger: true, ..check_options(DataSelection::All) };
    let summary = check(&repository, &options, &SilentMonitor).unwrap();
    assert!(!summary.damage.is_empty());
    assert_eq!(summary.recorded, 0);
    for said in ["damage could not be recorded", "could not be shared"] {
        assert!(summary.notes.iter().any(|note| note.contains(said)), "{:?}", summary.notes);
    }
    assert_eq!(store.list(layout::DAMAGED).unwrap().len(), 0);
}

#[test]
fn a_pack_that_is_gone_is_recorded_where_writers_do_not_list_packs() {
    let source = tempfile::tempdir().unwrap();
    fill(source.path());
    let operator = opendal::Operator::new(opendal::services::Memory::default()).unwrap();
    let store = Store::remote(operator, "far away");
    let repository = create(store.clone(), small_settings(), None);
    back_up(&repository, source.path());
    let name = packs(&store).remove(0);
    store.delete(&name).unwrap();
    assert_eq!(back_up(&repository, source.path()).0.counts.data_added, 0, "nobody looked");
    let found = checked(&repository, DataSelection::None);
    assert_eq!((found.recorded, found.damage.len()), (1, 1), "{:?}", found.damage);
    assert!(back_up(&repository, source.path()).0.counts.data_added > 0);
    let healed = checked(&open(store.clone(), None), DataSelection::None);
    assert_eq!(healed.damage, []);
    assert!(healed.notes.iter().any(|note| note.contains("stands elsewhere")));
    assert!(newest(&open(store, None)) == files(source.path()));
}

/// A client whose clock shows this many days after some day.
fn at_day(store: &Store, day: i64, cache: Option<&Path>) -> Repository {
    let time = Timestamp { seconds: 1_700_000_000 + day * 86_400, nanoseconds: 0 };
    let clock = Arc::new(FakeClock::new(time));
    let environment = Environment { clock, ..environment(cache) };
    Repository::open(store.clone(), &passphrase(), environment).unwrap()
}

#[test]
fn a_part_of_the_packs_is_what_was_not_proven_for_the_longest_time() {
    let source = tempfile::tempdir().unwrap();
    fill(source.path());
    let store = Store::memory();
    let repository = create(store.clone(), small_settings(), None);
    back_up(&repository, source.path());
    let count = packs(&store).len() as u64;
    assert!(count > 10);
    let cache = tempfile::tempdir().unwrap();
    // One pack a day: after as many days each was proven once.
    let mut order = Vec::new();
    for day in 0..2 * count as i64 {
        let repository = at_day(&store, day, Some(cache.path()));
        let before = repository.cache().proven().unwrap();
        let summary = checked(&repository, DataSelection::Bytes(1));
        assert_eq!(summary.packs_read, 1);
        assert_eq!(summary.never_proven, count.saturating_sub(day as u64 + 1));
        let proven = repository.cache().proven().unwrap();
        let now = proven.iter().filter(|(pack, time)| before.get(pack) != Some(time));
        let now: Vec<_> = now.map(|(pack, _)| *pack).collect();
        assert_eq!(now.len(), 1);
        order.push(now[0]);
    }
    let (first, second) = order.split_at(count as usize);
    assert_eq!(first, second, "the second round is in the order of the first");
    assert_eq!(first.iter().collect::<BTreeSet<_>>().len() as u64, count);
    let oldest = checked(&at_day(&store, 500, Some(cache.path())), DataSelection::None);
    let day = Timestamp { seconds: 1_700_000_000 + count as i64 * 86_400, nanoseconds: 0 };
    assert_eq!(oldest.oldest_proof, Some(day));
}

#[test]
fn a_shared_ledger_counts_for_others_unless_it_is_of_the_future() {
    let source = tempfile::tempdir().unwrap();
    fill(source.path());
    let store = Store::memory();
    let repository = create(store.clone(), small_settings(), None);
    back_up(&repository, source.path());
    let count = packs(&store).len() as u64;
    let share = |day, data| {
        let options = CheckOptions { share_ledger: true, ..check_options(data) };
        check(&at_day(&store, day, None), &options, &SilentMonitor).unwrap()
    };
    assert_eq!(share(5, DataSelection::Share(0.5)).never_proven, count / 2);
    // Who comes next takes the other half, and hands on what it was told.
    let second = share(6, DataSelection::Share(0.5));
    assert!(second.never_proven <= 1, "{} of {count}", second.never_proven);
    assert_eq!(store.list(layout::LEDGER).unwrap().len(), 2);
    let latest = store.list(layout::LEDGER).unwrap().into_iter().map(|object| {
        let session = layout::parse_ledger(&object.name).unwrap();
        repository.read_ledger(session).unwrap()
    });
    assert_eq!(latest.map(|ledger| ledger.superseded.len()).sum::<usize>(), 1);
    // A clock that is behind believes neither.
    let behind = checked(&at_day(&store, 4, None), DataSelection::None);
    assert_eq!((behind.never_proven, behind.oldest_proof), (count, None));
    // What is found damaged was not proven, whatever a ledger says.
    damage(&store, &packs(&store)[0]);
    let found = checked(&at_day(&store, 7, None), DataSelection::All);
    assert_eq!((found.never_proven, found.recorded), (0, 1));
    assert_eq!(share(8, DataSelection::None).never_proven, second.never_proven);
    let inventory = repository.inventory().unwrap();
    let last = inventory.ledgers.iter().map(|session| repository.read_ledger(*session).unwrap());
    let last = last.max_by_key(|ledger| ledger.superseded.len()).unwrap();
    assert_eq!(last.superseded.len(), 2);
    assert!(last.proven.iter().all(|(pack, _)| *pack != inventory.damaged[0]));
}

#[test]
fn a_sample_says_how_sure_it_makes_and_nothing_when_it_meets_damage() {
    let source = tempfile::tempdir().unwrap();
    fill(source.path());
    let store = Store::memory();
    let repository = create(store.clone(), small_settings(), None);
    back_up(&repository, source.path());
    let count = packs(&store).len() as u64;
    let whole = checked(&repository, DataSelection::Sample(Confidence::default()));
    let sample = whole.sample.unwrap();
    assert_eq!((sample.packs, sample.read, sample.bad), (count, count, 0), "few: all are read");
    assert_eq!((sample.confidence, sample.proportion), (1.0, 0.999));
    let wanted = Confidence { confidence: 0.8, proportion: 0.75 };
    let part = checked(&repository, DataSelection::Sample(wanted)).sample.unwrap();
    assert!(part.read < count / 2 && part.confidence >= 0.8, "{part:?}");
    assert_eq!(part.read, wanted.sample_size(count));

    damage(&store, &packs(&store)[0]);
    let met = checked(&repository, DataSelection::Sample(Confidence::default()));
    assert_eq!((met.sample.unwrap().bad, met.recorded), (1, 1));
    // What is known to be bad is not drawn any more.
    let next = checked(&repository, DataSelection::Sample(Confidence::default()));
    assert_eq!((next.sample.unwrap().packs, next.sample.unwrap().bad), (count - 1, 0));
    let never = Confidence { confidence: 1.0, proportion: 0.5 };
    let options = check_options(DataSelection::Sample(never));
    assert!(check(&repository, &options, &SilentMonitor).is_err());
}

#[test]
fn random_files_are_restored_and_each_version_counts_once() {
    let source = tempfile::tempdir().unwrap();
    fill(source.path());
    fs::write(source.path().join("empty"), b"").unwrap();
    fs::write(source.path().join("small"), b"inline").unwrap();
    let sparse = fs::File::create(source.path().join("sparse")).unwrap();
    sparse.set_len(40 << 20).unwrap();
    let store = Store::memory();
    let repository = create(store.clone(), small_settings(), None);
    back_up(&repository, source.path());
    fs::write(source.path().join("small"), b"second").unwrap();
    back_up(&repository, source.path());
    let drill = |count| {
        let options = CheckOptions { restore_sample: count, ..check_options(DataSelection::None) };
        check(&repository, &options, &SilentMonitor).unwrap()
    };
    let all = drill(1000);
    assert_eq!(all.damage, []);
    assert_eq!(all.drilled.len(), 45, "44 files, one of them in two versions");
    assert!(all.drilled.iter().all(|file| file.error.is_none()), "{:?}", all.drilled);
    assert_eq!(all.drilled.iter().filter(|file| file.name.ends_with(":/tree/small")).count(), 2);
    assert!(drill(0).drilled.is_empty());
    let mut drawn = BTreeSet::new();
    for _ in 0..40 {
        let drilled = drill(5).drilled;
        assert_eq!(drilled.len(), 5);
        drawn.extend(drilled.into_iter().map(|file| file.name));
    }
    // Each has missed 40 draws of 5 of 45 with a probability of 0.9 %.
    assert!(drawn.len() > 35, "{drawn:?}");

    let is_data = |name: &&String| store.get(name).unwrap()[10] == ObjectKind::DataPack as u8;
    let length = |name: &&String| store.size(name).unwrap();
    damage(&store, packs(&store).iter().filter(is_data).max_by_key(length).unwrap());
    let broken = drill(1000);
    let failed = broken.drilled.iter().filter(|file| file.error.is_some());
    let names: Vec<_> = failed.map(|file| file.name.as_str()).collect();
    assert!(!names.is_empty() && !broken.damage.is_empty());
    let hits: BTreeSet<_> = broken.damage.iter().flat_map(|damage| &damage.hits).collect();
    for name in names {
        let path = name.split_once(':').unwrap().1;
        assert!(hits.iter().any(|hit| hit.ends_with(path)), "{name}: {hits:?}");
    }
    // The pack was read whole and recorded for it, so what the source still has is stored again.
    assert_eq!((broken.packs_read, broken.recorded), (1, 1));
    back_up(&repository, source.path());
    let healed = drill(1000).drilled;
    let failed = healed.iter().filter(|file| file.error.is_some());
    assert!(failed.map(|file| &file.name).all(|name| name.ends_with(":/tree/small")));
}

#[test]
fn a_directory_that_a_check_cannot_read_has_its_pack_recorded_though_no_data_was_to_be_read() {
    let source = tempfile::tempdir().unwrap();
    fill(source.path());
    let store = Store::memory();
    let repository = create(store.clone(), small_settings(), None);
    back_up(&repository, source.path());
    let is_tree = |name: &&String| store.get(name).unwrap()[10] == ObjectKind::TreePack as u8;
    let trees: Vec<_> = packs(&store).into_iter().filter(|name| is_tree(&name)).collect();
    damage(&store, &trees[0]);
    let broken = checked(&repository, DataSelection::None);
    assert!(!broken.damage.is_empty());
    assert_eq!((broken.packs_read, broken.recorded), (1, 1));
    assert_eq!(checked(&repository, DataSelection::None).recorded, 0);
}

#[test]
fn a_file_whose_pieces_are_right_and_whose_digest_is_not_fails_a_drill_by_name() {
    let store = Store::memory();
    let repository = create(store.clone(), small_settings(), None);
    let source = tempfile::tempdir().unwrap();
    fs::write(source.path().join("whole"), noise(50_000, 1)).unwrap();
    back_up(&repository, source.path());
    let model = snapshots(&repository).remove(0).1;
    let writer = Writer::begin(&repository, false, &SilentMonitor).unwrap();
    let mut data = writer.segments(ObjectKind::DataPack).unwrap();
    let plain = noise(5000, 2);
    let (blob, _) = data.put(&plain).unwrap();
    data.flush().unwrap();
    let content = Content::Extents(vec![Extent::Data { blob, length: 5000 }]);
    let leaf = DirectoryNode::Leaf(vec![Entry {
        name: (*b"wrong").into(),
        node: Node::File(FileContent { size: 5000, content, digest: Some([9; 32]) }),
        metadata: Metadata { links: 1, ..Metadata::default() },
    }]);
    let mut trees = writer.segments(ObjectKind::TreePack).unwrap();
    let (root, _) = trees.put(&leaf.encode()).unwrap();
    trees.flush().unwrap();
    drop((data, trees));
    writer.finish().unwrap();
    let committed = writer.commit(Snapshot { root, height: 0, ..model }).unwrap();
    let Committed::Snapshot(id) = committed else { unreachable!("nobody collects") };

    assert_eq!(
        checked(&repository, DataSelection::All).damage,
        [],
        "every blob is what it should be"
    );
    let options = CheckOptions { restore_sample: 10, ..check_options(DataSelection::None) };
    let summary = check(&repository, &options, &SilentMonitor).unwrap();
    let name = format!("{}:/wrong", id.short());
    assert_eq!(summary.damage.len(), 1);
    assert_eq!(summary.damage[0].item, format!("file {name}"));
    assert_eq!(summary.damage[0].hits, std::slice::from_ref(&name));
    let failed: Vec<_> = summary.drilled.iter().filter(|file| file.error.is_some()).collect();
    assert!(failed.len() == 1 && failed[0].name == name, "{failed:?}");
    assert_eq!(summary.drilled.len(), 2);
}
