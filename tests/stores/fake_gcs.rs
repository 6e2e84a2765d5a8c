//! A small stand-in for Google Cloud Storage, as its JSON API is documented: upload by `uploadType=media` and in resumable
//! sessions, metadata, download with ranges, delete, lists in pages, and `ifGenerationMatch=0` under one lock. No emulator
//! that can be had keeps conditions.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use serde_json::json;

use crate::servers::BUCKET;

/// Objects of a page of a list.
const PAGE: usize = 1000;

/// An upload in parts.
struct Upload {
    name: String,
    must_be_absent: bool,
    bytes: Vec<u8>,
}

#[derive(Default)]
struct Bucket {
    objects: BTreeMap<String, (u64, Vec<u8>)>,
    uploads: BTreeMap<String, Upload>,
    generation: u64,
}

/// The server, until it is dropped.
pub struct FakeGcs {
    address: SocketAddr,
    ends: Arc<AtomicBool>,
    acceptor: Option<JoinHandle<()>>,
}

impl FakeGcs {
    /// Starts with an empty bucket.
    pub fn start() -> FakeGcs {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let address = listener.local_addr().expect("it is bound");
        let ends = Arc::new(AtomicBool::new(false));
        let acceptor = {
            let (ends, bucket) = (ends.clone(), Arc::new(Mutex::new(Bucket::default())));
            thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    if ends.load(Ordering::SeqCst) {
                        break;
                    }
                    let bucket = bucket.clone();
                    thread::spawn(move || serve(&stream, &bucket));
                }
            })
        };
        FakeGcs { address, ends, acceptor: Some(acceptor) }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for FakeGcs {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

struct Request {
    method: String,
    path: String,
    query: BTreeMap<String, String>,
    host: String,
    range: Option<String>,
    content_range: Option<String>,
    body: Vec<u8>,
}

struct Reply {
    status: &'static str,
    body: Vec<u8>,
    header: Option<String>,
}

impl Reply {
    fn json(value: &serde_json::Value) -> Reply {
        Reply { status: "200 OK", body: value.to_string().into_bytes(), header: None }
    }

    fn error(status: &'static str, reason: &str) -> Reply {
        let code: u32 = status[..3].parse().unwrap_or(500);
        let error = json!({ "error": { "code": code, "message": reason, "errors": [] } });
        Reply { status, ..Reply::json(&error) }
    }
}

/// Answers one request after another until the client goes away.
fn serve(stream: &TcpStream, bucket: &Mutex<Bucket>) {
    let _ = stream.set_nodelay(true);
    let mut reader = BufReader::new(stream);
    while let Some(request) = read_request(&mut reader) {
        let reply = answer(&request, bucket);
        let header = reply.header.map(|header| format!("{header}\r\n"));
        let head = format!(
            "HTTP/1.1 {}\r\nContent-Length: {}\r\nContent-Type: application/json\r\n{}\r\n",
            reply.status,
            reply.body.len(),
            header.unwrap_or_default()
        );
        let mut writer = stream;
        if writer.write_all(head.as_bytes()).and_then(|()| writer.write_all(&reply.body)).is_err() {
            return;
        }
    }
}

fn read_request(reader: &mut BufReader<&TcpStream>) -> Option<Request> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|length| *length > 0)?;
    let mut words = line.split_whitespace();
    let (method, target) = (words.next()?.to_string(), words.next()?.to_string());
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let query = query.split('&').filter_map(|pair| pair.split_once('='));
    let query = query.map(|(name, value)| (name.to_string(), decode(value))).collect();
    let (mut length, mut host, mut range, mut content_range) = (0, String::new(), None, None);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|length| *length > 0)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.trim().parse().ok()?,
            "host" => host = value.trim().to_string(),
            "range" => range = Some(value.trim().to_string()),
            "content-range" => content_range = Some(value.trim().to_string()),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let path = path.to_string();
    Some(Request { method, path, query, host, range, content_range, body })
}

fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let (mut decoded, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        let escaped = text.get(at + 1..at + 3).filter(|_| bytes[at] == b'%');
        match escaped.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                decoded.push(byte);
                at += 3;
            }
            None => {
                decoded.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
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
        return Reply::error("404 Not Found", "no such bucket");
    };
    let Some((generation, bytes)) = bucket.objects.get(&name) else {
        return Reply::error("404 Not Found", "no such object");
    };
    match request.method.as_str() {
        "DELETE" => {
            bucket.objects.remove(&name);
            Reply { status: "204 No Content", body: Vec::new(), header: None }
        }
        "GET" if request.query.get("alt").is_some_and(|alt| alt == "media") => {
            download(bytes, request.range.as_deref())
        }
        "GET" => Reply::json(&resource(&name, *generation, bytes)),
        _ => Reply::error("405 Method Not Allowed", "not offered here"),
    }
}

fn insert(bucket: &mut Bucket, request: &Request) -> Reply {
    let Some(name) = request.query.get("name") else {
        return Reply::error("400 Bad Request", "an object needs a name");
    };
    let must_be_absent = request.query.get("ifGenerationMatch").is_some_and(|wanted| wanted == "0");
    match request.query.get("uploadType").map(String::as_str) {
        Some("media") => store(bucket, name, must_be_absent, request.body.clone()),
        Some("resumable") => {
            bucket.generation += 1;
            let id = bucket.generation.to_string();
            let header = format!("Location: http://{}/session/{id}", request.host);
            let upload = Upload { name: name.clone(), must_be_absent, bytes: Vec::new() };
            bucket.uploads.insert(id, upload);
            Reply { status: "200 OK", body: Vec::new(), header: Some(header) }
        }
        _ => Reply::error("400 Bad Request", "this way of uploading is not offered here"),
    }
}

/// A part of an upload: `bytes 0-99/*` until the last one, which tells the whole length, or a question how far it is:
/// `bytes */100`.
fn go_on(bucket: &mut Bucket, id: &str, request: &Request) -> Reply {
    let Some(upload) = bucket.uploads.get_mut(id) else {
        return Reply::error("404 Not Found", "no such upload");
    };
    if request.method == "DELETE" {
        bucket.uploads.remove(id);
        return Reply { status: "499 Client Closed Request", body: Vec::new(), header: None };
    }
    let said = request.content_range.as_deref().and_then(|range| range.strip_prefix("bytes "));
    let Some((place, total)) = said.and_then(|range| range.split_once('/')) else {
        return Reply::error("400 Bad Request", "no Content-Range");
    };
    if let Some(start) = place.split('-').next().and_then(|start| start.parse::<usize>().ok()) {
        // What is there already is ignored when it comes again.
        let known = upload.bytes.len().saturating_sub(start).min(request.body.len());
        upload.bytes.extend_from_slice(&request.body[known..]);
    }
    if total.parse() == Ok(upload.bytes.len()) {
        let Some(upload) = bucket.uploads.remove(id) else {
            return Reply::error("404 Not Found", "no such upload");
        };
        return store(bucket, &upload.name, upload.must_be_absent, upload.bytes);
    }
    let last = upload.bytes.len().checked_sub(1).map(|last| format!("Range: bytes=0-{last}"));
    Reply { status: "308 Resume Incomplete", body: Vec::new(), header: last }
}

fn store(bucket: &mut Bucket, name: &str, must_be_absent: bool, bytes: Vec<u8>) -> Reply {
    if must_be_absent && bucket.objects.contains_key(name) {
        return Reply::error("412 Precondition Failed", "conditionNotMet");
    }
    bucket.generation += 1;
    let reply = Reply::json(&resource(name, bucket.generation, &bytes));
    bucket.objects.insert(name.to_string(), (bucket.generation, bytes));
    reply
}

fn download(bytes: &[u8], range: Option<&str>) -> Reply {
    let whole = Reply { status: "200 OK", body: bytes.to_vec(), header: None };
    let Some((first, last)) = range.and_then(|range| range.strip_prefix("bytes=")?.split_once('-'))
    else {
        return whole;
    };
    let (Ok(first), length) = (first.parse::<usize>(), bytes.len()) else { return whole };
    if first >= length {
        return Reply::error("416 Range Not Satisfiable", "beyond the end");
    }
    let end = last.parse::<usize>().map_or(length, |last| last.saturating_add(1).min(length));
    Reply {
        status: "206 Partial Content",
        body: bytes[first..end].to_vec(),
        header: Some(format!("Content-Range: bytes {first}-{}/{length}", end - 1)),
    }
}

fn list(bucket: &Bucket, query: &BTreeMap<String, String>) -> Reply {
    let text = |name: &str| query.get(name).map_or("", String::as_str);
    let from = text("pageToken").max(text("startOffset")).to_string();
    let most = text("maxResults").parse().unwrap_or(PAGE).min(PAGE);
    let found = bucket.objects.range(from..).filter(|(name, _)| name.starts_with(text("prefix")));
    let mut found: Vec<_> = found.take(most + 1).collect();
    let next = if found.len() > most { found.pop().map(|(name, _)| name) } else { None };
    let items = found.iter().map(|(name, (generation, bytes))| resource(name, *generation, bytes));
    let mut reply = json!({ "kind": "storage#objects", "items": items.collect::<Vec<_>>() });
    if let Some(next) = next {
        reply["nextPageToken"] = json!(next);
    }
    Reply::json(&reply)
}

fn resource(name: &str, generation: u64, bytes: &[u8]) -> serde_json::Value {
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
        "timeCreated": "2026-11-01T00:00:00.000Z",
        "updated": "2026-11-01T00:00:00.000Z",
    })
}
