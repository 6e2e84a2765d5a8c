//! The whole tool over a network that cuts, delays, resets, halves bandwidth and drops replies after their effect: backups,
//! a prune and a restore get through it, with nothing lost and nothing doubled.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::Value;

use crate::conformance;
use crate::fake_b2::{FakeB2, Mood};
use crate::fake_gcs::FakeGcs;
use crate::fake_s3::FakeS3;
use crate::proxy::{Counts, Proxy, Weather};
use crate::servers::{BUCKET, s3s_fs};
use crate::sshd::Sshd;
use crate::whole::{Machine, b2, differ, restored, s3, write_tree};

/// Every connection meets something, sooner or later: one that nothing happens to would carry all the rest.
const HTTP: Weather = Weather { fine: 1, bandwidth: 20_000_000, ..Weather::STORMY };
/// The same for connections that begin with a handshake and carry everything.
const SSH: Weather = Weather {
    fine: 0,
    cut_request: 6,
    swallow_reply: 3,
    cut_reply: 4,
    refuse: 1,
    latency: Duration::from_millis(1),
    bandwidth: 20_000_000,
    spared: (6_000, 12),
};

/// Bytes that do not compress, so that packs are long enough to be cut in their middle.
fn write_noise(path: &Path, length: usize, seed: u64) {
    fs::write(path, conformance::pattern(length, seed)).unwrap();
}

fn write_documents(folder: &Path, version: usize) {
    write_tree(folder, version);
    write_noise(&folder.join("film"), 9_000_000, 1);
    write_noise(&folder.join("songs"), 3_000_000, version as u64 * 2);
}

fn snapshots(machine: &Machine) -> usize {
    let printed = machine.ok(&["snapshots", "--json"]);
    serde_json::from_str::<Value>(&printed).unwrap().as_array().unwrap().len()
}

/// Packs, their bytes, and what of these nobody needs.
fn packs(machine: &Machine) -> [u64; 3] {
    let printed = machine.ok(&["prune", "--dry-run", "--json"]);
    let summary: Value = serde_json::from_str(printed.lines().last().unwrap()).unwrap();
    ["packs_before", "bytes_before", "unused_bytes_before"]
        .map(|key| summary[key].as_u64().unwrap_or_else(|| panic!("{key}: {printed}")))
}

/// At least three backups of what changes, more until `enough` of these was, all but the last forgotten and pruned
/// away, and a restore.
///
/// Returns how many backups there were, and what was said while things were forgotten.
fn tell_a_story(machine: &Machine, enough: impl Fn(usize) -> bool) -> (usize, String) {
    let documents = machine.path("Documents");
    let documents_text = documents.to_str().unwrap();
    machine.ok(&["init"]);
    let mut versions = 0;
    while versions < 3 || !enough(versions) {
        versions += 1;
        write_documents(&documents, versions);
        machine.ok(&["backup", "--quiet", documents_text]);
    }
    let forgotten = machine.ok(&["forget", "--keep-last", "1", "--prune", "--yes"]);
    let pruned = machine.ok(&["prune", "--max-unused", "0"]);
    assert_eq!(differ(&documents, &restored(machine)), "");
    (versions, format!("{forgotten}\n{pruned}"))
}

/// More backups than these are not made to meet more faults.
const MOST_VERSIONS: usize = 12;

/// Enough went wrong for a storm: how often differs from run to run, as connections come in another order.
fn was_a_storm(counts: &Counts) -> bool {
    counts.faults() > 8
        && counts.cut_requests.load(Ordering::Relaxed) > 0
        && counts.swallowed_replies.load(Ordering::Relaxed) > 0
}

fn get_through(
    proxy: &Proxy,
    place: &str,
    variables: &[(&'static str, String)],
    options: &[String],
) {
    let machine = Machine::new(place, variables, options);
    let counts = proxy.counts();
    let (versions, said) =
        tell_a_story(&machine, |versions| was_a_storm(counts) || versions == MOST_VERSIONS);
    println!("{versions} backups, {counts:?}");
    assert!(was_a_storm(counts), "{counts:?}");

    // When it is over, everything is there, once.
    proxy.set_weather(Weather::CLEAR);
    proxy.cut_all();
    machine.ok(&["check", "--read-data"]);
    assert_eq!(snapshots(&machine), 1, "{said}");
    let calm = tempfile::tempdir().unwrap();
    let calm = Machine::new(calm.path().join("repository").to_str().unwrap(), &[], &[]);
    tell_a_story(&calm, |told| told == versions);
    let ([_, bytes, unused], [_, calm_bytes, calm_unused]) = (packs(&machine), packs(&calm));
    let slack = calm_bytes / 50;
    assert!(
        bytes.abs_diff(calm_bytes) <= slack,
        "{bytes} bytes of packs, {calm_bytes} in the calm"
    );
    assert!(unused <= calm_unused + slack, "{unused} bytes unused, {calm_unused} in the calm");
}

#[test]
fn s3_gets_through_a_storm() {
    let server = FakeS3::start();
    let proxy = Proxy::start(server.address(), HTTP, 11);
    let (place, variables) = s3(proxy.address());
    get_through(&proxy, &place, &variables, &[]);
}

#[test]
fn s3_that_loses_races_gets_through_a_storm() {
    let Some(server) = s3s_fs() else { return };
    let proxy = Proxy::start(server.address(), HTTP, 15);
    let (place, variables) = s3(proxy.address());
    get_through(&proxy, &place, &variables, &[]);
}

#[test]
fn google_cloud_storage_gets_through_a_storm() {
    let server = FakeGcs::start();
    let proxy = Proxy::start(server.address(), HTTP, 12);
    let place = format!("gcs+http://{}/{BUCKET}/some/where", proxy.address());
    get_through(&proxy, &place, &[], &["-o".to_string(), "anonymous=true".to_string()]);
}

#[test]
fn b2_gets_through_a_storm() {
    let server = FakeB2::start(Mood { token_uses: 40, busy_after: 10 });
    let proxy = Proxy::start(server.address(), HTTP, 13);
    let (place, variables) = b2(proxy.address());
    get_through(&proxy, &place, &variables, &[]);
    assert!(server.seen().expired > 0 && server.seen().busy > 0, "{:?}", server.seen());
}

#[test]
fn sftp_gets_through_a_storm() {
    let Some(server) = Sshd::start() else { return };
    let address = SocketAddr::from(([127, 0, 0, 1], server.port()));
    let proxy = Proxy::start(address, SSH, 14);
    let place = server.place_through(proxy.address().port(), "some/where");
    let variables = [("AUMBRY_STORE_SSH_COMMAND", server.command_through())];
    get_through(&proxy, &place, &variables, &[]);
}
