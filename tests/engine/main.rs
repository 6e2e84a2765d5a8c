//! The engine as a library: whole verbs on real folders and faulty stores.

#![allow(clippy::unwrap_used, clippy::panic, reason = "what tests share fails as a test does")]

mod backup;
mod cold;
mod collecting;
mod concurrent;
mod copy;
mod crash;
mod crash_collection;
mod crash_disk;
mod crash_repairs;
mod damage;
mod deltas;
mod described;
mod diff;
mod disk;
mod far;
mod fidelity;
mod finding;
mod following;
mod foretold;
mod forgetting;
mod healing;
mod mirror;
mod model;
mod object_locks;
mod packs;
mod parity;
mod passing;
mod properties;
mod proving;
mod prune;
mod rekey;
mod remembering;
mod repair;
mod requests;
mod restore;
mod resume;
mod sources;
mod space;
mod support;
mod troubled;
