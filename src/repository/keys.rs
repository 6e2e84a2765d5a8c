//! Key slots: ways to the keyring. Adding, opening, listing, removing.

use zeroize::Zeroizing;

use super::chance::Chance;
use super::error::{Kind, Named, RepositoryError, Result};
use super::key_updates::follow_updates;
use super::verify::is_damage;
use crate::clock::Clock;
use crate::codec::cipher::{TAG_LENGTH, seal_message, unseal_message};
use crate::codec::digest::derive_key;
use crate::codec::exchange::public_key;
use crate::codec::kdf::{Argon2Cost, stretch_passphrase};
use crate::format::keyring::Keyring;
use crate::format::slot::{SLOT_HEADER_LENGTH, SlotHeader, SlotLabel, Way};
use crate::id::{KeySlotId, RepositoryId};
use crate::store::layout;
use crate::store::{Created, ObjectInfo, Store};

/// What a person has to open a repository with.
pub enum Credential {
    /// A passphrase.
    Passphrase(Zeroizing<String>),
    /// A recovery key: 24 words, or the 256 bits they stand for.
    Recovery(Zeroizing<[u8; 32]>),
}

impl Credential {
    /// The recovery key that these 24 words stand for.
    pub fn from_words(words: &str) -> Result<Self> {
        let mnemonic = bip39::Mnemonic::parse_in_normalized(bip39::Language::English, words.trim())
            .map_err(|error| {
                RepositoryError::new(
                    Kind::Invalid,
                    "recovery key",
                    format!("{error}; it is 24 words, as they were shown when it was made"),
                )
            })?;
        let (entropy, length) = mnemonic.to_entropy_array();
        if length != 32 {
            return Err(RepositoryError::new(
                Kind::Invalid,
                "recovery key",
                "is not 24 words long",
            ));
        }
        let mut key = Zeroizing::new([0; 32]);
        key.copy_from_slice(&entropy[..32]);
        Ok(Credential::Recovery(key))
    }

    /// The 24 words of a recovery key; `None` for a passphrase.
    pub fn words(&self) -> Option<String> {
        match self {
            Credential::Passphrase(_) => None,
            Credential::Recovery(key) => {
                Some(bip39::Mnemonic::from_entropy(key.as_slice()).ok()?.to_string())
            }
        }
    }

    /// The slot's stretched key, when the slot is one that this opens.
    fn stretch(&self, header: &SlotHeader) -> Result<Option<Zeroizing<[u8; 32]>>> {
        match (self, header.way) {
            (Credential::Passphrase(passphrase), Way::Passphrase { memory_kib, passes, lanes }) => {
                let cost = Argon2Cost { memory_kib, passes, lanes };
                if !cost.is_valid() {
                    return Err(RepositoryError::corrupt(
                        layout::key(header.id),
                        format!("asks for a derivation out of bounds: {cost:?}"),
                    ));
                }
                let stretched = stretch_passphrase(passphrase.as_bytes(), &header.salt, cost);
                stretched.map(Some).ok_or_else(|| {
                    RepositoryError::new(
                        Kind::Unavailable,
                        layout::key(header.id),
                        format!("deriving the key needs {} MiB of memory", memory_kib >> 10),
                    )
                })
            }
            (Credential::Recovery(key), Way::Recovery) => {
                let material = Zeroizing::new([key.as_slice(), &header.salt].concat());
                Ok(Some(Zeroizing::new(derive_key("aumbry v1 recovery key", &material))))
            }
            _ => Ok(None),
        }
    }
}

fn wrapping_key(stretched: &[u8; 32]) -> Zeroizing<[u8; 32]> {
    Zeroizing::new(derive_key("aumbry v1 slot wrapping key", stretched))
}

fn commitment(stretched: &[u8; 32]) -> [u8; 32] {
    derive_key("aumbry v1 slot commitment", stretched)
}

fn label_key(keyring: &Keyring) -> Zeroizing<[u8; 32]> {
    Zeroizing::new(derive_key("aumbry v1 slot label", &keyring.id_key))
}

/// The secret half of the slot's key pair: for giving the slot a newer keyring without its passphrase.
fn slot_secret(stretched: &[u8; 32]) -> Zeroizing<[u8; 32]> {
    Zeroizing::new(derive_key("aumbry v1 slot exchange key", stretched))
}

/// What a credential opens.
pub struct Opened {
    /// The slot.
    pub slot: KeySlotId,
    /// The newest keyring that the slot leads to.
    pub keyring: Keyring,
    /// Secret half of the slot's key pair.
    pub secret: Zeroizing<[u8; 32]>,
    /// Why newer keys, of which there are some, could not be had: with these one may read, and not write.
    pub trouble: Option<RepositoryError>,
    /// The objects that led there, with their names: the slot, and an update, if there is one.
    pub objects: Vec<(String, Vec<u8>)>,
}

/// A slot as a list shows it.
#[derive(Debug, Clone)]
pub struct KeySlot {
    /// Its name.
    pub id: KeySlotId,
    /// How it is opened.
    pub way: Way,
    /// What its maker said of it.
    pub label: SlotLabel,
}

/// The cost that about 0.11 seconds buy on this machine: the floor's memory, which keeps the peak memory of every later
/// command low, and as many passes as fit into them, but never fewer than the floor's.
pub fn calibrate(clock: &dyn Clock) -> Argon2Cost {
    // It was 0.15 when deriving took 1.4 times as long: the same machine gets the same passes
    // (`docs/design/0002-where-the-code-departs.md`).
    const WANTED_SECONDS: f64 = 0.11;
    let floor = Argon2Cost::FLOOR;
    let start = clock.elapsed();
    let _ = stretch_passphrase(b"calibration", &[0; 32], floor);
    let seconds = (clock.elapsed() - start).as_secs_f64().max(0.001);
    let passes = (f64::from(floor.passes) * WANTED_SECONDS / seconds) as u32;
    Argon2Cost { passes: passes.clamp(floor.passes, 64), ..floor }
}

/// Makes a slot that opens with `credential`, and proves it by opening it again from the store. The slot's public
/// key and the keyring's revision are filled into the label.
pub fn add(
    store: &Store,
    repository: RepositoryId,
    keyring: &Keyring,
    credential: &Credential,
    cost: Argon2Cost,
    label: &SlotLabel,
    chance: &Chance,
) -> Result<Opened> {
    let way = match credential {
        Credential::Passphrase(_) => {
            Way::Passphrase { memory_kib: cost.memory_kib, passes: cost.passes, lanes: cost.lanes }
        }
        Credential::Recovery(_) => Way::Recovery,
    };
    let plain = Zeroizing::new(keyring.encode());
    let mut header = SlotHeader {
        way,
        repository,
        id: KeySlotId(chance.bytes()?),
        salt: chance.bytes()?,
        commitment: [0; 32],
        keyring_nonce: chance.bytes()?,
        label_nonce: chance.bytes()?,
        wrapped_length: (plain.len() + TAG_LENGTH) as u32,
    };
    let name = layout::key(header.id);
    let stretched = credential
        .stretch(&header)?
        .ok_or_else(|| RepositoryError::new(Kind::Invalid, &name, "does not fit its way"))?;
    header.commitment = commitment(&stretched);
    let mut object = header.encode().to_vec();
    let key = wrapping_key(&stretched);
    let wrapped = seal_message(&key, &header.keyring_nonce, &object, &plain);
    object.extend_from_slice(&wrapped);
    let label = SlotLabel {
        public_key: Some(public_key(&slot_secret(&stretched))),
        revision: keyring.revision,
        ..label.clone()
    };
    let sealed = seal_message(&label_key(keyring), &header.label_nonce, &object, &label.encode());
    object.extend_from_slice(&sealed);
    if store.create(&name, object)? == Created::AlreadyThere {
        return Err(RepositoryError::new(Kind::Conflict, name, "is already there"));
    }
    // A slot that was written wrongly must be found now, while the old ones are still there.
    let object = store.get(&name)?;
    match open_slot(&name, &object, repository, credential)? {
        Some(opened) if opened.keyring == *keyring => Ok(opened),
        _ => Err(RepositoryError::corrupt(name, "does not give back the keys that were put in")),
    }
}

/// What the slot itself holds, if `credential` opens it.
pub(super) fn open_slot(
    name: &str,
    object: &[u8],
    repository: RepositoryId,
    credential: &Credential,
) -> Result<Option<Opened>> {
    let header = SlotHeader::decode(object).named(name)?;
    if header.repository != repository {
        return Ok(None);
    }
    if layout::key(header.id) != name {
        return Err(RepositoryError::corrupt(name, "bears another slot's name"));
    }
    let Some(stretched) = credential.stretch(&header)? else { return Ok(None) };
    if commitment(&stretched) != header.commitment {
        return Ok(None);
    }
    let end = SLOT_HEADER_LENGTH + header.wrapped_length as usize;
    let wrapped = object
        .get(SLOT_HEADER_LENGTH..end)
        .ok_or_else(|| RepositoryError::corrupt(name, "is cut short"))?;
    let plain = unseal_message(
        &wrapping_key(&stretched),
        &header.keyring_nonce,
        &object[..SLOT_HEADER_LENGTH],
        wrapped,
    )
    .named(name)?;
    let plain = Zeroizing::new(plain);
    let keyring = Keyring::decode(&plain).named(name)?;
    let secret = slot_secret(&stretched);
    let objects = vec![(name.to_string(), object.to_vec())];
    Ok(Some(Opened { slot: header.id, keyring, secret, trouble: None, objects }))
}

/// Like [`open`], by a listing that may have been made before the config was there or while somebody changed keys: it is
/// made anew before anything is said to be wrong.
pub(super) fn open_by_early_listing(
    store: &Store,
    listed: Vec<ObjectInfo>,
    repository: RepositoryId,
    credential: &Credential,
) -> Result<Opened> {
    let names = |listed: &[ObjectInfo]| -> Vec<String> {
        listed.iter().map(|object| object.name.clone()).collect()
    };
    let before = names(&listed);
    match open_listed(store, listed, repository, credential) {
        Err(error) if store.answers_at_once() && error.kind != Kind::Interrupted => {
            let again = store.list(layout::KEYS)?;
            match names(&again) == before {
                true => Err(error),
                false => open_listed(store, again, repository, credential),
            }
        }
        opened => opened,
    }
}

/// Finds the slot that `credential` opens, and the newest keyring that there is for it. A slot that is damaged is
/// passed over while another opens.
pub fn open(store: &Store, repository: RepositoryId, credential: &Credential) -> Result<Opened> {
    open_listed(store, store.list(layout::KEYS)?, repository, credential)
}

fn open_listed(
    store: &Store,
    listed: Vec<ObjectInfo>,
    repository: RepositoryId,
    credential: &Credential,
) -> Result<Opened> {
    let opened = find_slot(store, &listed, repository, credential)?;
    follow_updates(store, repository, listed, opened)
}

fn find_slot(
    store: &Store,
    listed: &[ObjectInfo],
    repository: RepositoryId,
    credential: &Credential,
) -> Result<Opened> {
    let mut damage = None;
    let (mut slots, mut damaged) = (0, 0);
    for object in listed.iter().filter(|object| layout::parse_key(&object.name).is_some()) {
        slots += 1;
        let opened = store
            .get(&object.name)
            .map_err(RepositoryError::from)
            .and_then(|bytes| open_slot(&object.name, &bytes, repository, credential));
        match opened {
            Ok(Some(opened)) => return Ok(opened),
            Ok(None) => {}
            Err(error) => {
                damaged += 1;
                damage = Some(error);
            }
        }
    }
    let tried = slots - damaged;
    match damage {
        Some(error) if tried == 0 => Err(error),
        Some(error) => Err(RepositoryError::new(
            Kind::WrongKey,
            store.location(),
            format!("no readable key slot opens with this, and {damaged} cannot be read ({error})"),
        )),
        None if slots == 0 => Err(RepositoryError::corrupt(
            store.location(),
            "has no key slot left: nothing can open it; restore the keys/ folder from a copy",
        )),
        None => Err(RepositoryError::new(
            Kind::WrongKey,
            store.location(),
            match credential {
                Credential::Passphrase(_) => "wrong passphrase",
                Credential::Recovery(_) => "wrong recovery key",
            },
        )),
    }
}

/// What `credential` opens, of whatever repositories there are slots: for when the config, which tells whose count, is
/// gone. At least one.
pub(super) fn open_any(
    store: &Store,
    credential: &Credential,
) -> Result<Vec<(RepositoryId, Opened)>> {
    let mut repositories = Vec::new();
    let mut damage = None;
    for object in store.list(layout::KEYS)? {
        if layout::parse_key(&object.name).is_none() {
            continue;
        }
        let bytes = store.get(&object.name)?;
        match SlotHeader::decode(&bytes).named(&object.name) {
            Ok(header) if repositories.contains(&header.repository) => {}
            Ok(header) => repositories.push(header.repository),
            Err(error) => damage = Some(error),
        }
    }
    let mut opened = Vec::new();
    for repository in repositories {
        match open(store, repository, credential) {
            Ok(keys) => opened.push((repository, keys)),
            Err(error) if is_damage(&error) => damage = Some(error),
            Err(error) => return Err(error),
        }
    }
    match damage {
        _ if !opened.is_empty() => Ok(opened),
        Some(error) => Err(error),
        None => Err(RepositoryError::corrupt(store.location(), "has no key slot left")),
    }
}

/// All slots of this repository, each proven undamaged; what is damaged comes as an error.
pub fn list(
    store: &Store,
    repository: RepositoryId,
    keyring: &Keyring,
) -> Result<Vec<Result<KeySlot>>> {
    let mut slots = Vec::new();
    for object in store.list(layout::KEYS)? {
        let Some(id) = layout::parse_key(&object.name) else { continue };
        let slot = store
            .get(&object.name)
            .map_err(RepositoryError::from)
            .and_then(|bytes| read_slot(&object.name, id, &bytes, repository, keyring));
        slots.push(slot);
    }
    Ok(slots)
}

/// What is known of a key slot without what opens it: its header and its label, which prove each other.
pub(super) fn read_slot(
    name: &str,
    id: KeySlotId,
    bytes: &[u8],
    repository: RepositoryId,
    keyring: &Keyring,
) -> Result<KeySlot> {
    let header = SlotHeader::decode(bytes).named(name)?;
    if header.repository != repository || header.id != id {
        return Err(RepositoryError::corrupt(
            name,
            "belongs to another repository or bears another name",
        ));
    }
    let start = SLOT_HEADER_LENGTH + header.wrapped_length as usize;
    let sealed =
        bytes.get(start..).ok_or_else(|| RepositoryError::corrupt(name, "is cut short"))?;
    let label = unseal_message(&label_key(keyring), &header.label_nonce, &bytes[..start], sealed)
        .named(name)?;
    let label = SlotLabel::decode(&label).named(name)?;
    Ok(KeySlot { id, way: header.way, label })
}

/// Removes a slot. Refuses the slot in use and the last one: the slot in use must be there to stay.
pub fn remove(store: &Store, id: KeySlotId, in_use: KeySlotId) -> Result<()> {
    if id == in_use {
        return Err(RepositoryError::new(
            Kind::Invalid,
            layout::key(id),
            "is the key that opened the repository just now; open it with another one to remove it",
        ));
    }
    if store.size(&layout::key(in_use))?.is_none() {
        return Err(RepositoryError::new(
            Kind::Invalid,
            layout::key(id),
            "may be the last key: the one that opened the repository was removed meanwhile; open it \
             again to remove this one",
        ));
    }
    keep(store, in_use)?;
    store.delete(&layout::key(id))?;
    Ok(())
}

/// Makes sure that a slot is in the cold store, too, where there are two: before another goes, with which the last that
/// opens what is in the cold store would go.
fn keep(store: &Store, slot: KeySlotId) -> Result<()> {
    let name = layout::key(slot);
    if store.is_tiered() && !store.copy_to_cold(&name)? {
        let message = "was removed meanwhile; nothing else is. Open the repository again to remove another one";
        return Err(RepositoryError::new(Kind::Invalid, name, message));
    }
    Ok(())
}

/// Removes the slots of attempts to make a repository here that were stopped before its config was written.
/// Only for who has just written the config of a store that held nothing else: nobody can finish such an
/// attempt any more. Failing leaves slots that open nothing.
pub(super) fn clear_left_overs(store: &Store, repository: RepositoryId) {
    for object in store.list(layout::KEYS).unwrap_or_default() {
        let header = store.get(&object.name).ok();
        let header = header.and_then(|bytes| SlotHeader::decode(&bytes).ok());
        if header.is_some_and(|header| header.repository != repository) {
            let _ = store.delete(&object.name);
        }
    }
}
