//! A small stand-in for Google Cloud Storage, as its JSON API is documented: upload by `uploadType=media` and in resumable
//! sessions, metadata, download with ranges, delete, lists in pages, and `ifGenerationMatch=0` under one lock. No emulator
//! that can be had keeps conditions.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Mutex;

use serde_json::json;

use crate::http::{HttpServer, Reply, Request, decode, now};
use crate::servers::BUCKET;

/// Objects of a page of a list.
const PAGE: usize = 1000;

/// An upload in parts.
struct Upload {
    name: String,
    must_be_absent: bool,
    bytes: Vec<u8>,
}

struct Object {
    generation: u64,
    made: jiff::Timestamp,
    bytes: Vec<u8>,
}

#[derive(Default)]
struct Bucket {
    objects: BTreeMap<String, Object>,
    uploads: BTreeMap<String, Upload>,
    generation: u64,
}

/// The server, until it is dropped.
pub struct FakeGcs(HttpServer);

impl FakeGcs {
    /// Starts with an empty bucket.
    pub fn start() -> FakeGcs {
        let bucket = Mutex::new(Bucket::default());
        FakeGcs(HttpServer::start(move |request| answer(request, &bucket)))
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.0.address()
    }
}

fn in_json(value: &serde_json::Value) -> Reply {
    Reply::new("200 OK", value.to_string()).with("Content-Type", "application/json")
}

fn error(status: &'static str, reason: &str) -> Reply {
    let code: u32 = status[..3].parse().unwrap_or(500);
    let error = json!({ "error": { "code": code, "message": reason, "errors": [] } });
    Reply { status, ..in_json(&error) }
}

fn answer(request: &Request, bucket: &Mutex<Bucket>) -> Reply {
    let objects = format!("/storage/v1/b/{BUCKET}/o");
    let mut bucket = bucket.lock().unwrap();
    if request.path == format!("/upload{objects}") && request.method == "POST" {
        return insert(&mut bucket, request);
    }
    if let Some(id) = request.path.strip_prefix("/session/") {
        return go_on(&mut bucket, id, request);
    }
    if request.path == objects && request.method == "GET" {
        return list(&bucket, &request.query);
    }
    let Some(name) = request.path.strip_prefix(&format!("{objects}/")).map(decode) else {
        return error("404 Not Found", "no such bucket");
    };
    let Some(object) = bucket.objects.get(&name) else {
        return error("404 Not Found", "no such object");
    };
    match request.method.as_str() {
        "DELETE" => {
            bucket.objects.remove(&name);
            Reply::new("204 No Content", "")
        }
        "GET" if request.query.get("alt").is_some_and(|alt| alt == "media") => {
            Reply::bytes(&object.bytes, request.header("range"))
                .unwrap_or_else(|_| error("416 Range Not Satisfiable", "beyond the end"))
        }
        "GET" => in_json(&resource(&name, object)),
        _ => error("405 Method Not Allowed", "not offered here"),
    }
}

fn insert(bucket: &mut Bucket, request: &Request) -> Reply {
    let Some(name) = request.query.get("name") else {
        return error("400 Bad Request", "an object needs a name");
    };
    let must_be_absent = request.query.get("ifGenerationMatch").is_some_and(|wanted| wanted == "0");
    match request.query.get("uploadType").map(String::as_str) {
        Some("media") => store(bucket, name, must_be_absent, request.body.clone()),
        Some("resumable") => {
            bucket.generation += 1;
            let id = bucket.generation.to_string();
            let session = format!("http://{}/session/{id}", request.header("host"));
            let upload = Upload { name: name.clone(), must_be_absent, bytes: Vec::new() };
            bucket.uploads.insert(id, upload);
            Reply::new("200 OK", "").with("Location", session)
        }
        _ => error("400 Bad Request", "this way of uploading is not offered here"),
    }
}

/// A part of an upload: `bytes 0-99/*` until the last one, which tells the whole length, or a question how far it is:
/// `bytes */100`.
fn go_on(bucket: &mut Bucket, id: &str, request: &Request) -> Reply {
    let Some(upload) = bucket.uploads.get_mut(id) else {
        return error("404 Not Found", "no such upload");
    };
    if request.method == "DELETE" {
        bucket.uploads.remove(id);
        return Reply::new("499 Client Closed Request", "");
    }
    let said = request.header("content-range").strip_prefix("bytes ");
    let Some((place, total)) = said.and_then(|range| range.split_once('/')) else {
        return error("400 Bad Request", "no Content-Range");
    };
    if let Some(start) = place.split('-').next().and_then(|start| start.parse::<usize>().ok()) {
        // What is there already is ignored when it comes again.
        let known = upload.bytes.len().saturating_sub(start).min(request.body.len());
        upload.bytes.extend_from_slice(&request.body[known..]);
    }
    if total.parse() == Ok(upload.bytes.len()) {
        let Some(upload) = bucket.uploads.remove(id) else {
            return error("404 Not Found", "no such upload");
        };
        return store(bucket, &upload.name, upload.must_be_absent, upload.bytes);
    }
    let reply = Reply::new("308 Resume Incomplete", "");
    match upload.bytes.len().checked_sub(1) {
        Some(last) => reply.with("Range", format!("bytes=0-{last}")),
        None => reply,
    }
}

fn store(bucket: &mut Bucket, name: &str, must_be_absent: bool, bytes: Vec<u8>) -> Reply {
    if must_be_absent && bucket.objects.contains_key(name) {
        return error("412 Precondition Failed", "conditionNotMet");
    }
    bucket.generation += 1;
    let object = Object { generation: bucket.generation, made: now(), bytes };
    let reply = in_json(&resource(name, &object));
    bucket.objects.insert(name.to_string(), object);
    reply
}

fn list(bucket: &Bucket, query: &BTreeMap<String, String>) -> Reply {
    let text = |name: &str| query.get(name).map_or("", String::as_str);
    let from = text("pageToken").max(text("startOffset")).to_string();
    let most = text("maxResults").parse().unwrap_or(PAGE).min(PAGE);
    let found = bucket.objects.range(from..).filter(|(name, _)| name.starts_with(text("prefix")));
    let mut found: Vec<_> = found.take(most + 1).collect();
    let next = if found.len() > most { found.pop().map(|(name, _)| name) } else { None };
    let items = found.iter().map(|(name, object)| resource(name, object));
    let mut reply = json!({ "kind": "storage#objects", "items": items.collect::<Vec<_>>() });
    if let Some(next) = next {
        reply["nextPageToken"] = json!(next);
    }
    in_json(&reply)
}

fn resource(name: &str, object: &Object) -> serde_json::Value {
    let Object { generation, made, bytes } = object;
    json!({
        "kind": "storage#object",
        "name": name,
        "bucket": BUCKET,
        "generation": generation.to_string(),
        "metageneration": "1",
        "contentType": "application/octet-stream",
        "size": bytes.len().to_string(),
        "md5Hash": "",
        "etag": format!("e{generation}"),
        "timeCreated": format!("{made:.3}"),
        "updated": format!("{made:.3}"),
    })
}
