//! Stores behind HTTP: what each does, what a probe finds out, and a bad network between.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use aumbry::monitor::RecordingMonitor;
use aumbry::store::location::Location;
use aumbry::store::{Access, Created, Kind, LocalMode, Patience, Store};
use zeroize::Zeroizing;

use crate::conformance::{self, Extent};
use crate::fake_b2::{self, FakeB2, Mood};
use crate::fake_gcs::FakeGcs;
use crate::fake_s3::FakeS3;
use crate::proxy::{Proxy, Weather};
use crate::servers::{
    self, ACCESS_KEY, AZURE_ACCOUNT, AZURE_KEY, BUCKET, SECRET_KEY, apache, azurite, moto, nginx,
    rclone_s3, rclone_webdav, s3s_fs,
};

/// A sort of server, as a location and what opens it.
#[derive(Clone, Copy)]
enum Sort {
    S3,
    Azblob,
    Gcs,
    B2,
    Webdav,
}

impl Sort {
    fn place(self, address: SocketAddr) -> String {
        self.place_of(address, "repository")
    }

    fn place_of(self, address: SocketAddr, prefix: &str) -> String {
        match self {
            Sort::S3 => format!("s3+http://{address}/{BUCKET}/{prefix}"),
            Sort::Azblob => format!("azblob+http://{address}/{AZURE_ACCOUNT}/{BUCKET}/{prefix}"),
            Sort::Gcs => format!("gcs+http://{address}/{BUCKET}/{prefix}"),
            Sort::B2 => format!("b2+http://{address}/{BUCKET}/{prefix}"),
            Sort::Webdav => format!("webdav+http://{address}/{BUCKET}/{prefix}"),
        }
    }

    fn settings(self) -> BTreeMap<String, Zeroizing<String>> {
        let settings: &[(&str, &str)] = match self {
            Sort::S3 => &[("access_key_id", ACCESS_KEY), ("secret_access_key", SECRET_KEY)],
            Sort::Azblob => &[("account_key", AZURE_KEY)],
            Sort::Gcs => &[("skip_signature", "true")],
            Sort::B2 => &[
                ("application_key_id", fake_b2::KEY_ID),
                ("application_key", fake_b2::KEY),
                ("bucket_id", fake_b2::BUCKET_ID),
            ],
            Sort::Webdav => &[],
        };
        let owned = settings.iter().map(|(key, value)| (key.to_string(), value.to_string()));
        owned.map(|(key, value)| (key, Zeroizing::new(value))).collect()
    }

    fn open_with(self, address: SocketAddr, access: Access) -> Store {
        self.open_at(&self.place(address), access)
    }

    fn open_at(self, place: &str, access: Access) -> Store {
        let location = Location::parse(OsStr::new(place), &[]).unwrap();
        let access = Access { settings: self.settings(), ..access };
        Store::open(&location, &access, LocalMode::Create).unwrap()
    }

    /// With as many calls at once as race.
    fn open(self, address: SocketAddr) -> Store {
        let connections = Some(Extent::FULL.racers);
        self.open_with(address, Access { connections, patience: quick(), ..Access::default() })
    }
}

/// What is asked of azurite, which answers all of its clients from one thread, and of rclone's WebDAV: [`Extent::FULL`] takes
/// each of them longer than a minute.
const SLOW: Extent = Extent { races: 20, listed: 1_200, large_bytes: 40_000_000, ..Extent::FULL };
/// What is asked of Apache. Of 64 that move an object to one name at once, it tells some that what they move is not there:
/// their creates fail. Nothing races here.
const APACHE: Extent = Extent { racers: 1, ..Extent::FULL };
/// What is asked of moto, which answers one request after another: 46 s.
const MOTO: Extent = Extent { races: 20, listed: 2_500, ..Extent::FULL };

/// What is asked of s3s-fs, which writes three files for each object, and looks at every one of the bucket for each page of a
/// listing: [`Extent::FULL`] takes it longer than a minute. What it knows of an object is in a file whose name is a third longer
/// than the object's: of names longer than 160 bytes it says that it failed, although the object is there.
const S3S_FS: Extent = Extent { races: 50, listed: 2_500, name_bytes: 100, ..Extent::FULL };

/// A store that honours conditions, as a probe finds, too.
fn is_whole_and_creates_once(sort: Sort, address: SocketAddr, extent: &Extent) {
    let store = sort.open(address);
    let found = store.probe("whole").unwrap();
    assert_eq!(found.lacks(true), None, "{found:?}");
    assert!(found.creates_once && found.races_prove_it, "{found:?}");
    conformance::check(&store, extent);
    odd_prefixes_are_kept_apart(sort, address);
}

/// One that does not, of which the probe finds that.
fn is_whole_in_the_second_form(sort: Sort, address: SocketAddr, extent: &Extent) {
    let store = sort.open(address);
    let found = store.probe("second").unwrap();
    assert_eq!(found.lacks(false), None, "{found:?}");
    assert!(!found.creates_once, "{found:?}");
    conformance::check_writing_over(&store.without_conditions(), extent);
    odd_prefixes_are_kept_apart(sort, address);
}

/// Names of objects are plain, but they stand below what a person calls a folder.
fn odd_prefixes_are_kept_apart(sort: Sort, address: SocketAddr) {
    let prefixes =
        ["a b", "a+b", "a&b=c", "\u{fc}ber/\u{65e5}\u{672c}", "it's", "a~b!(c)", "x", "x y", "x/y"];
    let stores: Vec<Store> = prefixes
        .iter()
        .map(|prefix| sort.open_at(&sort.place_of(address, prefix), Access::default()))
        .map(|store| if store.is_conditional() { store } else { store.without_conditions() })
        .collect();
    for (store, prefix) in stores.iter().zip(prefixes) {
        for name in ["config", "keys/1"] {
            let bytes = format!("{name} below {prefix}").into_bytes();
            assert_eq!(store.create(name, bytes), Ok(Created::New), "{name} below {prefix}");
        }
    }
    for (store, prefix) in stores.iter().zip(prefixes) {
        let bytes = format!("keys/1 below {prefix}").into_bytes();
        assert_eq!(store.get("keys/1").unwrap(), bytes, "{prefix}");
        assert_eq!(store.get_range("keys/1", 5..9).unwrap(), bytes[5..9], "{prefix}");
        assert_eq!(store.size("keys/1"), Ok(Some(bytes.len() as u64)), "{prefix}");
        let listed = store.list("keys/").unwrap();
        let listed: Vec<_> = listed.iter().map(|object| object.name.as_str()).collect();
        assert_eq!(listed, ["keys/1"], "{prefix}");
        store.delete("keys/1").unwrap();
        assert_eq!(store.size("keys/1"), Ok(None), "{prefix}");
        assert_eq!(store.get("config").unwrap(), format!("config below {prefix}").as_bytes());
    }
}

/// An upload that breaks off is not to be seen: neither half of it nor in a listing.
fn cut_uploads_show_nothing(sort: Sort, address: SocketAddr) {
    let store = sort.open(address).without_conditions();
    let weather = Weather { fine: 0, cut_request: 1, ..Weather::CLEAR };
    let proxy = Proxy::start(address, weather, 3);
    // Each attempt is the last one.
    let patience = Patience { total: Duration::ZERO, first: Duration::ZERO, ..quick() };
    let access = Access { patience, ..Access::default() };
    conformance::check_cut_off(&store, &sort.open_with(proxy.address(), access));
    assert!(proxy.counts().cut_requests.load(Ordering::Relaxed) > 0, "{:?}", proxy.counts());
}

#[test]
fn s3_with_conditions_conforms() {
    let Some(server) = moto() else { return };
    is_whole_and_creates_once(Sort::S3, server.address(), &MOTO);
}

#[test]
fn s3_as_it_is_documented_conforms() {
    let server = FakeS3::start();
    is_whole_and_creates_once(Sort::S3, server.address(), &Extent::FULL);
    cut_uploads_show_nothing(Sort::S3, server.address());
}

#[test]
fn s3_that_ignores_conditions_is_found_out() {
    let Some(server) = rclone_s3() else { return };
    is_whole_in_the_second_form(Sort::S3, server.address(), &Extent::FULL);
    cut_uploads_show_nothing(Sort::S3, server.address());
}

#[test]
fn s3_that_loses_races_is_found_out() {
    let Some(server) = s3s_fs() else { return };
    is_whole_in_the_second_form(Sort::S3, server.address(), &S3S_FS);
    cut_uploads_show_nothing(Sort::S3, server.address());
}

#[test]
fn s3_that_honours_conditions_but_in_races_never_passes_a_probe() {
    let Some(server) = s3s_fs() else { return };
    let store = Sort::S3.open(server.address());
    // Whoever asks one thing after another sees a server that creates once.
    assert_eq!(store.create("taken", b"first".to_vec()), Ok(Created::New));
    assert_eq!(store.create("taken", b"other".to_vec()), Ok(Created::AlreadyThere));
    assert_eq!(store.get("taken").unwrap(), b"first");
    for probe in 0..20 {
        let found = store.probe(&format!("probe{probe}")).unwrap();
        assert!(!found.creates_once && found.writes_over, "{probe}: {found:?}");
    }
}

#[test]
fn s3_that_fails_whoever_races_proves_nothing() {
    let Some(server) = s3s_fs() else { return };
    // Names that this server cannot keep all it wants of: each create is told to have failed, and tried again when the race is over.
    let nonce = "n".repeat(160);
    let found = Sort::S3.open(server.address()).probe(&nonce).unwrap();
    // On a busy machine two are told at last that they won.
    assert!(!found.creates_once || !found.races_prove_it, "{found:?}");
}

#[test]
fn an_object_that_was_stored_and_told_to_have_failed_is_told_to_have_failed() {
    let Some(server) = s3s_fs() else { return };
    let patience = Patience { total: Duration::ZERO, first: Duration::ZERO, ..quick() };
    let access = Access { patience, ..Access::default() };
    let store = Sort::S3.open_with(server.address(), access).without_conditions();
    let name = "n".repeat(200);
    let error = store.create(&name, b"there".to_vec()).unwrap_err();
    assert_eq!(error.kind, Kind::Unavailable, "{error}");
    assert_eq!(store.get(&name).unwrap(), b"there");
}

#[test]
fn azure_conforms() {
    let Some(server) = azurite() else { return };
    is_whole_and_creates_once(Sort::Azblob, server.address(), &SLOW);
    cut_uploads_show_nothing(Sort::Azblob, server.address());
}

#[test]
fn google_cloud_storage_as_it_is_documented_conforms() {
    let server = FakeGcs::start();
    is_whole_and_creates_once(Sort::Gcs, server.address(), &Extent::FULL);
    cut_uploads_show_nothing(Sort::Gcs, server.address());
}

#[test]
fn b2_as_it_is_documented_conforms_in_the_second_form() {
    let server = FakeB2::start(Mood::default());
    is_whole_in_the_second_form(Sort::B2, server.address(), &Extent::FULL);
    cut_uploads_show_nothing(Sort::B2, server.address());
}

#[test]
fn webdav_by_nginx_conforms_in_the_second_form() {
    let Some(server) = nginx() else { return };
    is_whole_in_the_second_form(Sort::Webdav, server.address(), &Extent::FULL);
    cut_uploads_show_nothing(Sort::Webdav, server.address());
}

#[test]
fn webdav_by_apache_conforms_in_the_second_form() {
    let Some(server) = apache() else { return };
    is_whole_in_the_second_form(Sort::Webdav, server.address(), &APACHE);
    cut_uploads_show_nothing(Sort::Webdav, server.address());
}

#[test]
fn webdav_by_rclone_conforms_in_the_second_form() {
    let Some(server) = rclone_webdav() else { return };
    is_whole_in_the_second_form(Sort::Webdav, server.address(), &SLOW);
    cut_uploads_show_nothing(Sort::Webdav, server.address());
}

/// Waits that a test can afford.
fn quick() -> Patience {
    Patience {
        shortest_wait: Duration::from_millis(5),
        longest_wait: Duration::from_millis(50),
        ..Patience::default()
    }
}

/// Objects that are made through a storm are all there once, and whole.
fn a_storm_neither_loses_nor_doubles_anything(sort: Sort, address: SocketAddr) {
    const OBJECTS: usize = 120;
    // Connections are used again: one that nothing happens to would carry all the rest.
    let weather = Weather { fine: 0, ..Weather::STORMY };
    let proxy = Proxy::start(address, weather, 7);
    let access = Access { patience: quick(), ..Access::default() };
    let store = sort.open_with(proxy.address(), access);
    let is_conditional = store.is_conditional();
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
        if is_conditional {
            assert_eq!(
                store.create(&object.name, b"another's".to_vec()).unwrap(),
                Created::AlreadyThere
            );
        }
    }
    assert!(proxy.counts().faults() > 10, "{:?}", proxy.counts());
    assert!(proxy.counts().swallowed_replies.load(Ordering::Relaxed) > 0, "{:?}", proxy.counts());
    assert!(store.traffic().retries > 0);
}

// Servers of our own, which store no upload that broke off; moto does now and then.

#[test]
fn a_bad_network_before_google_cloud_storage_neither_loses_nor_doubles_anything() {
    let server = FakeGcs::start();
    a_storm_neither_loses_nor_doubles_anything(Sort::Gcs, server.address());
}

#[test]
fn a_bad_network_before_s3_neither_loses_nor_doubles_anything() {
    let server = FakeS3::start();
    a_storm_neither_loses_nor_doubles_anything(Sort::S3, server.address());
}

#[test]
fn tokens_of_b2_that_expire_and_places_that_are_busy_are_replaced() {
    const OBJECTS: usize = 60;
    let mood = Mood { token_uses: 7, busy_after: 3 };
    let server = FakeB2::start(mood);
    let access = Access { patience: quick(), ..Access::default() };
    let store = Sort::B2.open_with(server.address(), access).without_conditions();
    let name = |number: usize| format!("packs/{number:02}");
    for number in 0..OBJECTS {
        let bytes = vec![number as u8; 1000 + number];
        assert_eq!(store.create(&name(number), bytes.clone()), Ok(Created::New));
        assert_eq!(store.get(&name(number)), Ok(bytes));
        assert_eq!(store.size(&name(number)), Ok(Some(1000 + number as u64)));
    }
    assert_eq!(store.list("packs/").unwrap().len(), OBJECTS);
    let seen = server.seen();
    assert!(seen.expired > 20 && seen.authorized > 20, "{seen:?}");
    assert!(seen.busy > 10, "{seen:?}");
    // One upload of each, although many were tried twice.
    assert!(server.versions().values().all(|versions| *versions == 1), "{:?}", server.versions());
    // Eight that find it out at once, and none of them is lost.
    server.expire_tokens();
    thread::scope(|scope| {
        for thread in 0..8 {
            let store = &store;
            scope.spawn(move || store.get(&name(thread)).unwrap());
        }
    });
    store.delete(&name(0)).unwrap();
    store.delete(&name(0)).unwrap();
    assert_eq!(store.list("packs/").unwrap().len(), OBJECTS - 1);
}

#[test]
fn a_key_that_b2_does_not_know_is_told() {
    let server = FakeB2::start(Mood::default());
    let location = Location::parse(OsStr::new(&Sort::B2.place(server.address())), &[]).unwrap();
    let mut settings = Sort::B2.settings();
    settings.insert("application_key".into(), Zeroizing::new("hunter2".into()));
    let access = Access { settings, patience: quick(), ..Access::default() };
    let store = Store::open(&location, &access, LocalMode::Create).unwrap();
    let error = store.get("config").unwrap_err();
    assert_eq!(error.kind, Kind::Denied, "{error}");
    assert!(error.message.contains("unauthorized"), "{error}");
    assert!(!error.to_string().contains("hunter2"), "{error}");
    assert_eq!(server.seen().authorized, 0);
}

#[test]
fn a_listing_of_b2_takes_a_page_for_a_thousand_names() {
    let server = FakeB2::start(Mood::default());
    let store = Sort::B2.open(server.address()).without_conditions();
    thread::scope(|scope| {
        for thread in 0..8 {
            let store = &store;
            scope.spawn(move || {
                for number in (thread..1500).step_by(8) {
                    store.create(&format!("packs/{number:04}"), vec![1]).unwrap();
                }
            });
        }
    });
    let before = server.seen().pages;
    assert_eq!(store.list("packs/").unwrap().len(), 1500);
    assert_eq!(server.seen().pages - before, 2);
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
    assert_eq!(error.kind, Kind::Denied, "{error}");
    assert!(!error.to_string().contains("d3JvbmcgYnkg"), "{error}");

    let place = place.replace(servers::BUCKET, "no-such-container");
    let location = Location::parse(OsStr::new(&place), &[]).unwrap();
    let access = Access { settings: Sort::Azblob.settings(), ..Access::default() };
    let store = Store::open(&location, &access, LocalMode::Create).unwrap();
    let error = store.create("config", b"x".to_vec()).unwrap_err();
    assert!(error.to_string().contains("ontainer"), "{error}");
}
