//! Deltas: what changed is stored against what it was before, and whatever happens to either is noticed and survived.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use aumbry::format::config::Settings;
use aumbry::format::header::ObjectKind;
use aumbry::format::index::PackRecord;
use aumbry::format::pack::Encoding;
use aumbry::id::BlobId;
use aumbry::monitor::{RecordingMonitor, SilentMonitor};
use aumbry::ops::backup::{BackupOptions, Deltas};
use aumbry::ops::check::DataSelection;
use aumbry::ops::prune::plan::UnusedLimit;
use aumbry::ops::restore::restore;
use aumbry::repository::Repository;
use aumbry::repository::index::cache::Excluded;
use aumbry::repository::index::{Location, PackInfo};
use aumbry::repository::reader::BlobReader;
use aumbry::repository::writer::Writer;
use aumbry::store::{FaultControl, LocalMode, Store, layout};
use opendal::Operator;
use proptest::prelude::{Just, Strategy, any, prop_oneof};
use proptest::sample::Index;

use crate::model::for_all;
use crate::prune::{pruned, tight};
use crate::support::{
    back_up, back_up_with, checked, contents, create, noise, open, options, restore_options,
    small_settings, snapshots,
};

/// Every delta blob, and where it is.
fn deltas(repository: &Repository) -> Vec<(BlobId, Location)> {
    let entries = repository.cache().entries().unwrap().map(Result::unwrap);
    entries.filter(|(_, location)| location.is_delta).collect()
}

fn pack_bytes(store: &Store) -> u64 {
    store.list(layout::PACKS).unwrap().iter().map(|object| object.size).sum()
}

/// Three files that do not compress; in version 1 a few bytes of each are other ones.
fn write_version(folder: &Path, version: u64) {
    for number in 0..3 {
        let mut bytes = noise(30_000, number);
        let at = 7_000 * (number as usize + 1);
        bytes[at..at + 40].copy_from_slice(&noise(40, 100 * version + number));
        fs::write(folder.join(format!("file-{number}")), bytes).unwrap();
    }
}

/// A repository with both versions.
fn two_versions(folder: &Path) -> (Store, Repository) {
    let store = Store::memory();
    let repository = create(store.clone(), small_settings(), None);
    for version in 0..2 {
        write_version(folder, version);
        back_up(&repository, folder);
    }
    (store, repository)
}

/// The names of the packs that the base of some delta stands in.
fn packs_of_bases(repository: &Repository) -> BTreeSet<String> {
    let cache = repository.cache();
    let bases = deltas(repository).into_iter().flat_map(|(_, delta)| cache.bases(&delta).unwrap());
    let places =
        bases.map(|base| cache.base_outside(&base, &Excluded::default()).unwrap().unwrap());
    places.map(|place| layout::pack(cache.pack(place.pack).unwrap().id)).collect()
}

/// Whoever looks up all blobs at once finds what each is read from where it is found one by one.
fn assert_found_alike(repository: &Repository) {
    let [one_by_one, at_once] = [(); 2].map(|()| BlobReader::new(repository, 1 << 20));
    let entries = repository.cache().entries().unwrap().map(Result::unwrap);
    let blobs: Vec<BlobId> = entries.map(|(blob, _)| blob).collect();
    at_once.locate_all(blobs.clone());
    at_once.locate_bases();
    for blob in &blobs {
        let found = |reader: &BlobReader<'_>| {
            (reader.base_location(blob).unwrap(), reader.first_read(blob).unwrap())
        };
        assert_eq!(found(&at_once), found(&one_by_one), "{blob}");
    }
    // And where only deltas are looked up, what they are read against is found with them.
    let of_deltas = deltas(repository).into_iter().map(|(blob, _)| blob);
    at_once.locate_all(of_deltas.clone().collect());
    at_once.locate_bases();
    for blob in of_deltas {
        assert_eq!(at_once.first_read(&blob).unwrap(), one_by_one.first_read(&blob).unwrap());
    }
}

#[test]
fn a_small_change_costs_little_and_is_read_against_what_was_there() {
    let source = tempfile::tempdir().unwrap();
    let store = Store::memory();
    let repository = create(store.clone(), small_settings(), None);
    write_version(source.path(), 0);
    back_up(&repository, source.path());
    let before = pack_bytes(&store);
    write_version(source.path(), 1);
    back_up(&repository, source.path());
    let found = deltas(&repository);
    assert!(found.len() >= 3, "{found:?}");
    // Each of the three changed chunks has 4096 bytes on average.
    assert!(pack_bytes(&store) - before < 4_000, "{} bytes more", pack_bytes(&store) - before);
    for (_, delta) in found {
        let bases = repository.cache().bases(&delta).unwrap();
        assert!((1..=16).contains(&bases.len()));
        for base in bases {
            assert!(
                repository.cache().base_outside(&base, &Excluded::default()).unwrap().is_some()
            );
        }
    }
    assert_found_alike(&repository);
    assert_eq!(checked(&repository, DataSelection::All).damage, []);
}

#[test]
fn deltas_are_made_where_reading_is_cheap_or_when_told_so() {
    let memory = || Operator::new(opendal::services::Memory::default()).unwrap();
    let cases = [
        (Deltas::Never, true, false),
        (Deltas::Auto, true, true),
        (Deltas::Auto, false, false),
        (Deltas::Always, false, true),
    ];
    for (deltas_wanted, is_cheap, expected) in cases {
        let source = tempfile::tempdir().unwrap();
        let store = Store::direct(memory(), "memory", is_cheap);
        let repository = create(store, small_settings(), None);
        for version in 0..2 {
            write_version(source.path(), version);
            let options = BackupOptions { deltas: deltas_wanted, ..options() };
            back_up_with(&repository, source.path(), &options, &SilentMonitor).unwrap();
        }
        let found = !deltas(&repository).is_empty();
        assert_eq!(found, expected, "{deltas_wanted:?}, cheap: {is_cheap}");
    }
}

#[test]
fn bases_stay_when_their_snapshot_goes_and_deltas_stay_deltas_when_packs_are_copied() {
    let source = tempfile::tempdir().unwrap();
    let (store, repository) = two_versions(source.path());
    let kept = snapshots(&repository).remove(1);
    let wanted = contents(&repository, &kept.1);
    // Something that leaves its packs half empty.
    fs::write(source.path().join("passing"), noise(50_000, 77)).unwrap();
    back_up(&repository, source.path());
    let passing = snapshots(&repository).remove(2).0;
    repository.forget(&[snapshots(&repository)[0].0, passing], "test").unwrap();
    let before = (deltas(&repository).len(), pack_bytes(&store));
    for _ in 0..3 {
        pruned(&repository, &tight());
    }
    let repository = open(store.clone(), None);
    assert!(contents(&repository, &kept.1) == wanted);
    assert_eq!(deltas(&repository).len(), before.0);
    assert!(pack_bytes(&store) < before.1);
    let now = checked(&repository, DataSelection::All);
    assert_eq!(now.damage, []);
    assert_eq!(now.unreferenced_packs, 0, "what bases stand in is needed");
    let again = pruned(&repository, &tight());
    assert_eq!((again.packs_deleted, again.bytes_written), (0, 0), "there is nothing left to do");
    // When nobody needs the deltas, nobody needs their bases.
    repository.forget(&[kept.0], "test").unwrap();
    for _ in 0..2 {
        pruned(&repository, &tight());
    }
    assert_eq!(pack_bytes(&store), 0);
}

#[test]
fn a_base_that_is_gone_is_told_with_every_file_that_needs_it_and_a_backup_heals_that() {
    let source = tempfile::tempdir().unwrap();
    let (store, repository) = two_versions(source.path());
    repository.forget(&[snapshots(&repository)[0].0], "test").unwrap();
    let kept = snapshots(&repository).remove(0);
    let wanted = contents(&repository, &kept.1);
    drop(repository);
    let packs = packs_of_bases(&fresh(&store));
    for name in &packs {
        store.delete(name).unwrap();
    }
    for data in [DataSelection::None, DataSelection::All] {
        let told = format!("{:?}", checked(&fresh(&store), data).damage);
        for number in 0..3 {
            assert!(told.contains(&format!("/tree/file-{number}")), "{told}");
        }
    }
    let repository = fresh(&store);
    back_up(&repository, source.path());
    assert!(contents(&fresh(&store), &kept.1) == wanted);
    assert_eq!(checked(&fresh(&store), DataSelection::All).damage, []);
}

#[test]
fn what_is_left_of_deltas_that_nobody_needs_is_no_damage() {
    let source = tempfile::tempdir().unwrap();
    let store = Store::memory();
    // Packs in which something else keeps the deltas.
    let settings = Settings { pack_length: 512 << 10, ..small_settings() };
    let repository = create(store.clone(), settings, None);
    write_version(source.path(), 0);
    back_up(&repository, source.path());
    write_version(source.path(), 1);
    fs::write(source.path().join("kept"), noise(60_000, 5)).unwrap();
    back_up(&repository, source.path());
    let found = deltas(&repository).len();
    assert!(found > 0);
    for number in 0..3 {
        fs::remove_file(source.path().join(format!("file-{number}"))).unwrap();
    }
    back_up(&repository, source.path());
    let gone: Vec<_> = snapshots(&repository)[..2].iter().map(|(id, _)| *id).collect();
    repository.forget(&gone, "test").unwrap();
    // Nothing is copied, so the deltas stay where they are; their bases go.
    for _ in 0..2 {
        let mut options = tight();
        options.limits.max_unused = UnusedLimit::Unlimited;
        pruned(&repository, &options);
    }
    let repository = fresh(&store);
    assert!(!has_bases(&repository), "the bases are swept");
    // The blobs of the deltas are met again: stored anew, and plainly.
    write_version(source.path(), 1);
    back_up(&repository, source.path());
    let repository = fresh(&store);
    for data in [DataSelection::None, DataSelection::All] {
        assert_eq!(checked(&repository, data).damage, []);
    }
    assert!(repository.damaged_packs().unwrap().is_empty());
    let last = snapshots(&repository).pop().unwrap();
    assert_eq!(contents(&repository, &last.1)[&b"/tree/kept"[..]], noise(60_000, 5));
    assert_eq!(contents(&repository, &last.1).len(), 5);
}

/// Whether any delta that the index lists has all its bases.
fn has_bases(repository: &Repository) -> bool {
    let cache = repository.cache();
    deltas(repository).iter().any(|(_, delta)| {
        let bases = cache.bases(delta).unwrap();
        bases.iter().all(|base| cache.base_outside(base, &Excluded::default()).unwrap().is_some())
    })
}

/// Opened by somebody without a cache, the index loaded.
fn fresh(store: &Store) -> Repository {
    let repository = open(store.clone(), None);
    repository.refresh_index(&SilentMonitor).unwrap();
    repository
}

/// The index of a client that has every pack in it, with each base in the place of another.
fn confuse_bases(repository: &Repository) {
    let cache = repository.cache();
    let bases = deltas(repository).into_iter().flat_map(|(_, delta)| cache.bases(&delta).unwrap());
    let bases: BTreeSet<BlobId> = bases.collect();
    assert!(bases.len() > 1, "{bases:?}");
    let others = bases.iter().cycle().skip(1);
    let others: BTreeMap<&BlobId, &BlobId> = bases.iter().zip(others).collect();
    let indexes: Vec<_> = cache.indexes().unwrap().into_iter().collect();
    let read = |(_, pack): (u32, PackInfo)| {
        repository.read_pack_directory(pack.id, pack.object_length).unwrap()
    };
    let mut records: Vec<PackRecord> = cache.packs().unwrap().into_iter().map(read).collect();
    let segments = records.iter_mut().flat_map(|pack| &mut pack.directory.segments);
    for blob in segments.filter(|one| !one.encoding.is_delta()).flat_map(|one| &mut one.blobs) {
        if let Some(other) = others.get(&blob.id) {
            blob.id = **other;
        }
    }
    cache.clear().unwrap();
    cache.add(&indexes, &records).unwrap();
}

#[test]
fn a_delta_that_was_read_against_another_base_is_noticed_and_leaves_no_wrong_byte() {
    let source = tempfile::tempdir().unwrap();
    let (store, repository) = two_versions(source.path());
    let newest = snapshots(&repository).pop().unwrap();
    let wanted = contents(&repository, &newest.1);
    confuse_bases(&repository);
    let target = tempfile::tempdir().unwrap();
    let monitor = RecordingMonitor::default();
    let summary =
        restore(&repository, &newest, target.path(), &restore_options(), &monitor).unwrap();
    // Each of the three has a chunk that is a delta.
    assert_eq!((summary.entries_failed, summary.files_restored), (3, 0));
    let problems = monitor.problems();
    assert!(
        problems.iter().all(|problem| problem.message.contains("holds another blob")),
        "{problems:?}"
    );
    // Nothing of it is in the repository.
    assert_eq!(contents(&fresh(&store), &newest.1), wanted);
}

#[test]
fn a_base_that_was_lost_and_is_met_again_is_stored_so_that_its_deltas_can_be_read() {
    let source = tempfile::tempdir().unwrap();
    let (store, repository) = two_versions(source.path());
    let kept = snapshots(&repository).remove(1);
    let wanted = contents(&repository, &kept.1);
    for name in packs_of_bases(&repository) {
        store.delete(&name).unwrap();
    }
    // The old version is in its place again, and what it would be a delta against, too.
    write_version(source.path(), 0);
    back_up(&fresh(&store), source.path());
    assert!(contents(&fresh(&store), &kept.1) == wanted);
}

#[test]
fn a_lost_plain_copy_is_stored_again_though_a_delta_of_it_can_be_read() {
    let source = tempfile::tempdir().unwrap();
    let store = Store::memory();
    let first = create(store.clone(), small_settings(), None);
    let mut bytes = noise(900, 1);
    fs::write(source.path().join("old"), &bytes).unwrap();
    back_up(&first, source.path());
    // Two writers at once: one stores it plainly, the other as a delta.
    let second = open(store.clone(), None);
    let writer = Writer::begin(&second, false, &SilentMonitor).unwrap();
    let base = second.naming().data_id(&bytes);
    bytes[400..420].copy_from_slice(&noise(20, 2));
    fs::write(source.path().join("new"), &bytes).unwrap();
    back_up(&first, source.path());
    let reader = BlobReader::new(&second, 1 << 20);
    let mut segments = writer.segments(ObjectKind::DataPack).unwrap();
    let (id, is_new) = segments.claim(&bytes).unwrap();
    assert!(is_new);
    let mut gathered = writer.deltas(&reader);
    gathered.push(id, &bytes, &[base], &mut segments).unwrap();
    gathered.flush(&mut segments).unwrap();
    segments.flush().unwrap();
    drop((gathered, segments));
    writer.finish().unwrap();
    second.abort(writer.session()).unwrap();
    let plain = first.cache().base_outside(&id, &Excluded::default()).unwrap().unwrap();
    let _ = first.refresh_index(&SilentMonitor).unwrap();
    assert_eq!(first.cache().copies(&id).unwrap().len(), 2);
    assert_found_alike(&first);
    store.delete(&layout::pack(first.cache().pack(plain.pack).unwrap().id)).unwrap();

    let third = fresh(&store);
    assert!(deltas(&third).iter().any(|(delta, _)| *delta == id));
    assert_found_alike(&third);
    back_up(&third, source.path());
    let monitor = RecordingMonitor::default();
    back_up_with(&third, source.path(), &options(), &monitor).unwrap();
    assert_eq!(monitor.notes(), [""; 0], "it stands plainly again");
    let missing = third.cache().excluding(third.missing_packs().unwrap()).unwrap();
    assert!(third.cache().base_outside(&id, &missing).unwrap().is_some());
}

/// Flips bits all over an object.
fn damage(store: &Store, name: &str) {
    let mut bytes = store.get(name).unwrap();
    for at in (200..bytes.len()).step_by(1000) {
        bytes[at] ^= 1;
    }
    store.delete(name).unwrap();
    store.create(name, bytes).unwrap();
}

#[test]
fn where_a_base_cannot_be_read_what_is_new_is_stored_plainly() {
    for is_damaged in [false, true] {
        let source = tempfile::tempdir().unwrap();
        let store = Store::memory();
        let repository = create(store.clone(), small_settings(), None);
        write_version(source.path(), 0);
        back_up(&repository, source.path());
        let entries = || repository.cache().entries().unwrap().map(Result::unwrap);
        let before: Vec<_> = entries().collect();
        // Trees stay, so that the backup knows what stood in whose place.
        let pack = |location: &Location| repository.cache().pack(location.pack).unwrap();
        let packs = before.iter().map(|(_, location)| pack(location));
        let of_data = packs.filter(|pack| pack.kind == ObjectKind::DataPack);
        let of_data: BTreeSet<String> = of_data.map(|pack| layout::pack(pack.id)).collect();
        of_data.iter().filter(|_| is_damaged).for_each(|name| damage(&store, name));
        write_version(source.path(), 1);
        back_up(&repository, source.path());
        assert_eq!(deltas(&repository).is_empty(), is_damaged);
        let new = entries().filter(|entry| !before.contains(entry));
        let new: Vec<_> = new
            .filter(|(_, location)| pack(location).kind == ObjectKind::DataPack)
            .map(|(id, _)| id)
            .collect();
        assert!(new.len() >= 3, "{new:?}");
        let repository = fresh(&store);
        let reader = BlobReader::new(&repository, 1 << 20);
        for id in new {
            reader.data(&id).unwrap();
        }
    }
}

#[test]
fn on_a_disk_where_bases_are_fetched_ahead_every_version_is_whole() {
    let (source, place) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = Store::local(&place.path().join("store"), LocalMode::Create).unwrap();
    let repository = create(store, small_settings(), None);
    for version in 0..4 {
        for number in 0..40 {
            let mut bytes = noise(60_000, number);
            for at in (0..60_000).step_by(5_000) {
                bytes[at] ^= version as u8;
            }
            fs::write(source.path().join(format!("file-{number}")), bytes).unwrap();
        }
        back_up(&repository, source.path());
    }
    assert!(deltas(&repository).len() > 1_000);
    assert_eq!(checked(&repository, DataSelection::All).damage, []);
}

#[test]
fn what_was_not_worth_a_delta_is_not_tried_again_for_a_while() {
    let store = Store::memory();
    let repository = create(store, small_settings(), None);
    let before = Writer::begin(&repository, false, &SilentMonitor).unwrap();
    let mut segments = before.segments(ObjectKind::DataPack).unwrap();
    let old: Vec<Vec<u8>> = (0..1_000).map(|number| noise(4_000, number)).collect();
    let bases: Vec<BlobId> = old.iter().map(|bytes| segments.put(bytes).unwrap().0).collect();
    segments.flush().unwrap();
    drop(segments);
    before.finish().unwrap();
    let writer = Writer::begin(&repository, false, &SilentMonitor).unwrap();
    let mut segments = writer.segments(ObjectKind::DataPack).unwrap();
    let reader = BlobReader::new(&repository, 1 << 20);
    let mut gathered = writer.deltas(&reader);
    // As many as two deltas hold are nothing like what stood there, and all others are.
    let new: Vec<BlobId> = (0..1_000)
        .map(|number| {
            let mut bytes = old[number].clone();
            bytes[0] ^= 1;
            if number < 32 {
                bytes = noise(4_000, 5_000 + number as u64);
            }
            let (id, is_new) = segments.claim(&bytes).unwrap();
            assert!(is_new);
            gathered.push(id, &bytes, &bases[number..=number], &mut segments).unwrap();
            id
        })
        .collect();
    gathered.flush(&mut segments).unwrap();
    segments.flush().unwrap();
    drop((gathered, segments));
    writer.finish().unwrap();
    repository.abort(before.session()).unwrap();
    let is_delta: Vec<bool> =
        new.iter().map(|id| repository.cache().lookup(id).unwrap().unwrap().is_delta).collect();
    // The first delta is known not to be worth it when the third begins: half a mebibyte, and then three times as much.
    assert!(is_delta[..32].iter().all(|is_delta| !is_delta));
    assert!(is_delta[33..140].iter().all(|is_delta| !is_delta));
    assert!(is_delta[182..570].iter().all(|is_delta| !is_delta));
    assert!(is_delta[600..].iter().all(|is_delta| *is_delta));
}

/// What is kept is told by how often the store is read: `segments` has which of them goes, and this that it is told all.
#[test]
fn a_base_that_is_still_needed_is_not_fetched_again_because_its_delta_is() {
    let control = FaultControl::new();
    let store = Store::memory().with_faults(control.clone());
    let repository = create(store, small_settings(), None);
    let before = Writer::begin(&repository, false, &SilentMonitor).unwrap();
    let mut segments = before.segments(ObjectKind::DataPack).unwrap();
    let mut segment_of = |numbers: std::ops::Range<u64>| -> Vec<BlobId> {
        let ids = numbers.map(|number| segments.put(&noise(1_000, number)).unwrap().0).collect();
        segments.flush().unwrap();
        ids
    };
    let (bases, other, last) = (segment_of(0..4), segment_of(100..112), segment_of(200..213));
    drop(segments);
    before.finish().unwrap();
    let writer = Writer::begin(&repository, false, &SilentMonitor).unwrap();
    let mut segments = writer.segments(ObjectKind::DataPack).unwrap();
    let old = BlobReader::new(&repository, 1 << 20);
    let mut gathered = writer.deltas(&old);
    let change = |number: usize| {
        let mut bytes = noise(1_000, number as u64);
        bytes[0] ^= 1;
        let (id, _) = segments.claim(&bytes).unwrap();
        gathered.push(id, &bytes, &bases[number..=number], &mut segments).unwrap();
        id
    };
    let new: Vec<BlobId> = (0..4).map(change).collect();
    gathered.flush(&mut segments).unwrap();
    segments.flush().unwrap();
    drop((gathered, segments));
    writer.finish().unwrap();
    assert!(new.iter().all(|id| repository.cache().lookup(id).unwrap().unwrap().is_delta));

    // There is room for the bases and the other segment, and not for the delta beside them, nor for the last one.
    let reader = BlobReader::new(&repository, 16_500);
    let order = [new[0], other[0], bases[0], new[1], bases[1], last[0]];
    let fetches = |reader: &BlobReader<'_>, blobs: &[BlobId]| -> Vec<u64> {
        let read = |id| {
            let before = control.reads();
            reader.data(id).unwrap();
            control.reads() - before
        };
        blobs.iter().map(read).collect()
    };
    reader.await_only(&order);
    assert_eq!(fetches(&reader, &order), [2, 1, 0, 1, 0, 1]);
    // What was read last stays for what is said next, if that needs it.
    reader.await_only(&last[1..2]);
    assert_eq!(fetches(&reader, &last[1..2]), [0]);

    // Of a delta that is open the bases are not awaited: they go when they were read themselves.
    let reader = BlobReader::new(&repository, 16_500);
    reader.await_only(&new[..2]);
    assert_eq!(fetches(&reader, &new[..1]), [2]);
    reader.await_only(&[bases[0], new[1], other[0], last[0]]);
    assert_eq!(fetches(&reader, &[bases[0], bases[1]]), [0, 1]);
}

#[test]
fn a_damaged_base_does_not_condemn_the_packs_of_its_deltas() {
    let source = tempfile::tempdir().unwrap();
    let (store, repository) = two_versions(source.path());
    let of_deltas: BTreeSet<String> = deltas(&repository)
        .iter()
        .map(|(_, place)| layout::pack(repository.cache().pack(place.pack).unwrap().id))
        .collect();
    let of_bases = packs_of_bases(&repository);
    assert!(of_deltas.is_disjoint(&of_bases));
    of_bases.iter().for_each(|name| damage(&store, name));
    let summary = checked(&fresh(&store), DataSelection::All);
    assert!(!summary.damage.is_empty());
    let recorded = fresh(&store).damaged_packs().unwrap();
    let recorded: BTreeSet<String> = recorded.iter().map(|pack| layout::pack(*pack)).collect();
    assert_eq!(recorded, of_bases);
}

/// Three files of hexadecimal digits, which shrink to half; in version 1 a few of each are other ones.
fn write_digits(folder: &Path, version: u64) {
    let digits =
        |bytes: Vec<u8>| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    for number in 0..3 {
        let mut text = digits(noise(15_000, number));
        let at = 7_000 * (number as usize + 1);
        text.replace_range(at..at + 40, &digits(noise(20, 100 * version + number)));
        fs::write(folder.join(format!("file-{number}")), text).unwrap();
    }
}

/// Checks all packs, and tells which are on record as proven, and which there are.
fn proven(store: &Store, damage_expected: bool) -> (BTreeSet<String>, BTreeSet<String>) {
    let repository = fresh(store);
    let summary = checked(&repository, DataSelection::All);
    assert_eq!(!summary.damage.is_empty(), damage_expected, "{:?}", summary.damage);
    let proven = repository.cache().proven().unwrap().into_keys();
    let packs = store.list(layout::PACKS).unwrap().into_iter().map(|object| object.name);
    (proven.map(layout::pack).collect(), packs.collect())
}

#[test]
fn what_is_proven_when_it_is_opened_for_a_delta_is_on_record_as_everything_else() {
    let source = tempfile::tempdir().unwrap();
    let store = Store::memory();
    let repository = create(store.clone(), small_settings(), None);
    for version in 0..2 {
        write_digits(source.path(), version);
        back_up(&repository, source.path());
    }
    let cache = repository.cache();
    let mut bases =
        deltas(&repository).into_iter().flat_map(|(_, delta)| cache.bases(&delta).unwrap());
    let is_compressed = |base: BlobId| {
        let place = cache.base_outside(&base, &Excluded::default()).unwrap().unwrap();
        let pack = cache.pack(place.pack).unwrap();
        pack.segments[place.segment as usize].encoding == Encoding::Zstd
    };
    assert!(bases.any(is_compressed));
    let (proven_packs, packs) = proven(&store, false);
    assert!(packs.len() > 2);
    assert_eq!(proven_packs, packs);

    // Nobody opens the bases of deltas that are gone: their packs are read once more.
    let of_deltas: BTreeSet<String> = deltas(&repository)
        .iter()
        .map(|(_, place)| layout::pack(cache.pack(place.pack).unwrap().id))
        .collect();
    let of_bases = packs_of_bases(&repository);
    assert!(of_deltas.is_disjoint(&of_bases));
    of_deltas.iter().for_each(|name| store.delete(name).unwrap());
    let (proven_packs, packs) = proven(&store, true);
    assert!(of_bases.is_subset(&packs));
    assert_eq!(proven_packs, packs);
}

/// What happens to a file between two backups.
#[derive(Debug, Clone)]
enum Edit {
    Overwrite(Index, usize, u64),
    Insert(Index, usize, u64),
    Remove(Index, usize),
    Move(Index, Index, usize),
    Append(usize, u64),
    Truncate(Index),
}

fn edits() -> impl Strategy<Value = Edit> {
    let index = any::<Index>;
    prop_oneof![
        3 => (index(), 1..3_000usize, any::<u64>()).prop_map(|(at, n, seed)| Edit::Overwrite(at, n, seed)),
        3 => (index(), 1..3_000usize, any::<u64>()).prop_map(|(at, n, seed)| Edit::Insert(at, n, seed)),
        2 => (index(), 1..3_000usize).prop_map(|(at, n)| Edit::Remove(at, n)),
        2 => (index(), index(), 1..20_000usize).prop_map(|(from, to, n)| Edit::Move(from, to, n)),
        1 => (1..20_000usize, any::<u64>()).prop_map(|(n, seed)| Edit::Append(n, seed)),
        1 => index().prop_map(Edit::Truncate),
        1 => Just(Edit::Append(0, 0)),
    ]
}

fn apply(bytes: &mut Vec<u8>, edit: &Edit) {
    let place = |index: &Index, length: usize| index.index(length + 1);
    let length = bytes.len();
    match edit {
        Edit::Overwrite(at, count, seed) => {
            let at = place(at, length);
            let end = length.min(at + count);
            bytes[at..end].copy_from_slice(&noise(end - at, *seed));
        }
        Edit::Insert(at, count, seed) => {
            let at = place(at, length);
            bytes.splice(at..at, noise(*count, *seed));
        }
        Edit::Remove(at, count) => {
            let at = place(at, length);
            bytes.drain(at..length.min(at + count));
        }
        Edit::Move(from, to, count) => {
            let from = place(from, length);
            let moved: Vec<u8> = bytes.drain(from..length.min(from + count)).collect();
            let to = place(to, bytes.len());
            bytes.splice(to..to, moved);
        }
        Edit::Append(count, seed) => bytes.extend(noise(*count, *seed)),
        Edit::Truncate(at) => bytes.truncate(place(at, length)),
    }
}

#[test]
fn whatever_is_edited_every_version_is_read_back_and_every_delta_is_bounded() {
    let versions =
        proptest::collection::vec(proptest::collection::vec((0..4usize, edits()), 1..4), 1..6);
    let seen = std::cell::Cell::new(0);
    for_all(24, versions, |versions| {
        let source = tempfile::tempdir().unwrap();
        let repository = create(Store::memory(), small_settings(), None);
        let mut files: Vec<Vec<u8>> =
            [600, 9_000, 60_000, 150_000].map(|length| noise(length, length as u64)).into();
        let mut wanted: Vec<BTreeMap<Vec<u8>, Vec<u8>>> = Vec::new();
        let first = [Vec::new()];
        for edits in first.iter().chain(&versions) {
            for (file, edit) in edits {
                apply(&mut files[*file], edit);
            }
            for (number, bytes) in files.iter().enumerate() {
                fs::write(source.path().join(number.to_string()), bytes).unwrap();
            }
            back_up(&repository, source.path());
            let file = |(number, bytes): (usize, &Vec<u8>)| {
                (format!("/tree/{number}").into_bytes(), bytes.clone())
            };
            wanted.push(files.iter().enumerate().map(file).collect());
        }
        let cache = repository.cache();
        for (_, delta) in deltas(&repository) {
            seen.set(seen.get() + 1);
            let bases = cache.bases(&delta).unwrap();
            let places = bases.iter().map(|base| cache.base_outside(base, &Excluded::default()));
            let places: Vec<_> = places.map(|place| place.unwrap().unwrap()).collect();
            let segments: BTreeSet<_> =
                places.iter().map(|place| (place.pack, place.segment)).collect();
            let bytes: u64 = places.iter().map(|place| u64::from(place.length)).sum();
            assert!(bases.len() <= 16 && segments.len() <= 8 && bytes <= 2 << 20);
        }
        for ((_, snapshot), wanted) in snapshots(&repository).iter().zip(&wanted) {
            let mut found = contents(&repository, snapshot);
            found.retain(|path, _| path.len() > b"/tree".len());
            assert!(found == *wanted);
        }
        assert_eq!(checked(&repository, DataSelection::All).damage, []);
    });
    assert!(seen.get() > 50, "{} deltas were made", seen.get());
}
