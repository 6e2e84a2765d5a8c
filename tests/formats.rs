//! Repositories of every released format version stay readable for ever, by this program and by a reader
//! that was written from `docs/format.md` alone.
//!
//! A fixture is `tests/fixtures/format-<version>/<name>/`: `repository`, and `expected.txt`, a line for each
//! entry of the newest snapshot. `write_fixtures` makes those of the current version; it is run by hand, once
//! for each version, as root (devices are among the entries).

#![allow(clippy::unwrap_used, reason = "what tests share fails as a test does")]

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt::Write;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use aumbry::clock::SystemClock;
use aumbry::codec::chunker::{Chunker, ChunkerParams};
use aumbry::codec::cipher::{FrameCipher, padded_length, seal_message, unseal_message};
use aumbry::codec::compress::{Compressor, Decompressor, DeltaCompressor};
use aumbry::codec::digest::{NamingKeys, derive_key};
use aumbry::codec::exchange::{public_key, shared_secret};
use aumbry::codec::kdf::{Argon2Cost, stretch_passphrase};
use aumbry::codec::parity::ParityCode;
use aumbry::format::VERSION;
use aumbry::format::bytes::{put_signed, put_time, put_varint};
use aumbry::format::config::{Form, LockMode, ObjectLock, Settings};
use aumbry::format::directory::DirectoryNode;
use aumbry::format::generation::{Condemned, Maintainer, Publisher, Sweep};
use aumbry::format::header::ObjectKind;
use aumbry::format::keyring::{EpochKeys, Keyring};
use aumbry::format::pack::{BlobRecord, Encoding, PackDirectory};
use aumbry::format::session::Purpose;
use aumbry::format::slot::{SlotHeader, Way};
use aumbry::format::snapshot::{Decision, Snapshot};
use aumbry::format::tomb::Tomb;
use aumbry::id::{BlobId, KeySlotId, PackId, RepositoryId, SessionId, SnapshotId, TombId};
use aumbry::monitor::SilentMonitor;
use aumbry::ops::backup::{BackupOptions, ChangeDetection, Deltas, backup};
use aumbry::ops::prune::plan::UnusedLimit;
use aumbry::ops::prune::{PruneOptions, prune};
use aumbry::ops::rekey::{self, Change, RekeyOptions};
use aumbry::repository::chance::Chance;
use aumbry::repository::key_updates::{seal_update, unseal_update};
use aumbry::repository::keys::Credential;
use aumbry::repository::packer::PackBuilder;
use aumbry::repository::reader::BlobReader;
use aumbry::repository::seal::Sealer;
use aumbry::repository::session::Committed;
use aumbry::repository::writer::Writer;
use aumbry::repository::{CreateOptions, Environment, Repository};
use aumbry::source::files::{Files, FilesOptions};
use aumbry::store::{FaultControl, LocalMode, Store, layout};
use aumbry::tree::entry::{
    Content, Entry, ExtendedAttribute, Extent, FileContent, Metadata, Node, Owner,
};
use aumbry::units::Timestamp;
use aumbry::view::{DirectoryRoot, Entries, Extents, read_file};

const PASSPHRASE: &str = "correct horse battery staple";
/// What every released version must have: all kinds of entries and objects; a delta segment; packs with parity;
/// generations of collection; key updates; the second form; settings and a record of object locks.
const NAMES: [&str; 8] = [
    "everything",
    "delta",
    "delta-of-long-matches",
    "parity",
    "collected",
    "rekeyed",
    "confirmed",
    "locked",
];

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn environment() -> Environment {
    Environment {
        clock: Arc::new(SystemClock::new()),
        chance: Chance::System,
        cache_folder: None,
        host: "fixture".into(),
        user: "fixture".into(),
    }
}

fn passphrase() -> Credential {
    Credential::Passphrase(String::from(PASSPHRASE).into())
}

fn all_fixtures() -> Vec<PathBuf> {
    (1..=VERSION)
        .flat_map(|version| NAMES.map(|name| fixtures().join(format!("format-{version}/{name}"))))
        .collect()
}

/// A line of `expected.txt`.
fn line(path: &[u8], mode: u32, mtime: (i64, u32), kind: &str, detail: &str) -> String {
    let path = path.escape_ascii();
    format!("{path} {mode:04o} {}.{:09} {kind} {detail}\n", mtime.0, mtime.1)
}

fn digest(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex()[..32].to_string()
}

/// The lines of a snapshot, as this program reads it.
fn manifest(reader: &BlobReader<'_>, root: DirectoryRoot, path: &[u8], lines: &mut String) {
    for entry in Entries::new(reader, root) {
        let entry: Entry = entry.unwrap();
        let path = [path, b"/", &entry.name].concat();
        let metadata = &entry.metadata;
        let detail = match &entry.node {
            Node::File(file) => {
                let bytes = read_file(reader, file, u64::MAX >> 1).unwrap();
                let holes: u64 = Extents::new(reader, file)
                    .map(|extent| match extent.unwrap() {
                        Extent::Hole { length } => length,
                        Extent::Data { .. } => 0,
                    })
                    .sum();
                assert_eq!(bytes.len() as u64, file.size);
                format!("{} {} holes {holes}", file.size, digest(&bytes))
            }
            Node::Symlink(target) => target.escape_ascii().to_string(),
            Node::CharDevice(number) | Node::BlockDevice(number) => number.to_string(),
            _ => String::new(),
        };
        let mtime = (metadata.mtime.seconds, metadata.mtime.nanoseconds);
        let kind = entry.node.kind_name();
        lines.push_str(&line(&path, metadata.mode, mtime, kind, &detail));
        if let Some(root) = DirectoryRoot::of_entry(&entry) {
            manifest(reader, root, &path, lines);
        }
    }
}

/// The lines of a restored folder, as the system shows it. Holes are told by whoever wants to know them.
fn restored_manifest(folder: &Path, path: &[u8], lines: &mut String) {
    let mut names: Vec<_> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort_by(|a, b| a.as_bytes().cmp(b.as_bytes()));
    for name in names {
        let full = folder.join(&name);
        let path = [path, b"/", name.as_bytes()].concat();
        let stat = fs::symlink_metadata(&full).unwrap();
        let kind = stat.file_type();
        let (kind, detail) = if kind.is_file() {
            let bytes = fs::read(&full).unwrap();
            ("file", format!("{} {}", bytes.len(), digest(&bytes)))
        } else if kind.is_dir() {
            ("dir", String::new())
        } else if kind.is_symlink() {
            let target = fs::read_link(&full).unwrap();
            ("symlink", target.as_os_str().as_bytes().escape_ascii().to_string())
        } else if kind.is_fifo() {
            ("fifo", String::new())
        } else if kind.is_char_device() {
            ("chardev", stat.rdev().to_string())
        } else if kind.is_socket() {
            ("socket", String::new())
        } else {
            ("dev", stat.rdev().to_string())
        };
        let mtime = (stat.mtime(), stat.mtime_nsec() as u32);
        lines.push_str(&line(&path, stat.mode() & 0o7777, mtime, kind, &detail));
        if stat.is_dir() {
            restored_manifest(&full, &path, lines);
        }
    }
}

fn newest(repository: &Repository) -> Snapshot {
    repository.snapshots(&SilentMonitor).unwrap().all.pop().unwrap().1
}

fn manifest_of(repository: &Repository) -> String {
    repository.refresh_index(&SilentMonitor).unwrap();
    let reader = BlobReader::new(repository, 64 << 20);
    let mut lines = String::new();
    manifest(&reader, DirectoryRoot::of_snapshot(&newest(repository)), b"", &mut lines);
    lines
}

/// A copy that a test may write to: git keeps neither the modes nor what a run adds.
fn copy_of(fixture: &Path) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("repository");
    let status = Command::new("cp").arg("-r").arg(fixture.join("repository")).arg(&copy).status();
    assert!(status.unwrap().success());
    (folder, copy)
}

#[test]
fn no_released_version_lacks_a_fixture() {
    for fixture in all_fixtures() {
        assert!(fixture.join("repository/config").is_file(), "{} is missing", fixture.display());
        assert!(fixture.join("expected.txt").is_file(), "{} is missing", fixture.display());
    }
}

#[test]
fn every_fixture_reads_as_it_did() {
    for fixture in all_fixtures() {
        let (_folder, copy) = copy_of(&fixture);
        let store = Store::local(&copy, LocalMode::Open).unwrap();
        let repository = Repository::open(store, &passphrase(), environment()).unwrap();
        let expected = fs::read_to_string(fixture.join("expected.txt")).unwrap();
        assert_eq!(manifest_of(&repository), expected, "{}", fixture.display());
    }
}

#[test]
fn the_independent_reader_restores_every_fixture() {
    let Some(python) = std::env::var_os("AUMBRY_TEST_PYTHON") else {
        println!("skipped: no AUMBRY_TEST_PYTHON (a Python with tests/requirements.txt)");
        return;
    };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/independent_reader.py");
    for fixture in all_fixtures() {
        for extra in [None, Some("--from-packs")] {
            let (folder, copy) = copy_of(&fixture);
            let target = folder.path().join("restored");
            let output = Command::new(&python)
                .arg(&script)
                .args([copy.as_os_str(), target.as_os_str()])
                .args(extra.map(OsStr::new))
                .env("AUMBRY_PASSWORD", PASSPHRASE)
                .output()
                .unwrap();
            let message = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{}: {message}", fixture.display());
            let mut found = String::new();
            restored_manifest(&target, b"", &mut found);
            let expected = fs::read_to_string(fixture.join("expected.txt")).unwrap();
            let as_root = rustix::process::geteuid().is_root();
            let comparable = |text: &str| -> Vec<String> {
                text.lines()
                    .map(|line| line.split(" holes ").next().unwrap_or(line).trim_end().to_string())
                    // Only root can make a device.
                    .filter(|line| as_root || !line.contains("dev "))
                    .collect()
            };
            let (found, expected) = (comparable(&found), comparable(&expected));
            let differing = found.iter().zip(&expected).find(|(found, expected)| found != expected);
            assert_eq!(differing, None, "{}", fixture.display());
            assert_eq!(found.len(), expected.len(), "{}", fixture.display());
        }
    }
}

/// Bytes that do not compress and follow from a seed.
fn noise(length: usize, seed: u8) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new_keyed(&[seed; 32]).finalize_xof().fill(&mut bytes);
    bytes
}

fn text(lines: usize, seed: usize) -> Vec<u8> {
    let mut text = String::new();
    for number in 0..lines {
        let _ = writeln!(text, "line {number} of a text that compresses, {}", number * seed % 977);
    }
    text.into_bytes()
}

/// Every kind of entry, name and content that version 1 knows.
fn make_tree(tree: &Path) {
    let write = |name: &str, bytes: &[u8]| fs::write(tree.join(name), bytes).unwrap();
    fs::create_dir_all(tree.join("deep/er/and/deeper")).unwrap();
    fs::create_dir(tree.join("empty")).unwrap();
    write("empty-file", b"");
    write("tiny", b"inline");
    write("small", &text(20, 3));
    write("noise", &noise(5_000, 1));
    write("chunks", &noise(70_000, 2));
    write("a long chunk list", &noise(300_000, 3));
    write("deep/er/and/deeper/text", &text(4_000, 7));
    write("copy of text", &text(4_000, 7));
    write("with\nnewline", b"a name with a line end");
    fs::write(tree.join(OsStr::from_bytes(b"not \xff\xfe UTF-8")), b"bytes").unwrap();
    write("set-user-id", b"mode");
    fs::set_permissions(tree.join("set-user-id"), fs::Permissions::from_mode(0o4711)).unwrap();
    symlink("tiny", tree.join("link")).unwrap();
    symlink("/nowhere/at all", tree.join("dangling")).unwrap();
    fs::hard_link(tree.join("small"), tree.join("deep/hard link to small")).unwrap();
    let run = |program: &str, arguments: &[&str]| {
        let status = Command::new(program).args(arguments).current_dir(tree).status().unwrap();
        assert!(status.success(), "{program} {arguments:?}");
    };
    run("mkfifo", &["pipe"]);
    run("mknod", &["null", "c", "1", "3"]);
    run("truncate", &["-s", "3000000", "hole"]);
    run("truncate", &["-s", "20000000", "data between gaps"]);
    let file = fs::OpenOptions::new().write(true).open(tree.join("data between gaps")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &noise(10_000, 5), 17_000_000).unwrap();
    drop(std::os::unix::net::UnixListener::bind(tree.join("socket")).unwrap());
    fs::create_dir(tree.join("many")).unwrap();
    for number in 0..600 {
        write(&format!("many/entry {number:04}"), format!("{number}").as_bytes());
    }
    for (number, name) in ["tiny", "small", "empty", "many/entry 0007"].iter().enumerate() {
        let time =
            format!("@{}.{:09}", 1_700_000_000 + number, number * 123_456_789 % 1_000_000_000);
        run("touch", &["-d", &time, name]);
    }
    let path = std::ffi::CString::new(tree.join("tiny").as_os_str().as_bytes()).unwrap();
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(path.as_c_str(), "user.fixture", b"value \0 \xff", flags).unwrap();
}

fn settings() -> Settings {
    Settings {
        chunk_minimum: 1024,
        chunk_average: 4096,
        chunk_maximum: 16384,
        segment_length: 64 << 10,
        pack_length: 256 << 10,
        ..Settings::DEFAULT
    }
}

fn new_repository(folder: &Path, settings: Settings) -> Repository {
    let options = CreateOptions {
        settings,
        cost: Some(Argon2Cost::FLOOR),
        label: "first".into(),
        cuts_like: None,
    };
    let store = Store::local(folder, LocalMode::Create).unwrap();
    Repository::create(store, &options, &passphrase(), environment()).unwrap()
}

fn back_up(repository: &Repository, tree: &Path) {
    let options = BackupOptions {
        parent: None,
        detection: ChangeDetection::default(),
        host: "fixture".into(),
        user: "fixture".into(),
        name: String::new(),
        tags: vec!["one".into(), "two".into()],
        time: None,
        zone_offset_seconds: 3600,
        deltas: Deltas::Auto,
        dry_run: false,
        skip_if_unchanged: false,
        program: "aumbry fixture".into(),
        memory_budget: 256 << 20,
    };
    let files = FilesOptions { as_path: Some("/tree".parse().unwrap()), ..FilesOptions::default() };
    let mut source = Files::new(&[tree.to_path_buf()], files).unwrap();
    backup(repository, &mut source, &options, &SilentMonitor).unwrap();
}

fn write_everything(folder: &Path, tree: &Path) {
    make_tree(tree);
    let repository = new_repository(&folder.join("repository"), settings());
    back_up(&repository, tree);
    fs::write(tree.join("second"), text(100, 11)).unwrap();
    back_up(&repository, tree);
    let (_, recovery) = repository.add_recovery_key("on paper").unwrap();
    fs::write(folder.join("recovery.txt"), recovery.words().unwrap()).unwrap();
    let reader = repository.register(aumbry::format::session::Purpose::Read).unwrap();
    repository.abort(reader).unwrap();
    fs::write(folder.join("expected.txt"), manifest_of(&repository)).unwrap();
}

/// A repository that was collected: forgotten snapshots are gone or have tombs, a snapshot came too late, and index
/// objects were merged.
fn write_collected(folder: &Path, tree: &Path) {
    fs::create_dir_all(tree).unwrap();
    let repository = new_repository(&folder.join("repository"), settings());
    let mut ids = Vec::new();
    for version in 0..10_u8 {
        fs::write(tree.join(format!("file-{version}")), noise(20_000, 50 + version)).unwrap();
        if version % 3 == 0 {
            fs::write(tree.join("changing"), noise(90_000, 70 + version)).unwrap();
        }
        back_up(&repository, tree);
        ids.push(newest_id(&repository));
    }
    let late = repository.register(Purpose::Write).unwrap();
    repository.forget(&ids[..6], "an example").unwrap();
    let mut options = PruneOptions { patience: Duration::ZERO, ..PruneOptions::default() };
    options.limits.max_unused = UnusedLimit::Share(0.0);
    assert!(prune(&repository, &options, &SilentMonitor).unwrap().packs_deleted > 0);
    let decision = Decision::Snapshot(Box::new(newest(&repository)));
    assert_eq!(repository.commit(late, &decision).unwrap(), Committed::Fenced);
    fs::write(tree.join("last"), text(100, 12)).unwrap();
    back_up(&repository, tree);
    repository.forget(&ids[6..7], "has a tomb").unwrap();
    // Two that were brought back: one of them, whose tomb then came once more, for good.
    repository.forget(&ids[7..9], "by mistake").unwrap();
    let late = layout::tomb(TombId { session: ids[7].0, number: 1 });
    let tomb = repository.store().get(&late).unwrap();
    repository.undelete(&ids[7..9]).unwrap();
    repository.store().create(&late, tomb).unwrap();
    repository.forget(&ids[8..9], "on second thoughts").unwrap();
    let reader = repository.register(Purpose::Read).unwrap();
    let waiting = PruneOptions::default();
    assert_eq!(prune(&repository, &waiting, &SilentMonitor).unwrap().held_by.len(), 1);
    repository.abort(reader).unwrap();
    assert_eq!(
        repository.generations().unwrap().newest,
        repository.generations().unwrap().swept() + 1
    );
    fs::write(folder.join("expected.txt"), manifest_of(&repository)).unwrap();
}

fn newest_id(repository: &Repository) -> SnapshotId {
    repository.snapshots(&SilentMonitor).unwrap().all.last().unwrap().0
}

/// Packs of one frame and of several, with parity behind them.
fn write_parity(folder: &Path, tree: &Path) {
    fs::create_dir_all(tree.join("folder")).unwrap();
    fs::write(tree.join("folder/noise"), noise(150_000, 4)).unwrap();
    fs::write(tree.join("text"), text(200, 5)).unwrap();
    let settings = Settings { parity_percent: 2, ..settings() };
    let repository = new_repository(&folder.join("repository"), settings);
    back_up(&repository, tree);
    let found = |frames: usize| {
        let packs = repository.cache().packs().unwrap();
        packs.into_iter().any(|(_, pack)| {
            let parity = pack.header.parity.unwrap();
            parity.plain_length.div_ceil(65_536) as usize == frames
        })
    };
    assert!(found(1) && (found(2) || found(3)));
    fs::write(folder.join("expected.txt"), manifest_of(&repository)).unwrap();
}

/// A repository that was rekeyed twice: the passphrase leads to the newest keys by an update alone. The first epoch
/// has no data key any more, the second has packs, and so has the third. A recovery key was left out.
fn write_rekeyed(folder: &Path, tree: &Path) {
    let place = folder.join("repository");
    let open = || {
        let store = Store::local(&place, LocalMode::Open).unwrap();
        Repository::open(store, &passphrase(), environment()).unwrap()
    };
    let change = |change, remove: &[KeySlotId]| {
        let (repository, options) = (open(), RekeyOptions { change, remove: remove.to_vec() });
        let planned = rekey::plan(&repository, &options, &SilentMonitor).unwrap();
        assert!(!planned.is_empty() && planned.left_behind.is_empty(), "{planned:?}");
        rekey::rekey(&repository, &planned).unwrap();
    };
    fs::create_dir_all(tree).unwrap();
    fs::write(tree.join("first"), noise(30_000, 90)).unwrap();
    let repository = new_repository(&place, settings());
    let (lost, _) = repository.add_recovery_key("lost").unwrap();
    back_up(&repository, tree);
    change(Change::NewEpoch, &[lost]);
    let mut options = PruneOptions { patience: Duration::ZERO, ..PruneOptions::default() };
    options.limits.max_unused = UnusedLimit::Share(0.0);
    prune(&open(), &options, &SilentMonitor).unwrap();
    change(Change::DropOld, &[]);
    open().add_recovery_key("made later").unwrap();
    change(Change::NewEpoch, &[]);
    fs::write(tree.join("second"), text(300, 13)).unwrap();
    back_up(&open(), tree);
    let repository = open();
    let keyring = repository.sealer().keyring();
    let has_data_key: Vec<_> = keyring.epochs.iter().map(|keys| keys.data_key.is_some()).collect();
    assert_eq!((keyring.revision, has_data_key), (3, vec![false, true, true]));
    fs::write(folder.join("expected.txt"), manifest_of(&repository)).unwrap();
}

/// A repository on a store that cannot create if absent: its settings say so, commits are confirmed, and a session is given
/// up. It is opened without knowing that.
fn write_confirmed(folder: &Path, tree: &Path) {
    let place = folder.join("repository");
    fs::create_dir_all(tree).unwrap();
    fs::write(tree.join("first"), noise(30_000, 95)).unwrap();
    let options = CreateOptions {
        settings: settings(),
        cost: Some(Argon2Cost::FLOOR),
        label: "first".into(),
        cuts_like: None,
    };
    let store = Store::local(&place, LocalMode::Create).unwrap().without_conditions();
    let repository = Repository::create(store, &options, &passphrase(), environment()).unwrap();
    assert_eq!(repository.settings().form, Form::Confirmations);
    back_up(&repository, tree);
    fs::write(tree.join("second"), text(300, 17)).unwrap();
    let store = Store::local(&place, LocalMode::Open).unwrap();
    let repository = Repository::open(store, &passphrase(), environment()).unwrap();
    assert!(!repository.store().is_conditional());
    back_up(&repository, tree);
    let reader = repository.register(Purpose::Read).unwrap();
    repository.abort(reader).unwrap();
    assert_eq!(repository.store().list(layout::CONFIRMED).unwrap().len(), 2);
    fs::write(folder.join("expected.txt"), manifest_of(&repository)).unwrap();
}

/// A repository whose objects are locked, as far as a disk can pretend that; half of the time is over, and a prune has
/// prolonged it.
fn write_locked(folder: &Path, tree: &Path) {
    let place = folder.join("repository");
    fs::create_dir_all(tree).unwrap();
    fs::write(tree.join("first"), noise(30_000, 96)).unwrap();
    let object_lock = Some(ObjectLock { seconds: 30 * 86_400, mode: LockMode::Compliance });
    let options = CreateOptions {
        settings: Settings { object_lock, ..settings() },
        cost: Some(Argon2Cost::FLOOR),
        label: "first".into(),
        cuts_like: None,
    };
    let control = FaultControl::new();
    control.simulate_locks();
    let store = Store::local(&place, LocalMode::Create).unwrap().with_faults(control);
    let repository = Repository::create(store, &options, &passphrase(), environment()).unwrap();
    back_up(&repository, tree);
    for object in repository.store().list("").unwrap() {
        let file = fs::File::options().write(true).open(place.join(object.name)).unwrap();
        let epoch = std::time::SystemTime::UNIX_EPOCH;
        let twenty_days = std::time::Duration::from_secs(20 * 86_400);
        file.set_modified(epoch + (epoch.elapsed().unwrap() - twenty_days)).unwrap();
    }
    let pruned = prune(&repository, &PruneOptions::default(), &SilentMonitor).unwrap();
    assert!(pruned.locks_prolonged.unwrap() > 0);
    assert!(repository.store().size(&layout::lock_record(1)).unwrap().is_some());
    fs::write(folder.join("expected.txt"), manifest_of(&repository)).unwrap();
}

/// A file whose chunks are stored as deltas against those of another, with so many lines at its end that are not there.
fn write_delta(folder: &Path, tree: &Path, lines: usize) {
    fs::create_dir_all(tree).unwrap();
    let old = noise(12_000, 9);
    let mut new = old.clone();
    new[6_000..6_010].copy_from_slice(b"0123456789");
    new.extend_from_slice(&text(lines, 2));
    fs::write(tree.join("old"), &old).unwrap();
    let repository = new_repository(&folder.join("repository"), settings());
    let settings = Settings { chunk_minimum: 16 << 10, ..settings() };
    assert!(old.len() < settings.chunk_minimum as usize);
    let (first, second) = old.split_at(7_000);
    // What deltas are read against is in the repository before.
    let before = Writer::begin(&repository, false, &SilentMonitor).unwrap();
    let mut segments = before.segments(ObjectKind::DataPack).unwrap();
    let bases = [segments.put(first).unwrap().0, segments.put(second).unwrap().0];
    segments.flush().unwrap();
    drop(segments);
    before.finish().unwrap();
    let writer = Writer::begin(&repository, false, &SilentMonitor).unwrap();
    repository.abort(before.session()).unwrap();
    let mut segments = writer.segments(ObjectKind::DataPack).unwrap();
    let (a, b) = new.split_at(8_000);
    let reader = BlobReader::new(&repository, 1 << 20);
    let mut deltas = writer.deltas(&reader);
    let ids = [a, b].map(|bytes| {
        let (id, is_new) = segments.claim(bytes).unwrap();
        assert!(is_new);
        deltas.push(id, bytes, &bases, &mut segments).unwrap();
        id
    });
    deltas.flush(&mut segments).unwrap();
    segments.flush().unwrap();
    assert_eq!(writer.added().data_blobs, 2);
    let extent = |blob, bytes: &[u8]| Extent::Data { blob, length: bytes.len() as u64 };
    let naming = repository.naming();
    let file = |name: &str, bytes: &[u8], extents: Vec<Extent>| Entry {
        name: name.as_bytes().into(),
        node: Node::File(FileContent {
            size: bytes.len() as u64,
            content: Content::Extents(extents),
            digest: Some(naming.file_digest(&[naming.region_digest(bytes)])),
        }),
        metadata: Metadata { mode: 0o644, links: 1, ..Default::default() },
    };
    let entries = vec![
        file("new", &new, vec![extent(ids[0], a), extent(ids[1], b)]),
        file("old", &old, vec![extent(bases[0], first), extent(bases[1], second)]),
    ];
    let leaf = DirectoryNode::Leaf(entries).encode();
    let mut trees = writer.segments(ObjectKind::TreePack).unwrap();
    let (root, _) = trees.put(&leaf).unwrap();
    trees.flush().unwrap();
    writer.finish().unwrap();
    let time = repository.environment().clock.now();
    let snapshot = Snapshot {
        root,
        height: 0,
        time,
        zone_offset_seconds: 0,
        end_time: time,
        host: "fixture".into(),
        user: "fixture".into(),
        paths: vec![b"/".to_vec()],
        tags: Vec::new(),
        name: String::new(),
        parent: None,
        program: "aumbry fixture".into(),
        counts: Default::default(),
        predecessor: None,
        repaired: None,
        copied: None,
        signature: None,
    };
    let session = writer.session();
    drop((segments, trees));
    repository.commit(session, &Decision::Snapshot(Box::new(snapshot))).unwrap();
    fs::write(folder.join("expected.txt"), manifest_of(&repository)).unwrap();
}

/// The test vectors of `docs/format.md`, section 14: `name = hexadecimal digits`, which go on in lines without
/// an equals sign.
fn document_vectors() -> BTreeMap<String, String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/format.md");
    let document = fs::read_to_string(path).unwrap();
    let section = document.split("\n## 14 Test vectors").nth(1).unwrap();
    let mut vectors = BTreeMap::new();
    let mut last = String::new();
    for line in section.split("```").skip(1).step_by(2).flat_map(str::lines).skip(1) {
        let digits = match line.split_once(" = ") {
            Some((name, digits)) => {
                last = name.trim().to_string();
                assert!(!vectors.contains_key(&last), "{last} stands twice");
                digits
            }
            None => line,
        };
        let value: &mut String = vectors.entry(last.clone()).or_default();
        value.push_str(digits.trim());
    }
    vectors
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// A leaf with every kind of entry, content and flag.
fn vector_leaf() -> Vec<u8> {
    let owner = Owner { uid: 1000, gid: 100, user: "me".into(), group: "users".into() };
    let metadata = Metadata {
        mode: 0o644,
        owner: Arc::new(owner),
        mtime: Timestamp { seconds: 1_700_000_000, nanoseconds: 5 },
        ctime: Timestamp { seconds: -2, nanoseconds: 500_000_000 },
        inode: 300,
        device: 0x801,
        links: 1,
        ..Default::default()
    };
    let root = BlobId([0xaa; 32]);
    let file = |size, content, digest| Node::File(FileContent { size, content, digest });
    let extents = vec![Extent::Data { blob: root, length: 70 }, Extent::Hole { length: 30 }];
    let nodes = [
        file(3, Content::Inline((*b"abc").into()), None),
        file(100, Content::Extents(extents), Some([0xbb; 32])),
        file(1 << 40, Content::List { root, height: 2 }, Some([0xbb; 32])),
        Node::Directory { root, height: 0 },
        Node::Symlink((*b"../target").into()),
        Node::Fifo,
        Node::Socket,
        Node::CharDevice(0x103),
        Node::BlockDevice(0x801),
    ];
    let mut entries: Vec<Entry> = (b'a'..)
        .zip(nodes)
        .map(|(name, node)| Entry { name: [name].into(), node, metadata: metadata.clone() })
        .collect();
    entries[0].metadata.links = 2;
    entries[0].metadata.birth = Some(Timestamp { seconds: 1, nanoseconds: 0 });
    let attribute = ExtendedAttribute { name: (*b"user.x").into(), value: (*b"value").into() };
    entries[0].metadata.attributes = vec![attribute];
    DirectoryNode::Leaf(entries).encode()
}

/// The slot of the vectors: what opens it has to find the keyring in it.
fn prove_slot(credential: &Credential, way: Way, stretched: &[u8; 32]) {
    let keyring = vector_keyring();
    let id = KeySlotId([0x0c; 16]);
    let mut slot = SlotHeader {
        way,
        repository: RepositoryId([5; 16]),
        id,
        salt: [9; 32],
        commitment: derive_key("aumbry v1 slot commitment", stretched),
        keyring_nonce: [0x0a; 24],
        label_nonce: [0x0b; 24],
        wrapped_length: (keyring.encode().len() + 16) as u32,
    }
    .encode()
    .to_vec();
    let wrapping = derive_key("aumbry v1 slot wrapping key", stretched);
    let wrapped = seal_message(&wrapping, &[0x0a; 24], &slot, &keyring.encode());
    slot.extend_from_slice(&wrapped);
    let folder = tempfile::tempdir().unwrap();
    let store = Store::local(folder.path(), LocalMode::Create).unwrap();
    store.create(&format!("keys/{id}"), slot).unwrap();
    let opened = aumbry::repository::keys::open(&store, RepositoryId([5; 16]), credential);
    let opened = opened.unwrap();
    assert!(opened.slot == id && opened.keyring == keyring);
}

fn add_key_update(add: &mut impl FnMut(&str, &[u8]), secret: &[u8; 32]) {
    let mut keyring = vector_keyring();
    keyring.revision = 1;
    keyring.epochs[0].data_key = None;
    keyring.epochs.push(EpochKeys { epoch: 2, data_key: Some([14; 32]), index_key: [15; 32] });
    let (repository, slot) = (RepositoryId([5; 16]), KeySlotId([12; 16]));
    let public = public_key(secret);
    let update = seal_update(repository, &keyring, &[(slot, public)], &[13; 32]).unwrap();
    let name = "keys/00000001.update";
    let opened = unseal_update(name, &update, repository, slot, secret, &keyring.id_key);
    assert!(opened.unwrap() == Some(keyring.clone()));
    let ephemeral: [u8; 32] = update[48..80].try_into().unwrap();
    let shared = shared_secret(secret, &ephemeral).unwrap();
    let own = derive_key("aumbry v1 key update secret", &keyring.id_key);
    let slots = [&[5; 16][..], &[12; 16], &[1, 0, 0, 0]].concat();
    let material = [&shared[..], &ephemeral, &public, &own, &slots].concat();
    let key = derive_key("aumbry v1 key update recipient", &material);
    add("update recipient key", &key);
    let content = unseal_message(&key, &[0; 24], &update[..136], &update[152..200]).unwrap();
    add("update content key", &content);
    add("update", &update);
}

fn vector_keyring() -> Keyring {
    Keyring {
        id_key: [2; 32],
        chunker_secret: [1; 32],
        repository_seed: [0; 32],
        admin_seed: [0; 32],
        epochs: vec![EpochKeys { epoch: 1, data_key: Some([3; 32]), index_key: [4; 32] }],
        settings: Vec::new(),
        revision: 0,
    }
}

/// The name and the object of a pack with parity: one frame, two shards.
fn vector_pack(sealer: &Sealer) -> (String, Vec<u8>) {
    let session = SessionId { generation: 0, random: [7; 16] };
    let id = PackId { session, number: 1 };
    let mut pack = PackBuilder::new(1 << 16).with_parity(2);
    let blob = |byte, length| BlobRecord { id: BlobId([byte; 32]), length };
    pack.push(&[0xd0; 200], Encoding::Stored, vec![blob(0xd1, 80), blob(0xd2, 120)]);
    let name = layout::pack(id);
    let (object, _) = pack.finish(sealer, ObjectKind::DataPack, id, &name, &[6; 32]).unwrap();
    (name, object)
}

/// The vectors as the code has them.
fn code_vectors() -> BTreeMap<String, String> {
    let mut vectors = BTreeMap::new();
    let mut add = |name: &str, bytes: &[u8]| {
        assert!(vectors.insert(name.to_string(), hex(bytes)).is_none(), "{name}");
    };
    let written = |put: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = Vec::new();
        put(&mut bytes);
        bytes
    };
    for number in [0, 127, 128, 300, u64::MAX] {
        add(&format!("varint {number}"), &written(&|bytes| put_varint(bytes, number)));
    }
    for number in [-1, 1, -64, 64, i64::MIN] {
        add(&format!("signed {number}"), &written(&|bytes| put_signed(bytes, number)));
    }
    let time = Timestamp { seconds: -2, nanoseconds: 500_000_000 };
    add("time -1.5 s", &written(&|bytes| put_time(bytes, time)));
    for length in [1u64, 9, 100, 512, 1000, 100_000, 16_777_217] {
        add(&format!("padme {length}"), &padded_length(length).to_le_bytes());
    }

    let mut gear = vec![0; 2048];
    let mut hasher = blake3::Hasher::new_derive_key("aumbry v1 gear table");
    hasher.update(&[1; 32]).finalize_xof().fill(&mut gear);
    add("gear 0", &gear[..8]);
    add("gear 255", &gear[2040..]);
    let params = ChunkerParams { minimum: 1024, average: 4096, maximum: 16384 };
    let (chunker, data) = (Chunker::new(params, &[1; 32]), noise(65_536, 2));
    let mut lengths = Vec::new();
    let mut at = 0;
    while at < data.len() {
        let length = chunker.cut(&data[at..]);
        lengths.extend_from_slice(&(length as u32).to_le_bytes());
        at += length;
    }
    add("chunks", &lengths);

    let naming = NamingKeys::new(&[2; 32]);
    add("data blob abc", naming.data_id(b"abc").as_bytes());
    add("tree blob abc", naming.tree_id(b"abc").as_bytes());
    add("region abc", &naming.region_digest(b"abc"));
    add("region of no bytes", &naming.region_digest(b""));
    let regions = [naming.region_digest(&vec![0; 16 << 20]), naming.region_digest(&[0])];
    add("file of 16777217 zeros", &naming.file_digest(&regions));

    let name = format!("snapshots/00000000-{}", "07".repeat(16));
    let sealer = Sealer::new(RepositoryId([5; 16]), vector_keyring());
    let object = sealer.seal(ObjectKind::Snapshot, &name, Decision::Abort.encode(), &[6; 32]);
    let object = object.unwrap();
    let material = [&[4; 32], &object[..96], name.as_bytes()].concat();
    let key = derive_key("aumbry v1 object key", &material);
    add("object header", &object[..128]);
    add("object key", &key);
    add("object commitment", &derive_key("aumbry v1 key commitment", &key));
    add("object frame begins", &object[128..160]);
    add("object tag", &object[object.len() - 16..]);
    add("object length", &(object.len() as u64).to_le_bytes());
    add("object hash", blake3::hash(&object).as_bytes());
    assert_eq!(object[96..128], derive_key("aumbry v1 key commitment", &key));
    for (label, number, last) in [("frame 1", 1, false), ("frame 258 last", 258, true)] {
        let mut frame = b"abc".to_vec();
        let tag = FrameCipher::new(&key).seal_frame(number, last, &mut frame);
        add(label, &[&frame[..], &tag].concat());
    }

    let shards: [&[u8]; 3] = [&[1, 2, 3, 4], &[5, 6, 7, 8], &[9, 10, 11, 12]];
    let mut parity = [[0; 4]; 2];
    let mut places: Vec<&mut [u8]> = parity.iter_mut().map(|shard| &mut shard[..]).collect();
    ParityCode::new(3, 2, 4).unwrap().encode(&shards, &mut places);
    add("parity of three 0", &parity[0]);
    add("parity of three 1", &parity[1]);
    let (name, pack) = vector_pack(&sealer);
    let key =
        derive_key("aumbry v1 object key", &[&[3; 32], &pack[..96], name.as_bytes()].concat());
    add("pack header", &pack[..128]);
    add("pack parity key", &derive_key("aumbry v1 parity key", &key));
    add("pack length", &(pack.len() as u64).to_le_bytes());
    let shards_end = pack.len() - 128;
    let sealed = u64::from_le_bytes(pack[48..56].try_into().unwrap()) as usize + 16;
    let shard = sealed + 16;
    assert_eq!(pack.len(), 128 + sealed + 2 * shard + 128);
    add("pack parity 0 tag", &pack[shards_end - shard - 16..shards_end - shard]);
    add("pack parity 1 begins", &pack[shards_end - shard..][..32]);
    add("pack parity 1 tag", &pack[shards_end - 16..shards_end]);
    add("pack hash", blake3::hash(&pack).as_bytes());

    let stretched = derive_key("aumbry v1 recovery key", &[[8; 32], [9; 32]].concat());
    prove_slot(&Credential::Recovery([8; 32].into()), Way::Recovery, &stretched);
    add("way 2 stretched", &stretched);
    add("way 2 commitment", &derive_key("aumbry v1 slot commitment", &stretched));
    add("way 2 wrapping key", &derive_key("aumbry v1 slot wrapping key", &stretched));
    let secret = derive_key("aumbry v1 slot exchange key", &stretched);
    add("way 2 exchange key", &secret);
    add("way 2 public key", &public_key(&secret));
    add_key_update(&mut add, &secret);
    let cost = Argon2Cost::FLOOR;
    let stretched = stretch_passphrase(PASSPHRASE.as_bytes(), &[9; 32], cost).unwrap();
    let way =
        Way::Passphrase { memory_kib: cost.memory_kib, passes: cost.passes, lanes: cost.lanes };
    prove_slot(&passphrase(), way, &stretched);
    add("way 1 stretched", stretched.as_slice());
    add("way 1 commitment", &derive_key("aumbry v1 slot commitment", stretched.as_slice()));
    add("keyring", &vector_keyring().encode());

    let blob = |byte, length| BlobRecord { id: BlobId([byte; 32]), length };
    let mut directory = PackDirectory::default();
    directory.push(300, Encoding::Stored, vec![blob(0xd1, 100), blob(0xd2, 200)]);
    directory.push(50, Encoding::Zstd, vec![blob(0xd3, 70_000)]);
    directory.push(9, Encoding::Delta(vec![BlobId([0xd3; 32])]), vec![blob(0xd4, 70_001)]);
    add("directory", &written(&|bytes| directory.encode(bytes)));
    add("leaf", &vector_leaf());

    let time = Timestamp { seconds: 1_790_000_000, nanoseconds: 5 };
    let tomb = Tomb { time, host: "box".into(), user: "me".into(), why: "no rule keeps it".into() };
    add("tomb", &tomb.encode());
    let publisher = Publisher { host: "box".into(), user: "me".into(), time };
    let session = |byte: u8| SessionId { generation: u32::from(byte), random: [byte; 16] };
    let packs =
        vec![PackId { session: session(1), number: 0 }, PackId { session: session(2), number: 7 }];
    let condemned = Condemned { packs: packs.clone(), publisher: publisher.clone() };
    add("condemned", &condemned.encode());
    let live = vec![(SnapshotId(session(1)), None), (SnapshotId(session(2)), Some(time))];
    let sweep = Sweep { packs: packs[..1].to_vec(), live, previous: Some([8; 32]), publisher };
    add("sweep", &sweep.encode());
    let maintainer = Maintainer { id: [3; 16], host: "box".into(), since: time, took_over: true };
    add("maintainer", &maintainer.encode());
    vectors
}

#[test]
fn the_documents_test_vectors_hold() {
    let mut document = document_vectors();
    // How a compressor packs is its own affair: these are read, not written.
    let mut take = |name: &str| -> Vec<u8> {
        let digits = document.remove(name).unwrap_or_default();
        let pairs = digits.as_bytes().chunks(2);
        pairs.map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
    };
    let old = b"the quick brown fox jumps over the lazy dog. ".repeat(4);
    let new = [&old[45..], b"the end"].concat();
    let (zstd, delta) = (take("zstd segment"), take("delta segment"));
    let mut decompressor = Decompressor::new().unwrap();
    let mut wrong = String::new();
    if decompressor.decompress(&zstd, &[], old.len()).as_ref() != Ok(&old) {
        let mut bytes = Vec::new();
        Compressor::new(3, 1 << 20).unwrap().compress(&old, &mut bytes).unwrap();
        let _ = writeln!(wrong, "zstd segment = {}", hex(&bytes));
    }
    if decompressor.decompress(&delta, &old, new.len()).as_ref() != Ok(&new) {
        let mut bytes = Vec::new();
        DeltaCompressor::new(3).unwrap().compress(&old, &new, &mut bytes).unwrap();
        let _ = writeln!(wrong, "delta segment = {}", hex(&bytes));
    }

    let code = code_vectors();
    for (name, digits) in &code {
        if document.get(name) != Some(digits) {
            let _ = writeln!(wrong, "{name} = {digits}");
        }
    }
    assert!(wrong.is_empty(), "the code has:\n{wrong}");
    let unknown: Vec<_> = document.keys().filter(|name| !code.contains_key(*name)).collect();
    assert!(unknown.is_empty(), "the document has more: {unknown:?}");
}

#[test]
#[ignore = "writes fixtures: run by hand, as root, once for each released version"]
fn write_fixtures() {
    for name in NAMES {
        let folder = fixtures().join(format!("format-{VERSION}/{name}"));
        if folder.exists() {
            println!("{} is there already; fixtures never change", folder.display());
            continue;
        }
        fs::create_dir_all(&folder).unwrap();
        let source = tempfile::tempdir().unwrap();
        let tree = source.path().join("tree");
        match name {
            "everything" => {
                fs::create_dir(&tree).unwrap();
                write_everything(&folder, &tree);
            }
            "delta" => write_delta(&folder, &tree, 20),
            "delta-of-long-matches" => write_delta(&folder, &tree, 2),
            "collected" => write_collected(&folder, &tree),
            "rekeyed" => write_rekeyed(&folder, &tree),
            "confirmed" => write_confirmed(&folder, &tree),
            "locked" => write_locked(&folder, &tree),
            _ => write_parity(&folder, &tree),
        }
    }
}
