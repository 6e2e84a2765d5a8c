//! Looking blobs up in an index of a million, on one core, and loading it on a new machine. What ten times as
//! many cost in time and memory is measured by `growth`.
//!
//! The limits: for look-ups, halving in a sorted list of all ids in memory; for known ones also one read of
//! a page at a random place of a file of the same size. For loading, unsealing and decoding alone.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs::File;
use std::hint::black_box;
use std::os::unix::fs::FileExt;

use aumbry::format::header::ObjectKind;
use aumbry::format::index::Index;
use aumbry::id::{BlobId, SessionId};
use aumbry::monitor::SilentMonitor;
use aumbry::repository::index::filter::FilterWriter;
use aumbry::store::{Store, layout};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};

use crate::common::{blob_id, create, criterion, environment, passphrase, write_indexes};

const BLOBS: u64 = 1_000_000;
const LOOKUPS: u64 = 20_000;

fn lookups(criterion: &mut Criterion) {
    let folder = tempfile::tempdir().unwrap();
    let repository = create(Store::memory(), Some(folder.path()));
    write_indexes(&repository, SessionId { generation: 0, random: [1; 16] }, 0, BLOBS, 500_000);
    repository.refresh_index(&SilentMonitor).unwrap();
    let cache = repository.cache();
    let all = |start: u64, step: u64| -> Vec<BlobId> {
        (0..LOOKUPS).map(|number| blob_id(start + number * step)).collect()
    };
    let (known, unknown) = (all(0, BLOBS / LOOKUPS), all(1 << 50, 1));
    let mut sorted: Vec<BlobId> = (0..BLOBS).map(blob_id).collect();
    sorted.sort_unstable();
    let mut filter = FilterWriter::new(BLOBS, true);
    sorted.iter().for_each(|id| filter.insert(id, None).unwrap());
    let filter = filter.finish(None).unwrap();
    let pages = folder.path().join("pages");
    std::fs::write(&pages, vec![7; BLOBS as usize * 48]).unwrap();
    let pages = File::open(&pages).unwrap();

    let mut group = criterion.benchmark_group("index");
    group.throughput(Throughput::Elements(LOOKUPS));
    for (name, ids, wanted) in [("known", &known, true), ("unknown", &unknown, false)] {
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                for id in ids {
                    assert_eq!(cache.lookup(id).unwrap().is_some(), wanted);
                }
            });
        });
        group.bench_function(format!("limit: {name}, sorted in memory"), |bencher| {
            bencher.iter(|| {
                for id in ids {
                    assert_eq!(sorted.binary_search(id).is_ok(), wanted);
                }
            });
        });
    }
    group.bench_function("limit: known, one page read", |bencher| {
        let mut page = [0; 4096];
        bencher.iter(|| {
            for id in &known {
                let [a, b, c, ..] = id.0;
                let place = u64::from(u32::from_le_bytes([a, b, c, 0])) % (BLOBS * 48 / 4096);
                pages.read_exact_at(black_box(&mut page), place * 4096).unwrap();
            }
        });
    });
    group.bench_function("limit: unknown, the filter alone", |bencher| {
        bencher.iter(|| unknown.iter().filter(|id| filter.may_contain(id, None).unwrap()).count());
    });
    group.finish();
}

fn load(criterion: &mut Criterion) {
    let store = Store::memory();
    let repository = create(store.clone(), None);
    write_indexes(&repository, SessionId { generation: 0, random: [1; 16] }, 0, BLOBS, 500_000);
    let names: Vec<String> =
        store.list(layout::INDEX).unwrap().into_iter().map(|object| object.name).collect();
    let mut group = criterion.benchmark_group("index load");
    group.throughput(Throughput::Elements(BLOBS));
    group.bench_function("on a new machine", |bencher| {
        bencher.iter_batched(
            || {
                let folder = tempfile::tempdir().unwrap();
                let environment = environment(Some(folder.path()));
                let opened =
                    aumbry::repository::Repository::open(store.clone(), &passphrase(), environment);
                (opened.unwrap(), folder)
            },
            |(repository, folder)| {
                repository.refresh_index(&SilentMonitor).unwrap();
                assert_eq!(repository.cache().blob_count(), BLOBS);
                (repository, folder)
            },
            BatchSize::PerIteration,
        );
    });
    group.bench_function("limit: unseal and decode", |bencher| {
        bencher.iter(|| {
            for name in &names {
                let object = store.get(name).unwrap();
                let payload = repository.sealer().unseal(ObjectKind::Index, name, object).unwrap();
                black_box(Index::decode(&payload).unwrap());
            }
        });
    });
    group.finish();
}

criterion_group! { name = benches; config = criterion(); targets = lookups, load }
criterion_main!(benches);
