//! A directory of another machine as a store, over the system's `ssh`: an OpenDAL service of our own, because
//! OpenDAL's opens an object under its final name and never syncs it, so that a crash leaves torn objects.
//!
//! What holds, numbered as in `local.rs`:
//!
//! 1. *Whole or not at all.* An object gets its name only after the server acknowledged all its bytes, synced them
//!    (`fsync@openssh.com`) and told its length right. Nothing that must happen in an order is sent before
//!    what goes before it was answered, for nobody promises that a server works in order.
//! 2. *One winner.* The name is given by `hardlink@openssh.com`, which refuses a name that is taken, in one step of the
//!    server's kernel. A server without it renames, which version 3 of the protocol says must refuse a taken name; whether two
//!    can get through at once is that server's affair. Where the file system below cannot link, OpenSSH's rename looks
//!    first and renames then, which two can do at once: a conditional create is refused there.
//! 3. *Durable when reported.* The protocol cannot sync a folder, but OpenSSH opens one as it does a file, and then syncs
//!    it. That is done before a create or a delete returns, also before "already there", and for each folder that was
//!    newly made, the one above it. Where a server does not open folders, the object is synced once more under its
//!    name, which on a file system with a journal carries the name along.
//! 4. *A temporary is never mistaken.* Unfinished bytes stand in `tmp/` under 128 random bits, made with
//!    `SSH_FXF_EXCL`. Nothing in `tmp/` is ever listed. One that is swept makes its create start again.
//! 5. *A living temporary is not swept*, unless it is a week old: there are no locks over SFTP. The first create whose bytes are there looks
//!    through `tmp/` and removes what is a week older than the file that it made there itself: both times are the
//!    server's, and no other clock is asked. What dies with its connection stands there for so long.
//! 6. *The directory stays the one that was opened* is weaker here: one that vanishes is not made again, and asking for
//!    what is in it is an error and not "not found". But where it was itself the point at which a disk is mounted, it
//!    does not vanish with the disk: let the repository be a folder on the disk.
//! 7. *A call may be dropped at any moment*, by a time-out or an interruption: the conversation goes on in whole packets, its
//!    handles are closed and its temporary is removed. A connection that drops ends all calls over it with an error
//!    that is marked as passing; the next call makes another connection. There are no time-outs here: `Store` has them.
//!
//! Who may meet whom is as in `local.rs`.
//!
//! | server | what holds |
//! |---|---|
//! | OpenSSH 6.5 or newer | all, on a file system of which the table in `local.rs` says so |
//! | OpenSSH on a file system that cannot link (FAT, some of FUSE) | 1, 3 to 7: no conditional create |
//! | one with `fsync@openssh.com` that does not open folders | all; 3 by a journal, and not for deletes |
//! | one without `fsync@openssh.com` | refused, unless [`SftpOptions::unsynced`] accepts it: then 1 and 3 hold as long as the server does not crash |
//! | one without `hardlink@openssh.com` | 2 as good as its rename |
//! | one without `posix-rename@openssh.com` | an unconditional create removes what has the name, then renames |
//!
//! Files are made with mode 0600, directories with 0700.

mod connection;
mod folders;
mod packet;
mod pool;
mod publish;
mod read;
mod ssh;

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::vec::IntoIter;

use opendal::raw::oio;
use opendal::raw::{
    OpCopy, OpCreateDir, OpDelete, OpList, OpPresign, OpRead, OpRename, OpStat, OpWrite,
    RpCreateDir, RpPresign, RpRead, RpRename, RpStat, Service, ServiceInfo,
};
use opendal::{
    Buffer, BytesRange, Capability, Error, ErrorKind, Metadata, MetadataBuilder, OperationContext,
    Result,
};
use rustix::io::Errno;

use self::connection::{Answer, Connection, Refusal};
use self::packet::{Attributes, Code, FileKind, Request, decode_file_system};
use self::pool::Pool;
use self::ssh::Dialer;

/// Where unfinished objects stand, from the store's directory.
const TEMPORARY: &str = "tmp";
/// Directory loops end here; names have three parts.
const MOST_FOLDERS: usize = 8;

const FILE_MODE: u32 = 0o600;
const DIRECTORY_MODE: u32 = 0o700;

/// How many bytes of one call are under way at once: more than the two megabytes that one of OpenSSH's channels lets
/// through before it waits for the other side.
const WINDOW_BYTES: usize = 4 * 1024 * 1024;

/// A directory of another machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SftpAddress {
    /// A name that `ssh` knows: of a machine, or of a `Host` in its configuration.
    pub host: String,
    /// Whom to log in as; else `ssh` decides.
    pub user: Option<String>,
    /// Where; else `ssh` decides.
    pub port: Option<u16>,
    /// The directory: from the machine's root if it begins with `/`, else from where a login lands.
    pub path: String,
}

impl fmt::Display for SftpAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sftp://")?;
        if let Some(user) = &self.user {
            write!(f, "{user}@")?;
        }
        f.write_str(&self.host)?;
        if let Some(port) = self.port {
            write!(f, ":{port}")?;
        }
        // As scp and curl have it: /~/ is where a login lands.
        let home = if self.path.starts_with('/') { "" } else { "/~/" };
        write!(f, "{home}{}", self.path)
    }
}

/// How a directory of another machine is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SftpOptions {
    /// How many connections may stand at once, from 1 to 16; made only when there is work for them.
    pub connections: usize,
    /// What to run in the place of `ssh`, read by a shell: `ssh -i key -J jumphost`.
    pub ssh_command: Option<String>,
    /// Accept a server that cannot sync files: what is reported as saved may be lost when it crashes.
    pub unsynced: bool,
}

impl Default for SftpOptions {
    fn default() -> Self {
        SftpOptions { connections: 4, ssh_command: None, unsynced: false }
    }
}

/// One directory of another machine. Clones share its connections.
#[derive(Clone)]
pub(super) struct SftpService {
    remote: Arc<Remote>,
    info: ServiceInfo,
}

/// What all calls share.
struct Remote {
    pool: Arc<Pool>,
    // Without a slash at its end, unless it is nothing else.
    root: String,
    accepts_unsynced: bool,
    // The directory was there once: it is not made again (6).
    root_was_there: AtomicBool,
    has_swept: AtomicBool,
    // Whether this server opens folders, to sync them: assumed until it says no.
    syncs_folders: AtomicBool,
}

impl SftpService {
    /// Remembers where it is; the first call connects, or [`SftpService::connect_early`].
    pub(super) fn open(address: SftpAddress, options: SftpOptions) -> Result<Self> {
        // A name that begins with a dash would be an option of ssh's.
        let is_word = |word: &str| {
            !word.is_empty()
                && !word.starts_with('-')
                && !word
                    .contains(|character: char| character.is_whitespace() || character.is_control())
        };
        if !is_word(&address.host) || !address.user.as_deref().is_none_or(is_word) {
            return Err(Error::new(ErrorKind::ConfigInvalid, "no host or user can have this name"));
        }
        let root = match address.path.trim_end_matches('/') {
            "" if address.path.is_empty() => ".",
            "" => "/",
            root => root,
        };
        let info = ServiceInfo::new("sftp", root, "");
        let root = root.to_string();
        let dialer = Dialer { address, command: options.ssh_command };
        let remote = Remote {
            pool: Arc::new(Pool::new(dialer, options.connections)),
            root,
            accepts_unsynced: options.unsynced,
            root_was_there: AtomicBool::new(false),
            has_swept: AtomicBool::new(false),
            syncs_folders: AtomicBool::new(true),
        };
        Ok(SftpService { remote: Arc::new(remote), info })
    }

    /// Begins to connect, where nobody can be asked anything: at a terminal, `ssh` may have to, and would be refused before it
    /// did. Whoever needs the connection waits for it. Must be called inside a tokio runtime.
    pub(super) fn connect_early(&self) {
        if !ssh::can_ask() {
            self.remote.pool.extend();
        }
    }
}

impl Remote {
    /// The server's path of an object or a folder; the empty name is the store's own directory.
    fn path(&self, name: &str) -> String {
        match (self.root.as_str(), name.trim_matches('/')) {
            (root, "") => root.to_string(),
            ("/", name) => format!("/{name}"),
            (root, name) => format!("{root}/{name}"),
        }
    }

    /// A connection, over which the store's directory was looked for once.
    async fn lease(&self) -> Result<Arc<Connection>> {
        let connection = self.pool.lease().await?;
        if !self.root_was_there.load(Ordering::Relaxed) {
            let stat = connection.send(Request::Stat { path: &self.root }).attributes().await?;
            if stat.is_ok() {
                self.root_was_there.store(true, Ordering::Relaxed);
            }
        }
        Ok(connection)
    }

    /// What "no such file" means: that, or that the whole store is gone (6).
    async fn absent(&self, connection: &Arc<Connection>) -> Error {
        self.absent_beside(self.ask_for_root(connection)).await
    }

    /// Asks for the store's own directory, if it was there once.
    fn ask_for_root(&self, connection: &Arc<Connection>) -> Option<Answer> {
        let was_there = self.root_was_there.load(Ordering::Relaxed);
        was_there.then(|| connection.send(Request::Stat { path: &self.root }))
    }

    /// What "no such file" means, where the store's own directory has been asked for after it.
    async fn absent_beside(&self, root: Option<Answer>) -> Error {
        let Some(root) = root else { return Error::new(ErrorKind::NotFound, "not found") };
        match root.attributes().await {
            Ok(Err(Refusal { code: Code::NoSuchFile, .. })) => self.gone(),
            Ok(_) => Error::new(ErrorKind::NotFound, "not found"),
            Err(error) => error,
        }
    }

    fn gone(&self) -> Error {
        let message = format!("the store's folder {} is gone", self.root);
        let hint = io::Error::other("is the disk there still mounted?");
        Error::new(ErrorKind::Unexpected, message).set_source(hint)
    }

    /// What a refusal means.
    async fn refused(
        &self,
        connection: &Arc<Connection>,
        doing: &'static str,
        refusal: Refusal,
        needed_bytes: u64,
    ) -> Error {
        let lacking = self.lacks_room(connection, doing, &refusal, needed_bytes).await;
        lacking.unwrap_or_else(|| failed(doing, &refusal))
    }

    /// OpenSSH says "failure" of a full disk as of many other things, so the file system is asked for its room.
    async fn lacks_room(
        &self,
        connection: &Arc<Connection>,
        doing: &'static str,
        refusal: &Refusal,
        needed_bytes: u64,
    ) -> Option<Error> {
        if refusal.code != Code::Failure || !connection.features.statvfs {
            return None;
        }
        let question = Request::FileSystem { path: &self.root };
        let body = connection.send(question).extended().await.ok()?.ok()?;
        let room = decode_file_system(&body).ok()?;
        let errno = if room.is_read_only {
            Errno::ROFS
        } else if room.lacks_files || room.available_bytes < needed_bytes.max(1) {
            Errno::NOSPC
        } else {
            return None;
        };
        Some(Error::new(ErrorKind::Unexpected, doing).set_source(io::Error::from(errno)))
    }

    async fn stat(&self, name: &str) -> Result<Metadata> {
        let is_folder = name.ends_with('/');
        let connection = self.lease().await?;
        let path = self.path(name);
        match connection.send(Request::Stat { path: &path }).attributes().await? {
            Ok(attributes) => match attributes.kind() {
                FileKind::Folder if is_folder => Ok(MetadataBuilder::dir().build()),
                FileKind::File if !is_folder => file_metadata(&attributes),
                _ => Err(Error::new(ErrorKind::NotFound, "not found")),
            },
            Err(Refusal { code: Code::NoSuchFile, .. }) => Err(self.absent(&connection).await),
            Err(refusal) => Err(failed("cannot look at it", &refusal)),
        }
    }

    async fn delete(&self, name: &str) -> Result<()> {
        let connection = self.lease().await?;
        let path = self.path(name);
        let folder = self.path(folder_of(name.trim_end_matches('/')));
        // The folder is opened first, so that what is deleted can be synced without another wait.
        let opening = self.open_to_sync(&connection, &folder);
        let removed = connection.send(Request::Remove { path: &path }).done().await?;
        match removed {
            Ok(()) => {}
            Err(Refusal { code: Code::NoSuchFile, .. }) => return Ok(()),
            Err(refusal) => {
                return Err(self.refused(&connection, "cannot delete", refusal, 0).await);
            }
        }
        let Some(opening) = opening else { return Ok(()) };
        match opening.handle().await? {
            Ok(handle) => {
                self.sync_folder(&connection, &handle).await?;
            }
            Err(Refusal { code: Code::NoSuchFile, .. }) => {}
            Err(_) => self.syncs_folders.store(false, Ordering::Relaxed),
        }
        Ok(())
    }
}

/// The folder in which a name stands; the empty one is the store's own.
fn folder_of(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(folder, _)| folder)
}

fn file_metadata(attributes: &Attributes) -> Result<Metadata> {
    let Some(size) = attributes.size else {
        return Err(Error::new(ErrorKind::Unexpected, "the server does not tell lengths"));
    };
    let mut metadata = MetadataBuilder::file(size);
    if let Some(seconds) = attributes.modified
        && let Ok(modified) = opendal::raw::Timestamp::new(i64::from(seconds), 0)
    {
        metadata.last_modified(modified);
    }
    Ok(metadata.build())
}

/// The server's refusal as OpenDAL wants it.
fn failed(doing: &'static str, refusal: &Refusal) -> Error {
    let (kind, is_passing) = match refusal.code {
        Code::NoSuchFile => (ErrorKind::NotFound, false),
        Code::PermissionDenied => (ErrorKind::PermissionDenied, false),
        // OpenSSH says so of names that are too long, and of what a file system does not know.
        Code::BadMessage | Code::Unsupported => (ErrorKind::Unsupported, false),
        Code::NoConnection => (ErrorKind::Unexpected, true),
        _ => (ErrorKind::Unexpected, false),
    };
    let said = match (refusal.message.as_str(), refusal.code) {
        ("", Code::Other(number)) => format!("the server answers {number}"),
        ("", code) => format!("the server answers {code:?}"),
        (message, _) => format!("the server says \"{}\"", message.to_lowercase()),
    };
    Error::new(kind, doing).set_source(io::Error::other(said)).with_temporary(is_passing)
}

impl fmt::Debug for SftpService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SftpService({})", self.info.root())
    }
}

impl Service for SftpService {
    type Reader = SftpReader;
    type Writer = oio::OneShotWriter<SftpWriter>;
    type Lister = oio::HierarchyLister<SftpLister>;
    type Deleter = oio::OneShotDeleter<SftpDeleter>;
    type Copier = ();
    type Composer = ();

    fn info(&self) -> ServiceInfo {
        self.info.clone()
    }

    fn capability(&self) -> Capability {
        Capability {
            read: true,
            read_with_suffix: true,
            write: true,
            write_can_empty: true,
            write_with_if_not_exists: true,
            stat: true,
            list: true,
            list_with_recursive: true,
            delete: true,
            ..Capability::default()
        }
    }

    async fn create_dir(
        &self,
        _: &OperationContext,
        _: &str,
        _: OpCreateDir,
    ) -> Result<RpCreateDir> {
        Err(unsupported())
    }

    async fn stat(&self, _: &OperationContext, path: &str, _: OpStat) -> Result<RpStat> {
        self.remote.stat(path).await.map(RpStat::new)
    }

    fn read(&self, _: &OperationContext, path: &str, _: OpRead) -> Result<Self::Reader> {
        Ok(SftpReader { remote: Arc::clone(&self.remote), path: path.to_string() })
    }

    fn write(&self, _: &OperationContext, path: &str, args: OpWrite) -> Result<Self::Writer> {
        Ok(oio::OneShotWriter::new(SftpWriter {
            remote: Arc::clone(&self.remote),
            path: path.to_string(),
            if_not_exists: args.if_not_exists(),
        }))
    }

    fn delete(&self, _: &OperationContext) -> Result<Self::Deleter> {
        Ok(oio::OneShotDeleter::new(SftpDeleter { remote: Arc::clone(&self.remote) }))
    }

    fn list(&self, _: &OperationContext, path: &str, args: OpList) -> Result<Self::Lister> {
        let lister = SftpLister {
            remote: Arc::clone(&self.remote),
            prefix: path.to_string(),
            entries: None,
        };
        Ok(oio::HierarchyLister::new(lister, path, args.recursive()))
    }

    fn copy(&self, _: &OperationContext, _: &str, _: &str, _: OpCopy) -> Result<()> {
        Err(unsupported())
    }

    async fn rename(
        &self,
        _: &OperationContext,
        _: &str,
        _: &str,
        _: OpRename,
    ) -> Result<RpRename> {
        Err(unsupported())
    }

    async fn presign(&self, _: &OperationContext, _: &str, _: OpPresign) -> Result<RpPresign> {
        Err(unsupported())
    }
}

fn unsupported() -> Error {
    Error::new(ErrorKind::Unsupported, "a directory over SFTP cannot do this")
}

/// Reads one object, opening it at each range.
pub(super) struct SftpReader {
    remote: Arc<Remote>,
    path: String,
}

impl oio::Read for SftpReader {
    async fn open(&self, range: BytesRange) -> Result<(RpRead, Box<dyn oio::ReadStreamDyn>)> {
        let (reply, buffer) = self.read(range).await?;
        Ok((reply, Box::new(buffer)))
    }

    async fn read(&self, range: BytesRange) -> Result<(RpRead, Buffer)> {
        let (buffer, size) = self.remote.read(&self.path, range).await?;
        Ok((RpRead::new(MetadataBuilder::file(size).build()), buffer))
    }
}

/// Writes one object; called again, it starts from the beginning.
pub(super) struct SftpWriter {
    remote: Arc<Remote>,
    path: String,
    if_not_exists: bool,
}

impl oio::OneShotWrite for SftpWriter {
    async fn write_once(&self, bytes: Buffer) -> Result<Metadata> {
        self.remote.publish(&self.path, &bytes, self.if_not_exists).await?;
        Ok(MetadataBuilder::file(bytes.len() as u64).build())
    }
}

/// Reads the folders at its first step, so that an error there can be tried again as a whole.
pub(super) struct SftpLister {
    remote: Arc<Remote>,
    prefix: String,
    entries: Option<IntoIter<oio::Entry>>,
}

impl oio::List for SftpLister {
    async fn next(&mut self) -> Result<Option<oio::Entry>> {
        let entries = match &mut self.entries {
            Some(entries) => entries,
            None => self.entries.insert(self.remote.list(&self.prefix).await?.into_iter()),
        };
        Ok(entries.next())
    }
}

/// Deletes objects one by one.
pub(super) struct SftpDeleter {
    remote: Arc<Remote>,
}

impl oio::OneShotDelete for SftpDeleter {
    async fn delete_once(&self, path: String, _: OpDelete) -> Result<()> {
        self.remote.delete(&path).await
    }
}

#[cfg(test)]
#[path = "sftp_tests.rs"]
mod tests;
