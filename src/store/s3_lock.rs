//! S3's Object Lock, which OpenDAL does not know: locks on what is written, and requests about locks.
//!
//! A lock is asked for by headers of a PUT, and those must be part of its signature. OpenDAL signs before it hands a
//! request on, and lets nobody add headers. So here it is told not to sign ([`LockKit`] has an operator for this
//! alone); below it stands a transport that adds the headers, signs by the same crate and from the same places as
//! OpenDAL does, and hands on to `wire`. Requests that OpenDAL has no name for go through it, too.

use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode, Uri};
use opendal::raw::{
    Operation, build_abs_path, format_content_md5, new_request_build_error, percent_encode_path,
};
use opendal::services::{S3, S3Config};
use opendal::{
    Buffer, Configurator, Error, ErrorKind, HttpBody, HttpTransport, HttpTransporter,
    OperationContext, Operator,
};
use reqsign_aws_v4::{
    AssumeRoleCredentialProvider, Credential, DefaultCredentialProvider, RequestSigner,
    StaticCredentialProvider,
};
use reqsign_core::{Context, OsEnv, ProvideCredentialChain, Signer};
use reqsign_file_read_tokio::TokioFileRead;

use super::object_lock::{LockMode, ObjectLock};
use super::wire::Wire;
use crate::units::Timestamp;

const MODE: HeaderName = HeaderName::from_static("x-amz-object-lock-mode");
const RETAIN_UNTIL: HeaderName = HeaderName::from_static("x-amz-object-lock-retain-until-date");
const CONTENT_MD5: HeaderName = HeaderName::from_static("content-md5");
/// For how long an address would be valid that is only looked at.
const ADDRESS_VALID: Duration = Duration::from_secs(60);
/// More of an answer is not looked at.
const ANSWER_MAX: usize = 64 << 10;

/// What a bucket's locks are reached by. Nothing is asked of the server until it is used.
pub(super) struct LockKit {
    // Without a transport, and it does not sign.
    unsigned: Operator,
    wire: Wire,
    signer: Signer<Credential>,
    root: String,
}

impl LockKit {
    /// By the settings of the store; they name region and endpoint. `None`: without credentials, or in a bucket of a
    /// sort that has no Object Lock.
    pub(super) fn new(
        settings: impl IntoIterator<Item = (String, String)>,
        wire: Wire,
    ) -> opendal::Result<Option<LockKit>> {
        let mut config = S3Config::from_iter(settings)?;
        if config.skip_signature || config.bucket.ends_with("--x-s3") {
            return Ok(None);
        }
        let signer = signer(&config, &wire);
        config.skip_signature = true;
        // What every server that knows Object Lock takes, and all of them want one checksum or the other.
        config.checksum_algorithm = Some("md5".to_string());
        let root = config.root.clone().unwrap_or_default();
        let unsigned = Operator::new::<S3>(config.into_builder())?;
        Ok(Some(LockKit { unsigned, wire, signer, root }))
    }

    /// Writes under this lock, or under none; every object with its checksum, which a bucket that locks by default
    /// wants of those, too.
    pub(super) fn operator(&self, lock: Option<ObjectLock>) -> Operator {
        let context = OperationContext::default().with_http_transport(self.transport(lock));
        self.unsigned.clone().with_context(context)
    }

    fn transport(&self, lock: Option<ObjectLock>) -> HttpTransporter {
        HttpTransporter::new(Signing { wire: self.wire.clone(), signer: self.signer.clone(), lock })
    }

    /// Whether the bucket has Object Lock.
    pub(super) async fn bucket_has_locks(&self) -> opendal::Result<bool> {
        let known = "config";
        let object = self.address(known).await?.to_string();
        let tail = percent_encode_path(&absolute(&self.root, known));
        let bucket = object.strip_suffix(tail.as_str()).ok_or_else(|| {
            Error::new(ErrorKind::Unexpected, "the address of an object does not end in its name")
        })?;
        let request = Request::get(format!("{bucket}?object-lock"));
        let answer = self.send(request.body(Buffer::new()).map_err(new_request_build_error)?);
        let answer = answer.await?;
        match answer.status() {
            // A server that does not know the question may answer another one.
            StatusCode::OK => Ok(text(&answer).contains("<ObjectLockEnabled>Enabled<")),
            StatusCode::NOT_FOUND if !text(&answer).contains("NoSuchBucket") => Ok(false),
            StatusCode::BAD_REQUEST
            | StatusCode::METHOD_NOT_ALLOWED
            | StatusCode::NOT_IMPLEMENTED => Ok(false),
            _ => Err(refused(&answer)),
        }
    }

    /// Until when an object is locked.
    pub(super) async fn locked_until(&self, name: &str) -> opendal::Result<Option<Timestamp>> {
        let request = Request::head(self.address(name).await?).extension(Operation::Stat);
        let request = request.body(Buffer::new()).map_err(new_request_build_error)?;
        let answer = self.send(request).await?;
        if answer.status() != StatusCode::OK {
            return Err(refused(&answer));
        }
        let Some(until) = answer.headers().get(RETAIN_UNTIL) else { return Ok(None) };
        let parsed = until.to_str().ok().and_then(|until| until.parse::<jiff::Timestamp>().ok());
        let until = parsed.ok_or_else(|| {
            Error::new(ErrorKind::Unexpected, "the end of its lock is no moment that can be read")
        })?;
        Ok(Some(Timestamp { seconds: until.as_second(), nanoseconds: 0 }))
    }

    /// Locks an object until then. Its name must be taken: a lock makes nothing.
    pub(super) async fn lock_until(
        &self,
        name: &str,
        until: Timestamp,
        mode: LockMode,
    ) -> opendal::Result<()> {
        let body = format!(
            "<Retention xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Mode>{}</Mode>\
             <RetainUntilDate>{}</RetainUntilDate></Retention>",
            mode.word(),
            rfc3339(until)?,
        );
        let address = format!("{}?retention", self.address(name).await?);
        let request = Request::put(address)
            .header(CONTENT_TYPE, "application/xml")
            .header(CONTENT_MD5, format_content_md5(body.as_bytes()))
            .extension(Operation::Write);
        let body = Buffer::from(Bytes::from(body));
        let answer = self.send(request.body(body).map_err(new_request_build_error)?).await?;
        match answer.status() {
            status if status.is_success() => Ok(()),
            // What is hidden has a delete marker on top, and a marker cannot be locked.
            StatusCode::METHOD_NOT_ALLOWED => {
                Err(Error::new(ErrorKind::NotFound, "there is a delete marker"))
            }
            _ => Err(refused(&answer)),
        }
    }

    /// The address of an object, as OpenDAL makes it: unsigned.
    async fn address(&self, name: &str) -> opendal::Result<Uri> {
        Ok(self.unsigned.presign_stat(name, ADDRESS_VALID).await?.uri().clone())
    }

    async fn send(&self, request: Request<Buffer>) -> opendal::Result<Response<Buffer>> {
        self.transport(None).send(request).await
    }
}

/// The name of an object in its bucket. OpenDAL's root begins and ends with a slash.
fn absolute(root: &str, name: &str) -> String {
    build_abs_path(&opendal::raw::normalize_root(root), name)
}

/// Adds the lock, signs, and hands on.
struct Signing {
    wire: Wire,
    signer: Signer<Credential>,
    lock: Option<ObjectLock>,
}

impl HttpTransport for Signing {
    async fn fetch(&self, request: Request<Buffer>) -> opendal::Result<Response<HttpBody>> {
        let (mut parts, body) = request.into_parts();
        if let Some(lock) = self.lock {
            add_lock(&mut parts, lock, self.wire.now())?;
        }
        self.signer.sign(&mut parts, None).await.map_err(|error| {
            let is_passing = error.is_retryable();
            Error::new(ErrorKind::Unexpected, "cannot sign the request")
                .set_source(error)
                .with_temporary(is_passing)
        })?;
        // HTTP sets it by the address, as the protocol's version wants it.
        parts.headers.remove(HOST);
        self.wire.fetch(Request::from_parts(parts, body)).await
    }
}

/// Only to what makes an object: nothing else takes these headers.
fn add_lock(parts: &mut Parts, lock: ObjectLock, now: Timestamp) -> opendal::Result<()> {
    if parts.method != Method::PUT {
        return Ok(());
    }
    let until = HeaderValue::try_from(rfc3339(lock.until(now))?).map_err(|error| {
        Error::new(ErrorKind::Unexpected, "cannot say when a lock ends").set_source(error)
    })?;
    parts.headers.insert(MODE, HeaderValue::from_static(lock.mode.word()));
    parts.headers.insert(RETAIN_UNTIL, until);
    Ok(())
}

fn rfc3339(moment: Timestamp) -> opendal::Result<String> {
    let moment = jiff::Timestamp::from_second(moment.seconds).map_err(|error| {
        Error::new(ErrorKind::Unexpected, "a lock cannot end so late").set_source(error)
    })?;
    Ok(moment.to_string())
}

/// Signs with what OpenDAL would find by the same settings: a key that was handed in, else AWS's own places; and a role
/// by that, if one is named.
fn signer(config: &S3Config, wire: &Wire) -> Signer<Credential> {
    let region = config.region.clone().unwrap_or_default();
    let context = Context::new()
        .with_file_read(TokioFileRead)
        .with_http_send(HttpTransporter::new(wire.clone()))
        .with_env(OsEnv);
    let mut usual = DefaultCredentialProvider::builder();
    if config.disable_config_load {
        usual = usual.no_env().no_profile();
    } else if let Some(profile) = config.profile.as_deref().filter(|profile| !profile.is_empty()) {
        usual = usual.with_profile(profile);
    }
    if config.disable_ec2_metadata {
        usual = usual.no_imds();
    }
    let mut provider = ProvideCredentialChain::new().push(usual.build());
    if let (Some(id), Some(secret)) = (&config.access_key_id, &config.secret_access_key) {
        let given = StaticCredentialProvider::new(id, secret);
        provider = provider.push_front(match config.session_token.as_deref() {
            Some(token) => given.with_session_token(token),
            None => given,
        });
    }
    if let Some(role) = &config.role_arn {
        let sts = RequestSigner::new("sts", &region);
        let sts = Signer::new(context.clone(), provider, sts);
        let mut assuming = AssumeRoleCredentialProvider::new(role.clone(), sts)
            .with_region(region.clone())
            .with_regional_sts_endpoint();
        if let Some(id) = &config.external_id {
            assuming = assuming.with_external_id(id.clone());
        }
        if let Some(name) = &config.role_session_name {
            assuming = assuming.with_role_session_name(name.clone());
        }
        if let Some(seconds) = config.assume_role_duration_seconds {
            assuming = assuming.with_duration_seconds(seconds);
        }
        if let Some(tags) = &config.assume_role_session_tags {
            let tags = tags.iter().map(|(key, value)| (key.clone(), value.clone()));
            assuming = assuming.with_tags(tags.collect());
        }
        provider = ProvideCredentialChain::new().push(assuming);
    }
    Signer::new(context, provider, RequestSigner::new("s3", &region))
}

fn text(answer: &Response<Buffer>) -> String {
    let bytes = answer.body().to_bytes();
    String::from_utf8_lossy(&bytes[..bytes.len().min(ANSWER_MAX)]).into_owned()
}

/// An answer that is a refusal, in the words in which OpenDAL's services hand one on (`error::what_it_said`).
fn refused(answer: &Response<Buffer>) -> Error {
    let status = answer.status();
    let text = text(answer);
    let said = |tag: &str| {
        let (_, rest) = text.split_once(&format!("<{tag}>"))?;
        Some(rest.split_once('<')?.0.replace('"', "'"))
    };
    let kind = match status {
        StatusCode::NOT_FOUND => ErrorKind::NotFound,
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => ErrorKind::PermissionDenied,
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => ErrorKind::RateLimited,
        _ => ErrorKind::Unexpected,
    };
    let message = match (said("Code"), said("Message")) {
        (Some(code), Some(message)) => format!("code: \"{code}\", message: \"{message}\""),
        (Some(code), None) => format!("code: \"{code}\""),
        _ => format!("the server says {status}"),
    };
    Error::new(kind, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::error::{Kind, StoreError};

    fn answer(status: u16, body: &str) -> Response<Buffer> {
        Response::builder().status(status).body(Buffer::from(body.to_string())).unwrap()
    }

    #[test]
    fn a_refusal_says_what_the_server_says() {
        let xml =
            "<?xml?><Error><Code>AccessDenied</Code><Message>Access \"Denied\"</Message></Error>";
        let error = StoreError::from_opendal("packs/a", &refused(&answer(403, xml)));
        assert_eq!(error.kind, Kind::Denied);
        assert_eq!(error.to_string(), "packs/a: AccessDenied: Access 'Denied'");
        let error = StoreError::from_opendal("packs/a", &refused(&answer(404, "")));
        assert_eq!(error.kind, Kind::NotFound);
        let error = StoreError::from_opendal("packs/a", &refused(&answer(400, "")));
        assert_eq!(error.to_string(), "packs/a: the server says 400 Bad Request");
    }

    #[test]
    fn only_what_makes_an_object_gets_a_lock() {
        let lock = ObjectLock { period: Duration::from_secs(86_400), mode: LockMode::Governance };
        let now = Timestamp { seconds: 1_790_000_000, nanoseconds: 5 };
        let parts = |method: &str| {
            let request = Request::builder().method(method).uri("http://host/bucket/a").body(());
            let (mut parts, ()) = request.unwrap().into_parts();
            add_lock(&mut parts, lock, now).unwrap();
            parts
        };
        let put = parts("PUT");
        assert_eq!(put.headers[MODE], "GOVERNANCE");
        assert_eq!(put.headers[RETAIN_UNTIL], "2026-09-22T14:13:20Z");
        for method in ["GET", "HEAD", "POST", "DELETE"] {
            assert!(parts(method).headers.is_empty(), "{method}");
        }
    }
}
