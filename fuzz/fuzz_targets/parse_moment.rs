//! No text, read at any time, makes the parsers of moments panic; and what they read prints and reads back.
#![no_main]

use aumbry::units::Timestamp;
use aumbry::units::time::format_rfc3339;
use aumbry::units::time::parse_moment;
use aumbry::units::time::parse_rfc3339;
use aumbry::units::time::parse_start;
use jiff::tz::TimeZone;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((seconds, text)) = input.split_first_chunk::<8>() else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    let now = Timestamp { seconds: i64::from_le_bytes(*seconds), nanoseconds: 1 };
    // Berlin's rule, written out: no time is lost on looking for files.
    let Ok(berlin) = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3") else { return };
    for zone in [TimeZone::UTC, berlin] {
        for parse in [parse_moment, parse_start] {
            // "Now" in any case is `now` as it was given, which may lie outside of what can be written.
            if let Ok(moment) = parse(text, now, &zone)
                && moment != now
            {
                let printed = format_rfc3339(moment, &zone);
                assert_eq!(parse_rfc3339(&printed), Ok(moment), "{printed}");
            }
        }
    }
});
