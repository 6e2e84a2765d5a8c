//! Copies of snapshots in another repository: whole, each blob once, nothing twice, and never half.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Barrier;

use aumbry::codec::kdf::Argon2Cost;
use aumbry::format::config::Settings;
use aumbry::format::header::HEADER_LENGTH;
use aumbry::format::snapshot::{Origin, Snapshot};
use aumbry::id::SnapshotId;
use aumbry::monitor::{Monitor, Phase, Progress, RecordingMonitor, SilentMonitor};
use aumbry::ops::OpsError;
use aumbry::ops::backup::BackupOptions;
use aumbry::ops::check::{CheckOptions, DataSelection, check};
use aumbry::ops::copy::{Copies, CopyOptions, CopySummary, copy, copy_into};
use aumbry::ops::repair::{RepairOptions, repair_packs, repair_snapshots};
use aumbry::repository::{CreateOptions, Repository};
use aumbry::store::{Effect, FaultControl, Store, layout};
use parking_lot::Mutex;

use crate::model::{
    Plain, all_contents, assert_nothing_stored_twice, assert_same, copy_of, create_quick,
    create_quick_with, folder_contents, open_quick, quick_key,
};
use crate::prune::{pruned, tight, write_files};
use crate::support::{
    back_up, back_up_with, contents, environment, noise, options, repair_options, small_settings,
    snapshots,
};

fn copy_options() -> CopyOptions {
    CopyOptions { dry_run: false, memory_budget: 64 << 20 }
}

fn copied(source: &Repository, target: &Repository) -> CopySummary {
    copy(source, target, &snapshots(source), &copy_options(), &SilentMonitor).unwrap()
}

/// What a check of every byte, and a restore of files into memory, say of the copies: nothing.
#[track_caller]
fn assert_proven(repository: &Repository) {
    let options = CheckOptions {
        data: DataSelection::All,
        restore_sample: 1000,
        share_ledger: false,
        memory_budget: 256 << 20,
    };
    let summary = check(repository, &options, &SilentMonitor).unwrap();
    assert_eq!(summary.damage, []);
}

/// The target cuts, gathers and packs otherwise than the source.
fn other_settings() -> Settings {
    Settings {
        chunk_minimum: 512,
        chunk_average: 2048,
        chunk_maximum: 8192,
        segment_length: 32 << 10,
        pack_length: 128 << 10,
        ..Settings::DEFAULT
    }
}

fn make_tree(folder: &Path) {
    fs::create_dir_all(folder.join("deep/deeper")).unwrap();
    fs::create_dir(folder.join("empty")).unwrap();
    fs::write(folder.join("deep/nothing"), b"").unwrap();
    fs::write(folder.join("deep/inline"), b"a few bytes").unwrap();
    fs::write(folder.join("deep/small"), noise(700, 1)).unwrap();
    // More chunks than stand in an entry.
    fs::write(folder.join("deep/deeper/long"), noise(400_000, 2)).unwrap();
    fs::write(folder.join("text"), b"all work and no play ".repeat(3000)).unwrap();
    fs::write(folder.join("same"), b"all work and no play ".repeat(3000)).unwrap();
    for number in 0..300 {
        fs::write(folder.join(format!("deep/entry-{number:04}")), noise(60, number)).unwrap();
    }
    std::os::unix::fs::symlink("text", folder.join("link")).unwrap();
}

fn change_tree(folder: &Path) {
    let mut bytes = fs::read(folder.join("deep/deeper/long")).unwrap();
    bytes[30_000..30_100].fill(9);
    fs::write(folder.join("deep/deeper/long"), bytes).unwrap();
    fs::write(folder.join("new"), noise(9_000, 4)).unwrap();
    fs::remove_file(folder.join("deep/small")).unwrap();
}

/// A source with two snapshots, of which the second has deltas against the first.
fn source_in(store: &Store) -> (Repository, Vec<Plain>) {
    let source = create_quick(store.clone(), None);
    let folder = tempfile::tempdir().unwrap();
    make_tree(folder.path());
    let described = BackupOptions {
        host: "box".into(),
        user: "me".into(),
        name: "home".into(),
        tags: vec!["a".into(), "b".into()],
        zone_offset_seconds: 3600,
        ..options()
    };
    let mut versions = vec![folder_contents(folder.path())];
    back_up_with(&source, folder.path(), &described, &SilentMonitor).unwrap();
    change_tree(folder.path());
    versions.push(folder_contents(folder.path()));
    back_up_with(&source, folder.path(), &described, &SilentMonitor).unwrap();
    (source, versions)
}

fn assert_versions(repository: &Repository, versions: &[Plain], what: &str) {
    let found = all_contents(repository);
    assert_eq!(found.len(), versions.len(), "{what}");
    found.iter().zip(versions).for_each(|(found, wanted)| assert_same(found, wanted, what));
}

/// Names of everything in a store but registrations and slots that hold no snapshot.
fn objects(repository: &Repository) -> Vec<String> {
    let named = repository.store().list("").unwrap().into_iter().map(|object| object.name);
    let passing =
        |name: &String| name.starts_with(layout::SESSIONS) || name.starts_with(layout::SNAPSHOTS);
    named.filter(|name| !passing(name)).collect()
}

#[test]
fn copies_hold_what_their_originals_hold_under_the_target_s_own_names() {
    let (source, versions) = source_in(&Store::memory());
    let target = create_quick_with(Store::memory(), other_settings(), None);
    let summary = copied(&source, &target);
    assert_eq!((summary.copied.len(), summary.known.len(), summary.damaged.len()), (2, 0, 0));
    assert_versions(&target, &versions, "copied");
    assert_nothing_stored_twice(&target, "copied");
    assert_proven(&target);
    let (originals, copies) = (snapshots(&source), snapshots(&target));
    for ((id, original), (copy_id, copy)) in originals.iter().zip(&copies) {
        let origin = Origin { repository: source.id(), snapshot: *id };
        assert_eq!(copy.copied, Some(origin));
        let wanted = Snapshot {
            root: copy.root,
            height: copy.height,
            parent: copy.parent,
            predecessor: copy.predecessor,
            copied: copy.copied,
            ..original.clone()
        };
        assert_eq!(*copy, wanted);
        assert_ne!(copy.root, original.root, "names are keyed");
        assert!(summary.copied.iter().any(|one| one.source == *id && one.copy == Some(*copy_id)));
    }
    assert_eq!(copies[1].1.parent, Some(copies[0].0), "the parent's copy");
    // Whoever knows nothing but the store sees the same.
    let stranger = open_quick(target.store().clone(), None);
    assert_versions(&stranger, &versions, "a stranger");
}

#[test]
fn what_was_copied_is_not_copied_again_not_even_by_way_of_a_third_repository() {
    let (source, versions) = source_in(&Store::memory());
    let [second, third] = [1, 2].map(|_| create_quick(Store::memory(), None));
    copied(&source, &second);
    let before = objects(&second);
    let again = copied(&source, &second);
    assert_eq!((again.copied.len(), again.known.len()), (0, 2));
    assert_eq!((again.bytes_read, again.data_added_packed), (0, 0));
    assert_eq!(objects(&second), before);

    copied(&second, &third);
    assert_versions(&third, &versions, "a copy of copies");
    let through = copied(&source, &third);
    assert_eq!((through.copied.len(), through.known.len()), (0, 2));
    let home = copied(&third, &source);
    assert_eq!((home.copied.len(), home.known.len()), (0, 2), "they came from there");
    assert_eq!(snapshots(&source).len(), 2);
}

#[test]
fn what_a_copied_snapshot_has_in_common_with_the_next_is_not_read() {
    let (source, versions) = source_in(&Store::memory());
    let target = create_quick(Store::memory(), None);
    let all = snapshots(&source);
    let first = copy(&source, &target, &all[..1], &copy_options(), &SilentMonitor).unwrap();
    let second = copy(&source, &target, &all, &copy_options(), &SilentMonitor).unwrap();
    assert_eq!((second.copied.len(), second.known.len()), (1, 1));
    // The long file, which changed in the middle, and the new one.
    assert_eq!((second.files_read, second.bytes_read), (2, 409_000));
    assert!(first.files_read > 300 && second.data_blobs < 20, "{first:?} {second:?}");
    assert_versions(&target, &versions, "one after another");
    assert_nothing_stored_twice(&target, "one after another");
    assert_proven(&target);
}

#[test]
fn large_files_with_holes_are_copied_piece_by_piece_with_their_digests() {
    let source = create_quick(Store::memory(), None);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("large");
    let file = fs::File::create(&path).unwrap();
    // Chunks that reach over a boundary of digests, which are every 16 MiB, and regions that are nothing but a hole.
    for (at, length, seed) in
        [(0, 5000, 1), ((16 << 20) - 70_000, 140_000, 2), (100 << 20, 3000, 3)]
    {
        std::os::unix::fs::FileExt::write_all_at(&file, &noise(length, seed), at).unwrap();
    }
    file.set_len((120 << 20) + 17).unwrap();
    drop(file);
    let wanted = folder_contents(folder.path());
    back_up(&source, folder.path());
    let target = create_quick_with(Store::memory(), other_settings(), None);
    let summary = copied(&source, &target);
    assert_eq!(summary.copied.len(), 1);
    assert!(summary.bytes_read < 1 << 20, "holes are not read: {}", summary.bytes_read);
    assert_same(&all_contents(&target)[0], &wanted, "large");
    assert_proven(&target);
}

/// Breaks the first data pack of a store, and says how long it is.
fn break_a_data_pack(repository: &Repository) {
    let store = repository.store();
    let packs = store.list(layout::PACKS).unwrap();
    let of_data = |name: &str| store.get_range(name, 10..11).unwrap() == [3];
    let pack = packs.iter().find(|pack| of_data(&pack.name)).unwrap();
    let mut bytes = store.get(&pack.name).unwrap();
    bytes[HEADER_LENGTH + 100] ^= 1;
    store.delete(&pack.name).unwrap();
    store.create(&pack.name, bytes).unwrap();
}

#[test]
fn a_damaged_snapshot_is_named_by_file_and_not_copied_and_others_are() {
    let source = create_quick(Store::memory(), None);
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("lost"), noise(3000, 1)).unwrap();
    let damaged = back_up(&source, folder.path()).snapshot.unwrap();
    break_a_data_pack(&source);
    let other = tempfile::tempdir().unwrap();
    fs::write(other.path().join("whole"), noise(3000, 2)).unwrap();
    let whole = BackupOptions { host: "other".into(), ..options() };
    back_up_with(&source, other.path(), &whole, &SilentMonitor).unwrap();

    let source = open_quick(source.store().clone(), None);
    let target = create_quick(Store::memory(), None);
    let monitor = RecordingMonitor::default();
    let summary = copy(&source, &target, &snapshots(&source), &copy_options(), &monitor).unwrap();
    assert_eq!(summary.damaged, [damaged]);
    assert_eq!(summary.copied.len(), 1);
    let problems = monitor.problems();
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert_eq!(problems[0].item, format!("{}:/tree/lost", damaged.short()));
    assert_versions(&target, &[folder_contents(other.path())], "the whole one");
    assert_proven(&target);
    assert_eq!(target.undecided_sessions().unwrap(), [], "nobody waits for what was not copied");
}

#[test]
fn a_copy_of_a_repaired_snapshot_stands_for_no_other_copy() {
    let source = create_quick(Store::memory(), None);
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("inline"), b"a few bytes").unwrap();
    fs::write(folder.path().join("lost"), noise(3000, 1)).unwrap();
    let original = back_up(&source, folder.path()).snapshot.unwrap();
    let target = create_quick(Store::memory(), None);
    copied(&source, &target);
    break_a_data_pack(&source);
    let source = open_quick(source.store().clone(), None);
    repair_packs(&source, &repair_options(), &SilentMonitor).unwrap();
    let made = repair_snapshots(&source, &repair_options(), &SilentMonitor).unwrap().made;
    assert_eq!((made.len(), made[0].original), (1, original));
    let source = open_quick(source.store().clone(), None);
    let summary = copied(&source, &target);
    assert_eq!((summary.copied.len(), summary.known.len()), (1, 1));
    let copies = snapshots(&target);
    let of = |id: SnapshotId| {
        let origin = Some(Origin { repository: source.id(), snapshot: id });
        &copies.iter().find(|(_, copy)| copy.copied == origin).unwrap().1
    };
    let (whole, rest) = (of(original), of(made[0].id.unwrap()));
    assert_eq!(rest.repaired, None);
    assert!(rest.tags.contains(&"repaired".to_string()));
    assert_same(&contents(&target, whole), &folder_contents(folder.path()), "the whole one");
    // Nothing is damaged there, so nothing is forgotten for it.
    let forget = RepairOptions { forget_originals: true, ..repair_options() };
    let repaired = repair_snapshots(&target, &forget, &SilentMonitor).unwrap();
    assert_eq!(repaired.forgotten, []);
    assert_eq!(snapshots(&target).len(), 2);
}

#[test]
fn a_dry_run_stores_nothing_and_says_what_a_copy_would_take() {
    let (source, _) = source_in(&Store::memory());
    let target = create_quick(Store::memory(), None);
    let all = snapshots(&source);
    let before = target.store().list("").unwrap();
    let dry = CopyOptions { dry_run: true, ..copy_options() };
    let summary = copy(&source, &target, &all, &dry, &SilentMonitor).unwrap();
    assert_eq!(target.store().list("").unwrap(), before);
    assert_eq!(summary.copied.len(), 2);
    let whole = summary.plan.unwrap();
    assert!(whole.bytes > 400_000 && whole.stored_bytes > 400_000, "{whole:?}");
    assert!(whole.read_requests > 0 && whole.write_requests > 6, "{whole:?}");
    copy(&source, &target, &all[..1], &copy_options(), &SilentMonitor).unwrap();
    let rest = copy(&source, &target, &all, &dry, &SilentMonitor).unwrap();
    assert_eq!((rest.copied.len(), rest.known.len()), (1, 1));
    let rest = rest.plan.unwrap();
    assert!(rest.bytes > 9_000 && rest.bytes < whole.bytes / 4, "{rest:?} of {whole:?}");
    copied(&source, &target);
    let nothing = copy(&source, &target, &all, &dry, &SilentMonitor).unwrap().plan.unwrap();
    assert_eq!((nothing.blobs, nothing.bytes, nothing.write_requests), (0, 0, 0));
}

#[test]
fn nothing_is_copied_into_itself() {
    let (source, _) = source_in(&Store::memory());
    let same = open_quick(copy_of(source.store()), None);
    let error = copy(&source, &same, &snapshots(&source), &copy_options(), &SilentMonitor);
    assert!(matches!(error, Err(OpsError::Invalid(_))), "{error:?}");
}

#[test]
fn a_copy_may_be_stopped_at_any_call_and_the_next_run_stores_only_what_is_missing() {
    let (source, versions) = source_in(&Store::memory());
    let all = snapshots(&source);
    let empty = create_quick(Store::memory(), None).store().clone();
    for effect in [Effect::Before, Effect::After] {
        for call in 0.. {
            let (store, control) = (copy_of(&empty), FaultControl::new());
            let target = open_quick(store.clone().with_faults(control.clone()), None);
            let at = control.calls() + call;
            control.stop_at(at, effect);
            let outcome = copy(&source, &target, &all, &copy_options(), &SilentMonitor);
            let what = format!("stopped {effect:?} call {call}");
            let reached = control.calls() > at;
            drop(target);
            let target = open_quick(store.clone(), None);
            let there = snapshots(&target).len();
            assert_versions(&target, &versions[..there], &what);
            if let Ok(summary) = &outcome {
                assert_eq!(summary.copied.len(), 2, "{what}");
            }
            let again = copied(&source, &target);
            assert_eq!(again.copied.len(), 2 - there, "{what}");
            assert_versions(&open_quick(store, None), &versions, &what);
            assert_nothing_stored_twice(&target, &what);
            if !reached {
                assert!(outcome.is_ok() && call > 20, "{outcome:?} after {call} calls");
                break;
            }
            assert!(outcome.is_err(), "nobody can know of success after call {call}");
        }
    }
}

#[test]
fn a_source_that_fails_at_any_call_leaves_whole_copies_only() {
    let store = Store::memory();
    let (source, versions) = source_in(&store);
    drop(source);
    for call in 0.. {
        let control = FaultControl::new();
        let source = open_quick(copy_of(&store).with_faults(control.clone()), None);
        let all = snapshots(&source);
        let target = create_quick(Store::memory(), None);
        let at = control.calls() + call;
        control.stop_at(at, Effect::Before);
        let outcome = copy(&source, &target, &all, &copy_options(), &SilentMonitor);
        let what = format!("stopped call {call}");
        let reached = control.calls() > at;
        let there = snapshots(&target).len();
        assert_versions(&target, &versions[..there], &what);
        control.resume();
        let rest = copy(&source, &target, &all, &copy_options(), &SilentMonitor).unwrap();
        assert_eq!(rest.copied.len(), 2 - there, "{what}");
        assert_versions(&target, &versions, &what);
        assert_nothing_stored_twice(&target, &what);
        if !reached {
            assert!(outcome.is_ok() && call > 8, "{outcome:?} after {call} calls");
            break;
        }
    }
}

/// Asks to stop after so many steps.
struct Impatient {
    left: Mutex<u32>,
}

impl Monitor for Impatient {
    fn interrupted(&self) -> bool {
        let mut left = self.left.lock();
        *left = left.saturating_sub(1);
        *left == 0
    }
}

#[test]
fn an_interrupted_copy_keeps_what_it_has_stored_and_leaves_nobody_waiting() {
    let (source, versions) = source_in(&Store::memory());
    for steps in [1, 50, 200, 350, 500] {
        let target = create_quick(Store::memory(), None);
        let monitor = Impatient { left: Mutex::new(steps) };
        let outcome = copy(&source, &target, &snapshots(&source), &copy_options(), &monitor);
        assert!(matches!(outcome, Err(OpsError::Interrupted)), "{steps}: {outcome:?}");
        assert_eq!(target.undecided_sessions().unwrap(), []);
        copied(&source, &target);
        assert_versions(&target, &versions, "interrupted");
        assert_nothing_stored_twice(&target, "interrupted");
    }
}

#[test]
fn two_copies_at_once_are_both_whole() {
    let (source, versions) = source_in(&Store::memory());
    let store = create_quick(Store::memory(), None).store().clone();
    let barrier = Barrier::new(2);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let source = open_quick(source.store().clone(), None);
                let target = open_quick(store.clone(), None);
                barrier.wait();
                copied(&source, &target);
            });
        }
    });
    let target = open_quick(store, None);
    assert_proven(&target);
    for (_, snapshot) in snapshots(&target) {
        let origin = snapshot.copied.unwrap().snapshot;
        let number = snapshots(&source).iter().position(|(id, _)| *id == origin).unwrap();
        assert_same(&contents(&target, &snapshot), &versions[number], "one of two");
    }
    assert_eq!(copied(&source, &target).copied.len(), 0);
}

/// Collects in a repository when so much has been copied, without waiting for anybody.
struct Hasty<'h> {
    collector: &'h Repository,
    after: u64,
    files: Mutex<u64>,
}

impl Monitor for Hasty<'_> {
    fn phase(&self, _: Phase) {}

    fn advance(&self, done: Progress) {
        let is_due = {
            let mut files = self.files.lock();
            let before = *files;
            *files += done.files;
            (before..*files).contains(&self.after)
        };
        // Not under the lock: while it waits, this thread may do other work of the copy.
        if is_due {
            pruned(self.collector, &tight());
        }
    }
}

#[test]
fn a_copy_beside_collectors_that_wait_for_nobody_ends_whole() {
    for (after, in_source) in [(1, false), (4, false), (20, false), (1, true), (4, true)] {
        let source_store = Store::memory();
        let source = create_quick(source_store.clone(), None);
        let target_store = Store::memory();
        let target = create_quick(target_store.clone(), None);
        let folder = tempfile::tempdir().unwrap();
        let mut versions = BTreeMap::new();
        let mut ids: Vec<SnapshotId> = Vec::new();
        for version in 0..4 {
            write_files(folder.path(), version..12, version);
            ids.push(back_up(&source, folder.path()).snapshot.unwrap());
            versions.insert(ids[version as usize], folder_contents(folder.path()));
        }
        // The target has something to collect: what was copied and forgotten.
        copy(&source, &target, &snapshots(&source)[..2], &copy_options(), &SilentMonitor).unwrap();
        let forgotten: Vec<_> = snapshots(&target).iter().map(|(id, _)| *id).collect();
        target.forget(&forgotten[..1], "").unwrap();
        source.forget(&ids[..1], "").unwrap();
        let collector = match in_source {
            true => open_quick(source_store.clone(), None),
            false => open_quick(target_store.clone(), None),
        };
        let hasty = Hasty { collector: &collector, after, files: Mutex::new(0) };
        let all = snapshots(&source);
        let summary = copy(&source, &target, &all, &copy_options(), &hasty).unwrap();
        if in_source {
            // What was read from may be gone: then that is named, and the next run goes on.
            let source = open_quick(source_store, None);
            assert_eq!(copied(&source, &target).damaged, [], "after {after}");
        } else {
            assert_eq!(summary.damaged, [], "after {after}");
        }
        assert!(*hasty.files.lock() > after, "it was not so far: {after}");
        let stranger = open_quick(target_store, None);
        for (_, snapshot) in snapshots(&stranger) {
            let wanted = &versions[&snapshot.copied.unwrap().snapshot];
            assert_same(&contents(&stranger, &snapshot), wanted, &format!("after {after}"));
        }
        assert_proven(&stranger);
        assert_eq!(snapshots(&stranger).len(), 3, "after {after}");
    }
}

#[test]
fn a_repository_that_cuts_like_another_shares_chunks_with_its_copies() {
    let (source, _) = source_in(&Store::memory());
    let folder = tempfile::tempdir().unwrap();
    make_tree(folder.path());
    let mut stored = Vec::new();
    for cuts_like in [None, Some(&source)] {
        let settings = Settings { chunk_average: 4096, ..small_settings() };
        let made = CreateOptions {
            settings,
            cost: Some(Argon2Cost::FLOOR),
            label: String::new(),
            cuts_like: cuts_like.map(Repository::cutting),
        };
        let target =
            Repository::create(Store::memory(), &made, &quick_key(1), environment(None)).unwrap();
        copied(&source, &target);
        stored.push(back_up(&target, folder.path()).counts.data_blobs);
    }
    assert_eq!(stored[1], 0, "all chunks are there");
    assert!(stored[0] > 50, "cut elsewhere: {stored:?}");
}

fn copied_into(source: &Repository, targets: &[&Repository]) -> Copies {
    let all = snapshots(source);
    copy_into(source, targets, &all, &copy_options(), &SilentMonitor).unwrap()
}

#[test]
fn one_pass_into_several_repositories_reads_what_any_of_them_lacks_once() {
    let store = Store::memory();
    let (_, versions) = source_in(&store);
    let reads = |targets: &[&Repository]| {
        let control = FaultControl::new();
        let source = open_quick(store.clone().with_faults(control.clone()), None);
        let before = (control.reads(), control.read_bytes());
        let copies = copied_into(&source, targets);
        let read = (control.reads() - before.0, control.read_bytes() - before.1);
        for target in &copies.targets {
            let summary = target.as_ref().unwrap();
            assert_eq!((summary.copied.len(), summary.damaged.len()), (2, 0));
        }
        (copies, read)
    };
    let make = |settings| create_quick_with(Store::memory(), settings, None);
    let alone = make(small_settings());
    let (single, read_for_one) = reads(&[&alone]);
    let three = [make(small_settings()), make(other_settings()), make(small_settings())];
    let (together, read_for_three) = reads(&[&three[0], &three[1], &three[2]]);
    assert_eq!((together.files_read, together.bytes_read), (single.files_read, single.bytes_read));
    // Threads may meet a segment again that another has let go; three passes would read three times as much.
    assert!(read_for_three.1 < read_for_one.1 * 3 / 2, "{read_for_three:?} {read_for_one:?}");
    for (target, summary) in three.iter().zip(&together.targets) {
        let summary = summary.as_ref().unwrap();
        assert_eq!(summary.bytes_read, single.bytes_read);
        assert!(summary.data_blobs > 0 && summary.data_added_packed > 0);
        assert_versions(target, &versions, "one of three");
        assert_nothing_stored_twice(target, "one of three");
        assert_proven(target);
    }
    let again = copied_into(&open_quick(store.clone(), None), &[&three[0], &three[1]]);
    assert_eq!((again.files_read, again.bytes_read), (0, 0));
    assert!(again.targets.iter().all(|target| target.as_ref().unwrap().known.len() == 2));
}

#[test]
fn targets_that_have_different_things_are_each_given_what_they_lack() {
    let (source, versions) = source_in(&Store::memory());
    let all = snapshots(&source);
    let [older, newer, empty, full] = [1, 2, 3, 4].map(|_| create_quick(Store::memory(), None));
    copy(&source, &older, &all[..1], &copy_options(), &SilentMonitor).unwrap();
    copy(&source, &newer, &all[1..], &copy_options(), &SilentMonitor).unwrap();
    copied(&source, &full);
    let before = objects(&full);
    let targets = [&older, &newer, &empty, &full];
    let copies = copied_into(&source, &targets);
    let counts: Vec<_> = copies
        .targets
        .iter()
        .map(|target| target.as_ref().unwrap())
        .map(|summary| (summary.copied.len(), summary.known.len()))
        .collect();
    assert_eq!(counts, [(1, 1), (1, 1), (2, 0), (0, 2)]);
    assert_eq!(objects(&full), before);
    // The reference of each tells what it need not be given: of the second snapshot, two files.
    let read: Vec<_> =
        copies.targets.iter().map(|target| target.as_ref().unwrap().bytes_read).collect();
    assert_eq!((read[0], read[3]), (409_000, 0));
    assert!(read[2] > read[0] && read[2] == copies.bytes_read, "{read:?} {}", copies.bytes_read);
    for target in targets {
        assert_versions(target, &versions, "given what it lacked");
        assert_nothing_stored_twice(target, "given what it lacked");
        assert_proven(target);
    }
}

#[test]
fn a_target_that_fails_at_any_call_holds_up_no_other() {
    let (source, versions) = source_in(&Store::memory());
    let all = snapshots(&source);
    let empty = create_quick(Store::memory(), None).store().clone();
    for call in (0..).step_by(7) {
        let (store, control) = (copy_of(&empty), FaultControl::new());
        let failing = open_quick(store.clone().with_faults(control.clone()), None);
        let whole = create_quick_with(Store::memory(), other_settings(), None);
        let at = control.calls() + call;
        control.stop_at(at, Effect::Before);
        let targets = [&failing, &whole];
        let copies = copy_into(&source, &targets, &all, &copy_options(), &SilentMonitor).unwrap();
        let what = format!("stopped call {call}");
        let reached = control.calls() > at;
        assert_eq!(copies.targets[1].as_ref().unwrap().copied.len(), 2, "{what}");
        assert_versions(&whole, &versions, &what);
        assert_nothing_stored_twice(&whole, &what);
        drop(failing);
        let failed = open_quick(store, None);
        let there = snapshots(&failed).len();
        assert_versions(&failed, &versions[..there], &what);
        let again = copied_into(&source, &[&whole, &failed]);
        let counts = again.targets.iter().map(|target| target.as_ref().unwrap().copied.len());
        assert_eq!(counts.collect::<Vec<_>>(), [0, 2 - there], "{what}");
        assert_versions(&failed, &versions, &what);
        assert_nothing_stored_twice(&failed, &what);
        if !reached {
            assert!(copies.targets[0].is_ok() && call > 20, "{:?}", copies.targets[0]);
            break;
        }
        assert!(copies.targets[0].is_err(), "nobody can know of success after call {call}");
    }
}

#[test]
fn of_a_repository_that_is_named_twice_only_one_is_copied_into() {
    let (source, versions) = source_in(&Store::memory());
    let target = create_quick(Store::memory(), None);
    let same = open_quick(target.store().clone(), None);
    let itself = open_quick(source.store().clone(), None);
    let copies = copied_into(&source, &[&target, &same, &itself]);
    assert_eq!(copies.targets[0].as_ref().unwrap().copied.len(), 2);
    for refused in &copies.targets[1..] {
        assert!(matches!(refused, Err(OpsError::Invalid(_))), "{refused:?}");
    }
    assert_versions(&target, &versions, "named twice");
}

#[test]
fn what_is_damaged_in_the_source_keeps_back_no_target_that_has_it() {
    let source = create_quick(Store::memory(), None);
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("lost"), noise(3000, 1)).unwrap();
    back_up(&source, folder.path());
    let [with, without] = [1, 2].map(|_| create_quick(Store::memory(), None));
    copied(&source, &with);
    fs::write(folder.path().join("new"), b"a few bytes").unwrap();
    let newest = back_up(&source, folder.path()).snapshot.unwrap();
    break_a_data_pack(&source);
    let source = open_quick(source.store().clone(), None);
    let monitor = RecordingMonitor::default();
    let all = snapshots(&source);
    let copies = copy_into(&source, &[&without, &with], &all, &copy_options(), &monitor).unwrap();
    let [without, with] = [0, 1].map(|number: usize| copies.targets[number].as_ref().unwrap());
    assert_eq!(without.damaged.len(), 2);
    assert_eq!((with.damaged.len(), with.copied.len(), with.copied[0].source), (0, 1, newest));
    // Each time that it would have been copied.
    assert_eq!(monitor.problems().len(), 2, "{:?}", monitor.problems());
}

#[test]
fn several_copies_beside_collectors_that_wait_for_nobody_end_whole() {
    for after in [1, 4, 20] {
        let source = create_quick(Store::memory(), None);
        let folder = tempfile::tempdir().unwrap();
        let mut versions = Vec::new();
        for version in 0..3 {
            write_files(folder.path(), version..12, version);
            back_up(&source, folder.path());
            versions.push(folder_contents(folder.path()));
        }
        let stores = [Store::memory(), Store::memory()];
        let [disturbed, quiet] = stores.clone().map(|store| create_quick(store, None));
        copy(&source, &disturbed, &snapshots(&source)[..1], &copy_options(), &SilentMonitor)
            .unwrap();
        let forgotten = snapshots(&disturbed)[0].0;
        disturbed.forget(&[forgotten], "").unwrap();
        let collector = open_quick(stores[0].clone(), None);
        let hasty = Hasty { collector: &collector, after, files: Mutex::new(0) };
        let targets = [&disturbed, &quiet];
        let all = snapshots(&source);
        let copies = copy_into(&source, &targets, &all, &copy_options(), &hasty).unwrap();
        assert!(*hasty.files.lock() > after, "it was not so far: {after}");
        for (target, store) in copies.targets.iter().zip(stores) {
            assert_eq!(target.as_ref().unwrap().copied.len(), 3, "after {after}");
            let stranger = open_quick(store, None);
            assert_versions(&stranger, &versions, &format!("after {after}"));
            assert_proven(&stranger);
        }
    }
}
