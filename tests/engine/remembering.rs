//! What prune remembers of what snapshots need is what following everything anew comes to, whatever happened meanwhile.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use aumbry::id::SnapshotId;
use aumbry::monitor::SilentMonitor;
use aumbry::ops::prune::plan::PackPlan;
use aumbry::ops::prune::{Following, PruneOptions, prune};
use aumbry::repository::Repository;
use aumbry::store::{FaultControl, Store, layout};
use proptest::prelude::{Just, Strategy, any, prop_oneof};
use proptest::sample::Index;

use crate::model::{copy_folder, create_quick, for_all, open_quick};
use crate::prune::{assert_whole, pruned, tight};
use crate::support::{back_up, contents, noise, small_settings, snapshots};

#[derive(Debug, Clone)]
enum Happening {
    /// A file of one of a few contents: small, or long enough for a list of chunks.
    Write(u8, u8),
    Remove(u8),
    BackUp(bool),
    Forget(Index),
    Undelete(Index),
    /// Here, or on the other machine.
    Prune(bool),
    /// What only a plan assumes.
    Assume(Index),
    DeleteCache,
    DeleteMarks,
    KeepMarks,
    PutMarksBack,
    Damage(Index, Index),
    Cut(Index, Index),
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        6 => (0..12u8, 0..8u8).prop_map(|(file, content)| Happening::Write(file, content)),
        1 => (0..12u8).prop_map(Happening::Remove),
        5 => any::<bool>().prop_map(Happening::BackUp),
        4 => any::<Index>().prop_map(Happening::Forget),
        1 => any::<Index>().prop_map(Happening::Undelete),
        2 => any::<bool>().prop_map(Happening::Prune),
        1 => any::<Index>().prop_map(Happening::Assume),
        1 => Just(Happening::DeleteCache),
        1 => Just(Happening::DeleteMarks),
        1 => Just(Happening::KeepMarks),
        2 => Just(Happening::PutMarksBack),
        1 => (any::<Index>(), any::<Index>()).prop_map(|(file, at)| Happening::Damage(file, at)),
        1 => (any::<Index>(), any::<Index>()).prop_map(|(file, at)| Happening::Cut(file, at)),
    ]
}

struct Machines {
    store: Store,
    source: PathBuf,
    /// The cache of the machine that is looked at, and of the other one.
    caches: [PathBuf; 2],
    kept: PathBuf,
    all: BTreeSet<SnapshotId>,
}

impl Machines {
    fn open(&self, is_other: bool) -> Repository {
        open_quick(self.store.clone(), Some(&self.caches[usize::from(is_other)]))
    }

    fn marks_folder(&self) -> PathBuf {
        self.open(false).cache_folder().unwrap().join("marks")
    }

    fn marks_file(&self, file: &Index) -> Option<PathBuf> {
        let files = fs::read_dir(self.marks_folder()).ok()?;
        let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
        files.sort();
        (!files.is_empty()).then(|| file.get(&files).clone())
    }

    fn happen(&mut self, happening: &Happening) {
        match happening {
            Happening::Write(file, content) => {
                let folder = self.source.join(format!("folder-{}", file % 3)).join("below");
                fs::create_dir_all(&folder).unwrap();
                let content = u64::from(*content);
                // Of the largest, a half is the same piece again and again.
                let mut bytes = noise(if content < 5 { 9000 } else { 200_000 }, content);
                if content == 7 {
                    bytes[100_000..].fill(3);
                }
                fs::write(folder.join(format!("file-{file}")), bytes).unwrap();
            }
            Happening::Remove(file) => {
                let folder = self.source.join(format!("folder-{}", file % 3)).join("below");
                let _ = fs::remove_file(folder.join(format!("file-{file}")));
            }
            Happening::BackUp(is_other) => {
                let summary = back_up(&self.open(*is_other), &self.source);
                self.all.extend(summary.snapshot);
            }
            Happening::Forget(which) => {
                let repository = self.open(false);
                let listed = snapshots(&repository);
                if !listed.is_empty() {
                    repository.forget(&[which.get(&listed).0], "a test").unwrap();
                }
            }
            Happening::Undelete(which) => {
                let all: Vec<_> = self.all.iter().copied().collect();
                if !all.is_empty() {
                    // Too late, perhaps.
                    let _ = self.open(false).undelete(&[*which.get(&all)]);
                }
            }
            Happening::Prune(is_other) => {
                let options = PruneOptions { following: Following::Compared, ..tight() };
                pruned(&self.open(*is_other), &options);
            }
            Happening::Assume(which) => {
                let repository = self.open(false);
                let listed = snapshots(&repository);
                if !listed.is_empty() {
                    let assume_forgotten = [which.get(&listed).0].into();
                    let following = Following::Compared;
                    let options =
                        PruneOptions { dry_run: true, assume_forgotten, following, ..tight() };
                    pruned(&repository, &options);
                }
            }
            Happening::DeleteCache => {
                let _ = fs::remove_dir_all(&self.caches[0]);
            }
            Happening::DeleteMarks => {
                let _ = fs::remove_dir_all(self.marks_folder());
            }
            Happening::KeepMarks => {
                let folder = self.marks_folder();
                if folder.exists() {
                    let _ = fs::remove_dir_all(&self.kept);
                    copy_folder(&folder, &self.kept);
                }
            }
            Happening::PutMarksBack => {
                if self.kept.exists() {
                    let folder = self.marks_folder();
                    let _ = fs::remove_dir_all(&folder);
                    copy_folder(&self.kept, &folder);
                }
            }
            Happening::Damage(file, at) => {
                let Some(path) = self.marks_file(file) else { return };
                let mut bytes = fs::read(&path).unwrap();
                if !bytes.is_empty() {
                    let at = at.index(bytes.len());
                    bytes[at] ^= 0x41;
                    fs::write(path, bytes).unwrap();
                }
            }
            Happening::Cut(file, at) => {
                let Some(path) = self.marks_file(file) else { return };
                let bytes = fs::read(&path).unwrap();
                fs::write(&path, &bytes[..at.index(bytes.len() + 1)]).unwrap();
            }
        }
    }

    /// What a plan says by what is remembered, and by following everything anew with the same index.
    fn look(&self, temporary: &Path) {
        let copy = temporary.join("copy");
        let _ = fs::remove_dir_all(&copy);
        drop(self.open(false));
        copy_folder(&self.caches[0], &copy);
        let looked = |repository: &Repository, following| {
            let options = PruneOptions { dry_run: true, following, ..tight() };
            let summary = prune(repository, &options, &SilentMonitor).unwrap();
            let before = (summary.packs_before, summary.bytes_before, summary.unused_before);
            (summary.plan, before, summary.live_blobs)
        };
        let anew = looked(&open_quick(self.store.clone(), Some(&copy)), Following::Anew);
        let compared = looked(&self.open(false), Following::Compared);
        assert_eq!(compared, anew);
        // What was put on the shelf by that.
        assert_eq!(looked(&self.open(false), Following::Remembered), anew);
    }
}

#[test]
fn whatever_happened_what_is_remembered_is_what_is_needed() {
    for_all(48, proptest::collection::vec(happening(), 1..40), |happenings| {
        let temporary = tempfile::tempdir().unwrap();
        let store = Store::memory();
        drop(create_quick(store.clone(), None));
        let mut machines = Machines {
            store,
            source: temporary.path().join("source"),
            caches: ["cache", "other"].map(|name| temporary.path().join(name)),
            kept: temporary.path().join("kept"),
            all: BTreeSet::new(),
        };
        fs::create_dir_all(&machines.source).unwrap();
        for (number, happening) in happenings.iter().enumerate() {
            machines.happen(happening);
            // What changes nothing in the repository is looked at together with what comes next, or alone.
            if number % 3 == 0 {
                machines.look(temporary.path());
            }
        }
        machines.look(temporary.path());
        pruned(&machines.open(false), &tight());
        assert_whole(&machines.store);
    });
}

/// A folder with so many files in so many folders.
fn write_many(folder: &Path, folders: u64, files: u64) {
    for number in 0..folders {
        let folder = folder.join(format!("folder-{number:03}"));
        fs::create_dir_all(&folder).unwrap();
        for file in 0..files {
            let bytes = noise(3000, number * files + file);
            fs::write(folder.join(format!("file-{file}")), bytes).unwrap();
        }
    }
}

fn plan_with(repository: &Repository, following: Following) -> PackPlan {
    let options = PruneOptions { dry_run: true, following, ..tight() };
    pruned(repository, &options).plan.unwrap()
}

#[test]
fn what_did_not_change_is_not_read_again() {
    let source = tempfile::tempdir().unwrap();
    write_many(source.path(), 60, 10);
    let control = FaultControl::new();
    let repository = create_quick(Store::memory().with_faults(control.clone()), None);
    back_up(&repository, source.path());
    let reads = |following| {
        let before = control.read_bytes();
        let plan = plan_with(&repository, following);
        (control.read_bytes() - before, plan)
    };
    let first = reads(Following::Remembered);
    let again = reads(Following::Remembered);
    let anew = reads(Following::Anew);
    assert_eq!((&first.1, &again.1), (&anew.1, &anew.1));
    assert!(first.0 > 10_000 && anew.0 > 10_000, "{} and {}", first.0, anew.0);
    assert!(again.0 < 2000, "{} bytes", again.0);
    fs::write(source.path().join("folder-007/file-3"), noise(3000, 99_999)).unwrap();
    let older = snapshots(&repository)[0].0;
    back_up(&repository, source.path());
    let changed = reads(Following::Remembered);
    repository.forget(&[older], "a test").unwrap();
    let forgotten = reads(Following::Remembered);
    let anew = reads(Following::Anew);
    assert_eq!(forgotten.1, anew.1);
    let bytes = [changed.0, forgotten.0, anew.0];
    assert!(changed.0 < anew.0 && forgotten.0 < anew.0, "{bytes:?}");
}

/// What a tree needs is known when it is damaged later: nothing of it goes, and what is good in it goes on to be good.
#[test]
fn a_tree_that_is_damaged_later_keeps_what_it_needs() {
    let source = tempfile::tempdir().unwrap();
    write_many(source.path(), 3, 4);
    let cache = tempfile::tempdir().unwrap();
    let store = Store::memory();
    let repository = create_quick(store.clone(), Some(cache.path()));
    back_up(&repository, source.path());
    let whole = contents(&repository, &snapshots(&repository)[0].1);
    fs::write(source.path().join("more"), noise(50_000, 5)).unwrap();
    let other = back_up(&repository, source.path()).snapshot.unwrap();
    assert_eq!(plan_with(&repository, Following::Remembered).drop, []);
    repository.forget(&[other], "a test").unwrap();
    assert!(!plan_with(&repository, Following::Remembered).drop.is_empty());
    drop(repository);

    let packs = open_quick(store.clone(), Some(cache.path())).cache().packs().unwrap();
    let is_tree = |kind| kind == aumbry::format::header::ObjectKind::TreePack;
    let trees: Vec<_> = packs.iter().filter(|(_, pack)| is_tree(pack.kind)).collect();
    let kept = open_quick(store.clone(), Some(cache.path())).cache_folder().unwrap().join("trees");
    let _ = fs::remove_dir_all(kept);
    let mut saved = Vec::new();
    for (_, pack) in &trees {
        let name = layout::pack(pack.id);
        let object = store.get(&name).unwrap();
        let mut bytes = object.clone();
        let half = bytes.len() / 2;
        bytes[half / 2..half].fill(0);
        store.delete(&name).unwrap();
        store.create(&name, bytes).unwrap();
        saved.push((name, object));
    }
    let repository = open_quick(store.clone(), Some(cache.path()));
    let fresh = open_quick(store.clone(), None);
    prune(&fresh, &tight(), &SilentMonitor).unwrap_err();
    // Where it is remembered, what is garbage goes, and nothing that is needed.
    assert!(prune(&repository, &tight(), &SilentMonitor).unwrap().packs_deleted > 0);
    for (name, object) in saved {
        let _ = store.delete(&name);
        store.create(&name, object).unwrap();
    }
    let mended = open_quick(store.clone(), None);
    let listed = snapshots(&mended);
    assert_eq!(listed.len(), 1);
    assert!(contents(&mended, &listed[0].1) == whole);
}

#[test]
fn small_settings_make_lists_of_chunks() {
    // What the histories above count on: a file of 200 000 bytes has more chunks than stand in a directory.
    assert!(200_000 / u64::from(small_settings().chunk_average) > 40);
}
