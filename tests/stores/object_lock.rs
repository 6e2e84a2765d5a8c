//! S3 with Object Lock: what is written is locked, a prune prolongs it, and what somebody deleted comes back.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aumbry::clock::{Clock, FakeClock};
use aumbry::monitor::SilentMonitor;
use aumbry::ops::OpsError;
use aumbry::ops::prune::plan::UnusedLimit;
use aumbry::ops::prune::{PruneOptions, PruneSummary, prune};
use aumbry::repository::chance::Chance;
use aumbry::repository::keys::Credential;
use aumbry::repository::{Environment, Repository};
use aumbry::store::location::Location;
use aumbry::store::{Access, Created, Kind, LocalMode, LockMode, ObjectLock, Store, layout};
use aumbry::units::Timestamp;
use serde_json::Value;
use zeroize::Zeroizing;

use crate::fake_s3::FakeS3;
use crate::servers::{
    ACCESS_KEY, BUCKET, LOCKING_BUCKET, SECRET_KEY, Server, ask_s3, make_locking_bucket, moto,
    rclone_program, s3s_fs, strict_s3,
};
use crate::whole::{Machine, differ, restored, write_tree};

const DAY: i64 = 86_400;
const PREFIX: &str = "some/where/";

/// A version of an object, as the server has it.
#[derive(Debug, Clone)]
struct Version {
    name: String,
    id: String,
    is_latest: bool,
    mode: Option<String>,
    until: Option<i64>,
}

/// Everything that is, or was, in the repository: no delete markers.
fn versions(server: &Server) -> Vec<Version> {
    let printed = ask_s3(
        server,
        "bucket, prefix = arguments\n\
         found = []\n\
         for page in s3.get_paginator('list_object_versions').paginate(Bucket=bucket, Prefix=prefix):\n\
         \x20 for version in page.get('Versions', []):\n\
         \x20   head = s3.head_object(Bucket=bucket, Key=version['Key'], VersionId=version['VersionId'])\n\
         \x20   until = head.get('ObjectLockRetainUntilDate')\n\
         \x20   found.append({'name': version['Key'][len(prefix):], 'id': version['VersionId'],\n\
         \x20     'is_latest': version['IsLatest'], 'mode': head.get('ObjectLockMode'),\n\
         \x20     'until': until and int(until.timestamp())})\n\
         print(json.dumps(found))",
        &[LOCKING_BUCKET, PREFIX],
    );
    let found: Value = serde_json::from_str(&printed).unwrap();
    let text = |value: &Value| value.as_str().map(str::to_string);
    let read = |version: &Value| Version {
        name: text(&version["name"]).unwrap(),
        id: text(&version["id"]).unwrap(),
        is_latest: version["is_latest"].as_bool().unwrap(),
        mode: text(&version["mode"]),
        until: version["until"].as_i64(),
    };
    found.as_array().unwrap().iter().map(read).collect()
}

fn place(server: SocketAddr, bucket: &str) -> String {
    format!("s3+http://{server}/{bucket}/{}", PREFIX.trim_end_matches('/'))
}

fn machine(server: &Server, bucket: &str, options: &[&str]) -> Machine {
    machine_at(server.address(), bucket, options)
}

fn machine_at(server: SocketAddr, bucket: &str, options: &[&str]) -> Machine {
    let variables = [
        ("AWS_ACCESS_KEY_ID", ACCESS_KEY.to_string()),
        ("AWS_SECRET_ACCESS_KEY", SECRET_KEY.to_string()),
    ];
    let options: Vec<String> = options.iter().map(|option| option.to_string()).collect();
    Machine::new(&place(server, bucket), &variables, &options)
}

fn store(server: &Server, bucket: &str, clock: Arc<dyn Clock>) -> Store {
    store_at(server.address(), bucket, clock)
}

fn store_at(server: SocketAddr, bucket: &str, clock: Arc<dyn Clock>) -> Store {
    let location = Location::parse(OsStr::new(&place(server, bucket)), &[]).unwrap();
    let settings = [("access_key_id", ACCESS_KEY), ("secret_access_key", SECRET_KEY)];
    let settings =
        settings.map(|(key, value)| (key.to_string(), Zeroizing::new(value.to_string())));
    let access = Access { settings: settings.into(), clock, ..Access::default() };
    Store::open(&location, &access, LocalMode::Create).unwrap()
}

fn now() -> i64 {
    SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs() as i64
}

fn at(seconds: i64) -> Timestamp {
    Timestamp { seconds, nanoseconds: 0 }
}

/// About so many days from now.
#[track_caller]
fn assert_days(version: &Version, days: i64) {
    let ends = version.until.unwrap_or_else(|| panic!("{version:?} is not locked"));
    assert!((ends - now() - days * DAY).abs() < 600, "{version:?}: not {days} days");
}

#[test]
fn what_lasts_is_locked_and_comes_back_when_somebody_deletes_it_all() {
    let Some(server) = moto() else { return };
    let Some(rclone) = rclone_program() else { return };
    make_locking_bucket(&server);
    let machine = machine(&server, LOCKING_BUCKET, &[]);
    let documents = machine.path("Documents");
    write_tree(&documents, 1);
    let said = machine.ok(&["init", "--retain", "30d"]);
    assert!(said.contains("retains what is written for 30 days (governance)"), "{said}");
    machine.ok(&["backup", "--quiet", documents.to_str().unwrap()]);

    let all = versions(&server);
    let (lasting, passing): (Vec<_>, Vec<_>) = all
        .iter()
        .filter(|version| version.is_latest)
        .partition(|version| layout::is_lasting(&version.name));
    assert!(lasting.iter().filter(|version| version.name.starts_with("packs/")).count() >= 2);
    for version in &lasting {
        assert_eq!(version.mode.as_deref(), Some("GOVERNANCE"), "{version:?}");
        assert_days(version, 30);
    }
    for version in &passing {
        assert_eq!(version.mode, None, "{version:?}");
    }
    // What `init` tried is all that it left locked, for two hours.
    let tried: Vec<_> = all
        .iter()
        .filter(|version| version.name.starts_with("probe/") && version.mode.is_some())
        .collect();
    assert_eq!(tried.len(), 1, "{tried:?}");
    assert!((tried[0].until.unwrap() - now() - 7200).abs() < 600, "{tried:?}");

    // Nobody deletes a version of it.
    let pack = lasting.iter().find(|version| version.name.starts_with("packs/")).unwrap();
    let refused = ask_s3(
        &server,
        "from botocore.exceptions import ClientError\n\
         try:\n\
         \x20 s3.delete_object(Bucket=arguments[0], Key=arguments[1], VersionId=arguments[2])\n\
         \x20 print('deleted')\n\
         except ClientError as error:\n\
         \x20 print(error.response['Error']['Code'])",
        &[LOCKING_BUCKET, &format!("{PREFIX}{}", pack.name), &pack.id],
    );
    assert_eq!(refused.trim(), "AccessDenied");

    // Somebody writes over the config and hides everything else, in a later second: the server counts those.
    let before = ask_s3(
        &server,
        "import time, datetime\n\
         bucket, prefix = arguments\n\
         pages = list(s3.get_paginator('list_object_versions').paginate(Bucket=bucket, Prefix=prefix))\n\
         last = max(v['LastModified'] for page in pages for v in page.get('Versions', []) + page.get('DeleteMarkers', []))\n\
         moment = last.replace(microsecond=0) + datetime.timedelta(seconds=1)\n\
         while datetime.datetime.now(datetime.timezone.utc) < moment + datetime.timedelta(seconds=1):\n\
         \x20 time.sleep(0.05)\n\
         s3.put_object(Bucket=bucket, Key=prefix + 'config', Body=b'no config')\n\
         for page in pages:\n\
         \x20 for version in page.get('Versions', []):\n\
         \x20   if version['IsLatest'] and not version['Key'].endswith('/config'):\n\
         \x20     s3.delete_object(Bucket=bucket, Key=version['Key'])\n\
         print(moment.strftime('%Y-%m-%dT%H:%M:%SZ'))",
        &[LOCKING_BUCKET, PREFIX],
    );
    let before = before.trim();
    assert!(!machine.run(&["snapshots"]).status.success());

    // The bucket as it was, copied to a disk, is read there, and not written to.
    let copy = machine.path("copy");
    let status = Command::new(rclone)
        .env("RCLONE_CONFIG", machine.path("rclone.conf"))
        .env("HOME", machine.path(""))
        .arg("copy")
        .arg(format!(
            ":s3,provider=Other,access_key_id={ACCESS_KEY},secret_access_key={SECRET_KEY},endpoint='http://{}':\
             {LOCKING_BUCKET}/{}",
            server.address(),
            PREFIX.trim_end_matches('/')
        ))
        .arg(&copy)
        .args(["--s3-version-at", before])
        .output()
        .unwrap();
    assert!(status.status.success(), "{}", String::from_utf8_lossy(&status.stderr));
    let on_disk = Machine::new(copy.to_str().unwrap(), &[], &[]);
    on_disk.ok(&["check", "--read-data"]);
    assert_eq!(differ(&documents, &restored(&on_disk)), "");
    let refused = on_disk.run(&["backup", "--quiet", documents.to_str().unwrap()]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("aumbry copy"), "{said}");

    // And in its place: what came later is taken away, by versions.
    ask_s3(
        &server,
        "bucket, prefix, before = arguments\n\
         for page in s3.get_paginator('list_object_versions').paginate(Bucket=bucket, Prefix=prefix):\n\
         \x20 for version in page.get('Versions', []) + page.get('DeleteMarkers', []):\n\
         \x20   if version['LastModified'].strftime('%Y-%m-%dT%H:%M:%SZ') > before:\n\
         \x20     s3.delete_object(Bucket=bucket, Key=version['Key'], VersionId=version['VersionId'])",
        &[LOCKING_BUCKET, PREFIX, before],
    );
    machine.ok(&["check", "--read-data"]);
    assert_eq!(differ(&documents, &restored(&machine)), "");
    write_tree(&documents, 2);
    machine.ok(&["backup", "--quiet", documents.to_str().unwrap()]);
}

/// Prunes as a machine whose clock is so many days ahead.
fn prune_later(server: &Server, days: i64, dry_run: bool) -> PruneSummary {
    prune_at(server.address(), LOCKING_BUCKET, days, dry_run).unwrap()
}

fn prune_at(
    server: SocketAddr,
    bucket: &str,
    days: i64,
    dry_run: bool,
) -> Result<PruneSummary, OpsError> {
    let clock: Arc<dyn Clock> = Arc::new(FakeClock::new(at(now() + days * DAY)));
    let environment = Environment {
        clock: clock.clone(),
        chance: Chance::System,
        cache_folder: None,
        host: "testhost".into(),
        user: "tester".into(),
    };
    let passphrase = Credential::Passphrase(String::from("a passphrase").into());
    let store = store_at(server, bucket, clock);
    let repository = Repository::open(store, &passphrase, environment).unwrap();
    let mut options = PruneOptions { dry_run, patience: Duration::ZERO, ..PruneOptions::default() };
    options.limits.max_unused = UnusedLimit::Bytes(0);
    prune(&repository, &options, &SilentMonitor)
}

#[test]
fn a_server_that_writes_what_should_prolong_a_lock_loses_nothing() {
    let server = FakeS3::start_that_locks();
    let machine = machine_at(server.address(), BUCKET, &[]);
    let documents = machine.path("Documents");
    write_tree(&documents, 1);
    machine.ok(&["init", "--retain", "30d"]);
    machine.ok(&["backup", "--quiet", documents.to_str().unwrap()]);
    let lasting = || {
        let mut contents = server.contents();
        contents.retain(|name, _| layout::is_lasting(name.strip_prefix(PREFIX).unwrap()));
        contents
    };
    let before = lasting();
    assert!(prune_at(server.address(), BUCKET, 20, true).unwrap().locks_prolonged.unwrap() > 5);
    for (days, forget) in [(20, false), (21, true)] {
        match forget {
            false => server.mistake_locks(),
            true => server.forget_locks(),
        }
        let error = prune_at(server.address(), BUCKET, days, false).unwrap_err().to_string();
        assert!(
            error.contains("lock of an object") || error.contains("lock for an object"),
            "{error}"
        );
        let after = lasting();
        for (name, bytes) in &before {
            assert!(after.get(name) == Some(bytes), "{name}");
        }
    }
    machine.ok(&["check", "--read-data"]);
    assert_eq!(differ(&documents, &restored(&machine)), "");
    // A server that writes what should prolong a lock is found out when a repository is made, too.
    let other = FakeS3::start_that_locks();
    other.mistake_locks();
    let refused = machine_at(other.address(), BUCKET, &[]).run(&["init", "--retain", "30d"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("does not prolong"), "{said}");
}

#[test]
fn a_prune_prolongs_what_is_needed_and_hides_what_is_not() {
    let Some(server) = moto() else { return };
    make_locking_bucket(&server);
    let machine = machine(&server, LOCKING_BUCKET, &["-o", "object-lock-mode=compliance"]);
    let documents = machine.path("Documents");
    let path = documents.to_str().unwrap();
    machine.ok(&["init", "--retain", "30d"]);
    write_tree(&documents, 1);
    machine.ok(&["backup", "--quiet", "--name", "one", path]);
    write_tree(&documents, 2);
    machine.ok(&["backup", "--quiet", "--name", "two", path]);
    machine.ok(&["forget", "latest~1", "--yes"]);
    let other = self::machine(&server, LOCKING_BUCKET, &["-o", "object-lock-mode=governance"]);
    let refused = other.run(&["snapshots"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("another mode"));
    let said = machine.ok(&["prune", "--dry-run"]);
    assert!(said.contains("0 requests to prolong the locks of objects"), "{said}");

    let before: BTreeMap<String, Version> =
        versions(&server).into_iter().map(|version| (version.name.clone(), version)).collect();
    let due = prune_later(&server, 20, true).locks_prolonged.unwrap();
    assert!(due > 5);
    let pruned = prune_later(&server, 20, false);
    let prolonged = pruned.locks_prolonged.unwrap();
    assert!(prolonged >= due, "{prolonged} of {due}");
    assert_eq!(pruned.still_locked, 0);
    let (mut checked, mut hidden) = (0, 0);
    for version in versions(&server).iter().filter(|version| layout::is_lasting(&version.name)) {
        assert_eq!(version.mode.as_deref(), Some("COMPLIANCE"), "{version:?}");
        // What was hidden was not prolonged. What the prune itself has made and taken away is locked from then on.
        match (version.is_latest, before.contains_key(&version.name)) {
            (true, _) => assert_days(version, 50),
            (false, true) => {
                assert_days(version, 30);
                hidden += 1;
            }
            (false, false) => {}
        }
        checked += u64::from(version.is_latest && before.contains_key(&version.name));
    }
    // A prune takes what it has written itself for as old as the rest: this one's clock is not the server's.
    assert!(checked > 5 && prolonged >= checked, "{prolonged} of {checked}");
    assert!(hidden > 1, "{hidden}");
    assert_eq!(prune_later(&server, 20, false).locks_prolonged, Some(0));
    assert_eq!(prune_later(&server, 34, false).locks_prolonged, Some(0));
    // The slot of the one that was forgotten, and what the others brought, may come beside.
    assert!(prune_later(&server, 36, true).locks_prolonged.unwrap() >= checked);
    machine.ok(&["check", "--read-data"]);
}

fn nothing_is_made_without_object_lock(server: &Server) {
    let refused = machine(server, BUCKET, &[]).run(&["init", "--retain", "30d"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success());
    assert!(said.contains("the bucket has no Object Lock") && said.contains("--retain"), "{said}");
    assert!(
        store(server, BUCKET, Arc::new(aumbry::clock::SystemClock::new()))
            .list("")
            .unwrap()
            .is_empty()
    );
}

/// It says that it does not know the question, and takes an object with a lock as one without.
#[test]
fn a_server_that_has_no_object_locks_at_all_is_refused() {
    let Some(server) = s3s_fs() else { return };
    nothing_is_made_without_object_lock(&server);
}

#[test]
fn without_object_lock_nothing_is_made() {
    let Some(server) = moto() else { return };
    nothing_is_made_without_object_lock(&server);

    let without = machine(&server, BUCKET, &[]);
    let disk = without.path("disk");
    let disk = Machine::new(disk.to_str().unwrap(), &[], &[]);
    let refused = disk.run(&["init", "--retain", "30d"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("only S3 with Object Lock"), "{said}");
    let modeless = machine(&server, BUCKET, &["-o", "object-lock-mode=compliance"]);
    let refused = modeless.run(&["init"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--retain 30d"));
}

#[test]
fn a_name_is_free_when_its_object_is_hidden_and_taken_while_it_is_not() {
    let Some(server) = moto() else { return };
    make_locking_bucket(&server);
    let clock: Arc<dyn Clock> = Arc::new(aumbry::clock::SystemClock::new());
    let plain = store(&server, LOCKING_BUCKET, clock.clone());
    let lock = ObjectLock { period: Duration::from_secs(30 * 86_400), mode: LockMode::Governance };
    let store = plain.clone().locking(lock);
    assert_eq!(store.create("keys/a", b"one".to_vec()).unwrap(), Created::New);
    assert_eq!(store.create("keys/a", b"two".to_vec()).unwrap(), Created::AlreadyThere);
    let until = store.locked_until("keys/a").unwrap().unwrap();
    assert!((until.seconds - now() - 30 * DAY).abs() < 600);
    assert!(store.lock_until("keys/a", at(now() + 40 * DAY)).unwrap());
    assert!(
        (store.locked_until("keys/a").unwrap().unwrap().seconds - now() - 40 * DAY).abs() < 600
    );
    assert_eq!(store.get("keys/a").unwrap(), b"one");

    store.delete("keys/a").unwrap();
    assert_eq!(store.size("keys/a").unwrap(), None);
    assert!(store.list("").unwrap().is_empty());
    assert_eq!(store.locked_until("keys/a").unwrap(), None);
    assert_eq!(store.create("keys/a", b"three".to_vec()).unwrap(), Created::New);

    assert_eq!(store.create("sessions/a", b"one".to_vec()).unwrap(), Created::New);
    assert_eq!(store.locked_until("sessions/a").unwrap(), None);
    plain.try_object_lock(LockMode::Governance, "nonce").unwrap();
    let elsewhere = self::store(&server, BUCKET, clock);
    let error = elsewhere.try_object_lock(LockMode::Governance, "nonce").unwrap_err();
    assert_eq!(error.kind, Kind::Invalid, "{error}");
    // A bucket without it refuses what asks for a lock; nothing is made without.
    elsewhere.clone().locking(lock).create("keys/a", b"one".to_vec()).unwrap_err();
    assert!(elsewhere.list("").unwrap().is_empty());
}

#[test]
fn requests_with_locks_and_about_them_are_signed_whole() {
    let Some(server) = strict_s3() else { return };
    let clock: Arc<dyn Clock> = Arc::new(aumbry::clock::SystemClock::new());
    let store = store(&server, BUCKET, clock);
    store.try_object_lock(LockMode::Compliance, "nonce").unwrap();
    let lock = ObjectLock { period: Duration::from_secs(30 * 86_400), mode: LockMode::Governance };
    let store = store.locking(lock);
    assert_eq!(store.create("packs/00/a", vec![7; 3_000_000]).unwrap(), Created::New);
    let until = store.locked_until("packs/00/a").unwrap().unwrap();
    assert!((until.seconds - now() - 30 * DAY).abs() < 600);
    assert!(store.lock_until("packs/00/a", at(2_000_000_000)).unwrap());
    assert_eq!(store.locked_until("packs/00/a").unwrap(), Some(at(2_000_000_000)));
    assert!(!store.lock_until("packs/00/b", at(2_000_000_000)).unwrap());
    store.delete("packs/00/a").unwrap();
    assert!(!store.lock_until("packs/00/a", at(2_000_000_000)).unwrap());
    store.create("sessions/a", vec![7; 700]).unwrap();
    assert_eq!(store.locked_until("sessions/a").unwrap(), None);

    let location = Location::parse(OsStr::new(&place(server.address(), BUCKET)), &[]).unwrap();
    let settings = [("access_key_id", ACCESS_KEY), ("secret_access_key", "another")];
    let settings =
        settings.map(|(key, value)| (key.to_string(), Zeroizing::new(value.to_string())));
    let access = Access { settings: settings.into(), ..Access::default() };
    let stranger = Store::open(&location, &access, LocalMode::Create).unwrap().locking(lock);
    let error = stranger.create("packs/00/b", vec![7; 700]).unwrap_err();
    assert_eq!(error.kind, Kind::Denied, "{error}");
    assert!(error.to_string().contains("SignatureDoesNotMatch"), "{error}");
    let error = stranger.lock_until("packs/00/a", at(2_100_000_000)).unwrap_err();
    assert_eq!(error.kind, Kind::Denied, "{error}");
}
