//! Rekey: a new key epoch for what is new, for the key slots that stay; and an old epoch's data key dropped when
//! nothing needs it any more.
//!
//! Old packs stay readable and move into the new epoch as `prune` copies them. Nothing is uploaded again at
//! once, and nobody else's passphrase is needed (`docs/design/0004-rekey.md`).

use std::collections::BTreeSet;

use crate::format::keyring::Keyring;
use crate::id::KeySlotId;
use crate::monitor::{Monitor, Phase};
use crate::ops::OpsError;
use crate::ops::marking::Marking;
use crate::ops::prune::usage::{Exceptions, Usage};
use crate::repository::Repository;
use crate::repository::error::{Kind, RepositoryError};
use crate::repository::key_updates::EpochUse;
use crate::repository::keys::KeySlot;
use crate::repository::reader::BlobReader;
use crate::repository::verify::names;

/// Bytes of opened segments that are kept while trees are followed.
const SEGMENTS_KEPT: u64 = 64 << 20;

/// What is to change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// One more epoch, which seals what is new.
    NewEpoch,
    /// The data keys of old epochs that nothing needs are dropped.
    DropOld,
}

/// How to rekey.
#[derive(Debug, Clone)]
pub struct RekeyOptions {
    /// What is to change.
    pub change: Change,
    /// Slots that get nothing and are removed: those of lost machines.
    pub remove: Vec<KeySlotId>,
}

/// What a rekeying would do.
#[derive(Debug, Clone)]
pub struct RekeyPlan {
    /// What changes.
    pub change: Change,
    /// The epoch that seals what is new now.
    pub epoch: u32,
    /// The slots that get the new keyring.
    pub carried: Vec<KeySlot>,
    /// The slots that cannot get it, and why: with them, what is stored from now on cannot be read.
    pub left_behind: Vec<(String, String)>,
    /// The slots that go.
    pub removed: Vec<KeySlot>,
    /// Epochs whose data keys go.
    pub dropped: Vec<u32>,
    /// Epochs whose data keys are still needed, and what for.
    pub needed: Vec<(u32, EpochUse)>,
}

impl RekeyPlan {
    /// Whether there is anything to do.
    pub fn is_empty(&self) -> bool {
        self.change == Change::DropOld && self.dropped.is_empty()
    }
}

/// What a rekeying did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RekeySummary {
    /// The epoch that seals what is new.
    pub epoch: u32,
    /// Revision of the keyring that was published.
    pub revision: u32,
    /// Slots that were added meanwhile and lack the new keyring.
    pub missed: Vec<KeySlotId>,
}

/// Finds out what a rekeying would do.
pub fn plan(
    repository: &Repository,
    options: &RekeyOptions,
    monitor: &dyn Monitor,
) -> Result<RekeyPlan, OpsError> {
    repository.require_newest_keys()?;
    let mut plan = RekeyPlan {
        change: options.change,
        epoch: repository.sealer().newest_epoch(),
        carried: Vec::new(),
        left_behind: Vec::new(),
        removed: Vec::new(),
        dropped: Vec::new(),
        needed: Vec::new(),
    };
    let own = repository.slot();
    if options.remove.contains(&own) {
        return Err(OpsError::Repository(RepositoryError::new(
            Kind::Invalid,
            names::key(own),
            "is the key that opened the repository just now; open it with another one to remove it",
        )));
    }
    for slot in repository.key_slots()? {
        match slot {
            Ok(slot) if options.remove.contains(&slot.id) => plan.removed.push(slot),
            Ok(slot) if slot.id == own || slot.label.public_key.is_some() => {
                plan.carried.push(slot)
            }
            Ok(slot) => plan.left_behind.push((
                names::key(slot.id),
                "was made by a version that gave slots no public key".into(),
            )),
            Err(error) if error.item == names::key(own) => return Err(OpsError::Repository(error)),
            Err(error) => plan.left_behind.push((error.item, error.message)),
        }
    }
    if options.change == Change::DropOld {
        plan_drop(repository, &mut plan, monitor)?;
    }
    Ok(plan)
}

/// What nobody needs of an epoch today nobody will tomorrow: whoever registers from now on has newer keys.
fn plan_drop(
    repository: &Repository,
    plan: &mut RekeyPlan,
    monitor: &dyn Monitor,
) -> Result<(), OpsError> {
    let epochs = &repository.sealer().keyring().epochs;
    let old: Vec<u32> = epochs
        .iter()
        .filter(|keys| keys.epoch != plan.epoch && keys.data_key.is_some())
        .map(|keys| keys.epoch)
        .collect();
    if old.is_empty() {
        return Ok(());
    }
    // So that fewer headers have to be read, and that packs are known which a listing leaves out.
    repository.refresh_index(monitor)?;
    for (epoch, needs) in old.iter().zip(repository.epoch_uses(&old)?) {
        if needs.is_unused() {
            plan.dropped.push(*epoch);
        } else {
            plan.needed.push((*epoch, needs));
        }
    }
    if plan.dropped.is_empty() {
        return Ok(());
    }
    // A collector that moved something meanwhile would make it seem lost.
    let session = repository.register_reader(monitor);
    let proven = prove_unneeded(repository, plan.dropped.iter().copied().collect(), monitor);
    repository.end_reader(session, monitor);
    proven
}

/// Proves that everything that snapshots need stands in packs that are shown, and that none of these epochs
/// sealed. That no pack of theirs is shown does not prove it: a listing may lack some, or they may be away until
/// somebody brings them back, and a data key that was dropped does not come back.
fn prove_unneeded(
    repository: &Repository,
    epochs: BTreeSet<u32>,
    monitor: &dyn Monitor,
) -> Result<(), OpsError> {
    monitor.phase(Phase::Mark);
    let generations = repository.generations()?;
    let snapshots = repository.snapshots(monitor)?;
    repository.require_checkpoint(&generations, &snapshots).map_err(|error| RepositoryError {
        message: format!("{}; no key is dropped, either", error.message),
        ..error
    })?;
    repository.refresh_index(monitor)?;
    repository.adopt_all_packs()?;
    let reader = BlobReader::new(repository, SEGMENTS_KEPT);
    // Whatever is remembered: what is done then cannot be undone.
    let marks = match Marking::new(&reader, monitor).anew(&snapshots.all)? {
        Ok(marks) => marks,
        Err(finding) => return Err(may_be_needed(finding.item, finding.message)),
    };
    let exceptions = Exceptions { epochs, ..Exceptions::default() };
    let usage = Usage::count(repository, &marks, &exceptions)?;
    match usage.lost.example {
        None => Ok(()),
        Some(example) => {
            repository.require_readable_packs()?;
            let lost = usage.lost.blobs;
            let message = format!("is needed, and in no pack that is shown ({lost} such blobs)");
            Err(may_be_needed(format!("blob {}", example.short()), message))
        }
    }
}

fn may_be_needed(item: String, message: String) -> OpsError {
    OpsError::Repository(RepositoryError::corrupt(
        item,
        format!(
            "{message}; what is missing may come back and need an old key, so none is dropped. \
             `aumbry check` names the files, `aumbry backup --force` of their source stores them again, `aumbry \
             repair snapshots --forget-originals` makes snapshots without them"
        ),
    ))
}

/// Somebody may have looked at the plan for long, and a pack that was given up may have arrived meanwhile.
fn require_still_unused(repository: &Repository, epochs: &[u32]) -> Result<(), OpsError> {
    let uses = repository.epoch_uses(epochs)?;
    match epochs.iter().zip(uses).find(|(_, needs)| !needs.is_unused()) {
        None => Ok(()),
        Some((epoch, _)) => Err(OpsError::Repository(RepositoryError::new(
            Kind::Conflict,
            format!("key epoch {epoch}"),
            "something came to need its data key meanwhile; run the command again",
        ))),
    }
}

/// Does what was planned; what came to need a data key since is kept from losing it. Everything takes effect with the
/// one object that gives the new keyring to all who stay; what follows tidies up, and another run does it if this
/// one is stopped.
pub fn rekey(repository: &Repository, plan: &RekeyPlan) -> Result<RekeySummary, OpsError> {
    let keyring: Keyring = match plan.change {
        Change::NewEpoch => repository.with_new_epoch()?,
        Change::DropOld => {
            require_still_unused(repository, &plan.dropped)?;
            repository.without_data_keys(&plan.dropped)?
        }
    };
    let own = repository.slot();
    let recipients: Vec<(KeySlotId, [u8; 32])> = plan
        .carried
        .iter()
        .filter_map(|slot| match slot.label.public_key {
            // Of the slot in use, the secret half is known: its label need not be believed.
            _ if slot.id == own => Some((own, repository.slot_public_key())),
            Some(key) => Some((slot.id, key)),
            None => None,
        })
        .collect();
    repository.publish_keyring(&keyring, &recipients)?;
    let mut summary = RekeySummary {
        epoch: keyring.epochs.last().map_or(0, |keys| keys.epoch),
        revision: keyring.revision,
        missed: Vec::new(),
    };
    for slot in &plan.removed {
        repository.remove_key(slot.id)?;
    }
    // Looked at afterwards, as whoever adds a slot does: one of the two sees the other.
    let known = |id: KeySlotId| {
        recipients.iter().any(|(known, _)| *known == id)
            || plan.removed.iter().any(|slot| slot.id == id)
            || plan.left_behind.iter().any(|(item, _)| *item == names::key(id))
    };
    for slot in repository.key_slots()?.into_iter().flatten() {
        if !known(slot.id) && slot.label.revision < keyring.revision {
            summary.missed.push(slot.id);
        }
    }
    if plan.left_behind.is_empty() {
        repository.remove_updates_before(keyring.revision)?;
    }
    Ok(summary)
}
