//! Directory trees as values: paths, entries and filters. No I/O.

pub mod entry;
pub mod filter;
pub mod path;
