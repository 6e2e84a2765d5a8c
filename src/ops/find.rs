//! Find: which snapshots have what, told as versions.
//!
//! The snapshots of one source are compared one after the other, oldest first, as `diff` compares two: what is the same in both
//! is passed over unread. So the first one is walked where a pattern may match, and of each further one only what
//! changed. The contents of files are not read. A version is an entry that stayed the same thing with the same content
//! from one snapshot to another; a file that went and came back has two.
//!
//! Memory: that of a comparison, and each entry that matches in the snapshot that was looked at last; where one had to be
//! listed as a whole, all that match in it, too.

use std::collections::{BTreeMap, HashSet};

use parking_lot::Mutex;

use crate::format::snapshot::Snapshot;
use crate::id::SnapshotId;
use crate::monitor::{Monitor, Phase, Problem, Progress};
use crate::ops::OpsError;
use crate::ops::diff::{Change, Tell, compare_snapshots, not_told};
use crate::repository::Repository;
use crate::repository::reader::BlobReader;
use crate::tree::entry::{Content, Entry, Node};
use crate::tree::filter::IncludeFilter;
use crate::tree::path::TreePath;

/// What is looked for.
#[derive(Debug, Clone)]
pub struct FindOptions {
    /// What an entry must match itself; that something above it does is not enough.
    pub patterns: IncludeFilter,
    /// Bytes that a reader may use a part of; what matches comes on top.
    pub memory_budget: u64,
}

/// An entry that was the same in some snapshots that follow one another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// Where it is.
    pub path: TreePath,
    /// What it was in the first of them, without extended attributes, and without where a large file's content is.
    pub entry: Entry,
    /// The first of them, as a place in what was given to [`find`].
    pub first: usize,
    /// The last of them.
    pub last: usize,
    /// How many they are.
    pub snapshots: usize,
    /// Whether the source's newest snapshot is among them.
    pub is_current: bool,
    /// Whether the snapshot after the last of them is known to lack the entry or to have another, or there is none: `false`
    /// where it cannot be read there.
    pub is_end_known: bool,
}

/// What hears of versions. Its failure ends the search.
pub type TellVersion<'t> = dyn FnMut(Version) -> std::io::Result<()> + 't;

/// Looks for entries in these snapshots and hands every version to `tell`: source by source, of each first those that
/// ended, in the order in which they did, then those that are there now, by path. A source is a host and a name, or,
/// where it has no name, a host and the paths that were saved. What cannot be read is reported as a problem.
pub fn find(
    repository: &Repository,
    snapshots: &[(SnapshotId, Snapshot)],
    options: &FindOptions,
    tell: &mut TellVersion<'_>,
    monitor: &dyn Monitor,
) -> Result<(), OpsError> {
    let session = repository.register_reader(monitor);
    let once = Once { monitor, told: Mutex::default() };
    let result = run(repository, snapshots, options, tell, &once);
    repository.end_reader(session, monitor);
    result
}

fn run(
    repository: &Repository,
    snapshots: &[(SnapshotId, Snapshot)],
    options: &FindOptions,
    tell: &mut TellVersion<'_>,
    monitor: &Once<'_>,
) -> Result<(), OpsError> {
    for error in repository.refresh_index(monitor)?.damaged {
        monitor.monitor.problem(Problem {
            item: error.item,
            during: "index",
            message: error.message,
        });
    }
    monitor.phase(Phase::Compare);
    let reader = BlobReader::for_a_walk(repository, options.memory_budget);
    let mut sources: BTreeMap<SourceKey<'_>, Vec<usize>> = BTreeMap::new();
    for (place, (_, snapshot)) in snapshots.iter().enumerate() {
        let Snapshot { host, name, paths, .. } = snapshot;
        let paths = if name.is_empty() { &paths[..] } else { &[] };
        sources.entry((host, name, paths)).or_default().push(place);
    }
    for mut places in sources.into_values() {
        places.sort_by_key(|place| (snapshots[*place].1.time, snapshots[*place].0));
        let mut present = Present { places: &places, now: 0, entries: BTreeMap::new(), tell };
        let mut before = None;
        for (now, place) in places.iter().enumerate() {
            let (id, after) = &snapshots[*place];
            monitor.current(&id.short());
            present.now = now;
            let compare = |before, tell: &mut Tell<'_>| {
                compare_snapshots(&reader, before, after, &options.patterns, tell, monitor)
            };
            // What a comparison tells is so, even where it cannot tell everything; then what is there now is listed.
            let mut take = |change: &Change<'_>| present.take(change.path, change.after.map(slim));
            if !compare(before, &mut take)? && before.is_some() {
                let mut listed = BTreeMap::new();
                let mut take = |change: &Change<'_>| {
                    listed.extend(change.after.map(|entry| (change.path.clone(), slim(entry))));
                    Ok(())
                };
                let is_whole = compare(None, &mut take)?;
                present.replace(listed, is_whole).map_err(not_told)?;
            }
            before = Some(after);
        }
        present.end().map_err(not_told)?;
    }
    Ok(())
}

/// A host, and a name or else paths.
type SourceKey<'s> = (&'s str, &'s str, &'s [Vec<u8>]);

/// Something that matches, and in which of the source's snapshots.
struct Known {
    // Nodes of a map whose keys come in order are half empty.
    entry: Box<Entry>,
    first: usize,
    /// The last one in which it was seen, where it was not seen in those that followed and may be there: they cannot be read.
    last_seen: Option<usize>,
}

/// What matches in the snapshot that was looked at last.
struct Present<'p, 't> {
    /// The source's snapshots, oldest first.
    places: &'p [usize],
    /// Which of them is looked at.
    now: usize,
    entries: BTreeMap<TreePath, Known>,
    tell: &'p mut TellVersion<'t>,
}

impl Present<'_, '_> {
    /// Takes in that a path has something else now, or nothing.
    fn take(&mut self, path: &TreePath, after: Option<Entry>) -> std::io::Result<()> {
        if let Some(known) = self.entries.remove(path) {
            self.tell_until(path.clone(), known, self.now)?;
        }
        if let Some(entry) = after {
            let known = Known { entry: Box::new(entry), first: self.now, last_seen: None };
            self.entries.insert(path.clone(), known);
        }
        Ok(())
    }

    /// Takes in all that is there now; or, where that is not the whole, all of it that can be read.
    fn replace(
        &mut self,
        listed: BTreeMap<TreePath, Entry>,
        is_whole: bool,
    ) -> std::io::Result<()> {
        let mut gone = Vec::new();
        for (path, known) in &mut self.entries {
            match listed.contains_key(path) {
                true => {}
                false if is_whole => gone.push(path.clone()),
                // Listed after it was compared with one before: there is one.
                false => {
                    known.last_seen.get_or_insert(self.now.saturating_sub(1));
                }
            }
        }
        gone.iter().try_for_each(|path| self.take(path, None))?;
        for (path, entry) in listed {
            match self.entries.get(&path) {
                // What was not seen in between may have been another, or nothing.
                Some(known) if known.last_seen.is_none() && is_same(&known.entry, &entry) => {}
                _ => self.take(&path, Some(entry))?,
            }
        }
        Ok(())
    }

    /// Tells a version that was in the snapshots before `end`, as far as they can be read.
    fn tell_until(&mut self, path: TreePath, known: Known, end: usize) -> std::io::Result<()> {
        let Known { entry, first, last_seen } = known;
        // A directory that has a name twice is no reason to tell what was in no snapshot.
        let Some(last) = last_seen.or(end.checked_sub(1)).filter(|last| *last >= first) else {
            return Ok(());
        };
        (self.tell)(Version {
            path,
            entry: *entry,
            first: self.places[first],
            last: self.places[last],
            snapshots: last - first + 1,
            is_current: last + 1 == self.places.len(),
            is_end_known: last_seen.is_none(),
        })
    }

    /// Tells what is there in the newest snapshot.
    fn end(mut self) -> std::io::Result<()> {
        let entries = std::mem::take(&mut self.entries);
        entries
            .into_iter()
            .try_for_each(|(path, known)| self.tell_until(path, known, self.places.len()))
    }
}

/// The entry without extended attributes, and of a file's content only what tells it from others: the digest of all its
/// bytes, or the bytes or the blob that it consists of.
fn slim(entry: &Entry) -> Entry {
    let mut entry = entry.clone();
    entry.metadata.attributes = Vec::new();
    if let Node::File(file) = &mut entry.node
        && file.digest.is_some()
    {
        file.content = Content::default();
    }
    entry
}

/// Whether two slim entries are the same thing with the same content.
fn is_same(one: &Entry, other: &Entry) -> bool {
    match (&one.node, &other.node) {
        (Node::Directory { .. }, Node::Directory { .. }) => true,
        (one, other) => one == other,
    }
}

/// Tells each problem once, as one of finding: what is damaged is met in each snapshot that has it.
struct Once<'m> {
    monitor: &'m dyn Monitor,
    told: Mutex<HashSet<(String, String)>>,
}

impl Monitor for Once<'_> {
    fn phase(&self, phase: Phase) {
        self.monitor.phase(phase);
    }

    fn expect(&self, total: Progress) {
        self.monitor.expect(total);
    }

    fn advance(&self, done: Progress) {
        self.monitor.advance(done);
    }

    fn current(&self, item: &str) {
        self.monitor.current(item);
    }

    fn problem(&self, problem: Problem) {
        let Problem { item, message, .. } = problem;
        if self.told.lock().insert((item.clone(), message.clone())) {
            self.monitor.problem(Problem { item, during: "find", message });
        }
    }

    fn note(&self, text: &str) {
        self.monitor.note(text);
    }

    fn interrupted(&self) -> bool {
        self.monitor.interrupted()
    }
}
