//! What a store does, found out by asking it: who says that a service knows conditions does not say that the server
//! behind it honours them, or that it does when many ask at once.
//!
//! Everything happens in the folder `probe/`, under names that were never used before. A key that may not delete
//! leaves a few small objects there.

use std::collections::HashSet;
use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use opendal::Buffer;
use parking_lot::{Condvar, Mutex};

use super::access::CONNECTIONS;
use super::error::{Kind, StoreError};
use super::{Store, layout};

/// So many races are run that prove something. A server that loses races has been seen to lose more than half of those with
/// 16 runners, and nine in ten of those with two; one that lost only a fifth would stand 16 of them 3 times in 100.
const RACES: usize = 16;
/// So many run in each: as many as there are calls at once, where nothing else is said.
const RUNNERS: usize = CONNECTIONS;
/// A race proves nothing in which fewer were answered at once: whoever had to try again came when it was over.
const RUNNERS_LEAST: usize = RUNNERS / 2;
/// So many races are run to find [`RACES`] that prove something …
const RACES_MOST: usize = 4 * RACES;
/// … and no more than so many where none of them did.
const RACES_IN_VAIN: usize = 8;
/// So many are run at a time: each takes a few round trips, whoever wins.
const RACES_AT_ONCE: usize = 2;

/// What a store has shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// A second create of a name fails, and of many that race for one exactly one wins, as far as races could be run.
    pub creates_once: bool,
    /// Enough races were run in which most were answered at once. Where not, nobody may begin to rely on `creates_once`: whoever is
    /// turned away and comes again does not race.
    pub races_prove_it: bool,
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

/// How a race ended.
#[derive(Default)]
struct Race {
    winners: usize,
    /// What one of them wrote is there.
    is_whole: bool,
    /// The winner was told so at its first attempt: of those who were not, others may have won as well.
    is_told: bool,
    /// Runners that were told at their first attempt.
    at_once: usize,
}

struct Probe<'store> {
    store: &'store Store,
    prefix: String,
}

/// Where runners wait until all of them are there, or it is known that they will not be.
#[derive(Default)]
struct Start {
    /// How many are there, and whether they run.
    state: Mutex<(usize, Option<bool>)>,
    changed: Condvar,
}

impl Start {
    /// For a runner: whether there is a race.
    fn wait(&self) -> bool {
        let mut state = self.state.lock();
        state.0 += 1;
        self.changed.notify_all();
        loop {
            if let Some(is_race) = state.1 {
                return is_race;
            }
            self.changed.wait(&mut state);
        }
    }

    /// Lets them go as soon as so many are there.
    fn give(&self, runners: usize, is_race: bool) {
        let mut state = self.state.lock();
        while state.0 < runners {
            self.changed.wait(&mut state);
        }
        state.1 = Some(is_race);
        self.changed.notify_all();
    }
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
        let creates_alone = knows_conditions
            && reads_written
            && !self.create(&name, &Buffer::from(self.bytes(1)), true)?
            && self.store.holds(&name, &first)?;
        let (creates_once, races_prove_it) = match creates_alone {
            true => self.races_have_one_winner()?,
            false => (false, true),
        };
        // Not asked of one that seems to create once: it refuses, or fails as it did in the races.
        let writes_over = !creates_once && reads_written && {
            let second = Buffer::from(self.bytes(2));
            self.create(&name, &second, false)?;
            self.store.holds(&name, &second)?
        };
        let forgets_deleted = None;
        Ok(Capabilities {
            creates_once,
            races_prove_it,
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

    /// Whether every race had one winner, and whether enough of them proved something.
    fn races_have_one_winner(&self) -> Result<(bool, bool), StoreError> {
        let _race = self.store.inner.line.begin_race();
        let mut proven = 0;
        for round in 0..RACES_MOST / RACES_AT_ONCE {
            let outcomes: Vec<_> = thread::scope(|scope| {
                let races: Vec<_> = (0..RACES_AT_ONCE)
                    .map(|race| {
                        let name = self.name(&format!("race{round}-{race}"));
                        thread::Builder::new().spawn_scoped(scope, move || self.race(&name))
                    })
                    .collect();
                let outcome = |race: io::Result<thread::ScopedJoinHandle<'_, _>>| match race {
                    Ok(race) => race.join().unwrap_or_else(|_| Err(self.died())),
                    Err(_) => Err(self.died()),
                };
                races.into_iter().map(outcome).collect()
            });
            // A race that was lost tells more than one that could not be run.
            let is_lost = |race: &Race| race.winners != 1 || !race.is_whole;
            if outcomes.iter().flatten().any(is_lost) {
                return Ok((false, true));
            }
            for outcome in outcomes {
                let outcome = outcome?;
                proven += usize::from(outcome.is_told && outcome.at_once >= RUNNERS_LEAST);
            }
            if proven >= RACES {
                return Ok((true, true));
            }
            if proven == 0 && (round + 1) * RACES_AT_ONCE >= RACES_IN_VAIN {
                break;
            }
        }
        Ok((true, false))
    }

    fn race(&self, name: &str) -> Result<Race, StoreError> {
        let start = Start::default();
        let results = thread::scope(|scope| {
            let start = &start;
            let run = |runner| {
                // With fewer calls at once than runners, and with bytes that wait for their turn, every race would
                // have one winner because there is none.
                let store = self.store.for_a_runner();
                let bytes = Buffer::from(self.bytes(runner));
                move || {
                    if !start.wait() {
                        return Err(self.died());
                    }
                    let is_made = store.put(name, &bytes, true)?;
                    let at_once = store.inner.line.retries.load(Ordering::Relaxed) == 0;
                    let has_won = is_made || store.holds(name, &bytes)?;
                    Ok((has_won.then_some(bytes), at_once))
                }
            };
            let spawn = |runner| thread::Builder::new().spawn_scoped(scope, run(runner)).ok();
            let runners: Vec<_> = (0..RUNNERS).map_while(spawn).collect();
            start.give(runners.len(), runners.len() == RUNNERS);
            runners.into_iter().map(|runner| runner.join()).collect::<Vec<_>>()
        });
        let mut outcome = Race::default();
        let mut winning = None;
        if results.len() < RUNNERS {
            return Err(self.died());
        }
        for result in results {
            let result: Result<(Option<Buffer>, bool), StoreError> =
                result.unwrap_or_else(|_| Err(self.died()));
            let (won, at_once) = result?;
            outcome.winners += usize::from(won.is_some());
            outcome.is_told |= won.is_some() && at_once;
            winning = won.or(winning);
            outcome.at_once += usize::from(at_once);
        }
        if let Some(bytes) = winning {
            outcome.is_whole = self.store.holds(name, &bytes)?;
        }
        Ok(outcome)
    }

    fn died(&self) -> StoreError {
        StoreError::new(
            Kind::Unavailable,
            self.store.location(),
            "a thread of the probe died or could not be started",
        )
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
            let delete = || {
                while let Some(object) = left.get(next.fetch_add(1, Ordering::Relaxed)) {
                    // What stays is a few bytes, and does no harm.
                    let _ = self.store.delete(&object.name);
                }
            };
            for _ in 0..RUNNERS.min(left.len()) {
                let _ = thread::Builder::new().spawn_scoped(scope, delete);
            }
            delete();
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
