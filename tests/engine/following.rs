//! Clients that were away follow the chain of sweeps, and notice a store that shows another history.

use std::path::Path;

use aumbry::id::PackId;
use aumbry::monitor::SilentMonitor;
use aumbry::repository::Repository;
use aumbry::repository::error::{Kind, RepositoryError};
use aumbry::repository::index::cache::Followed;
use aumbry::store::{FaultControl, Store, layout};

use crate::model::{copy_of, create_quick, open_quick};
use crate::prune::write_files;
use crate::support::{back_up, snapshots};

/// A repository with some packs, each of which a sweep may name: nothing is deleted.
fn with_packs() -> (Store, Vec<PackId>) {
    let store = Store::memory();
    let repository = create_quick(store.clone(), None);
    let folder = tempfile::tempdir().unwrap();
    write_files(folder.path(), 0..20, 1);
    back_up(&repository, folder.path());
    let packs = repository.cache().packs().unwrap().into_iter().map(|(_, pack)| pack.id);
    let packs: Vec<_> = packs.collect();
    assert!(packs.len() > 4);
    (store, packs)
}

/// Publishes a generation that drops these packs.
fn sweep(store: &Store, packs: &[PackId]) -> u32 {
    let collector = open_quick(store.clone(), None);
    let before = collector.generations().unwrap();
    let generation = collector.condemn(&before, packs.to_vec()).unwrap().unwrap();
    let live = snapshots(&collector).into_iter().map(|(id, _)| (id, None)).collect();
    collector.sweep(generation, before.last.as_ref(), packs.to_vec(), live).unwrap();
    generation
}

fn followed(client: &Repository) -> Result<Option<Followed>, RepositoryError> {
    client.refresh_index(&SilentMonitor)?;
    client.cache().followed()
}

fn client(store: &Store, cache: &Path) -> Repository {
    open_quick(store.clone(), Some(cache))
}

#[test]
fn a_client_that_was_away_forgets_what_every_sweep_since_dropped() {
    let (store, packs) = with_packs();
    let cache = tempfile::tempdir().unwrap();
    sweep(&store, &packs[..1]);
    let first = followed(&client(&store, cache.path())).unwrap().unwrap();
    assert_eq!((first.from, first.to, first.unlisted), (0, 1, false));
    for pack in &packs[1..4] {
        sweep(&store, &[*pack]);
    }
    let client = client(&store, cache.path());
    let now = followed(&client).unwrap().unwrap();
    assert_eq!((now.from, now.to, now.unlisted), (0, 4, false));
    assert_eq!(now.hash, client.generations().unwrap().last.unwrap().hash);
    let known = client.cache().packs().unwrap();
    assert!(!known.is_empty());
    assert!(known.iter().all(|(_, pack)| !packs[..4].contains(&pack.id)));
    assert_eq!(followed(&client).unwrap(), Some(now), "there is nothing new");
}

#[test]
fn where_a_sweep_is_missing_or_of_another_history_what_follows_it_counts() {
    let (store, packs) = with_packs();
    let cache = tempfile::tempdir().unwrap();
    sweep(&store, &packs[..1]);
    followed(&client(&store, cache.path())).unwrap();
    let other = copy_of(&store);
    sweep(&other, &packs[4..5]);
    for pack in &packs[1..4] {
        sweep(&store, &[*pack]);
    }
    let name = layout::sweep(2);
    for instead in [None, Some(other.get(&name).unwrap()), Some(vec![0; 200])] {
        let store = copy_of(&store);
        store.delete(&name).unwrap();
        if let Some(object) = instead {
            store.create(&name, object).unwrap();
        }
        let cache_now = tempfile::tempdir().unwrap();
        crate::model::copy_folder(cache.path(), cache_now.path());
        let client = client(&store, cache_now.path());
        let now = followed(&client).unwrap().unwrap();
        assert_eq!((now.from, now.to), (3, 4));
        let known = client.cache().packs().unwrap();
        assert!(known.iter().all(|(_, pack)| !packs[2..4].contains(&pack.id)));
        assert!(known.iter().any(|(_, pack)| pack.id == packs[4]), "nobody has swept it");
    }
}

#[test]
fn a_store_that_was_put_back_to_an_older_state_is_noticed() {
    let (store, packs) = with_packs();
    let before = copy_of(&store);
    sweep(&store, &packs[..1]);
    let middle = copy_of(&store);
    sweep(&store, &packs[1..2]);
    let cache = tempfile::tempdir().unwrap();
    followed(&client(&store, cache.path())).unwrap();
    for (older, generation) in [(&before, 0), (&middle, 1)] {
        // With the cached names out of the way, which a listing is completed from.
        let error = followed(&client(older, cache.path())).unwrap_err();
        assert_eq!(error.kind, Kind::Corrupt);
        let told = format!("at generation {generation}, and this client has seen generation 2");
        assert!(error.message.contains(&told), "{error}");
    }
    assert!(followed(&client(&store, cache.path())).is_ok());
}

#[test]
fn another_history_is_noticed_when_it_has_gone_on() {
    let (store, packs) = with_packs();
    sweep(&store, &packs[..1]);
    let other = copy_of(&store);
    sweep(&store, &packs[1..2]);
    let cache = tempfile::tempdir().unwrap();
    followed(&client(&store, cache.path())).unwrap();
    sweep(&other, &packs[2..3]);
    sweep(&other, &packs[3..4]);
    let error = followed(&client(&other, cache.path())).unwrap_err();
    assert!(error.message.contains("another history"), "{error}");
}

#[test]
fn a_newest_sweep_that_cannot_be_read_is_no_older_state() {
    let (store, packs) = with_packs();
    let cache = tempfile::tempdir().unwrap();
    sweep(&store, &packs[..1]);
    followed(&client(&store, cache.path())).unwrap();
    let newest = sweep(&store, &packs[1..2]);
    let name = layout::sweep(newest);
    store.delete(&name).unwrap();
    store.create(&name, vec![0; 200]).unwrap();
    let client = client(&store, cache.path());
    let now = followed(&client).unwrap().unwrap();
    assert_eq!(now.to, 1);
    assert!(client.generations().unwrap().trouble.is_some());
}

#[test]
fn generations_that_a_listing_leaves_out_are_asked_for_by_name() {
    let (store, packs) = with_packs();
    let list = |left_out: &[String], cache: Option<&Path>| {
        let control = FaultControl::new();
        left_out.iter().for_each(|name| control.leave_out(name));
        open_quick(store.clone().with_faults(control), cache).generations().unwrap()
    };
    let collector = open_quick(store.clone(), None);
    collector.condemn(&collector.generations().unwrap(), packs[..1].to_vec()).unwrap().unwrap();
    let first = list(&[], None);
    assert_eq!((first.newest, first.swept(), first.sweeps.len()), (1, 0, 0));
    assert_eq!(list(&[layout::condemned(1)], None).open.unwrap().0, 1);
    collector.sweep(1, None, packs[..1].to_vec(), Vec::new()).unwrap();
    for pack in &packs[1..3] {
        sweep(&store, &[*pack]);
    }
    let sweeps: Vec<_> = (1..=3).map(layout::sweep).collect();
    let both = |from: u32| (from..=3).flat_map(|k| [layout::sweep(k), layout::condemned(k)]);
    for left_out in [sweeps.clone(), sweeps[2..].to_vec(), both(2).collect(), both(1).collect()] {
        let found = list(&left_out, None);
        assert_eq!((found.newest, found.swept()), (3, 3), "without {left_out:?}");
        assert!(found.open.is_none());
    }
    // Who has followed a sweep knows of it when nothing before it is there any more.
    let cache = tempfile::tempdir().unwrap();
    followed(&client(&store, cache.path())).unwrap();
    for generation in 1..3 {
        store.delete(&layout::sweep(generation)).unwrap();
        store.delete(&layout::condemned(generation)).unwrap();
    }
    let found = list(&both(1).collect::<Vec<_>>(), Some(cache.path()));
    assert_eq!((found.newest, found.swept()), (3, 3));
    sweep(&store, &packs[3..4]);
    assert_eq!(list(&[], Some(cache.path())).newest, 4);
}
