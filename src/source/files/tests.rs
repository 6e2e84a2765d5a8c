//! Walks over real directories.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::fs::symlink;
use std::path::Path;

use super::*;
use crate::monitor::RecordingMonitor;
use crate::source::Readable;
use crate::tree::entry::Entry;
use crate::tree::entry::Node;
use crate::tree::filter::Pattern;

fn write(path: impl AsRef<Path>, content: impl AsRef<[u8]>) {
    fs::create_dir_all(path.as_ref().parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

/// A directory whose real path has no links in it, with these files (those ending in `/`: directories).
fn tree(files: &[&str]) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().canonicalize().unwrap();
    for file in files {
        if file.ends_with('/') {
            fs::create_dir_all(root.join(file)).unwrap();
        } else {
            write(root.join(file), *file);
        }
    }
    (directory, root)
}

fn excluding(patterns: &[&str]) -> FilesOptions {
    let patterns: Vec<_> = patterns.iter().copied().map(Pattern::new).collect();
    FilesOptions { exclude: ExcludeFilter::new(&patterns).unwrap(), ..FilesOptions::default() }
}

/// What is met, in order: the path below `below` (directories end in `/`), entry, readable.
type Met = (String, Entry, Option<Arc<dyn Readable>>);

fn walk_with(files: &mut Files, monitor: &RecordingMonitor, below: &Path) -> Vec<Met> {
    let (mut path, mut met) = (TreePath::root(), Vec::new());
    let mut depth = 0;
    let below = TreePath::parse(below.as_os_str().as_bytes()).unwrap();
    let show = |path: &TreePath, end: &str| {
        let text = format!("{path}{end}");
        path.starts_with(&below).then(|| text[below.as_bytes().len()..].to_string())
    };
    while let Some(step) = files.next(monitor).unwrap() {
        match step {
            Step::Enter(entry) => {
                assert_eq!(entry.name.is_empty(), depth == 0);
                path = if depth == 0 { path } else { path.join(&entry.name) };
                depth += 1;
                met.extend(show(&path, "/").map(|text| (text, entry, None)));
            }
            Step::Entry { entry, readable } => {
                let path = path.join(&entry.name);
                met.extend(show(&path, "").map(|text| (text, entry, Some(readable))));
            }
            Step::Leave => {
                path = path.parent().unwrap_or_else(TreePath::root);
                depth -= 1;
            }
        }
    }
    assert_eq!(depth, 0);
    met
}

fn names(met: &[Met]) -> Vec<&str> {
    met.iter().map(|(name, ..)| name.as_str()).collect()
}

/// Walks the sources below `root` without any problem and lists what is met there.
fn listing(root: &Path, sources: &[&str], options: FilesOptions) -> Vec<String> {
    let sources: Vec<_> = sources.iter().map(|source| root.join(source)).collect();
    let monitor = RecordingMonitor::default();
    let met = walk_with(&mut Files::new(&sources, options).unwrap(), &monitor, root);
    assert_eq!(monitor.problems(), []);
    met.into_iter().map(|(name, ..)| name).collect()
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[test]
fn entries_come_sorted_as_bytes_with_children_after_their_directory() {
    let (_keep, root) = tree(&["s/a/x", "s/a/y/z", "s/a-b", "s/a0", "s/B", "s/empty/", "other"]);
    assert_eq!(
        listing(&root, &["s"], FilesOptions::default()),
        [
            "/",
            "/s/",
            "/s/B",
            "/s/a/",
            "/s/a/x",
            "/s/a/y/",
            "/s/a/y/z",
            "/s/a-b",
            "/s/a0",
            "/s/empty/"
        ]
    );
}

#[test]
fn the_way_to_a_source_has_its_real_metadata() {
    let (_keep, root) = tree(&["s/f"]);
    fs::set_permissions(&root, fs::Permissions::from_mode(0o711)).unwrap();
    let mut files = Files::new(&[root.join("s/f")], FilesOptions::default()).unwrap();
    assert_eq!(files.paths(), [root.join("s/f").as_os_str().as_bytes()]);
    let met = walk_with(&mut files, &RecordingMonitor::default(), &root);
    assert_eq!(names(&met), ["/", "/s/", "/s/f"]);
    assert_eq!(met[0].1.metadata.mode, 0o711);
    let file = &met[2].1;
    assert_eq!((file.size(), file.metadata.links), (3, 1));
    assert!(file.metadata.inode != 0 && file.metadata.mtime.seconds > 0);
}

#[test]
fn overlapping_sources_are_met_once() {
    let (_keep, root) = tree(&["a/b/c", "a/d", "e/f", "e/g"]);
    let expected = ["/", "/a/", "/a/b/", "/a/b/c", "/a/d", "/e/", "/e/g"];
    let sources = ["e/g", "a/b", "a", "a/", "a/b/../b/c"];
    assert_eq!(listing(&root, &sources, FilesOptions::default()), expected);
}

#[test]
fn excluded_things_are_left_out_unless_they_lead_to_a_source() {
    let (_keep, root) = tree(&["s/keep", "s/x.tmp", "s/cache/a", "s/cache/b", "s/d/cache/q"]);
    assert_eq!(
        listing(&root, &["s", "s/cache/b"], excluding(&["*.tmp", "cache"])),
        ["/", "/s/", "/s/cache/", "/s/cache/b", "/s/d/", "/s/keep"]
    );
    let monitor = RecordingMonitor::default();
    let sources = [root.join("s/keep"), root.join("s/x.tmp")];
    let mut files = Files::new(&sources, excluding(&["*.tmp"])).unwrap();
    assert_eq!(names(&walk_with(&mut files, &monitor, &root)), ["/", "/s/", "/s/keep"]);
    assert_eq!(monitor.notes().len(), 1);
}

#[test]
fn cache_directories_keep_only_their_tag() {
    let (_keep, root) = tree(&["s/c/x", "s/c/d/y", "s/fake/x", "s/m/.nobackup", "s/m/z"]);
    write(root.join("s/c/CACHEDIR.TAG"), [CACHE_SIGNATURE, b"\n# more"].concat());
    write(root.join("s/fake/CACHEDIR.TAG"), "Signature: none");
    let options = FilesOptions {
        exclude_caches: true,
        exclude_if_present: vec![(b".nobackup".to_vec(), None)],
        ..FilesOptions::default()
    };
    assert_eq!(
        listing(&root, &["s"], options),
        [
            "/",
            "/s/",
            "/s/c/",
            "/s/c/CACHEDIR.TAG",
            "/s/fake/",
            "/s/fake/CACHEDIR.TAG",
            "/s/fake/x",
            "/s/m/",
            "/s/m/.nobackup"
        ]
    );
}

#[test]
fn ignore_files_count_below_their_directory() {
    let (_keep, root) =
        tree(&["s/a.o", "s/b/a.o", "s/b/k.o", "s/b/t/q", "s/t", "s/x/t/q", "s/z.c"]);
    write(root.join("s/.gitignore"), "*.o\n# comment\n/x/t\n");
    write(root.join("s/b/.gitignore"), "!k.o\nt/\n");
    let options =
        FilesOptions { ignore_files: vec![b".gitignore".to_vec()], ..FilesOptions::default() };
    assert_eq!(
        listing(&root, &["s"], options),
        [
            "/",
            "/s/",
            "/s/.gitignore",
            "/s/b/",
            "/s/b/.gitignore",
            "/s/b/k.o",
            "/s/t",
            "/s/x/",
            "/s/z.c"
        ]
    );
}

#[test]
fn large_files_are_left_out_when_asked() {
    let (_keep, root) = tree(&["s/small"]);
    write(root.join("s/large"), [0; 100]);
    let options = FilesOptions { exclude_larger_than: Some(99), ..FilesOptions::default() };
    assert_eq!(listing(&root, &["s"], options), ["/", "/s/", "/s/small"]);
}

#[test]
fn another_file_system_stays_an_empty_directory() {
    let (_keep, root) = tree(&["s/m/", "s/z"]);
    let mount = root.join("s/m");
    let run = |program: &str, arguments: &[&OsStr]| {
        let output = std::process::Command::new(program).args(arguments).output();
        output.is_ok_and(|output| output.status.success())
    };
    let tmpfs = ["-t", "tmpfs", "none"].map(OsStr::new);
    if !is_root() {
        println!("skipped: not root");
        return;
    }
    if !run("mount", &[&tmpfs[..], &[mount.as_os_str()]].concat()) {
        println!("skipped: no mounting of tmpfs");
        return;
    }
    write(mount.join("inside"), "x");
    let options = FilesOptions { one_file_system: true, ..FilesOptions::default() };
    let left_out = listing(&root, &["s"], options.clone());
    let named = listing(&root, &["s", "s/m"], options);
    assert!(run("umount", &[mount.as_os_str()]));
    assert_eq!(left_out, ["/", "/s/", "/s/m/", "/s/z"]);
    assert_eq!(named, ["/", "/s/", "/s/m/", "/s/m/inside", "/s/z"]);
}

#[test]
fn odd_names_are_only_bytes() {
    let (_keep, root) = tree(&[]);
    for name in [&b"new\nline"[..], b"\xff\xfe", b" ", b"-rf"] {
        write(root.join("s").join(OsStr::from_bytes(name)), name);
    }
    let mut files = Files::new(&[root.join("s")], FilesOptions::default()).unwrap();
    let met = walk_with(&mut files, &RecordingMonitor::default(), &root.join("s"));
    assert_eq!(names(&met), ["/", "/ ", "/-rf", "/new\\nline", "/\u{fffd}\u{fffd}"]);
    for (_, entry, readable) in &met[1..] {
        let file = readable.as_ref().unwrap().open().unwrap();
        let mut buffer = [0; 20];
        let length = file.read_at(&mut buffer, 0).unwrap();
        assert_eq!(&buffer[..length], &*entry.name);
        assert_eq!(file.stat().unwrap().unwrap().name, entry.name);
    }
}

#[test]
fn links_are_saved_and_not_followed() {
    let (_keep, root) = tree(&["real/f", "s/"]);
    let target = "t/".repeat(1500);
    symlink(&target, root.join("s/long")).unwrap();
    symlink("real", root.join("link")).unwrap();
    let root_names = |source: &str| listing(&root, &[source], FilesOptions::default());
    assert_eq!(root_names("link"), ["/", "/link"]);
    assert_eq!(root_names("link/"), ["/", "/real/", "/real/f"]);
    assert_eq!(root_names("link/f"), ["/", "/real/", "/real/f"]);
    let mut files = Files::new(&[root.join("s")], FilesOptions::default()).unwrap();
    let met = walk_with(&mut files, &RecordingMonitor::default(), &root.join("s"));
    assert_eq!(met[1].1.node, Node::Symlink(target.into_bytes().into_boxed_slice()));
    assert_eq!(met[1].2.as_ref().unwrap().attributes().unwrap(), []);
    assert!(met[1].2.as_ref().unwrap().open().is_err());
}

#[test]
fn a_source_appears_at_another_path() {
    let (_keep, root) = tree(&["s/a", "s/b/c", "f"]);
    let at = |source: &str, path: &str, below: &str| {
        let as_path = Some(TreePath::parse(path).unwrap());
        let options = FilesOptions { as_path, ..excluding(&["/x/y/a"]) };
        let mut files = Files::new(&[root.join(source)], options)?;
        assert_eq!(files.paths(), [path.as_bytes()]);
        let met = walk_with(&mut files, &RecordingMonitor::default(), Path::new(below));
        if let (_, entry, Some(readable)) = &met[met.len() - 1] {
            assert_eq!(readable.open().unwrap().stat().unwrap().unwrap().name, entry.name);
        }
        Ok::<_, SourceError>(met.into_iter().map(|(name, ..)| name).collect::<Vec<_>>())
    };
    assert_eq!(at("s", "/x/y", "/x").unwrap(), ["/", "/y/", "/y/b/", "/y/b/c"]);
    assert_eq!(at("f", "/x/y", "/x").unwrap(), ["/", "/y"]);
    assert_eq!(at("s", "/", "/").unwrap(), ["/", "a", "b/", "b/c"]);
    assert!(matches!(at("f", "/", "/"), Err(SourceError::Invalid(_))));
}

#[test]
fn missing_sources_are_reported_and_fatal_only_together() {
    let (_keep, root) = tree(&["s/f"]);
    let (there, missing) = (root.join("s"), root.join("missing/deeper"));
    let new = |paths: &[&Path]| {
        let paths: Vec<_> = paths.iter().map(|path| path.to_path_buf()).collect();
        Files::new(&paths, FilesOptions::default())
    };
    assert!(matches!(new(&[&missing]), Err(SourceError::NotFound { .. })));
    assert!(matches!(new(&[]), Err(SourceError::Invalid(_))));
    assert!(matches!(new(&[Path::new("relative")]), Err(SourceError::Invalid(_))));
    let monitor = RecordingMonitor::default();
    let met = walk_with(&mut new(&[&missing, &there]).unwrap(), &monitor, &root);
    assert_eq!(names(&met), ["/", "/s/", "/s/f"]);
    assert_eq!(monitor.problems()[0].item, missing.to_string_lossy());
}

#[test]
fn thousands_of_levels_are_walked_with_few_open_directories() {
    let (_keep, root) = tree(&["s/"]);
    const LEVELS: usize = 3_000;
    let flags = rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::RDONLY;
    let mode = rustix::fs::Mode::from_raw_mode(0o700);
    let mut directory = rustix::fs::open(root.join("s"), flags, mode).unwrap();
    let open = |parent: &std::os::fd::OwnedFd, name: &str| {
        rustix::fs::openat(parent, name, flags, mode).unwrap()
    };
    for _ in 0..LEVELS {
        rustix::fs::mkdirat(&directory, "directory", mode).unwrap();
        rustix::fs::symlinkat("nowhere", &directory, "z").unwrap();
        directory = open(&directory, "directory");
    }
    let file_flags = rustix::fs::OFlags::CREATE | rustix::fs::OFlags::WRONLY;
    drop(rustix::fs::openat(&directory, "bottom", file_flags, mode).unwrap());

    let monitor = RecordingMonitor::default();
    let mut files = Files::new(&[root.join("s")], FilesOptions::default()).unwrap();
    let (mut depth, mut deepest, mut links, mut readables) = (0, 0, 0, Vec::new());
    while let Some(step) = files.next(&monitor).unwrap() {
        match step {
            Step::Enter(_) => depth += 1,
            Step::Leave => depth -= 1,
            Step::Entry { readable, .. } => {
                links += 1;
                readables.push(readable);
            }
        }
        deepest = deepest.max(depth);
        assert!(files.open.open_count() <= 201);
    }
    assert_eq!(monitor.problems(), []);
    assert_eq!(links, LEVELS + 1);
    assert!(deepest > LEVELS);
    drop(files);
    // Directories that were closed meanwhile are found again.
    assert!(readables[0].open().is_ok());
    assert!(readables[0].attributes().is_ok());
    assert!(readables[0].display().ends_with("/directory/bottom"));
    readables.truncate(1);
    drop(readables);

    // Paths this long cannot be removed in one call.
    for _ in 0..LEVELS {
        directory = open(&directory, "..");
        let _ = rustix::fs::unlinkat(&directory, "directory/bottom", rustix::fs::AtFlags::empty());
        let removed = rustix::fs::unlinkat(&directory, "directory", rustix::fs::AtFlags::REMOVEDIR);
        removed.unwrap();
        rustix::fs::unlinkat(&directory, "z", rustix::fs::AtFlags::empty()).unwrap();
    }
}

#[test]
fn what_vanishes_during_the_walk_is_reported_and_left_out() {
    let (_keep, root) = tree(&["s/a", "s/b", "s/c/x", "s/d/x", "s/e"]);
    let monitor = RecordingMonitor::default();
    let mut files = Files::new(&[root.join("s")], FilesOptions::default()).unwrap();
    let mut seen = Vec::new();
    while let Some(step) = files.next(&monitor).unwrap() {
        if let Step::Entry { entry, .. } | Step::Enter(entry) = step {
            if *entry.name == *b"a" {
                fs::remove_file(root.join("s/b")).unwrap();
                fs::remove_dir_all(root.join("s/c")).unwrap();
                // A directory that becomes a link must not lead us away.
                fs::remove_dir_all(root.join("s/d")).unwrap();
                symlink("/", root.join("s/d")).unwrap();
            }
            seen.push(String::from_utf8_lossy(&entry.name).into_owned());
        }
    }
    assert!(seen.ends_with(&["s", "a", "d", "e"].map(String::from)), "{seen:?}");
    let problems = monitor.problems();
    assert_eq!(problems.len(), 2);
    assert!(problems.iter().all(|problem| problem.message.contains("vanished")), "{problems:?}");
}

#[test]
fn an_unreadable_directory_is_reported_and_kept_by_name() {
    if is_root() {
        println!("skipped: root may read everything");
        return;
    }
    let (_keep, root) = tree(&["s/closed/x", "s/open"]);
    let closed = root.join("s/closed");
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o0)).unwrap();
    let monitor = RecordingMonitor::default();
    let mut files = Files::new(&[root.join("s")], FilesOptions::default()).unwrap();
    let met = walk_with(&mut files, &monitor, &root.join("s"));
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!(names(&met), ["/", "/closed/", "/open"]);
    assert_eq!(monitor.problems().len(), 1);
}

#[test]
fn attributes_of_files_and_directories_are_read_sorted() {
    let (_keep, root) = tree(&["s/f"]);
    let set = |path: &Path, name: &str, value: &[u8]| {
        rustix::fs::setxattr(path, name, value, rustix::fs::XattrFlags::empty()).is_ok()
    };
    let long = [7; 2000];
    if !set(&root.join("s/f"), "user.z", &long) {
        println!("skipped: no extended attributes here");
        return;
    }
    assert!(set(&root.join("s/f"), "user.a", b"") && set(&root.join("s"), "user.d", b"dir"));
    assert!(set(&root, "user.way", b"way"));
    let mut files = Files::new(&[root.join("s")], FilesOptions::default()).unwrap();
    let met = walk_with(&mut files, &RecordingMonitor::default(), &root);
    let values = |attributes: &[crate::tree::entry::ExtendedAttribute]| -> Vec<(String, Vec<u8>)> {
        let text = |name: &[u8]| String::from_utf8_lossy(name).into_owned();
        let own = attributes.iter().filter(|attribute| attribute.name.starts_with(b"user."));
        own.map(|attribute| (text(&attribute.name), attribute.value.to_vec())).collect()
    };
    assert_eq!(values(&met[0].1.metadata.attributes), [("user.way".into(), b"way".to_vec())]);
    assert_eq!(values(&met[1].1.metadata.attributes), [("user.d".into(), b"dir".to_vec())]);
    let expected = [("user.a".to_string(), vec![]), ("user.z".to_string(), long.to_vec())];
    let readable = met[2].2.as_ref().unwrap();
    assert_eq!(values(&readable.attributes().unwrap()), expected);
    let opened = readable.open().unwrap().stat().unwrap().unwrap();
    assert_eq!(values(&opened.metadata.attributes), expected);
}

#[test]
fn holes_are_told() {
    let (_keep, root) = tree(&["s/"]);
    const MEGABYTE: u64 = 1 << 20;
    let file = fs::File::create(root.join("s/sparse")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[1; 4096], 4 * MEGABYTE).unwrap();
    file.set_len(8 * MEGABYTE).unwrap();
    let mut files = Files::new(&[root.join("s")], FilesOptions::default()).unwrap();
    let met = walk_with(&mut files, &RecordingMonitor::default(), &root.join("s"));
    let open = met[1].2.as_ref().unwrap().open().unwrap();
    let size = 8 * MEGABYTE;
    let data = open.next_data(0, size).unwrap().unwrap();
    if data == (0..size) {
        println!("skipped: no holes here");
        return;
    }
    assert_eq!(data, 4 * MEGABYTE..4 * MEGABYTE + 4096);
    assert_eq!(open.next_data(data.end, size).unwrap(), None);
    assert_eq!(open.next_data(0, MEGABYTE).unwrap(), None);
    assert_eq!(open.next_data(size, size).unwrap(), None);
}

/// Walks `root/s` and has all done that is handed to those who look ahead, each time when there is more of it. What
/// was met, and what was looked at, below `root`.
fn walk_with_eyes_ahead(root: &Path, options: FilesOptions) -> (Vec<String>, Vec<String>) {
    let monitor = RecordingMonitor::default();
    let mut files = Files::new(&[root.join("s")], options).unwrap();
    files.ahead = Ahead::for_test(true);
    let (mut met, mut looked_at) = (Vec::new(), Vec::new());
    while let Some(step) = files.next(&monitor).unwrap() {
        if let Step::Enter(entry) | Step::Entry { entry, .. } = step {
            met.push(String::from_utf8_lossy(&entry.name).into_owned());
        }
        let root = root.to_str().unwrap();
        for (path, result) in files.ahead.do_all() {
            result.unwrap();
            looked_at.push(path.strip_prefix(root).unwrap().to_string());
        }
    }
    assert_eq!(monitor.problems(), []);
    (met, looked_at)
}

#[test]
fn looking_ahead_changes_nothing_that_is_told_and_goes_nowhere_else() {
    let (_keep, root) = tree(&[
        "s/a",
        "s/b/c/x",
        "s/b/y",
        "s/out/z/x",
        "s/ignored/x",
        "s/kept/tagged/x",
        "elsewhere/x",
        "s/kept/tagged/below/x",
    ]);
    write(root.join("s/.ignore"), "ignored\n");
    write(root.join("s/kept/tagged/CACHEDIR.TAG"), markers::CACHE_SIGNATURE);
    symlink(root.join("elsewhere"), root.join("s/link")).unwrap();
    let options = || FilesOptions {
        exclude_caches: true,
        one_file_system: true,
        ignore_files: vec![b".ignore".to_vec()],
        ..excluding(&["out"])
    };
    let (met, looked_at) = walk_with_eyes_ahead(&root, options());
    let mut files = Files::new(&[root.join("s")], options()).unwrap();
    files.ahead = Ahead::for_test(false);
    let monitor = RecordingMonitor::default();
    let expected = walk_with(&mut files, &monitor, Path::new("/"));
    assert!(files.ahead.do_all().is_empty(), "asked twice about what is in memory");
    let expected: Vec<_> =
        expected.iter().map(|(_, entry, _)| String::from_utf8_lossy(&entry.name)).collect();
    assert_eq!(met, expected);
    assert_eq!(
        looked_at,
        ["/s/b/", "/s/kept/", "/s/.ignore", "/s/a", "/s/link", "/s/b/c/", "/s/kept/tagged/"]
    );
}

#[test]
fn every_entry_of_a_large_directory_is_looked_at_once_and_a_part_at_a_time() {
    let (_keep, root) = tree(&["s/large/"]);
    for number in 0..=ahead::NAMES {
        fs::write(root.join(format!("s/large/{number:05}")), "").unwrap();
    }
    let mut files = Files::new(&[root.join("s")], FilesOptions::default()).unwrap();
    files.ahead = Ahead::for_test(true);
    let monitor = RecordingMonitor::default();
    let (mut looked_at, mut most) = (Vec::new(), 0);
    while files.next(&monitor).unwrap().is_some() {
        let done = files.ahead.do_all();
        most = most.max(done.len());
        looked_at.extend(done.into_iter().map(|(path, _)| path));
    }
    assert!(most < ahead::NAMES / 2, "{most}");
    looked_at.retain(|path| !path.ends_with('/'));
    let count = looked_at.len();
    looked_at.sort();
    looked_at.dedup();
    assert_eq!((count, looked_at.len()), (ahead::NAMES + 1, ahead::NAMES + 1));
}

#[test]
fn files_are_fetched_ahead_only_when_they_were_announced() {
    let (_keep, root) = tree(&["s/a", "s/b", "s/c"]);
    let mut files = Files::new(&[root.join("s")], FilesOptions::default()).unwrap();
    files.ahead = Ahead::for_test(true);
    let monitor = RecordingMonitor::default();
    let met = walk_with(&mut files, &monitor, &root);
    files.ahead.do_all();
    for (name, entry, readable) in &met {
        let Some(readable) = readable else { continue };
        if name != "/s/b" {
            readable.announce(entry.size());
        }
    }
    fs::remove_file(root.join("s/c")).unwrap();
    let done = files.ahead.do_all();
    assert_eq!(done.len(), 2, "{done:?}");
    let ((first, fetched), (second, vanished)) = (&done[0], &done[1]);
    assert!(first.ends_with("/s/a") && fetched.is_ok());
    // What vanished is no problem here: who reads it hears so.
    assert!(second.ends_with("/s/c") && vanished.is_err());
    assert_eq!(monitor.problems(), []);
    let vanished = met.last().unwrap().2.as_ref().unwrap();
    assert_eq!(vanished.open().err().unwrap().kind(), io::ErrorKind::NotFound);
}

#[test]
fn only_so_much_waits_to_be_looked_at() {
    let (_keep, root) = tree(&["s/a"]);
    let mut files = Files::new(&[root.join("s")], FilesOptions::default()).unwrap();
    files.ahead = Ahead::for_test(true);
    let met = walk_with(&mut files, &RecordingMonitor::default(), &root);
    files.ahead.do_all();
    let readable = met.last().unwrap().2.clone().unwrap();
    for _ in 0..2 * Ahead::MAX_TASKS {
        readable.announce(1);
    }
    assert_eq!(files.ahead.waiting_count(), Ahead::MAX_TASKS);
    // After the walk nothing is looked at.
    drop(files);
    readable.announce(1);
    assert!(readable.open().is_ok());
}
