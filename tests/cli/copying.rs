//! `copy`: from one repository into another, each with a passphrase of its own.

use std::fs;

use crate::support::Scene;

/// A home with two snapshots, and a passphrase for a second repository.
fn two_snapshots() -> Scene {
    let mut scene = Scene::with_documents();
    scene.set("AUMBRY_TO_PASSWORD", "another one");
    scene.run(&["backup", "-q", "--host", "box", "--tag", "a", "Documents"]).ok();
    fs::write(scene.path("Documents/notes.txt"), "second\n").unwrap();
    scene.run(&["backup", "-q", "--host", "box", "--tag", "b", "Documents"]).ok();
    scene
}

#[test]
fn snapshots_are_copied_restored_and_not_copied_twice() {
    let mut scene = two_snapshots();
    let missing = scene.run(&["copy", "--to", "second"]);
    assert_eq!(missing.code, 10, "{}", missing.stderr);
    assert!(missing.stderr.contains("--init makes it"), "{}", missing.stderr);
    assert!(!scene.path("second").exists());

    let first = scene.run(&["copy", "--to", "second", "--init", "--tag", "a"]).ok();
    assert!(first.text().starts_with("copied 1 snapshot to second in "), "{}", first.text());
    let dry = scene.run(&["copy", "--to", "second", "--dry-run", "--json"]).ok().json_lines();
    let summary = &dry[dry.len() - 1];
    assert_eq!(summary["dry_run"], true);
    assert_eq!(summary["copied"].as_array().unwrap().len(), 1);
    assert!(summary["plan"]["bytes"].as_u64().unwrap() < 10_000, "{summary}");
    let both = scene.run(&["copy", "--to", "second", "--json"]).ok().json_lines();
    let summary = &both[both.len() - 1];
    assert_eq!(summary["message_type"], "summary");
    assert_eq!(summary["known"].as_array().unwrap().len(), 1);
    let copy = summary["copied"][0].clone();
    let again = scene.run(&["copy", "--to", "second", "latest"]).ok();
    assert!(again.text().contains("copied 0 snapshots to second"), "{}", again.text());
    assert!(again.text().contains("1 snapshot was there already"), "{}", again.text());

    // Its own passphrase, and not the first one's, opens the copy.
    assert_eq!(scene.run(&["-r", "second", "snapshots"]).code, 12);
    scene.set("AUMBRY_PASSWORD", "another one");
    let listed = scene.run(&["-r", "second", "snapshots", "--json"]).ok().json_lines();
    let copies = listed[0].as_array().unwrap();
    assert_eq!(copies.len(), 2);
    assert_eq!(copies[1]["id"], copy["copy_id"]);
    assert_eq!(copies[1]["copied_from"]["snapshot_id"], copy["snapshot_id"]);
    assert_eq!(copies[1]["parent"], copies[0]["id"]);
    assert_eq!(copies[1]["hostname"], "box");
    let notes = format!("latest:{}", scene.text_path("Documents/notes.txt"));
    assert_eq!(scene.run(&["-r", "second", "dump", &notes]).ok().text(), "second\n");
    scene.run(&["-r", "second", "check", "--read-data"]).ok();
    // Made to cut alike: what is backed up into the copy is there already.
    let saved = ["-r", "second", "backup", "--host", "other", "--json", "Documents"];
    let saved = scene.run(&saved).ok().json_lines();
    assert_eq!(saved[saved.len() - 1]["data_blobs"], 0);
}

#[test]
fn a_second_repository_has_passphrase_sources_of_its_own() {
    let mut scene = two_snapshots();
    scene.run(&["copy", "-q", "--to", "second", "--init", "--tag", "a"]).ok();
    scene.unset("AUMBRY_TO_PASSWORD");
    let none = scene.run(&["copy", "--to", "second"]);
    assert_eq!(none.code, 1);
    assert!(none.stderr.contains("AUMBRY_TO_PASSWORD_FILE"), "{}", none.stderr);
    fs::write(scene.path("key"), "wrong\n").unwrap();
    let wrong = scene.run(&["copy", "--to", "second", "--to-password-file", "key"]);
    assert_eq!(wrong.code, 12);
    assert!(wrong.stderr.contains("taken from key"), "{}", wrong.stderr);
    let command = ["copy", "-q", "--to", "second", "--to-password-command", "echo another one"];
    scene.run(&command).ok();
    fs::write(scene.path("key"), "another one\n").unwrap();
    scene.set("AUMBRY_TO_PASSWORD_FILE", "key");
    let nothing = scene.run(&["copy", "--to", "second"]).ok();
    assert!(nothing.text().contains("2 snapshots were there already"), "{}", nothing.text());
    let itself = scene.run(&["-r", "second", "--password-file", "key", "copy", "--to", "second"]);
    assert_eq!(itself.code, 1);
    assert!(itself.stderr.contains("same repository"), "{}", itself.stderr);
}
