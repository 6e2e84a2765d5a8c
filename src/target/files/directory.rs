//! Directories of a target: reached from its root name by name, never by a path that somebody could
//! redirect, and with a bound on how many are open.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::OnceLock;
use std::sync::PoisonError;
use std::sync::Weak;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::fs::Stat;
use rustix::fs::chmod;
use rustix::fs::fstat;
use rustix::fs::openat;
use rustix::io::Errno;
use rustix::process::Resource;
use rustix::process::getrlimit;

/// How many directories are open at a time at the least: an eighth of the usual limit of 1 024 descriptors.
const LEAST_OPEN_DIRECTORIES: usize = 128;
/// And at the most: those of two windows of a restore are used in turns, and one that was closed has to be reached anew.
pub(super) const MOST_OPEN_DIRECTORIES: usize = 4096;

/// Of a directory that has to be reached again, how many of those above it are kept open, too. A tree of
/// thousands of levels is finished from the inside outwards: without this, each level would be reached
/// from the root again.
const REOPENED_TOGETHER: usize = 64;

const OPEN: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
const PASS_THROUGH: OFlags =
    OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A directory of the target. Its descriptor is closed when too many are open; who needs it then gets it
/// reopened, following no link, and only if it is still the same directory.
pub struct Directory {
    parent: Option<Arc<Directory>>,
    name: Box<[u8]>,
    /// `None`: it is not there (a dry run would make it).
    identity: Option<(u64, u64)>,
    descriptor: Mutex<Option<Arc<OwnedFd>>>,
    was_used: AtomicBool,
    pub(super) is_new: bool,
    /// The group that files made in it get, where that is certain.
    pub(super) group: Option<u32>,
    /// Whether files made in it inherit access rules.
    pub(super) has_default_acl: bool,
    /// Whether the first file that was made in it got the mode that it was asked for: some file systems of servers and of
    /// other systems give another one.
    pub(super) keeps_modes: OnceLock<bool>,
}

impl Directory {
    /// Whether it was made in this run, so that nothing is in it but what this run puts there.
    pub fn is_new(&self) -> bool {
        self.is_new
    }

    /// Whether it is there at all. In a dry run it may not be.
    pub fn exists(&self) -> bool {
        self.identity.is_some()
    }

    /// The path from the target's root down, each name behind a `/`; empty for the root.
    pub fn path(&self) -> Vec<u8> {
        let mut names = Vec::new();
        let mut directory = Some(self);
        while let Some(inner) = directory.filter(|inner| inner.parent.is_some()) {
            names.push(&inner.name);
            directory = inner.parent.as_deref();
        }
        let mut path = Vec::new();
        for name in names.into_iter().rev() {
            path.push(b'/');
            path.extend_from_slice(name);
        }
        path
    }

    /// A directory that is not there.
    pub(super) fn absent(parent: Option<&Arc<Directory>>, name: &[u8]) -> Arc<Self> {
        Arc::new(Directory {
            parent: parent.cloned(),
            name: Box::from(name),
            identity: None,
            descriptor: Mutex::default(),
            was_used: AtomicBool::new(false),
            is_new: true,
            group: None,
            has_default_acl: false,
            keeps_modes: OnceLock::new(),
        })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Arc<OwnedFd>>> {
        self.descriptor.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // Whoever drops the innermost directory last would drop the rest by recursion, which thousands
        // of levels must not do.
        let mut parent = self.parent.take();
        while let Some(mut last) = parent.and_then(Arc::into_inner) {
            parent = last.parent.take();
        }
    }
}

/// What is known of a directory when it is opened.
pub(super) struct Opened {
    pub(super) descriptor: OwnedFd,
    pub(super) stat: Stat,
    pub(super) is_new: bool,
    pub(super) group: Option<u32>,
    pub(super) has_default_acl: bool,
}

/// The directories of one target, of which a bounded number is open.
pub(super) struct OpenDirectories {
    /// Those with an open descriptor, in the order of opening.
    opened: Mutex<VecDeque<Weak<Directory>>>,
    /// How many may be open: an eighth of the files that the process may have open.
    most: usize,
}

impl Default for OpenDirectories {
    fn default() -> Self {
        let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX) / 8;
        let most = limit.clamp(LEAST_OPEN_DIRECTORIES as u64, MOST_OPEN_DIRECTORIES as u64);
        OpenDirectories { opened: Mutex::default(), most: most as usize }
    }
}

impl OpenDirectories {
    /// Takes in a directory that was just opened. The root, which has no parent, stays open.
    pub(super) fn add(
        &self,
        parent: Option<&Arc<Directory>>,
        name: &[u8],
        opened: Opened,
    ) -> Arc<Directory> {
        let directory = Arc::new(Directory {
            parent: parent.cloned(),
            name: Box::from(name),
            identity: Some((opened.stat.st_dev, opened.stat.st_ino)),
            descriptor: Mutex::new(Some(Arc::new(opened.descriptor))),
            was_used: AtomicBool::new(true),
            is_new: opened.is_new,
            group: opened.group,
            has_default_acl: opened.has_default_acl,
            keeps_modes: OnceLock::new(),
        });
        if parent.is_some() {
            self.remember(&directory);
        }
        directory
    }

    /// The descriptor of a directory, to name entries by.
    pub(super) fn descriptor(&self, directory: &Arc<Directory>) -> io::Result<Arc<OwnedFd>> {
        if let Some(descriptor) = &*directory.lock() {
            directory.was_used.store(true, Ordering::Relaxed);
            return Ok(Arc::clone(descriptor));
        }
        self.reopen(directory)
    }

    /// Reaches a directory again from the nearest one above it that is open.
    fn reopen(&self, directory: &Arc<Directory>) -> io::Result<Arc<OwnedFd>> {
        let mut closed = vec![directory];
        let mut descriptor = loop {
            let innermost = closed[closed.len() - 1];
            let Some(parent) = &innermost.parent else {
                return Err(io::Error::new(io::ErrorKind::NotFound, "the directory is not there"));
            };
            if let Some(descriptor) = &*parent.lock() {
                parent.was_used.store(true, Ordering::Relaxed);
                break Arc::clone(descriptor);
            }
            closed.push(parent);
        };
        for (depth, inner) in closed.into_iter().enumerate().rev() {
            let opened = open_directory(descriptor.as_fd(), &inner.name)?;
            let stat = fstat(&opened)?;
            if inner.identity != Some((stat.st_dev, stat.st_ino)) {
                let message = "the directory was moved or replaced by somebody else";
                return Err(io::Error::new(io::ErrorKind::NotFound, message));
            }
            descriptor = Arc::new(opened);
            if depth < REOPENED_TOGETHER {
                *inner.lock() = Some(Arc::clone(&descriptor));
                inner.was_used.store(true, Ordering::Relaxed);
                self.remember(inner);
            }
        }
        Ok(descriptor)
    }

    /// Counts an open directory, and closes those that were not used lately while there are too many.
    fn remember(&self, directory: &Arc<Directory>) {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        opened.push_back(Arc::downgrade(directory));
        // Each is passed over once if it was used since its last turn, so this ends.
        while opened.len() > self.most {
            let Some(oldest) = opened.pop_front().and_then(|oldest| oldest.upgrade()) else {
                continue;
            };
            if oldest.was_used.swap(false, Ordering::Relaxed) {
                opened.push_back(Arc::downgrade(&oldest));
            } else {
                *oldest.lock() = None;
            }
        }
    }
}

/// Opens a directory for listing, or where that is not permitted, for passing through.
pub(super) fn open_directory(parent: BorrowedFd<'_>, name: &[u8]) -> io::Result<OwnedFd> {
    match openat(parent, name, OPEN, Mode::empty()) {
        Err(Errno::ACCESS) => Ok(openat(parent, name, PASS_THROUGH, Mode::empty())?),
        result => Ok(result?),
    }
}

/// Opens a directory that was there before, and lets its owner write in it: a restored directory may
/// be read-only, and must be writable to be restored again. Its mode is set when it is finished.
pub(super) fn open_writable(
    parent: BorrowedFd<'_>,
    name: &[u8],
    user: u32,
) -> io::Result<(OwnedFd, Stat)> {
    let descriptor = open_directory(parent, name)?;
    let stat = fstat(&descriptor)?;
    let lacks_rights = stat.st_mode & 0o700 != 0o700;
    if !lacks_rights || user == 0 || stat.st_uid != user {
        return Ok((descriptor, stat));
    }
    // Through /proc, because a descriptor for passing through takes no new mode.
    let path = format!("/proc/self/fd/{}", descriptor.as_raw_fd());
    chmod(path.as_str(), Mode::from_raw_mode(stat.st_mode & 0o7777 | 0o700))?;
    Ok((open_directory(parent, name)?, stat))
}
