//! What can go wrong with a store, told by what a caller would do about it.

use std::error::Error;
use std::io;

use opendal::ErrorKind;
use rustix::io::Errno;

/// What a caller would do differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// There is no such object (or no such directory, when a store is opened).
    NotFound,
    /// The object is there and ends too early: whoever knows how long it ought to be calls it
    /// damaged.
    Truncated,
    /// No room or no quota left: a person has to make some.
    Full,
    /// The store does not let us: permissions, credentials, or a medium that is read-only.
    Denied,
    /// The object is in an archive and must be thawed before it can be read.
    Archived,
    /// The store could not be reached or failed: worth trying again later.
    Unavailable,
    /// The request makes no sense, here or anywhere: a bad name, a store that cannot do it.
    Invalid,
    /// A person asked to stop.
    Interrupted,
}

/// An object, and what went wrong with it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name}: {message}")]
pub struct StoreError {
    /// What a caller would do differently.
    pub kind: Kind,
    /// The object, the prefix of a listing, or the store's own location.
    pub name: String,
    /// The reason, in one line.
    pub message: String,
}

impl StoreError {
    pub(super) fn new(kind: Kind, name: &str, message: impl Into<String>) -> Self {
        StoreError { kind, name: name.to_string(), message: message.into() }
    }

    /// The same, if somebody wants to stop. Anything else is worth being read once more in the ordinary way.
    pub fn if_interrupted(self) -> Option<Self> {
        (self.kind == Kind::Interrupted).then_some(self)
    }

    pub(super) fn not_found(name: &str) -> Self {
        StoreError::new(Kind::NotFound, name, "not found")
    }

    pub(super) fn truncated(name: &str, size: u64, wanted: u64) -> Self {
        let message = format!("is only {size} bytes long, and was read up to byte {wanted}");
        StoreError::new(Kind::Truncated, name, message)
    }

    pub(super) fn archived(name: &str) -> Self {
        let message = "is in an archive, and must be thawed before it can be read: --warm-up-command names a command \
                       that has that done";
        StoreError::new(Kind::Archived, name, message)
    }

    pub(super) fn interrupted(name: &str) -> Self {
        StoreError::new(Kind::Interrupted, name, "interrupted")
    }

    pub(super) fn full(name: &str) -> Self {
        let message = "no space left in the store; free some space there and run this again";
        StoreError::new(Kind::Full, name, message)
    }

    /// The same without OpenDAL's operation, status and context.
    pub(super) fn from_opendal(name: &str, error: &opendal::Error) -> Self {
        let errno = error
            .source()
            .and_then(|source| source.downcast_ref::<io::Error>())
            .and_then(Errno::from_io_error);
        match errno {
            Some(errno) => StoreError::from_errno(name, errno, error.message()),
            None => StoreError::from_service(name, error),
        }
    }

    fn from_errno(name: &str, errno: Errno, doing: &str) -> Self {
        let kind = match errno {
            Errno::NOENT => return StoreError::not_found(name),
            Errno::NOSPC | Errno::DQUOT => return StoreError::full(name),
            Errno::ACCESS | Errno::PERM | Errno::ROFS => Kind::Denied,
            Errno::NOTDIR
            | Errno::ISDIR
            | Errno::LOOP
            | Errno::NAMETOOLONG
            | Errno::INVAL
            | Errno::FBIG
            | Errno::XDEV
            | Errno::NOTSUP => Kind::Invalid,
            _ => Kind::Unavailable,
        };
        // The standard library appends " (os error 13)".
        let reason = io::Error::from(errno).to_string();
        let reason = reason.split(" (os error").next().unwrap_or_default().to_lowercase();
        StoreError::new(kind, name, format!("{doing}: {reason}"))
    }

    fn from_service(name: &str, error: &opendal::Error) -> Self {
        let kind = match error.kind() {
            ErrorKind::NotFound
                if !NO_BUCKET.iter().any(|words| error.message().contains(words)) =>
            {
                return StoreError::not_found(name);
            }
            ErrorKind::PermissionDenied => Kind::Denied,
            ErrorKind::RangeNotSatisfied => Kind::Truncated,
            ErrorKind::Unsupported
            | ErrorKind::ConfigInvalid
            | ErrorKind::IsADirectory
            | ErrorKind::NotADirectory => Kind::Invalid,
            _ => Kind::Unavailable,
        };
        let said = error.message();
        if ARCHIVED.iter().any(|words| said.contains(words)) {
            return StoreError::archived(name);
        }
        if NO_BUCKET.iter().any(|words| said.contains(words)) {
            let message =
                "the bucket or container does not exist; make it first, or look at its name";
            return StoreError::new(Kind::Invalid, name, message);
        }
        let mut message = what_it_said(said);
        // The cause of a failed connection hides at the bottom of the chain.
        let mut source = error.source();
        while let Some(cause) = source {
            if cause.source().is_none() {
                // The standard library appends " (os error 111)".
                let cause = begun_small(&first_line(&cause.to_string()));
                let cause = cause.split(" (os error").next().unwrap_or_default();
                message = match message.is_empty() {
                    true => cause.to_string(),
                    false => format!("{message}: {cause}"),
                };
            }
            source = cause.source();
        }
        StoreError::new(kind, name, message)
    }
}

/// How S3, Azure, Google and B2 say that there is no such bucket.
const NO_BUCKET: [&str; 4] =
    ["NoSuchBucket", "ContainerNotFound", "specified bucket does not exist", "bad_bucket_id"];

/// How S3 and Azure say that an object must be thawed before it is read.
const ARCHIVED: [&str; 3] = ["InvalidObjectState", "BlobArchived", "BlobBeingRehydrated"];

/// What a server said, in a line: OpenDAL hands on its whole answer, with the code and the words somewhere in it.
fn what_it_said(text: &str) -> String {
    let quoted = |key: &str| {
        let (_, rest) = text.split_once(key)?;
        let words = rest.split_once('"')?.0;
        Some(words).filter(|words| !words.is_empty())
    };
    match (quoted("code: \""), quoted("message: \"")) {
        (Some(code), Some(words)) => first_line(&format!("{code}: {}", words.replace("\\n", " "))),
        (Some(code), None) => first_line(code),
        _ => first_line(text),
    }
}

/// The same as the middle of a sentence begins; names within it stay as they are.
fn begun_small(text: &str) -> String {
    let mut rest = text.chars();
    let first = rest.next().map(|first| first.to_lowercase().collect::<String>());
    first.unwrap_or_default() + rest.as_str()
}

/// The first line of a text, at most 200 characters of it.
fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_one_line_without_noise() {
        let error = opendal::Error::new(ErrorKind::PermissionDenied, "cannot open")
            .with_operation("read")
            .with_context("service", "local")
            .set_source(io::Error::from(Errno::ACCESS));
        let error = StoreError::from_opendal("keys/1", &error);
        assert_eq!(error.kind, Kind::Denied);
        assert_eq!(error.to_string(), "keys/1: cannot open: permission denied");

        let error = opendal::Error::new(ErrorKind::Unexpected, "<html>\n<body>\n503")
            .set_source(io::Error::other("connection refused"));
        let error = StoreError::from_opendal("config", &error);
        assert_eq!(error.kind, Kind::Unavailable);
        assert_eq!(error.to_string(), "config: <html>: connection refused");
    }

    #[test]
    fn a_full_disk_says_what_to_do() {
        for errno in [Errno::NOSPC, Errno::DQUOT] {
            let error = opendal::Error::new(ErrorKind::Unexpected, "cannot write")
                .set_source(io::Error::from(errno));
            let error = StoreError::from_opendal("packs/a", &error);
            assert_eq!(error.kind, Kind::Full);
            assert!(error.to_string().contains("free some space"));
        }
    }
}
