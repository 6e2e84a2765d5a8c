//! Object locks: those that end soon are prolonged, after all that is garbage is gone.

use std::collections::HashSet;

use super::PruneOptions;
use super::plan::PackPlan;
use crate::monitor::{Monitor, Phase, Problem};
use crate::ops::OpsError;
use crate::ops::threads::with_waiting;
use crate::repository::Repository;

/// Prolongs the locks that are due, or counts them in a dry run. `None`: the repository locks nothing.
pub(super) fn prolong(
    repository: &Repository,
    options: &PruneOptions,
    plan: Option<&PackPlan>,
    monitor: &dyn Monitor,
) -> Result<Option<u64>, OpsError> {
    if repository.settings().object_lock.is_none() {
        return Ok(None);
    }
    // What a real run would have dropped by now.
    let going: HashSet<_> = match (options.dry_run, plan) {
        (true, Some(plan)) => plan.drop.iter().chain(&plan.repack).copied().collect(),
        _ => HashSet::new(),
    };
    let Some(plan) = repository.plan_locks(&going)? else { return Ok(None) };
    if options.dry_run {
        return Ok(Some(plan.due.len() as u64));
    }
    monitor.phase(Phase::Lock);
    let prolonged = with_waiting(repository, || repository.prolong_locks(&plan, monitor))?;
    if let Some(first) = prolonged.refused.first() {
        let others = match prolonged.refused.len() - 1 {
            0 => String::new(),
            others => format!(", and so of {others} more"),
        };
        let message = format!(
            "its lock was not prolonged: {}{others}; the rest was, and the next prune tries again",
            first.message
        );
        monitor.problem(Problem { item: first.name.clone(), during: "lock", message });
    }
    Ok(Some(prolonged.objects))
}
