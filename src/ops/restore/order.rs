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
const GROUP_TASKS: usize = 256;

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
            Some(group) if current == Some(segment) && group.len() < GROUP_TASKS => {
                group.push(placed)
            }
            _ => groups.push(vec![placed]),
        }
        current = Some(segment);
    }
    groups
}

/// The blobs that are read for these groups of tasks, about as so many threads meet them.
pub(super) fn as_read(groups: &[Vec<Placed>], threads: usize) -> impl Iterator<Item = &BlobId> {
    interleaved(groups.iter().map(|group| group.iter().flat_map(Placed::reads)), threads)
}

/// What is met by so many threads in groups, each thing with how long it takes. A thread takes the next group when it is done
/// with one, and all are taken to be equally fast. (That making a file takes as long as some bytes, and how many, makes no difference.)
fn interleaved<T, G>(mut later: impl Iterator<Item = G>, threads: usize) -> impl Iterator<Item = T>
where
    G: Iterator<Item = (T, u64)>,
{
    let mut at_work: Vec<G> = later.by_ref().take(threads).collect();
    let mut clocks: BinaryHeap<_> =
        (0..at_work.len()).map(|thread| Reverse((0u64, thread))).collect();
    std::iter::from_fn(move || {
        loop {
            let Reverse((clock, thread)) = clocks.pop()?;
            if let Some((met, length)) = at_work[thread].next() {
                clocks.push(Reverse((clock.saturating_add(length), thread)));
                return Some(met);
            } else if let Some(group) = later.next() {
                at_work[thread] = group;
                clocks.push(Reverse((clock, thread)));
            }
        }
    })
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
    use std::path::Path;

    use super::*;
    use crate::target::files::FilesTarget;
    use crate::tree::entry::Metadata;

    fn blob(number: u8) -> BlobId {
        BlobId([number; 32])
    }

    /// A file that is read from this segment, and has these chunks, each so long.
    fn file(order: usize, segment: u32, chunks: &[(u8, u64)]) -> Placed {
        let extents = chunks
            .iter()
            .map(|(number, length)| Extent::Data { blob: blob(*number), length: *length });
        let size = chunks.iter().map(|(_, length)| length).sum();
        let content = Content::Extents(extents.collect());
        let node = Node::File(FileContent { size, content, digest: None });
        let target = FilesTarget::look(Path::new("/nothing/is/here")).expect("an absent target");
        let item = Item {
            directory: target.root().clone(),
            entry: Entry { name: Box::from(&b"file"[..]), node, metadata: Metadata::default() },
            group: None,
        };
        let task = Task::File(Box::new(Job { item, action: Action::Create }));
        Placed { order, place: (SegmentPlace { pack: 0, segment }, 0), task }
    }

    #[test]
    fn files_of_a_segment_are_one_threads_and_another_thread_reads_another_segment_meanwhile() {
        const LONG: u64 = 1 << 20;
        let first = [(0, 7, [(1, LONG), (2, LONG)]), (2, 7, [(3, LONG), (4, LONG)])];
        let second = [(1, 4, [(11, LONG), (12, LONG)]), (3, 4, [(13, LONG), (14, LONG)])];
        let all = second.into_iter().chain(first);
        let tasks = all.map(|(order, segment, chunks)| file(order, segment, &chunks));
        let groups = in_groups(tasks.collect());
        let orders = |group: &Vec<Placed>| group.iter().map(|it| it.order).collect::<Vec<_>>();
        assert_eq!(groups.iter().map(orders).collect::<Vec<_>>(), [[0, 2], [1, 3]]);
        let read = |threads| as_read(&groups, threads).map(|blob| blob.0[0]).collect::<Vec<_>>();
        assert_eq!(read(2), [1, 11, 2, 12, 3, 13, 4, 14]);
        assert_eq!(read(16), read(2), "two segments, two threads");
        assert_eq!(read(1), [1, 2, 3, 4, 11, 12, 13, 14]);
    }

    #[test]
    fn of_files_that_are_there_nobody_says_what_is_read_and_a_long_segment_is_several_groups() {
        let small = |order| file(order, 1, &[(order as u8, 1)]);
        let mut many: Vec<_> = (0..GROUP_TASKS + 1).map(small).collect();
        many.push(file(GROUP_TASKS + 1, 2, &[(9, 1)]));
        if let Task::File(job) = &mut many[3].task {
            let folder = tempfile::tempdir().expect("a folder");
            std::fs::write(folder.path().join("there"), b"content").expect("a file");
            let target = FilesTarget::look(folder.path()).expect("its folder");
            let found = target.stat(target.root(), b"there").expect("a look at it");
            job.action = Action::Update(found.expect("the file"));
        }
        let groups = in_groups(many);
        assert_eq!(groups.iter().map(Vec::len).collect::<Vec<_>>(), [GROUP_TASKS, 1, 1]);
        assert_eq!(as_read(&groups, 2).count(), GROUP_TASKS + 1);
    }

    fn met(groups: &[&[(char, u64)]], threads: usize) -> String {
        interleaved(groups.iter().map(|group| group.iter().copied()), threads).collect()
    }

    #[test]
    fn what_threads_read_at_the_same_time_is_met_at_the_same_time() {
        let a = [('a', 5), ('b', 4)];
        let b = [('c', 2), ('d', 1), ('e', 1)];
        let c = [('f', 3)];
        // The second thread is at `f` while the first is at `b`.
        assert_eq!(met(&[&a, &b, &c], 2), "acdefb");
        assert_eq!(met(&[&a, &b, &c], 3), "acfdeb");
        assert_eq!(met(&[&a, &b, &c], 1), "abcdef");
        assert_eq!(met(&[&[], &c], 1), "f");
        assert_eq!(met(&[], 2), "");
    }
}
