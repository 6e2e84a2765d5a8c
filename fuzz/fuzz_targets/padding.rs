//! A padded payload, damaged or made up: no panic, and what is unpadded pads to the very same bytes.
#![no_main]

use aumbry::format::header::pad_payload;
use aumbry::format::header::unpad_payload;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    if let Ok(payload) = unpad_payload(input.to_vec()) {
        assert_eq!(pad_payload(payload, input.len()), input);
    }
});
