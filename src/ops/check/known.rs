//! What earlier checks left behind: records of damaged packs, and ledgers of when packs were proven.

use std::collections::HashMap;

use rayon::iter::{IntoParallelRefIterator, ParallelIterator};

use crate::format::damage::DamageRecord;
use crate::format::ledger::Ledger;
use crate::id::{BlobId, PackId, SessionId};
use crate::ops::OpsError;
use crate::ops::findings::{Finding, Findings};
use crate::repository::Repository;
use crate::repository::error::{Kind, RepositoryError};
use crate::repository::health::merge_proven;
use crate::repository::verify::{Inventory, is_damage};
use crate::units::Timestamp;

/// What was known before this check.
pub struct Known {
    /// Packs that are recorded as damaged; `None`: the record cannot be read, which makes it no less of one.
    pub damaged: HashMap<PackId, Option<DamageRecord>>,
    /// When packs were last proven, by this client or by one that shared it.
    pub proven: HashMap<PackId, Timestamp>,
    /// The ledgers that this was learned from.
    pub ledgers: Vec<SessionId>,
}

impl Known {
    /// Reads it all.
    pub fn load(
        repository: &Repository,
        inventory: &Inventory,
        findings: &Findings,
    ) -> Result<Self, OpsError> {
        // What is gone since it was listed was removed by a collector.
        let usable = |error: RepositoryError| -> Result<(), OpsError> {
            match error.kind {
                Kind::NotFound => {}
                _ if is_damage(&error) => {
                    findings.add(Finding::of_object(error.item, error.message, Vec::new()));
                }
                _ => return Err(error.into()),
            }
            Ok(())
        };
        let read = |pack: &PackId| match repository.read_damage(*pack) {
            Ok(record) => Ok((*pack, Some(record))),
            Err(error) => usable(error).map(|()| (*pack, None)),
        };
        let damaged: HashMap<_, _> =
            inventory.damaged.par_iter().map(read).collect::<Result<_, OpsError>>()?;
        let now = repository.environment().clock.now();
        let mut proven = HashMap::new();
        merge_proven(&mut proven, repository.cache().proven()?, now);
        let mut ledgers = Vec::new();
        for session in &inventory.ledgers {
            match repository.read_ledger(*session) {
                Ok(ledger) => {
                    merge_proven(&mut proven, ledger.proven, now);
                    ledgers.push(*session);
                }
                Err(error) => usable(error)?,
            }
        }
        proven.retain(|pack, _| !damaged.contains_key(pack));
        Ok(Known { damaged, proven, ledgers })
    }

    /// Whether the record of a damaged pack says that this blob is lost.
    pub fn says_lost(&self, pack: &PackId, blob: &BlobId) -> bool {
        self.damaged.get(pack).is_some_and(|record| {
            let lost = record.as_ref().and_then(|record| record.lost.as_ref());
            lost.is_none_or(|lost| lost.contains(blob))
        })
    }

    /// What a check shares when these packs are all that there are.
    pub fn ledger(&self, present: &[(PackId, u64)]) -> Ledger {
        let proven = present.iter().filter_map(|(id, _)| Some((*id, *self.proven.get(id)?)));
        Ledger { superseded: self.ledgers.clone(), proven: proven.collect() }
    }
}
