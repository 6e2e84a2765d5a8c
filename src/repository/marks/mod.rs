//! Marks: what a set of snapshots needs, counted, and remembered from one collection to the next.
//!
//! A tree blob counts one for each reference to it from a snapshot or from a tree blob that itself counts more than none; a
//! data blob one for each reference from such a tree blob. So a snapshot more or less concerns only what it does not
//! share, and what counts nothing any more is needed by nobody (`docs/design/0009-remembered-marks.md`).
//!
//! Marks are kept as runs that are sorted by key and added up: one large, and behind it what changed since, merged as
//! they grow. Memory: fences, 8 bytes for 408 marks, and 64 KiB for each run while it is read.

mod gather;
mod run;
mod shelf;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

pub use self::gather::{Differs, Gathering};
use self::run::{Rows, Run};
pub use self::shelf::Shelf;
use super::error::{Kind, RepositoryError};
use super::index::IdRange;
use crate::format::header::ObjectKind;
use crate::format::snapshot::Snapshot;
use crate::id::{BlobId, BlobKey, SnapshotId};

/// Set in the tag of what stands in tree packs.
pub const TREE: u32 = 1 << 31;
/// A count that has come so far stays there: what is referred to so often is taken to be needed until everything is
/// counted anew.
const ENOUGH: i32 = i32::MAX;

/// How often something is referred to, or how many references came and went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark {
    /// The blob.
    pub key: BlobKey,
    /// As what it is read: the length of a data blob; of a tree blob what it is, and [`TREE`].
    pub tag: u32,
    /// How often.
    pub count: i32,
}

impl Mark {
    /// Whether it is about what stands in tree packs.
    pub fn is_tree(&self) -> bool {
        self.tag & TREE != 0
    }
}

/// Two counts together.
pub fn add(one: i32, other: i32) -> i32 {
    match one == ENOUGH || other == ENOUGH {
        true => ENOUGH,
        false => one.saturating_add(other),
    }
}

/// Where a snapshot's tree begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Root {
    /// The first node of its root directory.
    pub blob: BlobId,
    /// That node's height.
    pub height: u8,
}

impl Root {
    /// Of this snapshot.
    pub fn of(snapshot: &Snapshot) -> Self {
        Root { blob: snapshot.root, height: snapshot.height }
    }
}

/// By snapshot, where its tree begins.
pub type Roots = BTreeMap<SnapshotId, Root>;

/// What these snapshots need.
#[derive(Default)]
pub struct Marks {
    roots: Roots,
    /// The largest first.
    runs: Vec<Arc<Run>>,
    is_broken: Arc<AtomicBool>,
}

/// Counts that cannot be.
#[derive(Debug, thiserror::Error)]
#[error("marks do not fit together")]
struct OutOfOrder;

fn out_of_order() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, OutOfOrder)
}

/// Whether marks were read as they were written, and cannot be right.
pub fn is_out_of_order(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|cause| cause.is::<OutOfOrder>())
}

/// What marks that cannot be read are for whoever counts on them.
pub fn marks_error(error: io::Error) -> RepositoryError {
    let message =
        format!("what was marked cannot be read: {error}; deleting the cache directory is safe");
    RepositoryError::new(Kind::Unavailable, "local cache", message)
}

impl Marks {
    /// The snapshots that are counted, and no others.
    pub fn roots(&self) -> &Roots {
        &self.roots
    }

    /// Whether something in them was found not to be what was written, or not to fit together.
    pub fn is_broken(&self) -> bool {
        self.is_broken.load(Ordering::Relaxed)
    }

    /// How often a blob of this kind is referred to, and as what.
    pub fn lookup(&self, key: &BlobKey, is_tree: bool) -> io::Result<Option<Mark>> {
        self.search(key, is_tree).inspect_err(|_| self.is_broken.store(true, Ordering::Relaxed))
    }

    fn search(&self, key: &BlobKey, is_tree: bool) -> io::Result<Option<Mark>> {
        let mut found: Vec<Mark> = Vec::new();
        for run in &self.runs {
            run.search(key, |mark| {
                if mark.is_tree() != is_tree {
                    return;
                }
                match found.iter_mut().find(|known| known.tag == mark.tag) {
                    Some(known) => known.count = add(known.count, mark.count),
                    None => found.push(mark),
                }
            })?;
        }
        found.retain(|mark| mark.count != 0);
        match found[..] {
            [] => Ok(None),
            [mark] if mark.count > 0 => Ok(Some(mark)),
            _ => Err(out_of_order()),
        }
    }

    /// Whether a blob of a pack of this kind is needed.
    pub fn needs(&self, kind: ObjectKind, id: &BlobId) -> io::Result<bool> {
        let is_tree = kind == ObjectKind::TreePack;
        Ok(self.lookup(&BlobKey::new(id), is_tree)?.is_some())
    }

    /// What is referred to and how often, in the order of keys: each blob once, twice only if it is needed from both
    /// kinds of packs. An error when the counts cannot be.
    pub fn rows(&self, range: IdRange) -> MarkRows {
        let sums = Sums::new(&self.runs, range);
        MarkRows { sums, waiting: None, is_broken: self.is_broken.clone() }
    }
}

/// The sums of what runs say of the same thing, in order, without those that are nothing.
struct Sums {
    sources: Vec<Rows>,
    next: BinaryHeap<Reverse<(Mark, usize)>>,
    failure: Option<io::Error>,
}

impl Sums {
    fn new(runs: &[Arc<Run>], range: IdRange) -> Self {
        let sources = runs.iter().map(|run| run.rows(range)).collect();
        let mut sums = Sums { sources, next: BinaryHeap::new(), failure: None };
        (0..runs.len()).for_each(|number| sums.fill(number));
        sums
    }

    fn fill(&mut self, number: usize) {
        match self.sources[number].next() {
            Some(Ok(mark)) => self.next.push(Reverse((mark, number))),
            Some(Err(error)) => self.failure = Some(error),
            None => {}
        }
    }

    /// The next mark of any run.
    fn step(&mut self) -> Option<Mark> {
        let mut top = self.next.peek_mut()?;
        let Reverse((mark, number)) = *top;
        match self.sources[number].next() {
            Some(Ok(following)) => *top = Reverse((following, number)),
            ended => {
                std::collections::binary_heap::PeekMut::pop(top);
                if let Some(Err(error)) = ended {
                    self.failure = Some(error);
                }
            }
        }
        Some(mark)
    }
}

impl Iterator for Sums {
    type Item = io::Result<Mark>;

    fn next(&mut self) -> Option<io::Result<Mark>> {
        loop {
            if let Some(failure) = self.failure.take() {
                // Whoever goes on after an error would miss some.
                self.next.clear();
                return Some(Err(failure));
            }
            let mut mark = self.step()?;
            while let Some(Reverse((next, _))) = self.next.peek()
                && (next.key, next.tag) == (mark.key, mark.tag)
            {
                mark.count = add(mark.count, next.count);
                self.step();
            }
            if mark.count != 0 && self.failure.is_none() {
                return Some(Ok(mark));
            }
        }
    }
}

/// See [`Marks::rows`].
pub struct MarkRows {
    sums: Sums,
    waiting: Option<Mark>,
    is_broken: Arc<AtomicBool>,
}

impl Iterator for MarkRows {
    type Item = io::Result<Mark>;

    fn next(&mut self) -> Option<io::Result<Mark>> {
        let row = self.following();
        if let Some(Err(_)) = &row {
            self.is_broken.store(true, Ordering::Relaxed);
        }
        row
    }
}

impl MarkRows {
    fn following(&mut self) -> Option<io::Result<Mark>> {
        let mark = match self.waiting.take().map(Ok).or_else(|| self.sums.next())? {
            Ok(mark) => mark,
            Err(error) => return Some(Err(error)),
        };
        self.waiting = match self.sums.next() {
            Some(Err(error)) => return Some(Err(error)),
            Some(Ok(next)) => Some(next),
            None => None,
        };
        // Of one blob of one kind no two things are said.
        let differs = |next: Mark| (next.key, next.is_tree()) == (mark.key, mark.is_tree());
        match mark.count < 0 || self.waiting.is_some_and(differs) {
            true => Some(Err(out_of_order())),
            false => Some(Ok(mark)),
        }
    }
}
