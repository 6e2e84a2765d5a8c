//! Differences: between two snapshots and between a snapshot and the disk, against plain maps.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, Permissions};
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use aumbry::format::snapshot::Snapshot;
use aumbry::monitor::{Monitor, Problem, RecordingMonitor};
use aumbry::ops::OpsError;
use aumbry::ops::diff::{Change, DiffOptions, DiffSummary, Other, diff};
use aumbry::repository::Repository;
use aumbry::source::files::{Files, FilesOptions};
use aumbry::source::{Source, SourceError, Step};
use aumbry::store::{Store, layout};
use aumbry::tree::entry::{Metadata, Node};
use aumbry::tree::filter::{ExcludeFilter, Pattern};
use proptest::prelude::{Just, Strategy, any, prop_oneof};

use crate::model::{create_quick, for_all, open_quick};
use crate::support::{back_up, noise, snapshots};

/// Everything, with metadata.
fn everything() -> DiffOptions {
    DiffOptions {
        subtree: "/".parse().unwrap(),
        metadata: true,
        content: false,
        exclude: ExcludeFilter::default(),
        memory_budget: 4 << 20,
    }
}

/// What is told: modifiers and paths, in order.
type Told = Vec<(String, String)>;

fn run(
    repository: &Repository,
    snapshot: &Snapshot,
    other: Other<'_>,
    options: &DiffOptions,
    monitor: &dyn Monitor,
) -> Result<(Told, DiffSummary), OpsError> {
    let mut told = Vec::new();
    let mut tell = |change: &Change<'_>| {
        told.push((change.modifier().to_string(), change.path.to_string()));
        Ok(())
    };
    let summary = diff(repository, snapshot, other, options, &mut tell, monitor)?;
    Ok((told, summary))
}

/// Compares the first two snapshots; expects no trouble.
fn between(repository: &Repository, options: &DiffOptions) -> (Told, DiffSummary) {
    let snapshots = snapshots(repository);
    let monitor = RecordingMonitor::default();
    let other = Other::Snapshot(&snapshots[1].1, options.subtree.clone());
    let result = run(repository, &snapshots[0].1, other, options, &monitor).unwrap();
    assert_eq!(monitor.problems(), []);
    result
}

fn source(folder: &Path) -> Files {
    let options =
        FilesOptions { as_path: Some("/tree".parse().unwrap()), ..FilesOptions::default() };
    Files::new(&[PathBuf::from(folder)], options).unwrap()
}

/// Compares the first snapshot with a folder; expects no trouble.
fn with_disk(repository: &Repository, folder: &Path, options: &DiffOptions) -> (Told, DiffSummary) {
    let monitor = RecordingMonitor::default();
    let mut source = source(folder);
    let first = &snapshots(repository)[0].1;
    let other = Other::Source(Some(&mut source));
    let result = run(repository, first, other, options, &monitor).unwrap();
    assert_eq!(monitor.problems(), []);
    result
}

fn told(lines: &[(&str, &str)]) -> Told {
    lines.iter().map(|(modifier, path)| (modifier.to_string(), path.to_string())).collect()
}

/// An entry of a plain tree. Modes and times come from few values, so that some are the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plain {
    Folder { mode: u32, time: u64 },
    File { bytes: Vec<u8>, mode: u32, time: u64 },
    Link { target: String },
}

impl Plain {
    fn kind(&self) -> u8 {
        match self {
            Plain::Folder { .. } => 0,
            Plain::File { .. } => 1,
            Plain::Link { .. } => 2,
        }
    }
}

/// Paths below the folder; the folder itself is the empty path. Order is that of a walk.
pub type PlainTree = BTreeMap<Vec<String>, Plain>;

fn plain() -> impl Strategy<Value = Plain> {
    let mode = || prop_oneof![Just(0o700), Just(0o755)];
    let length = prop_oneof![0usize..60, 1000usize..1100, 0usize..200_000];
    prop_oneof![
        2 => (mode(), 1u64..3).prop_map(|(mode, time)| Plain::Folder { mode, time }),
        4 => (length, 0u64..2, any::<bool>(), mode(), 1u64..3).prop_map(
            |(length, seed, ends_with_zeros, mode, time)| {
                let mut bytes = noise(length, seed);
                if ends_with_zeros {
                    bytes.resize(length + 5000, 0);
                }
                Plain::File { bytes, mode, time }
            }
        ),
        1 => "[xy]".prop_map(|target| Plain::Link { target }),
    ]
}

/// Entries at random paths; what lies below something that is no folder is left out.
fn plain_tree() -> impl Strategy<Value = PlainTree> {
    let path = proptest::collection::vec("[abc]|a-", 1..4);
    proptest::collection::vec((path, plain()), 0..20).prop_map(|entries| {
        let mut tree = PlainTree::from([(Vec::new(), Plain::Folder { mode: 0o755, time: 1 })]);
        for (path, entry) in entries {
            let above = (1..path.len()).map(|length| path[..length].to_vec());
            let fits = above.clone().all(|path| {
                tree.get(&path).is_none_or(|above| matches!(above, Plain::Folder { .. }))
            });
            if !fits || tree.contains_key(&path) {
                continue;
            }
            for path in above {
                tree.entry(path).or_insert(Plain::Folder { mode: 0o755, time: 1 });
            }
            tree.insert(path, entry);
        }
        tree
    })
}

/// Two trees that have most in common.
pub fn two_trees() -> impl Strategy<Value = (PlainTree, PlainTree)> {
    let keep = proptest::collection::vec(any::<bool>(), 64);
    (plain_tree(), plain_tree(), keep).prop_map(|(first, other, keep)| {
        let mut second = other;
        for ((path, entry), keep) in first.iter().zip(keep) {
            let is_folder =
                |path: &[String]| matches!(second.get(path), Some(Plain::Folder { .. }));
            let fits = (0..path.len()).all(|length| is_folder(&path[..length]));
            let has_below = second.keys().any(|it| it.len() > path.len() && it.starts_with(path));
            if keep && fits && (!has_below || matches!(entry, Plain::Folder { .. })) {
                second.insert(path.clone(), entry.clone());
            }
        }
        (first, second)
    })
}

/// Makes the folder what the tree says. `holes`: runs of zeros at the ends of files are holes.
pub fn write(tree: &PlainTree, folder: &Path, holes: bool) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.symlink_metadata().unwrap().is_dir() {
            true => fs::remove_dir_all(path).unwrap(),
            false => fs::remove_file(path).unwrap(),
        }
    }
    let real = |path: &[String]| path.iter().fold(folder.to_path_buf(), |at, name| at.join(name));
    let stamp = |path: &Path, mode: u32, time: u64| {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        let file = File::open(path).unwrap();
        file.set_modified(UNIX_EPOCH + Duration::from_secs(time)).unwrap();
    };
    for (path, entry) in tree {
        let at = real(path);
        match entry {
            Plain::Folder { .. } if path.is_empty() => {}
            Plain::Folder { .. } => fs::create_dir(&at).unwrap(),
            Plain::Link { target } => symlink(target, &at).unwrap(),
            Plain::File { bytes, mode, time } => {
                let file = File::create(&at).unwrap();
                let zeros = bytes.iter().rev().take_while(|byte| **byte == 0).count();
                let end = if holes { bytes.len() - zeros } else { bytes.len() };
                file.write_all_at(&bytes[..end], 0).unwrap();
                file.set_len(bytes.len() as u64).unwrap();
                stamp(&at, *mode, *time);
            }
        }
    }
    // From below, because what is made in a folder changes its time.
    for (path, entry) in tree.iter().rev() {
        if let Plain::Folder { mode, time } = entry {
            stamp(&real(path), *mode, *time);
        }
    }
}

/// What the maps say that differs, and how many files, and bytes in them, are the same.
fn differences(before: &PlainTree, after: &PlainTree) -> (Told, (u64, u64)) {
    let mut lines = Told::new();
    let mut same = (0, 0);
    for path in before.keys().chain(after.keys()).collect::<BTreeSet<_>>() {
        let modifier = match (before.get(path), after.get(path)) {
            (None, _) => "+",
            (_, None) => "-",
            (Some(one), Some(other)) if one.kind() != other.kind() => "T",
            (
                Some(Plain::File { bytes: one, mode, time }),
                Some(Plain::File { bytes: other, mode: other_mode, time: other_time }),
            ) => {
                if one == other {
                    same = (same.0 + 1, same.1 + one.len() as u64);
                }
                match (one == other, time == other_time, mode == other_mode) {
                    (true, true, true) => continue,
                    (true, _, _) => "U",
                    (false, true, _) => "M?",
                    (false, false, _) => "M",
                }
            }
            (Some(one), Some(other)) if one == other => continue,
            (Some(Plain::Link { .. }), _) => "M",
            _ => "U",
        };
        let names: String = path.iter().map(|name| format!("/{name}")).collect();
        lines.push((modifier.to_string(), format!("/tree{names}")));
    }
    (lines, same)
}

/// Without what the maps do not know: the times of links.
fn without_link_times(lines: Told, tree: &PlainTree) -> Told {
    let is_link = |path: &str| {
        let names: Vec<_> = path.split('/').skip(2).map(str::to_string).collect();
        matches!(tree.get(&names), Some(Plain::Link { .. }))
    };
    lines.into_iter().filter(|(modifier, path)| modifier != "U" || !is_link(path)).collect()
}

#[test]
fn any_two_trees_differ_as_the_maps_say() {
    for_all(48, (two_trees(), any::<bool>()), |((before, after), holes)| {
        let folder = tempfile::tempdir().unwrap();
        let repository = create_quick(Store::memory(), None);
        write(&before, folder.path(), holes);
        back_up(&repository, folder.path());
        write(&after, folder.path(), !holes);
        back_up(&repository, folder.path());
        let (wanted, same) = differences(&before, &after);
        let plain = DiffOptions { metadata: false, ..everything() };
        let without_metadata: Told =
            wanted.iter().filter(|(modifier, _)| modifier != "U").cloned().collect();

        let (lines, summary) = between(&repository, &everything());
        assert_eq!(without_link_times(lines, &after), wanted, "two snapshots");
        assert_eq!(summary.unchanged, Some(same), "two snapshots");
        assert_eq!(between(&repository, &plain).0, without_metadata);

        let (lines, on_disk) = with_disk(&repository, folder.path(), &everything());
        assert_eq!(without_link_times(lines, &after), wanted, "a snapshot and the disk");
        assert_eq!(on_disk.unchanged, Some(same), "a snapshot and the disk");
        assert_eq!(on_disk.added, summary.added);
        assert_eq!(on_disk.removed, summary.removed);
        assert_eq!(on_disk.changed_bytes_after, summary.changed_bytes_after);
        let content = DiffOptions { content: true, ..plain };
        assert_eq!(with_disk(&repository, folder.path(), &content).0, without_metadata);
    });
}

/// A folder with enough names for several nodes, and something else, in two versions. What is in the files does
/// not shrink, so that the nodes fill several frames.
pub fn wide(folder: &Path, repository: &Repository) -> Told {
    for name in ["wide", "deep/deeper"] {
        fs::create_dir_all(folder.join(name)).unwrap();
    }
    for number in 0..3000 {
        let bytes = noise(40, number);
        fs::write(folder.join(format!("wide/entry-{number:04}")), bytes).unwrap();
    }
    fs::write(folder.join("deep/deeper/text"), b"first").unwrap();
    back_up(repository, folder);
    fs::write(folder.join("wide/entry-0007"), b"changed").unwrap();
    fs::write(folder.join("wide/entry-0500-and-a-half"), b"new").unwrap();
    for number in 1000..1400 {
        fs::remove_file(folder.join(format!("wide/entry-{number:04}"))).unwrap();
    }
    fs::remove_file(folder.join("wide/entry-2999")).unwrap();
    fs::write(folder.join("deep/deeper/text"), b"second").unwrap();
    back_up(repository, folder);
    let mut wanted = told(&[
        ("M", "/tree/deep/deeper/text"),
        ("M", "/tree/wide/entry-0007"),
        ("+", "/tree/wide/entry-0500-and-a-half"),
    ]);
    wanted.extend((1000..1400).map(|it| ("-".to_string(), format!("/tree/wide/entry-{it:04}"))));
    wanted.extend(told(&[("-", "/tree/wide/entry-2999")]));
    wanted
}

#[test]
fn folders_of_several_nodes_are_compared_node_by_node() {
    let folder = tempfile::tempdir().unwrap();
    let repository = create_quick(Store::memory(), None);
    let wanted = wide(folder.path(), &repository);
    let options = DiffOptions { metadata: false, ..everything() };
    let (lines, summary) = between(&repository, &options);
    assert_eq!(lines, wanted);
    assert_eq!(summary.unchanged, Some((2598, 2598 * 40)));
    assert_eq!(with_disk(&repository, folder.path(), &options).0, wanted);
}

#[test]
fn trees_that_are_the_same_are_not_read() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::memory();
    let repository = create_quick(store.clone(), None);
    fs::write(folder.path().join("a"), noise(5000, 1)).unwrap();
    back_up(&repository, folder.path());
    back_up(&repository, folder.path());
    for object in store.list(layout::PACKS).unwrap() {
        store.delete(&object.name).unwrap();
    }
    let (lines, summary) = between(&repository, &everything());
    assert_eq!((lines, summary.unchanged), (Told::new(), Some((1, 5000))));
}

/// A copy of the store in which a bit of one object is another, so many eighths behind its beginning.
pub fn with_a_flipped_bit(store: &Store, name: &str, eighths: usize) -> Store {
    let copy = Store::memory();
    for other in store.list("").unwrap() {
        let mut bytes = store.get(&other.name).unwrap();
        if other.name == name {
            let at = bytes.len() * eighths / 8;
            bytes[at] ^= 1;
        }
        copy.create(&other.name, bytes).unwrap();
    }
    copy
}

#[test]
fn damage_hides_differences_and_makes_none_up() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::memory();
    let repository = create_quick(store.clone(), None);
    let wanted = wide(folder.path(), &repository);
    let options = DiffOptions { metadata: false, ..everything() };
    let mut hidden = 0;
    let mut partly = 0;
    for object in store.list(layout::PACKS).unwrap() {
        for place in 1..8 {
            let damaged = open_quick(with_a_flipped_bit(&store, &object.name, place), None);
            let snapshots = snapshots(&damaged);
            let monitor = RecordingMonitor::default();
            let other = Other::Snapshot(&snapshots[1].1, options.subtree.clone());
            let (lines, summary) =
                run(&damaged, &snapshots[0].1, other, &options, &monitor).unwrap();
            let all: BTreeSet<_> = wanted.iter().collect();
            assert!(lines.iter().all(|line| all.contains(line)), "{} at {place}", object.name);
            assert_eq!(lines != wanted, !monitor.problems().is_empty(), "{}", object.name);
            assert_eq!(summary.unchanged.is_none(), lines != wanted);
            hidden += u32::from(lines != wanted);
            partly += u32::from(lines != wanted && !lines.is_empty());

            let monitor = RecordingMonitor::default();
            let mut source = source(folder.path());
            let other = Other::Source(Some(&mut source));
            let (lines, _) = run(&damaged, &snapshots[0].1, other, &options, &monitor).unwrap();
            assert!(lines.iter().all(|line| all.contains(line)), "{} at {place}", object.name);
        }
    }
    assert!(hidden > partly && partly > 0, "{hidden} {partly}");
}

/// Tells what another source tells, but for a name that it cannot read.
struct Troubled {
    inner: Files,
    name: &'static [u8],
    after: Option<Step>,
}

impl Source for Troubled {
    fn next(&mut self, monitor: &dyn Monitor) -> Result<Option<Step>, SourceError> {
        if let Some(step) = self.after.take() {
            return Ok(Some(step));
        }
        let step = self.inner.next(monitor)?;
        let hits = match &step {
            Some(Step::Enter(entry) | Step::Entry { entry, .. }) => *entry.name == *self.name,
            _ => false,
        };
        if !hits {
            return Ok(step);
        }
        let item = format!("/elsewhere/{}", String::from_utf8_lossy(self.name));
        monitor.problem(Problem { item, during: "scan", message: "refused".into() });
        if let Some(Step::Entry { .. }) = step {
            return self.next(monitor);
        }
        // A folder that cannot be opened is told as empty.
        let mut depth = 1;
        while depth > 0 {
            match self.inner.next(monitor)? {
                Some(Step::Enter(_)) => depth += 1,
                Some(Step::Leave) => depth -= 1,
                _ => {}
            }
        }
        self.after = Some(Step::Leave);
        Ok(step)
    }

    fn paths(&self) -> Vec<Vec<u8>> {
        self.inner.paths()
    }
}

#[test]
fn what_the_disk_does_not_tell_is_not_said_to_be_gone() {
    let folder = tempfile::tempdir().unwrap();
    let repository = create_quick(Store::memory(), None);
    fs::create_dir_all(folder.path().join("b/c")).unwrap();
    for name in ["a", "b/c/one", "b/two", "d"] {
        fs::write(folder.path().join(name), name).unwrap();
    }
    back_up(&repository, folder.path());
    fs::remove_file(folder.path().join("d")).unwrap();
    let first = &snapshots(&repository)[0].1;
    let options = DiffOptions { metadata: false, ..everything() };
    for name in [&b"a"[..], b"two", b"c", b"b"] {
        let inner = source(folder.path());
        let mut source = Troubled { inner, name, after: None };
        let monitor = RecordingMonitor::default();
        let other = Other::Source(Some(&mut source));
        let (lines, summary) = run(&repository, first, other, &options, &monitor).unwrap();
        assert_eq!(lines, told(&[("-", "/tree/d")]), "{}", String::from_utf8_lossy(name));
        assert_eq!((monitor.problems().len(), summary.unchanged), (1, None));
    }
}

/// Tells of every file the metadata that it had in an earlier walk: bytes rot without a trace.
struct Still {
    inner: Files,
    metadata: BTreeMap<Box<[u8]>, Metadata>,
}

impl Source for Still {
    fn next(&mut self, monitor: &dyn Monitor) -> Result<Option<Step>, SourceError> {
        let mut step = self.inner.next(monitor)?;
        if let Some(Step::Entry { entry, .. }) = &mut step
            && let Node::File(_) = entry.node
        {
            let metadata = entry.metadata.clone();
            entry.metadata = self.metadata.entry(entry.name.clone()).or_insert(metadata).clone();
        }
        Ok(step)
    }

    fn paths(&self) -> Vec<Vec<u8>> {
        self.inner.paths()
    }
}

#[test]
fn bytes_that_rot_are_found_when_every_file_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let repository = create_quick(Store::memory(), None);
    for (name, length) in [("inline", 20), ("chunk", 900), ("chunks", 90_000), ("list", 400_000)] {
        fs::write(folder.path().join(name), noise(length, 1)).unwrap();
    }
    back_up(&repository, folder.path());
    let mut still = Still { inner: source(folder.path()), metadata: BTreeMap::new() };
    while still.next(&RecordingMonitor::default()).unwrap().is_some() {}
    let first = &snapshots(&repository)[0].1;
    let mut run_with = |content| {
        still.inner = source(folder.path());
        let options = DiffOptions { content, ..everything() };
        let other = Other::Source(Some(&mut still));
        let monitor = RecordingMonitor::default();
        let (lines, summary) = run(&repository, first, other, &options, &monitor).unwrap();
        // The folder's own time is another after a change.
        let files = lines.into_iter().filter(|(modifier, _)| modifier != "U");
        (files.collect::<Told>(), summary.suspect_files)
    };
    assert_eq!(run_with(true), (Told::new(), 0));
    for name in ["inline", "chunk", "chunks", "list"] {
        let file = File::options().read(true).write(true).open(folder.path().join(name)).unwrap();
        let last = file.metadata().unwrap().len() - 1;
        let mut byte = [0];
        file.read_exact_at(&mut byte, last).unwrap();
        file.write_all_at(&[byte[0] ^ 1], last).unwrap();
    }
    assert_eq!(run_with(false), (Told::new(), 0));
    let all = ["chunk", "chunks", "inline", "list"].map(|name| format!("/tree/{name}"));
    let wanted: Told = all.into_iter().map(|path| ("M?".to_string(), path)).collect();
    assert_eq!(run_with(true), (wanted, 4));
}

#[test]
fn parts_and_patterns_limit_what_is_compared() {
    let folder = tempfile::tempdir().unwrap();
    let repository = create_quick(Store::memory(), None);
    for name in ["x/deep", "y"] {
        fs::create_dir_all(folder.path().join(name)).unwrap();
    }
    for name in ["x/deep/a", "x/b.tmp", "y/c", "single"] {
        fs::write(folder.path().join(name), b"first").unwrap();
    }
    back_up(&repository, folder.path());
    for name in ["x/deep/a", "x/b.tmp", "y/c", "single"] {
        fs::write(folder.path().join(name), b"second").unwrap();
    }
    fs::create_dir(folder.path().join("x/cache")).unwrap();
    fs::write(folder.path().join("x/cache/d"), b"new").unwrap();
    back_up(&repository, folder.path());
    let run = |subtree: &str, patterns: &[&str]| {
        let patterns: Vec<_> = patterns.iter().map(|pattern| Pattern::new(*pattern)).collect();
        let options = DiffOptions {
            subtree: subtree.parse().unwrap(),
            metadata: false,
            exclude: ExcludeFilter::new(&patterns).unwrap(),
            ..everything()
        };
        let (lines, _) = between(&repository, &options);
        assert_eq!(with_disk(&repository, folder.path(), &options).0, lines, "{subtree}");
        lines
    };
    let x = told(&[
        ("M", "/tree/x/b.tmp"),
        ("+", "/tree/x/cache"),
        ("+", "/tree/x/cache/d"),
        ("M", "/tree/x/deep/a"),
    ]);
    assert_eq!(run("/tree/x", &[]), x);
    assert_eq!(run("/tree/x", &["*.tmp", "cache/"]), x[3..]);
    assert_eq!(run("/tree/x/cache", &[]), x[1..3]);
    assert_eq!(run("/tree/single", &[]), told(&[("M", "/tree/single")]));
    assert_eq!(run("/tree/y", &[]), told(&[("M", "/tree/y/c")]));

    let snapshots = snapshots(&repository);
    let options = DiffOptions { subtree: "/tree/none".parse().unwrap(), ..everything() };
    let monitor = RecordingMonitor::default();
    let compare = |other| self::run(&repository, &snapshots[0].1, other, &options, &monitor);
    let error = compare(Other::Snapshot(&snapshots[1].1, options.subtree.clone())).unwrap_err();
    assert!(error.to_string().contains("/tree/none"), "{error}");
    let options = DiffOptions { subtree: "/tree/x/deep".parse().unwrap(), ..everything() };
    let other = Other::Snapshot(&snapshots[1].1, "/tree/y".parse().unwrap());
    let (lines, _) = self::run(&repository, &snapshots[0].1, other, &options, &monitor).unwrap();
    let moved = told(&[("-", "/tree/x/deep/a"), ("+", "/tree/x/deep/c")]);
    assert_eq!(lines.into_iter().filter(|line| line.0 != "U").collect::<Told>(), moved);
    // Everything is gone.
    let options = DiffOptions { subtree: "/tree/x/deep".parse().unwrap(), ..everything() };
    let gone = self::run(&repository, &snapshots[0].1, Other::Source(None), &options, &monitor);
    let wanted = told(&[("-", "/tree/x/deep"), ("-", "/tree/x/deep/a")]);
    assert_eq!(gone.unwrap().0, wanted);
}

#[test]
fn a_comparison_ends_when_it_is_asked_to_and_leaves_no_session() {
    let folder = tempfile::tempdir().unwrap();
    let repository = create_quick(Store::memory(), None);
    wide(folder.path(), &repository);
    let snapshots = snapshots(&repository);
    let monitor = RecordingMonitor::default();
    monitor.interrupt();
    let options = everything();
    let mut files = source(folder.path());
    let others = [
        Other::Snapshot(&snapshots[1].1, options.subtree.clone()),
        Other::Source(Some(&mut files)),
    ];
    for other in others {
        let error = run(&repository, &snapshots[0].1, other, &options, &monitor).unwrap_err();
        assert!(matches!(error, OpsError::Interrupted), "{error}");
    }
    assert_eq!(repository.undecided_sessions().unwrap(), []);
}

#[test]
fn a_comparison_that_a_collector_gave_up_says_so() {
    let (store, folder) = (Store::memory(), tempfile::tempdir().unwrap());
    let repository = create_quick(store.clone(), None);
    for number in 0..2 {
        fs::write(folder.path().join("file"), noise(5_000, number)).unwrap();
        back_up(&repository, folder.path());
    }
    let collector = open_quick(store, None);
    let snapshots = snapshots(&repository);
    let monitor = RecordingMonitor::default();
    let mut tell = |_: &Change<'_>| {
        for session in collector.undecided_sessions().unwrap() {
            assert!(collector.abort(session).unwrap());
        }
        Ok(())
    };
    let other = Other::Snapshot(&snapshots[1].1, "/".parse().unwrap());
    diff(&repository, &snapshots[0].1, other, &everything(), &mut tell, &monitor).unwrap();
    let notes = monitor.notes();
    assert!(notes.iter().any(|note| note.contains("gave this reader up")), "{notes:?}");
}
