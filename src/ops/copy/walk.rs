//! The walk through a snapshot, beside each target's reference, and the workers that it feeds.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use super::assemble::{Assembler, Done, LargeFile, Ordered};
use super::content::{Failure, Piece, copy_inline, copy_piece, prove};
use super::reference::{Pair, PairWalk, Reference};
use super::sides::{Segments, Side, Sides};
use crate::codec::digest::DIGEST_REGION;
use crate::id::BlobId;
use crate::monitor::{Monitor, Problem, Progress};
use crate::ops::OpsError;
use crate::ops::crew::{Idle, Permits};
use crate::repository::error::RepositoryError;
use crate::repository::reader::BlobReader;
use crate::repository::verify::is_damage;
use crate::tree::entry::{Content, Entry, Extent, FileContent, Node};
use crate::tree::path::Printable;
use crate::view::{DirectoryRoot, Entries, Extents};

/// A batch is handed to a worker when its files hold this many bytes …
const BATCH_BYTES: u64 = 2 << 20;
/// … or when there are this many steps in it.
const BATCH_STEPS: usize = 512;
/// Messages that may wait for the assembler.
const QUEUE: usize = 64;

/// What a run needs beside the snapshot.
pub struct Pipeline<'a> {
    /// What the snapshot is called where a file of it is named.
    pub snapshot: String,
    /// The targets.
    pub sides: Vec<Side<'a>>,
    /// Reads the source's chunks.
    pub data: &'a BlobReader<'a>,
    /// Reads the source's directories and chunk lists.
    pub trees: &'a BlobReader<'a>,
    /// The digest of a region of zeros under the source's keys.
    pub zero_region: OnceLock<[u8; 32]>,
    /// Files and bytes that were read, for however many targets.
    pub files_read: &'a AtomicU64,
    pub bytes_read: &'a AtomicU64,
    pub monitor: &'a dyn Monitor,
}

/// A file that a worker copies.
struct Unread {
    entry: Entry,
    path: Vec<u8>,
    /// Its extents, or why they cannot be read.
    piece: Result<Piece, String>,
    /// The targets that lack it.
    sides: Sides,
}

/// A step of a batch.
enum Work {
    Done(Done),
    Copy(Unread),
}

impl Work {
    /// The blobs that are read for it.
    fn blobs(&self) -> impl Iterator<Item = &BlobId> {
        let piece = match self {
            Work::Copy(unread) => unread.piece.as_ref().ok(),
            Work::Done(_) => None,
        };
        piece.into_iter().flat_map(Piece::blobs)
    }
}

/// A directory that is being gone through.
struct Frame<'r> {
    entries: Entries<'r, 'r>,
    /// The targets that lack it, each with its reference.
    sides: Vec<(usize, Option<PairWalk<'r, 'r>>)>,
    path_length: usize,
}

/// A directory that has to be gone through, and the targets that lack it, with their references.
type ToEnter = (DirectoryRoot, Vec<(usize, Option<Pair>)>);

/// The walk's side of a run.
struct Feeder<'s, 'scope, 'a> {
    pipeline: &'a Pipeline<'a>,
    scope: &'s rayon::Scope<'scope>,
    workers: &'scope Idle<Segments<'a>>,
    permits: &'scope Permits,
    queue: SyncSender<Ordered>,
    batch: Vec<Work>,
    batch_bytes: u64,
    has_work: bool,
    path: Vec<u8>,
}

impl<'a> Pipeline<'a> {
    /// Goes through the directory `root` of the source to its end. Everything that was read is in the writers afterwards,
    /// also after an interruption. What one target failed at is kept with it, and the others go on.
    pub fn run(
        &'a self,
        root: DirectoryRoot,
        assembler: &mut Assembler<'_, '_>,
    ) -> Result<(), OpsError> {
        let workers = Idle::new();
        let permits = Permits::for_all_threads();
        let (sender, receiver) = sync_channel(QUEUE);
        let (walked, assembled) = std::thread::scope(|threads| {
            let assembling = threads.spawn(move || {
                let receiver: Receiver<Ordered> = receiver;
                assembler.run(&receiver)
            });
            let walked = rayon::in_place_scope(|scope| {
                let mut feeder = Feeder {
                    pipeline: self,
                    scope,
                    workers: &workers,
                    permits: &permits,
                    queue: sender,
                    batch: Vec::new(),
                    batch_bytes: 0,
                    has_work: false,
                    path: Vec::new(),
                };
                feeder.walk(root)
            });
            (walked, assembling.join())
        });
        workers.dismiss().into_iter().for_each(|segments| segments.flush(&self.sides));
        let assembled = assembled.unwrap_or_else(|_| {
            Err(OpsError::Invalid("the thread that builds directories failed".into()))
        });
        // The assembler's error is the reason, the walk's then only that nobody listened any more.
        assembled.and(walked)
    }

    /// Something of the snapshot cannot be read: it will not be copied into these targets.
    pub fn damaged(&self, item: String, message: String, sides: Sides) {
        sides.iter().for_each(|number| self.sides[number].count_damage());
        self.monitor.problem(Problem { item, during: "copy", message });
    }

    fn count_file(&self, sides: Sides) {
        self.files_read.fetch_add(1, Ordering::Relaxed);
        for number in sides.iter() {
            self.sides[number].files_read.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn display(&self, path: &[u8]) -> String {
        let path = if path.is_empty() { b"/" } else { path };
        format!("{}:{}", self.snapshot, Printable(path))
    }
}

impl<'scope, 'a: 'scope> Feeder<'_, 'scope, 'a> {
    fn enter(
        &self,
        root: DirectoryRoot,
        sides: impl IntoIterator<Item = (usize, Option<Pair>)>,
        path_length: usize,
    ) -> Frame<'a> {
        let Pipeline { trees, sides: all, .. } = self.pipeline;
        let walk = |(number, pair): (usize, Option<Pair>)| {
            let copies = all[number].copies;
            (number, pair.map(|pair| PairWalk::new(trees, copies, pair)))
        };
        let sides = sides.into_iter().map(walk).collect();
        Frame { entries: Entries::new(trees, root), sides, path_length }
    }

    fn walk(&mut self, root: DirectoryRoot) -> Result<(), OpsError> {
        let all = self.pipeline.sides.iter().map(|side| side.reference).enumerate();
        let mut frames = vec![self.enter(root, all, 0)];
        for number in 0..self.pipeline.sides.len() {
            self.push(Work::Done(Done::Enter(number, None)))?;
        }
        while let Some(frame) = frames.last_mut() {
            if self.pipeline.monitor.interrupted() {
                self.send_batch()?;
                return Err(OpsError::Interrupted);
            }
            if self.pipeline.sides.iter().all(Side::is_failed) {
                return Ok(());
            }
            match frame.entries.next() {
                Some(Ok(entry)) => {
                    let references = frame.sides.iter_mut().map(|(number, pair)| {
                        (*number, pair.as_mut().and_then(|pair| pair.find(&entry.name)))
                    });
                    let references = references.collect();
                    if let Some((root, pairs)) = self.entry(entry, references)? {
                        let above = self.path.iter().rposition(|byte| *byte == b'/');
                        frames.push(self.enter(root, pairs, above.unwrap_or(0)));
                    }
                }
                Some(Err(error)) if is_damage(&error) => {
                    let message = format!("a part of its entries cannot be read: {error}");
                    let sides = frame.sides.iter().map(|(number, _)| *number).collect();
                    self.pipeline.damaged(self.pipeline.display(&self.path), message, sides);
                }
                Some(Err(error)) => return Err(error.into()),
                None => {
                    self.path.truncate(frame.path_length);
                    for (number, _) in frames.pop().map(|frame| frame.sides).unwrap_or_default() {
                        self.push(Work::Done(Done::Leave(number)))?;
                    }
                }
            }
        }
        self.send_batch()
    }

    /// Decides what is to be done with one entry, by what each target's reference has in its place. Of a directory that has
    /// to be gone through, its root, and the targets that lack it with their references.
    fn entry(
        &mut self,
        entry: Entry,
        references: Vec<(usize, Option<Reference>)>,
    ) -> Result<Option<ToEnter>, OpsError> {
        let mut lacking = Vec::new();
        for (number, reference) in references {
            match reference.as_ref().and_then(|reference| reference.copy_of(&entry)) {
                Some(copy) => {
                    let entry = Entry { node: copy.clone(), ..entry.clone() };
                    self.push(Work::Done(Done::Entry(number, entry)))?;
                }
                None => lacking.push((number, reference)),
            }
        }
        if lacking.is_empty() {
            if let Node::File(file) = &entry.node {
                self.pipeline.monitor.advance(Progress { files: 1, bytes: file.size });
            }
            return Ok(None);
        }
        if let Some(root) = DirectoryRoot::of_entry(&entry) {
            self.path.push(b'/');
            self.path.extend_from_slice(&entry.name);
            let mut pairs = Vec::new();
            for (number, reference) in lacking {
                self.push(Work::Done(Done::Enter(number, Some(entry.clone()))))?;
                pairs.push((number, reference.and_then(|reference| reference.pair())));
            }
            return Ok(Some((root, pairs)));
        }
        let sides: Sides = lacking.into_iter().map(|(number, _)| number).collect();
        match &entry.node {
            Node::File(file) => {
                let file = file.clone();
                self.file(entry, file, sides)?;
            }
            _ => self.push_to(sides, |_| entry.clone())?,
        }
        Ok(None)
    }

    /// The same entry, or what it is there, for each of these targets.
    fn push_to(&mut self, sides: Sides, entry: impl Fn(usize) -> Entry) -> Result<(), OpsError> {
        for (at, number) in sides.iter().enumerate() {
            self.push(Work::Done(Done::Entry(number, entry(at))))?;
        }
        Ok(())
    }

    fn file(&mut self, entry: Entry, file: FileContent, sides: Sides) -> Result<(), OpsError> {
        let mut path = self.path.clone();
        path.push(b'/');
        path.extend_from_slice(&entry.name);
        if let Content::Inline(bytes) = &file.content {
            match copy_inline(self.pipeline, &file, bytes, sides) {
                Ok(files) => {
                    let node = |at: usize| Node::File(files[at].clone());
                    self.push_to(sides, |at| Entry { node: node(at), ..entry.clone() })?;
                }
                Err(Failure::Damage(message)) => {
                    self.pipeline.damaged(self.pipeline.display(&path), message, sides);
                }
                Err(Failure::Stop(error)) => return Err(error),
            }
            self.pipeline.monitor.advance(Progress { files: 1, bytes: 0 });
            return Ok(());
        }
        if file.size > DIGEST_REGION {
            return self.large(entry, file, &path, sides);
        }
        self.batch_bytes += file.size;
        self.has_work = true;
        let piece = match self.pieces(&file).next_piece() {
            Some(Err(error)) if is_damage(&error) => Err(error.to_string()),
            Some(Err(error)) => return Err(error.into()),
            Some(Ok(piece)) => Ok(piece),
            // A file of no bytes.
            None => {
                Ok(Piece { range: 0..0, extents: Vec::new(), has_digest: file.digest.is_some() })
            }
        };
        self.push(Work::Copy(Unread { entry, path, piece, sides }))
    }

    fn pieces(&self, file: &FileContent) -> Pieces<'a> {
        Pieces {
            extents: Extents::new(self.pipeline.trees, file),
            pending: None,
            offset: 0,
            next: 0,
            size: file.size,
            has_digest: file.digest.is_some(),
        }
    }

    fn push(&mut self, work: Work) -> Result<(), OpsError> {
        self.batch.push(work);
        if self.batch.len() >= BATCH_STEPS || self.batch_bytes >= BATCH_BYTES {
            self.send_batch()?;
        }
        Ok(())
    }

    fn send(&self, ordered: Ordered) -> Result<(), OpsError> {
        self.queue.send(ordered).map_err(|_| OpsError::Interrupted)
    }

    fn send_batch(&mut self) -> Result<(), OpsError> {
        let batch = std::mem::take(&mut self.batch);
        self.batch_bytes = 0;
        if batch.is_empty() {
            return Ok(());
        }
        if !std::mem::take(&mut self.has_work) {
            let done = batch.into_iter().filter_map(|work| match work {
                Work::Done(done) => Some(done),
                Work::Copy(_) => None,
            });
            return self.send(Ordered::Ready(done.collect()));
        }
        let (sender, receiver) = sync_channel(1);
        let permit = self.permits.take();
        let (workers, pipeline) = (self.workers, self.pipeline);
        pipeline.data.expect(batch.iter().flat_map(Work::blobs));
        self.scope.spawn(move |_| {
            let hire = || Ok(Segments::new(&pipeline.sides));
            let done = workers.with(hire, |segments| {
                let mut done = Vec::with_capacity(batch.len());
                let mut work = batch.into_iter();
                work.try_for_each(|work| finish(pipeline, segments, work, &mut done))?;
                Ok(done)
            });
            let done = done.map_err(|failure| match failure {
                Failure::Stop(error) => error,
                Failure::Damage(message) => OpsError::Invalid(message),
            });
            drop(permit);
            // Nobody listens when the copy has failed elsewhere.
            let _ = sender.send(done);
        });
        self.send(Ordered::Batch(receiver))
    }

    /// A large file goes piece by piece.
    fn large(
        &mut self,
        entry: Entry,
        file: FileContent,
        path: &[u8],
        sides: Sides,
    ) -> Result<(), OpsError> {
        self.send_batch()?;
        let display = self.pipeline.display(path);
        self.pipeline.monitor.current(&display);
        let mut pieces = self.pieces(&file);
        self.send(Ordered::Large(Box::new(LargeFile { entry, file, display, sides })))?;
        let mut damage = None;
        while let Some(piece) = pieces.next_piece() {
            let piece = match piece {
                Ok(piece) => piece,
                Err(error) if is_damage(&error) => {
                    damage = Some(error.to_string());
                    break;
                }
                Err(error) => return Err(error.into()),
            };
            let (sender, receiver) = sync_channel(1);
            let permit = self.permits.take();
            let (workers, pipeline) = (self.workers, self.pipeline);
            pipeline.data.expect(piece.blobs());
            self.scope.spawn(move |_| {
                let hire = || Ok(Segments::new(&pipeline.sides));
                let copied =
                    workers.with(hire, |segments| copy_piece(pipeline, segments, &piece, sides));
                drop(permit);
                let _ = sender.send(copied);
            });
            self.send(Ordered::Piece(receiver))?;
            if self.pipeline.monitor.interrupted() {
                return Err(OpsError::Interrupted);
            }
        }
        self.pipeline.count_file(sides);
        self.send(Ordered::EndLarge(damage))
    }
}

/// What a worker does with one step.
fn finish<'a>(
    pipeline: &'a Pipeline<'a>,
    segments: &mut Segments<'a>,
    work: Work,
    done: &mut Vec<Done>,
) -> Result<(), Failure> {
    let unread = match work {
        Work::Done(step) => {
            done.push(step);
            return Ok(());
        }
        Work::Copy(unread) => unread,
    };
    let Unread { entry, path, piece, sides } = unread;
    let Node::File(file) = &entry.node else { return Ok(()) };
    let copied = piece.map_err(Failure::Damage).and_then(|piece| {
        let copied = copy_piece(pipeline, segments, &piece, sides)?;
        let digests = Vec::from_iter(copied.digests);
        let digests = prove(pipeline, file.digest, &digests, sides)?;
        Ok(copied.extents.into_iter().zip(digests))
    });
    pipeline.count_file(sides);
    pipeline.monitor.advance(Progress { files: 1, bytes: 0 });
    match copied {
        Ok(copied) => {
            for (number, (extents, digest)) in sides.iter().zip(copied) {
                let content = Content::Extents(extents);
                let node = Node::File(FileContent { size: file.size, content, digest });
                done.push(Done::Entry(number, Entry { node, ..entry.clone() }));
            }
            Ok(())
        }
        Err(Failure::Damage(message)) => {
            pipeline.damaged(pipeline.display(&path), message, sides);
            Ok(())
        }
        Err(stop) => Err(stop),
    }
}

/// A file's extents in pieces of a digest's region each. Holes are divided where pieces are; a chunk that reaches from one
/// piece into the next is in both.
struct Pieces<'r> {
    extents: Extents<'r, 'r>,
    /// The extent that reaches beyond the last piece.
    pending: Option<(u64, Extent)>,
    /// Where the next extent begins.
    offset: u64,
    /// Where the next piece begins.
    next: u64,
    size: u64,
    has_digest: bool,
}

impl Pieces<'_> {
    fn next_piece(&mut self) -> Option<Result<Piece, RepositoryError>> {
        if self.next >= self.size {
            // That there are no more extents than bytes is part of what is read.
            return match self.extents.next() {
                Some(Err(error)) => Some(Err(error)),
                _ => None,
            };
        }
        let range = self.next..self.size.min(self.next + DIGEST_REGION);
        self.next = range.end;
        let mut extents = Vec::from_iter(self.pending.take());
        while self.offset < range.end {
            match self.extents.next() {
                Some(Ok(extent)) => {
                    extents.push((self.offset, extent));
                    self.offset += extent.length();
                }
                Some(Err(error)) => {
                    self.next = self.size;
                    return Some(Err(error));
                }
                None => break,
            }
        }
        if self.offset > range.end {
            self.pending = extents.last().copied();
        }
        let has_digest = self.has_digest;
        Some(Ok(Piece { range, extents, has_digest }))
    }
}
