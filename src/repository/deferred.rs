//! Segments that a check proves when they are opened as bases of deltas, so that they are decompressed once and not twice.
//!
//! To prove a pack, its segments are decompressed and their blobs held against their names. A segment whose blobs are bases
//! is decompressed once more when the deltas against it are proven. So whoever proves the pack opens every frame of such
//! a segment, and leaves it: what was authenticated under this name, at this place, is what the reader will find there. When the
//! reader opens it for a delta, its blobs are held against their names. What nobody opens in the end is proven as always.
//!
//! Memory: 36 bytes for each blob of a segment that was left, up to 65 536 of them, and about 100 for each segment that
//! is a base's, of which whoever asks for this names a bounded number.

use std::collections::{HashMap, HashSet};

use parking_lot::Mutex;

use super::verify::wrong_blobs;
use crate::format::pack::BlobRecord;
use crate::id::{BlobId, PackId};

/// More are not left for later: 2 MiB, and so much has to be read again when a check is stopped.
const MOST_BLOBS: usize = 1 << 16;

/// A segment: its pack, and which one of it, from 0.
pub type Segment = (PackId, u32);

/// What is proven later.
pub struct Deferred {
    bases: HashSet<Segment>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// What the blobs of each segment that was left are called, and how long they are.
    left: HashMap<Segment, Vec<BlobRecord>>,
    /// How many blobs those are.
    blobs: usize,
    /// Those that were opened before anybody left them: they may not be opened again.
    opened: HashSet<Segment>,
    packs: HashMap<PackId, Pack>,
    /// Packs of which nothing is left, and that are whole.
    proven: Vec<PackId>,
}

#[derive(Default)]
struct Pack {
    /// How many of its segments were left and not proven yet.
    left: usize,
    /// All else of it is proven.
    is_read: bool,
    /// One of those that were left is not what it should be.
    is_wrong: bool,
}

impl Pack {
    fn is_proven(&self) -> bool {
        self.is_read && self.left == 0 && !self.is_wrong
    }
}

impl Deferred {
    /// For a check of packs in which these segments hold the bases of deltas.
    pub fn new(bases: HashSet<Segment>) -> Self {
        Deferred { bases, state: Mutex::default() }
    }

    /// Leaves a segment, each byte of which was authenticated, until it is opened for a delta. `false`: that may never be.
    pub(super) fn leave(&self, segment: Segment, blobs: &[BlobRecord]) -> bool {
        if !self.bases.contains(&segment) {
            return false;
        }
        let mut state = self.state.lock();
        if state.opened.contains(&segment) || state.blobs + blobs.len() > MOST_BLOBS {
            return false;
        }
        if state.left.insert(segment, blobs.to_vec()).is_none() {
            state.blobs += blobs.len();
            state.packs.entry(segment.0).or_default().left += 1;
        }
        true
    }

    /// A segment was opened, and this is what is in it.
    pub(super) fn opened(&self, segment: Segment, plain: &[u8], name: impl Fn(&[u8]) -> BlobId) {
        if !self.bases.contains(&segment) {
            return;
        }
        let blobs = {
            let mut state = self.state.lock();
            let Some(blobs) = state.left.remove(&segment) else {
                state.opened.insert(segment);
                return;
            };
            state.blobs -= blobs.len();
            blobs
        };
        let is_right = wrong_blobs(plain, &blobs, name).is_none();
        let mut state = self.state.lock();
        let Some(pack) = state.packs.get_mut(&segment.0) else { return };
        pack.left -= 1;
        pack.is_wrong |= !is_right;
        if pack.is_proven() {
            state.packs.remove(&segment.0);
            state.proven.push(segment.0);
        }
    }

    /// All of a pack is proven but what was left of it. `false`: something was, and is not proven yet.
    pub fn is_read(&self, id: PackId) -> bool {
        let mut state = self.state.lock();
        let Some(pack) = state.packs.get_mut(&id) else { return true };
        pack.is_read = true;
        let is_proven = pack.is_proven();
        if is_proven {
            state.packs.remove(&id);
        }
        is_proven
    }

    /// A pack is proven otherwise: nothing of it is left.
    pub fn forget(&self, id: PackId) {
        let mut state = self.state.lock();
        if state.packs.remove(&id).is_some() {
            let State { left, blobs, .. } = &mut *state;
            left.retain(|(pack, _), names| {
                let stays = *pack != id;
                *blobs -= if stays { 0 } else { names.len() };
                stays
            });
        }
    }

    /// The packs that were proven since this was asked last, after they were read.
    pub fn take_proven(&self) -> Vec<PackId> {
        std::mem::take(&mut self.state.lock().proven)
    }

    /// The packs of which something is left, or was wrong when it was opened, and whether it was. Nothing of them is left any
    /// more: they have to be proven otherwise.
    pub fn take_unproven(&self) -> HashMap<PackId, bool> {
        let mut state = self.state.lock();
        state.left.clear();
        state.blobs = 0;
        let packs = std::mem::take(&mut state.packs);
        packs.into_iter().map(|(id, pack)| (id, pack.is_wrong)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::SessionId;

    const NAME: fn(&[u8]) -> BlobId = |blob| BlobId(*blake3::hash(blob).as_bytes());

    fn pack(number: u32) -> PackId {
        PackId { session: SessionId { generation: 0, random: [7; 16] }, number }
    }

    fn blobs(of: &[&[u8]]) -> Vec<BlobRecord> {
        of.iter().map(|blob| BlobRecord { id: NAME(blob), length: blob.len() as u32 }).collect()
    }

    fn deferred() -> Deferred {
        Deferred::new([(pack(1), 0), (pack(1), 2), (pack(2), 0)].into())
    }

    #[test]
    fn a_pack_is_proven_when_all_that_was_left_of_it_is() {
        let deferred = deferred();
        let names = blobs(&[b"one", b"two"]);
        assert!(deferred.leave((pack(1), 0), &names) && deferred.leave((pack(1), 2), &names));
        assert!(!deferred.leave((pack(1), 1), &names), "it is no base");
        assert!(deferred.is_read(pack(3)), "nothing of it was left");
        deferred.opened((pack(1), 0), b"onetwo", NAME);
        assert!(!deferred.is_read(pack(1)));
        assert_eq!(deferred.take_proven(), []);
        deferred.opened((pack(1), 2), b"onetwo", NAME);
        assert_eq!(deferred.take_proven(), [pack(1)]);
        assert!(deferred.take_proven().is_empty() && deferred.take_unproven().is_empty());
    }

    #[test]
    fn what_is_wrong_is_never_proven() {
        for wrong in [&b"onetwx"[..], b"onetw", b"onetwo!", b""] {
            let deferred = deferred();
            assert!(deferred.leave((pack(2), 0), &blobs(&[b"one", b"two"])));
            assert!(!deferred.is_read(pack(2)));
            deferred.opened((pack(2), 0), wrong, NAME);
            deferred.opened((pack(2), 0), b"onetwo", NAME);
            assert_eq!(deferred.take_proven(), []);
            assert_eq!(deferred.take_unproven(), [(pack(2), true)].into());
            assert!(deferred.take_unproven().is_empty() && deferred.is_read(pack(2)));
        }
    }

    #[test]
    fn what_was_opened_before_is_not_left() {
        let deferred = deferred();
        deferred.opened((pack(2), 0), b"onetwo", NAME);
        assert!(!deferred.leave((pack(2), 0), &blobs(&[b"one", b"two"])));
        assert!(deferred.is_read(pack(2)));
    }

    #[test]
    fn what_nobody_opened_is_told() {
        let deferred = deferred();
        assert!(deferred.leave((pack(2), 0), &blobs(&[b"one"])));
        assert_eq!(deferred.take_unproven(), [(pack(2), false)].into());
        deferred.opened((pack(2), 0), b"one", NAME);
        assert_eq!(deferred.take_proven(), []);
    }

    #[test]
    fn what_is_forgotten_may_be_left_again() {
        let deferred = deferred();
        let names = blobs(&[b"one"]);
        assert!(deferred.leave((pack(2), 0), &names));
        deferred.forget(pack(2));
        deferred.opened((pack(2), 0), b"one", NAME);
        assert!(deferred.take_proven().is_empty() && deferred.take_unproven().is_empty());
        assert_eq!(deferred.state.lock().blobs, 0);
    }

    #[test]
    fn no_more_is_left_than_there_is_room_for() {
        let deferred = deferred();
        let many = vec![BlobRecord { id: NAME(b""), length: 0 }; MOST_BLOBS];
        assert!(deferred.leave((pack(1), 0), &many));
        assert!(!deferred.leave((pack(1), 2), &blobs(&[b"one"])));
        deferred.opened((pack(1), 0), b"", NAME);
        assert!(deferred.leave((pack(1), 2), &blobs(&[b"one"])));
    }
}
