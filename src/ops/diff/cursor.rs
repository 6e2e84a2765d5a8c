//! A directory of a snapshot, read in step with another one: what both have as the same node is passed over
//! unread, and what a damaged node held is known to be unknown.

use std::cmp::Ordering;
use std::iter::Peekable;

use crate::format::directory::DirectoryNode;
use crate::monitor::{Monitor, Problem};
use crate::ops::OpsError;
use crate::repository::error::RepositoryError;
use crate::repository::reader::BlobReader;
use crate::repository::verify::is_damage;
use crate::tree::entry::Entry;
use crate::view::{DirectoryRoot, directory_node};

/// A node that is not read yet.
struct Pending {
    root: DirectoryRoot,
    /// The name of its first entry; `None` for the directory's root, whose first name nobody has told.
    first_name: Option<Box<[u8]>>,
}

/// Names from `from` on, and before `until`, of which nobody knows whether they are in the directory.
struct Gap {
    from: Option<Box<[u8]>>,
    until: Option<Box<[u8]>>,
}

/// The entries of one directory, in order. A node that cannot be read is reported, and leaves a gap.
pub(super) struct Cursor<'r, 'a> {
    reader: &'r BlobReader<'a>,
    monitor: &'r dyn Monitor,
    leaf: Peekable<std::vec::IntoIter<Entry>>,
    /// Nodes to come, the next one last.
    pending: Vec<Pending>,
    gaps: Vec<Gap>,
}

impl<'r, 'a> Cursor<'r, 'a> {
    pub(super) fn new(
        reader: &'r BlobReader<'a>,
        root: DirectoryRoot,
        monitor: &'r dyn Monitor,
    ) -> Self {
        Cursor {
            reader,
            monitor,
            leaf: Vec::new().into_iter().peekable(),
            pending: vec![Pending { root, first_name: None }],
            gaps: Vec::new(),
        }
    }

    /// The node that begins here; `None` in the middle of one, and at the end.
    fn boundary(&mut self) -> Option<DirectoryRoot> {
        match self.leaf.peek() {
            Some(_) => None,
            None => self.pending.last().map(|pending| pending.root),
        }
    }

    /// Reads the node that begins here.
    fn descend(&mut self) -> Result<(), OpsError> {
        let Some(Pending { root, first_name }) = self.pending.pop() else { return Ok(()) };
        let error = match (directory_node(self.reader, &root.blob), root.height) {
            (Ok(DirectoryNode::Leaf(entries)), 0) => {
                self.leaf = entries.into_iter().peekable();
                return Ok(());
            }
            (Ok(DirectoryNode::Branch(children)), 1..) => {
                self.pending.extend(children.into_iter().rev().map(|child| Pending {
                    root: DirectoryRoot { blob: child.blob, height: root.height - 1 },
                    first_name: Some(child.first_name),
                }));
                return Ok(());
            }
            (Ok(_), _) => RepositoryError::corrupt(
                format!("tree blob {}", root.blob.short()),
                "has another height than its parent says",
            ),
            (Err(error), _) if is_damage(&error) => error,
            (Err(error), _) => return Err(error.into()),
        };
        let RepositoryError { item, message, .. } = error;
        self.monitor.problem(Problem { item, during: "diff", message });
        let until = self.pending.last().and_then(|next| next.first_name.clone());
        self.gaps.push(Gap { from: first_name, until });
        Ok(())
    }

    /// The name of the next entry, as far as it is known without reading.
    fn next_name(&mut self) -> Option<&[u8]> {
        match self.leaf.peek() {
            Some(entry) => Some(&entry.name),
            None => self.pending.last().and_then(|next| next.first_name.as_deref()),
        }
    }

    /// The next entry, not taken.
    pub(super) fn peek(&mut self) -> Result<Option<&Entry>, OpsError> {
        while self.boundary().is_some() {
            self.descend()?;
        }
        Ok(self.leaf.peek())
    }

    /// The next entry.
    pub(super) fn next(&mut self) -> Result<Option<Entry>, OpsError> {
        self.peek()?;
        Ok(self.leaf.next())
    }

    /// Whether a damaged node may have held this name.
    pub(super) fn may_have(&self, name: &[u8]) -> bool {
        self.gaps.iter().any(|gap| {
            gap.from.as_deref().is_none_or(|from| from <= name)
                && gap.until.as_deref().is_none_or(|until| name < until)
        })
    }
}

/// What two directories have under the next name.
pub(super) type Pair = (Option<Entry>, Option<Entry>);

/// The next name that is in one of two directories, or in both; names that damage hides in one of them are
/// passed over, and so are nodes that both share. `None` at the end of both.
pub(super) fn next_pair(
    before: &mut Option<Cursor<'_, '_>>,
    after: &mut Option<Cursor<'_, '_>>,
) -> Result<Option<Pair>, OpsError> {
    loop {
        let (before, after) = match (before.as_mut(), after.as_mut()) {
            (Some(before), Some(after)) => (before, after),
            (Some(one), None) => return Ok(one.next()?.map(|entry| (Some(entry), None))),
            (None, Some(one)) => return Ok(one.next()?.map(|entry| (None, Some(entry)))),
            (None, None) => return Ok(None),
        };
        pass_shared_nodes(before, after)?;
        let order = match (before.next_name(), after.next_name()) {
            (Some(one), Some(other)) => one.cmp(other),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => return Ok(None),
        };
        let pair = match order {
            Ordering::Less => (before.next()?, None),
            Ordering::Greater => (None, after.next()?),
            Ordering::Equal => (before.next()?, after.next()?),
        };
        match &pair {
            (Some(entry), None) if after.may_have(&entry.name) => {}
            (None, Some(entry)) if before.may_have(&entry.name) => {}
            _ => return Ok(Some(pair)),
        }
    }
}

/// Where both stand at the beginning of the same node, every entry in it is the same. Where directories are cut
/// into nodes follows from the names in them, so the nodes behind a change are the same again. Afterwards a side
/// stands at an unread node only if all names in it come later than the other side's next.
fn pass_shared_nodes(
    before: &mut Cursor<'_, '_>,
    after: &mut Cursor<'_, '_>,
) -> Result<(), OpsError> {
    loop {
        match (before.boundary(), after.boundary()) {
            (Some(one), Some(other)) if one == other => {
                before.pending.pop();
                after.pending.pop();
            }
            (Some(one), Some(other)) => {
                // The higher one first: its children may be the other.
                if one.height >= other.height {
                    before.descend()?;
                }
                if other.height >= one.height {
                    after.descend()?;
                }
            }
            (Some(_), None) if is_later(before, after) => return Ok(()),
            (None, Some(_)) if is_later(after, before) => return Ok(()),
            (Some(_), None) => before.descend()?,
            (None, Some(_)) => after.descend()?,
            (None, None) => return Ok(()),
        }
    }
}

/// Whether the unread node of one side comes after the next name of the other.
fn is_later(unread: &mut Cursor<'_, '_>, other: &mut Cursor<'_, '_>) -> bool {
    match (unread.next_name(), other.next_name()) {
        (Some(unread), Some(other)) => unread > other,
        _ => false,
    }
}
