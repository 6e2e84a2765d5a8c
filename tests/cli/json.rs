//! JSON as a contract: every message and field that `docs/json.md` promises.

use std::collections::BTreeSet;
use std::fs;

use serde_json::Value;
use serde_json::json;

use crate::support::Scene;
use crate::support::only_file;
use crate::support::strange_name;

/// That a message has these fields and no others: a new one is first written into `docs/json.md`.
#[track_caller]
fn assert_fields(message: &Value, wanted: &str) {
    let wanted: BTreeSet<_> = wanted.split_whitespace().collect();
    let found: BTreeSet<_> = message.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(found, wanted);
    let document = include_str!("../../docs/json.md");
    for field in found {
        let field = if field == "error" { "error.message" } else { field };
        assert!(document.contains(&format!("`{field}`")), "docs/json.md does not tell {field}");
    }
}

#[track_caller]
fn assert_time(value: &Value) {
    let text = value.as_str().unwrap();
    assert!(text.len() >= 20 && text.contains('T') && text.ends_with('Z'), "{text}");
}

const COUNTS: &str = "files_new files_changed files_unmodified dirs_new dirs_changed dirs_unmodified \
                      data_blobs tree_blobs data_added data_added_packed total_files_processed \
                      total_bytes_processed error_count backup_start backup_end ";

#[test]
fn a_backup_tells_status_and_summary() {
    let scene = Scene::with_documents();
    let made = scene.run(&["init", "--json"]).ok().json_lines();
    assert_fields(&made[0], "message_type id repository parity_percent retain_seconds");
    assert_eq!(made[0]["message_type"], "initialized");

    let run = scene.run(&["backup", "--json", "Documents", "missing"]);
    assert_eq!(run.code, 3);
    let errors = run.json_errors();
    assert_fields(&errors[0], "message_type error during item");
    assert_eq!(errors[0]["message_type"], "error");
    assert!(errors[0]["error"]["message"].is_string());
    let mut lines = run.json_lines();
    let summary = lines.pop().unwrap();
    assert!(!lines.is_empty());
    for status in &lines {
        assert_eq!(status["message_type"], "status");
        for field in ["percent_done", "total_files", "files_done", "total_bytes", "bytes_done"] {
            assert!(status[field].is_number(), "{field}");
        }
        assert!(status["seconds_elapsed"].is_u64() && status["error_count"].is_u64());
    }
    let fields = "message_type snapshot_id parent total_duration dry_run skipped \
                  write_requests ";
    assert_fields(&summary, &format!("{COUNTS}{fields}"));
    assert_eq!(summary["files_new"], 4);
    assert_eq!(summary["total_bytes_processed"], 1_200_018);
    assert_eq!(summary["error_count"], 1);
    assert_eq!(summary["parent"], Value::Null);
    assert_eq!(summary["snapshot_id"].as_str().unwrap().len(), 32);
    assert_time(&summary["backup_start"]);

    let dry = scene.run(&["backup", "--json", "-n", "Documents"]).ok().json_lines();
    let dry = dry.last().unwrap();
    assert_eq!((&dry["dry_run"], &dry["snapshot_id"]), (&Value::Bool(true), &Value::Null));
}

#[test]
fn snapshots_and_entries_are_listed() {
    let scene = Scene::with_documents();
    fs::write(scene.path("Documents").join(strange_name()), "x").unwrap();
    let backup = ["backup", "--host", "box", "--tag", "b,a", "Documents"];
    scene.run(&backup).ok();
    scene.run(&backup).ok();
    let list = scene.run(&["snapshots", "--json"]).ok().json_lines();
    assert_eq!(list.len(), 1);
    let list = list[0].as_array().unwrap();
    let fields = "id short_id time tree paths hostname username name tags program_version summary";
    assert_fields(&list[0], &format!("{fields} observed_time"));
    assert_fields(&list[1], &format!("{fields} observed_time parent"));
    assert_time(&list[0]["observed_time"]);
    assert_fields(&list[0]["summary"], COUNTS);
    assert_eq!(list[1]["parent"], list[0]["id"]);
    assert_eq!(list[0]["hostname"], "box");
    assert_eq!(list[0]["tags"], serde_json::json!(["a", "b"]));
    assert_eq!(list[0]["paths"], serde_json::json!([scene.text_path("Documents")]));
    assert!(list[0]["id"].as_str().unwrap().starts_with(list[0]["short_id"].as_str().unwrap()));
    assert_time(&list[0]["time"]);

    let lines = scene.run(&["ls", "--json", &scene.text_path("Documents")]).ok().json_lines();
    assert_fields(&lines[0], &format!("{fields} parent message_type struct_type"));
    assert_eq!(lines[0]["message_type"], "snapshot");
    let node = |name: &str| {
        let found = lines.iter().find(|line| line["name"] == name);
        found.unwrap_or_else(|| panic!("no {name}")).clone()
    };
    let common = "message_type struct_type name path type uid gid user group mode permissions mtime \
                  ctime inode links";
    // Not every file system tells when a file was made.
    let without_birth = |mut node: Value| {
        node.as_object_mut().unwrap().remove("btime");
        node
    };
    assert_fields(&without_birth(node("notes.txt")), &format!("{common} size"));
    assert_fields(&without_birth(node("newest")), &format!("{common} linktarget"));
    assert_fields(&without_birth(node("letters")), common);
    assert_eq!(node("notes.txt")["size"], 6);
    assert_eq!(node("letters")["type"], "dir");
    assert_eq!(node("newest")["linktarget"], "letters/first.txt");
    let strange = without_birth(node("na\u{fffd}me\n"));
    assert_fields(&strange, &format!("{common} size name_b64 path_b64"));
    assert_eq!(strange["name_b64"], "bmH/bWUK");
}

#[test]
fn plans_and_what_was_forgotten_are_listed() {
    let scene = Scene::with_documents();
    for time in ["2020-11-01 10:00", "2020-11-01 11:00", "2020-11-02 10:00", "2020-11-03 10:00"] {
        let recorded = ["--host", "box", "--name", "home", "--tag", "a", "--time", time];
        scene.run(&[&["backup", "Documents"], &recorded[..]].concat()).ok();
    }
    let forget = ["forget", "--claimed-times", "--keep-daily", "7", "--keep-last", "1", "--json"];
    let plan = scene.run(&[&forget[..], &["-g", "host,name,paths,tags", "-n"]].concat()).ok();
    let plan = plan.json_lines()[0].as_array().unwrap().clone();
    assert_fields(&plan[0], "host name paths tags keep remove reasons");
    assert_eq!(plan[0]["host"], "box");
    assert_eq!(plan[0]["name"], "home");
    assert_eq!(plan[0]["tags"], serde_json::json!(["a"]));
    assert_eq!(plan[0]["paths"], serde_json::json!([scene.text_path("Documents")]));
    let plan = scene.run(&forget).ok().json_lines()[0].as_array().unwrap().clone();
    assert_eq!((plan.len(), &plan[0]["tags"], &plan[0]["paths"]), (1, &Value::Null, &Value::Null));
    // The oldest stays while there is room.
    let lengths = ["keep", "remove", "reasons"].map(|key| plan[0][key].as_array().unwrap().len());
    assert_eq!(lengths, [4, 0, 4]);
    let newest = plan[0]["reasons"].as_array().unwrap().last().unwrap();
    assert_fields(newest, "snapshot kept matches reason time_used time_is_observed doubted");
    assert_eq!(newest["matches"], serde_json::json!(["last 1 of 1", "daily 1 of 7"]));
    assert_eq!(newest["snapshot"]["id"], plan[0]["keep"][3]["id"]);
    assert_time(&newest["time_used"]);

    let doubting = scene.run(&["forget", "--keep-last", "1", "--json"]).ok().json_lines();
    let reasons = doubting[0][0]["reasons"].as_array().unwrap();
    assert!(reasons.iter().all(|reason| reason["doubted"] == true && reason["kept"] == true));
    let trusting = ["forget", "--keep-last", "1", "--claimed-times", "--json"];
    let refused = scene.run(&trusting);
    assert_eq!((refused.code, &refused.json_errors()[0]["code"]), (1, &Value::from(1)));
    let done = scene.run(&[&trusting[..], &["--yes"]].concat()).ok().json_lines();
    assert_eq!(done[0][0]["remove"].as_array().unwrap().len(), 3);
    assert_eq!(done[0][0]["reasons"][0]["matches"], serde_json::json!([]));
    let list = scene.run(&["snapshots", "--forgotten", "--json"]).ok().json_lines();
    let list = list[0].as_array().unwrap();
    assert_eq!(list.len(), 3);
    assert_fields(&list[0]["forgotten"], "time hostname username why");
    assert_eq!(list[0]["forgotten"]["why"], "policy: last 1");
    let id = list[0]["id"].as_str().unwrap();
    let back = scene.run(&["undelete", id, "--json"]).ok().json_lines();
    assert_fields(&back[0], "message_type ids pending");
    assert_eq!(back[0]["ids"], serde_json::json!([id]));
}

#[test]
fn restoring_and_counting_end_with_a_summary() {
    let scene = Scene::with_documents();
    scene.run(&["backup", "Documents"]).ok();
    let what = format!("latest:{}", scene.text_path("Documents"));
    let lines = scene.run(&["restore", &what, "out", "--json"]).ok().json_lines();
    let summary = lines.last().unwrap();
    assert_fields(
        summary,
        "message_type snapshot_id target total_entries total_files total_bytes files_restored \
         bytes_restored files_unchanged bytes_unchanged files_skipped files_deleted files_verified \
         error_count objects_read_elsewhere metadata_error_count seconds_elapsed total_duration dry_run",
    );
    assert_eq!(summary["files_restored"], 4);
    assert_eq!(summary["target"], scene.text_path("out"));

    let lines = scene.run(&["stats", "--json"]).ok().json_lines();
    let stats = lines.last().unwrap();
    assert_fields(
        stats,
        "message_type snapshots_count total_size total_file_count regular_file_count \
         total_uncompressed_size total_blob_count repository_size pack_count index_count",
    );
    assert_eq!(stats["regular_file_count"], 4);
    assert_eq!(stats["total_size"], 1_200_018);

    let version = scene.run(&["version", "--json"]).ok().json_lines();
    assert_fields(&version[0], "message_type version format_version os arch");
}

#[test]
fn versions_are_lines() {
    let scene = Scene::with_documents();
    let documents = scene.path("Documents");
    fs::write(documents.join(strange_name()), "x").unwrap();
    scene.run(&["backup", "Documents"]).ok();
    fs::write(documents.join("notes.txt"), "second\n").unwrap();
    fs::remove_file(documents.join(strange_name())).unwrap();
    scene.run(&["backup", "Documents"]).ok();
    let snapshots = &scene.run(&["snapshots", "--json"]).ok().json_lines()[0];
    let lines = scene.run(&["find", "notes.txt", "na*", "--json"]).ok().json_lines();
    let fields = "message_type struct_type name path type uid gid user group size mode permissions mtime \
                  hostname source_name source_paths first_snapshot first_time \
                  last_snapshot last_time snapshots is_current is_end_known";
    let paths: Vec<_> = lines.iter().map(|line| line["path"].as_str().unwrap()).collect();
    let notes = scene.text_path("Documents/notes.txt");
    let strange = scene.text_path("Documents/na\u{fffd}me\n");
    assert_eq!(paths.iter().filter(|path| **path == notes).count(), 2);
    assert_eq!(paths.iter().filter(|path| **path == strange).count(), 1);
    for line in &lines {
        let is_strange = line["path"] == strange;
        let more = if is_strange { " name_b64 path_b64" } else { "" };
        assert_fields(line, &format!("{fields}{more}"));
        assert_eq!((&line["message_type"], &line["snapshots"]), (&"found".into(), &1.into()));
        let now = line["is_current"] == true;
        assert_eq!(line["last_snapshot"], snapshots[usize::from(now)]["id"]);
        assert_eq!(
            line["size"],
            if is_strange {
                1
            } else if now {
                7
            } else {
                6
            }
        );
    }
    assert!(scene.run(&["find", "nowhere", "--json"]).ok().json_lines().is_empty());
}

#[test]
fn differences_are_lines_and_end_with_statistics() {
    let scene = Scene::with_documents();
    fs::write(scene.path("Documents").join(strange_name()), "x").unwrap();
    scene.run(&["backup", "Documents"]).ok();
    fs::write(scene.path("Documents/notes.txt"), "second\n").unwrap();
    fs::remove_file(scene.path("Documents").join(strange_name())).unwrap();
    fs::remove_file(scene.path("Documents/letters/empty")).unwrap();
    fs::create_dir(scene.path("Documents/letters/empty")).unwrap();
    scene.run(&["backup", "Documents"]).ok();
    let documents = scene.text_path("Documents");
    let first = format!("latest~1:{documents}");
    for other in ["latest", "--disk"] {
        let lines = scene.run(&["diff", &first, other, "--json", "-m"]).ok().json_lines();
        let change = |path: &str| {
            let path = format!("{documents}{path}");
            lines.iter().find(|line| line["path"] == path).unwrap()
        };
        let common = "message_type path modifier type";
        assert_fields(change("/letters"), &format!("{common} metadata"));
        assert_eq!(change("/letters")["modifier"], "U");
        assert_eq!(change("/letters")["metadata"], serde_json::json!(["mtime"]));
        let notes = change("/notes.txt");
        assert_fields(notes, &format!("{common} metadata size_before size_after"));
        assert_eq!((&notes["modifier"], &notes["size_before"]), (&"M".into(), &6.into()));
        let kind = change("/letters/empty");
        assert_fields(kind, &format!("{common} metadata size_before type_before"));
        assert_eq!((&kind["type_before"], &kind["type"]), (&"file".into(), &"dir".into()));
        let strange = change("/na\u{fffd}me\n");
        assert_fields(strange, &format!("{common} path_b64 size_before"));
        let statistics = lines.last().unwrap();
        assert_fields(
            statistics,
            "message_type source_snapshot target_snapshot added removed changed_files \
             changed_bytes_before changed_bytes_after suspect_files changed_others changed_types \
             changed_metadata unchanged_files unchanged_bytes error_count total_duration",
        );
        assert_fields(&statistics["added"], "files dirs others bytes");
        assert_eq!(statistics["removed"]["files"], 2);
        assert_eq!(statistics["added"]["dirs"], 1);
        assert_eq!(statistics["changed_types"], 1);
        assert_eq!(statistics["changed_bytes_after"], 7);
        assert_eq!(statistics["target_snapshot"].is_null(), other == "--disk");
    }
}

#[test]
fn damage_is_told_with_the_files_it_hits() {
    let scene = Scene::with_documents();
    scene.run(&["backup", "Documents"]).ok();
    let whole = scene.run(&["check", "--read-data", "--json"]).ok().json_lines();
    let fields = "message_type num_errors broken_packs snapshots packs packs_read bytes_read blobs \
                  unreferenced_packs recorded_packs never_proven_packs oldest_proof sample \
                  files_restored notes mirrors silent_stores total_duration";
    assert_fields(whole.last().unwrap(), fields);
    assert_eq!(whole.last().unwrap()["num_errors"], 0);

    let folder = only_file(&scene.repository().join("packs"));
    let packs = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let largest = packs.max_by_key(|path| path.metadata().unwrap().len()).unwrap();
    let mut bytes = fs::read(&largest).unwrap();
    bytes[1000] ^= 1;
    fs::remove_file(&largest).unwrap();
    fs::write(&largest, bytes).unwrap();
    let run = scene.run(&["check", "--read-data", "--json"]);
    assert_eq!(run.code, 1);
    let lines = run.json_lines();
    let damage = lines.iter().find(|line| line["message_type"] == "damage").unwrap();
    assert_fields(damage, "message_type item message hits hit_count");
    assert!(lines.iter().any(|line| {
        line["hits"].as_array().is_some_and(|hits| {
            hits.iter().any(|hit| hit.as_str().unwrap().ends_with("/picture.raw"))
        })
    }));
    assert!(lines.last().unwrap()["num_errors"].as_u64().unwrap() > 0);
    assert_eq!(lines.last().unwrap()["recorded_packs"], 1);
    let drill = scene.run(&["check", "--restore-sample", "9", "--sample", "90/99", "--json"]);
    let lines = drill.json_lines();
    let files: Vec<_> =
        lines.iter().filter(|line| line["message_type"] == "restored_file").collect();
    assert_eq!(files.len(), 4);
    files.iter().for_each(|file| assert_fields(file, "message_type name size error"));
    let broken = files.iter().find(|file| !file["error"].is_null()).unwrap();
    assert!(broken["name"].as_str().unwrap().ends_with("/picture.raw"));
    let summary = lines.last().unwrap();
    assert_eq!(summary["files_restored"], 3);
    // The damaged pack is known already, and not in the sample.
    let sample = &summary["sample"];
    assert_fields(sample, "packs packs_read packs_bad confidence proportion holds");
    assert_eq!((&sample["packs_bad"], &sample["holds"]), (&json!(0), &json!(true)));
    let human = scene.run(&["check", "--read-data"]);
    assert_eq!(human.code, 1);
    assert!(human.text().contains("/picture.raw"), "{}", human.text());
}

#[test]
fn keys_are_listed_and_changed() {
    let mut scene = Scene::new();
    scene.run(&["init"]).ok();
    scene.set("AUMBRY_NEW_PASSWORD", "second");
    let added = scene.run(&["key", "add", "--json"]).ok().json_lines();
    assert_fields(&added[0], "message_type id");
    let keys = scene.run(&["key", "list", "--json"]).ok().json_lines();
    assert_fields(&keys[0][0], "current id kind label userName hostName created up_to_date");
    let id = added[0]["id"].as_str().unwrap();
    let plan = scene.run(&["rekey", "--dry-run", "--remove-key", id, "--json"]).ok().json_lines();
    let fields = "message_type done epoch updated_keys left_behind removed_keys missed_keys \
                  dropped_epochs needed_epochs";
    assert_fields(&plan[0], fields);
    assert_eq!((&plan[0]["done"], &plan[0]["epoch"]), (&false.into(), &1.into()));
    let rekeyed = scene.run(&["rekey", "--yes", "--json"]).ok().json_lines();
    assert_fields(&rekeyed[0], fields);
    assert_eq!((&rekeyed[0]["done"], &rekeyed[0]["epoch"]), (&true.into(), &2.into()));
    assert_eq!(rekeyed[0]["updated_keys"].as_array().unwrap().len(), 2);
    let removed = scene.run(&["key", "remove", id, "--json"]).ok().json_lines();
    assert_eq!(removed[0]["message_type"], "key_removed");
    let changed = scene.run(&["key", "passwd", "--json"]).ok().json_lines();
    assert_eq!(changed[0]["message_type"], "passphrase_changed");
}

#[test]
fn a_failure_is_a_message_with_its_code() {
    let mut scene = Scene::new();
    let none = scene.run(&["snapshots", "--json"]);
    assert_eq!(none.code, 10);
    let messages = none.json_errors();
    assert_fields(&messages[0], "message_type code message hint");
    assert_eq!(messages[0]["message_type"], "exit_error");
    assert_eq!(messages[0]["code"], 10);
    assert!(none.stdout.is_empty());
    scene.run(&["init"]).ok();
    scene.set("AUMBRY_PASSWORD", "wrong");
    assert_eq!(scene.run(&["snapshots", "--json"]).json_errors()[0]["code"], 12);
}

#[test]
fn objects_can_be_looked_into() {
    let scene = Scene::with_documents();
    scene.run(&["backup", "Documents"]).ok();
    let one = |arguments: &[&str]| {
        let run = scene.run(&[&["debug", "--json"], arguments].concat()).ok();
        run.json_lines().pop().unwrap()
    };
    assert!(one(&["config"])["chunk_average"].is_u64());
    assert_eq!(one(&["snapshot"])["height"], 0);
    let documents = scene.text_path("Documents");
    let picture = one(&["tree", &format!("latest:{documents}/picture.raw")]);
    let blob = picture["extents"][0]["blob"].as_str().unwrap();
    let folder = one(&["tree", &format!("latest:{documents}")]);
    assert_eq!(folder["kind"], "directory leaf");
    assert_eq!(one(&["tree", folder["id"].as_str().unwrap()]), folder);
    let bytes = scene.run(&["debug", "blob", blob]).ok().stdout;
    assert_eq!(bytes.len() as u64, picture["extents"][0]["length"].as_u64().unwrap());
    let names = scene.run(&["debug", "index"]).ok();
    let index = one(&["index", names.text().rsplit('/').next().unwrap().trim()]);
    let packs = index["packs"].as_array().unwrap();
    let found = packs.iter().any(|pack| {
        let pack = one(&["pack", pack["id"].as_str().unwrap()]);
        let segments = pack["segments"].as_array().unwrap().clone();
        segments.iter().any(|segment| segment["blobs"].to_string().contains(blob))
    });
    assert!(found);
}

#[test]
fn a_repair_tells_each_part_and_a_repaired_snapshot_its_original() {
    let scene = Scene::with_documents();
    scene.run(&["backup", "--quiet", "Documents"]).ok();
    let common = "message_type part dry_run found remains ";
    let own = [
        ("config", "missing damaged made quarantined"),
        (
            "generations",
            "blocked damaged left needs_consent generation sessions_given_up quarantined",
        ),
        ("index", "packs_listed damaged left unreadable quarantined"),
        ("packs", "packs_read bytes_read bytes_written salvaged left put_back"),
        (
            "snapshots",
            "snapshots put_back pending made known left blobs_stored_again damaged quarantined \
             forgotten",
        ),
    ];
    let plan = scene.run(&["repair", "--json"]).ok().json_lines();
    let parts: Vec<_> = plan.iter().filter(|message| message["message_type"] == "repair").collect();
    assert_eq!(parts.len(), own.len());
    for (message, (part, fields)) in parts.iter().zip(own) {
        assert_eq!(message["part"], part);
        assert_fields(message, &format!("{common}{fields}"));
        assert_eq!((&message["dry_run"], &message["found"]), (&true.into(), &false.into()));
    }

    let folder = only_file(&scene.repository().join("packs"));
    let packs = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let largest = packs.max_by_key(|path| path.metadata().unwrap().len()).unwrap();
    fs::remove_file(largest).unwrap();
    let run = scene.run(&["repair", "snapshots", "--json", "--no-cache"]).ok();
    let lines = run.json_lines();
    let made = &lines.last().unwrap()["made"][0];
    assert_fields(made, "original snapshot_id left_out");
    let list = scene.run(&["snapshots", "--json"]).ok().json_lines();
    let repaired = &list[0].as_array().unwrap()[1];
    assert_eq!((&repaired["id"], &repaired["original"]), (&made["snapshot_id"], &made["original"]));
    assert_eq!(repaired["left_out"], made["left_out"]);
    assert_eq!(repaired["tags"][0], "repaired");
}
