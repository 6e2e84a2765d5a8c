//! `aumbry key`: the ways into a repository.

use std::path::PathBuf;

use aumbry::format::slot::Way;
use aumbry::repository::Repository;
use aumbry::repository::keys::KeySlot;
use clap::Args;
use clap::Subcommand;
use serde_json::json;

use crate::context::Context;
use crate::credentials;
use crate::failure::Failure;
use crate::failure::Outcome;
use crate::output::Align;
use crate::output::Table;
use crate::output::printable;

/// What to do with keys.
#[derive(Args)]
pub struct KeyArgs {
    #[command(subcommand)]
    command: KeyCommand,
}

#[derive(Subcommand)]
enum KeyCommand {
    /// List the ways in
    List,
    /// Add a passphrase
    Add(NewArgs),
    /// Remove a way in
    Remove {
        /// The beginning of its id, as `aumbry key list` shows it
        id: String,
    },
    /// Change the passphrase that opened the repository
    Passwd(NewArgs),
    /// Make a recovery key: 24 words to write down
    Recovery {
        /// What to call it in `aumbry key list`
        #[arg(long, value_name = "TEXT", default_value = "")]
        label: String,
    },
}

#[derive(Args)]
struct NewArgs {
    /// Read the new passphrase from this file [env: AUMBRY_NEW_PASSWORD holds the passphrase itself]
    #[arg(long, value_name = "FILE")]
    new_password_file: Option<PathBuf>,
    /// What to call it in `aumbry key list`
    #[arg(long, value_name = "TEXT", default_value = "")]
    label: String,
}

/// Does it.
pub fn run(args: &KeyArgs, context: &Context) -> Result<Outcome, Failure> {
    let repository = context.open()?;
    match &args.command {
        KeyCommand::List => list(context, &repository),
        KeyCommand::Add(new) => add(context, &repository, new),
        KeyCommand::Remove { id } => remove(context, &repository, id),
        KeyCommand::Passwd(new) => passwd(context, &repository, new),
        KeyCommand::Recovery { label } => recovery(context, &repository, label),
    }
}

/// The slots that can be read; the others are told.
pub fn slots(
    context: &Context,
    repository: &Repository,
) -> Result<(Vec<KeySlot>, Outcome), Failure> {
    let monitor = context.monitor();
    let mut whole = Vec::new();
    for slot in repository.key_slots()? {
        match slot {
            Ok(slot) => whole.push(slot),
            Err(error) => monitor.tell_problem(&error.item, "read", &error.message),
        }
    }
    whole.sort_by_key(|slot| (slot.label.created, slot.id));
    let outcome = if monitor.problems() == 0 { Outcome::Done } else { Outcome::Damaged };
    Ok((whole, outcome))
}

/// A word for how a slot is opened.
pub fn way_name(way: Way) -> &'static str {
    match way {
        Way::Passphrase { .. } => "passphrase",
        Way::Recovery => "recovery",
    }
}

fn list(context: &Context, repository: &Repository) -> Result<Outcome, Failure> {
    let (slots, outcome) = slots(context, repository)?;
    let keyring = repository.sealer().keyring();
    let updated = repository.update_recipients()?;
    let lacks_keys =
        |slot: &KeySlot| slot.label.revision < keyring.revision && !updated.contains(&slot.id);
    let output = &context.output;
    if output.is_json() {
        let list: Vec<_> = slots
            .iter()
            .map(|slot| {
                json!({
                    "current": slot.id == repository.slot(),
                    "id": slot.id.to_string(),
                    "kind": way_name(slot.way),
                    "label": slot.label.label,
                    "userName": slot.label.user,
                    "hostName": slot.label.host,
                    "created": context.rfc3339(slot.label.created),
                    "up_to_date": !lacks_keys(slot),
                })
            })
            .collect();
        output.json(&list)?;
        return Ok(outcome);
    }
    let mut table = Table::new(&[
        (" ID", Align::Left),
        ("Kind", Align::Left),
        ("User", Align::Left),
        ("Host", Align::Left),
        ("Made", Align::Left),
        ("Label", Align::Left),
    ]);
    for slot in &slots {
        let mark = if slot.id == repository.slot() { '*' } else { ' ' };
        table.row([
            format!("{mark}{}", slot.id.short()),
            way_name(slot.way).to_string(),
            printable(slot.label.user.as_bytes()),
            printable(slot.label.host.as_bytes()),
            context.local(slot.label.created),
            printable(slot.label.label.as_bytes()),
        ]);
    }
    table.write(output)?;
    if let [_, _, ..] = &keyring.epochs[..] {
        let newest = repository.sealer().newest_epoch();
        let old = keyring.epochs.iter().filter(|keys| keys.epoch != newest);
        let (drained, old): (Vec<_>, Vec<_>) = old.partition(|keys| keys.data_key.is_none());
        output.remark(&format!(
            "Key epoch {newest} seals what is new. Epochs before it: {}.",
            [(old, "in use"), (drained, "without a data key")]
                .iter()
                .filter(|(epochs, _)| !epochs.is_empty())
                .map(|(epochs, what)| format!("{} {what}", epochs.len()))
                .collect::<Vec<_>>()
                .join(", ")
        ));
    }
    for slot in slots.iter().filter(|slot| lacks_keys(slot)) {
        output.remark(&format!(
            "{} lacks the newest keys: add it again, and remove it with `aumbry key remove {0}`.",
            slot.id.short()
        ));
    }
    if !slots.iter().any(|slot| slot.way == Way::Recovery) {
        context.output.remark("There is no recovery key yet. `aumbry key recovery` makes one.");
    }
    Ok(outcome)
}

fn add(context: &Context, repository: &Repository, new: &NewArgs) -> Result<Outcome, Failure> {
    let credential = credentials::find_new(context, new.new_password_file.as_deref())?;
    let id = repository.add_key(&credential, None, &new.label)?;
    let output = &context.output;
    if output.is_json() {
        output.json(&json!({"message_type": "key_added", "id": id.to_string()}))?;
    } else {
        output.say(&format!("added passphrase {}", output.style().bold(&id.short())))?;
    }
    Ok(Outcome::Done)
}

fn passwd(context: &Context, repository: &Repository, new: &NewArgs) -> Result<Outcome, Failure> {
    let (slots, _) = slots(context, repository)?;
    let current = slots.iter().find(|slot| slot.id == repository.slot());
    if current.is_some_and(|slot| slot.way == Way::Recovery) {
        return Err(Failure::failed("a recovery key opened the repository, not a passphrase")
            .hint(
                "`aumbry key add` adds a passphrase, `aumbry key remove ID` removes the old one",
            ));
    }
    let credential = credentials::find_new(context, new.new_password_file.as_deref())?;
    // Unless a new one is given, it keeps its name.
    let label = match current {
        Some(slot) if new.label.is_empty() => &slot.label.label,
        _ => &new.label,
    };
    let id = repository.change_key(&credential, None, label)?;
    let output = &context.output;
    if output.is_json() {
        output.json(&json!({"message_type": "passphrase_changed", "id": id.to_string()}))?;
    } else {
        output.say(&format!(
            "changed the passphrase; it is {} now",
            output.style().bold(&id.short())
        ))?;
    }
    Ok(Outcome::Done)
}

/// The slot whose id begins so.
pub fn find_slot<'s>(slots: &'s [KeySlot], prefix: &str) -> Result<&'s KeySlot, Failure> {
    let prefix = prefix.to_ascii_lowercase();
    let matching: Vec<_> =
        slots.iter().filter(|slot| slot.id.to_string().starts_with(&prefix)).collect();
    match matching[..] {
        [slot] if !prefix.is_empty() => Ok(slot),
        [] => Err(Failure::failed(format!("no key's id begins with {prefix:?}"))
            .hint("`aumbry key list` shows them")),
        _ => {
            let ids: Vec<_> = matching.iter().map(|slot| slot.id.short()).collect();
            Err(Failure::failed(format!(
                "{prefix:?} begins the ids of several keys: {}",
                ids.join(", ")
            )))
        }
    }
}

fn remove(context: &Context, repository: &Repository, prefix: &str) -> Result<Outcome, Failure> {
    let (slots, _) = slots(context, repository)?;
    let slot = find_slot(&slots, prefix)?;
    repository.remove_key(slot.id)?;
    let output = &context.output;
    if output.is_json() {
        output.json(&json!({"message_type": "key_removed", "id": slot.id.to_string()}))?;
    } else {
        output.say(&format!(
            "removed {} {}",
            way_name(slot.way),
            output.style().bold(&slot.id.short())
        ))?;
    }
    Ok(Outcome::Done)
}

fn recovery(context: &Context, repository: &Repository, label: &str) -> Result<Outcome, Failure> {
    let (id, credential) = repository.add_recovery_key(label)?;
    let words =
        credential.words().ok_or_else(|| Failure::failed("the recovery key has no words"))?;
    let output = &context.output;
    if output.is_json() {
        output.json(&json!({
            "message_type": "recovery_key",
            "id": id.to_string(),
            "words": words,
        }))?;
        return Ok(Outcome::Done);
    }
    // The words are what was asked for: they are printed even with --quiet.
    output.say(&format!("made recovery key {}. Write these words down:", id.short()))?;
    output.say("")?;
    let words: Vec<_> = words.split(' ').collect();
    for (row, four) in words.chunks(4).enumerate() {
        let line: String = four
            .iter()
            .enumerate()
            .map(|(column, word)| format!("{:>4}. {word:<10}", row * 4 + column + 1))
            .collect();
        output.line(line.trim_end())?;
    }
    output.say("")?;
    output.say("They open the repository as the passphrase does, and are not shown again.")?;
    output.say("Keep them on paper, away from this machine; try them once:")?;
    output.say("  aumbry --recovery-key-file FILE snapshots")?;
    Ok(Outcome::Done)
}
