//! Other stores than the repository's own: where they are, and what opens them. The one place that knows.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use aumbry::repository::CreateOptions;
use aumbry::repository::Repository;
use aumbry::store::LocalMode;
use aumbry::store::Store;
use aumbry::store::Unopened;
use aumbry::store::location::Said;
use clap::Args;

use crate::context::Context;
use crate::context::Location;
use crate::credentials;
use crate::credentials::SecondSource;
use crate::failure::Failure;
use crate::output::printable;
use crate::store_settings::other_store_settings;
use crate::store_settings::settings_in_front;

/// A store beside the repository's own.
pub struct Other {
    /// Which of them it is, from 1.
    number: usize,
    /// As it was typed.
    place: OsString,
    location: Location,
}

/// Reads the places of other stores and their options: `KEY=VALUE` is for the first of them, `2:KEY=VALUE` for the second.
/// `flag` is what options follow.
pub fn read_others(
    context: &Context,
    places: &[OsString],
    options: &[String],
    flag: &str,
) -> Result<Vec<Other>, Failure> {
    let mut of_each: Vec<Vec<String>> = vec![Vec::new(); places.len()];
    for option in options {
        let (number, option) = match option.split_once(':') {
            Some((number, rest)) if number.bytes().all(|byte| byte.is_ascii_digit()) => {
                (number.parse().unwrap_or(0), rest)
            }
            _ => (1, option.as_str()),
        };
        match of_each.get_mut(usize::wrapping_sub(number, 1)) {
            Some(own) => own.push(option.to_string()),
            None => {
                let message = format!("{flag} {number}: there is no such place");
                return Err(
                    Failure::usage(message).hint("places are counted as they are named, from 1")
                );
            }
        }
    }
    let read = |(index, (place, options)): (usize, (&OsString, Vec<String>))| {
        let number = index + 1;
        let variables = settings_in_front(number);
        let said = Said { option: flag, variables: &variables };
        let location = context.parse_place_said(place, &options, &said)?;
        Ok(Other { number, place: place.clone(), location })
    };
    places.iter().zip(of_each).enumerate().map(read).collect()
}

impl Other {
    /// Where it is, for a person.
    pub fn shown(&self) -> String {
        printable(self.place.as_bytes())
    }

    /// The store there, which is not handed what opens those before it.
    pub fn open(
        &self,
        context: &Context,
        others: &[Other],
        mode: LocalMode,
    ) -> Result<Store, Failure> {
        let first = context.location()?;
        let before = others.iter().take(self.number - 1).map(|other| &other.location.store.place);
        let earlier: Vec<_> = [&first.store.place].into_iter().chain(before).collect();
        let location = &self.location.store;
        let settings =
            other_store_settings(location, self.number, &earlier, &context.surroundings)?;
        context.store_with(&self.location, mode, settings)
    }

    /// The same where there may be nothing yet. What is not there is made, or, in a dry run, taken for empty.
    pub fn open_or_make(&self, context: &Context, dry_run: bool) -> Result<Store, Failure> {
        match self.open(context, &[], LocalMode::Open) {
            Err(failure) if failure.is_no_repository() && dry_run => Ok(Store::memory()),
            Err(failure) if failure.is_no_repository() => {
                self.open(context, &[], LocalMode::Create)
            }
            opened => opened,
        }
    }
}

/// The repositories that are written to.
#[derive(Args)]
#[command(next_help_heading = "Where to")]
pub struct ToArgs {
    /// The repository to copy to (repeatable)
    #[arg(long, value_name = "PLACE", required = true)]
    to: Vec<OsString>,
    /// What its store needs to know, as -o is for the first one; 2:KEY=VALUE is for the second --to
    #[arg(long, value_name = "[N:]KEY=VALUE")]
    to_option: Vec<String>,
    /// Read its passphrase from this file [env: AUMBRY_TO_PASSWORD_FILE; AUMBRY_TO_PASSWORD holds the
    /// passphrase itself; AUMBRY_TO_2_PASSWORD that of the second --to, if it has another]
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
    /// Where they are, for a person.
    pub fn places(&self) -> Vec<String> {
        self.to.iter().map(|place| printable(place.as_bytes())).collect()
    }

    /// Opens them, each for itself: one that cannot be opened keeps none of the others. What is not there is made, if that
    /// is wanted, by these options.
    pub fn open(
        &self,
        context: &Context,
        missing: Option<&CreateOptions>,
    ) -> Result<Vec<Result<Repository, Failure>>, Failure> {
        let others = read_others(context, &self.to, &self.to_option, "--to-option")?;
        let open = |other: &Other| self.open_one(context, &others, other, missing);
        Ok(others.iter().map(open).collect())
    }

    fn open_one(
        &self,
        context: &Context,
        others: &[Other],
        other: &Other,
        missing: Option<&CreateOptions>,
    ) -> Result<Repository, Failure> {
        let found = other.open(context, others, LocalMode::Open).and_then(|store| {
            Repository::identify(&store).map(|_| store).map_err(Failure::opening)
        });
        let source = SecondSource {
            number: other.number,
            recovery_key_file: self.to_recovery_key_file.as_deref(),
            password_file: self.to_password_file.as_deref(),
            password_command: self.to_password_command.as_deref(),
        };
        match (found, missing) {
            (Ok(store), _) => {
                let question = format!("Passphrase for {}: ", other.shown());
                let given = credentials::find_second(context, source, &question)?;
                context.open_with(store, &given, Repository::open)
            }
            (Err(failure), Some(options)) if failure.is_no_repository() => {
                // Without a passphrase nothing is made, not even the folder.
                let question = format!("New passphrase for {}: ", other.shown());
                let given = credentials::find_or_choose_second(context, source, &question)?;
                let store = other.open(context, others, LocalMode::Create)?;
                let environment = context.library_environment();
                Ok(Repository::create(store, options, &given.credential, environment)?)
            }
            (Err(failure), _) => Err(match failure.is_no_repository() {
                true => failure.hint("--init makes it, so that it cuts files as this one does"),
                false => failure,
            }),
        }
    }
}

/// Other stores of the repository that is read.
#[derive(Args, Default)]
#[command(next_help_heading = "Where from")]
pub struct MirrorsArgs {
    /// Another store of the same repository, which `aumbry mirror` made: what the first lacks or has damaged is read from
    /// there (repeatable) [env: AUMBRY_MIRROR, AUMBRY_MIRROR_2, …]
    #[arg(long, value_name = "PLACE")]
    mirror: Vec<OsString>,
    /// What its store needs to know, as -o is for the first one; 2:KEY=VALUE is for the second --mirror
    #[arg(long, value_name = "[N:]KEY=VALUE")]
    mirror_option: Vec<String>,
}

impl MirrorsArgs {
    /// Those that were named, or that the environment names.
    fn named(&self, context: &Context) -> Result<Vec<OsString>, Failure> {
        let variable = |number: usize| match number {
            1 => context.surroundings.variable("AUMBRY_MIRROR"),
            number => context.surroundings.variable(&format!("AUMBRY_MIRROR_{number}")),
        };
        let named = match self.mirror.is_empty() {
            true => (1..).map_while(variable).collect(),
            false => self.mirror.clone(),
        };
        if !named.is_empty() && context.location()?.hot.is_some() {
            let message = "a repository with a hot store is not read from mirrors, too";
            return Err(Failure::usage(message).hint(
                "leave out --mirror and AUMBRY_MIRROR; or read the mirror alone: name it with -r, without \
                 --repo-hot and AUMBRY_REPO_HOT",
            ));
        }
        Ok(named)
    }

    /// The repository's own store, with these beside it. One that cannot be opened, be it the repository's own, is told and
    /// passed over, unless it is what was typed that is wrong.
    pub fn beside(&self, context: &Context, own: Result<Store, Failure>) -> Result<Store, Failure> {
        if self.named(context)?.is_empty() {
            return own;
        }
        let own = or_unopened(own, context.location()?.shown())?;
        Ok(Store::of_several(own, self.open(context)?))
    }

    /// The repository once more, to be read from these stores, too; `None`: none was named.
    pub fn reopen(
        &self,
        context: &Context,
        repository: &Repository,
    ) -> Result<Option<Repository>, Failure> {
        let mirrors = self.open(context)?;
        if mirrors.is_empty() {
            return Ok(None);
        }
        Ok(Some(repository.beside_mirrors(mirrors, context.library_environment())?))
    }

    fn open(&self, context: &Context) -> Result<Vec<Result<Store, Unopened>>, Failure> {
        let named = self.named(context)?;
        let others = read_others(context, &named, &self.mirror_option, "--mirror-option")?;
        let open = |other: &Other| {
            or_unopened(other.open(context, &others, LocalMode::Open), other.shown())
        };
        others.iter().map(open).collect()
    }
}

/// A store that could not be opened because of what is there, and not because of what was typed.
fn or_unopened(
    store: Result<Store, Failure>,
    location: String,
) -> Result<Result<Store, Unopened>, Failure> {
    match store {
        Ok(store) => Ok(Ok(store)),
        Err(failure) if failure.is_elsewhere() => {
            Ok(Err(Unopened { location, why: failure.message().to_string() }))
        }
        Err(failure) => Err(failure),
    }
}
