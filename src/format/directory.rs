//! Directory nodes: entries in leaves, and branches above them when a directory is large.

use std::collections::HashMap;
use std::sync::Arc;

use super::FormatError;
use super::bytes::{Reader, put_bytes, put_time, put_varint};
use super::list::{LIST_BRANCH, LIST_LEAF, put_extent, read_extent};
use super::snapshot::skip_field;
use crate::id::BlobId;
use crate::tree::entry::{Content, Entry, ExtendedAttribute, FileContent, Metadata, Node, Owner};

/// First byte of a tree blob that holds entries.
pub(super) const DIRECTORY_LEAF: u8 = 1;
/// First byte of a tree blob that holds children of a large directory.
pub(super) const DIRECTORY_BRANCH: u8 = 2;

const KIND_FILE: u8 = 0;
const KIND_DIRECTORY: u8 = 1;
const KIND_SYMLINK: u8 = 2;
const KIND_FIFO: u8 = 3;
const KIND_SOCKET: u8 = 4;
const KIND_CHAR_DEVICE: u8 = 5;
const KIND_BLOCK_DEVICE: u8 = 6;
/// The low bits of an entry's first byte are its kind.
const KIND_MASK: u8 = 0x0f;
/// Extended attributes follow.
const HAS_ATTRIBUTES: u8 = 0x10;
/// A birth time follows.
const HAS_BIRTH: u8 = 0x20;
/// A number of links follows; without it, it is 1.
const HAS_LINKS: u8 = 0x40;
/// Fields of later versions follow, which a reader may skip.
const HAS_FIELDS: u8 = 0x80;

const CONTENT_INLINE: u8 = 0;
const CONTENT_EXTENTS: u8 = 1;
const CONTENT_LIST: u8 = 2;
/// No file is inline that is longer than this, in bytes: readers treat inline files as small.
const INLINE_MAX: u64 = 4096;
/// A digest of the whole file follows the content.
const HAS_DIGEST: u8 = 0x80;

/// A child of a directory branch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectoryChild {
    /// Name of the first entry below the child.
    pub first_name: Box<[u8]>,
    /// The child's blob.
    pub blob: BlobId,
}

/// A directory blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DirectoryNode {
    /// Entries, sorted by name as bytes, no name twice.
    Leaf(Vec<Entry>),
    /// Children, sorted by first name; all of the same height.
    Branch(Vec<DirectoryChild>),
}

/// Gathers the entries of one leaf.
#[derive(Default)]
pub struct LeafBuilder {
    owners: Vec<Arc<Owner>>,
    owner_numbers: HashMap<Arc<Owner>, u64>,
    count: u64,
    entries: Vec<u8>,
}

impl LeafBuilder {
    /// How many bytes of entries there are so far.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no entry yet.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Adds an entry behind the last one.
    pub fn push(&mut self, entry: &Entry) {
        let metadata = &entry.metadata;
        let last = self.owners.last().filter(|owner| Arc::ptr_eq(owner, &metadata.owner));
        let owner = match last {
            Some(_) => self.owners.len() as u64 - 1,
            None => *self.owner_numbers.entry(metadata.owner.clone()).or_insert_with(|| {
                self.owners.push(metadata.owner.clone());
                self.owners.len() as u64 - 1
            }),
        };
        put_entry(&mut self.entries, entry, owner);
        self.count += 1;
    }

    /// The leaf's bytes. The builder is empty again.
    pub fn finish(&mut self) -> Vec<u8> {
        let mut output = Vec::with_capacity(self.entries.len() + 64);
        output.push(DIRECTORY_LEAF);
        put_varint(&mut output, self.owners.len() as u64);
        for owner in self.owners.drain(..) {
            put_varint(&mut output, u64::from(owner.uid));
            put_varint(&mut output, u64::from(owner.gid));
            put_bytes(&mut output, owner.user.as_bytes());
            put_bytes(&mut output, owner.group.as_bytes());
        }
        self.owner_numbers.clear();
        put_varint(&mut output, self.count);
        output.append(&mut self.entries);
        self.count = 0;
        output
    }
}

fn put_entry(output: &mut Vec<u8>, entry: &Entry, owner: u64) {
    let metadata = &entry.metadata;
    put_bytes(output, &entry.name);
    let mut kind = match entry.node {
        Node::File(_) => KIND_FILE,
        Node::Directory { .. } => KIND_DIRECTORY,
        Node::Symlink(_) => KIND_SYMLINK,
        Node::Fifo => KIND_FIFO,
        Node::Socket => KIND_SOCKET,
        Node::CharDevice(_) => KIND_CHAR_DEVICE,
        Node::BlockDevice(_) => KIND_BLOCK_DEVICE,
    };
    if !metadata.attributes.is_empty() {
        kind |= HAS_ATTRIBUTES;
    }
    if metadata.birth.is_some() {
        kind |= HAS_BIRTH;
    }
    if metadata.links != 1 {
        kind |= HAS_LINKS;
    }
    output.push(kind);
    put_varint(output, u64::from(metadata.mode));
    put_varint(output, owner);
    put_time(output, metadata.mtime);
    put_time(output, metadata.ctime);
    put_varint(output, metadata.inode);
    put_varint(output, metadata.device);
    if let Some(birth) = metadata.birth {
        put_time(output, birth);
    }
    if metadata.links != 1 {
        put_varint(output, metadata.links);
    }
    if !metadata.attributes.is_empty() {
        put_varint(output, metadata.attributes.len() as u64);
        for attribute in &metadata.attributes {
            put_bytes(output, &attribute.name);
            put_bytes(output, &attribute.value);
        }
    }
    match &entry.node {
        Node::File(file) => put_file(output, file),
        Node::Directory { root, height } => {
            output.push(*height);
            output.extend_from_slice(root.as_bytes());
        }
        Node::Symlink(target) => put_bytes(output, target),
        Node::Fifo | Node::Socket => {}
        Node::CharDevice(number) | Node::BlockDevice(number) => put_varint(output, *number),
    }
}

fn put_file(output: &mut Vec<u8>, file: &FileContent) {
    put_varint(output, file.size);
    let digest = if file.digest.is_some() { HAS_DIGEST } else { 0 };
    match &file.content {
        Content::Inline(bytes) => {
            output.push(CONTENT_INLINE | digest);
            output.extend_from_slice(bytes);
        }
        Content::Extents(extents) => {
            output.push(CONTENT_EXTENTS | digest);
            put_varint(output, extents.len() as u64);
            extents.iter().for_each(|extent| put_extent(output, extent));
        }
        Content::List { root, height } => {
            output.push(CONTENT_LIST | digest);
            output.push(*height);
            output.extend_from_slice(root.as_bytes());
        }
    }
    if let Some(digest) = &file.digest {
        output.extend_from_slice(digest);
    }
}

fn read_entry(reader: &mut Reader<'_>, owners: &[Arc<Owner>]) -> Result<Entry, FormatError> {
    let name = reader.bytes()?;
    let forbidden = name.is_empty() || name == b"." || name == b"..";
    if forbidden || name.contains(&b'/') || name.contains(&0) {
        return Err(FormatError::corrupt(format!("an entry named {:?}", name.escape_ascii())));
    }
    let flags = reader.u8()?;
    let mode = reader.varint_u32()?;
    let owner = reader.varint()?;
    let owner = usize::try_from(owner)
        .ok()
        .and_then(|owner| owners.get(owner))
        .ok_or_else(|| FormatError::corrupt("an owner that is not in the table"))?;
    let mut metadata = Metadata {
        mode,
        owner: owner.clone(),
        mtime: reader.time()?,
        ctime: reader.time()?,
        inode: reader.varint()?,
        device: reader.varint()?,
        birth: None,
        links: 1,
        attributes: Vec::new(),
    };
    if mode > 0o7777 {
        return Err(FormatError::corrupt(format!("a mode of {mode:o}")));
    }
    if flags & HAS_BIRTH != 0 {
        metadata.birth = Some(reader.time()?);
    }
    if flags & HAS_LINKS != 0 {
        metadata.links = reader.varint()?;
    }
    if flags & HAS_ATTRIBUTES != 0 {
        for _ in 0..reader.count(2)? {
            metadata.attributes.push(ExtendedAttribute {
                name: reader.bytes()?.into(),
                value: reader.bytes()?.into(),
            });
        }
    }
    let node = match flags & KIND_MASK {
        KIND_FILE => Node::File(read_file(reader)?),
        KIND_DIRECTORY => {
            let height = reader.u8()?;
            Node::Directory { root: BlobId(reader.array()?), height }
        }
        KIND_SYMLINK => Node::Symlink(reader.bytes()?.into()),
        KIND_FIFO => Node::Fifo,
        KIND_SOCKET => Node::Socket,
        KIND_CHAR_DEVICE => Node::CharDevice(reader.varint()?),
        KIND_BLOCK_DEVICE => Node::BlockDevice(reader.varint()?),
        other => return Err(FormatError::newer(format!("an entry of unknown kind {other}"))),
    };
    if flags & HAS_FIELDS != 0 {
        let mut fields = Reader::new(reader.bytes()?);
        while let Some((number, _)) = fields.field()? {
            skip_field(number)?;
        }
    }
    Ok(Entry { name: name.into(), node, metadata })
}

fn read_file(reader: &mut Reader<'_>) -> Result<FileContent, FormatError> {
    let size = reader.varint()?;
    let tag = reader.u8()?;
    let content = match tag & !HAS_DIGEST {
        CONTENT_INLINE => {
            if size > INLINE_MAX {
                return Err(FormatError::corrupt(format!("{size} bytes of inline content")));
            }
            Content::Inline(reader.take(size as usize)?.into())
        }
        CONTENT_EXTENTS => {
            let count = reader.count(1)?;
            let extents = (0..count).map(|_| read_extent(reader));
            let extents: Vec<_> = extents.collect::<Result<_, _>>()?;
            let total =
                extents.iter().try_fold(0u64, |total, extent| total.checked_add(extent.length()));
            if total != Some(size) {
                return Err(FormatError::corrupt("extents that do not add up to the file's size"));
            }
            Content::Extents(extents)
        }
        CONTENT_LIST => {
            let height = reader.u8()?;
            Content::List { root: BlobId(reader.array()?), height }
        }
        other => return Err(FormatError::newer(format!("content of unknown kind {other}"))),
    };
    let digest = if tag & HAS_DIGEST != 0 { Some(reader.array()?) } else { None };
    Ok(FileContent { size, content, digest })
}

impl DirectoryNode {
    /// The blob's bytes.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            DirectoryNode::Leaf(entries) => {
                let mut builder = LeafBuilder::default();
                entries.iter().for_each(|entry| builder.push(entry));
                builder.finish()
            }
            DirectoryNode::Branch(children) => {
                let mut output = vec![DIRECTORY_BRANCH];
                put_varint(&mut output, children.len() as u64);
                for child in children {
                    put_bytes(&mut output, &child.first_name);
                    output.extend_from_slice(child.blob.as_bytes());
                }
                output
            }
        }
    }

    /// Reads a blob. Entries out of order or twice are damage: a reader relies on the order.
    pub fn decode(blob: &[u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::new(blob);
        let node = match reader.u8()? {
            DIRECTORY_LEAF => {
                let count = reader.count(4)?;
                let mut owners = Vec::with_capacity(count);
                for _ in 0..count {
                    owners.push(Arc::new(Owner {
                        uid: reader.varint_u32()?,
                        gid: reader.varint_u32()?,
                        user: reader.text()?.to_string(),
                        group: reader.text()?.to_string(),
                    }));
                }
                let count = reader.count(9)?;
                let mut entries: Vec<Entry> = Vec::with_capacity(count);
                for _ in 0..count {
                    let entry = read_entry(&mut reader, &owners)?;
                    if entries.last().is_some_and(|last| last.name >= entry.name) {
                        return Err(FormatError::corrupt("entries that are not sorted"));
                    }
                    entries.push(entry);
                }
                DirectoryNode::Leaf(entries)
            }
            DIRECTORY_BRANCH => {
                let count = reader.count(BlobId::LENGTH + 1)?;
                let mut children: Vec<DirectoryChild> = Vec::with_capacity(count);
                for _ in 0..count {
                    let first_name = reader.bytes()?.into();
                    let blob = BlobId(reader.array()?);
                    if children.last().is_some_and(|last| last.first_name >= first_name) {
                        return Err(FormatError::corrupt("children that are not sorted"));
                    }
                    children.push(DirectoryChild { first_name, blob });
                }
                DirectoryNode::Branch(children)
            }
            LIST_LEAF | LIST_BRANCH => {
                return Err(FormatError::corrupt("a chunk list, not a directory"));
            }
            other => {
                return Err(FormatError::newer(format!("a tree blob of unknown type {other}")));
            }
        };
        reader.finish()?;
        Ok(node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::entry::Extent;
    use crate::units::Timestamp;

    fn entries() -> Vec<Entry> {
        let owner = Arc::new(Owner { uid: 0, gid: 7, user: "root".into(), group: String::new() });
        let metadata = Metadata {
            mode: 0o4755,
            owner,
            mtime: Timestamp { seconds: -5, nanoseconds: 999_999_999 },
            ctime: Timestamp { seconds: 1 << 33, nanoseconds: 0 },
            birth: None,
            inode: u64::MAX,
            device: 3,
            links: 1,
            attributes: Vec::new(),
        };
        let nodes = [
            Node::File(FileContent::default()),
            Node::File(FileContent {
                size: 3,
                content: Content::Inline((*b"abc").into()),
                digest: None,
            }),
            Node::File(FileContent {
                size: 30,
                content: Content::Extents(vec![
                    Extent::Data { blob: BlobId([1; 32]), length: 10 },
                    Extent::Hole { length: 20 },
                ]),
                digest: Some([4; 32]),
            }),
            Node::File(FileContent {
                size: 1 << 50,
                content: Content::List { root: BlobId([1; 32]), height: 3 },
                digest: Some([4; 32]),
            }),
            Node::Directory { root: BlobId([2; 32]), height: 0 },
            Node::Symlink((*b"../\xff").into()),
            Node::Fifo,
            Node::Socket,
            Node::CharDevice(5),
            Node::BlockDevice(1 << 40),
        ];
        let mut entries: Vec<Entry> = nodes
            .into_iter()
            .enumerate()
            .map(|(number, node)| Entry {
                name: format!("name-{number}").into_bytes().into(),
                node,
                metadata: metadata.clone(),
            })
            .collect();
        entries[3].metadata.links = 9;
        entries[4].metadata.birth = Some(Timestamp { seconds: 1, nanoseconds: 2 });
        entries[5].metadata.owner = Arc::new(Owner::default());
        entries[6].metadata.attributes =
            vec![ExtendedAttribute { name: (*b"user.x").into(), value: vec![0; 300].into() }];
        entries
    }

    #[test]
    fn every_kind_of_entry_comes_back() {
        let bytes = DirectoryNode::Leaf(entries()).encode();
        assert_eq!(DirectoryNode::decode(&bytes), Ok(DirectoryNode::Leaf(entries())));
        for end in 0..bytes.len() {
            assert!(DirectoryNode::decode(&bytes[..end]).is_err());
        }
    }

    #[test]
    fn a_branch_comes_back() {
        let child = |name: &[u8]| DirectoryChild { first_name: name.into(), blob: BlobId([1; 32]) };
        let branch = DirectoryNode::Branch(vec![child(b"a"), child(b"b")]);
        assert_eq!(DirectoryNode::decode(&branch.encode()), Ok(branch));
        let unsorted = DirectoryNode::Branch(vec![child(b"b"), child(b"a")]);
        assert!(DirectoryNode::decode(&unsorted.encode()).is_err());
    }

    #[test]
    fn names_that_would_leave_the_directory_are_refused() {
        for name in [&b""[..], b".", b"..", b"a/b", b"/etc", b"a\0b"] {
            let mut entry = entries().remove(0);
            entry.name = name.into();
            let bytes = DirectoryNode::Leaf(vec![entry]).encode();
            assert!(DirectoryNode::decode(&bytes).is_err(), "{:?}", name.escape_ascii());
        }
    }

    #[test]
    fn entries_out_of_order_are_refused() {
        let mut unsorted = entries();
        unsorted.swap(0, 1);
        assert!(DirectoryNode::decode(&DirectoryNode::Leaf(unsorted).encode()).is_err());
    }
}
