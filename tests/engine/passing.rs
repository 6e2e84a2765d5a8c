//! A call to the store that fails once, and passes when it is made again, is told as what it is: nothing is taken for
//! lost or damaged because of it, and whoever runs the command again comes to the same end. And what is gone between
//! being listed and being read was removed by a collector, which is no error.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use aumbry::clock::FakeClock;
use aumbry::monitor::{Monitor, Phase, Problem, SilentMonitor};
use aumbry::ops::OpsError;
use aumbry::ops::prune::prune;
use aumbry::ops::repair::{
    RepairOptions, repair_config, repair_generations, repair_index, repair_packs, repair_snapshots,
};
use aumbry::ops::undelete::undelete;
use aumbry::repository::chance::Chance;
use aumbry::repository::error::Kind;
use aumbry::repository::{Environment, Repository};
use aumbry::store::{FaultControl, Store, layout};
use aumbry::units::Timestamp;

use crate::crash_collection::World;
use crate::crash_repairs;
use crate::model::{copy_of, create_quick, open_quick, quick_key};
use crate::prune::{assert_whole, tight, write_files};
use crate::support::{back_up, environment, repair_options};

/// Runs a command and says what it has to tell.
type Command = fn(&Repository) -> Result<String, OpsError>;

fn looking() -> RepairOptions {
    RepairOptions { dry_run: true, ..repair_options() }
}

/// Clients that draw the same numbers at the same time, so that what they tell can be compared.
fn client(store: &Store, seed: u64) -> Repository {
    let clock = Arc::new(FakeClock::new(Timestamp { seconds: 2_000_000_000, nanoseconds: 0 }));
    let environment = Environment { clock, chance: Chance::seeded(seed), ..environment(None) };
    Repository::open(store.clone(), &quick_key(1), environment).unwrap()
}

/// Without the names that were drawn, lengths, which vary with the padding, and what was tidied up: a session that only
/// looks may do without being registered.
fn comparable(told: &str) -> String {
    let mut told = told.to_string();
    for (begin, end) in [("random: [", "]"), ("bytes_written: ", " "), ("cleared: Cleared {", "}")]
    {
        let mut parts = told.split(begin);
        let first = parts.next().unwrap().to_string();
        let rest = parts.map(|part| part.split_once(end).unwrap().1);
        told = std::iter::once(first.as_str()).chain(rest).collect();
    }
    told
}

/// What counts as damaged, and the roots of the snapshots that are there.
fn state(store: &Store) -> [Vec<String>; 2] {
    let objects = store.list("").unwrap().into_iter().map(|object| object.name);
    let is_judged =
        |name: &String| name.starts_with(layout::DAMAGED) || name.starts_with(layout::QUARANTINE);
    let snapshots = client(store, 9).snapshots(&SilentMonitor).unwrap().all;
    let mut roots: Vec<_> =
        snapshots.iter().map(|(_, snapshot)| format!("{:?}", snapshot.root)).collect();
    roots.sort();
    [objects.filter(is_judged).collect(), roots]
}

/// Lets each call of the command fail in turn.
fn fail_everywhere(world: &World, command: Command, calls: u64) {
    let (wanted, end) = {
        let store = copy_of(&world.store);
        let told = command(&client(&store, 1)).unwrap();
        (comparable(&told), state(&store))
    };
    for call in 0.. {
        let (store, control) = (copy_of(&world.store), FaultControl::new());
        let repository = client(&store.clone().with_faults(control.clone()), 1);
        let at = control.calls() + call;
        control.fail_at(at);
        match command(&repository) {
            Ok(told) => assert_eq!(comparable(&told), wanted, "call {call}"),
            Err(OpsError::Repository(error)) => {
                assert_eq!(error.kind, Kind::Unavailable, "call {call}: {error}");
                assert!(error.message.contains("this call fails"), "call {call}: {error}");
                let again = command(&repository);
                assert!(again.is_ok(), "call {call}, again: {again:?}");
            }
            Err(error) => panic!("call {call}: {error}"),
        }
        assert_eq!(state(&store), end, "call {call}");
        if control.calls() <= at {
            assert!(call >= calls, "{call} calls");
            break;
        }
    }
}

/// Lets each read find nothing in turn. What these folders hold, collectors remove.
fn miss_everywhere(world: &World, command: Command, folders: &[&str]) {
    for read in 0.. {
        let (store, control) = (copy_of(&world.store), FaultControl::new());
        let repository = client(&store.with_faults(control.clone()), 1);
        let at = control.reads() + read;
        control.miss_read(at);
        match command(&repository) {
            Ok(_) => {}
            Err(OpsError::Repository(error)) => {
                let is_removable = |folder: &&str| error.item.starts_with(*folder);
                assert!(!folders.iter().any(is_removable), "read {read}: {error}");
            }
            Err(error) => panic!("read {read}: {error}"),
        }
        if control.reads() <= at {
            assert!(read > 2, "{read} reads");
            break;
        }
    }
}

fn pruned(repository: &Repository) -> Result<String, OpsError> {
    prune(repository, &tight(), &SilentMonitor).map(|done| format!("{done:?}"))
}

fn config_repaired(repository: &Repository) -> Result<String, OpsError> {
    repair_config(repository, &repair_options()).map(|done| format!("{done:?}"))
}

fn generations_repaired(repository: &Repository) -> Result<String, OpsError> {
    repair_generations(repository, &repair_options(), &SilentMonitor)
        .map(|done| format!("{done:?}"))
}

fn index_looked_at(repository: &Repository) -> Result<String, OpsError> {
    repair_index(repository, &looking(), &SilentMonitor).map(|done| format!("{done:?}"))
}

fn index_repaired(repository: &Repository) -> Result<String, OpsError> {
    repair_index(repository, &repair_options(), &SilentMonitor).map(|done| format!("{done:?}"))
}

fn packs_repaired(repository: &Repository) -> Result<String, OpsError> {
    repair_packs(repository, &repair_options(), &SilentMonitor).map(|done| format!("{done:?}"))
}

fn snapshots_looked_at(repository: &Repository) -> Result<String, OpsError> {
    repair_snapshots(repository, &looking(), &SilentMonitor).map(|done| format!("{done:?}"))
}

fn snapshots_repaired(repository: &Repository) -> Result<String, OpsError> {
    repair_snapshots(repository, &repair_options(), &SilentMonitor).map(|done| format!("{done:?}"))
}

fn brought_back(repository: &Repository) -> Result<String, OpsError> {
    let found = repository.snapshots(&SilentMonitor)?;
    let forgotten: Vec<_> = found.tombs.iter().copied().collect();
    Ok(format!("{:?}", undelete(repository, &forgotten, &SilentMonitor)?))
}

/// Follows the sweeps and takes in the index.
fn looked(repository: &Repository) -> Result<String, OpsError> {
    let generations = repository.refresh_index(&SilentMonitor)?.generations;
    let known = repository.cache().packs()?.len();
    let open = generations.open.map(|(generation, _)| generation);
    let trouble = generations.trouble;
    Ok(format!("{known} packs, {open:?}, {trouble:?}, {:?}", repository.cache().followed()?))
}

/// A pack is recorded as damaged that can be read: what is in it is to be stored again.
fn with_a_pack_that_does_not_count() -> World {
    let world = World::of_versions(true);
    let repository = world.client();
    let (_, pack) = repository.cache().packs().unwrap().remove(0);
    repository.record_damage(pack.id, "a test", &[]).unwrap();
    world
}

/// Several generations have ended, another is open, and there is a tomb.
fn of_several_generations() -> World {
    let world = World::with_a_forgotten_one(true);
    let repository = world.client();
    pruned(&repository).unwrap();
    for version in 5..7 {
        write_files(world.source.path(), 0..3, version);
        let id = back_up(&repository, world.source.path()).snapshot.unwrap();
        repository.forget(&[id], "").unwrap();
        pruned(&repository).unwrap();
    }
    let id = back_up(&repository, world.source.path()).snapshot.unwrap();
    repository.forget(&[id], "").unwrap();
    let generations = repository.generations().unwrap();
    assert!(generations.sweeps.len() > 1);
    repository.condemn(&generations, Vec::new()).unwrap().unwrap();
    world
}

macro_rules! a_call_that_fails_is_told {
    ($($test:ident: $world:expr, $command:ident, $calls:literal;)*) => {$(
        #[test]
        fn $test() {
            fail_everywhere(&$world, $command, $calls);
        }
    )*};
}

a_call_that_fails_is_told! {
    in_a_prune_that_copies: World::with_a_forgotten_one(true), pruned, 60;
    in_a_prune_that_takes_a_generation_over: World::with_an_open_generation(true), pruned, 40;
    in_a_prune_that_merges: World::of_many_backups(true), pruned, 40;
    in_a_prune_where_one_client_collects: World::of_whole_packs(false), pruned, 40;
    in_an_undelete: World::with_a_forgotten_one(true), brought_back, 5;
    in_following_the_sweeps: of_several_generations(), looked, 5;
    in_a_repair_of_the_config: World::of_versions(true), config_repaired, 1;
    in_a_repair_of_generations: crash_repairs::with_a_damaged_generation(true), generations_repaired, 10;
    in_a_look_at_a_whole_index: World::of_versions(true), index_looked_at, 5;
    in_a_look_at_the_index: crash_repairs::without_index(true), index_looked_at, 10;
    in_a_repair_of_the_index: crash_repairs::without_index(true), index_repaired, 10;
    in_a_repair_of_packs_by_parity: crash_repairs::with_parity_and_damage(true), packs_repaired, 10;
    in_a_repair_that_salvages_packs: crash_repairs::with_a_loss(true), packs_repaired, 10;
    in_a_look_at_snapshots: crash_repairs::with_a_loss_that_is_known(true), snapshots_looked_at, 10;
    in_a_repair_that_stores_again: with_a_pack_that_does_not_count(), snapshots_repaired, 10;
    in_a_repair_of_snapshots: crash_repairs::with_a_loss_that_is_known(true), snapshots_repaired, 10;
}

#[test]
fn what_is_gone_when_it_is_read_is_passed_over() {
    let world = of_several_generations();
    miss_everywhere(&world, looked, &[layout::GC, layout::INDEX]);
    miss_everywhere(&world, generations_repaired, &[layout::GC, layout::TOMBS]);
    miss_everywhere(&world, index_looked_at, &[layout::GC, layout::INDEX]);
    miss_everywhere(
        &world,
        snapshots_looked_at,
        &[layout::GC, layout::INDEX, layout::TOMBS, layout::SNAPSHOTS],
    );
}

#[test]
fn a_store_that_is_full_once_is_said_to_be_full_and_the_next_prune_comes_to_the_same_end() {
    for world in [World::with_a_forgotten_one(true), World::of_many_backups(true)] {
        let end = {
            let store = copy_of(&world.store);
            pruned(&client(&store, 1)).unwrap();
            state(&store)
        };
        for create in 0.. {
            let (store, control) = (copy_of(&world.store), FaultControl::new());
            let repository = client(&store.clone().with_faults(control.clone()), 1);
            let at = control.creates() + create;
            control.fail_create_with_full(at);
            match prune(&repository, &tight(), &SilentMonitor) {
                Ok(_) => {}
                Err(OpsError::Repository(error)) => {
                    assert_eq!(error.kind, Kind::Full, "create {create}: {error}");
                }
                Err(error) => panic!("create {create}: {error}"),
            }
            if control.creates() <= at {
                assert!(create > 3, "{create} creates");
                break;
            }
            pruned(&repository).unwrap();
            assert_eq!(state(&store), end, "create {create}");
        }
    }
}

#[test]
fn who_is_not_the_one_that_collects_does_not_become_it_because_a_call_failed() {
    let world = World::of_whole_packs(false);
    pruned(&client(&world.store, 1)).unwrap();
    let named = world.store.get(layout::MAINTAINER).unwrap();
    for call in 0.. {
        let (store, control) = (copy_of(&world.store).without_conditions(), FaultControl::new());
        let other = client(&store.clone().with_faults(control.clone()), 2);
        let at = control.calls() + call;
        control.fail_at(at);
        let error = pruned(&other).unwrap_err().to_string();
        assert!(error.contains("--become-maintainer") || error.contains("this call fails"));
        assert!(store.get(layout::MAINTAINER).unwrap() == named, "call {call}");
        if control.calls() <= at {
            break;
        }
    }
}

/// Another collector, which is faster: it prunes when the one that is watched begins to copy, once.
struct Faster<'r> {
    other: &'r Repository,
    has_pruned: AtomicBool,
    problems: Mutex<Vec<String>>,
}

impl Monitor for Faster<'_> {
    fn phase(&self, phase: Phase) {
        if phase == Phase::Repack && !self.has_pruned.swap(true, Ordering::Relaxed) {
            let done = prune(self.other, &tight(), &SilentMonitor).unwrap();
            assert!(done.packs_deleted > 0, "{done:?}");
        }
    }

    fn problem(&self, problem: Problem) {
        self.problems.lock().unwrap().push(format!("{}: {}", problem.item, problem.message));
    }
}

#[test]
fn a_pack_that_another_collector_dropped_before_it_was_copied_is_no_damage() {
    let (store, folder) = (Store::memory(), tempfile::tempdir().unwrap());
    let repository = create_quick(store.clone(), None);
    write_files(folder.path(), 0..12, 1);
    let old = back_up(&repository, folder.path()).snapshot.unwrap();
    write_files(folder.path(), 0..6, 2);
    back_up(&repository, folder.path());
    repository.forget(&[old], "").unwrap();
    let other = open_quick(store.clone(), None);
    let faster =
        Faster { other: &other, has_pruned: AtomicBool::new(false), problems: Mutex::default() };
    let done = prune(&repository, &tight(), &faster).unwrap();
    assert!(faster.has_pruned.into_inner(), "nothing was to be copied: {done:?}");
    assert_eq!(faster.problems.into_inner().unwrap(), [] as [String; 0]);
    assert_whole(&store);
}
