//! Looks ahead of the walk, and of those who read its files, where a disk makes them wait.
//!
//! A walk asks about one entry after another, and a worker reads one file after another: on a disk that nobody has
//! read from yet, each of them waits for each block. A few threads that do nothing but ask the same questions
//! earlier keep more requests with the disk. Whatever they learn they throw away: what counts is that the system
//! has it in memory when the walk or a worker asks. So nothing that is told depends on them, a question that fails
//! is no problem, and one that finds the queue full is not asked.
//!
//! They begin when the system says that it fetches from disks for this process, and rest when it does not: asking
//! twice about what is in memory would cost a tenth of a walk. What is asked about is what the walk is going to ask
//! about (never what is excluded), and of files, what somebody has said to be about to read.
//!
//! Bounds: [`MAX_TASKS`] tasks of each kind wait, each with a name or [`NAMES`] of them; each of [`THREADS`] threads
//! has one descriptor open; of a file the first [`FETCHED`] bytes are fetched, for the system itself reads ahead in a
//! large one.

use std::collections::VecDeque;
use std::ffi::CStr;
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::num::NonZeroU64;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;

use parking_lot::Condvar;
use parking_lot::Mutex;
use rustix::fs::Advice;
use rustix::fs::OFlags;
use rustix::fs::RawDir;
use rustix::fs::fadvise;

use super::directory::Directory;
use super::directory::open_for_listing;
use super::directory::open_quietly;
use super::read::device_of;
use super::read::stat_entry;

/// Threads that look ahead: they wait, and compute nothing.
const THREADS: usize = 8;
/// Tasks of each kind that may wait.
const MAX_TASKS: usize = 1024;
/// Bytes of a file that are fetched.
const FETCHED: u64 = 1 << 20;
/// Entries of a directory that are asked about when it is looked into. Of a larger one the walk hands over the names
/// as it goes.
pub(super) const NAMES: usize = 1024;
/// Steps of the walk between two looks at what was fetched. The first look comes earlier.
const STEPS: u32 = 256;
const FIRST_STEPS: u32 = 16;
/// So many bytes fetched in between, and the disk is what one waits for.
const COLD_BYTES: u64 = 16 << 10;

/// Something to be asked ahead of those who will ask in earnest.
enum Task {
    /// What is in a directory, and about each entry. With a device: only if it is on that.
    Directory { parent: Arc<Directory>, name: CString, device: Option<u64> },
    /// About these entries.
    Entries { directory: Arc<Directory>, names: Vec<CString> },
    /// The content of a file, of this length.
    File { directory: Arc<Directory>, name: CString, length: u64 },
}

#[derive(Default)]
struct Waiting {
    /// About directories: the walk comes before everything else.
    walk: VecDeque<Task>,
    files: VecDeque<Task>,
    is_over: bool,
}

/// Where tasks are handed in.
#[derive(Default)]
pub(super) struct Tasks {
    is_cold: AtomicBool,
    waiting: Mutex<Waiting>,
    arrived: Condvar,
}

impl Tasks {
    /// Whether looking ahead is worth anything now.
    pub(super) fn is_cold(&self) -> bool {
        self.is_cold.load(Ordering::Relaxed)
    }

    /// A directory that the walk will enter. With a device: not if it is on another.
    pub(super) fn directory(&self, parent: &Arc<Directory>, name: CString, device: Option<u64>) {
        let parent = Arc::clone(parent);
        self.push(|waiting| &mut waiting.walk, Task::Directory { parent, name, device });
    }

    /// Entries that the walk will ask about.
    pub(super) fn entries(&self, directory: &Arc<Directory>, names: Vec<CString>) {
        let directory = Arc::clone(directory);
        self.push(|waiting| &mut waiting.walk, Task::Entries { directory, names });
    }

    /// A file that somebody will read.
    pub(super) fn file(&self, directory: &Arc<Directory>, name: &CStr, length: u64) {
        if self.is_cold() && length > 0 {
            let (directory, name) = (Arc::clone(directory), name.to_owned());
            self.push(|waiting| &mut waiting.files, Task::File { directory, name, length });
        }
    }

    fn push(&self, queue: impl FnOnce(&mut Waiting) -> &mut VecDeque<Task>, task: Task) {
        let mut waiting = self.waiting.lock();
        if waiting.is_over {
            return;
        }
        let queue = queue(&mut waiting);
        if queue.len() < MAX_TASKS {
            queue.push_back(task);
            drop(waiting);
            self.arrived.notify_one();
        }
    }

    /// Looks ahead until that is over.
    fn work(&self) {
        let mut waiting = self.waiting.lock();
        while !waiting.is_over {
            match waiting.walk.pop_front().or_else(|| waiting.files.pop_front()) {
                None => self.arrived.wait(&mut waiting),
                Some(task) => {
                    drop(waiting);
                    // Whoever asks in earnest will hear the same, and say so.
                    let _ = task.run();
                    waiting = self.waiting.lock();
                }
            }
        }
    }
}

impl Task {
    fn run(self) -> io::Result<()> {
        match self {
            Task::Directory { parent, name, device } => {
                let parent = parent.descriptor()?;
                let is_elsewhere = |device| -> io::Result<bool> {
                    Ok(device_of(&stat_entry(parent.as_fd(), &name)?) != device)
                };
                if device.map(is_elsewhere).transpose()? == Some(true) {
                    return Ok(());
                }
                look_into(open_for_listing(parent.as_fd(), &name)?.as_fd())
            }
            Task::Entries { directory, names } => {
                let directory = directory.descriptor()?;
                for name in names {
                    let _ = stat_entry(directory.as_fd(), &name);
                }
                Ok(())
            }
            Task::File { directory, name, length } => {
                // As it will be opened for reading: no link is followed, and no pipe waited for.
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
                let file = open_quietly(directory.descriptor()?.as_fd(), &name, flags)?;
                Ok(fadvise(&file, 0, NonZeroU64::new(length.min(FETCHED)), Advice::WillNeed)?)
            }
        }
    }
}

/// Asks about the entries of a directory in the order of their inodes, in which they stand on many a disk.
fn look_into(directory: BorrowedFd<'_>) -> io::Result<()> {
    let mut buffer = [MaybeUninit::uninit(); 32 << 10];
    let mut entries = RawDir::new(directory, &mut buffer);
    let mut found: Vec<(u64, CString)> = Vec::new();
    while let Some(entry) = entries.next() {
        let entry = entry?;
        if found.len() == NAMES {
            break;
        }
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            found.push((entry.ino(), entry.file_name().to_owned()));
        }
    }
    found.sort_unstable_by_key(|(inode, _)| *inode);
    for (_, name) in found {
        let _ = stat_entry(directory, &name);
    }
    Ok(())
}

/// Whether a walk waits for a disk, and the threads that look ahead of it then.
pub(super) struct Ahead {
    tasks: Arc<Tasks>,
    threads: Vec<JoinHandle<()>>,
    /// What the system says that it has done for this process; `None` where it does not.
    account: Option<File>,
    fetched_bytes: u64,
    steps_left: u32,
}

impl Ahead {
    pub(super) fn new() -> Self {
        let account = File::open("/proc/self/io").ok();
        let fetched_bytes = account.as_ref().and_then(fetched_bytes).unwrap_or(0);
        let steps_left = FIRST_STEPS;
        Ahead { tasks: Arc::default(), threads: Vec::new(), account, fetched_bytes, steps_left }
    }

    pub(super) fn tasks(&self) -> &Arc<Tasks> {
        &self.tasks
    }

    /// Whether it is worth looking ahead now; to be asked once a step.
    pub(super) fn is_cold(&mut self) -> bool {
        self.steps_left -= 1;
        if self.steps_left == 0 {
            self.steps_left = STEPS;
            self.measure();
        }
        self.tasks.is_cold()
    }

    fn measure(&mut self) {
        let Some(fetched_bytes) = self.account.as_ref().and_then(fetched_bytes) else { return };
        // What the others fetch counts, too: they go on as long as there is something to fetch.
        let is_cold = fetched_bytes.saturating_sub(self.fetched_bytes) >= COLD_BYTES;
        self.fetched_bytes = fetched_bytes;
        self.tasks.is_cold.store(is_cold, Ordering::Relaxed);
        if is_cold && self.threads.is_empty() {
            self.begin();
        }
    }

    fn begin(&mut self) {
        for _ in 0..THREADS {
            let tasks = Arc::clone(&self.tasks);
            let builder = std::thread::Builder::new().name("ahead".to_string());
            // Where there can be no more threads, nobody looks ahead.
            self.threads.extend(builder.spawn(move || tasks.work()).ok());
        }
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        *self.tasks.waiting.lock() = Waiting { is_over: true, ..Waiting::default() };
        self.tasks.arrived.notify_all();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// How many bytes the system has fetched from disks and servers for this process so far.
fn fetched_bytes(account: &File) -> Option<u64> {
    let mut text = [0; 512];
    let length = account.read_at(&mut text, 0).ok()?;
    parse_fetched_bytes(&text[..length])
}

fn parse_fetched_bytes(text: &[u8]) -> Option<u64> {
    let mut lines = std::str::from_utf8(text).ok()?.lines();
    lines.find_map(|line| line.strip_prefix("read_bytes: "))?.trim().parse().ok()
}

#[cfg(test)]
impl Ahead {
    /// From now on looks ahead when the test says so, and only then.
    pub(super) fn for_test(is_cold: bool) -> Self {
        let mut ahead = Ahead::new();
        ahead.account = None;
        ahead.tasks.is_cold.store(is_cold, Ordering::Relaxed);
        ahead
    }

    /// Does all that waits, and tells of what it was, as paths: directories end in `/`.
    pub(super) fn do_all(&self) -> Vec<(String, io::Result<()>)> {
        let mut done = Vec::new();
        loop {
            let mut waiting = self.tasks.waiting.lock();
            let Some(task) = waiting.walk.pop_front().or_else(|| waiting.files.pop_front()) else {
                return done;
            };
            drop(waiting);
            let path = |directory: &Directory, name: &CStr, end: &str| {
                format!("{}{end}", String::from_utf8_lossy(&directory.path_of(name.to_bytes())))
            };
            let paths = match &task {
                Task::Directory { parent, name, .. } => vec![path(parent, name, "/")],
                Task::Entries { directory, names } => {
                    names.iter().map(|name| path(directory, name, "")).collect()
                }
                Task::File { directory, name, .. } => vec![path(directory, name, "")],
            };
            let mut result = task.run();
            done.extend(
                paths.into_iter().map(|path| (path, std::mem::replace(&mut result, Ok(())))),
            );
        }
    }

    /// How many tasks wait.
    pub(super) fn waiting_count(&self) -> usize {
        let waiting = self.tasks.waiting.lock();
        waiting.walk.len() + waiting.files.len()
    }

    /// How many may.
    pub(super) const MAX_TASKS: usize = MAX_TASKS;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_system_has_fetched_is_found_in_its_account() {
        let text =
            b"rchar: 6976\nwchar: 0\nsyscr: 10\nsyscw: 0\nread_bytes: 4096\nwrite_bytes: 7\n";
        assert_eq!(parse_fetched_bytes(text), Some(4096));
        assert_eq!(parse_fetched_bytes(b"rchar: 6976\n"), None);
        assert_eq!(parse_fetched_bytes(b"read_bytes: many\n"), None);
    }

    #[test]
    fn threads_begin_when_it_is_cold_and_end_with_the_walk() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("io");
        let account = |bytes: u64| std::fs::write(&path, format!("read_bytes: {bytes}\n")).unwrap();
        account(0);
        let mut ahead = Ahead::new();
        ahead.account = Some(File::open(&path).unwrap());
        ahead.fetched_bytes = 0;
        account(COLD_BYTES - 1);
        assert!((0..FIRST_STEPS).all(|_| !ahead.is_cold()));
        assert!(ahead.threads.is_empty());
        account(2 * COLD_BYTES);
        assert!((1..STEPS).all(|_| !ahead.is_cold()));
        assert!(ahead.is_cold());
        assert_eq!(ahead.threads.len(), THREADS);
        // Nothing more was fetched: it is warm again.
        assert!((1..STEPS).all(|_| ahead.is_cold()));
        assert!(!ahead.is_cold());
        let tasks = Arc::clone(&ahead.tasks);
        drop(ahead);
        assert_eq!(Arc::strong_count(&tasks), 1);
    }
}
