//! One seed from its beginning to its end.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use aumbry::codec::kdf::Argon2Cost;
use aumbry::format::config::Settings;
use aumbry::id::SnapshotId;
use aumbry::monitor::SilentMonitor;
use aumbry::ops::OpsError;
use aumbry::ops::check::{CheckOptions, DataSelection, check};
use aumbry::ops::prune::{PruneOptions, prune};
use aumbry::ops::rekey::{Change, RekeyOptions, plan, rekey};
use aumbry::ops::repair::{RepairOptions, repair_index};
use aumbry::repository::chance::Chance;
use aumbry::repository::key_updates::EpochUse;
use aumbry::repository::keys::Credential;
use aumbry::repository::planted::Step;
use aumbry::repository::{CreateOptions, Environment, Repository};
use aumbry::store::{Store, layout};

use super::client::{Client, expected, read, thorough};
use super::dice::{Dice, Odds};
use super::service::SimulatedService;
use super::world::{Actor, Counts, World, become_actor};

type Job = Box<dyn FnOnce() + Send>;

/// Threads for clients, made once: each is all of a pool of rayon's, so that whatever a client does is done by its
/// own thread.
pub struct Stage {
    threads: Vec<(Sender<Job>, JoinHandle<()>)>,
}

impl Stage {
    /// With room for every client.
    pub fn new() -> Self {
        let threads = (0..4).map(|_| {
            let (sender, receiver): (_, Receiver<Job>) = channel();
            let thread = std::thread::spawn(move || {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(1).use_current_thread();
                let _pool = pool.build().expect("this thread has no pool yet");
                receiver.iter().for_each(|job| job());
            });
            (sender, thread)
        });
        Stage { threads: threads.collect() }
    }

    /// Does each piece of work on a thread of its own, and waits for all.
    fn perform<T: Send + 'static>(&self, work: Vec<Box<dyn FnOnce() -> T + Send>>) -> Vec<T> {
        let results: Vec<Receiver<T>> = work
            .into_iter()
            .zip(&self.threads)
            .map(|(work, (thread, _))| {
                let (sender, receiver) = channel();
                let job = move || {
                    let _ = sender.send(work());
                };
                thread.send(Box::new(job)).expect("the threads live as long as the stage");
                receiver
            })
            .collect();
        results.into_iter().map(|result| result.recv().expect("no work panics")).collect()
    }
}

/// What became of a seed.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// What should never have been.
    pub violation: Option<String>,
    /// What follows from every call in its order.
    pub trace: [u8; 32],
    /// How often what happened.
    pub counts: Counts,
    /// Everything that happened, where that was asked for.
    pub log: String,
}

/// How to run a seed.
#[derive(Debug, Clone, Copy, Default)]
pub struct Manner {
    /// Keep a log.
    pub is_told: bool,
    /// A step of the protocol that everybody leaves out.
    pub left_out: Option<Step>,
    /// A folder whose listings are worse than the engine gets along with; empty: none.
    pub beyond: &'static str,
}

fn environment(world: &Arc<World>, seed: u64) -> Environment {
    Environment {
        clock: world.clock(usize::MAX),
        chance: Chance::seeded(seed),
        cache_folder: None,
        host: "onlooker".into(),
        user: "tester".into(),
    }
}

/// Makes the repository of a world that has no faults yet.
pub fn create(world: &Arc<World>, odds: &Odds, seed: u64) -> Repository {
    let operator = SimulatedService::operator(world.clone());
    let store = Store::direct(operator, "simulated", odds.lists_cheaply);
    let store = if odds.is_conditional { store } else { store.without_conditions() };
    let settings = Settings {
        chunk_minimum: 2048,
        chunk_average: 4096,
        chunk_maximum: 16384,
        segment_length: 4096,
        pack_length: 64 << 10,
        ..Settings::DEFAULT
    };
    let options = CreateOptions {
        settings,
        cost: Some(Argon2Cost::FLOOR),
        label: String::new(),
        cuts_like: None,
    };
    let credential = credential();
    let environment = environment(world, Dice::new(seed, 1).next());
    Repository::create(store, &options, &credential, environment).expect("there are no faults yet")
}

#[cfg(feature = "planted")]
fn leave_out(step: Option<Step>) {
    aumbry::repository::planted::leave_out(step);
}

#[cfg(not(feature = "planted"))]
fn leave_out(step: Option<Step>) {
    assert_eq!(step, None, "only with the feature `planted`");
}

/// Runs a seed.
pub fn run(stage: &Stage, seed: u64, manner: Manner) -> Outcome {
    let mut dice = Dice::new(seed, 0);
    let odds = Odds { beyond: manner.beyond, ..Odds::draw(&mut dice) };
    let world = Arc::new(World::new(dice, odds.clone(), manner.is_told));
    world.state().tell(|| format!("{odds:?}"));
    let clients = as_onlooker(stage, {
        let (world, odds) = (world.clone(), odds.clone());
        move || {
            let repository = create(&world, &odds, seed);
            world.state().learn_keys(repository.sealer());
            let store = repository.store();
            let client =
                |number| Client::new(number, seed, world.clone(), odds.clone(), store.clone());
            (0..odds.clients).map(client).collect::<Vec<_>>()
        }
    });
    let work = clients.into_iter().enumerate().map(|(number, mut client)| {
        let world = world.clone();
        let work: Box<dyn FnOnce() -> Client + Send> = Box::new(move || {
            become_actor(Actor::Client(number));
            leave_out(manner.left_out);
            world.begin(number);
            client.run();
            world.end(number);
            leave_out(None);
            become_actor(Actor::Stranger);
            client
        });
        work
    });
    let clients = stage.perform(work.collect());
    let trace = world.state().trace();
    if !world.state().is_over() {
        let world = world.clone();
        as_onlooker(stage, move || {
            leave_out(manner.left_out);
            let ended = catch_unwind(AssertUnwindSafe(|| end_in_peace(&world, clients)));
            leave_out(None);
            let violation = match ended {
                Ok(Ok(())) => return,
                Ok(Err(violation)) => violation,
                Err(_) => "something panicked".into(),
            };
            world.state().violate(format!("after the faults: {violation}"));
        });
    }
    let mut state = world.state();
    let steps = state.steps();
    state.counts.add("calls", steps);
    Outcome {
        violation: state.violation.clone(),
        trace,
        counts: state.counts.clone(),
        log: state.take_log(),
    }
}

fn as_onlooker<T: Send + 'static>(stage: &Stage, work: impl FnOnce() -> T + Send + 'static) -> T {
    let work = move || {
        become_actor(Actor::Onlooker);
        let result = work();
        become_actor(Actor::Stranger);
        result
    };
    stage.perform(vec![Box::new(work)]).pop().expect("one piece of work has one result")
}

/// After collections, nothing needs the data keys of old epochs, but what an upload left half done, and sessions that
/// nobody had a reason to give up.
fn drop_old_keys(world: &Arc<World>, repository: &Repository) -> Result<(), String> {
    let options = RekeyOptions { change: Change::DropOld, remove: Vec::new() };
    let plan = plan(repository, &options, &SilentMonitor).map_err(|error| error.to_string())?;
    let is_torn = world.state().torn.iter().any(|name| name.starts_with(layout::PACKS));
    let is_needed = |needs: &EpochUse| needs.packs > 0 || !needs.unreadable.is_empty();
    if !is_torn && let Some((epoch, needs)) = plan.needed.iter().find(|(_, needs)| is_needed(needs))
    {
        return Err(format!("after three collections epoch {epoch} is needed: {needs:?}"));
    }
    if !plan.is_empty() {
        rekey(repository, &plan).map_err(|error| error.to_string())?;
        world.state().counts.add("old keys dropped", 1);
    }
    Ok(())
}

/// Forgets what a lost sweep let go, and the collector therefore misses, as its error says: one snapshot, or all that
/// nobody counts on.
fn forget_as_told(world: &World, repository: &Repository, error: &OpsError) -> bool {
    let OpsError::Repository(error) = error else { return false };
    if !world.state().lost_sweep || !error.message.contains("aumbry forget") {
        return false;
    }
    let mut ids: Vec<_> = match layout::parse_snapshot(&error.item) {
        Some(session) => vec![SnapshotId(session)],
        None => match repository.snapshots(&SilentMonitor) {
            Ok(found) => found.all.iter().map(|(id, _)| *id).collect(),
            Err(_) => return false,
        },
    };
    let state = world.state();
    let is_kept =
        |id: &SnapshotId| state.promises.reported.get(id).is_some_and(|promise| promise.is_kept);
    ids.retain(|id| !is_kept(id));
    drop(state);
    world.state().counts.add("forgotten as told", ids.len() as u64);
    !ids.is_empty() && repository.forget(&ids, "as told").is_ok()
}

/// To repair everything that needs nobody's word.
pub fn repair_options() -> RepairOptions {
    RepairOptions {
        dry_run: false,
        read_data: false,
        forget_originals: false,
        no_collector_runs: false,
        program: "simulation".into(),
        memory_budget: 64 << 20,
    }
}

/// What opens every repository here.
pub fn credential() -> Credential {
    Credential::Recovery([1; 32].into())
}

/// After the faults end: writers commit, garbage goes to zero within three runs of collection, and everything restores.
fn end_in_peace(world: &Arc<World>, mut clients: Vec<Client>) -> Result<(), String> {
    world.calm_down();
    world.state().look_at_all();
    for client in &mut clients {
        client
            .make_fit()
            .map_err(|error| format!("what is damaged cannot be repaired: {error}"))?;
    }
    for client in &mut clients {
        let Some(repository) = client.repository.take() else { continue };
        let backed_up = client.back_up(&repository);
        client.repository = Some(repository);
        backed_up.map_err(|error| format!("a writer cannot commit: {error}"))?;
    }
    // Where one client collects, it is the first.
    let count = if world.is_conditional() { clients.len() } else { 1 };
    let collectors = clients.iter().take(count);
    let mut collectors = collectors.filter_map(|client| client.repository.as_ref()).cycle();
    let mut prune_once = |options: &PruneOptions| {
        let repository = collectors.next().ok_or("nobody is there")?;
        let summary = loop {
            let error = match prune(repository, options, &SilentMonitor) {
                Ok(summary) => break summary,
                Err(error) => error,
            };
            if !forget_as_told(world, repository, &error) {
                return Err(format!("a collector cannot collect: {error}"));
            }
        };
        world.state().tell(|| format!("{summary:?}"));
        Ok::<_, String>(summary)
    };
    for _ in 0..3 {
        prune_once(&thorough())?;
    }
    let left = prune_once(&PruneOptions { dry_run: true, ..thorough() })?;
    let plan = left.plan.ok_or("an idle collection is held up")?;
    if left.unused_before > 0 || !plan.drop.is_empty() || !plan.repack.is_empty() {
        return Err(format!("after three collections there is garbage: {plan:?}"));
    }
    let state = world.state();
    let packs = state.objects().keys().filter(|name| name.starts_with(layout::PACKS));
    let packs = packs.count();
    if left.packs_before != packs as u64 {
        return Err(format!("{packs} packs are there, and {} are known", left.packs_before));
    }
    drop(state);

    let first = clients.iter().find_map(|client| client.repository.as_ref()).ok_or("nobody")?;
    if world.state().lost_sweep {
        // What it dropped may be there again, and is in no index object then.
        let repaired = repair_index(first, &repair_options(), &SilentMonitor);
        repaired.map_err(|error| error.to_string())?;
    }
    drop_old_keys(world, first)?;
    let fresh = Repository::open(first.store().clone(), &credential(), environment(world, 1));
    let fresh = fresh.map_err(|error| error.to_string())?;
    world.state().learn_keys(fresh.sealer());
    world.state().look_at_all();
    let snapshots = fresh.snapshots(&SilentMonitor).map_err(|error| error.to_string())?;
    fresh.refresh_index(&SilentMonitor).map_err(|error| error.to_string())?;
    for (id, snapshot) in &snapshots.all {
        let restored = read(&fresh, snapshot).map_err(|error| format!("{id}: {error}"))?;
        if let Some(promise) = world.state().promises.reported.get(id)
            && restored != expected(&promise.folder)
        {
            return Err(format!("snapshot {id} restores to something else"));
        }
    }
    let state = world.state();
    let mut kept = state.promises.reported.iter().filter(|(_, promise)| promise.is_kept);
    let is_listed = |id| snapshots.all.iter().any(|(listed, _)| listed == id);
    if let Some((id, _)) = kept.find(|(id, _)| !is_listed(*id)) {
        return Err(format!("snapshot {id} is not listed"));
    }
    drop(state);
    let options = CheckOptions {
        data: DataSelection::All,
        restore_sample: 0,
        share_ledger: false,
        memory_budget: 64 << 20,
    };
    let summary = check(&fresh, &options, &SilentMonitor).map_err(|error| error.to_string())?;
    // What the upload of an index object left half done stays until somebody repairs it, and hits nothing.
    let is_torn = |item: &str| {
        let state = world.state();
        let mut torn = state.torn.iter().filter(|name| name.starts_with(layout::INDEX));
        torn.any(|name| item.starts_with(name))
    };
    match summary.damage.iter().find(|damage| !is_torn(&damage.item) || damage.hit_count > 0) {
        None => Ok(()),
        Some(damage) => Err(format!("check finds {}: {}", damage.item, damage.message)),
    }
}
