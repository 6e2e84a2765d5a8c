//! Writing into real directories.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use super::*;
use crate::tree::entry::ExtendedAttribute;
use crate::tree::entry::Metadata;
use crate::tree::entry::Owner;

fn target() -> (tempfile::TempDir, PathBuf, FilesTarget) {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("new/target");
    let target = FilesTarget::create(&root).unwrap();
    (directory, root, target)
}

fn own() -> Owner {
    Owner {
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        ..Owner::default()
    }
}

fn metadata(mode: u32) -> Metadata {
    let mtime = Timestamp { seconds: -77, nanoseconds: 123_456_789 };
    Metadata { mode, owner: Arc::new(own()), mtime, links: 1, ..Metadata::default() }
}

fn is_root(test: &str) -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        println!("skipped: {test}: not root");
    }
    is_root
}

#[test]
fn names_that_lead_elsewhere_are_refused() {
    let (_keep, root, target) = target();
    for name in [&b".."[..], b".", b"", b"a/b", b"/etc", b"a\0b"] {
        assert!(target.create_file(target.root(), name, &metadata(0o644)).is_err(), "{name:?}");
        assert!(target.ensure_directory(target.root(), name, true).is_err(), "{name:?}");
        assert!(target.create_special(target.root(), name, &Node::Fifo).is_err(), "{name:?}");
        assert!(target.remove_file(target.root(), name).is_err(), "{name:?}");
        assert!(target.remove_tree(target.root(), name, &|_, _| false).is_err(), "{name:?}");
    }
    assert_eq!(fs::read_dir(root).unwrap().count(), 0);
}

#[test]
fn a_planted_link_is_replaced_and_never_followed() {
    let (keep, root, target) = target();
    let outside = keep.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("victim"), "precious").unwrap();
    symlink(&outside, root.join("folder")).unwrap();
    symlink(outside.join("victim"), root.join("file")).unwrap();

    let refused = target.ensure_directory(target.root(), b"folder", false);
    assert_eq!(refused.err().unwrap().kind(), io::ErrorKind::AlreadyExists);
    assert!(target.create_file(target.root(), b"file", &metadata(0o644)).is_err());
    assert!(target.open_file(target.root(), b"file").is_err());
    assert!(!target.look_at_directory(target.root(), b"folder").unwrap().exists());

    let folder = target.ensure_directory(target.root(), b"folder", true).unwrap();
    target.create_file(&folder, b"victim", &metadata(0o644)).unwrap().write_at(b"x", 0).unwrap();
    assert!(!root.join("folder").is_symlink());
    assert_eq!(fs::read(outside.join("victim")).unwrap(), b"precious");
}

#[test]
fn a_directory_that_was_swapped_for_a_link_is_noticed() {
    let (keep, root, target) = target();
    let outside = keep.path().join("outside");
    fs::create_dir(&outside).unwrap();
    let victim = target.ensure_directory(target.root(), b"victim", true).unwrap();
    // So many others that it is closed.
    for number in 0..2 * directory::MOST_OPEN_DIRECTORIES + 1 {
        let name = format!("{number}").into_bytes();
        target.ensure_directory(target.root(), &name, true).unwrap();
    }
    fs::rename(root.join("victim"), root.join("elsewhere")).unwrap();
    symlink(&outside, root.join("victim")).unwrap();
    assert!(target.create_file(&victim, b"file", &metadata(0o644)).is_err());
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
}

#[test]
fn trees_beyond_the_longest_path_are_made_finished_and_removed() {
    let (_keep, root, target) = target();
    let mut directories = vec![target.root().clone()];
    for _ in 0..1500 {
        let parent = directories.last().unwrap();
        directories.push(target.ensure_directory(parent, b"level", true).unwrap());
    }
    let deepest = directories.last().unwrap();
    target.create_file(deepest, b"file", &metadata(0o644)).unwrap().write_at(b"deep", 0).unwrap();
    assert!(deepest.path().len() > 4096);
    for directory in directories[1..].iter().rev() {
        assert!(target.finish_directory(directory, &metadata(0o700)).is_empty());
    }
    assert_eq!(fs::metadata(root.join("level/level")).unwrap().mtime(), -77);
    let removed = target.remove_tree(target.root(), b"level", &|_, _| false).unwrap();
    assert_eq!(removed, Removed { entries: 1501, kept: 0 });
    assert_eq!(fs::read_dir(&root).unwrap().count(), 0);
}

#[test]
fn removing_spares_what_is_kept_and_what_links_point_to() {
    let (keep, root, target) = target();
    let outside = keep.path().join("outside");
    fs::create_dir_all(outside.join("inner")).unwrap();
    fs::create_dir_all(root.join("a/b/c")).unwrap();
    fs::write(root.join("a/b/kept"), "").unwrap();
    fs::write(root.join("a/gone"), "").unwrap();
    symlink(&outside, root.join("a/link")).unwrap();
    let removed =
        target.remove_tree(target.root(), b"a", &|path, _| path.ends_with(b"kept")).unwrap();
    assert_eq!(removed, Removed { entries: 3, kept: 3 });
    assert!(root.join("a/b/kept").exists() && !root.join("a/gone").exists());
    assert!(outside.join("inner").exists());
}

#[test]
fn metadata_comes_out_as_it_was_asked_for() {
    let (_keep, root, target) = target();
    let directory = target.root();
    for mode in [0o600, 0o644, 0o444, 0o000, 0o4755, 0o2711, 0o1777] {
        for owner in [own(), Owner { uid: 1234, gid: 4321, ..Owner::default() }] {
            if owner.uid == 1234 && !is_root("metadata of other owners") {
                continue;
            }
            let name = format!("{mode:o}-{}", owner.uid);
            let attributes = vec![ExtendedAttribute {
                name: Box::from(&b"user.comment"[..]),
                value: Box::from(&b"value"[..]),
            }];
            let wanted = Metadata { owner: Arc::new(owner), attributes, ..metadata(mode) };
            let file = target.create_file(directory, name.as_bytes(), &wanted).unwrap();
            let failures = target.finish_new_file(directory, &file, &wanted);
            let unsupported = failures.iter().any(|failure| failure.piece.contains("user."));
            if unsupported {
                println!("skipped: no extended attributes here");
            } else {
                assert!(failures.is_empty(), "{failures:?}");
            }
            let found = fs::symlink_metadata(root.join(&name)).unwrap();
            assert_eq!(found.permissions().mode() & 0o7777, mode, "{name}");
            assert_eq!((found.uid(), found.gid()), (wanted.owner.uid, wanted.owner.gid));
            assert_eq!((found.mtime(), found.mtime_nsec()), (-77, 123_456_789));

            // Again, as a file that is there: nothing changes, and what is too much goes.
            let existing = target.stat(directory, name.as_bytes()).unwrap().unwrap();
            let bare = Metadata { attributes: Vec::new(), ..wanted.clone() };
            let file = target.open_file(directory, name.as_bytes()).unwrap();
            assert!(target.finish_existing_file(&file, &bare, &existing, false).is_empty());
            let again = fs::symlink_metadata(root.join(&name)).unwrap();
            assert_eq!(again.permissions().mode() & 0o7777, mode, "{name}");
            let mut list = [0; 64];
            assert!(matches!(rustix::fs::flistxattr(&file, &mut list), Ok(0) | Err(_)));
        }
    }
}

#[test]
fn a_file_has_its_mode_at_once_only_where_nothing_asks_for_less() {
    let (_keep, root, target) = target();
    let folder = target.ensure_directory(target.root(), b"folder", true).unwrap();
    fs::create_dir(root.join("there")).unwrap();
    let there = target.ensure_directory(target.root(), b"there", true).unwrap();
    let attribute = || ExtendedAttribute {
        name: Box::from(&b"user.comment"[..]),
        value: Box::from(&b"value"[..]),
    };
    let tagged = Metadata { attributes: vec![attribute()], ..metadata(0o644) };
    let other = Owner { uid: own().uid ^ 1, gid: own().gid, ..Owner::default() };
    let foreign = Metadata { owner: Arc::new(other), ..metadata(0o644) };
    let open = 0o666 & !creation_mask() == 0o666;
    let cases = [
        (&folder, metadata(0o600), 0o600),
        (&folder, metadata(0o700), 0o700),
        // What the system would take something from waits.
        (&folder, metadata(0o666), if open { 0o666 } else { 0o600 }),
        (&folder, metadata(0o400), 0o600),
        (&folder, metadata(0o4700), 0o600),
        (&folder, tagged, 0o600),
        (&folder, foreign, 0o600),
        // Others may be looking into this one.
        (&there, metadata(0o700), 0o600),
    ];
    for (number, (directory, wanted, first)) in cases.into_iter().enumerate() {
        let name = format!("file-{number}");
        let file = target.create_file(directory, name.as_bytes(), &wanted).unwrap();
        let found = |at: &str| target.stat(directory, at.as_bytes()).unwrap().unwrap().mode;
        assert_eq!(found(&name), first, "{number}");
        target.finish_new_file(directory, &file, &wanted);
        let is_foreign = wanted.owner.uid != own().uid;
        assert!(is_foreign || found(&name) == wanted.mode, "{number}");
    }
}

#[test]
fn links_pipes_sockets_and_devices_are_made_and_finished() {
    let (_keep, root, target) = target();
    let mut nodes = vec![
        (&b"link"[..], Node::Symlink(Box::from(&b"/nowhere/\xff"[..]))),
        (b"pipe", Node::Fifo),
        (b"socket", Node::Socket),
    ];
    if is_root("devices") {
        nodes.push((b"null", Node::CharDevice(makedev(1, 3))));
        nodes.push((b"loop", Node::BlockDevice(makedev(7, 0))));
    }
    for (name, node) in nodes {
        match target.create_special(target.root(), name, &node) {
            Err(error) if matches!(node, Node::CharDevice(_) | Node::BlockDevice(_)) => {
                println!("skipped: devices cannot be made here: {error}");
                continue;
            }
            result => result.unwrap(),
        }
        let is_symlink = matches!(node, Node::Symlink(_));
        let wanted = metadata(0o640);
        let failures = target.finish_special(target.root(), name, &wanted, is_symlink, None);
        assert!(failures.is_empty(), "{failures:?}");
        let found = target.stat(target.root(), name).unwrap().unwrap();
        assert_eq!(found.mtime, wanted.mtime);
        assert!(is_symlink || found.mode == 0o640);
        if let Node::CharDevice(number) | Node::BlockDevice(number) = node {
            assert_eq!(found.device_number, number);
        }
    }
    assert_eq!(target.read_link(target.root(), b"link").unwrap(), b"/nowhere/\xff");
    target.link((target.root(), b"pipe"), (target.root(), b"second")).unwrap();
    assert_eq!(fs::metadata(root.join("second")).unwrap().nlink(), 2);
}

#[test]
fn sparse_writing_and_punching_leave_the_right_bytes() {
    let (_keep, root, target) = target();
    let file = target.create_file(target.root(), b"file", &metadata(0o644)).unwrap();
    let mut bytes = vec![0; 100_000];
    bytes[5..9].copy_from_slice(b"data");
    bytes[50_000..50_100].fill(7);
    bytes[99_999] = 1;
    let written = file.write_sparse_at(&bytes, 1000).unwrap();
    assert!(written < 20_000, "{written}");
    let found = fs::read(root.join("file")).unwrap();
    assert!(found[1000..] == bytes && found[..1000].iter().all(|byte| *byte == 0));
    assert!(!file.is_zero(0..60_000).unwrap() && file.is_zero(9_000..50_000).unwrap());
    file.punch_hole(40_000..60_000).unwrap();
    assert!(file.is_zero(9_000..100_000).unwrap());
    assert_eq!(file.length().unwrap(), 101_000);
}

#[test]
fn a_read_only_directory_is_writable_again_for_its_owner() {
    let (_keep, root, target) = target();
    fs::create_dir(root.join("closed")).unwrap();
    fs::set_permissions(root.join("closed"), fs::Permissions::from_mode(0o500)).unwrap();
    let directory = target.ensure_directory(target.root(), b"closed", true).unwrap();
    target.create_file(&directory, b"file", &metadata(0o644)).unwrap();
    assert!(target.finish_directory(&directory, &metadata(0o500)).is_empty());
    let mode = fs::metadata(root.join("closed")).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o500);
}

#[test]
fn a_full_disk_is_told_from_other_trouble() {
    let full = io::Error::from(Errno::NOSPC);
    assert!(matches!(TargetError::new("x", full), TargetError::Full { .. }));
    let quota = io::Error::from(Errno::DQUOT);
    assert!(matches!(TargetError::new("x", quota), TargetError::Full { .. }));
    let other = io::Error::from(Errno::ROFS);
    assert!(matches!(TargetError::new("x", other), TargetError::Io { .. }));
}
