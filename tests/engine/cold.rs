//! A repository in two stores: data packs in a cold one, all else in a hot one, and neither lost with the other.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use aumbry::codec::kdf::Argon2Cost;
use aumbry::format::header::{HEADER_LENGTH, Header, ObjectKind};
use aumbry::id::SnapshotId;
use aumbry::monitor::{RecordingMonitor, SilentMonitor};
use aumbry::ops::backup::{BackupOptions, Deltas};
use aumbry::ops::check::DataSelection;
use aumbry::ops::dump::dump;
use aumbry::ops::mirror::{MirrorOptions, mirror};
use aumbry::ops::prune::{PruneOptions, prune};
use aumbry::ops::rekey::{Change, RekeyOptions, plan, rekey};
use aumbry::ops::restore::{RestoreOptions, restore};
use aumbry::repository::chance::Chance;
use aumbry::repository::cold::{HotRepair, join, repair_hot};
use aumbry::repository::error::{Kind, RepositoryError};
use aumbry::repository::replica::Replica;
use aumbry::repository::{CreateOptions, Repository};
use aumbry::store::{Cold, Effect, FaultControl, Store, Thaw, layout};
use parking_lot::Mutex;
use tempfile::TempDir;

use crate::model::{
    Plain, all_contents, assert_same, copy_of, create_quick, folder_contents, open_quick, quick_key,
};
use crate::prune::{pruned, tight, write_files};
use crate::support::{
    back_up, back_up_with, checked, contents, environment, options, restore_options,
    small_settings, snapshots,
};

mod tied;

/// A hot store and a cold one.
#[derive(Clone)]
struct Pair {
    hot: Store,
    cold: Store,
}

impl Pair {
    fn new() -> Self {
        Pair { hot: Store::memory(), cold: Store::memory() }
    }

    fn store(&self) -> Store {
        self.thawing(None)
    }

    fn thawing(&self, thaw: Option<Thaw>) -> Store {
        let (packs, copies) = (self.cold.clone(), self.cold.clone());
        join(self.hot.clone(), Cold { packs, copies, thaw })
    }

    /// The same, each call of which is asked of `control` first.
    fn faulty(&self, control: &FaultControl) -> Store {
        let hot = self.hot.clone().with_faults(control.clone());
        let cold = self.cold.clone().with_faults(control.clone());
        Pair { hot, cold }.store()
    }

    fn create(&self) -> Repository {
        create_quick(self.store(), None)
    }

    fn open(&self) -> Repository {
        open_quick(self.store(), None)
    }

    /// What may be in the archive is, until it is thawed by the control.
    fn archived(&self) -> (Pair, FaultControl) {
        let control = FaultControl::new();
        control.archive(Some(layout::PACKS));
        let cold = self.cold.clone().with_faults(control.clone());
        (Pair { hot: self.hot.clone(), cold }, control)
    }

    fn copy(&self) -> Pair {
        Pair { hot: copy_of(&self.hot), cold: copy_of(&self.cold) }
    }

    /// The hot store is gone, and made again out of the cold one.
    fn after_loss_of_hot(&self) -> Pair {
        // Two hot stores beside one cold one would be two histories of it.
        let pair = Pair { hot: Store::memory(), cold: copy_of(&self.cold) };
        let repair = repaired(&pair.store(), false).unwrap();
        assert!(repair.is_new && repair.objects > 1);
        pair
    }
}

fn repaired(store: &Store, dry_run: bool) -> Result<HotRepair, RepositoryError> {
    repair_hot(store, dry_run, &Chance::System, &SilentMonitor)
}

fn backed_up(repository: &Repository, folder: &Path) -> SnapshotId {
    // Deltas read what is in the cold store.
    let options = BackupOptions { deltas: Deltas::Auto, ..options() };
    back_up_with(repository, folder, &options, &SilentMonitor).unwrap().snapshot.unwrap()
}

fn kinds(store: &Store, folder: &str) -> Vec<ObjectKind> {
    let kind = |name: &str| {
        Header::decode(&store.get_range(name, 0..HEADER_LENGTH as u64).unwrap()).unwrap().kind
    };
    store.list(folder).unwrap().iter().map(|object| kind(&object.name)).collect()
}

fn names(store: &Store, folder: &str) -> Vec<String> {
    store.list(folder).unwrap().into_iter().map(|object| object.name).collect()
}

/// Two versions of some files, backed up; the contents of both.
fn lived_in(pair: &Pair) -> (TempDir, Vec<SnapshotId>, Vec<Plain>) {
    lived_in_with(pair, 10)
}

fn lived_in_with(pair: &Pair, files: u64) -> (TempDir, Vec<SnapshotId>, Vec<Plain>) {
    let (repository, folder) = (pair.create(), tempfile::tempdir().unwrap());
    let (mut ids, mut versions) = (Vec::new(), Vec::new());
    for version in 0..2 {
        write_files(folder.path(), 3 * version..files, version);
        ids.push(backed_up(&repository, folder.path()));
        versions.push(folder_contents(folder.path()));
    }
    (folder, ids, versions)
}

#[track_caller]
fn assert_whole(pair: &Pair, versions: &[Plain], what: &str) {
    let repository = pair.open();
    let found = all_contents(&repository);
    assert_eq!(found.len(), versions.len(), "{what}");
    for (found, wanted) in found.iter().zip(versions) {
        assert_same(found, wanted, what);
    }
    let summary = checked(&repository, DataSelection::All);
    assert_eq!(summary.damage, [], "{what}");
}

fn refused(store: Store) -> RepositoryError {
    match Repository::open(store, &quick_key(1), environment(None)) {
        Ok(_) => panic!("it opens"),
        Err(error) => error,
    }
}

#[test]
fn only_data_packs_are_in_the_cold_store_alone_and_all_else_is_in_both() {
    let pair = Pair::new();
    let (_, _, versions) = lived_in(&pair);
    assert!(kinds(&pair.cold, "packs/").iter().all(|kind| *kind == ObjectKind::DataPack));
    assert!(kinds(&pair.hot, "packs/").iter().all(|kind| *kind == ObjectKind::TreePack));
    assert!(!names(&pair.cold, "packs/").is_empty() && !names(&pair.hot, "packs/").is_empty());
    for name in names(&pair.hot, "").iter().filter(|name| layout::is_copied(name)) {
        assert_eq!(pair.cold.get(&layout::copy(name)).unwrap(), pair.hot.get(name).unwrap());
    }
    assert_eq!(pair.store().gaps().unwrap(), Default::default());
    let config = pair.store().get(layout::CONFIG).unwrap();
    let id = pair.open().id();
    assert_eq!(pair.cold.get(&layout::copy_of_config(id)).unwrap(), config);
    assert_whole(&pair, &versions, "both");
}

#[test]
fn nothing_but_contents_reads_a_data_pack() {
    let pair = Pair::new();
    let (folder, ids, versions) = lived_in(&pair);
    let (pair, control) = pair.archived();
    let repository = pair.open();
    assert_eq!(snapshots(&repository).len(), 2);
    let structure = checked(&repository, DataSelection::None);
    assert_eq!((structure.damage.len(), structure.notes.len()), (0, 0));
    write_files(folder.path(), 0..2, 7);
    backed_up(&repository, folder.path());
    repository.forget(&ids[..1], "").unwrap();
    let summary = pruned(&repository, &tight());
    assert!(summary.packs_deleted > 0 && summary.plan.unwrap().left_cold_bytes > 0);
    control.archive(None);
    let later = [versions[1].clone(), folder_contents(folder.path())];
    assert_whole(&pair, &later, "after a collection");
}

#[test]
fn contents_in_an_archive_are_told_with_the_pack_and_what_to_do() {
    let pair = Pair::new();
    lived_in(&pair);
    let (archived, _) = pair.archived();
    let (repository, monitor) = (archived.open(), RecordingMonitor::default());
    let target = tempfile::tempdir().unwrap();
    let newest = snapshots(&repository).pop().unwrap();
    let summary =
        restore(&repository, &newest, target.path(), &restore_options(), &monitor).unwrap();
    assert!(summary.entries_failed > 0 && summary.cold_packs.is_empty());
    let problems = monitor.problems();
    let message = &problems[0].message;
    assert!(message.contains("packs/") && message.contains("--warm-up-command"), "{message}");
    let error = aumbry::ops::check::check(
        &repository,
        &crate::support::check_options(DataSelection::All),
        &SilentMonitor,
    )
    .unwrap_err()
    .to_string();
    assert!(error.contains("packs/") && error.contains("--warm-up-command"), "{error}");
}

/// Thaws what it is asked for, and remembers it.
fn thawing(control: &FaultControl) -> (Thaw, Arc<Mutex<Vec<String>>>) {
    let (control, asked) = (control.clone(), Arc::new(Mutex::new(Vec::new())));
    let told = asked.clone();
    let thaw: Thaw = Arc::new(move |names| {
        names.iter().for_each(|name| control.thaw(name));
        told.lock().extend_from_slice(names);
        Ok(())
    });
    (thaw, asked)
}

#[test]
fn exactly_what_a_restore_reads_is_thawed_before_and_told_by_a_dry_run() {
    let pair = Pair::new();
    let (_, _, versions) = lived_in_with(&pair, 40);
    let (archived, control) = pair.archived();
    let (thaw, asked) = thawing(&control);
    let repository = open_quick(archived.thawing(Some(thaw)), None);
    let target = tempfile::tempdir().unwrap();
    let newest = snapshots(&repository).pop().unwrap();
    let restored = |options: &RestoreOptions| {
        restore(&repository, &newest, target.path(), options, &SilentMonitor).unwrap()
    };
    let dry = RestoreOptions { dry_run: true, ..restore_options() };
    let planned = restored(&dry).cold_packs;
    let all = names(&pair.cold, "packs/").len();
    assert!(!planned.is_empty() && planned.len() < all, "{} of {all}", planned.len());
    assert!(asked.lock().is_empty());
    let summary = restored(&restore_options());
    assert_eq!((summary.entries_failed, &summary.cold_packs), (0, &planned));
    let names: Vec<String> = planned.iter().map(|pack| layout::pack(*pack)).collect();
    assert_eq!(*asked.lock(), names);
    let mut found = folder_contents(target.path());
    assert_same(&found, &versions[1], "restored");
    // What is there need not come again, and neither need what was thawed.
    assert!(restored(&dry).cold_packs.is_empty());
    fs::remove_file(target.path().join("file-000")).unwrap();
    restored(&restore_options());
    assert_eq!(*asked.lock(), names);
    found = folder_contents(target.path());
    assert_same(&found, &versions[1], "restored again");
}

#[test]
fn a_check_a_drill_and_a_dump_have_what_they_read_thawed() {
    let pair = Pair::new();
    let (_, _, versions) = lived_in(&pair);
    let all = names(&pair.cold, "packs/");
    let (archived, control) = pair.archived();
    let (thaw, asked) = thawing(&control);
    let open = |thaw: &Thaw| open_quick(archived.thawing(Some(thaw.clone())), None);

    let repository = open(&thaw);
    let newest = snapshots(&repository).pop().unwrap();
    let mut output = Vec::new();
    let path = "/tree/file-004".parse().unwrap();
    dump(&repository, &newest, &path, &mut output, &SilentMonitor).unwrap();
    assert_eq!(&output, &versions[1][&b"/tree/file-004"[..]]);
    let dumped = std::mem::take(&mut *asked.lock());
    assert!(!dumped.is_empty() && dumped.len() < all.len());

    control.archive(Some(layout::PACKS));
    let repository = open(&thaw);
    let mut drill = crate::support::check_options(DataSelection::None);
    drill.restore_sample = 2;
    let drilled = aumbry::ops::check::check(&repository, &drill, &SilentMonitor).unwrap();
    assert_eq!((drilled.damage.len(), drilled.drilled.len()), (0, 2));
    assert!(drilled.drilled.iter().all(|file| file.error.is_none()));

    control.archive(Some(layout::PACKS));
    asked.lock().clear();
    let summary = checked(&open(&thaw), DataSelection::All);
    assert_eq!(summary.damage, []);
    assert_eq!(*asked.lock(), all);
}

#[test]
fn losing_the_hot_store_loses_nothing() {
    let pair = Pair::new();
    let (folder, ids, versions) = lived_in(&pair);
    let lost = Pair { hot: Store::memory(), cold: pair.cold.clone() };
    let told = refused(lost.store());
    assert!(told.kind == Kind::Invalid && told.message.contains("repair hot"), "{told}");
    let dry = repaired(&lost.store(), true).unwrap();
    assert!(dry.is_new && names(&lost.hot, "").is_empty());
    let found = pair.after_loss_of_hot();
    assert_eq!(repaired(&found.store(), false).unwrap().objects, 0);
    assert_whole(&found, &versions, "the cold store alone");
    // It goes on where it was.
    let repository = found.open();
    write_files(folder.path(), 0..1, 9);
    backed_up(&repository, folder.path());
    repository.forget(&ids, "").unwrap();
    assert!(pruned(&repository, &tight()).packs_deleted > 0);
    assert_whole(&found, &[folder_contents(folder.path())], "after that");
}

#[test]
fn losing_the_cold_store_is_told_and_nothing_is_written_to_another() {
    let pair = Pair::new();
    lived_in(&pair);
    let lost = Pair { hot: pair.hot.clone(), cold: Store::memory() };
    let told = refused(lost.store());
    assert!(told.kind == Kind::Invalid && told.message.contains("not the cold store"), "{told}");
    assert!(repaired(&lost.store(), false).is_err());
    assert!(names(&lost.cold, "").is_empty());
}

#[test]
fn one_store_alone_the_wrong_one_and_both_the_wrong_way_round_are_told() {
    let (pair, other) = (Pair::new(), Pair::new());
    lived_in(&pair);
    lived_in(&other);
    let says = |store: Store, words: &str| {
        let told = refused(store);
        assert!(told.kind == Kind::Invalid && told.message.contains(words), "{words}: {told}");
    };
    says(pair.hot.clone(), "is the hot store");
    says(pair.cold.clone(), "its hot store is needed");
    says(Pair { hot: pair.cold.clone(), cold: pair.hot.clone() }.store(), "is not the hot store");
    says(Pair { hot: other.hot.clone(), cold: pair.cold.clone() }.store(), "is not the cold store");
    says(Pair { hot: pair.hot.clone(), cold: other.cold.clone() }.store(), "is not the cold store");
    let single = Store::memory();
    create_quick(single.clone(), None);
    says(Pair { hot: single.clone(), cold: Store::memory() }.store(), "in one store");
    says(Pair { hot: Store::memory(), cold: single.clone() }.store(), "in one store");
    // And none of them is made a repository of.
    let create = |store: Store| {
        let cost = Some(Argon2Cost::FLOOR);
        let options = CreateOptions { cost, settings: small_settings(), ..Default::default() };
        Repository::create(store, &options, &quick_key(1), environment(None)).err().unwrap().kind
    };
    for store in [
        pair.hot.clone(),
        pair.cold.clone(),
        pair.store(),
        Pair { hot: Store::memory(), cold: pair.cold.clone() }.store(),
        Pair { hot: pair.hot.clone(), cold: Store::memory() }.store(),
        Pair { hot: pair.cold.clone(), cold: Store::memory() }.store(),
        Pair { hot: single.clone(), cold: Store::memory() }.store(),
        Pair { hot: Store::memory(), cold: single }.store(),
    ] {
        assert_eq!(create(store), Kind::Conflict);
    }
}

#[test]
fn a_backup_that_is_stopped_at_any_call_of_either_store_leaves_both_ways_whole() {
    let pair = Pair::new();
    let (folder, ids, mut versions) = lived_in_with(&pair, 5);
    write_files(folder.path(), 0..3, 8);
    let wanted = folder_contents(folder.path());
    versions.push(wanted.clone());
    let mut reported = 0;
    // Stopped after a call is what the next one begins with.
    for call in 0.. {
        let (case, control) = (pair.copy(), FaultControl::new());
        let what = format!("before call {call}");
        let Ok(repository) =
            Repository::open(case.faulty(&control), &quick_key(1), environment(None))
        else {
            panic!("{what}: nothing is wrong yet");
        };
        let first = control.calls();
        control.stop_at(first + call, Effect::Before);
        let outcome = back_up_with(&repository, folder.path(), &options(), &SilentMonitor);
        let is_over = control.calls() <= first + call;
        control.resume();
        drop(repository);
        let known = snapshots(&case.open()).len();
        assert!((2..=3).contains(&known), "{what}");
        assert_whole(&case, &versions[..known], &what);
        // With the cold store alone there is what was reported, and before.
        let rescued = case.after_loss_of_hot();
        let there = snapshots(&rescued.open());
        assert!(there.len() <= known && there.len() >= ids.len(), "{what}");
        if let Ok(summary) = &outcome {
            reported += 1;
            let id = summary.snapshot.unwrap();
            assert!(there.iter().any(|(other, _)| *other == id), "{what}");
        }
        assert_whole(&rescued, &versions[..there.len()], &what);
        // The next one goes through, and what the stopped one left behind is copied or collected.
        if call % 3 > 0 && !is_over {
            continue;
        }
        let repository = case.open();
        back_up(&repository, folder.path());
        pruned(&repository, &tight());
        drop(repository);
        let gaps = case.store().gaps().unwrap();
        assert_eq!((gaps.uncopied.len(), gaps.lost.len()), (0, 0), "{what}");
        if is_over {
            assert!(outcome.is_ok());
            break;
        }
    }
    assert!(reported >= 1);
}

#[test]
fn a_prune_that_is_stopped_at_any_call_of_either_store_leaves_both_ways_whole() {
    let pair = Pair::new();
    let (_, ids, versions) = lived_in_with(&pair, 5);
    pair.open().forget(&ids[..1], "").unwrap();
    for call in 0.. {
        let (case, control) = (pair.copy(), FaultControl::new());
        let what = format!("before call {call}");
        let repository = open_quick(case.faulty(&control), None);
        let first = control.calls();
        control.stop_at(first + call, Effect::Before);
        let outcome = prune(&repository, &tight(), &SilentMonitor);
        let is_over = control.calls() <= first + call;
        control.resume();
        drop(repository);
        assert_whole(&case, &versions[1..], &what);
        let rescued = case.after_loss_of_hot();
        assert_whole(&rescued, &versions[1..], &what);
        if call % 3 > 0 && !is_over {
            continue;
        }
        for pair in [&case, &rescued] {
            pruned(&pair.open(), &tight());
            assert_whole(pair, &versions[1..], &what);
            assert_eq!(pair.store().gaps().unwrap(), Default::default(), "{what}");
            let packs = names(&pair.cold, "packs/").len();
            assert!(packs < names(&pair.store(), "packs/").len(), "{what}");
        }
        if is_over {
            assert!(outcome.is_ok());
            break;
        }
    }
}

#[test]
fn making_a_repository_that_is_stopped_at_any_call_is_finished_or_told() {
    for effect in [Effect::Before, Effect::After] {
        for call in 0.. {
            let (pair, control) = (Pair::new(), FaultControl::new());
            control.stop_at(call, effect);
            let cost = Some(Argon2Cost::FLOOR);
            let options = CreateOptions { cost, settings: small_settings(), ..Default::default() };
            let create = |store: Store| {
                Repository::create(store, &options, &quick_key(1), environment(None))
            };
            let is_made = create(pair.faulty(&control)).is_ok();
            control.resume();
            let what = format!("{effect:?} {call}");
            if pair.store().size(layout::CONFIG).unwrap().is_some() {
                let folder = tempfile::tempdir().unwrap();
                write_files(folder.path(), 0..1, 1);
                backed_up(&pair.open(), folder.path());
                assert_whole(&pair, &[folder_contents(folder.path())], &what);
                if is_made && control.calls() <= call {
                    break;
                }
                continue;
            }
            assert!(!is_made, "{what}");
            match create(pair.store()) {
                Ok(_) => assert!(Repository::identify(&pair.store()).is_ok()),
                Err(error) => {
                    assert!(error.message.contains("delete copy/config-"), "{what}: {error}");
                }
            }
        }
    }
}

#[test]
fn data_packs_are_copied_only_when_that_is_wanted_and_dropped_in_any_case() {
    let pair = Pair::new();
    let (folder, ids, versions) = lived_in(&pair);
    let repository = pair.open();
    repository.forget(&ids[..1], "").unwrap();
    let before = names(&pair.cold, "packs/");
    let summary = pruned(&repository, &tight());
    let plan = summary.plan.unwrap();
    let after = names(&pair.cold, "packs/");
    assert!(after.iter().all(|name| before.contains(name)), "a data pack was copied");
    assert!(plan.left_cold_bytes > 0);
    let mut copying = tight();
    copying.limits.leave_cold = false;
    let (thaw, asked) = thawing(&FaultControl::new());
    let repository = open_quick(pair.thawing(Some(thaw)), None);
    let summary = pruned(&repository, &copying);
    assert_eq!(summary.plan.unwrap().left_cold_bytes, 0);
    assert!(!asked.lock().is_empty() && asked.lock().iter().all(|name| after.contains(name)));
    let copied = names(&pair.cold, "packs/");
    assert!(copied.iter().any(|name| !before.contains(name)));
    assert_whole(&pair, &versions[1..], "copied");
    repository.forget(&ids[1..], "").unwrap();
    fs::write(folder.path().join("one"), b"more").unwrap();
    pruned(&repository, &tight());
    assert!(names(&pair.cold, "packs/").is_empty() && names(&pair.hot, "packs/").is_empty());
    assert!(names(&pair.cold, "copy/packs/").is_empty());
}

#[test]
fn packs_of_a_stopped_backup_that_are_archived_are_collected_unread() {
    let pair = Pair::new();
    let (folder, _, versions) = lived_in(&pair);
    write_files(folder.path(), 0..8, 5);
    // What a backup uploads before it is stopped: packs, and no index object for them.
    let before = names(&pair.cold, "packs/");
    let other = pair.copy();
    back_up(&other.open(), folder.path());
    for name in names(&other.cold, "packs/").iter().filter(|name| !before.contains(name)) {
        pair.cold.create(name, other.cold.get(name).unwrap()).unwrap();
    }
    assert!(names(&pair.cold, "packs/").len() > before.len() + 1);
    let (archived, control) = pair.archived();
    assert!(pruned(&archived.open(), &tight()).packs_deleted > 1);
    assert_eq!(names(&pair.cold, "packs/"), before);
    control.archive(None);
    assert_whole(&pair, &versions, "the others");
}

#[test]
fn what_one_store_lacks_is_found_by_a_check_and_mended() {
    let pair = Pair::new();
    let (_, _, versions) = lived_in(&pair);
    let index = names(&pair.hot, layout::INDEX).remove(0);
    pair.cold.delete(&layout::copy(&index)).unwrap();
    let found = checked(&pair.open(), DataSelection::None);
    assert_eq!(found.damage, []);
    assert!(found.notes.iter().any(|note| note.contains("no copy in the cold one")));
    assert_eq!(pruned(&pair.open(), &PruneOptions::default()).objects_copied, 1);
    assert_eq!(checked(&pair.open(), DataSelection::None).notes, Vec::<String>::new());

    let tree = names(&pair.hot, "packs/").remove(0);
    pair.hot.delete(&index).unwrap();
    pair.hot.delete(&tree).unwrap();
    let found = checked(&pair.open(), DataSelection::None);
    let gone = |name: &str| {
        found
            .damage
            .iter()
            .any(|damage| damage.item == name && damage.message.contains("repair hot"))
    };
    assert!(gone(&index), "{:?}", found.damage);
    let repair = repaired(&pair.store(), false).unwrap();
    assert_eq!((repair.objects, repair.is_new), (2, false));
    assert_whole(&pair, &versions, "mended");
}

#[test]
fn a_key_that_is_removed_is_removed_from_both() {
    let pair = Pair::new();
    let repository = pair.create();
    let second = repository.add_key(&quick_key(2), None, "second").unwrap();
    assert_eq!(names(&pair.cold, "copy/keys/").len(), 2);
    repository.remove_key(second).unwrap();
    assert_eq!(names(&pair.cold, "copy/keys/").len(), 1);
    let rescued = pair.after_loss_of_hot();
    let opened = Repository::open(rescued.store(), &quick_key(2), environment(None));
    assert_eq!(opened.err().unwrap().kind, Kind::WrongKey);
}

#[test]
fn a_mirror_of_both_is_a_repository_in_one_store() {
    let pair = Pair::new();
    let (_, _, versions) = lived_in(&pair);
    let (archived, control) = pair.archived();
    let (thaw, asked) = thawing(&control);
    let (repository, to) = (open_quick(archived.thawing(Some(thaw)), None), Store::memory());
    let replica = Replica::new(&repository, to.clone()).unwrap();
    let options =
        MirrorOptions { verify: true, delete: false, dry_run: false, memory_budget: 64 << 20 };
    mirror(&repository, &replica, &options, &SilentMonitor).unwrap();
    assert!(names(&pair.cold, "packs/").iter().all(|name| asked.lock().contains(name)));
    let single = open_quick(to, None);
    let found: Vec<Plain> =
        snapshots(&single).iter().map(|(_, snapshot)| contents(&single, snapshot)).collect();
    assert_eq!(found.len(), 2);
    found.iter().zip(&versions).for_each(|(found, wanted)| assert_same(found, wanted, "mirror"));
    assert!(Replica::new(&repository, pair.hot.clone()).is_err());
    assert!(Replica::new(&repository, pair.cold.clone()).is_err());
}

#[test]
fn where_the_hot_store_has_no_conditions_the_second_form_is_as_safe() {
    let pair = Pair { hot: Store::memory().without_conditions(), cold: Store::memory() };
    let (folder, ids, versions) = lived_in(&pair);
    let repository = pair.open();
    repository.forget(&ids[..1], "").unwrap();
    let taking = PruneOptions { become_maintainer: true, ..tight() };
    pruned(&repository, &taking);
    assert_whole(&pair, &versions[1..], "pruned");
    let rescued = Pair { hot: Store::memory().without_conditions(), cold: pair.cold.clone() };
    repaired(&rescued.store(), false).unwrap();
    assert_whole(&rescued, &versions[1..], "the cold store alone");
    backed_up(&rescued.open(), folder.path());
}

#[test]
fn nothing_is_sealed_with_keys_that_only_the_hot_store_has() {
    let pair = Pair::new();
    let (folder, _, mut versions) = lived_in(&pair);
    let repository = pair.open();
    let options = RekeyOptions { change: Change::NewEpoch, remove: Vec::new() };
    rekey(&repository, &plan(&repository, &options, &SilentMonitor).unwrap()).unwrap();
    drop(repository);
    let updates = names(&pair.cold, "copy/keys/");
    let updates: Vec<_> = updates.iter().filter(|name| name.contains('.')).collect();
    assert!(!updates.is_empty());
    // Whoever made it was stopped before it made the copies.
    updates.iter().for_each(|name| pair.cold.delete(name).unwrap());
    write_files(folder.path(), 0..9, 3);
    backed_up(&pair.open(), folder.path());
    versions.push(folder_contents(folder.path()));
    assert_whole(&pair.after_loss_of_hot(), &versions, "the cold store alone");
}
