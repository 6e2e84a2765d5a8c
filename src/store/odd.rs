//! Services that misbehave in one way each, for tests: what a probe must notice and patience must outlast.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::vec::IntoIter;

use opendal::raw::oio;
use opendal::raw::{
    OpCopy, OpCreateDir, OpDelete, OpList, OpPresign, OpRead, OpRename, OpStat, OpWrite,
    RpCreateDir, RpPresign, RpRead, RpRename, RpStat, Service, ServiceInfo,
};
use opendal::{
    Buffer, BytesRange, Capability, Error, ErrorKind, Metadata, MetadataBuilder, OperationContext,
    Operator, Result,
};
use parking_lot::Mutex;

/// In which way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Oddity {
    /// In none.
    Honest,
    /// Takes the condition, and writes over what is there.
    IgnoresConditions,
    /// Looks first and writes afterwards: of two at once both win.
    LosesRaces,
    /// Says to everybody who creates something that it could not just now, once, and has stored it if it was the first.
    Stumbles,
    /// Of its calls every fourth fails for a reason that passes.
    Flaky,
    /// Lists what was there when it was last asked.
    ListsLate,
    /// Finds what was written when it is asked a second time.
    ReadsLate,
    /// Shows what was deleted.
    RemembersDeleted,
    /// Refuses every delete and every write over what is there.
    CreatesOnly,
    /// Knows no condition, and says so.
    Unconditional,
    /// Says that it knows a condition, and refuses what has one.
    RefusesConditions,
    /// Refuses every delete, and not as a denial.
    Retains,
    /// Lists names in an order of its own.
    ListsBackwards,
    /// Lists folders only, and not what begins with part of a folder's name.
    ListsFolders,
    /// Does neither: refuses to write over anything, and says that nothing was there.
    KeepsTheFirst,
}

/// How calls fail, from the first on.
#[derive(Debug, Clone)]
pub enum Failure {
    /// Without an effect.
    Before(ErrorKind, bool),
    /// After it.
    After(ErrorKind, bool),
    /// Never answers.
    Silent,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Buffer>,
    listed: BTreeSet<String>,
    unread: BTreeSet<String>,
    /// Names, and the lengths of what was to be created there.
    tried: BTreeSet<(String, usize)>,
    failures: Vec<Failure>,
}

/// The service. Clones share their objects.
#[derive(Clone)]
pub struct Odd {
    oddity: Oddity,
    state: Arc<Mutex<State>>,
    calls: Arc<AtomicUsize>,
}

impl Odd {
    /// An empty one.
    pub fn new(oddity: Oddity) -> Self {
        Odd { oddity, state: Arc::default(), calls: Arc::default() }
    }

    /// The next calls fail like this, one after the other.
    pub fn fail(&self, failures: impl IntoIterator<Item = Failure>) {
        let mut failures: Vec<_> = failures.into_iter().collect();
        failures.reverse();
        self.state.lock().failures = failures;
    }

    /// How many calls came.
    pub fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    /// An operator over it.
    pub fn operator(&self) -> Operator {
        Operator::from_parts(OperationContext::default(), Arc::new(self.clone()))
    }

    async fn call<T>(&self, effect: impl Future<Output = Result<T>>) -> Result<T> {
        let before = self.calls.fetch_add(1, Ordering::SeqCst);
        let failure = self.state.lock().failures.pop();
        let error = |kind, is_temporary| {
            Error::new(kind, "as the test wants it").with_temporary(is_temporary)
        };
        match failure {
            None if self.oddity == Oddity::Flaky && before % 4 == 3 => {
                Err(error(ErrorKind::Unexpected, true))
            }
            None => effect.await,
            Some(Failure::Before(kind, is_temporary)) => Err(error(kind, is_temporary)),
            Some(Failure::After(kind, is_temporary)) => {
                effect.await?;
                Err(error(kind, is_temporary))
            }
            Some(Failure::Silent) => std::future::pending().await,
        }
    }
}

impl fmt::Debug for Odd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Odd({:?})", self.oddity)
    }
}

fn metadata(bytes: &Buffer) -> Metadata {
    MetadataBuilder::file(bytes.len() as u64).build()
}

fn unsupported() -> Error {
    Error::new(ErrorKind::Unsupported, "not in this test")
}

impl Odd {
    fn find(&self, path: &str) -> Result<Buffer> {
        let mut state = self.state.lock();
        if self.oddity == Oddity::ReadsLate && state.unread.remove(path) {
            return Err(Error::new(ErrorKind::NotFound, "not yet"));
        }
        let found = state.objects.get(path).cloned();
        found.ok_or_else(|| Error::new(ErrorKind::NotFound, "not found"))
    }

    fn is_first_try(&self, path: &str, bytes: &Buffer) -> bool {
        self.state.lock().tried.insert((path.to_string(), bytes.len()))
    }

    async fn write_whole(&self, path: &str, bytes: Buffer, if_not_exists: bool) -> Result<()> {
        let taken = || Error::new(ErrorKind::ConditionNotMatch, "taken");
        let is_there = self.state.lock().objects.contains_key(path);
        match self.oddity {
            Oddity::IgnoresConditions => {}
            Oddity::RefusesConditions if if_not_exists => return Err(unsupported()),
            Oddity::CreatesOnly if is_there && !if_not_exists => {
                return Err(Error::new(ErrorKind::PermissionDenied, "no writing over"));
            }
            Oddity::KeepsTheFirst if is_there => return Ok(()),
            Oddity::Stumbles if self.is_first_try(path, &bytes) => {
                self.state.lock().objects.entry(path.to_string()).or_insert(bytes);
                return Err(Error::new(ErrorKind::Unexpected, "not just now").set_temporary());
            }
            _ if if_not_exists && is_there => return Err(taken()),
            _ => {}
        }
        if self.oddity == Oddity::LosesRaces {
            // Here the others look, too.
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        } else if if_not_exists && self.oddity != Oddity::IgnoresConditions {
            let mut state = self.state.lock();
            if state.objects.contains_key(path) {
                return Err(taken());
            }
            state.objects.insert(path.to_string(), bytes);
            state.unread.insert(path.to_string());
            return Ok(());
        }
        let mut state = self.state.lock();
        state.objects.insert(path.to_string(), bytes);
        state.unread.insert(path.to_string());
        Ok(())
    }
}

impl Service for Odd {
    type Reader = Reader;
    type Writer = oio::OneShotWriter<Writer>;
    type Lister = oio::HierarchyLister<Lister>;
    type Deleter = oio::OneShotDeleter<Deleter>;
    type Copier = ();
    type Composer = ();

    fn info(&self) -> ServiceInfo {
        ServiceInfo::new("odd", "", "")
    }

    fn capability(&self) -> Capability {
        Capability {
            read: true,
            write: true,
            write_can_empty: true,
            write_with_if_not_exists: self.oddity != Oddity::Unconditional,
            stat: true,
            list: true,
            list_with_recursive: true,
            delete: true,
            ..Capability::default()
        }
    }

    async fn create_dir(
        &self,
        _: &OperationContext,
        _: &str,
        _: OpCreateDir,
    ) -> Result<RpCreateDir> {
        Err(unsupported())
    }

    async fn stat(&self, _: &OperationContext, path: &str, _: OpStat) -> Result<RpStat> {
        self.call(async { Ok(RpStat::new(metadata(&self.find(path)?))) }).await
    }

    fn read(&self, _: &OperationContext, path: &str, _: OpRead) -> Result<Reader> {
        Ok(Reader { service: self.clone(), path: path.to_string() })
    }

    fn write(&self, _: &OperationContext, path: &str, args: OpWrite) -> Result<Self::Writer> {
        let if_not_exists = args.if_not_exists();
        let writer = Writer { service: self.clone(), path: path.to_string(), if_not_exists };
        Ok(oio::OneShotWriter::new(writer))
    }

    fn delete(&self, _: &OperationContext) -> Result<Self::Deleter> {
        Ok(oio::OneShotDeleter::new(Deleter { service: self.clone() }))
    }

    fn list(&self, _: &OperationContext, path: &str, args: OpList) -> Result<Self::Lister> {
        let lister = Lister { service: self.clone(), prefix: path.to_string(), entries: None };
        Ok(oio::HierarchyLister::new(lister, path, args.recursive()))
    }

    fn copy(&self, _: &OperationContext, _: &str, _: &str, _: OpCopy) -> Result<()> {
        Err(unsupported())
    }

    async fn rename(
        &self,
        _: &OperationContext,
        _: &str,
        _: &str,
        _: OpRename,
    ) -> Result<RpRename> {
        Err(unsupported())
    }

    async fn presign(&self, _: &OperationContext, _: &str, _: OpPresign) -> Result<RpPresign> {
        Err(unsupported())
    }
}

/// Reads one object.
pub struct Reader {
    service: Odd,
    path: String,
}

impl oio::Read for Reader {
    async fn open(&self, range: BytesRange) -> Result<(RpRead, Box<dyn oio::ReadStreamDyn>)> {
        let (reply, buffer) = self.read(range).await?;
        Ok((reply, Box::new(buffer)))
    }

    async fn read(&self, range: BytesRange) -> Result<(RpRead, Buffer)> {
        let whole = self.service.call(async { self.service.find(&self.path) }).await?;
        let (start, end) = match range {
            BytesRange::Range { offset, size: Some(length) } => (offset, offset + length),
            BytesRange::Range { offset, size: None } => (offset, whole.len() as u64),
            BytesRange::Suffix { .. } => return Err(unsupported()),
        };
        if end > whole.len() as u64 {
            return Err(Error::new(ErrorKind::RangeNotSatisfied, "beyond the end"));
        }
        Ok((RpRead::new(metadata(&whole)), whole.slice(start as usize..end as usize)))
    }
}

/// Makes one object.
pub struct Writer {
    service: Odd,
    path: String,
    if_not_exists: bool,
}

impl oio::OneShotWrite for Writer {
    async fn write_once(&self, bytes: Buffer) -> Result<Metadata> {
        let written = metadata(&bytes);
        let write = self.service.write_whole(&self.path, bytes, self.if_not_exists);
        self.service.call(write).await?;
        Ok(written)
    }
}

/// Lists in one call.
pub struct Lister {
    service: Odd,
    prefix: String,
    entries: Option<IntoIter<oio::Entry>>,
}

impl oio::List for Lister {
    async fn next(&mut self) -> Result<Option<oio::Entry>> {
        if self.entries.is_none() {
            let service = &self.service;
            let prefix = self.prefix.trim_start_matches('/');
            let is_folder = prefix.is_empty() || prefix.ends_with('/');
            let entries = service
                .call(async {
                    if service.oddity == Oddity::ListsFolders && !is_folder {
                        return Err(unsupported());
                    }
                    let mut state = service.state.lock();
                    let names: BTreeSet<String> = state.objects.keys().cloned().collect();
                    let before = std::mem::replace(&mut state.listed, names);
                    let is_late = service.oddity == Oddity::ListsLate;
                    let mut entries = state
                        .objects
                        .iter()
                        .filter(|(name, _)| name.starts_with(prefix))
                        .filter(|(name, _)| !is_late || before.contains(*name))
                        .map(|(name, bytes)| oio::Entry::with(name.clone(), metadata(bytes)))
                        .collect::<Vec<_>>();
                    if service.oddity == Oddity::ListsBackwards {
                        entries.reverse();
                    }
                    Ok(entries)
                })
                .await?;
            self.entries = Some(entries.into_iter());
        }
        Ok(self.entries.as_mut().and_then(Iterator::next))
    }
}

/// Deletes objects one by one.
pub struct Deleter {
    service: Odd,
}

impl oio::OneShotDelete for Deleter {
    async fn delete_once(&self, path: String, _: OpDelete) -> Result<()> {
        let service = &self.service;
        service
            .call(async {
                match service.oddity {
                    Oddity::CreatesOnly => {
                        return Err(Error::new(ErrorKind::PermissionDenied, "no deleting"));
                    }
                    Oddity::Retains => {
                        return Err(Error::new(ErrorKind::Unexpected, "it is retained"));
                    }
                    Oddity::RemembersDeleted => {}
                    _ => {
                        service.state.lock().objects.remove(&path);
                    }
                }
                Ok(())
            })
            .await
    }
}
