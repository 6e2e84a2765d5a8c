//! A tree on disk, attribute by attribute, and in what two trees differ.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, SeekFrom, Stat, lgetxattr, llistxattr, openat,
    readlinkat, seek, statat,
};
use rustix::io::Errno;

/// Everything by its path from the root down, `/` before each name; the root itself is the empty path.
/// Directories are reached by descriptor, name by name, so that no path can be too long.
pub type Tree = BTreeMap<Vec<u8>, Described>;

/// All that a restore should give back of one entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Described {
    pub kind: FileType,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Seconds and nanoseconds.
    pub mtime: (i64, u64),
    /// Bytes; 0 for directories, whose size the file system makes up.
    pub size: u64,
    pub device_number: u64,
    /// The first path in the tree that is the same file; its own, if it has no other.
    pub same_as: Vec<u8>,
    /// How many paths in the tree are the same file.
    pub names: u64,
    pub link_target: Vec<u8>,
    pub attributes: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Digest of the blocks of a file that are not zeros, and of where they are.
    pub content: Option<[u8; 32]>,
    /// What cannot or need not be the same.
    pub unequal: Unequal,
}

/// What of an entry is its own in every tree.
#[derive(Debug, Clone, Copy)]
pub struct Unequal {
    /// Room on disk in sectors of 512 bytes.
    pub sectors: u64,
    /// Names anywhere, in the tree and outside; 1 for directories.
    pub links: u64,
    /// Device and inode.
    pub identity: (u64, u64),
}

impl PartialEq for Unequal {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Unequal {}

/// One attribute of one entry that is not what it was.
#[derive(Clone, PartialEq, Eq)]
pub struct Difference {
    pub path: String,
    pub attribute: String,
    pub wanted: String,
    pub found: String,
}

impl fmt::Debug for Difference {
    fn fmt(&self, output: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Difference { path, attribute, wanted, found } = self;
        write!(output, "{path}: {attribute}: {wanted} became {found}")
    }
}

/// Describes a folder and all that is below it.
pub fn describe(root: &Path) -> Tree {
    let mut tree = Tree::new();
    let stat = statat(CWD, root, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = openat(CWD, root, flags, Mode::empty()).unwrap();
    let parent = openat(CWD, root.parent().unwrap(), flags, Mode::empty()).unwrap();
    let name = root.file_name().unwrap().as_encoded_bytes();
    tree.insert(Vec::new(), describe_entry(parent.as_fd(), name, &stat));
    describe_directory(opened.as_fd(), &mut Vec::new(), &mut tree);

    let mut names: HashMap<(u64, u64), (Vec<u8>, u64)> = HashMap::new();
    for (path, entry) in &tree {
        names.entry(entry.unequal.identity).or_insert_with(|| (path.clone(), 0)).1 += 1;
    }
    for entry in tree.values_mut() {
        (entry.same_as, entry.names) = names[&entry.unequal.identity].clone();
    }
    tree
}

fn describe_directory(directory: BorrowedFd<'_>, path: &mut Vec<u8>, tree: &mut Tree) {
    for entry in Dir::read_from(directory).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().to_bytes();
        if matches!(name, b"." | b"..") {
            continue;
        }
        let stat = statat(directory, name, AtFlags::SYMLINK_NOFOLLOW).unwrap();
        let length = path.len();
        path.push(b'/');
        path.extend_from_slice(name);
        tree.insert(path.clone(), describe_entry(directory, name, &stat));
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let inner = openat(directory, name, flags, Mode::empty()).unwrap();
            describe_directory(inner.as_fd(), path, tree);
        }
        path.truncate(length);
    }
}

fn describe_entry(directory: BorrowedFd<'_>, name: &[u8], stat: &Stat) -> Described {
    let kind = FileType::from_raw_mode(stat.st_mode);
    let is_directory = kind == FileType::Directory;
    let is_device = matches!(kind, FileType::CharacterDevice | FileType::BlockDevice);
    let link_target = match kind {
        FileType::Symlink => readlinkat(directory, name, Vec::new()).unwrap().into_bytes(),
        _ => Vec::new(),
    };
    Described {
        kind,
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime: (stat.st_mtime, stat.st_mtime_nsec),
        size: if is_directory { 0 } else { stat.st_size as u64 },
        device_number: if is_device { stat.st_rdev } else { 0 },
        same_as: Vec::new(),
        names: 0,
        link_target,
        attributes: attributes(directory, name),
        content: (kind == FileType::RegularFile).then(|| content(directory, name)),
        unequal: Unequal {
            sectors: stat.st_blocks as u64,
            links: if is_directory { 1 } else { stat.st_nlink },
            identity: (stat.st_dev, stat.st_ino),
        },
    }
}

fn attributes(directory: BorrowedFd<'_>, name: &[u8]) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let path = [format!("/proc/self/fd/{}/", directory.as_raw_fd()).as_bytes(), name].concat();
    let mut buffer = vec![0; 64 << 10];
    let length = match llistxattr(&path[..], &mut buffer[..]) {
        Err(Errno::NOTSUP) => 0,
        length => length.unwrap(),
    };
    let names = buffer[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    let value = |name: &[u8]| {
        let mut value = vec![0; 64 << 10];
        let length = lgetxattr(&path[..], name, &mut value[..]).unwrap();
        value.truncate(length);
        value
    };
    names.map(|name| (name.to_vec(), value(name))).collect()
}

/// Digests what is not zeros, and where it is: holes are not read, and written zeros are like holes.
fn content(directory: BorrowedFd<'_>, name: &[u8]) -> [u8; 32] {
    const BLOCK: u64 = 4096;
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = File::from(openat(directory, name, flags, Mode::empty()).unwrap());
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 256 << 10];
    let mut at = 0;
    loop {
        at = match seek(&file, SeekFrom::Data(at)) {
            Ok(data) => data / BLOCK * BLOCK,
            Err(Errno::NXIO) => break,
            Err(error) => panic!("looking for data: {error}"),
        };
        let hole = seek(&file, SeekFrom::Hole(at)).unwrap();
        while at < hole {
            let length = file.read_at(&mut buffer, at).unwrap();
            // Short only at the end of the file; elsewhere a piece ends with a whole block.
            let length = match length < buffer.len() {
                true => length,
                false => length - length % BLOCK as usize,
            };
            for (number, block) in buffer[..length].chunks(BLOCK as usize).enumerate() {
                if block.iter().any(|byte| *byte != 0) {
                    hasher.update(&(at + number as u64 * BLOCK).to_le_bytes());
                    hasher.update(block);
                }
            }
            at += length as u64;
            if length == 0 {
                break;
            }
        }
    }
    *hasher.finalize().as_bytes()
}

/// In what a restored tree differs from its source. A file that takes more room than its source (holes
/// that were filled) and a name that leads out of the tree are differences, too.
pub fn differences(source: &Tree, restored: &Tree) -> Vec<Difference> {
    let mut found = Vec::new();
    for path in source.keys().chain(restored.keys().filter(|path| !source.contains_key(*path))) {
        let mut differ = |attribute: &str, wanted: String, other: String| {
            let path = String::from_utf8_lossy(path).into_owned();
            found.push(Difference { path, attribute: attribute.into(), wanted, found: other });
        };
        match (source.get(path), restored.get(path)) {
            (Some(wanted), Some(entry)) => differ_in(wanted, entry, &mut differ),
            (Some(wanted), None) => {
                differ("entry", format!("{:?}", wanted.kind), "nothing".into());
            }
            (None, entry) => {
                differ("entry", "nothing".into(), format!("{:?}", entry.unwrap().kind));
            }
        }
    }
    found
}

fn differ_in(wanted: &Described, found: &Described, differ: &mut impl FnMut(&str, String, String)) {
    // Where the file system keeps the list of a file's pieces is its own affair: 64 KiB are forgiven.
    if found.unequal.sectors > wanted.unequal.sectors + 128 && wanted.kind == FileType::RegularFile
    {
        let text = |entry: &Described| format!("{} sectors", entry.unequal.sectors);
        differ("room on disk", text(wanted), text(found));
    }
    if found.unequal.links != found.names {
        differ("links", found.names.to_string(), found.unequal.links.to_string());
    }
    if wanted == found {
        return;
    }
    let mut compare = |attribute: &str, text: &dyn Fn(&Described) -> String| {
        let (wanted, found) = (text(wanted), text(found));
        if wanted != found {
            differ(attribute, wanted, found);
        }
    };
    let printable = |bytes: &[u8]| bytes.escape_ascii().to_string();
    compare("kind", &|entry| format!("{:?}", entry.kind));
    compare("mode", &|entry| format!("{:o}", entry.mode));
    compare("uid", &|entry| entry.uid.to_string());
    compare("gid", &|entry| entry.gid.to_string());
    compare("mtime", &|entry| format!("{:?}", entry.mtime));
    compare("size", &|entry| entry.size.to_string());
    compare("device number", &|entry| format!("{:x}", entry.device_number));
    compare("same file", &|entry| format!("{} {}", printable(&entry.same_as), entry.names));
    compare("link target", &|entry| printable(&entry.link_target));
    compare("content", &|entry| format!("{:x?}", entry.content));
    for name in wanted.attributes.keys().chain(found.attributes.keys()) {
        let value = |entry: &Described| {
            entry.attributes.get(name).map_or("nothing".into(), |value| printable(value))
        };
        compare(&format!("attribute {}", printable(name)), &value);
    }
}
