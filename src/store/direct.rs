//! Writing and reading past the page cache, for large objects, where the file system can.
//!
//! What a backup writes is read again in months, if ever. Through the page cache it costs a copy, memory that the kernel
//! takes and clears page by page, and a walk over the pages when they are synced; and it pushes out what others
//! read. The bytes are the same, and so is what makes them durable: whoever calls syncs the file after it.
//!
//! What is read is as seldom read twice, and costs the kernel more still: from a virtual disk 1.5 seconds of a processor
//! for a gigabyte, instead of less than 0.1. But what is in the cache is taken from there.

use std::cell::RefCell;
use std::io::IoSliceMut;

use opendal::Buffer;
use rustix::buffer::spare_capacity;
use rustix::fd::OwnedFd;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl, fstatfs};
use rustix::io::{Errno, ReadWriteFlags, pread, preadv2, retry_on_intr, write};

/// At least so many bytes at a time are written or read past the cache: for fewer the wait for the disk costs more, and
/// the kernel does well to read ahead.
pub(super) const LEAST: usize = 1 << 20;
/// What the disk's blocks divide, on every file system that can do this: where bytes may begin, in the file and in memory.
pub(super) const BLOCK: usize = 4096;
/// Bytes of each write and each read: 1 MiB was as fast as 2 and 16, and stays in the processor's cache.
const PIECE: usize = 256 * BLOCK;

/// NFS, SMB2, CIFS and FUSE, by the numbers that `statfs` tells: there the bytes go to somebody else, write by write, who
/// keeps them in a cache of his own.
const ELSEWHERE: [u32; 4] = [0x6969, 0xFE53_4D42, 0xFF53_4D42, 0x6573_5546];

/// Whether writing and reading past the cache make sense in this directory's file system.
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
    /// Room for so many bytes, and no more than a piece.
    fn new(length: usize) -> Self {
        let memory = vec![0; length.next_multiple_of(BLOCK).min(PIECE) + BLOCK];
        let start = memory.as_ptr().align_offset(BLOCK).min(BLOCK);
        Aligned { memory, start }
    }

    fn bytes(&mut self) -> &mut [u8] {
        let end = self.start + self.memory.len() - BLOCK;
        &mut self.memory[self.start..end]
    }
}

thread_local! {
    // What was read last, until it is where it belongs: the kernel would clear new memory each time.
    static READ: RefCell<Option<Aligned>> = const { RefCell::new(None) };
}

/// Reads on from `start` until `bytes` has `length`. `Ok(false)`: the file ends before.
///
/// Past the cache if that `is_wanted`, it is long enough, and its beginning or its end is not in the cache.
pub(super) fn read(
    file: &OwnedFd,
    start: u64,
    length: usize,
    bytes: &mut Vec<u8>,
    is_wanted: bool,
) -> Result<bool, Errno> {
    let end = start + length as u64;
    let is_direct = is_wanted
        && length >= LEAST
        && !(is_cached(file, start) && is_cached(file, end - 1))
        && set_direct(file, true).is_ok();
    if is_direct {
        let done = READ.with_borrow_mut(|piece| {
            let piece = piece.get_or_insert_with(|| Aligned::new(PIECE)).bytes();
            read_blocks(file, start, length, bytes, piece)
        });
        if done == Ok(true) {
            return Ok(true);
        }
        // It takes larger blocks, or cannot after all; or what is wrong shows in the same way through the cache.
        set_direct(file, false)?;
    }
    while bytes.len() < length {
        let offset = start + bytes.len() as u64;
        if retry_on_intr(|| pread(file, spare_capacity(bytes), offset))? == 0 {
            return Ok(false);
        }
    }
    Ok(true)
}

fn read_blocks(
    file: &OwnedFd,
    start: u64,
    length: usize,
    bytes: &mut Vec<u8>,
    piece: &mut [u8],
) -> Result<bool, Errno> {
    while bytes.len() < length {
        let offset = start + bytes.len() as u64;
        let before = (offset % BLOCK as u64) as usize;
        let wanted = (before + length - bytes.len()).next_multiple_of(BLOCK).min(PIECE);
        let into = &mut piece[..wanted];
        let got = retry_on_intr(|| pread(file, &mut *into, offset - before as u64))?;
        let Some(read) = into[..got].get(before..).filter(|read| !read.is_empty()) else {
            return Ok(false);
        };
        bytes.extend_from_slice(&read[..read.len().min(length - bytes.len())]);
    }
    Ok(true)
}

/// Whether the byte at `offset` is in the cache, or nobody can tell.
fn is_cached(file: &OwnedFd, offset: u64) -> bool {
    let mut byte = [0];
    let mut into = [IoSliceMut::new(&mut byte)];
    preadv2(file, &mut into, offset, ReadWriteFlags::NOWAIT) != Err(Errno::AGAIN)
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

    /// Appends them block by block, from where they are if that begins at a block, and what is no whole block through the
    /// cache.
    fn write_blocks(&mut self, bytes: &Buffer) -> Result<(), Errno> {
        let mut aligned: Option<Aligned> = None;
        let mut filled = 0;
        let mut left = bytes.len();
        for part in bytes.clone() {
            let mut rest = &part[..];
            while !rest.is_empty() {
                let is_block = filled == 0 && rest.as_ptr().addr().is_multiple_of(BLOCK);
                if is_block && rest.len() >= BLOCK {
                    let (taken, later) = rest.split_at((rest.len() / BLOCK * BLOCK).min(PIECE));
                    self.write_all(taken)?;
                    left -= taken.len();
                    rest = later;
                    continue;
                }
                let piece = aligned.get_or_insert_with(|| Aligned::new(left)).bytes();
                let (taken, later) = rest.split_at(rest.len().min(piece.len() - filled));
                piece[filled..filled + taken.len()].copy_from_slice(taken);
                filled += taken.len();
                left -= taken.len();
                rest = later;
                if filled == piece.len() {
                    self.write_all(piece)?;
                    filled = 0;
                }
            }
        }
        let left = aligned.as_mut().map_or(&[][..], |piece| &piece.bytes()[..filled]);
        let (blocks, tail) = left.split_at(filled / BLOCK * BLOCK);
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
    fn what_is_read_past_the_cache_is_what_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("object");
        let whole: Vec<u8> = (0..3 * PIECE + 4097).map(|at| (at / 251 + at) as u8).collect();
        let file = OwnedFd::from(File::create(&path).unwrap());
        Output::new(&file, true).write(&Buffer::from(whole.clone())).unwrap();
        rustix::fs::fsync(&file).unwrap();
        let parts = [
            (0, whole.len()),
            (0, LEAST),
            (1, LEAST),
            (BLOCK - 1, 2 * PIECE + 1),
            (PIECE + 77, 2 * PIECE + 4097 - 77),
            (whole.len() - LEAST, LEAST),
            (5, 100),
            (9, 0),
        ];
        // What was written past the cache is not in it, and what was read through it is.
        for is_wanted in [true, false, true] {
            for (start, length) in parts {
                let file = OwnedFd::from(File::open(&path).unwrap());
                let mut bytes = Vec::with_capacity(length);
                let read = read(&file, start as u64, length, &mut bytes, is_wanted);
                assert_eq!(read, Ok(true), "{start} {length}");
                // There may be room for more than was asked for.
                assert!(bytes[..length] == whole[start..start + length], "{start} {length}");
            }
            let file = OwnedFd::from(File::open(&path).unwrap());
            let beyond = whole.len() - LEAST + 1;
            let mut bytes = Vec::with_capacity(LEAST);
            assert_eq!(read(&file, beyond as u64, LEAST, &mut bytes, is_wanted), Ok(false));
        }
    }

    /// Bytes that begin at a block of memory, or so many bytes behind it.
    fn behind_a_block(bytes: &[u8], behind: usize) -> Buffer {
        let mut memory: Vec<u8> = Vec::with_capacity(bytes.len() + 2 * BLOCK);
        let start = memory.as_ptr().align_offset(BLOCK) + behind;
        memory.resize(start, 0);
        memory.extend_from_slice(bytes);
        Buffer::from(memory).slice(start..)
    }

    #[test]
    fn what_is_written_past_the_cache_is_what_was_given() {
        let folder = tempfile::tempdir().unwrap();
        for length in [LEAST, LEAST + 1, 3 * PIECE + 4097] {
            let bytes: Vec<u8> = (0..length).map(|at| (at / 251 + at) as u8).collect();
            let (first, rest) = bytes.split_at(PIECE - 7);
            // One that begins at a block, after what is no whole block, and before.
            let mixed = [behind_a_block(first, 0), behind_a_block(rest, 0), in_parts(&bytes)];
            let twice = [&bytes[..], &bytes].concat();
            let shapes = [
                (in_parts(&bytes), &bytes),
                (behind_a_block(&bytes, 0), &bytes),
                (behind_a_block(&bytes, 16), &bytes),
                (mixed.into_iter().flatten().collect(), &twice),
            ];
            for (number, (given, bytes)) in shapes.into_iter().enumerate() {
                for is_wanted in [true, false] {
                    let path = folder.path().join(format!("{length}-{number}-{is_wanted}"));
                    let file = OwnedFd::from(File::create(&path).unwrap());
                    Output::new(&file, is_wanted).write(&given).unwrap();
                    assert!(!fcntl_getfl(&file).unwrap().contains(OFlags::DIRECT), "{length}");
                    let written = fs::read(&path).unwrap();
                    assert!(written == *bytes, "{length} bytes, {number}, {is_wanted}");
                }
            }
        }
    }
}
