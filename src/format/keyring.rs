//! The keyring: all the secrets of a repository, as one payload that key slots wrap.

use std::fmt;

use zeroize::{Zeroize, ZeroizeOnDrop};

use super::FormatError;
use super::bytes::{Reader, put_bytes, put_field, put_number_field, put_varint};
use super::snapshot::skip_field;

/// The keys of one epoch.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct EpochKeys {
    /// The epoch's number, from 1.
    pub epoch: u32,
    /// Packs are sealed with keys derived from this one. `None`: no pack is any more, and the key was dropped.
    pub data_key: Option<[u8; 32]>,
    /// Everything else is sealed with keys derived from this one.
    pub index_key: [u8; 32],
}

/// The secrets. Never printed; wiped from memory when dropped.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct Keyring {
    /// Blob ids and file digests follow from it. Never changes.
    pub id_key: [u8; 32],
    /// The chunker's gear table follows from it. Never changes.
    pub chunker_secret: [u8; 32],
    /// Seed of the repository's X25519 key, for clients that may only write. Version 1 does not use it.
    pub repository_seed: [u8; 32],
    /// Seed of the administrator's Ed25519 key, for signatures. Version 1 does not use it.
    pub admin_seed: [u8; 32],
    /// Epochs, oldest first; the last one seals what is new. Never empty.
    pub epochs: Vec<EpochKeys>,
    /// The settings' payload, for making a lost config again.
    pub settings: Vec<u8>,
    /// How many updates went before it: 0 as it was made, one more with each that was published.
    pub revision: u32,
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keyring({} epochs)", self.epochs.len())
    }
}

impl Keyring {
    /// The payload's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut output = Vec::new();
        put_field(&mut output, 1001, &self.id_key);
        put_field(&mut output, 1002, &self.chunker_secret);
        put_field(&mut output, 1, &self.repository_seed);
        put_field(&mut output, 2, &self.admin_seed);
        for keys in &self.epochs {
            let mut value = Vec::new();
            put_varint(&mut value, u64::from(keys.epoch));
            put_bytes(&mut value, keys.data_key.as_ref().map_or(&[], |key| key.as_slice()));
            put_bytes(&mut value, &keys.index_key);
            put_field(&mut output, 1003, &value);
        }
        put_field(&mut output, 3, &self.settings);
        if self.revision > 0 {
            put_number_field(&mut output, 4, u64::from(self.revision));
        }
        output
    }

    /// Reads a payload.
    pub fn decode(payload: &[u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::new(payload);
        let mut keyring = Keyring {
            id_key: [0; 32],
            chunker_secret: [0; 32],
            repository_seed: [0; 32],
            admin_seed: [0; 32],
            epochs: Vec::new(),
            settings: Vec::new(),
            revision: 0,
        };
        let (mut seen_id_key, mut seen_secret) = (false, false);
        while let Some((number, mut value)) = reader.field()? {
            match number {
                1001 => {
                    keyring.id_key = value.array()?;
                    seen_id_key = true;
                }
                1002 => {
                    keyring.chunker_secret = value.array()?;
                    seen_secret = true;
                }
                1003 => {
                    let epoch = value.varint_u32()?;
                    let mut data_key = Reader::new(value.bytes()?);
                    let data_key = if data_key.is_empty() { None } else { Some(data_key.array()?) };
                    let index_key = Reader::new(value.bytes()?).array()?;
                    keyring.epochs.push(EpochKeys { epoch, data_key, index_key });
                }
                1 => keyring.repository_seed = value.array()?,
                2 => keyring.admin_seed = value.array()?,
                3 => keyring.settings = value.take(value.remaining())?.to_vec(),
                4 => keyring.revision = value.varint_u32()?,
                other => skip_field(other)?,
            }
        }
        if !seen_id_key || !seen_secret || keyring.epochs.is_empty() {
            return Err(FormatError::corrupt("a keyring without its keys"));
        }
        Ok(keyring)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_keyring_comes_back() {
        let keys = |epoch| EpochKeys { epoch, data_key: Some([4; 32]), index_key: [5; 32] };
        let keyring = Keyring {
            id_key: [1; 32],
            chunker_secret: [2; 32],
            repository_seed: [3; 32],
            admin_seed: [9; 32],
            epochs: vec![EpochKeys { data_key: None, ..keys(1) }, keys(2), keys(3)],
            settings: vec![1, 2, 3],
            revision: 4,
        };
        assert_eq!(Keyring::decode(&keyring.encode()).unwrap(), keyring);
        let mut empty = keyring.clone();
        empty.epochs.clear();
        assert!(Keyring::decode(&empty.encode()).is_err());
        assert!(!format!("{keyring:?}").contains('4'));
    }
}
