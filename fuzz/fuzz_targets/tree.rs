//! A tree blob, damaged or made up: no panic, and what is read writes and reads back the same.
#![no_main]

use aumbry::format::directory::DirectoryNode;
use aumbry::format::list::ListNode;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    if let Ok(node) = DirectoryNode::decode(input) {
        assert_eq!(DirectoryNode::decode(&node.encode()), Ok(node));
        assert!(ListNode::decode(input).is_err(), "a blob of two meanings");
    }
    if let Ok(node) = ListNode::decode(input) {
        assert_eq!(ListNode::decode(&node.encode()), Ok(node));
    }
});
