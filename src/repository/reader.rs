//! Blobs out: id → place → segment → bytes, checked against the id.
//!
//! A segment is fetched, unsealed and decompressed once and kept while memory allows; whoever asks for a
//! segment that another thread is fetching waits for that thread. From a store far away or a disk it is fetched before anybody asks
//! for it, where it was said what will be read (`ahead`).

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, OnceLock};

use parking_lot::{Mutex, RwLock};

use super::Repository;
use super::ahead::{Ahead, Wanted};
use super::deferred::Deferred;
use super::error::{Kind, Named, RepositoryError, Result};
use super::index::cache::Excluded;
use super::index::{Location, PackInfo, SegmentPlace};
use super::mend::plain_length;
pub use super::opened::Blob;
use super::opened::{Opened, Prefix, Spare};
use super::seal::{frames_covering, unseal_range};
use super::segments::{Awaited, Segments};
use super::verify::is_damage;
use crate::codec::compress::Decompressor;
use crate::format::header::ObjectKind;
use crate::format::pack::{Encoding, SEGMENT_LENGTH_MAX};
use crate::id::{BlobId, PackId};
use crate::store::{self, layout};

/// What is fetched ahead has one part in so many of a reader's budget: 7 MiB of the 44 of a restore, for seven requests.
const AHEAD_SHARE: u64 = 6;
/// Where all that will be read is known, and long, as it does not compress, twice as much: little of it is needed twice, and kept.
const AHEAD_SHARE_MOST: u64 = 3;

/// Reads blobs of one repository. Shared by threads.
pub struct BlobReader<'a> {
    repository: &'a Repository,
    segments: Mutex<Segments>,
    spare: Spare,
    decompressors: Mutex<Vec<Decompressor>>,
    /// Memory for the bases of a delta, as much for each thread that opens one.
    prefixes: Mutex<Vec<Prefix>>,
    failing: Mutex<HashSet<PackId>>,
    /// Where blobs are that have one copy, of those that somebody has said will be read.
    located: RwLock<HashMap<BlobId, Location>>,
    budget: u64,
    /// Fetches what was said to be read, from a store far away or a disk. A part of the budget is its own.
    ahead: OnceLock<Option<Ahead>>,
    /// What is proven when it is opened.
    deferred: OnceLock<Arc<Deferred>>,
}

impl<'a> BlobReader<'a> {
    /// A reader that keeps up to `budget` bytes of opened segments, and of those that it fetches ahead.
    pub fn new(repository: &'a Repository, budget: u64) -> Self {
        BlobReader {
            repository,
            segments: Mutex::default(),
            spare: Spare::for_budget(budget),
            decompressors: Mutex::default(),
            prefixes: Mutex::default(),
            failing: Mutex::default(),
            located: RwLock::default(),
            budget,
            ahead: OnceLock::new(),
            deferred: OnceLock::new(),
        }
    }

    /// Proves what was left for later, from now on, when it is opened. Once.
    pub fn prove_when_opened(&self, deferred: Arc<Deferred>) {
        self.deferred.get_or_init(|| deferred);
    }

    /// A reader for going through directories, with its part of the memory that a command may use.
    pub fn for_a_walk(repository: &'a Repository, memory_budget: u64) -> Self {
        Self::new(repository, (memory_budget / 8).min(16 << 20))
    }

    /// A reader that shares the memory that a command may use with a writer's packs.
    pub fn beside_a_writer(repository: &'a Repository, memory_budget: u64) -> Self {
        Self::new(repository, (memory_budget / 8).max(8 << 20))
    }

    /// The repository that is read.
    pub fn repository(&self) -> &'a Repository {
        self.repository
    }

    /// The packs in which a blob was not as it should be, though another copy of it may have been.
    pub fn take_failing(&self) -> HashSet<PackId> {
        std::mem::take(&mut self.failing.lock())
    }

    /// Looks up where these blobs are, all at once: each is asked for three times until it is written, and a look-up alone
    /// reads a block of the index. What was looked up before is forgotten. About 120 bytes a blob.
    pub fn locate_all(&self, blobs: Vec<BlobId>) {
        // Whoever asks for one that is not found here will be told why.
        let located = self.repository.cache.single_copies(blobs).unwrap_or_default();
        *self.located.write() = located;
    }

    /// Looks up what the deltas among these blobs are read against, too. About 120 bytes a base.
    pub fn locate_bases(&self) {
        let cache = &self.repository.cache;
        let located = self.located.read();
        let deltas = located.values().filter(|it| it.is_delta).map(Location::place);
        let mut deltas: Vec<_> = deltas.map(|place| (place.pack, place.segment)).collect();
        drop(located);
        // Together those of a pack, of which not all are kept decoded.
        deltas.sort_unstable();
        deltas.dedup();
        let of_delta = |(pack, segment)| cache.bases_of(SegmentPlace { pack, segment });
        let bases: HashSet<BlobId> = deltas.into_iter().flat_map(of_delta).flatten().collect();
        if !bases.is_empty() {
            let found = cache.single_copies(bases.into_iter().collect()).unwrap_or_default();
            self.located.write().extend(found);
        }
    }

    fn located(&self, id: &BlobId) -> Option<Location> {
        self.located.read().get(id).copied()
    }

    /// Says which blobs will be read next, in about this order, each as often as it will be: a segment is kept until the
    /// last of them was read, and longer only where there is room; which goes first where there is not, `segments` tells. What
    /// was said before is void. From a store far away or a disk they are fetched ahead. Four bytes a blob, and 150 a segment.
    pub fn await_only<'b>(&self, blobs: impl IntoIterator<Item = &'b BlobId>) {
        let mut awaited: HashMap<SegmentPlace, Awaited> = HashMap::new();
        let (segments, deltas) = self.segments_of(blobs, |order, place| {
            let fresh = || Awaited { length: self.opened_length(place), orders: VecDeque::new() };
            awaited.entry(place).or_insert_with(fresh).orders.push_back(order);
        });
        self.segments.lock().replace_awaited(awaited, deltas);
        if let Some(ahead) = self.ahead() {
            ahead.replace(self.wanted(segments));
            // What is fetched may have more room than before, and what is open less. What goes was not wanted a moment ago, as it
            // was open, and will be read when it is needed: it is what is needed last.
            let budget = self.opened_budget();
            self.segments.lock().trim(budget, None);
        }
    }

    /// Says which blobs will be read besides, in about this order: from a store far away or a disk they are fetched ahead. Says
    /// nothing of how long their segments are needed.
    pub fn expect<'b>(&self, blobs: impl IntoIterator<Item = &'b BlobId>) {
        if let Some(ahead) = self.ahead() {
            ahead.add(self.wanted(self.segments_of(blobs, |_, _| {}).0));
        }
    }

    /// Says which segments will be read besides, in about this order: they are fetched ahead as those of [`BlobReader::expect`].
    pub(super) fn expect_segments(&self, segments: Vec<SegmentPlace>) {
        if !segments.is_empty()
            && let Some(ahead) = self.ahead()
        {
            ahead.add(self.wanted(segments));
        }
    }

    /// The segments that these blobs are read from, as they are met first: the bases of a delta that is not open before it. `met`
    /// is told each time, with how many blobs come before. And those deltas.
    fn segments_of<'b>(
        &self,
        blobs: impl IntoIterator<Item = &'b BlobId>,
        mut met: impl FnMut(u32, SegmentPlace),
    ) -> (Vec<SegmentPlace>, HashSet<SegmentPlace>) {
        let (mut segments, mut known) = (Vec::new(), HashSet::new());
        let mut meet = |order: usize, place: SegmentPlace| {
            met(order as u32, place);
            if known.insert(place) {
                segments.push(place);
            }
        };
        let mut deltas = HashSet::new();
        for (order, blob) in blobs.into_iter().enumerate() {
            // What is not found, or cannot be, will be an error when it is read.
            let Ok(location) = self.locate(blob) else { continue };
            let is_unopened = |place| !self.segments.lock().contains(place);
            if location.is_delta
                && !deltas.contains(&location.place())
                && is_unopened(location.place())
            {
                deltas.insert(location.place());
                for base in self.repository.cache.bases(&location).unwrap_or_default() {
                    if let Ok(Some(base)) = self.base_location(&base) {
                        meet(order, base.place());
                    }
                }
            }
            meet(order, location.place());
        }
        (segments, deltas)
    }

    /// What fetches ahead, if anything does.
    fn ahead(&self) -> Option<&Ahead> {
        let budgets = self.budget / AHEAD_SHARE..=self.budget / AHEAD_SHARE_MOST;
        let begin = || self.repository.fetches_parts_ahead(budgets);
        self.ahead.get_or_init(begin).as_ref()
    }

    /// The bytes of those of these segments that lie in data packs and are not open.
    fn wanted(&self, segments: Vec<SegmentPlace>) -> Vec<Wanted> {
        let mut wanted = Vec::with_capacity(segments.len());
        for place in segments {
            if self.segments.lock().contains(place) {
                continue;
            }
            let Ok(pack) = self.repository.cache.pack(place.pack) else { continue };
            let segment = pack.segments.get(place.segment as usize);
            let total = plain_length(&pack.header, pack.object_length);
            // Packs of trees are kept in the local cache, whole.
            let (Some(segment), Some(total), ObjectKind::DataPack) = (segment, total, pack.kind)
            else {
                continue;
            };
            let length = u64::from(segment.stored_length);
            if segment.offset + length <= total {
                let (range, _) = frames_covering(segment.offset, length, total);
                wanted.push(Wanted {
                    pack: pack.id,
                    offset: segment.offset,
                    range,
                    is_whole: false,
                });
            }
        }
        wanted
    }

    /// Bytes of opened segments that are kept.
    fn opened_budget(&self) -> u64 {
        match self.ahead.get() {
            Some(Some(ahead)) => self.budget - ahead.budget(),
            _ => self.budget,
        }
    }

    /// Bytes of a segment when it is opened; 0 if the index does not know it.
    fn opened_length(&self, place: SegmentPlace) -> u64 {
        let pack = self.repository.cache.pack(place.pack).ok();
        let segment = pack.as_ref().and_then(|pack| pack.segments.get(place.segment as usize));
        segment.map_or(0, |segment| u64::from(segment.plain_length))
    }

    /// A blob of this segment was read.
    fn was_read(&self, place: SegmentPlace) {
        self.segments.lock().was_read(place, self.opened_budget());
    }

    /// Where the blob is: its first copy.
    pub fn locate(&self, id: &BlobId) -> Result<Location> {
        match self.located(id) {
            Some(location) => Ok(location),
            None => self.copies(id).map(|copies| copies[0]),
        }
    }

    /// Where reading the blob begins: its first copy, or, if that is a delta, the first base.
    pub fn first_read(&self, id: &BlobId) -> Result<Location> {
        let location = self.locate(id)?;
        let Some(base) = self.repository.cache.bases(&location)?.first().copied() else {
            return Ok(location);
        };
        Ok(self.base_location(&base)?.unwrap_or(location))
    }

    /// The packs that reading the blob takes, by the cache's numbers: its own, and those of what it is read against.
    pub fn packs_of(&self, id: &BlobId) -> Result<Vec<u32>> {
        let location = self.locate(id)?;
        let mut packs = vec![location.pack];
        if location.is_delta {
            for base in self.repository.cache.bases(&location)? {
                packs.extend(self.base_location(&base)?.map(|base| base.pack));
            }
        }
        Ok(packs)
    }

    /// Every place that has the blob, at least one. A blob that the index does not know is looked for in
    /// the packs that no index object lists, once.
    fn copies(&self, id: &BlobId) -> Result<Vec<Location>> {
        let mut copies = self.repository.cache.copies(id)?;
        if copies.is_empty() && self.repository.adopt_once()? {
            copies = self.repository.cache.copies(id)?;
        }
        if copies.is_empty() {
            self.repository.require_readable_packs()?;
            return Err(RepositoryError::new(
                Kind::NotFound,
                format!("blob {}", id.short()),
                "is in no pack that the repository has",
            ));
        }
        if copies.len() > 1 {
            // A plain copy takes one segment, and a delta may lack its bases.
            copies.sort_by_key(|location| location.is_delta);
            self.put_damaged_last(&mut copies)?;
        }
        Ok(copies)
    }

    /// Copies in packs that are known to be damaged come last: they may still be whole.
    fn put_damaged_last(&self, copies: &mut [Location]) -> Result<()> {
        let damaged = self.repository.known_damaged_packs();
        if damaged.is_empty() {
            return Ok(());
        }
        let mut packs = HashSet::new();
        for location in copies.iter() {
            let pack = self.repository.cache.pack(location.pack)?;
            if damaged.contains(&pack.id) {
                packs.insert(location.pack);
            }
        }
        copies.sort_by_key(|location| packs.contains(&location.pack));
        Ok(())
    }

    /// A chunk of a file.
    pub fn data(&self, id: &BlobId) -> Result<Blob> {
        self.read(id, ObjectKind::DataPack)
    }

    /// What the index has in the chunk's place, which may be another: for who has a digest of all that is read, reads
    /// again with [`BlobReader::data`] where that is wrong, and need not have each byte hashed twice.
    pub fn unproven_data(&self, id: &BlobId) -> Result<Blob> {
        let location = match self.located(id) {
            Some(location) => location,
            None => match self.copies(id)?[..] {
                [location] => location,
                _ => return self.data(id),
            },
        };
        match self.fetch_unproven(id, ObjectKind::DataPack, location) {
            Err(error) if is_damage(&error) => self.data(id),
            fetched => fetched,
        }
    }

    /// A node of a directory or of a chunk list.
    pub fn tree(&self, id: &BlobId) -> Result<Blob> {
        self.read(id, ObjectKind::TreePack)
    }

    /// When no copy is whole, there may be one in a pack that no index object lists.
    fn read(&self, id: &BlobId, kind: ObjectKind) -> Result<Blob> {
        if let Some(location) = self.located(id) {
            match self.fetch(id, kind, location) {
                Err(error) if is_damage(&error) => {}
                fetched => return fetched,
            }
        }
        let copies = self.copies(id)?;
        let read = self.first_whole(id, kind, &copies);
        let is_damaged = read.as_ref().is_err_and(is_damage);
        if !is_damaged || !self.repository.adopt_once().unwrap_or(false) {
            return read;
        }
        let mut more = self.copies(id)?;
        more.retain(|location| !copies.contains(location));
        match more.is_empty() {
            true => read,
            false => self.first_whole(id, kind, &more),
        }
    }

    /// The first copy that is whole; when none is, the first copy's damage.
    fn first_whole(&self, id: &BlobId, kind: ObjectKind, copies: &[Location]) -> Result<Blob> {
        let mut damage = None;
        for location in copies {
            match self.fetch(id, kind, *location) {
                Ok(blob) => return Ok(blob),
                Err(error) => {
                    if is_damage(&error) {
                        let pack = self.repository.cache.pack(location.pack)?;
                        self.failing.lock().insert(pack.id);
                    }
                    damage.get_or_insert(error);
                }
            }
        }
        Err(damage.unwrap_or_else(|| {
            RepositoryError::new(Kind::NotFound, format!("blob {}", id.short()), "has no copy")
        }))
    }

    /// The copy of a blob in this place, whatever others there are.
    pub fn fetch(&self, id: &BlobId, kind: ObjectKind, location: Location) -> Result<Blob> {
        let mut blob = self.fetch_unproven(id, kind, location)?;
        let mut found = self.repository.name_of(kind, &blob);
        if found != *id && location.is_delta {
            // It may be what it was read against that is another.
            blob = self.fetch_against(id, kind, location, true)?;
            found = self.repository.name_of(kind, &blob);
        }
        if found != *id {
            let message = format!("its place holds another blob, {}", found.short());
            return Err(RepositoryError::corrupt(format!("blob {}", id.short()), message));
        }
        Ok(blob)
    }

    fn fetch_unproven(&self, id: &BlobId, kind: ObjectKind, location: Location) -> Result<Blob> {
        let fetched = self.fetch_against(id, kind, location, false)?;
        self.was_read(location.place());
        Ok(fetched)
    }

    /// What there is in this place: if it is a delta, read against bases that are proven or not.
    fn fetch_against(
        &self,
        id: &BlobId,
        kind: ObjectKind,
        location: Location,
        is_proven: bool,
    ) -> Result<Blob> {
        let item = || format!("blob {}", id.short());
        let pack = self.repository.cache.pack(location.pack)?;
        if pack.kind != kind {
            let message = format!("is in a {}", pack.kind.name());
            return Err(RepositoryError::corrupt(item(), message));
        }
        let segment = self.segment(&pack, location.place(), is_proven)?;
        let start = location.offset as usize;
        let range = start..start + location.length as usize;
        if range.end > segment.plain.len() {
            return Err(RepositoryError::corrupt(item(), "reaches beyond its segment"));
        }
        Ok(Blob::new(segment, range))
    }

    /// The plaintext of a segment. The bases of a delta are not held against their names at first: each byte that comes out
    /// is, so they would be hashed for nothing, each as often as it is a base. Only if what came out is wrong, or nothing
    /// does, they are asked for once more, proven.
    fn segment(
        &self,
        pack: &PackInfo,
        place: SegmentPlace,
        is_proven: bool,
    ) -> Result<Arc<Opened>> {
        let slot = self.segments.lock().slot(place);
        let mut content = slot.lock();
        if let Some(opened) = content.as_ref().filter(|opened| opened.is_proven || !is_proven) {
            return Ok(opened.clone());
        }
        content.take();
        let encoding = pack.segments.get(place.segment as usize).map(|info| &info.encoding);
        let is_delta = encoding.is_some_and(Encoding::is_delta);
        let mut is_proven = is_proven || !is_delta;
        let mut loaded = self.load_segment(pack, place, is_proven);
        if !is_proven && loaded.as_ref().is_err_and(is_damage) {
            is_proven = true;
            loaded = self.load_segment(pack, place, is_proven);
        }
        match loaded {
            Ok(plain) => {
                let length = plain.len() as u64;
                let opened = Arc::new(Opened::new(plain, &self.spare, is_proven));
                *content = Some(opened.clone());
                drop(content);
                let budget = self.opened_budget();
                self.segments.lock().was_opened(place, &slot, length, budget);
                Ok(opened)
            }
            Err(error) => {
                self.segments.lock().drop_failed(place, &slot);
                Err(error)
            }
        }
    }

    fn load_segment(
        &self,
        pack: &PackInfo,
        place: SegmentPlace,
        is_proven: bool,
    ) -> Result<Vec<u8>> {
        let name = layout::pack(pack.id);
        let segment = place.segment;
        let info = pack
            .segments
            .get(segment as usize)
            .ok_or_else(|| RepositoryError::corrupt(&name, format!("has no segment {segment}")))?;
        let mut prefix = Prefix::default();
        match &info.encoding {
            Encoding::Delta(bases) => {
                prefix = self.prefixes.lock().pop().unwrap_or_default();
                let are_awaited = self.segments.lock().begin_delta(place);
                self.fill_prefix(pack.kind, &name, bases, is_proven, are_awaited, &mut prefix)?;
            }
            Encoding::Unknown(number) => {
                return Err(RepositoryError::new(
                    Kind::Newer,
                    name,
                    format!("segment {segment} has encoding {number}; use a newer Aumbry"),
                ));
            }
            Encoding::Stored | Encoding::Zstd => {}
        }
        let stored = self.read_stored(pack, info.offset, info.stored_length as usize)?;
        let plain_length = info.plain_length as usize;
        if info.encoding == Encoding::Stored {
            return Ok(stored);
        }
        let mut decompressor = match self.decompressors.lock().pop() {
            Some(decompressor) => decompressor,
            None => Decompressor::new().named(&name)?,
        };
        let mut plain = self.spare.take(plain_length);
        decompressor
            .decompress_into(&stored, &prefix, plain_length, &mut plain)
            .named(format!("{name}, segment {segment}"))?;
        self.decompressors.lock().push(decompressor);
        store::give_back(stored);
        if info.encoding.is_delta() {
            prefix.clear();
            self.prefixes.lock().push(prefix);
        } else if let Some(deferred) = self.deferred.get() {
            let name = |blob: &[u8]| self.repository.name_of(pack.kind, blob);
            deferred.opened((pack.id, segment), &plain, name);
        }
        Ok(plain)
    }

    /// Makes `prefix` the plaintexts of a delta's bases, one after another. Only copies in segments that are
    /// no deltas count, so reading one blob never follows a chain. Proven or not: [`BlobReader::segment`]. `are_awaited`: somebody has said that they will
    /// be read, and now they are. Those that are proven because something was damaged count as read whether they were awaited or not: then
    /// some may be opened once more than they had to.
    pub(super) fn fill_prefix(
        &self,
        kind: ObjectKind,
        name: &str,
        bases: &[BlobId],
        is_proven: bool,
        are_awaited: bool,
        prefix: &mut Prefix,
    ) -> Result<()> {
        prefix.clear();
        for base in bases {
            let blob = match is_proven {
                true => self.base(kind, name, base)?,
                false => self.unproven_base(kind, name, base, are_awaited)?,
            };
            if (prefix.len() + blob.len()) as u64 > SEGMENT_LENGTH_MAX {
                return Err(RepositoryError::corrupt(name, "a delta with too long a prefix"));
            }
            prefix.push(blob);
        }
        Ok(())
    }

    /// One base of the delta that is called `name`.
    pub(super) fn base(&self, kind: ObjectKind, name: &str, base: &BlobId) -> Result<Blob> {
        let mut copies = self.copies(base)?;
        copies.retain(|location| !location.is_delta);
        if copies.is_empty() {
            return Err(RepositoryError::corrupt(name, "a delta against a delta"));
        }
        self.first_whole(base, kind, &copies)
    }

    /// While another thread opens the segment of `now`, the first base of a delta, opens that of `later`, the last base of a later
    /// delta, unless it is open or somebody opens it, rather than to wait. Two packs that were filled at the same time are
    /// read against the same bases.
    pub(super) fn open_meanwhile(&self, now: Option<&BlobId>, later: Option<&BlobId>) {
        // What is not found, or cannot be read, will be an error when it is needed.
        let place = |base: Option<&BlobId>| {
            let location = self.base_location(base?).ok().flatten();
            location.map(|location| location.place())
        };
        if place(now).is_some_and(|now| self.segments.lock().is_in_use(now))
            && let Some(later) = place(later)
            && !self.segments.lock().contains(later)
            && let Ok(pack) = self.repository.cache.pack(later.pack)
        {
            let _ = self.segment(&pack, later, false);
        }
    }

    /// Where the first copy of a blob is that may be a base.
    pub fn base_location(&self, base: &BlobId) -> Result<Option<Location>> {
        match self.located(base) {
            Some(location) => Ok(Some(location).filter(|location| !location.is_delta)),
            None => self.repository.cache.base_outside(base, &Excluded::default()),
        }
    }

    /// What the index has in the place of the first copy that may be a base.
    fn unproven_base(
        &self,
        kind: ObjectKind,
        name: &str,
        base: &BlobId,
        are_awaited: bool,
    ) -> Result<Blob> {
        let fetched = self.base_location(base)?.map(|location| match are_awaited {
            true => self.fetch_unproven(base, kind, location),
            false => self.fetch_against(base, kind, location, false),
        });
        match fetched {
            Some(Ok(blob)) => Ok(blob),
            _ => self.base(kind, name, base),
        }
    }

    /// A segment as it is stored, unsealed.
    pub fn stored_segment(&self, place: SegmentPlace) -> Result<Vec<u8>> {
        let info = self.repository.cache.pack(place.pack)?;
        let unknown = || RepositoryError::corrupt(layout::pack(info.id), "has no such segment");
        let segment = info.segments.get(place.segment as usize).ok_or_else(unknown)?;
        self.read_stored(&info, segment.offset, segment.stored_length as usize)
    }

    /// Bytes of a pack's plaintext, mended where they are damaged and the pack has parity.
    fn read_stored(&self, pack: &PackInfo, offset: u64, length: usize) -> Result<Vec<u8>> {
        let name = layout::pack(pack.id);
        let total = plain_length(&pack.header, pack.object_length)
            .filter(|total| offset + length as u64 <= *total)
            .ok_or_else(|| RepositoryError::corrupt(&name, "the index has its length wrong"))?;
        let sealer = self.repository.sealer();
        let cipher = sealer.object_cipher(&pack.header, &name)?;
        if cipher.header.commitment != pack.header.commitment {
            return Err(RepositoryError::corrupt(name, "the index has its header wrong"));
        }
        let (range, first) = frames_covering(offset, length as u64, total);
        let unseal =
            |sealed: Vec<u8>| unseal_range(&cipher, &name, sealed, first, offset, length, total);
        let is_damaged = |found: &Result<Vec<u8>>| {
            found.as_ref().is_err_and(|error| error.kind == Kind::Corrupt)
        };
        let fetched = match self.ahead.get() {
            Some(Some(ahead)) => ahead.take(pack.id, offset, &range),
            _ => None,
        };
        let (fetched, given_up) = match fetched {
            Some(Ok(bytes)) => (Some(bytes), None),
            Some(Err(error)) => (None, Some(error)),
            None => (None, None),
        };
        if let Some(opened) = fetched.map(unseal).filter(|opened| !is_damaged(opened)) {
            return opened;
        }
        let mut found = match (self.repository.read_kept_range(pack, &name, &range), given_up) {
            (Some(kept), _) => kept.and_then(unseal),
            (None, Some(error)) => Err(error.into()),
            (None, None) => self.repository.unseal_from_first(&name, &range, &unseal),
        };
        // The damaged copy may be the cache's own, of which no answer may depend.
        if is_damaged(&found) && self.repository.drop_kept_pack(&pack.id) {
            found = self.repository.unseal_from_first(&name, &range, &unseal);
        }
        match found {
            Err(error) if error.kind == Kind::Corrupt && pack.header.parity.is_some() => {
                let object = self.repository.mended_object(pack).map_err(|beyond| {
                    let message = format!("{}; {}", error.message, beyond.message);
                    RepositoryError { message, ..beyond }
                })?;
                let range = range.start as usize..range.end as usize;
                let sealed = object.get(range).ok_or(error)?;
                unseal(sealed.to_vec())
            }
            found => found,
        }
    }
}
