//! Listings that leave something out, one at a time: what is there is found all the same, or nothing is collected.

use std::sync::Arc;

use aumbry::format::session::Purpose;
use aumbry::id::SnapshotId;
use aumbry::monitor::SilentMonitor;
use aumbry::ops::prune::plan::{PlanLimits, UnusedLimit};
use aumbry::ops::prune::{PruneOptions, prune};
use aumbry::ops::rekey::{Change, RekeyOptions, plan, rekey};
use aumbry::repository::chance::Chance;
use aumbry::repository::{Environment, Repository};
use aumbry::store::layout;

use super::client::{Client, thorough};
use super::dice::{Dice, Odds};
use super::run::{create, credential};
use super::world::{Actor, World, become_actor};

/// A repository of a world without faults, and a client that writes to it.
struct Fixture {
    world: Arc<World>,
    repository: Repository,
    writer: Client,
}

impl Fixture {
    fn new() -> Self {
        become_actor(Actor::Onlooker);
        let mut dice = Dice::new(1, 0);
        let odds = Odds { is_conditional: true, contents: 9, ..Odds::draw(&mut dice) };
        let world = Arc::new(World::new(dice, odds.clone(), false));
        let repository = create(&world, &odds, 1);
        world.calm_down();
        world.state().learn_keys(repository.sealer());
        let store = repository.store().clone();
        let writer = Client::new(0, 1, world.clone(), odds, store);
        Fixture { world, repository, writer }
    }

    /// A client that knows nothing.
    fn client(&self) -> Repository {
        let seed = u64::from_le_bytes(self.repository.environment().chance.bytes().unwrap());
        let environment = Environment {
            clock: self.world.clock(usize::MAX),
            chance: Chance::seeded(seed),
            cache_folder: None,
            host: "another".into(),
            user: "tester".into(),
        };
        Repository::open(self.repository.store().clone(), &credential(), environment).unwrap()
    }

    fn back_up(&mut self) -> SnapshotId {
        let before: Vec<_> = self.world.state().promises.reported.keys().copied().collect();
        self.writer.back_up(&self.repository).unwrap();
        let state = self.world.state();
        *state.promises.reported.keys().find(|id| !before.contains(id)).unwrap()
    }

    fn forget(&self, id: SnapshotId) {
        self.world.state().with_promise(id, |promise| promise.is_kept = false);
        self.repository.forget(&[id], "").unwrap();
    }

    fn holds(&self) {
        let mut state = self.world.state();
        state.look_at_all();
        assert_eq!(state.violation, None);
    }
}

#[test]
fn who_registers_finds_a_generation_that_the_listing_leaves_out() {
    let fixture = Fixture::new();
    let collector = fixture.client();
    let generations = collector.generations().unwrap();
    let first = collector.condemn(&generations, Vec::new()).unwrap().unwrap();
    fixture.world.hide("gc/");
    assert_eq!(fixture.client().register(Purpose::Write).unwrap().generation, first);
    // Swept, and another one begun: the sweep in between is followed, whatever is listed.
    let open = collector.generations().unwrap();
    let sweep = collector.sweep(first, open.last.as_ref(), Vec::new(), Vec::new()).unwrap();
    let generations = collector.generations().unwrap();
    assert_eq!(generations.last.as_ref().map(|last| last.hash), Some(sweep.hash));
    let second = collector.condemn(&generations, Vec::new()).unwrap().unwrap();
    for hidden in ["gc/", "gc/00000001.sweep", "gc/00000002.condemned"] {
        fixture.world.hide(hidden);
        let shown = fixture.client().generations().unwrap();
        assert_eq!((shown.newest, shown.swept()), (second, first), "without {hidden}");
        assert_eq!(shown.last.map(|last| last.hash), Some(sweep.hash), "without {hidden}");
    }
}

#[test]
fn a_collector_stops_when_the_listing_leaves_out_a_snapshot_that_no_sweep_lists_yet() {
    let mut fixture = Fixture::new();
    let (garbage, kept) = (fixture.back_up(), fixture.back_up());
    // Clears away registrations, but not the one of what only a listing tells of.
    prune(&fixture.client(), &thorough(), &SilentMonitor).unwrap();
    fixture.forget(garbage);
    fixture.world.hide(&layout::snapshot(kept.0));
    let error = prune(&fixture.client(), &thorough(), &SilentMonitor).unwrap_err();
    assert!(error.to_string().contains("leaves it out"), "{error}");
    fixture.holds();
    fixture.world.hide("nothing");
    prune(&fixture.client(), &thorough(), &SilentMonitor).unwrap();
    fixture.holds();
}

#[test]
fn packs_that_the_listing_leaves_out_are_neither_missed_nor_dropped() {
    let mut fixture = Fixture::new();
    let garbage = fixture.back_up();
    fixture.back_up();
    fixture.forget(garbage);
    fixture.world.hide("packs/");
    // Without copying: whoever uploads wants to see it listed.
    let limits = PlanLimits { max_unused: UnusedLimit::Unlimited, ..thorough().limits };
    let options = PruneOptions { limits, ..thorough() };
    let summary = prune(&fixture.client(), &options, &SilentMonitor).unwrap();
    assert!(summary.packs_before > 0 && summary.plan.is_some_and(|plan| !plan.drop.is_empty()));
    fixture.holds();
}

#[test]
fn an_old_epoch_is_needed_by_packs_that_the_listing_leaves_out() {
    let mut fixture = Fixture::new();
    fixture.back_up();
    let client = fixture.client();
    let change = |change| RekeyOptions { change, remove: Vec::new() };
    let new_epoch = plan(&client, &change(Change::NewEpoch), &SilentMonitor).unwrap();
    rekey(&client, &new_epoch).unwrap();
    fixture.world.hide("packs/");
    let drop_old = plan(&fixture.client(), &change(Change::DropOld), &SilentMonitor).unwrap();
    assert_eq!(drop_old.dropped, Vec::<u32>::new());
    assert!(drop_old.needed[0].1.packs > 0);
}
