//! Several stores of the same objects: each object is read from the first store that has it whole.
//!
//! One of them, the *main* store, decides: what is written or deleted is so there and nowhere else, and what collection,
//! tombs and sessions say is what it says. The others are asked for what it lacks or has damaged: packs, index objects,
//! slots, keys. A store that does not answer is told once, and not asked again while this runs; when it is the main one, the
//! next in order speaks in its place, and nothing is written.
//!
//! This room cannot tell bytes that are whole from others: whoever has the keys hands it a [`Proof`].

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use super::error::{Kind, StoreError};
use super::listing::check_prefix;
use super::{ObjectInfo, Store, layout};

/// Says what is wrong with the bytes that stand under a name; `None`: they are what was written.
pub type Proof = Box<dyn Fn(&str, &[u8]) -> Option<String> + Send + Sync>;

/// Why an object could not be had from a store.
#[derive(Debug, Clone)]
pub enum Trouble {
    /// The store said so.
    Store(StoreError),
    /// It was there, and is not what was written.
    Damage(String),
}

impl From<StoreError> for Trouble {
    fn from(error: StoreError) -> Self {
        Trouble::Store(error)
    }
}

/// A store that could not be opened.
#[derive(Debug, Clone)]
pub struct Unopened {
    /// Where it is, for people.
    pub location: String,
    /// Why.
    pub why: String,
}

/// An object that was read from another store, because this one has it not, or damaged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PassedOver {
    /// The store that was passed over: where it is, for people.
    pub location: String,
    /// The object.
    pub name: String,
    /// What was wrong.
    pub what: String,
}

/// The others, and what became of all.
pub(super) struct Several {
    mirrors: Vec<Store>,
    /// Why a store is not asked any more; the main one first.
    silent: Vec<OnceLock<String>>,
    proof: OnceLock<Proof>,
    /// By the store's number and the object's name: what was wrong, and whether it was told.
    passed_over: Mutex<BTreeMap<(usize, String), (String, bool)>>,
    /// What a store has not and another has: it is not asked for it again.
    lacking: Mutex<BTreeSet<(usize, String)>>,
}

impl Several {
    /// Keeps in mind that another store had this object.
    fn pass_over(&self, number: usize, name: &str, trouble: &Trouble) {
        let key = (number, name.to_string());
        let what = match trouble {
            Trouble::Damage(what) => what.clone(),
            // It is told by itself.
            Trouble::Store(error) if error.kind == Kind::Unavailable => return,
            Trouble::Store(error) => {
                if error.kind == Kind::NotFound {
                    self.lacking.lock().insert(key.clone());
                }
                error.message.clone()
            }
        };
        self.passed_over.lock().entry(key).or_insert((what, false));
    }
}

/// Whether an object of this name is looked for in every store. What decides which of these count (`gc/`, `tombs/` and
/// marks), and what is about one store only, is asked of one store.
fn is_shared(name: &str) -> bool {
    let folders = [layout::SNAPSHOTS, layout::INDEX, layout::PACKS, layout::KEYS];
    name == layout::CONFIG || folders.iter().any(|folder| name.starts_with(folder))
}

/// Whether every store is listed for what begins so. A key that is gone may have been removed, and an index object that is
/// gone be superseded: what the others have of these is looked for when it is needed.
fn is_listed_everywhere(prefix: &str) -> bool {
    prefix.starts_with(layout::SNAPSHOTS) || prefix.starts_with(layout::PACKS)
}

impl Store {
    /// This store as the main one, and other stores of the same objects.
    pub fn with_mirrors(self, mirrors: Vec<Store>) -> Store {
        let silent = (0..=mirrors.len()).map(|_| OnceLock::new()).collect();
        let several = Several {
            mirrors,
            silent,
            proof: OnceLock::new(),
            passed_over: Mutex::default(),
            lacking: Mutex::default(),
        };
        Store { several: Some(Arc::new(several)), ..self }
    }

    /// The same, of which some, the main one first, could not even be opened: those count as stores that do not answer.
    pub fn of_several(
        main: Result<Store, Unopened>,
        mirrors: Vec<Result<Store, Unopened>>,
    ) -> Store {
        let mut unopened = Vec::new();
        let mut opened = [main].into_iter().chain(mirrors).enumerate().map(|(number, store)| {
            store.unwrap_or_else(|Unopened { location, why }| {
                unopened.push((number, why));
                let operator = opendal::Operator::new(opendal::services::Memory::default())
                    .expect("the memory service has no option that could be wrong");
                // Nothing is ever asked of it.
                Store::direct(operator, location, false)
            })
        });
        let main = opened.next().expect("the main store is the first of them");
        let mirrors = opened.collect();
        let store = main.with_mirrors(mirrors);
        for (number, why) in unopened {
            store.silence(number, &why);
        }
        store
    }

    /// Whether there is more than one.
    pub fn has_mirrors(&self) -> bool {
        self.several.is_some()
    }

    /// How many there are.
    fn count(&self) -> usize {
        1 + self.several.as_ref().map_or(0, |several| several.mirrors.len())
    }

    /// One of them alone: 0 is the main one.
    fn nth(&self, number: usize) -> Store {
        match &self.several {
            Some(several) if number > 0 => several.mirrors[number - 1].clone(),
            _ => Store { several: None, ..self.clone() },
        }
    }

    fn is_silent(&self, number: usize) -> bool {
        self.several.as_ref().is_some_and(|several| several.silent[number].get().is_some())
    }

    /// Whether another store speaks in the place of the main one, which does not answer.
    pub fn is_main_silent(&self) -> bool {
        self.is_silent(0)
    }

    /// Those that answer, as far as is known, each alone, with their numbers: the main one is 0.
    pub fn each(&self) -> Vec<(usize, Store)> {
        let numbers = (0..self.count()).filter(|number| !self.is_silent(*number));
        numbers.map(|number| (number, self.nth(number))).collect()
    }

    /// The main store alone, or the first other that answers when that does not.
    pub fn leading(&self) -> Store {
        self.each().into_iter().next().map_or_else(|| self.nth(0), |(_, store)| store)
    }

    /// From now on, objects that are read whole are held against this before the next store is not asked.
    pub fn prove_by(&self, proof: Proof) {
        if let Some(several) = &self.several {
            let _ = several.proof.set(proof);
        }
    }

    /// Asks this store no more, for this reason, and says so.
    pub fn silence(&self, number: usize, why: &str) {
        let Some(several) = &self.several else { return };
        if several.silent[number].set(why.to_string()).is_err() {
            return;
        }
        let left = self.each();
        let others: Vec<&str> = left.iter().map(|(_, store)| store.location()).collect();
        let goes_on = match others.is_empty() {
            false => format!("reading goes on without it, from {}", others.join(", ")),
            true => "there is no other".to_string(),
        };
        let location = self.nth(number).location().to_string();
        let text = format!("{location} cannot be read ({why}); {goes_on}");
        // The line of one that could not be opened leads nowhere.
        let told_by = left.first().map_or(self, |(_, store)| store);
        told_by.inner.line.monitor.note(&text);
    }

    /// Which stores are not asked any more, and why.
    pub fn silent(&self) -> Vec<(String, String)> {
        let Some(several) = &self.several else { return Vec::new() };
        let silent = several.silent.iter().enumerate();
        silent
            .filter_map(|(number, why)| {
                Some((self.nth(number).location().to_string(), why.get()?.clone()))
            })
            .collect()
    }

    /// What was read from another store, and was not told yet: each store and object once.
    pub fn take_passed_over(&self) -> Vec<PassedOver> {
        let Some(several) = &self.several else { return Vec::new() };
        let mut untold = Vec::new();
        for ((number, name), (what, is_told)) in several.passed_over.lock().iter_mut() {
            if !std::mem::replace(is_told, true) {
                let location = self.nth(*number).location().to_string();
                untold.push(PassedOver { location, name: name.clone(), what: what.clone() });
            }
        }
        untold
    }

    /// How many objects were read from another store so far, each counted for each store that was passed over.
    pub fn passed_over(&self) -> u64 {
        self.several.as_ref().map_or(0, |several| several.passed_over.lock().len() as u64)
    }

    /// Keeps in mind that this store was passed over for an object.
    pub fn pass_over(&self, number: usize, name: &str, what: &str) {
        if let Some(several) = &self.several {
            several.pass_over(number, name, &Trouble::Damage(what.to_string()));
        }
    }

    /// What `read` makes of the first store in which that works. The stores before it are passed over. Where it works in
    /// none: what was damaged before what is not there, and that before what does not answer.
    pub fn from_first<T>(
        &self,
        name: &str,
        read: impl Fn(&Store) -> Result<T, Trouble>,
    ) -> Result<T, Trouble> {
        let mut troubles = Vec::new();
        let found = self.first_that(name, read, &mut troubles);
        if let (Some(several), Ok(_)) = (&self.several, &found) {
            troubles.iter().for_each(|(number, it)| several.pass_over(*number, name, it));
        }
        found
    }

    /// The same for who may find what is not needed: nobody is told.
    fn quietly<T>(
        &self,
        name: &str,
        read: impl Fn(&Store) -> Result<T, Trouble>,
    ) -> Result<T, StoreError> {
        self.first_that(name, read, &mut Vec::new()).map_err(|trouble| match trouble {
            Trouble::Store(error) => error,
            Trouble::Damage(what) => StoreError::new(Kind::Invalid, name, what),
        })
    }

    fn first_that<T>(
        &self,
        name: &str,
        read: impl Fn(&Store) -> Result<T, Trouble>,
        troubles: &mut Vec<(usize, Trouble)>,
    ) -> Result<T, Trouble> {
        if self.several.is_none() {
            return read(self);
        }
        for (number, store) in self.each() {
            if self.is_lacking(number, name) {
                continue;
            }
            match read(&store) {
                Err(Trouble::Store(error)) if error.kind == Kind::Interrupted => {
                    return Err(error.into());
                }
                Err(trouble) => {
                    if let Trouble::Store(error) = &trouble
                        && error.kind == Kind::Unavailable
                    {
                        self.silence(number, &error.message);
                    }
                    troubles.push((number, trouble));
                }
                found => return found,
            }
        }
        let rank = |trouble: &Trouble| match trouble {
            Trouble::Damage(_) => 0,
            Trouble::Store(error) if error.kind == Kind::Truncated => 1,
            Trouble::Store(error) if error.kind == Kind::NotFound => 2,
            Trouble::Store(_) => 3,
        };
        let worst = troubles.iter().min_by_key(|(_, trouble)| rank(trouble));
        Err(worst.map_or_else(|| self.nobody_answers(name).into(), |(_, trouble)| trouble.clone()))
    }

    /// Whether this store is known to have no such object.
    fn is_lacking(&self, number: usize, name: &str) -> bool {
        let is_lacking =
            |several: &Arc<Several>| several.lacking.lock().contains(&(number, name.to_string()));
        self.several.as_ref().is_some_and(is_lacking)
    }

    /// [`Store::get_range`] for who fetches ahead: from the first store that has so much. Only that one lacks it leads to
    /// the next here, and what the bytes hold is not looked at.
    ///
    /// # Errors
    ///
    /// `None`: whoever needs it reads it, and finds out what each store says. Else what is not worth to be tried again: somebody
    /// wants to stop, or the only store could not be reached.
    pub fn get_range_ahead(
        &self,
        name: &str,
        range: Range<u64>,
    ) -> Result<Vec<u8>, Option<StoreError>> {
        let mut troubles = Vec::new();
        for (number, store) in self.each() {
            if self.is_lacking(number, name) {
                continue;
            }
            match store.get_range(name, range.clone()) {
                Ok(bytes) => {
                    if let Some(several) = &self.several {
                        troubles
                            .iter()
                            .for_each(|(number, it)| several.pass_over(*number, name, it));
                    }
                    return Ok(bytes);
                }
                Err(error) if matches!(error.kind, Kind::NotFound | Kind::Truncated) => {
                    troubles.push((number, Trouble::Store(error)));
                }
                // Another store may answer.
                Err(error) if self.several.is_some() && error.kind != Kind::Interrupted => {
                    return Err(None);
                }
                Err(error) => return Err(error.if_interrupted()),
            }
        }
        Err(None)
    }

    fn nobody_answers(&self, name: &str) -> StoreError {
        let silent = self.silent();
        let why = silent
            .first()
            .map_or(String::new(), |(location, why)| format!("{location} cannot be read ({why})"));
        let others = if silent.len() > 1 { ", and none of its mirrors" } else { "" };
        StoreError::new(Kind::Unavailable, name, format!("{why}{others}"))
    }

    /// The main store alone, to be written to. An error when it does not answer: then nothing can be.
    pub(super) fn main(&self, name: &str) -> Result<Store, StoreError> {
        let silent = self.several.as_ref().and_then(|several| several.silent[0].get());
        match silent {
            None => Ok(self.nth(0)),
            Some(why) => Err(StoreError::new(Kind::Unavailable, name, why.clone())),
        }
    }

    /// [`Store::get`] of several. What is damaged in all of them is returned as the first has it: what is wrong with it is
    /// for the reader to say.
    pub(super) fn get_of_several(&self, name: &str) -> Result<Vec<u8>, StoreError> {
        let damaged = RefCell::new(None);
        let found = self.from_first(name, |store| self.read_proven(store, name, &damaged));
        self.or_damaged(name, found, damaged.into_inner())
    }

    /// The same for who looks for what any store may have, and may not need it: nobody is told which were passed over.
    pub fn find(&self, name: &str) -> Result<Vec<u8>, StoreError> {
        let damaged = RefCell::new(None);
        let read = |store: &Store| self.read_proven(store, name, &damaged);
        let found = self.first_that(name, read, &mut Vec::new());
        self.or_damaged(name, found, damaged.into_inner())
    }

    /// The bytes of an object, if they are whole; the first that are not are kept. `None`: it is not there, and that is for
    /// this store to say.
    fn read_proven(
        &self,
        store: &Store,
        name: &str,
        damaged: &RefCell<Option<Vec<u8>>>,
    ) -> Result<Option<Vec<u8>>, Trouble> {
        let bytes = match store.get(name) {
            Err(error) if error.kind == Kind::NotFound && !is_shared(name) => {
                return match damaged.borrow().is_none() {
                    true => Ok(None),
                    false => Err(error.into()),
                };
            }
            bytes => bytes?,
        };
        let proof = self.several.as_ref().and_then(|several| several.proof.get());
        match proof.and_then(|proof| proof(name, &bytes)) {
            None => Ok(Some(bytes)),
            Some(what) => {
                damaged.borrow_mut().get_or_insert(bytes);
                Err(Trouble::Damage(what))
            }
        }
    }

    fn or_damaged(
        &self,
        name: &str,
        found: Result<Option<Vec<u8>>, Trouble>,
        damaged: Option<Vec<u8>>,
    ) -> Result<Vec<u8>, StoreError> {
        match (found, damaged) {
            (Ok(Some(bytes)), _) => Ok(bytes),
            (_, Some(bytes)) => Ok(bytes),
            (Ok(None), None) => Err(StoreError::not_found(name)),
            (Err(Trouble::Store(error)), None) => Err(error),
            (Err(Trouble::Damage(what)), None) => Err(StoreError::new(Kind::Invalid, name, what)),
        }
    }

    /// [`Store::get_range`] of several: from the first that gives so much.
    pub(super) fn get_range_of_several(
        &self,
        name: &str,
        range: Range<u64>,
    ) -> Result<Vec<u8>, StoreError> {
        self.quietly(name, |store| Ok(store.get_range(name, range.clone())?))
    }

    /// [`Store::size`] of several.
    pub(super) fn size_of_several(&self, name: &str) -> Result<Option<u64>, StoreError> {
        let found = self.quietly(name, |store| match store.size(name)? {
            None if is_shared(name) => Err(StoreError::not_found(name).into()),
            size => Ok(size),
        });
        match found {
            Err(error) if error.kind == Kind::NotFound => Ok(None),
            size => size,
        }
    }

    /// Whether any of them has an object of this length under this name.
    pub fn has(&self, name: &str, length: u64) -> Result<bool, StoreError> {
        let found = self.quietly(name, |store| match store.size(name)? {
            Some(size) if size == length => Ok(()),
            Some(size) => Err(StoreError::truncated(name, size, length).into()),
            None => Err(StoreError::not_found(name).into()),
        });
        match found {
            Ok(()) => Ok(true),
            Err(error) if matches!(error.kind, Kind::NotFound | Kind::Truncated) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// [`Store::list`] of several: of slots and packs what any of them has, each name once, as the first has it.
    pub(super) fn list_of_several(&self, prefix: &str) -> Result<Vec<ObjectInfo>, StoreError> {
        check_prefix(prefix)?;
        let mut all: Option<Vec<ObjectInfo>> = None;
        for (number, store) in self.each() {
            let listed = match store.list(prefix) {
                Err(error) if error.kind == Kind::Interrupted => return Err(error),
                Err(error) => {
                    self.silence(number, &error.message);
                    continue;
                }
                Ok(listed) => listed,
            };
            match &mut all {
                None => all = Some(listed),
                Some(all) => {
                    let known: BTreeSet<String> =
                        all.iter().map(|object| object.name.clone()).collect();
                    all.extend(listed.into_iter().filter(|object| !known.contains(&object.name)));
                }
            }
            if !is_listed_everywhere(prefix) {
                break;
            }
        }
        let mut all = all.ok_or_else(|| self.nobody_answers(prefix))?;
        all.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACK: &str = "packs/00/00000000-00000000000000000000000000000000-0";

    fn holding(objects: &[(&str, &[u8])]) -> Store {
        let store = Store::memory();
        for (name, bytes) in objects {
            store.create(name, bytes.to_vec()).unwrap();
        }
        store
    }

    fn told(store: &Store) -> Vec<(String, String)> {
        let told = store.take_passed_over().into_iter();
        told.map(|passed_over| (passed_over.name, passed_over.what)).collect()
    }

    #[test]
    fn each_object_comes_from_the_first_store_that_has_it_whole_and_the_others_are_told_once() {
        let main = holding(&[("keys/a", b"bad"), ("index/b", b"good")]);
        let mirror = holding(&[("keys/a", b"good"), ("index/b", b"good"), (PACK, b"good")]);
        let store = main.clone().with_mirrors(vec![mirror]);
        store.prove_by(Box::new(|_, bytes| (bytes != b"good").then(|| "is bad".to_string())));
        for name in ["keys/a", "index/b", PACK, PACK] {
            assert_eq!(store.get(name).unwrap(), b"good", "{name}");
        }
        let pair = |name: &str, what: &str| (name.to_string(), what.to_string());
        assert_eq!(told(&store), [pair("keys/a", "is bad"), pair(PACK, "not found")]);
        assert_eq!(told(&store), []);
        assert_eq!(store.list("packs/").unwrap().len(), 1);
        // What is found without being needed is not told.
        let more = holding(&[]).with_mirrors(vec![holding(&[("index/b", b"good")])]);
        assert_eq!(more.find("index/b").unwrap(), b"good");
        assert_eq!(more.size("index/b").unwrap(), Some(4));
        assert_eq!((more.list("index/").unwrap().len(), told(&more).len()), (0, 0));
        // Written to the main one alone.
        store.create("keys/new", b"good".to_vec()).unwrap();
        assert!(main.get("keys/new").is_ok() && store.nth(1).get("keys/new").is_err());
    }

    #[test]
    fn what_is_damaged_everywhere_is_handed_out_as_the_first_has_it() {
        let store =
            holding(&[("keys/a", b"one")]).with_mirrors(vec![holding(&[("keys/a", b"two")])]);
        store.prove_by(Box::new(|_, _| Some("is bad".to_string())));
        assert_eq!(store.get("keys/a").unwrap(), b"one");
        assert_eq!(store.get("keys/b").unwrap_err().kind, Kind::NotFound);
    }

    #[test]
    fn only_the_main_store_says_what_was_collected_and_forgotten() {
        let main = holding(&[("gc/00000001.sweep", b"bad")]);
        let more: [(&str, &[u8]); 3] =
            [("gc/00000001.sweep", b"good"), ("gc/00000002.sweep", b"good"), ("tombs/x", b"good")];
        let store = main.with_mirrors(vec![holding(&more)]);
        store.prove_by(Box::new(|_, bytes| (bytes != b"good").then(|| "is bad".to_string())));
        assert_eq!(store.list("gc/").unwrap().len(), 1);
        assert_eq!(store.list("tombs/").unwrap(), []);
        assert_eq!(store.size("gc/00000002.sweep").unwrap(), None);
        assert_eq!(store.get("gc/00000002.sweep").unwrap_err().kind, Kind::NotFound);
        // What it has damaged may be whole elsewhere.
        assert_eq!(store.get("gc/00000001.sweep").unwrap(), b"good");
    }

    #[test]
    fn a_main_store_that_cannot_be_opened_is_passed_over_and_nothing_is_written() {
        let mirror = holding(&[("config", b"good"), ("gc/00000001.sweep", b"good")]);
        let (location, why) = ("s3://gone".to_string(), "connection refused".to_string());
        let store = Store::of_several(Err(Unopened { location, why }), vec![Ok(mirror.clone())]);
        assert_eq!(store.get("config").unwrap(), b"good");
        assert_eq!(store.list("gc/").unwrap().len(), 1);
        assert_eq!(store.silent(), [("s3://gone".to_string(), "connection refused".to_string())]);
        let refused = store.create("keys/new", b"good".to_vec()).unwrap_err();
        assert_eq!(refused.kind, Kind::Unavailable);
        assert!(store.delete("config").is_err());
        assert_eq!(mirror.list("").unwrap().len(), 2);
        assert_eq!(told(&store), [], "it was told already");
    }
}
