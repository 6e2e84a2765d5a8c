//! What is asked of one store: an object is read, made, measured, taken away.

use std::ops::Range;

use opendal::options::ReadOptions;
use opendal::{Buffer, ErrorKind};

use super::calls::into_vec;
use super::error::{Kind, StoreError};
use super::faulty::{Call, FaultControl};
use super::traffic::Sort;
use super::{Created, Store, check_name};

impl Store {
    pub(super) fn get_here(&self, name: &str) -> Result<Vec<u8>, StoreError> {
        check_name(name)?;
        let read = self.call(name, "get", Call::Read, || {
            Ok(into_vec(self.read(name, ReadOptions::default())??))
        });
        self.count_read(read)
    }

    fn count_read(&self, read: Result<Vec<u8>, StoreError>) -> Result<Vec<u8>, StoreError> {
        if let (Some(faults), Ok(bytes)) = (&self.faults, &read) {
            faults.count_read(bytes.len());
        }
        read
    }

    pub(super) fn get_range_here(
        &self,
        name: &str,
        range: Range<u64>,
    ) -> Result<Vec<u8>, StoreError> {
        check_name(name)?;
        if range.start > range.end {
            let reason = format!("the range {}..{} runs backwards", range.start, range.end);
            return Err(StoreError::new(Kind::Invalid, name, reason));
        }
        let read = self.call(name, "get", Call::Read, || {
            if range.is_empty() {
                // OpenDAL answers an empty range without asking whether the object is there.
                return match self.stat(name)? {
                    Some(size) if range.end <= size => Ok(Vec::new()),
                    Some(size) => Err(StoreError::truncated(name, size, range.end)),
                    None => Err(StoreError::not_found(name)),
                };
            }
            let options = ReadOptions { range: range.clone().into(), ..ReadOptions::default() };
            let complaint = match self.read(name, options)? {
                Ok(buffer) if buffer.len() as u64 == range.end - range.start => {
                    return Ok(into_vec(buffer));
                }
                Ok(buffer) => StoreError::new(
                    Kind::Unavailable,
                    name,
                    format!("{} bytes came for the range {range:?}", buffer.len()),
                ),
                // Asking for the size would come to the same.
                Err(failed) if failed.was_given_up || failed.kind == ErrorKind::NotFound => {
                    return Err(failed.error);
                }
                Err(failed) => failed.error,
            };
            // Services tell of a range beyond the end in many ways, or answer with less: the
            // object's size decides what it was.
            match self.stat(name) {
                Ok(Some(size)) if size < range.end => {
                    Err(StoreError::truncated(name, size, range.end))
                }
                _ => Err(complaint),
            }
        });
        self.count_read(read)
    }

    pub(super) fn create_here(
        &self,
        name: &str,
        bytes: impl Into<Buffer>,
    ) -> Result<Created, StoreError> {
        let buffer = bytes.into();
        check_name(name)?;
        self.require_lock()?;
        self.pass_guard_to_create(name)?;
        self.call(name, "create", Call::Create { bytes: buffer.len() as u64 }, || {
            let is_conditional = self.inner.is_conditional;
            if self.put(name, &buffer, is_conditional)? || self.holds(name, &buffer)? {
                self.note_lock(name);
                Ok(Created::New)
            } else {
                Ok(Created::AlreadyThere)
            }
        })
    }

    pub(super) fn size_here(&self, name: &str) -> Result<Option<u64>, StoreError> {
        check_name(name)?;
        self.call(name, "size", Call::Other, || self.stat(name))
    }

    pub(super) fn delete_here(&self, name: &str) -> Result<(), StoreError> {
        check_name(name)?;
        self.pass_guard()?;
        let bytes = match self.faults.as_ref().and_then(FaultControl::free_bytes) {
            Some(_) => self.stat(name)?.unwrap_or(0),
            None => 0,
        };
        let call = Call::Delete { bytes };
        self.call(name, "delete", call, || {
            self.operate(name, Sort::Delete, 0, || {
                let operator = self.inner.handle.operator();
                async move { operator.delete(name).await }
            })??;
            Ok(())
        })
    }
}
