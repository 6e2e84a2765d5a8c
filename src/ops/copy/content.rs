//! The bytes of files: read from the source and proven there, stored in the target under its names.

use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::Ordering;

use super::walk::Pipeline;
use crate::codec::digest::{DIGEST_REGION, NamingKeys, RegionHasher};
use crate::id::BlobId;
use crate::monitor::Progress;
use crate::ops::OpsError;
use crate::repository::error::RepositoryError;
use crate::repository::verify::is_damage;
use crate::repository::writer::SegmentWriter;
use crate::tree::entry::{Content, Extent, FileContent};

static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// Why a file could not be copied.
#[derive(Debug)]
pub enum Failure {
    /// It cannot be read from the source: the file is named.
    Damage(String),
    /// The copy cannot go on.
    Stop(OpsError),
}

impl Failure {
    /// What the source said.
    pub fn of_source(error: RepositoryError) -> Self {
        match is_damage(&error) {
            true => Failure::Damage(error.to_string()),
            false => Failure::Stop(error.into()),
        }
    }

    /// What the target said: never damage of the source, whatever kind it is.
    pub fn of_target(error: RepositoryError) -> Self {
        Failure::Stop(error.into())
    }
}

/// A part of a file that begins at a multiple of [`DIGEST_REGION`] and is at most so long.
pub struct Piece {
    pub range: Range<u64>,
    /// The extents that reach into it, each with where it begins in the file. One that begins in the piece before is there
    /// for its bytes only.
    pub extents: Vec<(u64, Extent)>,
    /// Whether the file has a digest.
    pub has_digest: bool,
}

impl Piece {
    /// The blobs that are read for it.
    pub fn blobs(&self) -> impl Iterator<Item = &BlobId> {
        self.extents.iter().filter_map(|(_, extent)| match extent {
            Extent::Data { blob, .. } => Some(blob),
            Extent::Hole { .. } => None,
        })
    }
}

/// What a piece became.
#[derive(Debug, Default)]
pub struct Copied {
    /// Those that begin in it, under their new names.
    pub extents: Vec<Extent>,
    /// Digests of the piece under the keys of the source and of the target.
    pub digests: Option<[[u8; 32]; 2]>,
}

/// The digests of a piece while its bytes go by.
struct Digester<'n> {
    naming: [&'n NamingKeys; 2],
    zero_regions: &'n [OnceLock<[u8; 32]>; 2],
    hashers: [RegionHasher; 2],
}

impl<'n> Digester<'n> {
    fn new(pipeline: &'n Pipeline<'_>) -> Self {
        let naming = [pipeline.data.repository().naming(), pipeline.writer.repository().naming()];
        let hashers = naming.map(NamingKeys::region_hasher);
        Digester { naming, zero_regions: &pipeline.zero_regions, hashers }
    }

    fn update(&mut self, bytes: &[u8]) {
        self.hashers.iter_mut().for_each(|hasher| hasher.update(bytes));
    }

    fn zeros(&mut self, mut length: u64) {
        while length > 0 {
            let step = length.min(ZEROS.len() as u64);
            self.update(&ZEROS[..step as usize]);
            length -= step;
        }
    }

    /// The digests of a whole region of zeros, which are computed once.
    fn of_zero_region(&self) -> [[u8; 32]; 2] {
        let digest = |side: usize| {
            let naming = self.naming[side];
            let compute = || naming.region_digest(&vec![0; DIGEST_REGION as usize]);
            *self.zero_regions[side].get_or_init(compute)
        };
        [digest(0), digest(1)]
    }

    fn finish(self) -> [[u8; 32]; 2] {
        self.hashers.map(RegionHasher::finish)
    }
}

/// Copies a piece of a file.
pub fn copy_piece(
    pipeline: &Pipeline<'_>,
    segments: &mut SegmentWriter<'_>,
    piece: &Piece,
) -> Result<Copied, Failure> {
    let range = &piece.range;
    let mut copied = Copied::default();
    let mut digester = piece.has_digest.then(|| Digester::new(pipeline));
    if let ([(_, Extent::Hole { .. })], Some(digests)) = (&piece.extents[..], &digester)
        && range.end - range.start == DIGEST_REGION
    {
        let length = DIGEST_REGION;
        copied.extents.push(Extent::Hole { length });
        copied.digests = Some(digests.of_zero_region());
        pipeline.monitor.advance(Progress { files: 0, bytes: length });
        return Ok(copied);
    }
    for (start, extent) in &piece.extents {
        let end = start + extent.length();
        let span = range.start.max(*start)..range.end.min(end);
        match extent {
            Extent::Hole { .. } => {
                let length = span.end - span.start;
                copied.extents.push(Extent::Hole { length });
                if let Some(digester) = &mut digester {
                    digester.zeros(length);
                }
            }
            Extent::Data { blob, length } => {
                let bytes = pipeline.data.data(blob).map_err(Failure::of_source)?;
                if bytes.len() as u64 != *length {
                    return Err(Failure::Damage(format!(
                        "blob {} is {} bytes long, and not {length} as the file says",
                        blob.short(),
                        bytes.len()
                    )));
                }
                if let Some(digester) = &mut digester {
                    digester
                        .update(&bytes[(span.start - start) as usize..(span.end - start) as usize]);
                }
                if *start >= range.start {
                    let (blob, _) = segments.put(&bytes).map_err(Failure::of_target)?;
                    copied.extents.push(Extent::Data { blob, length: *length });
                }
                let counters = pipeline.counters;
                counters.bytes_read.fetch_add(span.end - span.start, Ordering::Relaxed);
            }
        }
        pipeline.monitor.advance(Progress { files: 0, bytes: span.end - span.start });
        if pipeline.monitor.interrupted() {
            return Err(Failure::Stop(OpsError::Interrupted));
        }
    }
    copied.digests = digester.map(Digester::finish);
    Ok(copied)
}

/// The digest for the target, when that of the source is what these pieces have. `None`: the file has none.
pub fn prove(
    pipeline: &Pipeline<'_>,
    wanted: Option<[u8; 32]>,
    digests: &[[[u8; 32]; 2]],
) -> Result<Option<[u8; 32]>, Failure> {
    let Some(wanted) = wanted else { return Ok(None) };
    let of = |side: usize| digests.iter().map(|both| both[side]).collect::<Vec<_>>();
    if pipeline.data.repository().naming().file_digest(&of(0)) != wanted {
        return Err(Failure::Damage(
            "its bytes are not those that were saved: they have another digest".into(),
        ));
    }
    Ok(Some(pipeline.writer.repository().naming().file_digest(&of(1))))
}

/// Bytes that stand in the entry: they were proven with it.
pub fn copy_inline(
    pipeline: &Pipeline<'_>,
    file: &FileContent,
    bytes: &[u8],
) -> Result<FileContent, Failure> {
    let digests = match file.digest {
        None => Vec::new(),
        Some(_) => {
            let mut digester = Digester::new(pipeline);
            digester.update(bytes);
            vec![digester.finish()]
        }
    };
    let digest = prove(pipeline, file.digest, &digests)?;
    Ok(FileContent { size: file.size, content: Content::Inline(bytes.into()), digest })
}
