//! The whole tool against each store, as a person uses it: two machines, three backups, forget and prune beside a backup,
//! check, restore and compare.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread;

use crate::fake_b2::{self, FakeB2, Mood};
use crate::fake_gcs::FakeGcs;
use crate::fake_s3::FakeS3;
use crate::servers::{
    ACCESS_KEY, AZURE_ACCOUNT, AZURE_KEY, BUCKET, SECRET_KEY, apache, azurite, moto, nginx,
    rclone_s3, rclone_webdav, s3s_fs,
};
use crate::sshd::Sshd;

/// A machine with a home of its own, whose repository is at a place.
pub struct Machine {
    home: tempfile::TempDir,
    place: String,
    variables: Vec<(&'static str, String)>,
    options: Vec<String>,
}

impl Machine {
    /// With these variables in its environment, and options of every command.
    pub fn new(place: &str, variables: &[(&'static str, String)], options: &[String]) -> Machine {
        let home = tempfile::tempdir().unwrap();
        let (variables, options) = (variables.to_vec(), options.to_vec());
        Machine { home, place: place.to_string(), variables, options }
    }

    /// Something in its home.
    pub fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// Runs a command.
    pub fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_aumbry"));
        command
            .env_clear()
            .env("HOME", self.home.path())
            .env("PATH", std::env::var("PATH").unwrap());
        command.env("AUMBRY_REPOSITORY", &self.place).env("AUMBRY_PASSWORD", "a passphrase");
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command.args(&self.options).args(arguments).output().unwrap()
    }

    /// Runs one that must succeed, and returns what it printed.
    #[track_caller]
    pub fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        let printed = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{arguments:?}: {}\n{printed}\n{said}", output.status);
        printed.into_owned()
    }
}

/// Text that compresses a little, a different one for each number.
fn text(number: usize, lines: usize) -> String {
    (0..lines)
        .map(|line| format!("{number} of {line} is {}\n", number * 7919 + line * line))
        .collect()
}

/// Documents as they are at a version.
pub fn write_tree(folder: &Path, version: usize) {
    fs::create_dir_all(folder.join("letters")).unwrap();
    for number in 0..60 {
        let changes = usize::from(number % 5 == 0) * version;
        fs::write(folder.join(format!("letters/{number}")), text(number + changes, 40)).unwrap();
    }
    let image: Vec<u8> = (0..400_000_u32)
        .flat_map(|at| at.wrapping_mul(2_654_435_761).wrapping_add(version as u32).to_le_bytes())
        .collect();
    fs::write(folder.join("image"), image).unwrap();
    fs::write(folder.join(format!("only-{version}")), text(version, 500)).unwrap();
}

/// In what two folders differ; empty: in nothing.
pub fn differ(one: &Path, other: &Path) -> String {
    let output = Command::new("diff").arg("-r").arg(one).arg(other).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Where the documents of the latest snapshot stand, restored.
pub fn restored(machine: &Machine) -> PathBuf {
    let target = machine.path("restored");
    machine.ok(&["restore", "latest", "--target", target.to_str().unwrap()]);
    let mut folders = vec![target];
    while let Some(folder) = folders.pop() {
        if folder.ends_with("Documents") {
            return folder;
        }
        let entries = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
        folders.extend(entries.filter(|path| path.is_dir()));
    }
    panic!("nothing named Documents was restored");
}

fn tell_the_whole_story(place: &str, variables: &[(&'static str, String)], options: &[String]) {
    let (one, other) =
        (Machine::new(place, variables, options), Machine::new(place, variables, options));
    let (mine, theirs) = (one.path("Documents"), other.path("Documents"));
    let (mine_text, theirs_text) = (mine.to_str().unwrap(), theirs.to_str().unwrap());
    write_tree(&mine, 1);
    write_tree(&theirs, 4);
    one.ok(&["init"]);
    one.ok(&["backup", "--quiet", "--name", "mine", mine_text]);
    write_tree(&mine, 2);
    one.ok(&["backup", "--quiet", "--name", "mine", mine_text]);
    // Both at once.
    fs::remove_file(mine.join("only-1")).unwrap();
    write_tree(&mine, 3);
    thread::scope(|scope| {
        let theirs =
            scope.spawn(|| other.ok(&["backup", "--quiet", "--name", "theirs", theirs_text]));
        one.ok(&["backup", "--quiet", "--name", "mine", mine_text]);
        theirs.join().unwrap();
    });
    // Forgetting and giving back the space while the other one goes on.
    write_tree(&theirs, 5);
    thread::scope(|scope| {
        let theirs =
            scope.spawn(|| other.ok(&["backup", "--quiet", "--name", "theirs", theirs_text]));
        let pruned =
            one.run(&["forget", "--keep-last", "1", "--prune", "--yes", "--patience", "7d"]);
        // 3: it waits for the backup beside it.
        let said = String::from_utf8_lossy(&pruned.stderr);
        assert!(matches!(pruned.status.code(), Some(0 | 3)), "{}: {said}", pruned.status);
        theirs.join().unwrap();
    });
    one.ok(&["prune"]);
    one.ok(&["check", "--read-data"]);
    for (machine, documents) in [(&one, &mine), (&other, &theirs)] {
        // Each has its own host's latest: paths tell them apart.
        let path = documents.to_str().unwrap();
        let target = machine.path("mine");
        machine.ok(&["restore", "latest", "--path", path, "--target", target.to_str().unwrap()]);
    }
    assert_eq!(differ(&theirs, &restored(&other)), "");
    let snapshots = one.ok(&["snapshots", "--json"]);
    assert!(snapshots.contains(theirs_text) && snapshots.contains(mine_text), "{snapshots}");
}

/// A place of S3's, and what opens it.
pub fn s3(address: SocketAddr) -> (String, Vec<(&'static str, String)>) {
    let variables = vec![
        ("AWS_ACCESS_KEY_ID", ACCESS_KEY.into()),
        ("AWS_SECRET_ACCESS_KEY", SECRET_KEY.into()),
    ];
    (format!("s3+http://{address}/{BUCKET}/some/where"), variables)
}

#[test]
fn on_s3() {
    let Some(server) = moto() else { return };
    let (place, variables) = s3(server.address());
    tell_the_whole_story(&place, &variables, &[]);
}

/// A command that has objects of moto's restored from their archive: their names come on its standard input.
fn thaw_command(address: SocketAddr) -> String {
    let script = format!(
        "import boto3, os, sys\n\
         s3 = boto3.client('s3', endpoint_url='http://{address}', region_name='us-east-1')\n\
         prefix = os.environ['AUMBRY_COLD_STORE'].split('/{BUCKET}/')[1]\n\
         for name in sys.stdin.read().split():\n    \
             s3.restore_object(Bucket='{BUCKET}', Key=prefix + '/' + name, RestoreRequest={{'Days': 1}})\n"
    );
    let python = Path::new(&std::env::var("AUMBRY_TEST_SERVERS").unwrap()).join("bin/python");
    format!("{} -c \"{script}\"", python.display())
}

#[test]
fn with_data_packs_in_an_archive_of_s3_and_all_else_in_a_folder() {
    let Some(server) = moto() else { return };
    let (place, mut variables) = s3(server.address());
    let hot = tempfile::tempdir().unwrap();
    variables.push(("AUMBRY_REPO_HOT", hot.path().join("hot").to_str().unwrap().to_string()));
    let class = ["-o".to_string(), "storage-class=GLACIER".to_string()];
    let thaw = ["--warm-up-command".to_string(), thaw_command(server.address())];
    tell_the_whole_story(&place, &variables, &[&class[..], &thaw].concat());

    // Without being thawed, contents are not read, and it is said what to do.
    let machine = Machine::new(&place, &variables, &class);
    let documents = machine.path("Documents");
    write_tree(&documents, 9);
    machine.ok(&["backup", "--quiet", "--name", "cold", documents.to_str().unwrap()]);
    machine.ok(&["check"]);
    let target = machine.path("restored");
    let restore = ["restore", "latest", "--target", target.to_str().unwrap()];
    let output = machine.run(&restore);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("is in an archive") && said.contains("--warm-up-command"), "{said}");
    let planned = machine.ok(&[&restore[..], &["--dry-run", "--json"]].concat());
    assert!(planned.contains("\"cold_packs\":[\"packs/"), "{planned}");

    // The folder is gone: everything but contents is in S3 at once, and comes back without a passphrase.
    fs::remove_dir_all(hot.path().join("hot")).unwrap();
    fs::remove_dir_all(machine.path(".cache")).unwrap();
    machine.ok(&["repair", "hot", "--yes"]);
    let machine = Machine::new(&place, &variables, &[&class[..], &thaw].concat());
    write_tree(&machine.path("Documents"), 9);
    machine.ok(&["check", "--read-data"]);
    assert_eq!(differ(&machine.path("Documents"), &restored(&machine)), "");
}

#[test]
fn on_s3_as_it_is_documented() {
    let server = FakeS3::start();
    let (place, variables) = s3(server.address());
    tell_the_whole_story(&place, &variables, &[]);
}

/// What a repository there says of itself after all.
fn is_in_the_second_form(place: &str, variables: &[(&'static str, String)]) {
    let said = Machine::new(place, variables, &[]).ok(&["stats", "--store", "--json"]);
    assert!(said.contains("\"form\":2") && said.contains("\"creates_once\":false"), "{said}");
}

#[test]
fn on_s3_that_ignores_conditions() {
    let Some(server) = rclone_s3() else { return };
    let (place, variables) = s3(server.address());
    tell_the_whole_story(&place, &variables, &[]);
    is_in_the_second_form(&place, &variables);
}

#[test]
fn on_s3_that_loses_races() {
    let Some(server) = s3s_fs() else { return };
    let (place, variables) = s3(server.address());
    tell_the_whole_story(&place, &variables, &[]);
    is_in_the_second_form(&place, &variables);
}

#[test]
fn on_azure() {
    let Some(server) = azurite() else { return };
    let place = format!("azblob+http://{}/{AZURE_ACCOUNT}/{BUCKET}/some/where", server.address());
    tell_the_whole_story(&place, &[("AZURE_STORAGE_ACCOUNT_KEY", AZURE_KEY.into())], &[]);
}

#[test]
fn on_google_cloud_storage_as_it_is_documented() {
    let server = FakeGcs::start();
    let place = format!("gcs+http://{}/{BUCKET}/some/where", server.address());
    let anonymous = ["-o".to_string(), "anonymous=true".to_string()];
    tell_the_whole_story(&place, &[], &anonymous);
}

/// The same of B2's.
pub fn b2(address: SocketAddr) -> (String, Vec<(&'static str, String)>) {
    let variables = vec![
        ("B2_APPLICATION_KEY_ID", fake_b2::KEY_ID.into()),
        ("B2_APPLICATION_KEY", fake_b2::KEY.into()),
        ("B2_BUCKET_ID", fake_b2::BUCKET_ID.into()),
    ];
    (format!("b2+http://{address}/{BUCKET}/some/where"), variables)
}

#[test]
fn on_b2_as_it_is_documented() {
    // A token for a few dozen requests, as if each command took days.
    let server = FakeB2::start(Mood { token_uses: 40, busy_after: 10 });
    let (place, variables) = b2(server.address());
    tell_the_whole_story(&place, &variables, &[]);
    assert!(server.seen().expired > 0 && server.seen().busy > 0, "{:?}", server.seen());
}

#[test]
fn on_webdav() {
    let places = [nginx(), apache(), rclone_webdav()];
    for server in places.iter().flatten() {
        let place = format!("webdav+http://{}/{BUCKET}/some/where", server.address());
        tell_the_whole_story(&place, &[], &[]);
    }
}

#[test]
fn on_sftp() {
    let Some(server) = Sshd::start() else { return };
    let variables = [("AUMBRY_STORE_SSH_COMMAND", server.command())];
    tell_the_whole_story(&server.place("some/where"), &variables, &[]);
}
