//! The engine as a library: whole verbs on real folders and faulty stores.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod backup;
mod restore;
mod support;
