//! A repository in a hot store and a cold one, as a person sees it.

use std::fs;

use crate::support::Scene;

/// A home with documents, saved in a cold folder and a hot one.
fn two_stores() -> Scene {
    let mut scene = Scene::with_documents();
    scene.set("AUMBRY_REPOSITORY", "cold");
    scene.set("AUMBRY_REPO_HOT", "hot");
    scene.run(&["init"]).ok();
    scene.run(&["backup", "-q", "--host", "box", "--name", "docs", "Documents"]).ok();
    scene
}

fn thawed(scene: &Scene) -> Vec<String> {
    let told = fs::read_to_string(scene.path("thawed")).unwrap_or_default();
    told.lines().map(str::to_string).collect()
}

/// Arguments with a command that thaws.
fn with<'a>(command: &'a str, rest: &[&'a str]) -> Vec<&'a str> {
    [&["--warm-up-command", command, "--warm-up-wait", "0s"][..], rest].concat()
}

#[test]
fn contents_are_thawed_by_a_command_before_they_are_read() {
    let scene = two_stores();
    assert!(scene.path("cold/packs").is_dir() && !scene.path("hot/config").exists());
    let dry = scene.run(&["restore", "--target", "to", "--dry-run", "--json"]).ok().json_lines();
    let planned: Vec<String> =
        serde_json::from_value(dry.last().unwrap()["cold_packs"].clone()).unwrap();
    assert!(!planned.is_empty());
    let told = scene.run(&["restore", "--target", "to", "--dry-run", "-v"]).ok();
    assert!(told.text().contains("of the cold store would be read"), "{}", told.text());
    assert!(told.text().contains(&planned[0]), "{}", told.text());

    // It is given the names, and where they are; what it prints is not taken for what is dumped.
    let command = "cat >> thawed; echo $AUMBRY_COLD_STORE > place; echo thawing";
    scene.run(&with(command, &["restore", "--target", "to"])).ok();
    assert_eq!(thawed(&scene), planned);
    let place = fs::read_to_string(scene.path("place")).unwrap();
    assert_eq!(place.trim(), scene.text_path("cold"));
    fs::remove_file(scene.path("thawed")).unwrap();
    let file = format!("latest:{}", scene.text_path("Documents/picture.raw"));
    let dumped = scene.run(&with(command, &["dump", &file])).ok();
    assert_eq!(dumped.stdout, fs::read(scene.path("Documents/picture.raw")).unwrap());
    assert!(!thawed(&scene).is_empty());
    fs::remove_file(scene.path("thawed")).unwrap();
    scene.run(&with(command, &["check", "--read-data"])).ok();
    assert!(planned.iter().all(|name| thawed(&scene).contains(name)));
    // The structure is checked without contents.
    fs::remove_file(scene.path("thawed")).unwrap();
    scene.run(&with(command, &["check"])).ok();
    assert!(thawed(&scene).is_empty());
    let each = ["--warm-up-command", "echo %path >> thawed", "check", "--read-data"];
    scene.run(&each).ok();
    assert!(planned.iter().all(|name| thawed(&scene).contains(name)));
}

#[test]
fn a_command_that_fails_stops_before_anything_is_read() {
    let scene = two_stores();
    let run = scene.run(&["--warm-up-command", "exit 7", "restore", "--target", "to"]);
    assert_eq!(run.code, 1, "{}", run.stderr);
    assert!(run.stderr.contains("the warm-up command failed"), "{}", run.stderr);
    assert!(!scene.path("to").join("notes.txt").exists());
}

#[test]
fn whoever_names_one_store_or_the_wrong_one_is_told_what_to_type() {
    let mut scene = two_stores();
    let says = |scene: &Scene, code: i32, words: &str| {
        let run = scene.run(&["snapshots"]);
        assert_eq!(run.code, code, "{}", run.stderr);
        assert!(run.stderr.contains(words), "{words}: {}", run.stderr);
    };
    scene.unset("AUMBRY_REPO_HOT");
    says(&scene, 1, "--repo-hot PLACE");
    scene.set("AUMBRY_REPOSITORY", "hot");
    says(&scene, 1, "name its cold store with -r");
    scene.set("AUMBRY_REPO_HOT", "cold");
    says(&scene, 1, "With -r goes the cold store");
    scene.set("AUMBRY_REPO_HOT", "hot");
    says(&scene, 2, "the same place");
    scene.set("AUMBRY_REPO_HOT", "hot/below");
    says(&scene, 2, "one is in the other");
    scene.set("AUMBRY_REPO_HOT", "hot");
    scene.unset("AUMBRY_REPOSITORY");
    says(&scene, 2, "name the cold store with -r");
    scene.set("AUMBRY_REPOSITORY", "elsewhere");
    says(&scene, 10, "is not a repository");
    scene.unset("AUMBRY_REPO_HOT");
    let run = scene.run(&["--warm-up-command", "true", "snapshots"]);
    assert_eq!(run.code, 2, "{}", run.stderr);
}

#[test]
fn mirrors_beside_a_hot_store_are_refused_and_the_mirror_is_read_alone() {
    let mut scene = two_stores();
    scene.run(&["mirror", "-q", "--to", "mirror"]).ok();
    for arguments in [&["ls", "--mirror", "mirror"][..], &["repair", "packs", "--mirror", "mirror"]]
    {
        let refused = scene.run(arguments);
        assert_eq!(refused.code, 2, "{}", refused.stderr);
        assert!(refused.stderr.contains("without --repo-hot"), "{}", refused.stderr);
    }
    scene.set("AUMBRY_MIRROR", "mirror");
    assert_eq!(scene.run(&["ls"]).code, 2);
    scene.unset("AUMBRY_MIRROR");
    scene.unset("AUMBRY_REPO_HOT");
    scene.run(&["-r", "mirror", "check", "--read-data"]).ok();
}

#[test]
fn a_lost_hot_store_is_made_again_without_a_passphrase() {
    let mut scene = two_stores();
    fs::rename(scene.path("hot"), scene.path("kept")).unwrap();
    scene.unset("AUMBRY_PASSWORD");
    // A disk that is not mounted looks as one that is lost.
    let asked = scene.run(&["repair", "hot"]);
    assert_eq!(asked.code, 1, "{}", asked.stderr);
    assert!(asked.stderr.contains("is refused from then on"), "{}", asked.stderr);
    assert!(asked.stderr.contains("--yes"), "{}", asked.stderr);
    assert!(!scene.path("hot").join("config-hot").exists());
    let run = scene.run(&["repair", "hot", "--yes"]).ok();
    assert!(run.text().starts_with("hot: brought back "), "{}", run.text());
    let again = scene.run(&["repair", "hot", "--dry-run"]).ok();
    assert!(again.text().contains("everything"), "{}", again.text());
    scene.set("AUMBRY_PASSWORD", crate::support::PASSPHRASE);
    scene.run(&["check", "--read-data"]).ok();
    scene.run(&["forget", "--keep-last", "1", "--prune", "--yes"]).ok();
    scene.run(&["restore", "--target", "to"]).ok();
    // Whoever has the other one still is told.
    scene.set("AUMBRY_REPO_HOT", "kept");
    for verb in [&["snapshots"][..], &["prune"], &["repair", "hot"]] {
        let refused = scene.run(verb);
        assert_ne!(refused.code, 0, "{verb:?}");
        assert!(refused.stderr.contains("any more"), "{}", refused.stderr);
    }
}
