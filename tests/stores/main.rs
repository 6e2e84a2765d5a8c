//! Stores beyond the local disk, against real servers that the tests start on loopback and stop by their process ids.
//! A server that is not installed is told as `skipped: no …`.

#![allow(clippy::unwrap_used, clippy::panic, reason = "what tests share fails as a test does")]

// The questions that every store must answer right; the library has them only for its own tests.
#[path = "../../src/store/conformance.rs"]
mod conformance;
mod disks;
mod fake_b2;
mod fake_gcs;
mod fake_s3;
mod http;
mod object_lock;
mod proxy;
mod remote;
mod rights;
mod servers;
mod sftp;
#[allow(dead_code, reason = "the benchmark uses the rest")]
mod sshd;
mod storms;
mod whole;

// What `conformance` finds above itself.
use aumbry::store::{Created, Kind, ObjectInfo, Store};
