//! Directories that are being walked or read from: found by descriptor, never by a path that somebody
//! could redirect, and with a bound on how many are open.

use std::collections::VecDeque;
use std::ffi::CStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::Weak;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use rustix::fs::CWD;
use rustix::fs::FileType;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::fs::RawDir;
use rustix::fs::Statx;
use rustix::fs::openat;
use rustix::io::Errno;

use super::read::Identity;
use super::read::stat_descriptor;

/// How many directories one walk keeps open: a fifth of the usual limit of 1 024 descriptors, whatever
/// the depth of the tree and however many files wait to be read.
const MAX_OPEN_DIRECTORIES: usize = 200;

/// Flags with which a directory is only passed through: needs no permission to list it.
const PASS_THROUGH: OFlags =
    OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A directory, shared by the walk and by all that is to be read in it. Its descriptor is closed with the
/// last user or when too many are open; who needs it then gets it reopened: from the root, name by name,
/// following no link, and only if it is still the same directory.
pub(super) struct Directory {
    /// The directory this is in. Paths are made from it when they are wanted: in a tree of thousands of
    /// levels, whole paths of all of them would take a hundred megabytes.
    parent: Option<Arc<Directory>>,
    /// The name in `parent`; without a parent, a real path.
    name: Box<[u8]>,
    identity: Identity,
    descriptor: Mutex<Option<Arc<CountedDescriptor>>>,
}

/// A descriptor that is counted as long as it is open.
pub(super) struct CountedDescriptor {
    descriptor: OwnedFd,
    open_count: Arc<AtomicUsize>,
}

impl CountedDescriptor {
    fn new(descriptor: OwnedFd, open_count: &Arc<AtomicUsize>) -> Arc<Self> {
        open_count.fetch_add(1, Ordering::Relaxed);
        Arc::new(CountedDescriptor { descriptor, open_count: Arc::clone(open_count) })
    }
}

impl AsFd for CountedDescriptor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

impl Drop for CountedDescriptor {
    fn drop(&mut self) {
        self.open_count.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The descriptor of a directory, for one use.
pub(super) enum Borrowed {
    Shared(Arc<CountedDescriptor>),
    Own(OwnedFd),
}

impl AsFd for Borrowed {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Borrowed::Shared(descriptor) => descriptor.as_fd(),
            Borrowed::Own(descriptor) => descriptor.as_fd(),
        }
    }
}

impl Directory {
    /// The real path of an entry, in normal form.
    pub(super) fn path_of(&self, name: &[u8]) -> Vec<u8> {
        let mut path = Vec::new();
        for name in self.chain().into_iter().chain([name]) {
            // `.` is what a source that is the root itself is called.
            if !matches!(name, b"." | b"/") {
                path.extend(name.strip_prefix(b"/").is_none().then_some(b'/'));
                path.extend_from_slice(name);
            }
        }
        if path.is_empty() { vec![b'/'] } else { path }
    }

    /// The names from the outermost directory, whose name is a path, to this one.
    fn chain(&self) -> Vec<&[u8]> {
        let outwards = std::iter::successors(Some(self), |directory| directory.parent.as_deref());
        let mut names: Vec<&[u8]> = outwards.map(|directory| &*directory.name).collect();
        names.reverse();
        names
    }

    /// A descriptor to name entries by (it may not be good for listing).
    pub(super) fn descriptor(&self) -> io::Result<Borrowed> {
        if let Some(descriptor) = &*self.lock() {
            return Ok(Borrowed::Shared(Arc::clone(descriptor)));
        }
        self.reopen_from_root().map(Borrowed::Own)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Arc<CountedDescriptor>>> {
        self.descriptor.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reopen_from_root(&self) -> io::Result<OwnedFd> {
        let mut names = self.chain().into_iter();
        let mut descriptor = open_path(names.next().unwrap_or_default())?;
        for name in names {
            descriptor = openat(&descriptor, name, PASS_THROUGH, Mode::empty())?;
        }
        self.verified(descriptor)
    }

    /// Hands on a descriptor if it is this directory's.
    fn verified(&self, descriptor: OwnedFd) -> io::Result<OwnedFd> {
        if Identity::of(&stat_descriptor(descriptor.as_fd())?) == self.identity {
            return Ok(descriptor);
        }
        Err(io::Error::new(io::ErrorKind::NotFound, "the directory was moved or replaced"))
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

/// Opens a directory for passing through by its real path of any length, following no link.
pub(super) fn open_path(path: &[u8]) -> io::Result<OwnedFd> {
    let mut descriptor = openat(CWD, c"/", PASS_THROUGH, Mode::empty())?;
    for component in path.split(|byte| *byte == b'/').filter(|component| !component.is_empty()) {
        descriptor = openat(&descriptor, component, PASS_THROUGH, Mode::empty())?;
    }
    Ok(descriptor)
}

/// Opens the directory `name` for listing, not followed if it has become a link. Reading it does not
/// change its access time where the system lets us.
pub(super) fn open_for_listing(parent: BorrowedFd<'_>, name: &CStr) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    open_quietly(parent, name, flags)
}

/// Opens the directory `name` for passing through.
pub(super) fn open_for_passing(parent: BorrowedFd<'_>, name: &CStr) -> io::Result<OwnedFd> {
    Ok(openat(parent, name, PASS_THROUGH, Mode::empty())?)
}

/// Opens without changing the access time, which only the owner and the administrator may.
pub(super) fn open_quietly(
    parent: BorrowedFd<'_>,
    name: &CStr,
    flags: OFlags,
) -> io::Result<OwnedFd> {
    match openat(parent, name, flags | OFlags::NOATIME, Mode::empty()) {
        Err(Errno::PERM) => Ok(openat(parent, name, flags, Mode::empty())?),
        result => Ok(result?),
    }
}

/// The directories of one walk, of which a bounded number is open.
#[derive(Default)]
pub(super) struct OpenDirectories {
    open_count: Arc<AtomicUsize>,
    /// In the order of opening; those that were closed or dropped are forgotten when they are met.
    opened: VecDeque<Weak<Directory>>,
}

impl OpenDirectories {
    /// Takes an open descriptor in as the directory `name` of `parent` (without one: the directory at a
    /// real path), closing the one that was opened longest ago if there
    /// are too many.
    pub(super) fn add(
        &mut self,
        descriptor: OwnedFd,
        parent: Option<&Arc<Directory>>,
        name: &[u8],
        stat: &Statx,
    ) -> Arc<Directory> {
        let descriptor = CountedDescriptor::new(descriptor, &self.open_count);
        let directory = Arc::new(Directory {
            parent: parent.map(Arc::clone),
            name: Box::from(name),
            identity: Identity::of(stat),
            descriptor: Mutex::new(Some(descriptor)),
        });
        self.remember(&directory);
        directory
    }

    /// The descriptor for the walk, which goes on in this directory: it stays open.
    pub(super) fn descriptor(
        &mut self,
        directory: &Arc<Directory>,
    ) -> io::Result<Arc<CountedDescriptor>> {
        if let Some(descriptor) = &*directory.lock() {
            return Ok(Arc::clone(descriptor));
        }
        Ok(self.keep(directory, directory.reopen_from_root()?))
    }

    /// The walk goes back from `child` to `parent`: if that was closed, it is reopened by way of the
    /// child, because in a tree of n levels the way from the root would take n opens a level.
    pub(super) fn return_to(&mut self, parent: &Arc<Directory>, child: &Directory) {
        if parent.lock().is_some() {
            return;
        }
        let Some(child) = child.lock().clone() else { return };
        // If this fails, the walk asks again and then goes from the root.
        let opened = openat(&child, c"..", PASS_THROUGH, Mode::empty());
        if let Ok(descriptor) = opened.map_err(io::Error::from).and_then(|fd| parent.verified(fd)) {
            self.keep(parent, descriptor);
        }
    }

    /// How many are open now.
    #[cfg(test)]
    pub(super) fn open_count(&self) -> usize {
        self.open_count.load(Ordering::Relaxed)
    }

    fn keep(&mut self, directory: &Arc<Directory>, descriptor: OwnedFd) -> Arc<CountedDescriptor> {
        let descriptor = CountedDescriptor::new(descriptor, &self.open_count);
        *directory.lock() = Some(Arc::clone(&descriptor));
        self.remember(directory);
        descriptor
    }

    fn remember(&mut self, directory: &Arc<Directory>) {
        self.opened.push_back(Arc::downgrade(directory));
        // Never the newest, which the walk is about to use.
        while self.open_count.load(Ordering::Relaxed) > MAX_OPEN_DIRECTORIES
            && self.opened.len() > 1
        {
            if let Some(oldest) = self.opened.pop_front().and_then(|oldest| oldest.upgrade()) {
                *oldest.lock() = None;
            }
        }
        if self.opened.len() > 4 * MAX_OPEN_DIRECTORIES {
            self.opened.retain(|directory| directory.strong_count() > 0);
        }
    }
}

/// The names in a directory, sorted as bytes. About 17 bytes beside each name: a directory of a million
/// entries takes some 40 MB while it is walked.
#[derive(Default)]
pub(super) struct Names {
    /// All names, each ended by NUL.
    arena: Vec<u8>,
    sorted: Vec<NameReference>,
}

#[derive(Clone, Copy)]
struct NameReference {
    offset: usize,
    length: u16,
    kind: FileType,
}

impl Names {
    /// Adds a name, after all that sort before it unless [`Names::read`] follows.
    pub(super) fn push(&mut self, name: &CStr, kind: FileType) {
        // The record the system hands names over in holds its own length in sixteen bits.
        let length = u16::try_from(name.count_bytes()).expect("names are shorter than 64 KiB");
        self.sorted.push(NameReference { offset: self.arena.len(), length, kind });
        self.arena.extend_from_slice(name.to_bytes_with_nul());
    }

    /// Reads all names of an open directory but `.` and `..`. When that fails in the middle, the names
    /// read so far are kept.
    pub(super) fn read(&mut self, directory: BorrowedFd<'_>) -> io::Result<()> {
        let mut buffer = [MaybeUninit::uninit(); 32 << 10];
        let mut entries = RawDir::new(directory, &mut buffer);
        let mut result = Ok(());
        while let Some(entry) = entries.next() {
            match entry {
                Ok(entry) if matches!(entry.file_name().to_bytes(), b"." | b"..") => {}
                Ok(entry) => self.push(entry.file_name(), entry.file_type()),
                Err(error) => {
                    result = Err(error.into());
                    break;
                }
            }
        }
        let arena = &self.arena;
        self.sorted.sort_unstable_by_key(|name| bytes_of(arena, *name));
        result
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.sorted.len()
    }

    /// The name at this place of the order, and its kind if the directory knows it.
    pub(super) fn get(&self, index: usize) -> (&CStr, FileType) {
        let name = self.sorted[index];
        (text_of(&self.arena, name), name.kind)
    }

    /// Whether this name is there, not as a directory.
    pub(super) fn contains(&self, name: &[u8]) -> bool {
        let found = self.sorted.binary_search_by_key(&name, |own| bytes_of(&self.arena, *own));
        found.is_ok_and(|index| self.sorted[index].kind != FileType::Directory)
    }

    /// Leaves only the names that `keep` wants.
    pub(super) fn retain(&mut self, keep: impl Fn(&CStr) -> bool) {
        let arena = &self.arena;
        self.sorted.retain(|name| keep(text_of(arena, *name)));
    }
}

fn bytes_of(arena: &[u8], name: NameReference) -> &[u8] {
    &arena[name.offset..][..usize::from(name.length)]
}

fn text_of(arena: &[u8], name: NameReference) -> &CStr {
    let bytes = &arena[name.offset..][..usize::from(name.length) + 1];
    CStr::from_bytes_with_nul(bytes).expect("every name was copied from a CStr with its end")
}
