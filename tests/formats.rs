//! Repositories of every released format version stay readable for ever, by this program and by a reader
//! that was written from `docs/format.md` alone.
//!
//! A fixture is `tests/fixtures/format-<version>/<name>/`: `repository`, and `expected.txt`, a line for each
//! entry of the newest snapshot. `write_fixtures` makes those of the current version; it is run by hand, once
//! for each version, as root (devices are among the entries).

#![allow(clippy::unwrap_used, reason = "what tests share fails as a test does")]

use std::ffi::OsStr;
use std::fmt::Write;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use aumbry::clock::SystemClock;
use aumbry::codec::kdf::Argon2Cost;
use aumbry::format::VERSION;
use aumbry::format::config::Settings;
use aumbry::format::header::ObjectKind;
use aumbry::format::snapshot::{Decision, Snapshot};
use aumbry::monitor::SilentMonitor;
use aumbry::ops::backup::{BackupOptions, ChangeDetection, backup};
use aumbry::repository::chance::Chance;
use aumbry::repository::keys::Credential;
use aumbry::repository::reader::BlobReader;
use aumbry::repository::writer::Writer;
use aumbry::repository::{CreateOptions, Environment, Repository};
use aumbry::source::files::{Files, FilesOptions};
use aumbry::store::{LocalMode, Store};
use aumbry::tree::entry::{Entry, Extent, Node};
use aumbry::view::{DirectoryRoot, Entries, Extents, read_file};

const PASSPHRASE: &str = "correct horse battery staple";
/// What every released version must have: all kinds of entries and objects; a delta segment.
const NAMES: [&str; 2] = ["everything", "delta"];

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

fn new_repository(folder: &Path) -> Repository {
    let options = CreateOptions {
        settings: settings(),
        cost: Some(Argon2Cost::FLOOR),
        label: "first".into(),
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
        tags: vec!["one".into(), "two".into()],
        time: None,
        zone_offset_seconds: 3600,
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
    let repository = new_repository(&folder.join("repository"));
    back_up(&repository, tree);
    fs::write(tree.join("second"), text(100, 11)).unwrap();
    back_up(&repository, tree);
    let (_, recovery) = repository.add_recovery_key("on paper").unwrap();
    fs::write(folder.join("recovery.txt"), recovery.words().unwrap()).unwrap();
    let reader = repository.register(aumbry::format::session::Purpose::Read).unwrap();
    repository.abort(reader).unwrap();
    fs::write(folder.join("expected.txt"), manifest_of(&repository)).unwrap();
}

/// A file whose chunks are stored as deltas against those of another, as a later writer will.
fn write_delta(folder: &Path, tree: &Path) {
    fs::create_dir_all(tree).unwrap();
    let old = noise(12_000, 9);
    let mut new = old.clone();
    new[6_000..6_010].copy_from_slice(b"0123456789");
    new.extend_from_slice(&text(10, 2));
    fs::write(tree.join("old"), &old).unwrap();
    let repository = new_repository(&folder.join("repository"));
    let settings = Settings { chunk_minimum: 16 << 10, ..settings() };
    assert!(old.len() < settings.chunk_minimum as usize);
    let writer = Writer::begin(&repository, false, &SilentMonitor).unwrap();
    let mut segments = writer.segments(ObjectKind::DataPack).unwrap();
    let (first, second) = old.split_at(7_000);
    let bases = [segments.put(first).unwrap().0, segments.put(second).unwrap().0];
    segments.flush().unwrap();
    let (a, b) = new.split_at(8_000);
    let ids = writer.put_delta(&bases, &old, &[a, b]).unwrap();
    let extent = |blob, bytes: &[u8]| Extent::Data { blob, length: bytes.len() as u64 };
    let naming = repository.naming();
    let file = |name: &str, bytes: &[u8], extents: Vec<Extent>| Entry {
        name: name.as_bytes().into(),
        node: Node::File(aumbry::tree::entry::FileContent {
            size: bytes.len() as u64,
            content: aumbry::tree::entry::Content::Extents(extents),
            digest: Some(naming.file_digest(&[naming.region_digest(bytes)])),
        }),
        metadata: aumbry::tree::entry::Metadata { mode: 0o644, links: 1, ..Default::default() },
    };
    let entries = vec![
        file("new", &new, vec![extent(ids[0], a), extent(ids[1], b)]),
        file("old", &old, vec![extent(bases[0], first), extent(bases[1], second)]),
    ];
    let leaf = aumbry::format::directory::DirectoryNode::Leaf(entries).encode();
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
        parent: None,
        program: "aumbry fixture".into(),
        counts: Default::default(),
        predecessor: None,
        signature: None,
    };
    let session = writer.session();
    drop((segments, trees));
    repository.commit(session, &Decision::Snapshot(Box::new(snapshot))).unwrap();
    fs::write(folder.join("expected.txt"), manifest_of(&repository)).unwrap();
}

#[test]
#[ignore = "writes fixtures: run by hand, as root, once for each released version"]
fn write_fixtures() {
    for name in NAMES {
        let folder = fixtures().join(format!("format-{VERSION}/{name}"));
        assert!(!folder.exists(), "{} is there already; fixtures never change", folder.display());
        fs::create_dir_all(&folder).unwrap();
        let source = tempfile::tempdir().unwrap();
        let tree = source.path().join("tree");
        match name {
            "everything" => {
                fs::create_dir(&tree).unwrap();
                write_everything(&folder, &tree);
            }
            _ => write_delta(&folder, &tree),
        }
    }
}
