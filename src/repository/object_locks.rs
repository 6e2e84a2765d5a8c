//! What keeps objects from being deleted before a moment, where the store has object locks: each is locked for the
//! repository's period when it is made, and a prune prolongs the locks of what is still there and needed.
//!
//! The rule: a lock that ends within half a period from now is prolonged to a whole period from now. So whoever prunes
//! once in half a period never leaves anything unlocked that is needed, and an object costs one request in half a
//! period, however often one prunes. Which locks end when is not asked of the store, object by object: it follows
//! from when each was written, which listings say, and from the newest lock record (`format::lock_record`), which says
//! how far what was written before some moment was prolonged. A record that is lost or damaged costs requests, no more.

use std::collections::{BTreeMap, HashSet};

use rayon::iter::{IntoParallelRefIterator, ParallelIterator};

use super::error::{Kind, Named, RepositoryError, Result};
use super::verify::is_damage;
use super::{Environment, Repository, proving};
use crate::format::config;
use crate::format::header::ObjectKind;
use crate::format::lock_record::{LockRecord, LockStep};
use crate::id::PackId;
use crate::monitor::Monitor;
use crate::store::{self, LockMode, ObjectInfo, ObjectLock, Store, StoreError, layout};
use crate::units::Timestamp;

/// Locks are taken to end so much sooner than they should, in seconds: whoever wrote had another clock.
const CLOCKS_DIFFER: i64 = 3600;

/// Which locks are to be prolonged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockPlan {
    /// The objects.
    pub due: Vec<String>,
    /// Until when.
    pub until: Timestamp,
    /// What is known when that is done.
    record: LockRecord,
    /// The numbers of the records that are there.
    numbers: Vec<u32>,
}

/// What became of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Prolonged {
    /// How many objects are locked until then.
    pub objects: u64,
    /// What the store refused, in the order of the plan.
    pub refused: Vec<StoreError>,
}

/// The lock that the repository's settings ask for.
pub(super) fn lock_of(settings: &config::Settings) -> Option<ObjectLock> {
    settings.object_lock.map(|lock| ObjectLock {
        period: std::time::Duration::from_secs(lock.seconds),
        mode: match lock.mode {
            config::LockMode::Governance => LockMode::Governance,
            config::LockMode::Compliance => LockMode::Compliance,
        },
    })
}

/// The settings of a new repository in this store, with the mode that whoever named the store wants.
pub(super) fn decide_lock(store: &Store, settings: config::Settings) -> Result<config::Settings> {
    let Some(mut lock) = settings.object_lock else {
        return match store.wanted_lock_mode() {
            None => Ok(settings),
            Some(_) => Err(RepositoryError::new(
                Kind::Invalid,
                store.location(),
                "has a mode of object locks and no time to retain objects for: say it by --retain 30d",
            )),
        };
    };
    if store.is_tiered() {
        let message = "nothing is retained in a hot store and a cold one together: leave --retain away, or --repo-hot";
        return Err(RepositoryError::new(Kind::Invalid, store.location(), message));
    }
    let bounds = config::ObjectLock::SECONDS_MIN..=config::ObjectLock::SECONDS_MAX;
    if !bounds.contains(&lock.seconds) {
        let message = "objects are retained for a day at least, and for a hundred years at most";
        return Err(RepositoryError::new(Kind::Invalid, store.location(), message));
    }
    if let Some(mode) = store.wanted_lock_mode() {
        lock.mode = match mode {
            LockMode::Governance => config::LockMode::Governance,
            LockMode::Compliance => config::LockMode::Compliance,
        };
    }
    Ok(config::Settings { object_lock: Some(lock), ..settings })
}

/// Finds the store of a new repository to lock what it is asked to, if the settings say that it is to. It is in the
/// repository's form: not every server takes a lock and a condition together, and not every key may go without one.
pub(super) fn try_lock(
    store: &Store,
    settings: &config::Settings,
    environment: &Environment,
) -> Result<()> {
    let Some(lock) = lock_of(settings) else { return Ok(()) };
    store.try_object_lock(lock.mode, &proving::nonce(environment)?).map_err(|error| {
        let hint = match error.kind {
            store::Kind::Invalid => {
                "; leave --retain away, or see \"Object Lock\" in docs/stores.md"
            }
            _ => "",
        };
        let message = format!("{}{hint}", error.message);
        RepositoryError { message, ..RepositoryError::from(error) }
    })
}

/// The store as all clients of the repository use it.
pub(super) fn in_lock(store: Store, settings: &config::Settings) -> Result<Store> {
    let lock = lock_of(settings);
    if let Some(wanted) = store.wanted_lock_mode()
        && lock.map(|lock| lock.mode) != Some(wanted)
    {
        let message = "its object locks have another mode, or there are none: -o object-lock-mode is for `aumbry init`";
        return Err(RepositoryError::new(Kind::Invalid, store.location(), message));
    }
    Ok(match lock {
        Some(lock) => store.locking(lock),
        None => store,
    })
}

impl Repository {
    /// Which locks a prune is to prolong now; `None`: the repository has none. `going` are packs that will not stay;
    /// what the newest sweep names is not counted in any case. (What is condemned and not swept is: a session may come to
    /// need it.) A few listings, and one read.
    pub fn plan_locks(&self, going: &HashSet<PackId>) -> Result<Option<LockPlan>> {
        let Some(lock) = lock_of(&self.settings) else { return Ok(None) };
        let mut passed_over = going.clone();
        // What they say cannot be read: then too much is locked, and not too little.
        if let Ok(generations) = self.generations() {
            passed_over.extend(generations.last.iter().flat_map(|last| &last.sweep.packs));
        }
        let still_locked = self.still_locked.lock();
        passed_over.extend(still_locked.iter().filter_map(|name| layout::parse_pack(name)));
        let refused: HashSet<String> = still_locked.iter().cloned().collect();
        drop(still_locked);
        let mut listed = self.store.list(layout::CONFIG)?;
        let folders = [
            layout::CONFIRMED,
            layout::GC,
            layout::INDEX,
            layout::KEYS,
            layout::PACKS,
            layout::SNAPSHOTS,
        ];
        for folder in folders {
            listed.extend(self.store.list(folder)?);
        }
        let mut numbers: Vec<u32> =
            listed.iter().filter_map(|object| layout::parse_lock_record(&object.name)).collect();
        numbers.sort_unstable();
        let known = match numbers.last() {
            None => LockRecord::default(),
            Some(number) => match self.read_lock_record(*number) {
                Err(error) if is_damage(&error) || error.kind == Kind::NotFound => {
                    LockRecord::default()
                }
                known => known?,
            },
        };
        // The locks of garbage are to end. (Packs of it are named in the record.)
        listed.retain(|ObjectInfo { name, .. }| {
            !refused.contains(name) || layout::parse_pack(name).is_some()
        });
        let now = self.environment.clock.now();
        let (due, record) = consider(&listed, &known, &passed_over, lock, now);
        Ok(Some(LockPlan { due, until: lock.until(now), record, numbers }))
    }

    /// Prolongs the locks of a plan, and records it. What is gone by now is not counted. What the store refuses does not
    /// keep the rest from being prolonged, and is tried again by the next prune. May be stopped anywhere; the next one
    /// begins with the same.
    ///
    /// # Errors
    ///
    /// [`Kind::Invalid`] when the store turns out not to prolong locks: then no object was touched.
    pub fn prolong_locks(&self, plan: &LockPlan, monitor: &dyn Monitor) -> Result<Prolonged> {
        let Some(lock) = lock_of(&self.settings).filter(|_| !plan.due.is_empty()) else {
            return Ok(Prolonged::default());
        };
        // A server that does not know the request may write it over the object. So it is seen on a small one first, by
        // every prune: what is behind an address may have become another.
        self.store.try_object_lock(lock.mode, &proving::nonce(&self.environment)?)?;
        let prolong = |name: &String| -> Result<(u64, Option<StoreError>)> {
            if monitor.interrupted() {
                let message = "interrupted";
                return Err(RepositoryError::new(Kind::Interrupted, name, message));
            }
            match self.store.lock_until(name, plan.until) {
                Err(error) if matches!(error.kind, store::Kind::Denied | store::Kind::Invalid) => {
                    Ok((0, Some(error)))
                }
                locked => Ok((u64::from(locked?), None)),
            }
        };
        let ended: Vec<(u64, Option<StoreError>)> =
            plan.due.par_iter().map(prolong).collect::<Result<_>>()?;
        let objects = ended.iter().map(|(count, _)| count).sum();
        let refused: Vec<StoreError> = ended.into_iter().filter_map(|(_, error)| error).collect();
        let mut record = plan.record.clone();
        let packs = refused.iter().map(|error| layout::parse_pack(&error.name));
        match packs.collect::<Option<Vec<PackId>>>() {
            // They count by what they were written with.
            Some(packs) => record.passed_over.extend(packs),
            // Of what is no pack, a record cannot say that it was left out: all that is due is prolonged again.
            None => return Ok(Prolonged { objects, refused }),
        }
        let next = plan.numbers.last().map_or(Some(1), |last| last.checked_add(1));
        let Some(number) = next else {
            return Ok(Prolonged { objects, refused });
        };
        let name = layout::lock_record(number);
        let object = self.seal(ObjectKind::LockRecord, &name, record.encode())?;
        // Where another prune was first, its record counts: it says less, or the same.
        self.store.create(&name, object)?;
        for number in &plan.numbers {
            self.store.delete(&layout::lock_record(*number))?;
        }
        Ok(Prolonged { objects, refused })
    }

    fn read_lock_record(&self, number: u32) -> Result<LockRecord> {
        let name = layout::lock_record(number);
        let object = self.store.get(&name)?;
        let payload = self.sealer().unseal(ObjectKind::LockRecord, &name, object)?;
        LockRecord::decode(&payload).named(name)
    }

    /// Deletes what is garbage. `false`: the store does not let go of it, because its lock has not ended; a later run tries
    /// again. (S3 hides what is locked and keeps it below, so there this does not happen.)
    pub(super) fn delete_unless_locked(&self, name: &str) -> Result<bool> {
        match self.store.delete(name) {
            Err(error)
                if error.kind == store::Kind::Denied
                    && self.settings.object_lock.is_some()
                    && self.is_locked(name) =>
            {
                self.still_locked.lock().insert(name.to_string());
                Ok(false)
            }
            deleted => {
                deleted?;
                Ok(true)
            }
        }
    }

    fn is_locked(&self, name: &str) -> bool {
        match self.store.locked_until(name) {
            Ok(until) => until.is_some_and(|until| until > self.environment.clock.now()),
            // Who may not even ask is told that it may be so.
            Err(_) => true,
        }
    }

    /// How many objects could not be deleted because their locks have not ended.
    pub fn still_locked(&self) -> u64 {
        self.still_locked.lock().len() as u64
    }
}

/// Which of the listed objects are due, and what is known when their locks are prolonged. Pure.
fn consider(
    listed: &[ObjectInfo],
    known: &LockRecord,
    going: &HashSet<PackId>,
    lock: ObjectLock,
    now: Timestamp,
) -> (Vec<String>, LockRecord) {
    let period = i64::try_from(lock.period.as_secs()).unwrap_or(i64::MAX);
    let (until, soon) = (lock.until(now), now.seconds.saturating_add(period / 2));
    let passed_before: HashSet<PackId> = known.passed_over.iter().copied().collect();
    let is_due = |until: i64| until.saturating_sub(CLOCKS_DIFFER) < soon;
    let own_end = |written: Timestamp| written.seconds.saturating_add(period);
    let mut due = Vec::new();
    let mut passed_over = Vec::new();
    for ObjectInfo { name, modified, .. } in
        listed.iter().filter(|object| layout::is_lasting(&object.name))
    {
        let pack = layout::parse_pack(name);
        let recorded = match pack.is_some_and(|pack| passed_before.contains(&pack)) {
            true => None,
            false => modified.and_then(|written| recorded_end(known, written)),
        };
        // Of what the store does not say when it was written, nothing is known.
        let ends = recorded.or(modified.map(own_end)).unwrap_or(i64::MIN);
        match pack.filter(|pack| going.contains(pack)) {
            // The steps will say nothing of it, even if it has not been due yet.
            Some(pack) => passed_over.push(pack),
            None if is_due(ends) => due.push(name.clone()),
            // Passed over once, and locked long enough by what it was written with: the steps may say more than that.
            None if recorded.is_none() => {
                passed_over.extend(pack.filter(|pack| passed_before.contains(pack)))
            }
            None => {}
        }
    }
    // What was written before this is due by the lock that it was made with.
    let seconds = now.seconds.saturating_sub(period - period / 2).saturating_add(CLOCKS_DIFFER);
    let mut ends: BTreeMap<Timestamp, Timestamp> = BTreeMap::new();
    for step in &known.steps {
        let end = if is_due(step.until.seconds) { until } else { step.until };
        ends.insert(step.written_before, end);
    }
    let own = Timestamp { seconds, nanoseconds: 0 };
    if ends.keys().last().is_none_or(|last| *last < own) {
        ends.insert(own, until);
    }
    // Neighbours of one end become one.
    let mut steps: Vec<LockStep> = Vec::new();
    for (written_before, until) in ends {
        match steps.last_mut() {
            Some(last) if last.until == until => last.written_before = written_before,
            _ => steps.push(LockStep { written_before, until }),
        }
    }
    (due, LockRecord { steps, passed_over })
}

/// When the lock ends of what was written then, by a record. `None`: it says nothing of it.
fn recorded_end(known: &LockRecord, written: Timestamp) -> Option<i64> {
    let step = known.steps.iter().find(|step| written < step.written_before)?;
    Some(step.until.seconds)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::SessionId;
    use proptest::prelude::*;
    use std::collections::HashMap;
    use std::time::Duration;

    const DAY: i64 = 86_400;

    fn pack(number: u32) -> PackId {
        PackId { session: SessionId { generation: 0, random: [1; 16] }, number }
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp { seconds, nanoseconds: 0 }
    }

    fn object(number: u32, written: i64) -> ObjectInfo {
        ObjectInfo { name: layout::pack(pack(number)), size: 1, modified: Some(at(written)) }
    }

    fn lock(days: u64) -> ObjectLock {
        ObjectLock { period: Duration::from_secs(days * 86_400), mode: LockMode::Governance }
    }

    fn names(numbers: &[u32]) -> Vec<String> {
        numbers.iter().map(|number| layout::pack(pack(*number))).collect()
    }

    #[test]
    fn what_ends_within_half_a_period_is_due_once_in_half_a_period() {
        let listed = [object(0, 0), object(1, 10 * DAY), object(2, 20 * DAY)];
        let consider = |known: &LockRecord, day: i64| {
            super::consider(&listed, known, &HashSet::new(), lock(30), at(day * DAY))
        };
        let none = LockRecord::default();
        assert_eq!(consider(&none, 14), (Vec::new(), consider(&none, 14).1));
        let (due, first) = consider(&none, 16);
        assert_eq!(due, names(&[0]));
        // The same day, and as long as half a period is left.
        for (day, expected) in [(16, vec![]), (24, vec![]), (26, vec![1]), (30, vec![1])] {
            assert_eq!(consider(&first, day).0, names(&expected), "{day}");
        }
        let (_, second) = consider(&first, 26);
        assert_eq!(consider(&second, 30).0, names(&[]));
        let (due, third) = consider(&second, 36);
        assert_eq!(due, names(&[0, 2]));
        assert_eq!(consider(&third, 37).0, names(&[]));
        // A record that is lost costs requests.
        assert_eq!(consider(&none, 37).0, names(&[0, 1, 2]));
    }

    #[test]
    fn what_is_about_to_go_is_passed_over_and_comes_to_its_lock_when_it_stays() {
        let listed = [object(0, 0), object(1, 0), object(2, 20 * DAY)];
        let going = HashSet::from([pack(1), pack(2)]);
        let none = LockRecord::default();
        let (due, record) = consider(&listed, &none, &going, lock(30), at(20 * DAY));
        assert_eq!(due, names(&[0]));
        let (due, later) = consider(&listed, &record, &HashSet::new(), lock(30), at(21 * DAY));
        assert_eq!(due, names(&[1]));
        // The third one is locked by what it was written with, until day 50.
        assert_eq!(later.passed_over, [pack(2)]);
        let (due, last) = consider(&listed, &later, &HashSet::new(), lock(30), at(36 * DAY));
        assert_eq!(due, names(&[0, 1, 2]));
        assert_eq!(last.passed_over, []);
    }

    #[test]
    fn what_passes_is_not_locked_and_what_nobody_dates_is() {
        let undated = |name: &str| ObjectInfo { name: name.to_string(), size: 1, modified: None };
        let listed = [undated("config"), undated("gc/00000001.condemned"), undated("probe/x")];
        let none = LockRecord::default();
        let (due, _) = consider(&listed, &none, &HashSet::new(), lock(30), at(0));
        assert_eq!(due, ["config"]);
    }

    proptest! {
        /// Against a plain map of what is locked until when: whatever is needed is locked for half a period to come after
        /// every prune, and nothing is asked for twice within half a period.
        #[test]
        fn after_a_prune_what_is_needed_is_locked_for_half_a_period(
            days in 1..40_u64,
            steps in prop::collection::vec((0..3_000_u32, 0..4_u8, any::<u8>()), 1..60),
        ) {
            let (lock, period) = (lock(days), days as i64 * DAY);
            let mut now = 1_000_000_000;
            let mut listed: Vec<ObjectInfo> = Vec::new();
            let mut locked: HashMap<String, i64> = HashMap::new();
            let mut prolonged: HashMap<String, i64> = HashMap::new();
            let mut known = LockRecord::default();
            for (minutes, action, choice) in steps {
                now += i64::from(minutes) * 60;
                if action > 0 {
                    let number = listed.len() as u32;
                    listed.push(object(number, now));
                    locked.insert(layout::pack(pack(number)), now + period);
                    continue;
                }
                let going: HashSet<PackId> = (0..listed.len() as u32)
                    .filter(|number| number % 7 == u32::from(choice % 9))
                    .map(pack)
                    .collect();
                // Of what was passed over, less is known than was done.
                for pack in &going {
                    prolonged.insert(layout::pack(*pack), i64::MIN / 2);
                }
                let (due, record) = consider(&listed, &known, &going, lock, at(now));
                known = LockRecord::decode(&record.encode()).unwrap();
                for name in due {
                    let before = prolonged.get(&name).copied();
                    prop_assert!(before.is_none_or(|before| now - before >= period / 2 - CLOCKS_DIFFER));
                    if before != Some(i64::MIN / 2) {
                        prolonged.insert(name.clone(), now);
                    }
                    locked.insert(name, now + period);
                }
                for object in &listed {
                    let is_going = layout::parse_pack(&object.name).is_some_and(|pack| going.contains(&pack));
                    prop_assert!(is_going || locked[&object.name] >= now + period / 2, "{}", object.name);
                }
            }
        }
    }
}
