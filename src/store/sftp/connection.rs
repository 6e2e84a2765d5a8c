//! One conversation with a server: many requests under way at once, each with a number by which its answer is known.
//!
//! Two tasks own the two directions, so a call that is dropped in the middle, by a time-out for instance, can cut no
//! packet in half: what was asked goes out whole, its answer is thrown away, and a handle that nobody waits for any
//! more is closed. When the conversation ends, every call that waits is told why, and so is every later one.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use opendal::{Buffer, Error, ErrorKind};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::sync::{mpsc, oneshot};

use super::packet::{
    Attributes, Code, Data, FSYNC, Frame, HARDLINK, LIMITS, LONGEST_PACKET, Malformed, Name,
    POSIX_RENAME, Reply, Request, STATVFS, Version, decode, decode_limits, decode_version,
    encode_init,
};

/// What a server takes that does not tell: the draft's own figure.
const MODEST_BYTES: u64 = 32 * 1024;
/// The most that is asked for or sent in one packet: what OpenSSH allows, with room for the packet's head.
const MOST_BYTES: u64 = 255 * 1024;
const FEWEST_BYTES: u64 = 4 * 1024;
/// How long a writer that failed waits for the reader to learn why.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// Why a conversation ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ended {
    pub(super) kind: ErrorKind,
    pub(super) message: String,
    /// What a person can do.
    pub(super) hint: Option<String>,
    pub(super) is_passing: bool,
}

impl Ended {
    /// An end that another attempt may mend.
    pub(super) fn passing(message: impl Into<String>) -> Ended {
        let message = message.into();
        Ended { kind: ErrorKind::Unexpected, message, hint: None, is_passing: true }
    }

    pub(super) fn to_error(&self) -> Error {
        let error = Error::new(self.kind, &self.message).with_temporary(self.is_passing);
        match &self.hint {
            Some(hint) => error.set_source(io::Error::other(hint.clone())),
            None => error,
        }
    }
}

/// Learns why the other side went away: asked once, and told whether it ever spoke the protocol.
pub(super) type LastWords =
    Box<dyn FnOnce(bool) -> Pin<Box<dyn Future<Output = Ended> + Send>> + Send>;

/// What this server can do beyond the draft.
#[derive(Debug, Clone, Copy)]
pub(super) struct Features {
    pub(super) fsync: bool,
    pub(super) hardlink: bool,
    pub(super) posix_rename: bool,
    pub(super) statvfs: bool,
    /// How many bytes one read asks for, and one write brings.
    pub(super) read_bytes: u32,
    pub(super) write_bytes: u32,
}

/// A request that the server refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) code: Code,
    pub(super) message: String,
}

/// The answer, or the refusal; around it the end of the conversation.
pub(super) type Answered<T> = opendal::Result<Result<T, Refusal>>;

/// One conversation.
pub(super) struct Connection {
    outgoing: mpsc::UnboundedSender<Frame>,
    shared: Arc<Shared>,
    pub(super) features: Features,
}

#[derive(Default)]
struct Shared(Mutex<Pending>);

#[derive(Default)]
struct Pending {
    next: u32,
    // `None`: whatever the answer is, nobody wants it.
    waiting: HashMap<u32, Option<oneshot::Sender<Reply>>>,
    // The other side is gone; why is being found out.
    is_ending: bool,
    ended: Option<Ended>,
}

impl Connection {
    /// Greets the server and starts to talk. Must be called inside a tokio runtime.
    pub(super) async fn open<R, W>(
        reader: R,
        mut writer: W,
        last_words: LastWords,
    ) -> Result<Arc<Connection>, Ended>
    where
        R: AsyncRead + Unpin + Send + 'static,
        W: AsyncWrite + Unpin + Send + 'static,
    {
        let mut reader = BufReader::with_capacity(MODEST_BYTES as usize, reader);
        let features = match greet(&mut reader, &mut writer).await {
            Ok(features) => features,
            Err(Greeting::Lost) => return Err(last_words(false).await),
            Err(Greeting::Wrong(ended)) => return Err(ended),
        };
        let (outgoing, frames) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared::default());
        let at_end = EndsAtLast(Arc::clone(&shared));
        tokio::spawn(write_frames(writer, frames, Arc::clone(&shared)));
        tokio::spawn(read_replies(reader, at_end, outgoing.downgrade(), last_words));
        Ok(Arc::new(Connection { outgoing, shared, features }))
    }

    /// Sends a request; the answer is waited for by whoever wants it.
    pub(super) fn send(self: &Arc<Self>, request: Request<'_>) -> Answer {
        let (sender, receiver) = oneshot::channel();
        self.queue(request, Some(sender));
        Answer { receiver, connection: Arc::clone(self) }
    }

    /// Sends a request whose answer nobody needs.
    fn forget(&self, request: Request<'_>) {
        self.queue(request, None);
    }

    fn queue(&self, request: Request<'_>, sender: Option<oneshot::Sender<Reply>>) {
        let Some(id) = self.shared.register(sender) else { return };
        // The writer is gone only when the conversation is ending, which tells everybody who waits.
        let _ = self.outgoing.send(request.encode(id));
    }

    /// Whether it is of no use any more.
    pub(super) fn has_ended(&self) -> bool {
        self.shared.0.lock().is_ending
    }

    /// How much is under way: what hangs counts, though its caller may have given up.
    pub(super) fn load(self: &Arc<Self>) -> usize {
        Arc::strong_count(self) + self.shared.0.lock().waiting.len()
    }
}

/// A request under way.
pub(super) struct Answer {
    receiver: oneshot::Receiver<Reply>,
    connection: Arc<Connection>,
}

impl Answer {
    async fn reply(&mut self) -> opendal::Result<Reply> {
        match (&mut self.receiver).await {
            Ok(reply) => Ok(reply),
            Err(_) => Err(self.connection.shared.why().to_error()),
        }
    }

    /// Waits for a plain yes.
    pub(super) async fn done(mut self) -> Answered<()> {
        match self.reply().await? {
            Reply::Status { code: Code::Ok, .. } => Ok(Ok(())),
            other => refusal(other),
        }
    }

    /// Waits for a handle, which is closed when it is dropped.
    pub(super) async fn handle(mut self) -> Answered<Handle> {
        match self.reply().await? {
            Reply::Handle(bytes) => {
                Ok(Ok(Handle { bytes, connection: Arc::clone(&self.connection) }))
            }
            other => refusal(other),
        }
    }

    /// Waits for a file's attributes.
    pub(super) async fn attributes(mut self) -> Answered<Attributes> {
        match self.reply().await? {
            Reply::Attributes(attributes) => Ok(Ok(attributes)),
            other => refusal(other),
        }
    }

    /// Waits for a file's bytes; `None` at its end.
    pub(super) async fn data(mut self) -> Answered<Option<Data>> {
        match self.reply().await? {
            Reply::Data(data) => Ok(Ok(Some(data))),
            Reply::Status { code: Code::End, .. } => Ok(Ok(None)),
            other => refusal(other),
        }
    }

    /// Waits for some entries of a folder; `None` at its end.
    pub(super) async fn names(mut self) -> Answered<Option<Vec<Name>>> {
        match self.reply().await? {
            Reply::Names(names) => Ok(Ok(Some(names))),
            Reply::Status { code: Code::End, .. } => Ok(Ok(None)),
            other => refusal(other),
        }
    }

    /// Waits for the body of an extension's answer.
    pub(super) async fn extended(mut self) -> Answered<Vec<u8>> {
        match self.reply().await? {
            Reply::Extended(body) => Ok(Ok(body)),
            other => refusal(other),
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        // The answer may have come while its caller was giving up.
        self.receiver.close();
        if let Ok(Reply::Handle(handle)) = self.receiver.try_recv() {
            self.connection.forget(Request::Close { handle: &handle });
        }
    }
}

/// An answer that is not the one hoped for.
fn refusal<T>(reply: Reply) -> Answered<T> {
    match reply {
        Reply::Status { code, message } if code != Code::Ok => {
            Ok(Err(Refusal { code, message: plain_line(&message) }))
        }
        _ => Err(wrong(&Malformed("an answer is of the wrong kind")).to_error()),
    }
}

/// A file or a folder that is open at the server, until this is dropped.
pub(super) struct Handle {
    bytes: Vec<u8>,
    connection: Arc<Connection>,
}

impl Handle {
    pub(super) fn as_slice(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.connection.forget(Request::Close { handle: &self.bytes });
    }
}

/// Removes a file when it is dropped, whether or not anybody is left to wait for it.
pub(super) struct Removal {
    pub(super) path: String,
    pub(super) connection: Arc<Connection>,
    pub(super) is_due: bool,
}

impl Drop for Removal {
    fn drop(&mut self) {
        if self.is_due {
            self.connection.forget(Request::Remove { path: &self.path });
        }
    }
}

impl Shared {
    /// A number for a request, or `None` when nobody would answer it: then the sender is dropped, which says so.
    fn register(&self, sender: Option<oneshot::Sender<Reply>>) -> Option<u32> {
        let mut pending = self.0.lock();
        if pending.ended.is_some() {
            return None;
        }
        while pending.waiting.contains_key(&pending.next) {
            pending.next = pending.next.wrapping_add(1);
        }
        let id = pending.next;
        pending.next = id.wrapping_add(1);
        pending.waiting.insert(id, sender);
        Some(id)
    }

    fn why(&self) -> Ended {
        let ended = self.0.lock().ended.clone();
        ended.unwrap_or_else(|| Ended::passing("the connection was closed"))
    }

    fn end(&self, why: Ended) {
        let mut pending = self.0.lock();
        pending.is_ending = true;
        pending.ended.get_or_insert(why);
        // Their senders go, and with them the hope of those who wait.
        let waiting = std::mem::take(&mut pending.waiting);
        drop(pending);
        drop(waiting);
    }
}

/// Ends the conversation when the task that reads is gone, be it because its runtime is.
struct EndsAtLast(Arc<Shared>);

impl Drop for EndsAtLast {
    fn drop(&mut self) {
        self.0.end(Ended::passing("the connection was closed"));
    }
}

enum Greeting {
    Lost,
    Wrong(Ended),
}

impl From<Malformed> for Greeting {
    fn from(malformed: Malformed) -> Self {
        Greeting::Wrong(Ended {
            hint: Some(
                "a login script there may print something; `ssh` with `true` must print nothing"
                    .into(),
            ),
            ..wrong(&malformed)
        })
    }
}

impl From<io::Error> for Greeting {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::InvalidData => Greeting::from(Malformed("a packet is too long")),
            _ => Greeting::Lost,
        }
    }
}

fn wrong(malformed: &Malformed) -> Ended {
    let message = malformed.to_string();
    Ended { kind: ErrorKind::Unexpected, message, hint: None, is_passing: false }
}

async fn greet(
    reader: &mut (impl AsyncRead + Unpin),
    writer: &mut (impl AsyncWrite + Unpin),
) -> Result<Features, Greeting> {
    writer.write_all(&encode_init()).await?;
    writer.flush().await?;
    let version = decode_version(&read_packet(reader).await?)?;
    if version.number < 3 {
        return Err(Greeting::Wrong(Ended {
            kind: ErrorKind::Unsupported,
            message: format!("the server speaks version {} of SFTP only", version.number),
            hint: Some("version 3 is needed".into()),
            is_passing: false,
        }));
    }
    let (mut read_bytes, mut write_bytes) = (MODEST_BYTES, MODEST_BYTES);
    if offers(&version, LIMITS) {
        writer.write_all(&Request::Limits.encode(0).head).await?;
        writer.flush().await?;
        if let (0, Reply::Extended(body)) = decode(read_packet(reader).await?)? {
            let limits = decode_limits(&body)?;
            // Nought is "as much as you like".
            let bytes = |limit: u64| if limit == 0 { MODEST_BYTES } else { limit };
            (read_bytes, write_bytes) = (bytes(limits.read_bytes), bytes(limits.write_bytes));
        }
    }
    let within = |bytes: u64| bytes.clamp(FEWEST_BYTES, MOST_BYTES) as u32;
    Ok(Features {
        fsync: offers(&version, FSYNC),
        hardlink: offers(&version, HARDLINK),
        posix_rename: offers(&version, POSIX_RENAME),
        statvfs: offers(&version, STATVFS),
        read_bytes: within(read_bytes),
        write_bytes: within(write_bytes),
    })
}

fn offers(version: &Version, extension: &str) -> bool {
    version.extensions.iter().any(|(name, _)| name == extension)
}

/// The next packet, without its length.
async fn read_packet(reader: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let length = reader.read_u32().await? as usize;
    if length == 0 || length > LONGEST_PACKET {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut packet = Vec::with_capacity(length);
    let mut limited = reader.take(length as u64);
    while packet.len() < length {
        if limited.read_buf(&mut packet).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(packet)
}

async fn read_replies(
    mut reader: impl AsyncRead + Unpin,
    at_end: EndsAtLast,
    outgoing: mpsc::WeakUnboundedSender<Frame>,
    last_words: LastWords,
) {
    let shared = &at_end.0;
    let malformed = loop {
        let packet = match read_packet(&mut reader).await {
            Ok(packet) => packet,
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                break Some(Malformed("a packet is too long"));
            }
            Err(_) => break None,
        };
        let (id, reply) = match decode(packet) {
            Ok(answer) => answer,
            Err(malformed) => break Some(malformed),
        };
        let Some(waiting) = shared.0.lock().waiting.remove(&id) else {
            break Some(Malformed("an answer belongs to no request"));
        };
        let unwanted = match waiting {
            Some(sender) => sender.send(reply).err(),
            None => None,
        };
        if let (Some(Reply::Handle(handle)), Some(outgoing)) = (unwanted, outgoing.upgrade())
            && let Some(id) = shared.register(None)
        {
            let _ = outgoing.send(Request::Close { handle: &handle }.encode(id));
        }
    };
    shared.0.lock().is_ending = true;
    let ended = match malformed {
        Some(malformed) => wrong(&malformed),
        None => last_words(true).await,
    };
    shared.end(ended);
}

async fn write_frames(
    mut writer: impl AsyncWrite + Unpin,
    mut frames: mpsc::UnboundedReceiver<Frame>,
    shared: Arc<Shared>,
) {
    // Requests without bytes of a file are gathered, so that many cost one system call.
    let mut gathered = Vec::with_capacity(MODEST_BYTES as usize);
    while let Some(frame) = frames.recv().await {
        let mut next = Some(frame);
        let mut written = Ok(());
        while let (Some(frame), Ok(())) = (next.take(), &written) {
            gathered.extend_from_slice(&frame.head);
            written = write_body(&mut writer, &mut gathered, frame.body).await;
            next = frames.try_recv().ok();
        }
        if written.is_ok() {
            written = flush(&mut writer, &mut gathered).await;
        }
        if written.is_err() {
            // The reader sees the end as well, and learns the reason.
            shared.0.lock().is_ending = true;
            drop((writer, frames));
            tokio::time::sleep(LAST_WORDS).await;
            shared.end(Ended::passing("the connection was closed"));
            return;
        }
    }
}

async fn write_body(
    writer: &mut (impl AsyncWrite + Unpin),
    gathered: &mut Vec<u8>,
    body: Buffer,
) -> io::Result<()> {
    for part in body {
        if part.len() + gathered.len() <= gathered.capacity() {
            gathered.extend_from_slice(&part);
        } else {
            flush(writer, gathered).await?;
            writer.write_all(&part).await?;
        }
    }
    if gathered.len() * 2 > gathered.capacity() {
        flush(writer, gathered).await?;
    }
    Ok(())
}

async fn flush(writer: &mut (impl AsyncWrite + Unpin), gathered: &mut Vec<u8>) -> io::Result<()> {
    writer.write_all(gathered).await?;
    gathered.clear();
    writer.flush().await
}

/// A foreign text as one line that cannot move a terminal's cursor.
pub(super) fn plain_line(text: &str) -> String {
    let is_plain = |character: &char| !character.is_control();
    text.trim().trim_end_matches('.').chars().filter(is_plain).take(160).collect()
}

#[cfg(test)]
#[path = "connection_tests.rs"]
mod tests;
