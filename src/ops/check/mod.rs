//! Check: whether the repository can give back what it promises.
//!
//! The structure: the config, every key slot, session, slot, tomb and index object is read from the store and
//! unsealed; every snapshot's trees are followed, each blob once; every blob that is referred to stands in a
//! pack that exists and is as long as the index says. Tree packs may come from the local cache here. With
//! data: packs are fetched from the store and every byte of them is proven, those that nothing refers to
//! as well.
//!
//! Every changed byte, every cut, every exchange of one object for another is found, because each object
//! is authenticated, bound to its name, and read whole. What is *removed* leaves less behind:
//!
//! | removed | found |
//! |---|---|
//! | config; the key slot in use | always |
//! | pack that an index object lists | always |
//! | index object of a session that committed | always: its packs are in no index object |
//! | index object of a session that did not | by a client whose cache knows it; it cost nothing but time |
//! | snapshot | by a client that saw it; by others when a later one names it as its predecessor and nothing was ever forgotten |
//! | the newest snapshot | by a client that saw it; others cannot tell it from one that was never made |
//! | another key slot | never: slots may be removed, and no object says how many there are |
//! | session | never: a collector removes old ones. Undecided, its backup fails when it commits |
//! | ABORT in a slot | never: the session is undecided again, and a collector aborts it once more |
//! | tomb | never: what was forgotten is back. Swept meanwhile, its absent packs are found |
//! | mark of a tomb that was undone | never: the tomb is gone, too, unless the undelete was stopped between the two |
//! | pack that no index object lists | never, unless a snapshot refers to it: it was left by a stopped backup |
//!
//! | damage record | never: writers count on the pack again until a check reads it |
//! | ledger | never: what it told counts as not proven |
//! | reserve | never, and damage to it neither: it holds nothing |
//!
//! A pack that an index object lists and that is gone, or that was recorded as damaged before, is damage only as
//! long as a snapshot needs something of it that stands nowhere else; then it is noted.
//!
//! What is found is put to use. Each pack of which all is proven is entered in a ledger, in the local cache and on
//! request in the store, and parts are taken of those that were not proven for the longest time. Each pack that is
//! damaged is read once more and then recorded in the store: writers count it as missing, and the next backup that
//! meets what it held stores it again (`repository::health`). Beside that, a check changes nothing.
//!
//! The order makes a check beside running backups sound: snapshots are listed before index objects, and those
//! before packs, while writers create in the opposite order; and a registered reader holds the collector off.

mod drill;
mod known;
mod mirrors;
mod names;
mod packs;
mod prove;
pub mod sample;
mod small;
mod standing;

use std::collections::HashSet;

use crate::format::snapshot::Snapshot;
use crate::id::PackId;
use crate::id::SessionId;
use crate::id::SnapshotId;
use crate::monitor::{Monitor, Phase};
use crate::ops::OpsError;
use crate::repository::Repository;
use crate::repository::mirrors::PassedOver;
use crate::repository::reader::BlobReader;
use crate::repository::snapshots::Snapshots;
use crate::repository::verify::{Inventory, names as objects};
use crate::tree::entry::{Entry, FileContent};
use crate::units::Timestamp;

use crate::ops::findings::{Finding, Findings};
use crate::ops::threads::with_waiting;
use crate::ops::walk::{Place, Walk};
use drill::Drawing;
use known::Known;
use packs::{Packs, Sessions, take_stock};
use prove::prove;
use sample::Confidence;
use small::prove_small_objects;

/// Which packs are read byte for byte.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum DataSelection {
    /// None: the structure only.
    None,
    /// All.
    All,
    /// About this share of the packs, 0 to 1: those that were not proven for the longest time.
    Share(f64),
    /// Packs of about this many bytes together: those that were not proven for the longest time.
    Bytes(u64),
    /// Part `part` (from 1) of `parts`: the same packs every time, all of them over all parts.
    Part {
        /// Which part, from 1.
        part: u32,
        /// Of how many.
        parts: u32,
    },
    /// As many, chosen at random, as it takes to say so much of all of them.
    Sample(Confidence),
}

/// What to check.
#[derive(Debug, Clone)]
pub struct CheckOptions {
    /// Which packs are read.
    pub data: DataSelection,
    /// How many files are restored into memory.
    pub restore_sample: u64,
    /// Share with other clients when packs were proven.
    pub share_ledger: bool,
    /// Bytes that everything together may use.
    pub memory_budget: u64,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The object or blob: `packs/…`, `index/…`, `blob 4f2a…`, `snapshots/…`.
    pub item: String,
    /// What is wrong with it.
    pub message: String,
    /// The files and directories it hits, as `snapshot:path`, at most [`CHECK_NAMED_FILES`] of them.
    pub hits: Vec<String>,
    /// How many it hits in all.
    pub hit_count: u64,
}

/// What a random sample of the packs proves, if none of it was damaged: with the probability `confidence`, or a
/// higher one, a sample would have met a bad pack if less than `proportion` of all were good.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SampleResult {
    /// The packs that the sample was drawn from: those that are not known to be damaged.
    pub packs: u64,
    /// How many were drawn.
    pub read: u64,
    /// How many of those that were read are bad: above 0, nothing is proven.
    pub bad: u64,
    /// The confidence that was reached, at least the one that was asked for.
    pub confidence: f64,
    /// The proportion that was asked for.
    pub proportion: f64,
}

/// A file that was restored into memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DrilledFile {
    /// As `snapshot:path`.
    pub name: String,
    /// How many bytes it has.
    pub size: u64,
    /// What is wrong with it, if anything.
    pub error: Option<String>,
}

/// How many files are named for each damage.
pub const CHECK_NAMED_FILES: usize = 20;

/// What a check found.
#[derive(Debug, Clone, Default)]
pub struct CheckSummary {
    /// Snapshots followed.
    pub snapshots: u64,
    /// Packs that the index lists.
    pub packs: u64,
    /// Packs read byte for byte.
    pub packs_read: u64,
    /// Bytes read from the store for that.
    pub bytes_read: u64,
    /// Blobs that snapshots refer to, each counted once.
    pub blobs: u64,
    /// Packs that nothing refers to: left by interrupted backups, collected later. Not damage.
    pub unreferenced_packs: u64,
    /// What is wrong.
    pub damage: Vec<Damage>,
    /// Things worth telling that are not damage.
    pub notes: Vec<String>,
    /// Damaged packs that were not recorded as such before.
    pub recorded: u64,
    /// Packs, not counting damaged ones, that nobody has ever proven, as far as this client knows.
    pub never_proven: u64,
    /// When the pack was proven that was not proven for the longest time; `None`: none ever was.
    pub oldest_proof: Option<Timestamp>,
    /// What the sample proves, if one was asked for.
    pub sample: Option<SampleResult>,
    /// The files that were restored into memory.
    pub drilled: Vec<DrilledFile>,
    /// The other stores, if it was read from several.
    pub mirrors: Vec<CheckedMirror>,
    /// Stores that do not answer, and why.
    pub silent_stores: Vec<(String, String)>,
    /// How long it took.
    pub elapsed: std::time::Duration,
}

/// A store that was checked beside the first one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckedMirror {
    /// Where it is.
    pub location: String,
    /// Packs read byte for byte.
    pub packs_read: u64,
    /// Their bytes.
    pub bytes_read: u64,
    /// Objects of it that are damaged: each is told as damage, too.
    pub damaged: u64,
}

/// Checks the repository. Damage is in the summary; an error means that the check itself could not be done.
pub fn check(
    repository: &Repository,
    options: &CheckOptions,
    monitor: &dyn Monitor,
) -> Result<CheckSummary, OpsError> {
    validate(options.data)?;
    let clock = repository.environment().clock.clone();
    let start = clock.elapsed();
    let session = repository.register_reader(monitor);
    let checked = run(repository, options, session, monitor);
    repository.end_reader(session, monitor);
    let mut summary = checked?;
    summary.silent_stores = repository.silent_stores();
    summary.elapsed = clock.elapsed().saturating_sub(start);
    Ok(summary)
}

fn validate(data: DataSelection) -> Result<(), OpsError> {
    let reason = match data {
        DataSelection::Share(share) if !(0.0..=1.0).contains(&share) => {
            format!("a share of {share} of the packs: it must be from 0 to 1")
        }
        DataSelection::Part { part, parts } if part == 0 || part > parts => {
            format!("part {part} of {parts}: parts are counted from 1")
        }
        DataSelection::Sample(wanted) if !wanted.is_valid() => format!(
            "{} sure that {} are good: both must be above 0, and the first below 1",
            wanted.confidence, wanted.proportion
        ),
        _ => return Ok(()),
    };
    Err(OpsError::Invalid(reason))
}

fn run(
    repository: &Repository,
    options: &CheckOptions,
    session: Option<SessionId>,
    monitor: &dyn Monitor,
) -> Result<CheckSummary, OpsError> {
    let findings = Findings::default();
    let known_indexes = repository.cache().indexes()?;
    let snapshots = repository.snapshots(monitor)?;
    // Damaged index objects are found below, where all of them are read.
    repository.refresh_index(monitor)?;

    monitor.phase(Phase::CheckStructure);
    let mut summary =
        CheckSummary { snapshots: snapshots.all.len() as u64, ..CheckSummary::default() };
    let reader = BlobReader::for_a_walk(repository, options.memory_budget);
    let drawn = Drawing::new(options.restore_sample, repository)?;
    let offer = |place: &Place, entry: &Entry, file: &FileContent| drawn.offer(place, entry, file);
    let mut walk = Walk::new(&reader, monitor, &findings);
    if drawn.is_wanted() {
        walk = walk.with_files(&offer);
    }
    with_waiting(repository, || walk.run(&snapshots.all))?;
    summary.blobs = walk.data.count() + walk.trees.count();

    let indexes = repository.listed_indexes()?;
    let inventory = repository.inventory()?;
    with_waiting(repository, || {
        prove_small_objects(repository, &inventory, &snapshots, &findings)
    })?;
    let mut known = Known::load(repository, &inventory, &findings)?;
    let listed: HashSet<_> = indexes.iter().copied().collect();
    let gone = known_indexes.iter().filter(|id| !listed.contains(id));
    let sessions = Sessions {
        committed: &committed(&snapshots, &inventory),
        lost_indexes: &gone.map(|id| id.session).collect(),
    };
    let packs = take_stock(
        repository,
        &walk,
        &indexes,
        &inventory,
        &sessions,
        &known,
        &findings,
        &mut summary,
    )?;
    drop(walk);

    summary.drilled = drawn.restore(&reader, &findings, monitor)?;
    monitor.phase(Phase::CheckData);
    prove(&packs, &mut known, &reader, options, &findings, monitor, &mut summary)?;
    tell_proofs(repository, &packs, &known, options, session, &mut summary)?;

    // Those that were read whole told of it themselves.
    for (pack, damage) in repository.take_mended() {
        let item = objects::pack(pack);
        if !findings.has(&item) {
            let message = format!("{damage} damaged; parity mends it");
            findings.add(Finding::of_object(item, message, Vec::new()));
        }
    }
    let first = repository.leading_location();
    for PassedOver { location, name, what } in repository.take_passed_over() {
        // Packs of the first store have told of it themselves.
        if location != first || !findings.has(&name) {
            let message = format!("in {location}: {what}; another store has it whole");
            findings.add(Finding::of_object(name, message, Vec::new()));
        }
    }
    let mut findings = findings.finish();
    let followed = match findings.is_empty() {
        true => Vec::new(),
        false => still_kept(repository, &snapshots, monitor)?,
    };
    let is_complete = names::name_hits(&reader, &followed, &mut findings, monitor)?;
    let was_forgotten = followed.len() < snapshots.all.len();
    for mut finding in findings {
        if finding.is_elsewhere && finding.hit_count > 0 {
            // What it would hit can be read.
            (finding.hits, finding.hit_count, finding.note) = (Vec::new(), 0, None);
        }
        let nothing_lost = finding.hit_count == 0 && (is_complete || finding.blobs.is_empty());
        match finding.note.take() {
            Some(note) if nothing_lost => summary.notes.push(note),
            None if nothing_lost && finding.of_blobs && was_forgotten => {
                summary.notes.push(format!(
                    "{}: {}; only what was forgotten while this check ran needed it",
                    finding.item, finding.message
                ));
            }
            _ => summary.damage.push(Damage::from(finding)),
        }
    }
    compare_stores(repository, &mut summary)?;
    let unknown = inventory.unknown.iter();
    summary.notes.extend(unknown.map(|name| format!("{name} is no object of this program")));
    Ok(summary)
}

/// What a hot store and a cold one lack of each other.
fn compare_stores(repository: &Repository, summary: &mut CheckSummary) -> Result<(), OpsError> {
    let gaps = repository.gaps()?;
    let mut lost: HashSet<String> = gaps.lost.into_iter().map(|object| object.name).collect();
    if !lost.is_empty() {
        // What was deleted between two listings is not lost.
        let again: HashSet<String> =
            repository.gaps()?.lost.into_iter().map(|object| object.name).collect();
        lost.retain(|name| again.contains(name));
    }
    let mut lost: Vec<String> = lost.into_iter().collect();
    lost.sort();
    // A pack may never have come to the hot store, because its writer was stopped. It is read from its copy.
    let (packs, lost): (Vec<String>, Vec<String>) =
        lost.into_iter().partition(|name| objects::parse_pack(name).is_some());
    summary.damage.extend(lost.into_iter().map(|item| Damage {
        item,
        message: "is gone from the hot store; the cold one has a copy, and `aumbry repair hot` brings it back"
            .to_string(),
        hits: Vec::new(),
        hit_count: 0,
    }));
    for (count, what) in [
        (gaps.uncopied.len(), "objects of the hot store have no copy in the cold one"),
        (packs.len(), "packs of trees are in the cold store and not in the hot one"),
    ] {
        if count > 0 {
            summary.notes.push(format!("{count} {what}: `aumbry prune` copies them"));
        }
    }
    Ok(())
}

/// The snapshots that nobody has forgotten while the check ran: what only others need may be collected meanwhile, from
/// a reader that is registered when a collector gives it up.
fn still_kept(
    repository: &Repository,
    snapshots: &Snapshots,
    monitor: &dyn Monitor,
) -> Result<Vec<(SnapshotId, Snapshot)>, OpsError> {
    let now = repository.snapshots(monitor)?;
    let listed = now.all.iter().map(|(id, _)| id);
    // What vanished without having been forgotten is lost, and so may be what it needs.
    let kept: HashSet<_> = listed.chain(&now.vanished).chain(damaged_ids(&now)).collect();
    Ok(snapshots.all.iter().filter(|(id, _)| kept.contains(id)).cloned().collect())
}

fn damaged_ids(snapshots: &Snapshots) -> impl Iterator<Item = &SnapshotId> {
    snapshots.damaged.iter().map(|(id, _)| id)
}

/// Keeps when packs were proven, tells of it, and shares it if that is wanted.
fn tell_proofs(
    repository: &Repository,
    packs: &Packs,
    known: &Known,
    options: &CheckOptions,
    session: Option<SessionId>,
    summary: &mut CheckSummary,
) -> Result<(), OpsError> {
    let ledger = known.ledger(&packs.present);
    let gone: Vec<_> = repository.cache().proven()?.into_keys().collect();
    let gone: Vec<_> = gone.into_iter().filter(|id| !packs.is_present(id)).collect();
    if !gone.is_empty() {
        repository.cache().update_proven(&[], &gone)?;
    }
    let is_unproven =
        |id: &PackId| !known.proven.contains_key(id) && !known.damaged.contains_key(id);
    summary.never_proven = packs.present.iter().filter(|(id, _)| is_unproven(id)).count() as u64;
    summary.oldest_proof = ledger.proven.iter().map(|(_, time)| *time).min();
    if options.share_ledger {
        let shared = match session {
            Some(session) => repository.share_ledger(session, &ledger).map_err(|it| it.to_string()),
            None => Err("this check is not registered".to_string()),
        };
        if let Err(error) = shared {
            summary.notes.push(format!("when packs were proven could not be shared ({error})"));
        }
    }
    Ok(())
}

/// The sessions that had committed when the snapshots were listed, those that were forgotten among them.
fn committed(snapshots: &Snapshots, inventory: &Inventory) -> HashSet<SessionId> {
    let all = snapshots.all.iter().map(|(id, _)| id.0);
    all.chain(snapshots.vanished.iter().map(|id| id.0))
        .chain(inventory.tombs.iter().map(|tomb| tomb.session))
        .collect()
}
