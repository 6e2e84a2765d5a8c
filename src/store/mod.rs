//! Named bytes somewhere: create-if-absent, read, list, delete, and nothing else. This room knows
//! neither packs nor keys, only names and bytes that mean nothing to it.

mod access;
mod attempt;
mod calls;
#[cfg(any(test, feature = "testing"))]
#[doc(hidden)]
pub mod conformance;
mod direct;
mod error;
mod faulty;
mod handle;
mod here;
pub mod layout;
mod line;
mod listing;
mod local;
pub mod location;
mod object_lock;
#[cfg(test)]
mod odd;
mod open;
pub mod probe;
mod rate;
#[cfg(test)]
mod remote_tests;
#[cfg(feature = "s3")]
mod s3_lock;
mod several;
#[cfg(feature = "sftp")]
mod sftp;
mod spare;
mod tiers;
mod traffic;
#[cfg(feature = "http")]
mod wire;

use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use opendal::layers::RetryLayer;
use opendal::{Buffer, OperationContext, Operator};
use parking_lot::Mutex;
use tokio::runtime::Runtime;

pub use self::access::Access;
use self::calls::into_vec;
pub use self::error::{Kind, StoreError};
pub use self::faulty::{Effect, FaultControl};
use self::handle::Handle;
use self::line::Line;
pub use self::line::Patience;
use self::local::LocalService;
#[cfg(not(feature = "s3"))]
use self::object_lock::LockKit;
use self::object_lock::Locking;
pub use self::object_lock::{LockMode, ObjectLock};
pub use self::probe::Capabilities;
use self::probe::Guard;
#[cfg(feature = "s3")]
use self::s3_lock::LockKit;
use self::several::Several;
pub use self::several::{PassedOver, Proof, Trouble, Unopened};
#[cfg(feature = "sftp")]
use self::sftp::SftpService;
#[cfg(feature = "sftp")]
pub use self::sftp::{SftpAddress, SftpOptions};
pub use self::spare::give_back;
use self::tiers::Tiers;
pub use self::tiers::{Cold, Gaps, NotThawed, Thaw};
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
    locking: Option<Arc<Locking>>,
    // There is a cold store beside it; it is the hot one.
    tiers: Option<Arc<Tiers>>,
    // There are other stores of the same objects; it is the main one.
    several: Option<Arc<Several>>,
}

/// Who answers a call.
enum Way<'s> {
    /// Several stores of the same objects, of which this is the main one.
    Several,
    /// This one, which is the hot one, and a cold one.
    Tiers(&'s Tiers),
    /// This one alone.
    Here,
}

struct Inner {
    handle: Arc<Handle>,
    line: Arc<Line>,
    // The place and whatever else says which store it is: the account, the server. No secret.
    identity: String,
    lists_cheaply: bool,
    // It is known to list names in their order, folders and all.
    lists_in_order: bool,
    is_disk: bool,
    is_conditional: bool,
    // Its look takes whatever begins with the name for the object.
    looks_loosely: bool,
    // So many names are asked for at once; `None`: as many as it gives.
    page: Option<usize>,
    // A whole object cannot be written in one step: it is written beside and moved.
    moves: bool,
    // Somebody else's server, of which a probe has to find out what it does.
    is_unproven: bool,
    // What object locks go by, where there are any, and which mode somebody wants them to have.
    lock_kit: Option<Arc<LockKit>>,
    lock_mode: Option<LockMode>,
    // Begins to connect, in the runtime, where that takes more than a round trip or two.
    connect_early: Option<Arc<dyn Fn() + Send + Sync>>,
    // Started by the first call, so that a store which is only opened costs no threads. Connections live in it.
    runtime: Arc<OnceLock<Runtime>>,
}

impl Inner {
    fn new(operator: Operator, line: Line) -> Self {
        Inner::sharing(Handle::new(operator, None), Arc::new(line))
    }

    fn sharing(handle: Handle, line: Arc<Line>) -> Self {
        Inner {
            // Of services over a network, `open` knows which do.
            lists_in_order: handle.operator().info().scheme() == "memory",
            identity: line.location.clone(),
            handle: Arc::new(handle),
            line,
            lists_cheaply: false,
            is_disk: false,
            is_conditional: true,
            looks_loosely: false,
            page: None,
            moves: false,
            is_unproven: false,
            lock_kit: None,
            lock_mode: None,
            connect_early: None,
            runtime: Arc::default(),
        }
    }

    /// One over the same service and the same line, with the same connections.
    fn like(&self) -> Self {
        Inner {
            handle: self.handle.clone(),
            line: self.line.clone(),
            identity: self.identity.clone(),
            lists_cheaply: self.lists_cheaply,
            lists_in_order: self.lists_in_order,
            is_disk: self.is_disk,
            is_conditional: self.is_conditional,
            looks_loosely: self.looks_loosely,
            page: self.page,
            moves: self.moves,
            is_unproven: self.is_unproven,
            lock_kit: self.lock_kit.clone(),
            lock_mode: self.lock_mode,
            connect_early: self.connect_early.clone(),
            runtime: self.runtime.clone(),
        }
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
        let early = service.clone();
        let operator = Operator::from_parts(OperationContext::default(), Arc::new(service));
        Ok(Store::of(Inner {
            connect_early: Some(Arc::new(move || early.connect_early())),
            ..Inner::new(operator, access.line(location, true))
        }))
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
        let inner = Arc::new(inner);
        Store { inner, faults: None, guard: None, locking: None, tiers: None, several: None }
    }

    fn way(&self) -> Way<'_> {
        match (&self.several, &self.tiers) {
            (Some(_), _) => Way::Several,
            (None, Some(tiers)) => Way::Tiers(tiers),
            (None, None) => Way::Here,
        }
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

    /// Lets an object of this name be created before a probe has found anything. Only for what would do no harm on a store
    /// that does less than it should: under a name that was never used before, and with nothing in it that is relied on.
    pub fn excuse(&self, name: &str) {
        if let Some(guard) = &self.guard {
            guard.excuse(name);
        }
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
        let here = self.inner.line.counters.snapshot();
        match &self.tiers {
            None => here,
            Some(tiers) => here.with(&tiers.traffic()),
        }
    }

    /// Where this is, for people.
    pub fn location(&self) -> &str {
        &self.inner.line.location
    }

    /// What tells this store from others: where it is, and what a location leaves to the environment (the account, the
    /// server). No secret is in it. For whoever remembers something of a store.
    pub fn identity(&self) -> &str {
        match &self.tiers {
            None => &self.inner.identity,
            Some(tiers) => &tiers.identity,
        }
    }

    #[cfg(feature = "sftp")]
    fn identified_as(self, identity: &str) -> Store {
        let inner = self.inner.like();
        Store { inner: Arc::new(Inner { identity: identity.to_string(), ..inner }), ..self }
    }

    /// The same store for one of those that race: it does not wait for its turn.
    fn for_a_runner(&self) -> Store {
        let line = Arc::new(self.inner.line.for_a_runner());
        Store { inner: Arc::new(Inner { line, ..self.inner.like() }), ..self.clone() }
    }

    /// Whether listing every object costs next to nothing, as on a disk, and nothing is charged for it.
    pub fn lists_cheaply(&self) -> bool {
        let is_far = |tiers: &Arc<Tiers>| !tiers.list_cheaply();
        self.inner.lists_cheaply && !self.tiers.as_ref().is_some_and(is_far)
    }

    /// How many calls are made at once to a store over a network, where each takes a round trip; `None` elsewhere. Of
    /// several, to the one that is asked first.
    pub fn connections(&self) -> Option<usize> {
        if let Way::Several = self.way() {
            return self.leading().connections();
        }
        let line = &self.inner.line;
        let here = line.patience.map(|_| line.connections);
        here.or_else(|| self.tiers.as_ref().and_then(|tiers| tiers.connections()))
    }

    /// Whether two questions are better asked at once than one after the other: each takes a round trip.
    pub fn answers_at_once(&self) -> bool {
        self.connections().is_some_and(|connections| connections > 1)
    }

    /// Does both: at once where that saves a round trip, and elsewhere the second one after the first, if that succeeds.
    ///
    /// # Errors
    ///
    /// The first one's, or else the second one's.
    pub fn both<A, B: Send, E: Send>(
        &self,
        first: impl FnOnce() -> Result<A, E>,
        second: impl FnOnce() -> Result<B, E> + Send,
    ) -> Result<(A, B), E> {
        if !self.answers_at_once() {
            return Ok((first()?, second()?));
        }
        // Taken by whoever comes to it: a thread, or, where none can be started, this one.
        let second = Mutex::new(Some(second));
        let run = || second.lock().take().map(|second| second());
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().spawn_scoped(scope, run);
            let first = first();
            let joined = thread.ok().map(|thread| thread.join());
            let second = match joined {
                Some(Ok(second)) => second,
                Some(Err(panic)) => std::panic::resume_unwind(panic),
                None => run(),
            };
            Ok((first?, second.expect("who takes it away runs it, and only one of the two does")?))
        })
    }

    /// Whether it is a disk of this machine, which may be full; of two stores, the hot one.
    pub fn is_disk(&self) -> bool {
        self.inner.is_disk
    }

    /// The whole object.
    ///
    /// # Errors
    ///
    /// [`Kind::NotFound`] when there is none.
    pub fn get(&self, name: &str) -> Result<Vec<u8>, StoreError> {
        match self.way() {
            Way::Several => self.get_of_several(name),
            Way::Tiers(tiers) => tiers.get(self, name),
            Way::Here => self.get_here(name),
        }
    }

    /// Exactly the bytes of `range`.
    ///
    /// # Errors
    ///
    /// [`Kind::NotFound`] when there is no such object, [`Kind::Truncated`] when it ends before the
    /// range does (an empty range, too, must lie inside).
    pub fn get_range(&self, name: &str, range: Range<u64>) -> Result<Vec<u8>, StoreError> {
        match self.way() {
            Way::Several => self.get_range_of_several(name, range),
            Way::Tiers(tiers) => tiers.get_range(self, name, range),
            Way::Here => self.get_range_here(name, range),
        }
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
        match self.way() {
            Way::Several => self.main(name)?.create(name, bytes),
            Way::Tiers(tiers) => {
                self.require_lock()?;
                tiers.create(self, name, bytes)
            }
            Way::Here => self.create_here(name, bytes),
        }
    }

    /// Like [`Store::create`] for the bytes from `start` on; on a disk the memory is left behind, to be used again, with
    /// anything in it.
    pub fn create_from(
        &self,
        name: &str,
        memory: &mut Vec<u8>,
        start: usize,
    ) -> Result<Created, StoreError> {
        let mut taken = std::mem::take(memory);
        if !self.leaves_memory() {
            taken.drain(..start);
            return self.create(name, taken);
        }
        let buffer = Buffer::from(taken);
        let created = self.create_here(name, buffer.slice(start..));
        *memory = into_vec(buffer);
        created
    }

    /// What should divide the address of an object's first byte, so that [`Store::create_from`] need not copy it; 1: it makes
    /// no difference.
    pub fn alignment(&self) -> usize {
        if self.leaves_memory() { direct::BLOCK } else { 1 }
    }

    fn leaves_memory(&self) -> bool {
        matches!(self.way(), Way::Here) && self.is_disk()
    }

    /// An object's length in bytes, or `None` when there is no such object.
    pub fn size(&self, name: &str) -> Result<Option<u64>, StoreError> {
        match self.way() {
            Way::Several => self.size_of_several(name),
            Way::Tiers(tiers) => tiers.size(self, name),
            Way::Here => self.size_here(name),
        }
    }

    /// Removes an object. That it is not there is fine.
    pub fn delete(&self, name: &str) -> Result<(), StoreError> {
        match self.way() {
            Way::Several => self.main(name)?.delete(name),
            Way::Tiers(tiers) => tiers.delete(self, name),
            Way::Here => self.delete_here(name),
        }
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Store({})", self.location())
    }
}

fn check_name(name: &str) -> Result<(), StoreError> {
    if layout::is_name(name) {
        Ok(())
    } else {
        Err(StoreError::new(Kind::Invalid, name, "no object can have this name"))
    }
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
