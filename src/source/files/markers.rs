//! Files that say what a directory's backup should leave out: `CACHEDIR.TAG` and its like, and ignore
//! files such as `.gitignore`.

use std::ffi::CStr;
use std::ffi::CString;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use ignore::gitignore::Gitignore;
use ignore::gitignore::GitignoreBuilder;
use rustix::fs::FileType;
use rustix::fs::OFlags;

use super::directory::open_quietly;
use super::read::kind_of;
use super::read::stat_descriptor;

/// The first bytes of a cache directory's tag, by the Cache Directory Tagging Specification
/// (bford.info/cachedir).
pub(super) const CACHE_SIGNATURE: &[u8] = b"Signature: 8a477f597d28d172789f06886806bc55";

/// The name of a cache directory's tag.
pub(super) const CACHE_TAG: &CStr = c"CACHEDIR.TAG";

/// Of an ignore file this much is read: a hundred times the longest in use.
const MAX_IGNORE_FILE_BYTES: u64 = 4 << 20;

/// A file whose presence keeps everything else in its directory out.
pub(super) struct Marker {
    pub(super) name: CString,
    /// What the file must begin with; nothing, if its name is enough.
    pub(super) header: Vec<u8>,
}

impl Marker {
    /// Whether the directory holds this marker. One that cannot be read does not count: rather save
    /// too much.
    pub(super) fn is_in(&self, directory: BorrowedFd<'_>) -> bool {
        if self.header.is_empty() {
            return true;
        }
        let begins_so = || {
            let mut start = Vec::new();
            let file = open_regular(directory, &self.name)?;
            file.take(self.header.len() as u64).read_to_end(&mut start)?;
            io::Result::Ok(start == self.header)
        };
        begins_so().unwrap_or(false)
    }
}

/// The rules of one ignore file, for all that is below its directory.
pub(super) struct IgnoreRules {
    rules: Gitignore,
    /// Length of the directory's path in bytes, the separator after it counted.
    prefix_length: usize,
}

impl IgnoreRules {
    /// Reads an ignore file. `directory_length` is the length of the directory's path (the root's is 0).
    /// Also returns what was not understood, for people; the other lines count nevertheless.
    pub(super) fn read(
        directory: BorrowedFd<'_>,
        name: &CStr,
        directory_length: usize,
    ) -> io::Result<(Self, Vec<String>)> {
        let mut text = Vec::new();
        open_regular(directory, name)?.take(MAX_IGNORE_FILE_BYTES).read_to_end(&mut text)?;
        let mut builder = GitignoreBuilder::new("");
        let mut complaints = Vec::new();
        let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&text);
        for (index, line) in text.split(|byte| *byte == b'\n').enumerate() {
            match std::str::from_utf8(line) {
                Ok(line) => {
                    if let Err(error) = builder.add_line(None, line) {
                        complaints.push(format!("line {}: {error}", index + 1));
                    }
                }
                Err(_) => complaints.push(format!("line {} is not UTF-8", index + 1)),
            }
        }
        let rules = builder.build().map_err(io::Error::other)?;
        Ok((IgnoreRules { rules, prefix_length: directory_length + 1 }, complaints))
    }

    /// What this file says of a path below its directory: left out, taken back, or nothing.
    fn verdict(&self, path: &[u8], is_directory: bool) -> Option<bool> {
        let relative = Path::new(OsStr::from_bytes(&path[self.prefix_length..]));
        match self.rules.matched(relative, is_directory) {
            ignore::Match::None => None,
            ignore::Match::Ignore(_) => Some(true),
            ignore::Match::Whitelist(_) => Some(false),
        }
    }
}

/// Whether the ignore files above a path, outermost first, leave it out: the innermost that says anything
/// decides.
pub(super) fn ignores(files: &[IgnoreRules], path: &[u8], is_directory: bool) -> bool {
    files.iter().rev().find_map(|rules| rules.verdict(path, is_directory)).unwrap_or(false)
}

fn open_regular(directory: BorrowedFd<'_>, name: &CStr) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let descriptor = open_quietly(directory, name, flags)?;
    if kind_of(&stat_descriptor(descriptor.as_fd())?) != FileType::RegularFile {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    Ok(File::from(descriptor))
}
