//! Headers of a tar archive: POSIX.1-2017 `ustar`, with extended (pax) records for what does not fit.

use rustix::fs::{major, minor};

use crate::tree::entry::{Entry, Metadata, Node};

/// Headers and contents fill whole blocks of this many bytes.
pub(super) const BLOCK: usize = 512;
/// The largest number in a field of eleven octal digits.
const LARGEST: u64 = (1 << 33) - 1;
/// The largest number in a field of seven octal digits.
const LARGEST_ID: u64 = (1 << 21) - 1;

/// What one entry is called in the archive.
pub(super) struct Name<'n> {
    /// Its path, without a slash at the beginning.
    pub(super) path: &'n [u8],
    /// For a further name of a file: the path of the first.
    pub(super) link: Option<&'n [u8]>,
}

/// The header of an entry, with its extended records before it. `None` for what an archive cannot hold:
/// a socket.
pub(super) fn header(name: &Name<'_>, entry: &Entry) -> Option<Vec<u8>> {
    let mut device = (0, 0);
    let mut size = 0;
    let mut target = name.link.unwrap_or_default();
    let kind = match (&entry.node, name.link) {
        (Node::Socket, _) => return None,
        (_, Some(_)) => b'1',
        (Node::File(file), None) => {
            size = file.size;
            b'0'
        }
        (Node::Symlink(to), None) => {
            target = to;
            b'2'
        }
        (Node::CharDevice(number), None) => {
            device = (major(*number), minor(*number));
            b'3'
        }
        (Node::BlockDevice(number), None) => {
            device = (major(*number), minor(*number));
            b'4'
        }
        (Node::Directory { .. }, None) => b'5',
        (Node::Fifo, None) => b'6',
    };
    let mut path = name.path.to_vec();
    if kind == b'5' {
        path.push(b'/');
    }
    let metadata = &entry.metadata;
    let mut records = Vec::new();
    put_records(&mut records, &path, target, size, metadata);
    let mut output = Vec::new();
    if !records.is_empty() {
        let numbers = Numbers { mode: 0o644, size: records.len() as u64, ..Numbers::default() };
        put_block(&mut output, b'x', b"pax", b"", &numbers, ("", ""));
        output.extend_from_slice(&records);
        output.resize(output.len().next_multiple_of(BLOCK), 0);
    }
    let numbers = Numbers {
        mode: metadata.mode.into(),
        uid: metadata.owner.uid.into(),
        gid: metadata.owner.gid.into(),
        size,
        mtime: u64::try_from(metadata.mtime.seconds).unwrap_or(0),
        device,
    };
    let names = (metadata.owner.user.as_str(), metadata.owner.group.as_str());
    put_block(&mut output, kind, &path, target, &numbers, names);
    Some(output)
}

/// The extended records that an entry needs.
fn put_records(output: &mut Vec<u8>, path: &[u8], target: &[u8], size: u64, metadata: &Metadata) {
    let fits = |text: &[u8], room: usize| text.len() <= room && text.is_ascii();
    if !fits(path, 100) {
        put_record(output, b"path", path);
    }
    if !fits(target, 100) {
        put_record(output, b"linkpath", target);
    }
    if size > LARGEST {
        put_record(output, b"size", size.to_string().as_bytes());
    }
    let owner = &metadata.owner;
    for (key, id) in [(b"uid", owner.uid), (b"gid", owner.gid)] {
        if u64::from(id) > LARGEST_ID {
            put_record(output, key, id.to_string().as_bytes());
        }
    }
    for (key, text) in [(b"uname", &owner.user), (b"gname", &owner.group)] {
        if !fits(text.as_bytes(), 31) {
            put_record(output, key, text.as_bytes());
        }
    }
    let (seconds, nanoseconds) = (metadata.mtime.seconds, metadata.mtime.nanoseconds);
    let fits_seconds = u64::try_from(seconds).is_ok_and(|seconds| seconds <= LARGEST);
    if nanoseconds != 0 || !fits_seconds {
        let nanoseconds_since = i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds);
        let sign = if nanoseconds_since < 0 { "-" } else { "" };
        let size = nanoseconds_since.unsigned_abs();
        let text = format!("{sign}{}.{:09}", size / 1_000_000_000, size % 1_000_000_000);
        put_record(output, b"mtime", text.as_bytes());
    }
    for attribute in &metadata.attributes {
        let mut key = b"SCHILY.xattr.".to_vec();
        for byte in &attribute.name {
            // As GNU tar does: the first equals sign ends the key.
            match byte {
                b'%' => key.extend_from_slice(b"%25"),
                b'=' => key.extend_from_slice(b"%3D"),
                other => key.push(*other),
            }
        }
        put_record(output, &key, &attribute.value);
    }
}

/// `length key=value\n`, where the length counts its own digits.
fn put_record(output: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    output.extend_from_slice(length.to_string().as_bytes());
    for part in [b" ", key, b"=", value, b"\n"] {
        output.extend_from_slice(part);
    }
}

#[derive(Default)]
struct Numbers {
    mode: u64,
    uid: u64,
    gid: u64,
    size: u64,
    mtime: u64,
    device: (u32, u32),
}

/// | offset | length | field |
/// |---|---|---|
/// | 0 | 100 | name |
/// | 100 | 8 | mode |
/// | 108 | 8 | uid |
/// | 116 | 8 | gid |
/// | 124 | 12 | size |
/// | 136 | 12 | mtime |
/// | 148 | 8 | checksum: the sum of all bytes, these eight taken as spaces |
/// | 156 | 1 | kind |
/// | 157 | 100 | link target |
/// | 257 | 8 | `ustar`, NUL, `00` |
/// | 265 | 32 | user's name |
/// | 297 | 32 | group's name |
/// | 329 | 8 | major device number |
/// | 337 | 8 | minor device number |
/// | 345 | 155 | prefix of the name: not used |
fn put_block(
    output: &mut Vec<u8>,
    kind: u8,
    path: &[u8],
    target: &[u8],
    numbers: &Numbers,
    (user, group): (&str, &str),
) {
    let mut block = [0; BLOCK];
    let mut put = |offset: usize, room: usize, bytes: &[u8]| {
        let length = bytes.len().min(room);
        block[offset..offset + length].copy_from_slice(&bytes[..length]);
    };
    // Too large a number is 0 here and right in its extended record.
    let octal = |number: u64, largest: u64, digits: usize| {
        let number = if number > largest { 0 } else { number };
        format!("{number:0digits$o}").into_bytes()
    };
    put(0, 100, path);
    put(100, 8, &octal(numbers.mode, LARGEST_ID, 7));
    put(108, 8, &octal(numbers.uid, LARGEST_ID, 7));
    put(116, 8, &octal(numbers.gid, LARGEST_ID, 7));
    put(124, 12, &octal(numbers.size, LARGEST, 11));
    put(136, 12, &octal(numbers.mtime, LARGEST, 11));
    put(148, 8, &[b' '; 8]);
    put(156, 1, &[kind]);
    put(157, 100, target);
    put(257, 8, b"ustar\x0000");
    put(265, 31, user.as_bytes());
    put(297, 31, group.as_bytes());
    put(329, 8, &octal(numbers.device.0.into(), LARGEST_ID, 7));
    put(337, 8, &octal(numbers.device.1.into(), LARGEST_ID, 7));
    let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
    block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    output.extend_from_slice(&block);
}
