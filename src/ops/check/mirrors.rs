//! The other stores of a repository that is read from several: what they have of what the first lost, and what each has
//! damaged itself.
//!
//! The first store is checked as if it were alone. Of its packs that are damaged or gone, each is then read from the others:
//! only what none of them gives back is lost. Memory: as for the packs of the first store.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::known::Known;
use super::packs::Packs;
use super::prove::describe;
use super::{CheckOptions, CheckSummary, CheckedMirror, DataSelection};
use crate::id::{BlobId, PackId};
use crate::monitor::{Monitor, Progress};
use crate::ops::OpsError;
use crate::ops::findings::{Finding, Findings};
use crate::ops::references::BlobKey;
use crate::ops::threads::run_threads;
use crate::repository::error::Kind;
use crate::repository::mirrors::{Mirror, MirrorInventory};
use crate::repository::reader::BlobReader;
use crate::repository::verify::{PackProof, PackVerifier, names};

/// Threads that read objects of a mirror.
const WORKERS: usize = 4;

/// What other stores have of a pack that the first one lost, or has damaged.
pub struct Stands {
    /// The store that has it whole: where it is.
    pub whole_in: Option<String>,
    /// The blobs that cannot be read from any store's.
    pub lost: Vec<BlobId>,
    /// The same, to look them up.
    keys: HashSet<BlobKey>,
}

/// What other stores have of packs that are damaged or gone.
#[derive(Default)]
pub struct Elsewhere(HashMap<PackId, Stands>);

impl Elsewhere {
    /// Reads what is damaged, gone or recorded as damaged in the first store from the others. Nothing when there are none.
    pub fn look(
        reader: &BlobReader<'_>,
        packs: &Packs,
        known: &Known,
        damaged: &HashMap<PackId, PackProof>,
        read: &HashSet<PackId>,
    ) -> Result<Self, OpsError> {
        let mut found = Elsewhere::default();
        let mirrors = reader.repository().mirrors();
        if mirrors.is_empty() {
            return Ok(found);
        }
        let mut lost: Vec<(PackId, Vec<BlobId>)> = Vec::new();
        lost.extend(damaged.iter().map(|(id, proof)| (*id, proof.lost.clone())));
        let missing = packs.missing.iter().filter(|(id, ..)| !damaged.contains_key(id));
        lost.extend(missing.map(|(id, _, blobs)| (*id, blobs.clone())));
        let unread = packs.suspects.iter().filter(|(id, _)| !read.contains(id));
        lost.extend(unread.map(|(id, suspect)| {
            let blobs = suspect.blobs.iter().filter(|blob| known.says_lost(id, blob));
            (*id, blobs.copied().collect())
        }));
        let mut verifier = PackVerifier::new(reader)?;
        for (id, mut lost) in lost {
            let mut whole_in = None;
            for mirror in &mirrors {
                // What cannot be asked gives nothing back, and is told where its own objects are read.
                let Ok(proof) = verifier.verify_in(mirror, id, packs.listed.get(&id)) else {
                    continue;
                };
                if proof.damage.is_empty() {
                    whole_in = Some(mirror.location().to_string());
                    lost.clear();
                    break;
                }
                let also_lost: HashSet<BlobKey> = proof.lost.iter().map(BlobKey::new).collect();
                // A pack that nobody can say anything of has lost everything.
                if !proof.is_gone && (!also_lost.is_empty() || proof.is_mendable) {
                    lost.retain(|blob| also_lost.contains(&BlobKey::new(blob)));
                }
            }
            let keys = lost.iter().map(BlobKey::new).collect();
            found.0.insert(id, Stands { whole_in, lost, keys });
        }
        Ok(found)
    }

    /// What is known of a pack; nothing when it was not looked for.
    pub fn of(&self, id: &PackId) -> Option<&Stands> {
        self.0.get(id)
    }

    /// Whether another store was found to have this blob of a pack that the first one lost.
    pub fn has(&self, id: &PackId, blob: &BlobId) -> bool {
        self.0.get(id).is_some_and(|stands| !stands.keys.contains(&BlobKey::new(blob)))
    }

    /// The blobs that are lost of a pack of which the first store lost these.
    pub fn lost<'b>(&'b self, id: &PackId, of_first: &'b [BlobId]) -> &'b [BlobId] {
        self.0.get(id).map_or(of_first, |stands| &stands.lost)
    }

    /// What is said of a pack's damage beside what it is.
    pub fn note(&self, id: &PackId) -> String {
        match self.0.get(id).map(|stands| (&stands.whole_in, stands.lost.is_empty())) {
            Some((Some(location), _)) => format!("; {location} has it whole"),
            Some((None, true)) => "; the other stores have what is damaged in it".to_string(),
            _ => String::new(),
        }
    }
}

/// Reads the objects of every other store: all but packs, and of these as many as of the first.
pub fn prove_mirrors(
    reader: &BlobReader<'_>,
    packs: &Packs,
    read: &HashSet<PackId>,
    options: &CheckOptions,
    findings: &Findings,
    monitor: &dyn Monitor,
    summary: &mut CheckSummary,
) -> Result<(), OpsError> {
    for mirror in &reader.repository().mirrors() {
        let location = mirror.location().to_string();
        let inventory = match mirror.inventory() {
            Ok(inventory) => inventory,
            Err(error) if error.kind == Kind::Interrupted => return Err(OpsError::Interrupted),
            Err(error) => {
                summary.notes.push(format!("{location} could not be checked: {}", error.message));
                continue;
            }
        };
        let there: HashSet<PackId> = inventory.packs.iter().map(|(id, _)| *id).collect();
        let lacking = packs.listed.keys().filter(|id| !there.contains(id)).count();
        if lacking > 0 {
            summary.notes.push(format!(
                "{location} lacks {lacking} packs that the index lists: `aumbry mirror` brings what was \
                 stored since it ran last"
            ));
        }
        let work = OfMirror { mirror, location, reader, packs, findings, monitor };
        let checked = work.run(inventory, read, options)?;
        summary.mirrors.push(checked);
    }
    Ok(())
}

/// What the threads share that read a mirror's objects.
struct OfMirror<'m, 'a> {
    mirror: &'m Mirror,
    location: String,
    reader: &'m BlobReader<'a>,
    packs: &'m Packs,
    findings: &'m Findings,
    monitor: &'m dyn Monitor,
}

impl OfMirror<'_, '_> {
    fn run(
        self,
        MirrorInventory { mut packs, others }: MirrorInventory,
        read: &HashSet<PackId>,
        options: &CheckOptions,
    ) -> Result<CheckedMirror, OpsError> {
        packs.retain(|(id, length)| {
            let wanted = self.packs.listed.get(id).map(|listed| listed.object_length);
            options.data == DataSelection::All
                || read.contains(id)
                || wanted.is_some_and(|wanted| wanted != *length)
        });
        let repository = self.reader.repository();
        let bytes = packs.iter().map(|(_, length)| *length).sum();
        self.monitor.expect(Progress { files: 0, bytes });
        let affordable = PackVerifier::affordable(repository, &packs, options.memory_budget);
        let threads = repository.threads(WORKERS.min(affordable));
        let (next, damaged) = (AtomicUsize::new(0), AtomicU64::new(0));
        let tell = |name: &str, what: String| {
            damaged.fetch_add(1, Ordering::Relaxed);
            let message = format!("in {}: {what}", self.location);
            self.findings.add(Finding::of_object(name.to_string(), message, Vec::new()));
        };
        run_threads(threads, "reads a mirror", &|| {
            let mut verifier = PackVerifier::new(self.reader)?;
            loop {
                if self.monitor.interrupted() {
                    return Err(OpsError::Interrupted);
                }
                let number = next.fetch_add(1, Ordering::Relaxed);
                if let Some(object) = others.get(number) {
                    if let Some(what) = self.prove(&object.name)? {
                        tell(&object.name, what);
                    }
                } else if let Some((id, length)) = packs.get(number - others.len()) {
                    if let Some(what) = self.prove_pack(&mut verifier, *id)? {
                        tell(&names::pack(*id), what);
                    }
                    self.monitor.advance(Progress { files: 0, bytes: *length });
                } else {
                    return Ok(());
                }
            }
        })?;
        let packs_read = packs.len() as u64;
        let damaged = damaged.into_inner();
        Ok(CheckedMirror { location: self.location, packs_read, bytes_read: bytes, damaged })
    }

    /// What is wrong with an object that is no pack; `None`: nothing, or it was taken away meanwhile, or it is of a later
    /// version or under keys that are not here.
    fn prove(&self, name: &str) -> Result<Option<String>, OpsError> {
        match self.mirror.prove(self.reader.repository(), name) {
            Ok(()) => Ok(None),
            Err(error) => match error.kind {
                Kind::Corrupt => Ok(Some(error.message)),
                Kind::NotFound | Kind::Newer | Kind::WrongKey => Ok(None),
                _ => Err(error.into()),
            },
        }
    }

    /// The same of a pack.
    fn prove_pack(
        &self,
        verifier: &mut PackVerifier<'_, '_>,
        id: PackId,
    ) -> Result<Option<String>, OpsError> {
        let proof = verifier.verify_in(self.mirror, id, self.packs.listed.get(&id))?;
        if proof.damage.is_empty() || proof.is_gone || proof.is_of_bases() {
            return Ok(None);
        }
        Ok(Some(describe(id, &proof)))
    }
}
