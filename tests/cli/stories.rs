//! What a person types and sees, from the first backup on.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;
use std::time::UNIX_EPOCH;

use crate::support::Scene;
use crate::support::assert_same_file;
use crate::support::assert_seen;
use crate::support::only_file;
use crate::support::strange_name;

#[test]
fn the_first_backup_makes_the_repository_and_the_next_is_small() {
    let mut scene = Scene::with_documents();
    scene.show(&["backup", "--host", "box", "Documents"]);
    fs::write(scene.path("Documents/notes.txt"), "second, and longer\n").unwrap();
    fs::write(scene.path("Documents/new.txt"), "new\n").unwrap();
    scene.show(&["backup", "--host", "box", "--tag", "work,home", "Documents"]);
    scene.show(&["backup", "--host", "box", "--quiet", "Documents/letters"]);
    scene.show(&["snapshots"]);
    scene.show(&["list", "--latest", "1"]);
    scene.show(&["snapshots", "--tag", "home", "-q"]);
    assert_seen("backup", scene.transcript());
}

#[test]
fn what_has_not_changed_makes_no_snapshot_if_that_is_wanted() {
    let mut scene = Scene::with_documents();
    // Without the folders above it, which others may change.
    let arguments = |more| ["backup", "--as-path", "/Documents", "Documents", more];
    scene.run(&arguments("--quiet")).ok();
    scene.show(&arguments("--skip-if-unchanged"));
    scene.show(&arguments("--dry-run"));
    assert_eq!(
        scene.run(&["snapshots", "--json"]).ok().json_lines()[0].as_array().unwrap().len(),
        1
    );
    assert_seen("unchanged", scene.transcript());
}

#[test]
fn what_is_in_a_snapshot_is_listed_dumped_and_counted() {
    let mut scene = Scene::with_documents();
    scene.run(&["backup", "--host", "box", "--time", "2026-11-01 14:30", "Documents"]).ok();
    let documents = scene.text_path("Documents");
    scene.show(&["ls", &format!("latest:{documents}")]);
    scene.show(&["ls", "--flat", "--at", "2026-11-02", &documents]);
    scene.show(&["dump", &format!("latest:{documents}/letters/first.txt")]);
    scene.show(&["dump", "latest", &format!("{documents}/letters/first.txt"), "-q"]);
    scene.show(&["stats", "latest"]);
    scene.show(&["check"]);
    assert_seen("reading", scene.transcript());

    let long = scene.run(&["ls", "-l", "-q", &format!("{documents}/newest")]).ok();
    assert!(long.text().starts_with("lrwxrwxrwx "), "{}", long.text());
    assert!(long.text().ends_with("newest -> letters/first.txt\n"), "{}", long.text());
    let archive = scene.run(&["dump", &format!("{documents}/letters"), "-q"]).ok().stdout;
    let mut names: Vec<_> = tar::Archive::new(&archive[..])
        .entries()
        .unwrap()
        .map(|entry| entry.unwrap().path().unwrap().to_str().unwrap().to_string())
        .collect();
    names.retain(|name| name.ends_with("first.txt"));
    assert_eq!(names.len(), 1);
}

#[test]
fn yesterdays_file_comes_back_in_one_line() {
    let mut scene = Scene::with_documents();
    let notes = scene.text_path("Documents/notes.txt");
    let host = ["--host", "box"];
    let backup = |scene: &Scene, time| {
        scene.run(&["backup", host[0], host[1], "--time", time, "Documents"]).ok();
    };
    backup(&scene, "2026-11-01 14:30");
    fs::write(&notes, "ruined\n").unwrap();
    backup(&scene, "2026-11-02 14:30");
    scene.show(&["restore", "--at", "2026-11-01", &notes, "--target", "."]);
    assert_eq!(fs::read(scene.path("notes.txt")).unwrap(), b"first\n");

    let documents = scene.text_path("Documents");
    scene.show(&["restore", "latest~1", "--in-place", "--dry-run", "-i", &notes]);
    scene.show(&["restore", &format!("latest~1:{documents}"), "out"]);
    for name in ["notes.txt", "letters/first.txt", "letters/empty", "picture.raw", "newest"] {
        if name != "notes.txt" {
            assert_same_file(
                &scene.path(&format!("Documents/{name}")),
                &scene.path(&format!("out/{name}")),
            );
        }
    }
    assert_eq!(fs::read(scene.path("out/notes.txt")).unwrap(), b"first\n");
    fs::write(scene.path("out/more"), "").unwrap();
    scene.show(&["restore", &format!("latest:{documents}"), "out", "--delete", "--verify"]);
    assert!(!scene.path("out/more").exists());
    scene.show(&["restore", &format!("latest~1:{documents}/notes.txt"), "--in-place", "-q"]);
    assert_eq!(fs::read(&notes).unwrap(), b"first\n");
    assert_seen("restore", scene.transcript());
}

#[test]
fn versions_of_a_file_are_found_in_all_snapshots() {
    let mut scene = Scene::with_documents();
    let backup = |scene: &Scene, host, time| {
        scene.run(&["backup", "--host", host, "--time", time, "Documents"]).ok();
    };
    let stamp = |scene: &Scene, name: &str| {
        let file = fs::File::options().write(true).open(scene.path(name)).unwrap();
        file.set_modified(UNIX_EPOCH + Duration::from_secs(1_790_000_000)).unwrap();
    };
    for name in ["Documents/notes.txt", "Documents/letters/first.txt"] {
        stamp(&scene, name);
    }
    backup(&scene, "box", "2026-11-01 14:30");
    backup(&scene, "box", "2026-11-02 14:30");
    fs::write(scene.path("Documents/notes.txt"), "second, and longer\n").unwrap();
    stamp(&scene, "Documents/notes.txt");
    fs::remove_file(scene.path("Documents/letters/first.txt")).unwrap();
    backup(&scene, "box", "2026-11-03 14:30");
    scene.show(&["find", "notes.txt"]);
    scene.show(&["find", "*.TXT", "-i", "--until", "2026-11-02 20:00"]);
    let letters = scene.text_path("Documents/letters/*");
    scene.show(&["find", &letters, "--since", "2026-11-03", "-q"]);
    scene.show(&["find", "nowhere", "--host", "box"]);
    scene.show(&["find", "!notes.txt"]);
    scene.show(&["find"]);
    backup(&scene, "lap", "2026-11-04 14:30");
    scene.show(&["find", "notes.txt", "-q"]);
    assert_seen("find", scene.transcript());
}

#[test]
fn what_differs_is_told_before_anything_is_dropped() {
    let mut scene = Scene::with_documents();
    let backup = |scene: &Scene, time| {
        scene.run(&["backup", "--host", "box", "--time", time, "Documents"]).ok();
    };
    backup(&scene, "2026-11-01 14:30");
    fs::write(scene.path("Documents/notes.txt"), "second, and longer\n").unwrap();
    fs::create_dir(scene.path("Documents/new")).unwrap();
    fs::write(scene.path("Documents/new/file"), "new\n").unwrap();
    fs::remove_file(scene.path("Documents/letters/first.txt")).unwrap();
    fs::remove_file(scene.path("Documents/newest")).unwrap();
    fs::write(scene.path("Documents/newest"), "no link any more\n").unwrap();
    backup(&scene, "2026-11-02 14:30");
    scene.show(&["diff", "latest~1", "latest"]);
    scene.show(&["diff", "--at", "2026-11-01 20:00", "--at", "2026-11-02 20:00", "--summary"]);
    let letters = scene.text_path("Documents/letters");
    scene.show(&["diff", &format!("latest~1:{letters}"), "latest", "-q"]);
    scene.show(&["diff", "latest", "-q"]);
    fs::write(scene.path("Documents/notes.txt"), "third").unwrap();
    let documents = scene.text_path("Documents");
    scene.show(&["diff", &documents, "-q"]);
    scene.run(&["restore", &format!("latest:{documents}"), "out"]).ok();
    fs::remove_file(scene.path("out/picture.raw")).unwrap();
    scene.show(&["diff", &documents, "--disk=out", "-q"]);
    scene.show(&["diff", "latest", "/tmp"]);
    scene.show(&["diff", "latest", "latest~1", "--content"]);
    scene.show(&["diff", "latest:/nowhere", "-q"]);
    assert_seen("diff", scene.transcript());
}

#[test]
fn dates_choose_snapshots_for_debug_and_the_parent_too() {
    let scene = Scene::with_documents();
    let backup = |arguments: &[&str]| {
        let all = [&["backup", "--json", "Documents"], arguments].concat();
        scene.run(&all).ok().json_lines().pop().unwrap()
    };
    let first = backup(&["--time", "2026-11-01 14:30"])["snapshot_id"].clone();
    let second = backup(&["--time", "2026-11-03 14:30"])["snapshot_id"].clone();
    assert_eq!(backup(&["-n"])["parent"], second);
    assert_eq!(backup(&["-n", "--parent-at", "2026-11-02"])["parent"], first);
    assert_eq!(scene.run(&["backup", "Documents", "--parent-at", "2026-10-01"]).code, 1);
    assert_eq!(scene.run(&["backup", "Documents", "--parent-at", "some day"]).code, 2);
    let snapshot = |arguments: &[&str]| {
        let all = [&["debug", "snapshot", "--json"], arguments].concat();
        scene.run(&all).ok().json_lines().pop().unwrap()["id"].clone()
    };
    assert_eq!(snapshot(&[]), second);
    assert_eq!(snapshot(&["--at", "2026-11-02"]), first);
    let tree = |arguments: &[&str]| scene.run(&[&["debug", "tree"], arguments].concat());
    tree(&[":/", "--at", "2026-11-02"]).ok();
    assert_eq!(tree(&[":/", "--at", "2026-10-01"]).code, 1);
}

#[test]
fn what_is_gone_from_the_disk_is_no_problem() {
    let scene = Scene::with_documents();
    scene.run(&["backup", "Documents/letters", "Documents/notes.txt"]).ok();
    fs::remove_dir_all(scene.path("Documents/letters")).unwrap();
    let run = scene.run(&["diff", "-q"]).ok();
    let letters = scene.text_path("Documents/letters");
    let wanted = format!("-  {letters}/\n-  {letters}/empty  0 B\n-  {letters}/first.txt  12 B\n");
    assert_eq!(run.text(), wanted);
    fs::remove_file(scene.path("Documents/notes.txt")).unwrap();
    let run = scene.run(&["diff", "-q"]).ok();
    assert!(run.text().contains("notes.txt"), "{}", run.text());
}

#[test]
fn keys_are_told_in_few_words() {
    let mut scene = Scene::new();
    scene.show(&["init", "--label", "home"]);
    scene.set("AUMBRY_NEW_PASSWORD", "second");
    scene.show(&["key", "add"]);
    scene.show(&["key", "passwd"]);
    assert_seen("keys", scene.transcript());

    scene.set("AUMBRY_PASSWORD", "second");
    let list = scene.run(&["key", "list"]).ok();
    assert_eq!(list.text().lines().filter(|line| line.starts_with('*')).count(), 1);
    assert!(list.text().contains("home"), "{}", list.text());
    assert!(list.stderr.contains("aumbry key recovery"), "{}", list.stderr);
    let words = scene.run(&["key", "recovery", "--quiet"]).ok();
    assert_eq!(words.text().lines().count(), 6);
    assert!(words.text().contains("  24. "), "{}", words.text());
}

#[test]
fn a_lost_laptop_is_shut_out_in_three_commands() {
    let mut scene = Scene::with_documents();
    scene.run(&["init", "--label", "home"]).ok();
    scene.set("AUMBRY_NEW_PASSWORD", "second");
    scene.run(&["key", "add", "--label", "laptop"]).ok();
    scene.run(&["backup", "Documents"]).ok();
    let keys = scene.run(&["key", "list", "--json"]).ok().json_lines();
    let laptop = keys[0][1]["id"].as_str().unwrap().to_string();
    let refused = scene.run(&["rekey", "--remove-key", &laptop[..8]]);
    assert_eq!(refused.code, 1, "{}", refused.stderr);
    assert!(refused.stderr.contains("without consent"), "{}", refused.stderr);
    assert!(refused.text().contains("\"laptop\""), "{}", refused.text());

    let run = scene.run(&["rekey", "--remove-key", &laptop[..8], "--yes"]).ok();
    assert!(run.text().contains("sealed with key epoch 2 now"), "{}", run.text());
    let held = scene.run(&["rekey", "--drop-old"]);
    assert_eq!(held.code, 3, "{}", held.stderr);
    assert!(held.text().contains("epoch 1 is still needed: "), "{}", held.text());
    scene.run(&["prune", "--max-unused", "0"]).ok();
    let run = scene.run(&["rekey", "--drop-old", "--yes"]).ok();
    assert!(run.text().contains("nothing needs the data key of epoch 1"), "{}", run.text());
    let again = scene.run(&["rekey", "--drop-old"]).ok();
    assert!(again.text().contains("there is nothing to drop"), "{}", again.text());
    let list = scene.run(&["key", "list"]).ok();
    assert!(list.stderr.contains("Epochs before it: 1 without a data key"), "{}", list.stderr);
    scene.run(&["check", "--read-data"]).ok();
    scene.run(&["backup", "Documents"]).ok();
    scene.set("AUMBRY_PASSWORD", "second");
    assert_eq!(scene.run(&["snapshots"]).code, 12);
}

#[test]
fn names_cannot_play_with_the_terminal() {
    let scene = Scene::new();
    fs::create_dir(scene.path("odd")).unwrap();
    fs::write(scene.path("odd").join(strange_name()), "x").unwrap();
    fs::write(scene.path("odd/\u{1b}[31mred"), "x").unwrap();
    scene.run(&["backup", "odd"]).ok();
    let list = scene.run(&["ls", "--flat", &scene.text_path("odd"), "-q"]).ok();
    assert!(!list.stdout.contains(&0x1b));
    assert!(list.text().contains("odd/na\u{fffd}me\\n\n"), "{}", list.text());
}

#[test]
fn sources_are_named_in_every_way_and_rules_leave_things_out() {
    let scene = Scene::with_documents();
    fs::create_dir(scene.path("Documents/cache")).unwrap();
    let tag = "Signature: 8a477f597d28d172789f06886806bc55\n";
    fs::write(scene.path("Documents/cache/CACHEDIR.TAG"), tag).unwrap();
    fs::write(scene.path("Documents/cache/junk"), "junk").unwrap();
    fs::write(scene.path("Documents/letters/.gitignore"), "empty\n").unwrap();
    fs::write(scene.path("rules"), "# nothing large\n*.raw\n").unwrap();
    fs::write(scene.path("list"), "Documents/l*\n# remark\nDocuments/cache\n").unwrap();
    scene
        .run(&[
            "backup",
            "--files-from",
            "list",
            "--exclude-caches",
            "--ignore-file",
            ".gitignore",
            "-e",
            "newest",
            "--exclude-larger-than",
            "1M",
            "Documents/notes.txt",
        ])
        .ok();
    let listed = |scene: &Scene| -> Vec<String> {
        let home = scene.text_path("");
        let list = scene.run(&["ls", "-q"]).ok();
        let inside = list.text().lines().filter_map(|line| line.strip_prefix(&home));
        inside.map(str::to_string).collect()
    };
    assert_eq!(
        listed(&scene),
        [
            "Documents",
            "Documents/cache",
            "Documents/cache/CACHEDIR.TAG",
            "Documents/letters",
            "Documents/letters/.gitignore",
            "Documents/letters/first.txt",
            "Documents/notes.txt",
        ]
    );
    scene.run(&["backup", "--exclude-file", "rules", "--iexclude", "LETTERS", "Documents"]).ok();
    let names = listed(&scene);
    assert!(
        !names.iter().any(|name| name.ends_with("raw") || name.contains("letters")),
        "{names:?}"
    );

    let verbatim = b"Documents/notes.txt\0Documents/newest\0";
    scene.run_with_input(&["backup", "--files-from-raw", "-"], verbatim).ok();
    assert_eq!(listed(&scene), ["Documents", "Documents/newest", "Documents/notes.txt"]);
}

#[test]
fn the_repository_is_not_saved_into_itself() {
    let scene = Scene::with_documents();
    scene.run(&["backup", "."]).ok();
    scene.run(&["backup", "."]).ok();
    let list = scene.run(&["ls", "-q"]).ok();
    assert!(list.text().contains("Documents/notes.txt"));
    assert!(!list.text().contains("/config") && !list.text().contains(".redb"), "{}", list.text());
}

#[test]
fn restoring_a_home_does_not_remove_the_repository_in_it() {
    let scene = Scene::with_documents();
    scene.run(&["backup", "."]).ok();
    let home = format!("latest:{}", scene.text_path(""));
    let run = scene.run(&["restore", &home, "--in-place", "--delete"]);
    assert_eq!(run.code, 2);
    assert!(run.stderr.contains("the repository is in that folder"), "{}", run.stderr);
    scene.run(&["restore", &home, "--in-place"]).ok();
    scene.run(&["check"]).ok();
}

#[test]
fn streams_are_saved_as_files() {
    let scene = Scene::new();
    scene.run_with_input(&["backup", "--stdin", "--stdin-filename", "dumps/all.sql"], b"rows").ok();
    assert_eq!(scene.run(&["dump", "/dumps/all.sql"]).ok().stdout, b"rows");
    scene.run(&["backup", "--stdin-from-command", "--", "echo", "-n", "--json"]).ok();
    assert_eq!(scene.run(&["dump", "latest:stdin"]).ok().stdout, b"--json");
}

#[test]
fn a_repository_with_parity_gives_back_what_a_disk_has_lost_and_says_so() {
    let mut scene = Scene::with_documents();
    let made = scene.run(&["init", "--parity", "2%"]).ok();
    assert!(made.text().contains("2% parity"), "{}", made.text());
    let settings = scene.run(&["debug", "config", "--json"]).ok().json_lines();
    assert_eq!(settings[0]["parity_percent"], 2);
    scene.run(&["backup", "Documents"]).ok();
    // The largest object is the pack of the picture; a sector of it goes.
    let packs = scene.repository().join("packs");
    let folder = fs::read_dir(packs).unwrap().next().unwrap().unwrap().path();
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let pack = files.max_by_key(|path| path.metadata().unwrap().len()).unwrap();
    let mut bytes = fs::read(&pack).unwrap();
    bytes[100_000..104_096].fill(0);
    fs::write(&pack, bytes).unwrap();

    // The cache has no data pack, so the store is read.
    let documents = scene.text_path("Documents");
    let restored = scene.run(&["restore", &format!("latest:{documents}"), "out"]).ok();
    assert_same_file(&scene.path("Documents/picture.raw"), &scene.path("out/picture.raw"));
    let name = pack.file_name().unwrap().to_str().unwrap();
    let told = restored.stderr.lines().find(|line| line.contains(name)).unwrap();
    assert!(told.contains("mended while reading"), "{told}");
    let checked = scene.run(&["check", "--read-data"]);
    assert!(checked.code != 0 && checked.text().contains("parity mends it"), "{}", checked.text());

    for wrong in ["2.5%", "101%", "2"] {
        scene.set("AUMBRY_REPOSITORY", &scene.text_path(wrong));
        let run = scene.run(&["init", "--parity", wrong]);
        assert!(run.code == 2 && run.stderr.contains("--parity"), "{wrong}: {}", run.stderr);
    }
}

/// Five snapshots of one source that claim to be of several days.
fn history(scene: &Scene) {
    let days = ["10-30", "10-31", "11-01", "11-02", "11-02"];
    for (day, hour) in days.into_iter().zip(10..) {
        fs::write(scene.path("Documents/notes.txt"), format!("{day} {hour}")).unwrap();
        let time = format!("2020-{day} {hour}:30");
        let backup = ["backup", "--host", "box", "--name", "home", "--time", &time, "Documents"];
        scene.run(&backup).ok();
    }
}

#[test]
fn a_policy_tells_its_plan_with_a_reason_for_every_snapshot() {
    let mut scene = Scene::with_documents();
    history(&scene);
    let forget = ["forget", "--claimed-times", "--keep-daily", "2", "--keep-weekly", "2"];
    let with = |more: &[&'static str]| [&forget[..], more].concat();
    scene.show(&with(&["--keep-monthly", "unlimited", "--dry-run"]));
    assert_eq!(listed(&scene).len(), 5);
    scene.show(&with(&["-m", "unlimited"]));
    assert_eq!(listed(&scene).len(), 3);
    scene.show(&with(&["-m", "unlimited", "--quiet"]));
    scene.show(&["forget", "latest~1", "--quiet"]);
    scene.show(&["snapshots"]);
    assert_seen("forget", scene.transcript());
}

fn listed(scene: &Scene) -> Vec<String> {
    let list = scene.run(&["snapshots", "--json"]).ok().json_lines();
    let list = list[0].as_array().unwrap().clone();
    list.iter().map(|snapshot| snapshot["short_id"].as_str().unwrap().to_string()).collect()
}

#[test]
fn too_much_is_forgotten_only_with_consent() {
    let mut scene = Scene::with_documents();
    history(&scene);
    scene.run(&["backup", "--host", "other", "--tag", "pin", "Documents"]).ok();
    let all = listed(&scene);
    scene.show(&["forget", "--keep-last", "1", "--dry-run"]);
    scene.show(&["forget", "--keep-last", "1", "--claimed-times"]);
    scene.show(&["forget", "--keep-tag", "none", "--host", "box", "--dry-run"]);
    scene.show(&["forget", "latest", "latest~1"]);
    assert_eq!(listed(&scene), all);
    scene.run(&["forget", "--keep-last", "1", "--claimed-times", "--yes"]).ok();
    assert_eq!(listed(&scene).len(), 2);
    let list = scene.run(&["snapshots", "--forgotten"]).ok();
    for id in &all[..4] {
        let line = list.text().lines().find(|line| line.starts_with(id)).unwrap();
        assert!(line.contains("  box ") && line.ends_with("policy: last 1"), "{line}");
    }
    assert_eq!(list.text().lines().count(), 6, "{}", list.text());
    scene.show(&["undelete", &all[0], &all[3]]);
    assert_eq!(listed(&scene).len(), 4);
    assert_eq!(scene.run(&["undelete", &all[0]]).code, 1);
    assert_seen("forget_consent", scene.transcript());
}

#[test]
fn at_a_terminal_consent_is_asked_for() {
    let scene = Scene::with_documents();
    history(&scene);
    let forget = ["forget", "--keep-last", "1", "--claimed-times"];
    for (typed, code, left) in [("no", 1, 5), ("", 1, 5), ("yes", 0, 1)] {
        let Some(run) = scene.run_at_terminal(&forget, typed) else {
            println!("skipped: no `script` to make a terminal");
            return;
        };
        assert_eq!(run.code, code, "{}", run.text());
        assert!(run.text().contains("4 of 5 snapshots go, more than half"), "{}", run.text());
        assert!(run.text().contains("Forget them all the same?"), "{}", run.text());
        assert_eq!(listed(&scene).len(), left, "{typed:?}");
    }
}

#[test]
fn several_things_without_a_name_are_not_mixed_silently() {
    let mut scene = Scene::with_documents();
    for (time, path) in [("10:30", "letters"), ("11:30", "notes.txt"), ("12:30", "letters")] {
        let time = format!("2020-11-01 {time}");
        let path = format!("Documents/{path}");
        scene.run(&["backup", "--host", "box", "--time", &time, &path]).ok();
    }
    let forget = ["forget", "--claimed-times", "--keep-last", "2"];
    scene.show(&forget);
    scene.show(&[&forget[..], &["--group-by", "host,paths"]].concat());
    assert_eq!(listed(&scene).len(), 3);
    assert_seen("forget_mixed", scene.transcript());
}

#[test]
fn the_store_has_seen_when_a_snapshot_came() {
    let mut scene = Scene::with_documents();
    let backup = |time: &str| {
        let path = ["backup", "--host", "box", "--name", "x", "--time", time, "Documents/letters"];
        scene.run(&path).ok();
    };
    backup("2001-01-01 12:00");
    backup("2099-01-01 12:00");
    scene.run(&["backup", "--host", "box", "--name", "x", "Documents/letters"]).ok();
    scene.show(&["forget", "--keep-last", "1", "--dry-run", "-q"]);
    assert_seen("forget_doubted", scene.transcript());
    let plan = scene.run(&["forget", "--keep-last", "1", "-n", "--json"]).ok().json_lines();
    let kept = plan[0][0]["keep"].as_array().unwrap();
    assert_eq!(kept.len(), 1, "what lies comes after what does not");
    assert!(kept[0]["time"].as_str().unwrap().starts_with("202"));
}

#[test]
fn what_cannot_be_read_is_given_up_by_its_id_so_that_space_comes_back_again() {
    let mut scene = Scene::with_documents();
    for _ in 0..2 {
        scene.run(&["backup", "--host", "box", "--quiet", "Documents"]).ok();
    }
    let id = scene.run(&["snapshots", "--json"]).ok().json_lines()[0][0]["id"].clone();
    let id = id.as_str().unwrap().to_string();
    let slots = fs::read_dir(scene.repository().join("snapshots")).unwrap();
    let slots: Vec<_> = slots.map(|entry| entry.unwrap().path()).collect();
    let is_it = |path: &&PathBuf| path.to_str().is_some_and(|path| path.contains(&id));
    flip(slots.iter().find(is_it).unwrap(), 200);
    scene.set("AUMBRY_CACHE_DIR", &scene.text_path("another cache"));
    scene.show(&["prune"]);
    scene.show(&["forget", &id[..8]]);
    scene.show(&["forget", &id[..8], "--dry-run", "--prune"]);
    let told = scene.run(&["forget", &id[..8], "--yes", "--json"]).ok().json_lines();
    assert_eq!(told[0][0]["unread"][0]["id"], id.as_str());
    scene.show(&["prune"]);
    scene.show(&["snapshots"]);
    assert_seen("forget_unread", scene.transcript());
}

#[test]
fn what_a_plan_of_repairs_could_not_look_into_is_told() {
    let scene = Scene::with_documents();
    scene.run(&["backup", "--host", "box", "--quiet", "Documents"]).ok();
    scene.run(&["forget", "latest", "--yes", "--quiet", "--prune"]).ok();
    flip(&scene.repository().join("gc").join("00000001.sweep"), 200);
    let text = scene.run(&["repair", "--no-cache"]);
    for part in ["packs", "snapshots"] {
        let line = format!("{part}: not looked into before `aumbry repair generations` is done\n");
        assert!(text.text().contains(&line), "{}", text.text());
    }
    let lines = scene.run(&["repair", "--no-cache", "--json"]).json_lines();
    assert_eq!(lines.iter().filter(|line| line["skipped"].is_string()).count(), 2);
}

#[test]
fn what_is_damaged_is_told_recorded_and_stored_again_while_the_source_is_there() {
    let mut scene = Scene::with_documents();
    scene.run(&["backup", "--host", "box", "--quiet", "Documents"]).ok();
    scene.show(&["check", "--sample", "--restore-sample", "10", "--share-ledger"]);
    let folder = only_file(&scene.repository().join("packs"));
    let digits = folder.file_name().unwrap().to_str().unwrap().to_string();
    let packs = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let largest = packs.max_by_key(|path| path.metadata().unwrap().len()).unwrap();
    let mut bytes = fs::read(&largest).unwrap();
    bytes[70_000] ^= 1;
    fs::remove_file(&largest).unwrap();
    fs::write(&largest, bytes).unwrap();
    scene.show(&["check", "--read-data-subset", "100%"]);
    scene.show(&["check"]);
    scene.show(&["check", "--sample=95/90", "--restore-sample", "10", "-q"]);
    scene.show(&["backup", "--host", "box", "Documents"]);
    scene.show(&["check", "--read-data"]);
    scene.show(&["check", "--sample", "100"]);
    let transcript = scene.transcript().replace(&format!("packs/{digits}/"), "packs/xx/");
    assert_seen("damage", &transcript);
}

/// Changes one byte of a file that is write-protected.
fn flip(path: &std::path::Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 1;
    fs::remove_file(path).unwrap();
    fs::write(path, bytes).unwrap();
}

#[test]
fn what_is_damaged_is_repaired_part_by_part() {
    let mut scene = Scene::with_documents();
    scene.run(&["backup", "--host", "box", "--quiet", "Documents"]).ok();
    scene.show(&["repair"]);
    let repository = scene.repository();
    let folder = only_file(&repository.join("packs"));
    let digits = folder.file_name().unwrap().to_str().unwrap().to_string();
    flip(&only_file(&repository.join("index")), 200);
    flip(&repository.join("config"), 200);
    scene.show(&["snapshots"]);
    scene.show(&["repair"]);
    scene.show(&["repair", "config"]);
    scene.show(&["repair", "index"]);
    scene.show(&["check"]);
    let packs = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let largest = packs.max_by_key(|path| path.metadata().unwrap().len()).unwrap();
    flip(&largest, 70_000);
    scene.show(&["repair", "packs", "--read-data"]);
    scene.show(&["repair", "snapshots", "--dry-run"]);
    scene.show(&["repair", "snapshots"]);
    scene.show(&["snapshots"]);
    scene.show(&["repair", "snapshots", "--forget-originals"]);
    scene.show(&["repair", "snapshots", "--forget-originals", "--yes"]);
    scene.show(&["check"]);
    scene.show(&["repair"]);
    let transcript = scene.transcript().replace(&format!("packs/{digits}/"), "packs/xx/");
    assert_seen("repair", &transcript);
}

#[test]
fn a_restore_of_many_files_of_some_size_gets_along_with_few_open_ones() {
    let scene = Scene::new();
    let folder = scene.path("files");
    fs::create_dir(&folder).unwrap();
    // Longer than what a directory's entry tells the chunks of; all alike but for their first bytes.
    let mut bytes: Vec<u8> =
        (0..450_000_u32).flat_map(|n| n.wrapping_mul(n ^ 0x9e37).to_le_bytes()).collect();
    for number in 0..120_u8 {
        bytes[0] = number;
        fs::write(folder.join(number.to_string()), &bytes).unwrap();
    }
    scene.run(&["backup", "--quiet", "files"]).ok();
    let restored = scene.text_path("restored");
    let restore = scene.command(&["restore", "latest", "--target", &restored, "--quiet"]);
    let mut limited = std::process::Command::new("sh");
    limited.args(["-c", "ulimit -n 128 && exec \"$0\" \"$@\""]).arg(restore.get_program());
    limited.args(restore.get_args()).env_clear().current_dir(scene.path(""));
    limited.envs(restore.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let output = limited.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let found = PathBuf::from(format!("{restored}{}", folder.display()));
    assert_eq!(fs::read_dir(&found).unwrap().count(), 120);
    assert_same_file(&folder.join("119"), &found.join("119"));
}
