//! `aumbry check`: whether everything can be restored.

use aumbry::ops::check::CheckOptions;
use aumbry::ops::check::CheckSummary;
use aumbry::ops::check::DataSelection;
use aumbry::ops::check::SampleResult;
use aumbry::ops::check::check;
use aumbry::ops::check::sample::Confidence;
use aumbry::units::bytes::format_bytes;
use aumbry::units::bytes::parse_bytes;
use aumbry::units::bytes::parse_percent;
use aumbry::units::duration::format_duration;
use clap::Args;
use serde_json::json;

use crate::context::Context;
use crate::context::MEMORY_BUDGET;
use crate::failure::Failure;
use crate::failure::Outcome;
use crate::output::count;
use crate::output::printable;
use crate::second::MirrorsArgs;

/// How thoroughly.
#[derive(Args)]
pub struct CheckArgs {
    /// Read every byte of every pack, too
    #[arg(long)]
    read_data: bool,
    /// Read a part of the packs: 10% or 5G of them, those that were not proven for the longest time first, or
    /// the third of seven parts, 3/7
    #[arg(long, value_name = "PART", conflicts_with = "read_data")]
    read_data_subset: Option<String>,
    /// Read as many packs, chosen at random, as it takes to be 99 % sure that at least 99.9 % of them are good,
    /// or what else is asked for, as 95/99
    #[arg(
        long,
        value_name = "SURE/GOOD",
        num_args = 0..=1,
        default_missing_value = "99/99.9",
        conflicts_with_all = ["read_data", "read_data_subset"]
    )]
    sample: Option<String>,
    /// Restore so many files, chosen at random, into memory, and compare their digests
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    restore_sample: u64,
    /// Share with other machines when each pack was last proven
    #[arg(long)]
    share_ledger: bool,
    #[command(flatten)]
    mirrors: MirrorsArgs,
}

/// Finds out.
pub fn run(args: &CheckArgs, context: &Context) -> Result<Outcome, Failure> {
    let data = match (&args.read_data_subset, &args.sample) {
        (Some(text), _) => parse_subset(text)?,
        (None, Some(text)) => DataSelection::Sample(parse_sample(text)?),
        (None, None) if args.read_data => DataSelection::All,
        (None, None) => DataSelection::None,
    };
    let options = CheckOptions {
        data,
        restore_sample: args.restore_sample,
        share_ledger: args.share_ledger,
        memory_budget: MEMORY_BUDGET,
    };
    let repository = context.open_to_read(&args.mirrors)?;
    let monitor = context.monitor().with_status();
    let summary = check(&repository, &options, &monitor)?;
    monitor.finish();
    if context.output.is_json() {
        tell_json(context, &summary)?;
    } else {
        tell(context, &summary, data)?;
    }
    // A store that was named and cannot be read was not found to be whole.
    let is_whole = summary.damage.is_empty() && summary.silent_stores.is_empty();
    Ok(if is_whole { Outcome::Done } else { Outcome::Damaged })
}

fn parse_subset(text: &str) -> Result<DataSelection, Failure> {
    if let Some((part, parts)) = text.split_once('/') {
        return match (part.trim().parse(), parts.trim().parse()) {
            (Ok(part), Ok(parts)) if 1 <= part && part <= parts => {
                Ok(DataSelection::Part { part, parts })
            }
            _ => Err(Failure::usage(format!(
                "{text:?} is no part: write 3/7 for the third of seven"
            ))),
        };
    }
    if text.trim_end().ends_with('%') {
        return Ok(DataSelection::Share(parse_percent(text)? / 100.0));
    }
    Ok(DataSelection::Bytes(parse_bytes(text)?))
}

fn parse_sample(text: &str) -> Result<Confidence, Failure> {
    let percent = |text: &str| parse_percent(&format!("{}%", text.trim().trim_end_matches('%')));
    let wanted = match text.split_once('/') {
        Some((confidence, proportion)) => Confidence {
            confidence: percent(confidence)? / 100.0,
            proportion: percent(proportion)? / 100.0,
        },
        None => Confidence { confidence: percent(text)? / 100.0, ..Confidence::default() },
    };
    if !wanted.is_valid() {
        return Err(Failure::usage(format!(
            "{text:?} cannot be reached: write 99/99.9 to be 99 % sure that at least 99.9 % are good"
        )));
    }
    Ok(wanted)
}

fn tell_json(context: &Context, summary: &CheckSummary) -> Result<(), Failure> {
    let output = &context.output;
    for damage in &summary.damage {
        output.json(&json!({
            "message_type": "damage",
            "item": damage.item,
            "message": damage.message,
            "hits": damage.hits,
            "hit_count": damage.hit_count,
        }))?;
    }
    for file in &summary.drilled {
        output.json(&json!({
            "message_type": "restored_file",
            "name": file.name,
            "size": file.size,
            "error": file.error,
        }))?;
    }
    let broken_packs: Vec<_> = summary
        .damage
        .iter()
        .filter(|damage| damage.item.starts_with("packs/"))
        .filter_map(|damage| damage.item.rsplit('/').next())
        .collect();
    output.json(&json!({
        "message_type": "summary",
        "num_errors": summary.damage.len(),
        "broken_packs": broken_packs,
        "snapshots": summary.snapshots,
        "packs": summary.packs,
        "packs_read": summary.packs_read,
        "bytes_read": summary.bytes_read,
        "blobs": summary.blobs,
        "unreferenced_packs": summary.unreferenced_packs,
        "recorded_packs": summary.recorded,
        "never_proven_packs": summary.never_proven,
        "oldest_proof": summary.oldest_proof.map(|time| context.rfc3339(time)),
        "sample": summary.sample.map(|sample| json!({
            "packs": sample.packs,
            "packs_read": sample.read,
            "packs_bad": sample.bad,
            "confidence": sample.confidence,
            "proportion": sample.proportion,
            "holds": sample.bad == 0,
        })),
        "files_restored": summary.drilled.iter().filter(|file| file.error.is_none()).count(),
        "mirrors": summary.mirrors.iter().map(|mirror| json!({
            "place": mirror.location,
            "packs_read": mirror.packs_read,
            "bytes_read": mirror.bytes_read,
            "num_errors": mirror.damaged,
        })).collect::<Vec<_>>(),
        "silent_stores": summary.silent_stores.iter().map(|(place, why)| json!({
            "place": place,
            "message": why,
        })).collect::<Vec<_>>(),
        "notes": summary.notes,
        "total_duration": summary.elapsed.as_secs_f64(),
    }))?;
    Ok(())
}

fn tell(context: &Context, summary: &CheckSummary, data: DataSelection) -> Result<(), Failure> {
    let output = &context.output;
    let style = output.style();
    for damage in &summary.damage {
        let message = printable(damage.message.as_bytes());
        output.line(&format!("{} {}: {message}", style.red("damaged"), damage.item))?;
        for hit in &damage.hits {
            output.line(&format!("  hits {}", printable(hit.as_bytes())))?;
        }
        let rest = damage.hit_count.saturating_sub(damage.hits.len() as u64);
        if rest > 0 {
            output.line(&format!("  and {} more", count(rest, "file")))?;
        }
    }
    for note in &summary.notes {
        output.say(&format!("{} {}", style.dim("note:"), printable(note.as_bytes())))?;
    }
    output.say(&format!(
        "checked {}, {} and {} in {}",
        count(summary.snapshots, "snapshot"),
        count(summary.packs, "pack"),
        count(summary.blobs, "blob"),
        format_duration(summary.elapsed)
    ))?;
    if summary.packs_read > 0 {
        let read = format_bytes(summary.bytes_read);
        output.say(&format!("read {} of {read}", count(summary.packs_read, "pack")))?;
    }
    for mirror in &summary.mirrors {
        let place = printable(mirror.location.as_bytes());
        let damaged = match mirror.damaged {
            0 => "no damage".to_string(),
            number => format!("{} damaged", count(number, "object")),
        };
        let read = format_bytes(mirror.bytes_read);
        let packs = count(mirror.packs_read, "pack");
        output.say(&format!("{place}: read {packs} of {read}; {damaged}"))?;
    }
    if let Some(sample) = &summary.sample {
        tell_sample(context, sample)?;
    }
    tell_drill(context, summary)?;
    if data != DataSelection::None {
        tell_proofs(context, summary)?;
    }
    if summary.recorded > 0 {
        output.say(&format!(
            "{} newly recorded as damaged: backups store again what they meet of it",
            count(summary.recorded, "pack")
        ))?;
    }
    if summary.unreferenced_packs > 0 {
        let packs = count(summary.unreferenced_packs, "pack");
        output.say(&format!(
            "{packs} left by interrupted backups; the next ones use what they can"
        ))?;
    }
    if !summary.damage.is_empty() {
        let damage = match summary.damage.len() {
            1 => "1 thing is damaged".to_string(),
            number => format!("{number} things are damaged"),
        };
        output.line(&style.red(&damage))?;
        return Ok(());
    }
    output.say(&style.green("no damage was found"))?;
    if data == DataSelection::None {
        output.say(
            "That every snapshot is complete was checked; --read-data reads the bytes, too.",
        )?;
    }
    Ok(())
}

fn tell_sample(context: &Context, sample: &SampleResult) -> Result<(), Failure> {
    let drawn = format!("{} of {}", sample.read, count(sample.packs, "pack"));
    let text = match sample.bad {
        0 if sample.packs == 0 => "there are no packs to draw a sample from".to_string(),
        0 if sample.read == sample.packs => format!("{drawn} read: all of them are good"),
        0 => format!(
            "{drawn} read: {} % sure that at least {} % of packs are good",
            // Rounded down: never more than it is.
            (sample.confidence * 1e4 + 1e-6).floor() / 100.0,
            rounded(sample.proportion),
        ),
        bad => format!("{drawn} read, {bad} of them bad: use --read-data to find all that are"),
    };
    Ok(context.output.say(&text)?)
}

/// A proportion in percent, without the noise of floating point.
fn rounded(proportion: f64) -> f64 {
    (proportion * 1e8).round() / 1e6
}

fn tell_drill(context: &Context, summary: &CheckSummary) -> Result<(), Failure> {
    let output = &context.output;
    for file in &summary.drilled {
        let name = printable(file.name.as_bytes());
        match &file.error {
            None => output.say(&format!("restored {name}, {}", format_bytes(file.size)))?,
            Some(error) => {
                let error = printable(error.as_bytes());
                output.line(&format!("{} {name} ({error})", output.style().red("not restored")))?;
            }
        }
    }
    let restored = summary.drilled.iter().filter(|file| file.error.is_none()).count() as u64;
    if restored > 0 {
        output.say(&format!(
            "{} restored into memory, with the digests that the snapshots have",
            count(restored, "file")
        ))?;
    }
    Ok(())
}

fn tell_proofs(context: &Context, summary: &CheckSummary) -> Result<(), Failure> {
    let since = summary.oldest_proof.map(|time| context.local(time));
    let text = match (summary.never_proven, since) {
        (0, Some(since)) => format!("every whole pack was proven since {since}"),
        (_, None) => return Ok(()),
        (never, Some(since)) => {
            format!("{} never proven yet; all others since {since}", count(never, "pack"))
        }
    };
    Ok(context.output.say(&text)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_read_in_three_forms() {
        assert_eq!(parse_subset("3/7").unwrap(), DataSelection::Part { part: 3, parts: 7 });
        assert_eq!(parse_subset("10%").unwrap(), DataSelection::Share(0.1));
        assert_eq!(parse_subset("5G").unwrap(), DataSelection::Bytes(5 << 30));
        let wanted = parse_sample("95%/99.5").unwrap();
        assert!(
            (wanted.confidence - 0.95).abs() < 1e-9 && (wanted.proportion - 0.995).abs() < 1e-9
        );
        assert_eq!(parse_sample("99").unwrap().proportion, 0.999);
        for text in ["100/99", "0/99", "99/0", "99/101", "x", "99/x"] {
            assert!(parse_sample(text).is_err(), "{text}");
        }
        for text in ["0/7", "8/7", "x/7", "110%", "lots"] {
            assert!(parse_subset(text).is_err(), "{text}");
        }
    }
}
