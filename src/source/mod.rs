//! Where backups come from: something that tells its entries in order and lets files be read.

pub mod files;
pub mod stream;

use std::sync::Arc;

use crate::monitor::Monitor;
use crate::tree::entry::{Entry, ExtendedAttribute};

/// Why a source could not go on at all (one entry's failure is a
/// [`Problem`](crate::monitor::Problem) instead).
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// A path that was asked for is not there.
    #[error("{path} does not exist")]
    NotFound {
        /// As it was given.
        path: String,
    },
    /// A path, a pattern or a command that makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// The system refused.
    #[error("{item}: {error}")]
    Io {
        /// What it was about.
        item: String,
        /// What the system said.
        error: std::io::Error,
    },
    /// The command whose output was to be backed up failed.
    #[error("command {command:?} failed: {reason}")]
    Command {
        /// The command, as it was given.
        command: String,
        /// Exit status or signal.
        reason: String,
    },
}

/// A step of a walk. Within a directory, entries come sorted by name, as bytes; a directory is entered
/// where its name stands in that order, and what is below it comes before the next name.
pub enum Step {
    /// A directory begins, its attributes read. Its `node` has no meaning yet: the root blob is known when it has ended.
    /// The very first step enters the root, whose name is empty.
    Enter(Entry),
    /// Something that is no directory. A file's size is in its node; its content is not known yet.
    /// `attributes` of the metadata are not read yet: whoever finds the entry changed asks `readable`.
    Entry {
        /// What is known so far.
        entry: Entry,
        /// How to read content and attributes.
        readable: Arc<dyn Readable>,
    },
    /// The directory entered last ends.
    Leave,
}

/// An entry whose bytes and attributes can be read later, from another thread.
pub trait Readable: Send + Sync {
    /// The extended attributes, sorted by name; works for what cannot be opened, too.
    fn attributes(&self) -> std::io::Result<Vec<ExtendedAttribute>>;
    /// Opens a regular file or a stream for reading. The opened file tells what it finds: it may have changed since the walk.
    fn open(&self) -> std::io::Result<Box<dyn OpenFile>>;
    /// Says that the content, of about so many bytes, will be read soon. A source may have it fetched meanwhile; it
    /// returns at once, and nothing that is read later depends on it.
    fn announce(&self, _length: u64) {}
    /// The path for people, parts that are not UTF-8 replaced.
    fn display(&self) -> String;
}

/// An open file or stream.
pub trait OpenFile: Send + Sync {
    /// The entry as it is now (size, times, inode …), attributes read; `None` for a stream, which has none.
    fn stat(&self) -> std::io::Result<Option<Entry>>;
    /// Reads at `offset` (bytes); 0 means the end. A stream ignores `offset` and goes on where it stands.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<usize>;
    /// Where the next data begins and ends, at or after `offset` (bytes); `None`: only a hole follows.
    /// What cannot tell holes answers `offset..size`.
    fn next_data(&self, offset: u64, size: u64) -> std::io::Result<Option<std::ops::Range<u64>>>;
    /// Whether reading at any offset, in any order and from several threads, works.
    fn is_seekable(&self) -> bool;
    /// Called once when everything was read; an error here means that what was read must not be kept
    /// as good (a command that exited with a failure).
    fn finish(&self) -> Result<(), SourceError>;
}

/// Something that can be backed up.
pub trait Source: Send {
    /// The next step of the walk, or `None` at its end. Entries that cannot be told are reported to the
    /// monitor and left out.
    fn next(&mut self, monitor: &dyn Monitor) -> Result<Option<Step>, SourceError>;
    /// What the user named, absolute, for the snapshot's record.
    fn paths(&self) -> Vec<Vec<u8>>;
    /// Makes the walk begin anew. `false`: what was read cannot be read again.
    fn restart(&mut self) -> bool {
        false
    }
}
