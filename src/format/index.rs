//! An index object: a listing of packs with their directories. It only repeats what the packs say of
//! themselves, so that nobody has to read them all.

use super::bytes::{Reader, put_field, put_varint};
use super::header::{HEADER_LENGTH, Header};
use super::pack::PackDirectory;
use super::snapshot::skip_field;
use super::{FormatError, Kind};
use crate::id::{IndexId, PackId, SessionId};

/// One pack as an index lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackRecord {
    /// Its name.
    pub id: PackId,
    /// Its header: with it, a segment is read without reading the header first.
    pub header: Header,
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
        let mut value = Vec::new();
        for id in &self.superseded {
            value.clear();
            put_name(&mut value, id.session, id.number);
            put_field(&mut output, 1, &value);
        }
        for pack in &self.packs {
            value.clear();
            put_name(&mut value, pack.id.session, pack.id.number);
            value.extend_from_slice(&pack.header.encode());
            put_varint(&mut value, pack.object_length);
            pack.directory.encode(&mut value);
            put_field(&mut output, 2, &value);
        }
        output
    }

    /// Reads a payload.
    pub fn decode(payload: &[u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::new(payload);
        let mut index = Index::default();
        while let Some((number, mut value)) = reader.field()? {
            match number {
                1 => {
                    let (session, number) = read_name(&mut value)?;
                    index.superseded.push(IndexId { session, number });
                }
                2 => {
                    let (session, number) = read_name(&mut value)?;
                    let header = match Header::decode(value.take(HEADER_LENGTH)?) {
                        // A later version's pack does not hide those beside it.
                        Err(error) if error.kind == Kind::Newer => continue,
                        header => header?,
                    };
                    let object_length = value.varint()?;
                    let directory = PackDirectory::decode(&mut value)?;
                    if !header.kind.uses_data_key() || directory.body_length() > object_length {
                        return Err(FormatError::corrupt("a pack that cannot be"));
                    }
                    let id = PackId { session, number };
                    index.packs.push(PackRecord { id, header, object_length, directory });
                }
                other => skip_field(other)?,
            }
        }
        Ok(index)
    }
}

#[cfg(test)]
mod tests {
    use super::super::VERSION;
    use super::super::header::ObjectKind;
    use super::super::pack::{BlobRecord, Encoding};
    use super::*;
    use crate::id::{BlobId, RepositoryId};

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
                header: Header {
                    version: VERSION,
                    kind: ObjectKind::DataPack,
                    epoch: 1,
                    repository: RepositoryId([4; 16]),
                    parity: None,
                    salt: [6; 32],
                    commitment: [7; 32],
                },
                object_length: 4096,
                directory,
            }],
        };
        let bytes = index.encode();
        assert_eq!(Index::decode(&bytes), Ok(index));
        for end in 30..bytes.len() {
            assert!(Index::decode(&bytes[..end]).is_err(), "{end}");
        }
    }
}
