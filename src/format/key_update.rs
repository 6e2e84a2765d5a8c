//! A key update: one object that gives a newer keyring to the key slots that it names.
//!
//! | offset | length | what |
//! |---|---|---|
//! | 0 | 8 | magic |
//! | 8 | 2 | format version |
//! | 10 | 1 | kind: 15 |
//! | 11 | 1 | suite: 1 = X25519, BLAKE3, XChaCha20-Poly1305 |
//! | 12 | 4 | revision of the keyring |
//! | 16 | 16 | repository id |
//! | 32 | 4 | required features: 0 |
//! | 36 | 4 | number r of recipients |
//! | 40 | 4 | length w of the wrapped keyring with its tag |
//! | 44 | 4 | zeros |
//! | 48 | 32 | ephemeral public key |
//! | 80 | 32 | commitment to the content key |
//! | 112 | 24 | nonce of the wrapped keyring |
//! | 136 | 64 · r | recipients: slot id, then the sealed content key |
//! | 136 + 64 · r | w | wrapped keyring |

use super::bytes::Reader;
use super::header::{MAGIC, ObjectKind, decode_start};
use super::{FormatError, VERSION};
use crate::id::{KeySlotId, RepositoryId};

/// Length of the part before the recipients, in bytes.
pub const UPDATE_HEADER_LENGTH: usize = 136;
/// Length of a content key with its tag, in bytes.
pub const SEALED_KEY_LENGTH: usize = 48;
/// Length of a recipient in bytes.
const RECIPIENT_LENGTH: usize = 16 + SEALED_KEY_LENGTH;
/// X25519, BLAKE3, XChaCha20-Poly1305.
const SUITE: u8 = 1;

/// The part of an update that is the same for all recipients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UpdateHeader {
    /// Revision of the keyring that is in it; stands in its name, too.
    pub revision: u32,
    /// Whose update it is.
    pub repository: RepositoryId,
    /// How many slots it is for.
    pub recipients: u32,
    /// Length of the wrapped keyring in bytes.
    pub wrapped_length: u32,
    /// Public half of a key pair that is used for this update only.
    pub ephemeral_key: [u8; 32],
    /// Tells that a content key is the one, whoever it was sealed for.
    pub commitment: [u8; 32],
    /// Nonce of the wrapped keyring.
    pub nonce: [u8; 24],
}

impl UpdateHeader {
    /// The header's bytes.
    pub fn encode(&self) -> [u8; UPDATE_HEADER_LENGTH] {
        let mut bytes = [0; UPDATE_HEADER_LENGTH];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..10].copy_from_slice(&VERSION.to_le_bytes());
        bytes[10] = ObjectKind::KeyUpdate as u8;
        bytes[11] = SUITE;
        bytes[12..16].copy_from_slice(&self.revision.to_le_bytes());
        bytes[16..32].copy_from_slice(self.repository.as_bytes());
        bytes[36..40].copy_from_slice(&self.recipients.to_le_bytes());
        bytes[40..44].copy_from_slice(&self.wrapped_length.to_le_bytes());
        bytes[48..80].copy_from_slice(&self.ephemeral_key);
        bytes[80..112].copy_from_slice(&self.commitment);
        bytes[112..].copy_from_slice(&self.nonce);
        bytes
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, FormatError> {
        if decode_start(reader)?.1 != ObjectKind::KeyUpdate {
            return Err(FormatError::corrupt("is not a key update"));
        }
        let suite = reader.u8()?;
        let revision = reader.u32()?;
        let repository = RepositoryId(reader.array()?);
        let features = reader.u32()?;
        if suite != SUITE || features != 0 {
            return Err(FormatError::newer(format!(
                "needs what this version does not have (suite {suite}, features {features:#x})"
            )));
        }
        let (recipients, wrapped_length) = (reader.u32()?, reader.u32()?);
        if reader.array::<4>()? != [0; 4] {
            return Err(FormatError::corrupt("reserved header bytes are not zero"));
        }
        Ok(UpdateHeader {
            revision,
            repository,
            recipients,
            wrapped_length,
            ephemeral_key: reader.array()?,
            commitment: reader.array()?,
            nonce: reader.array()?,
        })
    }
}

/// The content key, for one slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recipient {
    /// The slot.
    pub slot: KeySlotId,
    /// The content key, sealed for it.
    pub sealed_key: [u8; SEALED_KEY_LENGTH],
}

/// An update, taken apart and not yet opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyUpdate {
    /// What is the same for all.
    pub header: UpdateHeader,
    /// Whom it is for, no slot twice.
    pub recipients: Vec<Recipient>,
    /// The keyring, sealed.
    pub wrapped: Vec<u8>,
}

impl KeyUpdate {
    /// What stands before the wrapped keyring and is authenticated with it.
    pub fn encode_start(header: &UpdateHeader, recipients: &[Recipient]) -> Vec<u8> {
        let mut bytes = header.encode().to_vec();
        for recipient in recipients {
            bytes.extend_from_slice(recipient.slot.as_bytes());
            bytes.extend_from_slice(&recipient.sealed_key);
        }
        bytes
    }

    /// The whole object.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Self::encode_start(&self.header, &self.recipients);
        bytes.extend_from_slice(&self.wrapped);
        bytes
    }

    /// Takes an object apart.
    pub fn decode(object: &[u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::new(object);
        let header = UpdateHeader::decode(&mut reader)?;
        let recipients_length = u64::from(header.recipients) * RECIPIENT_LENGTH as u64;
        let wanted = recipients_length + u64::from(header.wrapped_length);
        if wanted != reader.remaining() as u64 {
            return Err(FormatError::corrupt(format!(
                "{wanted} bytes expected where {} are left",
                reader.remaining()
            )));
        }
        let mut recipients = Vec::with_capacity(header.recipients as usize);
        for _ in 0..header.recipients {
            let slot = KeySlotId(reader.array()?);
            recipients.push(Recipient { slot, sealed_key: reader.array()? });
        }
        let wrapped = reader.take(reader.remaining())?.to_vec();
        Ok(KeyUpdate { header, recipients, wrapped })
    }

    /// What is sealed in it for this slot. Of two, which no writer writes, the first.
    pub fn recipient(&self, slot: KeySlotId) -> Option<&Recipient> {
        self.recipients.iter().find(|recipient| recipient.slot == slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn update() -> KeyUpdate {
        let recipient = |byte| Recipient { slot: KeySlotId([byte; 16]), sealed_key: [byte; 48] };
        KeyUpdate {
            header: UpdateHeader {
                revision: 7,
                repository: RepositoryId([1; 16]),
                recipients: 2,
                wrapped_length: 20,
                ephemeral_key: [2; 32],
                commitment: [3; 32],
                nonce: [4; 24],
            },
            recipients: vec![recipient(5), recipient(6)],
            wrapped: vec![9; 20],
        }
    }

    #[test]
    fn an_update_comes_back() {
        let bytes = update().encode();
        assert_eq!(bytes.len(), 136 + 2 * 64 + 20);
        assert_eq!(KeyUpdate::decode(&bytes), Ok(update()));
        assert_eq!(update().recipient(KeySlotId([6; 16])).unwrap().sealed_key, [6; 48]);
        assert_eq!(update().recipient(KeySlotId([7; 16])), None);
    }

    #[test]
    fn an_update_of_another_length_or_kind_is_refused() {
        let bytes = update().encode();
        assert!(KeyUpdate::decode(&bytes[..bytes.len() - 1]).is_err());
        assert!(KeyUpdate::decode(&[&bytes[..], &[0]].concat()).is_err());
        for (offset, byte) in [(10, 2), (11, 2), (32, 1), (36, 3), (39, 255), (44, 1)] {
            let mut bytes = bytes.clone();
            bytes[offset] = byte;
            assert!(KeyUpdate::decode(&bytes).is_err(), "{offset}");
        }
    }
}
