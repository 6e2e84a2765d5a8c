//! Healing: what is lost or damaged counts as missing for writers, who store it again while the source is there.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use aumbry::monitor::RecordingMonitor;
use aumbry::ops::backup::BackupSummary;
use aumbry::repository::Repository;
use aumbry::store::{Store, layout};

use crate::support::{
    back_up_with, contents, create, noise, open, options, small_settings, snapshots,
};

/// Forty files of noise, one of them long enough for a chunk list.
fn fill(folder: &Path) {
    for number in 0..40 {
        fs::write(folder.join(format!("{number:02}")), noise(20_000, number)).unwrap();
    }
    fs::write(folder.join("long"), noise(900_000, 99)).unwrap();
}

/// Backs up and returns what was said, too.
fn back_up(repository: &Repository, folder: &Path) -> (BackupSummary, Vec<String>) {
    let monitor = RecordingMonitor::default();
    let summary = back_up_with(repository, folder, &options(), &monitor).unwrap();
    (summary, monitor.notes())
}

fn newest(repository: &Repository) -> BTreeMap<Vec<u8>, Vec<u8>> {
    contents(repository, &snapshots(repository).last().unwrap().1)
}

/// The names of all packs, in order.
fn packs(store: &Store) -> Vec<String> {
    store.list(layout::PACKS).unwrap().into_iter().map(|object| object.name).collect()
}

#[test]
fn each_pack_that_goes_missing_is_stored_again_and_then_nothing_is_read_twice() {
    let source = tempfile::tempdir().unwrap();
    fill(source.path());
    let store = Store::memory();
    let cache = tempfile::tempdir().unwrap();
    let wanted = {
        let repository = create(store.clone(), small_settings(), Some(cache.path()));
        back_up(&repository, source.path());
        newest(&repository)
    };
    for name in packs(&store) {
        store.delete(&name).unwrap();
        // The same cache, which knows the pack, and keeps a copy of it if it holds trees.
        let repository = open(store.clone(), Some(cache.path()));
        let (healing, notes) = back_up(&repository, source.path());
        assert!(notes.iter().any(|note| note.contains("gone or cut short")), "{name}: {notes:?}");
        assert!(healing.counts.data_added > 0, "{name}");
        let length = u64::from(small_settings().pack_length);
        assert!(healing.counts.data_added < 4 * length, "{name}: {:?}", healing.counts);
        let (next, notes) = back_up(&repository, source.path());
        assert_eq!(notes, [""; 0], "{name}");
        assert_eq!(next.counts.data_added, 0, "{name}");
        assert_eq!(next.counts.files_unmodified, 41, "{name}");
        // A reader that has nothing but the store.
        assert!(newest(&open(store.clone(), None)) == wanted, "{name}");
    }
}

#[test]
fn a_pack_that_is_back_counts_again() {
    let source = tempfile::tempdir().unwrap();
    fill(source.path());
    let store = Store::memory();
    let cache = tempfile::tempdir().unwrap();
    let repository = create(store.clone(), small_settings(), Some(cache.path()));
    back_up(&repository, source.path());
    let name = packs(&store).remove(0);
    let object = store.get(&name).unwrap();
    store.delete(&name).unwrap();
    // What is not in the source any more cannot be stored again.
    let elsewhere = tempfile::tempdir().unwrap();
    fs::write(elsewhere.path().join("other"), b"of another folder").unwrap();
    for _ in 0..2 {
        let (_, notes) = back_up(&repository, elsewhere.path());
        assert_eq!(notes.len(), 1, "{notes:?}");
    }
    store.create(&name, object).unwrap();
    let (summary, notes) = back_up(&repository, source.path());
    assert_eq!(notes, [""; 0]);
    assert_eq!(summary.counts.data_blobs, 0, "{:?}", summary.counts);
}
