//! Who collects where the store cannot create if absent: one client, which the repository names.
//!
//! Two collectors could there begin one generation each under the same name, and none would know. So the first client
//! that collects writes its name down, and others refuse. Taking over is a command; afterwards nothing is
//! collected for a day, so that a collection by the one before has ended or failed. This is the one place
//! where safety rests on a clock, and the reason why such stores are second best.

use super::Repository;
use super::error::{Kind, Named, RepositoryError, Result};
use crate::format::generation::Maintainer;
use crate::format::header::ObjectKind;
use crate::store::layout;

/// How long after a take-over nothing is collected, in seconds.
const SETTLE: i64 = 24 * 3600;

impl Repository {
    /// Makes sure that this client may collect. `takes_over`: it shall from now on.
    pub fn require_maintainer(&self, takes_over: bool) -> Result<()> {
        if self.store.is_conditional() {
            return Ok(());
        }
        let own = match self.cache.maintainer()? {
            Some(own) => own,
            None => {
                let own = self.environment.chance.bytes()?;
                self.cache.keep_maintainer(own)?;
                own
            }
        };
        let now = self.environment.clock.now();
        let found = self.read_maintainer()?;
        let refuse = |message: String| {
            Err(RepositoryError::new(Kind::Conflict, layout::MAINTAINER, message))
        };
        let named = match found {
            Some(found) if found.id == own => found,
            Some(found) if !takes_over => {
                return refuse(format!(
                    "this store cannot tell who of two collectors is first, so that one client collects: \
                     it is {}'s. To collect from here, run `aumbry prune --become-maintainer`, and \
                     not there any more",
                    found.host
                ));
            }
            other => {
                let named = Maintainer {
                    id: own,
                    host: self.environment.host.clone(),
                    since: now,
                    took_over: other.is_some(),
                };
                let payload = named.encode();
                let object = self.seal(ObjectKind::Maintainer, layout::MAINTAINER, payload)?;
                self.store.create(layout::MAINTAINER, object)?;
                // Of two at once, the last one stays.
                match self.read_maintainer()? {
                    Some(written) if written.id == own => written,
                    _ => return refuse("another client became the maintainer just now".into()),
                }
            }
        };
        let waited = now.seconds.saturating_sub(named.since.seconds);
        if named.took_over && (0..SETTLE).contains(&waited) {
            return refuse(format!(
                "this client has taken over {} hours ago; it collects from 24 hours on, when what the \
                 one before had begun has ended",
                waited / 3600
            ));
        }
        Ok(())
    }

    fn read_maintainer(&self) -> Result<Option<Maintainer>> {
        let object = match self.store.get(layout::MAINTAINER).map_err(RepositoryError::from) {
            Ok(object) => object,
            Err(error) if error.kind == Kind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let payload = self.sealer().unseal(ObjectKind::Maintainer, layout::MAINTAINER, object)?;
        Maintainer::decode(&payload).named(layout::MAINTAINER).map(Some)
    }
}
