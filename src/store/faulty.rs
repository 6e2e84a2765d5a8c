//! A store that fails when it is told to, for tests: the same calls, the same faults.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::error::{Kind, StoreError};
use crate::units::Timestamp;

/// On which side of its effect a call is cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// The call did nothing.
    Before,
    /// The call did everything, and its answer was lost.
    After,
}

/// Counts a store's calls and says which of them fail. Clones share their counts; a store is given
/// one by [`super::Store::with_faults`]. Calls are numbered from 0 in the order in which they
/// begin, so one thread meets the same faults every time.
#[derive(Clone, Default)]
pub struct FaultControl {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    calls: u64,
    remembered: Option<Vec<String>>,
    denies: bool,
    creates: u64,
    reads: u64,
    read_bytes: u64,
    deletes: u64,
    stop_at: Option<(u64, Effect)>,
    fail_at: Option<u64>,
    miss_read: Option<u64>,
    unlisted: BTreeSet<String>,
    full_at_create: Option<u64>,
    lose_reply_of_create: Option<u64>,
    bytes_left: Option<u64>,
    bytes_free: Option<u64>,
    locks: Option<BTreeMap<String, Timestamp>>,
    keeps_locked: bool,
    refuses_to_lock: Option<String>,
    prolonged: Vec<String>,
    archived: Option<String>,
    thawed: BTreeSet<String>,
}

/// What a call is, as far as faults tell calls apart.
#[derive(Clone, Copy)]
pub(super) enum Call {
    /// Makes an object of so many bytes.
    Create { bytes: u64 },
    /// Reads an object, or a part of it.
    Read,
    /// Takes an object of so many bytes away.
    Delete { bytes: u64 },
    /// Anything else.
    Other,
}

/// What becomes of a call.
pub(super) enum Verdict {
    Pass,
    Refuse(StoreError),
    StopAfter(StoreError),
    LoseReply,
}

impl FaultControl {
    /// No faults yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many calls began.
    pub fn calls(&self) -> u64 {
        self.state().calls
    }

    /// From now on each call is remembered: what it does and to what.
    pub fn remember(&self) {
        self.state().remembered = Some(Vec::new());
    }

    /// The calls since [`FaultControl::remember`] or since they were last taken, as `get config`.
    pub fn take_remembered(&self) -> Vec<String> {
        self.state().remembered.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// From now on whoever uses the store may create, read and list: it refuses every delete, and to write over what is
    /// there.
    pub fn allow_only_creating(&self) {
        self.state().denies = true;
    }

    /// From now on the store has object locks, which only remember until when. Deleting what is locked hides it, as S3
    /// does.
    pub fn simulate_locks(&self) {
        self.state().locks.get_or_insert_default();
    }

    /// Whether it refuses to delete what is locked, whatever the time: as stores do that keep no versions.
    pub fn keep_locked(&self, keeps: bool) {
        self.state().keeps_locked = keeps;
    }

    /// From now on it refuses to prolong the lock of this object, as where a stricter one is there; `None`: of none.
    pub fn refuse_to_lock(&self, name: Option<&str>) {
        self.state().refuses_to_lock = name.map(str::to_string);
    }

    /// What is locked, and until when.
    pub fn locks(&self) -> BTreeMap<String, Timestamp> {
        self.state().locks.clone().unwrap_or_default()
    }

    /// Whose locks were prolonged, one after another.
    pub fn prolonged(&self) -> Vec<String> {
        self.state().prolonged.clone()
    }

    pub(super) fn simulates_locks(&self) -> bool {
        self.state().locks.is_some()
    }

    pub(super) fn locked_until(&self, name: &str) -> Option<Timestamp> {
        self.state().locks.as_ref()?.get(name).copied()
    }

    pub(super) fn note_lock(&self, name: &str, until: Timestamp) {
        if let Some(locks) = &mut self.state().locks {
            locks.insert(name.to_string(), until);
        }
    }

    pub(super) fn prolong(&self, name: &str, until: Timestamp) {
        self.note_lock(name, until);
        self.state().prolonged.push(name.to_string());
    }

    /// How many of them were creates.
    pub fn creates(&self) -> u64 {
        self.state().creates
    }

    /// How many read an object, or a part of it.
    pub fn reads(&self) -> u64 {
        self.state().reads
    }

    /// How many bytes came back from them.
    pub fn read_bytes(&self) -> u64 {
        self.state().read_bytes
    }

    pub(super) fn count_read(&self, bytes: usize) {
        self.state().read_bytes += bytes as u64;
    }

    /// How many took an object away.
    pub fn deletes(&self) -> u64 {
        self.state().deletes
    }

    /// The process is stopped at call number `call`: that call fails on the given side of its
    /// effect, and every later one fails without any, until [`FaultControl::resume`].
    pub fn stop_at(&self, call: u64, effect: Effect) {
        self.state().stop_at = Some((call, effect));
    }

    /// Calls pass again (as after a restart); the counts go on.
    pub fn resume(&self) {
        self.state().stop_at = None;
    }

    /// Call number `call` fails and does nothing; the next one passes.
    pub fn fail_at(&self, call: u64) {
        self.state().fail_at = Some(call);
    }

    /// Read number `read` finds nothing; the next one finds what is there.
    pub fn miss_read(&self, read: u64) {
        self.state().miss_read = Some(read);
    }

    /// From now on listings leave out the object of this name, or all in the folder of this name.
    pub fn leave_out(&self, name: &str) {
        self.state().unlisted.insert(name.to_string());
    }

    pub(super) fn lists(&self, name: &str) -> bool {
        let is_left_out =
            |left: &String| left == name || left.ends_with('/') && name.starts_with(&left[..]);
        !self.state().unlisted.iter().any(is_left_out)
    }

    /// Create number `create` finds the store full; the next one does not.
    pub fn fail_create_with_full(&self, create: u64) {
        self.state().full_at_create = Some(create);
    }

    /// The reply to create number `create` is lost, and the request is repeated.
    pub fn lose_reply_of_create(&self, create: u64) {
        self.state().lose_reply_of_create = Some(create);
    }

    /// From now on the store takes so many bytes more in all; deleting gives none back. `None` is
    /// no limit.
    pub fn limit_bytes(&self, bytes: Option<u64>) {
        self.state().bytes_left = bytes;
    }

    /// From now on the store is a disk of which so many bytes are free: deleting gives back what the object took.
    /// `None` is no limit.
    pub fn set_free_bytes(&self, bytes: Option<u64>) {
        self.state().bytes_free = bytes;
    }

    /// From now on what has a name that begins so is in an archive: it is not read until it is thawed. `None`: nothing is.
    pub fn archive(&self, prefix: Option<&str>) {
        let mut state = self.state();
        state.archived = prefix.map(str::to_string);
        state.thawed.clear();
    }

    /// Thaws the object of this name.
    pub fn thaw(&self, name: &str) {
        self.state().thawed.insert(name.to_string());
    }

    /// How many bytes are free on such a disk.
    pub fn free_bytes(&self) -> Option<u64> {
        self.state().bytes_free
    }

    /// What writing over an object comes to.
    pub(super) fn refuses_overwriting(&self, name: &str) -> Option<StoreError> {
        let message = "these credentials may not write over an object";
        self.state().denies.then(|| StoreError::new(Kind::Denied, name, message))
    }

    pub(super) fn judge(&self, name: &str, verb: &str, call: Call) -> Verdict {
        let mut state = self.state();
        if let Some(remembered) = &mut state.remembered {
            remembered.push(format!("{verb} {name}"));
        }
        let number = state.calls;
        state.calls += 1;
        if state.denies && matches!(call, Call::Delete { .. }) {
            let message = "these credentials may not delete";
            return Verdict::Refuse(StoreError::new(Kind::Denied, name, message));
        }
        if verb == "lock" && state.refuses_to_lock.as_deref() == Some(name) {
            let message = "AccessDenied: the lock is stricter";
            return Verdict::Refuse(StoreError::new(Kind::Denied, name, message));
        }
        let is_locked = state.locks.as_ref().is_some_and(|locks| locks.contains_key(name));
        if is_locked && state.keeps_locked && matches!(call, Call::Delete { .. }) {
            let message = "AccessDenied: the object is locked";
            return Verdict::Refuse(StoreError::new(Kind::Denied, name, message));
        }
        let stopped = || StoreError::new(Kind::Unavailable, name, "the process has been stopped");
        let stops_after = match state.stop_at {
            Some((at, _)) if number > at => return Verdict::Refuse(stopped()),
            Some((at, Effect::Before)) if number == at => return Verdict::Refuse(stopped()),
            Some((at, Effect::After)) => number == at,
            _ => false,
        };
        if state.fail_at == Some(number) {
            let message = "this call fails, the next one passes";
            return Verdict::Refuse(StoreError::new(Kind::Unavailable, name, message));
        }
        if let Call::Read = call {
            let is_archived =
                state.archived.as_ref().is_some_and(|prefix| name.starts_with(prefix));
            if is_archived && !state.thawed.contains(name) {
                return Verdict::Refuse(StoreError::archived(name));
            }
            state.reads += 1;
            if state.miss_read == Some(state.reads - 1) {
                return Verdict::Refuse(StoreError::new(Kind::NotFound, name, "does not exist"));
            }
        }
        state.deletes += u64::from(matches!(call, Call::Delete { .. }));
        if let Call::Create { bytes } = call {
            let create = state.creates;
            state.creates += 1;
            if state.full_at_create == Some(create) {
                return Verdict::Refuse(StoreError::full(name));
            }
            if let Some(left) = state.bytes_left {
                match left.checked_sub(bytes) {
                    Some(left) => state.bytes_left = Some(left),
                    None => return Verdict::Refuse(StoreError::full(name)),
                }
            }
            if let Some(free) = state.bytes_free {
                match free.checked_sub(bytes) {
                    Some(free) => state.bytes_free = Some(free),
                    None => return Verdict::Refuse(StoreError::full(name)),
                }
            }
            if state.lose_reply_of_create == Some(create) && !stops_after {
                return Verdict::LoseReply;
            }
        }
        if let (Call::Delete { bytes }, Some(free)) = (call, state.bytes_free) {
            state.bytes_free = Some(free + bytes);
        }
        if stops_after { Verdict::StopAfter(stopped()) } else { Verdict::Pass }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for FaultControl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FaultControl({} calls)", self.calls())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Created, Store};

    fn faulty() -> (Store, FaultControl) {
        let control = FaultControl::new();
        (Store::memory().with_faults(control.clone()), control)
    }

    #[test]
    fn a_stop_before_the_effect_leaves_nothing() {
        let (store, control) = faulty();
        control.stop_at(1, Effect::Before);
        store.create("a", vec![1]).unwrap();
        assert_eq!(store.create("b", vec![2]).unwrap_err().kind, Kind::Unavailable);
        assert_eq!(store.get("a").unwrap_err().message, "the process has been stopped");
        control.resume();
        assert_eq!(store.size("a").unwrap(), Some(1));
        assert_eq!(store.size("b").unwrap(), None);
        assert_eq!(control.calls(), 5);
    }

    #[test]
    fn a_stop_after_the_effect_leaves_all_of_it() {
        let (store, control) = faulty();
        control.stop_at(0, Effect::After);
        assert_eq!(store.create("a", vec![1]).unwrap_err().kind, Kind::Unavailable);
        assert_eq!(store.delete("a").unwrap_err().kind, Kind::Unavailable);
        control.resume();
        assert_eq!(store.get("a").unwrap(), [1]);
    }

    #[test]
    fn a_call_fails_alone_and_a_listing_is_short() {
        let (store, control) = faulty();
        control.fail_at(1);
        store.create("a", vec![1]).unwrap();
        assert_eq!(store.get("a").unwrap_err().kind, Kind::Unavailable);
        assert_eq!(store.get("a").unwrap(), [1]);
        control.miss_read(control.reads() + 1);
        assert_eq!(store.get("a").unwrap(), [1]);
        assert_eq!(store.get("a").unwrap_err().kind, Kind::NotFound);
        assert_eq!(store.get("a").unwrap(), [1]);
        assert_eq!((control.reads(), control.read_bytes()), (4, 3));
        assert_eq!(store.list("").unwrap().len(), 1);
        control.leave_out("a");
        assert_eq!(store.list("").unwrap().len(), 0);
        assert_eq!(store.size("a").unwrap(), Some(1));
    }

    #[test]
    fn a_full_store_takes_what_still_fits() {
        let (store, control) = faulty();
        control.fail_create_with_full(0);
        assert_eq!(store.create("a", vec![0; 4]).unwrap_err().kind, Kind::Full);
        control.limit_bytes(Some(10));
        store.create("a", vec![0; 4]).unwrap();
        assert_eq!(store.create("b", vec![0; 7]).unwrap_err().kind, Kind::Full);
        store.create("b", vec![0; 6]).unwrap();
        assert_eq!(store.create("c", vec![0; 1]).unwrap_err().kind, Kind::Full);
        assert_eq!(control.creates(), 5);
    }

    #[test]
    fn a_disk_gets_back_what_an_object_took() {
        let (store, control) = faulty();
        control.set_free_bytes(Some(10));
        store.create("a", vec![0; 8]).unwrap();
        assert_eq!(store.create("b", vec![0; 3]).unwrap_err().kind, Kind::Full);
        store.delete("a").unwrap();
        store.delete("a").unwrap();
        assert_eq!(control.free_bytes(), Some(10));
        store.create("b", vec![0; 10]).unwrap();
    }

    #[test]
    fn a_lost_reply_is_known_as_our_own() {
        let (store, control) = faulty();
        control.lose_reply_of_create(0);
        assert_eq!(store.create("a", vec![1]).unwrap(), Created::New);
        control.lose_reply_of_create(1);
        assert_eq!(store.create("a", vec![2]).unwrap(), Created::AlreadyThere);
        assert_eq!(store.get("a").unwrap(), [1]);
    }
}
