//! The table in `docs/fidelity.md`, row by row: a tree is backed up and restored, and both are compared
//! attribute by attribute; as whoever runs the tests, and, when that is root, as an ordinary user as well.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown, lchown, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;

use aumbry::format::config::Settings;
use aumbry::monitor::RecordingMonitor;
use aumbry::ops::restore::{RestoreOptions, RestoreSummary, restore};
use aumbry::repository::Repository;
use aumbry::repository::reader::BlobReader;
use aumbry::store::Store;
use aumbry::tree::entry::{Content, Entry, Node};
use aumbry::view::{Found, find_path};
use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, Timespec, Timestamps, XattrFlags, lsetxattr, makedev,
    mkdirat, mknodat, openat, symlinkat, utimensat,
};
use rustix::io::Errno;

use crate::described::{Tree, describe, differences};
use crate::support::{
    back_up_with, create, noise, options, restore_options, small_settings, snapshots,
};

mod ordinary_user;

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Backs up a folder without any problem.
fn backed_up(folder: &Path, settings: Settings) -> Repository {
    let repository = create(Store::memory(), settings, None);
    let monitor = RecordingMonitor::default();
    let summary = back_up_with(&repository, folder, &options(), &monitor).unwrap();
    assert_eq!(monitor.problems(), []);
    assert_eq!(summary.counts.problems, 0);
    repository
}

fn restored(repository: &Repository, target: &Path, options: &RestoreOptions) -> RestoreSummary {
    let newest = snapshots(repository).pop().unwrap();
    let monitor = RecordingMonitor::default();
    let summary = restore(repository, &newest, target, options, &monitor).unwrap();
    assert_eq!(monitor.problems(), []);
    assert_eq!((summary.entries_failed, summary.metadata_failed), (0, 0));
    summary
}

/// A folder in memory where there is one, for what would make a disk seek for minutes.
fn quick_folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// Backs up a folder, restores it, and compares all that is in it; restores it over itself, which writes
/// nothing and changes nothing.
fn prove_with(source: &Path, settings: Settings) -> Tree {
    prove_in(source, settings, &tempfile::tempdir().unwrap())
}

fn prove_in(source: &Path, settings: Settings, keep: &tempfile::TempDir) -> Tree {
    let wanted = describe(source);
    let repository = backed_up(source, settings);
    assert!(describe(source) == wanted, "a backup changes nothing");
    let target = keep.path().join("restored");
    let summary =
        restored(&repository, &target, &RestoreOptions { verify: true, ..restore_options() });
    assert_eq!(summary.files_restored, summary.total_files);
    assert_eq!(differences(&wanted, &describe(&target)), []);
    let summary = restored(&repository, &target, &restore_options());
    assert_eq!((summary.files_restored, summary.bytes_written), (0, 0));
    assert_eq!(differences(&wanted, &describe(&target)), []);
    wanted
}

fn prove(source: &Path) -> Tree {
    prove_with(source, small_settings())
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Sets the time of an entry, of a link its own.
fn set_mtime(path: &Path, seconds: i64, nanoseconds: i64) {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    let times = Timestamps { last_access: time, last_modification: time };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// Sets an attribute; `false`, and a word about it, where the file system has none of this kind.
fn set_attribute(path: &Path, name: impl AsRef<[u8]>, value: &[u8]) -> bool {
    match lsetxattr(path, name.as_ref(), value, XattrFlags::empty()) {
        Err(Errno::NOTSUP) => {
            println!("skipped: the file system has no {}", name.as_ref().escape_ascii());
            false
        }
        result => {
            result.unwrap();
            true
        }
    }
}

/// One of each kind that everybody may make.
fn make_kinds(folder: &Path) {
    fs::create_dir(folder.join("directory")).unwrap();
    fs::write(folder.join("file"), noise(5000, 1)).unwrap();
    symlink("nowhere", folder.join("symlink")).unwrap();
    mknodat(CWD, folder.join("fifo"), FileType::Fifo, Mode::RUSR, 0).unwrap();
    drop(UnixListener::bind(folder.join("socket")).unwrap());
}

fn make_devices(folder: &Path) {
    let mode = Mode::from_raw_mode(0o640);
    let number = makedev(0x123, 0x45678);
    mknodat(CWD, folder.join("character"), FileType::CharacterDevice, mode, number).unwrap();
    mknodat(CWD, folder.join("block"), FileType::BlockDevice, mode, makedev(7, 200)).unwrap();
}

/// An access control list as the system hands it out: tag, rights and id of each entry.
fn access_list(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut bytes = 2_u32.to_le_bytes().to_vec();
    for (tag, rights, id) in entries {
        bytes.extend_from_slice(&tag.to_le_bytes());
        bytes.extend_from_slice(&rights.to_le_bytes());
        bytes.extend_from_slice(&id.to_le_bytes());
    }
    bytes
}

/// Owner all, one user to read and write, the group to read, one group to run, others nothing.
fn some_access_list() -> Vec<u8> {
    const NOBODY: u32 = u32::MAX;
    access_list(&[
        (0x01, 7, NOBODY),
        (0x02, 6, 1234),
        (0x04, 4, NOBODY),
        (0x08, 1, 4321),
        (0x10, 7, NOBODY),
        (0x20, 0, NOBODY),
    ])
}

/// `cap_net_raw,cap_setuid=ep`, in version 2 of the system's layout.
fn some_capabilities() -> Vec<u8> {
    let words: [u32; 5] = [0x0200_0001, 1 << 13 | 1 << 7, 0, 0, 0];
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

#[test]
fn every_kind_of_entry_comes_back_as_what_it_was() {
    let source = tempfile::tempdir().unwrap();
    make_kinds(source.path());
    symlink(OsStr::from_bytes(&[0xff; 4000]), source.path().join("long")).unwrap();
    symlink(source.path(), source.path().join("absolute")).unwrap();
    prove(source.path());
}

#[test]
fn devices_come_back_with_their_numbers() {
    if !is_root() {
        println!("skipped: not root");
        return;
    }
    let source = tempfile::tempdir().unwrap();
    make_devices(source.path());
    let tree = prove(source.path());
    assert_eq!(tree[&b"/character"[..]].device_number, makedev(0x123, 0x45678));
}

#[test]
fn hard_links_are_one_file_again_across_directories_whatever_their_kind() {
    let source = tempfile::tempdir().unwrap();
    let root = source.path();
    make_kinds(root);
    fs::create_dir_all(root.join("a/b/c")).unwrap();
    fs::write(root.join("empty"), "").unwrap();
    fs::write(root.join("large"), noise(17 << 20, 2)).unwrap();
    for name in ["file", "symlink", "fifo", "socket", "empty", "large"] {
        fs::hard_link(root.join(name), root.join(format!("a/b/c/{name}"))).unwrap();
        fs::hard_link(root.join(name), root.join(format!("{name}.link"))).unwrap();
    }
    // One of its names is outside the tree.
    let outside = tempfile::tempdir_in(root.parent().unwrap()).unwrap();
    fs::write(outside.path().join("elsewhere"), "half outside").unwrap();
    fs::hard_link(outside.path().join("elsewhere"), root.join("inside")).unwrap();
    let tree = prove(root);
    assert!(["/file", "/large", "/fifo"].iter().all(|name| tree[name.as_bytes()].names == 3));
}

#[test]
fn all_twelve_bits_of_the_mode_come_back() {
    let source = tempfile::tempdir().unwrap();
    // What cannot be read by its owner cannot be saved by an ordinary user.
    let wanted = if is_root() { 0 } else { 0o400 };
    for bits in 0..0o10000_u32 {
        // Every bit with every set-id bit, and all of the twelve one by one.
        let is_chosen = bits & 0o777 == 0o754 || bits & 0o7000 == 0 || bits.count_ones() == 1;
        if is_chosen && bits & wanted == wanted {
            let path = source.path().join(format!("file-{bits:04o}"));
            fs::write(&path, bits.to_string()).unwrap();
            set_mode(&path, bits);
        }
    }
    for bits in [0o500, 0o555, 0o700, 0o1777, 0o2755, 0o4711, 0o7777] {
        let path = source.path().join(format!("directory-{bits:04o}"));
        fs::create_dir(&path).unwrap();
        // Nor can a directory that may not be passed through, unless the owner may read it.
        set_mode(&path, if is_root() { bits } else { bits | 0o500 });
    }
    if is_root() {
        fs::create_dir_all(source.path().join("closed/inside")).unwrap();
        fs::write(source.path().join("closed/inside/file"), "reached").unwrap();
        set_mode(&source.path().join("closed/inside"), 0);
        set_mode(&source.path().join("closed"), 0);
    }
    mknodat(CWD, source.path().join("fifo"), FileType::Fifo, Mode::RUSR, 0).unwrap();
    set_mode(&source.path().join("fifo"), 0o4321);
    let tree = prove(source.path());
    assert!(tree.len() > 250);
}

#[test]
fn owners_come_back_as_numbers_and_their_names_are_recorded() {
    if !is_root() {
        println!("skipped: not root");
        return;
    }
    let source = tempfile::tempdir().unwrap();
    make_kinds(source.path());
    make_devices(source.path());
    for (number, entry) in fs::read_dir(source.path()).unwrap().enumerate() {
        let ids = [(1234, 4321), (4_000_000_000, 0), (0, 4_000_000_001)][number % 3];
        lchown(entry.unwrap().path(), Some(ids.0), Some(ids.1)).unwrap();
    }
    // Giving a file away takes its set-id bits, which are set again afterwards.
    let path = source.path().join("program");
    fs::write(&path, "program").unwrap();
    chown(&path, Some(1234), Some(4321)).unwrap();
    set_mode(&path, 0o6755);
    fs::write(source.path().join("own"), "root's").unwrap();
    prove(source.path());

    let repository = backed_up(source.path(), small_settings());
    let owner = |name: &str| recorded(&repository, name).metadata.owner.as_ref().clone();
    assert_eq!((owner("own").user.as_str(), owner("own").group.as_str()), ("root", "root"));
    assert_eq!((owner("program").uid, owner("program").user.as_str()), (1234, ""));
}

/// The entry at `/tree/<name>` of the newest snapshot.
fn recorded(repository: &Repository, name: &str) -> Entry {
    repository.refresh_index(&RecordingMonitor::default()).unwrap();
    let reader = BlobReader::new(repository, 8 << 20);
    let (_, snapshot) = snapshots(repository).pop().unwrap();
    let path = format!("/tree/{name}").parse().unwrap();
    match find_path(&reader, &snapshot, &path).unwrap() {
        Some(Found::Entry(entry)) => *entry,
        other => panic!("{name}: {other:?}"),
    }
}

#[test]
fn modification_times_come_back_to_the_nanosecond_of_every_kind_and_age() {
    let source = tempfile::tempdir().unwrap();
    make_kinds(source.path());
    let times = [
        (1_234_567_890, 123_456_789),
        (0, 0),
        (0, 1),
        (-1, 999_999_999),
        (-2_000_000_000, 1),
        (4_102_444_800, 999_999_999),
    ];
    for (seconds, nanoseconds) in times {
        let path = source.path().join(format!("directory/at{seconds}.{nanoseconds}"));
        fs::write(&path, "then").unwrap();
        set_mtime(&path, seconds, nanoseconds);
    }
    for (number, name) in ["directory", "file", "symlink", "fifo", "socket", ""].iter().enumerate()
    {
        set_mtime(&source.path().join(name), 1_000_000_000 + number as i64, 987_654_321);
    }
    let tree = prove(source.path());
    // A file system that keeps less would prove nothing.
    assert_eq!(tree[&b"/symlink"[..]].mtime, (1_000_000_002, 987_654_321));
}

#[test]
fn birth_and_change_times_are_recorded() {
    let source = tempfile::tempdir().unwrap();
    let path = source.path().join("file");
    fs::write(&path, "born").unwrap();
    set_mtime(&path, 1, 0);
    let repository = backed_up(source.path(), small_settings());
    let metadata = recorded(&repository, "file").metadata;
    let found = fs::metadata(&path).unwrap();
    assert_eq!(metadata.ctime.seconds, found.ctime());
    assert_eq!(i64::from(metadata.ctime.nanoseconds), found.ctime_nsec());
    match (found.created(), metadata.birth) {
        (Ok(created), Some(birth)) => {
            let since = created.duration_since(std::time::UNIX_EPOCH).unwrap();
            assert_eq!(birth.seconds, since.as_secs() as i64);
            assert_eq!(birth.nanoseconds, since.subsec_nanos());
        }
        (Err(_), None) => println!("skipped: the file system tells of no birth times"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn attributes_of_users_come_back_byte_by_byte() {
    let source = tempfile::tempdir().unwrap();
    make_kinds(source.path());
    for name in ["file", "directory", ""] {
        let path = source.path().join(name);
        let set = |name: &[u8], value: &[u8]| set_attribute(&path, name, value);
        if !set(b"user.comment", b"not a text: \0\xff\n") {
            return;
        }
        set(b"user.empty", b"");
        set(b"user.\xff\xfe not UTF-8\n", b"name");
        set(&[&b"user."[..], &[b'n'; 250]].concat(), b"longest name");
        set(b"user.large", &noise(2000, 3));
    }
    let read_only = source.path().join("read-only");
    fs::write(&read_only, "").unwrap();
    set_attribute(&read_only, "user.comment", b"on a file that takes none any more");
    set_mode(&read_only, 0o444);
    let tree = prove(source.path());
    assert_eq!(tree[&b"/file"[..]].attributes.len(), 5);
}

#[test]
fn attributes_of_the_administrator_come_back_on_every_kind() {
    if !is_root() {
        println!("skipped: not root");
        return;
    }
    let source = tempfile::tempdir().unwrap();
    make_kinds(source.path());
    make_devices(source.path());
    for entry in fs::read_dir(source.path()).unwrap() {
        if !set_attribute(&entry.unwrap().path(), "trusted.comment", b"\0for root") {
            return;
        }
    }
    let tree = prove(source.path());
    assert!(tree.values().filter(|entry| entry.attributes.len() == 1).count() >= 7);
}

#[test]
fn access_control_lists_come_back_with_the_mode_that_goes_with_them() {
    let source = tempfile::tempdir().unwrap();
    make_kinds(source.path());
    for name in ["file", "directory", "fifo", "socket", ""] {
        let path = source.path().join(name);
        if !set_attribute(&path, "system.posix_acl_access", &some_access_list()) {
            return;
        }
    }
    let directory = source.path().join("directory");
    set_attribute(&directory, "system.posix_acl_default", &some_access_list());
    // These inherit rules, or have lost those that they inherited.
    fs::write(directory.join("heir"), "inherits").unwrap();
    fs::create_dir(directory.join("inner")).unwrap();
    make_kinds(&directory.join("inner"));
    for name in ["file", "fifo", "directory"] {
        let path = directory.join("inner").join(name);
        rustix::fs::lremovexattr(&path, "system.posix_acl_access").unwrap();
    }
    set_mode(&directory.join("inner/file"), 0o640);
    let tree = prove(source.path());
    assert_eq!(tree[&b"/file"[..]].mode, 0o770);
    assert_eq!(tree[&b"/directory/heir"[..]].attributes.len(), 1);
    assert_eq!(tree[&b"/directory/inner/fifo"[..]].attributes.len(), 0);
}

#[test]
fn rules_of_the_folder_that_is_restored_into_are_not_inherited() {
    let source = tempfile::tempdir().unwrap();
    make_kinds(source.path());
    let repository = backed_up(source.path(), small_settings());
    let target = tempfile::tempdir().unwrap();
    if !set_attribute(target.path(), "system.posix_acl_default", &some_access_list()) {
        return;
    }
    set_mode(target.path(), 0o2700);
    restored(&repository, target.path(), &restore_options());
    let (mut wanted, mut found) = (describe(source.path()), describe(target.path()));
    // It was there before, and is as it was.
    for tree in [&mut wanted, &mut found] {
        tree.remove(&b""[..]);
    }
    assert_eq!(differences(&wanted, &found), []);
}

#[test]
fn capabilities_come_back_although_a_new_owner_takes_them() {
    if !is_root() {
        println!("skipped: not root");
        return;
    }
    let source = tempfile::tempdir().unwrap();
    let path = source.path().join("program");
    fs::write(&path, noise(100_000, 4)).unwrap();
    chown(&path, Some(1234), Some(4321)).unwrap();
    set_mode(&path, 0o755);
    if !set_attribute(&path, "security.capability", &some_capabilities()) {
        return;
    }
    fs::hard_link(&path, source.path().join("second name")).unwrap();
    let tree = prove(source.path());
    assert_eq!(tree[&b"/program"[..]].attributes[&b"security.capability"[..]], some_capabilities());
}

#[test]
fn metadata_that_was_changed_since_is_as_it_was_again() {
    let source = tempfile::tempdir().unwrap();
    make_kinds(source.path());
    let has_attributes = set_attribute(&source.path().join("file"), "user.comment", b"first");
    set_attribute(&source.path().join("directory"), "user.comment", b"first");
    let repository = backed_up(source.path(), small_settings());
    let keep = tempfile::tempdir().unwrap();
    let target = keep.path().join("restored");
    restored(&repository, &target, &restore_options());
    for name in ["file", "directory", "symlink", "fifo", "socket"] {
        let path = target.join(name);
        if is_root() {
            lchown(&path, Some(77), Some(88)).unwrap();
            set_attribute(&path, "trusted.extra", b"extra");
        }
        if name != "symlink" {
            set_mode(&path, 0o700);
            set_attribute(&path, "system.posix_acl_access", &some_access_list());
        }
        if has_attributes && matches!(name, "file" | "directory") {
            set_attribute(&path, "user.comment", b"second");
            set_attribute(&path, "user.extra", b"extra");
        }
        set_mtime(&path, 5, 5);
    }
    let summary = restored(&repository, &target, &restore_options());
    assert_eq!(summary.bytes_written, 0);
    assert_eq!(differences(&describe(source.path()), &describe(&target)), []);
}

#[test]
fn names_of_any_bytes_come_back() {
    let source = tempfile::tempdir().unwrap();
    let mut count = 0;
    // Every byte that a name can have, alone and before another.
    for byte in (1..=u8::MAX).filter(|byte| !matches!(byte, b'/' | b'.')) {
        let path = source.path().join(OsStr::from_bytes(&[byte]));
        fs::create_dir(&path).unwrap();
        fs::write(path.join(OsStr::from_bytes(&[byte, b'.', byte])), [byte]).unwrap();
        count += 2;
    }
    let longest = [0xff; 255];
    let names: [&[u8]; 10] = [
        b"two\nlines",
        b" leading and trailing ",
        b"...",
        b"-rf",
        b"\\x41\\",
        b"\x1b[31mred",
        b"cut short \xe2\x82",
        "e\u{301} and \u{e9}".as_bytes(),
        b"*?[a-z]{b,c}!",
        &longest,
    ];
    for name in names {
        fs::write(source.path().join(OsStr::from_bytes(name)), name).unwrap();
        count += 1;
    }
    let tree = prove(source.path());
    assert_eq!(tree.len(), count + 1);
}

#[test]
fn a_tree_deeper_than_any_path_can_name_comes_back() {
    let source = tempfile::tempdir().unwrap();
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut inner: OwnedFd = openat(CWD, source.path(), flags, Mode::empty()).unwrap();
    for level in 0..300 {
        let name = format!("level-{level:0>14}");
        mkdirat(&inner, &name, Mode::RWXU).unwrap();
        inner = openat(&inner, &name, flags, Mode::empty()).unwrap();
        let create = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC;
        let file = openat(&inner, "file", create, Mode::RUSR | Mode::WUSR).unwrap();
        rustix::io::write(&file, name.as_bytes()).unwrap();
    }
    symlinkat("file", &inner, "symlink").unwrap();
    mknodat(&inner, "fifo", FileType::Fifo, Mode::RUSR, 0).unwrap();
    rustix::fs::linkat(&inner, "file", &inner, "second name", AtFlags::empty()).unwrap();
    let _ = rustix::fs::fsetxattr(inner.as_fd(), "user.deep", b"yes", XattrFlags::empty());
    let tree = prove(source.path());
    assert_eq!(tree.len(), 1 + 2 * 300 + 3);
    assert!(tree.keys().map(Vec::len).max().unwrap() > 6000);
}

#[test]
fn a_directory_of_a_hundred_thousand_entries_comes_back() {
    let source = quick_folder();
    for number in 0..100_000_u32 {
        // Lengths on both sides of what stands in the directory itself.
        let text = format!("{number:0>width$}", width = (number % 60) as usize);
        fs::write(source.path().join(format!("entry-{number}")), text).unwrap();
    }
    let tree = prove_in(source.path(), Settings::DEFAULT, &quick_folder());
    assert_eq!(tree.len(), 100_001);
}

#[test]
fn sparse_files_keep_their_holes() {
    let source = tempfile::tempdir().unwrap();
    let make = |name: &str, size: u64, islands: &[(u64, usize)]| {
        let file = File::create(source.path().join(name)).unwrap();
        file.set_len(size).unwrap();
        for (offset, length) in islands {
            file.write_all_at(&noise(*length, *offset), *offset).unwrap();
        }
    };
    make("one block of nothing", 4096, &[]);
    make("less than a block of nothing", 100, &[]);
    make("hole, then data", 1 << 20, &[((1 << 20) - 10, 10)]);
    make("data, then hole", 1 << 20, &[(0, 10)]);
    make("more holes than stand in a directory", 8 << 20, &holes(100, 80_000));
    make("large with islands", 5 << 30, &[(1, 1), (1 << 30, 300_000), ((3 << 30) - 7, 14)]);
    make("large and hardly sparse", 40 << 20, &[(0, 20 << 20), (21 << 20, 19 << 20)]);
    make("odd end", (32 << 20) + 12_345, &[(16 << 20, 1)]);
    let tree = prove(source.path());
    let large = &tree[&b"/large with islands"[..]];
    if large.unequal.sectors > 1 << 20 {
        println!("skipped: the file system keeps holes as zeros");
    }
}

/// Islands of 10 bytes at equal distances.
fn holes(count: u64, distance: u64) -> Vec<(u64, usize)> {
    (0..count).map(|number| (number * distance, 10)).collect()
}

#[test]
fn fifty_gibibytes_of_zeros_are_one_hole_from_end_to_end() {
    let source = tempfile::tempdir().unwrap();
    let path = source.path().join("zeros");
    let file = File::create(&path).unwrap();
    if file.set_len(50 << 30).is_err() {
        println!("skipped: the file system takes no file of 50 GiB");
        return;
    }
    prove_with(source.path(), Settings::DEFAULT);
    let repository = backed_up(source.path(), Settings::DEFAULT);
    let Node::File(content) = recorded(&repository, "zeros").node else { panic!("no file") };
    assert!(matches!(&content.content, Content::Extents(extents) if extents.len() == 1));
}

#[test]
fn files_of_every_length_around_a_boundary_come_back() {
    let source = tempfile::tempdir().unwrap();
    let small = small_settings();
    // What stands in the directory, chunks, frames, blocks, segments.
    let boundaries = [
        48,
        u64::from(small.chunk_minimum),
        u64::from(small.chunk_average),
        u64::from(small.chunk_maximum),
        2 * u64::from(small.chunk_maximum),
        64 << 10,
        u64::from(small.segment_length),
        u64::from(small.pack_length),
        u64::from(Settings::DEFAULT.chunk_minimum),
        u64::from(Settings::DEFAULT.chunk_average),
        u64::from(Settings::DEFAULT.chunk_maximum),
        1 << 20,
        u64::from(Settings::DEFAULT.segment_length),
    ];
    for size in around(&boundaries).chain([0, 1]) {
        let bytes = noise(size as usize, size);
        fs::write(source.path().join(format!("noise-{size}")), bytes).unwrap();
        fs::write(source.path().join(format!("zeros-{size}")), vec![0; size as usize]).unwrap();
        let file = File::create(source.path().join(format!("hole-{size}"))).unwrap();
        file.set_len(size).unwrap();
    }
    prove(source.path());
    let tree = prove_with(source.path(), Settings::DEFAULT);
    assert_eq!(tree[&b"/noise-0"[..]].size, 0);
}

#[test]
fn large_files_of_every_length_around_a_region_come_back() {
    let source = tempfile::tempdir().unwrap();
    let pattern = noise(1 << 20, 7);
    // The regions of digests, of the pipeline, and one of each together.
    for size in around(&[16 << 20, 32 << 20, 48 << 20]) {
        let bytes: Vec<u8> = pattern.iter().copied().cycle().take(size as usize).collect();
        fs::write(source.path().join(format!("data-{size}")), bytes).unwrap();
        for (name, at) in [("hole", None), ("head", Some(0)), ("tail", Some(size - 1))] {
            let file = File::create(source.path().join(format!("{name}-{size}"))).unwrap();
            file.set_len(size).unwrap();
            if let Some(at) = at {
                file.write_all_at(b"!", at).unwrap();
            }
        }
    }
    prove_with(source.path(), Settings::DEFAULT);
}

/// Each boundary, one less and one more.
fn around(boundaries: &[u64]) -> impl Iterator<Item = u64> {
    boundaries.iter().flat_map(|boundary| [boundary - 1, *boundary, boundary + 1])
}
