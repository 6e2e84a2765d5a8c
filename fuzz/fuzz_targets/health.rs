//! Damage records, ledgers and lock records, damaged or made up: no panic, and what is read writes and reads back the same.
#![no_main]

use aumbry::format::damage::DamageRecord;
use aumbry::format::ledger::Ledger;
use aumbry::format::lock_record::LockRecord;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    if let Ok(record) = DamageRecord::decode(input) {
        assert_eq!(DamageRecord::decode(&record.encode()), Ok(record));
    }
    if let Ok(ledger) = Ledger::decode(input) {
        assert_eq!(Ledger::decode(&ledger.encode()), Ok(ledger));
    }
    if let Ok(record) = LockRecord::decode(input) {
        assert_eq!(LockRecord::decode(&record.encode()), Ok(record));
    }
});
