//! Rewrites a snapshot's tree without what cannot be read.
//!
//! A file of which some chunks are left keeps them at their offsets, with holes for the others, under the name
//! `<name>.damaged`, so that a restore never puts it in the place of a whole file; a file of which nothing is left
//! is left out. A directory keeps its name: its whole entries stay where people look for them. What is whole below
//! keeps its blobs.
//!
//! Whatever is met on the way that can be read and stands in no pack that writers count on (it is in a damaged pack, or
//! in the local cache only) is stored again: that alone heals all snapshots that need it.
//!
//! Memory: the entries of one directory for each level, and 16 bytes for each directory and long chunk list
//! that is whole.

use std::collections::HashSet;

use crate::format::directory::DirectoryNode;
use crate::format::header::ObjectKind;
use crate::format::list::ListNode;
use crate::id::BlobId;
use crate::monitor::Monitor;
use crate::ops::OpsError;
use crate::ops::nodes::{DirectoryBuilder, ListBuilder};
use crate::ops::references::BlobKey;
use crate::repository::error::{Kind, Named, RepositoryError};
use crate::repository::reader::{Blob, BlobReader};
use crate::repository::writer::{SegmentWriter, Writer};
use crate::tree::entry::{Content, Entry, Extent, FileContent, Node};
use crate::tree::path::TreePath;
use crate::view::DirectoryRoot;

/// No file system takes longer names, in bytes.
const NAME_MAX: usize = 255;

/// What a tree became.
pub enum Rewritten {
    /// Everything in it can be read.
    Whole,
    /// There is another tree without what cannot be read.
    Without(DirectoryRoot),
    /// Not even the root directory can be read.
    Lost(RepositoryError),
}

/// Rewrites trees of one repository.
pub struct Rewriter<'r, 'w, 'a> {
    reader: &'r BlobReader<'a>,
    writer: &'w Writer<'a>,
    monitor: &'r dyn Monitor,
    data: SegmentWriter<'w>,
    trees: SegmentWriter<'w>,
    whole: HashSet<BlobKey>,
    /// What is not whole in the tree that was rewritten last, a line each.
    pub left_out: Vec<String>,
    /// Blobs that were stored again.
    pub stored_again: u64,
}

/// A directory that is being gone through.
struct Frame {
    path: TreePath,
    root: DirectoryRoot,
    /// The entry that it is in the directory above; `None` for the root.
    entry: Option<Entry>,
    rest: std::vec::IntoIter<Entry>,
    done: Vec<Entry>,
    /// Entries that are kept under another name.
    renamed: Vec<Entry>,
    changed: bool,
}

/// What is left of a file.
struct Remains {
    lost_bytes: u64,
    kept_bytes: u64,
    /// All its extents together; `None`: too many to be.
    covered: Option<u64>,
}

impl<'r, 'w, 'a> Rewriter<'r, 'w, 'a> {
    /// A rewriter that has seen nothing.
    pub fn new(
        reader: &'r BlobReader<'a>,
        writer: &'w Writer<'a>,
        monitor: &'r dyn Monitor,
    ) -> Result<Self, OpsError> {
        Ok(Rewriter {
            reader,
            writer,
            monitor,
            data: writer.segments(ObjectKind::DataPack)?,
            trees: writer.segments(ObjectKind::TreePack)?,
            whole: HashSet::new(),
            left_out: Vec::new(),
            stored_again: 0,
        })
    }

    /// Stores what is gathered.
    pub fn finish(mut self) -> Result<u64, OpsError> {
        self.data.flush()?;
        self.trees.flush()?;
        Ok(self.stored_again)
    }

    /// Goes through a tree, and writes what it needs to become another one.
    pub fn rewrite(&mut self, root: DirectoryRoot) -> Result<Rewritten, OpsError> {
        self.left_out.clear();
        if self.whole.contains(&BlobKey::new(&root.blob)) {
            return Ok(Rewritten::Whole);
        }
        let mut frames = match self.enter(TreePath::root(), root, None)? {
            Ok(frame) => vec![frame],
            Err(error) => return Ok(Rewritten::Lost(error)),
        };
        loop {
            if self.monitor.interrupted() {
                return Err(OpsError::Interrupted);
            }
            let Some(frame) = frames.last_mut() else {
                return Ok(Rewritten::Whole);
            };
            if let Some(entry) = frame.rest.next() {
                if let Some(below) = DirectoryRoot::of_entry(&entry) {
                    if self.whole.contains(&BlobKey::new(&below.blob)) {
                        frame.done.push(entry);
                        continue;
                    }
                    let path = frame.path.join(&entry.name);
                    match self.enter(path, below, Some(entry.clone()))? {
                        Ok(below) => frames.push(below),
                        Err(_) => self.lose_directory(frame, entry)?,
                    }
                } else {
                    self.entry(frame, entry)?;
                }
                continue;
            }
            let Some(frame) = frames.pop() else { return Ok(Rewritten::Whole) };
            let changed = frame.changed;
            let (entry, root) = self.leave(frame)?;
            match (frames.last_mut(), entry) {
                (Some(above), Some(entry)) => {
                    above.changed |= changed;
                    above.done.push(entry);
                }
                _ if changed => return Ok(Rewritten::Without(root)),
                _ => return Ok(Rewritten::Whole),
            }
        }
    }

    /// Reads a directory's entries. `Err`: its first node cannot be read.
    fn enter(
        &mut self,
        path: TreePath,
        root: DirectoryRoot,
        entry: Option<Entry>,
    ) -> Result<Result<Frame, RepositoryError>, OpsError> {
        let mut entries = Vec::new();
        let mut lost_parts = 0;
        let mut pending = vec![root];
        while let Some(next) = pending.pop() {
            let node = match self.tree(&next.blob)? {
                Ok(bytes) => {
                    let item = format!("tree blob {}", next.blob.short());
                    match DirectoryNode::decode(&bytes).named(item) {
                        Err(error) if error.kind != Kind::Corrupt => return Err(error.into()),
                        node => node,
                    }
                }
                Err(error) => Err(error),
            };
            match (node, next.height) {
                (Ok(DirectoryNode::Leaf(leaf)), 0) => entries.extend(leaf),
                (Ok(DirectoryNode::Branch(children)), 1..) => {
                    let height = next.height - 1;
                    let children = children.iter().rev();
                    pending
                        .extend(children.map(|child| DirectoryRoot { blob: child.blob, height }));
                }
                (node, _) if next == root => {
                    return Ok(Err(node.err().unwrap_or_else(|| wrong_height(&next.blob))));
                }
                _ => lost_parts += 1,
            }
        }
        if lost_parts > 0 {
            self.left_out.push(format!("{path}: a part of its entries cannot be read"));
        }
        Ok(Ok(Frame {
            path,
            root,
            entry,
            rest: entries.into_iter(),
            done: Vec::new(),
            renamed: Vec::new(),
            changed: lost_parts > 0,
        }))
    }

    /// Keeps a directory that cannot be read as an empty one.
    fn lose_directory(&mut self, frame: &mut Frame, entry: Entry) -> Result<(), OpsError> {
        self.left_out
            .push(format!("{}: cannot be read; it is empty", frame.path.join(&entry.name)));
        let DirectoryRoot { blob, height } = DirectoryBuilder::new().finish(&mut self.trees)?;
        frame.done.push(Entry { node: Node::Directory { root: blob, height }, ..entry });
        frame.changed = true;
        Ok(())
    }

    /// Ends a directory: the entry for it in the one above, and its root.
    fn leave(&mut self, mut frame: Frame) -> Result<(Option<Entry>, DirectoryRoot), OpsError> {
        if !frame.changed {
            self.whole.insert(BlobKey::new(&frame.root.blob));
            return Ok((frame.entry, frame.root));
        }
        for mut entry in std::mem::take(&mut frame.renamed) {
            entry.name = free_name(&entry.name, &frame.done);
            frame.done.push(entry);
        }
        frame.done.sort_by(|one, other| one.name.cmp(&other.name));
        let mut builder = DirectoryBuilder::new();
        for entry in &frame.done {
            builder.push(entry, &mut self.trees)?;
        }
        let root = builder.finish(&mut self.trees)?;
        let node = Node::Directory { root: root.blob, height: root.height };
        Ok((frame.entry.map(|entry| Entry { node, ..entry }), root))
    }

    /// An entry that is no directory.
    fn entry(&mut self, frame: &mut Frame, entry: Entry) -> Result<(), OpsError> {
        let Node::File(file) = &entry.node else {
            frame.done.push(entry);
            return Ok(());
        };
        if let Content::List { root, .. } = &file.content
            && self.whole.contains(&BlobKey::new(root))
        {
            frame.done.push(entry);
            return Ok(());
        }
        let mut remains = Remains { lost_bytes: 0, kept_bytes: 0, covered: Some(0) };
        self.extents(file, &mut |_, extent, lost| {
            remains.count(&extent, lost);
            Ok(())
        })?;
        if remains.lost_bytes == 0 {
            if let Content::List { root, .. } = &file.content {
                self.whole.insert(BlobKey::new(root));
            }
            frame.done.push(entry);
            return Ok(());
        }
        frame.changed = true;
        let path = frame.path.join(&entry.name);
        let size = file.size;
        if remains.kept_bytes == 0 || remains.covered != Some(size) {
            self.left_out.push(format!("{path}: nothing of it can be read; it is left out"));
            return Ok(());
        }
        self.left_out.push(format!(
            "{path}: {} of {size} bytes cannot be read; kept with zeros in their place, with \
             .damaged behind its name",
            remains.lost_bytes
        ));
        // Gone through once more rather than held: a long file has millions of extents.
        let mut list = ListBuilder::new();
        self.extents(file, &mut |rewriter, extent, lost| {
            let length = extent.length();
            let extent = if lost { Extent::Hole { length } } else { extent };
            Ok(list.push(extent, &mut rewriter.trees)?)
        })?;
        let content = list.finish(&mut self.trees)?;
        // What the digest was of is not there any more.
        let file = FileContent { size, content, digest: None };
        frame.renamed.push(Entry { node: Node::File(file), ..entry });
        Ok(())
    }

    /// Hands on every extent of a file and whether it is lost; what a chunk list that cannot be read covers is one
    /// lost hole.
    fn extents(
        &mut self,
        file: &FileContent,
        take: &mut dyn FnMut(&mut Self, Extent, bool) -> Result<(), OpsError>,
    ) -> Result<(), OpsError> {
        let mut pending = match &file.content {
            Content::Inline(_) => return Ok(()),
            Content::Extents(extents) => return self.leaf(extents, take),
            Content::List { root, height } => vec![(*root, *height, file.size)],
        };
        while let Some((id, height, length)) = pending.pop() {
            match (self.list(&id)?, height) {
                (Some(ListNode::Leaf(extents)), 0) => self.leaf(&extents, take)?,
                (Some(ListNode::Branch(children)), 1..) => {
                    let children = children.iter().rev();
                    pending.extend(children.map(|child| (child.blob, height - 1, child.length)));
                }
                _ if length > 0 => take(self, Extent::Hole { length }, true)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn leaf(
        &mut self,
        extents: &[Extent],
        take: &mut dyn FnMut(&mut Self, Extent, bool) -> Result<(), OpsError>,
    ) -> Result<(), OpsError> {
        for extent in extents {
            let lost = match extent {
                Extent::Data { blob, length } => !self.data(blob, *length)?,
                Extent::Hole { .. } => false,
            };
            take(self, *extent, lost)?;
        }
        Ok(())
    }

    fn list(&mut self, id: &BlobId) -> Result<Option<ListNode>, OpsError> {
        let Ok(bytes) = self.tree(id)? else { return Ok(None) };
        match ListNode::decode(&bytes).named(format!("tree blob {}", id.short())) {
            Ok(node) => Ok(Some(node)),
            Err(error) if error.kind == Kind::Corrupt => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Reads a tree blob, and stores it again if no pack that counts has it. `Err`: no copy can be read.
    fn tree(&mut self, id: &BlobId) -> Result<Result<Blob, RepositoryError>, OpsError> {
        match self.reader.tree(id) {
            Ok(blob) => {
                if !self.writer.has(id)? {
                    self.trees.put(&blob)?;
                    self.stored_again += 1;
                }
                Ok(Ok(blob))
            }
            Err(error) if is_lost(&error) => Ok(Err(error)),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether a chunk of this length is there. One that can be read and is in no pack that counts is stored again.
    fn data(&mut self, id: &BlobId, length: u64) -> Result<bool, OpsError> {
        if self.writer.has(id)? {
            return Ok(true);
        }
        match self.reader.data(id) {
            Ok(blob) if blob.len() as u64 != length => Ok(false),
            Ok(blob) => {
                self.data.put(&blob)?;
                self.stored_again += 1;
                Ok(true)
            }
            Err(error) if is_lost(&error) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

impl Remains {
    fn count(&mut self, extent: &Extent, lost: bool) {
        let length = extent.length();
        self.covered = self.covered.and_then(|covered| covered.checked_add(length));
        if lost {
            self.lost_bytes = self.lost_bytes.saturating_add(length);
        } else if let Extent::Data { .. } = extent {
            self.kept_bytes = self.kept_bytes.saturating_add(length);
        }
    }
}

/// Whether the blob is gone for good, as far as this program and its keys can tell.
fn is_lost(error: &RepositoryError) -> bool {
    matches!(error.kind, Kind::Corrupt | Kind::NotFound)
}

fn wrong_height(id: &BlobId) -> RepositoryError {
    let item = format!("tree blob {}", id.short());
    RepositoryError::corrupt(item, "has another height than its parent says")
}

/// `<name>.damaged`, or with a number behind it where an entry has that name; as much of the name as fits.
fn free_name(name: &[u8], taken: &[Entry]) -> Box<[u8]> {
    let is_taken = |name: &[u8]| taken.iter().any(|entry| *entry.name == *name);
    let mut number = 1u64;
    loop {
        let suffix = match number {
            1 => ".damaged".to_string(),
            _ => format!(".damaged.{number}"),
        };
        let kept = name.len().min(NAME_MAX.saturating_sub(suffix.len()));
        let candidate = [&name[..kept], suffix.as_bytes()].concat();
        if !is_taken(&candidate) {
            return candidate.into();
        }
        number += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::entry::Metadata;

    #[test]
    fn a_damaged_file_gets_a_name_that_nothing_has_and_that_a_file_system_takes() {
        let entry = |name: &[u8]| Entry {
            name: name.into(),
            node: Node::Fifo,
            metadata: Metadata::default(),
        };
        let taken = [entry(b"a"), entry(b"a.damaged"), entry(b"a.damaged.2")];
        assert_eq!(*free_name(b"b", &taken), *b"b.damaged");
        assert_eq!(*free_name(b"a", &taken), *b"a.damaged.3");
        let long = [b'x'; 255];
        let name = free_name(&long, &taken);
        assert_eq!(name.len(), 255);
        assert!(name.ends_with(b"x.damaged"));
        let taken = [entry(&name)];
        assert!(free_name(&long, &taken).ends_with(b"x.damaged.2"));
    }
}
