//! Moments as people write them: parsed and printed, in a zone that is handed in.
//!
//! Where clocks are turned, a local time may come twice or not at all. The first of two is taken, and
//! a time that was skipped is moved on by what was skipped, as RFC 5545 has it.

use jiff::civil::Date;
use jiff::civil::Time;
use jiff::civil::Weekday;
use jiff::tz::Offset;
use jiff::tz::TimeZone;

use crate::units::Timestamp;
use crate::units::UnitsError;
use crate::units::duration::Period;

const MOMENT_FORMS: &str = "a moment: a date (2026-11-01), a date and a time (2026-11-01 14:30, \
                            2026-11-01T14:30:15Z, 2026-11-01T14:30:15+02:00), a time of day (14:30), \
                            a day (today, yesterday, monday; also yesterday 14:30), an age (90m, 2h, \
                            3d, 1w, 2mo, 1y, 3 days ago) or now";
const RFC3339_FORMS: &str =
    "a date and time with its offset (2026-11-01T14:30:15Z, 2026-11-01T14:30:15.123+01:00)";
const MOMENT_LIMIT: &str = "moments lie in the years -9999 to 9999";

/// Reads a moment, for use as "the newest at or before": where only a day is named, its last
/// nanosecond in `zone` is meant.
///
/// - `2026-11-01 14:30`, `2026-11-01T14:30:15`: local time; with `Z` or an offset (`+02:00`), that one
/// - `2026-11-01`, `today`, `yesterday`, `monday` (the last one before today): the end of that day
/// - `today 14:30`, `yesterday 14:30`, `monday 14:30`: that time of that day
/// - `14:30`: today, or yesterday when that is still to come
/// - `3d`, `2h`, `90m`, `1w`, `2mo`, `1y`, `3d ago`, `2 days ago`: that long before `now`, months and
///   days by the calendar; see [`Period::parse`] for the units
/// - `now`
///
/// Case does not matter.
pub fn parse_moment(text: &str, now: Timestamp, zone: &TimeZone) -> Result<Timestamp, UnitsError> {
    parse_edge(text, now, zone, Edge::End)
}

/// The same for use as "at or after": where only a day is named, its first moment is meant.
pub fn parse_start(text: &str, now: Timestamp, zone: &TimeZone) -> Result<Timestamp, UnitsError> {
    parse_edge(text, now, zone, Edge::Start)
}

/// Which end of a day that is named alone.
#[derive(Clone, Copy)]
enum Edge {
    Start,
    End,
}

fn parse_edge(
    text: &str,
    now: Timestamp,
    zone: &TimeZone,
    edge: Edge,
) -> Result<Timestamp, UnitsError> {
    let words = text.trim().to_ascii_lowercase();
    let out_of_range = || UnitsError::out_of_range(text, MOMENT_LIMIT);
    if words == "now" {
        return Ok(now);
    }
    if let Ok(timestamp) = parse_rfc3339(&words) {
        return Ok(timestamp);
    }
    if let Some(period) = parse_age(&words) {
        return before(now, &period, zone).ok_or_else(out_of_range);
    }
    let now = to_jiff(now).ok_or_else(out_of_range)?;
    let today = zone.to_datetime(now).date();
    let local =
        parse_local(&words, today).ok_or_else(|| UnitsError::invalid(text, MOMENT_FORMS))?;
    resolve(local, now, today, zone, edge).map(from_jiff).ok_or_else(out_of_range)
}

/// The moment that lies `period` before `timestamp`, by the calendar and the clocks of `zone`: a month
/// before 31 March is the last of February. `None` when that is before the year -9999.
pub fn before(timestamp: Timestamp, period: &Period, zone: &TimeZone) -> Option<Timestamp> {
    let span = jiff::Span::new()
        .try_months(period.months)
        .and_then(|span| span.try_days(period.days))
        .and_then(|span| span.try_seconds(i64::try_from(period.seconds).unwrap_or(i64::MAX)))
        .ok()?;
    let zoned = to_jiff(timestamp)?.to_zoned(zone.clone());
    Some(from_jiff(zoned.checked_sub(span).ok()?.timestamp()))
}

/// What a text names in local time.
enum Local {
    /// A day.
    Day(Date),
    /// A time on a day.
    At(Date, Time),
    /// A time today, or yesterday when that is still to come.
    Last(Time),
}

/// What `words` name; `None` when they name nothing.
fn parse_local(words: &str, today: Date) -> Option<Local> {
    if let Some(time) = parse_time(words) {
        return Some(Local::Last(time));
    }
    // A date and its time may also be joined as RFC 3339 joins them, by a `t`.
    let (day, time) = match words.as_bytes().get(10) {
        Some(b't') => (words.get(..10)?, words.get(11..)),
        _ => match words.split_once(char::is_whitespace) {
            Some((day, time)) => (day, Some(time.trim_start())),
            None => (words, None),
        },
    };
    let date = parse_date(day).or_else(|| parse_day_name(day, today))?;
    Some(match time {
        Some(time) => Local::At(date, parse_time(time)?),
        None => Local::Day(date),
    })
}

fn resolve(
    local: Local,
    now: jiff::Timestamp,
    today: Date,
    zone: &TimeZone,
    edge: Edge,
) -> Option<jiff::Timestamp> {
    let at = |date: Date, time: Time| zone.to_timestamp(date.to_datetime(time)).ok();
    match (local, edge) {
        (Local::Day(date), Edge::Start) => at(date, Time::midnight()),
        // Taken from the start of the day after: a day's last hour may come twice.
        (Local::Day(date), Edge::End) => at(date.tomorrow().ok()?, Time::midnight())?
            .checked_sub(jiff::Span::new().nanoseconds(1))
            .ok(),
        (Local::At(date, time), _) => at(date, time),
        (Local::Last(time), _) => at(today, time)
            .filter(|moment| *moment <= now)
            .or_else(|| at(today.yesterday().ok()?, time)),
    }
}

/// `3d`, `3d ago`, `2 days ago`.
fn parse_age(words: &str) -> Option<Period> {
    Period::parse(words.strip_suffix("ago").map_or(words, str::trim_end)).ok()
}

/// `2026-11-01`, and no other form that ISO 8601 has for it.
fn parse_date(text: &str) -> Option<Date> {
    let shape = text.bytes().map(|byte| if byte.is_ascii_digit() { b'0' } else { byte });
    if !shape.eq(*b"0000-00-00") {
        return None;
    }
    text.parse().ok()
}

/// `14:30`, `9:30`, `14:30:15`, `14:30:15.25`.
fn parse_time(text: &str) -> Option<Time> {
    let (hour, rest) = text.split_once(':')?;
    if !(1..=2).contains(&hour.len())
        || !text.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b':' | b'.'))
    {
        return None;
    }
    format!("{hour:0>2}:{rest}").parse().ok()
}

/// `today`, `yesterday`, or a weekday: the last one before today.
fn parse_day_name(word: &str, today: Date) -> Option<Date> {
    let weekday = match word {
        "today" => return Some(today),
        "yesterday" => return today.yesterday().ok(),
        "monday" | "mon" => Weekday::Monday,
        "tuesday" | "tue" => Weekday::Tuesday,
        "wednesday" | "wed" => Weekday::Wednesday,
        "thursday" | "thu" => Weekday::Thursday,
        "friday" | "fri" => Weekday::Friday,
        "saturday" | "sat" => Weekday::Saturday,
        "sunday" | "sun" => Weekday::Sunday,
        _ => return None,
    };
    today.nth_weekday(-1, weekday).ok()
}

/// Reads a date and time with its offset, as [`format_rfc3339`] writes it. A blank may stand for the
/// `T`, and seconds may be left out.
pub fn parse_rfc3339(text: &str) -> Result<Timestamp, UnitsError> {
    let timestamp = text.trim().parse::<jiff::Timestamp>();
    timestamp.map(from_jiff).map_err(|_| UnitsError::invalid(text, RFC3339_FORMS))
}

/// Prints a moment for people: `2026-11-01 14:30:15`, in local time, nanoseconds cut off.
///
/// A moment outside the years -9999 to 9999 (a file's time may be anything) is printed as the seconds
/// since 1970: `@1234567890123`.
pub fn format_local(timestamp: Timestamp, zone: &TimeZone) -> String {
    match to_jiff(timestamp) {
        Some(moment) => moment.to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M:%S").to_string(),
        None => format!("@{}", timestamp.seconds),
    }
}

/// Prints a moment for machines, as RFC 3339 has it and as restic prints it:
/// `2026-11-01T14:30:15.123456789+01:00`, zeros at the end of the fraction left out, `Z` for no offset.
///
/// Offsets of old times that are not whole minutes cannot be written: such moments are printed in UTC.
/// A moment outside the years -9999 to 9999 is printed as [`format_local`] prints it.
pub fn format_rfc3339(timestamp: Timestamp, zone: &TimeZone) -> String {
    let Some(moment) = to_jiff(timestamp) else {
        return format!("@{}", timestamp.seconds);
    };
    let offset = zone.to_offset(moment);
    if offset == Offset::UTC || offset.seconds() % 60 != 0 {
        moment.to_string()
    } else {
        moment.display_with_offset(offset).to_string()
    }
}

fn to_jiff(timestamp: Timestamp) -> Option<jiff::Timestamp> {
    let nanoseconds = i32::try_from(timestamp.nanoseconds).ok()?;
    jiff::Timestamp::new(timestamp.seconds, nanoseconds).ok()
}

/// jiff counts the nanoseconds of a moment before 1970 backwards; a [`Timestamp`] never does.
fn from_jiff(moment: jiff::Timestamp) -> Timestamp {
    let (seconds, nanoseconds) = (moment.as_second(), moment.subsec_nanosecond());
    match u32::try_from(nanoseconds) {
        Ok(nanoseconds) => Timestamp { seconds, nanoseconds },
        Err(_) => {
            Timestamp { seconds: seconds - 1, nanoseconds: (1_000_000_000 + nanoseconds) as u32 }
        }
    }
}

#[cfg(test)]
#[path = "time_tests.rs"]
mod tests;
