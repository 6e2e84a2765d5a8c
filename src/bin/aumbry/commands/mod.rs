//! The commands, one file each: `Args` in, an outcome or a failure out.

pub mod backup;
pub mod check;
pub mod completions;
pub mod copy;
pub mod debug;
pub mod diff;
pub mod dump;
pub mod find;
pub mod forget;
pub mod init;
pub mod key;
pub mod ls;
pub mod mirror;
pub mod prune;
pub mod rekey;
pub mod repair;
pub mod restore;
pub mod snapshots;
pub mod stats;
pub mod undelete;
pub mod version;

use crate::cli::Command;
use crate::context::Context;
use crate::failure::Failure;
use crate::failure::Outcome;

impl Command {
    /// Does it.
    pub fn run(&self, context: &Context) -> Result<Outcome, Failure> {
        match self {
            Command::Init(args) => init::run(args, context),
            Command::Backup(args) => backup::run(args, context),
            Command::Snapshots(args) => snapshots::run(args, context),
            Command::Ls(args) => ls::run(args, context),
            Command::Copy(args) => copy::run(args, context),
            Command::Mirror(args) => mirror::run(args, context),
            Command::Restore(args) => restore::run(args, context),
            Command::Find(args) => find::run(args, context),
            Command::Diff(args) => diff::run(args, context),
            Command::Dump(args) => dump::run(args, context),
            Command::Forget(args) => forget::run(args, context),
            Command::Undelete(args) => undelete::run(args, context),
            Command::Prune(args) => prune::run(args, context),
            Command::Check(args) => check::run(args, context),
            Command::Repair(args) => repair::run(args, context),
            Command::Key(args) => key::run(args, context),
            Command::Rekey(args) => rekey::run(args, context),
            Command::Stats(args) => stats::run(args, context),
            Command::Debug(args) => debug::run(args, context),
            Command::Completions(args) => completions::run(args, context),
            Command::Version => version::run(context),
        }
    }
}
