//! A damage record: that a pack was found damaged, and which blobs that costs.

use super::FormatError;
use super::bytes::{Reader, put_field, put_number_field};
use super::snapshot::{put_time_field, skip_field};
use crate::id::BlobId;
use crate::units::Timestamp;

/// What a check found of a pack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DamageRecord {
    /// When, by the clock of who checked.
    pub time: Timestamp,
    /// What is wrong, for people.
    pub what: String,
    /// Which blobs cannot be read from the pack; `None`: it may be any of them.
    pub lost: Option<Vec<BlobId>>,
}

impl DamageRecord {
    /// The payload's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut output = Vec::new();
        put_time_field(&mut output, 1, self.time);
        put_field(&mut output, 2, self.what.as_bytes());
        if let Some(lost) = &self.lost {
            put_number_field(&mut output, 3, lost.len() as u64);
            for blob in lost {
                put_field(&mut output, 4, blob.as_bytes());
            }
        }
        output
    }

    /// Reads a payload.
    pub fn decode(payload: &[u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::new(payload);
        let mut record =
            DamageRecord { time: Timestamp::default(), what: String::new(), lost: None };
        let (mut count, mut lost) = (None, Vec::new());
        while let Some((number, mut value)) = reader.field()? {
            match number {
                1 => record.time = value.time()?,
                2 => {
                    let text = value.take(value.remaining())?;
                    record.what = String::from_utf8_lossy(text).into_owned();
                }
                3 => count = Some(value.varint()?),
                4 => lost.push(BlobId(value.array()?)),
                other => skip_field(other)?,
            }
        }
        if count == Some(lost.len() as u64) {
            record.lost = Some(lost);
        }
        Ok(record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_comes_back_and_one_that_names_too_few_blobs_means_all() {
        let time = Timestamp { seconds: 4, nanoseconds: 2 };
        for lost in [None, Some(vec![]), Some(vec![BlobId([1; 32]), BlobId([2; 32])])] {
            let record = DamageRecord { time, what: "frame 3".into(), lost };
            let bytes = record.encode();
            assert_eq!(DamageRecord::decode(&bytes), Ok(record.clone()));
            if record.lost.is_some_and(|lost| !lost.is_empty()) {
                let short = &bytes[..bytes.len() - 34];
                assert_eq!(DamageRecord::decode(short).map(|record| record.lost), Ok(None));
            }
        }
    }
}
