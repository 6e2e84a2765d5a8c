//! The cache: what is put in is found, what is broken is made anew.

use std::collections::HashMap;

use super::*;
use crate::format::header::{Header, ObjectKind};
use crate::format::pack::{BlobRecord, Encoding, PackDirectory};
use crate::id::{BlobId, SessionId, SnapshotId};
use crate::units::Timestamp;

fn id(number: u32) -> BlobId {
    BlobId(*blake3::hash(&number.to_le_bytes()).as_bytes())
}

fn session() -> SessionId {
    SessionId { generation: 0, random: [1; 16] }
}

fn pack(number: u32, blobs: std::ops::Range<u32>) -> PackRecord {
    let mut directory = PackDirectory::default();
    let blobs = blobs.map(|number| BlobRecord { id: id(number), length: 10 }).collect();
    directory.push(100, Encoding::Zstd, blobs);
    directory.push(7, Encoding::Delta(vec![id(1), id(2)]), Vec::new());
    PackRecord {
        id: PackId { session: session(), number },
        header: Header {
            version: 1,
            kind: ObjectKind::DataPack,
            epoch: 1,
            repository: RepositoryId([5; 16]),
            parity: None,
            salt: [2; 32],
            commitment: [3; 32],
        },
        object_length: 5000,
        directory,
    }
}

fn index(number: u32) -> IndexId {
    IndexId { session: session(), number }
}

#[test]
fn blobs_are_found_after_every_merge_and_reopening() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("index.redb");
    let repository = RepositoryId([5; 16]);
    let cache = IndexCache::open(Some(&path), repository).unwrap();
    for number in 0..20 {
        let start = number * 500;
        cache.add(&[index(number)], &[pack(number, start..start + 500)]).unwrap();
    }
    // Adding the same pack again changes nothing.
    cache.add(&[index(99)], &[pack(0, 0..500)]).unwrap();
    drop(cache);
    for _ in 0..2 {
        let cache = IndexCache::open(Some(&path), repository).unwrap();
        assert_eq!(cache.blob_count(), 10_000);
        assert_eq!(cache.indexes().unwrap().len(), 21);
        assert_eq!(cache.packs().unwrap().len(), 20);
        for number in (0..10_000).step_by(37) {
            let location = cache.lookup(&id(number)).unwrap().unwrap();
            assert_eq!(location.offset, number % 500 * 10);
            let pack = cache.pack(location.pack).unwrap();
            assert_eq!(pack.id.number, number / 500);
            assert_eq!(pack.segments[1].offset, 100);
        }
        assert_eq!(cache.lookup(&id(10_001)).unwrap(), None);
    }
    assert!(fs::read_dir(path.with_extension("runs")).unwrap().count() <= 5);
    let cache = IndexCache::open(Some(&path), repository).unwrap();
    cache.drop_packs(&[PackId { session: session(), number: 3 }], Dropped::Gone).unwrap();
    assert_eq!(cache.lookup(&id(1600)).unwrap(), None);
    assert!(cache.lookup(&id(1400)).unwrap().is_some());
    assert_eq!(cache.packs().unwrap().len(), 19);
    cache.clear().unwrap();
    assert_eq!(cache.lookup(&id(1)).unwrap(), None);
    assert!(cache.indexes().unwrap().is_empty());
}

#[test]
fn looked_up_together_blobs_are_where_they_are_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("index.redb");
    let cache = IndexCache::open(Some(&path), RepositoryId([5; 16])).unwrap();
    // Two runs, and five blobs of which both know.
    cache.append(&[index(0)], &[pack(0, 0..3000)]).unwrap();
    cache.append(&[index(1)], &[pack(1, 2995..3500)]).unwrap();
    assert_eq!(cache.view.read().runs.len(), 2);
    let asked = (0..4000).chain(0..4000).rev().map(id).collect();
    let found = cache.single_copies(asked).unwrap();
    assert_eq!(found.len(), 3495);
    for number in 0..4000 {
        let copies = cache.copies(&id(number)).unwrap();
        let single = copies.first().filter(|_| copies.len() == 1);
        assert_eq!(found.get(&id(number)), single, "{number}");
    }
}

#[test]
fn a_blob_counts_outside_excluded_packs_only_if_its_bases_do() {
    let cache = IndexCache::open(None, RepositoryId([5; 16])).unwrap();
    let mut delta = pack(2, 20..21);
    let blob = BlobRecord { id: id(5), length: 10 };
    delta.directory.push(7, Encoding::Delta(vec![id(6)]), vec![blob]);
    cache.add(&[index(0)], &[pack(0, 0..10), pack(1, 0..5), delta]).unwrap();
    let ids = |packs: &[u32]| -> Vec<PackId> {
        packs.iter().map(|number| PackId { session: session(), number: *number }).collect()
    };
    let outside = |blob, packs: &[u32]| {
        cache.has_outside(&id(blob), &cache.excluding(ids(packs)).unwrap()).unwrap()
    };
    assert!(outside(3, &[]) && outside(3, &[0]) && outside(3, &[1]) && !outside(3, &[0, 1]));
    // Its other copy is a delta against a blob of the excluded pack.
    assert!(outside(5, &[2]) && !outside(5, &[0]) && !outside(20, &[2]) && !outside(99, &[]));
    for (excluded, sole) in [(&[0, 1, 7][..], &[0, 1][..]), (&[0], &[0]), (&[1], &[])] {
        let found = cache.sole_holders(&cache.excluding(ids(excluded)).unwrap()).unwrap();
        assert_eq!(found, cache.pack_numbers(ids(sole)).unwrap());
    }
}

#[test]
fn a_pack_is_missed_when_what_it_holds_plainly_stands_elsewhere_as_a_delta_only() {
    let cache = IndexCache::open(None, RepositoryId([5; 16])).unwrap();
    let mut delta = pack(1, 20..21);
    let blob = BlobRecord { id: id(5), length: 10 };
    delta.directory.push(7, Encoding::Delta(vec![id(20)]), vec![blob]);
    cache.add(&[index(0)], &[pack(0, 5..6), delta]).unwrap();
    let plain = cache.excluding([PackId { session: session(), number: 0 }]).unwrap();
    assert!(cache.has_outside(&id(5), &plain).unwrap());
    let sole = cache.sole_holders(&plain).unwrap();
    assert_eq!(&sole, plain.numbers(), "others may be read against it");
}

#[test]
fn an_excluded_pack_is_left_out_also_when_it_comes_in_later_or_once_more() {
    let cache = IndexCache::open(None, RepositoryId([5; 16])).unwrap();
    cache.add(&[index(0)], &[pack(0, 0..5), pack(1, 10..15)]).unwrap();
    let excluded = cache.excluding([0, 2].map(|number| PackId { session: session(), number }));
    let excluded = excluded.unwrap();
    let stands = |blob| {
        let base = cache.base_outside(&id(blob), &excluded).unwrap();
        assert_eq!(base.is_some(), cache.has_outside(&id(blob), &excluded).unwrap());
        base.is_some()
    };
    assert!(!stands(3) && stands(12));
    cache.add(&[index(1)], &[pack(2, 3..5), pack(3, 4..5)]).unwrap();
    assert!(!stands(3) && stands(4), "pack 2 is left out, and pack 3 is not");
    cache.clear().unwrap();
    cache.add(&[index(0)], &[pack(1, 10..15), pack(0, 0..5)]).unwrap();
    assert!(!stands(3) && stands(12));
}

#[test]
fn the_number_of_a_pack_that_is_gone_comes_to_mean_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("index.redb");
    let name = |number| PackId { session: session(), number };
    let number_of = |cache: &IndexCache, number| {
        cache.pack_numbers([name(number)]).unwrap().into_iter().next().unwrap()
    };
    let cache = IndexCache::open(Some(&path), RepositoryId([5; 16])).unwrap();
    cache.add(&[index(0)], &[pack(0, 0..5), pack(1, 5..9)]).unwrap();
    drop(cache);
    let cache = IndexCache::open(Some(&path), RepositoryId([5; 16])).unwrap();
    let gone = number_of(&cache, 1);
    cache.drop_packs(&[name(1)], Dropped::Gone).unwrap();
    cache.add(&[index(1)], &[pack(2, 9..12)]).unwrap();
    assert_ne!(number_of(&cache, 2), gone);
    let before = number_of(&cache, 2);
    cache.clear().unwrap();
    cache.add(&[index(2)], &[pack(3, 0..5)]).unwrap();
    assert!(number_of(&cache, 3) > before);
}

#[test]
fn a_broken_or_foreign_cache_is_made_anew() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("index.redb");
    std::fs::write(&path, b"not a database at all").unwrap();
    let cache = IndexCache::open(Some(&path), RepositoryId([5; 16])).unwrap();
    cache.add(&[index(1)], &[pack(0, 0..5)]).unwrap();
    drop(cache);
    let cache = IndexCache::open(Some(&path), RepositoryId([6; 16])).unwrap();
    assert_eq!(cache.blob_count(), 0);
}

#[test]
fn a_run_that_is_gone_or_cut_costs_the_index_and_left_overs_go() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("index.redb");
    let runs = path.with_extension("runs");
    let repository = RepositoryId([5; 16]);
    for damage in ["cut", "gone"] {
        let cache = IndexCache::open(Some(&path), repository).unwrap();
        cache.add(&[index(1)], &[pack(0, 0..500)]).unwrap();
        drop(cache);
        fs::write(runs.join("0000ffff"), b"left over").unwrap();
        let cache = IndexCache::open(Some(&path), repository).unwrap();
        assert_eq!(cache.blob_count(), 500);
        drop(cache);
        let files: Vec<_> = fs::read_dir(&runs).unwrap().map(|file| file.unwrap().path()).collect();
        assert_eq!(files.len(), 1);
        match damage {
            "cut" => File::options().write(true).open(&files[0]).unwrap().set_len(5000).unwrap(),
            _ => fs::remove_file(&files[0]).unwrap(),
        }
        let cache = IndexCache::open(Some(&path), repository).unwrap();
        assert_eq!(cache.blob_count(), 0);
        assert!(cache.indexes().unwrap().is_empty());
    }
}

#[test]
fn a_run_that_is_garbled_is_an_error_once_and_costs_the_index_and_no_memory() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("index.redb");
    let runs = path.with_extension("runs");
    let repository = RepositoryId([5; 16]);
    let cache = IndexCache::open(Some(&path), repository).unwrap();
    cache.add(&[index(1)], &[pack(0, 0..500)]).unwrap();
    let slot = SnapshotId(SessionId { generation: 0, random: [7; 16] });
    cache.update_slots(&[(slot, vec![1, 2, 3])], &[]).unwrap();
    cache.follow(0, 4, [9; 32], &[]).unwrap();
    drop(cache);
    let file = fs::read_dir(&runs).unwrap().next().unwrap().unwrap().path();
    let mut bytes = fs::read(&file).unwrap();
    bytes[4096..8192].fill(0x55);
    fs::write(&file, bytes).unwrap();
    let cache = IndexCache::open(Some(&path), repository).unwrap();
    let found: Vec<_> = (0..500).map(|number| cache.lookup(&id(number))).collect();
    let errors: Vec<_> = found.iter().filter_map(|found| found.as_ref().err()).collect();
    assert!((1..500).contains(&errors.len()) && errors[0].item == "local cache");
    // Never "it is not there".
    assert!(found.iter().flatten().all(Option::is_some));
    drop(cache);
    let cache = IndexCache::open(Some(&path), repository).unwrap();
    assert_eq!(cache.blob_count(), 0);
    assert!(cache.indexes().unwrap().is_empty());
    // What the store may not show again.
    assert_eq!(cache.slots().unwrap()[&slot], [1, 2, 3]);
    assert_eq!(cache.followed().unwrap().map(|followed| followed.to), Some(4));
    cache.add(&[index(1)], &[pack(0, 0..500)]).unwrap();
    assert!((0..500).all(|number| cache.lookup(&id(number)).unwrap().is_some()));
}

#[test]
fn a_second_process_has_a_cache_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("index.redb");
    let first = IndexCache::open(Some(&path), RepositoryId([5; 16])).unwrap();
    first.add(&[index(1)], &[pack(0, 0..500)]).unwrap();
    let second = IndexCache::open(Some(&path), RepositoryId([5; 16])).unwrap();
    assert_eq!(second.blob_count(), 0);
    second.add(&[index(1)], &[pack(0, 0..500), pack(1, 500..700)]).unwrap();
    second.drop_packs(&[PackId { session: session(), number: 0 }], Dropped::Gone).unwrap();
    assert_eq!((first.blob_count(), second.blob_count()), (500, 200));
    assert!(second.lookup(&id(600)).unwrap().is_some());
    assert_eq!(fs::read_dir(path.with_extension("runs")).unwrap().count(), 1);
}

#[test]
fn slots_are_remembered_and_forgotten() {
    let cache = IndexCache::open(None, RepositoryId([5; 16])).unwrap();
    let (one, two) =
        (SnapshotId(session()), SnapshotId(SessionId { generation: 1, random: [3; 16] }));
    cache.update_slots(&[(one, vec![1]), (two, vec![2])], &[]).unwrap();
    cache.update_slots(&[], &[one]).unwrap();
    assert_eq!(cache.slots().unwrap(), HashMap::from([(two, vec![2])]));

    let before = Timestamp { seconds: -5, nanoseconds: 999_999_999 };
    cache.remember_observed(&[(one, Timestamp::default()), (two, before)]).unwrap();
    assert_eq!(cache.observed().unwrap()[&two], before);
}

#[test]
fn when_packs_were_proven_outlives_the_index() {
    let cache = IndexCache::open(None, RepositoryId([5; 16])).unwrap();
    let pack = |number| PackId { session: session(), number };
    let time = |seconds| Timestamp { seconds, nanoseconds: 7 };
    cache.update_proven(&[(pack(1), time(-5)), (pack(2), time(6))], &[]).unwrap();
    cache.update_proven(&[(pack(1), time(8))], &[pack(2), pack(3)]).unwrap();
    cache.clear().unwrap();
    assert_eq!(cache.proven().unwrap(), HashMap::from([(pack(1), time(8))]));
}
