//! Reads files and cuts them: what one worker does with one file, or with one region of a large one.

use std::ops::Range;
use std::sync::Arc;
use std::sync::OnceLock;

use super::old::{Alignment, OldChunks};
use crate::codec::chunker::Chunker;
use crate::codec::digest::{DIGEST_REGION, NamingKeys, RegionHasher};
use crate::monitor::{Monitor, Progress};
use crate::ops::OpsError;
use crate::repository::delta::DeltaWriter;
use crate::repository::error::RepositoryError;
use crate::repository::writer::SegmentWriter;
use crate::source::{OpenFile, SourceError};
use crate::tree::entry::{Content, Extent, FileContent};

/// A file up to this long stands in its directory entry: naming a blob would take as much.
pub const INLINE_LENGTH: u64 = 48;
/// Bytes that are read at a time from a file that is cut.
const WINDOW: usize = 1 << 20;
/// Large files are cut in regions of this many bytes, each from its start, so that all cores can work
/// on one file. Measured to cost nothing in size (`docs/design/0001-sizes.md`).
pub const REGION: u64 = 2 * DIGEST_REGION;

/// Why a file's content could not be had.
#[derive(Debug)]
pub enum ContentError {
    /// The source failed: this file is passed over.
    Read(std::io::Error),
    /// What was read must not be kept: the backup fails.
    Source(SourceError),
    /// The repository failed: the backup stops.
    Repository(RepositoryError),
    /// A person asked to stop.
    Interrupted,
}

impl From<RepositoryError> for ContentError {
    fn from(error: RepositoryError) -> Self {
        ContentError::Repository(error)
    }
}

impl From<std::io::Error> for ContentError {
    fn from(error: std::io::Error) -> Self {
        ContentError::Read(error)
    }
}

impl From<ContentError> for OpsError {
    fn from(error: ContentError) -> Self {
        match error {
            ContentError::Read(error) => {
                OpsError::Source(SourceError::Io { item: "source".into(), error })
            }
            ContentError::Source(error) => OpsError::Source(error),
            ContentError::Repository(error) => OpsError::Repository(error),
            ContentError::Interrupted => OpsError::Interrupted,
        }
    }
}

/// What every worker needs and none changes.
pub struct Cutting<'a> {
    pub chunker: &'a Chunker,
    pub naming: &'a NamingKeys,
    /// Digest of a whole region of zeros, when somebody has asked for it: it costs hashing 16 MiB.
    pub zero_region: &'a OnceLock<[u8; 32]>,
    pub monitor: &'a dyn Monitor,
}

/// What a worker keeps from one file to the next.
pub struct Worker<'w> {
    segments: SegmentWriter<'w>,
    deltas: Option<DeltaWriter<'w>>,
    window: Vec<u8>,
}

impl<'w> Worker<'w> {
    pub fn new(segments: SegmentWriter<'w>, deltas: Option<DeltaWriter<'w>>) -> Self {
        Worker { segments, deltas, window: Vec::new() }
    }

    /// Closes what is open.
    pub fn flush(&mut self) -> Result<(), RepositoryError> {
        if let Some(deltas) = &mut self.deltas {
            deltas.flush(&mut self.segments)?;
        }
        self.segments.flush()
    }
}

/// The extents and digests of a part of a file that begins at a multiple of [`REGION`].
#[derive(Default)]
pub struct RegionContent {
    pub extents: Vec<Extent>,
    pub digests: Vec<[u8; 32]>,
    /// Bytes that were found; less than asked for when the file has become shorter.
    pub length: u64,
}

/// What comes of cutting.
struct Cut<'c, 'a> {
    extents: &'c mut Vec<Extent>,
    digester: &'c mut Digester<'a>,
    alignment: &'c mut Alignment<'a>,
}

/// Digests the bytes of a file region by region.
struct Digester<'a> {
    cutting: &'a Cutting<'a>,
    hasher: Option<RegionHasher>,
    in_region: u64,
    digests: Vec<[u8; 32]>,
}

impl<'a> Digester<'a> {
    fn new(cutting: &'a Cutting<'a>) -> Self {
        Digester { cutting, hasher: None, in_region: 0, digests: Vec::new() }
    }

    fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let taken = bytes.len().min((DIGEST_REGION - self.in_region) as usize);
            let naming = self.cutting.naming;
            self.hasher.get_or_insert_with(|| naming.region_hasher()).update(&bytes[..taken]);
            self.advance(taken as u64);
            bytes = &bytes[taken..];
        }
    }

    fn zeros(&mut self, mut length: u64) {
        static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
        while length > 0 {
            if self.in_region == 0 && length >= DIGEST_REGION {
                let Cutting { naming, zero_region, .. } = self.cutting;
                let compute = || naming.region_digest(&vec![0; DIGEST_REGION as usize]);
                self.digests.push(*zero_region.get_or_init(compute));
                length -= DIGEST_REGION;
                continue;
            }
            let step = length.min(ZEROS.len() as u64).min(DIGEST_REGION - self.in_region);
            self.update(&ZEROS[..step as usize]);
            length -= step;
        }
    }

    fn advance(&mut self, length: u64) {
        self.in_region += length;
        if self.in_region == DIGEST_REGION {
            self.close();
        }
    }

    fn close(&mut self) {
        if let Some(hasher) = self.hasher.take() {
            self.digests.push(hasher.finish());
        }
        self.in_region = 0;
    }

    fn finish(mut self) -> Vec<[u8; 32]> {
        self.close();
        self.digests
    }
}

impl Worker<'_> {
    /// Reads a file that is no longer than a chunk's least length: one blob, read to where it is packed.
    pub fn read_small(
        &mut self,
        file: &dyn OpenFile,
        size: u64,
        old: &OldChunks,
    ) -> Result<FileContent, ContentError> {
        let buffer = self.segments.buffer();
        let start = buffer.len();
        // One byte more, so that the end of the file is seen by the same call.
        buffer.resize(start + size as usize + 1, 0);
        let mut length = 0;
        loop {
            let buffer = self.segments.buffer();
            let room = &mut buffer[start + length..];
            if room.is_empty() {
                // It has grown: the caller sees so by its stat, and reads it again.
                break;
            }
            match file.read_at(room, length as u64) {
                Ok(0) => break,
                Ok(read) if read < room.len() => {
                    length += read;
                    if length as u64 == size {
                        break;
                    }
                }
                Ok(read) => length += read,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => {
                    buffer.truncate(start);
                    return Err(error.into());
                }
            }
        }
        let buffer = self.segments.buffer();
        buffer.truncate(start + length);
        if length as u64 <= INLINE_LENGTH {
            let content = Content::Inline(buffer[start..].into());
            buffer.truncate(start);
            return Ok(FileContent { size: length as u64, content, digest: None });
        }
        let blob = match &mut self.deltas {
            Some(deltas) if !old.0.is_empty() => {
                let (blob, new) = self.segments.claim_tail(start)?;
                if new {
                    let plain = self.segments.buffer().split_off(start);
                    let near = Alignment::new(old).near(0, plain.len());
                    deltas.push(blob, &plain, &near, &mut self.segments)?;
                }
                blob
            }
            _ => self.segments.put_tail(start)?.0,
        };
        let extents = vec![Extent::Data { blob, length: length as u64 }];
        let content = Content::Extents(extents);
        Ok(FileContent { size: length as u64, content, digest: None })
    }

    /// Reads and cuts `from..to` of a file, where `from` is a multiple of [`REGION`]; holes stay holes. `old`: what
    /// stood there, and a little around it, in the file's last version.
    pub fn read_region<'c>(
        &mut self,
        cutting: &'c Cutting<'c>,
        file: &dyn OpenFile,
        from: u64,
        to: u64,
        old: &'c OldChunks,
    ) -> Result<RegionContent, ContentError> {
        let mut region = RegionContent::default();
        let mut digester = Digester::new(cutting);
        let mut alignment = Alignment::new(old);
        let mut at = from;
        while at < to {
            let data = file.next_data(at, to)?;
            let start = data.as_ref().map_or(to, |data| data.start.clamp(at, to));
            if start > at {
                region.extents.push(Extent::Hole { length: start - at });
                digester.zeros(start - at);
                cutting.monitor.advance(Progress { files: 0, bytes: start - at });
                at = start;
            }
            let Some(data) = data else { break };
            let end = data.end.clamp(at, to);
            let mut cut = Cut {
                extents: &mut region.extents,
                digester: &mut digester,
                alignment: &mut alignment,
            };
            let read = self.cut(cutting, file, at..end, &mut cut)?;
            at += read;
            if at < end {
                break;
            }
        }
        region.length = at - from;
        region.digests = digester.finish();
        Ok(region)
    }

    /// Reads and cuts a range, which holds no hole. Returns how many bytes there were.
    fn cut(
        &mut self,
        cutting: &Cutting<'_>,
        file: &dyn OpenFile,
        range: Range<u64>,
        cut: &mut Cut<'_, '_>,
    ) -> Result<u64, ContentError> {
        let Range { start: from, end: to } = range;
        let maximum = cutting.chunker.params().maximum as usize;
        let capacity = WINDOW.max(2 * maximum);
        self.window.resize(capacity, 0);
        let (mut filled, mut used) = (0, 0);
        let mut at = from;
        loop {
            // Fill the window, so that a whole chunk is seen unless the end is near.
            let mut ended = at == to;
            while !ended && filled < capacity {
                let wanted = (capacity - filled).min((to - at).min(WINDOW as u64) as usize);
                match file.read_at(&mut self.window[filled..filled + wanted], at) {
                    Ok(0) => ended = true,
                    Ok(read) => {
                        cut.digester.update(&self.window[filled..filled + read]);
                        filled += read;
                        at += read as u64;
                        ended = at == to;
                    }
                    Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error.into()),
                }
            }
            while filled - used >= maximum || (ended && filled > used) {
                let length = cutting.chunker.cut(&self.window[used..filled]);
                let chunk = &self.window[used..used + length];
                let blob = match &mut self.deltas {
                    Some(deltas) if cut.alignment.has_any() => {
                        let offset = at - (filled - used) as u64;
                        let (blob, new) = self.segments.claim(chunk)?;
                        if new {
                            let near = cut.alignment.near(offset, length);
                            deltas.push(blob, chunk, &near, &mut self.segments)?;
                        } else {
                            cut.alignment.found(&blob, offset);
                        }
                        blob
                    }
                    _ => self.segments.put(chunk)?.0,
                };
                cut.extents.push(Extent::Data { blob, length: length as u64 });
                used += length;
            }
            cutting.monitor.advance(Progress { files: 0, bytes: used as u64 });
            self.window.copy_within(used..filled, 0);
            filled -= used;
            used = 0;
            if ended {
                return Ok(at - from);
            }
            if cutting.monitor.interrupted() {
                return Err(ContentError::Interrupted);
            }
        }
    }

    /// Reads a stream to its end, region by region, and hands each on.
    pub fn read_stream(
        &mut self,
        cutting: &Cutting<'_>,
        file: &Arc<dyn OpenFile>,
        mut hand_on: impl FnMut(RegionContent) -> bool,
    ) -> Result<(), ContentError> {
        let mut from = 0;
        loop {
            let old = OldChunks::default();
            let region = self.read_region(cutting, file.as_ref(), from, from + REGION, &old)?;
            let length = region.length;
            if length > 0 && !hand_on(region) {
                return Err(ContentError::Interrupted);
            }
            from += length;
            if length < REGION {
                file.finish().map_err(ContentError::Source)?;
                return Ok(());
            }
        }
    }
}
