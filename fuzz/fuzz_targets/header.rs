//! An object's header, damaged or made up: no panic, and a header that is read has no byte that does not
//! count: it writes the very bytes it was read from.
#![no_main]

use aumbry::format::header::HEADER_LENGTH;
use aumbry::format::header::Header;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    if let Ok(header) = Header::decode(input) {
        assert_eq!(header.encode(), input[..HEADER_LENGTH]);
    }
});
