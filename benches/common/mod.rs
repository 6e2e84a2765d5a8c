//! What the benchmarks share: repositories to measure on, and bytes like those people have.

#![allow(dead_code, clippy::unwrap_used, clippy::panic)]

use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use aumbry::clock::SystemClock;
use aumbry::codec::kdf::Argon2Cost;
use aumbry::format::config::Settings;
use aumbry::format::header::{Header, ObjectKind};
use aumbry::format::index::{Index, PackRecord};
use aumbry::format::pack::{BlobRecord, Encoding, PackDirectory};
use aumbry::id::{BlobId, IndexId, PackId, RepositoryId, SessionId};
use aumbry::monitor::Monitor;
use aumbry::ops::backup::{BackupOptions, ChangeDetection, Deltas};
use aumbry::ops::restore::{Overwrite, RestoreOptions};
use aumbry::repository::chance::Chance;
use aumbry::repository::keys::Credential;
use aumbry::repository::{CreateOptions, Environment, Repository};
use aumbry::source::{OpenFile, Readable, Source, SourceError, Step};
use aumbry::store::{Store, layout};
use aumbry::tree::entry::{Content, Entry, ExtendedAttribute, FileContent, Metadata, Node, Owner};
use aumbry::tree::filter::{ExcludeFilter, IncludeFilter};
use aumbry::tree::path::TreePath;
use aumbry::units::Timestamp;
use criterion::Criterion;
use tempfile::TempDir;

/// The passphrase of every repository here.
pub fn passphrase() -> Credential {
    Credential::Passphrase(String::from("correct horse battery staple").into())
}

/// An environment with or without a cache folder.
pub fn environment(cache_folder: Option<&Path>) -> Environment {
    Environment {
        clock: Arc::new(SystemClock::new()),
        chance: Chance::System,
        cache_folder: cache_folder.map(Path::to_path_buf),
        host: "bench".into(),
        user: "bench".into(),
    }
}

/// A new repository in `store`, its key slot as cheap as it may be.
pub fn create(store: Store, cache_folder: Option<&Path>) -> Repository {
    create_with(store, Settings::DEFAULT, cache_folder)
}

/// The same with other settings.
pub fn create_with(store: Store, settings: Settings, cache_folder: Option<&Path>) -> Repository {
    let cost = Some(Argon2Cost::FLOOR);
    let options = CreateOptions { settings, cost, ..CreateOptions::default() };
    Repository::create(store, &options, &passphrase(), environment(cache_folder)).unwrap()
}

/// Bytes that do not compress.
pub fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; length];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    hasher.finalize_xof().fill(&mut bytes);
    bytes
}

/// Text that zstd shrinks five times, as source code: words whose frequency falls with their number, and now and
/// then a stretch of what was said before.
pub fn text(length: usize, seed: u64) -> Vec<u8> {
    let random = noise(length, seed ^ 0x5eed);
    let mut words = Vec::new();
    for number in 0..4096u32 {
        let hash = blake3::hash(&number.to_le_bytes());
        let letters = 2 + hash.as_bytes()[0] as usize % 9;
        let word = hash.as_bytes()[1..=letters].iter().map(|byte| b'a' + byte % 26);
        words.push(word.collect::<Vec<u8>>());
    }
    let mut bytes: Vec<u8> = Vec::with_capacity(length + 256);
    let mut last: [usize; 8] = [0; 8];
    // The noise lasts: words are longer than four bytes on average.
    for numbers in random.as_chunks::<4>().0 {
        let [a, b, c, d] = numbers.map(usize::from);
        if bytes.len() >= length {
            break;
        }
        if d < 24 && bytes.len() > 4096 {
            let back = 200 + (a * 256 + b) % (bytes.len() - 200).min(65_000);
            let start = bytes.len() - back;
            bytes.extend_from_within(start..start + 24 + c / 2);
            continue;
        }
        // A product favours small numbers, and every other word was said just now.
        let word = if d & 1 == 0 { last[d >> 5] } else { (a * b * c) >> 12 };
        last[(d >> 1) % 8] = word;
        bytes.extend_from_slice(&words[word]);
        bytes.push(if d % 11 == 0 { b'\n' } else { b' ' });
    }
    bytes.truncate(length);
    assert_eq!(bytes.len(), length);
    bytes
}

/// The id of the blob with this number.
pub fn blob_id(number: u64) -> BlobId {
    BlobId(*blake3::hash(&number.to_le_bytes()).as_bytes())
}

/// How long it is, in bytes: as chunks are, 16 to 126 KiB.
pub fn blob_length(number: u64) -> u32 {
    (16 << 10) + (number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u32 * 432
}

/// Puts index objects into the store that list blobs `first..first + count`, which exist nowhere: packs of 16 MiB
/// of segments of 2 MiB, 30 blobs or so in each. Returns the bytes of the objects.
pub fn write_indexes(
    repository: &Repository,
    session: SessionId,
    first: u64,
    count: u64,
    blobs_in_object: u64,
) -> u64 {
    let mut written = 0;
    let mut pack_number = 0;
    let (mut next, end) = (first, first + count);
    for number in 0.. {
        if next == end {
            break;
        }
        let object_end = end.min(next + blobs_in_object);
        let mut packs = Vec::new();
        while next < object_end {
            let id = PackId { session, number: pack_number };
            pack_number += 1;
            packs.push(pack(repository.id(), id, &mut next, object_end));
        }
        let id = IndexId { session, number };
        let name = layout::index(id);
        let index = Index { superseded: Vec::new(), packs };
        let object = repository.seal(ObjectKind::Index, &name, index.encode()).unwrap();
        written += object.len() as u64;
        repository.store().create(&name, object).unwrap();
    }
    written
}

/// A pack of the blobs from `next` on, at most up to `end`.
pub fn pack(repository: RepositoryId, id: PackId, next: &mut u64, end: u64) -> PackRecord {
    let mut directory = PackDirectory::default();
    while *next < end && directory.body_length() < 16 << 20 {
        let mut blobs = Vec::new();
        let mut plain = 0;
        while *next < end && plain < 2 << 20 {
            let id = blob_id(*next);
            let length = blob_length(*next);
            blobs.push(BlobRecord { id, length });
            plain += length;
            *next += 1;
        }
        directory.push(plain / 4 * 3, Encoding::Zstd, blobs);
    }
    let header = Header {
        version: 1,
        kind: ObjectKind::DataPack,
        epoch: 1,
        repository,
        parity: None,
        salt: [2; 32],
        commitment: [3; 32],
    };
    PackRecord { id, header, object_length: directory.body_length() + (64 << 10), directory }
}

/// How every benchmark measures: few samples, so that all together take minutes.
pub fn criterion() -> Criterion {
    Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(3))
}

/// A folder in memory where the system has such; else on the disk. ext4 takes five times as long to make files
/// where others were deleted seconds ago, as a benchmark does and people do not.
pub fn folder_in_memory() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// What the system says of this process's memory at its peak, in MiB.
pub fn peak_mebibytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() >> 10
}

/// Which bytes a benchmark works on.
#[derive(Clone, Copy)]
pub enum Bytes {
    /// Like source code.
    Text,
    /// Like photographs.
    Random,
}

impl Bytes {
    /// A word for it.
    pub fn name(self) -> &'static str {
        match self {
            Bytes::Text => "text",
            Bytes::Random => "random",
        }
    }

    /// So many of them.
    pub fn make(self, length: usize, seed: u64) -> Vec<u8> {
        match self {
            Bytes::Text => text(length, seed),
            Bytes::Random => noise(length, seed),
        }
    }
}

/// Options for backing everything up; a dry run stores nothing, so that it can be repeated.
pub fn backup_options(dry_run: bool) -> BackupOptions {
    BackupOptions {
        parent: None,
        detection: ChangeDetection::default(),
        host: "bench".into(),
        user: "bench".into(),
        name: String::new(),
        tags: Vec::new(),
        time: None,
        zone_offset_seconds: 0,
        deltas: Deltas::Auto,
        dry_run,
        skip_if_unchanged: false,
        program: "bench".into(),
        memory_budget: 256 << 20,
    }
}

/// Everything, wherever it was.
pub fn restore_options() -> RestoreOptions {
    RestoreOptions {
        subtree: TreePath::root(),
        include: IncludeFilter::new(&[]).unwrap(),
        exclude: ExcludeFilter::default(),
        overwrite: Overwrite::Always,
        delete: false,
        dry_run: false,
        sparse: false,
        verify: false,
        memory_budget: 256 << 20,
    }
}

/// A source of files that lie in memory, all in one directory.
pub struct MemoryFiles {
    files: Arc<Vec<Vec<u8>>>,
    metadata: Metadata,
    next: usize,
}

impl MemoryFiles {
    /// A walk over these files.
    pub fn new(files: Arc<Vec<Vec<u8>>>) -> Self {
        let owner = Owner { uid: 0, gid: 0, user: "root".into(), group: "root".into() };
        let metadata = Metadata {
            mode: 0o755,
            owner: Arc::new(owner),
            mtime: Timestamp { seconds: 1_790_000_000, nanoseconds: 0 },
            ctime: Timestamp { seconds: 1_790_000_000, nanoseconds: 0 },
            birth: None,
            inode: 1,
            device: 1,
            links: 1,
            attributes: Vec::new(),
        };
        MemoryFiles { files, metadata, next: 0 }
    }
}

impl Source for MemoryFiles {
    fn next(&mut self, _: &dyn Monitor) -> Result<Option<Step>, SourceError> {
        let step = self.next;
        self.next += 1;
        let metadata = self.metadata.clone();
        if step == 0 {
            let node = Node::new_directory();
            return Ok(Some(Step::Enter(Entry { name: Box::default(), node, metadata })));
        }
        let Some(bytes) = self.files.get(step - 1) else {
            return Ok((step == self.files.len() + 1).then_some(Step::Leave));
        };
        let content = Content::Extents(Vec::new());
        let node = Node::File(FileContent { size: bytes.len() as u64, content, digest: None });
        let name = format!("{step:08}").into_bytes().into();
        let entry = Entry { name, node, metadata };
        let files = self.files.clone();
        let file = MemoryFile { entry: entry.clone(), files, number: step - 1 };
        Ok(Some(Step::Entry { entry, readable: Arc::new(file) }))
    }

    fn paths(&self) -> Vec<Vec<u8>> {
        vec![b"/".to_vec()]
    }
}

/// A file that lies in memory.
#[derive(Clone)]
pub struct MemoryFile {
    entry: Entry,
    files: Arc<Vec<Vec<u8>>>,
    number: usize,
}

impl MemoryFile {
    /// A file with these bytes.
    pub fn new(entry: Entry, bytes: Vec<u8>) -> Self {
        MemoryFile { entry, files: Arc::new(vec![bytes]), number: 0 }
    }
}

impl Readable for MemoryFile {
    fn attributes(&self) -> io::Result<Vec<ExtendedAttribute>> {
        Ok(Vec::new())
    }

    fn open(&self) -> io::Result<Box<dyn OpenFile>> {
        Ok(Box::new(self.clone()))
    }

    fn display(&self) -> String {
        String::from_utf8_lossy(&self.entry.name).into_owned()
    }
}

impl OpenFile for MemoryFile {
    fn stat(&self) -> io::Result<Option<Entry>> {
        Ok(Some(self.entry.clone()))
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let rest = self.files[self.number].get(offset as usize..).unwrap_or_default();
        let length = rest.len().min(buffer.len());
        buffer[..length].copy_from_slice(&rest[..length]);
        Ok(length)
    }

    fn next_data(&self, offset: u64, size: u64) -> io::Result<Option<Range<u64>>> {
        Ok((offset < size).then_some(offset..size))
    }

    fn is_seekable(&self) -> bool {
        true
    }

    fn finish(&self) -> Result<(), SourceError> {
        Ok(())
    }
}
