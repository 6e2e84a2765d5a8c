//! Damage: whatever happens to an object of the store, a check names it, and nothing wrong is read.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use aumbry::codec::cipher::SEALED_FRAME_LENGTH;
use aumbry::codec::compress::DeltaCompressor;
use aumbry::format::directory::DirectoryNode;
use aumbry::format::header::{HEADER_LENGTH, ObjectKind};
use aumbry::format::index::{Index, PackRecord};
use aumbry::format::ledger::Ledger;
use aumbry::format::pack::{BlobRecord, Encoding};
use aumbry::format::session::Purpose;
use aumbry::format::snapshot::{Decision, Snapshot};
use aumbry::id::{BlobId, IndexId, PackId, SessionId, SnapshotId, TombId};
use aumbry::monitor::SilentMonitor;
use aumbry::ops::check::{
    CHECK_NAMED_FILES, CheckOptions, CheckSummary, Damage, DataSelection, check,
};
use aumbry::ops::stats::stats;
use aumbry::repository::Repository;
use aumbry::repository::packer::PackBuilder;
use aumbry::repository::reader::BlobReader;
use aumbry::repository::verify::{ListedPack, PackVerifier};
use aumbry::store::{Created, LocalMode, Store, layout};
use aumbry::tree::entry::{Content, Entry, Extent, FileContent, Metadata, Node};
use aumbry::units::Timestamp;
use aumbry::view::{DirectoryRoot, Entries, read_file};

use crate::support::{back_up, create, environment, noise, open, passphrase, small_settings};

/// A repository with every kind of object, and what its snapshots hold.
struct Fixture {
    store: Store,
    repository: Repository,
    objects: BTreeMap<String, Vec<u8>>,
    contents: BTreeMap<(SnapshotId, Vec<u8>), Vec<u8>>,
}

fn everything() -> CheckOptions {
    CheckOptions {
        data: DataSelection::All,
        restore_sample: 0,
        share_ledger: false,
        memory_budget: 256 << 20,
    }
}

/// Two snapshots of a folder with a file long enough for a chunk list and a directory wide enough for several
/// nodes.
fn two_snapshots(store: &Store) -> Repository {
    let settings = aumbry::format::config::Settings {
        chunk_minimum: 256,
        chunk_average: 1024,
        chunk_maximum: 4096,
        ..small_settings()
    };
    let repository = create(store.clone(), settings, None);
    let folder = tempfile::tempdir().unwrap();
    for name in ["deep/deeper/deepest", "wide"] {
        fs::create_dir_all(folder.path().join(name)).unwrap();
    }
    fs::write(folder.path().join("long"), noise(70_000, 1)).unwrap();
    fs::write(folder.path().join("deep/deeper/deepest/noise"), noise(20_000, 2)).unwrap();
    fs::write(folder.path().join("deep/text"), b"all work and no play ".repeat(3000)).unwrap();
    fs::write(folder.path().join("deep/empty"), b"").unwrap();
    for number in 0..400 {
        fs::write(folder.path().join(format!("wide/entry-{number:04}")), b"inline").unwrap();
    }
    back_up(&repository, folder.path());
    fs::write(folder.path().join("deep/text"), b"all play and no work ".repeat(1000)).unwrap();
    fs::write(folder.path().join("new"), noise(10_000, 3)).unwrap();
    back_up(&repository, folder.path());
    repository
}

/// Stored bytes, encoding, plaintexts of the blobs.
type Segment = (Vec<u8>, Encoding, Vec<Vec<u8>>);

/// Uploads a pack of these segments.
fn put_pack(
    repository: &Repository,
    kind: ObjectKind,
    id: PackId,
    segments: &[Segment],
) -> PackRecord {
    let naming = repository.naming();
    let mut pack = PackBuilder::new(1 << 16);
    for (stored, encoding, blobs) in segments {
        let blobs = blobs
            .iter()
            .map(|plain| BlobRecord {
                id: match kind {
                    ObjectKind::DataPack => naming.data_id(plain),
                    _ => naming.tree_id(plain),
                },
                length: plain.len() as u32,
            })
            .collect();
        pack.push(stored, encoding.clone(), blobs);
    }
    let name = layout::pack(id);
    let sealer = repository.sealer();
    let (object, record) = pack.finish(sealer, kind, id, &name, &[7; 32]).unwrap();
    assert_eq!(repository.store().create(&name, object).unwrap(), Created::New);
    record
}

fn put_index(repository: &Repository, session: SessionId, packs: Vec<PackRecord>) {
    let name = layout::index(IndexId { session, number: 0 });
    let index = Index { superseded: Vec::new(), packs };
    let object = repository.seal(ObjectKind::Index, &name, index.encode()).unwrap();
    repository.store().create(&name, object).unwrap();
}

/// A snapshot of one file that is stored as a delta against a chunk of the first snapshot.
fn delta_snapshot(repository: &Repository, model: &Snapshot) {
    let reader = BlobReader::new(repository, 1 << 20);
    let root = DirectoryRoot::of_snapshot(model);
    let tree = Entries::new(&reader, root).next().unwrap().unwrap();
    let tree = DirectoryRoot::of_entry(&tree).unwrap();
    let long = Entries::new(&reader, tree).map(Result::unwrap).find(|entry| *entry.name == *b"new");
    let Some(Entry { node: Node::File(file), .. }) = long else { unreachable!() };
    let Content::Extents(extents) = file.content else { unreachable!() };
    let Extent::Data { blob: base, .. } = extents[0] else { unreachable!() };

    let session = repository.register(Purpose::Write).unwrap();
    let prefix = reader.data(&base).unwrap().to_vec();
    let mut plain = prefix.clone();
    plain.extend_from_slice(b"and a little more");
    let mut stored = Vec::new();
    DeltaCompressor::new(3).unwrap().compress(&prefix, &plain, &mut stored).unwrap();
    assert!(stored.len() < 100);
    let data = PackId { session, number: 0 };
    let delta = (stored, Encoding::Delta(vec![base]), vec![plain.clone()]);
    let data = put_pack(repository, ObjectKind::DataPack, data, &[delta]);

    let length = plain.len() as u64;
    let blob = repository.naming().data_id(&plain);
    let content = Content::Extents(vec![Extent::Data { blob, length }]);
    let leaf = DirectoryNode::Leaf(vec![Entry {
        name: (*b"delta").into(),
        node: Node::File(FileContent { size: length, content, digest: None }),
        metadata: Metadata { links: 1, ..Metadata::default() },
    }])
    .encode();
    let root = repository.naming().tree_id(&leaf);
    let tree = PackId { session, number: 1 };
    let tree = put_pack(
        repository,
        ObjectKind::TreePack,
        tree,
        &[(leaf.clone(), Encoding::Stored, vec![leaf])],
    );
    put_index(repository, session, vec![data, tree]);
    let mut snapshot = model.clone();
    (snapshot.root, snapshot.height, snapshot.predecessor) = (root, 0, None);
    snapshot.time.seconds += 60;
    repository.commit(session, &Decision::Snapshot(Box::new(snapshot))).unwrap();
}

/// What no backup of this version makes, and what only accidents leave behind.
fn left_overs(repository: &Repository) {
    let aborted = repository.register(Purpose::Write).unwrap();
    repository.abort(aborted).unwrap();
    let stopped = repository.register(Purpose::Write).unwrap();
    let plain = noise(500, 9);
    let segment = (plain.clone(), Encoding::Stored, vec![plain]);
    let pack = PackId { session: stopped, number: 0 };
    put_pack(repository, ObjectKind::DataPack, pack, &[segment]);
    for (kind, name) in [
        (ObjectKind::Tomb, layout::tomb(TombId { session: aborted, number: 1 })),
        (ObjectKind::Mark, layout::undone(TombId { session: aborted, number: 2 })),
        (ObjectKind::Condemned, layout::condemned(1)),
        (ObjectKind::Sweep, layout::sweep(1)),
    ] {
        let object = repository.seal(kind, &name, vec![1, 2, 3]).unwrap();
        repository.store().create(&name, object).unwrap();
    }
    // Of a pack that was collected since.
    let collected = PackId { session: aborted, number: 99 };
    repository.record_damage(collected, "frame 3", &[BlobId([8; 32])]).unwrap();
    let ledger = Ledger { superseded: Vec::new(), proven: vec![(pack, Timestamp::default())] };
    repository.share_ledger(aborted, &ledger).unwrap();
    repository.add_recovery_key("paper").unwrap();
}

fn fixture() -> Fixture {
    let store = Store::memory();
    let repository = two_snapshots(&store);
    let all = repository.snapshots(&SilentMonitor).unwrap().all;
    delta_snapshot(&repository, &all[1].1);
    left_overs(&repository);
    let objects: BTreeMap<_, _> = store
        .list("")
        .unwrap()
        .into_iter()
        .map(|object| (object.name.clone(), store.get(&object.name).unwrap()))
        .collect();
    let mut contents = BTreeMap::new();
    let (whole, broken) = read_everything(&repository);
    assert!(broken.is_empty(), "{broken:?}");
    contents.extend(whole);
    Fixture { store, repository, objects, contents }
}

type Files = BTreeMap<(SnapshotId, Vec<u8>), Vec<u8>>;

/// Every file that comes back, and the paths of files and directories that do not.
fn read_everything(repository: &Repository) -> (Files, BTreeSet<(SnapshotId, Vec<u8>)>) {
    let _ = repository.refresh_index(&SilentMonitor).unwrap();
    let snapshots = repository.snapshots(&SilentMonitor).unwrap();
    let reader = BlobReader::new(repository, 16 << 20);
    let (mut whole, mut broken) = (Files::new(), BTreeSet::new());
    for (id, snapshot) in &snapshots.all {
        let mut directories = vec![(Vec::new(), DirectoryRoot::of_snapshot(snapshot))];
        while let Some((path, root)) = directories.pop() {
            for entry in Entries::new(&reader, root) {
                let Ok(entry) = entry else {
                    broken.insert((*id, path.clone()));
                    continue;
                };
                let path = [&path[..], b"/", &entry.name].concat();
                if let Some(root) = DirectoryRoot::of_entry(&entry) {
                    directories.push((path, root));
                } else if let Node::File(file) = &entry.node {
                    match read_file(&reader, file, 1 << 30) {
                        Ok(bytes) => drop(whole.insert((*id, path), bytes)),
                        Err(_) => drop(broken.insert((*id, path))),
                    }
                }
            }
        }
    }
    (whole, broken)
}

/// Whether a damage names the path, or a directory above it.
fn names(damage: &[Damage], id: SnapshotId, path: &[u8]) -> bool {
    let path = format!("{}:{}", id.short(), String::from_utf8_lossy(path));
    damage.iter().any(|damage| {
        damage.hit_count > CHECK_NAMED_FILES as u64
            || damage.hits.iter().any(|hit| {
                let below = format!("{}/", hit.trim_end_matches('/'));
                path == *hit || path.starts_with(&below) || path == hit.trim_end_matches('/')
            })
    })
}

impl Fixture {
    fn put(&self, name: &str, bytes: Option<&[u8]>) {
        self.store.delete(name).unwrap();
        if let Some(bytes) = bytes {
            self.store.create(name, bytes.to_vec()).unwrap();
        }
    }

    /// Removes what a check has registered.
    fn tidy(&self) {
        for object in self.store.list("").unwrap() {
            if !self.objects.contains_key(&object.name) {
                self.store.delete(&object.name).unwrap();
            }
        }
    }

    /// What a check says, by a client that knows nothing yet; `None`: it cannot be opened, and one that was
    /// opened before says why.
    fn check(&self, case: &str, data: DataSelection) -> Option<(Repository, CheckSummary)> {
        let options = CheckOptions { data, ..everything() };
        let repository = match self.repository.reopen(environment(None)) {
            Ok(repository) => repository,
            Err(error) => {
                assert!(!error.item.is_empty() && !error.message.is_empty(), "{case}");
                let damage = check(&self.repository, &options, &SilentMonitor).unwrap().damage;
                assert!(damage.len() == 1 && damage[0].item == "config", "{case}: {damage:?}");
                return None;
            }
        };
        let summary = check(&repository, &options, &SilentMonitor).unwrap_or_else(|error| {
            unreachable!("{case}: the check failed: {error}");
        });
        Some((repository, summary))
    }

    /// With this object changed: the check names it, and what is read is right or named as damaged. Only packs
    /// need a check that reads the data to be found damaged.
    fn expect_found(&self, case: &str, name: &str, bytes: Option<&[u8]>, read: bool) {
        self.put(name, bytes);
        let whole = read || Self::folder(name) == "packs";
        let data = if whole { DataSelection::All } else { DataSelection::None };
        if let Some((repository, summary)) = self.check(case, data) {
            let named = summary.damage.iter().any(|damage| damage.item == *name);
            assert!(named, "{case}: {:?}", summary.damage);
            if read {
                self.expect_right_or_named(case, &repository, &summary);
            }
        }
        self.put(name, Some(&self.objects[name]));
        self.tidy();
    }

    fn expect_right_or_named(&self, case: &str, repository: &Repository, summary: &CheckSummary) {
        let (whole, broken) = read_everything(repository);
        for (place, bytes) in &whole {
            assert!(self.contents.get(place) == Some(bytes), "{case}: wrong bytes at {place:?}");
        }
        for (id, path) in &broken {
            let path_text = String::from_utf8_lossy(path);
            assert!(
                names(&summary.damage, *id, path),
                "{case}: {path_text} is broken and not named: {:#?}",
                summary.damage
            );
        }
        for (id, path) in self.contents.keys() {
            let path_text = String::from_utf8_lossy(path);
            assert!(
                whole.contains_key(&(*id, path.clone())) || names(&summary.damage, *id, path),
                "{case}: {path_text} did not come back and is not named: {:#?}",
                summary.damage
            );
        }
    }

    fn folder(name: &str) -> &str {
        name.split('/').next().unwrap()
    }
}

#[test]
fn nothing_is_found_in_a_whole_repository() {
    let fixture = fixture();
    let kinds: BTreeSet<_> = fixture.objects.keys().map(|name| Fixture::folder(name)).collect();
    assert_eq!(kinds.len(), 10, "{kinds:?}");
    for data in [DataSelection::None, DataSelection::All] {
        let repository = fixture.repository.reopen(environment(None)).unwrap();
        let options = CheckOptions { data, ..everything() };
        let summary = check(&repository, &options, &SilentMonitor).unwrap();
        assert_eq!(summary.damage, []);
        assert_eq!(summary.snapshots, 3);
        assert_eq!(summary.unreferenced_packs, 1);
        assert_eq!(summary.notes.len(), 1, "{:?}", summary.notes);
        let packs = fixture.objects.keys().filter(|name| name.starts_with("packs/"));
        assert_eq!(summary.packs + 1, packs.count() as u64);
        assert_eq!(
            summary.packs_read,
            if data == DataSelection::None { 0 } else { summary.packs + 1 }
        );
        let all = repository.snapshots(&SilentMonitor).unwrap().all;
        let stats = stats(&repository, &all, &SilentMonitor).unwrap();
        assert_eq!(stats.blobs, summary.blobs);
        let bytes: usize = fixture.contents.values().map(Vec::len).sum();
        assert_eq!(stats.restore_bytes, bytes as u64);
        assert_eq!(stats.files, fixture.contents.len() as u64);
    }
}

#[test]
fn parts_are_the_same_packs_every_time_and_all_of_them_together() {
    let fixture = fixture();
    let read = |data| {
        let options = CheckOptions { data, ..everything() };
        check(&fixture.repository, &options, &SilentMonitor).unwrap().packs_read
    };
    let all = read(DataSelection::All);
    let parts: Vec<_> = (1..=3).map(|part| read(DataSelection::Part { part, parts: 3 })).collect();
    assert_eq!(parts.iter().sum::<u64>(), all);
    assert_eq!(read(DataSelection::Part { part: 2, parts: 3 }), parts[1]);
    assert_eq!(read(DataSelection::Share(0.5)), all.div_ceil(2));
    assert_eq!(read(DataSelection::Share(0.0)), 0);
    assert_eq!(read(DataSelection::Bytes(1)), 1);
    assert_eq!(read(DataSelection::Bytes(u64::MAX)), all);
    for data in [DataSelection::Share(f64::NAN), DataSelection::Part { part: 0, parts: 3 }] {
        let options = CheckOptions { data, ..everything() };
        assert!(check(&fixture.repository, &options, &SilentMonitor).is_err());
    }
}

/// Flips bytes of every object in these folders. Large objects are packs and index objects: of those all of the
/// beginning and end, where every byte has a meaning of its own, and every so many in between. Returns how
/// many it flipped.
fn flip_bytes(folders: &[&str]) -> u64 {
    let fixture = fixture();
    let mut cases = 0;
    let chosen = |name: &String| folders.contains(&Fixture::folder(name));
    for (name, bytes) in fixture.objects.iter().filter(|(name, _)| chosen(name)) {
        let stride = if bytes.len() < 4096 { 1 } else { 1021 };
        let ends = |at: usize| at < HEADER_LENGTH + 8 || at + 24 > bytes.len();
        for at in (0..bytes.len()).filter(|at| at % stride == 0 || ends(*at)) {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << (at % 8);
            fixture.expect_found(&format!("{name}, byte {at}"), name, Some(&flipped), at % 37 == 0);
            cases += 1;
        }
    }
    cases
}

#[test]
fn every_flipped_byte_of_packs_index_objects_keys_and_settings_is_found() {
    let cases = flip_bytes(&["packs", "index", "keys", "config"]);
    assert!(cases > 3000, "{cases}");
}

#[test]
fn every_flipped_byte_of_all_other_objects_is_found() {
    let cases = flip_bytes(&["sessions", "snapshots", "tombs", "gc", "damaged", "ledger"]);
    assert!(cases > 3000, "{cases}");
}

#[test]
fn every_seventh_flipped_byte_of_packs_is_found_in_the_pack_itself() {
    let fixture = fixture();
    let repository = &fixture.repository;
    let reader = BlobReader::new(repository, 16 << 20);
    let mut verifier = PackVerifier::new(&reader).unwrap();
    let indexes = repository.listed_indexes().unwrap();
    for id in indexes {
        for record in repository.read_index(id).unwrap().packs {
            let name = layout::pack(record.id);
            let listed = ListedPack::new(id, &record);
            let mut verify = |bytes: &[u8]| {
                fixture.put(&name, Some(bytes));
                verifier.verify(record.id, Some(&listed)).unwrap()
            };
            let bytes = &fixture.objects[&name];
            let whole = verify(bytes);
            assert!(whole.damage.is_empty() && whole.lost.is_empty(), "{:?}", whole.damage);
            for at in (0..bytes.len()).step_by(7) {
                let mut flipped = bytes.clone();
                flipped[at] ^= 1 << (at % 8);
                assert!(!verify(&flipped).damage.is_empty(), "{name}, byte {at}");
            }
            fixture.put(&name, Some(bytes));
        }
    }
}

/// A pack that a disk gives part by part is said to be what it is said to be where it is read whole.
#[test]
fn a_large_pack_is_proven_on_a_disk_as_it_is_in_memory() {
    let folder = tempfile::tempdir().unwrap();
    let settings = aumbry::format::config::Settings {
        chunk_minimum: 256,
        chunk_average: 1024,
        chunk_maximum: 4096,
        segment_length: 256 << 10,
        pack_length: 7 << 20,
        ..small_settings()
    };
    let memory = Store::memory();
    let whole = create(memory.clone(), settings, None);
    let source = tempfile::tempdir().unwrap();
    // Which shrinks by half.
    let text: String = noise(20 << 20, 1).iter().map(|byte| format!("{byte:02x}")).collect();
    fs::write(source.path().join("text"), text).unwrap();
    back_up(&whole, source.path());
    let index = whole.listed_indexes().unwrap()[0];
    let packs = whole.read_index(index).unwrap().packs;
    let record = packs.iter().max_by_key(|pack| pack.object_length).unwrap();
    let name = layout::pack(record.id);
    let bytes = memory.get(&name).unwrap();
    let segments = &record.directory.segments;
    assert!(record.object_length > 5 << 20 && segments.len() > 20);
    assert!(segments.iter().all(|segment| segment.encoding == Encoding::Zstd));

    // Index objects that say something else of it: it is read by what they say.
    let mut records = vec![record.clone()];
    let mut turned = record.clone();
    turned.directory.segments.reverse();
    records.push(turned);
    for (at, by) in [(3, 1), (20, 300_000), (0, 3 << 20)] {
        let mut moved = record.clone();
        moved.directory.segments[at].stored_length += by;
        records.push(moved);
    }
    let mut listed = vec![None];
    for (number, record) in records.into_iter().enumerate() {
        let session = SessionId { generation: 0, random: [number as u8; 16] };
        put_index(&whole, session, vec![record.clone()]);
        listed.push(Some(ListedPack::new(IndexId { session, number: 0 }, &record)));
    }
    let disk = Store::local(folder.path(), LocalMode::Create).unwrap();
    assert!(disk.is_disk() && !memory.is_disk());
    for object in memory.list("").unwrap() {
        disk.create(&object.name, memory.get(&object.name).unwrap()).unwrap();
    }
    let in_parts = open(disk.clone(), None);

    let frame = SEALED_FRAME_LENGTH;
    let end = bytes.len();
    let mut cases = vec![("as it is".to_string(), Some(bytes.clone()))];
    let places = [0, 9, HEADER_LENGTH - 1, HEADER_LENGTH, HEADER_LENGTH + 32 * frame - 1];
    let more = [HEADER_LENGTH + 32 * frame, HEADER_LENGTH + 64 * frame + 5, end / 2];
    let last = [end - 4 * frame, end - frame, end - 20, end - 1];
    for at in places.into_iter().chain(more).chain(last) {
        let mut flipped = bytes.clone();
        flipped[at] ^= 4;
        cases.push((format!("byte {at}"), Some(flipped)));
    }
    for length in [0, 1, HEADER_LENGTH, 32 * frame, 64 * frame, end - frame, end - 1] {
        cases.push((format!("cut at {length}"), Some(bytes[..length].to_vec())));
    }
    cases.push(("longer".to_string(), Some([&bytes[..], b"x"].concat())));
    cases.push(("gone".to_string(), None));

    let readers = [BlobReader::new(&whole, 16 << 20), BlobReader::new(&in_parts, 16 << 20)];
    let mut verifiers = readers.each_ref().map(|reader| PackVerifier::new(reader).unwrap());
    for (case, bytes) in &cases {
        for store in [&memory, &disk] {
            store.delete(&name).unwrap();
            if let Some(bytes) = bytes {
                store.create(&name, bytes.clone()).unwrap();
            }
        }
        for (listed, says_so) in listed.iter().zip([true, true, false, false, false, false]) {
            let [whole, in_parts] = verifiers.each_mut().map(|verifier| {
                format!("{:#?}", verifier.verify(record.id, listed.as_ref()).unwrap())
            });
            assert!(whole == in_parts, "{case}, {listed:?}: {in_parts}\ninstead of {whole}");
            let is_whole = case == "as it is" && says_so;
            assert_eq!(whole.contains("damage: []"), is_whole, "{case}: {whole}");
        }
    }
}

#[test]
fn every_cut_and_every_exchange_is_found() {
    let fixture = fixture();
    for (name, bytes) in &fixture.objects {
        let frame = aumbry::codec::cipher::SEALED_FRAME_LENGTH;
        let frames = (HEADER_LENGTH..bytes.len()).step_by(frame);
        let tags = frames.clone().map(|start| start + frame - 16);
        let cuts: BTreeSet<_> =
            frames.chain(tags).chain([0, 1, bytes.len() - 1, bytes.len() / 2]).collect();
        for length in cuts.into_iter().filter(|length| *length < bytes.len()) {
            let case = format!("{name}, cut to {length}");
            fixture.expect_found(&case, name, Some(&bytes[..length]), true);
        }
        let longer = [&bytes[..], &[0]].concat();
        fixture.expect_found(&format!("{name}, one byte more"), name, Some(&longer), true);
        let zeros = vec![0; bytes.len()];
        fixture.expect_found(&format!("{name}, zeros"), name, Some(&zeros), true);
        for (other, content) in &fixture.objects {
            // Of its own kind, each: so every older one, too. Of other kinds: one each.
            if other != name {
                let case = format!("{other} in the place of {name}");
                fixture.expect_found(&case, name, Some(content), true);
            }
        }
    }
}

#[test]
fn an_object_of_another_repository_is_found() {
    let fixture = fixture();
    let store = Store::memory();
    two_snapshots(&store);
    for object in store.list("").unwrap() {
        let folder = Fixture::folder(&object.name);
        let bytes = store.get(&object.name).unwrap();
        let same = fixture.objects.keys().filter(|name| Fixture::folder(name) == folder);
        for name in same.take(2) {
            let case = format!("{} of another repository as {name}", object.name);
            fixture.expect_found(&case, name, Some(&bytes), true);
        }
    }
}

#[test]
fn what_is_removed_is_found_where_anything_tells_of_it() {
    let fixture = fixture();
    let all = fixture.repository.snapshots(&SilentMonitor).unwrap().all;
    let snapshots: BTreeSet<_> = all.iter().map(|(id, _)| layout::snapshot(id.0)).collect();
    let unlisted = |name: &str| {
        let packs = fixture.repository.cache().packs().unwrap();
        !packs.iter().any(|(_, pack)| layout::pack(pack.id) == *name)
    };
    for name in fixture.objects.keys() {
        let case = format!("{name} removed");
        fixture.put(name, None);
        let Some((repository, summary)) = fixture.check(&case, DataSelection::All) else {
            fixture.put(name, Some(&fixture.objects[name]));
            continue;
        };
        let folder = Fixture::folder(name);
        let in_use = *name == layout::key(repository.slot());
        // The table at the head of ops/check says why the others leave nothing behind.
        let found = match folder {
            "config" | "index" => true,
            "packs" => !unlisted(name),
            "keys" => in_use,
            _ => false,
        };
        assert_eq!(!summary.damage.is_empty(), found, "{case}: {:?}", summary.damage);
        if !snapshots.contains(name) {
            fixture.expect_right_or_named(&case, &repository, &summary);
        } else {
            // Who has seen the snapshot finds that it is gone.
            let summary = check(&fixture.repository, &everything(), &SilentMonitor).unwrap();
            let items: Vec<_> = summary.damage.iter().map(|damage| &damage.item).collect();
            assert_eq!(items, [name]);
            assert_eq!(summary.damage[0].hit_count, 1);
        }
        fixture.put(name, Some(&fixture.objects[name]));
        fixture.tidy();
    }
    assert_eq!(fixture.check("whole again", DataSelection::All).unwrap().1.damage, []);
}

#[test]
fn a_snapshot_that_a_later_one_names_is_missed_by_everybody() {
    let store = Store::memory();
    let repository = two_snapshots(&store);
    let all = repository.snapshots(&SilentMonitor).unwrap().all;
    assert_eq!(check(&repository, &everything(), &SilentMonitor).unwrap().damage, []);
    store.delete(&layout::snapshot(all[0].0.0)).unwrap();
    let stranger = repository.reopen(environment(None)).unwrap();
    let damage = check(&stranger, &everything(), &SilentMonitor).unwrap().damage;
    assert_eq!(damage.len(), 1);
    assert_eq!(damage[0].item, layout::snapshot(all[1].0.0));
}

#[test]
fn a_damaged_copy_in_the_local_cache_is_read_again_from_the_store() {
    let store = Store::memory();
    two_snapshots(&store);
    let cache = tempfile::tempdir().unwrap();
    let repository = open(store, Some(cache.path()));
    let (whole, broken) = read_everything(&repository);
    assert!(broken.is_empty());
    let trees = repository.cache_folder().unwrap().join("trees");
    let mut damaged = 0;
    for file in fs::read_dir(&trees).unwrap() {
        let path = file.unwrap().path();
        let mut bytes = fs::read(&path).unwrap();
        bytes.iter_mut().skip(HEADER_LENGTH).step_by(100).for_each(|byte| *byte ^= 1);
        fs::write(&path, bytes).unwrap();
        damaged += 1;
    }
    assert!(damaged > 0);
    assert_eq!(read_everything(&repository), (whole, broken));
    assert_eq!(check(&repository, &everything(), &SilentMonitor).unwrap().damage, []);
}

#[test]
fn a_damaged_key_or_config_is_told_when_opening() {
    let fixture = fixture();
    for name in
        fixture.objects.keys().filter(|name| matches!(Fixture::folder(name), "config" | "keys"))
    {
        let bytes = &fixture.objects[name];
        for at in [0, 8, 11, 12, 16, 40, 70, 100, 140, 170, 180, bytes.len() - 1] {
            let mut flipped = bytes.clone();
            flipped[at] ^= 0x10;
            fixture.put(name, Some(&flipped));
            let opened = Repository::open(fixture.store.clone(), &passphrase(), environment(None));
            match opened {
                Err(error) => assert!(!error.message.is_empty() && !error.item.is_empty()),
                Ok(repository) => {
                    let summary = check(&repository, &everything(), &SilentMonitor).unwrap();
                    assert!(summary.damage.iter().any(|damage| damage.item == *name));
                }
            }
            fixture.put(name, Some(bytes));
            fixture.tidy();
        }
    }
}

#[test]
fn names_of_nobody_are_noted_and_blobs_of_no_pack_are_named() {
    let fixture = fixture();
    fixture.store.create("thumbs.db", vec![1]).unwrap();
    let repository = fixture.repository.reopen(environment(None)).unwrap();
    let summary = check(&repository, &everything(), &SilentMonitor).unwrap();
    assert_eq!(summary.damage, []);
    assert!(summary.notes.iter().any(|note| note.starts_with("thumbs.db ")));

    // A snapshot whose root is nowhere. Nobody commits beside lists of collection that say nothing.
    for name in [layout::condemned(1), layout::sweep(1)] {
        fixture.store.delete(&name).unwrap();
    }
    let session = SessionId { generation: 0, random: [3; 16] };
    let mut snapshot = repository.snapshots(&SilentMonitor).unwrap().all[0].1.clone();
    snapshot.root = BlobId([9; 32]);
    repository.commit(session, &Decision::Snapshot(Box::new(snapshot))).unwrap();
    let id = SnapshotId(session);
    let damage = check(&repository, &everything(), &SilentMonitor).unwrap().damage;
    assert_eq!(damage.len(), 1);
    assert_eq!(damage[0].item, format!("blob {}", BlobId([9; 32]).short()));
    assert_eq!(damage[0].hits, [format!("{}:/", id.short())]);
}
