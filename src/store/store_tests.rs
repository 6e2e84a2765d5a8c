//! The store itself, over memory.

use super::conformance::Extent;
use super::*;

#[test]
fn memory_store_conforms() {
    conformance::check(&Store::memory(), &Extent::QUICK);
}

#[test]
fn remote_store_conforms() {
    let operator = Operator::new(opendal::services::Memory::default()).unwrap();
    conformance::check(&Store::remote(operator, "memory, as if far away"), &Extent::QUICK);
}

#[test]
fn clones_share_their_content() {
    let store = Store::memory();
    store.clone().create("config", b"one".to_vec()).unwrap();
    assert_eq!(store.get("config").unwrap(), b"one");
}

#[test]
fn names_that_lead_elsewhere_are_refused() {
    let store = Store::memory();
    for name in ["", "/config", "../config", "keys/../config", "keys//a", "keys/", ".a", "a b"] {
        assert_eq!(store.get(name).unwrap_err().kind, Kind::Invalid, "{name:?}");
        assert_eq!(store.create(name, vec![1]).unwrap_err().kind, Kind::Invalid, "{name:?}");
    }
    for prefix in ["/", "..", "../", "packs/../", "packs//"] {
        assert_eq!(store.list(prefix).unwrap_err().kind, Kind::Invalid, "{prefix:?}");
    }
}

#[test]
fn reading_takes_the_bytes_over_without_a_copy() {
    let bytes = vec![7; 1 << 20];
    let address = bytes.as_ptr();
    let bytes = into_vec(Buffer::from(bytes));
    assert_eq!(bytes.as_ptr(), address);
}
