//! A session's payload, damaged or made up: no panic, and what is read writes and reads back the same.
#![no_main]

use aumbry::format::session::Session;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    if let Ok(session) = Session::decode(input) {
        assert_eq!(Session::decode(&session.encode()), Ok(session));
    }
});
