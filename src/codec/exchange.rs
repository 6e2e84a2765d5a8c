//! X25519 (RFC 7748): to seal something for somebody whose secret nobody here knows.

use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroizing;

/// The public key of these 32 secret bytes, any of which will do.
pub fn public_key(secret: &[u8; 32]) -> [u8; 32] {
    PublicKey::from(&StaticSecret::from(*secret)).to_bytes()
}

/// What `secret` and the secret of `public` have in common. `None` for a public key of small order, which has the
/// same in common with every secret (RFC 7748, section 6.1). Not a key yet: one is derived from it.
pub fn shared_secret(secret: &[u8; 32], public: &[u8; 32]) -> Option<Zeroizing<[u8; 32]>> {
    let shared = StaticSecret::from(*secret).diffie_hellman(&PublicKey::from(*public));
    shared.was_contributory().then(|| Zeroizing::new(shared.to_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 7748, section 6.1.
    #[test]
    fn the_vectors_of_the_specification_hold() {
        let bytes = |hex: &str| -> [u8; 32] {
            std::array::from_fn(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap())
        };
        let alice = bytes("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a");
        let bob = bytes("de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f");
        let common = bytes("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742");
        assert_eq!(
            public_key(&alice),
            bytes("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a")
        );
        assert_eq!(*shared_secret(&alice, &bob).unwrap(), common);
    }

    #[test]
    fn two_sides_have_the_same_in_common() {
        let (one, other) = ([1; 32], [2; 32]);
        let common = shared_secret(&one, &public_key(&other)).unwrap();
        assert_eq!(common, shared_secret(&other, &public_key(&one)).unwrap());
        assert_ne!(common, shared_secret(&[3; 32], &public_key(&one)).unwrap());
    }

    #[test]
    fn a_public_key_of_small_order_is_refused() {
        let mut one = [0; 32];
        assert!(shared_secret(&[7; 32], &one).is_none());
        one[0] = 1;
        assert!(shared_secret(&[7; 32], &one).is_none());
    }
}
