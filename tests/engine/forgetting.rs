//! What the store has seen of snapshots, and what becomes of those that are forgotten.

use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, SystemTime};

use aumbry::format::session::Purpose;
use aumbry::id::{SnapshotId, TombId};
use aumbry::monitor::SilentMonitor;
use aumbry::ops::backup::BackupOptions;
use aumbry::ops::forget::policy::{Every, Policy, Reach, Rule};
use aumbry::ops::forget::{ForgetOptions, GroupBy, forget, plan, plan_chosen};
use aumbry::ops::prune::{PruneOptions, prune};
use aumbry::ops::select::SnapshotFilter;
use aumbry::ops::undelete::undelete;
use aumbry::repository::Repository;
use aumbry::repository::snapshots::Snapshots;
use aumbry::store::layout;
use aumbry::store::{LocalMode, Store};
use aumbry::units::Timestamp;
use jiff::tz::TimeZone;

use crate::support::{back_up_with, create, open, options, small_settings};

const DAY: u64 = 86_400;

/// A repository in a folder, with a folder for its cache and something to back up.
pub struct Scene {
    folder: tempfile::TempDir,
}

impl Scene {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("source")).unwrap();
        fs::write(folder.path().join("source/file"), "content").unwrap();
        let store = Store::local(&folder.path().join("store"), LocalMode::Create).unwrap();
        create(store, small_settings(), None);
        Scene { folder }
    }

    /// The repository, as a client that remembers sees it.
    pub fn open(&self) -> Repository {
        open(self.store(), Some(&self.folder.path().join("cache")))
    }

    /// The same, as a client sees it that was never there.
    pub fn open_afresh(&self) -> Repository {
        open(self.store(), None)
    }

    fn store(&self) -> Store {
        Store::local(&self.folder.path().join("store"), LocalMode::Open).unwrap()
    }

    /// A snapshot that claims to be of `days` after 1970.
    pub fn back_up(&self, days: u64, change: impl Fn(&mut BackupOptions)) -> SnapshotId {
        let time = Timestamp { seconds: (days * DAY) as i64, nanoseconds: 0 };
        let mut options = BackupOptions { time: Some(time), ..options() };
        change(&mut options);
        let source = self.folder.path().join("source");
        let summary = back_up_with(&self.open_afresh(), &source, &options, &SilentMonitor).unwrap();
        summary.snapshot.unwrap()
    }

    /// Lets the store say that it got an object so many days after 1970.
    pub fn date(&self, object: &str, days: u64) {
        let file = File::options().write(true).open(self.folder.path().join("store").join(object));
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(days * DAY);
        file.unwrap().set_modified(time).unwrap();
    }

    /// Lets the store say so of a snapshot.
    pub fn date_snapshot(&self, id: SnapshotId, days: u64) {
        self.date(&layout::snapshot(id.0), days);
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}

/// Days after 1970, now.
pub fn today() -> u64 {
    SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs() / DAY
}

fn list(repository: &Repository) -> Snapshots {
    repository.snapshots(&SilentMonitor).unwrap()
}

fn days(snapshots: &Snapshots, id: SnapshotId) -> Option<u64> {
    snapshots.observed.get(&id).map(|time| time.seconds as u64 / DAY)
}

#[test]
fn what_a_client_saw_of_a_snapshot_is_not_moved_by_a_touch() {
    let scene = Scene::new();
    let today = today();
    let id = scene.back_up(11_000, |_| {});
    scene.date_snapshot(id, today - 3);
    let found = list(&scene.open());
    assert_eq!(found.all[0].1.time.seconds, 11_000 * DAY as i64);
    assert_eq!(days(&found, id), Some(today - 3));
    for touched in [today + 9, today - 9] {
        scene.date_snapshot(id, touched);
        assert_eq!(days(&list(&scene.open()), id), Some(today - 3));
        assert_eq!(days(&list(&scene.open_afresh()), id), Some(touched));
    }
}

#[test]
fn what_a_sweep_recorded_of_a_snapshot_holds_for_a_client_that_was_never_there() {
    let scene = Scene::new();
    let today = today();
    let [kept, dropped] = [today - 3, today - 2].map(|day| {
        let id = scene.back_up(day, |_| {});
        scene.date_snapshot(id, day);
        id
    });
    let repository = scene.open();
    repository.forget(&[dropped], "").unwrap();
    let options = PruneOptions { patience: Duration::ZERO, ..PruneOptions::default() };
    prune(&repository, &options, &SilentMonitor).unwrap();
    for touched in [today + 9, today - 9] {
        scene.date_snapshot(kept, touched);
        assert_eq!(days(&list(&scene.open_afresh()), kept), Some(today - 3));
    }
}

/// One a day, up to yesterday, each dated as the store saw it.
fn honest_days(scene: &Scene, count: u64) -> Vec<SnapshotId> {
    let dated = |day| {
        let id = scene.back_up(day, |_| {});
        scene.date_snapshot(id, day);
        id
    };
    (today() - count..today()).map(dated).collect()
}

/// Which of them the policy keeps, as a client sees it that was never there.
fn kept(scene: &Scene, ids: &[SnapshotId], rules: &[(Every, u32)]) -> Vec<bool> {
    let rules =
        rules.iter().map(|(every, count)| Rule { every: *every, reach: Reach::Count(*count) });
    let options = ForgetOptions {
        filter: SnapshotFilter::default(),
        group_by: GroupBy::default(),
        policy: Policy { rules: rules.collect(), ..Policy::default() },
        zone: TimeZone::UTC,
    };
    let repository = scene.open_afresh();
    let now = repository.environment().clock.now();
    let plan = plan(&list(&repository), &options, now).unwrap();
    let dropped: Vec<_> = plan.dropped_ids().collect();
    ids.iter().map(|id| !dropped.contains(id)).collect()
}

#[test]
fn a_copy_without_times_loses_nothing_that_its_claims_keep() {
    let scene = Scene::new();
    let ids = honest_days(&scene, 6);
    let rules = [(Every::Day, 4)];
    assert_eq!(kept(&scene, &ids, &rules), [false, false, true, true, true, true]);
    for object in
        ["config".to_string()].into_iter().chain(ids.iter().map(|id| layout::snapshot(id.0)))
    {
        scene.date(&object, today());
    }
    // All were seen today, and are judged by what they claim besides, each as if it were the only one.
    assert_eq!(kept(&scene, &ids, &rules), [true; 6]);
}

#[test]
fn a_config_made_again_does_not_make_claims_believed() {
    let scene = Scene::new();
    let ids = honest_days(&scene, 6);
    let rules = [(Every::Snapshot, 3)];
    for day in 0..4 {
        // It claims to be of a day that has come since, so that only what the store saw tells.
        let forged = scene.back_up(today() - 1 - day, |_| {});
        scene.date_snapshot(forged, today() - 20);
    }
    let expected = [false, false, false, true, true, true];
    assert_eq!(kept(&scene, &ids, &rules), expected);
    scene.date("config", today() + 40);
    assert_eq!(kept(&scene, &ids, &rules), expected);
}

#[test]
fn runs_under_a_clock_that_is_years_ahead_do_not_cost_later_ones_their_place() {
    let scene = Scene::new();
    for day in 0..3 {
        let early = scene.back_up(today() + 3000 + day, |_| {});
        scene.date_snapshot(early, today() + 3000 + day);
    }
    let ids = honest_days(&scene, 5);
    let rules = [(Every::Snapshot, 3)];
    assert_eq!(kept(&scene, &ids, &rules), [false, false, true, true, true]);
}

#[test]
fn an_object_older_than_its_repository_does_not_make_its_claim_believed() {
    let scene = Scene::new();
    let ids = honest_days(&scene, 3);
    for id in &ids {
        let forged = scene.back_up(today(), |_| {});
        scene.date_snapshot(forged, 3);
        assert_ne!(*id, forged);
    }
    assert_eq!(kept(&scene, &ids, &[(Every::Snapshot, 3)]), [true; 3]);
}

/// Changes a byte of an object.
fn flip(scene: &Scene, object: &str, at: usize) {
    let path = scene.folder().join("store").join(object);
    let mut bytes = fs::read(&path).unwrap();
    bytes[at] ^= 3;
    fs::write(path, bytes).unwrap();
}

fn forget_chosen(repository: &Repository, id: SnapshotId) -> Vec<String> {
    let now = repository.environment().clock.now();
    let plan = plan_chosen(&list(repository), &[id], now).unwrap();
    assert!(forget(repository, &plan, false, &SilentMonitor).is_err());
    let summary = forget(repository, &plan, true, &SilentMonitor).unwrap();
    assert_eq!(summary.forgotten, [id]);
    plan.concerns.iter().map(ToString::to_string).collect()
}

fn prune_now(repository: &Repository) -> Result<(), String> {
    let options = PruneOptions { patience: Duration::ZERO, ..PruneOptions::default() };
    prune(repository, &options, &SilentMonitor).map(drop).map_err(|error| error.to_string())
}

#[test]
fn a_slot_that_cannot_be_read_is_given_up_by_its_id_and_collection_goes_on() {
    // In the middle of the sealed bytes; in the header's magic; in its format version, which then is a later one.
    for (at, wrong) in [(200, "cannot be read"), (3, "cannot be read"), (8, "may be whole")] {
        let scene = Scene::new();
        let [damaged, other] = [2, 1].map(|ago| scene.back_up(today() - ago, |_| {}));
        flip(&scene, &layout::snapshot(damaged.0), at);
        let repository = scene.open();
        let refused = prune_now(&repository).unwrap_err();
        let is_newer = refused.contains("newer version");
        assert!(is_newer == (at == 8), "{refused}");
        assert!(refused.contains("aumbry forget") != is_newer, "{refused}");
        let concerns = forget_chosen(&repository, damaged);
        assert!(concerns[0].contains(wrong), "{concerns:?}");
        prune_now(&repository).unwrap();
        assert_eq!(list(&repository).all.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [other]);
        assert!(list(&repository).damaged.is_empty());
        assert_eq!(repository.store().size(&layout::snapshot(damaged.0)).unwrap(), None);
    }
}

#[test]
fn a_damaged_abort_does_not_hold_collection_up_for_ever() {
    let scene = Scene::new();
    scene.back_up(today() - 1, |_| {});
    let repository = scene.open();
    let session = repository.register(Purpose::Write).unwrap();
    repository.abort(session).unwrap();
    flip(&scene, &layout::snapshot(session), 200);
    assert!(prune_now(&repository).unwrap_err().contains("aumbry forget"));
    forget_chosen(&repository, SnapshotId(session));
    prune_now(&repository).unwrap();
}

#[test]
fn a_snapshot_that_is_gone_is_given_up_by_its_id_and_collection_goes_on() {
    let scene = Scene::new();
    let [gone, _, forgotten] = [3, 2, 1].map(|ago| scene.back_up(today() - ago, |_| {}));
    let repository = scene.open();
    repository.forget(&[forgotten], "").unwrap();
    prune_now(&repository).unwrap();
    fs::remove_file(scene.folder().join("store").join(layout::snapshot(gone.0))).unwrap();
    // One client remembers it, and the sweep lists it for the other.
    for repository in [scene.open(), scene.open_afresh()] {
        assert_eq!(list(&repository).vanished, [gone]);
        assert!(prune_now(&repository).unwrap_err().contains("is not listed"));
    }
    let repository = scene.open_afresh();
    let concerns = forget_chosen(&repository, gone);
    assert!(concerns[0].contains("is gone"), "{concerns:?}");
    for repository in [repository, scene.open()] {
        prune_now(&repository).unwrap();
        assert!(list(&repository).vanished.is_empty());
    }
}

#[test]
fn the_plan_of_a_prune_may_take_snapshots_for_forgotten() {
    let scene = Scene::new();
    let ids = [3, 2, 1].map(|ago| {
        fs::write(scene.folder().join("source/file"), vec![ago as u8; 300_000]).unwrap();
        scene.back_up(today() - ago, |_| {})
    });
    let repository = scene.open();
    let planned = |ids: &[SnapshotId]| {
        let assume_forgotten = ids.iter().copied().collect();
        let options = PruneOptions { dry_run: true, assume_forgotten, ..PruneOptions::default() };
        let plan = prune(&repository, &options, &SilentMonitor).unwrap().plan.unwrap();
        (plan.drop, plan.repack)
    };
    assert_eq!(planned(&[]), (Vec::new(), Vec::new()));
    let assumed = planned(&ids[..2]);
    assert!(!assumed.0.is_empty());
    assert_eq!(list(&repository).all.len(), 3);
    repository.forget(&ids[..2], "").unwrap();
    assert_eq!(planned(&[]), assumed);
    // Nor does what cannot be read stand in the way of a plan without it.
    flip(&scene, &layout::snapshot(ids[2].0), 200);
    assert!(!planned(&ids).0.is_empty());
}

#[test]
fn a_forgotten_snapshot_is_gone_and_comes_back() {
    let scene = Scene::new();
    let [one, other] = [0, 1].map(|day| scene.back_up(today() + day, |_| {}));
    let repository = scene.open();
    repository.forget(&[one], "a test").unwrap();
    repository.forget(&[one, one], "again").unwrap();
    let found = list(&repository);
    assert_eq!(found.all.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [other]);
    assert!(found.vanished.is_empty());
    let forgotten = repository.forgotten(&SilentMonitor).unwrap();
    assert_eq!(forgotten.len(), 1);
    assert_eq!(forgotten[0].id, one);
    assert_eq!(forgotten[0].snapshot.as_ref().unwrap().host, "testhost");
    let tomb = forgotten[0].tomb.as_ref().unwrap();
    assert_eq!((&*tomb.why, &*tomb.host, &*tomb.user), ("a test", "testhost", "tester"));
    repository.undelete(&[one]).unwrap();
    assert_eq!(list(&repository).all.len(), 2);
    assert!(repository.forgotten(&SilentMonitor).unwrap().is_empty());
}

/// A store that holds one snapshot, in both forms.
fn stores_of_one_snapshot() -> [(Store, SnapshotId); 2] {
    [true, false].map(|is_conditional| {
        let store = match is_conditional {
            true => Store::memory(),
            false => Store::memory().without_conditions(),
        };
        let repository = create(store.clone(), small_settings(), None);
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("file"), "content").unwrap();
        let summary = back_up_with(&repository, folder.path(), &options(), &SilentMonitor).unwrap();
        (store, summary.snapshot.unwrap())
    })
}

fn tomb(id: SnapshotId, number: u32) -> TombId {
    TombId { session: id.0, number }
}

fn is_there(store: &Store, id: SnapshotId) -> bool {
    list(&open(store.clone(), None)).all.iter().any(|(other, _)| *other == id)
}

#[test]
fn a_tomb_that_is_delivered_again_forgets_nothing_that_was_brought_back() {
    for (store, id) in stores_of_one_snapshot() {
        let repository = open(store.clone(), None);
        repository.forget(&[id], "").unwrap();
        let name = layout::tomb(tomb(id, 1));
        let late = store.get(&name).unwrap();
        repository.undelete(&[id]).unwrap();
        store.create(&name, late).unwrap();
        assert!(is_there(&store, id));
        assert!(repository.forgotten(&SilentMonitor).unwrap().is_empty());
    }
}

#[test]
fn a_tomb_that_comes_after_nobody_saw_it_forgets_nothing_that_was_brought_back() {
    for (store, id) in stores_of_one_snapshot() {
        let repository = open(store.clone(), None);
        // Once when nothing was ever forgotten, and once when something was brought back before.
        for number in [1, 3] {
            repository.forget(&[id], "").unwrap();
            let name = layout::tomb(tomb(id, number));
            let late = store.get(&name).unwrap();
            store.delete(&name).unwrap();
            repository.undelete(&[id]).unwrap();
            store.create(&name, late).unwrap();
            assert!(is_there(&store, id), "{number}");
            repository.undelete(&[id]).unwrap();
        }
    }
}

#[test]
fn an_undelete_brings_back_what_is_forgotten_and_refuses_what_is_not() {
    for (store, id) in stores_of_one_snapshot() {
        let repository = open(store, None);
        let refused = undelete(&repository, &[id], &SilentMonitor).unwrap_err();
        assert!(refused.to_string().contains("not among those that were forgotten"), "{refused}");
        repository.forget(&[id], "").unwrap();
        let done = undelete(&repository, &[id], &SilentMonitor).unwrap();
        assert_eq!((done.restored, done.is_pending), (vec![id], false));
    }
}

#[test]
fn what_an_undelete_orders_and_comes_late_undoes_no_later_forget() {
    for (store, id) in stores_of_one_snapshot() {
        let repository = open(store.clone(), None);
        repository.forget(&[id], "").unwrap();
        repository.undelete(&[id]).unwrap();
        let marks = store.list(layout::TOMBS).unwrap();
        assert_eq!(marks.len(), 2, "of the tomb, and of one that might have been on its way");
        repository.forget(&[id], "").unwrap();
        for mark in &marks {
            let late = store.get(&mark.name).unwrap();
            store.create(&mark.name, late).unwrap();
            store.delete(&layout::tomb(layout::parse_undone(&mark.name).unwrap())).unwrap();
        }
        assert!(!is_there(&store, id));
        assert_eq!(store.list(layout::TOMBS).unwrap().len(), 3);
    }
}

#[test]
fn a_mark_that_is_damaged_or_planted_keeps_a_snapshot_and_it_can_be_forgotten_again() {
    for (store, id) in stores_of_one_snapshot() {
        let repository = open(store.clone(), None);
        repository.forget(&[id], "").unwrap();
        assert!(!is_there(&store, id));
        for number in [1, 2, u32::MAX] {
            store.create(&layout::undone(tomb(id, number)), b"anything".to_vec()).unwrap();
        }
        assert!(is_there(&store, id));
        repository.forget(&[id], "").unwrap();
        assert!(!is_there(&store, id));
        assert!(store.size(&layout::tomb(tomb(id, 3))).unwrap().is_some());
    }
}

#[test]
fn a_mark_that_is_lost_forgets_nothing() {
    for (store, id) in stores_of_one_snapshot() {
        let repository = open(store.clone(), None);
        repository.forget(&[id], "").unwrap();
        repository.undelete(&[id]).unwrap();
        for mark in store.list(layout::TOMBS).unwrap() {
            store.delete(&mark.name).unwrap();
        }
        assert!(is_there(&store, id));
    }
}

#[test]
fn tombs_and_marks_go_with_their_snapshot_though_one_came_late() {
    for (store, id) in stores_of_one_snapshot() {
        let repository = open(store.clone(), None);
        repository.forget(&[id], "").unwrap();
        let name = layout::tomb(tomb(id, 1));
        let late = store.get(&name).unwrap();
        repository.undelete(&[id]).unwrap();
        repository.forget(&[id], "").unwrap();
        let options = PruneOptions { patience: Duration::ZERO, ..PruneOptions::default() };
        prune(&repository, &options, &SilentMonitor).unwrap();
        assert!(store.list(layout::TOMBS).unwrap().is_empty());
        store.create(&name, late).unwrap();
        prune(&repository, &options, &SilentMonitor).unwrap();
        assert!(store.list(layout::TOMBS).unwrap().is_empty());
    }
}

#[test]
fn nothing_is_brought_back_once_space_was_reclaimed() {
    let scene = Scene::new();
    let id = scene.back_up(today(), |_| {});
    let repository = scene.open();
    repository.forget(&[id], "").unwrap();
    assert_eq!(repository.forgotten(&SilentMonitor).unwrap().len(), 1);
    let options = PruneOptions { patience: Duration::ZERO, ..PruneOptions::default() };
    prune(&repository, &options, &SilentMonitor).unwrap();
    assert!(repository.forgotten(&SilentMonitor).unwrap().is_empty());
    assert!(repository.undelete(&[id]).is_err());
    assert!(undelete(&repository, &[id], &SilentMonitor).is_err());
    assert!(list(&repository).all.is_empty());
}

#[test]
fn a_named_source_finds_its_parent_by_its_name() {
    let scene = Scene::new();
    let named = |name: &'static str| move |options: &mut BackupOptions| options.name = name.into();
    let home = scene.back_up(today(), named("home"));
    let other = scene.back_up(today() + 1, |_| {});
    let repository = scene.open_afresh();
    let source = scene.folder().join("source");
    for (name, parent) in [("home", home), ("", other), ("never seen", other)] {
        let options = BackupOptions { dry_run: true, name: name.into(), ..options() };
        let summary = back_up_with(&repository, &source, &options, &SilentMonitor).unwrap();
        assert_eq!(summary.parent, Some(parent), "{name:?}");
        let options = BackupOptions {
            dry_run: false,
            skip_if_unchanged: true,
            parent: Some(home),
            ..options
        };
        let summary = back_up_with(&repository, &source, &options, &SilentMonitor).unwrap();
        assert_eq!(summary.skipped, name == "home", "{name:?}");
        if let Some(id) = summary.snapshot {
            repository.forget(&[id], "").unwrap();
        }
    }
    assert_eq!(list(&repository).all[0].1.name, "home");
}

#[test]
fn forged_times_push_no_snapshot_out_of_its_own_group() {
    let scene = Scene::new();
    let today = today();
    let honest = honest_days(&scene, 6);
    let forged = [0, 1, 2, 3, 4, 5, 6, 7].map(|number| {
        let claim = if number % 2 == 0 { today + 400 + number } else { today - 300 * number };
        let forged = scene.back_up(claim, |_| {});
        scene.date_snapshot(forged, today);
        forged
    });
    let options = ForgetOptions {
        filter: SnapshotFilter::default(),
        group_by: GroupBy::default(),
        policy: Policy {
            rules: vec![
                Rule { every: Every::Snapshot, reach: Reach::Count(2) },
                Rule { every: Every::Day, reach: Reach::Count(4) },
            ],
            ..Policy::default()
        },
        zone: TimeZone::UTC,
    };
    let rules = [(Every::Snapshot, 2), (Every::Day, 4)];
    let expected = [false, false, true, true, true, true];
    assert_eq!(kept(&scene, &honest, &rules), expected);
    assert_eq!(kept(&scene, &forged, &rules), [true; 8], "until as many true ones came after them");
    forged.iter().for_each(|id| scene.date_snapshot(*id, today - 7));
    let repository = scene.open();
    let found = list(&repository);
    assert_eq!(found.all.len(), 14);
    let plan = plan(&found, &options, repository.environment().clock.now()).unwrap();
    assert!(forget(&repository, &plan, false, &SilentMonitor).is_err(), "more than half would go");
    forget(&repository, &plan, true, &SilentMonitor).unwrap();
    let left = list(&repository);
    let is_left = |id: &SnapshotId| left.all.iter().any(|(other, _)| other == id);
    assert_eq!(honest.iter().map(is_left).collect::<Vec<_>>(), expected);
    assert_eq!(left.all.len(), 4);

    let dropped: Vec<_> = plan.dropped().map(|planned| planned.verdict.id).collect();
    undelete(&repository, &dropped, &SilentMonitor).unwrap();
    assert_eq!(list(&repository).all.len(), 14);
    assert!(undelete(&repository, &dropped, &SilentMonitor).is_err(), "none is forgotten now");
}
