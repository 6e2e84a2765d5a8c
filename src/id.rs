//! Ids: one type per thing, so that a pack's id cannot be handed in where a snapshot's is wanted.

use std::fmt;

/// What was wrong with a text that should have been an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {expected}")]
pub struct ParseIdError {
    /// What was given.
    pub text: String,
    /// What would have been understood.
    pub expected: &'static str,
}

/// Writes bytes as lower-case hexadecimal digits.
fn write_hex(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

/// Reads exactly `N` bytes from `2 * N` hexadecimal digits.
fn parse_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let high = (pair[0] as char).to_digit(16)?;
        let low = (pair[1] as char).to_digit(16)?;
        *byte = (high * 16 + low) as u8;
    }
    Some(bytes)
}

/// An id that is nothing but bytes, shown as hexadecimal digits.
macro_rules! bytes_id {
    ($(#[$doc:meta])* $name:ident, $length:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; $length]);

        impl $name {
            /// Length in bytes.
            pub const LENGTH: usize = $length;

            /// The bytes, for writing and hashing.
            pub fn as_bytes(&self) -> &[u8; $length] {
                &self.0
            }

            /// The first eight hexadecimal digits, for people.
            pub fn short(&self) -> String {
                self.to_string()[..8].to_string()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write_hex(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }

        impl std::str::FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                parse_hex(text).map($name).ok_or(ParseIdError {
                    text: text.to_string(),
                    expected: concat!("the hexadecimal id of a ", stringify!($name)),
                })
            }
        }
    };
}

bytes_id!(
    /// A blob's name: the keyed BLAKE3 of its plaintext.
    BlobId,
    32
);
/// The first 96 bits of a blob's id. They stand for it where there are very many: ids are the output of a keyed hash, and
/// two among ten million agree in them with a probability of 10^-15.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlobKey(pub [u8; 12]);

impl BlobKey {
    /// Length in bytes.
    pub const LENGTH: usize = 12;

    /// The key that stands for `id`.
    pub fn new(id: &BlobId) -> Self {
        let mut key = [0; Self::LENGTH];
        key.copy_from_slice(&id.as_bytes()[..Self::LENGTH]);
        BlobKey(key)
    }

    /// The first eight hexadecimal digits, as [`BlobId::short`] has them.
    pub fn short(&self) -> String {
        let mut id = [0; BlobId::LENGTH];
        id[..Self::LENGTH].copy_from_slice(&self.0);
        BlobId(id).short()
    }
}

bytes_id!(
    /// A repository's name: random, in every object's header.
    RepositoryId,
    16
);
bytes_id!(
    /// Which hot store a cold one goes with: random, and drawn anew when another takes its place.
    HotStoreId,
    16
);
bytes_id!(
    /// A key slot's name: random.
    KeySlotId,
    16
);

/// The name of one registered writer or reader: the generation of garbage collection it saw when it
/// registered, and 128 random bits. Written `<generation>-<random>`, both hexadecimal.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SessionId {
    /// The newest generation that existed when the session registered.
    pub generation: u32,
    /// What makes the name unique.
    pub random: [u8; 16],
}

impl SessionId {
    /// Length of the bytes form: generation (little endian), then the random part.
    pub const LENGTH: usize = 20;

    /// The bytes form, as `docs/format.md` section 2 has it.
    pub fn to_bytes(self) -> [u8; Self::LENGTH] {
        let mut bytes = [0; Self::LENGTH];
        bytes[..4].copy_from_slice(&self.generation.to_le_bytes());
        bytes[4..].copy_from_slice(&self.random);
        bytes
    }

    /// The session that [`SessionId::to_bytes`] wrote.
    pub fn from_bytes(bytes: [u8; Self::LENGTH]) -> Self {
        let mut generation = [0; 4];
        let mut random = [0; 16];
        generation.copy_from_slice(&bytes[..4]);
        random.copy_from_slice(&bytes[4..]);
        SessionId { generation: u32::from_le_bytes(generation), random }
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}-", self.generation)?;
        write_hex(&self.random, f)
    }
}

impl std::str::FromStr for SessionId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let parts = text.split_once('-').and_then(|(generation, random)| {
            Some((parse_hex::<4>(generation)?, parse_hex::<16>(random)?))
        });
        let (generation, random) = parts.ok_or(ParseIdError {
            text: text.to_string(),
            expected: "a session's name (8 hexadecimal digits, a dash, 32 digits)",
        })?;
        Ok(SessionId { generation: u32::from_be_bytes(generation), random })
    }
}

/// A committed state. It bears the name of the session that committed it, whose slot it fills;
/// people see only the random part.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SnapshotId(pub SessionId);

impl SnapshotId {
    /// The first eight hexadecimal digits of the random part.
    pub fn short(&self) -> String {
        self.to_string()[..8].to_string()
    }

    /// Whether the random part begins with these hexadecimal digits.
    pub fn starts_with(&self, prefix: &str) -> bool {
        self.to_string().starts_with(&prefix.to_ascii_lowercase())
    }
}

impl fmt::Display for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.0.random, f)
    }
}

/// An id of something that belongs to a session as its number `n`.
macro_rules! numbered_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub struct $name {
            /// The session that wrote it, or that it is about.
            pub session: SessionId,
            /// Which of that session's.
            pub number: u32,
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}-{:08x}", self.session, self.number)
            }
        }

        impl std::str::FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                let parts = text.rsplit_once('-').and_then(|(session, number)| {
                    Some((session.parse().ok()?, parse_hex::<4>(number)?))
                });
                let (session, number) = parts.ok_or(ParseIdError {
                    text: text.to_string(),
                    expected: "a session's name, a dash and 8 hexadecimal digits",
                })?;
                Ok($name { session, number: u32::from_be_bytes(number) })
            }
        }
    };
}

numbered_id!(
    /// One pack: the unit of upload and deletion.
    PackId
);
numbered_id!(
    /// One index object.
    IndexId
);
numbered_id!(
    /// One order to forget the snapshot in a session's slot. Numbers begin at 1.
    TombId
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_id_reads_back_what_it_writes() {
        let session = SessionId { generation: 0xab, random: [0x5c; 16] };
        let pack = PackId { session, number: 7 };
        assert_eq!(session.to_string().parse(), Ok(session));
        assert_eq!(SessionId::from_bytes(session.to_bytes()), session);
        assert_eq!(pack.to_string().parse(), Ok(pack));
        let blob = BlobId([0xe7; 32]);
        assert_eq!(blob.to_string().parse(), Ok(blob));
    }

    #[test]
    fn names_sort_as_their_sessions_do() {
        let older = SessionId { generation: 9, random: [0xff; 16] };
        let newer = SessionId { generation: 16, random: [0; 16] };
        assert!(older < newer && older.to_string() < newer.to_string());
    }

    #[test]
    fn nonsense_is_refused_and_named() {
        assert!("xyz".parse::<BlobId>().is_err());
        let error = "00000000-1".parse::<SessionId>().unwrap_err();
        assert_eq!(error.text, "00000000-1");
        assert!("é".repeat(16).parse::<RepositoryId>().is_err());
    }
}
