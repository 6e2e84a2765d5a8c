//! Writing past the page cache, for large objects, where the file system can.
//!
//! What a backup writes is read again in months, if ever. Through the page cache it costs a copy, memory that the kernel
//! takes and clears page by page, and a walk over the pages when they are synced; and it pushes out what others
//! read. The bytes are the same, and so is what makes them durable: whoever calls syncs the file after it.

use opendal::Buffer;
use rustix::fd::OwnedFd;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl, fstatfs};
use rustix::io::{Errno, retry_on_intr, write};

/// Objects of at least so many bytes are written past the cache: smaller ones cost less than the wait for the disk.
pub(super) const LEAST: usize = 1 << 20;
/// What the disk's blocks divide, on every file system that can do this: where bytes may begin, in the file and in memory.
const BLOCK: usize = 4096;
/// Bytes of each write: 1 MiB was as fast as 2 and 16, and stays in the processor's cache.
const PIECE: usize = 256 * BLOCK;

/// NFS, SMB2, CIFS and FUSE, by the numbers that `statfs` tells: there the bytes go to somebody else, write by write, who
/// keeps them in a cache of his own.
const ELSEWHERE: [u32; 4] = [0x6969, 0xFE53_4D42, 0xFF53_4D42, 0x6573_5546];

/// Whether writing past the cache makes sense in this directory's file system.
pub(super) fn is_for(directory: &OwnedFd) -> bool {
    // The number has 32 bits, in a field whose width and sign differ from machine to machine.
    fstatfs(directory).is_ok_and(|told| !ELSEWHERE.contains(&(told.f_type as u32)))
}

/// Memory that begins at a block.
struct Aligned {
    memory: Vec<u8>,
    start: usize,
}

impl Aligned {
    fn new() -> Self {
        let memory = vec![0; PIECE + BLOCK];
        let start = memory.as_ptr().align_offset(BLOCK).min(BLOCK);
        Aligned { memory, start }
    }

    fn bytes(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + PIECE]
    }
}

/// A file that is written from its beginning to its end.
pub(super) struct Output<'f> {
    file: &'f OwnedFd,
    is_direct: bool,
}

impl<'f> Output<'f> {
    /// Writes past the cache from here on, if `is_wanted` and the file system can.
    pub(super) fn new(file: &'f OwnedFd, is_wanted: bool) -> Self {
        let is_direct = is_wanted && set_direct(file, true).is_ok();
        Output { file, is_direct }
    }

    /// Appends all the bytes.
    pub(super) fn write(mut self, bytes: &Buffer) -> Result<(), Errno> {
        if self.is_direct {
            return self.write_blocks(bytes);
        }
        bytes.clone().into_iter().try_for_each(|part| self.write_all(&part))
    }

    /// Appends them block by block, and what is no whole block through the cache.
    fn write_blocks(&mut self, bytes: &Buffer) -> Result<(), Errno> {
        let mut aligned = Aligned::new();
        let piece = aligned.bytes();
        let mut filled = 0;
        for part in bytes.clone() {
            let mut rest = &part[..];
            while !rest.is_empty() {
                let (taken, later) = rest.split_at(rest.len().min(PIECE - filled));
                piece[filled..filled + taken.len()].copy_from_slice(taken);
                filled += taken.len();
                rest = later;
                if filled == PIECE {
                    self.write_all(piece)?;
                    filled = 0;
                }
            }
        }
        let (blocks, tail) = piece[..filled].split_at(filled / BLOCK * BLOCK);
        self.write_all(blocks)?;
        self.give_up_on_direct()?;
        self.write_all(tail)
    }

    fn write_all(&mut self, mut bytes: &[u8]) -> Result<(), Errno> {
        while !bytes.is_empty() {
            match retry_on_intr(|| write(self.file, bytes)) {
                Ok(written) => {
                    bytes = &bytes[written..];
                    // A disk that filled up may have taken a part of a block.
                    if !bytes.len().is_multiple_of(BLOCK) {
                        self.give_up_on_direct()?;
                    }
                }
                // Some file systems let it be asked for and then want larger blocks, or cannot after all.
                Err(Errno::INVAL | Errno::NOTSUP) if self.is_direct => self.give_up_on_direct()?,
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }

    fn give_up_on_direct(&mut self) -> Result<(), Errno> {
        if self.is_direct {
            set_direct(self.file, false)?;
            self.is_direct = false;
        }
        Ok(())
    }
}

fn set_direct(file: &OwnedFd, is_direct: bool) -> Result<(), Errno> {
    let mut flags = fcntl_getfl(file)?;
    flags.set(OFlags::DIRECT, is_direct);
    fcntl_setfl(file, flags)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};

    use super::*;

    /// Bytes in parts, none of which begins at a block but the first.
    fn in_parts(bytes: &[u8]) -> Buffer {
        let (first, rest) = bytes.split_at(1);
        let parts = [first].into_iter().chain(rest.chunks(700_001));
        parts.flat_map(|part| Buffer::from(part.to_vec())).collect()
    }

    #[test]
    fn what_is_written_past_the_cache_is_what_was_given() {
        let folder = tempfile::tempdir().unwrap();
        for length in [LEAST, LEAST + 1, 3 * PIECE + 4097] {
            let bytes: Vec<u8> = (0..length).map(|at| (at / 251 + at) as u8).collect();
            for is_wanted in [true, false] {
                let path = folder.path().join(format!("{length}-{is_wanted}"));
                let file = OwnedFd::from(File::create(&path).unwrap());
                Output::new(&file, is_wanted).write(&in_parts(&bytes)).unwrap();
                assert!(!fcntl_getfl(&file).unwrap().contains(OFlags::DIRECT), "{length}");
                assert!(fs::read(&path).unwrap() == bytes, "{length} bytes, {is_wanted}");
            }
        }
    }
}
