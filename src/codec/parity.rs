//! Parity shards that give lost data shards back: a systematic Reed–Solomon code over GF(2^16), by the additive
//! transforms of Lin, Chung and Han ("Novel Polynomial Basis and Its Application to Reed-Solomon Erasure Codes",
//! FOCS 2014). Which shards are lost has to be known; as many as there are parity shards come back.
//!
//! `docs/format.md`, section 7, says which polynomial every parity word is a value of; a test computes it so.

use std::ops::Range;

use reed_solomon_simd::engine::DefaultEngine;
use reed_solomon_simd::rate::{
    HighRate, HighRateDecoder, HighRateEncoder, Rate, RateDecoder, RateEncoder,
};

/// One stretch of damage as long as a shard touches three when the last data shard, between them, is short.
const PARITY_SHARDS_MIN: usize = 3;
/// The same where there is one data shard, and nothing short beside it.
const PARITY_SHARDS_MIN_OF_ONE: usize = 2;
/// Bytes that coding works on at a time, beside the shards themselves: columns of all shards, so that they
/// stay in the processor's cache, and a large pack needs no more than a small one.
const WORKING_LENGTH: usize = 1 << 20;
/// Shards are coded in blocks of this many bytes; only the last block may be shorter.
const BLOCK: usize = 64;

/// More is lost than parity can give back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{lost} shards are lost, and {left} parity shards are left")]
pub struct BeyondReach {
    /// Data shards that are lost.
    pub lost: usize,
    /// Parity shards that are whole.
    pub left: usize,
}

/// How many parity shards go with `data` shards, for parity of so many percent: rounded up, and enough for any one
/// stretch of damage as long as a shard.
pub fn parity_shards(data: usize, percent: u8) -> usize {
    let least = if data > 1 { PARITY_SHARDS_MIN } else { PARITY_SHARDS_MIN_OF_ONE };
    match percent {
        0 => 0,
        percent => (data * usize::from(percent)).div_ceil(100).max(least),
    }
}

/// The code for so many shards of one length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParityCode {
    data: usize,
    parity: usize,
    shard_length: usize,
}

impl ParityCode {
    /// `data` shards of `shard_length` bytes, an even number, and `parity` shards of the same length for them.
    /// `None`: the field has too few elements for so many, or there is nothing to code.
    pub fn new(data: usize, parity: usize, shard_length: usize) -> Option<Self> {
        let is_possible = HighRate::<DefaultEngine>::supports(data, parity)
            && shard_length > 0
            && shard_length.is_multiple_of(2);
        is_possible.then_some(ParityCode { data, parity, shard_length })
    }

    /// Fills the parity shards. A data shard that is shorter than the others counts as if zeros followed.
    pub fn encode(&self, data: &[&[u8]], parity: &mut [&mut [u8]]) {
        let (engine, first) = (DefaultEngine::new(), self.columns().start);
        let mut encoder =
            HighRateEncoder::new(self.data, self.parity, self.stripe(first).len(), engine, None)
                .expect("counts and length were checked in new");
        let mut filled = vec![0; self.stripe_length()];
        for stripe in self.columns().step_by(self.stripe_length()).map(|start| self.stripe(start)) {
            encoder
                .reset(self.data, self.parity, stripe.len())
                .expect("counts and length were checked in new");
            for shard in data {
                encoder
                    .add_original_shard(column(shard, &stripe, &mut filled))
                    .expect("as many as were announced, of the length that was announced");
            }
            let encoded = encoder.encode().expect("all shards were added");
            for (shard, words) in parity.iter_mut().zip(encoded.recovery_iter()) {
                shard[stripe.clone()].copy_from_slice(words);
            }
        }
    }

    /// Gives the data shards back that are in `lost`, in their places. Parity shards that are lost are `None`.
    /// What comes back is right if all the others are; whoever cannot be sure has to prove it.
    pub fn recover(
        &self,
        data: &mut [&mut [u8]],
        lost: &[usize],
        parity: &[Option<&[u8]>],
    ) -> Result<(), BeyondReach> {
        if lost.is_empty() {
            return Ok(());
        }
        let left = parity.iter().flatten().count();
        if lost.len() > left {
            return Err(BeyondReach { lost: lost.len(), left });
        }
        let is_lost = {
            let mut is_lost = vec![false; self.data];
            lost.iter().for_each(|index| is_lost[*index] = true);
            is_lost
        };
        let (engine, first) = (DefaultEngine::new(), self.columns().start);
        let mut decoder =
            HighRateDecoder::new(self.data, self.parity, self.stripe(first).len(), engine, None)
                .expect("counts and length were checked in new");
        let mut filled = vec![0; self.stripe_length()];
        for stripe in self.columns().step_by(self.stripe_length()).map(|start| self.stripe(start)) {
            decoder
                .reset(self.data, self.parity, stripe.len())
                .expect("counts and length were checked in new");
            for (index, shard) in data.iter().enumerate().filter(|(index, _)| !is_lost[*index]) {
                decoder
                    .add_original_shard(index, column(shard, &stripe, &mut filled))
                    .expect("each is added once, of the length that was announced");
            }
            let whole = parity.iter().enumerate();
            let whole = whole.filter_map(|(index, shard)| Some((index, (*shard)?)));
            for (index, shard) in whole.take(lost.len()) {
                decoder
                    .add_recovery_shard(index, &shard[stripe.clone()])
                    .expect("each is added once, of the length that was announced");
            }
            let decoded = decoder.decode().expect("enough shards are left");
            for (index, words) in decoded.restored_original_iter() {
                let shard = &mut data[index];
                let end = stripe.end.min(shard.len());
                if stripe.start < end {
                    shard[stripe.start..end].copy_from_slice(&words[..end - stripe.start]);
                }
            }
        }
        Ok(())
    }

    fn columns(&self) -> Range<usize> {
        0..self.shard_length
    }

    /// Bytes of every shard that are coded at a time: whole blocks.
    fn stripe_length(&self) -> usize {
        // Decoding works on a power of two of shards.
        let shards = (self.data + self.parity.next_power_of_two()).next_power_of_two();
        (WORKING_LENGTH / shards / BLOCK * BLOCK).max(BLOCK)
    }

    fn stripe(&self, start: usize) -> Range<usize> {
        start..self.shard_length.min(start + self.stripe_length())
    }
}

/// A shard's bytes in a stripe; those beyond its end are zeros, in `filled`.
fn column<'a>(shard: &'a [u8], stripe: &Range<usize>, filled: &'a mut [u8]) -> &'a [u8] {
    if let Some(bytes) = shard.get(stripe.clone()) {
        return bytes;
    }
    let rest = shard.get(stripe.start..).unwrap_or_default();
    filled[..rest.len()].copy_from_slice(rest);
    filled[rest.len()..stripe.len()].fill(0);
    &filled[..stripe.len()]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::codec::noise;

    /// The field and the polynomials of `docs/format.md`, section 7, step by step and slowly.
    mod definition {
        const BASIS: [u16; 16] = [
            0x0001, 0xacca, 0x3c0e, 0x163e, 0xc582, 0xed2e, 0x914c, 0x4012, 0x6c98, 0x10d8, 0x6a72,
            0xb900, 0xfdb8, 0xfb34, 0xff38, 0x991e,
        ];

        /// The element that a number stands for.
        fn element(number: u16) -> u16 {
            let bits = (0..16).filter(|bit| number >> bit & 1 == 1);
            bits.fold(0, |sum, bit| sum ^ BASIS[bit])
        }

        fn number(element_wanted: u16) -> u16 {
            (0..=u16::MAX).find(|number| element(*number) == element_wanted).unwrap()
        }

        fn product(mut left: u16, mut right: u16) -> u16 {
            let mut sum = 0;
            while right != 0 {
                if right & 1 == 1 {
                    sum ^= left;
                }
                left = left << 1 ^ if left >> 15 == 1 { 0x002d } else { 0 };
                right >>= 1;
            }
            sum
        }

        fn inverse(value: u16) -> u16 {
            // value^(2^16 - 2)
            (1..16)
                .fold((1, value), |(power, square), _| {
                    let square = product(square, square);
                    (product(power, square), square)
                })
                .0
        }

        /// The words of a shard.
        fn words(shard: &[u8]) -> Vec<u16> {
            let blocks = shard.chunks(64);
            let words = |block: &[u8]| -> Vec<u16> {
                let (low, high) = block.split_at(block.len() / 2);
                low.iter().zip(high).map(|(low, high)| u16::from_le_bytes([*low, *high])).collect()
            };
            blocks.flat_map(words).collect()
        }

        /// The words of all parity shards.
        pub fn parity(data: &[Vec<u8>], parity: usize) -> Vec<Vec<u16>> {
            let group = parity.next_power_of_two();
            let columns: Vec<Vec<u16>> = data.iter().map(|shard| words(shard)).collect();
            (0..parity)
                .map(|position| {
                    let at = element(position as u16);
                    (0..columns[0].len())
                        .map(|word| {
                            let mut sum = 0;
                            for (index, column) in columns.iter().enumerate() {
                                let own = group + index;
                                let first = own / group * group;
                                let mut term = element(column[word]);
                                for other in (first..first + group).filter(|other| *other != own) {
                                    let other = element(other as u16);
                                    term = product(term, at ^ other);
                                    term = product(term, inverse(element(own as u16) ^ other));
                                }
                                sum ^= term;
                            }
                            number(sum)
                        })
                        .collect()
                })
                .collect()
        }

        pub fn split(shard: &[u8]) -> Vec<u16> {
            words(shard)
        }
    }

    fn encode(data: &[Vec<u8>], parity: usize, length: usize) -> Vec<Vec<u8>> {
        let code = ParityCode::new(data.len(), parity, length).unwrap();
        let mut shards = vec![vec![0; length]; parity];
        let data: Vec<&[u8]> = data.iter().map(Vec::as_slice).collect();
        code.encode(&data, &mut shards.iter_mut().map(Vec::as_mut_slice).collect::<Vec<_>>());
        shards
    }

    #[test]
    fn parity_is_what_the_document_defines() {
        for (data, parity, length) in [(1, 1, 2), (1, 2, 6), (3, 2, 4), (5, 3, 6), (7, 7, 2)] {
            let shards: Vec<_> = (0..data).map(|seed| noise(length, seed as u64)).collect();
            let found = encode(&shards, parity, length);
            let found: Vec<_> = found.iter().map(|shard| definition::split(shard)).collect();
            assert_eq!(found, definition::parity(&shards, parity), "{data} and {parity}");
        }
        // Longer than a block: the words of each block are its own.
        let shards: Vec<_> = (0..2).map(|seed| noise(64 + 6, seed)).collect();
        let found = encode(&shards, 2, 64 + 6);
        let found: Vec<_> = found.iter().map(|shard| definition::split(shard)).collect();
        assert_eq!(found, definition::parity(&shards, 2));
    }

    #[test]
    fn one_shard_and_one_for_parity_are_the_same_bytes() {
        let shard = noise(100, 1);
        assert_eq!(encode(std::slice::from_ref(&shard), 1, 100), [&shard[..]]);
    }

    #[test]
    fn stripes_make_no_difference() {
        // So many shards that a stripe is far shorter than a shard, and ends within it.
        let (data, parity, length) = (600, 5, 64 * 130 + 16);
        let shards: Vec<_> = (0..data).map(|seed| noise(length, seed as u64)).collect();
        let code = ParityCode::new(data, parity, length).unwrap();
        assert!(code.stripe_length() * 2 < length && !length.is_multiple_of(code.stripe_length()));
        let found = encode(&shards, parity, length);
        let (first, last) = (64 * 57, length - 16);
        for (from, to) in [(0, 64), (first, first + 64), (last - 64, length)] {
            let parts: Vec<_> = shards.iter().map(|shard| shard[from..to].to_vec()).collect();
            let parts = encode(&parts, parity, to - from);
            let wanted: Vec<_> = found.iter().map(|shard| shard[from..to].to_vec()).collect();
            assert_eq!(parts, wanted, "{from}");
        }
        let mut damaged = shards.clone();
        damaged[7].fill(0);
        let mut slices: Vec<_> = damaged.iter_mut().map(Vec::as_mut_slice).collect();
        let parity: Vec<_> = found.iter().map(|shard| Some(shard.as_slice())).collect();
        assert_eq!(code.recover(&mut slices, &[7], &parity), Ok(()));
        assert!(damaged == shards);
    }

    #[test]
    fn percents_are_rounded_up_and_never_give_too_few() {
        assert_eq!(parity_shards(256, 0), 0);
        for (data, percent, parity) in [
            (1, 2, 2),
            (1, 100, 2),
            (2, 2, 3),
            (150, 2, 3),
            (151, 2, 4),
            (257, 2, 6),
            (18_000, 100, 18_000),
        ] {
            assert_eq!(parity_shards(data, percent), parity, "{percent} % of {data}");
            assert!(ParityCode::new(data, parity, 65_552).is_some());
        }
    }

    #[test]
    fn what_cannot_be_coded_is_refused() {
        for (data, parity, length) in
            [(0, 1, 2), (1, 0, 2), (1, 1, 0), (1, 1, 3), (65_535, 2, 2), (40_000, 40_000, 2)]
        {
            assert_eq!(ParityCode::new(data, parity, length), None, "{data}, {parity}, {length}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(96))]

        #[test]
        fn any_shards_up_to_the_parity_count_come_back_and_one_more_is_refused(
            data in 1usize..40,
            parity in 1usize..12,
            length in (1usize..80).prop_map(|half| 2 * half),
            short in 0usize..160,
            lots in any::<prop::sample::Index>(),
            order in Just((0..52usize).collect::<Vec<_>>()).prop_shuffle(),
        ) {
            let mut whole: Vec<_> = (0..data).map(|seed| noise(length, seed as u64)).collect();
            let cut = length - short.min(length - 1);
            whole[data - 1].truncate(cut);
            let shards = encode(&whole, parity, length);
            let code = ParityCode::new(data, parity, length).unwrap();
            let all = order.into_iter().filter(|index| *index < data + parity);
            let order: Vec<usize> = all.collect();
            for count in [lots.index(parity + 1), parity + 1] {
                let gone = &order[..count.min(order.len())];
                let lost: Vec<_> = gone.iter().filter(|index| **index < data).copied().collect();
                let mut found = whole.clone();
                lost.iter().for_each(|index| found[*index].fill(0xee));
                let before = found.clone();
                let left: Vec<_> = shards.iter().enumerate().map(|(index, shard)| {
                    (!gone.contains(&(data + index))).then_some(shard.as_slice())
                }).collect();
                let mut slices: Vec<_> = found.iter_mut().map(Vec::as_mut_slice).collect();
                let recovered = code.recover(&mut slices, &lost, &left);
                if count <= parity || lost.is_empty() {
                    prop_assert_eq!(recovered, Ok(()));
                    prop_assert_eq!(&found, &whole);
                } else {
                    prop_assert!(recovered.is_err());
                    prop_assert_eq!(&found, &before);
                }
            }
        }
    }
}
