//! Making an object: a temporary, its bytes, its name.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use opendal::{Buffer, Error, ErrorKind, Result};
use tokio::task::JoinHandle;

use super::connection::{Answer, Connection, Features, Handle, Refusal, Removal};
use super::packet::{CREATE, Code, EXCLUSIVE, READ, Request, WRITE};
use super::{FILE_MODE, Remote, TEMPORARY, WINDOW_BYTES, failed, folder_of};

/// How often a create starts again when its temporary or its folder went.
const MOST_ATTEMPTS: usize = 4;

/// How an attempt ended.
enum Attempt {
    Published,
    Taken,
    /// The temporary is gone, or the folder.
    Vanished,
}

/// Whether a temporary got its name.
#[derive(PartialEq)]
enum Named {
    Given,
    Taken,
    Vanished,
}

/// The folder of an object, to be synced when the object has its name.
enum Folder {
    /// Opened, where this server opens folders.
    Opened(Option<Handle>),
    /// It was not there, and is being made while the object is written.
    Making(JoinHandle<Result<Option<Handle>>>),
}

impl Folder {
    async fn ready(self) -> Result<Option<Handle>> {
        match self {
            Folder::Opened(handle) => Ok(handle),
            Folder::Making(making) => making.await.unwrap_or_else(|error| {
                Err(Error::new(ErrorKind::Unexpected, "a folder was not made")
                    .set_source(error)
                    .with_temporary(true))
            }),
        }
    }
}

/// An unfinished object. Dropped, it is closed, and removed unless it was renamed.
struct Temporary {
    handle: Handle,
    removal: Removal,
}

impl Remote {
    /// Writes all of `bytes`, then gives them the name.
    pub(super) async fn publish(
        self: &Arc<Self>,
        name: &str,
        bytes: &Buffer,
        if_not_exists: bool,
    ) -> Result<()> {
        if name.split('/').next() == Some(TEMPORARY) {
            return Err(Error::new(ErrorKind::Unsupported, "tmp/ is the store's own folder"));
        }
        for _ in 0..MOST_ATTEMPTS {
            let connection = self.lease().await?;
            self.check_durability(&connection.features)?;
            match self.attempt(&connection, name, bytes, if_not_exists).await? {
                Attempt::Published => return Ok(()),
                Attempt::Taken => {
                    return Err(Error::new(ErrorKind::ConditionNotMatch, "already there"));
                }
                Attempt::Vanished => self.make_folder(&connection, folder_of(name)).await?,
            }
        }
        Err(Error::new(ErrorKind::Unexpected, "unfinished objects vanish from tmp/"))
    }

    /// Refuses a server that cannot keep what it takes, unless that is accepted.
    fn check_durability(&self, features: &Features) -> Result<()> {
        if features.fsync || self.accepts_unsynced {
            return Ok(());
        }
        let message = "this server cannot sync files (fsync@openssh.com), so what it took may be gone \
                       when it crashes; the option `unsynced` accepts that";
        Err(Error::new(ErrorKind::Unsupported, message))
    }

    async fn attempt(
        self: &Arc<Self>,
        connection: &Arc<Connection>,
        name: &str,
        bytes: &Buffer,
        if_not_exists: bool,
    ) -> Result<Attempt> {
        let (mut temporary, folder) = self.begin(connection, folder_of(name)).await?;
        self.write_all(connection, &temporary.handle, bytes).await?;
        let moment = self.sync_file(connection, &temporary.handle, bytes.len() as u64).await?;
        let folder = folder.ready().await?;
        // Beside what follows, which takes as many round trips.
        let sweeping = moment.and_then(|moment| self.begin_sweep(connection, moment));
        let path = self.path(name);
        let named = self.give_name(connection, &mut temporary, &path, if_not_exists).await?;
        if named == Named::Vanished {
            return Ok(Attempt::Vanished);
        }
        let Temporary { handle, mut removal } = temporary;
        drop(handle);
        let removing = removal.is_due.then(|| {
            removal.is_due = false;
            connection.send(Request::Remove { path: &removal.path })
        });
        // Another writer's name may not be durable yet, either (3).
        self.sync_name(connection, folder, &path).await?;
        if let Some(removing) = removing {
            // One that stays is swept some day.
            let _ = removing.done().await?;
        }
        if let Some(sweeping) = sweeping {
            // It does no harm that it fails.
            let _ = sweeping.await;
        }
        Ok(if named == Named::Taken { Attempt::Taken } else { Attempt::Published })
    }

    /// A new file in `tmp/` (4), and the object's folder, opened in order to be synced, or in the making.
    async fn begin(
        self: &Arc<Self>,
        connection: &Arc<Connection>,
        folder: &str,
    ) -> Result<(Temporary, Folder)> {
        let folder_path = self.path(folder);
        for _ in 0..MOST_ATTEMPTS {
            let mut removal = self.new_temporary(connection)?;
            let flags = WRITE | CREATE | EXCLUSIVE;
            let open = Request::Open { path: &removal.path, flags, mode: Some(FILE_MODE) };
            // Before the question goes out: whoever gives up while it is under way leaves nothing.
            removal.is_due = true;
            let opening = connection.send(open);
            let folder_opening = self.open_to_sync(connection, &folder_path);
            let handle = match opening.handle().await? {
                Ok(handle) => handle,
                Err(refusal) => {
                    removal.is_due = false;
                    if refusal.code != Code::NoSuchFile {
                        let doing = "cannot make a file in tmp/";
                        return Err(self.refused(connection, doing, refusal, 0).await);
                    }
                    self.make_folder(connection, TEMPORARY).await?;
                    continue;
                }
            };
            let temporary = Temporary { handle, removal };
            let Some(folder_opening) = folder_opening else {
                return Ok((temporary, Folder::Opened(None)));
            };
            let folder = match folder_opening.handle().await? {
                Ok(handle) => Folder::Opened(Some(handle)),
                Err(Refusal { code: Code::NoSuchFile, .. }) => {
                    let remote = Arc::clone(self);
                    let (connection, folder) = (Arc::clone(connection), folder.to_string());
                    let making = async move { remote.make_and_open(&connection, &folder).await };
                    Folder::Making(tokio::spawn(making))
                }
                Err(_) => {
                    self.syncs_folders.store(false, Ordering::Relaxed);
                    Folder::Opened(None)
                }
            };
            return Ok((temporary, folder));
        }
        Err(Error::new(ErrorKind::Unexpected, "folders vanish as soon as they are made"))
    }

    /// Makes a folder and opens it in order to sync it, where this server opens folders.
    async fn make_and_open(
        &self,
        connection: &Arc<Connection>,
        folder: &str,
    ) -> Result<Option<Handle>> {
        self.make_folder(connection, folder).await?;
        let Some(opening) = self.open_to_sync(connection, &self.path(folder)) else {
            return Ok(None);
        };
        match opening.handle().await? {
            Ok(handle) => Ok(Some(handle)),
            Err(Refusal { code: Code::NoSuchFile, .. }) => {
                let message = "a folder vanished as soon as it was made";
                Err(Error::new(ErrorKind::Unexpected, message).with_temporary(true))
            }
            Err(_) => {
                self.syncs_folders.store(false, Ordering::Relaxed);
                Ok(None)
            }
        }
    }

    /// A path in `tmp/` that no other writer on any machine uses; nothing is there yet.
    fn new_temporary(&self, connection: &Arc<Connection>) -> Result<Removal> {
        let mut random = [0; 16];
        getrandom::fill(&mut random).map_err(|error| {
            Error::new(ErrorKind::Unexpected, "no random numbers").set_source(error)
        })?;
        let path = self.path(&format!("{TEMPORARY}/{:032x}", u128::from_le_bytes(random)));
        Ok(Removal { path, connection: Arc::clone(connection), is_due: false })
    }

    async fn write_all(
        &self,
        connection: &Arc<Connection>,
        handle: &Handle,
        bytes: &Buffer,
    ) -> Result<()> {
        let largest = connection.features.write_bytes as usize;
        let mut under_way: VecDeque<Answer> = VecDeque::new();
        let mut offset = 0;
        while offset < bytes.len() || !under_way.is_empty() {
            while offset < bytes.len() && under_way.len() < WINDOW_BYTES / largest {
                let end = bytes.len().min(offset + largest);
                let piece = bytes.slice(offset..end);
                let handle = handle.as_slice();
                let write = Request::Write { handle, offset: offset as u64, bytes: piece };
                under_way.push_back(connection.send(write));
                offset = end;
            }
            if let Some(answer) = under_way.pop_front()
                && let Err(refusal) = answer.done().await?
            {
                let needed_bytes = bytes.len() as u64;
                return Err(self.refused(connection, "cannot write", refusal, needed_bytes).await);
            }
        }
        Ok(())
    }

    /// Syncs what was written and looks whether it is all there; tells when that was, by the server's clock.
    async fn sync_file(
        &self,
        connection: &Arc<Connection>,
        handle: &Handle,
        length: u64,
    ) -> Result<Option<u32>> {
        let handle = handle.as_slice();
        let syncing = connection.features.fsync.then(|| connection.send(Request::Fsync { handle }));
        let stat = connection.send(Request::FileStat { handle });
        if let Some(syncing) = syncing
            && let Err(refusal) = syncing.done().await?
        {
            return Err(self
                .refused(connection, "cannot sync what was written", refusal, length)
                .await);
        }
        match stat.attributes().await? {
            Ok(attributes) if attributes.size == Some(length) => Ok(attributes.modified),
            Ok(attributes) => {
                let written = attributes.size.unwrap_or(0);
                let message = format!("the server kept {written} bytes of {length}");
                Err(Error::new(ErrorKind::Unexpected, message).with_temporary(true))
            }
            Err(refusal) => Err(failed("cannot look at what was written", &refusal)),
        }
    }

    /// Turns the temporary into the object (2).
    async fn give_name(
        &self,
        connection: &Arc<Connection>,
        temporary: &mut Temporary,
        path: &str,
        if_not_exists: bool,
    ) -> Result<Named> {
        let features = &connection.features;
        let (from, to) = (temporary.removal.path.as_str(), path);
        let links = if_not_exists && features.hardlink;
        let request = match (if_not_exists, features) {
            (true, Features { hardlink: true, .. }) => Request::Hardlink { from, to },
            (false, Features { posix_rename: true, .. }) => Request::PosixRename { from, to },
            (true, _) => Request::Rename { from, to },
            (false, _) => {
                // What a rename cannot replace has to go first.
                let _ = connection.send(Request::Remove { path }).done().await?;
                Request::Rename { from, to }
            }
        };
        let refusal = match connection.send(request).done().await? {
            Ok(()) => {
                // After a link, the temporary's own name has to go yet.
                temporary.removal.is_due = links;
                return Ok(Named::Given);
            }
            Err(Refusal { code: Code::NoSuchFile, .. }) => return Ok(Named::Vanished),
            Err(refusal) => refusal,
        };
        // Servers have no word for "taken".
        if if_not_exists && connection.send(Request::Stat { path }).attributes().await?.is_ok() {
            return Ok(Named::Taken);
        }
        if links && !self.can_link(connection, &temporary.removal.path).await? {
            let message = "the file system there cannot link, so two writers could destroy each \
                           other's objects";
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        let doing = "cannot give the object its name";
        if let Some(error) = self.lacks_room(connection, doing, &refusal, 0).await {
            return Err(error);
        }
        // The name may have been taken then, and be free again now.
        let is_passing = links && refusal.code == Code::Failure;
        Err(failed(doing, &refusal).with_temporary(is_passing))
    }

    /// Whether the file system links at all: tried where we may certainly write.
    async fn can_link(&self, connection: &Arc<Connection>, from: &str) -> Result<bool> {
        let mut second = self.new_temporary(connection)?;
        second.is_due = true;
        let linked = connection.send(Request::Hardlink { from, to: &second.path }).done().await?;
        second.is_due = linked.is_ok();
        Ok(linked.is_ok())
    }

    /// A folder, opened in order to sync it, if this server is known to take that.
    pub(super) fn open_to_sync(&self, connection: &Arc<Connection>, path: &str) -> Option<Answer> {
        let can_sync = connection.features.fsync && self.syncs_folders.load(Ordering::Relaxed);
        can_sync.then(|| connection.send(Request::Open { path, flags: READ, mode: None }))
    }

    /// Makes the names in a folder durable; `false` where this server has no such thing.
    pub(super) async fn sync_folder(
        &self,
        connection: &Arc<Connection>,
        folder: &Handle,
    ) -> Result<bool> {
        let sync = Request::Fsync { handle: folder.as_slice() };
        match connection.send(sync).done().await? {
            Ok(()) => Ok(true),
            Err(Refusal { code: Code::BadMessage | Code::Unsupported, .. }) => {
                self.syncs_folders.store(false, Ordering::Relaxed);
                Ok(false)
            }
            // The disk below has failed, and nobody knows what it holds.
            Err(refusal) => Err(failed("cannot sync the folder", &refusal)),
        }
    }

    /// Makes a new name durable (3): its folder is synced, or else the object once more.
    async fn sync_name(
        &self,
        connection: &Arc<Connection>,
        folder: Option<Handle>,
        path: &str,
    ) -> Result<()> {
        if !connection.features.fsync {
            return Ok(());
        }
        if let Some(folder) = folder
            && self.sync_folder(connection, &folder).await?
        {
            return Ok(());
        }
        let open = Request::Open { path, flags: READ, mode: None };
        match connection.send(open).handle().await? {
            Ok(handle) => {
                let sync = Request::Fsync { handle: handle.as_slice() };
                match connection.send(sync).done().await? {
                    Ok(()) => Ok(()),
                    Err(refusal) => Err(self.refused(connection, "cannot sync", refusal, 0).await),
                }
            }
            // Deleted already, by somebody else.
            Err(Refusal { code: Code::NoSuchFile, .. }) => Ok(()),
            Err(_) if self.accepts_unsynced => Ok(()),
            Err(refusal) => Err(failed("cannot make its name durable", &refusal)),
        }
    }
}
