//! Check: whether the repository can give back what it promises.

use crate::monitor::Monitor;
use crate::ops::OpsError;
use crate::repository::Repository;

/// Which packs are read byte for byte.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum DataSelection {
    /// None: the structure only.
    None,
    /// All.
    All,
    /// About this share of the packs, 0 to 1, chosen at random.
    Share(f64),
    /// Packs of about this many bytes together, chosen at random.
    Bytes(u64),
    /// Part `part` (from 1) of `parts`: the same packs every time, all of them over all parts.
    Part {
        /// Which part, from 1.
        part: u32,
        /// Of how many.
        parts: u32,
    },
}

/// What to check.
#[derive(Debug, Clone)]
pub struct CheckOptions {
    /// Which packs are read.
    pub data: DataSelection,
    /// Bytes that everything together may use.
    pub memory_budget: u64,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The object or blob: `packs/…`, `index/…`, `blob 4f2a…`, `snapshots/…`.
    pub item: String,
    /// What is wrong with it.
    pub message: String,
    /// The files and directories it hits, as `snapshot:path`, at most [`CHECK_NAMED_FILES`] of them.
    pub hits: Vec<String>,
    /// How many it hits in all.
    pub hit_count: u64,
}

/// How many files are named for each damage.
pub const CHECK_NAMED_FILES: usize = 20;

/// What a check found.
#[derive(Debug, Clone, Default)]
pub struct CheckSummary {
    /// Snapshots followed.
    pub snapshots: u64,
    /// Packs that the index lists.
    pub packs: u64,
    /// Packs read byte for byte.
    pub packs_read: u64,
    /// Bytes read from the store for that.
    pub bytes_read: u64,
    /// Blobs that snapshots refer to, each counted once.
    pub blobs: u64,
    /// Packs that nothing refers to: left by interrupted backups, collected later. Not damage.
    pub unreferenced_packs: u64,
    /// What is wrong.
    pub damage: Vec<Damage>,
    /// Things worth telling that are not damage.
    pub notes: Vec<String>,
    /// How long it took.
    pub elapsed: std::time::Duration,
}

/// Checks the repository. Damage is in the summary; an error means that the check itself could not be done.
pub fn check(
    repository: &Repository,
    options: &CheckOptions,
    monitor: &dyn Monitor,
) -> Result<CheckSummary, OpsError> {
    let _ = (repository, options, monitor);
    Err(OpsError::Invalid("not built yet".into()))
}
