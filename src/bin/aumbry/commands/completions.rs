//! `aumbry completions`: what a shell needs to complete commands.

use clap::Args;
use clap::CommandFactory;
use clap_complete::Shell;

use crate::cli::Cli;
use crate::context::Context;
use crate::failure::Failure;
use crate::failure::Outcome;

/// Which shell.
#[derive(Args)]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

/// Prints the script.
pub fn run(args: &CompletionsArgs, context: &Context) -> Result<Outcome, Failure> {
    // Into memory first: clap's writer panics when nobody reads.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "aumbry", &mut script);
    context.output.bytes(&script)?;
    Ok(Outcome::Done)
}
