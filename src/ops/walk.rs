//! The structure: every tree followed once, whatever number of snapshots share it.
//!
//! Memory: a table entry for each blob (`references`), one more for each node of long chunk lists, the
//! segments that the reader keeps, and directories that wait for a thread.

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
use crate::ops::findings::{Finding, Findings};
use crate::ops::references::{Added, BlobKey, BlobMap, References};
use crate::repository::error::RepositoryError;
use crate::repository::reader::BlobReader;
use crate::repository::verify::is_damage;
use crate::tree::entry::{Content, Entry, Extent, FileContent, Node};
use crate::view::{DirectoryRoot, directory_node, list_node};

/// The tag of a directory node of this height; a list node's has one more bit.
fn directory_tag(height: u8) -> u32 {
    u32::from(height)
}

fn list_tag(height: u8) -> u32 {
    u32::from(height) | 1 << 8
}

fn describe_tag(tag: u32) -> String {
    let what = if tag >> 8 == 0 { "directory" } else { "chunk list" };
    format!("a {what} of height {}", tag & 0xff)
}

/// A walk over all snapshots.
pub struct Walk<'w, 'a> {
    reader: &'w BlobReader<'a>,
    monitor: &'w dyn Monitor,
    findings: &'w Findings,
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
            trees: References::new(),
            data: References::new(),
            lists: Mutex::default(),
            stopped: AtomicBool::new(false),
            failure: Mutex::default(),
        }
    }

    /// Follows everything that these snapshots refer to.
    pub fn run(&self, snapshots: &[(SnapshotId, Snapshot)]) -> Result<(), OpsError> {
        for (id, snapshot) in snapshots {
            self.monitor.current(&id.short());
            let root = DirectoryRoot::of_snapshot(snapshot);
            rayon::scope(|scope| self.directory(scope, root));
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
        match self.trees.add(id, tag) {
            Added::New => true,
            Added::Known => false,
            Added::Differs(known) => {
                let (known, wanted) = (describe_tag(known), describe_tag(tag));
                let message = format!("is referred to as {known} and as {wanted}");
                self.findings.add(Finding::of_blob(id, tree_item(id), message));
                false
            }
        }
    }

    fn directory<'s>(&'s self, scope: &Scope<'s>, root: DirectoryRoot) {
        if self.is_stopped() || !self.is_new(&root.blob, directory_tag(root.height)) {
            return;
        }
        match directory_node(self.reader, &root.blob) {
            Err(error) => self.damaged(&root.blob, error),
            Ok(DirectoryNode::Leaf(entries)) if root.height == 0 => {
                let mut done = Progress::default();
                for entry in &entries {
                    if let Some(below) = DirectoryRoot::of_entry(entry) {
                        scope.spawn(move |scope| self.directory(scope, below));
                    } else if let Node::File(file) = &entry.node {
                        self.file(&root.blob, entry, file);
                        done.files += 1;
                    }
                }
                self.monitor.advance(done);
            }
            Ok(DirectoryNode::Branch(children)) if root.height > 0 => {
                for child in children {
                    let below = DirectoryRoot { blob: child.blob, height: root.height - 1 };
                    scope.spawn(move |scope| self.directory(scope, below));
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
        // No blob is so long; a length that does not fit is never that of a blob in a pack.
        let tag = u32::try_from(*length).unwrap_or(u32::MAX).min(u32::MAX >> 1);
        if let Added::Differs(known) = self.data.add(blob, tag) {
            let message = format!("is said to be {known} bytes long, and {length}");
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
            // Where another thread is at it just now, it is read twice rather than waited for.
            if let Some(covered) = self.lists.lock().get(&key) {
                return *covered;
            }
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
}

fn tree_item(id: &BlobId) -> String {
    format!("tree blob {}", id.short())
}

fn sum(mut lengths: impl Iterator<Item = u64>) -> Option<u64> {
    lengths.try_fold(0u64, u64::checked_add)
}
