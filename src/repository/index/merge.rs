//! Makes few index objects of many, and drops from them what was swept.
//!
//! It is done as a session; a collector that gives it up may sweep a pack that the new objects list, as with any index
//! object of a session that was given up, and clients take in no pack that was swept. The new objects are in the store, and listed there, before an old one goes; a
//! reader that finds an object gone lists anew. So at every moment each pack is in an index object.

use std::collections::{BTreeMap, BTreeSet};

use rayon::iter::{IntoParallelRefIterator, ParallelIterator};

use super::super::Repository;
use super::super::error::{Kind, RepositoryError, Result};
use super::super::verify::is_damage;
use crate::format::header::ObjectKind;
use crate::format::index::{Index, PackRecord};
use crate::format::session::Purpose;
use crate::id::{IndexId, PackId, SessionId};
use crate::monitor::Monitor;
use crate::store::{Created, layout};

/// Index objects below this many bytes are small: merged when there are several.
const SMALL_BYTES: u64 = 4 << 20;
/// So many small ones are left as they are.
const SMALL_KEPT: usize = 8;
/// A new index object is written when it lists this many blobs.
const INDEX_BLOBS: usize = 100_000;
/// Packs whose directories are read together.
const READ_AT_ONCE: usize = 64;
/// Names of index objects that were superseded earlier and are said to be so again, for clients that missed it.
const SUPERSEDED_AGAIN: usize = 4096;

/// What merging did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Merged {
    /// Index objects that went.
    pub removed: u64,
    /// Index objects that took their place.
    pub written: u64,
    /// Bytes of these.
    pub bytes_written: u64,
}

impl Repository {
    /// Merges small index objects, and those that list much that is gone. Does nothing while a collection is under
    /// way.
    pub fn merge_indexes(&self, monitor: &dyn Monitor) -> Result<Merged> {
        let session = self.register(Purpose::Collect)?;
        let merged = self.merge_as(session, monitor);
        let aborted = self.abort(session);
        let merged = merged?;
        aborted?;
        Ok(merged)
    }

    /// Lists these packs, given with their lengths, in new index objects, as each says of itself. Returns how many
    /// there were, and why the others cannot be listed.
    pub fn list_packs(&self, packs: &[(PackId, u64)]) -> Result<(u64, Vec<RepositoryError>)> {
        let session = self.register(Purpose::Write)?;
        let listed = self.list_as(session, packs);
        let aborted = self.abort(session);
        let listed = listed?;
        aborted?;
        Ok(listed)
    }

    fn list_as(
        &self,
        session: SessionId,
        packs: &[(PackId, u64)],
    ) -> Result<(u64, Vec<RepositoryError>)> {
        self.generations()?.require_readable()?;
        let mut writing = Writing { repository: self, session, merged: Merged::default() };
        let (mut records, mut blobs) = (BTreeMap::new(), 0);
        let (mut listed, mut unreadable) = (0, Vec::new());
        for batch in packs.chunks(READ_AT_ONCE) {
            let read: Vec<_> = batch
                .par_iter()
                .map(|(id, length)| self.read_pack_directory(*id, *length))
                .collect();
            for record in read {
                match record {
                    // What only a later version can list whole is left for it to list.
                    Ok(record) if record.directory.has_unknown_encodings() => {}
                    Ok(record) => {
                        listed += 1;
                        blobs += record.directory.blob_count();
                        records.insert(record.id, record);
                    }
                    Err(error) if is_damage(&error) => unreadable.push(error),
                    Err(error) => return Err(error),
                }
            }
            if blobs >= INDEX_BLOBS {
                writing.write(std::mem::take(&mut records), Vec::new())?;
                blobs = 0;
            }
        }
        if !records.is_empty() {
            writing.write(records, Vec::new())?;
        }
        writing.finish()?;
        Ok((listed, unreadable))
    }

    fn merge_as(&self, session: SessionId, monitor: &dyn Monitor) -> Result<Merged> {
        // What is merged would stay beside what takes its place, and be merged again by every run.
        if self.still_locked() > 0 {
            return Ok(Merged::default());
        }
        let report = self.refresh_index(monitor)?;
        report.generations.require_readable()?;
        let wanted = self.worth_merging()?;
        // What is condemned may still be spared, and must be listed then: another time.
        if wanted.is_empty() || report.generations.open.is_some() || !report.damaged.is_empty() {
            return Ok(Merged::default());
        }
        // Whatever its length is: a pack that was cut short stays listed until it goes, so that it is known what was in it.
        let present: BTreeSet<PackId> = {
            let mut packs = Vec::new();
            self.cache.each_pack(|_, id, _| packs.push(id))?;
            let listed = self.lengths_of(packs.iter().copied())?;
            packs.into_iter().filter(|pack| listed.contains_key(pack)).collect()
        };
        let mut writing = Writing { repository: self, session, merged: Merged::default() };
        let mut packs: BTreeMap<PackId, PackRecord> = BTreeMap::new();
        let mut seen = BTreeSet::new();
        let mut blobs = 0;
        for id in &wanted {
            let index = match self.read_index(*id) {
                // Another client merges, and is ahead. What was written here lists nothing wrong.
                Err(error) if error.kind == Kind::NotFound => return Ok(writing.merged),
                index => index?,
            };
            for pack in index.packs {
                if present.contains(&pack.id) && seen.insert(pack.id) {
                    blobs += pack.directory.blob_count();
                    packs.insert(pack.id, pack);
                }
            }
            if blobs >= INDEX_BLOBS {
                writing.write(std::mem::take(&mut packs), Vec::new())?;
                blobs = 0;
            }
        }
        // The last one says that all of them together take the old ones' place. It may list nothing.
        let mut superseded: Vec<IndexId> = wanted.clone();
        superseded.extend(self.cache.superseded()?.into_iter().rev().take(SUPERSEDED_AGAIN));
        self.cache.supersede(&superseded)?;
        writing.write(packs, superseded)?;
        let Some(written) = writing.finish()? else { return Ok(writing.merged) };
        // Until here nothing was taken away; from here on the new ones are listed.
        let mut removed = Vec::with_capacity(wanted.len());
        for id in &wanted {
            if self.delete_unless_locked(&layout::index(*id))? {
                removed.push(*id);
            }
        }
        self.cache.forget_superseded(&removed)?;
        Ok(Merged { removed: removed.len() as u64, ..written })
    }

    /// The index objects to be merged.
    fn worth_merging(&self) -> Result<Vec<IndexId>> {
        let sizes: BTreeMap<IndexId, u64> = self
            .store
            .list(layout::INDEX)?
            .iter()
            .filter_map(|object| Some((layout::parse_index(&object.name)?, object.size)))
            .collect();
        let mut small = Vec::new();
        let mut emptied = Vec::new();
        for (id, total, known) in self.cache.listings()? {
            let Some(size) = sizes.get(&id) else { continue };
            if (total - known) * 4 >= total.max(1) {
                emptied.push(id);
            } else if *size < SMALL_BYTES {
                small.push(id);
            }
        }
        if small.len() > SMALL_KEPT {
            emptied.append(&mut small);
        }
        Ok(emptied)
    }
}

/// Writes the new objects.
struct Writing<'r> {
    repository: &'r Repository,
    session: SessionId,
    merged: Merged,
}

impl Writing<'_> {
    fn id(&self, number: u64) -> IndexId {
        IndexId { session: self.session, number: number as u32 }
    }

    fn write(
        &mut self,
        packs: BTreeMap<PackId, PackRecord>,
        superseded: Vec<IndexId>,
    ) -> Result<()> {
        let id = self.id(self.merged.written);
        let name = layout::index(id);
        let packs: Vec<_> = packs.into_values().collect();
        let index = Index { superseded, packs };
        let object = self.repository.seal(ObjectKind::Index, &name, index.encode())?;
        self.merged.bytes_written += object.len() as u64;
        if self.repository.store.create(&name, object)? == Created::AlreadyThere {
            return Err(RepositoryError::new(Kind::Conflict, name, "is already there"));
        }
        self.repository.cache.add(&[id], &index.packs)?;
        let listed = index.packs.iter().map(|pack| pack.id).collect();
        self.repository.cache.note_listing(&[(id, listed)])?;
        self.merged.written += 1;
        Ok(())
    }

    /// Proves that a listing shows the new objects. `None`: another client has merged one of them already, and takes care
    /// of the rest.
    fn finish(&self) -> Result<Option<Merged>> {
        let listed: BTreeSet<IndexId> = self.repository.listed_indexes()?.into_iter().collect();
        for number in 0..self.merged.written {
            let id = self.id(number);
            if !listed.contains(&id) {
                if self.repository.store.size(&layout::index(id))?.is_none() {
                    return Ok(None);
                }
                return Err(RepositoryError::new(
                    Kind::Unavailable,
                    layout::index(id),
                    "was uploaded and is not in the store's listing; nothing was taken away. Run the command \
                     again when the store's listings are up to date",
                ));
            }
        }
        Ok(Some(self.merged))
    }
}
