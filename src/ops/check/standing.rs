//! What stands in spite of the damage that was found: where else a blob is, and whether it can be read from there.

use std::collections::{HashMap, HashSet};

use super::known::Known;
use super::mirrors::Elsewhere;
use super::packs::Packs;
use crate::id::{BlobId, PackId};
use crate::monitor::SilentMonitor;
use crate::ops::OpsError;
use crate::ops::references::BlobKey;
use crate::repository::Repository;
use crate::repository::error::Result;
use crate::repository::index::Location;
use crate::repository::verify::PackProof;

/// Which blobs stand somewhere.
pub struct Standing<'s> {
    packs: &'s Packs,
    known: &'s Known,
    repository: &'s Repository,
    /// What damaged packs have lost, and which were read.
    lost: HashMap<PackId, HashSet<BlobKey>>,
    read: &'s HashSet<PackId>,
    /// Packs with their lengths that the store shows by now, in order, if some have gone.
    now: Vec<(PackId, u64)>,
    /// What other stores have of packs that this one lost, if that counts.
    elsewhere: Option<&'s Elsewhere>,
}

impl<'s> Standing<'s> {
    /// After these packs were `read`, of which some are `damaged`.
    pub fn new(
        packs: &'s Packs,
        known: &'s Known,
        repository: &'s Repository,
        damaged: &HashMap<PackId, PackProof>,
        read: &'s HashSet<PackId>,
        elsewhere: Option<&'s Elsewhere>,
    ) -> std::result::Result<Self, OpsError> {
        let lost_of = |proof: &PackProof| proof.lost.iter().map(BlobKey::new).collect();
        let lost = damaged.iter().map(|(id, proof)| (*id, lost_of(proof))).collect();
        // Collectors that gave this check up may have copied what is needed, and dropped what it was copied from.
        let some_went = damaged.values().any(|proof| proof.is_gone) || !packs.missing.is_empty();
        let mut now = Vec::new();
        if some_went {
            repository.refresh_index(&SilentMonitor)?;
            now = repository.inventory()?.packs;
        }
        Ok(Standing { packs, known, repository, lost, read, now, elsewhere })
    }

    /// Whether this copy is in a pack that is there, and was not found to be lost in it.
    fn has(&self, blob: &BlobId, copy: &Location) -> Result<bool> {
        let pack = self.repository.cache().pack(copy.pack)?;
        if self.elsewhere.is_some_and(|elsewhere| elsewhere.has(&pack.id, blob)) {
            return Ok(true);
        }
        let is_there = self.packs.has(pack.id, pack.object_length)
            || self.now.binary_search(&(pack.id, pack.object_length)).is_ok();
        let is_lost = match self.lost.get(&pack.id) {
            Some(lost) => lost.contains(&BlobKey::new(blob)),
            None => !self.read.contains(&pack.id) && self.known.says_lost(&pack.id, blob),
        };
        Ok(is_there && !is_lost)
    }

    /// Whether there is a copy of the blob that is as it should be, be it a delta that lacks its bases.
    pub fn stands_anyhow(&self, blob: &BlobId) -> Result<bool> {
        self.any_copy(blob, |copy| self.has(blob, copy))
    }

    /// Whether the blob can be read without any other.
    fn stands_plainly(&self, blob: &BlobId) -> Result<bool> {
        self.any_copy(blob, |copy| Ok(!copy.is_delta && self.has(blob, copy)?))
    }

    /// Whether the blob can be read from a delta: one whose bases are all there.
    fn stands_as_delta(&self, blob: &BlobId) -> Result<bool> {
        self.any_copy(blob, |copy| {
            if !copy.is_delta || !self.has(blob, copy)? {
                return Ok(false);
            }
            for base in self.repository.cache().bases(copy)? {
                if !self.stands_plainly(&base)? {
                    return Ok(false);
                }
            }
            Ok(true)
        })
    }

    fn any_copy(&self, blob: &BlobId, fits: impl Fn(&Location) -> Result<bool>) -> Result<bool> {
        for copy in self.repository.cache().copies(blob)? {
            if fits(&copy)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Those of these blobs that stand nowhere, and what is read against them.
    pub fn lost_of(&self, blobs: &[BlobId]) -> Result<Vec<BlobKey>> {
        let mut lost = Vec::new();
        for blob in blobs {
            if !self.stands_anyhow(blob)? {
                lost.push(BlobKey::new(blob));
            }
            lost.extend(self.lost_with(blob)?);
        }
        Ok(lost)
    }

    /// What is lost when deltas cannot be read against a blob; nothing when they can.
    pub fn lost_with(&self, base: &BlobId) -> Result<Vec<BlobKey>> {
        let mut lost = Vec::new();
        let mut against = self.packs.deltas.against(base).peekable();
        if against.peek().is_none() || self.stands_plainly(base)? {
            return Ok(lost);
        }
        for delta in against {
            if !self.stands_plainly(delta)? && !self.stands_as_delta(delta)? {
                lost.push(BlobKey::new(delta));
            }
        }
        Ok(lost)
    }
}
