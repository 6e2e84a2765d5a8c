//! The command line as people and programs meet it: the real binary, its words, its JSON, its exit codes.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

mod cold;
mod copying;
mod errors;
mod help;
mod json;
mod mirrors;
mod passphrases;
mod pruning;
mod stories;
mod support;
