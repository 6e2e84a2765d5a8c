//! The command line: arguments to options, summaries to text or JSON, errors to exit codes.

mod allocator;
mod cli;
mod commands;
mod consent;
mod context;
mod credentials;
mod environment;
mod failure;
mod output;
mod patterns;
mod progress;
mod second;
mod selection;
mod store_settings;
mod warm_up;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::Cli;
use crate::context::Context;
use crate::environment::Surroundings;
use crate::output::Output;

fn main() -> ExitCode {
    allocator::set_up();
    let cli = Cli::parse();
    let output = Output::new(&cli.global);
    let context = Context::new(cli.global, Surroundings::find(), output);
    let result = cli.command.run(&context).and_then(|outcome| {
        context.output.finish()?;
        Ok(outcome)
    });
    match result {
        Ok(outcome) => outcome.into(),
        Err(failure) => {
            // What was written before the failure comes before the message about it.
            let _ = context.output.finish();
            failure.report(&context.output);
            failure.exit_code()
        }
    }
}
