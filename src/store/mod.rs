//! Named bytes somewhere: create-if-absent, read, list, delete, and nothing else. This room knows
//! neither packs nor keys, only names and bytes that mean nothing to it.

mod access;
mod attempt;
#[cfg(any(test, feature = "testing"))]
#[doc(hidden)]
pub mod conformance;
mod error;
mod faulty;
pub mod layout;
mod line;
mod listing;
mod local;
pub mod location;
#[cfg(test)]
mod odd;
mod open;
pub mod probe;
mod rate;
#[cfg(test)]
mod remote_tests;
mod several;
#[cfg(feature = "sftp")]
mod sftp;
mod traffic;
#[cfg(feature = "http")]
mod wire;

use std::cell::Cell;
use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use opendal::layers::RetryLayer;
use opendal::options::{ReadOptions, WriteOptions};
use opendal::{Buffer, ErrorKind, Metadata, OperationContext, Operator};
use tokio::runtime::Runtime;

pub use self::access::Access;
use self::attempt::{ATTEMPT, Attempt};
pub use self::error::{Kind, StoreError};
use self::faulty::{Call, Verdict};
pub use self::faulty::{Effect, FaultControl};
pub use self::line::Patience;
use self::line::{Line, Watched};
use self::local::LocalService;
pub use self::probe::Capabilities;
use self::probe::Guard;
use self::several::Several;
pub use self::several::{PassedOver, Proof, Trouble, Unopened};
#[cfg(feature = "sftp")]
use self::sftp::SftpService;
#[cfg(feature = "sftp")]
pub use self::sftp::{SftpAddress, SftpOptions};
use self::traffic::Sort;
pub use self::traffic::Traffic;
use crate::units::Timestamp;

/// Where objects are written that are moved to their names afterwards; never listed. The local store has a folder of
/// that name for the same.
const BESIDE: &str = "tmp/";

/// Whether [`Store::local`] makes its directory or expects it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LocalMode {
    /// Make the directory, and those above it, where they are missing.
    Create,
    /// The directory must be there.
    Open,
}

/// What [`Store::create`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Created {
    /// The object holds the bytes that were given.
    New,
    /// The name was taken by other bytes, which stay as they are.
    AlreadyThere,
}

/// One object in a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectInfo {
    /// The whole name, folder included.
    pub name: String,
    /// Its length in bytes.
    pub size: u64,
    /// When it was last written, as the store has it; `None` where the store does not tell. Objects are
    /// written once, so it is when this store first had it, unless the store was copied.
    pub modified: Option<Timestamp>,
}

/// Named bytes somewhere. Clones share one connection.
///
/// Every method waits until it is done and may be called from any plain thread or rayon worker, but
/// not from inside an async runtime. Names are folders and a last part joined by `/`, each of
/// letters, digits, `.`, `-` and `_`; see [`layout`]. No object is ever changed: it is created
/// once, read, and perhaps deleted.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
    faults: Option<FaultControl>,
    guard: Option<Arc<Guard>>,
    several: Option<Arc<Several>>,
}

struct Inner {
    operator: Operator,
    line: Arc<Line>,
    // The place and whatever else says which store it is: the account, the server. No secret.
    identity: String,
    lists_cheaply: bool,
    // It is known to list names in their order, folders and all.
    lists_in_order: bool,
    is_disk: bool,
    is_conditional: bool,
    // A whole object cannot be written in one step: it is written beside and moved.
    moves: bool,
    // Somebody else's server, of which a probe has to find out what it does.
    is_unproven: bool,
    // Started by the first call, so that a store which is only opened costs no threads. Connections live in it.
    runtime: Arc<OnceLock<Runtime>>,
}

impl Inner {
    fn new(operator: Operator, line: Line) -> Self {
        Inner::sharing(operator, Arc::new(line))
    }

    fn sharing(operator: Operator, line: Arc<Line>) -> Self {
        Inner {
            // Of services over a network, `open` knows which do.
            lists_in_order: operator.info().scheme() == "memory",
            identity: line.location.clone(),
            operator,
            line,
            lists_cheaply: false,
            is_disk: false,
            is_conditional: true,
            moves: false,
            is_unproven: false,
            runtime: Arc::default(),
        }
    }

    /// One over the same service and the same line, with the same connections.
    fn like(&self) -> Self {
        Inner {
            operator: self.operator.clone(),
            line: self.line.clone(),
            identity: self.identity.clone(),
            lists_cheaply: self.lists_cheaply,
            lists_in_order: self.lists_in_order,
            is_disk: self.is_disk,
            is_conditional: self.is_conditional,
            moves: self.moves,
            is_unproven: self.is_unproven,
            runtime: self.runtime.clone(),
        }
    }
}

/// A call that the store answered with an error, or that was given up.
struct Failed {
    kind: ErrorKind,
    error: StoreError,
    // What a server answered, if it is known.
    status: Option<u16>,
    // It might have passed, and did not.
    was_given_up: bool,
}

impl From<Failed> for StoreError {
    fn from(failed: Failed) -> Self {
        failed.error
    }
}

impl Store {
    /// A directory of this machine. What is promised on which file system stands at the head of
    /// `store/local.rs`. Left-overs of writers that died are removed.
    ///
    /// # Errors
    ///
    /// [`Kind::NotFound`] when the directory is absent and `mode` is [`LocalMode::Open`];
    /// [`Kind::Invalid`] when something that is not a directory stands there.
    pub fn local(path: &Path, mode: LocalMode) -> Result<Store, StoreError> {
        open::open_local(path, &Access::default(), mode)
    }

    fn over_local(service: LocalService, line: Line) -> Store {
        // Only what passes by itself is marked temporary (see `local::is_passing`), and that is
        // gone in milliseconds or stays.
        let retry = RetryLayer::new()
            .with_jitter()
            .with_min_delay(Duration::from_millis(20))
            .with_max_times(3);
        let operator = Operator::from_parts(OperationContext::default(), Arc::new(service));
        let inner = Inner::new(operator.layer(retry), line);
        Store::of(Inner { lists_cheaply: true, is_disk: true, ..inner })
    }

    /// A directory of another machine, over the system's `ssh`. What is promised with which server stands at the head of
    /// `store/sftp.rs`. The first call connects.
    ///
    /// # Errors
    ///
    /// [`Kind::Invalid`] when no host or user can have the name.
    #[cfg(feature = "sftp")]
    pub fn sftp(address: SftpAddress, options: SftpOptions) -> Result<Store, StoreError> {
        Store::sftp_with(address, options, &Access::default())
    }

    /// The same, with bounds, a clock and somebody who listens.
    #[cfg(feature = "sftp")]
    fn sftp_with(
        address: SftpAddress,
        options: SftpOptions,
        access: &Access,
    ) -> Result<Store, StoreError> {
        let location = address.to_string();
        let service = SftpService::open(address, options)
            .map_err(|error| StoreError::from_opendal(&location, &error))?;
        let operator = Operator::from_parts(OperationContext::default(), Arc::new(service));
        Ok(Store::remote_with(operator, location, access))
    }

    /// A store in memory, empty, gone with its last clone.
    pub fn memory() -> Store {
        let operator = Operator::new(opendal::services::Memory::default())
            .expect("the memory service has no option that could be wrong");
        Store::direct(operator, "memory", true)
    }

    /// A store that OpenDAL reaches over a network: calls are given up after a time and tried
    /// again. `location` is for people. The service must know how to create if absent.
    pub fn remote(operator: Operator, location: impl Into<String>) -> Store {
        Store::remote_with(operator, location, &Access::default())
    }

    /// The same, with bounds, a clock and somebody who listens.
    pub fn remote_with(operator: Operator, location: impl Into<String>, access: &Access) -> Store {
        Store::of(Inner::new(operator, access.line(location.into(), true)))
    }

    /// The same store, of which only a [probe](Store::probe) tells what it does: it is somebody else's server.
    pub fn unproven(self) -> Store {
        let inner = self.inner.like();
        Store { inner: Arc::new(Inner { is_unproven: true, ..inner }), ..self }
    }

    /// A store over a service that needs neither time-outs nor retries: a simulated one.
    pub fn direct(operator: Operator, location: impl Into<String>, lists_cheaply: bool) -> Store {
        let line = Access::default().line(location.into(), false);
        let inner = Inner::new(operator, line);
        let lists_in_order = inner.lists_in_order && !lists_cheaply;
        Store::of(Inner { lists_cheaply, lists_in_order, ..inner })
    }

    fn of(inner: Inner) -> Store {
        Store { inner: Arc::new(inner), faults: None, guard: None, several: None }
    }

    /// The same objects, in a store that cannot create if absent: [`Store::create`] writes whatever is there.
    pub fn without_conditions(self) -> Store {
        let inner = self.inner.like();
        Store { inner: Arc::new(Inner { is_conditional: false, ..inner }), ..self }
    }

    /// Whether [`Store::create`] tells who of several was first. Where it does not, an object that is there is
    /// written over, and the protocol's second form is used.
    pub fn is_conditional(&self) -> bool {
        self.inner.is_conditional
    }

    /// Whether only a [probe](Store::probe) tells what this store does: it is somebody else's server.
    pub fn is_unproven(&self) -> bool {
        self.inner.is_unproven
    }

    /// The same store, to which nothing is written before a probe has found what the repository relies on. `nonce`
    /// was never used before.
    pub fn guarded(self, needs_conditions: bool, nonce: &str) -> Store {
        let guard = Guard::new(needs_conditions, nonce);
        Store { guard: Some(Arc::new(guard)), ..self }
    }

    /// The same store, of which a probe has just found this.
    pub fn proven(self, found: Capabilities) -> Store {
        Store { guard: Some(Arc::new(Guard::passed(found))), ..self }
    }

    /// Whether a probe stands, or stood, before the first write.
    pub fn is_guarded(&self) -> bool {
        self.guard.is_some()
    }

    /// What the probe before the first write has found; `None` where there was none.
    pub fn probed(&self) -> Option<Capabilities> {
        self.guard.as_ref()?.found()
    }

    /// The same store, with every call asked of `control` first: for tests.
    pub fn with_faults(self, control: FaultControl) -> Store {
        Store { faults: Some(control), ..self }
    }

    /// What has gone over the line so far.
    pub fn traffic(&self) -> Traffic {
        self.inner.line.counters.snapshot()
    }

    /// Where this is, for people.
    pub fn location(&self) -> &str {
        &self.inner.line.location
    }

    /// What tells this store from others: where it is, and what a location leaves to the environment (the account, the
    /// server). No secret is in it. For whoever remembers something of a store.
    pub fn identity(&self) -> &str {
        &self.inner.identity
    }

    #[cfg(feature = "sftp")]
    fn identified_as(self, identity: &str) -> Store {
        let inner = self.inner.like();
        Store { inner: Arc::new(Inner { identity: identity.to_string(), ..inner }), ..self }
    }

    /// The same store for so many calls that race: none of them waits for its turn.
    fn for_races(&self, runners: usize) -> Store {
        let line = Arc::new(self.inner.line.for_races(runners));
        Store { inner: Arc::new(Inner { line, ..self.inner.like() }), ..self.clone() }
    }

    /// Whether listing every object costs next to nothing, as on a disk, and nothing is charged for it.
    pub fn lists_cheaply(&self) -> bool {
        self.inner.lists_cheaply
    }

    /// Whether it is a disk of this machine, which may be full.
    pub fn is_disk(&self) -> bool {
        self.inner.is_disk
    }

    /// The whole object.
    ///
    /// # Errors
    ///
    /// [`Kind::NotFound`] when there is none.
    pub fn get(&self, name: &str) -> Result<Vec<u8>, StoreError> {
        check_name(name)?;
        if self.has_mirrors() {
            return self.get_of_several(name);
        }
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

    /// Exactly the bytes of `range`.
    ///
    /// # Errors
    ///
    /// [`Kind::NotFound`] when there is no such object, [`Kind::Truncated`] when it ends before the
    /// range does (an empty range, too, must lie inside).
    pub fn get_range(&self, name: &str, range: Range<u64>) -> Result<Vec<u8>, StoreError> {
        check_name(name)?;
        if range.start > range.end {
            let reason = format!("the range {}..{} runs backwards", range.start, range.end);
            return Err(StoreError::new(Kind::Invalid, name, reason));
        }
        if self.has_mirrors() {
            return self.get_range_of_several(name, range);
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

    /// Makes an object, unless the name is taken. It appears whole or not at all, and is durable
    /// when this returns. One of any number of racing calls gets [`Created::New`]; so does every
    /// call whose bytes are the very same, because a repeated request whose first reply was lost
    /// cannot be told from those.
    ///
    /// # Errors
    ///
    /// [`Kind::Full`], [`Kind::Denied`]; after [`Kind::Unavailable`] the object may or may not be
    /// there.
    pub fn create(&self, name: &str, bytes: Vec<u8>) -> Result<Created, StoreError> {
        check_name(name)?;
        self.require_main(name)?;
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

    /// An object's length in bytes, or `None` when there is no such object.
    pub fn size(&self, name: &str) -> Result<Option<u64>, StoreError> {
        check_name(name)?;
        if self.has_mirrors() {
            return self.size_of_several(name);
        }
        self.call(name, "size", Call::Other, || self.stat(name))
    }

    /// Removes an object. That it is not there is fine.
    pub fn delete(&self, name: &str) -> Result<(), StoreError> {
        check_name(name)?;
        self.require_main(name)?;
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
    fn put(&self, name: &str, buffer: &Buffer, if_not_exists: bool) -> Result<bool, StoreError> {
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
    fn holds(&self, name: &str, buffer: &Buffer) -> Result<bool, StoreError> {
        if self.stat(name)? != Some(buffer.len() as u64) {
            return Ok(false);
        }
        match self.read(name, ReadOptions::default())? {
            Ok(there) => Ok(there.to_bytes() == buffer.to_bytes()),
            Err(failed) if failed.kind == ErrorKind::NotFound => Ok(false),
            Err(failed) => Err(failed.into()),
        }
    }

    fn stat(&self, name: &str) -> Result<Option<u64>, StoreError> {
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

    /// Asks the store, again and again while that makes sense. `Err`: there is no answer to think about.
    fn operate<T, F>(
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
        let mut tries = 0;
        loop {
            line.may_begin(name)?;
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
            tries += 1;
            let since = line.failing_since(failing_since, &attempt, turn.get());
            failing_since = Some(since);
            let failing_for = line.clock.elapsed().saturating_sub(since);
            let explained = line.explain(name, &error, &attempt);
            match line.consider(&error, &attempt, tries, failing_for) {
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
    fn pass_guard(&self) -> Result<(), StoreError> {
        match &self.guard {
            Some(guard) => guard.pass(self),
            None => Ok(()),
        }
    }

    /// Does `effect`, or what the faults say instead.
    fn call<T>(
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
    fn block_on<T>(&self, name: &str, work: impl Future<Output = T>) -> Result<T, StoreError> {
        let runtime = match self.inner.runtime.get() {
            Some(runtime) => runtime,
            None => {
                let built = start_runtime(name)?;
                self.inner.runtime.get_or_init(|| built)
            }
        };
        Ok(runtime.block_on(work))
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Store({})", self.location())
    }
}

fn start_runtime(name: &str) -> Result<Runtime, StoreError> {
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

fn check_name(name: &str) -> Result<(), StoreError> {
    if layout::is_name(name) {
        Ok(())
    } else {
        Err(StoreError::new(Kind::Invalid, name, "no object can have this name"))
    }
}

/// The buffer's bytes: taken over where nobody else holds them, else copied once.
fn into_vec(buffer: Buffer) -> Vec<u8> {
    let bytes = buffer.to_bytes();
    // The last other owner has to go first, or the conversion would have to copy.
    drop(buffer);
    bytes.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_store_conforms() {
        conformance::check(&Store::memory());
    }

    #[test]
    fn remote_store_conforms() {
        let operator = Operator::new(opendal::services::Memory::default()).unwrap();
        conformance::check(&Store::remote(operator, "memory, as if far away"));
    }

    #[test]
    fn clones_share_their_content() {
        let store = Store::memory();
        store.clone().create("config", b"one".to_vec()).unwrap();
        assert_eq!(store.get("config").unwrap(), b"one");
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        let store = Store::memory();
        for name in ["", "/config", "../config", "keys/../config", "keys//a", "keys/", ".a", "a b"]
        {
            assert_eq!(store.get(name).unwrap_err().kind, Kind::Invalid, "{name:?}");
            assert_eq!(store.create(name, vec![1]).unwrap_err().kind, Kind::Invalid, "{name:?}");
        }
        for prefix in ["/", "..", "../", "packs/../", "packs//"] {
            assert_eq!(store.list(prefix).unwrap_err().kind, Kind::Invalid, "{prefix:?}");
        }
    }

    #[test]
    fn reading_takes_the_bytes_over_without_a_copy() {
        let bytes = vec![7; 1 << 20];
        let address = bytes.as_ptr();
        let bytes = into_vec(Buffer::from(bytes));
        assert_eq!(bytes.as_ptr(), address);
    }
}
