//! What a session decided: a snapshot, or ABORT. Both stand in the session's slot, so only one can.

use super::FormatError;
use super::bytes::{Reader, put_field, put_number_field, put_signed, put_time, put_varint};
use crate::id::{BlobId, RepositoryId, SessionId, SnapshotId};
use crate::units::Timestamp;

const DECISION_SNAPSHOT: u8 = 1;
const DECISION_ABORT: u8 = 2;

/// Fields with numbers from here on change the meaning of the rest: a reader that does not know one must
/// refuse the object. Others may be skipped.
pub const CRITICAL_FIELD: u64 = 1000;

/// Refuses a field that must not be skipped.
pub(super) fn skip_field(number: u64) -> Result<(), FormatError> {
    if number >= CRITICAL_FIELD {
        return Err(FormatError::newer(format!("field {number}, which must not be skipped")));
    }
    Ok(())
}

/// Counts that tell what a backup did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BackupCounts {
    /// Files that the parent did not have.
    pub files_new: u64,
    /// Files that differ from the parent's.
    pub files_changed: u64,
    /// Files that are as they were.
    pub files_unmodified: u64,
    /// Directories that the parent did not have.
    pub dirs_new: u64,
    /// Directories whose entries or metadata changed.
    pub dirs_changed: u64,
    /// Directories that are as they were.
    pub dirs_unmodified: u64,
    /// Data blobs that the repository did not have.
    pub data_blobs: u64,
    /// Tree blobs that the repository did not have.
    pub tree_blobs: u64,
    /// Plaintext bytes of the new blobs.
    pub data_added: u64,
    /// Bytes that were added to the store.
    pub data_added_packed: u64,
    /// Files in the snapshot.
    pub total_files_processed: u64,
    /// Bytes of content in the snapshot.
    pub total_bytes_processed: u64,
    /// Problems that were reported and passed over.
    pub problems: u64,
}

impl BackupCounts {
    fn numbers(&self) -> [u64; 13] {
        [
            self.files_new,
            self.files_changed,
            self.files_unmodified,
            self.dirs_new,
            self.dirs_changed,
            self.dirs_unmodified,
            self.data_blobs,
            self.tree_blobs,
            self.data_added,
            self.data_added_packed,
            self.total_files_processed,
            self.total_bytes_processed,
            self.problems,
        ]
    }

    fn from_numbers(numbers: [u64; 13]) -> Self {
        let [
            files_new,
            files_changed,
            files_unmodified,
            dirs_new,
            dirs_changed,
            dirs_unmodified,
            data_blobs,
            tree_blobs,
            data_added,
            data_added_packed,
            total_files_processed,
            total_bytes_processed,
            problems,
        ] = numbers;
        BackupCounts {
            files_new,
            files_changed,
            files_unmodified,
            dirs_new,
            dirs_changed,
            dirs_unmodified,
            data_blobs,
            tree_blobs,
            data_added,
            data_added_packed,
            total_files_processed,
            total_bytes_processed,
            problems,
        }
    }
}

/// Where a snapshot that a repair made comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repaired {
    /// The snapshot that it stands for: one with missing content.
    pub original: SnapshotId,
    /// What is not in it, or not whole, for people: a line each.
    pub left_out: String,
}

/// A snapshot of a repository, named so that any other repository knows which is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Origin {
    /// The repository.
    pub repository: RepositoryId,
    /// The snapshot in it.
    pub snapshot: SnapshotId,
}

/// One committed state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The root directory's first node.
    pub root: BlobId,
    /// Height of the root directory's node (0: a leaf).
    pub height: u8,
    /// The time the snapshot claims: when the backup began, or what the user said.
    pub time: Timestamp,
    /// Offset of the user's time zone at that time, in seconds east of UTC.
    pub zone_offset_seconds: i32,
    /// When the backup ended.
    pub end_time: Timestamp,
    /// The host's name.
    pub host: String,
    /// The user's name.
    pub user: String,
    /// The sources, absolute, as bytes.
    pub paths: Vec<Vec<u8>>,
    /// Tags, sorted.
    pub tags: Vec<String>,
    /// The name of what was saved, by which retention groups it; empty when it has none.
    pub name: String,
    /// What unchanged files were taken from.
    pub parent: Option<SnapshotId>,
    /// Name and version of the program that wrote it.
    pub program: String,
    /// What the backup did.
    pub counts: BackupCounts,
    /// BLAKE3 of the object, as it stands in the store, of the newest snapshot that the writer knew of: a
    /// store that hides history is caught by whoever saw more.
    pub predecessor: Option<[u8; 32]>,
    /// What a repair made it of; `None`: a backup made it.
    pub repaired: Option<Repaired>,
    /// The snapshot of another repository that it was copied from, through however many copies; `None`: it is no copy.
    pub copied: Option<Origin>,
    /// Reserved for an Ed25519 signature, always the last field. Version 1 writers leave it out.
    pub signature: Option<[u8; 64]>,
}

/// What a slot holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// The session committed.
    Snapshot(Box<Snapshot>),
    /// The session ended without a snapshot, or was fenced.
    Abort,
}

impl Decision {
    /// The payload's bytes.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Decision::Abort => vec![DECISION_ABORT],
            Decision::Snapshot(snapshot) => snapshot.encode(),
        }
    }

    /// Reads a payload.
    pub fn decode(payload: &[u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::new(payload);
        match reader.u8()? {
            DECISION_SNAPSHOT => Ok(Decision::Snapshot(Box::new(Snapshot::decode(reader)?))),
            DECISION_ABORT => Ok(Decision::Abort),
            other => Err(FormatError::newer(format!("a slot with unknown decision {other}"))),
        }
    }
}

impl Snapshot {
    /// Which snapshot this is, whatever repository it is in: the one it was copied from, or else itself.
    pub fn origin(&self, repository: RepositoryId, id: SnapshotId) -> Origin {
        self.copied.unwrap_or(Origin { repository, snapshot: id })
    }

    fn encode(&self) -> Vec<u8> {
        let mut output = vec![DECISION_SNAPSHOT];
        let mut value = Vec::new();
        let mut field = |number, fill: &dyn Fn(&mut Vec<u8>)| {
            value.clear();
            fill(&mut value);
            put_field(&mut output, number, &value);
        };
        field(1, &|value| put_time(value, self.time));
        field(2, &|value| {
            value.push(self.height);
            value.extend_from_slice(self.root.as_bytes());
        });
        field(3, &|value| value.extend_from_slice(self.host.as_bytes()));
        field(4, &|value| value.extend_from_slice(self.user.as_bytes()));
        self.paths.iter().for_each(|path| field(5, &|value| value.extend_from_slice(path)));
        self.tags.iter().for_each(|tag| field(6, &|value| value.extend_from_slice(tag.as_bytes())));
        if let Some(parent) = self.parent {
            field(7, &|value| value.extend_from_slice(&parent.0.to_bytes()));
        }
        field(8, &|value| value.extend_from_slice(self.program.as_bytes()));
        field(9, &|value| {
            self.counts.numbers().iter().for_each(|number| put_varint(value, *number));
        });
        field(10, &|value| put_time(value, self.end_time));
        field(11, &|value| put_signed(value, i64::from(self.zone_offset_seconds)));
        if let Some(predecessor) = self.predecessor {
            field(12, &|value| value.extend_from_slice(&predecessor));
        }
        if !self.name.is_empty() {
            field(14, &|value| value.extend_from_slice(self.name.as_bytes()));
        }
        if let Some(repaired) = &self.repaired {
            field(15, &|value| value.extend_from_slice(&repaired.original.0.to_bytes()));
            if !repaired.left_out.is_empty() {
                field(16, &|value| value.extend_from_slice(repaired.left_out.as_bytes()));
            }
        }
        if let Some(Origin { repository, snapshot }) = &self.copied {
            field(17, &|value| {
                value.extend_from_slice(repository.as_bytes());
                value.extend_from_slice(&snapshot.0.to_bytes());
            });
        }
        if let Some(signature) = self.signature {
            field(13, &|value| value.extend_from_slice(&signature));
        }
        output
    }

    fn decode(mut reader: Reader<'_>) -> Result<Self, FormatError> {
        let mut snapshot = Snapshot {
            root: BlobId([0; 32]),
            height: 0,
            time: Timestamp::default(),
            zone_offset_seconds: 0,
            end_time: Timestamp::default(),
            host: String::new(),
            user: String::new(),
            paths: Vec::new(),
            tags: Vec::new(),
            name: String::new(),
            parent: None,
            program: String::new(),
            counts: BackupCounts::default(),
            predecessor: None,
            repaired: None,
            copied: None,
            signature: None,
        };
        let mut seen_root = false;
        let mut left_out = String::new();
        while let Some((number, mut value)) = reader.field()? {
            let whole = value.clone().take(value.remaining())?;
            let text = || String::from_utf8_lossy(whole).into_owned();
            match number {
                1 => snapshot.time = value.time()?,
                2 => {
                    snapshot.height = value.u8()?;
                    snapshot.root = BlobId(value.array()?);
                    seen_root = true;
                }
                3 => snapshot.host = text(),
                4 => snapshot.user = text(),
                5 => snapshot.paths.push(whole.to_vec()),
                6 => snapshot.tags.push(text()),
                7 => {
                    snapshot.parent = Some(SnapshotId(SessionId::from_bytes(value.array()?)));
                }
                8 => snapshot.program = text(),
                9 => {
                    let mut numbers = [0; 13];
                    for number in &mut numbers {
                        *number = value.varint()?;
                    }
                    snapshot.counts = BackupCounts::from_numbers(numbers);
                }
                10 => snapshot.end_time = value.time()?,
                11 => {
                    snapshot.zone_offset_seconds = i32::try_from(value.signed()?)
                        .map_err(|_| FormatError::corrupt("a time zone beyond the calendar"))?;
                }
                12 => snapshot.predecessor = Some(value.array()?),
                13 => snapshot.signature = Some(value.array()?),
                14 => snapshot.name = text(),
                15 => {
                    let original = SnapshotId(SessionId::from_bytes(value.array()?));
                    snapshot.repaired = Some(Repaired { original, left_out: String::new() });
                }
                16 => left_out = text(),
                17 => {
                    let repository = RepositoryId(value.array()?);
                    let id = SnapshotId(SessionId::from_bytes(value.array()?));
                    snapshot.copied = Some(Origin { repository, snapshot: id });
                }
                other => skip_field(other)?,
            }
        }
        if !seen_root {
            return Err(FormatError::corrupt("a snapshot without a root"));
        }
        if let Some(repaired) = &mut snapshot.repaired {
            repaired.left_out = left_out;
        }
        Ok(snapshot)
    }
}

/// Appends a time field; shared by the payloads beside snapshots.
pub(super) fn put_time_field(output: &mut Vec<u8>, number: u64, time: Timestamp) {
    let mut value = Vec::new();
    put_time(&mut value, time);
    put_field(output, number, &value);
}

/// Appends a number field; shared by the payloads beside snapshots.
pub(super) fn put_count_field(output: &mut Vec<u8>, number: u64, count: u64) {
    put_number_field(output, number, count);
}

#[cfg(test)]
mod tests {
    use super::super::Kind;
    use super::*;

    fn snapshot() -> Snapshot {
        let mut numbers = [0; 13];
        (1..14).zip(&mut numbers).for_each(|(value, number)| *number = value << 20);
        Snapshot {
            root: BlobId([7; 32]),
            height: 2,
            time: Timestamp { seconds: 1_790_000_000, nanoseconds: 5 },
            zone_offset_seconds: -34_200,
            end_time: Timestamp { seconds: 1_790_000_009, nanoseconds: 0 },
            host: "box".into(),
            user: "me".into(),
            paths: vec![b"/home/\xff".to_vec(), b"/etc".to_vec()],
            tags: vec!["a".into(), "b c".into()],
            name: "home".into(),
            parent: Some(SnapshotId(SessionId { generation: 3, random: [8; 16] })),
            program: "aumbry 0.1.0".into(),
            counts: BackupCounts::from_numbers(numbers),
            predecessor: Some([9; 32]),
            repaired: Some(Repaired {
                original: SnapshotId(SessionId { generation: 2, random: [7; 16] }),
                left_out: "/etc: cannot be read".into(),
            }),
            copied: Some(Origin {
                repository: RepositoryId([5; 16]),
                snapshot: SnapshotId(SessionId { generation: 1, random: [6; 16] }),
            }),
            signature: Some([1; 64]),
        }
    }

    #[test]
    fn decisions_come_back() {
        for decision in [Decision::Abort, Decision::Snapshot(Box::new(snapshot()))] {
            assert_eq!(Decision::decode(&decision.encode()), Ok(decision));
        }
    }

    #[test]
    fn later_fields_are_skipped_unless_they_are_critical() {
        let mut bytes = snapshot().encode();
        put_field(&mut bytes, 999, b"later");
        assert_eq!(Decision::decode(&bytes), Ok(Decision::Snapshot(Box::new(snapshot()))));
        put_field(&mut bytes, CRITICAL_FIELD, b"later");
        assert_eq!(Decision::decode(&bytes).unwrap_err().kind, Kind::Newer);
        assert!(Decision::decode(&[DECISION_SNAPSHOT]).is_err());
        assert!(Decision::decode(&[]).is_err());
    }
}
