//! The fuzzer's binary seeds: small inputs that are right, so that it begins behind the first checks. With
//! `AUMBRY_WRITE_SEEDS=1` this test writes them anew; else it proves that they are what the code writes.

#![allow(clippy::unwrap_used, reason = "what fails here fails as a test does")]

use std::fs;
use std::path::Path;
use std::sync::Arc;

use aumbry::codec::compress::{Compressor, DeltaCompressor};
use aumbry::format::config::{LockMode, ObjectLock, Settings};
use aumbry::format::damage::DamageRecord;
use aumbry::format::directory::{DirectoryChild, DirectoryNode};
use aumbry::format::generation::{Condemned, Maintainer, Publisher, Sweep};
use aumbry::format::header::{Header, ObjectKind, Parity, pad_payload};
use aumbry::format::index::{Index, PackRecord};
use aumbry::format::key_update::{KeyUpdate, Recipient, UpdateHeader};
use aumbry::format::keyring::{EpochKeys, Keyring};
use aumbry::format::ledger::Ledger;
use aumbry::format::list::{ListChild, ListNode};
use aumbry::format::lock_record::{LockRecord, LockStep};
use aumbry::format::pack::{BlobRecord, Encoding, PackDirectory};
use aumbry::format::session::{Purpose, Session};
use aumbry::format::slot::{SlotHeader, SlotLabel, Way};
use aumbry::format::snapshot::{BackupCounts, Decision, Snapshot};
use aumbry::format::tomb::Tomb;
use aumbry::id::{BlobId, IndexId, KeySlotId, PackId, RepositoryId, SessionId, SnapshotId};
use aumbry::tree::entry::{
    Content, Entry, ExtendedAttribute, Extent, FileContent, Metadata, Node, Owner,
};
use aumbry::units::Timestamp;

const TIME: Timestamp = Timestamp { seconds: 1_790_000_000, nanoseconds: 5 };
const SESSION: SessionId = SessionId { generation: 3, random: [8; 16] };

fn directory() -> PackDirectory {
    let blob = |byte, length| BlobRecord { id: BlobId([byte; 32]), length };
    let mut directory = PackDirectory::default();
    directory.push(300, Encoding::Stored, vec![blob(1, 100), blob(2, 200)]);
    directory.push(50, Encoding::Zstd, vec![blob(3, 70_000)]);
    directory.push(9, Encoding::Delta(vec![BlobId([3; 32])]), vec![blob(4, 70_001)]);
    directory
}

fn header(kind: ObjectKind) -> Header {
    Header {
        version: 1,
        kind,
        epoch: 1,
        repository: RepositoryId([5; 16]),
        parity: None,
        salt: [2; 32],
        commitment: [3; 32],
    }
}

fn entry(name: &str, node: Node) -> Entry {
    let owner = Owner { uid: 0, gid: 0, user: "me".into(), group: "us".into() };
    let metadata = Metadata {
        mode: 0o644,
        owner: Arc::new(owner),
        mtime: TIME,
        ctime: TIME,
        inode: 7,
        device: 1,
        birth: Some(TIME),
        links: 2,
        attributes: vec![ExtendedAttribute { name: b"user.x"[..].into(), value: b"y"[..].into() }],
    };
    Entry { name: name.as_bytes().into(), node, metadata }
}

fn file(size: u64, content: Content) -> Node {
    Node::File(FileContent { size, content, digest: Some([6; 32]) })
}

fn snapshot() -> Decision {
    Decision::Snapshot(Box::new(Snapshot {
        root: BlobId([7; 32]),
        height: 1,
        time: TIME,
        zone_offset_seconds: -34_200,
        end_time: TIME,
        host: "box".into(),
        user: "me".into(),
        paths: vec![b"/etc".to_vec()],
        tags: vec!["a".into()],
        name: "home".into(),
        parent: Some(SnapshotId(SESSION)),
        program: "aumbry".into(),
        counts: BackupCounts { files_new: 5, data_added: 1 << 40, ..BackupCounts::default() },
        predecessor: Some([9; 32]),
        repaired: None,
        copied: None,
        signature: Some([1; 64]),
    }))
}

fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let mut seeds = Vec::new();
    let mut pack = 100u64.to_le_bytes().to_vec();
    directory().encode(&mut pack);
    seeds.push(("pack_directory", pack));

    let id = PackId { session: SESSION, number: 4 };
    let record = PackRecord {
        id,
        header: header(ObjectKind::DataPack),
        object_length: 5000,
        directory: directory(),
    };
    let superseded = vec![IndexId { session: SESSION, number: 2 }];
    seeds.push(("index", Index { superseded, packs: vec![record] }.encode()));

    let data = Extent::Data { blob: BlobId([4; 32]), length: 70_000 };
    let extents = vec![data, Extent::Hole { length: 9 }];
    let entries = vec![
        entry("a", file(2, Content::Inline(b"hi"[..].into()))),
        entry("b", file(70_009, Content::Extents(extents.clone()))),
        entry("c", file(1 << 40, Content::List { root: BlobId([5; 32]), height: 2 })),
        entry("d", Node::Directory { root: BlobId([6; 32]), height: 0 }),
        entry("e", Node::Symlink(b"../a"[..].into())),
        entry("f", Node::BlockDevice(0x801)),
        entry("g", Node::Socket),
    ];
    seeds.push(("tree", DirectoryNode::Leaf(entries).encode()));
    let child = DirectoryChild { first_name: b"a"[..].into(), blob: BlobId([1; 32]) };
    seeds.push(("tree", DirectoryNode::Branch(vec![child]).encode()));
    seeds.push(("tree", ListNode::Leaf(extents).encode()));
    let child = ListChild { length: 9, blob: BlobId([1; 32]) };
    seeds.push(("tree", ListNode::Branch(vec![child]).encode()));

    seeds.push(("snapshot_slot", snapshot().encode()));
    seeds.push(("snapshot_slot", Decision::Abort.encode()));
    let session =
        Session { purpose: Purpose::Read, host: "box".into(), user: "me".into(), time: TIME };
    seeds.push(("session", session.encode()));
    let tomb =
        Tomb { time: TIME, host: "box".into(), user: "me".into(), why: "no rule keeps it".into() };
    seeds.push(("tomb", tomb.encode()));

    let publisher = Publisher { host: "box".into(), user: "me".into(), time: TIME };
    let packs = vec![id];
    let condemned = Condemned { packs: packs.clone(), publisher: publisher.clone() };
    seeds.push(("generation", condemned.encode()));
    let live = vec![(SnapshotId(SESSION), Some(TIME))];
    let sweep = Sweep { packs, live, previous: Some([8; 32]), publisher };
    seeds.push(("generation", sweep.encode()));
    let maintainer = Maintainer { id: [3; 16], host: "box".into(), since: TIME, took_over: true };
    seeds.push(("generation", maintainer.encode()));
    let damage =
        DamageRecord { time: TIME, what: "a frame".into(), lost: Some(vec![BlobId([4; 32])]) };
    seeds.push(("health", damage.encode()));
    let ledger = Ledger { superseded: vec![SESSION], proven: vec![(id, TIME)] };
    seeds.push(("health", ledger.encode()));
    let steps = vec![LockStep { written_before: TIME, until: TIME }];
    seeds.push(("health", LockRecord { steps, passed_over: vec![id] }.encode()));

    for way in [Way::Recovery, Way::Passphrase { memory_kib: 65_536, passes: 3, lanes: 4 }] {
        let slot = SlotHeader {
            way,
            repository: RepositoryId([1; 16]),
            id: KeySlotId([2; 16]),
            salt: [3; 32],
            commitment: [4; 32],
            keyring_nonce: [5; 24],
            label_nonce: [6; 24],
            wrapped_length: 300,
        };
        seeds.push(("key_slot", slot.encode().to_vec()));
    }
    let label = SlotLabel {
        label: "laptop".into(),
        host: "box".into(),
        user: "me".into(),
        created: TIME,
        public_key: Some([7; 32]),
        revision: 3,
    };
    seeds.push(("key_slot", label.encode()));

    let recipient = Recipient { slot: KeySlotId([2; 16]), sealed_key: [3; 48] };
    let update = KeyUpdate {
        header: UpdateHeader {
            revision: 1,
            repository: RepositoryId([1; 16]),
            recipients: 1,
            wrapped_length: 40,
            ephemeral_key: [4; 32],
            commitment: [5; 32],
            nonce: [6; 24],
        },
        recipients: vec![recipient],
        wrapped: vec![7; 40],
    };
    seeds.push(("key_update", update.encode()));

    seeds.push(("settings", Settings::DEFAULT.encode()));
    let object_lock = Some(ObjectLock { seconds: 86_400, mode: LockMode::Compliance });
    seeds.push(("settings", Settings { object_lock, ..Settings::DEFAULT }.encode()));
    let keyring = Keyring {
        id_key: [1; 32],
        chunker_secret: [2; 32],
        repository_seed: [3; 32],
        admin_seed: [4; 32],
        epochs: vec![EpochKeys { epoch: 1, data_key: Some([5; 32]), index_key: [6; 32] }],
        settings: Settings::DEFAULT.encode(),
        revision: 0,
    };
    seeds.push(("keyring", keyring.encode()));
    seeds.push(("header", header(ObjectKind::TreePack).encode().to_vec()));
    let parity = Some(Parity { shards: 6, plain_length: 16 << 20 });
    let with_parity = Header { parity, ..header(ObjectKind::DataPack) };
    seeds.push(("header", with_parity.encode().to_vec()));
    // Shards and length that a header says, which pack, and one frame's damage.
    seeds.push(("parity", b"\x02\0\xff\xff\0\0\x01\xff\xff\0\x10\x55".to_vec()));
    seeds.push(("parity", b"\x03\0\xff\xff\x03\0\x02\xff\xff\x03\x01\0".to_vec()));
    seeds.push(("padding", pad_payload(b"payload".to_vec(), 32)));
    seeds.push(("unseal", b"\x81\0\x01\0some plaintext".to_vec()));
    seeds.push(("unseal", b"\xff\xff\x80\xff, and more than one frame of it: ".repeat(12)));

    // Length in units of four, length of the prefix, prefix, compressed segment.
    let plain = b"the same words again, ".repeat(8);
    let length = (plain.len() / 4) as u8;
    let mut segment = vec![length, 0, 0];
    let mut compressor = Compressor::new(3, 1 << 17).unwrap();
    assert!(compressor.compress(&plain, &mut segment).unwrap());
    seeds.push(("decompress", segment));
    let prefix = b"the same words";
    let mut delta = vec![length, 0, prefix.len() as u8];
    delta.extend_from_slice(prefix);
    let mut stored = Vec::new();
    DeltaCompressor::new(3).unwrap().compress(prefix, &plain, &mut stored).unwrap();
    delta.append(&mut stored);
    seeds.push(("decompress", delta));
    seeds
}

#[test]
fn the_fuzzers_seeds_are_what_the_code_writes() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds");
    let mut last = ("", 0);
    for (target, bytes) in seeds() {
        last = if last.0 == target { (target, last.1 + 1) } else { (target, 1) };
        let path = folder.join(target).join(last.1.to_string());
        if std::env::var_os("AUMBRY_WRITE_SEEDS").is_some() {
            fs::create_dir_all(folder.join(target)).unwrap();
            fs::write(&path, &bytes).unwrap();
        }
        let found = fs::read(&path).unwrap_or_default();
        // Another version of zstd may compress in another way.
        let is_right = if target == "decompress" { !found.is_empty() } else { found == bytes };
        assert!(is_right, "{} is not up to date", path.display());
    }
}
