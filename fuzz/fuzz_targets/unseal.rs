//! Sealed objects: garbage is refused, with and without a header that is right; what was sealed comes back,
//! whole and in parts, and with any one byte changed it does not.
#![no_main]

use std::sync::LazyLock;

use aumbry::format::header::ObjectKind;
use aumbry::format::keyring::EpochKeys;
use aumbry::format::keyring::Keyring;
use aumbry::id::RepositoryId;
use aumbry::repository::mend::plain_length;
use aumbry::repository::seal::Sealer;
use aumbry::repository::seal::frames_covering;
use aumbry::repository::seal::unseal_range;
use libfuzzer_sys::fuzz_target;

const KIND: ObjectKind = ObjectKind::Index;
const NAME: &str = "index/00000000-00000000000000000000000000000000-00000000";

static SEALER: LazyLock<Sealer> = LazyLock::new(|| {
    let keyring = Keyring {
        id_key: [1; 32],
        chunker_secret: [2; 32],
        repository_seed: [3; 32],
        admin_seed: [4; 32],
        epochs: vec![EpochKeys { epoch: 1, data_key: Some([5; 32]), index_key: [6; 32] }],
        settings: Vec::new(),
        revision: 0,
    };
    Sealer::new(RepositoryId([7; 16]), keyring)
});

fuzz_target!(|input: &[u8]| {
    assert!(SEALER.unseal_stream(&[KIND], NAME, input.to_vec()).is_err());
    let Some((&[place, place_high, change, repeat], rest)) = input.split_first_chunk::<4>() else {
        return;
    };
    let header = SEALER.new_header(KIND, [8; 32]);
    let cipher = SEALER.object_cipher(&header, NAME).expect("the keyring has the newest epoch");
    let object = [&cipher.header.encode(), rest].concat();
    assert!(SEALER.unseal_stream(&[KIND], NAME, object).is_err());

    // Several frames now and then.
    let payload = rest.repeat(1 + usize::from(repeat));
    let sealed = SEALER.seal(KIND, NAME, payload.clone(), &[9; 32]).expect("sealing works");
    let opened = SEALER.unseal(KIND, NAME, sealed.clone()).expect("what was sealed opens");
    assert_eq!(opened, payload);
    assert!(SEALER.unseal(KIND, "index/other", sealed.clone()).is_err());

    let place = usize::from(u16::from_le_bytes([place, place_high]));
    let start = place.min(payload.len());
    let header = SEALER.check_header(&[KIND], NAME, &sealed).expect("its own header");
    let cipher = SEALER.object_cipher(&header, NAME).expect("its own epoch");
    let total = plain_length(&header, sealed.len() as u64).expect("whole frames");
    let wanted = &payload[start..];
    if !wanted.is_empty() {
        let (range, first) = frames_covering(start as u64, wanted.len() as u64, total);
        let part = sealed[range.start as usize..range.end as usize].to_vec();
        let part = unseal_range(&cipher, NAME, part, first, start as u64, wanted.len(), total);
        assert_eq!(part.expect("a part of what was sealed opens"), wanted);
    }
    let mut changed = sealed;
    let place = place % changed.len();
    changed[place] ^= change.max(1);
    assert!(SEALER.unseal(KIND, NAME, changed).is_err(), "byte {place} does not count");
});
