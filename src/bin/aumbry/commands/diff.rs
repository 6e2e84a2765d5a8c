//! `aumbry diff`: what differs between two snapshots, or between a snapshot and the disk.

use std::ffi::OsStr;
use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::path::PathBuf;

use aumbry::ops::diff::Change;
use aumbry::ops::diff::DiffOptions;
use aumbry::ops::diff::DiffSummary;
use aumbry::ops::diff::EntryCounts;
use aumbry::ops::diff::Other;
use aumbry::ops::diff::diff;
use aumbry::source::Source;
use aumbry::source::files::Files;
use aumbry::source::files::FilesOptions;
use aumbry::tree::entry::Entry;
use aumbry::tree::entry::Node;
use aumbry::tree::filter::ExcludeFilter;
use aumbry::tree::path::TreePath;
use aumbry::units::bytes::format_bytes;
use clap::Args;
use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use crate::commands::backup::own_folders;
use crate::context::Context;
use crate::context::MEMORY_BUDGET;
use crate::environment::real_path;
use crate::failure::Failure;
use crate::failure::Outcome;
use crate::output::count;
use crate::output::grouped;
use crate::output::put_bytes;
use crate::patterns::patterns;
use crate::second::MirrorsArgs;
use crate::selection::ChoiceArgs;
use crate::selection::FilterArgs;
use crate::selection::Named;
use crate::selection::NamedSnapshot;

const AFTER_HELP: &str = "\
+ only the second has it; - only the first has it, and it goes with the first; T another kind of thing;
M other content; M? other content under the same modification time: nobody wrote it, or somebody hid
it; U other metadata. Without a second snapshot, the second is the disk, of which files are read whose
size is the same and whose times are not.";

/// What is compared.
#[derive(Args)]
#[command(after_help = AFTER_HELP)]
pub struct DiffArgs {
    /// The first snapshot, or a part of it: latest~1, 4f2a:/home, /home/me [default: latest]
    #[arg(value_name = "SNAP[:PATH]")]
    first: Option<OsString>,
    /// The second snapshot, or a part of it [default: the disk; its path is the first's]
    #[arg(value_name = "SNAP[:PATH]", conflicts_with = "disk")]
    second: Option<OsString>,
    /// Compare with the disk; what was at the first's PATH is now at PLACE, if that is given
    #[arg(long, value_name = "PLACE", num_args = 0..=1, require_equals = true)]
    disk: Option<Option<PathBuf>>,

    /// Tell what differs in nothing but mode, owner, time or attributes, too
    #[arg(short, long, help_heading = "What is told")]
    metadata: bool,
    /// Read every file on the disk, to find bytes that changed while times did not
    #[arg(short, long, conflicts_with = "second", help_heading = "What is told")]
    content: bool,
    /// Tell only the figures
    #[arg(short, long, help_heading = "What is told")]
    summary: bool,
    /// Leave out what matches, on both sides (repeatable)
    #[arg(short, long, value_name = "PATTERN", help_heading = "What is told")]
    exclude: Vec<String>,
    /// The same for upper and lower case alike (repeatable)
    #[arg(long, value_name = "PATTERN", help_heading = "What is told")]
    iexclude: Vec<String>,
    /// Patterns from a file, one a line (repeatable)
    #[arg(long, value_name = "FILE", help_heading = "What is told")]
    exclude_file: Vec<PathBuf>,

    /// The first is the newest snapshot at or before this moment; given twice, the second, too
    #[arg(long, value_name = "MOMENT", help_heading = "Which snapshot")]
    at: Vec<String>,
    #[command(flatten)]
    filter: FilterArgs,
    #[command(flatten)]
    mirrors: MirrorsArgs,
}

/// Compares.
pub fn run(args: &DiffArgs, context: &Context) -> Result<Outcome, Failure> {
    let first = Named::parse(args.first.as_deref())?;
    let second = second_of(args)?;
    let location = context.location()?;
    let mut patterns = patterns(&args.exclude_file, &args.exclude, &args.iexclude)?;
    let place = match &args.disk {
        Some(Some(place)) => Some(context.surroundings.absolute(place)?),
        _ => None,
    };
    let subtree = first.path.clone().unwrap_or_else(TreePath::root);
    let place_real = place.as_deref().and_then(real_path);
    let moved = place_real.as_deref().map(|from| (to_path(&subtree), from));
    if second.is_none() {
        patterns.extend(own_folders(context, &location, moved));
    }
    let options = DiffOptions {
        subtree,
        metadata: args.metadata,
        content: args.content,
        exclude: ExcludeFilter::new(&patterns)?,
        memory_budget: MEMORY_BUDGET / 4,
    };
    let repository = context.open_to_read(&args.mirrors)?;
    let stdout_is_terminal = context.surroundings.stdout_is_terminal();
    // Lines and a bar on one terminal would be in each other's way.
    let has_lines = stdout_is_terminal && !args.summary;
    let monitor = if has_lines { context.monitor().without_bar() } else { context.monitor() };
    let choose = |number: usize, named: &Named| {
        let choice = ChoiceArgs { at: args.at.get(number).cloned(), filter: args.filter.clone() };
        choice.choose(context, &repository, named, &monitor)
    };
    let before = choose(0, &first)?;
    let after = second.as_ref().map(|second| choose(1, second)).transpose()?;
    let mut tell = |change: &Change<'_>| -> io::Result<()> {
        if args.summary {
            return Ok(());
        }
        if context.output.is_json() {
            Ok(context.output.json(&change_json(change))?)
        } else {
            context.output.line(&describe(context, change))
        }
    };
    let summary = match (&after, &second) {
        (Some((_, snapshot)), Some(named)) => {
            let path = named.path.clone().unwrap_or_else(|| options.subtree.clone());
            let other = Other::Snapshot(snapshot, path);
            diff(&repository, &before.1, other, &options, &mut tell, &monitor)?
        }
        _ => {
            let mut files = disk(context, &before, place, &options)?;
            let source = files.as_mut().map(|files| files as &mut dyn Source);
            let other = Other::Source(source);
            diff(&repository, &before.1, other, &options, &mut tell, &monitor)?
        }
    };
    repository.note_passed_over(&monitor);
    monitor.finish();
    if context.output.is_json() {
        let after = after.as_ref();
        context.output.json(&summary_json(&before, after, &summary, monitor.problems()))?;
    } else {
        tell_summary(context, args, after.is_some(), &summary)?;
    }
    Ok(if monitor.problems() == 0 { Outcome::Done } else { Outcome::Incomplete })
}

/// The second snapshot; `None`: the disk.
fn second_of(args: &DiffArgs) -> Result<Option<Named>, Failure> {
    let second = match &args.second {
        Some(second) if second.as_bytes().starts_with(b"/") => {
            let path = second.to_string_lossy();
            return Err(Failure::usage(format!(
                "{path} could be on the disk, or in the newest snapshot"
            ))
            .hint(format!("write --disk={path} or latest:{path}")));
        }
        Some(second) => Some(Named::parse(Some(second))?),
        None if args.at.len() > 1 && args.disk.is_none() => Some(Named::parse(None)?),
        None => None,
    };
    if args.at.len() > 1 + usize::from(second.is_some()) {
        return Err(Failure::usage("there are more --at than snapshots to choose"));
    }
    Ok(second)
}

/// The walk over what was saved, as it is now; `None`: it is all gone.
fn disk(
    context: &Context,
    (_, snapshot): &NamedSnapshot,
    place: Option<PathBuf>,
    options: &DiffOptions,
) -> Result<Option<Files>, Failure> {
    let mut files = FilesOptions { exclude: options.exclude.clone(), ..FilesOptions::default() };
    if let Some(place) = place {
        files.as_path = Some(options.subtree.clone());
        return Ok(Some(Files::new(&[place], files)?));
    }
    if snapshot.host != context.surroundings.host {
        let (host, here) = (&snapshot.host, &context.surroundings.host);
        context.output.remark(&format!("the snapshot was taken on {host}; the disk is {here}'s"));
    }
    let sources: Result<Vec<_>, _> = snapshot.paths.iter().map(TreePath::parse).collect();
    let mut sources = sources?;
    if sources.iter().any(|source| options.subtree.starts_with(source)) {
        sources = vec![options.subtree.clone()];
    } else {
        sources.retain(|source| source.starts_with(&options.subtree));
    }
    let mut paths: Vec<_> = sources.iter().map(|source| to_path(source).to_path_buf()).collect();
    // What is gone is a difference and no problem.
    paths.retain(|path| {
        !path.symlink_metadata().is_err_and(|error| {
            matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
        })
    });
    if paths.is_empty() {
        return Ok(None);
    }
    Ok(Some(Files::new(&paths, files)?))
}

fn to_path(path: &TreePath) -> &Path {
    Path::new(OsStr::from_bytes(path.as_bytes()))
}

/// `M  /home/me/a.txt  +1.2 KiB`.
fn describe(context: &Context, change: &Change<'_>) -> String {
    let style = context.output.style();
    let modifier = format!("{:<2}", change.modifier());
    let modifier = match change.modifier() {
        "+" => style.green(&modifier),
        "-" | "M?" => style.red(&modifier),
        _ => style.yellow(&modifier),
    };
    let is_directory = change.after.or(change.before).is_some_and(|it| it.node.is_directory());
    let slash = if is_directory { "/" } else { "" };
    let details = details(change);
    let gap = if details.is_empty() { "" } else { "  " };
    format!("{modifier} {}{slash}{gap}{}", change.path, style.dim(&details))
}

fn details(change: &Change<'_>) -> String {
    let size = |entry: &Entry| match entry.node {
        Node::File(_) => format_bytes(entry.size()),
        _ => String::new(),
    };
    match (change.before, change.after) {
        (Some(before), Some(after)) => match change.modifier() {
            "T" => format!("{} → {}", before.node.kind_name(), after.node.kind_name()),
            "U" => {
                let names: Vec<_> = change.difference.metadata.names().collect();
                names.join(", ")
            }
            _ if !matches!(after.node, Node::File(_)) => String::new(),
            _ => growth(before.size(), after.size()),
        },
        (Some(entry), None) | (None, Some(entry)) => size(entry),
        (None, None) => String::new(),
    }
}

/// `+1.2 KiB`, `-3 B`, or that the size is what it was.
fn growth(before: u64, after: u64) -> String {
    match after.checked_sub(before) {
        Some(0) => "same size".to_string(),
        Some(more) => format!("+{}", format_bytes(more)),
        None => format!("-{}", format_bytes(before - after)),
    }
}

fn change_json(change: &Change<'_>) -> Value {
    let mut object = Map::new();
    object.insert("message_type".to_string(), json!("change"));
    put_bytes(&mut object, "path", change.path.as_bytes());
    let mut put = |key: &str, value: Value| object.insert(key.to_string(), value);
    put("modifier", json!(change.modifier()));
    if let Some(entry) = change.after.or(change.before) {
        put("type", json!(entry.node.kind_name()));
    }
    let sizes = [(change.before, "size_before"), (change.after, "size_after")];
    for (entry, key) in sizes {
        if let Some(Entry { node: Node::File(file), .. }) = entry {
            put(key, json!(file.size));
        }
    }
    if let (Some(before), Some(_)) = (change.before, change.after) {
        if change.difference.kind {
            put("type_before", json!(before.node.kind_name()));
        }
        put("metadata", change.difference.metadata.names().collect());
    }
    Value::Object(object)
}

fn summary_json(
    (id, _): &NamedSnapshot,
    after: Option<&NamedSnapshot>,
    summary: &DiffSummary,
    problems: u64,
) -> Value {
    let counts = |counts: &EntryCounts| {
        json!({
            "files": counts.files,
            "dirs": counts.directories,
            "others": counts.others,
            "bytes": counts.bytes,
        })
    };
    json!({
        "message_type": "statistics",
        "source_snapshot": id.to_string(),
        "target_snapshot": after.map(|(id, _)| id.to_string()),
        "added": counts(&summary.added),
        "removed": counts(&summary.removed),
        "changed_files": summary.changed_files,
        "changed_bytes_before": summary.changed_bytes_before,
        "changed_bytes_after": summary.changed_bytes_after,
        "suspect_files": summary.suspect_files,
        "changed_others": summary.changed_others,
        "changed_types": summary.changed_kinds,
        "changed_metadata": summary.changed_metadata,
        "unchanged_files": summary.unchanged.map(|(files, _)| files),
        "unchanged_bytes": summary.unchanged.map(|(_, bytes)| bytes),
        "error_count": problems,
        "total_duration": summary.elapsed.as_secs_f64(),
    })
}

fn tell_summary(
    context: &Context,
    args: &DiffArgs,
    is_snapshot: bool,
    summary: &DiffSummary,
) -> Result<(), Failure> {
    let output = &context.output;
    // Asked for, it is what was asked for.
    let say = |text: String| match args.summary {
        true => output.line(&text),
        false => output.say(&text),
    };
    let of = |counts: &EntryCounts| {
        let mut parts = vec![count(counts.files, "file")];
        if counts.directories > 0 {
            parts.push(count(counts.directories, "folder"));
        }
        if counts.others > 0 {
            parts.push(format!("{} of other kinds", grouped(counts.others)));
        }
        format!("{}, {}", parts.join(", "), format_bytes(counts.bytes))
    };
    let there = if is_snapshot { "only in the second snapshot" } else { "only on the disk" };
    say(format!("{there:<28} {}", of(&summary.added)))?;
    say(format!("only in the first snapshot   {}", of(&summary.removed)))?;
    let mut changed = count(summary.changed_files, "file");
    if summary.changed_files > 0 {
        let growth = growth(summary.changed_bytes_before, summary.changed_bytes_after);
        changed = format!("{changed}, {growth}");
    }
    say(format!("changed                      {changed}"))?;
    if summary.suspect_files > 0 {
        let style = output.style();
        let suspect = count(summary.suspect_files, "file");
        say(style.red(&format!("changed under the same time  {suspect}")))?;
    }
    let others = [
        (summary.changed_others, "changed links and devices"),
        (summary.changed_kinds, "another kind of thing"),
        (summary.changed_metadata, "other metadata only"),
    ];
    for (number, what) in others {
        if number > 0 {
            say(format!("{what:<28} {}", grouped(number)))?;
        }
    }
    if let Some((files, bytes)) = summary.unchanged {
        let files = count(files, "file");
        say(format!("the same in both             {files}, {}", format_bytes(bytes)))?;
    }
    Ok(())
}
