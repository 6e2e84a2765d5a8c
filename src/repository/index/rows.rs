//! Rows of the cache's redb tables: names as keys, and what reading needs of a pack.

use super::{PackInfo, SegmentInfo};
use crate::format::bytes::{Reader, put_varint};
use crate::format::header::{HEADER_LENGTH, Header};
use crate::format::index::PackRecord;
use crate::format::pack::Encoding;
use crate::id::{BlobId, PackId, SessionId};

/// A name as a key: the session's bytes, then the number.
pub(super) fn name_bytes(session: SessionId, number: u32) -> [u8; SessionId::LENGTH + 4] {
    let mut bytes = [0; SessionId::LENGTH + 4];
    bytes[..SessionId::LENGTH].copy_from_slice(&session.to_bytes());
    bytes[SessionId::LENGTH..].copy_from_slice(&number.to_le_bytes());
    bytes
}

/// The name that [`name_bytes`] wrote.
pub(super) fn read_name(bytes: &[u8]) -> Option<(SessionId, u32)> {
    let session = SessionId::from_bytes(bytes.get(..SessionId::LENGTH)?.try_into().ok()?);
    let number = u32::from_le_bytes(bytes.get(SessionId::LENGTH..)?.try_into().ok()?);
    Some((session, number))
}

/// What reading needs of a pack, as a row.
pub(super) fn encode_pack(pack: &PackRecord) -> Vec<u8> {
    let mut bytes = name_bytes(pack.id.session, pack.id.number).to_vec();
    bytes.extend_from_slice(&pack.header.encode());
    put_varint(&mut bytes, pack.object_length);
    put_varint(&mut bytes, pack.directory.segments.len() as u64);
    for segment in &pack.directory.segments {
        put_varint(&mut bytes, u64::from(segment.stored_length));
        put_varint(&mut bytes, segment.plain_length());
        match &segment.encoding {
            Encoding::Stored => put_varint(&mut bytes, 0),
            Encoding::Zstd => put_varint(&mut bytes, 1),
            Encoding::Unknown(_) => put_varint(&mut bytes, 2),
            Encoding::Delta(bases) => {
                put_varint(&mut bytes, 3 + bases.len() as u64);
                bases.iter().for_each(|base| bytes.extend_from_slice(base.as_bytes()));
            }
        }
    }
    bytes
}

/// Name and length in bytes of the pack of a row that [`encode_pack`] wrote; `None` when it is garbled.
pub(super) fn decode_pack_length(bytes: &[u8]) -> Option<(PackId, u64)> {
    let mut reader = Reader::new(bytes);
    let (session, number) = read_name(reader.take(SessionId::LENGTH + 4).ok()?)?;
    reader.take(HEADER_LENGTH).ok()?;
    Some((PackId { session, number }, reader.varint().ok()?))
}

/// The pack of a row that [`encode_pack`] wrote; `None` when it is garbled.
pub(super) fn decode_pack(bytes: &[u8]) -> Option<PackInfo> {
    let mut reader = Reader::new(bytes);
    let (session, number) = read_name(reader.take(SessionId::LENGTH + 4).ok()?)?;
    let header = Header::decode(reader.take(HEADER_LENGTH).ok()?).ok()?;
    let object_length = reader.varint().ok()?;
    let count = reader.count(3).ok()?;
    let mut segments = Vec::with_capacity(count);
    let mut offset = 0;
    for _ in 0..count {
        let stored_length = reader.varint_u32().ok()?;
        let plain_length = reader.varint_u32().ok()?;
        let encoding = match reader.varint().ok()? {
            0 => Encoding::Stored,
            1 => Encoding::Zstd,
            2 => Encoding::Unknown(u8::MAX),
            more => Encoding::Delta(
                (3..more).map(|_| Some(BlobId(reader.array().ok()?))).collect::<Option<_>>()?,
            ),
        };
        segments.push(SegmentInfo { offset, stored_length, plain_length, encoding });
        offset += u64::from(stored_length);
    }
    let id = PackId { session, number };
    Some(PackInfo { id, kind: header.kind, header, object_length, segments })
}
