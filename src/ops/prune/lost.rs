//! What snapshots need and no pack has.

use crate::id::BlobKey;
use crate::repository::error::{RepositoryError, Result};
use crate::repository::index::objects::NotAdopted;

/// What goes on standing in the way after a repair.
pub const IN_THE_WAY: &str = "damaged snapshots stay in the way until they are forgotten, with `aumbry \
                              repair snapshots --forget-originals` or `aumbry forget ID`";

/// Needed blobs that no pack has.
#[derive(Debug, Clone, Copy, Default)]
pub struct Lost {
    /// How many.
    pub blobs: u64,
    /// One of them.
    pub example: Option<BlobKey>,
}

impl Lost {
    /// Counts one more.
    pub fn add(&mut self, blob: BlobKey) {
        self.blobs += 1;
        self.example.get_or_insert(blob);
    }

    /// Counts these as well.
    pub fn add_all(&mut self, others: &Lost) {
        self.blobs += others.blobs;
        self.example = self.example.or(others.example);
    }

    /// Nothing is collected from a repository that lacks what it promises: whoever mends it may need what is condemned.
    pub fn require_none(&self, rest: &NotAdopted) -> Result<()> {
        let Some(example) = self.example else { return Ok(()) };
        let unread = match &rest.unread {
            Some(error) => format!(" It may be in a pack that could not be read: {error}."),
            None => String::new(),
        };
        Err(RepositoryError::corrupt(
            format!("blob {}", example.short()),
            format!(
                "is needed, and in no pack that the repository has ({} such blobs); nothing is \
                 collected.{unread} If the store's listings may be late, try again later. `aumbry check` names the \
                 files, `aumbry backup --force` of their source stores them again, `aumbry repair snapshots` makes \
                 snapshots without them; {IN_THE_WAY}",
                self.blobs
            ),
        ))
    }
}
