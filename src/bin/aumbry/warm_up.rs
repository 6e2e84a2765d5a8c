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
use aumbry::clock::SystemClock;
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
/// How often it is looked whether the command has ended.
const POLL: Duration = Duration::from_millis(20);

/// What thaws objects of the cold store at this place; `None` when nobody has said how.
pub fn thaw(context: &Context, place: &str) -> Result<Option<Thaw>, Failure> {
    let Some(command) = context.global.warm_up_command.clone() else { return Ok(None) };
    let wait = context.global.warm_up_wait.as_deref().map(parse_duration).transpose()?;
    let (place, clock) = (place.to_string(), context.clock.clone());
    let monitor = context.monitor();
    Ok(Some(Arc::new(move |names: &[String]| {
        let packs = count(names.len() as u64, "object");
        monitor.note(&format!("{packs} of the cold store to be thawed before anything is read"));
        run(&command, &place, names, &monitor)?;
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
fn run(
    command: &OsStr,
    place: &str,
    names: &[String],
    monitor: &dyn Monitor,
) -> Result<(), NotThawed> {
    if !contains(command.as_bytes(), PATH.as_bytes()) {
        return run_once(command, place, names.join("\n") + "\n", monitor);
    }
    // Names are letters, digits, dots, dashes and slashes: nothing that a shell would take for more.
    names
        .iter()
        .try_for_each(|name| run_once(&with_path(command, name), place, String::new(), monitor))
}

/// Runs it to its end, or until somebody wants to stop: then it is killed.
fn run_once(
    command: &OsStr,
    place: &str,
    input: String,
    monitor: &dyn Monitor,
) -> Result<(), NotThawed> {
    if monitor.interrupted() {
        return Err(NotThawed::Interrupted);
    }
    let failed = |error: &io::Error| {
        NotThawed::Failed(format!("the warm-up command failed: {}", reason_of(error)))
    };
    let mut child = Command::new("/bin/sh")
        .arg("-c")
        .arg(command)
        .env(VARIABLE, place)
        .stdin(Stdio::piped())
        // Standard output may be a file that is dumped.
        .stdout(io::stderr())
        .spawn()
        .map_err(|error| failed(&error))?;
    let mut stdin = child.stdin.take();
    // On a thread of its own: a command that does not read would hold up whoever wants to stop.
    let writer = std::thread::spawn(move || match stdin.as_mut() {
        Some(stdin) => stdin.write_all(input.as_bytes()),
        None => Ok(()),
    });
    let clock = SystemClock::new();
    let status = loop {
        if let Some(status) = child.try_wait().map_err(|error| failed(&error))? {
            break status;
        }
        if monitor.interrupted() {
            // One that has ended by itself cannot be killed, and need not be.
            let _ = child.kill();
            let _ = child.wait();
            return Err(NotThawed::Interrupted);
        }
        clock.sleep(POLL);
    };
    if !status.success() {
        // The wish to stop may have reached the command first.
        return Err(match monitor.interrupted() {
            true => NotThawed::Interrupted,
            false => NotThawed::Failed(format!(
                "the warm-up command failed ({status}); nothing was read"
            )),
        });
    }
    // What it left running may hold its input open: whoever has ended well has read what it wanted.
    match writer.is_finished().then(|| writer.join()) {
        Some(Ok(Err(error))) if error.kind() != io::ErrorKind::BrokenPipe => Err(failed(&error)),
        _ => Ok(()),
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

    /// Wants to stop once it was asked twice.
    #[derive(Default)]
    struct Stops(std::sync::atomic::AtomicU32);

    impl Monitor for Stops {
        fn interrupted(&self) -> bool {
            self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed) >= 2
        }
    }

    #[test]
    fn a_wish_to_stop_ends_a_command_that_neither_reads_nor_ends() {
        let names = vec!["packs/0123456789".to_string(); 100_000];
        let stops = Stops::default();
        let run = run(OsStr::new("exec sleep 600"), "cold", &names, &stops);
        assert_eq!(run, Err(NotThawed::Interrupted));
    }

    #[test]
    fn before_each_name_it_is_looked_whether_somebody_wants_to_stop() {
        let names = vec!["packs/0123456789".to_string(); 100_000];
        let stops = Stops::default();
        let run = run(OsStr::new("true %path"), "cold", &names, &stops);
        assert_eq!(run, Err(NotThawed::Interrupted));
    }

    #[test]
    fn every_path_in_a_command_is_replaced() {
        let command = OsStr::new("thaw %path && look '%path'");
        assert_eq!(with_path(command, "packs/3f/a"), "thaw packs/3f/a && look 'packs/3f/a'");
        assert!(contains(b"a %path", PATH.as_bytes()) && !contains(b"%pat", PATH.as_bytes()));
    }
}
