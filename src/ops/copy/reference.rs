//! An older snapshot that both repositories have, read in both at once: what a piece of the source is called in the
//! target.

use std::collections::HashMap;
use std::iter::Peekable;

use super::Named;
use crate::format::snapshot::Origin;
use crate::id::{RepositoryId, SnapshotId};
use crate::repository::reader::BlobReader;
use crate::tree::entry::{Content, Entry, Extent, Node};
use crate::view::{DirectoryRoot, Entries};

/// A directory in the source, and the same in the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pair {
    pub original: DirectoryRoot,
    pub copy: DirectoryRoot,
}

/// The snapshot that has most in common with `wanted`, of those that the target has: its parent; else one of the same host
/// and sources, or of the same host, or any, and of these the nearest in time.
pub fn choose(
    source: RepositoryId,
    (_, wanted): &Named,
    sources: &[Named],
    held: &HashMap<Origin, (SnapshotId, DirectoryRoot)>,
) -> Option<Pair> {
    let in_both = sources.iter().filter_map(|(id, snapshot)| {
        let (_, copy) = held.get(&snapshot.origin(source, *id))?;
        let is_parent = wanted.parent == Some(*id);
        let is_of_host = snapshot.host == wanted.host;
        let is_of_sources = snapshot.paths == wanted.paths && snapshot.name == wanted.name;
        let distance = snapshot.time.seconds.abs_diff(wanted.time.seconds);
        let rank = (!is_parent, !(is_of_host && is_of_sources), !is_of_host, distance, *id);
        Some((rank, Pair { original: DirectoryRoot::of_snapshot(snapshot), copy: *copy }))
    });
    in_both.min_by_key(|(rank, _)| *rank).map(|(_, pair)| pair)
}

/// One directory of the pair, gone through in the order of names.
pub struct PairWalk<'r, 'a> {
    originals: Peekable<Entries<'r, 'a>>,
    copies: Entries<'r, 'a>,
    /// From here on nothing is known.
    is_lost: bool,
}

/// An entry of the reference, and its copy.
pub struct Reference {
    pub original: Entry,
    pub copy: Entry,
}

impl Reference {
    /// What the target has in this entry's place: the same content under its own names. `None`: the entry has changed, and
    /// has to be copied.
    pub fn copy_of(&self, entry: &Entry) -> Option<&Node> {
        (entry.node == self.original.node).then_some(&self.copy.node)
    }

    /// The directory, if it is one on both sides.
    pub fn pair(&self) -> Option<Pair> {
        let original = DirectoryRoot::of_entry(&self.original)?;
        Some(Pair { original, copy: DirectoryRoot::of_entry(&self.copy)? })
    }
}

/// Whether a node can be a copy of another: what is not named by content is the same, and a file is as long.
fn may_be_copy(original: &Node, copy: &Node) -> bool {
    match (original, copy) {
        (Node::File(original), Node::File(copy)) => {
            let is_alike = match (&original.content, &copy.content) {
                (Content::Inline(original), Content::Inline(copy)) => original == copy,
                (Content::Inline(_), _) | (_, Content::Inline(_)) => false,
                (Content::Extents(original), Content::Extents(copy)) => {
                    original.iter().map(shape).eq(copy.iter().map(shape))
                }
                // Where lists are cut depends on names.
                _ => true,
            };
            let has_digests = original.digest.is_some() == copy.digest.is_some();
            is_alike && has_digests && original.size == copy.size
        }
        (Node::Directory { .. }, Node::Directory { .. }) => true,
        (original, copy) => original == copy,
    }
}

/// What of an extent does not depend on names.
fn shape(extent: &Extent) -> (bool, u64) {
    (matches!(extent, Extent::Hole { .. }), extent.length())
}

impl<'r, 'a> PairWalk<'r, 'a> {
    pub fn new(
        originals: &'r BlobReader<'a>,
        copies: &'r BlobReader<'a>,
        Pair { original, copy }: Pair,
    ) -> Self {
        PairWalk {
            originals: Entries::new(originals, original).peekable(),
            copies: Entries::new(copies, copy),
            is_lost: false,
        }
    }

    /// The entry of this name, which comes after all that were asked for before. `None` where the reference has none; and
    /// from then on, where it cannot be read, or where the two sides turn out to differ: then nothing is known, and
    /// everything is read.
    pub fn find(&mut self, name: &[u8]) -> Option<Reference> {
        while !self.is_lost {
            match self.originals.peek() {
                Some(Ok(original)) if *original.name > *name => return None,
                Some(_) => {}
                None => return None,
            }
            let (original, copy) = (self.originals.next(), self.copies.next());
            match (original, copy) {
                (Some(Ok(original)), Some(Ok(copy)))
                    if original.name == copy.name && may_be_copy(&original.node, &copy.node) =>
                {
                    if *original.name == *name {
                        return Some(Reference { original, copy });
                    }
                }
                _ => self.is_lost = true,
            }
        }
        None
    }
}
