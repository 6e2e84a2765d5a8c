//! What a backup has read so far, kept in the cache, so that the next run after an interruption does not read
//! it again.
//!
//! One file for each running backup, in a folder for each set of sources, so that the backup of something else
//! takes nothing away. It is locked while the backup runs: a journal that can be locked belongs to a run that
//! ended early. A record is a path and the entry as it would stand in a directory leaf. Records are believed
//! only when the entry's times, size and inode agree and every blob it names is in the repository, so a torn
//! or stale journal costs nothing but time. Memory when resuming: 16 bytes a file.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::ChangeDetection;
use crate::format::bytes::{Reader, put_bytes};
use crate::format::directory::{DirectoryNode, LeafBuilder};
use crate::id::SessionId;
use crate::tree::entry::Entry;

/// The folder below the cache for the journals of backups of these sources.
pub fn journal_folder(cache_folder: &Path, sources: &[Vec<u8>]) -> PathBuf {
    // No path has a NUL, so different lists never join to the same bytes.
    let sources = blake3::hash(&sources.join(&0)).to_hex();
    cache_folder.join("journals").join(&sources[..16])
}

/// Records are handed to the system in pieces of about this many bytes.
const BUFFER: usize = 64 << 10;

/// The journal of this run.
pub struct Journal {
    file: File,
    path: PathBuf,
    buffer: Vec<u8>,
    leaf: LeafBuilder,
}

impl Journal {
    /// Begins a journal in this folder. `None` when it cannot be: the backup goes on without.
    pub fn begin(folder: &Path, session: SessionId) -> Option<Self> {
        std::fs::create_dir_all(folder).ok()?;
        let path = folder.join(session.to_string());
        let file = std::fs::OpenOptions::new()
            .append(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .ok()?;
        flock(&file, FlockOperation::NonBlockingLockExclusive).ok()?;
        Some(Journal { file, path, buffer: Vec::new(), leaf: LeafBuilder::default() })
    }

    /// Notes a file that has been read whole.
    pub fn record(&mut self, path: &[u8], entry: &Entry) {
        self.leaf.push(entry);
        let leaf = self.leaf.finish();
        put_bytes(&mut self.buffer, path);
        put_bytes(&mut self.buffer, &leaf);
        if self.buffer.len() >= BUFFER {
            self.flush();
        }
    }

    /// Hands everything to the system. A failure makes the journal shorter, not wrong.
    pub fn flush(&mut self) {
        let _ = self.file.write_all(&self.buffer);
        self.buffer.clear();
    }

    /// Removes the journal: the backup has committed.
    pub fn finish(self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// The journals of runs that ended early.
pub struct Resumed {
    files: Vec<(PathBuf, File)>,
    /// First eight bytes of the path's hash → file and offset of the newest record.
    records: HashMap<u64, (u32, u64)>,
}

fn path_key(path: &[u8]) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = *blake3::hash(path).as_bytes();
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}

impl Resumed {
    /// Reads the journals in this folder whose runs have ended, oldest first.
    pub fn load(folder: Option<&Path>) -> Self {
        let mut resumed = Resumed { files: Vec::new(), records: HashMap::new() };
        let listing = folder.and_then(|folder| std::fs::read_dir(folder).ok());
        let mut paths: Vec<_> =
            listing.into_iter().flatten().flatten().map(|entry| entry.path()).collect();
        let changed = |path: &PathBuf| path.metadata().and_then(|meta| meta.modified()).ok();
        paths.sort_by_key(|path| changed(path));
        for path in paths {
            let Ok(file) = File::open(&path) else { continue };
            if flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
                resumed.index(path, file);
            }
        }
        resumed
    }

    fn index(&mut self, path: PathBuf, file: File) {
        let Ok(bytes) = std::fs::read(&path) else { return };
        let number = self.files.len() as u32;
        let mut reader = Reader::new(&bytes);
        while !reader.is_empty() {
            let offset = (bytes.len() - reader.remaining()) as u64;
            let (Ok(name), Ok(_)) = (reader.bytes(), reader.bytes()) else { break };
            self.records.insert(path_key(name), (number, offset));
        }
        self.files.push((path, file));
    }

    /// Whether there is anything to resume.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// What was read of this file, if the file is still what it was then.
    pub fn find(&self, path: &[u8], now: &Entry, detection: &ChangeDetection) -> Option<Entry> {
        let (number, offset) = *self.records.get(&path_key(path))?;
        let (_, file) = self.files.get(number as usize)?;
        let mut bytes = vec![0; 64 << 10];
        loop {
            let length = file.read_at(&mut bytes, offset).ok()?;
            let mut reader = Reader::new(&bytes[..length]);
            match (reader.bytes(), reader.bytes()) {
                (Ok(name), Ok(leaf)) if name == path => {
                    let DirectoryNode::Leaf(mut entries) = DirectoryNode::decode(leaf).ok()? else {
                        return None;
                    };
                    return entries.pop().filter(|entry| detection.is_unchanged(entry, now));
                }
                (Ok(_), Ok(_)) => return None,
                _ if length == bytes.len() => bytes.resize(2 * length, 0),
                _ => return None,
            }
        }
    }

    /// The sessions of these runs, which will never decide anything themselves.
    pub fn sessions(&self) -> impl Iterator<Item = SessionId> + '_ {
        let names = self.files.iter().filter_map(|(path, _)| path.file_name()?.to_str());
        names.filter_map(|name| name.parse().ok())
    }

    /// Removes these journals: what they tell has been committed.
    pub fn finish(self) {
        for (path, _) in self.files {
            let _ = std::fs::remove_file(path);
        }
    }
}
