//! Turns the entries of a directory, and the extents of a file, into trees of blobs that are cut by content:
//! a small change touches one leaf and the nodes above it.

use crate::format::directory::{DirectoryChild, DirectoryNode, LeafBuilder};
use crate::format::list::{ListChild, ListNode};
use crate::id::BlobId;
use crate::repository::error::Result;
use crate::repository::writer::SegmentWriter;
use crate::tree::entry::{Content, Entry, Extent, FileContent, Node};
use crate::view::DirectoryRoot;

/// A directory leaf is not cut before it has this many bytes. Most directories are one leaf.
const LEAF_MINIMUM: usize = 8 << 10;
/// A directory leaf is cut after this many bytes at the latest.
const LEAF_MAXIMUM: usize = 128 << 10;
/// Once long enough, a leaf is cut at one entry in this many.
const LEAF_ENTRIES: u32 = 64;
/// A chunk list up to this long stands in the directory entry.
const INLINE_EXTENTS: usize = 32;
/// A list leaf is not cut before it has this many extents, and a branch before it has this many children.
const NODE_MINIMUM: usize = 64;
/// A list leaf or a branch is cut after this many elements at the latest.
const NODE_MAXIMUM: usize = 1024;
/// Once long enough, a node is cut at one blob in this many.
const NODE_AVERAGE: u32 = 128;

/// Whether a node may end behind this blob: decided by the blob's id, so the same content is cut alike.
fn ends_node(id: &BlobId, average: u32) -> bool {
    let [.., a, b, c, d] = id.0;
    u32::from_le_bytes([a, b, c, d]).is_multiple_of(average)
}

/// What the levels above the leaves are made of.
trait Child: Sized {
    fn blob(&self) -> &BlobId;
    /// The node that holds these children.
    fn encode(children: Vec<Self>) -> (Vec<u8>, ParentOf<Self>);
}

/// Makes the child that stands for a node one level up, once the node's id is known.
type ParentOf<C> = Box<dyn FnOnce(BlobId) -> C>;

impl Child for DirectoryChild {
    fn blob(&self) -> &BlobId {
        &self.blob
    }

    fn encode(children: Vec<Self>) -> (Vec<u8>, ParentOf<Self>) {
        let first_name = children[0].first_name.clone();
        let bytes = DirectoryNode::Branch(children).encode();
        (bytes, Box::new(move |blob| DirectoryChild { first_name, blob }))
    }
}

impl Child for ListChild {
    fn blob(&self) -> &BlobId {
        &self.blob
    }

    fn encode(children: Vec<Self>) -> (Vec<u8>, ParentOf<Self>) {
        let length = children.iter().map(|child| child.length).sum();
        let bytes = ListNode::Branch(children).encode();
        (bytes, Box::new(move |blob| ListChild { length, blob }))
    }
}

/// The levels above the leaves, lowest first; each holds the children of a node that is not closed yet.
struct Levels<C> {
    levels: Vec<Vec<C>>,
}

impl<C: Child> Levels<C> {
    fn new() -> Self {
        Levels { levels: vec![Vec::new()] }
    }

    /// Adds a node of height `at` to the level above it, and closes that level's node when it is time.
    fn push(&mut self, at: usize, child: C, trees: &mut SegmentWriter<'_>) -> Result<()> {
        if self.levels.len() == at {
            self.levels.push(Vec::new());
        }
        let level = &mut self.levels[at];
        let cut = level.len() + 1 >= NODE_MAXIMUM
            || level.len() + 1 >= NODE_MINIMUM && ends_node(child.blob(), NODE_AVERAGE);
        level.push(child);
        if cut {
            self.close(at, trees)?;
        }
        Ok(())
    }

    fn close(&mut self, at: usize, trees: &mut SegmentWriter<'_>) -> Result<()> {
        let children = std::mem::take(&mut self.levels[at]);
        let (bytes, parent) = C::encode(children);
        let (blob, _) = trees.put(&bytes)?;
        self.push(at + 1, parent(blob), trees)
    }

    /// The root and its height: the single node of the highest level that has any.
    fn finish(mut self, trees: &mut SegmentWriter<'_>) -> Result<(BlobId, u8)> {
        let mut at = 0;
        loop {
            let top = self.levels[at + 1..].iter().all(Vec::is_empty);
            if top && self.levels[at].len() == 1 {
                return Ok((*self.levels[at][0].blob(), at as u8));
            }
            if !self.levels[at].is_empty() {
                self.close(at, trees)?;
            }
            at += 1;
        }
    }
}

/// Gathers the entries of one directory, in order.
pub struct DirectoryBuilder {
    leaf: LeafBuilder,
    first_name: Box<[u8]>,
    levels: Levels<DirectoryChild>,
}

impl DirectoryBuilder {
    /// An empty directory.
    pub fn new() -> Self {
        DirectoryBuilder {
            leaf: LeafBuilder::default(),
            first_name: Box::default(),
            levels: Levels::new(),
        }
    }

    /// The next entry, sorted by name.
    pub fn push(&mut self, entry: &Entry, trees: &mut SegmentWriter<'_>) -> Result<()> {
        if self.leaf.is_empty() {
            self.first_name = entry.name.clone();
        }
        self.leaf.push(entry);
        let cut = self.leaf.len() >= LEAF_MAXIMUM
            || self.leaf.len() >= LEAF_MINIMUM && {
                let hash = blake3::hash(&entry.name);
                ends_node(&BlobId(*hash.as_bytes()), LEAF_ENTRIES)
            };
        if cut { self.close_leaf(trees) } else { Ok(()) }
    }

    fn close_leaf(&mut self, trees: &mut SegmentWriter<'_>) -> Result<()> {
        let (blob, _) = trees.put(&self.leaf.finish())?;
        let first_name = std::mem::take(&mut self.first_name);
        self.levels.push(0, DirectoryChild { first_name, blob }, trees)
    }

    /// Stores what is left, and returns the directory's root.
    pub fn finish(mut self, trees: &mut SegmentWriter<'_>) -> Result<DirectoryRoot> {
        let empty = self.levels.levels.iter().all(Vec::is_empty);
        if empty || !self.leaf.is_empty() {
            self.close_leaf(trees)?;
        }
        let (blob, height) = self.levels.finish(trees)?;
        Ok(DirectoryRoot { blob, height })
    }
}

/// Stores a file's chunk list as nodes of its own where it is too long to stand in the entry.
pub fn store_long_list(entry: &mut Entry, trees: &mut SegmentWriter<'_>) -> Result<()> {
    if let Node::File(FileContent { content, .. }) = &mut entry.node
        && let Content::Extents(extents) = content
        && extents.len() > INLINE_EXTENTS
    {
        let mut list = ListBuilder::new();
        for extent in std::mem::take(extents) {
            list.push(extent, trees)?;
        }
        *content = list.finish(trees)?;
    }
    Ok(())
}

/// Gathers the extents of one file, in order. Memory: at most one node a level, whatever the file's size.
pub struct ListBuilder {
    extents: Vec<Extent>,
    levels: Levels<ListChild>,
    is_tree: bool,
}

impl ListBuilder {
    /// A file without extents.
    pub fn new() -> Self {
        ListBuilder { extents: Vec::new(), levels: Levels::new(), is_tree: false }
    }

    /// The next extent. Holes that touch become one.
    pub fn push(&mut self, extent: Extent, trees: &mut SegmentWriter<'_>) -> Result<()> {
        if let (Some(Extent::Hole { length: before }), Extent::Hole { length }) =
            (self.extents.last_mut(), extent)
        {
            *before += length;
            return Ok(());
        }
        self.extents.push(extent);
        if self.extents.len() > INLINE_EXTENTS {
            self.is_tree = true;
        }
        let cut = match extent {
            Extent::Data { blob, .. } => {
                self.extents.len() >= NODE_MINIMUM && ends_node(&blob, NODE_AVERAGE)
            }
            Extent::Hole { .. } => false,
        };
        if cut || self.extents.len() >= NODE_MAXIMUM {
            self.close_leaf(trees)?;
        }
        Ok(())
    }

    fn close_leaf(&mut self, trees: &mut SegmentWriter<'_>) -> Result<()> {
        let extents = std::mem::take(&mut self.extents);
        let length = extents.iter().map(Extent::length).sum();
        let (blob, _) = trees.put(&ListNode::Leaf(extents).encode())?;
        self.levels.push(0, ListChild { length, blob }, trees)
    }

    /// Whether the file is a single chunk, whose id is a digest of all its bytes.
    pub fn is_single_chunk(&self) -> bool {
        !self.is_tree && matches!(self.extents.as_slice(), [Extent::Data { .. }])
    }

    /// Stores what is left, and returns where the file's bytes are.
    pub fn finish(mut self, trees: &mut SegmentWriter<'_>) -> Result<Content> {
        if !self.is_tree {
            return Ok(Content::Extents(self.extents));
        }
        if !self.extents.is_empty() {
            self.close_leaf(trees)?;
        }
        let (root, height) = self.levels.finish(trees)?;
        Ok(Content::List { root, height })
    }
}
