//! What is known of packs' health: which are recorded as damaged, and when each was last proven.
//!
//! A damaged pack counts as missing for writers, all of it: what went bad in one place may go on, and a pack that
//! nothing needs any more can be dropped without reading it. The *name* of the record decides, so that a writer
//! needs one listing. A record that somebody else put there makes writers store again what is there, and no
//! more. Readers try what stands in such a pack last.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::Repository;
use super::error::{Named, Result};
use crate::format::damage::DamageRecord;
use crate::format::header::ObjectKind;
use crate::format::ledger::Ledger;
use crate::id::{BlobId, PackId, SessionId};
use crate::store::{Created, layout};
use crate::units::Timestamp;

/// A damage record names at most so many blobs (340 KB); of a pack that lost more, it says so of all.
const NAMED_BLOBS: usize = 10_000;

impl Repository {
    /// The packs that are recorded as damaged. Costs one listing.
    pub fn damaged_packs(&self) -> Result<Arc<HashSet<PackId>>> {
        let objects = self.store.list(layout::DAMAGED)?;
        let packs = objects.iter().filter_map(|object| layout::parse_damaged(&object.name));
        Ok(self.note_damaged(packs.collect()))
    }

    /// Remembers which packs a listing has shown to be recorded as damaged.
    pub(super) fn note_damaged(&self, packs: HashSet<PackId>) -> Arc<HashSet<PackId>> {
        let packs = Arc::new(packs);
        *self.damaged.lock() = Some(Arc::clone(&packs));
        packs
    }

    /// The same as this repository has seen it last; none when the store cannot be asked. Good enough to decide
    /// what to try first.
    pub(super) fn known_damaged_packs(&self) -> Arc<HashSet<PackId>> {
        let known = self.damaged.lock().clone();
        known.unwrap_or_else(|| {
            self.damaged_packs().unwrap_or_else(|_| {
                let none = Arc::default();
                *self.damaged.lock() = Some(Arc::clone(&none));
                none
            })
        })
    }

    /// Records that a pack is damaged, and which blobs that costs. Returns whether it was not recorded before.
    pub fn record_damage(&self, pack: PackId, what: &str, lost: &[BlobId]) -> Result<bool> {
        let record = DamageRecord {
            time: self.environment.clock.now(),
            what: what.to_string(),
            lost: (lost.len() <= NAMED_BLOBS).then(|| lost.to_vec()),
        };
        let name = layout::damaged(pack);
        let object = self.seal(ObjectKind::Damage, &name, record.encode())?;
        let created = self.store.create(&name, object)?;
        if let Some(known) = self.damaged.lock().as_mut() {
            Arc::make_mut(known).insert(pack);
        }
        Ok(created == Created::New)
    }

    /// What is recorded of a damaged pack.
    pub fn read_damage(&self, pack: PackId) -> Result<DamageRecord> {
        let name = layout::damaged(pack);
        let object = self.store.get(&name)?;
        let payload = self.sealer().unseal(ObjectKind::Damage, &name, object)?;
        DamageRecord::decode(&payload).named(name)
    }

    /// What a session has shared of when packs were proven.
    pub fn read_ledger(&self, session: SessionId) -> Result<Ledger> {
        let name = layout::ledger(session);
        let object = self.store.get(&name)?;
        let payload = self.sealer().unseal(ObjectKind::Ledger, &name, object)?;
        Ledger::decode(&payload).named(name)
    }

    /// Shares when packs were proven, under the name of a registered session.
    pub fn share_ledger(&self, session: SessionId, ledger: &Ledger) -> Result<()> {
        let name = layout::ledger(session);
        let object = self.seal(ObjectKind::Ledger, &name, ledger.encode())?;
        self.store.create(&name, object)?;
        Ok(())
    }
}

/// Takes over the later time of each pack. A time after `now` proves that a clock was wrong, and nothing of the
/// pack: it is passed over.
pub fn merge_proven(
    proven: &mut HashMap<PackId, Timestamp>,
    more: impl IntoIterator<Item = (PackId, Timestamp)>,
    now: Timestamp,
) {
    for (pack, time) in more.into_iter().filter(|(_, time)| *time <= now) {
        let known = proven.entry(pack).or_insert(time);
        *known = time.max(*known);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_proof_of_each_pack_counts_and_none_of_the_future() {
        let session = SessionId { generation: 0, random: [1; 16] };
        let pack = |number| PackId { session, number };
        let time = |seconds| Timestamp { seconds, nanoseconds: 0 };
        let mut proven = HashMap::new();
        merge_proven(&mut proven, [(pack(1), time(5)), (pack(2), time(5))], time(100));
        let more = [(pack(1), time(4)), (pack(2), time(6)), (pack(3), time(101))];
        merge_proven(&mut proven, more, time(100));
        assert_eq!(proven, HashMap::from([(pack(1), time(5)), (pack(2), time(6))]));
    }
}
