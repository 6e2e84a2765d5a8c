//! The rows once more, as an ordinary user; and what such a user is told of what cannot be kept.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use aumbry::monitor::RecordingMonitor;
use aumbry::ops::restore::restore;
use aumbry::store::{LocalMode, Store};

use crate::described::{Difference, describe, differences};
use crate::support::{
    back_up_with, create, noise, open, options, restore_options, small_settings, snapshots,
};

use super::{is_root, make_devices, make_kinds, set_attribute, set_mode, some_capabilities};

/// Somebody without rights, who has no home and no group but one.
const ORDINARY_USER: u32 = 65_534;
/// Set for a test that runs again as an ordinary user: the folder with what root prepared.
const PREPARED: &str = "AUMBRY_TEST_PREPARED";

/// Runs tests of this file again as a user without rights, whose temporary files go below `folder`.
/// `None`: that is not possible here.
fn run_as_ordinary_user(folder: &Path, arguments: &[&str], is_prepared: bool) -> Option<String> {
    // Where the tests are built may be closed to others.
    let program = folder.join("tests");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    set_mode(&program, 0o755);
    set_mode(folder, 0o755);
    let temporary = folder.join("tmp");
    fs::create_dir(&temporary).unwrap();
    chown(&temporary, Some(ORDINARY_USER), Some(ORDINARY_USER)).unwrap();
    let mut command = Command::new(&program);
    command.args(arguments).args(["--nocapture", "--test-threads=2"]).current_dir("/");
    command.env("TMPDIR", &temporary).env_remove(PREPARED);
    if is_prepared {
        command.env(PREPARED, folder);
    }
    let output = match command.uid(ORDINARY_USER).gid(ORDINARY_USER).output() {
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            println!("skipped: the temporary folder is closed to ordinary users");
            return None;
        }
        output => output.unwrap(),
    };
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    assert!(output.status.success(), "{text}");
    Some(text)
}

#[test]
fn the_same_holds_for_an_ordinary_user() {
    if !is_root() {
        println!("skipped: not root");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let arguments = ["fidelity::", "--skip", "ordinary_user"];
    let Some(text) = run_as_ordinary_user(folder.path(), &arguments, false) else { return };
    let skipped = text.matches("skipped: not root").count();
    let ran = text.matches("... ok").count() + text.matches("\nok").count();
    assert!(skipped == 4 && ran >= 18, "{skipped} skipped, {ran} ran\n{text}");
}

#[test]
fn what_an_ordinary_user_may_not_restore_is_counted_and_shown_and_the_rest_is_restored() {
    if let Some(folder) = std::env::var_os(PREPARED) {
        return restore_what_root_prepared(&PathBuf::from(folder));
    }
    if !is_root() {
        println!("skipped: not root");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("source");
    fs::create_dir(&source).unwrap();
    set_mode(&source, 0o755);
    make_kinds(&source);
    make_devices(&source);
    let program = source.join("program");
    fs::write(&program, noise(3000, 5)).unwrap();
    chown(&program, Some(1234), Some(4321)).unwrap();
    set_mode(&program, 0o6755);
    // A file system that has the one has the other.
    if set_attribute(&program, "security.capability", &some_capabilities()) {
        set_attribute(&program, "trusted.comment", b"for root");
    }
    set_attribute(&source.join("file"), "user.comment", b"kept");
    let own = source.join("own");
    fs::write(&own, "the user's own").unwrap();
    chown(&own, Some(ORDINARY_USER), Some(ORDINARY_USER)).unwrap();
    set_mode(&own, 0o4755);

    let place = folder.path().join("repository");
    let store = Store::local(&place, LocalMode::Create).unwrap();
    let repository = create(store, small_settings(), None);
    back_up_with(&repository, &source, &options(), &RecordingMonitor::default()).unwrap();
    drop(repository);
    for path in describe(&place).keys() {
        let path = place.join(OsStr::from_bytes(path.strip_prefix(b"/").unwrap_or_default()));
        chown(path, Some(ORDINARY_USER), Some(ORDINARY_USER)).unwrap();
    }
    let name = "what_an_ordinary_user_may_not_restore";
    if let Some(text) = run_as_ordinary_user(folder.path(), &[name], true) {
        assert!(text.contains("1 passed"), "{text}");
    }
}

/// In the process of the ordinary user.
fn restore_what_root_prepared(folder: &Path) {
    assert!(!is_root());
    let (source, target) = (folder.join("source"), folder.join("tmp/restored"));
    let repository = open(Store::local(&folder.join("repository"), LocalMode::Open).unwrap(), None);
    let newest = snapshots(&repository).pop().unwrap();
    let monitor = RecordingMonitor::default();
    let summary = restore(&repository, &newest, &target, &restore_options(), &monitor).unwrap();
    let problems = monitor.problems();
    let told = |item: &str, text: &str| {
        let is_it = |problem: &&aumbry::monitor::Problem| {
            problem.item == item && problem.message.starts_with(text)
        };
        assert_eq!(problems.iter().filter(is_it).count(), 1, "{item} {text}: {problems:#?}");
    };
    let wanted = describe(&source);
    let has_capabilities =
        wanted[&b"/program"[..]].attributes.contains_key(&b"security.capability"[..]);
    told("/tree/block", "Operation not permitted");
    told("/tree/character", "Operation not permitted");
    assert_eq!(summary.entries_failed, 2);
    for name in ["", "/directory", "/file", "/symlink", "/fifo", "/socket"] {
        told(&format!("/tree{name}"), "owner 0:0: ");
    }
    told("/tree/program", "owner 1234:4321: ");
    if has_capabilities {
        told("/tree/program", "attribute security.capability: ");
        told("/tree/program", "attribute trusted.comment: ");
    }
    assert_eq!(summary.metadata_failed, 7 + 2 * u64::from(has_capabilities));
    assert_eq!(problems.len() as u64, summary.entries_failed + summary.metadata_failed);

    let mut lost: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for Difference { path, attribute, .. } in differences(&wanted, &describe(&target)) {
        lost.entry(path).or_default().push(attribute);
    }
    assert_eq!(lost.remove("/block"), Some(vec!["entry".into()]));
    assert_eq!(lost.remove("/character"), Some(vec!["entry".into()]));
    // A program does not run with the rights of somebody it was not meant for.
    let mut of_program = vec!["mode", "uid", "gid"];
    of_program.extend(has_capabilities.then_some("attribute security.capability"));
    assert_eq!(lost.remove("/program").unwrap(), of_program);
    for (path, attributes) in &lost {
        assert_eq!(*attributes, ["uid", "gid"], "{path}");
    }
    assert_eq!(lost.len(), 6, "{lost:?}");
}
