//! A tree of the repository in step with the walk of a source.

use std::cmp::Ordering;
use std::sync::Arc;

use crate::monitor::{Monitor, Progress};
use crate::ops::OpsError;
use crate::repository::verify::is_damage;
use crate::source::{Readable, Source, Step};
use crate::tree::diff::{Difference, is_untouched};
use crate::tree::entry::{Entry, FileContent, Node};
use crate::tree::path::TreePath;
use crate::view::{DirectoryRoot, Found};

use super::content::{ContentError, differs_from};
use super::cursor::Cursor;
use super::listener::Troubles;
use super::trees::Comparison;

/// A directory that the source's walk is in.
enum Level<'r, 'a> {
    /// Above what is compared.
    Above,
    /// Nothing is said of it.
    Skipped,
    /// Compared with what the snapshot has there.
    Compared {
        path: TreePath,
        before: Option<Box<Cursor<'r, 'a>>>,
        /// The source cannot tell all that is in it, so nothing is said to be gone.
        is_unknown: bool,
    },
}

/// What the snapshot has under a name.
enum Known {
    Nothing,
    Entry(Box<Entry>),
    /// A damaged node may have held it.
    Damaged,
}

impl<'c, 'a> Comparison<'c, 'a> {
    /// Compares what the snapshot has with what the source tells.
    pub(super) fn with_source(
        &mut self,
        before: Option<Found>,
        source: Option<&mut dyn Source>,
    ) -> Result<(), OpsError> {
        let options = self.options;
        let Some(source) = source else {
            return self.found(&options.subtree, before, None);
        };
        let names: Vec<_> = options.subtree.components().collect();
        let mut before = Some(before);
        let mut levels: Vec<Level<'c, 'a>> = Vec::new();
        self.monitor.take();
        while let Some(step) = source.next(self.monitor)? {
            self.stop_if_asked()?;
            let troubles = self.monitor.take();
            let (entry, readable) = match step {
                Step::Leave => {
                    self.leave(levels.pop(), &troubles)?;
                    continue;
                }
                Step::Enter(entry) => (entry, None),
                Step::Entry { entry, readable } => (entry, Some(readable)),
            };
            let is_directory = readable.is_none();
            let depth = levels.len();
            let leads_on =
                depth == 0 || names.get(depth - 1).is_some_and(|name| **name == *entry.name);
            let level = match levels.last_mut() {
                None | Some(Level::Above) if leads_on && depth == names.len() => {
                    let path = options.subtree.clone();
                    // What a source is called in the snapshot need not be its own name.
                    let is_unknown = !troubles.is_empty();
                    match before.take().flatten() {
                        Some(Found::Root(root)) => {
                            let before = Some(Box::new(self.cursor(root)));
                            Level::Compared { path, before, is_unknown }
                        }
                        Some(Found::Entry(known)) => {
                            self.meet(path, Known::Entry(known), entry, readable, is_unknown)?
                        }
                        None => self.meet(path, Known::Nothing, entry, readable, is_unknown)?,
                    }
                }
                None | Some(Level::Above) if leads_on => Level::Above,
                None | Some(Level::Above | Level::Skipped) => Level::Skipped,
                Some(Level::Compared { path, before, is_unknown }) => {
                    let known = self.pass_to(&entry.name, path, before, *is_unknown, &troubles)?;
                    let path = path.join(&entry.name);
                    let is_unknown = troubles.concern(&entry.name);
                    self.meet(path, known, entry, readable, is_unknown)?
                }
            };
            if is_directory {
                levels.push(level);
            }
        }
        if !self.monitor.has_heard() {
            // The walk never came to it, and nothing hindered it.
            if let Some(before) = before {
                self.found(&options.subtree, before, None)?;
            }
            self.summary.unchanged = Some(self.same);
        }
        Ok(())
    }

    /// Goes on to a name in a directory of the snapshot: what comes before it is gone. Returns what the snapshot
    /// has under that name.
    fn pass_to(
        &mut self,
        name: &[u8],
        folder: &TreePath,
        before: &mut Option<Box<Cursor<'c, 'a>>>,
        is_unknown: bool,
        troubles: &Troubles,
    ) -> Result<Known, OpsError> {
        let Some(cursor) = before else { return Ok(Known::Nothing) };
        while let Some(next) = cursor.peek()? {
            let order = (*next.name).cmp(name);
            if order == Ordering::Greater {
                break;
            }
            let Some(entry) = cursor.next()? else { break };
            if order == Ordering::Equal {
                return Ok(Known::Entry(Box::new(entry)));
            }
            if !is_unknown && !troubles.concern(&entry.name) {
                self.removed(folder.join(&entry.name), entry)?;
            }
        }
        Ok(if cursor.may_have(name) { Known::Damaged } else { Known::Nothing })
    }

    /// The source's walk leaves a directory: what the snapshot has more is gone.
    fn leave(&mut self, level: Option<Level<'c, 'a>>, troubles: &Troubles) -> Result<(), OpsError> {
        let Some(Level::Compared { path, before: Some(mut cursor), is_unknown }) = level else {
            return Ok(());
        };
        if is_unknown || troubles.concern_the_rest() {
            return Ok(());
        }
        while let Some(entry) = cursor.next()? {
            if !troubles.concern(&entry.name) {
                self.removed(path.join(&entry.name), entry)?;
            }
        }
        Ok(())
    }

    /// Compares what the snapshot has under a path with what the source has there. Returns the level below, if the
    /// source has a directory there.
    fn meet(
        &mut self,
        path: TreePath,
        known: Known,
        mut after: Entry,
        readable: Option<Arc<dyn Readable>>,
        is_unknown: bool,
    ) -> Result<Level<'c, 'a>, OpsError> {
        let before = match known {
            Known::Damaged => return Ok(Level::Skipped),
            Known::Nothing => None,
            Known::Entry(entry) => Some(*entry).filter(|entry| !self.is_excluded(&path, entry)),
        };
        if self.is_excluded(&path, &after) {
            if let Some(before) = before {
                self.removed(path, before)?;
            }
            return Ok(Level::Skipped);
        }
        let difference = match (&before, &readable) {
            (None, _) => Some(Difference::default()),
            (Some(before), None) => Some(Difference::between(before, &after, false)),
            (Some(before), Some(readable)) => {
                self.difference(before, &mut after, readable.as_ref())?
            }
        };
        let is_file = matches!(after.node, Node::File(_));
        self.monitor.advance(Progress { files: u64::from(is_file), bytes: 0 });
        if let Some(difference) = difference {
            if is_file && before.is_some() && !difference.kind && !difference.content {
                self.same.0 += 1;
                self.same.1 += after.size();
            }
            self.tell(&path, before.as_ref(), Some(&after), difference)?;
        }
        let root = before.as_ref().and_then(DirectoryRoot::of_entry);
        if readable.is_none() {
            let before = root.map(|root| Box::new(self.cursor(root)));
            return Ok(Level::Compared { path, before, is_unknown });
        }
        if let Some(root) = root {
            self.removed_below(path, root)?;
        }
        Ok(Level::Skipped)
    }

    /// What differs between an entry of the snapshot and one of the source that is no directory. `None`: it could
    /// not be found out, which was told.
    fn difference(
        &self,
        before: &Entry,
        after: &mut Entry,
        readable: &dyn Readable,
    ) -> Result<Option<Difference>, OpsError> {
        let is_untouched = is_untouched(before, after);
        if is_untouched || !self.options.metadata {
            after.metadata.attributes.clone_from(&before.metadata.attributes);
        } else {
            match readable.attributes() {
                Ok(attributes) => after.metadata.attributes = attributes,
                Err(error) => {
                    self.problem(readable.display(), error.to_string());
                    return Ok(None);
                }
            }
        }
        let differ = match (&before.node, &after.node) {
            (Node::File(one), Node::File(other)) if one.size != other.size => true,
            (Node::File(file), Node::File(_)) if self.options.content || !is_untouched => {
                match self.read(file, readable)? {
                    Some(differ) => differ,
                    None => return Ok(None),
                }
            }
            _ => false,
        };
        Ok(Some(Difference::between(before, after, differ)))
    }

    /// Whether a file of the source holds other bytes than the snapshot's; `None`: it could not be found out, which
    /// was told.
    fn read(&self, file: &FileContent, readable: &dyn Readable) -> Result<Option<bool>, OpsError> {
        let display = readable.display();
        self.monitor.current(&display);
        let differs = readable
            .open()
            .map_err(ContentError::Read)
            .and_then(|open| differs_from(self.reader, file, open.as_ref(), self.monitor));
        let message = match differs {
            Ok(differs) => return Ok(Some(differs)),
            Err(ContentError::Interrupted) => return Err(OpsError::Interrupted),
            Err(ContentError::Read(error)) => error.to_string(),
            Err(ContentError::Repository(error)) if is_damage(&error) => error.to_string(),
            Err(ContentError::Repository(error)) => return Err(error.into()),
        };
        self.problem(display, message);
        Ok(None)
    }
}
