//! Reads what collectors published, and follows it: what was swept is forgotten by the local cache.
//!
//! A generation begins with `gc/<k>.condemned` and is over with `gc/<k>.sweep`; one is open at a time. Sweeps are a
//! chain, each with the hash of the one before, so a client that has seen one notices a store that shows
//! another history (`docs/design/collection.md`).

use std::collections::BTreeSet;

use super::Repository;
use super::error::{Kind, Named, RepositoryError, Result};
use super::verify::is_damage;
use crate::format::generation::{Condemned, Sweep};
use crate::format::header::ObjectKind;
use crate::id::{PackId, SessionId, SnapshotId};
use crate::store::{ObjectInfo, StoreError, layout};

/// How often a listing is taken anew because what it named was removed before it could be read.
const LISTINGS: usize = 8;

/// A sweep and the hash by which the next one names it.
#[derive(Debug, Clone)]
pub struct PublishedSweep {
    /// Its generation.
    pub generation: u32,
    /// What it says.
    pub sweep: Sweep,
    /// BLAKE3 of its object as it stands in the store.
    pub hash: [u8; 32],
}

/// What the store shows of collection.
#[derive(Debug, Clone, Default)]
pub struct Generations {
    /// The newest generation that has begun; 0 before the first.
    pub newest: u32,
    /// The generation that is condemned and not swept, and what it condemns.
    pub open: Option<(u32, Condemned)>,
    /// The newest sweep.
    pub last: Option<PublishedSweep>,
    /// Numbers of the sweeps that are still there.
    pub sweeps: BTreeSet<u32>,
    /// Numbers of the condemned lists that are still there.
    pub condemned: BTreeSet<u32>,
    /// Why the open generation or the newest sweep cannot be read. Reading goes on without; writing must not.
    pub trouble: Option<RepositoryError>,
}

impl Generations {
    /// The newest generation that is swept; 0 before the first.
    pub fn swept(&self) -> u32 {
        self.sweeps.last().copied().unwrap_or(0)
    }

    /// Whether the newest sweep lets the session's snapshot live: it is newer, or listed.
    pub fn lets_live(&self, session: SessionId) -> bool {
        let is_newer = self.last.as_ref().is_none_or(|last| session.generation >= last.generation);
        is_newer || self.lists(SnapshotId(session))
    }

    /// Whether the newest sweep lists the snapshot.
    pub fn lists(&self, snapshot: SnapshotId) -> bool {
        self.last.as_ref().is_some_and(|last| last.sweep.lists(snapshot))
    }

    /// The packs that a writer must take for absent because the open generation condemns them.
    pub fn condemned_packs(&self) -> &[PackId] {
        self.open.as_ref().map_or(&[], |(_, condemned)| &condemned.packs)
    }

    /// For whoever writes: an error when what was published cannot be read.
    pub fn require_readable(&self) -> Result<()> {
        match &self.trouble {
            None => Ok(()),
            Some(error) if error.kind == Kind::WrongKey => Err(error.clone()),
            Some(error) => Err(RepositoryError {
                message: format!(
                    "{}; without it nobody knows which packs are about to go, so nothing is \
                     written. Bring the object back from a copy, or run `aumbry repair generations`",
                    error.message
                ),
                ..error.clone()
            }),
        }
    }
}

/// A generation, and whether it has begun.
pub(super) type Begun = (u32, Result<bool>);

/// What the store has answered already, to whoever wants to know the generations.
#[derive(Default)]
pub(super) struct Asked {
    /// A listing that has `gc/` in it.
    pub(super) listed: Option<Vec<ObjectInfo>>,
    /// Whether the one after the newest seen has begun.
    pub(super) next: Option<Begun>,
}

/// The numbers of a listing of `gc/`.
#[derive(Default)]
struct Numbers {
    condemned: BTreeSet<u32>,
    sweeps: BTreeSet<u32>,
}

impl Numbers {
    fn newest(&self) -> u32 {
        self.condemned.last().max(self.sweeps.last()).copied().unwrap_or(0)
    }
}

impl Repository {
    /// What a listing shows, and what is there beyond: to miss a generation that has begun would cost data, and
    /// listings of some stores are not whole. Numbers follow one another, so what comes next can be asked for by name.
    fn list_generations(&self, asked: Asked) -> Result<Numbers> {
        let mut numbers = Numbers::default();
        let Asked { listed, mut next } = match asked.listed {
            Some(_) => asked,
            None => {
                let (listed, next) = self.beside_next_generation(|| self.store.list(layout::GC))?;
                Asked { listed: Some(listed), next }
            }
        };
        for object in listed.into_iter().flatten() {
            numbers.condemned.extend(layout::parse_condemned(&object.name));
            numbers.sweeps.extend(layout::parse_sweep(&object.name));
        }
        let known = self.cache.followed()?.map_or(0, |followed| followed.to);
        if known > numbers.newest() && self.is_there(&layout::sweep(known))? {
            numbers.sweeps.insert(known);
        }
        loop {
            let newest = numbers.newest();
            if newest > 0 && !numbers.sweeps.contains(&newest) {
                // It began when the one before was swept.
                numbers.sweeps.extend((newest > 1).then(|| newest - 1));
                if self.is_there(&layout::sweep(newest))? {
                    numbers.sweeps.insert(newest);
                }
            }
            let Some(following) = newest.checked_add(1) else { return Ok(numbers) };
            // It stays as long as its sweep.
            let has_begun = match next.take_if(|(asked, _)| *asked == following) {
                Some((_, has_begun)) => has_begun?,
                None => self.is_there(&layout::condemned(following))?,
            };
            if !has_begun {
                let mut shown = self.shown_generation.lock();
                *shown = shown.max(Some(newest));
                return Ok(numbers);
            }
            numbers.condemned.insert(following);
        }
    }

    /// Makes a listing that has `gc/` in it, and asks for the generation that comes after the newest one seen, at once where
    /// that saves a round trip: elsewhere it is asked for when the listing has told which is the newest. Each of the two is
    /// right about some moment after this began, and nobody relies on more. With randomness that repeats one is asked for
    /// after the other, in either order.
    pub(super) fn beside_next_generation<T>(
        &self,
        list: impl FnOnce() -> std::result::Result<T, StoreError>,
    ) -> Result<(T, Option<Begun>)> {
        let chance = &self.environment.chance;
        let is_early = match chance.repeats() {
            true => chance.bytes::<1>()?[0] % 2 == 0,
            false => self.store.answers_at_once(),
        };
        let next = if is_early { self.newest_seen()?.checked_add(1) } else { None };
        let Some(next) = next else { return Ok((list()?, None)) };
        let ask = || self.is_there(&layout::condemned(next));
        if chance.repeats() {
            let has_begun = ask();
            return Ok((list()?, Some((next, has_begun))));
        }
        // That it cannot be told matters only where it is asked.
        let (listed, has_begun) = self.store.both(list, || Ok(ask()))?;
        Ok((listed, Some((next, has_begun))))
    }

    fn is_there(&self, name: &str) -> Result<bool> {
        Ok(self.store.size(name)?.is_some())
    }

    /// The newest generation of collection that has begun; 0 before the first. One listing, one question by name.
    pub(super) fn newest_generation(&self) -> Result<u32> {
        Ok(self.list_generations(Asked::default())?.newest())
    }

    /// Whether the store has shown which generations there are since the repository was opened.
    pub(super) fn has_looked(&self) -> bool {
        self.shown_generation.lock().is_some()
    }

    /// The newest generation that this client has seen, without asking the store: there was one with this number, and
    /// there may be newer ones.
    pub(super) fn newest_seen(&self) -> Result<u32> {
        let shown = *self.shown_generation.lock();
        let followed = self.cache.followed()?.map_or(0, |followed| followed.to);
        let kept = self.cache.newest_generation()?;
        let kept = kept
            .and_then(|name| layout::parse_condemned(&name).or_else(|| layout::parse_sweep(&name)));
        Ok(kept.max(shown).unwrap_or(0).max(followed))
    }

    /// Reads what collectors published. One listing, one question by name or two, and one read of what is new to this
    /// client.
    pub fn generations(&self) -> Result<Generations> {
        self.generations_of(Asked::default())
    }

    /// The same by what was asked before.
    pub(super) fn generations_of(&self, mut asked: Asked) -> Result<Generations> {
        for _ in 0..LISTINGS {
            if let Some(generations) = self.try_generations(std::mem::take(&mut asked))? {
                return Ok(generations);
            }
        }
        Err(RepositoryError::new(
            Kind::Unavailable,
            layout::GC,
            "changes faster than it can be read, or lists what is gone; run the command again, or, where \
             the store's listings are late, when they are up to date",
        ))
    }

    /// `None`: what was listed was gone when it was read.
    fn try_generations(&self, asked: Asked) -> Result<Option<Generations>> {
        let Numbers { condemned, sweeps } = self.list_generations(asked)?;
        let newest = condemned.last().max(sweeps.last()).copied().unwrap_or(0);
        let mut generations = Generations { newest, condemned, sweeps, ..Generations::default() };
        let swept = generations.swept();
        if swept > 0 {
            match self.read_sweep(swept) {
                Ok(last) => generations.last = Some(last),
                Err(error) if error.kind == Kind::NotFound => return Ok(None),
                Err(error) if is_damage(&error) => generations.trouble = Some(error),
                Err(error) => return Err(error),
            }
        }
        if newest > swept {
            match self.read_condemned(newest) {
                Ok(condemned) => generations.open = Some((newest, condemned)),
                Err(error) if error.kind == Kind::NotFound => return Ok(None),
                Err(error) if is_damage(&error) => generations.trouble = Some(error),
                Err(error) => return Err(error),
            }
        }
        Ok(Some(generations))
    }

    /// An object of `gc/`, which never changes: from the cache, or from the store into the cache.
    fn read_generation(&self, kind: ObjectKind, name: &str) -> Result<(Vec<u8>, [u8; 32])> {
        if let Some(object) = self.cache.generation(name)? {
            let hash = *blake3::hash(&object).as_bytes();
            if let Ok(payload) = self.sealer().unseal(kind, name, object) {
                return Ok((payload, hash));
            }
        }
        let object = self.store.get(name)?;
        let hash = *blake3::hash(&object).as_bytes();
        let payload = self.sealer().unseal(kind, name, object.clone())?;
        self.cache.keep_generation(name, &object)?;
        Ok((payload, hash))
    }

    /// Puts back a sweep that could not be read and was taken away, as this client has read it, so that who follows the
    /// sweeps finds no gap. To be called when a later generation has ended.
    pub fn put_back_sweep(&self, generation: u32) -> Result<()> {
        let name = layout::sweep(generation);
        if let Some(object) = self.cache.generation(&name)?
            && self.sealer().unseal(ObjectKind::Sweep, &name, object.clone()).is_ok()
        {
            self.store.create(&name, object)?;
        }
        Ok(())
    }

    /// Reads what a generation condemns.
    pub(super) fn read_condemned(&self, generation: u32) -> Result<Condemned> {
        let name = layout::condemned(generation);
        let (payload, _) = self.read_generation(ObjectKind::Condemned, &name)?;
        Condemned::decode(&payload).named(name)
    }

    /// Reads what a generation swept.
    pub(super) fn read_sweep(&self, generation: u32) -> Result<PublishedSweep> {
        let name = layout::sweep(generation);
        let (payload, hash) = self.read_generation(ObjectKind::Sweep, &name)?;
        let sweep = Sweep::decode(&payload).named(name)?;
        Ok(PublishedSweep { generation, sweep, hash })
    }

    /// The sweeps from the newest back to `wanted`, as far as every one of them is there and can be read.
    pub(super) fn chain(&self, last: &PublishedSweep, wanted: u32) -> Result<Vec<PublishedSweep>> {
        let mut chain = vec![last.clone()];
        while let Some(oldest) = chain.last().filter(|oldest| oldest.generation > wanted) {
            let (generation, previous) = (oldest.generation - 1, oldest.sweep.previous);
            match self.read_sweep(generation) {
                Ok(before) if previous == Some(before.hash) => chain.push(before),
                // A gap: a listing tells which packs are there. One that the next does not name was published
                // by a collector that slept, after the true one was cleared away; it means nothing.
                Ok(_) => break,
                Err(error) if is_damage(&error) => break,
                Err(error) => return Err(error),
            }
        }
        Ok(chain)
    }

    /// Applies to the cache the sweeps that it has not seen, and holds the chain against what it has. Afterwards
    /// the cache takes in no pack that was swept since `Followed::from`.
    pub(super) fn follow_sweeps(&self, generations: &Generations) -> Result<()> {
        let Some(last) = &generations.last else {
            return match self.cache.followed()? {
                Some(followed) if generations.trouble.is_none() => {
                    self.begin_anew_or(older_state(followed.to, 0))
                }
                _ => Ok(()),
            };
        };
        let known = self.cache.followed()?;
        if let Some(known) = known {
            if known.to > last.generation {
                return self.begin_anew_or(older_state(known.to, last.generation));
            }
            if known.to == last.generation {
                return match known.hash == last.hash {
                    true => Ok(()),
                    false => self.begin_anew_or(other_history(known.to)),
                };
            }
        }
        let wanted = known.map_or(1, |known| known.to + 1);
        let chain = self.chain(last, wanted)?;
        let oldest = chain.last().map_or(last, |oldest| oldest);
        // A repair, which could not read the sweep before, names none: that is a gap, too.
        let begins_anew = known.is_some() && oldest.sweep.previous.is_none();
        let is_gapless = oldest.generation == wanted && !begins_anew;
        if let Some(known) = known
            && is_gapless
            && oldest.sweep.previous != Some(known.hash)
        {
            return self.begin_anew_or(other_history(oldest.generation));
        }
        if known.is_some() && !is_gapless {
            // What was swept meanwhile is told by nobody but the index as it is now, and a listing. And what was swept
            // before may have been spared since, by a repair.
            self.cache.clear()?;
            self.cache.forget_swept()?;
        }
        let from = match (known, is_gapless) {
            (Some(known), true) => known.from,
            (None, true) => 0,
            (_, false) => oldest.generation,
        };
        let packs: Vec<PackId> =
            chain.iter().flat_map(|published| &published.sweep.packs).copied().collect();
        self.cache.follow(from, last.generation, last.hash, &packs)?;
        for pack in &packs {
            self.drop_kept_pack(pack);
        }
        Ok(())
    }
}

impl Repository {
    /// A store that shows another history than this client has followed, for this reason: an error, unless it is a mirror
    /// that has begun to speak in the place of the main store, and may be behind it. Then nothing is known of it.
    fn begin_anew_or(&self, error: RepositoryError) -> Result<()> {
        if !self.store.is_main_silent() {
            return Err(error);
        }
        self.cache.clear()?;
        self.cache.forget_swept()
    }
}

fn older_state(known: u32, shown: u32) -> RepositoryError {
    RepositoryError::new(
        Kind::Corrupt,
        layout::GC,
        format!(
            "the store shows collection at generation {shown}, and this client has seen generation \
             {known}: the store lost objects, or shows an older state. If the repository was brought back \
             from an older copy on purpose, delete this repository's local cache"
        ),
    )
}

fn other_history(generation: u32) -> RepositoryError {
    RepositoryError::corrupt(
        layout::sweep(generation),
        "is not the one that this client has seen: the store shows another history",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repair_is_advised_for_damage_and_not_for_a_key_that_is_missing() {
        let told = |kind| {
            let trouble = Some(RepositoryError::new(kind, "gc/1", "cannot be read"));
            Generations { trouble, ..Generations::default() }.require_readable().unwrap_err()
        };
        assert!(told(Kind::Corrupt).message.contains("aumbry repair generations"));
        assert_eq!(told(Kind::WrongKey).message, "cannot be read");
        assert!(Generations::default().require_readable().is_ok());
    }
}
