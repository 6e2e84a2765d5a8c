//! A tomb: the mark of a forgotten snapshot, and who forgot it.

use super::FormatError;
use super::bytes::{Reader, put_field};
use super::snapshot::{put_time_field, skip_field};
use crate::units::Timestamp;

/// What a tomb says. For people only: that it opens under its name is what forgets the snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tomb {
    /// When the snapshot was forgotten, by the clock of who did it.
    pub time: Timestamp,
    /// The host's name.
    pub host: String,
    /// The user's name.
    pub user: String,
    /// Why: the policy, or that it was named.
    pub why: String,
}

impl Tomb {
    /// The payload's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut output = Vec::new();
        put_time_field(&mut output, 1, self.time);
        put_field(&mut output, 2, self.host.as_bytes());
        put_field(&mut output, 3, self.user.as_bytes());
        put_field(&mut output, 4, self.why.as_bytes());
        output
    }

    /// Reads a payload.
    pub fn decode(payload: &[u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::new(payload);
        let mut tomb = Tomb::default();
        while let Some((number, mut value)) = reader.field()? {
            let whole = value.clone().take(value.remaining())?;
            let text = || String::from_utf8_lossy(whole).into_owned();
            match number {
                1 => tomb.time = value.time()?,
                2 => tomb.host = text(),
                3 => tomb.user = text(),
                4 => tomb.why = text(),
                other => skip_field(other)?,
            }
        }
        Ok(tomb)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tomb_comes_back() {
        let tomb = Tomb {
            time: Timestamp { seconds: 4, nanoseconds: 2 },
            host: "box".into(),
            user: "me".into(),
            why: "no rule keeps it".into(),
        };
        let mut bytes = tomb.encode();
        assert_eq!(Tomb::decode(&bytes), Ok(tomb.clone()));
        put_field(&mut bytes, 999, b"later");
        assert_eq!(Tomb::decode(&bytes), Ok(tomb));
        assert_eq!(Tomb::decode(&[]), Ok(Tomb::default()));
        assert!(Tomb::decode(&bytes[..bytes.len() - 1]).is_err());
    }
}
