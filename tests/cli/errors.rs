//! What goes wrong: the words, the hint and the exit code of each.

use std::fs;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Read;
use std::io::Write;
use std::process::Stdio;

use crate::support::Scene;
use crate::support::assert_seen;

#[test]
fn errors_say_what_to_do_next() {
    let mut scene = Scene::with_documents();
    scene.show(&["snapshots"]);
    scene.show(&["backup", "-r", "elsewhere", "Documents"]);
    scene.show(&["backup", "-n", "Documents"]);
    scene.show(&["backup"]);
    scene.show(&["backup", "missing"]);
    scene.show(&["backup", "--exclude", "../x", "Documents"]);
    scene.show(&["backup", "--exclude-larger-than", "lots", "Documents"]);
    scene.show(&["backup", "--time", "whenever", "Documents"]);
    scene.show(&["-r", "s3:bucket/folder", "snapshots"]);
    scene.show(&["restore", "latest"]);
    scene.show(&["restore", "lately", "--target", "out"]);
    assert!(!scene.repository().exists());
    scene.run(&["init"]).ok();
    scene.show(&["init"]);
    scene.show(&["restore", "latest", "--target", "out"]);
    scene.show(&["ls", "--at", "whenever"]);
    scene.run(&["backup", "--host", "box", "Documents"]).ok();
    scene.show(&["ls", "ffffffffffffff"]);
    scene.show(&["ls", "latest", "--host", "nobody"]);
    scene.show(&["ls", "--at", "2001-01-01"]);
    scene.show(&["ls", "latest:/nowhere", "-q"]);
    scene.show(&["dump", "latest:/nowhere", "-q"]);
    scene.show(&["restore", "latest", "--delete", "--target", "/"]);
    scene.show(&["forget"]);
    scene.show(&["forget", "latest", "--keep-last", "1"]);
    scene.show(&["forget", "--keep-daily", "many"]);
    scene.show(&["forget", "--keep-daily", "0"]);
    scene.show(&["forget", "--keep-within", "a while"]);
    scene.show(&["forget", "--keep-last", "1", "--group-by", "moon"]);
    scene.show(&["forget", "latest:/home"]);
    scene.show(&["undelete", "ff"]);
    scene.set("AUMBRY_PASSWORD", "wrong");
    scene.show(&["snapshots"]);
    assert_seen("errors", scene.transcript());
}

#[test]
fn a_config_that_is_newer_or_cut_is_told_apart() {
    let mut scene = Scene::new();
    scene.run(&["init"]).ok();
    let config = scene.repository().join("config");
    let whole = fs::read(&config).unwrap();
    let mut newer = whole.clone();
    newer[8] = 200;
    fs::remove_file(&config).unwrap();
    fs::write(&config, newer).unwrap();
    scene.show(&["snapshots"]);
    fs::write(&config, &whole[..whole.len() / 2]).unwrap();
    scene.show(&["snapshots"]);
    fs::write(&config, &whole[..20]).unwrap();
    scene.show(&["snapshots"]);
    assert_seen("errors_config", scene.transcript());
}

#[test]
fn a_prefix_of_two_snapshots_names_neither() {
    let scene = Scene::with_documents();
    let mut first_digits = Vec::new();
    let digit = loop {
        let summary = scene.run(&["backup", "--json", "Documents/letters"]).ok().json_lines();
        let id = summary.last().unwrap()["snapshot_id"].as_str().unwrap().to_string();
        // Of seventeen, two have the same; mostly it takes five.
        if first_digits.contains(&id[..1].to_string()) {
            break id[..1].to_string();
        }
        first_digits.push(id[..1].to_string());
    };
    let run = scene.run(&["ls", &digit]);
    assert_eq!(run.code, 1);
    assert!(run.stderr.contains("2 snapshots"), "{}", run.stderr);
    assert!(run.stderr.contains("aumbry snapshots"), "{}", run.stderr);
}

#[test]
fn a_stream_beside_paths_is_refused() {
    let scene = Scene::with_documents();
    for arguments in [
        &["backup", "--stdin", "Documents"][..],
        &["backup", "--stdin", "--files-from", "list"],
        &["backup", "Documents", "--stdin-from-command", "echo", "x"],
    ] {
        let run = scene.run(arguments);
        assert_eq!(run.code, 2, "{arguments:?}: {}", run.stderr);
    }
}

#[test]
fn a_file_that_may_not_be_read_is_a_problem_and_the_rest_is_saved() {
    let scene = Scene::with_documents();
    scene.run(&["backup", "Documents"]).ok();
    let run = scene.run(&["backup", "Documents", "/proc/self/mem"]);
    // Root may read everything but what cannot be read.
    assert_eq!(run.code, 3, "{}", run.stderr);
    assert!(run.stderr.contains("/mem: "), "{}", run.stderr);
    let listed = scene.run(&["ls", "latest"]).ok();
    assert!(listed.text().contains("Documents/letters"), "{}", listed.text());
}

#[test]
fn the_repository_is_never_saved_into_itself() {
    let scene = Scene::with_documents();
    scene.run(&["backup", "Documents"]).ok();
    for arguments in [&["backup", "."][..], &["backup", "--as-path", "/elsewhere", "."]] {
        scene.run(arguments).ok();
        let listed = scene.run(&["ls", "latest"]).ok();
        assert!(listed.text().contains("aumbry/repository"), "{}", listed.text());
        assert!(!listed.text().contains("repository/packs"), "{}", listed.text());
    }
}

#[test]
fn restoring_into_a_place_that_cannot_be_written_says_which() {
    let scene = Scene::with_documents();
    scene.run(&["backup", "Documents"]).ok();
    let run = scene.run(&["restore", "latest", "--target", "/proc/nothing/here"]);
    assert_eq!(run.code, 1, "{}", run.stderr);
    assert!(run.stderr.contains("/proc/nothing"), "{}", run.stderr);
}

#[test]
fn a_source_that_is_missing_beside_another_is_a_problem() {
    let scene = Scene::with_documents();
    let run = scene.run(&["backup", "Documents", "missing"]);
    assert_eq!(run.code, 3);
    assert!(run.stderr.contains("missing"), "{}", run.stderr);
    assert!(run.text().contains("problems  1"), "{}", run.text());
}

#[test]
fn a_failing_command_makes_no_snapshot() {
    let scene = Scene::new();
    scene.run(&["init"]).ok();
    let run = scene.run(&["backup", "--stdin-from-command", "sh", "-c", "echo half; exit 3"]);
    assert_eq!(run.code, 1, "{}", run.stderr);
    assert!(scene.run(&["snapshots", "--json"]).ok().text().starts_with("[]"));
}

#[test]
fn nobody_reading_is_no_error() {
    let scene = Scene::with_documents();
    scene.run(&["backup", "Documents"]).ok();
    for arguments in
        [&["ls"][..], &["ls", "--json"], &["dump", "/"], &["snapshots"], &["completions", "bash"]]
    {
        let mut child = scene.command(arguments).spawn().unwrap();
        drop(child.stdout.take());
        let mut words = String::new();
        child.stderr.take().unwrap().read_to_string(&mut words).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(0), "{arguments:?}: {words}");
        assert!(!words.contains("panic") && !words.contains("error"), "{arguments:?}: {words}");
    }
}

#[test]
fn an_interrupted_backup_ends_in_order() {
    let scene = Scene::new();
    scene.run(&["init"]).ok();
    let mut child =
        scene.command(&["backup", "--json", "--stdin"]).stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // It never ends, so that the backup cannot be done before it looks up.
    let writer = std::thread::spawn(move || while stdin.write_all(&[0; 4096]).is_ok() {});
    let mut stdout = BufReader::new(child.stdout.take().unwrap()).lines();
    // From this line on, a signal is a wish.
    assert!(stdout.by_ref().any(|line| line.unwrap().contains(r#""phase":"backup""#)));
    let id = rustix::process::Pid::from_raw(child.id() as i32).unwrap();
    rustix::process::kill_process(id, rustix::process::Signal::INT).unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut words = String::new();
    while !words.contains("stopping") {
        assert!(stderr.read_line(&mut words).unwrap() > 0, "{words}");
    }
    stdout.for_each(drop);
    stderr.read_to_string(&mut words).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{words}");
    writer.join().unwrap();
    assert!(words.contains(r#""code":130"#), "{words}");
    assert!(scene.run(&["snapshots", "--json"]).ok().text().starts_with("[]"));
}

#[test]
fn the_place_is_taken_from_variables_and_not_from_those_of_others() {
    let mut scene = Scene::with_documents();
    scene.set("RESTIC_REPOSITORY", "/nowhere/else");
    scene.set("RESTIC_PASSWORD", "somebody's");
    scene.run(&["init"]).ok();
    assert!(scene.repository().join("config").exists());

    let other = scene.text_path("other");
    scene.set("AUMBRY_REPOSITORY", &other);
    scene.run(&["init"]).ok();
    assert!(scene.path("other/config").exists());
    assert_eq!(scene.run(&["init"]).code, 1, "it is a repository already");
    scene.unset("AUMBRY_REPOSITORY");

    std::fs::write(scene.path("place"), format!("{other}\n")).unwrap();
    scene.set("AUMBRY_REPOSITORY_FILE", &scene.text_path("place"));
    scene.run(&["backup", "--quiet", "Documents"]).ok();
    assert_eq!(std::fs::read_dir(scene.path("other/snapshots")).unwrap().count(), 1);
    assert_eq!(
        std::fs::read_dir(scene.repository().join("snapshots")).map_or(0, Iterator::count),
        0
    );
    // What is typed wins.
    let typed = scene.run(&[
        "-r",
        &scene.text_path(".local/share/aumbry/repository"),
        "snapshots",
        "--json",
    ]);
    assert_eq!(typed.ok().json_lines()[0].as_array().unwrap().len(), 0);
}
