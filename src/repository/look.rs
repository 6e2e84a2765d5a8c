//! What a writer looks at between registering and counting on anything: what collectors published, which keys and which
//! index objects there are, and which packs are recorded as damaged. All of it after it registered, in whatever order: a
//! generation that begins later waits for it (`docs/design/collection.md`).

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::Repository;
use super::error::Result;
use super::generations::{Asked, Generations};
use crate::id::{IndexId, PackId};
use crate::store::{ObjectInfo, layout};

/// What a writer saw.
pub struct Look {
    /// What collectors had published.
    pub generations: Generations,
    /// What is in `keys/`.
    pub(super) keys: Vec<ObjectInfo>,
    /// What is in `index/`.
    pub(super) indexes: ListedIndexes,
    /// The packs that are recorded as damaged.
    pub(super) damaged: HashSet<PackId>,
}

/// A listing of `index/`.
pub(super) struct ListedIndexes {
    /// What was in the cache before. What another thread adds meanwhile is then not taken for gone.
    pub known: BTreeSet<IndexId>,
    /// What is in the store, with its length in bytes.
    pub listed: BTreeMap<IndexId, u64>,
}

impl ListedIndexes {
    pub fn new(known: BTreeSet<IndexId>, objects: &[ObjectInfo]) -> Self {
        let listed = objects
            .iter()
            .filter_map(|object| Some((layout::parse_index(&object.name)?, object.size)))
            .collect();
        ListedIndexes { known, listed }
    }
}

impl Repository {
    /// Looks at all of it: in one listing where the store can do that.
    pub(super) fn look(&self) -> Result<Look> {
        let known = self.cache.indexes()?;
        let folders = [layout::DAMAGED, layout::GC, layout::INDEX, layout::KEYS];
        let list = || self.store.list_folders_at_once(&folders, known.len());
        let (listed, next) = self.beside_next_generation(list)?;
        let indexes = ListedIndexes::new(known, &listed);
        let names = listed.iter().map(|object| &object.name);
        let damaged = names.filter_map(|name| layout::parse_damaged(name)).collect();
        let is_of_keys = |object: &&ObjectInfo| object.name.starts_with(layout::KEYS);
        let keys = listed.iter().filter(is_of_keys).cloned().collect();
        let generations = self.generations_of(Asked { listed: Some(listed), next })?;
        Ok(Look { generations, keys, indexes, damaged })
    }
}
