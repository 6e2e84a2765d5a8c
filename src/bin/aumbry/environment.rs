//! What the machine and its user tell a command: variables, folders, names, the zone, the terminal.

use std::ffi::OsString;
use std::io;
use std::io::IsTerminal;
use std::path::Path;
use std::path::PathBuf;

use jiff::tz::TimeZone;

use crate::failure::Failure;

/// Where and as whom a command runs.
pub struct Surroundings {
    /// The zone that local times are in.
    pub zone: TimeZone,
    /// The host's name.
    pub host: String,
    /// The user's name.
    pub user: String,
}

impl Surroundings {
    /// Asks the machine.
    pub fn find() -> Self {
        Surroundings { zone: TimeZone::system(), host: host_name(), user: user_name() }
    }

    /// A variable that is set to something.
    pub fn variable(&self, name: &str) -> Option<OsString> {
        std::env::var_os(name).filter(|value| !value.is_empty())
    }

    /// A variable that is set to something, which must be text.
    pub fn text_variable(&self, name: &str) -> Result<Option<String>, Failure> {
        match self.variable(name).map(OsString::into_string) {
            None => Ok(None),
            Some(Ok(text)) => Ok(Some(text)),
            Some(Err(_)) => Err(Failure::failed(format!("{name} is not UTF-8 text"))),
        }
    }

    /// The names of the variables that begin so.
    pub fn variables_with(&self, prefix: &str) -> Vec<String> {
        let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
        names.filter(|name| name.len() > prefix.len() && name.starts_with(prefix)).collect()
    }

    /// The folder for what must be kept.
    pub fn data_folder(&self) -> Result<PathBuf, Failure> {
        self.user_folder("XDG_DATA_HOME", ".local/share").ok_or_else(|| {
            Failure::failed("there is no home folder to keep a repository in")
                .hint("name a place with -r or AUMBRY_REPOSITORY")
        })
    }

    /// The folder for what may be lost; none without a home.
    pub fn cache_folder(&self) -> Option<PathBuf> {
        self.user_folder("XDG_CACHE_HOME", ".cache")
    }

    /// As the XDG base directory specification has it: a path that is not absolute does not count.
    fn user_folder(&self, variable: &str, in_home: &str) -> Option<PathBuf> {
        let named = self.variable(variable).map(PathBuf::from);
        let folder = named.filter(|path| path.is_absolute()).or_else(|| {
            let home = std::env::home_dir().filter(|home| home.is_absolute())?;
            Some(home.join(in_home))
        });
        folder.map(|folder| folder.join("aumbry"))
    }

    /// A path as it was typed, from the root.
    pub fn absolute(&self, path: impl Into<PathBuf>) -> Result<PathBuf, Failure> {
        let path = path.into();
        std::path::absolute(&path)
            .map_err(|error| Failure::file(path.as_os_str().as_encoded_bytes(), &error))
    }

    /// Whether there is a person to ask: one who sees the question and can type.
    pub fn can_ask(&self) -> bool {
        // Standard input may be what is backed up; the question goes to the terminal itself.
        (io::stderr().is_terminal() || io::stdin().is_terminal())
            && std::fs::File::open("/dev/tty").is_ok()
    }

    /// Whether standard output is a terminal.
    pub fn stdout_is_terminal(&self) -> bool {
        io::stdout().is_terminal()
    }
}

/// The path without links, as far as it exists; `None` when the system does not tell.
pub fn real_path(path: &Path) -> Option<PathBuf> {
    let path = std::path::absolute(path).ok()?;
    let existing = path.ancestors().find(|ancestor| ancestor.exists())?;
    let rest = path.strip_prefix(existing).ok()?;
    Some(existing.canonicalize().ok()?.join(rest))
}

fn host_name() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    if name.is_empty() { "localhost".to_string() } else { name }
}

/// The name of the user whose rights this runs with: after `sudo`, that is not the one in `USER`.
fn user_name() -> String {
    let uid = rustix::process::geteuid().as_raw();
    let list = std::fs::read("/etc/passwd").unwrap_or_default();
    let listed = String::from_utf8_lossy(&list).lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, id) = (fields.next()?, fields.nth(1)?);
        (id.parse() == Ok(uid)).then(|| name.to_string())
    });
    let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    listed
        .or_else(|| variable("USER"))
        .or_else(|| variable("LOGNAME"))
        .unwrap_or_else(|| uid.to_string())
}
