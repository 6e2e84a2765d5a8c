//! Space comes back where packs cannot be read, and where no room is left to say so.

use std::fs;
use std::path::Path;
use std::time::Duration;

use aumbry::format::header::{HEADER_LENGTH, Header, ObjectKind};
use aumbry::format::session::Purpose;
use aumbry::id::{IndexId, PackId, SessionId, SnapshotId};
use aumbry::monitor::SilentMonitor;
use aumbry::ops::backup::backup;
use aumbry::ops::check::{CheckOptions, CheckSummary, DataSelection, check};
use aumbry::ops::prune::{PruneOptions, prune};
use aumbry::ops::rekey::{Change, RekeyOptions, plan as plan_rekey, rekey};
use aumbry::ops::repair::{RepairOptions, repair_index};
use aumbry::repository::Repository;
use aumbry::repository::index::PackInfo;
use aumbry::repository::writer::Writer;
use aumbry::store::{FaultControl, LocalMode, ObjectInfo, Store, layout};

use tempfile::TempDir;

use crate::model::{assert_same, create_quick, folder_contents, open_quick};
use crate::prune::{Eventful, assert_whole, files, impatient, pruned, tight, write_files};
use crate::support::{back_up, back_up_with, contents, noise, options, snapshots};

fn replace(store: &Store, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
    let mut object = store.get(name).unwrap();
    change(&mut object);
    store.delete(name).unwrap();
    store.create(name, object).unwrap();
}

fn cut(store: &Store, name: &str) {
    replace(store, name, |object| object.truncate(object.len() / 2));
}

fn packs(store: &Store) -> Vec<String> {
    store.list(layout::PACKS).unwrap().into_iter().map(|object| object.name).collect()
}

fn checked(store: &Store) -> CheckSummary {
    let options = CheckOptions {
        data: DataSelection::All,
        restore_sample: 0,
        share_ledger: false,
        memory_budget: 64 << 20,
    };
    check(&open_quick(store.clone(), None), &options, &SilentMonitor).unwrap()
}

/// A repository with a backup of twenty files.
fn scene(folder: &Path) -> (Store, Repository) {
    let store = Store::memory();
    let repository = create_quick(store.clone(), None);
    write_files(folder, 0..20, 1);
    back_up(&repository, folder);
    (store, repository)
}

/// Packs of a session that ended without a snapshot and without an index object, as a backup leaves them that died.
fn leave_packs(store: &Store, seed: u64) -> Vec<String> {
    let before = packs(store);
    let dying = open_quick(store.clone(), None);
    let writer = Writer::begin(&dying, false, &SilentMonitor).unwrap();
    let mut segments = writer.segments(ObjectKind::DataPack).unwrap();
    for number in 0..60 {
        segments.put(&noise(10_000, seed + number)).unwrap();
    }
    segments.flush().unwrap();
    drop(segments);
    writer.finish().unwrap();
    for object in store.list(layout::INDEX).unwrap() {
        let index: IndexId = layout::parse_index(&object.name).unwrap();
        if index.session == writer.session() {
            store.delete(&object.name).unwrap();
        }
    }
    dying.abort(writer.session()).unwrap();
    let mut left = packs(store);
    left.retain(|name| !before.contains(name));
    assert!(left.len() > 7);
    left
}

#[test]
fn a_pack_that_was_cut_short_heals_goes_and_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    for kind in [ObjectKind::DataPack, ObjectKind::TreePack] {
        let (store, repository) = scene(folder.path());
        let is_kind = |name: &String| store.get(name).unwrap()[10] == kind as u8;
        let name = packs(&store).into_iter().find(is_kind).unwrap();
        cut(&store, &name);
        // Needed from nowhere else: it stays, and nothing else goes either.
        let error = prune(&repository, &tight(), &SilentMonitor).unwrap_err();
        assert!(error.to_string().contains("nothing is collected"), "{error}");
        assert!(store.list(layout::GC).unwrap().iter().all(|it| !it.name.ends_with("condemned")));
        let found = checked(&store);
        assert!(found.damage.iter().any(|damage| damage.item == name), "{:?}", found.damage);
        back_up(&repository, folder.path());
        let healed = checked(&store);
        assert_eq!(healed.damage, []);
        assert!(healed.notes.iter().any(|note| note.starts_with(&name)), "{:?}", healed.notes);

        let summary = pruned(&repository, &tight());
        assert_eq!(summary.plan.unwrap().drop_unreadable, 1);
        assert_eq!(store.size(&name).unwrap(), None);
        repository.merge_indexes(&SilentMonitor).unwrap();
        assert_eq!(store.list(layout::DAMAGED).unwrap(), []);
        let summary = checked(&store);
        assert_eq!(summary.damage, []);
        // The index object that listed it may still do so.
        let mut notes = summary.notes.iter();
        assert!(notes.all(|note| note.contains("is gone")), "{:?}", summary.notes);
        let again = pruned(&repository, &tight());
        assert!(again.generations.is_empty() && again.plan.unwrap().drop.is_empty());
    }
}

#[test]
fn merging_keeps_saying_what_was_in_a_pack_that_was_cut_short() {
    let folder = tempfile::tempdir().unwrap();
    let (store, repository) = scene(folder.path());
    let name = packs(&store).remove(0);
    let id: PackId = layout::parse_pack(&name).unwrap();
    cut(&store, &name);
    for version in 0..12 {
        write_files(folder.path(), 30..31, version);
        back_up(&repository, folder.path());
    }
    assert!(repository.merge_indexes(&SilentMonitor).unwrap().removed > 8);
    let lists = |object: &ObjectInfo| {
        let index = repository.read_index(layout::parse_index(&object.name).unwrap()).unwrap();
        index.packs.iter().any(|pack| pack.id == id)
    };
    assert!(store.list(layout::INDEX).unwrap().iter().any(lists));
    // Found first, and recorded; then known to have healed.
    checked(&store);
    assert_eq!(checked(&store).damage, []);
}

#[test]
fn parts_of_uploads_and_packs_with_damaged_directories_go_with_the_next_collection() {
    let folder = tempfile::tempdir().unwrap();
    let (store, repository) = scene(folder.path());
    let before = packs(&store);
    let left = leave_packs(&store, 1000);
    replace(&store, &left[0], |object| object.truncate(object.len() / 3));
    replace(&store, &left[1], |object| object.truncate(40));
    replace(&store, &left[2], |object| object.clear());
    replace(&store, &left[3], |object| object[0] ^= 1);
    // Its header, in the repository's name and in the commitment; and its directory.
    for (name, byte) in left[4..].iter().zip([20, 100]) {
        replace(&store, name, |object| object[byte] ^= 1);
    }
    replace(&store, left.last().unwrap(), |object| *object.last_mut().unwrap() ^= 1);
    let dry = pruned(&repository, &PruneOptions { dry_run: true, ..tight() });
    assert_eq!(dry.packs_before, (before.len() + left.len()) as u64);
    let bytes: u64 = left.iter().map(|name| store.size(name).unwrap().unwrap()).sum();
    assert_eq!((dry.plan.unwrap().drop_bytes, dry.unused_before), (bytes, bytes));
    assert_ne!(repair_index_leaves(&repository), 0);
    let summary = pruned(&repository, &tight());
    assert!(summary.plan.unwrap().drop_unreadable >= 6);
    assert_eq!(packs(&store), before);
    assert_eq!(repair_index_leaves(&repository), 0);
    let summary = checked(&store);
    assert_eq!((summary.damage, summary.notes), (vec![], vec![]));
}

/// How many packs a repair of the index cannot read.
fn repair_index_leaves(repository: &Repository) -> usize {
    let options = RepairOptions {
        dry_run: true,
        read_data: false,
        forget_originals: false,
        no_collector_runs: false,
        program: String::new(),
        memory_budget: 64 << 20,
    };
    repair_index(repository, &options, &SilentMonitor).unwrap().unreadable.len()
}

#[test]
fn packs_that_a_later_version_another_key_or_another_repository_can_read_are_left() {
    let folder = tempfile::tempdir().unwrap();
    let (store, repository) = scene(folder.path());
    let before = packs(&store);
    let left = leave_packs(&store, 1000);
    // A kind and a version that do not exist yet; an epoch that this keyring does not have.
    for (name, (byte, value)) in left.iter().zip([(10, 77), (8, 9), (12, 5)]) {
        replace(&store, name, |object| object[byte] = value);
    }
    let other = Store::memory();
    create_quick(other.clone(), None);
    let foreign = leave_packs(&other, 2000).remove(0);
    store.create(&foreign, other.get(&foreign).unwrap()).unwrap();
    pruned(&repository, &tight());
    let mut wanted = [&before[..], &left[..3], &[foreign]].concat();
    wanted.sort();
    assert_eq!(packs(&store), wanted);
}

#[test]
fn what_a_session_that_may_still_commit_has_half_uploaded_is_left() {
    let folder = tempfile::tempdir().unwrap();
    let (store, repository) = scene(folder.path());
    let session = repository.register(Purpose::Write).unwrap();
    let name = layout::pack(PackId { session, number: 0 });
    store.create(&name, vec![0; 5000]).unwrap();
    let patient = PruneOptions::default();
    let plan = pruned(&repository, &patient).plan.unwrap();
    assert_eq!((plan.drop.len(), plan.drop_unreadable), (0, 0));
    assert!(store.size(&name).unwrap().is_some());
    repository.abort(session).unwrap();
    assert_eq!(pruned(&repository, &patient).packs_deleted, 1);
    assert_eq!(store.size(&name).unwrap(), None);
}

#[test]
fn a_pack_that_could_not_be_read_for_a_while_is_spared_when_somebody_needs_it() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = scene(folder.path());
    let before = packs(&store);
    // A backup of another folder that died, and whose registration is gone.
    let elsewhere = tempfile::tempdir().unwrap();
    fs::write(elsewhere.path().join("again"), noise(100_000, 5000)).unwrap();
    let died = back_up(&open_quick(store.clone(), None), elsewhere.path()).snapshot.unwrap().0;
    store.delete(&layout::session(died)).unwrap();
    store.delete(&layout::snapshot(died)).unwrap();
    let mut left = packs(&store);
    left.retain(|name| !before.contains(name));
    // The index is lost, so the writer takes in what no index object lists, and counts on it.
    for object in store.list(layout::INDEX).unwrap() {
        replace(&store, &object.name, |object| object[300] ^= 1);
    }
    fs::write(folder.path().join("again"), noise(100_000, 5000)).unwrap();
    let repository = open_quick(store.clone(), None);
    let other = open_quick(store.clone(), None);
    let mut held = None;
    let event = || {
        let objects: Vec<_> = left.iter().map(|name| store.get(name).unwrap()).collect();
        left.iter().for_each(|name| cut(&store, name));
        let patient = PruneOptions::default();
        held = Some(prune(&other, &patient, &SilentMonitor).unwrap());
        for (name, object) in left.iter().zip(objects) {
            replace(&store, name, |bytes| *bytes = object);
        }
    };
    let mut source = Eventful { inner: files(folder.path()), event: Some(Box::new(event)) };
    let summary = backup(&repository, &mut source, &options(), &SilentMonitor).unwrap();
    drop(source);
    let held = held.unwrap();
    assert_eq!(held.held_by.len(), 1);
    assert_eq!(held.plan.unwrap().drop_unreadable, left.len() as u64);
    let ended = pruned(&other, &impatient());
    assert_eq!(ended.generations, [1], "{ended:?}");
    let spared = left.iter().filter(|name| store.size(name).unwrap().is_some()).count() as u64;
    assert!(spared > 0 && spared == ended.packs_rescued, "{ended:?}");
    assert!(before.iter().all(|name| store.size(name).unwrap().is_some()));
    let fresh = open_quick(store.clone(), None);
    let (id, snapshot) = snapshots(&fresh).pop().unwrap();
    assert_eq!(Some(id), summary.snapshot);
    assert_same(&contents(&fresh, &snapshot), &folder_contents(folder.path()), "spared");
}

#[test]
fn packs_that_come_late_from_an_epoch_whose_key_was_dropped_go() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = scene(folder.path());
    let late = leave_packs(&store, 1000);
    let late: Vec<_> = late
        .iter()
        .map(|name| {
            let id = layout::parse_pack(name).unwrap();
            let random = [0xab; 16];
            let session = SessionId { generation: id.session.generation, random };
            (layout::pack(PackId { session, ..id }), store.get(name).unwrap())
        })
        .collect();
    pruned(&open_quick(store.clone(), None), &tight());
    for change in [Change::NewEpoch, Change::DropOld] {
        let repository = open_quick(store.clone(), None);
        let options = RekeyOptions { change, remove: Vec::new() };
        let plan = plan_rekey(&repository, &options, &SilentMonitor).unwrap();
        rekey(&repository, &plan).unwrap();
        pruned(&open_quick(store.clone(), None), &tight());
        pruned(&open_quick(store.clone(), None), &tight());
    }
    let repository = open_quick(store.clone(), None);
    assert_eq!(repository.sealer().keyring().epochs[0].data_key, None);
    let before = packs(&store);
    for (name, object) in &late {
        assert_eq!(Header::decode(&object[..HEADER_LENGTH]).unwrap().epoch, 1);
        store.create(name, object.clone()).unwrap();
    }
    assert_eq!(pruned(&repository, &tight()).packs_deleted, late.len() as u64);
    assert_eq!(packs(&store), before);
    assert_whole(&store);
}

/// A repository on a disk, with two snapshots of which the first needs packs that the other does not.
struct Disk {
    folder: TempDir,
    store: Store,
    repository: Repository,
    control: FaultControl,
    first: SnapshotId,
    _place: TempDir,
}

fn disk() -> Disk {
    let (folder, place) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let control = FaultControl::new();
    let store = Store::local(place.path(), LocalMode::Open).unwrap();
    let repository = create_quick(store.clone().with_faults(control.clone()), None);
    write_files(folder.path(), 0..40, 1);
    let first = back_up(&repository, folder.path()).snapshot.unwrap();
    // Half of every pack is needed from now on.
    for number in (0..40).step_by(2) {
        fs::remove_file(folder.path().join(format!("file-{number:03}"))).unwrap();
    }
    back_up(&repository, folder.path());
    Disk { folder, store, repository, control, first, _place: place }
}

fn reserve(store: &Store) -> usize {
    let listed = store.list(layout::GC).unwrap();
    listed.iter().filter(|object| layout::parse_reserve(&object.name).is_some()).count()
}

fn bytes(store: &Store) -> u64 {
    store.list("").unwrap().iter().map(|object| object.size).sum()
}

#[test]
fn a_disk_that_is_full_to_the_last_byte_can_be_freed() {
    let Disk { folder, store, repository, control, first, _place } = disk();
    write_files(folder.path(), 100..120, 1);
    let second = back_up(&repository, folder.path()).snapshot.unwrap();
    for number in 100..120 {
        fs::remove_file(folder.path().join(format!("file-{number:03}"))).unwrap();
    }
    back_up(&repository, folder.path());
    let before = bytes(&store);
    control.set_free_bytes(Some(0));
    repository.forget(&[first, second], "").unwrap();
    let summary = pruned(&repository, &tight());
    assert_eq!(summary.stopped, None);
    assert!(summary.packs_deleted > 0 && summary.bytes_written > 0, "{summary:?}");
    assert!(bytes(&store) < before - 300_000);
    let again = pruned(&repository, &tight());
    assert_eq!((again.unused_before, again.stopped), (0, None));
    assert_eq!(reserve(&store), 4, "it is filled again");
    let (_, newest) = snapshots(&repository).pop().unwrap();
    assert_same(&contents(&repository, &newest), &folder_contents(folder.path()), "left");
    assert_whole(&store);
}

#[test]
fn a_backup_that_died_of_a_full_disk_is_given_up_in_the_room_of_the_reserve() {
    let Disk { folder, store, repository, control, first, _place } = disk();
    let cache = tempfile::tempdir().unwrap();
    let client = open_quick(store.clone().with_faults(control.clone()), Some(cache.path()));
    write_files(folder.path(), 100..160, 1);
    control.set_free_bytes(Some(100_000));
    assert!(back_up_with(&client, folder.path(), &options(), &SilentMonitor).is_err());
    assert_eq!(client.undecided_sessions().unwrap().len(), 1);
    // What is left is taken by others.
    control.set_free_bytes(Some(0));
    repository.forget(&[first], "").unwrap();
    let before = pack_bytes(&store);
    let summary = pruned(&client, &tight());
    assert_eq!((summary.fenced, summary.held_by.len()), (1, 0));
    assert!(pack_bytes(&store) < before);
    assert_whole(&store);
}

#[test]
fn forgetting_on_a_full_disk_leaves_what_collecting_takes() {
    let Disk { folder, store, repository, control, first, _place } = disk();
    let mut ids = vec![first];
    for version in 0..3 {
        write_files(folder.path(), 200..220, version);
        ids.push(back_up(&repository, folder.path()).snapshot.unwrap());
    }
    // What the parts that go make room for is taken by others at once.
    control.set_free_bytes(Some(0));
    let mut refused = false;
    for id in &ids[..3] {
        refused |= repository.forget(&[*id], "").is_err();
        control.set_free_bytes(Some(0));
    }
    assert!(refused);
    assert_eq!(reserve(&store), 2);
    let before = pack_bytes(&store);
    let summary = pruned(&repository, &tight());
    assert!(summary.packs_deleted > 0, "{summary:?}");
    assert!(pack_bytes(&store) < before);
    assert_whole(&store);
}

fn pack_bytes(store: &Store) -> u64 {
    store.list(layout::PACKS).unwrap().iter().map(|object| object.size).sum()
}

#[test]
fn where_a_batch_does_not_fit_smaller_ones_are_copied() {
    let Disk { folder: _folder, store, repository, control, first, _place } = disk();
    repository.forget(&[first], "").unwrap();
    let plan = pruned(&repository, &PruneOptions { dry_run: true, ..tight() }).plan.unwrap();
    let free = plan.write_bytes / 2;
    assert!(plan.repack.len() > 6 && free > 128 << 10, "{plan:?}");
    control.set_free_bytes(Some(free));
    let summary = pruned(&repository, &tight());
    assert_eq!(summary.stopped, None);
    assert!(summary.generations.len() >= 3, "{summary:?}");
    assert!(control.free_bytes().unwrap() > free);
    let left = pruned(&repository, &PruneOptions { dry_run: true, ..tight() });
    assert_eq!(left.unused_before, 0);
    assert_whole(&store);
}

#[test]
fn copies_for_which_there_was_no_room_do_not_stay() {
    let Disk { folder: _folder, store, repository, control, first, _place } = disk();
    repository.forget(&[first], "").unwrap();
    // For two or three packs (of 48 to 68 KB each) and some lists, whatever is deleted.
    control.limit_bytes(Some(180_000));
    for part in 0..4 {
        store.delete(&layout::reserve(part)).unwrap();
    }
    let summary = pruned(&repository, &tight());
    assert!(!summary.generations.is_empty(), "{summary:?}");
    // How long the packs are is chance; once in a while not even the list of what is to go finds room, and that is said.
    let stopped = summary.stopped.clone().unwrap();
    let now = pruned(&repository, &PruneOptions { dry_run: true, ..tight() });
    let left = now.plan.unwrap().drop;
    assert!(left.is_empty() || stopped.starts_with("gc/"), "{left:?} {summary:?}");
    assert_whole(&store);
}

#[test]
fn a_list_for_which_there_is_no_room_is_published_in_parts() {
    let Disk { folder: _folder, store, repository, control, first: _, _place } = disk();
    let session = SessionId { generation: 0, random: [7; 16] };
    for number in 0..700 {
        store.create(&layout::pack(PackId { session, number }), vec![1; 100]).unwrap();
    }
    for part in 0..4 {
        store.delete(&layout::reserve(part)).unwrap();
    }
    // Not for 17 KB beside two small objects, and twice for 6 KB.
    control.set_free_bytes(Some(17_000));
    let summary = pruned(&repository, &impatient());
    assert!(summary.generations.len() >= 2, "{summary:?}");
    assert!(summary.packs_deleted >= 700);
    assert_whole(&store);
}

#[test]
fn what_a_collector_copied_that_died_goes_whatever_the_patience_is() {
    let folder = tempfile::tempdir().unwrap();
    let (store, repository) = scene(folder.path());
    let before = packs(&store);
    let dying = open_quick(store.clone(), None);
    let writer = Writer::begin_for(Purpose::Collect, &dying, false, &SilentMonitor).unwrap();
    let mut segments = writer.segments(ObjectKind::DataPack).unwrap();
    segments.put(&noise(10_000, 99)).unwrap();
    segments.flush().unwrap();
    drop(segments);
    writer.finish().unwrap();
    drop(writer);
    assert!(packs(&store) != before);
    let patient = PruneOptions::default();
    assert!(pruned(&repository, &patient).generations.is_empty(), "it may live");
    assert_eq!(pruned(&repository, &patient).generations, [1]);
    pruned(&repository, &patient);
    assert_eq!(packs(&store), before);
    assert_whole(&store);
}

#[test]
fn two_looks_of_one_run_are_not_two_runs() {
    let Disk { folder: _folder, store, repository, control: _, first, _place } = disk();
    repository.forget(&[first], "").unwrap();
    let dying = open_quick(store.clone(), None);
    let writer = Writer::begin(&dying, false, &SilentMonitor).unwrap();
    let mut segments = writer.segments(ObjectKind::DataPack).unwrap();
    segments.put(&noise(10_000, 99)).unwrap();
    segments.flush().unwrap();
    drop(segments);
    writer.finish().unwrap();
    let hasty = PruneOptions { patience: Duration::from_nanos(1), ..tight() };
    let summary = pruned(&repository, &hasty);
    assert_eq!((summary.fenced, summary.held_by.len()), (0, 1), "{summary:?}");
    let summary = pruned(&repository, &hasty);
    assert_eq!((summary.fenced, summary.held_by.len()), (1, 0), "{summary:?}");
}

#[test]
fn what_a_plan_says_of_requests_is_about_what_is_made() {
    for compressible in [false, true] {
        let control = FaultControl::new();
        let store = Store::memory().with_faults(control.clone());
        let repository = create_quick(store.clone(), None);
        let folder = tempfile::tempdir().unwrap();
        for number in 0..200_u64 {
            let mut bytes = noise(6000, number);
            if compressible {
                bytes.iter_mut().for_each(|byte| *byte &= 3);
            }
            fs::write(folder.path().join(format!("{number:03}")), bytes).unwrap();
        }
        let first = back_up(&repository, folder.path()).snapshot.unwrap();
        for number in (0..200).step_by(2) {
            fs::remove_file(folder.path().join(format!("{number:03}"))).unwrap();
        }
        back_up(&repository, folder.path());
        repository.forget(&[first], "").unwrap();
        let counts = || [control.reads(), control.creates(), control.deletes()];
        let start = counts();
        let looked = pruned(&repository, &PruneOptions { dry_run: true, ..tight() });
        let middle = counts();
        assert_eq!([middle[1], middle[2]], [start[1], start[2]], "a dry run writes");
        let summary = pruned(&repository, &tight());
        let end = counts();
        let [reads, writes, deletes] = looked.requests;
        let made_reads = (end[0] - middle[0]).saturating_sub(middle[0] - start[0]);
        let made_writes = end[1] - middle[1];
        assert!(made_reads <= 2 * reads && reads <= 2 * made_reads, "{reads} {made_reads}");
        assert!(made_writes <= 2 * writes && writes <= 2 * made_writes, "{writes} {made_writes}");
        assert_eq!(summary.packs_deleted, deletes);
    }
}

#[test]
fn at_most_so_much_is_copied_as_was_asked_for_and_later_runs_do_the_rest() {
    let Disk { folder: _folder, store, repository, control: _, first, _place } = disk();
    repository.forget(&[first], "").unwrap();
    let all = pruned(&repository, &PruneOptions { dry_run: true, ..tight() }).plan.unwrap();
    let mut limited = tight();
    limited.limits.max_repack_bytes = Some(all.repack_bytes / 3);
    let mut unused = pruned(&repository, &PruneOptions { dry_run: true, ..tight() }).unused_before;
    for round in 0.. {
        assert!(round < 12, "it never ends");
        let summary = pruned(&repository, &limited);
        let plan = summary.plan.unwrap();
        assert!(plan.repack_bytes <= all.repack_bytes / 3);
        if plan.repack.is_empty() {
            assert!(round > 2);
            break;
        }
        assert!(!plan.repack.is_empty() && summary.unused_before <= unused);
        unused = summary.unused_before;
    }
    assert_eq!(pruned(&repository, &PruneOptions { dry_run: true, ..tight() }).unused_before, 0);
    assert_whole(&store);
}

/// Packs of trees are half as long as those of data, and full ones are not small.
#[test]
fn full_packs_of_trees_are_not_joined_again_and_again() {
    let store = Store::memory();
    let repository = create_quick(store.clone(), None);
    let folder = tempfile::tempdir().unwrap();
    for number in 0..4000 {
        let name = format!("{:x}", number * 7_919_193_u64).repeat(6);
        fs::write(folder.path().join(name), noise(20, number)).unwrap();
    }
    back_up(&repository, folder.path());
    let known = repository.cache().packs().unwrap();
    let full = repository.settings().pack_length_of(ObjectKind::TreePack) / 4 * 3;
    let is_full = |pack: &PackInfo| pack.kind == ObjectKind::TreePack && pack.object_length > full;
    assert!(known.iter().filter(|(_, pack)| is_full(pack)).count() > 3, "{known:?}");
    let mut joining = impatient();
    joining.limits.repack_small = true;
    pruned(&repository, &joining);
    let plan = pruned(&repository, &PruneOptions { dry_run: true, ..joining }).plan.unwrap();
    assert_eq!((plan.drop.len(), plan.repack.len()), (0, 0), "{plan:?}");
    assert_whole(&store);
}

#[test]
fn small_packs_are_joined_when_that_is_asked_for() {
    let store = Store::memory();
    let repository = create_quick(store.clone(), None);
    let folder = tempfile::tempdir().unwrap();
    for number in 0..8 {
        fs::write(folder.path().join(format!("{number}")), noise(3000, number)).unwrap();
        back_up(&repository, folder.path());
    }
    let before = packs(&store).len();
    assert!(before >= 16);
    pruned(&repository, &impatient());
    assert_eq!(packs(&store).len(), before);
    let mut joining = impatient();
    joining.limits.repack_small = true;
    pruned(&repository, &joining);
    assert!(packs(&store).len() <= 4, "{} packs are left of {before}", packs(&store).len());
    pruned(&repository, &joining);
    let plan = pruned(&repository, &PruneOptions { dry_run: true, ..joining }).plan.unwrap();
    let known = repository.cache().packs().unwrap();
    let known: Vec<_> = known.iter().map(|(_, pack)| (pack.kind, pack.object_length)).collect();
    assert_eq!((plan.drop.len(), plan.repack.len()), (0, 0), "{known:?} {plan:?}");
    let (_, newest) = snapshots(&repository).pop().unwrap();
    assert_same(&contents(&repository, &newest), &folder_contents(folder.path()), "joined");
    assert_whole(&store);
}
