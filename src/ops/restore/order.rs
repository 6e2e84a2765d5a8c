//! In which order a window is written, and which blobs are read for it.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

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

/// Tasks that one thread does before it asks for more.
const GROUP: usize = 256;
/// A file takes as long as so many bytes besides its own: it is made, and finished.
const FILE_BYTES: u64 = 16 << 10;

impl Placed {
    /// The blobs that are read for it, as far as its entry says, each with how many bytes it has.
    fn reads(&self) -> Box<dyn Iterator<Item = (&BlobId, u64)> + '_> {
        match &self.task {
            // Of a file that is there, nobody knows what will be read.
            Task::Region(region) if region.is_new() => Box::new(region.reads()),
            Task::File(job) if matches!(job.action, Action::Create) => {
                Box::new(reads_of(&job.item.entry))
            }
            _ => Box::new(std::iter::empty()),
        }
    }
}

/// Sorts tasks, and groups those whose bytes begin in the same segment, so that no two threads wait for one another's.
pub(super) fn in_groups(mut tasks: Vec<Placed>) -> Vec<Vec<Placed>> {
    sort(&mut tasks);
    let mut groups: Vec<Vec<Placed>> = Vec::new();
    let mut current = None;
    for placed in tasks {
        let (segment, _) = placed.place;
        match groups.last_mut() {
            Some(group) if current == Some(segment) && group.len() < GROUP => group.push(placed),
            _ => groups.push(vec![placed]),
        }
        current = Some(segment);
    }
    groups
}

/// What is done for a group of tasks: blobs, and how long each takes.
fn in_group(group: &[Placed]) -> impl Iterator<Item = (Option<&BlobId>, u64)> {
    group.iter().flat_map(|task| {
        let reads = task.reads().map(|(blob, length)| (Some(blob), length));
        std::iter::once((None, FILE_BYTES)).chain(reads)
    })
}

/// The blobs that are read for these groups of tasks, about as so many threads meet them.
pub(super) fn as_read(groups: &[Vec<Placed>], threads: usize) -> Vec<&BlobId> {
    interleaved(groups.iter().map(|group| in_group(group)), threads)
}

/// What is met by so many threads in groups of steps, each with how long it takes. A thread takes the next group when it is done
/// with one, and all are taken to be equally fast.
fn interleaved<T, G>(mut later: impl Iterator<Item = G>, threads: usize) -> Vec<T>
where
    G: Iterator<Item = (Option<T>, u64)>,
{
    let mut at_work: Vec<G> = later.by_ref().take(threads).collect();
    let mut clocks: BinaryHeap<_> = (0..at_work.len()).map(|thread| Reverse((0, thread))).collect();
    let mut order = Vec::new();
    while let Some(Reverse((clock, thread))) = clocks.pop() {
        if let Some((met, length)) = at_work[thread].next() {
            order.extend(met);
            clocks.push(Reverse((clock + length, thread)));
        } else if let Some(group) = later.next() {
            at_work[thread] = group;
            clocks.push(Reverse((clock, thread)));
        }
    }
    order
}

/// Sorts by segment, and segments as the snapshot meets them first: so they were filled, and what one file shares with
/// the next is at hand. Sorted by their places in packs, half of them were opened twice, because neighbours go to
/// packs at random.
fn sort(tasks: &mut [Placed]) {
    tasks.sort_unstable_by_key(|task| task.order);
    let mut met = HashMap::new();
    for Placed { order, place: (segment, _), .. } in tasks.iter() {
        met.entry(*segment).or_insert(*order);
    }
    tasks.sort_by_key(|Placed { place: (segment, offset), .. }| {
        (met.get(segment).copied(), *segment, *offset)
    });
}

/// The blob of an extent, and how many bytes it has.
pub(super) fn read_of(extent: &Extent) -> Option<(&BlobId, u64)> {
    match extent {
        Extent::Data { blob, length } => Some((blob, *length)),
        Extent::Hole { .. } => None,
    }
}

/// The blobs that stand in a file's entry, in order, each with how many bytes it has.
pub(super) fn reads_of(entry: &Entry) -> impl Iterator<Item = (&BlobId, u64)> {
    let extents = match &entry.node {
        Node::File(FileContent { content: Content::Extents(extents), .. }) => &extents[..],
        _ => &[],
    };
    extents.iter().filter_map(read_of)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn met(groups: &[&[(Option<char>, u64)]], threads: usize) -> String {
        interleaved(groups.iter().map(|group| group.iter().copied()), threads).into_iter().collect()
    }

    #[test]
    fn what_threads_read_at_the_same_time_is_met_at_the_same_time() {
        let a = [(None, 1), (Some('a'), 4), (Some('b'), 4)];
        let b = [(Some('c'), 2), (Some('d'), 2), (Some('e'), 1)];
        let c = [(Some('f'), 3)];
        // The second thread is at `f` while the first is at `b`.
        assert_eq!(met(&[&a, &b, &c], 2), "cadebf");
        assert_eq!(met(&[&a, &b, &c], 3), "cfadeb");
        assert_eq!(met(&[&a, &b, &c], 1), "abcdef");
        assert_eq!(met(&[&[], &c], 1), "f");
        assert_eq!(met(&[], 2), "");
    }
}
