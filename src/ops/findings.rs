//! What is found to be wrong, before files are named.

use std::collections::HashSet;

use parking_lot::Mutex;

use crate::id::{BlobId, SnapshotId};
use crate::ops::check::{CHECK_NAMED_FILES, Damage};
use crate::ops::references::{BlobKey, BlobMap};

/// One thing that is wrong, with the blobs that it takes along.
#[derive(Debug, Clone)]
pub struct Finding {
    /// The object or blob.
    pub item: String,
    /// What is wrong with it.
    pub message: String,
    /// The blobs that cannot be read because of it.
    pub blobs: Vec<BlobKey>,
    /// Whether it is about blobs, and said already when an object that holds them is damaged.
    pub of_blobs: bool,
    /// What to note instead, when it turns out that nothing in any snapshot is lost with it.
    pub note: Option<String>,
    /// Another store of the repository has all of it: nothing is hit, though `blobs` stand nowhere else in the first one.
    pub is_elsewhere: bool,
    /// What it hits.
    pub hits: Vec<String>,
    /// How many it hits in all.
    pub hit_count: u64,
}

impl Finding {
    /// An object is damaged, and these blobs with it.
    pub fn of_object(item: String, message: String, blobs: Vec<BlobKey>) -> Self {
        Finding {
            item,
            message,
            blobs,
            of_blobs: false,
            note: None,
            is_elsewhere: false,
            hits: Vec::new(),
            hit_count: 0,
        }
    }

    /// A blob is damaged or absent.
    pub fn of_blob(id: &BlobId, item: String, message: String) -> Self {
        Self::of_blobs(vec![BlobKey::new(id)], item, message)
    }

    /// Blobs are damaged or absent.
    pub fn of_blobs(blobs: Vec<BlobKey>, item: String, message: String) -> Self {
        Finding { of_blobs: true, ..Self::of_object(item, message, blobs) }
    }

    /// A whole snapshot is damaged or gone.
    pub fn of_snapshot(id: SnapshotId, item: String, message: String) -> Self {
        let mut finding = Self::of_object(item, message, Vec::new());
        finding.hit(format!("{}:/", id.short()));
        finding
    }

    /// Adds a file or directory to what it hits.
    pub fn hit(&mut self, name: String) {
        // A directory of several nodes is hit once.
        if self.hits.last() == Some(&name) {
            return;
        }
        self.hit_count += 1;
        if self.hits.len() < CHECK_NAMED_FILES {
            self.hits.push(name);
        }
    }
}

/// Everything that was found so far. Shared by threads.
#[derive(Default)]
pub struct Findings(Mutex<Vec<Finding>>);

impl Findings {
    /// Adds one.
    pub fn add(&self, finding: Finding) {
        self.0.lock().push(finding);
    }

    /// One of them, if there are any.
    pub fn first(&self) -> Option<Finding> {
        self.0.lock().first().cloned()
    }

    /// Whether there is one of this item.
    pub fn has(&self, item: &str) -> bool {
        self.0.lock().iter().any(|finding| finding.item == item)
    }

    /// All of them: by item, each thing once, and without blobs whose object is known to be damaged.
    pub fn finish(self) -> Vec<Finding> {
        let mut findings = self.0.into_inner();
        findings
            .sort_by(|left, right| (&left.item, &left.message).cmp(&(&right.item, &right.message)));
        findings.dedup_by(|next, kept| {
            let same = (&next.item, &next.message) == (&kept.item, &kept.message);
            if same {
                kept.blobs.append(&mut next.blobs);
            }
            same
        });
        let told: HashSet<BlobKey> = findings
            .iter()
            .filter(|finding| !finding.of_blobs)
            .flat_map(|finding| &finding.blobs)
            .copied()
            .collect();
        findings.retain_mut(|finding| {
            if finding.of_blobs {
                finding.blobs.retain(|key| !told.contains(key));
            }
            !finding.of_blobs || !finding.blobs.is_empty()
        });
        findings
    }
}

/// Which findings each blob belongs to.
pub fn by_blob(findings: &[Finding]) -> BlobMap<Vec<usize>> {
    let mut map: BlobMap<Vec<usize>> = BlobMap::default();
    for (number, finding) in findings.iter().enumerate() {
        for key in &finding.blobs {
            map.entry(*key).or_default().push(number);
        }
    }
    map
}

impl From<Finding> for Damage {
    fn from(finding: Finding) -> Self {
        Damage {
            item: finding.item,
            message: finding.message,
            hits: finding.hits,
            hit_count: finding.hit_count,
        }
    }
}
