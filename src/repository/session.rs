//! Registers writers and readers, and decides their slots once.
//!
//! A writer reads the newest generation, registers, and reads the generations again: either it sees what a
//! collector condemned, or the collector sees the writer (`docs/format.md`, "Sessions").

use std::collections::HashSet;

use super::Repository;
use super::error::Result;
use super::planted::{Step, is_left_out};
use super::reserve::Spender;
use crate::format::header::ObjectKind;
use crate::format::session::{Purpose, Session};
use crate::format::snapshot::Decision;
use crate::id::{SessionId, SnapshotId};
use crate::monitor::Monitor;
use crate::store::Created;
use crate::store::layout;

/// What became of a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Committed {
    /// The snapshot is there to stay.
    Snapshot(SnapshotId),
    /// A collector gave the session up: what it counted on may be gone. Nothing is lost; whoever still has the
    /// source registers anew and stores what is missing.
    Fenced,
}

impl Repository {
    /// Registers a session: reads the newest generation, says so in the session's name, and looks again. When a
    /// generation began meanwhile, its collector may not have seen this session, so another is registered. Whoever
    /// may store something, a collector among them, looks for newer keys, too: either it sees them, or whoever drops
    /// an old epoch's data key sees the session.
    pub fn register(&self, purpose: Purpose) -> Result<SessionId> {
        self.register_by(purpose, None)
    }

    /// Registers a collector, if need be in the place of a part of the reserve.
    pub fn register_at_need(&self) -> Result<SessionId> {
        self.register_by(Purpose::Collect, Some(Spender::Collecting))
    }

    fn register_by(&self, purpose: Purpose, spender: Option<Spender>) -> Result<SessionId> {
        let mut generation = self.newest_generation()?;
        loop {
            let session = SessionId { generation, random: self.environment.chance.bytes()? };
            let payload = Session {
                purpose,
                host: self.environment.host.clone(),
                user: self.environment.user.clone(),
                time: self.environment.clock.now(),
            };
            let name = layout::session(session);
            let object = self.seal(ObjectKind::Session, &name, payload.encode())?;
            if self.create_at_need(&name, object, spender)? == Created::AlreadyThere {
                continue;
            }
            self.remember_probe();
            let now = match is_left_out(Step::LookAfterRegistering) {
                true => generation,
                false => self.newest_generation()?,
            };
            if now == generation {
                if purpose != Purpose::Read
                    && let Err(error) = self.require_newest_keys()
                {
                    self.abort(session)?;
                    return Err(error);
                }
                return Ok(session);
            }
            // Nobody shall wait for what will never do anything.
            self.abort_by(session, spender)?;
            generation = now;
        }
    }

    /// Registers a reader where the store may be written; says so where it may not.
    pub fn register_reader(&self, monitor: &dyn Monitor) -> Option<SessionId> {
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

    /// Decides that the session commits nothing, so that nobody waits for it any more. `false`: it was decided before.
    /// [`Repository::end`] tells more.
    pub fn abort(&self, session: SessionId) -> Result<bool> {
        self.abort_by(session, None)
    }

    /// The same for a collector, if need be in the place of a part of the reserve.
    pub fn abort_at_need(&self, session: SessionId) -> Result<bool> {
        self.abort_by(session, Some(Spender::Collecting))
    }

    fn abort_by(&self, session: SessionId, spender: Option<Spender>) -> Result<bool> {
        let slot = layout::snapshot(session);
        if self.store.is_conditional() {
            let object = self.seal(ObjectKind::Snapshot, &slot, Decision::Abort.encode())?;
            return Ok(self.create_at_need(&slot, object, spender)? == Created::New);
        }
        // Written first, the other side read afterwards, as the writer does: of two at once both may find the other,
        // and never neither.
        let name = layout::abort(session);
        let was_there = self.store.size(&name)?.is_some();
        let object = self.seal(ObjectKind::Mark, &name, Vec::new())?;
        self.create_at_need(&name, object, spender)?;
        Ok(!was_there && self.store.size(&slot)?.is_none())
    }

    /// Ends a session without a snapshot. `false`: a collector had given it up before, and what it counted on may
    /// have gone. That is so also when its ABORT has been cleared away again: no sweep is published while an older
    /// session is undecided.
    pub fn end(&self, session: SessionId) -> Result<bool> {
        self.end_by(session, None)
    }

    /// The same for a collector, if need be in the place of a part of the reserve.
    pub fn end_at_need(&self, session: SessionId) -> Result<bool> {
        self.end_by(session, Some(Spender::Collecting))
    }

    fn end_by(&self, session: SessionId, spender: Option<Spender>) -> Result<bool> {
        let is_ours = self.abort_by(session, spender)?;
        Ok(is_ours && self.generations()?.swept() <= session.generation)
    }

    /// Whether a collector has given this session up, which has not ended itself.
    pub(super) fn is_fenced(&self, session: SessionId) -> Result<bool> {
        let is_decided = self.decided_sessions()?.contains(&session);
        Ok(is_decided || self.generations()?.swept() > session.generation)
    }

    /// Ends a reader's session, and says so when a collector had given it up.
    pub fn end_reader(&self, session: Option<SessionId>, monitor: &dyn Monitor) {
        match session.map(|session| self.end(session)) {
            None | Some(Ok(true)) => {}
            Some(Ok(false)) => monitor.note(
                "a collector gave this reader up while it ran: if anything could not be found, run the \
                 command again",
            ),
            Some(Err(error)) => {
                monitor.note(&format!("this command stays registered as a reader: {error}"));
            }
        }
    }

    /// Fills the session's slot with a snapshot, and looks whether a collector counted without it. Every pack and
    /// index object that the snapshot needs is in the store.
    pub fn commit(&self, session: SessionId, decision: &Decision) -> Result<Committed> {
        let name = layout::snapshot(session);
        let object = self.seal(ObjectKind::Snapshot, &name, decision.encode())?;
        if self.store.create(&name, object.clone())? == Created::AlreadyThere {
            return Ok(Committed::Fenced);
        }
        if !self.store.is_conditional() {
            if self.store.size(&layout::abort(session))?.is_some() {
                return Ok(Committed::Fenced);
            }
            let confirmed = layout::confirmed(session);
            let mark = self.seal(ObjectKind::Mark, &confirmed, Vec::new())?;
            self.store.create(&confirmed, mark)?;
        }
        let id = SnapshotId(session);
        // The ABORT of a collector that gave this session up may have been cleared away with its generation.
        let generations = self.generations()?;
        // A sweep that cannot be read may be one that did not let it live.
        generations.require_readable()?;
        if !generations.lets_live(session) && !is_left_out(Step::LookAfterCommitting) {
            return Ok(Committed::Fenced);
        }
        // The snapshot is in the store: a cache that cannot be written only costs reading it again.
        let _ = self.cache.update_slots(&[(id, object)], &[]);
        Ok(Committed::Snapshot(id))
    }

    /// The sessions that are registered and whose slots are not decided.
    pub fn undecided_sessions(&self) -> Result<Vec<SessionId>> {
        let mut sessions = self.registered_sessions()?;
        let decided = self.decided_sessions()?;
        sessions.retain(|session| !decided.contains(session));
        Ok(sessions)
    }

    /// The sessions that are registered, decided or not.
    pub fn registered_sessions(&self) -> Result<Vec<SessionId>> {
        let sessions = self.store.list(layout::SESSIONS)?;
        Ok(sessions.iter().filter_map(|object| layout::parse_session(&object.name)).collect())
    }

    /// The sessions that are decided, registered still or not.
    pub(super) fn decided_sessions(&self) -> Result<HashSet<SessionId>> {
        let slots = self.store.list(layout::SNAPSHOTS)?;
        let mut decided: HashSet<_> =
            slots.iter().filter_map(|object| layout::parse_snapshot(&object.name)).collect();
        if !self.store.is_conditional() {
            let aborts = self.store.list(layout::ABORTS)?;
            decided.extend(aborts.iter().filter_map(|object| layout::parse_abort(&object.name)));
        }
        Ok(decided)
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
