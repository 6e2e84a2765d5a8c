//! Writes a zstd frame whose matches somebody else has found, also in what stands before it.
#![allow(unsafe_code, reason = "the binding of zstd has no safe way to these functions")]

use std::ffi::{c_int, c_void};
use std::ptr::NonNull;

use zstd::zstd_safe::zstd_sys::{
    ZSTD_CCtx, ZSTD_CCtx_reset, ZSTD_CCtx_setParameter, ZSTD_ResetDirective, ZSTD_Sequence,
    ZSTD_cParameter, ZSTD_compressSequences, ZSTD_createCCtx, ZSTD_freeCCtx,
};

use super::compress::{CompressError, window_log, zstd_error};
use super::matches::Match;

/// The least length of a match, for zstd: where it splits one at the end of a block, neither half is shorter. Ours are longer.
const MIN_MATCH: c_int = 7;
/// zstd finds nothing itself: its table is as small as it can be.
const HASH_LOG: c_int = 6;

/// Writes frame after frame with one context. It never sees what matches are found in: it need not, to write how far away
/// they are.
pub(super) struct SequenceWriter {
    context: NonNull<ZSTD_CCtx>,
    sequences: Vec<ZSTD_Sequence>,
}

// SAFETY: a context may be used by any thread, by one at a time: only `&mut self` reaches it.
unsafe impl Send for SequenceWriter {}

impl SequenceWriter {
    pub(super) fn new() -> Result<Self, CompressError> {
        // SAFETY: returns null, or a context that is freed once, by `Drop`.
        let context = unsafe { ZSTD_createCCtx() };
        let context =
            NonNull::new(context).ok_or_else(|| CompressError("no memory".to_string()))?;
        let mut writer = SequenceWriter { context, sequences: Vec::new() };
        for (parameter, value) in [
            (ZSTD_cParameter::ZSTD_c_compressionLevel, 1),
            (ZSTD_cParameter::ZSTD_c_hashLog, HASH_LOG),
            (ZSTD_cParameter::ZSTD_c_minMatch, MIN_MATCH),
            (ZSTD_cParameter::ZSTD_c_contentSizeFlag, 0),
            (ZSTD_cParameter::ZSTD_c_checksumFlag, 0),
            // `ZSTD_c_stableInBuffer` and `ZSTD_c_stableOutBuffer`: no memory to copy from and to.
            (ZSTD_cParameter::ZSTD_c_experimentalParam9, 1),
            (ZSTD_cParameter::ZSTD_c_experimentalParam10, 1),
        ] {
            writer.set(parameter, value)?;
        }
        Ok(writer)
    }

    fn set(&mut self, parameter: ZSTD_cParameter, value: c_int) -> Result<(), CompressError> {
        // SAFETY: the context is alive, and nobody else has it.
        let code = unsafe { ZSTD_CCtx_setParameter(self.context.as_ptr(), parameter, value) };
        checked(code).map(drop)
    }

    /// Makes `output` a frame of `plain` with these matches, whose window covers `plain` and the `before` bytes that stand
    /// before it.
    pub(super) fn write(
        &mut self,
        plain: &[u8],
        before: usize,
        matches: &[Match],
        output: &mut Vec<u8>,
    ) -> Result<(), CompressError> {
        self.sequences.clear();
        let mut covered = 0u64;
        for Match { literals, length, distance } in matches.iter().copied() {
            covered += u64::from(literals) + u64::from(length);
            if length < MIN_MATCH.unsigned_abs() || distance == 0 {
                return Err(CompressError("a match that is none".to_string()));
            }
            self.sequences.push(ZSTD_Sequence {
                offset: distance,
                litLength: literals,
                matchLength: length,
                rep: 0,
            });
        }
        if covered > plain.len() as u64 {
            return Err(CompressError("matches of more than there is".to_string()));
        }
        // SAFETY: the context is alive, and nobody else has it.
        let code = unsafe {
            let session = ZSTD_ResetDirective::ZSTD_reset_session_only;
            ZSTD_CCtx_reset(self.context.as_ptr(), session)
        };
        checked(code)?;
        let window = window_log(plain.len());
        self.set(ZSTD_cParameter::ZSTD_c_windowLog, window as c_int)?;
        output.clear();
        output.reserve(zstd::zstd_safe::compress_bound(plain.len()));
        let room = output.spare_capacity_mut();
        // SAFETY: the context is alive, and nobody else has it; the room, the sequences and the text are as long as is told. There is
        // room for a frame's header, which zstd takes for granted: a bound is more, even for no bytes.
        // zstd believes sequences: each is long enough and none has no distance, and together they do not reach beyond
        // the text, as was seen above. How far away a match is zstd writes down and does not look there.
        let code = unsafe {
            ZSTD_compressSequences(
                self.context.as_ptr(),
                room.as_mut_ptr().cast::<c_void>(),
                room.len(),
                self.sequences.as_ptr(),
                self.sequences.len(),
                plain.as_ptr().cast::<c_void>(),
                plain.len(),
            )
        };
        let written = checked(code)?;
        // SAFETY: zstd has written so many bytes there, no more than there was room for.
        unsafe {
            output.set_len(written);
        }
        // zstd told a window for what it has seen. RFC 8878, 3.1.1.1: without its content's size a frame has a byte behind the
        // descriptor that says how long its window is, with the logarithm less ten in the upper five bits.
        match output[..] {
            [_, _, _, _, descriptor, ref mut window, ..] if descriptor & 0x20 == 0 => {
                *window = ((window_log(before + plain.len()) - 10) << 3) as u8;
                Ok(())
            }
            _ => Err(CompressError("a frame without a window".to_string())),
        }
    }
}

impl Drop for SequenceWriter {
    fn drop(&mut self) {
        // SAFETY: it was made by `ZSTD_createCCtx`, and is used no more.
        unsafe {
            ZSTD_freeCCtx(self.context.as_ptr());
        }
    }
}

/// What a function of zstd returned, unless that is an error.
fn checked(code: usize) -> Result<usize, CompressError> {
    // SAFETY: it looks at the number and at nothing else.
    let is_error = unsafe { zstd::zstd_safe::zstd_sys::ZSTD_isError(code) } != 0;
    match is_error {
        true => Err(zstd_error(code)),
        false => Ok(code),
    }
}
