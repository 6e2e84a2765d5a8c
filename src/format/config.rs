//! The repository's settings: what a writer needs to know beside the keys. Sealed in `config`, and once
//! more in every keyring, so that a lost config can be made again.

use super::FormatError;
use super::bytes::{Reader, put_field, put_signed, put_varint};
use super::header::ObjectKind;
use super::pack::SEGMENT_LENGTH_MAX;
use super::snapshot::{put_count_field, put_time_field, skip_field};
use crate::units::Timestamp;

/// Chunker suite 1: FastCDC 2020, normalization level 1, a gear table derived from the chunker secret.
const CHUNKER_GEAR: u64 = 1;

/// More parity than data is a second copy, and that is better kept elsewhere.
pub const PARITY_PERCENT_MAX: u8 = 100;

/// How clients of a repository decide what happens once: they must all do it alike (`docs/design/collection.md`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Form {
    /// By creating an object only if it is absent: the protocol's first form.
    #[default]
    Conditions,
    /// By writing, reading the other side and confirming, where the store cannot do that: the second form.
    Confirmations,
}

/// How the second form is written; the first is not written at all.
const FORM_CONFIRMATIONS: u64 = 2;

/// Who may take an object lock away before it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockMode {
    /// Whoever has a right of its own for that.
    Governance,
    /// Nobody.
    Compliance,
}

impl LockMode {
    const ALL: [LockMode; 2] = [LockMode::Governance, LockMode::Compliance];

    fn number(self) -> u64 {
        match self {
            LockMode::Governance => 1,
            LockMode::Compliance => 2,
        }
    }
}

/// That what lasts is written under an object lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ObjectLock {
    /// For so many seconds, within [`ObjectLock::SECONDS_MIN`] and [`ObjectLock::SECONDS_MAX`].
    pub seconds: u64,
    /// Who may end it sooner.
    pub mode: LockMode,
}

impl ObjectLock {
    /// A day: locks are prolonged when half of them is over, and nobody prunes every hour for that.
    pub const SECONDS_MIN: u64 = 86_400;
    /// A hundred years: S3 takes no longer ones.
    pub const SECONDS_MAX: u64 = 36_500 * 86_400;
}

/// The settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// No cut before this many bytes.
    pub chunk_minimum: u32,
    /// The length chunks aim at, in bytes.
    pub chunk_average: u32,
    /// A cut after this many bytes at the latest.
    pub chunk_maximum: u32,
    /// A segment is closed when it holds this many bytes of plaintext.
    pub segment_length: u32,
    /// A pack of data is closed when it holds about this many stored bytes, rather before; one of trees at half of them.
    pub pack_length: u32,
    /// zstd level.
    pub compression_level: i32,
    /// Parity of every new pack, in percent of its frames; 0: none.
    pub parity_percent: u8,
    /// The form of the protocol.
    pub form: Form,
    /// The object lock that all writers give to what lasts; `None`: none.
    pub object_lock: Option<ObjectLock>,
    /// When the repository was made.
    pub created: Timestamp,
}

impl Settings {
    /// The defaults, measured in `docs/design/0001-sizes.md`.
    pub const DEFAULT: Settings = Settings {
        chunk_minimum: 8 << 10,
        chunk_average: 32 << 10,
        chunk_maximum: 128 << 10,
        segment_length: 4 << 20,
        pack_length: 16 << 20,
        compression_level: 3,
        parity_percent: 0,
        form: Form::Conditions,
        object_lock: None,
        created: Timestamp { seconds: 0, nanoseconds: 0 },
    };

    /// A pack of this kind is closed when it holds about so many stored bytes. Of trees half of what is set: who lists a
    /// directory without a cache reads a pack of trees whole.
    pub fn pack_length_of(&self, kind: ObjectKind) -> u64 {
        match kind {
            ObjectKind::TreePack => u64::from(self.pack_length / 2),
            _ => u64::from(self.pack_length),
        }
    }

    /// About how many stored bytes packs hold, by those of data, rather less: they are closed before another segment like the last would be too
    /// much, and sooner where padding is small. 13.6 to 15.6 MiB of 16 were measured, and the last ones of a session hold less.
    pub fn usual_pack_length(&self) -> u64 {
        let (pack, segment) = (u64::from(self.pack_length), u64::from(self.segment_length));
        pack.saturating_sub(segment / 4 * 3).max(pack / 2).max(1)
    }

    /// The payload's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut output = Vec::new();
        let mut value = Vec::new();
        for number in [
            CHUNKER_GEAR,
            u64::from(self.chunk_minimum),
            u64::from(self.chunk_average),
            u64::from(self.chunk_maximum),
        ] {
            put_varint(&mut value, number);
        }
        put_field(&mut output, 1001, &value);
        if self.form == Form::Confirmations {
            put_count_field(&mut output, 1002, FORM_CONFIRMATIONS);
        }
        if let Some(lock) = self.object_lock {
            value.clear();
            put_varint(&mut value, lock.seconds);
            put_varint(&mut value, lock.mode.number());
            put_field(&mut output, 1003, &value);
        }
        put_count_field(&mut output, 1, u64::from(self.segment_length));
        put_count_field(&mut output, 2, u64::from(self.pack_length));
        value.clear();
        put_signed(&mut value, i64::from(self.compression_level));
        put_field(&mut output, 3, &value);
        put_time_field(&mut output, 4, self.created);
        if self.parity_percent > 0 {
            put_count_field(&mut output, 5, u64::from(self.parity_percent));
        }
        output
    }

    /// Reads a payload.
    pub fn decode(payload: &[u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::new(payload);
        let mut settings = Settings::DEFAULT;
        let mut seen_chunker = false;
        while let Some((number, mut value)) = reader.field()? {
            match number {
                1001 => {
                    let suite = value.varint()?;
                    if suite != CHUNKER_GEAR {
                        return Err(FormatError::newer(format!("unknown chunker suite {suite}")));
                    }
                    settings.chunk_minimum = value.varint_u32()?;
                    settings.chunk_average = value.varint_u32()?;
                    settings.chunk_maximum = value.varint_u32()?;
                    seen_chunker = true;
                }
                1002 => match value.varint()? {
                    FORM_CONFIRMATIONS => settings.form = Form::Confirmations,
                    form => {
                        return Err(FormatError::newer(format!("unknown form {form}")));
                    }
                },
                1003 => {
                    let seconds = value.varint()?;
                    let mode = value.varint()?;
                    let known = LockMode::ALL.into_iter().find(|known| known.number() == mode);
                    let mode = known.ok_or_else(|| {
                        FormatError::newer(format!("unknown mode {mode} of object locks"))
                    })?;
                    settings.object_lock = Some(ObjectLock { seconds, mode });
                }
                1 => settings.segment_length = value.varint_u32()?,
                2 => settings.pack_length = value.varint_u32()?,
                3 => {
                    settings.compression_level = i32::try_from(value.signed()?)
                        .map_err(|_| FormatError::corrupt("a compression level out of range"))?;
                }
                4 => settings.created = value.time()?,
                5 => {
                    settings.parity_percent = u8::try_from(value.varint()?)
                        .map_err(|_| FormatError::corrupt("a share of parity out of range"))?;
                }
                other => skip_field(other)?,
            }
        }
        let ordered = settings.chunk_minimum < settings.chunk_average
            && settings.chunk_average < settings.chunk_maximum;
        let bounded = settings.chunk_maximum <= 16 << 20
            && u64::from(settings.segment_length) <= SEGMENT_LENGTH_MAX / 2
            && (4096..=1 << 30).contains(&settings.segment_length)
            && (1 << 16..=1 << 30).contains(&settings.pack_length)
            && settings.parity_percent <= PARITY_PERCENT_MAX
            && settings.object_lock.is_none_or(|lock| {
                (ObjectLock::SECONDS_MIN..=ObjectLock::SECONDS_MAX).contains(&lock.seconds)
            });
        if !seen_chunker || !ordered || !bounded {
            return Err(FormatError::corrupt(format!("settings that cannot be: {settings:?}")));
        }
        Ok(settings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_come_back() {
        let settings = Settings {
            compression_level: -3,
            parity_percent: 7,
            form: Form::Confirmations,
            object_lock: Some(ObjectLock { seconds: 30 * 86_400, mode: LockMode::Compliance }),
            created: Timestamp { seconds: 99, nanoseconds: 1 },
            ..Settings::DEFAULT
        };
        assert_eq!(Settings::decode(&settings.encode()), Ok(settings));
        assert!(Settings::decode(&[]).is_err());
        let absurd = Settings { segment_length: u32::MAX, ..settings };
        assert!(Settings::decode(&absurd.encode()).is_err());
        let absurd = Settings { parity_percent: PARITY_PERCENT_MAX + 1, ..settings };
        assert!(Settings::decode(&absurd.encode()).is_err());
    }

    #[test]
    fn the_first_form_is_not_written_and_an_unknown_one_is_newer() {
        let first = Settings::DEFAULT.encode();
        let second = Settings { form: Form::Confirmations, ..Settings::DEFAULT }.encode();
        // A number (1002), a length and a value: what an old reader refuses.
        let field = [0xea, 0x07, 1, 2];
        assert_eq!(second.len(), first.len() + field.len());
        let at = second.windows(4).position(|bytes| bytes == field).unwrap();
        let mut third = second.clone();
        third[at + 3] = 3;
        assert_eq!(Settings::decode(&third).unwrap_err().kind, crate::format::Kind::Newer);
    }

    #[test]
    fn an_object_lock_is_a_field_that_old_versions_refuse() {
        let with = |seconds, mode| {
            let object_lock = Some(ObjectLock { seconds, mode });
            Settings { object_lock, ..Settings::DEFAULT }.encode()
        };
        let thirty = with(30 * 86_400, LockMode::Governance);
        // A number (1003), a length, 2 592 000 seconds and the mode.
        let field = [0xeb, 0x07, 5, 0x80, 0x9a, 0x9e, 0x01, 1];
        assert_eq!(thirty.len(), Settings::DEFAULT.encode().len() + field.len());
        let at = thirty.windows(field.len()).position(|bytes| bytes == field).unwrap();
        let mut unknown = thirty.clone();
        unknown[at + field.len() - 1] = 3;
        assert_eq!(Settings::decode(&unknown).unwrap_err().kind, crate::format::Kind::Newer);
        for seconds in [0, ObjectLock::SECONDS_MIN - 1, ObjectLock::SECONDS_MAX + 1] {
            let decoded = Settings::decode(&with(seconds, LockMode::Governance));
            assert_eq!(decoded.unwrap_err().kind, crate::format::Kind::Corrupt, "{seconds}");
        }
    }
}
