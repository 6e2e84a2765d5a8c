//! The structure: every tree followed once, whatever number of snapshots share it.
//!
//! Memory: a table entry for each blob (`references`), or what changes of counts take (`changes`), one more for each node
//! of long chunk lists, the segments that the reader keeps, and directories that wait for a thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use rayon::Scope;
use rayon::iter::{IntoParallelRefIterator, ParallelIterator};

use crate::format::directory::DirectoryNode;
use crate::format::header::ObjectKind;
use crate::format::list::ListNode;
use crate::format::snapshot::Snapshot;
use crate::id::{BlobId, SnapshotId};
use crate::monitor::{Monitor, Progress};
use crate::ops::OpsError;
use crate::ops::changes::Changes;
use crate::ops::findings::{Finding, Findings};
use crate::ops::references::{Added, BlobKey, BlobMap, References};
use crate::repository::error::RepositoryError;
use crate::repository::reader::BlobReader;
use crate::repository::verify::is_damage;
use crate::tree::entry::{Content, Entry, Extent, FileContent, Node};
use crate::tree::path::TreePath;
use crate::view::{DirectoryRoot, directory_node, list_node};

/// The tag of a directory node of this height; a list node's has one more bit.
pub fn directory_tag(height: u8) -> u32 {
    u32::from(height)
}

/// The tag of a list node of this height.
pub fn list_tag(height: u8) -> u32 {
    u32::from(height) | 1 << 8
}

/// The tag of a data blob.
pub fn data_tag(length: u64) -> u32 {
    // No blob is so long; a length that does not fit is never that of a blob in a pack.
    u32::try_from(length).unwrap_or(u32::MAX).min(u32::MAX >> 1)
}

/// That a tree blob is referred to as two things.
pub fn differs_as_tree([one, other]: [u32; 2]) -> String {
    format!("is referred to as {} and as {}", describe_tag(one), describe_tag(other))
}

/// That a data blob is said to have two lengths.
pub fn differs_as_data([one, other]: [u32; 2]) -> String {
    format!("is said to be {one} bytes long, and {other}")
}

fn describe_tag(tag: u32) -> String {
    let what = if tag >> 8 == 0 { "directory" } else { "chunk list" };
    format!("a {what} of height {}", tag & 0xff)
}

/// A directory as people name it: in one of the snapshots that have it.
#[derive(Debug, Clone)]
pub struct Place {
    snapshot: Arc<str>,
    path: TreePath,
}

impl Place {
    fn root(id: SnapshotId) -> Self {
        Place { snapshot: id.short().into(), path: TreePath::root() }
    }

    /// What has this name in it.
    pub fn join(&self, name: &[u8]) -> Self {
        Place { snapshot: self.snapshot.clone(), path: self.path.join(name) }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.snapshot, self.path)
    }
}

/// What is told of every file: the directory, its entry and what it holds.
pub type TakeFile<'w> = dyn Fn(&Place, &Entry, &FileContent) + Sync + 'w;

/// A walk over all snapshots.
pub struct Walk<'w, 'a> {
    reader: &'w BlobReader<'a>,
    monitor: &'w dyn Monitor,
    findings: &'w Findings,
    take_file: Option<&'w TakeFile<'w>>,
    /// Counts references here, and not below.
    changes: Option<&'w Changes<'w>>,
    /// Tree blobs, tagged with what they are read as.
    pub trees: References,
    /// Data blobs, tagged with their lengths.
    pub data: References,
    /// How many bytes each list node covers; `None` for those that cannot be read.
    lists: Mutex<BlobMap<Option<u64>>>,
    stopped: AtomicBool,
    failure: Mutex<Option<OpsError>>,
}

impl<'w, 'a> Walk<'w, 'a> {
    /// A walk that has seen nothing.
    pub fn new(
        reader: &'w BlobReader<'a>,
        monitor: &'w dyn Monitor,
        findings: &'w Findings,
    ) -> Self {
        Walk {
            reader,
            monitor,
            findings,
            take_file: None,
            changes: None,
            trees: References::new(),
            data: References::new(),
            lists: Mutex::default(),
            stopped: AtomicBool::new(false),
            failure: Mutex::default(),
        }
    }

    /// The same walk; it tells `take_file` of every file in every directory that it enters.
    pub fn with_files(self, take_file: &'w TakeFile<'w>) -> Self {
        Walk { take_file: Some(take_file), ..self }
    }

    /// A walk that counts every reference, and follows what counted none before.
    pub fn counting(self, changes: &'w Changes<'w>) -> Self {
        Walk { changes: Some(changes), ..self }
    }

    /// Follows everything that these snapshots refer to.
    pub fn run(&self, snapshots: &[(SnapshotId, Snapshot)]) -> Result<(), OpsError> {
        for (id, snapshot) in snapshots {
            self.monitor.current(&id.short());
            let root = DirectoryRoot::of_snapshot(snapshot);
            let place = self.take_file.is_some().then(|| Place::root(*id));
            rayon::scope(|scope| self.directory(scope, root, place));
            if let Some(failure) = self.failure.lock().take() {
                return Err(failure);
            }
        }
        Ok(())
    }

    /// Whether anything that was followed refers to this blob of a pack of this kind.
    pub fn needs(&self, kind: ObjectKind, id: &BlobId) -> bool {
        match kind {
            ObjectKind::TreePack => self.trees.contains(id),
            _ => self.data.contains(id),
        }
    }

    fn stop(&self, failure: OpsError) {
        self.stopped.store(true, Ordering::Relaxed);
        self.failure.lock().get_or_insert(failure);
    }

    fn is_stopped(&self) -> bool {
        if self.monitor.interrupted() {
            self.stop(OpsError::Interrupted);
        }
        self.stopped.load(Ordering::Relaxed)
    }

    fn damaged(&self, id: &BlobId, error: RepositoryError) {
        if is_damage(&error) {
            self.findings.add(Finding::of_blob(id, error.item, error.message));
        } else {
            self.stop(error.into());
        }
    }

    /// Whether this tree blob is to be read: nobody has read it as the same thing before.
    fn is_new(&self, id: &BlobId, tag: u32) -> bool {
        let added = match self.changes {
            Some(changes) => changes.add_tree(id, tag),
            None => self.trees.add(id, tag),
        };
        match added {
            Added::New => true,
            Added::Known => false,
            Added::Differs(known) => {
                let message = differs_as_tree([known, tag]);
                self.findings.add(Finding::of_blob(id, tree_item(id), message));
                false
            }
        }
    }

    /// `place` is where the directory is, if anybody wants to know.
    fn directory<'s>(&'s self, scope: &Scope<'s>, root: DirectoryRoot, place: Option<Place>) {
        if self.is_stopped() || !self.is_new(&root.blob, directory_tag(root.height)) {
            return;
        }
        match directory_node(self.reader, &root.blob) {
            Err(error) => self.damaged(&root.blob, error),
            Ok(DirectoryNode::Leaf(entries)) if root.height == 0 => {
                let mut done = Progress::default();
                for entry in &entries {
                    if let Some(below) = DirectoryRoot::of_entry(entry) {
                        let place = place.as_ref().map(|place| place.join(&entry.name));
                        scope.spawn(move |scope| self.directory(scope, below, place));
                    } else if let Node::File(file) = &entry.node {
                        if let (Some(place), Some(take_file)) = (&place, self.take_file) {
                            take_file(place, entry, file);
                        }
                        self.file(&root.blob, entry, file);
                        done.files += 1;
                    }
                }
                self.monitor.advance(done);
            }
            Ok(DirectoryNode::Branch(children)) if root.height > 0 => {
                for child in children {
                    let below = DirectoryRoot { blob: child.blob, height: root.height - 1 };
                    let place = place.clone();
                    scope.spawn(move |scope| self.directory(scope, below, place));
                }
            }
            Ok(_) => self.wrong_height(&root.blob, directory_tag(root.height)),
        }
    }

    fn wrong_height(&self, id: &BlobId, tag: u32) {
        let message = format!("is no {} as what refers to it says", &describe_tag(tag)[2..]);
        self.findings.add(Finding::of_blob(id, tree_item(id), message));
    }

    fn file(&self, directory: &BlobId, entry: &Entry, file: &FileContent) {
        match &file.content {
            Content::Inline(_) => {}
            // That they add up to the size was seen when the directory was decoded.
            Content::Extents(extents) => extents.iter().for_each(|extent| self.extent(extent)),
            Content::List { root, height } => {
                let covered = self.list(root, *height);
                if covered.is_some_and(|covered| covered != file.size) {
                    let name = String::from_utf8_lossy(&entry.name);
                    let message = format!(
                        "says that {name} is {} bytes long, and its chunk list covers {}",
                        file.size,
                        covered.unwrap_or(0)
                    );
                    self.findings.add(Finding::of_blob(directory, tree_item(directory), message));
                }
            }
        }
    }

    fn extent(&self, extent: &Extent) {
        let Extent::Data { blob, length } = extent else { return };
        let tag = data_tag(*length);
        if let Some(changes) = self.changes {
            return changes.add_data(blob, tag);
        }
        if let Added::Differs(known) = self.data.add(blob, tag) {
            let message = differs_as_data([known, tag]);
            self.findings.add(Finding::of_blob(blob, format!("blob {}", blob.short()), message));
        }
    }

    /// How many bytes the list covers; `None` when it, or a part of it, cannot be read.
    fn list(&self, id: &BlobId, height: u8) -> Option<u64> {
        if self.is_stopped() {
            return None;
        }
        let key = BlobKey::new(id);
        if !self.is_new(id, list_tag(height)) {
            if let Some(covered) = self.lists.lock().get(&key) {
                return *covered;
            }
            // Where another thread is at it just now, or it was followed long ago, it is read once more. What its parts
            // are is held against what it says of them where they are followed.
            let covered = self.covered(id, height);
            self.lists.lock().insert(key, covered);
            return covered;
        }
        let covered = match list_node(self.reader, id) {
            Err(error) => {
                self.damaged(id, error);
                None
            }
            Ok(ListNode::Leaf(extents)) if height == 0 => {
                extents.iter().for_each(|extent| self.extent(extent));
                sum(extents.iter().map(Extent::length))
            }
            Ok(ListNode::Branch(children)) if height > 0 => {
                let below: Vec<_> =
                    children.par_iter().map(|child| self.list(&child.blob, height - 1)).collect();
                let differs = children
                    .iter()
                    .zip(&below)
                    .any(|(child, below)| below.is_some_and(|below| below != child.length));
                if differs {
                    let message = "says another length of a part than the part itself";
                    self.findings.add(Finding::of_blob(id, tree_item(id), message.into()));
                }
                below.into_iter().collect::<Option<Vec<_>>>().and_then(|all| sum(all.into_iter()))
            }
            Ok(_) => {
                self.wrong_height(id, list_tag(height));
                None
            }
        };
        self.lists.lock().insert(key, covered);
        covered
    }

    /// How many bytes a list covers by what its first node says.
    fn covered(&self, id: &BlobId, height: u8) -> Option<u64> {
        match list_node(self.reader, id) {
            Err(error) => {
                self.damaged(id, error);
                None
            }
            Ok(ListNode::Leaf(extents)) if height == 0 => sum(extents.iter().map(Extent::length)),
            Ok(ListNode::Branch(children)) if height > 0 => {
                sum(children.iter().map(|child| child.length))
            }
            // Said where it was followed.
            Ok(_) => None,
        }
    }
}

fn tree_item(id: &BlobId) -> String {
    format!("tree blob {}", id.short())
}

fn sum(mut lengths: impl Iterator<Item = u64>) -> Option<u64> {
    lengths.try_fold(0u64, u64::checked_add)
}
