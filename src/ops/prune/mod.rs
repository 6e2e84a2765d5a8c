//! Prune: gives back the space of what no snapshot needs, beside backups that run.
//!
//! A generation of collection at a time: condemn packs, wait for the sessions that may count on them, look again,
//! sweep, delete (`docs/design/collection.md`). First whole packs that nobody needs go, which frees space before
//! any is taken; then packs that are needed in part are copied without the rest, a batch at a time, and
//! go the same way. It may be stopped anywhere: the next run, on any machine, goes on. Where there is no room, batches
//! become smaller, and what has to be written down takes the place of the reserve.
//!
//! Memory: what finding out what is needed takes (`ops::marking`), a row a pack, and a writer's packs while copying.

mod locks;
mod lost;
mod needs;
pub mod plan;
mod repack;
mod table;
pub(super) mod usage;

use std::collections::{BTreeSet, HashSet};
use std::time::Duration;

use crate::format::generation::Condemned;
use crate::format::session::Purpose;
use crate::id::{BlobKey, PackId, SessionId, SnapshotId};
use crate::monitor::{Monitor, Phase};
use crate::ops::OpsError;
pub use crate::ops::marking::Following;
use crate::repository::Repository;
use crate::repository::collector::{Cleared, Holder, SeenIdle};
use crate::repository::error::{Kind, RepositoryError};
use crate::repository::generations::{Generations, PublishedSweep};
use crate::repository::index::merge::Merged;
use crate::repository::index::objects::NotAdopted;
use crate::repository::planted::{Step, is_left_out};
use crate::repository::reader::BlobReader;
use crate::repository::snapshots::Snapshots;
use crate::repository::verify::is_damage;
use crate::units::Timestamp;

use lost::Lost;
use needs::Needs;
use plan::{PackPlan, PlanLimits, UnusedLimit, plan};
use repack::Copying;
use usage::{Exceptions, Usage};

/// Packs of at most so many bytes are copied before those that they replace are dropped: so much space a prune needs
/// beyond what is there.
const BATCH_BYTES: u64 = 1 << 30;
/// And of at most so many.
const MOST_IN_BATCH: usize = 4096;
/// So many packs are condemned at first where there is no room for a longer list. They make some.
const FEW_PACKS: usize = 256;
/// Objects that a batch of copies takes beside packs: registration, index object, ABORT, condemned list, sweep.
const BATCH_OBJECTS: u64 = 5;
/// Sessions that ended without a snapshot, from which on a generation is worth it for their sake alone.
const WORTHWHILE_ABORTS: usize = 64;

/// How to prune.
#[derive(Debug, Clone)]
pub struct PruneOptions {
    /// What may stay unused, and how much is copied.
    pub limits: PlanLimits,
    /// A session that has made nothing for so long, as seen by two runs, is given up. It commits again when it
    /// wakes. Zero: at once.
    pub patience: Duration,
    /// Plan, and change nothing.
    pub dry_run: bool,
    /// In a plan, take these for forgotten.
    pub assume_forgotten: BTreeSet<SnapshotId>,
    /// Become the client that collects, where the store allows only one.
    pub become_maintainer: bool,
    /// Bytes that everything together may use.
    pub memory_budget: u64,
    /// Whether what an earlier run remembers of what snapshots need is counted on.
    pub following: Following,
}

impl Default for PruneOptions {
    fn default() -> Self {
        PruneOptions {
            limits: PlanLimits {
                max_unused: UnusedLimit::Share(0.05),
                max_repack_bytes: None,
                repack_small: false,
                leave_cold: true,
            },
            patience: Duration::from_secs(7 * 86_400),
            dry_run: false,
            assume_forgotten: BTreeSet::new(),
            become_maintainer: false,
            memory_budget: 256 << 20,
            following: Following::default(),
        }
    }
}

/// A session that a collection waits for, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldBy {
    /// Its name.
    pub session: SessionId,
    /// The host it registered from; empty when that cannot be read.
    pub host: String,
    /// When it registered, by its own clock.
    pub registered: Option<Timestamp>,
    /// Since when it has made nothing, as far as this client has seen.
    pub idle_since: Option<Timestamp>,
}

/// What a prune found and did.
#[derive(Debug, Clone, Default)]
pub struct PruneSummary {
    /// What was to be done when it began; `None` when an unfinished collection held it up.
    pub plan: Option<PackPlan>,
    /// Packs before.
    pub packs_before: u64,
    /// Their bytes.
    pub bytes_before: u64,
    /// Bytes of packs that nobody needs, before, about.
    pub unused_before: u64,
    /// Blobs that snapshots need.
    pub live_blobs: u64,
    /// About how many requests the plan makes of the store to read, write and delete; without looking at what is
    /// needed, merging and clearing away.
    pub requests: [u64; 3],
    /// Generations that this run ended.
    pub generations: Vec<u32>,
    /// Sessions that it gave up, those of this machine's dead backups among them.
    pub fenced: u64,
    /// Sessions that it waits for: what is condemned is deleted by a later run.
    pub held_by: Vec<HeldBy>,
    /// Packs that were deleted.
    pub packs_deleted: u64,
    /// Their bytes.
    pub bytes_deleted: u64,
    /// Packs that were condemned and needed after all.
    pub packs_rescued: u64,
    /// Bytes of new packs and index objects.
    pub bytes_written: u64,
    /// Why copying stopped early, if it did: the store is full.
    pub stopped: Option<String>,
    /// What else was cleared away.
    pub cleared: Cleared,
    /// Objects that only the hot one of two stores had, or only the cold one, and that both have now.
    pub objects_copied: u64,
    /// Index objects that became fewer.
    pub merged: Merged,
    /// Objects whose locks were prolonged, or, in a dry run, would be: a request each. `None`: the repository locks
    /// nothing.
    pub locks_prolonged: Option<u64>,
    /// Objects that were to go and that the store keeps, because their locks have not ended.
    pub still_locked: u64,
    /// How long it took.
    pub elapsed: Duration,
}

/// Prunes the repository. What cannot be read stops it: what a damaged snapshot or directory needs is unknown, and
/// would be taken for garbage.
pub fn prune(
    repository: &Repository,
    options: &PruneOptions,
    monitor: &dyn Monitor,
) -> Result<PruneSummary, OpsError> {
    let clock = repository.environment().clock.clone();
    let start = clock.elapsed();
    let mut summary = PruneSummary::default();
    let seen = repository.seen_idle()?;
    let mut outcome = Ok(Attempt::Overtaken);
    for _ in 0..ATTEMPTS {
        let reader = BlobReader::for_a_walk(repository, options.memory_budget);
        let mut collection = Collection {
            repository,
            options,
            monitor,
            needs: Needs::new(&reader, options, monitor),
            seen: &seen,
            session: None,
            newest: 0,
            swept: 0,
            summary,
        };
        outcome = collection.attempt();
        summary = collection.summary;
        if !matches!(outcome, Ok(Attempt::Overtaken)) {
            break;
        }
    }
    // Whatever became of the rest: what is there must not lose its lock because something else is wrong.
    let prolonged = match &outcome {
        Err(OpsError::Interrupted) => Ok(None),
        // Also where the store is not what it was: then nothing in it is touched.
        Err(OpsError::Repository(error))
            if matches!(error.kind, Kind::Unavailable | Kind::Invalid) =>
        {
            Ok(None)
        }
        _ => locks::prolong(repository, options, summary.plan.as_ref(), monitor),
    };
    let outcome = outcome?;
    summary.locks_prolonged = prolonged?;
    summary.still_locked = repository.still_locked();
    match outcome {
        Attempt::Done => {}
        Attempt::Overtaken => {
            return Err(OpsError::Busy(format!(
                "other collectors were faster {ATTEMPTS} times; run `aumbry prune` again"
            )));
        }
    }
    summary.elapsed = clock.elapsed().saturating_sub(start);
    Ok(summary)
}

/// How often a collection that another one overtook begins again.
const ATTEMPTS: usize = 16;

/// How an attempt to collect ended.
enum Attempt {
    Done,
    /// Another collector went on meanwhile, so that what was seen no longer holds: begin again.
    Overtaken,
}

/// How a generation went.
enum Ended {
    /// It is swept.
    Swept,
    /// Sessions hold it up.
    Held,
    /// Another collector began or ended one meanwhile.
    Overtaken,
}

/// How copying a batch went.
enum Repacked {
    /// It was copied, and what it replaces went as this says.
    Ended(Ended),
    /// There is no room for so much, and the copies are gone again.
    Full(RepositoryError),
}

/// What was looked at last.
struct Marked {
    generations: Generations,
    /// Sessions that had not decided before snapshots were listed: what they have made is left alone.
    undecided: BTreeSet<SessionId>,
    snapshots: Snapshots,
    /// Packs in no index object that could not be read.
    not_adopted: NotAdopted,
}

/// Whether another collector that goes on can be the reason: what seems to be lost, and what somebody is said to be in the way of.
fn may_be_of_others(error: &OpsError) -> bool {
    match error {
        OpsError::Repository(error) => is_damage(error),
        error => matches!(error, OpsError::Busy(_)),
    }
}

struct Collection<'c, 'a> {
    repository: &'a Repository,
    options: &'c PruneOptions,
    monitor: &'c dyn Monitor,
    needs: Needs<'c, 'a>,
    /// Which sessions had made nothing for how long when this run began.
    seen: &'c SeenIdle,
    /// What this attempt is registered as, until that has ended.
    session: Option<SessionId>,
    /// The newest generation that this attempt knows of.
    newest: u32,
    /// The newest sweep that it knows of.
    swept: u32,
    summary: PruneSummary,
}

impl<'a> Collection<'_, 'a> {
    /// Gives up the backups of this machine that were killed. What cannot be given up is waited for.
    fn abort_left(&mut self) {
        let left = self.repository.abort_left_sessions().unwrap_or_default();
        for session in &left {
            self.monitor.note(&format!(
                "session {session} was a backup of this machine that did not come to its end; nothing waits for it"
            ));
        }
        self.summary.fenced += left.len() as u64;
    }

    /// Collects. What seems to be lost while another collector moves it is not: then it is said to be overtaken.
    fn attempt(&mut self) -> Result<Attempt, OpsError> {
        if !self.options.dry_run {
            self.repository.require_maintainer(self.options.become_maintainer)?;
        }
        // Registered, no generation begins and ends unnoticed while this one looks at what is needed.
        let session = match self.options.dry_run {
            true => None,
            false => Some(self.register()?),
        };
        self.session = session;
        if session.is_some() {
            self.abort_left();
        }
        let ran = self.run();
        // Not twice: where the store is full, that would fail.
        let session = self.session.take();
        let ended = session.map_or(Ok(false), |session| self.repository.abort_at_need(session));
        match ran {
            Err(error) if may_be_of_others(&error) => {
                let now = self.repository.generations()?;
                match now.newest > self.newest || now.swept() > self.swept {
                    true => Ok(Attempt::Overtaken),
                    false => Err(error),
                }
            }
            Err(error) => Err(error),
            Ok(attempt) => ended.map(|_| attempt).map_err(OpsError::from),
        }
    }

    /// Registers. On a full disk, what goes without a word goes first: the packs of the last sweep, and what has become
    /// meaningless.
    fn register(&mut self) -> Result<SessionId, OpsError> {
        match self.repository.register(Purpose::Collect) {
            Err(error) if error.kind == Kind::Full => {}
            registered => return Ok(registered?),
        }
        let generations = self.repository.generations()?;
        generations.require_readable()?;
        if let Some(last) = &generations.last {
            self.delete(last)?;
        }
        let snapshots = self.repository.snapshots(self.monitor)?;
        self.add_cleared(self.repository.clear_away(&generations, &snapshots)?);
        Ok(self.repository.register_at_need()?)
    }

    fn add_cleared(&mut self, cleared: Cleared) {
        self.summary.cleared.sessions += cleared.sessions;
        self.summary.cleared.aborts += cleared.aborts;
        self.summary.cleared.snapshots += cleared.snapshots;
    }

    fn run(&mut self) -> Result<Attempt, OpsError> {
        if !self.finish_open()? {
            return Ok(Attempt::Done);
        }
        let marked = self.mark()?;
        if marked.generations.open.is_some() && !self.options.dry_run {
            // What another collector condemned meanwhile may be needed, and will be spared then.
            return Ok(Attempt::Overtaken);
        }
        let exceptions = Exceptions {
            damaged: self.repository.damaged_packs()?,
            undecided: marked.undecided.clone(),
            given_up: marked.not_adopted.given_up.clone(),
            ..Exceptions::default()
        };
        let usage = self.count(&marked, |collection| {
            let marks = collection.needs.marks();
            let usage = Usage::count(collection.repository, marks, &exceptions)?;
            let lost = usage.lost;
            Ok((usage, lost))
        })?;
        let packs = usage.packs(self.repository, &exceptions);
        let limits = &self.options.limits;
        let leave_cold = limits.leave_cold && self.repository.store().is_tiered();
        let plan = plan(&packs, &PlanLimits { leave_cold, ..*limits });
        self.summary.packs_before = packs.len() as u64;
        self.summary.bytes_before = packs.iter().map(|pack| pack.object_length).sum();
        self.summary.unused_before = packs.iter().map(plan::PackUse::unused_bytes).sum();
        self.summary.live_blobs = usage.live_blobs;
        self.summary.requests = self.requests(&plan);
        self.summary.plan = Some(plan.clone());
        let bases = usage.into_bases();
        if let Some(session) = self.session {
            let is_ours = self.repository.end_at_need(session)?;
            self.session = None;
            if !is_ours {
                return Ok(Attempt::Overtaken);
            }
        }
        if self.options.dry_run {
            return Ok(Attempt::Done);
        }
        // What the last sweep already lets go is cleared away without another one.
        let generations = &marked.generations;
        let tombs = marked.snapshots.tombs.iter().filter(|id| generations.lets_live(id.0));
        let aborted = marked.snapshots.aborted.iter();
        let aborted = aborted.filter(|session| session.generation >= generations.swept());
        let has_leftovers = tombs.count() > 0 || aborted.count() >= WORTHWHILE_ABORTS;
        if !plan.drop.is_empty() || has_leftovers || self.has_dead_packs()? {
            match self.collect(&marked.generations, plan.drop)? {
                Ended::Swept => {}
                Ended::Held => return Ok(Attempt::Done),
                Ended::Overtaken => return Ok(Attempt::Overtaken),
            }
        }
        let (mut rest, mut most) = (plan.repack.as_slice(), usize::MAX);
        while !rest.is_empty() {
            let length = self.batch_length(rest)?.min(most);
            let repacked = match self.repack(&rest[..length], &bases) {
                // Not even that the copies go could be said.
                Err(OpsError::Repository(error)) if error.kind == Kind::Full => {
                    self.summary.stopped = Some(error.to_string());
                    break;
                }
                repacked => repacked?,
            };
            match repacked {
                Repacked::Ended(Ended::Swept) => rest = &rest[length..],
                Repacked::Ended(Ended::Held) => return Ok(Attempt::Done),
                Repacked::Ended(Ended::Overtaken) => return Ok(Attempt::Overtaken),
                Repacked::Full(_) if length > 1 => most = length / 2,
                // What could be freed with so little room was freed before.
                Repacked::Full(error) => {
                    self.summary.stopped = Some(error.to_string());
                    break;
                }
            }
        }
        self.clear_away()?;
        Ok(Attempt::Done)
    }

    /// About how many requests to read, write and delete it takes, beside looking at what is needed and tidying up.
    fn requests(&self, plan: &PackPlan) -> [u64; 3] {
        let pack_length = self.repository.settings().usual_pack_length();
        let batches = plan.repack_bytes.div_ceil(BATCH_BYTES);
        let lists = if plan.drop.is_empty() { 0 } else { 2 };
        let writes = plan.write_bytes.div_ceil(pack_length) + BATCH_OBJECTS * batches + lists;
        [plan.read_requests, writes, (plan.drop.len() + plan.repack.len()) as u64]
    }

    /// How many of these packs go into the next batch: one at least.
    fn batch_length(&self, packs: &[PackId]) -> Result<usize, OpsError> {
        // As many as are in a batch, mostly; the others are asked for with theirs.
        let some = &packs[..packs.len().min(MOST_IN_BATCH)];
        let lengths = self.repository.cache().lengths(some.iter().copied())?;
        let mut bytes = 0;
        let fitting = lengths.iter().take_while(|known| {
            bytes += known.map_or(0, |(_, length)| length);
            bytes <= BATCH_BYTES
        });
        Ok(fitting.count().max(1))
    }

    /// Ends a generation that another run began, and deletes what a sweep left. `false`: it cannot end yet.
    fn finish_open(&mut self) -> Result<bool, OpsError> {
        let generations = self.repository.generations()?;
        self.newest = generations.newest;
        self.swept = generations.swept();
        generations.require_readable()?;
        if self.options.dry_run {
            return Ok(true);
        }
        if let Some(last) = &generations.last {
            self.delete(last)?;
        }
        match &generations.open {
            None => Ok(true),
            Some((generation, condemned)) => {
                // Who ended it does not matter here.
                Ok(!matches!(self.end(*generation, condemned)?, Ended::Held))
            }
        }
    }

    /// Reads what there is now: snapshots first, packs last, as writers create in the opposite order.
    fn mark(&mut self) -> Result<Marked, OpsError> {
        self.monitor.phase(Phase::Mark);
        let generations = self.repository.generations()?;
        self.swept = generations.swept();
        let registered = self.repository.registered_sessions()?;
        let mut snapshots = self.repository.snapshots(self.monitor)?;
        if self.options.dry_run {
            snapshots.assume_forgotten(&self.options.assume_forgotten);
        }
        self.repository.require_checkpoint(&generations, &snapshots)?;
        // By the very listing that is followed.
        let decided = snapshots.decided();
        let undecided =
            registered.into_iter().filter(|session| !decided.contains(session)).collect();
        let index = self.repository.refresh_index(self.monitor)?;
        index.generations.require_readable()?;
        let not_adopted = self.repository.adopt_or_give_up()?;
        self.needs.follow(&snapshots)?;
        self.newest = generations.newest;
        Ok(Marked { generations, undecided, snapshots, not_adopted })
    }

    /// Counts what is needed. If something seems to be lost, or what was remembered turns out to be unreadable, everything
    /// is followed anew, and counted once more: snapshots that were followed may be gone by now, and what only they
    /// referred to is not lost; and no answer depends on what is remembered. Refuses if something is lost then.
    fn count<T>(
        &mut self,
        marked: &Marked,
        count: impl Fn(&Self) -> Result<(T, Lost), RepositoryError>,
    ) -> Result<T, OpsError> {
        self.monitor.phase(Phase::Count);
        let mut counted = count(self);
        let is_doubtful = match &counted {
            Ok((_, lost)) => lost.example.is_some(),
            Err(_) => self.needs.marks().is_broken(),
        };
        if is_doubtful && (counted.is_err() || !self.needs.are_anew_of(&marked.snapshots)) {
            if counted.is_err() {
                self.needs.require_none_left_out(&marked.snapshots)?;
            }
            self.needs.follow_anew(&marked.snapshots)?;
            counted = count(self);
        }
        let (counted, lost) = counted?;
        lost.require_none(&marked.not_adopted)?;
        Ok(counted)
    }

    /// Drops these packs in a generation of their own.
    fn collect(
        &mut self,
        generations: &Generations,
        packs: Vec<PackId>,
    ) -> Result<Ended, OpsError> {
        let mut condemned = Condemned { packs, ..Condemned::default() };
        let mut later = Vec::new();
        let begun = match self.repository.condemn(generations, condemned.packs.clone()) {
            Err(error) if error.kind == Kind::Full && condemned.packs.len() > FEW_PACKS => {
                later = condemned.packs.split_off(FEW_PACKS);
                self.repository.condemn(generations, condemned.packs.clone())?
            }
            begun => begun?,
        };
        let Some(generation) = begun else { return Ok(Ended::Overtaken) };
        self.newest = generation;
        let ended = self.end(generation, &condemned)?;
        if later.is_empty() || !matches!(ended, Ended::Swept) {
            return Ok(ended);
        }
        // Which are condemned is a guess at any time: what is needed is looked at again before they are swept.
        let generations = self.repository.generations()?;
        generations.require_readable()?;
        self.collect(&generations, later)
    }

    /// From a published condemned list to the end.
    fn end(&mut self, generation: u32, condemned: &Condemned) -> Result<Ended, OpsError> {
        let now = self.repository.environment().clock.now();
        let mut held = Vec::new();
        let holders = match is_left_out(Step::WaitForSessions) {
            true => Vec::new(),
            false => self.repository.holders(generation, self.seen)?,
        };
        for holder in holders {
            let said = self.repository.session(holder.session).ok();
            // A collector that was given up begins again, and one that was stopped never would.
            let is_collector = said.as_ref().is_some_and(|said| said.purpose == Purpose::Collect);
            if !is_collector && !self.is_given_up(&holder, now) {
                held.push(HeldBy {
                    session: holder.session,
                    host: said.as_ref().map(|said| said.host.clone()).unwrap_or_default(),
                    registered: said.map(|said| said.time),
                    idle_since: holder.idle_since,
                });
            } else if is_collector {
                self.repository.abort_at_need(holder.session)?;
            } else if self.repository.abort_at_need(holder.session)? {
                self.summary.fenced += 1;
            }
        }
        if !held.is_empty() {
            self.summary.held_by = held;
            return Ok(Ended::Held);
        }
        // Everybody who could count on what is condemned has decided: what is needed now is all that is.
        let marked = self.mark()?;
        match &marked.generations.open {
            Some((open, _)) if *open == generation => {}
            // Somebody else ended it.
            _ => return Ok(Ended::Overtaken),
        }
        let waits = !is_left_out(Step::WaitForSessions);
        let (undecided, aborted) = (&marked.undecided, &marked.snapshots.aborted);
        if waits && !self.repository.require_slots(generation, undecided, aborted)? {
            return Ok(Ended::Overtaken);
        }
        let damaged = self.repository.damaged_packs()?;
        let rescued = self.count(&marked, |collection| {
            let Collection { repository, needs, .. } = collection;
            Usage::rescue(repository, needs.marks(), &condemned.packs, damaged.clone())
        })?;
        let is_dropped =
            |pack: &&PackId| !rescued.contains(*pack) || is_left_out(Step::SpareNeeded);
        let packs: Vec<PackId> = condemned.packs.iter().filter(is_dropped).copied().collect();
        let live = marked
            .snapshots
            .all
            .iter()
            .filter(|(id, _)| id.0.generation < generation)
            .map(|(id, _)| (*id, marked.snapshots.observed.get(id).copied()))
            .collect();
        let last = marked.generations.last.as_ref();
        let published = self.repository.sweep(generation, last, packs, live)?;
        self.summary.generations.push(generation);
        self.summary.packs_rescued += rescued.len() as u64;
        self.delete(&published)?;
        Ok(Ended::Swept)
    }

    fn delete(&mut self, published: &PublishedSweep) -> Result<(), OpsError> {
        self.monitor.phase(Phase::Delete);
        let (packs, bytes) = self.repository.delete_swept(published)?;
        self.summary.packs_deleted += packs;
        self.summary.bytes_deleted += bytes;
        Ok(())
    }

    /// Whether to wait for this session no longer. The clock decides when that is, and never whether it is safe: a
    /// session that was given up notices, and commits again.
    fn is_given_up(&self, holder: &Holder, now: Timestamp) -> bool {
        let patience = self.options.patience;
        if patience.is_zero() {
            return true;
        }
        holder.idle_since.is_some_and(|since| {
            now.seconds.saturating_sub(since.seconds)
                >= patience.as_secs().min(i64::MAX as u64) as i64
        })
    }

    /// Whether somebody is to be waited for no longer who has made packs, or holds old keys. Packs count as its own, and
    /// are left alone, until a generation gives it up, and the next run finds them to be garbage; old data keys
    /// are not dropped before.
    fn has_dead_packs(&self) -> Result<bool, OpsError> {
        let now = self.repository.environment().clock.now();
        for holder in self.repository.holders(u32::MAX, self.seen)? {
            let is_given_up = self.is_given_up(&holder, now);
            if holder.objects > 0 && (is_given_up || self.is_dead_collector(&holder))
                || is_given_up && self.repository.holds_old_keys(holder.session)?
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// A collector that lives has made more since an earlier run of this client, or begins again.
    fn is_dead_collector(&self, holder: &Holder) -> bool {
        let said = self.repository.session(holder.session);
        holder.idle_since.is_some() && said.is_ok_and(|said| said.purpose == Purpose::Collect)
    }

    /// Copies what is needed out of these packs, and drops them.
    fn repack(&mut self, packs: &[PackId], bases: &HashSet<BlobKey>) -> Result<Repacked, OpsError> {
        let needed = repack::Needed { marks: self.needs.marks(), bases };
        let copying =
            repack::copy(self.repository, self.newest, &needed, packs, self.options, self.monitor)?;
        let before = self.newest;
        let marked = self.mark()?;
        let (packs, full) = match copying {
            Copying::Done(copied) => {
                self.summary.bytes_written += copied.bytes_written;
                (copied.emptied, None)
            }
            // Until then, what was copied takes the room that is lacking. Others may count on it: it goes as all else does.
            Copying::Full(session, error) => (self.repository.packs_of(session)?, Some(error)),
        };
        if marked.generations.newest > before {
            // The copies are there, and what they replace is dropped by the next attempt.
            return Ok(Repacked::Ended(Ended::Overtaken));
        }
        let ended = match full.is_some() && packs.is_empty() {
            true => Ended::Swept,
            false => self.collect(&marked.generations, packs)?,
        };
        Ok(match (ended, full) {
            (Ended::Swept, Some(error)) => Repacked::Full(error),
            (ended, _) => Repacked::Ended(ended),
        })
    }

    fn clear_away(&mut self) -> Result<(), OpsError> {
        let generations = self.repository.generations()?;
        let snapshots = self.repository.snapshots(self.monitor)?;
        // With what is cleared away goes what a lost hot store could be known by instead.
        self.summary.objects_copied = self.repository.complete_cold()?;
        self.add_cleared(self.repository.clear_away(&generations, &snapshots)?);
        if self.summary.stopped.is_none() {
            match self.repository.merge_indexes(self.monitor) {
                Ok(merged) => self.summary.merged = merged,
                Err(error) if error.kind == Kind::Full => {
                    self.summary.stopped = Some(error.to_string());
                }
                Err(error) => return Err(error.into()),
            }
        }
        if self.summary.stopped.is_none() {
            self.repository.fill_reserve()?;
        }
        Ok(())
    }
}
