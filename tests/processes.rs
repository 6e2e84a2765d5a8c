//! Real processes on one directory: writers, collectors and a reader, killed and put to sleep at random. Then what was
//! reported restores, nothing is damaged, and all garbage goes.
//!
//! `AUMBRY_PROCESSES_SECONDS` says for how long, `AUMBRY_PROCESSES_SEED` with which choices; what the machine makes
//! of them differs from run to run.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]
#![allow(clippy::disallowed_methods, reason = "processes are killed after so much real time")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use aumbry::clock::SystemClock;
use aumbry::codec::kdf::Argon2Cost;
use aumbry::format::config::Settings;
use aumbry::repository::chance::Chance;
use aumbry::repository::keys::Credential;
use aumbry::repository::{CreateOptions, Environment, Repository};
use aumbry::store::{LocalMode, Store};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

const SECONDS: u64 = 20;
const WRITERS: u64 = 8;
const COLLECTORS: u64 = 2;
/// Snapshots of each writer that nobody forgets.
const KEPT: usize = 2;

/// A folder: paths and the hashes of files.
type Plain = BTreeMap<PathBuf, blake3::Hash>;

/// A snapshot that was reported.
struct Reported {
    id: String,
    writer: u64,
    plain: Plain,
    is_forgotten: bool,
}

#[derive(Debug, Default)]
struct Figures {
    backups: u64,
    forgets: u64,
    prunes: u64,
    checks: u64,
    restores: u64,
    kills: u64,
    stops: u64,
    sessions_given_up: u64,
    packs_deleted: u64,
    packs_spared: u64,
}

/// What everybody shares.
struct Scene {
    folder: TempDir,
    end: Instant,
    reported: Mutex<Vec<Reported>>,
    figures: Mutex<Figures>,
    /// What failed and was not killed.
    failures: Mutex<Vec<String>>,
}

/// Choices that follow from a seed.
struct Choices(u64);

impl Choices {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// How a process ended.
struct Run {
    output: Output,
    was_killed: bool,
}

impl Run {
    /// The message of this type, if it came that far.
    fn message(&self, kind: &str) -> Option<Value> {
        let text = String::from_utf8_lossy(&self.output.stdout);
        let mut values = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        values.rfind(|value| value["message_type"] == kind)
    }
}

fn setting(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")),
        Err(_) => default,
    }
}

fn key() -> Credential {
    Credential::Recovery([7; 32].into())
}

impl Scene {
    fn new(seconds: u64) -> Scene {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::local(&folder.path().join("repository"), LocalMode::Create).unwrap();
        // So small that much is repacked and merged.
        let settings = Settings {
            chunk_minimum: 1024,
            chunk_average: 4096,
            chunk_maximum: 16384,
            segment_length: 16 << 10,
            pack_length: 64 << 10,
            ..Settings::DEFAULT
        };
        let options = CreateOptions {
            settings,
            cost: Some(Argon2Cost::FLOOR),
            label: String::new(),
            cuts_like: None,
        };
        let environment = Environment {
            clock: Arc::new(SystemClock::new()),
            chance: Chance::System,
            cache_folder: None,
            host: "testhost".into(),
            user: "tester".into(),
        };
        Repository::create(store, &options, &key(), environment).unwrap();
        fs::write(folder.path().join("words"), key().words().unwrap()).unwrap();
        Scene {
            folder,
            end: Instant::now() + Duration::from_secs(seconds),
            reported: Mutex::default(),
            figures: Mutex::default(),
            failures: Mutex::default(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn is_over(&self) -> bool {
        Instant::now() >= self.end
    }

    /// Starts the binary; `cache` names its cache, or none.
    fn start(&self, cache: &str, arguments: &[&str]) -> Child {
        let mut command = Command::new(env!("CARGO_BIN_EXE_aumbry"));
        command.env_clear().env("HOME", self.path("")).env("TZ", "UTC").arg("--json");
        command.arg("--repo").arg(self.path("repository"));
        command.arg("--recovery-key-file").arg(self.path("words"));
        match cache {
            "" => command.arg("--no-cache"),
            name => command.arg("--cache-dir").arg(self.path(name)),
        };
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    }

    /// Runs the binary to its end.
    fn run(&self, cache: &str, arguments: &[&str]) -> Run {
        let output = self.start(cache, arguments).wait_with_output().unwrap();
        Run { output, was_killed: false }
    }

    /// Runs it, and lets it go on, kills it, or makes it sleep and then lets it go on or kills it.
    fn disturb(&self, choices: &mut Choices, cache: &str, arguments: &[&str]) -> Run {
        let child = self.start(cache, arguments);
        let pid = Pid::from_child(&child);
        let reader = std::thread::spawn(move || child.wait_with_output().unwrap());
        let started = Instant::now();
        let (kind, mut at) = (choices.below(10), Duration::from_millis(choices.below(700)));
        let (mut to_stop, mut to_kill) = (kind < 3, kind < 5 && kind != 0);
        let mut was_killed = false;
        while !reader.is_finished() {
            // Its thread has not waited for it before it is finished, so that the number is its own; a number that
            // was given anew within a moment would be another child of this test at worst.
            if to_stop && started.elapsed() >= at {
                to_stop = false;
                let is_long = choices.below(4) == 0;
                let length = choices.below(if is_long { 6000 } else { 800 });
                if kill_process(pid, Signal::STOP).is_ok() {
                    self.figures.lock().unwrap().stops += 1;
                    let awake = Instant::now() + Duration::from_millis(length);
                    while Instant::now() < awake && !self.is_over() {
                        std::thread::sleep(Duration::from_millis(5));
                    }
                    // Killed asleep, or to be killed some time after.
                    if !(kind == 2 && kill_process(pid, Signal::KILL).is_ok()) {
                        let _ = kill_process(pid, Signal::CONT);
                    } else {
                        was_killed = true;
                        self.figures.lock().unwrap().kills += 1;
                    }
                    at = started.elapsed() + Duration::from_millis(choices.below(300));
                }
            } else if to_kill && !to_stop && !was_killed && started.elapsed() >= at
                || self.is_over() && !was_killed
            {
                to_kill = false;
                if kill_process(pid, Signal::KILL).is_ok() {
                    was_killed = true;
                    self.figures.lock().unwrap().kills += 1;
                }
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Run { output: reader.join().unwrap(), was_killed }
    }

    /// Notes a run that ought to have gone well. Somebody else having been faster is no failure.
    fn expect_done(&self, what: &str, run: &Run) {
        if !run.was_killed && !matches!(run.output.status.code(), Some(0 | 11)) {
            self.failures.lock().unwrap().push(format!(
                "{what}: {}\n{}{}",
                run.output.status,
                String::from_utf8_lossy(&run.output.stdout),
                String::from_utf8_lossy(&run.output.stderr)
            ));
        }
    }

    /// Changes its folder and saves it.
    fn write(&self, writer: u64, mut choices: Choices) {
        let name = format!("writer-{writer}");
        let source = self.path(&name);
        fs::create_dir(&source).unwrap();
        // Two of them share a cache.
        let cache = format!("cache-{}", writer.max(1));
        for number in 0..12 {
            write_file(&source, number, &mut choices);
        }
        while !self.is_over() {
            for _ in 0..=choices.below(4) {
                let number = choices.below(16);
                write_file(&source, number, &mut choices);
            }
            let plain = plain(&source);
            let arguments =
                ["backup", "--name", &name, "--as-path", "/tree", source.to_str().unwrap()];
            let run = self.disturb(&mut choices, &cache, &arguments);
            self.expect_done(&name, &run);
            // It may have been killed after it had told.
            let id =
                run.message("summary").and_then(|told| Some(told["snapshot_id"].as_str()?.into()));
            if let Some(id) = id {
                self.figures.lock().unwrap().backups += 1;
                let reported = Reported { id, writer, plain, is_forgotten: false };
                self.reported.lock().unwrap().push(reported);
            }
        }
    }

    /// Forgets older snapshots and prunes.
    fn collect(&self, collector: u64, mut choices: Choices) {
        let cache = if collector == 0 { "" } else { "collector" };
        while !self.is_over() {
            let ids = self.begin_to_forget(&mut choices);
            if !ids.is_empty() {
                let forget: Vec<_> =
                    ["forget", "--yes"].into_iter().chain(ids.iter().map(String::as_str)).collect();
                let run = self.disturb(&mut choices, cache, &forget);
                self.expect_done("forget", &run);
                self.figures.lock().unwrap().forgets += ids.len() as u64;
            }
            let arguments = ["prune", "--patience", "0s", "--max-unused", "0%"];
            let run = self.disturb(&mut choices, cache, &arguments);
            self.expect_done("prune", &run);
            if let Some(told) = run.message("summary") {
                let number = |name: &str| told[name].as_u64().unwrap();
                let mut figures = self.figures.lock().unwrap();
                figures.prunes += 1;
                figures.sessions_given_up += number("sessions_given_up");
                figures.packs_deleted += number("packs_deleted");
                figures.packs_spared += number("packs_spared");
            }
        }
    }

    /// Chooses a few that are not among the newest of their writers. From now on they may be gone.
    fn begin_to_forget(&self, choices: &mut Choices) -> Vec<String> {
        let mut reported = self.reported.lock().unwrap();
        let mut newer = BTreeMap::new();
        let mut chosen = Vec::new();
        for reported in reported.iter_mut().rev() {
            let newer: &mut usize = newer.entry(reported.writer).or_default();
            // One in ten stays for good, so that there are old ones in the end.
            let stays = reported.id.as_bytes()[reported.id.len() - 1] == b'7';
            if *newer >= KEPT
                && !reported.is_forgotten
                && !stays
                && chosen.len() < 32
                && choices.below(2) == 0
            {
                reported.is_forgotten = true;
                chosen.push(reported.id.clone());
            }
            *newer += 1;
        }
        chosen
    }

    /// Restores what is there, and checks.
    fn read(&self, mut choices: Choices) {
        while !self.is_over() {
            let chosen = {
                let reported = self.reported.lock().unwrap();
                let there: Vec<_> =
                    reported.iter().filter(|reported| !reported.is_forgotten).collect();
                if there.is_empty() {
                    None
                } else {
                    let chosen = there[choices.below(there.len() as u64) as usize];
                    Some((chosen.id.clone(), chosen.plain.clone()))
                }
            };
            let Some((id, wanted)) = chosen else {
                std::thread::sleep(Duration::from_millis(50));
                continue;
            };
            let target = tempfile::tempdir().unwrap();
            let what = format!("{id}:/tree");
            let arguments = ["restore", &what, "--target", target.path().to_str().unwrap()];
            let run = self.disturb(&mut choices, "reader", &arguments);
            let still_there = || {
                let reported = self.reported.lock().unwrap();
                reported.iter().any(|reported| reported.id == id && !reported.is_forgotten)
            };
            // Whoever forgets it meanwhile may take it away.
            if !run.was_killed && still_there() {
                self.expect_done(&format!("restore of {id}"), &run);
                if run.output.status.success() && plain(target.path()) != wanted {
                    self.failures.lock().unwrap().push(format!("{id} restores wrongly"));
                }
                self.figures.lock().unwrap().restores += 1;
            }
            if choices.below(4) == 0 {
                let run = self.disturb(&mut choices, "reader", &["check", "--read-data"]);
                self.expect_done("check", &run);
                self.figures.lock().unwrap().checks += 1;
            }
        }
    }

    /// How many objects the repository has in this folder.
    fn count(&self, folder: &str) -> usize {
        let folder = self.path("repository").join(folder);
        fs::read_dir(folder).map_or(0, |entries| {
            let names = entries.map(|entry| entry.unwrap().file_name());
            names.filter(|name| !name.as_encoded_bytes().starts_with(b".")).count()
        })
    }

    /// Everybody is gone: what was reported is there, nothing is damaged, all garbage goes.
    fn verify(&self) -> usize {
        let reported = self.reported.lock().unwrap();
        let prune = ["prune", "--patience", "0s", "--max-unused", "0%"];
        let looking = [&prune[..], &["--dry-run"]].concat();
        let mut restored = 0;
        for round in 0..2 {
            for reported in reported.iter().filter(|reported| !reported.is_forgotten) {
                let target = tempfile::tempdir().unwrap();
                let what = format!("{}:/tree", reported.id);
                let target_text = target.path().to_str().unwrap();
                done(&self.run("verifier", &["restore", &what, "--target", target_text]));
                assert_eq!(plain(target.path()), reported.plain, "{what} in round {round}");
                restored += 1;
            }
            done(&self.run("", &["check", "--read-data"]));
            if round == 0 {
                done(&self.run("", &prune));
                done(&self.run("", &prune));
                // The last prune's own session for merging; of others only such as made no packs.
                assert!(self.count("sessions") <= 10, "{} registrations", self.count("sessions"));
            }
        }
        let looked = done(&self.run("", &looking)).message("summary").unwrap();
        assert_eq!(looked["unused_bytes_before"], 0, "{looked}");
        assert_eq!(looked["plan"]["drop_packs"], 0, "{looked}");
        assert_eq!(looked["plan"]["repack_packs"], 0, "{looked}");
        assert_eq!(self.count("tombs"), 0);
        assert_eq!(self.count("tmp"), 0);
        restored
    }
}

#[track_caller]
fn done(run: &Run) -> &Run {
    let output = &run.output;
    assert!(
        output.status.success(),
        "{}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    run
}

/// Of one hundred contents, so that writers meet what others have, and what was forgotten comes back.
fn write_file(folder: &Path, number: u64, choices: &mut Choices) {
    let path = folder.join(format!("file-{number}"));
    if choices.below(6) == 0 {
        let _ = fs::remove_file(path);
        return;
    }
    let seed = choices.below(100);
    let mut bytes = Vec::new();
    let mut hasher = blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof();
    bytes.resize(1000 + seed as usize * 300, 0);
    hasher.fill(&mut bytes);
    fs::write(path, bytes).unwrap();
}

fn plain(folder: &Path) -> Plain {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries
        .map(|path| {
            let hash = blake3::hash(&fs::read(&path).unwrap());
            (PathBuf::from(path.file_name().unwrap()), hash)
        })
        .collect()
}

#[test]
fn processes_that_are_killed_and_put_to_sleep_lose_nothing_that_was_reported() {
    let seconds = setting("AUMBRY_PROCESSES_SECONDS", SECONDS);
    let seed = setting("AUMBRY_PROCESSES_SEED", 1);
    let scene = Scene::new(seconds);
    std::thread::scope(|scope| {
        let scene = &scene;
        let choices = |number: u64| {
            let mut choices = Choices(seed.wrapping_mul(1000) + number);
            choices.below(1);
            choices
        };
        for writer in 0..WRITERS {
            scope.spawn(move || scene.write(writer, choices(writer)));
        }
        for collector in 0..COLLECTORS {
            scope.spawn(move || scene.collect(collector, choices(100 + collector)));
        }
        scope.spawn(move || scene.read(choices(200)));
    });
    let generation = fs::read_dir(scene.path("repository/gc")).map_or(0, |entries| {
        let names = entries.map(|entry| entry.unwrap().file_name());
        let numbers =
            names.filter_map(|name| u32::from_str_radix(name.to_str()?.get(..8)?, 16).ok());
        numbers.max().unwrap_or(0)
    });
    let restored = scene.verify();
    println!("{seconds} s, seed {seed}: {:?}", scene.figures.lock().unwrap());
    println!("{generation} generations, {restored} restores of what was not forgotten at the end");
    // Who is woken or comes while others collect goes on, whatever they removed meanwhile.
    let failures = scene.failures.lock().unwrap();
    println!("{} failures:\n{}", failures.len(), failures.join("\n"));
    let figures = scene.figures.lock().unwrap();
    assert!(figures.backups > 0 && figures.kills > 0, "nothing happened: {figures:?}");
    assert!(failures.is_empty(), "commands failed: {figures:?}");
}
