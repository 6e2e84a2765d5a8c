//! Two writers at once on one repository: both snapshots are whole. A check beside collectors that wait for nobody: no
//! damage.

use std::fs;
use std::path::Path;
use std::sync::Barrier;

use aumbry::id::SnapshotId;
use aumbry::monitor::{Monitor, Phase, Progress};
use aumbry::ops::check::{CheckOptions, DataSelection, check};
use aumbry::repository::Repository;
use aumbry::store::{LocalMode, Store};

use crate::model::{
    assert_nothing_stored_twice, assert_same, create_quick, folder_contents, open_quick,
};
use crate::prune::{pruned, tight, write_files};
use crate::support::{back_up, contents, noise, snapshots};
use parking_lot::Mutex;

/// Folders that have half of their content in common.
fn make_overlapping(folder: &Path, writer: u64, round: u64) {
    for number in 0..30 {
        let shared = noise(9000, number + round * 30);
        fs::write(folder.join(format!("shared-{number}")), shared).unwrap();
        let own = noise(9000, number + 1000 * (writer + 1) + round * 30);
        fs::write(folder.join(format!("own-{number}")), own).unwrap();
    }
}

/// Both back up at the same moment, several times; then everything is read back by `stranger`.
fn race(first: &Repository, second: &Repository, stranger: impl Fn() -> Repository) {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    for round in 0..4 {
        for (writer, folder) in folders.iter().enumerate() {
            make_overlapping(folder.path(), writer as u64, round);
        }
        let barrier = Barrier::new(2);
        let run = |repository: &Repository, folder: &Path| {
            barrier.wait();
            back_up(repository, folder).snapshot.unwrap()
        };
        let ids = std::thread::scope(|scope| {
            let one = scope.spawn(|| run(first, folders[0].path()));
            let two = scope.spawn(|| run(second, folders[1].path()));
            [one.join().unwrap(), two.join().unwrap()]
        });
        let fresh = stranger();
        let all = snapshots(&fresh);
        assert_eq!(all.len(), 2 * (round as usize + 1));
        for (id, folder) in ids.iter().zip(&folders) {
            let (_, snapshot) = all.iter().find(|(other, _)| other == id).unwrap();
            let wanted = folder_contents(folder.path());
            assert_same(&contents(&fresh, snapshot), &wanted, &format!("round {round}"));
            for repository in [first, second] {
                assert_same(&contents(repository, snapshot), &wanted, &format!("round {round}"));
            }
        }
    }
}

#[test]
fn two_machines_back_up_at_once_and_both_snapshots_are_whole() {
    let caches = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let store = Store::memory();
    create_quick(store.clone(), None);
    let [first, second] =
        [0, 1].map(|number: usize| open_quick(store.clone(), Some(caches[number].path())));
    race(&first, &second, || open_quick(store.clone(), None));
}

#[test]
fn two_processes_share_a_cache_folder_and_both_snapshots_are_whole() {
    let (folder, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = Store::local(folder.path(), LocalMode::Open).unwrap();
    create_quick(store.clone(), None);
    let first = open_quick(store.clone(), Some(cache.path()));
    let second = open_quick(store.clone(), Some(cache.path()));
    race(&first, &second, || open_quick(store.clone(), None));
    drop((first, second));
    // The cache that both left behind is right, too.
    let after = open_quick(store.clone(), Some(cache.path()));
    let source = tempfile::tempdir().unwrap();
    make_overlapping(source.path(), 0, 3);
    let stored = back_up(&after, source.path()).counts.data_blobs;
    assert_eq!(stored, 0, "everything is there already");
}

#[test]
fn two_threads_share_a_repository_and_both_snapshots_are_whole() {
    let store = Store::memory();
    let repository = create_quick(store.clone(), None);
    race(&repository, &repository, || open_quick(store.clone(), None));
}

#[test]
fn one_after_the_other_stores_nothing_twice() {
    let store = Store::memory();
    let first = create_quick(store.clone(), None);
    let second = open_quick(store, None);
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    for (writer, folder) in folders.iter().enumerate() {
        make_overlapping(folder.path(), writer as u64, 0);
    }
    back_up(&first, folders[0].path());
    back_up(&second, folders[1].path());
    assert_nothing_stored_twice(&first, "two writers in turn");
}

/// Forgets a snapshot and collects without waiting, once, when a check begins something or has read so many packs.
struct Hasty<'h> {
    collector: &'h Repository,
    forgotten: SnapshotId,
    at: Moment,
    is_due: Mutex<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    Begin(Phase),
    /// After so many packs of the data.
    Read(u64),
}

impl Hasty<'_> {
    fn collect(&self) {
        self.collector.forget(&[self.forgotten], "").unwrap();
        for _ in 0..2 {
            pruned(self.collector, &tight());
        }
    }
}

impl Monitor for Hasty<'_> {
    fn phase(&self, phase: Phase) {
        if self.at == Moment::Begin(phase) && std::mem::take(&mut *self.is_due.lock()) > 0 {
            self.collect();
        }
    }

    fn advance(&self, _: Progress) {
        let Moment::Read(packs) = self.at else { return };
        let mut read = self.is_due.lock();
        *read += 1;
        if *read == packs + 1 {
            self.collect();
        }
    }
}

#[test]
fn a_check_finds_no_damage_where_a_collector_that_waits_for_nobody_has_been() {
    let mut notes = Vec::new();
    let moments = [Phase::LoadIndex, Phase::CheckStructure, Phase::CheckData].map(Moment::Begin);
    for at in moments.into_iter().chain([1, 3, 6].map(Moment::Read)) {
        for cached in [false, true] {
            let store = Store::memory();
            let cache = cached.then(|| tempfile::tempdir().unwrap());
            let collector = create_quick(store.clone(), None);
            let folder = tempfile::tempdir().unwrap();
            let mut versions = Vec::new();
            for version in 0..10 {
                // Each needs some of the packs of all before it.
                write_files(folder.path(), version..12, version);
                versions.push(back_up(&collector, folder.path()).snapshot.unwrap());
            }
            let checker = open_quick(store.clone(), cache.as_ref().map(tempfile::TempDir::path));
            let hasty =
                Hasty { collector: &collector, forgotten: versions[2], at, is_due: Mutex::new(1) };
            let options = CheckOptions {
                data: DataSelection::All,
                restore_sample: 0,
                share_ledger: false,
                memory_budget: 64 << 20,
            };
            let packs = store.list("packs/").unwrap().len();
            let summary = check(&checker, &options, &hasty).unwrap();
            assert!(store.list("packs/").unwrap().len() < packs, "{at:?}: nothing was collected");
            assert_eq!(summary.damage, [], "{at:?}");
            notes.extend(summary.notes);
        }
    }
    assert!(notes.iter().any(|note| note.contains("went while this check ran")), "{notes:#?}");
}
