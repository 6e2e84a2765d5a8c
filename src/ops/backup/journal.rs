//! What a backup has read so far, kept in the cache, so that the next run after an interruption does not read
//! it again.
//!
//! One file for each running backup, locked while it runs (`repository::journals`). A record is a path, the entry as
//! it would stand in a directory leaf, and the first eight bytes of the BLAKE3 of both: nothing is synced, and after a
//! power failure a page may be zeros, in the midst of bytes that stand in the entry itself. Records are believed only
//! when the entry's times, size and inode agree and every blob it names is in the repository, so a torn or stale
//! journal costs nothing but time. Memory when resuming: 16 bytes a file.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::ChangeDetection;
use crate::format::bytes::{Reader, put_bytes};
use crate::format::directory::{DirectoryNode, LeafBuilder};
use crate::id::SessionId;
use crate::repository::journals::{create, open_left, session_of};
use crate::tree::entry::Entry;

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
        let (path, file) = create(folder, session).ok()?;
        Some(Journal { file, path, buffer: Vec::new(), leaf: LeafBuilder::default() })
    }

    /// Notes a file that has been read whole.
    pub fn record(&mut self, path: &[u8], entry: &Entry) {
        self.leaf.push(entry);
        let leaf = self.leaf.finish();
        let start = self.buffer.len();
        put_bytes(&mut self.buffer, path);
        put_bytes(&mut self.buffer, &leaf);
        let checksum = checksum(&self.buffer[start..]);
        self.buffer.extend_from_slice(&checksum);
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

fn checksum(bytes: &[u8]) -> [u8; 8] {
    let [a, b, c, d, e, f, g, h, ..] = *blake3::hash(bytes).as_bytes();
    [a, b, c, d, e, f, g, h]
}

fn path_key(path: &[u8]) -> u64 {
    u64::from_le_bytes(checksum(path))
}

/// The record at the beginning of these bytes, its path and its entry; and its length.
fn read_record(bytes: &[u8]) -> Option<(&[u8], &[u8], usize)> {
    let mut reader = Reader::new(bytes);
    let (path, leaf) = (reader.bytes().ok()?, reader.bytes().ok()?);
    let length = bytes.len() - reader.remaining();
    let is_whole = reader.array::<8>().ok()? == checksum(&bytes[..length]);
    is_whole.then_some((path, leaf, length + 8))
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
            if let Some(file) = open_left(&path) {
                resumed.index(path, file);
            }
        }
        resumed
    }

    fn index(&mut self, path: PathBuf, file: File) {
        let Ok(bytes) = std::fs::read(&path) else { return };
        let number = self.files.len() as u32;
        let mut offset = 0;
        while let Some((name, _, length)) = read_record(&bytes[offset..]) {
            self.records.insert(path_key(name), (number, offset as u64));
            offset += length;
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
            match read_record(&bytes[..length]) {
                Some((name, leaf, _)) if name == path => {
                    let DirectoryNode::Leaf(mut entries) = DirectoryNode::decode(leaf).ok()? else {
                        return None;
                    };
                    return entries.pop().filter(|entry| detection.is_unchanged(entry, now));
                }
                Some(_) => return None,
                None if length == bytes.len() => bytes.resize(2 * length, 0),
                None => return None,
            }
        }
    }

    /// The sessions of these runs, which will never decide anything themselves.
    pub fn sessions(&self) -> impl Iterator<Item = SessionId> + '_ {
        self.files.iter().filter_map(|(path, _)| session_of(path))
    }

    /// Removes these journals: what they tell has been committed.
    pub fn finish(self) {
        for (path, _) in self.files {
            let _ = std::fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::entry::{Content, FileContent, Metadata, Node};

    fn entry(number: u8) -> Entry {
        let content = Content::Inline(vec![number; 40].into());
        let file = FileContent { size: 40, content, digest: None };
        let name = vec![b'a', number].into();
        Entry { name, node: Node::File(file), metadata: Metadata::default() }
    }

    #[test]
    fn a_record_is_found_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let session = SessionId { generation: 0, random: [1; 16] };
        let mut journal = Journal::begin(folder.path(), session).unwrap();
        (0..9).for_each(|number| journal.record(&[b'/', number], &entry(number)));
        journal.flush();
        assert!(Resumed::load(Some(folder.path())).is_empty(), "it runs");
        let path = journal.path.clone();
        drop(journal);
        let whole = std::fs::read(&path).unwrap();
        let detection = ChangeDetection::default();
        for at in 0..=whole.len() {
            let mut bytes = whole.clone();
            let page = at..whole.len().min(at + 16);
            bytes[page].fill(0);
            std::fs::write(&path, bytes).unwrap();
            let resumed = Resumed::load(Some(folder.path()));
            let found: Vec<_> = (0..9)
                .map(|number| resumed.find(&[b'/', number], &entry(number), &detection))
                .collect();
            let known = found.iter().flatten().count();
            let end = at * 9 / whole.len();
            assert!(known >= end.saturating_sub(1) && (known < 9 || at == whole.len()), "{at}");
            assert!((0..9).all(|number| {
                found[usize::from(number)].as_ref().is_none_or(|found| *found == entry(number))
            }));
            assert_eq!(resumed.sessions().collect::<Vec<_>>(), [session]);
        }
    }
}
