//! `aumbry rekey`: new keys for what is new, without a new upload.

use aumbry::monitor::Monitor;
use aumbry::ops::rekey::Change;
use aumbry::ops::rekey::RekeyOptions;
use aumbry::ops::rekey::RekeyPlan;
use aumbry::ops::rekey::RekeySummary;
use aumbry::ops::rekey::plan;
use aumbry::ops::rekey::rekey;
use aumbry::repository::keys::KeySlot;
use aumbry::units::bytes::format_bytes;
use clap::Args;
use serde_json::json;

use super::key;
use crate::consent;
use crate::context::Context;
use crate::failure::Failure;
use crate::failure::Outcome;
use crate::output::count;
use crate::output::printable;

/// Who stays.
#[derive(Args)]
pub struct RekeyArgs {
    /// Remove this key (the beginning of its id, as `aumbry key list` shows it): it gets no new keys. May be
    /// repeated
    #[arg(long, value_name = "ID")]
    remove_key: Vec<String>,
    /// Drop the data keys of old epochs that nothing needs any more, instead of beginning a new epoch
    #[arg(long, conflicts_with = "remove_key")]
    drop_old: bool,
    /// Consent to what the plan says
    #[arg(long)]
    yes: bool,
    /// Show the plan and do nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
}

/// Plans, asks and does it.
pub fn run(args: &RekeyArgs, context: &Context) -> Result<Outcome, Failure> {
    let repository = context.open()?;
    let (slots, _) = key::slots(context, &repository)?;
    let mut remove = Vec::new();
    for prefix in &args.remove_key {
        remove.push(key::find_slot(&slots, prefix)?.id);
    }
    let change = if args.drop_old { Change::DropOld } else { Change::NewEpoch };
    let monitor = context.monitor();
    let planned = plan(&repository, &RekeyOptions { change, remove }, &monitor)?;
    let output = &context.output;
    if !output.is_json() {
        tell_plan(context, &planned)?;
    }
    if planned.is_empty() || args.dry_run {
        if output.is_json() {
            output.json(&to_json(&planned, None))?;
        } else if args.dry_run {
            output.say("dry run: nothing was changed")?;
        }
        return Ok(if args.dry_run { Outcome::Done } else { outcome(&planned) });
    }
    consent::obtain(
        context,
        args.yes,
        &concerns(&planned),
        "Go on?",
        "--dry-run shows the plan; --yes consents",
    )?;
    let summary = rekey(&repository, &planned)?;
    if output.is_json() {
        output.json(&to_json(&planned, Some(&summary)))?;
    } else {
        tell_end(context, &planned, &summary)?;
    }
    for slot in &summary.missed {
        monitor.note(&format!(
            "key {} was added meanwhile and lacks the new keys: add it again",
            slot.short()
        ));
    }
    Ok(outcome(&planned))
}

/// Not done while an epoch that was to be dropped is needed.
fn outcome(plan: &RekeyPlan) -> Outcome {
    if plan.needed.is_empty() { Outcome::Done } else { Outcome::Incomplete }
}

/// Who gets the new keys is for a person to look at: somebody with the old ones could have added a key.
fn concerns(plan: &RekeyPlan) -> Vec<String> {
    let mut concerns =
        vec![format!("{} get the new keys; all of them must be yours", keys(plan.carried.len()))];
    if !plan.left_behind.is_empty() {
        let left = keys(plan.left_behind.len());
        concerns.push(format!("{left} cannot get them, and must be added again"));
    }
    concerns
}

fn keys(number: usize) -> String {
    count(number as u64, "key")
}

fn describe(slot: &KeySlot) -> String {
    let label = printable(slot.label.label.as_bytes());
    let user = printable(slot.label.user.as_bytes());
    let host = printable(slot.label.host.as_bytes());
    let name = if label.is_empty() { String::new() } else { format!(" {label:?}") };
    format!("{} {}{name} of {user} on {host}", slot.id.short(), key::way_name(slot.way))
}

fn tell_plan(context: &Context, plan: &RekeyPlan) -> Result<(), Failure> {
    let output = &context.output;
    if plan.change == Change::DropOld {
        for epoch in &plan.dropped {
            output.say(&format!("nothing needs the data key of epoch {epoch}: it goes"))?;
        }
        for (epoch, needs) in &plan.needed {
            let mut reasons = Vec::new();
            if needs.packs > 0 {
                let (packs, bytes) = (count(needs.packs, "pack"), format_bytes(needs.pack_bytes));
                reasons.push(format!(
                    "{packs} ({bytes}), which `aumbry prune` copies, and `aumbry repair packs` where they \
                     are damaged"
                ));
            }
            if !needs.sessions.is_empty() {
                let sessions = count(needs.sessions.len() as u64, "session");
                reasons.push(format!(
                    "{sessions} not ended, which `aumbry prune --patience 0s` gives up"
                ));
            }
            if let Some(example) = needs.unreadable.first() {
                reasons.push(format!("perhaps {example}, whose header cannot be read"));
            }
            output.say(&format!("epoch {epoch} is still needed: {}", reasons.join("; ")))?;
        }
        if plan.is_empty() {
            let nothing = plan.needed.is_empty();
            return Ok(output.say(match nothing {
                true => "no old epoch has a data key: there is nothing to drop",
                false => "nothing was dropped",
            })?);
        }
    }
    for slot in &plan.carried {
        output.say(&format!("+ {} gets the new keys", describe(slot)))?;
    }
    for (item, why) in &plan.left_behind {
        output.say(&format!("! {} cannot: {}", item, printable(why.as_bytes())))?;
    }
    for slot in &plan.removed {
        output.say(&format!("- {} is removed", describe(slot)))?;
    }
    Ok(())
}

fn tell_end(context: &Context, plan: &RekeyPlan, summary: &RekeySummary) -> Result<(), Failure> {
    let output = &context.output;
    if plan.change == Change::DropOld {
        output.say(
            "dropped. The index keys stay: config, snapshots and lists are sealed with them",
        )?;
        return Ok(());
    }
    output.say(&format!("what is new is sealed with key epoch {} now", summary.epoch))?;
    output.say(
        "What was stored before can be read with the old keys until `aumbry prune` has copied it;",
    )?;
    output
        .say("then `aumbry rekey --drop-old` drops them. Who had them may have read it already.")?;
    Ok(())
}

fn to_json(plan: &RekeyPlan, summary: Option<&RekeySummary>) -> serde_json::Value {
    let ids =
        |slots: &[KeySlot]| -> Vec<_> { slots.iter().map(|slot| slot.id.to_string()).collect() };
    let needed: Vec<_> = plan
        .needed
        .iter()
        .map(|(epoch, needs)| {
            json!({
                "epoch": epoch,
                "packs": needs.packs,
                "pack_bytes": needs.pack_bytes,
                "sessions": needs.sessions.len(),
                "unreadable": needs.unreadable,
            })
        })
        .collect();
    let left: Vec<_> =
        plan.left_behind.iter().map(|(item, why)| json!({"item": item, "why": why})).collect();
    json!({
        "message_type": "rekeyed",
        "done": summary.is_some(),
        "epoch": summary.map_or(plan.epoch, |summary| summary.epoch),
        "updated_keys": ids(&plan.carried),
        "left_behind": left,
        "removed_keys": ids(&plan.removed),
        "missed_keys": summary.map_or(Vec::new(), |summary| {
            summary.missed.iter().map(ToString::to_string).collect()
        }),
        "dropped_epochs": plan.dropped,
        "needed_epochs": needed,
    })
}
