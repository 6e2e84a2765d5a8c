//! Restores: what was backed up comes back, and nothing else is touched.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use aumbry::format::config::Settings;
use aumbry::format::header::ObjectKind;
use aumbry::format::index::PackRecord;
use aumbry::format::pack::BlobRecord;
use aumbry::monitor::{Monitor, Progress, RecordingMonitor, SilentMonitor};
use aumbry::ops::OpsError;
use aumbry::ops::dump::dump;
use aumbry::ops::restore::{Overwrite, RestoreOptions, RestoreSummary, restore};
use aumbry::repository::Repository;
use aumbry::repository::index::PackInfo;
use aumbry::repository::reader::BlobReader;
use aumbry::repository::writer::Writer;
use aumbry::store::{Store, layout};
use aumbry::target::TargetError;
use aumbry::tree::filter::{ExcludeFilter, IncludeFilter, Pattern};

use crate::support::{back_up, create, noise, open, restore_options, small_settings, snapshots};

fn restore_with(
    repository: &Repository,
    target: &Path,
    options: &RestoreOptions,
    monitor: &dyn Monitor,
) -> Result<RestoreSummary, OpsError> {
    let newest = snapshots(repository).pop().unwrap();
    restore(repository, &newest, target, options, monitor)
}

/// Restores without any problem.
fn restore_to(repository: &Repository, target: &Path, options: &RestoreOptions) -> RestoreSummary {
    let monitor = RecordingMonitor::default();
    let summary = restore_with(repository, target, options, &monitor).unwrap();
    assert_eq!(monitor.problems(), []);
    assert_eq!((summary.entries_failed, summary.metadata_failed), (0, 0));
    summary
}

/// All that matters of a tree, by path.
fn describe(root: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut pending = vec![root.to_path_buf()];
    while let Some(folder) = pending.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let metadata = fs::symlink_metadata(&path).unwrap();
            let content = if metadata.is_file() {
                format!("{} {:x?}", metadata.len(), blake3_of(&path))
            } else if metadata.is_symlink() {
                format!("-> {}", fs::read_link(&path).unwrap().display())
            } else {
                format!("{}", metadata.rdev())
            };
            if metadata.is_dir() {
                pending.push(path.clone());
            }
            let links = if metadata.is_dir() { 1 } else { metadata.nlink() };
            let text = format!(
                "{:o} {}:{} {}.{} {links} {content}",
                metadata.mode(),
                metadata.uid(),
                metadata.gid(),
                metadata.mtime(),
                metadata.mtime_nsec(),
            );
            found.insert(path.strip_prefix(root).unwrap().display().to_string(), text);
        }
    }
    found
}

fn blake3_of(path: &Path) -> [u8; 32] {
    *blake3::hash(&fs::read(path).unwrap()).as_bytes()
}

fn is_root() -> bool {
    fs::metadata("/proc/self").unwrap().uid() == 0
}

/// A tree with one of everything.
fn varied(root: &Path) {
    fs::create_dir_all(root.join("a/b/empty")).unwrap();
    fs::create_dir_all(root.join("closed")).unwrap();
    for (number, size) in
        [0, 1, 47, 100, 1023, 4096, 16_385, 300_000, 1_500_000].into_iter().enumerate()
    {
        let path = root.join(format!("a/file-{size}"));
        fs::write(&path, noise(size, number as u64)).unwrap();
        let mode = [0o600, 0o644, 0o755, 0o444, 0o4711][number % 5];
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }
    fs::write(root.join("a/b/one"), "linked").unwrap();
    fs::hard_link(root.join("a/b/one"), root.join("closed/two")).unwrap();
    fs::hard_link(root.join("a/b/one"), root.join("three")).unwrap();
    symlink("../nowhere", root.join("a/link")).unwrap();
    let fifo = root.join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let sparse = fs::File::create(root.join("sparse")).unwrap();
    sparse.set_len(40 << 20).unwrap();
    sparse.write_all_at(b"island", 20 << 20).unwrap();
    let large = noise(20 << 20, 99);
    fs::write(root.join("large"), large).unwrap();
    if is_root() {
        std::os::unix::fs::chown(root.join("a/file-100"), Some(1234), Some(4321)).unwrap();
        std::os::unix::fs::lchown(root.join("a/link"), Some(1234), Some(4321)).unwrap();
    }
    fs::set_permissions(root.join("closed"), fs::Permissions::from_mode(0o555)).unwrap();
    let old = SystemTime::UNIX_EPOCH + Duration::from_nanos(1_234_567_890_123_456_789);
    for path in ["a/b/empty", "closed", "a/file-1023", "large"] {
        let file = fs::File::open(root.join(path)).unwrap();
        file.set_modified(old).unwrap();
    }
}

/// A repository with a varied tree, and where that tree is.
fn backed_up() -> (tempfile::TempDir, Repository) {
    let source = tempfile::tempdir().unwrap();
    varied(source.path());
    let repository = create(Store::memory(), small_settings(), None);
    back_up(&repository, source.path());
    (source, repository)
}

#[test]
fn everything_comes_back_and_a_second_restore_changes_nothing() {
    let (source, repository) = backed_up();
    let keep = tempfile::tempdir().unwrap();
    let target = keep.path().join("new");
    let dry = RestoreOptions { dry_run: true, ..restore_options() };
    let foretold = restore_to(&repository, &target, &dry);
    assert!(!target.exists());
    let verified = RestoreOptions { verify: true, ..restore_options() };
    let summary = restore_to(&repository, &target, &verified);
    assert_eq!(describe(source.path()), describe(&target));
    assert_eq!((summary.total_files, summary.files_restored), (14, 14));
    assert_eq!(summary.files_verified, 12);
    assert_eq!(summary.total_entries, 14 + 4 + 2);
    let sums = |summary: &RestoreSummary| {
        (summary.files_restored, summary.bytes_written, summary.total_bytes, summary.total_entries)
    };
    assert_eq!(sums(&foretold), sums(&summary));
    assert!(fs::metadata(target.join("sparse")).unwrap().blocks() < 4096, "holes stay holes");

    let again = restore_to(&repository, &target, &restore_options());
    assert_eq!((again.files_restored, again.files_unchanged, again.bytes_written), (0, 14, 0));
    assert_eq!(describe(source.path()), describe(&target));
}

#[test]
fn only_what_differs_is_written_and_the_file_stays_the_same() {
    let (source, repository) = backed_up();
    let target = tempfile::tempdir().unwrap();
    restore_to(&repository, target.path(), &restore_options());
    let wanted = describe(source.path());
    for (name, offset) in [("large", 18 << 20), ("a/file-1500000", 700_000), ("sparse", 1000)] {
        let path = target.path().join(name);
        let inode = fs::metadata(&path).unwrap().ino();
        let file = fs::File::options().write(true).open(&path).unwrap();
        file.write_all_at(b"damage", offset).unwrap();
        file.set_len(fs::metadata(&path).unwrap().len() + 777).unwrap();
        let summary = restore_to(&repository, target.path(), &restore_options());
        assert_eq!(summary.files_restored, 1, "{name}");
        assert!(summary.bytes_written <= 32_768, "{name}: {}", summary.bytes_written);
        assert_eq!(fs::metadata(&path).unwrap().ino(), inode);
        assert_eq!(describe(target.path()), wanted, "{name}");
    }
}

#[test]
fn the_overwrite_rule_decides_what_happens_to_files_that_are_there() {
    let source = tempfile::tempdir().unwrap();
    let target = tempfile::tempdir().unwrap();
    let moment = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    fs::write(source.path().join("file"), "snapshot").unwrap();
    fs::File::open(source.path().join("file")).unwrap().set_modified(moment).unwrap();
    let repository = create(Store::memory(), small_settings(), None);
    back_up(&repository, source.path());
    let (earlier, later) = (moment - Duration::from_secs(1), moment + Duration::from_secs(1));
    for (overwrite, content, time, is_kept) in [
        (Overwrite::Always, "existing", moment, false),
        (Overwrite::IfChanged, "existing", moment, true),
        (Overwrite::IfChanged, "existing", later, false),
        (Overwrite::IfChanged, "longer than it", moment, false),
        (Overwrite::IfNewer, "existing", earlier, false),
        (Overwrite::IfNewer, "existing", later, true),
        (Overwrite::Never, "existing", earlier, true),
    ] {
        let path = target.path().join("file");
        fs::write(&path, content).unwrap();
        fs::File::open(&path).unwrap().set_modified(time).unwrap();
        let options = RestoreOptions { overwrite, ..restore_options() };
        restore_to(&repository, target.path(), &options);
        let found = fs::read_to_string(&path).unwrap();
        assert_eq!(found == content, is_kept, "{overwrite:?} {content} {time:?}");
    }
}

#[test]
fn things_in_the_way_are_replaced_and_links_are_not_followed() {
    let (source, repository) = backed_up();
    let keep = tempfile::tempdir().unwrap();
    let (target, outside) = (keep.path().join("target"), keep.path().join("outside"));
    fs::create_dir_all(&target).unwrap();
    fs::create_dir_all(outside.join("b")).unwrap();
    fs::write(outside.join("file-100"), "precious").unwrap();
    fs::write(outside.join("large"), "precious").unwrap();
    symlink(&outside, target.join("a")).unwrap();
    symlink(outside.join("large"), target.join("large")).unwrap();
    fs::create_dir(target.join("sparse")).unwrap();
    fs::write(target.join("pipe"), "no pipe").unwrap();
    fs::write(target.join("closed"), "no directory").unwrap();
    // Another name of something that is not ours must not be written through.
    fs::hard_link(outside.join("file-100"), target.join("three")).unwrap();
    restore_to(&repository, &target, &restore_options());
    assert_eq!(describe(source.path()), describe(&target));
    for name in ["file-100", "large"] {
        assert_eq!(fs::read_to_string(outside.join(name)).unwrap(), "precious");
    }
    assert_eq!(fs::read_dir(outside.join("b")).unwrap().count(), 0);

    fs::remove_file(target.join("large")).unwrap();
    fs::create_dir_all(target.join("large/full")).unwrap();
    let monitor = RecordingMonitor::default();
    let summary = restore_with(&repository, &target, &restore_options(), &monitor).unwrap();
    assert_eq!((summary.entries_failed, monitor.problems()[0].during), (1, "restore"));
    assert_eq!(monitor.problems()[0].item, "/tree/large");
    restore_to(&repository, &target, &RestoreOptions { delete: true, ..restore_options() });
    assert_eq!(describe(source.path()), describe(&target));
}

#[test]
fn what_is_too_much_goes_when_that_is_asked_for_but_not_what_is_excluded() {
    let (source, repository) = backed_up();
    let target = tempfile::tempdir().unwrap();
    restore_to(&repository, target.path(), &restore_options());
    let extra = |name: &str| {
        let path = target.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "extra").unwrap();
    };
    for name in ["a/extra", "a/more/x/y", "cache.tmp", "a/more/z.tmp"] {
        extra(name);
    }
    restore_to(&repository, target.path(), &restore_options());
    assert!(target.path().join("a/more/x/y").exists());
    let exclude = ExcludeFilter::new(&[Pattern::new("*.tmp")]).unwrap();
    let options = RestoreOptions { delete: true, exclude, ..restore_options() };
    let summary = restore_to(&repository, target.path(), &options);
    assert_eq!(summary.files_deleted, 3);
    assert!(target.path().join("cache.tmp").exists());
    assert!(target.path().join("a/more/z.tmp").exists());
    let options = RestoreOptions { delete: true, ..restore_options() };
    let foretold = restore_to(
        &repository,
        target.path(),
        &RestoreOptions { dry_run: true, ..restore_options() },
    );
    assert_eq!(foretold.files_deleted, 0);
    assert_eq!(restore_to(&repository, target.path(), &options).files_deleted, 3);
    assert_eq!(describe(source.path()), describe(target.path()));
}

#[test]
fn parts_of_a_snapshot_can_be_restored() {
    let (source, repository) = backed_up();
    let names = |options: &RestoreOptions| {
        let target = tempfile::tempdir().unwrap();
        restore_to(&repository, target.path(), options);
        describe(target.path()).into_keys().collect::<Vec<_>>()
    };
    let subtree =
        |path: &str| RestoreOptions { subtree: path.parse().unwrap(), ..restore_options() };
    assert_eq!(names(&subtree("/tree/a/b")), ["empty", "one"]);
    assert_eq!(names(&subtree("/tree/a/file-47")), ["file-47"]);
    assert_eq!(names(&subtree("/tree/a/link")), ["link"]);
    let include = |text: &str| {
        let include = IncludeFilter::new(&[Pattern::new(text)]).unwrap();
        RestoreOptions { include, ..subtree("/") }
    };
    assert_eq!(names(&include("one")), ["tree", "tree/a", "tree/a/b", "tree/a/b/one"]);
    assert_eq!(names(&include("/tree/closed")), ["tree", "tree/closed", "tree/closed/two"]);
    assert_eq!(names(&include("nothing")), [""; 0]);
    let exclude = ExcludeFilter::new(&[Pattern::new("file-*"), Pattern::new("closed")]).unwrap();
    let options = RestoreOptions { exclude, ..restore_options() };
    assert_eq!(
        names(&options),
        ["a", "a/b", "a/b/empty", "a/b/one", "a/link", "large", "pipe", "sparse", "three"]
    );
    // The directories that lead to something have their own metadata.
    let target = tempfile::tempdir().unwrap();
    restore_to(&repository, target.path(), &include("two"));
    let mode = fs::metadata(target.path().join("tree/closed")).unwrap().mode() & 0o7777;
    assert_eq!(mode, fs::metadata(source.path().join("closed")).unwrap().mode() & 0o7777);
    let missing = subtree("/tree/missing");
    let result = restore_with(&repository, target.path(), &missing, &SilentMonitor);
    assert!(matches!(result, Err(OpsError::Invalid(_))));
}

#[test]
fn sparse_restoring_leaves_out_zeros_that_were_written() {
    let source = tempfile::tempdir().unwrap();
    let mut bytes = vec![0; 3 << 20];
    bytes[1 << 20] = 1;
    fs::write(source.path().join("zeros"), &bytes).unwrap();
    let repository = create(Store::memory(), Settings::DEFAULT, None);
    back_up(&repository, source.path());
    let target = tempfile::tempdir().unwrap();
    restore_to(&repository, target.path(), &RestoreOptions { sparse: true, ..restore_options() });
    let restored = target.path().join("zeros");
    assert!(fs::read(&restored).unwrap() == bytes);
    assert!(fs::metadata(&restored).unwrap().blocks() * 512 < 1 << 20);
}

/// Asks to stop when some bytes are done.
struct Stopping(AtomicU64);

impl Monitor for Stopping {
    fn advance(&self, done: Progress) {
        self.0.fetch_add(done.bytes, Ordering::Relaxed);
    }

    fn interrupted(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 1 << 20
    }
}

#[test]
fn an_interrupted_restore_goes_on_when_it_is_run_again() {
    let (source, repository) = backed_up();
    let target = tempfile::tempdir().unwrap();
    let stopping = Stopping(AtomicU64::new(0));
    let result = restore_with(&repository, target.path(), &restore_options(), &stopping);
    assert!(matches!(result, Err(OpsError::Interrupted)));
    restore_to(&repository, target.path(), &restore_options());
    assert_eq!(describe(source.path()), describe(target.path()));
}

#[test]
fn damage_costs_the_files_that_it_hits_and_leaves_no_wrong_byte() {
    let source = tempfile::tempdir().unwrap();
    for number in 0..60 {
        fs::write(source.path().join(format!("{number}")), noise(9000, number)).unwrap();
    }
    fs::write(source.path().join("large"), noise(17 << 20, 1000)).unwrap();
    let store = Store::memory();
    let repository = create(store.clone(), small_settings(), None);
    back_up(&repository, source.path());
    let wanted = describe(source.path());
    // One bit of every fifth pack with files in it.
    let packs = repository.cache().packs().unwrap();
    let packs = packs.into_iter().filter(|(_, pack)| pack.kind == ObjectKind::DataPack);
    for (_, pack) in packs.step_by(5) {
        let name = layout::pack(pack.id);
        let mut object = store.get(&name).unwrap();
        let middle = object.len() / 2;
        object[middle] ^= 1;
        store.delete(&name).unwrap();
        store.create(&name, object).unwrap();
    }
    let target = tempfile::tempdir().unwrap();
    let monitor = RecordingMonitor::default();
    let summary = restore_with(&repository, target.path(), &restore_options(), &monitor).unwrap();
    assert!(summary.entries_failed > 0);
    assert_eq!(monitor.problems().len() as u64, summary.entries_failed);
    let found = describe(target.path());
    assert_eq!(found.len() as u64, 61 - summary.entries_failed);
    for (name, text) in found {
        assert_eq!(wanted[&name], text);
    }
}

/// The index of a client that has every pack in it, with the names of chunks changed about, most of them within a length.
fn confuse_index(repository: &Repository) {
    let cache = repository.cache();
    let indexes: Vec<_> = cache.indexes().unwrap().into_iter().collect();
    let packs = cache.packs().unwrap().into_iter();
    let read = |(_, pack): (u32, PackInfo)| {
        repository.read_pack_directory(pack.id, pack.object_length).unwrap()
    };
    let mut records: Vec<PackRecord> = packs.map(read).collect();
    let data = records.iter_mut().filter(|pack| pack.header.kind == ObjectKind::DataPack);
    let segments = data.flat_map(|pack| &mut pack.directory.segments);
    let mut blobs: Vec<&mut BlobRecord> = segments.flat_map(|one| &mut one.blobs).collect();
    // Those of one length side by side; a few are named for others.
    blobs.sort_by_key(|blob| blob.length);
    let ids: Vec<_> = blobs.iter().map(|blob| blob.id).collect();
    for (blob, id) in blobs.iter_mut().zip(ids.iter().cycle().skip(1)) {
        blob.id = *id;
    }
    cache.clear().unwrap();
    cache.add(&indexes, &records).unwrap();
}

/// Files that are written at one go and in regions, cut into chunks of one length, and one into chunks of many.
fn write_long_chunks(folder: &Path) {
    let chunks = |numbers: std::ops::Range<u16>| -> Vec<u8> {
        numbers.flat_map(|number| number.to_le_bytes().repeat(8 << 10)).collect()
    };
    fs::write(folder.join("short"), chunks(0..4)).unwrap();
    fs::write(folder.join("long"), chunks(1000..1600)).unwrap();
    fs::write(folder.join("odd"), noise(50_000, 7)).unwrap();
}

#[test]
fn what_an_index_confuses_is_named_and_no_wrong_byte_is_left() {
    let source = tempfile::tempdir().unwrap();
    write_long_chunks(source.path());
    let repository = create(Store::memory(), small_settings(), None);
    back_up(&repository, source.path());
    confuse_index(&repository);
    let target = tempfile::tempdir().unwrap();
    let monitor = RecordingMonitor::default();
    let summary = restore_with(&repository, target.path(), &restore_options(), &monitor).unwrap();
    assert_eq!(summary.entries_failed, 3);
    let problems = monitor.problems();
    assert!(
        problems.iter().all(|problem| problem.message.contains("holds another blob")),
        "{problems:?}"
    );
    assert_eq!(describe(target.path()).len(), 0);
}

#[test]
fn what_an_index_confuses_is_restored_from_a_pack_that_it_does_not_list() {
    let source = tempfile::tempdir().unwrap();
    write_long_chunks(source.path());
    let store = Store::memory();
    let repository = create(store.clone(), small_settings(), None);
    back_up(&repository, source.path());
    let listed = repository.cache().indexes().unwrap();
    let blobs: Vec<_> = repository.cache().entries().unwrap().map(Result::unwrap).collect();
    let packs = repository.cache().packs().unwrap();
    let is_data: HashMap<u32, bool> =
        packs.iter().map(|(number, pack)| (*number, pack.kind == ObjectKind::DataPack)).collect();
    let packs: Vec<_> = packs.into_iter().map(|(_, pack)| pack.id).collect();
    let reader = BlobReader::new(&repository, 1 << 20);
    let writer = Writer::begin(&repository, false, &SilentMonitor).unwrap();
    let writer = writer.excluding(&packs).unwrap();
    let mut segments = writer.segments(ObjectKind::DataPack).unwrap();
    for (id, location) in &blobs {
        if is_data[&location.pack] {
            segments.put_plain(&reader.data(id).unwrap()).unwrap();
        }
    }
    segments.flush().unwrap();
    writer.finish().unwrap();
    drop(segments);
    drop(writer);
    for index in repository.cache().indexes().unwrap() {
        if !listed.contains(&index) {
            store.delete(&layout::index(index)).unwrap();
        }
    }
    // As one that never heard of the second copies.
    let client = open(store, None);
    client.refresh_index(&SilentMonitor).unwrap();
    let known = client.cache().packs().unwrap().into_iter().map(|(_, pack)| pack.id);
    assert_eq!(known.collect::<HashSet<_>>(), packs.into_iter().collect());
    confuse_index(&client);
    let target = tempfile::tempdir().unwrap();
    restore_to(&client, target.path(), &restore_options());
    assert_eq!(describe(source.path()), describe(target.path()));
}

#[test]
fn a_full_disk_ends_the_restore_with_its_own_error() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: not root");
        return;
    }
    let mount = tempfile::tempdir().unwrap();
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=2m", "tmpfs"])
        .arg(mount.path())
        .stderr(std::process::Stdio::null())
        .status();
    if !mounted.is_ok_and(|status| status.success()) {
        println!("skipped: no mounting of tmpfs");
        return;
    }
    let source = tempfile::tempdir().unwrap();
    for number in 0..50 {
        fs::write(source.path().join(format!("{number}")), noise(100_000, number)).unwrap();
    }
    let repository = create(Store::memory(), small_settings(), None);
    back_up(&repository, source.path());
    let result = restore_with(&repository, mount.path(), &restore_options(), &SilentMonitor);
    let wanted = describe(source.path());
    let found = describe(mount.path());
    let unmounted = std::process::Command::new("umount").arg(mount.path()).status();
    assert!(unmounted.unwrap().success());
    assert!(matches!(result, Err(OpsError::Target(TargetError::Full { .. }))), "{result:?}");
    assert!(found.len() > 3 && found.into_iter().all(|(name, text)| wanted[&name] == text));
}

#[test]
fn a_file_is_dumped_as_it_is_and_a_directory_as_an_archive() {
    let (source, repository) = backed_up();
    let newest = snapshots(&repository).pop().unwrap();
    for name in ["a/file-0", "a/file-47", "a/file-1500000", "large", "sparse"] {
        let mut output = Vec::new();
        let path = format!("/tree/{name}").parse().unwrap();
        let summary = dump(&repository, &newest, &path, &mut output, &SilentMonitor).unwrap();
        assert!(output == fs::read(source.path().join(name)).unwrap(), "{name}");
        assert_eq!((summary.entries, summary.bytes), (1, output.len() as u64));
    }
    let mut output = Vec::new();
    let monitor = RecordingMonitor::default();
    let path = "/tree".parse().unwrap();
    let summary = dump(&repository, &newest, &path, &mut output, &monitor).unwrap();
    assert_eq!(monitor.problems(), []);
    assert_eq!((summary.entries, summary.entries_failed), (20, 0));

    let target = tempfile::tempdir().unwrap();
    let archive = target.path().join("archive");
    let unpacked = target.path().join("unpacked");
    fs::write(&archive, output).unwrap();
    fs::create_dir(&unpacked).unwrap();
    let unpacking = std::process::Command::new("tar")
        .args(["--numeric-owner", "-xpf"])
        .arg(&archive)
        .arg("-C")
        .arg(&unpacked)
        .status();
    assert!(unpacking.unwrap().success());
    let (mut wanted, mut found) = (describe(source.path()), describe(&unpacked));
    // Set-id bits and owners of others are only for the administrator.
    if !is_root() {
        wanted.retain(|name, _| found.contains_key(name));
        found.retain(|name, text| wanted[name] == *text);
    }
    assert_eq!(wanted, found);
}

#[test]
fn what_comes_after_many_files_that_take_no_bytes_is_restored_as_well() {
    let source = tempfile::tempdir().unwrap();
    for number in 0..150 {
        let file = fs::File::create(source.path().join(format!("hole-{number:03}"))).unwrap();
        file.set_len(17 << 20).unwrap();
    }
    fs::write(source.path().join("last"), b"and this one").unwrap();
    let repository = create(Store::memory(), small_settings(), None);
    back_up(&repository, source.path());
    let target = tempfile::tempdir().unwrap();
    let snapshot = snapshots(&repository).remove(0);
    let options = restore_options();
    let summary = restore(&repository, &snapshot, target.path(), &options, &SilentMonitor).unwrap();
    assert_eq!((summary.total_files, summary.files_restored), (151, 151));
    assert_eq!(fs::read(target.path().join("last")).unwrap(), b"and this one");
    assert_eq!(fs::metadata(target.path().join("hole-149")).unwrap().len(), 17 << 20);
}
