//! Repair: mends what is damaged, out of what is left.
//!
//! Five parts, each for itself, in the order in which they build on one another: the config, without which nothing
//! opens; generations, without which nothing is written; the index; packs; snapshots. Each can say what it
//! would do and do nothing (`dry_run`), and returns the same summary.
//!
//! What all of them keep to:
//!
//! 1. They add, and they quarantine: what is taken out of its place is copied first, and only what others make up
//!    for is ever taken (`repository::quarantine`). No pack, no slot and no key is touched.
//! 2. What is added comes before what is taken away, so a run that is stopped has changed nothing for the worse, and the
//!    next one goes on.
//! 3. Only what is proven to be damage counts as damage. A store that does not answer stops the repair; what a newer
//!    version may have written, or needs a key that is missing here, is left and told.
//! 4. A second run finds nothing to do.

mod config;
mod generations;

mod index;
mod packs;
mod rewrite;
mod snapshots;

pub use config::{ConfigRepair, repair_config};

pub use generations::{GenerationsRepair, repair_generations};
pub use index::{IndexRepair, repair_index};
pub use packs::{PacksRepair, SalvagedPack, repair_packs, repair_packs_from};
pub use snapshots::{MadeSnapshot, SnapshotsRepair, repair_snapshots};

use crate::ops::OpsError;
use crate::repository::Repository;
use crate::repository::error::{Kind, RepositoryError};

/// How to repair.
#[derive(Debug, Clone)]
pub struct RepairOptions {
    /// Find out what would be done, and change nothing.
    pub dry_run: bool,
    /// `packs`: read every byte of every pack, to find the damaged ones that no check has recorded.
    pub read_data: bool,
    /// `snapshots`: forget the damaged snapshots that a repaired one stands for.
    pub forget_originals: bool,
    /// `generations`: somebody has said that no collector runs on any machine.
    pub no_collector_runs: bool,
    /// Name and version of the program, to record in snapshots.
    pub program: String,
    /// Bytes that everything together may use.
    pub memory_budget: u64,
}

/// Something that was found, and what is to be known of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// The object, snapshot or path.
    pub item: String,
    /// What is wrong with it.
    pub message: String,
}

impl From<RepositoryError> for Trouble {
    fn from(error: RepositoryError) -> Self {
        Trouble { item: error.item, message: error.message }
    }
}

/// Damaged objects: those that can be quarantined, and those that are left because they may be no damage.
#[derive(Debug, Default)]
struct Examined {
    damaged: Vec<Trouble>,
    left: Vec<Trouble>,
}

impl Examined {
    /// Looks at an object in the store.
    fn look(&mut self, repository: &Repository, name: &str) -> Result<(), OpsError> {
        match repository.examine(name) {
            Ok(None) => {}
            Ok(Some(error)) => match repository.require_damage(error.clone()) {
                Ok(damage) => self.damaged.push(damage.into()),
                Err(_) => self.left.push(error.into()),
            },
            // What is gone since it was listed was removed by a collector.
            Err(error) if error.kind == Kind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Quarantines what is damaged. Returns the names of the copies.
    fn quarantine(&self, repository: &Repository) -> Result<Vec<String>, OpsError> {
        let mut copies = Vec::new();
        for trouble in &self.damaged {
            copies.extend(repository.quarantine(&trouble.item)?);
        }
        Ok(copies)
    }
}
