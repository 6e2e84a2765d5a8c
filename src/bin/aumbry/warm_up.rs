//! Has a person's command thaw objects of a cold store before they are read.

use std::ffi::OsStr;
use std::ffi::OsString;
use std::io;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::ffi::OsStringExt;
use std::process::Command;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use aumbry::clock::Clock;
use aumbry::monitor::Monitor;
use aumbry::store::NotThawed;
use aumbry::store::Thaw;
use aumbry::units::duration::format_duration;
use aumbry::units::duration::parse_duration;

use crate::context::Context;
use crate::failure::Failure;
use crate::failure::reason_of;
use crate::output::count;

/// Stands for an object's name in a command that is run for each.
const PATH: &str = "%path";
/// Where the objects are.
const VARIABLE: &str = "AUMBRY_COLD_STORE";
/// How often a wish to stop is looked for while objects thaw.
const GLANCE: Duration = Duration::from_millis(200);

/// What thaws objects of the cold store at this place; `None` when nobody has said how.
pub fn thaw(context: &Context, place: &str) -> Result<Option<Thaw>, Failure> {
    let Some(command) = context.global.warm_up_command.clone() else { return Ok(None) };
    let wait = context.global.warm_up_wait.as_deref().map(parse_duration).transpose()?;
    let (place, clock) = (place.to_string(), context.clock.clone());
    let monitor = context.monitor();
    Ok(Some(Arc::new(move |names: &[String]| {
        let packs = count(names.len() as u64, "object");
        monitor.note(&format!("{packs} of the cold store to be thawed before anything is read"));
        run(&command, &place, names).map_err(NotThawed::Failed)?;
        let Some(wait) = wait else { return Ok(()) };
        monitor.note(&format!("waiting {} until they are thawed", format_duration(wait)));
        let begun = clock.elapsed();
        while let Some(left) = wait.checked_sub(clock.elapsed().saturating_sub(begun)) {
            if monitor.interrupted() {
                return Err(NotThawed::Interrupted);
            }
            clock.sleep(left.min(GLANCE).max(Duration::from_millis(1)));
        }
        Ok(())
    })))
}

/// Runs the command once, with the names on its standard input, or for each name.
fn run(command: &OsStr, place: &str, names: &[String]) -> Result<(), String> {
    if !contains(command.as_bytes(), PATH.as_bytes()) {
        return run_once(command, place, &(names.join("\n") + "\n"));
    }
    // Names are letters, digits, dots, dashes and slashes: nothing that a shell would take for more.
    names.iter().try_for_each(|name| run_once(&with_path(command, name), place, ""))
}

fn run_once(command: &OsStr, place: &str, input: &str) -> Result<(), String> {
    let failed = |error: &io::Error| format!("the warm-up command failed: {}", reason_of(error));
    let mut child = Command::new("/bin/sh")
        .arg("-c")
        .arg(command)
        .env(VARIABLE, place)
        .stdin(Stdio::piped())
        // Standard output may be a file that is dumped.
        .stdout(io::stderr())
        .spawn()
        .map_err(|error| failed(&error))?;
    if let Some(mut stdin) = child.stdin.take() {
        match stdin.write_all(input.as_bytes()) {
            // It need not read them.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            written => written.map_err(|error| failed(&error))?,
        }
    }
    let status = child.wait().map_err(|error| failed(&error))?;
    match status.success() {
        true => Ok(()),
        false => Err(format!("the warm-up command failed ({status}); nothing was read")),
    }
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

fn with_path(command: &OsStr, name: &str) -> OsString {
    let mut rest = command.as_bytes();
    let mut result = Vec::new();
    while !rest.is_empty() {
        match rest.strip_prefix(PATH.as_bytes()) {
            Some(after) => {
                result.extend_from_slice(name.as_bytes());
                rest = after;
            }
            None => {
                result.push(rest[0]);
                rest = &rest[1..];
            }
        }
    }
    OsString::from_vec(result)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_in_a_command_is_replaced() {
        let command = OsStr::new("thaw %path && look '%path'");
        assert_eq!(with_path(command, "packs/3f/a"), "thaw packs/3f/a && look 'packs/3f/a'");
        assert!(contains(b"a %path", PATH.as_bytes()) && !contains(b"%pat", PATH.as_bytes()));
    }
}
