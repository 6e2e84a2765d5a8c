//! Blobs through segments, frames and packs and back, at every length where one of them begins or ends.

use std::collections::BTreeMap;

use aumbry::codec::cipher::{FRAME_LENGTH, padded_length};
use aumbry::format::config::Settings;
use aumbry::format::header::ObjectKind;
use aumbry::format::pack::{BlobRecord, Encoding, PACK_TRAILER_LENGTH, PackDirectory};
use aumbry::id::{BlobId, PackId, SessionId};
use aumbry::monitor::SilentMonitor;
use aumbry::repository::Repository;
use aumbry::repository::packer::PackBuilder;
use aumbry::repository::reader::BlobReader;
use aumbry::repository::writer::Writer;
use aumbry::store::{LocalMode, Store, layout};
use proptest::prelude::{Strategy, any, prop_oneof};

use crate::model::{create_quick, create_quick_with, for_all, open_quick};
use crate::support::noise;

/// Lengths around which something ends: a frame, two, the longest segment and the longest pack of
/// `small_settings`.
const EDGES: [usize; 6] = [1 << 10, 4 << 10, 16 << 10, 64 << 10, 128 << 10, 192 << 10];

fn edge_length() -> impl Strategy<Value = usize> {
    prop_oneof![
        1 => 0usize..3,
        3 => (0..EDGES.len(), 0usize..3).prop_map(|(edge, by)| EDGES[edge] + by - 1),
        2 => 0usize..3000,
        1 => 0usize..150_000,
    ]
}

fn name_of(number: u32) -> PackId {
    PackId { session: SessionId { generation: 0, random: [9; 16] }, number }
}

/// Builds a pack of these segments, each one blob stored as it is, and reads all of it back in every way.
fn round_trip(repository: &Repository, number: u32, segments: &[Vec<u8>]) {
    let id = name_of(number);
    let name = layout::pack(id);
    let alignment = [1, 512, 4096][number as usize % 3];
    let mut builder = PackBuilder::new(64 << 10).aligned_to(alignment);
    let start = builder.start();
    let mut wanted: BTreeMap<BlobId, &[u8]> = BTreeMap::new();
    for plain in segments {
        let blob = repository.naming().data_id(plain);
        let record = BlobRecord { id: blob, length: plain.len() as u32 };
        builder.push(plain, Encoding::Stored, vec![record]);
        wanted.insert(blob, plain);
    }
    let body = segments.concat();
    assert_eq!(builder.body_length(), body.len());
    let sealer = repository.sealer();
    let (mut memory, record) = builder
        .finish_in_place(sealer, ObjectKind::DataPack, id, &name, &[number as u8; 32])
        .unwrap();
    let object = memory[start..].to_vec();
    assert!(start < alignment && record.object_length == object.len() as u64);

    let (header, plain) =
        sealer.unseal_stream(&[ObjectKind::DataPack], &name, object.clone()).unwrap();
    assert_eq!(header, record.header);
    assert_eq!(padded_length(plain.len() as u64), plain.len() as u64, "is padded");
    assert!(plain.starts_with(&body));

    repository.store().create_from(&name, &mut memory, start).unwrap();
    assert!(repository.store().get(&name).unwrap() == object);
    let found = repository.read_pack_directory(id, record.object_length).unwrap();
    assert_eq!(found, record);
    assert_eq!(repository.adopt_packs(&[id.session]).unwrap(), 1);
    let reader = BlobReader::new(repository, 1 << 20);
    for (blob, plain) in wanted {
        assert!(*reader.data(&blob).unwrap() == *plain, "{} bytes", plain.len());
    }
}

#[test]
fn an_aligned_pack_begins_at_a_block_and_its_memory_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Store::local(folder.path(), LocalMode::Create).unwrap();
    let repository = create_quick(Store::memory(), None);
    assert_eq!((disk.alignment(), repository.store().alignment()), (4096, 1));
    for (number, percent) in [(0, 0), (1, 2)] {
        let (id, plain) = (name_of(number), noise(3 << 20, u64::from(number)));
        let name = layout::pack(id);
        let mut pack = PackBuilder::new(4 << 20).with_parity(percent).aligned_to(disk.alignment());
        let record = BlobRecord { id: BlobId([7; 32]), length: plain.len() as u32 };
        pack.push(&plain, Encoding::Stored, vec![record]);
        let start = pack.start();
        let sealer = repository.sealer();
        let sealed = pack.finish_in_place(sealer, ObjectKind::DataPack, id, &name, &[9; 32]);
        let mut memory = sealed.unwrap().0;
        let (object, capacity) = (memory[start..].to_vec(), memory.capacity());
        assert!(memory[start..].as_ptr().addr().is_multiple_of(4096), "{percent}");
        disk.create_from(&name, &mut memory, start).unwrap();
        assert_eq!(memory.capacity(), capacity);
        assert!(disk.get(&name).unwrap() == object, "{percent}");
    }
}

/// The length of a pack's plaintext behind its only segment, before it is padded.
fn tail_length(segment: usize) -> usize {
    let mut directory = PackDirectory::default();
    let record = BlobRecord { id: BlobId([0; 32]), length: segment as u32 };
    directory.push(segment as u32, Encoding::Stored, vec![record]);
    let mut bytes = Vec::new();
    directory.encode(&mut bytes);
    bytes.len() + PACK_TRAILER_LENGTH
}

#[test]
fn a_segment_that_ends_at_any_edge_comes_back_from_its_pack() {
    let repository = create_quick(Store::memory(), None);
    let mut lengths: Vec<usize> = vec![0, 1, 2];
    let frames = [FRAME_LENGTH, 2 * FRAME_LENGTH, 3 * FRAME_LENGTH];
    // Where Padmé's steps lie: a multiple of 2^11 above 2^16.
    let steps = [padded_length(66_000) as usize, padded_length(100_000) as usize];
    for edge in frames.into_iter().chain(steps) {
        // The segment ends there, and the whole plaintext does.
        lengths.extend([edge - 1, edge, edge + 1]);
        let all = edge - tail_length(edge - 100);
        assert_eq!(all + tail_length(all), edge, "the tail is as long as was taken");
        lengths.extend([all - 1, all, all + 1]);
    }
    for (number, length) in lengths.iter().enumerate() {
        round_trip(&repository, number as u32, &[noise(*length, number as u64)]);
    }
}

#[test]
fn any_segments_come_back_from_their_pack() {
    let strategy = proptest::collection::vec(edge_length(), 0..6);
    for_all(64, strategy, |lengths| {
        let repository = create_quick(Store::memory(), None);
        let segments: Vec<Vec<u8>> = lengths
            .iter()
            .enumerate()
            .map(|(number, length)| noise(*length, number as u64 + 1))
            .collect();
        round_trip(&repository, 3, &segments);
    });
}

#[test]
fn any_blobs_come_back_through_the_writer() {
    let blob = (edge_length(), any::<bool>(), 0u64..20);
    let strategy = (proptest::collection::vec(blob, 1..12), any::<bool>());
    for_all(64, strategy, |(blobs, trees)| {
        let store = Store::memory();
        let repository = create_quick(store.clone(), None);
        let kind = if trees { ObjectKind::TreePack } else { ObjectKind::DataPack };
        let writer = Writer::begin(&repository, false, &SilentMonitor).unwrap();
        let mut segments = writer.segments(kind).unwrap();
        let mut wanted = BTreeMap::new();
        for (length, compressible, seed) in blobs {
            let plain = if compressible { vec![seed as u8; length] } else { noise(length, seed) };
            let (id, new) = segments.put(&plain).unwrap();
            assert_eq!(new, wanted.insert(id, plain).is_none());
        }
        segments.flush().unwrap();
        writer.finish().unwrap();
        let added = writer.added();
        assert_eq!(added.data_blobs + added.tree_blobs, wanted.len() as u64);
        for repository in [&repository, &open_quick(store.clone(), None)] {
            repository.refresh_index(&SilentMonitor).unwrap();
            let reader = BlobReader::new(repository, 1 << 20);
            for (id, plain) in &wanted {
                let found = if trees { reader.tree(id) } else { reader.data(id) };
                assert!(*found.unwrap() == **plain, "{} bytes", plain.len());
            }
        }
    });
}

#[test]
fn blobs_at_the_edges_of_the_default_segments_and_packs_come_back() {
    let settings = Settings::DEFAULT;
    let store = Store::memory();
    let repository = create_quick_with(store.clone(), settings, None);
    let writer = Writer::begin(&repository, false, &SilentMonitor).unwrap();
    let mut segments = writer.segments(ObjectKind::DataPack).unwrap();
    let mut wanted = Vec::new();
    for edge in [settings.segment_length, settings.pack_length] {
        for length in [edge - 1, edge, edge + 1] {
            let plain = noise(length as usize, u64::from(length));
            wanted.push((segments.put(&plain).unwrap().0, plain));
        }
    }
    segments.flush().unwrap();
    writer.finish().unwrap();
    let stranger = open_quick(store, None);
    stranger.refresh_index(&SilentMonitor).unwrap();
    let reader = BlobReader::new(&stranger, 32 << 20);
    for (id, plain) in wanted {
        assert!(*reader.data(&id).unwrap() == *plain, "{} bytes", plain.len());
    }
}

#[test]
fn a_sealed_object_gives_back_a_payload_of_any_length() {
    let repository = create_quick(Store::memory(), None);
    let edges = (0..3usize).prop_flat_map(|edge| {
        let edge = [512usize, FRAME_LENGTH, 2 * FRAME_LENGTH][edge];
        edge - 20..edge + 3
    });
    for_all(64, prop_oneof![edges, 0usize..600], |length| {
        let payload = noise(length, 5);
        let sealed = repository.seal(ObjectKind::Index, "index/a", payload.clone()).unwrap();
        let sealer = repository.sealer();
        assert_eq!(sealer.unseal(ObjectKind::Index, "index/a", sealed.clone()).unwrap(), payload);
        assert!(sealer.unseal(ObjectKind::Index, "index/b", sealed.clone()).is_err());
        assert!(sealer.unseal(ObjectKind::Tomb, "index/a", sealed.clone()).is_err());
        let cut = sealed[..sealed.len() - 1].to_vec();
        assert!(sealer.unseal(ObjectKind::Index, "index/a", cut).is_err());
    });
}
