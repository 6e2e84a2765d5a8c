//! Forget: hide snapshots that a policy does not keep, or that were chosen one by one. First a plan with a reason
//! for every snapshot, then tombs; space comes back when the repository is collected.

pub mod policy;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use jiff::tz::TimeZone;

use crate::format::snapshot::Snapshot;
use crate::id::SnapshotId;
use crate::monitor::Monitor;
use crate::ops::OpsError;
use crate::ops::select::SnapshotFilter;
use crate::repository::Repository;
use crate::repository::error::{Kind, RepositoryError};
use crate::repository::snapshots::Snapshots;
use crate::repository::verify::is_damage;
use crate::units::Timestamp;
use policy::{Candidate, PIN_TAG, Policy, Reason, Times, Verdict, retain};

/// How many snapshots are forgotten after one look at the tombs that there are.
const FORGOTTEN_AT_ONCE: usize = 256;

/// By what snapshots are put into groups. A policy is applied to each group for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupBy {
    /// By the host.
    pub host: bool,
    /// By the name of the source.
    pub name: bool,
    /// By the paths that were saved.
    pub paths: bool,
    /// By the tags.
    pub tags: bool,
}

impl Default for GroupBy {
    /// Host and name. Never paths: where they change from run to run, as those of temporary folders do, every
    /// snapshot would be a group of its own, and nothing would ever be dropped.
    fn default() -> Self {
        GroupBy { host: true, name: true, paths: false, tags: false }
    }
}

/// What the snapshots of a group have in common; `None` where that is not asked.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct GroupKey {
    /// The host.
    pub host: Option<String>,
    /// The name of the source; empty for those that have none.
    pub name: Option<String>,
    /// The paths.
    pub paths: Option<Vec<Vec<u8>>>,
    /// The tags.
    pub tags: Option<Vec<String>>,
}

impl GroupBy {
    fn key(&self, snapshot: &Snapshot) -> GroupKey {
        GroupKey {
            host: self.host.then(|| snapshot.host.clone()),
            name: self.name.then(|| snapshot.name.clone()),
            paths: self.paths.then(|| snapshot.paths.clone()),
            tags: self.tags.then(|| snapshot.tags.clone()),
        }
    }
}

impl fmt::Display for GroupKey {
    /// `host box, name home, paths /a and /b, tags x+y`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        if let Some(host) = &self.host {
            parts.push(format!("host {host}"));
        }
        match self.name.as_deref() {
            None => {}
            Some("") => parts.push("no name".to_string()),
            Some(name) => parts.push(format!("name {name}")),
        }
        if let Some(paths) = &self.paths {
            let paths: Vec<_> = paths.iter().map(|path| String::from_utf8_lossy(path)).collect();
            parts.push(format!("paths {}", paths.join(" and ")));
        }
        match self.tags.as_deref() {
            None => {}
            Some([]) => parts.push("no tags".to_string()),
            Some(tags) => parts.push(format!("tags {}", tags.join("+"))),
        }
        f.write_str(if parts.is_empty() { "all snapshots" } else { "" })?;
        f.write_str(&parts.join(", "))
    }
}

/// A policy, and what it is applied to.
#[derive(Debug, Clone)]
pub struct ForgetOptions {
    /// Which snapshots come into question; the others are kept and count for no rule.
    pub filter: SnapshotFilter,
    /// How they are grouped.
    pub group_by: GroupBy,
    /// What is kept.
    pub policy: Policy,
    /// The zone whose days, weeks and months count.
    pub zone: TimeZone,
}

/// A snapshot and what is to become of it.
#[derive(Debug, Clone)]
pub struct Planned {
    /// The snapshot.
    pub snapshot: Snapshot,
    /// What becomes of it, and why.
    pub verdict: Verdict,
}

/// One group of a plan.
#[derive(Debug, Clone)]
pub struct PlannedGroup {
    /// What its snapshots have in common.
    pub key: GroupKey,
    /// Its snapshots, oldest first by the time that counts.
    pub snapshots: Vec<Planned>,
}

impl PlannedGroup {
    /// Those that are dropped.
    pub fn dropped(&self) -> impl Iterator<Item = &Planned> {
        self.snapshots.iter().filter(|planned| !planned.verdict.kept)
    }

    /// How many different sets of paths its snapshots are of.
    fn path_sets(&self) -> usize {
        self.snapshots.iter().map(|planned| &planned.snapshot.paths).collect::<BTreeSet<_>>().len()
    }
}

/// Why a plan needs somebody's consent before it is carried out.
#[derive(Debug, Clone)]
pub enum Concern {
    /// Nothing would be left of a group, or only what is doubted.
    EmptiesGroup {
        /// The group.
        key: GroupKey,
        /// How many snapshots it has.
        snapshots: usize,
        /// How many doubted ones it has besides, some of which are kept; 0 when none is.
        doubted: usize,
    },
    /// More than half of all snapshots in the repository would go.
    MoreThanHalf {
        /// How many go.
        dropped: usize,
        /// How many there are.
        total: usize,
        /// How many doubted ones were not counted; 0 when it is more than half with them.
        doubted: usize,
    },
    /// A group without a name is of several different things, and a snapshot of one may go in favour of one of
    /// another.
    MixedPaths {
        /// The group.
        key: GroupKey,
        /// How many different sets of paths there are.
        path_sets: usize,
    },
    /// A pinned snapshot was chosen.
    Pinned {
        /// The snapshot.
        id: SnapshotId,
    },
    /// A slot was chosen that cannot be read.
    Unread(Unread),
}

impl fmt::Display for Concern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Concern::EmptiesGroup { key, snapshots, doubted } => {
                match snapshots {
                    1 => write!(f, "the only snapshot of {key} goes")?,
                    _ => write!(f, "all {snapshots} snapshots of {key} go")?,
                }
                but_doubted(f, *doubted)
            }
            Concern::MoreThanHalf { dropped, total, doubted } => {
                write!(f, "{dropped} of {total} snapshots go, more than half")?;
                but_doubted(f, *doubted)
            }
            Concern::MixedPaths { key, path_sets } => write!(
                f,
                "{key}: snapshots of {path_sets} different sets of paths, and those of one may go in \
                 favour of another's"
            ),
            Concern::Pinned { id } => write!(f, "snapshot {} has the tag {PIN_TAG}", id.short()),
            Concern::Unread(Unread { id, error: None }) => write!(
                f,
                "snapshot {} is gone, and not because it was forgotten: what only it needs will be \
                 collected, and then its object is of no use any more if it is found again",
                id.short()
            ),
            Concern::Unread(Unread { id, error: Some(error) }) => match error.kind {
                Kind::Newer | Kind::WrongKey => write!(
                    f,
                    "snapshot {} may be whole, and somebody else able to read it ({}): what only it \
                     needs will be collected",
                    id.short(),
                    error.message
                ),
                _ => write!(
                    f,
                    "snapshot {} cannot be read ({}), so nobody can tell what it is of, or whether a \
                     backup ended there without a snapshot: what only it needs will be collected",
                    id.short(),
                    error.message
                ),
            },
        }
    }
}

fn but_doubted(f: &mut fmt::Formatter<'_>, doubted: usize) -> fmt::Result {
    match doubted {
        0 => Ok(()),
        _ => write!(f, ", not counting {doubted} whose times are in doubt"),
    }
}

/// A slot that was chosen although nobody can tell what it holds. As long as it is there, nothing is collected.
#[derive(Debug, Clone)]
pub struct Unread {
    /// Its name.
    pub id: SnapshotId,
    /// Why it cannot be read; `None`: the store does not show it.
    pub error: Option<RepositoryError>,
}

/// What is to be forgotten, with the reasons.
#[derive(Debug, Clone)]
pub struct ForgetPlan {
    /// The groups that come into question.
    pub groups: Vec<PlannedGroup>,
    /// Slots that cannot be read and were chosen.
    pub unread: Vec<Unread>,
    /// Why it needs consent; empty: it does not.
    pub concerns: Vec<Concern>,
    /// Why, for the tombs.
    pub why: String,
}

impl ForgetPlan {
    /// Those that are dropped, but for what cannot be read.
    pub fn dropped(&self) -> impl Iterator<Item = &Planned> {
        self.groups.iter().flat_map(PlannedGroup::dropped)
    }

    /// The names of all that are dropped.
    pub fn dropped_ids(&self) -> impl Iterator<Item = SnapshotId> {
        let unread = self.unread.iter().map(|unread| unread.id);
        self.dropped().map(|planned| planned.verdict.id).chain(unread)
    }

    fn new(groups: Vec<PlannedGroup>, snapshots: &Snapshots, why: String) -> Self {
        let mut plan = ForgetPlan { groups, unread: Vec::new(), concerns: Vec::new(), why };
        let (mut doubted, mut doubted_dropped) = (0, 0);
        for group in &plan.groups {
            let of = |is_doubted: bool, is_kept: bool| {
                let has = |planned: &&Planned| {
                    (planned.verdict.doubted, planned.verdict.kept) == (is_doubted, is_kept)
                };
                group.snapshots.iter().filter(has).count()
            };
            doubted += of(true, true) + of(true, false);
            doubted_dropped += of(true, false);
            // Doubted ones that stay are no comfort: one that was forged would stand for all that is true.
            let (all, trusted) = (group.snapshots.len(), of(false, false));
            let key = || group.key.clone();
            if all > 0 && trusted + of(true, false) == all {
                plan.concerns.push(Concern::EmptiesGroup {
                    key: key(),
                    snapshots: all,
                    doubted: 0,
                });
            } else if trusted > 0 && of(false, true) == 0 {
                let doubted = of(true, true) + of(true, false);
                plan.concerns.push(Concern::EmptiesGroup {
                    key: key(),
                    snapshots: trusted,
                    doubted,
                });
            }
        }
        let (dropped, total) = (plan.dropped().count(), snapshots.all.len());
        let (trusted_dropped, trusted) = (dropped - doubted_dropped, total - doubted);
        if dropped * 2 > total {
            plan.concerns.push(Concern::MoreThanHalf { dropped, total, doubted: 0 });
        } else if trusted_dropped * 2 > trusted {
            let (dropped, total) = (trusted_dropped, trusted);
            plan.concerns.push(Concern::MoreThanHalf { dropped, total, doubted });
        }
        plan
    }
}

/// What a policy drops. Pure: `now` is for windows, and for times that lie ahead of it.
///
/// # Errors
///
/// A policy that keeps nothing, and a filter that lets nothing through, are refused.
pub fn plan(
    snapshots: &Snapshots,
    options: &ForgetOptions,
    now: Timestamp,
) -> Result<ForgetPlan, OpsError> {
    if options.policy.is_empty() {
        return Err(OpsError::Invalid("no rule says what to keep, so everything would go".into()));
    }
    let mut groups: BTreeMap<GroupKey, Vec<usize>> = BTreeMap::new();
    for (at, (_, snapshot)) in snapshots.all.iter().enumerate() {
        if options.filter.matches(snapshot) {
            groups.entry(options.group_by.key(snapshot)).or_default().push(at);
        }
    }
    let planned = groups.into_iter().map(|(key, members)| {
        let candidates: Vec<_> = members.iter().map(|at| candidate(snapshots, *at)).collect();
        let verdicts = retain(&candidates, &options.policy, now, &options.zone);
        group(key, members.into_iter().zip(verdicts), snapshots)
    });
    let groups: Vec<_> = planned.collect();
    let mut plan = ForgetPlan::new(groups, snapshots, format!("policy: {}", options.policy));
    let mixed = plan.groups.iter().filter_map(|group| {
        let (key, path_sets) = (group.key.clone(), group.path_sets());
        let is_unnamed = key.name.as_deref() == Some("") && key.paths.is_none();
        let is_mixed = is_unnamed && path_sets > 1 && group.dropped().next().is_some();
        is_mixed.then_some(Concern::MixedPaths { key, path_sets })
    });
    let mixed: Vec<_> = mixed.collect();
    plan.concerns.extend(mixed);
    Ok(plan)
}

/// What goes when these snapshots are forgotten, whatever a policy would say of them. Those that cannot be read may be
/// chosen, too.
///
/// # Errors
///
/// One that could not be read because the store did not answer is refused.
pub fn plan_chosen(
    snapshots: &Snapshots,
    chosen: &[SnapshotId],
    now: Timestamp,
) -> Result<ForgetPlan, OpsError> {
    let group_by = GroupBy::default();
    let chosen: BTreeSet<_> = chosen.iter().collect();
    let unread: Vec<_> = unread(snapshots).filter(|unread| chosen.contains(&unread.id)).collect();
    let mut errors = unread.iter().filter_map(|unread| unread.error.as_ref());
    if let Some(error) = errors.find(|error| !is_damage(error)) {
        return Err(error.clone().into());
    }
    let mut groups: BTreeMap<GroupKey, Vec<usize>> = BTreeMap::new();
    for (at, (_, snapshot)) in snapshots.all.iter().enumerate() {
        groups.entry(group_by.key(snapshot)).or_default().push(at);
    }
    let is_chosen = |at: &usize| chosen.contains(&snapshots.all[*at].0);
    groups.retain(|_, members| members.iter().any(is_chosen));
    let planned = groups.into_iter().map(|(key, members)| {
        let verdicts = members.into_iter().map(|at| {
            let candidate = candidate(snapshots, at);
            let Times { time, doubted, .. } = candidate.times(now, false);
            let kept = !is_chosen(&at);
            let reasons = vec![if kept { Reason::NotChosen } else { Reason::Chosen }];
            (at, Verdict { id: candidate.id, time, doubted, kept, reasons })
        });
        group(key, verdicts, snapshots)
    });
    let groups: Vec<_> = planned.collect();
    let mut plan = ForgetPlan::new(groups, snapshots, "chosen".to_string());
    let has_pin = |planned: &&Planned| planned.snapshot.tags.iter().any(|tag| tag == PIN_TAG);
    let pinned: Vec<_> = plan
        .dropped()
        .filter(has_pin)
        .map(|planned| Concern::Pinned { id: planned.verdict.id })
        .collect();
    plan.concerns.extend(pinned);
    plan.concerns.extend(unread.iter().cloned().map(Concern::Unread));
    plan.unread = unread;
    Ok(plan)
}

/// The slots that cannot be read, and those that are gone.
pub fn unread(snapshots: &Snapshots) -> impl Iterator<Item = Unread> {
    let damaged = snapshots.damaged.iter();
    let damaged = damaged.map(|(id, error)| Unread { id: *id, error: Some(error.clone()) });
    damaged.chain(snapshots.vanished.iter().map(|id| Unread { id: *id, error: None }))
}

fn candidate(snapshots: &Snapshots, at: usize) -> Candidate<'_> {
    let (id, snapshot) = &snapshots.all[at];
    Candidate {
        id: *id,
        claimed: snapshot.time,
        observed: snapshots.observed.get(id).copied(),
        tags: &snapshot.tags,
        original: snapshot.repaired.as_ref().map(|repaired| repaired.original),
    }
}

fn group(
    key: GroupKey,
    verdicts: impl Iterator<Item = (usize, Verdict)>,
    snapshots: &Snapshots,
) -> PlannedGroup {
    let mut members: Vec<_> = verdicts
        .map(|(at, verdict)| Planned { snapshot: snapshots.all[at].1.clone(), verdict })
        .collect();
    members.sort_by_key(|planned| (planned.verdict.time, planned.verdict.id));
    PlannedGroup { key, snapshots: members }
}

/// What a forget did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ForgetSummary {
    /// The snapshots that were forgotten.
    pub forgotten: Vec<SnapshotId>,
}

/// Carries a plan out. `consent` says that somebody has seen its concerns and wants it all the same.
///
/// # Errors
///
/// A plan with concerns is refused without consent. When it fails half-way, what was forgotten stays so, and
/// running it again forgets the rest.
pub fn forget(
    repository: &Repository,
    plan: &ForgetPlan,
    consent: bool,
    monitor: &dyn Monitor,
) -> Result<ForgetSummary, OpsError> {
    if !consent && let Some(concern) = plan.concerns.first() {
        return Err(OpsError::Invalid(format!("nothing was forgotten without consent: {concern}")));
    }
    let mut summary = ForgetSummary::default();
    let dropped: Vec<_> = plan.dropped_ids().collect();
    for ids in dropped.chunks(FORGOTTEN_AT_ONCE) {
        if monitor.interrupted() {
            return Err(OpsError::Interrupted);
        }
        repository.forget(ids, &plan.why)?;
        summary.forgotten.extend(ids);
    }
    Ok(summary)
}

#[cfg(test)]
mod tests;
