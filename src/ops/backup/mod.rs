//! Back up: a source into a snapshot.
//!
//! The walk runs on the calling thread and compares every entry with the parent. What must be read goes in
//! batches to workers on rayon, which read, cut, name, compress and seal on one core while the bytes are in
//! its cache. The results go, in the walk's order, to a thread that builds the directories. Memory: a batch of
//! at most a megabyte for each worker, and what the writer holds (see `repository::writer`).

mod assemble;
mod content;
mod journal;
mod old;
mod parent;
mod pipeline;

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::codec::chunker::Chunker;
use crate::format::header::ObjectKind;
use crate::format::snapshot::{BackupCounts, Snapshot};
use crate::id::SnapshotId;
use crate::monitor::{Monitor, Phase, Problem, Progress};
use crate::ops::OpsError;
use crate::ops::complete::is_complete;
use crate::repository::Repository;
use crate::repository::error::{Kind, RepositoryError};
use crate::repository::reader::BlobReader;
use crate::repository::session::Committed;
use crate::repository::writer::Writer;
use crate::source::Source;
use crate::tree::path::TreePath;
use crate::units::Timestamp;
use crate::view::{DirectoryRoot, find_below};

use assemble::Assembler;
use content::Cutting;
use journal::{Journal, Resumed};
use parent::ParentWalk;
use pipeline::Pipeline;

/// How a file is found unchanged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ChangeDetection {
    /// Do not compare change times (for file systems that do not keep them).
    pub ignore_ctime: bool,
    /// Do not compare inode and device numbers (for file systems that make them up).
    pub ignore_inode: bool,
    /// Read every file, whatever its times say.
    pub force: bool,
}

/// When new chunks of changed files are compressed against the old ones in their place, which have to be read for it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Deltas {
    /// When the store is a disk, and all of it: not with a cold store.
    #[default]
    Auto,
    /// Whatever reading costs.
    Always,
    /// Not at all: every blob can be read without another.
    Never,
}

/// What to back up beside the source, and how.
pub struct BackupOptions {
    /// Take unchanged files from this snapshot; `None`: from the newest of the same host and name, or where
    /// there is none from the newest of the same host and paths.
    pub parent: Option<SnapshotId>,
    /// How a file is found unchanged.
    pub detection: ChangeDetection,
    /// The host to record.
    pub host: String,
    /// The user to record.
    pub user: String,
    /// The name of what is saved, to record; empty: none.
    pub name: String,
    /// Tags to record.
    pub tags: Vec<String>,
    /// The time to record; `None`: when the backup began.
    pub time: Option<Timestamp>,
    /// Offset of the user's time zone in seconds east of UTC.
    pub zone_offset_seconds: i32,
    /// When deltas are made.
    pub deltas: Deltas,
    /// Find out what would be stored, store nothing.
    pub dry_run: bool,
    /// Make no snapshot when nothing differs from the parent.
    pub skip_if_unchanged: bool,
    /// Name and version of the program, to record.
    pub program: String,
    /// Bytes that everything together may use; see `docs/memory.md`.
    pub memory_budget: u64,
}

/// What a backup did.
#[derive(Debug, Clone)]
pub struct BackupSummary {
    /// The snapshot; `None` for a dry run, and when nothing had changed and that was asked to be skipped.
    pub snapshot: Option<SnapshotId>,
    /// The parent that was used.
    pub parent: Option<SnapshotId>,
    /// What it did, in numbers. `problems` above 0: some files could not be read.
    pub counts: BackupCounts,
    /// When it began.
    pub start: Timestamp,
    /// When it ended.
    pub end: Timestamp,
    /// How long it took.
    pub elapsed: std::time::Duration,
    /// Nothing had changed, and no snapshot was made.
    pub skipped: bool,
    /// How many objects it made of content and index, or, as a dry run, would make: a request to write each. A
    /// registration and a snapshot come on top.
    pub objects_written: u64,
}

/// Passes everything on, and counts the problems.
struct ProblemCounter<'a> {
    monitor: &'a dyn Monitor,
    problems: AtomicU64,
}

impl Monitor for ProblemCounter<'_> {
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
        self.problems.fetch_add(1, Ordering::Relaxed);
        self.monitor.problem(problem);
    }

    fn note(&self, text: &str) {
        self.monitor.note(text);
    }

    fn interrupted(&self) -> bool {
        self.monitor.interrupted()
    }
}

/// What a run that a collector gave up had come to.
struct Given {
    root: DirectoryRoot,
    counts: BackupCounts,
}

/// How a run ended.
enum Run {
    Done(Box<BackupSummary>),
    /// A collector gave the session up, after everything was stored: another run commits it.
    Fenced(Given),
}

/// How often a backup that a collector gave up is committed anew before it is left to the next one.
const ATTEMPTS: usize = 16;

/// Whether new chunks of changed files are compressed against the old ones.
fn wants_deltas(repository: &Repository, options: &BackupOptions) -> bool {
    match options.deltas {
        Deltas::Always => true,
        // What is in a cold store is not read for them.
        Deltas::Auto => repository.store().lists_cheaply() && !repository.store().is_tiered(),
        Deltas::Never => false,
    }
}

/// Backs up everything that `source` tells into one snapshot. To be called from a plain thread: it waits for
/// rayon's workers, so a worker that called it could wait for itself.
///
/// When a collector has given the run up, it registers anew and commits again: at once if everything it stored
/// or referred to is still there, else after another walk that reads only what is gone.
pub fn backup(
    repository: &Repository,
    source: &mut dyn Source,
    options: &BackupOptions,
    monitor: &dyn Monitor,
) -> Result<BackupSummary, OpsError> {
    let counter = ProblemCounter { monitor, problems: AtomicU64::new(0) };
    let mut given = None;
    for _ in 0..ATTEMPTS {
        match run(repository, source, options, given.as_ref(), &counter)? {
            Run::Done(summary) => return Ok(*summary),
            Run::Fenced(fenced) => {
                counter.note(
                    "a collector gave this backup up while it ran; what is still there is kept, and \
                     the rest is stored again",
                );
                given = Some(fenced);
            }
        }
    }
    Err(OpsError::Busy(format!(
        "collectors gave this backup up {ATTEMPTS} times; run it again, and give `prune` more patience"
    )))
}

fn run(
    repository: &Repository,
    source: &mut dyn Source,
    options: &BackupOptions,
    given: Option<&Given>,
    counter: &ProblemCounter<'_>,
) -> Result<Run, OpsError> {
    let monitor: &dyn Monitor = counter;
    let environment = repository.environment();
    let start = environment.clock.now();
    let began = environment.clock.elapsed();
    let (writer, known) = Writer::begin_backup(repository, options.dry_run, monitor)?;
    let known = known.all;
    let paths = source.paths();
    let parent = choose_parent(&known, options, &paths)?;
    let reader = BlobReader::beside_a_writer(repository, options.memory_budget);
    // Two segments for each worker, where there are many.
    let wanted =
        2 * rayon::current_num_threads() as u64 * u64::from(repository.settings().segment_length);
    let (least, most) = (options.memory_budget / 16, options.memory_budget / 4);
    let bases = BlobReader::new(repository, wanted.clamp(least, most));
    let journals = repository.journal_folder(&paths);
    let resumed = Resumed::load(journals.as_deref());
    let journal = journals
        .filter(|_| !options.dry_run)
        .and_then(|folder| Journal::begin(&folder, writer.session()));

    let still_there = match given {
        Some(given) => is_complete(&writer, &reader, given.root)?,
        None => false,
    };
    let (root, mut counts, journal) = match given {
        Some(given) if still_there => (given.root, given.counts, journal),
        _ => {
            if given.is_some() && !source.restart() {
                return Err(OpsError::Invalid(
                    "a collector gave this backup up, what it counted on is gone, and its source can be \
                     read only once: run it again"
                        .into(),
                ));
            }
            monitor.phase(Phase::Backup);
            if let Some((_, parent)) = parent {
                monitor.expect(Progress {
                    files: parent.counts.total_files_processed,
                    bytes: parent.counts.total_bytes_processed,
                });
            }
            let chunker = Chunker::new(repository.chunker_params(), repository.chunker_secret());
            let naming = repository.naming();
            let zero_region = OnceLock::new();
            let cutting = Cutting { chunker: &chunker, naming, zero_region: &zero_region, monitor };
            let trees = writer.segments(ObjectKind::TreePack)?;
            let mut assembler = Assembler::new(trees, &cutting, journal);
            // What a run that was given up has read is newer than the parent, and less certain to be there.
            let root = match given {
                Some(given) => Some(given.root),
                None => parent.map(|(_, parent)| DirectoryRoot::of_snapshot(parent)),
            };
            let pipeline = Pipeline {
                writer: &writer,
                cutting: &cutting,
                resumed: &resumed,
                reader: &reader,
                bases: wants_deltas(repository, options).then_some(&bases),
                detection: options.detection,
                trusts_parent: writer.trusts_parent() && given.is_none(),
            };
            let walked = pipeline.run(source, ParentWalk::new(&reader, root), &mut assembler);
            if let Err(error) = walked {
                assembler.flush_journal();
                if matches!(error, OpsError::Interrupted) {
                    keep_what_is_done(&writer, assembler);
                }
                return Err(error);
            }
            let counts = assembler.counts;
            let (root, journal) = assembler.finish()?;
            let root = root.ok_or_else(|| OpsError::Invalid("the source told no root".into()))?;
            (root, given.map_or(counts, |given| given.counts), journal)
        }
    };
    repository.note_mended(monitor);

    writer.finish()?;
    let skipped = options.skip_if_unchanged
        && !options.dry_run
        && match parent {
            Some((_, parent)) => {
                parent.name == options.name
                    && parent.paths == paths
                    && is_unchanged(repository, parent, root, &paths)?
            }
            None => false,
        };
    let added = writer.added();
    counts.problems = counter.problems.load(Ordering::Relaxed);
    counts.data_blobs += added.data_blobs;
    counts.tree_blobs += added.tree_blobs;
    counts.data_added += added.plain_bytes;
    counts.data_added_packed += added.stored_bytes;
    let end = environment.clock.now();
    let snapshot = if options.dry_run {
        None
    } else if skipped {
        repository.abort(writer.session())?;
        None
    } else {
        let snapshot = Snapshot {
            root: root.blob,
            height: root.height,
            time: options.time.unwrap_or(start),
            zone_offset_seconds: options.zone_offset_seconds,
            end_time: end,
            host: options.host.clone(),
            user: options.user.clone(),
            paths,
            tags: options.tags.clone(),
            name: options.name.clone(),
            parent: parent.map(|(id, _)| *id),
            program: options.program.clone(),
            counts,
            predecessor: known.last().map(|(id, _)| repository.slot_hash(*id)).transpose()?,
            repaired: None,
            copied: None,
            signature: None,
        };
        match writer.commit(snapshot)? {
            Committed::Snapshot(id) => Some(id),
            Committed::Fenced => return Ok(Run::Fenced(Given { root, counts })),
        }
    };
    if !options.dry_run {
        if let Some(journal) = journal {
            journal.finish();
        }
        for session in resumed.sessions() {
            // What they had stored is this backup's now; undecided, they would only make collectors wait.
            let _ = repository.abort(session);
        }
        resumed.finish();
    }
    Ok(Run::Done(Box::new(BackupSummary {
        snapshot,
        parent: parent.map(|(id, _)| *id),
        counts,
        start,
        end,
        elapsed: environment.clock.elapsed().saturating_sub(began),
        skipped,
        objects_written: added.objects,
    })))
}

/// The snapshot that unchanged files are taken from: the one asked for, else the newest of the same host and
/// name, else the newest of the same host and sources.
fn choose_parent<'s>(
    known: &'s [(SnapshotId, Snapshot)],
    options: &BackupOptions,
    paths: &[Vec<u8>],
) -> Result<Option<&'s (SnapshotId, Snapshot)>, OpsError> {
    if let Some(wanted) = options.parent {
        let found = known.iter().find(|(id, _)| *id == wanted);
        return match found {
            Some(found) => Ok(Some(found)),
            None => Err(OpsError::Repository(RepositoryError::new(
                Kind::NotFound,
                format!("snapshot {}", wanted.short()),
                "is not in the repository, so it cannot be the parent",
            ))),
        };
    }
    let newest = |fits: &dyn Fn(&Snapshot) -> bool| {
        known.iter().rev().find(|(_, snapshot)| snapshot.host == options.host && fits(snapshot))
    };
    let named = match options.name.is_empty() {
        true => None,
        false => newest(&|snapshot| snapshot.name == options.name),
    };
    Ok(named.or_else(|| newest(&|snapshot| snapshot.paths == paths)))
}

/// Whether the named sources are what they were in the parent. The directories above them do not count: a new
/// file beside a source changes their times.
fn is_unchanged(
    repository: &Repository,
    parent: &Snapshot,
    root: DirectoryRoot,
    paths: &[Vec<u8>],
) -> Result<bool, OpsError> {
    let before = DirectoryRoot::of_snapshot(parent);
    if before == root {
        return Ok(true);
    }
    let reader = BlobReader::new(repository, 16 << 20);
    for path in paths {
        let path = TreePath::parse(path).map_err(|error| OpsError::Invalid(error.to_string()))?;
        if find_below(&reader, before, &path)? != find_below(&reader, root, &path)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// After an interruption: what was read is uploaded and indexed, so that the next run finds it. Failing costs
/// that run time, nothing else.
fn keep_what_is_done(writer: &Writer<'_>, assembler: Assembler<'_, '_>) {
    let kept = assembler.finish().is_ok() && writer.finish().is_ok();
    if kept {
        let _ = writer.repository().abort(writer.session());
    }
}
