//! Differences between two entries that stand under one name, as far as the entries themselves tell.
//!
//! | modifier | meaning |
//! |---|---|
//! | `T` | another kind of thing |
//! | `M` | other content: a file's bytes, a link's target, a device's number |
//! | `M?` | a file's bytes are others, and its modification time is the same: nobody wrote it, or somebody hid it |
//! | `U` | the same content, other metadata |
//!
//! Of metadata count mode, owner, modification time and extended attributes: what somebody has set, and what a
//! restore sets again. Change and birth times, inode and device numbers are the file system's own, and the
//! number of links is told by the other names.

use crate::tree::entry::{Content, Entry, Extent, FileContent, Metadata, Node};

/// What of two entries' metadata differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MetadataDifference {
    /// Permission, set-id and sticky bits.
    pub mode: bool,
    /// User or group, by number or name.
    pub owner: bool,
    /// The modification time.
    pub mtime: bool,
    /// Extended attributes, ACLs and capabilities among them.
    pub attributes: bool,
}

impl MetadataDifference {
    /// What differs between `before` and `after`.
    pub fn between(before: &Metadata, after: &Metadata) -> Self {
        MetadataDifference {
            mode: before.mode != after.mode,
            owner: before.owner != after.owner,
            mtime: before.mtime != after.mtime,
            attributes: before.attributes != after.attributes,
        }
    }

    /// Whether nothing differs.
    pub fn is_empty(self) -> bool {
        self == MetadataDifference::default()
    }

    /// A word for each thing that differs.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        let names = [
            (self.mode, "mode"),
            (self.owner, "owner"),
            (self.mtime, "mtime"),
            (self.attributes, "attributes"),
        ];
        names.into_iter().filter(|(differs, _)| *differs).map(|(_, name)| name)
    }
}

/// What differs between two entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Difference {
    /// They are different kinds of things; `content` then says nothing.
    pub kind: bool,
    /// Their content differs: bytes, a link's target, a device's number. A directory has none of its own.
    pub content: bool,
    /// What of their metadata differs.
    pub metadata: MetadataDifference,
}

impl Difference {
    /// The difference between two entries when their files' bytes, if both are files, differ or do not.
    pub fn between(before: &Entry, after: &Entry, bytes_differ: bool) -> Self {
        let (kind, content) = match (&before.node, &after.node) {
            (Node::File(_), Node::File(_)) => (false, bytes_differ),
            (Node::Directory { .. }, Node::Directory { .. }) => (false, false),
            (one, other) => {
                let kind = one.kind_name() != other.kind_name();
                (kind, !kind && one != other)
            }
        };
        let metadata = MetadataDifference::between(&before.metadata, &after.metadata);
        Difference { kind, content, metadata }
    }

    /// Whether bytes changed under the same modification time. To be asked of files.
    pub fn is_suspect(self) -> bool {
        self.content && !self.kind && !self.metadata.mtime
    }
}

/// Whether two files' bytes differ; `None` when their entries do not tell, because one has a digest of all
/// its bytes and the other the name of its only chunk.
pub fn bytes_differ(before: &FileContent, after: &FileContent) -> Option<bool> {
    if before.size != after.size {
        return Some(true);
    }
    if before.size == 0 || before.content == after.content {
        return Some(false);
    }
    if let (Some(before), Some(after)) = (before.digest, after.digest) {
        return Some(before != after);
    }
    match (&before.content, &after.content) {
        (Content::Inline(before), Content::Inline(after)) => Some(before != after),
        (Content::Extents(one), Content::Extents(other)) => match (&one[..], &other[..]) {
            // One chunk each, and another name: other bytes.
            ([Extent::Data { .. }], [Extent::Data { .. }]) => Some(true),
            _ => None,
        },
        _ => None,
    }
}

/// Whether nobody has touched what `before` was, as far as the file system tells: `now` is the same kind of thing
/// with the same size, the same times of modification and change, and the same place on the disk.
pub fn is_untouched(before: &Entry, now: &Entry) -> bool {
    let (one, other) = (&before.metadata, &now.metadata);
    before.node.kind_name() == now.node.kind_name()
        && before.size() == now.size()
        && one.mtime == other.mtime
        && one.ctime == other.ctime
        && one.inode == other.inode
        && one.device == other.device
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::BlobId;
    use crate::tree::entry::ExtendedAttribute;
    use crate::units::Timestamp;

    fn file(size: u64, content: Content, digest: Option<u8>) -> FileContent {
        FileContent { size, content, digest: digest.map(|byte| [byte; 32]) }
    }

    fn chunk(blob: u8, length: u64) -> Extent {
        Extent::Data { blob: BlobId([blob; 32]), length }
    }

    fn entry(node: Node) -> Entry {
        Entry { name: (*b"x").into(), node, metadata: Metadata::default() }
    }

    #[test]
    fn bytes_are_compared_as_far_as_entries_tell() {
        let inline = |bytes: &[u8]| file(bytes.len() as u64, Content::Inline(bytes.into()), None);
        let one = |blob| file(9, Content::Extents(vec![chunk(blob, 9)]), None);
        let holed = |digest| {
            file(9, Content::Extents(vec![chunk(1, 4), Extent::Hole { length: 5 }]), Some(digest))
        };
        let list =
            |digest| file(9, Content::List { root: BlobId([7; 32]), height: 0 }, Some(digest));
        let table = [
            (inline(b"abc"), inline(b"abc"), Some(false)),
            (inline(b"abc"), inline(b"abd"), Some(true)),
            (inline(b"abc"), inline(b"ab"), Some(true)),
            (one(1), one(1), Some(false)),
            (one(1), one(2), Some(true)),
            (holed(1), holed(1), Some(false)),
            // Other extents, the same bytes.
            (holed(1), list(1), Some(false)),
            (holed(1), list(2), Some(true)),
            (one(1), holed(1), None),
            (inline(b"123456789"), one(1), None),
            (file(0, Content::Extents(vec![]), Some(1)), inline(b""), Some(false)),
        ];
        for (before, after, differs) in table {
            assert_eq!(bytes_differ(&before, &after), differs, "{before:?} {after:?}");
            assert_eq!(bytes_differ(&after, &before), differs, "{after:?} {before:?}");
        }
    }

    #[test]
    fn kinds_targets_and_device_numbers_are_compared() {
        let directory = |byte| Node::Directory { root: BlobId([byte; 32]), height: 0 };
        let link = |target: &[u8]| Node::Symlink(target.into());
        let table = [
            (directory(1), directory(2), (false, false)),
            (directory(1), link(b"a"), (true, false)),
            (link(b"a"), link(b"a"), (false, false)),
            (link(b"a"), link(b"b"), (false, true)),
            (Node::CharDevice(1), Node::CharDevice(2), (false, true)),
            (Node::CharDevice(1), Node::BlockDevice(1), (true, false)),
            (Node::Fifo, Node::Fifo, (false, false)),
            (Node::Fifo, Node::Socket, (true, false)),
            (Node::File(FileContent::default()), Node::Fifo, (true, false)),
        ];
        for (before, after, (kind, content)) in table {
            let found = Difference::between(&entry(before), &entry(after), false);
            assert_eq!((found.kind, found.content), (kind, content));
        }
    }

    #[test]
    fn metadata_is_what_somebody_has_set() {
        let before = Metadata::default();
        let moment = Timestamp { seconds: 1, nanoseconds: 0 };
        let own = Metadata {
            ctime: moment,
            birth: Some(moment),
            inode: 1,
            device: 1,
            links: 2,
            ..Metadata::default()
        };
        assert!(MetadataDifference::between(&before, &own).is_empty());
        let attribute = ExtendedAttribute { name: (*b"a").into(), value: (*b"b").into() };
        let after =
            Metadata { mode: 1, mtime: moment, attributes: vec![attribute], ..Metadata::default() };
        let found = MetadataDifference::between(&before, &after);
        assert_eq!(found.names().collect::<Vec<_>>(), ["mode", "mtime", "attributes"]);
    }

    #[test]
    fn what_was_touched_shows_in_its_entry() {
        let before = entry(Node::File(file(9, Content::Extents(vec![chunk(1, 9)]), None)));
        // What a walk tells has no content yet.
        let now = Entry { node: Node::File(file(9, Content::default(), None)), ..before.clone() };
        assert!(is_untouched(&before, &now));
        let touches: [fn(&mut Entry); 6] = [
            |it| it.node = Node::Fifo,
            |it| it.node = Node::File(file(8, Content::default(), None)),
            |it| it.metadata.mtime.nanoseconds = 1,
            |it| it.metadata.ctime.nanoseconds = 1,
            |it| it.metadata.inode = 1,
            |it| it.metadata.device = 1,
        ];
        for touch in touches {
            let mut touched = now.clone();
            touch(&mut touched);
            assert!(!is_untouched(&before, &touched), "{touched:?}");
        }
    }

    #[test]
    fn a_change_of_bytes_under_the_same_time_is_suspect() {
        let before = entry(Node::File(FileContent::default()));
        assert!(Difference::between(&before, &before, true).is_suspect());
        assert!(!Difference::between(&before, &before, false).is_suspect());
        let mut later = before.clone();
        later.metadata.mtime.seconds += 1;
        assert!(!Difference::between(&before, &later, true).is_suspect());
    }
}
