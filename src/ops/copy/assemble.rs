//! Puts what the workers have copied back into the walk's order, and builds each target's directories from the leaves up.

use std::sync::mpsc::Receiver;

use super::content::{Copied, Digests, Failure, prove};
use super::sides::Sides;
use super::walk::Pipeline;
use crate::monitor::Progress;
use crate::ops::OpsError;
use crate::ops::nodes::{DirectoryBuilder, ListBuilder, store_long_list};
use crate::repository::error::Result as StoreResult;
use crate::repository::writer::SegmentWriter;
use crate::tree::entry::{Entry, FileContent, Node};
use crate::view::DirectoryRoot;

/// A finished step of the walk, for the target with this number.
pub enum Done {
    /// A directory begins; `None`: the root.
    Enter(usize, Option<Entry>),
    /// An entry as it is to stand in the target, but for long lists of extents.
    Entry(usize, Entry),
    /// The directory entered last ends.
    Leave(usize),
}

/// What comes from the walk, in its order.
pub enum Ordered {
    /// Steps that are finished already.
    Ready(Vec<Done>),
    /// Steps that a worker finishes.
    Batch(Receiver<Result<Vec<Done>, OpsError>>),
    /// A file so large that its pieces are copied one by one.
    Large(Box<LargeFile>),
    /// The next piece of the large file that began last.
    Piece(Receiver<Result<Copied, Failure>>),
    /// All pieces of the large file were sent, unless what they are could not be read.
    EndLarge(Option<String>),
}

/// A large file, what it is called, and which targets lack it.
pub struct LargeFile {
    pub entry: Entry,
    pub file: FileContent,
    pub display: String,
    pub sides: Sides,
}

struct OpenLarge {
    large: LargeFile,
    /// One for each of its targets.
    lists: Vec<ListBuilder>,
    digests: Vec<Digests>,
    damage: Option<String>,
}

/// The trees of one target.
struct Trees<'w> {
    segments: SegmentWriter<'w>,
    directories: Vec<(Option<Entry>, DirectoryBuilder)>,
    root: Option<DirectoryRoot>,
}

impl Trees<'_> {
    fn take(&mut self, step: Done) -> StoreResult<()> {
        match step {
            Done::Enter(_, entry) => self.directories.push((entry, DirectoryBuilder::new())),
            Done::Entry(_, entry) => self.add(entry)?,
            Done::Leave(_) => {
                let Some((entry, builder)) = self.directories.pop() else { return Ok(()) };
                let root = builder.finish(&mut self.segments)?;
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

    fn add(&mut self, mut entry: Entry) -> StoreResult<()> {
        store_long_list(&mut entry, &mut self.segments)?;
        if let Some((_, builder)) = self.directories.last_mut() {
            builder.push(&entry, &mut self.segments)?;
        }
        Ok(())
    }
}

/// Builds the copies' trees.
pub struct Assembler<'w, 'p> {
    pipeline: &'p Pipeline<'p>,
    trees: Vec<Trees<'w>>,
    large: Option<OpenLarge>,
}

impl<'w, 'p> Assembler<'w, 'p> {
    /// One that writes trees with these, one for each target.
    pub fn new(segments: Vec<SegmentWriter<'w>>, pipeline: &'p Pipeline<'p>) -> Self {
        let trees = |segments| Trees { segments, directories: Vec::new(), root: None };
        Assembler { pipeline, trees: segments.into_iter().map(trees).collect(), large: None }
    }

    /// Takes everything that comes, until the walk ends.
    pub fn run(&mut self, queue: &Receiver<Ordered>) -> Result<(), OpsError> {
        while let Ok(ordered) = queue.recv() {
            match ordered {
                Ordered::Ready(steps) => self.take_all(steps),
                Ordered::Batch(receiver) => {
                    let steps = receiver.recv().map_err(|_| OpsError::Interrupted)??;
                    self.take_all(steps);
                }
                Ordered::Large(large) => {
                    self.large = Some(OpenLarge {
                        lists: large.sides.iter().map(|_| ListBuilder::new()).collect(),
                        large: *large,
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

    fn take_all(&mut self, steps: Vec<Done>) {
        steps.into_iter().for_each(|step| self.take(step));
    }

    fn take(&mut self, step: Done) {
        let (Done::Enter(number, _) | Done::Entry(number, _) | Done::Leave(number)) = step;
        self.with(number, |trees| trees.take(step));
    }

    /// Does something with a target's trees, unless it has failed.
    fn with<T>(
        &mut self,
        number: usize,
        work: impl FnOnce(&mut Trees<'w>) -> StoreResult<T>,
    ) -> Option<T> {
        let side = &self.pipeline.sides[number];
        if side.is_failed() {
            return None;
        }
        work(&mut self.trees[number]).map_err(|error| side.fail(error)).ok()
    }

    fn take_piece(&mut self, piece: Result<Copied, Failure>) -> Result<(), OpsError> {
        let Some(mut open) = self.large.take() else { return Ok(()) };
        match piece {
            Ok(copied) => {
                let of_sides = copied.extents.into_iter().zip(&mut open.lists);
                for (number, (extents, list)) in open.large.sides.iter().zip(of_sides) {
                    self.with(number, |trees| {
                        let mut extents = extents.into_iter();
                        extents.try_for_each(|extent| list.push(extent, &mut trees.segments))
                    });
                }
                open.digests.extend(copied.digests);
            }
            Err(Failure::Damage(message)) => {
                open.damage.get_or_insert(message);
            }
            Err(Failure::Stop(error)) => return Err(error),
        }
        self.large = Some(open);
        Ok(())
    }

    fn end_large(&mut self, damage: Option<String>) -> Result<(), OpsError> {
        let Some(open) = self.large.take() else { return Ok(()) };
        let OpenLarge { large, lists, digests, damage: found } = open;
        let LargeFile { entry, file, display, sides } = large;
        self.pipeline.monitor.advance(Progress { files: 1, bytes: 0 });
        let proven = match found.or(damage) {
            Some(message) => Err(Failure::Damage(message)),
            None => prove(self.pipeline, file.digest, &digests, sides),
        };
        let digests = match proven {
            Ok(digests) => digests,
            Err(Failure::Damage(message)) => {
                self.pipeline.damaged(display, message, sides);
                return Ok(());
            }
            Err(Failure::Stop(error)) => return Err(error),
        };
        for (number, (list, digest)) in sides.iter().zip(lists.into_iter().zip(digests)) {
            let (entry, size) = (entry.clone(), file.size);
            self.with(number, |trees| {
                let content = list.finish(&mut trees.segments)?;
                let node = Node::File(FileContent { size, content, digest });
                trees.add(Entry { node, ..entry })
            });
        }
        Ok(())
    }

    /// Each copy's root, when the walk went through; everything stored.
    pub fn finish(mut self) -> Vec<Option<DirectoryRoot>> {
        let finished = (0..self.trees.len()).map(|number| {
            self.with(number, |trees| {
                trees.segments.flush()?;
                Ok(trees.root.take())
            })
        });
        finished.map(Option::flatten).collect()
    }
}
