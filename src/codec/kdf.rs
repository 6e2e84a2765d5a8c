//! Passphrase to key: argon2id (RFC 9106), with a floor and a ceiling on its cost.

use argon2::{Algorithm, Argon2, Block, Params, Version};
use memmap2::MmapMut;
use zeroize::Zeroizing;

/// What deriving a key costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Argon2Cost {
    /// Memory in KiB.
    pub memory_kib: u32,
    /// Passes over the memory.
    pub passes: u32,
    /// Lanes that may be filled at the same time.
    pub lanes: u32,
}

impl Argon2Cost {
    /// RFC 9106 section 4, second recommended option: 64 MiB, 3 passes, 4 lanes. Less is refused.
    pub const FLOOR: Argon2Cost = Argon2Cost { memory_kib: 64 << 10, passes: 3, lanes: 4 };
    /// More is refused, and so is more than 64 GiB of memory times passes: a planted slot could keep us
    /// busy for hours.
    pub const CEILING: Argon2Cost = Argon2Cost { memory_kib: 4 << 20, passes: 1024, lanes: 64 };

    /// Whether the cost is neither too cheap to be safe nor too dear to be honest.
    pub fn is_valid(&self) -> bool {
        (Self::FLOOR.memory_kib..=Self::CEILING.memory_kib).contains(&self.memory_kib)
            && (Self::FLOOR.passes..=Self::CEILING.passes).contains(&self.passes)
            && (1..=Self::CEILING.lanes).contains(&self.lanes)
            && u64::from(self.memory_kib) * u64::from(self.passes) <= 64 << 20
    }
}

/// Derives the key that wraps a keyring. `None` when the cost is not valid or the memory cannot be had.
pub fn stretch_passphrase(
    passphrase: &[u8],
    salt: &[u8; 32],
    cost: Argon2Cost,
) -> Option<Zeroizing<[u8; 32]>> {
    if !cost.is_valid() {
        return None;
    }
    let params = Params::new(cost.memory_kib, cost.passes, cost.lanes, Some(32)).ok()?;
    let mut memory = MmapMut::map_anon(params.block_count() * Block::SIZE).ok()?;
    prefer_large_pages(&memory);
    let mut key = Zeroizing::new([0; 32]);
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into_with_memory(
            passphrase,
            salt,
            key.as_mut_slice(),
            blocks_of(&mut memory),
        )
        .ok()?;
    Some(key)
}

/// Asks for pages of 2 MiB, where the system has them. With the allocator's memory, which the crate would fill with
/// zeros on one core, 64 MiB are 16 384 page faults before the first block is computed: more than a third of the
/// processor's time that all of a derivation takes.
fn prefer_large_pages(memory: &MmapMut) {
    // A system that has none does without.
    #[cfg(target_os = "linux")]
    let _ = memory.advise(memmap2::Advice::HugePage);
    #[cfg(not(target_os = "linux"))]
    let _ = memory;
}

/// The same memory as blocks, all of it: a mapping begins at a page, which is a multiple of a block's alignment.
#[allow(unsafe_code, reason = "there is no safe way from bytes to another crate's blocks")]
fn blocks_of(memory: &mut MmapMut) -> &mut [Block] {
    const { assert!(size_of::<Block>() == Block::SIZE && align_of::<Block>() <= 4096) };
    // SAFETY: a block is 1024 bytes that its crate reads and writes as 128 numbers of 64 bits and nothing else: its
    // public face is `AsRef<[u64]>`, its size, asserted above, leaves room for nothing more, and all bytes are
    // valid for such numbers. Alignment is `align_to_mut`'s own care, and nobody else sees the memory as long as
    // the slice borrows it.
    let (before, blocks, _) = unsafe { memory.align_to_mut::<Block>() };
    debug_assert!(before.is_empty());
    blocks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cheap_and_absurd_costs_are_refused() {
        assert!(Argon2Cost::FLOOR.is_valid() && !Argon2Cost::CEILING.is_valid());
        for cost in [
            Argon2Cost { memory_kib: 1024, ..Argon2Cost::FLOOR },
            Argon2Cost { passes: 1, ..Argon2Cost::FLOOR },
            Argon2Cost { memory_kib: u32::MAX, ..Argon2Cost::FLOOR },
            Argon2Cost { lanes: 0, ..Argon2Cost::FLOOR },
        ] {
            assert!(stretch_passphrase(b"x", &[0; 32], cost).is_none(), "{cost:?}");
        }
    }

    #[test]
    fn the_key_is_that_of_the_crate_with_memory_of_its_own() {
        // Lanes of no whole number of pages, and memory of no whole number of blocks for each lane.
        for (memory_kib, lanes) in [(64 << 10, 4), ((64 << 10) + 13, 3), (65 << 10, 1)] {
            let cost = Argon2Cost { memory_kib, lanes, ..Argon2Cost::FLOOR };
            let params = Params::new(memory_kib, cost.passes, lanes, Some(32)).unwrap();
            let mut key = [0; 32];
            Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
                .hash_password_into(b"passphrase", &[7; 32], &mut key)
                .unwrap();
            let derived = stretch_passphrase(b"passphrase", &[7; 32], cost).unwrap();
            assert_eq!(*derived, key, "{cost:?}");
        }
    }

    #[test]
    fn salt_and_passphrase_both_matter() {
        let derive = |text: &[u8], salt| {
            stretch_passphrase(text, &[salt; 32], Argon2Cost::FLOOR).map(|key| *key)
        };
        assert_ne!(derive(b"a", 0), derive(b"b", 0));
        assert_ne!(derive(b"a", 0), derive(b"a", 1));
        assert_eq!(derive(b"a", 0), derive(b"a", 0));
    }
}
