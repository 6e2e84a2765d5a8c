//! The walk, and the workers that it feeds.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use super::ChangeDetection;
use super::assemble::{Assembler, Change, Done, LargeFile, Ordered};
use super::content::{ContentError, Cutting, REGION, RegionContent, Worker};
use super::journal::Resumed;
use super::old::{OldChunks, OldFile};
use super::parent::ParentWalk;
use crate::format::header::ObjectKind;
use crate::format::list::ListNode;
use crate::id::BlobId;
use crate::monitor::{Monitor, Problem, Progress};
use crate::ops::OpsError;
use crate::ops::crew::{Idle, Permits};
use crate::repository::error::RepositoryError;
use crate::repository::reader::BlobReader;
use crate::repository::writer::Writer;
use crate::source::{OpenFile, Readable, Source, Step};
use crate::tree::entry::{Content, Entry, Extent, FileContent, Node};
use crate::view::{Extents, list_node};

/// A batch is handed to a worker when its files hold this many bytes …
const BATCH_BYTES: u64 = 1 << 20;
/// … or when there are this many steps in it.
const BATCH_STEPS: usize = 512;
/// Messages that may wait for the assembler.
const QUEUE: usize = 64;

/// A file that a worker must read.
struct Unread {
    entry: Entry,
    readable: Arc<dyn Readable>,
    change: Change,
    /// What the parent has of it.
    old: OldChunks,
}

/// A step of a batch.
enum Work {
    Done(Done),
    Read(Unread),
}

/// The workers, each with its open segment.
struct Workers<'w> {
    writer: &'w Writer<'w>,
    /// Opens what deltas are made against; `None`: there are to be none.
    bases: Option<&'w BlobReader<'w>>,
    idle: Idle<Worker<'w>>,
}

impl<'w> Workers<'w> {
    fn with<T>(
        &self,
        work: impl FnOnce(&mut Worker<'w>) -> Result<T, ContentError>,
    ) -> Result<T, ContentError> {
        let hire = || {
            let deltas = self.bases.map(|reader| self.writer.deltas(reader));
            Ok(Worker::new(self.writer.segments(ObjectKind::DataPack)?, deltas))
        };
        self.idle.with(hire, work)
    }

    fn flush(&self) -> Result<(), RepositoryError> {
        self.idle.dismiss().into_iter().try_for_each(|mut worker| worker.flush())
    }
}

/// What a run needs beside the source and the parent.
pub struct Pipeline<'a> {
    pub writer: &'a Writer<'a>,
    pub cutting: &'a Cutting<'a>,
    pub resumed: &'a Resumed,
    /// Reads chunk lists, to see whether all their chunks are there.
    pub reader: &'a BlobReader<'a>,
    /// Opens what deltas are made against; `None`: there are to be none.
    pub bases: Option<&'a BlobReader<'a>>,
    pub detection: ChangeDetection,
    /// Whether everything that the parent refers to can be taken to be there.
    pub trusts_parent: bool,
}

/// The walk's side of a run.
struct Feeder<'s, 'scope, 'a> {
    pipeline: &'s Pipeline<'a>,
    scope: &'s rayon::Scope<'scope>,
    workers: &'scope Workers<'a>,
    permits: &'scope Permits,
    queue: SyncSender<Ordered>,
    batch: Vec<Work>,
    batch_bytes: u64,
    has_work: bool,
    path: Vec<u8>,
    lengths: Vec<usize>,
}

impl<'a> Pipeline<'a> {
    /// Walks the source to its end. Everything that was read is in the writer afterwards, also after an
    /// interruption.
    pub fn run(
        &self,
        source: &mut dyn Source,
        mut parent: ParentWalk<'_, '_>,
        assembler: &mut Assembler<'_, '_>,
    ) -> Result<(), OpsError> {
        let workers = Workers { writer: self.writer, bases: self.bases, idle: Idle::new() };
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
                    lengths: Vec::new(),
                };
                feeder.walk(source, &mut parent)
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
}

impl<'scope, 'a: 'scope> Feeder<'_, 'scope, 'a> {
    fn monitor(&self) -> &'a dyn Monitor {
        self.pipeline.cutting.monitor
    }

    fn walk(
        &mut self,
        source: &mut dyn Source,
        parent: &mut ParentWalk<'_, '_>,
    ) -> Result<(), OpsError> {
        while let Some(step) = source.next(self.monitor())? {
            match step {
                Step::Enter(entry) => {
                    self.lengths.push(self.path.len());
                    if !entry.name.is_empty() {
                        self.path.push(b'/');
                        self.path.extend_from_slice(&entry.name);
                    }
                    let previous = parent.enter(&entry.name).map(Box::new);
                    self.push(Work::Done(Done::Enter { entry, previous }))?;
                }
                Step::Leave => {
                    parent.leave();
                    self.path.truncate(self.lengths.pop().unwrap_or(0));
                    self.push(Work::Done(Done::Leave))?;
                }
                Step::Entry { entry, readable } => {
                    let previous = parent.find(&entry.name);
                    self.entry(entry, readable, previous)?;
                }
            }
            if self.monitor().interrupted() {
                self.send_batch()?;
                return Err(OpsError::Interrupted);
            }
        }
        self.send_batch()
    }

    /// Decides what is to be done with one entry.
    fn entry(
        &mut self,
        mut entry: Entry,
        readable: Arc<dyn Readable>,
        previous: Option<Entry>,
    ) -> Result<(), OpsError> {
        let detection = self.pipeline.detection;
        let is_file = matches!(entry.node, Node::File(_));
        let change = if previous.is_some() { Change::Changed } else { Change::New };
        let mut old = None;
        if let Some(mut previous) = previous {
            if detection.is_unchanged(&previous, &entry)
                && (self.pipeline.trusts_parent || self.is_complete(&previous)?)
            {
                entry.node = previous.node;
                entry.metadata.attributes = std::mem::take(&mut previous.metadata.attributes);
                return self.unmodified(entry);
            }
            if let (Node::File(file), Some(_)) = (previous.node, self.pipeline.bases) {
                old = Some(OldFile::new(self.pipeline.reader, &file));
            }
        }
        if is_file
            && !self.pipeline.resumed.is_empty()
            && let Some(read) = self.resume(&entry)?
        {
            entry.node = read.node;
            entry.metadata.attributes = read.metadata.attributes;
            self.monitor().advance(Progress { files: 1, bytes: entry.size() });
            return self.push(Work::Done(Done::Entry { entry, change, journal: true }));
        }
        if !is_file {
            match readable.attributes() {
                Ok(attributes) => entry.metadata.attributes = attributes,
                Err(error) => self.problem(readable.display(), "metadata", error.to_string()),
            }
            return self.push(Work::Done(Done::Entry { entry, change, journal: false }));
        }
        let size = entry.size();
        if size > REGION || readable_is_stream(&entry) {
            return self.large(entry, &readable, change, old);
        }
        self.batch_bytes += size;
        self.has_work = true;
        let old = old.map_or_else(OldChunks::default, |mut old| old.around(0, size));
        // The permits bound how many are announced and not read yet.
        readable.announce(size);
        self.push(Work::Read(Unread { entry, readable, change, old }))
    }

    fn unmodified(&mut self, entry: Entry) -> Result<(), OpsError> {
        if matches!(entry.node, Node::File(_)) {
            self.monitor().advance(Progress { files: 1, bytes: entry.size() });
        }
        self.push(Work::Done(Done::Entry { entry, change: Change::Unmodified, journal: false }))
    }

    /// What an earlier, interrupted run read of this file, when everything it stored is there.
    fn resume(&self, entry: &Entry) -> Result<Option<Entry>, OpsError> {
        let mut path = self.path.clone();
        path.push(b'/');
        path.extend_from_slice(&entry.name);
        let found = self.pipeline.resumed.find(&path, entry, &self.pipeline.detection);
        match found {
            Some(found) if self.is_complete(&found)? => Ok(Some(found)),
            _ => Ok(None),
        }
    }

    /// Whether the repository has every blob of this entry. A list that cannot be read is not complete.
    fn is_complete(&self, entry: &Entry) -> Result<bool, OpsError> {
        let Node::File(file) = &entry.node else { return Ok(true) };
        if let Content::List { root, height } = &file.content
            && !self.has_list(*root, *height)?
        {
            return Ok(false);
        }
        for extent in Extents::new(self.pipeline.reader, file) {
            match extent {
                Ok(Extent::Hole { .. }) => {}
                Ok(Extent::Data { blob, .. }) if self.pipeline.writer.has(&blob)? => {}
                _ => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Whether the repository has every node of a chunk list. That a node can be read does not tell: it may
    /// stand in a pack that counts as missing.
    fn has_list(&self, root: BlobId, height: u8) -> Result<bool, OpsError> {
        let mut pending = vec![(root, height)];
        while let Some((node, height)) = pending.pop() {
            if !self.pipeline.writer.has(&node)? {
                return Ok(false);
            }
            match height.checked_sub(1).map(|below| (list_node(self.pipeline.reader, &node), below))
            {
                None => {}
                Some((Ok(ListNode::Branch(children)), below)) => {
                    pending.extend(children.iter().map(|child| (child.blob, below)));
                }
                Some(_) => return Ok(false),
            }
        }
        Ok(true)
    }

    fn problem(&self, item: String, during: &'static str, message: String) {
        self.monitor().problem(Problem { item, during, message });
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
                Work::Read(_) => None,
            });
            return self.send(Ordered::Ready(done.collect()));
        }
        let (sender, receiver) = sync_channel(1);
        let permit = self.permits.take();
        let (workers, cutting) = (self.workers, self.pipeline.cutting);
        self.scope.spawn(move |_| {
            let done = workers
                .with(|worker| batch.into_iter().map(|work| read(worker, cutting, work)).collect());
            drop(permit);
            // Nobody listens when the backup has failed elsewhere.
            let _ = sender.send(done);
        });
        self.send(Ordered::Batch(receiver))
    }

    /// A large file goes region by region; a stream goes as it comes.
    fn large(
        &mut self,
        entry: Entry,
        readable: &Arc<dyn Readable>,
        change: Change,
        mut old: Option<OldFile<'_, '_>>,
    ) -> Result<(), OpsError> {
        self.send_batch()?;
        self.monitor().current(&readable.display());
        let opened = readable.open().and_then(|file| {
            let now = file.stat()?;
            Ok((Arc::<dyn OpenFile>::from(file), now))
        });
        let (file, entry) = match opened {
            Ok((file, Some(mut now))) => {
                now.name = entry.name;
                (file, now)
            }
            Ok((file, None)) => (file, entry),
            Err(error) => {
                self.problem(readable.display(), "read", error.to_string());
                return Ok(());
            }
        };
        let size = entry.size();
        let display = readable.display();
        self.send(Ordered::Large(Box::new(LargeFile {
            entry,
            file: file.clone(),
            change,
            display,
        })))?;
        if file.is_seekable() {
            for from in (0..size).step_by(REGION as usize) {
                let to = size.min(from + REGION);
                let file = file.clone();
                let old = old.as_mut().map(|old| old.around(from, to)).unwrap_or_default();
                self.spawn_region(move |worker, cutting, sender| {
                    let region = worker.read_region(cutting, file.as_ref(), from, to, &old);
                    let _ = sender.send(region);
                    Ok(())
                })?;
                if self.monitor().interrupted() {
                    return Err(OpsError::Interrupted);
                }
            }
        } else {
            self.spawn_region(move |worker, cutting, sender| {
                let hand_on = |region| sender.send(Ok(region)).is_ok();
                if let Err(error) = worker.read_stream(cutting, &file, hand_on) {
                    let _ = sender.send(Err(error));
                }
                Ok(())
            })?;
        }
        self.send(Ordered::EndLarge)
    }

    fn spawn_region(
        &self,
        work: impl FnOnce(
            &mut Worker<'a>,
            &Cutting<'a>,
            &SyncSender<Result<RegionContent, ContentError>>,
        ) -> Result<(), ContentError>
        + Send
        + 'scope,
    ) -> Result<(), OpsError> {
        let (sender, receiver) = sync_channel(2);
        let permit = self.permits.take();
        let (workers, cutting) = (self.workers, self.pipeline.cutting);
        self.scope.spawn(move |_| {
            let worked = workers.with(|worker| work(worker, cutting, &sender));
            drop(permit);
            if let Err(error) = worked {
                let _ = sender.send(Err(error));
            }
        });
        self.send(Ordered::Region(receiver))
    }
}

/// A stream tells its size as unknown; it is the one file without an inode.
fn readable_is_stream(entry: &Entry) -> bool {
    entry.metadata.inode == 0 && entry.metadata.device == 0
}

/// One step of a batch, on a worker.
fn read(worker: &mut Worker<'_>, cutting: &Cutting<'_>, work: Work) -> Result<Done, ContentError> {
    let unread = match work {
        Work::Done(done) => return Ok(done),
        Work::Read(unread) => unread,
    };
    if cutting.monitor.interrupted() {
        return Err(ContentError::Interrupted);
    }
    let display = unread.readable.display();
    cutting.monitor.current(&display);
    let problem = |message: String| {
        cutting.monitor.problem(Problem { item: display.clone(), during: "read", message });
    };
    match read_file(worker, cutting, &unread) {
        Ok((entry, torn)) => {
            cutting.monitor.advance(Progress { files: 1, bytes: 0 });
            if torn {
                problem("changed while it was read; what was read is in the snapshot".into());
                return Ok(Done::Entry { entry, change: unread.change, journal: false });
            }
            Ok(Done::Entry { entry, change: unread.change, journal: true })
        }
        Err(ContentError::Read(error)) => {
            problem(match error.kind() {
                std::io::ErrorKind::NotFound => "vanished before it was read".into(),
                _ => error.to_string(),
            });
            Ok(Done::Failed)
        }
        Err(error) => Err(error),
    }
}

/// Reads a file whole. Returns the entry as it was at the end, and whether it changed meanwhile: once it is
/// read again, so that only a file that keeps changing is torn.
fn read_file(
    worker: &mut Worker<'_>,
    cutting: &Cutting<'_>,
    unread: &Unread,
) -> Result<(Entry, bool), ContentError> {
    let mut before = unread.entry.clone();
    for attempt in 0..2 {
        let file = unread.readable.open()?;
        let size = before.size();
        let content = if size <= u64::from(cutting.chunker.params().minimum) {
            let content = worker.read_small(file.as_ref(), size, &unread.old)?;
            cutting.monitor.advance(Progress { files: 0, bytes: content.size });
            content
        } else {
            let to = size.min(REGION);
            let region = worker.read_region(cutting, file.as_ref(), 0, to, &unread.old)?;
            region_content(cutting, region)
        };
        let Some(mut now) = file.stat()? else {
            before.node = Node::File(content);
            return Ok((before, false));
        };
        let same = now.metadata.mtime == before.metadata.mtime
            && now.metadata.ctime == before.metadata.ctime
            && now.size() == content.size
            && size == content.size;
        now.name = unread.entry.name.clone();
        if same {
            now.node = Node::File(content);
            return Ok((now, false));
        }
        if attempt == 1 {
            // Recorded as it was before this reading: the next run finds it changed and reads it again,
            // where the times of now would pass the torn bytes off as the file for ever.
            before.name = now.name;
            before.metadata.attributes = now.metadata.attributes;
            before.node = Node::File(content);
            return Ok((before, true));
        }
        before = now;
    }
    Ok((before, true))
}

fn region_content(cutting: &Cutting<'_>, region: RegionContent) -> FileContent {
    let single = matches!(region.extents.as_slice(), [Extent::Data { .. }]);
    let digest =
        (!single && region.length > 0).then(|| cutting.naming.file_digest(&region.digests));
    let content =
        if region.length == 0 { Content::default() } else { Content::Extents(region.extents) };
    FileContent { size: region.length, content, digest }
}
