//! A second repository: where it is, and what opens it. The one place that knows.

use std::ffi::OsStr;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use aumbry::repository::CreateOptions;
use aumbry::repository::Repository;
use aumbry::store::LocalMode;
use aumbry::store::Store;
use clap::Args;

use crate::context::Context;
use crate::context::Location;
use crate::credentials;
use crate::credentials::SecondSource;
use crate::failure::Failure;
use crate::output::printable;
use crate::store_settings::second_store_settings;

/// The repository that is written to.
#[derive(Args)]
#[command(next_help_heading = "Where to")]
pub struct ToArgs {
    /// The repository to copy to
    #[arg(long, value_name = "PLACE")]
    to: OsString,
    /// What its store needs to know, as -o is for the first one
    #[arg(long, value_name = "KEY=VALUE")]
    to_option: Vec<String>,
    /// Read its passphrase from this file [env: AUMBRY_TO_PASSWORD_FILE; AUMBRY_TO_PASSWORD holds the
    /// passphrase itself]
    #[arg(long, value_name = "FILE")]
    to_password_file: Option<PathBuf>,
    /// Take its passphrase from what this shell command prints [env: AUMBRY_TO_PASSWORD_COMMAND]
    #[arg(long, value_name = "COMMAND", conflicts_with = "to_password_file")]
    to_password_command: Option<OsString>,
    /// Open it with the 24 words in this file instead of a passphrase [env: AUMBRY_TO_RECOVERY_KEY, the
    /// words themselves]
    #[arg(long, value_name = "FILE")]
    #[arg(conflicts_with_all = ["to_password_file", "to_password_command"])]
    to_recovery_key_file: Option<PathBuf>,
}

impl ToArgs {
    /// Where it is, or will be.
    pub fn location(&self, context: &Context) -> Result<Location, Failure> {
        context.parse_place_with(&self.to, &self.to_option)
    }

    /// Where it is, for a person.
    pub fn place(&self) -> String {
        printable(self.to.as_bytes())
    }

    /// Opens it. What is not there is made, if that is wanted, by these options.
    pub fn open(
        &self,
        context: &Context,
        missing: Option<&CreateOptions>,
    ) -> Result<Repository, Failure> {
        let location = self.location(context)?;
        let found = store_at(context, &location, LocalMode::Open).and_then(|store| {
            Repository::identify(&store).map(|_| store).map_err(Failure::opening)
        });
        match (found, missing) {
            (Ok(store), _) => {
                let question = format!("Passphrase for {}: ", self.place());
                let given = credentials::find_second(context, self.source(), &question)?;
                context.open_with(store, &given, Repository::open)
            }
            (Err(failure), Some(options)) if failure.is_no_repository() => {
                // Without a passphrase nothing is made, not even the folder.
                let question = format!("New passphrase for {}: ", self.place());
                let given = credentials::find_or_choose_second(context, self.source(), &question)?;
                let store = store_at(context, &location, LocalMode::Create)?;
                let environment = context.library_environment();
                Ok(Repository::create(store, options, &given.credential, environment)?)
            }
            (Err(failure), _) => Err(match failure.is_no_repository() {
                true => failure.hint("--init makes it, so that it cuts files as this one does"),
                false => failure,
            }),
        }
    }

    fn source(&self) -> SecondSource<'_> {
        SecondSource {
            recovery_key_file: self.to_recovery_key_file.as_deref(),
            password_file: self.to_password_file.as_deref(),
            password_command: self.to_password_command.as_deref(),
        }
    }
}

/// The store at the second place, which is not handed what opens the first.
fn store_at(context: &Context, location: &Location, mode: LocalMode) -> Result<Store, Failure> {
    let first = context.location()?;
    let settings =
        second_store_settings(&location.store, &first.store.place, &context.surroundings)?;
    context.store_with(location, mode, settings)
}

/// The store at a place, which may be empty. What is not there is made, or, in a dry run, taken for empty.
pub fn open_store(
    context: &Context,
    place: &OsStr,
    options: &[String],
    dry_run: bool,
) -> Result<Store, Failure> {
    let location = context.parse_place_with(place, options)?;
    match store_at(context, &location, LocalMode::Open) {
        Err(failure) if failure.is_no_repository() && dry_run => Ok(Store::memory()),
        Err(failure) if failure.is_no_repository() => {
            store_at(context, &location, LocalMode::Create)
        }
        opened => opened,
    }
}
