//! What opens a repository at a place that was opened before: its config, the key slot and the key update that led to
//! the keyring, sealed and wrapped as the store has them. Kept in the local cache, so that a backup to a store far away
//! begins without asking for what never changes.
//!
//! What may have changed is whether that slot is still there, whether there are newer keys, and whose place it is. Whoever
//! registers to write looks at `keys/` anyway, afterwards, and that tells all three (`docs/design/0012-requests.md`).
//! A file that is torn, or does not open with what is given, counts as none.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use super::cold;
use super::error::{Kind, Named, RepositoryError, Result};
use super::key_updates::{follow_updates, revisions, unseal_update};
use super::keys::{self, Credential, Opened};
use super::seal::Sealer;
use super::{Environment, Keys, Repository, found, make_private_folder};
use crate::format::bytes::{Reader, put_bytes};
use crate::format::config::Settings;
use crate::format::header::{Header, ObjectKind};
use crate::store::{ObjectInfo, Store, layout};

/// The folder below the cache.
const PLACES: &str = "places";

/// Objects with their names: the config, the slot, and the update, if there was one.
type Objects = Vec<(String, Vec<u8>)>;

/// What looking at `keys/` says of keys that were remembered.
pub(super) enum Look {
    /// They are what the store has.
    Same,
    /// There were newer ones, which are in use from now on.
    Renewed,
    /// The slot is gone.
    Removed(RepositoryError),
    /// Another repository is there, or none.
    Elsewhere(RepositoryError),
}

/// The file for this place; `None` where asking the store costs next to nothing, and where there is no cache.
fn file_of(store: &Store, environment: &Environment) -> Option<PathBuf> {
    let folder = environment.cache_folder.as_ref().filter(|_| !store.lists_cheaply())?;
    let place = blake3::hash(store.identity().as_bytes()).to_hex();
    Some(folder.join(PLACES).join(&place[..32]))
}

fn read(path: &Path) -> Option<Objects> {
    let bytes = fs::read(path).ok()?;
    let (body, checksum) = bytes.split_last_chunk::<32>()?;
    if blake3::hash(body) != *checksum {
        return None;
    }
    let mut reader = Reader::new(body);
    let mut objects = Vec::new();
    while reader.remaining() > 0 {
        let name = String::from_utf8(reader.bytes().ok()?.to_vec()).ok()?;
        objects.push((name, reader.bytes().ok()?.to_vec()));
    }
    Some(objects)
}

/// Failing is of no consequence: the store is asked the next time.
fn write(path: &Path, objects: &[(String, Vec<u8>)]) {
    let mut bytes = Vec::new();
    for (name, object) in objects {
        put_bytes(&mut bytes, name.as_bytes());
        put_bytes(&mut bytes, object);
    }
    let checksum = blake3::hash(&bytes);
    bytes.extend_from_slice(checksum.as_bytes());
    let Some(folder) = path.parent() else { return };
    let temporary = path.with_extension(format!("{}.new", std::process::id()));
    let written = make_private_folder(folder)
        .and_then(|()| fs::write(&temporary, bytes))
        .and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
}

/// What these objects open with this; `None`: another repository's, damaged, or not for this.
fn open(
    objects: &[(String, Vec<u8>)],
    credential: &Credential,
) -> Option<(Sealer, Settings, Opened)> {
    let [(config_name, config), (slot_name, slot), updates @ ..] = objects else {
        return None;
    };
    let id = Header::decode(config).ok().filter(|_| config_name == layout::CONFIG)?.repository;
    let mut opened = keys::open_slot(slot_name, slot, id, credential).ok()??;
    for (name, update) in updates {
        let id_key = &opened.keyring.id_key;
        let newer = unseal_update(name, update, id, opened.slot, &opened.secret, id_key).ok()??;
        opened.keyring = newer;
    }
    let sealer = Sealer::new(id, opened.keyring.clone());
    let payload = sealer.unseal(ObjectKind::Config, layout::CONFIG, config.clone()).ok()?;
    Some((sealer, Settings::decode(&payload).ok()?, opened))
}

impl Repository {
    /// Whether [`Repository::open_to_write`] may need nothing of the store here.
    pub fn is_known_place(store: &Store, environment: &Environment) -> bool {
        file_of(store, environment).is_some_and(|path| read(&path).is_some())
    }

    /// Opens a repository for a backup: where its place is known, without a request. That the keys are still good is
    /// found out when it registers, or when anything is read before. A passphrase that does not open what was remembered
    /// is tried on what the store has.
    pub fn open_to_write(
        store: Store,
        credential: &Credential,
        environment: Environment,
    ) -> Result<Self> {
        let Some(path) = file_of(&store, &environment) else {
            return Self::open(store, credential, environment);
        };
        let remembered = read(&path).and_then(|objects| {
            // Deriving a key takes about as long.
            store.connect_early();
            open(&objects, credential)
        });
        if let Some((sealer, settings, opened)) = remembered {
            let repository = Self::assemble(store, settings, opened, sealer, environment)?;
            repository.keys_unproven.store(true, Ordering::Relaxed);
            return Ok(repository);
        }
        let (header, config, listed) = Self::read_config_and_list_keys(&store)?;
        let id = header.repository;
        let mut opened = keys::open_by_early_listing(&store, listed, id, credential)?;
        let mut objects = vec![(layout::CONFIG.to_string(), config.clone())];
        objects.append(&mut opened.objects);
        let sealer = Sealer::new(header.repository, opened.keyring.clone());
        let payload = sealer.unseal(ObjectKind::Config, layout::CONFIG, config)?;
        let settings = Settings::decode(&payload).named(layout::CONFIG)?;
        if opened.trouble.is_none() {
            write(&path, &objects);
        }
        Self::assemble(store, settings, opened, sealer, environment)
    }

    /// The next time the store is asked for what opens the repository here.
    pub(super) fn forget_place(&self) {
        if let Some(path) = file_of(&self.store, &self.environment) {
            let _ = fs::remove_file(path);
        }
    }

    /// Whether the keys in use were remembered, and nobody has looked yet whether they are still good.
    pub(super) fn has_unproven_keys(&self) -> bool {
        self.keys_unproven.load(Ordering::Relaxed)
    }

    /// For whoever reads before it registers, or never does.
    pub(super) fn prove_remembered_keys(&self) -> Result<()> {
        if !self.has_unproven_keys() {
            return Ok(());
        }
        match self.look_at_keys(self.store.list(layout::KEYS)?)? {
            Look::Same | Look::Renewed => Ok(()),
            Look::Removed(error) | Look::Elsewhere(error) => Err(error),
        }
    }

    /// Whether remembered keys are still good, by this listing of `keys/`.
    pub(super) fn look_at_keys(&self, listed: Vec<ObjectInfo>) -> Result<Look> {
        if !self.has_unproven_keys() {
            return Ok(Look::Same);
        }
        // Another hot store may have taken its place since.
        if let Err(error) = cold::require_pair(&self.store, self.id) {
            self.forget_place();
            return match error.kind {
                Kind::Invalid => Ok(Look::Elsewhere(error)),
                _ => Err(error),
            };
        }
        let name = layout::key(self.slot);
        let is_listed = listed.iter().any(|object| object.name == name);
        // A listing may leave out what is there.
        if !is_listed && self.store.size(&name)?.is_none() {
            self.forget_place();
            let gone = |message: &str| RepositoryError::new(Kind::WrongKey, &name, message);
            let elsewhere = |kind, message: &str| {
                Look::Elsewhere(RepositoryError::new(kind, self.store.location(), message))
            };
            return Ok(match found(self.store.get(layout::CONFIG))? {
                None => elsewhere(Kind::NotFound, "is no repository any more"),
                Some(config) => match Header::decode(&config).named(layout::CONFIG)? {
                    header if header.repository == self.id => Look::Removed(gone(
                        "was removed: what opened the repository here before opens it no more; use \
                         another passphrase or recovery key",
                    )),
                    _ => elsewhere(
                        Kind::Conflict,
                        "is another repository than the one that this client knows here; run the \
                         command again to use this one",
                    ),
                },
            });
        }
        let is_newer = revisions(&listed).last() > Some(&self.sealer().keyring().revision);
        if is_newer {
            self.forget_place();
            let opened = Opened {
                slot: self.slot,
                keyring: self.sealer().keyring().clone(),
                secret: self.slot_secret.clone(),
                trouble: None,
                objects: Vec::new(),
            };
            let opened = follow_updates(&self.store, self.id, listed, opened)?;
            let sealer = Sealer::new(self.id, opened.keyring);
            // Set once: they are unproven until here, and proven from here on.
            let _ = self.newer_keys.set(Keys { sealer, trouble: opened.trouble });
        }
        self.keys_unproven.store(false, Ordering::Relaxed);
        Ok(if is_newer { Look::Renewed } else { Look::Same })
    }
}
