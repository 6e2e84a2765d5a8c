//! `aumbry check`: whether everything can be restored.

use aumbry::ops::check::CheckOptions;
use aumbry::ops::check::CheckSummary;
use aumbry::ops::check::DataSelection;
use aumbry::ops::check::check;
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

/// How thoroughly.
#[derive(Args)]
pub struct CheckArgs {
    /// Read every byte of every pack, too
    #[arg(long)]
    read_data: bool,
    /// Read a part of the packs: 10% or 5G of them, chosen at random, or the third of seven parts, 3/7
    #[arg(long, value_name = "PART", conflicts_with = "read_data")]
    read_data_subset: Option<String>,
}

/// Finds out.
pub fn run(args: &CheckArgs, context: &Context) -> Result<Outcome, Failure> {
    let data = match &args.read_data_subset {
        Some(text) => parse_subset(text)?,
        None if args.read_data => DataSelection::All,
        None => DataSelection::None,
    };
    let options = CheckOptions { data, memory_budget: MEMORY_BUDGET };
    let repository = context.open()?;
    let monitor = context.monitor().with_status();
    let summary = check(&repository, &options, &monitor)?;
    monitor.finish();
    if context.output.is_json() {
        tell_json(context, &summary)?;
    } else {
        tell(context, &summary, data)?;
    }
    Ok(if summary.damage.is_empty() { Outcome::Done } else { Outcome::Damaged })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_read_in_three_forms() {
        assert_eq!(parse_subset("3/7").unwrap(), DataSelection::Part { part: 3, parts: 7 });
        assert_eq!(parse_subset("10%").unwrap(), DataSelection::Share(0.1));
        assert_eq!(parse_subset("5G").unwrap(), DataSelection::Bytes(5 << 30));
        for text in ["0/7", "8/7", "x/7", "110%", "lots"] {
            assert!(parse_subset(text).is_err(), "{text}");
        }
    }
}
