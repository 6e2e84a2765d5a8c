//! Backups that end early, by a person's wish or by `kill -9`: older snapshots stay, and the next run goes on
//! where the last one stopped.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use aumbry::format::header::ObjectKind;
use aumbry::monitor::{Monitor, Phase, Progress, SilentMonitor};
use aumbry::ops::OpsError;
use aumbry::ops::backup::{BackupSummary, backup};
use aumbry::repository::Repository;
use aumbry::repository::reader::BlobReader;
use aumbry::source::files::{Files, FilesOptions};
use aumbry::source::{OpenFile, Readable, Source, SourceError, Step};
use aumbry::store::{LocalMode, Store, layout};
use aumbry::tree::entry::{Content, ExtendedAttribute, Node};
use aumbry::view::{Found, find_path};
use parking_lot::Mutex;

use crate::model::{
    Plain, all_contents, assert_nothing_stored_twice, assert_same, create_quick, folder_contents,
    open_quick,
};
use crate::support::{contents, noise, options, snapshots};

/// Tells the child process of [`killed_at_any_moment_a_backup_loses_nothing`] where to work.
const CHILD: &str = "AUMBRY_TEST_KILLED_CHILD";

/// How often each file was opened.
type Opened = Arc<Mutex<BTreeMap<String, u64>>>;

/// A source that counts how often each of its files is opened.
struct Counting {
    inner: Files,
    opened: Opened,
}

struct CountingReadable {
    inner: Arc<dyn Readable>,
    opened: Opened,
}

impl Source for Counting {
    fn next(&mut self, monitor: &dyn Monitor) -> Result<Option<Step>, SourceError> {
        Ok(self.inner.next(monitor)?.map(|step| match step {
            Step::Entry { entry, readable } => {
                let opened = self.opened.clone();
                Step::Entry {
                    entry,
                    readable: Arc::new(CountingReadable { inner: readable, opened }),
                }
            }
            other => other,
        }))
    }

    fn paths(&self) -> Vec<Vec<u8>> {
        self.inner.paths()
    }
}

impl Readable for CountingReadable {
    fn attributes(&self) -> std::io::Result<Vec<ExtendedAttribute>> {
        self.inner.attributes()
    }

    fn open(&self) -> std::io::Result<Box<dyn OpenFile>> {
        *self.opened.lock().entry(self.inner.display()).or_insert(0) += 1;
        self.inner.open()
    }

    fn display(&self) -> String {
        self.inner.display()
    }
}

/// Backs up, and counts what was opened.
fn back_up_counting(
    repository: &Repository,
    folder: &Path,
    monitor: &dyn Monitor,
) -> (Result<BackupSummary, OpsError>, BTreeMap<String, u64>) {
    let files_options =
        FilesOptions { as_path: Some("/tree".parse().unwrap()), ..FilesOptions::default() };
    let inner = Files::new(&[PathBuf::from(folder)], files_options).unwrap();
    let opened = Opened::default();
    let mut source = Counting { inner, opened: opened.clone() };
    let outcome = backup(repository, &mut source, &options(), monitor);
    let opened = opened.lock().clone();
    (outcome, opened)
}

/// A person who loses patience after so many files.
struct Impatient {
    files: AtomicU64,
    patience: u64,
}

impl Impatient {
    fn after(patience: u64) -> Self {
        Impatient { files: AtomicU64::new(0), patience }
    }
}

impl Monitor for Impatient {
    fn advance(&self, done: Progress) {
        self.files.fetch_add(done.files, Ordering::Relaxed);
    }

    fn interrupted(&self) -> bool {
        self.files.load(Ordering::Relaxed) >= self.patience
    }
}

const FILES: u64 = 120;

/// With one worker, so many batches of a megabyte are handed out at a time, and one is being filled.
const BATCHES_UNDER_WAY: u64 = 4 + 1;

/// How much is under way at an interruption depends on the number of workers, which a process decides once:
/// the first call runs this test again in a process of its own with one worker, and answers no.
fn is_with_one_worker(test: &str) -> bool {
    const VARIABLE: &str = "RAYON_NUM_THREADS";
    if std::env::var_os(VARIABLE).is_some_and(|count| count == "1") {
        assert_eq!(rayon::current_num_threads(), 1);
        return true;
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("resume::{test}")])
        .env(VARIABLE, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
    false
}

fn make_files(folder: &Path) {
    for number in 0..FILES {
        let folder = folder.join(format!("{:02}", number / 16));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(format!("{number:03}")), noise(220_000, number)).unwrap();
    }
}

#[test]
fn an_interrupted_backup_goes_on_where_it_was_and_reads_nothing_it_finished_again() {
    let name = "an_interrupted_backup_goes_on_where_it_was_and_reads_nothing_it_finished_again";
    if !is_with_one_worker(name) {
        return;
    }
    let source = tempfile::tempdir().unwrap();
    make_files(source.path());
    let batch = (1 << 20) / 220_000 + 1;
    for patience in [1, 30, 60, 100] {
        let cache = tempfile::tempdir().unwrap();
        let store = Store::memory();
        let repository = create_quick(store.clone(), Some(cache.path()));
        let what = format!("interrupted after {patience} files");
        let (outcome, _) =
            back_up_counting(&repository, source.path(), &Impatient::after(patience));
        assert!(matches!(outcome, Err(OpsError::Interrupted)), "{what}: {outcome:?}");
        assert!(all_contents(&repository).is_empty(), "{what}");
        drop(repository);

        let repository = open_quick(store, Some(cache.path()));
        let (outcome, opened) = back_up_counting(&repository, source.path(), &SilentMonitor);
        let summary = outcome.unwrap();
        assert_eq!(summary.counts.files_new, FILES, "{what}");
        let opened = opened.len() as u64;
        let most = FILES - patience + BATCHES_UNDER_WAY * batch;
        assert!(opened <= most, "{what}: {opened} were read, {most} at most should be");
        assert!(opened + patience + BATCHES_UNDER_WAY * batch >= FILES, "{what}: {opened}");
        assert_nothing_stored_twice(&repository, &what);
        let wanted = folder_contents(source.path());
        assert_same(&all_contents(&repository)[0], &wanted, &what);
        // The journal has done its work.
        let (outcome, opened) = back_up_counting(&repository, source.path(), &SilentMonitor);
        assert_eq!(outcome.unwrap().counts.files_unmodified, FILES, "{what}");
        assert!(opened.is_empty(), "{what}: {opened:?}");
    }
}

/// Whether this file of the newest snapshot has a chunk list of its own.
fn has_list(repository: &Repository, path: &str) -> bool {
    let all = snapshots(repository);
    let (_, snapshot) = all.last().unwrap();
    let reader = BlobReader::new(repository, 1 << 20);
    let found = find_path(&reader, snapshot, &path.parse().unwrap()).unwrap().unwrap();
    let Found::Entry(entry) = found else { return false };
    matches!(&entry.node, Node::File(file) if matches!(file.content, Content::List { .. }))
}

#[test]
fn a_file_of_several_regions_is_not_read_again_after_an_interruption() {
    if !is_with_one_worker("a_file_of_several_regions_is_not_read_again_after_an_interruption") {
        return;
    }
    let (source, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    make_files(source.path());
    // Longer than a region, with more pieces than a directory entry takes.
    let large = source.path().join("00/+large");
    let file = fs::File::create_new(&large).unwrap();
    for number in 0..60 {
        file.write_all_at(&noise(2000, 5000 + number), number << 20).unwrap();
    }
    let repository = create_quick(Store::memory(), Some(cache.path()));
    let (outcome, opened) = back_up_counting(&repository, source.path(), &Impatient::after(100));
    assert!(matches!(outcome, Err(OpsError::Interrupted)));
    assert_eq!(opened.get(large.to_str().unwrap()), Some(&1));
    let (outcome, opened) = back_up_counting(&repository, source.path(), &SilentMonitor);
    outcome.unwrap();
    assert_eq!(opened.get(large.to_str().unwrap()), None, "the large file was read again");
    assert!(has_list(&repository, "/tree/00/+large"));
    assert_same(&all_contents(&repository)[0], &folder_contents(source.path()), "resumed");
}

#[test]
fn after_a_pack_is_lost_only_the_files_that_were_in_it_are_read_again() {
    let (source, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    make_files(source.path());
    let store = Store::memory();
    let repository = create_quick(store.clone(), Some(cache.path()));
    back_up_counting(&repository, source.path(), &SilentMonitor).0.unwrap();
    assert!(has_list(&repository, "/tree/00/000"), "the files need lists of chunks");
    let packs = repository.cache().packs().unwrap();
    let lost = packs.iter().find(|(_, pack)| pack.kind == ObjectKind::DataPack).unwrap();
    store.delete(&layout::pack(lost.1.id)).unwrap();
    let (outcome, opened) = back_up_counting(&repository, source.path(), &SilentMonitor);
    outcome.unwrap();
    assert!(!opened.is_empty() && opened.len() < 20, "{} were read", opened.len());
    let wanted = folder_contents(source.path());
    // Both snapshots are whole again: they share what was stored once more.
    for found in all_contents(&open_quick(store, None)) {
        assert_same(&found, &wanted, "after the loss");
    }
    let (outcome, opened) = back_up_counting(&repository, source.path(), &SilentMonitor);
    assert_eq!(outcome.unwrap().counts.files_unmodified, FILES);
    assert!(opened.is_empty(), "{} were read once more", opened.len());
}

#[test]
fn a_backup_interrupted_again_and_again_gets_to_its_end() {
    if !is_with_one_worker("a_backup_interrupted_again_and_again_gets_to_its_end") {
        return;
    }
    let (source, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    make_files(source.path());
    let store = Store::memory();
    create_quick(store.clone(), Some(cache.path()));
    let mut reads = 0;
    let mut rounds = 0;
    // Files that are taken from the journal count as done, so patience has to grow.
    for patience in (20..).step_by(20) {
        let repository = open_quick(store.clone(), Some(cache.path()));
        let (outcome, opened) =
            back_up_counting(&repository, source.path(), &Impatient::after(patience));
        reads += opened.values().sum::<u64>();
        rounds += 1;
        if let Ok(summary) = outcome {
            assert_eq!(summary.counts.files_new, FILES);
            break;
        }
    }
    assert!(rounds > 3, "{rounds} rounds");
    let batch = (1 << 20) / 220_000 + 1;
    let most = FILES + rounds * BATCHES_UNDER_WAY * batch;
    assert!(reads <= most, "{reads} reads of {FILES} files in {rounds} rounds");
    let repository = open_quick(store, None);
    assert_nothing_stored_twice(&repository, "many interruptions");
    assert_same(&all_contents(&repository)[0], &folder_contents(source.path()), "at last");
}

#[test]
fn a_file_that_changed_after_the_interruption_is_read_again() {
    if !is_with_one_worker("a_file_that_changed_after_the_interruption_is_read_again") {
        return;
    }
    let (source, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    make_files(source.path());
    let store = Store::memory();
    let repository = create_quick(store.clone(), Some(cache.path()));
    let (outcome, _) = back_up_counting(&repository, source.path(), &Impatient::after(100));
    assert!(matches!(outcome, Err(OpsError::Interrupted)));
    // Same length, and the old time put back: only the change time tells.
    let changed = source.path().join("00/003");
    let before = fs::metadata(&changed).unwrap().modified().unwrap();
    fs::write(&changed, noise(220_000, 9999)).unwrap();
    fs::File::options().write(true).open(&changed).unwrap().set_modified(before).unwrap();
    let (outcome, opened) = back_up_counting(&repository, source.path(), &SilentMonitor);
    outcome.unwrap();
    assert!(opened.len() < 80, "{} were read", opened.len());
    let wanted = folder_contents(source.path());
    assert_same(&all_contents(&repository)[0], &wanted, "changed between");
}

#[test]
fn a_backup_of_something_else_leaves_an_interrupted_one_its_journal() {
    if !is_with_one_worker("a_backup_of_something_else_leaves_an_interrupted_one_its_journal") {
        return;
    }
    let (source, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    make_files(source.path());
    let repository = create_quick(Store::memory(), Some(cache.path()));
    let (outcome, _) = back_up_counting(&repository, source.path(), &Impatient::after(100));
    assert!(matches!(outcome, Err(OpsError::Interrupted)));
    assert_eq!(journals(cache.path()), 1);
    let other = tempfile::tempdir().unwrap();
    fs::write(other.path().join("file"), noise(1000, 1)).unwrap();
    let mut files = Files::new(&[other.path().into()], FilesOptions::default()).unwrap();
    backup(&repository, &mut files, &options(), &SilentMonitor).unwrap();
    let (outcome, opened) = back_up_counting(&repository, source.path(), &SilentMonitor);
    assert_eq!(outcome.unwrap().counts.files_new, FILES);
    assert!(opened.len() < 80, "{} were read", opened.len());
    assert_eq!(journals(cache.path()), 0);
}

/// Tells the parent of everything that happens, and waits for its answer: the moments at which it kills.
#[derive(Default)]
struct Talkative {
    one_at_a_time: Mutex<()>,
}

impl Talkative {
    fn say(&self) {
        let _guard = self.one_at_a_time.lock();
        let mut output = std::io::stdout();
        output.write_all(b"moment\n").and_then(|()| output.flush()).unwrap();
        std::io::stdin().read_exact(&mut [0]).unwrap();
    }
}

impl Monitor for Talkative {
    fn phase(&self, _phase: Phase) {
        self.say();
    }

    fn advance(&self, _done: Progress) {
        self.say();
    }
}

/// What the child does: one backup.
fn run_child(folder: &Path) {
    let store = Store::local(&folder.join("store"), LocalMode::Open).unwrap();
    let repository = open_quick(store, Some(&folder.join("cache")));
    let talkative = Talkative::default();
    let (outcome, _) = back_up_counting(&repository, &folder.join("source"), &talkative);
    outcome.unwrap();
    talkative.say();
}

/// Starts the child and kills it in its moment number `moments`. Returns how many it had, and whether it was
/// still running.
fn kill_child(folder: &Path, moments: usize) -> (usize, bool) {
    let test = "resume::killed_at_any_moment_a_backup_loses_nothing";
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(CHILD, folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap();
    let mut answers = child.stdin.take().unwrap();
    // Both pipes stay open until the child is dead: it must not end by its own doing.
    let mut heard = 0;
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    for line in lines.by_ref() {
        if line.unwrap().contains("moment") {
            heard += 1;
            if heard > moments {
                break;
            }
            answers.write_all(b".").unwrap();
        }
    }
    // On Unix this is SIGKILL: nothing in the child runs any more.
    child.kill().unwrap();
    let status = child.wait().unwrap();
    assert!(heard > moments || status.success(), "the child failed by itself: {status}");
    (heard, !status.success())
}

#[test]
fn killed_at_any_moment_a_backup_loses_nothing() {
    if let Some(folder) = std::env::var_os(CHILD) {
        return run_child(Path::new(&folder));
    }
    let folder = tempfile::tempdir().unwrap();
    let (source, cache) = (folder.path().join("source"), folder.path().join("cache"));
    fs::create_dir(&source).unwrap();
    let store = Store::local(&folder.path().join("store"), LocalMode::Create).unwrap();
    create_quick(store.clone(), Some(&cache));
    let mut kept: Vec<Plain> = Vec::new();
    let mut random = 1u64;
    let (mut killed, mut left_packs) = (0, 0);
    let mut all_moments = 0;
    for round in 0..22u64 {
        // A dozen packs a round, of which two at a time can be on their way to the store.
        let changed = if round == 0 { 83 } else { 30 };
        for number in 0..changed {
            let name = format!("{}", (round * 7 + number * 3) % 83);
            let length = (number * 7111 + round * 77) % 60_000;
            fs::write(source.join(name), noise(length as usize, round * 1000 + number)).unwrap();
        }
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        // The first two rounds run to their end: the second tells how many moments the others have.
        let moments = if round < 2 { usize::MAX } else { (random >> 33) as usize % all_moments };
        let what = format!("round {round}, killed after {moments} moments");
        let packs = store.list("packs/").unwrap().len();
        let (heard, was_killed) = kill_child(folder.path(), moments);
        if round < 2 {
            all_moments = heard;
        }
        killed += u64::from(was_killed);
        let wanted = folder_contents(&source);

        let repository = open_quick(store.clone(), Some(&cache));
        let all = snapshots(&repository);
        assert!(all.len() == kept.len() || all.len() == kept.len() + 1, "{what}");
        let uncommitted = all.len() == kept.len();
        left_packs += u64::from(uncommitted && store.list("packs/").unwrap().len() > packs);
        // The newest ones here, all of them at the end.
        for (number, (_, snapshot)) in all.iter().enumerate().skip(all.len().saturating_sub(3)) {
            let wanted = kept.get(number).unwrap_or(&wanted);
            assert_same(&contents(&repository, snapshot), wanted, &what);
        }
        let (outcome, opened) = back_up_counting(&repository, &source, &SilentMonitor);
        let summary = outcome.unwrap();
        assert!(opened.len() as u64 <= changed, "{what}: {} were read", opened.len());
        assert_eq!(summary.counts.problems, 0, "{what}");
        let all = snapshots(&repository);
        assert_same(&contents(&repository, &all.last().unwrap().1), &wanted, &what);
        assert_nothing_stored_twice(&repository, &what);
        kept.resize(all.len(), wanted);
    }
    assert!(killed >= 15, "only {killed} of 20 were killed before they ended");
    assert!(left_packs >= 3, "only {left_packs} of 20 left packs behind");
    let stranger = open_quick(store, None);
    let all = snapshots(&stranger);
    assert_eq!(all.len(), kept.len());
    for ((_, snapshot), wanted) in all.iter().zip(&kept) {
        assert_same(&contents(&stranger, snapshot), wanted, "read without a cache at the end");
    }
    assert_eq!(journals(&cache), 0, "journals are left after the last run has committed");
}

/// How many journals are in the only cache below this folder.
fn journals(cache: &Path) -> usize {
    let cache = fs::read_dir(cache).unwrap().next().unwrap().unwrap().path();
    let folders = fs::read_dir(cache.join("journals")).unwrap();
    folders.map(|folder| fs::read_dir(folder.unwrap().path()).unwrap().count()).sum()
}
