//! Reading from several stores of one repository, as a person does it on a bad day.

use std::fs;
use std::path::PathBuf;

use crate::support::Scene;
use crate::support::assert_same_file;

/// A home with a snapshot, and a mirror of its repository in `second`.
fn with_mirror() -> Scene {
    let scene = Scene::with_documents();
    scene.run(&["backup", "-q", "Documents"]).ok();
    scene.run(&["mirror", "-q", "--to", "second"]).ok();
    scene
}

fn packs(repository: PathBuf) -> Vec<PathBuf> {
    let folders = fs::read_dir(repository.join("packs")).unwrap();
    let files = folders.flat_map(|folder| fs::read_dir(folder.unwrap().path()).unwrap());
    files.map(|file| file.unwrap().path()).collect()
}

#[track_caller]
fn assert_restored(scene: &Scene, target: &str) {
    let documents = scene.text_path("Documents");
    for file in ["notes.txt", "letters/first.txt", "picture.raw"] {
        let restored = scene.path(target).join(documents.trim_start_matches('/')).join(file);
        assert_same_file(&restored, &scene.path("Documents").join(file));
    }
}

#[test]
fn files_come_back_from_a_mirror_when_the_repository_is_gone() {
    let mut scene = with_mirror();
    fs::rename(scene.repository(), scene.path("lost")).unwrap();
    let gone = scene.run(&["restore", "--target", "none"]);
    assert_eq!(gone.code, 10);
    let restored = scene.run(&["restore", "--target", "back", "--mirror", "second"]).ok();
    assert!(restored.stderr.contains("is not a repository"), "{}", restored.stderr);
    assert!(restored.stderr.contains("reading goes on without it, from"), "{}", restored.stderr);
    assert_restored(&scene, "back");
    assert!(!scene.repository().exists());
    scene.set("AUMBRY_MIRROR", "nowhere");
    scene.set("AUMBRY_MIRROR_2", "second");
    let notes = format!("latest:{}", scene.text_path("Documents/notes.txt"));
    let dumped = scene.run(&["dump", &notes]).ok();
    assert_eq!(dumped.text(), "first\n");
    assert!(dumped.stderr.contains("nowhere"), "{}", dumped.stderr);
    scene.run(&["ls", "latest"]).ok();
    scene.run(&["diff", "latest"]).ok();
    assert_eq!(
        scene.run(&["snapshots", "--json"]).ok().json_lines()[0].as_array().unwrap().len(),
        1
    );
    // What was named and cannot be read was not found to be whole.
    let checked = scene.run(&["check", "--read-data", "--json"]);
    assert_eq!(checked.code, 1);
    let lines = checked.json_lines();
    let summary = &lines[lines.len() - 1];
    assert_eq!(summary["num_errors"], 0);
    assert_eq!(summary["silent_stores"].as_array().unwrap().len(), 2);
    // To write, the repository itself is needed.
    assert_eq!(scene.run(&["forget", "--keep-last", "1"]).code, 10);
}

#[test]
fn damaged_packs_are_read_from_a_mirror_and_told() {
    let scene = with_mirror();
    for pack in packs(scene.repository()) {
        let mut bytes = fs::read(&pack).unwrap();
        let at = bytes.len() / 2;
        bytes[at] ^= 1;
        // Objects are read-only.
        fs::remove_file(&pack).unwrap();
        fs::write(&pack, bytes).unwrap();
    }
    let alone = scene.run(&["restore", "--no-cache", "--target", "half"]);
    assert_ne!(alone.code, 0);
    let arguments = ["restore", "--target", "back", "--mirror", "second", "--json"];
    let restored = scene.run(&arguments).ok();
    let lines = restored.json_lines();
    let summary = &lines[lines.len() - 1];
    assert!(summary["objects_read_elsewhere"].as_u64().unwrap() >= 1, "{summary}");
    assert_restored(&scene, "back");

    let checked = scene.run(&["check", "--read-data", "--mirror", "second", "--json"]);
    assert_eq!(checked.code, 1);
    let lines = checked.json_lines();
    let (summary, damage) = lines.split_last().unwrap();
    assert_eq!(summary["mirrors"][0]["num_errors"], 0);
    let damage: Vec<_> = damage.iter().filter(|line| line["message_type"] == "damage").collect();
    assert!(!damage.is_empty());
    for damage in damage {
        assert_eq!(damage["hit_count"], 0, "{damage}");
        let message = damage["message"].as_str().unwrap();
        assert!(message.ends_with("second has it whole"), "{message}");
    }
}

#[test]
fn what_is_no_mirror_of_the_repository_is_refused() {
    let scene = with_mirror();
    scene.run(&["-r", "other", "init", "-q"]).ok();
    let other = scene.run(&["ls", "--mirror", "other"]);
    assert_ne!(other.code, 0);
    assert!(other.stderr.contains("another repository"), "{}", other.stderr);
    fs::create_dir(scene.path("empty")).unwrap();
    let empty = scene.run(&["ls", "--mirror", "empty"]);
    assert_eq!(empty.code, 10);
    assert!(empty.stderr.contains("empty is not a repository"), "{}", empty.stderr);
    let option = scene.run(&["ls", "--mirror", "second", "--mirror-option", "2:region=x"]);
    assert_eq!(option.code, 2);
    assert!(option.stderr.contains("no such place"), "{}", option.stderr);
    let place = "webdav+https://host.invalid/a";
    let secret = ["ls", "--mirror", "second", "--mirror", place, "--mirror-option", "2:token=x"];
    let secret = scene.run(&secret);
    assert_eq!(secret.code, 2);
    assert!(secret.stderr.contains("set AUMBRY_TO_2_STORE_TOKEN"), "{}", secret.stderr);
}
