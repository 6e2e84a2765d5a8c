use super::policy::{Every, Reach, Rule};
use super::*;
use crate::format::snapshot::BackupCounts;
use crate::id::{BlobId, SessionId};
use crate::monitor::SilentMonitor;
use crate::units::duration::Period;

const DAY: i64 = 86_400;

fn id(number: u8) -> SnapshotId {
    SnapshotId(SessionId { generation: 0, random: [number; 16] })
}

/// One a day: host, name, path, tag.
fn snapshots(rows: &[(&str, &str, &str, &str)]) -> Snapshots {
    let numbered = rows.iter().zip(0_u8..);
    let all = numbered.map(|((host, name, path, tag), number)| {
        let time = Timestamp { seconds: (20_000 + i64::from(number)) * DAY, nanoseconds: 0 };
        let snapshot = Snapshot {
            root: BlobId([0; 32]),
            height: 0,
            time,
            zone_offset_seconds: 0,
            end_time: time,
            host: host.to_string(),
            user: String::new(),
            paths: vec![path.as_bytes().to_vec()],
            tags: Vec::from_iter((!tag.is_empty()).then(|| tag.to_string())),
            name: name.to_string(),
            parent: None,
            program: String::new(),
            counts: BackupCounts::default(),
            predecessor: None,
            repaired: None,
            copied: None,
            signature: None,
        };
        (id(number), snapshot)
    });
    Snapshots { all: all.collect(), ..Snapshots::default() }
}

fn keep_last(count: u32) -> ForgetOptions {
    let rules = vec![Rule { every: Every::Snapshot, reach: Reach::Count(count) }];
    ForgetOptions {
        filter: SnapshotFilter::default(),
        group_by: GroupBy::default(),
        policy: Policy { rules, ..Policy::default() },
        zone: TimeZone::UTC,
    }
}

fn now() -> Timestamp {
    Timestamp { seconds: 30_000 * DAY, nanoseconds: 0 }
}

fn told(plan: &ForgetPlan) -> Vec<String> {
    plan.concerns.iter().map(Concern::to_string).collect()
}

#[test]
fn a_policy_is_applied_to_each_host_and_name_for_itself_and_not_to_paths() {
    let found = snapshots(&[
        ("a", "home", "/1", ""),
        ("a", "home", "/2", ""),
        ("a", "mail", "/1", ""),
        ("b", "home", "/1", "x"),
    ]);
    let group = |host, name, paths, tags| GroupBy { host, name, paths, tags };
    let table = [
        (
            GroupBy::default(),
            vec!["host a, name home", "host a, name mail", "host b, name home"],
            1,
        ),
        (group(true, false, false, false), vec!["host a", "host b"], 2),
        (group(false, false, false, false), vec!["all snapshots"], 3),
        (group(false, false, true, false), vec!["paths /1", "paths /2"], 2),
        (group(false, false, false, true), vec!["no tags", "tags x"], 2),
    ];
    for (group_by, keys, dropped) in table {
        let plan = plan(&found, &ForgetOptions { group_by, ..keep_last(1) }, now()).unwrap();
        let found: Vec<_> = plan.groups.iter().map(|group| group.key.to_string()).collect();
        assert_eq!(
            (found, plan.dropped().count()),
            (keys.iter().map(ToString::to_string).collect(), dropped)
        );
    }
}

#[test]
fn what_the_filter_hides_is_kept_and_counts_for_no_rule() {
    let found = snapshots(&[("a", "h", "/", "x"), ("a", "h", "/", ""), ("a", "h", "/", "x")]);
    let filter = SnapshotFilter { tags: vec![vec!["x".into()]], ..SnapshotFilter::default() };
    let plan = plan(&found, &ForgetOptions { filter, ..keep_last(1) }, now()).unwrap();
    let dropped: Vec<_> = plan.dropped().map(|planned| planned.verdict.id).collect();
    assert_eq!(dropped, [id(0)]);
    assert_eq!(told(&plan), [""; 0]);
}

#[test]
fn the_brake_holds_what_empties_a_group_or_takes_more_than_half() {
    let four = |name| ("a", name, "/", "");
    let found = snapshots(&[four("h"), four("h"), four("h"), four("h")]);
    assert_eq!(told(&plan(&found, &keep_last(2), now()).unwrap()), [""; 0], "half is not more");
    assert_eq!(
        told(&plan(&found, &keep_last(1), now()).unwrap()),
        ["3 of 4 snapshots go, more than half"]
    );
    let found = snapshots(&[four("h"), four("h"), four("h"), four("x")]);
    let mut none = keep_last(1);
    none.policy.rules.clear();
    none.policy.ids = vec![id(0), id(1), id(2)];
    assert_eq!(
        told(&plan(&found, &none, now()).unwrap()),
        ["the only snapshot of host a, name x goes"]
    );
    none.policy.ids = vec![id(3)];
    assert_eq!(
        told(&plan(&found, &none, now()).unwrap()),
        ["all 3 snapshots of host a, name h go", "3 of 4 snapshots go, more than half"]
    );
    none.policy.ids.clear();
    assert!(plan(&found, &none, now()).is_err(), "no rule is no reason to drop everything");
}

#[test]
fn the_brake_counts_what_is_chosen_too() {
    let found = snapshots(&[
        ("a", "h", "/", ""),
        ("a", "h", "/", "pin"),
        ("a", "h", "/", ""),
        ("b", "", "/", ""),
    ]);
    assert_eq!(told(&plan_chosen(&found, &[id(0), id(2)], now()).unwrap()), [""; 0]);
    assert_eq!(
        told(&plan_chosen(&found, &[id(3)], now()).unwrap()),
        ["the only snapshot of host b, no name goes"]
    );
    let plan = plan_chosen(&found, &[id(0), id(1), id(2), id(0)], now()).unwrap();
    assert_eq!(
        told(&plan),
        [
            "all 3 snapshots of host a, name h go",
            "3 of 4 snapshots go, more than half",
            "snapshot 01010101 has the tag pin",
        ]
    );
    assert_eq!(plan.groups.len(), 1);
}

#[test]
fn an_unnamed_group_of_several_things_needs_consent_before_it_loses_any() {
    let found = snapshots(&[("a", "", "/1", ""), ("a", "", "/2", ""), ("a", "", "/1", "")]);
    assert_eq!(
        told(&plan(&found, &keep_last(2), now()).unwrap()),
        ["host a, no name: snapshots of 2 different sets of paths, and those of one may go in \
          favour of another's"]
    );
    assert_eq!(told(&plan(&found, &keep_last(3), now()).unwrap()), [""; 0]);
    let of_one = snapshots(&[("a", "", "/1", ""), ("a", "", "/1", ""), ("a", "", "/1", "")]);
    assert_eq!(told(&plan(&of_one, &keep_last(2), now()).unwrap()), [""; 0]);
    let group_by = GroupBy { paths: true, ..GroupBy::default() };
    let by_paths = ForgetOptions { group_by, ..keep_last(1) };
    assert_eq!(told(&plan(&found, &by_paths, now()).unwrap()), [""; 0]);
    let found = snapshots(&[("a", "n", "/1", ""), ("a", "n", "/2", ""), ("a", "n", "/1", "")]);
    assert_eq!(
        told(&plan(&found, &keep_last(2), now()).unwrap()),
        [""; 0],
        "that is what names are for"
    );
}

#[test]
fn doubted_snapshots_do_not_release_the_brake() {
    let mut found = snapshots(&[("a", "h", "/", ""); 9]);
    // The last five have not come yet.
    for (_, snapshot) in &mut found.all[4..] {
        snapshot.time.seconds += 50_000 * DAY;
    }
    let mut options = keep_last(1);
    options.policy.rules[0].reach = Reach::Within(Period { months: 0, days: 7, seconds: 0 });
    options.policy.anchor = policy::Anchor::At(now());
    assert_eq!(
        told(&plan(&found, &options, now()).unwrap()),
        [
            "all 4 snapshots of host a, name h go, not counting 5 whose times are in doubt",
            "4 of 4 snapshots go, more than half, not counting 5 whose times are in doubt",
        ]
    );
    assert_eq!(
        told(&plan(&found, &keep_last(1), now()).unwrap()),
        ["3 of 4 snapshots go, more than half, not counting 5 whose times are in doubt"]
    );
    // Where only doubted ones go, and some of these are left, nothing is emptied.
    found.observed.extend([4, 5].map(|number| (id(number), Timestamp::default())));
    found.all.drain(..4);
    let plan = plan(&found, &options, now()).unwrap();
    assert_eq!((told(&plan), plan.dropped().count()), (Vec::new(), 2));
}

#[test]
fn a_store_that_does_not_answer_is_no_reason_to_give_a_snapshot_up() {
    let table = [(Kind::Corrupt, true), (Kind::Newer, true), (Kind::Unavailable, false)];
    for (kind, may) in table {
        let error = RepositoryError::new(kind, "it", "is so");
        let found = Snapshots { damaged: vec![(id(1), error)], ..Snapshots::default() };
        assert_eq!(plan_chosen(&found, &[id(1)], now()).is_ok(), may, "{kind:?}");
    }
}

#[test]
fn a_plan_with_concerns_is_refused_without_consent() {
    use crate::codec::kdf::Argon2Cost;
    use crate::repository::keys::Credential;
    use crate::repository::{CreateOptions, Environment};
    let environment = Environment {
        clock: std::sync::Arc::new(crate::clock::SystemClock::new()),
        chance: crate::repository::chance::Chance::seeded(1),
        cache_folder: None,
        host: "box".into(),
        user: "me".into(),
    };
    let options = CreateOptions { cost: Some(Argon2Cost::FLOOR), ..CreateOptions::default() };
    let credential = Credential::Recovery([1; 32].into());
    let store = crate::store::Store::memory();
    let repository = Repository::create(store, &options, &credential, environment).unwrap();
    let found = snapshots(&[("a", "", "/", "")]);
    let plan = plan_chosen(&found, &[id(0)], now()).unwrap();
    let refused = forget(&repository, &plan, false, &SilentMonitor).unwrap_err();
    assert!(refused.to_string().contains("consent"), "{refused}");
    assert!(repository.store().list("tombs/").unwrap().is_empty());
    let summary = forget(&repository, &plan, true, &SilentMonitor).unwrap();
    assert_eq!(summary.forgotten, [id(0)]);
    assert_eq!(repository.store().list("tombs/").unwrap().len(), 1);
}
