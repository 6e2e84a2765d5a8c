//! Repairs and changes of keys, for `crash_collection` to stop.

use aumbry::codec::kdf::Argon2Cost;
use aumbry::format::config::Settings;
use aumbry::format::header::{HEADER_LENGTH, ObjectKind};
use aumbry::id::{KeySlotId, SnapshotId};
use aumbry::monitor::SilentMonitor;
use aumbry::ops::OpsError;
use aumbry::ops::prune::prune;
use aumbry::ops::rekey::{Change, RekeyOptions, plan, rekey};
use aumbry::ops::repair::{
    RepairOptions, repair_generations, repair_index, repair_packs, repair_snapshots,
};
use aumbry::repository::Repository;
use aumbry::repository::error::RepositoryError;
use aumbry::repository::index::PackInfo;
use aumbry::store::{Store, layout};

use crate::crash_collection::{Outcome, PLAIN, Reported, Scenario, World, prune_tightly};
use crate::model::{open_quick, quick_key};
use crate::prune::tight;
use crate::support::{environment, small_settings, snapshots};

pub const INDEX: Scenario = Scenario {
    name: "repair of the index",
    world: without_index,
    action: |repository, _| reported(repair_index(repository, &repair(), &SilentMonitor)),
    first: Some(repair_all),
    calls: 20,
    ..PLAIN
};

pub const PACKS: Scenario = Scenario {
    name: "repair of packs by parity",
    world: with_parity_and_damage,
    action: |repository, _| reported(repair_packs(repository, &repair(), &SilentMonitor)),
    first: Some(repair_all),
    calls: 20,
    ..PLAIN
};

pub const SALVAGE: Scenario = Scenario {
    name: "repair that salvages packs",
    world: with_a_loss,
    action: |repository, _| reported(repair_packs(repository, &repair(), &SilentMonitor)),
    first: Some(repair_all),
    calls: 20,
    ..PLAIN
};

pub const SNAPSHOTS: Scenario = Scenario {
    name: "repair of snapshots",
    world: with_a_loss_that_is_known,
    action: |repository, _| reported(repair_snapshots(repository, &repair(), &SilentMonitor)),
    first: Some(repair_all),
    calls: 20,
    ..PLAIN
};

pub const GENERATIONS: Scenario = Scenario {
    name: "repair of generations",
    world: with_a_damaged_generation,
    action: |repository, _| reported(repair_generations(repository, &repair(), &SilentMonitor)),
    first: Some(repair_all),
    calls: 15,
    ..PLAIN
};

pub const NEW_EPOCH: Scenario = Scenario {
    name: "rekey: a new epoch",
    world: with_three_keys,
    action: |repository, _| {
        let remove = laptops(repository)?;
        let change = RekeyOptions { change: Change::NewEpoch, remove };
        let planned = plan(repository, &change, &SilentMonitor)?;
        reported(rekey(repository, &planned))
    },
    last: the_laptop_is_locked_out,
    calls: 8,
    ..PLAIN
};

pub const DRAIN: Scenario = Scenario {
    name: "rekey: a prune that drains",
    world: with_a_new_epoch,
    action: prune_tightly,
    last: the_old_epoch_goes,
    calls: 60,
    ..PLAIN
};

pub const DROP_EPOCH: Scenario = Scenario {
    name: "rekey: an old epoch is dropped",
    world: with_a_drained_epoch,
    action: |repository, _| reported(drop_old(repository)),
    last: the_old_epoch_goes,
    calls: 8,
    ..PLAIN
};

pub const REMOVE_KEY: Scenario = Scenario {
    name: "removal of a key",
    world: with_three_keys,
    action: |repository, _| {
        let mut laptops = laptops(repository)?.into_iter();
        let removed = laptops.try_for_each(|slot| repository.remove_key(slot));
        reported(removed.map_err(OpsError::from))
    },
    last: |store, what| {
        let repository = open_quick(store.clone(), None);
        for slot in laptops(&repository).unwrap() {
            repository.remove_key(slot).unwrap();
        }
        assert!(!opens(store, 3), "{what}: the laptop's key");
        assert!(opens(store, 2), "{what}: another key");
    },
    calls: 2,
    ..PLAIN
};

fn reported<T>(done: Result<T, OpsError>) -> Outcome {
    done.map(|_| Reported::default())
}

fn repair() -> RepairOptions {
    RepairOptions {
        dry_run: false,
        read_data: true,
        forget_originals: true,
        no_collector_runs: true,
        program: "test".into(),
        memory_budget: 64 << 20,
    }
}

fn repair_all(repository: &Repository) -> Result<(), OpsError> {
    let options = repair();
    repair_generations(repository, &options, &SilentMonitor)?;
    repair_index(repository, &options, &SilentMonitor)?;
    repair_packs(repository, &options, &SilentMonitor)?;
    repair_snapshots(repository, &options, &SilentMonitor)?;
    Ok(())
}

fn flip(store: &Store, name: &str, at: usize) {
    let mut object = store.get(name).unwrap();
    object[at] ^= 1;
    store.delete(name).unwrap();
    store.create(name, object).unwrap();
}

/// One index object is gone, and the others are damaged.
pub fn without_index(is_conditional: bool) -> World {
    let world = World::with_a_forgotten_one(is_conditional);
    let objects = world.store.list(layout::INDEX).unwrap();
    assert!(objects.len() > 1);
    world.store.delete(&objects[0].name).unwrap();
    for object in &objects[1..] {
        flip(&world.store, &object.name, object.size as usize - 1);
    }
    world
}

/// Damage in a pack of data and in one of directories, which parity makes up for.
pub fn with_parity_and_damage(is_conditional: bool) -> World {
    let settings = Settings { parity_percent: 50, ..small_settings() };
    let world = World::of_versions_with(is_conditional, settings);
    let repository = world.client();
    for kind in [ObjectKind::DataPack, ObjectKind::TreePack] {
        let packs = repository.cache().packs().unwrap();
        let (_, pack) = packs.iter().find(|(_, pack)| pack.kind == kind).unwrap();
        flip(&world.store, &layout::pack(pack.id), HEADER_LENGTH + 10);
    }
    world
}

/// The newest snapshot has lost content for good.
pub fn with_a_loss(is_conditional: bool) -> World {
    let mut world = World::of_versions(is_conditional);
    let repository = world.client();
    let newest: SnapshotId = snapshots(&repository).last().unwrap().0;
    let packs = repository.cache().packs().unwrap();
    let is_its = |(_, pack): &&(u32, PackInfo)| {
        pack.kind == ObjectKind::DataPack && pack.id.session == newest.0
    };
    let (_, pack) = packs.iter().find(is_its).unwrap();
    flip(&world.store, &layout::pack(pack.id), HEADER_LENGTH + 10);
    world.damaged.insert(newest);
    world
}

/// The same, and the pack is salvaged.
pub fn with_a_loss_that_is_known(is_conditional: bool) -> World {
    let world = with_a_loss(is_conditional);
    let done = repair_packs(&world.client(), &repair(), &SilentMonitor).unwrap();
    assert!(done.salvaged.len() == 1 && done.salvaged[0].lost > 0);
    world
}

/// A collector condemned packs, died, and what it wrote is damaged.
pub fn with_a_damaged_generation(is_conditional: bool) -> World {
    let world = World::with_a_forgotten_one(is_conditional);
    let repository = world.client();
    // Where one client collects, this is the one.
    prune(&repository, &tight(), &SilentMonitor).unwrap();
    let generations = repository.generations().unwrap();
    let open = repository.condemn(&generations, Vec::new()).unwrap().unwrap();
    let name = layout::condemned(open);
    let size = world.store.size(&name).unwrap().unwrap();
    flip(&world.store, &name, size as usize - 1);
    world
}

/// The first key is in use, the second is somebody's, and the third is that of a laptop.
fn with_three_keys(is_conditional: bool) -> World {
    let world = World::with_a_forgotten_one(is_conditional);
    let repository = world.client();
    for (number, label) in [(2, "other"), (3, "laptop")] {
        repository.add_key(&quick_key(number), Some(Argon2Cost::FLOOR), label).unwrap();
    }
    world
}

/// The same after a rekeying; everything is sealed with the old keys.
fn with_a_new_epoch(is_conditional: bool) -> World {
    let world = with_three_keys(is_conditional);
    rekey_without_laptops(&world.client());
    world
}

/// The same, and nothing is any more.
fn with_a_drained_epoch(is_conditional: bool) -> World {
    let mut world = with_a_new_epoch(is_conditional);
    for _ in 0..2 {
        prune(&world.client(), &tight(), &SilentMonitor).unwrap();
    }
    // Swept meanwhile, so that nobody may bring them back.
    for id in std::mem::take(&mut world.open) {
        world.reported.remove(&id);
    }
    world
}

fn laptops(repository: &Repository) -> Result<Vec<KeySlotId>, RepositoryError> {
    let slots: Vec<_> = repository.key_slots()?.into_iter().collect::<Result<_, _>>()?;
    let laptops = slots.iter().filter(|slot| slot.label.label == "laptop");
    Ok(laptops.map(|slot| slot.id).collect())
}

fn rekey_without_laptops(repository: &Repository) {
    let remove = laptops(repository).unwrap();
    let change = RekeyOptions { change: Change::NewEpoch, remove };
    let planned = plan(repository, &change, &SilentMonitor).unwrap();
    rekey(repository, &planned).unwrap();
}

fn drop_old(repository: &Repository) -> Result<(), OpsError> {
    let change = RekeyOptions { change: Change::DropOld, remove: Vec::new() };
    let planned = plan(repository, &change, &SilentMonitor)?;
    if !planned.is_empty() {
        rekey(repository, &planned)?;
    }
    Ok(())
}

fn opens(store: &Store, number: u8) -> bool {
    Repository::open(store.clone(), &quick_key(number), environment(None)).is_ok()
}

/// Whoever stays has the same keys; the next rekeying goes through, and the laptop has none.
fn the_laptop_is_locked_out(store: &Store, what: &str) {
    let revision = |number| {
        let repository =
            Repository::open(store.clone(), &quick_key(number), environment(None)).unwrap();
        repository.require_newest_keys().unwrap();
        repository.sealer().keyring().revision
    };
    assert_eq!(revision(1), revision(2), "{what}");
    let before = revision(1);
    rekey_without_laptops(&open_quick(store.clone(), None));
    assert_eq!((revision(1), revision(2)), (before + 1, before + 1), "{what}");
    assert!(!opens(store, 3), "{what}: the laptop's key");
}

/// Nothing needs the old epoch any more, and its data key goes.
fn the_old_epoch_goes(store: &Store, what: &str) {
    let repository = open_quick(store.clone(), None);
    drop_old(&repository).unwrap_or_else(|error| panic!("{what}: {error}"));
    for number in [1, 2] {
        let repository =
            Repository::open(store.clone(), &quick_key(number), environment(None)).unwrap();
        let epochs = &repository.sealer().keyring().epochs;
        assert_eq!(epochs[0].data_key, None, "{what}: the old epoch is still needed");
    }
}
