//! `aumbry stats`: how large things are.

use std::ffi::OsString;

use aumbry::format::config::Form;
use aumbry::ops::stats::stats;
use aumbry::repository::Repository;
use aumbry::units::bytes::format_bytes;
use clap::Args;
use serde_json::json;

use crate::commands::init::lock_in_words;
use crate::context::Context;
use crate::failure::Failure;
use crate::failure::Outcome;
use crate::output::count;
use crate::output::grouped;
use crate::output::printable;
use crate::selection::ChoiceArgs;
use crate::selection::Named;

/// What is counted.
#[derive(Args)]
pub struct StatsArgs {
    /// Only this snapshot: latest, latest~2, 4f2a [default: all of them]
    #[arg(value_name = "SNAP")]
    snapshot: Option<OsString>,
    /// Ask the store what it does, instead of counting: a few small objects are written and deleted
    #[arg(long, conflicts_with = "snapshot")]
    store: bool,
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
    if args.store {
        return tell_store(context, &repository);
    }
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

/// What the store is, and what it does.
fn tell_store(context: &Context, repository: &Repository) -> Result<Outcome, Failure> {
    let form = repository.settings().form;
    let found = repository.probe_store()?;
    let traffic = repository.store().traffic();
    let lack = found.and_then(|found| found.lacks(form == Form::Conditions));
    let outcome = if lack.is_none() { Outcome::Done } else { Outcome::Damaged };
    let output = &context.output;
    let place = printable(repository.store().location().as_bytes());
    let cold = repository.store().cold_location().map(|cold| printable(cold.as_bytes()));
    if output.is_json() {
        output.json(&json!({
            "message_type": "store",
            "place": place,
            "cold_place": cold,
            "form": match form { Form::Conditions => 1, Form::Confirmations => 2 },
            "probed": found.is_some(),
            "creates_once": found.map(|found| found.creates_once),
            "races_prove_it": found.map(|found| found.races_prove_it),
            "reads_written": found.map(|found| found.reads_written),
            "lists_written": found.map(|found| found.lists_written),
            "may_delete": found.map(|found| found.forgets_deleted.is_some()),
            "forgets_deleted": found.and_then(|found| found.forgets_deleted),
            "retain_seconds": repository.settings().object_lock.map(|lock| lock.seconds),
            "lacks": lack,
            "requests": traffic.requests(),
            "uploaded_bytes": traffic.uploaded_bytes,
            "downloaded_bytes": traffic.downloaded_bytes,
            "retries": traffic.retries,
        }))?;
        return Ok(outcome);
    }
    let yes = |does: bool| if does { "yes" } else { "no" }.to_string();
    let mut lines = vec![("place", place)];
    if let Some(cold) = cold {
        lines[0].0 = "hot place";
        lines.push(("cold place", cold));
    }
    lines.push((
        "form",
        match form {
            Form::Conditions => "first: what happens once is created only if absent".to_string(),
            Form::Confirmations => {
                "second: commits are confirmed, and one machine at a time prunes".to_string()
            }
        },
    ));
    if let Some(lock) = repository.settings().object_lock {
        lines.push(("locks", format!("what is written: for {}", lock_in_words(lock))));
    }
    match found {
        None => lines.push(("probe", "none needed: it is a disk of this machine".to_string())),
        Some(found) => lines.extend([
            (
                "creates",
                match found.races_prove_it {
                    true => format!("only once, also in a race: {}", yes(found.creates_once)),
                    false => {
                        "only once; races could not be run: it turns most of many away".to_string()
                    }
                },
            ),
            ("reads", format!("what was just written: {}", yes(found.reads_written))),
            ("lists", format!("what was just written: {}", yes(found.lists_written))),
            (
                "deletes",
                match found.forgets_deleted {
                    None => "not with this key: it can only add".to_string(),
                    Some(gone) => format!("and it is gone at once: {}", yes(gone)),
                },
            ),
        ]),
    }
    lines.push((
        "asked",
        format!(
            "{}, {} sent, {} received",
            count(traffic.requests(), "request"),
            format_bytes(traffic.uploaded_bytes),
            format_bytes(traffic.downloaded_bytes)
        ),
    ));
    if let Some(lack) = lack {
        lines.push(("lacks", lack.to_string()));
    }
    for (name, value) in lines {
        output.line(&format!("{name:<10} {value}"))?;
    }
    Ok(outcome)
}
