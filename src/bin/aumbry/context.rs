//! What every command has at hand: the flags, the machine, the output, and the way to the repository.

use std::cell::OnceCell;
use std::ffi::OsStr;
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
use aumbry::repository::cold;
use aumbry::repository::error::Kind;
use aumbry::repository::error::RepositoryError;
use aumbry::repository::keys::Credential;
use aumbry::repository::snapshots::Snapshots;
use aumbry::store;
use aumbry::store::Access;
use aumbry::store::Cold;
use aumbry::store::LocalMode;
use aumbry::store::Store;
use aumbry::store::location::Place;
use aumbry::store::location::Said;
use aumbry::units::Timestamp;
use aumbry::units::time::format_local;
use aumbry::units::time::format_rfc3339;
use aumbry::units::time::parse_moment;
use aumbry::units::time::parse_start;
use indicatif::ProgressBar;

use crate::cli::GlobalArgs;
use crate::credentials;
use crate::credentials::Given;
use crate::environment::Surroundings;
use crate::failure::Failure;
use crate::output::Output;
use crate::output::printable;
use crate::progress::ProgressMonitor;
use crate::progress::hidden_bar;
use crate::progress::stop_when_asked;
use crate::second::MirrorsArgs;
use crate::store_settings::StoreSettings;
use crate::store_settings::hot_store_settings;
use crate::store_settings::store_settings;
use crate::warm_up;

/// Bytes that a verb may use for everything together.
pub const MEMORY_BUDGET: u64 = 256 << 20;

/// How often a person may mistype a passphrase.
const ATTEMPTS: usize = 3;

/// What OpenDAL calls the class in which objects are stored.
const CLASS: &str = "default_storage_class";

/// A way to open a repository.
type Open = fn(Store, &Credential, repository::Environment) -> Result<Repository, RepositoryError>;

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
    bar: ProgressBar,
}

/// Where the repository is, or will be.
pub struct Location {
    /// The store; of two, the cold one.
    pub store: store::location::Location,
    /// The hot store, if there are two.
    pub hot: Option<store::location::Location>,
    /// Nobody named it.
    pub is_default: bool,
}

impl Location {
    /// For a person.
    pub fn shown(&self) -> String {
        shown(&self.store)
    }

    /// The hot store, for a person.
    pub fn shown_hot(&self) -> Option<String> {
        self.hot.as_ref().map(shown)
    }

    /// The folders of this machine that it is in.
    pub fn folders(&self) -> impl Iterator<Item = &Path> {
        let hot = self.hot.as_ref().and_then(|hot| hot.path());
        self.store.path().into_iter().chain(hot).map(PathBuf::as_path)
    }
}

fn shown(place: &store::location::Location) -> String {
    match place.path() {
        Some(path) => printable(path.as_os_str().as_bytes()),
        None => printable(place.to_string().as_bytes()),
    }
}

impl Context {
    /// The context of a command.
    pub fn new(global: GlobalArgs, surroundings: Surroundings, output: Output) -> Self {
        let clock = Arc::new(SystemClock::new());
        let bar = hidden_bar();
        Context { global, surroundings, output, clock, now: OnceCell::new(), bar }
    }

    /// The moment this command began.
    pub fn now(&self) -> Timestamp {
        *self.now.get_or_init(|| self.clock.now())
    }

    /// Reads a moment as a person types it.
    pub fn moment(&self, text: &str) -> Result<Timestamp, Failure> {
        Ok(parse_moment(text, self.now(), &self.surroundings.zone)?)
    }

    /// Reads a moment from which on something is meant: of a day its beginning.
    pub fn start(&self, text: &str) -> Result<Timestamp, Failure> {
        Ok(parse_start(text, self.now(), &self.surroundings.zone)?)
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
        ProgressMonitor::new(&self.output, self.bar.clone())
    }

    /// Where the repository is, or will be.
    pub fn location(&self) -> Result<Location, Failure> {
        let location = self.cold_or_only()?;
        let named = self.global.repo_hot.clone();
        let hot = named.or_else(|| self.surroundings.variable("AUMBRY_REPO_HOT"));
        let Some(hot) = hot else {
            if self.global.warm_up_command.is_some() {
                return Err(Failure::usage(
                    "--warm-up-command is for a repository with a hot store",
                )
                .hint("--repo-hot PLACE, or AUMBRY_REPO_HOT, names it"));
            }
            return Ok(location);
        };
        if location.is_default {
            return Err(Failure::usage("a hot store alone is no repository")
                .hint("name the cold store with -r or AUMBRY_REPOSITORY"));
        }
        let said = Said { option: "--hot-option", variables: "AUMBRY_HOT_STORE_" };
        let hot = self.parse_place_said(&hot, &self.global.hot_option, &said)?.store;
        if hot.overlaps(&location.store) {
            return Err(Failure::usage(
                "the hot store and the cold one are the same place, or one is in the other",
            )
            .hint("put them beside each other; a repository in one store is named with -r alone"));
        }
        Ok(Location { hot: Some(hot), ..location })
    }

    fn cold_or_only(&self) -> Result<Location, Failure> {
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
        let store = store::location::Location::local(path);
        Ok(Location { store, hot: None, is_default: true })
    }

    fn parse_place(&self, place: &OsStr) -> Result<Location, Failure> {
        self.parse_place_said(place, &self.global.option, &Said::REPOSITORY)
    }

    /// Reads a place as a person types it, with what is said about it.
    pub fn parse_place_said(
        &self,
        place: &OsStr,
        options: &[String],
        said: &Said<'_>,
    ) -> Result<Location, Failure> {
        let parsed = store::location::Location::parse_said(place, options, said);
        let mut store = parsed.map_err(|error| {
            Failure::usage(printable(error.message.as_bytes())).hint(error.hint)
        })?;
        if let Place::Local(path) = &store.place {
            store.place = Place::Local(self.surroundings.absolute(path)?);
        }
        Ok(Location { store, hot: None, is_default: false })
    }

    /// The store at a place, with what the environment says about the repository's. Where there are two, both as one.
    pub fn store(&self, location: &Location, mode: LocalMode) -> Result<Store, Failure> {
        self.store_in(location, mode, mode)
    }

    /// The same, with what is to be done about the folder of a hot store.
    pub fn store_in(
        &self,
        location: &Location,
        mode: LocalMode,
        hot_mode: LocalMode,
    ) -> Result<Store, Failure> {
        let settings = store_settings(&location.store.place, &self.surroundings)?;
        let Some(hot) = &location.hot else { return self.store_with(location, mode, settings) };
        let hot_settings = hot_store_settings(hot, &location.store, &self.surroundings)?;
        let hot = Location { store: hot.clone(), hot: None, is_default: false };
        let hot = self.store_with(&hot, hot_mode, hot_settings)?;
        let packs = self.store_with(location, mode, settings.clone())?;
        // The class is for what is read seldom.
        let (mut settings, mut copies) = (settings, location.store.clone());
        let classes = [settings.remove(CLASS).is_some(), copies.options.remove(CLASS).is_some()];
        let copies = match classes.contains(&true) {
            true => {
                let place = Location { store: copies, hot: None, is_default: false };
                self.store_with(&place, mode, settings)?
            }
            false => packs.clone(),
        };
        let thaw = warm_up::thaw(self, packs.location())?;
        Ok(cold::join(hot, Cold { packs, copies, thaw }))
    }

    /// The store at a place, with these settings.
    pub fn store_with(
        &self,
        location: &Location,
        mode: LocalMode,
        settings: StoreSettings,
    ) -> Result<Store, Failure> {
        let access = Access {
            settings,
            upload_limit: self.global.limit_upload,
            download_limit: self.global.limit_download,
            connections: self.global.connections.map(usize::from),
            clock: self.clock.clone(),
            monitor: Arc::new(self.monitor()),
            ..Access::default()
        };
        Store::open(&location.store, &access, mode).map_err(|error| match error.kind {
            store::Kind::NotFound => Failure::opening(error.into()),
            _ => error.into(),
        })
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
        self.open_by(&location, Repository::open)
    }

    /// The same for a backup, which asks nothing of a place that is known.
    pub fn open_to_write(&self, location: &Location) -> Result<Repository, Failure> {
        self.open_by(location, Repository::open_to_write)
    }

    /// Opens the repository to read it, from its mirrors, too, if there are any.
    pub fn open_to_read(&self, mirrors: &MirrorsArgs) -> Result<Repository, Failure> {
        let location = self.location()?;
        let store = mirrors.beside(self, self.find_store(&location))?;
        self.open_store_by(store, &location, Repository::open)
    }

    fn open_by(&self, location: &Location, open: Open) -> Result<Repository, Failure> {
        self.open_store_by(self.find_store(location)?, location, open)
    }

    fn open_store_by(
        &self,
        store: Store,
        location: &Location,
        open: Open,
    ) -> Result<Repository, Failure> {
        // That there is a repository at all is found out before anybody is asked for a passphrase, and opening it finds
        // that out as well.
        let at_hand = credentials::at_hand(self);
        if !matches!(at_hand, Some(Ok(_)))
            && !Repository::is_known_place(&store, &self.library_environment())
        {
            Repository::identify(&store).map_err(Failure::opening)?;
        }
        let given = match at_hand {
            Some(given) => Some(given?),
            None => credentials::find(self)?,
        };
        let repository = match given {
            Some(given) => self.open_with(store, &given, open)?,
            None => self.open_asking(&store, &location.shown(), open)?,
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
        let question = format!("Passphrase for {}: ", location.shown());
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

    fn find_store(&self, location: &Location) -> Result<Store, Failure> {
        self.store(location, LocalMode::Open).map_err(|failure| match location.is_default {
            true if failure.is_no_repository() => failure
                .hint("`aumbry backup` makes it; -r or AUMBRY_REPOSITORY names another place"),
            _ => failure,
        })
    }

    /// Opens the repository in a store with what was given.
    pub fn open_with(
        &self,
        store: Store,
        given: &Given,
        open: Open,
    ) -> Result<Repository, Failure> {
        open(store, &given.credential, self.library_environment()).map_err(|error| {
            if error.kind == Kind::WrongKey {
                Failure::from(error).hint(format!("it was taken from {}", given.origin))
            } else {
                Failure::opening(error)
            }
        })
    }

    fn open_asking(&self, store: &Store, place: &str, open: Open) -> Result<Repository, Failure> {
        let question = format!("Passphrase for {place}: ");
        let mut attempt = 1;
        loop {
            let credential = credentials::ask(self, &question)?;
            let environment = self.library_environment();
            match open(store.clone(), &credential, environment) {
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
        // One connection is enough: a directory is opened again, because only now it may be made.
        let found = match self.store(location, LocalMode::Open) {
            Err(failure) if location.folders().next().is_none() => return Err(failure),
            found => found,
        };
        if let Ok(store) = &found {
            match Repository::identify(store) {
                Ok(_) => {
                    let place = location.shown();
                    return Err(Failure::failed(format!("{place} is a repository already"))
                        .hint("`aumbry snapshots` shows what is in it"));
                }
                // Who cannot get there is not asked for a passphrase first.
                Err(error) if !store.is_disk() && error.kind != Kind::NotFound => {
                    return Err(error.into());
                }
                // Half of a repository that is in two stores.
                Err(error) if error.kind == Kind::Invalid => return Err(error.into()),
                Err(_) => {}
            }
        }
        // Without a passphrase nothing is made, not even the folder.
        let given = credentials::find_or_choose(self)?;
        let store = match found {
            Ok(store) if location.folders().next().is_none() => store,
            _ => self.store(location, LocalMode::Create)?,
        };
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
