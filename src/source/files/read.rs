//! What the system tells of an entry, and reading its bytes and attributes later.

use std::ffi::CStr;
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use rustix::fs::AtFlags;
use rustix::fs::FileType;
use rustix::fs::OFlags;
use rustix::fs::SeekFrom;
use rustix::fs::Statx;
use rustix::fs::StatxFlags;
use rustix::fs::StatxTimestamp;
use rustix::fs::makedev;
use rustix::fs::readlinkat;
use rustix::fs::seek;
use rustix::fs::statx;
use rustix::io::Errno;

use crate::source::OpenFile;
use crate::source::Readable;
use crate::source::SourceError;
use crate::tree::entry::Content;
use crate::tree::entry::Entry;
use crate::tree::entry::ExtendedAttribute;
use crate::tree::entry::FileContent;
use crate::tree::entry::Metadata;
use crate::tree::entry::Node;
use crate::tree::path::Printable;
use crate::units::Timestamp;

use super::ahead::Tasks;
use super::attributes;
use super::directory::Directory;
use super::directory::open_quietly;
use super::owners::Owners;

/// Which file something is, whatever its name.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    device: u64,
    inode: u64,
}

impl Identity {
    pub(super) fn of(stat: &Statx) -> Self {
        Identity { device: device_of(stat), inode: stat.stx_ino }
    }
}

/// `st_dev` of what was asked about.
pub(super) fn device_of(stat: &Statx) -> u64 {
    makedev(stat.stx_dev_major, stat.stx_dev_minor)
}

/// What sort of thing was asked about.
pub(super) fn kind_of(stat: &Statx) -> FileType {
    FileType::from_raw_mode(u32::from(stat.stx_mode))
}

/// What is asked for: what an entry holds, and nothing that a file system must go and find.
const FIELDS: StatxFlags = StatxFlags::BASIC_STATS.union(StatxFlags::BTIME);

/// Asks about the entry `name` of a directory; follows no link and mounts nothing.
pub(super) fn stat_entry(directory: BorrowedFd<'_>, name: &CStr) -> io::Result<Statx> {
    Ok(statx(directory, name, AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT, FIELDS)?)
}

/// Asks about what is open.
pub(super) fn stat_descriptor(descriptor: BorrowedFd<'_>) -> io::Result<Statx> {
    Ok(statx(descriptor, c"", AtFlags::EMPTY_PATH, FIELDS)?)
}

/// The metadata in an answer of the system, attributes not among them.
pub(super) fn metadata_of(stat: &Statx, owners: &Owners) -> Metadata {
    let timestamp =
        |time: StatxTimestamp| Timestamp { seconds: time.tv_sec, nanoseconds: time.tv_nsec };
    let has_birth = StatxFlags::from_bits_retain(stat.stx_mask).contains(StatxFlags::BTIME);
    let is_directory = kind_of(stat) == FileType::Directory;
    Metadata {
        mode: u32::from(stat.stx_mode) & 0o7777,
        owner: owners.get(stat.stx_uid, stat.stx_gid),
        mtime: timestamp(stat.stx_mtime),
        ctime: timestamp(stat.stx_ctime),
        birth: has_birth.then(|| timestamp(stat.stx_btime)),
        inode: stat.stx_ino,
        device: device_of(stat),
        links: if is_directory { 1 } else { u64::from(stat.stx_nlink) },
        attributes: Vec::new(),
    }
}

/// The node of what was asked about, which is no directory; `None` for a kind that nobody knows.
pub(super) fn node_of(
    stat: &Statx,
    directory: BorrowedFd<'_>,
    name: &CStr,
) -> io::Result<Option<Node>> {
    let device_number = makedev(stat.stx_rdev_major, stat.stx_rdev_minor);
    Ok(Some(match kind_of(stat) {
        FileType::RegularFile => Node::File(FileContent {
            size: stat.stx_size,
            content: Content::default(),
            digest: None,
        }),
        FileType::Symlink => {
            let target = readlinkat(directory, name, Vec::new())?;
            Node::Symlink(target.into_bytes().into_boxed_slice())
        }
        FileType::Fifo => Node::Fifo,
        FileType::Socket => Node::Socket,
        FileType::CharacterDevice => Node::CharDevice(device_number),
        FileType::BlockDevice => Node::BlockDevice(device_number),
        _ => return Ok(None),
    }))
}

/// An entry that the walk met, named by its directory's descriptor.
pub(super) struct FileReadable {
    pub(super) directory: Arc<Directory>,
    pub(super) name: CString,
    /// The name the entry has in the snapshot, when it is another.
    pub(super) entry_name: Option<Box<[u8]>>,
    pub(super) is_file: bool,
    pub(super) owners: Arc<Owners>,
    pub(super) ahead: Arc<Tasks>,
}

impl Readable for FileReadable {
    fn attributes(&self) -> io::Result<Vec<ExtendedAttribute>> {
        attributes::of_entry(self.directory.descriptor()?.as_fd(), &self.name, self.is_file)
    }

    fn open(&self) -> io::Result<Box<dyn OpenFile>> {
        if !self.is_file {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        // It may have become a pipe since: nothing must wait for a writer.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let descriptor = open_quietly(self.directory.descriptor()?.as_fd(), &self.name, flags)?;
        if kind_of(&stat_descriptor(descriptor.as_fd())?) != FileType::RegularFile {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "no longer a regular file"));
        }
        let name = self.entry_name.clone();
        Ok(Box::new(OpenedFile {
            file: File::from(descriptor),
            name: name.unwrap_or_else(|| Box::from(self.name.to_bytes())),
            owners: Arc::clone(&self.owners),
        }))
    }

    fn announce(&self, length: u64) {
        if self.is_file {
            self.ahead.file(&self.directory, &self.name, length);
        }
    }

    fn display(&self) -> String {
        Printable(&self.directory.path_of(self.name.to_bytes())).to_string()
    }
}

/// A regular file, open.
struct OpenedFile {
    file: File,
    name: Box<[u8]>,
    owners: Arc<Owners>,
}

impl OpenFile for OpenedFile {
    fn stat(&self) -> io::Result<Option<Entry>> {
        let stat = stat_descriptor(self.file.as_fd())?;
        let mut metadata = metadata_of(&stat, &self.owners);
        metadata.attributes = attributes::of_descriptor(self.file.as_fd())?;
        let content = FileContent { size: stat.stx_size, ..FileContent::default() };
        Ok(Some(Entry { name: self.name.clone(), node: Node::File(content), metadata }))
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        loop {
            match self.file.read_at(buffer, offset) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }

    fn next_data(&self, offset: u64, size: u64) -> io::Result<Option<Range<u64>>> {
        if offset >= size {
            return Ok(None);
        }
        let start = match seek(&self.file, SeekFrom::Data(offset)) {
            Ok(start) if start < size => start,
            // Nothing but a hole up to the end, or data only behind what was asked for.
            Ok(_) | Err(Errno::NXIO) => return Ok(None),
            // The file system cannot tell.
            Err(Errno::INVAL | Errno::NOTSUP) => return Ok(Some(offset..size)),
            Err(error) => return Err(error.into()),
        };
        let end = match seek(&self.file, SeekFrom::Hole(start)) {
            // A hole punched between the two calls: what is read as zeros is right, too.
            Ok(end) if end > start => end.min(size),
            _ => size,
        };
        Ok(Some(start..end))
    }

    fn is_seekable(&self) -> bool {
        true
    }

    fn finish(&self) -> Result<(), SourceError> {
        Ok(())
    }
}
