//! What a store does, found out by asking it: who says that a service knows conditions does not say that the server
//! behind it honours them, or that it does when many ask at once.
//!
//! Everything happens in the folder `probe/`, under names that were never used before. A key that may not delete
//! leaves a few small objects there.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Barrier, OnceLock};
use std::thread;

use opendal::Buffer;
use parking_lot::Mutex;

use super::access::CONNECTIONS;
use super::error::{Kind, StoreError};
use super::{Store, layout};

/// So many races are run. A server that loses races has been seen to lose more than half of those with 16 runners;
/// one that lost only a fifth would stand 16 of them 3 times in 100.
const RACES: usize = 16;
/// So many run in each: as many as there are calls at once, where nothing else is said.
const RUNNERS: usize = CONNECTIONS;

/// What a store has shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// A second create of a name fails, and of many that race for one exactly one wins.
    pub creates_once: bool,
    /// Where it does not: a second write of a name takes the place of the first.
    pub writes_over: bool,
    /// What was written is read back at once.
    pub reads_written: bool,
    /// What was written is listed at once.
    pub lists_written: bool,
    /// What was deleted is gone at once; `None`: we may not delete.
    pub forgets_deleted: Option<bool>,
}

impl Capabilities {
    /// Why no repository can live here; `None`: one can. With `needs_conditions` it relies on conditional creation.
    pub fn lacks(&self, needs_conditions: bool) -> Option<&'static str> {
        if !self.reads_written {
            return Some("what was written is not there when it is read at once");
        }
        if !self.lists_written {
            return Some("what was written is missing from a listing that follows at once");
        }
        if self.forgets_deleted == Some(false) {
            return Some("what was deleted is still there when it is read at once");
        }
        if needs_conditions && !self.creates_once {
            return Some("it does not keep two clients from creating the same object");
        }
        if !self.creates_once && !self.writes_over {
            return Some("it neither creates only once nor writes over what is there");
        }
        None
    }
}

/// Stands before the first write to a store that has not been probed lately.
pub(super) struct Guard {
    nonce: String,
    needs_conditions: bool,
    /// What may be created before.
    excused: Mutex<HashSet<String>>,
    answer: OnceLock<Result<Capabilities, StoreError>>,
}

impl Guard {
    pub(super) fn new(needs_conditions: bool, nonce: &str) -> Self {
        Guard {
            nonce: nonce.to_string(),
            needs_conditions,
            excused: Mutex::default(),
            answer: OnceLock::new(),
        }
    }

    pub(super) fn passed(found: Capabilities) -> Self {
        let answer = OnceLock::from(Ok(found));
        Guard {
            nonce: String::new(),
            needs_conditions: found.creates_once,
            excused: Mutex::default(),
            answer,
        }
    }

    pub(super) fn found(&self) -> Option<Capabilities> {
        self.answer.get()?.as_ref().ok().copied()
    }

    pub(super) fn excuse(&self, name: &str) {
        self.excused.lock().insert(name.to_string());
    }

    pub(super) fn is_excused(&self, name: &str) -> bool {
        self.excused.lock().contains(name)
    }

    pub(super) fn pass(&self, store: &Store) -> Result<(), StoreError> {
        let answer = self.answer.get_or_init(|| {
            // The probe itself writes.
            let unguarded = Store { guard: None, ..store.clone() };
            let found = unguarded.probe(&self.nonce)?;
            match found.lacks(self.needs_conditions) {
                None => Ok(found),
                Some(lack) => Err(StoreError::new(
                    Kind::Invalid,
                    store.location(),
                    format!(
                        "the store is not what it was when the repository was made: {lack}. Nothing \
                         is written until it is again; reading goes on"
                    ),
                )),
            }
        });
        answer.as_ref().map(|_| ()).map_err(Clone::clone)
    }
}

impl Store {
    /// Finds out what the store does. `nonce` is part of the names that it uses and was never used before. Costs about
    /// 300 small requests where the store creates if absent, and a dozen elsewhere.
    ///
    /// # Errors
    ///
    /// What kept it from asking: [`Kind::Denied`], [`Kind::Unavailable`]. That a store does less is no error.
    pub fn probe(&self, nonce: &str) -> Result<Capabilities, StoreError> {
        let prefix = format!("{}{nonce}-", layout::PROBE);
        let probe = Probe { store: self, prefix };
        let found = probe.ask();
        let deleted = probe.clean_up();
        let mut found = found?;
        found.forgets_deleted = deleted?;
        Ok(found)
    }
}

struct Probe<'store> {
    store: &'store Store,
    prefix: String,
}

impl Probe<'_> {
    fn ask(&self) -> Result<Capabilities, StoreError> {
        let knows_conditions = self.store.inner.is_conditional
            && self.store.inner.handle.operator().info().capability().write_with_if_not_exists;
        let name = self.name("first");
        let first = Buffer::from(self.bytes(0));
        let knows_conditions = self.create_first(&name, &first, knows_conditions)?;
        let reads_written = self.store.holds(&name, &first)?;
        let listed = self.store.list(&self.prefix)?;
        let lists_written =
            listed.iter().any(|object| object.name == name && object.size == first.len() as u64);
        // Whoever does not read back cannot be asked any further.
        let creates_once = knows_conditions
            && reads_written
            && !self.create(&name, &Buffer::from(self.bytes(1)), true)?
            && self.store.holds(&name, &first)?
            && self.races_have_one_winner()?;
        let writes_over = !creates_once && reads_written && {
            let second = Buffer::from(self.bytes(2));
            self.create(&name, &second, false)?;
            self.store.holds(&name, &second)?
        };
        let forgets_deleted = None;
        Ok(Capabilities {
            creates_once,
            writes_over,
            reads_written,
            lists_written,
            forgets_deleted,
        })
    }

    /// Makes the first object. Whether with the condition: some servers refuse whatever carries one.
    fn create_first(
        &self,
        name: &str,
        bytes: &Buffer,
        knows_conditions: bool,
    ) -> Result<bool, StoreError> {
        match self.create(name, bytes, knows_conditions) {
            Ok(_) => Ok(knows_conditions),
            Err(error)
                if knows_conditions && !matches!(error.kind, Kind::Interrupted | Kind::Denied) =>
            {
                match self.create(name, bytes, false) {
                    Ok(_) => Ok(false),
                    Err(second) if second.kind == Kind::Interrupted => Err(second),
                    // It was not the condition.
                    Err(_) => Err(error),
                }
            }
            Err(error) => Err(error),
        }
    }

    fn races_have_one_winner(&self) -> Result<bool, StoreError> {
        // With fewer calls at once than runners, and with bytes that wait for their turn, every race would have one
        // winner because there is none.
        let store = self.store.for_races(RUNNERS);
        let racer = Probe { store: &store, prefix: self.prefix.clone() };
        let _race = self.store.inner.line.begin_race();
        for race in 0..RACES {
            let name = self.name(&format!("race{race}"));
            let start = Barrier::new(RUNNERS);
            let winners = AtomicUsize::new(0);
            let results = thread::scope(|scope| {
                let (racer, name, start, winners) = (&racer, &name, &start, &winners);
                let runners: Vec<_> = (0..RUNNERS)
                    .map(|runner| {
                        scope.spawn(move || {
                            let bytes = Buffer::from(racer.bytes(runner));
                            start.wait();
                            let has_won = racer.create(name, &bytes, true)?;
                            winners.fetch_add(usize::from(has_won), Ordering::Relaxed);
                            Ok(has_won.then_some(bytes))
                        })
                    })
                    .collect();
                runners.into_iter().map(|runner| runner.join()).collect::<Vec<_>>()
            });
            let mut winning = None;
            for result in results {
                let result: Result<Option<Buffer>, StoreError> = result.unwrap_or_else(|_| {
                    Err(StoreError::new(Kind::Unavailable, &name, "a thread of the probe died"))
                });
                winning = result?.or(winning);
            }
            let is_whole = match &winning {
                Some(bytes) => self.store.holds(&name, bytes)?,
                None => false,
            };
            if winners.load(Ordering::Relaxed) != 1 || !is_whole {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether the object is ours now.
    fn create(&self, name: &str, bytes: &Buffer, if_not_exists: bool) -> Result<bool, StoreError> {
        Ok(self.store.put(name, bytes, if_not_exists)? || self.store.holds(name, bytes)?)
    }

    /// Takes away what the probe has made, and finds out whether that works: `None` where it is not allowed. Servers
    /// refuse in many ways (a policy, a retention, an unknown method), and no backup needs it: only a wish to stop counts.
    fn clean_up(&self) -> Result<Option<bool>, StoreError> {
        let name = self.name("first");
        let looked = self.store.delete(&name).and_then(|()| self.store.size(&name));
        let is_gone = match looked {
            Ok(size) => size.is_none(),
            Err(error) if error.kind == Kind::Interrupted => return Err(error),
            Err(_) => return Ok(None),
        };
        let left = self.store.list(&self.prefix).unwrap_or_default();
        let next = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..RUNNERS.min(left.len()) {
                scope.spawn(|| {
                    while let Some(object) = left.get(next.fetch_add(1, Ordering::Relaxed)) {
                        // What stays is a few bytes, and does no harm.
                        let _ = self.store.delete(&object.name);
                    }
                });
            }
        });
        Ok(Some(is_gone))
    }

    fn name(&self, rest: &str) -> String {
        format!("{}{rest}", self.prefix)
    }

    fn bytes(&self, number: usize) -> Vec<u8> {
        // Of different lengths, so that a look tells whose they are.
        format!("aumbry asks what this store does: {}{:.>number$}", self.prefix, "").into_bytes()
    }
}
