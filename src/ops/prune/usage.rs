//! What is needed from which pack: one pass over the index, ids in order.
//!
//! Of several copies of a blob one is chosen to stay, the same one whenever the same question is asked: a whole copy
//! before one in a damaged pack, one that is no delta before one that is, then the copy in the pack that most is
//! needed from anyway. Two stay where none is known to be whole, or none that deltas can be read against.
//! Memory: a row a pack, and where there are deltas about 20 bytes for each of them and for each of their bases; the
//! index is read in order and not held.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use super::lost::Lost;
use super::plan::PackUse;
use crate::format::header::ObjectKind;
use crate::format::pack::Encoding;
use crate::id::{BlobId, PackId, SessionId};
use crate::ops::references::BlobKey;
use crate::ops::walk::Walk;
use crate::repository::Repository;
use crate::repository::error::Result;
use crate::repository::index::{Location, PackInfo, SegmentPlace};

/// A pack of the index.
struct Row {
    info: PackInfo,
    /// How long it is in the store, if it is there.
    stored_length: Option<u64>,
    /// Its key is to stay.
    stays: bool,
    /// It belongs to a session that has not decided.
    is_busy: bool,
    blob_bytes: u64,
    used_bytes: u64,
    used_blobs: u64,
    /// A bit for each of its segments that holds something needed.
    used_segments: Vec<u64>,
}

impl Row {
    /// Requests that reading what is needed takes: header, directory, then segment by segment, or at once into the cache.
    fn read_requests(&self, keeps_trees: bool) -> u64 {
        2 + match keeps_trees && self.info.kind == ObjectKind::TreePack {
            true => 1,
            false => self.used_segments.iter().map(|bits| u64::from(bits.count_ones())).sum(),
        }
    }

    /// Whether its blobs can be counted on: it is in the store, as long as it should be, and its key is to stay.
    fn counts(&self) -> bool {
        self.stays && self.stored_length == Some(self.info.object_length)
    }

    fn has_unknown_segments(&self) -> bool {
        let mut segments = self.info.segments.iter();
        segments.any(|segment| matches!(segment.encoding, Encoding::Unknown(_)))
    }
}

/// What a copy of a blob is wanted for.
#[derive(Clone, Copy)]
enum Way {
    /// To be read.
    Read,
    /// To have deltas read against it.
    Base,
    /// To be read where no copy is known to be whole: the best of its deltas, beside the best of the others.
    Delta,
}

/// Which packs hold what is needed.
pub struct Usage {
    rows: BTreeMap<u32, Row>,
    /// What needed deltas are read against.
    bases: HashSet<BlobKey>,
    /// Deltas of which a base is in no pack that counts: they hold nothing that counts.
    broken: HashSet<SegmentPlace>,
    /// Deltas of which a base stands in damaged packs only.
    doubtful: HashSet<SegmentPlace>,
    /// Needed blobs that no pack has.
    pub lost: Lost,
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
    /// Packs that are in no index object, with their lengths, and that nobody will ever read.
    pub given_up: Vec<(PackId, u64)>,
}

impl Usage {
    /// The packs of the index, nothing counted yet.
    fn new(repository: &Repository, walk: &Walk<'_, '_>, exceptions: &Exceptions) -> Result<Self> {
        // Known first, listed then: what is added between the two is not taken for missing.
        let known = repository.cache().packs()?;
        let lengths = repository.lengths_of(&known)?;
        let rows = known.into_iter().map(|(number, info)| {
            let row = Row {
                stored_length: lengths.get(&info.id).copied(),
                stays: !exceptions.epochs.contains(&info.header.epoch),
                is_busy: exceptions.undecided.contains(&info.id.session),
                blob_bytes: 0,
                used_bytes: 0,
                used_blobs: 0,
                used_segments: vec![0; info.segments.len().div_ceil(64)],
                info,
            };
            (number, row)
        });
        let mut usage = Usage {
            rows: rows.collect(),
            bases: HashSet::new(),
            broken: HashSet::new(),
            doubtful: HashSet::new(),
            lost: Lost::default(),
            live_blobs: 0,
        };
        usage.follow_deltas(repository, walk, &exceptions.damaged)?;
        Ok(usage)
    }

    /// Counts what the blobs that `walk` has met need.
    pub fn count(
        repository: &Repository,
        walk: &Walk<'_, '_>,
        exceptions: &Exceptions,
    ) -> Result<Self> {
        let mut usage = Self::new(repository, walk, exceptions)?;
        // First what stands in one place only, so that the choice among copies knows where most is needed anyway.
        let found = usage.pass(repository, walk, |usage, id, copies| match copies {
            [] => usage.lost.add(BlobKey::new(&id)),
            [only] => usage.need(only),
            _ => {}
        })?;
        usage.lose_unknown(repository, walk, found)?;
        let needed: HashMap<u32, u64> =
            usage.rows.iter().map(|(number, row)| (*number, row.used_bytes)).collect();
        usage.pass(repository, walk, |usage, id, copies| {
            if copies.len() < 2 {
                return;
            }
            let mut before = None;
            for way in usage.ways(&id, copies, &exceptions.damaged) {
                let best = copies.iter().max_by_key(|copy| {
                    let rank = usage.rank(*way, &exceptions.damaged, copy);
                    (rank, needed.get(&copy.pack), Reverse(copy.pack))
                });
                // One may do for both.
                if let Some(best) = best.filter(|best| before != Some(**best)).copied() {
                    usage.need(&best);
                    before = Some(best);
                }
            }
        })?;
        Ok(usage)
    }

    /// How good a copy is: whole before damaged, as far as is known, and no delta before a delta.
    fn rank(&self, way: Way, damaged: &HashSet<PackId>, copy: &Location) -> (bool, bool) {
        let row = &self.rows[&copy.pack];
        let is_doubtful = self.doubtful.contains(&copy.place());
        let (whole, plain) = (!damaged.contains(&row.info.id) && !is_doubtful, !copy.is_delta);
        match way {
            Way::Read => (whole, plain),
            Way::Base => (plain, whole),
            Way::Delta => (!plain, whole),
        }
    }

    /// For what a blob's copies are wanted. What deltas are read against must above all be no delta; where no such copy is
    /// whole, a delta that is is wanted, too: it can be made plain again. And where nothing is known to be whole, the best
    /// of each sort is kept: either may turn out to be.
    fn ways(&self, id: &BlobId, copies: &[Location], damaged: &HashSet<PackId>) -> &'static [Way] {
        let is_base = self.bases.contains(&BlobKey::new(id));
        let mut whole = copies.iter().filter(|copy| self.rank(Way::Read, damaged, copy).0);
        match whole.clone().any(|copy| !copy.is_delta) {
            true if is_base => &[Way::Base],
            true => &[Way::Read],
            false if whole.next().is_none() => &[Way::Base, Way::Delta],
            false if is_base => &[Way::Base, Way::Read],
            false => &[Way::Read],
        }
    }

    fn need(&mut self, location: &Location) {
        if let Some(row) = self.rows.get_mut(&location.pack) {
            let (word, bit) = (location.segment as usize / 64, 1 << (location.segment % 64));
            let Some(word) = row.used_segments.get_mut(word) else { return };
            let is_first = *word & bit == 0;
            *word |= bit;
            row.used_blobs += 1;
            row.used_bytes += match (location.is_delta, is_first) {
                (false, _) => row.info.share(location),
                (true, true) => row.info.stored_length(location.segment),
                (true, false) => 0,
            };
        }
    }

    /// Whether its pack can be counted on.
    fn counts(&self, copy: &Location) -> bool {
        self.rows.get(&copy.pack).is_some_and(Row::counts)
    }

    /// The same, and that its pack is not known to be damaged.
    fn is_whole(&self, copy: &Location, damaged: &HashSet<PackId>) -> bool {
        let row = self.rows.get(&copy.pack);
        row.is_some_and(|row| row.counts() && !damaged.contains(&row.info.id))
    }

    /// The bases of deltas are needed as well: of all copies of a needed blob that has no plain one, because any of them
    /// may be the one that stays.
    fn follow_deltas(
        &mut self,
        repository: &Repository,
        walk: &Walk<'_, '_>,
        damaged: &HashSet<PackId>,
    ) -> Result<()> {
        if !self.rows.values().any(|row| row.info.has_deltas()) {
            return Ok(());
        }
        let cache = repository.cache();
        let mut needed = BTreeSet::new();
        let mut has_plain = None;
        for entry in cache.entries()? {
            let (id, location) = entry?;
            let place = location.place();
            if !location.is_delta || has_plain == Some(id) || needed.contains(&place) {
                continue;
            }
            let Some(row) = self.rows.get(&location.pack) else { continue };
            if !row.counts() || !walk.needs(row.info.kind, &id) {
                continue;
            }
            if cache.copies(&id)?.iter().any(|copy| !copy.is_delta && self.is_whole(copy, damaged))
            {
                has_plain = Some(id);
                continue;
            }
            needed.insert(place);
        }
        // Pack by pack, each of which is looked up once; and again for deltas of bases that stand nowhere whole and
        // plain, from which they can be made so.
        let mut seen = HashSet::new();
        while let Some(place) = needed.pop_first() {
            if !seen.insert(place) {
                continue;
            }
            let bases = cache.bases_of(place)?;
            let (mut is_readable, mut is_certain) = (true, true);
            for base in &bases {
                let copies = cache.copies(base)?;
                let mut plain = copies.iter().filter(|copy| !copy.is_delta);
                if plain.clone().any(|copy| self.is_whole(copy, damaged)) {
                    continue;
                }
                is_certain = false;
                is_readable &= plain.any(|copy| self.counts(copy));
                let deltas = copies.iter().filter(|copy| copy.is_delta && self.counts(copy));
                needed.extend(deltas.map(Location::place));
            }
            match is_readable {
                true => self.bases.extend(bases.iter().map(BlobKey::new)),
                false => drop(self.broken.insert(place)),
            }
            if !is_certain {
                self.doubtful.insert(place);
            }
        }
        Ok(())
    }

    /// What needed deltas are read against.
    pub fn into_bases(self) -> HashSet<BlobKey> {
        self.bases
    }

    /// Hands every needed blob that the index knows with the copies that count to `take`. Returns how many of them
    /// snapshots refer to.
    fn pass(
        &mut self,
        repository: &Repository,
        walk: &Walk<'_, '_>,
        mut take: impl FnMut(&mut Self, BlobId, &[Location]),
    ) -> Result<u64> {
        for row in self.rows.values_mut() {
            // A delta goes or stays as a whole, and counts for what it takes.
            let deltas = row.info.segments.iter().filter(|segment| segment.encoding.is_delta());
            row.blob_bytes = deltas.map(|segment| u64::from(segment.stored_length)).sum();
        }
        self.live_blobs = 0;
        let mut group: Vec<Location> = Vec::new();
        let mut kind = None;
        let mut current: Option<BlobId> = None;
        let mut found = 0;
        let mut end = |usage: &mut Self, id: Option<BlobId>, kind, group: &mut Vec<Location>| {
            if let (Some(id), Some(kind)) = (id, kind) {
                let is_referred_to = walk.needs(kind, &id);
                found += u64::from(is_referred_to);
                if is_referred_to || usage.bases.contains(&BlobKey::new(&id)) {
                    usage.live_blobs += 1;
                    take(usage, id, group);
                }
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
            row.blob_bytes += if location.is_delta { 0 } else { row.info.share(&location) };
            // No blob of one kind has the id of one of the other.
            kind = Some(row.info.kind);
            if row.counts() && !self.broken.contains(&location.place()) {
                group.push(location);
            }
        }
        end(self, current, kind, &mut group);
        Ok(found)
    }

    /// Counts what snapshots refer to and the index does not know as lost: of all that they refer to, so much was found.
    /// What holds it may be away, or could not be read.
    fn lose_unknown(
        &mut self,
        repository: &Repository,
        walk: &Walk<'_, '_>,
        found: u64,
    ) -> Result<()> {
        if found >= walk.trees.count() + walk.data.count() {
            return Ok(());
        }
        let mut keys = walk.trees.keys();
        keys.extend(walk.data.keys());
        keys.sort_unstable();
        // The index is in the same order.
        let mut keys = keys.into_iter().peekable();
        for entry in repository.cache().entries()? {
            let (id, location) = entry?;
            let known = BlobKey::new(&id);
            while let Some(key) = keys.next_if(|key| *key < known) {
                self.lost.add(key);
            }
            if self.rows.contains_key(&location.pack) {
                while keys.next_if_eq(&known).is_some() {}
            }
        }
        keys.for_each(|key| self.lost.add(key));
        Ok(())
    }

    /// What a plan is made of. Nothing is needed from packs that were cut short, nor from those that nobody can read:
    /// every needed blob stands in one that counts, or is lost.
    pub fn packs(&self, repository: &Repository, exceptions: &Exceptions) -> Vec<PackUse> {
        let newest = repository.sealer().newest_epoch();
        let target = u64::from(repository.settings().pack_length);
        let keeps_trees = repository.cache_folder().is_some();
        let rows = self.rows.values().filter_map(|row| Some((row, row.stored_length?)));
        let known = rows.map(|(row, stored_length)| PackUse {
            id: row.info.id,
            object_length: stored_length,
            blob_bytes: row.blob_bytes,
            used_bytes: row.used_bytes,
            used_blobs: row.used_blobs,
            untouchable: row.is_busy || row.has_unknown_segments(),
            unreadable: !row.counts(),
            read_requests: row.read_requests(keeps_trees),
            old_epoch: row.info.header.epoch != newest,
            small: row.info.object_length < target / 2,
            is_tree: row.info.kind == ObjectKind::TreePack,
        });
        let given_up = exceptions.given_up.iter().map(|(id, length)| PackUse {
            id: *id,
            object_length: *length,
            blob_bytes: 0,
            used_bytes: 0,
            used_blobs: 0,
            untouchable: exceptions.undecided.contains(&id.session),
            unreadable: true,
            read_requests: 0,
            old_epoch: false,
            small: false,
            is_tree: false,
        });
        known.chain(given_up).collect()
    }

    /// The packs among `condemned` without which a needed blob would be gone, and what is lost.
    pub fn rescue(
        repository: &Repository,
        walk: &Walk<'_, '_>,
        condemned: &[PackId],
        damaged: Arc<HashSet<PackId>>,
    ) -> Result<(HashSet<PackId>, Lost)> {
        let condemned: HashSet<&PackId> = condemned.iter().collect();
        let exceptions = Exceptions { damaged, ..Exceptions::default() };
        let mut usage = Self::new(repository, walk, &exceptions)?;
        let mut packs = HashSet::new();
        let found = usage.pass(repository, walk, |usage, id, copies| {
            // The best there is must stay: a copy that is whole, as far as is known, and no delta, because deltas
            // are read against it.
            for way in usage.ways(&id, copies, &exceptions.damaged) {
                let rank = |copy: &Location| usage.rank(*way, &exceptions.damaged, copy);
                let Some(best) = copies.iter().map(rank).max() else {
                    return usage.lost.add(BlobKey::new(&id));
                };
                let places = copies.iter().filter(|copy| rank(copy) == best);
                let places: Vec<_> = places.map(|copy| usage.rows[&copy.pack].info.id).collect();
                let stays = |pack: &PackId| !condemned.contains(pack) || packs.contains(pack);
                if !places.iter().any(stays) {
                    packs.insert(places[0]);
                }
            }
        })?;
        usage.lose_unknown(repository, walk, found)?;
        Ok((packs, usage.lost))
    }
}
