use std::collections::{BTreeMap, BTreeSet};

use jiff::civil::DateTime;
use proptest::prelude::*;

use super::*;
use crate::id::SessionId;
use crate::units::time::format_local;

fn berlin() -> TimeZone {
    TimeZone::get("Europe/Berlin").unwrap()
}

fn id(number: u8) -> SnapshotId {
    SnapshotId(SessionId { generation: 0, random: [number; 16] })
}

/// A local time, or with `Z` one of UTC.
fn at(text: &str, zone: &TimeZone) -> Timestamp {
    let moment = match text.parse::<jiff::Timestamp>() {
        Ok(moment) => moment,
        Err(_) => zone.to_timestamp(text.parse::<DateTime>().unwrap()).unwrap(),
    };
    Timestamp { seconds: moment.as_second(), nanoseconds: 0 }
}

/// Snapshots of these local times, numbered from 0.
fn snapshots(times: &[&str], zone: &TimeZone) -> Vec<Candidate<'static>> {
    let numbered = times.iter().zip(0..);
    numbered
        .map(|(time, number)| Candidate {
            id: id(number),
            claimed: at(time, zone),
            observed: None,
            tags: &[],
            original: None,
        })
        .collect()
}

fn rule(every: Every, reach: Reach) -> Rule {
    Rule { every, reach }
}

fn within(text: &str) -> Reach {
    Reach::Within(Period::parse_with_months(text).unwrap())
}

fn policy(rules: &[Rule]) -> Policy {
    Policy { rules: rules.to_vec(), ..Policy::default() }
}

const LATE: Timestamp = Timestamp { seconds: 4_000_000_000, nanoseconds: 0 };

fn kept(snapshots: &[Candidate<'_>], policy: &Policy, zone: &TimeZone) -> Vec<usize> {
    let verdicts = retain(snapshots, policy, LATE, zone);
    verdicts.iter().enumerate().filter(|(_, verdict)| verdict.kept).map(|(at, _)| at).collect()
}

#[test]
fn each_rule_keeps_the_newest_of_its_stretches() {
    use Every::{Day, Hour, Month, Quarter, Snapshot, Week, Year};
    let times = [
        "2024-11-05T08:00:00", // 0
        "2025-12-29T08:00:00", // 1: a Monday, of week 1 of 2026
        "2025-12-31T23:59:59", // 2
        "2026-01-01T00:00:00", // 3
        "2026-01-04T23:00:00", // 4: a Sunday, still of week 1
        "2026-01-05T01:00:00", // 5: of week 2
        "2026-03-31T10:00:00", // 6
        "2026-03-31T10:59:59", // 7
        "2026-03-31T11:00:00", // 8
        "2026-04-01T00:00:00", // 9
    ];
    let table: [(Every, Reach, &[usize]); 18] = [
        (Snapshot, Reach::Count(3), &[7, 8, 9]),
        (Snapshot, Reach::Count(99), &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]),
        (Snapshot, Reach::Unlimited, &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]),
        (Hour, Reach::Count(3), &[7, 8, 9]),
        (Day, Reach::Count(2), &[8, 9]),
        (Day, Reach::Count(4), &[4, 5, 8, 9]),
        (Day, Reach::Unlimited, &[0, 1, 2, 3, 4, 5, 8, 9]),
        (Week, Reach::Count(2), &[5, 9]),
        (Week, Reach::Count(3), &[4, 5, 9]),
        (Week, Reach::Unlimited, &[0, 4, 5, 9]),
        (Month, Reach::Count(3), &[5, 8, 9]),
        (Quarter, Reach::Count(2), &[8, 9]),
        (Quarter, Reach::Unlimited, &[0, 2, 8, 9]),
        (Year, Reach::Count(2), &[2, 9]),
        (Year, Reach::Unlimited, &[0, 2, 9]),
        (Snapshot, within("1d"), &[6, 7, 8, 9]),
        (Month, within("1y"), &[2, 5, 8, 9]),
        (Year, within("3m1d"), &[2, 9]),
    ];
    for (every, reach, expected) in table {
        let policy = policy(&[rule(every, reach)]);
        assert_eq!(kept(&snapshots(&times, &berlin()), &policy, &berlin()), expected, "{policy}");
    }
}

#[test]
fn while_a_count_has_room_the_oldest_is_kept_too() {
    let zone = TimeZone::UTC;
    let times = ["2026-02-03T00:00:00", "2026-05-01T00:00:00", "2026-08-01T00:00:00"];
    let yearly = policy(&[rule(Every::Year, Reach::Count(3))]);
    let verdicts = retain(&snapshots(&times, &zone), &yearly, LATE, &zone);
    let told: Vec<_> = verdicts.iter().map(|verdict| verdict.reasons[0].to_string()).collect();
    assert_eq!(
        told,
        [
            "oldest, while yearly 3 has room",
            "no rule keeps it; 02020202 is of the same year",
            "yearly 1 of 3",
        ]
    );
    let full = policy(&[rule(Every::Year, Reach::Count(1))]);
    assert_eq!(kept(&snapshots(&times, &zone), &full, &zone), [2]);
}

#[test]
fn the_hour_that_comes_twice_is_two_and_a_day_ends_at_local_midnight() {
    let hourly = policy(&[rule(Every::Hour, Reach::Unlimited)]);
    // 02:10 and 02:50 in summer time, then again in winter time.
    let doubled = [
        "2026-10-25T00:10:00Z",
        "2026-10-25T00:50:00Z",
        "2026-10-25T01:10:00Z",
        "2026-10-25T01:50:00Z",
    ];
    assert_eq!(kept(&snapshots(&doubled, &berlin()), &hourly, &berlin()), [1, 3]);

    let hours = ["2026-03-01T05:00:00", "2026-03-02T04:00:00", "2026-03-02T05:00:00"];
    assert_eq!(kept(&snapshots(&hours, &berlin()), &hourly, &berlin()), [0, 1, 2]);

    let daily = policy(&[rule(Every::Day, Reach::Unlimited)]);
    let times = ["2026-07-01T21:30:00Z", "2026-07-01T22:30:00Z", "2026-07-02T02:00:00Z"];
    assert_eq!(kept(&snapshots(&times, &berlin()), &daily, &berlin()), [0, 2]);
    assert_eq!(kept(&snapshots(&times, &TimeZone::UTC), &daily, &TimeZone::UTC), [1, 2]);
}

#[test]
fn days_and_hours_are_right_where_clocks_turn_by_half_an_hour_or_at_midnight() {
    let hourly = policy(&[rule(Every::Hour, Reach::Unlimited)]);
    let daily = policy(&[rule(Every::Day, Reach::Unlimited)]);
    // Lord Howe Island, 5 April 2026: at 02:00 it is 01:30 again.
    let howe = TimeZone::get("Australia/Lord_Howe").unwrap();
    let back = [
        "2026-04-04T14:10:00Z", // 01:10
        "2026-04-04T14:40:00Z", // 01:40
        "2026-04-04T15:10:00Z", // 01:40 again
        "2026-04-04T15:20:00Z", // 01:50 again
        "2026-04-04T15:40:00Z", // 02:10
    ];
    assert_eq!(kept(&snapshots(&back, &howe), &hourly, &howe), [1, 3, 4]);
    assert_eq!(kept(&snapshots(&back, &howe), &daily, &howe), [4]);
    // And 4 October 2026: at 02:00 it is 02:30.
    let forth = ["2026-10-03T15:10:00Z", "2026-10-03T15:29:00Z", "2026-10-03T15:31:00Z"];
    assert_eq!(kept(&snapshots(&forth, &howe), &hourly, &howe), [1, 2]);

    // São Paulo, 18 February 2018: at 24:00 it is 23:00 again, and the day has 25 hours.
    let paulo = TimeZone::get("America/Sao_Paulo").unwrap();
    let back = [
        "2018-02-18T01:30:00Z", // 23:30
        "2018-02-18T02:30:00Z", // 23:30 again
        "2018-02-18T03:30:00Z", // 00:30
    ];
    assert_eq!(kept(&snapshots(&back, &paulo), &hourly, &paulo), [0, 1, 2]);
    assert_eq!(kept(&snapshots(&back, &paulo), &daily, &paulo), [1, 2]);
    // And 4 November 2018, which has no midnight: it begins at 01:00.
    let forth = ["2018-11-04T02:59:00Z", "2018-11-04T03:00:00Z", "2018-11-05T01:59:00Z"];
    assert_eq!(kept(&snapshots(&forth, &paulo), &daily, &paulo), [0, 2]);
    let day = policy(&[rule(Every::Snapshot, within("1d"))]);
    let around = ["2018-11-03T12:00:00", "2018-11-03T11:59:59", "2018-11-04T12:00:00"];
    assert_eq!(kept(&snapshots(&around, &paulo), &day, &paulo), [0, 2]);

    // Havana, 1 November 2026: at 01:00 it is 00:00 again, so midnight comes twice.
    let havana = TimeZone::get("America/Havana").unwrap();
    let back = [
        "2026-11-01T03:59:00Z", // 23:59
        "2026-11-01T04:10:00Z", // 00:10
        "2026-11-01T05:10:00Z", // 00:10 again
        "2026-11-02T04:59:00Z", // 23:59
        "2026-11-02T05:00:00Z", // 00:00
    ];
    assert_eq!(kept(&snapshots(&back, &havana), &daily, &havana), [0, 3, 4]);
    assert_eq!(kept(&snapshots(&back, &havana), &hourly, &havana), [0, 1, 2, 3, 4]);
}

#[test]
fn windows_are_of_the_calendar_and_begin_at_the_newest_snapshot_or_where_they_are_told_to() {
    let zone = berlin();
    let times = ["2026-02-27T12:00:00", "2026-02-28T12:00:00", "2026-03-31T12:00:00"];
    let candidates = snapshots(&times, &zone);
    let month = policy(&[rule(Every::Snapshot, within("1m"))]);
    assert_eq!(kept(&candidates, &month, &zone), [1, 2], "a month before 31 March is 28 February");
    // Over the day with 23 hours.
    let day = snapshots(&["2026-03-28T12:00:00", "2026-03-29T12:00:00"], &zone);
    assert_eq!(kept(&day, &policy(&[rule(Every::Snapshot, within("1d"))]), &zone), [0, 1]);
    assert_eq!(kept(&day, &policy(&[rule(Every::Snapshot, within("23h"))]), &zone), [0, 1]);
    assert_eq!(kept(&day, &policy(&[rule(Every::Snapshot, within("22h"))]), &zone), [1]);

    let years = Timestamp { seconds: at(times[2], &zone).seconds + 90_000_000, nanoseconds: 0 };
    let count = |policy: &Policy, now| {
        retain(&candidates, policy, now, &zone).iter().filter(|verdict| verdict.kept).count()
    };
    assert_eq!(count(&month, years), 2, "a clock that leaps ahead drops nothing");
    assert_eq!(count(&month, Timestamp::default()), 3, "nor does one that fell behind");
    let since = Policy { anchor: Anchor::At(years), ..month };
    assert_eq!(count(&since, years), 0);
}

#[test]
fn tags_ids_and_pins_are_kept_whatever_the_rules_say() {
    let tags = |texts: &[&str]| texts.iter().map(ToString::to_string).collect::<Vec<_>>();
    let (pinned, release, half) =
        (tags(&["pin"]), tags(&["release", "signed"]), tags(&["release"]));
    let zone = TimeZone::UTC;
    let mut candidates = snapshots(&["2026-01-01T00:00:00"; 6], &zone);
    candidates[0].tags = &pinned;
    candidates[1].tags = &release;
    candidates[2].tags = &half;
    let policy = Policy {
        rules: vec![rule(Every::Snapshot, Reach::Count(1))],
        tags: vec![tags(&["signed", "release"])],
        ids: vec![id(3)],
        ..Policy::default()
    };
    let verdicts = retain(&candidates, &policy, LATE, &zone);
    let told: Vec<_> = verdicts.iter().map(|verdict| verdict.reasons[0].to_string()).collect();
    assert_eq!(
        told,
        [
            "tag pin",
            "tags signed+release",
            "no rule keeps it",
            "kept by id",
            "no rule keeps it",
            "last 1 of 1"
        ]
    );
    assert_eq!(policy.to_string(), "last 1, tags signed+release, 1 by id");
    assert!(
        verdicts
            .iter()
            .all(|verdict| verdict.kept != verdict.reasons[0].to_string().starts_with("no rule"))
    );
}

#[test]
fn every_reason_says_which_slot_of_which_rule() {
    let zone = TimeZone::UTC;
    let times = ["2026-01-01T00:00:00", "2026-01-02T01:00:00", "2026-01-02T02:00:00"];
    let policy = policy(&[
        rule(Every::Snapshot, Reach::Count(1)),
        rule(Every::Day, Reach::Count(7)),
        rule(Every::Week, Reach::Unlimited),
        rule(Every::Snapshot, within("2h")),
        rule(Every::Month, within("1y")),
    ]);
    let verdicts = retain(&snapshots(&times, &zone), &policy, LATE, &zone);
    let told: Vec<String> = verdicts
        .iter()
        .map(|verdict| verdict.reasons.iter().map(Reason::to_string).collect::<Vec<_>>().join("; "))
        .collect();
    assert_eq!(
        told,
        [
            "daily 2 of 7",
            "within 2h",
            "last 1 of 1; daily 1 of 7; weekly 1, unlimited; within 2h; monthly within 1y",
        ]
    );
}

/// Snapshots of one machine, one a day at noon, each seen by the store when it was taken.
#[test]
fn what_goes_is_told_the_finest_rule_that_keeps_another_in_its_place() {
    let zone = TimeZone::UTC;
    let times = ["2026-01-01T08:00:00", "2026-01-01T09:00:00", "2026-06-01T00:00:00"];
    let (day, year) = (rule(Every::Day, Reach::Unlimited), rule(Every::Year, Reach::Unlimited));
    for rules in [[day, year], [year, day]] {
        let verdicts = retain(&snapshots(&times, &zone), &policy(&rules), LATE, &zone);
        let in_favour_of = Some((Every::Day, id(1)));
        assert_eq!(verdicts[0].reasons, [Reason::NoRule { in_favour_of }]);
    }
}

#[test]
fn of_two_in_a_stretch_that_is_not_kept_neither_stands_for_the_other() {
    let zone = TimeZone::UTC;
    let times = [
        "2026-01-01T08:00:00",
        "2026-01-01T09:00:00",
        "2026-01-02T08:00:00",
        "2026-01-02T09:00:00",
        "2026-01-03T08:00:00",
        "2026-01-03T09:00:00",
    ];
    let rules = [rule(Every::Day, Reach::Count(2))];
    let verdicts = retain(&snapshots(&times, &zone), &policy(&rules), LATE, &zone);
    let stands = |at: usize| match verdicts[at].reasons[..] {
        [Reason::NoRule { in_favour_of }] => Some(in_favour_of.map(|(_, other)| other)),
        _ => None,
    };
    let told: Vec<_> = (0..6).map(stands).collect();
    assert_eq!(told, [Some(None), Some(None), Some(Some(id(3))), None, Some(Some(id(5))), None]);
}

#[test]
fn a_time_beyond_the_calendar_is_at_its_nearer_end() {
    let year = |seconds| local(Timestamp { seconds, nanoseconds: 0 }, &TimeZone::UTC).year();
    assert_eq!([i64::MIN, -1, 0, i64::MAX].map(year), [-9999, 1969, 1970, 9999]);
}

fn honest(days: std::ops::Range<i64>) -> Vec<Candidate<'static>> {
    days.map(|day| {
        let time = Timestamp { seconds: day * 86_400 + 43_200, nanoseconds: 0 };
        let tail = u8::try_from(day % 251).unwrap();
        Candidate { id: id(tail), claimed: time, observed: Some(time), tags: &[], original: None }
    })
    .collect()
}

fn day(day: i64) -> Timestamp {
    Timestamp { seconds: day * 86_400 + 43_200, nanoseconds: 0 }
}

/// Two hundred snapshots, numbered, that claim these times and were seen at these.
fn forged(times: impl Fn(i64) -> (Timestamp, Timestamp)) -> Vec<Candidate<'static>> {
    (0..200)
        .map(|number: i64| {
            let (claimed, observed) = times(number);
            let id = SnapshotId(SessionId { generation: 1, random: [number as u8; 16] });
            Candidate { id, claimed, observed: Some(observed), tags: &[], original: None }
        })
        .collect()
}

/// Rules of every kind.
fn many_rules() -> Policy {
    policy(&[
        rule(Every::Snapshot, Reach::Count(5)),
        rule(Every::Hour, Reach::Count(5)),
        rule(Every::Day, Reach::Count(7)),
        rule(Every::Month, Reach::Count(12)),
        rule(Every::Snapshot, within("3d")),
    ])
}

#[test]
fn forged_times_cost_no_other_snapshot_its_place() {
    let true_ones = honest(20_000..20_040);
    let now = Timestamp { seconds: day(20_039).seconds + 9000, nanoseconds: 0 };
    let policy = many_rules();
    let of = |candidates: &[Candidate<'_>]| -> BTreeMap<SnapshotId, Verdict> {
        let verdicts = retain(candidates, &policy, now, &TimeZone::UTC);
        verdicts.into_iter().map(|verdict| (verdict.id, verdict)).collect()
    };
    let before = of(&true_ones);
    let lies = [
        ("future claims", forged(|number| (day(30_000 + number), now))),
        ("past claims", forged(|number| (day(10_000 + number * 30), now))),
        ("past claims of days that others have", forged(|number| (day(19_840 + number), now))),
        (
            "a clock ahead on both sides",
            forged(|number| (day(20_041 + number), day(20_041 + number))),
        ),
        ("touched into the future", forged(|number| (now, day(20_041 + number)))),
        ("touched into the past", forged(|number| (now, day(19_840 + number)))),
    ];
    for (what, lies) in lies {
        // `past claims of days that others have` ends within a day of what the store saw: that is believed.
        let lies: Vec<_> = lies.into_iter().filter(|lie| lie.times(now, false).doubted).collect();
        assert!(lies.len() > 197, "{what}");
        let half = lies.len() / 2;
        let after = of(&[&lies[..half], &true_ones, &lies[half..]].concat());
        for (id, verdict) in &before {
            assert_eq!(after[id], *verdict, "{what}");
        }
    }
}

#[test]
fn seven_runs_under_a_clock_that_is_years_ahead_do_not_fill_the_last_seven() {
    let early = forged(|number| (day(24_000 + number), day(24_000 + number)));
    let last = policy(&[rule(Every::Snapshot, Reach::Count(7))]);
    let all = [&early[..7], &honest(20_000..20_010)].concat();
    let verdicts = retain(&all, &last, day(20_010), &TimeZone::UTC);
    let kept: Vec<_> = verdicts.iter().map(|verdict| verdict.kept).collect();
    assert_eq!(kept, [[true; 7].as_slice(), &[false; 3], &[true; 7]].concat());
    // When that time has come, they are as good as others.
    let verdicts = retain(&all, &last, day(24_010), &TimeZone::UTC);
    assert_eq!(verdicts.iter().filter(|verdict| verdict.kept).count(), 7);
    assert!(verdicts.iter().all(|verdict| !verdict.doubted));
}

#[test]
fn whose_times_somebody_has_spoilt_keeps_the_place_that_its_claim_gives_it() {
    let now = day(20_400);
    let true_ones = honest(20_000..20_400);
    let policy = policy(&[rule(Every::Day, Reach::Count(7)), rule(Every::Month, Reach::Count(12))]);
    let kept = |candidates: &[Candidate<'_>]| -> BTreeSet<SnapshotId> {
        let verdicts = retain(candidates, &policy, now, &TimeZone::UTC);
        verdicts.into_iter().filter(|verdict| verdict.kept).map(|verdict| verdict.id).collect()
    };
    let before = kept(&true_ones);
    let touched_to = |time| -> Vec<Candidate<'static>> {
        true_ones.iter().map(|one| Candidate { observed: Some(time), ..*one }).collect()
    };
    // As of a copy without times, too.
    for (what, time) in [("now", now), ("the past", day(19_000)), ("the future", day(30_000))] {
        let spoilt = touched_to(time);
        assert!(kept(&spoilt).is_superset(&before), "touched to {what}");
        let lies = forged(|number| (day(20_400 - number), time));
        let mixed = [spoilt, lies].concat();
        assert!(kept(&mixed).is_superset(&before), "touched to {what}, and forged besides");
    }
}

#[test]
fn a_flood_within_a_day_takes_the_hours_behind_it_and_one_before_it() {
    let now = day(20_000);
    let seconds = |seconds| Timestamp { seconds: now.seconds + seconds, nanoseconds: 0 };
    // Claims from a day before to a day after the one moment at which all were made.
    let flood = forged(|number| (seconds((number - 100) * 864), now));
    let hourly = policy(&[rule(Every::Hour, Reach::Unlimited)]);
    let verdicts = retain(&flood, &hourly, now, &TimeZone::UTC);
    assert_eq!(verdicts.iter().filter(|verdict| verdict.kept && !verdict.doubted).count(), 25);
    // Those who come after it are newer than all of it but what claims an hour more.
    let last = policy(&[rule(Every::Snapshot, Reach::Count(3))]);
    let late = Candidate { id: id(250), claimed: seconds(3700), observed: None, ..flood[0] };
    let verdicts = retain(&[&flood[..], &[late]].concat(), &last, seconds(3700), &TimeZone::UTC);
    assert_eq!(verdicts[200].reasons[0].to_string(), "last 1 of 3");
}

#[test]
fn a_repaired_snapshot_does_not_push_out_the_one_that_it_stands_for() {
    let mut all = honest(20_000..20_004);
    let original = all[3];
    let claimed = Timestamp { nanoseconds: 1, ..original.claimed };
    let observed = Some(Timestamp { seconds: claimed.seconds + 7200, nanoseconds: 0 });
    let repaired =
        Candidate { id: id(250), claimed, observed, original: Some(original.id), ..original };
    all.push(repaired);
    let told = |all: &[Candidate<'_>], policy: &Policy| -> Vec<String> {
        let verdicts = retain(all, policy, LATE, &TimeZone::UTC);
        verdicts.iter().map(|verdict| verdict.reasons[0].to_string()).collect()
    };
    let daily = policy(&[rule(Every::Day, Reach::Count(2))]);
    assert_eq!(told(&all, &daily)[2..], ["daily 2 of 2", "daily 1 of 2", "daily 1 of 2"]);
    let last = policy(&[rule(Every::Snapshot, Reach::Count(2))]);
    assert_eq!(told(&all, &last)[2..], ["last 2 of 2", "last 1 of 2", "last 1 of 2"]);
    all.remove(3);
    assert_eq!(told(&all, &last)[1..], ["no rule keeps it", "last 2 of 2", "last 1 of 2"]);
}

#[test]
fn a_time_that_was_brought_along_counts_where_claims_are_trusted() {
    let seen = Timestamp { seconds: 20_000 * 86_400, nanoseconds: 0 };
    let brought: Vec<_> = (0..10)
        .map(|year| Candidate {
            id: id(year),
            claimed: Timestamp {
                seconds: i64::from(year) * 31_556_952 + 9_000_000,
                nanoseconds: 0,
            },
            observed: Some(seen),
            tags: &[],
            original: None,
        })
        .collect();
    let told = |policy: &Policy| -> Vec<(String, bool)> {
        let verdicts = retain(&brought, policy, LATE, &TimeZone::UTC);
        let told = |verdict: &Verdict| (verdict.reasons[0].to_string(), verdict.doubted);
        verdicts.iter().map(told).collect()
    };
    let slot = |slot, doubted| (format!("yearly {slot} of 3"), doubted);
    let no_rule = || ("no rule keeps it".to_string(), false);
    let yearly = policy(&[rule(Every::Year, Reach::Count(3))]);
    assert_eq!(told(&yearly), vec![slot(1, true); 10], "each as if it were the only one");
    let trusting = Policy { trust_claims: true, ..yearly };
    let expected = [vec![no_rule(); 7], vec![slot(3, false), slot(2, false), slot(1, false)]];
    assert_eq!(told(&trusting), expected.concat());
}

#[test]
fn which_times_count() {
    let at = |seconds| Timestamp { seconds, nanoseconds: 0 };
    let now = at(10_000_000);
    let (hour, day) = (3600, 86_400);
    // Claimed and observed, before now; what counts, the claim that may count besides, and whether it is doubted.
    type Row = ((i64, Option<i64>), (i64, Option<i64>, bool));
    let table: [Row; 17] = [
        ((-100, Some(-100)), (-100, None, false)),
        ((-100 - day, Some(-100)), (-100 - day, None, false)),
        ((-101 - day, Some(-100)), (-100, Some(-101 - day), true)),
        // A claim may be an hour ahead of the store, or the store's time counts.
        ((-9 * hour, Some(-10 * hour)), (-9 * hour, None, false)),
        ((1 - 9 * hour, Some(-10 * hour)), (-10 * hour, None, false)),
        ((-2 * day, Some(-3 * day)), (-3 * day, None, false)),
        ((1 - 2 * day, Some(-3 * day)), (-3 * day, Some(1 - 2 * day), true)),
        // Either may be an hour ahead of the present.
        ((hour, Some(hour)), (hour, None, false)),
        ((hour + 1, Some(0)), (0, None, true)),
        ((0, Some(hour + 1)), (hour + 1, Some(0), true)),
        ((2 * hour, Some(3 * hour)), (3 * hour, Some(2 * hour), true)),
        ((3 * hour, Some(2 * hour)), (2 * hour, Some(3 * hour), true)),
        ((99 * day, Some(-day)), (-day, None, true)),
        ((-day, Some(99 * day)), (99 * day, Some(-day), true)),
        // A store that tells no times leaves nothing but the claim.
        ((-99 * day, None), (-99 * day, None, false)),
        ((hour, None), (hour, None, false)),
        ((hour + 1, None), (hour + 1, None, true)),
    ];
    let moment = |offset: i64| at(now.seconds + offset);
    for ((claimed, observed), (time, claim, doubted)) in table {
        let (claimed, observed) = (moment(claimed), observed.map(moment));
        let candidate = Candidate { id: id(0), claimed, observed, tags: &[], original: None };
        let expected = Times { time: moment(time), claim: claim.map(moment), doubted };
        assert_eq!(candidate.times(now, false), expected, "{claimed:?} {observed:?}");
        let alone = Candidate { observed: None, ..candidate };
        assert_eq!(candidate.times(now, true), alone.times(now, false));
    }
}

fn any_reach() -> impl Strategy<Value = Reach> {
    prop_oneof![
        (0..6_u32).prop_map(Reach::Count),
        Just(Reach::Unlimited),
        (0..14_u32, 0..40_u32, 0..90_000_u64).prop_map(|(months, days, seconds)| {
            Reach::Within(Period { months, days, seconds })
        }),
    ]
}

fn any_rule() -> impl Strategy<Value = Rule> {
    (0..EVERY.len(), any_reach()).prop_map(|(every, reach)| Rule { every: EVERY[every], reach })
}

fn any_policy() -> impl Strategy<Value = Policy> {
    (proptest::collection::vec(any_rule(), 0..4), any::<bool>(), 0..40_i64).prop_map(
        |(rules, from_now, day)| {
            let moment = Timestamp { seconds: 1_790_000_000 + day * 86_400, nanoseconds: 0 };
            let anchor = if from_now { Anchor::At(moment) } else { Anchor::Newest };
            Policy { rules, anchor, ..Policy::default() }
        },
    )
}

/// Up to forty snapshots within three years, every fourth of which lies about its time.
fn any_history() -> impl Strategy<Value = Vec<Candidate<'static>>> {
    let moment = 1_700_000_000..1_800_000_000_i64;
    let claim = prop_oneof![3 => Just(None), 1 => proptest::option::of(any::<i64>())];
    proptest::collection::vec((moment, claim), 0..40).prop_map(|rows| {
        let numbered = rows.into_iter().zip(0..);
        numbered
            .map(|((seconds, claim), number)| {
                let observed = Timestamp { seconds, nanoseconds: 0 };
                let claimed = Timestamp { seconds: claim.unwrap_or(seconds), nanoseconds: 0 };
                Candidate {
                    id: id(number),
                    claimed,
                    observed: Some(observed),
                    tags: &[],
                    original: None,
                }
            })
            .collect()
    })
}

fn survivors<'a>(candidates: &[Candidate<'a>], policy: &Policy) -> Vec<Candidate<'a>> {
    let kept = retain(candidates, policy, LATE, &berlin()).into_iter().map(|verdict| verdict.kept);
    candidates.iter().zip(kept).filter(|(_, kept)| *kept).map(|(one, _)| *one).collect()
}

proptest! {
    #[test]
    fn applying_a_policy_twice_drops_nothing_more(
        history in any_history(), policy in any_policy(),
    ) {
        let once = survivors(&history, &policy);
        prop_assert_eq!(survivors(&once, &policy), once);
    }

    #[test]
    fn what_is_kept_stays_kept_when_others_go(
        history in any_history(), policy in any_policy(), gone in any::<u64>(),
    ) {
        // The anchor is fixed: it would move with the newest one, and keep more.
        let moment = Timestamp { seconds: 1_800_000_000, nanoseconds: 0 };
        let policy = Policy { anchor: Anchor::At(moment), ..policy };
        let kept = survivors(&history, &policy);
        let numbered = history.iter().enumerate();
        let fewer: Vec<_> =
            numbered.filter(|(at, _)| gone >> (at % 64) & 1 == 0).map(|(_, one)| *one).collect();
        let still = survivors(&fewer, &policy);
        for one in fewer.iter().filter(|one| kept.contains(one)) {
            prop_assert!(still.contains(one), "{one:?}");
        }
    }

    #[test]
    fn another_rule_never_drops_more(
        history in any_history(), policy in any_policy(), more in any_rule(),
    ) {
        let kept = survivors(&history, &policy);
        let mut policy = policy;
        policy.rules.push(more);
        let then = survivors(&history, &policy);
        prop_assert!(kept.iter().all(|one| then.contains(one)));
    }

    #[test]
    fn the_order_of_snapshots_does_not_matter(
        history in any_history(), policy in any_policy(), turn in 0..40_usize,
    ) {
        let mut turned = history.clone();
        turned.rotate_left(turn % history.len().max(1));
        let mut verdicts = retain(&history, &policy, LATE, &berlin());
        let mut others = retain(&turned, &policy, LATE, &berlin());
        verdicts.sort_by_key(|verdict| verdict.id);
        others.sort_by_key(|verdict| verdict.id);
        prop_assert_eq!(verdicts, others);
    }

    #[test]
    fn no_doubted_snapshot_changes_the_verdict_of_another(
        history in any_history(), policy in any_policy(), late in any::<bool>(),
    ) {
        // Within the history, so that what comes after it is doubted, too.
        let now = if late { LATE } else { Timestamp { seconds: 1_750_000_000, nanoseconds: 0 } };
        let is_doubted = |one: &&Candidate<'_>| one.times(now, false).doubted;
        let trusted: Vec<_> = history.iter().filter(|one| !is_doubted(one)).copied().collect();
        let among_all = retain(&history, &policy, now, &berlin());
        let alone = retain(&trusted, &policy, now, &berlin());
        let (doubted, not): (Vec<_>, Vec<_>) =
            among_all.into_iter().partition(|verdict| verdict.doubted);
        prop_assert_eq!(not, alone);
        for (one, verdict) in history.iter().filter(is_doubted).zip(doubted) {
            let with_it = [&trusted[..], &[*one]].concat();
            prop_assert_eq!(retain(&with_it, &policy, now, &berlin()).pop(), Some(verdict));
        }
    }

    #[test]
    fn an_earlier_present_keeps_more(
        history in any_history(), policy in any_policy(), back in 0..200_000_000_i64,
    ) {
        // A claim that was ahead of what the store saw counts less while it is ahead of the present.
        let history: Vec<_> = history
            .into_iter()
            .filter(|one| one.observed.is_some_and(|observed| one.claimed <= observed))
            .collect();
        let kept = survivors(&history, &policy);
        let now = Timestamp { seconds: 1_800_000_000 - back, nanoseconds: 0 };
        let verdicts = retain(&history, &policy, now, &berlin());
        for (one, verdict) in history.iter().zip(verdicts) {
            prop_assert!(verdict.kept || !kept.contains(one), "{one:?}");
        }
    }

    #[test]
    fn of_those_that_are_not_doubted_no_more_are_kept_than_the_slots_give(
        history in any_history(), rule in any_rule(),
    ) {
        let Reach::Count(count) = rule.reach else { return Ok(()) };
        let policy = Policy { rules: vec![rule], ..Policy::default() };
        let verdicts = retain(&history, &policy, LATE, &berlin());
        let kept = verdicts.iter().filter(|verdict| verdict.kept && !verdict.doubted);
        prop_assert!(kept.count() as u32 <= count);
        prop_assert!(verdicts.iter().all(|verdict| !verdict.reasons.is_empty()));
    }

    #[test]
    fn no_time_is_too_strange(seconds in any::<i64>(), other in any::<i64>(), policy in any_policy()) {
        let time = |seconds| Timestamp { seconds, nanoseconds: 999_999_999 };
        let strange = Candidate {
            id: id(1),
            claimed: time(seconds),
            observed: None,
            tags: &[],
            original: None,
        };
        let seen = Candidate { observed: Some(time(other)), id: id(2), ..strange };
        let verdicts = retain(&[strange, seen], &policy, time(other), &berlin());
        prop_assert_eq!(verdicts.len(), 2);
        let _ = format_local(verdicts[0].time, &berlin());
    }
}
