//! What stands in a pack: segments, and the directory that names them.
//!
//! A pack's plaintext is: the stored segments one after another, zeros, the directory, and the directory's
//! length as 4 bytes. Index objects carry the same directories.

use super::FormatError;
use super::bytes::{Reader, put_bytes, put_varint};
use crate::id::BlobId;

/// Length of the pack's trailer in bytes: the directory's length.
pub const PACK_TRAILER_LENGTH: usize = 4;
/// No segment's plaintext, and no delta's prefix, is longer: what a reader must be ready to allocate.
pub const SEGMENT_LENGTH_MAX: u64 = 64 << 20;

/// How a segment's bytes are stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Encoding {
    /// As they are.
    Stored,
    /// One zstd frame.
    Zstd,
    /// One zstd frame that refers to a prefix: the plaintexts of these blobs, one after another. The
    /// bases stand in segments that are not deltas.
    Delta(Vec<BlobId>),
    /// In a way that only a later version knows: its blobs count as absent, those beside it are read.
    Unknown(u8),
}

impl Encoding {
    /// Whether other blobs are needed to read it.
    pub fn is_delta(&self) -> bool {
        matches!(self, Encoding::Delta(_))
    }
}

const ENCODING_STORED: u8 = 0;
const ENCODING_ZSTD: u8 = 1;
const ENCODING_DELTA: u8 = 2;

/// A blob in a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlobRecord {
    /// Its name.
    pub id: BlobId,
    /// Length of its plaintext in bytes.
    pub length: u32,
}

/// A segment: blobs that were compressed together. Its plaintext is theirs, one after another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentRecord {
    /// Where it begins in the pack's plaintext: the sum of the stored lengths before it. Not written.
    pub offset: u64,
    /// How many bytes of the pack's plaintext it takes.
    pub stored_length: u32,
    /// How it is stored.
    pub encoding: Encoding,
    /// Its blobs, in order.
    pub blobs: Vec<BlobRecord>,
}

impl SegmentRecord {
    /// Length of the plaintext in bytes.
    pub fn plain_length(&self) -> u64 {
        self.blobs.iter().map(|blob| u64::from(blob.length)).sum()
    }
}

/// The segments of one pack, in order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PackDirectory {
    /// The segments.
    pub segments: Vec<SegmentRecord>,
}

impl PackDirectory {
    /// Adds a segment behind the last one.
    pub fn push(&mut self, stored_length: u32, encoding: Encoding, blobs: Vec<BlobRecord>) {
        let offset = self.body_length();
        self.segments.push(SegmentRecord { offset, stored_length, encoding, blobs });
    }

    /// How many bytes of the pack's plaintext the segments take.
    pub fn body_length(&self) -> u64 {
        self.segments.last().map_or(0, |last| last.offset + u64::from(last.stored_length))
    }

    /// How many blobs there are in all segments.
    pub fn blob_count(&self) -> usize {
        self.segments.iter().map(|segment| segment.blobs.len()).sum()
    }

    /// Whether there are segments that only a later version can read.
    pub fn has_unknown_encodings(&self) -> bool {
        self.segments.iter().any(|segment| matches!(segment.encoding, Encoding::Unknown(_)))
    }

    /// Appends the directory's bytes.
    pub fn encode(&self, output: &mut Vec<u8>) {
        put_varint(output, self.segments.len() as u64);
        let mut record = Vec::new();
        for segment in &self.segments {
            record.clear();
            segment.encode(&mut record);
            put_bytes(output, &record);
        }
    }

    /// Reads what [`PackDirectory::encode`] wrote, and nothing behind it.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, FormatError> {
        let mut directory = PackDirectory::default();
        for _ in 0..reader.count(4)? {
            let mut record = Reader::new(reader.bytes()?);
            let (stored_length, encoding, blobs) = SegmentRecord::decode(&mut record)?;
            directory.push(stored_length, encoding, blobs);
        }
        Ok(directory)
    }
}

impl SegmentRecord {
    fn encode(&self, output: &mut Vec<u8>) {
        output.push(match self.encoding {
            Encoding::Stored => ENCODING_STORED,
            Encoding::Zstd => ENCODING_ZSTD,
            Encoding::Delta(_) => ENCODING_DELTA,
            Encoding::Unknown(number) => number,
        });
        put_varint(output, u64::from(self.stored_length));
        if let Encoding::Delta(bases) = &self.encoding {
            put_varint(output, bases.len() as u64);
            bases.iter().for_each(|base| output.extend_from_slice(base.as_bytes()));
        }
        put_varint(output, self.blobs.len() as u64);
        for blob in &self.blobs {
            output.extend_from_slice(blob.id.as_bytes());
            put_varint(output, u64::from(blob.length));
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<(u32, Encoding, Vec<BlobRecord>), FormatError> {
        let encoding = reader.u8()?;
        let stored_length = reader.varint_u32()?;
        let encoding = match encoding {
            ENCODING_STORED => Encoding::Stored,
            ENCODING_ZSTD => Encoding::Zstd,
            ENCODING_DELTA => {
                let count = reader.count(BlobId::LENGTH)?;
                let bases = (0..count).map(|_| reader.array().map(BlobId));
                Encoding::Delta(bases.collect::<Result<_, _>>()?)
            }
            other => return Ok((stored_length, Encoding::Unknown(other), Vec::new())),
        };
        let count = reader.count(BlobId::LENGTH + 1)?;
        let mut blobs = Vec::with_capacity(count);
        for _ in 0..count {
            let id = BlobId(reader.array()?);
            blobs.push(BlobRecord { id, length: reader.varint_u32()? });
        }
        reader.finish()?;
        let plain_length: u64 = blobs.iter().map(|blob| u64::from(blob.length)).sum();
        let stored_whole = encoding == Encoding::Stored && plain_length != u64::from(stored_length);
        if plain_length > SEGMENT_LENGTH_MAX || stored_whole {
            return Err(FormatError::corrupt(format!(
                "a segment of {plain_length} bytes stored in {stored_length}"
            )));
        }
        Ok((stored_length, encoding, blobs))
    }
}

/// Where the directory stands in a pack's plaintext of `plain_length` bytes that ends with `tail` (at
/// least the trailer). Returns offset and length in bytes.
pub fn locate_directory(plain_length: u64, tail: &[u8]) -> Result<(u64, usize), FormatError> {
    let trailer = tail
        .len()
        .checked_sub(PACK_TRAILER_LENGTH)
        .ok_or_else(|| FormatError::corrupt("too short for a pack's trailer"))?;
    let length = Reader::new(&tail[trailer..]).u32()?;
    let end = plain_length.saturating_sub(PACK_TRAILER_LENGTH as u64);
    let offset = end.checked_sub(u64::from(length)).ok_or_else(|| {
        FormatError::corrupt(format!("a directory of {length} bytes in a pack of {plain_length}"))
    })?;
    Ok((offset, length as usize))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory() -> PackDirectory {
        let blob = |byte, length| BlobRecord { id: BlobId([byte; 32]), length };
        let mut directory = PackDirectory::default();
        directory.push(300, Encoding::Stored, vec![blob(1, 100), blob(2, 200)]);
        directory.push(50, Encoding::Zstd, vec![blob(3, 70_000)]);
        directory.push(9, Encoding::Delta(vec![BlobId([3; 32]); 2]), vec![blob(4, 70_001)]);
        directory
    }

    #[test]
    fn a_directory_comes_back_with_its_offsets() {
        let mut bytes = Vec::new();
        directory().encode(&mut bytes);
        let mut reader = Reader::new(&bytes);
        let decoded = PackDirectory::decode(&mut reader).unwrap();
        assert!(reader.finish().is_ok());
        assert_eq!(decoded, directory());
        assert_eq!(decoded.segments[2].offset, 350);
        assert_eq!(decoded.body_length(), 359);
        for end in 0..bytes.len() {
            assert!(PackDirectory::decode(&mut Reader::new(&bytes[..end])).is_err());
        }
    }

    #[test]
    fn lies_about_lengths_are_refused() {
        let blob = BlobRecord { id: BlobId([1; 32]), length: 100 };
        let mut wrong = PackDirectory::default();
        wrong.push(99, Encoding::Stored, vec![blob]);
        let mut bytes = Vec::new();
        wrong.encode(&mut bytes);
        assert!(PackDirectory::decode(&mut Reader::new(&bytes)).is_err());
        let mut bomb = PackDirectory::default();
        bomb.push(9, Encoding::Zstd, vec![BlobRecord { length: u32::MAX, ..blob }]);
        let mut bytes = Vec::new();
        bomb.encode(&mut bytes);
        assert!(PackDirectory::decode(&mut Reader::new(&bytes)).is_err());
        assert!(locate_directory(10, &7u32.to_le_bytes()).is_err());
        assert_eq!(locate_directory(11, &7u32.to_le_bytes()), Ok((0, 7)));
    }
}
