//! Hears of problems on their way to the person: what was not read is not said to be gone.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use crate::monitor::{Monitor, Phase, Problem, Progress};
use crate::tree::path::Printable;

/// What was told of which item: what is damaged is met in each snapshot that has it.
pub(in crate::ops) type Told = Mutex<HashSet<(String, String)>>;

/// Passes everything on, and remembers what problems were about.
pub(super) struct Listener<'a> {
    monitor: &'a dyn Monitor,
    /// Problems that are here are not told again; they are met by `find`, then.
    told: Option<&'a Told>,
    heard: AtomicBool,
    items: Mutex<Vec<String>>,
}

impl<'a> Listener<'a> {
    pub(super) fn new(monitor: &'a dyn Monitor) -> Self {
        Listener { monitor, told: None, heard: AtomicBool::new(false), items: Mutex::default() }
    }

    /// One of several comparisons of a `find`, which together tell each problem once.
    pub(super) fn of_find(monitor: &'a dyn Monitor, told: &'a Told) -> Self {
        Listener { told: Some(told), ..Self::new(monitor) }
    }

    /// Whether there was any problem.
    pub(super) fn has_heard(&self) -> bool {
        self.heard.load(Ordering::Relaxed)
    }

    /// What there were problems with since this was called last.
    pub(super) fn take(&self) -> Troubles {
        Troubles(std::mem::take(&mut *self.items.lock()))
    }
}

/// Paths that a source had problems with, as people read them.
#[derive(Default)]
pub(super) struct Troubles(Vec<String>);

impl Troubles {
    /// Whether there were none.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether one is about an entry of this name. Paths are compared as people read them, and only by their
    /// last part, because a source may tell where a file really is: taking too many for troubled is the safe side.
    pub(super) fn concern(&self, name: &[u8]) -> bool {
        let name = Printable(name).to_string();
        self.0.iter().any(|item| item.rsplit('/').next() == Some(&name))
    }

    /// Whether one is about the rest of a directory, which is told as its entry `.`.
    pub(super) fn concern_the_rest(&self) -> bool {
        self.concern(b".")
    }
}

impl Monitor for Listener<'_> {
    fn phase(&self, phase: Phase) {
        self.monitor.phase(phase);
    }

    fn expect(&self, total: Progress) {
        self.monitor.expect(total);
    }

    fn advance(&self, done: Progress) {
        self.monitor.advance(done);
    }

    fn current(&self, item: &str) {
        self.monitor.current(item);
    }

    fn problem(&self, problem: Problem) {
        self.heard.store(true, Ordering::Relaxed);
        let Some(told) = self.told else {
            self.items.lock().push(problem.item.clone());
            return self.monitor.problem(problem);
        };
        let Problem { item, message, .. } = problem;
        if told.lock().insert((item.clone(), message.clone())) {
            self.monitor.problem(Problem { item, during: "find", message });
        }
    }

    fn note(&self, text: &str) {
        self.monitor.note(text);
    }

    fn interrupted(&self) -> bool {
        self.monitor.interrupted()
    }
}
