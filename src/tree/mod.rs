//! Directory trees as values: paths, entries, filters and differences. No I/O.

pub mod diff;
pub mod entry;
pub mod filter;
pub mod path;
