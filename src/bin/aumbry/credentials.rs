//! Where passphrases and recovery keys come from: flags, variables, a person.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::process::Stdio;

use aumbry::repository::keys::Credential;
use zeroize::Zeroizing;

use crate::context::Context;
use crate::environment::Surroundings;
use crate::failure::Code;
use crate::failure::Failure;
use crate::output::printable;
use crate::store_settings::in_front;

/// What opens a repository, and where it was found.
pub struct Given {
    /// What opens it.
    pub credential: Credential,
    /// Where it was found, for a person who wonders why it is wrong.
    pub origin: String,
}

/// What flags and variables give; `None` when they give nothing. A flag is stronger than any variable; of
/// the variables, a recovery key is stronger than a passphrase: nobody keeps one set.
pub fn find(context: &Context) -> Result<Option<Given>, Failure> {
    let global = &context.global;
    let surroundings = &context.surroundings;
    if let Some(file) = &global.recovery_key_file {
        let words = read_text(file)?;
        return recovery(&words, named_file(file)).map(Some);
    }
    if let Some(file) = &global.password_file {
        return from_file(file, named_file(file)).map(Some);
    }
    if let Some(command) = &global.password_command {
        return from_command(command, "--password-command".to_string()).map(Some);
    }
    from_variables(surroundings, "AUMBRY_")
}

/// The same, unless somebody may have to be asked for it: by a command, or at a terminal that passes for a file.
pub fn at_hand(context: &Context) -> Option<Result<Given, Failure>> {
    let (global, surroundings) = (&context.global, &context.surroundings);
    let is_command = global.password_command.is_some()
        || surroundings.variable("AUMBRY_PASSWORD_COMMAND").is_some();
    let named = surroundings.variable("AUMBRY_PASSWORD_FILE").map(PathBuf::from);
    let files = [global.recovery_key_file.as_ref(), global.password_file.as_ref(), named.as_ref()];
    let is_regular = |file: &PathBuf| std::fs::metadata(file).is_ok_and(|file| file.is_file());
    if is_command || !files.into_iter().flatten().all(is_regular) {
        return None;
    }
    find(context).transpose()
}

/// What the variables give whose names have this in front.
fn from_variables(surroundings: &Surroundings, front: &str) -> Result<Option<Given>, Failure> {
    let name = |rest: &str| format!("{front}{rest}");
    if let Some(words) = surroundings.text_variable(&name("RECOVERY_KEY"))? {
        return recovery(&words, name("RECOVERY_KEY")).map(Some);
    }
    if let Some(file) = surroundings.variable(&name("PASSWORD_FILE")) {
        let file = Path::new(&file);
        return from_file(file, format!("{}, {}", name("PASSWORD_FILE"), named_file(file)))
            .map(Some);
    }
    if let Some(command) = surroundings.variable(&name("PASSWORD_COMMAND")) {
        return from_command(&command, name("PASSWORD_COMMAND")).map(Some);
    }
    if let Some(text) = surroundings.text_variable(&name("PASSWORD"))? {
        return passphrase(Zeroizing::new(text), name("PASSWORD")).map(Some);
    }
    Ok(None)
}

/// Where the passphrase of another repository is said to be, on the command line.
#[derive(Clone, Copy)]
pub struct SecondSource<'a> {
    /// Which of the other repositories it is, from 1.
    pub number: usize,
    /// A file with its recovery key.
    pub recovery_key_file: Option<&'a Path>,
    /// A file with its passphrase.
    pub password_file: Option<&'a Path>,
    /// A shell command that prints it.
    pub password_command: Option<&'a OsStr>,
}

/// The same for a second repository, which has flags and variables of its own, or else a person who is asked: what opens
/// the first is never tried on it.
pub fn find_second(
    context: &Context,
    source: SecondSource<'_>,
    question: &str,
) -> Result<Given, Failure> {
    if let Some(given) = find_second_unasked(context, source)? {
        return Ok(given);
    }
    require_somebody_for_second(context)?;
    passphrase(prompt(question)?, "the terminal".to_string())
}

/// The same for one that is about to be made: a person is asked twice.
pub fn find_or_choose_second(
    context: &Context,
    source: SecondSource<'_>,
    question: &str,
) -> Result<Given, Failure> {
    match find_second_unasked(context, source)? {
        Some(Given { credential: Credential::Recovery(_), .. }) => Err(Failure::usage(
            "a new repository is opened by a passphrase",
        )
        .hint("make it first, then its recovery key: `aumbry key recovery` with -r and its place")),
        Some(given) => Ok(given),
        None => {
            require_somebody_for_second(context)?;
            Ok(Given { credential: choose(context, question)?, origin: "the terminal".to_string() })
        }
    }
}

/// What flags and variables give for a second repository.
fn find_second_unasked(
    context: &Context,
    source: SecondSource<'_>,
) -> Result<Option<Given>, Failure> {
    let surroundings = &context.surroundings;
    // What has a number is about this one, and all else about all of them.
    if source.number > 1
        && let Some(given) = from_variables(surroundings, &in_front(source.number))?
    {
        return Ok(Some(given));
    }
    if let Some(file) = source.recovery_key_file {
        return recovery(&read_text(file)?, named_file(file)).map(Some);
    }
    if let Some(file) = source.password_file {
        return from_file(file, named_file(file)).map(Some);
    }
    if let Some(command) = source.password_command {
        return from_command(command, "--to-password-command".to_string()).map(Some);
    }
    from_variables(surroundings, &in_front(1))
}

fn require_somebody_for_second(context: &Context) -> Result<(), Failure> {
    if context.surroundings.can_ask() {
        return Ok(());
    }
    Err(Failure::failed(
        "there is no passphrase for the second repository, and no terminal to ask for it",
    )
    .hint(
        "set AUMBRY_TO_PASSWORD_FILE, AUMBRY_TO_PASSWORD_COMMAND or AUMBRY_TO_PASSWORD, or use \
         --to-password-file FILE",
    ))
}

/// The same for a repository that is about to be made: a person chooses a passphrase when nothing is given.
pub fn find_or_choose(context: &Context) -> Result<Given, Failure> {
    match find(context)? {
        Some(Given { credential: Credential::Recovery(_), .. }) => {
            Err(Failure::usage("a new repository is opened by a passphrase")
                .hint("make the repository first, then its recovery key: `aumbry key recovery`"))
        }
        Some(given) => Ok(given),
        None => {
            if context.surroundings.can_ask() {
                context.output.error_line(
                    "Choose a passphrase. Without it, or a recovery key, nobody can read what is saved.",
                );
            }
            let credential = choose(context, "New passphrase: ")?;
            Ok(Given { credential, origin: "the terminal".to_string() })
        }
    }
}

/// A new passphrase: from `file`, from a variable, or from a person.
pub fn find_new(context: &Context, file: Option<&Path>) -> Result<Credential, Failure> {
    if let Some(file) = file {
        return Ok(from_file(file, named_file(file))?.credential);
    }
    if let Some(text) = context.surroundings.text_variable("AUMBRY_NEW_PASSWORD")? {
        let given = passphrase(Zeroizing::new(text), "AUMBRY_NEW_PASSWORD".to_string())?;
        return Ok(given.credential);
    }
    if !context.surroundings.can_ask() {
        return Err(Failure::failed("there is no terminal to ask for the new passphrase")
            .hint("set AUMBRY_NEW_PASSWORD, or use --new-password-file FILE"));
    }
    choose(context, "New passphrase: ")
}

/// Asks a person once.
pub fn ask(context: &Context, question: &str) -> Result<Credential, Failure> {
    if !context.surroundings.can_ask() {
        return Err(Failure::failed("there is no passphrase, and no terminal to ask for it").hint(
            "set AUMBRY_PASSWORD_FILE, AUMBRY_PASSWORD_COMMAND or AUMBRY_PASSWORD, or use \
             --password-file FILE",
        ));
    }
    let typed = prompt(question)?;
    Ok(passphrase(typed, "the terminal".to_string())?.credential)
}

/// Asks a person twice, so that no slip of the finger locks anything up.
fn choose(context: &Context, question: &str) -> Result<Credential, Failure> {
    let first = ask(context, question)?;
    let second = prompt("Once more: ")?;
    match &first {
        Credential::Passphrase(text) if *text != second => {
            Err(Failure::failed("the two passphrases differ; nothing was changed"))
        }
        _ => Ok(first),
    }
}

fn prompt(question: &str) -> Result<Zeroizing<String>, Failure> {
    match rpassword::prompt_password(question) {
        Ok(text) => Ok(Zeroizing::new(text)),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => {
            Err(Failure::new(Code::Interrupted, "interrupted"))
        }
        Err(error) => Err(Failure::file("the terminal", &error)),
    }
}

fn passphrase(text: Zeroizing<String>, origin: String) -> Result<Given, Failure> {
    if text.is_empty() {
        return Err(Failure::failed(format!("the passphrase from {origin} is empty"))
            .hint("an empty passphrase protects nothing"));
    }
    Ok(Given { credential: Credential::Passphrase(text), origin })
}

fn recovery(words: &str, origin: String) -> Result<Given, Failure> {
    // People write words in capitals and on several lines.
    let words = Zeroizing::new(words.split_whitespace().collect::<Vec<_>>().join(" "));
    let words = Zeroizing::new(words.to_lowercase());
    let credential = Credential::from_words(&words)
        .map_err(|error| Failure::from(error).hint(format!("it was taken from {origin}")))?;
    Ok(Given { credential, origin })
}

fn from_file(file: &Path, origin: String) -> Result<Given, Failure> {
    passphrase(without_line_end(read_text(file)?), origin)
}

fn from_command(command: &OsStr, origin: String) -> Result<Given, Failure> {
    let shown = printable(command.as_bytes());
    let result = Command::new("/bin/sh")
        .arg("-c")
        .arg(command)
        .stdin(Stdio::inherit())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| Failure::file(shown.as_bytes(), &error))?;
    let bytes = Zeroizing::new(result.stdout);
    if !result.status.success() {
        return Err(Failure::failed(format!("`{shown}` gave no passphrase: {}", result.status)));
    }
    let text = std::str::from_utf8(&bytes)
        .map_err(|_| Failure::failed(format!("what `{shown}` printed is not UTF-8 text")))?;
    passphrase(without_line_end(Zeroizing::new(text.to_string())), origin)
}

fn read_text(file: &Path) -> Result<Zeroizing<String>, Failure> {
    let name = file.as_os_str().as_bytes();
    let bytes = std::fs::read(file).map_err(|error| Failure::file(name, &error))?;
    let bytes = Zeroizing::new(bytes);
    let text = std::str::from_utf8(&bytes)
        .map_err(|_| Failure::failed(format!("{} is not UTF-8 text", printable(name))))?;
    Ok(Zeroizing::new(text.to_string()))
}

/// Editors and `echo` end a file with a line end that nobody means.
fn without_line_end(text: Zeroizing<String>) -> Zeroizing<String> {
    let kept = text.strip_suffix('\n').unwrap_or(&text);
    Zeroizing::new(kept.strip_suffix('\r').unwrap_or(kept).to_string())
}

fn named_file(file: &Path) -> String {
    printable(file.as_os_str().as_bytes())
}
