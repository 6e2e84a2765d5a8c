//! Rekeying: new keys reach every slot that stays, in one step; the old ones open nothing new; nothing is lost.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use aumbry::codec::kdf::Argon2Cost;
use aumbry::format::config::Settings;
use aumbry::format::header::{Header, ObjectKind};
use aumbry::format::session::Purpose;
use aumbry::id::KeySlotId;
use aumbry::monitor::{Monitor, Phase, RecordingMonitor, SilentMonitor};
use aumbry::ops::OpsError;
use aumbry::ops::backup::backup;
use aumbry::ops::check::{CheckOptions, DataSelection, check};
use aumbry::ops::prune::plan::UnusedLimit;
use aumbry::ops::prune::{PruneOptions, prune};
use aumbry::ops::rekey::{Change, RekeyOptions, RekeyPlan, RekeySummary, plan, rekey};
use aumbry::repository::Repository;
use aumbry::repository::error::Kind;
use aumbry::repository::{key_updates, keys};
use aumbry::source::files::{Files, FilesOptions};
use aumbry::source::{Source, SourceError, Step};
use aumbry::store::{Effect, FaultControl, Store, layout};

use crate::model::{
    Plain, all_contents, assert_same, copy_of, create_quick, create_quick_with, folder_contents,
    open_quick, quick_key,
};
use crate::support::{back_up, back_up_with, environment, noise, options, small_settings};

fn open_with(store: &Store, number: u8) -> Repository {
    Repository::open(store.clone(), &quick_key(number), environment(None)).unwrap()
}

fn add(repository: &Repository, number: u8) -> KeySlotId {
    repository.add_key(&quick_key(number), Some(Argon2Cost::FLOOR), "").unwrap()
}

fn planned(repository: &Repository, change: Change, remove: &[KeySlotId]) -> RekeyPlan {
    let options = RekeyOptions { change, remove: remove.to_vec() };
    plan(repository, &options, &SilentMonitor).unwrap()
}

fn rekeyed(repository: &Repository, remove: &[KeySlotId]) -> RekeySummary {
    rekey(repository, &planned(repository, Change::NewEpoch, remove)).unwrap()
}

fn kind_of(error: OpsError) -> Kind {
    let OpsError::Repository(error) = error else { panic!("{error}") };
    error.kind
}

fn write_files(folder: &Path, version: u64) {
    for number in 0..10 {
        fs::write(folder.join(format!("{number}")), noise(20_000, number * 1000 + version))
            .unwrap();
    }
}

fn tight() -> PruneOptions {
    let mut options = PruneOptions { patience: Duration::ZERO, ..PruneOptions::default() };
    options.limits.max_unused = UnusedLimit::Share(0.0);
    options
}

fn everything() -> CheckOptions {
    CheckOptions {
        data: DataSelection::All,
        restore_sample: 0,
        share_ledger: false,
        memory_budget: 64 << 20,
    }
}

/// The epochs of all objects below a folder, as their clear headers have them.
fn epochs(store: &Store, folder: &str) -> Vec<u32> {
    let objects = store.list(folder).unwrap();
    let header = |name: &str| Header::decode(&store.get(name).unwrap()).unwrap().epoch;
    objects.iter().map(|object| header(&object.name)).collect()
}

fn replace(store: &Store, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
    let mut object = store.get(name).unwrap();
    change(&mut object);
    store.delete(name).unwrap();
    store.create(name, object).unwrap();
}

fn spoil(store: &Store, name: &str) {
    replace(store, name, |object| *object.last_mut().unwrap() ^= 1);
}

/// A repository with three keys and a snapshot; the third key is that of a laptop.
struct Scene {
    store: Store,
    folder: tempfile::TempDir,
    laptop: KeySlotId,
    before: Plain,
}

impl Scene {
    fn new() -> Self {
        Self::with(small_settings())
    }

    fn with(settings: Settings) -> Self {
        let store = Store::memory();
        let repository = create_quick_with(store.clone(), settings, None);
        add(&repository, 2);
        let laptop = add(&repository, 3);
        let folder = tempfile::tempdir().unwrap();
        write_files(folder.path(), 1);
        back_up(&repository, folder.path());
        let before = folder_contents(folder.path());
        Scene { store, folder, laptop, before }
    }

    fn files(&self) -> Files {
        let options =
            FilesOptions { as_path: Some("/tree".parse().unwrap()), ..FilesOptions::default() };
        Files::new(&[PathBuf::from(self.folder.path())], options).unwrap()
    }
}

#[test]
fn every_key_that_stays_reads_the_old_and_writes_the_new() {
    let scene = Scene::new();
    let summary = rekeyed(&open_with(&scene.store, 1), &[scene.laptop]);
    assert_eq!((summary.epoch, summary.revision), (2, 1));
    assert_eq!(summary.missed, []);
    let old_packs = scene.store.list(layout::PACKS).unwrap().len();
    for number in [1, 2] {
        let repository = open_with(&scene.store, number);
        assert_same(&all_contents(&repository)[0], &scene.before, "before");
        write_files(scene.folder.path(), u64::from(number) + 1);
        back_up(&repository, scene.folder.path());
        let now = folder_contents(scene.folder.path());
        assert_same(all_contents(&repository).last().unwrap(), &now, "after");
    }
    let packs = epochs(&scene.store, layout::PACKS);
    assert_eq!(packs.iter().filter(|epoch| **epoch == 1).count(), old_packs);
    assert!(packs.contains(&2));
    let error = Repository::open(scene.store.clone(), &quick_key(3), environment(None));
    assert_eq!(error.err().unwrap().kind, Kind::WrongKey);
    // Keys come and go as before, and lead to the newest keyring.
    let repository = open_with(&scene.store, 2);
    add(&repository, 4);
    repository.change_key(&quick_key(5), Some(Argon2Cost::FLOOR), "").unwrap();
    for number in [1, 4, 5] {
        assert_eq!(all_contents(&open_with(&scene.store, number)).len(), 3);
    }
    // Again, by another key: what went before is cleared away.
    let summary = rekeyed(&open_with(&scene.store, 5), &[]);
    assert_eq!((summary.epoch, summary.revision), (3, 2));
    let updates = scene.store.list(layout::KEYS).unwrap();
    let updates: Vec<_> =
        updates.iter().filter_map(|object| layout::parse_key_update(&object.name)).collect();
    assert_eq!(updates, [2, 2]);
    for number in [1, 4, 5] {
        assert_eq!(all_contents(&open_with(&scene.store, number)).len(), 3);
    }
}

#[test]
fn who_has_the_old_keys_reads_nothing_new() {
    let scene = Scene::new();
    // A thief with the laptop: its slot's secret, the old keyring, and a copy of the store at any later time.
    let thief = keys::open(&scene.store, open_with(&scene.store, 1).id(), &quick_key(3)).unwrap();
    let stolen = open_with(&scene.store, 3);
    rekeyed(&open_with(&scene.store, 1), &[scene.laptop]);
    let repository = open_with(&scene.store, 1);
    write_files(scene.folder.path(), 2);
    back_up(&repository, scene.folder.path());

    let name = layout::key_update(1);
    let object = scene.store.get(&name).unwrap();
    let unseal = |object: &[u8], slot| {
        let id_key = &thief.keyring.id_key;
        key_updates::unseal_update(&name, object, repository.id(), slot, &thief.secret, id_key)
    };
    assert!(unseal(&object, scene.laptop).unwrap().is_none(), "it is not for this slot");
    let own = repository.slot();
    assert_eq!(unseal(&object, own).unwrap_err().kind, Kind::Corrupt);
    // Nor under the laptop's name.
    let mut renamed = object.clone();
    let at = renamed.windows(16).position(|bytes| bytes == own.as_bytes()).unwrap();
    renamed[at..at + 16].copy_from_slice(scene.laptop.as_bytes());
    assert_eq!(unseal(&renamed, scene.laptop).unwrap_err().kind, Kind::Corrupt);

    let found = stolen.snapshots(&SilentMonitor).unwrap();
    assert_eq!((found.all.len(), found.damaged.len()), (1, 1), "the new snapshot does not open");
    assert_eq!(found.damaged[0].1.kind, Kind::WrongKey);
    for object in scene.store.list(layout::PACKS).unwrap() {
        let id = layout::parse_pack(&object.name).unwrap();
        let old = Header::decode(&scene.store.get(&object.name).unwrap()).unwrap().epoch == 1;
        assert_eq!(stolen.read_pack_directory(id, object.size).is_ok(), old);
    }
}

#[test]
fn an_update_is_bound_to_its_name_its_slots_and_every_byte() {
    let scene = Scene::new();
    let repository = open_with(&scene.store, 1);
    rekeyed(&repository, &[]);
    let opened = keys::open(&scene.store, repository.id(), &quick_key(1)).unwrap();
    let name = layout::key_update(1);
    let object = scene.store.get(&name).unwrap();
    let unseal = |name: &str, object: &[u8]| {
        let (slot, id_key) = (opened.slot, &opened.keyring.id_key);
        key_updates::unseal_update(name, object, repository.id(), slot, &opened.secret, id_key)
    };
    assert_eq!(unseal(&name, &object).unwrap(), Some(opened.keyring.clone()));
    assert!(unseal(&layout::key_update(2), &object).is_err());
    for at in 0..object.len() {
        let mut changed = object.clone();
        changed[at] ^= 0x40;
        let found = unseal(&name, &changed);
        assert!(!matches!(found, Ok(Some(_))), "byte {at} of {} does not count", object.len());
    }
}

#[test]
fn rekeying_may_be_stopped_at_any_call() {
    let scene = Scene::new();
    for effect in [Effect::Before, Effect::After] {
        for call in 0.. {
            let what = format!("stopped {effect:?} call {call}");
            let (store, control) = (copy_of(&scene.store), FaultControl::new());
            let faulty = store.clone().with_faults(control.clone());
            let repository = Repository::open(faulty, &quick_key(1), environment(None)).unwrap();
            let at = control.calls() + call;
            control.stop_at(at, effect);
            let options = RekeyOptions { change: Change::NewEpoch, remove: vec![scene.laptop] };
            let outcome = plan(&repository, &options, &SilentMonitor)
                .and_then(|planned| rekey(&repository, &planned));
            let reached = control.calls() > at;

            // Whoever stays reads everything, and adds to it; all of them agree on the keys.
            let mut revisions = Vec::new();
            for number in [1, 2] {
                let repository = open_with(&store, number);
                repository.require_newest_keys().unwrap();
                revisions.push(repository.sealer().keyring().revision);
                assert_same(&all_contents(&repository)[0], &scene.before, &what);
            }
            assert_eq!(revisions[0], revisions[1], "{what}");
            back_up(&open_with(&store, 2), scene.folder.path());
            assert_eq!(all_contents(&open_with(&store, 1)).len(), 2, "{what}");

            // The next one goes through.
            let laptop: Vec<_> = open_with(&store, 1).key_slots().unwrap();
            let laptop: Vec<_> = laptop.into_iter().map(|slot| slot.unwrap().id).collect();
            let laptop: Vec<_> = laptop.into_iter().filter(|id| *id == scene.laptop).collect();
            assert!(outcome.is_err() || laptop.is_empty(), "{what}");
            rekeyed(&open_with(&store, 1), &laptop);
            for number in [1, 2] {
                let repository = open_with(&store, number);
                assert_eq!(repository.sealer().keyring().revision, revisions[0] + 1, "{what}");
                assert_eq!(all_contents(&repository).len(), 2, "{what}");
            }
            assert!(Repository::open(store, &quick_key(3), environment(None)).is_err(), "{what}");
            if !reached {
                outcome.unwrap();
                assert!(call > 8, "{call} calls");
                break;
            }
        }
    }
}

/// A source during whose walk something happens, once, at its end.
struct Eventful<'e> {
    inner: Files,
    event: Option<Box<dyn FnOnce() + Send + 'e>>,
}

impl Source for Eventful<'_> {
    fn next(&mut self, monitor: &dyn Monitor) -> Result<Option<Step>, SourceError> {
        let step = self.inner.next(monitor)?;
        if step.is_none()
            && let Some(event) = self.event.take()
        {
            event();
        }
        Ok(step)
    }

    fn paths(&self) -> Vec<Vec<u8>> {
        self.inner.paths()
    }

    fn restart(&mut self) -> bool {
        self.inner.restart()
    }
}

#[test]
fn a_backup_that_runs_meanwhile_commits_with_the_old_keys_and_holds_them() {
    let scene = Scene::new();
    let running = open_with(&scene.store, 2);
    write_files(scene.folder.path(), 2);
    let event = || {
        rekeyed(&open_with(&scene.store, 1), &[]);
        let newest = open_with(&scene.store, 1);
        let plan = planned(&newest, Change::DropOld, &[]);
        assert!(plan.dropped.is_empty());
        assert_eq!(plan.needed[0].1.sessions.len(), 1);
    };
    let mut source = Eventful { inner: scene.files(), event: Some(Box::new(event)) };
    backup(&running, &mut source, &options(), &SilentMonitor).unwrap();
    let now = folder_contents(scene.folder.path());
    for number in [1, 2] {
        let repository = open_with(&scene.store, number);
        assert_same(all_contents(&repository).last().unwrap(), &now, "what ran meanwhile");
    }
    // It is the last that the old keys wrote.
    let again = back_up_with(&running, scene.folder.path(), &options(), &SilentMonitor);
    assert_eq!(kind_of(again.unwrap_err()), Kind::Conflict);
    assert!(running.undecided_sessions().unwrap().is_empty(), "nobody waits for it");
    back_up(&open_with(&scene.store, 2), scene.folder.path());
}

#[test]
fn a_backup_that_was_given_up_after_a_rekeying_says_so() {
    let scene = Scene::new();
    let running = open_with(&scene.store, 2);
    write_files(scene.folder.path(), 2);
    let event = || {
        rekeyed(&open_with(&scene.store, 1), &[]);
        let newest = open_with(&scene.store, 1);
        for session in newest.undecided_sessions().unwrap() {
            assert!(newest.abort(session).unwrap());
        }
    };
    let mut source = Eventful { inner: scene.files(), event: Some(Box::new(event)) };
    let outcome = backup(&running, &mut source, &options(), &SilentMonitor);
    assert_eq!(kind_of(outcome.unwrap_err()), Kind::Conflict);
    let repository = open_with(&scene.store, 2);
    assert_eq!(all_contents(&repository).len(), 1);
    back_up(&repository, scene.folder.path());
    let now = folder_contents(scene.folder.path());
    assert_same(all_contents(&repository).last().unwrap(), &now, "again");
}

#[test]
fn an_old_epoch_is_drained_and_its_data_key_dropped() {
    let scene = Scene::new();
    rekeyed(&open_with(&scene.store, 1), &[scene.laptop]);
    let repository = open_with(&scene.store, 1);
    let plan = planned(&repository, Change::DropOld, &[]);
    assert!(plan.is_empty() && plan.needed[0].1.packs > 0, "{plan:?}");
    prune(&repository, &tight(), &SilentMonitor).unwrap();
    prune(&repository, &tight(), &SilentMonitor).unwrap();
    assert!(epochs(&scene.store, layout::PACKS).iter().all(|epoch| *epoch == 2));

    // Stopped anywhere, what there is can be read, and the next one goes through.
    for effect in [Effect::Before, Effect::After] {
        for call in 0.. {
            let what = format!("stopped {effect:?} call {call}");
            let (store, control) = (copy_of(&scene.store), FaultControl::new());
            let faulty = store.clone().with_faults(control.clone());
            let repository = Repository::open(faulty, &quick_key(1), environment(None)).unwrap();
            let at = control.calls() + call;
            control.stop_at(at, effect);
            let options = RekeyOptions { change: Change::DropOld, remove: Vec::new() };
            let outcome = aumbry::ops::rekey::plan(&repository, &options, &SilentMonitor)
                .and_then(|planned| rekey(&repository, &planned));
            let reached = control.calls() > at;
            for number in [1, 2] {
                assert_same(&all_contents(&open_with(&store, number))[0], &scene.before, &what);
            }
            let next = open_with(&store, 2);
            let plan = planned(&next, Change::DropOld, &[]);
            assert!(outcome.is_err() || plan.is_empty(), "{what}");
            if !plan.is_empty() {
                rekey(&next, &plan).unwrap();
            }
            for number in [1, 2] {
                let repository = open_with(&store, number);
                let keyring = repository.sealer().keyring();
                assert_eq!(keyring.epochs[0].data_key, None, "{what}");
                assert_same(&all_contents(&repository)[0], &scene.before, &what);
                back_up(&repository, scene.folder.path());
            }
            let found = check(&open_with(&store, 1), &everything(), &SilentMonitor).unwrap();
            assert_eq!(found.damage, [], "{what}");
            if !reached {
                outcome.unwrap();
                break;
            }
        }
    }
}

#[test]
fn a_session_with_the_old_keys_keeps_them_until_it_has_decided() {
    let scene = Scene::new();
    let old = open_with(&scene.store, 2);
    let session = old.register(Purpose::Write).unwrap();
    rekeyed(&open_with(&scene.store, 1), &[]);
    let repository = open_with(&scene.store, 1);
    let newer = repository.register(Purpose::Write).unwrap();
    let uses = repository.epoch_uses(&[1, 2]).unwrap();
    assert_eq!((&uses[0].sessions, &uses[1].sessions), (&vec![session], &vec![newer]));
    repository.abort(session).unwrap();
    let uses = repository.epoch_uses(&[1]).unwrap();
    assert_eq!(uses[0].sessions, []);
    // A pack whose header cannot be read may be of any epoch.
    let pack = scene.store.list(layout::PACKS).unwrap().remove(0).name;
    replace(&scene.store, &pack, |object| object.truncate(60));
    let uses = repository.epoch_uses(&[1]).unwrap();
    assert_eq!(uses[0].unreadable, [pack]);
    assert!(!uses[0].is_unused());
}

#[test]
fn one_damaged_copy_of_an_update_costs_nothing_and_two_stop_writers_only() {
    let scene = Scene::new();
    rekeyed(&open_with(&scene.store, 1), &[]);
    spoil(&scene.store, &layout::key_update(1));
    let repository = open_with(&scene.store, 2);
    assert_eq!(repository.sealer().newest_epoch(), 2);
    back_up(&repository, scene.folder.path());
    let found = check(&repository, &everything(), &SilentMonitor).unwrap();
    assert_eq!(found.damage.len(), 1);
    assert_eq!(found.damage[0].item, layout::key_update(1));

    spoil(&scene.store, &layout::key_update_copy(1));
    let repository = open_with(&scene.store, 2);
    assert_same(&all_contents(&repository)[0], &scene.before, "what the old keys sealed");
    let outcome = back_up_with(&repository, scene.folder.path(), &options(), &SilentMonitor);
    let OpsError::Repository(error) = outcome.unwrap_err() else { panic!() };
    assert_eq!((error.kind, error.item), (Kind::Corrupt, layout::key_update(1)));
    let pruned = prune(&repository, &tight(), &SilentMonitor);
    assert_eq!(kind_of(pruned.unwrap_err()), Kind::Corrupt);
    let options = RekeyOptions { change: Change::NewEpoch, remove: Vec::new() };
    assert!(plan(&repository, &options, &SilentMonitor).is_err());
    assert!(repository.add_key(&quick_key(9), Some(Argon2Cost::FLOOR), "").is_err());
    assert!(Repository::open(scene.store, &quick_key(9), environment(None)).is_err());
}

#[test]
fn a_slot_that_cannot_get_new_keys_is_named_and_reads_what_it_could() {
    let scene = Scene::new();
    // Its label is damaged, and with it the slot's public key.
    spoil(&scene.store, &layout::key(scene.laptop));
    let repository = open_with(&scene.store, 1);
    let plan = planned(&repository, Change::NewEpoch, &[]);
    assert_eq!(plan.left_behind.len(), 1);
    assert_eq!(plan.left_behind[0].0, layout::key(scene.laptop));
    rekey(&repository, &plan).unwrap();
    back_up(&open_with(&scene.store, 1), scene.folder.path());
    let behind = open_with(&scene.store, 3);
    assert_same(&all_contents(&behind)[0], &scene.before, "the old keys");
    let outcome = back_up_with(&behind, scene.folder.path(), &options(), &SilentMonitor);
    assert_eq!(kind_of(outcome.unwrap_err()), Kind::WrongKey);
    let pruned = prune(&behind, &tight(), &SilentMonitor);
    assert_eq!(kind_of(pruned.unwrap_err()), Kind::WrongKey);
    let options = RekeyOptions { change: Change::NewEpoch, remove: Vec::new() };
    let refused = aumbry::ops::rekey::plan(&behind, &options, &SilentMonitor);
    assert_eq!(kind_of(refused.unwrap_err()), Kind::WrongKey);
    // It may forget what it can read.
    let id = behind.snapshots(&SilentMonitor).unwrap().all[0].0;
    behind.forget(&[id], "").unwrap();
    let found = open_with(&scene.store, 1).snapshots(&SilentMonitor).unwrap();
    assert!(found.all.iter().all(|(other, _)| *other != id) && found.damaged.is_empty());
}

#[test]
fn of_two_rekeyings_at_once_one_is_refused_and_changes_nothing() {
    for store in [Store::memory(), Store::memory().without_conditions()] {
        create_quick(store.clone(), None);
        let (one, other) = (open_quick(store.clone(), None), open_quick(store.clone(), None));
        let plans = [&one, &other].map(|each| planned(each, Change::NewEpoch, &[]));
        rekey(&one, &plans[0]).unwrap();
        let keys = open_quick(store.clone(), None).sealer().keyring().clone();
        assert_eq!(kind_of(rekey(&other, &plans[1]).unwrap_err()), Kind::Conflict);
        assert_eq!(*open_quick(store, None).sealer().keyring(), keys);
    }
}

#[test]
fn a_key_added_beside_a_rekeying_is_refused_or_named() {
    let scene = Scene::new();
    let (one, other) = (open_with(&scene.store, 1), open_with(&scene.store, 2));
    let plan = planned(&one, Change::NewEpoch, &[]);
    // Between the plan and the step, unseen by it.
    let added = add(&other, 7);
    let summary = rekey(&one, &plan).unwrap();
    assert_eq!(summary.missed, [added]);
    // After the step, with keys from before it.
    let slots = scene.store.list(layout::KEYS).unwrap().len();
    let error = other.add_key(&quick_key(8), Some(Argon2Cost::FLOOR), "").unwrap_err();
    assert_eq!(error.kind, Kind::Conflict);
    assert_eq!(scene.store.list(layout::KEYS).unwrap().len(), slots, "nothing is left of it");
}

#[test]
fn the_key_in_use_is_not_the_one_to_remove() {
    let scene = Scene::new();
    let repository = open_with(&scene.store, 3);
    let options = RekeyOptions { change: Change::NewEpoch, remove: vec![scene.laptop] };
    let error = plan(&repository, &options, &SilentMonitor).unwrap_err();
    assert_eq!(kind_of(error), Kind::Invalid);
}

/// Whether the old epoch's data key goes, or stays because something is out of sight.
fn dropped(store: &Store) -> Result<bool, Kind> {
    let options = RekeyOptions { change: Change::DropOld, remove: Vec::new() };
    match plan(&open_with(store, 1), &options, &SilentMonitor) {
        Ok(plan) => Ok(!plan.is_empty()),
        Err(error) => Err(kind_of(error)),
    }
}

fn names(store: &Store, folder: &str) -> Vec<String> {
    store.list(folder).unwrap().into_iter().map(|object| object.name).collect()
}

#[test]
fn a_data_key_stays_while_something_that_may_need_it_is_out_of_sight() {
    let scene = Scene::new();
    rekeyed(&open_with(&scene.store, 1), &[]);
    // Short packs move, those of trees among them as a rule; most data packs stay.
    let mut options = tight();
    options.limits.max_repack_bytes = Some(20_000);
    prune(&open_with(&scene.store, 1), &options, &SilentMonitor).unwrap();
    let packs = names(&scene.store, layout::PACKS);
    let header = |name: &String| Header::decode(&scene.store.get(name).unwrap()).unwrap();
    let (old, new): (Vec<_>, Vec<_>) = packs.iter().partition(|name| header(name).epoch == 1);
    assert!(old.iter().any(|name| header(name).kind == ObjectKind::DataPack));
    assert!(!new.is_empty());
    assert_eq!(dropped(&scene.store), Ok(false));

    // No pack of the old epoch is shown: they may be away, or the listing may lack them.
    let store = copy_of(&scene.store);
    old.iter().for_each(|name| store.delete(name).unwrap());
    assert_eq!(dropped(&store), Err(Kind::Corrupt));
    // Nor does an index object know of them.
    for name in names(&store, layout::INDEX) {
        store.delete(&name).unwrap();
    }
    assert_eq!(dropped(&store), Err(Kind::Corrupt));
    for name in &old {
        store.create(name, scene.store.get(name).unwrap()).unwrap();
    }
    assert_eq!(dropped(&store), Ok(false));
    assert_same(&all_contents(&open_with(&store, 1))[0], &scene.before, "what came back");

    // Nothing is old, and a snapshot that the last sweep let live is not shown.
    prune(&open_with(&scene.store, 1), &tight(), &SilentMonitor).unwrap();
    assert_eq!(dropped(&scene.store), Ok(true));
    for name in names(&scene.store, layout::SNAPSHOTS) {
        scene.store.delete(&name).unwrap();
    }
    assert_eq!(dropped(&scene.store), Err(Kind::Corrupt));
}

#[test]
fn what_came_to_need_a_data_key_after_the_plan_keeps_it() {
    let scene = Scene::new();
    let name = names(&scene.store, layout::PACKS).remove(0);
    let late = scene.store.get(&name).unwrap();
    rekeyed(&open_with(&scene.store, 1), &[]);
    let repository = open_with(&scene.store, 1);
    prune(&repository, &tight(), &SilentMonitor).unwrap();
    let plan = planned(&repository, Change::DropOld, &[]);
    assert_eq!(plan.dropped, [1]);
    scene.store.create(&name, late).unwrap();
    assert_eq!(kind_of(rekey(&repository, &plan).unwrap_err()), Kind::Conflict);
    assert!(open_with(&scene.store, 1).sealer().keyring().epochs[0].data_key.is_some());
}

/// Does something, once, when a phase begins.
struct At<'e> {
    phase: Phase,
    event: Mutex<Option<Box<dyn FnOnce() + Send + 'e>>>,
}

impl Monitor for At<'_> {
    fn phase(&self, phase: Phase) {
        if phase == self.phase {
            let event = self.event.lock().unwrap().take();
            event.into_iter().for_each(|event| event());
        }
    }
}

/// A scene with packs that are needed in part.
fn half_used() -> (Scene, Plain) {
    let scene = Scene::new();
    let repository = open_with(&scene.store, 1);
    let first = repository.snapshots(&SilentMonitor).unwrap().all[0].0;
    for number in 0..10 {
        if number % 2 == 0 {
            fs::write(scene.folder.path().join(format!("{number}")), noise(20_000, 77 + number))
                .unwrap();
        }
    }
    back_up(&repository, scene.folder.path());
    repository.forget(&[first], "").unwrap();
    let now = folder_contents(scene.folder.path());
    (scene, now)
}

#[test]
fn a_prune_that_a_rekeying_overtakes_seals_nothing_more_with_the_old_keys() {
    for drains in [false, true] {
        let (scene, now) = half_used();
        let packs = names(&scene.store, layout::PACKS);
        let event = || {
            rekeyed(&open_with(&scene.store, 1), &[]);
            if drains {
                let newest = open_with(&scene.store, 1);
                prune(&newest, &tight(), &SilentMonitor).unwrap();
                rekey(&newest, &planned(&newest, Change::DropOld, &[])).unwrap();
            }
        };
        let monitor = At { phase: Phase::Mark, event: Mutex::new(Some(Box::new(event))) };
        let outcome = prune(&open_with(&scene.store, 2), &tight(), &monitor);
        assert_eq!(kind_of(outcome.unwrap_err()), Kind::Conflict, "drained: {drains}");
        for name in names(&scene.store, layout::PACKS) {
            let epoch = Header::decode(&scene.store.get(&name).unwrap()).unwrap().epoch;
            assert!(epoch == 2 || packs.contains(&name), "{name} is new, and of epoch {epoch}");
        }
        let repository = open_with(&scene.store, 2);
        assert!(repository.undecided_sessions().unwrap().is_empty(), "nobody waits for it");
        assert_same(&all_contents(&repository)[0], &now, "overtaken");
        if !drains {
            prune(&repository, &tight(), &SilentMonitor).unwrap();
            let plan = planned(&repository, Change::DropOld, &[]);
            assert_eq!(plan.dropped, [1]);
            rekey(&repository, &plan).unwrap();
        }
        assert_same(&all_contents(&open_with(&scene.store, 1))[0], &now, "drained");
    }
}

#[test]
fn a_copying_prune_holds_its_keys_and_when_it_is_given_up_nothing_needs_what_it_copies() {
    // It is waited for.
    let (scene, now) = half_used();
    let event = || {
        let newest = open_with(&scene.store, 1);
        rekeyed(&newest, &[]);
        let plan = planned(&open_with(&scene.store, 1), Change::DropOld, &[]);
        assert!(plan.dropped.is_empty());
        assert_eq!(plan.needed[0].1.sessions.len(), 1);
    };
    let monitor = At { phase: Phase::Repack, event: Mutex::new(Some(Box::new(event))) };
    let outcome = prune(&open_with(&scene.store, 2), &tight(), &monitor);
    assert_eq!(kind_of(outcome.unwrap_err()), Kind::Conflict);
    assert_same(&all_contents(&open_with(&scene.store, 2))[0], &now, "copied with the old keys");

    // Another collector gives it up, drains the epoch and drops its key; then it goes on.
    let (scene, now) = half_used();
    let event = || {
        rekeyed(&open_with(&scene.store, 1), &[]);
        let newest = open_with(&scene.store, 1);
        prune(&newest, &tight(), &SilentMonitor).unwrap();
        let plan = planned(&newest, Change::DropOld, &[]);
        assert_eq!(plan.dropped, [1]);
        rekey(&newest, &plan).unwrap();
    };
    let monitor = At { phase: Phase::Repack, event: Mutex::new(Some(Box::new(event))) };
    assert!(prune(&open_with(&scene.store, 2), &tight(), &monitor).is_err());
    let repository = open_with(&scene.store, 1);
    assert_same(&all_contents(&repository)[0], &now, "given up while it copied");
    back_up(&repository, scene.folder.path());
    let found = check(&repository, &everything(), &SilentMonitor).unwrap();
    assert!(found.damage.iter().all(|damage| damage.hit_count == 0), "{:?}", found.damage);
}

#[test]
fn an_old_pack_whose_directory_is_damaged_within_paritys_reach_is_drained() {
    let scene = Scene::with(Settings { parity_percent: 10, ..small_settings() });
    rekeyed(&open_with(&scene.store, 1), &[]);
    for name in names(&scene.store, layout::PACKS) {
        // In the last frame, where the directory ends.
        replace(&scene.store, &name, |object| {
            let plain = u64::from_le_bytes(object[48..56].try_into().unwrap()) as usize;
            let frames = plain.div_ceil(65_536);
            object[128 + plain + 16 * frames - 20] ^= 1;
        });
    }
    let repository = open_with(&scene.store, 1);
    let monitor = RecordingMonitor::default();
    prune(&repository, &tight(), &monitor).unwrap();
    assert_eq!(monitor.problems(), []);
    assert!(
        monitor.notes().iter().any(|note| note.contains("was mended")),
        "{:?}",
        monitor.notes()
    );
    assert_eq!(epochs(&scene.store, layout::PACKS).iter().min(), Some(&2));
    let plan = planned(&repository, Change::DropOld, &[]);
    rekey(&repository, &plan).unwrap();
    assert_same(&all_contents(&open_with(&scene.store, 1))[0], &scene.before, "mended and copied");
}

#[test]
fn an_idle_session_with_old_keys_is_given_up_though_nothing_is_to_be_collected() {
    let scene = Scene::new();
    let reader = open_with(&scene.store, 2);
    rekeyed(&open_with(&scene.store, 1), &[]);
    let repository = open_with(&scene.store, 1);
    prune(&repository, &tight(), &SilentMonitor).unwrap();
    let session = reader.register(Purpose::Read).unwrap();
    let plan = planned(&repository, Change::DropOld, &[]);
    assert_eq!((plan.dropped.len(), &plan.needed[0].1.sessions), (0, &vec![session]));
    prune(&repository, &tight(), &SilentMonitor).unwrap();
    assert_eq!(planned(&repository, Change::DropOld, &[]).dropped, [1]);
}
