//! Seals and unseals objects: each under a key of its own, bound to its kind, its repository and its name.
//!
//! An object's key is `derive_key("aumbry v1 object key", epoch key ‖ header[0..96] ‖ name)`, so a header
//! with any other byte, or the same object under another name, leads to another key; and the commitment
//! in the header tells at once.

use super::error::{Kind, Named, RepositoryError, Result};
use super::mend::{not_whole, plain_length};
use crate::codec::cipher::{
    FRAME_LENGTH, FrameCipher, SEALED_FRAME_LENGTH, TAG_LENGTH, padded_length, sealed_length,
};
use crate::codec::digest::derive_key;
use crate::format::VERSION;
use crate::format::header::{
    HEADER_LENGTH, Header, KEYED_LENGTH, ObjectKind, TRAILER_LENGTH, pad_payload, unpad_payload,
};
use crate::format::keyring::Keyring;
use crate::id::RepositoryId;

/// No sealed object but a pack has a shorter plaintext: an ABORT is as long as a snapshot of few paths.
const SMALLEST_PLAINTEXT: usize = 512;

/// The keys of one repository, put to use on objects.
pub struct Sealer {
    repository: RepositoryId,
    keyring: Keyring,
}

/// The header and cipher of an object that is being written or read.
pub struct ObjectCipher {
    /// The header, commitment filled in.
    pub header: Header,
    /// Seals and unseals the object's frames.
    pub frames: FrameCipher,
    parity_key: [u8; 32],
}

impl ObjectCipher {
    /// Tells whether a parity shard is what was written, as a frame's tag tells it of a frame.
    pub fn parity_tag(&self, number: u64, shard: &[u8]) -> [u8; TAG_LENGTH] {
        let mut hasher = blake3::Hasher::new_keyed(&self.parity_key);
        let mut tag = [0; TAG_LENGTH];
        hasher.update(&number.to_le_bytes()).update(shard).finalize_xof().fill(&mut tag);
        tag
    }
}

impl Sealer {
    /// A sealer for the objects of `repository`.
    pub fn new(repository: RepositoryId, keyring: Keyring) -> Self {
        Sealer { repository, keyring }
    }

    /// Another one with the same keys.
    pub fn another(&self) -> Self {
        Sealer::new(self.repository, self.keyring.clone())
    }

    /// The secrets.
    pub fn keyring(&self) -> &Keyring {
        &self.keyring
    }

    /// The repository whose objects these are.
    pub fn repository(&self) -> RepositoryId {
        self.repository
    }

    /// The epoch that seals what is new.
    pub fn newest_epoch(&self) -> u32 {
        self.keyring.epochs.last().map_or(0, |keys| keys.epoch)
    }

    /// Whether the data key of this epoch was dropped: what is sealed with it can never be read again.
    pub fn has_dropped(&self, epoch: u32) -> bool {
        let mut epochs = self.keyring.epochs.iter();
        epochs.any(|keys| keys.epoch == epoch && keys.data_key.is_none())
    }

    /// The header of a new object of this kind; its commitment follows in [`Sealer::object_cipher`].
    pub fn new_header(&self, kind: ObjectKind, salt: [u8; 32]) -> Header {
        Header {
            version: VERSION,
            kind,
            epoch: self.newest_epoch(),
            repository: self.repository,
            parity: None,
            salt,
            commitment: [0; 32],
        }
    }

    /// The cipher of the object `name` with this header, whatever commitment the header has.
    pub fn object_cipher(&self, header: &Header, name: &str) -> Result<ObjectCipher> {
        let epoch = header.epoch;
        let keys = self.keyring.epochs.iter().find(|keys| keys.epoch == epoch).ok_or_else(|| {
            RepositoryError::new(
                Kind::WrongKey,
                name,
                format!(
                    "is sealed with key epoch {epoch}, which this key slot does not have; open the \
                     repository with a key that was added later, or run the command again if the \
                     repository was rekeyed while it ran"
                ),
            )
        })?;
        let epoch_key = if header.kind.uses_data_key() {
            keys.data_key.as_ref().ok_or_else(|| {
                RepositoryError::new(
                    Kind::WrongKey,
                    name,
                    format!(
                        "is sealed with key epoch {epoch}, whose data key was dropped when nothing \
                         needed it"
                    ),
                )
            })?
        } else {
            &keys.index_key
        };
        let mut material = Vec::with_capacity(32 + KEYED_LENGTH + name.len());
        material.extend_from_slice(epoch_key);
        material.extend_from_slice(&header.encode()[..KEYED_LENGTH]);
        material.extend_from_slice(name.as_bytes());
        let key = derive_key("aumbry v1 object key", &material);
        zeroize::Zeroize::zeroize(&mut material);
        let commitment = derive_key("aumbry v1 key commitment", &key);
        let header = Header { commitment, ..*header };
        let parity_key = derive_key("aumbry v1 parity key", &key);
        Ok(ObjectCipher { header, frames: FrameCipher::new(&key), parity_key })
    }

    /// A salt that is fresh even when two copies of one machine draw the same randomness: it depends on
    /// what is sealed, too.
    pub fn fresh_salt(randomness: &[u8; 32], content: &[u8]) -> [u8; 32] {
        let mut material = randomness.to_vec();
        material.extend_from_slice(blake3::hash(content).as_bytes());
        derive_key("aumbry v1 salt", &material)
    }

    /// The whole object `name` that holds `payload`.
    pub fn seal(
        &self,
        kind: ObjectKind,
        name: &str,
        payload: Vec<u8>,
        randomness: &[u8; 32],
    ) -> Result<Vec<u8>> {
        let salt = Self::fresh_salt(randomness, &payload);
        let cipher = self.object_cipher(&self.new_header(kind, salt), name)?;
        let least = (payload.len() + TRAILER_LENGTH).max(SMALLEST_PLAINTEXT);
        let padded = padded_length(least as u64) as usize;
        let plain = pad_payload(payload, padded);
        let mut object = Vec::with_capacity(HEADER_LENGTH + sealed_length(padded as u64) as usize);
        object.extend_from_slice(&cipher.header.encode());
        let frames = plain.chunks(FRAME_LENGTH);
        let last = frames.len() - 1;
        for (number, frame) in frames.enumerate() {
            let start = object.len();
            object.extend_from_slice(frame);
            let tag = cipher.frames.seal_frame(number as u64, number == last, &mut object[start..]);
            object.extend_from_slice(&tag);
        }
        Ok(object)
    }

    /// The payload of the object `name`, which must be of this kind.
    pub fn unseal(&self, kind: ObjectKind, name: &str, object: Vec<u8>) -> Result<Vec<u8>> {
        let plain = self.unseal_stream(&[kind], name, object)?.1;
        unpad_payload(plain).named(name)
    }

    /// The header and the whole plaintext of the object `name`, which must be of one of these kinds.
    pub fn unseal_stream(
        &self,
        kinds: &[ObjectKind],
        name: &str,
        mut object: Vec<u8>,
    ) -> Result<(Header, Vec<u8>)> {
        let header = self.check_header(kinds, name, &object)?;
        let cipher = self.object_cipher(&header, name)?;
        let found = object.len();
        let length = plain_length(&header, found as u64)
            .ok_or_else(|| RepositoryError::corrupt(name, not_whole(found as u64)))?;
        let frames = length.div_ceil(FRAME_LENGTH as u64);
        // Parity may follow.
        object.truncate(HEADER_LENGTH + sealed_length(length) as usize);
        let mut plain = Vec::with_capacity(length as usize);
        for (number, frame) in object[HEADER_LENGTH..].chunks_mut(SEALED_FRAME_LENGTH).enumerate() {
            let last = number as u64 + 1 == frames;
            let frame =
                cipher.frames.unseal_frame(number as u64, last, frame).map_err(|error| {
                    let offset = HEADER_LENGTH + number * SEALED_FRAME_LENGTH;
                    RepositoryError::corrupt(name, format!("frame at byte {offset}: {error}"))
                })?;
            plain.extend_from_slice(frame);
        }
        Ok((header, plain))
    }

    /// Like [`Sealer::check_header`] for an object of whatever kind.
    pub fn check_any_header(&self, name: &str, object: &[u8]) -> Result<Header> {
        let kind = Header::decode(object).named(name)?.kind;
        self.check_header(&[kind], name, object)
    }

    /// The header of the object `name`, its key proven by the commitment.
    pub fn check_header(&self, kinds: &[ObjectKind], name: &str, object: &[u8]) -> Result<Header> {
        let header = Header::decode(object).named(name)?;
        if header.repository != self.repository {
            return Err(RepositoryError::corrupt(
                name,
                format!("belongs to repository {}", header.repository.short()),
            ));
        }
        if !kinds.contains(&header.kind) {
            return Err(RepositoryError::corrupt(name, format!("is a {}", header.kind.name())));
        }
        let cipher = self.object_cipher(&header, name)?;
        if cipher.header.commitment != header.commitment {
            return Err(RepositoryError::corrupt(
                name,
                "its header is damaged, or it was moved here from another name",
            ));
        }
        Ok(header)
    }
}

/// Which bytes of an object hold the plaintext `offset..offset + length`, and the number of the first
/// frame in them. `plain_total` is the length of the whole plaintext.
pub fn frames_covering(offset: u64, length: u64, plain_total: u64) -> (std::ops::Range<u64>, u64) {
    let frame = FRAME_LENGTH as u64;
    let first = offset / frame;
    let last = (offset + length.max(1) - 1) / frame;
    let start = HEADER_LENGTH as u64 + first * SEALED_FRAME_LENGTH as u64;
    let end = HEADER_LENGTH as u64
        + last * SEALED_FRAME_LENGTH as u64
        + (plain_total - last * frame).min(frame)
        + TAG_LENGTH as u64;
    (start..end, first)
}

/// Unseals `sealed`, which begins with frame `first`, and returns the plaintext from `offset` on that is
/// `length` bytes long: in the same memory, because fresh memory is what the kernel has to clear first.
pub fn unseal_range(
    cipher: &ObjectCipher,
    name: &str,
    mut sealed: Vec<u8>,
    first: u64,
    offset: u64,
    length: usize,
    plain_total: u64,
) -> Result<Vec<u8>> {
    let last_frame = (plain_total - 1) / FRAME_LENGTH as u64;
    let mut skip = (offset - first * FRAME_LENGTH as u64) as usize;
    let (mut start, mut filled) = (0, 0);
    for number in first.. {
        let end = sealed.len().min(start + SEALED_FRAME_LENGTH);
        if start == end {
            break;
        }
        let last = number == last_frame;
        let frame = cipher.frames.unseal_frame(number, last, &mut sealed[start..end]);
        let plain = frame.map_err(|error| {
            let at = HEADER_LENGTH as u64 + number * SEALED_FRAME_LENGTH as u64;
            RepositoryError::corrupt(name, format!("frame at byte {at}: {error}"))
        })?;
        let from = skip.min(plain.len());
        let to = plain.len().min(from + length - filled);
        // What was unsealed before is never longer than what it was unsealed from.
        sealed.copy_within(start + from..start + to, filled);
        filled += to - from;
        skip = 0;
        start = end;
    }
    if filled != length {
        return Err(RepositoryError::corrupt(
            name,
            format!("ends within bytes {offset} + {length}"),
        ));
    }
    sealed.truncate(length);
    Ok(sealed)
}
