//! Gathers changes of counts in no order, and sorts them in bounded memory: what does not fit goes into files without
//! names, or into memory where there is no cache folder.
//!
//! Memory: 16 parts of 65 536 marks of 20 bytes, 21 MB.

use std::cell::Cell;
use std::io;
use std::sync::Arc;

use parking_lot::Mutex;

use super::run::Run;
use super::shelf::Shelf;
use super::{Mark, Marks, Roots, Sums, add};
use crate::id::BlobKey;
use crate::repository::chance::Chance;
use crate::repository::index::IdRange;

/// Parts, by the first bits of a key, each with a lock of its own.
const PARTS: usize = 16;
/// Marks in a part, from which on it is sorted, and written if that does not halve it.
const PART_MARKS: usize = 1 << 16;
/// So many files are merged: each is open.
const SPILLED_RUNS: usize = 64;

/// What is gathered. Shared by threads.
pub struct Gathering<'s> {
    shelf: &'s Shelf,
    chance: &'s Chance,
    parts: Vec<Mutex<Vec<Mark>>>,
    spilled: Mutex<Vec<Arc<Run>>>,
    failure: Mutex<Option<io::Error>>,
    part_marks: usize,
}

/// A blob that is said to be two things.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Differs {
    /// The blob.
    pub key: BlobKey,
    /// The tags.
    pub tags: [u32; 2],
}

/// Adds up what is said of the same thing, and leaves out what comes to nothing.
fn sort_and_add(marks: &mut Vec<Mark>) {
    marks.sort_unstable();
    marks.dedup_by(|next, kept| {
        let is_same = (next.key, next.tag) == (kept.key, kept.tag);
        if is_same {
            kept.count = add(kept.count, next.count);
        }
        is_same
    });
    marks.retain(|mark| mark.count != 0);
}

impl<'s> Gathering<'s> {
    /// Nothing yet. What does not fit into memory goes where `shelf` is.
    pub fn new(shelf: &'s Shelf, chance: &'s Chance) -> Self {
        Self::with_parts(shelf, chance, PART_MARKS)
    }

    pub(super) fn with_parts(shelf: &'s Shelf, chance: &'s Chance, part_marks: usize) -> Self {
        Gathering {
            shelf,
            chance,
            parts: (0..PARTS).map(|_| Mutex::default()).collect(),
            spilled: Mutex::default(),
            failure: Mutex::default(),
            part_marks,
        }
    }

    /// One more change.
    pub fn add(&self, mark: Mark) {
        let mut part = self.parts[usize::from(mark.key.0[0]) * PARTS / 256].lock();
        part.push(mark);
        if part.len() < self.part_marks {
            return;
        }
        sort_and_add(&mut part);
        if part.len() > self.part_marks / 2 {
            let spilled = self.spill(&part);
            part.clear();
            if let Err(error) = spilled {
                self.failure.lock().get_or_insert(error);
            }
        }
    }

    fn spill(&self, marks: &[Mark]) -> io::Result<()> {
        let rows = || marks.iter().copied().map(Ok);
        let run = Arc::new(self.shelf.write(self.chance, false, rows)?);
        let mut spilled = self.spilled.lock();
        spilled.push(run);
        if spilled.len() >= SPILLED_RUNS {
            *spilled = self.shelf.settle(self.chance, std::mem::take(&mut spilled), false)?;
        }
        Ok(())
    }

    /// Adds what was gathered, and `more`, to `base`, as what these snapshots need. Tells of a blob that is said to be two
    /// things in what was gathered; if it is in what is there together with the base, that is found when the marks are read.
    pub fn finish(
        self,
        base: Option<&Marks>,
        mut more: Vec<Mark>,
        roots: Roots,
    ) -> io::Result<(Marks, Option<Differs>)> {
        if let Some(failure) = self.failure.into_inner() {
            return Err(failure);
        }
        let mut sources = self.spilled.into_inner();
        sort_and_add(&mut more);
        let mut rest = Vec::new();
        for part in self.parts {
            let mut part = part.into_inner();
            sort_and_add(&mut part);
            // Parts follow one another as keys do.
            rest.append(&mut part);
        }
        for marks in [rest, more] {
            let rows = || marks.iter().copied().map(Ok);
            // A few are not worth a file.
            let run = match marks.len() < self.part_marks {
                true => Shelf::write_to_memory(rows())?,
                false => self.shelf.write(self.chance, false, rows)?,
            };
            sources.push(Arc::new(run));
        }
        let mut runs = base.map(|base| base.runs.clone()).unwrap_or_default();
        let (before, differs) = (Cell::new(None), Cell::new(None));
        let note = |mark: &Mark| {
            let is_other =
                |before: &Mark| (before.key, before.is_tree()) == (mark.key, mark.is_tree());
            if let Some(before) = before.replace(Some(*mark)).filter(is_other) {
                differs.set(Some(Differs { key: mark.key, tags: [before.tag, mark.tag] }));
            }
        };
        let rows = || {
            // Where there is no room for a file, all rows come once more.
            before.set(None);
            Sums::new(&sources, IdRange::ALL).inspect(|row| row.iter().for_each(note))
        };
        let run = self.shelf.write(self.chance, true, rows)?;
        drop(sources);
        if run.marks() > 0 {
            runs.push(Arc::new(run));
            runs = self.shelf.settle(self.chance, runs, true)?;
        }
        Ok((Marks { roots, runs, is_broken: Arc::default() }, differs.get()))
    }
}
