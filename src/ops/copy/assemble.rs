//! Puts what the workers have copied back into the walk's order, and builds the target's directories from the leaves up.

use std::sync::mpsc::Receiver;

use super::content::{Copied, Failure, prove};
use super::walk::Pipeline;
use crate::monitor::Progress;
use crate::ops::OpsError;
use crate::ops::nodes::{DirectoryBuilder, INLINE_EXTENTS, ListBuilder};
use crate::repository::writer::SegmentWriter;
use crate::tree::entry::{Content, Entry, FileContent, Node};
use crate::view::DirectoryRoot;

/// A finished step of the walk.
pub enum Done {
    /// A directory begins; `None`: the root.
    Enter(Option<Entry>),
    /// An entry as it is to stand in the target, but for long lists of extents.
    Entry(Entry),
    /// What could not be read, and was named: the snapshot will not be copied.
    Damaged,
    /// The directory entered last ends.
    Leave,
}

/// What comes from the walk, in its order.
pub enum Ordered {
    /// Steps that are finished already.
    Ready(Vec<Done>),
    /// Steps that a worker finishes.
    Batch(Receiver<Result<Vec<Done>, OpsError>>),
    /// A file so large that its pieces are copied one by one, and what it is called.
    Large(Box<(Entry, FileContent, String)>),
    /// The next piece of the large file that began last.
    Piece(Receiver<Result<Copied, Failure>>),
    /// All pieces of the large file were sent, unless what they are could not be read.
    EndLarge(Option<String>),
}

struct OpenLarge {
    entry: Entry,
    file: FileContent,
    display: String,
    list: ListBuilder,
    digests: Vec<[[u8; 32]; 2]>,
    damage: Option<String>,
}

/// Builds the copy's trees.
pub struct Assembler<'w, 'p> {
    trees: SegmentWriter<'w>,
    pipeline: &'p Pipeline<'p>,
    directories: Vec<(Option<Entry>, DirectoryBuilder)>,
    large: Option<OpenLarge>,
    root: Option<DirectoryRoot>,
}

impl<'w, 'p> Assembler<'w, 'p> {
    pub fn new(trees: SegmentWriter<'w>, pipeline: &'p Pipeline<'p>) -> Self {
        Assembler { trees, pipeline, directories: Vec::new(), large: None, root: None }
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
                    let (entry, file, display) = *large;
                    self.large = Some(OpenLarge {
                        entry,
                        file,
                        display,
                        list: ListBuilder::new(),
                        digests: Vec::new(),
                        damage: None,
                    });
                }
                Ordered::Piece(receiver) => {
                    let piece = receiver.recv().map_err(|_| OpsError::Interrupted)?;
                    self.take_piece(piece)?;
                }
                Ordered::EndLarge(damage) => self.end_large(damage)?,
            }
        }
        Ok(())
    }

    fn take_all(&mut self, steps: Vec<Done>) -> Result<(), OpsError> {
        steps.into_iter().try_for_each(|step| self.take(step))
    }

    fn take(&mut self, step: Done) -> Result<(), OpsError> {
        match step {
            Done::Enter(entry) => self.directories.push((entry, DirectoryBuilder::new())),
            Done::Entry(entry) => self.add(entry)?,
            Done::Damaged => {}
            Done::Leave => {
                let Some((entry, builder)) = self.directories.pop() else { return Ok(()) };
                let root = builder.finish(&mut self.trees)?;
                match entry {
                    None => self.root = Some(root),
                    Some(entry) => {
                        let node = Node::Directory { root: root.blob, height: root.height };
                        self.add(Entry { node, ..entry })?;
                    }
                }
            }
        }
        Ok(())
    }

    fn add(&mut self, mut entry: Entry) -> Result<(), OpsError> {
        if let Node::File(FileContent { content, .. }) = &mut entry.node
            && let Content::Extents(extents) = content
            && extents.len() > INLINE_EXTENTS
        {
            let mut list = ListBuilder::new();
            for extent in std::mem::take(extents) {
                list.push(extent, &mut self.trees)?;
            }
            *content = list.finish(&mut self.trees)?;
        }
        if let Some((_, builder)) = self.directories.last_mut() {
            builder.push(&entry, &mut self.trees)?;
        }
        Ok(())
    }

    fn take_piece(&mut self, piece: Result<Copied, Failure>) -> Result<(), OpsError> {
        let Some(open) = self.large.as_mut() else { return Ok(()) };
        match piece {
            Ok(copied) => {
                for extent in copied.extents {
                    open.list.push(extent, &mut self.trees)?;
                }
                open.digests.extend(copied.digests);
                Ok(())
            }
            Err(Failure::Damage(message)) => {
                open.damage.get_or_insert(message);
                Ok(())
            }
            Err(Failure::Stop(error)) => Err(error),
        }
    }

    fn end_large(&mut self, damage: Option<String>) -> Result<(), OpsError> {
        let Some(open) = self.large.take() else { return Ok(()) };
        let OpenLarge { entry, file, display, list, digests, damage: found } = open;
        self.pipeline.monitor.advance(Progress { files: 1, bytes: 0 });
        let content = list.finish(&mut self.trees)?;
        let proven = match found.or(damage) {
            Some(message) => Err(Failure::Damage(message)),
            None => prove(self.pipeline, file.digest, &digests),
        };
        match proven {
            Ok(digest) => {
                let node = Node::File(FileContent { size: file.size, content, digest });
                self.add(Entry { node, ..entry })
            }
            Err(Failure::Damage(message)) => {
                self.pipeline.damaged(display, message);
                Ok(())
            }
            Err(Failure::Stop(error)) => Err(error),
        }
    }

    /// The copy's root, when the walk went through; everything stored.
    pub fn finish(mut self) -> Result<Option<DirectoryRoot>, OpsError> {
        self.trees.flush()?;
        Ok(self.root)
    }
}
