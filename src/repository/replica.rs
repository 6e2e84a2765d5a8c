//! A second store for the same objects: what it lacks, in the order in which it may be given it, and what it may lose.
//!
//! Everything is listed in one order and copied in the other, so that at every moment the replica is a repository that a
//! reader finds whole: an earlier state of the source, or the same. Why, step by step: `docs/design/0011-replication.md`.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::Repository;
use super::error::{Kind, RepositoryError, Result};
use super::generations::{Asked, Generations};
use super::verify::is_damage;
use crate::format::header::ObjectKind;
use crate::format::snapshot::Decision;
use crate::id::{PackId, SessionId, SnapshotId};
use crate::monitor::Monitor;
use crate::store::{Created, ObjectInfo, Store, layout};

/// Sweeps and condemned lists of so many generations stay (`docs/format.md`, section 10).
const GENERATIONS_KEPT: u32 = 16;

/// What is copied together: nothing of a later class before everything of the earlier ones is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Key slots and, while the replica has no config, key updates: what is sealed later can be opened.
    Keys,
    /// The config, which makes it a repository.
    Config,
    /// Packs.
    Packs,
    /// Index objects, whose packs are there.
    Index,
    /// Key updates of a replica that has a config: one without an old data key, after the packs that were sealed anew.
    Updates,
    /// Marks of tombs that were undone, before those tombs.
    Marks,
    /// Tombs, before the snapshots that they are about.
    Tombs,
    /// Slots, whose packs and index objects are there: one after another, as they are listed.
    Snapshots,
    /// Marks of snapshots that were reported.
    Confirmed,
    /// Condemned lists and sweeps, whose snapshots are there: one after another, as they are listed.
    Generations,
}

impl Class {
    /// Whether its objects have an order among themselves, too.
    pub fn is_ordered(self) -> bool {
        matches!(self, Class::Snapshots | Class::Generations)
    }

    /// Whether what is copied later builds on each of its objects: one that is gone when it is read ends the run.
    pub fn is_needed(self) -> bool {
        matches!(self, Class::Config | Class::Index | Class::Snapshots)
    }
}

/// All of them, in the order in which they are copied.
pub const CLASSES: [Class; 10] = [
    Class::Keys,
    Class::Config,
    Class::Packs,
    Class::Index,
    Class::Updates,
    Class::Marks,
    Class::Tombs,
    Class::Snapshots,
    Class::Confirmed,
    Class::Generations,
];

/// An object of the source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Its name.
    pub name: String,
    /// Its length in bytes.
    pub bytes: u64,
}

impl Object {
    /// Whether it opens the repository.
    pub fn is_key_slot(&self) -> bool {
        layout::parse_key(&self.name).is_some()
    }

    /// The pack that it is, if it is one.
    pub fn pack(&self) -> Option<PackId> {
        layout::parse_pack(&self.name)
    }
}

/// What both stores hold.
#[derive(Debug, Default)]
pub struct Comparison {
    /// What the replica lacks, by class.
    pub missing: BTreeMap<Class, Vec<Object>>,
    /// What both have, with the same length.
    pub common: Vec<Object>,
    /// What both have with different lengths, and how long the replica's is.
    pub differing: Vec<(Object, u64)>,
    /// What the replica has, the source has no more, and collection has let go. Never keys.
    pub let_go: Vec<Object>,
    /// What else the replica has and the source has not.
    pub extra: Vec<Object>,
    /// A session that made a snapshot in the replica, and of which the source never heard.
    pub foreign: Option<SessionId>,
    /// The newest sweep when the source was listed.
    pub swept: u32,
}

/// What became of one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mirrored {
    /// It is in the replica now: so many bytes.
    Copied(u64),
    /// The same; parity had what was damaged in the source.
    Mended(u64),
    /// It was listed, and is gone from the source since.
    Gone,
    /// The source's is damaged: not copied.
    Damaged(String),
    /// The replica has other bytes under this name: left.
    Differs(String),
}

/// What the source's sweeps say that can be read.
struct Swept {
    /// Their generations.
    generations: BTreeSet<u32>,
    /// The packs that they name.
    packs: BTreeSet<PackId>,
}

/// Another store of a repository.
pub struct Replica<'a> {
    repository: &'a Repository,
    store: Store,
}

/// The class of the object with this name; `None`: it is about one store only, or nothing of the format.
pub(super) fn class_of(name: &str) -> Option<Class> {
    if name == layout::CONFIG {
        Some(Class::Config)
    } else if layout::parse_key(name).is_some() {
        Some(Class::Keys)
    } else if layout::parse_key_update(name).is_some() {
        Some(Class::Updates)
    } else if layout::parse_pack(name).is_some() {
        Some(Class::Packs)
    } else if layout::parse_index(name).is_some() {
        Some(Class::Index)
    } else if layout::parse_undone(name).is_some() {
        Some(Class::Marks)
    } else if layout::parse_tomb(name).is_some() {
        Some(Class::Tombs)
    } else if layout::parse_snapshot(name).is_some() {
        Some(Class::Snapshots)
    } else if layout::parse_confirmed(name).is_some() {
        Some(Class::Confirmed)
    } else if generation_of(name).is_some() {
        Some(Class::Generations)
    } else {
        None
    }
}

fn generation_of(name: &str) -> Option<u32> {
    layout::parse_condemned(name).or_else(|| layout::parse_sweep(name))
}

/// The newest sweep comes first: what an older one lets live may have been forgotten since, and is not copied. Then the
/// condemned lists, upwards: one without a sweep is taken for the open generation, whose predecessor has ended.
fn generation_order(name: &str) -> (bool, Reverse<u32>, u32) {
    match layout::parse_sweep(name) {
        Some(k) => (false, Reverse(k), 0),
        None => (true, Reverse(0), generation_of(name).unwrap_or(0)),
    }
}

/// The session whose slot an object is, or is about.
fn slot_session(name: &str) -> Option<SessionId> {
    let of_tomb = || layout::parse_tomb(name).or_else(|| layout::parse_undone(name));
    layout::parse_snapshot(name)
        .or_else(|| layout::parse_confirmed(name))
        .or_else(|| of_tomb().map(|tomb| tomb.session))
}

impl<'a> Replica<'a> {
    /// A store that holds this repository, or nothing yet.
    pub fn new(repository: &'a Repository, store: Store) -> Result<Self> {
        let refuse = |message: String| {
            Err(RepositoryError::new(Kind::Conflict, store.location().to_string(), message))
        };
        match Repository::identify(&store) {
            Ok(id) if id == repository.id => {}
            Ok(id) => {
                let (other, this) = (id.short(), repository.id.short());
                return refuse(format!("holds another repository, {other}, and not {this}"));
            }
            // Keys come first: a run that was stopped there has left nothing else.
            Err(error) if error.kind == Kind::NotFound => {
                for object in store.list("")? {
                    if !matches!(class_of(&object.name), Some(Class::Keys | Class::Updates)) {
                        let name = object.name;
                        return refuse(format!("is no repository, and not empty: it holds {name}"));
                    }
                }
            }
            Err(error) => return Err(error),
        }
        Ok(Replica { repository, store })
    }

    /// Where it is, for people.
    pub fn location(&self) -> &str {
        self.store.location()
    }

    /// Lists both. A reader is registered, where the source may be written: nothing that is listed goes before it ends.
    pub fn compare(&self, monitor: &dyn Monitor) -> Result<Comparison> {
        let repository = self.repository;
        // Each list after those of what refers to it: what a listed object needs is listed, too.
        let mut source = repository.store.list(layout::GC)?;
        // What counts is the newest sweep of this list, which is copied: by a later one, slots would be left out that
        // what is copied lets live. A later one makes the run end (`is_current`).
        let asked = Asked { listed: Some(source.clone()), next: None };
        let generations = repository.generations_of(asked)?;
        generations.require_readable()?;
        let newest = layout::sweep(generations.swept());
        // Asked for by name, because lists may be late: then it belongs to this one.
        if generations.swept() > 0
            && !source.iter().any(|object| object.name == newest)
            && let Some(size) = repository.store.size(&newest)?
        {
            source.push(ObjectInfo { name: newest, size, modified: None });
        }
        for folder in [
            layout::TOMBS,
            layout::ABORTS,
            layout::CONFIRMED,
            layout::SNAPSHOTS,
            layout::INDEX,
            layout::PACKS,
            layout::KEYS,
        ] {
            source.extend(repository.store.list(folder)?);
        }
        if let Some(size) = repository.store.size(layout::CONFIG)? {
            let name = layout::CONFIG.to_string();
            source.push(ObjectInfo { name, size, modified: None });
        }
        let dropped: BTreeSet<PackId> =
            generations.last.iter().flat_map(|last| &last.sweep.packs).copied().collect();
        let mut there: HashMap<String, u64> =
            self.store.list("")?.into_iter().map(|object| (object.name, object.size)).collect();
        let has_config = there.contains_key(layout::CONFIG);
        let mut found = Comparison { swept: generations.swept(), ..Comparison::default() };
        for ObjectInfo { name, size, .. } in source {
            let class = match class_of(&name) {
                // Nothing is there yet that an update could make unreadable.
                Some(Class::Updates) if !has_config => Class::Keys,
                Some(class) => class,
                None => continue,
            };
            let object = Object { name, bytes: size };
            let held = there.remove(&object.name);
            // What is about to be deleted, and slots that no sweep let live, are not wanted.
            let is_dead = slot_session(&object.name)
                .is_some_and(|slot| !generations.lets_live(slot))
                || layout::parse_pack(&object.name).is_some_and(|pack| dropped.contains(&pack));
            match held {
                Some(bytes) if bytes == object.bytes => found.common.push(object),
                Some(bytes) => found.differing.push((object, bytes)),
                None if is_dead => {}
                None => found.missing.entry(class).or_default().push(object),
            }
        }
        if let Some(slots) = found.missing.get_mut(&Class::Snapshots) {
            let snapshots = repository.snapshots(monitor)?;
            // An ABORT ends a session of the source, of which the replica knows nothing.
            let aborted: BTreeSet<String> =
                snapshots.aborted.iter().map(|session| layout::snapshot(*session)).collect();
            slots.retain(|object| !aborted.contains(&object.name));
            // Each after its predecessor, so that nobody takes that for lost.
            let names = snapshots.all.iter().map(|(id, _)| layout::snapshot(id.0));
            let order: HashMap<String, usize> = names.zip(0..).collect();
            slots.sort_by_key(|object| order.get(&object.name).copied());
        }
        if let Some(generations) = found.missing.get_mut(&Class::Generations) {
            generations.sort_by_key(|object| generation_order(&object.name));
        }
        let mut rest: Vec<_> =
            there.into_iter().map(|(name, bytes)| Object { name, bytes }).collect();
        rest.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        rest.retain(|object| class_of(&object.name).is_some());
        if !rest.is_empty() {
            let swept = self.read_sweeps(&generations)?;
            found.foreign = self.find_foreign(&rest, &found, &generations, &swept)?;
            let let_go = self.let_go(&generations, &swept, monitor)?;
            (found.let_go, found.extra) = rest.into_iter().partition(|object| let_go(&object.name));
        }
        Ok(found)
    }

    /// Whether nothing was swept since the source was listed: then what was listed was there to be copied. A collector that
    /// waits for nobody gives a reader up.
    pub fn is_current(&self, found: &Comparison) -> Result<bool> {
        Ok(self.repository.generations()?.swept() == found.swept)
    }

    /// Refuses a replica that was written to. To go on would be to take away what only it has: by the next sweep its
    /// snapshots are forgotten, and index objects of two histories say what is superseded.
    pub fn require_unwritten(&self, found: &Comparison) -> Result<()> {
        let Some(session) = found.foreign else { return Ok(()) };
        let (location, id) = (self.location(), SnapshotId(session).short());
        let message = format!(
            "was written to: snapshot {id} is there, and was never here. Treat it as a repository of its own: mirror to \
             another place, and bring what it has into another repository with `aumbry -r {location} copy --to PLACE \
             --init`"
        );
        Err(RepositoryError::new(Kind::Invalid, location, message))
    }

    /// What the source's sweeps say. One that is damaged says nothing.
    fn read_sweeps(&self, generations: &Generations) -> Result<Swept> {
        let mut swept = Swept { generations: BTreeSet::new(), packs: BTreeSet::new() };
        for generation in &generations.sweeps {
            match self.repository.read_sweep(*generation) {
                Ok(published) => {
                    swept.generations.insert(*generation);
                    swept.packs.extend(published.sweep.packs);
                }
                Err(error) if is_damage(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(swept)
    }

    /// A session that has a slot and packs in the replica, and in the source neither, nor is any of its packs named by a
    /// sweep. Where sweeps that could name them are gone, nobody can tell.
    fn find_foreign(
        &self,
        rest: &[Object],
        found: &Comparison,
        generations: &Generations,
        swept: &Swept,
    ) -> Result<Option<SessionId>> {
        let writer_of = |object: &Object| layout::parse_pack(&object.name).map(|pack| pack.session);
        let writers: BTreeSet<SessionId> = rest.iter().filter_map(writer_of).collect();
        let differing = found.differing.iter().map(|(object, _)| object);
        let listed = found.common.iter().chain(differing).chain(found.missing.values().flatten());
        let mut known: BTreeSet<SessionId> = listed.filter_map(writer_of).collect();
        known.extend(swept.packs.iter().map(|pack| pack.session));
        for Object { name, .. } in rest {
            let Some(session) = layout::parse_snapshot(name) else { continue };
            // Its packs can go with a generation that began after it registered.
            let mut later = session.generation.saturating_add(1)..=generations.swept();
            if writers.contains(&session)
                && !known.contains(&session)
                && later.all(|generation| swept.generations.contains(&generation))
                && self.is_snapshot_there_only(name)?
            {
                return Ok(Some(session));
            }
        }
        Ok(None)
    }

    /// Whether the replica's slot holds a snapshot, or may do so, and the source, asked by name, has none.
    fn is_snapshot_there_only(&self, name: &str) -> Result<bool> {
        if self.repository.store.size(name)?.is_some() {
            return Ok(false);
        }
        let object = match self.store.get(name).map_err(RepositoryError::from) {
            Err(error) if is_damage(&error) => return Ok(false),
            object => object?,
        };
        let payload = self.repository.sealer().unseal(ObjectKind::Snapshot, name, object);
        let is_abort = |payload: Vec<u8>| matches!(Decision::decode(&payload), Ok(Decision::Abort));
        Ok(!payload.is_ok_and(is_abort))
    }

    /// What says of a name that the source has no more whether it was let go there.
    fn let_go<'g>(
        &self,
        generations: &'g Generations,
        swept: &'g Swept,
        monitor: &dyn Monitor,
    ) -> Result<impl Fn(&str) -> bool + use<'g>> {
        let repository = self.repository;
        // What index objects supersede is known when they are read.
        repository.refresh_index(monitor)?;
        let superseded = repository.cache.superseded()?;
        let oldest = generations.swept().saturating_sub(GENERATIONS_KEPT);
        Ok(move |name: &str| match class_of(name) {
            Some(Class::Packs) => {
                layout::parse_pack(name).is_some_and(|pack| swept.packs.contains(&pack))
            }
            Some(Class::Index) => {
                layout::parse_index(name).is_some_and(|index| superseded.contains(&index))
            }
            Some(Class::Generations) => generation_of(name).is_some_and(|k| k <= oldest),
            // Nothing says that a key was removed, and not lost, or hidden, or never there in an older state that was
            // brought back: and without keys, all the rest is lost.
            Some(Class::Keys | Class::Updates | Class::Config) | None => false,
            Some(_) => slot_session(name).is_some_and(|slot| !generations.lets_live(slot)),
        })
    }

    fn prove(&self, name: &str, object: &[u8]) -> Result<()> {
        self.repository.prover().prove(name, object)
    }

    /// The source's bytes, proven, and whether parity had to mend them; or why they cannot be had: `NotFound` is what was
    /// taken away since it was listed.
    fn source_bytes(
        &self,
        name: &str,
    ) -> Result<std::result::Result<(Vec<u8>, bool), RepositoryError>> {
        let object = match self.repository.store.get(name).map_err(RepositoryError::from) {
            Err(error) if error.kind == Kind::NotFound => return Ok(Err(error)),
            object => object?,
        };
        match self.prove(name, &object) {
            Ok(()) => Ok(Ok((object, false))),
            // It cannot be told, and is not ours to keep back.
            Err(error) if matches!(error.kind, Kind::Newer | Kind::WrongKey) => {
                Ok(Ok((object, false)))
            }
            Err(error) => {
                match layout::parse_pack(name).map(|pack| self.repository.mend_pack(pack)) {
                    Some(Ok(mended)) => Ok(Ok((mended.object, true))),
                    _ => Ok(Err(error)),
                }
            }
        }
    }

    /// Copies an object that the replica lacks, once its bytes are proven.
    pub fn copy(&self, object: &Object) -> Result<Mirrored> {
        let (bytes, is_mended) = match self.source_bytes(&object.name)? {
            Ok(bytes) => bytes,
            Err(error) if error.kind == Kind::NotFound => return Ok(Mirrored::Gone),
            Err(error) => return Ok(Mirrored::Damaged(error.message)),
        };
        let length = bytes.len() as u64;
        match self.store.create(&object.name, bytes)? {
            Created::AlreadyThere => {
                Ok(Mirrored::Differs("other bytes were stored there meanwhile".into()))
            }
            Created::New if is_mended => Ok(Mirrored::Mended(length)),
            Created::New => Ok(Mirrored::Copied(length)),
        }
    }

    /// Reads an object that both have and says what is wrong with it; `None`: both hold the same bytes, which are proven.
    pub fn verify(&self, object: &Object) -> Result<Option<Mirrored>> {
        let name = &object.name;
        let copy = self.store.get(name).map_err(RepositoryError::from);
        let copy = match copy {
            Err(error) if is_damage(&error) => return Ok(Some(Mirrored::Differs(error.message))),
            copy => copy?,
        };
        let original = match self.source_bytes(name)? {
            Ok((original, _)) => original,
            Err(error) if error.kind == Kind::NotFound => return Ok(Some(Mirrored::Gone)),
            Err(error) => {
                let state = match self.prove(name, &copy) {
                    Ok(()) => "; the replica's is whole",
                    Err(_) => "; the replica's is damaged, too",
                };
                return Ok(Some(Mirrored::Damaged(format!("{}{state}", error.message))));
            }
        };
        Ok((original != copy).then(|| Mirrored::Differs(self.describe(name, &copy))))
    }

    fn describe(&self, name: &str, copy: &[u8]) -> String {
        match self.prove(name, copy) {
            Ok(()) => "the replica has other bytes, which are whole, too".into(),
            Err(error) => format!("the replica's is damaged: {}", error.message),
        }
    }

    /// What the replica has in place of an object of another length.
    pub fn differing(&self, object: &Object, length: u64) -> Result<Mirrored> {
        let copy = self.store.get(&object.name).map_err(RepositoryError::from);
        let state = match copy {
            Ok(copy) => self.describe(&object.name, &copy),
            Err(error) if is_damage(&error) => error.message,
            Err(error) => return Err(error),
        };
        let bytes = object.bytes;
        Ok(Mirrored::Differs(format!("is {length} bytes long there, and {bytes} here: {state}")))
    }

    /// Deletes an object that was let go, if the source, asked for it by name, has it no more. Returns whether it did.
    pub fn delete(&self, object: &Object) -> Result<bool> {
        if self.repository.store.size(&object.name)?.is_some() {
            return Ok(false);
        }
        self.store.delete(&object.name)?;
        Ok(true)
    }
}
