//! Reading from several stores of the same repository: what any of them has whole is read, and no writer ever counts on it.

use std::collections::BTreeMap;
use std::path::Path;

use aumbry::format::config::Settings;
use aumbry::format::header::HEADER_LENGTH;
use aumbry::id::SnapshotId;
use aumbry::monitor::{RecordingMonitor, SilentMonitor};
use aumbry::ops::check::{CheckSummary, DataSelection};
use aumbry::ops::mirror::{MirrorOptions, mirror};
use aumbry::ops::repair::{RepairOptions, repair_packs_from};
use aumbry::ops::restore::restore;
use aumbry::repository::Repository;
use aumbry::repository::error::Kind;
use aumbry::repository::replica::Replica;
use aumbry::store::{Effect, FaultControl, Store, Unopened, layout};

use crate::mirror::four_versions;
use crate::model::{
    Plain, all_contents, assert_same, copy_of, create_quick, create_quick_with, folder_contents,
    open_quick, quick_key,
};
use crate::prune::{pruned, tight, write_files};
use crate::support::{
    back_up, check_options, checked, contents, environment, repair_options, restore_options,
    small_settings, snapshots,
};

/// Brings a mirror up to date.
fn mirrored(repository: &Repository, to: &Store) {
    let options =
        MirrorOptions { verify: false, delete: false, dry_run: false, memory_budget: 64 << 20 };
    let replica = Replica::new(repository, to.clone()).unwrap();
    assert!(mirror(repository, &replica, &options, &SilentMonitor).unwrap().is_whole());
}

/// A repository with a history (collected, forgotten, rekeyed by a second key), what its snapshots hold, and a mirror.
fn with_mirror() -> (Store, Store, BTreeMap<SnapshotId, Plain>) {
    let store = Store::memory();
    let repository = create_quick(store.clone(), None);
    let (ids, mut versions) = four_versions(&repository);
    repository.forget(&ids[..1], "").unwrap();
    pruned(&repository, &tight());
    repository.forget(&ids[1..2], "").unwrap();
    repository.add_key(&quick_key(2), None, "second").unwrap();
    let operator = opendal::Operator::new(opendal::services::Memory::default()).unwrap();
    let mirror = Store::direct(operator, "mirror", true);
    mirrored(&repository, &mirror);
    versions.retain(|id, _| ids[2..].contains(id));
    (store, mirror, versions)
}

fn change(store: &Store, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = store.get(name).unwrap();
    change(&mut bytes);
    store.delete(name).unwrap();
    store.create(name, bytes).unwrap();
}

/// Does something to an object of a store.
type Damage<'d> = &'d dyn Fn(&Store, &str);

/// Flips a bit in the middle of an object, behind its header.
fn flip(store: &Store, name: &str) {
    change(store, name, |bytes| {
        let at = bytes.len() / 2;
        bytes[at] ^= 1;
    });
}

#[track_caller]
fn assert_whole(repository: &Repository, versions: &BTreeMap<SnapshotId, Plain>, what: &str) {
    let found = repository.snapshots(&SilentMonitor).unwrap();
    assert!(found.damaged.is_empty() && found.vanished.is_empty(), "{what}: {:?}", found.damaged);
    assert_eq!(found.all.len(), versions.len(), "{what}");
    for (id, snapshot) in &found.all {
        assert_same(&contents(repository, snapshot), &versions[id], what);
    }
}

fn names(store: &Store) -> Vec<String> {
    store.list("").unwrap().into_iter().map(|object| object.name).collect()
}

#[test]
fn what_one_store_lost_or_has_damaged_is_read_from_another() {
    let (store, mirror, versions) = with_mirror();
    let common: Vec<String> =
        names(&mirror).into_iter().filter(|name| store.size(name).unwrap().is_some()).collect();
    let deleted = |store: &Store, name: &str| store.delete(name).unwrap();
    let cut = |store: &Store, name: &str| change(store, name, |bytes| bytes.truncate(40));
    let kinds: [(&str, Damage<'_>); 3] = [("flipped", &flip), ("cut", &cut), ("deleted", &deleted)];
    for (what, damage) in kinds {
        for parity in 0..2 {
            let (store, mirror) = (copy_of(&store), copy_of(&mirror));
            // Every object is damaged in one of the two, and that they stand in the main store alone is what those say that
            // are about what counts.
            for (number, name) in common.iter().enumerate() {
                let is_shared = !name.starts_with("gc/") && !name.starts_with("tombs/");
                match number % 2 == parity && (is_shared || what != "deleted") {
                    true => damage(&store, name),
                    false => damage(&mirror, name),
                }
            }
            let repository = open_quick(store.with_mirrors(vec![mirror]), None);
            assert_whole(&repository, &versions, &format!("{what}, {parity}"));
            let monitor = RecordingMonitor::default();
            let number = repository.note_passed_over(&monitor);
            assert!(number > 1, "{what}: {number}");
            let told = monitor.notes().len();
            assert!(told > 0 && told <= 22, "{what}: {told}");
            assert_eq!(repository.note_passed_over(&monitor), number);
            assert_eq!(monitor.notes().len(), told, "each is told once");
        }
    }
}

#[test]
fn each_segment_comes_from_a_store_whose_pack_is_whole_there() {
    let store = Store::memory();
    let settings = Settings { pack_length: 256 << 10, ..small_settings() };
    let repository = create_quick_with(store.clone(), settings, None);
    let folder = tempfile::tempdir().unwrap();
    write_files(folder.path(), 0..40, 1);
    let id = back_up(&repository, folder.path()).snapshot.unwrap();
    let versions = BTreeMap::from([(id, folder_contents(folder.path()))]);
    let mirror = Store::memory();
    mirrored(&repository, &mirror);
    let mut damaged_twice = 0;
    for object in store.list(layout::PACKS).unwrap() {
        change(&store, &object.name, |bytes| bytes[HEADER_LENGTH + 5] ^= 1);
        // Where there are more than two frames, no segment here is in the first and in the last.
        if object.size > 200_000 {
            change(&mirror, &object.name, |bytes| *bytes.last_mut().unwrap() ^= 1);
            damaged_twice += 1;
        }
    }
    assert!(damaged_twice > 1);
    // An empty place is no mirror.
    let several = store.clone().with_mirrors(vec![Store::memory(), mirror.clone()]);
    let refused = Repository::open(several, &quick_key(1), environment(None));
    assert_eq!(refused.map(drop).unwrap_err().kind, Kind::NotFound);
    let several = open_quick(store.clone().with_mirrors(vec![mirror]), None);
    assert_whole(&several, &versions, "by segments");
    // And a check calls nothing lost.
    let damage = checked(&several, DataSelection::All).damage;
    assert!(damage.len() > 2 * damaged_twice - 1 && damage.iter().all(|it| it.hit_count == 0));
    let in_other = "; the other stores have what is damaged in it";
    let in_several = damage.iter().filter(|it| it.message.ends_with(in_other));
    assert_eq!(in_several.count(), damaged_twice, "{damage:?}");
}

#[test]
fn a_store_that_does_not_answer_is_passed_over_and_nothing_is_written_to_the_others() {
    let (store, mirror, versions) = with_mirror();
    let before = names(&mirror);
    let unopened = Unopened { location: "s3://gone".into(), why: "connection refused".into() };
    let repository = open_quick(Store::of_several(Err(unopened), vec![Ok(mirror.clone())]), None);
    assert_whole(&repository, &versions, "unopened");
    let monitor = RecordingMonitor::default();
    let (snapshot, target) = (snapshots(&repository).remove(0), tempfile::tempdir().unwrap());
    let summary =
        restore(&repository, &snapshot, target.path(), &restore_options(), &monitor).unwrap();
    assert_eq!((summary.entries_failed, summary.read_elsewhere), (0, 0));
    assert!(monitor.notes()[0].contains("could not register"), "{:?}", monitor.notes());
    assert_eq!(repository.silent_stores()[0].0, "s3://gone");
    assert_eq!(names(&mirror), before);

    // One that falls silent at any call, after it answered.
    for call in 0.. {
        let control = FaultControl::new();
        control.stop_at(call, Effect::Before);
        let main = copy_of(&store).with_faults(control.clone());
        let opened = Repository::open(
            main.with_mirrors(vec![mirror.clone()]),
            &quick_key(1),
            environment(None),
        );
        assert_whole(&opened.unwrap(), &versions, &format!("silent from call {call}"));
        assert_eq!(names(&mirror), before);
        if control.calls() < call {
            assert!(call > 20);
            break;
        }
    }
}

#[test]
fn a_mirror_that_is_behind_can_be_read_when_the_repository_s_own_store_is_gone() {
    let (store, mirror, of_mirror) = with_mirror();
    let cache = tempfile::tempdir().unwrap();
    let repository = open_quick(store.clone(), None);
    let folder = tempfile::tempdir().unwrap();
    write_files(folder.path(), 0..3, 60);
    let newest = back_up(&repository, folder.path()).snapshot.unwrap();
    let oldest = snapshots(&repository)[0].0;
    repository.forget(&[oldest], "").unwrap();
    pruned(&repository, &tight());
    let mut versions = of_mirror.clone();
    versions.remove(&oldest);
    versions.insert(newest, folder_contents(folder.path()));
    let control = FaultControl::new();
    let main = store.clone().with_faults(control.clone()).with_mirrors(vec![mirror.clone()]);
    let both = open_quick(main, Some(cache.path()));
    assert_whole(&both, &versions, "both");
    // It falls silent in the middle: what the mirror has can be read as it is there.
    control.stop_at(control.calls(), Effect::Before);
    let now = both.snapshots(&SilentMonitor).unwrap();
    let in_both: Vec<_> = now.all.iter().filter(|(id, _)| of_mirror.contains_key(id)).collect();
    assert!(!in_both.is_empty());
    for (id, snapshot) in in_both {
        assert_same(&contents(&both, snapshot), &of_mirror[id], "fallen silent");
    }
    drop(both);
    let unopened = Unopened { location: "s3://gone".into(), why: "connection refused".into() };
    let several = Store::of_several(Err(unopened), vec![Ok(mirror)]);
    assert_whole(&open_quick(several, Some(cache.path())), &of_mirror, "the mirror");
    // And when it is back, so is all that it has.
    let several = store.clone().with_mirrors(vec![copy_of(&store)]);
    assert_whole(&open_quick(several, Some(cache.path())), &versions, "back");
}

#[test]
fn a_mirror_that_does_not_answer_costs_nothing_but_what_only_it_had() {
    let (store, mirror, versions) = with_mirror();
    let control = FaultControl::new();
    control.stop_at(0, Effect::Before);
    let silent = mirror.clone().with_faults(control);
    let repository = open_quick(store.clone().with_mirrors(vec![silent, mirror]), None);
    flip(&store, &store.list(layout::PACKS).unwrap()[0].name);
    assert_whole(&repository, &versions, "a silent mirror");
    assert_eq!(repository.silent_stores().len(), 1);
}

#[test]
fn another_repository_is_refused() {
    let (store, _, _) = with_mirror();
    let other = Store::memory();
    create_quick(other.clone(), None);
    let before = names(&other);
    let several = store.with_mirrors(vec![other.clone()]);
    let error = Repository::open(several, &quick_key(1), environment(None)).map(drop).unwrap_err();
    assert_eq!(error.kind, Kind::Conflict);
    assert!(error.message.contains("another repository"), "{error}");
    assert_eq!(names(&other), before);
}

#[test]
fn what_was_forgotten_or_collected_does_not_come_back_from_a_mirror() {
    let (store, mirror, mut versions) = with_mirror();
    let repository = open_quick(store.clone(), None);
    let oldest = snapshots(&repository)[0].0;
    repository.forget(&[oldest], "").unwrap();
    versions.remove(&oldest);
    let several = || open_quick(store.clone().with_mirrors(vec![mirror.clone()]), None);
    assert_whole(&several(), &versions, "forgotten");
    pruned(&repository, &tight());
    assert_whole(&several(), &versions, "collected");
    // What was brought back is not hidden by a tomb that only the mirror has.
    let folder = tempfile::tempdir().unwrap();
    write_files(folder.path(), 0..3, 50);
    let id = back_up(&repository, folder.path()).snapshot.unwrap();
    versions.insert(id, folder_contents(folder.path()));
    repository.forget(&[id], "").unwrap();
    mirrored(&repository, &mirror);
    repository.undelete(&[id]).unwrap();
    pruned(&repository, &tight());
    assert_whole(&several(), &versions, "brought back");
}

#[test]
fn no_backup_counts_on_what_only_a_mirror_has() {
    let (store, mirror, _) = with_mirror();
    let cache = tempfile::tempdir().unwrap();
    // The main store loses everything that holds content, and what says where it was.
    for folder in [layout::PACKS, layout::INDEX] {
        store.list(folder).unwrap().iter().for_each(|object| store.delete(&object.name).unwrap());
    }
    let several = open_quick(store.clone().with_mirrors(vec![mirror.clone()]), Some(cache.path()));
    assert_eq!(all_contents(&several).len(), 2);
    assert!(several.note_passed_over(&SilentMonitor) > 2);
    drop(several);
    // What the newest snapshot holds, which the mirror has.
    let folder = tempfile::tempdir().unwrap();
    for version in 0..4 {
        write_files(folder.path(), version..8, version);
    }
    let repository = open_quick(store.clone(), Some(cache.path()));
    let id = back_up(&repository, folder.path()).snapshot.unwrap();
    let alone = open_quick(store, None);
    let found = snapshots(&alone);
    let (_, snapshot) = found.iter().find(|(other, _)| *other == id).unwrap();
    assert_same(&contents(&alone, snapshot), &folder_contents(folder.path()), "backed up again");
}

/// Packs of content that snapshots need.
fn needed_packs(store: &Store) -> Vec<String> {
    let packs = store.list(layout::PACKS).unwrap().into_iter().map(|object| object.name);
    let of_data = |name: &String| store.get_range(name, 10..11).unwrap() == [3];
    let is_needed = |name: &String| {
        let without = copy_of(store);
        without.delete(name).unwrap();
        let found = checked(&open_quick(without, None), DataSelection::None);
        found.damage.iter().any(|damage| damage.hit_count > 0)
    };
    packs.filter(of_data).filter(is_needed).collect()
}

#[track_caller]
fn message_of<'s>(summary: &'s CheckSummary, name: &str) -> Vec<&'s str> {
    let of = summary.damage.iter().filter(|damage| damage.item == name);
    of.map(|damage| damage.message.as_str()).collect()
}

#[test]
fn a_check_says_which_store_has_which_damage_and_what_is_lost_in_all_of_them() {
    let (store, mirror, versions) = with_mirror();
    let several = || open_quick(store.clone().with_mirrors(vec![mirror.clone()]), None);
    let clean = checked(&several(), DataSelection::All);
    assert_eq!(clean.damage, []);
    assert_eq!((clean.mirrors.len(), clean.mirrors[0].damaged), (1, 0));
    assert_eq!(clean.mirrors[0].packs_read, mirror.list(layout::PACKS).unwrap().len() as u64);

    let packs: Vec<String> =
        store.list(layout::PACKS).unwrap().into_iter().map(|object| object.name).collect();
    let of_trees = |name: &&String| store.get_range(name, 10..11).unwrap() != [3];
    let trees: Vec<String> = packs.iter().filter(of_trees).cloned().collect();
    let data = needed_packs(&store);
    assert!(data.len() >= 4, "{data:?}");
    let [here, there, both, gone] = [&data[0], &data[1], &data[2], &data[3]];
    flip(&store, here);
    flip(&mirror, there);
    flip(&store, both);
    flip(&mirror, both);
    store.delete(gone).unwrap();
    flip(&store, &trees[0]);
    let index = store.list(layout::INDEX).unwrap()[0].name.clone();
    flip(&store, &index);
    let repository = several();
    let summary = checked(&repository, DataSelection::All);
    for name in [here, gone, &trees[0]] {
        let found: Vec<_> = summary.damage.iter().filter(|found| found.item == **name).collect();
        assert_eq!(found.len(), 1, "{name}: {:?}", summary.damage);
        assert_eq!((found[0].hit_count, found[0].hits.len()), (0, 0), "{name}: {found:?}");
        assert!(found[0].message.ends_with("; mirror has it whole"), "{name}: {found:?}");
    }
    assert_eq!(message_of(&summary, there).len(), 1);
    assert!(message_of(&summary, there)[0].starts_with("in mirror: "));
    let lost: Vec<_> = summary.damage.iter().filter(|found| found.item == *both).collect();
    assert_eq!(lost.len(), 2, "one for each store: {lost:?}");
    assert!(lost.iter().any(|found| found.hit_count > 0), "{lost:?}");
    assert!(message_of(&summary, &index)[0].contains("another store has it whole"));
    assert_eq!(summary.mirrors[0].damaged, 2);
    // What can be read is exactly what it says.
    let hits: u64 = summary.damage.iter().map(|damage| damage.hit_count).sum();
    assert!(hits > 0 && hits < 20, "{:?}", summary.damage);
    assert_eq!(versions.len(), 2);
    // The main store's damage is recorded there, and nothing is written to the mirror.
    assert!(store.list(layout::DAMAGED).unwrap().len() >= 3);
    assert_eq!(mirror.list(layout::DAMAGED).unwrap(), []);
    // It is as bad when it is known, until it is mended.
    let again = checked(&several(), DataSelection::None);
    let known: Vec<_> = again.damage.iter().filter(|found| found.item == *gone).collect();
    assert!(known.len() == 1 && known[0].hit_count == 0, "{:?}", again.damage);
}

#[test]
fn a_check_does_not_call_lost_what_only_a_mirror_s_index_tells_of() {
    let (store, mirror, _) = with_mirror();
    for folder in [layout::PACKS, layout::INDEX] {
        store.list(folder).unwrap().iter().for_each(|object| store.delete(&object.name).unwrap());
    }
    let repository = open_quick(store.clone().with_mirrors(vec![mirror]), None);
    let summary = checked(&repository, DataSelection::All);
    assert!(!summary.damage.is_empty());
    for damage in &summary.damage {
        assert_eq!(damage.hit_count, 0, "{damage:?}");
        assert!(
            damage.message.contains("mirror has it whole")
                || damage.message.contains("another store"),
            "{damage:?}"
        );
    }
    let alone = checked(&open_quick(store, None), DataSelection::All);
    assert!(alone.damage.iter().any(|damage| damage.hit_count > 0));
}

#[test]
fn a_store_that_does_not_answer_is_told_by_a_check() {
    let (_, mirror, _) = with_mirror();
    let unopened = Unopened { location: "s3://gone".into(), why: "connection refused".into() };
    let repository = open_quick(Store::of_several(Err(unopened), vec![Ok(mirror)]), None);
    let summary =
        aumbry::ops::check::check(&repository, &check_options(DataSelection::All), &SilentMonitor);
    let summary = summary.unwrap();
    assert_eq!(summary.damage, []);
    assert_eq!(summary.silent_stores, [("s3://gone".into(), "connection refused".into())]);
}

#[test]
fn a_restore_counts_what_it_read_elsewhere_and_keeps_trees_that_it_proved() {
    let (store, mirror, versions) = with_mirror();
    let cache = tempfile::tempdir().unwrap();
    for object in store.list(layout::PACKS).unwrap() {
        change(&store, &object.name, |bytes| bytes[HEADER_LENGTH + 5] ^= 1);
    }
    let open = || open_quick(store.clone().with_mirrors(vec![mirror.clone()]), Some(cache.path()));
    let monitor = RecordingMonitor::default();
    let restored_by = |repository: &Repository, to: &Path| {
        let snapshot = snapshots(repository).pop().unwrap();
        let summary = restore(repository, &snapshot, to, &restore_options(), &monitor).unwrap();
        assert_eq!(summary.entries_failed, 0);
        assert_same(&folder_contents(to), &versions[&snapshot.0], "restored");
        summary.read_elsewhere
    };
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let first = restored_by(&open(), one.path());
    assert!(first > 1, "{first}");
    assert!(monitor.notes().iter().any(|note| note.contains("read from another store")));
    assert_eq!(monitor.problems(), []);
    // Trees come from the cache by now, which has them whole.
    assert!(restored_by(&open(), two.path()) < first);
}

#[test]
fn a_repair_takes_what_is_damaged_or_gone_from_a_mirror() {
    let (store, mirror, versions) = with_mirror();
    let packs: Vec<String> =
        store.list(layout::PACKS).unwrap().into_iter().map(|object| object.name).collect();
    for (number, name) in packs.iter().enumerate() {
        match number % 3 {
            0 => flip(&store, name),
            1 => store.delete(name).unwrap(),
            _ => {}
        }
    }
    let gone = (packs.len() + 1) / 3;
    let repository = open_quick(store.clone(), None);
    let mirrored = repository.beside_mirrors(vec![Ok(mirror.clone())], environment(None)).unwrap();
    let before = names(&mirror);
    let dry = RepairOptions { dry_run: true, ..repair_options() };
    let planned = repair_packs_from(&repository, Some(&mirrored), &dry, &SilentMonitor).unwrap();
    assert_eq!(planned.put_back.len(), gone);
    assert!(store.size(&packs[1]).unwrap().is_none());
    let repair =
        repair_packs_from(&repository, Some(&mirrored), &repair_options(), &SilentMonitor).unwrap();
    assert_eq!(repair.put_back, planned.put_back);
    assert!(repair.salvaged.iter().all(|pack| pack.lost == 0), "{:?}", repair.salvaged);
    for name in packs.iter().skip(1).step_by(3) {
        assert!(store.get(name).unwrap() == mirror.get(name).unwrap(), "byte for byte");
    }
    assert_eq!(names(&mirror), before);
    // Alone, it is whole again, and there is nothing left to do.
    let alone = open_quick(store.clone(), None);
    assert_whole(&alone, &versions, "repaired");
    assert_eq!(checked(&alone, DataSelection::All).damage, []);
    let mirrored = alone.beside_mirrors(vec![Ok(mirror)], environment(None)).unwrap();
    let again =
        repair_packs_from(&alone, Some(&mirrored), &repair_options(), &SilentMonitor).unwrap();
    assert!(again.put_back.is_empty() && again.salvaged.is_empty(), "{:?}", again.salvaged);
}

#[test]
fn what_collection_has_dropped_is_not_put_back() {
    let (store, mirror, _) = with_mirror();
    let repository = open_quick(store.clone(), None);
    let all: Vec<_> = snapshots(&repository).iter().map(|(id, _)| *id).collect();
    repository.forget(&all[..1], "").unwrap();
    let before = names(&store);
    pruned(&repository, &tight());
    let dropped: Vec<_> = before
        .iter()
        .filter(|name| name.starts_with(layout::PACKS) && store.size(name).unwrap().is_none())
        .collect();
    assert!(!dropped.is_empty());
    let mirrored = repository.beside_mirrors(vec![Ok(mirror.clone())], environment(None)).unwrap();
    let options = repair_options();
    let repair = repair_packs_from(&repository, Some(&mirrored), &options, &SilentMonitor).unwrap();
    assert_eq!(repair.put_back, []);
    let id = layout::parse_pack(dropped[0]).unwrap();
    assert!(!repository.put_back_pack(id, mirror.get(dropped[0]).unwrap()).unwrap());
    assert!(store.size(dropped[0]).unwrap().is_none());
}
