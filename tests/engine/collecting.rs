//! What a collector makes sure of before it publishes anything, question by question.

use std::collections::BTreeSet;

use aumbry::format::header::ObjectKind;
use aumbry::format::session::Purpose;
use aumbry::id::{SessionId, SnapshotId};
use aumbry::monitor::SilentMonitor;
use aumbry::ops::prune::prune;
use aumbry::repository::Repository;
use aumbry::repository::error::{Kind, RepositoryError};
use aumbry::repository::session::Committed;
use aumbry::repository::snapshots::Snapshots;
use aumbry::repository::writer::Writer;
use aumbry::store::{FaultControl, Store, layout};

use crate::model::{copy_of, create_quick, open_quick};
use crate::prune::{tight, write_files};
use crate::support::{back_up, contents, noise, snapshots};

/// A repository with a snapshot, in both forms of the protocol.
fn repositories() -> [(Store, Repository, SnapshotId); 2] {
    [Store::memory(), Store::memory().without_conditions()].map(|store| {
        let repository = create_quick(store.clone(), None);
        let folder = tempfile::tempdir().unwrap();
        write_files(folder.path(), 0..2, 1);
        let id = back_up(&repository, folder.path()).snapshot.unwrap();
        (store, repository, id)
    })
}

/// Ends a generation that drops nothing, with these snapshots alive.
fn sweep(repository: &Repository, live: &[SnapshotId]) -> u32 {
    let before = repository.generations().unwrap();
    let generation = repository.condemn(&before, Vec::new()).unwrap().unwrap();
    let live = live.iter().map(|id| (*id, None)).collect();
    repository.sweep(generation, before.last.as_ref(), Vec::new(), live).unwrap();
    generation
}

#[test]
fn whether_all_have_decided_is_asked_by_name() {
    for (store, repository, id) in repositories() {
        let ask = |generation, sessions: &[SessionId]| {
            let undecided: BTreeSet<_> = sessions.iter().copied().collect();
            repository.require_slots(generation, &undecided, &[])
        };
        assert!(ask(1, &[]).unwrap());
        let session = repository.register(Purpose::Write).unwrap();
        assert_eq!(session.generation, 0);
        assert!(!ask(1, &[session]).unwrap(), "it has not decided");
        assert!(ask(0, &[session]).unwrap(), "it began when the generation had begun");
        assert!(repository.abort(session).unwrap());
        assert!(!repository.abort(session).unwrap(), "it was given up before");
        if store.is_conditional() {
            assert!(ask(1, &[session]).unwrap());
        }
        // A listing left it out.
        for damaged in [false, true] {
            if damaged {
                store.delete(&layout::snapshot(id.0)).unwrap();
                store.create(&layout::snapshot(id.0), vec![0; 200]).unwrap();
            }
            let error = ask(1, &[id.0]).unwrap_err();
            assert_eq!((error.kind, &error.item), (Kind::Unavailable, &layout::snapshot(id.0)));
            assert!(error.message.contains("leaves it out"), "{error}");
            assert!(ask(0, &[id.0]).unwrap());
        }
        sweep(&repository, &[id]);
        assert!(!ask(1, &[id.0]).unwrap(), "another collector went on");
        assert!(ask(2, &[id.0]).is_err());
    }
}

#[test]
fn without_conditions_a_snapshot_of_a_session_that_was_given_up_counts() {
    for (store, repository, id) in repositories() {
        let ask = |generation| repository.require_slots(generation, &BTreeSet::new(), &[id.0]);
        assert_eq!(ask(1).unwrap(), store.is_conditional());
        assert!(ask(0).unwrap());
        store.delete(&layout::snapshot(id.0)).unwrap();
        assert!(ask(1).unwrap());
    }
}

#[test]
fn nothing_is_collected_when_what_is_listed_is_not_everything_and_why_is_told() {
    let [(_, repository, id), _] = repositories();
    let generations = repository.generations().unwrap();
    let told = |snapshots: &Snapshots| {
        let error = repository.require_checkpoint(&generations, snapshots).unwrap_err();
        assert_eq!(error.item, layout::snapshot(id.0));
        (error.kind, error.message)
    };
    let damaged = |kind| {
        let error = RepositoryError::new(kind, layout::snapshot(id.0), "is not as it was");
        told(&Snapshots { damaged: vec![(id, error)], ..Snapshots::default() })
    };
    assert!(repository.require_checkpoint(&generations, &Snapshots::default()).is_ok());
    let (kind, message) = damaged(Kind::Corrupt);
    assert_eq!(kind, Kind::Corrupt);
    assert!(message.starts_with("cannot be read (is not as it was)"), "{message}");
    assert!(damaged(Kind::NotFound).1.starts_with("cannot be read (is not as it was)"));
    for (kind, advice) in [(Kind::Newer, "a newer version"), (Kind::WrongKey, "the newest keys")] {
        let (found, message) = damaged(kind);
        assert_eq!(found, kind);
        assert!(message.starts_with("is not as it was") && message.contains(advice), "{message}");
    }
    assert_eq!(damaged(Kind::Unavailable), (Kind::Unavailable, "is not as it was".to_string()));
    let vanished = told(&Snapshots { vanished: vec![id], ..Snapshots::default() }).1;
    assert!(vanished.starts_with("was here before"), "{vanished}");
}

#[test]
fn what_the_last_sweep_let_live_must_be_listed_or_forgotten() {
    let [(_, repository, id), _] = repositories();
    sweep(&repository, &[id]);
    let generations = repository.generations().unwrap();
    let listed = repository.snapshots(&SilentMonitor).unwrap();
    assert!(repository.require_checkpoint(&generations, &listed).is_ok());
    let forgotten = Snapshots { tombs: [id].into(), ..Snapshots::default() };
    assert!(repository.require_checkpoint(&generations, &forgotten).is_ok());
    let error = repository.require_checkpoint(&generations, &Snapshots::default()).unwrap_err();
    assert!(error.message.starts_with("lives according to the last sweep"), "{error}");
}

#[test]
fn packs_of_the_newest_sweep_are_deleted_and_those_of_an_older_one_are_not() {
    let [(store, repository, id), _] = repositories();
    let packs: Vec<_> =
        repository.cache().packs().unwrap().iter().map(|(_, pack)| pack.id).collect();
    let made: BTreeSet<_> = repository.packs_of(id.0).unwrap().into_iter().collect();
    assert_eq!(made, packs.iter().copied().collect());
    let length = |at: usize| store.size(&layout::pack(packs[at])).unwrap();
    let before = repository.generations().unwrap();
    let generation = repository.condemn(&before, packs[..1].to_vec()).unwrap().unwrap();
    assert!(repository.condemn(&before, Vec::new()).unwrap().is_none(), "one is open");
    let published =
        repository.sweep(generation, None, packs[..1].to_vec(), vec![(id, None)]).unwrap();
    let bytes = length(0).unwrap();
    assert_eq!(repository.delete_swept(&published).unwrap(), (1, bytes));
    assert_eq!(repository.delete_swept(&published).unwrap(), (0, 0));
    assert!(length(0).is_none() && length(1).is_some());
    store.create(&layout::pack(packs[0]), vec![1; 9]).unwrap();
    sweep(&repository, &[id]);
    assert_eq!(repository.delete_swept(&published).unwrap(), (0, 0));
    assert!(length(0).is_some());
}

#[test]
fn who_published_and_when_is_told() {
    let [(_, repository, id), _] = repositories();
    sweep(&repository, &[id]);
    let publisher = repository.generations().unwrap().last.unwrap().sweep.publisher;
    assert_eq!((&*publisher.host, &*publisher.user), ("testhost", "tester"));
}

#[test]
fn a_reader_is_registered_while_it_reads() {
    for (_, repository, _) in repositories() {
        let reader = repository.register_reader(&SilentMonitor).unwrap();
        assert_eq!(repository.undecided_sessions().unwrap(), [reader]);
        repository.end_reader(Some(reader), &SilentMonitor);
        assert!(repository.undecided_sessions().unwrap().is_empty());
    }
}

#[test]
fn records_of_damage_go_with_the_pack_and_not_before() {
    for (store, repository, id) in repositories() {
        sweep(&repository, &[id]);
        let packs = repository.cache().packs().unwrap();
        let packs: Vec<_> = packs.iter().map(|(_, pack)| pack.id).take(2).collect();
        for pack in &packs {
            repository.record_damage(*pack, "a test", &[]).unwrap();
        }
        store.delete(&layout::pack(packs[0])).unwrap();
        let generations = repository.generations().unwrap();
        let listed = repository.snapshots(&SilentMonitor).unwrap();
        repository.clear_away(&generations, &listed).unwrap();
        let left = store.list(layout::DAMAGED).unwrap();
        let left: Vec<_> = left.iter().map(|object| object.name.clone()).collect();
        assert_eq!(left, [layout::damaged(packs[1])]);
    }
}

#[test]
fn what_is_cleared_away_is_of_sessions_that_have_decided_before_the_last_sweep() {
    for (store, repository, id) in repositories() {
        let (_, snapshot) = snapshots(&repository).pop().unwrap();
        let aborted = repository.register(Purpose::Write).unwrap();
        repository.abort(aborted).unwrap();
        let undecided = repository.register(Purpose::Write).unwrap();
        let generation = sweep(&repository, &[id]);
        let late = repository.register(Purpose::Write).unwrap();
        assert_eq!(late.generation, generation);
        repository.abort(late).unwrap();
        let writer = Writer::begin(&repository, false, &SilentMonitor).unwrap();
        writer.finish().unwrap();
        let live = writer.session();
        assert!(matches!(writer.commit(snapshot).unwrap(), Committed::Snapshot(_)));
        let client = open_quick(store.clone(), None);
        let generations = client.generations().unwrap();
        let listed = client.snapshots(&SilentMonitor).unwrap();
        let cleared = client.clear_away(&generations, &listed).unwrap();
        // Of the first backup, of the session that was aborted, and of the one that was aborted after the sweep.
        assert_eq!((cleared.sessions, cleared.aborts, cleared.snapshots), (3, 1, 0));
        let registered = |session| store.size(&layout::session(session)).unwrap().is_some();
        assert_eq!([id.0, aborted, late].map(registered), [false; 3]);
        assert_eq!([undecided, live].map(registered), [true; 2]);
        let abort = |session| match store.is_conditional() {
            true => layout::snapshot(session),
            false => layout::abort(session),
        };
        assert!(store.size(&abort(aborted)).unwrap().is_none());
        assert!(store.size(&abort(late)).unwrap().is_some());
    }
}

#[test]
fn of_sweeps_and_condemned_lists_the_last_sixteen_are_kept() {
    let [(_, repository, id), _] = repositories();
    for _ in 0..20 {
        sweep(&repository, &[id]);
    }
    let generations = repository.generations().unwrap();
    let listed = repository.snapshots(&SilentMonitor).unwrap();
    repository.clear_away(&generations, &listed).unwrap();
    let left = repository.generations().unwrap();
    let kept: BTreeSet<u32> = (5..=20).collect();
    assert_eq!((&left.sweeps, &left.condemned), (&kept, &kept));
}

#[test]
fn a_pack_that_is_gone_before_the_end_is_an_error_unless_the_session_was_given_up() {
    // What becomes of the session meanwhile, and whether what is missing is for the commit to find.
    type Meanwhile = fn(&Repository, SessionId);
    let cases: [(Meanwhile, bool); 3] = [
        (|_, _| {}, false),
        (|other, session| assert!(other.abort(session).unwrap()), true),
        (|other, _| assert_eq!(sweep(other, &[]), 1), true),
    ];
    for (meanwhile, is_left_to_the_commit) in cases {
        let store = Store::memory();
        let repository = create_quick(store.clone(), None);
        let writer = Writer::begin(&repository, false, &SilentMonitor).unwrap();
        let mut segments = writer.segments(ObjectKind::DataPack).unwrap();
        for number in 0..40 {
            segments.put(&noise(10_000, number)).unwrap();
        }
        segments.flush().unwrap();
        drop(segments);
        // Packs that are full are on their way.
        let listed = || store.list(layout::PACKS).unwrap();
        for _ in 0..2000 {
            if !listed().is_empty() {
                break;
            }
            repository.environment().clock.sleep(std::time::Duration::from_millis(5));
        }
        meanwhile(&open_quick(store.clone(), None), writer.session());
        for pack in listed() {
            store.delete(&pack.name).unwrap();
        }
        let finished = writer.finish();
        assert_eq!(finished.is_ok(), is_left_to_the_commit, "{finished:?}");
        if let Err(error) = finished {
            assert!(error.message.contains("not in the store's listing"), "{error}");
        }
    }
}

#[test]
fn an_index_object_is_merged_when_a_quarter_of_its_packs_are_gone() {
    let store = Store::memory();
    let repository = create_quick(store.clone(), None);
    let folder = tempfile::tempdir().unwrap();
    write_files(folder.path(), 0..20, 1);
    back_up(&repository, folder.path());
    assert_eq!(store.list(layout::INDEX).unwrap().len(), 1);
    let packs: Vec<_> =
        repository.cache().packs().unwrap().iter().map(|(_, pack)| pack.id).collect();
    assert!(packs.len() > 6);
    for gone in 0..=packs.len() / 2 {
        let store = copy_of(&store);
        let client = open_quick(store.clone(), None);
        let before = client.generations().unwrap();
        let dropped = packs[..gone].to_vec();
        let generation = client.condemn(&before, dropped.clone()).unwrap().unwrap();
        client.sweep(generation, None, dropped.clone(), Vec::new()).unwrap();
        for pack in &dropped {
            store.delete(&layout::pack(*pack)).unwrap();
        }
        let merged = client.merge_indexes(&SilentMonitor).unwrap();
        let is_worth_it = gone * 4 >= packs.len();
        assert_eq!(merged.removed, u64::from(is_worth_it), "{gone} of {}", packs.len());
        assert_eq!(merged.bytes_written > 0, is_worth_it);
    }
}

#[test]
fn a_slot_that_is_not_as_it_was_seen_or_is_missed_once_is_damaged_and_one_of_the_swept_is_nothing()
{
    let [(store, repository, id), _] = repositories();
    let seen = |repository: &Repository| repository.snapshots(&SilentMonitor).unwrap();
    assert_eq!(seen(&repository).all.len(), 1);
    let control = FaultControl::new();
    let client = open_quick(store.clone().with_faults(control.clone()), None);
    control.miss_read(control.reads());
    let missed = seen(&client);
    assert_eq!((missed.all.len(), missed.damaged.len()), (0, 1), "it is listed all the same");
    assert_eq!(seen(&client).all.len(), 1);
    let reads = control.reads();
    assert_eq!(seen(&client).all.len(), 1);
    assert_eq!(control.reads(), reads, "it was seen");
    let name = layout::snapshot(id.0);
    let longer = [&store.get(&name).unwrap()[..], &[0]].concat();
    store.delete(&name).unwrap();
    store.create(&name, longer).unwrap();
    assert_eq!(seen(&repository).damaged.len(), 1);
    sweep(&repository, &[]);
    let client = open_quick(store, None);
    let swept = seen(&client);
    assert_eq!((swept.damaged.len(), swept.swept), (0, vec![id]));
}

#[test]
fn a_pack_that_no_listing_tells_of_and_that_could_not_be_read_is_not_swept() {
    let [(store, repository, id), _] = repositories();
    let wanted = contents(&repository, &snapshots(&repository)[0].1);
    // What a snapshot needs by now was condemned before.
    let packs = repository.cache().packs().unwrap();
    let packs = packs.into_iter().map(|(_, pack)| pack.id).collect();
    let before = repository.generations().unwrap();
    repository.condemn(&before, packs).unwrap().unwrap();
    for call in 0.. {
        let store = copy_of(&store);
        let faults = FaultControl::new();
        for index in store.list(layout::INDEX).unwrap() {
            faults.leave_out(&index.name);
        }
        let client = open_quick(store.clone().with_faults(faults.clone()), None);
        let failing = faults.calls() + call;
        faults.fail_at(failing);
        let ended = prune(&client, &tight(), &SilentMonitor);
        let fresh = open_quick(store, None);
        let (found, snapshot) = snapshots(&fresh).remove(0);
        assert_eq!(found, id);
        assert_eq!(contents(&fresh, &snapshot), wanted, "call {call}: {ended:?}");
        if faults.calls() <= failing {
            assert!(ended.is_ok() && call > 20, "{ended:?}");
            break;
        }
    }
}
