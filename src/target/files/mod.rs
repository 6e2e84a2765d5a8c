//! Files, directories and whatever else a file system holds, written below one directory and never
//! outside it: every name is resolved from its directory's descriptor, and no link is followed.

mod content;
mod directory;
mod metadata;
mod remove;

#[cfg(test)]
mod tests;

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::Access;
use rustix::fs::AtFlags;
use rustix::fs::CWD;
use rustix::fs::FileType;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::fs::StatxFlags;
use rustix::fs::accessat;
use rustix::fs::chmod;
use rustix::fs::fgetxattr;
use rustix::fs::fstat;
use rustix::fs::linkat;
use rustix::fs::makedev;
use rustix::fs::mkdirat;
use rustix::fs::mknodat;
use rustix::fs::openat;
use rustix::fs::readlinkat;
use rustix::fs::statx;
use rustix::fs::symlinkat;
use rustix::fs::unlinkat;
use rustix::io::Errno;

use crate::target::TargetError;
use crate::tree::entry::Metadata;
use crate::tree::entry::Node;
use crate::tree::path::Printable;
use crate::tree::path::is_valid_name;
use crate::units::Timestamp;

pub use self::content::TargetFile;
pub use self::directory::Directory;
pub use self::metadata::MetadataFailure;
pub use self::remove::Removed;

use self::directory::OpenDirectories;
use self::directory::Opened;
use self::directory::open_directory;
use self::directory::open_writable;

/// The attribute that holds what new entries of a directory inherit.
const DEFAULT_ACL: &CStr = c"system.posix_acl_default";

/// Until it is finished, a file or directory belongs to its maker alone.
const PRIVATE_FILE: Mode = Mode::RUSR.union(Mode::WUSR);
const PRIVATE_DIRECTORY: Mode = Mode::RWXU;

/// What stands at a place of the target already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Existing {
    /// What sort of thing.
    pub kind: FileType,
    /// Size in bytes.
    pub size: u64,
    /// Last change of the content.
    pub mtime: Timestamp,
    /// Permission, set-id and sticky bits.
    pub mode: u32,
    /// Numeric user id.
    pub uid: u32,
    /// Numeric group id.
    pub gid: u32,
    /// Number of names it has.
    pub links: u64,
    /// Which file it is: device and inode.
    pub identity: (u64, u64),
    /// Of a device, its number.
    pub device_number: u64,
}

/// A place that restores and exports go to: everything below one directory.
///
/// Operations on one entry return the system's error; whether it ends the whole run is for the caller to
/// say ([`is_full`](super::is_full)). All of them may be called from many threads. Memory: an eighth of the
/// descriptors that the process may have, at least 128 and at most 4 096, and what callers hold of [`Directory`].
pub struct FilesTarget {
    root: Arc<Directory>,
    open: OpenDirectories,
    user: u32,
    group: u32,
    /// The bits that the system takes from the mode of what is made.
    mask: u32,
}

impl FilesTarget {
    /// The directory at `path`, made with those above it when it is not there. Fails when it cannot be
    /// written. Links that lead to it are followed: it is where the user pointed.
    pub fn create(path: &Path) -> Result<Self, TargetError> {
        let fail = |error: io::Error| TargetError::new(path.display().to_string(), error);
        let parent = path.parent().unwrap_or(path);
        std::fs::create_dir_all(parent).map_err(fail)?;
        let is_new = match std::fs::create_dir(path) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
            // A path that ends in `..`, or in nothing, names what is there.
            Err(_) if path.is_dir() => false,
            Err(error) => return Err(fail(error)),
        };
        let target = Self::open_root(path, is_new)?;
        let root = target.open.descriptor(&target.root).map_err(fail)?;
        accessat(&root, c".", Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS)
            .map_err(|error| fail(error.into()))?;
        Ok(target)
    }

    /// The directory at `path` as it is, for looking only; it need not be there.
    pub fn look(path: &Path) -> Result<Self, TargetError> {
        if std::fs::symlink_metadata(path).is_ok() {
            return Self::open_root(path, false);
        }
        Ok(Self::with_root(Directory::absent(None, b""), OpenDirectories::default()))
    }

    fn open_root(path: &Path, is_new: bool) -> Result<Self, TargetError> {
        let fail = |error: Errno| TargetError::new(path.display().to_string(), error.into());
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let descriptor =
            openat(CWD, path.as_os_str().as_bytes(), flags, Mode::empty()).map_err(fail)?;
        let stat = fstat(&descriptor).map_err(fail)?;
        let has_default_acl = has_default_acl(&descriptor);
        let group = known_group(stat.st_gid);
        let opened = Opened { descriptor, stat, is_new, group, has_default_acl };
        let open = OpenDirectories::default();
        let root = open.add(None, path.as_os_str().as_bytes(), opened);
        Ok(Self::with_root(root, open))
    }

    fn with_root(root: Arc<Directory>, open: OpenDirectories) -> Self {
        let user = rustix::process::geteuid().as_raw();
        let group = rustix::process::getegid().as_raw();
        FilesTarget { root, open, user, group, mask: creation_mask() }
    }

    /// The directory that everything goes below.
    pub fn root(&self) -> &Arc<Directory> {
        &self.root
    }

    fn descriptor(&self, directory: &Arc<Directory>) -> io::Result<Arc<OwnedFd>> {
        self.open.descriptor(directory)
    }

    /// What stands under this name, itself and not what it points to.
    pub fn stat(&self, directory: &Arc<Directory>, name: &[u8]) -> io::Result<Option<Existing>> {
        check_name(name)?;
        if !directory.exists() {
            return Ok(None);
        }
        let descriptor = self.descriptor(directory)?;
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
        let stat = match statx(&descriptor, name, flags, StatxFlags::BASIC_STATS) {
            Err(Errno::NOENT) => return Ok(None),
            result => result?,
        };
        let mtime =
            Timestamp { seconds: stat.stx_mtime.tv_sec, nanoseconds: stat.stx_mtime.tv_nsec };
        Ok(Some(Existing {
            kind: FileType::from_raw_mode(u32::from(stat.stx_mode)),
            size: stat.stx_size,
            mtime,
            mode: u32::from(stat.stx_mode) & 0o7777,
            uid: stat.stx_uid,
            gid: stat.stx_gid,
            links: u64::from(stat.stx_nlink),
            identity: (makedev(stat.stx_dev_major, stat.stx_dev_minor), stat.stx_ino),
            device_number: makedev(stat.stx_rdev_major, stat.stx_rdev_minor),
        }))
    }

    /// The directory of this name, made if it is not there. What stands there and is no directory is
    /// removed when `replace` says so, and is an error ([`io::ErrorKind::AlreadyExists`]) else.
    pub fn ensure_directory(
        &self,
        parent: &Arc<Directory>,
        name: &[u8],
        replace: bool,
    ) -> io::Result<Arc<Directory>> {
        check_name(name)?;
        let above = self.descriptor(parent)?;
        let mut may_replace = replace;
        loop {
            match mkdirat(&above, name, PRIVATE_DIRECTORY) {
                Ok(()) => return self.opened_new(parent, &above, name),
                Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
            match open_writable(above.as_fd(), name, self.user) {
                Ok((descriptor, stat)) => {
                    let has_default_acl = has_default_acl(&descriptor);
                    let group = known_group(stat.st_gid);
                    let opened = Opened { descriptor, stat, is_new: false, group, has_default_acl };
                    return Ok(self.open.add(Some(parent), name, opened));
                }
                Err(error) if is_no_directory(&error) && may_replace => {
                    may_replace = false;
                    unlinkat(&above, name, AtFlags::empty())?;
                }
                Err(error) if is_no_directory(&error) => {
                    let message = "something that is no directory is in its place";
                    return Err(io::Error::new(io::ErrorKind::AlreadyExists, message));
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn opened_new(
        &self,
        parent: &Arc<Directory>,
        above: &OwnedFd,
        name: &[u8],
    ) -> io::Result<Arc<Directory>> {
        let descriptor = open_directory(above.as_fd(), name)?;
        let stat = fstat(&descriptor)?;
        if parent.has_default_acl {
            metadata::drop_inherited_rules(descriptor.as_fd())?;
        }
        let group = known_group(stat.st_gid);
        let opened = Opened { descriptor, stat, is_new: true, group, has_default_acl: false };
        Ok(self.open.add(Some(parent), name, opened))
    }

    /// The directory of this name as it is, for looking only; it need not be there.
    pub fn look_at_directory(
        &self,
        parent: &Arc<Directory>,
        name: &[u8],
    ) -> io::Result<Arc<Directory>> {
        check_name(name)?;
        if !parent.exists() {
            return Ok(Directory::absent(Some(parent), name));
        }
        let descriptor = match open_directory(self.descriptor(parent)?.as_fd(), name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound || is_no_directory(&error) => {
                return Ok(Directory::absent(Some(parent), name));
            }
            result => result?,
        };
        let stat = fstat(&descriptor)?;
        let opened =
            Opened { descriptor, stat, is_new: false, group: None, has_default_acl: false };
        Ok(self.open.add(Some(parent), name, opened))
    }

    /// Makes a file that is to have this metadata; an error if the name is taken.
    pub fn create_file(
        &self,
        directory: &Arc<Directory>,
        name: &[u8],
        metadata: &Metadata,
    ) -> io::Result<TargetFile> {
        check_name(name)?;
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = self.first_mode(directory, metadata);
        let descriptor = openat(self.descriptor(directory)?, name, flags, mode)?;
        let mode = mode.as_raw_mode() & !self.mask;
        let is_kept = || fstat(&descriptor).is_ok_and(|stat| stat.st_mode & 0o7777 == mode);
        let is_known = !directory.has_default_acl && *directory.keeps_modes.get_or_init(is_kept);
        let mode = is_known.then_some(mode);
        Ok(TargetFile::new(File::from(descriptor), mode))
    }

    /// The mode that a file is made with: at once the one that it is to have, which saves a call for each file, where it
    /// already has the owner and nothing that is set later asks for another. Nobody reaches it before it is finished: a
    /// directory made in this run is its maker's alone until all that is in it is; but for the root, which others may enter.
    fn first_mode(&self, directory: &Directory, metadata: &Metadata) -> Mode {
        let (mode, owner) = (metadata.mode, &metadata.owner);
        let has_owner = owner.uid == self.user && directory.group == Some(owner.gid);
        let is_plain = mode & !0o777 == 0 && mode & 0o600 == 0o600 && mode & self.mask == 0;
        let is_at_once = directory.is_new
            && !std::ptr::eq(directory, &*self.root)
            && !directory.has_default_acl
            && directory.keeps_modes.get() != Some(&false)
            && has_owner
            && is_plain
            && metadata.attributes.is_empty();
        if is_at_once { Mode::from_raw_mode(mode) } else { PRIVATE_FILE }
    }

    /// Opens a regular file that is there, for reading and writing.
    pub fn open_file(&self, directory: &Arc<Directory>, name: &[u8]) -> io::Result<TargetFile> {
        self.open_regular(directory, name, OFlags::RDWR)
    }

    /// Opens a regular file that is there, for reading.
    pub fn read_file(&self, directory: &Arc<Directory>, name: &[u8]) -> io::Result<TargetFile> {
        self.open_regular(directory, name, OFlags::RDONLY)
    }

    fn open_regular(
        &self,
        directory: &Arc<Directory>,
        name: &[u8],
        access: OFlags,
    ) -> io::Result<TargetFile> {
        check_name(name)?;
        let above = self.descriptor(directory)?;
        // It may have become a pipe since somebody looked: nothing must wait for the other end.
        let flags = access | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let descriptor = match openat(&above, name, flags, Mode::empty()) {
            Err(Errno::ACCESS) if access == OFlags::RDWR => {
                self.permit_writing(&above, name)?;
                openat(&above, name, flags, Mode::empty())?
            }
            result => result?,
        };
        if FileType::from_raw_mode(fstat(&descriptor)?.st_mode) != FileType::RegularFile {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "no longer a regular file"));
        }
        Ok(TargetFile::new(File::from(descriptor), None))
    }

    /// Lets the owner of a read-only file write it; its mode is set again when it is finished.
    fn permit_writing(&self, above: &OwnedFd, name: &[u8]) -> io::Result<()> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let found = openat(above, name, flags, Mode::empty())?;
        let stat = fstat(&found)?;
        let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        if !is_file || stat.st_uid != self.user {
            return Err(Errno::ACCESS.into());
        }
        let path = format!("/proc/self/fd/{}", found.as_raw_fd());
        Ok(chmod(path.as_str(), Mode::from_raw_mode(stat.st_mode & 0o7777 | 0o600))?)
    }

    /// Makes what is neither file nor directory; an error if the name is taken.
    pub fn create_special(
        &self,
        directory: &Arc<Directory>,
        name: &[u8],
        node: &Node,
    ) -> io::Result<()> {
        check_name(name)?;
        let above = self.descriptor(directory)?;
        let (kind, number) = match node {
            Node::Symlink(target) => return Ok(symlinkat(&target[..], &above, name)?),
            Node::Fifo => (FileType::Fifo, 0),
            Node::Socket => (FileType::Socket, 0),
            Node::CharDevice(number) => (FileType::CharacterDevice, *number),
            Node::BlockDevice(number) => (FileType::BlockDevice, *number),
            Node::File(_) | Node::Directory { .. } => return Err(Errno::INVAL.into()),
        };
        Ok(mknodat(&above, name, kind, PRIVATE_FILE, number)?)
    }

    /// Where a symbolic link points.
    pub fn read_link(&self, directory: &Arc<Directory>, name: &[u8]) -> io::Result<Vec<u8>> {
        check_name(name)?;
        Ok(readlinkat(self.descriptor(directory)?, name, Vec::new())?.into_bytes())
    }

    /// Gives a file, or whatever is no directory, a second name; an error if that is taken.
    pub fn link(
        &self,
        (directory, name): (&Arc<Directory>, &[u8]),
        (new_directory, new_name): (&Arc<Directory>, &[u8]),
    ) -> io::Result<()> {
        check_name(name)?;
        check_name(new_name)?;
        let (from, to) = (self.descriptor(directory)?, self.descriptor(new_directory)?);
        Ok(linkat(&from, name, &to, new_name, AtFlags::empty())?)
    }
}

/// Names come from decoded directories, which refuse these; a target does not rest on that.
fn check_name(name: &[u8]) -> io::Result<()> {
    if is_valid_name(name) {
        return Ok(());
    }
    let message = format!("{:?} is no file name", Printable(name).to_string());
    Err(io::Error::new(io::ErrorKind::InvalidInput, message))
}

/// Whether an error says that what was to be a directory is something else: a link is not followed, and
/// the system says so in either of two ways.
fn is_no_directory(error: &io::Error) -> bool {
    let code = error.raw_os_error();
    code == Some(Errno::NOTDIR.raw_os_error()) || code == Some(Errno::LOOP.raw_os_error())
}

/// The group that files made in a directory of group `gid` get. They get the maker's or the directory's,
/// as the set-group-id bit and the mount say; it is certain when the two are the same.
fn known_group(gid: u32) -> Option<u32> {
    (gid == rustix::process::getegid().as_raw()).then_some(gid)
}

fn has_default_acl(directory: &OwnedFd) -> bool {
    // Not with an empty buffer: rustix then says that the value is empty.
    let mut some = [0; 1];
    matches!(fgetxattr(directory, DEFAULT_ACL, &mut some[..]), Ok(1..) | Err(Errno::RANGE))
}

/// The file mode creation mask. It is read where Linux shows it: the call that tells it sets it, for all threads. Where
/// it is not shown it is taken for one that takes everything, so that each mode is set afterwards.
fn creation_mask() -> u32 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let shown = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    shown.and_then(|mask| u32::from_str_radix(mask.trim(), 8).ok()).unwrap_or(0o777)
}
