//! Stores that are far away, odd, or out of reach.

use std::sync::Arc;
use std::time::Duration;

use opendal::ErrorKind;

use super::odd::{Failure, Odd, Oddity};
use super::*;
use crate::clock::{Clock, FakeClock};
use crate::monitor::RecordingMonitor;
use crate::units::Timestamp;

/// A store over a service, by a clock that only waiting moves.
struct Far {
    service: Odd,
    store: Store,
    clock: Arc<FakeClock>,
    monitor: Arc<RecordingMonitor>,
}

fn far(oddity: Oddity) -> Far {
    let service = Odd::new(oddity);
    let clock = Arc::new(FakeClock::new(Timestamp { seconds: 1_000_000, nanoseconds: 0 }));
    clock.sleep(Duration::from_secs(10));
    let monitor = Arc::new(RecordingMonitor::default());
    let access = Access { clock: clock.clone(), monitor: monitor.clone(), ..Access::default() };
    let store = Store::remote_with(service.operator(), "far away", &access);
    Far { service, store, clock, monitor }
}

fn passing() -> Failure {
    Failure::Before(ErrorKind::Unexpected, true)
}

#[test]
fn what_passes_is_outlasted_and_told() {
    let far = far(Oddity::Honest);
    far.service.fail(vec![passing(); 6]);
    let begun = far.clock.elapsed();
    assert_eq!(far.store.create("a", vec![1]), Ok(Created::New));
    // 0.2, 0.4, 0.8, 1.6, 3.2 and 6.4 seconds, each at least by half.
    let waited = far.clock.elapsed() - begun;
    assert!(waited >= Duration::from_millis(6_300), "{waited:?}");
    assert!(waited <= Duration::from_millis(12_700), "{waited:?}");
    assert_eq!(far.service.calls(), 7);
    let traffic = far.store.traffic();
    assert_eq!((traffic.retries, traffic.writes, traffic.uploaded_bytes), (6, 1, 1));
    let notes = far.monitor.notes();
    assert!(!notes.is_empty());
    assert!(notes[0].starts_with("far away: as the test wants it; trying again in "), "{notes:?}");
}

#[test]
fn what_stays_is_reported_at_once() {
    for (kind, reported) in [
        (ErrorKind::PermissionDenied, Kind::Denied),
        (ErrorKind::NotFound, Kind::NotFound),
        (ErrorKind::ConfigInvalid, Kind::Invalid),
        (ErrorKind::Unexpected, Kind::Unavailable),
    ] {
        let far = far(Oddity::Honest);
        far.service.fail([Failure::Before(kind, false)]);
        assert_eq!(far.store.get("a").unwrap_err().kind, reported);
        assert_eq!((far.service.calls(), far.store.traffic().retries), (1, 0), "{kind}");
    }
}

#[test]
fn a_denial_that_may_pass_is_tried_three_times() {
    let far = far(Oddity::Honest);
    far.service.fail(vec![Failure::Before(ErrorKind::PermissionDenied, true); 9]);
    assert_eq!(far.store.get("a").unwrap_err().kind, Kind::Denied);
    assert_eq!(far.service.calls(), 3);
}

#[test]
fn a_store_that_never_answered_is_given_half_a_minute_and_others_a_quarter_of_an_hour() {
    let far = far(Oddity::Honest);
    far.service.fail(vec![passing(); 1000]);
    let begun = far.clock.elapsed();
    let error = far.store.get("a").unwrap_err();
    assert_eq!(error.kind, Kind::Unavailable);
    assert!(error.message.contains("attempts"), "{error}");
    let waited = far.clock.elapsed() - begun;
    assert!(waited <= Duration::from_secs(30), "{waited:?}");
    assert!(waited >= Duration::from_secs(5), "{waited:?}");

    far.service.fail([]);
    assert_eq!(far.store.create("a", vec![1]), Ok(Created::New));
    far.service.fail(vec![passing(); 1000]);
    let begun = far.clock.elapsed();
    assert_eq!(far.store.get("a").unwrap_err().kind, Kind::Unavailable);
    let waited = far.clock.elapsed() - begun;
    assert!(waited > Duration::from_secs(14 * 60), "{waited:?}");
    assert!(waited <= Duration::from_secs(15 * 60), "{waited:?}");
}

#[test]
fn a_create_whose_reply_was_lost_is_known_as_our_own() {
    let far = far(Oddity::Honest);
    far.service.fail([Failure::After(ErrorKind::Unexpected, true)]);
    assert_eq!(far.store.create("a", vec![1, 2, 3]), Ok(Created::New));
    assert_eq!(far.store.create("a", vec![3, 2, 1]), Ok(Created::AlreadyThere));
    assert_eq!(far.store.get("a"), Ok(vec![1, 2, 3]));
}

#[test]
fn a_wish_to_stop_ends_a_wait_and_a_call_under_way() {
    let far = far(Oddity::Honest);
    far.service.fail([passing()]);
    far.monitor.interrupt();
    assert_eq!(far.store.get("a").unwrap_err().kind, Kind::Interrupted);

    // A call that never ends: the wish comes while it is under way.
    let service = Odd::new(Oddity::Honest);
    service.fail(vec![Failure::Silent; 2]);
    let monitor = Arc::new(RecordingMonitor::default());
    let access = Access { monitor: monitor.clone(), ..Access::default() };
    let store = Store::remote_with(service.operator(), "far away", &access);
    std::thread::scope(|scope| {
        let call = scope.spawn(|| store.get("a"));
        while service.calls() == 0 {
            std::thread::yield_now();
        }
        monitor.interrupt();
        assert_eq!(call.join().unwrap().unwrap_err().kind, Kind::Interrupted);
    });
}

#[test]
fn what_begins_after_the_wish_to_stop_may_say_goodbye() {
    let far = far(Oddity::Honest);
    far.monitor.interrupt();
    assert_eq!(far.store.create("goodbye", vec![1]), Ok(Created::New));
    far.clock.sleep(Duration::from_secs(1));
    assert_eq!(far.store.create("late", vec![1]).unwrap_err().kind, Kind::Interrupted);
}

#[test]
fn silence_is_a_failure_that_passes() {
    let service = Odd::new(Oddity::Honest);
    service.fail([Failure::Silent]);
    let patience = Patience { silence: Duration::from_millis(10), ..Patience::default() };
    let access = Access { patience, ..Access::default() };
    let store = Store::remote_with(service.operator(), "far away", &access);
    assert_eq!(store.create("a", vec![1]), Ok(Created::New));
    assert_eq!((service.calls(), store.traffic().retries), (2, 1));
}

#[test]
fn a_limit_makes_a_disk_wait_as_long_as_its_bytes_take() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Arc::new(FakeClock::new(Timestamp { seconds: 0, nanoseconds: 0 }));
    let access = Access {
        clock: clock.clone(),
        upload_limit: Some(1000),
        download_limit: Some(500),
        ..Access::default()
    };
    let location = location::Location::local(folder.path());
    let store = Store::open(&location, &access, LocalMode::Open).unwrap();
    for name in ["a", "b", "c"] {
        store.create(name, vec![0; 2000]).unwrap();
    }
    let written = clock.elapsed();
    assert_eq!(written.as_secs(), 4, "the first goes at once, the third after two others");
    for name in ["a", "b", "c"] {
        store.get(name).unwrap();
    }
    // The line down has idled until now, and makes up for a tenth of a second.
    assert_eq!((clock.elapsed() - written).as_millis(), 7_900);
}

fn probe(oddity: Oddity) -> Capabilities {
    far(oddity).store.probe("0123").unwrap()
}

#[test]
fn an_honest_store_does_everything_and_is_left_clean() {
    let far = far(Oddity::Honest);
    let found = far.store.probe("0123").unwrap();
    let expected = Capabilities {
        creates_once: true,
        races_prove_it: true,
        writes_over: false,
        reads_written: true,
        lists_written: true,
        forgets_deleted: Some(true),
    };
    assert_eq!(found, expected);
    assert_eq!((found.lacks(true), found.lacks(false)), (None, None));
    assert_eq!(far.store.list("").unwrap(), []);
}

#[test]
fn a_store_that_ignores_the_condition_or_loses_races_is_noticed() {
    for oddity in [
        Oddity::IgnoresConditions,
        Oddity::LosesRaces,
        Oddity::Unconditional,
        Oddity::RefusesConditions,
    ] {
        let found = probe(oddity);
        assert!(!found.creates_once && found.writes_over, "{oddity:?}: {found:?}");
        assert_eq!(found.lacks(false), None, "{oddity:?}");
        assert!(found.lacks(true).unwrap().contains("two clients"), "{oddity:?}");
    }
}

#[test]
fn a_store_that_fails_whoever_races_proves_nothing() {
    let far = far(Oddity::Stumbles);
    let found = far.store.probe("0123").unwrap();
    // Whoever comes again comes when the race is over: it looks like an honest store.
    assert!(found.creates_once && !found.races_prove_it, "{found:?}");
    // A repository that relies on it goes on, as nothing was seen to be otherwise.
    assert_eq!((found.lacks(true), found.lacks(false)), (None, None));
    assert_eq!(far.store.list("").unwrap(), []);
}

#[test]
fn a_store_that_fails_now_and_then_can_be_asked() {
    let found = probe(Oddity::Flaky);
    assert!(found.creates_once && found.races_prove_it, "{found:?}");
    assert_eq!(found.lacks(true), None);
}

#[test]
fn a_store_where_no_repository_can_live_is_noticed() {
    for (oddity, lack) in [
        (Oddity::ListsLate, "missing from a listing"),
        (Oddity::ReadsLate, "not there when it is read"),
        (Oddity::RemembersDeleted, "still there"),
        (Oddity::KeepsTheFirst, "neither creates only once"),
    ] {
        let found = probe(oddity);
        assert!(
            found.lacks(false).is_some_and(|found| found.contains(lack)),
            "{oddity:?}: {found:?}"
        );
    }
}

#[test]
fn a_key_that_may_only_create_is_enough() {
    let far = far(Oddity::CreatesOnly);
    let found = far.store.probe("0123").unwrap();
    assert_eq!((found.creates_once, found.forgets_deleted), (true, None));
    assert_eq!(found.lacks(true), None);
}

#[test]
fn a_store_that_deletes_nothing_for_whatever_reason_is_enough() {
    let found = probe(Oddity::Retains);
    assert_eq!((found.creates_once, found.forgets_deleted), (true, None));
    assert_eq!(found.lacks(true), None);
}

#[test]
fn races_are_races_over_one_connection_and_a_bounded_line_too() {
    let service = Odd::new(Oddity::LosesRaces);
    let clock = Arc::new(FakeClock::new(Timestamp { seconds: 0, nanoseconds: 0 }));
    let access = Access {
        clock,
        connections: Some(1),
        upload_limit: Some(1000),
        download_limit: Some(1000),
        ..Access::default()
    };
    let store = Store::remote_with(service.operator(), "far away", &access);
    assert!(!store.probe("0123").unwrap().creates_once);
    // What the racers did counts as well.
    assert_eq!(store.traffic().requests(), service.calls() as u64);
}

/// A store that is said to list names in their order, with these objects.
fn in_order(oddity: Oddity, names: &[&str]) -> (Odd, Store) {
    let far = far(oddity);
    for name in names {
        far.store.create(name, vec![1]).unwrap();
    }
    let inner = Inner { lists_in_order: true, ..far.store.inner.like() };
    (far.service, Store::of(inner))
}

fn names_of(store: &Store, folders: &[&str]) -> Vec<String> {
    let listed = store.list_folders(folders, 2).unwrap();
    listed.into_iter().map(|object| object.name).collect()
}

#[test]
fn several_folders_are_one_listing_only_where_names_come_in_order() {
    let names = ["config", "damaged/a", "keys/a", "sessions/a", "snapshots/a"];
    let without_config = &names[1..];
    let many: Vec<String> =
        (0..=listing::PAGE_MARGIN).map(|number| format!("aborts/{number:04}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).chain(names).collect();
    for (oddity, names, calls_from_root, calls_from_letter) in [
        (Oddity::Honest, &names[..], 1, 1),
        (Oddity::Honest, without_config, 1 + 2, 1),
        (Oddity::Honest, &many[..], 1 + 2, 1),
        (Oddity::ListsBackwards, &names[..], 1 + 2, 1 + 2),
        (Oddity::ListsFolders, &names[..], 1, 1 + 2),
    ] {
        let (service, store) = in_order(oddity, names);
        for (folders, wanted, calls) in [
            (["damaged/", "keys/"], ["damaged/a", "keys/a"], calls_from_root),
            (["sessions/", "snapshots/"], ["sessions/a", "snapshots/a"], calls_from_letter),
        ] {
            let before = service.calls();
            assert_eq!(names_of(&store, &folders), wanted, "{oddity:?}");
            let case = format!("{oddity:?} {folders:?} of {}", names.len());
            assert_eq!(service.calls() - before, calls, "{case}");
        }
    }
}

#[test]
fn the_same_store_used_otherwise_shares_its_threads() {
    let far = far(Oddity::Honest);
    far.store.create("a", vec![1]).unwrap();
    let other = far.store.clone().without_conditions().unproven();
    assert!(Arc::ptr_eq(&far.store.inner.runtime, &other.inner.runtime));
    assert_eq!(other.identity(), far.store.identity());
}

#[test]
fn a_guarded_store_is_probed_before_its_first_write_and_only_then() {
    let far = far(Oddity::Honest);
    let store = far.store.clone().guarded(true, "0123");
    assert_eq!(store.size("a"), Ok(None));
    assert_eq!((far.service.calls(), store.probed()), (1, None));
    store.create("a", vec![1]).unwrap();
    let calls = far.service.calls();
    assert!(calls > 100 && store.probed().is_some());
    store.create("b", vec![1]).unwrap();
    assert_eq!(far.service.calls(), calls + 1);
}

#[test]
fn what_is_excused_is_created_before_the_probe_and_nothing_else() {
    let far = far(Oddity::Honest);
    let store = far.store.clone().guarded(true, "0123");
    store.excuse("sessions/a");
    assert_eq!(store.create("sessions/a", vec![1]), Ok(Created::New));
    assert_eq!((far.service.calls(), store.probed()), (1, None));
    store.delete("sessions/a").unwrap();
    assert!(store.probed().is_some(), "to delete is not excused");
    // A store that does less takes what is excused, and nothing else.
    let other = self::far(Oddity::IgnoresConditions);
    let store = other.store.clone().guarded(true, "0123");
    store.excuse("sessions/a");
    assert_eq!(store.create("sessions/b", vec![1]).unwrap_err().kind, Kind::Invalid);
    assert_eq!(store.create("sessions/a", vec![1]), Ok(Created::New));
}

#[test]
fn folders_that_are_listed_at_once_come_as_one_after_another() {
    let far = far(Oddity::Honest);
    for name in ["gc/a", "index/b", "index/c", "keys/d", "other/e"] {
        far.store.create(name, vec![1]).unwrap();
    }
    let folders = ["damaged/", "gc/", "index/", "keys/"];
    let listed = far.store.list_folders_at_once(&folders, 9).unwrap();
    assert_eq!(listed, far.store.list_folders(&folders, 9).unwrap());
    assert_eq!(listed.len(), 4);
    far.service.fail([Failure::Before(ErrorKind::PermissionDenied, false)]);
    assert_eq!(far.store.list_folders_at_once(&folders, 9).unwrap_err().kind, Kind::Denied);
}

#[test]
fn a_store_that_changed_its_mind_is_read_and_not_written() {
    let far = far(Oddity::IgnoresConditions);
    far.store.create("a", vec![1]).unwrap();
    let store = far.store.clone().guarded(true, "0123");
    for _ in 0..2 {
        let error = store.create("b", vec![1]).unwrap_err();
        assert_eq!(error.kind, Kind::Invalid);
        assert!(error.message.contains("not what it was"), "{error}");
        assert_eq!(store.delete("a").unwrap_err().kind, Kind::Invalid);
    }
    assert_eq!(store.get("a"), Ok(vec![1]));
    assert_eq!(store.size("b"), Ok(None));
}

#[cfg(feature = "s3")]
mod http {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use zeroize::Zeroizing;

    use super::*;
    use crate::store::location::Location;

    /// Answers requests with replies, one after the other and the last for ever, and remembers their first lines.
    fn server(replies: Vec<String>) -> (u16, Arc<parking_lot::Mutex<Vec<String>>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen = Arc::new(parking_lot::Mutex::new(Vec::new()));
        let requests = seen.clone();
        std::thread::spawn(move || {
            for (number, stream) in listener.incoming().enumerate() {
                let Ok(mut stream) = stream else { return };
                if let Some(line) = read_request(&mut stream) {
                    requests.lock().push(line);
                    let reply = replies.get(number).or(replies.last()).cloned().unwrap_or_default();
                    let _ = stream.write_all(reply.as_bytes());
                }
            }
        });
        (port, seen)
    }

    fn read_request(stream: &mut TcpStream) -> Option<String> {
        let mut bytes = Vec::new();
        let mut byte = [0; 1];
        while !bytes.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte).ok()?;
            bytes.push(byte[0]);
        }
        let head = String::from_utf8(bytes).ok()?;
        let length = head.to_lowercase().lines().find_map(|line| {
            line.strip_prefix("content-length:").and_then(|value| value.trim().parse().ok())
        });
        let mut body = vec![0; length.unwrap_or(0)];
        stream.read_exact(&mut body).ok()?;
        head.lines().next().map(str::to_string)
    }

    fn reply(status: &str, headers: &str, body: &str) -> String {
        let length = body.len();
        format!(
            "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n{headers}\r\n{body}"
        )
    }

    fn store(port: u16, clock: &Arc<FakeClock>) -> (Store, Arc<RecordingMonitor>) {
        let place = format!("s3+http://127.0.0.1:{port}/bucket/a");
        let location = Location::parse(std::ffi::OsStr::new(&place), &[]).unwrap();
        let monitor = Arc::new(RecordingMonitor::default());
        let mut access =
            Access { clock: clock.clone(), monitor: monitor.clone(), ..Access::default() };
        for (key, value) in [("access_key_id", "name"), ("secret_access_key", "hunter2")] {
            access.settings.insert(key.to_string(), Zeroizing::new(value.to_string()));
        }
        assert!(!format!("{access:?}").contains("hunter2"));
        (Store::open(&location, &access, LocalMode::Open).unwrap(), monitor)
    }

    fn clock() -> Arc<FakeClock> {
        // The moment of the Date headers below.
        let clock = FakeClock::new(Timestamp { seconds: 784_111_777, nanoseconds: 0 });
        Arc::new(clock)
    }

    #[test]
    fn the_servers_own_wish_to_be_left_alone_is_obeyed_and_everything_is_counted() {
        for (status, headers) in [
            ("503 Slow Down", "Retry-After: 17\r\n"),
            ("429 Too Many Requests", "Retry-After: Sun, 06 Nov 1994 08:49:54 GMT\r\n"),
        ] {
            let throttled = reply(status, headers, "");
            let (port, seen) = server(vec![throttled, reply("200 OK", "", "hello")]);
            let clock = clock();
            let (store, monitor) = store(port, &clock);
            let begun = clock.elapsed();
            assert_eq!(store.get("config"), Ok(b"hello".to_vec()));
            assert_eq!((clock.elapsed() - begun).as_secs(), 17, "{status}");
            assert_eq!(monitor.notes().len(), 1, "{:?}", monitor.notes());
            assert!(monitor.notes()[0].contains("trying again in 17 s"), "{:?}", monitor.notes());
            assert!(seen.lock().iter().all(|line| line.starts_with("GET /bucket/a/config ")));
            let traffic = store.traffic();
            assert_eq!((traffic.reads, traffic.retries, traffic.downloaded_bytes), (2, 1, 5));
            assert_eq!(traffic.requests(), 2);
        }
    }

    #[test]
    fn a_reply_that_breaks_off_is_fetched_again() {
        let broken = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel".to_string();
        let (port, _) = server(vec![broken, String::new(), reply("200 OK", "", "hello")]);
        let (store, _) = store(port, &clock());
        assert_eq!(store.get("config"), Ok(b"hello".to_vec()));
        assert_eq!(store.traffic().retries, 2);
    }

    #[test]
    fn an_upload_is_one_request_with_the_condition_and_all_its_bytes() {
        let (port, seen) = server(vec![reply("200 OK", "ETag: \"x\"\r\n", "")]);
        let (store, _) = store(port, &clock());
        assert_eq!(store.create("packs/00/x", vec![7; 1 << 20]), Ok(Created::New));
        assert_eq!(*seen.lock(), ["PUT /bucket/a/packs/00/x HTTP/1.1"]);
        assert_eq!(store.traffic().uploaded_bytes, 1 << 20);
    }

    #[test]
    fn errors_say_what_is_wrong_and_what_to_do() {
        let xml = |code: &str, message: &str| {
            format!(
                "<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>{message}</Message></Error>"
            )
        };
        for (status, headers, body, kind, words) in [
            (
                "404 Not Found",
                "",
                xml("NoSuchBucket", "The specified bucket does not exist"),
                Kind::Invalid,
                "make it first",
            ),
            (
                "403 Forbidden",
                "",
                xml("SignatureDoesNotMatch", "The signature does not match"),
                Kind::Denied,
                "SignatureDoesNotMatch: The signature does not match",
            ),
            (
                "403 Forbidden",
                "Date: Sun, 06 Nov 1994 09:09:37 GMT\r\n",
                xml("RequestTimeTooSkewed", "The difference is too large"),
                Kind::Denied,
                "clock is 20 minutes off",
            ),
            ("507 Insufficient Storage", "", String::new(), Kind::Full, "free some space"),
        ] {
            let (port, seen) = server(vec![reply(status, headers, &body)]);
            let (store, _) = store(port, &clock());
            let error = store.get("config").unwrap_err();
            assert_eq!(error.kind, kind, "{error}");
            assert!(error.message.contains(words), "{error}");
            assert!(!error.to_string().contains("hunter2"));
            assert_eq!(seen.lock().len(), 1, "{status} is not tried again");
        }
    }

    #[test]
    fn a_server_sends_us_elsewhere_on_itself_and_to_no_other() {
        let (other, seen_by_other) = server(vec![reply("200 OK", "", "another's")]);
        let elsewhere = format!("Location: http://127.0.0.1:{other}/bucket/a/config\r\n");
        let (port, _) = server(vec![reply("307 Temporary Redirect", &elsewhere, "")]);
        let (sent_away, _) = store(port, &clock());
        assert!(sent_away.get("config").is_err());
        assert!(seen_by_other.lock().is_empty());

        let here = reply("307 Temporary Redirect", "Location: /there\r\n", "");
        let (port, seen) = server(vec![here, reply("200 OK", "", "hello")]);
        let (sent_on, _) = store(port, &clock());
        assert_eq!(sent_on.get("config"), Ok(b"hello".to_vec()));
        let seen = seen.lock().clone();
        assert!(seen[1].starts_with("GET /there "), "{seen:?}");
    }

    #[test]
    fn a_server_that_is_not_there_is_named() {
        let port = {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            listener.local_addr().unwrap().port()
        };
        let (store, monitor) = store(port, &clock());
        let error = store.get("config").unwrap_err();
        assert_eq!(error.kind, Kind::Unavailable);
        let place = format!("s3+http://127.0.0.1:{port}/bucket/a: ");
        assert!(error.message.starts_with(&place), "{error}");
        assert!(error.message.contains("refused"), "{error}");
        assert!(!monitor.notes().is_empty());
    }
}
