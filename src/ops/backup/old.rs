//! The last version of a file that has changed: what is new in it is stored against that.

use std::collections::VecDeque;

use super::content::OldChunks;
use crate::id::BlobId;
use crate::repository::reader::BlobReader;
use crate::tree::entry::{Extent, FileContent};
use crate::view::Extents;

/// How far around a region old chunks are looked at: content that was moved further is not found.
const AROUND: u64 = 1 << 20;

/// The chunks of a file's last version, read from its beginning to its end as they are asked for.
pub struct OldFile<'r, 'a> {
    extents: Extents<'r, 'a>,
    /// Where what was not read yet begins.
    end: u64,
    chunks: VecDeque<(u64, BlobId, u64)>,
}

impl<'r, 'a> OldFile<'r, 'a> {
    /// Of this content.
    pub fn new(reader: &'r BlobReader<'a>, file: &FileContent) -> Self {
        OldFile { extents: Extents::new(reader, file), end: 0, chunks: VecDeque::new() }
    }

    /// The chunks in `from..to` and a little around it. Ranges must come in order. What cannot be read is left
    /// out: it costs size, and no more.
    pub fn around(&mut self, from: u64, to: u64) -> OldChunks {
        let (from, to) = (from.saturating_sub(AROUND), to.saturating_add(AROUND));
        while self.end < to {
            let Some(Ok(extent)) = self.extents.next() else { break };
            let length = match extent {
                Extent::Hole { length } => length,
                Extent::Data { blob, length } => {
                    self.chunks.push_back((self.end, blob, length));
                    length
                }
            };
            self.end += length;
        }
        while self.chunks.front().is_some_and(|(offset, _, length)| offset + length <= from) {
            self.chunks.pop_front();
        }
        OldChunks(self.chunks.iter().take_while(|(offset, ..)| *offset < to).copied().collect())
    }
}
