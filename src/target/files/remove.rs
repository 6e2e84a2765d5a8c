//! Removing what the target has beyond what was wanted.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::sync::Arc;

use rustix::fs::AtFlags;
use rustix::fs::FileType;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::fs::RawDir;
use rustix::fs::fstat;
use rustix::fs::openat;
use rustix::fs::unlinkat;

use super::Directory;
use super::FilesTarget;
use super::check_name;
use super::directory::Opened;
use super::directory::open_writable;

/// What removing a directory did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Removed {
    /// Entries that are gone.
    pub entries: u64,
    /// Entries that had to stay, each with the directories that lead to it.
    pub kept: u64,
}

struct Level {
    directory: Arc<Directory>,
    name: Box<[u8]>,
    rest: Vec<(Box<[u8]>, bool)>,
    kept: bool,
    path_length: usize,
}

impl FilesTarget {
    /// Names in a directory but `.` and `..`, sorted as bytes, and whether each is a directory.
    pub fn list(&self, directory: &Arc<Directory>) -> io::Result<Vec<(Box<[u8]>, bool)>> {
        if !directory.exists() {
            return Ok(Vec::new());
        }
        // A descriptor of its own: the shared one has one position for all threads.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let listing = openat(self.descriptor(directory)?, c".", flags, Mode::empty())?;
        let mut buffer = [MaybeUninit::uninit(); 32 << 10];
        let mut entries = RawDir::new(&listing, &mut buffer);
        let mut names = Vec::new();
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if !matches!(name, b"." | b"..") {
                names.push((Box::from(name), entry.file_type()));
            }
        }
        names.sort_unstable_by(|(one, _): &(Box<[u8]>, _), (other, _)| one.cmp(other));
        let told = |(name, kind): (Box<[u8]>, FileType)| {
            let is_directory = match kind {
                FileType::Unknown => {
                    let found = self.stat(directory, &name)?;
                    found.is_some_and(|found| found.kind == FileType::Directory)
                }
                known => known == FileType::Directory,
            };
            Ok((name, is_directory))
        };
        names.into_iter().map(told).collect()
    }

    /// Removes what is no directory.
    pub fn remove_file(&self, directory: &Arc<Directory>, name: &[u8]) -> io::Result<()> {
        check_name(name)?;
        Ok(unlinkat(self.descriptor(directory)?, name, AtFlags::empty())?)
    }

    /// Removes an empty directory.
    pub fn remove_directory(&self, directory: &Arc<Directory>, name: &[u8]) -> io::Result<()> {
        check_name(name)?;
        Ok(unlinkat(self.descriptor(directory)?, name, AtFlags::REMOVEDIR)?)
    }

    /// Removes a directory with all that is in it. What `keeps` says of a path (from `directory` down,
    /// without a slash before it; whether it is a directory) stays, with the directories above it.
    /// Links are removed, not followed; what is mounted below is an error and stays.
    pub fn remove_tree(
        &self,
        directory: &Arc<Directory>,
        name: &[u8],
        keeps: &dyn Fn(&[u8], bool) -> bool,
    ) -> io::Result<Removed> {
        let mut removed = Removed::default();
        let mut path = name.to_vec();
        let mut levels = vec![self.enter(directory, name, path.len())?];
        while let Some(level) = levels.last_mut() {
            path.truncate(level.path_length);
            let Some((name, is_directory)) = level.rest.pop() else {
                let Some(done) = levels.pop() else { break };
                let parent = levels.last_mut();
                if done.kept {
                    removed.kept += 1;
                    if let Some(parent) = parent {
                        parent.kept = true;
                    }
                } else {
                    let above = parent.map_or(directory, |parent| &parent.directory);
                    self.remove_directory(above, &done.name)?;
                    removed.entries += 1;
                }
                continue;
            };
            path.push(b'/');
            path.extend_from_slice(&name);
            if keeps(&path, is_directory) {
                level.kept = true;
                removed.kept += 1;
            } else if is_directory {
                let inner = self.enter(&level.directory, &name, path.len())?;
                levels.push(inner);
            } else {
                self.remove_file(&level.directory, &name)?;
                removed.entries += 1;
            }
        }
        Ok(removed)
    }

    fn enter(&self, parent: &Arc<Directory>, name: &[u8], path_length: usize) -> io::Result<Level> {
        check_name(name)?;
        let above = self.descriptor(parent)?;
        let (descriptor, stat) = open_writable(above.as_fd(), name, self.user)?;
        if stat.st_dev != fstat(&above)?.st_dev {
            let message = "another file system is mounted there, which is not emptied";
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, message));
        }
        let opened =
            Opened { descriptor, stat, is_new: false, group: None, has_default_acl: false };
        let directory = self.open.add(Some(parent), name, opened);
        let rest = self.list(&directory)?;
        Ok(Level { directory, name: Box::from(name), rest, kept: false, path_length })
    }
}
