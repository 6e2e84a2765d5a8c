//! A pack's directory, damaged or made up: no panic, and what is read writes and reads back the same.
#![no_main]

use aumbry::format::bytes::Reader;
use aumbry::format::pack::PackDirectory;
use aumbry::format::pack::locate_directory;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((length, rest)) = input.split_first_chunk::<8>() else { return };
    let length = u64::from_le_bytes(*length);
    if let Ok((offset, directory_length)) = locate_directory(length, rest) {
        assert!(offset + directory_length as u64 <= length);
    }
    if let Ok(directory) = PackDirectory::decode(&mut Reader::new(rest)) {
        let mut bytes = Vec::new();
        directory.encode(&mut bytes);
        let mut reader = Reader::new(&bytes);
        assert_eq!(PackDirectory::decode(&mut reader), Ok(directory));
        assert!(reader.is_empty());
    }
});
