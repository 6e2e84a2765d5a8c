//! A first backup, all cores: files in memory, through cutting, naming, gathering, compressing and sealing,
//! into packs that are thrown away (a dry run does everything but upload).
//!
//! The limit is the same bytes, on all cores, through BLAKE3 twice (every byte is in a blob's name and in its file's
//! digest), zstd and ChaCha20-Poly1305, in the same sizes, and nothing else: no cutting, no trees, no queues.

#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;

use aumbry::codec::cipher::{FRAME_LENGTH, FrameCipher};
use aumbry::codec::compress::Compressor;
use aumbry::codec::digest::NamingKeys;
use aumbry::format::config::Settings;
use aumbry::monitor::SilentMonitor;
use aumbry::ops::backup::backup;
use aumbry::store::Store;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use rayon::iter::{IntoParallelRefIterator, ParallelIterator};

use crate::common::{Bytes, MemoryFiles, backup_options, create, criterion};

const SEGMENT_LENGTH: usize = Settings::DEFAULT.segment_length as usize;
const CHUNK_LENGTH: usize = Settings::DEFAULT.chunk_average as usize;

/// Hashes, compresses and seals one segment, and returns the sealed length.
fn limit(naming: &NamingKeys, cipher: &FrameCipher, segment: &[u8]) -> usize {
    for chunk in segment.chunks(CHUNK_LENGTH) {
        naming.data_id(chunk);
        naming.region_digest(chunk);
    }
    let mut output = Vec::new();
    if !Compressor::new(3, SEGMENT_LENGTH).unwrap().compress(segment, &mut output).unwrap() {
        output.extend_from_slice(segment);
    }
    for (number, frame) in output.chunks_mut(FRAME_LENGTH).enumerate() {
        cipher.seal_frame(number as u64, false, frame);
    }
    output.len()
}

fn pipeline(criterion: &mut Criterion) {
    for (kind, total) in [(Bytes::Text, 96 << 20), (Bytes::Random, 256 << 20)] {
        let segments: Vec<Vec<u8>> = (0..total / SEGMENT_LENGTH)
            .map(|seed| kind.make(SEGMENT_LENGTH, seed as u64))
            .collect();
        // Most files of most people are small, most bytes are in large ones.
        let files: Vec<Vec<u8>> = segments
            .iter()
            .enumerate()
            .flat_map(|(number, segment)| {
                let length = if number % 2 == 0 { 16 << 10 } else { SEGMENT_LENGTH };
                segment.chunks(length).map(<[u8]>::to_vec)
            })
            .collect();
        let files = Arc::new(files);
        let repository = create(Store::memory(), None);
        let mut group = criterion.benchmark_group(format!("pipeline, {}", kind.name()));
        group.throughput(Throughput::Bytes(total as u64));
        group.bench_function("backup", |bencher| {
            bencher.iter(|| {
                let mut source = MemoryFiles::new(files.clone());
                let options = backup_options(true);
                let summary = backup(&repository, &mut source, &options, &SilentMonitor).unwrap();
                assert_eq!(summary.counts.total_bytes_processed, total as u64);
            });
        });
        group.bench_function("limit: hash, compress, seal", |bencher| {
            let (naming, cipher) = (NamingKeys::new(&[1; 32]), FrameCipher::new(&[2; 32]));
            bencher.iter(|| -> usize {
                segments.par_iter().map(|segment| limit(&naming, &cipher, segment)).sum()
            });
        });
        group.finish();
    }
}

criterion_group! { name = benches; config = criterion(); targets = pipeline }
criterion_main!(benches);
