//! What parity costs a writer, and what mending costs a reader.
//!
//! A pack of 16 MiB is filled and sealed without parity and with it; the limit of the difference is nothing. Mending takes the
//! whole object, with no frame damaged, with one, and with as many as parity reaches. `cargo bench --bench pipeline` has
//! the whole of a backup, whose other work dwarfs this; the second group here runs one with and without.

#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;

use aumbry::codec::cipher::SEALED_FRAME_LENGTH;
use aumbry::codec::kdf::Argon2Cost;
use aumbry::format::config::Settings;
use aumbry::format::header::{HEADER_LENGTH, ObjectKind};
use aumbry::format::pack::{BlobRecord, Encoding};
use aumbry::id::{BlobId, PackId, SessionId};
use aumbry::monitor::SilentMonitor;
use aumbry::ops::backup::backup;
use aumbry::repository::packer::PackBuilder;
use aumbry::repository::{CreateOptions, Repository};
use aumbry::store::{Store, layout};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};

use crate::common::{
    MemoryFiles, backup_options, create, criterion, environment, noise, passphrase,
};

const SEGMENT_LENGTH: usize = Settings::DEFAULT.segment_length as usize;
const SEGMENTS: usize = 4;
const ID: PackId = PackId { session: SessionId { generation: 0, random: [7; 16] }, number: 1 };

fn pack(repository: &Repository, segments: &[Vec<u8>], percent: u8) -> Vec<u8> {
    let target = Settings::DEFAULT.pack_length as usize;
    let mut pack = PackBuilder::new(target).with_parity(percent);
    for segment in segments {
        let blob = BlobRecord { id: BlobId([8; 32]), length: segment.len() as u32 };
        pack.push(segment, Encoding::Stored, vec![blob]);
    }
    let (sealer, name) = (repository.sealer(), layout::pack(ID));
    pack.finish(sealer, ObjectKind::DataPack, ID, &name, &[6; 32]).unwrap().0
}

fn packs(criterion: &mut Criterion) {
    let repository = create(Store::memory(), None);
    let segments: Vec<Vec<u8>> =
        (0..SEGMENTS).map(|seed| noise(SEGMENT_LENGTH, seed as u64)).collect();
    let mut group = criterion.benchmark_group("pack of 16 MiB");
    group.throughput(Throughput::Bytes((SEGMENTS * SEGMENT_LENGTH) as u64));
    for percent in [0, 2, 10, 100] {
        group.bench_function(format!("filled and sealed, {percent} % parity"), |bencher| {
            bencher.iter(|| pack(&repository, &segments, percent));
        });
    }
    let whole = pack(&repository, &segments, 2);
    let name = layout::pack(ID);
    for damaged in [0, 1, 6] {
        let mut object = whole.clone();
        for frame in 0..damaged {
            object[HEADER_LENGTH + frame * SEALED_FRAME_LENGTH] ^= 1;
        }
        group.bench_function(
            format!("mended, {damaged} frames of 2 % parity damaged"),
            |bencher| {
                let mend = |object| repository.sealer().mend(&name, None, object).unwrap();
                bencher.iter_batched(|| object.clone(), mend, BatchSize::LargeInput);
            },
        );
    }
    group.finish();
}

fn backups(criterion: &mut Criterion) {
    let total = 128 << 20;
    let files = (0..total / SEGMENT_LENGTH).map(|seed| noise(SEGMENT_LENGTH, seed as u64));
    let files = Arc::new(files.collect::<Vec<_>>());
    let mut group = criterion.benchmark_group("backup of bytes that do not compress");
    group.throughput(Throughput::Bytes(total as u64));
    for percent in [0, 2, 10] {
        let settings = Settings { parity_percent: percent, ..Settings::DEFAULT };
        let cost = Some(Argon2Cost::FLOOR);
        let options = CreateOptions { settings, cost, ..CreateOptions::default() };
        let store = Store::memory();
        let repository =
            Repository::create(store, &options, &passphrase(), environment(None)).unwrap();
        group.bench_function(format!("{percent} % parity"), |bencher| {
            bencher.iter(|| {
                let mut source = MemoryFiles::new(files.clone());
                let options = backup_options(true);
                backup(&repository, &mut source, &options, &SilentMonitor).unwrap()
            });
        });
    }
    group.finish();
}

criterion_group! { name = benches; config = criterion(); targets = packs, backups }
criterion_main!(benches);
