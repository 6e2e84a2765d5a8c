//! Stores behind HTTP: what each does, what a probe finds out, and a bad network between.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use aumbry::monitor::RecordingMonitor;
use aumbry::store::location::Location;
use aumbry::store::{Access, Created, LocalMode, Patience, Store};
use zeroize::Zeroizing;

use crate::conformance;
use crate::fake_gcs::FakeGcs;
use crate::proxy::{Proxy, Weather};
use crate::servers::{
    self, ACCESS_KEY, AZURE_ACCOUNT, AZURE_KEY, BUCKET, SECRET_KEY, Server, apache, azurite, moto,
    nginx, rclone_s3, rclone_webdav,
};

/// A sort of server, as a location and what opens it.
#[derive(Clone, Copy)]
enum Sort {
    S3,
    Azblob,
    Gcs,
    Webdav,
}

impl Sort {
    fn place(self, address: SocketAddr) -> String {
        match self {
            Sort::S3 => format!("s3+http://{address}/{BUCKET}/repository"),
            Sort::Azblob => format!("azblob+http://{address}/{AZURE_ACCOUNT}/{BUCKET}/repository"),
            Sort::Gcs => format!("gcs+http://{address}/{BUCKET}/repository"),
            Sort::Webdav => format!("webdav+http://{address}/{BUCKET}/repository"),
        }
    }

    fn settings(self) -> BTreeMap<String, Zeroizing<String>> {
        let settings: &[(&str, &str)] = match self {
            Sort::S3 => &[("access_key_id", ACCESS_KEY), ("secret_access_key", SECRET_KEY)],
            Sort::Azblob => &[("account_key", AZURE_KEY)],
            Sort::Gcs => &[("skip_signature", "true")],
            Sort::Webdav => &[],
        };
        let owned = settings.iter().map(|(key, value)| (key.to_string(), value.to_string()));
        owned.map(|(key, value)| (key, Zeroizing::new(value))).collect()
    }

    fn open_with(self, address: SocketAddr, access: Access) -> Store {
        let location = Location::parse(OsStr::new(&self.place(address)), &[]).unwrap();
        let access = Access { settings: self.settings(), ..access };
        Store::open(&location, &access, LocalMode::Create).unwrap()
    }

    fn open(self, address: SocketAddr) -> Store {
        self.open_with(address, Access::default())
    }
}

/// A store that honours conditions, as a probe finds, too.
fn is_whole_and_creates_once(store: &Store) {
    let found = store.probe("whole").unwrap();
    assert_eq!(found.lacks(true), None, "{found:?}");
    assert!(found.creates_once, "{found:?}");
    conformance::check(store);
    many_racers_have_one_winner_each(store);
}

/// One that does not, of which the probe finds that.
fn is_whole_in_the_second_form(store: Store) {
    let found = store.probe("second").unwrap();
    assert_eq!(found.lacks(false), None, "{found:?}");
    assert!(!found.creates_once, "{found:?}");
    conformance::check_writing_over(&store.without_conditions());
}

fn many_racers_have_one_winner_each(store: &Store) {
    const RACERS: usize = 64;
    const NAMES: usize = 20;
    let start = Barrier::new(RACERS);
    let wins = thread::scope(|scope| {
        let racers: Vec<_> = (0..RACERS)
            .map(|racer| {
                let start = &start;
                scope.spawn(move || {
                    start.wait();
                    let create = |name: &usize| {
                        let bytes = format!("racer {racer} of {name}").into_bytes();
                        store.create(&format!("race/{name}"), bytes).unwrap() == Created::New
                    };
                    (0..NAMES).filter(create).collect::<Vec<_>>()
                })
            })
            .collect();
        racers.into_iter().flat_map(|racer| racer.join().unwrap()).collect::<Vec<_>>()
    });
    let mut sorted = wins.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, (0..NAMES).collect::<Vec<_>>(), "each name has one winner");
    (0..NAMES).for_each(|name| store.delete(&format!("race/{name}")).unwrap());
}

fn address(server: &Server) -> SocketAddr {
    server.address()
}

#[test]
fn s3_with_conditions_conforms() {
    let Some(server) = moto() else { return };
    is_whole_and_creates_once(&Sort::S3.open(address(&server)));
}

#[test]
fn s3_that_ignores_conditions_is_found_out() {
    let Some(server) = rclone_s3() else { return };
    is_whole_in_the_second_form(Sort::S3.open(address(&server)));
}

#[test]
fn azure_conforms() {
    let Some(server) = azurite() else { return };
    is_whole_and_creates_once(&Sort::Azblob.open(address(&server)));
}

#[test]
fn google_cloud_storage_as_it_is_documented_conforms() {
    let server = FakeGcs::start();
    is_whole_and_creates_once(&Sort::Gcs.open(server.address()));
}

#[test]
fn webdav_by_nginx_conforms_in_the_second_form() {
    let Some(server) = nginx() else { return };
    is_whole_in_the_second_form(Sort::Webdav.open(address(&server)));
}

#[test]
fn webdav_by_apache_conforms_in_the_second_form() {
    let Some(server) = apache() else { return };
    is_whole_in_the_second_form(Sort::Webdav.open(address(&server)));
}

#[test]
fn webdav_by_rclone_conforms_in_the_second_form() {
    let Some(server) = rclone_webdav() else { return };
    is_whole_in_the_second_form(Sort::Webdav.open(address(&server)));
}

/// Waits that a test can afford.
fn quick() -> Patience {
    Patience {
        shortest_wait: Duration::from_millis(5),
        longest_wait: Duration::from_millis(50),
        ..Patience::default()
    }
}

#[test]
fn a_bad_network_neither_loses_nor_doubles_anything() {
    const OBJECTS: usize = 120;
    // One that stores no upload that broke off, which moto does now and then.
    let server = FakeGcs::start();
    // Connections are used again: one that nothing happens to would carry all the rest.
    let weather = Weather { fine: 0, ..Weather::STORMY };
    let proxy = Proxy::start(server.address(), weather, 7);
    let access = Access { patience: quick(), ..Access::default() };
    let store = Sort::Gcs.open_with(proxy.address(), access);
    let bytes = |number: usize| {
        let length = if number.is_multiple_of(10) { 3_000_000 } else { 1_000 + number };
        vec![number as u8; length]
    };
    thread::scope(|scope| {
        for thread in 0..4 {
            let store = &store;
            scope.spawn(move || {
                for number in (thread..OBJECTS).step_by(4) {
                    let name = format!("storm/{number:04}");
                    // A lost reply must not look as if somebody else had been faster.
                    assert_eq!(store.create(&name, bytes(number)).unwrap(), Created::New, "{name}");
                    assert!(store.get(&name).unwrap() == bytes(number), "{name}");
                }
            });
        }
    });
    let listed = store.list("storm/").unwrap();
    assert_eq!(listed.len(), OBJECTS);
    for (number, object) in listed.iter().enumerate() {
        assert_eq!(
            (object.name.as_str(), object.size),
            (format!("storm/{number:04}").as_str(), bytes(number).len() as u64)
        );
        assert_eq!(
            store.create(&object.name, b"another's".to_vec()).unwrap(),
            Created::AlreadyThere
        );
    }
    assert!(proxy.counts().faults() > 10, "{:?}", proxy.counts());
    assert!(proxy.counts().swallowed_replies.load(Ordering::Relaxed) > 0, "{:?}", proxy.counts());
    assert!(store.traffic().retries > 0);
}

#[test]
fn a_dead_network_is_waited_for_and_a_wish_to_stop_ends_the_wait() {
    let Some(server) = moto() else { return };
    let proxy = Proxy::start(server.address(), Weather::CLEAR, 1);
    let monitor = Arc::new(RecordingMonitor::default());
    let access = Access { patience: quick(), monitor: monitor.clone(), ..Access::default() };
    let store = Sort::S3.open_with(proxy.address(), access);
    store.create("before", b"the storm".to_vec()).unwrap();
    proxy.set_weather(Weather { fine: 0, refuse: 1, ..Weather::CLEAR });
    proxy.cut_all();
    thread::scope(|scope| {
        let waiting = scope.spawn(|| store.get("before"));
        // It goes on asking until it gets through.
        while proxy.counts().refused.load(Ordering::Relaxed) < 5 {
            thread::yield_now();
        }
        assert!(!waiting.is_finished());
        proxy.set_weather(Weather::CLEAR);
        assert_eq!(waiting.join().unwrap().unwrap(), b"the storm");

        proxy.set_weather(Weather { fine: 0, refuse: 1, ..Weather::CLEAR });
        proxy.cut_all();
        let refused = proxy.counts().refused.load(Ordering::Relaxed);
        let waiting = scope.spawn(|| store.get("before"));
        while proxy.counts().refused.load(Ordering::Relaxed) < refused + 3 {
            thread::yield_now();
        }
        monitor.interrupt();
        waiting.join().unwrap().unwrap_err();
    });
}

#[test]
fn wrong_secrets_and_missing_buckets_are_named_at_once() {
    let Some(server) = azurite() else { return };
    let place = Sort::Azblob.place(server.address());
    let location = Location::parse(OsStr::new(&place), &[]).unwrap();
    let mut settings = Sort::Azblob.settings();
    settings.insert("account_key".into(), Zeroizing::new("d3JvbmcgYnkgb25lIGJ5dGUh".into()));
    let access = Access { settings, ..Access::default() };
    let store = Store::open(&location, &access, LocalMode::Create).unwrap();
    let error = store.get("config").unwrap_err();
    assert_eq!(error.kind, aumbry::store::Kind::Denied, "{error}");
    assert!(!error.to_string().contains("d3JvbmcgYnkg"), "{error}");

    let place = place.replace(servers::BUCKET, "no-such-container");
    let location = Location::parse(OsStr::new(&place), &[]).unwrap();
    let access = Access { settings: Sort::Azblob.settings(), ..Access::default() };
    let store = Store::open(&location, &access, LocalMode::Create).unwrap();
    let error = store.create("config", b"x".to_vec()).unwrap_err();
    assert!(error.to_string().contains("ontainer"), "{error}");
}
