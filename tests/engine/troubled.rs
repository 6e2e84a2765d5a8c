//! Sources that change while they are read, names that a target refuses, targets that may not be written.

use std::collections::VecDeque;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use aumbry::monitor::{Monitor, RecordingMonitor, SilentMonitor};
use aumbry::ops::backup::backup;
use aumbry::ops::restore::{RestoreOptions, restore};
use aumbry::repository::Repository;
use aumbry::source::files::{Files, FilesOptions};
use aumbry::source::{OpenFile, Readable, Source, SourceError, Step};
use aumbry::store::Store;
use aumbry::tree::entry::{Entry, ExtendedAttribute, Metadata, Node};
use aumbry::tree::path::TreePath;

use crate::support::{
    back_up, contents, create, noise, options, restore_options, small_settings, snapshots,
};

/// A source whose file `busy` is written to, with as many other bytes, whenever it is read.
struct Busy {
    inner: Files,
    path: PathBuf,
    writes: Arc<AtomicU64>,
}

struct BusyReadable {
    inner: Arc<dyn Readable>,
    path: PathBuf,
    writes: Arc<AtomicU64>,
}

struct BusyFile {
    inner: Box<dyn OpenFile>,
    path: PathBuf,
    writes: Arc<AtomicU64>,
}

impl Source for Busy {
    fn next(&mut self, monitor: &dyn Monitor) -> Result<Option<Step>, SourceError> {
        Ok(self.inner.next(monitor)?.map(|step| match step {
            Step::Entry { entry, readable } if &*entry.name == b"busy" => {
                let (path, writes) = (self.path.clone(), self.writes.clone());
                let readable = Arc::new(BusyReadable { inner: readable, path, writes });
                Step::Entry { entry, readable }
            }
            other => other,
        }))
    }

    fn paths(&self) -> Vec<Vec<u8>> {
        self.inner.paths()
    }
}

impl Readable for BusyReadable {
    fn attributes(&self) -> std::io::Result<Vec<ExtendedAttribute>> {
        self.inner.attributes()
    }

    fn open(&self) -> std::io::Result<Box<dyn OpenFile>> {
        let (path, writes) = (self.path.clone(), self.writes.clone());
        Ok(Box::new(BusyFile { inner: self.inner.open()?, path, writes }))
    }

    fn display(&self) -> String {
        self.inner.display()
    }
}

impl OpenFile for BusyFile {
    fn stat(&self) -> std::io::Result<Option<Entry>> {
        self.inner.stat()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<usize> {
        let read = self.inner.read_at(buffer, offset)?;
        let seed = self.writes.fetch_add(1, Ordering::Relaxed);
        let length = fs::metadata(&self.path)?.len() as usize;
        fs::write(&self.path, noise(length, 1000 + seed))?;
        Ok(read)
    }

    fn next_data(&self, offset: u64, size: u64) -> std::io::Result<Option<std::ops::Range<u64>>> {
        self.inner.next_data(offset, size)
    }

    fn is_seekable(&self) -> bool {
        self.inner.is_seekable()
    }

    fn finish(&self) -> Result<(), SourceError> {
        self.inner.finish()
    }
}

fn as_tree() -> FilesOptions {
    FilesOptions { as_path: Some("/tree".parse().unwrap()), ..FilesOptions::default() }
}

/// The whole snapshot: what was invented stands at its root.
fn whole() -> RestoreOptions {
    RestoreOptions { subtree: TreePath::root(), ..restore_options() }
}

fn busy_backup(repository: &Repository, folder: &Path, length: usize) {
    let path = folder.join("busy");
    fs::write(&path, noise(length, 1)).unwrap();
    fs::write(folder.join("calm"), noise(5_000, 2)).unwrap();
    let inner = Files::new(&[folder.to_path_buf()], as_tree()).unwrap();
    let mut source = Busy { inner, path, writes: Arc::default() };
    let monitor = RecordingMonitor::default();
    let summary = backup(repository, &mut source, &options(), &monitor).unwrap();
    assert_eq!(summary.counts.problems, 1, "{:?}", monitor.problems());
    let [problem] = &monitor.problems()[..] else { panic!("{:?}", monitor.problems()) };
    assert!(problem.item.ends_with("busy") && problem.message.contains("changed"), "{problem:?}");
}

#[test]
fn a_file_that_changes_while_it_is_read_is_told_and_read_again_next_time() {
    // A small file, one that is cut, and one that is read in regions.
    for length in [500, 100_000, (32 << 20) + 5_000] {
        let folder = tempfile::tempdir().unwrap();
        let cache = tempfile::tempdir().unwrap();
        let repository = create(Store::memory(), small_settings(), Some(cache.path()));
        busy_backup(&repository, folder.path(), length);
        let calm = back_up(&repository, folder.path());
        assert_eq!(calm.counts.problems, 0);
        assert_eq!(calm.counts.files_changed, 1, "length {length}: {:?}", calm.counts);
        let (_, snapshot) = &snapshots(&repository)[1];
        let found = contents(&repository, snapshot);
        assert!(found[&b"/tree/busy"[..]] == fs::read(folder.path().join("busy")).unwrap());
    }
}

#[test]
fn a_file_that_vanishes_before_it_is_read_is_told_and_the_rest_is_saved() {
    struct Vanishing(Files, PathBuf);
    impl Source for Vanishing {
        fn next(&mut self, monitor: &dyn Monitor) -> Result<Option<Step>, SourceError> {
            let step = self.0.next(monitor)?;
            if matches!(&step, Some(Step::Entry { entry, .. }) if &*entry.name == b"gone") {
                fs::remove_file(&self.1).unwrap();
            }
            Ok(step)
        }

        fn paths(&self) -> Vec<Vec<u8>> {
            self.0.paths()
        }
    }
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("gone"), noise(500, 1)).unwrap();
    fs::write(folder.path().join("stays"), noise(500, 2)).unwrap();
    let repository = create(Store::memory(), small_settings(), None);
    let inner = Files::new(&[folder.path().to_path_buf()], as_tree()).unwrap();
    let mut source = Vanishing(inner, folder.path().join("gone"));
    let monitor = RecordingMonitor::default();
    let summary = backup(&repository, &mut source, &options(), &monitor).unwrap();
    assert_eq!(summary.counts.problems, 1);
    assert!(monitor.problems()[0].message.contains("vanished"), "{:?}", monitor.problems());
    let found = contents(&repository, &snapshots(&repository)[0].1);
    assert!(found.contains_key(&b"/tree/stays"[..]) && !found.contains_key(&b"/tree/gone"[..]));
}

/// Entries that no file system of this machine could have told.
struct Invented(VecDeque<Step>);

struct Nothing;

impl Readable for Nothing {
    fn attributes(&self) -> std::io::Result<Vec<ExtendedAttribute>> {
        Ok(Vec::new())
    }

    fn open(&self) -> std::io::Result<Box<dyn OpenFile>> {
        Err(std::io::Error::other("there is nothing to read"))
    }

    fn display(&self) -> String {
        "invented".into()
    }
}

impl Source for Invented {
    fn next(&mut self, _: &dyn Monitor) -> Result<Option<Step>, SourceError> {
        Ok(self.0.pop_front())
    }

    fn paths(&self) -> Vec<Vec<u8>> {
        vec![b"/".to_vec()]
    }
}

#[test]
fn a_name_that_the_target_refuses_costs_that_entry_only() {
    let link = |name: Vec<u8>| Step::Entry {
        entry: Entry {
            name: name.into(),
            node: Node::Symlink((*b"anywhere").into()),
            metadata: Metadata { mode: 0o777, links: 1, ..Metadata::default() },
        },
        readable: Arc::new(Nothing),
    };
    let root = Entry {
        name: Box::default(),
        node: Node::new_directory(),
        metadata: Metadata { mode: 0o755, links: 1, ..Metadata::default() },
    };
    // Linux's file systems take names of up to 255 bytes.
    let steps = [Step::Enter(root), link(b"fine".to_vec()), link(vec![b'l'; 300]), Step::Leave];
    let repository = create(Store::memory(), small_settings(), None);
    backup(&repository, &mut Invented(steps.into()), &options(), &SilentMonitor).unwrap();
    let target = tempfile::tempdir().unwrap();
    let monitor = RecordingMonitor::default();
    let snapshot = snapshots(&repository).remove(0);
    let summary = restore(&repository, &snapshot, target.path(), &whole(), &monitor).unwrap();
    assert_eq!(summary.entries_failed, 1, "{:?}", monitor.problems());
    assert!(monitor.problems()[0].item.contains("lll"), "{:?}", monitor.problems());
    assert!(fs::symlink_metadata(target.path().join("fine")).unwrap().is_symlink());
}

#[test]
fn a_target_that_may_not_be_written_is_told_before_anything_is_done() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("file"), b"content").unwrap();
    let repository = create(Store::memory(), small_settings(), None);
    back_up(&repository, folder.path());
    let snapshot = snapshots(&repository).remove(0);
    // Nobody makes folders in /proc, not even root.
    let target = Path::new("/proc/aumbry-test-target");
    let error = restore(&repository, &snapshot, target, &whole(), &SilentMonitor);
    let message = error.unwrap_err().to_string();
    assert!(message.contains("/proc/aumbry-test-target"), "{message}");
}
