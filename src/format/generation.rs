//! A generation of collection: the packs it condemns, and then what it sweeps and which snapshots live.

use super::FormatError;
use super::bytes::{Reader, put_field, put_time};
use super::snapshot::{put_count_field, put_time_field, skip_field};
use crate::id::{PackId, SessionId, SnapshotId};
use crate::units::Timestamp;

const NAME_LENGTH: usize = SessionId::LENGTH + 4;

/// Who published an object of a generation, and when by its own clock. For people: nothing rests on it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Publisher {
    /// The host's name.
    pub host: String,
    /// The user's name.
    pub user: String,
    /// When.
    pub time: Timestamp,
}

impl Publisher {
    fn encode(&self, output: &mut Vec<u8>) {
        put_field(output, 4, self.host.as_bytes());
        put_field(output, 5, self.user.as_bytes());
        put_time_field(output, 6, self.time);
    }

    /// Takes the field in, if it is one of a publisher's.
    fn take(&mut self, number: u64, value: &mut Reader<'_>) -> Result<bool, FormatError> {
        match number {
            4 | 5 => {
                let text = String::from_utf8_lossy(value.take(value.remaining())?).into_owned();
                *(if number == 4 { &mut self.host } else { &mut self.user }) = text;
            }
            6 => self.time = value.time()?,
            _ => return Ok(false),
        }
        Ok(true)
    }
}

fn put_packs(output: &mut Vec<u8>, packs: &[PackId]) {
    let mut names = Vec::with_capacity(packs.len() * NAME_LENGTH);
    for pack in packs {
        names.extend_from_slice(&pack.session.to_bytes());
        names.extend_from_slice(&pack.number.to_le_bytes());
    }
    put_field(output, 1001, &names);
}

fn read_packs(value: &mut Reader<'_>) -> Result<Vec<PackId>, FormatError> {
    if !value.remaining().is_multiple_of(NAME_LENGTH) {
        return Err(FormatError::corrupt("a list of packs that is cut short"));
    }
    let mut packs = Vec::with_capacity(value.remaining() / NAME_LENGTH);
    while !value.is_empty() {
        let session = SessionId::from_bytes(value.array()?);
        packs.push(PackId { session, number: value.u32()? });
    }
    Ok(packs)
}

/// The packs that a generation means to drop. Nobody refers to them any more; those that something turns out
/// to need are spared by the sweep.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Condemned {
    /// The packs.
    pub packs: Vec<PackId>,
    /// Who published it.
    pub publisher: Publisher,
}

impl Condemned {
    /// The payload's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut output = Vec::new();
        put_packs(&mut output, &self.packs);
        self.publisher.encode(&mut output);
        output
    }

    /// Reads a payload.
    pub fn decode(payload: &[u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::new(payload);
        let mut condemned = Condemned::default();
        let mut listed = false;
        while let Some((number, mut value)) = reader.field()? {
            if number == 1001 {
                condemned.packs = read_packs(&mut value)?;
                listed = true;
            } else if !condemned.publisher.take(number, &mut value)? {
                skip_field(number)?;
            }
        }
        if !listed {
            return Err(FormatError::corrupt("condemns no list of packs"));
        }
        Ok(condemned)
    }
}

/// What a generation drops for good, and every snapshot that lives on: a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sweep {
    /// The packs that are dropped: those condemned but for those that something needs.
    pub packs: Vec<PackId>,
    /// The snapshots of sessions before this generation that are alive, with the time when the store first showed
    /// each, as far as it is known. Sorted.
    pub live: Vec<(SnapshotId, Option<Timestamp>)>,
    /// BLAKE3 of the object of the sweep before, as it stands in the store.
    pub previous: Option<[u8; 32]>,
    /// Who published it.
    pub publisher: Publisher,
}

impl Sweep {
    /// The payload's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut output = Vec::new();
        put_packs(&mut output, &self.packs);
        for (snapshot, observed) in &self.live {
            let mut value = snapshot.0.to_bytes().to_vec();
            if let Some(observed) = observed {
                put_time(&mut value, *observed);
            }
            put_field(&mut output, 1002, &value);
        }
        if let Some(previous) = &self.previous {
            put_field(&mut output, 3, previous);
        }
        self.publisher.encode(&mut output);
        output
    }

    /// Reads a payload.
    pub fn decode(payload: &[u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::new(payload);
        let mut sweep = Sweep::default();
        let mut listed = false;
        while let Some((number, mut value)) = reader.field()? {
            match number {
                1001 => {
                    sweep.packs = read_packs(&mut value)?;
                    listed = true;
                }
                1002 => {
                    let snapshot = SnapshotId(SessionId::from_bytes(value.array()?));
                    let observed = if value.is_empty() { None } else { Some(value.time()?) };
                    sweep.live.push((snapshot, observed));
                }
                3 => sweep.previous = Some(value.array()?),
                _ => {
                    if !sweep.publisher.take(number, &mut value)? {
                        skip_field(number)?;
                    }
                }
            }
        }
        if !listed {
            return Err(FormatError::corrupt("sweeps no list of packs"));
        }
        sweep.live.sort_unstable();
        Ok(sweep)
    }

    /// Whether the snapshot is among those that live on.
    pub fn lists(&self, snapshot: SnapshotId) -> bool {
        self.live.binary_search_by_key(&snapshot, |(live, _)| *live).is_ok()
    }
}

/// The one client that collects, where a store cannot create if absent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Maintainer {
    /// What the client keeps in its cache.
    pub id: [u8; 16],
    /// Its host's name.
    pub host: String,
    /// Since when, by its clock.
    pub since: Timestamp,
    /// Another client was it before.
    pub took_over: bool,
}

impl Maintainer {
    /// The payload's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut output = Vec::new();
        put_field(&mut output, 1001, &self.id);
        put_field(&mut output, 2, self.host.as_bytes());
        put_time_field(&mut output, 3, self.since);
        put_count_field(&mut output, 4, u64::from(self.took_over));
        output
    }

    /// Reads a payload.
    pub fn decode(payload: &[u8]) -> Result<Self, FormatError> {
        let mut reader = Reader::new(payload);
        let mut maintainer = Maintainer::default();
        let mut named = false;
        while let Some((number, mut value)) = reader.field()? {
            match number {
                1001 => {
                    maintainer.id = value.array()?;
                    named = true;
                }
                2 => {
                    let text = value.take(value.remaining())?;
                    maintainer.host = String::from_utf8_lossy(text).into_owned();
                }
                3 => maintainer.since = value.time()?,
                4 => maintainer.took_over = value.varint()? != 0,
                other => skip_field(other)?,
            }
        }
        if !named {
            return Err(FormatError::corrupt("names no client"));
        }
        Ok(maintainer)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Kind;
    use super::super::bytes::put_field;
    use super::*;

    fn session(byte: u8) -> SessionId {
        SessionId { generation: u32::from(byte), random: [byte; 16] }
    }

    fn publisher() -> Publisher {
        Publisher {
            host: "box".into(),
            user: "me".into(),
            time: Timestamp { seconds: 9, nanoseconds: 1 },
        }
    }

    #[test]
    fn a_generation_comes_back_and_no_prefix_of_it_does() {
        let packs = vec![
            PackId { session: session(1), number: 0 },
            PackId { session: session(2), number: 7 },
        ];
        let condemned = Condemned { packs: packs.clone(), publisher: publisher() };
        assert_eq!(Condemned::decode(&condemned.encode()), Ok(condemned));
        let one = Condemned { packs: packs[..1].to_vec(), publisher: publisher() };
        assert_eq!(Condemned::decode(&one.encode()), Ok(one));
        let live = vec![
            (SnapshotId(session(3)), None),
            (SnapshotId(session(4)), Some(Timestamp { seconds: -5, nanoseconds: 3 })),
        ];
        let sweep = Sweep { packs, live, previous: Some([8; 32]), publisher: publisher() };
        let bytes = sweep.encode();
        assert_eq!(Sweep::decode(&bytes), Ok(sweep.clone()));
        assert!(sweep.lists(SnapshotId(session(3))) && !sweep.lists(SnapshotId(session(5))));
        for length in 0..bytes.len() {
            assert_ne!(Sweep::decode(&bytes[..length]), Ok(sweep.clone()), "{length}");
        }
    }

    #[test]
    fn a_maintainer_comes_back() {
        let maintainer = Maintainer {
            id: [3; 16],
            host: "box".into(),
            since: Timestamp { seconds: 9, nanoseconds: 1 },
            took_over: true,
        };
        assert_eq!(Maintainer::decode(&maintainer.encode()), Ok(maintainer));
        assert_eq!(Maintainer::decode(&[]).unwrap_err().kind, Kind::Corrupt);
    }

    #[test]
    fn an_empty_generation_says_so_and_what_says_nothing_is_damaged() {
        assert_eq!(Condemned::decode(&Condemned::default().encode()), Ok(Condemned::default()));
        assert_eq!(Sweep::decode(&Sweep::default().encode()), Ok(Sweep::default()));
        assert_eq!(Condemned::decode(&[]).unwrap_err().kind, Kind::Corrupt);
        assert_eq!(Sweep::decode(&[]).unwrap_err().kind, Kind::Corrupt);
        let mut later = Sweep::default().encode();
        put_field(&mut later, 1003, b"?");
        assert_eq!(Sweep::decode(&later).unwrap_err().kind, Kind::Newer);
        let mut later = Condemned::default().encode();
        put_field(&mut later, 1003, b"?");
        assert_eq!(Condemned::decode(&later).unwrap_err().kind, Kind::Newer);
    }
}
