//! The bytes of files: read from the source once and proven there, stored in each target under its names.

use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::Ordering;

use super::sides::{Segments, Sides};
use super::walk::Pipeline;
use crate::codec::digest::{DIGEST_REGION, NamingKeys, RegionHasher};
use crate::id::BlobId;
use crate::monitor::Progress;
use crate::ops::OpsError;
use crate::repository::error::RepositoryError;
use crate::repository::verify::is_damage;
use crate::tree::entry::{Content, Extent, FileContent};

static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// Why a file could not be copied, into whatever target.
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

/// Digests of a piece under the keys of the source, and of each target that it is for, in the order of their numbers.
#[derive(Debug, Clone)]
pub struct Digests {
    source: [u8; 32],
    targets: Vec<[u8; 32]>,
}

/// What a piece became.
#[derive(Debug)]
pub struct Copied {
    /// For each target that it is for: the extents that begin in it, under their new names. Of one that has failed, they
    /// mean nothing.
    pub extents: Vec<Vec<Extent>>,
    /// `None`: the file has no digest.
    pub digests: Option<Digests>,
}

/// The digests of a piece while its bytes go by.
struct Digester<'n> {
    naming: Vec<(&'n NamingKeys, &'n OnceLock<[u8; 32]>)>,
    hashers: Vec<RegionHasher>,
}

impl<'n> Digester<'n> {
    fn new(pipeline: &'n Pipeline<'_>, sides: Sides) -> Self {
        let source = (pipeline.data.repository().naming(), &pipeline.zero_region);
        let of_side = |number: usize| {
            let side = &pipeline.sides[number];
            (side.writer.repository().naming(), &side.zero_region)
        };
        let naming: Vec<_> = [source].into_iter().chain(sides.iter().map(of_side)).collect();
        let hashers = naming.iter().map(|(naming, _)| naming.region_hasher()).collect();
        Digester { naming, hashers }
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
    fn of_zero_region(&self) -> Digests {
        let digest = |(naming, known): &(&NamingKeys, &OnceLock<[u8; 32]>)| {
            let compute = || naming.region_digest(&vec![0; DIGEST_REGION as usize]);
            *known.get_or_init(compute)
        };
        Digests {
            source: digest(&self.naming[0]),
            targets: self.naming[1..].iter().map(digest).collect(),
        }
    }

    fn finish(self) -> Digests {
        let mut hashers = self.hashers.into_iter().map(RegionHasher::finish);
        let source = hashers.next().expect("the source is the first of them");
        Digests { source, targets: hashers.collect() }
    }
}

/// Copies a piece of a file into these targets.
pub fn copy_piece<'a>(
    pipeline: &'a Pipeline<'a>,
    segments: &mut Segments<'a>,
    piece: &Piece,
    sides: Sides,
) -> Result<Copied, Failure> {
    let range = &piece.range;
    let mut copied = Copied { extents: sides.iter().map(|_| Vec::new()).collect(), digests: None };
    let mut digester = piece.has_digest.then(|| Digester::new(pipeline, sides));
    if let ([(_, Extent::Hole { .. })], Some(digests)) = (&piece.extents[..], &digester)
        && range.end - range.start == DIGEST_REGION
    {
        let length = DIGEST_REGION;
        copied.extents.iter_mut().for_each(|extents| extents.push(Extent::Hole { length }));
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
                copied.extents.iter_mut().for_each(|extents| extents.push(Extent::Hole { length }));
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
                    for (number, extents) in sides.iter().zip(&mut copied.extents) {
                        let stored = segments.put(number, &pipeline.sides[number], &bytes);
                        extents.extend(stored.map(|blob| Extent::Data { blob, length: *length }));
                    }
                }
                let read = span.end - span.start;
                pipeline.bytes_read.fetch_add(read, Ordering::Relaxed);
                for number in sides.iter() {
                    pipeline.sides[number].bytes_read.fetch_add(read, Ordering::Relaxed);
                }
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

/// The digest for each of these targets, when that of the source is what these pieces have. `None`: the file has none.
pub fn prove(
    pipeline: &Pipeline<'_>,
    wanted: Option<[u8; 32]>,
    pieces: &[Digests],
    sides: Sides,
) -> Result<Vec<Option<[u8; 32]>>, Failure> {
    let Some(wanted) = wanted else { return Ok(sides.iter().map(|_| None).collect()) };
    let of_source: Vec<_> = pieces.iter().map(|digests| digests.source).collect();
    if pipeline.data.repository().naming().file_digest(&of_source) != wanted {
        return Err(Failure::Damage(
            "its bytes are not those that were saved: they have another digest".into(),
        ));
    }
    let of_target = |(at, number): (usize, usize)| {
        let pieces: Vec<_> = pieces.iter().map(|digests| digests.targets[at]).collect();
        Some(pipeline.sides[number].writer.repository().naming().file_digest(&pieces))
    };
    Ok(sides.iter().enumerate().map(of_target).collect())
}

/// Bytes that stand in the entry, for each of these targets: they were proven with it.
pub fn copy_inline(
    pipeline: &Pipeline<'_>,
    file: &FileContent,
    bytes: &[u8],
    sides: Sides,
) -> Result<Vec<FileContent>, Failure> {
    let pieces = match file.digest {
        None => Vec::new(),
        Some(_) => {
            let mut digester = Digester::new(pipeline, sides);
            digester.update(bytes);
            vec![digester.finish()]
        }
    };
    let of_digest = |digest| {
        let content = Content::Inline(bytes.into());
        FileContent { size: file.size, content, digest }
    };
    Ok(prove(pipeline, file.digest, &pieces, sides)?.into_iter().map(of_digest).collect())
}
