//! The disk below a folder: every change that this process makes there is seen, in order; one of them can be the last;
//! and what a power failure may leave of them can be had.
//!
//! The functions of the C library by which the standard library changes files are defined here, so that the
//! linker takes these instead. They make the same calls of the system, and the engine needs no seam for tests.
//! For Linux with the GNU C library; `what_is_seen_is_all_that_changes` fails should a function be missing.

#![allow(unsafe_code, reason = "functions of the C library are taken the place of")]

use std::collections::BTreeMap;
use std::ffi::{CStr, OsStr};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::slice;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use libc::{c_char, c_int, c_long, c_void, mode_t, off_t, size_t, ssize_t};
use parking_lot::Mutex;

/// Bytes that reach a disk together or not at all.
const PAGE: u64 = 4096;

/// A change, at a path as it was then.
#[derive(Debug, Clone)]
enum Change {
    MakeFolder(PathBuf),
    MakeFile(PathBuf),
    Write(PathBuf, u64, Vec<u8>),
    SetLength(PathBuf, u64),
    Sync(PathBuf),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
}

/// How far the last change comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Last {
    /// Not at all.
    Undone,
    /// Half of the bytes are written; what writes no bytes is not done.
    Half,
}

type OnStop = Box<dyn Fn() + Send>;

struct Watched {
    log: Vec<Change>,
    stop_at: Option<(usize, Last)>,
    on_stop: OnStop,
    is_stopped: bool,
}

struct Watch {
    folder: PathBuf,
    watched: Mutex<Watched>,
}

static WATCHES: Mutex<Vec<Arc<Watch>>> = Mutex::new(Vec::new());
static COUNT: AtomicUsize = AtomicUsize::new(0);

/// Watches a folder until it is dropped.
pub struct Disk {
    watch: Arc<Watch>,
    before: State,
}

impl Disk {
    /// Change number `stop_at` below the folder, and all later ones, fail; `on_stop` is called just before.
    pub fn watch(folder: &Path, stop_at: Option<(usize, Last)>, on_stop: OnStop) -> Self {
        let folder = folder.canonicalize().unwrap();
        let before = State::of(&folder);
        let watched = Watched { log: Vec::new(), stop_at, on_stop, is_stopped: false };
        let watch = Arc::new(Watch { folder, watched: Mutex::new(watched) });
        WATCHES.lock().push(watch.clone());
        COUNT.fetch_add(1, Ordering::SeqCst);
        Disk { watch, before }
    }

    /// Whether the change to stop at has come.
    pub fn is_stopped(&self) -> bool {
        self.watch.watched.lock().is_stopped
    }

    /// How many changes there were.
    pub fn changes(&self) -> usize {
        self.watch.watched.lock().log.len()
    }

    /// What is there, and what of it would outlast a power failure.
    pub fn state(&self) -> State {
        let mut state = self.before.clone();
        for change in &self.watch.watched.lock().log {
            state.apply(change, &self.watch.folder);
        }
        state
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        COUNT.fetch_sub(1, Ordering::SeqCst);
        WATCHES.lock().retain(|watch| !Arc::ptr_eq(watch, &self.watch));
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Node {
    Folder,
    File(usize),
}

type Names = BTreeMap<PathBuf, Node>;

#[derive(Debug, Clone)]
enum Naming {
    Add(PathBuf, Node),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
}

impl Naming {
    fn is_in(&self, folder: &Path) -> bool {
        let (Naming::Add(path, _) | Naming::Rename(path, _) | Naming::Remove(path)) = self;
        path.parent() == Some(folder)
    }

    fn apply(&self, names: &mut Names) {
        match self {
            Naming::Add(path, node) => {
                names.insert(path.clone(), *node);
            }
            Naming::Rename(from, to) => {
                if let Some(node) = names.remove(from) {
                    names.insert(to.clone(), node);
                }
            }
            Naming::Remove(path) => {
                names.remove(path);
            }
        }
    }
}

#[derive(Debug, Clone, Default)]
struct Content {
    now: Vec<u8>,
    synced: Vec<u8>,
    /// Since it was synced: a piece of at most a page and its place, or a new length.
    pending: Vec<(u64, Option<Vec<u8>>)>,
}

fn put(bytes: &mut Vec<u8>, at: u64, piece: Option<&[u8]>) {
    let at = at as usize;
    match piece {
        None => bytes.resize(at, 0),
        Some(piece) => {
            let length = bytes.len().max(at + piece.len());
            bytes.resize(length, 0);
            bytes[at..at + piece.len()].copy_from_slice(piece);
        }
    }
}

/// What of a folder is on the disk, and what only in memory. A file's bytes are durable when it is synced, and its name when
/// its folder is.
#[derive(Debug, Clone, Default)]
pub struct State {
    contents: Vec<Content>,
    now: Names,
    synced: Names,
    pending: Vec<Naming>,
}

impl State {
    /// What is in this folder, all of it durable.
    fn of(folder: &Path) -> Self {
        let mut state = State::default();
        state.collect(folder, Path::new(""));
        state.synced = state.now.clone();
        state
    }

    fn collect(&mut self, folder: &Path, below: &Path) {
        for entry in fs::read_dir(folder.join(below)).unwrap() {
            let path = below.join(entry.unwrap().file_name());
            if folder.join(&path).is_dir() {
                self.now.insert(path.clone(), Node::Folder);
                self.collect(folder, &path);
            } else {
                let now = fs::read(folder.join(&path)).unwrap();
                self.now.insert(path, Node::File(self.contents.len()));
                self.contents.push(Content { synced: now.clone(), now, pending: Vec::new() });
            }
        }
    }

    fn content(&mut self, path: &Path) -> Option<&mut Content> {
        match self.now.get(path) {
            Some(Node::File(number)) => self.contents.get_mut(*number),
            _ => None,
        }
    }

    fn name(&mut self, naming: Naming) {
        naming.apply(&mut self.now);
        self.pending.push(naming);
    }

    fn apply(&mut self, change: &Change, folder: &Path) {
        let below = |path: &PathBuf| path.strip_prefix(folder).unwrap().to_path_buf();
        match change {
            Change::MakeFolder(path) => self.name(Naming::Add(below(path), Node::Folder)),
            Change::MakeFile(path) => {
                self.contents.push(Content::default());
                let node = Node::File(self.contents.len() - 1);
                self.name(Naming::Add(below(path), node));
            }
            Change::Write(path, at, bytes) => {
                // One that has no name any more is nobody's.
                let Some(content) = self.content(&below(path)) else { return };
                put(&mut content.now, *at, Some(bytes));
                let (mut at, mut rest) = (*at, bytes.as_slice());
                while !rest.is_empty() {
                    let length = rest.len().min((PAGE - at % PAGE) as usize);
                    let (piece, later) = rest.split_at(length);
                    content.pending.push((at, Some(piece.to_vec())));
                    at += length as u64;
                    rest = later;
                }
            }
            Change::SetLength(path, length) => {
                let Some(content) = self.content(&below(path)) else { return };
                put(&mut content.now, *length, None);
                content.pending.push((*length, None));
            }
            Change::Sync(path) => {
                let path = below(path);
                if let Some(content) = self.content(&path) {
                    content.synced = content.now.clone();
                    content.pending.clear();
                } else {
                    let (synced, rest) =
                        self.pending.drain(..).partition(|naming| naming.is_in(&path));
                    self.pending = rest;
                    let synced: Vec<Naming> = synced;
                    synced.iter().for_each(|naming| naming.apply(&mut self.synced));
                }
            }
            Change::Rename(from, to) => self.name(Naming::Rename(below(from), below(to))),
            Change::Remove(path) => self.name(Naming::Remove(below(path))),
        }
    }

    /// What is there as long as the machine lives.
    pub fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let file = |(path, node): (&PathBuf, &Node)| match node {
            Node::File(number) => Some((path.clone(), self.contents[*number].now.clone())),
            Node::Folder => None,
        };
        self.now.iter().filter_map(file).collect()
    }

    /// Puts into an empty folder what a power failure leaves: what was synced; and of what came later each page and each
    /// length, and of names the oldest changes, as long as `keep` says so.
    pub fn cut_power(&self, folder: &Path, keep: &mut dyn FnMut() -> bool) {
        let mut names = self.synced.clone();
        for naming in &self.pending {
            if !keep() {
                break;
            }
            naming.apply(&mut names);
        }
        for (path, node) in &names {
            let target = folder.join(path);
            // The name of a folder above may be lost.
            if !target.parent().unwrap().is_dir() {
                continue;
            }
            match node {
                Node::Folder => fs::create_dir(target).unwrap(),
                Node::File(number) => {
                    let content = &self.contents[*number];
                    let mut bytes = content.synced.clone();
                    for (at, piece) in &content.pending {
                        if keep() {
                            put(&mut bytes, *at, piece.as_deref());
                        }
                    }
                    if keep() && bytes.len() < content.now.len() {
                        bytes.resize(content.now.len(), 0);
                    }
                    fs::write(target, bytes).unwrap();
                }
            }
        }
    }
}

/// Who watches this path.
fn watch_of(path: &Path) -> Option<Arc<Watch>> {
    if COUNT.load(Ordering::SeqCst) == 0 {
        return None;
    }
    WATCHES.lock().iter().find(|watch| path.starts_with(&watch.folder)).cloned()
}

/// The path of an open file that is watched.
fn watched_file(file: c_int) -> Option<(Arc<Watch>, PathBuf)> {
    if COUNT.load(Ordering::SeqCst) == 0 {
        return None;
    }
    let path = fs::read_link(format!("/proc/self/fd/{file}")).ok()?;
    Some((watch_of(&path)?, path))
}

/// # Safety
///
/// It is a string of C.
unsafe fn path_of<'a>(path: *const c_char) -> &'a Path {
    // SAFETY: as the caller says.
    Path::new(OsStr::from_bytes(unsafe { CStr::from_ptr(path) }.to_bytes()))
}

fn fail() -> c_long {
    // SAFETY: the address is this thread's own.
    unsafe { *libc::__errno_location() = libc::EIO };
    -1
}

impl Watch {
    /// Does it and notes it, if it is to be done. `effect` is told how many bytes to write.
    fn change(
        &self,
        change: impl FnOnce() -> Change,
        bytes: usize,
        effect: impl FnOnce(usize) -> c_long,
    ) -> c_long {
        let mut watched = self.watched.lock();
        if watched.is_stopped {
            return fail();
        }
        let stops = match watched.stop_at {
            Some((at, last)) if at == watched.log.len() => Some(last),
            _ => None,
        };
        if stops.is_some() {
            watched.is_stopped = true;
            (watched.on_stop)();
        }
        let length = match stops {
            None => bytes,
            Some(Last::Half) if bytes > 1 => bytes / 2,
            Some(_) => return fail(),
        };
        let mut change = change();
        let done = effect(length);
        if done >= 0 {
            if let Change::Write(_, _, bytes) = &mut change {
                bytes.truncate(done as usize);
            }
            watched.log.push(change);
        }
        if stops.is_some() { fail() } else { done }
    }
}

/// # Safety
///
/// Arguments as `open`'s; `mode` is read only where the flags ask for it.
unsafe fn open_file(path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    let open = |_| {
        // SAFETY: the caller's own arguments.
        unsafe { libc::syscall(libc::SYS_openat, libc::AT_FDCWD, path, flags, mode) }
    };
    // SAFETY: `open` is given a string of C.
    let name = unsafe { path_of(path) };
    let makes = flags & libc::O_CREAT != 0 && !name.exists();
    let empties = flags & libc::O_TRUNC != 0 && !makes;
    let changes = makes || empties;
    let opened = match watch_of(name).filter(|_| changes) {
        None => open(0),
        Some(watch) => {
            let change = match makes {
                true => Change::MakeFile(name.to_path_buf()),
                false => Change::SetLength(name.to_path_buf(), 0),
            };
            watch.change(|| change, 0, open)
        }
    };
    opened as c_int
}

#[unsafe(no_mangle)]
unsafe extern "C" fn open64(path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    // SAFETY: what a caller passes after the flags arrives where a third argument does.
    unsafe { open_file(path, flags, mode) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn open(path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    // SAFETY: as for `open64`.
    unsafe { open_file(path, flags, mode) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn write(file: c_int, bytes: *const c_void, length: size_t) -> ssize_t {
    let write = |length: usize| {
        // SAFETY: the caller's own arguments, or fewer of its bytes.
        unsafe { libc::syscall(libc::SYS_write, file, bytes, length) }
    };
    let written = match watched_file(file) {
        None => write(length),
        Some((watch, path)) => {
            let change = || {
                // SAFETY: plain calls, and bytes that the caller lends.
                let (at, bytes) = unsafe {
                    let appends = libc::fcntl(file, libc::F_GETFL) & libc::O_APPEND != 0;
                    let whence = if appends { libc::SEEK_END } else { libc::SEEK_CUR };
                    (libc::lseek(file, 0, whence), slice::from_raw_parts(bytes.cast(), length))
                };
                Change::Write(path, at as u64, bytes.to_vec())
            };
            watch.change(change, length, write)
        }
    };
    written as ssize_t
}

#[unsafe(no_mangle)]
unsafe extern "C" fn pwrite64(
    file: c_int,
    bytes: *const c_void,
    length: size_t,
    at: off_t,
) -> ssize_t {
    let write = |length: usize| {
        // SAFETY: the caller's own arguments, or fewer of its bytes.
        unsafe { libc::syscall(libc::SYS_pwrite64, file, bytes, length, at) }
    };
    let written = match watched_file(file) {
        None => write(length),
        Some((watch, path)) => {
            // SAFETY: bytes that the caller lends.
            let lent = unsafe { slice::from_raw_parts(bytes.cast::<u8>(), length) };
            watch.change(|| Change::Write(path, at as u64, lent.to_vec()), length, write)
        }
    };
    written as ssize_t
}

#[unsafe(no_mangle)]
unsafe extern "C" fn ftruncate64(file: c_int, length: off_t) -> c_int {
    // SAFETY: the caller's own arguments.
    let set = |_| unsafe { libc::syscall(libc::SYS_ftruncate, file, length) };
    let done = match watched_file(file) {
        None => set(0),
        Some((watch, path)) => watch.change(|| Change::SetLength(path, length as u64), 0, set),
    };
    done as c_int
}

fn sync(file: c_int, call: c_long) -> c_int {
    // SAFETY: a plain call.
    let sync = |_| unsafe { libc::syscall(call, file) };
    let done = match watched_file(file) {
        None => sync(0),
        Some((watch, path)) => watch.change(|| Change::Sync(path), 0, sync),
    };
    done as c_int
}

#[unsafe(no_mangle)]
extern "C" fn fsync(file: c_int) -> c_int {
    sync(file, libc::SYS_fsync)
}

#[unsafe(no_mangle)]
extern "C" fn fdatasync(file: c_int) -> c_int {
    sync(file, libc::SYS_fdatasync)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn rename(from: *const c_char, to: *const c_char) -> c_int {
    let here = libc::AT_FDCWD;
    // SAFETY: the caller's own arguments.
    let rename = |_| unsafe { libc::syscall(libc::SYS_renameat2, here, from, here, to, 0) };
    // SAFETY: `rename` is given strings of C.
    let (from, to) = unsafe { (path_of(from), path_of(to)) };
    let done = match watch_of(from) {
        None => rename(0),
        Some(watch) => {
            watch.change(|| Change::Rename(from.to_path_buf(), to.to_path_buf()), 0, rename)
        }
    };
    done as c_int
}

#[unsafe(no_mangle)]
unsafe extern "C" fn unlink(path: *const c_char) -> c_int {
    // SAFETY: the caller's own arguments.
    let unlink = |_| unsafe { libc::syscall(libc::SYS_unlinkat, libc::AT_FDCWD, path, 0) };
    // SAFETY: `unlink` is given a string of C.
    let name = unsafe { path_of(path) };
    let done = match watch_of(name).filter(|_| name.exists()) {
        None => unlink(0),
        Some(watch) => watch.change(|| Change::Remove(name.to_path_buf()), 0, unlink),
    };
    done as c_int
}

#[unsafe(no_mangle)]
unsafe extern "C" fn mkdir(path: *const c_char, mode: mode_t) -> c_int {
    // SAFETY: the caller's own arguments.
    let make = |_| unsafe { libc::syscall(libc::SYS_mkdirat, libc::AT_FDCWD, path, mode) };
    // SAFETY: `mkdir` is given a string of C.
    let name = unsafe { path_of(path) };
    let done = match watch_of(name).filter(|_| !name.exists()) {
        None => make(0),
        Some(watch) => watch.change(|| Change::MakeFolder(name.to_path_buf()), 0, make),
    };
    done as c_int
}
