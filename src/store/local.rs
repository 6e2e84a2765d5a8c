//! A directory of this machine as a store: an OpenDAL service of our own, because OpenDAL's neither
//! publishes without replacing nor makes directories durable.
//!
//! What holds, numbered so that code and tests can name it:
//!
//! 1. *Whole or not at all.* An object gets its name only after all its bytes are written and
//!    synced; whoever sees the name sees the bytes, after any crash.
//! 2. *One winner.* The name is given by `renameat2(RENAME_NOREPLACE)`, where that is unknown by
//!    `link`: both refuse a name that is taken, in one step of the kernel (over NFS: the server).
//! 3. *Durable when reported.* The directory, and every directory newly made on the way to it, is
//!    synced before a create returns: also before "already there", since the answer may be acted
//!    on. What a listing or a read shows may for a moment be less durable than that, until its
//!    writer's create returns.
//! 4. *A temporary is never mistaken.* Unfinished bytes stand in `tmp/` under 128 random bits that
//!    no other writer on any machine uses, so that sweeping one by error makes its create start
//!    again, and never publishes somebody else's bytes. Nothing in `tmp/` is ever listed.
//! 5. *A living temporary is not swept.* Its writer holds a `flock` on it from before its first
//!    byte; one whose lock is free has lost its writer and goes when the store is opened next.
//! 6. *The directory stays the one that was opened.* All paths start from its descriptor: a disk
//!    that is pulled gives errors and not a second repository in the empty mount point.
//!
//! Who may meet whom: create and create on one name (2); create and sweep (4 and 5: the sweeper has
//! to hold the lock, and a writer that got its lock late looks whether its file still has a name);
//! read and delete (an open object stays readable to its end); list and anything (what vanished in
//! between is left out, as if it had vanished before). A folder may be a symbolic link to a
//! directory elsewhere, on the same file system.
//!
//! | file system | what holds |
//! |---|---|
//! | ext4, XFS, btrfs | all; ext4 needs its journal, and barriers must not be switched off |
//! | tmpfs | all, as long as the machine runs |
//! | NFS | 1 to 4 and 6, by `link`, if the server exports with `sync`; locks may not reach from one machine to another, so a sweep there may make a create start again (4) |
//! | exFAT, FAT | 2 to 6; no journal: a crash of the machine may damage the file system itself (1), and all files belong to whoever mounted it, whatever their permission bits |
//! | FUSE | what the file system below does; one that knows neither the rename nor `link` is refused at the first create |
//!
//! Files are made with mode 0600, directories with 0700. A mebibyte and more is written and read past the page cache
//! (`direct`), but not over a network and not through FUSE, where that is slow or means something else.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::vec::IntoIter;

use opendal::raw::oio;
use opendal::raw::{
    OpCopy, OpCreateDir, OpDelete, OpList, OpPresign, OpRead, OpRename, OpStat, OpWrite,
    RpCreateDir, RpPresign, RpRead, RpRename, RpStat, Service, ServiceInfo,
};
use opendal::{
    Buffer, BytesRange, Capability, Error, ErrorKind, Metadata, MetadataBuilder, OperationContext,
    Result,
};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{
    AtFlags, CWD, Dir, FileType, FlockOperation, Mode, OFlags, RenameFlags, Stat, fdatasync, flock,
    fstat, fsync, linkat, mkdirat, openat, renameat, renameat_with, statat, unlinkat,
};
use rustix::io::{Errno, retry_on_intr};

use super::LocalMode;
use super::direct::{self, Output};
use super::layout::is_part;
use super::spare;

/// Where unfinished objects stand, from the store's directory. Not in their own folder: one
/// directory is swept in a moment, 256 folders of packs are not.
const TEMPORARY: &str = "tmp";
/// Directory loops (a symbolic link that leads upwards) end here; names have three parts.
const MOST_FOLDERS: usize = 8;
/// How often a create starts again when its temporary was swept.
const MOST_ATTEMPTS: usize = 4;

const FILE_MODE: Mode = Mode::RUSR.union(Mode::WUSR);
const DIRECTORY_MODE: Mode = Mode::RWXU;
const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// One directory. Clones share it.
#[derive(Clone)]
pub(super) struct LocalService {
    root: Arc<OwnedFd>,
    // Whether this file system knows RENAME_NOREPLACE: assumed until it says no.
    renames: Arc<AtomicBool>,
    // Whether large objects are written and read past the page cache, where the file system can.
    is_direct: bool,
    info: ServiceInfo,
}

impl LocalService {
    /// Opens or makes the directory and sweeps what dead writers left.
    pub(super) fn open(path: &Path, mode: LocalMode) -> Result<Self> {
        if mode == LocalMode::Create {
            make_directories(CWD, path).map_err(|errno| failed("cannot make", errno))?;
        }
        let root = openat(CWD, path, DIRECTORY, Mode::empty())
            .map_err(|errno| failed("cannot open the directory", errno))?;
        let service = LocalService {
            is_direct: direct::is_for(&root),
            root: Arc::new(root),
            renames: Arc::new(AtomicBool::new(true)),
            info: ServiceInfo::new("local", path.to_string_lossy(), ""),
        };
        service.sweep();
        Ok(service)
    }

    /// Removes temporaries whose writers are dead (invariant 5). Whatever cannot be locked or
    /// removed, on a read-only medium for example, stays and does no harm.
    fn sweep(&self) {
        let Ok(entries) = openat(&*self.root, TEMPORARY, DIRECTORY, Mode::empty()) else { return };
        let Ok(names) = Dir::read_from(&entries) else { return };
        for name in names.flatten().filter(|entry| !entry.file_name().to_bytes().starts_with(b"."))
        {
            let name = name.file_name();
            // Writable, or NFS gives no exclusive lock.
            let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOFOLLOW;
            let Ok(file) = openat(&entries, name, flags, Mode::empty()) else { continue };
            if flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
                let _ = unlinkat(&entries, name, AtFlags::empty());
            }
        }
    }

    /// Writes all of `bytes`, then gives them the name `path`.
    fn publish(&self, path: &str, bytes: &Buffer, if_not_exists: bool) -> Result<()> {
        if path.split('/').next() == Some(TEMPORARY) {
            return Err(Error::new(ErrorKind::Unsupported, "tmp/ is the store's own folder"));
        }
        let folder = path.rsplit_once('/').map_or(".", |(folder, _)| folder);
        for _ in 0..MOST_ATTEMPTS {
            let mut temporary = self.temporary()?;
            Output::new(&temporary.file, self.is_direct && bytes.len() >= direct::LEAST)
                .write(bytes)
                .map_err(|errno| failed("cannot write", errno))?;
            fdatasync(&temporary.file).map_err(|errno| failed("cannot write", errno))?;
            let mut named = self.give_name(&mut temporary, path, if_not_exists);
            if named == Err(Errno::NOENT) {
                // The folder is missing, or the temporary is.
                make_directories(&*self.root, Path::new(folder))
                    .map_err(|errno| failed("cannot make the folder", errno))?;
                named = self.give_name(&mut temporary, path, if_not_exists);
            }
            match named {
                Ok(()) => {}
                Err(Errno::NOENT) if temporary.was_swept() => continue,
                Err(Errno::EXIST) => {
                    // Another writer's name may not be durable yet (invariant 3).
                    self.sync_folder(folder)?;
                    return Err(Error::new(ErrorKind::ConditionNotMatch, "already there"));
                }
                Err(Errno::PERM | Errno::NOTSUP | Errno::NOSYS | Errno::INVAL)
                    if !self.renames.load(Ordering::Relaxed) =>
                {
                    return Err(Error::new(
                        ErrorKind::Unsupported,
                        "this file system can neither rename without replacing nor link, so two \
                         writers could destroy each other's objects here",
                    ));
                }
                Err(errno) => return Err(failed("cannot give the object its name", errno)),
            }
            return self.sync_folder(folder);
        }
        Err(Error::new(ErrorKind::Unexpected, "unfinished objects vanish from tmp/"))
    }

    /// A new file in `tmp/`, locked (invariants 4 and 5).
    fn temporary(&self) -> Result<Temporary<'_>> {
        for _ in 0..MOST_ATTEMPTS {
            let mut random = [0; 16];
            getrandom::fill(&mut random).map_err(|error| {
                Error::new(ErrorKind::Unexpected, "no random numbers").set_source(error)
            })?;
            let name = format!("{TEMPORARY}/{:032x}", u128::from_le_bytes(random));
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            let mut opened = openat(&*self.root, &name, flags, FILE_MODE);
            if matches!(opened, Err(Errno::NOENT)) {
                make_directories(&*self.root, Path::new(TEMPORARY))
                    .map_err(|errno| failed("cannot make tmp/", errno))?;
                opened = openat(&*self.root, &name, flags, FILE_MODE);
            }
            let file = opened.map_err(|errno| failed("cannot make a file in tmp/", errno))?;
            let temporary = Temporary { root: &self.root, name, file, has_name: true };
            // Where locks are unknown nobody sweeps either.
            let _ = retry_on_intr(|| flock(&temporary.file, FlockOperation::LockExclusive));
            if !temporary.was_swept() {
                return Ok(temporary);
            }
        }
        Err(Error::new(ErrorKind::Unexpected, "unfinished objects vanish from tmp/"))
    }

    /// Turns the temporary into `path` (invariant 2).
    fn give_name(
        &self,
        temporary: &mut Temporary<'_>,
        path: &str,
        if_not_exists: bool,
    ) -> std::result::Result<(), Errno> {
        let root = &*self.root;
        if !if_not_exists {
            renameat(root, &temporary.name, root, path)?;
            temporary.has_name = false;
            return Ok(());
        }
        if self.renames.load(Ordering::Relaxed) {
            let flags = RenameFlags::NOREPLACE;
            match renameat_with(root, &temporary.name, root, path, flags) {
                Ok(()) => {
                    temporary.has_name = false;
                    return Ok(());
                }
                Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {
                    self.renames.store(false, Ordering::Relaxed);
                }
                Err(errno) => return Err(errno),
            }
        }
        // The temporary's own name goes when it is dropped.
        linkat(root, &temporary.name, root, path, AtFlags::empty())
    }

    fn sync_folder(&self, folder: &str) -> Result<()> {
        sync_directory(&*self.root, Path::new(folder))
            .map_err(|errno| failed("cannot sync the folder", errno))
    }

    fn stat_path(&self, path: &str) -> Result<Metadata> {
        let is_folder = path.ends_with('/');
        let stat = statat(&*self.root, in_root(path), AtFlags::empty())
            .map_err(|errno| failed("cannot look at it", errno))?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory if is_folder => Ok(MetadataBuilder::dir().build()),
            FileType::RegularFile if !is_folder => Ok(file_metadata(&stat)),
            _ => Err(Error::new(ErrorKind::NotFound, "not found")),
        }
    }

    /// The bytes of `range`, or to the end, and the object's length.
    fn read_path(&self, path: &str, range: BytesRange) -> Result<(Buffer, u64)> {
        // O_NONBLOCK: a named pipe that somebody put there must not hang us.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = openat(&*self.root, path, flags, Mode::empty())
            .map_err(|errno| failed("cannot open", errno))?;
        let stat = fstat(&file).map_err(|errno| failed("cannot open", errno))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(Error::new(ErrorKind::IsADirectory, "is not a file"));
        }
        let size = stat.st_size as u64;
        let beyond = || Error::new(ErrorKind::RangeNotSatisfied, "range exceeds content length");
        let (start, end) = match range {
            BytesRange::Range { offset, size: Some(length) } => {
                (offset, offset.checked_add(length).ok_or_else(beyond)?)
            }
            BytesRange::Range { offset, size: None } => (offset.min(size), size),
            BytesRange::Suffix { size: length } => (size.saturating_sub(length), size),
        };
        if end > size {
            return Err(beyond());
        }
        let length = usize::try_from(end - start).map_err(|_| beyond())?;
        let mut bytes = spare::take(length);
        match direct::read(&file, start, length, &mut bytes, self.is_direct) {
            Ok(true) => bytes.truncate(length),
            // Somebody cut it while we read.
            Ok(false) => return Err(beyond()),
            Err(errno) => return Err(failed("cannot read", errno)),
        }
        Ok((Buffer::from(bytes), size))
    }

    fn delete_path(&self, path: &str) -> Result<()> {
        let path = path.trim_end_matches('/');
        match unlinkat(&*self.root, path, AtFlags::empty()) {
            Ok(()) => {}
            Err(Errno::NOENT) => return Ok(()),
            Err(errno) => return Err(failed("cannot delete", errno)),
        }
        self.sync_folder(path.rsplit_once('/').map_or(".", |(folder, _)| folder))
    }

    /// All objects below the folder of `prefix` whose names begin with it.
    fn list_prefix(&self, prefix: &str) -> Result<Vec<oio::Entry>> {
        let prefix = prefix.trim_start_matches('/');
        let (folder, mut beginning) =
            prefix.rsplit_once('/').map_or(("", prefix), |(folder, rest)| (folder, rest));
        let mut found = Vec::new();
        let mut folders = vec![folder.to_string()];
        while let Some(folder) = folders.pop() {
            self.list_folder(&folder, beginning, &mut found, &mut folders)
                .map_err(|errno| failed("cannot list", errno).with_context("folder", folder))?;
            // What stands deeper has the prefix already.
            beginning = "";
        }
        Ok(found)
    }

    fn list_folder(
        &self,
        folder: &str,
        beginning: &str,
        found: &mut Vec<oio::Entry>,
        folders: &mut Vec<String>,
    ) -> std::result::Result<(), Errno> {
        let directory = match openat(&*self.root, in_root(folder), DIRECTORY, Mode::empty()) {
            Ok(directory) => directory,
            // Never made, or removed since its parent was read.
            Err(Errno::NOENT) => return Ok(()),
            Err(errno) => return Err(errno),
        };
        for entry in Dir::read_from(&directory)? {
            let entry = entry?;
            // What no create could have made is not ours: `.`, `lost+found`, `.nfs…`.
            let Some(part) = entry.file_name().to_str().ok().filter(|part| is_part(part)) else {
                continue;
            };
            if !part.starts_with(beginning) || (folder.is_empty() && part == TEMPORARY) {
                continue;
            }
            let stat = match statat(&directory, part, AtFlags::empty()) {
                Ok(stat) => stat,
                Err(Errno::NOENT) => continue,
                Err(errno) => return Err(errno),
            };
            let path =
                if folder.is_empty() { part.to_string() } else { format!("{folder}/{part}") };
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::RegularFile => {
                    found.push(oio::Entry::with(path, file_metadata(&stat)));
                }
                FileType::Directory if path.split('/').count() > MOST_FOLDERS => {
                    return Err(Errno::LOOP);
                }
                FileType::Directory => folders.push(path),
                _ => {}
            }
        }
        Ok(())
    }
}

/// An unfinished object. Dropped, it loses its name in `tmp/`, if it still has it: nothing is left
/// by an error on the way, a full disk least of all.
struct Temporary<'a> {
    root: &'a OwnedFd,
    name: String,
    file: OwnedFd,
    has_name: bool,
}

impl Temporary<'_> {
    fn was_swept(&self) -> bool {
        fstat(&self.file).is_ok_and(|stat| stat.st_nlink == 0)
    }
}

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        if self.has_name {
            // One that stays is swept some day.
            let _ = unlinkat(self.root, &self.name, AtFlags::empty());
        }
    }
}

/// An object's length and the time of its last change, which a file's time need not be: one that OpenDAL
/// cannot hold is left out.
fn file_metadata(stat: &Stat) -> Metadata {
    let mut metadata = MetadataBuilder::file(stat.st_size as u64);
    let nanoseconds = i32::try_from(stat.st_mtime_nsec).unwrap_or(0);
    if let Ok(modified) = opendal::raw::Timestamp::new(stat.st_mtime, nanoseconds) {
        metadata.last_modified(modified);
    }
    metadata.build()
}

/// A path as `openat` wants it: the root is `.`.
fn in_root(path: &str) -> &str {
    if path.trim_matches('/').is_empty() { "." } else { path }
}

/// Makes a directory and those above it, where they are missing, and makes that durable.
fn make_directories(base: impl AsFd + Copy, path: &Path) -> std::result::Result<(), Errno> {
    let parent = match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => return Ok(()),
    };
    let mut made = mkdirat(base, path, DIRECTORY_MODE);
    if made == Err(Errno::NOENT) {
        make_directories(base, parent)?;
        made = mkdirat(base, path, DIRECTORY_MODE);
    }
    match made {
        Ok(()) => sync_directory(base, parent),
        // By somebody else, just now or long ago; a file here shows itself at the next step.
        Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// Makes the names in a directory durable.
fn sync_directory(base: impl AsFd, path: &Path) -> std::result::Result<(), Errno> {
    let directory = openat(base, path, DIRECTORY, Mode::empty())?;
    match retry_on_intr(|| fsync(&directory)) {
        // Some FUSE and network file systems have no such thing: their names are the server's.
        Err(Errno::INVAL | Errno::NOTSUP | Errno::NOSYS) => Ok(()),
        synced => synced,
    }
}

/// Whether this passes by itself: too many open files, or a server that is just coming back.
fn is_passing(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::AGAIN
            | Errno::BUSY
            | Errno::MFILE
            | Errno::NFILE
            | Errno::STALE
            | Errno::TIMEDOUT
            | Errno::NOLCK
    )
}

/// The kernel's answer as OpenDAL wants it; `StoreError` finds the number again.
fn failed(doing: &'static str, errno: Errno) -> Error {
    let kind = match errno {
        Errno::NOENT => ErrorKind::NotFound,
        Errno::ACCESS | Errno::PERM | Errno::ROFS => ErrorKind::PermissionDenied,
        Errno::NOTDIR => ErrorKind::NotADirectory,
        Errno::ISDIR => ErrorKind::IsADirectory,
        _ => ErrorKind::Unexpected,
    };
    Error::new(kind, doing).set_source(io::Error::from(errno)).with_temporary(is_passing(errno))
}

impl fmt::Debug for LocalService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LocalService({})", self.info.root())
    }
}

// The calls below block: they run on the thread of whoever called the store (`Store::block_on`).
impl Service for LocalService {
    type Reader = LocalReader;
    type Writer = oio::OneShotWriter<LocalWriter>;
    type Lister = oio::HierarchyLister<LocalLister>;
    type Deleter = oio::OneShotDeleter<LocalDeleter>;
    type Copier = ();
    type Composer = ();

    fn info(&self) -> ServiceInfo {
        self.info.clone()
    }

    fn capability(&self) -> Capability {
        Capability {
            read: true,
            read_with_suffix: true,
            write: true,
            write_can_empty: true,
            write_with_if_not_exists: true,
            stat: true,
            list: true,
            list_with_recursive: true,
            delete: true,
            ..Capability::default()
        }
    }

    async fn create_dir(
        &self,
        _: &OperationContext,
        _: &str,
        _: OpCreateDir,
    ) -> Result<RpCreateDir> {
        Err(unsupported())
    }

    async fn stat(&self, _: &OperationContext, path: &str, _: OpStat) -> Result<RpStat> {
        self.stat_path(path).map(RpStat::new)
    }

    fn read(&self, _: &OperationContext, path: &str, _: OpRead) -> Result<Self::Reader> {
        Ok(LocalReader { service: self.clone(), path: path.to_string() })
    }

    fn write(&self, _: &OperationContext, path: &str, args: OpWrite) -> Result<Self::Writer> {
        Ok(oio::OneShotWriter::new(LocalWriter {
            service: self.clone(),
            path: path.to_string(),
            if_not_exists: args.if_not_exists(),
        }))
    }

    fn delete(&self, _: &OperationContext) -> Result<Self::Deleter> {
        Ok(oio::OneShotDeleter::new(LocalDeleter { service: self.clone() }))
    }

    fn list(&self, _: &OperationContext, path: &str, args: OpList) -> Result<Self::Lister> {
        let lister = LocalLister { service: self.clone(), prefix: path.to_string(), entries: None };
        Ok(oio::HierarchyLister::new(lister, path, args.recursive()))
    }

    fn copy(&self, _: &OperationContext, _: &str, _: &str, _: OpCopy) -> Result<()> {
        Err(unsupported())
    }

    async fn rename(
        &self,
        _: &OperationContext,
        _: &str,
        _: &str,
        _: OpRename,
    ) -> Result<RpRename> {
        Err(unsupported())
    }

    async fn presign(&self, _: &OperationContext, _: &str, _: OpPresign) -> Result<RpPresign> {
        Err(unsupported())
    }
}

fn unsupported() -> Error {
    Error::new(ErrorKind::Unsupported, "a directory cannot do this")
}

/// Reads one object, opening it at each range.
pub(super) struct LocalReader {
    service: LocalService,
    path: String,
}

impl oio::Read for LocalReader {
    async fn open(&self, range: BytesRange) -> Result<(RpRead, Box<dyn oio::ReadStreamDyn>)> {
        let (reply, buffer) = self.read(range).await?;
        Ok((reply, Box::new(buffer)))
    }

    async fn read(&self, range: BytesRange) -> Result<(RpRead, Buffer)> {
        let (buffer, size) = self.service.read_path(&self.path, range)?;
        Ok((RpRead::new(MetadataBuilder::file(size).build()), buffer))
    }
}

/// Writes one object; called again, it starts from the beginning.
pub(super) struct LocalWriter {
    service: LocalService,
    path: String,
    if_not_exists: bool,
}

impl oio::OneShotWrite for LocalWriter {
    async fn write_once(&self, bytes: Buffer) -> Result<Metadata> {
        self.service.publish(&self.path, &bytes, self.if_not_exists)?;
        Ok(MetadataBuilder::file(bytes.len() as u64).build())
    }
}

/// Reads the folders at its first step, so that an error there can be tried again as a whole.
pub(super) struct LocalLister {
    service: LocalService,
    prefix: String,
    entries: Option<IntoIter<oio::Entry>>,
}

impl oio::List for LocalLister {
    async fn next(&mut self) -> Result<Option<oio::Entry>> {
        let entries = match &mut self.entries {
            Some(entries) => entries,
            None => self.entries.insert(self.service.list_prefix(&self.prefix)?.into_iter()),
        };
        Ok(entries.next())
    }
}

/// Deletes objects one by one.
pub(super) struct LocalDeleter {
    service: LocalService,
}

impl oio::OneShotDelete for LocalDeleter {
    async fn delete_once(&self, path: String, _: OpDelete) -> Result<()> {
        self.service.delete_path(&path)
    }
}

#[cfg(test)]
#[path = "local_tests.rs"]
mod tests;
