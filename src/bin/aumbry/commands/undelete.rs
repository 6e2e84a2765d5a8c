//! `aumbry undelete`: forgotten snapshots are back.

use aumbry::ops::undelete::undelete;
use aumbry::repository::tombs::Forgotten;
use clap::Args;
use serde_json::json;

use crate::context::Context;
use crate::failure::Failure;
use crate::failure::Outcome;

/// Which.
#[derive(Args)]
pub struct UndeleteArgs {
    /// The beginnings of their ids, as `aumbry snapshots --forgotten` shows them
    #[arg(value_name = "ID", required = true)]
    ids: Vec<String>,
}

/// Brings them back, all or none.
pub fn run(args: &UndeleteArgs, context: &Context) -> Result<Outcome, Failure> {
    let repository = context.open()?;
    let monitor = context.monitor();
    let forgotten = repository.forgotten(&monitor)?;
    let mut ids = Vec::new();
    for prefix in &args.ids {
        ids.push(find(&forgotten, prefix)?.id);
    }
    let summary = undelete(&repository, &ids, &monitor)?;
    let output = &context.output;
    if output.is_json() {
        let ids: Vec<_> = summary.restored.iter().map(ToString::to_string).collect();
        output.json(
            &json!({"message_type": "undeleted", "ids": ids, "pending": summary.is_pending}),
        )?;
        return Ok(Outcome::Done);
    }
    for id in &summary.restored {
        output.say(&format!("snapshot {} is back", output.style().bold(&id.short())))?;
    }
    if summary.is_pending {
        output.say(
            "A collection that is not finished may have looked before that. Finish it with `aumbry \
             prune`, then see whether they are still there.",
        )?;
    }
    Ok(Outcome::Done)
}

fn find<'f>(forgotten: &'f [Forgotten], prefix: &str) -> Result<&'f Forgotten, Failure> {
    let prefix = prefix.to_ascii_lowercase();
    let matching: Vec<_> =
        forgotten.iter().filter(|forgotten| forgotten.id.starts_with(&prefix)).collect();
    match matching[..] {
        [found] if !prefix.is_empty() => Ok(found),
        [] => Err(Failure::failed(format!("no forgotten snapshot's id begins with {prefix:?}"))
            .hint("`aumbry snapshots --forgotten` lists those that can come back")),
        _ => {
            let ids: Vec<_> = matching.iter().map(|forgotten| forgotten.id.short()).collect();
            Err(Failure::failed(format!(
                "{prefix:?} begins the ids of several forgotten snapshots: {}",
                ids.join(", ")
            )))
        }
    }
}
