//! Space comes back, as a person sees it.

use std::fs;
use std::io::Write;
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
    scene.run(&["check", "--read-data"]).ok();
}
