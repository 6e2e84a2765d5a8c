//! `aumbry dump`: one file, or a folder as a tar archive, to standard output.

use std::ffi::OsString;

use aumbry::ops::dump::dump;
use aumbry::repository::reader::BlobReader;
use aumbry::tree::path::TreePath;
use aumbry::view::Found;
use aumbry::view::find_path;
use clap::Args;

use crate::context::Context;
use crate::failure::Failure;
use crate::failure::Outcome;
use crate::second::MirrorsArgs;
use crate::selection::ChoiceArgs;
use crate::selection::named_with_path;

/// What is written.
#[derive(Args)]
pub struct DumpArgs {
    /// The file or folder: latest:/etc/fstab, 4f2a /etc, or /etc/fstab with --at
    #[arg(value_name = "SNAP[:PATH]", required = true, num_args = 1..=2)]
    what: Vec<OsString>,
    #[command(flatten)]
    choice: ChoiceArgs,
    #[command(flatten)]
    mirrors: MirrorsArgs,
}

/// Writes it.
pub fn run(args: &DumpArgs, context: &Context) -> Result<Outcome, Failure> {
    let named = named_with_path(&args.what)?;
    let repository = context.open_to_read(&args.mirrors)?;
    let monitor = context.monitor();
    let chosen = args.choice.choose(context, &repository, &named, &monitor)?;
    let path = named.path.unwrap_or_else(TreePath::root);
    let is_terminal = context.surroundings.stdout_is_terminal();
    if is_terminal {
        repository.refresh_index(&monitor)?;
    }
    monitor.finish();
    if is_terminal {
        let reader = BlobReader::new(&repository, 8 << 20);
        let is_folder = match find_path(&reader, &chosen.1, &path)? {
            Some(Found::Root(_)) => true,
            Some(Found::Entry(entry)) => entry.node.is_directory(),
            None => false,
        };
        if is_folder {
            return Err(Failure::usage(format!(
                "{path} is a folder, and a terminal reads no archives"
            ))
            .hint("add `| tar -x` to unpack it here, or `> archive.tar` to keep it"));
        }
    }
    let mut stdout = context.output.stream();
    let summary = dump(&repository, &chosen, &path, &mut *stdout, &monitor)?;
    let is_whole = summary.entries_failed == 0 && monitor.problems() == 0;
    Ok(if is_whole { Outcome::Done } else { Outcome::Incomplete })
}
