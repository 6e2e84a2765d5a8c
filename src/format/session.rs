//! A session object: who registered, and what for.

use super::FormatError;
use super::bytes::{Reader, put_field};
use super::snapshot::{put_count_field, put_time_field, skip_field};
use crate::units::Timestamp;

/// What a session is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// It adds packs and means to commit a snapshot.
    Write,
    /// It reads, and wants nothing to vanish meanwhile.
    Read,
    /// It collects. Other collectors do not wait for it: it begins again when it was given up.
    Collect,
}

/// What a session object says. For people and for a collector's patience; nothing's safety rests on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// What it is for.
    pub purpose: Purpose,
    /// The host's name.
    pub host: String,
    /// The user's name.
    pub user: String,
    /// When it registered, by its own clock.
    pub time: Timestamp,
}

impl Session {
    /// The payload's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut output = Vec::new();
        let purpose = match self.purpose {
            Purpose::Write => 1,
            Purpose::Read => 2,
            Purpose::Collect => 3,
        };
        put_count_field(&mut output, 1, purpose);
        put_field(&mut output, 2, self.host.as_bytes());
        put_field(&mut output, 3, self.user.as_bytes());
        put_time_field(&mut output, 4, self.time);
        output
    }

    /// Reads a payload.
    pub fn decode(payload: &[u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::new(payload);
        let mut session = Session {
            purpose: Purpose::Write,
            host: String::new(),
            user: String::new(),
            time: Timestamp::default(),
        };
        while let Some((number, mut value)) = reader.field()? {
            match number {
                1 => {
                    session.purpose = match value.varint()? {
                        2 => Purpose::Read,
                        3 => Purpose::Collect,
                        _ => Purpose::Write,
                    };
                }
                2 | 3 => {
                    let text = String::from_utf8_lossy(value.take(value.remaining())?).into_owned();
                    *(if number == 2 { &mut session.host } else { &mut session.user }) = text;
                }
                4 => session.time = value.time()?,
                other => skip_field(other)?,
            }
        }
        Ok(session)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_comes_back() {
        for purpose in [Purpose::Read, Purpose::Write, Purpose::Collect] {
            let session = Session {
                purpose,
                host: "box".into(),
                user: "me".into(),
                time: Timestamp { seconds: 4, nanoseconds: 2 },
            };
            assert_eq!(Session::decode(&session.encode()), Ok(session));
        }
    }
}
