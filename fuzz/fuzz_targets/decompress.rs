//! A compressed segment, damaged or made up, with and without a prefix: no panic, never another length than
//! the one that was asked for; and what is compressed comes back.
#![no_main]

use aumbry::codec::compress::Compressor;
use aumbry::codec::compress::Decompressor;
use aumbry::codec::compress::DeltaCompressor;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((&[length, length_high, prefix], rest)) = input.split_first_chunk::<3>() else {
        return;
    };
    let length = usize::from(u16::from_le_bytes([length, length_high])) * 4;
    let (prefix, rest) = rest.split_at(usize::from(prefix).min(rest.len()));
    let mut decompressor = Decompressor::new().expect("a context");
    for prefix in [&[], prefix] {
        if let Ok(plain) = decompressor.decompress(rest, prefix, length) {
            assert_eq!(plain.len(), length);
        }
    }
    let mut output = Vec::new();
    let mut compressor = Compressor::new(1, 1 << 17).expect("a context");
    if compressor.compress(rest, &mut output).expect("compressing works") {
        assert_eq!(decompressor.decompress(&output, &[], rest.len()).as_deref(), Ok(rest));
    } else {
        assert!(output.is_empty(), "what does not shrink is stored as it is, by the caller");
    }
    if !prefix.is_empty() {
        let mut delta = Vec::new();
        let mut compressor = DeltaCompressor::new(1).expect("a context");
        compressor.compress(prefix, rest, &mut delta).expect("compressing works");
        assert_eq!(decompressor.decompress(&delta, prefix, rest.len()).as_deref(), Ok(rest));
    }
});
