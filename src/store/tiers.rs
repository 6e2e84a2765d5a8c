//! Two stores for one repository: a hot one for what is read all the time, and a cold one for data packs, which also has a
//! copy of whatever the hot one could lose. To everybody above, they are one store.
//!
//! | object | hot | cold | order of creating |
//! |---|---|---|---|
//! | data pack | - | `packs/…` | |
//! | tree pack | `packs/…` | `copy/packs/…` | cold, hot |
//! | config | `config-hot` | `copy/config-<repository>` | cold, hot |
//! | the mark that ties the two | `hot/<id>` | `copy/hot/<id>` | hot, cold |
//! | what is about the hot store only | as named | - | |
//! | what is decided | as named | `copy/…` | hot, which decides who was first; cold |
//!
//! Newer keys, and sweeps, are copied by whoever reads them, too: what is sealed with them must not outlive them.
//!
//! Deleting goes the other way: first the copy, then what others see; and the copy again, if somebody made it meanwhile. So nothing in the cold store is without its like in the
//! hot one, but for what a crash left of a pack, and whoever sees something in the hot store can take it away again.
//! Why all this: `docs/design/0013-hot-and-cold.md`.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use parking_lot::Mutex;

use super::error::{Kind, StoreError};
use super::layout::{self, CONFIG, COPY, HOT, HOT_CONFIG, PACKS};
use super::traffic::Traffic;
use super::{Created, ObjectInfo, Store};
use crate::id::{HotStoreId, RepositoryId};

/// Has the objects of these names thawed, and returns when they can be read, or why they cannot.
pub type Thaw = Arc<dyn Fn(&[String]) -> Result<(), NotThawed> + Send + Sync>;

/// Why objects cannot be read yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotThawed {
    /// A person asked to stop.
    Interrupted,
    /// What went wrong, in a line.
    Failed(String),
}

/// The cold one of two stores.
#[derive(Clone)]
pub struct Cold {
    /// Where data packs go.
    pub packs: Store,
    /// The same place for copies of what is in the hot store: perhaps in another class, which can be read at once.
    pub copies: Store,
    /// Has data packs thawed before they are read; `None`: they can be read as they are.
    pub thaw: Option<Thaw>,
}

/// What one of two stores lacks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Gaps {
    /// Objects of the hot store without a copy: whoever made them did not come to make it.
    pub uncopied: Vec<ObjectInfo>,
    /// Objects that the hot store has lost, and of which there are copies. By their names in the hot store.
    pub lost: Vec<ObjectInfo>,
}

/// The cold store, and what is known of both.
pub(super) struct Tiers {
    cold: Cold,
    /// Whether a pack of these bytes goes to the hot store.
    goes_hot: fn(&[u8]) -> bool,
    pub(super) identity: String,
    /// The packs that are in the hot store, or have a copy: so a request suffices to read one. `None`: nobody has
    /// looked yet. About 120 bytes for each.
    hot_packs: Mutex<Option<HashSet<String>>>,
    thawed: Mutex<HashSet<String>>,
}

impl Store {
    /// This store as the hot one beside a cold one. `goes_hot` tells, by a pack's bytes, whether it goes to the hot one.
    pub fn with_cold(self, cold: Cold, goes_hot: fn(&[u8]) -> bool) -> Store {
        let identity = format!("{} cold {}", self.identity(), cold.packs.identity());
        let (hot_packs, thawed) = (Mutex::default(), Mutex::default());
        // It decides nothing, and what is in it is looked for before it is written.
        let (packs, copies) = (cold.packs.without_conditions(), cold.copies.without_conditions());
        let cold = Cold { packs, copies, ..cold };
        let tiers = Tiers { cold, goes_hot, identity, hot_packs, thawed };
        Store { tiers: Some(Arc::new(tiers)), ..self }
    }

    /// Whether it is a hot store and a cold one together.
    pub fn is_tiered(&self) -> bool {
        self.tiers.is_some()
    }

    /// Where the cold one of two stores is, for people.
    pub fn cold_location(&self) -> Option<&str> {
        self.tiers.as_ref().map(|tiers| tiers.cold.packs.location())
    }

    /// Whether data packs are thawed before they are read, if whoever is about to read them says so.
    pub fn thaws(&self) -> bool {
        self.tiers.as_ref().is_some_and(|tiers| tiers.cold.thaw.is_some())
    }

    /// Has these packs thawed, unless this client has done so already. Nothing where nothing has to be.
    ///
    /// # Errors
    ///
    /// [`Kind::Invalid`]: what kept them from being thawed; [`Kind::Interrupted`].
    pub fn thaw(&self, names: &[String]) -> Result<(), StoreError> {
        match &self.tiers {
            Some(tiers) => tiers.thaw(names),
            None => Ok(()),
        }
    }

    /// Whose cold store this is, or the cold one of two: the repositories whose config has a copy there.
    pub fn cold_of(&self) -> Result<Vec<RepositoryId>, StoreError> {
        let store = match &self.tiers {
            Some(tiers) => &tiers.cold.copies,
            None => self,
        };
        let listed = store.list_here(layout::copies_of_configs())?;
        let ids = listed.iter().filter_map(|object| layout::parse_copy_of_config(&object.name));
        Ok(ids.collect())
    }

    /// Whether this, or the hot one of two, is somebody's hot store.
    pub fn is_hot(&self) -> Result<bool, StoreError> {
        Ok(self.size_here(HOT_CONFIG)?.is_some())
    }

    /// Whether the cold one of two stores is this repository's. Nothing is read: it may all be in an archive.
    pub fn is_cold_of(&self, repository: RepositoryId) -> Result<bool, StoreError> {
        let Some(tiers) = &self.tiers else { return Ok(false) };
        Ok(tiers.cold.copies.size_here(&layout::copy_of_config(repository))?.is_some())
    }

    /// Whether the hot one of two stores is the one that the cold one goes with: it has a mark, and the cold one its copy.
    /// Nothing is read. Asked each time: another hot store may have taken its place.
    pub fn is_tied(&self) -> Result<bool, StoreError> {
        let Some(tiers) = &self.tiers else { return Ok(false) };
        for mark in self.list_here(HOT)? {
            let is_mark = layout::parse_hot_mark(&mark.name).is_some();
            if is_mark && tiers.cold.copies.size_here(&layout::copy(&mark.name))?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Ties two stores of this repository to each other, by a mark in both. `id` was never used before.
    pub fn tie(&self, id: HotStoreId, repository: RepositoryId) -> Result<(), StoreError> {
        let Some(tiers) = &self.tiers else { return Ok(()) };
        let (mark, bytes) = (layout::hot_mark(id), repository.to_string().into_bytes());
        self.create_here(&mark, bytes.clone())?;
        tiers.copies().create_archived(&layout::copy(&mark), bytes).map(drop)
    }

    /// Takes that back.
    pub fn untie(&self, id: HotStoreId) -> Result<(), StoreError> {
        let Some(tiers) = &self.tiers else { return Ok(()) };
        let mark = layout::hot_mark(id);
        tiers.cold.copies.delete_here(&layout::copy(&mark))?;
        self.delete_here(&mark)
    }

    /// Takes from the cold one of two stores the marks of all hot stores but this: whoever has one of them is refused from
    /// then on.
    pub fn displace_all_but(&self, id: HotStoreId) -> Result<(), StoreError> {
        let Some(tiers) = &self.tiers else { return Ok(()) };
        let kept = layout::copy(&layout::hot_mark(id));
        for mark in tiers.cold.copies.list_here(&layout::copy(HOT))? {
            if mark.name != kept {
                tiers.cold.copies.delete_here(&mark.name)?;
            }
        }
        Ok(())
    }

    /// The packs of this folder, or whose names begin so, that the cold one of two stores lists: data packs, and copies of
    /// tree packs. `None`: there is no cold one.
    pub fn list_packs_of_cold(&self, prefix: &str) -> Result<Option<Vec<ObjectInfo>>, StoreError> {
        let Some(tiers) = &self.tiers else { return Ok(None) };
        let mut listed = tiers.cold.packs.list_here(prefix)?;
        for mut object in tiers.cold.copies.list_here(&layout::copy(prefix))? {
            object.name.drain(..COPY.len());
            listed.push(object);
        }
        Ok(Some(listed))
    }

    /// An object of the cold one of two stores, or of the hot one, that would be there if it were a repository by itself:
    /// a new one must not be made over it.
    pub fn foreign_object(&self, folders: &[&str]) -> Result<Option<String>, StoreError> {
        let Some(tiers) = &self.tiers else { return Ok(None) };
        if self.size_here(CONFIG)?.is_some() {
            return Ok(Some(format!("{} in {}", CONFIG, self.location())));
        }
        if let Some(object) = self.list_here(layout::copies_of_configs())?.first() {
            return Ok(Some(format!("{} in {}", object.name, self.location())));
        }
        for name in [CONFIG, HOT_CONFIG] {
            if tiers.cold.packs.size_here(name)?.is_some() {
                return Ok(Some(format!("{name} in {}", tiers.cold.packs.location())));
            }
        }
        for folder in folders {
            if let Some(object) = tiers.cold.packs.list_here(folder)?.first() {
                return Ok(Some(format!("{} in {}", object.name, tiers.cold.packs.location())));
            }
        }
        Ok(None)
    }

    /// Says in the cold one of two stores whose it is, by a copy of the repository's config.
    pub fn claim_cold(&self, repository: RepositoryId, config: Vec<u8>) -> Result<(), StoreError> {
        let Some(tiers) = &self.tiers else { return Ok(()) };
        tiers.copies().create_archived(&layout::copy_of_config(repository), config).map(drop)
    }

    /// Takes that back.
    pub fn release_cold(&self, repository: RepositoryId) -> Result<(), StoreError> {
        match &self.tiers {
            Some(tiers) => tiers.cold.copies.delete_here(&layout::copy_of_config(repository)),
            None => Ok(()),
        }
    }

    /// The config's copy in the cold one of two stores.
    pub fn config_of_cold(&self, repository: RepositoryId) -> Result<Vec<u8>, StoreError> {
        match &self.tiers {
            Some(tiers) => tiers.cold.copies.get_here(&layout::copy_of_config(repository)),
            None => Err(StoreError::not_found(CONFIG)),
        }
    }

    /// What the hot or the cold one of two stores lacks of the other: two listings. What is made or deleted meanwhile
    /// may be among it.
    pub fn gaps(&self) -> Result<Gaps, StoreError> {
        let Some(tiers) = &self.tiers else { return Ok(Gaps::default()) };
        let mut gaps = Gaps::default();
        let mut copies: BTreeMap<String, ObjectInfo> = tiers
            .cold
            .copies
            .list_here(COPY)?
            .into_iter()
            .filter_map(|object| Some((object.name.strip_prefix(COPY)?.to_string(), object)))
            .filter(|(name, _)| layout::is_copied(name))
            .collect();
        copies.retain(|_, object| layout::parse_copy_of_config(&object.name).is_none());
        for object in self.list_here("")? {
            if copies.remove(&object.name).is_none() && layout::is_copied(&object.name) {
                gaps.uncopied.push(object);
            }
        }
        gaps.lost.extend(copies.into_iter().map(|(name, object)| ObjectInfo { name, ..object }));
        Ok(gaps)
    }

    /// Makes the copy of an object of the hot one of two stores. `false`: it is gone meanwhile.
    pub fn copy_to_cold(&self, name: &str) -> Result<bool, StoreError> {
        let Some(tiers) = &self.tiers else { return Ok(false) };
        let bytes = match self.get_here(name) {
            Err(error) if error.kind == Kind::NotFound => return Ok(false),
            bytes => bytes?,
        };
        tiers.copy(self, name, bytes)
    }

    /// Brings an object that the hot one of two stores has lost back from its copy. `false`: that is gone meanwhile.
    pub fn copy_to_hot(&self, name: &str) -> Result<bool, StoreError> {
        let Some(tiers) = &self.tiers else { return Ok(false) };
        let bytes = match tiers.cold.copies.get_here(&layout::copy(name)) {
            Err(error) if error.kind == Kind::NotFound => return Ok(false),
            bytes => bytes?,
        };
        self.create_here(name, bytes)?;
        Ok(true)
    }

    /// [`Store::create`] where there are no conditions, and what was just written may not be read: an object of this name
    /// and length that is archived is this one. For names that only one client makes, or several with the same bytes: two
    /// at once may both write.
    fn create_archived(&self, name: &str, bytes: Vec<u8>) -> Result<Created, StoreError> {
        match self.size_here(name)? {
            None => return self.create_here(name, bytes),
            Some(size) if size != bytes.len() as u64 => return Ok(Created::AlreadyThere),
            Some(_) => {}
        }
        match self.get_here(name) {
            Ok(there) if there == bytes => Ok(Created::New),
            Ok(_) => Ok(Created::AlreadyThere),
            Err(error) if error.kind == Kind::Archived => Ok(Created::New),
            Err(error) if error.kind == Kind::NotFound => self.create_here(name, bytes),
            Err(error) => Err(error),
        }
    }
}

/// Whether names in this folder, or names that begin so, are those of packs.
pub(super) fn is_of_packs(prefix: &str) -> bool {
    prefix.starts_with(PACKS) || PACKS.starts_with(prefix)
}

/// The error, about the object and not about where it is kept.
fn about<T>(name: &str, result: Result<T, StoreError>) -> Result<T, StoreError> {
    result.map_err(|error| StoreError { name: name.to_string(), ..error })
}

impl Tiers {
    fn copies(&self) -> &Store {
        &self.cold.copies
    }

    pub(super) fn traffic(&self) -> Traffic {
        let (packs, copies) = (&self.cold.packs, &self.cold.copies);
        match Arc::ptr_eq(&packs.inner.line, &copies.inner.line) {
            true => packs.traffic(),
            false => packs.traffic().with(&copies.traffic()),
        }
    }

    pub(super) fn connections(&self) -> Option<usize> {
        self.cold.packs.connections()
    }

    pub(super) fn list_cheaply(&self) -> bool {
        self.cold.packs.lists_cheaply()
    }

    pub(super) fn get(&self, hot: &Store, name: &str) -> Result<Vec<u8>, StoreError> {
        let bytes = self.read(hot, name, |store, name| store.get_here(name))?;
        if layout::parse_key_update(name).or(layout::parse_sweep(name)).is_some() {
            self.keep(hot, name, &bytes)?;
        }
        Ok(bytes)
    }

    /// What is sealed with newer keys must not be reported before they are in the cold store, whoever made them; and what a
    /// sweep lets go must not go before the sweep is there. Nobody seals with keys, or follows a sweep, that he has not read.
    fn keep(&self, hot: &Store, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        if self.copies().size_here(&layout::copy(name))?.is_some() {
            return Ok(());
        }
        match self.copy(hot, name, bytes.to_vec()) {
            // Whoever may not write seals and deletes nothing either.
            Err(error) if error.kind == Kind::Denied => Ok(()),
            copied => copied.map(drop),
        }
    }

    pub(super) fn get_range(
        &self,
        hot: &Store,
        name: &str,
        range: Range<u64>,
    ) -> Result<Vec<u8>, StoreError> {
        self.read(hot, name, |store, name| store.get_range_here(name, range.clone()))
    }

    pub(super) fn size(&self, hot: &Store, name: &str) -> Result<Option<u64>, StoreError> {
        let size = self.read(hot, name, |store, name| {
            store.size_here(name)?.ok_or_else(|| StoreError::not_found(name))
        });
        match size {
            Err(error) if error.kind == Kind::NotFound => Ok(None),
            size => size.map(Some),
        }
    }

    /// Where a pack is, is known of those that are in the hot store. What is not where it ought to be is looked for
    /// elsewhere: another client may have made it just now, and what the hot store has lost has a copy.
    fn read<T>(
        &self,
        hot: &Store,
        name: &str,
        read: impl Fn(&Store, &str) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        if name == CONFIG {
            return about(name, read(hot, HOT_CONFIG));
        }
        if !name.starts_with(PACKS) {
            return read(hot, name);
        }
        let copy = layout::copy(name);
        let (hot, copy, cold) =
            ((hot, name), (&self.cold.copies, &copy[..]), (&self.cold.packs, name));
        let places = match self.is_hot_pack(hot.0, name)? {
            true => [hot, copy, cold],
            false => [cold, hot, copy],
        };
        for (store, place) in places {
            match read(store, place) {
                Err(error) if error.kind == Kind::NotFound => {}
                result => return about(name, result),
            }
        }
        Err(StoreError::not_found(name))
    }

    fn is_hot_pack(&self, hot: &Store, name: &str) -> Result<bool, StoreError> {
        let mut known = self.hot_packs.lock();
        if known.is_none() {
            let copies = self.cold.copies.list_here(&layout::copy(PACKS))?;
            let copies = copies.iter().filter_map(|object| object.name.strip_prefix(COPY));
            let listed = hot.list_here(PACKS)?.into_iter().map(|object| object.name);
            *known = Some(copies.map(str::to_string).chain(listed).collect());
        }
        Ok(known.as_ref().is_some_and(|known| known.contains(name)))
    }

    fn note_hot_packs(&self, names: impl Iterator<Item = String>) {
        if let Some(known) = &mut *self.hot_packs.lock() {
            known.extend(names);
        }
    }

    pub(super) fn create(
        &self,
        hot: &Store,
        name: &str,
        bytes: Vec<u8>,
    ) -> Result<Created, StoreError> {
        if name == CONFIG {
            return about(name, hot.create_here(HOT_CONFIG, bytes));
        }
        if !layout::is_copied(name) {
            return hot.create_here(name, bytes);
        }
        if !name.starts_with(PACKS) {
            let created = hot.create_here(name, bytes.clone())?;
            if created == Created::New {
                self.copy(hot, name, bytes)?;
            }
            return Ok(created);
        }
        // Only the session that a pack is named after makes it: nobody has to decide who was first.
        if !(self.goes_hot)(&bytes) {
            return self.cold.packs.create_archived(name, bytes);
        }
        let copied = self.copies().create_archived(&layout::copy(name), bytes.clone());
        if about(name, copied)? == Created::AlreadyThere {
            return Ok(Created::AlreadyThere);
        }
        let created = hot.create_here(name, bytes)?;
        self.note_hot_packs(std::iter::once(name.to_string()));
        Ok(created)
    }

    /// Copies what the hot store holds under this name. `false`: it is gone meanwhile, and so is the copy.
    fn copy(&self, hot: &Store, name: &str, bytes: Vec<u8>) -> Result<bool, StoreError> {
        let copy = layout::copy(name);
        let created = about(name, self.copies().create_archived(&copy, bytes))?;
        // Without conditions, a mark that several make is written over, and the first copy is as good.
        if created == Created::AlreadyThere && hot.is_conditional() {
            let message = "the copy in the cold store is another: the hot store has lost what it had of this name; \
                           `aumbry repair hot` brings back what is lost";
            return Err(StoreError::new(Kind::Invalid, name, message));
        }
        // Whoever deletes takes the copy first: if it was this one's like, the copy must not outlive what it is of.
        if hot.size_here(name)?.is_none() {
            about(name, self.cold.copies.delete_here(&copy))?;
            return Ok(false);
        }
        Ok(true)
    }

    pub(super) fn delete(&self, hot: &Store, name: &str) -> Result<(), StoreError> {
        if name == CONFIG {
            return about(name, hot.delete_here(HOT_CONFIG));
        }
        // What the hot one is not known to do holds for both.
        hot.pass_guard()?;
        if name.starts_with(PACKS) && !self.is_hot_pack(hot, name)? {
            return self.cold.packs.delete_here(name);
        }
        if !layout::is_copied(name) {
            return hot.delete_here(name);
        }
        let copy = layout::copy(name);
        about(name, self.cold.copies.delete_here(&copy))?;
        hot.delete_here(name)?;
        // Somebody may have made it once more in between.
        about(name, self.cold.copies.delete_here(&copy))
    }

    pub(super) fn list(&self, hot: &Store, prefix: &str) -> Result<Vec<ObjectInfo>, StoreError> {
        let mut listed = hot.list_here(prefix)?;
        for object in &mut listed {
            if object.name == HOT_CONFIG {
                object.name = CONFIG.to_string();
            }
        }
        if is_of_packs(prefix) {
            let of_packs = if prefix.len() < PACKS.len() { PACKS } else { prefix };
            let mut copies = self.cold.copies.list_here(&layout::copy(of_packs))?;
            for object in &mut copies {
                object.name.drain(..COPY.len());
            }
            let hot_packs = listed.iter().filter(|object| object.name.starts_with(PACKS));
            let hot_packs = hot_packs.chain(&copies).map(|object| object.name.clone());
            self.note_hot_packs(hot_packs);
            // What is in several places counts where it is read.
            listed.append(&mut copies);
            listed.extend(self.cold.packs.list_here(of_packs)?);
        }
        listed.sort_by(|left, right| left.name.cmp(&right.name));
        listed.dedup_by(|second, first| second.name == first.name);
        Ok(listed)
    }

    fn thaw(&self, names: &[String]) -> Result<(), StoreError> {
        let Some(thaw) = &self.cold.thaw else { return Ok(()) };
        let mut thawed = self.thawed.lock();
        let wanted: Vec<String> =
            names.iter().filter(|name| !thawed.contains(*name)).cloned().collect();
        if wanted.is_empty() {
            return Ok(());
        }
        let place = self.cold.packs.location();
        thaw(&wanted).map_err(|error| match error {
            NotThawed::Interrupted => StoreError::interrupted(place),
            NotThawed::Failed(reason) => StoreError::new(Kind::Invalid, place, reason),
        })?;
        thawed.extend(wanted);
        Ok(())
    }
}

impl fmt::Debug for Cold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cold({})", self.packs.location())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Effect, FaultControl, conformance};

    fn tiered(hot: &Store, cold: &Store, is_hot_pack: fn(&[u8]) -> bool) -> Store {
        let (packs, copies) = (cold.clone(), cold.clone());
        hot.clone().with_cold(Cold { packs, copies, thaw: None }, is_hot_pack)
    }

    /// What the tests call a pack that goes to the hot store.
    fn begins_hot(bytes: &[u8]) -> bool {
        bytes.starts_with(b"hot")
    }

    const PACK: &str = "packs/00/00000000-00000000000000000000000000000000-00000000";

    #[test]
    fn two_stores_conform_as_one() {
        for is_hot_pack in [(|_: &[u8]| true) as fn(&[u8]) -> bool, |_: &[u8]| false] {
            let tiered = tiered(&Store::memory(), &Store::memory(), is_hot_pack);
            conformance::check(&tiered, &conformance::Extent::QUICK);
        }
    }

    #[test]
    fn everything_is_where_the_table_says_and_deleted_everywhere() {
        let (hot, cold) = (Store::memory(), Store::memory());
        let store = tiered(&hot, &cold, begins_hot);
        let other = PACK.replace("-00000000", "-00000001");
        for (name, bytes) in [
            (PACK, "hot trees"),
            (&other[..], "data"),
            ("config", "what it is"),
            ("snapshots/a", "slot"),
            ("sessions/a", "session"),
            ("gc/maintainer", "who"),
            ("gc/reserve-00000000", "room"),
        ] {
            assert_eq!(store.create(name, bytes.into()).unwrap(), Created::New);
            assert_eq!(store.get(name).unwrap(), bytes.as_bytes());
            assert_eq!(store.size(name).unwrap(), Some(bytes.len() as u64));
        }
        let names = |store: &Store| -> Vec<String> {
            store.list("").unwrap().into_iter().map(|object| object.name).collect()
        };
        let here = ["config-hot", "gc/maintainer", "gc/reserve-00000000", PACK, "sessions/a"];
        assert_eq!(names(&hot), [&here[..], &["snapshots/a"]].concat());
        assert_eq!(names(&cold), [&layout::copy(PACK), "copy/snapshots/a", &other]);
        assert_eq!(names(&store).len(), 7);
        assert_eq!(store.list("packs/").unwrap().len(), 2);
        assert_eq!(store.list("packs/00/00000000-").unwrap().len(), 2);
        for name in names(&store) {
            store.delete(&name).unwrap();
        }
        assert_eq!((names(&hot).len(), names(&cold).len()), (0, 0));
    }

    #[test]
    fn what_the_hot_store_has_lost_of_packs_is_read_from_its_copy() {
        let (hot, cold) = (Store::memory(), Store::memory());
        tiered(&hot, &cold, begins_hot).create(PACK, b"hot trees".to_vec()).unwrap();
        hot.delete(PACK).unwrap();
        let store = tiered(&hot, &cold, begins_hot);
        assert_eq!(store.get_range(PACK, 4..9).unwrap(), b"trees");
        assert_eq!(store.list("packs/").unwrap().len(), 1);
        assert_eq!(store.gaps().unwrap().lost.len(), 1);
        assert!(store.copy_to_hot(PACK).unwrap());
        assert_eq!(hot.get(PACK).unwrap(), b"hot trees");
        assert_eq!(store.gaps().unwrap(), Gaps::default());
    }

    #[test]
    fn a_pack_that_another_client_has_made_is_found_wherever_it_is() {
        let (hot, cold) = (Store::memory(), Store::memory());
        let store = tiered(&hot, &cold, begins_hot);
        assert_eq!(store.size(PACK).unwrap(), None);
        tiered(&hot, &cold, begins_hot).create(PACK, b"hot trees".to_vec()).unwrap();
        assert_eq!(store.get(PACK).unwrap(), b"hot trees");
        assert_eq!(store.get("packs/00/none").unwrap_err().kind, Kind::NotFound);
    }

    #[test]
    fn who_was_first_is_decided_by_the_hot_store_and_its_bytes_are_what_is_copied() {
        let (hot, cold) = (Store::memory(), Store::memory());
        let one = tiered(&hot, &cold, begins_hot);
        assert_eq!(one.create("snapshots/a", b"one".to_vec()).unwrap(), Created::New);
        assert_eq!(one.create("snapshots/a", b"other".to_vec()).unwrap(), Created::AlreadyThere);
        assert_eq!(cold.get("copy/snapshots/a").unwrap(), b"one");
        // A copy that is another is not written over, and not kept quiet about.
        hot.delete("snapshots/a").unwrap();
        let refused = one.create("snapshots/a", b"other".to_vec()).unwrap_err();
        assert!(refused.message.contains("repair hot"), "{refused}");
        assert_eq!(cold.get("copy/snapshots/a").unwrap(), b"one");
    }

    #[test]
    fn a_copy_that_was_not_made_is_made_when_the_same_is_created_again_or_completed() {
        let (hot, cold, control) = (Store::memory(), Store::memory(), FaultControl::new());
        let store = tiered(&hot, &cold.clone().with_faults(control.clone()), begins_hot);
        control.stop_at(0, Effect::Before);
        assert_eq!(store.create("tombs/a", b"a".to_vec()).unwrap_err().kind, Kind::Unavailable);
        assert_eq!(store.create("tombs/b", b"b".to_vec()).unwrap_err().kind, Kind::Unavailable);
        control.resume();
        assert_eq!(store.create("tombs/a", b"a".to_vec()).unwrap(), Created::New);
        assert_eq!(cold.get("copy/tombs/a").unwrap(), b"a");
        let uncopied = store.gaps().unwrap().uncopied;
        assert_eq!(uncopied.iter().map(|object| &object.name[..]).collect::<Vec<_>>(), ["tombs/b"]);
        assert!(store.copy_to_cold("tombs/b").unwrap());
        assert!(!store.copy_to_cold("tombs/c").unwrap());
        assert_eq!(store.gaps().unwrap(), Gaps::default());
    }

    #[test]
    fn packs_are_thawed_once_and_what_fails_is_asked_for_again() {
        let asked: Arc<Mutex<Vec<Vec<String>>>> = Arc::default();
        let (told, cold) = (asked.clone(), Store::memory());
        let thaw: Thaw = Arc::new(move |names| {
            told.lock().push(names.to_vec());
            match told.lock().len() {
                1 => Err(NotThawed::Failed("no".to_string())),
                _ => Ok(()),
            }
        });
        let (packs, copies) = (cold.clone(), cold);
        let store = Store::memory().with_cold(Cold { packs, copies, thaw: Some(thaw) }, begins_hot);
        let names = |names: &[&str]| names.iter().map(|name| name.to_string()).collect::<Vec<_>>();
        assert!(store.thaws() && store.thaw(&names(&["a"])).is_err());
        store.thaw(&names(&["a", "b"])).unwrap();
        store.thaw(&names(&["b", "c"])).unwrap();
        store.thaw(&names(&["a"])).unwrap();
        assert_eq!(asked.lock()[..], [names(&["a"]), names(&["a", "b"]), names(&["c"])]);
    }
}
