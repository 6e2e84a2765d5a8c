//! A key slot's clear part and its label, damaged or made up: no panic, and what is read writes and reads
//! back the same.
#![no_main]

use aumbry::format::slot::SlotHeader;
use aumbry::format::slot::SlotLabel;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    if let Ok(header) = SlotHeader::decode(input) {
        assert_eq!(SlotHeader::decode(&header.encode()), Ok(header));
    }
    if let Ok(label) = SlotLabel::decode(input) {
        let bytes = label.encode();
        assert_eq!(bytes.len() % 128, 0);
        assert_eq!(SlotLabel::decode(&bytes), Ok(label));
    }
});
