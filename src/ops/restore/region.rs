//! Large files: written region by region, so that several threads work on one file and its chunk list is
//! never held whole.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;
use rustix::io::Errno;

use crate::codec::digest::DIGEST_REGION;
use crate::id::BlobId;
use crate::monitor::Progress;
use crate::ops::OpsError;
use crate::target::files::{Existing, TargetFile};
use crate::tree::entry::{Content, Entry, Extent, Node};
use crate::view::Extents;

use super::Overwrite;
use super::content::{Destination, Tally, update_zeros, wrong_digest};
use super::order::read_of;
use super::work::{Action, Failure, Item, Work, add};

/// A file that is written in regions.
pub(super) struct LargeFile {
    item: Item,
    /// `None`: a dry run would make it.
    file: Option<TargetFile>,
    existing: Option<Existing>,
    size: u64,
    /// Regions that are not done.
    remaining: AtomicU64,
    /// Of each region, when the snapshot has a digest of the file.
    digests: Mutex<Vec<[u8; 32]>>,
    failure: Mutex<Option<String>>,
    is_changed: AtomicBool,
}

/// One region of a large file: the extents that reach into it, each with where it begins in the file.
pub(super) struct Region {
    file: Arc<LargeFile>,
    number: u64,
    extents: Vec<(u64, Extent)>,
}

impl LargeFile {
    fn range(&self, number: u64) -> Range<u64> {
        let start = number * DIGEST_REGION;
        start..(start + DIGEST_REGION).min(self.size)
    }

    fn present(&self) -> u64 {
        self.existing.as_ref().map_or(0, |existing| existing.size.min(self.size))
    }

    fn digest(&self) -> Option<[u8; 32]> {
        match &self.item.entry.node {
            Node::File(content) => content.digest,
            _ => None,
        }
    }

    fn set_digest(&self, number: u64, digest: [u8; 32]) {
        if let Some(slot) = self.digests.lock().get_mut(number as usize) {
            *slot = digest;
        }
    }
}

/// A large file whose regions are being told.
pub(super) struct LargePlan<'w, 'a> {
    file: Arc<LargeFile>,
    extents: Extents<'w, 'a>,
    /// The extent that reaches beyond the last region told.
    pending: Option<(u64, Extent)>,
    /// Where the next extent begins.
    offset: u64,
    next: u64,
}

impl<'w, 'a> LargePlan<'w, 'a> {
    /// Whether an entry is written in regions: a large file, and one whose chunks the entry does not tell, so that what
    /// it is read from is known before.
    pub(super) fn is_wanted(entry: &Entry) -> bool {
        let is_list = match &entry.node {
            Node::File(file) => matches!(file.content, Content::List { .. }),
            _ => false,
        };
        is_list || entry.size() > DIGEST_REGION
    }

    /// Opens or makes the file; `None` when there is nothing to be done, or nothing that can be.
    pub(super) fn begin(work: &Work<'w, 'a>, item: Item) -> Option<Self> {
        let Node::File(content) = &item.entry.node else { return None };
        let (size, has_digest) = (content.size, content.digest.is_some());
        let extents = Extents::new(work.trees, content);
        let begun = work.look(&item).and_then(|existing| {
            let Some(action) = work.decide(&item, existing)? else { return Ok(None) };
            let existing = match action {
                Action::Keep(existing) => {
                    work.keep(&item, &existing)?;
                    work.monitor.advance(Progress { files: 1, bytes: size });
                    return Ok(None);
                }
                Action::Create => None,
                Action::Update(existing) => Some(existing),
            };
            work.open_large(&item, existing, size).map(Some)
        });
        let (file, existing) = match begun {
            Ok(begun) => begun?,
            Err(failure) => {
                work.fail(&item, failure);
                return None;
            }
        };
        let regions = size.div_ceil(DIGEST_REGION);
        let is_changed = existing.as_ref().is_none_or(|existing| existing.size != size);
        let file = Arc::new(LargeFile {
            item,
            file,
            existing,
            size,
            remaining: AtomicU64::new(regions),
            digests: Mutex::new(vec![[0; 32]; if has_digest { regions as usize } else { 0 }]),
            failure: Mutex::default(),
            is_changed: AtomicBool::new(is_changed),
        });
        work.unfinished.lock().push(file.clone());
        Some(LargePlan { file, extents, pending: None, offset: 0, next: 0 })
    }

    /// The next region that is to be written; `None` at the end. Regions of a new file that are nothing
    /// but a hole are done by being passed over.
    pub(super) fn next_region(&mut self, work: &Work<'w, 'a>) -> Option<Region> {
        loop {
            if self.next * DIGEST_REGION >= self.file.size {
                return None;
            }
            let number = self.next;
            self.next += 1;
            let range = self.file.range(number);
            let extents = match self.collect(&range) {
                Ok(extents) => extents,
                Err(error) => {
                    let rest = self.file.size.div_ceil(DIGEST_REGION) - number;
                    self.next += rest;
                    let failure = work.repository_failure(error);
                    work.region_done(&self.file, rest, Err(failure));
                    return None;
                }
            };
            let is_hole = matches!(&extents[..], [(_, Extent::Hole { .. })]);
            if is_hole && self.file.existing.is_none() {
                if self.file.digest().is_some() {
                    let digest = work.zero_digest(range.end - range.start);
                    self.file.set_digest(number, digest);
                }
                work.monitor.advance(Progress { files: 0, bytes: range.end - range.start });
                work.region_done(&self.file, 1, Ok(Tally::default()));
                continue;
            }
            return Some(Region { file: self.file.clone(), number, extents });
        }
    }

    fn collect(
        &mut self,
        range: &Range<u64>,
    ) -> crate::repository::error::Result<Vec<(u64, Extent)>> {
        let mut extents = Vec::from_iter(self.pending.take());
        while self.offset < range.end {
            // The list ends with an error if it is shorter than the file.
            let Some(extent) = self.extents.next().transpose()? else { break };
            extents.push((self.offset, extent));
            self.offset += extent.length();
        }
        if self.offset > range.end {
            self.pending = extents.last().copied();
        }
        Ok(extents)
    }
}

impl Region {
    /// The blobs that are read for it, in order, each with how many bytes it has.
    pub(super) fn reads(&self) -> impl Iterator<Item = (&BlobId, u64)> {
        self.extents.iter().filter_map(|(_, extent)| read_of(extent))
    }

    /// Whether nothing was in the file's place.
    pub(super) fn is_new(&self) -> bool {
        self.file.existing.is_none()
    }

    /// Bytes of content that are to be written.
    pub(super) fn bytes(&self) -> u64 {
        let range = self.file.range(self.number);
        range.end - range.start
    }
}

impl Work<'_, '_> {
    fn open_large(
        &self,
        item: &Item,
        existing: Option<Existing>,
        size: u64,
    ) -> Result<(Option<TargetFile>, Option<Existing>), Failure> {
        let (directory, name) = (&item.directory, &item.entry.name);
        if self.options.dry_run {
            let file = match &existing {
                Some(_) => Some(self.target.read_file(directory, name)?),
                None => None,
            };
            return Ok((file, existing));
        }
        let opened = match &existing {
            None => None,
            Some(_) => match self.target.open_file(directory, name) {
                // A program that is running cannot be written, but another can take its name.
                Err(error) if error.raw_os_error() == Some(Errno::TXTBSY.raw_os_error()) => {
                    self.target.remove_file(directory, name)?;
                    None
                }
                opened => Some(opened?),
            },
        };
        let Some(file) = opened else {
            let file = self.target.create_file(directory, name, &item.entry.metadata)?;
            if let Err(error) = file.set_length(size) {
                let _ = self.target.remove_file(directory, name);
                return Err(error.into());
            }
            return Ok((Some(file), None));
        };
        if existing.as_ref().is_some_and(|existing| existing.size != size) {
            file.set_length(size)?;
        }
        Ok((Some(file), existing))
    }

    /// The digest of so many zeros.
    fn zero_digest(&self, length: u64) -> [u8; 32] {
        let compute = || {
            let mut hasher = self.naming().region_hasher();
            update_zeros(&mut hasher, length);
            hasher.finish()
        };
        match length {
            DIGEST_REGION => *self.zero_region.get_or_init(compute),
            _ => compute(),
        }
    }

    /// Writes one region.
    pub(super) fn write_region(&self, region: Region) {
        let Region { file, number, extents } = region;
        let range = file.range(number);
        // One damaged region is enough to lose the file: no need to fetch the rest.
        if file.failure.lock().is_none() {
            self.monitor.current(&self.display(&file.item.path()));
            let destination = Destination::new(file.file.as_ref(), file.present());
            // Zeros need not be digested once for every region that is nothing but a hole.
            let is_hole = matches!(&extents[..], [(_, Extent::Hole { .. })]);
            let mut hasher =
                file.digest().filter(|_| !is_hole).map(|_| self.naming().region_hasher());
            let extents = extents.into_iter().map(Ok);
            let result = self.write_extents(&destination, extents, &range, hasher.as_mut());
            if let Some(hasher) = hasher {
                file.set_digest(number, hasher.finish());
            } else if is_hole && file.digest().is_some() {
                file.set_digest(number, self.zero_digest(range.end - range.start));
            }
            self.monitor.advance(Progress { files: 0, bytes: range.end - range.start });
            self.region_done(&file, 1, result);
        } else {
            self.region_done(&file, 1, Ok(Tally::default()));
        }
    }

    /// Counts regions of a file as done. Whoever does the last one finishes the file.
    fn region_done(&self, file: &Arc<LargeFile>, regions: u64, result: Result<Tally, Failure>) {
        match result {
            Ok(tally) => {
                add(&self.counts.bytes_written, tally.written);
                add(&self.counts.bytes_unchanged, tally.unchanged);
                if tally.is_changed {
                    file.is_changed.store(true, Ordering::Relaxed);
                }
            }
            // Left unfinished, to be continued.
            Err(Failure::Stop(reason)) => {
                return self.fail_at(&file.item.path(), Failure::Stop(reason));
            }
            Err(Failure::Entry(message)) => {
                file.failure.lock().get_or_insert(message);
            }
        }
        if file.remaining.fetch_sub(regions, Ordering::AcqRel) == regions {
            self.unfinished.lock().retain(|other| !Arc::ptr_eq(other, file));
            self.finish_large(file);
        }
    }

    fn finish_large(&self, file: &Arc<LargeFile>) {
        let item = &file.item;
        match self.try_finish_large(file) {
            Ok(()) => {
                let is_changed = file.is_changed.load(Ordering::Relaxed);
                self.count(&Tally::default(), is_changed);
                self.succeed(item);
                self.monitor.advance(Progress { files: 1, bytes: 0 });
            }
            // Left unfinished, to be continued.
            Err(Failure::Stop(reason)) => {
                self.unfinished.lock().push(file.clone());
                self.fail_at(&item.path(), Failure::Stop(reason));
            }
            Err(failure) => {
                let failure = match (failure, &file.existing) {
                    (Failure::Entry(message), Some(_)) => Failure::Entry(format!(
                        "{message}; the file that was there is not complete"
                    )),
                    (failure, Some(_)) => failure,
                    (failure, None) => {
                        if file.file.is_some() {
                            let _ = self.target.remove_file(&item.directory, &item.entry.name);
                        }
                        failure
                    }
                };
                self.fail_at(&item.path(), failure);
                self.monitor.advance(Progress { files: 1, bytes: 0 });
            }
        }
    }

    fn try_finish_large(&self, large: &Arc<LargeFile>) -> Result<(), Failure> {
        if let Some(message) = large.failure.lock().take() {
            return Err(Failure::Entry(message));
        }
        if self.options.dry_run {
            return Ok(());
        }
        let (Some(file), entry) = (&large.file, &large.item.entry) else { return Ok(()) };
        if !self.has_right_digest(large) {
            self.write_once_more(large, file)?;
        }
        self.verify(file, entry)?;
        let failures = match &large.existing {
            None => self.target.finish_new_file(&large.item.directory, file, &entry.metadata),
            Some(existing) => {
                let was_written = large.is_changed.load(Ordering::Relaxed);
                self.target.finish_existing_file(file, &entry.metadata, existing, was_written)
            }
        };
        self.report_metadata(&large.item.path(), &failures);
        Ok(())
    }

    fn has_right_digest(&self, large: &LargeFile) -> bool {
        let is_right = |digest| self.naming().file_digest(&large.digests.lock()) == digest;
        large.digest().is_none_or(is_right)
    }

    /// Goes through a file whose content is wrong, chunk by chunk.
    fn write_once_more(&self, large: &Arc<LargeFile>, file: &TargetFile) -> Result<(), Failure> {
        let Node::File(content) = &large.item.entry.node else { return Ok(()) };
        let extents = Extents::new(self.trees, content);
        let mut plan =
            LargePlan { file: large.clone(), extents, pending: None, offset: 0, next: 0 };
        for number in 0..large.size.div_ceil(DIGEST_REGION) {
            if self.is_stopped() {
                return Err(Failure::Stop(OpsError::Interrupted));
            }
            let range = large.range(number);
            let extents = plan.collect(&range).map_err(|error| self.repository_failure(error))?;
            let mut hasher = self.naming().region_hasher();
            let destination = Destination::once_more(file, large.size);
            let extents = extents.into_iter().map(Ok);
            self.write_extents(&destination, extents, &range, Some(&mut hasher))?;
            large.set_digest(number, hasher.finish());
        }
        match self.has_right_digest(large) {
            true => Ok(()),
            false => Err(wrong_digest()),
        }
    }

    /// After an early end, large files that were begun stay, so that the next run goes on with them; but
    /// not where the overwrite rule would take them for finished.
    pub(super) fn drop_unfinished(&self) {
        let would_stay = matches!(self.options.overwrite, Overwrite::IfNewer | Overwrite::Never);
        for large in std::mem::take(&mut *self.unfinished.lock()) {
            if would_stay && large.existing.is_none() && large.file.is_some() {
                let _ = self.target.remove_file(&large.item.directory, &large.item.entry.name);
            }
        }
    }
}
