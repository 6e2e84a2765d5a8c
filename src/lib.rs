//! Aumbry keeps every version of files in a repository on any object store: cut by content,
//! deduplicated, compressed, encrypted and addressed by hash. A repository has many writers and no
//! locks; what was reported as backed up can be restored, whatever crashed. The map of the modules
//! below, and the arrows allowed between them, is `docs/architecture.md`.

// Words: no I/O, no other room.
pub mod clock;
pub mod id;
pub mod monitor;
pub mod units;

// Values and bytes: pure, no I/O.
pub mod codec;
pub mod format;
pub mod tree;

// The outside: where bytes are kept, where they come from, where they go.
pub mod source;
pub mod store;
pub mod target;

// Blobs and snapshots in, blobs and snapshots out.
pub mod repository;
pub mod view;

// One verb, one file.
pub mod ops;
