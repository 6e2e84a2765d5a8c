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

#[test]
fn several_repositories_are_copied_into_in_one_pass_and_one_that_fails_holds_up_none() {
    let mut scene = two_snapshots();
    scene.set("AUMBRY_TO_2_PASSWORD", "a third one");
    let made = scene.run(&["copy", "--to", "second", "--to", "third", "--init"]).ok();
    for place in ["second", "third"] {
        let line = format!("copied 2 snapshots to {place} in ");
        assert!(made.text().contains(&line), "{}", made.text());
    }
    let both = scene.run(&["copy", "--to", "second", "--to", "third", "--json"]).ok();
    let lines = both.json_lines();
    let of_each: Vec<_> = lines.iter().filter(|line| line["message_type"] == "summary").collect();
    assert_eq!(of_each.len(), 2);
    assert_eq!((&of_each[0]["to"], &of_each[1]["to"]), (&"second".into(), &"third".into()));
    assert_eq!(of_each[1]["known"].as_array().unwrap().len(), 2);
    for (place, passphrase) in [("second", "another one"), ("third", "a third one")] {
        scene.set("AUMBRY_PASSWORD", passphrase);
        scene.run(&["-r", place, "check", "--read-data"]).ok();
    }
    scene.set("AUMBRY_PASSWORD", crate::support::PASSPHRASE);

    fs::write(scene.path("Documents/notes.txt"), "third\n").unwrap();
    scene.run(&["backup", "-q", "--host", "box", "Documents"]).ok();
    let arguments = ["copy", "--to", "nowhere", "--to", "third", "--to", "second"];
    scene.set("AUMBRY_TO_3_PASSWORD", "another one");
    let partly = scene.run(&arguments);
    assert_eq!(partly.code, 3, "{}", partly.stderr);
    assert!(partly.stderr.contains("nowhere is not a repository"), "{}", partly.stderr);
    assert!(partly.stderr.contains("nothing more was copied to nowhere"), "{}", partly.stderr);
    assert!(partly.text().contains("copied 1 snapshot to third in "), "{}", partly.text());
    assert!(partly.text().contains("copied 1 snapshot to second in "), "{}", partly.text());
    let json = scene.run(&[&arguments[..], &["--json"]].concat());
    assert_eq!(json.code, 3);
    let lines = json.json_lines();
    let failed: Vec<_> =
        lines.iter().filter(|line| line["message_type"] == "target_error").collect();
    assert_eq!((failed.len(), &failed[0]["to"]), (1, &"nowhere".into()));
    let none = scene.run(&["copy", "--to", "nowhere", "--to", "elsewhere"]);
    assert_eq!(none.code, 10, "{}", none.stderr);
    let wrong = scene.run(&["copy", "--to", "second", "--to", "third", "--to-option", "4:a=b"]);
    assert_eq!(wrong.code, 2, "{}", wrong.stderr);
}

#[test]
fn what_to_set_instead_of_a_secret_option_is_what_the_second_store_reads() {
    let scene = two_snapshots();
    let place = "webdav+https://host.invalid/a";
    for command in ["copy", "mirror"] {
        let run = scene.run(&[command, "--to", place, "--to-option", "token=x"]);
        assert_eq!(run.code, 2);
        assert!(run.stderr.contains("set AUMBRY_TO_STORE_TOKEN in"), "{}", run.stderr);
        assert!(run.stderr.contains("--to-option token"), "{}", run.stderr);
    }
}
