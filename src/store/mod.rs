//! Named bytes somewhere: create-if-absent, read, list, delete, and nothing else. This room knows
//! neither packs nor keys, only names and bytes that mean nothing to it.

#[cfg(any(test, feature = "testing"))]
#[doc(hidden)]
pub mod conformance;
mod error;
mod faulty;
pub mod layout;
mod local;

use std::fmt;
use std::future::poll_fn;
use std::ops::Range;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_core::Stream;
use opendal::layers::{RetryLayer, TimeoutLayer};
use opendal::options::{ListOptions, ReadOptions, WriteOptions};
use opendal::{Buffer, Entry, ErrorKind, Metadata, OperationContext, Operator};
use tokio::runtime::Runtime;

pub use self::error::{Kind, StoreError};
use self::faulty::{Call, Verdict};
pub use self::faulty::{Effect, FaultControl};
use self::local::LocalService;
use crate::units::Timestamp;

/// How many names more than expected a page of a listing of several folders has room for.
const PAGE_MARGIN: usize = 100;
/// How many names a page has at most: no service gives more.
const PAGE_MOST: usize = 1000;

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
}

struct Inner {
    operator: Operator,
    location: String,
    lists_cheaply: bool,
    lists_in_order: bool,
    is_disk: bool,
    is_conditional: bool,
    // Started by the first call, so that a store which is only opened costs no threads.
    runtime: OnceLock<Runtime>,
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
        let location = path.display().to_string();
        let service = LocalService::open(path, mode)
            .map_err(|error| StoreError::from_opendal(&location, &error))?;
        Ok(Store::over_local(service, location))
    }

    fn over_local(service: LocalService, location: String) -> Store {
        // Only what passes by itself is marked temporary (see `local::is_passing`), and that is
        // gone in milliseconds or stays.
        let retry = RetryLayer::new()
            .with_jitter()
            .with_min_delay(Duration::from_millis(20))
            .with_max_times(3);
        let operator = Operator::from_parts(OperationContext::default(), Arc::new(service));
        let inner = Inner {
            operator: operator.layer(retry),
            location,
            lists_cheaply: true,
            lists_in_order: false,
            is_disk: true,
            is_conditional: true,
            runtime: OnceLock::new(),
        };
        Store { inner: Arc::new(inner), faults: None }
    }

    /// A store in memory, empty, gone with its last clone.
    pub fn memory() -> Store {
        let operator = Operator::new(opendal::services::Memory::default())
            .expect("the memory service has no option that could be wrong");
        Store::over(operator, "memory".to_string(), true)
    }

    /// A store that OpenDAL reaches over a network: calls are given up after a time and tried
    /// again. `location` is for people. The service must know how to create if absent.
    pub fn remote(operator: Operator, location: impl Into<String>) -> Store {
        // The time-out is the inner one: around the retries it would cut them short and lose the
        // writer's state. A call that carries bytes may take long on a slow line (64 MiB at
        // 1 Mbit/s: 9 minutes).
        let timeout = TimeoutLayer::new()
            .with_timeout(Duration::from_secs(60))
            .with_io_timeout(Duration::from_secs(15 * 60));
        let retry = RetryLayer::new().with_jitter().with_max_times(5);
        Store::over(operator.layer(timeout).layer(retry), location.into(), false)
    }

    /// A store over a service that needs neither time-outs nor retries: a simulated one.
    pub fn direct(operator: Operator, location: impl Into<String>, lists_cheaply: bool) -> Store {
        Store::over(operator, location.into(), lists_cheaply)
    }

    fn over(operator: Operator, location: String, lists_cheaply: bool) -> Store {
        let lists_in_order = !lists_cheaply && is_known_to_list_in_order(&operator);
        let inner = Inner {
            operator,
            location,
            lists_cheaply,
            lists_in_order,
            is_disk: false,
            is_conditional: true,
            runtime: OnceLock::new(),
        };
        Store { inner: Arc::new(inner), faults: None }
    }

    /// The same objects, in a store that cannot create if absent: [`Store::create`] writes whatever is there.
    pub fn without_conditions(self) -> Store {
        let Inner { operator, location, lists_cheaply, lists_in_order, is_disk, .. } = &*self.inner;
        let mut inner = Inner {
            operator: operator.clone(),
            location: location.clone(),
            lists_cheaply: *lists_cheaply,
            lists_in_order: *lists_in_order,
            is_disk: *is_disk,
            is_conditional: false,
            runtime: OnceLock::new(),
        };
        inner.location.push_str(" (without conditions)");
        Store { inner: Arc::new(inner), faults: self.faults }
    }

    /// Whether [`Store::create`] tells who of several was first. Where it does not, an object that is there is
    /// written over, and the protocol's second form is used.
    pub fn is_conditional(&self) -> bool {
        self.inner.is_conditional
    }

    /// The same store, with every call asked of `control` first: for tests.
    pub fn with_faults(self, control: FaultControl) -> Store {
        Store { faults: Some(control), ..self }
    }

    /// Where this is, for people.
    pub fn location(&self) -> &str {
        &self.inner.location
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
        let read = self.call(name, "get", Call::Read, || {
            let operator = &self.inner.operator;
            Ok(into_vec(self.run(name, operator.read_options(name, ReadOptions::default()))?))
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
            let reply = self.block_on(name, self.inner.operator.read_options(name, options))?;
            let complaint = match reply {
                Ok(buffer) if buffer.len() as u64 == range.end - range.start => {
                    return Ok(into_vec(buffer));
                }
                Ok(buffer) => StoreError::new(
                    Kind::Unavailable,
                    name,
                    format!("{} bytes came for the range {range:?}", buffer.len()),
                ),
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    return Err(StoreError::not_found(name));
                }
                Err(error) => StoreError::from_opendal(name, &error),
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
        let buffer = Buffer::from(bytes);
        self.call(name, "create", Call::Create { bytes: buffer.len() as u64 }, || {
            if self.create_once(name, buffer.clone())? || self.holds(name, &buffer)? {
                Ok(Created::New)
            } else {
                Ok(Created::AlreadyThere)
            }
        })
    }

    /// All objects whose names begin with `prefix`, at any depth, sorted by name. A prefix is a
    /// folder (`packs/`) or the beginning of names in a folder (`packs/3f/00000000-ab`). Nothing
    /// there is an empty list; a listing that breaks off is an error, never a short list.
    ///
    /// Costs memory by the number of objects, about 150 bytes each.
    pub fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>, StoreError> {
        if !layout::is_prefix(prefix) {
            return Err(StoreError::new(Kind::Invalid, prefix, "no folder can have this name"));
        }
        self.call(prefix, "list", Call::Other, || {
            let options = ListOptions { recursive: true, ..ListOptions::default() };
            let entries = self.run(prefix, self.inner.operator.list_options(prefix, options))?;
            Ok(self.listed(entries.iter().filter(|entry| entry.path().starts_with(prefix))))
        })
    }

    /// The objects of these folders, which are given in the order of their names, sorted by name. One request where the
    /// service is known to list names in their order and so few objects are there: it is asked for what begins as all of
    /// them do, and no longer than to the last of them. `expected` says about how many names there will be. Elsewhere a
    /// listing each, in this order.
    pub fn list_folders(
        &self,
        folders: &[&str],
        expected: usize,
    ) -> Result<Vec<ObjectInfo>, StoreError> {
        debug_assert!(folders.is_sorted());
        if self.inner.lists_in_order
            && let Some(listed) = self.list_in_order(folders, expected)?
        {
            return Ok(listed);
        }
        let mut all = Vec::new();
        for folder in folders {
            all.extend(self.list(folder)?);
        }
        Ok(all)
    }

    /// `None`: the service does not list names in their order.
    fn list_in_order(
        &self,
        folders: &[&str],
        expected: usize,
    ) -> Result<Option<Vec<ObjectInfo>>, StoreError> {
        let (Some(first), Some(last)) = (folders.first(), folders.last()) else {
            return Ok(Some(Vec::new()));
        };
        let common = first.bytes().zip(last.bytes()).take_while(|(one, other)| one == other);
        let prefix = &first[..common.count()];
        let is_wanted = |path: &str| folders.iter().any(|folder| path.starts_with(folder));
        self.call(&folders.join(" "), "list", Call::Other, || {
            // What lies before and between them, and the first few that lie behind.
            let page = (expected + PAGE_MARGIN).min(PAGE_MOST);
            let options =
                ListOptions { recursive: true, limit: Some(page), ..ListOptions::default() };
            let operator = &self.inner.operator;
            let mut lister = self.run(prefix, operator.lister_options(prefix, options))?;
            let mut entries: Vec<Entry> = Vec::new();
            let mut before = String::new();
            let all = async {
                while let Some(entry) =
                    poll_fn(|context| Pin::new(&mut lister).poll_next(context)).await
                {
                    let entry = entry?;
                    if *entry.path() < *before {
                        return Ok(false);
                    }
                    if entry.path() > *last && !entry.path().starts_with(last) {
                        break;
                    }
                    before = entry.path().to_string();
                    entries.push(entry);
                }
                Ok::<_, opendal::Error>(true)
            };
            let is_in_order = self.run(prefix, all)?;
            let wanted = entries.iter().filter(|entry| is_wanted(entry.path()));
            Ok(is_in_order.then(|| self.listed(wanted)))
        })
    }

    fn listed<'e>(&self, entries: impl Iterator<Item = &'e Entry>) -> Vec<ObjectInfo> {
        let mut objects: Vec<ObjectInfo> = entries
            .filter(|entry| entry.metadata().is_file())
            .map(|entry| ObjectInfo {
                name: entry.path().to_string(),
                size: entry.metadata().content_length(),
                modified: modified(entry.metadata()),
            })
            .collect();
        if let Some(faults) = &self.faults {
            objects.retain(|object| faults.lists(&object.name));
        }
        objects.sort_unstable_by(|left, right| left.name.cmp(&right.name));
        objects
    }

    /// An object's length in bytes, or `None` when there is no such object.
    pub fn size(&self, name: &str) -> Result<Option<u64>, StoreError> {
        check_name(name)?;
        self.call(name, "size", Call::Other, || self.stat(name))
    }

    /// Removes an object. That it is not there is fine.
    pub fn delete(&self, name: &str) -> Result<(), StoreError> {
        check_name(name)?;
        let bytes = match self.faults.as_ref().and_then(FaultControl::free_bytes) {
            Some(_) => self.stat(name)?.unwrap_or(0),
            None => 0,
        };
        let call = Call::Delete { bytes };
        self.call(name, "delete", call, || self.run(name, self.inner.operator.delete(name)))
    }

    /// Tries once (and the layers below perhaps again): `true` when the object was made, `false`
    /// when the name was taken.
    fn create_once(&self, name: &str, buffer: Buffer) -> Result<bool, StoreError> {
        let if_not_exists = self.inner.is_conditional;
        let refusal = self.faults.as_ref().and_then(|faults| faults.refuses_overwriting(name));
        if let Some(refusal) = refusal
            && !if_not_exists
            && self.stat(name)?.is_some()
        {
            return Err(refusal);
        }
        let options = WriteOptions { if_not_exists, ..WriteOptions::default() };
        let write = self.inner.operator.write_options(name, buffer, options);
        match self.block_on(name, write)? {
            Ok(_) => Ok(true),
            Err(error) if is_taken(error.kind()) => Ok(false),
            Err(error) => Err(StoreError::from_opendal(name, &error)),
        }
    }

    /// Whether the object holds these bytes: then "already there" was our own doing. An object that
    /// is gone again was not ours.
    fn holds(&self, name: &str, buffer: &Buffer) -> Result<bool, StoreError> {
        if self.stat(name)? != Some(buffer.len() as u64) {
            return Ok(false);
        }
        match self.run(name, self.inner.operator.read_options(name, ReadOptions::default())) {
            Ok(there) => Ok(there.to_bytes() == buffer.to_bytes()),
            Err(error) if error.kind == Kind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn stat(&self, name: &str) -> Result<Option<u64>, StoreError> {
        Ok(self.look(name)?.map(|metadata| metadata.content_length()))
    }

    fn look(&self, name: &str) -> Result<Option<Metadata>, StoreError> {
        match self.run(name, self.inner.operator.stat(name)) {
            Ok(metadata) => Ok(Some(metadata)),
            Err(error) if error.kind == Kind::NotFound => Ok(None),
            Err(error) => Err(error),
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

    fn run<T>(
        &self,
        name: &str,
        work: impl Future<Output = opendal::Result<T>>,
    ) -> Result<T, StoreError> {
        self.block_on(name, work)?.map_err(|error| StoreError::from_opendal(name, &error))
    }

    /// Runs `work` on the calling thread; the runtime's own threads only keep time and sockets. So
    /// a local store's system calls block the caller and nobody else.
    fn block_on<T>(&self, name: &str, work: impl Future<Output = T>) -> Result<T, StoreError> {
        let runtime = match self.inner.runtime.get() {
            Some(runtime) => runtime,
            None => {
                let built = tokio::runtime::Builder::new_multi_thread()
                    .worker_threads(2)
                    .thread_name("store")
                    .enable_all()
                    .build()
                    .map_err(|error| {
                        let reason = format!("cannot start the store's threads: {error}");
                        StoreError::new(Kind::Unavailable, name, reason)
                    })?;
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

fn modified(metadata: &Metadata) -> Option<Timestamp> {
    let moment = metadata.last_modified()?.into_inner();
    let since = moment.as_duration();
    // jiff counts the nanoseconds of a moment before 1970 backwards; a `Timestamp` never does.
    let nanoseconds = since.subsec_nanos().rem_euclid(1_000_000_000);
    let seconds = since.as_secs() - i64::from(since.subsec_nanos() < 0);
    Some(Timestamp { seconds, nanoseconds: nanoseconds.unsigned_abs() })
}

/// Whether the service says that its listings are sorted by name, folders and all. What is listed by S3's directory
/// buckets (whose names end so) is not.
fn is_known_to_list_in_order(operator: &Operator) -> bool {
    let info = operator.info();
    match info.scheme() {
        "s3" => !info.name().ends_with("--x-s3"),
        scheme => matches!(scheme, "gcs" | "azblob" | "b2" | "memory"),
    }
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
    fn folders_are_listed_in_one_request_where_names_come_in_order() {
        let memory = || Operator::new(opendal::services::Memory::default()).unwrap();
        for (store, requests) in [
            (
                Store::remote(memory(), "far away"),
                ["list damaged/ gc/ keys/", "list t/ u/"].to_vec(),
            ),
            (
                Store::direct(memory(), "near", true),
                ["list damaged/", "list gc/", "list keys/", "list t/", "list u/"].to_vec(),
            ),
        ] {
            let control = FaultControl::new();
            let store = store.with_faults(control.clone());
            let names = ["config", "damaged/1", "gc/1", "gc/2", "keys/1", "packs/00/1", "u/1"];
            for name in names.into_iter().chain(["index/1", "keyst/1", "d/1"]) {
                store.create(name, vec![1]).unwrap();
            }
            control.leave_out("gc/1");
            control.remember();
            let listed = store.list_folders(&["damaged/", "gc/", "keys/"], 0).unwrap();
            let listed: Vec<_> = listed.iter().map(|object| object.name.as_str()).collect();
            assert_eq!(listed, ["damaged/1", "gc/2", "keys/1"]);
            let listed = store.list_folders(&["t/", "u/"], 0).unwrap();
            assert_eq!((listed.len(), listed[0].name.as_str()), (1, "u/1"));
            assert_eq!(control.take_remembered(), requests);
        }
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
