//! Compresses segments with zstd, and keeps as they are those that would not shrink.

use std::io::Cursor;

use zstd::zstd_safe::{CCtx, CParameter, DCtx, DParameter, ResetDirective};

/// Windows larger than 2^27 bytes (128 MiB) are refused when decompressing: the largest prefix and
/// segment that a format 1 writer may make fit in 2^24.
const WINDOW_LOG_MAX: u32 = 27;
/// A match finder of this many bits: 2 % smaller than level 3's own on large segments, at no cost.
const HASH_LOG: u32 = 18;
/// How much of a segment the probe compresses: 3 samples of this many bytes.
const PROBE_SAMPLE: usize = 4 << 10;

/// Bytes of each sample from which the length of a compressed segment is estimated.
const ESTIMATE_SAMPLE: usize = 16 << 10;

/// A failure inside zstd, in its own words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("zstd: {0}")]
pub struct CompressError(String);

fn zstd_error(code: usize) -> CompressError {
    CompressError(zstd::zstd_safe::get_error_name(code).to_string())
}

/// Compresses segment after segment with one context.
pub struct Compressor {
    context: CCtx<'static>,
    probe: CCtx<'static>,
    sample: Vec<u8>,
}

impl Compressor {
    /// A compressor of this zstd level for segments of up to `segment_length` bytes, whose window
    /// covers them whole.
    pub fn new(level: i32, segment_length: usize) -> Result<Self, CompressError> {
        let mut context = CCtx::create();
        let window_log = segment_length.next_power_of_two().ilog2().clamp(17, WINDOW_LOG_MAX);
        for parameter in [
            CParameter::CompressionLevel(level),
            CParameter::WindowLog(window_log),
            CParameter::HashLog(HASH_LOG),
            CParameter::ContentSizeFlag(false),
            CParameter::ChecksumFlag(false),
        ] {
            context.set_parameter(parameter).map_err(zstd_error)?;
        }
        let mut probe = CCtx::create();
        probe.set_parameter(CParameter::CompressionLevel(1)).map_err(zstd_error)?;
        Ok(Compressor { context, probe, sample: Vec::new() })
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

    /// Appends `plain` to `output`, compressed when that is at least 1 % smaller. Returns whether it is.
    pub fn compress(&mut self, plain: &[u8], output: &mut Vec<u8>) -> Result<bool, CompressError> {
        if self.seems_compressible(plain) {
            let start = output.len();
            let bound = zstd::zstd_safe::compress_bound(plain.len());
            output.reserve(bound);
            let mut tail = Cursor::new(&mut *output);
            tail.set_position(start as u64);
            let length = self.context.compress2(&mut tail, plain).map_err(zstd_error)?;
            if length + plain.len() / 100 < plain.len() {
                return Ok(true);
            }
            output.truncate(start);
        }
        output.extend_from_slice(plain);
        Ok(false)
    }
}

/// Up to this level deltas are made with level 1, zstd's fast way, and a table that is large enough for a whole prefix: as
/// small as with level 3 and long-distance matching but for a fortieth, in two thirds of the time or half
/// (`docs/design/0008-deltas.md`).
const FAST_DELTA_LEVEL: i32 = 3;
/// Entries of that table, as a power of two.
const FAST_DELTA_TABLE: u32 = 19;

/// Compresses `plain` as a delta against `prefix`, over a window that covers both. What it makes is read by
/// [`Decompressor::decompress`] with the same prefix.
pub fn compress_delta(level: i32, prefix: &[u8], plain: &[u8]) -> Result<Vec<u8>, CompressError> {
    let window = (prefix.len() + plain.len()).next_power_of_two().ilog2();
    let search = match level <= FAST_DELTA_LEVEL {
        true => [CParameter::CompressionLevel(level.min(1)), CParameter::HashLog(FAST_DELTA_TABLE)],
        false => {
            [CParameter::CompressionLevel(level), CParameter::EnableLongDistanceMatching(true)]
        }
    };
    // Its own context, because one that is used again would have to be outlived by every prefix.
    let mut context = CCtx::create();
    let format = [
        CParameter::WindowLog(window.clamp(17, WINDOW_LOG_MAX)),
        CParameter::ContentSizeFlag(false),
        CParameter::ChecksumFlag(false),
    ];
    for parameter in search.into_iter().chain(format) {
        context.set_parameter(parameter).map_err(zstd_error)?;
    }
    context.ref_prefix(prefix).map_err(zstd_error)?;
    let mut output = Vec::with_capacity(zstd::zstd_safe::compress_bound(plain.len()));
    context.compress2(&mut output, plain).map_err(zstd_error)?;
    Ok(output)
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
            let mut context = DCtx::create();
            context.set_parameter(DParameter::WindowLogMax(WINDOW_LOG_MAX)).map_err(zstd_error)?;
            context.ref_prefix(prefix).map_err(zstd_error)?;
            context.decompress(plain, compressed).map_err(zstd_error)?
        };
        self.context.reset(ResetDirective::SessionOnly).map_err(zstd_error)?;
        if written != length {
            return Err(CompressError(format!("{written} bytes instead of {length}")));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(output, noise);
        assert!(!compressor.seems_compressible(&noise));
    }

    #[test]
    fn an_estimate_is_near_and_rather_above() {
        let mut compressor = Compressor::new(3, 2 << 20).unwrap();
        let noise = noise(1 << 20);
        let words: Vec<u8> = noise.iter().flat_map(|byte| [b'a' + byte % 7, byte % 3, 9]).collect();
        for plain in [&noise[..], &words, &words[..300_000], &words[..1_000], &words[..1], &[]] {
            let mut output = Vec::new();
            compressor.compress(plain, &mut output).unwrap();
            let estimate = compressor.estimate(plain).unwrap();
            let range = output.len() / 20 * 19..=output.len() / 4 * 5 + 20;
            assert!(range.contains(&estimate), "{estimate} for {}", output.len());
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
            }
            assert_eq!(output, plain);
        }
    }

    #[test]
    fn a_delta_needs_its_prefix() {
        let prefix = noise(500_000);
        let mut plain = prefix[100_000..400_000].to_vec();
        plain[5] ^= 1;
        let delta = compress_delta(3, &prefix, &plain).unwrap();
        assert!(delta.len() < 2000, "{}", delta.len());
        let mut decompressor = Decompressor::new().unwrap();
        assert_eq!(decompressor.decompress(&delta, &prefix, plain.len()).unwrap(), plain);
        let mut other = prefix.clone();
        other.reverse();
        assert_ne!(decompressor.decompress(&delta, &other, plain.len()), Ok(plain.clone()));
        assert!(decompressor.decompress(&delta, &prefix, plain.len() - 1).is_err());
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
