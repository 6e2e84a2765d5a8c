//! A client: one machine that backs up, restores, forgets and collects, is stopped and starts again.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use aumbry::format::session::Purpose;
use aumbry::format::snapshot::Snapshot;
use aumbry::id::{BlobId, SnapshotId};
use aumbry::monitor::SilentMonitor;
use aumbry::ops::OpsError;
use aumbry::ops::backup::{BackupOptions, ChangeDetection, Deltas, backup};
use aumbry::ops::prune::plan::{PlanLimits, UnusedLimit};
use aumbry::ops::prune::{Following, PruneOptions, PruneSummary, prune};
use aumbry::ops::rekey::{Change, RekeyOptions, plan, rekey};
use aumbry::ops::repair::{
    GenerationsRepair, RepairOptions, repair_config, repair_generations, repair_index,
    repair_packs, repair_snapshots,
};
use aumbry::repository::chance::Chance;
use aumbry::repository::error::{Kind, RepositoryError};
use aumbry::repository::reader::BlobReader;
use aumbry::repository::tombs::Undeleted;
use aumbry::repository::{Environment, Repository};
use aumbry::store::{Store, layout};
use aumbry::tree::entry::Node;
use aumbry::view::{DirectoryRoot, Entries, read_file};

use super::dice::{Dice, Odds};
use super::run::{credential, repair_options};
use super::source::{Folder, FolderSource, content};
use super::world::World;

/// Bytes that a verb may use: far more than there are.
const MEMORY: u64 = 64 << 20;
/// How often a client that starts tries to open the repository.
const ATTEMPTS: u64 = 100;

/// The options of a prune that waits for nobody and leaves nothing.
pub fn thorough() -> PruneOptions {
    PruneOptions {
        limits: PlanLimits {
            max_unused: UnusedLimit::Share(0.0),
            max_repack_bytes: None,
            repack_small: false,
            leave_cold: true,
        },
        patience: Duration::ZERO,
        dry_run: false,
        become_maintainer: false,
        assume_forgotten: Default::default(),
        memory_budget: MEMORY,
        following: Following::Compared,
    }
}

/// A machine.
pub struct Client {
    number: usize,
    world: Arc<World>,
    odds: Odds,
    dice: Dice,
    seed: u64,
    starts: u64,
    store: Store,
    /// The repository with the cache that the client has.
    pub repository: Option<Repository>,
    /// The repository with a cache that the client had some time ago.
    old: Option<Repository>,
    folder: Folder,
}

impl Client {
    /// A machine that has never seen the repository.
    pub fn new(number: usize, seed: u64, world: Arc<World>, odds: Odds, store: Store) -> Self {
        let dice = Dice::new(seed, 100 + number as u64);
        Client {
            number,
            world,
            odds,
            dice,
            seed,
            starts: 0,
            store,
            repository: None,
            old: None,
            folder: Folder::new(),
        }
    }

    fn open(&mut self) -> Result<Repository, RepositoryError> {
        self.starts += 1;
        let opened = Repository::open(self.store.clone(), &credential(), self.environment());
        match opened {
            Err(error) if error.item == layout::CONFIG && self.dice.hits(500_000) => {
                self.open_without_config()
            }
            opened => opened,
        }
    }

    fn environment(&self) -> Environment {
        let chance = Dice::new(self.seed, 1000 * (1 + self.number as u64) + self.starts).next();
        Environment {
            clock: self.world.clock(self.number),
            chance: Chance::seeded(chance),
            cache_folder: None,
            host: format!("host-{}", self.number),
            user: "tester".into(),
        }
    }

    /// Makes the config again.
    fn open_without_config(&mut self) -> Result<Repository, RepositoryError> {
        let environment = self.environment();
        let repository =
            Repository::open_without_config(self.store.clone(), &credential(), environment)?;
        match repair_config(&repository, &self.repair_options()) {
            Ok(repair) if repair.made => self.world.state().counts.add("configs made again", 1),
            Ok(_) => {}
            Err(OpsError::Repository(error)) => return Err(error),
            Err(error) => self.world.state().tell(|| format!("{error}")),
        }
        Ok(repository)
    }

    fn repair_options(&mut self) -> RepairOptions {
        RepairOptions { read_data: self.dice.hits(500_000), ..repair_options() }
    }

    /// Whether there are newer keys than this client's.
    fn has_old_keys(&self) -> bool {
        let own = self.repository.as_ref().map(|repository| repository.sealer().keyring().revision);
        own.is_some_and(|own| own < self.world.state().revision)
    }

    /// After the faults: repairs what they damaged, and takes up the newest keys.
    pub fn make_fit(&mut self) -> Result<(), OpsError> {
        if self.repository.is_none() {
            return Ok(());
        }
        let state = self.world.state();
        let gc_is_rotten = state.rotten.iter().any(|name| name.starts_with(layout::GC));
        // A repair that was stopped may have taken it away.
        let config_is_rotten =
            state.rotten.contains(layout::CONFIG) || !state.objects().contains_key(layout::CONFIG);
        drop(state);
        let collects = self.odds.is_conditional || self.number == 0;
        let mut options = self.repair_options();
        if config_is_rotten {
            // As the command does it, with the newest keys.
            self.starts += 1;
            self.open_without_config()?;
        }
        if self.has_old_keys() {
            self.start();
        }
        let Some(repository) = &self.repository else { return Ok(()) };
        if gc_is_rotten && collects {
            options.no_collector_runs = true;
            let repaired = repair_generations(repository, &options, &SilentMonitor)?;
            self.world.state().count_repair(&repaired);
        }
        Ok(())
    }

    /// Opens the repository with an empty cache, however often it takes.
    fn start(&mut self) {
        for _ in 0..ATTEMPTS {
            if self.world.state().is_over() {
                return;
            }
            let opened = self.open();
            let mut state = self.world.state();
            state.restart(self.number);
            match opened {
                Ok(repository) => {
                    state.learn_keys(repository.sealer());
                    let maintainer = self.repository.as_ref().map(|old| old.cache().maintainer());
                    if let Some(Ok(Some(maintainer))) = maintainer {
                        let kept = repository.cache().keep_maintainer(maintainer);
                        kept.expect("it is in memory");
                    }
                    self.repository = Some(repository);
                    return;
                }
                Err(error) => state.tell(|| format!("{error}")),
            }
        }
        self.world.state().violate(format!("client {} cannot open the repository", self.number));
    }

    /// Everything the client does while there are faults.
    pub fn run(&mut self) {
        self.start();
        for _ in 0..self.odds.verbs {
            let Some(repository) = self.repository.take() else { return };
            if self.world.state().is_over() {
                self.repository = Some(repository);
                return;
            }
            let was_rotten = !self.world.state().rotten.is_empty();
            let result = catch_unwind(AssertUnwindSafe(|| self.verb(&repository)));
            self.repository = Some(repository);
            let has_old_keys = self.has_old_keys();
            let has_failed = !matches!(result, Ok((_, Ok(()))));
            let mut state = self.world.state();
            // Somebody may have repaired meanwhile what this one could not read.
            let is_rotten = was_rotten || !state.rotten.is_empty();
            let (is_stopped, faults) = state.restart(self.number);
            let faults = faults + u64::from(is_rotten || has_old_keys);
            match result {
                Err(_) => state.violate(format!("client {} panicked", self.number)),
                Ok((verb, Err(error))) if !is_stopped && faults == 0 && !state.is_over() => {
                    let number = self.number;
                    state.violate(format!(
                        "client {number}: {verb} met no fault and failed: {error}"
                    ));
                }
                Ok((verb, result)) => {
                    let number = self.number;
                    state.tell(|| format!("{number}: {verb} ended: {result:?}"));
                    match &result {
                        Ok(()) => state.counts.add(verb, 1),
                        Err(error) if error.to_string().contains("leaves it out") => {
                            state.counts.add("short listings noticed", 1);
                        }
                        Err(_) => {}
                    }
                }
            }
            drop(state);
            if is_stopped {
                self.restart();
            } else if has_old_keys && (has_failed || self.dice.hits(500_000)) {
                // A program that runs does not take up new keys; the next one does.
                self.start();
            }
        }
    }

    /// After it was stopped: with the cache it had, with none, or with one from long ago.
    fn restart(&mut self) {
        // The one client that collects where only one can has its name in its cache.
        let keeps = self.number == 0 && !self.odds.is_conditional;
        match if keeps { 3 } else { self.dice.below(4) } {
            0 => {
                self.old = self.repository.take();
                self.start();
            }
            1 if self.old.is_some() => std::mem::swap(&mut self.old, &mut self.repository),
            _ => {}
        }
    }

    fn verb(&mut self, repository: &Repository) -> (&'static str, Result<(), OpsError>) {
        if self.dice.hits(self.odds.prune) && (self.odds.is_conditional || self.number == 0) {
            return ("prune", self.prune(repository));
        }
        match self.dice.below(20) {
            0..9 => ("backup", self.back_up(repository)),
            9..13 => ("forget", self.forget(repository)),
            13 => ("undelete", self.undelete(repository)),
            14..16 => ("merge", self.merge(repository)),
            16 if self.world.state().rotten.is_empty() => ("repair", self.repair(repository)),
            16 => ("repair generations", self.repair_generations(repository)),
            17 if self.odds.rekeys && (self.odds.is_conditional || self.number == 0) => {
                ("rekey", self.rekey(repository))
            }
            _ => ("restore", self.restore(repository)),
        }
    }

    /// Changes some files and backs them up.
    pub fn back_up(&mut self, repository: &Repository) -> Result<(), OpsError> {
        for number in 0..self.dice.between(1, 4) {
            let name = format!("file-{}", self.dice.below(5));
            if number > 0 && self.dice.hits(300_000) && self.folder.len() > 1 {
                self.folder.remove(&name);
            } else {
                self.folder.insert(name, self.dice.below(self.odds.contents));
            }
        }
        let options = BackupOptions {
            parent: None,
            detection: ChangeDetection { force: self.dice.hits(300_000), ..Default::default() },
            host: format!("host-{}", self.number),
            user: "tester".into(),
            name: String::new(),
            tags: Vec::new(),
            time: None,
            zone_offset_seconds: 0,
            deltas: Deltas::Always,
            dry_run: false,
            skip_if_unchanged: false,
            program: "simulation".into(),
            memory_budget: MEMORY,
        };
        let mut source = FolderSource::new(&self.folder);
        let number = self.number;
        let folder = self.folder.clone();
        self.world.state().tell(|| format!("{number}: backs up {folder:?}"));
        let summary = backup(repository, &mut source, &options, &SilentMonitor)?;
        let id = summary.snapshot.expect("it is no dry run, and nothing is skipped");
        let naming = repository.naming();
        let data: Vec<BlobId> =
            folder.values().map(|number| naming.data_id(&content(*number))).collect();
        let deltas = repository
            .cache()
            .entries()?
            .filter(|entry| entry.as_ref().is_ok_and(|(_, location)| location.is_delta))
            .count();
        let mut state = self.world.state();
        state.counts.add("deltas", deltas as u64);
        state.tell(|| format!("{number}: snapshot {id} is reported"));
        state.report(id, &folder, data);
        Ok(())
    }

    /// One of the snapshots that are (not) to be kept.
    fn choose_snapshot(&mut self, is_kept: bool) -> Option<SnapshotId> {
        let state = self.world.state();
        let reported = state.promises.reported.iter();
        let fitting: Vec<SnapshotId> =
            reported.filter(|(_, promise)| promise.is_kept == is_kept).map(|(id, _)| *id).collect();
        drop(state);
        (!fitting.is_empty()).then(|| self.dice.choose(&fitting))
    }

    fn forget(&mut self, repository: &Repository) -> Result<(), OpsError> {
        let Some(id) = self.choose_snapshot(true) else { return Ok(()) };
        self.world.state().with_promise(id, |promise| {
            promise.is_kept = false;
            promise.forgets.0 += 1;
        });
        let number = self.number;
        self.world.state().tell(|| format!("{number}: forgets {id}"));
        let forgotten = repository.forget(&[id], "simulated");
        self.world.state().with_promise(id, |promise| promise.forgets.1 += 1);
        Ok(forgotten?)
    }

    fn undelete(&mut self, repository: &Repository) -> Result<(), OpsError> {
        let Some(id) = self.choose_snapshot(false) else { return Ok(()) };
        let forgets = self.world.state().promises.reported[&id].forgets;
        let number = self.number;
        self.world.state().tell(|| format!("{number}: brings back {id}"));
        match repository.undelete(&[id]) {
            Ok(Undeleted::Back) => {}
            // It says so when that is uncertain.
            Ok(Undeleted::Pending) => return Ok(()),
            // Or too late.
            Err(error) if error.kind == Kind::NotFound => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        let mut state = self.world.state();
        state.tell(|| format!("{number}: brought back {id}"));
        state.counts.add("brought back", 1);
        // Nobody ordered meanwhile to forget it again.
        if forgets.0 == forgets.1 && state.promises.reported[&id].forgets == forgets {
            state.with_promise(id, |promise| promise.is_kept = true);
            state.look_at_all();
        }
        Ok(())
    }

    /// Lists what no index object lists, puts parts of uploads aside, and stores again what is good in damaged packs.
    pub fn repair(&mut self, repository: &Repository) -> Result<(), OpsError> {
        let options = RepairOptions { dry_run: self.dice.hits(100_000), ..self.repair_options() };
        let has_old_keys = repository.sealer().keyring().revision < self.world.state().revision;
        let index = repair_index(repository, &options, &SilentMonitor)?;
        let packs = repair_packs(repository, &options, &SilentMonitor)?;
        let snapshots = repair_snapshots(repository, &options, &SilentMonitor)?;
        let number = self.number;
        let mut state = self.world.state();
        state.tell(|| format!("{number}: {index:?} {packs:?} {snapshots:?}"));
        state.counts.add("objects put aside", index.quarantined.len() as u64);
        // A pack that neither the index nor the store lists seems to be lost.
        if !snapshots.made.is_empty() && state.unwhole_listings(number) == 0 && !has_old_keys {
            state.violate(format!("client {number} repaired snapshots that lack nothing"));
        }
        Ok(())
    }

    /// Ends a generation of which something cannot be read. Where that takes somebody's word that no collector runs, it
    /// is given when it is true, and kept.
    fn repair_generations(&mut self, repository: &Repository) -> Result<(), OpsError> {
        let number = self.number;
        let mut options = self.repair_options();
        let is_sure = {
            let mut state = self.world.state();
            let is_sure = !state.somebody_collects(number) && !state.nobody_collects;
            state.nobody_collects |= is_sure;
            is_sure
        };
        options.no_collector_runs = is_sure;
        let repaired = repair_generations(repository, &options, &SilentMonitor);
        let mut state = self.world.state();
        if is_sure {
            state.nobody_collects = false;
        }
        state.tell(|| format!("{number}: {repaired:?}"));
        state.count_repair(&repaired?);
        Ok(())
    }

    /// Adds an epoch, or drops what old epochs' keys nothing needs.
    fn rekey(&mut self, repository: &Repository) -> Result<(), OpsError> {
        let number = self.number;
        let change = match self.dice.hits(500_000) {
            true => Change::NewEpoch,
            false => Change::DropOld,
        };
        self.world.state().set_careful(number, change == Change::DropOld);
        let options = RekeyOptions { change, remove: Vec::new() };
        let changed =
            plan(repository, &options, &SilentMonitor).and_then(|plan| match plan.is_empty() {
                true => Ok(None),
                false => rekey(repository, &plan).map(Some),
            });
        let mut state = self.world.state();
        state.set_careful(number, false);
        state.tell(|| format!("{number}: {change:?}: {changed:?}"));
        match changed? {
            Some(_) if change == Change::DropOld => state.counts.add("old keys dropped", 1),
            Some(_) => state.counts.add("epochs added", 1),
            None => {}
        }
        Ok(())
    }

    fn merge(&mut self, repository: &Repository) -> Result<(), OpsError> {
        let merged = repository.merge_indexes(&SilentMonitor)?;
        self.world.state().counts.add("index objects merged", merged.removed);
        Ok(())
    }

    fn prune(&mut self, repository: &Repository) -> Result<(), OpsError> {
        let day = 86_400;
        let patience = match self.dice.hits(self.odds.impatience) {
            true => 0,
            false => self.dice.choose(&[day / 24, day, 7 * day, 400 * day]),
        };
        let options = PruneOptions {
            limits: PlanLimits {
                max_unused: self.dice.choose(&[
                    UnusedLimit::Share(0.0),
                    UnusedLimit::Share(0.05),
                    UnusedLimit::Share(0.5),
                    UnusedLimit::Unlimited,
                ]),
                max_repack_bytes: self.dice.choose(&[None, None, Some(1000)]),
                repack_small: self.dice.hits(200_000),
                leave_cold: true,
            },
            patience: Duration::from_secs(patience),
            ..thorough()
        };
        let number = self.number;
        {
            let mut state = self.world.state();
            if state.nobody_collects {
                return Ok(());
            }
            state.tell(|| format!("{number}: prunes with {options:?}"));
            state.set_collects(number, true);
        }
        let pruned = prune(repository, &options, &SilentMonitor);
        let mut state = self.world.state();
        state.set_collects(number, false);
        if let Err(error) = &pruned
            && error.to_string().contains("remembered marks differ")
        {
            state.violate(format!("client {number}: {error}"));
        }
        let summary = pruned?;
        state.tell(|| format!("{number}: {summary:?}"));
        state.count_prune(&summary);
        Ok(())
    }

    /// Restores what is to be kept, as a registered reader.
    fn restore(&mut self, repository: &Repository) -> Result<(), OpsError> {
        let session = repository.register(Purpose::Read)?;
        let restored = self.restore_some(repository);
        let lasted = repository.end(session)?;
        match restored {
            Err((id, error)) if lasted => {
                let state = self.world.state();
                match id.map(|(id, forgets)| state.promises.reported[&id].forgets.0 > forgets) {
                    // It was forgotten before it could be read, and may have been brought back since.
                    Some(true) => Ok(()),
                    _ => Err(error),
                }
            }
            // A collector gave the reader up.
            _ => Ok(()),
        }
    }

    fn restore_some(
        &mut self,
        repository: &Repository,
    ) -> Result<(), (Option<(SnapshotId, u64)>, OpsError)> {
        let Some(id) = self.choose_snapshot(true) else { return Ok(()) };
        let chosen = Some((id, self.world.state().promises.reported[&id].forgets.0));
        let snapshots =
            repository.snapshots(&SilentMonitor).map_err(|error| (None, error.into()))?;
        repository.refresh_index(&SilentMonitor).map_err(|error| (None, error.into()))?;
        let found = snapshots.all.iter().find(|(other, _)| *other == id);
        let Some((_, snapshot)) = found else {
            let message = format!("snapshot {id} is not listed");
            return Err((chosen, OpsError::Invalid(message)));
        };
        let folder = read(repository, snapshot).map_err(|error| (chosen, error.into()))?;
        let mut state = self.world.state();
        if folder != expected(&state.promises.reported[&id].folder) {
            state.violate(format!("snapshot {id} restores to something else"));
        }
        Ok(())
    }
}

/// What a snapshot restores to: names and bytes.
pub type Restored = Vec<(Vec<u8>, Vec<u8>)>;

/// What a folder ought to restore to.
pub fn expected(folder: &Folder) -> Restored {
    folder.iter().map(|(name, number)| (name.clone().into_bytes(), content(*number))).collect()
}

/// Reads a snapshot whole.
pub fn read(repository: &Repository, snapshot: &Snapshot) -> Result<Restored, RepositoryError> {
    let reader = BlobReader::new(repository, MEMORY);
    let mut restored = Vec::new();
    for entry in Entries::new(&reader, DirectoryRoot::of_snapshot(snapshot)) {
        let entry = entry?;
        if let Node::File(file) = &entry.node {
            restored.push((entry.name.to_vec(), read_file(&reader, file, u64::MAX >> 1)?));
        }
    }
    Ok(restored)
}

impl super::world::State {
    /// Counts what a repair of generations did.
    pub fn count_repair(&mut self, repair: &GenerationsRepair) {
        self.counts.add("generations repaired", u64::from(repair.ended.is_some()));
        self.lost_sweep |= repair.needs_consent.is_some();
    }

    /// Counts what a prune did.
    pub fn count_prune(&mut self, summary: &PruneSummary) {
        self.counts.add("generations ended", summary.generations.len() as u64);
        self.counts.add("sessions fenced", summary.fenced);
        self.counts.add("waited for sessions", summary.held_by.len() as u64);
        self.counts.add("packs deleted", summary.packs_deleted);
        self.counts.add("packs spared", summary.packs_rescued);
        self.counts.add("bytes repacked", summary.bytes_written);
        self.counts.add("index objects merged", summary.merged.removed);
        self.counts.add("snapshots cleared away", summary.cleared.snapshots);
    }
}
