//! The walk itself: a stack of directories, one step at a time.

use std::ffi::CStr;
use std::ffi::CString;
use std::io;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use rustix::fs::FileType;
use rustix::fs::Statx;
use rustix::io::Errno;

use crate::monitor::Monitor;
use crate::monitor::Problem;
use crate::source::SourceError;
use crate::source::Step;
use crate::tree::entry::Entry;
use crate::tree::entry::Metadata;
use crate::tree::entry::Node;
use crate::tree::path::Printable;

use super::Files;
use super::ahead::NAMES;
use super::attributes;
use super::directory::Directory;
use super::directory::Names;
use super::directory::open_for_listing;
use super::directory::open_for_passing;
use super::directory::open_path;
use super::is_absence;
use super::markers::IgnoreRules;
use super::markers::ignores;
use super::plan::Plan;
use super::read::FileReadable;
use super::read::device_of;
use super::read::kind_of;
use super::read::metadata_of;
use super::read::node_of;
use super::read::stat_descriptor;
use super::read::stat_entry;

/// Names of one directory that others look at ahead of the walk.
const WINDOW: usize = 256;
/// Of those, how many one of them is handed at a time.
const PART: usize = 16;

/// A directory that was entered and not left yet.
pub(super) struct Frame {
    /// `None`: a directory above `as_path`, which exists in the snapshot only; or one with no names.
    directory: Option<Arc<Directory>>,
    names: Names,
    /// Which name comes next.
    position: usize,
    /// Length of the directory's path in the snapshot.
    path_length: usize,
    /// The names below that lead to sources.
    plan: Option<usize>,
    /// Whether everything below is wanted, not only what the plan has.
    is_whole: bool,
    device: u64,
    /// How many ignore files are above.
    ignore_count: usize,
    /// The names before this place were handed to those who look ahead, or passed before they began.
    handed_over: usize,
}

/// An entry to be looked at, whose path in the snapshot is the walk's `path`.
struct Place<'a> {
    parent: &'a Arc<Directory>,
    name: &'a CStr,
    /// What the directory says it is.
    hint: FileType,
    plan: Option<usize>,
    /// Whether the whole parent is wanted, and on which device it is.
    parent_is_whole: bool,
    parent_device: u64,
}

impl Files {
    /// The next step.
    pub(super) fn walk(&mut self, monitor: &dyn Monitor) -> Result<Option<Step>, SourceError> {
        if !self.has_started {
            self.has_started = true;
            return self.start(monitor).map(Some);
        }
        if self.ahead.is_cold() {
            self.look_ahead();
        }
        loop {
            let Some(frame) = self.frames.last_mut() else { return Ok(None) };
            self.path.truncate(frame.path_length);
            if frame.position == frame.names.len() {
                self.leave();
                return Ok(Some(Step::Leave));
            }
            let (name, hint) = frame.names.get(frame.position);
            frame.position += 1;
            self.path.push(b'/');
            self.path.extend_from_slice(name.to_bytes());
            let name = name.to_owned();
            let plan = self.plan.child(frame.plan, &name);
            let Some(parent) = frame.directory.clone() else {
                match self.go_towards_origin(plan, monitor)? {
                    Some(step) => return Ok(Some(step)),
                    None => continue,
                }
            };
            let place = Place {
                parent: &parent,
                name: &name,
                hint,
                plan,
                parent_is_whole: frame.is_whole,
                parent_device: frame.device,
            };
            if let Some(step) = self.visit(&place, monitor) {
                return Ok(Some(step));
            }
        }
    }

    /// Has the next names of the directory that the walk is in looked at by others. What is excluded is not; into a
    /// directory that keeps only its marker the walk does not go, so neither do they.
    fn look_ahead(&mut self) {
        let Some(frame) = self.frames.last_mut() else { return };
        let Some(directory) = frame.directory.clone().filter(|_| frame.is_whole) else { return };
        let from = frame.handed_over.max(frame.position);
        let to = frame.names.len().min(frame.position + WINDOW);
        // A part at a time, but for the last.
        if from >= to || (to < frame.names.len() && to - from < WINDOW / 2) {
            return;
        }
        frame.handed_over = to;
        // The entries of a smaller one were asked about when it was looked into, for its parent's sake.
        let [.., parent, frame] = self.frames.as_slice() else { return };
        let is_untouched = frame.names.len() > NAMES || !parent.is_whole;
        let device = self.options.one_file_system.then_some(frame.device);
        let names: Vec<_> = (from..to)
            .map(|index| frame.names.get(index))
            .filter(|(_, hint)| is_untouched || *hint == FileType::Directory)
            .map(|(name, hint)| (name.to_owned(), hint))
            .collect();
        self.path.truncate(frame.path_length);
        let path_length = frame.path_length;
        let mut entries = Vec::new();
        for (name, hint) in names {
            self.path.push(b'/');
            self.path.extend_from_slice(name.to_bytes());
            let is_wanted = !self.is_excluded(hint == FileType::Directory);
            self.path.truncate(path_length);
            match (is_wanted, hint) {
                (false, _) => {}
                (true, FileType::Directory) => {
                    self.ahead.tasks().directory(&directory, name, device);
                }
                (true, _) => entries.push(name),
            }
        }
        // Shared out among several.
        let mut entries = entries.into_iter();
        while entries.len() > 0 {
            let part = entries.by_ref().take(PART).collect();
            self.ahead.tasks().entries(&directory, part);
        }
    }

    /// Reports what is missing and enters the root.
    fn start(&mut self, monitor: &dyn Monitor) -> Result<Step, SourceError> {
        for source in std::mem::take(&mut self.missing) {
            let message = match source.failure {
                Some(error) if !is_absence(&error) => error.to_string(),
                _ => "does not exist".to_string(),
            };
            report(monitor, &source.path, message);
        }
        let step = if self.plan.has_children(Some(Plan::ROOT)) && self.origin.is_some() {
            self.enter_above_origin(Plan::ROOT)?
        } else {
            self.visit_origin(Some(Plan::ROOT), monitor)?
        };
        step.ok_or(SourceError::NotFound { path: "/".to_string() })
    }

    /// In a directory above `as_path`: the next one, or the source.
    fn go_towards_origin(
        &mut self,
        plan: Option<usize>,
        monitor: &dyn Monitor,
    ) -> Result<Option<Step>, SourceError> {
        match plan {
            Some(node) if !self.plan.is_named(plan) => self.enter_above_origin(node),
            _ => self.visit_origin(plan, monitor),
        }
    }

    /// Looks at the source that appears at `as_path`; without one, at the root of the file system.
    fn visit_origin(
        &mut self,
        plan: Option<usize>,
        monitor: &dyn Monitor,
    ) -> Result<Option<Step>, SourceError> {
        let (path, name) = match &self.origin {
            Some(origin) => (origin.parent.clone(), origin.name.clone()),
            None => (b"/".to_vec(), c".".to_owned()),
        };
        let fail = |error| SourceError::Io { item: Printable(&path).to_string(), error };
        let descriptor = open_path(&path).map_err(fail)?;
        let stat = stat_descriptor(descriptor.as_fd()).map_err(fail)?;
        let parent = self.open.add(descriptor, None, &path, &stat);
        let place = Place {
            parent: &parent,
            name: &name,
            hint: FileType::Unknown,
            plan,
            parent_is_whole: false,
            parent_device: device_of(&stat),
        };
        Ok(self.visit(&place, monitor))
    }

    /// Enters a directory above `as_path`. It exists in the snapshot only and changes when the source
    /// itself does: so it has the source's times.
    fn enter_above_origin(&mut self, node: usize) -> Result<Option<Step>, SourceError> {
        let Some(origin) = &self.origin else { return Ok(None) };
        let stat = open_path(&origin.parent)
            .and_then(|directory| stat_entry(directory.as_fd(), &origin.name))
            .map_err(|error| SourceError::Io { item: Printable(&self.path).to_string(), error })?;
        let found = metadata_of(&stat, &self.owners);
        let metadata = Metadata {
            mode: 0o755,
            owner: self.owners.get(0, 0),
            mtime: found.mtime,
            ctime: found.ctime,
            links: 1,
            ..Metadata::default()
        };
        Ok(Some(self.push_frame(
            metadata,
            None,
            planned_names(&self.plan, node),
            Some(node),
            false,
        )))
    }

    /// Looks at one entry: a step, or nothing if it is left out.
    fn visit(&mut self, place: &Place<'_>, monitor: &dyn Monitor) -> Option<Step> {
        let descriptor = match self.open.descriptor(place.parent) {
            Ok(descriptor) => descriptor,
            Err(error) => {
                report(monitor, &place.parent.path_of(b"."), error.to_string());
                // Nothing else in it can be reached either.
                if let Some(frame) = self.frames.last_mut() {
                    frame.position = frame.names.len();
                }
                return None;
            }
        };
        let fail = |error: io::Error| {
            report(monitor, &place.parent.path_of(place.name.to_bytes()), describe(&error));
        };
        let mut known = None;
        if place.hint == FileType::Unknown {
            known = Some(stat_entry(descriptor.as_fd(), place.name).map_err(fail).ok()?);
        }
        let is_directory = known.as_ref().map_or(place.hint, kind_of) == FileType::Directory;
        let is_named = self.plan.is_named(place.plan);
        let mut is_whole = place.parent_is_whole || is_named;
        if is_whole && self.is_excluded(is_directory) {
            is_whole = false;
            if is_named {
                let path = place.parent.path_of(place.name.to_bytes());
                monitor.note(&format!("{} is excluded, although named", Printable(&path)));
            }
        }
        if !is_whole && !self.plan.has_children(place.plan) {
            return None;
        }
        let stat = match known {
            Some(stat) => stat,
            None => stat_entry(descriptor.as_fd(), place.name).map_err(fail).ok()?,
        };
        if kind_of(&stat) == FileType::Directory {
            return self.enter(place, descriptor.as_fd(), &stat, is_whole, monitor);
        }
        if !is_whole {
            fail(io::ErrorKind::NotADirectory.into());
            return None;
        }
        let is_file = kind_of(&stat) == FileType::RegularFile;
        if is_file && self.options.exclude_larger_than.is_some_and(|limit| stat.stx_size > limit) {
            return None;
        }
        let node = match node_of(&stat, descriptor.as_fd(), place.name) {
            Ok(Some(node)) => node,
            Ok(None) => {
                fail(io::Error::other("of a kind that is not known"));
                return None;
            }
            // It was a link, and is something else now.
            Err(error) => {
                fail(error);
                return None;
            }
        };
        let name = self.entry_name();
        let readable = FileReadable {
            directory: Arc::clone(place.parent),
            name: place.name.to_owned(),
            entry_name: (*name != *place.name.to_bytes()).then(|| name.clone()),
            is_file,
            owners: Arc::clone(&self.owners),
            ahead: Arc::clone(self.ahead.tasks()),
        };
        let metadata = metadata_of(&stat, &self.owners);
        let entry = Entry { name, node, metadata };
        Some(Step::Entry { entry, readable: Arc::new(readable) })
    }

    /// Enters a directory. One that cannot be opened is reported and entered as empty, so that the
    /// snapshot shows that it was there.
    fn enter(
        &mut self,
        place: &Place<'_>,
        parent: BorrowedFd<'_>,
        stat: &Statx,
        mut is_whole: bool,
        monitor: &dyn Monitor,
    ) -> Option<Step> {
        let leads_on = self.plan.has_children(place.plan);
        let is_mount_point = self.options.one_file_system
            && place.parent_is_whole
            && !self.plan.is_named(place.plan)
            && device_of(stat) != place.parent_device;
        if is_mount_point {
            is_whole = false;
        }
        let path = || place.parent.path_of(place.name.to_bytes());
        let mut opened = None;
        if is_whole {
            match open_for_listing(parent, place.name) {
                Ok(descriptor) => opened = Some(descriptor),
                Err(error) => {
                    report(monitor, &path(), describe(&error));
                    if is_replaced(&error) {
                        return None;
                    }
                    is_whole = false;
                }
            }
        }
        if opened.is_none() && leads_on {
            match open_for_passing(parent, place.name) {
                Ok(descriptor) => opened = Some(descriptor),
                Err(error) => report(monitor, &path(), describe(&error)),
            }
        }
        let Some(descriptor) = opened else {
            let mut metadata = metadata_of(stat, &self.owners);
            if !is_mount_point {
                let found = attributes::of_entry(parent, place.name, false);
                metadata.attributes = found.unwrap_or_default();
            }
            return Some(self.push_frame(metadata, None, Names::default(), place.plan, false));
        };
        // What was opened may not be what was asked about a moment ago.
        let stat = match stat_descriptor(descriptor.as_fd()) {
            Ok(stat) => stat,
            Err(error) => {
                report(monitor, &path(), describe(&error));
                return None;
            }
        };
        let mut metadata = metadata_of(&stat, &self.owners);
        match attributes::of_descriptor(descriptor.as_fd()) {
            Ok(found) => metadata.attributes = found,
            Err(error) => report(monitor, &path(), describe(&error)),
        }
        let ignore_count = self.ignore_rules.len();
        let names = match place.plan {
            Some(node) if !is_whole => planned_names(&self.plan, node),
            _ => self.list(descriptor.as_fd(), place, monitor),
        };
        let directory = self.open.add(descriptor, Some(place.parent), place.name.to_bytes(), &stat);
        let step = self.push_frame(metadata, Some(directory), names, place.plan, is_whole);
        if let Some(frame) = self.frames.last_mut() {
            frame.ignore_count = ignore_count;
        }
        Some(step)
    }

    /// Reads the names in a directory, without those that its own markers exclude, and its ignore files.
    fn list(
        &mut self,
        descriptor: BorrowedFd<'_>,
        place: &Place<'_>,
        monitor: &dyn Monitor,
    ) -> Names {
        let mut names = Names::default();
        if let Err(error) = names.read(descriptor) {
            report(monitor, &place.parent.path_of(place.name.to_bytes()), describe(&error));
        }
        let present = |name: &CString| names.contains(name.to_bytes());
        let marker =
            self.markers.iter().find(|marker| present(&marker.name) && marker.is_in(descriptor));
        if let Some(marker) = marker {
            names.retain(|name| {
                *name == *marker.name || self.plan.child(place.plan, name).is_some()
            });
            return names;
        }
        for name in self.ignore_names.iter().filter(|name| present(name)) {
            let complaints = match IgnoreRules::read(descriptor, name, self.path.len()) {
                Ok((rules, complaints)) => {
                    self.ignore_rules.push(rules);
                    complaints
                }
                Err(error) => vec![describe(&error)],
            };
            for complaint in complaints {
                let path = place.parent.path_of(place.name.to_bytes());
                let file = Printable(name.to_bytes());
                monitor.note(&format!("{}/{file}: {complaint}", Printable(&path)));
            }
        }
        names
    }

    fn push_frame(
        &mut self,
        metadata: Metadata,
        directory: Option<Arc<Directory>>,
        names: Names,
        plan: Option<usize>,
        is_whole: bool,
    ) -> Step {
        let name = self.entry_name();
        self.frames.push(Frame {
            directory,
            names,
            position: 0,
            path_length: self.path.len(),
            plan,
            is_whole,
            device: metadata.device,
            ignore_count: self.ignore_rules.len(),
            handed_over: 0,
        });
        let node = Node::new_directory();
        Step::Enter(Entry { name, node, metadata })
    }

    fn leave(&mut self) {
        let Some(left) = self.frames.pop() else { return };
        self.ignore_rules.truncate(left.ignore_count);
        let parent = self.frames.last().and_then(|frame| frame.directory.as_ref());
        if let (Some(parent), Some(child)) = (parent, &left.directory) {
            self.open.return_to(parent, child);
        }
    }

    /// Whether the patterns or an ignore file leave out what is at `path`; the root never is.
    fn is_excluded(&self, is_directory: bool) -> bool {
        !self.path.is_empty()
            && (self.options.exclude.excludes(&self.path, is_directory)
                || ignores(&self.ignore_rules, &self.path, is_directory))
    }

    /// The last component of `path`.
    fn entry_name(&self) -> Box<[u8]> {
        let start = self.path.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
        Box::from(&self.path[start..])
    }
}

/// The names in a directory that lead to sources.
fn planned_names(plan: &Plan, node: usize) -> Names {
    let mut names = Names::default();
    for name in plan.children(node) {
        names.push(name, FileType::Unknown);
    }
    names
}

/// Whether what was a directory is gone, or is no directory any more.
fn is_replaced(error: &io::Error) -> bool {
    is_absence(error) || error.raw_os_error() == Some(Errno::LOOP.raw_os_error())
}

fn describe(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "vanished while the source was scanned".to_string(),
        io::ErrorKind::NotADirectory => "is no longer a directory".to_string(),
        _ if is_replaced(error) => {
            "was replaced by a link while the source was scanned".to_string()
        }
        _ => error.to_string(),
    }
}

fn report(monitor: &dyn Monitor, path: &[u8], message: String) {
    monitor.problem(Problem { item: Printable(path).to_string(), during: "scan", message });
}
