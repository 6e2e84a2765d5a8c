//! Backups: what goes in comes out, nothing is stored or read twice.

use std::fs;

use aumbry::monitor::RecordingMonitor;
use aumbry::ops::OpsError;
use aumbry::store::Store;

use crate::support::{
    back_up, back_up_with, contents, create, noise, open, options, small_settings, snapshots,
};

#[test]
fn what_was_backed_up_is_in_the_snapshot_byte_for_byte() {
    let source = tempfile::tempdir().unwrap();
    let mut wanted = Vec::new();
    for (number, size) in
        [0, 1, 47, 48, 49, 1023, 1024, 1025, 4096, 16_384, 16_385, 100_000, 700_000]
            .iter()
            .enumerate()
    {
        let folder = source.path().join(format!("folder-{}", number % 3));
        fs::create_dir_all(&folder).unwrap();
        let bytes = noise(*size, number as u64);
        fs::write(folder.join(format!("file-{size}")), &bytes).unwrap();
        wanted.push((format!("/tree/folder-{}/file-{size}", number % 3).into_bytes(), bytes));
    }
    let store = Store::memory();
    let repository = create(store.clone(), small_settings(), None);
    let summary = back_up(&repository, source.path());
    assert_eq!(summary.counts.files_new, 13);
    assert_eq!(summary.counts.problems, 0);
    for repository in [repository, open(store, None)] {
        let (_, snapshot) = &snapshots(&repository)[0];
        let found = contents(&repository, snapshot);
        for (path, bytes) in &wanted {
            assert!(found[path] == *bytes, "{}", String::from_utf8_lossy(path));
        }
        assert_eq!(found.len(), wanted.len() + 4);
    }
}

#[test]
fn an_unchanged_tree_stores_nothing_but_the_snapshot() {
    let source = tempfile::tempdir().unwrap();
    for number in 0..50 {
        fs::write(source.path().join(format!("{number}")), noise(5000, number)).unwrap();
    }
    let repository = create(Store::memory(), small_settings(), None);
    let first = back_up(&repository, source.path());
    let second = back_up(&repository, source.path());
    assert_eq!(second.counts.files_unmodified, 50);
    assert_eq!(second.counts.data_added, 0);
    assert_eq!(second.counts.tree_blobs, 0);
    assert_eq!(second.parent, first.snapshot);
    let all = snapshots(&repository);
    assert_eq!(all[0].1.root, all[1].1.root);
}

#[test]
fn a_directory_of_many_entries_is_cut_and_one_change_costs_little() {
    let source = tempfile::tempdir().unwrap();
    for number in 0..5000 {
        fs::write(source.path().join(format!("entry-{number:05}")), b"x").unwrap();
    }
    let repository = create(Store::memory(), small_settings(), None);
    let first = back_up(&repository, source.path());
    assert!(first.counts.tree_blobs > 10, "{:?}", first.counts);
    fs::write(source.path().join("entry-02500-and-one-more"), b"y").unwrap();
    let second = back_up(&repository, source.path());
    assert!(second.counts.tree_blobs <= 6, "{:?}", second.counts);
    let (_, snapshot) = &snapshots(&repository)[1];
    assert_eq!(contents(&repository, snapshot).len(), 5002);
}

#[test]
fn an_interrupted_backup_leaves_no_snapshot_and_is_resumed() {
    let source = tempfile::tempdir().unwrap();
    let cache = tempfile::tempdir().unwrap();
    for number in 0..200 {
        fs::write(source.path().join(format!("{number:03}")), noise(20_000, number)).unwrap();
    }
    let store = Store::memory();
    let repository = create(store.clone(), small_settings(), Some(cache.path()));
    let monitor = RecordingMonitor::default();
    monitor.interrupt();
    let result = back_up_with(&repository, source.path(), &options(), &monitor);
    assert!(matches!(result, Err(OpsError::Interrupted)), "{result:?}");
    assert!(snapshots(&repository).is_empty());
    drop(repository);
    let repository = open(store, Some(cache.path()));
    let summary = back_up(&repository, source.path());
    assert_eq!(summary.counts.files_new, 200);
    let (_, snapshot) = &snapshots(&repository)[0];
    assert_eq!(contents(&repository, snapshot).len(), 201);
}
