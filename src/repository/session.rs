//! Registers writers and readers, and decides their slots once.
//!
//! A writer reads the newest generation, registers, and reads the generations again: either it sees what a
//! collector condemned, or the collector sees the writer (`docs/format.md`, "Sessions").

use super::Repository;
use super::error::{Kind, RepositoryError, Result};
use crate::format::header::ObjectKind;
use crate::format::session::{Purpose, Session};
use crate::format::snapshot::Decision;
use crate::id::{SessionId, SnapshotId};
use crate::store::Created;
use crate::store::layout;

impl Repository {
    /// The newest generation of collection that has begun; 0 before the first.
    fn newest_generation(&self) -> Result<u32> {
        let objects = self.store.list(layout::GC)?;
        Ok(objects
            .iter()
            .filter_map(|object| {
                layout::parse_condemned(&object.name).or_else(|| layout::parse_sweep(&object.name))
            })
            .max()
            .unwrap_or(0))
    }

    /// Registers a session.
    pub fn register(&self, purpose: Purpose) -> Result<SessionId> {
        let mut generation = self.newest_generation()?;
        loop {
            if generation > 0 && purpose == Purpose::Write {
                // Writing beside a collector without heeding what it condemns would lose data.
                return Err(RepositoryError::new(
                    Kind::Newer,
                    self.store.location(),
                    "has been collected by a newer Aumbry; this version may read it but not write to it",
                ));
            }
            let session = SessionId { generation, random: self.environment.chance.bytes()? };
            let payload = Session {
                purpose,
                host: self.environment.host.clone(),
                user: self.environment.user.clone(),
                time: self.environment.clock.now(),
            };
            let name = layout::session(session);
            let object = self.seal(ObjectKind::Session, &name, payload.encode())?;
            if self.store.create(&name, object)? == Created::AlreadyThere {
                continue;
            }
            let now = self.newest_generation()?;
            if now == generation {
                return Ok(session);
            }
            generation = now;
        }
    }

    /// Registers a reader where the store may be written; says so where it may not.
    pub fn register_reader(&self, monitor: &dyn crate::monitor::Monitor) -> Option<SessionId> {
        match self.register(Purpose::Read) {
            Ok(session) => Some(session),
            Err(error) => {
                monitor.note(&format!(
                    "could not register as a reader ({error}): nothing holds a collector off while \
                     this runs"
                ));
                None
            }
        }
    }

    /// Fills the session's slot with ABORT: it will commit nothing. A slot that is decided stays as it is.
    pub fn abort(&self, session: SessionId) -> Result<()> {
        let name = layout::snapshot(session);
        let object = self.seal(ObjectKind::Snapshot, &name, Decision::Abort.encode())?;
        self.store.create(&name, object)?;
        Ok(())
    }

    /// Fills the session's slot with a snapshot. Every pack and index object that it needs is in the store.
    pub fn commit(&self, session: SessionId, decision: &Decision) -> Result<SnapshotId> {
        let name = layout::snapshot(session);
        let fenced = || {
            RepositoryError::new(
                Kind::Conflict,
                &name,
                "space was reclaimed while this ran, and what the snapshot needs may be gone with it; \
                 run the backup again, it stores only what is missing",
            )
        };
        let object = self.seal(ObjectKind::Snapshot, &name, decision.encode())?;
        if self.store.create(&name, object.clone())? == Created::AlreadyThere {
            return Err(fenced());
        }
        if self.newest_generation()? != session.generation {
            return Err(fenced());
        }
        let id = SnapshotId(session);
        // The snapshot is in the store: a cache that cannot be written only costs reading it again.
        let _ = self.cache.update_slots(&[(id, object)], &[]);
        Ok(id)
    }

    /// The sessions that are registered and whose slots are not decided.
    pub fn undecided_sessions(&self) -> Result<Vec<SessionId>> {
        let sessions = self.store.list(layout::SESSIONS)?;
        let slots = self.store.list(layout::SNAPSHOTS)?;
        let decided: std::collections::HashSet<_> =
            slots.iter().filter_map(|object| layout::parse_snapshot(&object.name)).collect();
        Ok(sessions
            .iter()
            .filter_map(|object| layout::parse_session(&object.name))
            .filter(|session| !decided.contains(session))
            .collect())
    }

    /// What a session said of itself.
    pub fn session(&self, id: SessionId) -> Result<Session> {
        use super::error::Named;
        let name = layout::session(id);
        let object = self.store.get(&name)?;
        let payload = self.sealer.unseal(ObjectKind::Session, &name, object)?;
        Session::decode(&payload).named(name)
    }
}
