//! What the objects of a repository are called in a store: pure functions between ids and names.

use std::str::FromStr;

use crate::id::{HotStoreId, IndexId, KeySlotId, PackId, RepositoryId, SessionId, TombId};

/// The object that says what the repository is.
pub const CONFIG: &str = "config";
/// The folder of key slots.
pub const KEYS: &str = "keys/";
/// The folder of registered writers and readers.
pub const SESSIONS: &str = "sessions/";
/// The folder of packs; below it one folder for each first byte of the session's random part, so
/// that no directory grows beyond a 256th of all packs and a session's own stand together.
pub const PACKS: &str = "packs/";
/// The folder of index objects.
pub const INDEX: &str = "index/";
/// The folder of the sessions' slots: a snapshot or an abort, decided once.
pub const SNAPSHOTS: &str = "snapshots/";
/// The folder of what was forgotten.
pub const TOMBS: &str = "tombs/";
/// The folder of aborts, where the store cannot create if absent.
pub const ABORTS: &str = "aborts/";
/// The folder of confirmed commits, where the store cannot create if absent.
pub const CONFIRMED: &str = "confirmed/";
/// The object that says who collects, where the store cannot create if absent.
pub const MAINTAINER: &str = "gc/maintainer";
/// The folder of the generations of garbage collection.
pub const GC: &str = "gc/";
/// The folder of records of damaged packs.
pub const DAMAGED: &str = "damaged/";
/// The folder of ledgers: when packs were last proven.
pub const LEDGER: &str = "ledger/";

/// The folder of what a repair took out of the way: objects as they stood, which mean nothing any more.
pub const QUARANTINE: &str = "quarantine/";

/// The config of a repository that has a cold store, in its hot one: where that is opened alone, there is no config.
/// It sorts where the config does.
pub const HOT_CONFIG: &str = "config-hot";
/// The folder of a hot store that has the mark by which its cold one knows it.
pub const HOT: &str = "hot/";
/// The folder of a cold store that has the copies of what is in the hot one, each under its name.
pub const COPY: &str = "copy/";

const COPY_CONFIG: &str = "copy/config-";

/// The folder in which a store is asked what it does; nothing in it means anything.
pub const PROBE: &str = "probe/";

const UPDATE: &str = ".update";
const UPDATE_COPY: &str = ".copy";
const CONDEMNED: &str = ".condemned";
const SWEEP: &str = ".sweep";
const UNDONE: &str = ".undone";
const LOCKS: &str = ".locks";
const RESERVE: &str = "gc/reserve-";

/// The name of an object's copy in a cold store.
pub fn copy(name: &str) -> String {
    format!("{COPY}{name}")
}

/// The name of the config's copy in the cold store of this repository: it says whose cold store it is, also where nothing
/// can be read.
pub fn copy_of_config(repository: RepositoryId) -> String {
    format!("{COPY_CONFIG}{repository}")
}

/// The beginning of every such name.
pub fn copies_of_configs() -> &'static str {
    COPY_CONFIG
}

/// The repository whose config's copy has this name.
pub fn parse_copy_of_config(name: &str) -> Option<RepositoryId> {
    parse(name, COPY_CONFIG, copy_of_config)
}

/// Whether the object with this name is copied to the cold store, so that nothing that was reported is lost with the hot one.
/// What is about one store only is not: registrations, records of damage, ledgers, the reserve, who collects, the
/// quarantine, what a probe leaves, what strangers put there. The config and the hot store's mark are made by themselves, and
/// data packs are there anyway.
pub fn is_copied(name: &str) -> bool {
    let folders = [KEYS, PACKS, INDEX, SNAPSHOTS, TOMBS, ABORTS, CONFIRMED, GC];
    folders.iter().any(|folder| name.starts_with(folder))
        && name != MAINTAINER
        && !name.starts_with(RESERVE)
}

/// The name of the mark by which a cold store knows its hot one; its copy there says that this is the one.
pub fn hot_mark(id: HotStoreId) -> String {
    format!("{HOT}{id}")
}

/// The hot store whose mark has this name.
pub fn parse_hot_mark(name: &str) -> Option<HotStoreId> {
    parse(name, HOT, hot_mark)
}

/// A key slot's name.
pub fn key(slot: KeySlotId) -> String {
    format!("{KEYS}{slot}")
}

/// The name of the key update that holds a revision of the keyring.
pub fn key_update(revision: u32) -> String {
    format!("{KEYS}{revision:08x}{UPDATE}")
}

/// The name of its copy, which is read when it is damaged.
pub fn key_update_copy(revision: u32) -> String {
    format!("{KEYS}{revision:08x}{UPDATE_COPY}")
}

/// The name under which a session is registered.
pub fn session(session: SessionId) -> String {
    format!("{SESSIONS}{session}")
}

/// A pack's name.
pub fn pack(pack: PackId) -> String {
    format!("{PACKS}{:02x}/{pack}", pack.session.random[0])
}

/// The folder of packs whose sessions' random parts begin with this byte.
pub fn pack_folder(first: u8) -> String {
    format!("{PACKS}{first:02x}/")
}

/// The prefix of all packs of one session, and of no other.
pub fn session_packs(session: SessionId) -> String {
    format!("{PACKS}{:02x}/{session}-", session.random[0])
}

/// An index object's name.
pub fn index(index: IndexId) -> String {
    format!("{INDEX}{index}")
}

/// The name of a session's slot: a snapshot or an abort.
pub fn snapshot(session: SessionId) -> String {
    format!("{SNAPSHOTS}{session}")
}

/// The name that says that a session's snapshot is forgotten.
pub fn tomb(tomb: TombId) -> String {
    format!("{TOMBS}{tomb}")
}

/// The name that says that this tomb does not count: the snapshot was brought back.
pub fn undone(tomb: TombId) -> String {
    format!("{TOMBS}{tomb}{UNDONE}")
}

/// The name that says that a session was given up, where the store cannot create if absent.
pub fn abort(session: SessionId) -> String {
    format!("{ABORTS}{session}")
}

/// The name that says that a session's snapshot was reported, where the store cannot create if absent.
pub fn confirmed(session: SessionId) -> String {
    format!("{CONFIRMED}{session}")
}

/// The name of the packs that a generation means to delete.
pub fn condemned(generation: u32) -> String {
    format!("{GC}{generation:08x}{CONDEMNED}")
}

/// The name of the packs that a generation does delete.
pub fn sweep(generation: u32) -> String {
    format!("{GC}{generation:08x}{SWEEP}")
}

/// The name of a record of until when objects are locked.
pub fn lock_record(number: u32) -> String {
    format!("{GC}{number:08x}{LOCKS}")
}

/// The name of a part of the room that is kept for collecting on a full disk.
pub fn reserve(part: u32) -> String {
    format!("{RESERVE}{part:08x}")
}

/// The name of the record that says that a pack is damaged.
pub fn damaged(pack: PackId) -> String {
    format!("{DAMAGED}{pack}")
}

/// The name of the ledger that a checking session shares.
pub fn ledger(session: SessionId) -> String {
    format!("{LEDGER}{session}")
}

/// The key slot with this name.
pub fn parse_key(name: &str) -> Option<KeySlotId> {
    parse(name, KEYS, key)
}

/// The revision of the keyring whose update, or the update's copy, has this name.
pub fn parse_key_update(name: &str) -> Option<u32> {
    parse_number(name, KEYS, UPDATE, key_update)
        .or_else(|| parse_number(name, KEYS, UPDATE_COPY, key_update_copy))
}

/// The session registered under this name.
pub fn parse_session(name: &str) -> Option<SessionId> {
    parse(name, SESSIONS, session)
}

/// The pack with this name.
pub fn parse_pack(name: &str) -> Option<PackId> {
    parse(name, name.get(..PACKS.len() + 3)?, pack)
}

/// The index object with this name.
pub fn parse_index(name: &str) -> Option<IndexId> {
    parse(name, INDEX, index)
}

/// The session whose slot has this name.
pub fn parse_snapshot(name: &str) -> Option<SessionId> {
    parse(name, SNAPSHOTS, snapshot)
}

/// The tomb with this name.
pub fn parse_tomb(name: &str) -> Option<TombId> {
    parse(name, TOMBS, tomb)
}

/// The tomb that this name says does not count.
pub fn parse_undone(name: &str) -> Option<TombId> {
    parse_tomb(name.strip_suffix(UNDONE)?)
}

/// The session that this name says was given up.
pub fn parse_abort(name: &str) -> Option<SessionId> {
    parse(name, ABORTS, abort)
}

/// The session whose snapshot this name says was reported.
pub fn parse_confirmed(name: &str) -> Option<SessionId> {
    parse(name, CONFIRMED, confirmed)
}

/// The generation whose condemned packs stand under this name.
pub fn parse_condemned(name: &str) -> Option<u32> {
    parse_number(name, GC, CONDEMNED, condemned)
}

/// The generation whose sweep stands under this name.
pub fn parse_sweep(name: &str) -> Option<u32> {
    parse_number(name, GC, SWEEP, sweep)
}

/// The number of the record of locks with this name.
pub fn parse_lock_record(name: &str) -> Option<u32> {
    parse_number(name, GC, LOCKS, lock_record)
}

/// Whether an object of this name is one that a restore needs, or that says which snapshots there are, and stays until
/// nobody needs it: settings and keys, packs, index objects, slots with what confirms them, sweeps. All others are gone
/// after a while, or tell only how things stand; without them, no snapshot is lost.
pub fn is_lasting(name: &str) -> bool {
    let folders = [KEYS, PACKS, INDEX, SNAPSHOTS, CONFIRMED];
    name == CONFIG
        || folders.iter().any(|folder| name.starts_with(folder))
        || parse_sweep(name).is_some()
}

/// The part of the reserve with this name.
pub fn parse_reserve(name: &str) -> Option<u32> {
    parse_number(name, RESERVE, "", reserve)
}

/// The pack that is damaged by this name.
pub fn parse_damaged(name: &str) -> Option<PackId> {
    parse(name, DAMAGED, damaged)
}

/// The session whose ledger has this name.
pub fn parse_ledger(name: &str) -> Option<SessionId> {
    parse(name, LEDGER, ledger)
}

/// What stands in `folder` under `name`, if writing it gives that very name: so two names never
/// mean one thing, and a pack in the wrong folder is none.
fn parse<T: FromStr + Copy>(name: &str, folder: &str, write: fn(T) -> String) -> Option<T> {
    let id = name.strip_prefix(folder)?.parse().ok()?;
    (write(id) == name).then_some(id)
}

fn parse_number(name: &str, folder: &str, ending: &str, write: fn(u32) -> String) -> Option<u32> {
    let digits = name.strip_prefix(folder)?.strip_suffix(ending)?;
    let number = u32::from_str_radix(digits, 16).ok()?;
    (write(number) == name).then_some(number)
}

/// Whether an object may have this name: parts joined by `/`, each of ASCII letters, digits, `.`,
/// `-` and `_`, none empty and none beginning with a dot. Every store takes such names as they
/// are, and none leads out of its folder.
pub fn is_name(name: &str) -> bool {
    name.split('/').all(is_part)
}

/// Whether names may begin so: whole parts, each followed by `/`, then perhaps the beginning of
/// one more.
pub fn is_prefix(prefix: &str) -> bool {
    match prefix.rsplit_once('/') {
        Some((folder, rest)) => is_name(folder) && (rest.is_empty() || is_part(rest)),
        None => prefix.is_empty() || is_part(prefix),
    }
}

/// Whether a name may have this part.
pub(super) fn is_part(part: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    !part.is_empty() && !part.starts_with('.') && part.bytes().all(is_plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> SessionId {
        let mut random = [0x5c; 16];
        random[0] = 0x3f;
        SessionId { generation: 0xab, random }
    }

    #[test]
    fn names_are_what_the_design_says() {
        let digits = format!("000000ab-3f{}", "5c".repeat(15));
        let id = PackId { session: example(), number: 7 };
        assert_eq!(pack(id), format!("packs/3f/{digits}-00000007"));
        assert_eq!(session_packs(example()), format!("packs/3f/{digits}-"));
        assert_eq!(snapshot(example()), format!("snapshots/{digits}"));
        assert_eq!(key(KeySlotId([0xe7; 16])), format!("keys/{}", "e7".repeat(16)));
        assert_eq!(condemned(0x1f), "gc/0000001f.condemned");
        assert_eq!(sweep(0x1f), "gc/0000001f.sweep");
        let tomb_id = TombId { session: example(), number: 0x1f };
        assert_eq!(undone(tomb_id), format!("tombs/{digits}-0000001f.undone"));
        assert_eq!(key_update(0x1f), "keys/0000001f.update");
        assert!(pack(id).starts_with(&session_packs(example())));
    }

    #[test]
    fn every_name_is_read_back() {
        let pack_id = PackId { session: example(), number: u32::MAX };
        let index_id = IndexId { session: example(), number: 0 };
        let slot = KeySlotId([9; 16]);
        assert_eq!(parse_pack(&pack(pack_id)), Some(pack_id));
        assert_eq!(parse_index(&index(index_id)), Some(index_id));
        assert_eq!(parse_key(&key(slot)), Some(slot));
        assert_eq!(parse_session(&session(example())), Some(example()));
        assert_eq!(parse_snapshot(&snapshot(example())), Some(example()));
        let tomb_id = TombId { session: example(), number: 1 };
        assert_eq!(parse_tomb(&tomb(tomb_id)), Some(tomb_id));
        assert_eq!(parse_undone(&undone(tomb_id)), Some(tomb_id));
        assert_eq!(parse_condemned(&condemned(u32::MAX)), Some(u32::MAX));
        assert_eq!(parse_sweep(&sweep(0)), Some(0));
        assert_eq!(parse_reserve(&reserve(3)), Some(3));
        assert_eq!(parse_lock_record(&lock_record(0x1f)), Some(0x1f));
        assert_eq!(parse_damaged(&damaged(pack_id)), Some(pack_id));
        assert_eq!(parse_ledger(&ledger(example())), Some(example()));
        assert_eq!(parse_key_update(&key_update(7)), Some(7));
        assert_eq!(parse_key_update(&key_update_copy(7)), Some(7));
        for name in [pack(pack_id), index(index_id), key(slot), condemned(1), CONFIG.to_string()] {
            assert!(is_name(&name));
        }
        for folder in [KEYS, SESSIONS, PACKS, INDEX, SNAPSHOTS, TOMBS, GC, DAMAGED, LEDGER] {
            assert!(is_prefix(folder) && !is_name(folder));
        }
    }

    #[test]
    fn what_a_restore_needs_lasts_and_what_passes_does_not() {
        let pack_id = PackId { session: example(), number: 1 };
        let tomb_id = TombId { session: example(), number: 1 };
        for name in [
            CONFIG.to_string(),
            key(KeySlotId([9; 16])),
            key_update(1),
            key_update_copy(1),
            pack(pack_id),
            index(IndexId { session: example(), number: 0 }),
            snapshot(example()),
            confirmed(example()),
            sweep(1),
        ] {
            assert!(is_lasting(&name), "{name}");
        }
        for name in [
            session(example()),
            tomb(tomb_id),
            undone(tomb_id),
            abort(example()),
            condemned(1),
            lock_record(1),
            reserve(1),
            MAINTAINER.to_string(),
            damaged(pack_id),
            ledger(example()),
            format!("{PROBE}x"),
            format!("{QUARANTINE}config"),
        ] {
            assert!(!is_lasting(&name), "{name}");
        }
    }

    #[test]
    fn what_is_decided_is_copied_and_what_is_about_one_store_is_not() {
        let pack_id = PackId { session: example(), number: 1 };
        let tomb_id = TombId { session: example(), number: 1 };
        for name in [
            key(KeySlotId([9; 16])),
            key_update(1),
            pack(pack_id),
            index(IndexId { session: example(), number: 0 }),
            snapshot(example()),
            tomb(tomb_id),
            undone(tomb_id),
            abort(example()),
            confirmed(example()),
            condemned(1),
            sweep(1),
            lock_record(1),
        ] {
            assert!(is_copied(&name), "{name}");
        }
        let mark = hot_mark(HotStoreId([7; 16]));
        assert!(is_name(&mark) && is_name(&copy(&mark)));
        assert_eq!(parse_hot_mark(&mark), Some(HotStoreId([7; 16])));
        for name in [
            &mark,
            CONFIG,
            HOT_CONFIG,
            MAINTAINER,
            &reserve(1),
            &session(example()),
            &damaged(pack_id),
            &ledger(example()),
            &copy(&pack(pack_id)),
            "lost+found/x",
        ] {
            assert!(!is_copied(name), "{name}");
        }
    }

    #[test]
    fn names_of_others_mean_nothing() {
        let name = pack(PackId { session: example(), number: 7 });
        assert_eq!(parse_pack(&name.replace("packs/3f", "packs/40")), None);
        assert_eq!(parse_pack(&name.replace("5c", "5C")), None);
        assert_eq!(parse_pack(&format!("{name}.part")), None);
        for name in ["", "packs/", "packs/é", "packs/3f/", "gc/1.sweep", "gc/+0000001.sweep"] {
            assert_eq!(parse_pack(name), None);
            assert_eq!(parse_sweep(name), None);
        }
        assert_eq!(parse_key(&key_update(1)), None);
        assert_eq!(parse_key_update(&key(KeySlotId([0; 16]))), None);
        assert_eq!(parse_key_update("keys/1.update"), None);
        assert_eq!(parse_session(&snapshot(example())), None);
        assert_eq!(parse_sweep(&condemned(3)), None);
        let tomb_id = TombId { session: example(), number: 1 };
        assert_eq!(parse_tomb(&undone(tomb_id)), None);
        assert_eq!(parse_undone(&tomb(tomb_id)), None);
    }
}
