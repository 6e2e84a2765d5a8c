//! Seals and unseals streams of frames: ChaCha20-Poly1305 (RFC 8439) with a counter nonce, in the STREAM
//! construction (Hoang, Reyhanitabar, Rogaway, Vizár, "Online Authenticated-Encryption and its
//! Nonce-Reuse Misuse-Resistance", CRYPTO 2015), and single messages with XChaCha20-Poly1305.
//!
//! A stream's key is never used for a second stream, so the counter starts at 0 and cannot repeat. The last
//! frame's nonce says that it is the last: frames can be neither cut off, reordered nor appended.

use chacha20poly1305::aead::{AeadInOut, KeyInit};
use chacha20poly1305::{ChaCha20Poly1305, Key, Nonce, Tag, XChaCha20Poly1305, XNonce};

/// Plaintext bytes of every frame but the last, which may be shorter.
pub const FRAME_LENGTH: usize = 64 << 10;
/// Bytes that sealing adds to a frame or a message.
pub const TAG_LENGTH: usize = 16;
/// Bytes of a sealed frame that is not the last.
pub const SEALED_FRAME_LENGTH: usize = FRAME_LENGTH + TAG_LENGTH;
/// Bytes of a nonce for [`seal_message`].
pub const MESSAGE_NONCE_LENGTH: usize = 24;

/// What was sealed is not what is here, or the key is not the one it was sealed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("authentication failed")]
pub struct Unauthentic;

/// Length of the sealed stream of `plain` bytes (at least 1).
pub fn sealed_length(plain: u64) -> u64 {
    plain + plain.div_ceil(FRAME_LENGTH as u64) * TAG_LENGTH as u64
}

/// Length of the plaintext of a sealed stream of `sealed` bytes; `None` when no stream has this length.
pub fn plain_length(sealed: u64) -> Option<u64> {
    let frames = sealed.div_ceil(SEALED_FRAME_LENGTH as u64);
    let plain = sealed.checked_sub(frames * TAG_LENGTH as u64)?;
    (frames > 0 && sealed_length(plain) == sealed).then_some(plain)
}

/// The length that a plaintext of `length` bytes is padded to: Padmé (Nikitin et al., "Reducing Metadata
/// Leakage from Encrypted Files and Communication with PURBs", PoPETs 2019(4)), which reveals only
/// O(log log length) bits and adds at most 12 %, on packs about 1 %.
pub fn padded_length(length: u64) -> u64 {
    if length < 2 {
        return length;
    }
    let exponent = length.ilog2();
    let kept_bits = exponent.ilog2() + 1;
    let mask = (1 << (exponent - kept_bits.min(exponent))) - 1;
    (length + mask) & !mask
}

/// Seals and unseals the frames of one stream.
pub struct FrameCipher(ChaCha20Poly1305);

impl FrameCipher {
    /// A cipher for the one stream that this key belongs to.
    pub fn new(key: &[u8; 32]) -> Self {
        FrameCipher(ChaCha20Poly1305::new(&Key::from(*key)))
    }

    /// Bytes 0..8 the frame's number, little endian; byte 11 is 1 for the last frame.
    fn nonce(number: u64, last: bool) -> Nonce {
        let mut nonce = [0; 12];
        nonce[..8].copy_from_slice(&number.to_le_bytes());
        nonce[11] = u8::from(last);
        Nonce::from(nonce)
    }

    /// Seals one frame in place and returns its tag.
    pub fn seal_frame(&self, number: u64, last: bool, frame: &mut [u8]) -> [u8; TAG_LENGTH] {
        self.0
            .encrypt_inout_detached(&Self::nonce(number, last), &[], frame.into())
            .expect("a frame is far below the cipher's limit of 256 GiB")
            .into()
    }

    /// Unseals one frame in place: `sealed` is the ciphertext, then its tag. Returns the plaintext, which
    /// is `sealed` without its last [`TAG_LENGTH`] bytes.
    pub fn unseal_frame<'a>(
        &self,
        number: u64,
        last: bool,
        sealed: &'a mut [u8],
    ) -> Result<&'a mut [u8], Unauthentic> {
        let length = sealed.len().checked_sub(TAG_LENGTH).ok_or(Unauthentic)?;
        let (frame, tag) = sealed.split_at_mut(length);
        let tag: [u8; TAG_LENGTH] = (&*tag).try_into().map_err(|_| Unauthentic)?;
        self.0
            .decrypt_inout_detached(
                &Self::nonce(number, last),
                &[],
                (&mut *frame).into(),
                &Tag::from(tag),
            )
            .map_err(|_| Unauthentic)?;
        Ok(frame)
    }
}

/// Seals a small message with a random nonce (XChaCha20-Poly1305, draft-irtf-cfrg-xchacha-03): the key
/// may seal many. `associated` is authenticated with it.
pub fn seal_message(
    key: &[u8; 32],
    nonce: &[u8; MESSAGE_NONCE_LENGTH],
    associated: &[u8],
    plain: &[u8],
) -> Vec<u8> {
    let mut sealed = plain.to_vec();
    let tag = XChaCha20Poly1305::new(&Key::from(*key))
        .encrypt_inout_detached(&XNonce::from(*nonce), associated, sealed.as_mut_slice().into())
        .expect("a message is far below the cipher's limit of 256 GiB");
    sealed.extend_from_slice(&tag);
    sealed
}

/// The message that [`seal_message`] sealed.
pub fn unseal_message(
    key: &[u8; 32],
    nonce: &[u8; MESSAGE_NONCE_LENGTH],
    associated: &[u8],
    sealed: &[u8],
) -> Result<Vec<u8>, Unauthentic> {
    let length = sealed.len().checked_sub(TAG_LENGTH).ok_or(Unauthentic)?;
    let mut plain = sealed[..length].to_vec();
    let tag: [u8; TAG_LENGTH] = sealed[length..].try_into().map_err(|_| Unauthentic)?;
    XChaCha20Poly1305::new(&Key::from(*key))
        .decrypt_inout_detached(
            &XNonce::from(*nonce),
            associated,
            plain.as_mut_slice().into(),
            &Tag::from(tag),
        )
        .map_err(|_| Unauthentic)?;
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stream_lengths_invert_each_other() {
        for plain in [1, 15, 16, 65_535, 65_536, 65_537, 131_072, 131_073, 10_000_000] {
            assert_eq!(plain_length(sealed_length(plain)), Some(plain));
        }
        assert_eq!(plain_length(0), None);
        assert_eq!(plain_length(16), None);
        assert_eq!(plain_length(SEALED_FRAME_LENGTH as u64 + 16), None);
    }

    #[test]
    fn padding_grows_slowly_and_never_shrinks() {
        for length in (1..100_000).chain((1 << 24)..(1 << 24) + 1000) {
            let padded = padded_length(length);
            assert!(padded >= length && padded <= length + length * 12 / 100 + 1, "{length}");
            assert_eq!(padded_length(padded), padded);
        }
    }

    #[test]
    fn a_frame_opens_only_in_its_place() {
        let cipher = FrameCipher::new(&[1; 32]);
        let mut frame = b"some plaintext".to_vec();
        let tag = cipher.seal_frame(3, false, &mut frame);
        frame.extend_from_slice(&tag);
        for (number, last) in [(2, false), (4, false), (3, true)] {
            assert!(cipher.unseal_frame(number, last, &mut frame.clone()).is_err());
        }
        assert!(FrameCipher::new(&[2; 32]).unseal_frame(3, false, &mut frame.clone()).is_err());
        assert_eq!(cipher.unseal_frame(3, false, &mut frame).unwrap(), b"some plaintext");
        assert!(cipher.unseal_frame(0, true, &mut [0; 7]).is_err());
    }

    #[test]
    fn a_message_opens_only_with_what_it_was_bound_to() {
        let sealed = seal_message(&[1; 32], &[2; 24], b"place", b"secret");
        assert_eq!(unseal_message(&[1; 32], &[2; 24], b"place", &sealed).unwrap(), b"secret");
        assert!(unseal_message(&[1; 32], &[2; 24], b"other", &sealed).is_err());
        assert!(unseal_message(&[1; 32], &[3; 24], b"place", &sealed).is_err());
        assert!(unseal_message(&[1; 32], &[2; 24], b"place", &sealed[..5]).is_err());
    }
}
