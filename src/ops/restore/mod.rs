//! Restore: a snapshot, or a part of it, into a folder.

mod content;
mod order;
mod plan;
mod region;
mod work;

use std::path::Path;

use crate::format::snapshot::Snapshot;
use crate::id::{PackId, SnapshotId};
use crate::monitor::{Monitor, Phase, Problem};
use crate::ops::OpsError;
use crate::ops::quiet::Quiet;
use crate::repository::Repository;
use crate::repository::look::Look;
use crate::repository::reader::BlobReader;
use crate::target::files::FilesTarget;
use crate::tree::filter::{ExcludeFilter, IncludeFilter};
use crate::tree::path::TreePath;
use crate::view::find_path;

use plan::Planner;
use work::{Work, threads_for};

/// What happens to a file that is already in the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Overwrite {
    /// Compare its content with the snapshot's, and write what differs.
    #[default]
    Always,
    /// Leave it when size and modification time agree; else as `Always`.
    IfChanged,
    /// Leave it unless the snapshot's modification time is later.
    IfNewer,
    /// Leave it.
    Never,
}

/// What to restore, and how.
#[derive(Clone)]
pub struct RestoreOptions {
    /// The part of the snapshot whose contents go into the target; the root for all of it. A file, or any
    /// entry that is no directory, goes into the target under its own name.
    pub subtree: TreePath,
    /// Only what matches, by path in the snapshot. `IncludeFilter::new(&[])` lets everything through.
    pub include: IncludeFilter,
    /// Not what matches, by path in the snapshot.
    pub exclude: ExcludeFilter,
    /// What happens to files that are already there.
    pub overwrite: Overwrite,
    /// Remove from restored directories what the snapshot does not have.
    pub delete: bool,
    /// Tell what would be done, do nothing.
    pub dry_run: bool,
    /// Write runs of zeros as holes, whether they were holes or not.
    pub sparse: bool,
    /// Read everything again after it was written, and compare.
    pub verify: bool,
    /// Bytes that everything together may use.
    pub memory_budget: u64,
}

/// What a restore did, or would do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RestoreSummary {
    /// Entries in the part that was asked for.
    pub total_entries: u64,
    /// Files among them.
    pub total_files: u64,
    /// Bytes of content among them.
    pub total_bytes: u64,
    /// Files written anew or changed.
    pub files_restored: u64,
    /// Files that were already as wanted.
    pub files_unchanged: u64,
    /// Files left as they were because of the overwrite rule.
    pub files_skipped: u64,
    /// Entries removed because the snapshot does not have them.
    pub files_deleted: u64,
    /// Bytes of content written.
    pub bytes_written: u64,
    /// Bytes of content that were already there.
    pub bytes_unchanged: u64,
    /// Pieces of metadata that could not be restored (each was reported as a problem).
    pub metadata_failed: u64,
    /// Entries that could not be restored (each was reported as a problem).
    pub entries_failed: u64,
    /// Files whose content was read again and found right.
    pub files_verified: u64,
    /// The packs of a cold store that are read for it, in order: of a dry run, and of one before which they were thawed.
    pub cold_packs: Vec<PackId>,
    /// Objects that a store had not, or damaged, and that were read from another one.
    pub read_elsewhere: u64,
    /// How long it took.
    pub elapsed: std::time::Duration,
}

/// Restores a snapshot into the folder `target`, which is made when it is not there.
///
/// The snapshot is planned in windows, and while one is written the next is planned. A window's files are sorted by the
/// segments that they are read from, so that each is fetched and opened once where there is room for it until then.
/// Memory: two windows (at most 32 768 entries and the chunk lists of 512 MiB each), a sixth of the budget for opened
/// segments of files, or for more than four threads 11 of 256 parts for each and 112 at most, and a sixteenth for those of trees.
///
/// The target folder itself keeps the owner, mode and times it has, unless this run made it: it may be
/// somebody's home, or `/tmp`.
pub fn restore(
    repository: &Repository,
    snapshot: &(SnapshotId, Snapshot),
    target: &Path,
    options: &RestoreOptions,
    monitor: &dyn Monitor,
) -> Result<RestoreSummary, OpsError> {
    let start = repository.environment().clock.elapsed();
    let (session, look) = repository.register_reader_and_look(monitor);
    let loaded = report_damaged_indexes(repository, look, monitor);
    let thawed = loaded.and_then(|()| thaw(repository, &snapshot.1, target, options, monitor));
    let result = thawed.and_then(|thawed| {
        let mut summary = run(repository, &snapshot.1, target, options, monitor)?;
        summary.cold_packs.extend(thawed);
        Ok(summary)
    });
    repository.note_mended(monitor);
    let read_elsewhere = repository.note_passed_over(monitor);
    repository.end_reader(session, monitor);
    let mut summary = result?;
    summary.read_elsewhere = read_elsewhere;
    summary.elapsed = repository.environment().clock.elapsed().saturating_sub(start);
    Ok(summary)
}

/// Where packs are thawed before they are read: finds out which will be, has it done, and returns them. What a dry run tells
/// is what is read.
fn thaw(
    repository: &Repository,
    snapshot: &Snapshot,
    target: &Path,
    options: &RestoreOptions,
    monitor: &dyn Monitor,
) -> Result<Vec<PackId>, OpsError> {
    if options.dry_run || !repository.thaws() {
        return Ok(Vec::new());
    }
    let looking = RestoreOptions { dry_run: true, ..options.clone() };
    let found = run(repository, snapshot, target, &looking, &Quiet(monitor))?;
    repository.thaw(&found.cold_packs)?;
    Ok(found.cold_packs)
}

fn run(
    repository: &Repository,
    snapshot: &Snapshot,
    target: &Path,
    options: &RestoreOptions,
    monitor: &dyn Monitor,
) -> Result<RestoreSummary, OpsError> {
    monitor.phase(Phase::Plan);
    let trees = BlobReader::new(repository, options.memory_budget / 16);
    let threads = threads_for(repository);
    let data = BlobReader::new(repository, opened_budget(options.memory_budget, threads));
    let Some(found) = find_path(&trees, snapshot, &options.subtree)? else {
        let message = format!("the snapshot has no {}", options.subtree);
        return Err(OpsError::Invalid(message));
    };
    let files = match options.dry_run {
        true => FilesTarget::look(target)?,
        false => FilesTarget::create(target)?,
    };
    let work = Work::new(&trees, &data, &files, options, monitor, threads);
    let mut planner = Planner::new(&work, found);
    let mut window = planner.next_window();
    monitor.phase(Phase::Restore);
    while !window.is_empty() && !work.is_stopped() {
        let next = std::thread::scope(|scope| {
            let writing = scope.spawn(|| work.write(window));
            let next = planner.next_window();
            if let Err(panic) = writing.join() {
                std::panic::resume_unwind(panic);
            }
            next
        });
        window = next;
    }
    work.finish()
}

/// Bytes of opened segments of files: of 256 MiB, eleven for each thread, which reads at its own place, but 44 at least and 112 at
/// most. With 44 for sixteen threads up to nearly four times as much is opened as is needed ("Threads" in `docs/benchmarks.md`).
fn opened_budget(memory_budget: u64, threads: usize) -> u64 {
    memory_budget / 256 * (11 * threads as u64).clamp(44, 112)
}

/// Brings the index up to date. What only a damaged index object lists is still found in the packs.
fn report_damaged_indexes(
    repository: &Repository,
    look: Option<Look>,
    monitor: &dyn Monitor,
) -> Result<(), OpsError> {
    for error in repository.refresh_index_by(look, monitor)?.damaged {
        monitor.problem(Problem { item: error.item, during: "index", message: error.message });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_thread_has_room_for_what_it_opens_within_bounds() {
        for (threads, mib) in [(1, 44), (2, 44), (4, 44), (5, 55), (8, 88), (10, 110), (16, 112)] {
            assert_eq!(opened_budget(256 << 20, threads), mib << 20, "{threads} threads");
        }
    }
}
