//! Restore drills: files drawn at random are restored into memory, and their digests compared.
//!
//! Drawn from all that the snapshots hold: each version of a file counts once, however many snapshots have it
//! and however long it is. The walk hands in every file that it meets; of each, a hash of the name, the time and
//! what holds the content is taken under a random key, and those with the smallest hashes are drawn. So every
//! set of as many files is as likely, and only those drawn so far are kept (a bottom-k sample: Cohen and Kaplan,
//! "Summarizing Data using Bottom-k Sketches", PODC 2007). Memory: the entries that are drawn, and a chunk of a
//! file for each thread.

use std::collections::{BTreeMap, HashSet};

use parking_lot::Mutex;
use rayon::iter::{IntoParallelRefIterator, ParallelIterator};

use super::DrilledFile;
use crate::codec::digest::{DIGEST_REGION, NamingKeys, RegionHasher};
use crate::id::BlobId;
use crate::monitor::{Monitor, Phase, Progress};
use crate::ops::OpsError;
use crate::ops::findings::{Finding, Findings};
use crate::ops::walk::Place;
use crate::repository::Repository;
use crate::repository::error::RepositoryError;
use crate::repository::reader::BlobReader;
use crate::repository::verify::is_damage;
use crate::tree::entry::{Content, Entry, Extent, FileContent};
use crate::view::Extents;

/// Zeros are digested in pieces of so many bytes.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

struct Drawn {
    name: String,
    file: FileContent,
}

/// The files that are drawn so far. Shared by threads.
pub struct Drawing {
    count: usize,
    key: [u8; 32],
    drawn: Mutex<BTreeMap<[u8; 16], Drawn>>,
}

impl Drawing {
    /// So many files are to be drawn.
    pub fn new(count: u64, repository: &Repository) -> Result<Self, OpsError> {
        let key = repository.environment().chance.bytes()?;
        Ok(Drawing { count: count as usize, key, drawn: Mutex::default() })
    }

    /// Whether any are to be drawn.
    pub fn is_wanted(&self) -> bool {
        self.count > 0
    }

    /// Puts a file into the draw.
    pub fn offer(&self, place: &Place, entry: &Entry, file: &FileContent) {
        let lot = self.lot(entry, file);
        let mut drawn = self.drawn.lock();
        let is_full = drawn.len() >= self.count;
        if is_full && drawn.last_key_value().is_none_or(|(last, _)| lot >= *last) {
            return;
        }
        drawn.entry(lot).or_insert_with(|| {
            let name = place.join(&entry.name).to_string();
            Drawn { name, file: file.clone() }
        });
        if drawn.len() > self.count {
            drawn.pop_last();
        }
    }

    /// The same for the same version of a file wherever it stands, and random else.
    fn lot(&self, entry: &Entry, file: &FileContent) -> [u8; 16] {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher.update(&(entry.name.len() as u64).to_le_bytes());
        hasher.update(&entry.name);
        hasher.update(&entry.metadata.mtime.seconds.to_le_bytes());
        hasher.update(&entry.metadata.mtime.nanoseconds.to_le_bytes());
        hasher.update(&file.size.to_le_bytes());
        match &file.content {
            Content::Inline(bytes) => drop(hasher.update(bytes)),
            Content::List { root, .. } => drop(hasher.update(root.as_bytes())),
            Content::Extents(extents) => {
                for extent in extents {
                    match extent {
                        Extent::Data { blob, .. } => hasher.update(blob.as_bytes()),
                        Extent::Hole { length } => hasher.update(&length.to_le_bytes()),
                    };
                }
            }
        }
        let mut lot = [0; 16];
        hasher.finalize_xof().fill(&mut lot);
        lot
    }

    /// Restores what was drawn. Damage is in the answer and among the findings.
    pub fn restore(
        self,
        reader: &BlobReader<'_>,
        findings: &Findings,
        monitor: &dyn Monitor,
    ) -> Result<Vec<DrilledFile>, OpsError> {
        let mut drawn: Vec<_> = self.drawn.into_inner().into_values().collect();
        if drawn.is_empty() {
            return Ok(Vec::new());
        }
        drawn.sort_by(|one, other| one.name.cmp(&other.name));
        monitor.phase(Phase::CheckData);
        let bytes = drawn.iter().map(|drawn| drawn.file.size).sum();
        monitor.expect(Progress { files: drawn.len() as u64, bytes });
        thaw(reader, &drawn)?;
        let naming = reader.repository().naming();
        let zeros = naming.region_digest(&vec![0; DIGEST_REGION as usize]);
        let restore = |drawn: &Drawn| {
            monitor.current(&drawn.name);
            let mut digest = WholeDigest::new(naming, zeros);
            let error = match restore(reader, &drawn.file, &mut digest, monitor) {
                Ok(()) => None,
                Err(Failure::Ops(error)) => return Err(error),
                Err(Failure::Damage(blob, error)) => {
                    let finding = match blob {
                        Some(blob) => {
                            Finding::of_blob(&blob, error.item.clone(), error.message.clone())
                        }
                        None => {
                            let item = format!("file {}", drawn.name);
                            let mut finding =
                                Finding::of_object(item, error.message.clone(), Vec::new());
                            finding.hit(drawn.name.clone());
                            finding
                        }
                    };
                    findings.add(finding);
                    Some(error.to_string())
                }
            };
            monitor.advance(Progress { files: 1, bytes: 0 });
            Ok(DrilledFile { name: drawn.name.clone(), size: drawn.file.size, error })
        };
        drawn.par_iter().map(restore).collect()
    }
}

/// Has the packs thawed that these files are read from.
fn thaw(reader: &BlobReader<'_>, drawn: &[Drawn]) -> Result<(), OpsError> {
    let repository = reader.repository();
    if !repository.thaws() {
        return Ok(());
    }
    let mut packs = HashSet::new();
    for drawn in drawn {
        // What cannot be read, or is nowhere, is found when the file is restored.
        for extent in Extents::new(reader, &drawn.file).map_while(Result::ok) {
            if let Extent::Data { blob, .. } = extent {
                packs.extend(reader.packs_of(&blob).unwrap_or_default());
            }
        }
    }
    Ok(repository.thaw(&repository.cold_packs(packs)?)?)
}

enum Failure {
    /// The file is damaged: this blob of it, or the file as a whole.
    Damage(Option<BlobId>, RepositoryError),
    /// The drill cannot go on.
    Ops(OpsError),
}

fn failure(blob: Option<BlobId>, error: RepositoryError) -> Failure {
    match is_damage(&error) {
        true => Failure::Damage(blob, error),
        false => Failure::Ops(error.into()),
    }
}

/// Reads a file chunk by chunk and compares size and digest. Blobs are compared with their ids by the reader.
fn restore(
    reader: &BlobReader<'_>,
    file: &FileContent,
    digest: &mut WholeDigest<'_>,
    monitor: &dyn Monitor,
) -> Result<(), Failure> {
    let wrong = |message: &str| Failure::Damage(None, RepositoryError::corrupt("file", message));
    if let Content::Inline(bytes) = &file.content {
        digest.update(bytes);
    }
    for extent in Extents::new(reader, file) {
        if monitor.interrupted() {
            return Err(Failure::Ops(OpsError::Interrupted));
        }
        match extent.map_err(|error| failure(None, error))? {
            Extent::Data { blob, length } => {
                let bytes = reader.data(&blob).map_err(|error| failure(Some(blob), error))?;
                if bytes.len() as u64 != length {
                    return Err(wrong("a chunk has another length than the file says"));
                }
                digest.update(&bytes);
                monitor.advance(Progress { files: 0, bytes: length });
            }
            Extent::Hole { length } => {
                digest.update_zeros(length);
                monitor.advance(Progress { files: 0, bytes: length });
            }
        }
    }
    let (size, found) = digest.finish();
    if size != file.size {
        return Err(wrong("its content has another length than its size says"));
    }
    match file.digest {
        Some(wanted) if wanted != found => {
            Err(wrong("the file as a whole does not have the digest that the snapshot has"))
        }
        _ => Ok(()),
    }
}

/// The digest of a whole file, while its bytes arrive in order.
struct WholeDigest<'n> {
    naming: &'n NamingKeys,
    /// The digest of a region of zeros.
    zeros: [u8; 32],
    hasher: RegionHasher,
    /// Bytes of the region that is not full.
    filled: u64,
    regions: Vec<[u8; 32]>,
}

impl<'n> WholeDigest<'n> {
    fn new(naming: &'n NamingKeys, zeros: [u8; 32]) -> Self {
        let hasher = naming.region_hasher();
        WholeDigest { naming, zeros, hasher, filled: 0, regions: Vec::new() }
    }

    fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = (DIGEST_REGION - self.filled).min(bytes.len() as u64) as usize;
            let (now, rest) = bytes.split_at(room);
            self.hasher.update(now);
            self.filled += room as u64;
            if self.filled == DIGEST_REGION {
                self.close();
            }
            bytes = rest;
        }
    }

    /// A region that is nothing but zeros costs nothing.
    fn update_zeros(&mut self, mut length: u64) {
        while length > 0 {
            if self.filled == 0 && length >= DIGEST_REGION {
                self.regions.push(self.zeros);
                length -= DIGEST_REGION;
            } else {
                let piece = length.min(ZEROS.len() as u64).min(DIGEST_REGION - self.filled);
                self.update(&ZEROS[..piece as usize]);
                length -= piece;
            }
        }
    }

    fn close(&mut self) {
        let full = std::mem::replace(&mut self.hasher, self.naming.region_hasher());
        self.regions.push(full.finish());
        self.filled = 0;
    }

    /// How many bytes there were, and their digest.
    fn finish(&mut self) -> (u64, [u8; 32]) {
        let size = self.regions.len() as u64 * DIGEST_REGION + self.filled;
        if self.filled > 0 || self.regions.is_empty() {
            self.close();
        }
        (size, self.naming.file_digest(&self.regions))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_the_same_however_the_bytes_and_holes_arrive() {
        let naming = NamingKeys::new(&[1; 32]);
        let region = DIGEST_REGION as usize;
        let zeros = naming.region_digest(&vec![0; region]);
        for (before, hole, after) in
            [(0, 0, 0), (0, region, 0), (5, region, 0), (5, 3 * region, 7), (region, region, 1)]
        {
            let mut whole = vec![7; before];
            whole.resize(before + hole, 0);
            whole.extend(vec![9; after]);
            let mut regions: Vec<_> =
                whole.chunks(region).map(|bytes| naming.region_digest(bytes)).collect();
            if regions.is_empty() {
                regions.push(naming.region_digest(&[]));
            }
            let mut digest = WholeDigest::new(&naming, zeros);
            digest.update(&vec![7; before]);
            digest.update_zeros(hole as u64);
            digest.update(&vec![9; after]);
            assert_eq!(digest.finish(), (whole.len() as u64, naming.file_digest(&regions)));
        }
    }
}
