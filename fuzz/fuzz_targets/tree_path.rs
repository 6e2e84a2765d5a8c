//! Paths as people type them: no panic, and a path that is read is in the one normal form.
#![no_main]

use aumbry::tree::path::TreePath;
use aumbry::tree::path::is_valid_name;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Ok(path) = TreePath::parse(input) else { return };
    assert_eq!(TreePath::parse(path.as_bytes()).as_ref(), Ok(&path));
    assert!(path.components().all(is_valid_name));
    let joined = path.components().fold(TreePath::root(), |path, name| path.join(name));
    assert_eq!(joined, path);
    assert_eq!(path.is_root(), path.name().is_none());
    if let (Some(parent), Some(name)) = (path.parent(), path.name()) {
        assert_eq!(parent.join(name), path);
        assert!(path.starts_with(&parent) && !parent.starts_with(&path));
    }
});
