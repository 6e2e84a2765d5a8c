//! Tree packs that the local cache keeps whole.

use std::ops::Range;

use super::error::{RepositoryError, Result};
use super::index::PackInfo;
use super::{Repository, make_private_folder};
use crate::format::header::ObjectKind;
use crate::id::PackId;

impl Repository {
    /// Keeps a tree pack in the local cache, so that browsing and the next backup read nothing from the
    /// store. Failing is of no consequence.
    pub(super) fn keep_pack(&self, id: &PackId, object: &[u8]) {
        let Some(folder) = &self.cache_folder else { return };
        let folder = folder.join("trees");
        let temporary = folder.join(format!("{id}.new"));
        let written = make_private_folder(&folder)
            .and_then(|()| std::fs::write(&temporary, object))
            .and_then(|()| std::fs::rename(&temporary, folder.join(id.to_string())));
        if written.is_err() {
            let _ = std::fs::remove_file(&temporary);
        }
    }

    /// Bytes of a tree pack from the local cache, which is filled when it lacks the pack. `None`: it is for the store to give
    /// them.
    pub(super) fn read_kept_range(
        &self,
        pack: &PackInfo,
        name: &str,
        range: &Range<u64>,
    ) -> Option<Result<Vec<u8>>> {
        if pack.kind != ObjectKind::TreePack {
            return None;
        }
        if let Some(bytes) = self.read_kept_pack(pack, range) {
            return Some(Ok(bytes));
        }
        if self.cache_folder.is_none() || pack.object_length > 64 << 20 {
            return None;
        }
        let object = match self.store.get(name) {
            Ok(object) => object,
            Err(error) => return Some(Err(error.into())),
        };
        if object.len() as u64 == pack.object_length {
            self.keep_pack(&pack.id, &object);
        }
        let cut = object.get(range.start as usize..range.end as usize);
        Some(cut.map(<[u8]>::to_vec).ok_or_else(|| {
            RepositoryError::corrupt(name, format!("is cut short at {}", object.len()))
        }))
    }

    /// Drops a tree pack from the local cache. Returns whether it was there.
    pub(super) fn drop_kept_pack(&self, id: &PackId) -> bool {
        let Some(folder) = &self.cache_folder else { return false };
        std::fs::remove_file(folder.join("trees").join(id.to_string())).is_ok()
    }

    fn read_kept_pack(&self, pack: &PackInfo, range: &Range<u64>) -> Option<Vec<u8>> {
        use std::os::unix::fs::FileExt;
        let path = self.cache_folder.as_ref()?.join("trees").join(pack.id.to_string());
        let file = std::fs::File::open(path).ok()?;
        if file.metadata().ok()?.len() != pack.object_length {
            return None;
        }
        let mut bytes = vec![0; (range.end - range.start) as usize];
        file.read_exact_at(&mut bytes, range.start).ok()?;
        Some(bytes)
    }
}
