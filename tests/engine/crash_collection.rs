//! Whatever gives space back is stopped at every call to the store, before and after its effect; then somebody goes
//! on: a client that knows nothing, or the same one with its cache as it was when it was stopped, as it was before,
//! cut short or overwritten in parts. Nothing reported is lost, nothing is stuck, and all garbage goes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use aumbry::clock::{Clock, FakeClock, SystemClock};
use aumbry::format::session::Purpose;
use aumbry::id::{SessionId, SnapshotId};
use aumbry::monitor::SilentMonitor;
use aumbry::ops::OpsError;
use aumbry::ops::backup::backup;
use aumbry::ops::prune::{PruneOptions, prune};
use aumbry::repository::{Environment, Repository};
use aumbry::store::{Effect, FaultControl, Store, layout};
use tempfile::TempDir;

use crate::model::{
    Plain, assert_same, copy_folder, create_quick, folder_contents, open_quick, quick_key,
};
use crate::prune::{Eventful, assert_whole, files, tight, write_files};
use crate::support::{back_up, back_up_with, contents, environment, noise, options, snapshots};

/// A repository before what is to be stopped.
struct World {
    store: Store,
    cache: TempDir,
    source: TempDir,
    /// What was reported as saved, and what it holds.
    reported: BTreeMap<SnapshotId, Plain>,
    /// What somebody began to forget, or brings back: it may be there or not.
    open: BTreeSet<SnapshotId>,
}

/// What an action has reported.
#[derive(Debug, Default)]
struct Reported {
    back: Vec<SnapshotId>,
    forgotten: Vec<SnapshotId>,
}

type Outcome = Result<Reported, OpsError>;

/// What is stopped, and where.
struct Scenario {
    name: &'static str,
    world: fn(bool) -> World,
    action: fn(&Repository, &World) -> Outcome,
    /// A backup by another client runs meanwhile, has read all it wants to save when this begins, and ends when it
    /// has been stopped.
    beside_a_backup: bool,
    /// Calls to the store that it makes at least.
    calls: u64,
}

const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "forget",
        world: World::of_versions,
        action: forget_open,
        beside_a_backup: false,
        calls: 2,
    },
    Scenario {
        name: "undelete",
        world: World::with_a_forgotten_one,
        action: undelete_open,
        beside_a_backup: false,
        calls: 8,
    },
    Scenario {
        name: "backup",
        world: World::with_a_forgotten_one,
        action: back_up_more,
        beside_a_backup: false,
        calls: 12,
    },
    Scenario {
        name: "prune that drops",
        world: World::of_whole_packs,
        action: prune_tightly,
        beside_a_backup: false,
        calls: 40,
    },
    Scenario {
        name: "prune that copies",
        world: World::with_a_forgotten_one,
        action: prune_tightly,
        beside_a_backup: false,
        calls: 60,
    },
    Scenario {
        name: "prune that takes a generation over",
        world: World::with_an_open_generation,
        action: prune_tightly,
        beside_a_backup: false,
        calls: 40,
    },
    Scenario {
        name: "merging of index objects",
        world: World::of_many_backups,
        action: merge,
        beside_a_backup: false,
        calls: 20,
    },
    Scenario {
        name: "prune that merges",
        world: World::of_many_backups,
        action: prune_tightly,
        beside_a_backup: false,
        calls: 40,
    },
    Scenario {
        name: "prune that gives up a backup",
        world: World::with_a_forgotten_one,
        action: prune_tightly,
        beside_a_backup: true,
        calls: 40,
    },
];

fn forget_open(repository: &Repository, world: &World) -> Outcome {
    let ids: Vec<_> = world.open.iter().copied().collect();
    repository.forget(&ids, "stopped")?;
    Ok(Reported { forgotten: ids, ..Reported::default() })
}

fn undelete_open(repository: &Repository, world: &World) -> Outcome {
    let ids: Vec<_> = world.open.iter().copied().collect();
    repository.undelete(&ids)?;
    Ok(Reported { back: ids, ..Reported::default() })
}

fn back_up_more(repository: &Repository, world: &World) -> Outcome {
    let summary = back_up_with(repository, world.source.path(), &options(), &SilentMonitor)?;
    Ok(Reported { back: summary.snapshot.into_iter().collect(), ..Reported::default() })
}

fn prune_tightly(repository: &Repository, _: &World) -> Outcome {
    prune(repository, &tight(), &SilentMonitor)?;
    Ok(Reported::default())
}

fn merge(repository: &Repository, _: &World) -> Outcome {
    repository.merge_indexes(&SilentMonitor)?;
    Ok(Reported::default())
}

impl World {
    fn empty(is_conditional: bool) -> (World, Repository) {
        let store = form(Store::memory(), is_conditional);
        let (source, cache) = (folder(), folder());
        let repository = create_quick(store.clone(), Some(cache.path()));
        let world =
            World { store, cache, source, reported: BTreeMap::new(), open: BTreeSet::new() };
        (world, repository)
    }

    fn save(&mut self, repository: &Repository) -> SnapshotId {
        let id = back_up(repository, self.source.path()).snapshot.unwrap();
        self.reported.insert(id, folder_contents(self.source.path()));
        id
    }

    /// Three snapshots that share some files; the first two are to go. Afterwards the folder is as in the first.
    fn of_versions(is_conditional: bool) -> World {
        let (mut world, repository) = World::empty(is_conditional);
        write_files(world.source.path(), 0..6, 1);
        let first = world.save(&repository);
        write_files(world.source.path(), 0..3, 2);
        let second = world.save(&repository);
        write_files(world.source.path(), 2..4, 3);
        world.save(&repository);
        write_files(world.source.path(), 0..4, 1);
        world.open.extend([first, second]);
        world
    }

    /// The same, and the first two are forgotten.
    fn with_a_forgotten_one(is_conditional: bool) -> World {
        let world = Self::of_versions(is_conditional);
        forget_open(&world.client(), &world).unwrap();
        world
    }

    /// Two snapshots that share nothing but names, the first of them forgotten.
    fn of_whole_packs(is_conditional: bool) -> World {
        let (mut world, repository) = World::empty(is_conditional);
        write_files(world.source.path(), 0..4, 1);
        let first = world.save(&repository);
        write_files(world.source.path(), 0..4, 2);
        world.save(&repository);
        world.open.insert(first);
        repository.forget(&[first], "").unwrap();
        world
    }

    /// A generation that a reader held up, which has ended.
    fn with_an_open_generation(is_conditional: bool) -> World {
        let world = Self::of_whole_packs(is_conditional);
        let repository = world.client();
        let reader = repository.register(Purpose::Read).unwrap();
        let held = prune(&repository, &PruneOptions::default(), &SilentMonitor).unwrap();
        assert_eq!(held.held_by.len(), 1);
        repository.abort(reader).unwrap();
        world
    }

    /// As many snapshots as make index objects worth merging.
    fn of_many_backups(is_conditional: bool) -> World {
        let (mut world, repository) = World::empty(is_conditional);
        for version in 0..10 {
            let file = world.source.path().join("file");
            fs::write(file, noise(3000, version)).unwrap();
            world.save(&repository);
        }
        world
    }

    fn client(&self) -> Repository {
        open_quick(self.store.clone(), Some(self.cache.path()))
    }
}

/// A folder in memory where there is one: caches wait for their disk, and here thousands are made.
fn folder() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

fn form(store: Store, is_conditional: bool) -> Store {
    if is_conditional { store } else { store.without_conditions() }
}

/// A store in memory with the same objects, and of the same form.
fn copy_of(store: &Store) -> Store {
    form(crate::model::copy_of(store), store.is_conditional())
}

/// Who goes on.
#[derive(Debug, Clone, Copy)]
enum Next {
    /// A client that knows nothing.
    Stranger,
    /// The same, with its cache as it was when it was stopped.
    Same,
    /// The same, and nothing that it wrote locally had reached the disk.
    Forgetful,
    /// The same, with half of every file in its cache.
    CutShort,
    /// The same, with other bytes in the middle of what its cache knows of blobs.
    Overwritten,
}

const NEXT: [Next; 5] =
    [Next::Stranger, Next::Same, Next::Forgetful, Next::CutShort, Next::Overwritten];

impl Next {
    /// The cache that this client goes on with.
    fn cache(self, before: &Path, stopped: &Path) -> Option<TempDir> {
        let cache = folder();
        match self {
            Next::Stranger => return None,
            Next::Forgetful => copy_folder(before, cache.path()),
            Next::Same => copy_folder(stopped, cache.path()),
            Next::CutShort => {
                copy_folder(stopped, cache.path());
                change_files(cache.path(), &|bytes| bytes.truncate(bytes.len() / 2));
            }
            Next::Overwritten => {
                copy_folder(stopped, cache.path());
                let runs = fs::read_dir(cache.path()).unwrap().map(|entry| entry.unwrap().path());
                let runs = runs.filter(|path| path.is_dir());
                runs.for_each(|folder| {
                    change_files(&folder, &|bytes| {
                        let middle = bytes.len() / 2;
                        let end = bytes.len().min(middle + 4096);
                        let other = noise(end - middle, 7);
                        bytes[middle..end].copy_from_slice(&other);
                    })
                });
            }
        }
        Some(cache)
    }
}

fn change_files(folder: &Path, change: &dyn Fn(&mut Vec<u8>)) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            change_files(&path, change);
        } else {
            let mut bytes = fs::read(&path).unwrap();
            change(&mut bytes);
            fs::write(&path, bytes).unwrap();
        }
    }
}

/// What is there after one was stopped, or two one after the other.
struct Stopped {
    store: Store,
    /// The cache of the one that was stopped last.
    cache: TempDir,
    reported: BTreeMap<SnapshotId, Plain>,
    open: BTreeSet<SnapshotId>,
    /// Whether a call was left to be stopped at.
    reached: bool,
    what: String,
}

impl Scenario {
    /// Runs it on a copy of `world` and stops it at a call.
    fn stop(&self, world: &World, call: u64, effect: Effect) -> Stopped {
        let what = format!("{} stopped {effect:?} call {call}", self.name);
        let store = copy_of(&world.store);
        let cache = folder();
        copy_folder(world.cache.path(), cache.path());
        let kept = folder();
        let control = FaultControl::new();
        let repository = open_quick(store.clone().with_faults(control.clone()), Some(cache.path()));
        let mut outcome = None;
        let mut reached = false;
        let mut run = || {
            let at = control.calls() + call;
            control.stop_at(at, effect);
            outcome = Some((self.action)(&repository, world));
            reached = control.calls() > at;
            // The process is gone: its cache is what the machine would find, nothing closed.
            copy_folder(cache.path(), kept.path());
        };
        let mut beside = None;
        if self.beside_a_backup {
            let other = open_quick(store.clone(), None);
            let mut source =
                Eventful { inner: files(world.source.path()), event: Some(Box::new(&mut run)) };
            let summary = backup(&other, &mut source, &options(), &SilentMonitor);
            drop(source);
            beside = Some(summary.unwrap_or_else(|error| panic!("{what}: {error}")));
        } else {
            run();
        }
        let outcome = outcome.unwrap();
        assert_eq!(outcome.is_err(), reached, "{what}: {outcome:?}");
        assert!(reached || call >= self.calls, "{what}: it makes more calls");
        let (mut reported, mut open) = (world.reported.clone(), world.open.clone());
        let said = outcome.unwrap_or_default();
        let back = beside.and_then(|summary| summary.snapshot);
        for id in said.back.into_iter().chain(back) {
            open.remove(&id);
            reported.entry(id).or_insert_with(|| folder_contents(world.source.path()));
        }
        open.extend(said.forgotten);
        Stopped { store, cache: kept, reported, open, reached, what }
    }
}

/// A client after the trouble, whose clock can be moved.
struct Client {
    repository: Repository,
    clock: Arc<FakeClock>,
}

impl Client {
    fn open(store: &Store, cache: Option<&Path>) -> Self {
        let clock = Arc::new(FakeClock::new(SystemClock::new().now()));
        let environment = Environment { clock: clock.clone(), ..environment(cache) };
        let repository = Repository::open(store.clone(), &quick_key(1), environment).unwrap();
        Client { repository, clock }
    }

    /// Prunes; where one client collects and this is not the one, it becomes it and waits.
    fn prune(&self, what: &str) {
        let Err(error) = prune(&self.repository, &tight(), &SilentMonitor) else { return };
        let is_refused = error.to_string().contains("--become-maintainer");
        assert!(is_refused, "{what}: {error}");
        let taking = PruneOptions { become_maintainer: true, ..tight() };
        let early = prune(&self.repository, &taking, &SilentMonitor).unwrap_err();
        assert!(early.to_string().contains("24 hours"), "{what}: {early}");
        self.clock.sleep(Duration::from_secs(25 * 3600));
        prune(&self.repository, &taking, &SilentMonitor)
            .unwrap_or_else(|error| panic!("{what}: {error}"));
    }

    fn assert_restores(&self, wanted: &BTreeMap<SnapshotId, Plain>, what: &str) {
        let listed: BTreeMap<_, _> = snapshots(&self.repository).into_iter().collect();
        for (id, wanted) in wanted {
            let snapshot = listed.get(id).unwrap_or_else(|| panic!("{what}: {id} is lost"));
            assert_same(&contents(&self.repository, snapshot), wanted, what);
        }
    }
}

impl Stopped {
    /// Somebody goes on, and everything is as it should be.
    fn go_on(&self, next: Next, source: &Path, before: &Path, backup_first: bool) {
        let order = if backup_first { "a backup" } else { "a prune" };
        let what = &format!("{}, {next:?} goes on with {order}", self.what);
        let store = copy_of(&self.store);
        let cache = next.cache(before, self.cache.path());
        let client = Client::open(&store, cache.as_ref().map(TempDir::path));
        let mut wanted = self.reported.clone();
        wanted.retain(|id, _| !self.open.contains(id));
        client.assert_restores(&wanted, what);
        // What is shown is whole, reported or not.
        for (id, snapshot) in snapshots(&client.repository) {
            let found = contents(&client.repository, &snapshot);
            match self.reported.get(&id) {
                Some(plain) => assert_same(&found, plain, what),
                None => assert_same(&found, &folder_contents(source), what),
            }
        }
        if !backup_first {
            client.prune(what);
        }
        let id = back_up(&client.repository, source).snapshot.unwrap();
        wanted.insert(id, folder_contents(source));
        for _ in 0..3 {
            client.prune(what);
        }
        client.assert_restores(&wanted, what);
        let stranger = Client::open(&store, None);
        stranger.assert_restores(&wanted, what);
        assert_nothing_left(&stranger.repository, what);
        assert_whole(&store);
    }
}

/// No generation is open, nobody is waited for, and nothing is kept that nobody needs.
fn assert_nothing_left(repository: &Repository, what: &str) {
    let store = repository.store();
    let generations = repository.generations().unwrap();
    assert!(generations.open.is_none(), "{what}: generation {} is open", generations.newest);
    // Condemned lists stay as long as their sweeps.
    let unswept = generations.condemned.difference(&generations.sweeps).count();
    assert_eq!(unswept, 0, "{what}: {:?}", generations.condemned);
    let names = |prefix: &str| -> Vec<String> {
        store.list(prefix).unwrap().into_iter().map(|object| object.name).collect()
    };
    // Who made no packs holds nothing, and is given up by the next generation that there is.
    let undecided = repository.undecided_sessions().unwrap();
    for session in &undecided {
        let packs = names(&layout::session_packs(*session));
        assert_eq!(packs, [""; 0], "{what}: {:?}", repository.session(*session).unwrap());
    }
    assert!(undecided.len() <= 3, "{what}: {} are undecided", undecided.len());
    // The last prune's own session for merging, and those whose snapshots no sweep lists yet.
    let listed = repository.snapshots(&SilentMonitor).unwrap();
    let unlisted = listed.all.iter().filter(|(id, _)| id.0.generation >= generations.swept());
    let kept = undecided.len() + unlisted.count();
    let registered = names(layout::SESSIONS).len();
    assert!(registered <= kept + 1, "{what}: {registered} sessions");
    assert_eq!(listed.swept, [], "{what}");
    let live: BTreeSet<SessionId> = listed.all.iter().map(|(id, _)| id.0).collect();
    // Of what was brought back, marks stay.
    let undone = |name: &String| layout::parse_undone(name);
    let is_mark = |name| undone(name).is_some_and(|tomb| live.contains(&tomb.session));
    assert!(names(layout::TOMBS).iter().all(is_mark), "{what}: {:?}", names(layout::TOMBS));
    // ABORTs are cleared away with generations, and a generation is not made for a few.
    let slots: BTreeSet<SessionId> =
        names(layout::SNAPSHOTS).iter().filter_map(|name| layout::parse_snapshot(name)).collect();
    let aborted: BTreeSet<SessionId> = listed.aborted.iter().copied().collect();
    assert!(slots.iter().all(|slot| live.contains(slot) || aborted.contains(slot)), "{what}");
    assert!(aborted.len() < 32, "{what}: {} ABORTs", aborted.len());
    let looking = PruneOptions { dry_run: true, ..tight() };
    let looked = prune(repository, &looking, &SilentMonitor).unwrap();
    let plan = looked.plan.unwrap();
    assert_eq!(looked.unused_before, 0, "{what}");
    assert_eq!((plan.drop.len(), plan.repack.len()), (0, 0), "{what}");
    let packs = names(layout::PACKS).len() as u64;
    assert_eq!(packs, looked.packs_before, "{what}: packs that nobody knows");
}

/// Stops the scenario at every `stride`th call. Each stop is followed by one continuation, in turn, or by all.
fn stop_everywhere(scenario: &Scenario, is_conditional: bool, stride: u64, all: bool) -> u64 {
    let world = (scenario.world)(is_conditional);
    let mut turn = 0;
    let mut runs = 0;
    for effect in [Effect::Before, Effect::After] {
        let mut call = 0;
        loop {
            let stopped = scenario.stop(&world, call, effect);
            for (number, next) in NEXT.into_iter().enumerate() {
                for backup_first in [false, true] {
                    if all || (number * 2 + usize::from(backup_first)) == turn % 10 {
                        let (source, before) = (world.source.path(), world.cache.path());
                        stopped.go_on(next, source, before, backup_first);
                        runs += 1;
                    }
                }
            }
            // Coprime with the number of continuations, so that every call's neighbours meet others.
            turn += 3;
            if !stopped.reached {
                break;
            }
            call += stride;
        }
    }
    runs
}

macro_rules! stopped_anywhere {
    ($($test:ident: $name:literal, $stride:literal, $second_stride:literal;)*) => {$(
        #[test]
        fn $test() {
            let scenario = SCENARIOS.iter().find(|scenario| scenario.name == $name).unwrap();
            stop_everywhere(scenario, true, $stride, false);
            stop_everywhere(scenario, false, $second_stride, false);
        }
    )*};
}

stopped_anywhere! {
    forget_may_be_stopped_at_any_call: "forget", 1, 1;
    undelete_may_be_stopped_at_any_call: "undelete", 1, 1;
    a_backup_may_be_stopped_at_any_call_and_what_it_left_goes: "backup", 1, 3;
    a_prune_that_drops_may_be_stopped_at_any_call: "prune that drops", 1, 3;
    a_prune_that_copies_may_be_stopped_at_any_call: "prune that copies", 2, 5;
    a_prune_that_takes_a_generation_over_may_be_stopped_at_any_call:
        "prune that takes a generation over", 1, 3;
    merging_may_be_stopped_at_any_call: "merging of index objects", 1, 3;
    a_prune_that_merges_may_be_stopped_at_any_call: "prune that merges", 2, 5;
    a_prune_beside_a_backup_may_be_stopped_at_any_call: "prune that gives up a backup", 2, 5;
}

/// Every call, every continuation, both forms: minutes. It says how many runs that were.
#[test]
#[ignore = "takes minutes: cargo test --test engine every_call_and_every_continuation -- --ignored --nocapture"]
fn every_call_and_every_continuation() {
    let mut total = 0;
    for scenario in SCENARIOS {
        for is_conditional in [true, false] {
            let runs = stop_everywhere(scenario, is_conditional, 1, true);
            println!("{}, create-if-absent {is_conditional}: {runs} runs", scenario.name);
            total += runs;
        }
    }
    println!("{total} runs");
}

/// The first is stopped, somebody's prune after it is stopped as well, and a third goes on.
fn stop_twice(pairs: u64, seed: u64) {
    let mut state = seed;
    let mut below = |limit: u64| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % limit
    };
    for scenario in SCENARIOS {
        for is_conditional in [true, false] {
            let world = (scenario.world)(is_conditional);
            for _ in 0..pairs {
                let effects = [Effect::Before, Effect::After];
                let effect = effects[below(2) as usize];
                let first = scenario.stop(&world, below(scenario.calls + 1), effect);
                let next = match is_conditional {
                    true => NEXT[below(5) as usize],
                    // Somebody else would have to wait for a day, which is another test.
                    false => Next::Same,
                };
                let cache = next.cache(world.cache.path(), first.cache.path());
                let cache = cache.unwrap_or_else(folder);
                let control = FaultControl::new();
                let faulty = first.store.clone().with_faults(control.clone());
                let repository = open_quick(faulty, Some(cache.path()));
                let (call, effect) = (below(60), effects[below(2) as usize]);
                control.stop_at(control.calls() + call, effect);
                let patient = below(4) == 0;
                let how = if patient { PruneOptions::default() } else { tight() };
                let _ = prune(&repository, &how, &SilentMonitor);
                let kept = folder();
                copy_folder(cache.path(), kept.path());
                drop(repository);
                let what = format!(
                    "{}, seed {seed}, then a prune by {next:?} stopped {effect:?} call {call}",
                    first.what
                );
                let second = Stopped { cache: kept, what, ..first };
                let last = NEXT[below(5) as usize];
                second.go_on(last, world.source.path(), world.cache.path(), below(2) == 0);
            }
        }
    }
}

#[test]
fn two_may_be_stopped_one_after_the_other() {
    stop_twice(6, 1);
}

#[test]
#[ignore = "takes minutes: cargo test --test engine many_pairs -- --ignored"]
fn many_pairs_may_be_stopped_one_after_the_other() {
    for seed in 2..12 {
        stop_twice(20, seed);
    }
}
