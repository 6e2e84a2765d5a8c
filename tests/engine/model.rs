//! Plain models: a folder as a map, a store copied object by object, what the packs of a store hold.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use aumbry::codec::kdf::Argon2Cost;
use aumbry::format::config::Settings;
use aumbry::id::BlobId;
use aumbry::repository::keys::Credential;
use aumbry::repository::{CreateOptions, Repository};
use aumbry::store::{Store, layout};
use proptest::prelude::Strategy;
use proptest::test_runner::{Config, TestRunner};

use crate::support::{contents, environment, small_settings, snapshots};

/// What [`contents`] shows of a snapshot: paths, and the bytes of files.
pub type Plain = BTreeMap<Vec<u8>, Vec<u8>>;

/// A credential without a derivation: tests that open a repository a hundred times need not wait for it.
pub fn quick_key(number: u8) -> Credential {
    Credential::Recovery([number; 32].into())
}

/// A new repository with small packs that opens with [`quick_key`] 1.
pub fn create_quick(store: Store, cache_folder: Option<&Path>) -> Repository {
    create_quick_with(store, small_settings(), cache_folder)
}

/// The same with other settings.
pub fn create_quick_with(
    store: Store,
    settings: Settings,
    cache_folder: Option<&Path>,
) -> Repository {
    // The cost is for passphrases only, but without one it would be measured.
    let cost = Some(Argon2Cost::FLOOR);
    let options = CreateOptions { settings, cost, label: String::new(), cuts_like: None };
    Repository::create(store, &options, &quick_key(1), environment(cache_folder)).unwrap()
}

/// Opens what [`create_quick`] made.
pub fn open_quick(store: Store, cache_folder: Option<&Path>) -> Repository {
    Repository::open(store, &quick_key(1), environment(cache_folder)).unwrap()
}

/// A folder in the form of [`contents`].
pub fn folder_contents(folder: &Path) -> Plain {
    let mut found = Plain::from([(b"/tree".to_vec(), b"dir".to_vec())]);
    collect(folder, b"/tree", &mut found);
    found
}

fn collect(folder: &Path, path: &[u8], found: &mut Plain) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let path = [path, b"/", entry.file_name().as_bytes()].concat();
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            collect(&entry.path(), &path, found);
            found.insert(path, b"dir".to_vec());
        } else if kind.is_symlink() {
            found.insert(path, b"symlink".to_vec());
        } else {
            found.insert(path, std::fs::read(entry.path()).unwrap());
        }
    }
}

/// Fails with the path, not with a screenful of bytes, when a snapshot is not what it ought to be.
pub fn assert_same(found: &Plain, wanted: &Plain, what: &str) {
    for (path, bytes) in wanted {
        let shown = String::from_utf8_lossy(path);
        let there = found.get(path);
        assert!(there.is_some(), "{what}: {shown} is missing");
        assert!(there == Some(bytes), "{what}: {shown} has other content");
    }
    assert_eq!(found.len(), wanted.len(), "{what}: there is more than there should be");
}

/// Every snapshot, oldest first, as a plain map.
pub fn all_contents(repository: &Repository) -> Vec<Plain> {
    snapshots(repository).iter().map(|(_, snapshot)| contents(repository, snapshot)).collect()
}

/// A store in memory with the same objects.
pub fn copy_of(store: &Store) -> Store {
    let copy = Store::memory();
    for object in store.list("").unwrap() {
        copy.create(&object.name, store.get(&object.name).unwrap()).unwrap();
    }
    copy
}

/// A folder with the same files, one level of folders deep: a cache.
pub fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// How often each blob stands in the packs of the store, told by the packs themselves.
pub fn stored_blobs(repository: &Repository) -> BTreeMap<BlobId, u32> {
    let mut counts = BTreeMap::new();
    for object in repository.store().list(layout::PACKS).unwrap() {
        let id = layout::parse_pack(&object.name).unwrap();
        let record = repository.read_pack_directory(id, object.size).unwrap();
        for blob in record.directory.segments.iter().flat_map(|segment| &segment.blobs) {
            *counts.entry(blob.id).or_insert(0) += 1;
        }
    }
    counts
}

/// No blob stands in two packs, or twice in one.
pub fn assert_nothing_stored_twice(repository: &Repository, what: &str) {
    let counts = stored_blobs(repository);
    let twice = counts.values().filter(|count| **count > 1).count();
    assert_eq!(twice, 0, "{what}: blobs of {} that were stored more than once", counts.len());
    assert!(!counts.is_empty(), "{what}: nothing is stored");
}

/// Runs a test with so many random values, and shows the smallest that fails.
pub fn for_all<S: Strategy>(cases: u32, values: S, test: impl Fn(S::Value)) {
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let outcome = TestRunner::new(config).run(&values, |value| {
        test(value);
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
}
