//! Object locks, in a store that only pretends to have them: which objects have one, what a prune prolongs, and what
//! becomes of garbage that the store does not let go of.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use aumbry::format::config::{LockMode, ObjectLock, Settings};
use aumbry::monitor::{RecordingMonitor, SilentMonitor};
use aumbry::ops::backup::{BackupOptions, Deltas};
use aumbry::ops::check::DataSelection;
use aumbry::ops::prune::plan::UnusedLimit;
use aumbry::ops::prune::{PruneOptions, PruneSummary, prune};
use aumbry::repository::cold::join;
use aumbry::repository::error::Kind;
use aumbry::repository::{CreateOptions, Repository};
use aumbry::store::{Cold, FaultControl, LocalMode, Store, layout};

use crate::support::{
    back_up, back_up_with, checked, contents, create, environment, noise, open, options,
    passphrase, small_settings, snapshots,
};

const DAY: u64 = 86_400;

fn locking_settings() -> Settings {
    let object_lock = Some(ObjectLock { seconds: 30 * DAY, mode: LockMode::Governance });
    Settings { object_lock, ..small_settings() }
}

/// A repository in a folder whose store says that it locks.
struct Scene {
    folder: tempfile::TempDir,
    control: FaultControl,
}

impl Scene {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("source")).unwrap();
        let control = FaultControl::new();
        control.simulate_locks();
        let scene = Scene { folder, control };
        create(scene.store(), locking_settings(), None);
        scene
    }

    fn plain_store(&self) -> Store {
        Store::local(&self.folder.path().join("store"), LocalMode::Create).unwrap()
    }

    fn store(&self) -> Store {
        self.plain_store().with_faults(self.control.clone())
    }

    fn open(&self) -> Repository {
        open(self.store(), None)
    }

    fn source(&self) -> PathBuf {
        self.folder.path().join("source")
    }

    fn write(&self, name: &str, seed: u64) {
        fs::write(self.source().join(name), noise(300_000, seed)).unwrap();
    }

    /// Lets the store say of everything in it that it got it so many days ago.
    fn age(&self, days: u64) {
        let epoch = SystemTime::UNIX_EPOCH;
        let time = epoch + (epoch.elapsed().unwrap() - Duration::from_secs(days * DAY));
        for object in self.plain_store().list("").unwrap() {
            date(&self.folder.path().join("store").join(object.name), time);
        }
    }

    /// Names of what lasts.
    fn lasting(&self) -> Vec<String> {
        let listed = self.plain_store().list("").unwrap().into_iter().map(|object| object.name);
        listed.filter(|name| layout::is_lasting(name)).collect()
    }

    fn prune(&self) -> PruneSummary {
        prune(&self.open(), &tight(), &SilentMonitor).unwrap()
    }

    fn forget_oldest(&self) {
        let repository = self.open();
        let (id, _) = snapshots(&repository)[0].clone();
        repository.forget(&[id], "").unwrap();
    }

    /// Names of the records of locks.
    fn records(&self) -> Vec<String> {
        let listed = self.plain_store().list(layout::GC).unwrap().into_iter();
        listed.map(|object| object.name).filter(|name| name.ends_with(".locks")).collect()
    }
}

/// Without deltas: what a new content needs of an old one goes with it.
fn plain() -> BackupOptions {
    BackupOptions { deltas: Deltas::Never, ..options() }
}

fn date(path: &Path, time: SystemTime) {
    File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
}

fn tight() -> PruneOptions {
    let mut options = PruneOptions::default();
    options.limits.max_unused = UnusedLimit::Bytes(0);
    options.patience = Duration::ZERO;
    options
}

/// Days from now until each lock ends, rounded.
fn days_left(control: &FaultControl) -> BTreeMap<String, i64> {
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs() as i64;
    let days = |seconds: i64| (seconds - now + DAY as i64 / 2).div_euclid(DAY as i64);
    control.locks().into_iter().map(|(name, until)| (name, days(until.seconds))).collect()
}

#[test]
fn what_lasts_is_locked_when_it_is_made_and_nothing_else() {
    let scene = Scene::new();
    scene.write("a", 1);
    back_up(&scene.open(), &scene.source());
    let locked = days_left(&scene.control);
    assert!(locked.values().all(|days| *days == 30), "{locked:?}");
    assert_eq!(locked.into_keys().collect::<Vec<_>>(), scene.lasting());
    assert!(scene.plain_store().list(layout::PACKS).unwrap().len() > 2);
}

#[test]
fn a_prune_prolongs_what_ends_within_half_the_time_and_a_second_one_nothing() {
    let scene = Scene::new();
    scene.write("a", 1);
    back_up(&scene.open(), &scene.source());
    assert_eq!(scene.prune().locks_prolonged, Some(0));
    assert_eq!(scene.records(), [""; 0]);
    // What was written lately has half the time left, and more.
    scene.age(20);
    scene.write("b", 2);
    back_up(&scene.open(), &scene.source());
    let old: Vec<String> = scene.lasting();
    let dry = prune(&scene.open(), &PruneOptions { dry_run: true, ..tight() }, &SilentMonitor);
    let planned = dry.unwrap().locks_prolonged.unwrap();
    assert!(planned > 4 && planned < old.len() as u64, "{planned} of {}", old.len());
    assert_eq!(scene.control.prolonged(), [""; 0]);
    assert_eq!(scene.prune().locks_prolonged, Some(planned));
    assert_eq!(scene.control.prolonged().len() as u64, planned);
    let left = days_left(&scene.control);
    assert!(scene.lasting().iter().all(|name| left[name] == 30), "{left:?}");
    // By a machine that was never there: what is known is in the store.
    assert_eq!(scene.prune().locks_prolonged, Some(0));
    assert_eq!(scene.records(), ["gc/00000001.locks"]);
    let whole = checked(&scene.open(), DataSelection::All);
    assert!(whole.damage.is_empty(), "{:?}", whole.damage);

    // A record that is damaged costs requests.
    fs::write(scene.folder.path().join("store/gc/00000001.locks"), "no record").unwrap();
    assert_eq!(scene.prune().locks_prolonged, Some(planned));
    assert_eq!(scene.records(), ["gc/00000002.locks"]);
}

#[test]
fn what_goes_is_not_prolonged_and_what_stays_is_even_if_nothing_can_be_collected() {
    let scene = Scene::new();
    scene.write("a", 1);
    back_up(&scene.open(), &scene.source());
    scene.write("a", 2);
    back_up_with(&scene.open(), &scene.source(), &plain(), &SilentMonitor).unwrap();
    scene.age(20);
    scene.forget_oldest();
    let before = scene.lasting();
    let pruned = scene.prune();
    assert!(pruned.packs_deleted > 0);
    let there = scene.lasting();
    let stayed: Vec<String> = before.into_iter().filter(|name| there.contains(name)).collect();
    let mut prolonged = scene.control.prolonged();
    prolonged.sort_unstable();
    assert_eq!(prolonged, stayed);

    // A pack is lost: nothing is collected, and nobody may take what is left.
    scene.age(20);
    fs::remove_file(scene.folder.path().join("store/gc/00000001.locks")).unwrap();
    let pack = scene.plain_store().list(layout::PACKS).unwrap().remove(0).name;
    fs::remove_file(scene.folder.path().join("store").join(pack)).unwrap();
    prune(&scene.open(), &tight(), &SilentMonitor).unwrap_err();
    assert!(scene.control.prolonged().len() > stayed.len() + 3);
}

#[test]
fn garbage_that_is_still_locked_is_said_and_goes_with_a_later_prune() {
    // In memory, where nothing is waited for: this takes many rounds.
    let source = tempfile::tempdir().unwrap();
    let control = FaultControl::new();
    control.simulate_locks();
    control.keep_locked(true);
    let store = Store::memory().with_faults(control.clone());
    create(store.clone(), locking_settings(), None);
    let back_up = |repository: &Repository, seed: u64| {
        fs::write(source.path().join("a"), noise(100_000, seed)).unwrap();
        back_up_with(repository, source.path(), &plain(), &SilentMonitor).unwrap().snapshot.unwrap()
    };
    let forget_oldest = |repository: &Repository| {
        let (id, _) = snapshots(repository)[0].clone();
        repository.forget(&[id], "").unwrap();
    };
    let prune = |repository: &Repository| prune(repository, &tight(), &SilentMonitor).unwrap();
    let packs = || store.list(layout::PACKS).unwrap().len();
    let repository = open(store.clone(), None);
    for seed in 1..4 {
        back_up(&repository, seed);
    }
    forget_oldest(&repository);
    let before = packs();
    let pruned = prune(&repository);
    assert_eq!((pruned.packs_deleted, packs()), (0, before));
    assert!(pruned.still_locked > 2, "{}", pruned.still_locked);
    // More generations than sweeps are kept otherwise: whoever comes then does not count on what was swept first.
    for seed in 5..24 {
        back_up(&repository, seed);
        forget_oldest(&repository);
        prune(&repository);
    }
    assert!(store.size(&layout::sweep(1)).unwrap().is_some());
    let newcomer = open(store.clone(), None);
    assert!(prune(&newcomer).still_locked > 2);
    // The very bytes that were swept first.
    let again = back_up(&newcomer, 1);
    let whole = checked(&newcomer, DataSelection::All);
    assert!(whole.damage.is_empty(), "{:?}", whole.damage);

    control.keep_locked(false);
    let before = packs();
    let newcomer = open(store.clone(), None);
    assert_eq!(prune(&newcomer).still_locked, 0);
    assert!(packs() < before / 3, "{} of {before}", packs());
    let newcomer = open(store, None);
    let whole = checked(&newcomer, DataSelection::All);
    assert!(whole.damage.is_empty(), "{:?}", whole.damage);
    let all = snapshots(&newcomer);
    let (_, latest) = all.iter().find(|(id, _)| *id == again).unwrap();
    assert_eq!(contents(&newcomer, latest)[b"/tree/a".as_slice()], noise(100_000, 1));
}

#[test]
fn a_store_without_locks_takes_no_such_repository_and_one_that_came_there_is_read() {
    let settings = locking_settings();
    let made = Repository::create(
        Store::memory(),
        &CreateOptions { settings, ..CreateOptions::default() },
        &passphrase(),
        environment(None),
    );
    let error = made.err().unwrap();
    assert_eq!(error.kind, Kind::Invalid);
    assert!(error.to_string().contains("--retain"), "{error}");

    let scene = Scene::new();
    scene.write("a", 1);
    back_up(&scene.open(), &scene.source());
    // It was copied to a disk.
    let repository = open(scene.plain_store(), None);
    let (_, snapshot) = &snapshots(&repository)[0];
    assert_eq!(contents(&repository, snapshot)[b"/tree/a".as_slice()], noise(300_000, 1));
    scene.write("a", 2);
    let refused = back_up_with(&repository, &scene.source(), &options(), &SilentMonitor);
    let error = refused.unwrap_err().to_string();
    assert!(error.contains("retains what it writes") && error.contains("aumbry copy"), "{error}");
}

#[test]
fn what_the_store_refuses_to_prolong_is_told_and_keeps_nothing_else_from_it() {
    let scene = Scene::new();
    scene.write("a", 1);
    back_up(&scene.open(), &scene.source());
    scene.age(20);
    let dry = prune(&scene.open(), &PruneOptions { dry_run: true, ..tight() }, &SilentMonitor);
    let planned = dry.unwrap().locks_prolonged.unwrap();
    let pack = scene.plain_store().list(layout::PACKS).unwrap().remove(0).name;
    let prune_with_problems = || {
        let monitor = RecordingMonitor::default();
        let pruned = prune(&scene.open(), &tight(), &monitor).unwrap();
        let problems: Vec<String> =
            monitor.problems().into_iter().map(|problem| problem.item).collect();
        (pruned.locks_prolonged.unwrap(), problems)
    };
    // A pack that is refused is tried again alone.
    scene.control.refuse_to_lock(Some(&pack));
    assert_eq!(prune_with_problems(), (planned - 1, vec![pack.clone()]));
    assert_eq!(prune_with_problems(), (0, vec![pack]));
    scene.control.refuse_to_lock(None);
    assert_eq!(prune_with_problems(), (1, vec![]));
    assert_eq!(prune_with_problems(), (0, vec![]));
    // Of other objects the record cannot say that they were left out: so nothing is recorded.
    fs::remove_file(scene.folder.path().join("store").join(&scene.records()[0])).unwrap();
    scene.control.refuse_to_lock(Some(layout::CONFIG));
    for _ in 0..2 {
        assert_eq!(prune_with_problems(), (planned - 1, vec![layout::CONFIG.to_string()]));
        assert_eq!(scene.records(), [""; 0]);
    }
    scene.control.refuse_to_lock(None);
    assert_eq!(prune_with_problems(), (planned, vec![]));
}

#[test]
fn a_hot_store_and_a_cold_one_retain_nothing_and_say_so() {
    let control = FaultControl::new();
    control.simulate_locks();
    let locking = |store: Store| store.with_faults(control.clone());
    let (hot, cold) = (locking(Store::memory()), locking(Store::memory()));
    let (packs, copies) = (cold.clone(), cold.clone());
    let both = join(hot.clone(), Cold { packs, copies, thaw: None });
    let settings = locking_settings();
    let options = CreateOptions { settings, ..CreateOptions::default() };
    let error = Repository::create(both.clone(), &options, &passphrase(), environment(None)).err();
    let error = error.unwrap();
    assert_eq!(error.kind, Kind::Invalid);
    assert!(error.to_string().contains("--repo-hot"), "{error}");
    assert_eq!((hot.list("").unwrap(), cold.list("").unwrap()), (vec![], vec![]));
    // Nor is anything written where somebody brought such a repository there: packs neither.
    let lock = aumbry::store::ObjectLock {
        period: Duration::from_secs(30 * DAY),
        mode: aumbry::store::LockMode::Governance,
    };
    let both = both.locking(lock);
    for name in ["keys/a", "sessions/a", "packs/00/a"] {
        let error = both.create(name, b"bytes".to_vec()).unwrap_err();
        assert_eq!(error.kind, aumbry::store::Kind::Invalid, "{error}");
    }
    assert_eq!((hot.list("").unwrap(), cold.list("").unwrap()), (vec![], vec![]));
}

#[test]
fn an_object_is_locked_for_a_day_at_least() {
    let control = FaultControl::new();
    control.simulate_locks();
    let object_lock = Some(ObjectLock { seconds: DAY - 1, mode: LockMode::Governance });
    let settings = Settings { object_lock, ..small_settings() };
    let store = Store::memory().with_faults(control);
    let options = CreateOptions { settings, ..CreateOptions::default() };
    let error = Repository::create(store.clone(), &options, &passphrase(), environment(None)).err();
    assert_eq!(error.unwrap().kind, Kind::Invalid);
    assert_eq!(store.list("").unwrap(), []);
}
