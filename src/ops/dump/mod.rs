//! Dump: one file's bytes, or a folder as a tar archive, into a stream.

mod archive;

use std::collections::{HashMap, HashSet};
use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use crate::codec::digest::{DIGEST_REGION, NamingKeys, RegionHasher};
use crate::format::snapshot::Snapshot;
use crate::id::{BlobId, SnapshotId};
use crate::monitor::{Monitor, Phase, Problem, Progress};
use crate::ops::OpsError;
use crate::ops::quiet::Quiet;
use crate::repository::Repository;
use crate::repository::error::RepositoryError;
use crate::repository::look::Look;
use crate::repository::reader::BlobReader;
use crate::target::TargetError;
use crate::tree::entry::{Content, Entry, Extent, FileContent, LinkIdentity, Node};
use crate::tree::path::{Printable, TreePath};
use crate::view::{DirectoryRoot, Entries, Extents, Found, find_path};

use archive::{BLOCK, Name, header};

/// What a dump wrote.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DumpSummary {
    /// Entries written: 1 for a file.
    pub entries: u64,
    /// Bytes of content written.
    pub bytes: u64,
    /// Entries that could not be written (each was reported as a problem).
    pub entries_failed: u64,
}

/// Bytes of opened segments that a dump keeps.
const SEGMENTS: u64 = 96 << 20;
/// Bytes of content that are fetched ahead, while as many are written.
const BATCH_BYTES: u64 = 16 << 20;
/// Files up to this size are fetched whole before their header is written, so that a damaged one can be
/// left out.
const WHOLE: u64 = 8 << 20;
/// Threads that fetch.
const THREADS: usize = 4;
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// Writes the file at `path` as it is, or the directory there as a tar archive (POSIX pax format, so that long
/// names, nanoseconds, large files and extended attributes survive). Names in the archive begin below the
/// directory. A damaged file is left out of an archive and reported; one too large to be fetched before its
/// header is written is filled with zeros from the damage on, because its size is written already, and
/// reported. A single file ends with an error at the damage.
pub fn dump(
    repository: &Repository,
    snapshot: &(SnapshotId, Snapshot),
    path: &TreePath,
    output: &mut dyn Write,
    monitor: &dyn Monitor,
) -> Result<DumpSummary, OpsError> {
    let (session, look) = repository.register_reader_and_look(monitor);
    let result = run(repository, look, &snapshot.1, path, output, monitor);
    repository.note_mended(monitor);
    repository.note_passed_over(monitor);
    repository.end_reader(session, monitor);
    result
}

fn run(
    repository: &Repository,
    look: Option<Look>,
    snapshot: &Snapshot,
    path: &TreePath,
    output: &mut dyn Write,
    monitor: &dyn Monitor,
) -> Result<DumpSummary, OpsError> {
    for error in repository.refresh_index_by(look, monitor)?.damaged {
        monitor.problem(Problem { item: error.item, during: "index", message: error.message });
    }
    let reader = BlobReader::new(repository, SEGMENTS);
    if repository.thaws() {
        thaw(Walk::begin(&reader, snapshot, path, &Quiet(monitor))?)?;
    }
    let walk = Walk::begin(&reader, snapshot, path, monitor)?;
    monitor.phase(Phase::Restore);
    let summary = DumpSummary { entries: u64::from(walk.single), ..DumpSummary::default() };
    Dumper { reader: &reader, monitor, output, walk, summary }.run()
}

/// Has the packs thawed that are read for this.
fn thaw(mut walk: Walk<'_, '_>) -> Result<(), OpsError> {
    let mut packs = HashSet::new();
    loop {
        let batch = walk.next_batch()?;
        if batch.is_empty() {
            break;
        }
        for piece in batch {
            if let Piece::Chunk { blob, .. } = piece {
                // What is nowhere is found when it is read.
                packs.extend(walk.reader.packs_of(&blob).unwrap_or_default());
            }
        }
    }
    let repository = walk.reader.repository();
    Ok(repository.thaw(&repository.cold_packs(packs)?)?)
}

/// What is to be written, in order.
enum Piece {
    /// An entry begins: its header; with how many of the next pieces it is complete, if it is known.
    Begin(Box<Begin>),
    Chunk {
        blob: BlobId,
        length: u64,
    },
    Zeros(u64),
    Bytes(Vec<u8>),
    /// A file ends: its size and the digest it should have.
    End {
        size: u64,
        digest: Option<[u8; 32]>,
    },
}

struct Begin {
    path: String,
    header: Vec<u8>,
    is_whole: bool,
    /// The file that this is a name of, if it has several.
    identity: Option<LinkIdentity>,
    is_link: bool,
}

/// A large file whose chunks are being told.
struct OpenFile<'r, 'a> {
    extents: Extents<'r, 'a>,
    size: u64,
    digest: Option<[u8; 32]>,
}

struct Frame<'r, 'a> {
    entries: Entries<'r, 'a>,
    path_length: usize,
}

/// Walks what is to be written.
struct Walk<'r, 'a> {
    reader: &'r BlobReader<'a>,
    monitor: &'r dyn Monitor,
    subtree: &'r TreePath,
    frames: Vec<Frame<'r, 'a>>,
    /// The path in the archive of the innermost directory, with a slash behind it.
    path: Vec<u8>,
    pieces: Vec<Piece>,
    file: Option<OpenFile<'r, 'a>>,
    first_names: HashMap<LinkIdentity, Vec<u8>>,
    failed: u64,
    single: bool,
}

impl<'r, 'a> Walk<'r, 'a> {
    fn new(reader: &'r BlobReader<'a>, monitor: &'r dyn Monitor, subtree: &'r TreePath) -> Self {
        Walk {
            reader,
            monitor,
            subtree,
            frames: Vec::new(),
            path: Vec::new(),
            pieces: Vec::new(),
            file: None,
            first_names: HashMap::new(),
            failed: 0,
            single: false,
        }
    }

    /// Begins with what is at `path`.
    fn begin(
        reader: &'r BlobReader<'a>,
        snapshot: &Snapshot,
        path: &'r TreePath,
        monitor: &'r dyn Monitor,
    ) -> Result<Self, OpsError> {
        let found = find_path(reader, snapshot, path)?;
        let missing = || OpsError::Invalid(format!("the snapshot has no {path}"));
        let mut walk = Walk::new(reader, monitor, path);
        match found.ok_or_else(missing)? {
            Found::Root(root) => walk.enter(root),
            Found::Entry(entry) => match (DirectoryRoot::of_entry(&entry), &entry.node) {
                (Some(root), _) => walk.enter(root),
                (None, Node::File(file)) => {
                    monitor.expect(Progress { files: 1, bytes: file.size });
                    walk.single = true;
                    walk.begin_file(Printable(path.as_bytes()).to_string(), file, Vec::new());
                }
                (None, other) => {
                    let kind = other.kind_name();
                    return Err(OpsError::Invalid(format!("{path} is no file but a {kind}")));
                }
            },
        }
        Ok(walk)
    }

    fn enter(&mut self, root: DirectoryRoot) {
        let path_length = self.path.len();
        self.frames.push(Frame { entries: Entries::new(self.reader, root), path_length });
    }

    fn display(&self, path: &[u8]) -> String {
        let above = if self.subtree.is_root() { b"" } else { self.subtree.as_bytes() };
        Printable(&[above, b"/", path].concat()).to_string()
    }

    fn problem(&mut self, path: &[u8], message: String) {
        self.failed += 1;
        let item = self.display(path);
        self.monitor.problem(Problem { item, during: "dump", message });
    }

    /// The next pieces; none at the end.
    fn next_batch(&mut self) -> Result<Vec<Piece>, OpsError> {
        let mut bytes: u64 = self.pieces.iter().map(Piece::length).sum();
        let mut batch = std::mem::take(&mut self.pieces);
        while bytes < BATCH_BYTES && batch.len() < 65_536 {
            if self.monitor.interrupted() {
                return Err(OpsError::Interrupted);
            }
            if self.file.is_some() {
                self.tell_extent()?;
            } else if let Some(frame) = self.frames.last_mut() {
                match frame.entries.next() {
                    Some(Ok(entry)) => self.meet(&entry),
                    Some(Err(error)) => {
                        let path = self.path.clone();
                        self.problem(&path, error.to_string());
                    }
                    None => {
                        self.frames.pop();
                        let length = self.frames.last().map_or(0, |frame| frame.path_length);
                        self.path.truncate(length);
                    }
                }
            } else {
                break;
            }
            bytes += self.pieces.iter().map(Piece::length).sum::<u64>();
            batch.append(&mut self.pieces);
        }
        Ok(batch)
    }

    fn tell_extent(&mut self) -> Result<(), OpsError> {
        let Some(file) = &mut self.file else { return Ok(()) };
        match file.extents.next() {
            Some(Ok(extent)) => self.pieces.push(Piece::of(&extent)),
            Some(Err(error)) if self.single => return Err(error.into()),
            // The end finds that bytes are missing.
            Some(Err(_)) | None => {
                self.pieces.push(Piece::End { size: file.size, digest: file.digest });
                self.file = None;
            }
        }
        Ok(())
    }

    fn meet(&mut self, entry: &Entry) {
        let path = [&self.path, &entry.name[..]].concat();
        let identity = entry.link_identity();
        let link = identity.as_ref().and_then(|identity| self.first_names.get(identity)).cloned();
        let name = Name { path: &path, link: link.as_deref() };
        let Some(header) = header(&name, entry) else {
            return self.problem(&path, "an archive cannot hold a socket".to_string());
        };
        if let (Some(identity), None) = (&identity, &link) {
            self.first_names.insert(identity.clone(), path.clone());
        }
        let begin = Begin {
            path: self.display(&path),
            header,
            is_whole: true,
            identity,
            is_link: link.is_some(),
        };
        self.pieces.push(Piece::Begin(Box::new(begin)));
        match &entry.node {
            Node::File(file) if link.is_none() => self.tell_file(file),
            _ => self.pieces.push(Piece::End { size: 0, digest: None }),
        }
        if let Some(root) = DirectoryRoot::of_entry(entry) {
            self.path = path;
            self.path.push(b'/');
            self.enter(root);
        }
    }

    fn begin_file(&mut self, path: String, file: &FileContent, header: Vec<u8>) {
        let begin = Begin { path, header, is_whole: false, identity: None, is_link: false };
        self.pieces.push(Piece::Begin(Box::new(begin)));
        self.tell_file(file);
    }

    fn tell_file(&mut self, file: &FileContent) {
        let (size, digest) = (file.size, file.digest);
        if let Content::Inline(bytes) = &file.content {
            self.pieces.push(Piece::Bytes(bytes.to_vec()));
            return self.pieces.push(Piece::End { size, digest });
        }
        let extents = Extents::new(self.reader, file);
        if size > WHOLE || self.single {
            if let Some(Piece::Begin(begin)) = self.pieces.last_mut() {
                begin.is_whole = false;
            }
            self.file = Some(OpenFile { extents, size, digest });
            return;
        }
        // An unreadable list leaves bytes missing, which the end finds.
        self.pieces.extend(extents.map_while(Result::ok).map(|extent| Piece::of(&extent)));
        self.pieces.push(Piece::End { size, digest });
    }
}

impl Piece {
    fn of(extent: &Extent) -> Self {
        match extent {
            Extent::Data { blob, length } => Piece::Chunk { blob: *blob, length: *length },
            Extent::Hole { length } => Piece::Zeros(*length),
        }
    }

    /// Bytes it holds when it is fetched.
    fn length(&self) -> u64 {
        match self {
            Piece::Chunk { length, .. } => *length,
            Piece::Bytes(bytes) => bytes.len() as u64,
            Piece::Begin(begin) => begin.header.len() as u64,
            Piece::Zeros(_) | Piece::End { .. } => 0,
        }
    }
}

/// A chunk's bytes, or why they cannot be had. A copy, because a blob holds on to its whole segment.
type Fetched = Option<Result<Vec<u8>, RepositoryError>>;

/// Writes what a walk tells.
struct Dumper<'d, 'a> {
    reader: &'d BlobReader<'a>,
    monitor: &'d dyn Monitor,
    output: &'d mut dyn Write,
    walk: Walk<'d, 'a>,
    summary: DumpSummary,
}

impl Dumper<'_, '_> {
    fn run(mut self) -> Result<DumpSummary, OpsError> {
        let mut state = State::default();
        let batch = self.walk.next_batch()?;
        let mut current = fetch(self.reader, batch);
        while !current.is_empty() {
            let next = self.walk.next_batch()?;
            let reader = self.reader;
            let fetched = std::thread::scope(|scope| {
                let fetching = scope.spawn(|| fetch(reader, next));
                let written = self.write(&current, &mut state);
                let fetched = match fetching.join() {
                    Ok(fetched) => fetched,
                    Err(panic) => std::panic::resume_unwind(panic),
                };
                written.map(|()| fetched)
            })?;
            current = fetched;
        }
        if !self.walk.single {
            self.put(&[0; 2 * BLOCK])?;
        }
        self.output.flush().map_err(output_error)?;
        self.summary.entries_failed += self.walk.failed;
        Ok(self.summary)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), OpsError> {
        self.output.write_all(bytes).map_err(output_error)
    }

    fn put_zeros(&mut self, mut length: u64) -> Result<(), OpsError> {
        while length > 0 {
            let part = length.min(ZEROS.len() as u64);
            self.put(&ZEROS[..part as usize])?;
            length -= part;
        }
        Ok(())
    }

    fn write(&mut self, batch: &[(Piece, Fetched)], state: &mut State) -> Result<(), OpsError> {
        for (number, (piece, fetched)) in batch.iter().enumerate() {
            match piece {
                Piece::Begin(begin) => {
                    self.monitor.current(&begin.path);
                    *state = State {
                        failed_files: std::mem::take(&mut state.failed_files),
                        ..State::default()
                    };
                    state.path = begin.path.clone();
                    if begin.is_whole {
                        state.failure = self.failure_within(begin, &batch[number + 1..], state);
                        state.is_left_out = state.failure.is_some();
                    }
                    if state.is_left_out {
                        state.failed_files.extend(begin.identity.clone());
                    } else {
                        self.put(&begin.header)?;
                    }
                }
                _ if state.is_left_out && !matches!(piece, Piece::End { .. }) => {}
                Piece::Bytes(bytes) => self.content(bytes, state)?,
                Piece::Zeros(length) => {
                    let mut rest = *length;
                    while rest > 0 {
                        let part = rest.min(ZEROS.len() as u64);
                        self.content(&ZEROS[..part as usize], state)?;
                        rest -= part;
                    }
                }
                Piece::Chunk { .. } => match fetched {
                    Some(Ok(bytes)) => self.content(bytes, state)?,
                    Some(Err(error)) if self.walk.single => return Err(error.clone().into()),
                    Some(Err(error)) => {
                        state.failure.get_or_insert_with(|| error.to_string());
                    }
                    None => {}
                },
                Piece::End { size, digest } => self.end(*size, *digest, state)?,
            }
        }
        Ok(())
    }

    /// What is wrong with a file whose pieces are all here.
    fn failure_within(
        &self,
        begin: &Begin,
        pieces: &[(Piece, Fetched)],
        state: &State,
    ) -> Option<String> {
        if begin.is_link
            && begin.identity.as_ref().is_some_and(|it| state.failed_files.contains(it))
        {
            return Some("the file that it is another name of could not be written".to_string());
        }
        let mut length = 0;
        let mut hasher = self.reader.repository().naming().region_hasher();
        for (piece, fetched) in pieces {
            match (piece, fetched) {
                (Piece::Chunk { .. }, Some(Err(error))) => return Some(error.to_string()),
                (Piece::Chunk { .. }, Some(Ok(bytes))) => {
                    length += bytes.len() as u64;
                    hasher.update(bytes);
                }
                (Piece::Zeros(zeros), _) => {
                    length += zeros;
                    let mut rest = *zeros;
                    while rest > 0 {
                        let part = rest.min(ZEROS.len() as u64);
                        hasher.update(&ZEROS[..part as usize]);
                        rest -= part;
                    }
                }
                (Piece::Bytes(bytes), _) => length += bytes.len() as u64,
                (Piece::End { size, digest }, _) => {
                    if length != *size {
                        return Some("its list of chunks is damaged".to_string());
                    }
                    let wrong = digest.is_some_and(|digest| hasher.finish() != digest);
                    return wrong.then(|| WRONG_DIGEST.to_string());
                }
                _ => {}
            }
        }
        None
    }

    fn content(&mut self, bytes: &[u8], state: &mut State) -> Result<(), OpsError> {
        if state.failure.is_some() {
            return Ok(());
        }
        self.put(bytes)?;
        state.digest(self.reader.repository().naming(), bytes);
        state.written += bytes.len() as u64;
        self.summary.bytes += bytes.len() as u64;
        self.monitor.advance(Progress { files: 0, bytes: bytes.len() as u64 });
        Ok(())
    }

    fn end(
        &mut self,
        size: u64,
        digest: Option<[u8; 32]>,
        state: &mut State,
    ) -> Result<(), OpsError> {
        if !state.is_left_out {
            let missing = size.saturating_sub(state.written);
            if missing > 0 {
                let reason = state.failure.take();
                let reason = reason.unwrap_or_else(|| "its list of chunks is damaged".to_string());
                let zeros = "its last bytes in the archive are zeros in place of what is missing";
                state.failure = Some(format!("{reason}; {zeros}"));
                self.put_zeros(missing)?;
            } else if let Some(digest) = digest
                && state.finish_digest(self.reader.repository().naming()) != digest
            {
                state.failure = Some(WRONG_DIGEST.to_string());
            }
            if !self.walk.single {
                self.put_zeros(size.next_multiple_of(BLOCK as u64) - size)?;
            }
        }
        match state.failure.take() {
            Some(message) if self.walk.single => {
                return Err(RepositoryError::corrupt(&state.path, message).into());
            }
            Some(message) => {
                self.summary.entries_failed += 1;
                let item = state.path.clone();
                self.monitor.problem(Problem { item, during: "dump", message });
            }
            None if !self.walk.single => self.summary.entries += 1,
            None => {}
        }
        self.monitor.advance(Progress { files: 1, bytes: 0 });
        Ok(())
    }
}

const WRONG_DIGEST: &str = "the file as a whole does not have the digest that the snapshot has";

/// The file that is being written.
#[derive(Default)]
struct State {
    path: String,
    written: u64,
    failure: Option<String>,
    is_left_out: bool,
    hasher: Option<RegionHasher>,
    in_region: u64,
    digests: Vec<[u8; 32]>,
    /// Files with several names that were left out.
    failed_files: HashSet<LinkIdentity>,
}

impl State {
    fn digest(&mut self, naming: &NamingKeys, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = (DIGEST_REGION - self.in_region) as usize;
            let (part, rest) = bytes.split_at(bytes.len().min(room));
            self.hasher.get_or_insert_with(|| naming.region_hasher()).update(part);
            self.in_region += part.len() as u64;
            if self.in_region == DIGEST_REGION {
                self.digests.extend(self.hasher.take().map(RegionHasher::finish));
                self.in_region = 0;
            }
            bytes = rest;
        }
    }

    fn finish_digest(&mut self, naming: &NamingKeys) -> [u8; 32] {
        self.digests.extend(self.hasher.take().map(RegionHasher::finish));
        naming.file_digest(&self.digests)
    }
}

/// Fetches the chunks of a batch, several at a time.
fn fetch(reader: &BlobReader<'_>, batch: Vec<Piece>) -> Vec<(Piece, Fetched)> {
    reader.expect(batch.iter().filter_map(|piece| match piece {
        Piece::Chunk { blob, .. } => Some(blob),
        _ => None,
    }));
    let pieces: Vec<(Piece, Mutex<Fetched>)> =
        batch.into_iter().map(|piece| (piece, Mutex::new(None))).collect();
    let next = AtomicUsize::new(0);
    // Threads of their own, because a reader waits under locks for what another thread fetches.
    let run = || {
        // Runs of pieces, because neighbours lie in one segment.
        while let Some(run) = pieces.chunks(32).nth(next.fetch_add(1, Ordering::Relaxed)) {
            for (piece, fetched) in run {
                let Piece::Chunk { blob, length } = piece else { continue };
                let bytes = reader.data(blob).and_then(|bytes| {
                    if bytes.len() as u64 == *length {
                        return Ok(bytes.to_vec());
                    }
                    let item = format!("blob {}", blob.short());
                    let message = "has another length than the file says";
                    Err(RepositoryError::corrupt(item, message))
                });
                *fetched.lock() = Some(bytes);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..THREADS.min(pieces.len().div_ceil(32)) {
            scope.spawn(run);
        }
        run();
    });
    pieces.into_iter().map(|(piece, fetched)| (piece, fetched.into_inner())).collect()
}

fn output_error(error: std::io::Error) -> OpsError {
    TargetError::new("output", error).into()
}
