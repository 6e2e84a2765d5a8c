//! A second store with the same objects: a whole repository at every moment, and nothing good ever written over.

use std::collections::BTreeMap;

use aumbry::format::config::Settings;
use aumbry::format::header::HEADER_LENGTH;
use aumbry::id::SnapshotId;
use aumbry::monitor::{Monitor, Phase, RecordingMonitor, SilentMonitor};
use aumbry::ops::OpsError;
use aumbry::ops::check::{CheckOptions, DataSelection, check};
use aumbry::ops::mirror::{MirrorOptions, MirrorSummary, mirror};
use aumbry::repository::Repository;
use aumbry::repository::error::Kind;
use aumbry::repository::replica::Replica;
use aumbry::store::{Effect, FaultControl, Store, layout};

use crate::model::{
    all_contents, assert_same, copy_of, create_quick, create_quick_with, folder_contents,
    open_quick, quick_key,
};
use crate::prune::{pruned, tight, write_files};
use crate::support::{back_up, contents, small_settings, snapshots};

fn mirror_options() -> MirrorOptions {
    MirrorOptions { verify: false, delete: false, dry_run: false, memory_budget: 64 << 20 }
}

fn mirrored_with(repository: &Repository, to: &Store, options: &MirrorOptions) -> MirrorSummary {
    let replica = Replica::new(repository, to.clone()).unwrap();
    mirror(repository, &replica, options, &SilentMonitor).unwrap()
}

fn mirrored(repository: &Repository, to: &Store) -> MirrorSummary {
    mirrored_with(repository, to, &mirror_options())
}

/// What is mirrored of a store: all but what is about this store only.
fn objects(store: &Store) -> BTreeMap<String, Vec<u8>> {
    let reader = open_quick(store.clone(), None);
    let aborted = reader.snapshots(&SilentMonitor).unwrap().aborted;
    let aborted: Vec<_> = aborted.iter().map(|session| layout::snapshot(*session)).collect();
    let own = |name: &String| {
        let folders = [layout::SESSIONS, layout::DAMAGED, layout::LEDGER, layout::QUARANTINE];
        folders.iter().any(|folder| name.starts_with(folder))
            || name.starts_with("gc/reserve-")
            || aborted.contains(name)
    };
    let names = store.list("").unwrap().into_iter().map(|object| object.name);
    names.filter(|name| !own(name)).map(|name| (name.clone(), store.get(&name).unwrap())).collect()
}

/// Four snapshots of a folder that changes, in their order, and what each holds.
pub fn four_versions(
    repository: &Repository,
) -> (Vec<SnapshotId>, BTreeMap<SnapshotId, crate::model::Plain>) {
    let folder = tempfile::tempdir().unwrap();
    let mut versions = BTreeMap::new();
    let mut ids = Vec::new();
    for version in 0..4 {
        write_files(folder.path(), version..8, version);
        ids.push(back_up(repository, folder.path()).snapshot.unwrap());
        versions.insert(ids[version as usize], folder_contents(folder.path()));
    }
    (ids, versions)
}

/// A repository in which everything has happened: snapshots, forgotten and brought back, collected, a key more.
fn lived_in(store: &Store) -> (Repository, BTreeMap<SnapshotId, crate::model::Plain>) {
    let repository = create_quick(store.clone(), None);
    let (ids, mut versions) = four_versions(&repository);
    repository.forget(&ids[..1], "").unwrap();
    pruned(&repository, &tight());
    repository.forget(&ids[1..3], "").unwrap();
    repository.undelete(&ids[2..3]).unwrap();
    repository.add_key(&quick_key(2), None, "second").unwrap();
    versions.retain(|id, _| snapshots(&repository).iter().any(|(other, _)| other == id));
    assert_eq!(versions.len(), 2);
    (repository, versions)
}

/// Every snapshot that a reader of the store finds is one of these, and whole; the check has nothing to say.
#[track_caller]
fn assert_valid(
    store: &Store,
    versions: &BTreeMap<SnapshotId, crate::model::Plain>,
    what: &str,
) -> usize {
    let reader = open_quick(store.clone(), None);
    let monitor = RecordingMonitor::default();
    let found = reader.snapshots(&monitor).unwrap();
    assert_eq!(monitor.notes(), Vec::<String>::new(), "{what}");
    assert!(found.damaged.is_empty(), "{what}: {:?}", found.damaged);
    for (id, snapshot) in &found.all {
        let wanted = versions.get(id).unwrap_or_else(|| panic!("{what}: {id} is not wanted"));
        assert_same(&contents(&reader, snapshot), wanted, what);
    }
    let options = CheckOptions {
        data: DataSelection::All,
        restore_sample: 0,
        share_ledger: false,
        memory_budget: 64 << 20,
    };
    let mut damage = check(&reader, &options, &SilentMonitor).unwrap().damage;
    if what.starts_with("stopped") {
        // Slots come before the sweep that says why one before them is not there any more, and packs before the index.
        let comes = ["after a snapshot that is gone", "are in no index object"];
        damage.retain(|found| !comes.iter().any(|what| found.message.contains(what)));
    }
    assert_eq!(damage, [], "{what}");
    found.all.len()
}

#[test]
fn a_mirror_is_the_same_repository_byte_for_byte() {
    let store = Store::memory();
    let (repository, versions) = lived_in(&store);
    let to = Store::memory();
    let dry = MirrorOptions { dry_run: true, ..mirror_options() };
    let planned = mirrored_with(&repository, &to, &dry);
    assert_eq!(to.list("").unwrap(), []);
    let summary = mirrored(&repository, &to);
    assert_eq!(planned.bytes_copied, summary.bytes_copied);
    assert_eq!((planned.write_requests, summary.objects_copied), {
        let copied = to.list("").unwrap().len() as u64;
        (copied, copied)
    });
    assert!(objects(&to) == objects(&store), "other objects");
    assert_eq!(assert_valid(&to, &versions, "mirrored"), 2);
    // Every way in is there, too.
    Repository::open(to.clone(), &quick_key(2), crate::support::environment(None)).unwrap();

    let again =
        mirrored_with(&repository, &to, &MirrorOptions { verify: true, ..mirror_options() });
    // What it has beyond is the end of the session that the check above was registered with there.
    assert_eq!((again.objects_copied, again.objects_extra), (0, 1));
    assert_eq!(again.objects_verified, again.objects_known);
    assert!(again.objects_verified > 10 && again.is_whole());
}

#[test]
fn a_mirror_is_a_whole_repository_wherever_it_was_stopped_and_the_next_run_ends_it() {
    let store = Store::memory();
    let (repository, mut versions) = lived_in(&store);
    let older = Store::memory();
    mirrored(&repository, &older);
    // And then everything goes on.
    let folder = tempfile::tempdir().unwrap();
    write_files(folder.path(), 2..9, 9);
    let id = back_up(&repository, folder.path()).snapshot.unwrap();
    let gone = *versions
        .keys()
        .min_by_key(|id| snapshots(&repository).iter().position(|(other, _)| other == *id))
        .unwrap();
    repository.forget(&[gone], "").unwrap();
    pruned(&repository, &tight());
    versions.insert(id, folder_contents(folder.path()));
    let expected = objects(&store).len();
    for from in [&Store::memory(), &older] {
        for delete in [false, true] {
            let options = MirrorOptions { delete, ..mirror_options() };
            for call in 0.. {
                let to = copy_of(from);
                let control = FaultControl::new();
                control.stop_at(call, Effect::After);
                let faulty = to.clone().with_faults(control.clone());
                let outcome = Replica::new(&repository, faulty)
                    .map(|replica| mirror(&repository, &replica, &options, &SilentMonitor));
                let is_done = matches!(outcome, Ok(Ok(_)));
                let what = format!("stopped call {call}, delete {delete}");
                if to.size(layout::CONFIG).unwrap().is_some() {
                    assert_valid(&to, &versions, &what);
                } else {
                    let listed = to.list("").unwrap();
                    assert!(listed.iter().all(|object| object.name.starts_with("keys/")), "{what}");
                }
                if call % 7 == 0 || is_done {
                    let summary = mirrored_with(&repository, &to, &options);
                    assert!(summary.is_whole(), "{what}: {summary:?}");
                    let ended = format!("ended after {what}");
                    assert_eq!(assert_valid(&to, &versions, &ended), 2, "{what}");
                    let left = objects(&to).len();
                    match delete {
                        // Each of the checks above has ended its session there.
                        true => assert!(left <= expected + 2, "{what}: {left} of {expected}"),
                        false => {
                            let held = from.list("").unwrap();
                            let stays = |name: &str| to.size(name).unwrap().is_some();
                            assert!(held.iter().all(|object| stays(&object.name)), "{what}");
                        }
                    }
                }
                if control.calls() <= call {
                    assert!(is_done && call > 5, "{what}");
                    break;
                }
            }
        }
    }
}

/// Changes one byte of an object.
fn break_object(store: &Store, name: &str, at: usize) {
    let mut bytes = store.get(name).unwrap();
    bytes[at] ^= 1;
    store.delete(name).unwrap();
    store.create(name, bytes).unwrap();
}

#[test]
fn a_damaged_object_is_named_and_not_copied_and_a_good_one_is_not_replaced() {
    let store = Store::memory();
    let (repository, _) = lived_in(&store);
    let to = Store::memory();
    mirrored(&repository, &to);
    let pack = store.list(layout::PACKS).unwrap()[0].name.clone();
    let good = store.get(&pack).unwrap();
    break_object(&store, &pack, HEADER_LENGTH + 9);
    // Not there: named, not copied.
    let empty = Store::memory();
    let monitor = RecordingMonitor::default();
    let replica = Replica::new(&repository, empty.clone()).unwrap();
    let summary = mirror(&repository, &replica, &mirror_options(), &monitor).unwrap();
    assert_eq!(summary.damaged, std::slice::from_ref(&pack));
    assert_eq!(monitor.problems().len(), 1);
    assert_eq!(empty.size(&pack).unwrap(), None);
    assert_eq!(empty.list("").unwrap().len() + 1, to.list("").unwrap().len());
    // There: left as it is, and only a comparison of bytes can tell.
    assert!(mirrored(&repository, &to).is_whole());
    let verify = MirrorOptions { verify: true, ..mirror_options() };
    assert_eq!(mirrored_with(&repository, &to, &verify).damaged, std::slice::from_ref(&pack));
    assert!(to.get(&pack).unwrap() == good);
    // The other way round, and of another length.
    store.delete(&pack).unwrap();
    store.create(&pack, good.clone()).unwrap();
    break_object(&to, &pack, HEADER_LENGTH + 9);
    assert_eq!(mirrored_with(&repository, &to, &verify).differing, std::slice::from_ref(&pack));
    to.delete(&pack).unwrap();
    to.create(&pack, good[..good.len() / 2].to_vec()).unwrap();
    let found = mirrored(&repository, &to);
    assert_eq!((found.differing, found.objects_copied), (vec![pack.clone()], 0));
    assert_eq!(to.get(&pack).unwrap().len(), good.len() / 2);
}

#[test]
fn what_parity_can_mend_is_mended_on_the_way() {
    let settings = Settings { parity_percent: 50, ..small_settings() };
    let store = Store::memory();
    let repository = create_quick_with(store.clone(), settings, None);
    let folder = tempfile::tempdir().unwrap();
    write_files(folder.path(), 0..4, 0);
    back_up(&repository, folder.path());
    let pack = store.list(layout::PACKS).unwrap()[0].name.clone();
    let good = store.get(&pack).unwrap();
    break_object(&store, &pack, HEADER_LENGTH + 9);
    let to = Store::memory();
    let summary = mirrored(&repository, &to);
    assert_eq!(summary.mended, std::slice::from_ref(&pack));
    assert!(summary.is_whole() && to.get(&pack).unwrap() == good);
}

#[test]
fn nothing_is_deleted_but_what_collection_has_let_go_and_only_when_that_is_wanted() {
    let store = Store::memory();
    let (repository, versions) = lived_in(&store);
    let to = Store::memory();
    mirrored(&repository, &to);
    let before = objects(&to);
    let newest = snapshots(&repository).last().unwrap().0;
    let older: Vec<_> = versions.keys().filter(|id| **id != newest).copied().collect();
    repository.forget(&older, "").unwrap();
    pruned(&repository, &tight());
    let kept = mirrored(&repository, &to);
    assert!(kept.objects_deleted == 0 && kept.objects_let_go > 1, "{kept:?}");
    assert!(before.keys().all(|name| to.size(name).unwrap().is_some()));
    let delete = MirrorOptions { delete: true, ..mirror_options() };
    let planned =
        mirrored_with(&repository, &to, &MirrorOptions { dry_run: true, ..delete.clone() });
    let deleted = mirrored_with(&repository, &to, &delete);
    assert_eq!(deleted.objects_deleted, kept.objects_let_go);
    assert_eq!(planned.objects_deleted, deleted.objects_deleted);
    let live = BTreeMap::from([(newest, versions[&newest].clone())]);
    assert_eq!(assert_valid(&to, &live, "deleted"), 1);
    let packs = |store: &Store| store.list(layout::PACKS).unwrap().len();
    assert_eq!(packs(&to), packs(&store));

    // What the source has lost is no reason to delete: no sweep names it.
    for object in store.list(layout::PACKS).unwrap() {
        store.delete(&object.name).unwrap();
    }
    let lost = mirrored_with(&repository, &to, &delete);
    assert_eq!(lost.objects_deleted, 0);
    // And the end of the session of the check above.
    assert_eq!(lost.objects_extra, packs(&to) as u64 + 1);
    assert_eq!(assert_valid(&to, &live, "after the loss"), 1);
}

#[test]
fn keys_are_never_taken_away_from_a_mirror() {
    let store = Store::memory();
    let (repository, versions) = lived_in(&store);
    let to = Store::memory();
    mirrored(&repository, &to);
    let keys = to.list(layout::KEYS).unwrap();
    assert_eq!(keys.len(), 2);
    // Removed, lost, hidden, or of a state from before they were added: nobody can tell.
    for key in &keys {
        store.delete(&key.name).unwrap();
    }
    let delete = MirrorOptions { delete: true, ..mirror_options() };
    let monitor = RecordingMonitor::default();
    let replica = Replica::new(&repository, to.clone()).unwrap();
    let summary = mirror(&repository, &replica, &delete, &monitor).unwrap();
    assert_eq!((summary.objects_deleted, summary.objects_extra), (0, 2));
    assert!(
        monitor.notes().iter().any(|note| note.contains("key remove")),
        "{:?}",
        monitor.notes()
    );
    assert_eq!(to.list(layout::KEYS).unwrap(), keys);
    assert_eq!(assert_valid(&to, &versions, "without keys in the source"), 2);
}

#[test]
fn a_mirror_that_was_written_to_is_refused_and_loses_nothing() {
    let store = Store::memory();
    let (repository, _) = lived_in(&store);
    let to = Store::memory();
    mirrored(&repository, &to);
    let folder = tempfile::tempdir().unwrap();
    write_files(folder.path(), 0..4, 77);
    let written = back_up(&open_quick(to.clone(), None), folder.path()).snapshot.unwrap();
    write_files(folder.path(), 0..4, 78);
    back_up(&repository, folder.path());
    pruned(&repository, &tight());
    let before = objects(&to);
    for delete in [false, true] {
        let options = MirrorOptions { delete, ..mirror_options() };
        let replica = Replica::new(&repository, to.clone()).unwrap();
        let error = mirror(&repository, &replica, &options, &SilentMonitor).unwrap_err();
        let told = error.to_string();
        assert!(told.contains("was written to") && told.contains(&written.short()), "{told}");
        assert!(objects(&to) == before, "something was done");
    }
}

/// Takes an object away when everything has been listed.
struct Removing<'r> {
    store: &'r Store,
    name: &'r str,
}

impl Monitor for Removing<'_> {
    fn phase(&self, phase: Phase) {
        if phase == Phase::Mirror {
            self.store.delete(self.name).unwrap();
        }
    }
}

#[test]
fn what_was_taken_away_since_it_was_listed_is_not_damage() {
    let store = Store::memory();
    let (repository, _) = lived_in(&store);
    let whole = Store::memory();
    mirrored(&repository, &whole);
    let mirrored_without = |folder: &str| {
        let store = copy_of(&store);
        let repository = open_quick(store.clone(), None);
        let name = whole.list(folder).unwrap()[0].name.clone();
        let replica = Replica::new(&repository, Store::memory()).unwrap();
        let monitor = Removing { store: &store, name: &name };
        mirror(&repository, &replica, &mirror_options(), &monitor)
    };
    let summary = mirrored_without(layout::TOMBS).unwrap();
    assert!(summary.objects_gone == 1 && summary.is_whole(), "{summary:?}");
    // What is in a merged index object is in another one by now.
    let merged = mirrored_without(layout::INDEX);
    assert!(matches!(merged, Err(OpsError::Busy(_))), "{merged:?}");
}

#[test]
fn another_repository_and_a_folder_that_holds_something_are_refused() {
    let (repository, _) = lived_in(&Store::memory());
    let other = Store::memory();
    create_quick(other.clone(), None);
    let before = other.list("").unwrap();
    let error = Replica::new(&repository, other.clone()).map(drop).unwrap_err();
    assert_eq!(error.kind, Kind::Conflict);
    assert!(error.message.contains("another repository"), "{error}");
    let strange = Store::memory();
    strange.create("letters", b"Dear reader".to_vec()).unwrap();
    let error = Replica::new(&repository, strange).map(drop).unwrap_err();
    assert!(error.message.contains("not empty"), "{error}");
    assert_eq!(other.list("").unwrap(), before);
}

#[test]
fn a_mirror_beside_a_backup_and_a_collector_is_valid() {
    let store = Store::memory();
    let (repository, mut versions) = lived_in(&store);
    let to = Store::memory();
    for round in 0..6 {
        let folder = tempfile::tempdir().unwrap();
        write_files(folder.path(), round..round + 6, round + 20);
        let id = std::thread::scope(|scope| {
            let writing = scope.spawn(|| {
                let writer = open_quick(store.clone(), None);
                let id = back_up(&writer, folder.path()).snapshot.unwrap();
                pruned(&writer, &tight());
                id
            });
            let replica = Replica::new(&repository, to.clone()).unwrap();
            // A collector that waits for nobody may take away what was listed: then this run ends before it refers to it.
            let _ = mirror(&repository, &replica, &mirror_options(), &SilentMonitor);
            writing.join().unwrap()
        });
        versions.insert(id, folder_contents(folder.path()));
        let reader = open_quick(to.clone(), None);
        for (id, snapshot) in snapshots(&reader) {
            assert_same(&contents(&reader, &snapshot), &versions[&id], &format!("round {round}"));
        }
    }
    mirrored(&repository, &to);
    assert_eq!(all_contents(&open_quick(to, None)).len(), versions.len());
}
