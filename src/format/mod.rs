//! Every persisted byte and every version of it. Nothing else knows an offset. `docs/format.md` holds the
//! same tables with their reasons; a change touches both and adds a fixture.

pub mod bytes;
pub mod config;
pub mod damage;
pub mod directory;
pub mod generation;
pub mod header;
pub mod index;
pub mod key_update;
pub mod keyring;
pub mod ledger;
pub mod list;
pub mod lock_record;
pub mod pack;
pub mod session;
pub mod slot;
pub mod snapshot;
pub mod tomb;

pub use error::{FormatError, Kind};

mod error;

/// The format version this code writes. It reads this and every earlier one.
pub const VERSION: u16 = 1;
