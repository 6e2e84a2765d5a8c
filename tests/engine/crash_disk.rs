//! Stops at changes to the local disk: the scenarios of `crash_collection` end at every write, length, sync, name and
//! removal below their cache. Then somebody goes on with the cache as it was left, as a power failure would have left
//! it, or without. And where only the disk fails, whatever is reported nevertheless is true.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use aumbry::monitor::SilentMonitor;
use aumbry::store::Store;

use crate::crash_collection::{Next, SCENARIOS, Scenario, Stop, folder};
use crate::disk::{Disk, Last};
use crate::model::{create_quick, open_quick};
use crate::prune::{pruned, tight, write_files};
use crate::support::back_up;

/// Who goes on after a process was stopped at a change to its disk.
const NEXT: [Next; 6] =
    [Next::Same, Next::Unsynced, Next::Torn(1), Next::Torn(2), Next::Torn(3), Next::Stranger];

/// Stops the scenario at every `stride`th change. Each stop is followed by one continuation, in turn, or by all.
fn stop_at_changes(scenario: &Scenario, is_conditional: bool, stride: usize, all: bool) -> u64 {
    let world = (scenario.world)(is_conditional);
    let (mut turn, mut runs) = (0, 0);
    for kind in 0..3 {
        let mut number = 0;
        loop {
            let stop = match kind {
                0 => Stop::Change(number, Last::Undone),
                1 => Stop::Change(number, Last::Half),
                _ => Stop::BrokenDisk(number),
            };
            let stopped = scenario.stop(&world, stop);
            for (position, next) in NEXT.into_iter().enumerate() {
                for backup_first in [false, true] {
                    if all || position * 2 + usize::from(backup_first) == turn % 12 {
                        let next = match next {
                            Next::Torn(seed) => Next::Torn(seed + 7 * turn as u64),
                            next => next,
                        };
                        stopped.go_on(scenario, &world, next, backup_first);
                        runs += 1;
                    }
                }
            }
            // Coprime with the number of continuations.
            turn += 5;
            if !stopped.reached {
                // Opening the cache alone takes some.
                assert!(number > 1, "{}: {number} changes", scenario.name);
                break;
            }
            number += stride;
        }
    }
    runs
}

macro_rules! stopped_at_any_change {
    ($($test:ident: $name:literal, $stride:literal;)*) => {$(
        #[test]
        fn $test() {
            let scenario = SCENARIOS.iter().find(|scenario| scenario.name == $name).unwrap();
            stop_at_changes(scenario, true, $stride, false);
        }
    )*};
}

stopped_at_any_change! {
    a_backup_may_be_stopped_at_any_change_to_its_disk: "backup", 7;
    a_backup_by_a_new_client_may_be_stopped_at_any_change_to_its_disk: "backup by a new client", 7;
    a_forget_may_be_stopped_at_any_change_to_its_disk: "forget", 1;
    an_undelete_may_be_stopped_at_any_change_to_its_disk: "undelete", 3;
    a_prune_that_copies_may_be_stopped_at_any_change_to_its_disk: "prune that copies", 23;
    a_prune_that_merges_may_be_stopped_at_any_change_to_its_disk: "prune that merges", 23;
    merging_may_be_stopped_at_any_change_to_its_disk: "merging of index objects", 7;
    repairing_the_index_may_be_stopped_at_any_change_to_its_disk: "repair of the index", 11;
    salvaging_may_be_stopped_at_any_change_to_its_disk: "repair that salvages packs", 11;
    rewriting_snapshots_may_be_stopped_at_any_change_to_its_disk: "repair of snapshots", 11;
    a_new_epoch_may_be_stopped_at_any_change_to_its_disk: "rekey: a new epoch", 3;
    draining_may_be_stopped_at_any_change_to_its_disk: "rekey: a prune that drains", 23;
}

/// Every change, every continuation, both forms: long. It says how many runs that were.
#[test]
#[ignore = "takes long: cargo test --test engine every_change_and_every_continuation -- --ignored --nocapture"]
fn every_change_and_every_continuation() {
    let mut total = 0;
    for scenario in SCENARIOS {
        for is_conditional in [true, false] {
            let runs = stop_at_changes(scenario, is_conditional, 1, true);
            println!("{}, create-if-absent {is_conditional}: {runs} runs", scenario.name);
            total += runs;
        }
    }
    println!("{total} runs");
}

fn contents_of(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(below) = folders.pop() {
        for entry in fs::read_dir(folder.join(&below)).unwrap() {
            let path = below.join(entry.unwrap().file_name());
            match folder.join(&path).is_dir() {
                true => folders.push(path),
                false => drop(found.insert(path.clone(), fs::read(folder.join(&path)).unwrap())),
            }
        }
    }
    found
}

#[test]
fn what_is_seen_is_all_that_changes() {
    let (cache, source) = (folder(), folder());
    let disk = Disk::watch(cache.path(), None, Box::new(|| {}));
    let store = Store::memory();
    let repository = create_quick(store.clone(), Some(cache.path()));
    for version in 0..4 {
        write_files(source.path(), 0..6, version);
        let id = back_up(&repository, source.path()).snapshot.unwrap();
        if version < 2 {
            repository.forget(&[id], "").unwrap();
        }
    }
    pruned(&repository, &tight());
    drop(repository);
    let repository = open_quick(store, Some(cache.path()));
    repository.refresh_index(&SilentMonitor).unwrap();
    pruned(&repository, &tight());
    drop(repository);
    assert!(disk.changes() > 100, "{} changes", disk.changes());
    let (seen, there) = (disk.state().files(), contents_of(cache.path()));
    assert!(there.len() > 2);
    let names: Vec<_> = there.keys().collect();
    assert_eq!(seen.keys().collect::<Vec<_>>(), names);
    for (path, bytes) in &there {
        assert!(seen[path] == *bytes, "{}", path.display());
    }
}
