//! Collection beside writers: space comes back, and nothing that anybody counts on goes.

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use aumbry::clock::{Clock, FakeClock};
use aumbry::format::config::Settings;
use aumbry::format::header::{HEADER_LENGTH, ObjectKind};
use aumbry::format::index::{Index, PackRecord};
use aumbry::format::pack::{BlobRecord, Encoding, PackDirectory};
use aumbry::format::session::Purpose;
use aumbry::id::{BlobId, IndexId, PackId, SnapshotId, TombId};
use aumbry::monitor::{Monitor, RecordingMonitor, SilentMonitor};
use aumbry::ops::backup::backup;
use aumbry::ops::check::{CheckOptions, DataSelection, check};
use aumbry::ops::prune::plan::{PackPlan, UnusedLimit};
use aumbry::ops::prune::{PruneOptions, PruneSummary, prune};
use aumbry::repository::index::PackInfo;
use aumbry::repository::session::Committed;
use aumbry::repository::tombs::Undeleted;
use aumbry::repository::writer::Writer;
use aumbry::repository::{Environment, Repository};
use aumbry::source::files::{Files, FilesOptions};
use aumbry::source::{Source, SourceError, Step};
use aumbry::store::{Effect, FaultControl, Store, layout};
use aumbry::units::Timestamp;

use crate::crash_collection::World;
use crate::model::{assert_same, create_quick, create_quick_with, folder_contents, open_quick};
use crate::support::{
    back_up, back_up_with, contents, environment, noise, options, small_settings, snapshots,
};

/// Options that wait for nobody.
pub fn impatient() -> PruneOptions {
    PruneOptions { patience: Duration::ZERO, ..PruneOptions::default() }
}

pub fn tight() -> PruneOptions {
    let mut options = impatient();
    options.limits.max_unused = UnusedLimit::Share(0.0);
    options
}

pub fn pruned(repository: &Repository, options: &PruneOptions) -> PruneSummary {
    prune(repository, options, &SilentMonitor).unwrap()
}

pub fn write_files(folder: &Path, files: std::ops::Range<u64>, version: u64) {
    for number in files {
        let bytes = noise(20_000, number * 1000 + version);
        fs::write(folder.join(format!("file-{number:03}")), bytes).unwrap();
    }
}

/// A store that knows create-if-absent, and one that does not.
fn both_forms() -> [Store; 2] {
    [Store::memory(), Store::memory().without_conditions()]
}

fn pack_bytes(store: &Store) -> u64 {
    store.list(layout::PACKS).unwrap().iter().map(|object| object.size).sum()
}

/// Everything that is listed restores for a client without a cache, and nothing is damaged.
pub fn assert_whole(store: &Store) {
    let fresh = open_quick(store.clone(), None);
    let everything = CheckOptions { data: DataSelection::All, ..check_options() };
    let summary = check(&fresh, &everything, &SilentMonitor).unwrap();
    assert_eq!(summary.damage, []);
}

fn check_options() -> CheckOptions {
    CheckOptions {
        data: DataSelection::None,
        restore_sample: 0,
        share_ledger: false,
        memory_budget: 64 << 20,
    }
}

#[test]
fn what_only_a_forgotten_snapshot_needs_goes_and_the_rest_restores() {
    for store in both_forms() {
        let repository = create_quick(store.clone(), None);
        let folder = tempfile::tempdir().unwrap();
        write_files(folder.path(), 0..40, 1);
        let first = back_up(&repository, folder.path()).snapshot.unwrap();
        write_files(folder.path(), 0..20, 2);
        back_up(&repository, folder.path());
        let before = pack_bytes(&store);
        repository.forget(&[first], "").unwrap();

        let dry = pruned(&repository, &PruneOptions { dry_run: true, ..tight() });
        let plan = dry.plan.unwrap();
        assert!(!plan.drop.is_empty() && plan.drop_bytes > 0 && dry.unused_before > 0);
        let (dropped, copied) = (plan.drop.len() as u64, plan.repack.len() as u64);
        assert_eq!([dry.requests[0], dry.requests[2]], [plan.read_requests, copied + dropped]);
        assert_eq!(pack_bytes(&store), before, "a dry run changes nothing");

        let summary = pruned(&repository, &tight());
        assert!(summary.held_by.is_empty());
        let freed = before - pack_bytes(&store);
        assert!(freed > before / 5, "{freed} of {before} freed, {summary:?}");
        assert_eq!(summary.cleared.snapshots, 1);
        assert!(summary.bytes_deleted >= freed, "{summary:?}");
        let fresh = open_quick(store.clone(), None);
        let left = snapshots(&fresh);
        assert_eq!(left.len(), 1);
        assert_same(&contents(&fresh, &left[0].1), &folder_contents(folder.path()), "what is left");
        // The client that pruned, whose cache followed, reads the same.
        assert_same(
            &contents(&repository, &left[0].1),
            &folder_contents(folder.path()),
            "same client",
        );
        assert_whole(&store);

        let again = pruned(&repository, &tight());
        assert_eq!(again.packs_deleted, 0);
        let plan = again.plan.unwrap();
        assert_eq!((plan.drop.len(), plan.repack.len(), again.unused_before), (0, 0, 0));
        assert!(again.generations.is_empty(), "a generation without need");
    }
}

#[test]
fn a_backup_after_a_prune_counts_on_nothing_that_went() {
    let store = Store::memory();
    let caches = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    create_quick(store.clone(), None);
    let one = open_quick(store.clone(), Some(caches[0].path()));
    let other = open_quick(store.clone(), Some(caches[1].path()));
    let folder = tempfile::tempdir().unwrap();
    write_files(folder.path(), 0..20, 1);
    let first = back_up(&one, folder.path()).snapshot.unwrap();
    // The other client's cache knows the packs that are about to go.
    contents(&other, &snapshots(&other)[0].1);
    one.forget(&[first], "").unwrap();
    pruned(&one, &tight());
    assert_eq!(pack_bytes(&store), 0);
    for repository in [&other, &one] {
        back_up(repository, folder.path());
        assert_whole(&store);
    }
    let fresh = open_quick(store.clone(), None);
    for (_, snapshot) in snapshots(&fresh) {
        assert_same(&contents(&fresh, &snapshot), &folder_contents(folder.path()), "after");
    }
}

#[test]
fn a_collection_waits_for_a_session_that_has_not_decided_and_a_later_run_ends_it() {
    let store = Store::memory();
    let repository = create_quick(store.clone(), None);
    let folder = tempfile::tempdir().unwrap();
    write_files(folder.path(), 0..10, 1);
    let first = back_up(&repository, folder.path()).snapshot.unwrap();
    let reader = repository.register(Purpose::Read).unwrap();
    repository.forget(&[first], "").unwrap();
    let before = pack_bytes(&store);

    let patient = PruneOptions::default();
    let held = pruned(&repository, &patient);
    assert_eq!(held.held_by.len(), 1);
    assert_eq!((held.held_by[0].session, held.held_by[0].host.as_str()), (reader, "testhost"));
    assert_eq!(held.held_by[0].idle_since, None);
    assert_eq!(pack_bytes(&store), before);
    // The second run has seen it idle, but not for a week.
    let held = pruned(&repository, &patient);
    assert!(held.held_by[0].idle_since.is_some());
    assert!(held.generations.is_empty());

    repository.abort(reader).unwrap();
    // Another machine takes the open generation over.
    let other = open_quick(store.clone(), None);
    let summary = pruned(&other, &patient);
    assert_eq!(summary.generations, [1]);
    assert_eq!(pack_bytes(&store), 0);
}

#[test]
fn what_a_dead_writer_left_goes_although_nothing_else_is_to_be_collected() {
    let store = Store::memory();
    let repository = create_quick(store.clone(), None);
    let folder = tempfile::tempdir().unwrap();
    write_files(folder.path(), 0..10, 1);
    back_up(&repository, folder.path());
    let before = pack_bytes(&store);
    let writer = Writer::begin(&repository, false, &SilentMonitor).unwrap();
    let mut segments = writer.segments(ObjectKind::DataPack).unwrap();
    segments.put(&noise(10_000, 99)).unwrap();
    segments.flush().unwrap();
    writer.finish().unwrap();
    assert!(pack_bytes(&store) > before);
    assert_eq!(pruned(&repository, &PruneOptions::default()).fenced, 0, "it is waited for");
    assert_eq!(pruned(&repository, &tight()).fenced, 1);
    pruned(&repository, &tight());
    assert_eq!(pack_bytes(&store), before);
    assert_whole(&store);
}

#[test]
fn what_a_dead_backup_of_this_machine_left_goes_at_once() {
    for store in both_forms() {
        let cache = tempfile::tempdir().unwrap();
        let repository = create_quick(store.clone(), Some(cache.path()));
        let folder = tempfile::tempdir().unwrap();
        write_files(folder.path(), 0..10, 1);
        back_up(&repository, folder.path());
        pruned(&repository, &PruneOptions::default());
        drop(repository);
        let before = pack_bytes(&store);
        write_files(folder.path(), 0..10, 2);
        // It is stopped at one of its last calls, when its packs are there.
        let calls = {
            let (copy, cache) = (crate::model::copy_of(&store), tempfile::tempdir().unwrap());
            let control = FaultControl::new();
            let copy = if store.is_conditional() { copy } else { copy.without_conditions() };
            let client = open_quick(copy.with_faults(control.clone()), Some(cache.path()));
            back_up(&client, folder.path());
            control.calls()
        };
        let control = FaultControl::new();
        let client = open_quick(store.clone().with_faults(control.clone()), Some(cache.path()));
        control.stop_at(calls * 3 / 4, Effect::Before);
        let killed = back_up_with(&client, folder.path(), &options(), &SilentMonitor);
        assert!(killed.is_err() && pack_bytes(&store) > before);
        drop(client);

        let noted = Notes::default();
        let own = open_quick(store.clone(), Some(cache.path()));
        let dry = PruneOptions { dry_run: true, ..PruneOptions::default() };
        assert_eq!(prune(&own, &dry, &noted).unwrap().fenced, 0);
        assert_eq!(own.undecided_sessions().unwrap().len(), 1, "a dry run ends nothing");
        let summary = prune(&own, &PruneOptions::default(), &noted).unwrap();
        assert_eq!((summary.fenced, summary.held_by.len()), (1, 0));
        assert_eq!(pack_bytes(&store), before);
        let noted = noted.0.into_inner();
        assert!(noted.iter().any(|text| text.contains("backup of this machine")), "{noted:?}");
        // Its journal is still there, and believed as far as it holds.
        back_up(&own, folder.path());
        assert_same(
            &contents(&own, &snapshots(&own)[1].1),
            &folder_contents(folder.path()),
            "the next backup",
        );
        assert_whole(&store);
    }
}

#[test]
fn a_backup_that_runs_on_this_machine_is_waited_for() {
    let store = Store::memory();
    let cache = tempfile::tempdir().unwrap();
    create_quick(store.clone(), None);
    let client = open_quick(store.clone(), Some(cache.path()));
    let folder = tempfile::tempdir().unwrap();
    write_files(folder.path(), 0..10, 1);
    let event = || {
        let other = open_quick(store.clone(), Some(cache.path()));
        assert_eq!(pruned(&other, &PruneOptions::default()).fenced, 0);
        assert_eq!(other.undecided_sessions().unwrap().len(), 1);
    };
    let mut source = Eventful { inner: files(folder.path()), event: Some(Box::new(event)) };
    let noted = Notes::default();
    backup(&client, &mut source, &options(), &noted).unwrap();
    assert_eq!(noted.0.into_inner(), [""; 0]);
}

/// What was noted.
#[derive(Default)]
struct Notes(parking_lot::Mutex<Vec<String>>);

impl Monitor for Notes {
    fn note(&self, text: &str) {
        self.0.lock().push(text.to_string());
    }
}

#[test]
fn patience_counts_only_what_two_runs_have_seen() {
    let store = Store::memory();
    let repository = create_quick(store.clone(), None);
    let folder = tempfile::tempdir().unwrap();
    write_files(folder.path(), 0..10, 1);
    let first = back_up(&repository, folder.path()).snapshot.unwrap();
    let reader = repository.register(Purpose::Read).unwrap();
    repository.forget(&[first], "").unwrap();
    let hasty = PruneOptions { patience: Duration::from_nanos(1), ..PruneOptions::default() };
    assert_eq!(pruned(&repository, &hasty).held_by.len(), 1);
    let summary = pruned(&repository, &hasty);
    assert_eq!((summary.fenced, summary.held_by.len()), (1, 0));
    assert!(!repository.end(reader).unwrap(), "the reader was given up");
}

#[test]
fn a_session_that_goes_on_making_packs_is_not_given_up() {
    let store = Store::memory();
    let repository = create_quick(store.clone(), None);
    let folder = tempfile::tempdir().unwrap();
    write_files(folder.path(), 0..10, 1);
    let first = back_up(&repository, folder.path()).snapshot.unwrap();
    let busy = open_quick(store.clone(), None);
    let writer = Writer::begin(&busy, false, &SilentMonitor).unwrap();
    repository.forget(&[first], "").unwrap();
    let hasty = PruneOptions { patience: Duration::from_nanos(1), ..PruneOptions::default() };
    assert_eq!(pruned(&repository, &hasty).held_by.len(), 1);
    let mut segments = writer.segments(ObjectKind::DataPack).unwrap();
    segments.put(&noise(10_000, 9)).unwrap();
    segments.flush().unwrap();
    drop(segments);
    writer.finish().unwrap();
    let summary = pruned(&repository, &hasty);
    assert_eq!((summary.fenced, summary.held_by.len()), (0, 1));
    assert_eq!(pruned(&repository, &hasty).fenced, 1);
}

/// A source during whose walk something happens, once, at its end.
pub struct Eventful<'e> {
    pub inner: Files,
    pub event: Option<Box<dyn FnOnce() + Send + 'e>>,
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

pub fn files(folder: &Path) -> Files {
    let options =
        FilesOptions { as_path: Some("/tree".parse().unwrap()), ..FilesOptions::default() };
    Files::new(&[PathBuf::from(folder)], options).unwrap()
}

#[test]
fn a_backup_that_a_collector_gave_up_commits_again_with_what_is_gone_stored_anew() {
    for store in both_forms() {
        let repository = create_quick(store.clone(), None);
        let folder = tempfile::tempdir().unwrap();
        write_files(folder.path(), 0..20, 1);
        let first = back_up(&repository, folder.path()).snapshot.unwrap();
        write_files(folder.path(), 20..40, 1);
        let other = open_quick(store.clone(), None);
        // The backup refers to the first snapshot's packs; meanwhile that is forgotten, and everything is collected twice.
        let event = || {
            other.forget(&[first], "").unwrap();
            pruned(&other, &tight());
            pruned(&other, &tight());
        };
        let mut source = Eventful { inner: files(folder.path()), event: Some(Box::new(event)) };
        let summary = backup(&repository, &mut source, &options(), &SilentMonitor).unwrap();
        assert!(store.list(layout::GC).unwrap().len() > 1, "nothing was collected");
        let fresh = open_quick(store.clone(), None);
        let left = snapshots(&fresh);
        assert_eq!(left.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [summary.snapshot.unwrap()]);
        assert_same(&contents(&fresh, &left[0].1), &folder_contents(folder.path()), "again");
        assert_whole(&store);
    }
}

#[test]
fn a_fenced_backup_whose_packs_are_all_there_commits_again_without_reading() {
    for store in both_forms() {
        let repository = create_quick(store.clone(), None);
        let folder = tempfile::tempdir().unwrap();
        write_files(folder.path(), 0..20, 1);
        back_up(&repository, folder.path());
        write_files(folder.path(), 20..40, 1);
        let other = open_quick(store.clone(), None);
        let event = || {
            for session in other.undecided_sessions().unwrap() {
                assert!(other.abort(session).unwrap());
            }
        };
        let mut source = Eventful { inner: files(folder.path()), event: Some(Box::new(event)) };
        let summary = backup(&repository, &mut source, &options(), &SilentMonitor).unwrap();
        assert_eq!(summary.counts.files_new, 20);
        let fresh = open_quick(store.clone(), None);
        let (_, snapshot) = snapshots(&fresh).pop().unwrap();
        assert_same(&contents(&fresh, &snapshot), &folder_contents(folder.path()), "again");
        crate::model::assert_nothing_stored_twice(&fresh, "committed again");
    }
}

#[test]
fn a_commit_after_its_abort_was_cleared_away_is_not_reported() {
    for store in both_forms() {
        let repository = create_quick(store.clone(), None);
        let folder = tempfile::tempdir().unwrap();
        write_files(folder.path(), 0..10, 1);
        let first = back_up(&repository, folder.path()).snapshot.unwrap();
        let (_, snapshot) = snapshots(&repository).pop().unwrap();
        let writer = Writer::begin(&repository, false, &SilentMonitor).unwrap();
        writer.finish().unwrap();
        let other = open_quick(store.clone(), None);
        other.forget(&[first], "").unwrap();
        pruned(&other, &tight());
        let slot = layout::snapshot(writer.session());
        assert_eq!(store.size(&slot).unwrap(), None, "the ABORT is still there");
        let late = SnapshotId(writer.session());
        assert_eq!(writer.commit(snapshot).unwrap(), Committed::Fenced);
        assert!(store.size(&slot).unwrap().is_some());
        // What it wrote is no snapshot for anybody, and the next collection removes it.
        let fresh = open_quick(store.clone(), None);
        assert!(snapshots(&fresh).is_empty());
        back_up(&fresh, folder.path());
        let next = snapshots(&fresh)[0].0;
        fresh.forget(&[next], "").unwrap();
        pruned(&other, &tight());
        assert_eq!(store.size(&layout::snapshot(late.0)).unwrap(), None);
    }
}

#[test]
fn a_pack_that_something_came_to_need_is_spared() {
    for store in both_forms() {
        let repository = create_quick(store.clone(), None);
        let folder = tempfile::tempdir().unwrap();
        write_files(folder.path(), 0..20, 1);
        let first = back_up(&repository, folder.path()).snapshot.unwrap();
        let other = open_quick(store.clone(), None);
        // A writer that counts on the packs registers before they are condemned, and commits after.
        let mut held = None;
        let event = || {
            other.forget(&[first], "").unwrap();
            held = Some(prune(&other, &PruneOptions::default(), &SilentMonitor).unwrap());
        };
        let mut source = Eventful { inner: files(folder.path()), event: Some(Box::new(event)) };
        let summary = backup(&repository, &mut source, &options(), &SilentMonitor).unwrap();
        drop(source);
        assert_eq!(held.unwrap().held_by.len(), 1);
        assert_eq!(summary.counts.data_blobs, 0, "it counted on what was there");
        let ended = pruned(&other, &PruneOptions::default());
        assert!(ended.packs_rescued > 0, "{ended:?}");
        assert_whole(&store);
        let fresh = open_quick(store.clone(), None);
        let (_, snapshot) = snapshots(&fresh).pop().unwrap();
        assert_same(&contents(&fresh, &snapshot), &folder_contents(folder.path()), "spared");
    }
}

#[test]
fn writers_count_on_nothing_that_an_open_generation_condemns() {
    for store in both_forms() {
        let repository = create_quick(store.clone(), None);
        let folder = tempfile::tempdir().unwrap();
        write_files(folder.path(), 0..20, 1);
        let first = back_up(&repository, folder.path()).snapshot.unwrap();
        let reader = repository.register(Purpose::Read).unwrap();
        let other = open_quick(store.clone(), None);
        other.forget(&[first], "").unwrap();
        assert_eq!(pruned(&other, &PruneOptions::default()).held_by.len(), 1);
        // The generation is open: this backup stores everything again, and the sweep spares nothing for it.
        let summary = back_up(&repository, folder.path());
        assert!(summary.counts.data_blobs > 0);
        repository.abort(reader).unwrap();
        let ended = pruned(&other, &PruneOptions::default());
        assert_eq!(ended.packs_rescued, 0);
        assert!(ended.packs_deleted > 0);
        assert_whole(&store);
    }
}

#[test]
fn a_listing_that_lacks_a_snapshot_stops_the_collection() {
    let store = Store::memory();
    let repository = create_quick(store.clone(), None);
    let folder = tempfile::tempdir().unwrap();
    let mut ids = Vec::new();
    for version in 0..3 {
        write_files(folder.path(), 0..5, version);
        ids.push(back_up(&repository, folder.path()).snapshot.unwrap());
    }
    repository.forget(&ids[..1], "").unwrap();
    pruned(&repository, &tight());
    let name = layout::snapshot(ids[1].0);
    let object = store.get(&name).unwrap();
    store.delete(&name).unwrap();
    repository.forget(&ids[2..], "").unwrap();
    let before = pack_bytes(&store);
    for client in [open_quick(store.clone(), None), repository] {
        let error = prune(&client, &tight(), &SilentMonitor).unwrap_err();
        assert!(error.to_string().contains(&name), "{error}");
        assert_eq!(pack_bytes(&store), before);
    }
    store.create(&name, object).unwrap();
    pruned(&open_quick(store.clone(), None), &tight());
    assert_whole(&store);
}

#[test]
fn index_objects_become_few_and_a_client_that_was_away_finds_everything() {
    let store = Store::memory();
    let cache = tempfile::tempdir().unwrap();
    create_quick(store.clone(), None);
    let repository = open_quick(store.clone(), None);
    let folder = tempfile::tempdir().unwrap();
    for version in 0..12 {
        write_files(folder.path(), version..version + 1, version);
        back_up(&repository, folder.path());
    }
    let away = open_quick(store.clone(), Some(cache.path()));
    let (_, newest) = snapshots(&away).pop().unwrap();
    contents(&away, &newest);
    let before = store.list(layout::INDEX).unwrap().len();
    let summary = pruned(&repository, &tight());
    assert!(summary.merged.removed > 8 && summary.merged.written == 1, "{:?}", summary.merged);
    assert_eq!(before as u64, summary.merged.removed);
    assert_eq!(store.list(layout::INDEX).unwrap().len(), 1);
    let wanted = folder_contents(folder.path());
    assert_same(&contents(&away, &newest), &wanted, "away");
    let fresh = open_quick(store.clone(), None);
    assert_same(&contents(&fresh, &newest), &wanted, "fresh");
    assert_eq!(back_up(&away, folder.path()).counts.data_blobs, 0);
    assert_whole(&store);
    // It did not have to start over.
    assert!(away.cache().indexes().unwrap().len() <= 2);
}

#[test]
fn index_objects_are_not_merged_beside_an_open_generation_or_with_a_damaged_one() {
    let world = World::of_many_backups(true);
    let [open, damaged] = [(); 2].map(|()| crate::model::copy_of(&world.store));
    let collector = open_quick(open.clone(), None);
    collector.condemn(&collector.generations().unwrap(), Vec::new()).unwrap().unwrap();
    let name = damaged.list(layout::INDEX).unwrap()[0].name.clone();
    damaged.delete(&name).unwrap();
    damaged.create(&name, vec![0; 200]).unwrap();
    for store in [&open, &damaged] {
        let merged = open_quick(store.clone(), None).merge_indexes(&SilentMonitor).unwrap();
        assert_eq!((merged.removed, merged.written), (0, 0));
    }
    let merged = world.client().merge_indexes(&SilentMonitor).unwrap();
    assert_eq!((merged.removed, merged.written), (10, 1));
}

#[test]
fn two_collectors_at_once_collect_the_same() {
    let store = Store::memory();
    let repository = create_quick(store.clone(), None);
    let folder = tempfile::tempdir().unwrap();
    for round in 0..3 {
        write_files(folder.path(), 0..20, round);
        let id = back_up(&repository, folder.path()).snapshot.unwrap();
        write_files(folder.path(), 0..10, round + 100);
        back_up(&repository, folder.path());
        repository.forget(&[id], "").unwrap();
        let collectors = [open_quick(store.clone(), None), open_quick(store.clone(), None)];
        std::thread::scope(|scope| {
            for collector in &collectors {
                scope.spawn(move || prune(collector, &tight(), &SilentMonitor).unwrap());
            }
        });
        pruned(&repository, &tight());
        pruned(&repository, &tight());
        assert_whole(&store);
        let fresh = open_quick(store.clone(), None);
        let (_, newest) = snapshots(&fresh).pop().unwrap();
        assert_same(&contents(&fresh, &newest), &folder_contents(folder.path()), "newest");
        let unused = pruned(&fresh, &PruneOptions { dry_run: true, ..tight() }).unused_before;
        assert_eq!(unused, 0);
    }
}

#[test]
fn a_full_store_gives_back_whole_packs_first_and_says_why_it_stopped() {
    let control = FaultControl::new();
    let store = Store::memory().with_faults(control.clone());
    let repository = create_quick(store.clone(), None);
    let folder = tempfile::tempdir().unwrap();
    write_files(folder.path(), 0..40, 1);
    let first = back_up(&repository, folder.path()).snapshot.unwrap();
    // Half of every pack is needed from now on, and one whole generation of packs is not.
    for number in (0..40).step_by(2) {
        fs::remove_file(folder.path().join(format!("file-{number:03}"))).unwrap();
    }
    back_up(&repository, folder.path());
    write_files(folder.path(), 100..120, 1);
    let middle = back_up(&repository, folder.path()).snapshot.unwrap();
    for number in 100..120 {
        fs::remove_file(folder.path().join(format!("file-{number:03}"))).unwrap();
    }
    repository.forget(&[first, middle], "").unwrap();
    let before = pack_bytes(&store);
    // Room for what a generation publishes, and for no pack.
    control.limit_bytes(Some(8000));
    let summary = pruned(&repository, &tight());
    assert!(summary.packs_deleted > 0 && summary.stopped.is_some(), "{summary:?}");
    assert!(pack_bytes(&store) < before);
    control.limit_bytes(None);
    let summary = pruned(&repository, &tight());
    assert!(summary.stopped.is_none() && summary.bytes_written > 0);
    assert_eq!(pruned(&repository, &tight()).unused_before, 0);
    assert_whole(&store);
}

#[test]
fn a_damaged_tree_stops_the_collection_and_names_itself() {
    let store = Store::memory();
    let repository = create_quick(store.clone(), None);
    let folder = tempfile::tempdir().unwrap();
    write_files(folder.path(), 0..5, 1);
    back_up(&repository, folder.path());
    write_files(folder.path(), 0..5, 2);
    let second = back_up(&repository, folder.path()).snapshot.unwrap();
    let packs = repository.cache().packs().unwrap();
    let tree = packs.iter().find(|(_, pack)| pack.kind == ObjectKind::TreePack).unwrap();
    let name = layout::pack(tree.1.id);
    store.delete(&name).unwrap();
    repository.forget(&[second], "").unwrap();
    let packs = || -> BTreeSet<String> {
        store.list(layout::PACKS).unwrap().into_iter().map(|object| object.name).collect()
    };
    let before = packs();
    let error = prune(&repository, &tight(), &SilentMonitor).unwrap_err();
    assert!(error.to_string().contains("nothing is collected"), "{error}");
    assert_eq!(before, packs());
    assert!(store.list(layout::GC).unwrap().is_empty());
}

#[test]
fn a_forgotten_snapshot_comes_back_until_it_is_swept() {
    for store in both_forms() {
        let repository = create_quick(store.clone(), None);
        let folder = tempfile::tempdir().unwrap();
        write_files(folder.path(), 0..10, 1);
        let first = back_up(&repository, folder.path()).snapshot.unwrap();
        let wanted = folder_contents(folder.path());
        let other = open_quick(store.clone(), None);
        other.forget(&[first], "").unwrap();
        assert!(snapshots(&repository).is_empty());
        assert_eq!(repository.undelete(&[first]).unwrap(), Undeleted::Back);
        assert_same(&contents(&repository, &snapshots(&repository)[0].1), &wanted, "back");

        // Condemned and not swept: it is back when the collection has ended, which spares what it needs.
        let reader = repository.register(Purpose::Read).unwrap();
        other.forget(&[first], "").unwrap();
        assert_eq!(pruned(&other, &PruneOptions::default()).held_by.len(), 1);
        assert_eq!(repository.undelete(&[first]).unwrap(), Undeleted::Pending);
        repository.abort(reader).unwrap();
        assert!(pruned(&other, &PruneOptions::default()).packs_rescued > 0);
        assert_eq!(repository.undelete(&[first]).unwrap(), Undeleted::Back);
        assert_same(&contents(&repository, &snapshots(&repository)[0].1), &wanted, "spared");

        other.forget(&[first], "").unwrap();
        pruned(&other, &tight());
        let error = repository.undelete(&[first]).unwrap_err();
        assert!(error.to_string().contains("given back since"), "{error}");
        assert!(snapshots(&repository).is_empty());
    }
}

#[test]
fn a_collection_that_begins_while_a_snapshot_is_brought_back_waits_for_that() {
    let store = Store::memory();
    let repository = create_quick(store.clone(), None);
    let folder = tempfile::tempdir().unwrap();
    write_files(folder.path(), 0..10, 1);
    let first = back_up(&repository, folder.path()).snapshot.unwrap();
    let other = open_quick(store.clone(), None);
    other.forget(&[first], "").unwrap();
    let session = repository.register(Purpose::Write).unwrap();
    let held = pruned(&other, &PruneOptions::default()).held_by;
    assert_eq!(held.iter().map(|held| held.session).collect::<Vec<_>>(), [session]);
    assert!(repository.end(session).unwrap());
}

#[test]
fn without_conditions_one_client_collects_and_taking_over_takes_a_day() {
    let store = Store::memory().without_conditions();
    let first = create_quick(store.clone(), None);
    pruned(&first, &tight());
    let clock = Arc::new(FakeClock::new(Timestamp { seconds: 2_000_000_000, nanoseconds: 0 }));
    let second = first.reopen(Environment { clock: clock.clone(), ..environment(None) }).unwrap();
    let refused = |repository: &Repository, options: &PruneOptions| {
        prune(repository, options, &SilentMonitor).unwrap_err().to_string()
    };
    assert!(refused(&second, &tight()).contains("--become-maintainer"));
    // Looking is free.
    pruned(&second, &PruneOptions { dry_run: true, ..tight() });
    let taking = PruneOptions { become_maintainer: true, ..tight() };
    assert!(refused(&second, &taking).contains("24 hours"));
    assert!(refused(&first, &tight()).contains("testhost"));
    clock.sleep(Duration::from_secs(23 * 3600));
    assert!(refused(&second, &tight()).contains("23 hours ago"));
    clock.sleep(Duration::from_secs(3600));
    pruned(&second, &tight());
}

#[test]
fn without_conditions_a_commit_and_an_abort_at_once_are_taken_for_both() {
    let store = Store::memory().without_conditions();
    let repository = create_quick(store.clone(), None);
    let folder = tempfile::tempdir().unwrap();
    write_files(folder.path(), 0..10, 1);
    back_up(&repository, folder.path());
    let (_, snapshot) = snapshots(&repository).pop().unwrap();
    let writer = Writer::begin(&repository, false, &SilentMonitor).unwrap();
    writer.finish().unwrap();
    let session = writer.session();
    // The collector has written its abort, and the writer its snapshot, before either looked.
    let name = layout::abort(session);
    let mark = repository.seal(ObjectKind::Mark, &name, Vec::new()).unwrap();
    store.create(&name, mark).unwrap();
    assert_eq!(writer.commit(snapshot).unwrap(), Committed::Fenced);
    assert!(!repository.abort(session).unwrap(), "the collector keeps it as a root");
    let listed = repository.snapshots(&SilentMonitor).unwrap();
    assert_eq!(listed.all.len(), 2);
    assert_eq!(listed.unconfirmed, HashSet::from([SnapshotId(session)]));
    pruned(&repository, &tight());
    assert_whole(&store);
    // It goes when it is forgotten.
    repository.forget(&[SnapshotId(session)], "").unwrap();
    pruned(&repository, &tight());
    for name in [
        layout::snapshot(session),
        layout::abort(session),
        layout::tomb(TombId { session, number: 1 }),
    ] {
        assert_eq!(store.size(&name).unwrap(), None, "{name}");
    }
    assert_whole(&store);
}

#[test]
fn a_damaged_pack_goes_once_its_content_is_whole_elsewhere_and_the_whole_copy_stays() {
    let store = Store::memory();
    let repository = create_quick(store.clone(), None);
    let folder = tempfile::tempdir().unwrap();
    write_files(folder.path(), 0..20, 1);
    back_up(&repository, folder.path());
    let packs = repository.cache().packs().unwrap();
    let damaged = packs.iter().find(|(_, pack)| pack.kind == ObjectKind::DataPack).unwrap().1.id;
    let name = layout::pack(damaged);
    let mut object = store.get(&name).unwrap();
    object[5000] ^= 1;
    store.delete(&name).unwrap();
    store.create(&name, object).unwrap();
    repository.record_damage(damaged, "flipped", &[]).unwrap();
    // While it holds the only copy it stays, damaged as it is.
    pruned(&repository, &tight());
    assert!(store.size(&name).unwrap().is_some());
    // The next backup stores again what it held; now it is the copy that goes.
    assert!(back_up(&repository, folder.path()).counts.data_blobs > 0);
    pruned(&repository, &tight());
    assert_eq!(store.size(&name).unwrap(), None);
    assert_eq!(store.size(&layout::damaged(damaged)).unwrap(), None);
    assert_whole(&store);
}

#[test]
fn what_a_backup_left_that_died_goes_though_nothing_else_is_to_be_collected() {
    for store in both_forms() {
        let repository = create_quick(store.clone(), None);
        let folder = tempfile::tempdir().unwrap();
        write_files(folder.path(), 0..5, 1);
        back_up(&repository, folder.path());
        let before = pack_bytes(&store);
        let dying = open_quick(store.clone(), None);
        let writer = Writer::begin(&dying, false, &SilentMonitor).unwrap();
        let mut segments = writer.segments(ObjectKind::DataPack).unwrap();
        segments.put(&noise(10_000, 9)).unwrap();
        segments.flush().unwrap();
        drop(segments);
        writer.finish().unwrap();
        drop(writer);
        assert!(pack_bytes(&store) > before);
        // It is waited for, in case it lives; then it is given up, and what it made is garbage.
        pruned(&repository, &PruneOptions::default());
        assert!(pack_bytes(&store) > before);
        pruned(&repository, &tight());
        pruned(&repository, &tight());
        assert_eq!(pack_bytes(&store), before);
        assert!(repository.undecided_sessions().unwrap().is_empty());
        assert_whole(&store);
    }
}

#[test]
fn registrations_of_sessions_that_have_ended_do_not_gather() {
    for store in both_forms() {
        let repository = create_quick(store.clone(), None);
        let folder = tempfile::tempdir().unwrap();
        for version in 0..4 {
            write_files(folder.path(), 0..2, version);
            let id = back_up(&repository, folder.path()).snapshot.unwrap();
            let reader = repository.register(Purpose::Read).unwrap();
            assert!(repository.end(reader).unwrap());
            if version > 1 {
                repository.forget(&[id], "").unwrap();
            }
            pruned(&repository, &tight());
            // Its own for merging remains, and those whose snapshots no sweep lists yet.
            let swept = repository.generations().unwrap().swept();
            let all = repository.snapshots(&SilentMonitor).unwrap().all;
            let unlisted = all.iter().filter(|(id, _)| id.0.generation >= swept).count();
            assert_eq!(store.list(layout::SESSIONS).unwrap().len(), 1 + unlisted);
            assert!(unlisted < 3);
            assert!(repository.undecided_sessions().unwrap().is_empty());
        }
    }
}

#[test]
fn a_dry_run_beside_an_unfinished_collection_plans_and_changes_nothing() {
    for store in both_forms() {
        let repository = create_quick(store.clone(), None);
        let folder = tempfile::tempdir().unwrap();
        write_files(folder.path(), 0..10, 1);
        let first = back_up(&repository, folder.path()).snapshot.unwrap();
        let reader = repository.register(Purpose::Read).unwrap();
        repository.forget(&[first], "").unwrap();
        assert_eq!(pruned(&repository, &PruneOptions::default()).held_by.len(), 1);
        let before = repository.generations().unwrap();
        let dry = pruned(&repository, &PruneOptions { dry_run: true, ..tight() });
        assert!(!dry.plan.unwrap().drop.is_empty());
        let after = repository.generations().unwrap();
        assert_eq!(before.open.map(|open| open.0), after.open.map(|open| open.0));
        assert!(repository.end(reader).unwrap(), "the dry run gave nobody up");
    }
}

#[test]
fn sessions_that_ended_without_a_snapshot_are_worth_a_generation_when_they_are_many() {
    for store in both_forms() {
        let repository = create_quick(store.clone(), None);
        let aborts = || repository.snapshots(&SilentMonitor).unwrap().aborted.len();
        while aborts() < 60 {
            let session = repository.register(Purpose::Read).unwrap();
            assert!(repository.end(session).unwrap());
        }
        assert!(pruned(&repository, &tight()).generations.is_empty());
        while aborts() < 64 {
            let session = repository.register(Purpose::Read).unwrap();
            assert!(repository.end(session).unwrap());
        }
        let summary = pruned(&repository, &tight());
        assert_eq!(summary.generations, [1]);
        assert!(summary.cleared.aborts >= 60 && summary.cleared.sessions > 0, "{summary:?}");
        assert!(aborts() < 10, "{} are left", aborts());
        assert!(pruned(&repository, &tight()).generations.is_empty());
    }
}

#[test]
fn a_session_that_has_made_nothing_is_no_reason_for_a_generation() {
    for store in both_forms() {
        let repository = create_quick(store.clone(), None);
        let folder = tempfile::tempdir().unwrap();
        write_files(folder.path(), 0..2, 1);
        back_up(&repository, folder.path());
        let session = repository.register(Purpose::Write).unwrap();
        let summary = pruned(&repository, &tight());
        assert_eq!((summary.generations.len(), summary.fenced), (0, 0));
        assert!(repository.end(session).unwrap());
    }
}

#[test]
fn a_needed_blob_that_no_pack_has_stops_the_collection() {
    let store = Store::memory();
    let repository = create_quick(store.clone(), None);
    let folder = tempfile::tempdir().unwrap();
    write_files(folder.path(), 0..5, 1);
    let first = back_up(&repository, folder.path()).snapshot.unwrap();
    write_files(folder.path(), 0..5, 2);
    let second = back_up(&repository, folder.path()).snapshot.unwrap();
    let packs = data_packs(&repository).into_iter().filter(|pack| pack.id.session == second.0);
    let lost = packs.max_by_key(|pack| pack.directory.blob_count()).unwrap();
    let blobs = lost.directory.blob_count();
    assert!(blobs > 1);
    repository.forget(&[first], "").unwrap();
    store.delete(&layout::pack(lost.id)).unwrap();
    let before = pack_bytes(&store);
    let lost = blobs.to_string() + " such blobs";
    for client in [open_quick(store.clone(), None), repository] {
        for dry_run in [true, false] {
            let options = PruneOptions { dry_run, ..tight() };
            let error = prune(&client, &options, &SilentMonitor).unwrap_err().to_string();
            assert!(error.contains("in no pack that the repository has"), "{error}");
            assert!(!dry_run || error.contains(&lost), "{lost}: {error}");
            assert_eq!(pack_bytes(&store), before);
        }
    }
}

/// Lists a pack in an index object of a session of its own, and puts something as long as it should be in its place.
fn list_pack(repository: &Repository, like: &PackRecord, directory: PackDirectory) -> PackId {
    let session = repository.register(Purpose::Write).unwrap();
    let id = PackId { session, number: 1 };
    let object_length = directory.body_length() + 1000;
    let object = vec![0; object_length as usize];
    repository.store().create(&layout::pack(id), object).unwrap();
    let pack = PackRecord { id, header: like.header, object_length, directory };
    let name = layout::index(IndexId { session, number: 1 });
    let index = Index { packs: vec![pack], ..Index::default() };
    let object = repository.seal(ObjectKind::Index, &name, index.encode()).unwrap();
    repository.store().create(&name, object).unwrap();
    repository.abort(session).unwrap();
    id
}

/// What the packs of data hold, oldest first.
fn data_packs(repository: &Repository) -> Vec<PackRecord> {
    let packs = repository.cache().packs().unwrap().into_iter().map(|(_, pack)| pack);
    let packs = packs.filter(|pack| pack.kind == ObjectKind::DataPack);
    let read = |pack: PackInfo| repository.read_pack_directory(pack.id, pack.object_length);
    packs.map(|pack| read(pack).unwrap()).collect()
}

fn planned(store: &Store) -> PackPlan {
    let options = PruneOptions { dry_run: true, ..tight() };
    pruned(&open_quick(store.clone(), None), &options).plan.unwrap()
}

#[test]
fn what_deltas_are_read_against_stays_and_a_copy_that_is_no_delta_is_preferred() {
    let store = Store::memory();
    let repository = create_quick(store.clone(), None);
    let folder = tempfile::tempdir().unwrap();
    write_files(folder.path(), 0..8, 1);
    let first = back_up(&repository, folder.path()).snapshot.unwrap();
    write_files(folder.path(), 0..8, 2);
    back_up(&repository, folder.path());
    let packs = data_packs(&repository);
    let base = packs.iter().find(|pack| pack.id.session == first.0).unwrap();
    let later = packs.iter().filter(|pack| pack.id.session != first.0);
    let plain = later.max_by_key(|pack| pack.directory.blob_count()).unwrap();
    repository.forget(&[first], "").unwrap();
    assert!(planned(&store).drop.contains(&base.id), "nobody needs it yet");
    let blobs = |pack: &PackRecord| -> Vec<BlobRecord> {
        pack.directory.segments.iter().flat_map(|segment| segment.blobs.clone()).collect()
    };
    let bases: Vec<_> = blobs(base).iter().map(|blob| blob.id).collect();
    // All that the plain one has, and in another of them what is needed and stands nowhere else.
    let is_beside = |pack: &&PackRecord| pack.id.session == plain.id.session && pack.id != plain.id;
    let other = packs.iter().find(is_beside).unwrap();
    for with_others in [false, true] {
        let mut directory = PackDirectory::default();
        directory.push(10, Encoding::Delta(bases.clone()), blobs(plain));
        if with_others {
            directory.push(10, Encoding::Zstd, blobs(other));
            store.delete(&layout::pack(other.id)).unwrap();
        }
        let delta = list_pack(&repository, plain, directory);
        let plan = planned(&store);
        assert!(plan.drop.contains(&base.id), "a plain copy is what is needed");
        assert!(!plan.drop.contains(&plain.id), "{plan:?}");
        assert_eq!(plan.drop.contains(&delta), !with_others, "{plan:?}");
    }
    store.delete(&layout::pack(plain.id)).unwrap();
    let plan = planned(&store);
    assert!(!plan.drop.contains(&base.id), "needed blobs have nothing but deltas against it");
}

#[test]
fn a_pack_of_which_only_a_later_version_knows_what_is_needed_is_left() {
    let store = Store::memory();
    let repository = create_quick(store.clone(), None);
    let folder = tempfile::tempdir().unwrap();
    write_files(folder.path(), 0..1, 1);
    back_up(&repository, folder.path());
    let like = &data_packs(&repository)[0];
    for (encoding, is_dropped) in [(Encoding::Stored, true), (Encoding::Unknown(9), false)] {
        let mut directory = PackDirectory::default();
        directory.push(10, encoding, vec![BlobRecord { id: BlobId([7; 32]), length: 10 }]);
        let pack = list_pack(&repository, like, directory);
        assert_eq!(planned(&store).drop.contains(&pack), is_dropped);
    }
}

#[test]
fn a_pack_of_which_something_cannot_be_read_is_told_and_left_when_others_are_copied() {
    // Packs that are longer than what is read at their end for the directory. Half of each is needed.
    let settings = Settings { pack_length: 512 << 10, ..small_settings() };
    let whole_store = Store::memory();
    let repository = create_quick_with(whole_store.clone(), settings, None);
    let folder = tempfile::tempdir().unwrap();
    write_files(folder.path(), 0..80, 1);
    let first = back_up(&repository, folder.path()).snapshot.unwrap();
    for number in (0..80).step_by(2) {
        fs::remove_file(folder.path().join(format!("file-{number:03}"))).unwrap();
    }
    back_up(&repository, folder.path());
    repository.forget(&[first], "").unwrap();
    let plan = planned(&whole_store);
    let packs = data_packs(&repository).into_iter();
    let pack = packs.map(|pack| pack.id).find(|pack| plan.repack.contains(pack)).unwrap();
    let name = layout::pack(pack);
    let whole = whole_store.get(&name).unwrap();
    assert!(whole.len() > 400_000);
    // Some of its blobs, and what says where they stand.
    for at in [HEADER_LENGTH + 10, whole.len() - 1] {
        let store = crate::model::copy_of(&whole_store);
        let mut object = whole.clone();
        object[at] ^= 1;
        store.delete(&name).unwrap();
        store.create(&name, object).unwrap();
        let monitor = RecordingMonitor::default();
        prune(&open_quick(store.clone(), None), &tight(), &monitor).unwrap();
        let problems = monitor.problems();
        let told = problems.iter().find(|problem| problem.item == format!("pack {pack}")).unwrap();
        assert!(told.message.contains("the pack is left as it is"), "{told:?}");
        assert!(store.size(&name).unwrap().is_some());
    }
}

#[test]
fn a_pack_that_is_uploaded_once_more_after_its_sweep_goes_with_the_next_collection() {
    let store = Store::memory();
    let repository = create_quick(store.clone(), None);
    let folder = tempfile::tempdir().unwrap();
    write_files(folder.path(), 0..5, 1);
    let first = back_up(&repository, folder.path()).snapshot.unwrap();
    let packs = store.list(layout::PACKS).unwrap();
    let packs = packs.iter().map(|object| (object.name.clone(), store.get(&object.name).unwrap()));
    let packs: Vec<_> = packs.collect();
    // Two generations later: what the last sweep names is deleted by every collection.
    let mut forgotten = first;
    for version in 2..4 {
        write_files(folder.path(), 0..5, version);
        let next = back_up(&repository, folder.path()).snapshot.unwrap();
        repository.forget(&[forgotten], "").unwrap();
        forgotten = next;
        assert_eq!(pruned(&repository, &tight()).generations.len(), 1);
    }
    for (name, object) in &packs {
        assert_eq!(store.size(name).unwrap(), None);
        store.create(name, object.clone()).unwrap();
    }
    pruned(&repository, &tight());
    for (name, _) in &packs {
        assert_eq!(store.size(name).unwrap(), None);
    }
    assert_whole(&store);
}

#[test]
fn a_store_that_is_full_when_index_objects_are_merged_is_said_to_be_full() {
    let control = FaultControl::new();
    let store = Store::memory().with_faults(control.clone());
    let repository = create_quick(store.clone(), None);
    let folder = tempfile::tempdir().unwrap();
    for version in 0..12 {
        write_files(folder.path(), 0..1, version);
        back_up(&repository, folder.path());
    }
    let mut stopped = 0;
    for create in 0..10 {
        control.fail_create_with_full(control.creates() + create);
        match prune(&repository, &PruneOptions::default(), &SilentMonitor) {
            Ok(summary) => stopped += u32::from(summary.stopped.is_some()),
            Err(error) => assert!(error.to_string().contains("no space left"), "{error}"),
        }
    }
    assert!(stopped > 0);
    assert_whole(&store);
}

#[test]
fn the_abort_of_a_session_stays_as_long_as_no_later_generation_has_ended() {
    for store in both_forms() {
        let repository = create_quick(store.clone(), None);
        let folder = tempfile::tempdir().unwrap();
        write_files(folder.path(), 0..5, 1);
        let first = back_up(&repository, folder.path()).snapshot.unwrap();
        write_files(folder.path(), 0..5, 2);
        back_up(&repository, folder.path());
        repository.forget(&[first], "").unwrap();
        assert_eq!(pruned(&repository, &tight()).generations.len(), 1);
        let (_, snapshot) = snapshots(&repository).pop().unwrap();
        let writer = Writer::begin(&repository, false, &SilentMonitor).unwrap();
        writer.finish().unwrap();
        assert!(repository.abort(writer.session()).unwrap(), "it is given up");
        assert!(pruned(&repository, &tight()).generations.is_empty());
        assert_eq!(writer.commit(snapshot).unwrap(), Committed::Fenced);
    }
}
