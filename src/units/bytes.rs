//! Sizes in bytes, rates and shares of them: parsed and printed.

use std::time::Duration;

use crate::units::UnitsError;

const SIZE_FORMS: &str = "a size: a number of bytes (123) or of units (10k, 1.5 MiB, 5G, 2T), where \
                          K, M, G, T, P, E and KiB … EiB count in 1024s, and kB … EB in 1000s";
const SIZE_LIMIT: &str = "a size is less than 16 EiB";
const PERCENT_FORMS: &str = "a percentage from 0% to 100% (5%, 2.5%)";

const BINARY_UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];

/// Reads a size in bytes: `123`, `10k`, `5G`, `10 MiB`, `1.5 GiB`, `2 TB`. Case does not matter.
///
/// A single letter (K, M, G, T, P, E) counts in 1024s, as restic's options do; so does `KiB`. `kB`
/// counts in 1000s, as the SI has it. A broken number of bytes is rounded down.
pub fn parse_bytes(text: &str) -> Result<u64, UnitsError> {
    let invalid = || UnitsError::invalid(text, SIZE_FORMS);
    let too_large = || UnitsError::out_of_range(text, SIZE_LIMIT);
    let trimmed = text.trim();
    let number_end = trimmed
        .find(|character: char| !character.is_ascii_digit() && character != '.')
        .unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(number_end);
    let unit_bytes = unit_bytes(&unit.trim_start().to_ascii_lowercase()).ok_or_else(invalid)?;

    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    if whole.is_empty() || fraction.is_empty() || fraction.contains('.') {
        return Err(invalid());
    }
    let whole: u64 = whole.parse().map_err(|_| too_large())?;
    // A unit has at most 60 bits: what stands behind the 18th place adds less than one byte, and
    // 18 places of it fit an integer, which unlike a float says exactly 1.1 MiB.
    let fraction = &fraction[..fraction.len().min(18)];
    let scale = 10_u128.pow(fraction.len() as u32);
    let fraction: u128 = fraction.parse().map_err(|_| invalid())?;
    let unit_bytes = u128::from(unit_bytes);
    let total = u128::from(whole) * unit_bytes + fraction * unit_bytes / scale;
    u64::try_from(total).map_err(|_| too_large())
}

/// How many bytes a unit, in lower case, stands for.
fn unit_bytes(unit: &str) -> Option<u64> {
    if unit.is_empty() || unit == "b" {
        return Some(1);
    }
    let exponent = "kmgtpe".find(unit.chars().next()?)? as u32 + 1;
    match &unit[1..] {
        "" | "ib" => Some(1024_u64.pow(exponent)),
        "b" => Some(1000_u64.pow(exponent)),
        _ => None,
    }
}

/// Prints a size for people: `123 B`, `1.234 GiB`. [`parse_bytes`] reads it back, to the thousandth.
pub fn format_bytes(bytes: u64) -> String {
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    // The last half of a thousandth is not rounded up to 16 EiB, which no 64 bits hold.
    let bytes = bytes.min(u64::MAX - (1 << 50));
    let (thousandths, unit) = scale(u128::from(bytes), 1000);
    format!("{}.{:03} {unit}", thousandths / 1000, thousandths % 1000)
}

/// Prints how fast `bytes` went by in `elapsed`: `12.3 MiB/s`. No time at all is no rate: `0.0 B/s`.
pub fn format_rate(bytes: u64, elapsed: Duration) -> String {
    // A float's 53 bits are plenty for the four digits that are shown.
    let bytes_per_second =
        if elapsed.is_zero() { 0.0 } else { bytes as f64 / elapsed.as_secs_f64() };
    if bytes_per_second < 1023.95 {
        return format!("{bytes_per_second:.1} B/s");
    }
    let (tenths, unit) = scale(bytes_per_second as u128, 10);
    format!("{}.{} {unit}/s", tenths / 10, tenths % 10)
}

/// The count of `1 / parts` of the largest binary unit that leaves at least one, and that unit. What is
/// rounded up to 1024 of a unit is one of the next: nobody is shown `1024.000 KiB`.
fn scale(bytes: u128, parts: u128) -> (u128, &'static str) {
    let mut unit_bytes = 1_u128;
    let mut result = (bytes * parts, BINARY_UNITS[0]);
    for unit in &BINARY_UNITS[1..] {
        if result.0 < 1024 * parts {
            break;
        }
        unit_bytes *= 1024;
        result = ((bytes * parts + unit_bytes / 2) / unit_bytes, *unit);
    }
    result
}

/// Reads a percentage from `0%` to `100%`, as the number before the sign.
pub fn parse_percent(text: &str) -> Result<f64, UnitsError> {
    let number = text.trim().strip_suffix('%').map(str::trim_end);
    number
        // A float also reads "inf", "nan", "1e9" and "-0", which nobody means.
        .filter(|number| number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.'))
        .and_then(|number| number.parse::<f64>().ok())
        .filter(|percent| *percent <= 100.0)
        .ok_or_else(|| UnitsError::invalid(text, PERCENT_FORMS))
}

/// Prints `part` of `whole` as a percentage with two places, rounded down, so that only what is
/// complete reads `100.00%`. Nothing of nothing is complete.
pub fn format_percent(part: u64, whole: u64) -> String {
    let hundredths = (u128::from(part) * 10_000).checked_div(u128::from(whole)).unwrap_or(10_000);
    format!("{}.{:02}%", hundredths / 100, hundredths % 100)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_are_read_in_every_form() {
        for (text, bytes) in [
            ("0", 0),
            ("123", 123),
            ("123b", 123),
            ("10k", 10 << 10),
            ("10K", 10 << 10),
            ("5G", 5 << 30),
            ("10 MiB", 10 << 20),
            ("10mib", 10 << 20),
            (" 2 T ", 2 << 40),
            ("1.5 GiB", 3 << 29),
            ("0.1k", 102),
            ("2 kB", 2_000),
            ("3MB", 3_000_000),
            ("15E", 15 << 60),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text:?}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused_and_named() {
        for text in
            ["", "k", "-1", "1..5", ".5k", "5.", "1.2.3", "10 X", "10 Ki", "1e3", "10 kib s"]
        {
            let error = parse_bytes(text).unwrap_err();
            assert!(matches!(error, UnitsError::Invalid { .. }), "{text:?}: {error}");
            assert!(error.to_string().contains(&format!("{text:?}")), "{error}");
        }
        for text in ["16E", "18446744073709551616", "99999999999999999999999999"] {
            let error = parse_bytes(text).unwrap_err();
            assert!(matches!(error, UnitsError::OutOfRange { .. }), "{text:?}: {error}");
        }
    }

    #[test]
    fn sizes_are_printed_with_three_places() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.000 KiB"),
            (1536, "1.500 KiB"),
            (1_325_000_000, "1.234 GiB"),
            ((1 << 20) - 1, "1023.999 KiB"),
            ((1 << 30) - 1, "1.000 GiB"),
            (u64::MAX, "15.999 EiB"),
        ] {
            assert_eq!(format_bytes(bytes), text);
        }
    }

    #[test]
    fn rates_are_printed_with_one_place() {
        for (bytes, milliseconds, text) in [
            (0, 1000, "0.0 B/s"),
            (5, 0, "0.0 B/s"),
            (1000, 2000, "500.0 B/s"),
            (1024, 1000, "1.0 KiB/s"),
            (12_900_000, 1000, "12.3 MiB/s"),
            (u64::MAX, 1, "16000.0 EiB/s"),
        ] {
            assert_eq!(format_rate(bytes, Duration::from_millis(milliseconds)), text);
        }
    }

    #[test]
    fn percentages_are_read_and_printed() {
        assert_eq!(parse_percent("2.5%"), Ok(2.5));
        assert_eq!(parse_percent(" 100 % "), Ok(100.0));
        for text in ["5", "%", "101%", "-1%", "inf%", "nan%", "1e1%", ".%"] {
            assert!(parse_percent(text).is_err(), "{text:?}");
        }
        assert_eq!(format_percent(1, 3), "33.33%");
        assert_eq!(format_percent(9_999_999, 10_000_000), "99.99%");
        assert_eq!(format_percent(0, 0), "100.00%");
        assert_eq!(format_percent(u64::MAX, u64::MAX), "100.00%");
    }

    proptest! {
        #[test]
        fn a_printed_size_reads_back_to_the_thousandth(bytes in any::<u64>().prop_map(|n| n >> (n % 60))) {
            let text = format_bytes(bytes);
            let back = parse_bytes(&text).unwrap();
            prop_assert!(bytes.abs_diff(back) <= bytes / 1000, "{bytes} -> {text} -> {back}");
        }

        #[test]
        fn the_largest_sizes_read_back(less in 0..1_u64 << 51) {
            let text = format_bytes(u64::MAX - less);
            prop_assert!(parse_bytes(&text).is_ok(), "{text}");
        }

        #[test]
        fn a_plain_number_is_that_many_bytes(bytes in any::<u64>()) {
            prop_assert_eq!(parse_bytes(&bytes.to_string()), Ok(bytes));
        }

        #[test]
        fn no_text_makes_the_parsers_panic(text in ".*") {
            let _ = parse_bytes(&text);
            let _ = parse_percent(&text);
        }
    }
}
