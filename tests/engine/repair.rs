//! Repair: whatever was damaged, what could be read before can be read after, and as a rule more; a second repair
//! finds nothing to do.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use aumbry::format::config::Settings;
use aumbry::format::header::{HEADER_LENGTH, Header, ObjectKind};
use aumbry::format::session::Purpose;
use aumbry::format::snapshot::Snapshot;
use aumbry::id::{SnapshotId, TombId};
use aumbry::monitor::{Monitor, Progress, RecordingMonitor, SilentMonitor};
use aumbry::ops::OpsError;
use aumbry::ops::backup::BackupOptions;
use aumbry::ops::check::{CheckOptions, CheckSummary, DataSelection, check};
use aumbry::ops::prune::{PruneOptions, prune};
use aumbry::ops::rekey::{self, Change, RekeyOptions};
use aumbry::ops::repair::{
    RepairOptions, repair_config, repair_generations, repair_index, repair_packs, repair_snapshots,
};
use aumbry::repository::chance::Chance;
use aumbry::repository::error::Kind;
use aumbry::repository::reader::BlobReader;
use aumbry::repository::{Environment, Repository};
use aumbry::store::{Effect, FaultControl, Store, layout};
use aumbry::tree::entry::Node;
use aumbry::view::{DirectoryRoot, Entries, read_file};

use crate::model::{copy_of, create_quick_with, open_quick, quick_key};
use crate::support::{
    back_up, back_up_with, contents, environment, noise, repair_options, small_settings, snapshots,
};

/// Opens with or without a config.
fn open_any(store: &Store) -> Repository {
    Repository::open(store.clone(), &quick_key(1), environment(None)).unwrap_or_else(|_| {
        Repository::open_without_config(store.clone(), &quick_key(1), environment(None)).unwrap()
    })
}

/// Everything that can be repaired, in order.
fn repair_all(repository: &Repository) -> Result<(), OpsError> {
    let options = repair_options();
    repair_config(repository, &options)?;
    repair_generations(repository, &options, &SilentMonitor)?;
    repair_index(repository, &options, &SilentMonitor)?;
    repair_packs(repository, &options, &SilentMonitor)?;
    repair_snapshots(repository, &options, &SilentMonitor)?;
    Ok(())
}

fn checked(repository: &Repository) -> CheckSummary {
    let options = CheckOptions {
        data: DataSelection::All,
        restore_sample: 0,
        share_ledger: false,
        memory_budget: 64 << 20,
    };
    check(repository, &options, &SilentMonitor).unwrap()
}

fn write_tree(folder: &Path, version: u64) {
    fs::create_dir_all(folder.join("deep/deeper")).unwrap();
    fs::create_dir_all(folder.join("other")).unwrap();
    fs::write(folder.join("long"), noise(90_000, 1)).unwrap();
    fs::write(folder.join("deep/file"), noise(20_000, 2)).unwrap();
    fs::write(folder.join("deep/deeper/file"), noise(9_000, 3)).unwrap();
    fs::write(folder.join("deep/inline"), b"a few bytes").unwrap();
    fs::write(folder.join("other/changing"), noise(15_000, 10 + version)).unwrap();
    for number in 0..120 {
        fs::write(folder.join(format!("other/entry-{number:03}")), b"inline").unwrap();
    }
}

/// A store with three snapshots, two of them alive, and a finished generation of collection.
fn three_snapshots() -> Store {
    three_snapshots_with(small_settings())
}

/// The same with other packs.
fn three_snapshots_with(settings: Settings) -> Store {
    let settings =
        Settings { chunk_minimum: 256, chunk_average: 1024, chunk_maximum: 4096, ..settings };
    let store = Store::memory();
    let repository = create_quick_with(store.clone(), settings, None);
    let folder = tempfile::tempdir().unwrap();
    write_tree(folder.path(), 0);
    let first = back_up(&repository, folder.path()).snapshot.unwrap();
    write_tree(folder.path(), 1);
    back_up(&repository, folder.path());
    repository.forget(&[first], "").unwrap();
    let options = PruneOptions { patience: std::time::Duration::ZERO, ..PruneOptions::default() };
    prune(&repository, &options, &SilentMonitor).unwrap();
    write_tree(folder.path(), 2);
    back_up(&repository, folder.path());
    store
}

type Files = BTreeMap<(SnapshotId, Vec<u8>), Vec<u8>>;

/// Every file that restores, by snapshot and path. Those of a repaired snapshot count for its original, too.
fn restorable(store: &Store) -> Files {
    let repository = open_any(store);
    let mut whole = Files::new();
    repository.refresh_index(&SilentMonitor).unwrap();
    let reader = BlobReader::new(&repository, 16 << 20);
    for (id, snapshot) in snapshots(&repository) {
        let mut directories = vec![(Vec::new(), DirectoryRoot::of_snapshot(&snapshot))];
        while let Some((path, root)) = directories.pop() {
            for entry in Entries::new(&reader, root).flatten() {
                let path = [&path[..], b"/", &entry.name].concat();
                if let Some(root) = DirectoryRoot::of_entry(&entry) {
                    directories.push((path, root));
                } else if let Node::File(file) = &entry.node
                    && let Ok(bytes) = read_file(&reader, file, 1 << 30)
                {
                    if let Some(repaired) = &snapshot.repaired {
                        whole.insert((repaired.original, path.clone()), bytes.clone());
                    }
                    whole.insert((id, path), bytes);
                }
            }
        }
    }
    whole
}

/// Objects but for those of sessions that did nothing but look.
fn lasting(store: &Store) -> BTreeSet<String> {
    let objects = store.list("").unwrap().into_iter().map(|object| object.name);
    let repository = open_any(store);
    let aborted = repository.snapshots(&SilentMonitor).unwrap().aborted;
    let is_passing = |name: &String| {
        let session = layout::parse_session(name).or(layout::parse_snapshot(name));
        session.is_some_and(|session| aborted.contains(&session))
    };
    objects.filter(|name| !is_passing(name)).collect()
}

/// With one object changed: repaired, and nothing is worse, and a second repair changes nothing. Returns whether a
/// check finds nothing any more.
fn repair_after(case: &str, whole: &Store, name: &str, bytes: Option<&[u8]>) -> bool {
    let store = copy_of(whole);
    store.delete(name).unwrap();
    if let Some(bytes) = bytes {
        store.create(name, bytes.to_vec()).unwrap();
    }
    let opened = Repository::open(store.clone(), &quick_key(1), environment(None));
    if layout::parse_key(name).is_some() && opened.is_err() {
        // Without its only key a repository is lost, and nothing is done to it.
        return false;
    }
    let repository = match opened {
        Ok(repository) => repository,
        Err(error) => {
            let without =
                Repository::open_without_config(store.clone(), &quick_key(1), environment(None));
            match without {
                Ok(repository) => repository,
                Err(other) => {
                    assert!(error.item == "config" && other.kind == Kind::Newer, "{case}: {other}");
                    return false;
                }
            }
        }
    };
    let before = restorable(&store);
    let damage_before = checked(&repository).damage;
    match repair_all(&repository) {
        Ok(()) => {}
        Err(error) => {
            // Only what may be a newer version's stops a repair.
            let is_newer = matches!(&error, OpsError::Repository(error)
                if matches!(error.kind, Kind::Newer | Kind::WrongKey));
            assert!(is_newer, "{case}: {error}");
        }
    }
    let after = restorable(&store);
    for (place, bytes) in &before {
        let path = String::from_utf8_lossy(&place.1);
        assert!(after.get(place) == Some(bytes), "{case}: {path} was whole and is not");
    }
    let fresh = open_any(&store);
    let damage = checked(&fresh);
    assert!(
        damage.damage.len() <= damage_before.len(),
        "{case}: {:#?} where there was {damage_before:#?}",
        damage.damage
    );
    let lasting_before = lasting(&store);
    let again = repair_all(&fresh);
    if again.is_ok() {
        assert_eq!(lasting(&store), lasting_before, "{case}: a second repair changed something");
    }
    damage.damage.is_empty()
}

/// What is done to an object: removed, cut, flipped at several places, zeros, another one in its place.
fn damages(
    name: &str,
    bytes: &[u8],
    others: &BTreeMap<String, Vec<u8>>,
) -> Vec<(String, Option<Vec<u8>>)> {
    let mut damages = vec![(format!("{name} removed"), None)];
    for length in [0, 1, bytes.len() / 2, bytes.len() - 1] {
        damages.push((format!("{name} cut to {length}"), Some(bytes[..length].to_vec())));
    }
    for at in [0, 8, 10, 12, 20, 40, 70, 100, 140, bytes.len() / 2, bytes.len() - 1] {
        let mut flipped = bytes.to_vec();
        flipped[at] ^= 1 << (at % 8);
        damages.push((format!("{name} flipped at {at}"), Some(flipped)));
    }
    damages.push((format!("{name} longer"), Some([bytes, &[0]].concat())));
    let folder = name.split('/').next().unwrap();
    let same = others.iter().filter(|(other, _)| *other != name && other.starts_with(folder));
    for (other, content) in same.take(1) {
        damages.push((format!("{other} in the place of {name}"), Some(content.clone())));
    }
    damages
}

fn objects_of(store: &Store) -> BTreeMap<String, Vec<u8>> {
    let objects = store.list("").unwrap().into_iter();
    objects.map(|object| (object.name.clone(), store.get(&object.name).unwrap())).collect()
}

fn damage_matrix(whole: &Store, folders: &[&str]) -> (u64, u64) {
    let objects = objects_of(whole);
    let (mut cases, mut clean) = (0, 0);
    for (name, bytes) in &objects {
        if !folders.contains(&name.split('/').next().unwrap()) {
            continue;
        }
        for (case, damaged) in damages(name, bytes, &objects) {
            clean += u64::from(repair_after(&case, whole, name, damaged.as_deref()));
            cases += 1;
        }
    }
    (cases, clean)
}

#[test]
fn no_damage_of_small_objects_is_made_worse_by_repair() {
    let (cases, clean) = damage_matrix(
        &three_snapshots(),
        &["config", "keys", "sessions", "snapshots", "tombs", "gc"],
    );
    assert!(cases > 80, "{cases}");
    assert!(clean * 3 > cases, "{clean} of {cases}");
}

#[test]
fn no_damage_of_index_objects_is_made_worse_by_repair_and_nearly_all_is_mended() {
    let (cases, clean) = damage_matrix(&three_snapshots(), &["index"]);
    assert!(cases > 30, "{cases}");
    // What looks as if a newer version, or another key, had made it is left.
    assert!(clean * 5 >= cases * 4, "{clean} of {cases}");
}

#[test]
fn no_damage_of_packs_is_made_worse_by_repair() {
    let (cases, _) = damage_matrix(&three_snapshots(), &["packs"]);
    assert!(cases > 50, "{cases}");
}

#[test]
fn with_parity_every_damage_of_packs_within_its_reach_is_mended_completely() {
    let whole = three_snapshots_with(Settings { parity_percent: 50, ..small_settings() });
    let wanted = restorable(&whole);
    let mut cases = 0;
    for (name, bytes) in objects_of(&whole) {
        if !name.starts_with(layout::PACKS) {
            continue;
        }
        let flipped = |at: usize| {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << (at % 8);
            flipped
        };
        let places = [0, 8, 40, 100, 140, bytes.len() / 3, bytes.len() / 2, bytes.len() - 1];
        let mut damaged: Vec<_> = places.into_iter().map(flipped).collect();
        damaged.push(bytes[..bytes.len() - 10].to_vec());
        damaged.push([&bytes[..], &[0]].concat());
        for damaged in damaged {
            let case = format!("{name}, damage {cases}");
            let store = copy_of(&whole);
            store.delete(&name).unwrap();
            store.create(&name, damaged).unwrap();
            let repository = open_quick(store.clone(), None);
            let done = repair_packs(&repository, &repair_options(), &SilentMonitor).unwrap();
            assert_eq!(done.salvaged.len(), 1, "{case}: {done:?}");
            assert!(done.salvaged[0].is_new && done.salvaged[0].lost == 0, "{case}: {done:?}");
            // Even without the damaged pack everything is there.
            store.delete(&name).unwrap();
            let fresh = open_quick(store.clone(), None);
            assert!(restorable(&store) == wanted, "{case}");
            let again = repair_packs(&fresh, &repair_options(), &SilentMonitor).unwrap();
            assert!(again.salvaged.is_empty(), "{case}: {again:?}");
            cases += 1;
        }
    }
    assert!(cases > 30, "{cases}");
}

#[test]
fn what_is_good_in_a_damaged_pack_is_stored_again_and_a_collection_drops_it() {
    let whole = three_snapshots_with(Settings { pack_length: 256 << 10, ..small_settings() });
    let folder = tempfile::tempdir().unwrap();
    for number in 0..6 {
        fs::write(folder.path().join(format!("{number}")), noise(90_000, 50 + number)).unwrap();
    }
    back_up(&open_quick(whole.clone(), None), folder.path());
    let mut salvaged = 0;
    for (name, bytes) in objects_of(&whole) {
        if !name.starts_with(layout::PACKS) {
            continue;
        }
        let store = copy_of(&whole);
        let mut damaged = bytes.clone();
        damaged[HEADER_LENGTH + 10] ^= 1;
        store.delete(&name).unwrap();
        store.create(&name, damaged).unwrap();
        let left = restorable(&store);
        let repository = open_quick(store.clone(), None);
        let dry = RepairOptions { dry_run: true, ..repair_options() };
        let plan = repair_packs(&repository, &dry, &SilentMonitor).unwrap();
        assert_eq!(store.list(layout::DAMAGED).unwrap().len(), 0);
        let done = repair_packs(&repository, &repair_options(), &SilentMonitor).unwrap();
        assert_eq!(plan.salvaged, done.salvaged);
        assert_eq!(done.salvaged.len(), 1, "{name}: {done:?}");
        assert!(done.salvaged[0].lost > 0);
        salvaged += done.salvaged[0].blobs;
        assert_eq!(store.list(layout::DAMAGED).unwrap().len(), 1);
        repair_snapshots(&repository, &repair_options(), &SilentMonitor).unwrap();
        let forgetting = RepairOptions { forget_originals: true, ..repair_options() };
        let done = repair_snapshots(&repository, &forgetting, &SilentMonitor).unwrap();
        if done.left.is_empty() {
            let options =
                PruneOptions { patience: std::time::Duration::ZERO, ..PruneOptions::default() };
            prune(&repository, &options, &SilentMonitor).unwrap();
            assert_eq!(checked(&open_quick(store.clone(), None)).damage, [], "{name}");
        }
        let now = restorable(&store);
        for (place, bytes) in &left {
            let path = String::from_utf8_lossy(&place.1);
            assert!(now.get(place) == Some(bytes), "{name}: {path}");
        }
    }
    assert!(salvaged > 0);
}

#[test]
fn a_pack_that_nobody_can_list_is_told_and_the_others_are_listed() {
    let store = three_snapshots();
    for object in store.list(layout::INDEX).unwrap() {
        store.delete(&object.name).unwrap();
    }
    let packs = store.list(layout::PACKS).unwrap();
    // Its directory is at the end.
    let last = &packs[0];
    let mut object = store.get(&last.name).unwrap();
    object[last.size as usize - 1] ^= 1;
    store.delete(&last.name).unwrap();
    store.create(&last.name, object).unwrap();
    for dry_run in [true, false] {
        let options = RepairOptions { dry_run, ..repair_options() };
        let done =
            repair_index(&open_quick(store.clone(), None), &options, &SilentMonitor).unwrap();
        let unreadable: Vec<_> = done.unreadable.iter().map(|trouble| &trouble.item).collect();
        assert_eq!(unreadable, [&last.name]);
        assert_eq!(done.packs_listed, packs.len() as u64 - 1, "dry run: {dry_run}");
    }
}

#[test]
fn damaged_objects_of_one_name_are_all_kept_and_what_is_whole_or_gone_is_not_taken() {
    for is_conditional in [true, false] {
        let store = match is_conditional {
            true => three_snapshots(),
            false => three_snapshots().without_conditions(),
        };
        let repository = open_quick(store.clone(), None);
        let name = store.list(layout::INDEX).unwrap()[0].name.clone();
        let whole = store.get(&name).unwrap();
        assert_eq!(repository.quarantine(&name).unwrap(), None, "it is whole");
        let mut copies = Vec::new();
        // The last one is what the first one was: as after a repair that was stopped.
        for bit in [0, 1, 2, 0] {
            let mut damaged = whole.clone();
            damaged[whole.len() / 2] ^= 1 << bit;
            store.delete(&name).unwrap();
            store.create(&name, damaged.clone()).unwrap();
            let copy = repository.quarantine(&name).unwrap().unwrap();
            assert!(store.get(&copy).unwrap() == damaged);
            assert_eq!(store.size(&name).unwrap(), None);
            copies.push(copy);
        }
        let first = format!("{}{name}", layout::QUARANTINE);
        assert_eq!(copies, [first.clone(), format!("{first}.1"), format!("{first}.2"), first]);
        assert_eq!(repository.quarantine(&name).unwrap(), None, "it is gone");
    }
}

#[test]
fn every_index_object_can_be_lost_at_once() {
    let whole = three_snapshots();
    for damaged in [false, true] {
        let store = copy_of(&whole);
        let wanted = restorable(&store);
        for object in store.list(layout::INDEX).unwrap() {
            let mut bytes = store.get(&object.name).unwrap();
            store.delete(&object.name).unwrap();
            if damaged {
                *bytes.last_mut().unwrap() ^= 1;
                store.create(&object.name, bytes).unwrap();
            }
        }
        let repository = open_quick(store.clone(), None);
        let plan = repair_index(
            &repository,
            &RepairOptions { dry_run: true, ..repair_options() },
            &SilentMonitor,
        )
        .unwrap();
        assert_eq!(plan.damaged.is_empty(), !damaged);
        assert!(plan.packs_listed > 2 && plan.quarantined.is_empty());
        assert_eq!(store.list(layout::QUARANTINE).unwrap().len(), 0);
        let done = repair_index(&repository, &repair_options(), &SilentMonitor).unwrap();
        assert_eq!(done.packs_listed, plan.packs_listed);
        assert_eq!(done.quarantined.len(), plan.damaged.len());
        assert_eq!(store.list(layout::QUARANTINE).unwrap().len(), plan.damaged.len());
        assert_eq!(checked(&open_quick(store.clone(), None)).damage, []);
        assert!(restorable(&store) == wanted);
        let again = repair_index(&repository, &repair_options(), &SilentMonitor).unwrap();
        assert_eq!((again.packs_listed, again.damaged.len()), (0, 0));
    }
}

/// The pack that holds this file's chunks, or the tree.
fn remove_packs(store: &Store, repository: &Repository, kind: ObjectKind) {
    for (_, pack) in repository.cache().packs().unwrap() {
        if pack.kind == kind {
            store.delete(&layout::pack(pack.id)).unwrap();
        }
    }
}

fn find_repaired(repository: &Repository) -> Vec<(SnapshotId, Snapshot)> {
    let all = snapshots(repository).into_iter();
    all.filter(|(_, snapshot)| snapshot.repaired.is_some()).collect()
}

#[test]
fn a_snapshot_with_missing_content_gets_another_with_what_is_there_and_stays() {
    let whole = three_snapshots();
    let all = restorable(&whole);
    let mut partly = 0;
    for object in whole.list(layout::PACKS).unwrap() {
        let store = copy_of(&whole);
        store.delete(&object.name).unwrap();
        let left = restorable(&store);
        let repository = open_quick(store.clone(), None);
        let originals = snapshots(&repository);
        let done = repair_snapshots(&repository, &repair_options(), &SilentMonitor).unwrap();
        let repaired = find_repaired(&repository);
        assert_eq!(done.made.len(), repaired.len());
        // The originals are still there, and `latest` is the repaired one of two.
        let now = snapshots(&repository);
        assert!(originals.iter().all(|original| now.contains(original)));
        for made in &done.made {
            let place = now.iter().position(|(id, _)| *id == made.original).unwrap();
            assert_eq!(now[place + 1].0, made.id.unwrap(), "right behind its original");
        }
        let found = checked(&open_quick(store.clone(), None));
        for (id, snapshot) in &repaired {
            let from = snapshot.repaired.as_ref().unwrap();
            assert!(!from.left_out.is_empty());
            assert!(snapshot.tags.contains(&"repaired".to_string()));
            let original = originals.iter().find(|(id, _)| *id == from.original).unwrap();
            assert_eq!((&original.1.host, &original.1.paths), (&snapshot.host, &snapshot.paths));
            assert_eq!(snapshot.program, "test");
            let lines = from.left_out.lines().count() as u64;
            assert_eq!(snapshot.counts.problems, original.1.counts.problems + lines);
            assert!(snapshot.predecessor.is_some());
            assert_ne!(snapshot.predecessor, original.1.predecessor);
            assert!(snapshot.time > original.1.time);
            // Nothing in it is damaged, and what could be read of the original is in it.
            let hit = format!("{}:", id.short());
            assert!(
                found
                    .damage
                    .iter()
                    .flat_map(|damage| &damage.hits)
                    .all(|name| !name.starts_with(&hit))
            );
            let now = restorable(&store);
            for (place, bytes) in left.iter().filter(|(place, _)| place.0 == from.original) {
                assert!(now.get(&(*id, place.1.clone())) == Some(bytes), "{:?}", place.1);
            }
            for (place, bytes) in now.iter().filter(|(place, _)| place.0 == *id) {
                let name = place.1.strip_suffix(b".damaged");
                let wanted = all.get(&(from.original, name.unwrap_or(&place.1).to_vec())).unwrap();
                match name {
                    None => assert!(wanted == bytes),
                    Some(_) => {
                        partly += 1;
                        let differs = |(one, other): (&u8, &u8)| one != other && *one != 0;
                        assert_eq!(bytes.len(), wanted.len());
                        assert!(
                            !bytes.iter().zip(wanted).any(differs),
                            "zeros, and no other bytes"
                        );
                    }
                }
            }
        }
        let again = repair_snapshots(&repository, &repair_options(), &SilentMonitor).unwrap();
        assert_eq!((again.made.len(), again.known.len()), (0, repaired.len()));
        assert_eq!(find_repaired(&repository).len(), repaired.len());
        // With consent, the damaged ones go.
        let forgetting = RepairOptions { forget_originals: true, ..repair_options() };
        let forgotten = repair_snapshots(&repository, &forgetting, &SilentMonitor).unwrap();
        assert_eq!(forgotten.forgotten.len(), repaired.len());
        let fresh = open_quick(store.clone(), None);
        assert_eq!(
            snapshots(&fresh).len(),
            originals.len() + repaired.len() - forgotten.forgotten.len()
        );
    }
    assert!(partly > 3, "{partly} files were kept in part");
}

#[test]
fn of_a_long_file_with_a_hole_the_rest_is_kept_and_a_short_one_that_is_lost_is_left_out() {
    let settings = Settings {
        chunk_minimum: 256,
        chunk_average: 1024,
        chunk_maximum: 4096,
        ..small_settings()
    };
    let whole = Store::memory();
    let repository = create_quick_with(whole.clone(), settings, None);
    let folder = tempfile::tempdir().unwrap();
    // Its list of chunks takes several nodes.
    let long = noise(3_000_000, 1);
    fs::write(folder.path().join("long"), &long).unwrap();
    let long_id = back_up(&repository, folder.path()).snapshot.unwrap();
    fs::write(folder.path().join("short"), noise(900, 2)).unwrap();
    let short_id = back_up(&repository, folder.path()).snapshot.unwrap();
    let packs = repository.cache().packs().unwrap().into_iter().map(|(_, pack)| pack);
    let packs: Vec<_> = packs.filter(|pack| pack.kind == ObjectKind::DataPack).collect();
    let of = |session| packs.iter().find(|pack| pack.id.session == session).unwrap();
    for (id, name) in [(long_id, "long"), (short_id, "short")] {
        let pack = of(id.0);
        let store = copy_of(&whole);
        store.delete(&layout::pack(pack.id)).unwrap();
        let repository = open_quick(store, None);
        let done = repair_snapshots(&repository, &repair_options(), &SilentMonitor).unwrap();
        let line = &done.made.last().unwrap().left_out[0];
        let repaired = find_repaired(&repository).pop().unwrap().1;
        let mut found = contents(&repository, &repaired);
        if name == "short" {
            assert!(line.contains("short: nothing of it can be read; it is left out"), "{line}");
            assert!(found.keys().all(|path| !path.ends_with(b"short.damaged")));
            continue;
        }
        let kept = found.remove(&b"/tree/long.damaged"[..]).unwrap();
        assert_eq!(kept.len(), long.len());
        let zeros = kept.iter().zip(&long).filter(|(is, was)| is != was).count();
        assert!(kept.iter().zip(&long).all(|(is, was)| is == was || *is == 0));
        assert!(zeros > 10_000 && zeros < 100_000, "{zeros} bytes of one pack");
        assert!(line.contains("of 3000000 bytes cannot be read; kept with zeros"), "{line}");
    }
}

#[test]
fn what_was_swept_does_not_come_back_with_a_repair_though_its_tomb_is_still_there() {
    let store = three_snapshots();
    let repository = open_quick(store.clone(), None);
    let (id, _) = snapshots(&repository).remove(0);
    repository.forget(&[id], "").unwrap();
    let before = repository.generations().unwrap();
    let generation = repository.condemn(&before, Vec::new()).unwrap().unwrap();
    let live = snapshots(&repository).into_iter().map(|(id, _)| (id, None)).collect();
    repository.sweep(generation, before.last.as_ref(), Vec::new(), live).unwrap();
    let open = repository.condemn(&repository.generations().unwrap(), Vec::new()).unwrap().unwrap();
    flip(&store, &layout::condemned(open));
    let repository = open_quick(store, None);
    repair_generations(&repository, &repair_options(), &SilentMonitor).unwrap();
    let last = repository.generations().unwrap().last.unwrap();
    assert!(last.generation == open && !last.sweep.lists(id));
    assert_eq!(last.sweep.live.len(), snapshots(&repository).len());
}

#[test]
fn blobs_that_are_stored_again_for_a_snapshot_that_is_made_are_counted() {
    let store = three_snapshots();
    let repository = open_quick(store.clone(), None);
    repository.refresh_index(&SilentMonitor).unwrap();
    let packs = repository.cache().packs().unwrap().into_iter().map(|(_, pack)| pack);
    let packs: Vec<_> = packs.filter(|pack| pack.kind == ObjectKind::DataPack).collect();
    // What is in one is gone; what is in the other can be read, and nobody counts on it.
    store.delete(&layout::pack(packs[0].id)).unwrap();
    repository.record_damage(packs[1].id, "a test", &[]).unwrap();
    let looked = repair_snapshots(
        &open_quick(store.clone(), None),
        &RepairOptions { dry_run: true, ..repair_options() },
        &SilentMonitor,
    );
    let done =
        repair_snapshots(&open_quick(store, None), &repair_options(), &SilentMonitor).unwrap();
    assert!(!done.made.is_empty() && done.blobs_stored_again > 0);
    assert_eq!(done.blobs_stored_again, looked.unwrap().blobs_stored_again);
}

#[test]
fn a_config_that_is_there_is_left_and_a_damaged_one_is_told() {
    let store = three_snapshots();
    let repository = open_quick(store.clone(), None);
    let whole = store.get("config").unwrap();
    repository.create_config().unwrap();
    assert!(store.get("config").unwrap() == whole);
    flip(&store, "config");
    assert_eq!(repository.create_config().unwrap_err().kind, Kind::Corrupt);
    store.delete("config").unwrap();
    repository.create_config().unwrap();
    assert_eq!(checked(&open_quick(store, None)).damage, []);
}

#[test]
fn damage_in_the_index_does_not_stop_the_repair_of_packs_and_what_no_one_can_list_is_told() {
    let store = three_snapshots();
    let indexes = store.list(layout::INDEX).unwrap();
    flip(&store, &indexes[0].name);
    let repository = open_quick(store.clone(), None);
    let done = repair_packs(&repository, &repair_options(), &SilentMonitor).unwrap();
    assert!(done.salvaged.is_empty() && done.left.is_empty(), "{done:?}");
    for index in &indexes {
        store.delete(&index.name).unwrap();
    }
    // Recorded as damaged, and its directory, which is at the end, is.
    let pack = store.list(layout::PACKS).unwrap().remove(0);
    let mut object = store.get(&pack.name).unwrap();
    object[pack.size as usize - 1] ^= 1;
    store.delete(&pack.name).unwrap();
    store.create(&pack.name, object).unwrap();
    let id = layout::parse_pack(&pack.name).unwrap();
    repository.record_damage(id, "a test", &[]).unwrap();
    let options = RepairOptions { read_data: false, ..repair_options() };
    let done = repair_packs(&open_quick(store, None), &options, &SilentMonitor).unwrap();
    let [left] = &done.left[..] else { panic!("{done:?}") };
    let told = "is recorded as damaged, and what it holds is not known";
    assert!(left.item == pack.name && left.message.starts_with(told), "{left:?}");
}

#[test]
fn what_a_pack_cost_is_recorded_with_it_and_a_second_repair_says_nothing_of_it() {
    let store = three_snapshots();
    let packs = store.list(layout::PACKS).unwrap();
    let mut lost = 0;
    for pack in &packs {
        let store = copy_of(&store);
        let mut object = store.get(&pack.name).unwrap();
        object[HEADER_LENGTH + 10] ^= 1;
        store.delete(&pack.name).unwrap();
        store.create(&pack.name, object).unwrap();
        let done =
            repair_packs(&open_quick(store.clone(), None), &repair_options(), &SilentMonitor);
        let [salvaged] = &done.unwrap().salvaged[..] else { panic!("one is damaged") };
        let repository = open_quick(store, None);
        let record = repository.read_damage(salvaged.pack).unwrap();
        assert_eq!(record.lost.unwrap().len() as u64, salvaged.lost);
        lost += salvaged.lost;
        let again = repair_packs(&repository, &repair_options(), &SilentMonitor).unwrap();
        assert!(again.salvaged.is_empty() && again.bytes_written == 0, "{again:?}");
        let sessions = repository.store().list(layout::INDEX).unwrap().len();
        repair_packs(&repository, &repair_options(), &SilentMonitor).unwrap();
        assert_eq!(repository.store().list(layout::INDEX).unwrap().len(), sessions);
    }
    assert!(lost > 0);
}

/// Listings leave these objects out as soon as anything is told.
struct Forgetful {
    control: FaultControl,
    names: [String; 2],
}

impl Monitor for Forgetful {
    fn note(&self, _text: &str) {
        self.names.iter().for_each(|name| self.control.leave_out(name));
    }
}

#[test]
fn a_generation_that_is_ended_spares_what_a_listing_leaves_out_of_those_that_are_registered() {
    for is_damaged in [false, true] {
        let control = FaultControl::new();
        let store = three_snapshots();
        let repository = open_quick(store.clone().with_faults(control.clone()), None);
        let aborted = repository.register(Purpose::Write).unwrap();
        let (id, _) = snapshots(&repository).pop().unwrap();
        let generations = repository.generations().unwrap();
        let open = repository.condemn(&generations, Vec::new()).unwrap().unwrap();
        repository.abort(aborted).unwrap();
        flip(&store, &layout::condemned(open));
        if is_damaged {
            flip(&store, &layout::snapshot(id.0));
        }
        // The first thing that is told is that the list cannot be read, and the snapshots are listed then.
        let names = [layout::snapshot(id.0), layout::snapshot(aborted)];
        let client = open_quick(store.with_faults(control.clone()), None);
        let monitor = Forgetful { control, names };
        repair_generations(&client, &repair_options(), &monitor).unwrap();
        let last = client.generations().unwrap().last.unwrap();
        assert!(last.sweep.lists(id), "damaged: {is_damaged}");
        assert!(!last.sweep.lists(SnapshotId(aborted)));
    }
}

#[test]
fn a_directory_that_cannot_be_read_is_kept_as_an_empty_one_and_the_repaired_snapshot_is_marked() {
    let store = Store::memory();
    let repository = create_quick_with(store.clone(), small_settings(), None);
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("sub")).unwrap();
    fs::write(folder.path().join("sub/file"), b"of the first").unwrap();
    let first = back_up(&repository, folder.path()).snapshot.unwrap();
    fs::write(folder.path().join("new"), b"of the second").unwrap();
    let tagged = BackupOptions { tags: vec!["home".into()], ..crate::support::options() };
    let second = back_up_with(&repository, folder.path(), &tagged, &SilentMonitor).unwrap();
    repository.forget(&[first], "").unwrap();
    // The directory that did not change stands with the first one's.
    for object in store.list(&layout::session_packs(first.0)).unwrap() {
        store.delete(&object.name).unwrap();
    }
    let repository = open_quick(store, None);
    let options = RepairOptions { program: "another".into(), ..repair_options() };
    let done = repair_snapshots(&repository, &options, &SilentMonitor).unwrap();
    let [made] = &done.made[..] else { panic!("{done:?}") };
    assert_eq!(Some(made.original), second.snapshot);
    assert_eq!(made.left_out, ["/tree/sub: cannot be read; it is empty"]);
    let (_, repaired) = find_repaired(&repository).pop().unwrap();
    assert_eq!(
        (&repaired.tags[..], &*repaired.program),
        (&["home".into(), "repaired".into()][..], "another")
    );
    let found = contents(&repository, &repaired);
    let paths: Vec<_> = found.keys().map(|path| String::from_utf8_lossy(path)).collect();
    assert_eq!(paths, ["/tree", "/tree/new", "/tree/sub"]);
}

#[test]
fn a_directory_of_which_a_part_is_lost_keeps_its_other_entries() {
    let whole = Store::memory();
    let repository = create_quick_with(whole.clone(), small_settings(), None);
    let folder = tempfile::tempdir().unwrap();
    for number in 0..2000 {
        let drawn: String =
            noise(10, number + 1).iter().map(|byte| format!("{byte:02x}")).collect();
        fs::write(folder.path().join(drawn), noise(60, number)).unwrap();
    }
    back_up(&repository, folder.path());
    let packs = repository.cache().packs().unwrap().into_iter();
    let packs: Vec<_> = packs.filter(|(_, pack)| pack.kind == ObjectKind::TreePack).collect();
    let mut in_part = 0;
    for (_, pack) in &packs {
        let store = copy_of(&whole);
        store.delete(&layout::pack(pack.id)).unwrap();
        let repository = open_quick(store, None);
        let done = repair_snapshots(&repository, &repair_options(), &SilentMonitor).unwrap();
        let Some(made) = done.made.first() else { continue };
        let [line] = &made.left_out[..] else { panic!("{:?}", made.left_out) };
        let entries = contents(&repository, &find_repaired(&repository)[0].1).len();
        match line.ends_with("tree: a part of its entries cannot be read") {
            true => assert!(entries > 300 && entries < 2000, "{entries}"),
            false => assert!(line.ends_with("tree: cannot be read; it is empty") && entries == 1),
        }
        in_part += u32::from(entries > 1);
    }
    assert!(in_part > 0, "of {} packs", packs.len());
}

#[test]
fn what_stands_only_in_packs_that_are_recorded_as_damaged_is_stored_again_and_counted() {
    for kind in [ObjectKind::DataPack, ObjectKind::TreePack] {
        let store = Store::memory();
        let repository = create_quick_with(store.clone(), small_settings(), None);
        let folder = tempfile::tempdir().unwrap();
        write_tree(folder.path(), 0);
        back_up(&repository, folder.path());
        let packs = repository.cache().packs().unwrap();
        let (_, pack) = packs.into_iter().find(|(_, pack)| pack.kind == kind).unwrap();
        let record = repository.read_pack_directory(pack.id, pack.object_length).unwrap();
        let blobs = record.directory.blob_count() as u64;
        repository.record_damage(pack.id, "a test", &[]).unwrap();
        let client = open_quick(copy_of(&store), None);
        let packs = repair_packs(&client, &repair_options(), &SilentMonitor).unwrap();
        let [salvaged] = &packs.salvaged[..] else { panic!("{packs:?}") };
        assert_eq!((salvaged.pack, salvaged.blobs, salvaged.is_new), (pack.id, blobs, false));
        let again = repair_packs(&client, &repair_options(), &SilentMonitor).unwrap();
        assert!(again.salvaged.is_empty() && again.bytes_written == 0, "{again:?}");
        for (dry_run, wanted) in [(true, blobs), (false, blobs), (false, 0)] {
            let options = RepairOptions { dry_run, ..repair_options() };
            let client = open_quick(store.clone(), None);
            let done = repair_snapshots(&client, &options, &SilentMonitor).unwrap();
            assert!(done.made.is_empty() && done.left.is_empty());
            assert_eq!(done.blobs_stored_again, wanted, "{kind:?}, dry run: {dry_run}");
        }
    }
}

#[test]
fn a_snapshot_of_which_nothing_can_be_read_is_told_and_left() {
    let store = three_snapshots();
    let repository = open_quick(store.clone(), None);
    repository.refresh_index(&SilentMonitor).unwrap();
    remove_packs(&store, &repository, ObjectKind::TreePack);
    let repository = open_quick(store.clone(), None);
    let done = repair_snapshots(&repository, &repair_options(), &SilentMonitor).unwrap();
    assert_eq!((done.made.len(), done.left.len()), (0, 2));
    assert!(done.left[0].message.starts_with("nothing of it can be brought back"));
}

#[test]
fn a_snapshot_that_the_store_has_lost_is_put_back_by_a_client_that_has_seen_it() {
    let store = three_snapshots();
    let wanted = restorable(&store);
    let repository = open_quick(store.clone(), None);
    let id = snapshots(&repository)[0].0;
    let name = layout::snapshot(id.0);
    store.delete(&name).unwrap();
    let done = repair_snapshots(&repository, &repair_options(), &SilentMonitor).unwrap();
    assert_eq!(done.put_back, [id]);
    assert!(restorable(&store) == wanted);
    assert_eq!(checked(&open_quick(store.clone(), None)).damage, []);

    // Damaged, it cannot be put back: slots are never taken away. It is made anew.
    let mut flipped = store.get(&name).unwrap();
    flipped[300] ^= 1;
    store.delete(&name).unwrap();
    store.create(&name, flipped).unwrap();
    let done = repair_snapshots(&repository, &repair_options(), &SilentMonitor).unwrap();
    assert_eq!(done.made.len(), 1);
    assert!(done.made[0].original == id && done.made[0].left_out.is_empty());
    let again = repair_snapshots(&repository, &repair_options(), &SilentMonitor).unwrap();
    assert_eq!((again.made.len(), again.known.len()), (0, 1));
    let now = restorable(&store);
    assert!(wanted.iter().all(|(place, bytes)| now.get(place) == Some(bytes)));
}

#[test]
fn what_is_put_back_beside_an_unfinished_collection_is_not_said_to_be_back_for_certain() {
    let store = three_snapshots();
    let repository = open_quick(store.clone(), None);
    let id = snapshots(&repository)[0].0;
    store.delete(&layout::snapshot(id.0)).unwrap();
    let held = repository.register(Purpose::Read).unwrap();
    let open = repository.condemn(&repository.generations().unwrap(), Vec::new()).unwrap();
    assert!(open.is_some());
    let done = repair_snapshots(&repository, &repair_options(), &SilentMonitor).unwrap();
    assert_eq!((done.put_back, done.is_pending), (vec![id], true));
    repository.abort(held).unwrap();
    assert!(
        repository.undecided_sessions().unwrap().is_empty(),
        "put back by a session that ended"
    );
}

#[test]
fn a_damaged_snapshot_that_was_repaired_stands_in_the_way_of_a_prune_until_it_is_forgotten() {
    let store = three_snapshots();
    let repository = open_quick(store.clone(), None);
    repository.refresh_index(&SilentMonitor).unwrap();
    remove_packs(&store, &repository, ObjectKind::DataPack);
    let repository = open_quick(store.clone(), None);
    let prune = || prune(&repository, &PruneOptions::default(), &SilentMonitor);
    for _ in 0..2 {
        let refused = prune().unwrap_err().to_string();
        assert!(refused.contains("repair snapshots --forget-originals"), "{refused}");
        repair_snapshots(&repository, &repair_options(), &SilentMonitor).unwrap();
    }
    let forgetting = RepairOptions { forget_originals: true, ..repair_options() };
    assert!(
        !repair_snapshots(&repository, &forgetting, &SilentMonitor).unwrap().forgotten.is_empty()
    );
    prune().unwrap();
}

#[test]
fn a_lost_config_is_made_again_and_one_of_a_newer_version_is_not() {
    let store = three_snapshots();
    let wanted = restorable(&store);
    let config = store.get("config").unwrap();
    let settings = *open_quick(store.clone(), None).settings();
    let damaged = |byte: usize| {
        let mut bytes = config.clone();
        bytes[byte] ^= 2;
        Some(bytes)
    };
    // The last one names a key epoch that there never was.
    let damages =
        [(None, Kind::Corrupt), (damaged(200), Kind::Corrupt), (damaged(12), Kind::WrongKey)];
    for (bytes, kind) in damages {
        store.delete("config").unwrap();
        if let Some(bytes) = &bytes {
            store.create("config", bytes.clone()).unwrap();
        }
        let error =
            Repository::open(store.clone(), &quick_key(1), environment(None)).err().unwrap();
        assert_eq!((error.kind, error.item.as_str()), (kind, "config"));
        let repository = open_any(&store);
        let dry = RepairOptions { dry_run: true, ..repair_options() };
        assert!(repair_config(&repository, &dry).unwrap().made);
        assert_eq!(store.get("config").ok(), bytes);
        let done = repair_config(&repository, &repair_options()).unwrap();
        assert!(done.made && done.missing == bytes.is_none());
        assert_eq!(done.quarantined.len(), usize::from(bytes.is_some()));
        assert!(!repair_config(&repository, &repair_options()).unwrap().made);
        assert_eq!(*open_quick(store.clone(), None).settings(), settings);
        assert!(restorable(&store) == wanted);
        assert_eq!(checked(&open_quick(store.clone(), None)).damage, []);
    }
    let mut newer = config;
    newer[8] = 2;
    store.delete("config").unwrap();
    store.create("config", newer).unwrap();
    let without = Repository::open_without_config(store, &quick_key(1), environment(None));
    assert_eq!(without.err().unwrap().kind, Kind::Newer);
}

#[test]
fn a_repository_without_snapshots_is_one_though_the_repair_of_its_config_was_stopped() {
    let store = Store::memory();
    create_quick_with(store.clone(), small_settings(), None);
    store.create("quarantine/config", store.get("config").unwrap()).unwrap();
    store.delete("config").unwrap();
    let opened = Repository::open(store.clone(), &quick_key(1), environment(None));
    assert_eq!(opened.err().unwrap().kind, Kind::Corrupt);
    assert!(repair_config(&open_any(&store), &repair_options()).unwrap().made);
    open_quick(store, None);
}

#[test]
fn a_key_slot_of_another_repository_does_not_make_the_config() {
    let (store, other) = (three_snapshots(), three_snapshots());
    let id = open_quick(store.clone(), None).id();
    // Both open with the same key; the store lists the wrong one first or last.
    for object in other.list(layout::KEYS).unwrap() {
        store.create(&object.name, other.get(&object.name).unwrap()).unwrap();
    }
    store.delete("config").unwrap();
    let repository = open_any(&store);
    assert_eq!(repository.id(), id);
    repair_config(&repository, &repair_options()).unwrap();
    assert_eq!(checked(&open_quick(store, None)).snapshots, 2);
}

/// Flips a bit of an object for good.
fn flip(store: &Store, name: &str) {
    let mut bytes = store.get(name).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 4;
    store.delete(name).unwrap();
    store.create(name, bytes).unwrap();
}

#[test]
fn a_condemned_list_that_cannot_be_read_ends_with_nothing_dropped_and_needs_no_consent() {
    let store = three_snapshots();
    let wanted = restorable(&store);
    let collector = open_quick(store.clone(), None);
    let packs = store.list(layout::PACKS).unwrap().len();
    // A generation that condemns everything, and has not ended.
    let all: Vec<_> = collector.inventory().unwrap().packs.iter().map(|(id, _)| *id).collect();
    let generations = collector.generations().unwrap();
    let open = collector.condemn(&generations, all).unwrap().unwrap();
    flip(&store, &layout::condemned(open));
    let writer = open_quick(store.clone(), None);
    let holder = writer.register(Purpose::Write).unwrap();
    let folder = tempfile::tempdir().unwrap();
    write_tree(folder.path(), 3);
    let refused = prune(&writer, &PruneOptions::default(), &SilentMonitor).unwrap_err();
    assert!(refused.to_string().contains("repair generations"), "{refused}");

    let repair = RepairOptions { no_collector_runs: false, ..repair_options() };
    let dry = RepairOptions { dry_run: true, ..repair.clone() };
    let repository = open_quick(store.clone(), None);
    let plan = repair_generations(&repository, &dry, &SilentMonitor).unwrap();
    assert!(plan.blocked && plan.needs_consent.is_none() && plan.ended == Some(open));
    let done = repair_generations(&repository, &repair, &SilentMonitor).unwrap();
    assert_eq!((done.ended, done.fenced, done.quarantined.len()), (Some(open), 0, 1));
    assert_eq!(repository.generations().unwrap().newest, open, "no other one was begun");
    // Who asks by name whether the generation has begun finds so.
    repository.prove_sealed(ObjectKind::Condemned, &layout::condemned(open)).unwrap();
    assert!(repository.abort(holder).unwrap(), "who came after the list is not in the way");

    assert_eq!(store.list(layout::PACKS).unwrap().len(), packs);
    back_up(&writer, folder.path());
    let options = PruneOptions { patience: std::time::Duration::ZERO, ..PruneOptions::default() };
    prune(&writer, &options, &SilentMonitor).unwrap();
    let now = restorable(&store);
    assert!(wanted.iter().all(|(place, bytes)| now.get(place) == Some(bytes)));
    assert_eq!(checked(&open_quick(store.clone(), None)).damage, []);
    let again = repair_generations(&repository, &repair, &SilentMonitor).unwrap();
    assert!(!again.blocked && again.damaged.is_empty());
}

#[test]
fn a_sweep_that_cannot_be_read_needs_consent_and_then_everybody_goes_on() {
    let store = three_snapshots();
    let wanted = restorable(&store);
    let cache = tempfile::tempdir().unwrap();
    // A client that has followed the sweep, and one that has its object in its cache no more.
    let follower = open_quick(store.clone(), Some(cache.path()));
    restorable(&store);
    follower.refresh_index(&SilentMonitor).unwrap();
    let swept = follower.generations().unwrap().swept();
    assert!(swept > 0);
    flip(&store, &layout::sweep(swept));

    let repository = open_quick(store.clone(), None);
    let cautious = RepairOptions { no_collector_runs: false, ..repair_options() };
    let error = repair_generations(&repository, &cautious, &SilentMonitor).unwrap_err();
    assert!(error.to_string().contains("no collector"), "{error}");
    let undecided = repository.register(Purpose::Write).unwrap();
    let done = repair_generations(&repository, &repair_options(), &SilentMonitor).unwrap();
    assert_eq!((done.ended, done.fenced), (Some(swept + 1), 1));
    assert!(!repository.abort(undecided).unwrap());
    let begun = layout::condemned(swept + 1);
    repository.prove_sealed(ObjectKind::Condemned, &begun).unwrap();

    let folder = tempfile::tempdir().unwrap();
    write_tree(folder.path(), 3);
    for client in [&follower, &repository, &open_quick(store.clone(), None)] {
        back_up(client, folder.path());
        let options =
            PruneOptions { patience: std::time::Duration::ZERO, ..PruneOptions::default() };
        prune(client, &options, &SilentMonitor).unwrap();
    }
    let now = restorable(&store);
    assert!(wanted.iter().all(|(place, bytes)| now.get(place) == Some(bytes)));
    assert_eq!(checked(&open_quick(store.clone(), None)).damage, []);
}

#[test]
fn with_the_sweep_in_its_cache_a_client_needs_no_consent() {
    let store = three_snapshots();
    let repository = open_quick(store.clone(), None);
    repository.refresh_index(&SilentMonitor).unwrap();
    let swept = repository.generations().unwrap().swept();
    flip(&store, &layout::sweep(swept));
    let cautious = RepairOptions { no_collector_runs: false, ..repair_options() };
    let done = repair_generations(&repository, &cautious, &SilentMonitor).unwrap();
    assert_eq!(done.ended, Some(swept + 1));
    // It is put back, so that nobody finds a gap.
    open_quick(store.clone(), None).prove_sealed(ObjectKind::Sweep, &layout::sweep(swept)).unwrap();
    assert_eq!(checked(&open_quick(store, None)).damage, []);
}

#[test]
fn what_is_forgotten_can_still_come_back_after_the_first_generation_was_repaired() {
    let store = Store::memory();
    let repository = create_quick_with(store.clone(), small_settings(), None);
    let folder = tempfile::tempdir().unwrap();
    write_tree(folder.path(), 0);
    let id = back_up(&repository, folder.path()).snapshot.unwrap();
    repository.forget(&[id], "").unwrap();
    let open = repository.condemn(&repository.generations().unwrap(), Vec::new()).unwrap().unwrap();
    flip(&store, &layout::condemned(open));
    let repository = open_quick(store.clone(), None);
    repair_generations(&repository, &repair_options(), &SilentMonitor).unwrap();
    repository.undelete(&[id]).unwrap();
    assert_eq!(snapshots(&open_quick(store, None)).len(), 1);
}

#[test]
fn a_tomb_stays_while_the_sweep_that_let_its_snapshot_go_cannot_be_read() {
    let store = three_snapshots();
    let collector = open_quick(store.clone(), None);
    let id = snapshots(&collector)[0].0;
    collector.forget(&[id], "").unwrap();
    let before = collector.generations().unwrap();
    let generation = collector.condemn(&before, Vec::new()).unwrap().unwrap();
    let live = snapshots(&collector).into_iter().map(|(id, _)| (id, None)).collect();
    collector.sweep(generation, before.last.as_ref(), Vec::new(), live).unwrap();
    let generations = collector.generations().unwrap();
    assert!(!generations.lets_live(id.0));
    flip(&store, &layout::sweep(generation));
    // Slow: it has read the sweep, and lists the snapshots only now that this cannot be read any more.
    let client = open_quick(store.clone(), None);
    let listed = client.snapshots(&SilentMonitor).unwrap();
    client.clear_away(&generations, &listed).unwrap();
    assert!(store.size(&layout::snapshot(id.0)).unwrap().is_some());
    assert!(client.snapshots(&SilentMonitor).unwrap().tombs.contains(&id));
}

#[test]
fn a_late_sweep_of_a_generation_that_a_repair_ended_drops_nothing() {
    let store = three_snapshots();
    let wanted = restorable(&store);
    let collector = open_quick(store.clone(), None);
    let all: Vec<_> = collector.inventory().unwrap().packs.iter().map(|(id, _)| *id).collect();
    let generations = collector.generations().unwrap();
    let open = collector.condemn(&generations, all.clone()).unwrap().unwrap();
    flip(&store, &layout::condemned(open));
    let repository = open_quick(store.clone(), None);
    repair_generations(&repository, &repair_options(), &SilentMonitor).unwrap();
    // The collector, which still knows what it condemned, wakes up.
    let published = collector.sweep(open, generations.last.as_ref(), all, Vec::new()).unwrap();
    assert_eq!(published.sweep.packs, []);
    assert_eq!(collector.delete_swept(&published).unwrap(), (0, 0));
    assert!(restorable(&store) == wanted);
}

#[test]
fn a_damaged_tomb_forgets_nothing_and_a_repair_sees_that_it_never_does() {
    let store = three_snapshots();
    let repository = open_quick(store.clone(), None);
    let id = snapshots(&repository)[0].0;
    repository.forget(&[id], "").unwrap();
    let name = layout::tomb(TombId { session: id.0, number: 1 });
    let whole = store.get(&name).unwrap();
    flip(&store, &name);
    assert_eq!(snapshots(&repository).len(), 2);
    let done = repair_snapshots(&repository, &repair_options(), &SilentMonitor).unwrap();
    assert_eq!((done.tombs.len(), done.quarantined.len()), (1, 1));
    store.create(&name, whole).unwrap();
    assert_eq!(snapshots(&repository).len(), 2, "a repair decided so, and it came late");
    repository.forget(&[id], "").unwrap();
    assert_eq!(snapshots(&repository).len(), 1);
}

#[test]
fn a_damaged_tomb_is_not_in_the_way_of_another_one() {
    let store = three_snapshots();
    let repository = open_quick(store.clone(), None);
    let id = snapshots(&repository)[0].0;
    repository.forget(&[id], "").unwrap();
    flip(&store, &layout::tomb(TombId { session: id.0, number: 1 }));
    repository.forget(&[id], "").unwrap();
    assert_eq!(snapshots(&repository).len(), 1);
    repository.undelete(&[id]).unwrap();
    assert_eq!(snapshots(&repository).len(), 2);
}

/// A small repository to which everything has happened that repair can do something about. Two snapshots.
fn ruin() -> Store {
    let store = Store::memory();
    let repository = create_quick_with(store.clone(), small_settings(), None);
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("deep")).unwrap();
    for number in 0..6 {
        fs::write(folder.path().join(format!("deep/{number}")), noise(20_000, number)).unwrap();
    }
    back_up(&repository, folder.path());
    fs::write(folder.path().join("later"), noise(30_000, 9)).unwrap();
    back_up(&repository, folder.path());
    let generations = repository.generations().unwrap();
    let open = repository.condemn(&generations, Vec::new()).unwrap().unwrap();
    flip(&store, &layout::condemned(open));
    flip(&store, &store.list(layout::INDEX).unwrap()[0].name);
    let data: Vec<_> = {
        let packs = repository.cache().packs().unwrap().into_iter();
        packs.filter(|(_, pack)| pack.kind == ObjectKind::DataPack).collect()
    };
    assert!(data.len() > 2);
    let mut bytes = store.get(&layout::pack(data[0].1.id)).unwrap();
    bytes[HEADER_LENGTH + 10] ^= 1;
    store.delete(&layout::pack(data[0].1.id)).unwrap();
    store.create(&layout::pack(data[0].1.id), bytes).unwrap();
    flip(&store, "config");
    store
}

fn repaired_paths(store: &Store) -> BTreeSet<(bool, Vec<u8>)> {
    let repository = open_quick(store.clone(), None);
    let all = snapshots(&repository);
    let is_repaired = |id: &SnapshotId| {
        all.iter().any(|(other, snapshot)| other == id && snapshot.repaired.is_some())
    };
    restorable(store).into_keys().map(|(id, path)| (is_repaired(&id), path)).collect()
}

#[test]
fn a_repair_may_be_stopped_at_any_call_and_the_next_one_comes_to_the_same_end() {
    let ruin = ruin();
    let before = restorable(&ruin);
    let (wanted, wanted_damage) = {
        let store = copy_of(&ruin);
        repair_all(&open_any(&store)).unwrap();
        let damage = checked(&open_quick(store.clone(), None)).damage.len();
        (repaired_paths(&store), damage)
    };
    assert!(wanted.iter().any(|(is_repaired, _)| *is_repaired));
    for effect in [Effect::Before, Effect::After] {
        for call in 0.. {
            let what = format!("stopped {effect:?} call {call}");
            let (store, control) = (copy_of(&ruin), FaultControl::new());
            let faulty = store.clone().with_faults(control.clone());
            let repository =
                Repository::open_without_config(faulty, &quick_key(1), environment(None)).unwrap();
            let at = control.calls() + call;
            control.stop_at(at, effect);
            let outcome = repair_all(&repository);
            let reached = control.calls() > at;
            drop(repository);
            control.resume();
            let now = restorable(&store);
            for (place, bytes) in &before {
                let path = String::from_utf8_lossy(&place.1);
                assert!(now.get(place) == Some(bytes), "{what}: {path} was whole and is not");
            }
            let second = open_any(&store);
            repair_all(&second).unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_eq!(repaired_paths(&store), wanted, "{what}");
            if call % 8 == 0 {
                let fresh = open_quick(store.clone(), None);
                assert_eq!(checked(&fresh).damage.len(), wanted_damage, "{what}");
                let lasting_before = lasting(&store);
                repair_all(&fresh).unwrap();
                assert_eq!(lasting(&store), lasting_before, "{what}");
            }
            if !reached {
                assert!(outcome.is_ok() && call > 60, "{what}: {outcome:?}");
                break;
            }
        }
    }
}

#[test]
fn a_config_that_is_lost_after_a_rekeying_is_made_with_the_newest_keys() {
    let store = three_snapshots();
    let repository = open_quick(store.clone(), None);
    let change = RekeyOptions { change: Change::NewEpoch, remove: Vec::new() };
    let planned = rekey::plan(&repository, &change, &SilentMonitor).unwrap();
    rekey::rekey(&repository, &planned).unwrap();
    let epoch = open_quick(store.clone(), None).sealer().newest_epoch();
    assert_eq!(epoch, 2);
    store.delete("config").unwrap();
    repair_config(&open_any(&store), &repair_options()).unwrap();
    let header = Header::decode(&store.get("config").unwrap()).unwrap();
    assert_eq!(header.epoch, epoch);
    assert_eq!(checked(&open_quick(store, None)).damage, []);
}

/// Between the first reading of a pack and anything else, every pack is as it was written.
struct Glitch {
    store: Store,
    whole: Vec<(String, Vec<u8>)>,
    heard: RecordingMonitor,
}

impl Monitor for Glitch {
    fn advance(&self, _done: Progress) {
        for (name, object) in &self.whole {
            if self.store.get(name).unwrap() != *object {
                self.store.delete(name).unwrap();
                self.store.create(name, object.clone()).unwrap();
            }
        }
    }

    fn note(&self, text: &str) {
        self.heard.note(text);
    }
}

#[test]
fn a_pack_that_only_the_first_reading_found_damaged_is_not_recorded() {
    let store = three_snapshots();
    let names = store.list(layout::PACKS).unwrap().into_iter().map(|object| object.name);
    let whole: Vec<_> = names.map(|name| (name.clone(), store.get(&name).unwrap())).collect();
    // One thread, so that the first pack is read before any is healed.
    let environment = Environment { chance: Chance::seeded(1), ..environment(None) };
    let repository = Repository::open(store.clone(), &quick_key(1), environment).unwrap();
    for (name, object) in &whole {
        let mut object = object.clone();
        object[HEADER_LENGTH + 10] ^= 1;
        store.delete(name).unwrap();
        store.create(name, object).unwrap();
    }
    let monitor = Glitch { store: store.clone(), whole, heard: RecordingMonitor::default() };
    let repair = repair_packs(&repository, &repair_options(), &monitor).unwrap();
    assert_eq!(repair.salvaged, []);
    assert!(repair.left.is_empty(), "{:?}", repair.left);
    assert_eq!(store.list(layout::DAMAGED).unwrap().len(), 0);
    let notes = monitor.heard.notes();
    assert!(notes.iter().any(|note| note.contains("whole when it was read again")), "{notes:?}");
}
