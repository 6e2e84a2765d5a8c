//! What the parent snapshot says of a directory while the source's walk passes through it, and what an
//! interrupted backup had already read.

use std::iter::Peekable;

use super::ChangeDetection;
use crate::repository::reader::BlobReader;
use crate::tree::entry::{Entry, Node};
use crate::view::{DirectoryRoot, Entries};

/// One directory of the parent, read in step with the same directory of the source.
struct Level<'r, 'a> {
    entries: Peekable<Entries<'r, 'a>>,
}

/// The parent snapshot, read in step with the walk. A node that cannot be read costs speed, not data: what it
/// told counts as changed.
pub struct ParentWalk<'r, 'a> {
    reader: &'r BlobReader<'a>,
    levels: Vec<Option<Level<'r, 'a>>>,
    root: Option<DirectoryRoot>,
}

impl<'r, 'a> ParentWalk<'r, 'a> {
    /// A walk of the snapshot with this root; `None`: of nothing.
    pub fn new(reader: &'r BlobReader<'a>, root: Option<DirectoryRoot>) -> Self {
        ParentWalk { reader, levels: Vec::new(), root }
    }

    fn level(&self, root: Option<DirectoryRoot>) -> Option<Level<'r, 'a>> {
        let root = root?;
        Some(Level { entries: Entries::new(self.reader, root).peekable() })
    }

    /// The source's walk enters a directory. Returns what the parent has under that name.
    pub fn enter(&mut self, name: &[u8]) -> Option<Entry> {
        if name.is_empty() && self.levels.is_empty() {
            let level = self.level(self.root);
            self.levels.push(level);
            return None;
        }
        let previous = self.find(name);
        let root = previous.as_ref().and_then(DirectoryRoot::of_entry);
        let level = self.level(root);
        self.levels.push(level);
        previous
    }

    /// The source's walk leaves a directory.
    pub fn leave(&mut self) {
        self.levels.pop();
    }

    /// What the parent has under this name. Names must come sorted, as the walk's do.
    pub fn find(&mut self, name: &[u8]) -> Option<Entry> {
        let level = self.levels.last_mut()?.as_mut()?;
        loop {
            let before = match level.entries.peek()? {
                Ok(entry) => (*entry.name).cmp(name),
                Err(_) => std::cmp::Ordering::Less,
            };
            match before {
                std::cmp::Ordering::Less => {
                    level.entries.next();
                }
                std::cmp::Ordering::Equal => return level.entries.next()?.ok(),
                std::cmp::Ordering::Greater => return None,
            }
        }
    }
}

impl ChangeDetection {
    /// Whether `now` is what `previous` was: kind, size, modification and change time, inode and device.
    pub fn is_unchanged(&self, previous: &Entry, now: &Entry) -> bool {
        let same_kind = match (&previous.node, &now.node) {
            (Node::File(before), Node::File(after)) => before.size == after.size,
            (Node::Symlink(before), Node::Symlink(after)) => before == after,
            (before, after) => before == after,
        };
        let (before, after) = (&previous.metadata, &now.metadata);
        !self.force
            && same_kind
            && before.mtime == after.mtime
            && (self.ignore_ctime || before.ctime == after.ctime)
            && (self.ignore_inode || before.inode == after.inode && before.device == after.device)
    }
}
