//! The walk through a snapshot, beside the reference, and the workers that it feeds.

use std::sync::OnceLock;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use parking_lot::{Condvar, Mutex};

use super::Counters;
use super::assemble::{Assembler, Done, Ordered};
use super::content::{Failure, Piece, copy_inline, copy_piece, prove};
use super::reference::{Pair, PairWalk, Reference};
use crate::codec::digest::DIGEST_REGION;
use crate::format::header::ObjectKind;
use crate::id::BlobId;
use crate::monitor::{Monitor, Problem, Progress};
use crate::ops::OpsError;
use crate::repository::error::RepositoryError;
use crate::repository::reader::BlobReader;
use crate::repository::verify::is_damage;
use crate::repository::writer::{SegmentWriter, Writer};
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
    pub writer: &'a Writer<'a>,
    /// Reads the source's chunks.
    pub data: &'a BlobReader<'a>,
    /// Reads the source's directories and chunk lists.
    pub trees: &'a BlobReader<'a>,
    /// Reads the reference's copy.
    pub copies: &'a BlobReader<'a>,
    /// Digests of a region of zeros under the keys of the source and of the target.
    pub zero_regions: [OnceLock<[u8; 32]>; 2],
    pub counters: &'a Counters,
    pub monitor: &'a dyn Monitor,
}

/// A file that a worker copies.
struct Unread {
    entry: Entry,
    path: Vec<u8>,
    /// Its extents, or why they cannot be read.
    piece: Result<Piece, String>,
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

/// How many pieces of work may be with the workers at a time.
struct Permits {
    free: Mutex<usize>,
    returned: Condvar,
}

impl Permits {
    fn take(&self) -> Permit<'_> {
        let mut free = self.free.lock();
        while *free == 0 {
            self.returned.wait(&mut free);
        }
        *free -= 1;
        Permit { permits: self }
    }
}

/// One piece of work with the workers; over when it is dropped, however the work ended.
struct Permit<'p> {
    permits: &'p Permits,
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        *self.permits.free.lock() += 1;
        self.permits.returned.notify_one();
    }
}

/// Workers that are not at work just now: the open segment of each.
struct Workers<'w> {
    writer: &'w Writer<'w>,
    idle: Mutex<Vec<SegmentWriter<'w>>>,
}

impl<'w> Workers<'w> {
    fn with<T>(
        &self,
        work: impl FnOnce(&mut SegmentWriter<'w>) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let idle = self.idle.lock().pop();
        let mut segments = match idle {
            Some(segments) => segments,
            None => self.writer.segments(ObjectKind::DataPack).map_err(Failure::of_target)?,
        };
        let result = work(&mut segments);
        self.idle.lock().push(segments);
        result
    }

    fn flush(&self) -> Result<(), RepositoryError> {
        std::mem::take(&mut *self.idle.lock()).into_iter().try_for_each(|mut one| one.flush())
    }
}

/// A directory that is being gone through.
struct Frame<'r> {
    entries: Entries<'r, 'r>,
    reference: Option<PairWalk<'r, 'r>>,
    path_length: usize,
}

/// The walk's side of a run.
struct Feeder<'s, 'scope, 'a> {
    pipeline: &'a Pipeline<'a>,
    scope: &'s rayon::Scope<'scope>,
    workers: &'scope Workers<'a>,
    permits: &'scope Permits,
    queue: SyncSender<Ordered>,
    batch: Vec<Work>,
    batch_bytes: u64,
    has_work: bool,
    path: Vec<u8>,
}

impl<'a> Pipeline<'a> {
    /// Goes through the directory `root` of the source to its end. Everything that was read is in the writer afterwards,
    /// also after an interruption.
    pub fn run(
        &'a self,
        root: DirectoryRoot,
        reference: Option<Pair>,
        assembler: &mut Assembler<'_, '_>,
    ) -> Result<(), OpsError> {
        let workers = Workers { writer: self.writer, idle: Mutex::default() };
        let free = Mutex::new(rayon::current_num_threads() * 2 + 2);
        let permits = Permits { free, returned: Condvar::new() };
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
                feeder.walk(root, reference)
            });
            (walked, assembling.join())
        });
        let flushed = workers.flush();
        let assembled = assembled.unwrap_or_else(|_| {
            Err(OpsError::Invalid("the thread that builds directories failed".into()))
        });
        // The assembler's error is the reason, the walk's then only that nobody listened any more.
        assembled.and(walked)?;
        Ok(flushed?)
    }

    /// Something of the snapshot cannot be read: it will not be copied.
    pub fn damaged(&self, item: String, message: String) {
        self.counters.damaged.fetch_add(1, Ordering::Relaxed);
        self.monitor.problem(Problem { item, during: "copy", message });
    }

    fn display(&self, path: &[u8]) -> String {
        let path = if path.is_empty() { b"/" } else { path };
        format!("{}:{}", self.snapshot, Printable(path))
    }
}

impl<'scope, 'a: 'scope> Feeder<'_, 'scope, 'a> {
    fn enter(&self, root: DirectoryRoot, reference: Option<Pair>, path_length: usize) -> Frame<'a> {
        let Pipeline { trees, copies, .. } = self.pipeline;
        Frame {
            entries: Entries::new(trees, root),
            reference: reference.map(|pair| PairWalk::new(trees, copies, pair)),
            path_length,
        }
    }

    fn walk(&mut self, root: DirectoryRoot, reference: Option<Pair>) -> Result<(), OpsError> {
        self.push(Work::Done(Done::Enter(None)))?;
        let mut frames = vec![self.enter(root, reference, 0)];
        while let Some(frame) = frames.last_mut() {
            if self.pipeline.monitor.interrupted() {
                self.send_batch()?;
                return Err(OpsError::Interrupted);
            }
            match frame.entries.next() {
                Some(Ok(entry)) => {
                    let reference =
                        frame.reference.as_mut().and_then(|pair| pair.find(&entry.name));
                    if let Some((root, pair)) = self.entry(entry, reference)? {
                        let above = self.path.iter().rposition(|byte| *byte == b'/');
                        frames.push(self.enter(root, pair, above.unwrap_or(0)));
                    }
                }
                Some(Err(error)) if is_damage(&error) => {
                    let message = format!("a part of its entries cannot be read: {error}");
                    self.pipeline.damaged(self.pipeline.display(&self.path), message);
                }
                Some(Err(error)) => return Err(error.into()),
                None => {
                    self.path.truncate(frame.path_length);
                    frames.pop();
                    self.push(Work::Done(Done::Leave))?;
                }
            }
        }
        self.send_batch()
    }

    /// Decides what is to be done with one entry. Of a directory that has to be gone through, its root and its reference.
    fn entry(
        &mut self,
        mut entry: Entry,
        reference: Option<Reference>,
    ) -> Result<Option<(DirectoryRoot, Option<Pair>)>, OpsError> {
        if let Some(copy) = reference.as_ref().and_then(|reference| reference.copy_of(&entry)) {
            if let Node::File(file) = &entry.node {
                self.pipeline.monitor.advance(Progress { files: 1, bytes: file.size });
            }
            entry.node = copy.clone();
            self.push(Work::Done(Done::Entry(entry)))?;
            return Ok(None);
        }
        if let Some(root) = DirectoryRoot::of_entry(&entry) {
            self.path.push(b'/');
            self.path.extend_from_slice(&entry.name);
            self.push(Work::Done(Done::Enter(Some(entry))))?;
            return Ok(Some((root, reference.and_then(|reference| reference.pair()))));
        }
        let Node::File(file) = &entry.node else {
            self.push(Work::Done(Done::Entry(entry)))?;
            return Ok(None);
        };
        let mut path = self.path.clone();
        path.push(b'/');
        path.extend_from_slice(&entry.name);
        match &file.content {
            Content::Inline(bytes) => {
                let done = match copy_inline(self.pipeline, file, bytes) {
                    Ok(file) => Done::Entry(Entry { node: Node::File(file), ..entry }),
                    Err(Failure::Damage(message)) => {
                        self.pipeline.damaged(self.pipeline.display(&path), message);
                        Done::Damaged
                    }
                    Err(Failure::Stop(error)) => return Err(error),
                };
                self.pipeline.monitor.advance(Progress { files: 1, bytes: 0 });
                self.push(Work::Done(done))?;
            }
            _ if file.size > DIGEST_REGION => {
                let file = file.clone();
                self.large(entry, file, &path)?;
            }
            _ => {
                self.batch_bytes += file.size;
                self.has_work = true;
                let piece = match self.pieces(file).next_piece() {
                    Some(Err(error)) if is_damage(&error) => Err(error.to_string()),
                    Some(Err(error)) => return Err(error.into()),
                    Some(Ok(piece)) => Ok(piece),
                    // A file of no bytes.
                    None => Ok(Piece {
                        range: 0..0,
                        extents: Vec::new(),
                        has_digest: file.digest.is_some(),
                    }),
                };
                self.push(Work::Copy(Unread { entry, path, piece }))?;
            }
        }
        Ok(None)
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
            let done = workers.with(|segments| {
                batch.into_iter().map(|work| finish(pipeline, segments, work)).collect()
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
    fn large(&mut self, entry: Entry, file: FileContent, path: &[u8]) -> Result<(), OpsError> {
        self.send_batch()?;
        let display = self.pipeline.display(path);
        self.pipeline.monitor.current(&display);
        let mut pieces = self.pieces(&file);
        self.send(Ordered::Large(Box::new((entry, file, display))))?;
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
                let copied = workers.with(|segments| copy_piece(pipeline, segments, &piece));
                drop(permit);
                let _ = sender.send(copied);
            });
            self.send(Ordered::Piece(receiver))?;
            if self.pipeline.monitor.interrupted() {
                return Err(OpsError::Interrupted);
            }
        }
        self.pipeline.counters.files_read.fetch_add(1, Ordering::Relaxed);
        self.send(Ordered::EndLarge(damage))
    }
}

/// What a worker does with one step.
fn finish(
    pipeline: &Pipeline<'_>,
    segments: &mut SegmentWriter<'_>,
    work: Work,
) -> Result<Done, Failure> {
    let unread = match work {
        Work::Done(done) => return Ok(done),
        Work::Copy(unread) => unread,
    };
    let Unread { entry, path, piece } = unread;
    let Node::File(file) = &entry.node else { return Ok(Done::Entry(entry)) };
    let copied = piece.map_err(Failure::Damage).and_then(|piece| {
        let copied = copy_piece(pipeline, segments, &piece)?;
        let digests = Vec::from_iter(copied.digests);
        let digest = prove(pipeline, file.digest, &digests)?;
        Ok(FileContent { size: file.size, content: Content::Extents(copied.extents), digest })
    });
    pipeline.counters.files_read.fetch_add(1, Ordering::Relaxed);
    pipeline.monitor.advance(Progress { files: 1, bytes: 0 });
    match copied {
        Ok(file) => Ok(Done::Entry(Entry { node: Node::File(file), ..entry })),
        Err(Failure::Damage(message)) => {
            pipeline.damaged(pipeline.display(&path), message);
            Ok(Done::Damaged)
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
