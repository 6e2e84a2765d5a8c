//! `aumbry prune`: space back from what no snapshot needs.

use std::collections::BTreeSet;

use aumbry::ops::prune::Following;
use aumbry::ops::prune::PruneOptions;
use aumbry::ops::prune::PruneSummary;
use aumbry::ops::prune::plan::PlanLimits;
use aumbry::ops::prune::plan::UnusedLimit;
use aumbry::ops::prune::prune;
use aumbry::repository::Repository;
use aumbry::units::bytes::format_bytes;
use aumbry::units::bytes::format_percent;
use aumbry::units::bytes::parse_bytes;
use aumbry::units::bytes::parse_percent;
use aumbry::units::duration::format_duration;
use aumbry::units::duration::parse_duration;
use clap::Args;
use serde_json::json;

use crate::context::Context;
use crate::context::MEMORY_BUDGET;
use crate::failure::Failure;
use crate::failure::Outcome;
use crate::output::count;
use crate::output::printable;

/// How much work for how much space.
#[derive(Args)]
pub struct PruneArgs {
    /// Show what would be done, and what it would cost, and do nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// What it may cost.
    #[command(flatten)]
    pub limits: PruneLimitArgs,
}

const HEADING: &str = "How it prunes";

/// What a prune may leave, and what it may cost. Shared with `forget --prune`.
#[derive(Args)]
pub struct PruneLimitArgs {
    /// How much may stay occupied by what nobody needs: a share (5%), a size (2G) or `unlimited`
    #[arg(long, value_name = "LIMIT", default_value = "5%", help_heading = HEADING)]
    max_unused: String,
    /// Copy packs of at most this size together [default: as many as it takes]
    #[arg(long, value_name = "SIZE", help_heading = HEADING)]
    max_repack_size: Option<String>,
    /// Join packs that are smaller than half of what packs are meant to be
    #[arg(long, help_heading = HEADING)]
    repack_small: bool,
    /// With a hot store: copy what is needed out of data packs, too. They are read for it, so it may take a
    /// --warm-up-command; otherwise they go only when nobody needs anything of them
    #[arg(long, help_heading = HEADING)]
    repack_cold: bool,
    /// Give up sessions that have made nothing for so long, as two runs have seen. It is safe at any length: a
    /// backup that was given up stores again what is gone, and commits again
    #[arg(long, value_name = "TIME", default_value = "7d", help_heading = HEADING)]
    patience: String,
    /// Collect from this machine from now on, where the store allows only one machine to do so
    #[arg(long, help_heading = HEADING)]
    become_maintainer: bool,
}

/// Plans and prunes.
pub fn run(args: &PruneArgs, context: &Context) -> Result<Outcome, Failure> {
    let options = args.limits.options(args.dry_run)?;
    run_on(&context.open()?, &options, context)
}

/// Prunes an open repository and tells what happened.
pub fn run_on(
    repository: &Repository,
    options: &PruneOptions,
    context: &Context,
) -> Result<Outcome, Failure> {
    let monitor = context.monitor().with_status();
    let summary = prune(repository, options, &monitor)?;
    monitor.finish();
    if context.output.is_json() {
        context.output.json(&to_json(context, options, &summary, monitor.problems()))?;
    } else {
        tell(context, options, &summary)?;
    }
    let is_complete =
        summary.stopped.is_none() && summary.held_by.is_empty() && monitor.problems() == 0;
    Ok(if is_complete { Outcome::Done } else { Outcome::Incomplete })
}

impl PruneLimitArgs {
    /// What was typed, understood.
    pub fn options(&self, dry_run: bool) -> Result<PruneOptions, Failure> {
        let limits = PlanLimits {
            max_unused: parse_unused(&self.max_unused)?,
            max_repack_bytes: self.max_repack_size.as_deref().map(parse_bytes).transpose()?,
            repack_small: self.repack_small,
            leave_cold: !self.repack_cold,
        };
        let patience = parse_duration(&self.patience)?;
        Ok(PruneOptions {
            limits,
            patience,
            dry_run,
            assume_forgotten: BTreeSet::new(),
            become_maintainer: self.become_maintainer,
            memory_budget: MEMORY_BUDGET,
            following: Following::Remembered,
        })
    }
}

fn parse_unused(text: &str) -> Result<UnusedLimit, Failure> {
    if text == "unlimited" {
        return Ok(UnusedLimit::Unlimited);
    }
    if text.trim_end().ends_with('%') {
        return Ok(UnusedLimit::Share(parse_percent(text)? / 100.0));
    }
    Ok(UnusedLimit::Bytes(parse_bytes(text)?))
}

fn to_json(
    context: &Context,
    options: &PruneOptions,
    summary: &PruneSummary,
    problems: u64,
) -> serde_json::Value {
    let time = |time: Option<_>| time.map(|time| context.rfc3339(time));
    let held_by: Vec<_> = summary
        .held_by
        .iter()
        .map(|held| {
            json!({
                "session": held.session.to_string(),
                "hostname": held.host,
                "registered": time(held.registered),
                "idle_since": time(held.idle_since),
            })
        })
        .collect();
    let plan = summary.plan.as_ref().map(|plan| {
        json!({
            "drop_packs": plan.drop.len(),
            "drop_bytes": plan.drop_bytes,
            "unreadable_packs": plan.drop_unreadable,
            "repack_packs": plan.repack.len(),
            "repack_bytes": plan.repack_bytes,
            "write_bytes": plan.write_bytes,
            "free_bytes": plan.freed_bytes(),
            "unused_bytes_after": plan.unused_bytes,
            "left_cold_bytes": plan.left_cold_bytes,
            "bytes_after": plan.kept_bytes,
            "read_requests": summary.requests[0],
            "write_requests": summary.requests[1],
            "delete_requests": summary.requests[2],
        })
    });
    json!({
        "message_type": "summary",
        "dry_run": options.dry_run,
        "packs_before": summary.packs_before,
        "bytes_before": summary.bytes_before,
        "unused_bytes_before": summary.unused_before,
        "blobs": summary.live_blobs,
        "plan": plan,
        "generations": summary.generations,
        "held_by": held_by,
        "sessions_given_up": summary.fenced,
        "packs_deleted": summary.packs_deleted,
        "bytes_deleted": summary.bytes_deleted,
        "packs_spared": summary.packs_rescued,
        "bytes_written": summary.bytes_written,
        "objects_copied": summary.objects_copied,
        "index_objects_removed": summary.merged.removed,
        "index_objects_written": summary.merged.written,
        "snapshots_removed": summary.cleared.snapshots,
        "locks_prolonged": summary.locks_prolonged,
        "objects_still_locked": summary.still_locked,
        "stopped": summary.stopped,
        "error_count": problems,
        "total_duration": summary.elapsed.as_secs_f64(),
    })
}

fn tell(context: &Context, options: &PruneOptions, summary: &PruneSummary) -> Result<(), Failure> {
    let output = &context.output;
    let style = output.style();
    if let Some(plan) = &summary.plan {
        let unused = format_percent(summary.unused_before, summary.bytes_before);
        output.say(&format!(
            "{} of {}, of which {unused} {} needed by nobody",
            count(summary.packs_before, "pack"),
            format_bytes(summary.bytes_before),
            if unused == "100%" { "are" } else { "is" },
        ))?;
        let kept = format_percent(plan.unused_bytes, plan.kept_bytes);
        if plan.drop.is_empty() && plan.repack.is_empty() {
            output.say("nothing is to be done within these limits")?;
        } else {
            let mut steps = Vec::new();
            if !plan.drop.is_empty() {
                let packs = count(plan.drop.len() as u64, "pack");
                let unreadable = match plan.drop_unreadable {
                    0 => String::new(),
                    number => format!(", {number} of them beyond reading"),
                };
                let bytes = format_bytes(plan.drop_bytes);
                steps.push(format!("drop {packs} ({bytes}{unreadable})"));
            }
            if !plan.repack.is_empty() {
                steps.push(format!(
                    "copy what is needed out of {} (read {}, write {})",
                    count(plan.repack.len() as u64, "pack"),
                    format_bytes(plan.repack_bytes),
                    format_bytes(plan.write_bytes),
                ));
            }
            output.say(&format!(
                "plan: {}; about {} come free, {kept} of the rest stay unused",
                steps.join(", "),
                format_bytes(plan.freed_bytes()),
            ))?;
            let [reads, writes, deletes] = summary.requests;
            output.say(&format!(
                "about {reads} requests to read, {writes} to write and {deletes} to delete"
            ))?;
        }
        if plan.left_cold_bytes > 0 {
            output.say(&format!(
                "about {} that nobody needs stay in data packs of the cold store, which are not read; --repack-cold \
                 copies the rest of them",
                format_bytes(plan.left_cold_bytes),
            ))?;
        }
        if options.dry_run {
            if let Some(due) = summary.locks_prolonged {
                output
                    .say(&format!("{} to prolong the locks of objects", count(due, "request")))?;
            }
            output.say("this was a dry run: nothing was changed")?;
            return Ok(());
        }
    }
    if summary.packs_deleted > 0 {
        let wrote = match summary.bytes_written {
            0 => String::new(),
            bytes => format!(", wrote {}", format_bytes(bytes)),
        };
        output.say(&format!(
            "deleted {}, {}{wrote}, in {}",
            count(summary.packs_deleted, "pack"),
            format_bytes(summary.bytes_deleted),
            format_duration(summary.elapsed),
        ))?;
    }
    if summary.packs_rescued > 0 {
        let packs = count(summary.packs_rescued, "pack");
        output.say(&format!("{packs} spared: a backup came to need them meanwhile"))?;
    }
    if let Some(prolonged) = summary.locks_prolonged.filter(|prolonged| *prolonged > 0) {
        output.say(&format!("prolonged the locks of {}", count(prolonged, "object")))?;
    }
    if summary.still_locked > 0 {
        output.line(&format!(
            "{} are still locked, or this key may not delete them; a later prune tries again",
            count(summary.still_locked, "object"),
        ))?;
    }
    if summary.objects_copied > 0 {
        let objects = count(summary.objects_copied, "object");
        output.say(&format!("copied {objects} that only one of the two stores had"))?;
    }
    for held in &summary.held_by {
        let host = match held.host.is_empty() {
            true => "an unknown host".to_string(),
            false => printable(held.host.as_bytes()),
        };
        let since = held.registered.map(|time| format!(", since {}", context.local(time)));
        output.line(&format!(
            "{} a session of {host}{} has not ended",
            style.yellow("waiting:"),
            since.unwrap_or_default(),
        ))?;
    }
    if !summary.held_by.is_empty() {
        output.line(
            "What is to go is marked and nobody counts on it any more; run `aumbry prune` again when \
             these have ended. Sessions that make nothing for the time of --patience are given up; \
             --patience 0s gives them up at once, which loses nothing.",
        )?;
    }
    if let Some(reason) = &summary.stopped {
        output.line(&format!("{} {}", style.red("stopped:"), printable(reason.as_bytes())))?;
        output.line("What needed no room was freed; make room and run `aumbry prune` again.")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_in_three_forms() {
        assert_eq!(parse_unused("5%").unwrap(), UnusedLimit::Share(0.05));
        assert_eq!(parse_unused("2G").unwrap(), UnusedLimit::Bytes(2 << 30));
        assert_eq!(parse_unused("unlimited").unwrap(), UnusedLimit::Unlimited);
        for text in ["", "101%", "much"] {
            assert!(parse_unused(text).is_err(), "{text}");
        }
    }
}
