//! Versions of what matches, over several snapshots, against plain maps.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use aumbry::monitor::{RecordingMonitor, SilentMonitor};
use aumbry::ops::backup::BackupOptions;
use aumbry::ops::find::{FindOptions, Version, find};
use aumbry::repository::Repository;
use aumbry::store::{Store, layout};
use aumbry::tree::filter::{IncludeFilter, Pattern};
use aumbry::units::Timestamp;
use proptest::prelude::any;

use crate::diff::{Plain, PlainTree, two_trees, wide, with_a_flipped_bit, write};
use crate::model::{create_quick, for_all, open_quick};
use crate::support::{back_up, back_up_with, options, snapshots};

/// Options of a backup of this host at this second.
fn at(host: &str, seconds: i64) -> BackupOptions {
    let time = Some(Timestamp { seconds, nanoseconds: 0 });
    BackupOptions { host: host.into(), time, ..options() }
}

fn save(repository: &Repository, folder: &Path, options: &BackupOptions) {
    back_up_with(repository, folder, options, &SilentMonitor).unwrap();
}

/// What is found.
fn found(repository: &Repository, patterns: &[&str], monitor: &RecordingMonitor) -> Vec<Version> {
    let patterns: Vec<_> = patterns.iter().map(|text| Pattern::new(*text)).collect();
    let patterns = IncludeFilter::new(&patterns).unwrap();
    let options = FindOptions { patterns, memory_budget: 32 << 20 };
    let mut versions = Vec::new();
    let mut tell = |version: Version| {
        versions.push(version);
        Ok(())
    };
    find(repository, &snapshots(repository), &options, &mut tell, monitor).unwrap();
    versions
}

/// A path, the seconds of the first and of the last snapshot, how many there are, and whether the newest is among them.
type Row = (String, i64, i64, usize, bool);

fn rows(repository: &Repository, versions: &[Version]) -> BTreeSet<Row> {
    let snapshots = snapshots(repository);
    let seconds = |place: usize| snapshots[place].1.time.seconds;
    let row = |it: &Version| {
        (it.path.to_string(), seconds(it.first), seconds(it.last), it.snapshots, it.is_current)
    };
    versions.iter().map(row).collect()
}

fn is_same(one: &Plain, other: &Plain) -> bool {
    match (one, other) {
        (Plain::Folder { .. }, Plain::Folder { .. }) => true,
        (Plain::File { bytes: one, .. }, Plain::File { bytes: other, .. }) => one == other,
        (Plain::Link { target: one }, Plain::Link { target: other }) => one == other,
        _ => false,
    }
}

/// What the maps say; the snapshot of `history[n]` was taken at second `n + 1`.
fn wanted(history: &[&PlainTree], matches: fn(&[&str]) -> bool) -> BTreeSet<Row> {
    let mut rows = BTreeSet::new();
    let paths: BTreeSet<_> = history.iter().flat_map(|tree| tree.keys()).collect();
    for path in paths {
        let names: Vec<_> = ["tree"].into_iter().chain(path.iter().map(String::as_str)).collect();
        if !matches(&names) {
            continue;
        }
        let mut first = 0;
        for now in 0..history.len() {
            let here = history[now].get(path);
            let next = history.get(now + 1).and_then(|tree| tree.get(path));
            if now == 0 || !is_same_or_none(history[now - 1].get(path), here) {
                first = now;
            }
            let is_current = now + 1 == history.len();
            if here.is_some() && (is_current || !is_same_or_none(here, next)) {
                let row = (first as i64 + 1, now as i64 + 1, now + 1 - first);
                rows.insert((format!("/{}", names.join("/")), row.0, row.1, row.2, is_current));
            }
        }
    }
    rows
}

fn is_same_or_none(one: Option<&Plain>, other: Option<&Plain>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => is_same(one, other),
        (one, other) => one.is_none() && other.is_none(),
    }
}

#[test]
fn versions_are_what_the_maps_say_for_every_sort_of_pattern() {
    type Matches = fn(&[&str]) -> bool;
    let patterns: [(&[&str], Matches); 11] = [
        (&["*"], |_| true),
        (&["a"], |path| path.last() == Some(&"a")),
        (&["b", "a-"], |path| matches!(*path.last().unwrap(), "b" | "a-")),
        (&["/tree/a"], |path| path == ["tree", "a"]),
        (&["/tree/*/b"], |path| path.len() == 3 && path[2] == "b"),
        (&["a/b"], |path| path.ends_with(&["a", "b"])),
        (&["/tree/**"], |path| path.len() > 1),
        (&["/**"], |_| true),
        (&["/tree/a/**"], |path| path.len() > 2 && path[1] == "a"),
        (&["/tree/**/c"], |path| path.len() > 1 && path.last() == Some(&"c")),
        (&["/tree", "/tree/a/b/c"], |path| path.len() == 1 || path == ["tree", "a", "b", "c"]),
    ];
    let order = proptest::collection::vec(any::<bool>(), 1..7);
    for_all(32, (two_trees(), order), |((one, other), order)| {
        let history: Vec<_> =
            order.iter().map(|is_one| if *is_one { &one } else { &other }).collect();
        let folder = tempfile::tempdir().unwrap();
        let repository = create_quick(Store::memory(), None);
        for (seconds, tree) in (1..).zip(&history) {
            write(tree, folder.path(), false);
            save(&repository, folder.path(), &at("box", seconds));
        }
        let monitor = RecordingMonitor::default();
        for (patterns, matches) in patterns {
            let versions = found(&repository, patterns, &monitor);
            let found = rows(&repository, &versions);
            assert_eq!(found.len(), versions.len(), "{patterns:?}: none is told twice");
            assert_eq!(found, wanted(&history, matches), "{patterns:?}");
        }
        assert_eq!(monitor.problems(), []);
    });
}

#[test]
fn each_host_has_versions_of_its_own_and_of_each_version_it_is_told_what_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let repository = create_quick(Store::memory(), None);
    // In no order of time, and in turns.
    let history =
        [("lap", 20, "old"), ("box", 30, "newer!"), ("box", 10, "old"), ("lap", 40, "newest")];
    for (host, seconds, text) in history {
        fs::write(folder.path().join("letter.txt"), text).unwrap();
        fs::write(folder.path().join("other.txt"), text).unwrap();
        save(&repository, folder.path(), &at(host, seconds));
    }
    let monitor = RecordingMonitor::default();
    let versions = found(&repository, &["letter.txt"], &monitor);
    let row = |from, to, is_current| ("/tree/letter.txt".to_string(), from, to, 1, is_current);
    let wanted = [row(10, 10, false), row(20, 20, false), row(30, 30, true), row(40, 40, true)];
    assert_eq!(rows(&repository, &versions), BTreeSet::from(wanted));
    let snapshots = snapshots(&repository);
    for version in versions {
        let snapshot = &snapshots[version.first].1;
        let size = history.iter().find(|it| it.1 == snapshot.time.seconds).unwrap().2.len();
        assert_eq!((version.seen.kind, version.seen.size), ("file", size as u64));
    }
    assert_eq!(found(&repository, &["letter"], &monitor), []);
    assert_eq!(monitor.problems(), []);
}

#[test]
fn what_cannot_be_read_is_told_and_the_rest_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let repository = create_quick(Store::memory(), None);
    for (seconds, text, deep) in
        [(1, "first", "first"), (2, "second", "second"), (3, "first", "third")]
    {
        fs::create_dir_all(folder.path().join("deep")).unwrap();
        fs::write(folder.path().join("letter.txt"), text).unwrap();
        fs::write(folder.path().join("deep/letter.txt"), deep).unwrap();
        save(&repository, folder.path(), &at("box", seconds));
    }
    // The second snapshot's trees go.
    let second = snapshots(&repository).into_iter().find(|it| it.1.time.seconds == 2).unwrap();
    for pack in repository.store().list("packs/").unwrap() {
        let of_session = layout::parse_pack(&pack.name).unwrap().session;
        if of_session == second.0.0 {
            repository.store().delete(&pack.name).unwrap();
        }
    }
    let monitor = RecordingMonitor::default();
    let versions = found(&repository, &["letter.txt"], &monitor);
    assert!(versions.iter().all(|it| it.is_end_known == it.is_current), "{versions:?}");
    let versions = rows(&repository, &versions);
    assert!(!monitor.problems().is_empty());
    let row = |path: &str, from, to, snapshots, is_current| {
        (format!("/tree{path}/letter.txt"), from, to, snapshots, is_current)
    };
    // What the second one has is not known, even where the third one has what the first one had.
    let wanted = ["", "/deep"].map(|path| [row(path, 1, 1, 1, false), row(path, 3, 3, 1, true)]);
    assert_eq!(versions, wanted.into_iter().flatten().collect());
}

#[test]
fn damage_hides_versions_and_makes_none_up() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::memory();
    let repository = create_quick(store.clone(), None);
    wide(folder.path(), &repository);
    fs::remove_file(folder.path().join("deep/deeper/text")).unwrap();
    fs::write(folder.path().join("wide/entry-0007"), "changed again").unwrap();
    back_up(&repository, folder.path());
    let wanted = found(&repository, &["*"], &RecordingMonitor::default());
    assert!(wanted.len() > 3000);
    let (mut hidden, mut partly) = (0, 0);
    for object in store.list(layout::PACKS).unwrap() {
        for place in 1..8 {
            let damaged = open_quick(with_a_flipped_bit(&store, &object.name, place), None);
            let monitor = RecordingMonitor::default();
            let versions = found(&damaged, &["*"], &monitor);
            for it in &versions {
                let is_true = |other: &Version| {
                    let is_within = other.first <= it.first && it.last <= other.last;
                    // Their metadata are those of the first snapshot in which they could be read.
                    let what = |it: &Version| (it.seen.kind, it.seen.size);
                    let is_same = what(other) == what(it);
                    other.path == it.path
                        && is_within
                        && is_same
                        && it.snapshots == it.last - it.first + 1
                        && other.is_current >= it.is_current
                };
                assert!(wanted.iter().any(is_true), "{it:?}");
            }
            assert!(versions == wanted || !monitor.problems().is_empty(), "{}", object.name);
            let items: BTreeSet<_> =
                monitor.problems().into_iter().map(|it| (it.item, it.message)).collect();
            assert_eq!(items.len(), monitor.problems().len(), "each is told once");
            hidden += u32::from(versions != wanted);
            partly += u32::from(versions != wanted && !versions.is_empty());
        }
    }
    assert!(partly > 0, "{hidden} {partly}");
}
