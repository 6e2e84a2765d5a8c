//! `aumbry find`: which snapshots have something, and in which versions.

use aumbry::format::snapshot::Snapshot;
use aumbry::ops::find::FindOptions;
use aumbry::ops::find::Version;
use aumbry::ops::find::find;
use aumbry::tree::filter::IncludeFilter;
use aumbry::tree::filter::Pattern;
use aumbry::units::bytes::format_bytes;
use clap::Args;
use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use crate::commands::ls::permissions_of;
use crate::context::Context;
use crate::context::MEMORY_BUDGET;
use crate::failure::Failure;
use crate::failure::Outcome;
use crate::output::Align;
use crate::output::Table;
use crate::output::count;
use crate::output::printable;
use crate::output::put_bytes;
use crate::second::MirrorsArgs;
use crate::selection::FilterArgs;
use crate::selection::NamedSnapshot;

/// Rows that are brought to one width together; what comes later may be wider.
const ROWS_AT_ONCE: usize = 10_000;

const AFTER_HELP: &str = "\
A name, as letter.txt or '*.odt', is found in any folder; a path that begins with / from the top. * and ? stand for
what is no /, ** for any folders, [ab] for a or b; \\ before one of them, or before a ! at the beginning, means itself. The
path of a folder finds the folder, /home/me/docs/'**' what is in it. A version is what stayed the same from one snapshot to another: the row says in how many of those that were looked at, from
when to when, and the last of them, from which a restore brings it back.";

/// What is looked for, and where.
#[derive(Args)]
#[command(after_help = AFTER_HELP)]
pub struct FindArgs {
    /// Names or paths, with wildcards: letter.txt, '*.odt', /home/me/'**'/budget*
    #[arg(value_name = "PATTERN", required = true)]
    patterns: Vec<String>,
    /// Do not mind upper and lower case
    #[arg(short, long)]
    ignore_case: bool,
    /// Only snapshots taken at this moment or after it: 2026-11-01, yesterday, 3d
    #[arg(long, value_name = "MOMENT", help_heading = "Which snapshot")]
    since: Option<String>,
    /// Only snapshots taken at this moment or before it
    #[arg(long, value_name = "MOMENT", help_heading = "Which snapshot")]
    until: Option<String>,
    #[command(flatten)]
    filter: FilterArgs,
    #[command(flatten)]
    mirrors: MirrorsArgs,
}

/// Finds it.
pub fn run(args: &FindArgs, context: &Context) -> Result<Outcome, Failure> {
    let patterns = IncludeFilter::new(&patterns_of(args)?)?;
    if patterns.is_empty() {
        return Err(Failure::usage("`/` is everything").hint("'**' finds every file and folder"));
    }
    let options = FindOptions { patterns, memory_budget: MEMORY_BUDGET };
    let since = args.since.as_deref().map(|moment| context.start(moment)).transpose()?;
    let until = args.until.as_deref().map(|moment| context.moment(moment)).transpose()?;
    let filter = args.filter.filter(context)?;
    let repository = context.open_to_read(&args.mirrors)?;
    let monitor = context.monitor();
    let mut snapshots = context.snapshots(&repository, &monitor)?.all;
    let has_any = !snapshots.is_empty();
    snapshots.retain(|(_, snapshot)| {
        filter.matches(snapshot)
            && since.is_none_or(|since| snapshot.time >= since)
            && until.is_none_or(|until| snapshot.time <= until)
    });
    if snapshots.is_empty() && has_any {
        return Err(Failure::failed("no snapshot is of that host, name, tag, path and time")
            .hint("`aumbry snapshots` lists them"));
    }
    let mut versions = Vec::new();
    let mut tell = |version: Version| {
        match context.output.is_json() {
            true => context.output.json(&version_json(context, &snapshots, &version))?,
            false => versions.push(version),
        }
        Ok(())
    };
    find(&repository, &snapshots, &options, &mut tell, &monitor)?;
    monitor.finish();
    repository.note_mended(&monitor);
    repository.note_passed_over(&monitor);
    if !context.output.is_json() {
        versions.sort_by(|one, other| (&one.path, one.first).cmp(&(&other.path, other.first)));
        match versions.is_empty() {
            true => say_none(context, snapshots.len(), monitor.problems() == 0)?,
            false => show(args, context, &snapshots, &versions)?,
        }
    }
    Ok(if monitor.problems() == 0 { Outcome::Done } else { Outcome::Damaged })
}

fn patterns_of(args: &FindArgs) -> Result<Vec<Pattern>, Failure> {
    let pattern = |text: &String| {
        if text.starts_with('!') {
            return Err(Failure::usage(format!("{text:?} says what is not looked for"))
                .hint(format!("a name that begins with ! is written '\\{text}'")));
        }
        Ok(Pattern { text: text.clone(), case_insensitive: args.ignore_case })
    };
    args.patterns.iter().map(pattern).collect()
}

fn say_none(context: &Context, snapshots: usize, is_whole: bool) -> Result<(), Failure> {
    let text = match (snapshots, is_whole) {
        (0, _) => "There are no snapshots yet. `aumbry backup PATH` makes one.".to_string(),
        (_, true) => format!("Nothing in {} matches.", count(snapshots as u64, "snapshot")),
        (_, false) => "Nothing matches in what could be read.".to_string(),
    };
    Ok(context.output.say(&text)?)
}

/// The versions as a table, and how one is brought back.
fn show(
    args: &FindArgs,
    context: &Context,
    snapshots: &[NamedSnapshot],
    versions: &[Version],
) -> Result<(), Failure> {
    let output = &context.output;
    let snapshot = |place: usize| &snapshots[place].1;
    let differ = |text: fn(&Snapshot) -> &str| {
        versions.windows(2).any(|pair| text(snapshot(pair[0].last)) != text(snapshot(pair[1].last)))
    };
    let (has_hosts, has_names) = (differ(|it| &it.host), differ(|it| &it.name));
    // Whether the newest one that was looked at is the newest one of its source that there is.
    let is_newest =
        args.until.is_none() && args.filter.tag.is_empty() && args.filter.path.is_empty();
    let columns = [
        Some(("ID", Align::Left)),
        Some(("From", Align::Left)),
        Some(("To", Align::Left)),
        Some(("Snapshots", Align::Right)),
        has_hosts.then_some(("Host", Align::Left)),
        has_names.then_some(("Name", Align::Left)),
        Some(("Size", Align::Right)),
        Some(("Modified", Align::Left)),
        Some(("Path", Align::Left)),
    ];
    let mut table = Table::new(&columns.into_iter().flatten().collect::<Vec<_>>());
    for version in versions {
        let Version { path, seen, first, last, .. } = version;
        let to = match version.is_current && is_newest {
            true => "newest".to_string(),
            false if version.is_end_known => context.local(snapshot(*last).time),
            // What came then cannot be read there.
            false => format!("{} or later", context.local(snapshot(*last).time)),
        };
        let size = if seen.kind == "file" { format_bytes(seen.size) } else { "-".to_string() };
        let mark = match &seen.target {
            Some(target) => format!(" -> {}", printable(target)),
            None if seen.kind == "dir" => "/".to_string(),
            None => String::new(),
        };
        let cells = [
            Some(snapshots[*last].0.short()),
            Some(context.local(snapshot(*first).time)),
            Some(to),
            Some(version.snapshots.to_string()),
            has_hosts.then(|| printable(snapshot(*last).host.as_bytes())),
            has_names.then(|| printable(snapshot(*last).name.as_bytes())),
            Some(size),
            Some(context.local(seen.mtime)),
            Some(format!("{path}{mark}")),
        ];
        table.row(cells.into_iter().flatten());
        if table.height() == ROWS_AT_ONCE {
            table.write_page(output)?;
        }
    }
    table.write_page(output)?;
    let paths = 1 + versions.windows(2).filter(|pair| pair[0].path != pair[1].path).count();
    output.say(&output.style().dim(&format!(
        "{} of {}; `aumbry restore ID:PATH --target .` brings one back",
        count(versions.len() as u64, "version"),
        count(paths as u64, "path"),
    )))?;
    Ok(())
}

/// A version as a program reads it.
fn version_json(context: &Context, snapshots: &[NamedSnapshot], version: &Version) -> Value {
    let Version { path, seen, .. } = version;
    let mut object = Map::new();
    put_bytes(&mut object, "name", path.name().unwrap_or_default());
    put_bytes(&mut object, "path", path.as_bytes());
    if let Some(target) = &seen.target {
        put_bytes(&mut object, "linktarget", target);
    }
    let mut object = Value::Object(object);
    object["type"] = json!(seen.kind);
    object["uid"] = json!(seen.owner.uid);
    object["gid"] = json!(seen.owner.gid);
    object["user"] = json!(seen.owner.user);
    object["group"] = json!(seen.owner.group);
    if seen.kind == "file" {
        object["size"] = json!(seen.size);
    }
    object["mode"] = json!(seen.mode);
    object["permissions"] = json!(permissions_of(seen.kind, seen.mode));
    object["mtime"] = json!(context.rfc3339(seen.mtime));
    let (first, last) = (&snapshots[version.first], &snapshots[version.last]);
    object["message_type"] = json!("found");
    object["struct_type"] = json!("found");
    object["hostname"] = json!(last.1.host);
    object["source_name"] = json!(last.1.name);
    if last.1.name.is_empty() {
        let paths = last.1.paths.iter().map(|path| String::from_utf8_lossy(path));
        object["source_paths"] = json!(paths.collect::<Vec<_>>());
    }
    object["first_snapshot"] = json!(first.0.to_string());
    object["first_time"] = json!(context.rfc3339(first.1.time));
    object["last_snapshot"] = json!(last.0.to_string());
    object["last_time"] = json!(context.rfc3339(last.1.time));
    object["snapshots"] = json!(version.snapshots);
    object["is_current"] = json!(version.is_current);
    object["is_end_known"] = json!(version.is_end_known);
    object
}
