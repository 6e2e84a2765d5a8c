//! `aumbry mirror`: the repository's objects in a second store.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

use aumbry::ops::mirror::MirrorOptions;
use aumbry::ops::mirror::MirrorSummary;
use aumbry::ops::mirror::mirror;
use aumbry::repository::replica::Replica;
use aumbry::units::bytes::format_bytes;
use aumbry::units::duration::format_duration;
use clap::Args;
use serde_json::json;

use crate::context::Context;
use crate::context::MEMORY_BUDGET;
use crate::failure::Failure;
use crate::failure::Outcome;
use crate::output::count;
use crate::output::printable;
use crate::second::read_others;

/// Where to, and how.
#[derive(Args)]
pub struct MirrorArgs {
    /// Where the mirror is, or will be: the same repository, which the same keys open
    #[arg(long, value_name = "PLACE")]
    to: OsString,
    /// What its store needs to know, as -o is for the first one
    #[arg(long, value_name = "KEY=VALUE")]
    to_option: Vec<String>,
    /// Read what both have, and compare every byte
    #[arg(long)]
    verify: bool,
    /// Delete in the mirror what collection has deleted here; keys stay
    #[arg(long)]
    delete: bool,
    /// Say what would be done, do nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
}

/// Mirrors it.
pub fn run(args: &MirrorArgs, context: &Context) -> Result<Outcome, Failure> {
    let repository = context.open()?;
    let places = std::slice::from_ref(&args.to);
    let others = read_others(context, places, &args.to_option, "--to-option")?;
    let store = match others.first() {
        Some(other) => other.open_or_make(context, args.dry_run)?,
        None => return Err(Failure::usage("say where to mirror to").hint("--to PLACE")),
    };
    let replica = Replica::new(&repository, store)?;
    let options = MirrorOptions {
        verify: args.verify,
        delete: args.delete,
        dry_run: args.dry_run,
        memory_budget: MEMORY_BUDGET,
    };
    let monitor = context.monitor().with_status();
    let summary = mirror(&repository, &replica, &options, &monitor)?;
    monitor.finish();
    let place = printable(args.to.as_bytes());
    if context.output.is_json() {
        context.output.json(&json!({
            "message_type": "summary",
            "to": place,
            "objects_copied": summary.objects_copied,
            "bytes_copied": summary.bytes_copied,
            "mended": summary.mended,
            "objects_known": summary.objects_known,
            "objects_verified": summary.objects_verified,
            "damaged": summary.damaged,
            "differing": summary.differing,
            "objects_gone": summary.objects_gone,
            "objects_deleted": summary.objects_deleted,
            "bytes_deleted": summary.bytes_deleted,
            "objects_let_go": summary.objects_let_go,
            "bytes_let_go": summary.bytes_let_go,
            "objects_extra": summary.objects_extra,
            "write_requests": summary.write_requests,
            "total_duration": summary.elapsed.as_secs_f64(),
            "dry_run": args.dry_run,
        }))?;
    } else {
        tell(args, context, &place, &summary)?;
    }
    let is_whole = summary.is_whole() && monitor.problems() == 0;
    Ok(if is_whole { Outcome::Done } else { Outcome::Incomplete })
}

fn tell(
    args: &MirrorArgs,
    context: &Context,
    place: &str,
    summary: &MirrorSummary,
) -> Result<(), Failure> {
    let output = &context.output;
    let copied = count(summary.objects_copied, "object");
    let bytes = format_bytes(summary.bytes_copied);
    output.say(&match args.dry_run {
        true => format!(
            "dry run: would copy {copied}, {bytes}, to {place}, with {}",
            count(summary.write_requests, "request")
        ),
        false => {
            format!("copied {copied}, {bytes}, to {place} in {}", format_duration(summary.elapsed))
        }
    })?;
    let also = |number: u64, what: String| match number {
        0 => Ok(()),
        _ => output.say(&format!("  {} {what}", count(number, "object"))),
    };
    also(summary.objects_verified, "compared byte by byte".to_string())?;
    let deleted = if args.dry_run { "would be deleted" } else { "deleted" };
    also(summary.objects_deleted, format!("{deleted}, {}", format_bytes(summary.bytes_deleted)))?;
    let left = format_bytes(summary.bytes_let_go);
    also(
        summary.objects_let_go,
        format!("no longer needed there, {left}; --delete takes them away"),
    )?;
    also(summary.objects_gone, "taken away here since they were listed".to_string())?;
    also(summary.objects_extra, "there that this repository does not have".to_string())?;
    let bad = (summary.damaged.len() + summary.differing.len()) as u64;
    if bad > 0 {
        let line = format!("  {} not mirrored, see above", count(bad, "object"));
        output.say(&output.style().yellow(&line))?;
    }
    Ok(())
}
