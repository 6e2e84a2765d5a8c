//! A snapshot read as a file system: directories, entries by path, a file's extents.

use crate::format::directory::{DirectoryChild, DirectoryNode};
use crate::format::list::{ListChild, ListNode};
use crate::format::snapshot::Snapshot;
use crate::id::BlobId;
use crate::repository::error::{Named, RepositoryError, Result};
use crate::repository::reader::BlobReader;
use crate::tree::entry::{Content, Entry, Extent, FileContent, Node};
use crate::tree::path::TreePath;

/// The root of a directory: its first node and the node's height.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DirectoryRoot {
    /// The node's blob.
    pub blob: BlobId,
    /// 0: the node holds entries.
    pub height: u8,
}

impl DirectoryRoot {
    /// The root directory of a snapshot.
    pub fn of_snapshot(snapshot: &Snapshot) -> Self {
        DirectoryRoot { blob: snapshot.root, height: snapshot.height }
    }

    /// The directory that an entry is, if it is one.
    pub fn of_entry(entry: &Entry) -> Option<Self> {
        match entry.node {
            Node::Directory { root, height } => Some(DirectoryRoot { blob: root, height }),
            _ => None,
        }
    }
}

/// Reads one node of a directory.
pub fn directory_node(reader: &BlobReader<'_>, id: &BlobId) -> Result<DirectoryNode> {
    DirectoryNode::decode(&reader.tree(id)?).named(format!("tree blob {}", id.short()))
}

/// Reads one node of a chunk list.
pub fn list_node(reader: &BlobReader<'_>, id: &BlobId) -> Result<ListNode> {
    ListNode::decode(&reader.tree(id)?).named(format!("tree blob {}", id.short()))
}

fn wrong_height(id: &BlobId) -> RepositoryError {
    RepositoryError::corrupt(
        format!("tree blob {}", id.short()),
        "has another height than its parent says",
    )
}

/// The entries of a directory, in order, read node by node. After an error the rest of the directory is
/// still told, so that one damaged node costs only its own entries.
pub struct Entries<'r, 'a> {
    reader: &'r BlobReader<'a>,
    leaf: std::vec::IntoIter<Entry>,
    pending: Vec<DirectoryRoot>,
}

impl<'r, 'a> Entries<'r, 'a> {
    /// The entries below `root`.
    pub fn new(reader: &'r BlobReader<'a>, root: DirectoryRoot) -> Self {
        Entries { reader, leaf: Vec::new().into_iter(), pending: vec![root] }
    }

    fn descend(&mut self, root: DirectoryRoot) -> Result<()> {
        match (directory_node(self.reader, &root.blob)?, root.height) {
            (DirectoryNode::Leaf(entries), 0) => self.leaf = entries.into_iter(),
            (DirectoryNode::Branch(children), 1..) => {
                let height = root.height - 1;
                let children = children.iter().rev();
                self.pending
                    .extend(children.map(|child| DirectoryRoot { blob: child.blob, height }));
            }
            _ => return Err(wrong_height(&root.blob)),
        }
        Ok(())
    }
}

impl Iterator for Entries<'_, '_> {
    type Item = Result<Entry>;

    fn next(&mut self) -> Option<Result<Entry>> {
        loop {
            if let Some(entry) = self.leaf.next() {
                return Some(Ok(entry));
            }
            let root = self.pending.pop()?;
            if let Err(error) = self.descend(root) {
                return Some(Err(error));
            }
        }
    }
}

/// The extents of a file, in order, read node by node. After an error nothing more comes: what follows a
/// damaged node would stand at a wrong offset.
pub struct Extents<'r, 'a> {
    reader: &'r BlobReader<'a>,
    leaf: std::vec::IntoIter<Extent>,
    pending: Vec<(BlobId, u8)>,
    rest: u64,
}

impl<'r, 'a> Extents<'r, 'a> {
    /// The extents of `file`. Of inline content there are none.
    pub fn new(reader: &'r BlobReader<'a>, file: &FileContent) -> Self {
        let (leaf, pending, rest) = match &file.content {
            Content::Inline(_) => (Vec::new(), Vec::new(), 0),
            Content::Extents(extents) => (extents.clone(), Vec::new(), file.size),
            Content::List { root, height } => (Vec::new(), vec![(*root, *height)], file.size),
        };
        Extents { reader, leaf: leaf.into_iter(), pending, rest }
    }

    fn descend(&mut self, id: BlobId, height: u8) -> Result<()> {
        match (list_node(self.reader, &id)?, height) {
            (ListNode::Leaf(extents), 0) => self.leaf = extents.into_iter(),
            (ListNode::Branch(children), 1..) => {
                let children = children.iter().rev();
                self.pending.extend(children.map(|child: &ListChild| (child.blob, height - 1)));
            }
            _ => return Err(wrong_height(&id)),
        }
        Ok(())
    }

    fn fail(&mut self, error: RepositoryError) -> Option<Result<Extent>> {
        self.leaf = Vec::new().into_iter();
        self.pending.clear();
        self.rest = 0;
        Some(Err(error))
    }
}

impl Iterator for Extents<'_, '_> {
    type Item = Result<Extent>;

    fn next(&mut self) -> Option<Result<Extent>> {
        loop {
            if let Some(extent) = self.leaf.next() {
                return match self.rest.checked_sub(extent.length()) {
                    Some(rest) => {
                        self.rest = rest;
                        Some(Ok(extent))
                    }
                    None => self.fail(RepositoryError::corrupt(
                        "chunk list",
                        "is longer than the file's size",
                    )),
                };
            }
            let Some((id, height)) = self.pending.pop() else {
                return match self.rest {
                    0 => None,
                    _ => self.fail(RepositoryError::corrupt(
                        "chunk list",
                        "is shorter than the file's size",
                    )),
                };
            };
            if let Err(error) = self.descend(id, height) {
                return self.fail(error);
            }
        }
    }
}

/// The entry of this name in a directory, if there is one. Reads one node a level.
pub fn find_entry(
    reader: &BlobReader<'_>,
    mut directory: DirectoryRoot,
    name: &[u8],
) -> Result<Option<Entry>> {
    loop {
        match (directory_node(reader, &directory.blob)?, directory.height) {
            (DirectoryNode::Leaf(mut entries), 0) => {
                let found = entries.binary_search_by(|entry| (*entry.name).cmp(name));
                return Ok(found.ok().map(|at| entries.swap_remove(at)));
            }
            (DirectoryNode::Branch(children), 1..) => {
                let after =
                    children.partition_point(|child: &DirectoryChild| &*child.first_name <= name);
                let Some(child) = after.checked_sub(1).and_then(|at| children.get(at)) else {
                    return Ok(None);
                };
                directory = DirectoryRoot { blob: child.blob, height: directory.height - 1 };
            }
            _ => return Err(wrong_height(&directory.blob)),
        }
    }
}

/// What a path leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// The snapshot's root, which has no entry of its own.
    Root(DirectoryRoot),
    /// An entry.
    Entry(Box<Entry>),
}

/// Follows a path from the snapshot's root; symbolic links are not followed. `None`: there is no such entry.
pub fn find_path(
    reader: &BlobReader<'_>,
    snapshot: &Snapshot,
    path: &TreePath,
) -> Result<Option<Found>> {
    find_below(reader, DirectoryRoot::of_snapshot(snapshot), path)
}

/// Follows a path from a root directory, as [`find_path`] does.
pub fn find_below(
    reader: &BlobReader<'_>,
    root: DirectoryRoot,
    path: &TreePath,
) -> Result<Option<Found>> {
    let mut directory = Some(root);
    let mut found = None;
    for name in path.components() {
        let Some(inside) = directory else { return Ok(None) };
        let Some(entry) = find_entry(reader, inside, name)? else { return Ok(None) };
        directory = DirectoryRoot::of_entry(&entry);
        found = Some(entry);
    }
    Ok(Some(found.map_or(Found::Root(root), |entry| Found::Entry(Box::new(entry)))))
}

/// Reads a whole file into memory, up to `limit` bytes: for small files and previews.
pub fn read_file(reader: &BlobReader<'_>, file: &FileContent, limit: u64) -> Result<Vec<u8>> {
    if let Content::Inline(bytes) = &file.content {
        return Ok(bytes.to_vec());
    }
    let mut content = Vec::new();
    for extent in Extents::new(reader, file) {
        let left = (limit as usize).saturating_sub(content.len());
        match extent? {
            Extent::Data { blob, length } => {
                let bytes = reader.data(&blob)?;
                if bytes.len() as u64 != length {
                    return Err(RepositoryError::corrupt(
                        format!("blob {}", blob.short()),
                        "has another length than the file says",
                    ));
                }
                content.extend_from_slice(&bytes[..bytes.len().min(left)]);
            }
            Extent::Hole { length } => {
                content.resize(content.len() + (length as usize).min(left), 0);
            }
        }
        if content.len() as u64 >= limit {
            break;
        }
    }
    Ok(content)
}
