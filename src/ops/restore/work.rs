//! The work on one window: what is there is looked at, what is to be written is sorted by the segments that it is read
//! from, written by several threads, and finished.

use std::collections::HashSet;
use std::io;
use std::num::NonZero;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;
use rustix::fs::FileType;
use rustix::io::Errno;

use crate::codec::digest::NamingKeys;
use crate::id::BlobId;
use crate::monitor::{Monitor, Problem, Progress};
use crate::ops::OpsError;
use crate::repository::Repository;
use crate::repository::error::{Kind, RepositoryError};
use crate::repository::index::SegmentPlace;
use crate::repository::reader::BlobReader;
use crate::target::files::{Directory, Existing, FilesTarget, MetadataFailure, TargetFile};
use crate::target::{TargetError, is_full};
use crate::tree::entry::{Entry, Metadata, Node};
use crate::tree::path::Printable;

use super::order::{Job, Placed, Task, as_read, in_groups, reads_of};
use super::region::{LargeFile, LargePlan, Region};
use super::{Overwrite, RestoreOptions, RestoreSummary};

/// Blobs in a row that could not be had because the store does not answer, after which nothing more is
/// tried: each has been waited for already.
const UNAVAILABLE_IN_A_ROW: u32 = 16;
/// Entries that are looked at by one thread before it asks for more.
const BATCH: usize = 256;

/// An entry and where it goes.
pub(super) struct Item {
    pub(super) directory: Arc<Directory>,
    pub(super) entry: Entry,
    /// Those with the same content, if it has more than one name.
    pub(super) group: Option<Arc<LinkGroup>>,
}

/// A directory and a name in it.
type Place = (Arc<Directory>, Box<[u8]>);

/// The names of one file.
#[derive(Default)]
pub(super) struct LinkGroup {
    /// The first name that was written, which the others are linked to.
    source: Mutex<Option<Place>>,
}

/// A part of the snapshot that is written at one go.
#[derive(Default)]
pub(super) struct Window {
    /// Everything that is neither a directory nor a file that is written in regions nor a further name.
    pub(super) items: Vec<Item>,
    /// Parts of files that are written in regions, each with how many of `items` came before it.
    pub(super) regions: Vec<(usize, Region)>,
    /// Further names of files that come before them.
    pub(super) links: Vec<Item>,
    /// Directories with nothing more to come, innermost first.
    pub(super) finished: Vec<(Arc<Directory>, Metadata)>,
    /// Bytes of content.
    pub(super) bytes: u64,
    /// Files that are open because of `regions`.
    pub(super) opened: usize,
}

impl Window {
    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0 && self.finished.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.items.len() + self.regions.len() + self.links.len()
    }
}

/// Why one entry could not be restored, or nothing more can.
pub(super) enum Failure {
    /// This entry.
    Entry(String),
    /// Nothing more.
    Stop(OpsError),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if is_full(&error) {
            return Failure::Stop(TargetError::new("", error).into());
        }
        Failure::Entry(error.to_string())
    }
}

/// What is done about a file.
pub(super) enum Action {
    /// Nothing is in its place any more.
    Create,
    /// What is there is compared, and written where it differs.
    Update(Existing),
    /// Its content is as wanted.
    Keep(Existing),
}

#[derive(Default)]
pub(super) struct Counts {
    pub(super) total_entries: AtomicU64,
    pub(super) total_files: AtomicU64,
    pub(super) total_bytes: AtomicU64,
    pub(super) files_restored: AtomicU64,
    pub(super) files_unchanged: AtomicU64,
    pub(super) files_skipped: AtomicU64,
    pub(super) files_deleted: AtomicU64,
    pub(super) bytes_written: AtomicU64,
    pub(super) bytes_unchanged: AtomicU64,
    pub(super) metadata_failed: AtomicU64,
    pub(super) entries_failed: AtomicU64,
    pub(super) files_verified: AtomicU64,
}

pub(super) fn add(count: &AtomicU64, more: u64) {
    count.fetch_add(more, Ordering::Relaxed);
}

/// How many threads write what this repository has.
pub(super) fn threads_for(repository: &Repository) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    // Some of them wait for a store that is far; more than that only contend for a directory that they write into.
    let store = repository.store();
    let waiting = if store.is_disk() && store.lists_cheaply() { 0 } else { 2 };
    (cores + waiting).clamp(2, 16)
}

/// What everybody in a restore shares.
pub(super) struct Work<'w, 'a> {
    pub(super) trees: &'w BlobReader<'a>,
    pub(super) data: &'w BlobReader<'a>,
    pub(super) target: &'w FilesTarget,
    pub(super) options: &'w RestoreOptions,
    pub(super) monitor: &'w dyn Monitor,
    pub(super) counts: Counts,
    pub(super) zero_region: OnceLock<[u8; 32]>,
    /// Large files that were begun and not finished.
    pub(super) unfinished: Mutex<Vec<Arc<LargeFile>>>,
    stop: AtomicBool,
    reason: Mutex<Option<OpsError>>,
    unavailable: AtomicU32,
    /// Of a dry run: the packs that would be read from a cold store, by the cache's numbers. `None`: there is none.
    cold: Option<Mutex<HashSet<u32>>>,
    /// Files of the target with several names that an entry was matched with already.
    claimed: Mutex<HashSet<(u64, u64)>>,
    threads: usize,
}

impl<'w, 'a> Work<'w, 'a> {
    pub(super) fn new(
        trees: &'w BlobReader<'a>,
        data: &'w BlobReader<'a>,
        target: &'w FilesTarget,
        options: &'w RestoreOptions,
        monitor: &'w dyn Monitor,
        threads: usize,
    ) -> Self {
        Work {
            trees,
            data,
            target,
            options,
            monitor,
            counts: Counts::default(),
            zero_region: OnceLock::new(),
            unfinished: Mutex::default(),
            stop: AtomicBool::new(false),
            reason: Mutex::default(),
            unavailable: AtomicU32::new(0),
            cold: (options.dry_run && data.repository().store().is_tiered()).then(Mutex::default),
            claimed: Mutex::default(),
            threads,
        }
    }

    pub(super) fn naming(&self) -> &'a NamingKeys {
        self.data.repository().naming()
    }

    /// Whether nothing more is to be begun.
    pub(super) fn is_stopped(&self) -> bool {
        if self.monitor.interrupted() {
            self.stop(OpsError::Interrupted);
        }
        self.stop.load(Ordering::Relaxed)
    }

    pub(super) fn stop(&self, reason: OpsError) {
        self.reason.lock().get_or_insert(reason);
        self.stop.store(true, Ordering::Relaxed);
    }

    /// A dry run would read this blob.
    pub(super) fn would_read(&self, blob: &BlobId) {
        let Some(cold) = &self.cold else { return };
        // What is not found will be an error when it is read.
        cold.lock().extend(self.data.packs_of(blob).unwrap_or_default());
    }

    /// The sum of what was done, or why it ended early.
    pub(super) fn finish(self) -> Result<RestoreSummary, OpsError> {
        self.drop_unfinished();
        let cold = self.cold.map(Mutex::into_inner).unwrap_or_default();
        let cold_packs = self.data.repository().cold_packs(cold)?;
        if let Some(reason) = self.reason.into_inner() {
            return Err(reason);
        }
        let counts = self.counts;
        Ok(RestoreSummary {
            total_entries: counts.total_entries.into_inner(),
            total_files: counts.total_files.into_inner(),
            total_bytes: counts.total_bytes.into_inner(),
            files_restored: counts.files_restored.into_inner(),
            files_unchanged: counts.files_unchanged.into_inner(),
            files_skipped: counts.files_skipped.into_inner(),
            files_deleted: counts.files_deleted.into_inner(),
            bytes_written: counts.bytes_written.into_inner(),
            bytes_unchanged: counts.bytes_unchanged.into_inner(),
            metadata_failed: counts.metadata_failed.into_inner(),
            entries_failed: counts.entries_failed.into_inner(),
            files_verified: counts.files_verified.into_inner(),
            cold_packs,
            read_elsewhere: 0,
            elapsed: std::time::Duration::ZERO,
        })
    }

    /// Calls `job` with every number below `count`, from several threads. These are threads of their own:
    /// a reader waits for another thread's segment under a lock, and a thread of rayon's that waits for
    /// a part of its own work may be handed a job that needs the same lock.
    fn in_parallel(&self, count: usize, job: &(dyn Fn(usize) + Sync)) {
        let next = AtomicUsize::new(0);
        let run = || {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count || self.is_stopped() {
                    return;
                }
                job(number);
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..self.threads.min(count) {
                scope.spawn(run);
            }
            run();
        });
    }

    /// Writes a window and finishes what it completes.
    pub(super) fn write(&self, window: Window) {
        let mut items = window.items;
        let in_items = items.iter().flat_map(|item| reads_of(&item.entry));
        let in_regions = window.regions.iter().flat_map(|(_, region)| region.reads());
        let blobs = in_items.chain(in_regions).map(|(blob, _)| *blob).collect();
        let mut batches = Vec::with_capacity(items.len() / BATCH + 1);
        while !items.is_empty() {
            let first = items.len().saturating_sub(BATCH);
            batches.push((first, Mutex::new(items.split_off(first))));
        }
        let tasks = Mutex::new(Vec::with_capacity(window.regions.len()));
        if !self.options.dry_run {
            self.data.locate_all(blobs);
            self.data.locate_bases();
        }
        self.in_parallel(batches.len(), &|number| {
            let (first, batch) = &batches[number];
            let batch = std::mem::take(&mut *batch.lock());
            let mut found = Vec::with_capacity(batch.len());
            for (order, item) in (*first..).zip(batch) {
                let place = self.place(reads_of(&item.entry).next());
                let job = self.prepare(item).map(|job| Task::File(Box::new(job)));
                found.extend(job.map(|task| Placed { order, place, task }));
            }
            tasks.lock().append(&mut found);
        });
        let mut tasks = tasks.into_inner();
        tasks.extend(window.regions.into_iter().map(|(order, region)| {
            let place = self.place(region.reads().next());
            Placed { order, place, task: Task::Region(region) }
        }));
        let groups = in_groups(tasks);
        if !self.options.dry_run {
            self.data.await_only(as_read(&groups, self.threads));
        }
        self.write_groups(groups);

        for link in window.links {
            if self.is_stopped() {
                return;
            }
            self.write_link(link);
        }
        if self.is_stopped() || self.options.dry_run {
            return;
        }
        for (directory, metadata) in window.finished {
            let failures = self.target.finish_directory(&directory, &metadata);
            self.report_metadata(&directory.path(), &failures);
        }
    }

    fn write_groups(&self, groups: Vec<Vec<Placed>>) {
        let groups: Vec<_> = groups.into_iter().map(Mutex::new).collect();
        self.in_parallel(groups.len(), &|number| {
            for Placed { task, .. } in std::mem::take(&mut *groups[number].lock()) {
                if self.is_stopped() {
                    return;
                }
                match task {
                    Task::File(job) => self.write_file(*job),
                    Task::Region(region) => self.write_region(region),
                }
            }
        });
    }

    /// Where reading a blob begins, for sorting: a delta is read while its base is at hand. What has none, or one that
    /// is nowhere, comes last.
    fn place(&self, first: Option<(&BlobId, u64)>) -> (SegmentPlace, u32) {
        let location =
            first.filter(|_| !self.options.dry_run).map(|(blob, _)| self.data.first_read(blob));
        match location {
            Some(Ok(location)) => (location.place(), location.offset),
            _ => (SegmentPlace { pack: u32::MAX, segment: 0 }, 0),
        }
    }

    fn prepare(&self, item: Item) -> Option<Job> {
        let decided = self.look(&item).and_then(|existing| match item.entry.node {
            Node::File(_) => self.decide(&item, existing),
            _ => self.write_special(&item, existing).map(|()| None),
        });
        match decided {
            Ok(action) => action.map(|action| Job { item, action }),
            Err(failure) => {
                self.fail(&item, failure);
                None
            }
        }
    }

    /// What is in an entry's place.
    pub(super) fn look(&self, item: &Item) -> Result<Option<Existing>, Failure> {
        if item.directory.is_new() {
            return Ok(None);
        }
        Ok(self.target.stat(&item.directory, &item.entry.name)?)
    }

    /// Whether the overwrite rule leaves what is there.
    fn is_left(&self, entry: &Entry, existing: &Existing) -> bool {
        match self.options.overwrite {
            Overwrite::Always | Overwrite::IfChanged => false,
            Overwrite::IfNewer => existing.mtime >= entry.metadata.mtime,
            Overwrite::Never => true,
        }
    }

    /// What is to be done about a file; `None`: nothing.
    pub(super) fn decide(
        &self,
        item: &Item,
        existing: Option<Existing>,
    ) -> Result<Option<Action>, Failure> {
        let Some(existing) = existing else { return Ok(Some(Action::Create)) };
        let (entry, metadata) = (&item.entry, &item.entry.metadata);
        if self.is_left(entry, &existing) {
            add(&self.counts.files_skipped, 1);
            self.monitor.advance(Progress { files: 1, bytes: entry.size() });
            return Ok(None);
        }
        if existing.kind != FileType::RegularFile {
            self.clear_place(item, &existing)?;
            return Ok(Some(Action::Create));
        }
        if self.options.overwrite == Overwrite::IfChanged
            && existing.size == entry.size()
            && existing.mtime == metadata.mtime
        {
            return Ok(Some(Action::Keep(existing)));
        }
        if existing.links == 1 {
            return Ok(Some(Action::Update(existing)));
        }
        // Writing into a file that has other names would change those, too.
        let is_ours = metadata.links > 1 && self.claimed.lock().insert(existing.identity);
        if is_ours {
            let file = self.target.read_file(&item.directory, &entry.name)?;
            if self.holds_content(&file, entry)? {
                return Ok(Some(Action::Keep(existing)));
            }
        }
        self.clear_place(item, &existing)?;
        Ok(Some(Action::Create))
    }

    /// Removes what stands where an entry of another kind goes.
    fn clear_place(&self, item: &Item, existing: &Existing) -> Result<(), Failure> {
        let (directory, name) = (&item.directory, &item.entry.name);
        if self.options.dry_run {
            return Ok(());
        }
        if existing.kind != FileType::Directory {
            return Ok(self.target.remove_file(directory, name)?);
        }
        if self.options.delete {
            let removed = self.target.remove_tree(directory, name, &|_, _| false)?;
            add(&self.counts.files_deleted, removed.entries.saturating_sub(1));
            return Ok(());
        }
        let error = match self.target.remove_directory(directory, name) {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        if error.raw_os_error() == Some(Errno::NOTEMPTY.raw_os_error()) {
            let message = "a directory that is not empty is in its place";
            return Err(Failure::Entry(message.to_string()));
        }
        Err(error.into())
    }

    /// Symbolic links, pipes, sockets and devices.
    fn write_special(&self, item: &Item, existing: Option<Existing>) -> Result<(), Failure> {
        let (directory, entry) = (&item.directory, &item.entry);
        if let Some(existing) = &existing
            && self.is_left(entry, existing)
        {
            return Ok(());
        }
        if self.options.dry_run {
            return Ok(());
        }
        let mut kept = None;
        if let Some(existing) = existing {
            let is_same = match &entry.node {
                Node::Symlink(target) => {
                    existing.kind == FileType::Symlink
                        && self.target.read_link(directory, &entry.name)? == **target
                }
                Node::Fifo => existing.kind == FileType::Fifo,
                Node::CharDevice(number) => {
                    existing.kind == FileType::CharacterDevice && existing.device_number == *number
                }
                Node::BlockDevice(number) => {
                    existing.kind == FileType::BlockDevice && existing.device_number == *number
                }
                // One that is there has somebody who listens, or had.
                Node::Socket => existing.kind == FileType::Socket,
                Node::File(_) | Node::Directory { .. } => false,
            };
            // As with files: one that has several names is kept for the first that it is matched with.
            let is_ours = existing.links == 1
                || entry.metadata.links > 1 && self.claimed.lock().insert(existing.identity);
            if is_same && is_ours {
                kept = Some(existing);
            } else {
                self.clear_place(item, &existing)?;
            }
        }
        if kept.is_none() {
            self.target.create_special(directory, &entry.name, &entry.node)?;
        }
        let is_symlink = matches!(entry.node, Node::Symlink(_));
        let metadata = &entry.metadata;
        let failures =
            self.target.finish_special(directory, &entry.name, metadata, is_symlink, kept.as_ref());
        self.report_metadata(&item.path(), &failures);
        self.succeed(item);
        Ok(())
    }

    fn write_file(&self, job: Job) {
        let Job { item, action } = job;
        self.monitor.current(&self.display(&item.path()));
        let result = match action {
            Action::Keep(existing) => self.keep(&item, &existing),
            Action::Create => self.fill_new(&item),
            Action::Update(existing) => self.update(&item, &existing),
        };
        match result {
            Ok(()) => self.monitor.advance(Progress { files: 1, bytes: item.entry.size() }),
            Err(failure) => self.fail(&item, failure),
        }
    }

    /// Brings only the metadata of a file up to date.
    pub(super) fn keep(&self, item: &Item, existing: &Existing) -> Result<(), Failure> {
        let (entry, options) = (&item.entry, self.options);
        if options.verify || !options.dry_run {
            let file = self.target.read_file(&item.directory, &entry.name)?;
            self.verify(&file, entry)?;
            if !options.dry_run {
                let metadata = &entry.metadata;
                let failures = self.target.finish_existing_file(&file, metadata, existing, false);
                self.report_metadata(&item.path(), &failures);
            }
        }
        add(&self.counts.files_unchanged, 1);
        add(&self.counts.bytes_unchanged, entry.size());
        self.succeed(item);
        Ok(())
    }

    /// With the option for it: reads a file again.
    pub(super) fn verify(&self, file: &TargetFile, entry: &Entry) -> Result<(), Failure> {
        if !self.options.verify {
            return Ok(());
        }
        if !self.holds_content(file, entry)? {
            let message = "what was read back is not what the snapshot has";
            return Err(Failure::Entry(message.to_string()));
        }
        add(&self.counts.files_verified, 1);
        Ok(())
    }

    /// Gives a file that was written another name.
    fn write_link(&self, item: Item) {
        let source = item.group.as_ref().and_then(|group| group.source.lock().clone());
        let is_file = matches!(item.entry.node, Node::File(_));
        let Some((directory, name)) = source else {
            return self.write_alone(item);
        };
        let linked = self.try_link(&item, &directory, &name);
        match linked {
            Ok(true) if is_file => self.monitor.advance(Progress { files: 1, bytes: 0 }),
            Ok(true) => {}
            Ok(false) => {
                // The first name was not restored, or the file system takes no more links.
                self.write_alone(item);
            }
            Err(failure) => self.fail(&item, failure),
        }
    }

    /// Whether the entry is linked, or left; `false`: it must be written on its own.
    fn try_link(
        &self,
        item: &Item,
        directory: &Arc<Directory>,
        name: &[u8],
    ) -> Result<bool, Failure> {
        let is_file = matches!(item.entry.node, Node::File(_));
        let count = |count: &AtomicU64| {
            if is_file {
                add(count, 1)
            }
        };
        if let Some(existing) = self.look(item)? {
            let source = self.target.stat(directory, name)?;
            if source.is_some_and(|source| source.identity == existing.identity) {
                count(&self.counts.files_unchanged);
                return Ok(true);
            }
            if self.is_left(&item.entry, &existing) {
                count(&self.counts.files_skipped);
                return Ok(true);
            }
            self.clear_place(item, &existing)?;
        }
        if self.options.dry_run {
            count(&self.counts.files_restored);
            return Ok(true);
        }
        let place = (&item.directory, &*item.entry.name);
        match self.target.link((directory, name), place) {
            Ok(()) => {
                count(&self.counts.files_restored);
                Ok(true)
            }
            Err(error) if is_full(&error) => Err(error.into()),
            Err(error) => {
                let from = self.display(&[&directory.path(), &b"/"[..], name].concat());
                let piece = format!("hard link to {from}");
                let failure = MetadataFailure { piece, error };
                self.report_metadata(&item.path(), &[failure]);
                Ok(false)
            }
        }
    }

    /// Writes one entry from beginning to end on this thread.
    fn write_alone(&self, item: Item) {
        if LargePlan::is_wanted(&item.entry) {
            if let Some(mut plan) = LargePlan::begin(self, item) {
                while let Some(region) = plan.next_region(self) {
                    self.write_region(region);
                }
            }
        } else if let Some(job) = self.prepare(item) {
            self.write_file(job);
        }
    }

    /// A store that does not answer at all ends the run; anything else costs one file.
    pub(super) fn repository_failure(&self, error: RepositoryError) -> Failure {
        if error.kind == Kind::Interrupted {
            return Failure::Stop(error.into());
        }
        if error.kind == Kind::Unavailable {
            let in_a_row = self.unavailable.fetch_add(1, Ordering::Relaxed) + 1;
            if in_a_row >= UNAVAILABLE_IN_A_ROW {
                return Failure::Stop(error.into());
            }
        }
        Failure::Entry(error.to_string())
    }

    /// The store answered.
    pub(super) fn store_answered(&self) {
        if self.unavailable.load(Ordering::Relaxed) != 0 {
            self.unavailable.store(0, Ordering::Relaxed);
        }
    }

    /// An entry is as wanted: its other names may be linked to it.
    pub(super) fn succeed(&self, item: &Item) {
        if let Some(group) = &item.group {
            let place = (item.directory.clone(), item.entry.name.clone());
            group.source.lock().get_or_insert(place);
        }
    }

    pub(super) fn fail(&self, item: &Item, failure: Failure) {
        self.fail_at(&item.path(), failure);
        if let Node::File(file) = &item.entry.node {
            self.monitor.advance(Progress { files: 1, bytes: file.size });
        }
    }

    /// `path`: from the target's root down.
    pub(super) fn fail_at(&self, path: &[u8], failure: Failure) {
        let item = self.display(path);
        match failure {
            Failure::Stop(OpsError::Target(TargetError::Full { .. })) => {
                self.stop(TargetError::Full { item }.into());
            }
            Failure::Stop(reason) => self.stop(reason),
            Failure::Entry(message) => {
                add(&self.counts.entries_failed, 1);
                self.monitor.problem(Problem { item, during: "restore", message });
            }
        }
    }

    pub(super) fn report_metadata(&self, path: &[u8], failures: &[MetadataFailure]) {
        for failure in failures {
            if is_full(&failure.error) {
                let item = self.display(path);
                return self.stop(TargetError::Full { item }.into());
            }
            add(&self.counts.metadata_failed, 1);
            self.monitor.problem(Problem {
                item: self.display(path),
                during: "metadata",
                message: format!("{}: {}", failure.piece, failure.error),
            });
        }
    }

    /// The path in the snapshot of what is at this path of the target.
    pub(super) fn display(&self, path: &[u8]) -> String {
        let subtree = &self.options.subtree;
        let above = if subtree.is_root() { &b""[..] } else { subtree.as_bytes() };
        let full = [above, path].concat();
        Printable(if full.is_empty() { b"/" } else { &full }).to_string()
    }
}

impl Item {
    /// The path from the target's root down.
    pub(super) fn path(&self) -> Vec<u8> {
        let mut path = self.directory.path();
        path.push(b'/');
        path.extend_from_slice(&self.entry.name);
        path
    }
}
