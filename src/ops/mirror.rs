//! Mirror: a repository's objects, byte for byte, in a second store.
//!
//! Each is proven before it is stored, in an order in which the second store is a whole repository at every moment
//! (`repository::replica`). Nothing that is there is ever written over. Memory: 150 bytes an object of each store, and for
//! each thread three times the largest object.

use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use crate::id::PackId;
use crate::monitor::{Monitor, Phase, Problem, Progress};
use crate::ops::OpsError;
use crate::ops::threads::run_threads;
use crate::repository::Repository;
use crate::repository::replica::{CLASSES, Class, Comparison, Mirrored, Object, Replica};

/// Objects on their way at a time.
const THREADS: usize = 4;
/// Bytes of memory for each byte of an object that is on its way.
const BUFFERS: u64 = 3;

/// How a mirror is made.
#[derive(Debug, Clone)]
pub struct MirrorOptions {
    /// Read what both have, and compare every byte.
    pub verify: bool,
    /// Delete what the repository has no more and has let go. Keys are not deleted.
    pub delete: bool,
    /// Find out what would be done, do nothing.
    pub dry_run: bool,
    /// Bytes that everything together may use; see `docs/memory.md`.
    pub memory_budget: u64,
}

/// What a mirror did, or in a dry run would do.
#[derive(Debug, Clone, Default)]
pub struct MirrorSummary {
    /// Objects that were copied.
    pub objects_copied: u64,
    /// Their bytes.
    pub bytes_copied: u64,
    /// Some of them: packs that were damaged, and that parity mended on the way.
    pub mended: Vec<String>,
    /// Objects that were there already.
    pub objects_known: u64,
    /// Some of them, of which every byte was compared.
    pub objects_verified: u64,
    /// Objects of the repository that are damaged, and were not copied.
    pub damaged: Vec<String>,
    /// Objects that hold something else in the second store, and were left.
    pub differing: Vec<String>,
    /// Objects that were listed, and that were taken away before they were read.
    pub objects_gone: u64,
    /// Objects that were deleted.
    pub objects_deleted: u64,
    /// Their bytes.
    pub bytes_deleted: u64,
    /// Objects that the repository has let go, and that were not deleted.
    pub objects_let_go: u64,
    /// Their bytes.
    pub bytes_let_go: u64,
    /// Other objects that the repository has not.
    pub objects_extra: u64,
    /// Requests that change the second store.
    pub write_requests: u64,
    /// How long it took.
    pub elapsed: std::time::Duration,
}

impl MirrorSummary {
    /// Whether the second store has everything that the repository has. What was taken away meanwhile it has no more.
    pub fn is_whole(&self) -> bool {
        self.damaged.is_empty() && self.differing.is_empty()
    }
}

/// Brings a replica up to date. To be called from a plain thread.
pub fn mirror(
    repository: &Repository,
    replica: &Replica<'_>,
    options: &MirrorOptions,
    monitor: &dyn Monitor,
) -> Result<MirrorSummary, OpsError> {
    let clock = &repository.environment().clock;
    let began = clock.elapsed();
    let session = repository.register_reader(monitor);
    let result = run(repository, replica, options, monitor);
    repository.end_reader(session, monitor);
    let mut summary = result?;
    summary.elapsed = clock.elapsed().saturating_sub(began);
    Ok(summary)
}

fn run(
    repository: &Repository,
    replica: &Replica<'_>,
    options: &MirrorOptions,
    monitor: &dyn Monitor,
) -> Result<MirrorSummary, OpsError> {
    monitor.phase(Phase::Plan);
    let found = replica.compare(monitor)?;
    // What a collector took away while it was listed looks as if it had never been here.
    if found.foreign.is_some() && !replica.is_current(&found)? {
        return Err(overtaken());
    }
    replica.require_unwritten(&found)?;
    let mut summary = MirrorSummary {
        objects_known: (found.common.len() + found.differing.len()) as u64,
        objects_extra: found.extra.len() as u64,
        ..MirrorSummary::default()
    };
    let mut wanted: Vec<&Object> = found.missing.values().flatten().collect();
    if options.verify {
        wanted.extend(&found.common);
    }
    let total: u64 = wanted.iter().map(|object| object.bytes).sum();
    let largest = wanted.iter().map(|object| object.bytes).max().unwrap_or(0);
    monitor.phase(Phase::Mirror);
    monitor.expect(Progress { files: wanted.len() as u64, bytes: total });
    let affordable = options.memory_budget / 2 / (BUFFERS * largest).max(1);
    let threads = repository.threads(THREADS.min(affordable.max(1) as usize));
    let mirroring =
        Mirroring { replica, monitor, summary: Mutex::new(std::mem::take(&mut summary)) };
    for (object, length) in &found.differing {
        mirroring.take(object, replica.differing(object, *length)?);
    }
    if options.dry_run {
        return Ok(planned(&found, options, mirroring.summary.into_inner()));
    }
    if repository.thaws() {
        let packs: Vec<PackId> = wanted.iter().filter_map(|object| object.pack()).collect();
        repository.thaw(&repository.cold_among(&packs)?)?;
    }
    for class in CLASSES {
        // One class after another: a failure ends it before anything that builds on what is missing.
        if class == Class::Updates && !replica.is_current(&found)? {
            return Err(overtaken());
        }
        let objects = found.missing.get(&class).map_or(&[][..], Vec::as_slice);
        let threads = if class.is_ordered() { 1 } else { threads };
        mirroring.for_each(threads, objects, |object| match replica.copy(object)? {
            Mirrored::Gone if class.is_needed() => Err(OpsError::Busy(format!(
                "{} was merged or collected while this mirror ran; what was copied stays: run it again",
                object.name
            ))),
            done => Ok(Some(done)),
        })?;
    }
    if options.verify {
        mirroring.for_each(threads, &found.common, |object| {
            let wrong = replica.verify(object)?;
            mirroring.summary.lock().objects_verified += u64::from(wrong.is_none());
            Ok(wrong)
        })?;
    }
    let mut summary = mirroring.summary.into_inner();
    let may_delete = options.delete && summary.is_whole();
    if options.delete && !may_delete {
        monitor.note("nothing was deleted, because not everything could be copied");
    }
    for object in &found.let_go {
        if monitor.interrupted() {
            return Err(OpsError::Interrupted);
        }
        if may_delete && replica.delete(object)? {
            summary.objects_deleted += 1;
            summary.bytes_deleted += object.bytes;
            summary.write_requests += 1;
        } else {
            summary.objects_let_go += 1;
            summary.bytes_let_go += object.bytes;
        }
    }
    if found.extra.iter().any(Object::is_key_slot) {
        monitor.note(&format!(
            "keys that this repository has no more still open the mirror; `aumbry -r {} key remove` takes them away \
             there, too",
            replica.location()
        ));
    }
    Ok(summary)
}

fn overtaken() -> OpsError {
    OpsError::Busy(
        "a collector gave this mirror up while it ran; what was copied stays: run it again, and give `prune` more \
         patience"
            .into(),
    )
}

/// What a dry run tells.
fn planned(
    found: &Comparison,
    options: &MirrorOptions,
    mut summary: MirrorSummary,
) -> MirrorSummary {
    for object in found.missing.values().flatten() {
        summary.objects_copied += 1;
        summary.bytes_copied += object.bytes;
        summary.write_requests += 1;
    }
    for object in &found.let_go {
        if options.delete {
            summary.objects_deleted += 1;
            summary.bytes_deleted += object.bytes;
            summary.write_requests += 1;
        } else {
            summary.objects_let_go += 1;
            summary.bytes_let_go += object.bytes;
        }
    }
    summary
}

/// What the threads share.
struct Mirroring<'m, 'a> {
    replica: &'m Replica<'a>,
    monitor: &'m dyn Monitor,
    summary: Mutex<MirrorSummary>,
}

impl Mirroring<'_, '_> {
    /// Does something with each of these objects, several at a time.
    fn for_each(
        &self,
        threads: usize,
        objects: &[Object],
        work: impl Fn(&Object) -> Result<Option<Mirrored>, OpsError> + Sync,
    ) -> Result<(), OpsError> {
        let next = AtomicUsize::new(0);
        let failed = AtomicUsize::new(0);
        run_threads(threads.min(objects.len().max(1)), "copies objects", &|| {
            while let Some(object) = objects.get(next.fetch_add(1, Ordering::Relaxed)) {
                if self.monitor.interrupted() {
                    return Err(OpsError::Interrupted);
                }
                if failed.load(Ordering::Relaxed) > 0 {
                    return Ok(());
                }
                self.monitor.current(&object.name);
                let done = work(object).inspect_err(|_| {
                    failed.store(1, Ordering::Relaxed);
                })?;
                if let Some(done) = done {
                    self.take(object, done);
                }
                self.monitor.advance(Progress { files: 1, bytes: object.bytes });
            }
            Ok(())
        })
    }

    fn take(&self, object: &Object, done: Mirrored) {
        let name = object.name.clone();
        let mut summary = self.summary.lock();
        let message = match done {
            Mirrored::Copied(bytes) | Mirrored::Mended(bytes) => {
                summary.objects_copied += 1;
                summary.write_requests += 1;
                summary.bytes_copied += bytes;
                if let Mirrored::Mended(_) = done {
                    let text = format!("{name} is damaged; what parity made of it was copied");
                    self.monitor.note(&text);
                    summary.mended.push(name);
                }
                return;
            }
            Mirrored::Gone => {
                summary.objects_gone += 1;
                self.monitor.note(&format!("{name} was taken away since it was listed"));
                return;
            }
            Mirrored::Damaged(message) => {
                summary.damaged.push(name.clone());
                format!("{message}; it was not copied")
            }
            Mirrored::Differs(message) => {
                summary.differing.push(name.clone());
                format!("{message}; {} was left as it is", self.replica.location())
            }
        };
        drop(summary);
        self.monitor.problem(Problem { item: name, during: "mirror", message });
    }
}
