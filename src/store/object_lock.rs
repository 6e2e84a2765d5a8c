//! Object locks: a store that has them deletes what is locked for nobody before a moment, whoever asks. Only S3's
//! are known here; `s3_lock` speaks to it.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use opendal::Operator;

use super::error::{Kind, StoreError};
use super::faulty::{Call, FaultControl};
use super::traffic::Sort;
use super::{Created, Store, layout};
use crate::units::Timestamp;

/// The lock that is tried before a repository is made, and what it is prolonged to. Longer than clocks may differ,
/// and of an object of a few bytes.
const TRIED: [Duration; 2] = [Duration::from_secs(3600), Duration::from_secs(2 * 3600)];
/// By so much a lock that was tried may end earlier than it was asked for: clocks differ, and seconds are rounded.
const TOLERANCE: i64 = 30 * 60;

/// Who may take a lock away before it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockMode {
    /// Whoever has a right of its own for that (`s3:BypassGovernanceRetention`).
    Governance,
    /// Nobody, not even the owner of the account.
    Compliance,
}

impl LockMode {
    /// As S3 writes it.
    #[cfg(feature = "s3")]
    pub(super) fn word(self) -> &'static str {
        match self {
            LockMode::Governance => "GOVERNANCE",
            LockMode::Compliance => "COMPLIANCE",
        }
    }
}

impl FromStr for LockMode {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text.to_ascii_lowercase().as_str() {
            "governance" => Ok(LockMode::Governance),
            "compliance" => Ok(LockMode::Compliance),
            _ => Err(()),
        }
    }
}

/// How objects are locked when they are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ObjectLock {
    /// For how long.
    pub period: Duration,
    /// Who may end it sooner.
    pub mode: LockMode,
}

impl ObjectLock {
    /// When a lock ends that is given now.
    pub fn until(&self, now: Timestamp) -> Timestamp {
        later(now, self.period)
    }
}

/// So much later, in whole seconds.
pub(super) fn later(moment: Timestamp, by: Duration) -> Timestamp {
    let seconds = i64::try_from(by.as_secs()).unwrap_or(i64::MAX);
    Timestamp { seconds: moment.seconds.saturating_add(seconds), nanoseconds: 0 }
}

/// The store of a repository whose objects are to be locked.
pub(super) struct Locking {
    lock: ObjectLock,
    // For what lasts, and for what passes; `None`: the store cannot lock.
    operators: Option<[Operator; 2]>,
}

impl Locking {
    /// What an object of this name is written by; `None`: what all else goes by.
    pub(super) fn operator(&self, name: &str) -> Option<&Operator> {
        let [lasting, passing] = self.operators.as_ref()?;
        Some(if layout::is_lasting(name) { lasting } else { passing })
    }
}

/// In builds without S3 there is none.
#[cfg(not(feature = "s3"))]
pub(super) enum LockKit {}

#[cfg(not(feature = "s3"))]
impl LockKit {
    fn operator(&self, _: Option<ObjectLock>) -> Operator {
        match *self {}
    }

    async fn bucket_has_locks(&self) -> opendal::Result<bool> {
        match *self {}
    }

    async fn locked_until(&self, _: &str) -> opendal::Result<Option<Timestamp>> {
        match *self {}
    }

    async fn lock_until(&self, _: &str, _: Timestamp, _: LockMode) -> opendal::Result<()> {
        match *self {}
    }
}

/// Who may not look at locks is shown none, and is not told.
const OR_BLIND: &str = "or these credentials lack s3:GetObjectRetention";

/// Says so where a store has no locks.
const NO_LOCKS: &str = "cannot keep objects from being deleted: only S3 with Object Lock can";

impl Store {
    /// The same store, in which what lasts ([`layout::is_lasting`]) is locked when it is made. Where the store cannot do
    /// that, nothing is made; reading is as ever.
    pub fn locking(self, lock: ObjectLock) -> Store {
        let operators = self.locking_operators(lock);
        Store { locking: Some(Arc::new(Locking { lock, operators })), ..self }
    }

    fn locking_operators(&self, lock: ObjectLock) -> Option<[Operator; 2]> {
        let kit = self.inner.lock_kit.as_deref()?;
        Some([kit.operator(Some(lock)), kit.operator(None)])
    }

    /// How what lasts is locked when it is made; `None`: it is not.
    pub fn object_lock(&self) -> Option<ObjectLock> {
        self.locking.as_ref().map(|locking| locking.lock)
    }

    /// The mode that whoever named the store wants locks to have, if they said so (`-o object-lock-mode=…`).
    pub fn wanted_lock_mode(&self) -> Option<LockMode> {
        self.inner.lock_mode
    }

    /// Finds out whether the store locks what it is asked to, by a small object that stays locked for two hours, in
    /// `probe/`. `nonce` was never used before. Costs six requests.
    ///
    /// # Errors
    ///
    /// [`Kind::Invalid`] when it does not; [`Kind::Denied`] when these credentials may not.
    pub fn try_object_lock(&self, mode: LockMode, nonce: &str) -> Result<(), StoreError> {
        let lacks = |what: &str| StoreError::new(Kind::Invalid, self.location(), what);
        if self.simulated_locks().is_some() {
            return Ok(());
        }
        if self.inner.lock_kit.is_none() {
            return Err(lacks(NO_LOCKS));
        }
        if !self.bucket_has_locks()? {
            return Err(lacks(
                "the bucket has no Object Lock, so nothing in it can be retained: make a bucket with Object Lock, or \
                 switch versioning and Object Lock on for this one",
            ));
        }
        let name = format!("{}{nonce}-lock", layout::PROBE);
        let now = self.inner.line.clock.now();
        let lock = ObjectLock { period: TRIED[0], mode };
        let operators = self.locking_operators(lock);
        // What is tried is the way of what lasts, by a name of what passes.
        let operators = operators.map(|[lasting, _]| [lasting.clone(), lasting]);
        let trying = Store { locking: Some(Arc::new(Locking { lock, operators })), ..self.clone() };
        if trying.create(&name, nonce.as_bytes().to_vec())? == Created::AlreadyThere {
            return Err(lacks("the store says of a new name that it is taken"));
        }
        let is_locked = |by: Duration| -> Result<bool, StoreError> {
            let found = trying.locked_until(&name)?;
            let least = later(now, by).seconds - TOLERANCE;
            Ok(found.is_some_and(|until| until.seconds >= least))
        };
        if !is_locked(TRIED[0])? {
            return Err(lacks(&format!(
                "the store takes a lock for an object and does not keep it, {OR_BLIND}"
            )));
        }
        trying.lock_until(&name, later(now, TRIED[1]))?;
        if !is_locked(TRIED[1])? {
            return Err(lacks(&format!(
                "the store does not prolong the lock of an object, {OR_BLIND}"
            )));
        }
        // It hides the object; what is locked stays behind that. That we may not is no matter.
        let _ = self.delete(&name);
        Ok(())
    }

    /// Until when an object is locked; `None`: it is not, or there is no such object.
    ///
    /// # Errors
    ///
    /// [`Kind::Invalid`] where there are no locks.
    pub fn locked_until(&self, name: &str) -> Result<Option<Timestamp>, StoreError> {
        self.call(name, "look at the lock of", Call::Other, || {
            if let Some(faults) = self.simulated_locks() {
                return Ok(faults.locked_until(name));
            }
            let Some(kit) = &self.inner.lock_kit else {
                return Err(StoreError::new(Kind::Invalid, name, NO_LOCKS));
            };
            match self.operate(name, Sort::Look, 0, || kit.locked_until(name))? {
                Err(failed) if failed.error.kind == Kind::NotFound => Ok(None),
                found => Ok(found?),
            }
        })
    }

    /// Locks an object until then, at least: a lock that ends later stays. `false`: there is no such object. Only for a
    /// store that was [tried](Store::try_object_lock) just before: one that does not know the request may write it
    /// over the object.
    ///
    /// # Errors
    ///
    /// [`Kind::Denied`] when these credentials may not, or a stricter lock is there; [`Kind::Invalid`] where there are no
    /// locks.
    pub fn lock_until(&self, name: &str, until: Timestamp) -> Result<bool, StoreError> {
        self.pass_guard()?;
        self.call(name, "lock", Call::Other, || {
            if let Some(faults) = self.simulated_locks() {
                let is_there = self.stat(name)?.is_some();
                if is_there {
                    faults.prolong(name, until);
                }
                return Ok(is_there);
            }
            let (Some(locking), Some(kit)) = (&self.locking, &self.inner.lock_kit) else {
                return Err(StoreError::new(Kind::Invalid, name, NO_LOCKS));
            };
            let mode = locking.lock.mode;
            match self.operate(name, Sort::Write, 0, || kit.lock_until(name, until, mode))? {
                Ok(()) => Ok(true),
                // A server that does not know the request may say so, too.
                Err(failed) if failed.error.kind == Kind::NotFound => match self.stat(name)? {
                    None => Ok(false),
                    Some(_) => {
                        let message = "the store has it, and says that it has not when its lock is to be prolonged";
                        Err(StoreError::new(Kind::Invalid, name, message))
                    }
                },
                // A lock that would be made shorter is refused in the same words as a right that lacks.
                Err(failed) if failed.error.kind == Kind::Denied => match self.locked_until(name) {
                    Ok(Some(found)) if found.seconds >= until.seconds => Ok(true),
                    Ok(None) => {
                        let error = StoreError::from(failed);
                        let message = format!(
                            "{}: the store keeps no lock of it, {OR_BLIND}",
                            error.message
                        );
                        Err(StoreError { message, ..error })
                    }
                    _ => Err(failed.into()),
                },
                Err(failed) => Err(failed.into()),
            }
        })
    }

    /// Nothing is made where what lasts would not be locked: also nothing that passes, so that a writer is told before it
    /// has sent anything.
    pub(super) fn require_lock(&self) -> Result<(), StoreError> {
        let Some(locking) = &self.locking else { return Ok(()) };
        if self.is_tiered() {
            let message = "the repository retains what it writes, and nothing is retained in a hot store and a cold one \
                together. It can be read here; to go on writing, leave --repo-hot away, or copy it into a new repository \
                with `aumbry copy`";
            return Err(StoreError::new(Kind::Invalid, self.location(), message));
        }
        if locking.operators.is_some() || self.simulated_locks().is_some() {
            return Ok(());
        }
        let message = format!(
            "the repository retains what it writes, and this place {NO_LOCKS}. It can be read here; to go on writing, \
             copy it into a new repository with `aumbry copy`"
        );
        Err(StoreError::new(Kind::Invalid, self.location(), message))
    }

    /// Notes the lock of a new object where locks are only simulated.
    pub(super) fn note_lock(&self, name: &str) {
        if let (Some(faults), Some(locking)) = (self.simulated_locks(), &self.locking)
            && layout::is_lasting(name)
        {
            faults.note_lock(name, locking.lock.until(self.inner.line.clock.now()));
        }
    }

    fn simulated_locks(&self) -> Option<&FaultControl> {
        self.faults.as_ref().filter(|faults| faults.simulates_locks())
    }

    fn bucket_has_locks(&self) -> Result<bool, StoreError> {
        let Some(kit) = &self.inner.lock_kit else { return Ok(false) };
        Ok(self.operate(self.location(), Sort::Other, 0, || kit.bucket_has_locks())??)
    }
}
