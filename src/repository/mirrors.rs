//! A repository that is read from several stores: each object from the first that has it whole.
//!
//! For reading only. What comes from a mirror may be gone from the main store for good, and a writer that counted on it
//! would make snapshots that lack it; so the local cache of what is read this way is another one than writers use
//! (`docs/design/0015-several-stores.md`).

use std::collections::BTreeSet;
use std::ops::Range;

use super::error::{Kind, Named, RepositoryError, Result};
use super::keys::{self, Credential, Opened};
use super::proof::Prover;
use super::replica::{Object, class_of};
use super::seal::Sealer;
use super::verify::is_damage;
use super::{Environment, Repository};
use crate::format::config::Settings;
use crate::format::header::ObjectKind;
use crate::format::index::{Index, PackRecord};
use crate::id::{IndexId, PackId, RepositoryId};
use crate::monitor::Monitor;
pub use crate::store::PassedOver;
use crate::store::{Created, ObjectInfo, Store, Trouble, Unopened, layout};

/// A store that a repository is read from beside its first one.
pub struct Mirror {
    pub(super) store: Store,
}

/// What a mirror holds.
#[derive(Debug, Default)]
pub struct MirrorInventory {
    /// Packs with their lengths in bytes.
    pub packs: Vec<(PackId, u64)>,
    /// Everything else that a mirror has of a repository.
    pub others: Vec<Object>,
}

impl Mirror {
    /// Where it is, for people.
    pub fn location(&self) -> &str {
        self.store.location()
    }

    /// Lists it: about 150 bytes of memory for each object.
    pub fn inventory(&self) -> Result<MirrorInventory> {
        let mut found = MirrorInventory::default();
        for ObjectInfo { name, size, .. } in self.store.list("")? {
            match (layout::parse_pack(&name), class_of(&name)) {
                (Some(pack), _) => found.packs.push((pack, size)),
                (None, Some(_)) => found.others.push(Object { name, bytes: size }),
                (None, None) => {}
            }
        }
        Ok(found)
    }

    /// Reads an object, and proves every byte of it by the keys of `repository`.
    pub fn prove(&self, repository: &Repository, name: &str) -> Result<()> {
        repository.prover().prove(name, &self.store.get(name)?)
    }
}

/// How many objects of a store that was passed over are named.
const NAMED: usize = 10;

impl Repository {
    /// Opens it with the keys of the first store in which they can be read, none newer left out, and the first config that
    /// they open.
    pub(super) fn open_several(
        store: Store,
        credential: &Credential,
        environment: Environment,
    ) -> Result<Self> {
        let configs = read_configs(&store)?;
        let Some(id) = configs.iter().find_map(|(_, config)| config.as_ref().ok()).map(|it| it.0)
        else {
            let damaged = configs.into_iter().find_map(|(_, config)| config.err());
            let nobody = || {
                let message = "neither it nor any of its mirrors can be read";
                RepositoryError::new(Kind::Unavailable, store.location(), message)
            };
            return Err(damaged.unwrap_or_else(nobody));
        };
        let opened = open_keys(&store, id, credential)?;
        let sealer = Sealer::new(id, opened.keyring.clone());
        let mut settings = None;
        let mut damage = None;
        for (number, config) in configs {
            let payload = config.and_then(|(_, object)| {
                let payload = sealer.unseal(ObjectKind::Config, layout::CONFIG, object)?;
                Settings::decode(&payload).named(layout::CONFIG)
            });
            match payload {
                Ok(found) => {
                    settings = Some(found);
                    break;
                }
                Err(error) => {
                    store.pass_over(number, layout::CONFIG, &error.message);
                    damage.get_or_insert(error);
                }
            }
        }
        let Some(settings) = settings else {
            let gone = || RepositoryError::corrupt(layout::CONFIG, "is gone");
            return Err(damage.unwrap_or_else(gone));
        };
        prove_by(&store, &sealer, &opened);
        Self::assemble(store, settings, opened, sealer, environment)
    }

    /// The same repository once more, with the keys that opened this one, for reading from these stores beside its own.
    ///
    /// # Errors
    ///
    /// [`Kind::Conflict`] when one of them holds another repository.
    pub fn beside_mirrors(
        &self,
        mirrors: Vec<std::result::Result<Store, Unopened>>,
        environment: Environment,
    ) -> Result<Self> {
        let store = Store::of_several(Ok(self.store.clone()), mirrors);
        read_configs(&store)?;
        let (sealer, settings) = (self.sealer().another(), self.settings);
        let opened = self.opened();
        prove_by(&store, &sealer, &opened);
        Self::assemble(store, settings, opened, sealer, environment)
    }

    /// A pack's bytes from the first store that has it whole; `None`: there is none.
    pub fn whole_pack(&self, id: PackId) -> Result<Option<Vec<u8>>> {
        let name = layout::pack(id);
        let object = match self.store.get(&name).map_err(RepositoryError::from) {
            Err(error) if is_damage(&error) => return Ok(None),
            object => object?,
        };
        match self.prover().prove(&name, &object) {
            Err(error) if is_damage(&error) => Ok(None),
            proven => proven.map(|()| Some(object)),
        }
    }

    /// What there is in a range of an object, from the first store whose bytes unseal.
    pub(super) fn unseal_from_first(
        &self,
        name: &str,
        range: &Range<u64>,
        unseal: &impl Fn(Vec<u8>) -> Result<Vec<u8>>,
    ) -> Result<Vec<u8>> {
        let found = self.store.from_first(name, |store| {
            let sealed = store.get_range(name, range.clone())?;
            unseal(sealed).map_err(|error| Trouble::Damage(error.message))
        });
        found.map_err(|trouble| match trouble {
            Trouble::Store(error) => error.into(),
            Trouble::Damage(message) => RepositoryError::corrupt(name, message),
        })
    }

    /// Puts back a pack that this store has lost: the bytes that were once written under its name, which are proven before.
    /// Not one that a sweep names. Returns whether it is there now. To be called by a registered session.
    pub fn put_back_pack(&self, id: PackId, object: Vec<u8>) -> Result<bool> {
        let name = layout::pack(id);
        self.prover().prove(&name, &object)?;
        let generations = self.generations()?;
        generations.require_readable()?;
        for generation in &generations.sweeps {
            match self.read_sweep(*generation) {
                Ok(published) if published.sweep.packs.contains(&id) => return Ok(false),
                Ok(_) => {}
                Err(error) if is_damage(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(self.store.create(&name, object)? == Created::New)
    }

    /// What proves objects by the keys in use.
    pub(super) fn prover(&self) -> Prover<'_> {
        Prover { sealer: self.sealer(), slot: self.slot, slot_secret: &self.slot_secret }
    }

    /// The stores that are read when the first one lacks something or has it damaged, as far as they answer.
    pub fn mirrors(&self) -> Vec<Mirror> {
        self.store.each().into_iter().skip(1).map(|(_, store)| Mirror { store }).collect()
    }

    /// The store that is asked first: where it is, for people.
    pub fn leading_location(&self) -> String {
        self.store.leading().location().to_string()
    }

    /// Which stores do not answer, and why.
    pub fn silent_stores(&self) -> Vec<(String, String)> {
        self.store.silent()
    }

    /// Which objects were read from another store than the first, and were not told yet.
    pub fn take_passed_over(&self) -> Vec<PassedOver> {
        self.store.take_passed_over()
    }

    /// The index objects that only other stores than the first have, as far as they can be read. They may be superseded,
    /// or what the first one lost.
    pub fn indexes_elsewhere(&self) -> Result<Vec<(IndexId, Index)>> {
        let mut seen: BTreeSet<IndexId> = self.listed_indexes()?.into_iter().collect();
        let mut found = Vec::new();
        for mirror in self.mirrors() {
            let listed = match mirror.store.list(layout::INDEX) {
                Err(error) if error.kind == crate::store::Kind::Interrupted => {
                    return Err(error.into());
                }
                // Told when it is asked the next time.
                listed => listed.unwrap_or_default(),
            };
            for object in listed {
                let Some(id) = layout::parse_index(&object.name).filter(|id| seen.insert(*id))
                else {
                    continue;
                };
                let read = || -> Result<Index> {
                    let object = self.store.find(&layout::index(id))?;
                    let name = layout::index(id);
                    let payload = self.sealer().unseal(ObjectKind::Index, &name, object)?;
                    Index::decode(&payload).named(name)
                };
                match read() {
                    Ok(index) => found.push((id, index)),
                    Err(error) if is_damage(&error) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(found)
    }

    /// Takes in what index objects that only other stores have list. Returns how many packs they list that were not known.
    pub(super) fn adopt_elsewhere(&self) -> Result<u64> {
        let mut adopted = 0;
        for (_, index) in self.indexes_elsewhere()? {
            let known = self.cache.lengths(index.packs.iter().map(|pack| pack.id))?;
            let new = index.packs.into_iter().zip(known).filter(|(_, known)| known.is_none());
            let new: Vec<PackRecord> = new.map(|(pack, _)| pack).collect();
            adopted += new.len() as u64;
            self.cache.append(&[], &new)?;
        }
        self.cache.settle()?;
        Ok(adopted)
    }

    /// Tells the monitor which objects were read from another store than the first, each once. Returns how many there are
    /// so far.
    pub fn note_passed_over(&self, monitor: &dyn Monitor) -> u64 {
        let mut all = self.store.take_passed_over();
        all.sort_by(|one, other| (&one.location, &one.name).cmp(&(&other.location, &other.name)));
        for of_store in all.chunk_by(|one, other| one.location == other.location) {
            for PassedOver { location, name, what } in of_store.iter().take(NAMED) {
                monitor.note(&format!("{location}: {name}: {what}; read from another store"));
            }
            if of_store.len() > NAMED {
                let (location, more) = (&of_store[0].location, of_store.len() - NAMED);
                monitor
                    .note(&format!("{location}: {more} more objects were read from another store"));
            }
        }
        self.store.passed_over()
    }
}

/// From now on, objects of several stores are held against these keys.
fn prove_by(store: &Store, sealer: &Sealer, opened: &Opened) {
    let (sealer, slot, slot_secret) = (sealer.another(), opened.slot, opened.secret.clone());
    store.prove_by(Box::new(move |name, object| {
        let prover = Prover { sealer: &sealer, slot, slot_secret: &slot_secret };
        prover.prove(name, object).err().map(|error| error.message)
    }));
}

/// What a store has for a config: the repository that it is said to be of, and the object; or why it has none.
type Config = Result<(RepositoryId, Vec<u8>)>;

/// Asks every store at once for its config, because one that never answers takes half a minute. What can be read of them is
/// of one repository.
fn read_configs(store: &Store) -> Result<Vec<(usize, Config)>> {
    let stores = store.each();
    let asked: Vec<Config> = std::thread::scope(|scope| {
        let ask = |store: &Store| {
            Repository::read_config(store).map(|(header, object)| (header.repository, object))
        };
        let asking: Vec<_> =
            stores.iter().map(|(_, store)| scope.spawn(move || ask(store))).collect();
        let failed =
            || Err(RepositoryError::new(Kind::Unavailable, store.location(), "a thread failed"));
        asking.into_iter().map(|asked| asked.join().unwrap_or_else(|_| failed())).collect()
    });
    let mut configs: Vec<(usize, Config)> = Vec::new();
    let mut first: Option<RepositoryId> = None;
    for ((number, alone), config) in stores.into_iter().zip(asked) {
        match &config {
            Ok((id, _)) => {
                let first = *first.get_or_insert(*id);
                if first != *id {
                    let (other, this) = (id.short(), first.short());
                    let message = format!("holds another repository, {other}, and not {this}");
                    return Err(RepositoryError::new(Kind::Conflict, alone.location(), message));
                }
            }
            // Its other objects may be whole all the same. Whose they are, the keys prove.
            Err(error) if error.kind == Kind::Corrupt => {}
            Err(error) if error.kind == Kind::Interrupted => return Err(error.clone()),
            // A place that is mistyped must not pass for a mirror. The main store may have lost everything.
            Err(error) if error.kind == Kind::NotFound && number > 0 => return Err(error.clone()),
            Err(error) => {
                store.silence(number, &error.message);
                continue;
            }
        }
        configs.push((number, config));
    }
    Ok(configs)
}

/// Opens the keys in the first store that has them whole. Where each lacks newer ones that it has signs of, the first has
/// to do.
fn open_keys(store: &Store, id: RepositoryId, credential: &Credential) -> Result<Opened> {
    let mut second_best: Option<Opened> = None;
    let mut failures: Vec<(usize, RepositoryError)> = Vec::new();
    for (number, alone) in store.each() {
        let opened = keys::open(&alone, id, credential);
        match opened {
            Ok(opened) => match &opened.trouble {
                None => {
                    for (number, error) in failures {
                        store.pass_over(number, &error.item, &error.message);
                    }
                    return Ok(opened);
                }
                Some(error) => {
                    failures.push((number, error.clone()));
                    second_best.get_or_insert(opened);
                }
            },
            Err(error) if error.kind == Kind::Interrupted => return Err(error),
            Err(error) => {
                if matches!(error.kind, Kind::Unavailable | Kind::Denied) {
                    store.silence(number, &error.message);
                }
                failures.push((number, error));
            }
        }
    }
    let nobody = || {
        let message = "neither it nor any of its mirrors can be read";
        RepositoryError::new(Kind::Unavailable, store.location(), message)
    };
    match second_best {
        Some(opened) => Ok(opened),
        None => {
            // That it is the wrong passphrase says more than that another store cannot be read.
            failures.sort_by_key(|(_, error)| error.kind != Kind::WrongKey);
            Err(failures.into_iter().next().map_or_else(nobody, |(_, error)| error))
        }
    }
}
