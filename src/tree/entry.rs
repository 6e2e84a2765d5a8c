//! One entry of a directory: what it is, what is known of it, and which blobs hold its content.

use std::sync::Arc;

use crate::id::BlobId;
use crate::units::Timestamp;

/// Bytes of one hole-free, content-defined piece of a file, or a hole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Extent {
    /// `length` bytes (at least 1) that are the plaintext of `blob`.
    Data {
        /// The chunk.
        blob: BlobId,
        /// Its length in bytes.
        length: u64,
    },
    /// `length` bytes (at least 1) that read as zeros and take no room.
    Hole {
        /// The hole's length in bytes.
        length: u64,
    },
}

impl Extent {
    /// Length in bytes.
    pub fn length(&self) -> u64 {
        match self {
            Extent::Data { length, .. } | Extent::Hole { length } => *length,
        }
    }
}

/// Where a file's bytes are. The lengths of all extents add up to the file's size.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Content {
    /// The bytes themselves: of a file so small that naming a blob would take more room (the empty
    /// file is one).
    Inline(Box<[u8]>),
    /// The list of extents.
    Extents(Vec<Extent>),
    /// A list too long to stand here: the root of a tree of list blobs.
    List {
        /// The root list blob.
        root: BlobId,
        /// 0: `root` holds extents; n: `root` holds roots of height n - 1.
        height: u8,
    },
}

impl Default for Content {
    fn default() -> Self {
        Content::Inline(Box::default())
    }
}

/// What a file holds.
#[derive(Debug, Clone, PartialEq, Eq, Default, Hash)]
pub struct FileContent {
    /// Size in bytes.
    pub size: u64,
    /// Where the bytes are.
    pub content: Content,
    /// The whole file's digest (`docs/format.md`, "File digest"); absent when `content` is inline or a
    /// single data extent, whose blob id already is a digest of all the bytes.
    pub digest: Option<[u8; 32]>,
}

/// What sort of thing an entry is, with what only that sort has.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Node {
    /// A regular file.
    File(FileContent),
    /// A directory: the blob with its first node, and the node's height (0: a leaf).
    Directory {
        /// Root of the directory's own entries.
        root: BlobId,
        /// 0: `root` holds entries; n: `root` holds roots of height n - 1.
        height: u8,
    },
    /// A symbolic link with its target, as bytes.
    Symlink(Box<[u8]>),
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// A character device with its number (`st_rdev`).
    CharDevice(u64),
    /// A block device with its number (`st_rdev`).
    BlockDevice(u64),
}

impl Node {
    /// A directory whose own blobs are not known yet: what a walk says on entering it.
    pub fn new_directory() -> Self {
        Node::Directory { root: BlobId([0; BlobId::LENGTH]), height: 0 }
    }

    /// A word for people and JSON: `file`, `dir`, `symlink`, `fifo`, `socket`, `chardev`, `dev`.
    pub fn kind_name(&self) -> &'static str {
        match self {
            Node::File(_) => "file",
            Node::Directory { .. } => "dir",
            Node::Symlink(_) => "symlink",
            Node::Fifo => "fifo",
            Node::Socket => "socket",
            Node::CharDevice(_) => "chardev",
            Node::BlockDevice(_) => "dev",
        }
    }

    /// Whether this is a directory.
    pub fn is_directory(&self) -> bool {
        matches!(self, Node::Directory { .. })
    }
}

/// Who owns an entry. Shared by the many entries of one owner.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Owner {
    /// Numeric user id.
    pub uid: u32,
    /// Numeric group id.
    pub gid: u32,
    /// The user's name at backup time; empty when it had none.
    pub user: String,
    /// The group's name at backup time; empty when it had none.
    pub group: String,
}

/// One extended attribute: name and value. ACLs and capabilities are among them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ExtendedAttribute {
    /// Full name, as bytes (`user.comment`, `system.posix_acl_access`).
    pub name: Box<[u8]>,
    /// Value, as bytes.
    pub value: Box<[u8]>,
}

/// What is known of an entry beside its content.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Metadata {
    /// Permission, set-id and sticky bits: the low twelve of `st_mode`.
    pub mode: u32,
    /// Who owns it.
    pub owner: Arc<Owner>,
    /// Last change of the content.
    pub mtime: Timestamp,
    /// Last change of content or metadata: tells a change that hides its mtime.
    pub ctime: Timestamp,
    /// Creation, where the file system tells it.
    pub birth: Option<Timestamp>,
    /// Inode number.
    pub inode: u64,
    /// Device number of the file system (`st_dev`).
    pub device: u64,
    /// Number of hard links; 1 for directories. Entries with more than one link and the same device,
    /// inode and node are the same file.
    pub links: u64,
    /// Extended attributes, sorted by name.
    pub attributes: Vec<ExtendedAttribute>,
}

/// What tells one file's names from another's: device, inode, and what it is. A number alone is not enough: a
/// file may have changed between two of its names, or two snapshots' numbers may collide.
pub type LinkIdentity = (u64, u64, Node);

/// One entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The name: any bytes but `/` and NUL; never empty, `.` or `..`. The root's is empty.
    pub name: Box<[u8]>,
    /// What sort of thing it is.
    pub node: Node,
    /// What else is known of it.
    pub metadata: Metadata,
}

impl Entry {
    /// What this entry shares with its other names; `None` when it has no other.
    pub fn link_identity(&self) -> Option<LinkIdentity> {
        let metadata = &self.metadata;
        (metadata.links > 1).then(|| (metadata.device, metadata.inode, self.node.clone()))
    }

    /// Size of a file's content in bytes; 0 for everything else.
    pub fn size(&self) -> u64 {
        match &self.node {
            Node::File(file) => file.size,
            _ => 0,
        }
    }
}
