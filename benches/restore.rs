//! Restoring a snapshot of 64 MiB of text and 64 MiB of random bytes, in files of 16 KiB and of 2 MiB, from a
//! store in memory into an empty folder in memory; and reading the same without writing it.
//!
//! The limits: writing the same files from memory, on all cores, and nothing else; and opening every pack
//! (ChaCha20-Poly1305) on all cores.
//!
//! And restoring one file of 8 KiB among 8192 of them (64 MiB of text), by the length of segments, with the bytes
//! of the pack that are fetched for it: `docs/design/0001-sizes.md` has the figures.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use aumbry::codec::cipher::plain_length;
use aumbry::format::config::Settings;
use aumbry::format::header::{HEADER_LENGTH, ObjectKind};
use aumbry::monitor::SilentMonitor;
use aumbry::ops::backup::backup;
use aumbry::ops::restore::{RestoreOptions, restore as run_restore};
use aumbry::repository::reader::BlobReader;
use aumbry::repository::seal::frames_covering;
use aumbry::store::{Store, layout};
use aumbry::tree::entry::{Content, Entry, Extent, FileContent, Node};
use aumbry::tree::path::TreePath;
use aumbry::view::{DirectoryRoot, Entries, read_file};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use rayon::iter::{IndexedParallelIterator, IntoParallelRefIterator, ParallelIterator};

use crate::common::{
    Bytes, MemoryFiles, backup_options, create, create_with, criterion, folder_in_memory,
    restore_options,
};

const TOTAL: usize = 128 << 20;

fn write_all(files: &[Vec<u8>], folder: &Path) {
    files.par_iter().enumerate().for_each(|(number, bytes)| {
        fs::write(folder.join(number.to_string()), bytes).unwrap();
    });
}

fn restore(criterion: &mut Criterion) {
    let mut files = Vec::new();
    for kind in [Bytes::Text, Bytes::Random] {
        for (length, count) in [(16 << 10, 2048), (2 << 20, 16)] {
            files.extend((0..count).map(|seed| kind.make(length, seed)));
        }
    }
    assert_eq!(files.iter().map(Vec::len).sum::<usize>(), TOTAL);
    let files = Arc::new(files);
    let store = Store::memory();
    let repository = create(store.clone(), None);
    let mut source = MemoryFiles::new(files.clone());
    backup(&repository, &mut source, &backup_options(false), &SilentMonitor).unwrap();
    let snapshot = repository.snapshots(&SilentMonitor).unwrap().all.remove(0);

    let mut group = criterion.benchmark_group("restore");
    group.throughput(Throughput::Bytes(TOTAL as u64));
    group.bench_function("into an empty folder", |bencher| {
        bencher.iter_batched(
            folder_in_memory,
            |folder| {
                let summary = run_restore(
                    &repository,
                    &snapshot,
                    folder.path(),
                    &restore_options(),
                    &SilentMonitor,
                )
                .unwrap();
                assert_eq!((summary.total_bytes, summary.entries_failed), (TOTAL as u64, 0));
                folder
            },
            BatchSize::PerIteration,
        );
    });
    group.bench_function("limit: writing the files", |bencher| {
        bencher.iter_batched(
            folder_in_memory,
            |folder| {
                write_all(&files, folder.path());
                folder
            },
            BatchSize::PerIteration,
        );
    });
    group.bench_function("reading file by file, one core", |bencher| {
        bencher.iter(|| {
            let reader = BlobReader::new(&repository, 64 << 20);
            let mut bytes = 0;
            for entry in Entries::new(&reader, DirectoryRoot::of_snapshot(&snapshot.1)) {
                if let Node::File(file) = entry.unwrap().node {
                    bytes += read_file(&reader, &file, u64::MAX >> 1).unwrap().len();
                }
            }
            assert_eq!(bytes, TOTAL);
        });
    });
    let names: Vec<String> =
        store.list(layout::PACKS).unwrap().into_iter().map(|object| object.name).collect();
    group.bench_function("limit: opening the packs", |bencher| {
        let kinds = [ObjectKind::DataPack, ObjectKind::TreePack];
        bencher.iter(|| -> usize {
            names
                .par_iter()
                .map(|name| {
                    let object = store.get(name).unwrap();
                    repository.sealer().unseal_stream(&kinds, name, object).unwrap().1.len()
                })
                .sum()
        });
    });
    group.finish();
}

fn one_small_file(criterion: &mut Criterion) {
    let files: Vec<_> = (0..8192).map(|seed| Bytes::Text.make(8 << 10, seed)).collect();
    let files = Arc::new(files);
    let mut group = criterion.benchmark_group("one small file");
    for length in [128 << 10, 512 << 10, 1 << 20, 2 << 20, 4 << 20, 8 << 20] {
        let settings = Settings { segment_length: length, ..Settings::DEFAULT };
        let repository = create_with(Store::memory(), settings, None);
        let mut source = MemoryFiles::new(files.clone());
        backup(&repository, &mut source, &backup_options(false), &SilentMonitor).unwrap();
        let snapshot = repository.snapshots(&SilentMonitor).unwrap().all.remove(0);
        let reader = BlobReader::new(&repository, 64 << 20);
        let entries: Vec<_> = Entries::new(&reader, DirectoryRoot::of_snapshot(&snapshot.1))
            .map(Result::unwrap)
            .collect();
        let chosen: Vec<_> = entries.iter().step_by(entries.len() / 64).collect();
        let fetched: u64 = chosen.iter().map(|entry| fetched_for(&reader, entry)).sum();
        println!(
            "segments of {} KiB: {} KiB fetched for a file",
            length >> 10,
            (fetched / chosen.len() as u64) >> 10
        );
        let mut next = chosen.iter().cycle();
        group.bench_function(format!("segments of {} KiB", length >> 10), |bencher| {
            bencher.iter_batched(
                || (folder_in_memory(), next.next().unwrap()),
                |(folder, entry)| {
                    let subtree = TreePath::root().join(&entry.name);
                    let options = RestoreOptions { subtree, ..restore_options() };
                    let monitor = SilentMonitor;
                    let summary =
                        run_restore(&repository, &snapshot, folder.path(), &options, &monitor)
                            .unwrap();
                    assert_eq!((summary.total_bytes, summary.entries_failed), (8 << 10, 0));
                    folder
                },
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

/// Bytes of packs that are fetched to read a file of one chunk.
fn fetched_for(reader: &BlobReader<'_>, entry: &Entry) -> u64 {
    let Node::File(FileContent { content: Content::Extents(extents), .. }) = &entry.node else {
        panic!("a file with a chunk")
    };
    let [Extent::Data { blob, .. }] = extents[..] else { panic!("one chunk") };
    let place = reader.locate(&blob).unwrap();
    let pack = reader.repository().cache().pack(place.pack).unwrap();
    let segment = &pack.segments[place.segment as usize];
    let total = plain_length(pack.object_length - HEADER_LENGTH as u64).unwrap();
    let (range, _) = frames_covering(segment.offset, u64::from(segment.stored_length), total);
    range.end - range.start
}

criterion_group! { name = benches; config = criterion(); targets = restore, one_small_file }
criterion_main!(benches);
