//! Whatever gives space back, repairs or changes keys is stopped at every call to the store, before and after its
//! effect; then somebody goes on: a client that knows nothing, or the same one with its cache as it was when it was
//! stopped, as it was before, cut short or overwritten in parts. Nothing reported is lost, nothing is stuck, and all
//! garbage goes. The worlds that are repaired or get other keys are in `crash_repairs`; `crash_disk` stops the same
//! scenarios at their changes to the local disk.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use aumbry::clock::{Clock, FakeClock, SystemClock};
use aumbry::format::config::Settings;
use aumbry::format::session::Purpose;
use aumbry::id::{SessionId, SnapshotId};
use aumbry::monitor::SilentMonitor;
use aumbry::ops::OpsError;
use aumbry::ops::backup::backup;
use aumbry::ops::prune::{PruneOptions, PruneSummary, prune};
use aumbry::repository::{Environment, Repository};
use aumbry::store::{Effect, FaultControl, Store, layout};
use tempfile::TempDir;

use crate::crash_repairs;
use crate::disk::{Disk, Last, State};
use crate::model::{
    Plain, assert_same, copy_folder, create_quick_with, folder_contents, open_quick, quick_key,
};
use crate::prune::{Eventful, assert_whole, files, tight, write_files};
use crate::support::{
    back_up, back_up_with, contents, environment, noise, options, small_settings, snapshots,
};

/// A repository before what is to be stopped.
pub struct World {
    pub store: Store,
    pub cache: TempDir,
    pub source: TempDir,
    /// What was reported as saved, and what it holds.
    pub reported: BTreeMap<SnapshotId, Plain>,
    /// What somebody began to forget, or brings back: it may be there or not.
    pub open: BTreeSet<SnapshotId>,
    /// What lacks content for good: a repaired snapshot with the rest of it is to stand for it.
    pub damaged: BTreeSet<SnapshotId>,
}

/// What an action has reported.
#[derive(Debug, Default)]
pub struct Reported {
    back: Vec<SnapshotId>,
    forgotten: Vec<SnapshotId>,
}

pub type Outcome = Result<Reported, OpsError>;

/// Everything that is to be repaired.
pub type Repair = fn(&Repository) -> Result<(), OpsError>;

/// What is stopped, and where.
pub struct Scenario {
    pub name: &'static str,
    pub world: fn(bool) -> World,
    pub action: fn(&Repository, &World) -> Outcome,
    /// A backup by another client runs meanwhile, has read all it wants to save when this begins, and ends when it
    /// has been stopped.
    pub beside_a_backup: bool,
    /// What whoever goes on does first: without it the repository need not be whole.
    pub first: Option<Repair>,
    /// What is done, and is to hold, in the end.
    pub last: fn(&Store, &str),
    /// Calls to the store that it makes at least.
    pub calls: u64,
}

/// What most scenarios have in common.
pub const PLAIN: Scenario = Scenario {
    name: "",
    world: World::of_versions,
    action: prune_tightly,
    beside_a_backup: false,
    first: None,
    last: |_, _| {},
    calls: 0,
};

pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "forget", world: World::of_versions, action: forget_open, calls: 2, ..PLAIN },
    Scenario {
        name: "undelete",
        world: World::with_a_forgotten_one,
        action: undelete_open,
        calls: 8,
        ..PLAIN
    },
    Scenario {
        name: "backup",
        world: World::with_a_forgotten_one,
        action: back_up_more,
        calls: 12,
        ..PLAIN
    },
    Scenario {
        name: "backup by a new client",
        world: World::for_a_new_client,
        action: back_up_more,
        calls: 12,
        ..PLAIN
    },
    Scenario {
        name: "prune that drops",
        world: World::of_whole_packs,
        action: prune_tightly,
        calls: 40,
        ..PLAIN
    },
    Scenario {
        name: "prune that copies",
        world: World::with_a_forgotten_one,
        action: prune_tightly,
        calls: 60,
        ..PLAIN
    },
    Scenario {
        name: "prune that takes a generation over",
        world: World::with_an_open_generation,
        action: prune_tightly,
        calls: 40,
        ..PLAIN
    },
    Scenario {
        name: "merging of index objects",
        world: World::of_many_backups,
        action: merge,
        calls: 20,
        ..PLAIN
    },
    Scenario {
        name: "prune that merges",
        world: World::of_many_backups,
        action: prune_tightly,
        calls: 40,
        ..PLAIN
    },
    Scenario {
        name: "prune that gives up a backup",
        world: World::with_a_forgotten_one,
        action: prune_tightly,
        beside_a_backup: true,
        calls: 40,
        ..PLAIN
    },
    crash_repairs::INDEX,
    crash_repairs::PACKS,
    crash_repairs::SALVAGE,
    crash_repairs::SNAPSHOTS,
    crash_repairs::GENERATIONS,
    crash_repairs::NEW_EPOCH,
    crash_repairs::DRAIN,
    crash_repairs::DROP_EPOCH,
    crash_repairs::REMOVE_KEY,
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

pub fn prune_tightly(repository: &Repository, _: &World) -> Outcome {
    prune(repository, &tight(), &SilentMonitor)?;
    Ok(Reported::default())
}

fn merge(repository: &Repository, _: &World) -> Outcome {
    repository.merge_indexes(&SilentMonitor)?;
    Ok(Reported::default())
}

impl World {
    fn empty(is_conditional: bool, settings: Settings) -> (World, Repository) {
        let store = form(Store::memory(), is_conditional);
        let (source, cache) = (folder(), folder());
        let repository = create_quick_with(store.clone(), settings, Some(cache.path()));
        let world = World {
            store,
            cache,
            source,
            reported: BTreeMap::new(),
            open: BTreeSet::new(),
            damaged: BTreeSet::new(),
        };
        (world, repository)
    }

    fn save(&mut self, repository: &Repository) -> SnapshotId {
        let id = back_up(repository, self.source.path()).snapshot.unwrap();
        self.reported.insert(id, folder_contents(self.source.path()));
        id
    }

    /// Three snapshots that share some files; the first two are to go. Afterwards the folder is as in the first.
    pub fn of_versions(is_conditional: bool) -> World {
        Self::of_versions_with(is_conditional, small_settings())
    }

    /// The same with other settings.
    pub fn of_versions_with(is_conditional: bool, settings: Settings) -> World {
        let (mut world, repository) = World::empty(is_conditional, settings);
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
    pub fn with_a_forgotten_one(is_conditional: bool) -> World {
        let world = Self::of_versions(is_conditional);
        forget_open(&world.client(), &world).unwrap();
        world
    }

    /// The same, and who comes knows nothing of it.
    fn for_a_new_client(is_conditional: bool) -> World {
        World { cache: folder(), ..Self::with_a_forgotten_one(is_conditional) }
    }

    /// Two snapshots that share nothing but names, the first of them forgotten.
    pub fn of_whole_packs(is_conditional: bool) -> World {
        let (mut world, repository) = World::empty(is_conditional, small_settings());
        write_files(world.source.path(), 0..4, 1);
        let first = world.save(&repository);
        write_files(world.source.path(), 0..4, 2);
        world.save(&repository);
        world.open.insert(first);
        repository.forget(&[first], "").unwrap();
        world
    }

    /// A generation that a reader held up, which has ended.
    pub fn with_an_open_generation(is_conditional: bool) -> World {
        let world = Self::of_whole_packs(is_conditional);
        let repository = world.client();
        let reader = repository.register(Purpose::Read).unwrap();
        let held = prune(&repository, &PruneOptions::default(), &SilentMonitor).unwrap();
        assert_eq!(held.held_by.len(), 1);
        repository.abort(reader).unwrap();
        world
    }

    /// As many snapshots as make index objects worth merging.
    pub fn of_many_backups(is_conditional: bool) -> World {
        let (mut world, repository) = World::empty(is_conditional, small_settings());
        for version in 0..10 {
            let file = world.source.path().join("file");
            fs::write(file, noise(3000, version)).unwrap();
            world.save(&repository);
        }
        world
    }

    pub fn client(&self) -> Repository {
        open_quick(self.store.clone(), Some(self.cache.path()))
    }
}

/// A folder in memory where there is one: caches wait for their disk, and here thousands are made.
pub fn folder() -> TempDir {
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
pub enum Next {
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
    /// The same, after the power failed: nothing that was not synced had reached the disk.
    Unsynced,
    /// The same, and of what was not synced had reached the disk what this seed decides.
    Torn(u64),
}

const NEXT: [Next; 5] =
    [Next::Stranger, Next::Same, Next::Forgetful, Next::CutShort, Next::Overwritten];

impl Next {
    /// The cache that this client goes on with.
    fn cache(self, before: &Path, stopped: &Path, disk: &State) -> Option<TempDir> {
        let cache = folder();
        match self {
            Next::Stranger => return None,
            Next::Forgetful => copy_folder(before, cache.path()),
            Next::Unsynced => disk.cut_power(cache.path(), &mut || false),
            Next::Torn(seed) => {
                let mut below = choices(seed);
                // Of some seeds much, of others little.
                let share = below(10);
                disk.cut_power(cache.path(), &mut || below(10) <= share);
            }
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

/// Numbers below limits, which follow from a seed.
pub fn choices(seed: u64) -> impl FnMut(u64) -> u64 {
    let mut state = seed;
    move |limit| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % limit
    }
}

/// Where something is stopped.
#[derive(Debug, Clone, Copy)]
pub enum Stop {
    /// At this call to the store.
    Call(u64, Effect),
    /// At this change to its local disk.
    Change(usize, Last),
    /// There, and only the disk fails: it goes on as well as it can.
    BrokenDisk(usize),
}

/// What is there after one was stopped, or two one after the other.
pub struct Stopped {
    pub store: Store,
    /// The cache of the one that was stopped last.
    pub cache: TempDir,
    /// The disk that the cache was on.
    pub disk: State,
    pub reported: BTreeMap<SnapshotId, Plain>,
    pub open: BTreeSet<SnapshotId>,
    pub damaged: BTreeSet<SnapshotId>,
    /// Whether a call or a change was left to be stopped at.
    pub reached: bool,
    pub what: String,
}

impl Scenario {
    /// Runs it on a copy of `world` and stops it.
    pub fn stop(&self, world: &World, stop: Stop) -> Stopped {
        let what = format!("{} stopped at {stop:?}", self.name);
        let store = copy_of(&world.store);
        let cache = folder();
        copy_folder(world.cache.path(), cache.path());
        let kept = folder();
        let control = FaultControl::new();
        let (change, stops): (_, Box<dyn Fn() + Send>) = match stop {
            Stop::Call(..) => (None, Box::new(|| {})),
            Stop::Change(number, last) => {
                let store = control.clone();
                let stops = move || store.stop_at(store.calls(), Effect::Before);
                (Some((number, last)), Box::new(stops))
            }
            Stop::BrokenDisk(number) => (Some((number, Last::Undone)), Box::new(|| {})),
        };
        let watched = Disk::watch(cache.path(), change, stops);
        let faulty = store.clone().with_faults(control.clone());
        let opened = Repository::open(faulty, &quick_key(1), environment(Some(cache.path())));
        let mut outcome = None;
        let mut reached = false;
        let mut disk = State::default();
        let mut run = || {
            let mut at = u64::MAX;
            if let Stop::Call(call, effect) = stop {
                at = control.calls() + call;
                control.stop_at(at, effect);
            }
            outcome = Some(match &opened {
                Ok(repository) => (self.action)(repository, world),
                Err(error) => Err(OpsError::Repository(error.clone())),
            });
            reached = watched.is_stopped() || control.calls() > at;
            // The process is gone: its cache is what the machine would find, nothing closed.
            copy_folder(cache.path(), kept.path());
            disk = watched.state();
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
        match stop {
            Stop::Call(call, _) => {
                assert_eq!(outcome.is_err(), reached, "{what}: {outcome:?}");
                assert!(reached || call >= self.calls, "{what}: it makes more calls");
            }
            // After its last call to the store nothing that fails on the disk needs to be an error.
            _ => assert!(reached || outcome.is_ok(), "{what}: {outcome:?}"),
        }
        let (mut reported, mut open) = (world.reported.clone(), world.open.clone());
        let said = outcome.unwrap_or_default();
        let back = beside.and_then(|summary| summary.snapshot);
        for id in said.back.into_iter().chain(back) {
            open.remove(&id);
            reported.entry(id).or_insert_with(|| folder_contents(world.source.path()));
        }
        open.extend(said.forgotten);
        let damaged = world.damaged.clone();
        Stopped { store, cache: kept, disk, reported, open, damaged, reached, what }
    }
}

/// A client after the trouble, whose clock can be moved.
struct Client {
    repository: Repository,
    clock: Arc<FakeClock>,
}

/// Whether another client is the one that collects.
fn is_for_another(error: &OpsError) -> bool {
    error.to_string().contains("--become-maintainer")
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
        match prune(&self.repository, &tight(), &SilentMonitor) {
            Err(error) if is_for_another(&error) => {
                self.take_over(what).unwrap_or_else(|error| panic!("{what}: {error}"));
            }
            outcome => drop(outcome.unwrap_or_else(|error| panic!("{what}: {error}"))),
        }
    }

    /// Does what comes before everything else; becomes the one that collects, if it has to be.
    fn begin(&self, first: Repair, what: &str) {
        match first(&self.repository) {
            Err(error) if is_for_another(&error) => {
                // There is something to repair, so that nothing can be collected yet.
                let _ = self.take_over(what);
                first(&self.repository).unwrap_or_else(|error| panic!("{what}: {error}"));
            }
            outcome => outcome.unwrap_or_else(|error| panic!("{what}: {error}")),
        }
    }

    fn take_over(&self, what: &str) -> Result<PruneSummary, OpsError> {
        let taking = PruneOptions { become_maintainer: true, ..tight() };
        let early = prune(&self.repository, &taking, &SilentMonitor).unwrap_err();
        assert!(early.to_string().contains("24 hours"), "{what}: {early}");
        self.clock.sleep(Duration::from_secs(25 * 3600));
        prune(&self.repository, &taking, &SilentMonitor)
    }

    fn has_broken_index(&self) -> bool {
        let entries = self.repository.cache().entries();
        entries.is_err() || entries.is_ok_and(|mut entries| entries.any(|entry| entry.is_err()))
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
    pub fn go_on(&self, scenario: &Scenario, world: &World, next: Next, backup_first: bool) {
        let order = if backup_first { "a backup" } else { "a prune" };
        let what = &format!("{}, {next:?} goes on with {order}", self.what);
        let store = copy_of(&self.store);
        let source = world.source.path();
        let cache = next.cache(world.cache.path(), self.cache.path(), &self.disk);
        let cache = cache.as_ref().map(TempDir::path);
        let mut client = Client::open(&store, cache);
        if matches!(next, Next::Overwritten) && client.has_broken_index() {
            // Whoever meets that says so, and the next command has a new cache.
            drop(client);
            client = Client::open(&store, cache);
        }
        let mut wanted = self.reported.clone();
        wanted.retain(|id, _| !self.open.contains(id) && !self.damaged.contains(id));
        client.assert_restores(&wanted, what);
        if let Some(first) = scenario.first {
            client.begin(first, what);
        }
        self.assert_shown_is_whole(&client.repository, source, what);
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
        self.assert_shown_is_whole(&stranger.repository, source, what);
        (scenario.last)(&store, what);
        assert_whole(&store);
    }

    /// What is shown is whole, reported or not; what stands for something damaged has nothing that was not there.
    fn assert_shown_is_whole(&self, repository: &Repository, source: &Path, what: &str) {
        let mut repaired = BTreeSet::new();
        for (id, snapshot) in snapshots(repository) {
            if self.damaged.contains(&id) {
                continue;
            }
            let found = contents(repository, &snapshot);
            if let Some(original) = snapshot.repaired.map(|repaired| repaired.original) {
                let plain = &self.reported[&original];
                for (path, bytes) in &found {
                    let shown = String::from_utf8_lossy(path);
                    let is_right = match path.strip_suffix(b".damaged") {
                        None => plain.get(path) == Some(bytes),
                        // With holes where content is lost.
                        Some(path) => {
                            let pairs = plain[path].iter().zip(bytes);
                            plain[path].len() == bytes.len()
                                && pairs.into_iter().all(|(was, is)| was == is || *is == 0)
                        }
                    };
                    assert!(is_right, "{what}: {shown} of {id}");
                }
                let whole = found.keys().filter(|path| plain.contains_key(*path)).count();
                assert!(whole + 2 >= plain.len(), "{what}: {id} lacks more than was lost");
                assert!(repaired.insert(original), "{what}: {original} was repaired twice");
            } else if let Some(plain) = self.reported.get(&id) {
                assert_same(&found, plain, what);
            } else {
                assert_same(&found, &folder_contents(source), what);
            }
        }
        assert_eq!(repaired, self.damaged, "{what}: repaired");
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
            let stopped = scenario.stop(&world, Stop::Call(call, effect));
            for (number, next) in NEXT.into_iter().enumerate() {
                for backup_first in [false, true] {
                    if all || (number * 2 + usize::from(backup_first)) == turn % 10 {
                        stopped.go_on(scenario, &world, next, backup_first);
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
    a_backup_by_a_new_client_may_be_stopped_at_any_call: "backup by a new client", 2, 5;
    a_prune_that_drops_may_be_stopped_at_any_call: "prune that drops", 1, 3;
    a_prune_that_copies_may_be_stopped_at_any_call: "prune that copies", 2, 5;
    a_prune_that_takes_a_generation_over_may_be_stopped_at_any_call:
        "prune that takes a generation over", 1, 3;
    merging_may_be_stopped_at_any_call: "merging of index objects", 1, 3;
    a_prune_that_merges_may_be_stopped_at_any_call: "prune that merges", 2, 5;
    a_prune_beside_a_backup_may_be_stopped_at_any_call: "prune that gives up a backup", 2, 5;
    repairing_the_index_may_be_stopped_at_any_call: "repair of the index", 1, 3;
    repairing_packs_by_parity_may_be_stopped_at_any_call: "repair of packs by parity", 1, 3;
    salvaging_packs_may_be_stopped_at_any_call: "repair that salvages packs", 1, 3;
    rewriting_snapshots_may_be_stopped_at_any_call: "repair of snapshots", 1, 3;
    repairing_generations_may_be_stopped_at_any_call: "repair of generations", 1, 3;
    a_new_epoch_may_be_stopped_at_any_call: "rekey: a new epoch", 1, 1;
    draining_an_epoch_may_be_stopped_at_any_call: "rekey: a prune that drains", 3, 7;
    dropping_an_epoch_may_be_stopped_at_any_call: "rekey: an old epoch is dropped", 1, 1;
    removing_a_key_may_be_stopped_at_any_call_and_nothing_else_changes: "removal of a key", 1, 1;
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
    let mut below = choices(seed);
    for scenario in SCENARIOS {
        for is_conditional in [true, false] {
            let world = (scenario.world)(is_conditional);
            for _ in 0..pairs {
                let effects = [Effect::Before, Effect::After];
                let effect = effects[below(2) as usize];
                let first = scenario.stop(&world, Stop::Call(below(scenario.calls + 1), effect));
                let next = match is_conditional {
                    true => NEXT[below(5) as usize],
                    // Somebody else would have to wait for a day, which is another test.
                    false => Next::Same,
                };
                let cache = next.cache(world.cache.path(), first.cache.path(), &first.disk);
                let cache = cache.unwrap_or_else(folder);
                let control = FaultControl::new();
                let faulty = first.store.clone().with_faults(control.clone());
                let repository = open_quick(faulty, Some(cache.path()));
                let (call, effect) = (below(60), effects[below(2) as usize]);
                control.stop_at(control.calls() + call, effect);
                let patient = below(4) == 0;
                let how = if patient { PruneOptions::default() } else { tight() };
                let first_again = scenario.first.filter(|_| below(2) == 0);
                let watched = Disk::watch(cache.path(), None, Box::new(|| {}));
                match first_again {
                    Some(repair) => drop(repair(&repository)),
                    None => drop(prune(&repository, &how, &SilentMonitor)),
                }
                let kept = folder();
                copy_folder(cache.path(), kept.path());
                let disk = watched.state();
                drop(watched);
                drop(repository);
                let second = if first_again.is_some() { "a repair" } else { "a prune" };
                let what = format!(
                    "{}, seed {seed}, then {second} by {next:?} stopped {effect:?} call {call}",
                    first.what
                );
                let second = Stopped { cache: kept, disk, what, ..first };
                let last = NEXT[below(5) as usize];
                second.go_on(scenario, &world, last, below(2) == 0);
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
