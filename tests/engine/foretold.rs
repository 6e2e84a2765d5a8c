//! What a dry run says of requests and bytes, held against what the run then asks of the store. What is said is said with
//! "about": of requests, it is to be right within a tenth and two more; of bytes, within a twentieth and a few kilobytes.

use std::fs;
use std::path::Path;

use aumbry::monitor::SilentMonitor;
use aumbry::ops::backup::{BackupOptions, Deltas};
use aumbry::ops::check::DataSelection;
use aumbry::ops::prune::plan::UnusedLimit;
use aumbry::ops::prune::{PruneOptions, prune};
use aumbry::repository::Repository;
use aumbry::store::{Access, FaultControl, Store};
use opendal::Operator;

use crate::support::{
    back_up_with, checked, create, environment, noise, options, passphrase, small_settings,
    snapshots,
};

/// A store far away, which counts what it is asked.
struct Service {
    operator: Operator,
    connections: Option<usize>,
    control: FaultControl,
}

impl Service {
    /// `connections`: so many calls at once, or as many as there are where nothing is said.
    fn new(connections: Option<usize>) -> Self {
        let operator = Operator::new(opendal::services::Memory::default()).unwrap();
        let control = FaultControl::new();
        control.remember();
        Service { operator, connections, control }
    }

    fn store(&self) -> Store {
        let access = Access { connections: self.connections, ..Access::default() };
        Store::remote_with(self.operator.clone(), "far away", &access)
    }

    fn open(&self, cache: &Path) -> Repository {
        let store = self.store().with_faults(self.control.clone());
        let opened =
            Repository::open_to_write(store, &passphrase(), environment(Some(cache))).unwrap();
        self.control.take_remembered();
        opened
    }

    /// How many of the requests since it was opened begin like this.
    fn count(requests: &[String], beginnings: &[&str]) -> u64 {
        let begins = |request: &&String| beginnings.iter().any(|begun| request.starts_with(begun));
        requests.iter().filter(begins).count() as u64
    }

    fn bytes(&self) -> u64 {
        self.store().list("").unwrap().iter().map(|object| object.size).sum()
    }
}

#[track_caller]
fn assert_near(said: u64, counted: u64, share: u64, slack: u64, what: &str) {
    let tolerance = counted / share + slack;
    assert!(said.abs_diff(counted) <= tolerance, "{what}: {said} were said, {counted} counted");
}

#[track_caller]
fn assert_requests(said: u64, counted: u64, what: &str) {
    assert_near(said, counted, 10, 2, what);
}

#[track_caller]
fn assert_bytes(said: u64, counted: u64, what: &str) {
    assert_near(said, counted, 20, 16 << 10, what);
}

/// Of 40 files, every `each`th is of this version.
fn write_files(folder: &Path, version: u64, each: usize) {
    for number in (0..40).step_by(each) {
        let bytes = noise(50_000, number as u64 * 1000 + version);
        fs::write(folder.join(format!("{number}")), bytes).unwrap();
    }
}

#[test]
fn a_dry_run_of_a_backup_says_how_much_it_then_writes() {
    let (service, folder) = (Service::new(None), tempfile::tempdir().unwrap());
    let cache = tempfile::tempdir().unwrap();
    create(service.store(), small_settings(), Some(cache.path()));
    // The first one, one of much that is changed, of little, and of nothing.
    for (version, each) in [(1, 1), (2, 2), (3, 13), (3, 13)] {
        write_files(folder.path(), version, each);
        let run = |dry_run| {
            let repository = service.open(cache.path());
            let options = BackupOptions { dry_run, deltas: Deltas::Auto, ..options() };
            let ran = back_up_with(&repository, folder.path(), &options, &SilentMonitor).unwrap();
            (ran, service.control.take_remembered())
        };
        let before = service.bytes();
        let (said, requests) = run(true);
        let what = format!("version {version}, each {each}");
        assert_eq!(Service::count(&requests, &["create packs/", "create index/"]), 0, "{what}");
        let (_, requests) = run(false);
        let counted = Service::count(&requests, &["create"]);
        assert_requests(said.objects_written + 2, counted, &what);
        assert_bytes(said.counts.data_added_packed, service.bytes() - before, &what);
    }
}

#[test]
fn a_dry_run_of_a_prune_says_what_it_then_asks_of_the_store() {
    for connections in [None, Some(1)] {
        foretells_a_prune(connections);
    }
}

fn foretells_a_prune(connections: Option<usize>) {
    let (service, folder) = (Service::new(connections), tempfile::tempdir().unwrap());
    let cache = tempfile::tempdir().unwrap();
    create(service.store(), small_settings(), Some(cache.path()));
    for (version, each) in [(1, 1), (2, 3), (3, 2)] {
        write_files(folder.path(), version, each);
        let options = BackupOptions { deltas: Deltas::Auto, ..options() };
        back_up_with(&service.open(cache.path()), folder.path(), &options, &SilentMonitor).unwrap();
    }
    let repository = service.open(cache.path());
    let old: Vec<_> = snapshots(&repository).iter().rev().skip(1).map(|(id, _)| *id).collect();
    repository.forget(&old, "").unwrap();
    drop(repository);

    let run = |dry_run| {
        let mut options = PruneOptions { dry_run, ..PruneOptions::default() };
        options.limits.max_unused = UnusedLimit::Share(0.0);
        let repository = service.open(cache.path());
        let ran = prune(&repository, &options, &SilentMonitor).unwrap();
        (ran, service.control.take_remembered())
    };
    let before = service.bytes();
    let (said, looked) = run(true);
    assert_eq!(Service::count(&looked, &["delete"]), 0, "{looked:?}");
    let plan = said.plan.as_ref().unwrap();
    assert!(!plan.drop.is_empty() && !plan.repack.is_empty(), "{plan:?}");
    let [reads, writes, deletes] = said.requests;
    assert!(reads > 20 && writes > 10 && deletes > 10, "{:?}: too little to tell", said.requests);
    let (done, requests) = run(false);
    // What merging the index and clearing away take comes on top, and so does looking at what is needed, which the dry
    // run did, too.
    let packs_read = Service::count(&requests, &["get packs/"]);
    let packs_read = packs_read - Service::count(&looked, &["get packs/"]);
    match connections {
        Some(1) => assert_requests(reads, packs_read, "reads"),
        // What stands side by side is fetched ahead in one request: there may be fewer, and not more.
        _ => {
            assert!(packs_read <= reads + reads / 10 + 2, "{reads} were said, {packs_read} counted")
        }
    }
    let made =
        ["create packs/", "create index/", "create sessions/", "create snapshots/", "create gc/"];
    let made = Service::count(&requests, &made) - done.merged.written;
    assert_requests(writes, made, "writes");
    let deleted = Service::count(&requests, &["delete packs/"]);
    assert_requests(deletes, deleted, "deletes");
    assert_eq!(deletes, done.packs_deleted, "{done:?}");
    assert_bytes(plan.write_bytes, done.bytes_written, "bytes to write");
    assert_bytes(plan.freed_bytes(), before - service.bytes(), "bytes to free");
    assert_eq!(checked(&service.open(cache.path()), DataSelection::All).damage, []);
}
