//! What snapshots need, from what was remembered of other snapshots: what came is followed, and what went; the rest is
//! known. Where nothing is remembered, or it does not fit, everything is followed anew
//! (`docs/design/0009-remembered-marks.md`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rayon::Scope;

use crate::format::directory::DirectoryNode;
use crate::format::list::ListNode;
use crate::format::snapshot::Snapshot;
use crate::id::{BlobId, SnapshotId};
use crate::monitor::Monitor;
use crate::ops::OpsError;
use crate::ops::changes::Changes;
use crate::ops::findings::{Finding, Findings};
use crate::ops::threads::with_waiting;
use crate::ops::walk::{Walk, data_tag, differs_as_data, differs_as_tree, directory_tag, list_tag};
use crate::repository::Repository;
use crate::repository::index::IdRange;
use crate::repository::marks::{Differs, Marks, Root, Roots, TREE, is_out_of_order, marks_error};
use crate::repository::reader::BlobReader;
use crate::tree::entry::{Content, Entry, Extent, Node};
use crate::view::{DirectoryRoot, directory_node, list_node};

/// What is counted on when it is to be known what snapshots need.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Following {
    /// What an earlier run of this client remembers.
    #[default]
    Remembered,
    /// Nothing: everything is followed anew.
    Anew,
    /// What is remembered, if following everything anew comes to the same; else it is an error. For tests.
    Compared,
}

/// Marks of snapshots, or why there are none.
pub type Marked = Result<Arc<Marks>, Finding>;

/// Finds out what snapshots need.
pub struct Marking<'m, 'a> {
    reader: &'m BlobReader<'a>,
    monitor: &'m dyn Monitor,
}

impl<'m, 'a> Marking<'m, 'a> {
    /// By reading trees with this reader.
    pub fn new(reader: &'m BlobReader<'a>, monitor: &'m dyn Monitor) -> Self {
        Marking { reader, monitor }
    }

    fn repository(&self) -> &'a Repository {
        self.reader.repository()
    }

    /// What these snapshots need, as all of them are followed now.
    pub fn anew(&self, snapshots: &[(SnapshotId, Snapshot)]) -> Result<Marked, OpsError> {
        let changes = Changes::new(self.repository(), None);
        let findings = self.follow(&changes, snapshots)?;
        if let Some(finding) = findings.first() {
            return Ok(Err(finding));
        }
        let (marks, differs) = changes.finish(roots_of(snapshots)).map_err(marks_error)?;
        match differs {
            Some(differs) => Ok(Err(finding_of(&differs))),
            None => Ok(Ok(Arc::new(marks))),
        }
    }

    /// The same from marks of other snapshots; `None` when these are no help. `keeps`: those that are not among these
    /// snapshots go on to count.
    ///
    /// Whatever was found on the way is found again by whoever follows everything anew, and is told then: what is
    /// remembered is never the reason for an error.
    pub fn from(
        &self,
        base: &Arc<Marks>,
        snapshots: &[(SnapshotId, Snapshot)],
        keeps: bool,
    ) -> Result<Option<Arc<Marks>>, OpsError> {
        let mut roots = roots_of(snapshots);
        if keeps {
            for (id, root) in base.roots() {
                roots.entry(*id).or_insert(*root);
            }
        }
        if roots == *base.roots() {
            return Ok(Some(base.clone()));
        }
        let changes = Changes::new(self.repository(), Some(base));
        let is_new = |(id, snapshot): &&(_, _)| base.roots().get(id) != Some(&Root::of(snapshot));
        let new: Vec<_> = snapshots.iter().filter(is_new).cloned().collect();
        let findings = self.follow(&changes, &new)?;
        if findings.first().is_some() || changes.do_not_fit() {
            return Ok(None);
        }
        let gone = base.roots().iter().filter(|(id, root)| roots.get(id) != Some(root));
        let leaving = Leaving {
            reader: self.reader,
            monitor: self.monitor,
            changes: &changes,
            is_interrupted: AtomicBool::new(false),
        };
        gone.for_each(|(_, root)| leaving.snapshot(root));
        if leaving.is_interrupted.into_inner() {
            return Err(OpsError::Interrupted);
        }
        if changes.do_not_fit() {
            return Ok(None);
        }
        match changes.finish(roots) {
            Ok((marks, None)) => Ok(Some(Arc::new(marks))),
            Ok((_, Some(_))) | Err(_) => Ok(None),
        }
    }

    fn follow(
        &self,
        changes: &Changes<'_>,
        snapshots: &[(SnapshotId, Snapshot)],
    ) -> Result<Findings, OpsError> {
        let findings = Findings::default();
        let walk = Walk::new(self.reader, self.monitor, &findings).counting(changes);
        with_waiting(self.repository(), || walk.run(snapshots))?;
        drop(walk);
        Ok(findings)
    }

    /// An error unless following everything anew comes to these marks, if they are of these snapshots. What cannot be
    /// followed proves nothing.
    pub fn compare(
        &self,
        marks: &Marks,
        snapshots: &[(SnapshotId, Snapshot)],
    ) -> Result<(), OpsError> {
        if *marks.roots() != roots_of(snapshots) {
            return Ok(());
        }
        let Ok(anew) = self.anew(snapshots)? else { return Ok(()) };
        let (mut one, mut other) = (marks.rows(IdRange::ALL), anew.rows(IdRange::ALL));
        loop {
            let pair = (one.next().transpose(), other.next().transpose());
            match pair {
                (Ok(None), Ok(None)) => return Ok(()),
                (Ok(Some(one)), Ok(Some(other))) if one == other => {}
                // A file that is damaged is noticed, and no reason to follow anything anew just here.
                (Err(error), _) | (_, Err(error)) if !is_out_of_order(&error) => return Ok(()),
                (one, other) => {
                    let message = format!("remembered marks differ: {one:?} instead of {other:?}");
                    return Err(OpsError::Invalid(message));
                }
            }
        }
    }
}

/// The snapshots, and where their trees begin.
pub fn roots_of(snapshots: &[(SnapshotId, Snapshot)]) -> Roots {
    snapshots.iter().map(|(id, snapshot)| (*id, Root::of(snapshot))).collect::<BTreeMap<_, _>>()
}

fn finding_of(differs: &Differs) -> Finding {
    let Differs { key, tags } = differs;
    let (what, message) = match tags[0] & TREE {
        0 => ("blob", differs_as_data(*tags)),
        _ => ("tree blob", differs_as_tree(tags.map(|tag| tag & !TREE))),
    };
    Finding::of_blobs(vec![*key], format!("{what} {}", key.short()), message)
}

/// Takes snapshots away from marks: what nothing refers to any more is read once again, for what it refers to. If it cannot
/// be read, as it may have been collected, the marks are no help.
struct Leaving<'l, 'a> {
    reader: &'l BlobReader<'a>,
    monitor: &'l dyn Monitor,
    changes: &'l Changes<'l>,
    is_interrupted: AtomicBool,
}

impl<'l> Leaving<'l, '_> {
    fn snapshot(&'l self, root: &Root) {
        let root = DirectoryRoot { blob: root.blob, height: root.height };
        rayon::scope(|scope| self.directory(scope, root));
    }

    fn is_stopped(&self) -> bool {
        if self.monitor.interrupted() {
            self.is_interrupted.store(true, Ordering::Relaxed);
        }
        self.changes.do_not_fit() || self.is_interrupted.load(Ordering::Relaxed)
    }

    fn directory<'s>(&'s self, scope: &Scope<'s>, root: DirectoryRoot) {
        if self.is_stopped() || !self.changes.remove_tree(&root.blob, directory_tag(root.height)) {
            return;
        }
        match directory_node(self.reader, &root.blob) {
            Ok(DirectoryNode::Leaf(entries)) if root.height == 0 => {
                for entry in &entries {
                    match DirectoryRoot::of_entry(entry) {
                        Some(below) => scope.spawn(move |scope| self.directory(scope, below)),
                        None => self.entry(entry),
                    }
                }
            }
            Ok(DirectoryNode::Branch(children)) if root.height > 0 => {
                for child in children {
                    let below = DirectoryRoot { blob: child.blob, height: root.height - 1 };
                    scope.spawn(move |scope| self.directory(scope, below));
                }
            }
            _ => self.changes.give_up(),
        }
    }

    fn entry(&self, entry: &Entry) {
        let Node::File(file) = &entry.node else { return };
        match &file.content {
            Content::Inline(_) => {}
            Content::Extents(extents) => extents.iter().for_each(|extent| self.extent(extent)),
            Content::List { root, height } => self.list(root, *height),
        }
    }

    fn extent(&self, extent: &Extent) {
        if let Extent::Data { blob, length } = extent {
            self.changes.remove_data(blob, data_tag(*length));
        }
    }

    fn list(&self, id: &BlobId, height: u8) {
        if self.is_stopped() || !self.changes.remove_tree(id, list_tag(height)) {
            return;
        }
        match list_node(self.reader, id) {
            Ok(ListNode::Leaf(extents)) if height == 0 => {
                extents.iter().for_each(|extent| self.extent(extent));
            }
            Ok(ListNode::Branch(children)) if height > 0 => {
                children.iter().for_each(|child| self.list(&child.blob, height - 1));
            }
            _ => self.changes.give_up(),
        }
    }
}
