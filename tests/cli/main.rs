//! The command line as people and programs meet it: the real binary, its words, its JSON, its exit codes.

mod errors;
mod help;
mod json;
mod passphrases;
mod stories;
mod support;
