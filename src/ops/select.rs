//! Chooses snapshots: by id, `latest~2`, date, host, tag and path.

use std::collections::BTreeSet;

use jiff::tz::TimeZone;

use crate::format::snapshot::Snapshot;
use crate::id::SnapshotId;
use crate::ops::OpsError;
use crate::units::Timestamp;
use crate::units::time::format_rfc3339;

/// How many snapshots, or hosts, an error names.
const NAMED: usize = 8;

/// Which snapshots come into question. Empty lists let everything through.
#[derive(Debug, Clone, Default)]
pub struct SnapshotFilter {
    /// Any of these hosts.
    pub hosts: Vec<String>,
    /// Any of these names of sources.
    pub names: Vec<String>,
    /// Any of these lists; all tags of a list must be there.
    pub tags: Vec<Vec<String>>,
    /// All of these paths must be among the snapshot's sources.
    pub paths: Vec<Vec<u8>>,
}

impl SnapshotFilter {
    /// Whether the snapshot comes into question.
    pub fn matches(&self, snapshot: &Snapshot) -> bool {
        let host = self.hosts.is_empty() || self.hosts.contains(&snapshot.host);
        let name = self.names.is_empty() || self.names.contains(&snapshot.name);
        let has_all = |wanted: &Vec<String>| wanted.iter().all(|tag| snapshot.tags.contains(tag));
        let tags = self.tags.is_empty() || self.tags.iter().any(has_all);
        host && name && tags && self.paths.iter().all(|path| snapshot.paths.contains(path))
    }

    fn is_empty(&self) -> bool {
        self.hosts.is_empty()
            && self.names.is_empty()
            && self.tags.is_empty()
            && self.paths.is_empty()
    }

    /// What it lets through, for people: `host a or b, with tags x+y, of path /home`.
    fn describe(&self) -> String {
        let mut parts = Vec::new();
        if !self.hosts.is_empty() {
            parts.push(format!("host {}", self.hosts.join(" or ")));
        }
        if !self.names.is_empty() {
            parts.push(format!("name {}", self.names.join(" or ")));
        }
        if !self.tags.is_empty() {
            let lists: Vec<_> = self.tags.iter().map(|list| list.join("+")).collect();
            parts.push(format!("tags {}", lists.join(" or ")));
        }
        if !self.paths.is_empty() {
            let paths: Vec<_> =
                self.paths.iter().map(|path| String::from_utf8_lossy(path)).collect();
            parts.push(format!("path {}", paths.join(" and ")));
        }
        parts.join(", ")
    }
}

/// How one snapshot was named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SnapshotChoice {
    /// The newest but `n`: `latest` is 0, `latest~2` is 2.
    Latest(usize),
    /// The newest at or before this moment.
    At(Timestamp),
    /// The one whose id begins with these hexadecimal digits.
    Prefix(String),
}

/// The one snapshot that the choice means among those that the filter lets through. `snapshots` come
/// oldest first, as [`crate::repository::Repository::snapshots`] gives them. Nothing, and more than one
/// for a prefix, are errors that name the nearest ones.
pub fn choose<'s>(
    snapshots: &'s [(SnapshotId, Snapshot)],
    choice: &SnapshotChoice,
    filter: &SnapshotFilter,
) -> Result<&'s (SnapshotId, Snapshot), OpsError> {
    if snapshots.is_empty() {
        return Err(OpsError::Invalid("the repository has no snapshot yet".into()));
    }
    let fitting: Vec<_> =
        snapshots.iter().filter(|(_, snapshot)| filter.matches(snapshot)).collect();
    let chosen = match choice {
        SnapshotChoice::Prefix(prefix) => choose_prefix(snapshots, &fitting, prefix, filter),
        _ if fitting.is_empty() => Err(nothing_fits(snapshots, filter)),
        SnapshotChoice::Latest(back) => choose_latest(&fitting, *back, filter),
        SnapshotChoice::At(moment) => choose_at(&fitting, *moment, filter),
    };
    chosen.map_err(OpsError::Invalid)
}

type Named<'s> = &'s (SnapshotId, Snapshot);

fn choose_latest<'s>(
    fitting: &[Named<'s>],
    back: usize,
    filter: &SnapshotFilter,
) -> Result<Named<'s>, String> {
    fitting.iter().rev().nth(back).copied().ok_or_else(|| {
        let oldest = fitting.first().map(|oldest| name(oldest)).unwrap_or_default();
        format!(
            "there is no latest~{back}: there {}{}; the oldest one, latest~{}, is {oldest}",
            counted(fitting.len()),
            among(filter),
            fitting.len().saturating_sub(1),
        )
    })
}

fn choose_at<'s>(
    fitting: &[Named<'s>],
    moment: Timestamp,
    filter: &SnapshotFilter,
) -> Result<Named<'s>, String> {
    let after = fitting.partition_point(|(_, snapshot)| snapshot.time <= moment);
    after.checked_sub(1).and_then(|before| fitting.get(before)).copied().ok_or_else(|| {
        let oldest = fitting.first().map(|oldest| name(oldest)).unwrap_or_default();
        format!(
            "there is no snapshot{} at or before {}; the oldest one after it is {oldest}",
            among(filter),
            format_rfc3339(moment, &TimeZone::UTC),
        )
    })
}

fn choose_prefix<'s>(
    snapshots: &'s [(SnapshotId, Snapshot)],
    fitting: &[Named<'s>],
    prefix: &str,
    filter: &SnapshotFilter,
) -> Result<Named<'s>, String> {
    let found: Vec<_> = fitting.iter().filter(|(id, _)| id.starts_with(prefix)).copied().collect();
    match found[..] {
        [single] => Ok(single),
        [] => Err(match snapshots.iter().find(|(id, _)| id.starts_with(prefix)) {
            Some(hidden) => {
                format!("snapshot {} is none{}", name(hidden), among(filter))
            }
            None => format!(
                "no snapshot has an id that begins with {prefix:?}; `aumbry snapshots` lists them"
            ),
        }),
        _ => Err(format!(
            "{} snapshots have ids that begin with {prefix:?}: {}",
            found.len(),
            listed(found.iter().map(|found| name(found))),
        )),
    }
}

fn nothing_fits(snapshots: &[(SnapshotId, Snapshot)], filter: &SnapshotFilter) -> String {
    let hosts: BTreeSet<_> = snapshots.iter().map(|(_, snapshot)| snapshot.host.clone()).collect();
    format!(
        "there is no snapshot{}; without that, there {}, of host {}",
        among(filter),
        counted(snapshots.len()),
        listed(hosts.into_iter()),
    )
}

/// `3f2a9c01 of 2026-11-01T14:30:15Z`.
fn name((id, snapshot): Named<'_>) -> String {
    format!("{} of {}", id.short(), format_rfc3339(snapshot.time, &TimeZone::UTC))
}

fn among(filter: &SnapshotFilter) -> String {
    if filter.is_empty() { String::new() } else { format!(" with {}", filter.describe()) }
}

fn counted(count: usize) -> String {
    if count == 1 { "is 1 snapshot".into() } else { format!("are {count} snapshots") }
}

/// The first few of them, and how many more there are.
fn listed(names: impl ExactSizeIterator<Item = String>) -> String {
    let more = names.len().saturating_sub(NAMED);
    let names: Vec<_> = names.take(NAMED).collect();
    match more {
        0 => names.join(", "),
        _ => format!("{} and {more} more", names.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::snapshot::BackupCounts;
    use crate::id::{BlobId, SessionId};

    /// Ids begin with the given two bytes; times are in hours since 1970.
    fn snapshot(first: [u8; 2], hour: i64, host: &str, tags: &[&str]) -> (SnapshotId, Snapshot) {
        let mut random = [0; 16];
        random[..2].copy_from_slice(&first);
        let time = Timestamp { seconds: hour * 3600, nanoseconds: 0 };
        let snapshot = Snapshot {
            root: BlobId([0; 32]),
            height: 0,
            time,
            zone_offset_seconds: 0,
            end_time: time,
            host: host.into(),
            user: "me".into(),
            paths: vec![b"/home".to_vec(), format!("/{host}").into_bytes()],
            tags: tags.iter().map(ToString::to_string).collect(),
            name: String::new(),
            parent: None,
            program: String::new(),
            counts: BackupCounts::default(),
            predecessor: None,
            repaired: None,
            copied: None,
            signature: None,
        };
        (SnapshotId(SessionId { generation: 0, random }), snapshot)
    }

    fn history() -> Vec<(SnapshotId, Snapshot)> {
        vec![
            snapshot([0xa1, 0], 1, "box", &["daily"]),
            snapshot([0xb2, 0], 2, "lap", &["daily", "work"]),
            snapshot([0xa1, 1], 3, "box", &[]),
            snapshot([0xc3, 0], 4, "lap", &["weekly"]),
        ]
    }

    fn filter(hosts: &[&str], tags: &[&[&str]], paths: &[&str]) -> SnapshotFilter {
        let owned = |texts: &[&str]| texts.iter().map(ToString::to_string).collect();
        SnapshotFilter {
            hosts: owned(hosts),
            names: Vec::new(),
            tags: tags.iter().map(|list| owned(list)).collect(),
            paths: paths.iter().map(|path| path.as_bytes().to_vec()).collect(),
        }
    }

    #[test]
    fn filters_let_through_what_they_say() {
        let table: [(SnapshotFilter, &[usize]); 9] = [
            (filter(&[], &[], &[]), &[0, 1, 2, 3]),
            (filter(&["box"], &[], &[]), &[0, 2]),
            (filter(&["box", "lap"], &[], &[]), &[0, 1, 2, 3]),
            (filter(&[], &[&["daily"]], &[]), &[0, 1]),
            (filter(&[], &[&["daily", "work"]], &[]), &[1]),
            (filter(&[], &[&["daily", "work"], &["weekly"]], &[]), &[1, 3]),
            (filter(&[], &[], &["/home"]), &[0, 1, 2, 3]),
            (filter(&[], &[], &["/home", "/lap"]), &[1, 3]),
            (filter(&["box"], &[&["weekly"]], &[]), &[]),
        ];
        for (filter, expected) in table {
            let through: Vec<_> = (0..4).filter(|at| filter.matches(&history()[*at].1)).collect();
            assert_eq!(through, expected, "{filter:?}");
        }
    }

    #[test]
    fn names_of_sources_are_filtered_as_hosts_are() {
        let names = |names: &[&str]| SnapshotFilter {
            names: names.iter().map(ToString::to_string).collect(),
            ..SnapshotFilter::default()
        };
        let (_, unnamed) = snapshot([1, 0], 1, "box", &[]);
        let home = Snapshot { name: "home".into(), ..unnamed.clone() };
        for (filter, through) in [
            (names(&[]), [true, true]),
            (names(&["home", "mail"]), [true, false]),
            (names(&[""]), [false, true]),
        ] {
            assert_eq!([&home, &unnamed].map(|snapshot| filter.matches(snapshot)), through);
        }
        assert_eq!(names(&["home", "mail"]).describe(), "name home or mail");
    }

    #[test]
    fn a_choice_means_one_snapshot_or_says_why_not() {
        let at = |hour: i64, second| {
            SnapshotChoice::At(Timestamp { seconds: hour * 3600 + second, nanoseconds: 0 })
        };
        let prefix = |digits: &str| SnapshotChoice::Prefix(digits.into());
        let all = filter(&[], &[], &[]);
        let boxes = filter(&["box"], &[], &[]);
        let table: [(SnapshotChoice, &SnapshotFilter, Result<usize, &str>); 16] = [
            (SnapshotChoice::Latest(0), &all, Ok(3)),
            (SnapshotChoice::Latest(3), &all, Ok(0)),
            (SnapshotChoice::Latest(0), &boxes, Ok(2)),
            (SnapshotChoice::Latest(1), &boxes, Ok(0)),
            (
                SnapshotChoice::Latest(2),
                &boxes,
                Err("there is no latest~2: there are 2 snapshots with host box; the oldest one, \
                     latest~1, is a1000000 of 1970-01-01T01:00:00Z"),
            ),
            (at(4, 0), &all, Ok(3)),
            (at(4, -1), &all, Ok(2)),
            (at(4, -1), &boxes, Ok(2)),
            (at(99, 0), &boxes, Ok(2)),
            (
                at(0, 30),
                &boxes,
                Err("there is no snapshot with host box at or before 1970-01-01T00:00:30Z; the \
                     oldest one after it is a1000000 of 1970-01-01T01:00:00Z"),
            ),
            (prefix("B2"), &all, Ok(1)),
            (prefix("a101"), &all, Ok(2)),
            (
                prefix("a1"),
                &all,
                Err("2 snapshots have ids that begin with \"a1\": a1000000 of \
                     1970-01-01T01:00:00Z, a1010000 of 1970-01-01T03:00:00Z"),
            ),
            (
                prefix("ff"),
                &all,
                Err("no snapshot has an id that begins with \"ff\"; `aumbry snapshots` lists \
                     them"),
            ),
            (
                prefix("b2"),
                &boxes,
                Err("snapshot b2000000 of 1970-01-01T02:00:00Z is none with host box"),
            ),
            (
                SnapshotChoice::Latest(0),
                &filter(&["box"], &[&["work", "daily"]], &["/etc"]),
                Err("there is no snapshot with host box, tags work+daily, path /etc; without \
                     that, there are 4 snapshots, of host box, lap"),
            ),
        ];
        for (choice, filter, expected) in table {
            let snapshots = history();
            let found = choose(&snapshots, &choice, filter).map(|found| found.0);
            match expected {
                Ok(at) => assert_eq!(found.unwrap(), snapshots[at].0, "{choice:?}"),
                Err(message) => assert_eq!(found.unwrap_err().to_string(), message),
            }
        }
        let none = choose(&[], &SnapshotChoice::Latest(0), &all).unwrap_err();
        assert_eq!(none.to_string(), "the repository has no snapshot yet");
    }
}
