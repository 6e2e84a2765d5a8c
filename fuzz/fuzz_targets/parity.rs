//! Packs with parity: garbage is refused, with and without a header that is right; a pack that was damaged is mended
//! to what it was, or refused.
#![no_main]

use std::sync::LazyLock;

use aumbry::format::header::Header;
use aumbry::format::header::ObjectKind;
use aumbry::format::header::Parity;
use aumbry::format::keyring::EpochKeys;
use aumbry::format::keyring::Keyring;
use aumbry::format::pack::BlobRecord;
use aumbry::format::pack::Encoding;
use aumbry::id::BlobId;
use aumbry::id::PackId;
use aumbry::id::RepositoryId;
use aumbry::id::SessionId;
use aumbry::repository::packer::PackBuilder;
use aumbry::repository::seal::Sealer;
use aumbry::store::layout;
use libfuzzer_sys::fuzz_target;

const ID: PackId = PackId { session: SessionId { generation: 0, random: [7; 16] }, number: 1 };

static SEALER: LazyLock<Sealer> = LazyLock::new(|| {
    let keyring = Keyring {
        revision: 0,
        id_key: [1; 32],
        chunker_secret: [2; 32],
        repository_seed: [3; 32],
        admin_seed: [4; 32],
        epochs: vec![EpochKeys { epoch: 1, data_key: Some([5; 32]), index_key: [6; 32] }],
        settings: Vec::new(),
    };
    Sealer::new(RepositoryId([7; 16]), keyring)
});

/// Packs of one frame and of several, as they are written.
static PACKS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let pack = |frames: u32, percent| {
        let mut pack = PackBuilder::new(1 << 16).with_parity(percent);
        let length = frames * (64 << 10) - 1000;
        let blob = BlobRecord { id: BlobId([8; 32]), length };
        pack.push(&vec![9; length as usize], Encoding::Stored, vec![blob]);
        let name = layout::pack(ID);
        pack.finish(&SEALER, ObjectKind::DataPack, ID, &name, &[6; 32]).expect("is sealed").0
    };
    vec![pack(1, 2), pack(3, 2), pack(4, 100)]
});

fuzz_target!(|input: &[u8]| {
    let name = layout::pack(ID);
    assert!(SEALER.mend(&name, None, input.to_vec()).is_err());
    // A header that says anything of the parity, before anything.
    let Some((lengths, rest)) = input.split_first_chunk::<7>() else { return };
    let [low, high, frames @ .., choice] = *lengths;
    let shards = u16::from_le_bytes([low, high]).max(1);
    let plain_length = u64::from(u32::from_le_bytes(frames)) % (8 << 20) + 1;
    let parity = Some(Parity { shards, plain_length });
    let header = Header { parity, ..SEALER.new_header(ObjectKind::DataPack, [8; 32]) };
    let header = SEALER.object_cipher(&header, &name).expect("the newest epoch").header;
    let object = [&header.encode(), rest].concat();
    assert!(SEALER.mend(&name, Some(&header), object).is_err());

    // Each four bytes: a place, how much of it, with what.
    let whole = &PACKS[usize::from(choice) % PACKS.len()];
    let listed = Header::decode(whole).expect("its own header");
    let mut object = whole.clone();
    for change in rest.as_chunks::<5>().0 {
        let [low, middle, high, length, byte] = *change;
        let place = u32::from_le_bytes([low, middle, high, 0]) as usize;
        let (place, length) = (place % object.len().max(1), usize::from(length) << 8);
        match byte {
            0 => object.truncate(place),
            _ => object.iter_mut().skip(place).take(length).for_each(|found| *found ^= byte),
        }
    }
    let is_whole = object == *whole;
    match SEALER.mend(&name, Some(&listed), object) {
        Ok(mended) => {
            assert!(mended.object == *whole);
            assert_eq!(mended.was_whole(), is_whole);
        }
        Err(error) => assert!(!is_whole && !error.message.is_empty()),
    }
});
