//! Key updates: how a newer keyring reaches key slots whose passphrases nobody here knows.
//!
//! A slot's stretched key gives a key pair, too. Its public half stands in the slot's label, where whoever has the
//! keyring can read it. An update is one object with the new keyring, sealed for any number of slots: creating it
//! is the one step that gives it to all of them (`docs/design/0004-rekey.md`).

use std::collections::{BTreeSet, HashSet};

use zeroize::Zeroizing;

use super::Repository;
use super::chance::Chance;
use super::error::{Kind, Named, RepositoryError, Result};
use super::keys::Opened;
use super::verify::is_damage;
use crate::codec::cipher::{MESSAGE_NONCE_LENGTH, TAG_LENGTH, seal_message, unseal_message};
use crate::codec::digest::derive_key;
use crate::codec::exchange::{public_key, shared_secret};
use crate::format::header::{HEADER_LENGTH, Header};
use crate::format::key_update::{KeyUpdate, Recipient, SEALED_KEY_LENGTH, UpdateHeader};
use crate::format::keyring::{EpochKeys, Keyring};
use crate::id::{KeySlotId, RepositoryId, SessionId};
use crate::store::{Created, ObjectInfo, Store, layout};

/// How often the updates are listed anew because a newer one replaced what was listed before it could be read.
const LISTINGS: usize = 8;

/// Two recipients never have the same key, nor one recipient twice: it is used once, and its nonce says nothing.
const RECIPIENT_NONCE: [u8; MESSAGE_NONCE_LENGTH] = [0; MESSAGE_NONCE_LENGTH];

fn recipient_key(
    header: &UpdateHeader,
    id_key: &[u8; 32],
    slot: KeySlotId,
    shared: &[u8; 32],
    slot_key: &[u8; 32],
) -> Zeroizing<[u8; 32]> {
    // With a secret of the keyring in it, nobody without any keyring could open it even if X25519 were broken.
    let secret = Zeroizing::new(derive_key("aumbry v1 key update secret", id_key));
    let mut material = Zeroizing::new(Vec::with_capacity(164));
    for part in [shared, &header.ephemeral_key, slot_key, &secret] {
        material.extend_from_slice(part);
    }
    material.extend_from_slice(header.repository.as_bytes());
    material.extend_from_slice(slot.as_bytes());
    material.extend_from_slice(&header.revision.to_le_bytes());
    Zeroizing::new(derive_key("aumbry v1 key update recipient", &material))
}

fn commitment(content_key: &[u8; 32]) -> [u8; 32] {
    derive_key("aumbry v1 key update commitment", content_key)
}

fn wrapping_key(content_key: &[u8; 32]) -> Zeroizing<[u8; 32]> {
    Zeroizing::new(derive_key("aumbry v1 key update wrapping key", content_key))
}

/// An update with this keyring for the slots with these public keys. `randomness` and the keyring together give all
/// that is random in it, so that two copies of one machine never seal two things under one key.
pub fn seal_update(
    repository: RepositoryId,
    keyring: &Keyring,
    recipients: &[(KeySlotId, [u8; 32])],
    randomness: &[u8; 32],
) -> Result<Vec<u8>> {
    let plain = Zeroizing::new(keyring.encode());
    let seed = Zeroizing::new([randomness.as_slice(), &plain].concat());
    let ephemeral = Zeroizing::new(derive_key("aumbry v1 key update ephemeral key", &seed));
    let content_key = Zeroizing::new(derive_key("aumbry v1 key update content key", &seed));
    let nonce = derive_key("aumbry v1 key update nonce", &seed);
    let mut header = UpdateHeader {
        revision: keyring.revision,
        repository,
        recipients: recipients.len() as u32,
        wrapped_length: (plain.len() + TAG_LENGTH) as u32,
        ephemeral_key: public_key(&ephemeral),
        commitment: commitment(&content_key),
        nonce: [0; MESSAGE_NONCE_LENGTH],
    };
    header.nonce.copy_from_slice(&nonce[..MESSAGE_NONCE_LENGTH]);
    let associated = header.encode();
    let mut sealed = Vec::with_capacity(recipients.len());
    for (slot, slot_key) in recipients {
        let shared = shared_secret(&ephemeral, slot_key).ok_or_else(|| {
            RepositoryError::corrupt(
                layout::key(*slot),
                "its label has a public key of small order",
            )
        })?;
        let key = recipient_key(&header, &keyring.id_key, *slot, &shared, slot_key);
        let mut sealed_key = [0; SEALED_KEY_LENGTH];
        let message = seal_message(&key, &RECIPIENT_NONCE, &associated, content_key.as_slice());
        sealed_key.copy_from_slice(&message);
        sealed.push(Recipient { slot: *slot, sealed_key });
    }
    let start = KeyUpdate::encode_start(&header, &sealed);
    let wrapped = seal_message(&wrapping_key(&content_key), &header.nonce, &start, &plain);
    Ok(KeyUpdate { header, recipients: sealed, wrapped }.encode())
}

/// The keyring in the update `name`, for the slot with this secret. `None`: the update is for others.
pub fn unseal_update(
    name: &str,
    object: &[u8],
    repository: RepositoryId,
    slot: KeySlotId,
    secret: &[u8; 32],
    id_key: &[u8; 32],
) -> Result<Option<Keyring>> {
    let update = KeyUpdate::decode(object).named(name)?;
    let header = &update.header;
    if header.repository != repository || layout::parse_key_update(name) != Some(header.revision) {
        return Err(RepositoryError::corrupt(
            name,
            "belongs to another repository or bears another name",
        ));
    }
    let Some(recipient) = update.recipient(slot) else { return Ok(None) };
    let shared = shared_secret(secret, &header.ephemeral_key)
        .ok_or_else(|| RepositoryError::corrupt(name, "has a public key of small order"))?;
    let key = recipient_key(header, id_key, slot, &shared, &public_key(secret));
    let opened = unseal_message(&key, &RECIPIENT_NONCE, &header.encode(), &recipient.sealed_key);
    let opened = Zeroizing::new(opened.named(name)?);
    let mut content_key = Zeroizing::new([0; 32]);
    content_key.copy_from_slice(&opened);
    if commitment(&content_key) != header.commitment {
        return Err(RepositoryError::corrupt(name, "does not commit to what it was sealed with"));
    }
    let start = KeyUpdate::encode_start(header, &update.recipients);
    let plain = unseal_message(&wrapping_key(&content_key), &header.nonce, &start, &update.wrapped);
    let plain = Zeroizing::new(plain.named(name)?);
    let keyring = Keyring::decode(&plain).named(name)?;
    // The names of everything that is stored follow from the id key: with another one nothing would be found.
    if keyring.id_key != *id_key || keyring.revision != header.revision {
        return Err(RepositoryError::corrupt(name, "holds another repository's keys"));
    }
    Ok(Some(keyring))
}

pub(super) fn revisions(listed: &[ObjectInfo]) -> BTreeSet<u32> {
    listed.iter().filter_map(|object| layout::parse_key_update(&object.name)).collect()
}

/// Replaces what the slot itself holds by the newest keyring that an update has for it. An update that cannot be
/// read is passed over for an older one, and told: with older keys one may read, and not write.
pub(super) fn follow_updates(
    store: &Store,
    repository: RepositoryId,
    mut listed: Vec<ObjectInfo>,
    mut opened: Opened,
) -> Result<Opened> {
    for _ in 0..LISTINGS {
        let own = opened.keyring.revision;
        let newer: Vec<u32> =
            revisions(&listed).range(own.saturating_add(1)..).rev().copied().collect();
        let mut vanished = false;
        let mut trouble = None;
        for revision in newer {
            match read_update(store, repository, revision, &opened) {
                Ok(Some((keyring, update))) => {
                    opened.keyring = keyring;
                    opened.objects.push(update);
                    break;
                }
                Ok(None) => {
                    trouble.get_or_insert_with(|| {
                        RepositoryError::new(
                            Kind::WrongKey,
                            layout::key(opened.slot),
                            "got no new keys when the repository was rekeyed: what was stored since \
                             can neither be read nor added to with it. Add a passphrase with \
                             `aumbry key add`, opening the repository with another one",
                        )
                    });
                }
                Err(error) if error.kind == Kind::NotFound => {
                    vanished = true;
                    break;
                }
                Err(error) if is_damage(&error) => {
                    trouble.get_or_insert(error);
                }
                Err(error) => return Err(error),
            }
        }
        if !vanished {
            opened.trouble = trouble;
            return Ok(opened);
        }
        listed = store.list(layout::KEYS)?;
    }
    Err(RepositoryError::new(
        Kind::Unavailable,
        layout::KEYS,
        "changes faster than it can be read; run the command again",
    ))
}

/// A keyring, and the object that it came in.
type Update = (Keyring, (String, Vec<u8>));

/// Opens an update, or its copy where it does not open.
fn read_update(
    store: &Store,
    repository: RepositoryId,
    revision: u32,
    opened: &Opened,
) -> Result<Option<Update>> {
    let read = |name: String| -> Result<Option<Update>> {
        let object = store.get(&name)?;
        let (slot, id_key) = (opened.slot, &opened.keyring.id_key);
        let keyring = unseal_update(&name, &object, repository, slot, &opened.secret, id_key)?;
        Ok(keyring.map(|keyring| (keyring, (name, object))))
    };
    match read(layout::key_update(revision)) {
        // What is wrong with the update itself is what matters, unless its copy is whole.
        Err(error) if is_damage(&error) => match read(layout::key_update_copy(revision)) {
            Err(other) if error.kind != Kind::NotFound && is_damage(&other) => Err(error),
            read => read,
        },
        read => read,
    }
}

fn somebody_else(name: String) -> RepositoryError {
    RepositoryError::new(
        Kind::Conflict,
        name,
        "the repository was rekeyed by somebody else at the same time; run the command again",
    )
}

/// What still needs an old epoch's data key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EpochUse {
    /// Packs that are sealed with it.
    pub packs: u64,
    /// Their bytes.
    pub pack_bytes: u64,
    /// Sessions that may still seal packs with it.
    pub sessions: Vec<SessionId>,
    /// Objects of which nobody can tell which epoch sealed them.
    pub unreadable: Vec<String>,
}

impl EpochUse {
    /// Whether the data key may be dropped.
    pub fn is_unused(&self) -> bool {
        self.packs == 0 && self.sessions.is_empty() && self.unreadable.is_empty()
    }
}

impl Repository {
    /// For whoever writes or collects: an error when there are newer keys than those in use, which would seal what is
    /// new with an epoch that was given up. To be called after registering: a rekeying either sees the session
    /// or is seen by it.
    pub fn require_newest_keys(&self) -> Result<()> {
        self.require_newest_keys_of(None)
    }

    /// The same by a listing of `keys/`, if there is one.
    pub(super) fn require_newest_keys_of(&self, listed: Option<&[ObjectInfo]>) -> Result<()> {
        if let Some(error) = &self.keys().trouble {
            return Err(match error.kind {
                Kind::WrongKey => error.clone(),
                _ => RepositoryError {
                    message: format!(
                        "{}; it holds newer keys, without which nothing is written. Bring the object \
                         back from a copy",
                        error.message
                    ),
                    ..error.clone()
                },
            });
        }
        let revisions = match listed {
            Some(listed) => revisions(listed),
            None => revisions(&self.store.list(layout::KEYS)?),
        };
        let newest = revisions.last().copied().unwrap_or(0);
        if newest > self.sealer().keyring().revision {
            return Err(RepositoryError::new(
                Kind::Conflict,
                layout::key_update(newest),
                "the repository was rekeyed while this ran; run the command again",
            ));
        }
        Ok(())
    }

    /// The slots that the update of the keyring in use is for; none for a keyring that came in no update. What a
    /// slot's own object holds may be as new: see [`crate::format::slot::SlotLabel::revision`].
    pub fn update_recipients(&self) -> Result<HashSet<KeySlotId>> {
        let revision = self.sealer().keyring().revision;
        if revision == 0 {
            return Ok(HashSet::new());
        }
        let read = |name: String| -> Result<KeyUpdate> {
            KeyUpdate::decode(&self.store.get(&name)?).named(name)
        };
        let update = read(layout::key_update(revision))
            .or_else(|_| read(layout::key_update_copy(revision)))?;
        Ok(update.recipients.iter().map(|recipient| recipient.slot).collect())
    }

    /// Opens the update or the copy of one under this name with the slot in use. One that is for others cannot be
    /// proven, but for its form.
    pub fn prove_key_update(&self, name: &str) -> Result<()> {
        let id_key = &self.sealer().keyring().id_key;
        let object = self.store.get(name)?;
        unseal_update(name, &object, self.id, self.slot, &self.slot_secret, id_key).map(drop)
    }

    /// The public half of the key pair of the slot in use.
    pub fn slot_public_key(&self) -> [u8; 32] {
        public_key(&self.slot_secret)
    }

    /// The keyring in use with one more epoch.
    pub fn with_new_epoch(&self) -> Result<Keyring> {
        let mut keyring = self.next_keyring()?;
        let newest = keyring.epochs.iter().map(|keys| keys.epoch).max().unwrap_or(0);
        let epoch = newest.checked_add(1).ok_or_else(|| {
            RepositoryError::new(Kind::Invalid, layout::KEYS, "has used up all key epochs")
        })?;
        let chance: &Chance = &self.environment.chance;
        keyring.epochs.push(EpochKeys {
            epoch,
            data_key: Some(chance.bytes()?),
            index_key: chance.bytes()?,
        });
        Ok(keyring)
    }

    /// The keyring in use without the data keys of these epochs. What seals new packs stays.
    pub fn without_data_keys(&self, epochs: &[u32]) -> Result<Keyring> {
        let mut keyring = self.next_keyring()?;
        let newest = self.sealer().newest_epoch();
        for keys in &mut keyring.epochs {
            if keys.epoch != newest && epochs.contains(&keys.epoch) {
                keys.data_key = None;
            }
        }
        Ok(keyring)
    }

    fn next_keyring(&self) -> Result<Keyring> {
        let mut keyring = self.sealer().keyring().clone();
        keyring.revision = keyring.revision.checked_add(1).ok_or_else(|| {
            RepositoryError::new(Kind::Invalid, layout::KEYS, "has used up all revisions")
        })?;
        Ok(keyring)
    }

    /// Gives these slots the keyring, in one step, and proves it. The slot in use must be among them: it is what the
    /// proof is made with.
    pub fn publish_keyring(
        &self,
        keyring: &Keyring,
        recipients: &[(KeySlotId, [u8; 32])],
    ) -> Result<()> {
        let name = layout::key_update(keyring.revision);
        let object = seal_update(self.id, keyring, recipients, &self.environment.chance.bytes()?)?;
        let unseal = |object: &[u8]| {
            let id_key = &keyring.id_key;
            unseal_update(&name, object, self.id, self.slot, &self.slot_secret, id_key)
        };
        // Before anybody else can see it: nothing that does not open for the slot in use is published.
        if unseal(&object)?.as_ref() != Some(keyring) {
            return Err(RepositoryError::corrupt(&name, "does not give back what was put in"));
        }
        // Where a store would write over it, two at the very same time are told apart by what is read back, at best.
        let is_taken = !self.store.is_conditional() && self.store.size(&name)?.is_some();
        if is_taken || self.store.create(&name, object.clone())? == Created::AlreadyThere {
            return Err(somebody_else(name));
        }
        if self.store.get(&name)? != object {
            if self.store.is_conditional() {
                // What the slots hold themselves is what counts again.
                self.store.delete(&name)?;
                return Err(RepositoryError::corrupt(name, "does not come back as it was written"));
            }
            return Err(somebody_else(name));
        }
        // Without it, one damaged object would cost every slot the newest keys.
        self.store.create(&layout::key_update_copy(keyring.revision), object)?;
        Ok(())
    }

    /// Removes the updates before this revision. Only for when nobody needs them: every slot has this one.
    pub fn remove_updates_before(&self, revision: u32) -> Result<()> {
        for older in revisions(&self.store.list(layout::KEYS)?).range(..revision) {
            self.delete_unless_locked(&layout::key_update(*older))?;
            self.delete_unless_locked(&layout::key_update_copy(*older))?;
        }
        Ok(())
    }

    /// What is seen to need the data keys of these epochs. Sessions are listed before packs: whoever has decided has
    /// uploaded what counts, and whoever registers later sees the newest keys. A listing may lack what is there: that
    /// nothing is lost without the keys is for the caller to prove.
    pub fn epoch_uses(&self, epochs: &[u32]) -> Result<Vec<EpochUse>> {
        let mut uses = vec![EpochUse::default(); epochs.len()];
        let mut count = |name: &str, epoch: Option<u32>, note: &dyn Fn(&mut EpochUse)| {
            for (wanted, found) in epochs.iter().zip(&mut uses) {
                match epoch {
                    Some(epoch) if epoch == *wanted => note(found),
                    Some(_) => {}
                    None => found.unreadable.push(name.to_string()),
                }
            }
        };
        for session in self.undecided_sessions()? {
            let name = layout::session(session);
            match self.epoch_of(&name) {
                // Decided and cleared away since.
                Err(error) if error.kind == Kind::NotFound => {}
                epoch => count(&name, epoch?, &|found| found.sessions.push(session)),
            }
        }
        let mut known = std::collections::HashMap::new();
        self.cache.each_pack_info(|_, pack| {
            known.insert(pack.id, pack.header.epoch);
        })?;
        let mut listed = HashSet::new();
        for object in self.store.list(layout::PACKS)? {
            let Some(id) = layout::parse_pack(&object.name) else { continue };
            listed.insert(id);
            let epoch = match known.get(&id) {
                Some(epoch) => Some(*epoch),
                None => match self.epoch_of(&object.name) {
                    Err(error) if error.kind == Kind::NotFound => continue,
                    epoch => epoch?,
                },
            };
            count(&object.name, epoch, &|found| {
                found.packs += 1;
                found.pack_bytes += object.size;
            });
        }
        // A listing may leave out what is there, and a key that is dropped is gone.
        for (id, epoch) in known.iter().filter(|(id, _)| !listed.contains(id)) {
            let name = layout::pack(*id);
            let Some(size) = self.store.size(&name)? else { continue };
            count(&name, Some(*epoch), &|found| {
                found.packs += 1;
                found.pack_bytes += size;
            });
        }
        Ok(uses)
    }

    /// Whether this session registered with keys of an older epoch than the newest, as far as can be told.
    pub fn holds_old_keys(&self, session: SessionId) -> Result<bool> {
        if self.sealer().keyring().epochs.len() < 2 {
            return Ok(false);
        }
        match self.epoch_of(&layout::session(session)) {
            // Decided and cleared away since.
            Err(error) if error.kind == Kind::NotFound => Ok(false),
            epoch => Ok(epoch?.is_some_and(|epoch| epoch < self.sealer().newest_epoch())),
        }
    }

    /// The epoch in the clear header of an object; `None` when it cannot be told.
    fn epoch_of(&self, name: &str) -> Result<Option<u32>> {
        match self.store.get_range(name, 0..HEADER_LENGTH as u64) {
            Ok(header) => Ok(Header::decode(&header).ok().map(|header| header.epoch)),
            Err(error) if error.kind == crate::store::Kind::Truncated => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}
