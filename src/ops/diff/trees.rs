//! Two trees of the repository in step, and what becomes of each difference.

use crate::format::snapshot::Snapshot;
use crate::monitor::{Monitor, Problem};
use crate::ops::OpsError;
use crate::repository::reader::BlobReader;
use crate::repository::verify::is_damage;
use crate::tree::diff::{Difference, bytes_differ};
use crate::tree::entry::{Entry, FileContent, Node};
use crate::tree::filter::IncludeFilter;
use crate::tree::path::TreePath;
use crate::view::{DirectoryRoot, Found};

use super::content::digest_of;
use super::cursor::{Cursor, next_pair};
use super::listener::Listener;
use super::{Change, DiffOptions, DiffSummary, Tell, not_told};

/// A comparison that is under way.
pub(super) struct Comparison<'c, 'a> {
    pub(super) reader: &'c BlobReader<'a>,
    pub(super) options: &'c DiffOptions,
    pub(super) monitor: &'c Listener<'c>,
    pub(super) tell: &'c mut Tell<'c>,
    pub(super) summary: DiffSummary,
    /// Only entries that match themselves are told; `None`: all are.
    pub(super) only: Option<&'c IncludeFilter>,
    /// Whether contents are read where the entries do not tell; else they count as different.
    pub(super) reads_contents: bool,
    /// Files of a source that hold the bytes they held, and those bytes.
    pub(super) same: (u64, u64),
}

/// A directory that is being compared, on one side or on both.
struct Level<'r, 'a> {
    path: TreePath,
    before: Option<Cursor<'r, 'a>>,
    after: Option<Cursor<'r, 'a>>,
}

impl<'c, 'a> Comparison<'c, 'a> {
    pub(super) fn new(
        reader: &'c BlobReader<'a>,
        options: &'c DiffOptions,
        monitor: &'c Listener<'c>,
        tell: &'c mut Tell<'c>,
    ) -> Self {
        let summary = DiffSummary::default();
        let (only, reads_contents) = (None, true);
        Comparison { reader, options, monitor, tell, summary, only, reads_contents, same: (0, 0) }
    }

    /// Compares what a path leads to in two snapshots.
    pub(super) fn found(
        &mut self,
        path: &TreePath,
        before: Option<Found>,
        after: Option<Found>,
    ) -> Result<(), OpsError> {
        let level = match (before, after) {
            (Some(Found::Entry(before)), Some(Found::Entry(after))) => {
                self.pair(path.clone(), Some(*before), Some(*after))?
            }
            (Some(Found::Entry(entry)), None) => self.pair(path.clone(), Some(*entry), None)?,
            (None, Some(Found::Entry(entry))) => self.pair(path.clone(), None, Some(*entry))?,
            // A root has no entry of its own: what is in it is compared.
            (before, after) => {
                let (before, after) = (inside(before)?, inside(after)?);
                self.level(path.clone(), before, after)
            }
        };
        self.below(level)
    }

    /// The directory to be compared next, unless both sides are the same.
    fn level(
        &self,
        path: TreePath,
        before: Option<DirectoryRoot>,
        after: Option<DirectoryRoot>,
    ) -> Option<Level<'c, 'a>> {
        if before == after {
            return None;
        }
        let cursor = |root: DirectoryRoot| self.cursor(root);
        Some(Level { path, before: before.map(cursor), after: after.map(cursor) })
    }

    pub(super) fn cursor(&self, root: DirectoryRoot) -> Cursor<'c, 'a> {
        Cursor::new(self.reader, root, self.monitor)
    }

    /// Tells that one side lacks an entry and all that is below it.
    pub(super) fn removed(&mut self, path: TreePath, entry: Entry) -> Result<(), OpsError> {
        let level = self.pair(path, Some(entry), None)?;
        self.below(level)
    }

    /// Tells that one side lacks all that is in a directory.
    pub(super) fn removed_below(
        &mut self,
        path: TreePath,
        root: DirectoryRoot,
    ) -> Result<(), OpsError> {
        let level = self.level(path, Some(root), None);
        self.below(level)
    }

    /// Compares everything below a directory. Depth costs heap and no stack.
    fn below(&mut self, top: Option<Level<'c, 'a>>) -> Result<(), OpsError> {
        let mut open = Vec::from_iter(top);
        while let Some(level) = open.last_mut() {
            self.stop_if_asked()?;
            let Some((before, after)) = next_pair(&mut level.before, &mut level.after)? else {
                open.pop();
                continue;
            };
            if before == after {
                continue;
            }
            let Some(entry) = before.as_ref().or(after.as_ref()) else { continue };
            let path = level.path.join(&entry.name);
            open.extend(self.pair(path, before, after)?);
        }
        Ok(())
    }

    /// Tells what differs between two entries, and returns the directory to be compared next, if there is one.
    fn pair(
        &mut self,
        path: TreePath,
        before: Option<Entry>,
        after: Option<Entry>,
    ) -> Result<Option<Level<'c, 'a>>, OpsError> {
        let before = before.filter(|entry| !self.is_excluded(&path, entry));
        let after = after.filter(|entry| !self.is_excluded(&path, entry));
        let only = self.only;
        let is_wanted = |entry: &&Entry| {
            only.is_none_or(|only| only.matches(path.as_bytes(), entry.node.is_directory()))
        };
        let (told_before, told_after) =
            (before.as_ref().filter(is_wanted), after.as_ref().filter(is_wanted));
        let difference = match (told_before, told_after) {
            (Some(one), Some(other)) => {
                let Some(differ) = self.bytes_differ(&path, one, other)? else { return Ok(None) };
                Difference::between(one, other, differ)
            }
            _ => Difference::default(),
        };
        self.tell(&path, told_before, told_after, difference)?;
        let root = |entry: &Option<Entry>| entry.as_ref().and_then(DirectoryRoot::of_entry);
        let (before, after) = (root(&before), root(&after));
        if before == after || only.is_some_and(|only| !only.leads_on(path.as_bytes())) {
            return Ok(None);
        }
        Ok(self.level(path, before, after))
    }

    /// Whether two entries of the repository are files with other bytes; `None`: it could not be found out, which
    /// was told.
    fn bytes_differ(
        &mut self,
        path: &TreePath,
        before: &Entry,
        after: &Entry,
    ) -> Result<Option<bool>, OpsError> {
        let (Node::File(before), Node::File(after)) = (&before.node, &after.node) else {
            return Ok(Some(false));
        };
        if let Some(differ) = bytes_differ(before, after) {
            return Ok(Some(differ));
        }
        if !self.reads_contents {
            return Ok(Some(true));
        }
        let digest = |file: &FileContent| digest_of(self.reader, file);
        match digest(before).and_then(|before| Ok(before != digest(after)?)) {
            Ok(differ) => Ok(Some(differ)),
            Err(error) if is_damage(&error) => {
                self.problem(path.to_string(), error.to_string());
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Counts a difference and hands it on, if there is one.
    pub(super) fn tell(
        &mut self,
        path: &TreePath,
        before: Option<&Entry>,
        after: Option<&Entry>,
        difference: Difference,
    ) -> Result<(), OpsError> {
        let change = Change { path, before, after, difference };
        let summary = &mut self.summary;
        match (before, after) {
            (None, None) => return Ok(()),
            (Some(entry), None) => summary.removed.add(entry),
            (None, Some(entry)) => summary.added.add(entry),
            (Some(one), Some(other)) if difference.kind => {
                summary.changed_kinds += 1;
                summary.removed.add(one);
                summary.added.add(other);
            }
            (Some(one), Some(other)) if difference.content => {
                if matches!(other.node, Node::File(_)) {
                    summary.changed_files += 1;
                    summary.changed_bytes_before += one.size();
                    summary.changed_bytes_after += other.size();
                    summary.suspect_files += u64::from(change.is_suspect());
                } else {
                    summary.changed_others += 1;
                }
            }
            _ if self.options.metadata && !difference.metadata.is_empty() => {
                summary.changed_metadata += 1;
            }
            _ => return Ok(()),
        }
        (self.tell)(&change).map_err(not_told)
    }

    /// What of the first snapshot is the same in the second: all that its writer counted, and that was not told.
    pub(super) fn count_unchanged(&mut self, snapshot: &Snapshot) {
        let whole = self.options.subtree.is_root() && self.options.exclude.is_empty();
        if !whole || self.monitor.has_heard() {
            return;
        }
        let (counts, summary) = (&snapshot.counts, &self.summary);
        let files =
            counts.total_files_processed.checked_sub(summary.removed.files + summary.changed_files);
        let bytes = counts
            .total_bytes_processed
            .checked_sub(summary.removed.bytes + summary.changed_bytes_before);
        self.summary.unchanged = files.zip(bytes);
    }

    pub(super) fn problem(&self, item: String, message: String) {
        self.monitor.problem(Problem { item, during: "diff", message });
    }

    pub(super) fn stop_if_asked(&self) -> Result<(), OpsError> {
        if self.monitor.interrupted() { Err(OpsError::Interrupted) } else { Ok(()) }
    }

    pub(super) fn is_excluded(&self, path: &TreePath, entry: &Entry) -> bool {
        self.options.exclude.excludes(path.as_bytes(), entry.node.is_directory())
    }
}

/// The directory that a path leads to.
fn inside(found: Option<Found>) -> Result<Option<DirectoryRoot>, OpsError> {
    match found {
        None => Ok(None),
        Some(Found::Root(root)) => Ok(Some(root)),
        Some(Found::Entry(entry)) => match DirectoryRoot::of_entry(&entry) {
            Some(root) => Ok(Some(root)),
            None => Err(OpsError::Invalid(
                "a whole snapshot cannot be compared with something that is no directory".into(),
            )),
        },
    }
}
