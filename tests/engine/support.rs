//! What the engine's tests share: repositories in memory, backups of folders, trees read back.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aumbry::clock::SystemClock;
use aumbry::codec::kdf::Argon2Cost;
use aumbry::format::config::Settings;
use aumbry::format::snapshot::Snapshot;
use aumbry::id::SnapshotId;
use aumbry::monitor::{Monitor, SilentMonitor};
use aumbry::ops::OpsError;
use aumbry::ops::backup::{BackupOptions, BackupSummary, ChangeDetection, Deltas, backup};
use aumbry::ops::check::{CheckOptions, CheckSummary, DataSelection, check};
use aumbry::ops::repair::RepairOptions;
use aumbry::ops::restore::{Overwrite, RestoreOptions};
use aumbry::repository::chance::Chance;
use aumbry::repository::keys::Credential;
use aumbry::repository::reader::BlobReader;
use aumbry::repository::{CreateOptions, Environment, Repository};
use aumbry::source::files::{Files, FilesOptions};
use aumbry::store::Store;
use aumbry::tree::entry::{Entry, Node};
use aumbry::tree::filter::{ExcludeFilter, IncludeFilter};
use aumbry::view::{DirectoryRoot, Entries, read_file};

/// The passphrase of every repository here.
pub fn passphrase() -> Credential {
    Credential::Passphrase(String::from("correct horse battery staple").into())
}

/// An environment with or without a cache folder.
pub fn environment(cache_folder: Option<&Path>) -> Environment {
    Environment {
        clock: Arc::new(SystemClock::new()),
        chance: Chance::System,
        cache_folder: cache_folder.map(Path::to_path_buf),
        host: "testhost".into(),
        user: "tester".into(),
    }
}

/// Small segments and packs, so that a small source fills several.
pub fn small_settings() -> Settings {
    Settings {
        chunk_minimum: 1024,
        chunk_average: 4096,
        chunk_maximum: 16384,
        segment_length: 16 << 10,
        pack_length: 64 << 10,
        ..Settings::DEFAULT
    }
}

/// A new repository in `store`.
pub fn create(store: Store, settings: Settings, cache_folder: Option<&Path>) -> Repository {
    let options = CreateOptions {
        settings,
        cost: Some(Argon2Cost::FLOOR),
        label: "test".into(),
        cuts_like: None,
    };
    Repository::create(store, &options, &passphrase(), environment(cache_folder)).unwrap()
}

/// The repository in `store`, opened again.
pub fn open(store: Store, cache_folder: Option<&Path>) -> Repository {
    Repository::open(store, &passphrase(), environment(cache_folder)).unwrap()
}

/// Options that a test changes where it needs to.
pub fn options() -> BackupOptions {
    BackupOptions {
        parent: None,
        detection: ChangeDetection::default(),
        host: "testhost".into(),
        user: "tester".into(),
        name: String::new(),
        tags: Vec::new(),
        time: None,
        zone_offset_seconds: 0,
        deltas: Deltas::Always,
        dry_run: false,
        skip_if_unchanged: false,
        program: "test".into(),
        memory_budget: 256 << 20,
    }
}

/// Options of a restore of all that is below `/tree`, which a test changes where it needs to.
pub fn restore_options() -> RestoreOptions {
    RestoreOptions {
        subtree: "/tree".parse().unwrap(),
        include: IncludeFilter::new(&[]).unwrap(),
        exclude: ExcludeFilter::default(),
        overwrite: Overwrite::Always,
        delete: false,
        dry_run: false,
        sparse: false,
        verify: false,
        memory_budget: 64 << 20,
    }
}

/// What a check is asked for.
pub fn check_options(data: DataSelection) -> CheckOptions {
    CheckOptions { data, restore_sample: 0, share_ledger: false, memory_budget: 256 << 20 }
}

/// What a check finds.
pub fn checked(repository: &Repository, data: DataSelection) -> CheckSummary {
    check(repository, &check_options(data), &SilentMonitor).unwrap()
}

/// What a repair is asked for.
pub fn repair_options() -> RepairOptions {
    RepairOptions {
        dry_run: false,
        read_data: true,
        forget_originals: false,
        no_collector_runs: true,
        program: "test".into(),
        memory_budget: 64 << 20,
    }
}

/// Backs up a folder; its contents are at the root of the snapshot.
pub fn back_up_with(
    repository: &Repository,
    folder: &Path,
    options: &BackupOptions,
    monitor: &dyn Monitor,
) -> Result<BackupSummary, OpsError> {
    let files_options =
        FilesOptions { as_path: Some("/tree".parse().unwrap()), ..FilesOptions::default() };
    let mut source = Files::new(&[PathBuf::from(folder)], files_options).unwrap();
    backup(repository, &mut source, options, monitor)
}

/// Backs up a folder and expects no trouble.
pub fn back_up(repository: &Repository, folder: &Path) -> BackupSummary {
    back_up_with(repository, folder, &options(), &SilentMonitor).unwrap()
}

/// The snapshots, oldest first.
pub fn snapshots(repository: &Repository) -> Vec<(SnapshotId, Snapshot)> {
    repository.snapshots(&SilentMonitor).unwrap().all
}

/// Everything in a snapshot by path: files with their bytes, other entries by their kind.
pub fn contents(repository: &Repository, snapshot: &Snapshot) -> BTreeMap<Vec<u8>, Vec<u8>> {
    repository.refresh_index(&SilentMonitor).unwrap();
    let reader = BlobReader::new(repository, 64 << 20);
    let mut found = BTreeMap::new();
    collect(&reader, DirectoryRoot::of_snapshot(snapshot), &mut Vec::new(), &mut found);
    found
}

fn collect(
    reader: &BlobReader<'_>,
    root: DirectoryRoot,
    path: &mut Vec<u8>,
    found: &mut BTreeMap<Vec<u8>, Vec<u8>>,
) {
    for entry in Entries::new(reader, root) {
        let entry: Entry = entry.unwrap();
        let length = path.len();
        path.push(b'/');
        path.extend_from_slice(&entry.name);
        let content = match &entry.node {
            Node::File(file) => read_file(reader, file, u64::MAX >> 1).unwrap(),
            other => other.kind_name().as_bytes().to_vec(),
        };
        found.insert(path.clone(), content);
        if let Some(root) = DirectoryRoot::of_entry(&entry) {
            collect(reader, root, path, found);
        }
        path.truncate(length);
    }
}

/// Bytes that do not compress and follow from a seed.
pub fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}
