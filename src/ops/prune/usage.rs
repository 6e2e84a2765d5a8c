//! What is needed from which pack: the index and the marks, both in the order of ids, gone through side by side, range
//! by range on all cores.
//!
//! Of several copies of a blob one is chosen to stay, the same one whenever the same question is asked: a whole copy
//! before one in a damaged pack, one that is no delta before one that is, then the copy in the pack that most is
//! needed from anyway. Two stay where none is known to be whole, or none that deltas can be read against.
//! Memory: what the table of packs takes, and where there are deltas about 20 bytes for each of them and for each of
//! their bases; index and marks are read in order and not held.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use rayon::iter::{IntoParallelRefIterator, ParallelIterator};

use super::lost::Lost;
use super::plan::PackUse;
use super::table::PackTable;
use crate::format::header::ObjectKind;
use crate::id::{BlobId, BlobKey, PackId, SessionId};
use crate::repository::Repository;
use crate::repository::error::Result;
use crate::repository::index::cache::SortedEntries;
use crate::repository::index::{IdRange, Location, SegmentPlace};
use crate::repository::marks::{Mark, MarkRows, Marks, marks_error};

/// Entries of the index that a thread goes through at a time, about.
const RANGE_ENTRIES: u64 = 1 << 18;
/// Ranges, at most: each begins with reading 128 KiB of every run.
const RANGES: u64 = 64;

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
    table: PackTable,
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

/// What going through a range came to.
#[derive(Default)]
struct Part<T> {
    taken: T,
    /// Needed blobs that the index knows.
    live_blobs: u64,
    /// What snapshots refer to and the index does not know.
    unknown: Lost,
}

/// A blob that snapshots refer to, and whether the index was seen to know it.
struct Wanted {
    key: BlobKey,
    from_trees: bool,
    from_data: bool,
    is_known: bool,
}

/// The marks of a range, held against the ids of the index in order.
struct Wants {
    rows: MarkRows,
    next: Option<Mark>,
    current: Option<Wanted>,
    unknown: Lost,
}

impl Wants {
    fn new(marks: &Marks, range: IdRange) -> Result<Self> {
        let mut wants =
            Wants { rows: marks.rows(range), next: None, current: None, unknown: Lost::default() };
        wants.next = wants.rows.next().transpose().map_err(marks_error)?;
        wants.advance()?;
        Ok(wants)
    }

    /// Goes on to the next blob. One that the index does not know is lost: what holds it may be away, or could not be
    /// read.
    fn advance(&mut self) -> Result<()> {
        if let Some(before) = self.current.take().filter(|before| !before.is_known) {
            let kinds = [before.from_trees, before.from_data];
            kinds.iter().filter(|is_one| **is_one).for_each(|_| self.unknown.add(before.key));
        }
        while let Some(mark) = self.next {
            let wanted = self.current.get_or_insert(Wanted {
                key: mark.key,
                from_trees: false,
                from_data: false,
                is_known: false,
            });
            if wanted.key != mark.key {
                break;
            }
            wanted.from_trees |= mark.is_tree();
            wanted.from_data |= !mark.is_tree();
            self.next = self.rows.next().transpose().map_err(marks_error)?;
        }
        Ok(())
    }

    /// Whether snapshots refer to this blob of a pack of this kind, which the index knows.
    fn refer_to(&mut self, id: &BlobId, is_tree: bool) -> Result<bool> {
        let key = BlobKey::new(id);
        while self.current.as_ref().is_some_and(|wanted| wanted.key < key) {
            self.advance()?;
        }
        let Some(wanted) = self.current.as_mut().filter(|wanted| wanted.key == key) else {
            return Ok(false);
        };
        wanted.is_known = true;
        // No blob of one kind has the id of one of the other.
        Ok(if is_tree { wanted.from_trees } else { wanted.from_data })
    }

    fn finish(mut self) -> Result<Lost> {
        while self.current.is_some() {
            self.advance()?;
        }
        Ok(self.unknown)
    }
}

/// What index and marks are gone through for.
struct Passing<'p> {
    entries: SortedEntries,
    marks: &'p Marks,
    ranges: Vec<IdRange>,
}

impl<'p> Passing<'p> {
    fn new(repository: &Repository, marks: &'p Marks) -> Self {
        let entries = repository.cache().sorted();
        let ranges = (entries.count() / RANGE_ENTRIES).clamp(1, RANGES);
        Passing { entries, marks, ranges: IdRange::split(ranges as u32) }
    }
}

impl Usage {
    /// The packs of the index, nothing counted yet.
    fn new(
        repository: &Repository,
        passing: &Passing<'_>,
        exceptions: &Exceptions,
    ) -> Result<Self> {
        let mut usage = Usage {
            table: PackTable::new(repository, exceptions)?,
            bases: HashSet::new(),
            broken: HashSet::new(),
            doubtful: HashSet::new(),
            lost: Lost::default(),
            live_blobs: 0,
        };
        usage.follow_deltas(repository, passing)?;
        Ok(usage)
    }

    /// Counts what is needed.
    pub fn count(repository: &Repository, marks: &Marks, exceptions: &Exceptions) -> Result<Self> {
        let passing = Passing::new(repository, marks);
        let mut usage = Self::new(repository, &passing, exceptions)?;
        // First what stands in one place only, so that the choice among copies knows where most is needed anyway.
        let counted =
            usage.pass(&passing, true, |usage, (lost, has_several), id, copies| match copies {
                [] => Lost::add(lost, BlobKey::new(id)),
                [only] => usage.table.need(only),
                _ => *has_several = true,
            })?;
        let mut has_several = false;
        for part in &counted {
            let (lost, part_has_several) = &part.taken;
            usage.lost.add_all(lost);
            usage.live_blobs += part.live_blobs;
            has_several |= part_has_several;
        }
        counted.iter().for_each(|part| usage.lost.add_all(&part.unknown));
        if !has_several {
            return Ok(usage);
        }
        let needed = usage.table.used_bytes();
        usage.pass(&passing, false, |usage, (), id, copies| {
            if copies.len() < 2 {
                return;
            }
            let mut before = None;
            for way in usage.ways(id, copies) {
                let best = copies.iter().max_by_key(|copy| {
                    let row = usage.table.row(copy.pack);
                    let needed = row.map(|row| needed[row.row as usize]);
                    (usage.rank(*way, copy), needed, Reverse(copy.pack))
                });
                // One may do for both.
                if let Some(best) = best.filter(|best| before != Some(**best)).copied() {
                    usage.table.need(&best);
                    before = Some(best);
                }
            }
        })?;
        Ok(usage)
    }

    /// How good a copy is: whole before damaged, as far as is known, and no delta before a delta.
    fn rank(&self, way: Way, copy: &Location) -> (bool, bool) {
        let is_damaged = self.table.row(copy.pack).is_some_and(|row| row.is_damaged);
        let is_doubtful = copy.is_delta && self.doubtful.contains(&copy.place());
        let (whole, plain) = (!is_damaged && !is_doubtful, !copy.is_delta);
        match way {
            Way::Read => (whole, plain),
            Way::Base => (plain, whole),
            Way::Delta => (!plain, whole),
        }
    }

    /// For what a blob's copies are wanted. What deltas are read against must above all be no delta; where no such copy is
    /// whole, a delta that is is wanted, too: it can be made plain again. And where nothing is known to be whole, the best
    /// of each sort is kept: either may turn out to be.
    fn ways(&self, id: &BlobId, copies: &[Location]) -> &'static [Way] {
        let is_base = self.bases.contains(&BlobKey::new(id));
        let mut whole = copies.iter().filter(|copy| self.rank(Way::Read, copy).0);
        match whole.clone().any(|copy| !copy.is_delta) {
            true if is_base => &[Way::Base],
            true => &[Way::Read],
            false if whole.next().is_none() => &[Way::Base, Way::Delta],
            false if is_base => &[Way::Base, Way::Read],
            false => &[Way::Read],
        }
    }

    /// Whether its pack can be counted on.
    fn counts(&self, copy: &Location) -> bool {
        self.table.row(copy.pack).is_some_and(|row| row.counts)
    }

    /// The same, and that its pack is not known to be damaged.
    fn is_whole(&self, copy: &Location) -> bool {
        self.table.row(copy.pack).is_some_and(|row| row.counts && !row.is_damaged)
    }

    /// The bases of deltas are needed as well: of all copies of a needed blob that has no plain one, because any of them
    /// may be the one that stays.
    fn follow_deltas(&mut self, repository: &Repository, passing: &Passing<'_>) -> Result<()> {
        if !self.table.has_deltas() {
            return Ok(());
        }
        let cache = repository.cache();
        let found = self.pass(passing, false, |usage, places: &mut BTreeSet<_>, _, copies| {
            let is_whole_and_plain = |copy: &Location| !copy.is_delta && usage.is_whole(copy);
            if !copies.iter().any(is_whole_and_plain) {
                let deltas = copies.iter().filter(|copy| copy.is_delta);
                places.extend(deltas.map(Location::place));
            }
        })?;
        let mut needed = BTreeSet::new();
        found.into_iter().for_each(|mut part| needed.append(&mut part.taken));
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
                if plain.clone().any(|copy| self.is_whole(copy)) {
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

    /// Hands every needed blob that the index knows with the copies that count to `take`, range by range, and counts what
    /// packs hold, if that is wanted. Returns what was taken from each range, in order.
    fn pass<T: Default + Send>(
        &self,
        passing: &Passing<'_>,
        holds: bool,
        take: impl Fn(&Self, &mut T, &BlobId, &[Location]) + Sync,
    ) -> Result<Vec<Part<T>>> {
        let ranges = passing.ranges.par_iter();
        ranges.map(|range| self.pass_range(passing, *range, holds, &take)).collect()
    }

    fn pass_range<T: Default>(
        &self,
        passing: &Passing<'_>,
        range: IdRange,
        holds: bool,
        take: &impl Fn(&Self, &mut T, &BlobId, &[Location]),
    ) -> Result<Part<T>> {
        let mut part = Part { taken: T::default(), live_blobs: 0, unknown: Lost::default() };
        let mut wants = Wants::new(passing.marks, range)?;
        let mut copies: Vec<Location> = Vec::new();
        let mut end = |id: Option<BlobId>, is_tree, copies: &mut Vec<Location>| -> Result<()> {
            if let (Some(id), Some(is_tree)) = (id, is_tree) {
                let is_base = || self.bases.contains(&BlobKey::new(&id));
                if wants.refer_to(&id, is_tree)? || is_base() {
                    part.live_blobs += 1;
                    take(self, &mut part.taken, &id, copies);
                }
            }
            copies.clear();
            Ok(())
        };
        let (mut current, mut is_tree): (Option<BlobId>, Option<bool>) = (None, None);
        for entry in passing.entries.between(range)? {
            let (id, location) = entry?;
            if current != Some(id) {
                end(current, is_tree, &mut copies)?;
                (current, is_tree) = (Some(id), None);
            }
            let Some(row) = self.table.row(location.pack) else { continue };
            if holds {
                self.table.hold(row, &location);
            }
            is_tree = Some(row.is_tree);
            if row.counts && !(location.is_delta && self.broken.contains(&location.place())) {
                copies.push(location);
            }
        }
        end(current, is_tree, &mut copies)?;
        part.unknown = wants.finish()?;
        Ok(part)
    }

    /// What a plan is made of. Nothing is needed from packs that were cut short, nor from those that nobody can read:
    /// every needed blob stands in one that counts, or is lost.
    pub fn packs(&self, repository: &Repository, exceptions: &Exceptions) -> Vec<PackUse> {
        let newest = repository.sealer().newest_epoch();
        let settings = repository.settings();
        let keeps_trees = repository.cache_folder().is_some();
        let known = self.table.counted().filter_map(|pack| {
            let info = &pack.described.info;
            Some(PackUse {
                id: info.id,
                object_length: pack.described.stored_length?,
                blob_bytes: pack.blob_bytes,
                used_bytes: pack.used_bytes,
                used_blobs: pack.used_blobs,
                untouchable: pack.described.is_busy || pack.described.has_unknown_segments,
                unreadable: !pack.counts,
                read_requests: pack.read_requests(keeps_trees),
                old_epoch: info.header.epoch != newest,
                small: info.object_length < settings.pack_length_of(info.kind) / 2,
                is_tree: info.kind == ObjectKind::TreePack,
            })
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
        marks: &Marks,
        condemned: &[PackId],
        damaged: Arc<HashSet<PackId>>,
    ) -> Result<(HashSet<PackId>, Lost)> {
        let exceptions = Exceptions { damaged, ..Exceptions::default() };
        let passing = Passing::new(repository, marks);
        let usage = Self::new(repository, &passing, &exceptions)?;
        let condemned = usage.table.rows_of(&condemned.iter().collect());
        let rescuing = usage.pass(&passing, false, |usage, (lost, wanted), id, copies| {
            // The best there is must stay: a copy that is whole, as far as is known, and no delta, because deltas
            // are read against it.
            for way in usage.ways(id, copies) {
                let rank = |copy: &Location| usage.rank(*way, copy);
                let Some(best) = copies.iter().map(rank).max() else {
                    return Lost::add(lost, BlobKey::new(id));
                };
                let places = copies.iter().filter(|copy| rank(copy) == best);
                let rows = places.filter_map(|copy| usage.table.row(copy.pack));
                Alternatives::add(wanted, rows.map(|row| row.row), &condemned);
            }
        })?;
        // One after another in the order of ids: what is chosen for one does for those that follow.
        let mut rescued = HashSet::new();
        let mut lost = Lost::default();
        for part in &rescuing {
            let (part_lost, wanted) = &part.taken;
            lost.add_all(part_lost);
            for rows in &wanted.rows {
                if !rows.iter().any(|row| rescued.contains(row)) {
                    rescued.insert(rows[0]);
                }
            }
        }
        rescuing.iter().for_each(|part| lost.add_all(&part.unknown));
        let packs = rescued.iter().map(|row| usage.table.id_of(*row)).collect();
        Ok((packs, lost))
    }
}

/// Packs of which one must stay each, all of them condemned: each list once, in the order in which they were met.
#[derive(Default)]
struct Alternatives {
    rows: Vec<Vec<u32>>,
    seen: HashSet<Vec<u32>>,
}

impl Alternatives {
    fn add(&mut self, rows: impl Iterator<Item = u32>, condemned: &HashSet<u32>) {
        let mut all = Vec::new();
        for row in rows {
            if !condemned.contains(&row) {
                return;
            }
            all.push(row);
        }
        if !all.is_empty() && !self.seen.contains(&all) {
            self.seen.insert(all.clone());
            self.rows.push(all);
        }
    }
}
