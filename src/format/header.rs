//! The header that every sealed object begins with, and the trailer that ends its plaintext.
//!
//! | offset | length | what |
//! |---|---|---|
//! | 0 | 8 | magic `89 41 55 4D 42 52 59 0A` |
//! | 8 | 2 | format version |
//! | 10 | 1 | kind of object |
//! | 11 | 1 | cipher suite: 1 = ChaCha20-Poly1305 |
//! | 12 | 4 | key epoch |
//! | 16 | 16 | repository id |
//! | 32 | 1 | where the key comes from: 1 = the epoch key |
//! | 33 | 1 | parity scheme: 0 = none, 1 = Reed–Solomon (packs only) |
//! | 34 | 2 | length of the key envelope that follows the header: 0 |
//! | 36 | 4 | required features: a reader that does not know a set bit refuses the object |
//! | 40 | 2 | scheme 1: how many parity shards follow the frames; else 0 |
//! | 42 | 6 | zeros |
//! | 48 | 8 | scheme 1: length of the plaintext; else 0 |
//! | 56 | 8 | zeros |
//! | 64 | 32 | salt |
//! | 96 | 32 | commitment to the object's key |

use super::bytes::Reader;
use super::{FormatError, VERSION};
use crate::id::RepositoryId;

/// Not text, not valid UTF-8, and broken by a transfer that changes line ends.
pub const MAGIC: [u8; 8] = *b"\x89AUMBRY\n";
/// Length of the header in bytes.
pub const HEADER_LENGTH: usize = 128;
/// The part of the header that the object's key is derived from: all before the commitment.
pub const KEYED_LENGTH: usize = 96;
/// The only cipher suite of version 1.
pub const SUITE_CHACHA20_POLY1305: u8 = 1;
/// The object's key comes from the epoch key and the salt.
const KEY_FROM_EPOCH: u8 = 1;
/// Behind the frames: parity shards, then a copy of the header.
const PARITY_REED_SOLOMON: u8 = 1;
/// No pack is longer: its code has 2^16 words, one for each frame and parity shard.
const PARITY_PLAIN_LENGTH_MAX: u64 = 1 << 32;

/// What an object is. The number stands at offset 10 of its header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ObjectKind {
    /// The repository's settings.
    Config = 1,
    /// A wrapped keyring (its layout is its own, `slot`).
    KeySlot = 2,
    /// A pack of file chunks.
    DataPack = 3,
    /// A pack of tree blobs: directory nodes and chunk lists.
    TreePack = 4,
    /// A listing of packs.
    Index = 5,
    /// A registered writer or reader.
    Session = 6,
    /// What a session decided: a snapshot or ABORT.
    Snapshot = 7,
    /// A forgotten snapshot.
    Tomb = 8,
    /// The packs that a generation of collection means to drop.
    Condemned = 9,
    /// The packs that a generation drops, and the snapshots that live.
    Sweep = 10,
    /// What a check found wrong with a pack.
    Damage = 11,
    /// When packs were last proven.
    Ledger = 12,
    /// What says all by its name: that a tomb is undone; an abort or a confirmation, where a store cannot create if absent.
    Mark = 13,
    /// Who collects where a store cannot create if absent.
    Maintainer = 14,
    /// A newer keyring for the key slots that it names (its layout is its own, `key_update`).
    KeyUpdate = 15,
    /// Until when objects are locked.
    LockRecord = 16,
}

impl ObjectKind {
    fn from_number(number: u8) -> Option<Self> {
        [
            ObjectKind::Config,
            ObjectKind::KeySlot,
            ObjectKind::DataPack,
            ObjectKind::TreePack,
            ObjectKind::Index,
            ObjectKind::Session,
            ObjectKind::Snapshot,
            ObjectKind::Tomb,
            ObjectKind::Condemned,
            ObjectKind::Sweep,
            ObjectKind::Damage,
            ObjectKind::Ledger,
            ObjectKind::Mark,
            ObjectKind::Maintainer,
            ObjectKind::KeyUpdate,
            ObjectKind::LockRecord,
        ]
        .into_iter()
        .find(|kind| *kind as u8 == number)
    }

    /// A word for people.
    pub fn name(self) -> &'static str {
        match self {
            ObjectKind::Config => "config",
            ObjectKind::KeySlot => "key slot",
            ObjectKind::DataPack => "data pack",
            ObjectKind::TreePack => "tree pack",
            ObjectKind::Index => "index",
            ObjectKind::Session => "session",
            ObjectKind::Snapshot => "snapshot",
            ObjectKind::Tomb => "tomb",
            ObjectKind::Condemned => "condemned list",
            ObjectKind::Sweep => "sweep list",
            ObjectKind::Damage => "damage record",
            ObjectKind::Ledger => "ledger",
            ObjectKind::Mark => "mark of a decision",
            ObjectKind::Maintainer => "maintainer",
            ObjectKind::KeyUpdate => "key update",
            ObjectKind::LockRecord => "lock record",
        }
    }

    /// Whether objects of this kind are sealed with the data key; all others use the index key.
    pub fn uses_data_key(self) -> bool {
        matches!(self, ObjectKind::DataPack | ObjectKind::TreePack)
    }
}

/// What a header says of the parity behind a pack's frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parity {
    /// How many parity shards there are, at least one.
    pub shards: u16,
    /// Length of the pack's plaintext in bytes, at least one: with parity, and when the object is cut short, the
    /// object's length does not tell.
    pub plain_length: u64,
}

impl Parity {
    /// Bytes 40 to 64 of the header.
    fn decode(scheme: u8, reader: &mut Reader<'_>) -> Result<Option<Self>, FormatError> {
        let (shards, zeros) = (reader.u16()?, reader.array::<6>()?);
        let (plain_length, more_zeros) = (reader.u64()?, reader.u64()?);
        let parity = Parity { shards, plain_length };
        if zeros != [0; 6] || more_zeros != 0 {
            return Err(FormatError::corrupt("reserved header bytes are not zero"));
        }
        match (scheme, shards, plain_length) {
            (0, 0, 0) => Ok(None),
            (PARITY_REED_SOLOMON, 1.., 1..=PARITY_PLAIN_LENGTH_MAX) => Ok(Some(parity)),
            _ => Err(FormatError::corrupt(format!("parity that cannot be: {scheme}, {parity:?}"))),
        }
    }
}

/// The header of a sealed object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Format version of the writer: part of what the object's key is derived from.
    pub version: u16,
    /// What the object is.
    pub kind: ObjectKind,
    /// Which epoch's key sealed it.
    pub epoch: u32,
    /// Whose object it is.
    pub repository: RepositoryId,
    /// The parity behind the frames; only packs have any.
    pub parity: Option<Parity>,
    /// Makes the object's key its own.
    pub salt: [u8; 32],
    /// Proves that a key is the one: AEADs like ChaCha20-Poly1305 do not (Len, Grubbs, Ristenpart,
    /// "Partitioning Oracle Attacks", USENIX Security 2021).
    pub commitment: [u8; 32],
}

impl Header {
    /// The header's bytes.
    pub fn encode(&self) -> [u8; HEADER_LENGTH] {
        let mut bytes = [0; HEADER_LENGTH];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..10].copy_from_slice(&self.version.to_le_bytes());
        bytes[10] = self.kind as u8;
        bytes[11] = SUITE_CHACHA20_POLY1305;
        bytes[12..16].copy_from_slice(&self.epoch.to_le_bytes());
        bytes[16..32].copy_from_slice(self.repository.as_bytes());
        bytes[32] = KEY_FROM_EPOCH;
        if let Some(parity) = &self.parity {
            bytes[33] = PARITY_REED_SOLOMON;
            bytes[40..42].copy_from_slice(&parity.shards.to_le_bytes());
            bytes[48..56].copy_from_slice(&parity.plain_length.to_le_bytes());
        }
        bytes[64..96].copy_from_slice(&self.salt);
        bytes[96..].copy_from_slice(&self.commitment);
        bytes
    }

    /// The header that `object` begins with.
    pub fn decode(object: &[u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::new(object);
        let (version, kind) = decode_start(&mut reader)?;
        let suite = reader.u8()?;
        let epoch = reader.u32()?;
        let repository = RepositoryId(reader.array()?);
        let (key_source, scheme) = (reader.u8()?, reader.u8()?);
        let envelope_length = reader.u16()?;
        let features = reader.u32()?;
        if suite != SUITE_CHACHA20_POLY1305
            || key_source != KEY_FROM_EPOCH
            || scheme > if kind.uses_data_key() { PARITY_REED_SOLOMON } else { 0 }
            || envelope_length != 0
            || features != 0
        {
            return Err(FormatError::newer(format!(
                "needs what this version does not have (cipher suite {suite}, key source \
                 {key_source}, parity {scheme}, key envelope {envelope_length}, features \
                 {features:#x})"
            )));
        }
        let parity = Parity::decode(scheme, &mut reader)?;
        let (salt, commitment) = (reader.array()?, reader.array()?);
        Ok(Header { version, kind, epoch, repository, parity, salt, commitment })
    }
}

/// Reads magic, version and kind, which all objects have in common.
pub(super) fn decode_start(reader: &mut Reader<'_>) -> Result<(u16, ObjectKind), FormatError> {
    if reader.array::<8>()? != MAGIC {
        return Err(FormatError::corrupt("does not begin like an object of Aumbry"));
    }
    let version = reader.u16()?;
    if version == 0 {
        return Err(FormatError::corrupt("format version 0"));
    }
    if version > VERSION {
        return Err(FormatError::newer(format!(
            "format version {version}; this program reads up to {VERSION}"
        )));
    }
    let kind = reader.u8()?;
    let kind = ObjectKind::from_number(kind)
        .ok_or_else(|| FormatError::newer(format!("unknown kind of object {kind}")))?;
    Ok((version, kind))
}

/// Length of the trailer of every sealed object but packs: the payload's length, as 8 bytes.
pub const TRAILER_LENGTH: usize = 8;

/// Ends a payload: zeros up to `padded_length` less the trailer, then the payload's length.
/// `padded_length` is at least the payload's length and [`TRAILER_LENGTH`].
pub fn pad_payload(mut payload: Vec<u8>, padded_length: usize) -> Vec<u8> {
    let length = payload.len() as u64;
    payload.resize(padded_length - TRAILER_LENGTH, 0);
    payload.extend_from_slice(&length.to_le_bytes());
    payload
}

/// The payload that [`pad_payload`] padded.
pub fn unpad_payload(mut plain: Vec<u8>) -> Result<Vec<u8>, FormatError> {
    let body = plain
        .len()
        .checked_sub(TRAILER_LENGTH)
        .ok_or_else(|| FormatError::corrupt("too short for a trailer"))?;
    let length = u64::from_le_bytes(Reader::new(&plain[body..]).array()?);
    if length > body as u64 {
        return Err(FormatError::corrupt(format!("a payload of {length} bytes in {body}")));
    }
    if plain[length as usize..body].iter().any(|byte| *byte != 0) {
        return Err(FormatError::corrupt("padding that is not zero"));
    }
    plain.truncate(length as usize);
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use super::super::Kind;
    use super::*;

    fn header() -> Header {
        Header {
            version: VERSION,
            kind: ObjectKind::TreePack,
            epoch: 5,
            repository: RepositoryId([1; 16]),
            parity: None,
            salt: [2; 32],
            commitment: [3; 32],
        }
    }

    #[test]
    fn a_header_comes_back_and_every_reserved_byte_is_refused() {
        let bytes = header().encode();
        assert_eq!(Header::decode(&bytes), Ok(header()));
        for offset in (0..12).chain(32..64) {
            let mut changed = bytes;
            changed[offset] ^= 0x40;
            assert!(Header::decode(&changed).is_err(), "offset {offset}");
        }
        assert!(Header::decode(&bytes[..127]).is_err());
    }

    #[test]
    fn parity_comes_back_and_is_of_packs_alone() {
        let parity = Some(Parity { shards: 6, plain_length: 16 << 20 });
        let with = Header { parity, ..header() };
        let bytes = with.encode();
        assert_eq!(Header::decode(&bytes), Ok(with));
        let wrong = |changes: &[(usize, u8)]| {
            let mut changed = bytes;
            changes.iter().for_each(|(offset, byte)| changed[*offset] = *byte);
            Header::decode(&changed).map_err(|error| error.kind)
        };
        assert_eq!(wrong(&[(33, 2)]), Err(Kind::Newer));
        assert_eq!(wrong(&[(10, ObjectKind::Index as u8)]), Err(Kind::Newer));
        assert_eq!(wrong(&[(33, 0)]), Err(Kind::Corrupt));
        assert_eq!(wrong(&[(40, 0)]), Err(Kind::Corrupt));
        assert_eq!(wrong(&[(51, 0)]), Err(Kind::Corrupt));
        assert_eq!(wrong(&[(52, 1)]), Err(Kind::Corrupt), "longer than any code");
        for offset in (42..48).chain(53..64) {
            assert_eq!(wrong(&[(offset, 1)]), Err(Kind::Corrupt), "offset {offset}");
        }
    }

    #[test]
    fn a_newer_format_is_told_from_damage() {
        let mut bytes = header().encode();
        bytes[8] = 2;
        assert_eq!(Header::decode(&bytes).unwrap_err().kind, Kind::Newer);
        bytes[0] = 0;
        assert_eq!(Header::decode(&bytes).unwrap_err().kind, Kind::Corrupt);
    }

    #[test]
    fn padding_comes_off() {
        for length in 0..40 {
            let payload = vec![7; length];
            let padded = pad_payload(payload.clone(), length + TRAILER_LENGTH + 5);
            assert_eq!(unpad_payload(padded.clone()), Ok(payload));
            let mut dirty = padded;
            dirty[length] = 1;
            assert!(unpad_payload(dirty).is_err());
        }
        assert!(unpad_payload(vec![1, 0, 0, 0, 0, 0, 0, 0]).is_err());
        assert!(unpad_payload(vec![0; 7]).is_err());
    }
}
