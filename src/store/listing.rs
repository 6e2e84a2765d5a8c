//! Listings: of a folder, and of several at once where a service names things in their order.

use std::future::poll_fn;
use std::pin::Pin;
use std::thread;

use futures_core::Stream;
use opendal::options::ListOptions;
use opendal::{Entry, ErrorKind, Metadata, Operator};

use super::faulty::Call;
use super::tiers::is_of_packs;
use super::traffic::Sort;
use super::{BESIDE, Kind, ObjectInfo, Store, StoreError, Way, layout};
use crate::units::Timestamp;

/// How many names more than expected a page of a listing of several folders has room for, and how many that nobody
/// asked for it may have.
pub(super) const PAGE_MARGIN: usize = 100;
/// How many names a page has at most: few services give more, and B2 charges for each thousand.
pub(super) const PAGE_MOST: usize = 1000;

pub(super) fn check_prefix(prefix: &str) -> Result<(), StoreError> {
    if layout::is_prefix(prefix) {
        Ok(())
    } else {
        Err(StoreError::new(Kind::Invalid, prefix, "no folder can have this name"))
    }
}

impl Store {
    /// All objects whose names begin with `prefix`, at any depth, sorted by name. A prefix is a
    /// folder (`packs/`) or the beginning of names in a folder (`packs/3f/00000000-ab`). Nothing
    /// there is an empty list; a listing that breaks off is an error, never a short list.
    ///
    /// Costs memory by the number of objects, about 150 bytes each.
    pub fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>, StoreError> {
        match self.way() {
            Way::Several => self.list_of_several(prefix),
            Way::Tiers(tiers) => tiers.list(self, prefix),
            Way::Here => self.list_here(prefix),
        }
    }

    pub(super) fn list_here(&self, prefix: &str) -> Result<Vec<ObjectInfo>, StoreError> {
        check_prefix(prefix)?;
        self.call(prefix, "list", Call::Other, || {
            let entries = self.operate(prefix, Sort::List, 0, || {
                let limit = self.inner.page;
                let options = ListOptions { recursive: true, limit, ..ListOptions::default() };
                let operator = self.inner.handle.operator();
                async move { operator.list_options(prefix, options).await }
            })??;
            Ok(self.listed(entries.iter().filter(|entry| entry.path().starts_with(prefix))))
        })
    }

    /// The objects of these folders, which are given in the order of their names, sorted by name. One request where the
    /// service is known to list names in their order and few others are among them: it is asked for what begins as all of
    /// them do, and no longer than to the last of them. `expected` says about how many names there will be. Elsewhere a
    /// listing each, in this order.
    pub fn list_folders(
        &self,
        folders: &[&str],
        expected: usize,
    ) -> Result<Vec<ObjectInfo>, StoreError> {
        debug_assert!(folders.is_sorted());
        let is_split = self.tiers.is_some() && folders.iter().any(|folder| is_of_packs(folder));
        if self.inner.lists_in_order
            && !is_split
            && !self.has_mirrors()
            && let Some(listed) = self.list_in_order(folders, expected)?
        {
            return Ok(listed);
        }
        let mut all = Vec::new();
        for folder in folders {
            all.extend(self.list(folder)?);
        }
        Ok(all)
    }

    /// The same where it does not matter which folder is listed first: what are several listings are made at once, where
    /// each takes a round trip.
    pub fn list_folders_at_once(
        &self,
        folders: &[&str],
        expected: usize,
    ) -> Result<Vec<ObjectInfo>, StoreError> {
        if self.inner.lists_in_order || !self.answers_at_once() {
            return self.list_folders(folders, expected);
        }
        let listed: Vec<_> = thread::scope(|scope| {
            let threads: Vec<_> = folders
                .iter()
                .map(|folder| thread::Builder::new().spawn_scoped(scope, || self.list(folder)))
                .collect();
            let listed = threads.into_iter().zip(folders).map(|(thread, folder)| match thread {
                Ok(thread) => thread.join(),
                Err(_) => Ok(self.list(folder)),
            });
            listed.collect()
        });
        let mut all = Vec::new();
        for (listed, folder) in listed.into_iter().zip(folders) {
            let failed =
                |_| StoreError::new(Kind::Unavailable, folder, "a thread that lists failed");
            all.extend(listed.map_err(failed)??);
        }
        Ok(all)
    }

    /// `None`: the service does not list names in their order, or much lies between them.
    fn list_in_order(
        &self,
        folders: &[&str],
        expected: usize,
    ) -> Result<Option<Vec<ObjectInfo>>, StoreError> {
        let (Some(first), Some(last)) = (folders.first(), folders.last()) else {
            return Ok(Some(Vec::new()));
        };
        let common = first.bytes().zip(last.bytes()).take_while(|(one, other)| one == other);
        let prefix = &first[..common.count()];
        let is_wanted = |path: &str| folders.iter().any(|folder| path.starts_with(folder));
        self.call(&folders.join(" "), "list", Call::Other, || {
            // What lies before and between them, and the first few that lie behind.
            let page = (expected + PAGE_MARGIN).min(PAGE_MOST);
            let is_wanted = &is_wanted;
            let listed = self.operate(prefix, Sort::List, 0, || async move {
                let options =
                    ListOptions { recursive: true, limit: Some(page), ..ListOptions::default() };
                let operator = self.inner.handle.operator();
                let mut lister = operator.lister_options(prefix, options).await?;
                let mut wanted: Vec<Entry> = Vec::new();
                let mut unwanted = 0;
                let mut before = String::new();
                // Every repository has a config: where the listing is of everything, it comes at its place.
                let mut is_config_due = prefix.is_empty();
                while let Some(entry) =
                    poll_fn(|context| Pin::new(&mut lister).poll_next(context)).await
                {
                    let entry = entry?;
                    if *entry.path() < *before {
                        return Ok(None);
                    }
                    let is_beyond = entry.path() > *last && !entry.path().starts_with(last);
                    let is_wanted = is_wanted(entry.path());
                    is_config_due &= ![layout::CONFIG, layout::HOT_CONFIG].contains(&entry.path());
                    let is_late = is_config_due && entry.path() > layout::CONFIG;
                    if is_late && (is_beyond || is_wanted) {
                        return Ok(None);
                    }
                    if is_beyond {
                        break;
                    }
                    before = entry.path().to_string();
                    if is_wanted {
                        wanted.push(entry);
                    } else {
                        unwanted += 1;
                    }
                    // Pages of what nobody asked for cost more than a listing of each folder.
                    if unwanted > PAGE_MARGIN {
                        return Ok(None);
                    }
                }
                Ok(Some(wanted))
            })?;
            match listed {
                Ok(wanted) => Ok(wanted.map(|wanted| self.listed(wanted.iter()))),
                // Some servers list folders, and not what begins with part of a folder's name.
                Err(failed) if failed.status == Some(501) || failed.error.kind == Kind::Invalid => {
                    Ok(None)
                }
                Err(failed) => Err(failed.into()),
            }
        })
    }

    /// The object that has this very name, if there is one: the first of what begins so, for services whose own look takes
    /// the first of what begins so for it.
    pub(super) async fn look_closely(operator: Operator, name: &str) -> opendal::Result<Metadata> {
        let options = ListOptions { recursive: true, limit: Some(1), ..ListOptions::default() };
        let mut lister = operator.lister_options(name, options).await?;
        match poll_fn(|context| Pin::new(&mut lister).poll_next(context)).await {
            Some(entry) => {
                let (path, metadata) = entry?.into_parts();
                match path == name {
                    true => Ok(metadata),
                    false => Err(opendal::Error::new(ErrorKind::NotFound, "not found")),
                }
            }
            None => Err(opendal::Error::new(ErrorKind::NotFound, "not found")),
        }
    }

    fn listed<'e>(&self, entries: impl Iterator<Item = &'e Entry>) -> Vec<ObjectInfo> {
        let mut objects: Vec<ObjectInfo> = entries
            .filter(|entry| entry.metadata().is_file() && !entry.path().starts_with(BESIDE))
            .map(|entry| ObjectInfo {
                name: entry.path().to_string(),
                size: entry.metadata().content_length(),
                modified: modified(entry.metadata()),
            })
            .collect();
        if let Some(faults) = &self.faults {
            objects.retain(|object| faults.lists(&object.name));
        }
        objects.sort_unstable_by(|left, right| left.name.cmp(&right.name));
        objects
    }
}

fn modified(metadata: &Metadata) -> Option<Timestamp> {
    let moment = metadata.last_modified()?.into_inner();
    let since = moment.as_duration();
    // jiff counts the nanoseconds of a moment before 1970 backwards; a `Timestamp` never does.
    let nanoseconds = since.subsec_nanos().rem_euclid(1_000_000_000);
    let seconds = since.as_secs() - i64::from(since.subsec_nanos() < 0);
    Some(Timestamp { seconds, nanoseconds: nanoseconds.unsigned_abs() })
}
