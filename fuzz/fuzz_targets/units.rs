//! Sizes, shares, rates and spans of time as people type them: no panic, and a period prints and reads back.
#![no_main]

use aumbry::units::bytes::format_bytes;
use aumbry::units::bytes::format_percent;
use aumbry::units::bytes::format_rate;
use aumbry::units::bytes::parse_bytes;
use aumbry::units::bytes::parse_percent;
use aumbry::units::duration::Period;
use aumbry::units::duration::format_duration;
use aumbry::units::duration::parse_duration;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let bytes = parse_bytes(text);
    if let Ok(bytes) = bytes {
        assert!(parse_bytes(&format_bytes(bytes)).is_ok(), "{}", format_bytes(bytes));
        let _ = format_percent(bytes, u64::MAX);
    }
    if let Ok(percent) = parse_percent(text) {
        assert!(percent.is_finite());
    }
    if let Ok(duration) = parse_duration(text) {
        let _ = format_duration(duration);
        let _ = format_rate(bytes.unwrap_or(u64::MAX), duration);
    }
    if let Ok(period) = Period::parse(text) {
        assert_eq!(Period::parse(&period.to_string()), Ok(period), "{period}");
    }
    if let Ok(period) = Period::parse_with_months(text) {
        let _ = period.is_zero();
    }
});
