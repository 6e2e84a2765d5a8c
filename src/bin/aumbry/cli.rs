//! What may be typed: the global flags and the commands.

use std::ffi::OsString;
use std::path::PathBuf;

use aumbry::units::bytes::parse_bytes;
use clap::ArgAction;
use clap::Args;
use clap::Parser;
use clap::Subcommand;

use crate::commands::backup::BackupArgs;
use crate::commands::check::CheckArgs;
use crate::commands::completions::CompletionsArgs;
use crate::commands::copy::CopyArgs;
use crate::commands::debug::DebugArgs;
use crate::commands::diff::DiffArgs;
use crate::commands::dump::DumpArgs;
use crate::commands::find::FindArgs;
use crate::commands::forget::ForgetArgs;
use crate::commands::init::InitArgs;
use crate::commands::key::KeyArgs;
use crate::commands::ls::LsArgs;
use crate::commands::mirror::MirrorArgs;
use crate::commands::prune::PruneArgs;
use crate::commands::rekey::RekeyArgs;
use crate::commands::repair::RepairArgs;
use crate::commands::restore::RestoreArgs;
use crate::commands::snapshots::SnapshotsArgs;
use crate::commands::stats::StatsArgs;
use crate::commands::undelete::UndeleteArgs;

const AFTER_HELP: &str = "\
Begin with `aumbry backup ~/Documents`: it makes a repository, asks for a passphrase and saves.
Get something back with `aumbry restore --at yesterday ~/Documents/letter.txt --target .`

Exit codes: 0 done; 1 failed, or damage was found; 2 wrong usage; 3 done, but for some files;
10 no repository; 11 somebody else was there first; 12 wrong passphrase; 130 interrupted.";

/// Keeps every version of your files: deduplicated, compressed, encrypted.
#[derive(Parser)]
#[command(name = "aumbry", version, after_help = AFTER_HELP, max_term_width = 100)]
#[command(disable_help_subcommand = true)]
pub struct Cli {
    /// What holds for every command.
    #[command(flatten)]
    pub global: GlobalArgs,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What holds for every command.
#[derive(Args)]
#[command(next_help_heading = "Global options")]
pub struct GlobalArgs {
    /// The repository [default: ~/.local/share/aumbry/repository] [env: AUMBRY_REPOSITORY,
    /// AUMBRY_REPOSITORY_FILE]
    #[arg(short, long, global = true, value_name = "PLACE")]
    pub repo: Option<OsString>,
    /// The hot store of a repository whose cold one is named by -r: what is read all the time is here, and the contents of
    /// files are there [env: AUMBRY_REPO_HOT]
    #[arg(long, global = true, value_name = "PLACE")]
    pub repo_hot: Option<OsString>,
    /// Read the passphrase from this file [env: AUMBRY_PASSWORD_FILE; AUMBRY_PASSWORD holds the
    /// passphrase itself]
    #[arg(short, long, global = true, value_name = "FILE")]
    pub password_file: Option<PathBuf>,
    /// Take the passphrase from what this shell command prints [env: AUMBRY_PASSWORD_COMMAND]
    #[arg(long, global = true, value_name = "COMMAND", conflicts_with = "password_file")]
    pub password_command: Option<OsString>,
    /// Open with the 24 words in this file instead of a passphrase [env: AUMBRY_RECOVERY_KEY, the
    /// words themselves]
    #[arg(long, global = true, value_name = "FILE")]
    #[arg(conflicts_with_all = ["password_file", "password_command"])]
    pub recovery_key_file: Option<PathBuf>,
    /// Keep the local cache here [default: ~/.cache/aumbry] [env: AUMBRY_CACHE_DIR]
    #[arg(long, global = true, value_name = "DIR")]
    pub cache_dir: Option<PathBuf>,
    /// Use no local cache
    #[arg(long, global = true, conflicts_with = "cache_dir")]
    pub no_cache: bool,
    /// What the store needs to know beside its place, as KEY=VALUE: region=eu-west-1. May be repeated
    #[arg(short, long = "option", global = true, value_name = "KEY=VALUE")]
    pub option: Vec<String>,
    /// The same for the hot store. May be repeated
    #[arg(long, global = true, value_name = "KEY=VALUE")]
    pub hot_option: Vec<String>,
    /// With a hot store: before contents of files are read, run this shell command. It gets the names of the objects to be
    /// thawed, a line each; or, with %path in it, it is run for each of them. AUMBRY_COLD_STORE says where they are
    #[arg(long, global = true, value_name = "COMMAND")]
    pub warm_up_command: Option<OsString>,
    /// Wait so long after that, until they are thawed: 5h
    #[arg(long, global = true, value_name = "TIME", requires = "warm_up_command")]
    pub warm_up_wait: Option<String>,
    /// Send no more than this in a second: 500K, 5M
    #[arg(long, global = true, value_name = "RATE", value_parser = parse_rate)]
    pub limit_upload: Option<u64>,
    /// Receive no more than this in a second
    #[arg(long, global = true, value_name = "RATE", value_parser = parse_rate)]
    pub limit_download: Option<u64>,
    /// So many requests to the store at once, from 1 to 256 [default: 8 over a network]
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub connections: Option<u16>,
    /// Speak JSON
    #[arg(long, global = true)]
    pub json: bool,
    /// Print only what was asked for, and errors
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Tell more; twice, still more
    #[arg(short, long, global = true, action = ArgAction::Count, conflicts_with = "quiet")]
    pub verbose: u8,
}

/// Bytes a second: `5M`, `5M/s`.
fn parse_rate(text: &str) -> Result<u64, String> {
    let bytes = text.strip_suffix("/s").unwrap_or(text);
    match parse_bytes(bytes).map_err(|error| error.to_string())? {
        0 => Err("at a rate of 0 nothing ever arrives".to_string()),
        rate => Ok(rate),
    }
}

/// The commands.
#[derive(Subcommand)]
pub enum Command {
    /// Make a repository
    Init(InitArgs),
    /// Save files and folders as a snapshot
    Backup(BackupArgs),
    /// List the snapshots
    #[command(visible_alias = "list")]
    Snapshots(SnapshotsArgs),
    /// List the files in a snapshot
    Ls(LsArgs),
    /// Find files in all snapshots, and their versions
    Find(FindArgs),
    /// Bring files back from a snapshot
    Restore(RestoreArgs),
    /// Tell what differs between two snapshots, or a snapshot and the disk
    Diff(DiffArgs),
    /// Write one file to standard output, or a folder as a tar archive
    Dump(DumpArgs),
    /// Forget snapshots that no rule keeps, or those that are named
    Forget(ForgetArgs),
    /// Bring forgotten snapshots back
    Undelete(UndeleteArgs),
    /// Copy snapshots into another repository
    Copy(CopyArgs),
    /// Copy the repository's objects to a second store, byte for byte
    Mirror(MirrorArgs),
    /// Give back the space of what no snapshot needs
    Prune(PruneArgs),
    /// Find out whether everything can be restored
    Check(CheckArgs),
    /// Mend what a check found damaged, out of what is left
    Repair(RepairArgs),
    /// Passphrases and recovery keys
    Key(KeyArgs),
    /// Seal what is new with new keys, and shut out what is lost
    Rekey(RekeyArgs),
    /// Tell how large things are
    Stats(StatsArgs),
    /// Look into a repository's objects
    Debug(DebugArgs),
    /// Print completions for a shell
    Completions(CompletionsArgs),
    /// Print the version
    Version,
}
