//! Copy: snapshots of one repository into others, under their keys.
//!
//! Chunks are taken as they are; blobs are named, compressed and sealed as each target's own, and what a target has is
//! not stored again. The walk goes through a snapshot beside an older one that both repositories have, the *reference*:
//! what did not change since is not read, because the reference's copy says what it is called there. So there is no table
//! from old names to new ones, and memory does not grow with the repository: the segments that readers keep, a batch of
//! entries for each worker, and what the writers hold. Several targets share one walk: what any of them lacks is read and
//! opened once. `docs/design/0011-replication.md`.

mod assemble;
mod content;
mod plan;
mod reference;
mod sides;
mod walk;

use std::collections::HashMap;
use std::fs::File;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::format::header::ObjectKind;
use crate::format::snapshot::{Decision, Origin, Snapshot};
use crate::id::SnapshotId;
use crate::monitor::{Monitor, Phase, Problem, SilentMonitor};
use crate::ops::OpsError;
use crate::ops::complete::is_complete;
use crate::repository::Repository;
use crate::repository::journals::{self, Left};
use crate::repository::reader::BlobReader;
use crate::repository::session::Committed;
use crate::repository::writer::Writer;
use crate::view::DirectoryRoot;

use assemble::Assembler;
pub use plan::CopyPlan;
use sides::{SIDES_MAX, Side};
use walk::Pipeline;

/// How often a copy that a collector gave up is begun anew.
const ATTEMPTS: usize = 16;

/// How snapshots are copied.
#[derive(Debug, Clone)]
pub struct CopyOptions {
    /// Find out what would be copied, copy nothing.
    pub dry_run: bool,
    /// Bytes that everything together may use; see `docs/memory.md`.
    pub memory_budget: u64,
}

/// A snapshot in both repositories.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CopiedSnapshot {
    /// The one that was copied.
    pub source: SnapshotId,
    /// Its copy; `None` in a dry run, where there is none yet.
    pub copy: Option<SnapshotId>,
}

/// What a copy into several repositories did.
#[derive(Debug)]
pub struct Copies {
    /// For each target, in their order: what was done there, or why that was given up.
    pub targets: Vec<Result<CopySummary, OpsError>>,
    /// Files whose bytes were read, each once for however many targets.
    pub files_read: u64,
    /// Bytes of content that were read, and proven.
    pub bytes_read: u64,
    /// How long it took.
    pub elapsed: std::time::Duration,
}

/// What a copy did in one repository.
#[derive(Debug, Clone, Default)]
pub struct CopySummary {
    /// Snapshots that were copied, or would be in a dry run.
    pub copied: Vec<CopiedSnapshot>,
    /// Snapshots that the target had.
    pub known: Vec<CopiedSnapshot>,
    /// Snapshots that were not copied because something in them is damaged. Each thing was reported as a problem.
    pub damaged: Vec<SnapshotId>,
    /// Files whose bytes were read.
    pub files_read: u64,
    /// Bytes of content that were read, and proven.
    pub bytes_read: u64,
    /// Data blobs that the target did not have.
    pub data_blobs: u64,
    /// Tree blobs that the target did not have.
    pub tree_blobs: u64,
    /// Plaintext bytes of the new blobs.
    pub data_added: u64,
    /// Bytes that were added to the target.
    pub data_added_packed: u64,
    /// What a dry run found.
    pub plan: Option<CopyPlan>,
    /// How long it took.
    pub elapsed: std::time::Duration,
}

/// A snapshot and its name.
type Named = (SnapshotId, Snapshot);

/// How one snapshot went.
enum Run {
    Copied(SnapshotId),
    /// Somebody else has copied it meanwhile.
    Known(SnapshotId),
    Damaged,
    /// A collector gave the session up.
    Fenced,
}

/// Copies these snapshots of `source` into `target`, oldest first, each as a session of its own. A snapshot of which a
/// part cannot be read is named, with each file that it hits, and is not copied; the others are. To be called from a plain
/// thread: it waits for rayon's workers.
pub fn copy(
    source: &Repository,
    target: &Repository,
    snapshots: &[Named],
    options: &CopyOptions,
    monitor: &dyn Monitor,
) -> Result<CopySummary, OpsError> {
    copy_into(source, &[target], snapshots, options, monitor)?.targets.remove(0)
}

/// The same into several repositories in one pass: what more than one of them lacks is read once. A target that fails is
/// given up, and the others go on. An error means that the source cannot be read, or that somebody asked to stop.
pub fn copy_into(
    source: &Repository,
    targets: &[&Repository],
    snapshots: &[Named],
    options: &CopyOptions,
    monitor: &dyn Monitor,
) -> Result<Copies, OpsError> {
    if targets.len() > SIDES_MAX {
        let message = format!("at most {SIDES_MAX} repositories can be copied into at once");
        return Err(OpsError::Invalid(message));
    }
    let clock = &source.environment().clock;
    let began = clock.elapsed();
    let reading = source.register_reader(monitor);
    let result = run(source, targets, snapshots, options, monitor);
    source.note_mended(monitor);
    source.note_passed_over(monitor);
    source.end_reader(reading, monitor);
    let mut copies = result?;
    copies.elapsed = clock.elapsed().saturating_sub(began);
    for summary in copies.targets.iter_mut().flatten() {
        summary.elapsed = copies.elapsed;
    }
    Ok(copies)
}

/// Refuses a target that is the source, or that is named twice.
fn require_another(
    source: &Repository,
    before: &[&Repository],
    target: &Repository,
) -> Result<(), OpsError> {
    let other = [&source].into_iter().chain(before).find(|other| other.id() == target.id());
    let Some(other) = other else { return Ok(()) };
    Err(OpsError::Invalid(format!(
        "{} and {} hold the same repository, {}: nothing is copied into itself, or twice into one",
        other.store().location(),
        target.store().location(),
        target.id().short()
    )))
}

fn run(
    source: &Repository,
    targets: &[&Repository],
    snapshots: &[Named],
    options: &CopyOptions,
    monitor: &dyn Monitor,
) -> Result<Copies, OpsError> {
    for error in source.refresh_index(monitor)?.damaged {
        monitor.problem(Problem { item: error.item, during: "index", message: error.message });
    }
    let sources = source.snapshots(monitor)?.all;
    let mut snapshots: Vec<&Named> = snapshots.iter().collect();
    snapshots.sort_by_key(|(id, snapshot)| (snapshot.time, *id));
    snapshots.dedup_by_key(|(id, _)| *id);
    let reader = BlobReader::for_a_walk(source, options.memory_budget);
    let mut all = Vec::new();
    for (number, target) in targets.iter().enumerate() {
        let mut target = Target::new(target);
        let prepared = require_another(source, &targets[..number], target.repository)
            .and_then(|()| target.look(source, &snapshots, monitor));
        match prepared {
            Ok(()) if options.dry_run => {
                let planned = target.plan(source, &sources, &reader, monitor);
                target.take_error(planned)?;
            }
            prepared => target.take_error(prepared)?,
        }
        all.push(target);
    }
    let (files_read, bytes_read) = (AtomicU64::new(0), AtomicU64::new(0));
    if !options.dry_run {
        monitor.phase(Phase::Copy);
        let mut copier = Copier {
            source,
            sources: &sources,
            reader: &reader,
            options,
            monitor,
            files_read: &files_read,
            bytes_read: &bytes_read,
            targets: all,
        };
        for named in snapshots {
            copier.copy_one(named)?;
        }
        all = copier.targets;
    }
    let targets = all.into_iter().map(Target::finish).collect();
    let (files_read, bytes_read) = (files_read.into_inner(), bytes_read.into_inner());
    Ok(Copies { targets, files_read, bytes_read, elapsed: std::time::Duration::ZERO })
}

/// What a repository has, by where it comes from.
fn by_origin(
    repository: &Repository,
    snapshots: &[Named],
) -> HashMap<Origin, (SnapshotId, DirectoryRoot)> {
    let named = |(id, snapshot): &Named| {
        (snapshot.origin(repository.id(), *id), (*id, DirectoryRoot::of_snapshot(snapshot)))
    };
    snapshots.iter().map(named).collect()
}

/// A repository that is copied into, and how that went so far.
struct Target<'c> {
    repository: &'c Repository,
    /// The snapshots that it had, by where they come from.
    held: HashMap<Origin, (SnapshotId, DirectoryRoot)>,
    /// Those that it is to have.
    wanted: Vec<Named>,
    /// Where it says that its sessions are its own, so that they are ended when it is killed.
    journals: Option<PathBuf>,
    /// Those of runs that were killed.
    left: Vec<Left>,
    summary: CopySummary,
    /// Why it was given up.
    error: Option<OpsError>,
}

impl<'c> Target<'c> {
    fn new(repository: &'c Repository) -> Self {
        Target {
            repository,
            held: HashMap::new(),
            wanted: Vec::new(),
            journals: None,
            left: Vec::new(),
            summary: CopySummary::default(),
            error: None,
        }
    }

    /// Finds out which of these snapshots it lacks.
    fn look(
        &mut self,
        source: &Repository,
        snapshots: &[&Named],
        monitor: &dyn Monitor,
    ) -> Result<(), OpsError> {
        self.held = by_origin(self.repository, &self.repository.snapshots(monitor)?.all);
        for named in snapshots {
            match self.held.get(&named.1.origin(source.id(), named.0)) {
                Some((copy, _)) => {
                    let copy = Some(*copy);
                    self.summary.known.push(CopiedSnapshot { source: named.0, copy });
                }
                None => self.wanted.push((*named).clone()),
            }
        }
        self.journals = self.repository.journal_folder(&[source.id().to_string().into_bytes()]);
        self.left = self.journals.as_deref().map(journals::left).unwrap_or_default();
        Ok(())
    }

    /// What a dry run tells.
    fn plan(
        &mut self,
        source: &Repository,
        sources: &[Named],
        reader: &BlobReader<'_>,
        monitor: &dyn Monitor,
    ) -> Result<(), OpsError> {
        let is_held =
            |(id, snapshot): &&Named| self.held.contains_key(&snapshot.origin(source.id(), *id));
        let known: Vec<Named> = sources.iter().filter(is_held).cloned().collect();
        let plan = plan::plan(reader, self.repository, &known, &self.wanted, monitor)?;
        self.summary.plan = Some(plan);
        let planned = self.wanted.iter().map(|(id, _)| CopiedSnapshot { source: *id, copy: None });
        self.summary.copied.extend(planned);
        Ok(())
    }

    fn wants(&self, id: SnapshotId) -> bool {
        self.error.is_none() && self.wanted.iter().any(|(wanted, _)| *wanted == id)
    }

    /// Gives the target up after an error; a wish to stop is one for all.
    fn take_error(&mut self, result: Result<(), OpsError>) -> Result<(), OpsError> {
        match result {
            Err(OpsError::Interrupted) => Err(OpsError::Interrupted),
            Err(error) => {
                self.error.get_or_insert(error);
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    /// Counts how one snapshot went. `false`: it is to be begun anew.
    fn take_run(&mut self, source: SnapshotId, run: Run) -> bool {
        match run {
            Run::Copied(id) => {
                self.summary.copied.push(CopiedSnapshot { source, copy: Some(id) });
            }
            Run::Known(id) => self.summary.known.push(CopiedSnapshot { source, copy: Some(id) }),
            Run::Damaged => self.summary.damaged.push(source),
            Run::Fenced => return false,
        }
        true
    }

    fn finish(self) -> Result<CopySummary, OpsError> {
        if let Some(error) = self.error {
            return Err(error);
        }
        if self.summary.plan.is_none() {
            for left in self.left {
                // What it had stored is in the copies now, or never will be; undecided, it would only make collectors wait.
                let _ = self.repository.abort(left.session);
                left.remove();
            }
        }
        Ok(self.summary)
    }
}

/// A session in a target, for one snapshot.
struct Begun<'c> {
    /// The target's number.
    target: usize,
    writer: Writer<'c>,
    /// The target's snapshots, listed after registering: a reference that is there now stays until this session has
    /// decided.
    known: Vec<Named>,
    held: HashMap<Origin, (SnapshotId, DirectoryRoot)>,
    journal: Option<(PathBuf, File)>,
}

/// What copying one snapshot needs and changes.
struct Copier<'c> {
    source: &'c Repository,
    /// All snapshots of the source.
    sources: &'c [Named],
    /// Reads the source's directories.
    reader: &'c BlobReader<'c>,
    options: &'c CopyOptions,
    monitor: &'c dyn Monitor,
    files_read: &'c AtomicU64,
    bytes_read: &'c AtomicU64,
    targets: Vec<Target<'c>>,
}

impl<'c> Copier<'c> {
    /// Copies a snapshot into the targets that want it.
    fn copy_one(&mut self, named: &Named) -> Result<(), OpsError> {
        let wants = |number: &usize| self.targets[*number].wants(named.0);
        let mut pending: Vec<usize> = (0..self.targets.len()).filter(wants).collect();
        for _ in 0..ATTEMPTS {
            pending = self.try_copy(named, &pending)?;
            if pending.is_empty() {
                return Ok(());
            }
            self.monitor.note(
                "a collector gave this copy up while it ran; what is still there is kept, \
                 and the rest is stored again",
            );
        }
        for number in pending {
            let error = OpsError::Busy(format!(
                "collectors gave this copy up {ATTEMPTS} times; run it again, and give `prune` more patience"
            ));
            self.targets[number].take_error(Err(error))?;
        }
        Ok(())
    }

    /// Returns the targets in which a collector gave it up.
    fn try_copy(&mut self, named: &Named, pending: &[usize]) -> Result<Vec<usize>, OpsError> {
        let mut begun = Vec::new();
        for number in pending {
            match self.begin(named, *number) {
                Ok(Ok(one)) => begun.push(one),
                Ok(Err(copy)) => {
                    self.targets[*number].take_run(named.0, Run::Known(copy));
                }
                Err(error) => self.targets[*number].take_error(Err(error))?,
            }
        }
        let mut again = Vec::new();
        if begun.is_empty() {
            return Ok(again);
        }
        let runs = self.copy_as(named, &begun)?;
        for (begun, run) in begun.into_iter().zip(runs) {
            let target = &mut self.targets[begun.target];
            match run {
                Ok(run) => {
                    if let Some((path, _lock)) = begun.journal {
                        let _ = std::fs::remove_file(path);
                    }
                    if !target.take_run(named.0, run) {
                        again.push(begun.target);
                    }
                }
                Err(error) => target.take_error(Err(error))?,
            }
        }
        Ok(again)
    }

    /// Registers a session, unless the target has the snapshot by now.
    fn begin(
        &self,
        (id, snapshot): &Named,
        target: usize,
    ) -> Result<Result<Begun<'c>, SnapshotId>, OpsError> {
        let repository: &'c Repository = self.targets[target].repository;
        let journals = &self.targets[target].journals;
        let writer = Writer::begin(repository, false, self.monitor)?;
        let session = writer.session();
        let journal = journals.as_deref().and_then(|folder| journals::create(folder, session).ok());
        let known = repository.snapshots(&SilentMonitor)?.all;
        let held = by_origin(repository, &known);
        if let Some((copy, _)) = held.get(&snapshot.origin(self.source.id(), *id)) {
            repository.abort(session)?;
            if let Some((path, _lock)) = journal {
                let _ = std::fs::remove_file(path);
            }
            return Ok(Err(*copy));
        }
        Ok(Ok(Begun { target, writer, known, held, journal }))
    }

    /// Copies the snapshot in these sessions. How each of them went; an error is the source's.
    fn copy_as(
        &mut self,
        named: &Named,
        begun: &[Begun<'c>],
    ) -> Result<Vec<Result<Run, OpsError>>, OpsError> {
        let budget = self.options.memory_budget;
        let of_each = budget / begun.len() as u64;
        let copies: Vec<_> = begun
            .iter()
            .map(|one| BlobReader::for_a_walk(one.writer.repository(), of_each))
            .collect();
        let mut sides = Vec::new();
        for (one, copies) in begun.iter().zip(&copies) {
            let reference = self.reference(named, one, copies);
            let (reference, error) = match reference {
                Err(OpsError::Interrupted) => return Err(OpsError::Interrupted),
                Err(error) => (None, Some(error)),
                Ok(reference) => (reference, None),
            };
            let side = Side::new(&one.writer, copies, reference);
            error.into_iter().for_each(|error| side.fail(error));
            sides.push(side);
        }
        // In the walk's order, files that follow one another stand in the same few segments. Half as much again for what is
        // fetched ahead.
        let store = self.source.store();
        let fetches_ahead = store.connections().is_some() || store.is_disk();
        let ahead = if fetches_ahead { budget / 32 } else { 0 };
        let data = BlobReader::new(self.source, budget / 16 + ahead);
        let pipeline = Pipeline {
            snapshot: named.0.short(),
            sides,
            data: &data,
            trees: self.reader,
            zero_region: OnceLock::new(),
            files_read: self.files_read,
            bytes_read: self.bytes_read,
            monitor: self.monitor,
        };
        let segments = begun.iter().map(|one| one.writer.segments(ObjectKind::TreePack));
        let segments = segments.collect::<Result<_, _>>()?;
        let mut assembler = Assembler::new(segments, &pipeline);
        let root = DirectoryRoot::of_snapshot(&named.1);
        let walked = pipeline.run(root, &mut assembler);
        if let Err(error) = walked {
            if matches!(error, OpsError::Interrupted) {
                assembler.finish();
                for (one, side) in begun.iter().zip(&pipeline.sides) {
                    if !side.is_failed() && one.writer.finish().is_ok() {
                        let _ = one.writer.repository().abort(one.writer.session());
                    }
                }
            }
            return Err(error);
        }
        let roots = assembler.finish();
        let ends = begun.iter().zip(&pipeline.sides).zip(roots);
        Ok(ends.map(|((one, side), root)| self.commit(named, one, side, root)).collect())
    }

    /// The snapshot in both repositories that the walk goes beside, if it can be relied on.
    fn reference(
        &self,
        named: &Named,
        begun: &Begun<'_>,
        copies: &BlobReader<'_>,
    ) -> Result<Option<reference::Pair>, OpsError> {
        let writer = &begun.writer;
        let chosen = reference::choose(self.source.id(), named, self.sources, &begun.held);
        Ok(match chosen {
            Some(pair) if writer.trusts_parent() || is_complete(writer, copies, pair.copy)? => {
                Some(pair)
            }
            _ => None,
        })
    }

    /// Ends a session with the copy, when the walk went through.
    fn commit(
        &mut self,
        (id, snapshot): &Named,
        begun: &Begun<'_>,
        side: &Side<'_>,
        root: Option<DirectoryRoot>,
    ) -> Result<Run, OpsError> {
        let Begun { writer, known, held, .. } = begun;
        let (session, target) = (writer.session(), writer.repository());
        let summary = &mut self.targets[begun.target].summary;
        summary.files_read += side.files_read.load(Ordering::Relaxed);
        summary.bytes_read += side.bytes_read.load(Ordering::Relaxed);
        if let Some(error) = side.take_failure() {
            // Nobody is to wait for it; that this fails, too, changes nothing.
            let _ = target.abort(session);
            return Err(error);
        }
        writer.finish()?;
        let added = writer.added();
        summary.data_blobs += added.data_blobs;
        summary.tree_blobs += added.tree_blobs;
        summary.data_added += added.plain_bytes;
        summary.data_added_packed += added.stored_bytes;
        let is_damaged = side.damaged.load(Ordering::Relaxed) > 0;
        let Some(root) = root.filter(|_| !is_damaged) else {
            target.abort(session)?;
            return Ok(Run::Damaged);
        };
        let origin = snapshot.origin(self.source.id(), *id);
        let now = target.snapshots(&SilentMonitor)?.all;
        if let Some((copy, _)) = by_origin(target, &now).get(&origin) {
            target.abort(session)?;
            return Ok(Run::Known(*copy));
        }
        let copy_of = |other: SnapshotId| {
            let found = self.sources.iter().find(|(id, _)| *id == other);
            let found =
                found.and_then(|(id, other)| held.get(&other.origin(self.source.id(), *id)));
            found.map_or(other, |(copy, _)| *copy)
        };
        let copied = Snapshot {
            root: root.blob,
            height: root.height,
            parent: snapshot.parent.map(copy_of),
            predecessor: known.last().map(|(id, _)| target.slot_hash(*id)).transpose()?,
            // It stands for nothing here: the original's copy may be whole. Where it comes from tells the rest.
            repaired: None,
            copied: Some(origin),
            signature: None,
            ..snapshot.clone()
        };
        match target.commit(session, &Decision::Snapshot(Box::new(copied)))? {
            Committed::Snapshot(id) => Ok(Run::Copied(id)),
            Committed::Fenced => Ok(Run::Fenced),
        }
    }
}
