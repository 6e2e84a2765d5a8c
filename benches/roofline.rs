//! Each step on a folder of one's own, beside what the same bytes cost when nothing but the unavoidable is done to them,
//! on all cores.
//!
//! `cargo bench --bench roofline -- FOLDER [NEXT_FOLDER]`; the store and the limit's packs go to the folder for temporary
//! files, what is restored into memory. NEXT_FOLDER is a later version and takes FOLDER's place: all its files have
//! other inodes, so all are read.
//!
//! | step | its limit |
//! |---|---|
//! | first | list and `statx`; open, read and close every file; cut; name every chunk; digest files of more than one chunk; compress, seal, write and sync what is new, in segments and packs of the default lengths |
//! | unchanged | list and `statx` |
//! | next | as first; chunks that FOLDER has are cut and named only; no deltas |
//! | restore | read the limit's packs, unseal, decompress, name every chunk once; make directories; open, write, set the time of and close every file |
//! | verify | the same without the files |
//!
//! What is a chunk's first occurrence, what lies where, and which holes files have, the limit is told beforehand.
//! There are no trees, index, sessions or queues in it, and no metadata but a time. Segments that the engine's probe finds incompressible are
//! stored plain in both. A step begins with opening the repository, with a recovery key, which is not stretched. forget and prune are
//! left out: what they cost is latency.
//!
//! Both take turns three times in one process, and the best counts: wall seconds, and of the processor's time (in
//! ticks of 10 ms) all, and the kernel's.

#![allow(clippy::unwrap_used, clippy::panic, clippy::disallowed_methods)]

mod common;

use std::collections::HashMap;
use std::ffi::CString;
use std::fs::{self, File};
use std::hint::black_box;
use std::io::Write as _;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Mutex, MutexGuard};
use std::thread;
use std::time::Instant;

use aumbry::codec::chunker::{Chunker, ChunkerParams};
use aumbry::codec::cipher::{FRAME_LENGTH, FrameCipher, SEALED_FRAME_LENGTH, TAG_LENGTH};
use aumbry::codec::compress::{Compressor, Decompressor};
use aumbry::codec::digest::NamingKeys;
use aumbry::format::config::Settings;
use aumbry::id::BlobId;
use aumbry::monitor::SilentMonitor;
use aumbry::ops::backup::{BackupOptions, Deltas, backup};
use aumbry::ops::check::{CheckOptions, DataSelection, check};
use aumbry::ops::restore::{RestoreOptions, restore};
use aumbry::repository::keys::Credential;
use aumbry::repository::{CreateOptions, Repository};
use aumbry::source::files::{Files, FilesOptions};
use aumbry::store::{LocalMode, Store};
use aumbry::tree::path::TreePath;
use rayon::iter::{IntoParallelRefIterator, ParallelIterator};
use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, SeekFrom, StatxFlags, Timespec, Timestamps,
    futimens, openat, seek, statx,
};

use crate::common::{backup_options, environment, folder_in_memory, restore_options};

const ROUNDS: usize = 3;
const SETTINGS: Settings = Settings::DEFAULT;
const SEGMENT_LENGTH: usize = SETTINGS.segment_length as usize;
const CHUNK_MAXIMUM: usize = SETTINGS.chunk_maximum as usize;
/// As the command line has it.
const MEMORY_BUDGET: u64 = 256 << 20;
/// Bytes that are read at a time, bytes that a core takes at a time, and where large files are divided: as the engine.
const WINDOW: usize = 1 << 20;
const BATCH: u64 = 1 << 20;
const REGION: u64 = 32 << 20;
/// Threads that write packs.
const UPLOADS: usize = 2;

fn main() {
    let folders: Vec<PathBuf> = std::env::args_os()
        .skip(1)
        .filter(|word| !word.as_encoded_bytes().starts_with(b"--"))
        .map(|word| fs::canonicalize(word).unwrap())
        .collect();
    match &folders[..] {
        [] => println!("roofline: skipped; `-- FOLDER [NEXT_FOLDER]` runs it on a folder"),
        [first] => run(first, None),
        [first, next] => run(first, Some(next)),
        _ => panic!("one folder, or two"),
    }
}

fn run(first: &Path, next: Option<&Path>) {
    let limit = Limit::new();
    let first_tree = Tree::list(first);
    let first_plan = limit.plan(&first_tree, None);
    let next = next.map(|path| {
        let tree = Tree::list(path);
        let plan = limit.plan(&tree, Some(&first_plan));
        (path, tree, plan)
    });
    let bytes: u64 = first_tree.files.iter().map(|file| file.size).sum();
    println!("{}: {} MB in {} files", first.display(), bytes / 1_000_000, first_tree.files.len());

    let mut rows = Rows::default();
    for _ in 0..ROUNDS {
        let product = Product::new();
        let packs = tempfile::tempdir().unwrap();
        let mut segments = Vec::new();
        rows.product("first", || product.backup(first, Deltas::Auto));
        rows.limit("first", || {
            Tree::list(first);
            segments = limit.store(&first_tree, &first_plan, packs.path());
        });
        rows.product("unchanged", || product.backup(first, Deltas::Auto));
        rows.limit("unchanged", || {
            Tree::list(first);
        });
        let target = folder_in_memory();
        rows.product("restore", || product.restore(target.path()));
        drop(target);
        let target = folder_in_memory();
        let writes: Vec<_> = segments.iter().map(|segment| first_plan.writes(segment)).collect();
        let restored: Vec<_> = segments.iter().zip(&writes).collect();
        rows.limit("restore", || {
            limit.restore(&first_tree, &first_plan, &restored, packs.path(), target.path());
        });
        drop(target);
        rows.product("verify", || product.verify());
        rows.limit("verify", || limit.verify(&first_plan, &segments, packs.path()));
        if let Some((path, tree, plan)) = &next {
            let packs = tempfile::tempdir().unwrap();
            let without = Product::new();
            without.backup(first, Deltas::Auto);
            rows.product("next", || product.backup(path, Deltas::Auto));
            rows.product("next, no deltas", || without.backup(path, Deltas::Never));
            rows.limit("next", || {
                Tree::list(path);
                limit.store(tree, plan, packs.path());
            });
            rows.same_limit("next, no deltas", "next");
        }
    }
    rows.print();
}

/// A key that is not stretched.
fn credential() -> Credential {
    Credential::Recovery([7; 32].into())
}

/// The engine, with a repository of its own.
struct Product {
    folder: tempfile::TempDir,
}

impl Product {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::local(&folder.path().join("store"), LocalMode::Create).unwrap();
        let options = CreateOptions::default();
        Repository::create(store, &options, &credential(), environment(None)).unwrap();
        Product { folder }
    }

    fn open(&self) -> Repository {
        let store = Store::local(&self.folder.path().join("store"), LocalMode::Open).unwrap();
        let environment = environment(Some(&self.folder.path().join("cache")));
        Repository::open(store, &credential(), environment).unwrap()
    }

    fn backup(&self, path: &Path, deltas: Deltas) {
        let as_path = Some(TreePath::parse(b"/live").unwrap());
        let options = FilesOptions { as_path, ..FilesOptions::default() };
        let mut source = Files::new(&[path.to_path_buf()], options).unwrap();
        let options =
            BackupOptions { deltas, memory_budget: MEMORY_BUDGET, ..backup_options(false) };
        let summary = backup(&self.open(), &mut source, &options, &SilentMonitor).unwrap();
        assert_eq!(summary.counts.problems, 0);
    }

    fn restore(&self, target: &Path) {
        let options = RestoreOptions { memory_budget: MEMORY_BUDGET, ..restore_options() };
        let repository = self.open();
        let snapshot = repository.snapshots(&SilentMonitor).unwrap().all.pop().unwrap();
        let summary = restore(&repository, &snapshot, target, &options, &SilentMonitor).unwrap();
        assert_eq!((summary.entries_failed, summary.metadata_failed), (0, 0));
    }

    fn verify(&self) {
        let options = CheckOptions {
            data: DataSelection::All,
            restore_sample: 0,
            share_ledger: false,
            memory_budget: MEMORY_BUDGET,
        };
        let summary = check(&self.open(), &options, &SilentMonitor).unwrap();
        assert!(summary.damage.is_empty());
    }
}

/// What a folder holds, parents before what is in them.
#[derive(Default)]
struct Tree {
    root: PathBuf,
    /// Paths from the root.
    directories: Vec<PathBuf>,
    files: Vec<FoundFile>,
}

struct FoundFile {
    directory: usize,
    name: CString,
    size: u64,
}

/// A directory while it is listed.
struct Listed {
    name: CString,
    files: Vec<(CString, u64)>,
    below: Vec<Listed>,
}

fn open_directory(parent: impl AsFd, name: impl rustix::path::Arg) -> OwnedFd {
    openat(parent, name, OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .unwrap()
}

impl Tree {
    fn list(root: &Path) -> Self {
        let listed = Self::list_directory(open_directory(CWD, root), CString::default());
        let mut tree = Tree { root: root.to_path_buf(), ..Tree::default() };
        tree.add(listed, &PathBuf::new());
        tree
    }

    fn list_directory(directory: OwnedFd, name: CString) -> Listed {
        let (mut files, mut directories) = (Vec::new(), Vec::new());
        for entry in Dir::read_from(&directory).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name();
            if name.to_bytes() == b"." || name.to_bytes() == b".." {
                continue;
            }
            let fields = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
            let stat = statx(&directory, name, AtFlags::SYMLINK_NOFOLLOW, fields).unwrap();
            match FileType::from_raw_mode(u32::from(stat.stx_mode)) {
                FileType::Directory => directories.push(name.to_owned()),
                FileType::RegularFile => files.push((name.to_owned(), stat.stx_size)),
                _ => {}
            }
        }
        let below = directories
            .par_iter()
            .map(|name| Self::list_directory(open_directory(&directory, name), name.clone()))
            .collect();
        Listed { name, files, below }
    }

    fn add(&mut self, listed: Listed, above: &Path) {
        let path = above.join(listed.name.to_str().unwrap());
        let directory = self.directories.len();
        let files = listed.files.into_iter();
        self.files.extend(files.map(|(name, size)| FoundFile { directory, name, size }));
        self.directories.push(path.clone());
        listed.below.into_iter().for_each(|below| self.add(below, &path));
    }
}

/// Opens files by their directory's descriptor, which is kept until another directory's turn.
struct Opener<'a> {
    tree: &'a Tree,
    root: &'a Path,
    flags: OFlags,
    directory: Option<(usize, OwnedFd)>,
}

impl<'a> Opener<'a> {
    fn new(tree: &'a Tree, root: &'a Path, flags: OFlags) -> Self {
        Opener { tree, root, flags: flags | OFlags::CLOEXEC, directory: None }
    }

    fn open(&mut self, file: usize) -> File {
        let found = &self.tree.files[file];
        if self.directory.as_ref().is_none_or(|(number, _)| *number != found.directory) {
            let path = self.root.join(&self.tree.directories[found.directory]);
            self.directory = Some((found.directory, open_directory(CWD, path)));
        }
        let (_, directory) = self.directory.as_ref().unwrap();
        openat(directory, &found.name, self.flags, Mode::RUSR | Mode::WUSR).unwrap().into()
    }
}

/// A part of a file without holes, and what becomes of its chunks.
struct Piece {
    file: usize,
    from: u64,
    to: u64,
    /// For each chunk its number in the plan if it is to be stored.
    stored: Vec<Option<usize>>,
    has_digest: bool,
}

/// A chunk that is stored, and the places it is restored to.
struct Chunk {
    length: usize,
    places: Vec<(usize, u64)>,
}

/// What is known beforehand.
#[derive(Default)]
struct Plan {
    batches: Vec<Vec<Piece>>,
    chunks: Vec<Chunk>,
    numbers: HashMap<BlobId, usize>,
    /// Files that end in a hole, or are empty.
    extended: Vec<usize>,
}

/// Chunks that were compressed and sealed together.
struct Segment {
    pack: usize,
    offset: u64,
    stored_length: usize,
    is_compressed: bool,
    chunks: Vec<usize>,
}

/// A run of bytes of a segment that goes into a file.
struct Write {
    file: usize,
    offset: u64,
    start: usize,
    length: usize,
}

impl Plan {
    /// Where a segment's bytes go, runs as long as possible, file by file.
    fn writes(&self, segment: &Segment) -> Vec<Write> {
        let mut writes = Vec::new();
        let mut start = 0;
        for number in &segment.chunks {
            let Chunk { length, places } = &self.chunks[*number];
            let places = places.iter();
            writes.extend(places.map(|&(file, offset)| Write {
                file,
                offset,
                start,
                length: *length,
            }));
            start += length;
        }
        writes.sort_by_key(|write| (write.file, write.offset));
        writes.dedup_by(|next, run| {
            let length = run.length;
            let follows = (run.file, run.offset + length as u64, run.start + length)
                == (next.file, next.offset, next.start);
            run.length += if follows { next.length } else { 0 };
            follows
        });
        writes
    }
}

/// Hands the items to threads, one for each core, as each asks for them.
fn on_all_cores<T: Sync>(items: &[T], work: impl Fn(&mut dyn Iterator<Item = &T>) + Sync) {
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().unwrap().get() {
            scope.spawn(|| {
                work(&mut std::iter::from_fn(|| items.get(next.fetch_add(1, Ordering::Relaxed))));
            });
        }
    });
}

/// The primitives.
struct Limit {
    chunker: Chunker,
    naming: NamingKeys,
    cipher: FrameCipher,
}

impl Limit {
    fn new() -> Self {
        let params = ChunkerParams {
            minimum: SETTINGS.chunk_minimum,
            average: SETTINGS.chunk_average,
            maximum: SETTINGS.chunk_maximum,
        };
        Limit {
            chunker: Chunker::new(params, &[1; 32]),
            naming: NamingKeys::new(&[2; 32]),
            cipher: FrameCipher::new(&[3; 32]),
        }
    }

    /// Reads and cuts everything once. What `known` has is not stored.
    fn plan(&self, tree: &Tree, known: Option<&Plan>) -> Plan {
        let mut plan = Plan::default();
        let mut opener = Opener::new(tree, &tree.root, OFlags::RDONLY);
        let mut window = vec![0; WINDOW];
        let mut batch = Vec::new();
        let mut batch_bytes = 0;
        for (number, found) in tree.files.iter().enumerate() {
            let file = opener.open(number);
            let mut at = 0;
            while let Some((from, to)) = next_piece(&file, at, found.size) {
                let mut stored = Vec::new();
                self.cut(&file, from..to, None, &mut window, |chunk, offset| {
                    let id = self.naming.data_id(chunk);
                    if known.is_some_and(|known| known.numbers.contains_key(&id)) {
                        return stored.push(None);
                    }
                    let next = plan.chunks.len();
                    let chunk_number = *plan.numbers.entry(id).or_insert(next);
                    if chunk_number == next {
                        plan.chunks.push(Chunk { length: chunk.len(), places: Vec::new() });
                    }
                    plan.chunks[chunk_number].places.push((number, offset));
                    stored.push((chunk_number == next).then_some(next));
                });
                let has_digest = stored.len() > 1 || to - from < found.size;
                batch.push(Piece { file: number, from, to, stored, has_digest });
                batch_bytes += to - from;
                if batch_bytes >= BATCH {
                    plan.batches.push(std::mem::take(&mut batch));
                    batch_bytes = 0;
                }
                at = to;
            }
            if at < found.size || at == 0 {
                plan.extended.push(number);
            }
        }
        plan.batches.push(batch);
        plan
    }

    /// Reads and cuts a piece; digests it, if wanted.
    fn cut(
        &self,
        file: &File,
        range: std::ops::Range<u64>,
        digested: Option<&NamingKeys>,
        window: &mut [u8],
        mut each: impl FnMut(&[u8], u64),
    ) {
        let mut hasher = digested.map(NamingKeys::region_hasher);
        let mut at = range.start;
        let mut filled = 0;
        while at < range.end || filled > 0 {
            let wanted = (window.len() - filled).min((range.end - at) as usize);
            let room = &mut window[filled..filled + wanted];
            file.read_exact_at(room, at).unwrap();
            hasher.iter_mut().for_each(|hasher| hasher.update(room));
            filled += wanted;
            at += wanted as u64;
            let mut used = 0;
            while filled - used >= CHUNK_MAXIMUM || (at == range.end && filled > used) {
                let length = self.chunker.cut(&window[used..filled]);
                each(&window[used..used + length], at - (filled - used) as u64);
                used += length;
            }
            window.copy_within(used..filled, 0);
            filled -= used;
        }
        black_box(hasher.map(|hasher| hasher.finish()));
    }

    /// The limit of a backup.
    fn store(&self, tree: &Tree, plan: &Plan, folder: &Path) -> Vec<Segment> {
        let shared = Shared::default();
        let (sender, receiver) = sync_channel::<(usize, Vec<u8>)>(0);
        let receiver = Mutex::new(receiver);
        thread::scope(|scope| {
            for _ in 0..UPLOADS {
                scope.spawn(|| {
                    loop {
                        let Ok((number, pack)) = locked(&receiver).recv() else { break };
                        let mut file = File::create(folder.join(number.to_string())).unwrap();
                        file.write_all(&pack).unwrap();
                        file.sync_data().unwrap();
                        locked(&shared.spare).push(pack);
                    }
                });
            }
            on_all_cores(&plan.batches, |batches| {
                let mut opener = Opener::new(tree, &tree.root, OFlags::RDONLY);
                let mut window = vec![0; WINDOW];
                let mut storing = Storing::new(self, &shared, &sender);
                for piece in batches.flatten() {
                    let file = opener.open(piece.file);
                    let mut numbers = piece.stored.iter();
                    let digested = piece.has_digest.then_some(&self.naming);
                    self.cut(&file, piece.from..piece.to, digested, &mut window, |chunk, _| {
                        black_box(self.naming.data_id(chunk));
                        if let Some(number) = numbers.next().unwrap() {
                            storing.push(*number, chunk);
                        }
                    });
                }
                storing.finish();
            });
            drop(sender);
        });
        shared.segments.into_inner().unwrap()
    }

    /// Reads a segment, unseals and decompresses it and names its chunks.
    fn open_segment(&self, plan: &Plan, segment: &Segment, pack: &File, opening: &mut Opening) {
        let Opening { frame, stored, plain, decompressor } = opening;
        stored.clear();
        let mut at = segment.offset;
        for number in 0..segment.stored_length.div_ceil(FRAME_LENGTH) {
            let length = (segment.stored_length - stored.len()).min(FRAME_LENGTH) + TAG_LENGTH;
            let frame = &mut frame[..length];
            pack.read_exact_at(frame, at).unwrap();
            at += length as u64;
            stored
                .extend_from_slice(self.cipher.unseal_frame(number as u64, false, frame).unwrap());
        }
        let mut lengths = segment.chunks.iter().map(|number| plan.chunks[*number].length);
        match segment.is_compressed {
            false => std::mem::swap(stored, plain),
            true => {
                let length = lengths.clone().sum();
                decompressor.decompress_into(stored, &[], length, plain).unwrap();
            }
        }
        let mut rest = &plain[..];
        while let Some((chunk, after)) = lengths.next().map(|length| rest.split_at(length)) {
            black_box(self.naming.data_id(chunk));
            rest = after;
        }
    }

    /// The limit of a check that reads everything.
    fn verify(&self, plan: &Plan, segments: &[Segment], packs: &Path) {
        let packs = open_packs(packs, segments);
        on_all_cores(segments, |segments| {
            let mut opening = Opening::new();
            for segment in segments {
                self.open_segment(plan, segment, &packs[segment.pack], &mut opening);
            }
        });
    }

    /// The limit of a restore.
    fn restore(
        &self,
        tree: &Tree,
        plan: &Plan,
        segments: &[(&Segment, &Vec<Write>)],
        packs: &Path,
        target: &Path,
    ) {
        let flags = OFlags::WRONLY | OFlags::CREATE;
        let new_opener = || Opener::new(tree, target, flags);
        for path in &tree.directories[1..] {
            fs::create_dir(target.join(path)).unwrap();
        }
        let mut opener = new_opener();
        for file in &plan.extended {
            opener.open(*file).set_len(tree.files[*file].size).unwrap();
        }
        let time = Timespec { tv_sec: 1_790_000_000, tv_nsec: 0 };
        let times = Timestamps { last_access: time, last_modification: time };
        let packs = open_packs(packs, segments.iter().map(|(segment, _)| *segment));
        on_all_cores(segments, |segments| {
            let mut opener = new_opener();
            let mut opening = Opening::new();
            for (segment, writes) in segments {
                self.open_segment(plan, segment, &packs[segment.pack], &mut opening);
                for of_file in writes.chunk_by(|one, other| one.file == other.file) {
                    let file = opener.open(of_file[0].file);
                    for Write { offset, start, length, .. } in of_file {
                        file.write_all_at(&opening.plain[*start..start + length], *offset).unwrap();
                    }
                    futimens(&file, &times).unwrap();
                }
            }
        });
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap()
}

/// The next bytes of a file from `at` on that are no hole and in one region.
fn next_piece(file: &File, at: u64, size: u64) -> Option<(u64, u64)> {
    if at >= size {
        return None;
    }
    let from = seek(file, SeekFrom::Data(at)).ok()?;
    let to = seek(file, SeekFrom::Hole(from)).unwrap().min(size);
    Some((from, to.min((from / REGION + 1) * REGION)))
}

fn open_packs<'s>(folder: &Path, segments: impl IntoIterator<Item = &'s Segment>) -> Vec<File> {
    let last = segments.into_iter().map(|segment| segment.pack).max();
    let numbers = 0..last.map_or(0, |last| last + 1);
    numbers.map(|number| File::open(folder.join(number.to_string())).unwrap()).collect()
}

/// What the threads that store chunks share.
#[derive(Default)]
struct Shared {
    segments: Mutex<Vec<Segment>>,
    pack_count: AtomicUsize,
    /// Buffers of packs that were written.
    spare: Mutex<Vec<Vec<u8>>>,
}

impl Shared {
    fn buffer(&self) -> Vec<u8> {
        let mut buffer = locked(&self.spare).pop().unwrap_or_default();
        buffer.clear();
        buffer.reserve(SETTINGS.pack_length as usize + 2 * SEGMENT_LENGTH);
        buffer
    }
}

/// What a thread that stores chunks holds.
struct Storing<'a> {
    limit: &'a Limit,
    shared: &'a Shared,
    sender: &'a SyncSender<(usize, Vec<u8>)>,
    compressor: Compressor,
    plain: Vec<u8>,
    output: Vec<u8>,
    chunks: Vec<usize>,
    number: usize,
    pack: Vec<u8>,
}

impl<'a> Storing<'a> {
    fn new(limit: &'a Limit, shared: &'a Shared, sender: &'a SyncSender<(usize, Vec<u8>)>) -> Self {
        Storing {
            limit,
            shared,
            sender,
            compressor: Compressor::new(SETTINGS.compression_level, SEGMENT_LENGTH).unwrap(),
            plain: Vec::new(),
            output: Vec::new(),
            chunks: Vec::new(),
            number: shared.pack_count.fetch_add(1, Ordering::Relaxed),
            pack: shared.buffer(),
        }
    }

    fn push(&mut self, number: usize, chunk: &[u8]) {
        self.plain.extend_from_slice(chunk);
        self.chunks.push(number);
        if self.plain.len() >= SEGMENT_LENGTH - CHUNK_MAXIMUM {
            self.close_segment();
        }
    }

    fn close_segment(&mut self) {
        self.output.clear();
        let is_compressed = self.compressor.compress(&self.plain, &mut self.output).unwrap();
        let stored = if is_compressed { &self.output } else { &self.plain };
        locked(&self.shared.segments).push(Segment {
            pack: self.number,
            offset: self.pack.len() as u64,
            stored_length: stored.len(),
            is_compressed,
            chunks: std::mem::take(&mut self.chunks),
        });
        for (number, frame) in stored.chunks(FRAME_LENGTH).enumerate() {
            let start = self.pack.len();
            self.pack.extend_from_slice(frame);
            let tag = self.limit.cipher.seal_frame(number as u64, false, &mut self.pack[start..]);
            self.pack.extend_from_slice(&tag);
        }
        self.plain.clear();
        if self.pack.len() >= SETTINGS.pack_length as usize {
            let pack = std::mem::replace(&mut self.pack, self.shared.buffer());
            self.sender.send((self.number, pack)).unwrap();
            self.number = self.shared.pack_count.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn finish(mut self) {
        self.close_segment();
        self.sender.send((self.number, self.pack)).unwrap();
    }
}

/// What a thread that opens segments holds.
struct Opening {
    frame: Vec<u8>,
    stored: Vec<u8>,
    plain: Vec<u8>,
    decompressor: Decompressor,
}

impl Opening {
    fn new() -> Self {
        Opening {
            frame: vec![0; SEALED_FRAME_LENGTH],
            stored: Vec::new(),
            plain: Vec::new(),
            decompressor: Decompressor::new().unwrap(),
        }
    }
}

/// Seconds.
#[derive(Clone, Copy)]
struct Cost {
    wall: f64,
    processor: f64,
    kernel: f64,
}

impl Cost {
    fn of(work: impl FnOnce()) -> Self {
        let before = processor_seconds();
        let start = Instant::now();
        work();
        let wall = start.elapsed().as_secs_f64();
        let after = processor_seconds();
        Cost { wall, processor: after.0 - before.0, kernel: after.1 - before.1 }
    }

    fn best(self, other: Self) -> Self {
        Cost {
            wall: self.wall.min(other.wall),
            processor: self.processor.min(other.processor),
            kernel: self.kernel.min(other.kernel),
        }
    }
}

/// Of the processor's time this process had so far: all, and the kernel's.
fn processor_seconds() -> (f64, f64) {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let seconds = |field: &str| field.parse::<f64>().unwrap() / 100.0;
    let (user, kernel) = (seconds(fields[11]), seconds(fields[12]));
    (user + kernel, kernel)
}

/// The best of all rounds.
#[derive(Default)]
struct Rows(Vec<(&'static str, Option<Cost>, Option<Cost>)>);

impl Rows {
    fn product(&mut self, step: &'static str, work: impl FnOnce()) {
        let cost = Cost::of(work);
        match self.0.iter_mut().find(|row| row.0 == step) {
            Some((_, best, _)) => *best = best.map(|best| best.best(cost)),
            None => self.0.push((step, Some(cost), None)),
        }
    }

    fn limit(&mut self, step: &'static str, work: impl FnOnce()) {
        let cost = Cost::of(work);
        let row = self.0.iter_mut().find(|row| row.0 == step).unwrap();
        row.2 = Some(row.2.map_or(cost, |best| best.best(cost)));
    }

    fn same_limit(&mut self, step: &'static str, as_step: &'static str) {
        let limit = self.0.iter().find(|row| row.0 == as_step).unwrap().2;
        self.0.iter_mut().find(|row| row.0 == step).unwrap().2 = limit;
    }

    fn print(&self) {
        println!("| step | Aumbry | the limit | share | share of CPU |\n|---|---|---|---|---|");
        for (step, product, limit) in &self.0 {
            let (product, limit) = (product.unwrap(), limit.unwrap());
            let cell = |Cost { wall, processor, kernel }| {
                format!("{wall:.2} ({processor:.2}, kernel {kernel:.2})")
            };
            // Of less than five ticks nothing can be said.
            let share = |limit: f64, product: f64| match limit < 0.05 {
                true => String::from("–"),
                false => format!("{:.0} %", 100.0 * limit / product),
            };
            println!(
                "| {step} | {} | {} | {} | {} |",
                cell(product),
                cell(limit),
                share(limit.wall, product.wall),
                share(limit.processor, product.processor)
            );
        }
    }
}
