use std::collections::BTreeMap;

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

    let daily = policy(&[rule(Every::Day, Reach::Unlimited)]);
    let times = ["2026-07-01T21:30:00Z", "2026-07-01T22:30:00Z", "2026-07-02T02:00:00Z"];
    assert_eq!(kept(&snapshots(&times, &berlin()), &daily, &berlin()), [0, 2]);
    assert_eq!(kept(&snapshots(&times, &TimeZone::UTC), &daily, &TimeZone::UTC), [1, 2]);
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
fn honest(days: std::ops::Range<i64>) -> Vec<Candidate<'static>> {
    days.map(|day| {
        let time = Timestamp { seconds: day * 86_400 + 43_200, nanoseconds: 0 };
        let tail = u8::try_from(day % 251).unwrap();
        Candidate { id: id(tail), claimed: time, observed: Some(time), tags: &[] }
    })
    .collect()
}

fn of(candidates: &[Candidate<'_>], policy: &Policy) -> BTreeMap<SnapshotId, Verdict> {
    let verdicts = retain(candidates, policy, LATE, &TimeZone::UTC);
    verdicts.into_iter().map(|verdict| (verdict.id, verdict)).collect()
}

#[test]
fn a_run_of_forged_times_costs_no_other_snapshot_its_place() {
    let true_ones = honest(20_000..20_040);
    let policy = policy(&[
        rule(Every::Snapshot, Reach::Count(5)),
        rule(Every::Day, Reach::Count(7)),
        rule(Every::Month, Reach::Count(12)),
        rule(Every::Snapshot, within("3d")),
    ]);
    let before = of(&true_ones, &policy);
    let forged = |claimed: &dyn Fn(i64) -> i64| -> Vec<Candidate<'static>> {
        (0..200)
            .map(|number: i64| Candidate {
                id: SnapshotId(SessionId { generation: 1, random: [number as u8; 16] }),
                claimed: Timestamp { seconds: claimed(number) * 86_400, nanoseconds: 0 },
                // All made in one hour after the last true one.
                observed: Some(Timestamp {
                    seconds: 20_039 * 86_400 + 50_000 + number,
                    nanoseconds: 0,
                }),
                tags: &[],
            })
            .collect()
    };
    let future = forged(&|number| 30_000 + number);
    let past = forged(&|number| 10_000 + number * 30);
    for lies in [future, past] {
        let mixed = [&lies[..100], &true_ones, &lies[100..]].concat();
        let after = of(&mixed, &policy);
        for (id, verdict) in &before {
            assert_eq!(after[id], *verdict);
        }
        // The lies are judged by when they came, and so nearly all of them go at once.
        let lies_kept = after.values().filter(|verdict| verdict.doubted && verdict.kept).count();
        assert!(after.values().filter(|verdict| verdict.doubted).count() == 200);
        assert_eq!(lies_kept, 200, "a window keeps them while they are young");
        let policy = Policy { rules: policy.rules[..3].to_vec(), ..policy.clone() };
        let after = of(&mixed, &policy);
        assert_eq!(after.values().filter(|verdict| verdict.doubted && verdict.kept).count(), 5);
    }
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
        })
        .collect();
    let yearly = policy(&[rule(Every::Year, Reach::Count(20))]);
    assert_eq!(kept(&brought, &yearly, &TimeZone::UTC).len(), 2, "the newest and the oldest");
    let trusting = Policy { trust_claims: true, ..yearly };
    assert_eq!(kept(&brought, &trusting, &TimeZone::UTC).len(), 10);
}

#[test]
fn a_disagreement_of_a_day_is_none_yet() {
    let seen = Timestamp { seconds: 1_000_000, nanoseconds: 0 };
    for (apart, expected) in [(0, false), (86_400, false), (-86_400, false), (86_401, true)] {
        let claimed = Timestamp { seconds: 1_000_000 + apart, nanoseconds: 0 };
        let candidate = Candidate { id: id(0), claimed, observed: Some(seen), tags: &[] };
        assert_eq!(candidate.time(), (if expected { seen } else { claimed }, expected));
    }
    let alone = Candidate { id: id(0), claimed: LATE, observed: None, tags: &[] };
    assert_eq!(alone.time(), (LATE, false));
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
                Candidate { id: id(number), claimed, observed: Some(observed), tags: &[] }
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
    fn snapshots_that_lie_change_no_verdict_of_others(
        history in any_history(), policy in any_policy(),
    ) {
        let truthful: Vec<_> = history.iter().filter(|one| !one.time().1).copied().collect();
        let among_all = retain(&history, &policy, LATE, &berlin());
        let alone = retain(&truthful, &policy, LATE, &berlin());
        let among_all: Vec<_> =
            among_all.into_iter().filter(|verdict| !verdict.doubted).collect();
        prop_assert_eq!(among_all, alone);
    }

    #[test]
    fn no_more_are_kept_than_the_slots_give(history in any_history(), rule in any_rule()) {
        let Reach::Count(count) = rule.reach else { return Ok(()) };
        let policy = Policy { rules: vec![rule], ..Policy::default() };
        let verdicts = retain(&history, &policy, LATE, &berlin());
        for doubted in [false, true] {
            let of_kind = verdicts.iter().filter(|verdict| verdict.kept && verdict.doubted == doubted);
            prop_assert!(of_kind.count() as u32 <= count);
        }
        prop_assert!(verdicts.iter().all(|verdict| !verdict.reasons.is_empty()));
    }

    #[test]
    fn no_time_is_too_strange(seconds in any::<i64>(), other in any::<i64>(), policy in any_policy()) {
        let time = |seconds| Timestamp { seconds, nanoseconds: 999_999_999 };
        let strange = Candidate { id: id(1), claimed: time(seconds), observed: None, tags: &[] };
        let seen = Candidate { observed: Some(time(other)), id: id(2), ..strange };
        let verdicts = retain(&[strange, seen], &policy, time(other), &berlin());
        prop_assert_eq!(verdicts.len(), 2);
        let _ = format_local(verdicts[0].time, &berlin());
    }
}
