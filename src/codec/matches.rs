//! Long matches between what is new and what stood in its place: much cheaper to find than short ones, and all there is
//! where a few bytes of a file were written over.

/// Bytes that have to be alike for a place to be found: what is looked up.
const SEED: usize = 32;
/// Every so many bytes a place is known.
const STEP: usize = 64;
/// Entries of the table of places, as a power of two: twice as many as 2 MiB have places, the most that deltas are made against.
const TABLE_LOG: u32 = 16;
/// Bytes that have to be alike where content goes on that stood so far away before.
const LEAST: usize = 16;
/// So much of what is new, one part in so many, may be in no match: of more there are short matches that are worth finding.
const UNMATCHED_SHARE: usize = 32;
/// At most one match for so many bytes of what is new, and so many besides: where there are more, they are short, and zstd
/// finds others.
const BYTES_FOR_A_MATCH: usize = 512;
const MATCHES_BESIDES: usize = 64;

/// A match: after `literals` bytes that are as they are, `length` bytes that stand `distance` bytes before, where what is
/// new comes right behind what was there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Match {
    pub literals: u32,
    pub length: u32,
    pub distance: u32,
}

/// Finds long matches, again and again in the same memory.
pub struct Matcher {
    /// Which place has a seed of this hash, counted from 1 in steps of [`STEP`].
    places: Vec<u16>,
    found: Vec<Match>,
}

impl Matcher {
    /// Takes 128 KiB.
    pub fn new() -> Self {
        Matcher { places: vec![0; 1 << TABLE_LOG], found: Vec::new() }
    }

    /// The matches of `plain` in `prefix`, in order and apart from each other, each at least 16 bytes long; behind the last one
    /// all is literal. `None`: too little of `plain` is in one, they are too many, or `prefix` has more than
    /// 65 535 places: 4 MiB.
    pub fn find(&mut self, prefix: &[u8], plain: &[u8]) -> Option<&[Match]> {
        self.found.clear();
        self.index(prefix)?;
        let mut spare = plain.len() / UNMATCHED_SHARE;
        let most = plain.len() / BYTES_FOR_A_MATCH + MATCHES_BESIDES;
        // Where what is not yet in a match begins, what is looked at, and how far the last match stood away in `prefix`.
        let (mut from, mut at, mut shift) = (0, 0, 0isize);
        while at + LEAST <= plain.len() {
            let Some(place) = self.place(prefix, &plain[at..], at.checked_add_signed(shift)) else {
                at += 1;
                spare = spare.checked_sub(1)?;
                continue;
            };
            let behind = common_start(&prefix[place..], &plain[at..]);
            let before = common_end(&prefix[..place], &plain[from..at]);
            spare += before;
            self.found.push(Match {
                literals: u32::try_from(at - before - from).ok()?,
                length: u32::try_from(before + behind).ok()?,
                distance: u32::try_from(prefix.len() + at - place).ok()?,
            });
            if self.found.len() > most {
                return None;
            }
            at += behind;
            from = at;
            shift = (place + behind).checked_signed_diff(at)?;
        }
        (plain.len() - at <= spare).then_some(&self.found)
    }

    fn index(&mut self, prefix: &[u8]) -> Option<()> {
        self.places.fill(0);
        for (number, bytes) in (1..).zip(prefix.chunks(STEP)) {
            let number = u16::try_from(number).ok()?;
            if let Some(seed) = bytes.first_chunk() {
                // Of several alike the first place: within a run it is the one behind which most of the run is.
                let place = &mut self.places[slot(seed)];
                *place = if *place == 0 { number } else { *place };
            }
        }
        Some(())
    }

    /// Where in `prefix` that stands with which `plain` begins: at `expected`, or where the table says.
    fn place(&self, prefix: &[u8], plain: &[u8], expected: Option<usize>) -> Option<usize> {
        if let Some(place) = expected
            && let Some(there) = prefix.get(place..).and_then(<[u8]>::first_chunk::<LEAST>)
            && plain.first_chunk() == Some(there)
        {
            return Some(place);
        }
        let seed: &[u8; SEED] = plain.first_chunk()?;
        let place = usize::from(self.places[slot(seed)]).checked_sub(1)? * STEP;
        (prefix.get(place..)?.first_chunk() == Some(seed)).then_some(place)
    }
}

/// Where the table has a seed: multiplied, so that each bit counts, by the odd number next to 2^64 over the golden ratio (Knuth,
/// The Art of Computer Programming 3, 6.4).
fn slot(seed: &[u8; SEED]) -> usize {
    const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
    let (words, _) = seed.as_chunks::<8>();
    let mixed = words.iter().fold(0, |mixed: u64, word| {
        (mixed.rotate_left(23) ^ u64::from_le_bytes(*word)).wrapping_mul(GOLDEN)
    });
    (mixed >> (u64::BITS - TABLE_LOG)) as usize
}

/// How many bytes two texts have in common at their beginnings.
fn common_start(one: &[u8], other: &[u8]) -> usize {
    let alike = |(one, other): &(&[u8; SEED], &[u8; SEED])| one == other;
    let words = one.as_chunks().0.iter().zip(other.as_chunks().0).take_while(alike).count() * SEED;
    let rest = one[words..].iter().zip(&other[words..]);
    words + rest.take_while(|(one, other)| one == other).count()
}

/// How many at their ends.
fn common_end(one: &[u8], other: &[u8]) -> usize {
    one.iter().rev().zip(other.iter().rev()).take_while(|(one, other)| one == other).count()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::codec::noise;

    /// What the matches stand for.
    fn applied(prefix: &[u8], plain: &[u8], matches: &[Match]) -> Vec<u8> {
        let mut all = prefix.to_vec();
        for found in matches {
            let at = all.len() - prefix.len();
            all.extend_from_slice(&plain[at..at + found.literals as usize]);
            let start = all.len() - found.distance as usize;
            assert!(found.length >= 16 && start + found.length as usize <= prefix.len());
            all.extend_from_within(start..start + found.length as usize);
        }
        let at = all.len() - prefix.len();
        all.extend_from_slice(&plain[at..]);
        all.split_off(prefix.len())
    }

    #[test]
    fn what_was_written_over_moved_or_put_in_is_found_and_what_is_new_is_left() {
        let old = noise(100_000, 1);
        let mut matcher = Matcher::new();
        assert_eq!(
            matcher.find(&old, &old).unwrap(),
            [Match { literals: 0, length: 100_000, distance: 100_000 }]
        );
        let mut changed = old.clone();
        changed[500] ^= 1;
        changed[70_000..70_009].fill(0);
        let found = matcher.find(&old, &changed).unwrap().to_vec();
        assert_eq!(found.len(), 3);
        assert!(found.iter().all(|found| found.distance == 100_000));
        let moved = [&old[40_000..], b"something else", &old[..40_000]].concat();
        let found = matcher.find(&old, &moved).unwrap().to_vec();
        assert_eq!(found.iter().map(|found| found.length).sum::<u32>(), 100_000);
        assert_eq!(found.len(), 2);
        assert_eq!(applied(&old, &moved, &found), moved);
        assert_eq!(matcher.find(&old, &noise(100_000, 2)), None);
        assert_eq!(matcher.find(&[], &old), None);
        assert_eq!(matcher.find(&old, &[]).unwrap(), []);
        // More places than the table can number.
        assert_eq!(matcher.find(&noise(5 << 20, 3), &old), None);
    }

    proptest! {
        #[test]
        fn whatever_is_found_stands_there(
            blocks in prop::collection::vec((0..4u8, 0..400usize), 0..60),
            edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..20),
            cut in any::<prop::sample::Index>(),
        ) {
            // Few kinds of bytes, so that much is alike that does not belong together.
            let old: Vec<u8> = blocks.iter().flat_map(|(byte, count)| vec![*byte; *count]).collect();
            let mut plain = old.clone();
            if !plain.is_empty() {
                let at = cut.index(plain.len());
                plain.rotate_left(at);
                for (place, byte) in edits {
                    let place = place.index(plain.len());
                    plain[place] = byte;
                }
            }
            let mut matcher = Matcher::new();
            for _ in 0..2 {
                if let Some(found) = matcher.find(&old, &plain) {
                    prop_assert_eq!(applied(&old, &plain, found), plain.clone());
                }
            }
        }
    }
}
