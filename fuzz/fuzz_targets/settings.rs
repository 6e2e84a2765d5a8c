//! A config's payload, damaged or made up: no panic, and what is read writes and reads back the same.
#![no_main]

use aumbry::codec::chunker::Chunker;
use aumbry::codec::chunker::ChunkerParams;
use aumbry::format::config::Settings;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Ok(settings) = Settings::decode(input) else { return };
    assert_eq!(Settings::decode(&settings.encode()), Ok(settings));
    let params = ChunkerParams {
        minimum: settings.chunk_minimum,
        average: settings.chunk_average,
        maximum: settings.chunk_maximum,
    };
    if params.is_valid() {
        let chunker = Chunker::new(params, &[7; 32]);
        assert!((1..=input.len()).contains(&chunker.cut(input)));
    }
});
