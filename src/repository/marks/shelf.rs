//! Where marks stand from one collection to the next: in the cache folder, or, without one, in memory as long as the
//! repository is open.
//!
//! The folder `marks` holds a file for each run, and `state`, which says what they are:
//!
//! | what | bytes |
//! |---|---|
//! | magic | 8 |
//! | repository | 16 |
//! | number of snapshots, number of runs, little endian | 4, 4 |
//! | for each snapshot, sorted: id, root, height | 20, 32, 1 |
//! | for each run, the largest first: name, number of marks (little endian), hash of its fences | 16, 8, 32 |
//! | hash of all that | 32 |
//!
//! `state` is replaced at once, by one that is whole. Names of runs are random, so it never names a file that was made for
//! another one; where two processes write, the later state counts, and if a run that it names is gone, nothing is
//! remembered. Nothing waits for the disk: what a crash leaves half written does not fit its hash.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::run::{Run, RunInfo, RunName, RunWriter};
use super::{Mark, Marks, Root, Sums};
use crate::format::bytes::Reader;
use crate::id::{BlobId, RepositoryId, SessionId, SnapshotId};
use crate::repository::chance::Chance;
use crate::repository::index::IdRange;
use crate::repository::make_private_folder;

/// Changes whenever the layout does, or what a mark means.
const MAGIC: [u8; 8] = *b"aummrk01";
const STATE: &str = "state";
/// A run is merged with the smaller ones when it is at most this many times as large as they are together.
const MERGE_RATIO: u64 = 4;

/// Where the marks of one repository stand.
pub struct Shelf {
    repository: RepositoryId,
    folder: Option<PathBuf>,
    kept: Mutex<Option<Arc<Marks>>>,
}

/// What failed: what is written, or where it is written to.
enum Failed {
    Source(io::Error),
    Sink(io::Error),
}

fn fill(
    mut writer: RunWriter,
    rows: impl Iterator<Item = io::Result<Mark>>,
    path: Option<PathBuf>,
) -> Result<Run, Failed> {
    for row in rows {
        writer.push(&row.map_err(Failed::Source)?).map_err(Failed::Sink)?;
    }
    writer.finish(path).map_err(Failed::Sink)
}

impl Shelf {
    /// The shelf in this cache folder.
    pub fn new(repository: RepositoryId, cache_folder: Option<&Path>) -> Self {
        let folder = cache_folder.map(|folder| folder.join("marks"));
        Shelf { repository, folder, kept: Mutex::new(None) }
    }

    /// What was put here last; nothing when it is not whole, of another version or another repository's.
    pub fn take(&self) -> Option<Arc<Marks>> {
        match &self.folder {
            None => self.kept.lock().clone(),
            Some(folder) => {
                let state = fs::read(folder.join(STATE)).ok()?;
                let (roots, infos) = decode(&state, self.repository)?;
                let open = |info: &RunInfo| {
                    let path = folder.join(info.name.file_name());
                    Run::open(path, *info).ok()?.map(Arc::new)
                };
                let runs = infos.iter().map(open).collect::<Option<_>>()?;
                Some(Arc::new(Marks { roots, runs, is_broken: Arc::default() }))
            }
        }
    }

    /// Remembers these marks. Failing is of no consequence: what was remembered before goes on being right, for the
    /// snapshots that it names.
    pub fn put(&self, marks: &Arc<Marks>, chance: &Chance) {
        match &self.folder {
            None => *self.kept.lock() = Some(marks.clone()),
            Some(folder) => {
                let _ = self.publish(folder, marks, chance);
            }
        }
    }

    fn publish(&self, folder: &Path, marks: &Marks, chance: &Chance) -> io::Result<()> {
        let infos: Option<Vec<RunInfo>> = marks.runs.iter().map(|run| run.info()).collect();
        // There was no room for a file.
        let Some(infos) = infos else { return Ok(()) };
        let kept: Vec<String> = infos.iter().map(|info| info.name.file_name()).collect();
        if !kept.iter().all(|name| folder.join(name).exists()) {
            // Another process took them away.
            return Ok(());
        }
        let temporary = folder.join(format!("{}.new", new_name(chance)?.file_name()));
        let written = fs::write(&temporary, encode(self.repository, marks, &infos))
            .and_then(|()| fs::rename(&temporary, folder.join(STATE)));
        if let Err(error) = written {
            let _ = fs::remove_file(&temporary);
            return Err(error);
        }
        marks.runs.iter().for_each(|run| run.set_listed());
        for entry in fs::read_dir(folder)?.flatten() {
            let name = entry.file_name();
            if name != STATE && !kept.iter().any(|kept| name == kept.as_str()) {
                let _ = fs::remove_file(entry.path());
            }
        }
        Ok(())
    }

    /// Forgets what is remembered.
    pub fn forget(&self) {
        *self.kept.lock() = None;
        if let Some(folder) = &self.folder {
            let _ = fs::remove_file(folder.join(STATE));
        }
    }

    /// An empty file.
    fn create(&self, chance: &Chance) -> Option<(PathBuf, File, RunName)> {
        let folder = self.folder.as_ref()?;
        make_private_folder(folder).ok()?;
        let name = new_name(chance).ok()?;
        let path = folder.join(name.file_name());
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(0o600);
        Some((path.clone(), options.open(path).ok()?, name))
    }

    /// Writes a run, into a file if that is possible, and else into memory. A file that is not to be `named` ends with the
    /// process.
    pub(super) fn write<I: Iterator<Item = io::Result<Mark>>>(
        &self,
        chance: &Chance,
        named: bool,
        rows: impl Fn() -> I,
    ) -> io::Result<Run> {
        if let Some((path, file, name)) = self.create(chance) {
            if !named {
                fs::remove_file(&path)?;
            }
            let writer = RunWriter::new(Some(file), name);
            match fill(writer, rows(), named.then(|| path.clone())) {
                Ok(run) => return Ok(run),
                Err(failed) => {
                    let _ = fs::remove_file(&path);
                    if let Failed::Source(error) = failed {
                        return Err(error);
                    }
                }
            }
        }
        Self::write_to_memory(rows())
    }

    /// Writes a run into memory.
    pub(super) fn write_to_memory(rows: impl Iterator<Item = io::Result<Mark>>) -> io::Result<Run> {
        fill(RunWriter::new(None, RunName([0; 16])), rows, None).map_err(|failed| match failed {
            Failed::Source(error) | Failed::Sink(error) => error,
        })
    }

    /// Merges small runs with one another and with larger ones, so that there are few.
    pub(super) fn settle(
        &self,
        chance: &Chance,
        mut runs: Vec<Arc<Run>>,
        named: bool,
    ) -> io::Result<Vec<Arc<Run>>> {
        runs.sort_by_key(|run| std::cmp::Reverse(run.marks()));
        let mut marks = 0;
        let fits = |run: &&Arc<Run>| {
            let fits = marks == 0 || run.marks() <= MERGE_RATIO * marks;
            marks += run.marks();
            fits
        };
        let count = runs.iter().rev().take_while(fits).count();
        if count < 2 {
            return Ok(runs);
        }
        let merged = runs.split_off(runs.len() - count);
        let run = self.write(chance, named, || Sums::new(&merged, IdRange::ALL))?;
        if run.marks() > 0 {
            runs.push(Arc::new(run));
        }
        Ok(runs)
    }
}

fn new_name(chance: &Chance) -> io::Result<RunName> {
    chance.bytes().map(RunName).map_err(io::Error::other)
}

fn hash(bytes: &[u8]) -> [u8; 32] {
    blake3::derive_key("aumbry 2026 what marks are of", bytes)
}

fn encode(repository: RepositoryId, marks: &Marks, infos: &[RunInfo]) -> Vec<u8> {
    let mut bytes = [&MAGIC[..], repository.as_bytes()].concat();
    bytes.extend_from_slice(&(marks.roots.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&(infos.len() as u32).to_le_bytes());
    for (id, root) in &marks.roots {
        bytes.extend_from_slice(&id.0.to_bytes());
        bytes.extend_from_slice(root.blob.as_bytes());
        bytes.push(root.height);
    }
    for info in infos {
        bytes.extend_from_slice(&info.name.0);
        bytes.extend_from_slice(&info.marks.to_le_bytes());
        bytes.extend_from_slice(&info.hash);
    }
    let hash = hash(&bytes);
    bytes.extend_from_slice(&hash);
    bytes
}

/// Snapshots and runs of a state that [`encode`] wrote for this repository.
fn decode(bytes: &[u8], repository: RepositoryId) -> Option<(super::Roots, Vec<RunInfo>)> {
    let (bytes, stored) = bytes.split_last_chunk::<32>()?;
    if hash(bytes) != *stored {
        return None;
    }
    let mut reader = Reader::new(bytes);
    if reader.array::<8>().ok()? != MAGIC || reader.array().ok()? != repository.0 {
        return None;
    }
    let snapshots = u32::from_le_bytes(reader.array().ok()?);
    let runs = u32::from_le_bytes(reader.array().ok()?);
    let mut roots = BTreeMap::new();
    for _ in 0..snapshots {
        let id = SnapshotId(SessionId::from_bytes(reader.array().ok()?));
        let blob = BlobId(reader.array().ok()?);
        let [height] = reader.array().ok()?;
        roots.insert(id, Root { blob, height });
    }
    let mut infos = Vec::new();
    for _ in 0..runs {
        let name = RunName(reader.array().ok()?);
        let marks = u64::from_le_bytes(reader.array().ok()?);
        infos.push(RunInfo { name, marks, hash: reader.array().ok()? });
    }
    (reader.is_empty() && roots.len() == snapshots as usize).then_some((roots, infos))
}

#[cfg(test)]
#[path = "shelf_tests.rs"]
mod tests;
