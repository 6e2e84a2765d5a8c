//! `aumbry restore`: files come back.

use std::ffi::OsStr;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::path::PathBuf;

use aumbry::ops::restore::Overwrite;
use aumbry::ops::restore::RestoreOptions;
use aumbry::ops::restore::RestoreSummary;
use aumbry::ops::restore::restore;
use aumbry::repository::Repository;
use aumbry::repository::reader::BlobReader;
use aumbry::store::layout;
use aumbry::tree::filter::ExcludeFilter;
use aumbry::tree::filter::IncludeFilter;
use aumbry::tree::path::TreePath;
use aumbry::units::bytes::format_bytes;
use aumbry::units::duration::format_duration;
use aumbry::view::Found;
use aumbry::view::find_path;
use clap::Args;
use clap::ValueEnum;
use serde_json::Value;
use serde_json::json;

use crate::context::Context;
use crate::context::MEMORY_BUDGET;
use crate::environment::real_path;
use crate::failure::Failure;
use crate::failure::Outcome;
use crate::output::count;
use crate::output::printable;
use crate::patterns::patterns;
use crate::second::MirrorsArgs;
use crate::selection::ChoiceArgs;
use crate::selection::Named;
use crate::selection::NamedSnapshot;

/// What is restored, where to, and how.
#[derive(Args)]
pub struct RestoreArgs {
    /// The snapshot, or a part of it: latest, latest~2:/home/me, 4f2a, /home/me [default: latest]
    #[arg(value_name = "SNAP[:PATH]")]
    what: Option<OsString>,
    /// The folder to restore into, if not given by --target
    #[arg(value_name = "DIR", conflicts_with_all = ["target", "in_place"])]
    destination: Option<PathBuf>,
    /// The folder to restore into; the contents of a folder PATH go there, or a file PATH by its name
    #[arg(short, long, value_name = "DIR", help_heading = "Where to")]
    target: Option<PathBuf>,
    /// Restore to where it was saved from
    #[arg(long, conflicts_with = "target", help_heading = "Where to")]
    in_place: bool,

    #[command(flatten)]
    choice: ChoiceArgs,

    /// Only what matches, by its path in the snapshot (repeatable)
    #[arg(short, long, value_name = "PATTERN", help_heading = "What is restored")]
    include: Vec<String>,
    /// The same for upper and lower case alike (repeatable)
    #[arg(long, value_name = "PATTERN", help_heading = "What is restored")]
    iinclude: Vec<String>,
    /// Not what matches (repeatable)
    #[arg(short, long, value_name = "PATTERN", help_heading = "What is restored")]
    exclude: Vec<String>,
    /// The same for upper and lower case alike (repeatable)
    #[arg(long, value_name = "PATTERN", help_heading = "What is restored")]
    iexclude: Vec<String>,

    /// What happens to files that are there already
    #[arg(long, value_enum, default_value = "always", help_heading = "How it is done")]
    overwrite: OverwriteArg,
    /// Remove what the snapshot does not have
    #[arg(long, help_heading = "How it is done")]
    delete: bool,
    /// Tell what would be done, do nothing
    #[arg(short = 'n', long, help_heading = "How it is done")]
    dry_run: bool,
    /// Read everything again and compare
    #[arg(long, conflicts_with = "dry_run", help_heading = "How it is done")]
    verify: bool,
    /// Write runs of zeros as holes
    #[arg(long, help_heading = "How it is done")]
    sparse: bool,
    #[command(flatten)]
    mirrors: MirrorsArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum OverwriteArg {
    /// Make them as they are in the snapshot
    Always,
    /// Only if size or time differ
    IfChanged,
    /// Only if the snapshot's is newer
    IfNewer,
    /// Leave them
    Never,
}

impl From<OverwriteArg> for Overwrite {
    fn from(overwrite: OverwriteArg) -> Self {
        match overwrite {
            OverwriteArg::Always => Overwrite::Always,
            OverwriteArg::IfChanged => Overwrite::IfChanged,
            OverwriteArg::IfNewer => Overwrite::IfNewer,
            OverwriteArg::Never => Overwrite::Never,
        }
    }
}

/// Restores it.
pub fn run(args: &RestoreArgs, context: &Context) -> Result<Outcome, Failure> {
    let named = Named::parse(args.what.as_deref())?;
    let options = RestoreOptions {
        subtree: named.path.clone().unwrap_or_else(TreePath::root),
        include: IncludeFilter::new(&patterns(&[], &args.include, &args.iinclude)?)?,
        exclude: ExcludeFilter::new(&patterns(&[], &args.exclude, &args.iexclude)?)?,
        overwrite: args.overwrite.into(),
        delete: args.delete,
        dry_run: args.dry_run,
        sparse: args.sparse,
        verify: args.verify,
        memory_budget: MEMORY_BUDGET,
    };
    let target = match args.target.as_ref().or(args.destination.as_ref()) {
        Some(target) => Some(context.surroundings.absolute(target)?),
        None if args.in_place => None,
        None => {
            return Err(Failure::usage("say where to restore to")
                .hint("--target DIR, or --in-place for where it was saved from"));
        }
    };
    let repository = context.open_to_read(&args.mirrors)?;
    let monitor = context.monitor().with_status();
    let chosen = args.choice.choose(context, &repository, &named, &monitor)?;
    let target = match target {
        Some(target) => target,
        None => {
            repository.refresh_index(&monitor)?;
            original_place(&repository, &chosen, &options.subtree)?
        }
    };
    if options.delete && target == Path::new("/") && options.include.is_empty() {
        return Err(Failure::usage(
            "--delete would remove everything that the snapshot does not have",
        )
        .hint("name the folder to make as it was, SNAP:/PATH with --in-place, or --include it"));
    }
    let location = context.location()?;
    if options.delete && location.folders().any(|path| contains(&target, path)) {
        return Err(Failure::usage(
            "the repository is in that folder, and --delete would remove it",
        )
        .hint("name a folder beside the repository, SNAP:/PATH"));
    }
    let summary = restore(&repository, &chosen, &target, &options, &monitor)?;
    monitor.finish();
    if context.output.is_json() {
        let is_tiered = repository.store().is_tiered();
        context.output.json(&summary_json(args, &chosen, &target, &summary, is_tiered))?;
    } else {
        tell(context, args, &target, &summary)?;
    }
    let failed = summary.entries_failed + summary.metadata_failed + monitor.problems();
    Ok(if failed == 0 { Outcome::Done } else { Outcome::Incomplete })
}

/// Whether `inner` is in the folder `outer`, or is it. What cannot be found out is taken for a yes.
fn contains(outer: &Path, inner: &Path) -> bool {
    match (real_path(outer), real_path(inner)) {
        (Some(outer), Some(inner)) => inner.starts_with(outer),
        _ => true,
    }
}

/// Where the part of a snapshot was saved from: a folder's contents go into that folder, all else into the
/// folder it was in.
fn original_place(
    repository: &Repository,
    (id, snapshot): &NamedSnapshot,
    subtree: &TreePath,
) -> Result<PathBuf, Failure> {
    let reader = BlobReader::new(repository, 8 << 20);
    let folder = match find_path(&reader, snapshot, subtree)? {
        None => {
            return Err(Failure::failed(format!("snapshot {} has no {subtree}", id.short())));
        }
        Some(Found::Entry(entry)) if !entry.node.is_directory() => subtree.parent(),
        Some(_) => Some(subtree.clone()),
    };
    let folder = folder.unwrap_or_else(TreePath::root);
    Ok(PathBuf::from(OsStr::from_bytes(folder.as_bytes())))
}

fn summary_json(
    args: &RestoreArgs,
    (id, _): &NamedSnapshot,
    target: &Path,
    summary: &RestoreSummary,
    is_tiered: bool,
) -> Value {
    // In a repository that is in one store there is nothing to be thawed.
    let cold: Option<Vec<String>> = (is_tiered && (args.dry_run || !summary.cold_packs.is_empty()))
        .then(|| summary.cold_packs.iter().map(|pack| layout::pack(*pack)).collect());
    let mut value = json!({
        "message_type": "summary",
        "snapshot_id": id.to_string(),
        "target": String::from_utf8_lossy(target.as_os_str().as_bytes()),
        "seconds_elapsed": summary.elapsed.as_secs(),
        "total_duration": summary.elapsed.as_secs_f64(),
        "total_entries": summary.total_entries,
        "total_files": summary.total_files,
        "total_bytes": summary.total_bytes,
        "files_restored": summary.files_restored,
        "files_unchanged": summary.files_unchanged,
        "files_skipped": summary.files_skipped,
        "files_deleted": summary.files_deleted,
        "files_verified": summary.files_verified,
        "bytes_restored": summary.bytes_written,
        "bytes_unchanged": summary.bytes_unchanged,
        "error_count": summary.entries_failed,
        "metadata_error_count": summary.metadata_failed,
        "objects_read_elsewhere": summary.read_elsewhere,
        "dry_run": args.dry_run,
    });
    if let Some(cold) = cold {
        value["cold_packs"] = json!(cold);
    }
    value
}

fn tell(
    context: &Context,
    args: &RestoreArgs,
    target: &Path,
    summary: &RestoreSummary,
) -> Result<(), Failure> {
    let output = &context.output;
    let style = output.style();
    let place = printable(target.as_os_str().as_bytes());
    output.say(&format!(
        "{} {}, {}, into {place} in {}",
        if args.dry_run { "dry run: would restore" } else { "restored" },
        count(summary.files_restored, "file"),
        format_bytes(summary.bytes_written),
        format_duration(summary.elapsed)
    ))?;
    let also = |number: u64, thing: &str, what: &str| -> Result<(), Failure> {
        if number > 0 {
            output.say(&format!("  {} {what}", count(number, thing)))?;
        }
        Ok(())
    };
    also(summary.files_unchanged, "file", "were already as wanted")?;
    also(summary.files_skipped, "file", "left as found")?;
    also(
        summary.files_deleted,
        "entry",
        if args.dry_run { "would be removed" } else { "removed" },
    )?;
    also(summary.files_verified, "file", "read again and found right")?;
    also(
        summary.cold_packs.len() as u64,
        "pack",
        if args.dry_run {
            "of the cold store would be read"
        } else {
            "of the cold store were thawed"
        },
    )?;
    if args.dry_run && context.global.verbose > 0 {
        for pack in &summary.cold_packs {
            output.say(&format!("    {}", layout::pack(*pack)))?;
        }
    }
    also(summary.read_elsewhere, "object", "read from another store, see above")?;
    if summary.entries_failed > 0 {
        let failed = count(summary.entries_failed, "entry");
        output.say(&style.yellow(&format!("  {failed} could not be restored, see above")))?;
    }
    if summary.metadata_failed > 0 {
        let failed = count(summary.metadata_failed, "attribute");
        output.say(&style.yellow(&format!("  {failed} could not be set, see above")))?;
    }
    Ok(())
}
