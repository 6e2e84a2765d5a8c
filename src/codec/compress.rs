//! Compresses segments with zstd, and keeps as they are those that would not shrink.

use std::io::Cursor;

use zstd::zstd_safe::{CCtx, CParameter, DCtx, DParameter, ResetDirective};

use super::matches::Matcher;
use super::sequences::SequenceWriter;

/// Windows larger than 2^27 bytes (128 MiB) are refused when decompressing: the largest prefix and
/// segment that a format 1 writer may make fit in 2^24.
const WINDOW_LOG_MAX: u32 = 27;
/// The match finder's tables for large segments, in bits: 2 % smaller than a level's own at no cost.
const HASH_LOG: u32 = 18;
/// At [`CAREFUL_LEVEL`] these save a tenth of the time for less than 1 % of the size (`docs/design/0001-sizes.md`).
const CAREFUL_HASH_LOG: u32 = 17;
const CAREFUL_CHAIN_LOG: u32 = 15;
/// The level that has a fast way beside it: level 1 with a table of [`FAST_HASH_LOG`] bits, for segments that it makes as small,
/// as those of a database of random words. There it takes less than two thirds of the time (`docs/design/0001-sizes.md`).
const CAREFUL_LEVEL: i32 = 3;
const FAST_HASH_LOG: u32 = 17;
/// The part of a segment, from its middle, that tells which of the two it is for.
const CHOICE_SAMPLE: usize = 64 << 10;
/// Shorter segments are not worth the choice, which costs twice the sample.
const CHOICE_LEAST: usize = 16 * CHOICE_SAMPLE;
/// What was of no use is not tried again, at most for so many segments.
const PAUSE_MOST: u32 = 7;
/// How much of a segment the probe compresses: 3 samples of this many bytes.
const PROBE_SAMPLE: usize = 4 << 10;

/// Bytes of each sample from which the length of a compressed segment is estimated.
const ESTIMATE_SAMPLE: usize = 16 << 10;

/// A failure inside zstd, in its own words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("zstd: {0}")]
pub struct CompressError(pub(super) String);

pub(super) fn zstd_error(code: usize) -> CompressError {
    CompressError(zstd::zstd_safe::get_error_name(code).to_string())
}

/// Compresses segment after segment with one context.
pub struct Compressor {
    context: CCtx<'static>,
    /// For what it compresses as well; `None`: the level is not that of the choice.
    fast: Option<CCtx<'static>>,
    /// Before there is a choice again, segments are compressed with care.
    choice: Pause,
    probe: CCtx<'static>,
    sample: Vec<u8>,
}

/// Leaves out what was of no use the last times: once, three times, and at most [`PAUSE_MOST`] times.
#[derive(Default)]
struct Pause {
    left: u32,
    last: u32,
}

impl Pause {
    /// Whether it is to be tried again.
    fn is_over(&mut self) -> bool {
        let is_over = self.left == 0;
        self.left = self.left.saturating_sub(1);
        is_over
    }

    /// It was tried.
    fn note(&mut self, was_of_use: bool) {
        self.last = match was_of_use {
            true => 0,
            false => (2 * self.last + 1).min(PAUSE_MOST),
        };
        self.left = self.last;
    }
}

/// The logarithm of a window that covers so many bytes.
pub(super) fn window_log(length: usize) -> u32 {
    length.next_power_of_two().ilog2().clamp(17, WINDOW_LOG_MAX)
}

/// A context for segments of up to `segment_length` bytes, whose window covers them whole.
fn segment_context(
    level: i32,
    tables: &[CParameter],
    segment_length: usize,
) -> Result<CCtx<'static>, CompressError> {
    let mut context = CCtx::create();
    let format = [
        CParameter::CompressionLevel(level),
        CParameter::WindowLog(window_log(segment_length)),
        CParameter::ContentSizeFlag(false),
        CParameter::ChecksumFlag(false),
    ];
    for parameter in format.iter().chain(tables) {
        context.set_parameter(*parameter).map_err(zstd_error)?;
    }
    Ok(context)
}

impl Compressor {
    /// A compressor of this zstd level for segments of up to `segment_length` bytes, whose window
    /// covers them whole.
    pub fn new(level: i32, segment_length: usize) -> Result<Self, CompressError> {
        let (tables, fast) = match level {
            CAREFUL_LEVEL => {
                let fast =
                    segment_context(1, &[CParameter::HashLog(FAST_HASH_LOG)], segment_length)?;
                let hash = CParameter::HashLog(CAREFUL_HASH_LOG);
                (vec![hash, CParameter::ChainLog(CAREFUL_CHAIN_LOG)], Some(fast))
            }
            _ => (vec![CParameter::HashLog(HASH_LOG)], None),
        };
        let context = segment_context(level, &tables, segment_length)?;
        let mut probe = CCtx::create();
        probe.set_parameter(CParameter::CompressionLevel(1)).map_err(zstd_error)?;
        let sample = Vec::new();
        Ok(Compressor { context, fast, choice: Pause::default(), probe, sample })
    }

    /// Whether `plain` is likely to shrink: three samples at level 1 shrink by 3 % or more. Costs 12 KiB of
    /// compression, where trying at full price would cost the whole segment.
    pub fn seems_compressible(&mut self, plain: &[u8]) -> bool {
        if plain.len() < 16 * PROBE_SAMPLE {
            return true;
        }
        let step = (plain.len() - PROBE_SAMPLE) / 2;
        let mut shrunk = 0;
        for start in [0, step, 2 * step] {
            self.sample.clear();
            self.sample.reserve(zstd::zstd_safe::compress_bound(PROBE_SAMPLE));
            let sample = &plain[start..start + PROBE_SAMPLE];
            match self.probe.compress2(&mut self.sample, sample) {
                Ok(length) => shrunk += length,
                Err(_) => return true,
            }
        }
        shrunk * 100 < 3 * PROBE_SAMPLE * 97
    }

    /// About how long `plain` would be when it is compressed, rather more than less: exactly below 256 KiB, and from four
    /// samples of 16 KiB beyond.
    pub fn estimate(&mut self, plain: &[u8]) -> Result<usize, CompressError> {
        let (length, starts) = match plain.len().checked_sub(ESTIMATE_SAMPLE) {
            Some(last) if plain.len() >= 16 * ESTIMATE_SAMPLE => {
                (ESTIMATE_SAMPLE, vec![0, last / 3, last / 3 * 2, last])
            }
            _ => (plain.len(), vec![0]),
        };
        let taken = (starts.len() * length).max(1);
        let mut shrunk = 0;
        for start in starts {
            self.sample.clear();
            self.sample.reserve(zstd::zstd_safe::compress_bound(length));
            let sample = &plain[start..start + length];
            shrunk += self.context.compress2(&mut self.sample, sample).map_err(zstd_error)?;
        }
        let estimate = shrunk as u64 * plain.len() as u64 / taken as u64;
        Ok((estimate as usize).min(plain.len()))
    }

    /// Whether the fast way makes a sample at most 1 % larger than the careful one.
    fn is_for_the_fast_way(&mut self, plain: &[u8]) -> Result<bool, CompressError> {
        let Some(fast) = &mut self.fast else { return Ok(false) };
        if plain.len() < CHOICE_LEAST || !self.choice.is_over() {
            return Ok(false);
        }
        let start = (plain.len() - CHOICE_SAMPLE) / 2;
        let sample = &plain[start..start + CHOICE_SAMPLE];
        let mut lengths = [0; 2];
        for (context, length) in [fast, &mut self.context].into_iter().zip(&mut lengths) {
            self.sample.clear();
            self.sample.reserve(zstd::zstd_safe::compress_bound(CHOICE_SAMPLE));
            *length = context.compress2(&mut self.sample, sample).map_err(zstd_error)?;
        }
        let is_fast = lengths[0] * 100 <= lengths[1] * 101;
        self.choice.note(is_fast);
        Ok(is_fast)
    }

    /// Appends `plain` to `output`, compressed, when that is at least 1 % smaller, and nothing when it is not. Returns whether
    /// it was.
    pub fn compress(&mut self, plain: &[u8], output: &mut Vec<u8>) -> Result<bool, CompressError> {
        if self.seems_compressible(plain) {
            let start = output.len();
            let bound = zstd::zstd_safe::compress_bound(plain.len());
            output.reserve(bound);
            let mut tail = Cursor::new(&mut *output);
            tail.set_position(start as u64);
            let is_fast = self.is_for_the_fast_way(plain)?;
            let context = match &mut self.fast {
                Some(fast) if is_fast => fast,
                _ => &mut self.context,
            };
            let length = context.compress2(&mut tail, plain).map_err(zstd_error)?;
            if length + plain.len() / 100 < plain.len() {
                return Ok(true);
            }
            output.truncate(start);
        }
        Ok(false)
    }
}

/// Up to this level deltas are made with level 1, zstd's fast way, and a table that is large enough for a whole prefix: as
/// small as with level 3 and long-distance matching but for a fortieth, in two thirds of the time or half
/// (`docs/design/0008-deltas.md`).
const FAST_DELTA_LEVEL: i32 = 3;
/// Entries of that table, as a power of two.
const FAST_DELTA_TABLE: u32 = 19;

/// Compresses delta after delta with one context.
pub struct DeltaCompressor {
    context: CCtx<'static>,
    /// Up to [`FAST_DELTA_LEVEL`].
    long_matches: Option<LongMatches>,
}

/// Where nearly all is in long matches, which is looked at first, they are all that is written.
struct LongMatches {
    matcher: Matcher,
    writer: SequenceWriter,
    pause: Pause,
}

impl LongMatches {
    fn new() -> Result<Self, CompressError> {
        let (matcher, writer) = (Matcher::new(), SequenceWriter::new()?);
        Ok(LongMatches { matcher, writer, pause: Pause::default() })
    }

    /// Makes `output` a delta of long matches. Returns whether it is one.
    fn compress(&mut self, prefix: &[u8], plain: &[u8], output: &mut Vec<u8>) -> bool {
        if !self.pause.is_over() {
            return false;
        }
        let written = match self.matcher.find(prefix, plain) {
            Some(found) => {
                let written = self.writer.write(plain, prefix.len(), found, output);
                debug_assert_eq!(written, Ok(()));
                // Where they cannot be written, zstd finds what it can.
                written.is_ok()
            }
            None => false,
        };
        self.pause.note(written);
        written
    }
}

impl DeltaCompressor {
    /// A compressor of this zstd level.
    pub fn new(level: i32) -> Result<Self, CompressError> {
        let search = match level <= FAST_DELTA_LEVEL {
            true => {
                [CParameter::CompressionLevel(level.min(1)), CParameter::HashLog(FAST_DELTA_TABLE)]
            }
            false => {
                [CParameter::CompressionLevel(level), CParameter::EnableLongDistanceMatching(true)]
            }
        };
        let mut context = CCtx::create();
        let format = [CParameter::ContentSizeFlag(false), CParameter::ChecksumFlag(false)];
        for parameter in search.into_iter().chain(format) {
            context.set_parameter(parameter).map_err(zstd_error)?;
        }
        let long_matches = (level <= FAST_DELTA_LEVEL).then(LongMatches::new).transpose()?;
        Ok(DeltaCompressor { context, long_matches })
    }

    /// Makes `output` what `plain` is as a delta against `prefix`, over a window that covers both. It is read by
    /// [`Decompressor::decompress`] with the same prefix.
    pub fn compress(
        &mut self,
        prefix: &[u8],
        plain: &[u8],
        output: &mut Vec<u8>,
    ) -> Result<(), CompressError> {
        if let Some(long_matches) = &mut self.long_matches
            && long_matches.compress(prefix, plain, output)
        {
            return Ok(());
        }
        output.clear();
        output.reserve(zstd::zstd_safe::compress_bound(plain.len()));
        let window = CParameter::WindowLog(window_log(prefix.len() + plain.len()));
        self.context.set_parameter(window).map_err(zstd_error)?;
        // SAFETY: the context is made to forget the prefix below, whatever came of it, or is replaced.
        #[allow(unsafe_code, reason = "a context that is used again outlives its prefixes")]
        let prefix = unsafe { as_if_it_stayed(prefix) };
        let done = match self.context.ref_prefix(prefix) {
            Ok(_) => self.context.compress2(output, plain),
            Err(code) => Err(code),
        };
        let forgotten = match self.context.reset(ResetDirective::SessionOnly) {
            Ok(_) => self.context.ref_prefix(&[]),
            Err(code) => Err(code),
        };
        if forgotten.is_err() {
            // Nobody has seen that. It is an error, and this one knows no prefix.
            self.context = CCtx::create();
        }
        done.and(forgotten).map(drop).map_err(zstd_error)
    }
}

/// A prefix for a context that outlives it.
///
/// # Safety
///
/// The context must not read it any more once the original is gone: zstd refers to a prefix for one frame, and until another
/// one, an empty one too, takes its place.
#[allow(unsafe_code, reason = "a context that is used again outlives its prefixes")]
unsafe fn as_if_it_stayed(prefix: &[u8]) -> &'static [u8] {
    // SAFETY: the same bytes; how long they may be read is what the caller promises.
    unsafe { std::slice::from_raw_parts(prefix.as_ptr(), prefix.len()) }
}

/// A segment is one zstd frame and nothing behind it.
fn require_single_frame(compressed: &[u8]) -> Result<(), CompressError> {
    let length = zstd::zstd_safe::find_frame_compressed_size(compressed).map_err(zstd_error)?;
    // A skippable frame has a length too, and holds nothing.
    if length != compressed.len() || !compressed.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        return Err(CompressError("not exactly one frame".to_string()));
    }
    Ok(())
}

/// Decompresses segment after segment with one context.
pub struct Decompressor {
    context: DCtx<'static>,
}

impl Decompressor {
    /// A decompressor that refuses windows above 128 MiB.
    pub fn new() -> Result<Self, CompressError> {
        let mut context = DCtx::create();
        context.set_parameter(DParameter::WindowLogMax(WINDOW_LOG_MAX)).map_err(zstd_error)?;
        Ok(Decompressor { context })
    }

    /// The plaintext of a segment, which must be exactly `length` bytes long. `prefix` is empty for a
    /// plain segment.
    pub fn decompress(
        &mut self,
        compressed: &[u8],
        prefix: &[u8],
        length: usize,
    ) -> Result<Vec<u8>, CompressError> {
        let mut plain = Vec::new();
        self.decompress_into(compressed, prefix, length, &mut plain)?;
        Ok(plain)
    }

    /// Like [`Decompressor::decompress`], into a buffer that is used again: `plain` holds the plaintext and
    /// nothing else.
    pub fn decompress_into(
        &mut self,
        compressed: &[u8],
        prefix: &[u8],
        length: usize,
        plain: &mut Vec<u8>,
    ) -> Result<(), CompressError> {
        require_single_frame(compressed)?;
        plain.clear();
        plain.reserve(length);
        let written = if prefix.is_empty() {
            self.context.decompress(plain, compressed).map_err(zstd_error)?
        } else {
            self.decompress_delta(compressed, prefix, plain)?
        };
        self.context.reset(ResetDirective::SessionOnly).map_err(zstd_error)?;
        if written != length {
            return Err(CompressError(format!("{written} bytes instead of {length}")));
        }
        Ok(())
    }

    fn decompress_delta(
        &mut self,
        compressed: &[u8],
        prefix: &[u8],
        plain: &mut Vec<u8>,
    ) -> Result<usize, CompressError> {
        // SAFETY: the context is made to forget the prefix below, whatever came of it, or is replaced.
        #[allow(unsafe_code, reason = "a context that is used again outlives its prefixes")]
        let prefix = unsafe { as_if_it_stayed(prefix) };
        let done = match self.context.ref_prefix(prefix) {
            Ok(_) => self.context.decompress(plain, compressed),
            Err(code) => Err(code),
        };
        let forgotten = match self.context.reset(ResetDirective::SessionOnly) {
            Ok(_) => self.context.ref_prefix(&[]),
            Err(code) => Err(code),
        };
        if forgotten.is_err() {
            // Nobody has seen that.
            self.context = DCtx::create();
            let most = DParameter::WindowLogMax(WINDOW_LOG_MAX);
            self.context.set_parameter(most).map_err(zstd_error)?;
        }
        done.map_err(zstd_error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fast_way_is_taken_for_what_it_makes_as_small_and_for_nothing_else() {
        let mut compressor = Compressor::new(CAREFUL_LEVEL, 4 << 20).unwrap();
        // Words that come in no order, as in a database: nothing longer than a word repeats.
        let mut state = 7u64;
        let mut word = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            format!("{:x} ", (state >> 33) % 5000 * 7_919_193)
        };
        let words: String = (0..300_000).map(|_| word()).collect();
        assert!(compressor.is_for_the_fast_way(words.as_bytes()).unwrap());
        // Text whose phrases come again far away: the larger search pays.
        let phrases: Vec<String> = (0..400)
            .map(|number| format!("{number} {}", "and so on, ".repeat(number % 7)))
            .collect();
        let text: String = (0..200_000u64).map(|at| &*phrases[(at * at % 397) as usize]).collect();
        let is_fast = compressor.is_for_the_fast_way(text.as_bytes()).unwrap();
        for plain in [words.as_bytes(), text.as_bytes()] {
            let plain = &plain[..2 << 20];
            let mut output = Vec::new();
            assert!(compressor.compress(plain, &mut output).unwrap());
            let read = Decompressor::new().unwrap().decompress(&output, &[], plain.len()).unwrap();
            assert!(read == plain);
        }
        // After careful ones there is a pause, and then a choice again.
        if !is_fast {
            compressor.choice.left = 0;
            assert!(!compressor.is_for_the_fast_way(text.as_bytes()).unwrap());
            assert!(compressor.choice.left > 0);
        }
        assert!(!compressor.is_for_the_fast_way(&words.as_bytes()[..CHOICE_LEAST - 1]).unwrap());
    }

    fn noise(length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        blake3::Hasher::new().finalize_xof().fill(&mut bytes);
        bytes
    }

    #[test]
    fn text_shrinks_and_noise_stays_as_it_is() {
        let mut compressor = Compressor::new(3, 2 << 20).unwrap();
        let text = b"the quick brown fox ".repeat(10_000);
        let mut output = b"before".to_vec();
        assert!(compressor.compress(&text, &mut output).unwrap());
        assert!(output.len() < text.len() / 10 && output.starts_with(b"before"));
        let plain = Decompressor::new().unwrap().decompress(&output[6..], &[], text.len());
        assert_eq!(plain.unwrap(), text);

        let noise = noise(200_000);
        let mut output = Vec::new();
        assert!(!compressor.compress(&noise, &mut output).unwrap());
        assert_eq!(output, b"");
        assert!(!compressor.seems_compressible(&noise));
    }

    #[test]
    fn an_estimate_is_near_and_rather_above() {
        let mut compressor = Compressor::new(3, 2 << 20).unwrap();
        let noise = noise(1 << 20);
        let words: Vec<u8> = noise.iter().flat_map(|byte| [b'a' + byte % 7, byte % 3, 9]).collect();
        for plain in [&noise[..], &words, &words[..300_000], &words[..1_000], &words[..1], &[]] {
            let mut output = Vec::new();
            let is_smaller = compressor.compress(plain, &mut output).unwrap();
            let length = if is_smaller { output.len() } else { plain.len() };
            let estimate = compressor.estimate(plain).unwrap();
            let range = length / 20 * 19..=length / 4 * 5 + 20;
            assert!(range.contains(&estimate), "{estimate} for {length}");
        }
    }

    #[test]
    fn small_segments_of_every_size_come_back() {
        let mut compressor = Compressor::new(3, 2 << 20).unwrap();
        let mut decompressor = Decompressor::new().unwrap();
        for length in 0..300 {
            let plain: Vec<u8> = (0..length).map(|i| (i / 7) as u8).collect();
            let mut output = Vec::new();
            if compressor.compress(&plain, &mut output).unwrap() {
                output = decompressor.decompress(&output, &[], plain.len()).unwrap();
                assert_eq!(output, plain);
            } else {
                assert_eq!(output, b"");
            }
        }
    }

    #[test]
    fn a_delta_needs_its_prefix() {
        let prefix = noise(500_000);
        let mut plain = prefix[100_000..400_000].to_vec();
        plain[5] ^= 1;
        let mut compressor = DeltaCompressor::new(3).unwrap();
        let mut delta = Vec::new();
        // One context each, prefixes that come and go, nonsense, and no prefix in between.
        let mut one = Decompressor::new().unwrap();
        for length in [300_000, 0, 100] {
            let other: Vec<u8> = noise(length).iter().map(|byte| !byte).collect();
            compressor.compress(&other, &plain, &mut delta).unwrap();
            assert!(delta.len() > plain.len(), "{}", delta.len());
            assert_eq!(one.decompress(&delta, &other, plain.len()).unwrap(), plain);
            compressor.compress(&prefix, &plain, &mut delta).unwrap();
            assert!(one.decompress(&delta[..delta.len() / 2], &prefix, plain.len()).is_err());
            // What a context went on referring to would be its prefix here.
            compressor.compress(&[], &plain, &mut delta).unwrap();
            assert_eq!(one.decompress(&delta, &[], plain.len()).unwrap(), plain);
        }
        compressor.compress(&prefix, &plain, &mut delta).unwrap();
        assert!(delta.len() < 2000, "{}", delta.len());
        let mut decompressor = Decompressor::new().unwrap();
        assert_eq!(decompressor.decompress(&delta, &prefix, plain.len()).unwrap(), plain);
        let mut other = prefix.clone();
        other.reverse();
        assert_ne!(decompressor.decompress(&delta, &other, plain.len()), Ok(plain.clone()));
        assert!(decompressor.decompress(&delta, &prefix, plain.len() - 1).is_err());
    }

    fn paused(compressor: &DeltaCompressor) -> u32 {
        compressor.long_matches.as_ref().unwrap().pause.left
    }

    #[test]
    fn matches_of_any_length_are_written_over_the_ends_of_blocks() {
        let prefix = noise(2 << 20);
        let mut compressor = DeltaCompressor::new(3).unwrap();
        let mut decompressor = Decompressor::new().unwrap();
        let mut delta = Vec::new();
        const BLOCK: usize = 128 << 10;
        for length in (BLOCK - 9..BLOCK + 9).chain([3 * BLOCK + 5, 1 << 20]) {
            // Matches of this length, each some bytes behind the one before.
            let mut plain = Vec::new();
            for (at, gap) in [(5, 0), (7, 3), (0, 40), (9, 1), (100, 7)] {
                plain.extend_from_slice(&[7; 40][..gap]);
                plain.extend_from_slice(&prefix[at * 1000..at * 1000 + length]);
            }
            compressor.compress(&prefix, &plain, &mut delta).unwrap();
            assert_eq!(paused(&compressor), 0);
            let blocks = plain.len().div_ceil(BLOCK);
            assert!(delta.len() < 100 + 20 * blocks, "{} for {length}", delta.len());
            assert!(decompressor.decompress(&delta, &prefix, plain.len()).unwrap() == plain);
        }
        // Zeros where there are some before, but not as many.
        let prefix = [&prefix[..100_000], &[0; 4096], &prefix[100_000..200_000]].concat();
        let plain = [&prefix[..100_000], &[0; 30_000], &prefix[110_000..200_000]].concat();
        compressor.compress(&prefix, &plain, &mut delta).unwrap();
        assert!(delta.len() < 200, "{}", delta.len());
        assert!(decompressor.decompress(&delta, &prefix, plain.len()).unwrap() == plain);
        // Of a run that grew behind another one of its kind there would be thousands, each as far away as no other.
        let prefix =
            [&[0; 150], &prefix[..50_000], &[0; 100_000], &prefix[60_000..110_000]].concat();
        let plain = [&prefix[..100_000], &[0; 500_000], &prefix[100_000..]].concat();
        compressor.compress(&prefix, &plain, &mut delta).unwrap();
        assert!(delta.len() < 1000, "{}", delta.len());
        assert!(decompressor.decompress(&delta, &prefix, plain.len()).unwrap() == plain);
        // At a level that costs more, zstd looks itself.
        assert!(DeltaCompressor::new(9).unwrap().long_matches.is_none());
    }

    #[test]
    fn what_is_nearly_all_in_long_matches_is_written_as_they_are_found() {
        let prefix = noise(2 << 20);
        let mut compressor = DeltaCompressor::new(3).unwrap();
        let mut decompressor = Decompressor::new().unwrap();
        let mut delta = Vec::new();
        // The last ones are longer than the window of zstd's level 1, and than a power of two.
        for length in [40_000, 300_000, (1 << 20) - 3, (1 << 20) + 3] {
            let mut plain = prefix[700_000..700_000 + length].to_vec();
            for at in (0..length).step_by(5000) {
                plain[at] ^= 1;
            }
            plain.splice(20_000..20_100, *b"not there before");
            compressor.compress(&prefix, &plain, &mut delta).unwrap();
            assert_eq!(paused(&compressor), 0, "{length}");
            assert!(delta.len() < length / 300, "{} for {length}", delta.len());
            assert_eq!(decompressor.decompress(&delta, &prefix, plain.len()).unwrap(), plain);
            // RFC 8878, 3.1.1.1: no content size, no checksum, no dictionary, and a window of 2^(10 + exponent).
            assert_eq!(delta[4], 0);
            assert!(1 << (10 + (delta[5] >> 3)) >= prefix.len() + plain.len());
        }
        // Of what is in many short ones zstd finds more; it is not tried at once again.
        let plain: Vec<u8> = prefix[..300_000]
            .chunks(90)
            .flat_map(|bytes| [bytes, b"0123456789"].concat())
            .collect();
        for pause in [1, 0, 3, 2, 1, 0, 7] {
            compressor.compress(&prefix, &plain, &mut delta).unwrap();
            assert_eq!(paused(&compressor), pause);
            assert!(delta.len() < plain.len() / 3, "{}", delta.len());
            assert_eq!(decompressor.decompress(&delta, &prefix, plain.len()).unwrap(), plain);
        }
    }

    #[test]
    fn nonsense_and_wrong_lengths_are_errors() {
        let mut decompressor = Decompressor::new().unwrap();
        assert!(decompressor.decompress(&noise(100), &[], 100).is_err());
        let mut output = Vec::new();
        let text = b"abc".repeat(100);
        assert!(Compressor::new(3, 1 << 20).unwrap().compress(&text, &mut output).unwrap());
        assert!(decompressor.decompress(&output, &[], 299).is_err());
        assert!(decompressor.decompress(&output, &[], 301).is_err());
        assert_eq!(decompressor.decompress(&output, &[], 300).unwrap(), text);
    }
}
