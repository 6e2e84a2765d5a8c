//! Names the files that damage hits: a second walk over all snapshots, made only when there is damage.
//!
//! A tree that nothing below hits is remembered and not entered again, so that the walk costs little more than
//! the first one. Newest snapshots come first: theirs are the names that people know.

use std::collections::HashSet;

use crate::format::directory::DirectoryNode;
use crate::format::list::ListNode;
use crate::format::snapshot::Snapshot;
use crate::id::{BlobId, SnapshotId};
use crate::monitor::Monitor;
use crate::ops::OpsError;
use crate::ops::findings::{Finding, by_blob};
use crate::ops::references::{BlobKey, BlobMap};
use crate::repository::reader::BlobReader;
use crate::tree::entry::{Content, Extent, FileContent, Node};
use crate::tree::path::TreePath;
use crate::view::{DirectoryRoot, directory_node, list_node};

/// Gives every finding the files and directories that it hits. Returns whether all of them could be looked at:
/// what is below a directory that cannot be read, nobody knows.
pub fn name_hits(
    reader: &BlobReader<'_>,
    snapshots: &[(SnapshotId, Snapshot)],
    findings: &mut [Finding],
    monitor: &dyn Monitor,
) -> Result<bool, OpsError> {
    let damaged = by_blob(findings);
    if damaged.is_empty() {
        return Ok(true);
    }
    let mut naming = Naming {
        reader,
        monitor,
        damaged,
        findings,
        whole: HashSet::new(),
        snapshot: String::new(),
        is_complete: true,
    };
    for (id, snapshot) in snapshots.iter().rev() {
        naming.snapshot = id.short();
        naming.directory(DirectoryRoot::of_snapshot(snapshot), &TreePath::root())?;
    }
    Ok(naming.is_complete)
}

struct Naming<'n, 'a> {
    reader: &'n BlobReader<'a>,
    monitor: &'n dyn Monitor,
    damaged: BlobMap<Vec<usize>>,
    findings: &'n mut [Finding],
    /// Tree blobs with nothing damaged below.
    whole: HashSet<BlobKey>,
    snapshot: String,
    is_complete: bool,
}

impl Naming<'_, '_> {
    fn hit(&mut self, numbers: &[usize], path: &TreePath) {
        for number in numbers {
            self.findings[*number].hit(format!("{}:{path}", self.snapshot));
        }
    }

    /// Whether nothing at or below the directory is hit.
    fn directory(&mut self, root: DirectoryRoot, path: &TreePath) -> Result<bool, OpsError> {
        if self.monitor.interrupted() {
            return Err(OpsError::Interrupted);
        }
        let key = BlobKey::new(&root.blob);
        if self.whole.contains(&key) {
            return Ok(true);
        }
        let mut whole = true;
        if let Some(numbers) = self.damaged.get(&key).cloned() {
            self.hit(&numbers, path);
            whole = false;
        }
        // A node that is damaged in the store may still be whole in the local cache: then what is below
        // can be named, too.
        match (directory_node(self.reader, &root.blob), root.height) {
            (Ok(DirectoryNode::Leaf(entries)), 0) => {
                for entry in &entries {
                    let path = path.join(&entry.name);
                    if let Some(below) = DirectoryRoot::of_entry(entry) {
                        whole &= self.directory(below, &path)?;
                    } else if let Node::File(file) = &entry.node {
                        let mut numbers = Vec::new();
                        whole &= self.file(file, &mut numbers);
                        numbers.sort_unstable();
                        numbers.dedup();
                        self.hit(&numbers, &path);
                    }
                }
            }
            (Ok(DirectoryNode::Branch(children)), 1..) => {
                for child in children {
                    let below = DirectoryRoot { blob: child.blob, height: root.height - 1 };
                    whole &= self.directory(below, path)?;
                }
            }
            // The first walk said so.
            _ => {
                whole = false;
                self.is_complete = false;
            }
        }
        if whole {
            self.whole.insert(key);
        }
        Ok(whole)
    }

    /// Whether nothing of the file is damaged; what hits it goes into `numbers`.
    fn file(&mut self, file: &FileContent, numbers: &mut Vec<usize>) -> bool {
        match &file.content {
            Content::Inline(_) => true,
            Content::Extents(extents) => self.extents(extents, numbers),
            Content::List { root, height } => self.list(root, *height, numbers),
        }
    }

    fn extents(&self, extents: &[Extent], numbers: &mut Vec<usize>) -> bool {
        let mut whole = true;
        for extent in extents {
            let Extent::Data { blob, .. } = extent else { continue };
            if let Some(found) = self.damaged.get(&BlobKey::new(blob)) {
                numbers.extend(found);
                whole = false;
            }
        }
        whole
    }

    fn list(&mut self, id: &BlobId, height: u8, numbers: &mut Vec<usize>) -> bool {
        let key = BlobKey::new(id);
        if self.whole.contains(&key) {
            return true;
        }
        let mut whole = true;
        if let Some(found) = self.damaged.get(&key) {
            numbers.extend(found);
            whole = false;
        }
        match (list_node(self.reader, id), height) {
            (Ok(ListNode::Leaf(extents)), 0) => whole &= self.extents(&extents, numbers),
            (Ok(ListNode::Branch(children)), 1..) => {
                for child in children {
                    whole &= self.list(&child.blob, height - 1, numbers);
                }
            }
            _ => {
                whole = false;
                self.is_complete = false;
            }
        }
        if whole {
            self.whole.insert(key);
        }
        whole
    }
}
