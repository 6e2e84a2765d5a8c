//! SFTP's packets as values: version 3 (draft-ietf-secsh-filexfer-02) and the five extensions of OpenSSH's that
//! are used here (PROTOCOL in its sources). Bytes in, values out; nothing here waits or connects.
//!
//! Whatever a server sends is read with a bound: a packet has a largest length, and what is taken from it is never
//! more than its own bytes, so that a hostile server can make a call fail and do nothing else.

use opendal::Buffer;

/// The longest packet that is read: OpenSSH's own bound, 256 KiB, and a little.
pub(super) const LONGEST_PACKET: usize = 256 * 1024 + 1024;
/// The longest handle that the draft allows.
const LONGEST_HANDLE: usize = 256;

pub(super) const READ: u32 = 0x01;
pub(super) const WRITE: u32 = 0x02;
pub(super) const CREATE: u32 = 0x08;
pub(super) const EXCLUSIVE: u32 = 0x20;

pub(super) const FSYNC: &str = "fsync@openssh.com";
pub(super) const HARDLINK: &str = "hardlink@openssh.com";
pub(super) const LIMITS: &str = "limits@openssh.com";
pub(super) const POSIX_RENAME: &str = "posix-rename@openssh.com";
pub(super) const STATVFS: &str = "statvfs@openssh.com";

const INIT: u8 = 1;
const VERSION: u8 = 2;
const EXTENDED: u8 = 200;
const STATUS: u8 = 101;
const HANDLE: u8 = 102;
const DATA: u8 = 103;
const NAME: u8 = 104;
const ATTRIBUTES: u8 = 105;
const EXTENDED_REPLY: u8 = 201;

const HAS_SIZE: u32 = 0x01;
const HAS_OWNER: u32 = 0x02;
const HAS_PERMISSIONS: u32 = 0x04;
const HAS_TIMES: u32 = 0x08;
const HAS_EXTENDED: u32 = 0x8000_0000;

/// What a client asks.
pub(super) enum Request<'a> {
    Open { path: &'a str, flags: u32, mode: Option<u32> },
    Close { handle: &'a [u8] },
    Read { handle: &'a [u8], offset: u64, length: u32 },
    Write { handle: &'a [u8], offset: u64, bytes: Buffer },
    FileStat { handle: &'a [u8] },
    Stat { path: &'a str },
    OpenFolder { path: &'a str },
    ReadFolder { handle: &'a [u8] },
    Remove { path: &'a str },
    MakeFolder { path: &'a str, mode: u32 },
    Rename { from: &'a str, to: &'a str },
    PosixRename { from: &'a str, to: &'a str },
    Hardlink { from: &'a str, to: &'a str },
    Fsync { handle: &'a [u8] },
    FileSystem { path: &'a str },
    Limits,
}

/// A packet on its way out: what was written for it, then the bytes of the caller, which are not copied.
pub(super) struct Frame {
    pub(super) head: Vec<u8>,
    pub(super) body: Buffer,
}

impl Request<'_> {
    /// The packet that asks this under the number `id`.
    pub(super) fn encode(self, id: u32) -> Frame {
        let mut body = Buffer::new();
        let head = match self {
            Request::Open { path, flags, mode } => {
                Writer::new(3, id).text(path).number(flags).mode(mode)
            }
            Request::Close { handle } => Writer::new(4, id).bytes(handle),
            Request::Read { handle, offset, length } => {
                Writer::new(5, id).bytes(handle).long(offset).number(length)
            }
            Request::Write { handle, offset, bytes } => {
                let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
                body = bytes;
                Writer::new(6, id).bytes(handle).long(offset).number(length)
            }
            Request::FileStat { handle } => Writer::new(8, id).bytes(handle),
            Request::OpenFolder { path } => Writer::new(11, id).text(path),
            Request::ReadFolder { handle } => Writer::new(12, id).bytes(handle),
            Request::Remove { path } => Writer::new(13, id).text(path),
            Request::MakeFolder { path, mode } => Writer::new(14, id).text(path).mode(Some(mode)),
            Request::Stat { path } => Writer::new(17, id).text(path),
            Request::Rename { from, to } => Writer::new(18, id).text(from).text(to),
            Request::PosixRename { from, to } => {
                Writer::new(EXTENDED, id).text(POSIX_RENAME).text(from).text(to)
            }
            Request::Hardlink { from, to } => {
                Writer::new(EXTENDED, id).text(HARDLINK).text(from).text(to)
            }
            Request::Fsync { handle } => Writer::new(EXTENDED, id).text(FSYNC).bytes(handle),
            Request::FileSystem { path } => Writer::new(EXTENDED, id).text(STATVFS).text(path),
            Request::Limits => Writer::new(EXTENDED, id).text(LIMITS),
        };
        Frame { head: head.finish(body.len()), body }
    }
}

/// The packet that opens a conversation, which alone has no number.
pub(super) fn encode_init() -> Vec<u8> {
    let mut packet = vec![0, 0, 0, 5, INIT];
    packet.extend_from_slice(&3u32.to_be_bytes());
    packet
}

struct Writer(Vec<u8>);

impl Writer {
    fn new(kind: u8, id: u32) -> Writer {
        let mut packet = Vec::with_capacity(128);
        packet.extend_from_slice(&[0, 0, 0, 0, kind]);
        Writer(packet).number(id)
    }

    fn number(mut self, number: u32) -> Writer {
        self.0.extend_from_slice(&number.to_be_bytes());
        self
    }

    fn long(mut self, number: u64) -> Writer {
        self.0.extend_from_slice(&number.to_be_bytes());
        self
    }

    fn bytes(self, bytes: &[u8]) -> Writer {
        let mut writer = self.number(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        writer.0.extend_from_slice(bytes);
        writer
    }

    fn text(self, text: &str) -> Writer {
        self.bytes(text.as_bytes())
    }

    fn mode(self, mode: Option<u32>) -> Writer {
        match mode {
            Some(mode) => self.number(HAS_PERMISSIONS).number(mode),
            None => self.number(0),
        }
    }

    /// Fills in the length: of all but itself, with so many bytes still to come.
    fn finish(mut self, following: usize) -> Vec<u8> {
        let length = u32::try_from(self.0.len() - 4 + following).unwrap_or(u32::MAX);
        self.0[..4].copy_from_slice(&length.to_be_bytes());
        self.0
    }
}

/// A packet that is not what the protocol says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the server does not speak the protocol: {0}")]
pub(super) struct Malformed(pub(super) &'static str);

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Code {
    Ok,
    End,
    NoSuchFile,
    PermissionDenied,
    Failure,
    BadMessage,
    NoConnection,
    Unsupported,
    Other(u32),
}

/// What a server answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reply {
    Status { code: Code, message: String },
    Handle(Vec<u8>),
    Data(Data),
    Names(Vec<Name>),
    Attributes(Attributes),
    Extended(Vec<u8>),
}

/// Bytes of a file, still in the packet that brought them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Data {
    packet: Vec<u8>,
    start: usize,
}

impl Data {
    pub(super) fn as_slice(&self) -> &[u8] {
        &self.packet[self.start..]
    }
}

/// One entry of a folder; `name` is empty where it is not UTF-8, which none of ours is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Name {
    pub(super) name: String,
    pub(super) attributes: Attributes,
}

/// What is known of a file: each where the server tells it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Attributes {
    pub(super) size: Option<u64>,
    mode: Option<u32>,
    /// Seconds since 1970 by the server's clock.
    pub(super) modified: Option<u32>,
}

/// What stands at a path, by its mode bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FileKind {
    File,
    Folder,
    /// It has to be asked what a link leads to, and what an entry without a mode is.
    Unknown,
    Other,
}

impl Attributes {
    pub(super) fn kind(&self) -> FileKind {
        match self.mode.map(|mode| mode & 0o170_000) {
            Some(0o100_000) => FileKind::File,
            Some(0o040_000) => FileKind::Folder,
            Some(0o120_000 | 0) | None => FileKind::Unknown,
            Some(_) => FileKind::Other,
        }
    }
}

/// The server's first words: its version, and what it knows besides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Version {
    pub(super) number: u32,
    pub(super) extensions: Vec<(String, String)>,
}

/// Reads the server's first packet, without its length.
pub(super) fn decode_version(packet: &[u8]) -> Result<Version, Malformed> {
    let mut reader = Reader(packet);
    if reader.byte()? != VERSION {
        return Err(Malformed("its first packet is not its version"));
    }
    let number = reader.number()?;
    let mut extensions = Vec::new();
    while !reader.0.is_empty() {
        extensions.push((lossy(reader.bytes()?), lossy(reader.bytes()?)));
    }
    Ok(Version { number, extensions })
}

/// Reads an answer, without its length: the number of its request, and what it says.
pub(super) fn decode(packet: Vec<u8>) -> Result<(u32, Reply), Malformed> {
    let mut reader = Reader(&packet);
    let kind = reader.byte()?;
    let id = reader.number()?;
    let reply = match kind {
        STATUS => {
            let code = match reader.number()? {
                0 => Code::Ok,
                1 => Code::End,
                2 => Code::NoSuchFile,
                3 => Code::PermissionDenied,
                4 => Code::Failure,
                5 => Code::BadMessage,
                6 | 7 => Code::NoConnection,
                8 => Code::Unsupported,
                other => Code::Other(other),
            };
            // Very old servers leave the words out.
            let message = if reader.0.is_empty() { "" } else { &lossy(reader.bytes()?) };
            Reply::Status { code, message: message.to_string() }
        }
        HANDLE => {
            let handle = reader.bytes()?;
            if handle.len() > LONGEST_HANDLE {
                return Err(Malformed("a handle is too long"));
            }
            Reply::Handle(handle.to_vec())
        }
        DATA => {
            let length = reader.bytes()?.len();
            if !reader.0.is_empty() {
                return Err(Malformed("something follows a file's bytes"));
            }
            let start = packet.len() - length;
            return Ok((id, Reply::Data(Data { packet, start })));
        }
        NAME => {
            let count = reader.number()?;
            // No room is made by what the packet claims.
            let mut names = Vec::new();
            for _ in 0..count {
                let name = String::from_utf8(reader.bytes()?.to_vec()).unwrap_or_default();
                reader.bytes()?;
                names.push(Name { name, attributes: reader.attributes()? });
            }
            Reply::Names(names)
        }
        ATTRIBUTES => Reply::Attributes(reader.attributes()?),
        EXTENDED_REPLY => Reply::Extended(reader.0.to_vec()),
        _ => return Err(Malformed("an answer is of no known kind")),
    };
    Ok((id, reply))
}

/// How much a server takes in one packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limits {
    pub(super) read_bytes: u64,
    pub(super) write_bytes: u64,
}

/// Reads the answer to [`Request::Limits`].
pub(super) fn decode_limits(body: &[u8]) -> Result<Limits, Malformed> {
    let mut reader = Reader(body);
    reader.long()?;
    Ok(Limits { read_bytes: reader.long()?, write_bytes: reader.long()? })
}

/// The room on a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileSystem {
    pub(super) available_bytes: u64,
    /// Whether there is a number of files that it can hold, and it is reached.
    pub(super) lacks_files: bool,
    pub(super) is_read_only: bool,
}

/// Reads the answer to [`Request::FileSystem`].
pub(super) fn decode_file_system(body: &[u8]) -> Result<FileSystem, Malformed> {
    let mut reader = Reader(body);
    let mut numbers = [0; 11];
    for number in &mut numbers {
        *number = reader.long()?;
    }
    let [_, fragment_bytes, _, _, available, files, _, available_files, _, flags, _] = numbers;
    Ok(FileSystem {
        available_bytes: available.saturating_mul(fragment_bytes),
        lacks_files: files > 0 && available_files == 0,
        is_read_only: flags & 1 != 0,
    })
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Takes values off the front of a packet.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Malformed("a packet is cut"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const LENGTH: usize>(&mut self) -> Result<[u8; LENGTH], Malformed> {
        self.take(LENGTH)?.try_into().map_err(|_| Malformed("a packet is cut"))
    }

    fn byte(&mut self) -> Result<u8, Malformed> {
        Ok(u8::from_be_bytes(self.array()?))
    }

    fn number(&mut self) -> Result<u32, Malformed> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    fn long(&mut self) -> Result<u64, Malformed> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    fn bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let length = self.number()?;
        self.take(usize::try_from(length).unwrap_or(usize::MAX))
    }

    fn attributes(&mut self) -> Result<Attributes, Malformed> {
        let flags = self.number()?;
        let mut attributes = Attributes::default();
        if flags & HAS_SIZE != 0 {
            attributes.size = Some(self.long()?);
        }
        if flags & HAS_OWNER != 0 {
            self.long()?;
        }
        if flags & HAS_PERMISSIONS != 0 {
            attributes.mode = Some(self.number()?);
        }
        if flags & HAS_TIMES != 0 {
            self.number()?;
            attributes.modified = Some(self.number()?);
        }
        if flags & HAS_EXTENDED != 0 {
            for _ in 0..self.number()? {
                self.bytes()?;
                self.bytes()?;
            }
        }
        let known = HAS_SIZE | HAS_OWNER | HAS_PERMISSIONS | HAS_TIMES | HAS_EXTENDED;
        if flags & !known != 0 {
            return Err(Malformed("a file has attributes of no known kind"));
        }
        Ok(attributes)
    }
}

#[cfg(test)]
#[path = "packet_tests.rs"]
mod tests;
