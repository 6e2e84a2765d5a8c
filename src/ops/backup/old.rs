//! The last version of a file that has changed: what is new in it is stored against that.

use std::collections::VecDeque;

use crate::id::BlobId;
use crate::repository::reader::BlobReader;
use crate::tree::entry::{Extent, FileContent};
use crate::view::Extents;

/// How far around a region old chunks are looked at: content that was moved further is not found.
const AROUND: u64 = 1 << 20;
/// Bytes on either side of a new chunk's place in which old chunks are taken to be like it.
const MARGIN: u64 = 16 << 10;

/// The chunks of a file's last version, or of a part of it, in order: offset, id, length.
#[derive(Debug, Clone, Default)]
pub struct OldChunks(pub Vec<(u64, BlobId, u64)>);

impl OldChunks {
    /// Those in a place and a little around it.
    fn near(&self, place: u64, length: usize) -> &[(u64, BlobId, u64)] {
        let (from, to) = (place.saturating_sub(MARGIN), place + length as u64 + MARGIN);
        let first = self.0.partition_point(|(offset, _, length)| offset + length <= from);
        let count = self.0[first..].iter().take_while(|(offset, ..)| *offset < to).count();
        &self.0[first..first + count]
    }
}

/// Where a new chunk's content stood in the last version.
pub struct Alignment<'o> {
    old: &'o OldChunks,
    /// What was the same last stood so many bytes further on.
    shift: i64,
}

impl<'o> Alignment<'o> {
    /// Nothing was moved, as far as is known.
    pub fn new(old: &'o OldChunks) -> Self {
        Alignment { old, shift: 0 }
    }

    /// Whether there is anything in the last version.
    pub fn has_any(&self) -> bool {
        !self.old.0.is_empty()
    }

    fn place(&self, offset: u64) -> u64 {
        offset.saturating_add_signed(self.shift)
    }

    /// The chunk at this offset is not new.
    pub fn found(&mut self, id: &BlobId, offset: u64) {
        let here = self.old.near(self.place(offset), 0).iter();
        if let Some((old, ..)) = here.chain(&self.old.0).find(|(_, old, _)| old == id) {
            self.shift = *old as i64 - offset as i64;
        }
    }

    /// The old chunks in the place of a new one.
    pub fn near(&self, offset: u64, length: usize) -> Vec<BlobId> {
        self.old.near(self.place(offset), length).iter().map(|(_, id, _)| *id).collect()
    }
}

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
