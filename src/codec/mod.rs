//! Pure bytes to bytes: cut, name, compress, seal, derive, mend. No I/O, no clock, no randomness of its own.

pub mod chunker;
pub mod cipher;
pub mod compress;
pub mod digest;
pub mod exchange;
pub mod kdf;
mod matches;
pub mod parity;
mod sequences;
