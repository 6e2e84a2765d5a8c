//! Patterns as people type them, tried on any path: no panic, and without patterns nothing is left out. The first
//! line is the path, every other one a pattern.
#![no_main]

use aumbry::tree::filter::ExcludeFilter;
use aumbry::tree::filter::IncludeFilter;
use aumbry::tree::filter::Pattern;
use aumbry::tree::path::TreePath;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let mut lines = input.split(|byte| *byte == b'\n');
    let Some(Ok(path)) = lines.next().map(TreePath::parse) else { return };
    let mut patterns = Vec::new();
    for line in lines.take(8) {
        let text = String::from_utf8_lossy(line);
        patterns.push(match text.strip_prefix('~') {
            Some(text) => Pattern::case_insensitive(text),
            None => Pattern::new(text),
        });
    }
    for is_directory in [false, true] {
        if let Ok(filter) = ExcludeFilter::new(&patterns) {
            let excluded = filter.excludes(path.as_bytes(), is_directory);
            assert!(!(filter.is_empty() && excluded));
        }
        if let Ok(filter) = IncludeFilter::new(&patterns) {
            let _ = filter.includes(path.as_bytes(), is_directory);
        }
    }
});
