//! `aumbry copy`: snapshots into another repository.

use std::ffi::OsString;

use aumbry::ops::copy::CopiedSnapshot;
use aumbry::ops::copy::CopyOptions;
use aumbry::ops::copy::CopyPlan;
use aumbry::ops::copy::CopySummary;
use aumbry::ops::copy::copy_into;
use aumbry::ops::select::choose;
use aumbry::repository::CreateOptions;
use aumbry::repository::Repository;
use aumbry::units::bytes::format_bytes;
use aumbry::units::duration::format_duration;
use clap::Args;
use serde_json::Value;
use serde_json::json;

use super::snapshots::id_or_null;
use crate::context::Context;
use crate::context::MEMORY_BUDGET;
use crate::failure::Failure;
use crate::failure::Outcome;
use crate::output::count;
use crate::progress::ProgressMonitor;
use crate::second::ToArgs;
use crate::selection::FilterArgs;
use crate::selection::NamedSnapshot;
use crate::selection::explain;
use crate::selection::parse_snapshot;

/// What is copied, and where to.
#[derive(Args)]
pub struct CopyArgs {
    /// The snapshots: latest, latest~2, the beginning of an id [default: all]
    #[arg(value_name = "SNAP")]
    snapshots: Vec<OsString>,
    #[command(flatten)]
    to: ToArgs,
    /// Make the other repositories where there are none, so that they cut files as this one does: backups into
    /// all then have chunks in common
    #[arg(long)]
    init: bool,
    /// Say what it would take, copy nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
    #[command(flatten)]
    filter: FilterArgs,
}

/// Copies them.
pub fn run(args: &CopyArgs, context: &Context) -> Result<Outcome, Failure> {
    let source = context.open()?;
    let monitor = context.monitor().with_status();
    let (chosen, all_are_read) = choose_all(args, context, &source, &monitor)?;
    let options = CreateOptions { cuts_like: Some(source.cutting()), ..CreateOptions::default() };
    let may_make = args.init && !args.dry_run;
    let opened = args.to.open(context, may_make.then_some(&options))?;
    let options = CopyOptions { dry_run: args.dry_run, memory_budget: MEMORY_BUDGET };
    let targets: Vec<&Repository> = opened.iter().flatten().collect();
    let copied = match targets.is_empty() {
        true => Vec::new(),
        false => copy_into(&source, &targets, &chosen, &options, &monitor)?.targets,
    };
    monitor.finish();
    let mut copied = copied.into_iter().map(|copied| copied.map_err(Failure::from));
    let results: Vec<Result<CopySummary, Failure>> = opened
        .into_iter()
        .map(|opened| opened.and_then(|_| copied.next().expect("each target has an end")))
        .collect();
    // Where none could be copied into, the command as a whole has failed, and the last of them says why.
    let last = results.iter().all(Result::is_err).then(|| results.len() - 1);
    let mut is_whole = all_are_read && monitor.problems() == 0;
    for (number, (place, result)) in args.to.places().iter().zip(results).enumerate() {
        match result {
            Ok(summary) => {
                is_whole &= summary.damaged.is_empty();
                is_whole &= summary.plan.as_ref().is_none_or(|plan| plan.damaged == 0);
                match context.output.is_json() {
                    true => context.output.json(&summary_json(args, place, &summary))?,
                    false => tell(place, context, &summary)?,
                }
            }
            Err(failure) if last == Some(number) => return Err(failure),
            Err(failure) => {
                is_whole = false;
                tell_failed(place, context, &failure)?;
            }
        }
    }
    Ok(if is_whole { Outcome::Done } else { Outcome::Incomplete })
}

/// A target that was given up, while the others went on.
fn tell_failed(place: &str, context: &Context, failure: &Failure) -> Result<(), Failure> {
    if context.output.is_json() {
        let message = failure.message();
        let told = json!({"message_type": "target_error", "to": place, "message": message});
        return Ok(context.output.json(&told)?);
    }
    context.output.error_line(&format!("nothing more was copied to {place}:"));
    failure.report(&context.output);
    Ok(())
}

/// The snapshots that are meant, and whether all that there are could be read.
fn choose_all(
    args: &CopyArgs,
    context: &Context,
    source: &Repository,
    monitor: &ProgressMonitor,
) -> Result<(Vec<NamedSnapshot>, bool), Failure> {
    let filter = args.filter.filter(context)?;
    let found = context.snapshots(source, monitor)?;
    if args.snapshots.is_empty() {
        let fitting = found.all.iter().filter(|(_, snapshot)| filter.matches(snapshot));
        return Ok((fitting.cloned().collect(), found.damaged.is_empty()));
    }
    let mut chosen = Vec::new();
    for text in &args.snapshots {
        let choice = parse_snapshot(text)?;
        let named = choose(&found.all, &choice, &filter)
            .map_err(|error| explain(context, error, &found.all, &choice, &filter))?;
        chosen.push(named.clone());
    }
    Ok((chosen, true))
}

fn summary_json(args: &CopyArgs, place: &str, summary: &CopySummary) -> Value {
    let pairs = |pairs: &[CopiedSnapshot]| {
        let pair = |pair: &CopiedSnapshot| json!({"snapshot_id": pair.source.to_string(), "copy_id": id_or_null(pair.copy)});
        pairs.iter().map(pair).collect::<Vec<_>>()
    };
    let mut value = json!({
        "message_type": "summary",
        "to": place,
        "copied": pairs(&summary.copied),
        "known": pairs(&summary.known),
        "damaged": summary.damaged.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "files_read": summary.files_read,
        "bytes_read": summary.bytes_read,
        "data_blobs": summary.data_blobs,
        "tree_blobs": summary.tree_blobs,
        "data_added": summary.data_added,
        "data_added_packed": summary.data_added_packed,
        "total_duration": summary.elapsed.as_secs_f64(),
        "dry_run": args.dry_run,
    });
    if let Some(plan) = &summary.plan {
        value["plan"] = json!({
            "blobs": plan.blobs,
            "bytes": plan.bytes,
            "stored_bytes": plan.stored_bytes,
            "read_requests": plan.read_requests,
            "write_requests": plan.write_requests,
            "damaged": plan.damaged,
        });
    }
    value
}

fn tell(place: &str, context: &Context, summary: &CopySummary) -> Result<(), Failure> {
    let output = &context.output;
    let copied = count(summary.copied.len() as u64, "snapshot");
    match &summary.plan {
        Some(plan) => tell_plan(context, &copied, place, plan)?,
        None => output.say(&format!(
            "copied {copied} to {place} in {}: read {}, added {}, {} stored",
            format_duration(summary.elapsed),
            format_bytes(summary.bytes_read),
            format_bytes(summary.data_added),
            format_bytes(summary.data_added_packed)
        ))?,
    }
    if !summary.known.is_empty() {
        let known = count(summary.known.len() as u64, "snapshot");
        output.say(&format!("  {known} {} there already", were(summary.known.len())))?;
    }
    if !summary.damaged.is_empty() {
        let ids: Vec<_> = summary.damaged.iter().map(|id| id.short()).collect();
        let line = format!(
            "  {} {} not copied, because of the damage above: {}",
            count(ids.len() as u64, "snapshot"),
            were(ids.len()),
            ids.join(", ")
        );
        output.say(&output.style().yellow(&line))?;
    }
    Ok(())
}

fn tell_plan(context: &Context, copied: &str, place: &str, plan: &CopyPlan) -> Result<(), Failure> {
    let output = &context.output;
    output.say(&format!(
        "dry run: would copy {copied} to {place}: at most {} in {}, {} stored, with {} and {}",
        format_bytes(plan.bytes),
        count(plan.blobs, "blob"),
        format_bytes(plan.stored_bytes),
        count(plan.read_requests, "read"),
        count(plan.write_requests, "upload")
    ))?;
    if plan.damaged > 0 {
        let line = format!("  {} cannot be read", count(plan.damaged, "blob"));
        output.say(&output.style().yellow(&line))?;
    }
    Ok(())
}

fn were(number: usize) -> &'static str {
    if number == 1 { "was" } else { "were" }
}
