//! Copies what is needed out of packs that are to go, as an ordinary session.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::PruneOptions;
use crate::format::header::ObjectKind;
use crate::format::index::PackRecord;
use crate::format::pack::BlobRecord;
use crate::format::session::Purpose;
use crate::id::{BlobId, BlobKey, PackId, SessionId};
use crate::monitor::{Monitor, Phase, Problem, Progress};
use crate::ops::OpsError;
use crate::ops::threads::run_threads;
use crate::repository::Repository;
use crate::repository::error::{Kind, RepositoryError};
use crate::repository::index::{Location, SegmentPlace};
use crate::repository::marks::{Marks, marks_error};
use crate::repository::reader::BlobReader;
use crate::repository::verify::is_damage;
use crate::repository::writer::{SegmentWriter, Writer};

/// Threads that copy.
const WORKERS: usize = 2;

/// What copying came to.
pub struct Copied {
    /// Packs from which everything needed stands elsewhere now.
    pub emptied: Vec<PackId>,
    /// Bytes of new packs and index objects.
    pub bytes_written: u64,
}

/// How copying ended.
pub enum Copying {
    /// All that could be read was copied.
    Done(Copied),
    /// The store was full. What this session had copied until then is of no use.
    Full(SessionId, RepositoryError),
}

/// What snapshots need.
pub struct Needed<'n> {
    /// What their trees refer to.
    pub marks: &'n Marks,
    /// What deltas among that are read against.
    pub bases: &'n HashSet<BlobKey>,
}

impl Needed<'_> {
    fn is_needed(&self, kind: ObjectKind, id: &BlobId) -> Result<bool, RepositoryError> {
        self.marks.needs(kind, id).map_err(marks_error)
    }

    fn is_base(&self, id: &BlobId) -> bool {
        self.bases.contains(&BlobKey::new(id))
    }
}

/// Copies every blob that is needed and that stands nowhere but in `packs`; deltas as they are. A pack of which something
/// cannot be read is left as it is. `planned_at` is the newest generation that the choice of packs goes by.
///
/// # Errors
///
/// What was not found, when a later generation has begun: somebody else may have dropped it.
pub fn copy(
    repository: &Repository,
    planned_at: u32,
    needed: &Needed<'_>,
    packs: &[PackId],
    options: &PruneOptions,
    monitor: &dyn Monitor,
) -> Result<Copying, OpsError> {
    let writer =
        Writer::begin_for(Purpose::Collect, repository, false, monitor)?.excluding(packs)?;
    if repository.thaws() {
        repository.thaw(&repository.cold_packs_for(packs)?)?;
    }
    monitor.phase(Phase::Repack);
    let wanted: HashSet<&PackId> = packs.iter().collect();
    let mut packs = Vec::new();
    repository.cache().each_pack_info(|_, pack| {
        if wanted.contains(&pack.id) {
            let has_deltas = pack.has_deltas();
            packs.push(Replaced { id: pack.id, length: pack.object_length, has_deltas });
        }
    })?;
    let bytes: u64 = packs.iter().map(|pack| pack.length).sum();
    monitor.expect(Progress { files: 0, bytes });
    // What fits into one pack is not spread over one for each thread.
    let fitting = bytes.div_ceil(u64::from(repository.settings().pack_length).max(1)) as usize;
    let workers = repository.threads(WORKERS).min(fitting);
    let copying = Shared {
        writer: &writer,
        reader: BlobReader::beside_a_writer(repository, options.memory_budget),
        needed,
        packs: &packs,
        planned_at,
        monitor,
        failed: Mutex::default(),
    };
    // Deltas come last: of a blob that was copied plainly none is needed.
    let worked = [false, true].into_iter().try_for_each(|deltas| {
        let next = AtomicUsize::new(0);
        run_threads(workers, "copies packs", &|| Copier::new(&copying)?.run(deltas, &next))
    });
    let finished = worked.and_then(|()| Ok(writer.finish()?));
    let (session, bytes_written) = (writer.session(), writer.added().stored_bytes);
    let failed = copying.failed.into_inner();
    // Its threads end, so that nothing more is uploaded.
    drop(writer);
    // Decided in any case: nobody, least of all this collector, is to wait for it. What was copied in vain is garbage.
    let aborted = repository.abort_at_need(session);
    repository.note_mended(monitor);
    match finished {
        Err(OpsError::Repository(error)) if error.kind == Kind::Full => {
            aborted?;
            return Ok(Copying::Full(session, error));
        }
        finished => finished?,
    };
    aborted?;
    let emptied = packs.iter().map(|pack| pack.id).filter(|id| !failed.contains(id)).collect();
    Ok(Copying::Done(Copied { emptied, bytes_written }))
}

/// A pack that is to go.
struct Replaced {
    id: PackId,
    /// Of the object, in bytes.
    length: u64,
    has_deltas: bool,
}

/// What the threads that copy share.
struct Shared<'s, 'a> {
    writer: &'s Writer<'a>,
    reader: BlobReader<'s>,
    needed: &'s Needed<'s>,
    packs: &'s [Replaced],
    planned_at: u32,
    monitor: &'s dyn Monitor,
    /// Packs of which something could not be read.
    failed: Mutex<HashSet<PackId>>,
}

/// One thread that copies, and what it gathers.
struct Copier<'s, 'a> {
    shared: &'s Shared<'s, 'a>,
    data: SegmentWriter<'s>,
    trees: SegmentWriter<'s>,
}

impl<'s, 'a> Copier<'s, 'a> {
    fn new(shared: &'s Shared<'s, 'a>) -> Result<Self, OpsError> {
        let data = shared.writer.segments(ObjectKind::DataPack)?;
        let trees = shared.writer.segments(ObjectKind::TreePack)?;
        Ok(Copier { shared, data, trees })
    }

    /// Takes pack after pack until there are no more: of each its deltas, or what is none.
    fn run(mut self, deltas: bool, next: &AtomicUsize) -> Result<(), OpsError> {
        let Shared { writer, packs, monitor, failed, .. } = self.shared;
        while let Some(pack) = packs.get(next.fetch_add(1, Ordering::Relaxed)) {
            if monitor.interrupted() {
                return Err(OpsError::Interrupted);
            }
            if deltas && !pack.has_deltas || failed.lock().contains(&pack.id) {
                continue;
            }
            let record = writer.repository().readable_record(pack.id, pack.length);
            let copied = record.and_then(|record| match deltas {
                false => self.copy_plain(&record),
                true => self.copy_deltas(&record),
            });
            match copied {
                Ok(()) => {}
                Err(error) if error.kind == Kind::NotFound && self.is_overtaken()? => {
                    return Err(error.into());
                }
                Err(error) if is_damage(&error) => {
                    report(*monitor, pack.id, &error.to_string());
                    failed.lock().insert(pack.id);
                }
                Err(error) => return Err(error.into()),
            }
            if !deltas {
                monitor.advance(Progress { files: 0, bytes: pack.length });
            }
        }
        self.data.flush()?;
        self.trees.flush()?;
        Ok(())
    }

    /// Whether another collector was faster: what it dropped is no damage.
    fn is_overtaken(&self) -> Result<bool, RepositoryError> {
        let newest = self.shared.writer.repository().generations()?.newest;
        Ok(newest > self.shared.planned_at)
    }

    /// Copies what is needed of one pack and stands in no delta.
    fn copy_plain(&mut self, record: &PackRecord) -> Result<(), RepositoryError> {
        let Shared { writer, reader, needed, .. } = self.shared;
        let kind = record.header.kind;
        let is_tree = kind == ObjectKind::TreePack;
        let segments = record.directory.segments.iter();
        let plain = segments.filter(|segment| !segment.encoding.is_delta());
        let mut wanted = Vec::new();
        for BlobRecord { id, .. } in plain.flat_map(|segment| &segment.blobs) {
            let is_needed = needed.is_base(id) || needed.is_needed(kind, id)?;
            // As `usage` counts: a plain copy is what is needed, whatever deltas there are.
            if is_needed && !writer.has_plain(id)? {
                wanted.push(id);
            }
        }
        reader.expect(wanted.iter().copied());
        for id in wanted {
            // Another thread may have copied it meanwhile.
            if writer.has_plain(id)? {
                continue;
            }
            let bytes = if is_tree { reader.tree(id)? } else { reader.data(id)? };
            let segments = if is_tree { &mut self.trees } else { &mut self.data };
            segments.put_plain(&bytes)?;
        }
        Ok(())
    }

    /// Copies the deltas of a pack of which something is needed that stands nowhere else, as they are.
    fn copy_deltas(&mut self, record: &PackRecord) -> Result<(), RepositoryError> {
        let Shared { writer, reader, needed, .. } = self.shared;
        let kind = record.header.kind;
        let numbers = writer.repository().cache().pack_numbers([record.id])?;
        let Some(pack) = numbers.into_iter().next() else { return Ok(()) };
        for (number, segment) in record.directory.segments.iter().enumerate() {
            if !segment.encoding.is_delta() {
                continue;
            }
            let place = SegmentPlace { pack, segment: number as u32 };
            let (mut offset, mut wanted) = (0, Vec::new());
            for BlobRecord { id, length } in &segment.blobs {
                let location = Location {
                    pack,
                    segment: place.segment,
                    offset,
                    length: *length,
                    is_delta: true,
                };
                offset += length;
                // A base that nothing has plainly any more becomes one again.
                if needed.is_base(id) && !writer.has_plain(id)? {
                    self.data.put_plain(&reader.fetch(id, kind, location)?)?;
                }
                if needed.is_needed(kind, id)? && !writer.has(id)? {
                    // Read in this very place: that another copy is good says nothing of this one.
                    reader.fetch(id, kind, location)?;
                    wanted.push(*id);
                }
            }
            if !wanted.is_empty() {
                writer.put_delta(&reader.stored_segment(place)?, segment, &wanted)?;
            }
        }
        Ok(())
    }
}

fn report(monitor: &dyn Monitor, pack: PackId, message: &str) {
    let message = format!(
        "{message}; the pack is left as it is. `aumbry repair packs` stores again what is good in it"
    );
    monitor.problem(Problem { item: format!("pack {pack}"), during: "repack", message });
}
