//! A slot's payload, damaged or made up: no panic, and what is read writes and reads back the same.
#![no_main]

use aumbry::format::snapshot::Decision;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    if let Ok(decision) = Decision::decode(input) {
        assert_eq!(Decision::decode(&decision.encode()), Ok(decision));
    }
});
