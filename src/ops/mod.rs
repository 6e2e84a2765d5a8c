//! ops/mod
