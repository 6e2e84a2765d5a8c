//! Index objects and packs: what lists what, whether it is there, and which packs are read whole.
//!
//! Memory: 150 bytes a pack, a few index objects at a time, and as many packs as there are threads and one
//! more (so that one is fetched while the others are worked on), fewer where the budget asks for it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;
use rayon::iter::{IntoParallelRefIterator, ParallelIterator};

use super::{CheckOptions, CheckSummary, DataSelection};
use crate::codec::digest::derive_key;
use crate::format::header::ObjectKind;
use crate::format::index::PackRecord;
use crate::id::{IndexId, PackId, SessionId};
use crate::monitor::{Monitor, Progress};
use crate::ops::OpsError;
use crate::ops::findings::{Finding, Findings};
use crate::ops::references::{BlobKey, References};
use crate::ops::walk::Walk;
use crate::repository::Repository;
use crate::repository::error::{Kind, RepositoryError};
use crate::repository::reader::BlobReader;
use crate::repository::verify::{Inventory, ListedPack, PackProof, PackVerifier, is_damage, names};

/// Index objects decoded at a time (half a million blobs each at most: 40 MB).
const INDEXES_AT_ONCE: usize = 2;
/// Blobs that are in no pack are told one by one up to this many, and together beyond.
const MISSING_NAMED: usize = 100;

/// The packs of the repository.
pub struct Packs {
    /// What the index says of each.
    pub listed: HashMap<PackId, ListedPack>,
    /// Those that are there: id, length in bytes.
    pub present: Vec<(PackId, u64)>,
    /// Those whose lengths are not what the index says.
    pub wrong_length: HashSet<PackId>,
    /// Those that are there, in no index object, and whose directories cannot be read.
    unreadable: HashSet<PackId>,
}

/// What is known of sessions when packs are looked at.
pub struct Sessions<'s> {
    /// Those that committed before the index was listed.
    pub committed: &'s HashSet<SessionId>,
    /// Those of which this client's cache knows an index object that is gone.
    pub lost_indexes: &'s HashSet<SessionId>,
}

/// Reads every index object and holds it against what is there; marks what is found in `walk`.
pub fn take_stock(
    repository: &Repository,
    walk: &Walk<'_, '_>,
    indexes: &[IndexId],
    inventory: &Inventory,
    sessions: &Sessions<'_>,
    findings: &Findings,
    summary: &mut CheckSummary,
) -> Result<Packs, OpsError> {
    let mut packs = Packs {
        listed: HashMap::new(),
        present: inventory.packs.clone(),
        wrong_length: HashSet::new(),
        unreadable: HashSet::new(),
    };
    let mut missing = Vec::new();
    let mut damaged_indexes = 0;
    for batch in indexes.chunks(INDEXES_AT_ONCE) {
        let read: Vec<_> = batch.par_iter().map(|id| (*id, repository.read_index(*id))).collect();
        for (id, index) in read {
            match index {
                Ok(index) => {
                    for record in &index.packs {
                        packs.take(id, record, inventory, walk, findings, summary, &mut missing);
                    }
                }
                // A collector has put it together with others.
                Err(error) if error.kind == Kind::NotFound && !inventory.indexes.contains(&id) => {}
                Err(error) if is_damage(&error) => {
                    damaged_indexes += 1;
                    findings.add(Finding::of_object(error.item, error.message, Vec::new()));
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
    summary.packs = packs.listed.len() as u64;
    packs.take_unlisted(repository, walk, sessions, damaged_indexes, findings, summary)?;
    for (id, index, blobs) in missing {
        // A blob that another pack has, too, is not lost with this one.
        let lost = |key: &BlobKey| !walk.data.is_found(key) && !walk.trees.is_found(key);
        let (lost, total) = (blobs.iter().copied().filter(lost).collect(), blobs.len());
        findings.add(Finding::of_object(
            names::pack(id),
            format!("is gone; {} lists it, with {total} blobs", names::index(index)),
            lost,
        ));
    }
    tell_missing(&walk.data, findings);
    tell_missing(&walk.trees, findings);
    Ok(packs)
}

fn tell_missing(references: &References, findings: &Findings) {
    let missing = references.missing();
    if missing.len() > MISSING_NAMED {
        let message = format!("{} blobs are in no pack that the repository has", missing.len());
        findings.add(Finding::of_blobs(missing, "blobs".into(), message));
        return;
    }
    for key in missing {
        let message = "is in no pack that the repository has".to_string();
        findings.add(Finding::of_blobs(vec![key], format!("blob {}", key.short()), message));
    }
}

type MissingPack = (PackId, IndexId, Vec<BlobKey>);

impl Packs {
    #[allow(clippy::too_many_arguments, reason = "one record, and everything it is held against")]
    fn take(
        &mut self,
        index: IndexId,
        record: &PackRecord,
        inventory: &Inventory,
        walk: &Walk<'_, '_>,
        findings: &Findings,
        summary: &mut CheckSummary,
        missing: &mut Vec<MissingPack>,
    ) {
        let listed = ListedPack::new(index, record);
        if let Some(known) = self.listed.get(&record.id) {
            if known.fingerprint != listed.fingerprint {
                let (pack, other) = (names::pack(record.id), names::index(known.index));
                let message = format!("says something else of {pack} than {other}");
                findings.add(Finding::of_object(names::index(index), message, Vec::new()));
            }
            return;
        }
        self.listed.insert(record.id, listed);
        let found = inventory.packs.binary_search_by_key(&record.id, |(id, _)| *id);
        let Ok(found) = found else {
            missing.push((record.id, index, keys_of(record).collect()));
            return;
        };
        let length = inventory.packs[found].1;
        if length != record.object_length {
            self.wrong_length.insert(record.id);
        }
        if !mark(record, walk, findings) {
            summary.unreferenced_packs += 1;
        }
    }

    /// Packs that no index object lists: of writers that were stopped, or of an index object that is lost.
    fn take_unlisted(
        &mut self,
        repository: &Repository,
        walk: &Walk<'_, '_>,
        sessions: &Sessions<'_>,
        damaged_indexes: usize,
        findings: &Findings,
        summary: &mut CheckSummary,
    ) -> Result<(), OpsError> {
        let unlisted: Vec<_> =
            self.present.iter().filter(|(id, _)| !self.listed.contains_key(id)).copied().collect();
        let mut lost: BTreeMap<SessionId, u64> = BTreeMap::new();
        let mut left = 0u64;
        for batch in unlisted.chunks(64) {
            let read: Vec<_> = batch
                .par_iter()
                .map(|(id, length)| (*id, repository.read_pack_directory(*id, *length)))
                .collect();
            for (id, record) in read {
                let committed = sessions.committed.contains(&id.session);
                if committed || sessions.lost_indexes.contains(&id.session) {
                    *lost.entry(id.session).or_default() += 1;
                } else {
                    left += 1;
                }
                match record {
                    Ok(record) => {
                        if !mark(&record, walk, findings) {
                            summary.unreferenced_packs += 1;
                        }
                    }
                    Err(error) if is_damage(&error) => {
                        self.unreadable.insert(id);
                        let mut message = error.message;
                        match repository.mended_record(id) {
                            Ok(record) => {
                                if !mark(&record, walk, findings) {
                                    summary.unreferenced_packs += 1;
                                }
                                message.push_str("; parity mends it");
                            }
                            Err(error) if error.kind == Kind::Invalid || is_damage(&error) => {}
                            Err(error) => return Err(error.into()),
                        }
                        message.push_str(" (no index object lists it)");
                        findings.add(Finding::of_object(names::pack(id), message, Vec::new()));
                    }
                    Err(error) => return Err(error.into()),
                }
            }
        }
        for (session, count) in lost {
            let message = format!(
                "lost: {count} packs of this session are in no index object; what they hold can still \
                 be read, after the directory of every such pack"
            );
            if damaged_indexes > 0 {
                // Told already, as damage of the index object.
                summary.notes.push(format!("session {session}: index {message}"));
            } else {
                let item = format!("index of session {session}");
                findings.add(Finding::of_object(item, message, Vec::new()));
            }
        }
        if left > 0 {
            summary.notes.push(format!(
                "{left} packs are in no index object: left by backups that were stopped, or of one that \
                 runs just now"
            ));
        }
        Ok(())
    }

    /// The packs to be read, in order of their names: those that were asked for, and those whose lengths
    /// are wrong, to learn which blobs that costs.
    fn select(
        &self,
        repository: &Repository,
        data: DataSelection,
    ) -> Result<Vec<(PackId, u64)>, OpsError> {
        let key = |seed: &[u8], id: &PackId| -> u64 {
            let material = [seed, id.to_string().as_bytes()].concat();
            let digest = derive_key("aumbry v1 sample of packs", &material);
            digest.first_chunk::<8>().map_or(0, |first| u64::from_le_bytes(*first))
        };
        let mut packs = self.present.clone();
        let shuffle = |packs: &mut Vec<(PackId, u64)>| -> Result<(), OpsError> {
            let seed = repository.environment().chance.bytes::<32>()?;
            packs.sort_by_cached_key(|(id, _)| key(&seed, id));
            Ok(())
        };
        match data {
            DataSelection::None => packs.clear(),
            DataSelection::All => {}
            DataSelection::Share(share) => {
                shuffle(&mut packs)?;
                packs.truncate((packs.len() as f64 * share).ceil() as usize);
            }
            DataSelection::Bytes(bytes) => {
                shuffle(&mut packs)?;
                let mut left = bytes;
                packs.retain(|(_, length)| {
                    let taken = left > 0;
                    left = left.saturating_sub(*length);
                    taken
                });
            }
            DataSelection::Part { part, parts } => packs.retain(|(id, _)| {
                key(&[], id) % u64::from(parts.max(1)) == u64::from(part.saturating_sub(1))
            }),
        }
        let chosen: HashSet<_> = packs.iter().map(|(id, _)| *id).collect();
        let wrong = |id: &PackId| self.wrong_length.contains(id) && !chosen.contains(id);
        packs.extend(self.present.iter().filter(|(id, _)| wrong(id)));
        packs.sort_unstable();
        Ok(packs)
    }

    /// Reads packs whole.
    pub fn prove(
        &self,
        reader: &BlobReader<'_>,
        options: &CheckOptions,
        findings: &Findings,
        monitor: &dyn Monitor,
        summary: &mut CheckSummary,
    ) -> Result<(), OpsError> {
        let repository = reader.repository();
        let selected = self.select(repository, options.data)?;
        let bytes = selected.iter().map(|(_, length)| length).sum();
        monitor.expect(Progress { files: 0, bytes });
        let largest = selected.iter().map(|(_, length)| *length).max().unwrap_or(0);
        let each = largest + 2 * u64::from(repository.settings().segment_length);
        let affordable = (options.memory_budget / 2 / each.max(1)).max(1) as usize;
        let workers = (rayon::current_num_threads() + 1).min(affordable).min(selected.len());
        let work = Work {
            packs: self,
            reader,
            selected: &selected,
            findings,
            monitor,
            next: AtomicUsize::new(0),
            bytes: AtomicU64::new(0),
            failure: Mutex::default(),
        };
        std::thread::scope(|scope| {
            for _ in 0..workers {
                scope.spawn(|| {
                    if let Err(error) = work.run() {
                        // Nobody else begins another pack.
                        work.next.store(usize::MAX / 2, Ordering::Relaxed);
                        work.failure.lock().get_or_insert(error);
                    }
                });
            }
        });
        summary.packs_read = selected.len() as u64;
        summary.bytes_read = work.bytes.into_inner();
        work.failure.into_inner().map_or(Ok(()), Err)
    }
}

/// What the threads that prove packs share.
struct Work<'w, 'a> {
    packs: &'w Packs,
    reader: &'w BlobReader<'a>,
    selected: &'w [(PackId, u64)],
    findings: &'w Findings,
    monitor: &'w dyn Monitor,
    next: AtomicUsize,
    bytes: AtomicU64,
    failure: Mutex<Option<OpsError>>,
}

impl Work<'_, '_> {
    /// Takes pack after pack until there are no more.
    fn run(&self) -> Result<(), OpsError> {
        let mut verifier = PackVerifier::new(self.reader)?;
        while let Some((id, _)) = self.selected.get(self.next.fetch_add(1, Ordering::Relaxed)) {
            if self.monitor.interrupted() {
                return Err(OpsError::Interrupted);
            }
            let proof = verifier.verify(*id, self.packs.listed.get(id))?;
            self.bytes.fetch_add(proof.bytes, Ordering::Relaxed);
            self.monitor.advance(Progress { files: 0, bytes: proof.bytes });
            if !proof.damage.is_empty() && !self.packs.unreadable.contains(id) {
                self.findings.add(of_proof(*id, &proof));
            }
        }
        Ok(())
    }
}

fn of_proof(id: PackId, proof: &PackProof) -> Finding {
    let name = names::pack(id);
    let part = |error: &RepositoryError| match error.item.strip_prefix(&name) {
        Some("") => error.message.clone(),
        Some(part) => format!("{}: {}", part.trim_start_matches([',', ' ']), error.message),
        None => error.to_string(),
    };
    let parts: Vec<_> = proof.damage.iter().map(part).collect();
    let blobs = proof.lost.iter().map(BlobKey::new).collect();
    Finding::of_object(name, parts.join("; "), blobs)
}

fn keys_of(record: &PackRecord) -> impl Iterator<Item = BlobKey> + '_ {
    let segments = &record.directory.segments;
    segments.iter().flat_map(|segment| &segment.blobs).map(|blob| BlobKey::new(&blob.id))
}

/// Marks the pack's blobs as found. Returns whether any snapshot refers to one.
fn mark(record: &PackRecord, walk: &Walk<'_, '_>, findings: &Findings) -> bool {
    let mut referenced = false;
    for segment in &record.directory.segments {
        for blob in &segment.blobs {
            if record.header.kind == ObjectKind::TreePack {
                referenced |= walk.trees.found(&blob.id).is_some();
                continue;
            }
            let Some(length) = walk.data.found(&blob.id) else { continue };
            referenced = true;
            if length != blob.length {
                let item = format!("blob {}", blob.id.short());
                let message = format!("is {} bytes long, and a file says {length}", blob.length);
                findings.add(Finding::of_blob(&blob.id, item, message));
            }
        }
    }
    referenced
}
