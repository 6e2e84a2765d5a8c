//! Find: which snapshots have what, told as versions.
//!
//! The snapshots of one source are compared one after the other, oldest first, as `diff` compares two: what is the same in both
//! is passed over unread. So the first one is walked where a pattern may match, and of each further one only what
//! changed. The contents of files are not read. A version is an entry that stayed the same thing with the same content
//! from one snapshot to another; a file that went and came back has two.
//!
//! Memory: that of a comparison, and each entry that matches in the snapshot that was looked at last; where one had to be
//! listed as a whole, all that match in it, too.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::format::snapshot::Snapshot;
use crate::id::{BlobId, SnapshotId};
use crate::monitor::{Monitor, Phase, Problem};
use crate::ops::OpsError;
use crate::ops::diff::{Change, Tell, Told, compare_snapshots, not_told};
use crate::repository::Repository;
use crate::repository::reader::BlobReader;
use crate::tree::entry::{Content, Entry, Extent, FileContent, Node, Owner};
use crate::tree::filter::IncludeFilter;
use crate::tree::path::TreePath;
use crate::units::Timestamp;

/// What is looked for.
#[derive(Debug, Clone)]
pub struct FindOptions {
    /// What an entry must match itself; that something above it does is not enough.
    pub patterns: IncludeFilter,
    /// Bytes that a reader may use a part of; what matches comes on top.
    pub memory_budget: u64,
}

/// What an entry was, as far as a person asks who looks for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// The sort of thing, as [`Node::kind_name`] says it.
    pub kind: &'static str,
    /// Bytes of a file's content; 0 for all else.
    pub size: u64,
    /// Where a symbolic link points to.
    pub target: Option<Box<[u8]>>,
    /// Permission, set-id and sticky bits.
    pub mode: u32,
    /// Whose it was.
    pub owner: Arc<Owner>,
    /// When it was modified.
    pub mtime: Timestamp,
    content: Identity,
}

/// What tells contents apart.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Identity {
    /// All of the same kind have the same: directories, pipes, sockets.
    Same,
    /// The digest of all bytes.
    Digest([u8; 32]),
    /// The blob that they are.
    Blob(BlobId),
    /// Bytes that stand in the entry; and whatever a later version writes otherwise.
    Other(Box<Node>),
}

/// An entry that was the same in some snapshots that follow one another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// Where it is.
    pub path: TreePath,
    /// What it was in the first of them.
    pub seen: Seen,
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
    let result = run(repository, snapshots, options, tell, monitor);
    repository.end_reader(session, monitor);
    result
}

fn run(
    repository: &Repository,
    snapshots: &[(SnapshotId, Snapshot)],
    options: &FindOptions,
    tell: &mut TellVersion<'_>,
    monitor: &dyn Monitor,
) -> Result<(), OpsError> {
    for error in repository.refresh_index(monitor)?.damaged {
        monitor.problem(Problem { item: error.item, during: "index", message: error.message });
    }
    monitor.phase(Phase::Compare);
    let reader = BlobReader::for_a_walk(repository, options.memory_budget);
    let told = Told::default();
    let mut sources: BTreeMap<SourceKey<'_>, Vec<usize>> = BTreeMap::new();
    for (place, (_, snapshot)) in snapshots.iter().enumerate() {
        let Snapshot { host, name, paths, .. } = snapshot;
        let paths = if name.is_empty() { &paths[..] } else { &[] };
        sources.entry((host, name, paths)).or_default().push(place);
    }
    for mut places in sources.into_values() {
        places.sort_by_key(|place| (snapshots[*place].1.time, snapshots[*place].0));
        let mut present = Present::new(&places, tell);
        let mut before = None;
        for (now, place) in (0..).zip(&places) {
            let (id, after) = &snapshots[*place];
            monitor.current(&id.short());
            present.now = now;
            let compare = |before, tell: &mut Tell<'_>| {
                compare_snapshots(&reader, before, after, &options.patterns, tell, (monitor, &told))
            };
            // What a comparison tells is so, even where it cannot tell everything; then what is there now is listed.
            let mut take = |change: &Change<'_>| present.take(change.path, change.after);
            if !compare(before, &mut take)? && before.is_some() {
                let mut listed = BTreeMap::new();
                let mut take = |change: &Change<'_>| {
                    listed.extend(change.after.map(|entry| (change.path.clone(), Seen::of(entry))));
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

/// Something that matches, and in which of the source's snapshots. There may be a million of them.
struct Known {
    // Nodes of a map whose keys come in order are half empty.
    seen: Box<Seen>,
    first: u32,
    /// The last one in which it was seen, where it was not seen in those that followed and may be there: they cannot be read.
    last_seen: Option<u32>,
}

/// What matches in the snapshot that was looked at last.
struct Present<'p, 't> {
    /// The source's snapshots, oldest first.
    places: &'p [usize],
    /// Which of them is looked at.
    now: u32,
    entries: BTreeMap<TreePath, Known>,
    tell: &'p mut TellVersion<'t>,
}

impl<'p, 't> Present<'p, 't> {
    fn new(places: &'p [usize], tell: &'p mut TellVersion<'t>) -> Self {
        Present { places, now: 0, entries: BTreeMap::new(), tell }
    }

    /// Takes in that a path has something else now, or nothing.
    fn take(&mut self, path: &TreePath, after: Option<&Entry>) -> std::io::Result<()> {
        self.put(path, after.map(Seen::of))
    }

    fn put(&mut self, path: &TreePath, after: Option<Seen>) -> std::io::Result<()> {
        if let Some(known) = self.entries.remove(path) {
            self.tell_until(path.clone(), known, self.now)?;
        }
        if let Some(seen) = after {
            let known = Known { seen: Box::new(seen), first: self.now, last_seen: None };
            self.entries.insert(path.clone(), known);
        }
        Ok(())
    }

    /// Takes in all that is there now; or, where that is not the whole, all of it that can be read.
    fn replace(&mut self, listed: BTreeMap<TreePath, Seen>, is_whole: bool) -> std::io::Result<()> {
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
        gone.iter().try_for_each(|path| self.put(path, None))?;
        for (path, seen) in listed {
            match self.entries.get(&path) {
                // What was not seen in between may have been another, or nothing.
                Some(known) if known.last_seen.is_none() && known.seen.is_same(&seen) => {}
                _ => self.put(&path, Some(seen))?,
            }
        }
        Ok(())
    }

    /// Tells a version that was in the snapshots before `end`, as far as they can be read.
    fn tell_until(&mut self, path: TreePath, known: Known, end: u32) -> std::io::Result<()> {
        let Known { seen, first, last_seen } = known;
        // A directory that has a name twice is no reason to tell what was in no snapshot.
        let Some(last) = last_seen.or(end.checked_sub(1)).filter(|last| *last >= first) else {
            return Ok(());
        };
        (self.tell)(Version {
            path,
            seen: *seen,
            first: self.places[first as usize],
            last: self.places[last as usize],
            snapshots: (last - first) as usize + 1,
            is_current: last as usize + 1 == self.places.len(),
            is_end_known: last_seen.is_none(),
        })
    }

    /// Tells what is there in the newest snapshot.
    fn end(mut self) -> std::io::Result<()> {
        let entries = std::mem::take(&mut self.entries);
        entries
            .into_iter()
            .try_for_each(|(path, known)| self.tell_until(path, known, self.places.len() as u32))
    }
}

impl Seen {
    fn of(entry: &Entry) -> Self {
        let (target, content) = match &entry.node {
            Node::Symlink(target) => (Some(target.clone()), Identity::Same),
            Node::Directory { .. } | Node::Fifo | Node::Socket => (None, Identity::Same),
            Node::File(FileContent { digest: Some(digest), .. }) => {
                (None, Identity::Digest(*digest))
            }
            Node::File(FileContent { content: Content::Extents(extents), .. })
                if let [Extent::Data { blob, .. }] = &extents[..] =>
            {
                (None, Identity::Blob(*blob))
            }
            other => (None, Identity::Other(Box::new(other.clone()))),
        };
        let metadata = &entry.metadata;
        Seen {
            kind: entry.node.kind_name(),
            size: entry.size(),
            target,
            mode: metadata.mode,
            owner: metadata.owner.clone(),
            mtime: metadata.mtime,
            content,
        }
    }

    /// Whether it is the same thing with the same content.
    fn is_same(&self, other: &Seen) -> bool {
        let what = |it: &Seen| (it.kind, it.size);
        what(self) == what(other) && self.target == other.target && self.content == other.content
    }
}
