//! What is known of an entry beside its content, applied in the order in which one piece does not undo
//! another: owner (which clears set-id bits and capabilities), attributes (a file that is read-only takes
//! none), mode, and times last.

use std::ffi::CStr;
use std::ffi::CString;
use std::io;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use rustix::fs::AtFlags;
use rustix::fs::Gid;
use rustix::fs::Mode;
use rustix::fs::OFlags;
use rustix::fs::Timespec;
use rustix::fs::Timestamps;
use rustix::fs::UTIME_OMIT;
use rustix::fs::Uid;
use rustix::fs::XattrFlags;
use rustix::fs::chmod;
use rustix::fs::chownat;
use rustix::fs::fchmod;
use rustix::fs::fchown;
use rustix::fs::fgetxattr;
use rustix::fs::flistxattr;
use rustix::fs::fremovexattr;
use rustix::fs::fsetxattr;
use rustix::fs::futimens;
use rustix::fs::lgetxattr;
use rustix::fs::llistxattr;
use rustix::fs::lremovexattr;
use rustix::fs::lsetxattr;
use rustix::fs::openat;
use rustix::fs::utimensat;
use rustix::io::Errno;

use super::Directory;
use super::Existing;
use super::FilesTarget;
use super::TargetFile;
use crate::tree::entry::ExtendedAttribute;
use crate::tree::entry::Metadata;
use crate::tree::path::Printable;
use crate::units::Timestamp;

/// A piece of metadata that could not be restored.
#[derive(Debug)]
pub struct MetadataFailure {
    /// Which piece: `owner 1000:1000`, `attribute user.comment`, `mode 4755`, `times`.
    pub piece: String,
    /// What the system said.
    pub error: io::Error,
}

/// What an entry is known to have already; what is `None` is set whatever it is.
#[derive(Default)]
struct Known {
    uid: Option<u32>,
    gid: Option<u32>,
    mode: Option<u32>,
    mtime: Option<Timestamp>,
    /// It may have attributes that the snapshot's entry has not.
    may_have_attributes: bool,
}

impl Known {
    fn of(existing: &Existing) -> Self {
        Known {
            uid: Some(existing.uid),
            gid: Some(existing.gid),
            mode: Some(existing.mode),
            mtime: Some(existing.mtime),
            may_have_attributes: true,
        }
    }
}

impl FilesTarget {
    /// Finishes a file that was made by [`FilesTarget::create_file`] in this directory.
    pub fn finish_new_file(
        &self,
        directory: &Directory,
        file: &TargetFile,
        metadata: &Metadata,
    ) -> Vec<MetadataFailure> {
        let known = Known {
            uid: Some(self.user),
            gid: directory.group,
            mode: file.mode,
            mtime: None,
            may_have_attributes: directory.has_default_acl,
        };
        self.finish_open(file.as_fd(), metadata, &known)
    }

    /// Finishes a file that was there: `existing` tells how it was, `was_written` whether its content was
    /// changed since, which changes more than the times.
    pub fn finish_existing_file(
        &self,
        file: &TargetFile,
        metadata: &Metadata,
        existing: &Existing,
        was_written: bool,
    ) -> Vec<MetadataFailure> {
        let mut known = Known::of(existing);
        // A write clears set-id bits, and a read-only file was made writable to be opened.
        if was_written || existing.mode & 0o600 != 0o600 {
            known.mode = None;
        }
        if was_written {
            known.mtime = None;
        }
        self.finish_open(file.as_fd(), metadata, &known)
    }

    /// Finishes a directory, after everything in it.
    pub fn finish_directory(
        &self,
        directory: &Arc<Directory>,
        metadata: &Metadata,
    ) -> Vec<MetadataFailure> {
        let descriptor = match self.descriptor(directory) {
            Ok(descriptor) => descriptor,
            Err(error) => return vec![MetadataFailure { piece: "all of it".to_string(), error }],
        };
        let known = if directory.is_new {
            Known {
                uid: Some(self.user),
                gid: directory.group,
                // Not the mode: it may have inherited the set-group-id bit.
                ..Known::default()
            }
        } else {
            Known { may_have_attributes: true, ..Known::default() }
        };
        self.finish_open(descriptor.as_fd(), metadata, &known)
    }

    /// Finishes what is neither file nor directory. `existing` tells how it was, if it was there.
    pub fn finish_special(
        &self,
        directory: &Arc<Directory>,
        name: &[u8],
        metadata: &Metadata,
        is_symlink: bool,
        existing: Option<&Existing>,
    ) -> Vec<MetadataFailure> {
        let mut failures = Vec::new();
        let above = match self.descriptor(directory) {
            Ok(above) => above,
            Err(error) => return vec![MetadataFailure { piece: "all of it".to_string(), error }],
        };
        let new = Known {
            uid: Some(self.user),
            gid: directory.group,
            may_have_attributes: directory.has_default_acl,
            ..Known::default()
        };
        let known = existing.map_or(new, Known::of);
        let may_set_ids = self.set_owner(metadata, &known, &mut failures, |uid, gid| {
            chownat(&above, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)
        });
        // Only a path names what is not opened; through the directory's descriptor it is as safe.
        let path = [format!("/proc/self/fd/{}/", above.as_raw_fd()).as_bytes(), name].concat();
        Attributed::Path(&path).finish(metadata, &known, &mut failures);
        if !is_symlink {
            set_mode(metadata, &known, may_set_ids, &mut failures, |mode| {
                // The system has no chmod that does not follow links; what is opened is what is changed.
                let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let opened = openat(&above, name, flags, Mode::empty())?;
                chmod(format!("/proc/self/fd/{}", opened.as_raw_fd()).as_str(), mode)
            });
        }
        set_times(metadata, &known, &mut failures, |times| {
            utimensat(&above, name, times, AtFlags::SYMLINK_NOFOLLOW)
        });
        failures
    }

    fn finish_open(
        &self,
        descriptor: BorrowedFd<'_>,
        metadata: &Metadata,
        known: &Known,
    ) -> Vec<MetadataFailure> {
        let mut failures = Vec::new();
        let may_set_ids =
            self.set_owner(metadata, known, &mut failures, |uid, gid| fchown(descriptor, uid, gid));
        Attributed::Open(descriptor).finish(metadata, known, &mut failures);
        set_mode(metadata, known, may_set_ids, &mut failures, |mode| fchmod(descriptor, mode));
        set_times(metadata, known, &mut failures, |times| futimens(descriptor, times));
        failures
    }

    /// Returns whether the owner is the one that set-id bits are meant for.
    fn set_owner(
        &self,
        metadata: &Metadata,
        known: &Known,
        failures: &mut Vec<MetadataFailure>,
        chown: impl Fn(Option<Uid>, Option<Gid>) -> rustix::io::Result<()>,
    ) -> bool {
        let owner = &metadata.owner;
        if known.uid == Some(owner.uid) && known.gid == Some(owner.gid) {
            return true;
        }
        let mut fail = |error: Errno| {
            let piece = format!("owner {}:{}", owner.uid, owner.gid);
            failures.push(MetadataFailure { piece, error: error.into() });
            false
        };
        // Minus one means "leave it" to the system.
        if owner.uid == u32::MAX || owner.gid == u32::MAX {
            return fail(Errno::INVAL);
        }
        let uid = (known.uid != Some(owner.uid)).then(|| Uid::from_raw(owner.uid));
        let gid = (known.gid != Some(owner.gid)).then(|| Gid::from_raw(owner.gid));
        match chown(uid, gid) {
            Ok(()) => true,
            Err(error) => {
                // Without privileges a file cannot be given away, but the group may be one of ours.
                let group_set = uid.is_some() && gid.is_some() && chown(None, gid).is_ok();
                let is_own = owner.uid == self.user && owner.gid == self.group;
                if group_set && owner.uid == self.user || is_own && error == Errno::PERM {
                    return true;
                }
                fail(error)
            }
        }
    }
}

fn set_mode(
    metadata: &Metadata,
    known: &Known,
    may_set_ids: bool,
    failures: &mut Vec<MetadataFailure>,
    chmod: impl Fn(Mode) -> rustix::io::Result<()>,
) {
    // A program must not run with the rights of somebody it was not meant for.
    let mode = if may_set_ids { metadata.mode } else { metadata.mode & !0o6000 };
    let owner_is_kept =
        known.uid == Some(metadata.owner.uid) && known.gid == Some(metadata.owner.gid);
    let is_set = known.mode == Some(mode) && (owner_is_kept || mode & 0o6000 == 0);
    let has_rules =
        metadata.attributes.iter().any(|attribute| attribute.name.starts_with(b"system."));
    if is_set && !has_rules {
        return;
    }
    if let Err(error) = chmod(Mode::from_raw_mode(mode)) {
        let piece = format!("mode {mode:o}");
        failures.push(MetadataFailure { piece, error: error.into() });
    }
}

fn set_times(
    metadata: &Metadata,
    known: &Known,
    failures: &mut Vec<MetadataFailure>,
    set: impl Fn(&Timestamps) -> rustix::io::Result<()>,
) {
    if known.mtime == Some(metadata.mtime) {
        return;
    }
    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec {
            tv_sec: metadata.mtime.seconds,
            tv_nsec: metadata.mtime.nanoseconds.into(),
        },
    };
    if let Err(error) = set(&times) {
        failures.push(MetadataFailure { piece: "times".to_string(), error: error.into() });
    }
}

fn fail_attribute(name: &[u8], error: Errno) -> MetadataFailure {
    MetadataFailure { piece: format!("attribute {}", Printable(name)), error: error.into() }
}

/// What attributes are set on. The path is below a directory in `/proc`, and its last name is not followed.
#[derive(Clone, Copy)]
enum Attributed<'a> {
    Open(BorrowedFd<'a>),
    Path(&'a [u8]),
}

impl Attributed<'_> {
    /// Gives the entry the attributes that it should have, and only those.
    fn finish(self, metadata: &Metadata, known: &Known, failures: &mut Vec<MetadataFailure>) {
        let wanted = &metadata.attributes;
        if known.may_have_attributes {
            self.remove_others(wanted, failures);
        }
        for attribute in wanted {
            let (name, value) = (&*attribute.name, &*attribute.value);
            if known.may_have_attributes && self.has(name, value) {
                continue;
            }
            if let Err(error) = self.set(name, value) {
                failures.push(fail_attribute(name, error));
            }
        }
    }

    fn remove_others(self, wanted: &[ExtendedAttribute], failures: &mut Vec<MetadataFailure>) {
        let present = match self.list_names() {
            Ok(present) => present,
            Err(Errno::NOTSUP | Errno::BADF) => Vec::new(),
            Err(error) => return failures.push(fail_attribute(b"list", error)),
        };
        for name in present {
            let is_wanted = wanted.iter().any(|attribute| *attribute.name == *name.as_bytes());
            // Labels are the system's: it gives one to every file, and refuses that there is none.
            let is_label = name.as_bytes().starts_with(b"security.")
                && name.as_bytes() != b"security.capability";
            if is_wanted || is_label {
                continue;
            }
            match self.remove(&name) {
                Ok(()) | Err(Errno::NODATA | Errno::NOTSUP) => {}
                Err(error) => failures.push(fail_attribute(name.as_bytes(), error)),
            }
        }
    }

    /// Whether it has this attribute with this value. Of an empty one that is not known.
    fn has(self, name: &[u8], value: &[u8]) -> bool {
        let mut present = vec![0; value.len()];
        let length = match self {
            Attributed::Open(descriptor) => fgetxattr(descriptor, name, &mut present[..]),
            Attributed::Path(path) => lgetxattr(path, name, &mut present[..]),
        };
        matches!(length, Ok(1..)) && length == Ok(value.len()) && *present == *value
    }

    fn set(self, name: &[u8], value: &[u8]) -> rustix::io::Result<()> {
        match self {
            Attributed::Open(file) => fsetxattr(file, name, value, XattrFlags::empty()),
            Attributed::Path(path) => lsetxattr(path, name, value, XattrFlags::empty()),
        }
    }

    fn remove(self, name: &CStr) -> rustix::io::Result<()> {
        match self {
            Attributed::Open(descriptor) => fremovexattr(descriptor, name),
            Attributed::Path(path) => lremovexattr(path, name),
        }
    }

    fn list_names(self) -> rustix::io::Result<Vec<CString>> {
        let mut buffer = vec![0; 512];
        let length = loop {
            let listed = match self {
                Attributed::Open(descriptor) => flistxattr(descriptor, &mut buffer[..]),
                Attributed::Path(path) => llistxattr(path, &mut buffer[..]),
            };
            match listed {
                Err(Errno::RANGE) if buffer.len() < 1 << 20 => buffer.resize(buffer.len() * 8, 0),
                result => break result?,
            }
        };
        let names = buffer[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty());
        Ok(names.filter_map(|name| CString::new(name).ok()).collect())
    }
}

/// Takes from a new directory the access rules that it inherited: the snapshot's entry has its own.
pub(super) fn drop_inherited_rules(directory: BorrowedFd<'_>) -> io::Result<()> {
    for name in [super::DEFAULT_ACL, c"system.posix_acl_access"] {
        match fremovexattr(directory, name) {
            Ok(()) | Err(Errno::NODATA | Errno::NOTSUP) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
