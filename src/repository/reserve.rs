//! Room for what gives room. Before a collector deletes anything, it has to say so; forgetting makes a tomb. On a disk
//! that is full to the last byte neither could be written, so there are a few objects that mean nothing and that go
//! instead.

use super::Repository;
use super::error::Result;
use crate::format::header::ObjectKind;
use crate::store::{Created, Kind, layout};

/// How many parts the reserve has.
pub const PARTS: u32 = 4;
/// Payload of each, in bytes. One has room for about fifteen tombs on a disk with blocks of 4 KiB, or for the
/// condemned list and the sweep of hundreds of packs and a thousand snapshots.
const PART_LENGTH: usize = 64 << 10;

/// Who may take from the reserve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spender {
    /// Whoever forgets snapshots: half of it, so that the rest is there to collect what they needed.
    Forgetting,
    /// A collector.
    Collecting,
}

impl Spender {
    fn leaves(self) -> usize {
        match self {
            Spender::Forgetting => PARTS as usize / 2,
            Spender::Collecting => 0,
        }
    }
}

impl Repository {
    /// Creates an object. When the store is full, parts of the reserve go until there is room for it.
    pub(super) fn create_at_need(
        &self,
        name: &str,
        object: Vec<u8>,
        spender: Option<Spender>,
    ) -> Result<Created> {
        loop {
            let created = self.store.create(name, object.clone());
            let is_full = created.as_ref().is_err_and(|error| error.kind == Kind::Full);
            match spender {
                Some(spender) if is_full && self.spend(spender)? => {}
                _ => return Ok(created?),
            }
        }
    }

    /// Deletes a part of the reserve. `false`: there is none for this one to take.
    fn spend(&self, spender: Spender) -> Result<bool> {
        let listed = self.store.list(layout::GC)?;
        let parts: Vec<_> =
            listed.iter().filter(|object| layout::parse_reserve(&object.name).is_some()).collect();
        let Some(part) = parts.get(spender.leaves()) else { return Ok(false) };
        self.store.delete(&part.name)?;
        Ok(true)
    }

    /// Makes the parts of the reserve that are not there, as far as there is room; only where the store is a disk.
    pub fn fill_reserve(&self) -> Result<()> {
        if !self.store.is_disk() {
            return Ok(());
        }
        let listed = self.store.list(layout::GC)?;
        for part in 0..PARTS {
            let name = layout::reserve(part);
            if listed.iter().any(|object| object.name == name) {
                continue;
            }
            // Sealed, it does not compress, and a file system that compresses gives it its room all the same.
            let object = self.seal(ObjectKind::Mark, &name, vec![0; PART_LENGTH])?;
            match self.store.create(&name, object) {
                Err(error) if error.kind == Kind::Full => return Ok(()),
                created => created?,
            };
        }
        Ok(())
    }
}
