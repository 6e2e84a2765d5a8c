//! Whether bytes are those that were once written under a name, as far as keys can tell: every frame of an object that is
//! sealed, and a key slot by its label.

use super::error::{Named, RepositoryError, Result};
use super::key_updates::unseal_update;
use super::keys;
use super::replica::{Class, class_of};
use super::seal::Sealer;
use crate::format::header::{Header, ObjectKind};
use crate::id::KeySlotId;
use crate::store::layout;

/// What it takes to prove objects.
pub(super) struct Prover<'k> {
    pub sealer: &'k Sealer,
    /// The slot that opened the repository, and the secret half of its key pair: key updates are for slots.
    pub slot: KeySlotId,
    pub slot_secret: &'k [u8; 32],
}

impl Prover<'_> {
    /// Whether these are the bytes. What only a newer version or other keys can read is an error of that kind. What is about
    /// one store only, and what is nothing of the format, is not looked at.
    pub fn prove(&self, name: &str, object: &[u8]) -> Result<()> {
        let sealer = self.sealer;
        if let Some(key) = layout::parse_key(name) {
            let repository = sealer.repository();
            return keys::read_slot(name, key, object, repository, sealer.keyring()).map(drop);
        }
        if layout::parse_key_update(name).is_some() {
            let id_key = &sealer.keyring().id_key;
            let (id, secret) = (sealer.repository(), self.slot_secret);
            return unseal_update(name, object, id, self.slot, secret, id_key).map(drop);
        }
        let kinds: &[ObjectKind] = match class_of(name) {
            None => return Ok(()),
            Some(Class::Packs) => &[ObjectKind::DataPack, ObjectKind::TreePack],
            Some(Class::Config) => &[ObjectKind::Config],
            Some(Class::Index) => &[ObjectKind::Index],
            Some(Class::Tombs) => &[ObjectKind::Tomb],
            Some(Class::Snapshots) => &[ObjectKind::Snapshot],
            Some(Class::Marks | Class::Confirmed) => &[ObjectKind::Mark],
            Some(Class::Generations | Class::Keys | Class::Updates) => {
                &[ObjectKind::Condemned, ObjectKind::Sweep]
            }
        };
        let header = Header::decode(object).named(name)?;
        if kinds.contains(&ObjectKind::DataPack) && header.parity.is_some() {
            let mended = sealer.mend(name, None, object.to_vec())?;
            return match mended.was_whole() {
                true => Ok(()),
                false => Err(RepositoryError::corrupt(name, mended.describe())),
            };
        }
        sealer.unseal_stream(kinds, name, object.to_vec()).map(drop)
    }
}
