//! The protocol of writers and collectors as a model, checked over every order of its steps within stated bounds.
//!
//! `docs/design/collection.md` says what is modelled and what is not. Each test prints how many states it saw:
//! `cargo test --test protocol -- --nocapture`; with `--include-ignored` in larger bounds, which takes minutes.

#![allow(clippy::panic, reason = "what tests share fails as a test does")]

#[path = "protocol/collector.rs"]
mod collector;
#[path = "protocol/merging.rs"]
mod merging;
#[path = "protocol/model.rs"]
mod model;
#[path = "protocol/rules.rs"]
mod rules;
#[path = "protocol/state.rs"]
mod state;
#[path = "protocol/undelete.rs"]
mod undelete;
#[path = "protocol/writer.rs"]
mod writer;

use std::fmt::Debug;
use std::hash::Hash;

use merging::{BrokenMerge, FOUND, KEPT, Merging, NOT_BELIEVED};
use model::{GONE, HELD, RESTORABLE, STAYS};
use rules::{A, AB, B, Bounds, Broken, Class, Protocol};
use stateright::{Checker, Expectation, HasDiscoveries, Model};

/// Two writers with two sessions each, one generation, pages, a commit that may be delivered twice.
const COMMIT: Bounds = Bounds {
    writers: &[(&[A], 2), (&[A], 2)],
    pages: true,
    forgets: 1,
    late_deliveries: 1,
    ..Bounds::SMALL
};
/// Nothing but a pack at first, so that what a writer saved is all that is live.
const FORGET: Bounds = Bounds { snapshots: &[], ..COMMIT };
/// A fenced writer that sleeps while its ABORT is removed, through two generations.
const REMOVAL: Bounds = Bounds {
    packs: &[A, A],
    writers: &[(&[A], 2)],
    generations: 2,
    forgets: 1,
    removes_sessions: true,
    removes_generations: true,
    ..Bounds::SMALL
};
/// Two collectors that take over from each other, beside two writers.
const TAKE_OVER: Bounds =
    Bounds { writers: &[(&[A], 2), (&[A], 1)], collectors: &[1, 1], forgets: 1, ..Bounds::SMALL };
/// A collector that sleeps before it condemns, while another ends two generations and removes the first.
const SLEEP_BEFORE_CONDEMNING: Bounds = Bounds {
    packs: &[A, A, A],
    snapshots: &[],
    collectors: &[1, 2],
    generations: 2,
    removes_generations: true,
    ..Bounds::SMALL
};
/// The same with a collector that sleeps before it sweeps.
const SLEEP_BEFORE_SWEEPING: Bounds = Bounds {
    packs: &[A, B],
    snapshots: &[],
    writers: &[(&[A], 2)],
    repeats: true,
    collectors: &[1, 2],
    generations: 2,
    forgets: 1,
    removes_generations: true,
    ..Bounds::SMALL
};
/// Forgetting and bringing back beside two collectors.
const UNDELETE: Bounds = Bounds {
    writers: &[],
    collectors: &[1, 2],
    forgets: 1,
    undeletes: true,
    removes_sessions: true,
    ..Bounds::SMALL
};
/// The same with one collector and two orders to forget, one of whose tombs may be delivered late or a second time.
const LATE_TOMB: Bounds = Bounds { collectors: &[2], forgets: 2, late_deliveries: 1, ..UNDELETE };
/// Writers with caches, one of which sleeps between its packs and its index object for two generations.
const CACHES: Bounds = Bounds {
    packs: &[A, A],
    writers: &[(&[B], 1), (&[A, B], 2)],
    repeats: true,
    caches: true,
    generations: 2,
    removes_generations: true,
    ..Bounds::SMALL
};
/// Writers that guess the generation, and go by what they see when they look after registering.
const GUESSES: Bounds =
    Bounds { guesses: true, writers: &[(&[A], 2)], generations: 2, forgets: 1, ..REMOVAL };
/// The same with caches.
const GUESSES_AND_CACHES: Bounds = Bounds { guesses: true, ..CACHES };
/// A partly used pack of two blobs, copied and condemned by two collectors, and a writer that needs any of them.
const REPACK: Bounds = Bounds {
    packs: &[AB],
    snapshots: &[A, B],
    writers: &[(&[A, B, AB], 1)],
    repacks: true,
    collectors: &[1, 1],
    forgets: 1,
    removes_sessions: true,
    ..Bounds::SMALL
};
/// The second listing of slots leaves out what the first sweep lists.
const SHORT_LISTING: Bounds = Bounds {
    packs: &[A, B],
    writers: &[(&[B], 1)],
    generations: 2,
    short_listings: true,
    ..Bounds::SMALL
};
/// Without create-if-absent: two writers and a maintainer that starts again once.
const MAINTAINER: Bounds =
    Bounds { writers: &[(&[A], 2), (&[A], 1)], restarts: 1, forgets: 1, ..Bounds::SMALL };
/// The same with two generations, removal and a commit that may be delivered twice.
const MAINTAINER_REMOVAL: Bounds = Bounds {
    writers: &[(&[A], 2)],
    generations: 2,
    restarts: 1,
    forgets: 1,
    late_deliveries: 1,
    removes_sessions: true,
    removes_generations: true,
    ..Bounds::SMALL
};

/// With create-if-absent.
const fn atomic(bounds: Bounds) -> Protocol {
    Protocol { class: Class::CreateIfAbsent, broken: None, bounds }
}

/// Without.
const fn plain(bounds: Bounds) -> Protocol {
    Protocol { class: Class::WriteThenRead, broken: None, bounds }
}

/// Looks at every state. Nothing that must hold is violated, and everything that should happen does.
fn assert_holds<M>(name: &str, model: M)
where
    M: Model + Clone + Send + Sync + 'static,
    M::State: Clone + Debug + Hash + PartialEq + Send + Sync + 'static,
    M::Action: Clone + Debug + PartialEq,
{
    let failures = HasDiscoveries::AnyFailures;
    let checker = model.clone().checker().threads(2).finish_when(failures).spawn_bfs().join();
    let (states, depth) = (checker.unique_state_count(), checker.max_depth());
    println!("{name}: {states} states, {depth} deep");
    let discoveries = checker.discoveries();
    for property in model.properties() {
        match (property.expectation, discoveries.get(property.name)) {
            (Expectation::Always, Some(path)) => {
                let trace = path.clone().into_vec();
                let steps: String = trace
                    .iter()
                    .map(|(state, action)| format!("{action:?}\n{state:?}\n"))
                    .collect();
                panic!("{name}: not always: {}\n{steps}", property.name)
            }
            (Expectation::Sometimes, None) => panic!("{name}: never: {}", property.name),
            _ => {}
        }
    }
    assert!(checker.is_done());
}

/// Finds the shortest way to a violation, which must be of this property and have so many steps.
fn assert_caught<M>(name: &str, model: M, property: &'static str, steps: usize) -> Option<String>
where
    M: Model + Clone + Send + Sync + 'static,
    M::State: Clone + Debug + Hash + PartialEq + Send + Sync + 'static,
    M::Action: Clone + Debug + PartialEq,
{
    let failures = HasDiscoveries::AnyFailures;
    let checker = model.clone().checker().finish_when(failures).spawn_bfs().join();
    let discoveries = checker.discoveries();
    let found = model
        .properties()
        .into_iter()
        .filter(|property| property.expectation == Expectation::Always)
        .find_map(|property| {
            let path = discoveries.get(property.name)?.clone();
            Some((property.name, path.into_actions().len()))
        });
    println!("{name}: {found:?} after {} states", checker.unique_state_count());
    (found != Some((property, steps))).then(|| format!("{name}: {found:?}"))
}

#[test]
fn the_protocol_holds() {
    assert_holds("commit", atomic(COMMIT));
    assert_holds("forget", atomic(FORGET));
    assert_holds("removal", atomic(REMOVAL));
    assert_holds("take-over", atomic(TAKE_OVER));
    assert_holds("sleep before condemning", atomic(SLEEP_BEFORE_CONDEMNING));
    assert_holds("sleep before sweeping", atomic(SLEEP_BEFORE_SWEEPING));
    assert_holds("undelete", atomic(UNDELETE));
    assert_holds("late tomb", atomic(LATE_TOMB));
    assert_holds("repack", atomic(REPACK));
    assert_holds("short listing", atomic(SHORT_LISTING));
    assert_holds("caches", atomic(CACHES));
    assert_holds("guesses", atomic(GUESSES));
    assert_holds("guesses and caches", atomic(GUESSES_AND_CACHES));
}

#[test]
fn the_protocol_without_create_if_absent_holds() {
    assert_holds("maintainer", plain(MAINTAINER));
    assert_holds("maintainer, removal", plain(MAINTAINER_REMOVAL));
    assert_holds("maintainer, guesses", plain(Bounds { guesses: true, ..MAINTAINER }));
}

#[test]
fn merging_index_objects_holds() {
    assert_holds("merging", Merging { broken: None });
}

#[test]
fn every_weakened_protocol_is_caught() {
    let cases = [
        (Broken::TimerInsteadOfWaiting, atomic(COMMIT), STAYS, 24),
        (Broken::AnyNewSnapshotEndsTheWait, atomic(COMMIT), STAYS, 24),
        (Broken::SessionsListedBeforePublishing, atomic(COMMIT), STAYS, 22),
        (Broken::PacksLearntBeforeRegistering, atomic(COMMIT), STAYS, 21),
        (Broken::GenerationNotReadAgain, atomic(COMMIT), STAYS, 26),
        (Broken::CondemnedPacksCountedOn, atomic(COMMIT), HELD, 22),
        (Broken::AlreadyThereTakenForSuccess, atomic(COMMIT), STAYS, 19),
        (Broken::NotMarkedAgain, atomic(COMMIT), RESTORABLE, 23),
        (Broken::ForgetDeletesSnapshot, atomic(FORGET), GONE, 13),
        (Broken::SweepNotCheckedAfterCommit, atomic(REMOVAL), STAYS, 21),
        (Broken::LiveListIgnored, atomic(REMOVAL), RESTORABLE, 21),
        (Broken::GenerationsOverlap, atomic(SLEEP_BEFORE_CONDEMNING), HELD, 20),
        (Broken::FreedNumberCounts, atomic(SLEEP_BEFORE_CONDEMNING), HELD, 39),
        (Broken::FreedNumberCounts, atomic(SLEEP_BEFORE_SWEEPING), HELD, 40),
        (Broken::GapInSweepsIgnored, atomic(CACHES), HELD, 37),
        (Broken::NewIndexObjectsBelieved, atomic(CACHES), HELD, 43),
        (Broken::CheckpointNotChecked, atomic(SHORT_LISTING), STAYS, 32),
        (Broken::UndeleteWithoutSession, atomic(UNDELETE), STAYS, 18),
        (Broken::UndeleteReportedWhenFenced, atomic(UNDELETE), STAYS, 21),
        (Broken::UndeleteWhileOpen, atomic(UNDELETE), STAYS, 20),
        (Broken::UndeleteNotChecked, atomic(UNDELETE), STAYS, 22),
        (Broken::TombsNotMarked, atomic(LATE_TOMB), STAYS, 16),
        (Broken::NextTombNotMarked, atomic(LATE_TOMB), STAYS, 16),
        (Broken::TombNumberUsedAgain, atomic(LATE_TOMB), GONE, 16),
        (Broken::AbortNotRead, plain(MAINTAINER), STAYS, 21),
        (Broken::FencedSnapshotsNotMarked, plain(MAINTAINER), STAYS, 21),
        (Broken::TimerInsteadOfWaiting, plain(MAINTAINER), STAYS, 20),
        (Broken::SweepNotCheckedAfterCommit, plain(MAINTAINER_REMOVAL), STAYS, 22),
    ];
    let wrong: Vec<String> = cases
        .into_iter()
        .filter_map(|(broken, protocol, property, steps)| {
            let name = format!("{broken:?}, {:?}", protocol.class);
            let weakened = Protocol { broken: Some(broken), ..protocol };
            assert_caught(&name, weakened, property, steps)
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_weakened_merge_is_caught() {
    let cases = [
        (BrokenMerge::OldDeletedFirstAndUnindexedAbsent, FOUND, 13),
        (BrokenMerge::UnindexedAbsent, FOUND, 14),
        (BrokenMerge::UnindexedIsGarbage, KEPT, 12),
        (BrokenMerge::IndexBelieved, NOT_BELIEVED, 11),
    ];
    let wrong: Vec<String> = cases
        .into_iter()
        .filter_map(|(broken, property, steps)| {
            let weakened = Merging { broken: Some(broken) };
            assert_caught(&format!("{broken:?}"), weakened, property, steps)
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What takes a minute or more and up to a gigabyte each.
#[test]
#[ignore = "larger than continuous integration has time for"]
fn the_protocol_holds_in_larger_bounds() {
    let removes = Bounds { removes_sessions: true, removes_generations: true, ..Bounds::SMALL };
    let two = Bounds { packs: &[A, A], forgets: 1, ..removes };
    assert_holds("commit, removal", atomic(Bounds { removes_sessions: true, ..COMMIT }));
    let collectors =
        Bounds { writers: &[(&[A], 2)], collectors: &[2, 2], late_deliveries: 1, ..two };
    assert_holds("two collectors, two rounds", atomic(collectors));
    let beside = Bounds { forgets: 2, collectors: &[1, 1], writers: &[(&[A], 1)], ..UNDELETE };
    assert_holds("undelete beside a writer", atomic(beside));
    let maintainer =
        Bounds { pages: true, late_deliveries: 1, removes_sessions: true, ..MAINTAINER };
    assert_holds("maintainer, pages", plain(maintainer));
}
