//! `aumbry snapshots`: what there is.

use aumbry::format::snapshot::BackupCounts;
use aumbry::id::SnapshotId;
use aumbry::ops::select::SnapshotFilter;
use aumbry::repository::tombs::Forgotten;
use aumbry::units::bytes::format_bytes;
use clap::Args;
use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use crate::context::Context;
use crate::failure::Failure;
use crate::failure::Outcome;
use crate::output::Align;
use crate::output::Table;
use crate::output::base64;
use crate::output::count;
use crate::output::printable;
use crate::progress::ProgressMonitor;
use crate::second::MirrorsArgs;
use crate::selection::FilterArgs;
use crate::selection::NamedSnapshot;

/// Which snapshots.
#[derive(Args)]
pub struct SnapshotsArgs {
    /// Only the newest N
    #[arg(long, value_name = "N")]
    latest: Option<usize>,
    /// List those that were forgotten and can come back, with who forgot them, when and why
    #[arg(long)]
    forgotten: bool,
    #[command(flatten)]
    filter: FilterArgs,
    #[command(flatten)]
    mirrors: MirrorsArgs,
}

/// Lists them, oldest first.
pub fn run(args: &SnapshotsArgs, context: &Context) -> Result<Outcome, Failure> {
    let filter = args.filter.filter(context)?;
    let repository = context.open_to_read(&args.mirrors)?;
    let monitor = context.monitor();
    if args.forgotten {
        return list_forgotten(args, context, &filter, &repository.forgotten(&monitor)?, &monitor);
    }
    let found = context.snapshots(&repository, &monitor)?;
    repository.note_passed_over(&monitor);
    let mut chosen: Vec<_> =
        found.all.iter().filter(|(_, snapshot)| filter.matches(snapshot)).collect();
    if let Some(latest) = args.latest {
        chosen.drain(..chosen.len().saturating_sub(latest));
    }
    let outcome = if found.damaged.is_empty() { Outcome::Done } else { Outcome::Damaged };
    let output = &context.output;
    if output.is_json() {
        let list: Vec<_> = chosen
            .iter()
            .map(|snapshot| {
                let mut object = snapshot_json(context, snapshot);
                let observed = found.observed.get(&snapshot.0).map(|time| context.rfc3339(*time));
                object["observed_time"] = json!(observed);
                object
            })
            .collect();
        output.json(&list)?;
        return Ok(outcome);
    }
    if found.all.is_empty() {
        output.say("There are no snapshots yet. `aumbry backup PATH` makes one.")?;
        return Ok(outcome);
    }
    // Names are not shown where nobody gave any.
    let has_names = chosen.iter().any(|(_, snapshot)| !snapshot.name.is_empty());
    let columns = [
        Some(("ID", Align::Left)),
        Some(("Time", Align::Left)),
        Some(("Host", Align::Left)),
        has_names.then_some(("Name", Align::Left)),
        Some(("Tags", Align::Left)),
        Some(("Size", Align::Right)),
        Some(("Paths", Align::Left)),
    ];
    let mut table = Table::new(&columns.into_iter().flatten().collect::<Vec<_>>());
    for (id, snapshot) in &chosen {
        let paths: Vec<_> = snapshot.paths.iter().map(|path| printable(path)).collect();
        let cells = [
            Some(id.short()),
            Some(context.local(snapshot.time)),
            Some(printable(snapshot.host.as_bytes())),
            has_names.then(|| printable(snapshot.name.as_bytes())),
            Some(printable(snapshot.tags.join(",").as_bytes())),
            Some(format_bytes(snapshot.counts.total_bytes_processed)),
            Some(paths.join("\n")),
        ];
        table.row(cells.into_iter().flatten());
    }
    table.write(output)?;
    output.say(&output.style().dim(&count(chosen.len() as u64, "snapshot")))?;
    Ok(outcome)
}

/// Those that were forgotten; what cannot be read is told as a problem.
fn list_forgotten(
    args: &SnapshotsArgs,
    context: &Context,
    filter: &SnapshotFilter,
    forgotten: &[Forgotten],
    monitor: &ProgressMonitor,
) -> Result<Outcome, Failure> {
    let mut chosen = Vec::new();
    for Forgotten { id, snapshot, tomb } in forgotten {
        match snapshot {
            Ok(snapshot) if filter.matches(snapshot) => {
                chosen.push(((*id, snapshot.clone()), tomb.clone().unwrap_or_default()));
            }
            Ok(_) => {}
            Err(error) => {
                monitor.tell_problem(&format!("snapshot {}", id.short()), "read", &error.message);
            }
        }
    }
    if let Some(latest) = args.latest {
        chosen.drain(..chosen.len().saturating_sub(latest));
    }
    let outcome = if monitor.problems() == 0 { Outcome::Done } else { Outcome::Damaged };
    let output = &context.output;
    if output.is_json() {
        let list: Vec<_> = chosen
            .iter()
            .map(|(snapshot, tomb)| {
                let mut object = snapshot_json(context, snapshot);
                object["forgotten"] = json!({
                    "time": context.rfc3339(tomb.time),
                    "hostname": tomb.host,
                    "username": tomb.user,
                    "why": tomb.why,
                });
                object
            })
            .collect();
        output.json(&list)?;
        return Ok(outcome);
    }
    let mut table = Table::new(&[
        ("ID", Align::Left),
        ("Time", Align::Left),
        ("Host", Align::Left),
        ("Forgotten", Align::Left),
        ("By", Align::Left),
        ("Why", Align::Left),
    ]);
    for ((id, snapshot), tomb) in &chosen {
        table.row([
            id.short(),
            context.local(snapshot.time),
            printable(snapshot.host.as_bytes()),
            context.local(tomb.time),
            printable(format!("{} on {}", tomb.user, tomb.host).as_bytes()),
            printable(tomb.why.as_bytes()),
        ]);
    }
    table.write(output)?;
    output.say(&output.style().dim(&format!(
        "{}; `aumbry undelete ID` brings one back",
        count(chosen.len() as u64, "forgotten snapshot")
    )))?;
    Ok(outcome)
}

/// A snapshot as a program reads it.
pub fn snapshot_json(context: &Context, (id, snapshot): &NamedSnapshot) -> Value {
    let text = |bytes: &Vec<u8>| String::from_utf8_lossy(bytes).into_owned();
    let mut object = Map::new();
    let mut put = |key: &str, value: Value| object.insert(key.to_string(), value);
    put("id", json!(id.to_string()));
    put("short_id", json!(id.short()));
    put("time", json!(context.rfc3339(snapshot.time)));
    put("tree", json!(snapshot.root.to_string()));
    if let Some(parent) = snapshot.parent {
        put("parent", json!(parent.to_string()));
    }
    put("paths", json!(snapshot.paths.iter().map(text).collect::<Vec<_>>()));
    if snapshot.paths.iter().any(|path| std::str::from_utf8(path).is_err()) {
        put("paths_b64", json!(snapshot.paths.iter().map(|path| base64(path)).collect::<Vec<_>>()));
    }
    put("hostname", json!(snapshot.host));
    put("username", json!(snapshot.user));
    put("name", json!(snapshot.name));
    put("tags", json!(snapshot.tags));
    put("program_version", json!(snapshot.program));
    if let Some(repaired) = &snapshot.repaired {
        put("original", json!(repaired.original.to_string()));
        put("left_out", json!(repaired.left_out.lines().collect::<Vec<_>>()));
    }
    if let Some(origin) = &snapshot.copied {
        let (repository, id) = (origin.repository.to_string(), origin.snapshot.to_string());
        put("copied_from", json!({"repository": repository, "snapshot_id": id}));
    }
    let mut summary = counts_json(&snapshot.counts);
    summary.insert("backup_start".to_string(), json!(context.rfc3339(snapshot.time)));
    summary.insert("backup_end".to_string(), json!(context.rfc3339(snapshot.end_time)));
    put("summary", Value::Object(summary));
    Value::Object(object)
}

/// What a backup did, as a program reads it.
pub fn counts_json(counts: &BackupCounts) -> Map<String, Value> {
    let numbers = [
        ("files_new", counts.files_new),
        ("files_changed", counts.files_changed),
        ("files_unmodified", counts.files_unmodified),
        ("dirs_new", counts.dirs_new),
        ("dirs_changed", counts.dirs_changed),
        ("dirs_unmodified", counts.dirs_unmodified),
        ("data_blobs", counts.data_blobs),
        ("tree_blobs", counts.tree_blobs),
        ("data_added", counts.data_added),
        ("data_added_packed", counts.data_added_packed),
        ("total_files_processed", counts.total_files_processed),
        ("total_bytes_processed", counts.total_bytes_processed),
        ("error_count", counts.problems),
    ];
    numbers.into_iter().map(|(key, number)| (key.to_string(), Value::from(number))).collect()
}

/// An id, or null.
pub fn id_or_null(id: Option<SnapshotId>) -> Value {
    id.map_or(Value::Null, |id| Value::from(id.to_string()))
}
