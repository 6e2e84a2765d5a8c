//! The backups of this machine that run, and those that ended early: each keeps a journal in the cache, whose name is its
//! session's, and which is locked as long as it runs. What the journals tell is `ops::backup`'s.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::Repository;
use super::error::Result;
use crate::id::SessionId;

/// The folder below the cache; in it is one for each set of sources, so that the backup of something else takes nothing
/// away.
const JOURNALS: &str = "journals";

/// Makes the journal of a session that runs. It has its name when it is locked, so that it never seems to be left.
pub fn create(folder: &Path, session: SessionId) -> io::Result<(PathBuf, File)> {
    fs::create_dir_all(folder)?;
    let (path, new) = (folder.join(session.to_string()), folder.join(format!("{session}.new")));
    let file = OpenOptions::new().append(true).create_new(true).mode(0o600).open(&new)?;
    flock(&file, FlockOperation::NonBlockingLockExclusive)?;
    fs::rename(&new, &path)?;
    Ok((path, file))
}

/// Opens and locks a journal whose run has ended; `None` while it runs.
pub fn open_left(path: &Path) -> Option<File> {
    let file = File::open(path).ok()?;
    flock(&file, FlockOperation::NonBlockingLockExclusive).ok()?;
    Some(file)
}

/// The session of a journal.
pub fn session_of(path: &Path) -> Option<SessionId> {
    path.file_name()?.to_str()?.parse().ok()
}

/// What a run that ended early has left.
pub struct Left {
    /// Its session, which will never decide anything itself.
    pub session: SessionId,
    path: PathBuf,
    _lock: File,
}

impl Left {
    /// Nothing of the run is wanted any more.
    pub fn remove(self) {
        let _ = fs::remove_file(self.path);
    }
}

/// The journals in this folder whose runs have ended, for who needs nothing of them but to know that they ran.
pub fn left(folder: &Path) -> Vec<Left> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let left = entries.map(|entry| entry.path()).filter_map(|path| {
        let (session, lock) = (session_of(&path)?, open_left(&path)?);
        Some(Left { session, path, _lock: lock })
    });
    left.collect()
}

impl Repository {
    /// The folder for journals of backups of these sources, if there is a cache.
    pub fn journal_folder(&self, sources: &[Vec<u8>]) -> Option<PathBuf> {
        // No path has a NUL, so different lists never join to the same bytes.
        let sources = blake3::hash(&sources.join(&0)).to_hex();
        Some(self.cache_folder()?.join(JOURNALS).join(&sources[..16]))
    }

    /// Ends the sessions of this machine's backups that were killed: they will never decide anything themselves, and
    /// collectors would wait for them. Their journals stay, for the next backup. Returns the sessions.
    pub fn abort_left_sessions(&self) -> Result<Vec<SessionId>> {
        let Some(folder) = self.cache_folder() else { return Ok(Vec::new()) };
        let entries_of = |folder: &Path| fs::read_dir(folder).into_iter().flatten().flatten();
        let sources = entries_of(&folder.join(JOURNALS)).map(|entry| entry.path());
        let journals = sources.flat_map(|sources| entries_of(&sources).map(|entry| entry.path()));
        // Not kept locked: its next backup may want to read it at any time. What has ended does not begin again.
        let has_ended = |path: &PathBuf| open_left(path).is_some();
        let left: HashSet<SessionId> =
            journals.filter(has_ended).filter_map(|path| session_of(&path)).collect();
        if left.is_empty() {
            return Ok(Vec::new());
        }
        let mut aborted = Vec::new();
        for session in self.undecided_sessions()? {
            if left.contains(&session) && self.abort_at_need(session)? {
                aborted.push(session);
            }
        }
        Ok(aborted)
    }
}
