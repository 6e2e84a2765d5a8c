//! Tests of moments: tables with the days on which clocks are turned, and properties over zones.

use super::*;
use proptest::prelude::*;

fn zone(name: &str) -> TimeZone {
    TimeZone::get(name).unwrap()
}

fn berlin() -> TimeZone {
    zone("Europe/Berlin")
}

/// Reads `text` when it is `now` in `zone`, and tells the moment in UTC.
fn parse_in(zone: &TimeZone, now: &str, text: &str) -> String {
    let now = parse_rfc3339(now).unwrap();
    format_rfc3339(parse_moment(text, now, zone).unwrap(), &TimeZone::UTC)
}

#[test]
fn every_form_of_a_moment_is_read() {
    // A Wednesday, 12:00 in Berlin.
    let now = "2026-11-04T11:00:00.5Z";
    for (text, expected) in [
        ("now", "2026-11-04T11:00:00.5Z"),
        ("2026-11-01 14:30", "2026-11-01T13:30:00Z"),
        ("2026-11-01 14:30:15", "2026-11-01T13:30:15Z"),
        ("2026-11-01   4:30", "2026-11-01T03:30:00Z"),
        ("2026-11-01T14:30:15", "2026-11-01T13:30:15Z"),
        ("2026-11-01T14:30:15Z", "2026-11-01T14:30:15Z"),
        ("2026-11-01t14:30:15z", "2026-11-01T14:30:15Z"),
        ("2026-11-01T14:30Z", "2026-11-01T14:30:00Z"),
        ("2026-11-01T14:30:15.25+02:00", "2026-11-01T12:30:15.25Z"),
        ("2026-11-01 14:30:15-05:30", "2026-11-01T20:00:15Z"),
        ("2026-11-01", "2026-11-01T22:59:59.999999999Z"),
        ("today", "2026-11-04T22:59:59.999999999Z"),
        ("yesterday", "2026-11-03T22:59:59.999999999Z"),
        ("Yesterday 14:30", "2026-11-03T13:30:00Z"),
        ("today 11:00", "2026-11-04T10:00:00Z"),
        ("monday", "2026-11-02T22:59:59.999999999Z"),
        ("mon 9:30", "2026-11-02T08:30:00Z"),
        // Today's weekday is the one a week ago.
        ("Wednesday", "2026-10-28T22:59:59.999999999Z"),
        ("thursday", "2026-10-29T22:59:59.999999999Z"),
        ("11:59", "2026-11-04T10:59:00Z"),
        ("12:00", "2026-11-04T11:00:00Z"),
        ("12:01", "2026-11-03T11:01:00Z"),
        ("9:30:15", "2026-11-04T08:30:15Z"),
        ("3d", "2026-11-01T11:00:00.5Z"),
        ("2h", "2026-11-04T09:00:00.5Z"),
        ("90m", "2026-11-04T09:30:00.5Z"),
        ("1w", "2026-10-28T11:00:00.5Z"),
        ("2 days ago", "2026-11-02T11:00:00.5Z"),
        ("3d ago", "2026-11-01T11:00:00.5Z"),
        // Noon in Berlin is an hour earlier in UTC while it has summer time.
        ("2mo", "2026-09-04T10:00:00.5Z"),
        ("1y", "2025-11-04T11:00:00.5Z"),
        ("1y2mo", "2025-09-04T10:00:00.5Z"),
    ] {
        assert_eq!(parse_in(&berlin(), now, text), expected, "{text:?}");
    }
}

#[test]
fn what_is_no_moment_is_refused_with_the_forms_that_are() {
    let now = parse_rfc3339("2026-11-04T11:00:00Z").unwrap();
    for text in [
        "",
        "soon",
        "tomorrow",
        "2026",
        "2026-11",
        "20261101",
        "2026-13-01",
        "2026-02-29",
        "25:00",
        "14:60",
        "14",
        "yesterday yesterday",
        "2026-11-01 noon",
        "2026-11-01T",
        "3 ago",
        "ago",
        "2026-11-01T14:30+99:00",
        "2026-11-01T14:30[Europe/Berlin]",
        "+002026-11-01",
        "-3d",
        "2026-11-01é14:30",
        "123456789é",
    ] {
        let error = parse_moment(text, now, &berlin()).unwrap_err();
        assert!(matches!(error, UnitsError::Invalid { .. }), "{text:?}: {error}");
        let message = error.to_string();
        assert!(message.contains(&format!("{text:?}")), "{message}");
        for form in ["2026-11-01 14:30", "yesterday", "3d", "+02:00"] {
            assert!(message.contains(form), "{message}");
        }
    }
    for text in ["19000y", "9999-12-31"] {
        let error = parse_moment(text, now, &berlin()).unwrap_err();
        assert!(matches!(error, UnitsError::OutOfRange { .. }), "{text:?}: {error}");
    }
    let never = Timestamp { seconds: i64::MAX, nanoseconds: 0 };
    assert!(parse_moment("yesterday", never, &berlin()).is_err());
}

#[test]
fn a_time_that_was_skipped_moves_on_and_of_two_the_first_is_taken() {
    let now = "2026-12-01T00:00:00Z";
    for (zone_name, text, expected) in [
        // 29 March 2026: 02:00 became 03:00 in Berlin.
        ("Europe/Berlin", "2026-03-29 01:59", "2026-03-29T00:59:00Z"),
        ("Europe/Berlin", "2026-03-29 02:30", "2026-03-29T01:30:00Z"),
        ("Europe/Berlin", "2026-03-29 03:00", "2026-03-29T01:00:00Z"),
        ("Europe/Berlin", "2026-03-29", "2026-03-29T21:59:59.999999999Z"),
        // 25 October 2026: 03:00 became 02:00.
        ("Europe/Berlin", "2026-10-25 02:30", "2026-10-25T00:30:00Z"),
        ("Europe/Berlin", "2026-10-25", "2026-10-25T22:59:59.999999999Z"),
        // 17 February 2018: midnight became 23:00, so that day's last hour came twice.
        ("America/Sao_Paulo", "2018-02-17", "2018-02-18T02:59:59.999999999Z"),
        // 4 November 2018: midnight became 01:00, so the day before ends where that begins.
        ("America/Sao_Paulo", "2018-11-03", "2018-11-04T02:59:59.999999999Z"),
        // 30 December 2011 did not exist in Samoa.
        ("Pacific/Apia", "2011-12-29", "2011-12-30T09:59:59.999999999Z"),
        // Half an hour of summer time.
        ("Australia/Lord_Howe", "2026-04-05 01:45", "2026-04-04T14:45:00Z"),
    ] {
        assert_eq!(parse_in(&zone(zone_name), now, text), expected, "{zone_name} {text}");
    }
}

#[test]
fn days_and_months_are_the_calendars_and_hours_the_clocks() {
    // Noon on the day Berlin left summer time: a day before is noon, 25 hours ago.
    let now = "2026-10-25T11:00:00Z";
    assert_eq!(parse_in(&berlin(), now, "1d"), "2026-10-24T10:00:00Z");
    assert_eq!(parse_in(&berlin(), now, "24h"), "2026-10-24T11:00:00Z");
    assert_eq!(parse_in(&berlin(), "2026-03-31T12:00:00Z", "1mo"), "2026-02-28T13:00:00Z");
    assert_eq!(parse_in(&berlin(), "2024-02-29T12:00:00Z", "1y"), "2023-02-28T12:00:00Z");
}

#[test]
fn a_bare_time_is_the_last_one_also_when_clocks_are_turned() {
    // 02:30 came twice in Berlin; between the two, and after, the first was the last to be named so.
    assert_eq!(parse_in(&berlin(), "2026-10-25T00:45:00Z", "2:30"), "2026-10-25T00:30:00Z");
    assert_eq!(parse_in(&berlin(), "2026-10-25T00:15:00Z", "2:30"), "2026-10-24T00:30:00Z");
}

#[test]
fn moments_are_printed_for_people_and_for_machines() {
    let moment = Timestamp { seconds: 1_793_539_815, nanoseconds: 123_456_789 };
    assert_eq!(format_local(moment, &berlin()), "2026-11-01 14:30:15");
    assert_eq!(format_rfc3339(moment, &berlin()), "2026-11-01T14:30:15.123456789+01:00");
    assert_eq!(format_rfc3339(moment, &TimeZone::UTC), "2026-11-01T13:30:15.123456789Z");
    let whole = Timestamp { nanoseconds: 0, ..moment };
    assert_eq!(format_rfc3339(whole, &zone("Asia/Kolkata")), "2026-11-01T19:00:15+05:30");
    let before_1970 = Timestamp { seconds: -1, nanoseconds: 500_000_000 };
    assert_eq!(format_rfc3339(before_1970, &TimeZone::UTC), "1969-12-31T23:59:59.5Z");
    // Berlin's clocks followed its own sun until 1893: 53 minutes and 28 seconds.
    let old = Timestamp { seconds: -3_000_000_000, nanoseconds: 0 };
    assert_eq!(format_rfc3339(old, &berlin()), "1874-12-07T18:40:00Z");
    let never = Timestamp { seconds: i64::MIN, nanoseconds: 0 };
    assert_eq!(format_local(never, &berlin()), "@-9223372036854775808");
    assert_eq!(format_rfc3339(never, &berlin()), "@-9223372036854775808");
}

/// The database inside the program, which serves where a system has none.
#[test]
fn zones_are_known_without_the_systems_files() {
    let bundled = jiff::tz::TimeZoneDatabase::bundled();
    assert!(!bundled.is_definitively_empty());
    let berlin = bundled.get("Europe/Berlin").unwrap();
    assert_eq!(parse_in(&berlin, "2026-07-01T00:00:00Z", "12:00"), "2026-06-30T10:00:00Z");
}

const ZONES: [&str; 6] = [
    "Europe/Berlin",
    "America/Sao_Paulo",
    "Australia/Lord_Howe",
    "Asia/Kathmandu",
    "Pacific/Apia",
    "UTC",
];

proptest! {
    #[test]
    fn what_is_printed_for_machines_reads_back(
        seconds in -200_000_000_000_i64..200_000_000_000,
        nanoseconds in 0..1_000_000_000_u32,
        zone_name in prop::sample::select(&ZONES),
    ) {
        let moment = Timestamp { seconds, nanoseconds };
        let text = format_rfc3339(moment, &zone(zone_name));
        prop_assert_eq!(parse_rfc3339(&text), Ok(moment), "{}", text);
        prop_assert_eq!(parse_moment(&text, moment, &TimeZone::UTC), Ok(moment), "{}", text);
    }

    #[test]
    fn what_is_printed_for_people_reads_back_but_for_an_hour_that_came_twice(
        seconds in 0..4_000_000_000_i64,
        zone_name in prop::sample::select(&ZONES),
    ) {
        let moment = Timestamp { seconds, nanoseconds: 0 };
        let zone = zone(zone_name);
        let text = format_local(moment, &zone);
        let back = parse_moment(&text, moment, &zone).unwrap();
        prop_assert_eq!(format_local(back, &zone), text);
        prop_assert!(back <= moment && moment.seconds - back.seconds <= 3600);
    }

    #[test]
    fn a_day_is_from_its_first_moment_to_its_last(
        seconds in 0..4_000_000_000_i64,
        zone_name in prop::sample::select(&ZONES),
    ) {
        let zone = zone(zone_name);
        let now = Timestamp { seconds, nanoseconds: 0 };
        let today = &format_local(now, &zone)[..10];
        let end = parse_moment(today, now, &zone).unwrap();
        prop_assert_eq!(&format_local(end, &zone)[..10], today);
        let next = Timestamp { seconds: end.seconds + 1, nanoseconds: 0 };
        prop_assert_ne!(&format_local(next, &zone)[..10], today);
        prop_assert_eq!(parse_moment("today", now, &zone), Ok(end));
        let start = parse_start(today, now, &zone).unwrap();
        prop_assert_eq!(&format_local(start, &zone)[..10], today);
        let last = Timestamp { seconds: start.seconds - 1, nanoseconds: 0 };
        prop_assert_ne!(&format_local(last, &zone)[..10], today);
        prop_assert!(start <= now && now <= end);
        prop_assert_eq!(parse_start("3h", now, &zone), parse_moment("3h", now, &zone));
    }

    #[test]
    fn a_bare_time_and_a_weekday_are_past_and_near(
        seconds in 0..4_000_000_000_i64,
        hour in 0..24,
        minute in 0..60,
        zone_name in prop::sample::select(&ZONES),
    ) {
        let zone = zone(zone_name);
        let now = Timestamp { seconds, nanoseconds: 0 };
        let last = parse_moment(&format!("{hour:02}:{minute:02}"), now, &zone).unwrap();
        prop_assert!(last <= now);
        // A day, and another where one was skipped, and an hour where clocks were turned.
        prop_assert!(now.seconds - last.seconds <= 49 * 3600);
        let friday = parse_moment("friday", now, &zone).unwrap();
        prop_assert!(friday < now);
        prop_assert!(now.seconds - friday.seconds <= 8 * 86_400 + 3600);
    }

    #[test]
    fn no_text_and_no_clock_make_them_panic(
        text in "(?s).{0,40}|[0-9]{1,5}[-: a-z]{1,6}[0-9:+Zt -]{0,24}",
        seconds in any::<i64>(),
        nanoseconds in any::<u32>(),
    ) {
        let now = Timestamp { seconds, nanoseconds };
        let _ = parse_moment(&text, now, &TimeZone::UTC);
        let _ = format_local(now, &TimeZone::UTC);
        let _ = format_rfc3339(now, &TimeZone::UTC);
    }
}
