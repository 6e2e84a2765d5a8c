//! SFTP through `ssh` and a real `sshd`.

use std::ffi::OsStr;
use std::fs;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use aumbry::store::location::Location;
use aumbry::store::{Access, Created, Kind, LocalMode, Patience, Store};
use rustix::process::{Signal, kill_process};
use zeroize::Zeroizing;

use crate::conformance::{self, Extent};
use crate::proxy::{Proxy, Weather};
use crate::sshd::Sshd;

/// Bytes that differ from place to place.
fn pattern(length: usize) -> Vec<u8> {
    (0..length as u64)
        .map(|place| (place.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8)
        .collect()
}

#[test]
fn sftp_store_conforms() {
    let Some(server) = Sshd::start() else { return };
    conformance::check(&server.store(4), &Extent::FULL);
    assert_eq!(server.temporaries(), 0);
}

#[test]
fn an_upload_whose_connections_are_cut_shows_nothing_until_it_is_whole() {
    const ROUNDS: usize = 6;
    let Some(server) = Sshd::start() else { return };
    let store = server.store(2);
    let bytes = pattern(40_000_000);
    let mut cuts = 0;
    for round in 0..ROUNDS {
        let name = format!("packs/00/{round}");
        let path = server.root().join(&name);
        thread::scope(|scope| {
            let before = server.temporaries();
            let upload = scope.spawn(|| store.create(&name, bytes.clone()));
            while !upload.is_finished() && server.temporaries() <= before {
                thread::yield_now();
            }
            cuts += server.cut_clients();
            while !upload.is_finished() {
                if let Ok(metadata) = fs::metadata(&path) {
                    assert_eq!(metadata.len(), bytes.len() as u64, "a torn object is visible");
                }
                thread::yield_now();
            }
            assert_eq!(upload.join().unwrap(), Ok(Created::New));
        });
        assert!(store.get(&name).unwrap() == bytes);
        let range = store.get_range(&name, 12_345_678..23_456_789).unwrap();
        assert!(range == bytes[12_345_678..23_456_789]);
    }
    assert!(cuts >= ROUNDS, "{cuts}");
    assert_eq!(store.list("").unwrap().len(), ROUNDS);
}

#[test]
fn an_upload_that_is_cut_and_not_tried_again_shows_nothing() {
    let Some(server) = Sshd::start() else { return };
    // Behind ssh's handshake.
    let weather = Weather { fine: 0, cut_request: 1, spared: (8_000, 0), ..Weather::CLEAR };
    let address = SocketAddr::from(([127, 0, 0, 1], server.port()));
    let proxy = Proxy::start(address, weather, 5);
    let place = server.place_through(proxy.address().port(), "");
    let location = Location::parse(OsStr::new(&place), &[]).unwrap();
    let settings = [("ssh_command".to_string(), Zeroizing::new(server.command_through()))];
    let patience = Patience { total: Duration::ZERO, first: Duration::ZERO, ..Patience::default() };
    let access =
        Access { settings: settings.into(), patience, connections: Some(1), ..Access::default() };
    let cut = Store::open(&location, &access, LocalMode::Create).unwrap();
    conformance::check_cut_off(&server.store(1), &cut);
    assert!(proxy.counts().cut_requests.load(Ordering::Relaxed) > 4, "{:?}", proxy.counts());
}

#[test]
fn odd_names_are_kept_apart() {
    let Some(server) = Sshd::start() else { return };
    let store = server.store(1);
    let long = "l".repeat(200);
    let names =
        ["-", "--", "_", "a", "A", "a.", "a..", "a-", "CON", "nul.txt", "0", "00", "-rf", &long];
    for folder in ["", "-f/", "x.y/", "tmp.x/", "x/tmp/"] {
        for name in names {
            let name = format!("{folder}{name}");
            assert_eq!(store.create(&name, name.clone().into_bytes()), Ok(Created::New), "{name}");
        }
    }
    let objects = store.list("").unwrap();
    assert_eq!(objects.len(), 5 * names.len());
    for object in objects {
        assert_eq!(store.get(&object.name).unwrap(), object.name.as_bytes());
        store.delete(&object.name).unwrap();
    }
    assert_eq!(store.list("").unwrap(), []);
}

#[test]
fn a_host_key_that_is_unknown_or_another_one_is_told() {
    let Some(server) = Sshd::start() else { return };
    server.know(&[]);
    let error = server.store(1).get("config").unwrap_err();
    assert_eq!(error.kind, Kind::Denied);
    assert!(
        error.message.contains("Host key verification failed: run `ssh 127.0.0.1` once"),
        "{error}"
    );
    server.know(&["other_key"]);
    let error = server.store(1).get("config").unwrap_err();
    assert_eq!(error.kind, Kind::Denied);
    assert!(error.message.contains("the host key is another one"), "{error}");
    server.know(&["host_key"]);
    assert_eq!(server.store(1).get("config").unwrap_err().kind, Kind::NotFound);
}

#[test]
fn a_key_that_the_server_does_not_know_is_told() {
    let Some(server) = Sshd::start() else { return };
    server.log_in_with("other_key");
    let error = server.store(1).get("config").unwrap_err();
    assert_eq!(error.kind, Kind::Denied);
    assert!(error.message.contains("Permission denied (publickey): "), "{error}");
    assert!(error.message.contains("ssh-copy-id 127.0.0.1"), "{error}");
}

#[test]
fn a_server_without_sftp_is_told() {
    let Some(server) = Sshd::start_with("") else { return };
    let error = server.store(1).get("config").unwrap_err();
    assert_eq!(error.kind, Kind::Invalid);
    assert!(error.message.contains("subsystem request failed"), "{error}");
    assert!(error.message.contains("`Subsystem sftp internal-sftp`"), "{error}");
}

#[test]
fn an_interruption_at_the_terminal_does_not_end_the_connection() {
    let Some(server) = Sshd::start() else { return };
    let store = server.store(1);
    store.create("config", vec![1]).unwrap();
    let clients = server.clients();
    assert_eq!(clients.len(), 1);
    for _ in 0..20 {
        kill_process(clients[0], Signal::INT).unwrap();
        assert_eq!(store.get("config").unwrap(), [1]);
    }
    assert_eq!(server.clients(), clients);
}
