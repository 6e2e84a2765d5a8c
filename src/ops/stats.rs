//! Stats: how large things are.
//!
//! Every tree is followed once, whatever number of snapshots share it: what is below it is remembered.
//! Memory: 40 bytes a blob (`references`), and as much again for each directory.

use crate::format::directory::DirectoryNode;
use crate::format::list::ListNode;
use crate::format::snapshot::Snapshot;
use crate::id::{BlobId, SnapshotId};
use crate::monitor::{Monitor, Problem, Progress};
use crate::ops::OpsError;
use crate::ops::references::{Added, BlobKey, BlobMap, References};
use crate::repository::Repository;
use crate::repository::error::RepositoryError;
use crate::repository::reader::BlobReader;
use crate::repository::verify::is_damage;
use crate::tree::entry::{Content, Extent, FileContent, Node};
use crate::view::DirectoryRoot;

/// Bytes of opened segments that the reader keeps.
const SEGMENTS: u64 = 64 << 20;

/// How large a repository is, and what restoring would give.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StatsSummary {
    /// Snapshots counted.
    pub snapshots: u64,
    /// Files and directories in them, each snapshot counted for itself.
    pub entries: u64,
    /// Files among them.
    pub files: u64,
    /// Bytes of content that restoring all of them would write; each hard link is counted for itself.
    pub restore_bytes: u64,
    /// Plaintext bytes of the blobs they refer to, each blob counted once.
    pub unique_bytes: u64,
    /// Blobs they refer to, each counted once.
    pub blobs: u64,
    /// Packs in the whole repository.
    pub packs: u64,
    /// Bytes of all objects in the store.
    pub stored_bytes: u64,
    /// Index objects.
    pub indexes: u64,
}

/// Counts what these snapshots hold and what the repository takes. What cannot be read is reported as a
/// problem and not counted.
pub fn stats(
    repository: &Repository,
    snapshots: &[(SnapshotId, Snapshot)],
    monitor: &dyn Monitor,
) -> Result<StatsSummary, OpsError> {
    repository.refresh_index(monitor)?;
    let mut counting = Counting {
        reader: BlobReader::new(repository, SEGMENTS),
        monitor,
        trees: References::new(),
        data: References::new(),
        below: BlobMap::default(),
        unique_bytes: 0,
    };
    let mut summary = StatsSummary { snapshots: snapshots.len() as u64, ..StatsSummary::default() };
    for (_, snapshot) in snapshots {
        let below = counting.directory(DirectoryRoot::of_snapshot(snapshot))?;
        summary.entries += below.entries;
        summary.files += below.files;
        summary.restore_bytes += below.bytes;
    }
    repository.note_mended(monitor);
    summary.unique_bytes = counting.unique_bytes;
    summary.blobs = counting.trees.count() + counting.data.count();
    let inventory = repository.inventory()?;
    summary.packs = inventory.packs.len() as u64;
    summary.stored_bytes = inventory.stored_bytes;
    summary.indexes = inventory.indexes.len() as u64;
    Ok(summary)
}

/// What is below a directory node.
#[derive(Clone, Copy, Default)]
struct Below {
    entries: u64,
    files: u64,
    bytes: u64,
}

struct Counting<'c> {
    reader: BlobReader<'c>,
    monitor: &'c dyn Monitor,
    trees: References,
    data: References,
    below: BlobMap<Below>,
    unique_bytes: u64,
}

impl Counting<'_> {
    fn directory(&mut self, root: DirectoryRoot) -> Result<Below, OpsError> {
        if self.monitor.interrupted() {
            return Err(OpsError::Interrupted);
        }
        let key = BlobKey::new(&root.blob);
        if let Some(below) = self.below.get(&key) {
            return Ok(*below);
        }
        let mut below = Below::default();
        match (self.tree(&root.blob, DirectoryNode::decode)?, root.height) {
            (Some(DirectoryNode::Leaf(entries)), 0) => {
                let mut done = Progress::default();
                for entry in &entries {
                    below.entries += 1;
                    if let Some(inside) = DirectoryRoot::of_entry(entry) {
                        below.add(self.directory(inside)?);
                    } else if let Node::File(file) = &entry.node {
                        below.files += 1;
                        done.files += 1;
                        below.bytes += file.size;
                        self.file(file)?;
                    }
                }
                self.monitor.advance(done);
            }
            (Some(DirectoryNode::Branch(children)), 1..) => {
                for child in children {
                    let child = DirectoryRoot { blob: child.blob, height: root.height - 1 };
                    below.add(self.directory(child)?);
                }
            }
            _ => {}
        }
        self.below.insert(key, below);
        Ok(below)
    }

    /// A tree blob, counted when it is met first; `None` when it cannot be read.
    fn tree<T, E: std::fmt::Display>(
        &mut self,
        id: &BlobId,
        decode: fn(&[u8]) -> Result<T, E>,
    ) -> Result<Option<T>, OpsError> {
        let new = self.trees.add(id, 0) == Added::New;
        let (item, message) = match self.reader.tree(id) {
            Ok(blob) => {
                if new {
                    self.unique_bytes += blob.len() as u64;
                }
                match decode(&blob) {
                    Ok(node) => return Ok(Some(node)),
                    Err(error) => (format!("tree blob {}", id.short()), error.to_string()),
                }
            }
            Err(error) if is_damage(&error) => {
                let RepositoryError { item, message, .. } = error;
                (item, message)
            }
            Err(error) => return Err(error.into()),
        };
        self.monitor.problem(Problem { item, during: "stats", message });
        Ok(None)
    }

    fn file(&mut self, file: &FileContent) -> Result<(), OpsError> {
        match &file.content {
            Content::Inline(_) => {}
            Content::Extents(extents) => self.extents(extents),
            Content::List { root, height } => self.list(root, *height)?,
        }
        Ok(())
    }

    fn list(&mut self, id: &BlobId, height: u8) -> Result<(), OpsError> {
        let known = self.below.insert(BlobKey::new(id), Below::default()).is_some();
        if known {
            return Ok(());
        }
        match (self.tree(id, ListNode::decode)?, height) {
            (Some(ListNode::Leaf(extents)), 0) => self.extents(&extents),
            (Some(ListNode::Branch(children)), 1..) => {
                for child in children {
                    self.list(&child.blob, height - 1)?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn extents(&mut self, extents: &[Extent]) {
        for extent in extents {
            let Extent::Data { blob, length } = extent else { continue };
            if self.data.add(blob, 0) == Added::New {
                self.unique_bytes += length;
            }
        }
    }
}

impl Below {
    fn add(&mut self, other: Below) {
        self.entries += other.entries;
        self.files += other.files;
        self.bytes += other.bytes;
    }
}
