//! How fast files are cut, on one core, over 256 MiB that are half text and half random.
//!
//! The limit is the fastcdc crate as it comes, with its public gear table and the same sizes: a secret table
//! and the calls around it should cost nothing. For comparison, reading the bytes once (their sum).

mod common;

use std::hint::black_box;

use aumbry::codec::chunker::{Chunker, ChunkerParams};
use aumbry::format::config::Settings;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use fastcdc::v2020::FastCDC;

use crate::common::{criterion, noise, text};

const PARAMS: ChunkerParams = ChunkerParams {
    minimum: Settings::DEFAULT.chunk_minimum,
    average: Settings::DEFAULT.chunk_average,
    maximum: Settings::DEFAULT.chunk_maximum,
};

fn cut_all(chunker: &Chunker, mut data: &[u8]) -> usize {
    let mut chunks = 0;
    while !data.is_empty() {
        data = &data[chunker.cut(data)..];
        chunks += 1;
    }
    chunks
}

fn chunker(criterion: &mut Criterion) {
    let mut data = Vec::with_capacity(256 << 20);
    for seed in 0..16 {
        data.extend_from_slice(&text(8 << 20, seed));
        data.extend_from_slice(&noise(8 << 20, seed));
    }
    let mut group = criterion.benchmark_group("chunker");
    group.throughput(Throughput::Bytes(data.len() as u64));
    let chunker = Chunker::new(PARAMS, &[7; 32]);
    group.bench_function("secret gear", |bencher| bencher.iter(|| cut_all(&chunker, &data)));
    group.bench_function("limit: fastcdc", |bencher| {
        let [minimum, average, maximum] =
            [PARAMS.minimum, PARAMS.average, PARAMS.maximum].map(|size| size as usize);
        bencher.iter(|| FastCDC::new(&data, minimum, average, maximum).count());
    });
    group.bench_function("comparison: reading", |bencher| {
        let words = data.as_chunks::<8>().0;
        let sum = |sum: u64, word: &[u8; 8]| sum.wrapping_add(u64::from_le_bytes(*word));
        bencher.iter(|| black_box(words).iter().fold(0, sum));
    });
    group.finish();
}

criterion_group! { name = benches; config = criterion(); targets = chunker }
criterion_main!(benches);
