//! Takes damaged objects out of the way: a copy of the bytes as they stand goes to `quarantine/`, then the object goes.
//!
//! Only objects that others make up for: index objects (packs' directories are the truth), the config (the keyring has
//! its content), tombs and objects of collection that mean nothing while they cannot be read. Never packs,
//! slots of sessions or keys: nothing could take their place, and a later program may still make something of them.

use super::Repository;
use super::error::{Kind, Named, RepositoryError, Result};
use crate::format::config::Settings;
use crate::format::generation::{Condemned, Sweep};
use crate::format::header::ObjectKind;
use crate::format::index::Index;
use crate::store::{Created, layout};

/// How many damaged objects of one name are kept beside one another.
const COPIES: u32 = 1000;

impl Repository {
    /// What is wrong with an object that may be quarantined, as the store has it, whatever the cache has; `None`:
    /// it is whole. `NotFound`: it is gone.
    pub fn examine(&self, name: &str) -> Result<Option<RepositoryError>> {
        let object = self.store.get(name)?;
        Ok(self.prove_bytes(name, object).err())
    }

    fn prove_bytes(&self, name: &str, object: Vec<u8>) -> Result<()> {
        let unseal = |kind| self.sealer().unseal(kind, name, object);
        if name == layout::CONFIG {
            Settings::decode(&unseal(ObjectKind::Config)?).named(name).map(drop)
        } else if layout::parse_index(name).is_some() {
            Index::decode(&unseal(ObjectKind::Index)?).named(name).map(drop)
        } else if layout::parse_condemned(name).is_some() {
            Condemned::decode(&unseal(ObjectKind::Condemned)?).named(name).map(drop)
        } else if layout::parse_sweep(name).is_some() {
            Sweep::decode(&unseal(ObjectKind::Sweep)?).named(name).map(drop)
        } else if layout::parse_tomb(name).is_some() {
            unseal(ObjectKind::Tomb).map(drop)
        } else {
            Err(RepositoryError::new(Kind::Invalid, name, "is nothing that may be quarantined"))
        }
    }

    /// Quarantines a damaged object. Returns the copy's name; `None`: it is whole, or gone, by now. What a newer
    /// version may have written, or a key that is missing here may open, is left where it is: that is the error.
    pub fn quarantine(&self, name: &str) -> Result<Option<String>> {
        let object = match self.store.get(name).map_err(RepositoryError::from) {
            Err(error) if error.kind == Kind::NotFound => return Ok(None),
            object => object?,
        };
        match self.prove_bytes(name, object.clone()) {
            Ok(()) => return Ok(None),
            Err(error) => self.require_damage(error)?,
        };
        for number in 0..COPIES {
            let copy = match number {
                0 => format!("{}{name}", layout::QUARANTINE),
                _ => format!("{}{name}.{number}", layout::QUARANTINE),
            };
            // Where a store would write over another copy.
            let is_taken = || match self.store.get(&copy) {
                Ok(bytes) => Ok(bytes != object),
                Err(error) if error.kind == crate::store::Kind::NotFound => Ok(false),
                Err(error) => Err(error),
            };
            if !self.store.is_conditional() && is_taken()? {
                continue;
            }
            // The same bytes are there already when an earlier run was stopped here.
            if self.store.create(&copy, object.clone())? == Created::New {
                if let Some(tomb) = layout::parse_tomb(name) {
                    // Its number is not used again, and a late delivery of it forgets nothing.
                    self.undo_tomb(tomb)?;
                }
                self.store.delete(name)?;
                return Ok(Some(copy));
            }
        }
        let message = format!("{COPIES} damaged objects of this name are there already");
        Err(RepositoryError::new(Kind::Conflict, format!("{}{name}", layout::QUARANTINE), message))
    }

    /// This error as damage, if it is. An epoch that these keys do not have is, too, unless newer keys can be found.
    pub fn require_damage(&self, error: RepositoryError) -> Result<RepositoryError> {
        match error.kind {
            Kind::Corrupt => Ok(error),
            Kind::WrongKey => self.require_newest_keys().map(|()| error),
            _ => Err(error),
        }
    }

    /// Makes the config again of the settings in the keyring, if there is none.
    pub fn create_config(&self) -> Result<()> {
        let settings = self.sealer().keyring().settings.clone();
        let object = self.seal(ObjectKind::Config, layout::CONFIG, settings)?;
        if self.store.create(layout::CONFIG, object)? == Created::AlreadyThere {
            // Somebody else has just made it, or it was never gone.
            return self.examine(layout::CONFIG)?.map_or(Ok(()), Err);
        }
        Ok(())
    }
}
