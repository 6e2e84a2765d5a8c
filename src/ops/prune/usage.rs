//! What is needed from which pack: one pass over the index, ids in order.
//!
//! Of several copies of a blob one is chosen to stay, the same one whenever the same question is asked: a whole copy
//! before one in a damaged pack, one that is no delta before one that is, then the copy in the pack that most is
//! needed from anyway.
//! Memory: a row a pack; the index is read in order and not held.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use super::plan::PackUse;
use crate::format::pack::Encoding;
use crate::id::{BlobId, PackId, SessionId};
use crate::ops::OpsError;
use crate::ops::references::BlobKey;
use crate::ops::walk::Walk;
use crate::repository::Repository;
use crate::repository::index::{Location, PackInfo};

/// A pack of the index.
struct Row {
    info: PackInfo,
    /// Whether its blobs can be counted on: it is in the store, and its key is to stay.
    counts: bool,
    /// It belongs to a session that has not decided.
    is_busy: bool,
    plain_bytes: u64,
    used_bytes: u64,
    used_blobs: u64,
}

impl Row {
    fn is_delta(&self, location: &Location) -> bool {
        let segment = self.info.segments.get(location.segment as usize);
        matches!(segment.map(|segment| &segment.encoding), Some(Encoding::Delta(_)))
    }

    fn has_unknown_segments(&self) -> bool {
        let mut segments = self.info.segments.iter();
        segments.any(|segment| matches!(segment.encoding, Encoding::Unknown(_)))
    }
}

/// Which packs hold what is needed.
pub struct Usage {
    rows: BTreeMap<u32, Row>,
    /// What needed deltas are read against.
    bases: HashSet<BlobKey>,
    /// Needed blobs that no pack has.
    pub lost_blobs: u64,
    /// The first of them.
    pub lost_example: Option<BlobId>,
    /// Needed blobs.
    pub live_blobs: u64,
}

/// What is not to be counted on, and what is not to be touched.
#[derive(Default)]
pub struct Exceptions {
    /// Packs that are known to be damaged: needed only where nothing else has the blob.
    pub damaged: Arc<HashSet<PackId>>,
    /// Sessions that have not decided.
    pub undecided: BTreeSet<SessionId>,
    /// Key epochs whose packs count as if they were gone.
    pub epochs: BTreeSet<u32>,
}

impl Usage {
    /// The packs of the index, nothing counted yet.
    fn new(
        repository: &Repository,
        walk: &Walk<'_, '_>,
        exceptions: &Exceptions,
    ) -> Result<Self, OpsError> {
        let missing: HashSet<PackId> = repository.missing_packs()?.into_iter().collect();
        let rows = repository.cache().packs()?.into_iter().map(|(number, info)| {
            let row = Row {
                counts: !missing.contains(&info.id)
                    && !exceptions.epochs.contains(&info.header.epoch),
                is_busy: exceptions.undecided.contains(&info.id.session),
                plain_bytes: 0,
                used_bytes: 0,
                used_blobs: 0,
                info,
            };
            (number, row)
        });
        let mut usage = Usage {
            rows: rows.collect(),
            bases: HashSet::new(),
            lost_blobs: 0,
            lost_example: None,
            live_blobs: 0,
        };
        usage.follow_deltas(repository, walk)?;
        Ok(usage)
    }

    /// Counts what the blobs that `walk` has met need.
    pub fn count(
        repository: &Repository,
        walk: &Walk<'_, '_>,
        exceptions: &Exceptions,
    ) -> Result<Self, OpsError> {
        let mut usage = Self::new(repository, walk, exceptions)?;
        // First what stands in one place only, so that the choice among copies knows where most is needed anyway.
        usage.pass(repository, walk, |usage, id, copies| match copies {
            [] => usage.lose(id),
            [only] => usage.need(only),
            _ => {}
        })?;
        let needed: HashMap<u32, u64> =
            usage.rows.iter().map(|(number, row)| (*number, row.used_bytes)).collect();
        usage.pass(repository, walk, |usage, id, copies| {
            if copies.len() < 2 {
                return;
            }
            let is_base = usage.bases.contains(&BlobKey::new(&id));
            let best = copies.iter().max_by_key(|copy| {
                let rank = usage.rank(is_base, &exceptions.damaged, copy);
                (rank, needed.get(&copy.pack), Reverse(copy.pack))
            });
            if let Some(best) = best.copied() {
                usage.need(&best);
            }
        })?;
        Ok(usage)
    }

    /// How good a copy is: whole before damaged, as far as is known, and no delta before a delta. What deltas are read
    /// against must above all be no delta.
    fn rank(&self, is_base: bool, damaged: &HashSet<PackId>, copy: &Location) -> (bool, bool) {
        let row = &self.rows[&copy.pack];
        let (whole, plain) = (!damaged.contains(&row.info.id), !row.is_delta(copy));
        if is_base { (plain, whole) } else { (whole, plain) }
    }

    fn lose(&mut self, id: BlobId) {
        self.lost_blobs += 1;
        self.lost_example.get_or_insert(id);
    }

    fn need(&mut self, location: &Location) {
        if let Some(row) = self.rows.get_mut(&location.pack) {
            row.used_blobs += 1;
            row.used_bytes += u64::from(location.length);
        }
    }

    /// The bases of deltas are needed as well.
    fn follow_deltas(
        &mut self,
        repository: &Repository,
        walk: &Walk<'_, '_>,
    ) -> Result<(), OpsError> {
        let has_delta = |row: &Row| {
            let mut segments = row.info.segments.iter();
            segments.any(|segment| matches!(segment.encoding, Encoding::Delta(_)))
        };
        if !self.rows.values().any(has_delta) {
            return Ok(());
        }
        for entry in repository.cache().entries()? {
            let (id, location) = entry?;
            let Some(row) = self.rows.get(&location.pack) else { continue };
            let segment = row.info.segments.get(location.segment as usize);
            if let Some(Encoding::Delta(bases)) = segment.map(|segment| &segment.encoding)
                && walk.needs(row.info.kind, &id)
            {
                self.bases.extend(bases.iter().map(BlobKey::new));
            }
        }
        Ok(())
    }

    /// Hands every needed blob with the copies that count to `take`.
    fn pass(
        &mut self,
        repository: &Repository,
        walk: &Walk<'_, '_>,
        mut take: impl FnMut(&mut Self, BlobId, &[Location]),
    ) -> Result<(), OpsError> {
        for row in self.rows.values_mut() {
            row.plain_bytes = 0;
        }
        self.live_blobs = 0;
        let mut group: Vec<Location> = Vec::new();
        let mut kind = None;
        let mut current: Option<BlobId> = None;
        let mut end = |usage: &mut Self, id: Option<BlobId>, kind, group: &mut Vec<Location>| {
            if let (Some(id), Some(kind)) = (id, kind)
                && (walk.needs(kind, &id) || usage.bases.contains(&BlobKey::new(&id)))
            {
                usage.live_blobs += 1;
                take(usage, id, group);
            }
            group.clear();
        };
        for entry in repository.cache().entries()? {
            let (id, location) = entry?;
            if current != Some(id) {
                end(self, current, kind, &mut group);
                current = Some(id);
                kind = None;
            }
            let Some(row) = self.rows.get_mut(&location.pack) else { continue };
            row.plain_bytes += u64::from(location.length);
            // No blob of one kind has the id of one of the other.
            kind = Some(row.info.kind);
            if row.counts {
                group.push(location);
            }
        }
        end(self, current, kind, &mut group);
        Ok(())
    }

    /// What a plan is made of.
    pub fn packs(&self, repository: &Repository) -> Vec<PackUse> {
        let newest = repository.sealer().newest_epoch();
        let target = u64::from(repository.settings().pack_length);
        let rows = self.rows.values().filter(|row| row.counts);
        rows.map(|row| PackUse {
            id: row.info.id,
            object_length: row.info.object_length,
            plain_bytes: row.plain_bytes,
            used_bytes: row.used_bytes,
            used_blobs: row.used_blobs,
            untouchable: row.is_busy || row.has_unknown_segments(),
            old_epoch: row.info.header.epoch != newest,
            small: row.info.object_length < target / 2,
        })
        .collect()
    }

    /// The packs among `condemned` without which a needed blob would be gone.
    pub fn rescue(
        repository: &Repository,
        walk: &Walk<'_, '_>,
        condemned: &[PackId],
        damaged: Arc<HashSet<PackId>>,
    ) -> Result<Rescue, OpsError> {
        let condemned: HashSet<&PackId> = condemned.iter().collect();
        let exceptions = Exceptions { damaged, ..Exceptions::default() };
        let mut usage = Self::new(repository, walk, &exceptions)?;
        let mut packs = HashSet::new();
        usage.pass(repository, walk, |usage, id, copies| {
            // The best there is must stay: a copy that is whole, as far as is known, and no delta, because deltas
            // are read against it.
            let is_base = usage.bases.contains(&BlobKey::new(&id));
            let rank = |copy: &Location| usage.rank(is_base, &exceptions.damaged, copy);
            let Some(best) = copies.iter().map(rank).max() else { return usage.lose(id) };
            let places = copies.iter().filter(|copy| rank(copy) == best);
            let places: Vec<_> = places.map(|copy| usage.rows[&copy.pack].info.id).collect();
            let stays = |pack: &PackId| !condemned.contains(pack) || packs.contains(pack);
            if !places.iter().any(stays) {
                packs.insert(places[0]);
            }
        })?;
        Ok(Rescue { packs, lost_blobs: usage.lost_blobs, lost_example: usage.lost_example })
    }
}

/// What must not be swept after all.
pub struct Rescue {
    /// Packs that hold the only copy of a needed blob.
    pub packs: HashSet<PackId>,
    /// Needed blobs that no pack has.
    pub lost_blobs: u64,
    /// The first of them.
    pub lost_example: Option<BlobId>,
}
