//! Copy: snapshots of one repository into another, under its keys.
//!
//! Chunks are taken as they are; blobs are named, compressed and sealed as the target's own, and what the target has is
//! not stored again. The walk goes through a snapshot beside an older one that both repositories have, the *reference*:
//! what did not change since is not read, because the reference's copy says what it is called there. So there is no table
//! from old names to new ones, and memory does not grow with the repository: the segments that readers keep, a batch of
//! entries for each worker, and what the writer holds. `docs/design/0011-replication.md`.

mod assemble;
mod content;
mod plan;
mod reference;
mod walk;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::format::header::ObjectKind;
use crate::format::snapshot::{Origin, Snapshot};
use crate::id::SnapshotId;
use crate::monitor::{Monitor, Phase, Problem, SilentMonitor};
use crate::ops::OpsError;
use crate::ops::complete::is_complete;
use crate::repository::Repository;
use crate::repository::journals;
use crate::repository::reader::BlobReader;
use crate::repository::session::Committed;
use crate::repository::writer::Writer;
use crate::view::DirectoryRoot;

use assemble::Assembler;
pub use plan::CopyPlan;
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

/// What a copy did.
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

/// What every part of a run counts.
#[derive(Default)]
struct Counters {
    files_read: AtomicU64,
    bytes_read: AtomicU64,
    damaged: AtomicU64,
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
    if source.id() == target.id() {
        return Err(OpsError::Invalid(format!(
            "{} and {} hold the same repository, {}: nothing is copied into itself",
            source.store().location(),
            target.store().location(),
            source.id().short()
        )));
    }
    let clock = &target.environment().clock;
    let began = clock.elapsed();
    let reading = source.register_reader(monitor);
    let result = run(source, target, snapshots, options, monitor);
    source.note_mended(monitor);
    source.end_reader(reading, monitor);
    let mut summary = result?;
    summary.elapsed = clock.elapsed().saturating_sub(began);
    Ok(summary)
}

fn run(
    source: &Repository,
    target: &Repository,
    snapshots: &[Named],
    options: &CopyOptions,
    monitor: &dyn Monitor,
) -> Result<CopySummary, OpsError> {
    for error in source.refresh_index(monitor)?.damaged {
        monitor.problem(Problem { item: error.item, during: "index", message: error.message });
    }
    let mut summary = CopySummary::default();
    let sources = source.snapshots(monitor)?.all;
    let held = by_origin(target, &target.snapshots(monitor)?.all);
    let mut wanted: Vec<&Named> = Vec::new();
    for named in snapshots {
        match held.get(&named.1.origin(source.id(), named.0)) {
            Some((copy, _)) => {
                summary.known.push(CopiedSnapshot { source: named.0, copy: Some(*copy) });
            }
            None => wanted.push(named),
        }
    }
    wanted.sort_by_key(|(id, snapshot)| (snapshot.time, *id));
    wanted.dedup_by_key(|(id, _)| *id);
    let reader = BlobReader::for_a_walk(source, options.memory_budget);
    if options.dry_run {
        let known = sources
            .iter()
            .filter(|(id, snapshot)| held.contains_key(&snapshot.origin(source.id(), *id)));
        let known: Vec<Named> = known.cloned().collect();
        let planned: Vec<Named> = wanted.iter().map(|named| (*named).clone()).collect();
        summary.plan = Some(plan::plan(&reader, target, &known, &planned, monitor)?);
        let planned = planned.iter().map(|(id, _)| CopiedSnapshot { source: *id, copy: None });
        summary.copied.extend(planned);
        return Ok(summary);
    }
    monitor.phase(Phase::Copy);
    let journals = target.journal_folder(&[source.id().to_string().into_bytes()]);
    let left = journals.as_deref().map(journals::left).unwrap_or_default();
    let counters = Counters::default();
    let mut copier = Copier {
        source,
        target,
        sources: &sources,
        reader: &reader,
        options,
        monitor,
        counters: &counters,
        journals,
        summary,
    };
    for named in wanted {
        copier.copy_one(named)?;
    }
    let mut summary = copier.summary;
    summary.files_read = counters.files_read.load(Ordering::Relaxed);
    summary.bytes_read = counters.bytes_read.load(Ordering::Relaxed);
    for left in left {
        // What it had stored is in the copies now, or never will be; undecided, it would only make collectors wait.
        let _ = target.abort(left.session);
        left.remove();
    }
    Ok(summary)
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

/// What copying one snapshot needs and changes.
struct Copier<'c> {
    source: &'c Repository,
    target: &'c Repository,
    /// All snapshots of the source.
    sources: &'c [Named],
    /// Reads the source's directories.
    reader: &'c BlobReader<'c>,
    options: &'c CopyOptions,
    monitor: &'c dyn Monitor,
    counters: &'c Counters,
    /// Where it says that its sessions are its own, so that they are ended when it is killed.
    journals: Option<PathBuf>,
    summary: CopySummary,
}

impl Copier<'_> {
    fn copy_one(&mut self, named: &Named) -> Result<(), OpsError> {
        for _ in 0..ATTEMPTS {
            let writer = Writer::begin(self.target, false, self.monitor)?;
            let folder = self.journals.as_deref();
            let journal = folder.and_then(|folder| journals::create(folder, writer.session()).ok());
            let run = self.copy_as(writer, named)?;
            if let Some((path, _lock)) = journal {
                let _ = std::fs::remove_file(path);
            }
            let source = named.0;
            match run {
                Run::Copied(id) => {
                    self.summary.copied.push(CopiedSnapshot { source, copy: Some(id) });
                }
                Run::Known(id) => {
                    self.summary.known.push(CopiedSnapshot { source, copy: Some(id) });
                }
                Run::Damaged => self.summary.damaged.push(source),
                Run::Fenced => {
                    self.monitor.note(
                        "a collector gave this copy up while it ran; what is still there is kept, \
                         and the rest is stored again",
                    );
                    continue;
                }
            }
            return Ok(());
        }
        Err(OpsError::Busy(format!(
            "collectors gave this copy up {ATTEMPTS} times; run it again, and give `prune` more patience"
        )))
    }

    fn copy_as(&mut self, writer: Writer<'_>, named: &Named) -> Result<Run, OpsError> {
        let (id, snapshot) = named;
        let (session, target) = (writer.session(), self.target);
        let origin = snapshot.origin(self.source.id(), *id);
        // Listed after registering: a reference that is there now stays until this session has decided.
        let known = target.snapshots(&SilentMonitor)?.all;
        let held = by_origin(target, &known);
        if let Some((copy, _)) = held.get(&origin) {
            target.abort(session)?;
            return Ok(Run::Known(*copy));
        }
        let budget = self.options.memory_budget;
        let copies = BlobReader::for_a_walk(target, budget);
        let reference = match reference::choose(self.source.id(), named, self.sources, &held) {
            Some(pair) if writer.trusts_parent() || is_complete(&writer, &copies, pair.copy)? => {
                Some(pair)
            }
            _ => None,
        };
        let damaged_before = self.counters.damaged.load(Ordering::Relaxed);
        // In the walk's order, files that follow one another stand in the same few segments. From far away, half as much
        // again for what is fetched ahead.
        let ahead = if self.source.store().connections().is_some() { budget / 32 } else { 0 };
        let data = BlobReader::new(self.source, budget / 16 + ahead);
        let pipeline = Pipeline {
            snapshot: id.short(),
            writer: &writer,
            data: &data,
            trees: self.reader,
            copies: &copies,
            zero_regions: [OnceLock::new(), OnceLock::new()],
            counters: self.counters,
            monitor: self.monitor,
        };
        let mut assembler = Assembler::new(writer.segments(ObjectKind::TreePack)?, &pipeline);
        let root = DirectoryRoot::of_snapshot(snapshot);
        let walked = pipeline.run(root, reference, &mut assembler);
        if let Err(error) = walked {
            if matches!(error, OpsError::Interrupted) {
                let kept = assembler.finish().is_ok() && writer.finish().is_ok();
                if kept {
                    let _ = target.abort(session);
                }
            }
            return Err(error);
        }
        let root = assembler.finish()?;
        writer.finish()?;
        let added = writer.added();
        self.summary.data_blobs += added.data_blobs;
        self.summary.tree_blobs += added.tree_blobs;
        self.summary.data_added += added.plain_bytes;
        self.summary.data_added_packed += added.stored_bytes;
        let is_damaged = self.counters.damaged.load(Ordering::Relaxed) > damaged_before;
        let Some(root) = root.filter(|_| !is_damaged) else {
            target.abort(session)?;
            return Ok(Run::Damaged);
        };
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
        match writer.commit(copied)? {
            Committed::Snapshot(id) => Ok(Run::Copied(id)),
            Committed::Fenced => Ok(Run::Fenced),
        }
    }
}
