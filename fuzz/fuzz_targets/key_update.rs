//! A key update, damaged or made up: no panic, what is taken apart goes together to the same bytes, and nothing
//! that was made up opens.
#![no_main]

use aumbry::format::key_update::KeyUpdate;
use aumbry::id::KeySlotId;
use aumbry::id::RepositoryId;
use aumbry::repository::key_updates::unseal_update;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    if let Ok(update) = KeyUpdate::decode(input) {
        assert_eq!(update.encode(), input);
    }
    let (slot, repository) = (KeySlotId([2; 16]), RepositoryId([1; 16]));
    let name = "keys/00000001.update";
    let opened = unseal_update(name, input, repository, slot, &[8; 32], &[9; 32]);
    assert!(!matches!(opened, Ok(Some(_))));
});
