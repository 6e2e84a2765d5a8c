//! A small stand-in for Backblaze B2, as its native interface is documented (version 2): accounts are authorized, uploads
//! go to an address that is asked for first, every write is a version, and what is deleted by name is hidden. Tokens can
//! run out, and places of upload be busy.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::http::{HttpServer, Reply, Request, decode};
use crate::servers::BUCKET;

/// The application key's id.
pub const KEY_ID: &str = "0012345678900000000000001";
/// The key itself.
pub const KEY: &str = "K001aumbrytestsecretaumbrytest";
/// What its owner calls [`BUCKET`].
pub const BUCKET_ID: &str = "4a48fe8875c6214145260818";
/// `KEY_ID:KEY`, as it comes in a header.
const BASIC: &str =
    "Basic MDAxMjM0NTY3ODkwMDAwMDAwMDAwMDAwMTpLMDAxYXVtYnJ5dGVzdHNlY3JldGF1bWJyeXRlc3Q=";
/// Names of a page of a list, where nobody says how many.
const PAGE: usize = 100;

/// What a name once had.
enum Version {
    Uploaded(Arc<[u8]>),
    Hidden,
}

/// What makes life harder.
#[derive(Debug, Clone, Copy, Default)]
pub struct Mood {
    /// A token of an account opens so many requests and has expired then; 0: it lasts.
    pub token_uses: u64,
    /// Each time after so many uploads, the place of upload is busy; 0: never.
    pub busy_after: u64,
}

/// How often what happened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Seen {
    /// Accounts were authorized.
    pub authorized: u64,
    /// Requests came with a token that has expired.
    pub expired: u64,
    /// Uploads were refused because the place was busy.
    pub busy: u64,
    /// Pages of lists were asked for.
    pub pages: u64,
}

#[derive(Default)]
struct Bucket {
    // The newest version is the last.
    files: BTreeMap<String, Vec<Version>>,
    // How many more requests each token opens.
    tokens: BTreeMap<String, u64>,
    upload_tokens: BTreeSet<String>,
    made: u64,
    uploads: u64,
    mood: Mood,
    seen: Seen,
}

/// The server, until it is dropped.
pub struct FakeB2 {
    server: HttpServer,
    bucket: Arc<Mutex<Bucket>>,
}

impl FakeB2 {
    /// Starts with an empty bucket.
    pub fn start(mood: Mood) -> FakeB2 {
        let bucket = Arc::new(Mutex::new(Bucket { mood, ..Bucket::default() }));
        let shared = bucket.clone();
        let server = HttpServer::start(move |request| {
            answer(request, &mut shared.lock().unwrap()).unwrap_or_else(|refusal| refusal)
        });
        FakeB2 { server, bucket }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// How often what happened.
    pub fn seen(&self) -> Seen {
        self.bucket.lock().unwrap().seen
    }

    /// All tokens that it has given out are forgotten.
    pub fn expire_tokens(&self) {
        let mut bucket = self.bucket.lock().unwrap();
        bucket.tokens.values_mut().for_each(|uses| *uses = 0);
    }

    /// Of how many versions with bytes each name has that is not hidden.
    pub fn versions(&self) -> BTreeMap<String, usize> {
        let bucket = self.bucket.lock().unwrap();
        let shown = bucket.files.iter().filter(|(_, versions)| shown(versions).is_some());
        let uploaded = |versions: &[Version]| {
            versions.iter().filter(|version| matches!(version, Version::Uploaded(_))).count()
        };
        shown.map(|(name, versions)| (name.clone(), uploaded(versions))).collect()
    }
}

/// The bytes, unless the newest version hides them.
fn shown(versions: &[Version]) -> Option<&Arc<[u8]>> {
    match versions.last() {
        Some(Version::Uploaded(bytes)) => Some(bytes),
        Some(Version::Hidden) | None => None,
    }
}

fn in_json(value: &Value) -> Reply {
    Reply::new("200 OK", value.to_string()).with("Content-Type", "application/json")
}

fn error(status: &'static str, code: &str, message: &str) -> Reply {
    let number: u32 = status[..3].parse().unwrap_or(500);
    let error = json!({ "status": number, "code": code, "message": message });
    Reply { status, ..in_json(&error) }
}

fn answer(request: &Request, bucket: &mut Bucket) -> Result<Reply, Reply> {
    let host = request.header("host");
    let called = request.path.strip_prefix("/b2api/v2/");
    if called == Some("b2_authorize_account") {
        return authorize(request, bucket, host);
    }
    if let Some(place) = called.and_then(|call| call.strip_prefix("b2_upload_file/")) {
        return upload(request, bucket, place);
    }
    check_token(request, bucket)?;
    match (request.method.as_str(), called) {
        ("GET", Some("b2_get_upload_url")) => {
            check_bucket(request.asked("bucketId"))?;
            bucket.made += 1;
            let token = format!("upload-{}", bucket.made);
            let place = format!("http://{host}/b2api/v2/b2_upload_file/{BUCKET_ID}/{token}");
            bucket.upload_tokens.insert(token.clone());
            Ok(in_json(&json!({
                "bucketId": BUCKET_ID, "uploadUrl": place, "authorizationToken": token
            })))
        }
        ("GET", Some("b2_list_file_names")) => list(request, bucket),
        ("POST", Some("b2_hide_file")) => hide(request, bucket),
        ("GET", None) => download(request, bucket),
        _ => Err(error("400 Bad Request", "bad_request", "not offered here")),
    }
}

fn authorize(request: &Request, bucket: &mut Bucket, host: &str) -> Result<Reply, Reply> {
    if request.header("authorization") != BASIC {
        let message = "The applicationKeyId and/or the applicationKey are wrong.";
        return Err(error("401 Unauthorized", "unauthorized", message));
    }
    bucket.made += 1;
    bucket.seen.authorized += 1;
    let token = format!("account-{}", bucket.made);
    let uses = if bucket.mood.token_uses == 0 { u64::MAX } else { bucket.mood.token_uses };
    bucket.tokens.insert(token.clone(), uses);
    let place = format!("http://{host}");
    Ok(in_json(&json!({
        "accountId": "abc", "authorizationToken": token, "apiUrl": place, "downloadUrl": place,
        "recommendedPartSize": 100_000_000, "absoluteMinimumPartSize": 5_000_000
    })))
}

fn check_token(request: &Request, bucket: &mut Bucket) -> Result<(), Reply> {
    match bucket.tokens.get_mut(request.header("authorization")) {
        Some(0) => {
            bucket.seen.expired += 1;
            let message = "Authorization token has expired";
            Err(error("401 Unauthorized", "expired_auth_token", message))
        }
        Some(uses) => {
            *uses -= 1;
            Ok(())
        }
        None => Err(error("401 Unauthorized", "bad_auth_token", "Invalid authorization token")),
    }
}

fn check_bucket(id: &str) -> Result<(), Reply> {
    match id {
        BUCKET_ID => Ok(()),
        _ => {
            let message = format!("bucket {id} does not exist");
            Err(error("400 Bad Request", "bad_bucket_id", &message))
        }
    }
}

/// Each place takes one upload after another with its own token; one that is busy is to be left for another.
fn upload(request: &Request, bucket: &mut Bucket, place: &str) -> Result<Reply, Reply> {
    let token = request.header("authorization");
    if place != format!("{BUCKET_ID}/{token}") || !bucket.upload_tokens.contains(token) {
        let message = "Invalid upload authorization token";
        return Err(error("401 Unauthorized", "bad_auth_token", message));
    }
    bucket.uploads += 1;
    if bucket.mood.busy_after > 0 && bucket.uploads.is_multiple_of(bucket.mood.busy_after + 1) {
        bucket.seen.busy += 1;
        bucket.upload_tokens.remove(token);
        let message = "no tomes available";
        return Err(error("503 Service Unavailable", "service_unavailable", message));
    }
    if request.header("x-bz-content-sha1").is_empty() || request.header("content-type").is_empty() {
        return Err(error("400 Bad Request", "bad_request", "Missing header"));
    }
    let name = decode(request.header("x-bz-file-name"));
    let is_wrong = name.is_empty() || name.starts_with('/') || name.ends_with('/');
    if is_wrong || name.contains("//") || name.len() > 1024 {
        return Err(error("400 Bad Request", "bad_request", "File name is not possible"));
    }
    let bytes: Arc<[u8]> = request.body.clone().into();
    let length = bytes.len();
    bucket.files.entry(name.clone()).or_default().push(Version::Uploaded(bytes));
    Ok(in_json(&file(&name, length, bucket)))
}

fn file(name: &str, length: usize, bucket: &mut Bucket) -> Value {
    bucket.made += 1;
    json!({
        "accountId": "abc", "action": "upload", "bucketId": BUCKET_ID, "contentLength": length,
        "contentMd5": null, "contentSha1": "unverified:", "contentType": "application/octet-stream",
        "fileId": format!("4_z{}", bucket.made), "fileInfo": {}, "fileName": name,
        "uploadTimestamp": 1_790_000_000_000_u64
    })
}

fn list(request: &Request, bucket: &mut Bucket) -> Result<Reply, Reply> {
    check_bucket(request.asked("bucketId"))?;
    bucket.seen.pages += 1;
    let most = match request.asked("maxFileCount") {
        "" => PAGE,
        text => {
            text.parse().ok().filter(|count| (1..=10_000).contains(count)).ok_or_else(|| {
                error("400 Bad Request", "out_of_range", "maxFileCount out of range")
            })?
        }
    };
    if !request.asked("delimiter").is_empty() {
        return Err(error("400 Bad Request", "bad_request", "folders are not offered here"));
    }
    let from = request.asked("startFileName").max(request.asked("prefix")).to_string();
    let prefix = request.asked("prefix");
    let found = bucket.files.range(from..).take_while(|(name, _)| name.starts_with(prefix));
    let found = found.filter_map(|(name, versions)| Some((name.clone(), shown(versions)?.len())));
    let mut found: Vec<_> = found.take(most + 1).collect();
    let next = if found.len() > most { found.pop().map(|(name, _)| name) } else { None };
    let files: Vec<Value> =
        found.iter().map(|(name, length)| file(name, *length, bucket)).collect();
    Ok(in_json(&json!({ "files": files, "nextFileName": next })))
}

fn hide(request: &Request, bucket: &mut Bucket) -> Result<Reply, Reply> {
    let asked: Value = serde_json::from_slice(&request.body)
        .map_err(|_| error("400 Bad Request", "bad_json", "not JSON"))?;
    check_bucket(asked["bucketId"].as_str().unwrap_or_default())?;
    let name = asked["fileName"].as_str().unwrap_or_default().to_string();
    let Some(versions) = bucket.files.get_mut(&name) else {
        return Err(error("400 Bad Request", "no_such_file", &format!("File not present: {name}")));
    };
    if shown(versions).is_none() {
        let message = format!("File already hidden: {name}");
        return Err(error("400 Bad Request", "already_hidden", &message));
    }
    versions.push(Version::Hidden);
    let mut hidden = file(&name, 0, bucket);
    hidden["action"] = json!("hide");
    Ok(in_json(&hidden))
}

fn download(request: &Request, bucket: &mut Bucket) -> Result<Reply, Reply> {
    let absent = || error("404 Not Found", "not_found", "File with such name does not exist.");
    let name = request.path.strip_prefix(&format!("/file/{BUCKET}/")).map(decode);
    let name = name.ok_or_else(absent)?;
    let bytes = bucket.files.get(&name).and_then(|versions| shown(versions)).ok_or_else(absent)?;
    Reply::bytes(bytes, request.header("range")).map_err(|length| {
        let message =
            format!("The Range header in the request is outside the size of the file: {length}");
        error("416 Range Not Satisfiable", "range_not_satisfiable", &message)
    })
}
