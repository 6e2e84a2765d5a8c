//! Blobs in: a write session that dedupes, compresses, seals and uploads, and commits once.
//!
//! Each thread that stores blobs owns a [`SegmentWriter`], which gathers them into segments and compresses
//! them on that thread. Finished segments go into one of at least two open packs, chosen at random, so that the
//! order of packs tells the store nothing of a file. Memory: a segment and its compressed form for each
//! thread, and for each thread (two at least) and each upload (one to three on a disk, three to a store far away) a pack;
//! and a pack of trees, or two where the store is far away.

mod segments;

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use parking_lot::Mutex;

pub use self::segments::SegmentWriter;
use super::Repository;
use super::delta::DeltaWriter;
use super::error::{Kind, RepositoryError, Result};
use super::index::Location;
use super::index::cache::Excluded;
use super::index::objects::IndexReport;
use super::open_packs::{Leaving, OpenPacks};
use super::packer::PackBuilder;
use super::planted::{Step, is_left_out};
use super::reader::BlobReader;
use super::session::Committed;
use super::snapshots::Snapshots;
use crate::format::header::ObjectKind;
use crate::format::index::{Index, PackRecord};
use crate::format::pack::{BlobRecord, Encoding, SegmentRecord};
use crate::format::session::Purpose;
use crate::format::snapshot::{Decision, Snapshot};
use crate::id::{BlobId, IndexId, PackId, SessionId};
use crate::store::{Created, Store, layout};

/// Locks that the set of this session's blobs is spread over.
const SHARDS: usize = 64;
/// An index object is written when this many blobs wait for one, each of about 150 bytes here. Merging, which holds less of
/// each, makes larger ones.
const INDEX_BLOBS: u64 = 40_000;
/// Packs on their way to a disk at a time, and threads that bring them there, at most. One for four threads that fill them: a
/// disk that is written past the page cache takes one faster than two cores make it, and each further one is 17 MiB more.
const UPLOADS_MAX: usize = 3;
/// The same where the way is long: while one waits for its answer the others go on.
const FAR_UPLOADS: usize = 3;

/// What a session has added so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Added {
    /// New data blobs.
    pub data_blobs: u64,
    /// New tree blobs.
    pub tree_blobs: u64,
    /// Plaintext bytes of the new blobs.
    pub plain_bytes: u64,
    /// Bytes of the packs and index objects.
    pub stored_bytes: u64,
    /// How many packs and index objects: a request each.
    pub objects: u64,
}

#[derive(Default)]
struct Counters {
    data_blobs: AtomicU64,
    tree_blobs: AtomicU64,
    plain_bytes: AtomicU64,
    stored_bytes: AtomicU64,
}

/// A finished pack on its way to the store.
struct Finished {
    name: String,
    /// The memory in which the object begins at `start`.
    memory: Vec<u8>,
    start: usize,
    record: PackRecord,
    _leaving: Leaving,
}

/// What waits for an index object.
#[derive(Default)]
struct Unindexed {
    packs: Vec<PackRecord>,
    blobs: u64,
}

/// Shared by the writer and its uploading threads.
struct Uploads {
    store: Store,
    unindexed: Mutex<Unindexed>,
    failure: Mutex<Option<RepositoryError>>,
    /// Buffers of packs that are in the store, as many as are uploaded at once.
    spare: Mutex<Vec<Vec<u8>>>,
    spare_max: usize,
}

/// One write session.
pub struct Writer<'a> {
    repository: &'a Repository,
    session: SessionId,
    trusts_parent: bool,
    /// Nothing is damaged or gone that stands nowhere else.
    lacks_nothing: bool,
    /// Packs that this session does not refer to: they are damaged, missing or condemned.
    excluded: Excluded,
    dry_run: bool,
    new_blobs: Vec<Mutex<HashSet<BlobId>>>,
    /// Of data and of trees.
    open_packs: [Arc<OpenPacks>; 2],
    pack_count: AtomicU32,
    index_count: AtomicU32,
    counters: Counters,
    uploads: Arc<Uploads>,
    queue: Mutex<Option<SyncSender<Box<Finished>>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl<'a> Writer<'a> {
    /// Registers a session and brings the index up to date, in this order: what is learned about packs after
    /// registering is what a collector must respect. A dry run registers and uploads nothing.
    pub fn begin(
        repository: &'a Repository,
        dry_run: bool,
        monitor: &dyn crate::monitor::Monitor,
    ) -> Result<Self> {
        Self::begin_for(Purpose::Write, repository, dry_run, monitor)
    }

    /// The same for a session with this purpose.
    pub fn begin_for(
        purpose: Purpose,
        repository: &'a Repository,
        dry_run: bool,
        monitor: &dyn crate::monitor::Monitor,
    ) -> Result<Self> {
        Ok(Self::begin_seeing(purpose, repository, dry_run, false, monitor)?.0)
    }

    /// The same for a backup, which wants to know which snapshots there are, as well.
    pub fn begin_backup(
        repository: &'a Repository,
        dry_run: bool,
        monitor: &dyn crate::monitor::Monitor,
    ) -> Result<(Self, Snapshots)> {
        let (writer, snapshots) =
            Self::begin_seeing(Purpose::Write, repository, dry_run, true, monitor)?;
        let snapshots = match snapshots {
            Some(snapshots) => snapshots,
            None => repository.snapshots(monitor)?,
        };
        Ok((writer, snapshots))
    }

    fn begin_seeing(
        purpose: Purpose,
        repository: &'a Repository,
        dry_run: bool,
        sees_snapshots: bool,
        monitor: &dyn crate::monitor::Monitor,
    ) -> Result<(Self, Option<Snapshots>)> {
        let (session, look) = if dry_run {
            repository.prove_remembered_keys()?;
            let random = repository.environment.chance.bytes()?;
            (SessionId { generation: 0, random }, repository.look()?)
        } else {
            repository.register_writer(purpose)?
        };
        let IndexReport { damaged, generations, missing, .. } =
            repository.take_index(look.generations, Some(look.indexes), monitor)?;
        generations.require_readable()?;
        let index_is_damaged = !damaged.is_empty();
        for error in damaged {
            monitor.problem(crate::monitor::Problem {
                item: error.item,
                during: "index",
                message: format!("{}; what it listed is listed anew", error.message),
            });
        }
        let damaged = repository.note_damaged(look.damaged);
        let missing = match repository.store.lists_cheaply() {
            true => repository.missing_packs()?,
            false => missing,
        };
        let tombs = match sees_snapshots {
            true => Some(repository.standing_tombs(monitor)?),
            false => None,
        };
        let listed = repository.list_slots_in_any_order()?;
        let marks = match sees_snapshots {
            true => repository.list_marks()?,
            false => None,
        };
        if index_is_damaged {
            repository.adopt_all_packs()?;
        } else {
            let mut undecided = repository.undecided_of(&listed, marks.as_ref())?;
            undecided.retain(|other| *other != session);
            repository.adopt_packs(&undecided)?;
        }
        let snapshots = match tombs {
            Some(tombs) => {
                Some(repository.snapshots_of(&generations, tombs, &listed, marks, monitor)?)
            }
            None => None,
        };
        // What this session may refer to must be in an index object when it commits.
        let packs = repository.adopted_records()?;
        let blobs = packs.iter().map(|pack| pack.directory.blob_count() as u64).sum();
        // After that: what was adopted and is gone is not known any more.
        let excluded = repository.cache.excluding(damaged.iter().copied().chain(missing))?;
        let lacking = repository.cache.sole_holders(&excluded)?;
        for number in &lacking {
            let pack = repository.cache.pack(*number)?.id;
            let what = match damaged.contains(&pack) {
                true => "is damaged, as a check has recorded",
                false => "is gone or cut short",
            };
            monitor.note(&format!(
                "pack {pack} {what}; what it held is stored again where the source still has it"
            ));
        }
        // A damaged index object may have listed packs that nobody misses.
        let trusts_parent = lacking.is_empty() && !index_is_damaged;
        let lacks_nothing = trusts_parent;
        // Those that a collector means to drop are there for readers, and no longer for writers. A parent may need
        // one of them and be forgotten before the sweep, which would not spare it for this session's sake.
        let condemned = match is_left_out(Step::ExcludeCondemned) {
            true => &[],
            false => generations.condemned_packs(),
        };
        let trusts_parent = trusts_parent && condemned.is_empty();
        let excluded = excluded.packs().iter().chain(condemned).copied();
        let excluded = repository.cache.excluding(excluded)?;

        let uploads_at_once = uploads_at_once(repository);
        let uploads = Arc::new(Uploads {
            store: repository.store.clone(),
            unindexed: Mutex::new(Unindexed { packs, blobs }),
            failure: Mutex::default(),
            spare: Mutex::default(),
            spare_max: uploads_at_once.max(1),
        });
        let most_packs = rayon::current_num_threads().max(2) + uploads_at_once.max(1);
        let (sender, receiver) = sync_channel(0);
        let receiver = Arc::new(Mutex::new(receiver));
        let threads = (0..uploads_at_once)
            .map(|_| {
                let (uploads, receiver) = (uploads.clone(), receiver.clone());
                std::thread::spawn(move || upload(&uploads, &receiver))
            })
            .collect();
        // Far away, trees are gathered in one pack while another is on its way.
        let tree_packs = if repository.store.lists_cheaply() { 1 } else { 2 };
        let writer = Writer {
            repository,
            trusts_parent,
            lacks_nothing,
            excluded,
            session,
            dry_run,
            new_blobs: (0..SHARDS).map(|_| Mutex::default()).collect(),
            // Two of data at least, so that the store cannot tell which chunks follow one another.
            open_packs: [OpenPacks::new(2, most_packs), OpenPacks::new(1, tree_packs)],
            pack_count: AtomicU32::new(0),
            index_count: AtomicU32::new(0),
            counters: Counters::default(),
            uploads,
            queue: Mutex::new(Some(sender)),
            threads: Mutex::new(threads),
        };
        Ok((writer, snapshots))
    }

    /// The same session, which counts on nothing in these packs either: what they hold is stored again.
    pub fn excluding(mut self, packs: &[PackId]) -> Result<Self> {
        let cache = &self.repository.cache;
        self.trusts_parent &= cache.pack_numbers(packs.iter().copied())?.is_empty();
        self.excluded = cache.excluding(self.excluded.packs().iter().chain(packs).copied())?;
        Ok(self)
    }

    /// Whether it stores nothing.
    pub fn is_dry_run(&self) -> bool {
        self.dry_run
    }

    /// The session's name.
    pub fn session(&self) -> SessionId {
        self.session
    }

    /// The repository that is written.
    pub fn repository(&self) -> &'a Repository {
        self.repository
    }

    /// Whether every blob of an older snapshot can be taken to be there. When packs are missing, and what they
    /// held is not elsewhere, it cannot: each blob must be asked for, and read again from the source when it is
    /// gone.
    pub fn trusts_parent(&self) -> bool {
        self.trusts_parent
    }

    /// What was added so far.
    pub fn added(&self) -> Added {
        Added {
            data_blobs: self.counters.data_blobs.load(Ordering::Relaxed),
            tree_blobs: self.counters.tree_blobs.load(Ordering::Relaxed),
            plain_bytes: self.counters.plain_bytes.load(Ordering::Relaxed),
            stored_bytes: self.counters.stored_bytes.load(Ordering::Relaxed),
            objects: self.objects(),
        }
    }

    /// A dry run writes no index object, and counts those that there would be.
    fn objects(&self) -> u64 {
        let packs = u64::from(self.pack_count.load(Ordering::Relaxed));
        let blobs = &self.counters;
        let blobs =
            [&blobs.data_blobs, &blobs.tree_blobs].map(|blobs| blobs.load(Ordering::Relaxed));
        let indexes = match self.dry_run {
            true => (blobs[0] + blobs[1]).div_ceil(INDEX_BLOBS),
            false => u64::from(self.index_count.load(Ordering::Relaxed)),
        };
        packs + indexes
    }

    /// Whether the repository, or this session, has the blob in a pack that counts.
    pub fn has(&self, id: &BlobId) -> Result<bool> {
        if self.shard(id).lock().contains(id) {
            return Ok(true);
        }
        self.stands(id)
    }

    /// Whether packs that count have the blob. While something is lost, a delta does not do for a blob that stood plainly
    /// in what is: others may be read against it, and it is stored plainly again.
    fn stands(&self, id: &BlobId) -> Result<bool> {
        let cache = &self.repository.cache;
        let stands = cache.has_outside(id, &self.excluded)?;
        if !stands || self.lacks_nothing || self.base(id)?.is_some() {
            return Ok(stands);
        }
        Ok(cache.copies(id)?.iter().all(|copy| copy.is_delta))
    }

    /// Where a delta of this session can find this base: in a pack that counts, and not in another delta.
    pub(super) fn base(&self, id: &BlobId) -> Result<Option<Location>> {
        self.repository.cache.base_outside(id, &self.excluded)
    }

    /// What a delta of this session may be read against in the place of this old blob: itself, or, where it is a
    /// delta, its own bases; nothing when they are gone.
    pub(super) fn bases_for(&self, old: &BlobId) -> Result<Vec<(BlobId, Location)>> {
        if let Some(location) = self.base(old)? {
            return Ok(vec![(*old, location)]);
        }
        let Some(delta) = self.repository.cache.lookup(old)? else { return Ok(Vec::new()) };
        let mut found = Vec::new();
        for base in self.repository.cache.bases(&delta)? {
            match self.base(&base)? {
                Some(location) => found.push((base, location)),
                None => return Ok(Vec::new()),
            }
        }
        Ok(found)
    }

    /// Whether a new blob may be stored as a delta. Not one that older packs had, and that is stored again because
    /// they are lost: it may be the base of deltas, which can be read again only when it is none itself.
    pub(super) fn may_be_delta(&self, id: &BlobId) -> Result<bool> {
        Ok(self.lacks_nothing && self.repository.cache.lookup(id)?.is_none())
    }

    /// Whether the repository, or this session, has the blob where a delta can be read against it.
    pub fn has_plain(&self, id: &BlobId) -> Result<bool> {
        Ok(self.shard(id).lock().contains(id) || self.base(id)?.is_some())
    }

    /// Stores a delta of another pack as it is, for the sake of those of its blobs that were `wanted` and read. Nothing
    /// is stored when another thread has stored them.
    pub fn put_delta(
        &self,
        stored: &[u8],
        segment: &SegmentRecord,
        wanted: &[BlobId],
    ) -> Result<()> {
        let mut is_new = false;
        for id in wanted {
            is_new |= self.claim(id)?;
        }
        match is_new {
            true => self.put_segment(
                ObjectKind::DataPack,
                stored,
                segment.encoding.clone(),
                segment.blobs.clone(),
            ),
            false => Ok(()),
        }
    }

    /// `true`: the blob is new, and the caller, who is the only one to hear so, must store it.
    pub fn claim(&self, id: &BlobId) -> Result<bool> {
        // Looked up under the lock: an index object that is being taken in moves blobs from here to there, and
        // between two separate questions a blob could be in neither.
        let mut claimed = self.shard(id).lock();
        if claimed.contains(id) || self.stands(id)? {
            return Ok(false);
        }
        Ok(claimed.insert(*id))
    }

    /// The same for a blob that must stand where a delta can be read against it.
    fn claim_plain(&self, id: &BlobId) -> Result<bool> {
        let mut claimed = self.shard(id).lock();
        if claimed.contains(id) || self.base(id)?.is_some() {
            return Ok(false);
        }
        Ok(claimed.insert(*id))
    }

    fn shard(&self, id: &BlobId) -> &Mutex<HashSet<BlobId>> {
        &self.new_blobs[id.0[0] as usize % SHARDS]
    }

    /// Something that gathers blobs of one kind into segments. One for each thread.
    pub fn segments(&self, kind: ObjectKind) -> Result<SegmentWriter<'_>> {
        SegmentWriter::new(self, kind)
    }

    /// Something that gathers blobs of changed files into deltas, and hands to `segments` what is no smaller for it.
    /// `reader` opens the bases. One for each thread.
    pub fn deltas<'w>(&'w self, reader: &'w BlobReader<'w>) -> DeltaWriter<'w> {
        DeltaWriter::new(self, reader)
    }

    /// Puts a segment into an open pack, and uploads the pack when it is full.
    pub(super) fn put_segment(
        &self,
        kind: ObjectKind,
        stored: &[u8],
        encoding: Encoding,
        blobs: Vec<BlobRecord>,
    ) -> Result<()> {
        self.check_uploads()?;
        let plain: u64 = blobs.iter().map(|blob| u64::from(blob.length)).sum();
        self.counters.plain_bytes.fetch_add(plain, Ordering::Relaxed);
        let counter = match kind {
            ObjectKind::DataPack => &self.counters.data_blobs,
            _ => &self.counters.tree_blobs,
        };
        counter.fetch_add(blobs.len() as u64, Ordering::Relaxed);
        let is_of_data = kind == ObjectKind::DataPack;
        let target = self.repository.settings.pack_length_of(kind) as usize;
        let open = &self.open_packs[usize::from(kind == ObjectKind::TreePack)];
        let parity = self.repository.settings.parity_percent;
        let mut pack = open.take(
            || {
                let spare = is_of_data.then(|| self.uploads.spare.lock().pop()).flatten();
                PackBuilder::reusing(spare.unwrap_or_default(), target)
                    .with_parity(parity)
                    .aligned_to(self.uploads.store.alignment())
            },
            |_| {
                let [random] = self.repository.environment.chance.bytes()?;
                Ok(usize::from(random))
            },
        )?;
        pack.push(stored, encoding, blobs);
        if pack.is_full(target) {
            return self.finish_pack(kind, pack, open.close());
        }
        open.give_back(pack);
        Ok(())
    }

    fn finish_pack(&self, kind: ObjectKind, pack: PackBuilder, leaving: Leaving) -> Result<()> {
        let number = self.pack_count.fetch_add(1, Ordering::Relaxed);
        let id = PackId { session: self.session, number };
        let name = layout::pack(id);
        let randomness = self.repository.environment.chance.bytes()?;
        let sealer = self.repository.sealer();
        let start = pack.start();
        let (memory, record) = pack.finish_in_place(sealer, kind, id, &name, &randomness)?;
        self.counters.stored_bytes.fetch_add(record.object_length, Ordering::Relaxed);
        if self.dry_run {
            return Ok(());
        }
        if kind == ObjectKind::TreePack {
            self.repository.keep_pack(&record.id, &memory[start..]);
        }
        let finished = Box::new(Finished { name, memory, start, record, _leaving: leaving });
        let sent = if uploads_at_once(self.repository) == 0 {
            upload_one(&self.uploads, *finished);
            true
        } else {
            let sender = self.queue.lock().clone();
            sender.is_some_and(|sender| sender.send(finished).is_ok())
        };
        self.check_uploads()?;
        match sent {
            true => self.write_index_when_due(INDEX_BLOBS),
            false => Err(RepositoryError::new(Kind::Unavailable, "upload", "has ended early")),
        }
    }

    fn check_uploads(&self) -> Result<()> {
        self.uploads.failure.lock().clone().map_or(Ok(()), Err)
    }

    /// Writes an index object for the packs that are in the store, when they hold at least `least` blobs.
    fn write_index_when_due(&self, least: u64) -> Result<()> {
        let packs = {
            let mut unindexed = self.uploads.unindexed.lock();
            if unindexed.packs.is_empty() || unindexed.blobs < least {
                return Ok(());
            }
            std::mem::take(&mut *unindexed).packs
        };
        let number = self.index_count.fetch_add(1, Ordering::Relaxed);
        let id = IndexId { session: self.session, number };
        let name = layout::index(id);
        let index = Index { superseded: Vec::new(), packs };
        let object = self.repository.seal(ObjectKind::Index, &name, index.encode())?;
        self.counters.stored_bytes.fetch_add(object.len() as u64, Ordering::Relaxed);
        if self.repository.store.create(&name, object)? == Created::AlreadyThere {
            return Err(RepositoryError::new(Kind::Conflict, name, "is already there"));
        }
        self.repository.cache.add(&[id], &index.packs)?;
        let listed = index.packs.iter().map(|pack| pack.id).collect();
        self.repository.cache.note_listing(&[(id, listed)])?;
        for pack in &index.packs {
            for blob in pack.directory.segments.iter().flat_map(|segment| &segment.blobs) {
                self.shard(&blob.id).lock().remove(&blob.id);
            }
        }
        Ok(())
    }

    /// Uploads what is open, writes the last index object, and proves that every pack is in the store, unless a
    /// collector has given the session up.
    /// Every [`SegmentWriter`] must have been finished. Nothing is committed yet.
    pub fn finish(&self) -> Result<()> {
        for (kind, open) in
            [ObjectKind::DataPack, ObjectKind::TreePack].into_iter().zip(&self.open_packs)
        {
            for pack in open.take_idle().into_iter().filter(|pack| !pack.is_empty()) {
                self.finish_pack(kind, pack, open.close())?;
            }
        }
        self.end_uploads()?;
        if self.dry_run {
            return Ok(());
        }
        self.write_index_when_due(0)?;
        self.prove_packs()
    }

    fn end_uploads(&self) -> Result<()> {
        self.queue.lock().take();
        for thread in std::mem::take(&mut *self.threads.lock()) {
            if thread.join().is_err() {
                return Err(RepositoryError::new(Kind::Unavailable, "upload", "a thread failed"));
            }
        }
        self.check_uploads()
    }

    /// One listing shows all packs of this session.
    fn prove_packs(&self) -> Result<()> {
        let expected = self.pack_count.load(Ordering::Relaxed);
        if expected == 0 {
            return Ok(());
        }
        let prefix = layout::session_packs(self.session);
        // The cold one of two stores has every pack, or its copy, and is what must not lack any.
        let store = &self.repository.store;
        let listed = match store.list_packs_of_cold(&prefix)? {
            Some(listed) => listed,
            None => store.list(&prefix)?,
        };
        let listed: BTreeSet<_> =
            listed.iter().filter_map(|object| layout::parse_pack(&object.name)).collect();
        let missing = (0..expected)
            .map(|number| PackId { session: self.session, number })
            .find(|id| !listed.contains(id));
        match missing {
            None => Ok(()),
            // Collected as garbage: committing will find so, and what to do about it.
            Some(_) if self.repository.is_fenced(self.session)? => Ok(()),
            Some(id) => Err(RepositoryError::new(
                Kind::Unavailable,
                layout::pack(id),
                "was uploaded and is not in the store's listing; nothing was committed. Run the backup again \
                 when the store's listings are up to date: what was uploaded is found again",
            )),
        }
    }

    /// Commits the snapshot. [`Writer::finish`] has succeeded.
    pub fn commit(self, snapshot: Snapshot) -> Result<Committed> {
        self.repository.commit(self.session, &Decision::Snapshot(Box::new(snapshot)))
    }
}

impl Drop for Writer<'_> {
    fn drop(&mut self) {
        self.queue.lock().take();
        for thread in std::mem::take(&mut *self.threads.lock()) {
            // A thread that failed has left its reason in `failure`, or the process is ending.
            let _ = thread.join();
        }
    }
}

/// Threads that bring packs to the store; none where there shall be one in all: then whoever fills a pack uploads it.
fn uploads_at_once(repository: &Repository) -> usize {
    match repository.threads(2) {
        1 => 0,
        _ if repository.store.lists_cheaply() => {
            (rayon::current_num_threads() / 4).clamp(1, UPLOADS_MAX)
        }
        _ => FAR_UPLOADS,
    }
}

/// Brings packs to the store until the writer ends or one cannot be stored.
fn upload(uploads: &Uploads, queue: &Mutex<Receiver<Box<Finished>>>) {
    loop {
        let Ok(finished) = queue.lock().recv() else { return };
        // After a failure, too, it goes on receiving, so that nobody waits for a queue that nobody empties.
        upload_one(uploads, *finished);
    }
}

/// Brings a pack to the store, unless an earlier one could not be stored.
fn upload_one(uploads: &Uploads, finished: Finished) {
    let Finished { name, mut memory, start, record, _leaving } = finished;
    if uploads.failure.lock().is_some() {
        return;
    }
    let created = uploads.store.create_from(&name, &mut memory, start);
    if memory.capacity() > 0 && record.header.kind == ObjectKind::DataPack {
        // Memory that is there need not be cleared by the kernel. As many as there are uploads stay, no more.
        let mut spare = uploads.spare.lock();
        if spare.len() < uploads.spare_max {
            spare.push(memory);
        }
    }
    let failure = match created {
        Ok(Created::New) => {
            let mut unindexed = uploads.unindexed.lock();
            unindexed.blobs += record.directory.blob_count() as u64;
            unindexed.packs.push(record);
            return;
        }
        Ok(Created::AlreadyThere) => RepositoryError::new(Kind::Conflict, name, "is already there"),
        Err(error) => error.into(),
    };
    uploads.failure.lock().get_or_insert(failure);
}
