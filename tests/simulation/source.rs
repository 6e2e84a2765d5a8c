//! What a client backs up: a folder of small files whose contents are told by numbers.

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use aumbry::monitor::Monitor;
use aumbry::source::{OpenFile, Readable, Source, SourceError, Step};
use aumbry::tree::entry::{Entry, ExtendedAttribute, FileContent, Metadata, Node};
use aumbry::units::Timestamp;

use super::dice::Dice;

/// Names of files, and the numbers of their contents.
pub type Folder = BTreeMap<String, u64>;

/// The bytes that a number stands for: one chunk, too long to stand in a directory, and incompressible. Every second
/// one is like it, so that one is stored as a delta against another.
pub fn content(number: u64) -> Vec<u8> {
    let kind = number % 2;
    let mut dice = Dice::new(kind, 0x0c);
    let length = 400 + kind as usize * 370 % 1600;
    let mut bytes: Vec<u8> = (0..length).map(|_| dice.next() as u8).collect();
    let mut dice = Dice::new(number, 0x0d);
    let at = dice.below(length as u64 - 20) as usize;
    bytes[at..at + 20].fill_with(|| dice.next() as u8);
    bytes
}

/// A folder as a source.
pub struct FolderSource {
    folder: Folder,
    steps: VecDeque<Step>,
}

impl FolderSource {
    /// The walk of this folder.
    pub fn new(folder: &Folder) -> Self {
        let mut source = FolderSource { folder: folder.clone(), steps: VecDeque::new() };
        source.plan();
        source
    }

    fn plan(&mut self) {
        let node = Node::new_directory();
        let metadata = Metadata { mode: 0o755, links: 1, ..Metadata::default() };
        self.steps = VecDeque::from([Step::Enter(Entry { name: [].into(), node, metadata })]);
        for (name, number) in &self.folder {
            let entry = entry(name, *number);
            let readable = Arc::new(File { entry: entry.clone(), bytes: content(*number) });
            self.steps.push_back(Step::Entry { entry, readable });
        }
        self.steps.push_back(Step::Leave);
    }
}

fn entry(name: &str, number: u64) -> Entry {
    let size = content(number).len() as u64;
    let time = Timestamp { seconds: number as i64, nanoseconds: 0 };
    let times = Metadata { mtime: time, ctime: time, ..Metadata::default() };
    let metadata = Metadata { mode: 0o644, inode: 1, device: 1, links: 1, ..times };
    let node = Node::File(FileContent { size, ..FileContent::default() });
    Entry { name: name.as_bytes().into(), node, metadata }
}

impl Source for FolderSource {
    fn next(&mut self, _: &dyn Monitor) -> Result<Option<Step>, SourceError> {
        Ok(self.steps.pop_front())
    }

    fn paths(&self) -> Vec<Vec<u8>> {
        vec![b"/".to_vec()]
    }

    fn restart(&mut self) -> bool {
        self.plan();
        true
    }
}

struct File {
    entry: Entry,
    bytes: Vec<u8>,
}

impl Readable for File {
    fn attributes(&self) -> std::io::Result<Vec<ExtendedAttribute>> {
        Ok(Vec::new())
    }

    fn open(&self) -> std::io::Result<Box<dyn OpenFile>> {
        Ok(Box::new(File { entry: self.entry.clone(), bytes: self.bytes.clone() }))
    }

    fn display(&self) -> String {
        String::from_utf8_lossy(&self.entry.name).into_owned()
    }
}

impl OpenFile for File {
    fn stat(&self) -> std::io::Result<Option<Entry>> {
        Ok(Some(self.entry.clone()))
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<usize> {
        let rest = self.bytes.get(offset as usize..).unwrap_or_default();
        let length = rest.len().min(buffer.len());
        buffer[..length].copy_from_slice(&rest[..length]);
        Ok(length)
    }

    fn next_data(&self, offset: u64, size: u64) -> std::io::Result<Option<Range<u64>>> {
        Ok((offset < size).then_some(offset..size))
    }

    fn is_seekable(&self) -> bool {
        true
    }

    fn finish(&self) -> Result<(), SourceError> {
        Ok(())
    }
}
