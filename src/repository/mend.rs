//! Packs with parity: where everything stands in them, and how what is damaged is given back.
//!
//! The frames' tags and the parity shards' own tags tell which of them are damaged, so these are lost shards at known
//! places, and as many come back as there are parity shards left. What came back is opened like every other frame
//! before anybody reads it: a mended pack is, byte for byte, the one that was written, or there is none.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use super::Repository;
use super::error::{Kind, RepositoryError, Result};
use super::index::PackInfo;
use super::seal::{ObjectCipher, Sealer};
use crate::codec::cipher;
use crate::codec::cipher::{FRAME_LENGTH, SEALED_FRAME_LENGTH, TAG_LENGTH, sealed_length};
use crate::codec::parity::{ParityCode, parity_shards};
use crate::format::header::{HEADER_LENGTH, Header, ObjectKind, Parity};
use crate::id::PackId;
use crate::monitor::Monitor;
use crate::store::{Store, layout};

const PACK_KINDS: [ObjectKind; 2] = [ObjectKind::DataPack, ObjectKind::TreePack];

/// Length of the plaintext of an object with this header that is `object_length` bytes long. `None`: no such
/// object has this length.
pub fn plain_length(header: &Header, object_length: u64) -> Option<u64> {
    match header.parity {
        None => cipher::plain_length(object_length.checked_sub(HEADER_LENGTH as u64)?),
        Some(parity) => {
            let shape = PackShape::new(parity)?;
            (shape.object_length() as u64 == object_length).then_some(parity.plain_length)
        }
    }
}

/// What is wrong with an object of a length for which [`plain_length`] knows no plaintext.
pub fn not_whole(object_length: u64) -> String {
    format!(
        "its {object_length} bytes are not whole frames: it is cut short, or something was added"
    )
}

/// The parity of a new pack with so long a plaintext; `None` for 0 %.
pub fn parity_of(plain_length: u64, percent: u8) -> Option<Parity> {
    let frames = plain_length.div_ceil(FRAME_LENGTH as u64) as usize;
    let shards = u16::try_from(parity_shards(frames, percent)).unwrap_or(u16::MAX);
    (shards > 0).then_some(Parity { shards, plain_length })
}

/// Where everything stands in a pack with parity: header, frames, parity shards each with its tag, header again.
#[derive(Debug, Clone, Copy)]
pub struct PackShape {
    parity: Parity,
    frames: usize,
    code: ParityCode,
    shard_length: usize,
}

impl PackShape {
    /// The shape of a pack with this parity. `None`: no code has so many frames and shards.
    pub fn new(parity: Parity) -> Option<Self> {
        let frames = parity.plain_length.div_ceil(FRAME_LENGTH as u64) as usize;
        // A frame alone in its pack is rounded up to what can be coded: words of two bytes.
        let shard_length = match frames {
            1 => (parity.plain_length as usize + TAG_LENGTH).next_multiple_of(2),
            _ => SEALED_FRAME_LENGTH,
        };
        let code = ParityCode::new(frames, parity.shards.into(), shard_length)?;
        Some(PackShape { parity, frames, code, shard_length })
    }

    /// Length of the whole object.
    pub fn object_length(&self) -> usize {
        self.shard_range(self.shards()).start + HEADER_LENGTH
    }

    /// How many parity shards there are.
    pub fn shards(&self) -> usize {
        self.parity.shards.into()
    }

    fn frame_range(&self, frame: usize) -> Range<usize> {
        let start = HEADER_LENGTH + frame * SEALED_FRAME_LENGTH;
        start..self.frames_end().min(start + SEALED_FRAME_LENGTH)
    }

    fn frames_end(&self) -> usize {
        HEADER_LENGTH + sealed_length(self.parity.plain_length) as usize
    }

    /// A parity shard without its tag.
    fn shard_range(&self, shard: usize) -> Range<usize> {
        let start = self.frames_end() + shard * (self.shard_length + TAG_LENGTH);
        start..start + self.shard_length
    }

    /// Fills everything behind the frames of `object`, which has its whole length: parity shards, their tags, the
    /// header's copy.
    pub fn write_parity(&self, cipher: &ObjectCipher, object: &mut [u8]) {
        let (sealed, rest) = object.split_at_mut(self.shard_range(0).start);
        let (shards, copy) = rest.split_at_mut(rest.len() - HEADER_LENGTH);
        let (header, sealed) = sealed.split_at(HEADER_LENGTH);
        copy.copy_from_slice(header);
        let frames: Vec<&[u8]> = sealed.chunks(SEALED_FRAME_LENGTH).collect();
        let mut tags = Vec::with_capacity(self.shards());
        let mut parity = Vec::with_capacity(self.shards());
        for shard in shards.chunks_mut(self.shard_length + TAG_LENGTH) {
            let (shard, tag) = shard.split_at_mut(self.shard_length);
            parity.push(shard);
            tags.push(tag);
        }
        self.code.encode(&frames, &mut parity);
        for (number, (shard, tag)) in parity.iter().zip(tags).enumerate() {
            tag.copy_from_slice(&cipher.parity_tag(number as u64, shard));
        }
    }

    /// Which frames, and which parity shards, of `object` are not what was written; what is not there is none.
    fn damaged(&self, cipher: &ObjectCipher, object: &[u8]) -> (Vec<usize>, Vec<usize>) {
        let mut scratch = Vec::with_capacity(SEALED_FRAME_LENGTH);
        let frame_is_whole = |frame: &usize| {
            object.get(self.frame_range(*frame)).is_some_and(|sealed| {
                scratch.clear();
                scratch.extend_from_slice(sealed);
                let is_last = frame + 1 == self.frames;
                cipher.frames.unseal_frame(*frame as u64, is_last, &mut scratch).is_ok()
            })
        };
        let mut is_whole = frame_is_whole;
        let frames = (0..self.frames).filter(|frame| !is_whole(frame)).collect();
        (frames, self.damaged_shards(cipher, object))
    }

    /// Which parity shards of `object` are not what was written.
    pub fn damaged_shards(&self, cipher: &ObjectCipher, object: &[u8]) -> Vec<usize> {
        let is_whole = |shard: &usize| {
            let range = self.shard_range(*shard);
            let tag = object.get(range.end..range.end + TAG_LENGTH);
            let bytes = object.get(range);
            bytes.is_some_and(|bytes| tag == Some(&cipher.parity_tag(*shard as u64, bytes)))
        };
        (0..self.shards()).filter(|shard| !is_whole(shard)).collect()
    }

    /// Whether the header's copy behind the parity shards is the header.
    pub fn copy_is_whole(&self, cipher: &ObjectCipher, object: &[u8]) -> bool {
        let end = self.object_length();
        object.get(end - HEADER_LENGTH..end) == Some(&cipher.header.encode())
    }
}

/// A pack as it was written, and what of it was damaged.
#[derive(Debug, Clone)]
pub struct Mended {
    /// The whole object, byte for byte as it was written.
    pub object: Vec<u8>,
    /// Its header.
    pub header: Header,
    /// Frames that were damaged or cut off.
    pub bad_frames: Vec<usize>,
    /// Parity shards that were damaged or cut off.
    pub bad_shards: Vec<usize>,
    /// Whether the header, or its copy at the end, was damaged or cut off.
    pub bad_header: bool,
    /// How long the object was found to be, in bytes.
    pub found_length: u64,
    frames: usize,
}

impl Mended {
    /// Whether nothing was damaged.
    pub fn was_whole(&self) -> bool {
        let is_long = self.found_length == self.object.len() as u64;
        is_long && self.bad_frames.is_empty() && self.bad_shards.is_empty() && !self.bad_header
    }

    /// What was damaged, in words.
    pub fn describe(&self) -> String {
        let shards = self.header.parity.map_or(0, |parity| parity.shards);
        let (bad_frames, bad_shards) = (self.bad_frames.len(), self.bad_shards.len());
        let mut parts = Vec::new();
        if bad_frames > 0 {
            parts.push(format!("{bad_frames} of {} frames", self.frames));
        }
        if bad_shards > 0 {
            parts.push(format!("{bad_shards} of {shards} parity shards"));
        }
        if self.bad_header {
            parts.push("the header or its copy".to_string());
        }
        if self.found_length != self.object.len() as u64 {
            parts.push(format!(
                "its length ({} of {} bytes)",
                self.found_length,
                self.object.len()
            ));
        }
        parts.join(", ")
    }
}

impl Sealer {
    /// Mends the pack `name` as far as its parity reaches. `listed` is the header that an index object has for it, in
    /// case that both copies in the pack are damaged.
    pub fn mend(&self, name: &str, listed: Option<&Header>, mut object: Vec<u8>) -> Result<Mended> {
        let found_length = object.len() as u64;
        let last = object.len().saturating_sub(HEADER_LENGTH);
        let header = self.check_header(&PACK_KINDS, name, &object).or_else(|error| {
            let copy = self.check_header(&PACK_KINDS, name, &object[last..]);
            let listed = |_| {
                let bytes = listed.ok_or(())?.encode();
                self.check_header(&PACK_KINDS, name, &bytes).map_err(drop)
            };
            copy.or_else(listed).map_err(|()| error)
        })?;
        let no_parity =
            || RepositoryError::new(Kind::Invalid, name, "has no parity to mend it with");
        let shape = header.parity.and_then(PackShape::new).ok_or_else(no_parity)?;
        let cipher = self.object_cipher(&header, name)?;
        let bytes = header.encode();
        let bad_header = !object.starts_with(&bytes) || !shape.copy_is_whole(&cipher, &object);
        let (bad_frames, bad_shards) = shape.damaged(&cipher, &object);
        let (lost, left) = (bad_frames.len(), shape.shards() - bad_shards.len());
        let beyond_reach = || {
            let (frames, shards) = (shape.frames, shape.shards());
            let message = format!(
                "{lost} of {frames} frames are damaged and {left} of {shards} parity shards are whole: more \
                 than parity can mend"
            );
            RepositoryError::corrupt(name, message)
        };
        // Before memory is taken for what is not there.
        if lost > left {
            return Err(beyond_reach());
        }
        object.resize(shape.object_length(), 0);
        object[..HEADER_LENGTH].copy_from_slice(&bytes);
        if lost > 0 {
            let (sealed, rest) = object.split_at_mut(shape.shard_range(0).start);
            let sealed = sealed[HEADER_LENGTH..].chunks_mut(SEALED_FRAME_LENGTH);
            let shards = rest.chunks(shape.shard_length + TAG_LENGTH).take(shape.shards());
            let shards = shards.map(|shard| &shard[..shape.shard_length]).enumerate();
            let whole = |(number, shard)| (!bad_shards.contains(&number)).then_some(shard);
            let shards: Vec<_> = shards.map(whole).collect();
            let mut frames: Vec<_> = sealed.collect();
            shape.code.recover(&mut frames, &bad_frames, &shards).map_err(|_| beyond_reach())?;
        }
        if !bad_frames.is_empty() || !bad_shards.is_empty() || bad_header {
            shape.write_parity(&cipher, &mut object);
            if !shape.damaged(&cipher, &object).0.is_empty() {
                let message = "its parity is of something else: it cannot mend what is damaged";
                return Err(RepositoryError::corrupt(name, message));
            }
        }
        let frames = shape.frames;
        Ok(Mended { object, header, bad_frames, bad_shards, bad_header, found_length, frames })
    }
}

/// What reading has mended so far.
#[derive(Default)]
pub(super) struct MendedPacks {
    /// The last pack that was asked for: whoever reads it in parts asks several times.
    last: Option<(PackId, Result<Arc<Vec<u8>>>)>,
    /// What was damaged, of those that nobody was told of yet.
    untold: BTreeMap<PackId, String>,
}

impl MendedPacks {
    fn remember(&mut self, id: PackId, mended: &Mended) {
        if !mended.was_whole() {
            self.untold.insert(id, mended.describe());
        }
    }
}

impl Repository {
    /// Fetches a pack and mends it as far as its parity reaches: what is returned is what was written. `Invalid`: it
    /// has no parity; `Corrupt`: more is damaged than parity can mend.
    pub fn mend_pack(&self, id: PackId) -> Result<Mended> {
        let listed = self.cache.pack_named(id)?;
        self.mend_listed(id, listed.map(|pack| pack.header).as_ref())
    }

    /// The same where the header that an index object lists is known, or that there is none.
    pub(super) fn mend_listed(&self, id: PackId, listed: Option<&Header>) -> Result<Mended> {
        self.mend_in(&self.store, id, listed)
    }

    /// The same of the pack as one store has it.
    pub(super) fn mend_in(
        &self,
        store: &Store,
        id: PackId,
        listed: Option<&Header>,
    ) -> Result<Mended> {
        let name = layout::pack(id);
        self.sealer().mend(&name, listed, store.get(&name)?)
    }

    /// The whole pack, mended, for a reader that met damage in it. One pack is mended at a time, and kept until
    /// another one is.
    pub(super) fn mended_object(&self, pack: &PackInfo) -> Result<Arc<Vec<u8>>> {
        let mut packs = self.mended.lock();
        if let Some((id, mended)) = &packs.last
            && *id == pack.id
        {
            return mended.clone();
        }
        // Not two in memory.
        packs.last = None;
        let mended = match self.mend_listed(pack.id, Some(&pack.header)) {
            Ok(mended) => {
                packs.remember(pack.id, &mended);
                if pack.kind == ObjectKind::TreePack {
                    self.keep_pack(&pack.id, &mended.object);
                }
                Ok(Arc::new(mended.object))
            }
            // Worth another try: it says nothing of the pack.
            Err(error) if error.kind != Kind::Corrupt => return Err(error),
            Err(error) => Err(error),
        };
        packs.last = Some((pack.id, mended.clone()));
        mended
    }

    /// Keeps in mind that the pack was mended, for whoever tells it.
    pub(super) fn remember_mended(&self, id: PackId, mended: &Mended) {
        self.mended.lock().remember(id, mended);
    }

    /// The packs that were found damaged while reading, and mended for that, since this was asked last; and what of
    /// each was damaged.
    pub fn take_mended(&self) -> BTreeMap<PackId, String> {
        std::mem::take(&mut self.mended.lock().untold)
    }

    /// Tells the monitor of them, as notes.
    pub fn note_mended(&self, monitor: &dyn Monitor) {
        for (pack, damage) in self.take_mended() {
            let name = layout::pack(pack);
            monitor.note(&format!(
                "{name} is damaged ({damage}) and was mended while reading: parity had what was missing"
            ));
        }
    }
}
