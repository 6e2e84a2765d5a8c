//! Extended attributes of files, directories and whatever else stands in a directory.

use std::ffi::CStr;
use std::ffi::CString;
use std::io;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;

use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::fs::fgetxattr;
use rustix::fs::flistxattr;
use rustix::fs::lgetxattr;
use rustix::fs::llistxattr;
use rustix::fs::openat;
use rustix::io::Errno;

use crate::tree::entry::ExtendedAttribute;
use crate::tree::path::Printable;

/// The attributes of an open file or directory, sorted by name. Works for `O_PATH` descriptors where
/// `/proc` is mounted.
pub(super) fn of_descriptor(descriptor: BorrowedFd<'_>) -> io::Result<Vec<ExtendedAttribute>> {
    let direct = read_all(
        |buffer| flistxattr(descriptor, buffer),
        |name, buffer| fgetxattr(descriptor, name, buffer),
    );
    match direct {
        // The system reads no attributes through an `O_PATH` descriptor, but through its path in /proc.
        // The trailing `/.` makes the link in /proc followed and cannot be but a directory's.
        Err(error) if error.raw_os_error() == Some(Errno::BADF.raw_os_error()) => {
            of_path(&format!("/proc/self/fd/{}/.", descriptor.as_raw_fd()).into_bytes())
        }
        other => other,
    }
}

/// The attributes of the entry `name` of a directory, which is not opened and not followed, sorted by
/// name. Where `/proc` is not mounted, only a regular file's can be read.
pub(super) fn of_entry(
    directory: BorrowedFd<'_>,
    name: &CStr,
    is_file: bool,
) -> io::Result<Vec<ExtendedAttribute>> {
    // There is no getxattrat before Linux 6.13; through /proc a path relative to a descriptor is as safe.
    let mut path = format!("/proc/self/fd/{}/", directory.as_raw_fd()).into_bytes();
    path.extend_from_slice(name.to_bytes());
    match of_path(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && is_file => {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            of_descriptor(openat(directory, name, flags, Mode::empty())?.as_fd())
        }
        other => other,
    }
}

fn of_path(path: &[u8]) -> io::Result<Vec<ExtendedAttribute>> {
    let path = CString::new(path)?;
    read_all(
        |buffer| llistxattr(path.as_c_str(), buffer),
        |name, buffer| lgetxattr(path.as_c_str(), name, buffer),
    )
}

/// Lists the names, then reads their values. A file system that has no attributes has none.
fn read_all(
    list: impl Fn(&mut [u8]) -> rustix::io::Result<usize>,
    get: impl Fn(&CStr, &mut [u8]) -> rustix::io::Result<usize>,
) -> io::Result<Vec<ExtendedAttribute>> {
    let names = match read_growing(list) {
        Ok(names) => names,
        Err(Errno::NOTSUP) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    let mut attributes = Vec::new();
    for name in names.split_inclusive(|byte| *byte == 0) {
        let Ok(name) = CStr::from_bytes_with_nul(name) else { continue };
        match read_growing(|buffer| get(name, buffer)) {
            Ok(value) => attributes.push(ExtendedAttribute {
                name: Box::from(name.to_bytes()),
                value: value.into_boxed_slice(),
            }),
            // Removed since it was listed, or listed by a file system that has no value for it.
            Err(Errno::NODATA | Errno::NOTSUP) => {}
            Err(error) => {
                let error = io::Error::from(error);
                let name = Printable(name.to_bytes());
                return Err(io::Error::new(error.kind(), format!("attribute {name}: {error}")));
            }
        }
    }
    attributes.sort_unstable();
    Ok(attributes)
}

/// Calls `read` with a growing buffer until all fits. Most entries have no attributes or a short ACL, so
/// the first try is on the stack and costs one call.
fn read_growing(
    read: impl Fn(&mut [u8]) -> rustix::io::Result<usize>,
) -> rustix::io::Result<Vec<u8>> {
    let mut short = [0; 512];
    match read(&mut short) {
        Err(Errno::RANGE) => {}
        length => return Ok(short[..length?].to_vec()),
    }
    // The system keeps names and values within 64 KiB each; some file systems go further.
    let mut capacity = 64 << 10;
    loop {
        let mut long = vec![0; capacity];
        match read(&mut long) {
            Err(Errno::RANGE) if capacity < 64 << 20 => capacity *= 4,
            length => {
                long.truncate(length?);
                return Ok(long);
            }
        }
    }
}
