//! The config: made again of the settings that every key slot holds.

use super::{Examined, RepairOptions, Trouble};
use crate::ops::OpsError;
use crate::repository::Repository;
use crate::repository::error::Kind;
use crate::repository::verify::names::CONFIG;

/// What became of the config.
#[derive(Debug, Default)]
pub struct ConfigRepair {
    /// It is gone.
    pub missing: bool,
    /// It is damaged.
    pub damaged: Option<Trouble>,
    /// Where the damaged one was put.
    pub quarantined: Vec<String>,
    /// It was made again, or would be in a dry run.
    pub made: bool,
}

/// Makes the config again if it is lost or damaged. The repository was opened without it then
/// ([`Repository::open_without_config`]).
pub fn repair_config(
    repository: &Repository,
    options: &RepairOptions,
) -> Result<ConfigRepair, OpsError> {
    let mut repair = ConfigRepair::default();
    let mut examined = Examined::default();
    match repository.examine(CONFIG) {
        Err(error) if error.kind == Kind::NotFound => repair.missing = true,
        found => {
            let damage = found?.map(|error| repository.require_damage(error)).transpose()?;
            examined.damaged.extend(damage.map(Trouble::from));
        }
    }
    repair.damaged = examined.damaged.first().cloned();
    repair.made = repair.missing || repair.damaged.is_some();
    if repair.made && !options.dry_run {
        repair.quarantined = examined.quarantine(repository)?;
        repository.create_config()?;
    }
    Ok(repair)
}
