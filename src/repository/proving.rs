//! Which form of the protocol a repository uses, and whether its store still does what that relies on.
//!
//! The form is decided once, by a probe, when the repository is made. Later the store is probed before the first write,
//! unless this client remembers that it passed within a week. A store that does less than it did is not written to.

use super::error::{Kind, RepositoryError, Result};
use super::index::cache::IndexCache;
use super::{Environment, Repository};
use crate::format::config::Form;
use crate::store::{Capabilities, Store};

/// For how long a store is taken at what it showed, in seconds: so that a backup every hour does not pay for it.
const REMEMBERED_SECONDS: i64 = 7 * 24 * 3600;

/// Decides the form of a new repository.
pub(super) fn decide_form(store: Store, environment: &Environment) -> Result<(Store, Form)> {
    let (store, is_conditional) = match store.is_unproven() {
        false => (store.clone(), store.is_conditional()),
        true => {
            let found = store.probe(&nonce(environment)?)?;
            if let Some(lack) = found.lacks(false) {
                let message = format!("no repository can live there: {lack}");
                return Err(RepositoryError::new(Kind::Invalid, store.location(), message));
            }
            // What could not be proven is not relied on: the second form is as safe without it.
            (store.proven(found), found.creates_once && found.races_prove_it)
        }
    };
    match is_conditional {
        true => Ok((store, Form::Conditions)),
        false => Ok((store.without_conditions(), Form::Confirmations)),
    }
}

/// The store as all clients of the repository use it.
pub(super) fn in_form(
    store: Store,
    form: Form,
    cache: &IndexCache,
    environment: &Environment,
) -> Result<Store> {
    let store = match form {
        Form::Conditions => store,
        Form::Confirmations => store.without_conditions(),
    };
    if !store.is_unproven() || store.is_guarded() {
        return Ok(store);
    }
    let age = |probed: crate::units::Timestamp| environment.clock.now().seconds - probed.seconds;
    let remembered = cache.probed(store.identity())?;
    // A clock that was wrong may have put it in the future.
    match remembered.map(age) {
        Some(0..REMEMBERED_SECONDS) => Ok(store),
        _ => Ok(store.guarded(form == Form::Conditions, &nonce(environment)?)),
    }
}

pub(super) fn nonce(environment: &Environment) -> Result<String> {
    let random: [u8; 16] = environment.chance.bytes()?;
    Ok(format!("{:032x}", u128::from_le_bytes(random)))
}

impl Repository {
    /// Finds out anew what the store does; `None` for one that need not be asked.
    pub fn probe_store(&self) -> Result<Option<Capabilities>> {
        if !self.store.is_unproven() {
            return Ok(None);
        }
        Ok(Some(self.store.probe(&nonce(&self.environment)?)?))
    }

    /// Remembers for a week what a probe has found. That it cannot be remembered costs another probe, no more.
    pub(super) fn remember_probe(&self) {
        if self.store.probed().is_some() {
            let now = self.environment.clock.now();
            let _ = self.cache.keep_probed(self.store.identity(), now);
        }
    }
}
