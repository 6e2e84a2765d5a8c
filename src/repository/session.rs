//! Registers writers and readers, and decides their slots once.
//!
//! A writer reads the newest generation, registers, and reads the generations again: either it sees what a
//! collector condemned, or the collector sees the writer (`docs/format.md`, "Sessions").

use std::collections::HashSet;

use super::Repository;
use super::error::Result;
use super::known_place::Look as KeysLook;
use super::look::Look;
use super::planted::{Step, is_left_out};
use super::reserve::Spender;
use crate::format::header::ObjectKind;
use crate::format::session::{Purpose, Session};
use crate::format::snapshot::Decision;
use crate::id::{SessionId, SnapshotId};
use crate::monitor::Monitor;
use crate::store::{Created, ObjectInfo, layout};

/// What became of a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Committed {
    /// The snapshot is there to stay.
    Snapshot(SnapshotId),
    /// A collector gave the session up: what it counted on may be gone. Nothing is lost; whoever still has the
    /// source registers anew and stores what is missing.
    Fenced,
}

/// Where sessions and their slots are.
const SLOT_FOLDERS: [&str; 2] = [layout::SESSIONS, layout::SNAPSHOTS];

/// What marks say in the second form, where slots cannot.
pub(super) struct DecisionMarks {
    /// Who commits nothing.
    pub(super) aborted: Vec<SessionId>,
    /// The snapshots that were reported.
    pub(super) confirmed: HashSet<SnapshotId>,
}

fn aborted_in(aborts: &[ObjectInfo]) -> impl Iterator<Item = SessionId> {
    aborts.iter().filter_map(|object| layout::parse_abort(&object.name))
}

impl Repository {
    /// Registers a session: reads the newest generation, says so in the session's name, and looks again. When a
    /// generation began meanwhile, its collector may not have seen this session, so another is registered. Whoever
    /// may store something, a collector among them, looks for newer keys, too: either it sees them, or whoever drops
    /// an old epoch's data key sees the session.
    pub fn register(&self, purpose: Purpose) -> Result<SessionId> {
        Ok(self.register_by(purpose, None, false)?.0)
    }

    /// Registers a collector, if need be in the place of a part of the reserve.
    pub fn register_at_need(&self) -> Result<SessionId> {
        Ok(self.register_by(Purpose::Collect, Some(Spender::Collecting), false)?.0)
    }

    /// Registers a writer, who wants to know all that it counts on: what it looks at afterwards comes in one listing, where
    /// the store can do that.
    pub(super) fn register_writer(&self, purpose: Purpose) -> Result<(SessionId, Look)> {
        let (session, look) = self.register_by(purpose, None, true)?;
        let look = match look {
            Some(look) => look,
            None => self.look()?,
        };
        Ok((session, look))
    }

    fn register_by(
        &self,
        purpose: Purpose,
        spender: Option<Spender>,
        looks_at_all: bool,
    ) -> Result<(SessionId, Option<Look>)> {
        // A guess: the look after registering decides. So where looking costs something, what was seen last will do; who
        // has seen nothing would often guess wrong, and register twice.
        let is_new = !self.has_looked() && self.cache.indexes()?.is_empty();
        let mut generation = match is_new || self.store.lists_cheaply() {
            true => self.newest_generation()?,
            false => self.newest_seen()?,
        };
        loop {
            let session = SessionId { generation, random: self.environment.chance.bytes()? };
            let payload = Session {
                purpose,
                host: self.environment.host.clone(),
                user: self.environment.user.clone(),
                time: self.environment.clock.now(),
            };
            let name = layout::session(session);
            if purpose == Purpose::Read {
                // A restore on another machine need not wait until the store is probed: nobody relies on what a reader
                // writes but a collector, which waits for it if it sees it.
                let end = [layout::snapshot(session), layout::abort(session)];
                [&name, &end[0], &end[1]].into_iter().for_each(|name| self.store.excuse(name));
            }
            let object = self.seal(ObjectKind::Session, &name, payload.encode())?;
            if self.create_at_need(&name, object, spender)? == Created::AlreadyThere {
                continue;
            }
            self.remember_probe();
            let look = match looks_at_all {
                true => Some(self.look()?),
                false => None,
            };
            let mut is_renewed = false;
            if self.has_unproven_keys() {
                let keys = match &look {
                    Some(look) => look.keys.clone(),
                    None => self.store.list(layout::KEYS)?,
                };
                match self.look_at_keys(keys)? {
                    KeysLook::Same => {}
                    KeysLook::Renewed => is_renewed = true,
                    KeysLook::Removed(error) => {
                        self.abort_by(session, spender)?;
                        return Err(error);
                    }
                    KeysLook::Elsewhere(error) => {
                        // An ABORT under keys that nobody has there would be damage.
                        let _ = self.store.delete(&name);
                        return Err(error);
                    }
                }
            }
            let now = match &look {
                _ if is_left_out(Step::LookAfterRegistering) => generation,
                Some(look) => look.generations.newest,
                None => self.newest_generation()?,
            };
            // With newer keys, it is sealed with those, too.
            if now == generation && !is_renewed {
                if purpose != Purpose::Read
                    && let Err(error) =
                        self.require_newest_keys_of(look.as_ref().map(|look| &look.keys[..]))
                {
                    self.abort(session)?;
                    return Err(error);
                }
                return Ok((session, look));
            }
            // Nobody shall wait for what will never do anything.
            self.abort_by(session, spender)?;
            generation = now;
        }
    }

    /// Registers a reader where the store may be written; says so where it may not.
    pub fn register_reader(&self, monitor: &dyn Monitor) -> Option<SessionId> {
        self.register_reader_by(false, monitor).map(|(session, _)| session)
    }

    /// The same for a reader that brings the index up to date next: it does so by what it saw when it had registered.
    pub fn register_reader_and_look(
        &self,
        monitor: &dyn Monitor,
    ) -> (Option<SessionId>, Option<Look>) {
        match self.register_reader_by(true, monitor) {
            Some((session, look)) => (Some(session), look),
            None => (None, None),
        }
    }

    fn register_reader_by(
        &self,
        looks_at_all: bool,
        monitor: &dyn Monitor,
    ) -> Option<(SessionId, Option<Look>)> {
        match self.register_by(Purpose::Read, None, looks_at_all) {
            Ok(registered) => Some(registered),
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
        Ok(self.mark_aborted(session, spender)? && self.store.size(&slot)?.is_none())
    }

    /// Makes the mark that says in the second form that a session commits nothing. `false`: it was there before.
    fn mark_aborted(&self, session: SessionId, spender: Option<Spender>) -> Result<bool> {
        let name = layout::abort(session);
        // Who may only create may not write it once more.
        if self.store.size(&name)?.is_some() {
            return Ok(false);
        }
        let object = self.seal(ObjectKind::Mark, &name, Vec::new())?;
        self.create_at_need(&name, object, spender)?;
        Ok(true)
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

    /// Like [`Repository::end`], for a session that has read all that it wanted to and has never tried to commit: nobody has
    /// put a snapshot into its slot, and a sweep that it does not see now comes after all that it read. So it decides and
    /// looks at once. What the look found comes by itself: the session has ended without it.
    fn end_reading(&self, session: SessionId) -> Result<Result<bool>> {
        let decide = || match self.store.is_conditional() {
            true => self.abort(session),
            false => self.mark_aborted(session, None),
        };
        let (is_ours, seen) = self.in_any_order(decide, || Ok(self.generations()))?;
        Ok(seen.map(|generations| is_ours && generations.swept() <= session.generation))
    }

    /// Ends a reader's session, and says so when a collector had given it up.
    pub fn end_reader(&self, session: Option<SessionId>, monitor: &dyn Monitor) {
        match session.map(|session| self.end_reading(session)) {
            None | Some(Ok(Ok(true))) => {}
            Some(Ok(Err(error))) => monitor.note(&format!(
                "whether a collector gave this reader up while it ran could not be found out: {error}"
            )),
            Some(Ok(Ok(false))) => monitor.note(
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
        self.undecided_of(&self.list_slots()?, None)
    }

    /// All sessions, and after them all slots: who decides meanwhile is seen to have decided.
    pub(super) fn list_slots(&self) -> Result<Vec<ObjectInfo>> {
        Ok(self.store.list_folders(&SLOT_FOLDERS, 2 * self.cache.slot_count()?)?)
    }

    /// All sessions and all slots in any order, for who only wants to know of sessions that there was a moment at which
    /// they were not decided: who was seen to be registered, and whose slot was not there, has been undecided in
    /// between, or before.
    pub(super) fn list_slots_in_any_order(&self) -> Result<Vec<ObjectInfo>> {
        let chance = &self.environment.chance;
        if chance.repeats() && chance.bytes::<1>()?[0] % 2 == 0 {
            let slots = self.store.list(layout::SNAPSHOTS)?;
            let mut listed = self.store.list(layout::SESSIONS)?;
            listed.extend(slots);
            return Ok(listed);
        }
        Ok(self.store.list_folders_at_once(&SLOT_FOLDERS, 2 * self.cache.slot_count()?)?)
    }

    /// The sessions that are not decided, by a listing of both folders, and in the second form by the marks, if they were
    /// listed after that.
    pub(super) fn undecided_of(
        &self,
        listed: &[ObjectInfo],
        marks: Option<&DecisionMarks>,
    ) -> Result<Vec<SessionId>> {
        let decided = self.decided_of(listed, marks)?;
        let names = listed.iter().map(|object| &object.name);
        let mut sessions: Vec<_> = names.filter_map(|name| layout::parse_session(name)).collect();
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
        self.decided_of(&self.store.list(layout::SNAPSHOTS)?, None)
    }

    fn decided_of(
        &self,
        slots: &[ObjectInfo],
        marks: Option<&DecisionMarks>,
    ) -> Result<HashSet<SessionId>> {
        let mut decided: HashSet<_> =
            slots.iter().filter_map(|object| layout::parse_snapshot(&object.name)).collect();
        if let Some(marks) = marks {
            decided.extend(&marks.aborted);
        } else if !self.store.is_conditional() {
            decided.extend(aborted_in(&self.store.list(layout::ABORTS)?));
        }
        Ok(decided)
    }

    /// Lists what marks say where slots cannot, after the slots; `None` where slots say it themselves.
    pub(super) fn list_marks(&self) -> Result<Option<DecisionMarks>> {
        if self.store.is_conditional() {
            return Ok(None);
        }
        let store = &self.store;
        let (aborts, confirmed) =
            store.both(|| store.list(layout::ABORTS), || store.list(layout::CONFIRMED))?;
        let names = confirmed.iter().map(|object| &object.name);
        let confirmed = names.filter_map(|name| layout::parse_confirmed(name).map(SnapshotId));
        Ok(Some(DecisionMarks {
            aborted: aborted_in(&aborts).collect(),
            confirmed: confirmed.collect(),
        }))
    }

    /// What a session said of itself.
    pub fn session(&self, id: SessionId) -> Result<Session> {
        use super::error::Named;
        let name = layout::session(id);
        let object = self.store.get(&name)?;
        let payload = self.sealer().unseal(ObjectKind::Session, &name, object)?;
        Session::decode(&payload).named(name)
    }
}
