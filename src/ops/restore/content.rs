//! The bytes of files: written where they are missing or differ, proven where the snapshot has a digest.

use std::ops::Range;

use rustix::io::Errno;

use crate::codec::digest::RegionHasher;
use crate::id::BlobId;
use crate::repository::error::Result as RepositoryResult;
use crate::repository::reader::Blob;
use crate::target::files::{Existing, TargetFile};
use crate::tree::entry::{Content, Entry, Extent, FileContent, Node};
use crate::view::Extents;

use super::work::{Failure, Item, Work, add};

static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// What writing a range came to.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Tally {
    /// Bytes of content written.
    pub(super) written: u64,
    /// Bytes of content that were there.
    pub(super) unchanged: u64,
    /// Whether the file is another than before.
    pub(super) is_changed: bool,
}

/// Where a range is written.
pub(super) struct Destination<'f> {
    /// `None`: nowhere, because a dry run would only make the file.
    pub(super) file: Option<&'f TargetFile>,
    /// How many bytes it had: what is there is compared before it is written.
    pub(super) present: u64,
    /// Each chunk is proven by itself, though the file has a digest.
    pub(super) one_by_one: bool,
}

impl<'f> Destination<'f> {
    /// A file, or nowhere, that had so many bytes.
    pub(super) fn new(file: Option<&'f TargetFile>, present: u64) -> Self {
        Destination { file, present, one_by_one: false }
    }

    /// A file whose content did not have the digest that the snapshot has: what is wrong in it is found and written
    /// once more.
    pub(super) fn once_more(file: &'f TargetFile, size: u64) -> Self {
        Destination { file: Some(file), present: size, one_by_one: true }
    }
}

impl Work<'_, '_> {
    /// Makes a file.
    pub(super) fn fill_new(&self, item: &Item) -> Result<(), Failure> {
        let (directory, entry) = (&item.directory, &item.entry);
        let Node::File(content) = &entry.node else { return Ok(()) };
        if self.options.dry_run {
            let tally = self.write_content(&Destination::new(None, 0), content)?;
            self.count(&tally, true);
            self.succeed(item);
            return Ok(());
        }
        let file = self.target.create_file(directory, &entry.name, &entry.metadata)?;
        let destination = Destination::new(Some(&file), 0);
        let filled = self.write_content(&destination, content).and_then(|tally| {
            let length = content.size;
            // What was written last may end before the file does.
            if tally.written < length {
                file.set_length(length)?;
            }
            self.verify(&file, entry)?;
            Ok(tally)
        });
        match filled {
            Ok(tally) => {
                let failures = self.target.finish_new_file(directory, &file, &entry.metadata);
                if !failures.is_empty() {
                    self.report_metadata(&item.path(), &failures);
                }
                self.count(&tally, true);
                self.succeed(item);
                Ok(())
            }
            Err(failure) => {
                // Nothing wrong is left. If even this fails, the file is reported all the same.
                let _ = self.target.remove_file(directory, &entry.name);
                Err(failure)
            }
        }
    }

    /// Brings a file that is there up to date, keeping it the same file.
    pub(super) fn update(&self, item: &Item, existing: &Existing) -> Result<(), Failure> {
        let (directory, entry) = (&item.directory, &item.entry);
        let Node::File(content) = &entry.node else { return Ok(()) };
        let dry_run = self.options.dry_run;
        let opened = match dry_run {
            true => self.target.read_file(directory, &entry.name),
            false => self.target.open_file(directory, &entry.name),
        };
        let file = match opened {
            // A program that is running cannot be written, but another can take its name.
            Err(error) if error.raw_os_error() == Some(Errno::TXTBSY.raw_os_error()) => {
                self.target.remove_file(directory, &entry.name)?;
                return self.fill_new(item);
            }
            opened => opened?,
        };
        let incomplete = |failure| match failure {
            Failure::Entry(message) => {
                Failure::Entry(format!("{message}; the file that was there is not complete"))
            }
            stop => stop,
        };
        let destination = Destination::new(Some(&file), existing.size);
        let mut tally = self.write_content(&destination, content).map_err(incomplete)?;
        if existing.size != content.size {
            tally.is_changed = true;
            if !dry_run {
                file.set_length(content.size)?;
            }
        }
        self.count(&tally, tally.is_changed);
        if !dry_run {
            self.verify(&file, entry)?;
            let failures = self.target.finish_existing_file(
                &file,
                &entry.metadata,
                existing,
                tally.is_changed,
            );
            self.report_metadata(&item.path(), &failures);
        }
        self.succeed(item);
        Ok(())
    }

    pub(super) fn count(&self, tally: &Tally, is_changed: bool) {
        let counts = &self.counts;
        add(if is_changed { &counts.files_restored } else { &counts.files_unchanged }, 1);
        add(&counts.bytes_written, tally.written);
        add(&counts.bytes_unchanged, tally.unchanged);
    }

    /// Writes all the content of a file that is not large, and checks its digest.
    fn write_content(
        &self,
        destination: &Destination<'_>,
        content: &FileContent,
    ) -> Result<Tally, Failure> {
        let naming = self.naming();
        let mut hasher = content.digest.map(|_| naming.region_hasher());
        let range = 0..content.size;
        let tally = match &content.content {
            Content::Inline(bytes) => {
                let mut tally = Tally::default();
                if !bytes.is_empty() {
                    self.write_bytes(destination, bytes, 0, &mut tally)?;
                }
                return Ok(tally);
            }
            Content::Extents(_) | Content::List { .. } => {
                let extents = Extents::new(self.trees, content);
                self.write_extents(destination, with_offsets(extents), &range, hasher.as_mut())?
            }
        };
        if let (Some(hasher), Some(digest), false) = (hasher, content.digest, self.options.dry_run)
            && naming.file_digest(&[hasher.finish()]) != digest
        {
            let Some(file) = destination.file.filter(|_| !destination.one_by_one) else {
                return Err(wrong_digest());
            };
            self.write_content(&Destination::once_more(file, content.size), content)?;
        }
        Ok(tally)
    }

    /// Bytes that stand in the entry itself.
    fn write_bytes(
        &self,
        destination: &Destination<'_>,
        bytes: &[u8],
        offset: u64,
        tally: &mut Tally,
    ) -> Result<(), Failure> {
        let length = bytes.len() as u64;
        if let Some(file) = destination.file {
            let mut present = vec![0; bytes.len()];
            if offset + length <= destination.present
                && file.read_at(&mut present, offset)? == bytes.len()
                && present == bytes
            {
                tally.unchanged += length;
                return Ok(());
            }
            if !self.options.dry_run {
                file.write_at(bytes, offset)?;
            }
        }
        tally.written += length;
        tally.is_changed = true;
        Ok(())
    }

    /// Writes the part of the extents that lies in `range`, and feeds that part to the hasher.
    pub(super) fn write_extents(
        &self,
        destination: &Destination<'_>,
        extents: impl Iterator<Item = RepositoryResult<(u64, Extent)>>,
        range: &Range<u64>,
        mut hasher: Option<&mut RegionHasher>,
    ) -> Result<Tally, Failure> {
        let mut tally = Tally::default();
        let mut buffer = Vec::new();
        for extent in extents {
            let (offset, extent) = extent.map_err(|error| self.repository_failure(error))?;
            let part = offset.max(range.start)..(offset + extent.length()).min(range.end);
            if part.is_empty() {
                continue;
            }
            let Extent::Data { blob, length } = extent else {
                self.write_hole(destination, &part, &mut tally)?;
                if let Some(hasher) = hasher.as_deref_mut() {
                    update_zeros(hasher, part.end - part.start);
                }
                continue;
            };
            let in_blob = (part.start - offset) as usize..(part.end - offset) as usize;
            if self.is_present(destination, &blob, offset, length, &mut buffer)? {
                tally.unchanged += part.end - part.start;
                if let Some(hasher) = hasher.as_deref_mut() {
                    hasher.update(&buffer[in_blob]);
                }
                continue;
            }
            tally.is_changed = true;
            if self.options.dry_run {
                self.would_read(&blob);
                tally.written += part.end - part.start;
                continue;
            }
            let is_proven = hasher.is_some() && !destination.one_by_one;
            let plain = self.fetch(&blob, length, is_proven)?;
            let plain = &plain[in_blob];
            if let Some(hasher) = hasher.as_deref_mut() {
                hasher.update(plain);
            }
            let Some(file) = destination.file else { continue };
            if self.options.sparse && destination.present == 0 {
                tally.written += file.write_sparse_at(plain, part.start)?;
            } else {
                file.write_at(plain, part.start)?;
                tally.written += plain.len() as u64;
            }
        }
        Ok(tally)
    }

    /// Whether the chunk is in its place already. If so, the buffer holds it.
    fn is_present(
        &self,
        destination: &Destination<'_>,
        blob: &BlobId,
        offset: u64,
        length: u64,
        buffer: &mut Vec<u8>,
    ) -> Result<bool, Failure> {
        let Some(file) = destination.file.filter(|_| offset + length <= destination.present) else {
            return Ok(false);
        };
        buffer.resize(length as usize, 0);
        let read = file.read_at(buffer, offset)?;
        Ok(read == buffer.len() && self.naming().data_id(buffer) == *blob)
    }

    fn write_hole(
        &self,
        destination: &Destination<'_>,
        part: &Range<u64>,
        tally: &mut Tally,
    ) -> Result<(), Failure> {
        let Some(file) = destination.file else { return Ok(()) };
        let present = part.start..part.end.min(destination.present);
        if present.is_empty() || file.is_zero(present.clone())? {
            return Ok(());
        }
        tally.is_changed = true;
        if !self.options.dry_run {
            file.punch_hole(present)?;
        }
        Ok(())
    }

    /// A chunk that is this long. `is_proven`: a digest of all that is fetched will tell if it is another.
    fn fetch(&self, id: &BlobId, length: u64, is_proven: bool) -> Result<Blob, Failure> {
        let fetched = match is_proven {
            true => self.data.unproven_data(id),
            false => self.data.data(id),
        };
        // One of another length is another one: where the right one is, is found by its name.
        let fetched = match fetched {
            Ok(blob) if is_proven && blob.len() as u64 != length => self.data.data(id),
            fetched => fetched,
        };
        let blob = fetched.map_err(|error| self.repository_failure(error))?;
        self.store_answered();
        if blob.len() as u64 != length {
            let message = format!("blob {} has another length than the file says", id.short());
            return Err(Failure::Entry(message));
        }
        Ok(blob)
    }

    /// Whether a file of the target has the content of an entry. Nothing is fetched but chunk lists.
    pub(super) fn holds_content(&self, file: &TargetFile, entry: &Entry) -> Result<bool, Failure> {
        let Node::File(content) = &entry.node else { return Ok(false) };
        if file.length()? != content.size {
            return Ok(false);
        }
        let destination = Destination::new(Some(file), content.size);
        if let Content::Inline(bytes) = &content.content {
            let mut present = vec![0; bytes.len()];
            return Ok(file.read_at(&mut present, 0)? == bytes.len() && present == **bytes);
        }
        let mut buffer = Vec::new();
        for extent in with_offsets(Extents::new(self.trees, content)) {
            let (offset, extent) = extent.map_err(|error| self.repository_failure(error))?;
            let holds = match extent {
                Extent::Hole { length } => file.is_zero(offset..offset + length)?,
                Extent::Data { blob, length } => {
                    self.is_present(&destination, &blob, offset, length, &mut buffer)?
                }
            };
            if !holds || self.is_stopped() {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

pub(super) fn wrong_digest() -> Failure {
    Failure::Entry("the file as a whole does not have the digest that the snapshot has".to_string())
}

/// Each extent with where it begins.
fn with_offsets(
    extents: impl Iterator<Item = RepositoryResult<Extent>>,
) -> impl Iterator<Item = RepositoryResult<(u64, Extent)>> {
    let mut next = 0;
    extents.map(move |extent| {
        let extent = extent?;
        let offset = next;
        next += extent.length();
        Ok((offset, extent))
    })
}

pub(super) fn update_zeros(hasher: &mut RegionHasher, mut length: u64) {
    while length > 0 {
        let part = length.min(ZEROS.len() as u64);
        hasher.update(&ZEROS[..part as usize]);
        length -= part;
    }
}
