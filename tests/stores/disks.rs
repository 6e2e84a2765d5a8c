//! Directories of this machine on other file systems than the one that tests run on: ext4, XFS, btrfs and tmpfs, which are
//! mounted for a test, and what of them outlasts a power failure. Who may not mount skips this.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use aumbry::store::{Created, LocalMode, Store};
use rustix::fs::ioctl_ficlone;

use crate::conformance::{self, Extent};

/// A file system that is mounted until this is dropped.
struct Mount {
    folder: tempfile::TempDir,
}

impl Mount {
    /// `None`, and said so, where mounting is not for us.
    fn new(sort: &str, device: &Path, options: &str) -> Option<Mount> {
        let folder = tempfile::tempdir().unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", sort, "-o", options]).arg(device).arg(folder.path());
        if !rustix::process::geteuid().is_root() {
            println!("skipped: not root");
            return None;
        }
        if !mount.status().is_ok_and(|status| status.success()) {
            println!("skipped: no mounting of {sort}");
            return None;
        }
        Some(Mount { folder })
    }

    /// What is in an image.
    fn of_image(sort: &str, image: &Path) -> Option<Mount> {
        Mount::new(sort, image, "loop")
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(self.path()).stderr(Stdio::null()).status();
        if !unmounted.is_ok_and(|status| status.success()) {
            // A failing test may still hold it open.
            let _ = Command::new("umount").arg("-l").arg(self.path()).status();
        }
    }
}

/// Makes a file system in a file of so many bytes, most of which are never written.
fn make_image(sort: &str, path: &Path, length: u64) -> bool {
    let program = format!("/usr/sbin/mkfs.{sort}");
    if !Path::new(&program).exists() {
        println!("skipped: no mkfs.{sort}");
        return false;
    }
    fs::File::create(path).and_then(|file| file.set_len(length)).unwrap();
    let made = Command::new(program).arg("-q").arg(path).stdout(Stdio::null()).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    true
}

fn conforms_on(sort: &str) {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("image");
    if !make_image(sort, &image, 2 << 30) {
        return;
    }
    let Some(mount) = Mount::of_image(sort, &image) else { return };
    conforms_in(mount.path());
}

fn conforms_in(folder: &Path) {
    let store = Store::local(&folder.join("store"), LocalMode::Create).unwrap();
    conformance::check(&store, &Extent::FULL);
    assert_eq!(fs::read_dir(folder.join("store/tmp")).unwrap().count(), 0);
}

#[test]
fn a_folder_of_this_machine_conforms() {
    conforms_in(tempfile::tempdir().unwrap().path());
}

#[test]
fn a_folder_on_ext4_conforms() {
    conforms_on("ext4");
}

#[test]
fn a_folder_on_xfs_conforms() {
    conforms_on("xfs");
}

#[test]
fn a_folder_on_btrfs_conforms() {
    conforms_on("btrfs");
}

#[test]
fn a_folder_on_tmpfs_conforms() {
    let Some(mount) = Mount::new("tmpfs", Path::new("tmpfs"), "size=1g") else { return };
    conforms_in(mount.path());
}

/// Object number `number` of a thread: some are empty, some longer than a page, some written past the page cache.
fn object(thread: usize, number: usize) -> (String, Vec<u8>) {
    let length = [0, 1, 700, 4_096, 30_000, 1_300_000][(thread + number) % 6] + number % 3;
    let mut state = (thread * 100_000 + number) as u64 * 2 + 1;
    let byte = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    };
    // Folders that nobody has made before, too.
    let name = format!("packs/{:02x}/{thread}-{number}", number % 40);
    (name, (0..length).map(byte).collect())
}

/// What was being done when the power was cut.
struct Cut {
    disk: PathBuf,
    /// Before.
    before: Diary,
    /// And a moment after.
    after: Diary,
}

/// Objects by what was done with them.
#[derive(Debug, Clone, Default)]
struct Diary {
    /// Creates were begun.
    begun: BTreeSet<(usize, usize)>,
    /// They returned, and no delete was begun.
    reported: BTreeSet<(usize, usize)>,
    /// Deletes returned.
    deleted: BTreeSet<(usize, usize)>,
}

/// Ends the threads when it is dropped, also by an assertion that failed.
struct Ending<'a>(&'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// A disk is what its file system has written, and what of that has reached it: while threads create objects, its image is
/// cloned again and again, each clone in one step, as a power failure in that moment would leave the disk. Each is then
/// mounted as after the failure.
fn outlasts_power_failures_on(sort: &str) {
    const THREADS: usize = 4;
    const CUTS: usize = 12;
    let place = tempfile::tempdir().unwrap();
    let below = place.path().join("below");
    // XFS can clone files, whatever is in them.
    if !make_image("xfs", &below, 8 << 30) {
        return;
    }
    let Some(below) = Mount::of_image("xfs", &below) else { return };
    let disk = below.path().join("disk");
    if !make_image(sort, &disk, 1 << 30) {
        return;
    }
    let Some(mount) = Mount::of_image(sort, &disk) else { return };
    let store = Store::local(&mount.path().join("store"), LocalMode::Create).unwrap();
    let diary = Mutex::new(Diary::default());
    let ends = AtomicBool::new(false);
    let mut cuts = Vec::new();
    thread::scope(|scope| {
        let _ending = Ending(&ends);
        let mut workers = Vec::new();
        for thread in 0..THREADS {
            let (store, diary, ends) = (&store, &diary, &ends);
            workers.push(scope.spawn(move || {
                for number in (0..).take_while(|_| !ends.load(Ordering::SeqCst)) {
                    let (name, bytes) = object(thread, number);
                    diary.lock().unwrap().begun.insert((thread, number));
                    let created = store.create(&name, bytes).unwrap();
                    assert_eq!(created, Created::New);
                    diary.lock().unwrap().reported.insert((thread, number));
                    if number % 5 == 4 {
                        let old = (thread, number - 2);
                        diary.lock().unwrap().reported.remove(&old);
                        store.delete(&object(old.0, old.1).0).unwrap();
                        diary.lock().unwrap().deleted.insert(old);
                    }
                }
            }));
        }
        for cut in 0..CUTS {
            let before = loop {
                assert!(!workers.iter().all(|worker| worker.is_finished()), "all threads failed");
                let diary = diary.lock().unwrap();
                if diary.begun.len() > cut * 15 {
                    break diary.clone();
                }
                drop(diary);
                thread::yield_now();
            };
            let clone = below.path().join(format!("cut-{cut}"));
            let image = fs::File::open(&disk).unwrap();
            ioctl_ficlone(fs::File::create(&clone).unwrap(), image).unwrap();
            let after = diary.lock().unwrap().clone();
            cuts.push(Cut { disk: clone, before, after });
        }
    });
    drop(store);
    // Two disks that are the same cannot be mounted at once.
    drop(mount);
    let mut in_the_middle = 0;
    for cut in cuts {
        let Some(mount) = Mount::of_image(sort, &cut.disk) else {
            panic!("{} is no file system any more", cut.disk.display());
        };
        let store = Store::local(&mount.path().join("store"), LocalMode::Open).unwrap();
        let listed = store.list("").unwrap();
        let there: BTreeMap<&str, u64> =
            listed.iter().map(|object| (object.name.as_str(), object.size)).collect();
        // A delete that was begun meanwhile may have had its effect.
        for (thread, number) in cut.before.reported.intersection(&cut.after.reported) {
            let (name, bytes) = object(*thread, *number);
            assert_eq!(
                there.get(name.as_str()),
                Some(&(bytes.len() as u64)),
                "{name} was reported"
            );
        }
        for (thread, number) in &cut.before.deleted {
            let (name, _) = object(*thread, *number);
            assert!(!there.contains_key(name.as_str()), "{name} was deleted");
        }
        let mut found = 0;
        for (thread, number) in &cut.after.begun {
            let (name, bytes) = object(*thread, *number);
            if there.contains_key(name.as_str()) {
                assert!(store.get(&name).unwrap() == bytes, "{name} is torn");
                found += 1;
            }
        }
        assert_eq!(found, there.len(), "nobody has begun to create some of {there:?}");
        in_the_middle += usize::from(cut.after.begun.len() > found + cut.after.deleted.len());
        // What was unfinished is swept, and can be made again.
        assert_eq!(fs::read_dir(mount.path().join("store/tmp")).map_or(0, Iterator::count), 0);
        for (thread, number) in &cut.after.begun {
            let (name, bytes) = object(*thread, *number);
            assert_eq!(store.create(&name, bytes), Ok(Created::New), "{name}");
        }
    }
    assert!(in_the_middle > CUTS / 2, "only {in_the_middle} cuts were in the middle of something");
}

#[test]
fn what_was_reported_on_ext4_outlasts_power_failures() {
    outlasts_power_failures_on("ext4");
}

#[test]
fn what_was_reported_on_xfs_outlasts_power_failures() {
    outlasts_power_failures_on("xfs");
}

#[test]
fn what_was_reported_on_btrfs_outlasts_power_failures() {
    outlasts_power_failures_on("btrfs");
}
