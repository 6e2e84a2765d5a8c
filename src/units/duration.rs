//! Lengths of time, fixed (hours) and of the calendar (months): parsed and printed.

use std::fmt;
use std::time::Duration;

use crate::units::UnitsError;

const PERIOD_FORMS: &str = "a length of time: numbers with units (3d, 2h30m, 90 minutes, 1y5m7d2h), \
                            where the units are y, mo, w, d, h, m or min, s";
const DURATION_FORMS: &str = "a fixed length of time: numbers with units (30s, 2h30m, 3d), where the \
                              units are w, d, h, m or min, s";
const PERIOD_LIMIT: &str = "a length of time has less than 20000 years";

const MONTHS_LIMIT: u64 = 19_998 * 12;
const DAYS_LIMIT: u64 = 7_304_484;
const SECONDS_LIMIT: u64 = 631_107_417_600;

/// A length of time as people count it. A month has no fixed number of days and, where clocks are
/// turned, a day no fixed number of hours: only beside a moment in a zone is it so many seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Period {
    /// Months; a year is twelve.
    pub months: u32,
    /// Days; a week is seven.
    pub days: u32,
    /// Seconds; an hour is 3600, a minute 60.
    pub seconds: u64,
}

/// What `m` means when the text leaves it open.
#[derive(Clone, Copy, PartialEq, Eq)]
enum LetterM {
    /// What its neighbours say; minutes when it has none.
    ByNeighbours,
    /// Always months.
    Months,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Unit {
    Year,
    Month,
    Week,
    Day,
    Hour,
    Minute,
    Second,
    /// `m`, months or minutes.
    M,
}

impl Unit {
    fn parse(name: &str) -> Option<Unit> {
        Some(match name {
            "y" | "yr" | "yrs" | "year" | "years" => Unit::Year,
            "mo" | "mos" | "mon" | "month" | "months" => Unit::Month,
            "w" | "wk" | "wks" | "week" | "weeks" => Unit::Week,
            "d" | "day" | "days" => Unit::Day,
            "h" | "hr" | "hrs" | "hour" | "hours" => Unit::Hour,
            "min" | "mins" | "minute" | "minutes" => Unit::Minute,
            "s" | "sec" | "secs" | "second" | "seconds" => Unit::Second,
            "m" => Unit::M,
            _ => return None,
        })
    }
}

impl Period {
    /// Reads numbers with units: `3d`, `2h30m`, `90 minutes`, `1y5m7d2h`. Case does not matter.
    ///
    /// Units: `y`, `mo`, `w`, `d`, `h`, `m` or `min`, `s`, and their English names. `m` is minutes
    /// when it stands alone, after hours or before seconds (`90m`, `2h30m`, `5m30s`), and months
    /// everywhere else (`1y5m`, `5m7d`, as restic writes them). `mo` and `min` are never in doubt.
    pub fn parse(text: &str) -> Result<Period, UnitsError> {
        parse_period(text, LetterM::ByNeighbours, PERIOD_FORMS)
    }

    /// As [`Period::parse`], but `m` is always months: what restic's `--keep-within` understands. For
    /// retention, where taking `6m` for minutes would delete what was to be kept.
    pub fn parse_with_months(text: &str) -> Result<Period, UnitsError> {
        parse_period(text, LetterM::Months, PERIOD_FORMS)
    }

    /// Whether it is no time at all.
    pub fn is_zero(&self) -> bool {
        *self == Period::default()
    }
}

impl fmt::Display for Period {
    /// `1y5mo7d2h30min4s`, which every parser here reads back as the same period; `0s` when zero.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_zero() {
            return f.write_str("0s");
        }
        for (count, unit) in [
            (u64::from(self.months / 12), "y"),
            (u64::from(self.months % 12), "mo"),
            (u64::from(self.days), "d"),
            (self.seconds / 3600, "h"),
            (self.seconds / 60 % 60, "min"),
            (self.seconds % 60, "s"),
        ] {
            if count > 0 {
                write!(f, "{count}{unit}")?;
            }
        }
        Ok(())
    }
}

/// Reads a fixed length of time: `30s`, `2h30m`, `3d`, where `m` is minutes and a day has 24 hours.
/// Months and years are refused: they have no fixed length.
pub fn parse_duration(text: &str) -> Result<Duration, UnitsError> {
    let period = parse_period(text, LetterM::ByNeighbours, DURATION_FORMS)?;
    if period.months > 0 {
        return Err(UnitsError::invalid(text, DURATION_FORMS));
    }
    // Both terms are below a trillion seconds: their limits were checked.
    Ok(Duration::from_secs(u64::from(period.days) * 86_400 + period.seconds))
}

fn parse_period(text: &str, letter_m: LetterM, forms: &'static str) -> Result<Period, UnitsError> {
    let terms =
        split_terms(&text.to_ascii_lowercase()).ok_or_else(|| UnitsError::invalid(text, forms))?;
    let (mut months, mut days, mut seconds) = (0_u64, 0_u64, 0_u64);
    let mut seen = Vec::with_capacity(terms.len());
    for (position, &(count, unit)) in terms.iter().enumerate() {
        let unit = match unit {
            Unit::M if letter_m == LetterM::Months => Unit::Month,
            Unit::M => meaning_of_m(&terms, position),
            unit => unit,
        };
        if seen.contains(&unit) {
            return Err(UnitsError::invalid(text, forms));
        }
        seen.push(unit);
        let (total, length) = match unit {
            Unit::Year => (&mut months, 12),
            Unit::Month | Unit::M => (&mut months, 1),
            Unit::Week => (&mut days, 7),
            Unit::Day => (&mut days, 1),
            Unit::Hour => (&mut seconds, 3600),
            Unit::Minute => (&mut seconds, 60),
            Unit::Second => (&mut seconds, 1),
        };
        *total = total.saturating_add(count.saturating_mul(length));
    }
    if months > MONTHS_LIMIT || days > DAYS_LIMIT || seconds > SECONDS_LIMIT {
        return Err(UnitsError::out_of_range(text, PERIOD_LIMIT));
    }
    Ok(Period { months: months as u32, days: days as u32, seconds })
}

/// The text as numbers with their units; `None` when it is anything else, or empty. A number too large
/// for 64 bits is the largest, which is out of range in every unit.
fn split_terms(text: &str) -> Option<Vec<(u64, Unit)>> {
    let mut terms = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        let digits_end = rest.find(|character: char| !character.is_ascii_digit())?;
        let (digits, after) = rest.split_at(digits_end);
        if digits.is_empty() {
            return None;
        }
        let after = after.trim_start();
        let unit_end =
            after.find(|character: char| !character.is_ascii_lowercase()).unwrap_or(after.len());
        let (unit, next) = after.split_at(unit_end);
        terms.push((digits.parse().unwrap_or(u64::MAX), Unit::parse(unit)?));
        rest = next.trim_start();
    }
    (!terms.is_empty()).then_some(terms)
}

fn meaning_of_m(terms: &[(u64, Unit)], position: usize) -> Unit {
    let before = position.checked_sub(1).and_then(|index| terms.get(index));
    let after = terms.get(position + 1);
    let minutes = matches!(before, None | Some((_, Unit::Hour)))
        && matches!(after, None | Some((_, Unit::Second)));
    if minutes { Unit::Minute } else { Unit::Month }
}

/// Prints how long something took: `0.42 s` below a minute, then `1:02` and `1:02:03`; rounded down.
pub fn format_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    if seconds < 60 {
        format!("{seconds}.{:02} s", duration.subsec_millis() / 10)
    } else if hours == 0 {
        format!("{minutes}:{:02}", seconds % 60)
    } else {
        format!("{hours}:{minutes:02}:{:02}", seconds % 60)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn period(months: u32, days: u32, seconds: u64) -> Period {
        Period { months, days, seconds }
    }

    #[test]
    fn periods_are_read_in_every_form() {
        for (text, expected) in [
            ("3d", period(0, 3, 0)),
            ("2h30m", period(0, 0, 9000)),
            ("90m", period(0, 0, 5400)),
            ("90 Minutes", period(0, 0, 5400)),
            ("5m30s", period(0, 0, 330)),
            ("1w", period(0, 7, 0)),
            ("2 weeks 1 day", period(0, 15, 0)),
            ("2mo", period(2, 0, 0)),
            ("1y5m7d2h", period(17, 7, 7200)),
            ("1y5m", period(17, 0, 0)),
            ("5m7d", period(5, 7, 0)),
            ("7d5m", period(5, 7, 0)),
            ("7d5min", period(0, 7, 300)),
            (" 1 y ", period(12, 0, 0)),
            ("0s", period(0, 0, 0)),
        ] {
            assert_eq!(Period::parse(text), Ok(expected), "{text:?}");
        }
    }

    #[test]
    fn in_retention_m_is_always_months() {
        assert_eq!(Period::parse_with_months("6m"), Ok(period(6, 0, 0)));
        assert_eq!(Period::parse_with_months("6m2h"), Ok(period(6, 0, 7200)));
        assert_eq!(Period::parse_with_months("6min"), Ok(period(0, 0, 360)));
    }

    #[test]
    fn what_is_no_length_of_time_is_refused_and_named() {
        for text in ["", "3", "d", "3x", "-3d", "3d4", "3d d", "1d2d", "1.5h", "3 d ago", "٣d"] {
            let error = Period::parse(text).unwrap_err();
            assert!(matches!(error, UnitsError::Invalid { .. }), "{text:?}: {error}");
            assert!(error.to_string().contains(&format!("{text:?}")), "{error}");
        }
        for text in ["99999y", "99999999999999999999999d", "18446744073709551615s"] {
            let error = Period::parse(text).unwrap_err();
            assert!(matches!(error, UnitsError::OutOfRange { .. }), "{text:?}: {error}");
        }
    }

    #[test]
    fn a_fixed_length_has_no_months() {
        assert_eq!(parse_duration("1w1d"), Ok(Duration::from_secs(8 * 86_400)));
        assert_eq!(parse_duration("10m"), Ok(Duration::from_secs(600)));
        assert!(parse_duration("1mo").is_err());
        assert!(parse_duration("1d10m").is_err(), "m after d is months");
    }

    #[test]
    fn durations_are_printed_as_clocks_do() {
        for (milliseconds, text) in [
            (0, "0.00 s"),
            (420, "0.42 s"),
            (59_999, "59.99 s"),
            (60_000, "1:00"),
            (62_900, "1:02"),
            (3_723_000, "1:02:03"),
            (360_000_000, "100:00:00"),
        ] {
            assert_eq!(format_duration(Duration::from_millis(milliseconds)), text);
        }
    }

    proptest! {
        #[test]
        fn a_printed_period_reads_back(
            months in 0..=MONTHS_LIMIT as u32,
            days in 0..=DAYS_LIMIT as u32,
            seconds in 0..=SECONDS_LIMIT,
        ) {
            let period = Period { months, days, seconds };
            prop_assert_eq!(Period::parse(&period.to_string()), Ok(period));
            prop_assert_eq!(Period::parse_with_months(&period.to_string()), Ok(period));
        }

        #[test]
        fn no_text_makes_the_parsers_panic(text in ".*") {
            let _ = Period::parse(&text);
            let _ = parse_duration(&text);
        }
    }
}
