//! A repository in two stores, a hot one and a cold one for data packs: put together, told apart, and kept so that either
//! can be lost. Which object is where, the store knows (`docs/design/0013-hot-and-cold.md`).

use std::collections::{BTreeSet, HashSet};

use super::chance::Chance;
use super::error::{Kind, Named, RepositoryError, Result};
use super::index::cache::Excluded;
use super::{Repository, TELLTALES};
use crate::format::header::{Header, ObjectKind};
use crate::format::pack::Encoding;
use crate::id::{HotStoreId, PackId, RepositoryId};
use crate::monitor::{Monitor, Progress};
use crate::store::{Cold, Gaps, Store, layout};

/// A hot store and a cold one as the one store of a repository.
pub fn join(hot: Store, cold: Cold) -> Store {
    hot.with_cold(cold, is_tree_pack)
}

/// Trees are read all the time: by every listing, check and collection.
fn is_tree_pack(object: &[u8]) -> bool {
    Header::decode(object).is_ok_and(|header| header.kind == ObjectKind::TreePack)
}

/// Why there is no config where one was looked for.
pub(super) fn without_config(store: &Store) -> Result<RepositoryError> {
    let refuse = |message: String| RepositoryError::new(Kind::Invalid, store.location(), message);
    let owners = store.cold_of()?;
    let Some(cold) = store.cold_location() else {
        if store.is_hot()? {
            return Ok(refuse(
                "is the hot store of a repository: name its cold store with -r, and this one with --repo-hot".into(),
            ));
        }
        if !owners.is_empty() {
            return Ok(refuse(
                "is the cold store of a repository, and its hot store is needed, too: --repo-hot PLACE. If that is \
                 lost, `aumbry repair hot` makes it again, in an empty PLACE"
                    .into(),
            ));
        }
        return Ok(absent(store));
    };
    if let Some(object) = store.foreign_object(&[])? {
        return Ok(refuse(format!(
            "is not the hot store of what is in {cold}: there is {object}. With -r goes the cold store, with --repo-hot \
             the hot one; a repository in one store is named with -r alone"
        )));
    }
    match owners.is_empty() {
        true => Ok(absent(store)),
        false => Ok(refuse(format!(
            "is not the hot store that belongs to the cold one in {cold}. Name the right one; if that is lost, \
             `aumbry repair hot` makes it again, in an empty place"
        ))),
    }
}

fn absent(store: &Store) -> RepositoryError {
    RepositoryError::new(Kind::NotFound, store.location(), "is not a repository")
}

/// Whether two stores belong together, of which the hot one is this repository's.
///
/// # Errors
///
/// [`Kind::Invalid`]: the cold one is another's, or another hot store has taken this one's place.
pub(super) fn require_pair(store: &Store, id: RepositoryId) -> Result<()> {
    let Some(cold) = store.cold_location() else { return Ok(()) };
    if store.is_tied()? {
        return Ok(());
    }
    if store.is_cold_of(id)? {
        let message = format!(
            "is not the hot store of what is in {cold} any more: `aumbry repair hot` has made another one, which is the \
             one to name with --repo-hot. If that is lost, `aumbry repair hot` makes one more, in an empty place"
        );
        return Err(RepositoryError::new(Kind::Invalid, store.location(), message));
    }
    let whose = match store.cold_of()?.first() {
        Some(other) => format!("it is that of repository {}", other.short()),
        None => "there is no copy of its config".to_string(),
    };
    let message = format!(
        "is not the cold store of repository {}, whose hot store is {}: {whose}. Name the right one with -r",
        id.short(),
        store.location()
    );
    Err(RepositoryError::new(Kind::Invalid, cold, message))
}

/// Whether a repository may be made in this store, or in these two: nobody's part of one is there.
pub(super) fn require_free(store: &Store) -> Result<()> {
    let refuse = |place: &str, message: String| {
        Err(RepositoryError::new(Kind::Conflict, place.to_string(), message))
    };
    if let Some(object) = store.foreign_object(&TELLTALES)? {
        return refuse(store.location(), format!("cannot be made a repository: there is {object}"));
    }
    if let (true, None) = (store.is_hot()?, store.cold_location()) {
        return refuse(store.location(), "is the hot store of a repository already".to_string());
    }
    if let Some(owner) = store.cold_of()?.first() {
        let place = store.cold_location().unwrap_or_else(|| store.location());
        let name = layout::copy_of_config(*owner);
        let message = format!(
            "is the cold store of a repository already. If the making of that was broken off, and nothing was ever \
             saved in it, delete {name} there"
        );
        return refuse(place, message);
    }
    Ok(())
}

/// Ties two stores to each other, and says in the cold one whose it is. `None`: there is one store.
pub(super) fn claim(
    store: &Store,
    id: RepositoryId,
    config: &[u8],
    chance: &Chance,
) -> Result<Option<HotStoreId>> {
    if !store.is_tiered() {
        return Ok(None);
    }
    let hot = HotStoreId(chance.bytes()?);
    store.tie(hot, id)?;
    store.claim_cold(id, config.to_vec())?;
    Ok(Some(hot))
}

/// Takes that back.
pub(super) fn release(store: &Store, id: RepositoryId, hot: Option<HotStoreId>) -> Result<()> {
    let Some(hot) = hot else { return Ok(()) };
    store.release_cold(id)?;
    Ok(store.untie(hot)?)
}

/// What was done, or would be, to make a hot store whole out of the cold one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HotRepair {
    /// Objects that it lacked.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The config among them: there was no hot store at all.
    pub is_new: bool,
}

/// Makes the hot one of two stores whole again, out of the copies in the cold one: no key is needed. The config comes last, so
/// that there is a repository when everything is there. Nobody else may be at work in it. A new one takes the place of
/// whichever there was: that is refused from then on, should somebody have it still.
pub fn repair_hot(
    store: &Store,
    dry_run: bool,
    chance: &Chance,
    monitor: &dyn Monitor,
) -> Result<HotRepair> {
    let Some(cold) = store.cold_location() else {
        let message = "has no hot store: `repair hot` is for a repository in two, with --repo-hot";
        return Err(RepositoryError::new(Kind::Invalid, store.location(), message));
    };
    let is_new = !store.is_hot()?;
    let id = match is_new {
        true => match (&store.cold_of()?[..], store.foreign_object(&[])?) {
            ([id], None) => *id,
            ([], _) => {
                let message = "is no repository's cold store: there is no copy of a config";
                return Err(RepositoryError::new(Kind::Invalid, cold, message));
            }
            (_, Some(_)) => return Err(without_config(store)?),
            _ => {
                let message =
                    "is the cold store of several repositories, and nothing says which is meant";
                return Err(RepositoryError::new(Kind::Invalid, cold, message));
            }
        },
        false => {
            let object = store.get(layout::CONFIG)?;
            let id = Header::decode(&object).named(layout::CONFIG)?.repository;
            require_pair(store, id)?;
            id
        }
    };
    let mut gaps = store.gaps()?;
    let bytes = gaps.lost.iter().map(|object| object.size).sum();
    let mut repair = HotRepair { objects: gaps.lost.len() as u64, bytes, is_new };
    repair.objects += u64::from(is_new);
    if dry_run {
        return Ok(repair);
    }
    let mut names: Vec<String> =
        gaps.lost.iter().map(|object| layout::copy(&object.name)).collect();
    if is_new {
        names.push(layout::copy_of_config(id));
    }
    store.thaw(&names)?;
    if is_new {
        // Two hot stores would be two histories over the same packs, and each collects what only the other needs.
        let hot = HotStoreId(chance.bytes()?);
        store.tie(hot, id)?;
        store.displace_all_but(hot)?;
        // What the one before has come to until then.
        gaps = store.gaps()?;
    }
    monitor.expect(Progress { files: repair.objects, bytes });
    for object in &gaps.lost {
        if monitor.interrupted() {
            return Err(RepositoryError::new(Kind::Interrupted, store.location(), "interrupted"));
        }
        store.copy_to_hot(&object.name)?;
        monitor.advance(Progress { files: 1, bytes: object.size });
    }
    if is_new {
        let config = store.config_of_cold(id)?;
        if !store.is_tied()? {
            let message = "was made the hot store by one `aumbry repair hot`, and another place by another at the same \
                           time; run it again, once, in an empty place";
            return Err(RepositoryError::new(Kind::Conflict, store.location(), message));
        }
        store.create(layout::CONFIG, config)?;
    }
    Ok(repair)
}

impl Repository {
    /// Copies to the cold one of two stores what a client that was stopped has left without a copy, so that the hot one may
    /// be lost; and to the hot one the tree packs of which it has left nothing but the copy. Returns how many objects there
    /// were.
    pub fn complete_cold(&self) -> Result<u64> {
        if !self.store.is_tiered() {
            return Ok(0);
        }
        let mut copied = 0;
        let gaps = self.gaps()?;
        for object in gaps.uncopied {
            copied += u64::from(self.store.copy_to_cold(&object.name)?);
        }
        // All else that has a copy was in the hot store, and is lost there: that is for a person to look into.
        for object in gaps.lost.iter().filter(|object| object.name.starts_with(layout::PACKS)) {
            copied += u64::from(self.store.copy_to_hot(&object.name)?);
        }
        Ok(copied)
    }

    /// What the hot or the cold one of two stores lacks of the other. What is made or deleted meanwhile may be among it.
    pub fn gaps(&self) -> Result<Gaps> {
        Ok(self.store.gaps()?)
    }

    /// Those of these packs, by the cache's numbers, that are in a cold store, in order.
    pub fn cold_packs(&self, numbers: impl IntoIterator<Item = u32>) -> Result<Vec<PackId>> {
        let mut packs = BTreeSet::new();
        if !self.store.is_tiered() {
            return Ok(Vec::new());
        }
        for number in numbers {
            let pack = self.cache.pack(number)?;
            if pack.kind == ObjectKind::DataPack {
                packs.insert(pack.id);
            }
        }
        Ok(packs.into_iter().collect())
    }

    /// Those of these packs that are in a cold store, in order. A pack that no index lists is taken for one of them.
    pub fn cold_among(&self, packs: &[PackId]) -> Result<Vec<PackId>> {
        let mut cold = BTreeSet::new();
        if !self.store.is_tiered() {
            return Ok(Vec::new());
        }
        for id in packs {
            let number = self.cache.pack_numbers([*id])?.into_iter().next();
            let pack = number.map(|number| self.cache.pack(number)).transpose()?;
            if pack.is_none_or(|pack| pack.kind == ObjectKind::DataPack) {
                cold.insert(*id);
            }
        }
        Ok(cold.into_iter().collect())
    }

    /// The packs in a cold store that proving all that is in these takes: they, and those of what deltas in them are read
    /// against.
    pub fn cold_packs_for(&self, packs: &[PackId]) -> Result<Vec<PackId>> {
        let mut cold: BTreeSet<PackId> = self.cold_among(packs)?.into_iter().collect();
        let mut bases = HashSet::new();
        for number in self.cache.pack_numbers(cold.iter().copied())? {
            for segment in &self.cache.pack(number)?.segments {
                let Encoding::Delta(ids) = &segment.encoding else { continue };
                for id in ids {
                    let base = self.cache.base_outside(id, &Excluded::default())?;
                    bases.extend(base.map(|base| base.pack));
                }
            }
        }
        cold.extend(self.cold_packs(bases)?);
        Ok(cold.into_iter().collect())
    }

    /// Whether packs of a cold store are thawed before they are read.
    pub fn thaws(&self) -> bool {
        self.store.thaws()
    }

    /// Has these packs thawed, as far as that was not done before, and waits for it.
    pub fn thaw(&self, packs: &[PackId]) -> Result<()> {
        let names: Vec<String> = packs.iter().map(|pack| layout::pack(*pack)).collect();
        Ok(self.store.thaw(&names)?)
    }
}
