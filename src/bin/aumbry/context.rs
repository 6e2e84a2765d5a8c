//! What every command has at hand: the flags, the machine, the output, and the way to the repository.

use std::cell::OnceCell;
use std::ffi::OsStr;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use aumbry::clock::Clock;
use aumbry::clock::SystemClock;
use aumbry::repository;
use aumbry::repository::CreateOptions;
use aumbry::repository::Repository;
use aumbry::repository::chance::Chance;
use aumbry::repository::error::Kind;
use aumbry::repository::error::RepositoryError;
use aumbry::repository::snapshots::Snapshots;
use aumbry::store::LocalMode;
use aumbry::store::Store;
use aumbry::units::Timestamp;
use aumbry::units::time::format_local;
use aumbry::units::time::format_rfc3339;
use aumbry::units::time::parse_moment;

use crate::cli::GlobalArgs;
use crate::credentials;
use crate::credentials::Given;
use crate::environment::Surroundings;
use crate::failure::Failure;
use crate::output::Output;
use crate::output::printable;
use crate::progress::ProgressMonitor;
use crate::progress::stop_when_asked;

/// Bytes that a verb may use for everything together.
pub const MEMORY_BUDGET: u64 = 256 << 20;

/// How often a person may mistype a passphrase.
const ATTEMPTS: usize = 3;

/// Names of stores that are not built yet, as restic and OpenDAL write them.
const REMOTE_SCHEMES: [&str; 12] = [
    "s3", "sftp", "rest", "b2", "azure", "azblob", "gs", "gcs", "rclone", "swift", "webdav", "http",
];

/// What every command has at hand.
pub struct Context {
    /// The global flags.
    pub global: GlobalArgs,
    /// The machine and its user.
    pub surroundings: Surroundings,
    /// Where words go.
    pub output: Output,
    /// What time it is.
    pub clock: Arc<SystemClock>,
    now: OnceCell<Timestamp>,
}

/// Where the repository is, or will be.
pub struct Location {
    /// Its folder.
    pub path: PathBuf,
    /// Nobody named it.
    pub is_default: bool,
}

impl Context {
    /// The context of a command.
    pub fn new(global: GlobalArgs, surroundings: Surroundings, output: Output) -> Self {
        let clock = Arc::new(SystemClock::new());
        Context { global, surroundings, output, clock, now: OnceCell::new() }
    }

    /// The moment this command began.
    pub fn now(&self) -> Timestamp {
        *self.now.get_or_init(|| self.clock.now())
    }

    /// Reads a moment as a person types it.
    pub fn moment(&self, text: &str) -> Result<Timestamp, Failure> {
        Ok(parse_moment(text, self.now(), &self.surroundings.zone)?)
    }

    /// A moment for a person.
    pub fn local(&self, moment: Timestamp) -> String {
        format_local(moment, &self.surroundings.zone)
    }

    /// A moment for a program.
    pub fn rfc3339(&self, moment: Timestamp) -> String {
        format_rfc3339(moment, &self.surroundings.zone)
    }

    /// What a verb talks to while it works.
    pub fn monitor(&self) -> ProgressMonitor {
        ProgressMonitor::new(&self.output)
    }

    /// Where the repository is, or will be.
    pub fn location(&self) -> Result<Location, Failure> {
        if let Some(place) = &self.global.repo {
            return self.parse_place(place);
        }
        if let Some(place) = self.surroundings.variable("AUMBRY_REPOSITORY") {
            return self.parse_place(&place);
        }
        if let Some(file) = self.surroundings.variable("AUMBRY_REPOSITORY_FILE") {
            let text =
                std::fs::read(&file).map_err(|error| Failure::file(file.as_bytes(), &error))?;
            let place = OsStr::from_bytes(text.trim_ascii());
            return self.parse_place(place);
        }
        let path = self.surroundings.data_folder()?.join("repository");
        Ok(Location { path, is_default: true })
    }

    /// Reads a place as a person types it.
    pub fn parse_place(&self, place: &OsStr) -> Result<Location, Failure> {
        let bytes = place.as_bytes();
        let colon = bytes.iter().position(|byte| *byte == b':');
        let scheme = colon.and_then(|at| std::str::from_utf8(&bytes[..at]).ok());
        let after = |length: usize| OsString::from(OsStr::from_bytes(&bytes[length..]));
        let path = match scheme {
            Some("file") if bytes.starts_with(b"file:///") => after(7),
            Some("local") => after(6),
            Some(scheme)
                if REMOTE_SCHEMES.contains(&scheme)
                    || bytes[scheme.len() + 1..].starts_with(b"//") =>
            {
                return Err(Failure::failed(format!(
                    "{}: a repository in {scheme} storage is not possible yet",
                    printable(bytes)
                ))
                .hint("name a folder; one whose name has a colon, as ./name"));
            }
            _ => place.to_os_string(),
        };
        if path.is_empty() {
            return Err(Failure::usage("the repository's place is empty"));
        }
        Ok(Location { path: self.surroundings.absolute(path)?, is_default: false })
    }

    /// The folder for local caches, if there is to be one.
    pub fn cache_folder(&self) -> Option<PathBuf> {
        if self.global.no_cache {
            return None;
        }
        let named = self.global.cache_dir.clone();
        named
            .or_else(|| self.surroundings.variable("AUMBRY_CACHE_DIR").map(PathBuf::from))
            .or_else(|| self.surroundings.cache_folder())
    }

    /// Opens the repository.
    pub fn open(&self) -> Result<Repository, Failure> {
        let location = self.location()?;
        self.open_at(&location)
    }

    /// Opens the repository at a place.
    pub fn open_at(&self, location: &Location) -> Result<Repository, Failure> {
        let store = self.find_store(location)?;
        // That there is a repository at all is found out before anybody is asked for a passphrase.
        Repository::identify(&store).map_err(Failure::opening)?;
        let repository = match credentials::find(self)? {
            Some(given) => self.open_with(store, &given)?,
            None => self.open_asking(&store, &location.path)?,
        };
        stop_when_asked();
        Ok(repository)
    }

    /// Opens the repository, also when its config is lost or damaged.
    pub fn open_for_repair(&self) -> Result<Repository, Failure> {
        let location = self.location()?;
        let store = self.find_store(&location)?;
        let is_lost = |error: &RepositoryError| {
            error.item == "config" && matches!(error.kind, Kind::Corrupt | Kind::WrongKey)
        };
        match Repository::identify(&store) {
            Err(error) if !is_lost(&error) => return Err(Failure::opening(error)),
            _ => {}
        }
        let question =
            format!("Passphrase for {}: ", printable(location.path.as_os_str().as_bytes()));
        let given = credentials::find(self)?;
        let credential = match &given {
            Some(given) => &given.credential,
            None => &credentials::ask(self, &question)?,
        };
        let opened = Repository::open(store.clone(), credential, self.library_environment());
        let repository = match opened {
            Ok(repository) => repository,
            // A damaged id makes the right key look wrong.
            Err(error) if is_lost(&error) || error.kind == Kind::WrongKey => {
                let environment = self.library_environment();
                Repository::open_without_config(store, credential, environment)
                    .map_err(Failure::opening)?
            }
            Err(error) => return Err(Failure::opening(error)),
        };
        stop_when_asked();
        Ok(repository)
    }

    /// The store at a place.
    pub fn find_store(&self, location: &Location) -> Result<Store, Failure> {
        Store::local(&location.path, LocalMode::Open).map_err(RepositoryError::from).map_err(
            |error| match error.kind {
                Kind::NotFound if location.is_default => Failure::no_repository(&error.item)
                    .hint("`aumbry backup` makes it; -r or AUMBRY_REPOSITORY names another place"),
                _ => Failure::opening(error),
            },
        )
    }

    /// Opens the repository in a store with what was given.
    pub fn open_with(&self, store: Store, given: &Given) -> Result<Repository, Failure> {
        Repository::open(store, &given.credential, self.library_environment()).map_err(|error| {
            if error.kind == Kind::WrongKey {
                Failure::from(error).hint(format!("it was taken from {}", given.origin))
            } else {
                Failure::opening(error)
            }
        })
    }

    fn open_asking(&self, store: &Store, path: &Path) -> Result<Repository, Failure> {
        let question = format!("Passphrase for {}: ", printable(path.as_os_str().as_bytes()));
        let mut attempt = 1;
        loop {
            let credential = credentials::ask(self, &question)?;
            let environment = self.library_environment();
            match Repository::open(store.clone(), &credential, environment) {
                Err(error) if error.kind == Kind::WrongKey && attempt < ATTEMPTS => {
                    self.output.error_line("That is not it. Once more.");
                    attempt += 1;
                }
                Err(error) if error.kind == Kind::WrongKey => {
                    return Err(Failure::from(error)
                        .hint("a recovery key opens it, too: --recovery-key-file FILE"));
                }
                result => return result.map_err(Failure::opening),
            }
        }
    }

    /// Makes a repository.
    pub fn create(
        &self,
        location: &Location,
        options: &CreateOptions,
    ) -> Result<Repository, Failure> {
        if let Ok(store) = Store::local(&location.path, LocalMode::Open)
            && Repository::identify(&store).is_ok()
        {
            let place = printable(location.path.as_os_str().as_bytes());
            return Err(Failure::failed(format!("{place} is a repository already"))
                .hint("`aumbry snapshots` shows what is in it"));
        }
        // Without a passphrase nothing is made, not even the folder.
        let given = credentials::find_or_choose(self)?;
        let store = Store::local(&location.path, LocalMode::Create)?;
        let repository =
            Repository::create(store, options, &given.credential, self.library_environment())?;
        stop_when_asked();
        Ok(repository)
    }

    /// What the library needs of this machine.
    pub fn library_environment(&self) -> repository::Environment {
        repository::Environment {
            clock: self.clock.clone(),
            chance: Chance::System,
            cache_folder: self.cache_folder(),
            host: self.surroundings.host.clone(),
            user: self.surroundings.user.clone(),
        }
    }

    /// The repository's snapshots; those that cannot be read are told as problems.
    pub fn snapshots(
        &self,
        repository: &Repository,
        monitor: &ProgressMonitor,
    ) -> Result<Snapshots, Failure> {
        let snapshots = repository.snapshots(monitor)?;
        for (id, error) in &snapshots.damaged {
            monitor.tell_problem(&format!("snapshot {}", id.short()), "read", &error.message);
        }
        Ok(snapshots)
    }
}
