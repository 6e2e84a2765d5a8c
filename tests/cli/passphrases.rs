//! Where passphrases come from, and which of several is taken.

use std::fs;

use crate::support::PASSPHRASE;
use crate::support::Scene;

#[test]
fn a_passphrase_comes_from_a_file_a_command_or_a_variable_and_flags_are_stronger() {
    let mut scene = Scene::new();
    scene.run(&["init"]).ok();
    let (right, wrong) = (scene.text_path("right"), scene.text_path("wrong"));
    fs::write(&right, format!("{PASSPHRASE}\n")).unwrap();
    fs::write(&wrong, "wrong\r\n").unwrap();
    let print_right = format!("cat {right}");

    scene.set("AUMBRY_PASSWORD", "wrong");
    assert_eq!(scene.run(&["snapshots"]).code, 12);
    scene.run(&["snapshots", "-p", &right]).ok();
    scene.run(&["--password-command", &print_right, "snapshots"]).ok();
    scene.set("AUMBRY_PASSWORD_COMMAND", &print_right);
    scene.run(&["snapshots"]).ok();
    scene.set("AUMBRY_PASSWORD_FILE", &wrong);
    let refused = scene.run(&["snapshots"]);
    assert_eq!(refused.code, 12);
    assert!(refused.stderr.contains("AUMBRY_PASSWORD_FILE"), "{}", refused.stderr);
    scene.run(&["snapshots", "--password-command", &print_right]).ok();
    assert_eq!(scene.run(&["snapshots", "-p", &right, "--password-command", "x"]).code, 2);
}

#[test]
fn an_empty_passphrase_is_refused_and_nothing_is_made() {
    let mut scene = Scene::new();
    fs::write(scene.path("empty"), "\n").unwrap();
    scene.unset("AUMBRY_PASSWORD");
    let run = scene.run(&["init", "-p", "empty"]);
    assert_eq!(run.code, 1);
    assert!(run.stderr.contains("is empty"), "{}", run.stderr);
    assert!(!scene.repository().exists());
}

#[test]
fn without_passphrase_and_terminal_it_says_what_to_set() {
    let mut scene = Scene::with_documents();
    scene.unset("AUMBRY_PASSWORD");
    for arguments in [&["init"][..], &["backup", "Documents"]] {
        let run = scene.run(arguments);
        assert_eq!(run.code, 1);
        assert!(run.stderr.contains("set AUMBRY_PASSWORD_FILE"), "{}", run.stderr);
    }
    assert!(!scene.repository().exists());
}

#[test]
fn keys_are_added_changed_removed_and_replaced_by_words() {
    let mut scene = Scene::new();
    scene.run(&["init"]).ok();
    scene.set("AUMBRY_NEW_PASSWORD", "second");
    scene.run(&["key", "add", "--label", "office"]).ok();
    fs::write(scene.path("new"), "third\n").unwrap();
    scene.run(&["key", "passwd", "--new-password-file", "new"]).ok();
    assert_eq!(scene.run(&["snapshots"]).code, 12, "the old passphrase opens no more");
    scene.set("AUMBRY_PASSWORD", "third");

    let recovery = scene.run(&["key", "recovery", "--json"]).ok().json_lines();
    let words = recovery[0]["words"].as_str().unwrap();
    assert_eq!(words.split(' ').count(), 24);
    scene.set("AUMBRY_RECOVERY_KEY", &words.to_uppercase().replace(' ', "\n"));
    let keys = scene.run(&["key", "list", "--json"]).ok().json_lines();
    let keys = keys[0].as_array().unwrap();
    let kinds: Vec<_> = keys.iter().map(|key| key["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["passphrase", "passphrase", "recovery"]);
    assert_eq!(keys[2]["current"], true);
    assert_eq!(keys[0]["label"], "office");
    assert_eq!(scene.run(&["key", "passwd"]).code, 1, "a recovery key is no passphrase");
    scene.unset("AUMBRY_RECOVERY_KEY");

    let office = keys[0]["id"].as_str().unwrap();
    scene.run(&["key", "remove", &office[..10]]).ok();
    scene.set("AUMBRY_PASSWORD", "second");
    assert_eq!(scene.run(&["snapshots"]).code, 12, "a removed key opens nothing");
    fs::write(scene.path("words"), words).unwrap();
    scene.run(&["--recovery-key-file", "words", "snapshots"]).ok();
    fs::write(scene.path("words"), "abandon ".repeat(24)).unwrap();
    assert_eq!(scene.run(&["--recovery-key-file", "words", "snapshots"]).code, 1);
}

#[test]
fn the_key_in_use_is_not_removed() {
    let scene = Scene::new();
    scene.run(&["init"]).ok();
    let keys = scene.run(&["key", "list", "--json"]).ok().json_lines();
    let id = keys[0][0]["id"].as_str().unwrap();
    let run = scene.run(&["key", "remove", id]);
    assert_eq!(run.code, 1);
    assert!(run.stderr.contains("opened the repository just now"), "{}", run.stderr);
    assert_eq!(scene.run(&["key", "remove", "zz"]).code, 1);
    assert_eq!(scene.run(&["key", "remove", ""]).code, 1);
}
