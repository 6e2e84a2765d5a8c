//! What grows with a repository, and what does not: 10 million blobs and 10 000 hourly snapshots, each of which
//! changed one file.
//!
//! `cargo bench --bench growth -- 10 10000` (millions of blobs, snapshots; needs about 3 GB of temporary files). A third
//! number says how many millions of the blobs the snapshots need: all of them, unless it is given. Every step runs in
//! a process of its own, so that its peak memory is its own. CPU seconds are user and system time of the step
//! alone. Calls are those to the store; a listing is one, however long. The limits: opening on a machine that knows
//! the repository takes 0.3 s; an index may take 200 MiB; loading it is measured against reading and unsealing alone.

#![allow(clippy::unwrap_used, clippy::panic, clippy::disallowed_methods)]

// Set up as the program's is: what it takes is what its users see.
#[path = "../../src/bin/aumbry/allocator.rs"]
mod allocator;
#[path = "../common/mod.rs"]
mod common;
mod synthetic;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use aumbry::format::header::ObjectKind;
use aumbry::id::BlobId;
use aumbry::monitor::{Monitor, Phase, SilentMonitor};
use aumbry::ops::backup::{BackupOptions, Deltas, backup};
use aumbry::ops::find::{FindOptions, Version, find};
use aumbry::ops::prune::plan::UnusedLimit;
use aumbry::ops::prune::{PruneOptions, prune};
use aumbry::repository::Repository;
use aumbry::store::{FaultControl, LocalMode, Store, layout};
use aumbry::tree::filter::{IncludeFilter, Pattern};
use aumbry::tree::path::TreePath;

use crate::common::{backup_options, blob_id, create, environment, passphrase, peak_mebibytes};
use crate::synthetic::{Building, SMALL_HOST, Size, Tree, TreeSource, small_tree};

const LOOKUPS: u64 = 1_000_000;

/// In this order. `new` and `tidy` begin without a cache; what follows `new` goes on with the cache that it made.
const STEPS: [&str; 16] = [
    "build",
    "new",
    "tidy",
    "unseal",
    "new",
    "known",
    "look-ups",
    "snapshots",
    "snapshots",
    "mark",
    "mark",
    "find",
    "backup-small",
    "mark",
    "backup",
    "mark",
];

fn main() {
    allocator::set_up();
    let arguments: Vec<String> =
        std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let size = |millions: &str, snapshots: &str, needed: &str| {
        let count = |millions: &str| (millions.parse::<f64>().unwrap() * 1e6) as u64;
        Size {
            blobs: count(millions),
            needed: count(needed).min(count(millions)),
            snapshots: snapshots.parse().unwrap(),
        }
    };
    match words[..] {
        ["step", step, folder, millions, snapshots, needed] => {
            let folder = PathBuf::from(folder);
            Bench { folder, size: size(millions, snapshots, needed) }.run(step);
        }
        [millions, snapshots] => run_all([millions, snapshots, millions]),
        [millions, snapshots, needed] => run_all([millions, snapshots, needed]),
        _ => println!("growth: skipped; `-- 10 10000` runs it for ten million blobs"),
    }
}

fn run_all(size: [&str; 3]) {
    let folder = tempfile::tempdir().unwrap();
    println!("{} million blobs, {} snapshots, {} million blobs needed", size[0], size[1], size[2]);
    println!("| step | seconds (CPU) | peak MiB | calls (reads) | MB read |");
    println!("|---|---|---|---|---|");
    for step in STEPS {
        let status = Command::new(std::env::current_exe().unwrap())
            .args(["step", step, folder.path().to_str().unwrap()])
            .args(size)
            .status()
            .unwrap();
        assert!(status.success(), "{step}");
    }
    println!("| store, cache at the end, MB | {} | | | |", {
        let [store, cache] = ["store", "cache"].map(|name| disk_bytes(&folder.path().join(name)));
        format!("{}, {}", store / 1_000_000, cache / 1_000_000)
    });
}

/// What was used up to a moment.
struct Lap {
    start: Instant,
    cpu: f64,
    calls: [u64; 3],
}

impl Lap {
    fn new(control: &FaultControl) -> Self {
        let calls = [control.calls(), control.reads(), control.read_bytes()];
        Lap { start: Instant::now(), cpu: cpu_seconds(), calls }
    }

    /// Prints a row of what was used since.
    fn end(self, what: &str, control: &FaultControl) {
        let now = Lap::new(control);
        let [calls, reads, bytes] = [0, 1, 2].map(|at| now.calls[at] - self.calls[at]);
        println!(
            "| {what} | {:.3} ({:.2}) | {} | {calls} ({reads}) | {:.1} |",
            (now.start - self.start).as_secs_f64(),
            now.cpu - self.cpu,
            peak_mebibytes(),
            bytes as f64 / 1e6,
        );
    }
}

const READING: &str = "of which reading what there is";

/// Tells apart what a dry run of prune spends its time on: reading what there is, following trees, counting in the index.
struct Parts {
    control: FaultControl,
    /// Since when it has been doing what, and whether it has begun to look.
    doing: Mutex<(Lap, &'static str)>,
    looks: AtomicBool,
}

impl Parts {
    fn new(control: &FaultControl) -> Self {
        let doing = Mutex::new((Lap::new(control), READING));
        Parts { control: control.clone(), doing, looks: AtomicBool::new(false) }
    }

    fn next(&self, what: &'static str) {
        let mut doing = self.doing.lock().unwrap();
        let (lap, before) = std::mem::replace(&mut *doing, (Lap::new(&self.control), what));
        lap.end(before, &self.control);
    }

    fn end(self) {
        let (lap, what) = self.doing.into_inner().unwrap();
        lap.end(what, &self.control);
    }
}

impl Monitor for Parts {
    fn phase(&self, phase: Phase) {
        match phase {
            // It is said before looking what there is, and again before following it.
            Phase::Mark if !self.looks.swap(true, Ordering::Relaxed) => {}
            Phase::Mark if self.doing.lock().unwrap().1 == READING => {
                self.next("of which finding out what is needed");
            }
            Phase::Count => self.next("of which counting in the index"),
            _ => {}
        }
    }
}

struct Bench {
    folder: PathBuf,
    size: Size,
}

impl Bench {
    fn open(&self, cache: &str) -> (Repository, FaultControl) {
        let control = FaultControl::new();
        let store = Store::local(&self.folder.join("store"), LocalMode::Open).unwrap();
        let environment = environment(Some(&self.folder.join(cache)));
        let store = store.with_faults(control.clone());
        (Repository::open(store, &passphrase(), environment).unwrap(), control)
    }

    /// A repository whose index is up to date.
    fn refreshed(&self) -> (Repository, FaultControl) {
        let (repository, control) = self.open("cache");
        repository.refresh_index(&SilentMonitor).unwrap();
        (repository, control)
    }

    fn run(&self, step: &str) {
        match step {
            "build" => {
                let store = self.folder.join("store");
                let lap = Lap::new(&FaultControl::new());
                let repository = create(Store::local(&store, LocalMode::Create).unwrap(), None);
                Building::new(&repository, &store, self.size).run();
                lap.end("(making the repository)", &FaultControl::new());
            }
            "new" | "known" => {
                if step == "new" {
                    let _ = std::fs::remove_dir_all(self.folder.join("cache"));
                }
                let (repository, control) = {
                    let control = FaultControl::new();
                    let lap = Lap::new(&control);
                    let (repository, control) = self.open("cache");
                    lap.end(&format!("open, {step} machine"), &control);
                    (repository, control)
                };
                let lap = Lap::new(&control);
                repository.refresh_index(&SilentMonitor).unwrap();
                let objects = repository.store().list(layout::INDEX).unwrap().len();
                lap.end(&format!("index of {objects} objects, {step} machine"), &control);
                assert!(repository.cache().blob_count() >= self.size.blobs);
            }
            "tidy" => self.tidy(),
            "unseal" => self.unseal(),
            "look-ups" => look_up(&self.refreshed().0, self.size.blobs),
            "snapshots" => {
                let (repository, control) = self.refreshed();
                let lap = Lap::new(&control);
                let found = repository.snapshots(&SilentMonitor).unwrap();
                lap.end("snapshots", &control);
                assert!(found.all.len() as u64 > self.size.snapshots);
            }
            "find" => self.find(),
            "mark" => {
                let (repository, control) = self.refreshed();
                let options = PruneOptions { dry_run: true, ..PruneOptions::default() };
                let parts = Parts::new(&control);
                let lap = Lap::new(&control);
                let summary = prune(&repository, &options, &parts).unwrap();
                parts.end();
                lap.end(&format!("prune --dry-run, {} live blobs", summary.live_blobs), &control);
            }
            "backup-small" => {
                let options = BackupOptions { host: SMALL_HOST.into(), ..backup_options(false) };
                self.backup("backup, one of 1000 files changed", &mut small_tree(7), options);
            }
            "backup" => {
                // What the old version of the file is made of stands nowhere.
                let options = BackupOptions { deltas: Deltas::Never, ..backup_options(false) };
                let mut source = TreeSource::new(self.size, self.size.snapshots - 1);
                let files = Tree::new(self.size, 0).files();
                let what = format!("backup, one of {files} files changed");
                self.backup(&what, &mut source, options);
            }
            other => panic!("no step {other}"),
        }
    }

    /// What a nightly run leaves: few index objects, and a sweep that lists the snapshots. Where blobs stand in the index
    /// that nobody needs, they are not to go, and index objects are only merged.
    fn tidy(&self) {
        // Two caches at a time would be the most that the disk has to hold.
        std::fs::remove_dir_all(self.folder.join("cache")).unwrap();
        let (repository, control) = self.open("tidy");
        let lap = Lap::new(&control);
        if self.size.needed == self.size.blobs {
            let mut options = PruneOptions::default();
            options.limits.max_unused = UnusedLimit::Unlimited;
            let summary = prune(&repository, &options, &SilentMonitor).unwrap();
            lap.end("first prune, on a new machine", &control);
            assert_eq!(summary.packs_deleted, 1);
            assert_eq!(summary.generations.len(), 1);
        } else {
            repository.merge_indexes(&SilentMonitor).unwrap();
            lap.end("merging index objects, on a new machine", &control);
        }
    }

    fn unseal(&self) {
        let (repository, control) = self.open("tidy");
        let lap = Lap::new(&control);
        for object in repository.store().list(layout::INDEX).unwrap() {
            let sealed = repository.store().get(&object.name).unwrap();
            repository.sealer().unseal(ObjectKind::Index, &object.name, sealed).unwrap();
        }
        lap.end("(limit of loading: reading and unsealing the index, one core)", &control);
        drop(repository);
        std::fs::remove_dir_all(self.folder.join("tidy")).unwrap();
    }

    /// One file's versions in all snapshots: by its path, and by its name anywhere.
    fn find(&self) {
        let (repository, control) = self.refreshed();
        let tree = Tree::new(self.size, 0);
        let path = TreePath::parse(tree.path(tree.files() / 2)).unwrap();
        let name = path.name().unwrap();
        let (path, name) = (path.to_string(), String::from_utf8(name.to_vec()).unwrap());
        for (what, text) in [("by path", path), ("by name", name)] {
            let lap = Lap::new(&control);
            let snapshots = repository.snapshots(&SilentMonitor).unwrap().all;
            let patterns = IncludeFilter::new(&[Pattern::new(text)]).unwrap();
            let options = FindOptions { patterns, memory_budget: 256 << 20 };
            let mut found = 0;
            let mut tell = |version: Version| {
                found += version.snapshots as u64;
                Ok(())
            };
            find(&repository, &snapshots, &options, &mut tell, &SilentMonitor).unwrap();
            lap.end(&format!("find, {what}"), &control);
            assert!(found >= self.size.snapshots, "{found}");
        }
    }

    fn backup(&self, what: &str, source: &mut dyn aumbry::source::Source, options: BackupOptions) {
        let (repository, control) = self.open("cache");
        let lap = Lap::new(&control);
        let summary = backup(&repository, source, &options, &SilentMonitor).unwrap();
        lap.end(what, &control);
        let counts = summary.counts;
        assert_eq!((counts.files_new, counts.files_changed), (0, 1));
        assert!(counts.dirs_changed <= 3, "{counts:?}");
    }
}

fn look_up(repository: &Repository, blobs: u64) {
    let step = (blobs / LOOKUPS).max(1);
    let known: Vec<BlobId> = (0..LOOKUPS.min(blobs)).map(|number| blob_id(number * step)).collect();
    let unknown: Vec<BlobId> = (0..LOOKUPS).map(|number| blob_id(1 << 50 | number)).collect();
    for (what, ids, wanted) in [("known", &known, true), ("unknown", &unknown, false)] {
        for round in ["first", "again"] {
            let (start, cpu) = (Instant::now(), cpu_seconds());
            for id in ids {
                assert_eq!(repository.cache().lookup(id).unwrap().is_some(), wanted);
            }
            let (seconds, cpu) = (start.elapsed().as_secs_f64(), cpu_seconds() - cpu);
            let rate = ids.len() as f64 / seconds / 1e6;
            println!(
                "| look-ups, {what}, {round}: {rate:.2} million a second on one core | {seconds:.3} ({cpu:.2}) | {} | | |",
                peak_mebibytes()
            );
        }
    }
}

/// User and system time of this process. Linux tells it in hundredths.
fn cpu_seconds() -> f64 {
    let status = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields = status.rsplit(')').next().unwrap().split_whitespace();
    fields.skip(11).take(2).map(|ticks| ticks.parse::<f64>().unwrap() / 100.0).sum()
}

/// What a folder takes on the disk, in bytes.
fn disk_bytes(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| {
        let entry = entry.unwrap();
        let metadata = entry.metadata().unwrap();
        if metadata.is_dir() { disk_bytes(&entry.path()) } else { metadata.blocks() * 512 }
    });
    entries.sum()
}
