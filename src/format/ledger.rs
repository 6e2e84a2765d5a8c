//! A ledger: when packs were last proven, every byte of them.

use super::FormatError;
use super::bytes::{Reader, put_field, put_time};
use super::snapshot::skip_field;
use crate::id::{PackId, SessionId};
use crate::units::Timestamp;

/// What a check shares of what it knows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ledger {
    /// Ledgers of which everything stands in this one, as late or later: they may be passed over.
    pub superseded: Vec<SessionId>,
    /// Packs, each with when it was last proven by the clock of who proved it.
    pub proven: Vec<(PackId, Timestamp)>,
}

impl Ledger {
    /// The payload's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut output = Vec::new();
        for session in &self.superseded {
            put_field(&mut output, 1, &session.to_bytes());
        }
        let mut value = Vec::new();
        for (pack, time) in &self.proven {
            value.clear();
            value.extend_from_slice(&pack.session.to_bytes());
            value.extend_from_slice(&pack.number.to_le_bytes());
            put_time(&mut value, *time);
            put_field(&mut output, 2, &value);
        }
        output
    }

    /// Reads a payload.
    pub fn decode(payload: &[u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::new(payload);
        let mut ledger = Ledger::default();
        while let Some((number, mut value)) = reader.field()? {
            match number {
                1 => ledger.superseded.push(SessionId::from_bytes(value.array()?)),
                2 => {
                    let session = SessionId::from_bytes(value.array()?);
                    let pack = PackId { session, number: value.u32()? };
                    ledger.proven.push((pack, value.time()?));
                }
                other => skip_field(other)?,
            }
        }
        Ok(ledger)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ledger_comes_back_and_no_prefix_of_it_does() {
        let session = SessionId { generation: 1, random: [2; 16] };
        let ledger = Ledger {
            superseded: vec![session],
            proven: vec![(
                PackId { session, number: 5 },
                Timestamp { seconds: -9, nanoseconds: 7 },
            )],
        };
        let bytes = ledger.encode();
        assert_eq!(Ledger::decode(&bytes), Ok(ledger));
        for end in 23..bytes.len() {
            assert!(Ledger::decode(&bytes[..end]).is_err(), "{end}");
        }
    }
}
