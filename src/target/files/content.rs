//! The bytes of a file in the target.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileExt;

use rustix::fs::FallocateFlags;
use rustix::fs::SeekFrom;
use rustix::fs::fallocate;
use rustix::fs::seek;
use rustix::io::Errno;

/// Smallest run of zeros that is worth a hole: a block of most file systems.
const BLOCK: usize = 4096;
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// An open regular file. Threads may write different parts of it at once.
pub struct TargetFile {
    file: File,
    /// The mode that it was made with, where that is certain.
    pub(super) mode: Option<u32>,
}

impl AsFd for TargetFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl TargetFile {
    pub(super) fn new(file: File, mode: Option<u32>) -> Self {
        TargetFile { file, mode }
    }

    /// Writes all bytes at `offset`.
    pub fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    /// Writes bytes at `offset` but leaves out whole blocks of zeros, which must not hold anything there
    /// yet. Returns how many bytes were written.
    pub fn write_sparse_at(&self, bytes: &[u8], offset: u64) -> io::Result<u64> {
        let mut written = 0;
        // Blocks lie where the file system has them, not where this piece begins.
        let lead = (BLOCK - (offset % BLOCK as u64) as usize) % BLOCK;
        let (first, rest) = bytes.split_at(lead.min(bytes.len()));
        let blocks = std::iter::once(first).chain(rest.chunks(BLOCK));
        let (mut start, mut end) = (0, 0);
        for block in blocks {
            if is_zero(block) {
                if end > start {
                    self.write_at(&bytes[start..end], offset + start as u64)?;
                    written += (end - start) as u64;
                }
                start = end + block.len();
            }
            end += block.len();
        }
        if end > start {
            self.write_at(&bytes[start..end], offset + start as u64)?;
            written += (end - start) as u64;
        }
        Ok(written)
    }

    /// Reads at `offset` until the buffer is full or the file ends; returns how many bytes.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.file.read_at(&mut buffer[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(length) => filled += length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    /// Cuts the file, or lengthens it by a hole.
    pub fn set_length(&self, length: u64) -> io::Result<()> {
        self.file.set_len(length)
    }

    /// Length in bytes.
    pub fn length(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    /// Whether the range, which lies within the file, reads as zeros. Holes are not read.
    pub fn is_zero(&self, range: Range<u64>) -> io::Result<bool> {
        let mut buffer = vec![0; ZEROS.len().min((range.end - range.start) as usize)];
        let mut at = range.start;
        while at < range.end {
            at = match seek(&self.file, SeekFrom::Data(at)) {
                Ok(data) if data < range.end => data,
                Ok(_) | Err(Errno::NXIO) => return Ok(true),
                // The file system cannot tell.
                Err(Errno::INVAL | Errno::NOTSUP) => at,
                Err(error) => return Err(error.into()),
            };
            let length = buffer.len().min((range.end - at) as usize);
            let read = self.read_at(&mut buffer[..length], at)?;
            if !is_zero(&buffer[..read]) {
                return Ok(false);
            }
            if read < length {
                return Ok(true);
            }
            at += read as u64;
        }
        Ok(true)
    }

    /// Makes the range read as zeros, taking no room where the file system can do that.
    pub fn punch_hole(&self, range: Range<u64>) -> io::Result<()> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match fallocate(&self.file, flags, range.start, range.end - range.start) {
            Err(Errno::NOTSUP | Errno::NOSYS | Errno::INVAL) => {}
            result => return Ok(result?),
        }
        let mut at = range.start;
        while at < range.end {
            let length = ZEROS.len().min((range.end - at) as usize);
            self.write_at(&ZEROS[..length], at)?;
            at += length as u64;
        }
        Ok(())
    }
}

/// Whether all bytes are zero.
fn is_zero(bytes: &[u8]) -> bool {
    // Compared block by block with known zeros, which the compiler turns into one comparison of memory.
    bytes.chunks(ZEROS.len()).all(|chunk| chunk == &ZEROS[..chunk.len()])
}
