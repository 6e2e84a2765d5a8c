//! HTTP below OpenDAL's services: every request is counted, its bytes go at the rate that is allowed, and what the
//! server says beside its answer (`Retry-After`, its clock) is noted for whoever waits above.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_core::Stream;
use http::header::{DATE, HeaderMap, RETRY_AFTER};
use http::{Method, Request, Response, Uri};
use http_body::{Body, Frame, SizeHint};
use opendal::raw::{Operation, parse_content_encoding, parse_content_length};
use opendal::{Buffer, Error, ErrorKind, HttpBody, HttpTransport};
use reqwest::redirect::{self, Policy};
use rustls::crypto::CryptoProvider;
use tokio::time::Sleep;

use super::attempt::Attempt;
use super::line::Line;
use super::rate::{Limiter, PIECE};
use super::traffic::Sort;
use crate::clock::Clock;
#[cfg(feature = "s3")]
use crate::units::Timestamp;

/// How long a connection may take to come about. Below the time in which an attempt must show life.
const CONNECT: Duration = Duration::from_secs(30);
/// Servers and the walls before them cut connections that idle for a minute: ours are given up before.
const IDLE: Duration = Duration::from_secs(45);
/// So many redirections in a row are followed.
const REDIRECTIONS: usize = 5;
/// How long AWS may take to say where a bucket is.
#[cfg(feature = "s3")]
const REGION: Duration = Duration::from_secs(30);

/// A transport for OpenDAL, over one pool of connections, which clones share.
#[derive(Clone)]
pub(super) struct Wire {
    client: reqwest::Client,
    line: Arc<Line>,
    // Requests to the first of them go to the second; scheme, host and port each.
    instead: Option<(&'static str, String)>,
}

impl Wire {
    /// TLS is rustls with ring; whom to trust is what the system trusts.
    pub(super) fn new(line: Arc<Line>) -> Result<Self, String> {
        if CryptoProvider::get_default().is_none() {
            // It fails when another thread was first, and then there is one.
            let _ = rustls::crypto::ring::default_provider().install_default();
        }
        let client = reqwest::Client::builder()
            .connect_timeout(CONNECT)
            .pool_idle_timeout(IDLE)
            // An address may have a signature in it, and is nobody else's affair.
            .referer(false)
            .redirect(Policy::custom(follow))
            .user_agent(concat!("aumbry/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| format!("cannot prepare connections: {}", deepest(&error)))?;
        Ok(Wire { client, line, instead: None })
    }

    /// What would go to one server goes to another: for services that do not ask where theirs is.
    pub(super) fn ask_instead(&mut self, server: &'static str, other: &str) {
        self.instead = Some((server, other.to_string()));
    }

    fn address(&self, uri: &Uri) -> String {
        let address = uri.to_string();
        let instead = self.instead.as_ref().and_then(|(server, other)| {
            let path = address.strip_prefix(server).filter(|path| path.starts_with('/'))?;
            Some(format!("{other}{path}"))
        });
        instead.unwrap_or(address)
    }

    /// What time it is on this machine.
    #[cfg(feature = "s3")]
    pub(super) fn now(&self) -> Timestamp {
        self.line.clock.now()
    }

    /// Where AWS has a bucket: its server tells anybody, whatever else it answers. `None`: it does not tell. An error
    /// when there was no answer.
    #[cfg(feature = "s3")]
    pub(super) async fn region_of(&self, bucket: &str) -> Result<Option<String>, String> {
        let url = format!("https://s3.amazonaws.com/{bucket}");
        let request = Request::head(url).body(Buffer::new()).map_err(|error| error.to_string())?;
        let reply = tokio::time::timeout(REGION, self.fetch(request))
            .await
            .map_err(|_| format!("nothing came for {} s", REGION.as_secs()))?
            .map_err(|error| deepest(&error))?;
        let region = reply.headers().get("x-amz-bucket-region");
        Ok(region.and_then(|region| region.to_str().ok()).map(str::to_string))
    }
}

/// Follows no further than the server that was named: another would be told what is not its own, and be believed. What
/// is not followed is the answer.
fn follow(redirection: redirect::Attempt<'_>) -> redirect::Action {
    let previous = redirection.previous();
    let is_same = previous.first().is_some_and(|first| {
        let next = redirection.url();
        first.scheme() == next.scheme()
            && first.host() == next.host()
            && first.port_or_known_default() == next.port_or_known_default()
    });
    match is_same && previous.len() <= REDIRECTIONS {
        true => redirection.follow(),
        false => redirection.stop(),
    }
}

fn deepest(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}

impl HttpTransport for Wire {
    async fn fetch(&self, request: Request<Buffer>) -> opendal::Result<Response<HttpBody>> {
        let attempt = Attempt::current();
        self.line.counters.count(sort(&request));
        let uri = request.uri().clone();
        let is_head = request.method() == Method::HEAD;
        let failed = |error: reqwest::Error, doing: &'static str| {
            // Whatever reqwest tells of is a line that broke: what a server says is a reply.
            Error::new(ErrorKind::Unexpected, doing).set_source(error.without_url()).set_temporary()
        };
        let (parts, body) = request.into_parts();
        let url = reqwest::Url::parse(&self.address(&uri)).map_err(|error| {
            Error::new(ErrorKind::ConfigInvalid, "the store's address makes no sense")
                .set_source(error)
        })?;
        let mut sending = self.client.request(parts.method, url).headers(parts.headers);
        if !body.is_empty() {
            sending = sending.body(reqwest::Body::wrap(Upload {
                rest: body,
                line: self.line.clone(),
                attempt: attempt.clone(),
                turn: None,
            }));
        }
        attempt.note_moved(self.line.clock.elapsed());
        let mut reply = sending.send().await.map_err(|error| failed(error, "cannot reach it"))?;
        attempt.note_moved(self.line.clock.elapsed());
        let now = self.line.clock.now().seconds;
        let skew = date(reply.headers()).map_or(0, |date| date - now);
        attempt.note_reply(reply.status().as_u16(), retry_after(reply.headers(), now), skew);

        let length = match is_head || parse_content_encoding(reply.headers())?.is_some() {
            true => None,
            false => parse_content_length(reply.headers())?,
        };
        let mut head = Response::new(());
        *head.status_mut() = reply.status();
        *head.version_mut() = reply.version();
        *head.headers_mut() = std::mem::take(reply.headers_mut());
        head.extensions_mut().insert(uri);
        let (head, ()) = head.into_parts();
        let stream = Download {
            pieces: Box::pin(reply.bytes_stream()),
            line: self.line.clone(),
            attempt,
            turn: None,
        };
        Ok(Response::from_parts(head, HttpBody::new(stream, length)))
    }
}

fn sort(request: &Request<Buffer>) -> Sort {
    match request.extensions().get::<Operation>() {
        Some(Operation::Read) => Sort::Read,
        Some(Operation::Write | Operation::CreateDir | Operation::Rename) => Sort::Write,
        Some(Operation::List) => Sort::List,
        Some(Operation::Stat) => Sort::Look,
        Some(Operation::Delete) => Sort::Delete,
        _ => Sort::Other,
    }
}

/// Seconds, or a date (RFC 9110, 10.2.3).
fn retry_after(headers: &HeaderMap, now: i64) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    match text.parse::<u64>() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => u64::try_from(http_date(text)? - now).ok().map(Duration::from_secs),
    }
}

fn date(headers: &HeaderMap) -> Option<i64> {
    http_date(headers.get(DATE)?.to_str().ok()?)
}

/// A date as HTTP writes it is one as e-mail writes it.
fn http_date(text: &str) -> Option<i64> {
    Some(jiff::fmt::rfc2822::parse(text).ok()?.timestamp().as_second())
}

/// Bytes, and how long they have to wait.
struct Turn {
    sleep: Option<Pin<Box<Sleep>>>,
    piece: Bytes,
}

impl Turn {
    /// The next turn on a line. That it waits is no silence.
    fn of(limiter: Option<&Limiter>, piece: Bytes, clock: &dyn Clock, attempt: &Attempt) -> Self {
        let wait = limiter.map_or(Duration::ZERO, |limiter| limiter.reserve(piece.len() as u64));
        attempt.note_moved(clock.elapsed() + wait);
        let sleep = (!wait.is_zero()).then(|| Box::pin(tokio::time::sleep(wait)));
        Turn { sleep, piece }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        match &mut self.sleep {
            Some(sleep) => sleep.as_mut().poll(context),
            None => Poll::Ready(()),
        }
    }
}

/// A request's bytes, which go when their turn comes.
struct Upload {
    rest: Buffer,
    line: Arc<Line>,
    attempt: Arc<Attempt>,
    turn: Option<Turn>,
}

/// The next bytes of a buffer, at most `most` of them, without a copy.
fn take_piece(rest: &mut Buffer, most: usize) -> Option<Bytes> {
    let piece = rest.slice(..most.min(rest.len()));
    // A buffer may be of several parts.
    let piece = piece.into_iter().find(|part| !part.is_empty())?;
    *rest = rest.slice(piece.len()..);
    Some(piece)
}

impl Body for Upload {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if self.turn.is_none() {
            let most = self.line.up_limit().map_or(PIECE, Limiter::piece);
            let Some(piece) = take_piece(&mut self.rest, most) else { return Poll::Ready(None) };
            let line = &self.line;
            let turn = Turn::of(line.up_limit(), piece, line.clock.as_ref(), &self.attempt);
            self.turn = Some(turn);
        }
        if let Some(turn) = &mut self.turn {
            ready!(turn.poll(context));
        }
        self.attempt.note_moved(self.line.clock.elapsed());
        Poll::Ready(self.turn.take().map(|turn| {
            self.line.counters.upload(turn.piece.len() as u64);
            Ok(Frame::data(turn.piece))
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.turn.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        let waiting = self.turn.as_ref().map_or(0, |turn| turn.piece.len());
        SizeHint::with_exact((self.rest.len() + waiting) as u64)
    }
}

/// A reply's bytes, which are taken from the socket when their turn comes.
struct Download {
    pieces: Pin<Box<dyn Stream<Item = reqwest::Result<Bytes>> + Send + Sync>>,
    line: Arc<Line>,
    attempt: Arc<Attempt>,
    turn: Option<Turn>,
}

impl Stream for Download {
    type Item = opendal::Result<Buffer>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(turn) = &mut self.turn {
                ready!(turn.poll(context));
                self.attempt.note_moved(self.line.clock.elapsed());
                return Poll::Ready(self.turn.take().map(|turn| Ok(Buffer::from(turn.piece))));
            }
            match ready!(self.pieces.as_mut().poll_next(context)) {
                None => return Poll::Ready(None),
                Some(Ok(piece)) if piece.is_empty() => {}
                Some(Ok(piece)) => {
                    self.line.counters.download(piece.len() as u64);
                    let line = &self.line;
                    let turn =
                        Turn::of(line.down_limit(), piece, line.clock.as_ref(), &self.attempt);
                    self.turn = Some(turn);
                }
                Some(Err(error)) => {
                    let error = Error::new(ErrorKind::Unexpected, "the connection broke")
                        .set_source(error.without_url())
                        .set_temporary();
                    return Poll::Ready(Some(Err(error)));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn headers(value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_static(value))])
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        // 1994-11-06 08:49:37 UTC, the example of RFC 9110.
        let now = 784_111_777;
        for (value, wait) in [
            ("120", Some(120)),
            (" 3 ", Some(3)),
            ("Sun, 06 Nov 1994 08:50:07 GMT", Some(30)),
            ("Sun, 06 Nov 1994 08:49:07 GMT", None),
            ("soon", None),
            ("", None),
        ] {
            assert_eq!(retry_after(&headers(value), now), wait.map(Duration::from_secs), "{value}");
        }
        assert_eq!(retry_after(&HeaderMap::new(), now), None);
    }

    #[test]
    fn only_what_goes_to_that_very_server_goes_elsewhere() {
        let line = Arc::new(crate::store::Access::default().line("far away".to_string(), true));
        let mut wire = Wire::new(line).unwrap();
        wire.ask_instead("https://api.example", "http://127.0.0.1:1");
        for (asked, goes) in [
            ("https://api.example/a/b?c=d", "http://127.0.0.1:1/a/b?c=d"),
            ("https://api.example.org/a", "https://api.example.org/a"),
            ("http://api.example/a", "http://api.example/a"),
            ("https://other.example/a", "https://other.example/a"),
        ] {
            assert_eq!(wire.address(&Uri::from_static(asked)), goes);
        }
    }

    #[test]
    fn a_buffer_of_parts_goes_in_pieces_and_comes_out_whole() {
        let parts = vec![Bytes::from_static(b"abc"), Bytes::new(), Bytes::from_static(b"defgh")];
        let mut rest = Buffer::from(parts);
        let mut all = Vec::new();
        while let Some(piece) = take_piece(&mut rest, 2) {
            assert!((1..=2).contains(&piece.len()));
            all.extend_from_slice(&piece);
        }
        assert_eq!(all, b"abcdefgh");
        assert!(rest.is_empty());
    }
}
