//! A client: one machine that backs up, restores, forgets and collects, is stopped and starts again.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use aumbry::format::session::Purpose;
use aumbry::format::snapshot::Snapshot;
use aumbry::id::{BlobId, SnapshotId};
use aumbry::monitor::SilentMonitor;
use aumbry::ops::OpsError;
use aumbry::ops::backup::{BackupOptions, ChangeDetection, backup};
use aumbry::ops::prune::plan::{PlanLimits, UnusedLimit};
use aumbry::ops::prune::{PruneOptions, PruneSummary, prune};
use aumbry::ops::repair::{RepairOptions, repair_index, repair_packs, repair_snapshots};
use aumbry::repository::chance::Chance;
use aumbry::repository::error::{Kind, RepositoryError};
use aumbry::repository::reader::BlobReader;
use aumbry::repository::snapshots::Undeleted;
use aumbry::repository::{Environment, Repository};
use aumbry::tree::entry::Node;
use aumbry::view::{DirectoryRoot, Entries, read_file};

use super::dice::{Dice, Odds};
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
        },
        patience: Duration::ZERO,
        dry_run: false,
        become_maintainer: false,
        memory_budget: MEMORY,
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
    /// Opens repositories; its own cache is never used.
    template: Arc<Repository>,
    /// The repository with the cache that the client has.
    pub repository: Option<Repository>,
    /// The repository with a cache that the client had some time ago.
    old: Option<Repository>,
    folder: Folder,
}

impl Client {
    /// A machine that has never seen the repository.
    pub fn new(
        number: usize,
        seed: u64,
        world: Arc<World>,
        odds: Odds,
        template: Arc<Repository>,
    ) -> Self {
        let dice = Dice::new(seed, 100 + number as u64);
        Client {
            number,
            world,
            odds,
            dice,
            seed,
            starts: 0,
            template,
            repository: None,
            old: None,
            folder: Folder::new(),
        }
    }

    fn open(&mut self) -> Result<Repository, RepositoryError> {
        self.starts += 1;
        let chance = Dice::new(self.seed, 1000 * (1 + self.number as u64) + self.starts).next();
        self.template.reopen(Environment {
            clock: self.world.clock(self.number),
            chance: Chance::seeded(chance),
            cache_folder: None,
            host: format!("host-{}", self.number),
            user: "tester".into(),
        })
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
            let result = catch_unwind(AssertUnwindSafe(|| self.verb(&repository)));
            self.repository = Some(repository);
            let mut state = self.world.state();
            let (is_stopped, faults) = state.restart(self.number);
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
                    if result.is_ok() {
                        state.counts.add(verb, 1);
                    }
                }
            }
            drop(state);
            if is_stopped {
                self.restart();
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
            16 => ("repair", self.repair(repository)),
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
        let mut state = self.world.state();
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
        let options = RepairOptions {
            dry_run: self.dice.hits(100_000),
            read_data: self.dice.hits(500_000),
            forget_originals: false,
            no_collector_runs: false,
            program: "simulation".into(),
            memory_budget: MEMORY,
        };
        let index = repair_index(repository, &options, &SilentMonitor)?;
        let packs = repair_packs(repository, &options, &SilentMonitor)?;
        let snapshots = repair_snapshots(repository, &options, &SilentMonitor)?;
        let number = self.number;
        let mut state = self.world.state();
        state.tell(|| format!("{number}: {index:?} {packs:?} {snapshots:?}"));
        state.counts.add("objects put aside", index.quarantined.len() as u64);
        if !snapshots.made.is_empty() {
            state.violate(format!("client {number} repaired snapshots that lack nothing"));
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
            },
            patience: Duration::from_secs(patience),
            ..thorough()
        };
        let number = self.number;
        self.world.state().tell(|| format!("{number}: prunes with {options:?}"));
        let summary = prune(repository, &options, &SilentMonitor)?;
        let mut state = self.world.state();
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
