//! Blobs and snapshots in, blobs and snapshots out.
//!
//! A [`Repository`] is a store, the keys to it and a local cache. It has no verbs: those are in `ops`.

pub mod ahead;
pub mod chance;
pub mod cold;
pub mod collector;
pub mod deferred;
pub mod delta;
pub mod error;
pub mod generations;
pub mod health;
pub mod index;
pub mod journals;
mod kept;
pub mod key_updates;
pub mod keys;
mod known_place;
pub mod look;
mod maintainer;
pub mod marks;
pub mod mend;
pub mod mirrors;
pub mod object_locks;
mod open_packs;
mod opened;
pub mod packer;
pub mod planted;
mod proof;
mod proving;
pub mod quarantine;
pub mod reader;
pub mod replica;
mod reserve;
pub mod seal;
mod segments;
pub mod session;
pub mod snapshots;
mod stream;
pub mod tombs;
pub mod verify;
pub mod writer;

use std::collections::{BTreeSet, HashSet};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use zeroize::Zeroizing;

use crate::clock::Clock;
use crate::codec::chunker::ChunkerParams;
use crate::codec::digest::NamingKeys;
use crate::codec::kdf::Argon2Cost;
use crate::format::config::{PARITY_PERCENT_MAX, Settings};
use crate::format::header::{HEADER_LENGTH, Header, ObjectKind};
use crate::format::keyring::{EpochKeys, Keyring};
use crate::format::slot::SlotLabel;
use crate::id::{BlobId, KeySlotId, PackId, RepositoryId};
use crate::store::{Created, ObjectInfo, Store, layout};
use ahead::Ahead;
use chance::Chance;
use error::{Kind, Named, RepositoryError, Result};
use index::cache::IndexCache;
use keys::{Credential, Opened};
use marks::Shelf;
use mend::MendedPacks;
use seal::Sealer;

/// What a repository needs of the machine it is used on.
pub struct Environment {
    /// Where the time comes from.
    pub clock: Arc<dyn Clock>,
    /// Where randomness comes from.
    pub chance: Chance,
    /// Folder for caches, one below it for each repository; `None`: everything in memory.
    pub cache_folder: Option<PathBuf>,
    /// The host's name, for sessions, slots and snapshots.
    pub host: String,
    /// The user's name, for the same.
    pub user: String,
}

/// How a repository cuts files. Two that cut alike have chunks in common, whatever they call them.
#[derive(Clone)]
pub struct Cutting {
    params: ChunkerParams,
    secret: Zeroizing<[u8; 32]>,
}

/// How a repository is made.
pub struct CreateOptions {
    /// Its settings; the time of creation is filled in.
    pub settings: Settings,
    /// Cost of deriving a key from the passphrase; `None`: what about 0.11 seconds buy.
    pub cost: Option<Argon2Cost>,
    /// What to call the first key slot.
    pub label: String,
    /// Cut as this repository does, so that backups into both have chunks in common; `None`: as the settings say, with a
    /// secret of its own.
    pub cuts_like: Option<Cutting>,
}

impl Default for CreateOptions {
    fn default() -> Self {
        let settings = Settings::DEFAULT;
        CreateOptions { settings, cost: None, label: String::new(), cuts_like: None }
    }
}

/// The keyring in use, and why there is no newer one.
struct Keys {
    sealer: Sealer,
    trouble: Option<RepositoryError>,
}

/// An open repository.
pub struct Repository {
    store: Store,
    id: RepositoryId,
    settings: Settings,
    slot: KeySlotId,
    slot_secret: Zeroizing<[u8; 32]>,
    keys: Keys,
    newer_keys: OnceLock<Keys>,
    keys_unproven: AtomicBool,
    /// The newest generation that the store has shown since this was opened; `None`: it has not been asked.
    shown_generation: Mutex<Option<u32>>,
    naming: NamingKeys,
    cache: IndexCache,
    cache_folder: Option<PathBuf>,
    marks: Shelf,
    environment: Environment,
    adopted: Mutex<Option<bool>>,
    archived: OnceLock<RepositoryError>,
    mended: Mutex<MendedPacks>,
    damaged: Mutex<Option<Arc<HashSet<PackId>>>>,
    still_locked: Mutex<BTreeSet<String>>,
}

impl Repository {
    /// Makes a repository in an empty store, with one key slot.
    pub fn create(
        store: Store,
        options: &CreateOptions,
        credential: &Credential,
        environment: Environment,
    ) -> Result<Self> {
        if store.size(layout::CONFIG)?.is_some() {
            return Err(RepositoryError::new(
                Kind::Conflict,
                store.location(),
                "is a repository already",
            ));
        }
        cold::require_free(&store)?;
        // A config that was lost must not cost what it belonged to: its key slots may still be saved.
        for folder in TELLTALES {
            if let Some(object) = store.list(folder)?.first() {
                return Err(RepositoryError::new(
                    Kind::Conflict,
                    store.location(),
                    format!(
                        "holds {} of a repository whose config is gone: restore the config from a \
                         copy, or choose an empty place",
                        object.name
                    ),
                ));
            }
        }
        let percent = options.settings.parity_percent;
        if percent > PARITY_PERCENT_MAX {
            let message =
                format!("parity of {percent} %: it must be from 0 to {PARITY_PERCENT_MAX}");
            return Err(RepositoryError::new(Kind::Invalid, store.location(), message));
        }
        let settings = object_locks::decide_lock(&store, options.settings)?;
        let (store, form) = proving::decide_form(store, &environment)?;
        object_locks::try_lock(&store, &settings, &environment)?;
        let id = RepositoryId(environment.chance.bytes()?);
        let mut settings = Settings { created: environment.clock.now(), form, ..settings };
        let store = object_locks::in_lock(store, &settings)?;
        let mut chunker_secret = environment.chance.bytes()?;
        if let Some(Cutting { params, secret }) = &options.cuts_like {
            settings.chunk_minimum = params.minimum;
            settings.chunk_average = params.average;
            settings.chunk_maximum = params.maximum;
            chunker_secret = **secret;
        }
        let keyring = Keyring {
            id_key: environment.chance.bytes()?,
            chunker_secret,
            repository_seed: environment.chance.bytes()?,
            admin_seed: environment.chance.bytes()?,
            epochs: vec![EpochKeys {
                epoch: 1,
                data_key: Some(environment.chance.bytes()?),
                index_key: environment.chance.bytes()?,
            }],
            settings: settings.encode(),
            revision: 0,
        };
        let cost = options.cost.unwrap_or_else(|| keys::calibrate(environment.clock.as_ref()));
        let label = slot_label(&environment, &options.label);
        let chance = &environment.chance;
        let opened = keys::add(&store, id, &keyring, credential, cost, &label, chance)?;
        // The config comes last: a repository without one was never finished, and can be made again.
        let sealer = Sealer::new(id, keyring);
        let randomness = environment.chance.bytes()?;
        let config =
            sealer.seal(ObjectKind::Config, layout::CONFIG, settings.encode(), &randomness)?;
        let hot = cold::claim(&store, id, &config, chance)?;
        if store.create(layout::CONFIG, config)? == Created::AlreadyThere {
            cold::release(&store, id, hot)?;
            store.delete(&layout::key(opened.slot))?;
            return Err(RepositoryError::new(
                Kind::Conflict,
                store.location(),
                "was made a repository by somebody else at the same time",
            ));
        }
        keys::clear_left_overs(&store, id);
        let repository = Self::assemble(store, settings, opened, sealer, environment)?;
        repository.remember_probe();
        // The repository is made; a collector completes this where it cannot be done now.
        let _ = repository.fill_reserve();
        Ok(repository)
    }

    /// The id of the repository in a store, from the clear part of its config: no key is needed.
    pub fn identify(store: &Store) -> Result<RepositoryId> {
        Self::read_config(store).map(|(header, _)| header.repository)
    }

    fn read_config(store: &Store) -> Result<(Header, Vec<u8>)> {
        let object = match store.get(layout::CONFIG).map_err(RepositoryError::from) {
            Err(error) if error.kind == Kind::NotFound => {
                let why = cold::without_config(store)?;
                if why.kind != Kind::NotFound {
                    return Err(why);
                }
                for folder in TELLTALES {
                    if !store.list(folder)?.is_empty() {
                        let message = "is gone; the rest of the repository is there";
                        return Err(RepositoryError::corrupt(layout::CONFIG, message));
                    }
                }
                return Err(why);
            }
            object => object?,
        };
        let header = Header::decode(&object).named(layout::CONFIG)?;
        cold::require_pair(store, header.repository)?;
        Ok((header, object))
    }

    /// The config, and what is in `keys/`.
    fn read_config_and_list_keys(store: &Store) -> Result<(Header, Vec<u8>, Vec<ObjectInfo>)> {
        let list = || store.list(layout::KEYS).map_err(RepositoryError::from);
        let ((header, object), listed) = store.both(|| Self::read_config(store), list)?;
        Ok((header, object, listed))
    }

    /// Opens a repository. From several stores ([`Store::with_mirrors`]), for reading: by what the first of them gives that
    /// has config and keys whole.
    ///
    /// # Errors
    ///
    /// Of several, [`Kind::Conflict`] when one of them holds another repository.
    pub fn open(store: Store, credential: &Credential, environment: Environment) -> Result<Self> {
        if store.has_mirrors() {
            return Self::open_several(store, credential, environment);
        }
        let (header, object, listed) = Self::read_config_and_list_keys(&store)?;
        let id = header.repository;
        let open_keys = || keys::open_by_early_listing(&store, listed, id, credential);
        let (opened, cache) = if environment.chance.repeats() {
            (open_keys()?, None)
        } else {
            // Deriving a key keeps the cores busy and the disk idle. A cache that is opened for nothing, because the
            // passphrase is wrong, is as it was.
            std::thread::scope(|scope| {
                let cache = scope.spawn(|| OpenCache::new(&environment, id, &store));
                let opened = open_keys();
                // One that could not be opened is tried again, and tells why.
                let cache = cache.join().ok().and_then(Result::ok);
                opened.map(|opened| (opened, cache))
            })?
        };
        let sealer = Sealer::new(id, opened.keyring.clone());
        let payload = sealer.unseal(ObjectKind::Config, layout::CONFIG, object)?;
        let settings = Settings::decode(&payload).named(layout::CONFIG)?;
        Self::assemble_with(store, settings, opened, sealer, environment, cache)
    }

    /// Opens a repository whose config is lost or damaged: the id is that of the key slot that opens, and the
    /// settings are the keyring's copy. A config that a newer version wrote is not worked around.
    pub fn open_without_config(
        store: Store,
        credential: &Credential,
        environment: Environment,
    ) -> Result<Self> {
        let config = found(store.get(layout::CONFIG))?;
        if config.is_none() {
            let why = cold::without_config(&store)?;
            if why.kind != Kind::NotFound {
                return Err(why);
            }
        }
        if let Some(object) = config
            && let Err(error) = Header::decode(&object)
            && error.kind == crate::format::Kind::Newer
        {
            return Err(error).named(layout::CONFIG);
        }
        let mut candidates = keys::open_any(&store, credential)?;
        // Of several, the right one is the one whose keys fit what is there: slots of another repository may lie
        // beside.
        if candidates.len() > 1 {
            let samples = sample_headers(&store)?;
            candidates.retain(|(id, opened)| {
                let sealer = Sealer::new(*id, opened.keyring.clone());
                samples.iter().any(|(name, header)| sealer.check_any_header(name, header).is_ok())
            });
        }
        let Some((id, opened)) = candidates.pop() else {
            return Err(RepositoryError::corrupt(
                store.location(),
                "has no key slot whose keys fit its objects",
            ));
        };
        let settings =
            Settings::decode(&opened.keyring.settings).named("the keyring's settings")?;
        let sealer = Sealer::new(id, opened.keyring.clone());
        Self::assemble(store, settings, opened, sealer, environment)
    }

    /// The same repository once more, with the keys that opened this one and a cache of its own: the
    /// config is read again, and no passphrase is needed.
    pub fn reopen(&self, environment: Environment) -> Result<Self> {
        let (header, object) = Self::read_config(&self.store)?;
        if header.repository != self.id {
            return Err(RepositoryError::corrupt(layout::CONFIG, "is another repository's now"));
        }
        let sealer = Sealer::new(self.id, self.sealer().keyring().clone());
        let payload = sealer.unseal(ObjectKind::Config, layout::CONFIG, object)?;
        let settings = Settings::decode(&payload).named(layout::CONFIG)?;
        Self::assemble(self.store.clone(), settings, self.opened(), sealer, environment)
    }

    /// The keys that opened it, to open it once more.
    fn opened(&self) -> Opened {
        Opened {
            slot: self.slot,
            keyring: self.sealer().keyring().clone(),
            secret: self.slot_secret.clone(),
            trouble: self.keys().trouble.clone(),
            objects: Vec::new(),
        }
    }

    fn assemble(
        store: Store,
        settings: Settings,
        opened: Opened,
        sealer: Sealer,
        environment: Environment,
    ) -> Result<Self> {
        Self::assemble_with(store, settings, opened, sealer, environment, None)
    }

    /// The same, with a cache that is open already.
    fn assemble_with(
        store: Store,
        settings: Settings,
        opened: Opened,
        sealer: Sealer,
        environment: Environment,
        cache: Option<OpenCache>,
    ) -> Result<Self> {
        let id = sealer.repository();
        if !chunker_params(&settings).is_valid() {
            return Err(RepositoryError::corrupt(layout::CONFIG, "chunk sizes that cannot be"));
        }
        let naming = NamingKeys::new(&sealer.keyring().id_key);
        let OpenCache { cache, folder: cache_folder } = match cache {
            Some(cache) => cache,
            None => OpenCache::new(&environment, id, &store)?,
        };
        let marks = Shelf::new(id, cache_folder.as_deref());
        let store = proving::in_form(store, settings.form, &cache, &environment)?;
        let store = object_locks::in_lock(store, &settings)?;
        Ok(Repository {
            store,
            id,
            settings,
            slot: opened.slot,
            slot_secret: opened.secret,
            keys: Keys { sealer, trouble: opened.trouble },
            newer_keys: OnceLock::new(),
            keys_unproven: AtomicBool::new(false),
            shown_generation: Mutex::new(None),
            naming,
            cache,
            cache_folder,
            marks,
            environment,
            adopted: Mutex::new(None),
            archived: OnceLock::new(),
            mended: Mutex::default(),
            damaged: Mutex::new(None),
            still_locked: Mutex::default(),
        })
    }

    /// The repository's id.
    pub fn id(&self) -> RepositoryId {
        self.id
    }

    /// The repository's settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// How files are cut.
    pub fn chunker_params(&self) -> ChunkerParams {
        chunker_params(&self.settings)
    }

    /// The secret that the chunker's gear table follows from.
    pub fn chunker_secret(&self) -> &[u8; 32] {
        &self.sealer().keyring().chunker_secret
    }

    /// How files are cut, for another repository that is to cut alike.
    pub fn cutting(&self) -> Cutting {
        Cutting { params: self.chunker_params(), secret: Zeroizing::new(*self.chunker_secret()) }
    }

    /// The keys that name content.
    pub fn naming(&self) -> &NamingKeys {
        &self.naming
    }

    /// Seals and unseals its objects.
    pub fn sealer(&self) -> &Sealer {
        &self.keys().sealer
    }

    fn keys(&self) -> &Keys {
        self.newer_keys.get().unwrap_or(&self.keys)
    }

    /// Where its objects are.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The local index.
    pub fn cache(&self) -> &IndexCache {
        &self.cache
    }

    /// The folder of its local cache, if it has one.
    pub fn cache_folder(&self) -> Option<&PathBuf> {
        self.cache_folder.as_ref()
    }

    /// What collections remember of what snapshots need.
    pub fn marks(&self) -> &Shelf {
        &self.marks
    }

    /// What it knows of the machine.
    pub fn environment(&self) -> &Environment {
        &self.environment
    }

    /// On how many threads to do what would best be done on so many.
    pub fn threads(&self, best: usize) -> usize {
        if self.environment.chance.repeats() { 1 } else { best }
    }

    /// What bytes from a pack of this kind are called.
    fn name_of(&self, kind: ObjectKind, blob: &[u8]) -> BlobId {
        match kind {
            ObjectKind::TreePack => self.naming.tree_id(blob),
            _ => self.naming.data_id(blob),
        }
    }

    /// Does both, of which it does not matter which comes first: at once where that saves a round trip, and with
    /// randomness that repeats in an order that follows from it.
    fn in_any_order<A, B: Send>(
        &self,
        first: impl FnOnce() -> Result<A>,
        second: impl FnOnce() -> Result<B> + Send,
    ) -> Result<(A, B)> {
        let chance = &self.environment.chance;
        if chance.repeats() && chance.bytes::<1>()?[0] % 2 == 0 {
            let second = second();
            return Ok((first()?, second?));
        }
        self.store.both(first, second)
    }

    /// Something that fetches whole packs before they are asked for, and holds so many bytes; `None` where that gains
    /// nothing.
    pub fn fetches_packs_ahead(&self, budget: u64) -> Option<Ahead> {
        match self.environment.chance.repeats() {
            true => None,
            false => Ahead::of_packs(&self.store, budget),
        }
    }

    /// The same for parts of packs.
    fn fetches_parts_ahead(&self, budgets: RangeInclusive<u64>) -> Option<Ahead> {
        match self.environment.chance.repeats() {
            true => None,
            false => Ahead::of_parts(&self.store, budgets),
        }
    }

    /// The same for who reads a pack of the first store part by part, where that is a disk: the next part, whatever its length.
    fn fetches_next_part(&self) -> Option<Ahead> {
        let store = self.store.leading();
        match self.environment.chance.repeats() || !store.is_disk() {
            true => None,
            false => Ahead::of_parts(&store, 0..=0),
        }
    }

    /// The slot that opened it.
    pub fn slot(&self) -> KeySlotId {
        self.slot
    }

    /// Seals a small object.
    pub fn seal(&self, kind: ObjectKind, name: &str, payload: Vec<u8>) -> Result<Vec<u8>> {
        let randomness = self.environment.chance.bytes()?;
        self.sealer().seal(kind, name, payload, &randomness)
    }

    /// All key slots; what is damaged comes as an error.
    pub fn key_slots(&self) -> Result<Vec<Result<keys::KeySlot>>> {
        keys::list(&self.store, self.id, self.sealer().keyring())
    }

    /// Reads a key slot and proves that it is undamaged.
    pub fn prove_key_slot(&self, id: KeySlotId) -> Result<()> {
        let name = layout::key(id);
        let bytes = self.store.get(&name)?;
        keys::read_slot(&name, id, &bytes, self.id, self.sealer().keyring()).map(drop)
    }

    /// Adds a key slot and proves it. Not where there are newer keys than those in use: it would lack them.
    pub fn add_key(
        &self,
        credential: &Credential,
        cost: Option<Argon2Cost>,
        label: &str,
    ) -> Result<KeySlotId> {
        let cost = cost.unwrap_or_else(|| keys::calibrate(self.environment.clock.as_ref()));
        let label = slot_label(&self.environment, label);
        let chance = &self.environment.chance;
        let keyring = self.sealer().keyring();
        let added =
            keys::add(&self.store, self.id, keyring, credential, cost, &label, chance)?.slot;
        // Looked at afterwards: who rekeys looks for new slots afterwards, too, and one of the two sees the other.
        if let Err(error) = self.require_newest_keys() {
            self.store.delete(&layout::key(added))?;
            return Err(error);
        }
        Ok(added)
    }

    /// A new recovery key, and the slot it opens.
    pub fn add_recovery_key(&self, label: &str) -> Result<(KeySlotId, Credential)> {
        let key = Zeroizing::new(self.environment.chance.bytes()?);
        let credential = Credential::Recovery(key);
        let id = self.add_key(&credential, Some(Argon2Cost::FLOOR), label)?;
        Ok((id, credential))
    }

    /// Removes a key slot that is neither in use nor the last.
    pub fn remove_key(&self, id: KeySlotId) -> Result<()> {
        keys::remove(&self.store, id, self.slot)
    }

    /// Replaces the passphrase that opened the repository: the new slot is proven before the old one goes.
    pub fn change_key(
        &self,
        credential: &Credential,
        cost: Option<Argon2Cost>,
        label: &str,
    ) -> Result<KeySlotId> {
        let new = self.add_key(credential, cost, label)?;
        keys::remove(&self.store, self.slot, new)?;
        Ok(new)
    }

    /// Takes in packs that no index object lists, the first time it is called. Returns whether there were
    /// any, which is worth a second look-up: also for those who waited while another thread did it.
    fn adopt_once(&self) -> Result<bool> {
        let mut adopted = self.adopted.lock();
        match *adopted {
            Some(found) => Ok(found),
            None => {
                let elsewhere = match self.store.has_mirrors() {
                    true => self.adopt_elsewhere()?,
                    false => 0,
                };
                let found = elsewhere + self.adopt_readable_packs()? > 0;
                *adopted = Some(found);
                Ok(found)
            }
        }
    }
}

/// A repository's local cache, and its folder if it has one.
struct OpenCache {
    cache: IndexCache,
    folder: Option<PathBuf>,
}

impl OpenCache {
    /// What was learned from several stores is kept apart: no writer may count on what only a mirror has. And by the store
    /// that speaks for them, because one may be behind another.
    fn new(environment: &Environment, id: RepositoryId, store: &Store) -> Result<Self> {
        let name = match store.has_mirrors() {
            false => id.to_string(),
            true => {
                let leading = blake3::hash(store.leading().identity().as_bytes()).to_hex();
                format!("{id}.{}", &leading[..16])
            }
        };
        let folder = environment.cache_folder.as_ref().map(|folder| folder.join(name));
        let folder = folder.filter(|folder| make_private_folder(folder).is_ok());
        let path = folder.as_ref().map(|folder| folder.join("index.redb"));
        Ok(OpenCache { cache: IndexCache::open(path.as_deref(), id)?, folder })
    }
}

/// `None` where there is no such object.
fn found(
    object: std::result::Result<Vec<u8>, crate::store::StoreError>,
) -> Result<Option<Vec<u8>>> {
    match object {
        Err(error) if error.kind == crate::store::Kind::NotFound => Ok(None),
        object => Ok(Some(object?)),
    }
}

/// Where something stands when a repository was in use, or when a repair of its config was stopped half way.
const TELLTALES: [&str; 5] =
    [layout::SNAPSHOTS, layout::INDEX, layout::PACKS, layout::SESSIONS, layout::QUARANTINE];

/// Names and headers of a few objects that only this repository's keys fit.
fn sample_headers(store: &Store) -> Result<Vec<(String, Vec<u8>)>> {
    const SAMPLES: usize = 8;
    let mut samples = Vec::new();
    for folder in [layout::SESSIONS, layout::SNAPSHOTS, layout::INDEX, layout::PACKS] {
        for object in store.list(folder)?.into_iter().take(SAMPLES) {
            // What is shorter than a header is damaged.
            if let Ok(header) = store.get_range(&object.name, 0..HEADER_LENGTH as u64) {
                samples.push((object.name, header));
            }
        }
    }
    Ok(samples)
}

fn chunker_params(settings: &Settings) -> ChunkerParams {
    ChunkerParams {
        minimum: settings.chunk_minimum,
        average: settings.chunk_average,
        maximum: settings.chunk_maximum,
    }
}

fn slot_label(environment: &Environment, label: &str) -> SlotLabel {
    SlotLabel {
        label: label.to_string(),
        host: environment.host.clone(),
        user: environment.user.clone(),
        created: environment.clock.now(),
        ..SlotLabel::default()
    }
}

/// Makes a folder, and those above it, that only its owner may enter.
fn make_private_folder(folder: &std::path::Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}
