//! A tomb's payload, damaged or made up: no panic, and what is read writes and reads back the same.
#![no_main]

use aumbry::format::tomb::Tomb;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    if let Ok(tomb) = Tomb::decode(input) {
        assert_eq!(Tomb::decode(&tomb.encode()), Ok(tomb));
    }
});
