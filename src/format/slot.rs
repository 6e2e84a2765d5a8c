//! A key slot: one way to the keyring, by passphrase or by recovery key.
//!
//! | offset | length | what |
//! |---|---|---|
//! | 0 | 8 | magic |
//! | 8 | 2 | format version |
//! | 10 | 1 | kind: 2 |
//! | 11 | 1 | way: 1 = passphrase through argon2id, 2 = recovery key |
//! | 12 | 4 | argon2id memory in KiB (way 2: 0) |
//! | 16 | 16 | repository id |
//! | 32 | 16 | slot id |
//! | 48 | 4 | argon2id passes (way 2: 0) |
//! | 52 | 4 | argon2id lanes (way 2: 0) |
//! | 56 | 4 | required features |
//! | 60 | 4 | length of the wrapped keyring |
//! | 64 | 32 | salt |
//! | 96 | 32 | commitment to the stretched key |
//! | 128 | 24 | nonce of the wrapped keyring |
//! | 152 | 24 | nonce of the label |
//! | 176 | n | wrapped keyring, bound to bytes 0..176 |
//! | 176 + n | rest | label, sealed with the keyring's label key, bound to everything before it |

use super::bytes::{Reader, put_field, put_number_field};
use super::header::{MAGIC, ObjectKind, decode_start};
use super::snapshot::{put_time_field, skip_field};
use super::{FormatError, VERSION};
use crate::id::{KeySlotId, RepositoryId};
use crate::units::Timestamp;

/// Length of the part before the wrapped keyring, in bytes.
pub const SLOT_HEADER_LENGTH: usize = 176;

/// How a slot is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// A passphrase, stretched with argon2id at this cost.
    Passphrase {
        /// Memory in KiB.
        memory_kib: u32,
        /// Passes over the memory.
        passes: u32,
        /// Lanes.
        lanes: u32,
    },
    /// 256 random bits that a person wrote down.
    Recovery,
}

/// The clear part of a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotHeader {
    /// How it is opened.
    pub way: Way,
    /// Whose slot it is.
    pub repository: RepositoryId,
    /// Its name.
    pub id: KeySlotId,
    /// Salt of the derivation.
    pub salt: [u8; 32],
    /// Tells the right passphrase from a wrong one before anything is unwrapped.
    pub commitment: [u8; 32],
    /// Nonce of the wrapped keyring.
    pub keyring_nonce: [u8; 24],
    /// Nonce of the label.
    pub label_nonce: [u8; 24],
    /// Length of the wrapped keyring in bytes.
    pub wrapped_length: u32,
}

impl SlotHeader {
    /// The header's bytes.
    pub fn encode(&self) -> [u8; SLOT_HEADER_LENGTH] {
        let (way, memory, passes, lanes) = match self.way {
            Way::Passphrase { memory_kib, passes, lanes } => (1, memory_kib, passes, lanes),
            Way::Recovery => (2, 0, 0, 0),
        };
        let mut bytes = [0; SLOT_HEADER_LENGTH];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..10].copy_from_slice(&VERSION.to_le_bytes());
        bytes[10] = ObjectKind::KeySlot as u8;
        bytes[11] = way;
        bytes[12..16].copy_from_slice(&memory.to_le_bytes());
        bytes[16..32].copy_from_slice(self.repository.as_bytes());
        bytes[32..48].copy_from_slice(self.id.as_bytes());
        bytes[48..52].copy_from_slice(&passes.to_le_bytes());
        bytes[52..56].copy_from_slice(&lanes.to_le_bytes());
        bytes[60..64].copy_from_slice(&self.wrapped_length.to_le_bytes());
        bytes[64..96].copy_from_slice(&self.salt);
        bytes[96..128].copy_from_slice(&self.commitment);
        bytes[128..152].copy_from_slice(&self.keyring_nonce);
        bytes[152..].copy_from_slice(&self.label_nonce);
        bytes
    }

    /// The header that a slot object begins with.
    pub fn decode(object: &[u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::new(object);
        if decode_start(&mut reader)?.1 != ObjectKind::KeySlot {
            return Err(FormatError::corrupt("is not a key slot"));
        }
        let way = reader.u8()?;
        let memory_kib = reader.u32()?;
        let repository = RepositoryId(reader.array()?);
        let id = KeySlotId(reader.array()?);
        let (passes, lanes) = (reader.u32()?, reader.u32()?);
        let features = reader.u32()?;
        if features != 0 {
            return Err(FormatError::newer(format!("needs unknown features {features:#x}")));
        }
        let way = match way {
            1 => Way::Passphrase { memory_kib, passes, lanes },
            2 => Way::Recovery,
            other => return Err(FormatError::newer(format!("unknown way {other} to the keys"))),
        };
        Ok(SlotHeader {
            way,
            repository,
            id,
            wrapped_length: reader.u32()?,
            salt: reader.array()?,
            commitment: reader.array()?,
            keyring_nonce: reader.array()?,
            label_nonce: reader.array()?,
        })
    }
}

/// What a slot's maker said of it. Padded to a multiple of 128 bytes, so that its length tells little.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SlotLabel {
    /// What the user called it.
    pub label: String,
    /// The host it was made on.
    pub host: String,
    /// The user who made it.
    pub user: String,
    /// When it was made.
    pub created: Timestamp,
    /// Public half of the slot's key pair, for giving it a newer keyring. `None`: made before there were any.
    pub public_key: Option<[u8; 32]>,
    /// Revision of the keyring that it was made with.
    pub revision: u32,
}

impl SlotLabel {
    /// The label's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut output = Vec::new();
        put_field(&mut output, 1, self.label.as_bytes());
        put_field(&mut output, 2, self.host.as_bytes());
        put_field(&mut output, 3, self.user.as_bytes());
        put_time_field(&mut output, 4, self.created);
        if let Some(key) = &self.public_key {
            put_field(&mut output, 6, key);
        }
        if self.revision > 0 {
            put_number_field(&mut output, 7, u64::from(self.revision));
        }
        // Field 5 is padding: one byte of number, one of length, then up to 127 zeros.
        let wanted = (output.len() + 2).next_multiple_of(128) - 2 - output.len();
        put_field(&mut output, 5, &vec![0; wanted]);
        output
    }

    /// Reads a label.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::new(bytes);
        let mut label = SlotLabel::default();
        while let Some((number, mut value)) = reader.field()? {
            let text = || -> Result<String, FormatError> {
                let mut value = value.clone();
                Ok(String::from_utf8_lossy(value.take(value.remaining())?).into_owned())
            };
            match number {
                1 => label.label = text()?,
                2 => label.host = text()?,
                3 => label.user = text()?,
                4 => label.created = value.time()?,
                6 => label.public_key = Some(value.array()?),
                7 => label.revision = value.varint_u32()?,
                other => skip_field(other)?,
            }
        }
        Ok(label)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_header_comes_back() {
        for way in [Way::Passphrase { memory_kib: 65_536, passes: 3, lanes: 4 }, Way::Recovery] {
            let header = SlotHeader {
                way,
                repository: RepositoryId([1; 16]),
                id: KeySlotId([2; 16]),
                salt: [3; 32],
                commitment: [4; 32],
                keyring_nonce: [5; 24],
                label_nonce: [6; 24],
                wrapped_length: 300,
            };
            let bytes = header.encode();
            assert_eq!(SlotHeader::decode(&bytes), Ok(header));
            assert!(SlotHeader::decode(&bytes[..175]).is_err());
        }
    }

    #[test]
    fn a_label_comes_back_at_a_length_that_tells_little() {
        for length in 0..300 {
            let label = SlotLabel {
                label: "x".repeat(length),
                public_key: (length % 2 == 0).then_some([7; 32]),
                revision: length as u32,
                ..SlotLabel::default()
            };
            let bytes = label.encode();
            assert_eq!(bytes.len() % 128, 0, "{length}");
            assert_eq!(SlotLabel::decode(&bytes), Ok(label));
        }
    }
}
