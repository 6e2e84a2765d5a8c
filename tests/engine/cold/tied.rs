//! A cold store goes with one hot store at a time, and lacks nothing that the hot one relies on.

use super::*;

#[test]
fn a_hot_store_that_another_has_taken_the_place_of_is_refused() {
    let pair = Pair::new();
    let (folder, ids, versions) = lived_in(&pair);
    // Not lost, only out of sight.
    let new = Pair { hot: Store::memory(), cold: pair.cold.clone() };
    assert!(repaired(&new.store(), true).unwrap().is_new);
    assert_whole(&pair, &versions, "told what would be, and nothing done");
    assert!(repaired(&new.store(), false).unwrap().is_new);
    assert_eq!(names(&pair.cold, "copy/hot/").len(), 1);
    let told = refused(pair.store());
    assert!(told.kind == Kind::Invalid && told.message.contains("any more"), "{told}");
    let told = repaired(&pair.store(), false).unwrap_err();
    assert!(told.kind == Kind::Invalid && told.message.contains("any more"), "{told}");
    // The new one goes on, and one more takes its place in turn.
    let repository = new.open();
    assert_eq!(checked(&repository, DataSelection::None).notes, Vec::<String>::new());
    repository.forget(&ids[..1], "").unwrap();
    pruned(&repository, &tight());
    drop(repository);
    assert_whole(&new, &versions[1..], "the new one");
    let third = Pair { hot: Store::memory(), cold: pair.cold.clone() };
    repaired(&third.store(), false).unwrap();
    assert_eq!(refused(new.store()).kind, Kind::Invalid);
    assert_eq!(refused(pair.store()).kind, Kind::Invalid);
    backed_up(&third.open(), folder.path());
}

#[test]
fn making_a_hot_store_again_that_is_stopped_at_any_call_leaves_one_or_none() {
    let pair = Pair::new();
    let (_, _, versions) = lived_in_with(&pair, 5);
    for call in 0.. {
        let (old, control) = (pair.copy(), FaultControl::new());
        let what = format!("before call {call}");
        let new = Pair { hot: Store::memory(), cold: old.cold.clone() };
        control.stop_at(call, Effect::Before);
        let outcome = repaired(&new.faulty(&control), false);
        let is_over = control.calls() <= call;
        control.resume();
        let opens =
            |pair: &Pair| Repository::open(pair.store(), &quick_key(1), environment(None)).is_ok();
        assert!(!(opens(&old) && opens(&new)), "{what}: two histories");
        assert_eq!(outcome.is_ok(), opens(&new), "{what}");
        if outcome.is_err() {
            // Into the same place once more.
            assert!(repaired(&new.store(), false).unwrap().is_new, "{what}");
        }
        assert_whole(&new, &versions, &what);
        assert!(!opens(&old), "{what}");
        if is_over {
            break;
        }
    }
}

#[test]
fn the_last_key_that_opens_the_cold_store_alone_is_not_removed() {
    let pair = Pair::new();
    let repository = pair.create();
    let second = repository.add_key(&quick_key(2), None, "second").unwrap();
    // Whoever added the slot in use was stopped before it made the copy.
    let in_use = layout::copy(&layout::key(repository.slot()));
    pair.cold.delete(&in_use).unwrap();
    repository.remove_key(second).unwrap();
    assert_eq!(names(&pair.cold, "copy/keys/"), [in_use]);
    let rescued = pair.after_loss_of_hot();
    assert!(Repository::open(rescued.store(), &quick_key(1), environment(None)).is_ok());
}

#[test]
fn a_sweep_that_was_not_copied_is_copied_by_whoever_reads_it() {
    let pair = Pair::new();
    let (_, ids, _) = lived_in(&pair);
    let repository = pair.open();
    repository.forget(&ids[..1], "").unwrap();
    pruned(&repository, &tight());
    let sweeps: Vec<String> = names(&pair.cold, "copy/gc/");
    let sweep = sweeps.iter().find(|name| name.ends_with(".sweep")).unwrap();
    pair.cold.delete(sweep).unwrap();
    pair.open().generations().unwrap();
    assert!(names(&pair.cold, "copy/gc/").contains(sweep));
}

#[test]
fn nothing_is_committed_without_the_copies_of_its_tree_packs() {
    let pair = Pair::new();
    let (folder, _, _) = lived_in(&pair);
    write_files(folder.path(), 0..3, 8);
    let control = FaultControl::new();
    // It takes what it is given, and does not show it.
    control.leave_out("copy/packs/");
    let cold = pair.cold.clone().with_faults(control);
    let repository = Pair { hot: pair.hot.clone(), cold }.open();
    let outcome = back_up_with(&repository, folder.path(), &options(), &SilentMonitor);
    let error = outcome.err().unwrap().to_string();
    assert!(error.contains("not in the store's listing"), "{error}");
    assert_eq!(snapshots(&pair.open()).len(), 2);
}

#[test]
fn what_may_be_in_an_archived_pack_that_no_index_lists_is_not_told_as_lost() {
    let pair = Pair::new();
    lived_in(&pair);
    for name in names(&pair.hot, layout::INDEX) {
        pair.store().delete(&name).unwrap();
    }
    let (archived, control) = pair.archived();
    let restored = || {
        let (repository, monitor) = (archived.open(), RecordingMonitor::default());
        let target = tempfile::tempdir().unwrap();
        let newest = snapshots(&repository).pop().unwrap();
        let options = restore_options();
        let summary = restore(&repository, &newest, target.path(), &options, &monitor).unwrap();
        (summary.entries_failed, monitor.problems())
    };
    let (failed, problems) = restored();
    assert!(failed > 0);
    for problem in &problems {
        let message = &problem.message;
        assert!(message.contains("packs/") && message.contains("No index object lists it"));
        assert!(!message.contains("is in no pack"), "{message}");
    }
    control.archive(None);
    assert_eq!(restored().0, 0);
}

#[test]
fn a_displaced_hot_store_is_refused_where_its_place_is_known_from_before() {
    let far = |name: &str| {
        let operator = opendal::Operator::new(opendal::services::Memory::default()).unwrap();
        Store::direct(operator, name, false)
    };
    let pair = Pair { hot: far("hot"), cold: far("cold") };
    let (cache, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    pair.create();
    let here = || environment(Some(cache.path()));
    let backed_up = |version| {
        write_files(folder.path(), 0..3, version);
        let opened = Repository::open_to_write(pair.store(), &quick_key(1), here()).unwrap();
        back_up_with(&opened, folder.path(), &options(), &SilentMonitor)
    };
    backed_up(1).unwrap();
    assert!(Repository::is_known_place(&pair.store(), &here()));
    backed_up(2).unwrap();
    let new = Pair { hot: Store::memory(), cold: pair.cold.clone() };
    repaired(&new.store(), false).unwrap();
    let packs = names(&pair.cold, "packs/");
    // It opens without a request.
    let error = backed_up(3).err().unwrap().to_string();
    assert!(error.contains("any more"), "{error}");
    assert_eq!(names(&pair.cold, "packs/"), packs);
    assert_eq!(snapshots(&new.open()).len(), 2);
}
