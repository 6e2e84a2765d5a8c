//! An index object: a listing of packs with their directories. It only repeats what the packs say of
//! themselves, so that nobody has to read them all.

use super::FormatError;
use super::bytes::{Reader, put_bytes, put_varint};
use super::header::ObjectKind;
use super::pack::PackDirectory;
use crate::id::{IndexId, PackId, SessionId};

/// One pack as an index lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackRecord {
    /// Its name.
    pub id: PackId,
    /// Data pack or tree pack.
    pub kind: ObjectKind,
    /// Which epoch's key sealed it.
    pub epoch: u32,
    /// The salt in its header: with it, a segment is read without reading the header first.
    pub salt: [u8; 32],
    /// Length of the object in the store, in bytes.
    pub object_length: u64,
    /// Its segments.
    pub directory: PackDirectory,
}

/// What an index object says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Index {
    /// Index objects whose packs all stand in this one: they may be passed over.
    pub superseded: Vec<IndexId>,
    /// The packs.
    pub packs: Vec<PackRecord>,
}

fn put_name(output: &mut Vec<u8>, session: SessionId, number: u32) {
    output.extend_from_slice(&session.to_bytes());
    output.extend_from_slice(&number.to_le_bytes());
}

fn read_name(reader: &mut Reader<'_>) -> Result<(SessionId, u32), FormatError> {
    Ok((SessionId::from_bytes(reader.array()?), reader.u32()?))
}

impl Index {
    /// The payload's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut output = Vec::new();
        put_varint(&mut output, self.superseded.len() as u64);
        for id in &self.superseded {
            put_name(&mut output, id.session, id.number);
        }
        put_varint(&mut output, self.packs.len() as u64);
        let mut directory = Vec::new();
        for pack in &self.packs {
            put_name(&mut output, pack.id.session, pack.id.number);
            output.push(pack.kind as u8);
            put_varint(&mut output, u64::from(pack.epoch));
            output.extend_from_slice(&pack.salt);
            put_varint(&mut output, pack.object_length);
            directory.clear();
            pack.directory.encode(&mut directory);
            put_bytes(&mut output, &directory);
        }
        output
    }

    /// Reads a payload.
    pub fn decode(payload: &[u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::new(payload);
        let mut index = Index::default();
        for _ in 0..reader.count(SessionId::LENGTH + 4)? {
            let (session, number) = read_name(&mut reader)?;
            index.superseded.push(IndexId { session, number });
        }
        for _ in 0..reader.count(SessionId::LENGTH + 4 + 36)? {
            let (session, number) = read_name(&mut reader)?;
            let kind = match reader.u8()? {
                3 => ObjectKind::DataPack,
                4 => ObjectKind::TreePack,
                other => {
                    return Err(FormatError::newer(format!("a pack of unknown kind {other}")));
                }
            };
            let epoch = reader.varint_u32()?;
            let salt = reader.array()?;
            let object_length = reader.varint()?;
            let mut bytes = Reader::new(reader.bytes()?);
            let directory = PackDirectory::decode(&mut bytes)?;
            bytes.finish()?;
            let id = PackId { session, number };
            index.packs.push(PackRecord { id, kind, epoch, salt, object_length, directory });
        }
        reader.finish()?;
        Ok(index)
    }
}

#[cfg(test)]
mod tests {
    use super::super::pack::{BlobRecord, Encoding};
    use super::*;
    use crate::id::BlobId;

    #[test]
    fn an_index_comes_back_and_no_prefix_of_it_does() {
        let session = SessionId { generation: 1, random: [2; 16] };
        let mut directory = PackDirectory::default();
        let blob = BlobRecord { id: BlobId([1; 32]), length: 10 };
        directory.push(10, Encoding::Stored, vec![blob]);
        let index = Index {
            superseded: vec![IndexId { session, number: 4 }],
            packs: vec![PackRecord {
                id: PackId { session, number: 5 },
                kind: ObjectKind::DataPack,
                epoch: 1,
                salt: [6; 32],
                object_length: 4096,
                directory,
            }],
        };
        let bytes = index.encode();
        assert_eq!(Index::decode(&bytes), Ok(index));
        for end in 0..bytes.len() {
            assert!(Index::decode(&bytes[..end]).is_err());
        }
    }
}
