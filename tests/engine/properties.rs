//! Random trees and random histories of change against a plain model: every snapshot reads back as the model
//! says, and what did not change keeps its blobs.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use aumbry::monitor::RecordingMonitor;
use aumbry::repository::Repository;
use aumbry::repository::reader::BlobReader;
use aumbry::store::Store;
use aumbry::tree::entry::{Entry, Node};
use aumbry::view::{DirectoryRoot, Entries, read_file};
use proptest::prelude::{Just, Strategy, any, prop_oneof};
use proptest::sample::Index;

use crate::model::{assert_nothing_stored_twice, create_quick, for_all, open_quick};
use crate::support::{back_up_with, noise, options, snapshots};

/// One step of a history. An `Index` picks among what there is at that moment.
#[derive(Debug, Clone)]
enum Change {
    MakeFile {
        folder: Index,
        name: Vec<u8>,
        length: usize,
        seed: u64,
    },
    MakeFolder {
        folder: Index,
        name: Vec<u8>,
    },
    MakeLink {
        folder: Index,
        name: Vec<u8>,
        target: Vec<u8>,
    },
    LinkAgain {
        file: Index,
        folder: Index,
        name: Vec<u8>,
    },
    /// Overwrites in place; with `hidden`, the old modification time is put back.
    Overwrite {
        file: Index,
        at: Index,
        length: usize,
        seed: u64,
        hidden: bool,
    },
    Append {
        file: Index,
        length: usize,
        seed: u64,
    },
    Truncate {
        file: Index,
        to: Index,
    },
    Delete {
        entry: Index,
    },
    Rename {
        entry: Index,
        folder: Index,
        name: Vec<u8>,
    },
    SetMode {
        entry: Index,
        mode: u32,
    },
    FileBecomesFolder {
        file: Index,
    },
    BackUp,
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => "[a-e]{1,2}".prop_map(String::into_bytes),
        1 => Just(b"-rf".to_vec()),
        1 => Just(b"line\nbreak".to_vec()),
        1 => Just(vec![0xff, 0xfe, b'x']),
        1 => Just("\u{e9}\u{4e2d}\u{1f980}".as_bytes().to_vec()),
        1 => Just(b" .. ".to_vec()),
        1 => Just(vec![b'n'; 255]),
        1 => proptest::collection::vec(1u8..=255, 1..9).prop_filter("no name", |name| {
            !name.contains(&b'/') && name != b"." && name != b".."
        }),
    ]
}

fn length() -> impl Strategy<Value = usize> {
    // Inline, a chunk's least and greatest length, a segment, a frame.
    let edges = [48usize, 1024, 4096, 16_384, 65_536];
    prop_oneof![
        1 => Just(0),
        2 => (0..edges.len(), 0usize..3).prop_map(move |(edge, by)| edges[edge] + by - 1),
        2 => 0usize..5000,
        1 => 0usize..90_000,
    ]
}

fn change() -> impl Strategy<Value = Change> {
    let pick = any::<Index>;
    let seed = 0u64..8;
    prop_oneof![
        6 => (pick(), name(), length(), seed.clone()).prop_map(|(folder, name, length, seed)| {
            Change::MakeFile { folder, name, length, seed }
        }),
        3 => (pick(), name()).prop_map(|(folder, name)| Change::MakeFolder { folder, name }),
        1 => (pick(), name(), name())
            .prop_map(|(folder, name, target)| Change::MakeLink { folder, name, target }),
        2 => (pick(), pick(), name())
            .prop_map(|(file, folder, name)| Change::LinkAgain { file, folder, name }),
        3 => (pick(), pick(), 1usize..6000, seed.clone(), any::<bool>()).prop_map(
            |(file, at, length, seed, hidden)| Change::Overwrite { file, at, length, seed, hidden }
        ),
        1 => (pick(), length(), seed)
            .prop_map(|(file, length, seed)| Change::Append { file, length, seed }),
        1 => (pick(), pick()).prop_map(|(file, to)| Change::Truncate { file, to }),
        1 => pick().prop_map(|entry| Change::Delete { entry }),
        2 => (pick(), pick(), name())
            .prop_map(|(entry, folder, name)| Change::Rename { entry, folder, name }),
        1 => (pick(), 0u32..0o1000)
            .prop_map(|(entry, mode)| Change::SetMode { entry, mode: mode | 0o700 }),
        1 => pick().prop_map(|file| Change::FileBecomesFolder { file }),
        3 => Just(Change::BackUp),
    ]
}

/// A file's content, shared by all its names.
#[derive(Debug, Clone)]
struct Content {
    bytes: Vec<u8>,
    mode: u32,
    modified: u64,
}

#[derive(Debug, Clone)]
enum Modelled {
    File(usize),
    Folder { mode: u32 },
    Link(Vec<u8>),
}

/// The folder as it ought to be, and what was touched since the last backup.
#[derive(Default)]
struct Model {
    entries: BTreeMap<PathBuf, Modelled>,
    contents: Vec<Content>,
    touched: BTreeSet<PathBuf>,
    time: u64,
}

impl Model {
    fn folders(&self) -> Vec<PathBuf> {
        let folders = self.entries.iter().filter(|(_, it)| matches!(it, Modelled::Folder { .. }));
        std::iter::once(PathBuf::new()).chain(folders.map(|(path, _)| path.clone())).collect()
    }

    fn pick_file(&self, index: Index) -> Option<(PathBuf, usize)> {
        let files: Vec<_> = self
            .entries
            .iter()
            .filter_map(|(path, it)| match it {
                Modelled::File(content) => Some((path.clone(), *content)),
                _ => None,
            })
            .collect();
        (!files.is_empty()).then(|| index.get(&files).clone())
    }

    fn pick_entry(&self, index: Index) -> Option<PathBuf> {
        let paths: Vec<_> = self.entries.keys().cloned().collect();
        (!paths.is_empty()).then(|| index.get(&paths).clone())
    }

    /// A path in a folder that nothing has yet.
    fn free_path(&self, folder: Index, name: &[u8]) -> Option<PathBuf> {
        let path = index_folder(&self.folders(), folder).join(OsStr::from_bytes(name));
        (!self.entries.contains_key(&path)).then_some(path)
    }

    /// An entry came, went or changed: it, and the folder whose list of names it is in.
    fn touch(&mut self, path: &Path) {
        self.touched.insert(path.into());
        self.touched.insert(path.parent().unwrap().into());
    }

    fn touch_content(&mut self, content: usize) {
        let names = self
            .entries
            .iter()
            .filter(|(_, it)| matches!(it, Modelled::File(other) if *other == content));
        let names: Vec<_> = names.map(|(path, _)| path.clone()).collect();
        names.iter().for_each(|path| self.touch(path));
    }

    /// Gives a file the next modification time, on disk and here.
    fn stamp(&mut self, file: &File, content: usize) {
        self.time += 1;
        self.contents[content].modified = self.time;
        file.set_modified(UNIX_EPOCH + Duration::from_secs(self.time)).unwrap();
    }

    fn remove(&mut self, root: &Path, path: &Path) {
        let below: Vec<_> =
            self.entries.keys().filter(|other| other.starts_with(path)).cloned().collect();
        for path in &below {
            // The link count of the other names changes, and their change time with it.
            if let Modelled::File(content) = self.entries[path] {
                self.touch_content(content);
            }
            self.touch(path);
            self.entries.remove(path);
        }
        let on_disk = root.join(path);
        if on_disk.symlink_metadata().unwrap().is_dir() {
            fs::remove_dir_all(on_disk).unwrap();
        } else {
            fs::remove_file(on_disk).unwrap();
        }
    }

    fn apply(&mut self, root: &Path, change: Change) {
        match change {
            Change::MakeFile { folder, name, length, seed } => {
                let Some(path) = self.free_path(folder, &name) else { return };
                let bytes = noise(length, seed);
                fs::write(root.join(&path), &bytes).unwrap();
                let content = self.contents.len();
                self.contents.push(Content { bytes, mode: 0o644, modified: 0 });
                let file = File::options().write(true).open(root.join(&path)).unwrap();
                file.set_permissions(Permissions::from_mode(0o644)).unwrap();
                self.stamp(&file, content);
                self.touch(&path);
                self.entries.insert(path, Modelled::File(content));
            }
            Change::MakeFolder { folder, name } => {
                let Some(path) = self.free_path(folder, &name) else { return };
                self.make_folder(root, path);
            }
            Change::MakeLink { folder, name, target } => {
                let Some(path) = self.free_path(folder, &name) else { return };
                symlink(OsStr::from_bytes(&target), root.join(&path)).unwrap();
                self.touch(&path);
                self.entries.insert(path, Modelled::Link(target));
            }
            Change::LinkAgain { file, folder, name } => {
                let Some((old, content)) = self.pick_file(file) else { return };
                let Some(path) = self.free_path(folder, &name) else { return };
                fs::hard_link(root.join(old), root.join(&path)).unwrap();
                self.entries.insert(path, Modelled::File(content));
                self.touch_content(content);
            }
            Change::Overwrite { file, at, length, seed, hidden } => {
                let Some((path, content)) = self.pick_file(file) else { return };
                let old = &mut self.contents[content];
                if old.bytes.is_empty() {
                    return;
                }
                let at = at.index(old.bytes.len());
                let length = length.min(old.bytes.len() - at);
                let bytes = noise(length, seed + 100);
                old.bytes[at..at + length].copy_from_slice(&bytes);
                let file = File::options().write(true).open(root.join(path)).unwrap();
                file.write_all_at(&bytes, at as u64).unwrap();
                if hidden {
                    let before = Duration::from_secs(self.contents[content].modified);
                    file.set_modified(UNIX_EPOCH + before).unwrap();
                } else {
                    self.stamp(&file, content);
                }
                self.touch_content(content);
            }
            Change::Append { file, length, seed } => {
                let Some((path, content)) = self.pick_file(file) else { return };
                let bytes = noise(length, seed + 200);
                let file = File::options().write(true).open(root.join(path)).unwrap();
                let end = self.contents[content].bytes.len() as u64;
                file.write_all_at(&bytes, end).unwrap();
                self.contents[content].bytes.extend_from_slice(&bytes);
                self.stamp(&file, content);
                self.touch_content(content);
            }
            Change::Truncate { file, to } => {
                let Some((path, content)) = self.pick_file(file) else { return };
                let length = to.index(self.contents[content].bytes.len() + 1);
                let file = File::options().write(true).open(root.join(path)).unwrap();
                file.set_len(length as u64).unwrap();
                self.contents[content].bytes.truncate(length);
                self.stamp(&file, content);
                self.touch_content(content);
            }
            Change::Delete { entry } => {
                let Some(path) = self.pick_entry(entry) else { return };
                self.remove(root, &path);
            }
            Change::Rename { entry, folder, name } => {
                let Some(from) = self.pick_entry(entry) else { return };
                let Some(to) = self.free_path(folder, &name) else { return };
                if to.starts_with(&from) {
                    return;
                }
                fs::rename(root.join(&from), root.join(&to)).unwrap();
                let below: Vec<_> =
                    self.entries.keys().filter(|path| path.starts_with(&from)).cloned().collect();
                for path in below {
                    let moved = self.entries.remove(&path).unwrap();
                    if let Modelled::File(content) = moved {
                        self.touch_content(content);
                    }
                    let rest = path.strip_prefix(&from).unwrap();
                    // `join` with nothing would append a separator.
                    let new = if rest.as_os_str().is_empty() { to.clone() } else { to.join(rest) };
                    self.touch(&path);
                    self.touch(&new);
                    self.entries.insert(new, moved);
                }
            }
            Change::SetMode { entry, mode } => {
                let Some(path) = self.pick_entry(entry) else { return };
                let permissions = Permissions::from_mode(mode);
                match self.entries.get_mut(&path).unwrap() {
                    Modelled::Link(_) => return,
                    Modelled::Folder { mode: old } => *old = mode,
                    Modelled::File(content) => {
                        let content = *content;
                        self.contents[content].mode = mode;
                        self.touch_content(content);
                    }
                }
                fs::set_permissions(root.join(&path), permissions).unwrap();
                self.touch(&path);
            }
            Change::FileBecomesFolder { file } => {
                let Some((path, _)) = self.pick_file(file) else { return };
                self.remove(root, &path);
                self.make_folder(root, path);
            }
            Change::BackUp => unreachable!("the history's own"),
        }
    }

    fn make_folder(&mut self, root: &Path, path: PathBuf) {
        fs::create_dir(root.join(&path)).unwrap();
        fs::set_permissions(root.join(&path), Permissions::from_mode(0o755)).unwrap();
        self.touch(&path);
        self.entries.insert(path, Modelled::Folder { mode: 0o755 });
    }
}

fn index_folder(folders: &[PathBuf], index: Index) -> &PathBuf {
    index.get(folders)
}

/// A snapshot read back: every entry by its path below the folder, with a file's bytes.
type ReadBack = BTreeMap<PathBuf, (Entry, Vec<u8>)>;

fn read_back(repository: &Repository) -> Vec<ReadBack> {
    snapshots(repository)
        .iter()
        .map(|(_, snapshot)| {
            let reader = BlobReader::new(repository, 4 << 20);
            let mut found = ReadBack::new();
            let root = DirectoryRoot::of_snapshot(snapshot);
            let tree = Entries::new(&reader, root).next().unwrap().unwrap();
            assert_eq!(&*tree.name, b"tree");
            collect(&reader, DirectoryRoot::of_entry(&tree).unwrap(), Path::new(""), &mut found);
            found.insert(PathBuf::new(), (tree, Vec::new()));
            found
        })
        .collect()
}

fn collect(reader: &BlobReader<'_>, root: DirectoryRoot, path: &Path, found: &mut ReadBack) {
    let mut last = None;
    for entry in Entries::new(reader, root) {
        let entry = entry.unwrap();
        assert!(last < Some(entry.name.clone()), "names come sorted, each once");
        last = Some(entry.name.clone());
        let path = path.join(OsStr::from_bytes(&entry.name));
        if let Some(root) = DirectoryRoot::of_entry(&entry) {
            collect(reader, root, &path, found);
        }
        let bytes = match &entry.node {
            Node::File(file) => read_file(reader, file, u64::MAX >> 1).unwrap(),
            _ => Vec::new(),
        };
        found.insert(path, (entry, bytes));
    }
}

/// What a snapshot must hold, taken from the model when the backup ran; the times of folders and links are
/// the file system's.
struct Expected {
    entries: BTreeMap<PathBuf, Modelled>,
    contents: Vec<Content>,
    folder_times: BTreeMap<PathBuf, i64>,
    touched: BTreeSet<PathBuf>,
}

impl Expected {
    fn take(model: &mut Model, root: &Path) -> Self {
        let times = model.folders().into_iter().map(|path| {
            let time = root.join(&path).symlink_metadata().unwrap().mtime();
            (path, time)
        });
        Expected {
            folder_times: times.collect(),
            entries: model.entries.clone(),
            contents: model.contents.clone(),
            touched: std::mem::take(&mut model.touched),
        }
    }

    fn check(&self, found: &ReadBack) {
        // With the root, which the model does not list.
        assert_eq!(found.len(), self.entries.len() + 1);
        let mut inodes: BTreeMap<u64, usize> = BTreeMap::new();
        for (path, wanted) in &self.entries {
            let (entry, bytes) = found.get(path).unwrap_or_else(|| panic!("{path:?} is missing"));
            let metadata = &entry.metadata;
            match (wanted, &entry.node) {
                (Modelled::Folder { mode }, Node::Directory { .. }) => {
                    assert_eq!(metadata.mode, *mode, "{path:?}");
                    assert_eq!(metadata.mtime.seconds, self.folder_times[path], "{path:?}");
                }
                (Modelled::Link(target), Node::Symlink(found)) => {
                    assert_eq!(**found, **target, "{path:?}");
                }
                (Modelled::File(number), Node::File(file)) => {
                    let content = &self.contents[*number];
                    assert!(*bytes == content.bytes, "{path:?} has other bytes");
                    assert_eq!(file.size, content.bytes.len() as u64, "{path:?}");
                    assert_eq!(metadata.mode, content.mode, "{path:?}");
                    assert_eq!(metadata.mtime.seconds, content.modified as i64, "{path:?}");
                    let names = self
                        .entries
                        .values()
                        .filter(|it| matches!(it, Modelled::File(other) if other == number));
                    assert_eq!(metadata.links, names.count() as u64, "{path:?}");
                    // One file, one inode; another file, another.
                    let first = *inodes.entry(metadata.inode).or_insert(*number);
                    assert_eq!(first, *number, "{path:?}");
                }
                (wanted, found) => panic!("{path:?} is {found:?} and should be {wanted:?}"),
            }
        }
        let files = self.entries.values().filter_map(|it| match it {
            Modelled::File(number) => Some(*number),
            _ => None,
        });
        assert_eq!(inodes.len(), files.collect::<BTreeSet<_>>().len(), "link groups");
    }

    /// Folders below which nothing was touched since `before` have the very same blobs.
    fn check_unchanged(&self, before: &ReadBack, now: &ReadBack) {
        for path in self.folder_times.keys() {
            let Some((old, _)) = before.get(path) else { continue };
            if self.touched.iter().any(|touched| touched.starts_with(path)) {
                continue;
            }
            let roots = (DirectoryRoot::of_entry(old), DirectoryRoot::of_entry(&now[path].0));
            assert_eq!(roots.0, roots.1, "{path:?} was not touched");
        }
    }
}

fn play(changes: Vec<Change>, cached: bool) {
    let source = tempfile::tempdir().unwrap();
    let cache = tempfile::tempdir().unwrap();
    let cache_folder = cached.then(|| cache.path());
    let store = Store::memory();
    let mut repository = create_quick(store.clone(), cache_folder);
    let mut model = Model::default();
    let mut expected: Vec<Expected> = Vec::new();
    for change in changes.into_iter().chain([Change::BackUp]) {
        if !matches!(change, Change::BackUp) {
            model.apply(source.path(), change);
            continue;
        }
        // A new process every time: what is known comes from the store and the cache folder.
        drop(repository);
        repository = open_quick(store.clone(), cache_folder);
        let monitor = RecordingMonitor::default();
        let summary = back_up_with(&repository, source.path(), &options(), &monitor).unwrap();
        assert_eq!(summary.counts.problems, 0, "{:?}", monitor.problems());
        expected.push(Expected::take(&mut model, source.path()));
    }
    assert_nothing_stored_twice(&repository, "a history");
    drop(repository);
    let found = read_back(&open_and_refresh(store));
    assert_eq!(found.len(), expected.len());
    for (number, (expected, found_now)) in expected.iter().zip(&found).enumerate() {
        expected.check(found_now);
        if number > 0 {
            expected.check_unchanged(&found[number - 1], found_now);
        }
    }
}

fn open_and_refresh(store: Store) -> Repository {
    let repository = open_quick(store, None);
    repository.refresh_index(&aumbry::monitor::SilentMonitor).unwrap();
    repository
}

fn histories(cached: bool) {
    let strategy = proptest::collection::vec(change(), 1..40);
    for_all(64, strategy, |changes| play(changes, cached));
}

#[test]
fn any_history_reads_back_as_the_model_says() {
    histories(false);
}

#[test]
fn any_history_with_a_cache_reads_back_as_the_model_says() {
    histories(true);
}

#[test]
fn a_large_file_with_holes_reads_back_after_every_change() {
    let source = tempfile::tempdir().unwrap();
    let path = source.path().join("image");
    let region = 32u64 << 20;
    let store = Store::memory();
    let repository = create_quick(store.clone(), None);
    let file = File::options().create_new(true).read(true).write(true).open(&path).unwrap();
    // Islands across and beside the borders of regions, in a file that ends within the third.
    file.set_len(2 * region + 70_001).unwrap();
    let islands =
        [0, 4096, region - 50_000, region, region + 1, 2 * region - 1, 2 * region + 70_000];
    let mut wanted = Vec::new();
    for (number, at) in islands.into_iter().enumerate() {
        let length = (2 * region + 70_001 - at).min(60_000) as usize;
        file.write_all_at(&noise(length, number as u64), at).unwrap();
        if number == 4 {
            // Shorter, and longer again: a hole at the end.
            file.set_len(2 * region - 7).unwrap();
            file.set_len(2 * region + 70_001).unwrap();
        }
        let summary =
            back_up_with(&repository, source.path(), &options(), &RecordingMonitor::default());
        assert_eq!(summary.unwrap().counts.problems, 0);
        wanted.push(*blake3::hash(&fs::read(&path).unwrap()).as_bytes());
    }
    let found = read_back(&open_and_refresh(store));
    for (found, wanted) in found.iter().zip(&wanted) {
        let (_, bytes) = &found[Path::new("image")];
        assert!(blake3::hash(bytes).as_bytes() == wanted, "the image has other bytes");
    }
    assert_eq!(found.len(), wanted.len());
    assert_nothing_stored_twice(&repository, "an image");
}
