//! A lock record: until when a prune has prolonged the object locks, so that the next one need not ask about each object.

use super::FormatError;
use super::bytes::{Reader, put_field, put_time};
use super::snapshot::skip_field;
use crate::id::{PackId, SessionId};
use crate::units::Timestamp;

/// What was written before a moment is locked until another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LockStep {
    /// What the store says was written before this, and not before the step in front of this one's.
    pub written_before: Timestamp,
    /// Locked at least until then.
    pub until: Timestamp,
}

/// What a prune knew when it had prolonged the locks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LockRecord {
    /// By when objects were written, upwards.
    pub steps: Vec<LockStep>,
    /// Packs that were passed over, because they were about to go: of these, the steps say nothing.
    pub passed_over: Vec<PackId>,
}

impl LockRecord {
    /// The payload's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut output = Vec::new();
        let mut value = Vec::new();
        for step in &self.steps {
            value.clear();
            put_time(&mut value, step.written_before);
            put_time(&mut value, step.until);
            put_field(&mut output, 1, &value);
        }
        for pack in &self.passed_over {
            value.clear();
            value.extend_from_slice(&pack.session.to_bytes());
            value.extend_from_slice(&pack.number.to_le_bytes());
            put_field(&mut output, 2, &value);
        }
        output
    }

    /// Reads a payload.
    pub fn decode(payload: &[u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::new(payload);
        let mut record = LockRecord::default();
        while let Some((number, mut value)) = reader.field()? {
            match number {
                1 => {
                    let (written_before, until) = (value.time()?, value.time()?);
                    record.steps.push(LockStep { written_before, until });
                }
                2 => {
                    let session = SessionId::from_bytes(value.array()?);
                    record.passed_over.push(PackId { session, number: value.u32()? });
                }
                other => skip_field(other)?,
            }
        }
        if !record.steps.is_sorted_by(|one, next| one.written_before < next.written_before) {
            return Err(FormatError::corrupt("steps of locks that do not go upwards"));
        }
        Ok(record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_record_comes_back_and_its_steps_go_upwards() {
        let time = |seconds| Timestamp { seconds, nanoseconds: 0 };
        let step = |before, until| LockStep { written_before: time(before), until: time(until) };
        let session = SessionId { generation: 1, random: [2; 16] };
        let record = LockRecord {
            steps: vec![step(10, 1000), step(20, 900)],
            passed_over: vec![PackId { session, number: 5 }],
        };
        let bytes = record.encode();
        assert_eq!(LockRecord::decode(&bytes), Ok(record));
        for steps in [vec![step(20, 900), step(10, 1000)], vec![step(10, 900), step(10, 1000)]] {
            let bytes = LockRecord { steps, passed_over: Vec::new() }.encode();
            assert!(LockRecord::decode(&bytes).is_err());
        }
    }
}
