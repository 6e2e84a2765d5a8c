//! The process is stopped at every call to the store, before and after its effect; replies are lost; the
//! store is full. What was there before stays, and the next run goes through.

use std::fs;
use std::path::{Path, PathBuf};

use aumbry::codec::kdf::Argon2Cost;
use aumbry::format::header::ObjectKind;
use aumbry::id::KeySlotId;
use aumbry::monitor::SilentMonitor;
use aumbry::ops::OpsError;
use aumbry::ops::backup::BackupSummary;
use aumbry::repository::error::Kind;
use aumbry::repository::keys::Credential;
use aumbry::repository::{CreateOptions, Repository};
use aumbry::store::{Effect, FaultControl, Store};
use tempfile::TempDir;

use crate::model::{
    Plain, all_contents, assert_nothing_stored_twice, assert_same, copy_folder, copy_of,
    create_quick, folder_contents, open_quick, quick_key,
};
use crate::support::{
    back_up, back_up_with, environment, noise, options, passphrase, small_settings, snapshots,
};

/// A repository before the backup that is to be disturbed, and the folder to back up.
struct Before {
    store: Store,
    cache: TempDir,
    source: TempDir,
    older: Vec<Plain>,
}

/// One disturbed run: its own copy of the store and of the cache.
struct Case {
    store: Store,
    control: FaultControl,
    cache: Option<TempDir>,
}

impl Before {
    /// Nothing was backed up yet.
    fn first_backup() -> Self {
        let (source, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let store = Store::memory();
        create_quick(store.clone(), Some(cache.path()));
        make_tree(source.path());
        Before { store, cache, source, older: Vec::new() }
    }

    /// There is a snapshot, and the folder has changed since.
    fn second_backup() -> Self {
        let mut before = Self::first_backup();
        let repository = open_quick(before.store.clone(), Some(before.cache.path()));
        back_up(&repository, before.source.path());
        drop(repository);
        before.older.push(folder_contents(before.source.path()));
        change_tree(before.source.path());
        before
    }

    fn case(&self, cached: bool) -> Case {
        let cache = cached.then(|| {
            let cache = tempfile::tempdir().unwrap();
            copy_folder(self.cache.path(), cache.path());
            cache
        });
        Case { store: copy_of(&self.store), control: FaultControl::new(), cache }
    }

    /// After the trouble: what is there is whole, and the next backup goes through.
    fn check(&self, case: &Case, outcome: &Result<BackupSummary, OpsError>, what: &str) {
        let wanted = folder_contents(self.source.path());
        let repository = case.open_well();
        let all = snapshots(&repository);
        for (number, found) in all_contents(&repository).iter().enumerate() {
            assert_same(found, self.older.get(number).unwrap_or(&wanted), what);
        }
        let (least, most) = (self.older.len(), self.older.len() + 1);
        assert!((least..=most).contains(&all.len()), "{what}: {} snapshots", all.len());
        if let Ok(summary) = outcome {
            let reported = summary.snapshot.unwrap();
            assert!(all.iter().any(|(id, _)| *id == reported), "{what}: {reported} is gone");
        }

        back_up(&repository, self.source.path());
        assert_same(all_contents(&repository).last().unwrap(), &wanted, what);
        assert_eq!(snapshots(&repository).len(), all.len() + 1, "{what}");
        assert_nothing_stored_twice(&repository, what);
        drop(repository);
        // Somebody else, who knows nothing but the store, sees the same.
        let stranger = open_quick(case.store.clone(), None);
        let found = all_contents(&stranger);
        assert_eq!(found.len(), all.len() + 1, "{what}");
        for (number, found) in found.iter().enumerate() {
            assert_same(found, self.older.get(number).unwrap_or(&wanted), what);
        }
    }
}

impl Case {
    fn cache_folder(&self) -> Option<&Path> {
        self.cache.as_ref().map(TempDir::path)
    }

    /// Opened on the store that fails.
    fn open_faulty(&self) -> Repository {
        open_quick(self.store.clone().with_faults(self.control.clone()), self.cache_folder())
    }

    fn open_well(&self) -> Repository {
        open_quick(self.store.clone(), self.cache_folder())
    }
}

fn make_tree(folder: &Path) {
    fs::create_dir_all(folder.join("a/b")).unwrap();
    fs::create_dir(folder.join("empty")).unwrap();
    fs::write(folder.join("a/nothing"), b"").unwrap();
    fs::write(folder.join("a/inline"), b"a few bytes").unwrap();
    fs::write(folder.join("a/small"), noise(700, 1)).unwrap();
    fs::write(folder.join("a/b/large"), noise(70_000, 2)).unwrap();
    fs::write(folder.join("z"), noise(40_000, 3)).unwrap();
    std::os::unix::fs::symlink("z", folder.join("link")).unwrap();
}

fn change_tree(folder: &Path) {
    let mut bytes = fs::read(folder.join("a/b/large")).unwrap();
    bytes[30_000..30_100].fill(9);
    fs::write(folder.join("a/b/large"), bytes).unwrap();
    fs::write(folder.join("a/new"), noise(90_000, 4)).unwrap();
    fs::remove_file(folder.join("a/small")).unwrap();
    fs::remove_dir(folder.join("empty")).unwrap();
    fs::write(folder.join("empty"), b"a file now").unwrap();
}

fn back_up_plainly(repository: &Repository, folder: &Path) -> Result<BackupSummary, OpsError> {
    back_up_with(repository, folder, &options(), &SilentMonitor)
}

fn stop_at_every_call(before: &Before, cached: bool) {
    for effect in [Effect::Before, Effect::After] {
        for call in 0.. {
            let case = before.case(cached);
            let repository = case.open_faulty();
            let at = case.control.calls() + call;
            case.control.stop_at(at, effect);
            let outcome = back_up_plainly(&repository, before.source.path());
            let reached = case.control.calls() > at;
            drop(repository);
            case.control.resume();
            before.check(&case, &outcome, &format!("stopped {effect:?} call {call}"));
            if !reached {
                assert!(outcome.is_ok(), "{outcome:?}");
                assert!(call > 10, "a backup makes more calls than {call}");
                break;
            }
            assert!(outcome.is_err(), "nobody can know of success after call {call}");
        }
    }
}

#[test]
fn a_first_backup_may_be_stopped_at_any_call() {
    stop_at_every_call(&Before::first_backup(), false);
}

#[test]
fn a_first_backup_with_a_cache_may_be_stopped_at_any_call() {
    stop_at_every_call(&Before::first_backup(), true);
}

#[test]
fn a_second_backup_may_be_stopped_at_any_call() {
    stop_at_every_call(&Before::second_backup(), false);
}

#[test]
fn a_second_backup_with_a_cache_may_be_stopped_at_any_call() {
    stop_at_every_call(&Before::second_backup(), true);
}

#[test]
fn a_lost_reply_to_any_create_of_a_backup_makes_no_difference() {
    let before = Before::second_backup();
    for cached in [false, true] {
        for create in 0.. {
            let case = before.case(cached);
            let repository = case.open_faulty();
            let at = case.control.creates() + create;
            case.control.lose_reply_of_create(at);
            let outcome = back_up_plainly(&repository, before.source.path());
            let what = format!("lost the reply to create {create}");
            assert!(outcome.is_ok(), "{what}: {outcome:?}");
            assert_eq!(snapshots(&repository).len(), 2, "{what}");
            drop(repository);
            before.check(&case, &outcome, &what);
            if case.control.creates() <= at {
                assert!(create > 4, "a backup makes more objects than {create}");
                break;
            }
        }
    }
}

/// The store was full: the error says so, and what to do.
fn assert_full(outcome: &Result<BackupSummary, OpsError>, what: &str) {
    match outcome {
        Err(OpsError::Repository(error)) if error.kind == Kind::Full => {
            assert!(error.to_string().contains("free some space"), "{what}: {error}");
        }
        other => panic!("{what}: {other:?}"),
    }
}

#[test]
fn a_store_that_is_full_for_one_create_costs_one_run_and_no_data() {
    let before = Before::second_backup();
    for (cached, goes_on) in [(false, false), (true, false), (true, true)] {
        for create in 0.. {
            let case = before.case(cached);
            let repository = case.open_faulty();
            let at = case.control.creates() + create;
            case.control.fail_create_with_full(at);
            let outcome = back_up_plainly(&repository, before.source.path());
            let what = format!("full at create {create}");
            if case.control.creates() <= at {
                assert!(outcome.is_ok(), "{what}: {outcome:?}");
                assert!(create > 4, "a backup makes more objects than {create}");
                break;
            }
            assert_full(&outcome, &what);
            if goes_on {
                // The same process tries again.
                let summary = back_up(&repository, before.source.path());
                assert_nothing_stored_twice(&repository, &what);
                drop(repository);
                before.check(&case, &Ok(summary), &what);
            } else {
                drop(repository);
                before.check(&case, &outcome, &what);
            }
        }
    }
}

#[test]
fn a_store_that_stays_full_takes_nothing_back() {
    let before = Before::second_backup();
    for cached in [false, true] {
        let mut limit = 0;
        loop {
            let case = before.case(cached);
            let repository = case.open_faulty();
            case.control.limit_bytes(Some(limit));
            let outcome = back_up_plainly(&repository, before.source.path());
            let what = format!("room for {limit} bytes");
            if outcome.is_ok() {
                assert!(limit > 60_000, "{what} was enough");
                before.check(&case, &outcome, &what);
                break;
            }
            assert_full(&outcome, &what);
            // The same error again, and nothing lost by trying.
            assert_full(&back_up_plainly(&repository, before.source.path()), &what);
            case.control.limit_bytes(None);
            drop(repository);
            before.check(&case, &outcome, &what);
            limit += 11_000;
        }
    }
}

fn create_with(store: Store, credential: &Credential) -> aumbry::repository::error::Result<()> {
    let options = CreateOptions {
        settings: small_settings(),
        cost: Some(Argon2Cost::FLOOR),
        label: "test".into(),
        cuts_like: None,
    };
    Repository::create(store, &options, credential, environment(None)).map(drop)
}

/// Whatever became of an attempt to make a repository: it is one, or it can be made one.
fn check_creation(store: Store, reported: bool, credential: &Credential, what: &str) {
    match Repository::identify(&store) {
        Ok(_) => {}
        Err(error) => {
            assert!(!reported, "{what}: {error}");
            assert_eq!(error.kind, Kind::NotFound, "{what}: {error}");
            create_with(store.clone(), credential).unwrap();
        }
    }
    let repository = Repository::open(store.clone(), credential, environment(None)).unwrap();
    let slots = repository.key_slots().unwrap();
    assert_eq!(slots.len(), 1, "{what}");
    assert!(slots[0].is_ok(), "{what}: {:?}", slots[0]);
    let source = tempfile::tempdir().unwrap();
    make_tree(source.path());
    back_up(&repository, source.path());
    assert_same(&all_contents(&repository)[0], &folder_contents(source.path()), what);
    let again = create_with(store, credential).unwrap_err();
    assert_eq!(again.kind, Kind::Conflict, "{what}: {again}");
}

#[test]
fn making_a_repository_may_be_stopped_at_any_call() {
    for effect in [Effect::Before, Effect::After] {
        for call in 0.. {
            // With a passphrase at the calls that matter most; the derivation takes its time.
            let credential = if call == 5 { passphrase() } else { quick_key(1) };
            let (store, control) = (Store::memory(), FaultControl::new());
            control.stop_at(call, effect);
            let outcome = create_with(store.clone().with_faults(control.clone()), &credential);
            let what = format!("stopped {effect:?} call {call}");
            check_creation(store, outcome.is_ok(), &credential, &what);
            if control.calls() <= call {
                assert!(outcome.is_ok() && call > 6, "{outcome:?} after {call} calls");
                break;
            }
        }
    }
}

#[test]
fn a_lost_reply_or_a_full_store_while_making_a_repository_leaves_it_whole() {
    for create in 0..2 {
        let (store, control) = (Store::memory(), FaultControl::new());
        control.lose_reply_of_create(create);
        create_with(store.clone().with_faults(control), &quick_key(1)).unwrap();
        check_creation(store, true, &quick_key(1), &format!("lost the reply to {create}"));

        let (store, control) = (Store::memory(), FaultControl::new());
        control.fail_create_with_full(create);
        let error = create_with(store.clone().with_faults(control), &quick_key(1)).unwrap_err();
        assert_eq!(error.kind, Kind::Full, "{error}");
        check_creation(store, false, &quick_key(1), &format!("full at {create}"));
    }
}

fn opens(store: &Store, credential: &Credential) -> bool {
    match Repository::open(store.clone(), credential, environment(None)) {
        Ok(_) => true,
        Err(error) => {
            assert_eq!(error.kind, Kind::WrongKey, "{error}");
            false
        }
    }
}

/// Stops `change` at each of its calls; `check` learns what is in the store and whether it was reported as done.
fn stop_keys<T: std::fmt::Debug>(
    prepared: &Store,
    credential: &Credential,
    change: impl Fn(&Repository) -> aumbry::repository::error::Result<T>,
    check: impl Fn(&Store, bool, &str),
) {
    for effect in [Effect::Before, Effect::After] {
        for call in 0.. {
            let (store, control) = (copy_of(prepared), FaultControl::new());
            let faulty = store.clone().with_faults(control.clone());
            let repository = Repository::open(faulty, credential, environment(None)).unwrap();
            let at = control.calls() + call;
            control.stop_at(at, effect);
            let outcome = change(&repository);
            let reached = control.calls() > at;
            let what = format!("stopped {effect:?} call {call}");
            check(&store, outcome.is_ok(), &what);
            let some = Repository::open(store.clone(), credential, environment(None))
                .or_else(|_| Repository::open(store, &quick_key(2), environment(None)))
                .unwrap();
            for slot in some.key_slots().unwrap() {
                slot.unwrap();
            }
            if !reached {
                assert!(outcome.is_ok(), "{what}: {outcome:?}");
                break;
            }
        }
    }
}

#[test]
fn adding_a_key_may_be_stopped_at_any_call() {
    let store = Store::memory();
    create_quick(store.clone(), None);
    let add = |repository: &Repository| {
        repository.add_key(&quick_key(2), Some(Argon2Cost::FLOOR), "second")
    };
    stop_keys(&store, &quick_key(1), add, |store, reported, what| {
        assert!(opens(store, &quick_key(1)), "{what}");
        assert!(opens(store, &quick_key(2)) || !reported, "{what}");
    });
}

#[test]
fn changing_the_passphrase_may_be_stopped_at_any_call() {
    let store = Store::memory();
    create_with(store.clone(), &passphrase()).unwrap();
    let change = |repository: &Repository| {
        repository.change_key(&quick_key(2), Some(Argon2Cost::FLOOR), "new")
    };
    stop_keys(&store, &passphrase(), change, |store, reported, what| {
        let (old, new) = (opens(store, &passphrase()), opens(store, &quick_key(2)));
        assert!(old || new, "{what}");
        assert!(!reported || new && !old, "{what}: old {old}, new {new}");
    });
}

#[test]
fn removing_a_key_may_be_stopped_at_any_call() {
    let store = Store::memory();
    let second = create_quick(store.clone(), None)
        .add_key(&quick_key(2), Some(Argon2Cost::FLOOR), "")
        .unwrap();
    let remove = move |repository: &Repository| repository.remove_key(second);
    stop_keys(&store, &quick_key(1), remove, |store, reported, what| {
        assert!(opens(store, &quick_key(1)), "{what}");
        assert!(!reported || !opens(store, &quick_key(2)), "{what}");
        let again = open_quick(store.clone(), None);
        again.remove_key(second).unwrap();
        assert!(!opens(store, &quick_key(2)), "{what}");
    });
}

#[test]
fn the_last_key_cannot_be_removed_by_who_opened_with_one_that_is_gone() {
    let store = Store::memory();
    let repository = create_quick(store.clone(), None);
    let new = repository.change_key(&quick_key(2), Some(Argon2Cost::FLOOR), "").unwrap();
    let error = repository.remove_key(new).unwrap_err();
    assert_eq!(error.kind, Kind::Invalid, "{error}");
    assert!(opens(&store, &quick_key(2)));

    // The same when somebody else has removed the key that opened it.
    let third = open_with(&store, 2).add_key(&quick_key(3), Some(Argon2Cost::FLOOR), "").unwrap();
    let opened = open_with(&store, 2);
    open_with(&store, 3).remove_key(new).unwrap();
    assert_eq!(opened.remove_key(third).unwrap_err().kind, Kind::Invalid);
    assert!(opens(&store, &quick_key(3)));
}

fn open_with(store: &Store, key: u8) -> Repository {
    Repository::open(store.clone(), &quick_key(key), environment(None)).unwrap()
}

#[test]
fn a_slot_of_another_repository_is_shown_and_opens_nothing() {
    let (store, other) = (Store::memory(), Store::memory());
    let slot = create_quick(store.clone(), None).slot();
    create_with(other.clone(), &quick_key(2)).unwrap();
    let name = other.list("keys/").unwrap().remove(0).name;
    store.create(&name, other.get(&name).unwrap()).unwrap();
    assert!(!opens(&store, &quick_key(2)));
    let slots = open_quick(store, None).key_slots().unwrap();
    let good: Vec<KeySlotId> = slots.iter().flatten().map(|slot| slot.id).collect();
    assert_eq!((slots.len(), good), (2, vec![slot]));
}

#[test]
fn a_repository_is_not_made_over_one_whose_config_is_lost() {
    let before = Before::second_backup();
    let store = copy_of(&before.store);
    let config = store.get("config").unwrap();
    store.delete("config").unwrap();
    let error = create_with(store.clone(), &quick_key(2)).unwrap_err();
    assert_eq!(error.kind, Kind::Conflict, "{error}");
    store.create("config", config).unwrap();
    assert_same(&all_contents(&open_quick(store, None))[0], &before.older[0], "config restored");
}

#[test]
fn a_cache_from_before_the_store_was_set_back_is_not_believed() {
    let before = Before::second_backup();
    let earlier = copy_of(&before.store);
    // A backup that the store then forgets again: the cache knows packs that are nowhere.
    let cache: PathBuf = before.cache.path().into();
    let repository = open_quick(before.store.clone(), Some(&cache));
    back_up(&repository, before.source.path());
    drop(repository);
    let repository = open_quick(earlier, Some(&cache));
    back_up(&repository, before.source.path());
    let wanted = folder_contents(before.source.path());
    let stranger = open_quick(repository.store().clone(), None);
    let all = all_contents(&stranger);
    assert_eq!(all.len(), 2);
    assert_same(&all[0], &before.older[0], "the older snapshot");
    assert_same(&all[1], &wanted, "the new snapshot");
    assert!(
        stranger.cache().packs().unwrap().iter().any(|(_, pack)| pack.kind == ObjectKind::TreePack)
    );
}
