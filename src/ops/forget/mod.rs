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
use crate::repository::snapshots::Snapshots;
use crate::units::Timestamp;
use policy::{Candidate, PIN_TAG, Policy, Reason, Verdict, retain};

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
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Concern {
    /// Nothing would be left of a group.
    EmptiesGroup {
        /// The group.
        key: GroupKey,
        /// How many snapshots it has.
        snapshots: usize,
    },
    /// More than half of all snapshots in the repository would go.
    MoreThanHalf {
        /// How many go.
        dropped: usize,
        /// How many there are.
        total: usize,
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
}

impl fmt::Display for Concern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Concern::EmptiesGroup { key, snapshots: 1 } => {
                write!(f, "the only snapshot of {key} goes")
            }
            Concern::EmptiesGroup { key, snapshots } => {
                write!(f, "all {snapshots} snapshots of {key} go")
            }
            Concern::MoreThanHalf { dropped, total } => {
                write!(f, "{dropped} of {total} snapshots go, more than half")
            }
            Concern::MixedPaths { key, path_sets } => write!(
                f,
                "{key}: snapshots of {path_sets} different sets of paths, and those of one may go in \
                 favour of another's"
            ),
            Concern::Pinned { id } => write!(f, "snapshot {} has the tag {PIN_TAG}", id.short()),
        }
    }
}

/// What is to be forgotten, with the reasons.
#[derive(Debug, Clone)]
pub struct ForgetPlan {
    /// The groups that come into question.
    pub groups: Vec<PlannedGroup>,
    /// Why it needs consent; empty: it does not.
    pub concerns: Vec<Concern>,
    /// The store is a copy, and the times that snapshots claim are believed up to here.
    pub copied_until: Option<Timestamp>,
    /// Why, for the tombs.
    pub why: String,
}

impl ForgetPlan {
    /// Those that are dropped.
    pub fn dropped(&self) -> impl Iterator<Item = &Planned> {
        self.groups.iter().flat_map(PlannedGroup::dropped)
    }

    fn new(groups: Vec<PlannedGroup>, snapshots: &Snapshots, why: String) -> Self {
        let copied_until = snapshots.copied_until;
        let mut plan = ForgetPlan { groups, concerns: Vec::new(), copied_until, why };
        for group in &plan.groups {
            let (dropped, all) = (group.dropped().count(), group.snapshots.len());
            if dropped == all && all > 0 {
                let key = group.key.clone();
                plan.concerns.push(Concern::EmptiesGroup { key, snapshots: all });
            }
        }
        let (dropped, total) = (plan.dropped().count(), snapshots.all.len());
        if dropped * 2 > total {
            plan.concerns.push(Concern::MoreThanHalf { dropped, total });
        }
        plan
    }
}

/// What a policy drops. Pure: `now` is for windows, see [`policy::Anchor`].
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

/// What goes when these snapshots are forgotten, whatever a policy would say of them.
pub fn plan_chosen(snapshots: &Snapshots, chosen: &[SnapshotId]) -> ForgetPlan {
    let group_by = GroupBy::default();
    let chosen: BTreeSet<_> = chosen.iter().collect();
    let mut groups: BTreeMap<GroupKey, Vec<usize>> = BTreeMap::new();
    for (at, (_, snapshot)) in snapshots.all.iter().enumerate() {
        groups.entry(group_by.key(snapshot)).or_default().push(at);
    }
    let is_chosen = |at: &usize| chosen.contains(&snapshots.all[*at].0);
    groups.retain(|_, members| members.iter().any(is_chosen));
    let planned = groups.into_iter().map(|(key, members)| {
        let verdicts = members.into_iter().map(|at| {
            let candidate = candidate(snapshots, at);
            let (time, doubted) = candidate.time();
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
    plan
}

fn candidate(snapshots: &Snapshots, at: usize) -> Candidate<'_> {
    let (id, snapshot) = &snapshots.all[at];
    Candidate {
        id: *id,
        claimed: snapshot.time,
        observed: snapshots.observed.get(id).copied(),
        tags: &snapshot.tags,
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
    for planned in plan.dropped() {
        if monitor.interrupted() {
            return Err(OpsError::Interrupted);
        }
        let id = planned.verdict.id;
        repository.forget(&[id], &plan.why)?;
        summary.forgotten.push(id);
    }
    Ok(summary)
}

#[cfg(test)]
mod tests;
