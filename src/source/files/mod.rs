//! Files, directories and whatever else the file systems of this machine hold, as a source.

mod ahead;
mod attributes;
mod directory;
mod markers;
mod owners;
mod plan;
mod read;
mod walk;

#[cfg(test)]
mod tests;

use std::ffi::CString;
use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;

use rustix::fs::FileType;

use crate::monitor::Monitor;
use crate::source::Source;
use crate::source::SourceError;
use crate::source::Step;
use crate::tree::filter::ExcludeFilter;
use crate::tree::path::Printable;
use crate::tree::path::TreePath;

use self::ahead::Ahead;
use self::directory::OpenDirectories;
use self::directory::open_path;
use self::markers::CACHE_SIGNATURE;
use self::markers::CACHE_TAG;
use self::markers::IgnoreRules;
use self::markers::Marker;
use self::owners::Owners;
use self::plan::NamedSource;
use self::plan::Plan;
use self::read::kind_of;
use self::read::stat_entry;
use self::walk::Frame;

/// What of the named sources is saved, and where in the snapshot it appears.
#[derive(Debug, Clone, Default)]
pub struct FilesOptions {
    /// Paths that are left out. They are paths of the snapshot: below `as_path`, if that is set. A
    /// named source that the filter excludes is left out, too, and noted; the directories above a source
    /// are not asked about, so a source inside an excluded directory is saved.
    pub exclude: ExcludeFilter,
    /// Of a directory with a `CACHEDIR.TAG` that has the right signature, keep only that file.
    pub exclude_caches: bool,
    /// Of a directory with a file of this name (that begins with these bytes), keep only that file.
    pub exclude_if_present: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    /// Names of files that hold rules in the manner of `.gitignore` for what is below their directory,
    /// from the sources down. Of several in one directory, a later name is stronger.
    pub ignore_files: Vec<Vec<u8>>,
    /// Leave regular files out that are larger than this, in bytes.
    pub exclude_larger_than: Option<u64>,
    /// Keep directories on which another file system is mounted, but not what is in them; sources that
    /// were named themselves are saved.
    pub one_file_system: bool,
    /// The path of the snapshot at which the only source appears.
    pub as_path: Option<TreePath>,
}

/// A walk over files. Each named path is found at the same path of the snapshot, below the real
/// directories that lead to it, which hold nothing else. Links are never followed, but for the
/// directories above a named path, and for a named path that ends in `/`.
///
/// Entries are asked about one at a time, when they are told; of a directory only the names are held.
/// At most 200 directories are open at once, whatever the depth of the tree and however many
/// [`Readable`](crate::source::Readable)s wait. Where a disk makes the walk wait, a few threads look ahead of it, and
/// of those who read its files.
pub struct Files {
    options: FilesOptions,
    markers: Vec<Marker>,
    ignore_names: Vec<CString>,
    paths: Vec<Vec<u8>>,
    missing: Vec<NamedSource>,
    plan: Plan,
    /// With `as_path`: where the source really is.
    origin: Option<Origin>,
    owners: Arc<Owners>,
    open: OpenDirectories,
    frames: Vec<Frame>,
    ignore_rules: Vec<IgnoreRules>,
    /// The path in the snapshot of what is being looked at; empty for the root.
    path: Vec<u8>,
    has_started: bool,
    ahead: Ahead,
}

/// The directory and the name in it of a source that appears elsewhere in the snapshot.
struct Origin {
    parent: Vec<u8>,
    name: CString,
}

impl Files {
    /// Plans the walk over these paths, which must be absolute. Fails if none of them exists; if only
    /// some are missing, the walk reports those.
    pub fn new(paths: &[PathBuf], options: FilesOptions) -> Result<Self, SourceError> {
        let named: Vec<_> =
            paths.iter().map(|path| NamedSource::resolve(path)).collect::<Result<_, _>>()?;
        let (present, mut missing): (Vec<_>, Vec<_>) =
            named.into_iter().partition(|source| source.failure.is_none());
        if present.is_empty() {
            return Err(match missing.pop() {
                Some(source) => source.into_error(),
                None => SourceError::Invalid("there is nothing to back up".to_string()),
            });
        }
        let mut plan = Plan::new();
        let mut origin = None;
        let mut paths: Vec<_> =
            present.iter().chain(&missing).map(|source| source.path.clone()).collect();
        match &options.as_path {
            None => {
                for source in &present {
                    plan.add(
                        source.path.split(|byte| *byte == b'/').filter(|part| !part.is_empty()),
                    );
                }
            }
            Some(as_path) => {
                if paths.len() != 1 {
                    let message = "only one source can appear at another path".to_string();
                    return Err(SourceError::Invalid(message));
                }
                plan.add(as_path.components());
                origin = Some(Origin::of(&present[0].path, as_path)?);
                paths = vec![as_path.as_bytes().to_vec()];
            }
        }
        paths.sort();
        paths.dedup();
        Ok(Files {
            markers: markers_of(&options)?,
            ignore_names: to_names(options.ignore_files.iter())?,
            options,
            paths,
            missing,
            plan,
            origin,
            owners: Arc::new(Owners::of_system()),
            open: OpenDirectories::default(),
            frames: Vec::new(),
            ignore_rules: Vec::new(),
            path: Vec::new(),
            has_started: false,
            ahead: Ahead::new(),
        })
    }
}

impl Source for Files {
    fn next(&mut self, monitor: &dyn Monitor) -> Result<Option<Step>, SourceError> {
        self.walk(monitor)
    }

    /// With `as_path`: that path, so that the snapshots of a file system that is mounted elsewhere every
    /// time belong together.
    fn paths(&self) -> Vec<Vec<u8>> {
        self.paths.clone()
    }

    fn restart(&mut self) -> bool {
        self.frames.clear();
        self.ignore_rules.clear();
        self.path.clear();
        self.has_started = false;
        true
    }
}

impl NamedSource {
    fn into_error(self) -> SourceError {
        let path = Printable(&self.path).to_string();
        match self.failure {
            Some(error) if !is_absence(&error) => SourceError::Io { item: path, error },
            _ => SourceError::NotFound { path },
        }
    }
}

impl Origin {
    fn of(path: &[u8], as_path: &TreePath) -> Result<Self, SourceError> {
        let fail = |error| SourceError::Io { item: Printable(path).to_string(), error };
        let end = path.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
        let name = if path.len() == 1 { &b"."[..] } else { &path[end + 1..] };
        let name = CString::new(name).map_err(|error| fail(error.into()))?;
        let parent = path[..end.max(1)].to_vec();
        if as_path.is_root() {
            let directory = open_path(&parent).map_err(fail)?;
            let stat = stat_entry(directory.as_fd(), &name).map_err(fail)?;
            if kind_of(&stat) != FileType::Directory {
                let path = Printable(path);
                return Err(SourceError::Invalid(format!("{path} is no directory to be the root")));
            }
        }
        Ok(Origin { parent, name })
    }
}

/// Whether an error says that something is not there.
fn is_absence(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn markers_of(options: &FilesOptions) -> Result<Vec<Marker>, SourceError> {
    let names = to_names(options.exclude_if_present.iter().map(|(name, _)| name))?;
    let headers = options.exclude_if_present.iter().map(|(_, header)| header.clone());
    let mut markers: Vec<_> = names
        .into_iter()
        .zip(headers)
        .map(|(name, header)| Marker { name, header: header.unwrap_or_default() })
        .collect();
    if options.exclude_caches {
        markers.push(Marker { name: CACHE_TAG.to_owned(), header: CACHE_SIGNATURE.to_vec() });
    }
    Ok(markers)
}

fn to_names<'a>(names: impl Iterator<Item = &'a Vec<u8>>) -> Result<Vec<CString>, SourceError> {
    let to_name = |name: &Vec<u8>| match CString::new(name.as_slice()) {
        Ok(text) if crate::tree::path::is_valid_name(name) => Ok(text),
        _ => {
            Err(SourceError::Invalid(format!("{:?} is no file name", Printable(name).to_string())))
        }
    };
    names.map(to_name).collect()
}
