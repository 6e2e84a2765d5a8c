//! `aumbry init`: makes a repository.

use std::os::unix::ffi::OsStrExt;

use aumbry::repository::CreateOptions;
use aumbry::repository::Repository;
use clap::Args;
use serde_json::json;

use crate::context::Context;
use crate::context::Location;
use crate::failure::Failure;
use crate::failure::Outcome;
use crate::output::printable;

/// How it is made.
#[derive(Args)]
pub struct InitArgs {
    /// What to call the passphrase in `aumbry key list`
    #[arg(long, value_name = "TEXT", default_value = "")]
    label: String,
}

/// Makes it.
pub fn run(args: &InitArgs, context: &Context) -> Result<Outcome, Failure> {
    let location = context.location()?;
    let options = CreateOptions { label: args.label.clone(), ..CreateOptions::default() };
    let repository = context.create(&location, &options)?;
    let output = &context.output;
    if output.is_json() {
        output.json(&json!({
            "message_type": "initialized",
            "id": repository.id().to_string(),
            "repository": printable(location.path.as_os_str().as_bytes()),
        }))?;
        return Ok(Outcome::Done);
    }
    for line in birth_lines(context, &location, &repository) {
        output.say(&line)?;
    }
    Ok(Outcome::Done)
}

/// What a person should know of a new repository.
pub fn birth_lines(context: &Context, location: &Location, repository: &Repository) -> Vec<String> {
    let style = context.output.style();
    let place = printable(location.path.as_os_str().as_bytes());
    let flag = if location.is_default { String::new() } else { format!("-r {place} ") };
    vec![
        format!("made repository {} in {place}", style.bold(&repository.id().short())),
        "Without the passphrase nobody can read it, not even you. Keep a second way in, on paper:"
            .to_string(),
        format!("  aumbry {flag}key recovery"),
    ]
}
