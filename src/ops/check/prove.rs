//! Packs of which every byte is read: which, in what order, and what is lost with those that are not what they should be.
//!
//! Memory: as many packs as there are threads and one more (so that one is fetched while the others are worked
//! on), fewer where the budget asks for it; on a disk parts of them (`repository::stream`); and 12 bytes for each blob of a
//! damaged pack. From a store far away, an eighth of the budget for packs that are fetched ahead in the place of that one
//! more. Where there are deltas, 8 MiB for places of their bases, and what `repository::deferred` takes.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use jiff::tz::TimeZone;
use parking_lot::Mutex;

use super::known::Known;
use super::mirrors::{Elsewhere, prove_mirrors};
use super::packs::Packs;
use super::sample::Confidence;
use super::standing::Standing;
use super::{CheckOptions, CheckSummary, DataSelection, SampleResult};
use crate::codec::digest::derive_key;
use crate::id::{BlobId, PackId};
use crate::monitor::{Monitor, Progress};
use crate::ops::OpsError;
use crate::ops::findings::{Finding, Findings};
use crate::repository::Repository;
use crate::repository::ahead::Ahead;
use crate::repository::deferred::Deferred;
use crate::repository::error::RepositoryError;
use crate::repository::index::cache::Excluded;
use crate::repository::reader::BlobReader;
use crate::repository::verify::{PackProof, PackVerifier, WHOLE_WHEN_READ_AGAIN, names};
use crate::units::Timestamp;
use crate::units::time::format_local;

/// Bases whose places are looked up together, and remembered (8 MiB): those beyond are decompressed twice.
const MOST_LOCATED: usize = 1 << 16;
/// Proofs that the cache takes in together.
const PROOFS_AT_ONCE: usize = 64;

/// The packs to be read, in order of their names: those that were asked for; those whose lengths are wrong, to
/// learn which blobs that costs; and those in which a blob failed when somebody read it, unless that is recorded.
///
/// Shares and bytes are taken of the packs that are not known to be damaged: those that were never proven come
/// first, then those whose proof is the oldest; at random where that is the same.
fn select(
    repository: &Repository,
    packs: &Packs,
    known: &Known,
    failing: &HashSet<PackId>,
    data: DataSelection,
    summary: &mut CheckSummary,
) -> Result<Vec<(PackId, u64)>, OpsError> {
    let key = |seed: &[u8], id: &PackId| -> u64 {
        let material = [seed, id.to_string().as_bytes()].concat();
        let digest = derive_key("aumbry v1 sample of packs", &material);
        digest.first_chunk::<8>().map_or(0, |first| u64::from_le_bytes(*first))
    };
    let seed = repository.environment().chance.bytes::<32>()?;
    let mut selected = packs.present.clone();
    let not_damaged = |selected: &mut Vec<(PackId, u64)>| {
        selected.retain(|(id, _)| !known.damaged.contains_key(id));
    };
    let longest_unproven_first = |selected: &mut Vec<(PackId, u64)>| {
        not_damaged(selected);
        selected.sort_by_cached_key(|(id, _)| (known.proven.get(id).copied(), key(&seed, id)));
    };
    match data {
        DataSelection::None => selected.clear(),
        DataSelection::All => {}
        DataSelection::Share(share) => {
            longest_unproven_first(&mut selected);
            selected.truncate((selected.len() as f64 * share).ceil() as usize);
        }
        DataSelection::Bytes(bytes) => {
            longest_unproven_first(&mut selected);
            let mut left = bytes;
            selected.retain(|(_, length)| {
                let taken = left > 0;
                left = left.saturating_sub(*length);
                taken
            });
        }
        DataSelection::Part { part, parts } => selected.retain(|(id, _)| {
            key(&[], id) % u64::from(parts.max(1)) == u64::from(part.saturating_sub(1))
        }),
        DataSelection::Sample(wanted) => {
            not_damaged(&mut selected);
            selected.sort_by_cached_key(|(id, _)| key(&seed, id));
            let packs = selected.len() as u64;
            selected.truncate(wanted.sample_size(packs) as usize);
            summary.sample = Some(sample(wanted, packs, selected.len() as u64));
        }
    }
    let chosen: HashSet<_> = selected.iter().map(|(id, _)| *id).collect();
    let is_news = |id: &PackId| failing.contains(id) && !known.damaged.contains_key(id);
    let is_due = |id: &PackId| packs.wrong_length.contains(id) || is_news(id);
    let due = packs.present.iter().filter(|(id, _)| is_due(id) && !chosen.contains(id));
    selected.extend(due);
    selected.sort_unstable();
    Ok(selected)
}

fn sample(wanted: Confidence, packs: u64, read: u64) -> SampleResult {
    let confidence = wanted.reached(packs, read);
    SampleResult { packs, read, bad: 0, confidence, proportion: wanted.proportion }
}

/// Reads every byte of packs, records which were proven and which are damaged, and finds what is lost.
pub fn prove(
    packs: &Packs,
    known: &mut Known,
    reader: &BlobReader<'_>,
    options: &CheckOptions,
    findings: &Findings,
    monitor: &dyn Monitor,
    summary: &mut CheckSummary,
) -> Result<(), OpsError> {
    let repository = reader.repository();
    let mut selected =
        select(repository, packs, known, &reader.take_failing(), options.data, summary)?;
    let deferred = defer(packs, reader, &mut selected, monitor)?;
    if let Some(deferred) = &deferred {
        reader.prove_when_opened(deferred.clone());
    }
    if repository.thaws() {
        let ids: Vec<PackId> = selected.iter().map(|(id, _)| *id).collect();
        repository.thaw(&repository.cold_packs_for(&ids)?)?;
    }
    let bytes: u64 = selected.iter().map(|(_, length)| length).sum();
    monitor.expect(Progress { files: 0, bytes });
    let affordable = PackVerifier::affordable(repository, &selected, options.memory_budget);
    let ahead = repository.fetches_packs_ahead(options.memory_budget / 8);
    if let Some(ahead) = &ahead {
        ahead.add_packs(selected.iter().copied());
    }
    let waiting = usize::from(ahead.is_none());
    let workers = (rayon::current_num_threads() + waiting).min(affordable).min(selected.len());
    let work = Work {
        packs,
        known,
        reader,
        ahead,
        deferred: deferred.as_deref(),
        monitor,
        bytes: AtomicU64::new(0),
        results: Mutex::default(),
        failure: Mutex::default(),
    };
    work.run(&selected, workers, Pass::First);
    let has_failed = work.failure.lock().is_some();
    if let Some(deferred) = deferred.as_ref().filter(|_| !has_failed) {
        // Nobody opened what was left of them, or it was wrong.
        let rest = deferred.take_unproven();
        let selected: Vec<_> =
            selected.iter().filter(|(id, _)| rest.contains_key(id)).copied().collect();
        let more: u64 = selected.iter().map(|(_, length)| length).sum();
        monitor.expect(Progress { files: 0, bytes: bytes + more });
        work.run(&selected, workers, Pass::Last(&rest));
    }
    let Work { bytes, results, failure, .. } = work;
    let mut results = results.into_inner();
    results.remember(repository)?;
    match record_missing(packs, known, repository) {
        Ok(count) => results.recorded += count,
        Err(error) => results.unrecorded = Some(error),
    }
    if let Some(error) = failure.into_inner() {
        return Err(error);
    }
    summary.packs_read = selected.len() as u64;
    summary.bytes_read = bytes.into_inner();
    summary.recorded = results.recorded;
    summary.notes.append(&mut results.notes);
    if let Some(error) = results.unrecorded {
        summary.notes.push(format!(
            "damage could not be recorded ({error}): writers go on to count on what is damaged"
        ));
    }
    if let Some(sample) = &mut summary.sample {
        sample.bad = results.damaged.values().filter(|proof| !proof.is_gone).count() as u64;
    }
    let read: HashSet<PackId> = selected.into_iter().map(|(id, _)| id).collect();
    settle(packs, known, reader, &results.damaged, &read, findings)?;
    prove_mirrors(reader, packs, &read, options, findings, monitor, summary)?;
    known.proven.extend(results.proven);
    for id in results.damaged.keys() {
        known.proven.remove(id);
        known.damaged.entry(*id).or_insert(None);
    }
    Ok(())
}

/// Finds the segments that are opened as bases of deltas anyway, which are proven then, and puts each pack with deltas right behind
/// those with its bases, so that few wait for it. `None` where there are no deltas, or where not all packs are read.
fn defer(
    packs: &Packs,
    reader: &BlobReader<'_>,
    selected: &mut [(PackId, u64)],
    monitor: &dyn Monitor,
) -> Result<Option<Arc<Deferred>>, OpsError> {
    if selected.len() < packs.present.len() || packs.deltas.bases().next().is_none() {
        return Ok(None);
    }
    reader.locate_all(packs.deltas.bases().take(MOST_LOCATED).copied().collect());
    let cache = reader.repository().cache();
    let mut ids: HashMap<u32, PackId> = HashMap::new();
    let mut segments = HashSet::new();
    let mut bases_of: BTreeMap<PackId, BTreeSet<PackId>> = BTreeMap::new();
    for (base, of_deltas) in packs.deltas.bases_with_packs().take(MOST_LOCATED) {
        if monitor.interrupted() {
            return Err(OpsError::Interrupted);
        }
        let Some(location) = reader.base_location(base)? else { continue };
        let id = match ids.get(&location.pack) {
            Some(id) => *id,
            None => *ids.entry(location.pack).or_insert(cache.pack(location.pack)?.id),
        };
        segments.insert((id, location.segment));
        for pack in of_deltas {
            bases_of.entry(pack).or_default().insert(id);
        }
    }
    let mut places: HashMap<PackId, usize> = HashMap::new();
    for (pack, bases) in &bases_of {
        for pack in bases.iter().filter(|base| !bases_of.contains_key(base)).chain([pack]) {
            let next = places.len();
            places.entry(*pack).or_insert(next);
        }
    }
    selected.sort_by_key(|(id, _)| places.get(id).copied().unwrap_or(usize::MAX));
    Ok(Some(Arc::new(Deferred::new(segments))))
}

/// Which time packs are gone through.
#[derive(Clone, Copy)]
enum Pass<'p> {
    /// Segments may be left for later.
    First,
    /// Nothing is left. Of each pack, whether something that was left of it was wrong when it was opened.
    Last(&'p HashMap<PackId, bool>),
}

/// What the threads have found.
#[derive(Default)]
struct Results {
    /// Packs proven, with when; those up to `remembered` are in the cache.
    proven: Vec<(PackId, Timestamp)>,
    remembered: usize,
    damaged: HashMap<PackId, PackProof>,
    notes: Vec<String>,
    /// Damage that was not recorded before.
    recorded: u64,
    /// Why some could not be.
    unrecorded: Option<RepositoryError>,
}

impl Results {
    /// Hands the cache what it has not heard yet.
    fn remember(&mut self, repository: &Repository) -> Result<(), OpsError> {
        let damaged: Vec<_> = self.damaged.keys().copied().collect();
        repository.cache().update_proven(&self.proven[self.remembered..], &damaged)?;
        self.remembered = self.proven.len();
        Ok(())
    }
}

/// What the threads that prove packs share.
struct Work<'w, 'a> {
    packs: &'w Packs,
    known: &'w Known,
    reader: &'w BlobReader<'a>,
    ahead: Option<Ahead>,
    deferred: Option<&'w Deferred>,
    monitor: &'w dyn Monitor,
    bytes: AtomicU64,
    results: Mutex<Results>,
    failure: Mutex<Option<OpsError>>,
}

impl Work<'_, '_> {
    /// Proves these packs on so many threads.
    fn run(&self, selected: &[(PackId, u64)], workers: usize, pass: Pass<'_>) {
        let next = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..workers.min(selected.len()) {
                scope.spawn(|| {
                    if let Err(error) = self.take(selected, &next, pass) {
                        // Nobody else begins another pack.
                        next.store(usize::MAX / 2, Ordering::Relaxed);
                        self.failure.lock().get_or_insert(error);
                    }
                });
            }
        });
    }

    /// Takes pack after pack until there are no more. Each is recorded as soon as all of it is proven: a check that is
    /// stopped has not been for nothing.
    fn take(
        &self,
        selected: &[(PackId, u64)],
        next: &AtomicUsize,
        pass: Pass<'_>,
    ) -> Result<(), OpsError> {
        let repository = self.reader.repository();
        let mut verifier =
            PackVerifier::new(self.reader)?.taking(self.ahead.as_ref()).deferring(self.deferred);
        while let Some((id, _)) = selected.get(next.fetch_add(1, Ordering::Relaxed)) {
            if self.monitor.interrupted() {
                return Err(OpsError::Interrupted);
            }
            let listed = self.packs.listed.get(id);
            let (mut proof, was_wrong) = match pass {
                Pass::First => (verifier.verify(*id, listed)?, false),
                Pass::Last(rest) => {
                    (verifier.verify_again(*id, listed)?, rest.get(id) == Some(&true))
                }
            };
            self.bytes.fetch_add(proof.bytes, Ordering::Relaxed);
            self.monitor.advance(Progress { files: 0, bytes: proof.bytes });
            let is_damaged = !proof.damage.is_empty();
            if is_damaged {
                // Once more, before anybody acts on it.
                proof = verifier.verify_again(*id, listed)?;
            }
            let note = (proof.damage.is_empty() && (is_damaged || was_wrong))
                .then(|| format!("{}: {WHOLE_WHEN_READ_AGAIN}", names::pack(*id)));
            if proof.damage.is_empty() {
                if self.deferred.is_none_or(|deferred| deferred.is_read(*id)) {
                    self.is_whole(*id, note)?;
                }
            } else {
                self.is_damaged(*id, proof, repository);
            }
            // What was left of others may have been opened for this one.
            for id in self.deferred.map(Deferred::take_proven).unwrap_or_default() {
                self.is_whole(id, None)?;
            }
        }
        Ok(())
    }

    fn is_damaged(&self, id: PackId, proof: PackProof, repository: &Repository) {
        let recorded = match proof.is_certain && !proof.is_gone {
            true => record(repository, id, &proof),
            false => Ok(false),
        };
        let mut results = self.results.lock();
        match recorded {
            Ok(new) => results.recorded += u64::from(new),
            Err(error) => results.unrecorded = Some(error),
        }
        results.damaged.insert(id, proof);
    }

    fn is_whole(&self, id: PackId, note: Option<String>) -> Result<(), OpsError> {
        let repository = self.reader.repository();
        let now = repository.environment().clock.now();
        let mut results = self.results.lock();
        if self.known.damaged.contains_key(&id) {
            let message = "is recorded as damaged and is whole now; writers go on to do without it";
            results.notes.push(format!("{} {message}", names::pack(id)));
            return Ok(());
        }
        results.notes.extend(note);
        results.proven.push((id, now));
        match results.proven.len() - results.remembered {
            PROOFS_AT_ONCE => results.remember(repository),
            _ => Ok(()),
        }
    }
}

fn record(repository: &Repository, id: PackId, proof: &PackProof) -> Result<bool, RepositoryError> {
    repository.record_damage(id, &describe(id, proof), &proof.lost)
}

/// What is wrong with a pack, in one line.
pub fn describe(id: PackId, proof: &PackProof) -> String {
    let name = names::pack(id);
    let part = |error: &RepositoryError| match error.item.strip_prefix(&name) {
        Some("") => error.message.clone(),
        Some(part) => format!("{}: {}", part.trim_start_matches([',', ' ']), error.message),
        None => error.to_string(),
    };
    proof.damage.iter().map(part).collect::<Vec<_>>().join("; ")
}

/// Finds what is lost with the packs that are damaged or gone: of what they held, that which stands nowhere
/// else.
fn settle(
    packs: &Packs,
    known: &Known,
    reader: &BlobReader<'_>,
    damaged: &HashMap<PackId, PackProof>,
    read: &HashSet<PackId>,
    findings: &Findings,
) -> Result<(), OpsError> {
    let cache = reader.repository().cache();
    let mut bases = packs.deltas.bases();
    let lacks_base = bases.try_fold(false, |lacks, base| {
        Ok::<_, RepositoryError>(lacks || reader.base_location(base)?.is_none())
    })?;
    let repository = reader.repository();
    let is_whole = damaged.is_empty() && packs.suspects.is_empty() && packs.missing.is_empty();
    if is_whole && !lacks_base {
        return Ok(());
    }
    // What stands in packs that no index object lists is there, too.
    repository.adopt_all_packs()?;
    let elsewhere = Elsewhere::look(reader, packs, known, damaged, read)?;
    let standing = Standing::new(packs, known, repository, damaged, read, Some(&elsewhere))?;
    let has_mirrors = !repository.mirrors().is_empty();
    let (first, other) = (repository.leading_location(), |id: &PackId| elsewhere.note(id));
    let said_of = |id: &PackId, said: String| match has_mirrors {
        true => format!("in {first}: {said}{}", other(id)),
        false => said,
    };
    let here = match has_mirrors {
        true => Some(Standing::new(packs, known, repository, damaged, read, None)?),
        false => None,
    };
    // Those of a pack that stand nowhere else, and what is read against them. `true`: other stores have all that this pack
    // lost, and it is what stands nowhere else in this one.
    let nowhere_else = |id: &PackId, blobs: &[BlobId]| -> Result<_, RepositoryError> {
        let lost = standing.lost_of(elsewhere.lost(id, blobs))?;
        match &here {
            Some(here) if lost.is_empty() && elsewhere.of(id).is_some() => {
                Ok((here.lost_of(blobs)?, true))
            }
            _ => Ok((lost, false)),
        }
    };
    if lacks_base {
        for base in packs.deltas.bases() {
            if cache.base_outside(base, &Excluded::default())?.is_none() {
                let message =
                    "is in no pack that the repository has, and deltas are read against it";
                let lost = standing.lost_with(base)?;
                if !lost.is_empty() {
                    let item = format!("blob {}", base.short());
                    findings.add(Finding::of_blobs(lost, item, message.to_string()));
                }
            }
        }
    }
    let note = |id: &PackId| {
        let since = match known.damaged.get(id)? {
            Some(record) => format!(" since {}", in_utc(record.time)),
            None => String::new(),
        };
        let name = names::pack(*id);
        Some(match packs.suspects.get(id).map_or(0, |suspect| suspect.only_here) {
            0 => format!(
                "{name} is damaged{since} and healed: what snapshots need of it stands elsewhere, too"
            ),
            count => format!(
                "{name} is damaged{since}, and nothing is lost; {count} of its blobs, which stand in \
                 damaged packs only, are stored again by a backup that meets them"
            ),
        })
    };
    for (id, proof) in damaged.iter().filter(|(id, _)| !packs.unreadable.contains(id)) {
        let (lost, is_elsewhere) = nowhere_else(id, &proof.lost)?;
        let said = said_of(id, describe(*id, proof));
        let mut finding = Finding::of_object(names::pack(*id), said, lost);
        finding.is_elsewhere = is_elsewhere;
        finding.note = match proof.is_gone {
            true => Some(format!(
                "{} went while this check ran, and no snapshot needs it: it was collected",
                names::pack(*id)
            )),
            false if proof.is_of_bases() => Some(format!(
                "{} has deltas that no snapshot needs, and that cannot be read: what they are read against is lost",
                names::pack(*id)
            )),
            false => note(id),
        };
        findings.add(finding);
    }
    for (id, suspect) in packs.suspects.iter().filter(|(id, _)| !read.contains(id)) {
        let blobs: Vec<_> =
            suspect.blobs.iter().copied().filter(|blob| known.says_lost(id, blob)).collect();
        let said = match known.damaged.get(id) {
            Some(Some(record)) => {
                let since = in_utc(record.time);
                format!("recorded as damaged on {since}: {}", record.what)
            }
            _ => "recorded as damaged".to_string(),
        };
        let (lost, is_elsewhere) = nowhere_else(id, &blobs)?;
        let mut finding = Finding::of_object(names::pack(*id), said_of(id, said), lost);
        finding.is_elsewhere = is_elsewhere;
        finding.note = note(id);
        findings.add(finding);
    }
    for (id, index, blobs) in &packs.missing {
        let message =
            format!("is gone; {} lists it, with {} blobs", names::index(*index), blobs.len());
        let (lost, is_elsewhere) = nowhere_else(id, blobs)?;
        let said = said_of(id, message.clone());
        let mut finding = Finding::of_object(names::pack(*id), said, lost);
        finding.is_elsewhere = is_elsewhere;
        finding.note = Some(format!(
            "{} {message}; all of it that snapshots need stands elsewhere, too",
            names::pack(*id)
        ));
        findings.add(finding);
    }
    Ok(())
}

fn in_utc(time: Timestamp) -> String {
    format!("{} UTC", format_local(time, &TimeZone::UTC))
}

/// Records that packs are gone, where writers do not see it from a listing of their own. Returns of how many it
/// was not recorded before.
fn record_missing(
    packs: &Packs,
    known: &Known,
    repository: &Repository,
) -> Result<u64, RepositoryError> {
    let mut recorded = 0;
    if repository.store().lists_cheaply() {
        return Ok(recorded);
    }
    for (id, _, blobs) in packs.missing.iter().filter(|(id, ..)| !known.damaged.contains_key(id)) {
        // A listing may lack what is there.
        if repository.store().size(&names::pack(*id))?.is_none() {
            recorded += u64::from(repository.record_damage(*id, "is gone", blobs)?);
        }
    }
    Ok(recorded)
}
