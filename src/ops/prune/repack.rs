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
    let lengths: Vec<(PackId, u64)> = {
        let wanted: HashSet<&PackId> = packs.iter().collect();
        let known = repository.cache().packs()?.into_iter().map(|(_, pack)| pack);
        known
            .filter(|pack| wanted.contains(&pack.id))
            .map(|pack| (pack.id, pack.object_length))
            .collect()
    };
    let bytes: u64 = lengths.iter().map(|(_, length)| length).sum();
    monitor.expect(Progress { files: 0, bytes });
    // What fits into one pack is not spread over one for each thread.
    let fitting = bytes.div_ceil(u64::from(repository.settings().pack_length).max(1)) as usize;
    let workers = repository.threads(WORKERS).min(fitting);
    let reader = BlobReader::beside_a_writer(repository, options.memory_budget);
    let emptied = Mutex::new(Vec::new());
    let next = AtomicUsize::new(0);
    let copied = AtomicU64::new(0);
    let work = || -> Result<(), OpsError> {
        let mut data = writer.segments(ObjectKind::DataPack)?;
        let mut trees = writer.segments(ObjectKind::TreePack)?;
        while let Some((id, length)) = lengths.get(next.fetch_add(1, Ordering::Relaxed)) {
            if monitor.interrupted() {
                return Err(OpsError::Interrupted);
            }
            let record = match repository.readable_record(*id, *length) {
                Ok(record) => record,
                Err(error) if is_damage(&error) => {
                    report(monitor, *id, &error.message);
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            let copied_pack = copy_pack(&writer, &reader, needed, &record, &mut data, &mut trees);
            let whole = match copied_pack {
                Ok(count) => {
                    copied.fetch_add(count, Ordering::Relaxed);
                    true
                }
                Err(error) if is_damage(&error) => {
                    report(monitor, *id, &error.to_string());
                    false
                }
                Err(error) => return Err(error.into()),
            };
            monitor.advance(Progress { files: 0, bytes: *length });
            if whole {
                emptied.lock().push(*id);
            }
        }
        data.flush()?;
        trees.flush()?;
        Ok(())
    };
    let worked = std::thread::scope(|scope| {
        let threads: Vec<_> = (1..workers).map(|_| scope.spawn(work)).collect();
        let mut results = vec![work()];
        for thread in threads {
            results.push(thread.join().unwrap_or_else(|_| {
                Err(OpsError::Invalid("a thread that copies packs failed".into()))
            }));
        }
        results.into_iter().collect::<Result<Vec<()>, OpsError>>()
    });
    let finished = worked.and_then(|_| Ok(writer.finish()?));
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
    Ok(Copying::Done(Copied { emptied: emptied.into_inner(), bytes_written }))
}

/// Copies what is needed of one pack. Returns how many blobs.
fn copy_pack<'w>(
    writer: &'w Writer<'_>,
    reader: &BlobReader<'_>,
    needed: &Needed<'_, '_>,
    record: &PackRecord,
    data: &mut SegmentWriter<'w>,
    trees: &mut SegmentWriter<'w>,
) -> Result<u64, RepositoryError> {
    let kind = record.header.kind;
    let is_tree = kind == ObjectKind::TreePack;
    let mut copied = 0;
    for (number, segment) in record.directory.segments.iter().enumerate() {
        let is_delta = segment.encoding.is_delta();
        let mut wanted = Vec::new();
        for blob in &segment.blobs {
            let id = &blob.id;
            // As `usage` counts: a blob's plain copy is what is needed, and a delta only where there is none.
            let is_needed = needed.walk.needs(kind, id)
                || !is_delta && needed.bases.contains(&BlobKey::new(id));
            let stands = |id| match is_delta {
                true => Ok(writer.has(id)? || writer.has_plain_anywhere(id)?),
                false => writer.has_plain(id),
            };
            if is_needed && !stands(id)? {
                wanted.push(blob.id);
            }
        }
        for id in &wanted {
            let bytes = if is_tree { reader.tree(id)? } else { reader.data(id)? };
            // Once its blobs were read it is copied as it is.
            if !is_delta {
                let segments = if is_tree { &mut *trees } else { &mut *data };
                segments.put_plain(&bytes)?;
            }
        }
        if is_delta && !wanted.is_empty() {
            let stored = reader.stored_segment(record.id, number)?;
            writer.put_delta(&stored, segment, &wanted)?;
        }
        copied += wanted.len() as u64;
    }
    Ok(copied)
}

fn report(monitor: &dyn Monitor, pack: PackId, message: &str) {
    let message = format!(
        "{message}; the pack is left as it is. `aumbry repair packs` stores again what is good in it"
    );
    monitor.problem(Problem { item: format!("pack {pack}"), during: "repack", message });
}
