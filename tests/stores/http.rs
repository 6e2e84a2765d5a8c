//! A small HTTP server, for the stand-ins of services that nobody can have here: a thread a connection, requests as
//! values, and nothing done of a request that broke off.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use aumbry::clock::{Clock, SystemClock};

/// What was asked.
pub struct Request {
    /// `GET` and so on.
    pub method: String,
    /// As it was sent: still with its percent signs.
    pub path: String,
    /// What stands behind the question mark, decoded.
    pub query: BTreeMap<String, String>,
    /// By their names in small letters.
    pub headers: BTreeMap<String, String>,
    /// All of it.
    pub body: Vec<u8>,
}

impl Request {
    /// A header's value, empty where there is none.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// What a query says of a name, empty where it says nothing.
    pub fn asked(&self, name: &str) -> &str {
        self.query.get(name).map_or("", String::as_str)
    }
}

/// What is answered.
pub struct Reply {
    /// `200 OK` and so on.
    pub status: &'static str,
    /// Beside the length and the type.
    pub headers: Vec<(&'static str, String)>,
    /// The bytes; of an answer to `HEAD`, those that would come.
    pub body: Vec<u8>,
}

impl Reply {
    /// Without headers.
    pub fn new(status: &'static str, body: impl Into<Vec<u8>>) -> Reply {
        Reply { status, headers: Vec::new(), body: body.into() }
    }

    /// With one more header.
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Reply {
        self.headers.push((name, value.into()));
        self
    }

    /// Those of the bytes that a request asks for by its `Range`, or that they lie beyond the end.
    pub fn bytes(bytes: &[u8], range: &str) -> Result<Reply, usize> {
        let range = range.strip_prefix("bytes=").and_then(|range| range.split_once('-'));
        let first = range.and_then(|(first, _)| first.parse::<usize>().ok());
        let (Some((_, last)), Some(first), length) = (range, first, bytes.len()) else {
            return Ok(Reply::new("200 OK", bytes));
        };
        if first >= length {
            return Err(length);
        }
        let end = last.parse::<usize>().map_or(length, |last| last.saturating_add(1).min(length));
        let range = format!("bytes {first}-{}/{length}", end - 1);
        Ok(Reply::new("206 Partial Content", &bytes[first..end]).with("Content-Range", range))
    }
}

/// The server, until it is dropped.
pub struct HttpServer {
    address: SocketAddr,
    ends: Arc<AtomicBool>,
    acceptor: Option<JoinHandle<()>>,
}

impl HttpServer {
    /// Listens on loopback and has everything answered.
    pub fn start(answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> HttpServer {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let address = listener.local_addr().expect("it is bound");
        let ends = Arc::new(AtomicBool::new(false));
        let acceptor = {
            let (ends, answer) = (ends.clone(), Arc::new(answer));
            thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    if ends.load(Ordering::SeqCst) {
                        break;
                    }
                    let answer = answer.clone();
                    thread::spawn(move || serve(&stream, answer.as_ref()));
                }
            })
        };
        HttpServer { address, ends, acceptor: Some(acceptor) }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::SeqCst);
        // Wakes the acceptor.
        let _ = TcpStream::connect(self.address);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

/// Answers one request after another until the client goes away.
fn serve(stream: &TcpStream, answer: &impl Fn(&Request) -> Reply) {
    let _ = stream.set_nodelay(true);
    let mut reader = BufReader::new(stream);
    while let Some(request) = read_request(&mut reader) {
        let reply = answer(&request);
        let mut head =
            format!("HTTP/1.1 {}\r\nContent-Length: {}\r\n", reply.status, reply.body.len());
        for (name, value) in &reply.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        let mut writer = stream;
        let body = if request.method == "HEAD" { &[][..] } else { &reply.body };
        if writer.write_all(head.as_bytes()).and_then(|()| writer.write_all(body)).is_err() {
            return;
        }
    }
}

/// `None` when the connection ends before the request does.
fn read_request(reader: &mut BufReader<&TcpStream>) -> Option<Request> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|length| *length > 0)?;
    let mut words = line.split_whitespace();
    let (method, target) = (words.next()?.to_string(), words.next()?.to_string());
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let query = query.split('&').filter(|pair| !pair.is_empty());
    let query = query.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let query = query.map(|(name, value)| (decode(name), decode(value))).collect();
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|_| line.ends_with('\n'))?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_string());
    }
    let length = headers.get("content-length").map_or(Some(0), |length| length.parse().ok())?;
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Request { method, path: path.to_string(), query, headers, body })
}

/// What objects that are made now say of themselves: what is to be forgotten is judged by it.
pub fn now() -> jiff::Timestamp {
    let now = SystemClock::new().now();
    jiff::Timestamp::new(now.seconds, now.nanoseconds as i32).unwrap()
}

/// Without percent signs.
pub fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let (mut decoded, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        let escaped = bytes.get(at + 1..at + 3).filter(|_| bytes[at] == b'%');
        let escaped = escaped.and_then(|digits| std::str::from_utf8(digits).ok());
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
