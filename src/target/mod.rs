//! target/mod
