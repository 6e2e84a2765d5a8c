//! The index of a repository of ten million blobs: what a new machine pays to load it, what a machine that
//! knows it pays to open it, how fast blobs are looked up, and how much memory all that takes.
//!
//! `cargo bench --bench large_index -- 10` (millions; needs about 1 GB of temporary files). The limits, printed
//! beside the figures: loading reads, unseals and sorts every byte once, so it is measured against reading and
//! unsealing alone; memory has a budget of 256 MiB for everything, of which the index may take 200. Every step
//! runs in a process of its own, so that its peak memory is its own.

#![allow(clippy::unwrap_used, clippy::panic, clippy::disallowed_methods)]

mod common;

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use aumbry::format::header::ObjectKind;
use aumbry::id::{BlobId, SessionId};
use aumbry::monitor::SilentMonitor;
use aumbry::repository::Repository;
use aumbry::store::{LocalMode, Store, layout};

use crate::common::{blob_id, create, environment, passphrase, peak_mebibytes, write_indexes};

/// As many as a writer puts into an index object.
const BLOBS_IN_OBJECT: u64 = 500_000;
const LOOKUPS: u64 = 1_000_000;

fn main() {
    let arguments: Vec<String> =
        std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["step", step, folder, blobs] => run(step, Path::new(folder), blobs.parse().unwrap()),
        [millions] => run_all((millions.parse::<f64>().unwrap() * 1e6) as u64),
        _ => println!("large_index: skipped; `-- 10` runs it for ten million blobs"),
    }
}

fn run_all(blobs: u64) {
    let folder = tempfile::tempdir().unwrap();
    println!("{blobs} blobs");
    for step in ["write", "unseal", "load", "reopen", "many_small", "reopen"] {
        let status = Command::new(std::env::current_exe().unwrap())
            .args(["step", step, folder.path().to_str().unwrap(), &blobs.to_string()])
            .status()
            .unwrap();
        assert!(status.success(), "{step}");
    }
}

fn open(folder: &Path) -> Repository {
    let store = Store::local(&folder.join("store"), LocalMode::Open).unwrap();
    Repository::open(store, &passphrase(), environment(Some(&folder.join("cache")))).unwrap()
}

fn run(step: &str, folder: &Path, blobs: u64) {
    let start = Instant::now();
    let seconds = || start.elapsed().as_secs_f64();
    match step {
        "write" => {
            let store = Store::local(&folder.join("store"), LocalMode::Create).unwrap();
            let repository = create(store, None);
            let session = SessionId { generation: 0, random: [1; 16] };
            let bytes = write_indexes(&repository, session, 0, blobs, BLOBS_IN_OBJECT);
            println!(
                "  written: {:.0} MB of index objects in {:.1} s",
                bytes as f64 / 1e6,
                seconds()
            );
        }
        "unseal" => {
            let repository = open(folder);
            let start = Instant::now();
            let objects = repository.store().list(layout::INDEX).unwrap();
            let mut bytes = 0;
            for object in &objects {
                let sealed = repository.store().get(&object.name).unwrap();
                bytes += repository
                    .sealer()
                    .unseal(ObjectKind::Index, &object.name, sealed)
                    .unwrap()
                    .len();
            }
            let seconds = start.elapsed().as_secs_f64();
            println!(
                "  limit of loading, reading and unsealing on one core: {:.0} MB in {seconds:.2} s",
                bytes as f64 / 1e6
            );
        }
        "load" => {
            let repository = open(folder);
            let opened = seconds();
            repository.refresh_index(&SilentMonitor).unwrap();
            assert_eq!(repository.cache().blob_count(), blobs);
            println!(
                "  new machine: open {opened:.2} s, load {:.2} s, peak {} MiB (limit 200)",
                seconds() - opened,
                peak_mebibytes()
            );
        }
        "reopen" => {
            let repository = open(folder);
            let opened = seconds();
            repository.refresh_index(&SilentMonitor).unwrap();
            println!(
                "  known: open {opened:.3} s, refresh {:.3} s (limit 0.3 together)",
                seconds() - opened
            );
            look_up(&repository, blobs);
            println!(
                "  peak {} MiB (limit 200), cache {} MB",
                peak_mebibytes(),
                folder_bytes(&folder.join("cache")) / 1_000_000
            );
        }
        "many_small" => {
            // A year of backups by other machines: many index objects of few blobs each.
            let repository = open(folder);
            for number in 0..400u16 {
                let mut random = [2; 16];
                random[..2].copy_from_slice(&number.to_le_bytes());
                let first = 1 << 40 | u64::from(number) << 20;
                write_indexes(&repository, SessionId { generation: 0, random }, first, 1000, 1000);
            }
            let start = Instant::now();
            repository.refresh_index(&SilentMonitor).unwrap();
            println!(
                "  400 more objects of 1000 blobs: {:.2} s, peak {} MiB",
                start.elapsed().as_secs_f64(),
                peak_mebibytes()
            );
        }
        other => panic!("no step {other}"),
    }
}

fn look_up(repository: &Repository, blobs: u64) {
    let step = (blobs / LOOKUPS).max(1);
    let known: Vec<BlobId> = (0..LOOKUPS.min(blobs)).map(|number| blob_id(number * step)).collect();
    let unknown: Vec<BlobId> = (0..LOOKUPS).map(|number| blob_id(1 << 50 | number)).collect();
    for (what, ids, wanted) in [("known", &known, true), ("unknown", &unknown, false)] {
        for round in ["first", "again"] {
            let start = Instant::now();
            for id in ids {
                assert_eq!(repository.cache().lookup(id).unwrap().is_some(), wanted);
            }
            let rate = ids.len() as f64 / start.elapsed().as_secs_f64();
            println!("  {what} {round}: {:.2} million look-ups a second on one core", rate / 1e6);
        }
    }
}

fn folder_bytes(folder: &Path) -> u64 {
    std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let metadata = entry.metadata().unwrap();
            if metadata.is_dir() { folder_bytes(&entry.path()) } else { metadata.len() }
        })
        .sum()
}
