//! A keyring's payload, damaged or made up: no panic, and what is read writes and reads back the same.
#![no_main]

use aumbry::format::keyring::Keyring;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    if let Ok(keyring) = Keyring::decode(input) {
        assert!(!keyring.epochs.is_empty());
        assert_eq!(Keyring::decode(&keyring.encode()), Ok(keyring));
    }
});
