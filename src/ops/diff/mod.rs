//! Diff: what differs between two snapshots, or between a snapshot and what a source has now.
//!
//! Both sides are walked in step, in the order of names, and every difference is handed on as soon as it is
//! found. Two snapshots are read only where they differ: a directory, or a node of a large one, that both have
//! under the same blob id is passed over unread. Of a source's files are read only those whose entries leave
//! room for doubt, unless all are to be; nothing is stored. Memory: one node of each side for each level of
//! depth, opened segments within the budget, and one chunk.

mod content;
mod cursor;
mod listener;
mod trees;
mod walk;

use std::time::Duration;

use crate::format::snapshot::Snapshot;
use crate::monitor::{Monitor, Phase, Problem};
use crate::ops::OpsError;
use crate::repository::Repository;
use crate::repository::reader::BlobReader;
use crate::source::Source;
use crate::target::TargetError;
use crate::tree::diff::Difference;
use crate::tree::entry::{Entry, Node};
use crate::tree::filter::{ExcludeFilter, IncludeFilter};
use crate::tree::path::TreePath;
use crate::view::{DirectoryRoot, Found, find_path};

use listener::Listener;
pub(in crate::ops) use listener::Told;
use trees::Comparison;

/// What is compared, and how.
#[derive(Debug, Clone)]
pub struct DiffOptions {
    /// The part of the snapshot that is compared; the root for all of it. Paths are told as they are in it.
    pub subtree: TreePath,
    /// Tell entries of which only metadata differ, too.
    pub metadata: bool,
    /// Read every file of a source, not only those whose size is the same and whose times are not.
    pub content: bool,
    /// Paths that are left out, on both sides.
    pub exclude: ExcludeFilter,
    /// Bytes of opened segments that are kept.
    pub memory_budget: u64,
}

/// What the snapshot is compared with.
pub enum Other<'o> {
    /// Another snapshot, or the same, and the part of it that is compared.
    Snapshot(&'o Snapshot, TreePath),
    /// What a source tells now, at the paths that it has in a snapshot; `None`: nothing is left of it.
    Source(Option<&'o mut dyn Source>),
}

/// One difference. Of an entry that only one side has, `difference` says nothing.
#[derive(Debug)]
pub struct Change<'c> {
    /// Where it is.
    pub path: &'c TreePath,
    /// What the snapshot has there.
    pub before: Option<&'c Entry>,
    /// What the other side has there.
    pub after: Option<&'c Entry>,
    /// What differs between the two.
    pub difference: Difference,
}

impl Change<'_> {
    /// `+`, `-`, `T`, `M`, `M?` or `U`, as `tree::diff` explains them.
    pub fn modifier(&self) -> &'static str {
        match (self.before, self.after) {
            (None, _) => "+",
            (_, None) => "-",
            _ if self.difference.kind => "T",
            _ if self.is_suspect() => "M?",
            _ if self.difference.content => "M",
            _ => "U",
        }
    }

    /// Whether a file's bytes changed under the same modification time.
    pub fn is_suspect(&self) -> bool {
        let is_file = self.after.is_some_and(|entry| matches!(entry.node, Node::File(_)));
        is_file && self.difference.is_suspect()
    }
}

/// Entries by kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EntryCounts {
    /// Regular files.
    pub files: u64,
    /// Directories.
    pub directories: u64,
    /// Links, pipes, sockets and devices.
    pub others: u64,
    /// Bytes of the files' content, each name counted for itself.
    pub bytes: u64,
}

impl EntryCounts {
    fn add(&mut self, entry: &Entry) {
        match entry.node {
            Node::File(_) => self.files += 1,
            Node::Directory { .. } => self.directories += 1,
            _ => self.others += 1,
        }
        self.bytes += entry.size();
    }
}

/// What differs, in numbers. An entry whose kind changed counts as removed and as added, too.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DiffSummary {
    /// What only the other side has.
    pub added: EntryCounts,
    /// What only the snapshot has.
    pub removed: EntryCounts,
    /// Files with other bytes.
    pub changed_files: u64,
    /// Their bytes in the snapshot.
    pub changed_bytes_before: u64,
    /// Their bytes on the other side.
    pub changed_bytes_after: u64,
    /// Those among them that have the modification time they had.
    pub suspect_files: u64,
    /// Links with another target, and devices with another number.
    pub changed_others: u64,
    /// Entries that are another kind of thing.
    pub changed_kinds: u64,
    /// Entries of which only metadata differ, if that was asked for.
    pub changed_metadata: u64,
    /// Files whose bytes are the same on both sides, and their bytes; `None` when parts were passed over
    /// without being counted: by a subtree, a pattern or damage.
    pub unchanged: Option<(u64, u64)>,
    /// How long it took.
    pub elapsed: Duration,
}

/// Compares a part of a snapshot with another snapshot or with a source, and hands every difference to `tell`, in
/// the order of a walk. What cannot be read on either side is reported as a problem, and nothing is said of it.
pub fn diff(
    repository: &Repository,
    snapshot: &Snapshot,
    other: Other<'_>,
    options: &DiffOptions,
    tell: &mut Tell<'_>,
    monitor: &dyn Monitor,
) -> Result<DiffSummary, OpsError> {
    let start = repository.environment().clock.elapsed();
    let session = repository.register_reader(monitor);
    let result = run(repository, snapshot, other, options, tell, monitor);
    repository.end_reader(session, monitor);
    let mut summary = result?;
    summary.elapsed = repository.environment().clock.elapsed().saturating_sub(start);
    Ok(summary)
}

/// What hears of the differences. Its failure ends the comparison.
pub type Tell<'t> = dyn FnMut(&Change<'_>) -> std::io::Result<()> + 't;

fn run(
    repository: &Repository,
    snapshot: &Snapshot,
    other: Other<'_>,
    options: &DiffOptions,
    tell: &mut Tell<'_>,
    monitor: &dyn Monitor,
) -> Result<DiffSummary, OpsError> {
    for error in repository.refresh_index(monitor)?.damaged {
        monitor.problem(Problem { item: error.item, during: "index", message: error.message });
    }
    monitor.phase(Phase::Compare);
    let listener = Listener::new(monitor);
    let reader = BlobReader::new(repository, options.memory_budget);
    let before = find_path(&reader, snapshot, &options.subtree)?;
    let mut comparison = Comparison::new(&reader, options, &listener, tell);
    match other {
        Other::Snapshot(other, path) => {
            let after = find_path(&reader, other, &path)?;
            if before.is_none() && after.is_none() {
                let subtree = &options.subtree;
                return Err(OpsError::Invalid(format!("neither snapshot has {subtree}")));
            }
            comparison.found(&options.subtree, before, after)?;
            comparison.count_unchanged(snapshot);
        }
        Other::Source(source) => {
            if before.is_none() && source.is_none() {
                let subtree = &options.subtree;
                return Err(OpsError::Invalid(format!("the snapshot has no {subtree}")));
            }
            comparison.with_source(before, source)?;
        }
    }
    Ok(comparison.summary)
}

/// Tells what differs of the entries that match `only` themselves; `None` before: all there is. The contents of files are not
/// read: of which nothing else tells, count as different. What was `told` is no problem that is told again. Returns whether
/// everything could be read.
pub(in crate::ops) fn compare_snapshots(
    reader: &BlobReader<'_>,
    before: Option<&Snapshot>,
    after: &Snapshot,
    only: &IncludeFilter,
    tell: &mut Tell<'_>,
    (monitor, told): (&dyn Monitor, &Told),
) -> Result<bool, OpsError> {
    let root = |snapshot| Found::Root(DirectoryRoot::of_snapshot(snapshot));
    let options = DiffOptions {
        subtree: TreePath::root(),
        metadata: false,
        content: false,
        exclude: ExcludeFilter::default(),
        memory_budget: 0,
    };
    let listener = Listener::of_find(monitor, told);
    let mut comparison = Comparison::new(reader, &options, &listener, tell);
    comparison.only = Some(only);
    comparison.reads_contents = false;
    comparison.found(&options.subtree, before.map(root), Some(root(after)))?;
    Ok(!listener.has_heard())
}

/// What went wrong when a difference was told.
pub(in crate::ops) fn not_told(error: std::io::Error) -> OpsError {
    OpsError::Target(TargetError::new("output", error))
}
