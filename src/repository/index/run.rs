//! The rows of a run: blocks of sorted entries, searched by halving.

use super::Location;
use crate::id::BlobId;

/// Bytes of an entry: id, pack, segment, offset, length.
const ENTRY_LENGTH: usize = BlobId::LENGTH + 16;
/// Entries in a block: just under 16 KiB, which redb keeps in one page of its own.
pub const BLOCK_ENTRIES: usize = 340;

/// An id and its place.
pub type IndexEntry = (BlobId, Location);

/// The number a block is found by: the first eight bytes of its first id, so that order is kept.
pub fn block_key(id: &BlobId) -> u64 {
    u64::from_be_bytes(id.0[..8].try_into().expect("eight bytes of thirty-two"))
}

/// A block's bytes.
pub fn encode_block(entries: &[IndexEntry]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(entries.len() * ENTRY_LENGTH);
    for (id, location) in entries {
        bytes.extend_from_slice(id.as_bytes());
        for number in [location.pack, location.segment, location.offset, location.length] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
    }
    bytes
}

fn decode_entry(bytes: &[u8]) -> Option<IndexEntry> {
    let id = BlobId(bytes.get(..BlobId::LENGTH)?.try_into().ok()?);
    let number = |at: usize| {
        let start = BlobId::LENGTH + at * 4;
        Some(u32::from_le_bytes(bytes.get(start..start + 4)?.try_into().ok()?))
    };
    let location =
        Location { pack: number(0)?, segment: number(1)?, offset: number(2)?, length: number(3)? };
    Some((id, location))
}

/// All entries of a block.
pub fn decode_block(bytes: &[u8]) -> impl Iterator<Item = IndexEntry> + '_ {
    bytes.chunks_exact(ENTRY_LENGTH).filter_map(decode_entry)
}

/// The places of `id` in a block: entries with one id stand side by side.
pub fn search_block<'b>(bytes: &'b [u8], id: &BlobId) -> impl Iterator<Item = Location> + 'b {
    let wanted = *id;
    let key = |at: usize| &bytes[at * ENTRY_LENGTH..at * ENTRY_LENGTH + BlobId::LENGTH];
    let (mut low, mut high) = (0, bytes.len() / ENTRY_LENGTH);
    while low < high {
        let middle = (low + high) / 2;
        if key(middle) < wanted.as_bytes().as_slice() {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    decode_block(&bytes[low * ENTRY_LENGTH..])
        .take_while(move |(id, _)| *id == wanted)
        .map(|(_, location)| location)
}

/// Cuts sorted entries into blocks. Entries whose keys are equal stay in one block, so that the last
/// block that begins at or before a key is the only one that can hold it.
pub struct BlockWriter<F: FnMut(u64, Vec<u8>) -> super::super::error::Result<()>> {
    pending: Vec<IndexEntry>,
    write: F,
}

impl<F: FnMut(u64, Vec<u8>) -> super::super::error::Result<()>> BlockWriter<F> {
    /// A writer that hands finished blocks to `write`.
    pub fn new(write: F) -> Self {
        BlockWriter { pending: Vec::with_capacity(BLOCK_ENTRIES), write }
    }

    /// The next entry, in order.
    pub fn push(&mut self, entry: IndexEntry) -> super::super::error::Result<()> {
        if self.pending.len() >= BLOCK_ENTRIES
            && self.pending.last().is_some_and(|last| block_key(&last.0) != block_key(&entry.0))
        {
            self.flush()?;
        }
        self.pending.push(entry);
        Ok(())
    }

    fn flush(&mut self) -> super::super::error::Result<()> {
        if let Some(first) = self.pending.first() {
            (self.write)(block_key(&first.0), encode_block(&self.pending))?;
            self.pending.clear();
        }
        Ok(())
    }

    /// The last block.
    pub fn finish(mut self) -> super::super::error::Result<()> {
        self.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_found_and_searched() {
        let mut entries: Vec<IndexEntry> = (0..1000u32)
            .map(|number| {
                let id = BlobId(*blake3::hash(&number.to_le_bytes()).as_bytes());
                (id, Location { pack: number, segment: 1, offset: 2, length: 3 })
            })
            .collect();
        entries.sort();
        let mut blocks = Vec::new();
        let mut writer = BlockWriter::new(|key, block| {
            blocks.push((key, block));
            Ok(())
        });
        entries.iter().for_each(|entry| writer.push(*entry).unwrap());
        writer.finish().unwrap();
        assert_eq!(blocks.len(), 3);
        for (id, location) in &entries {
            let at = blocks.partition_point(|(key, _)| *key <= block_key(id)) - 1;
            assert_eq!(search_block(&blocks[at].1, id).collect::<Vec<_>>(), [*location]);
        }
        assert_eq!(search_block(&blocks[0].1, &BlobId([0xff; 32])).next(), None);
        let all: Vec<_> = blocks.iter().flat_map(|(_, block)| decode_block(block)).collect();
        assert_eq!(all, entries);
    }
}
