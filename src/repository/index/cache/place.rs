//! Where the files of runs go, and when they leave.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// Where the files of runs go.
pub enum Place {
    /// Into this folder, which is this cache's own.
    Folder(PathBuf),
    /// Into this folder, which is another cache's: without a name, so that they end with the process.
    Unnamed(PathBuf),
    /// Into memory.
    Memory,
}

/// Makes the names of files that lose them at once differ within this process.
static UNNAMED: AtomicU32 = AtomicU32::new(0);

impl Place {
    pub fn path(folder: &Path, number: u32) -> PathBuf {
        folder.join(format!("{number:08x}"))
    }

    /// An empty file for the run with this number; `None`: it goes into memory.
    pub fn create(&self, number: u32) -> io::Result<Option<File>> {
        let (path, named) = match self {
            Place::Memory => return Ok(None),
            Place::Folder(folder) => (Self::path(folder, number), true),
            Place::Unnamed(folder) => {
                let count = UNNAMED.fetch_add(1, Ordering::Relaxed);
                (folder.join(format!("{}-{count}.unnamed", std::process::id())), false)
            }
        };
        // What has this name was never listed, or is no longer.
        remove(&path)?;
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
        if !named {
            remove(&path)?;
        }
        Ok(Some(file))
    }

    /// Makes the names of new files durable.
    pub fn sync(&self) -> io::Result<()> {
        match self {
            Place::Folder(folder) => File::open(folder)?.sync_all(),
            Place::Unnamed(_) | Place::Memory => Ok(()),
        }
    }

    /// Removes every file that is none of these runs: what was merged, and what a writer that was stopped
    /// could not list or remove. What cannot be removed costs space until the next time.
    pub fn keep_only(&self, runs: &BTreeSet<u32>) {
        let Place::Folder(folder) = self else { return };
        let kept: BTreeSet<PathBuf> = runs.iter().map(|run| Self::path(folder, *run)).collect();
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if !kept.contains(&path) {
                let _ = remove(&path);
            }
        }
    }
}

/// Removes a file that may not be there.
pub fn remove(path: &Path) -> io::Result<()> {
    fs::remove_file(path).or_else(|error| match error.kind() {
        io::ErrorKind::NotFound => Ok(()),
        _ => Err(error),
    })
}
