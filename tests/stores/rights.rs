//! The least that a store must allow, as `docs/stores.md` writes it down: servers that look at policies let through what is
//! needed, and refuse what is not.
//!
//! moto judges who may do what to which object, and not the conditions of a policy: that all of what a backup writes carries
//! the condition is asked of a stand-in that refuses everything else.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::fake_s3::FakeS3;
use crate::servers::{
    ACCESS_KEY, AZURE_ACCOUNT, AZURE_KEY, BUCKET, SECRET_KEY, azurite, moto_with_users, python,
};
use crate::whole::{Machine, differ, restored, s3, write_tree};

/// The policies that stand in the section on S3, in their order.
fn policies_of_the_documentation() -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/stores.md");
    let text = fs::read_to_string(path).unwrap();
    let section = text.split("\n## ").find(|section| section.starts_with("Amazon S3")).unwrap();
    let blocks = section.split("```json").skip(1);
    let text = |block: &str| {
        let policy = block.split("```").next().unwrap();
        policy.replace("BUCKET", BUCKET).replace("PREFIX", "some/where")
    };
    blocks.map(|block| serde_json::from_str(&text(block)).unwrap()).collect()
}

/// The same without the right to delete.
fn without_delete(policy: &Value) -> Value {
    let mut policy = policy.clone();
    for statement in policy["Statement"].as_array_mut().unwrap() {
        let actions = statement["Action"].as_array_mut().unwrap();
        actions.retain(|action| action != "s3:DeleteObject");
    }
    policy
}

fn backs_up_and_restores(machine: &Machine) {
    let documents = machine.path("Documents");
    machine.ok(&["init"]);
    for version in 1..=2 {
        write_tree(&documents, version);
        machine.ok(&["backup", "--quiet", documents.to_str().unwrap()]);
    }
    assert_eq!(differ(&documents, &restored(machine)), "");
}

#[track_caller]
fn may_prune(machine: &Machine) {
    machine.ok(&["forget", "--keep-last", "1", "--prune", "--yes"]);
    machine.ok(&["prune", "--max-unused", "0"]);
    machine.ok(&["check", "--read-data"]);
}

/// It is refused, says so, and the repository is whole.
#[track_caller]
fn may_not_prune(machine: &Machine, refusal: &str) {
    machine.ok(&["forget", "--keep-last", "1", "--yes"]);
    let pruned = machine.run(&["prune", "--max-unused", "0"]);
    let said = String::from_utf8_lossy(&pruned.stderr);
    assert!(!pruned.status.success() && said.contains(refusal), "{}: {said}", pruned.status);
    machine.ok(&["check", "--read-data"]);
}

#[test]
fn s3_policies_that_are_written_down_are_enough_and_not_too_much() {
    let policies = policies_of_the_documentation();
    let [whole, condition] = policies.as_slice() else { panic!("{policies:?}") };
    assert_eq!(condition["Condition"], json!({ "Null": { "s3:if-none-match": "false" } }));
    let users = [whole.clone(), without_delete(whole)];
    let Some((server, keys)) = moto_with_users(&users) else { return };
    let (place, _) = s3(server.address());
    let of_user = |user: usize, place: &str| {
        let (access, secret) = keys[user].clone();
        let variables = [("AWS_ACCESS_KEY_ID", access), ("AWS_SECRET_ACCESS_KEY", secret)];
        Machine::new(place, &variables, &[])
    };
    // Not where its policy does not reach.
    let elsewhere = of_user(0, &place.replace("some/where", "else/where")).run(&["init"]);
    let said = String::from_utf8_lossy(&elsewhere.stderr);
    assert!(!elsewhere.status.success() && said.contains("AccessDenied"), "{said}");
    // Not with a secret that is not this user's.
    let (access, _) = keys[0].clone();
    let wrong = [("AWS_ACCESS_KEY_ID", access), ("AWS_SECRET_ACCESS_KEY", SECRET_KEY.into())];
    let wrong = Machine::new(&place, &wrong, &[]).run(&["init"]);
    let said = String::from_utf8_lossy(&wrong.stderr);
    assert!(!wrong.status.success() && said.contains("SignatureDoesNotMatch"), "{said}");
    assert!(!said.contains(SECRET_KEY) && !said.contains(ACCESS_KEY), "{said}");

    let adds_only = of_user(1, &place);
    backs_up_and_restores(&adds_only);
    may_not_prune(&adds_only, "AccessDenied");
    may_prune(&of_user(0, &place));
}

#[test]
fn whoever_may_only_create_makes_a_repository_on_s3_and_backs_up() {
    let server = FakeS3::start_that_only_adds();
    let (place, variables) = s3(server.address());
    let machine = Machine::new(&place, &variables, &[]);
    backs_up_and_restores(&machine);
    may_not_prune(&machine, "AccessDenied");
}

/// A token for the container with these rights, signed as Azure documents it for version 2021-08-06.
fn sas_token(rights: &str) -> String {
    python(
        "import base64, hashlib, hmac, sys, urllib.parse\n\
         account, key, container, rights = sys.argv[1:]\n\
         end, version = '2099-01-01T00:00:00Z', '2021-08-06'\n\
         fields = [rights, '', end, f'/blob/{account}/{container}', '', '', '', version, 'c', '', '',\n\
                   '', '', '', '', '']\n\
         text = '\\n'.join(fields)\n\
         mac = hmac.new(base64.b64decode(key), text.encode(), hashlib.sha256).digest()\n\
         print(urllib.parse.urlencode({'sv': version, 'se': end, 'sr': 'c', 'sp': rights,\n\
                                       'sig': base64.b64encode(mac).decode()}), end='')",
        &[AZURE_ACCOUNT, AZURE_KEY, BUCKET, rights],
    )
}

#[test]
fn sas_tokens_that_are_written_down_are_enough_and_not_too_much() {
    let Some(server) = azurite() else { return };
    let place = format!("azblob+http://{}/{AZURE_ACCOUNT}/{BUCKET}/some/where", server.address());
    let with = |rights: &str| {
        let variables = [("AZURE_STORAGE_SAS_TOKEN", sas_token(rights))];
        Machine::new(&place, &variables, &[])
    };
    let adds_only = with("rcwl");
    backs_up_and_restores(&adds_only);
    may_not_prune(&adds_only, "AuthorizationPermissionMismatch");
    may_prune(&with("rcwdl"));
}
