//! The bytes of files: of the repository's, and of a source's beside what the repository has.

use std::io;

use crate::codec::digest::DIGEST_REGION;
use crate::format::pack::SEGMENT_LENGTH_MAX;
use crate::monitor::{Monitor, Progress};
use crate::repository::error::RepositoryError;
use crate::repository::reader::BlobReader;
use crate::source::OpenFile;
use crate::tree::entry::{Content, Extent, FileContent};
use crate::view::{Extents, read_file};

/// Bytes that are read at a time where the snapshot has a hole.
const WINDOW: u64 = 1 << 20;

/// Why two contents could not be compared.
pub(super) enum ContentError {
    /// The source failed.
    Read(io::Error),
    /// The repository failed.
    Repository(RepositoryError),
    /// A person asked to stop.
    Interrupted,
}

impl From<io::Error> for ContentError {
    fn from(error: io::Error) -> Self {
        ContentError::Read(error)
    }
}

impl From<RepositoryError> for ContentError {
    fn from(error: RepositoryError) -> Self {
        ContentError::Repository(error)
    }
}

/// The digest of a file's bytes: the one it has, or, of a file of one chunk, computed from its bytes.
pub(super) fn digest_of(
    reader: &BlobReader<'_>,
    file: &FileContent,
) -> Result<[u8; 32], RepositoryError> {
    if let Some(digest) = file.digest {
        return Ok(digest);
    }
    if file.size > DIGEST_REGION {
        return Err(RepositoryError::corrupt("file", "has no digest of all its bytes"));
    }
    let bytes = read_file(reader, file, DIGEST_REGION)?;
    Ok(reader.repository().naming().region_digest(&bytes))
}

/// Whether an open file holds other bytes than `file` says. It is read until the first difference, a chunk at a
/// time; where both have holes, nothing is read.
pub(super) fn differs_from(
    reader: &BlobReader<'_>,
    file: &FileContent,
    open: &dyn OpenFile,
    monitor: &dyn Monitor,
) -> Result<bool, ContentError> {
    let mut buffer = Vec::new();
    let mut at = 0;
    if let Content::Inline(bytes) = &file.content {
        at = bytes.len() as u64;
        if !read_whole(open, &mut buffer, 0, at)? || *buffer != **bytes {
            return Ok(true);
        }
    }
    let naming = reader.repository().naming();
    for extent in Extents::new(reader, file) {
        if monitor.interrupted() {
            return Err(ContentError::Interrupted);
        }
        match extent? {
            Extent::Data { blob, length } => {
                if length > SEGMENT_LENGTH_MAX {
                    let item = format!("blob {}", blob.short());
                    let message = "is said to be longer than any blob";
                    return Err(RepositoryError::corrupt(item, message).into());
                }
                if !read_whole(open, &mut buffer, at, length)? || naming.data_id(&buffer) != blob {
                    return Ok(true);
                }
                at += length;
                monitor.advance(Progress { files: 0, bytes: length });
            }
            Extent::Hole { length } => {
                if !is_zero(open, &mut buffer, at, at + length, monitor)? {
                    return Ok(true);
                }
                at += length;
            }
        }
    }
    // It may have grown since the walk.
    Ok(read_whole(open, &mut buffer, at, 1)?)
}

/// Reads exactly `length` bytes into `buffer`; `false` when the file ends before.
fn read_whole(
    open: &dyn OpenFile,
    buffer: &mut Vec<u8>,
    offset: u64,
    length: u64,
) -> io::Result<bool> {
    buffer.resize(length as usize, 0);
    let mut filled = 0;
    while filled < buffer.len() {
        match open.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => return Ok(false),
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

/// Whether a file has nothing but zeros, or a hole, from `from` to `to`.
fn is_zero(
    open: &dyn OpenFile,
    buffer: &mut Vec<u8>,
    from: u64,
    to: u64,
    monitor: &dyn Monitor,
) -> Result<bool, ContentError> {
    let mut at = from;
    while at < to {
        let Some(data) = open.next_data(at, to)? else { break };
        at = data.start.clamp(at, to);
        let end = data.end.clamp(at, to);
        while at < end {
            if monitor.interrupted() {
                return Err(ContentError::Interrupted);
            }
            let length = (end - at).min(WINDOW);
            if !read_whole(open, buffer, at, length)? || buffer.iter().any(|byte| *byte != 0) {
                return Ok(false);
            }
            at += length;
        }
    }
    Ok(true)
}
