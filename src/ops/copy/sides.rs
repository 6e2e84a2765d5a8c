//! The targets of one run, and which of them a piece of work is for.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

use super::reference::Pair;
use crate::format::header::ObjectKind;
use crate::id::BlobId;
use crate::ops::OpsError;
use crate::repository::error::RepositoryError;
use crate::repository::reader::BlobReader;
use crate::repository::writer::{SegmentWriter, Writer};

/// So many targets can be copied into at once.
pub const SIDES_MAX: usize = 64;

/// Some of the targets of a run, by their numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sides(u64);

impl Sides {
    pub fn add(&mut self, side: usize) {
        self.0 |= 1 << side;
    }

    /// Their numbers, upwards.
    pub fn iter(self) -> impl Iterator<Item = usize> {
        (0..SIDES_MAX).filter(move |side| self.0 & 1 << side != 0)
    }
}

impl FromIterator<usize> for Sides {
    fn from_iter<I: IntoIterator<Item = usize>>(sides: I) -> Self {
        let mut all = Sides::default();
        sides.into_iter().for_each(|side| all.add(side));
        all
    }
}

/// One target of a run: a session in it, and what it has of an older snapshot.
pub struct Side<'a> {
    pub writer: &'a Writer<'a>,
    /// Reads the reference's copy.
    pub copies: &'a BlobReader<'a>,
    pub reference: Option<Pair>,
    /// The digest of a region of zeros under its keys.
    pub zero_region: OnceLock<[u8; 32]>,
    /// Files and bytes that were read for it, and what of the snapshot cannot be read.
    pub files_read: AtomicU64,
    pub bytes_read: AtomicU64,
    pub damaged: AtomicU64,
    /// Why nothing more is stored in it. The others go on.
    failure: Mutex<Option<OpsError>>,
    has_failed: AtomicBool,
}

impl<'a> Side<'a> {
    pub fn new(
        writer: &'a Writer<'a>,
        copies: &'a BlobReader<'a>,
        reference: Option<Pair>,
    ) -> Self {
        Side {
            writer,
            copies,
            reference,
            zero_region: OnceLock::new(),
            files_read: AtomicU64::new(0),
            bytes_read: AtomicU64::new(0),
            damaged: AtomicU64::new(0),
            failure: Mutex::new(None),
            has_failed: AtomicBool::new(false),
        }
    }

    /// From now on, nothing is stored in it.
    pub fn fail(&self, error: impl Into<OpsError>) {
        self.failure.lock().get_or_insert(error.into());
        self.has_failed.store(true, Ordering::Relaxed);
    }

    pub fn is_failed(&self) -> bool {
        self.has_failed.load(Ordering::Relaxed)
    }

    /// Why it failed, if it did.
    pub fn take_failure(&self) -> Option<OpsError> {
        self.failure.lock().take()
    }

    pub fn count_damage(&self) {
        self.damaged.fetch_add(1, Ordering::Relaxed);
    }
}

/// What a worker keeps: an open segment of each target that it has stored anything in.
pub struct Segments<'w>(Vec<Option<SegmentWriter<'w>>>);

impl<'w> Segments<'w> {
    pub fn new(sides: &[Side<'w>]) -> Self {
        Segments(sides.iter().map(|_| None).collect())
    }

    /// Stores a chunk in a target, unless it has it. `None`: the target has failed.
    pub fn put(&mut self, number: usize, side: &Side<'w>, bytes: &[u8]) -> Option<BlobId> {
        if side.is_failed() {
            return None;
        }
        let stored = self.try_put(number, side, bytes);
        stored.map_err(|error| side.fail(error)).ok()
    }

    fn try_put(
        &mut self,
        number: usize,
        side: &Side<'w>,
        bytes: &[u8],
    ) -> Result<BlobId, RepositoryError> {
        let segments = match &mut self.0[number] {
            Some(segments) => segments,
            none => none.insert(side.writer.segments(ObjectKind::DataPack)?),
        };
        Ok(segments.put(bytes)?.0)
    }

    /// Stores what is left in the open segments.
    pub fn flush(self, sides: &[Side<'w>]) {
        for (segments, side) in self.0.into_iter().zip(sides) {
            let Some(mut segments) = segments.filter(|_| !side.is_failed()) else { continue };
            if let Err(error) = segments.flush() {
                side.fail(error);
            }
        }
    }
}
