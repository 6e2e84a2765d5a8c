//! A home folder to run the binary in, and a record of what it said, without what changes every time.

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;

use serde_json::Value;
use tempfile::TempDir;

/// The passphrase of every repository here.
pub const PASSPHRASE: &str = "correct horse";

/// What one run left behind.
pub struct Run {
    pub code: i32,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

impl Run {
    /// Standard output as text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).unwrap()
    }

    /// The JSON values on standard output, one a line.
    pub fn json_lines(&self) -> Vec<Value> {
        parse_lines(self.text())
    }

    /// The JSON values on standard error, one a line.
    pub fn json_errors(&self) -> Vec<Value> {
        parse_lines(&self.stderr)
    }

    /// The same, once it is known to have gone well.
    #[track_caller]
    pub fn ok(self) -> Run {
        assert_eq!(self.code, 0, "{}\n{}", String::from_utf8_lossy(&self.stdout), self.stderr);
        self
    }
}

fn parse_lines(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}")))
        .collect()
}

/// An empty home folder.
pub struct Scene {
    folder: TempDir,
    variables: Vec<(String, String)>,
    transcript: String,
}

impl Scene {
    /// A home with a passphrase in its environment.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let variables = vec![("AUMBRY_PASSWORD".to_string(), PASSPHRASE.to_string())];
        Scene { folder, variables, transcript: String::new() }
    }

    /// The same with some documents.
    pub fn with_documents() -> Self {
        let scene = Scene::new();
        let documents = scene.path("Documents");
        fs::create_dir_all(documents.join("letters")).unwrap();
        fs::write(documents.join("notes.txt"), "first\n").unwrap();
        fs::write(documents.join("letters/first.txt"), "Dear reader\n").unwrap();
        fs::write(documents.join("letters/empty"), "").unwrap();
        std::os::unix::fs::symlink("letters/first.txt", documents.join("newest")).unwrap();
        let picture: Vec<u8> =
            (0..300_000_u32).flat_map(|n| n.wrapping_mul(n).to_le_bytes()).collect();
        fs::write(documents.join("picture.raw"), picture).unwrap();
        scene
    }

    /// A path in the home, links in it resolved.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().canonicalize().unwrap().join(name)
    }

    /// The same as text.
    pub fn text_path(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_string()
    }

    /// The default repository's folder.
    pub fn repository(&self) -> PathBuf {
        self.path(".local/share/aumbry/repository")
    }

    /// Sets a variable from now on.
    pub fn set(&mut self, name: &str, value: &str) {
        self.unset(name);
        self.variables.push((name.to_string(), value.to_string()));
    }

    /// Takes a variable away.
    pub fn unset(&mut self, name: &str) {
        self.variables.retain(|(other, _)| other != name);
    }

    /// The binary with these arguments, ready to run in this home and nowhere else.
    pub fn command<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_aumbry"));
        command
            .args(arguments)
            .env_clear()
            .env("HOME", self.path(""))
            .env("PATH", "/usr/bin:/bin")
            .env("TZ", "UTC")
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .current_dir(self.path(""))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Runs it.
    pub fn run<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Run {
        self.run_with_input(arguments, b"")
    }

    /// Runs it with something to read.
    pub fn run_with_input<S: AsRef<OsStr>>(&self, arguments: &[S], input: &[u8]) -> Run {
        let mut child = self.command(arguments).stdin(Stdio::piped()).spawn().unwrap();
        // It may end without reading.
        let _ = child.stdin.take().unwrap().write_all(input);
        let output = child.wait_with_output().unwrap();
        Run {
            code: output.status.code().unwrap_or(-1),
            stdout: output.stdout,
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Runs it at a terminal at which somebody types a line; all that is shown is in the run's `stdout`. `None`
    /// where the machine has no `script`, which makes the terminal.
    pub fn run_at_terminal(&self, arguments: &[&str], typed: &str) -> Option<Run> {
        let words: Vec<_> = arguments.iter().map(|word| format!("'{word}'")).collect();
        let inside = format!("'{}' {}", env!("CARGO_BIN_EXE_aumbry"), words.join(" "));
        let mut command = Command::new("script");
        command
            .args(["--quiet", "--return", "--command", &inside, "/dev/null"])
            .env_clear()
            .envs(
                self.command::<&str>(&[])
                    .get_envs()
                    .filter_map(|(name, value)| Some((name, value?))),
            )
            .current_dir(self.path(""))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().ok()?;
        child.stdin.take().unwrap().write_all(format!("{typed}\n").as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        Some(Run {
            code: output.status.code().unwrap_or(-1),
            stdout: output.stdout,
            stderr: String::from_utf8(output.stderr).unwrap(),
        })
    }

    /// Runs it and writes down what a person would have seen.
    pub fn show(&mut self, arguments: &[&str]) -> Run {
        let run = self.run(arguments);
        let mut text = format!("$ aumbry {}\n{}", arguments.join(" "), run.text());
        if !run.stderr.is_empty() {
            text.push_str("(standard error)\n");
            text.push_str(&run.stderr);
        }
        if run.code != 0 {
            text.push_str(&format!("(exit code {})\n", run.code));
        }
        text.push('\n');
        self.transcript.push_str(&self.normalise(&text));
        run
    }

    /// Everything that was shown.
    pub fn transcript(&self) -> &str {
        &self.transcript
    }

    /// A text without what differs between machines and runs.
    pub fn normalise(&self, text: &str) -> String {
        let text = text.replace(self.text_path("").trim_end_matches('/'), "~");
        let text = replace_shape(&text, "0000-00-00 00:00:00", "2026-01-01 12:00:00");
        let text = replace_shape(&text, "0.00 s", "0.00 s");
        let text = replace_figures(&text);
        replace_ids(&text)
    }
}

/// A repository's only object in a folder.
pub fn only_file(folder: &Path) -> PathBuf {
    let mut files: Vec<_> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    files.pop().unwrap()
}

/// Whether two files hold the same bytes.
#[track_caller]
pub fn assert_same_file(one: &Path, other: &Path) {
    assert!(fs::read(one).unwrap() == fs::read(other).unwrap(), "{one:?} and {other:?} differ");
}

/// A name that is no UTF-8.
pub fn strange_name() -> &'static OsStr {
    OsStr::from_bytes(b"na\xffme\n")
}

/// Replaces what has a shape, in which `0` stands for any digit.
fn replace_shape(text: &str, shape: &str, with: &str) -> String {
    let (text, shape) = (text.as_bytes(), shape.as_bytes());
    let mut result = Vec::new();
    let mut at = 0;
    while at < text.len() {
        let fits = text.get(at..at + shape.len()).is_some_and(|part| {
            part.iter().zip(shape).all(|(byte, wanted)| match wanted {
                b'0' => byte.is_ascii_digit(),
                _ => byte == wanted,
            })
        });
        if fits {
            result.extend_from_slice(with.as_bytes());
            at += shape.len();
        } else {
            result.push(text[at]);
            at += 1;
        }
    }
    String::from_utf8(result).unwrap()
}

/// Replaces the figures that depend on how well things shrink and on where they are cut, which differs
/// between repositories.
fn replace_figures(text: &str) -> String {
    let mut result = String::new();
    for line in text.split_inclusive('\n') {
        let is_about_storing = ["  stored ", "  to store ", "stored ", "unique ", "read "]
            .iter()
            .any(|start| line.starts_with(start));
        let words: Vec<_> = line.split(' ').collect();
        let is_counted = |at: usize| {
            let unit = words.get(at + 1).copied().unwrap_or_default();
            ["blob", "pack", "frame"].iter().any(|thing| unit.starts_with(thing))
                || is_about_storing
        };
        let replaced: Vec<_> = words
            .iter()
            .enumerate()
            .map(|(at, word)| {
                let is_number =
                    word.starts_with(|first: char| first.is_ascii_digit()) && !word.ends_with(':');
                match *word {
                    _ if is_number && is_counted(at) => "#",
                    "B" | "KiB" | "MiB" if is_about_storing => "B",
                    "B\n" | "KiB\n" | "MiB\n" if is_about_storing => "B\n",
                    other => other,
                }
            })
            .collect();
        result.push_str(&replaced.join(" "));
    }
    result
}

/// Replaces words of 8 and more hexadecimal digits, keeping their length.
fn replace_ids(text: &str) -> String {
    let mut result = String::new();
    let mut word = String::new();
    for character in text.chars().chain(['\n']) {
        if character.is_ascii_alphanumeric() {
            word.push(character);
            continue;
        }
        let is_id = word.len() >= 8 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
        if is_id {
            result.push_str(&"x".repeat(word.len()));
        } else {
            result.push_str(&word);
        }
        word.clear();
        result.push(character);
    }
    result.pop();
    result
}

/// Compares a text with the one that is kept under this name beside the tests.
pub fn assert_seen(name: &str, text: &str) {
    let mut settings = insta::Settings::clone_current();
    settings.set_omit_expression(true);
    settings.set_prepend_module_to_snapshot(false);
    settings.bind(|| insta::assert_snapshot!(name, text));
}
