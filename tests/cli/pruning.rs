//! Space comes back, as a person sees it.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::Stdio;

use crate::support::Scene;
use crate::support::assert_seen;

/// Bytes of everything in the repository.
fn repository_bytes(scene: &Scene) -> u64 {
    let mut pending = vec![scene.repository()];
    let mut bytes = 0;
    while let Some(folder) = pending.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            match entry.file_type().unwrap().is_dir() {
                true => pending.push(entry.path()),
                false => bytes += entry.metadata().unwrap().len(),
            }
        }
    }
    bytes
}

/// Two versions of a few files, of which the second replaces most.
fn two_versions() -> Scene {
    let scene = Scene::with_documents();
    let backup = ["backup", "--host", "box", "--quiet", "--name", "docs", "Documents"];
    scene.run(&backup).ok();
    let noise: Vec<u8> =
        (0..200_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    fs::write(scene.path("Documents/large.bin"), &noise).unwrap();
    scene.run(&backup).ok();
    fs::remove_file(scene.path("Documents/large.bin")).unwrap();
    scene.run(&backup).ok();
    scene
}

#[test]
fn forgetting_and_pruning_gives_space_back_and_a_dry_run_nothing() {
    let mut scene = two_versions();
    let before = repository_bytes(&scene);
    scene.show(&["forget", "--keep-last", "1", "--yes"]);
    // Sizes depend on which pack a segment fell into.
    let dry = scene.run(&["prune", "--dry-run"]).ok();
    assert!(dry.text().contains("needed by nobody\nplan: drop "), "{}", dry.text());
    assert!(dry.text().ends_with("this was a dry run: nothing was changed\n"), "{}", dry.text());
    assert!(repository_bytes(&scene) >= before);
    let pruned = scene.run(&["prune"]).ok();
    assert!(pruned.text().contains("\ndeleted "), "{}", pruned.text());
    assert!(repository_bytes(&scene) < before - 700_000);
    let again = scene.run(&["prune"]).ok();
    assert!(
        again.text().ends_with("nothing is to be done within these limits\n"),
        "{}",
        again.text()
    );
    scene.show(&["prune", "--max-unused", "nothing"]);
    scene.run(&["check", "--read-data"]).ok();
    assert_seen("pruning", scene.transcript());
}

#[test]
fn forget_with_prune_does_both() {
    let scene = two_versions();
    let before = repository_bytes(&scene);
    let arguments =
        ["forget", "--keep-last", "1", "--yes", "--prune", "--max-unused", "0%", "--json"];
    let lines = scene.run(&arguments).ok().json_lines();
    assert!(lines.iter().any(serde_json::Value::is_array));
    // What comes before is progress.
    let summary = lines.last().unwrap();
    assert_eq!(summary["message_type"], "summary");
    assert_eq!(summary["snapshots_removed"], 2);
    assert!(summary["bytes_deleted"].as_u64().unwrap() > 700_000);
    assert!(repository_bytes(&scene) < before - 700_000);
    let again = scene.run(&["prune", "--max-unused", "0%", "--json"]).ok().json_lines();
    let again = again.last().unwrap();
    assert_eq!(again["unused_bytes_before"], 0);
    assert_eq!(again["generations"].as_array().unwrap().len(), 0);
}

#[test]
fn after_a_backup_was_killed_the_next_prune_of_this_machine_waits_for_nobody() {
    let scene = Scene::with_documents();
    scene.run(&["backup", "--quiet", "Documents"]).ok();
    let before = repository_bytes(&scene);
    let mut child =
        scene.command(&["backup", "--quiet", "--stdin"]).stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // Bytes that do not shrink, until there are packs of them.
    let mut state = 1_u64;
    while repository_bytes(&scene) < before + (16 << 20) {
        let mut noise = Vec::with_capacity(1 << 20);
        while noise.len() < 1 << 20 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            noise.extend_from_slice(&state.to_le_bytes());
        }
        stdin.write_all(&noise).unwrap();
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let pruned = scene.run(&["prune"]).ok();
    assert!(pruned.stderr.contains("was a backup of this machine"), "{}", pruned.stderr);
    assert!(!pruned.text().contains("waits"), "{}", pruned.text());
    assert!(repository_bytes(&scene) < before + (1 << 20), "{}", pruned.text());
}

/// Names of everything in the repository.
fn repository_names(scene: &Scene) -> BTreeSet<PathBuf> {
    let mut pending = vec![scene.repository()];
    let mut names = BTreeSet::new();
    while let Some(folder) = pending.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            match entry.file_type().unwrap().is_dir() {
                true => pending.push(entry.path()),
                false => {
                    names.insert(entry.path());
                }
            }
        }
    }
    names
}

#[test]
fn a_dry_run_writes_nothing_and_looking_for_repairs_only_registers() {
    let scene = two_versions();
    scene.run(&["forget", "--keep-last", "1", "--yes"]).ok();
    let before = repository_names(&scene);
    scene.run(&["prune", "--dry-run"]).ok();
    assert_eq!(repository_names(&scene), before);
    scene.run(&["repair"]).ok();
    let after = repository_names(&scene);
    assert!(after.is_superset(&before));
    for name in after.difference(&before) {
        let folder = name.parent().unwrap().file_name().unwrap().to_str().unwrap();
        assert!(["sessions", "snapshots"].contains(&folder), "{name:?}");
    }
    scene.run(&["prune"]).ok();
    assert!(repository_names(&scene).len() < before.len());
}

#[test]
fn a_prune_that_waits_says_for_whom_and_is_not_done() {
    let scene = two_versions();
    scene.run(&["forget", "--keep-last", "1", "--yes"]).ok();
    let before = repository_bytes(&scene);
    // A backup that goes on as long as somebody writes.
    let backup = ["backup", "--stdin", "--host", "other", "--quiet"];
    let mut child = scene.command(&backup).stdin(Stdio::piped()).spawn().unwrap();
    let input = child.stdin.take().unwrap();
    let sessions = scene.repository().join("sessions");
    let registered = || fs::read_dir(&sessions).unwrap().count();
    let known = registered();
    while registered() == known {
        assert!(child.try_wait().unwrap().is_none(), "the backup ended");
        std::thread::yield_now();
    }
    let held = scene.run(&["prune"]);
    assert_eq!(held.code, 3, "{}\n{}", held.text(), held.stderr);
    assert!(held.text().contains("waiting: a session of "), "{}", held.text());
    assert!(held.text().contains("--patience 0s"), "{}", held.text());
    let held = scene.run(&["prune", "--json"]);
    assert_eq!(held.code, 3);
    let summary = held.json_lines().pop().unwrap();
    let holders = summary["held_by"].as_array().unwrap();
    assert_eq!(holders.len(), 1);
    for field in ["session", "hostname", "registered"] {
        assert!(holders[0][field].is_string(), "{field}: {summary}");
    }
    // The backup has this machine's cache: what a prune sees meanwhile is not remembered.
    assert!(holders[0]["idle_since"].is_null(), "{summary}");
    assert_eq!(summary["plan"], serde_json::Value::Null);
    assert_eq!(summary["packs_deleted"], 0);
    drop(input);
    assert!(child.wait().unwrap().success());
    let ended = scene.run(&["prune", "--json"]).ok().json_lines().pop().unwrap();
    assert_eq!(ended["held_by"], serde_json::json!([]));
    assert!(ended["packs_deleted"].as_u64().unwrap() > 0);
    assert!(repository_bytes(&scene) < before - 700_000);
}

#[test]
fn a_prune_that_leaves_a_damaged_pack_is_not_done_and_tells_every_figure() {
    let scene = two_versions();
    // A pack that is needed in part, with a bit of what is needed flipped.
    fs::write(scene.path("Documents/half.bin"), noise(1 << 20, 1)).unwrap();
    scene.run(&["backup", "--host", "box", "--name", "docs", "--quiet", "Documents"]).ok();
    fs::write(scene.path("Documents/half.bin"), &noise(1 << 20, 1)[..1 << 19]).unwrap();
    scene.run(&["backup", "--host", "box", "--name", "docs", "--quiet", "Documents"]).ok();
    scene.run(&["forget", "--keep-last", "1", "--yes"]).ok();
    let dry = scene.run(&["prune", "--max-unused", "0", "--dry-run", "--json"]).ok();
    let dry = dry.json_lines().pop().unwrap();
    assert_eq!(dry["dry_run"], true);
    for field in [
        "drop_packs",
        "drop_bytes",
        "unreadable_packs",
        "repack_packs",
        "repack_bytes",
        "write_bytes",
        "free_bytes",
        "unused_bytes_after",
        "bytes_after",
        "read_requests",
        "write_requests",
        "delete_requests",
    ] {
        assert!(dry["plan"][field].is_u64(), "{field}: {dry}");
    }
    let limited = ["prune", "--max-unused", "0", "--max-repack-size", "1", "--dry-run", "--json"];
    let limited = scene.run(&limited).ok().json_lines().pop().unwrap();
    assert_eq!(limited["plan"]["repack_packs"], 0);
    assert!(dry["plan"]["repack_packs"].as_u64().unwrap() > 0);
    for name in repository_names(&scene) {
        if name.starts_with(scene.repository().join("packs")) {
            let mut bytes = fs::read(&name).unwrap();
            if bytes.len() > 1 << 18 {
                bytes[1000] ^= 1;
                fs::write(&name, bytes).unwrap();
            }
        }
    }
    let left = scene.run(&["prune", "--max-unused", "0", "--json"]);
    assert_eq!(left.code, 3, "{}\n{}", left.text(), left.stderr);
    let summary = left.json_lines().pop().unwrap();
    assert!(summary["error_count"].as_u64().unwrap() > 0);
    for field in [
        "packs_before",
        "bytes_before",
        "unused_bytes_before",
        "blobs",
        "sessions_given_up",
        "packs_deleted",
        "bytes_deleted",
        "packs_spared",
        "bytes_written",
        "index_objects_removed",
        "index_objects_written",
        "snapshots_removed",
    ] {
        assert!(summary[field].is_u64(), "{field}: {summary}");
    }
    assert!(summary["generations"].is_array() && summary["held_by"].is_array());
    assert!(summary["stopped"].is_null() && summary["total_duration"].is_f64());
    let said = left.json_errors();
    assert!(said.iter().any(|line| line["message_type"] == "error"), "{said:?}");
}

/// Bytes that do not compress.
fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    };
    (0..length).map(|_| next()).collect()
}

#[test]
fn small_packs_are_joined_on_request() {
    let scene = Scene::with_documents();
    for number in 0..4 {
        fs::write(scene.path(&format!("Documents/{number}")), noise(5000, number)).unwrap();
        scene.run(&["backup", "--host", "box", "--name", "docs", "--quiet", "Documents"]).ok();
    }
    let packs = |arguments: &[&str]| {
        let mut all = vec!["prune", "--json"];
        all.extend(arguments);
        let summary = scene.run(&all).ok().json_lines().pop().unwrap();
        summary["packs_before"].as_u64().unwrap()
    };
    let before = packs(&["--max-unused", "unlimited"]);
    assert!(before >= 8);
    assert_eq!(packs(&["--max-unused", "unlimited", "--repack-small"]), before);
    assert!(packs(&["--dry-run"]) <= 3, "two of data, one of trees");
    scene.run(&["check", "--read-data"]).ok();
}

#[test]
fn a_dry_run_of_both_plans_both() {
    let scene = two_versions();
    let before = repository_bytes(&scene);
    let both = ["forget", "--keep-last", "1", "--prune", "--max-unused", "0%"];
    let with = |more: &[&'static str]| scene.run(&[&both[..], more].concat()).ok();
    let text = with(&["--dry-run"]);
    assert!(text.text().contains("dry run: nothing was forgotten\n"), "{}", text.text());
    assert!(text.text().contains("\nplan: drop "), "{}", text.text());
    let planned = with(&["--dry-run", "--json"]).json_lines();
    let planned = planned.last().unwrap();
    let packs = |message: &serde_json::Value| {
        ["drop_packs", "repack_packs"].map(|field| message["plan"][field].as_u64().unwrap())
    };
    assert!(packs(planned)[0] > 0);
    assert!(repository_bytes(&scene) >= before, "nothing went");
    let done = with(&["--yes"]);
    assert!(done.text().contains("\nforgot 2 snapshots\n"), "{}", done.text());
    assert!(!done.text().contains("undelete"), "it is swept: {}", done.text());
}
