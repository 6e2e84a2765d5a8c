//! `aumbry backup`: files, folders, a stream into a snapshot.

use std::ffi::OsString;
use std::io;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::path::PathBuf;

use aumbry::ops::backup::BackupOptions;
use aumbry::ops::backup::BackupSummary;
use aumbry::ops::backup::ChangeDetection;
use aumbry::ops::backup::Deltas;
use aumbry::ops::backup::backup;
use aumbry::ops::select::SnapshotChoice;
use aumbry::ops::select::SnapshotFilter;
use aumbry::ops::select::choose;
use aumbry::repository::CreateOptions;
use aumbry::repository::Repository;
use aumbry::source::Source;
use aumbry::source::files::Files;
use aumbry::source::files::FilesOptions;
use aumbry::source::stream::Stream;
use aumbry::store::LocalMode;
use aumbry::tree::filter::ExcludeFilter;
use aumbry::tree::filter::Pattern;
use aumbry::tree::path::TreePath;
use aumbry::units::Timestamp;
use aumbry::units::bytes::format_bytes;
use aumbry::units::bytes::parse_bytes;
use aumbry::units::duration::format_duration;
use clap::Args;
use clap::ValueEnum;
use serde_json::Value;
use serde_json::json;

use crate::commands::init::birth_lines;
use crate::commands::snapshots::counts_json;
use crate::commands::snapshots::id_or_null;
use crate::commands::version::PROGRAM;
use crate::context::Context;
use crate::context::Location;
use crate::context::MEMORY_BUDGET;
use crate::environment::real_path;
use crate::failure::Failure;
use crate::failure::Outcome;
use crate::output::count;
use crate::output::grouped;
use crate::patterns;
use crate::progress::ProgressMonitor;
use crate::selection::Named;
use crate::selection::split_tags;

/// What is saved, and how.
#[derive(Args)]
pub struct BackupArgs {
    /// Files and folders to save
    #[arg(value_name = "PATH")]
    paths: Vec<PathBuf>,

    /// Leave out what matches: `*.tmp` at any depth, `/home/*/cache`, `folder/`, `!kept` (repeatable)
    #[arg(short, long, value_name = "PATTERN", help_heading = "What is left out")]
    exclude: Vec<String>,
    /// The same for upper and lower case alike (repeatable)
    #[arg(long, value_name = "PATTERN", help_heading = "What is left out")]
    iexclude: Vec<String>,
    /// Patterns from a file, one a line (repeatable)
    #[arg(long, value_name = "FILE", help_heading = "What is left out")]
    exclude_file: Vec<PathBuf>,
    /// Heed the rules in files of this name, such as .gitignore (repeatable)
    #[arg(long, value_name = "NAME", help_heading = "What is left out")]
    ignore_file: Vec<OsString>,
    /// Leave out what is in folders that a CACHEDIR.TAG marks as caches
    #[arg(long, help_heading = "What is left out")]
    exclude_caches: bool,
    /// Leave out what is in folders with this file (that begins with HEADER) (repeatable)
    #[arg(long, value_name = "FILE[:HEADER]", help_heading = "What is left out")]
    exclude_if_present: Vec<OsString>,
    /// Leave out files larger than this: 500M, 2GiB
    #[arg(long, value_name = "SIZE", help_heading = "What is left out")]
    exclude_larger_than: Option<String>,
    /// Stay on the file systems of the paths that are named
    #[arg(short = 'x', long, help_heading = "What is left out")]
    one_file_system: bool,

    /// Paths and patterns from a file, one a line; - is standard input (repeatable)
    #[arg(long, value_name = "FILE", help_heading = "Other sources")]
    files_from: Vec<PathBuf>,
    /// Paths from a file, one a line, each as it stands (repeatable)
    #[arg(long, value_name = "FILE", help_heading = "Other sources")]
    files_from_verbatim: Vec<PathBuf>,
    /// Paths from a file, each ended by a NUL byte (repeatable)
    #[arg(long, value_name = "FILE", help_heading = "Other sources")]
    files_from_raw: Vec<PathBuf>,
    /// Save what comes in from standard input as one file
    #[arg(long, help_heading = "Other sources")]
    stdin: bool,
    /// The path of that file in the snapshot
    #[arg(long, value_name = "PATH", default_value = "stdin", help_heading = "Other sources")]
    stdin_filename: OsString,
    /// Save what a command prints as one file; all that follows is the command
    #[arg(long, value_name = "COMMAND", num_args = 1.., allow_hyphen_values = true)]
    #[arg(conflicts_with = "stdin", help_heading = "Other sources")]
    stdin_from_command: Option<Vec<OsString>>,
    /// Save the only path as if it stood there: for mounted snapshots of a file system
    #[arg(long, value_name = "PATH", help_heading = "Other sources")]
    as_path: Option<OsString>,

    /// What this is called, whatever its paths are: retention groups by it, as by the host
    #[arg(long, value_name = "NAME", help_heading = "What is recorded")]
    name: Option<String>,
    /// Tags, divided by commas (repeatable)
    #[arg(long, value_name = "TAGS", help_heading = "What is recorded")]
    tag: Vec<String>,
    /// The host's name [default: this machine's]
    #[arg(short = 'H', long, value_name = "HOST", help_heading = "What is recorded")]
    host: Option<String>,
    /// The snapshot's time [default: now]
    #[arg(long, value_name = "MOMENT", help_heading = "What is recorded")]
    time: Option<String>,

    /// Tell what would be stored, store nothing
    #[arg(short = 'n', long, help_heading = "How it is done")]
    dry_run: bool,
    /// Make no snapshot when nothing has changed since the last one
    #[arg(long, help_heading = "How it is done")]
    skip_if_unchanged: bool,
    /// Take unchanged files from this snapshot [default: the newest of this host and name, else of
    /// these paths]
    #[arg(long, value_name = "SNAP", help_heading = "How it is done")]
    parent: Option<OsString>,
    /// The same from the one that would be the default, had there been none after this moment
    #[arg(long, value_name = "MOMENT", conflicts_with = "parent", help_heading = "How it is done")]
    parent_at: Option<String>,
    /// Store what is new in a changed file against its last version, which is smaller and has to be
    /// read for it; `auto`: where the repository is on a disk
    #[arg(long, value_name = "WHEN", default_value = "auto", help_heading = "How it is done")]
    delta: DeltaChoice,
    /// Read every file, changed or not
    #[arg(short, long, help_heading = "How it is done")]
    force: bool,
    /// Do not compare change times, for file systems that do not keep them
    #[arg(long, help_heading = "How it is done")]
    ignore_ctime: bool,
    /// Do not compare inode numbers, for file systems that make them up
    #[arg(long, help_heading = "How it is done")]
    ignore_inode: bool,
}

/// When deltas are made.
#[derive(Clone, Copy, ValueEnum)]
enum DeltaChoice {
    Auto,
    Always,
    Never,
}

impl From<DeltaChoice> for Deltas {
    fn from(choice: DeltaChoice) -> Self {
        match choice {
            DeltaChoice::Auto => Deltas::Auto,
            DeltaChoice::Always => Deltas::Always,
            DeltaChoice::Never => Deltas::Never,
        }
    }
}

/// Saves it.
pub fn run(args: &BackupArgs, context: &Context) -> Result<Outcome, Failure> {
    let location = context.location()?;
    // Whatever is wrong with what was typed is told before anybody types a passphrase.
    let time = args.time.as_deref().map(|text| context.moment(text)).transpose()?;
    let parent_at = args.parent_at.as_deref().map(|text| context.moment(text)).transpose()?;
    let mut source = find_source(args, context, &location)?;
    let (repository, is_new) = open_or_create(args, context, &location)?;
    let monitor = context.monitor().with_status();
    let options = BackupOptions {
        parent: match parent_at {
            Some(moment) => {
                Some(find_parent_at(args, context, &repository, moment, source.paths(), &monitor)?)
            }
            None => find_parent(args, context, &repository, &monitor)?,
        },
        detection: ChangeDetection {
            ignore_ctime: args.ignore_ctime,
            ignore_inode: args.ignore_inode,
            force: args.force,
        },
        host: args.host.clone().unwrap_or_else(|| context.surroundings.host.clone()),
        user: context.surroundings.user.clone(),
        name: args.name.clone().unwrap_or_default(),
        tags: tags(args),
        time,
        zone_offset_seconds: zone_offset(context, time.unwrap_or_else(|| context.now())),
        deltas: args.delta.into(),
        dry_run: args.dry_run,
        skip_if_unchanged: args.skip_if_unchanged,
        program: PROGRAM.to_string(),
        memory_budget: MEMORY_BUDGET,
    };
    let summary = backup(&repository, source.as_mut(), &options, &monitor)?;
    monitor.finish();
    let problems = summary.counts.problems.max(monitor.problems());
    if context.output.is_json() {
        context.output.json(&summary_json(context, args, &summary, problems))?;
    } else {
        tell(context, args, &summary, problems)?;
        if is_new && !context.output.is_quiet() {
            tell_next_steps(context, &location, &repository)?;
        }
    }
    Ok(if problems == 0 { Outcome::Done } else { Outcome::Incomplete })
}

/// Only the repository that nobody named is made on the way; a name may be mistyped.
fn open_or_create(
    args: &BackupArgs,
    context: &Context,
    location: &Location,
) -> Result<(Repository, bool), Failure> {
    let is_missing = || match context.store(location, LocalMode::Open) {
        Err(failure) => failure.is_no_repository(),
        Ok(store) => Repository::identify(&store)
            .is_err_and(|error| error.kind == aumbry::repository::error::Kind::NotFound),
    };
    if !location.is_default || args.dry_run || !is_missing() {
        return Ok((context.open_to_write(location)?, false));
    }
    if context.surroundings.can_ask() {
        let place = location.shown();
        context.output.remark(&format!("There is no repository yet; making one in {place}."));
    }
    Ok((context.create(location, &CreateOptions::default())?, true))
}

fn find_source(
    args: &BackupArgs,
    context: &Context,
    location: &Location,
) -> Result<Box<dyn Source>, Failure> {
    let filename = || TreePath::parse(args.stdin_filename.as_bytes());
    let lists = [&args.files_from, &args.files_from_verbatim, &args.files_from_raw];
    let names_paths = !args.paths.is_empty() || lists.iter().any(|list| !list.is_empty());
    let is_stream = args.stdin || args.stdin_from_command.is_some();
    if is_stream && (names_paths || args.as_path.is_some()) {
        return Err(Failure::usage(
            "--stdin and --stdin-from-command save one stream, and no paths beside it; \
             --stdin-filename names it",
        ));
    }
    if let Some(command) = &args.stdin_from_command {
        // restic writes `--` before the command; it is no part of it.
        let command = command.strip_prefix(&[OsString::from("--")][..]).unwrap_or(command);
        return Ok(Box::new(Stream::command(filename()?, command, context.now())?));
    }
    if args.stdin {
        return Ok(Box::new(Stream::stdin(filename()?, Box::new(io::stdin()), context.now())?));
    }
    let mut paths = args.paths.clone();
    for file in &args.files_from {
        paths.extend(patterns::paths_from(file)?);
    }
    for file in &args.files_from_verbatim {
        paths.extend(patterns::paths_from_verbatim(file, b'\n')?);
    }
    for file in &args.files_from_raw {
        paths.extend(patterns::paths_from_verbatim(file, 0)?);
    }
    if paths.is_empty() {
        return Err(Failure::usage("say what to save: aumbry backup PATH…"));
    }
    let paths = paths
        .into_iter()
        .map(|path| context.surroundings.absolute(path))
        .collect::<Result<Vec<_>, _>>()?;
    Ok(Box::new(Files::new(&paths, files_options(args, &paths, context, location)?)?))
}

fn files_options(
    args: &BackupArgs,
    paths: &[PathBuf],
    context: &Context,
    location: &Location,
) -> Result<FilesOptions, Failure> {
    let mut patterns = patterns::patterns(&args.exclude_file, &args.exclude, &args.iexclude)?;
    // Patterns are matched against paths in the snapshot, so below `--as-path` when that is given.
    let moved = args.as_path.as_deref().zip(paths.first().and_then(|path| real_path(path)));
    let moved = moved.as_ref().map(|(to, from)| (Path::new(*to), from.as_path()));
    patterns.extend(own_folders(context, location, moved));
    let to_bytes = |name: &OsString| name.as_bytes().to_vec();
    let marker = |text: &OsString| {
        let bytes = text.as_bytes();
        match bytes.iter().position(|byte| *byte == b':') {
            Some(at) => (bytes[..at].to_vec(), Some(bytes[at + 1..].to_vec())),
            None => (bytes.to_vec(), None),
        }
    };
    Ok(FilesOptions {
        exclude: ExcludeFilter::new(&patterns)?,
        exclude_caches: args.exclude_caches,
        exclude_if_present: args.exclude_if_present.iter().map(marker).collect(),
        ignore_files: args.ignore_file.iter().map(to_bytes).collect(),
        exclude_larger_than: args.exclude_larger_than.as_deref().map(parse_bytes).transpose()?,
        one_file_system: args.one_file_system,
        as_path: args.as_path.as_ref().map(|path| TreePath::parse(path.as_bytes())).transpose()?,
    })
}

/// The repository and the cache are never saved into the repository: they would change while they are
/// read, and grow with every backup of a home folder. What is inside them is left out, not they
/// themselves, so that naming them is no surprise.
pub fn own_folders(
    context: &Context,
    location: &Location,
    moved: Option<(&Path, &Path)>,
) -> Vec<Pattern> {
    let below = |folder: &Path| {
        let mut real = real_path(folder)?;
        if let Some((to, from)) = moved {
            real = to.join(real.strip_prefix(from).ok()?);
        }
        patterns::exactly(&real.join("x")).map(|pattern| {
            let text = pattern.text.strip_suffix('x').unwrap_or(&pattern.text);
            Pattern::new(format!("{text}*"))
        })
    };
    let cache = context.cache_folder();
    location.folders().chain(cache.as_deref()).filter_map(below).collect()
}

fn find_parent(
    args: &BackupArgs,
    context: &Context,
    repository: &Repository,
    monitor: &ProgressMonitor,
) -> Result<Option<aumbry::id::SnapshotId>, Failure> {
    let Some(text) = &args.parent else { return Ok(None) };
    let named = Named::parse(Some(text))?;
    let Some(choice) = named.choice().filter(|_| named.path.is_none()) else {
        return Err(Failure::usage("--parent takes a whole snapshot: latest, or an id"));
    };
    let snapshots = context.snapshots(repository, monitor)?;
    Ok(Some(choose(&snapshots.all, choice, &SnapshotFilter::default())?.0))
}

/// The parent that a backup would have taken at that moment.
fn find_parent_at(
    args: &BackupArgs,
    context: &Context,
    repository: &Repository,
    moment: Timestamp,
    paths: Vec<Vec<u8>>,
    monitor: &ProgressMonitor,
) -> Result<aumbry::id::SnapshotId, Failure> {
    let host = args.host.as_ref().unwrap_or(&context.surroundings.host);
    let of_host = SnapshotFilter { hosts: vec![host.clone()], ..SnapshotFilter::default() };
    let snapshots = context.snapshots(repository, monitor)?;
    let choice = SnapshotChoice::At(moment);
    if let Some(name) = &args.name {
        let filter = SnapshotFilter { names: vec![name.clone()], ..of_host.clone() };
        if let Ok((id, _)) = choose(&snapshots.all, &choice, &filter) {
            return Ok(*id);
        }
    }
    let filter = SnapshotFilter { paths, ..of_host };
    Ok(choose(&snapshots.all, &choice, &filter)?.0)
}

fn tags(args: &BackupArgs) -> Vec<String> {
    let mut tags: Vec<_> = args.tag.iter().flat_map(|tags| split_tags(tags)).collect();
    tags.sort();
    tags.dedup();
    tags
}

fn zone_offset(context: &Context, moment: Timestamp) -> i32 {
    jiff::Timestamp::from_second(moment.seconds)
        .map_or(0, |moment| context.surroundings.zone.to_offset(moment).seconds())
}

fn summary_json(
    context: &Context,
    args: &BackupArgs,
    summary: &BackupSummary,
    problems: u64,
) -> Value {
    let mut object = counts_json(&summary.counts);
    let mut put = |key: &str, value: Value| object.insert(key.to_string(), value);
    put("message_type", json!("summary"));
    put("error_count", json!(problems));
    put("snapshot_id", id_or_null(summary.snapshot));
    put("parent", id_or_null(summary.parent));
    put("backup_start", json!(context.rfc3339(summary.start)));
    put("backup_end", json!(context.rfc3339(summary.end)));
    put("total_duration", json!(summary.elapsed.as_secs_f64()));
    put("dry_run", json!(args.dry_run));
    put("skipped", json!(summary.skipped));
    // A registration, and what decides it.
    put("write_requests", json!(summary.objects_written + 2));
    Value::Object(object)
}

fn tell(
    context: &Context,
    args: &BackupArgs,
    summary: &BackupSummary,
    problems: u64,
) -> Result<(), Failure> {
    let output = &context.output;
    let style = output.style();
    let counts = &summary.counts;
    match summary.snapshot {
        Some(id) => output.say(&format!("snapshot {} is saved", style.bold(&id.short())))?,
        None if summary.skipped => {
            let parent = summary.parent.map_or("the last one".to_string(), |id| id.short());
            output.say(&format!("nothing has changed since snapshot {parent}: no new snapshot"))?;
        }
        None => output.say("dry run: nothing was stored")?,
    }
    output.say(&format!(
        "  files     {} new, {} changed, {} unchanged",
        grouped(counts.files_new),
        grouped(counts.files_changed),
        grouped(counts.files_unmodified)
    ))?;
    output.say(&format!(
        "  total     {} in {}, {}",
        format_bytes(counts.total_bytes_processed),
        format_duration(summary.elapsed),
        count(counts.total_files_processed, "file")
    ))?;
    let verb = if args.dry_run { "to store" } else { "stored" };
    let stored = match (counts.data_added, counts.data_added_packed) {
        (0, 0) => "nothing new".to_string(),
        (added, 0) => format!("{} of new content", format_bytes(added)),
        // Below a tenth, it says nothing.
        (added, packed) if packed.saturating_mul(11) < added.saturating_mul(10) => {
            let factor = added as f64 / packed as f64;
            let (packed, added) = (format_bytes(packed), format_bytes(added));
            format!("{packed} for {added} of new content, {factor:.1} times smaller")
        }
        (added, packed) => {
            format!("{} for {} of new content", format_bytes(packed), format_bytes(added))
        }
    };
    output.say(&format!("  {verb:<9} {stored}"))?;
    if args.dry_run {
        output
            .say(&format!("  requests  about {} to write", grouped(summary.objects_written + 2)))?;
    }
    if problems > 0 {
        output.say(&style.yellow(&format!("  problems  {}, told above", grouped(problems))))?;
    }
    Ok(())
}

fn tell_next_steps(
    context: &Context,
    location: &Location,
    repository: &Repository,
) -> Result<(), Failure> {
    let output = &context.output;
    output.say("")?;
    for line in birth_lines(context, location, repository) {
        output.say(&line)?;
    }
    output.say("To see what is saved, and to get it back:")?;
    output.say("  aumbry snapshots")?;
    output.say("  aumbry restore latest --target FOLDER")?;
    output.stream().flush()?;
    Ok(())
}
