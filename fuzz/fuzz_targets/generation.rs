//! What collectors publish, damaged or made up: no panic, and what is read writes and reads back the same.
#![no_main]

use aumbry::format::generation::Condemned;
use aumbry::format::generation::Maintainer;
use aumbry::format::generation::Sweep;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    if let Ok(condemned) = Condemned::decode(input) {
        assert_eq!(Condemned::decode(&condemned.encode()), Ok(condemned));
    }
    if let Ok(sweep) = Sweep::decode(input) {
        assert_eq!(Sweep::decode(&sweep.encode()), Ok(sweep));
    }
    if let Ok(maintainer) = Maintainer::decode(input) {
        assert_eq!(Maintainer::decode(&maintainer.encode()), Ok(maintainer));
    }
});
