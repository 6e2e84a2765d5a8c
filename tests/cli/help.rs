//! What `--help` says.

use crate::support::Scene;
use crate::support::assert_seen;

#[test]
fn every_command_explains_itself() {
    let scene = Scene::new();
    assert_seen("help", scene.run(&["--help"]).ok().text());
    for command in [
        "init",
        "backup",
        "snapshots",
        "ls",
        "find",
        "restore",
        "diff",
        "dump",
        "forget",
        "undelete",
        "copy",
        "mirror",
        "check",
        "repair",
        "key",
        "rekey",
        "stats",
        "debug",
        "completions",
        "version",
    ] {
        let run = scene.run(&[command, "--help"]).ok();
        // The global options are the same everywhere.
        let own = run.text().split("Global options:").next().unwrap();
        assert_seen(&format!("help_{command}"), own.trim_end());
    }
}

#[test]
fn completions_are_made_for_every_shell() {
    let scene = Scene::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let run = scene.run(&["completions", shell]).ok();
        assert!(run.text().contains("skip-if-unchanged"), "{shell}");
    }
}

#[test]
fn the_version_is_told() {
    let scene = Scene::new();
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(scene.run(&["--version"]).ok().text(), format!("aumbry {version}\n"));
    let line = scene.run(&["version"]).ok();
    assert!(line.text().starts_with(&format!("aumbry {version} (format 1, ")), "{}", line.text());
}
