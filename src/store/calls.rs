//! Calls: made on the caller's thread, repeated while that makes sense, and judged.

use std::cell::Cell;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use opendal::options::{ReadOptions, WriteOptions};
use opendal::{Buffer, ErrorKind, Metadata};
use tokio::runtime::Runtime;

use super::attempt::{ATTEMPT, Attempt};
use super::faulty::{Call, Verdict};
use super::line::Watched;
use super::traffic::Sort;
use super::{BESIDE, Kind, Store, StoreError};

/// A call that the store answered with an error, or that was given up.
pub(super) struct Failed {
    pub(super) kind: ErrorKind,
    pub(super) error: StoreError,
    // What a server answered, if it is known.
    pub(super) status: Option<u16>,
    // It might have passed, and did not.
    pub(super) was_given_up: bool,
}

impl From<Failed> for StoreError {
    fn from(failed: Failed) -> Self {
        failed.error
    }
}

impl Store {
    /// `true` when the object was made, `false` when the name was taken, perhaps by an attempt of our own whose
    /// reply was lost.
    pub(super) fn put(
        &self,
        name: &str,
        buffer: &Buffer,
        if_not_exists: bool,
    ) -> Result<bool, StoreError> {
        let locking = self.locking.as_ref().and_then(|locking| locking.operator(name));
        let refusal = self.faults.as_ref().and_then(|faults| faults.refuses_overwriting(name));
        if let Some(refusal) = refusal
            && !if_not_exists
            && self.stat(name)?.is_some()
        {
            return Err(refusal);
        }
        let written = self.operate(name, Sort::Write, buffer.len() as u64, || {
            let moves = self.inner.moves;
            let operator = locking.cloned().unwrap_or_else(|| self.inner.handle.operator());
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

    pub(super) fn look(&self, name: &str) -> Result<Option<Metadata>, StoreError> {
        let looked = self.operate(name, Sort::Look, 0, || {
            let operator = self.inner.handle.operator();
            async move {
                match self.inner.looks_loosely {
                    true => Store::look_closely(operator, name).await,
                    false => operator.stat(name).await,
                }
            }
        })?;
        match looked {
            Ok(metadata) => Ok(Some(metadata)),
            Err(failed) if failed.error.kind == Kind::NotFound => Ok(None),
            Err(failed) => Err(failed.into()),
        }
    }

    pub(super) fn read(
        &self,
        name: &str,
        options: ReadOptions,
    ) -> Result<Result<Buffer, Failed>, StoreError> {
        let line = &self.inner.line;
        let read = self.operate(name, Sort::Read, 0, || {
            let (operator, options) = (self.inner.handle.operator(), options.clone());
            async move { operator.read_options(name, options).await }
        })?;
        if let (Ok(buffer), false) = (&read, line.is_wired) {
            line.counters.download(buffer.len() as u64);
            line.pace(name, line.down_limit(), buffer.len() as u64)?;
        }
        Ok(read)
    }

    /// Asks the store, again and again while that makes sense. `Err`: there is no answer to think about.
    pub(super) fn operate<T, F>(
        &self,
        name: &str,
        sort: Sort,
        sent_bytes: u64,
        make: impl Fn() -> F,
    ) -> Result<Result<T, Failed>, StoreError>
    where
        F: Future<Output = opendal::Result<T>>,
    {
        let line = &self.inner.line;
        if !line.is_wired {
            line.counters.count(sort);
            line.counters.upload(sent_bytes);
            // What only asks does not wait for what was sent.
            if sent_bytes > 0 {
                line.pace(name, line.up_limit(), sent_bytes)?;
            }
        }
        if line.patience.is_none() {
            let result = self.block_on(name, make())?;
            return Ok(result.map_err(|error| Failed {
                kind: error.kind(),
                error: StoreError::from_opendal(name, &error),
                status: None,
                was_given_up: false,
            }));
        }
        let mut failing_since = None;
        let (mut tries, mut denials) = (0, 0);
        loop {
            line.may_begin(name)?;
            let generation = self.inner.handle.generation();
            let attempt = Arc::new(Attempt::default());
            let turn = Cell::new(None);
            let watched = line.watch(&attempt, sent_bytes, &turn, make());
            let error = match self.block_on(name, ATTEMPT.scope(attempt.clone(), watched))? {
                Watched::Ended(Ok(value)) => {
                    line.has_answered.store(true, Ordering::Relaxed);
                    return Ok(Ok(value));
                }
                Watched::Ended(Err(error)) => error,
                Watched::Silent(quiet) => {
                    let reason = format!("nothing came for {} s", quiet.as_secs());
                    opendal::Error::new(ErrorKind::Unexpected, reason).set_temporary()
                }
                Watched::Stopped => return Err(StoreError::interrupted(name)),
            };
            if attempt.status().is_some() {
                line.has_answered.store(true, Ordering::Relaxed);
            }
            if attempt.status() == Some(401) {
                self.inner.handle.renew(generation);
            }
            tries += 1;
            denials += u32::from(error.kind() == ErrorKind::PermissionDenied);
            let since = line.failing_since(failing_since, &attempt, turn.get());
            failing_since = Some(since);
            let failing_for = line.clock.elapsed().saturating_sub(since);
            let explained = line.explain(name, &error, &attempt);
            match line.consider(&error, &attempt, tries, denials, failing_for) {
                Some(wait) => line.wait(name, wait, &explained.message)?,
                None => {
                    let was_given_up = tries > 1 || line.is_wired && attempt.status().is_none();
                    let explained = line.give_up(explained, &attempt, tries);
                    let (kind, status) = (error.kind(), attempt.status());
                    return Ok(Err(Failed { kind, error: explained, status, was_given_up }));
                }
            }
        }
    }

    /// Nothing is written before the store has shown what the repository relies on.
    pub(super) fn pass_guard(&self) -> Result<(), StoreError> {
        match &self.guard {
            Some(guard) => guard.pass(self),
            None => Ok(()),
        }
    }

    /// The same before a create, unless this name is excused.
    pub(super) fn pass_guard_to_create(&self, name: &str) -> Result<(), StoreError> {
        match &self.guard {
            Some(guard) if !guard.is_excused(name) => guard.pass(self),
            _ => Ok(()),
        }
    }

    /// Does `effect`, or what the faults say instead.
    pub(super) fn call<T>(
        &self,
        name: &str,
        verb: &'static str,
        call: Call,
        effect: impl Fn() -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let Some(faults) = &self.faults else { return effect() };
        match faults.judge(name, verb, call) {
            Verdict::Pass => effect(),
            Verdict::Refuse(error) => Err(error),
            Verdict::StopAfter(error) => effect().and(Err(error)),
            // What a retry does when the first reply never came.
            Verdict::LoseReply => effect().and_then(|_| effect()),
        }
    }

    /// Runs `work` on the calling thread; the runtime's own threads only keep time and sockets. So
    /// a local store's system calls block the caller and nobody else.
    pub(super) fn block_on<T>(
        &self,
        name: &str,
        work: impl Future<Output = T>,
    ) -> Result<T, StoreError> {
        Ok(self.runtime(name)?.block_on(work))
    }

    fn runtime(&self, name: &str) -> Result<&Runtime, StoreError> {
        if let Some(runtime) = self.inner.runtime.get() {
            return Ok(runtime);
        }
        let built = start_runtime(name)?;
        Ok(self.inner.runtime.get_or_init(|| built))
    }

    /// Begins to connect where that takes long, for whoever has something else to do before its first call. Waits for
    /// nothing, asks nobody anything, and if it fails, the first call connects.
    pub fn connect_early(&self) {
        if let Some(connect) = &self.inner.connect_early
            && let Ok(runtime) = self.runtime(&self.inner.line.location)
        {
            let _entered = runtime.enter();
            connect();
        }
    }
}

pub(super) fn start_runtime(name: &str) -> Result<Runtime, StoreError> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("store")
        .enable_all()
        .build()
        .map_err(|error| {
            let reason = format!("cannot start the store's threads: {error}");
            StoreError::new(Kind::Unavailable, name, reason)
        })
}

/// A name in [`BESIDE`] that nobody has used.
fn beside() -> opendal::Result<String> {
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(|_| {
        opendal::Error::new(ErrorKind::Unexpected, "the system gives no randomness")
    })?;
    Ok(format!("{BESIDE}{:032x}", u128::from_le_bytes(random)))
}

/// The ways in which services say that a create found the name taken.
fn is_taken(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::ConditionNotMatch | ErrorKind::AlreadyExists)
}

/// The buffer's bytes: taken over where nobody else holds them, else copied once.
pub(super) fn into_vec(buffer: Buffer) -> Vec<u8> {
    let bytes = buffer.to_bytes();
    // The last other owner has to go first, or the conversion would have to copy.
    drop(buffer);
    bytes.into()
}
