//! Packs: what is good in a damaged one is stored again, all of it where parity reaches.
//!
//! The damaged pack stays where it is and is recorded as damaged: writers count it as missing from then on, readers try
//! it last, and a collector drops it when it stands for nothing any more. It is recorded after what was
//! good in it stands elsewhere.
//!
//! With mirrors, what is damaged here is read from them, and a pack that is gone is put back byte for byte: nothing stands
//! in its place, and its name means these bytes and no others.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::{RepairOptions, Trouble};
use crate::format::header::ObjectKind;
use crate::format::index::PackRecord;
use crate::format::session::Purpose;
use crate::id::{BlobId, PackId};
use crate::monitor::{Monitor, Phase, Progress, SilentMonitor};
use crate::ops::OpsError;
use crate::ops::threads::run_threads;
use crate::repository::Repository;
use crate::repository::error::RepositoryError;
use crate::repository::reader::BlobReader;
use crate::repository::verify::{
    ListedPack, PackVerifier, WHOLE_WHEN_READ_AGAIN, is_damage, names,
};
use crate::repository::writer::Writer;

/// How often a repair that a collector gave up is begun anew.
const ATTEMPTS: usize = 16;
/// Threads that prove packs.
const WORKERS: usize = 4;

/// A damaged pack, and what became of what it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SalvagedPack {
    /// The pack.
    pub pack: PackId,
    /// What is wrong with it.
    pub what: String,
    /// Blobs that were read from it, or in its stead, and stored again, or would be in a dry run.
    pub blobs: u64,
    /// Blobs that cannot be read anywhere.
    pub lost: u64,
    /// It was not recorded as damaged before.
    pub is_new: bool,
}

/// What became of the packs.
#[derive(Debug, Default)]
pub struct PacksRepair {
    /// Packs that were read byte for byte.
    pub packs_read: u64,
    /// Bytes of them.
    pub bytes_read: u64,
    /// Damaged packs of which something was stored again, or that were not recorded as damaged before.
    pub salvaged: Vec<SalvagedPack>,
    /// Packs that the index lists, that were gone, and that a mirror gave back, or would in a dry run.
    pub put_back: Vec<PackId>,
    /// Packs that are damaged, and of which nothing can be told; packs that a newer version may be able to read.
    pub left: Vec<Trouble>,
    /// Bytes of new packs and index objects.
    pub bytes_written: u64,
}

/// A pack that is known to be damaged.
struct Damaged {
    id: PackId,
    what: String,
    is_new: bool,
    /// What an index object, or the pack itself, says is in it.
    record: PackRecord,
    lost: Vec<BlobId>,
}

/// Stores again what is good in damaged packs: those that are recorded as damaged, those whose lengths are wrong, and
/// with `read_data` those that are found by reading all.
pub fn repair_packs(
    repository: &Repository,
    options: &RepairOptions,
    monitor: &dyn Monitor,
) -> Result<PacksRepair, OpsError> {
    repair_packs_from(repository, None, options, monitor)
}

/// The same with mirrors: `mirrored` is the same repository, read from several stores
/// ([`Repository::beside_mirrors`]).
pub fn repair_packs_from(
    repository: &Repository,
    mirrored: Option<&Repository>,
    options: &RepairOptions,
    monitor: &dyn Monitor,
) -> Result<PacksRepair, OpsError> {
    monitor.phase(Phase::Repair);
    let mut repair = PacksRepair::default();
    if let Some(mirrored) = mirrored {
        mirrored.refresh_index(monitor)?;
        repair.put_back = put_back(repository, mirrored, options, monitor)?;
    }
    let session = repository.register_reader(monitor);
    let found = find(repository, options, monitor, &mut repair);
    repository.end_reader(session, monitor);
    let mut damaged = found?;
    if damaged.is_empty() {
        return Ok(repair);
    }
    // First without storing anything: whether there is anything to do.
    let writer = Writer::begin(repository, true, &SilentMonitor)?;
    let copied = copy(writer, mirrored, options, &mut damaged, monitor)?;
    repair.salvaged = salvaged(&damaged, &copied.blobs);
    if options.dry_run || repair.salvaged.is_empty() {
        return Ok(repair);
    }
    if copied.blobs.values().any(|blobs| *blobs > 0) {
        let copied = copy_for_good(repository, mirrored, options, &mut damaged, monitor)?;
        repair.bytes_written = copied.bytes_written;
        repair.salvaged = salvaged(&damaged, &copied.blobs);
    }
    for pack in damaged.iter().filter(|pack| pack.is_new) {
        repository.record_damage(pack.id, &pack.what, &pack.lost)?;
    }
    Ok(repair)
}

/// Puts back the packs that the index lists, that are gone, and that another store has whole.
fn put_back(
    repository: &Repository,
    mirrored: &Repository,
    options: &RepairOptions,
    monitor: &dyn Monitor,
) -> Result<Vec<PackId>, OpsError> {
    repository.refresh_index(monitor)?;
    let present: HashSet<PackId> =
        repository.inventory()?.packs.into_iter().map(|(id, _)| id).collect();
    let mut gone = repository.missing_packs()?;
    gone.retain(|id| !present.contains(id));
    if gone.is_empty() {
        return Ok(gone);
    }
    let session = match options.dry_run {
        true => None,
        false => Some(repository.register(Purpose::Write)?),
    };
    let mut back = Vec::new();
    let result = gone.into_iter().try_for_each(|id| -> Result<(), OpsError> {
        if monitor.interrupted() {
            return Err(OpsError::Interrupted);
        }
        monitor.current(&names::pack(id));
        let Some(object) = mirrored.whole_pack(id)? else { return Ok(()) };
        if options.dry_run || repository.put_back_pack(id, object)? {
            back.push(id);
        }
        Ok(())
    });
    if let Some(session) = session {
        repository.end(session)?;
    }
    result.map(|()| back)
}

fn salvaged(damaged: &[Damaged], copied: &HashMap<PackId, u64>) -> Vec<SalvagedPack> {
    let salvaged = damaged.iter().map(|pack| SalvagedPack {
        pack: pack.id,
        what: pack.what.clone(),
        blobs: copied.get(&pack.id).copied().unwrap_or(0),
        lost: pack.lost.len() as u64,
        is_new: pack.is_new,
    });
    salvaged.filter(|pack| pack.is_new || pack.blobs > 0).collect()
}

/// The damaged packs that are in the store.
fn find(
    repository: &Repository,
    options: &RepairOptions,
    monitor: &dyn Monitor,
    repair: &mut PacksRepair,
) -> Result<Vec<Damaged>, OpsError> {
    repository.refresh_index(monitor)?;
    let recorded = repository.damaged_packs()?;
    let mut listed: HashMap<PackId, ListedPack> = HashMap::new();
    for id in repository.listed_indexes()? {
        match repository.read_index(id) {
            Ok(index) => {
                listed.extend(index.packs.iter().map(|pack| (pack.id, ListedPack::new(id, pack))))
            }
            // That is for `repair index`.
            Err(error) if is_damage(&error) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let present = repository.inventory()?.packs;
    let has_wrong_length = |id: &PackId, length: u64| {
        listed.get(id).is_some_and(|listed| listed.object_length != length)
    };
    let (suspects, rest): (Vec<_>, Vec<_>) = present
        .into_iter()
        .partition(|(id, length)| recorded.contains(id) || has_wrong_length(id, *length));
    let mut suspects: Vec<(PackId, String)> = suspects
        .into_iter()
        .map(|(id, length)| {
            let what = match has_wrong_length(&id, length) {
                true => "has another length than it should",
                false => "is recorded as damaged",
            };
            (id, what.to_string())
        })
        .collect();
    if options.read_data {
        suspects.extend(prove(repository, options, &rest, &listed, monitor, repair)?);
    }
    suspects.sort();
    let mut damaged = Vec::new();
    for (id, what) in suspects {
        match record_of(repository, id, listed.get(&id)) {
            Ok(record) => {
                let is_new = !recorded.contains(&id);
                damaged.push(Damaged { id, what, is_new, record, lost: Vec::new() });
            }
            Err(error) if is_damage(&error) => {
                let message = format!("{what}, and what it holds is not known: {}", error.message);
                repair.left.push(Trouble { item: names::pack(id), message });
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(damaged)
}

/// What a pack holds: what an index object says, or the pack itself, mended if need be.
fn record_of(
    repository: &Repository,
    id: PackId,
    listed: Option<&ListedPack>,
) -> Result<PackRecord, RepositoryError> {
    if let Some(listed) = listed {
        return repository.read_listed(listed.index, id);
    }
    repository.readable_record(id, repository.pack_length(id)?)
}

/// Reads these packs whole. Returns those that are damaged, with what is wrong.
fn prove(
    repository: &Repository,
    options: &RepairOptions,
    packs: &[(PackId, u64)],
    listed: &HashMap<PackId, ListedPack>,
    monitor: &dyn Monitor,
    repair: &mut PacksRepair,
) -> Result<Vec<(PackId, String)>, OpsError> {
    let bytes = packs.iter().map(|(_, length)| length).sum();
    monitor.expect(Progress { files: 0, bytes });
    let reader = BlobReader::beside_a_writer(repository, options.memory_budget);
    let affordable = PackVerifier::affordable(repository, packs, options.memory_budget);
    let ahead = repository.fetches_packs_ahead(options.memory_budget / 8);
    if let Some(ahead) = &ahead {
        ahead.add_packs(packs.iter().copied());
    }
    let (next, read) = (AtomicUsize::new(0), AtomicU64::new(0));
    let found = Mutex::new(Vec::new());
    let left = Mutex::new(Vec::new());
    let work = || -> Result<(), OpsError> {
        let mut verifier = PackVerifier::new(&reader)?.taking(ahead.as_ref());
        while let Some((id, length)) = packs.get(next.fetch_add(1, Ordering::Relaxed)) {
            if monitor.interrupted() {
                return Err(OpsError::Interrupted);
            }
            let mut proof = verifier.verify(*id, listed.get(id))?;
            read.fetch_add(proof.bytes, Ordering::Relaxed);
            monitor.advance(Progress { files: 0, bytes: *length });
            if !proof.damage.is_empty() {
                // Once more: a record of damage stays, and nobody counts on the pack again.
                proof = verifier.verify(*id, listed.get(id))?;
                if proof.damage.is_empty() {
                    monitor.note(&format!("{}: {WHOLE_WHEN_READ_AGAIN}", names::pack(*id)));
                }
            }
            let Some(damage) = proof.damage.first() else { continue };
            // Where only bases are lost, it is their packs that are damaged or gone; `check` tells whom that hits.
            if proof.is_gone || proof.is_of_bases() {
                continue;
            }
            if proof.is_certain {
                found.lock().push((*id, damage.message.clone()));
            } else {
                left.lock().push(Trouble::from(damage.clone()));
            }
        }
        Ok(())
    };
    run_threads(repository.threads(WORKERS).min(affordable), "proves packs", &work)?;
    repair.packs_read = packs.len() as u64;
    repair.bytes_read = read.into_inner();
    repair.left.append(&mut left.into_inner());
    Ok(found.into_inner())
}

/// What copying came to.
struct Copied {
    blobs: HashMap<PackId, u64>,
    bytes_written: u64,
    /// No collector gave the session up.
    stands: bool,
}

fn copy_for_good(
    repository: &Repository,
    mirrored: Option<&Repository>,
    options: &RepairOptions,
    damaged: &mut [Damaged],
    monitor: &dyn Monitor,
) -> Result<Copied, OpsError> {
    for _ in 0..ATTEMPTS {
        let writer = Writer::begin(repository, false, &SilentMonitor)?;
        let session = writer.session();
        match copy(writer, mirrored, options, damaged, monitor) {
            Ok(copied) if copied.stands => return Ok(copied),
            Ok(_) => {}
            Err(error) => {
                // Nobody is to wait for it; that this fails, too, changes nothing.
                let _ = repository.abort(session);
                return Err(error);
            }
        }
    }
    Err(OpsError::Busy(format!(
        "collectors gave this repair up {ATTEMPTS} times; run it again, and give `prune` more patience"
    )))
}

/// Stores every blob of these packs that can be read and stands in no pack that counts, and ends the session.
fn copy(
    writer: Writer<'_>,
    mirrored: Option<&Repository>,
    options: &RepairOptions,
    damaged: &mut [Damaged],
    monitor: &dyn Monitor,
) -> Result<Copied, OpsError> {
    let repository = writer.repository();
    // What only parity can read must be known to be in a damaged pack, too.
    repository.adopt_readable_packs()?;
    let mut excluded = repository.missing_packs()?;
    excluded.extend(damaged.iter().map(|pack| pack.id));
    let writer = writer.excluding(&excluded)?;
    let source = mirrored.unwrap_or(repository);
    let reader = BlobReader::beside_a_writer(source, options.memory_budget);
    let mut data = writer.segments(ObjectKind::DataPack)?;
    let mut trees = writer.segments(ObjectKind::TreePack)?;
    let mut stored = HashMap::new();
    let mut seen = HashSet::new();
    for pack in damaged {
        monitor.current(&names::pack(pack.id));
        pack.lost.clear();
        let kind = pack.record.header.kind;
        let segments = pack.record.directory.segments.iter();
        let blobs = segments.flat_map(|segment| {
            segment.blobs.iter().map(move |blob| (segment.encoding.is_delta(), blob))
        });
        for (is_delta, blob) in blobs {
            if monitor.interrupted() {
                return Err(OpsError::Interrupted);
            }
            let stands = match is_delta {
                true => writer.has(&blob.id)?,
                // Deltas may be read against it.
                false => writer.has_plain(&blob.id)?,
            };
            if stands || !seen.insert(blob.id) {
                continue;
            }
            let (read, segments) = match kind {
                ObjectKind::TreePack => (reader.tree(&blob.id), &mut trees),
                _ => (reader.data(&blob.id), &mut data),
            };
            match read {
                Ok(bytes) => {
                    segments.put_plain(&bytes)?;
                    *stored.entry(pack.id).or_insert(0) += 1;
                }
                Err(error) if is_damage(&error) => pack.lost.push(blob.id),
                Err(error) => return Err(error.into()),
            }
        }
    }
    data.flush()?;
    trees.flush()?;
    drop((data, trees));
    writer.finish()?;
    let bytes_written = writer.added().stored_bytes;
    let stands = writer.is_dry_run() || repository.end(writer.session())?;
    Ok(Copied { blobs: stored, bytes_written, stands })
}
