//! Folders: made on demand, listed beside each other, and the one of temporaries swept.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use opendal::raw::oio;
use opendal::{Error, ErrorKind, Result};
use rustix::io::Errno;
use tokio::task::{JoinHandle, JoinSet};

use super::connection::{Answer, Connection, Refusal};
use super::packet::{Attributes, Code, FileKind, Name, Request};
use super::{DIRECTORY_MODE, MOST_FOLDERS, Remote, TEMPORARY, failed, file_metadata, folder_of};
use crate::store::layout::is_part;

/// How many folders are made or found on the way to one, before it is given up.
const MOST_STEPS: usize = 256;
/// How many folders are read at once.
const MOST_LISTINGS: usize = 32;
/// How many pages of one folder are asked for at once. OpenSSH puts a hundred entries on a page.
const MOST_PAGES: usize = 4;
/// No folder of ours has more: index objects are merged, packs lie in 256 folders.
const MOST_ENTRIES: usize = 10_000_000;
/// How old a temporary is whose writer is taken for dead: it would have had to sleep in the middle of one object.
const SWEPT_SECONDS: u32 = 7 * 24 * 60 * 60;

/// What was found in one folder.
#[derive(Default)]
struct Listed {
    objects: Vec<oio::Entry>,
    folders: Vec<String>,
}

impl Remote {
    /// Makes a folder and those above it, where they are missing, and makes that durable. The store's own directory
    /// is made only if it was never seen (6).
    pub(super) async fn make_folder(
        &self,
        connection: &Arc<Connection>,
        folder: &str,
    ) -> Result<()> {
        let path = self.path(folder);
        let mut missing = vec![path.as_str()];
        for _ in 0..MOST_STEPS {
            let Some(&path) = missing.last() else { return Ok(()) };
            if path == self.root && self.root_was_there.load(Ordering::Relaxed) {
                let there = connection.send(Request::Stat { path }).attributes().await?;
                if there.is_err() {
                    return Err(self.gone());
                }
            }
            if !self.make_one(connection, path).await? {
                // The one above is missing.
                missing.push(parent(path).ok_or_else(|| self.gone())?);
                continue;
            }
            missing.pop();
            if path == self.root {
                self.root_was_there.store(true, Ordering::Relaxed);
            }
        }
        Err(Error::new(ErrorKind::Unexpected, "folders vanish as soon as they are made"))
    }

    /// Makes one folder, or finds it there; `false` when the one above is missing.
    async fn make_one(&self, connection: &Arc<Connection>, path: &str) -> Result<bool> {
        let make = Request::MakeFolder { path, mode: DIRECTORY_MODE };
        let refusal = match connection.send(make).done().await? {
            Ok(()) => {
                let above = parent(path).unwrap_or(".");
                if let Some(opening) = self.open_to_sync(connection, above)
                    && let Ok(handle) = opening.handle().await?
                {
                    // One above the store's own directory may not be ours to open.
                    self.sync_folder(connection, &handle).await?;
                }
                return Ok(true);
            }
            Err(Refusal { code: Code::NoSuchFile, .. }) => return Ok(false),
            Err(refusal) => refusal,
        };
        // Made by somebody else, just now or long ago.
        match connection.send(Request::Stat { path }).attributes().await? {
            Ok(attributes) if attributes.kind() == FileKind::Folder => Ok(true),
            Ok(_) => Err(not_a_folder()),
            Err(_) => Err(self.refused(connection, "cannot make the folder", refusal, 0).await),
        }
    }

    /// All objects below the folder of `prefix` whose names begin with it.
    pub(super) async fn list(self: &Arc<Self>, prefix: &str) -> Result<Vec<oio::Entry>> {
        let prefix = prefix.trim_start_matches('/');
        let (folder, beginning) = prefix.rsplit_once('/').unwrap_or(("", prefix));
        let mut waiting = vec![(folder.to_string(), beginning.to_string())];
        let mut reading = JoinSet::new();
        let mut found = Vec::new();
        loop {
            while reading.len() < MOST_LISTINGS
                && let Some((folder, beginning)) = waiting.pop()
            {
                let remote = Arc::clone(self);
                reading.spawn(async move {
                    remote
                        .list_folder(&folder, &beginning)
                        .await
                        .map_err(|error| error.with_context("folder", folder))
                });
            }
            let Some(listed) = reading.join_next().await else { return Ok(found) };
            let listed = listed.map_err(|error| {
                Error::new(ErrorKind::Unexpected, "a listing was cut off")
                    .set_source(error)
                    .with_temporary(true)
            })??;
            found.extend(listed.objects);
            // What stands deeper has the prefix already.
            waiting.extend(listed.folders.into_iter().map(|folder| (folder, String::new())));
        }
    }

    async fn list_folder(&self, folder: &str, beginning: &str) -> Result<Listed> {
        let connection = self.lease().await?;
        let mut listed = Listed::default();
        let Some(names) = self.read_folder(&connection, folder).await? else {
            return Ok(listed);
        };
        let is_ours = |name: &Name| {
            // What no create could have made is not ours: `.`, `lost+found`, `.nfs…`.
            is_part(&name.name)
                && name.name.starts_with(beginning)
                && !(folder.is_empty() && name.name == TEMPORARY)
        };
        let mut unclear: VecDeque<(String, Answer)> = VecDeque::new();
        for name in names.into_iter().filter(is_ours) {
            let path = match folder {
                "" => name.name,
                folder => format!("{folder}/{}", name.name),
            };
            if name.attributes.kind() == FileKind::Unknown || name.attributes.size.is_none() {
                // A link, perhaps to a folder elsewhere.
                let question = Request::Stat { path: &self.path(&path) };
                unclear.push_back((path, connection.send(question)));
            } else {
                listed.add(path, &name.attributes)?;
            }
        }
        while let Some((path, answer)) = unclear.pop_front() {
            match answer.attributes().await? {
                Ok(attributes) => listed.add(path, &attributes)?,
                // It leads nowhere, or went meanwhile.
                Err(Refusal { code: Code::NoSuchFile, .. }) => {}
                Err(refusal) => return Err(failed("cannot list", &refusal)),
            }
        }
        Ok(listed)
    }

    /// All entries of a folder; `None` when there is none.
    async fn read_folder(
        &self,
        connection: &Arc<Connection>,
        folder: &str,
    ) -> Result<Option<Vec<Name>>> {
        let path = self.path(folder);
        let open = Request::OpenFolder { path: &path };
        let handle = match connection.send(open).handle().await? {
            Ok(handle) => handle,
            Err(refusal) => return self.no_folder(connection, folder, refusal).await,
        };
        let mut names = Vec::new();
        let mut pages = VecDeque::new();
        let mut has_ended = false;
        loop {
            while !has_ended && pages.len() < MOST_PAGES {
                let question = Request::ReadFolder { handle: handle.as_slice() };
                pages.push_back(connection.send(question));
            }
            let Some(page) = pages.pop_front() else { return Ok(Some(names)) };
            match page.names().await? {
                Ok(Some(page)) if page.is_empty() || names.len() > MOST_ENTRIES => {
                    return Err(Error::new(ErrorKind::Unexpected, "the server lists without end"));
                }
                Ok(Some(page)) => names.extend(page),
                Ok(None) => has_ended = true,
                Err(refusal) => return Err(failed("cannot list", &refusal)),
            }
        }
    }

    /// What it means that a folder cannot be opened. A listing must not be empty because a file stands in its way, or
    /// because the store is gone; OpenSSH has one word for these and for a folder that was never made.
    async fn no_folder<T>(
        &self,
        connection: &Arc<Connection>,
        folder: &str,
        refusal: Refusal,
    ) -> Result<Option<T>> {
        if !matches!(refusal.code, Code::NoSuchFile | Code::Failure) {
            return Err(failed("cannot list", &refusal));
        }
        // What is asked in the end is asked now: it is needed for each folder that was never made.
        let root = self.ask_for_root(connection);
        let mut above = folder;
        while !above.is_empty() {
            let path = self.path(above);
            match connection.send(Request::Stat { path: &path }).attributes().await? {
                Ok(attributes) if attributes.kind() == FileKind::Folder => break,
                Ok(_) => return Err(not_a_folder()),
                Err(_) => above = folder_of(above),
            }
        }
        if refusal.code == Code::Failure {
            return Err(failed("cannot list", &refusal));
        }
        match self.absent_beside(root).await {
            error if error.kind() == ErrorKind::NotFound => Ok(None),
            error => Err(error),
        }
    }

    /// Once for each store that is opened, and not before it has to write: removes temporaries of dead writers (5),
    /// in a task of its own. `now` is when a file was written in `tmp/` just now.
    pub(super) fn begin_sweep(
        self: &Arc<Self>,
        connection: &Arc<Connection>,
        now: u32,
    ) -> Option<JoinHandle<()>> {
        if self.has_swept.swap(true, Ordering::Relaxed) {
            return None;
        }
        let (remote, connection) = (Arc::clone(self), Arc::clone(connection));
        Some(tokio::spawn(async move { remote.sweep(&connection, now).await }))
    }

    /// What cannot be removed does no harm.
    async fn sweep(&self, connection: &Arc<Connection>, now: u32) {
        let Ok(Some(names)) = self.read_folder(connection, TEMPORARY).await else { return };
        let is_dead = |name: &&Name| {
            let age = name.attributes.modified.and_then(|modified| now.checked_sub(modified));
            is_part(&name.name)
                && name.attributes.kind() == FileKind::File
                && age.is_some_and(|age| age > SWEPT_SECONDS)
        };
        let removing: Vec<Answer> = names
            .iter()
            .filter(is_dead)
            .map(|name| self.path(&format!("{TEMPORARY}/{}", name.name)))
            .map(|path| connection.send(Request::Remove { path: &path }))
            .collect();
        for answer in removing {
            let _ = answer.done().await;
        }
    }
}

impl Listed {
    fn add(&mut self, path: String, attributes: &Attributes) -> Result<()> {
        match attributes.kind() {
            FileKind::File => {
                self.objects.push(oio::Entry::with(path, file_metadata(attributes)?));
            }
            FileKind::Folder if path.split('/').count() > MOST_FOLDERS => {
                return Err(Error::new(ErrorKind::Unexpected, "cannot list")
                    .set_source(io::Error::from(Errno::LOOP)));
            }
            FileKind::Folder => self.folders.push(path),
            FileKind::Unknown | FileKind::Other => {}
        }
        Ok(())
    }
}

fn not_a_folder() -> Error {
    Error::new(ErrorKind::NotADirectory, "a file stands where a folder should be")
}

/// The folder above, for the server; the one above a relative path is where a login lands.
fn parent(path: &str) -> Option<&str> {
    match path.rsplit_once('/') {
        Some(("", "")) => None,
        Some(("", _)) => Some("/"),
        Some((above, _)) => Some(above),
        None if path == "." => None,
        None => Some("."),
    }
}
