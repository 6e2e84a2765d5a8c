//! An index object's payload, damaged or made up: no panic, and what is read writes and reads back the same.
#![no_main]

use aumbry::format::index::Index;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    if let Ok(index) = Index::decode(input) {
        assert_eq!(Index::decode(&index.encode()), Ok(index));
    }
});
