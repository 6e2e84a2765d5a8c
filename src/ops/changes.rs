//! References that come and go, counted on top of marks: which tree blobs come to be needed with them, and which come to
//! be needed no more.
//!
//! Memory: about 40 bytes for each tree blob that is met, and what `repository::marks` takes to sort references to data.

use std::collections::hash_map::Entry;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::{Mutex, MutexGuard};

use crate::id::{BlobId, BlobKey};
use crate::ops::references::{Added, BlobMap};
use crate::repository::Repository;
use crate::repository::marks::{Differs, Gathering, Mark, Marks, Roots, TREE, add};

/// Locks that tree blobs are spread over.
const SHARDS: usize = 64;

/// How often a tree blob was referred to before, and is now.
struct Count {
    before: i32,
    now: i32,
    tag: u32,
}

/// What changes. Shared by threads. References must come first and go then: in between, a blob that loses one and gains
/// one would seem to be gone, and what it refers to with it.
pub struct Changes<'c> {
    base: Option<&'c Marks>,
    trees: Vec<Mutex<BlobMap<Count>>>,
    data: Gathering<'c>,
    does_not_fit: AtomicBool,
}

impl<'c> Changes<'c> {
    /// No changes of these marks; without marks, of nothing.
    pub fn new(repository: &'c Repository, base: Option<&'c Marks>) -> Self {
        Changes {
            base,
            trees: (0..SHARDS).map(|_| Mutex::default()).collect(),
            data: Gathering::new(repository.marks(), &repository.environment().chance),
            does_not_fit: AtomicBool::new(false),
        }
    }

    /// Whether something did not fit the marks, or they could not be read: then everything is to be followed anew.
    pub fn do_not_fit(&self) -> bool {
        self.does_not_fit.load(Ordering::Relaxed)
    }

    /// Says that something does not fit the marks.
    pub fn give_up(&self) {
        self.does_not_fit.store(true, Ordering::Relaxed);
    }

    fn shard(&self, key: &BlobKey) -> MutexGuard<'_, BlobMap<Count>> {
        self.trees[usize::from(key.0[11]) % SHARDS].lock()
    }

    /// What counts before, as it is said to be now where nothing did.
    fn before(&self, key: &BlobKey, tag: u32) -> Option<Count> {
        let Some(base) = self.base else { return Some(Count { before: 0, now: 0, tag }) };
        match base.lookup(key, true) {
            Ok(None) => Some(Count { before: 0, now: 0, tag }),
            Ok(Some(mark)) if mark.tag == tag => {
                Some(Count { before: mark.count, now: mark.count, tag })
            }
            // Whichever of the two is right, the marks do not tell.
            Ok(Some(_)) | Err(_) => None,
        }
    }

    /// One more reference to a tree blob, with a tag below 2^31. New is what nothing referred to.
    pub fn add_tree(&self, id: &BlobId, tag: u32) -> Added {
        let (key, tag) = (BlobKey::new(id), tag | TREE);
        let mut shard = self.shard(&key);
        let count = match shard.entry(key) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(vacant) => match self.before(&key, tag) {
                Some(count) => vacant.insert(count),
                None => {
                    self.give_up();
                    return Added::Known;
                }
            },
        };
        if count.tag != tag {
            return Added::Differs(count.tag & !TREE);
        }
        count.now = add(count.now, 1);
        match count.now {
            1 => Added::New,
            _ => Added::Known,
        }
    }

    /// One reference less. Returns whether it was the last.
    pub fn remove_tree(&self, id: &BlobId, tag: u32) -> bool {
        let (key, tag) = (BlobKey::new(id), tag | TREE);
        let mut shard = self.shard(&key);
        let count = match shard.entry(key) {
            Entry::Occupied(known) => Some(known.into_mut()),
            Entry::Vacant(vacant) => self.before(&key, tag).map(|count| vacant.insert(count)),
        };
        match count {
            Some(count) if count.tag == tag && count.now > 0 => {
                count.now = add(count.now, -1);
                count.now == 0
            }
            _ => {
                self.give_up();
                false
            }
        }
    }

    /// One more reference to a data blob, with a tag below 2^31.
    pub fn add_data(&self, id: &BlobId, tag: u32) {
        self.data.add(Mark { key: BlobKey::new(id), tag, count: 1 });
    }

    /// One reference less.
    pub fn remove_data(&self, id: &BlobId, tag: u32) {
        self.data.add(Mark { key: BlobKey::new(id), tag, count: -1 });
    }

    /// The marks with these changes, as what these snapshots need; and what is said to be two things.
    pub fn finish(self, roots: Roots) -> io::Result<(Marks, Option<Differs>)> {
        let mut trees = Vec::new();
        for shard in self.trees {
            let changed = shard.into_inner().into_iter().filter(|(_, count)| {
                // What has come to count as enough goes on to.
                count.now != count.before
            });
            trees.extend(changed.map(|(key, Count { before, now, tag })| {
                let count = if now == i32::MAX { now } else { now - before };
                Mark { key, tag, count }
            }));
        }
        self.data.finish(self.base, trees, roots)
    }
}
