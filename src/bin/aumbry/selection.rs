//! How one snapshot, and a path in it, are named: `latest~1:/home`, `4f2a:/etc`, `--at yesterday`.

use std::ffi::OsStr;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use aumbry::format::snapshot::Snapshot;
use aumbry::id::SnapshotId;
use aumbry::ops::OpsError;
use aumbry::ops::select::SnapshotChoice;
use aumbry::ops::select::SnapshotFilter;
use aumbry::ops::select::choose;
use aumbry::repository::Repository;
use aumbry::tree::path::TreePath;
use clap::Args;

use crate::context::Context;
use crate::failure::Failure;
use crate::output::printable;
use crate::progress::ProgressMonitor;

/// A snapshot with its name.
pub type NamedSnapshot = (SnapshotId, Snapshot);

/// Which snapshots come into question.
#[derive(Args, Clone, Default)]
#[command(next_help_heading = "Which snapshot")]
pub struct FilterArgs {
    /// Only snapshots of this host (repeatable)
    #[arg(short = 'H', long, value_name = "HOST")]
    pub host: Vec<String>,
    /// Only snapshots of sources with this name (repeatable)
    #[arg(long, value_name = "NAME")]
    pub name: Vec<String>,
    /// Only snapshots with all of these tags, divided by commas (repeatable: any of the lists)
    #[arg(long, value_name = "TAGS")]
    pub tag: Vec<String>,
    /// Only snapshots that were taken of this path (repeatable: of all of them)
    #[arg(long, value_name = "PATH")]
    pub path: Vec<PathBuf>,
}

impl FilterArgs {
    /// As the verbs want it.
    pub fn filter(&self, context: &Context) -> Result<SnapshotFilter, Failure> {
        let mut paths = Vec::new();
        for path in &self.path {
            let path = context.surroundings.absolute(path)?;
            paths.push(TreePath::parse(path.as_os_str().as_bytes())?.as_bytes().to_vec());
        }
        let tags = self.tag.iter().map(|tags| split_tags(tags)).collect();
        Ok(SnapshotFilter { hosts: self.host.clone(), names: self.name.clone(), tags, paths })
    }
}

/// Which snapshot is meant.
#[derive(Args, Default)]
#[command(next_help_heading = "Which snapshot")]
pub struct ChoiceArgs {
    /// The newest snapshot at or before this moment: 2026-11-01, "2026-11-01 14:30", 14:30,
    /// yesterday, monday, 3d, 2h
    #[arg(long, value_name = "MOMENT")]
    pub at: Option<String>,
    /// What the snapshot must be.
    #[command(flatten)]
    pub filter: FilterArgs,
}

/// A snapshot as it was named, and a path in it.
#[derive(Debug, PartialEq, Eq)]
pub struct Named {
    choice: Option<SnapshotChoice>,
    /// The path after the colon, or alone.
    pub path: Option<TreePath>,
}

impl Named {
    /// Reads `SNAP`, `SNAP:/path`, `:/path` or `/path`; no snapshot's name begins with a slash.
    pub fn parse(text: Option<&OsStr>) -> Result<Self, Failure> {
        let Some(text) = text else { return Ok(Named { choice: None, path: None }) };
        let bytes = text.as_bytes();
        if bytes.starts_with(b"/") {
            return Ok(Named { choice: None, path: Some(TreePath::parse(bytes)?) });
        }
        let (name, path) = match bytes.iter().position(|byte| *byte == b':') {
            Some(at) => (&bytes[..at], Some(TreePath::parse(&bytes[at + 1..])?)),
            None => (bytes, None),
        };
        let choice = if name.is_empty() && path.is_some() { None } else { Some(parse_name(name)?) };
        Ok(Named { choice, path })
    }

    /// Whether a snapshot was named, and not only a path.
    pub fn has_name(&self) -> bool {
        self.choice.is_some()
    }

    /// The snapshot, if one was named.
    pub fn choice(&self) -> Option<&SnapshotChoice> {
        self.choice.as_ref()
    }
}

/// Reads what names one whole snapshot: latest, latest~2, the beginning of an id.
pub fn parse_snapshot(text: &OsStr) -> Result<SnapshotChoice, Failure> {
    let named = Named::parse(Some(text))?;
    let whole = named.choice.filter(|_| named.path.is_none());
    whole.ok_or_else(|| {
        Failure::usage(format!("{:?} names no whole snapshot", printable(text.as_bytes())))
            .hint("write latest, latest~2 or the beginning of an id")
    })
}

fn parse_name(name: &[u8]) -> Result<SnapshotChoice, Failure> {
    if name == b"latest" {
        return Ok(SnapshotChoice::Latest(0));
    }
    let text = std::str::from_utf8(name).unwrap_or_default();
    if let Some(back) = text.strip_prefix("latest~").and_then(|back| back.parse().ok()) {
        return Ok(SnapshotChoice::Latest(back));
    }
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(SnapshotChoice::Prefix(text.to_ascii_lowercase()));
    }
    Err(Failure::usage(format!("{:?} names no snapshot", printable(name))).hint(
        "write latest, latest~2 or the beginning of an id, then :/PATH for a part of it; paths begin \
         with /",
    ))
}

/// Tags as they are typed: divided by commas.
pub fn split_tags(tags: &str) -> Vec<String> {
    tags.split(',').map(str::trim).filter(|tag| !tag.is_empty()).map(str::to_string).collect()
}

impl ChoiceArgs {
    /// The one snapshot that is meant; says which it is.
    pub fn choose(
        &self,
        context: &Context,
        repository: &Repository,
        named: &Named,
        monitor: &ProgressMonitor,
    ) -> Result<NamedSnapshot, Failure> {
        let choice = match (&named.choice, &self.at) {
            (None | Some(SnapshotChoice::Latest(0)), Some(at)) => {
                SnapshotChoice::At(context.moment(at)?)
            }
            (Some(_), Some(_)) => {
                return Err(Failure::usage("--at chooses a snapshot, and so does its id: use one"));
            }
            (Some(choice), None) => choice.clone(),
            (None, None) => SnapshotChoice::Latest(0),
        };
        let filter = self.filter.filter(context)?;
        let snapshots = context.snapshots(repository, monitor)?;
        let chosen = choose(&snapshots.all, &choice, &filter)
            .map_err(|error| explain(context, error, &snapshots.all, &choice, &filter))?;
        context.output.remark(&describe(context, chosen));
        Ok(chosen.clone())
    }
}

/// Why none was chosen, in the person's own zone, and what to do next.
pub fn explain(
    context: &Context,
    error: OpsError,
    snapshots: &[NamedSnapshot],
    choice: &SnapshotChoice,
    filter: &SnapshotFilter,
) -> Failure {
    if snapshots.is_empty() {
        return Failure::from(error).hint("`aumbry backup PATH` makes the first one");
    }
    let oldest = snapshots.iter().find(|(_, snapshot)| filter.matches(snapshot));
    let failure = match (choice, oldest) {
        (SnapshotChoice::At(moment), Some((id, snapshot))) => Failure::failed(format!(
            "there is no snapshot at or before {}; the oldest, {}, is of {}",
            context.local(*moment),
            id.short(),
            context.local(snapshot.time)
        )),
        _ => Failure::from(error),
    };
    if failure.message().contains("`aumbry ") {
        return failure;
    }
    failure.hint("`aumbry snapshots` lists them")
}

/// A snapshot in a few words.
pub fn describe(context: &Context, (id, snapshot): &NamedSnapshot) -> String {
    format!(
        "snapshot {} of {} on {}",
        context.output.error_style().bold(&id.short()),
        context.local(snapshot.time),
        printable(snapshot.host.as_bytes())
    )
}

/// Reads `SNAP PATH`, or one word that says both.
pub fn named_with_path(words: &[OsString]) -> Result<Named, Failure> {
    let mut named = Named::parse(words.first().map(OsString::as_os_str))?;
    if let Some(path) = words.get(1) {
        if named.path.is_some() {
            return Err(Failure::usage("a path was given twice"));
        }
        named.path = Some(TreePath::parse(path.as_bytes())?);
    }
    Ok(named)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Option<(Option<SnapshotChoice>, Option<String>)> {
        let named = Named::parse(Some(OsStr::new(text))).ok()?;
        Some((named.choice, named.path.map(|path| path.to_string())))
    }

    #[test]
    fn snapshots_and_paths_are_told_apart() {
        let latest = |back| Some(SnapshotChoice::Latest(back));
        let path = |text: &str| Some(text.to_string());
        assert_eq!(parse("latest"), Some((latest(0), None)));
        assert_eq!(parse("latest~2:home/"), Some((latest(2), path("/home"))));
        assert_eq!(parse("/home/a:b"), Some((None, path("/home/a:b"))));
        assert_eq!(parse(":/a"), Some((None, path("/a"))));
        let prefix = Some(SnapshotChoice::Prefix("4f2a".to_string()));
        assert_eq!(parse("4F2A:/a:b"), Some((prefix, path("/a:b"))));
        for text in ["", "lately", "latest~x", "./here", "latest:/a/../b"] {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }
}
