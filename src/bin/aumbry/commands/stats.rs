//! `aumbry stats`: how large things are.

use std::ffi::OsString;

use aumbry::ops::stats::stats;
use aumbry::units::bytes::format_bytes;
use clap::Args;
use serde_json::json;

use crate::context::Context;
use crate::failure::Failure;
use crate::failure::Outcome;
use crate::output::count;
use crate::output::grouped;
use crate::selection::ChoiceArgs;
use crate::selection::Named;

/// What is counted.
#[derive(Args)]
pub struct StatsArgs {
    /// Only this snapshot: latest, latest~2, 4f2a [default: all of them]
    #[arg(value_name = "SNAP")]
    snapshot: Option<OsString>,
    #[command(flatten)]
    choice: ChoiceArgs,
}

/// Counts it.
pub fn run(args: &StatsArgs, context: &Context) -> Result<Outcome, Failure> {
    let named = Named::parse(args.snapshot.as_deref())?;
    if named.path.is_some() {
        return Err(Failure::usage("stats counts whole snapshots, not paths in them"));
    }
    let repository = context.open()?;
    let monitor = context.monitor().with_status();
    let chosen = if named.has_name() || args.choice.at.is_some() {
        vec![args.choice.choose(context, &repository, &named, &monitor)?]
    } else {
        let filter = args.choice.filter.filter(context)?;
        let found = context.snapshots(&repository, &monitor)?;
        found.all.into_iter().filter(|(_, snapshot)| filter.matches(snapshot)).collect()
    };
    let summary = stats(&repository, &chosen, &monitor)?;
    monitor.finish();
    let output = &context.output;
    if output.is_json() {
        output.json(&json!({
            "message_type": "stats",
            "snapshots_count": summary.snapshots,
            "total_size": summary.restore_bytes,
            "total_file_count": summary.entries,
            "regular_file_count": summary.files,
            "total_uncompressed_size": summary.unique_bytes,
            "total_blob_count": summary.blobs,
            "repository_size": summary.stored_bytes,
            "pack_count": summary.packs,
            "index_count": summary.indexes,
        }))?;
        return Ok(Outcome::Done);
    }
    let lines = [
        ("snapshots", grouped(summary.snapshots)),
        (
            "restored",
            format!("{} in {}", format_bytes(summary.restore_bytes), count(summary.files, "file")),
        ),
        (
            "unique",
            format!("{} in {}", format_bytes(summary.unique_bytes), count(summary.blobs, "blob")),
        ),
        (
            "stored",
            format!(
                "{} in {}, the whole repository",
                format_bytes(summary.stored_bytes),
                count(summary.packs, "pack")
            ),
        ),
    ];
    for (name, value) in lines {
        output.line(&format!("{name:<10} {value}"))?;
    }
    Ok(if monitor.problems() == 0 { Outcome::Done } else { Outcome::Damaged })
}
