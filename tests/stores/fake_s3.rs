//! A small stand-in for S3, as its interface is documented: `PUT` with `If-None-Match: *`, `GET` with ranges, `HEAD`,
//! `DELETE`, and `ListObjectsV2` in pages. Conditions are decided under one lock, nothing that broke off is stored, and
//! threads answer at once: moto loses races with threads and stores what broke off. Signatures are not looked at. It can
//! say that it locks objects, and forget what that is.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use jiff::fmt::rfc2822::DateTimePrinter;

use crate::http::{HttpServer, Reply, Request, decode, now};
use crate::servers::BUCKET;

/// Objects of a page of a list.
const PAGE: usize = 1000;
/// S3 says of some creates that another one is under way, and wants to be asked again. Here: of each so many'th
/// whose name is taken.
const CONFLICTS: u64 = 5;

struct Object {
    made: jiff::Timestamp,
    bytes: Vec<u8>,
    /// Until when it is locked, in the client's own words.
    locked: Option<String>,
}

/// What it knows of locks.
#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum Locks {
    /// It says that it has none.
    #[default]
    None,
    /// They are kept and shown. (Nothing is kept from being deleted.)
    Known,
    /// It says that it has them, keeps those that an object is made with, and takes the request to prolong one for one
    /// that writes.
    Mistaken,
    /// It says that it has them, and knows neither headers nor requests.
    Forgotten,
}

#[derive(Default)]
struct Bucket {
    objects: BTreeMap<String, Object>,
    taken: u64,
    only_adds: bool,
    locks: Locks,
}

/// The server, until it is dropped.
pub struct FakeS3(HttpServer, Arc<Mutex<Bucket>>);

impl FakeS3 {
    /// Starts with an empty bucket.
    pub fn start() -> FakeS3 {
        FakeS3::start_with(Bucket::default())
    }

    /// One whose policy allows nobody to delete, or to write without a condition.
    pub fn start_that_only_adds() -> FakeS3 {
        FakeS3::start_with(Bucket { only_adds: true, ..Bucket::default() })
    }

    /// One whose bucket has Object Lock.
    pub fn start_that_locks() -> FakeS3 {
        FakeS3::start_with(Bucket { locks: Locks::Known, ..Bucket::default() })
    }

    /// From now on a request to prolong a lock is taken for one that writes.
    pub fn mistake_locks(&self) {
        self.1.lock().unwrap().locks = Locks::Mistaken;
    }

    /// The same, and no lock is kept or shown.
    pub fn forget_locks(&self) {
        self.1.lock().unwrap().locks = Locks::Forgotten;
    }

    /// All objects.
    pub fn contents(&self) -> BTreeMap<String, Vec<u8>> {
        let bucket = self.1.lock().unwrap();
        bucket.objects.iter().map(|(name, object)| (name.clone(), object.bytes.clone())).collect()
    }

    fn start_with(bucket: Bucket) -> FakeS3 {
        let bucket = Arc::new(Mutex::new(bucket));
        let served = bucket.clone();
        let server = HttpServer::start(move |request| {
            answer(request, &mut served.lock().unwrap()).unwrap_or_else(|refusal| refusal)
        });
        FakeS3(server, bucket)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.0.address()
    }
}

fn in_xml(status: &'static str, body: &str) -> Reply {
    let head = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n";
    Reply::new(status, format!("{head}{body}")).with("Content-Type", "application/xml")
}

fn error(status: &'static str, code: &str, message: &str) -> Reply {
    let body = format!(
        "<Error><Code>{code}</Code><Message>{message}</Message><Resource>x</Resource>\
         <RequestId>1</RequestId></Error>"
    );
    in_xml(status, &body)
}

fn answer(request: &Request, bucket: &mut Bucket) -> Result<Reply, Reply> {
    let adds = request.method != "DELETE"
        && (request.method != "PUT" || request.header("if-none-match") == "*");
    if request.header("authorization").is_empty() || bucket.only_adds && !adds {
        return Err(error("403 Forbidden", "AccessDenied", "Access Denied"));
    }
    let no_bucket = || error("404 Not Found", "NoSuchBucket", "The bucket does not exist");
    let rest = request.path.strip_prefix(&format!("/{BUCKET}")).ok_or_else(no_bucket)?;
    let name = decode(rest.strip_prefix('/').unwrap_or(rest));
    match (request.method.as_str(), name.as_str()) {
        ("GET", "") if request.query.contains_key("object-lock") && bucket.locks != Locks::None => {
            let enabled = "<ObjectLockEnabled>Enabled</ObjectLockEnabled>";
            let body = format!("<ObjectLockConfiguration>{enabled}</ObjectLockConfiguration>");
            Ok(in_xml("200 OK", &body))
        }
        ("GET", "") => Ok(list(request, bucket)),
        (_, "") => Err(error("405 Method Not Allowed", "MethodNotAllowed", "not offered here")),
        ("PUT", name) => put(request, bucket, name),
        ("GET" | "HEAD", name) => get(request, bucket, name),
        ("DELETE", name) => {
            bucket.objects.remove(name);
            Ok(Reply::new("204 No Content", ""))
        }
        _ => Err(error("405 Method Not Allowed", "MethodNotAllowed", "not offered here")),
    }
}

fn put(request: &Request, bucket: &mut Bucket, name: &str) -> Result<Reply, Reply> {
    if request.query.contains_key("partNumber") {
        return Err(error("501 Not Implemented", "NotImplemented", "parts are not offered here"));
    }
    if request.header("if-none-match") == "*" && bucket.objects.contains_key(name) {
        bucket.taken += 1;
        if bucket.taken.is_multiple_of(CONFLICTS) {
            let message = "A conflicting conditional operation is in progress";
            return Err(error("409 Conflict", "ConditionalRequestConflict", message));
        }
        let message = "At least one of the pre-conditions you specified did not hold";
        return Err(error("412 Precondition Failed", "PreconditionFailed", message));
    }
    if request.query.contains_key("retention") && bucket.locks == Locks::Known {
        let body = String::from_utf8_lossy(&request.body);
        let until = body.split_once("<RetainUntilDate>").and_then(|(_, rest)| rest.split_once('<'));
        let no_key = || error("404 Not Found", "NoSuchKey", "The specified key does not exist.");
        let object = bucket.objects.get_mut(name).ok_or_else(no_key)?;
        object.locked = until.map(|(until, _)| until.to_string());
        return Ok(Reply::new("200 OK", ""));
    }
    let until = request.header("x-amz-object-lock-retain-until-date");
    let keeps = matches!(bucket.locks, Locks::Known | Locks::Mistaken) && !until.is_empty();
    let locked = keeps.then(|| until.to_string());
    let object = Object { made: now(), bytes: request.body.clone(), locked };
    bucket.objects.insert(name.to_string(), object);
    Ok(Reply::new("200 OK", "").with("ETag", "\"0123456789abcdef0123456789abcdef\""))
}

fn get(request: &Request, bucket: &Bucket, name: &str) -> Result<Reply, Reply> {
    let Some(Object { made, bytes, locked }) = bucket.objects.get(name) else {
        return Err(error("404 Not Found", "NoSuchKey", "The specified key does not exist."));
    };
    let reply = Reply::bytes(bytes, request.header("range")).map_err(|_| {
        let message = "The requested range is not satisfiable";
        error("416 Requested Range Not Satisfiable", "InvalidRange", message)
    })?;
    let made = DateTimePrinter::new().timestamp_to_rfc9110_string(made).unwrap();
    let reply = match locked {
        Some(until) => reply.with("x-amz-object-lock-retain-until-date", until.as_str()),
        None => reply,
    };
    Ok(reply.with("ETag", "\"0123456789abcdef0123456789abcdef\"").with("Last-Modified", made))
}

fn list(request: &Request, bucket: &Bucket) -> Reply {
    let most = request.asked("max-keys").parse().unwrap_or(PAGE).min(PAGE);
    let prefix = request.asked("prefix");
    let after = request.asked("continuation-token").max(request.asked("start-after"));
    let found = bucket.objects.iter();
    let found = found.filter(|(name, _)| name.starts_with(prefix) && name.as_str() > after);
    let mut found: Vec<_> = found.take(most + 1).collect();
    let is_cut = found.len() > most;
    found.truncate(most);
    let next = found.last().filter(|_| is_cut).map(|(name, _)| escaped(name));
    let next = next.map(|name| format!("<NextContinuationToken>{name}</NextContinuationToken>"));
    let contents: String = found
        .iter()
        .map(|(name, Object { made, bytes, .. })| {
            format!(
                "<Contents><Key>{}</Key><LastModified>{made:.3}</LastModified>\
                 <ETag>&quot;0&quot;</ETag><Size>{}</Size><StorageClass>STANDARD</StorageClass>\
                 </Contents>",
                escaped(name),
                bytes.len()
            )
        })
        .collect();
    in_xml(
        "200 OK",
        &format!(
            "<ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Name>{BUCKET}</Name>\
             <Prefix>{}</Prefix><KeyCount>{}</KeyCount><MaxKeys>{most}</MaxKeys>\
             <IsTruncated>{is_cut}</IsTruncated>{}{contents}</ListBucketResult>",
            escaped(prefix),
            found.len(),
            next.unwrap_or_default()
        ),
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
