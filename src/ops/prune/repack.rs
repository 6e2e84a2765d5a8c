//! Copies what is needed out of packs that are to go, as an ordinary session.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::PruneOptions;
use crate::format::header::ObjectKind;
use crate::format::index::PackRecord;
use crate::format::session::Purpose;
use crate::id::{PackId, SessionId};
use crate::monitor::{Monitor, Phase, Problem, Progress};
use crate::ops::OpsError;
use crate::ops::references::BlobKey;
use crate::ops::walk::Walk;
use crate::repository::Repository;
use crate::repository::error::{Kind, RepositoryError};
use crate::repository::index::Location;
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
pub struct Needed<'n, 'a> {
    /// What their trees refer to.
    pub walk: &'n Walk<'n, 'a>,
    /// What deltas among that are read against.
    pub bases: &'n HashSet<BlobKey>,
}

/// Copies every blob that is needed and that stands nowhere but in `packs`; deltas as they are. A pack of which something
/// cannot be read is left as it is.
pub fn copy(
    repository: &Repository,
    needed: &Needed<'_, '_>,
    packs: &[PackId],
    options: &PruneOptions,
    monitor: &dyn Monitor,
) -> Result<Copying, OpsError> {
    let writer =
        Writer::begin_for(Purpose::Collect, repository, false, monitor)?.excluding(packs)?;
    monitor.phase(Phase::Repack);
    let lengths: Vec<(PackId, u64, bool)> = {
        let wanted: HashSet<&PackId> = packs.iter().collect();
        let known = repository.cache().packs()?.into_iter().map(|(_, pack)| pack);
        known
            .filter(|pack| wanted.contains(&pack.id))
            .map(|pack| {
                let mut segments = pack.segments.iter();
                let has_deltas = segments.any(|segment| segment.encoding.is_delta());
                (pack.id, pack.object_length, has_deltas)
            })
            .collect()
    };
    let bytes: u64 = lengths.iter().map(|(_, length, _)| length).sum();
    monitor.expect(Progress { files: 0, bytes });
    // What fits into one pack is not spread over one for each thread.
    let fitting = bytes.div_ceil(u64::from(repository.settings().pack_length).max(1)) as usize;
    let workers = repository.threads(WORKERS).min(fitting);
    let reader = BlobReader::beside_a_writer(repository, options.memory_budget);
    let failed = Mutex::new(HashSet::new());
    let copied = AtomicU64::new(0);
    // Deltas come last: of a blob that was copied plainly none is needed.
    let worked = [false, true].into_iter().try_for_each(|deltas| -> Result<(), OpsError> {
        let next = AtomicUsize::new(0);
        let work = || -> Result<(), OpsError> {
            let mut data = writer.segments(ObjectKind::DataPack)?;
            let mut trees = writer.segments(ObjectKind::TreePack)?;
            while let Some((id, length, has_deltas)) =
                lengths.get(next.fetch_add(1, Ordering::Relaxed))
            {
                if monitor.interrupted() {
                    return Err(OpsError::Interrupted);
                }
                if deltas && !has_deltas || failed.lock().contains(id) {
                    continue;
                }
                let record = repository.readable_record(*id, *length);
                let copied_pack = record.and_then(|record| match deltas {
                    false => copy_plain(&writer, &reader, needed, &record, &mut data, &mut trees),
                    true => copy_deltas(&writer, &reader, needed, &record, &mut data),
                });
                match copied_pack {
                    Ok(count) => drop(copied.fetch_add(count, Ordering::Relaxed)),
                    Err(error) if is_damage(&error) => {
                        report(monitor, *id, &error.to_string());
                        failed.lock().insert(*id);
                    }
                    Err(error) => return Err(error.into()),
                }
                if !deltas {
                    monitor.advance(Progress { files: 0, bytes: *length });
                }
            }
            data.flush()?;
            trees.flush()?;
            Ok(())
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> = (1..workers).map(|_| scope.spawn(work)).collect();
            let mut results = vec![work()];
            for thread in threads {
                results.push(thread.join().unwrap_or_else(|_| {
                    Err(OpsError::Invalid("a thread that copies packs failed".into()))
                }));
            }
            results.into_iter().collect()
        })
    });
    let finished = worked.and_then(|()| Ok(writer.finish()?));
    let (session, bytes_written) = (writer.session(), writer.added().stored_bytes);
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
    let failed = failed.into_inner();
    let emptied = lengths.iter().map(|(id, ..)| *id).filter(|id| !failed.contains(id)).collect();
    Ok(Copying::Done(Copied { emptied, bytes_written }))
}

/// Copies what is needed of one pack and stands in no delta. Returns how many blobs.
fn copy_plain<'w>(
    writer: &'w Writer<'_>,
    reader: &BlobReader<'_>,
    needed: &Needed<'_, '_>,
    record: &PackRecord,
    data: &mut SegmentWriter<'w>,
    trees: &mut SegmentWriter<'w>,
) -> Result<u64, RepositoryError> {
    let kind = record.header.kind;
    let is_tree = kind == ObjectKind::TreePack;
    let segments = record.directory.segments.iter().filter(|segment| !segment.encoding.is_delta());
    let mut copied = 0;
    for blob in segments.flat_map(|segment| &segment.blobs) {
        let id = &blob.id;
        let is_needed = needed.walk.needs(kind, id) || needed.bases.contains(&BlobKey::new(id));
        // As `usage` counts: a plain copy is what is needed, whatever deltas there are.
        if !is_needed || writer.has_plain(id)? {
            continue;
        }
        let bytes = if is_tree { reader.tree(id)? } else { reader.data(id)? };
        let segments = if is_tree { &mut *trees } else { &mut *data };
        segments.put_plain(&bytes)?;
        copied += 1;
    }
    Ok(copied)
}

/// Copies the deltas of a pack of which something is needed that stands nowhere else, as they are. Returns how many such
/// blobs there were.
fn copy_deltas<'w>(
    writer: &'w Writer<'_>,
    reader: &BlobReader<'_>,
    needed: &Needed<'_, '_>,
    record: &PackRecord,
    data: &mut SegmentWriter<'w>,
) -> Result<u64, RepositoryError> {
    let kind = record.header.kind;
    let numbers = writer.repository().cache().pack_numbers([record.id])?;
    let Some(pack) = numbers.into_iter().next() else { return Ok(0) };
    let mut copied = 0;
    for (number, segment) in record.directory.segments.iter().enumerate() {
        if !segment.encoding.is_delta() {
            continue;
        }
        let (mut offset, mut wanted) = (0, Vec::new());
        for blob in &segment.blobs {
            let (segment, length) = (number as u32, blob.length);
            let location = Location { pack, segment, offset, length, is_delta: true };
            offset += length;
            // A base that nothing has plainly any more becomes one again.
            if needed.bases.contains(&BlobKey::new(&blob.id)) && !writer.has_plain(&blob.id)? {
                data.put_plain(&reader.fetch(&blob.id, kind, location)?)?;
                copied += 1;
            }
            if needed.walk.needs(kind, &blob.id) && !writer.has(&blob.id)? {
                // Read in this very place: that another copy is good says nothing of this one.
                reader.fetch(&blob.id, kind, location)?;
                wanted.push(blob.id);
            }
        }
        if !wanted.is_empty() {
            writer.put_delta(&reader.stored_segment(pack, number as u32)?, segment, &wanted)?;
            copied += wanted.len() as u64;
        }
    }
    Ok(copied)
}

fn report(monitor: &dyn Monitor, pack: PackId, message: &str) {
    let message = format!(
        "{message}; the pack is left as it is. `aumbry repair packs` stores again what is good in it"
    );
    monitor.problem(Problem { item: format!("pack {pack}"), during: "repack", message });
}
