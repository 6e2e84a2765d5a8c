//! In which order a window is written, and which blobs are read for it.

use std::collections::HashMap;

use super::region::Region;
use super::work::{Action, Item};
use crate::id::BlobId;
use crate::repository::index::SegmentPlace;
use crate::tree::entry::{Content, Entry, Extent, FileContent, Node};

/// A file, and what is done about it.
pub(super) struct Job {
    pub(super) item: Item,
    pub(super) action: Action,
}

/// One piece of work.
pub(super) enum Task {
    File(Box<Job>),
    Region(Region),
}

/// Something to be written.
pub(super) struct Placed {
    /// Where it comes in the snapshot.
    pub(super) order: usize,
    /// Where its bytes begin: segment, offset.
    pub(super) place: (SegmentPlace, u32),
    pub(super) task: Task,
}

impl Placed {
    /// The blobs that are read for it, as far as its entry says.
    pub(super) fn blobs(&self) -> Box<dyn Iterator<Item = &BlobId> + '_> {
        match &self.task {
            // Of a file that is there, nobody knows what will be read.
            Task::Region(region) if region.is_new() => Box::new(region.blobs()),
            Task::File(job) if matches!(job.action, Action::Create) => {
                Box::new(blobs_of(&job.item.entry))
            }
            _ => Box::new(std::iter::empty()),
        }
    }
}

/// Sorts by segment, and segments as the snapshot meets them first: so they were filled, and what one file shares with
/// the next is at hand. Sorted by their places in packs, half of them were opened twice, because neighbours go to
/// packs at random.
pub(super) fn sort(tasks: &mut [Placed]) {
    tasks.sort_unstable_by_key(|task| task.order);
    let mut met = HashMap::new();
    for Placed { order, place: (segment, _), .. } in tasks.iter() {
        met.entry(*segment).or_insert(*order);
    }
    tasks.sort_by_key(|Placed { place: (segment, offset), .. }| {
        (met.get(segment).copied(), *segment, *offset)
    });
}

pub(super) fn blob_of(extent: &Extent) -> Option<&BlobId> {
    match extent {
        Extent::Data { blob, .. } => Some(blob),
        Extent::Hole { .. } => None,
    }
}

/// The blobs that stand in a file's entry, in order.
pub(super) fn blobs_of(entry: &Entry) -> impl Iterator<Item = &BlobId> {
    let extents = match &entry.node {
        Node::File(FileContent { content: Content::Extents(extents), .. }) => &extents[..],
        _ => &[],
    };
    extents.iter().filter_map(blob_of)
}
