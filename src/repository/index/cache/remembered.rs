//! What this client remembers that no store tells again: how far it followed the sweeps, by which name it collects,
//! which sessions stood still, when packs were proven, and which snapshots it saw when.

use std::collections::HashMap;

use redb::{ReadableDatabase, ReadableTable, ReadableTableMetadata};

use super::super::rows::{name_bytes, read_name};
use super::{
    Dropped, GENERATIONS, IDLE, IndexCache, KEPT_GENERATIONS, META, OBSERVED, PROVEN, SLOTS, SWEPT,
    cache_error,
};
use crate::format::bytes::{Reader, put_time, put_varint};
use crate::id::{PackId, SessionId, SnapshotId};
use crate::repository::error::Result;
use crate::units::Timestamp;

/// How far the cache has followed the chain of sweeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Followed {
    /// Every pack that a sweep of this generation or a later one dropped is known.
    pub from: u32,
    /// The newest sweep that was seen.
    pub to: u32,
    /// BLAKE3 of its object.
    pub hash: [u8; 32],
    /// A sweep between was missed: only a listing of all packs tells which are there.
    pub unlisted: bool,
}

impl Followed {
    fn encode(&self) -> Vec<u8> {
        let numbers = [self.from.to_le_bytes(), self.to.to_le_bytes()].concat();
        [&numbers[..], &self.hash, &[u8::from(self.unlisted)]].concat()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (from, rest) = bytes.split_first_chunk()?;
        let (to, rest) = rest.split_first_chunk()?;
        let (hash, rest) = rest.split_first_chunk()?;
        Some(Followed {
            from: u32::from_le_bytes(*from),
            to: u32::from_le_bytes(*to),
            hash: *hash,
            unlisted: *rest.first()? != 0,
        })
    }
}

impl IndexCache {
    /// How far the chain of sweeps was followed; `None` before the first.
    pub fn followed(&self) -> Result<Option<Followed>> {
        let transaction = self.database.begin_read().map_err(cache_error)?;
        let table = transaction.open_table(META).map_err(cache_error)?;
        let row = table.get("followed").map_err(cache_error)?;
        Ok(row.and_then(|row| Followed::decode(row.value())))
    }

    /// Takes in sweeps up to generation `to`: forgets these packs, and never takes them in again.
    pub fn follow(&self, from: u32, to: u32, hash: [u8; 32], packs: &[PackId]) -> Result<()> {
        let before = self.followed()?;
        let unlisted = before.is_some_and(|before| before.unlisted)
            || from > before.map_or(0, |before| before.from);
        self.put_followed(packs, &Followed { from, to, hash, unlisted })
    }

    /// Forgets which packs sweeps have dropped.
    pub fn forget_swept(&self) -> Result<()> {
        let _writing = self.writing.lock();
        let transaction = self.begin_write()?;
        transaction.delete_table(SWEPT).map_err(cache_error)?;
        transaction.open_table(SWEPT).map_err(cache_error)?;
        transaction.commit().map_err(cache_error)
    }

    /// Remembers whether only a listing tells which packs are there.
    pub fn set_unlisted(&self, unlisted: bool) -> Result<()> {
        match self.followed()? {
            Some(followed) if followed.unlisted != unlisted => {
                self.put_followed(&[], &Followed { unlisted, ..followed })
            }
            _ => Ok(()),
        }
    }

    fn put_followed(&self, packs: &[PackId], followed: &Followed) -> Result<()> {
        let mut writing = self.writing.lock();
        let transaction = self.begin_write()?;
        {
            let mut table = transaction.open_table(META).map_err(cache_error)?;
            table.insert("followed", followed.encode().as_slice()).map_err(cache_error)?;
        }
        self.drop_in(&mut writing, transaction, packs, Dropped::Swept)
    }

    /// When the store at this location was last found to do what the repository relies on.
    pub fn probed(&self, location: &str) -> Result<Option<Timestamp>> {
        let transaction = self.database.begin_read().map_err(cache_error)?;
        let table = transaction.open_table(META).map_err(cache_error)?;
        let row = table.get("probed").map_err(cache_error)?;
        Ok(row.and_then(|row| {
            let (time, place) = row.value().split_first_chunk()?;
            (place == location.as_bytes()).then(|| read_time(time))
        }))
    }

    /// Remembers that the store at this location does, and forgets it of any other.
    pub fn keep_probed(&self, location: &str, time: Timestamp) -> Result<()> {
        let seconds = time.seconds.to_le_bytes();
        let row = [&seconds[..], &time.nanoseconds.to_le_bytes(), location.as_bytes()].concat();
        let transaction = self.begin_write()?;
        {
            let mut table = transaction.open_table(META).map_err(cache_error)?;
            table.insert("probed", row.as_slice()).map_err(cache_error)?;
        }
        transaction.commit().map_err(cache_error)
    }

    /// By which this client is known as the one that collects.
    pub fn maintainer(&self) -> Result<Option<[u8; 16]>> {
        let transaction = self.database.begin_read().map_err(cache_error)?;
        let table = transaction.open_table(META).map_err(cache_error)?;
        let row = table.get("maintainer").map_err(cache_error)?;
        Ok(row.and_then(|row| row.value().try_into().ok()))
    }

    /// Remembers by what this client is known.
    pub fn keep_maintainer(&self, id: [u8; 16]) -> Result<()> {
        let transaction = self.begin_write()?;
        {
            let mut table = transaction.open_table(META).map_err(cache_error)?;
            table.insert("maintainer", id.as_slice()).map_err(cache_error)?;
        }
        transaction.commit().map_err(cache_error)
    }

    /// A sealed object of collection that was read before.
    pub fn generation(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let transaction = self.database.begin_read().map_err(cache_error)?;
        let table = transaction.open_table(GENERATIONS).map_err(cache_error)?;
        Ok(table.get(name).map_err(cache_error)?.map(|row| row.value().to_vec()))
    }

    /// The name of the last object of collection that is kept, in the order of generations.
    pub fn newest_generation(&self) -> Result<Option<String>> {
        let transaction = self.database.begin_read().map_err(cache_error)?;
        let table = transaction.open_table(GENERATIONS).map_err(cache_error)?;
        Ok(table.last().map_err(cache_error)?.map(|(name, _)| name.value().to_string()))
    }

    /// Remembers a sealed object of collection. The newest few are kept.
    pub fn keep_generation(&self, name: &str, object: &[u8]) -> Result<()> {
        let transaction = self.begin_write()?;
        {
            let mut table = transaction.open_table(GENERATIONS).map_err(cache_error)?;
            table.insert(name, object).map_err(cache_error)?;
            // Names sort as generations do.
            while ReadableTableMetadata::len(&table).map_err(cache_error)? > KEPT_GENERATIONS {
                table.pop_first().map_err(cache_error)?;
            }
        }
        transaction.commit().map_err(cache_error)
    }

    /// How many objects each session that decides nothing had made when it was first seen like this, and when that
    /// was.
    pub fn idle(&self) -> Result<HashMap<SessionId, (u64, Timestamp)>> {
        let transaction = self.database.begin_read().map_err(cache_error)?;
        let table = transaction.open_table(IDLE).map_err(cache_error)?;
        let mut idle = HashMap::new();
        for row in table.iter().map_err(cache_error)? {
            let (name, row) = row.map_err(cache_error)?;
            let Ok(name) = name.value().try_into() else { continue };
            let mut reader = Reader::new(row.value());
            if let (Ok(objects), Ok(since)) = (reader.varint(), reader.time()) {
                idle.insert(SessionId::from_bytes(name), (objects, since));
            }
        }
        Ok(idle)
    }

    /// Remembers how far these sessions have come and since when, and forgets all others.
    pub fn keep_idle(&self, sessions: &[(SessionId, u64, Timestamp)]) -> Result<()> {
        let transaction = self.begin_write()?;
        transaction.delete_table(IDLE).map_err(cache_error)?;
        {
            let mut table = transaction.open_table(IDLE).map_err(cache_error)?;
            for (session, objects, since) in sessions {
                let mut row = Vec::new();
                put_varint(&mut row, *objects);
                put_time(&mut row, *since);
                table.insert(session.to_bytes().as_slice(), row.as_slice()).map_err(cache_error)?;
            }
        }
        transaction.commit().map_err(cache_error)
    }

    /// When packs were last proven by this client, as far as it knows.
    pub fn proven(&self) -> Result<HashMap<PackId, Timestamp>> {
        let transaction = self.database.begin_read().map_err(cache_error)?;
        let table = transaction.open_table(PROVEN).map_err(cache_error)?;
        let mut proven = HashMap::new();
        for row in table.iter().map_err(cache_error)? {
            let (name, time) = row.map_err(cache_error)?;
            let (seconds, nanoseconds) = time.value();
            if let Some((session, number)) = read_name(name.value()) {
                proven.insert(PackId { session, number }, Timestamp { seconds, nanoseconds });
            }
        }
        Ok(proven)
    }

    /// Remembers that packs were proven, and forgets it of others.
    pub fn update_proven(&self, proven: &[(PackId, Timestamp)], others: &[PackId]) -> Result<()> {
        let transaction = self.begin_write()?;
        let mut table = transaction.open_table(PROVEN).map_err(cache_error)?;
        for (pack, time) in proven {
            let name = name_bytes(pack.session, pack.number);
            let time = (time.seconds, time.nanoseconds);
            table.insert(name.as_slice(), time).map_err(cache_error)?;
        }
        for pack in others {
            let name = name_bytes(pack.session, pack.number);
            table.remove(name.as_slice()).map_err(cache_error)?;
        }
        drop(table);
        transaction.commit().map_err(cache_error)
    }

    /// The sealed slots that were seen, by session.
    pub fn slots(&self) -> Result<HashMap<SnapshotId, Vec<u8>>> {
        let transaction = self.database.begin_read().map_err(cache_error)?;
        let table = transaction.open_table(SLOTS).map_err(cache_error)?;
        let mut slots = HashMap::new();
        for row in table.iter().map_err(cache_error)? {
            let (name, object) = row.map_err(cache_error)?;
            if let Ok(name) = name.value().try_into() {
                slots.insert(SnapshotId(SessionId::from_bytes(name)), object.value().to_vec());
            }
        }
        Ok(slots)
    }

    /// How many slots were seen.
    pub fn slot_count(&self) -> Result<usize> {
        let transaction = self.database.begin_read().map_err(cache_error)?;
        let table = transaction.open_table(SLOTS).map_err(cache_error)?;
        Ok(ReadableTableMetadata::len(&table).map_err(cache_error)? as usize)
    }

    /// Remembers sealed slots, and forgets others.
    pub fn update_slots(&self, seen: &[(SnapshotId, Vec<u8>)], gone: &[SnapshotId]) -> Result<()> {
        let mut transaction = self.database.begin_write().map_err(cache_error)?;
        transaction.set_quick_repair(true);
        let mut table = transaction.open_table(SLOTS).map_err(cache_error)?;
        for (id, object) in seen {
            table.insert(id.0.to_bytes().as_slice(), object.as_slice()).map_err(cache_error)?;
        }
        for id in gone {
            table.remove(id.0.to_bytes().as_slice()).map_err(cache_error)?;
        }
        drop(table);
        transaction.commit().map_err(cache_error)
    }

    /// When the store first showed each snapshot, as far as this client was there to see it.
    pub fn observed(&self) -> Result<HashMap<SnapshotId, Timestamp>> {
        let transaction = self.database.begin_read().map_err(cache_error)?;
        let table = transaction.open_table(OBSERVED).map_err(cache_error)?;
        let mut observed = HashMap::new();
        for row in table.iter().map_err(cache_error)? {
            let (name, time) = row.map_err(cache_error)?;
            if let Ok(name) = name.value().try_into() {
                observed.insert(SnapshotId(SessionId::from_bytes(name)), read_time(&time.value()));
            }
        }
        Ok(observed)
    }

    /// Remembers when the store first showed snapshots.
    pub fn remember_observed(&self, observed: &[(SnapshotId, Timestamp)]) -> Result<()> {
        let mut transaction = self.database.begin_write().map_err(cache_error)?;
        transaction.set_quick_repair(true);
        let mut table = transaction.open_table(OBSERVED).map_err(cache_error)?;
        for (id, time) in observed {
            let mut value = [0; 12];
            value[..8].copy_from_slice(&time.seconds.to_le_bytes());
            value[8..].copy_from_slice(&time.nanoseconds.to_le_bytes());
            table.insert(id.0.to_bytes().as_slice(), value).map_err(cache_error)?;
        }
        drop(table);
        transaction.commit().map_err(cache_error)
    }
}

fn read_time(value: &[u8; 12]) -> Timestamp {
    let (mut seconds, mut nanoseconds) = ([0; 8], [0; 4]);
    seconds.copy_from_slice(&value[..8]);
    nanoseconds.copy_from_slice(&value[8..]);
    Timestamp { seconds: i64::from_le_bytes(seconds), nanoseconds: u32::from_le_bytes(nanoseconds) }
}
