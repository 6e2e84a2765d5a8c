//! A place, as a person names it: parsed, checked and printed; nothing is reached or opened here.
//!
//! A location has no secret in it, so that it can be shown, logged and remembered. What looks like one is refused,
//! and is not repeated in the refusal.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Where a store is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    /// The place itself.
    pub place: Place,
    /// What was said beside it (`-o region=eu-west-1`), by the names that OpenDAL has for it.
    pub options: BTreeMap<String, String>,
}

/// A place in a sort of store. Prefixes neither begin nor end with a slash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A directory of this machine.
    Local(PathBuf),
    /// Memory of this process: for tests.
    Memory,
    /// A bucket that speaks S3; without an endpoint, AWS's.
    S3 {
        /// Scheme, host and port.
        endpoint: Option<String>,
        /// The bucket.
        bucket: String,
        /// What every name begins with; empty: nothing.
        prefix: String,
    },
    /// A container of Azure Blob Storage.
    Azblob {
        /// Scheme, host and port of an emulator or of another cloud, and the account's name there.
        endpoint: Option<(String, String)>,
        /// The container.
        container: String,
        /// What every name begins with.
        prefix: String,
    },
    /// A bucket of Google Cloud Storage.
    Gcs {
        /// Scheme, host and port of something that speaks its language.
        endpoint: Option<String>,
        /// The bucket.
        bucket: String,
        /// What every name begins with.
        prefix: String,
    },
    /// A bucket of Backblaze B2, by its own interface.
    B2 {
        /// Scheme, host and port of something that speaks its language.
        endpoint: Option<String>,
        /// The bucket.
        bucket: String,
        /// What every name begins with.
        prefix: String,
    },
    /// A folder of a WebDAV server.
    Webdav {
        /// Scheme, host and port.
        endpoint: String,
        /// The folder.
        prefix: String,
    },
    /// A folder of a machine that is reached by `ssh`.
    Sftp {
        /// As whom; `None`: whoever ssh's own configuration says.
        user: Option<String>,
        /// The host, or a name in ssh's own configuration.
        host: String,
        /// The port; `None`: as ssh's own configuration says.
        port: Option<u16>,
        /// The folder: from the root when it begins with a slash, else from the user's home.
        path: String,
    },
    /// Whatever else OpenDAL has compiled in.
    Opendal {
        /// OpenDAL's name for it.
        scheme: String,
        /// Where in it.
        root: String,
    },
}

/// Why a place cannot be one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct LocationError {
    /// What is wrong. A secret is never part of it.
    pub message: String,
    /// What to type instead.
    pub hint: String,
}

type Result<T> = std::result::Result<T, LocationError>;

fn refused<T>(message: impl Into<String>, hint: impl Into<String>) -> Result<T> {
    Err(LocationError { message: message.into(), hint: hint.into() })
}

/// What others write for places that are possible here, and how they are written here.
const FOREIGN: [(&str, &str); 9] = [
    ("s3:", "s3://BUCKET/PREFIX, or s3+https://HOST/BUCKET/PREFIX"),
    ("gs:", "gcs://BUCKET/PREFIX"),
    ("azure:", "azblob://CONTAINER/PREFIX"),
    ("b2:", "b2://BUCKET/PREFIX"),
    ("sftp:", "sftp://USER@HOST/PATH"),
    ("webdav:", "webdav+https://HOST/PATH"),
    ("gcs:", "gcs://BUCKET/PREFIX"),
    ("azblob:", "azblob://CONTAINER/PREFIX"),
    ("ssh:", "sftp://USER@HOST/PATH"),
];
/// What others have and is not possible here.
const IMPOSSIBLE: [&str; 4] = ["rest", "rclone", "swift", "rsync"];

const SCHEMES: &str =
    "a folder, s3://, sftp://, azblob://, gcs://, b2://, webdav+https:// or opendal:SCHEME:";

/// An option of ours: that a server lists names in their order, which we believe of AWS alone.
pub(super) const LISTS_IN_ORDER: &str = "lists_in_order";

/// An option of ours: who may take object locks away before they end.
pub(super) const OBJECT_LOCK_MODE: &str = "object_lock_mode";

/// Options whose values nobody else may see, by a part of their names. Command lines can be seen by all users.
const SECRETS: [&str; 7] =
    ["secret", "password", "token", "_key", "credential", "passphrase", "delegation"];
/// And those that have such a part and are none.
const NO_SECRETS: [&str; 2] = ["credential_path", "server_side_encryption_aws_kms_key_id"];

/// How a person says what a store needs to know: for what to type instead.
#[derive(Debug, Clone, Copy)]
pub struct Said<'s> {
    /// The flag that an option follows.
    pub option: &'s str,
    /// What the variables of its settings begin with.
    pub variables: &'s str,
}

impl Said<'static> {
    /// How it is said of the repository's own store.
    pub const REPOSITORY: Said<'static> = Said { option: "-o", variables: "AUMBRY_STORE_" };
}

impl Location {
    /// Reads a place and its options, `key=value` each. A path is taken as it is.
    ///
    /// # Errors
    ///
    /// What is wrong with it and what to type instead.
    pub fn parse(place: &OsStr, options: &[String]) -> Result<Location> {
        Location::parse_said(place, options, &Said::REPOSITORY)
    }

    /// The same where options are given, and secrets are looked for, under other names.
    ///
    /// # Errors
    ///
    /// What is wrong with it and what to type instead.
    pub fn parse_said(place: &OsStr, options: &[String], said: &Said<'_>) -> Result<Location> {
        let place = Place::parse(place)?;
        let mut parsed = BTreeMap::new();
        for option in options {
            let (key, value) = parse_option(&place, option, said)?;
            parsed.insert(key, value);
        }
        Ok(Location { place, options: parsed })
    }

    /// A directory of this machine.
    pub fn local(path: impl Into<PathBuf>) -> Location {
        Location { place: Place::Local(path.into()), options: BTreeMap::new() }
    }

    /// The directory, if it is one of this machine.
    pub fn path(&self) -> Option<&PathBuf> {
        match &self.place {
            Place::Local(path) => Some(path),
            _ => None,
        }
    }
}

impl Place {
    fn parse(place: &OsStr) -> Result<Place> {
        let bytes = place.as_bytes();
        if bytes.is_empty() {
            return refused("the repository's place is empty", format!("name {SCHEMES}"));
        }
        let path = |from: usize| Place::Local(PathBuf::from(OsStr::from_bytes(&bytes[from..])));
        let colon = bytes.iter().position(|byte| *byte == b':');
        let Some(scheme) = colon.and_then(|at| std::str::from_utf8(&bytes[..at]).ok()) else {
            return Ok(path(0));
        };
        let rest = &bytes[scheme.len() + 1..];
        match scheme {
            "file" if rest.starts_with(b"///") => return Ok(path(7)),
            "local" if rest.is_empty() => {
                return refused("the repository's place is empty", format!("name {SCHEMES}"));
            }
            "local" => return Ok(path(6)),
            "memory" if rest.is_empty() => return Ok(Place::Memory),
            _ => {}
        }
        let Ok(text) = std::str::from_utf8(rest) else {
            return match rest.starts_with(b"//") {
                true => refused(format!("{scheme}: the place is not UTF-8 text"), "type it anew"),
                false => Ok(path(0)),
            };
        };
        if scheme == "opendal" {
            return opendal_place(text);
        }
        if IMPOSSIBLE.contains(&scheme) {
            return refused(
                format!("a repository in {scheme} storage is not possible"),
                format!("name {SCHEMES}"),
            );
        }
        let Some(text) = text.strip_prefix("//") else {
            return match FOREIGN.iter().find(|(word, _)| word.strip_suffix(':') == Some(scheme)) {
                Some((_, here)) => refused(
                    format!("{scheme}:… is not how the place is written here"),
                    format!("write {here}; a folder whose name has a colon is ./NAME"),
                ),
                // A folder's name may have a colon.
                None => Ok(path(0)),
            };
        };
        let url = Url::parse(scheme, text)?;
        let (base, transport) = match scheme.split_once('+') {
            Some((base, transport)) => (base, Some(transport)),
            None => (scheme, None),
        };
        if let Some(transport) = transport
            && !matches!(transport, "http" | "https")
        {
            return refused(
                format!("{scheme}:// is not known"),
                format!("{base}+https:// or {base}+http://"),
            );
        }
        let endpoint = transport.map(|transport| format!("{transport}://{}", url.authority));
        match (base, endpoint) {
            ("s3", None) => {
                let (bucket, prefix) = url.bucket_in_host(scheme)?;
                Ok(Place::S3 { endpoint: None, bucket, prefix })
            }
            ("s3", endpoint) => {
                let (bucket, prefix) = url.bucket_in_path(scheme)?;
                Ok(Place::S3 { endpoint, bucket, prefix })
            }
            ("azblob", None) => {
                let (container, prefix) = url.bucket_in_host(scheme)?;
                Ok(Place::Azblob { endpoint: None, container, prefix })
            }
            ("azblob", Some(endpoint)) => {
                url.require_no_user(scheme)?;
                let Some((account, rest)) = url.path()?.split_once('/').map(owned) else {
                    return refused(
                        format!("{scheme}:// lacks the account or the container"),
                        format!("write {scheme}://HOST:PORT/ACCOUNT/CONTAINER/PREFIX"),
                    );
                };
                let (container, prefix) = split_bucket(&rest);
                Ok(Place::Azblob { endpoint: Some((endpoint, account)), container, prefix })
            }
            ("gcs", None) => {
                let (bucket, prefix) = url.bucket_in_host(scheme)?;
                Ok(Place::Gcs { endpoint: None, bucket, prefix })
            }
            ("gcs", endpoint) => {
                let (bucket, prefix) = url.bucket_in_path(scheme)?;
                Ok(Place::Gcs { endpoint, bucket, prefix })
            }
            ("b2", None) => {
                let (bucket, prefix) = url.bucket_in_host(scheme)?;
                Ok(Place::B2 { endpoint: None, bucket, prefix })
            }
            ("b2", endpoint) => {
                let (bucket, prefix) = url.bucket_in_path(scheme)?;
                Ok(Place::B2 { endpoint, bucket, prefix })
            }
            ("webdav", Some(endpoint)) => {
                url.require_no_user(scheme)?;
                if url.path.contains('%') {
                    return refused(
                        format!("{scheme}://: the path has a % in it"),
                        "write names as they are, without percent signs",
                    );
                }
                Ok(Place::Webdav { endpoint, prefix: url.path()? })
            }
            ("sftp", None) => url.sftp(),
            ("webdav", None) => refused(
                "webdav:// does not say how the server is reached",
                "write webdav+https://HOST/PATH",
            ),
            _ => refused(format!("{scheme}:// is not known"), format!("name {SCHEMES}")),
        }
    }

    /// The sort of store, in a word.
    pub fn sort(&self) -> &'static str {
        match self {
            Place::Local(_) => "local",
            Place::Memory => "memory",
            Place::S3 { .. } => "s3",
            Place::Azblob { .. } => "azblob",
            Place::Gcs { .. } => "gcs",
            Place::B2 { .. } => "b2",
            Place::Webdav { .. } => "webdav",
            Place::Sftp { .. } => "sftp",
            Place::Opendal { .. } => "opendal",
        }
    }

    /// What may be said about a store of this sort, and OpenDAL's names for it.
    fn options(&self) -> &'static [(&'static str, &'static str)] {
        match self {
            Place::S3 { .. } => &[
                ("region", "region"),
                ("profile", "profile"),
                ("virtual_host", "enable_virtual_host_style"),
                ("storage_class", "default_storage_class"),
                ("anonymous", "skip_signature"),
                ("role_arn", "role_arn"),
                ("external_id", "external_id"),
                ("server_side_encryption", "server_side_encryption"),
                ("server_side_encryption_aws_kms_key_id", "server_side_encryption_aws_kms_key_id"),
                ("list_v1", "disable_list_objects_v2"),
                // Ours: OpenDAL never sees them.
                ("lists_in_order", LISTS_IN_ORDER),
                ("object_lock_mode", OBJECT_LOCK_MODE),
            ],
            Place::Azblob { .. } => &[("account", "account_name")],
            Place::Gcs { .. } => &[
                ("storage_class", "default_storage_class"),
                ("credential_path", "credential_path"),
                ("anonymous", "skip_signature"),
            ],
            Place::B2 { .. } => &[("bucket_id", "bucket_id")],
            Place::Webdav { .. } => &[("user", "username")],
            Place::Sftp { .. } => &[("ssh_command", "ssh_command"), ("unsynced", "unsynced")],
            Place::Local(_) | Place::Memory | Place::Opendal { .. } => &[],
        }
    }
}

fn opendal_place(text: &str) -> Result<Place> {
    let how = "write opendal:SCHEME:ROOT, and -o KEY=VALUE for what the service needs to know";
    let (scheme, root) = text.split_once(':').unwrap_or((text, ""));
    let is_scheme = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if scheme.is_empty() || !scheme.bytes().all(is_scheme) {
        return refused("opendal: does not name a service", how);
    }
    if root.contains("://") || root.contains('@') {
        return refused("opendal: the root is a folder, not an address", how);
    }
    Ok(Place::Opendal { scheme: scheme.to_string(), root: check_path("opendal", root)? })
}

fn parse_option(
    place: &Place,
    option: &str,
    Said { option: flag, variables }: &Said<'_>,
) -> Result<(String, String)> {
    let Some((key, value)) = option.split_once('=') else {
        return refused(
            format!("{flag}: there is no = in it"),
            format!("write {flag} KEY=VALUE, for example {flag} region=eu-west-1"),
        );
    };
    let key = key.trim().to_ascii_lowercase().replace('-', "_");
    let is_secret = SECRETS.iter().any(|part| key.contains(part))
        && !key.ends_with("key_id")
        && !NO_SECRETS.contains(&key.as_str());
    if is_secret {
        return refused(
            format!("{flag} {key}: a secret on the command line can be seen by every user"),
            format!("set {variables}{} in the environment instead", key.to_ascii_uppercase()),
        );
    }
    if let Place::Opendal { .. } = place {
        return Ok((key, value.to_string()));
    }
    match place.options().iter().find(|(name, _)| *name == key) {
        Some((_, inner)) => Ok((inner.to_string(), value.to_string())),
        None => {
            let known: Vec<&str> = place.options().iter().map(|(name, _)| *name).collect();
            let hint = match known.is_empty() {
                true => format!("a store of the sort {} has no options", place.sort()),
                false => format!("it has: {}", known.join(", ")),
            };
            refused(format!("{flag} {key}: {} has no such option", place.sort()), hint)
        }
    }
}

/// What stands behind `scheme://`.
struct Url {
    user: Option<String>,
    authority: String,
    host: String,
    port: Option<u16>,
    path: String,
    scheme: String,
}

impl Url {
    fn parse(scheme: &str, text: &str) -> Result<Url> {
        let (authority, path) = match text.find('/') {
            Some(at) => (&text[..at], &text[at..]),
            None => (text, ""),
        };
        // A password may have an @ in it.
        let (user, authority) = match authority.rsplit_once('@') {
            Some((user, authority)) => (Some(user), authority),
            None => (None, authority),
        };
        // One with a slash in it would hide in the path.
        let hides = user.is_none() && authority.contains(':') && path.contains('@');
        if user.is_some_and(|user| user.contains(':')) || hides && !is_port_end(authority) {
            return refused(
                format!("{scheme}:// with a password in it: it would stand in every log"),
                secret_hint(scheme),
            );
        }
        // What looks like a port may be the beginning of one.
        if hides && scheme.contains('+') {
            return refused(
                format!("{scheme}://: an @ behind a port looks like a password with a slash in it"),
                format!("{}; a folder with an @ needs a place without a port", secret_hint(scheme)),
            );
        }
        if let Some(found) = text.chars().find(|found| matches!(found, '?' | '#')) {
            return refused(
                format!("{scheme}://: there is a {found} in it"),
                "options go beside it: -o KEY=VALUE",
            );
        }
        if text.chars().any(|found| found.is_control() || found == '\\') {
            return refused(
                format!("{scheme}://: there is a control character or a backslash in it"),
                "type it anew",
            );
        }
        let (host, port) = split_port(scheme, authority)?;
        Ok(Url {
            user: user.map(str::to_string),
            authority: authority.to_string(),
            host,
            port,
            path: path.to_string(),
            scheme: scheme.to_string(),
        })
    }

    fn require_no_user(&self, scheme: &str) -> Result<()> {
        match self.user {
            Some(_) => refused(format!("{scheme}://: no user is named there"), secret_hint(scheme)),
            None => Ok(()),
        }
    }

    fn path(&self) -> Result<String> {
        check_path(&self.scheme, &self.path)
    }

    fn bucket_in_host(&self, scheme: &str) -> Result<(String, String)> {
        self.require_no_user(scheme)?;
        if self.port.is_some() {
            return refused(
                format!("{scheme}://: a bucket has no port"),
                format!("for a server of your own write {scheme}+https://HOST:PORT/BUCKET/PREFIX"),
            );
        }
        Ok((self.host.clone(), self.path()?))
    }

    fn bucket_in_path(&self, scheme: &str) -> Result<(String, String)> {
        self.require_no_user(scheme)?;
        let path = self.path()?;
        if path.is_empty() {
            return refused(
                format!("{scheme}:// names no bucket"),
                format!(
                    "write {scheme}://HOST/BUCKET/PREFIX, or {scheme}://HOST:PORT/BUCKET/PREFIX"
                ),
            );
        }
        Ok(split_bucket(&path))
    }

    fn sftp(&self) -> Result<Place> {
        let is_safe = |text: &str| !text.is_empty() && !text.starts_with('-');
        let user = self.user.as_deref();
        if !is_safe(&self.host) || !user.is_none_or(is_safe) {
            return refused(
                "sftp://: a host or a user begins with -",
                "write sftp://USER@HOST/PATH",
            );
        }
        let path = self.path()?;
        // As scp and curl have it: /~/ is the home.
        let path = match path.strip_prefix("~/") {
            Some(in_home) => in_home.to_string(),
            None if path.is_empty() || path == "~" => {
                return refused("sftp:// names no folder", "write sftp://USER@HOST/PATH");
            }
            None => format!("/{path}"),
        };
        let (user, host) = (self.user.clone(), self.host.clone());
        Ok(Place::Sftp { user, host, port: self.port, path })
    }
}

/// Whether an authority ends with a port, so that an @ behind it is one of a folder's name.
fn is_port_end(authority: &str) -> bool {
    authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok())
}

fn secret_hint(scheme: &str) -> String {
    let from = match scheme.split('+').next().unwrap_or_default() {
        "s3" => "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile",
        "azblob" => "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
        "gcs" => "GOOGLE_APPLICATION_CREDENTIALS",
        "b2" => "B2_APPLICATION_KEY_ID and B2_APPLICATION_KEY",
        "webdav" => "WEBDAV_USERNAME and WEBDAV_PASSWORD",
        "sftp" => "ssh's own keys, agent and configuration",
        _ => "the environment",
    };
    format!("leave it out: it is taken from {from}")
}

fn split_port(scheme: &str, authority: &str) -> Result<(String, Option<u16>)> {
    // What stands there is not repeated: where there is no host yet, it may be a user and a password.
    let wrong =
        |message: &str| refused(format!("{scheme}://: {message}"), "write HOST or HOST:PORT");
    let (host, port) = match authority.strip_prefix('[') {
        // An address of version 6 has colons of its own.
        Some(rest) => match rest.split_once(']') {
            Some((host, "")) => (host, None),
            Some((host, port)) if port.starts_with(':') => (host, Some(&port[1..])),
            _ => return wrong("the address in brackets does not end"),
        },
        None => match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        },
    };
    if host.is_empty() {
        return wrong("the first part is empty");
    }
    match port.map(|port| port.parse::<u16>().ok().filter(|port| *port > 0)) {
        None => Ok((host.to_string(), None)),
        Some(Some(port)) => Ok((host.to_string(), Some(port))),
        Some(None) => wrong("the port is no number from 1 to 65535"),
    }
}

/// A path without slashes around it, if it can be one in a store.
fn check_path(scheme: &str, path: &str) -> Result<String> {
    let path = path.trim_matches('/');
    for part in path.split('/') {
        if !path.is_empty() && matches!(part, "" | "." | "..") {
            return refused(
                format!(
                    "{scheme}: the path /{path} has an empty part, or one that leads elsewhere"
                ),
                "name the folder without .. and double slashes",
            );
        }
    }
    Ok(path.to_string())
}

fn split_bucket(path: &str) -> (String, String) {
    path.split_once('/').map_or_else(|| (path.to_string(), String::new()), owned)
}

fn owned((first, rest): (&str, &str)) -> (String, String) {
    (first.to_string(), rest.to_string())
}

impl Location {
    /// Whether one of two places is the other, or in it. Folders of this machine are compared as what they lead to.
    pub fn overlaps(&self, other: &Location) -> bool {
        if let (Some(one), Some(other)) = (self.path(), other.path()) {
            let (one, other) = (resolved(one), resolved(other));
            return one.starts_with(&other) || other.starts_with(&one);
        }
        let is_in = |inner: &str, outer: &str| {
            let rest = inner.strip_prefix(outer.trim_end_matches('/'));
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let (one, other) = (self.to_string(), other.to_string());
        is_in(&one, &other) || is_in(&other, &one)
    }
}

/// The path without links, as far as it is there.
fn resolved(path: &Path) -> PathBuf {
    for folder in path.ancestors() {
        if let (Ok(real), Ok(rest)) = (folder.canonicalize(), path.strip_prefix(folder)) {
            return real.join(rest);
        }
    }
    path.to_path_buf()
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let then = |prefix: &str| match prefix {
            "" => String::new(),
            prefix => format!("/{prefix}"),
        };
        match &self.place {
            Place::Local(path) => write!(f, "{}", path.display()),
            Place::Memory => f.write_str("memory:"),
            Place::S3 { endpoint: None, bucket, prefix } => {
                write!(f, "s3://{bucket}{}", then(prefix))
            }
            Place::S3 { endpoint: Some(endpoint), bucket, prefix } => {
                write!(f, "s3+{endpoint}/{bucket}{}", then(prefix))
            }
            Place::Azblob { endpoint: None, container, prefix } => {
                write!(f, "azblob://{container}{}", then(prefix))
            }
            Place::Azblob { endpoint: Some((endpoint, account)), container, prefix } => {
                write!(f, "azblob+{endpoint}/{account}/{container}{}", then(prefix))
            }
            Place::Gcs { endpoint: None, bucket, prefix } => {
                write!(f, "gcs://{bucket}{}", then(prefix))
            }
            Place::Gcs { endpoint: Some(endpoint), bucket, prefix } => {
                write!(f, "gcs+{endpoint}/{bucket}{}", then(prefix))
            }
            Place::B2 { endpoint: None, bucket, prefix } => {
                write!(f, "b2://{bucket}{}", then(prefix))
            }
            Place::B2 { endpoint: Some(endpoint), bucket, prefix } => {
                write!(f, "b2+{endpoint}/{bucket}{}", then(prefix))
            }
            Place::Webdav { endpoint, prefix } => write!(f, "webdav+{endpoint}{}", then(prefix)),
            Place::Sftp { user, host, port, path } => {
                let user = user.as_ref().map_or(String::new(), |user| format!("{user}@"));
                let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
                let port = port.map_or(String::new(), |port| format!(":{port}"));
                let home = if path.starts_with('/') { "" } else { "/~/" };
                write!(f, "sftp://{user}{host}{port}{home}{path}")
            }
            Place::Opendal { scheme, root } => write!(f, "opendal:{scheme}:{root}"),
        }
    }
}

#[cfg(test)]
#[path = "location_tests.rs"]
mod tests;
