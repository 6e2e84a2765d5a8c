//! The plan: walks the snapshot, makes directories, and gathers the rest into windows.

use std::collections::HashMap;
use std::collections::hash_map::Entry as MapEntry;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::process::{Resource, getrlimit};

use crate::monitor::{Problem, Progress};
use crate::target::files::Directory;
use crate::target::is_full;
use crate::tree::entry::{Entry, LinkIdentity, Metadata, Node};
use crate::tree::filter::Match;
use crate::tree::path::TreePath;
use crate::view::{DirectoryRoot, Entries, Found};

use super::Overwrite;
use super::region::LargePlan;
use super::work::{Failure, Item, LinkGroup, Window, Work, add};

/// How many entries a window holds.
const WINDOW_ENTRIES: usize = 16_384;
/// And the first one: nothing is written before it is planned.
const FIRST_WINDOW_ENTRIES: usize = 2048;
/// How many bytes of content a window holds.
const WINDOW_BYTES: u64 = 512 << 20;

/// A directory that the walk is in.
struct Frame<'w, 'a> {
    entries: Entries<'w, 'a>,
    /// Its name in the directory above.
    name: Box<[u8]>,
    /// `None` until something in it is wanted.
    directory: Option<Arc<Directory>>,
    /// What is set when it is finished.
    metadata: Option<Metadata>,
    /// Everything below is wanted.
    is_whole: bool,
    /// Length of the path of the directory above it.
    path_length: usize,
    /// With the option to delete: the names that the snapshot has.
    names: Vec<Box<[u8]>>,
    /// Whether all names could be read.
    is_complete: bool,
}

/// Walks the part of the snapshot that was asked for.
pub(super) struct Planner<'p, 'w, 'a> {
    work: &'p Work<'w, 'a>,
    frames: Vec<Frame<'w, 'a>>,
    /// The path in the snapshot of the innermost directory; empty for the root.
    path: Vec<u8>,
    /// How many entries the next window holds.
    window_entries: usize,
    large: Option<LargePlan<'w, 'a>>,
    /// It has a region in this window or an earlier one.
    is_counted: bool,
    /// How many files a window may open that are written in regions.
    most_opened: usize,
    /// Files with several names, by what they share: the group, and how many names are still to come.
    groups: HashMap<LinkIdentity, (Arc<LinkGroup>, u64)>,
    /// The only entry, when no directory was asked for.
    single: Option<Entry>,
}

impl<'p, 'w, 'a> Planner<'p, 'w, 'a> {
    /// A plan for what the subtree's path leads to.
    pub(super) fn new(work: &'p Work<'w, 'a>, found: Found) -> Self {
        let mut planner = Planner {
            work,
            frames: Vec::new(),
            path: Vec::new(),
            window_entries: FIRST_WINDOW_ENTRIES,
            large: None,
            is_counted: false,
            most_opened: most_opened(),
            groups: HashMap::new(),
            single: None,
        };
        let (root, metadata) = match found {
            Found::Root(root) => (root, None),
            Found::Entry(entry) => match DirectoryRoot::of_entry(&entry) {
                Some(root) => (root, Some(entry.metadata)),
                None => {
                    planner.single = Some(*entry);
                    return planner;
                }
            },
        };
        let subtree = &work.options.subtree;
        if !subtree.is_root() {
            planner.path = subtree.as_bytes().to_vec();
        }
        // A directory that was there may be somebody's home.
        let metadata = metadata.filter(|_| work.target.root().is_new());
        if let Some(is_whole) = planner.includes_subtree(subtree, true) {
            planner.frames.push(Frame {
                entries: Entries::new(work.trees, root),
                name: Box::default(),
                directory: Some(work.target.root().clone()),
                metadata,
                is_whole,
                path_length: 0,
                names: Vec::new(),
                is_complete: true,
            });
        }
        planner
    }

    /// Whether the filter wants the subtree: all of it, something in it (`false`), or nothing. It is asked
    /// from the root down.
    fn includes_subtree(&self, subtree: &TreePath, is_directory: bool) -> Option<bool> {
        let include = &self.work.options.include;
        let mut path = TreePath::root();
        let mut answer = include.includes(path.as_bytes(), true);
        let depth = subtree.components().count();
        for (number, name) in subtree.components().enumerate() {
            if answer == Match::Whole {
                break;
            }
            path = path.join(name);
            answer = include.includes(path.as_bytes(), is_directory || number + 1 < depth);
            if answer == Match::No {
                return None;
            }
        }
        Some(answer == Match::Whole)
    }

    /// The next part of the work; empty at the end.
    pub(super) fn next_window(&mut self) -> Window {
        let mut window = Window::default();
        self.plan_single(&mut window);
        let most_entries = std::mem::replace(&mut self.window_entries, WINDOW_ENTRIES);
        while window.len() < most_entries
            && window.bytes < WINDOW_BYTES
            && (window.opened < self.most_opened || self.large.is_some())
        {
            if self.work.is_stopped() {
                break;
            }
            if let Some(plan) = &mut self.large {
                match plan.next_region(self.work) {
                    Some(region) => {
                        window.opened +=
                            usize::from(!std::mem::replace(&mut self.is_counted, true));
                        window.bytes += region.bytes();
                        window.regions.push((window.items.len(), region));
                    }
                    None => self.large = None,
                }
                continue;
            }
            let Some(frame) = self.frames.last_mut() else { break };
            match frame.entries.next() {
                Some(Ok(entry)) => self.meet(entry, &mut window),
                Some(Err(error)) => {
                    frame.is_complete = false;
                    let failure = self.work.repository_failure(error);
                    self.work.fail_at(&self.target_path(), failure);
                }
                None => self.leave(&mut window),
            }
        }
        let counts = &self.work.counts;
        self.work.monitor.expect(Progress {
            files: counts.total_files.load(Ordering::Relaxed),
            bytes: counts.total_bytes.load(Ordering::Relaxed),
        });
        window
    }

    fn plan_single(&mut self, window: &mut Window) {
        let Some(entry) = self.single.take() else { return };
        let subtree = &self.work.options.subtree;
        if self.includes_subtree(subtree, false) == Some(true) {
            self.plan_entry(self.work.target.root().clone(), entry, window);
        }
    }

    /// The path of the innermost directory from the target's root down.
    fn target_path(&self) -> Vec<u8> {
        let subtree = &self.work.options.subtree;
        let above = if subtree.is_root() { 0 } else { subtree.as_bytes().len() };
        self.path.get(above..).unwrap_or_default().to_vec()
    }

    fn meet(&mut self, entry: Entry, window: &mut Window) {
        let options = self.work.options;
        let Some(frame) = self.frames.last_mut() else { return };
        if options.delete {
            frame.names.push(entry.name.clone());
        }
        let path_length = self.path.len();
        self.path.push(b'/');
        self.path.extend_from_slice(&entry.name);
        let is_directory = entry.node.is_directory();
        let wanted = if options.exclude.excludes(&self.path, is_directory) {
            Match::No
        } else if frame.is_whole {
            Match::Whole
        } else {
            options.include.includes(&self.path, is_directory)
        };
        match (DirectoryRoot::of_entry(&entry), wanted) {
            (_, Match::No) | (None, Match::Inside) => self.path.truncate(path_length),
            (None, Match::Whole) => {
                self.path.truncate(path_length);
                if let Some(directory) = self.make_directories() {
                    self.plan_entry(directory, entry, window);
                }
            }
            (Some(root), wanted) => {
                let is_whole = wanted == Match::Whole;
                self.frames.push(Frame {
                    entries: Entries::new(self.work.trees, root),
                    name: entry.name,
                    directory: None,
                    metadata: Some(entry.metadata),
                    is_whole,
                    path_length,
                    names: Vec::new(),
                    is_complete: true,
                });
                if is_whole {
                    self.make_directories();
                }
            }
        }
    }

    /// Makes the innermost directory and those above it that are not made yet. If one cannot be made, the
    /// walk goes on behind it.
    fn make_directories(&mut self) -> Option<Arc<Directory>> {
        let made = self.frames.iter().rposition(|frame| frame.directory.is_some())?;
        let mut directory = self.frames[made].directory.clone()?;
        for number in made + 1..self.frames.len() {
            let frame = &self.frames[number];
            let result = self.make_directory(&directory, frame);
            add(&self.work.counts.total_entries, 1);
            directory = match result {
                Ok(directory) => directory,
                Err(error) => {
                    let end = self.frames.get(number + 1).map(|frame| frame.path_length);
                    self.path.truncate(end.unwrap_or(self.path.len()));
                    let failure = match Failure::from(error) {
                        Failure::Entry(message) => Failure::Entry(format!(
                            "{message}; the directory is left out with all that is in it"
                        )),
                        stop => stop,
                    };
                    self.work.fail_at(&self.target_path(), failure);
                    self.path.truncate(self.frames[number].path_length);
                    self.frames.truncate(number);
                    return None;
                }
            };
            self.frames[number].directory = Some(directory.clone());
        }
        Some(directory)
    }

    fn make_directory(
        &self,
        parent: &Arc<Directory>,
        frame: &Frame<'_, '_>,
    ) -> io::Result<Arc<Directory>> {
        let (target, options) = (self.work.target, self.work.options);
        if options.dry_run {
            return target.look_at_directory(parent, &frame.name);
        }
        let replace = match options.overwrite {
            Overwrite::Always | Overwrite::IfChanged => true,
            Overwrite::Never => false,
            Overwrite::IfNewer => {
                let existing = target.stat(parent, &frame.name)?;
                let own = frame.metadata.as_ref().map(|metadata| metadata.mtime);
                existing.is_none_or(|existing| Some(existing.mtime) < own)
            }
        };
        target.ensure_directory(parent, &frame.name, replace)
    }

    /// An entry that is no directory.
    fn plan_entry(&mut self, directory: Arc<Directory>, entry: Entry, window: &mut Window) {
        let counts = &self.work.counts;
        add(&counts.total_entries, 1);
        let is_file = matches!(entry.node, Node::File(_));
        if is_file {
            add(&counts.total_files, 1);
        }
        let (is_further, group) = self.group_of(&entry);
        let size = entry.size();
        let item = Item { directory, entry, group };
        if is_further {
            window.links.push(item);
            return;
        }
        add(&counts.total_bytes, size);
        if is_file && LargePlan::is_wanted(&item.entry) {
            self.large = LargePlan::begin(self.work, item);
            self.is_counted = false;
            return;
        }
        window.bytes += size;
        window.items.push(item);
    }

    /// Whether an entry is a further name of something met before, and its group if it has several names.
    fn group_of(&mut self, entry: &Entry) -> (bool, Option<Arc<LinkGroup>>) {
        let Some(identity) = entry.link_identity() else { return (false, None) };
        match self.groups.entry(identity) {
            MapEntry::Vacant(vacant) => {
                let group = Arc::new(LinkGroup::default());
                vacant.insert((group.clone(), entry.metadata.links - 1));
                (false, Some(group))
            }
            MapEntry::Occupied(mut occupied) => {
                let (group, rest) = occupied.get_mut();
                let group = group.clone();
                *rest = rest.saturating_sub(1);
                if *rest == 0 {
                    occupied.remove();
                }
                (true, Some(group))
            }
        }
    }

    /// The innermost directory has no more entries.
    fn leave(&mut self, window: &mut Window) {
        let Some(frame) = self.frames.pop() else { return };
        let may_delete = self.work.options.delete && frame.is_whole && frame.is_complete;
        if let Some(directory) = frame.directory.as_ref().filter(|_| may_delete) {
            self.delete_extras(directory, &frame.names);
        }
        self.path.truncate(frame.path_length);
        if let (Some(directory), Some(metadata)) = (frame.directory, frame.metadata) {
            window.finished.push((directory, metadata));
        }
    }

    /// Removes what the snapshot does not have, but not what the filter excludes.
    fn delete_extras(&self, directory: &Arc<Directory>, names: &[Box<[u8]>]) {
        if directory.is_new() {
            return;
        }
        let found = match self.work.target.list(directory) {
            Ok(found) => found,
            Err(error) => return self.fail_deletion(b"", &error),
        };
        for (name, is_directory) in found {
            if names.binary_search(&name).is_err() && !self.is_kept(&name, is_directory) {
                let removed = self.delete_extra(directory, &name, is_directory);
                match removed {
                    Ok(removed) => add(&self.work.counts.files_deleted, removed),
                    Err(error) => self.fail_deletion(&name, &error),
                }
            }
        }
    }

    fn is_kept(&self, path: &[u8], is_directory: bool) -> bool {
        let full = [&self.path, &b"/"[..], path].concat();
        self.work.options.exclude.excludes(&full, is_directory)
    }

    fn delete_extra(
        &self,
        directory: &Arc<Directory>,
        name: &[u8],
        is_directory: bool,
    ) -> io::Result<u64> {
        let target = self.work.target;
        match (self.work.options.dry_run, is_directory) {
            (false, false) => target.remove_file(directory, name).map(|()| 1),
            (false, true) => {
                let keeps = |path: &[u8], is_directory| self.is_kept(path, is_directory);
                target.remove_tree(directory, name, &keeps).map(|removed| removed.entries)
            }
            (true, false) => Ok(1),
            (true, true) => {
                let mut count = 1;
                let mut pending = vec![target.look_at_directory(directory, name)?];
                while let Some(directory) = pending.pop() {
                    for (name, is_directory) in target.list(&directory)? {
                        count += 1;
                        if is_directory {
                            pending.push(target.look_at_directory(&directory, &name)?);
                        }
                    }
                }
                Ok(count)
            }
        }
    }

    fn fail_deletion(&self, name: &[u8], error: &io::Error) {
        debug_assert!(!is_full(error), "removing takes no room");
        let path = self.target_path();
        let path = if name.is_empty() { path } else { [&path, &b"/"[..], name].concat() };
        add(&self.work.counts.entries_failed, 1);
        self.work.monitor.problem(Problem {
            item: self.work.display(&path),
            during: "delete",
            message: error.to_string(),
        });
    }
}

/// A sixteenth of the files that a process may have open: two windows are under way, and directories are open, too.
fn most_opened() -> usize {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    (limit / 16).clamp(4, 64) as usize
}
