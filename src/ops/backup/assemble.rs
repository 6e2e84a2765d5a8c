//! Puts the results of the workers back into the walk's order, and builds directories from the leaves up.

use std::sync::Arc;
use std::sync::mpsc::Receiver;

use super::content::{ContentError, Cutting, RegionContent};
use super::journal::Journal;
use crate::format::snapshot::BackupCounts;
use crate::monitor::{Monitor, Problem, Progress};
use crate::ops::OpsError;
use crate::ops::nodes::{DirectoryBuilder, ListBuilder, store_long_list};
use crate::repository::writer::SegmentWriter;
use crate::source::OpenFile;
use crate::tree::entry::{Entry, FileContent, Node};
use crate::view::DirectoryRoot;

/// What the parent knew of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Nothing.
    New,
    /// Something else.
    Changed,
    /// The same content; nothing was read.
    Unmodified,
}

/// A finished step of the walk.
pub enum Done {
    /// A directory begins; what the parent had in its place.
    Enter { entry: Entry, previous: Option<Box<Entry>> },
    /// An entry, its content known. `journal`: it was read by this run.
    Entry { entry: Entry, change: Change, journal: bool },
    /// A file that could not be read: its place in the listing stays empty.
    Failed,
    /// The directory entered last ends.
    Leave,
}

/// What comes from the walk, in its order.
pub enum Ordered {
    /// Steps that are finished already.
    Ready(Vec<Done>),
    /// Steps that a worker finishes.
    Batch(Receiver<Result<Vec<Done>, ContentError>>),
    /// A file so large that its regions are finished one by one.
    Large(Box<LargeFile>),
    /// The next region of the large file that began last.
    Region(Receiver<Result<RegionContent, ContentError>>),
    /// All regions of the large file were sent.
    EndLarge,
}

/// A large file, or a stream.
pub struct LargeFile {
    /// The entry as it was when the file was opened.
    pub entry: Entry,
    /// The open file.
    pub file: Arc<dyn OpenFile>,
    /// What the parent knew of it.
    pub change: Change,
    /// Its path, for people.
    pub display: String,
}

struct OpenDirectory {
    entry: Entry,
    previous: Option<Box<Entry>>,
    builder: DirectoryBuilder,
    path_length: usize,
}

struct OpenLarge {
    large: LargeFile,
    list: ListBuilder,
    digests: Vec<[u8; 32]>,
    size: u64,
    failure: Option<std::io::Error>,
}

/// Builds the snapshot's trees.
pub struct Assembler<'w, 'a> {
    trees: SegmentWriter<'w>,
    cutting: &'a Cutting<'a>,
    monitor: &'a dyn Monitor,
    journal: Option<Journal>,
    directories: Vec<OpenDirectory>,
    path: Vec<u8>,
    large: Option<OpenLarge>,
    root: Option<DirectoryRoot>,
    /// What was counted.
    pub counts: BackupCounts,
}

impl<'w, 'a> Assembler<'w, 'a> {
    pub fn new(
        trees: SegmentWriter<'w>,
        cutting: &'a Cutting<'a>,
        journal: Option<Journal>,
    ) -> Self {
        Assembler {
            trees,
            cutting,
            monitor: cutting.monitor,
            journal,
            directories: Vec::new(),
            path: Vec::new(),
            large: None,
            root: None,
            counts: BackupCounts::default(),
        }
    }

    /// Takes everything that comes, until the walk ends.
    pub fn run(&mut self, queue: &Receiver<Ordered>) -> Result<(), OpsError> {
        while let Ok(ordered) = queue.recv() {
            match ordered {
                Ordered::Ready(steps) => self.take_all(steps)?,
                Ordered::Batch(receiver) => {
                    let steps = receiver.recv().map_err(|_| OpsError::Interrupted)??;
                    self.take_all(steps)?;
                }
                Ordered::Large(large) => {
                    self.large = Some(OpenLarge {
                        large: *large,
                        list: ListBuilder::new(),
                        digests: Vec::new(),
                        size: 0,
                        failure: None,
                    });
                }
                Ordered::Region(receiver) => {
                    // A stream sends many, a region of a file one.
                    while let Ok(region) = receiver.recv() {
                        self.take_region(region)?;
                    }
                }
                Ordered::EndLarge => self.end_large()?,
            }
        }
        Ok(())
    }

    fn take_all(&mut self, steps: Vec<Done>) -> Result<(), OpsError> {
        steps.into_iter().try_for_each(|step| self.take(step))
    }

    fn take(&mut self, step: Done) -> Result<(), OpsError> {
        match step {
            Done::Enter { entry, previous } => {
                let path_length = self.path.len();
                if !entry.name.is_empty() {
                    self.path.push(b'/');
                    self.path.extend_from_slice(&entry.name);
                }
                let builder = DirectoryBuilder::new();
                self.directories.push(OpenDirectory { entry, previous, builder, path_length });
            }
            Done::Entry { entry, change, journal } => self.add(entry, change, journal)?,
            Done::Failed => {}
            Done::Leave => self.leave()?,
        }
        Ok(())
    }

    fn add(&mut self, mut entry: Entry, change: Change, journal: bool) -> Result<(), OpsError> {
        if let Node::File(file) = &entry.node {
            self.counts.total_files_processed += 1;
            self.counts.total_bytes_processed += file.size;
            match change {
                Change::New => self.counts.files_new += 1,
                Change::Changed => self.counts.files_changed += 1,
                Change::Unmodified => self.counts.files_unmodified += 1,
            }
            if let Some(journal) = self.journal.as_mut().filter(|_| journal) {
                let length = self.path.len();
                self.path.push(b'/');
                self.path.extend_from_slice(&entry.name);
                journal.record(&self.path, &entry);
                self.path.truncate(length);
            }
        }
        // After the journal, which keeps the chunks themselves: a list's own blobs may never be stored.
        store_long_list(&mut entry, &mut self.trees)?;
        if let Some(directory) = self.directories.last_mut() {
            directory.builder.push(&entry, &mut self.trees)?;
        }
        Ok(())
    }

    fn leave(&mut self) -> Result<(), OpsError> {
        let Some(directory) = self.directories.pop() else { return Ok(()) };
        self.path.truncate(directory.path_length);
        let root = directory.builder.finish(&mut self.trees)?;
        let Some(parent) = self.directories.last_mut() else {
            self.root = Some(root);
            return Ok(());
        };
        let mut entry = directory.entry;
        entry.node = Node::Directory { root: root.blob, height: root.height };
        match directory.previous {
            Some(previous) if *previous == entry => self.counts.dirs_unmodified += 1,
            Some(previous) if previous.node.is_directory() => self.counts.dirs_changed += 1,
            _ => self.counts.dirs_new += 1,
        }
        parent.builder.push(&entry, &mut self.trees)?;
        Ok(())
    }

    fn take_region(&mut self, region: Result<RegionContent, ContentError>) -> Result<(), OpsError> {
        let Some(open) = self.large.as_mut() else { return Ok(()) };
        match region {
            Ok(region) => {
                for extent in region.extents {
                    open.list.push(extent, &mut self.trees)?;
                }
                open.digests.extend(region.digests);
                open.size += region.length;
                Ok(())
            }
            Err(ContentError::Read(error)) => {
                open.failure.get_or_insert(error);
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    fn end_large(&mut self) -> Result<(), OpsError> {
        let Some(open) = self.large.take() else { return Ok(()) };
        let problem = |message: String| {
            self.monitor.problem(Problem {
                item: open.large.display.clone(),
                during: "read",
                message,
            });
        };
        if let Some(error) = open.failure {
            problem(error.to_string());
            return Ok(());
        }
        let single = open.list.is_single_chunk();
        let content = open.list.finish(&mut self.trees)?;
        let digest =
            (!single && open.size > 0).then(|| self.cutting.naming.file_digest(&open.digests));
        // As it was when it was opened. When it has changed since, the next run finds that, and reads it again.
        let mut entry = open.large.entry;
        let mut whole = true;
        match open.large.file.stat() {
            Ok(Some(now)) => {
                whole = now.metadata.mtime == entry.metadata.mtime
                    && now.metadata.ctime == entry.metadata.ctime
                    && now.size() == open.size;
                if !whole {
                    problem("changed while it was read; what was read is in the snapshot".into());
                }
            }
            Ok(None) => {}
            Err(error) => {
                whole = false;
                problem(error.to_string());
            }
        }
        entry.node = Node::File(FileContent { size: open.size, content, digest });
        self.monitor.advance(Progress { files: 1, bytes: 0 });
        self.add(entry, open.large.change, whole)
    }

    /// The snapshot's root, when the walk went through; the journal; everything stored.
    pub fn finish(mut self) -> Result<(Option<DirectoryRoot>, Option<Journal>), OpsError> {
        self.trees.flush()?;
        Ok((self.root, self.journal))
    }

    /// What the journal holds is handed to the system, for the next run.
    pub fn flush_journal(&mut self) {
        if let Some(journal) = self.journal.as_mut() {
            journal.flush();
        }
    }
}
