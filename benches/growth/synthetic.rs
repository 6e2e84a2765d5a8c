//! A repository as a machine leaves it that is backed up every hour for a year and more, made without its data:
//! packs of data are files of the right length with nothing in them, and nobody reads those. Trees, index objects
//! and snapshots are real.
//!
//! The tree: three levels of directories, in the lowest ones 16 files each, a file of 10 blobs. Every snapshot
//! changes the last blob of one file, and so writes a directory and the three above it anew. No directory is so
//! large that a backup would cut it, so what stands here is what a backup writes.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aumbry::codec::compress::Compressor;
use aumbry::format::directory::DirectoryNode;
use aumbry::format::header::ObjectKind;
use aumbry::format::index::{Index, PackRecord};
use aumbry::format::pack::{BlobRecord, Encoding};
use aumbry::format::session::{Purpose, Session};
use aumbry::format::snapshot::{BackupCounts, Decision, Snapshot};
use aumbry::id::{BlobId, IndexId, PackId, SessionId};
use aumbry::monitor::{Monitor, SilentMonitor};
use aumbry::ops::backup::backup;
use aumbry::repository::Repository;
use aumbry::repository::packer::PackBuilder;
use aumbry::repository::writer::Writer;
use aumbry::source::{Source, SourceError, Step};
use aumbry::store::layout;
use aumbry::tree::entry::{Content, Entry, Extent, FileContent, Metadata, Node, Owner};
use aumbry::units::Timestamp;

use crate::common::{MemoryFile, MemoryFiles, backup_options, blob_id, blob_length, noise, pack};

const BLOBS_IN_FILE: u64 = 10;
const FILES_IN_DIRECTORY: u64 = 16;
/// As many as prune's merging puts into an index object, and a writer.
const BLOBS_IN_OBJECT: u64 = 100_000;
/// The last blobs of changed files have numbers from here on.
const CHANGED: u64 = 1 << 40;
/// Blobs that nobody needs.
const GARBAGE: u64 = 1 << 41;
/// Steps through the files in an order that looks like none.
const STRIDE: u64 = 1_000_003;
/// Files of the other, small tree in the repository.
const SMALL_FILES: usize = 1000;
/// What it is recorded as coming from.
pub const SMALL_HOST: &str = "small";

/// How large all is.
#[derive(Clone, Copy)]
pub struct Size {
    /// Blobs in the index, but for those of later snapshots.
    pub blobs: u64,
    /// So many of them belong to the tree; nobody needs the others.
    pub needed: u64,
    /// Snapshots.
    pub snapshots: u64,
}

/// The large tree after so many snapshots.
pub struct Tree {
    directories: u64,
    /// Directories in each directory of the two upper levels.
    fan: u64,
    /// Which snapshot changed a file last.
    versions: HashMap<u64, u64>,
    owner: Arc<Owner>,
}

impl Tree {
    pub fn new(size: Size, snapshots: u64) -> Self {
        let directories = (size.needed / BLOBS_IN_FILE / FILES_IN_DIRECTORY).max(1);
        let mut tree = Tree {
            directories,
            fan: (directories as f64).cbrt().ceil() as u64,
            versions: HashMap::new(),
            owner: Arc::new(Owner { uid: 0, gid: 0, user: "root".into(), group: "root".into() }),
        };
        for snapshot in 1..=snapshots {
            tree.change(snapshot);
        }
        tree
    }

    pub fn files(&self) -> u64 {
        self.directories * FILES_IN_DIRECTORY
    }

    /// The file that a snapshot changes, changed.
    pub fn change(&mut self, snapshot: u64) -> u64 {
        let file = snapshot * STRIDE % self.files();
        self.versions.insert(file, snapshot);
        file
    }

    /// The path of a file.
    pub fn path(&self, file: u64) -> String {
        let (directory, place) = (file / FILES_IN_DIRECTORY, file % FILES_IN_DIRECTORY);
        let (a, b, c) = self.places(directory);
        format!("/{a:04}/{b:04}/{c:04}/{place:04}")
    }

    fn places(&self, directory: u64) -> (u64, u64, u64) {
        let above = directory / self.fan;
        (above / self.fan, above % self.fan, directory % self.fan)
    }

    fn metadata(&self, version: u64, inode: u64) -> Metadata {
        let time = Timestamp { seconds: 1_700_000_000 + version as i64 * 3600, nanoseconds: 7 };
        Metadata {
            mode: 0o644,
            owner: self.owner.clone(),
            mtime: time,
            ctime: time,
            birth: None,
            inode,
            device: 1,
            links: 1,
            attributes: Vec::new(),
        }
    }

    fn blobs(&self, file: u64) -> impl Iterator<Item = u64> {
        let version = self.versions.get(&file).copied();
        let first = file * BLOBS_IN_FILE;
        let last = version.map_or(first + BLOBS_IN_FILE - 1, |version| CHANGED | version);
        (first..first + BLOBS_IN_FILE - 1).chain([last])
    }

    /// A file as the walk finds it: without its content.
    fn found(&self, file: u64) -> Entry {
        let size = self.blobs(file).map(|number| u64::from(blob_length(number))).sum();
        let version = self.versions.get(&file).copied().unwrap_or(0);
        let content = Content::Extents(Vec::new());
        Entry {
            name: format!("{:04}", file % FILES_IN_DIRECTORY).into_bytes().into(),
            node: Node::File(FileContent { size, content, digest: None }),
            metadata: self.metadata(version, file + 100),
        }
    }

    fn stored(&self, file: u64) -> Entry {
        let mut entry = self.found(file);
        let extent =
            |number| Extent::Data { blob: blob_id(number), length: u64::from(blob_length(number)) };
        let content = Content::Extents(self.blobs(file).map(extent).collect());
        let digest = Some(*blob_id(file << 20).as_bytes());
        entry.node = Node::File(FileContent { size: entry.size(), content, digest });
        entry
    }

    fn directory(&self, place: Option<u64>) -> Entry {
        let name = place.map(|place| format!("{place:04}").into_bytes().into()).unwrap_or_default();
        Entry { name, node: Node::new_directory(), metadata: self.metadata(0, 1) }
    }

    fn lowest(&self, directory: u64) -> Vec<u8> {
        let first = directory * FILES_IN_DIRECTORY;
        let files = (first..first + FILES_IN_DIRECTORY).map(|file| self.stored(file));
        DirectoryNode::Leaf(files.collect()).encode()
    }

    fn upper(&self, below: &[BlobId]) -> Vec<u8> {
        let entries = below.iter().zip(0..).map(|(blob, place)| Entry {
            node: Node::Directory { root: *blob, height: 0 },
            ..self.directory(Some(place))
        });
        DirectoryNode::Leaf(entries.collect()).encode()
    }
}

/// The ids of all directories as the last snapshot has them: the lowest level first, the root last.
struct Levels([Vec<BlobId>; 4]);

impl Levels {
    /// Stores what changed when a file of this directory did, node by node.
    fn update(&mut self, tree: &Tree, directory: u64, mut put: impl FnMut(&[u8]) -> BlobId) {
        let mut at = directory as usize;
        self.0[0][at] = put(&tree.lowest(directory));
        for level in 1..4 {
            let fan = if level == 3 { usize::MAX } else { tree.fan as usize };
            let below = &self.0[level - 1];
            at = if level == 3 { 0 } else { at / fan };
            let end = below.len().min(at.saturating_add(1).saturating_mul(fan));
            self.0[level][at] = put(&tree.upper(&below[at * fan.min(end)..end]));
        }
    }

    fn all(tree: &Tree, mut put: impl FnMut(&[u8]) -> BlobId) -> Self {
        let lowest: Vec<_> =
            (0..tree.directories).map(|number| put(&tree.lowest(number))).collect();
        let mut levels = [lowest, Vec::new(), Vec::new(), Vec::new()];
        for level in 1..3 {
            let nodes = levels[level - 1].chunks(tree.fan as usize);
            levels[level] = nodes.map(|below| put(&tree.upper(below))).collect();
        }
        levels[3] = vec![put(&tree.upper(&levels[2]))];
        Levels(levels)
    }

    fn root(&self) -> BlobId {
        self.0[3][0]
    }
}

/// Makes the repository. `folder` is the store's.
pub struct Building<'a> {
    repository: &'a Repository,
    folder: PathBuf,
    size: Size,
}

impl<'a> Building<'a> {
    pub fn new(repository: &'a Repository, folder: &Path, size: Size) -> Self {
        Building { repository, folder: folder.to_path_buf(), size }
    }

    pub fn run(&self) {
        let start = self.repository.environment().clock.now().seconds
            - (self.size.snapshots as i64 + 2) * 3600;
        let mut tree = Tree::new(self.size, 0);
        let writer = Writer::begin(self.repository, false, &SilentMonitor).unwrap();
        let mut trees = writer.segments(ObjectKind::TreePack).unwrap();
        let mut levels = Levels::all(&tree, |node| trees.put(node).unwrap().0);
        trees.flush().unwrap();
        drop(trees);
        writer.finish().unwrap();
        writer.commit(self.snapshot(&levels, start, None)).unwrap();
        let mut small = small_tree(0);
        let options =
            aumbry::ops::backup::BackupOptions { host: SMALL_HOST.into(), ..backup_options(false) };
        backup(self.repository, &mut small, &options, &SilentMonitor).unwrap();

        self.list_data(0, self.size.blobs, 1);
        self.list_data(GARBAGE, 300, 2);
        let mut before = None;
        for number in 1..self.size.snapshots {
            let directory = tree.change(number) / FILES_IN_DIRECTORY;
            let time = start + number as i64 * 3600;
            before = Some(self.add_snapshot(&tree, &mut levels, directory, number, time, before));
        }
    }

    /// An object, without waiting for the disk.
    fn put(&self, name: &str, object: &[u8]) {
        let path = self.folder.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, object).unwrap();
    }

    fn seal(&self, kind: ObjectKind, name: &str, payload: Vec<u8>) -> Vec<u8> {
        let object = self.repository.seal(kind, name, payload).unwrap();
        self.put(name, &object);
        object
    }

    fn data_pack(&self, id: PackId, next: &mut u64, end: u64) -> PackRecord {
        let record = pack(self.repository.id(), id, next, end);
        let path = self.folder.join(layout::pack(id));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        File::create(path).unwrap().set_len(record.object_length).unwrap();
        record
    }

    /// Packs of these blobs, and the index objects that list them.
    fn list_data(&self, first: u64, count: u64, seed: u64) {
        let (mut next, end) = (first, first + count);
        for number in 0.. {
            if next == end {
                break;
            }
            let object_end = end.min(next + BLOBS_IN_OBJECT);
            let session = session(seed << 56 | number);
            let mut packs = Vec::new();
            for number in 0.. {
                if next == object_end {
                    break;
                }
                packs.push(self.data_pack(PackId { session, number }, &mut next, object_end));
            }
            self.list(session, packs);
            self.register(session, 0);
            let name = layout::snapshot(session);
            self.seal(ObjectKind::Snapshot, &name, Decision::Abort.encode());
        }
    }

    fn list(&self, session: SessionId, packs: Vec<PackRecord>) {
        let name = layout::index(IndexId { session, number: 0 });
        self.seal(ObjectKind::Index, &name, Index { superseded: Vec::new(), packs }.encode());
    }

    fn register(&self, id: SessionId, seconds: i64) {
        let said = Session {
            purpose: Purpose::Write,
            host: "bench".into(),
            user: "bench".into(),
            time: Timestamp { seconds, nanoseconds: 0 },
        };
        self.seal(ObjectKind::Session, &layout::session(id), said.encode());
    }

    /// What an hourly backup leaves: a pack of trees, one of data, index object, registration, snapshot. Returns the
    /// snapshot's hash.
    fn add_snapshot(
        &self,
        tree: &Tree,
        levels: &mut Levels,
        directory: u64,
        number: u64,
        seconds: i64,
        before: Option<[u8; 32]>,
    ) -> [u8; 32] {
        let (mut plain, mut blobs) = (Vec::new(), Vec::new());
        levels.update(tree, directory, |node| {
            let id = self.repository.naming().tree_id(node);
            blobs.push(BlobRecord { id, length: node.len() as u32 });
            plain.extend_from_slice(node);
            id
        });
        let settings = self.repository.settings();
        let level = settings.compression_level;
        let mut compressor = Compressor::new(level, plain.len()).unwrap();
        let mut compressed = Vec::new();
        let (stored, encoding) = match compressor.compress(&plain, &mut compressed).unwrap() {
            true => (compressed, Encoding::Zstd),
            false => (plain, Encoding::Stored),
        };
        let session = session(3 << 56 | number);
        let id = PackId { session, number: 0 };
        let name = layout::pack(id);
        let mut builder = PackBuilder::new(stored.len()).with_parity(settings.parity_percent);
        builder.push(&stored, encoding, blobs);
        let sealer = self.repository.sealer();
        let randomness = self.repository.environment().chance.bytes().unwrap();
        let (object, record) =
            builder.finish(sealer, ObjectKind::TreePack, id, &name, &randomness).unwrap();
        self.put(&name, &object);
        let mut next = CHANGED | number;
        let data = self.data_pack(PackId { session, number: 1 }, &mut next, (CHANGED | number) + 1);
        self.list(session, vec![record, data]);
        self.register(session, seconds);
        let snapshot = Decision::Snapshot(Box::new(self.snapshot(levels, seconds, before)));
        let name = layout::snapshot(session);
        let object = self.seal(ObjectKind::Snapshot, &name, snapshot.encode());
        *blake3::hash(&object).as_bytes()
    }

    fn snapshot(&self, levels: &Levels, seconds: i64, predecessor: Option<[u8; 32]>) -> Snapshot {
        Snapshot {
            root: levels.root(),
            height: 0,
            time: Timestamp { seconds, nanoseconds: 0 },
            zone_offset_seconds: 0,
            end_time: Timestamp { seconds: seconds + 9, nanoseconds: 0 },
            host: "bench".into(),
            user: "bench".into(),
            paths: vec![b"/data".to_vec()],
            tags: Vec::new(),
            name: String::new(),
            parent: None,
            program: "bench".into(),
            counts: BackupCounts::default(),
            predecessor,
            repaired: None,
            copied: None,
            signature: None,
        }
    }
}

fn session(number: u64) -> SessionId {
    let mut random = [0; 16];
    random.copy_from_slice(&blob_id(number ^ 0xabcd << 40).as_bytes()[..16]);
    SessionId { generation: 0, random }
}

/// The small tree; with a change, one of its files has another length.
pub fn small_tree(change: usize) -> MemoryFiles {
    let file = |number: usize| {
        let more = if number == SMALL_FILES / 2 { change } else { 0 };
        noise(20_000 + more, number as u64)
    };
    MemoryFiles::new(Arc::new((0..SMALL_FILES).map(file).collect()))
}

/// A walk over the large tree; the file that changed last is read, and is 60 000 bytes of noise.
pub struct TreeSource {
    tree: Tree,
    changed: u64,
    next: u64,
    /// The directories that are open, below the root.
    open: Vec<u64>,
    rooted: bool,
    ended: bool,
}

impl TreeSource {
    /// After so many snapshots, and one more change.
    pub fn new(size: Size, snapshots: u64) -> Self {
        let mut tree = Tree::new(size, snapshots);
        let changed = tree.change(snapshots + 1);
        TreeSource { tree, changed, next: 0, open: Vec::new(), rooted: false, ended: false }
    }
}

impl Source for TreeSource {
    fn next(&mut self, _: &dyn Monitor) -> Result<Option<Step>, SourceError> {
        let tree = &self.tree;
        if !self.rooted {
            self.rooted = true;
            return Ok(Some(Step::Enter(tree.directory(None))));
        }
        let wanted = (self.next < tree.files()).then(|| {
            let (a, b, c) = tree.places(self.next / FILES_IN_DIRECTORY);
            [a, b, c]
        });
        let fits = wanted.is_some_and(|wanted| wanted.starts_with(&self.open));
        if !fits {
            if self.open.pop().is_none() {
                self.ended = !std::mem::replace(&mut self.ended, true);
                return Ok(self.ended.then_some(Step::Leave));
            }
            return Ok(Some(Step::Leave));
        }
        if let Some(place) = wanted.and_then(|wanted| wanted.get(self.open.len()).copied()) {
            self.open.push(place);
            return Ok(Some(Step::Enter(tree.directory(Some(place)))));
        }
        let mut entry = tree.found(self.next);
        let mut bytes = Vec::new();
        if self.next == self.changed {
            bytes = noise(60_000, self.changed);
            let content = Content::Extents(Vec::new());
            entry.node = Node::File(FileContent { size: 60_000, content, digest: None });
        }
        self.next += 1;
        let file = MemoryFile::new(entry.clone(), bytes);
        Ok(Some(Step::Entry { entry, readable: Arc::new(file) }))
    }

    fn paths(&self) -> Vec<Vec<u8>> {
        vec![b"/data".to_vec()]
    }
}
