//! What a backup to a store far away asks of it: how many requests, and which rights.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use aumbry::codec::kdf::Argon2Cost;
use aumbry::format::config::Settings;
use aumbry::format::header::Header;
use aumbry::id::SnapshotId;
use aumbry::monitor::{Monitor, RecordingMonitor, SilentMonitor};
use aumbry::ops::OpsError;
use aumbry::ops::backup::{BackupOptions, Deltas, backup};
use aumbry::ops::check::DataSelection;
use aumbry::ops::prune::plan::UnusedLimit;
use aumbry::ops::prune::{PruneOptions, prune};
use aumbry::ops::rekey::{Change, RekeyOptions, plan, rekey};
use aumbry::repository::error::Kind;
use aumbry::repository::keys::Credential;
use aumbry::repository::{CreateOptions, Repository};
use aumbry::source::files::{Files, FilesOptions};
use aumbry::source::{Source, SourceError, Step};
use aumbry::store::{FaultControl, Store, layout};
use opendal::Operator;

use crate::model::{all_contents, assert_same, folder_contents, quick_key};
use crate::support::{back_up_with, checked, environment, noise, options, small_settings};

/// A store far away that holds one repository, and what several machines see of it.
struct Service {
    operator: Operator,
    is_conditional: bool,
}

impl Service {
    fn new() -> Self {
        let operator = Operator::new(opendal::services::Memory::default()).unwrap();
        Service { operator, is_conditional: true }
    }

    fn store(&self) -> Store {
        let store = Store::remote(self.operator.clone(), "far away");
        if self.is_conditional { store } else { store.without_conditions() }
    }

    fn create(&self, settings: Settings) -> Repository {
        let options = CreateOptions {
            settings,
            cost: Some(Argon2Cost::FLOOR),
            label: "".into(),
            cuts_like: None,
        };
        Repository::create(self.store(), &options, &quick_key(0), environment(None)).unwrap()
    }

    /// Opened as a backup does it, with what it asks of the store from then on.
    fn open(&self, cache: &Path, credential: &Credential) -> (Repository, FaultControl) {
        let control = FaultControl::new();
        control.remember();
        let store = self.store().with_faults(control.clone());
        let opened = Repository::open_to_write(store, credential, environment(Some(cache)));
        (opened.unwrap(), control)
    }

    fn fresh(&self) -> Repository {
        Repository::open(self.store(), &quick_key(0), environment(None)).unwrap()
    }
}

fn far_options() -> BackupOptions {
    BackupOptions { deltas: Deltas::Auto, ..options() }
}

/// Backs up as a machine with this cache does. Returns what it asked of the store.
fn backed_up(service: &Service, cache: &Path, folder: &Path) -> (SnapshotId, Vec<String>) {
    let (repository, control) = service.open(cache, &quick_key(0));
    let summary = back_up_with(&repository, folder, &far_options(), &SilentMonitor).unwrap();
    (summary.snapshot.unwrap(), control.take_remembered())
}

/// Requests without what differs from one session to the next.
fn shapes(requests: &[String]) -> Vec<&str> {
    let shape = |request: &str| match request.rfind('/') {
        Some(at) if request.starts_with("create") => request[..=at].len(),
        _ => request.len(),
    };
    let mut shapes: Vec<_> = requests.iter().map(|request| &request[..shape(request)]).collect();
    // Both are asked at once, and either may come first.
    for at in 1..shapes.len() {
        let is_listing = shapes[at].starts_with("list ") && shapes[at].contains("gc/");
        if is_listing && shapes[at - 1].starts_with("size gc/") {
            shapes.swap(at - 1, at);
        }
    }
    shapes
}

fn write_files(folder: &Path, version: u64) {
    for number in 0..5 {
        let bytes = noise(20_000, number * 1000 + version);
        fs::write(folder.join(format!("{number}")), bytes).unwrap();
    }
}

fn impatient() -> PruneOptions {
    let mut options = PruneOptions { patience: Duration::ZERO, ..PruneOptions::default() };
    options.limits.max_unused = UnusedLimit::Share(0.0);
    options
}

#[test]
fn a_backup_of_an_unchanged_tree_makes_eight_requests() {
    let (service, folder) = (Service::new(), tempfile::tempdir().unwrap());
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    service.create(small_settings());
    write_files(folder.path(), 1);
    backed_up(&service, one.path(), folder.path());
    let unchanged = [
        "create sessions/",
        "list damaged/ gc/ index/ keys/",
        "size gc/00000001.condemned",
        "list tombs/",
        "list sessions/ snapshots/",
        "create snapshots/",
        "list gc/",
        "size gc/00000001.condemned",
    ];
    let (first, requests) = backed_up(&service, one.path(), folder.path());
    assert_eq!(shapes(&requests), unchanged);
    // Another machine, which has never been here, makes more; the first one reads what that has stored.
    let (_, requests) = backed_up(&service, other.path(), folder.path());
    assert!(requests.len() <= 20, "{requests:?}");
    let (_, requests) = backed_up(&service, one.path(), folder.path());
    assert_eq!(requests.len(), unchanged.len() + 1, "{requests:?}");

    // Somebody collects: the guess is wrong once.
    let collector = service.fresh();
    collector.forget(&[first], "").unwrap();
    write_files(folder.path(), 2);
    let (kept, _) = backed_up(&service, other.path(), folder.path());
    let all: Vec<_> = collector.snapshots(&SilentMonitor).unwrap().all;
    let old: Vec<_> = all.iter().map(|(id, _)| *id).filter(|id| *id != kept).collect();
    collector.forget(&old, "").unwrap();
    let pruned = prune(&collector, &impatient(), &SilentMonitor).unwrap();
    assert!(!pruned.generations.is_empty() && pruned.packs_deleted > 0);
    let (_, requests) = backed_up(&service, one.path(), folder.path());
    assert!(requests.contains(&"size gc/00000002.condemned".to_string()), "{requests:?}");
    let (_, requests) = backed_up(&service, one.path(), folder.path());
    assert_eq!(requests.len(), unchanged.len(), "{requests:?}");
    assert_eq!(checked(&service.fresh(), DataSelection::All).damage, []);
}

#[test]
fn a_dry_run_and_skipping_what_is_unchanged_cost_no_more() {
    let (service, folder) = (Service::new(), tempfile::tempdir().unwrap());
    let cache = tempfile::tempdir().unwrap();
    service.create(small_settings());
    write_files(folder.path(), 1);
    backed_up(&service, cache.path(), folder.path());
    for (dry_run, skip_if_unchanged) in [(true, false), (false, true)] {
        let (repository, control) = service.open(cache.path(), &quick_key(0));
        let options = BackupOptions { dry_run, skip_if_unchanged, ..far_options() };
        back_up_with(&repository, folder.path(), &options, &SilentMonitor).unwrap();
        let requests = control.take_remembered();
        assert!(requests.len() <= 8, "{requests:?}");
    }
}

#[test]
fn a_key_that_was_removed_writes_nothing_although_it_is_remembered() {
    for dry_run in [true, false] {
        let (service, folder) = (Service::new(), tempfile::tempdir().unwrap());
        let cache = tempfile::tempdir().unwrap();
        let repository = service.create(small_settings());
        write_files(folder.path(), 1);
        let added = repository.add_key(&quick_key(1), Some(Argon2Cost::FLOOR), "").unwrap();
        let (opened, _) = service.open(cache.path(), &quick_key(1));
        back_up_with(&opened, folder.path(), &far_options(), &SilentMonitor).unwrap();
        drop(opened);
        repository.remove_key(added).unwrap();

        let (opened, control) = service.open(cache.path(), &quick_key(1));
        assert_eq!(control.calls(), 0, "it is remembered");
        let options = BackupOptions { dry_run, ..far_options() };
        let ran = back_up_with(&opened, folder.path(), &options, &SilentMonitor);
        let OpsError::Repository(error) = ran.unwrap_err() else { panic!("another error") };
        assert_eq!((error.kind, &error.item), (Kind::WrongKey, &layout::key(added)));
        assert!(error.message.contains("was removed"), "{}", error.message);
        assert_eq!(repository.undecided_sessions().unwrap(), [], "nobody waits for it");
        assert_eq!(repository.snapshots(&SilentMonitor).unwrap().all.len(), 1);
        // From then on the store is asked, which does not know the key.
        drop(opened);
        let opened = Repository::open_to_write(
            service.store(),
            &quick_key(1),
            environment(Some(cache.path())),
        );
        assert_eq!(opened.err().map(|error| error.kind), Some(Kind::WrongKey));
    }
}

#[test]
fn remembered_keys_are_renewed_when_the_repository_was_rekeyed() {
    let (service, folder) = (Service::new(), tempfile::tempdir().unwrap());
    let cache = tempfile::tempdir().unwrap();
    let repository = service.create(small_settings());
    write_files(folder.path(), 1);
    backed_up(&service, cache.path(), folder.path());
    let options = RekeyOptions { change: Change::NewEpoch, remove: Vec::new() };
    let changes = plan(&repository, &options, &SilentMonitor).unwrap();
    rekey(&repository, &changes).unwrap();
    write_files(folder.path(), 2);
    let (id, requests) = backed_up(&service, cache.path(), folder.path());
    assert!(!requests.iter().any(|request| request == "get config"), "{requests:?}");
    let slot = service.store().get(&layout::snapshot(id.0)).unwrap();
    assert_eq!(Header::decode(&slot).unwrap().epoch, 2);
    let session = service.store().get(&layout::session(id.0)).unwrap();
    assert_eq!(Header::decode(&session).unwrap().epoch, 2, "it says which keys it seals with");
    // Read anew once, then remembered with the update.
    backed_up(&service, cache.path(), folder.path());
    let (_, requests) = backed_up(&service, cache.path(), folder.path());
    assert_eq!(requests.len(), 8, "{requests:?}");
    let fresh = service.fresh();
    assert_eq!(fresh.undecided_sessions().unwrap(), []);
    assert_eq!(all_contents(&fresh).len(), 4);
}

#[test]
fn another_repository_in_a_place_that_is_known_is_left_alone() {
    let (service, folder) = (Service::new(), tempfile::tempdir().unwrap());
    let cache = tempfile::tempdir().unwrap();
    service.create(small_settings());
    write_files(folder.path(), 1);
    backed_up(&service, cache.path(), folder.path());
    for object in service.store().list("").unwrap() {
        service.store().delete(&object.name).unwrap();
    }
    let (opened, _) = service.open(cache.path(), &quick_key(0));
    let ran = back_up_with(&opened, folder.path(), &far_options(), &SilentMonitor);
    let OpsError::Repository(error) = ran.unwrap_err() else { panic!("another error") };
    assert_eq!(error.kind, Kind::NotFound, "{error}");
    drop(opened);
    assert_eq!(service.store().list("").unwrap(), []);

    service.create(small_settings());
    backed_up(&service, cache.path(), folder.path());
    for object in service.store().list("").unwrap() {
        service.store().delete(&object.name).unwrap();
    }
    service.create(small_settings());
    let before = service.store().list("").unwrap();
    let (opened, _) = service.open(cache.path(), &quick_key(0));
    let ran = back_up_with(&opened, folder.path(), &far_options(), &SilentMonitor);
    let OpsError::Repository(error) = ran.unwrap_err() else { panic!("another error") };
    assert_eq!(error.kind, Kind::Conflict, "{error}");
    drop(opened);
    assert_eq!(service.store().list("").unwrap(), before);
    backed_up(&service, cache.path(), folder.path());
}

#[test]
fn what_is_remembered_of_a_place_may_be_torn_and_a_wrong_passphrase_is_wrong() {
    let (service, folder) = (Service::new(), tempfile::tempdir().unwrap());
    let cache = tempfile::tempdir().unwrap();
    service.create(small_settings());
    write_files(folder.path(), 1);
    backed_up(&service, cache.path(), folder.path());
    let environment = || environment(Some(cache.path()));
    let wrong = Repository::open_to_write(service.store(), &quick_key(9), environment());
    assert_eq!(wrong.err().map(|error| error.kind), Some(Kind::WrongKey));
    assert!(Repository::is_known_place(&service.store(), &environment()));
    let file = fs::read_dir(cache.path().join("places")).unwrap().next().unwrap().unwrap().path();
    let whole = fs::read(&file).unwrap();
    for length in [0, 1, 31, 32, 33, whole.len() / 2, whole.len() - 1] {
        fs::write(&file, &whole[..length]).unwrap();
        assert!(!Repository::is_known_place(&service.store(), &environment()), "{length}");
        let (_, control) = service.open(cache.path(), &quick_key(0));
        assert!(control.calls() >= 3);
        assert_eq!(fs::read(&file).unwrap(), whole);
    }
}

/// Does something at the first step of a source.
struct Before<'a> {
    inner: Files,
    act: Option<Box<dyn FnOnce() + Send + 'a>>,
}

impl Source for Before<'_> {
    fn next(&mut self, monitor: &dyn Monitor) -> Result<Option<Step>, SourceError> {
        if let Some(act) = self.act.take() {
            act();
        }
        self.inner.next(monitor)
    }

    fn restart(&mut self) -> bool {
        self.inner.restart()
    }

    fn paths(&self) -> Vec<Vec<u8>> {
        self.inner.paths()
    }
}

fn files(folder: &Path) -> Files {
    let options =
        FilesOptions { as_path: Some("/tree".parse().unwrap()), ..FilesOptions::default() };
    Files::new(&[folder.to_path_buf()], options).unwrap()
}

#[test]
fn whoever_may_only_create_read_and_list_can_make_a_repository_and_back_up() {
    for is_conditional in [true, false] {
        let service = Service { is_conditional, ..Service::new() };
        let (folder, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let control = FaultControl::new();
        control.remember();
        control.allow_only_creating();
        let store = service.store().with_faults(control.clone());
        let creation = CreateOptions {
            settings: small_settings(),
            cost: Some(Argon2Cost::FLOOR),
            label: "".into(),
            cuts_like: None,
        };
        Repository::create(store.clone(), &creation, &quick_key(0), environment(None)).unwrap();
        let open = || {
            let environment = environment(Some(cache.path()));
            Repository::open_to_write(store.clone(), &quick_key(0), environment).unwrap()
        };
        let noted = RecordingMonitor::default();
        // The first, and the next one.
        for version in [1, 2] {
            write_files(folder.path(), version);
            back_up_with(&open(), folder.path(), &far_options(), &noted).unwrap();
        }
        // One that is stopped, and the one that goes on.
        write_files(folder.path(), 3);
        let repository = open();
        control.stop_at(control.calls() + 8, aumbry::store::Effect::Before);
        back_up_with(&repository, folder.path(), &far_options(), &noted).unwrap_err();
        control.resume();
        drop(repository);
        back_up_with(&open(), folder.path(), &far_options(), &noted).unwrap();
        let fresh = service.fresh();
        assert_eq!(fresh.undecided_sessions().unwrap(), [], "the one that was stopped is ended");
        // One that a collector gives up while it runs, whose packs are swept before it ends.
        write_files(folder.path(), 4);
        let others: Vec<_> = fresh.snapshots(&SilentMonitor).unwrap().all;
        let collector = Arc::new(fresh);
        let act = {
            let collector = collector.clone();
            move || {
                let ids: Vec<_> = others.iter().map(|(id, _)| *id).collect();
                collector.forget(&ids, "").unwrap();
                let pruned = prune(&collector, &impatient(), &SilentMonitor).unwrap();
                assert!(pruned.fenced > 0, "{pruned:?}");
            }
        };
        let mut source = Before { inner: files(folder.path()), act: Some(Box::new(act)) };
        backup(&open(), &mut source, &far_options(), &noted).unwrap();
        assert!(noted.notes().iter().any(|note| note.contains("gave this backup up")));
        let requests = control.take_remembered();
        let deletes = requests.iter().filter(|request| request.starts_with("delete"));
        assert_eq!(deletes.collect::<Vec<_>>(), Vec::<&String>::new(), "not even tried");
        let fresh = service.fresh();
        let contents = all_contents(&fresh);
        assert_eq!(contents.len(), 1);
        assert_same(&contents[0], &folder_contents(folder.path()), "what was given up");
        assert_eq!(checked(&fresh, DataSelection::All).damage, []);
    }
}
