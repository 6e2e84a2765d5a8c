//! What is asked of one store: an object is read, made, measured, taken away.

use std::ops::Range;

use opendal::options::{ReadOptions, WriteOptions};
use opendal::{Buffer, ErrorKind, Metadata};

use super::error::{Kind, StoreError};
use super::faulty::{Call, FaultControl};
use super::traffic::Sort;
use super::{Created, Failed, Store, beside, check_name, into_vec, is_taken};

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

    pub(super) fn create_here(&self, name: &str, bytes: Vec<u8>) -> Result<Created, StoreError> {
        check_name(name)?;
        self.pass_guard()?;
        let buffer = Buffer::from(bytes);
        self.call(name, "create", Call::Create { bytes: buffer.len() as u64 }, || {
            let is_conditional = self.inner.is_conditional;
            if self.put(name, &buffer, is_conditional)? || self.holds(name, &buffer)? {
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
            self.operate(name, Sort::Delete, 0, || self.inner.operator.delete(name))??;
            Ok(())
        })
    }

    /// `true` when the object was made, `false` when the name was taken, perhaps by an attempt of our own whose
    /// reply was lost.
    pub(super) fn put(
        &self,
        name: &str,
        buffer: &Buffer,
        if_not_exists: bool,
    ) -> Result<bool, StoreError> {
        let operator = &self.inner.operator;
        let refusal = self.faults.as_ref().and_then(|faults| faults.refuses_overwriting(name));
        if let Some(refusal) = refusal
            && !if_not_exists
            && self.stat(name)?.is_some()
        {
            return Err(refusal);
        }
        let written = self.operate(name, Sort::Write, buffer.len() as u64, || {
            let moves = self.inner.moves;
            let buffer = buffer.clone();
            async move {
                if moves {
                    // Each attempt under a name of its own: the server may still be busy with the last one.
                    let beside = beside()?;
                    operator.write(&beside, buffer).await?;
                    return operator.rename(&beside, name).await;
                }
                let options = WriteOptions { if_not_exists, ..WriteOptions::default() };
                operator.write_options(name, buffer, options).await.map(drop)
            }
        })?;
        match written {
            Ok(()) => Ok(true),
            Err(failed) if is_taken(failed.kind) => Ok(false),
            Err(failed) => Err(failed.into()),
        }
    }

    /// Whether the object holds these bytes: then "already there" was our own doing. An object that
    /// is gone again was not ours.
    pub(super) fn holds(&self, name: &str, buffer: &Buffer) -> Result<bool, StoreError> {
        if self.stat(name)? != Some(buffer.len() as u64) {
            return Ok(false);
        }
        match self.read(name, ReadOptions::default())? {
            Ok(there) => Ok(there.to_bytes() == buffer.to_bytes()),
            Err(failed) if failed.kind == ErrorKind::NotFound => Ok(false),
            Err(failed) => Err(failed.into()),
        }
    }

    pub(super) fn stat(&self, name: &str) -> Result<Option<u64>, StoreError> {
        Ok(self.look(name)?.map(|metadata| metadata.content_length()))
    }

    fn look(&self, name: &str) -> Result<Option<Metadata>, StoreError> {
        match self.operate(name, Sort::Look, 0, || self.inner.operator.stat(name))? {
            Ok(metadata) => Ok(Some(metadata)),
            Err(failed) if failed.error.kind == Kind::NotFound => Ok(None),
            Err(failed) => Err(failed.into()),
        }
    }

    fn read(&self, name: &str, options: ReadOptions) -> Result<Result<Buffer, Failed>, StoreError> {
        let line = &self.inner.line;
        let read = self.operate(name, Sort::Read, 0, || {
            self.inner.operator.read_options(name, options.clone())
        })?;
        if let (Ok(buffer), false) = (&read, line.is_wired) {
            line.counters.download(buffer.len() as u64);
            line.pace(name, line.down_limit(), buffer.len() as u64)?;
        }
        Ok(read)
    }
}
