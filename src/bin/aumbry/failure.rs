//! Errors of every room turned into exit codes and hints: the one place where that happens.

use std::io;
use std::process::ExitCode;

use aumbry::ops::OpsError;
use aumbry::repository::error::Kind;
use aumbry::repository::error::RepositoryError;
use aumbry::source::SourceError;
use aumbry::store;
use aumbry::target::TargetError;
use aumbry::tree::filter::FilterError;
use aumbry::tree::path::ParsePathError;
use aumbry::tree::path::Printable;
use aumbry::units::UnitsError;
use serde_json::json;

use crate::output::Output;

/// How a command that reached its end went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// All is well.
    Done,
    /// It ran to its end and found what a person must look at: damage.
    Damaged,
    /// It did its work, but for some files.
    Incomplete,
}

impl From<Outcome> for ExitCode {
    fn from(outcome: Outcome) -> Self {
        ExitCode::from(match outcome {
            Outcome::Done => 0,
            Outcome::Damaged => 1,
            Outcome::Incomplete => 3,
        })
    }
}

/// What a script would do differently; the numbers are restic's, which scripts know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// Whoever read our output has gone: nobody is left to tell.
    NobodyReads = 0,
    /// It failed.
    Failed = 1,
    /// What was typed makes no sense.
    Usage = 2,
    /// There is no repository.
    NoRepository = 10,
    /// Somebody else was there first; trying again helps.
    Busy = 11,
    /// No key opens with what was given.
    WrongPassword = 12,
    /// A person asked to stop.
    Interrupted = 130,
}

/// Why a command did not reach its end, and what to type next.
#[derive(Debug)]
pub struct Failure {
    code: Code,
    message: String,
    hint: Option<String>,
    is_unavailable: bool,
}

impl Failure {
    /// A failure with this code.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Failure { code, message: message.into(), hint: None, is_unavailable: false }
    }

    /// What was asked for could not be done.
    pub fn failed(message: impl Into<String>) -> Self {
        Failure::new(Code::Failed, message)
    }

    /// What was typed makes no sense.
    pub fn usage(message: impl Into<String>) -> Self {
        Failure::new(Code::Usage, message)
    }

    /// A file or a stream that the command line itself uses.
    pub fn file(item: impl AsRef<[u8]>, error: &io::Error) -> Self {
        Failure::failed(format!("{}: {}", Printable(item.as_ref()), reason_of(error)))
    }

    /// The same, with what to do next.
    pub fn hint(self, hint: impl Into<String>) -> Self {
        Failure { hint: Some(hint.into()), ..self }
    }

    /// A failure to open a repository: what is missing here is the repository itself.
    pub fn opening(error: RepositoryError) -> Self {
        if error.kind == Kind::NotFound {
            return Failure::no_repository(&error.item);
        }
        let is_config = error.item == "config";
        let kind = error.kind;
        let failure = Failure::from(error);
        if is_config && kind == Kind::Corrupt {
            return failure.hint(
                "`aumbry repair config` makes it again; a copy of the repository has it, too",
            );
        }
        failure
    }

    /// There is no repository at this place.
    pub fn no_repository(location: &str) -> Self {
        let location = Printable(location.as_bytes());
        Failure::new(Code::NoRepository, format!("{location} is not a repository"))
            .hint("`aumbry init` makes one there; -r or AUMBRY_REPOSITORY names another place")
    }

    /// Whether it is that there is no repository.
    pub fn is_no_repository(&self) -> bool {
        self.code == Code::NoRepository
    }

    /// Whether it is about a place that does not answer or holds nothing, and not about what was typed.
    pub fn is_elsewhere(&self) -> bool {
        self.is_no_repository() || self.is_unavailable
    }

    /// What went wrong.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The process's exit code.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.code as u8)
    }

    /// Tells the person, or the program, that runs this.
    pub fn report(&self, output: &Output) {
        if self.code == Code::NobodyReads {
            return;
        }
        if output.is_json() {
            let mut message = json!({
                "message_type": "exit_error",
                "code": self.code as u8,
                "message": self.message,
            });
            if let Some(hint) = &self.hint {
                message["hint"] = json!(hint);
            }
            output.error_line(&message.to_string());
            return;
        }
        output.error_line(&format!("{} {}", output.error_style().red("error:"), self.message));
        if let Some(hint) = &self.hint {
            output.error_line(&format!("{} {hint}", output.error_style().dim("hint:")));
        }
    }
}

/// What the system said, without the number that the standard library adds.
pub fn reason_of(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_lowercase()
}

impl From<RepositoryError> for Failure {
    fn from(error: RepositoryError) -> Self {
        let message = Printable(error.to_string().as_bytes()).to_string();
        match error.kind {
            Kind::Corrupt => Failure::failed(message)
                .hint("`aumbry check --read-data` tells what is damaged and which files it hits"),
            Kind::WrongKey => Failure::new(Code::WrongPassword, message),
            Kind::Conflict => Failure::new(Code::Busy, message),
            Kind::Unavailable => Failure {
                is_unavailable: true,
                ..Failure::failed(message).hint("run it again when it is reachable")
            },
            Kind::Newer => Failure::failed(message).hint(format!(
                "a newer Aumbry wrote this; use that one. This is {}",
                env!("CARGO_PKG_VERSION")
            )),
            Kind::Interrupted => Failure::new(Code::Interrupted, "interrupted"),
            Kind::NotFound | Kind::Full | Kind::Denied | Kind::Invalid | Kind::Archived => {
                Failure::failed(message)
            }
        }
    }
}

impl From<store::StoreError> for Failure {
    fn from(error: store::StoreError) -> Self {
        Failure::from(RepositoryError::from(error))
    }
}

impl From<OpsError> for Failure {
    fn from(error: OpsError) -> Self {
        match error {
            OpsError::Repository(error) => error.into(),
            OpsError::Source(error) => error.into(),
            OpsError::Target(error) => error.into(),
            OpsError::Invalid(message) => {
                Failure::failed(Printable(message.as_bytes()).to_string())
            }
            OpsError::Busy(message) => {
                Failure::new(Code::Busy, Printable(message.as_bytes()).to_string())
            }
            OpsError::Interrupted => Failure::new(Code::Interrupted, "interrupted"),
        }
    }
}

impl From<SourceError> for Failure {
    fn from(error: SourceError) -> Self {
        let message = match &error {
            SourceError::Io { item, error } => format!("{item}: {}", reason_of(error)),
            _ => error.to_string(),
        };
        Failure::failed(Printable(message.as_bytes()).to_string())
    }
}

impl From<TargetError> for Failure {
    fn from(error: TargetError) -> Self {
        let message = match &error {
            // No file of a restore is a pipe that somebody reads: this is a dump's output.
            TargetError::Io { error, .. } if error.kind() == io::ErrorKind::BrokenPipe => {
                return io::Error::from(io::ErrorKind::BrokenPipe).into();
            }
            TargetError::Io { item, error } => format!("{item}: {}", reason_of(error)),
            _ => error.to_string(),
        };
        Failure::failed(Printable(message.as_bytes()).to_string())
    }
}

impl From<UnitsError> for Failure {
    fn from(error: UnitsError) -> Self {
        Failure::usage(error.to_string())
    }
}

impl From<FilterError> for Failure {
    fn from(error: FilterError) -> Self {
        Failure::usage(error.to_string())
    }
}

impl From<ParsePathError> for Failure {
    fn from(error: ParsePathError) -> Self {
        Failure::usage(error.to_string())
    }
}

/// Of standard output: everything else names its file.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Failure::new(Code::NobodyReads, "nobody reads the output");
        }
        Failure::failed(format!("standard output: {}", reason_of(&error)))
    }
}

impl From<serde_json::Error> for Failure {
    fn from(error: serde_json::Error) -> Self {
        match error.io_error_kind() {
            Some(kind) => io::Error::from(kind).into(),
            None => Failure::failed(format!("JSON: {error}")),
        }
    }
}
