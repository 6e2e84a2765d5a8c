//! The single way out of the library while it works: progress, counters, and problems that do not
//! stop it. Also the single way in: a person's wish to stop.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

/// What a long verb is doing just now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Reading the repository's index.
    LoadIndex,
    /// Walking and reading the source.
    Backup,
    /// Planning what to write.
    Plan,
    /// Writing the target.
    Restore,
    /// Following every snapshot's references.
    CheckStructure,
    /// Reading and proving packs.
    CheckData,
    /// Comparing two trees.
    Compare,
    /// Finding out what snapshots need.
    Mark,
    /// Counting what is needed from which pack.
    Count,
    /// Copying what is needed out of packs that go.
    Repack,
    /// Deleting what nobody needs.
    Delete,
    /// Prolonging the locks of objects.
    Lock,
    /// Finding what can be mended, and mending it.
    Repair,
    /// Copying snapshots into another repository.
    Copy,
    /// Copying objects to another store.
    Mirror,
}

/// What is added to the running totals.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Files finished.
    pub files: u64,
    /// Bytes of content finished.
    pub bytes: u64,
}

/// Something that went wrong with one thing and was passed over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The thing: a path (not UTF-8 parts replaced), a pack, a snapshot.
    pub item: String,
    /// What was being done, as one word: `scan`, `read`, `restore`, `metadata`, `check` …
    pub during: &'static str,
    /// What went wrong.
    pub message: String,
}

/// What listens while a verb works. Called from many threads; must be quick.
pub trait Monitor: Send + Sync {
    /// A new phase begins.
    fn phase(&self, _phase: Phase) {}
    /// The totals are now known to be at least this (they may grow while a scan runs).
    fn expect(&self, _total: Progress) {}
    /// This much more is done.
    fn advance(&self, _done: Progress) {}
    /// Work begins on this item (a path; not UTF-8 parts replaced).
    fn current(&self, _item: &str) {}
    /// Something failed and was passed over.
    fn problem(&self, _problem: Problem) {}
    /// Something a person should know that is not a failure.
    fn note(&self, _text: &str) {}
    /// Whether a person asked to stop. Verbs look at it between pieces of work.
    fn interrupted(&self) -> bool {
        false
    }
}

/// Hears nothing.
pub struct SilentMonitor;

impl Monitor for SilentMonitor {}

/// Remembers problems and notes, and can be told to interrupt: for tests.
#[derive(Default)]
pub struct RecordingMonitor {
    problems: Mutex<Vec<Problem>>,
    notes: Mutex<Vec<String>>,
    interrupt: AtomicBool,
}

impl RecordingMonitor {
    /// What was reported so far.
    pub fn problems(&self) -> Vec<Problem> {
        self.problems.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// What was noted so far.
    pub fn notes(&self) -> Vec<String> {
        self.notes.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// Ask the verb that is running to stop.
    pub fn interrupt(&self) {
        self.interrupt.store(true, Ordering::Relaxed);
    }
}

impl Monitor for RecordingMonitor {
    fn problem(&self, problem: Problem) {
        self.problems.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(problem);
    }

    fn note(&self, text: &str) {
        self.notes.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(text.to_string());
    }

    fn interrupted(&self) -> bool {
        self.interrupt.load(Ordering::Relaxed)
    }
}
