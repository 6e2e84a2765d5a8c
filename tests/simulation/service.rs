//! The simulated store as a service of OpenDAL's, so that everything from `Store` upwards is the real thing.

use std::fmt;
use std::sync::Arc;
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

use super::world::{Object, World};

/// The world's objects.
#[derive(Clone)]
pub struct SimulatedService(Arc<World>);

impl SimulatedService {
    /// An operator over the world's objects.
    pub fn operator(world: Arc<World>) -> Operator {
        Operator::from_parts(OperationContext::default(), Arc::new(SimulatedService(world)))
    }
}

impl fmt::Debug for SimulatedService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SimulatedService")
    }
}

fn metadata(object: &Object) -> Metadata {
    let mut metadata = MetadataBuilder::file(object.bytes.len() as u64);
    if let Ok(modified) = opendal::raw::Timestamp::new(object.modified, 0) {
        metadata.last_modified(modified);
    }
    metadata.build()
}

impl Service for SimulatedService {
    type Reader = Reader;
    type Writer = oio::OneShotWriter<Writer>;
    type Lister = oio::HierarchyLister<Lister>;
    type Deleter = oio::OneShotDeleter<Deleter>;
    type Copier = ();
    type Composer = ();

    fn info(&self) -> ServiceInfo {
        ServiceInfo::new("memory", "", "")
    }

    fn capability(&self) -> Capability {
        Capability {
            read: true,
            read_with_suffix: true,
            write: true,
            write_can_empty: true,
            write_with_if_not_exists: true,
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
        self.0.read("stat", path).map(|object| RpStat::new(metadata(&object)))
    }

    fn read(&self, _: &OperationContext, path: &str, _: OpRead) -> Result<Self::Reader> {
        Ok(Reader { world: self.0.clone(), path: path.to_string() })
    }

    fn write(&self, _: &OperationContext, path: &str, args: OpWrite) -> Result<Self::Writer> {
        let if_not_exists = args.if_not_exists();
        let (world, path) = (self.0.clone(), path.to_string());
        Ok(oio::OneShotWriter::new(Writer { world, path, if_not_exists }))
    }

    fn delete(&self, _: &OperationContext) -> Result<Self::Deleter> {
        Ok(oio::OneShotDeleter::new(Deleter { world: self.0.clone() }))
    }

    fn list(&self, _: &OperationContext, path: &str, args: OpList) -> Result<Self::Lister> {
        let lister = Lister { world: self.0.clone(), prefix: path.to_string(), entries: None };
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

fn unsupported() -> Error {
    Error::new(ErrorKind::Unsupported, "the simulated store cannot do this")
}

/// Reads one object.
pub struct Reader {
    world: Arc<World>,
    path: String,
}

impl oio::Read for Reader {
    async fn open(&self, range: BytesRange) -> Result<(RpRead, Box<dyn oio::ReadStreamDyn>)> {
        let (reply, buffer) = self.read(range).await?;
        Ok((reply, Box::new(buffer)))
    }

    async fn read(&self, range: BytesRange) -> Result<(RpRead, Buffer)> {
        let object = self.world.read("read", &self.path)?;
        let size = object.bytes.len() as u64;
        let (start, end) = match range {
            BytesRange::Range { offset, size: Some(length) } => (offset, offset + length),
            BytesRange::Range { offset, size: None } => (offset.min(size), size),
            BytesRange::Suffix { size: length } => (size.saturating_sub(length), size),
        };
        if end > size {
            return Err(Error::new(ErrorKind::RangeNotSatisfied, "range exceeds content length"));
        }
        let bytes = object.bytes[start as usize..end as usize].to_vec();
        Ok((RpRead::new(metadata(&object)), Buffer::from(bytes)))
    }
}

/// Makes one object.
pub struct Writer {
    world: Arc<World>,
    path: String,
    if_not_exists: bool,
}

impl oio::OneShotWrite for Writer {
    async fn write_once(&self, bytes: Buffer) -> Result<Metadata> {
        let length = bytes.len() as u64;
        assert_eq!(self.if_not_exists, self.world.is_conditional(), "{}", self.path);
        self.world.create(&self.path, bytes.to_vec())?;
        Ok(MetadataBuilder::file(length).build())
    }
}

/// Lists in one call.
pub struct Lister {
    world: Arc<World>,
    prefix: String,
    entries: Option<IntoIter<oio::Entry>>,
}

impl oio::List for Lister {
    async fn next(&mut self) -> Result<Option<oio::Entry>> {
        let entries = match &mut self.entries {
            Some(entries) => entries,
            None => {
                let listed = self.world.list(self.prefix.trim_start_matches('/'))?;
                let entries = listed
                    .into_iter()
                    .map(|(name, object)| oio::Entry::with(name, metadata(&object)));
                self.entries.insert(entries.collect::<Vec<_>>().into_iter())
            }
        };
        Ok(entries.next())
    }
}

/// Deletes objects one by one.
pub struct Deleter {
    world: Arc<World>,
}

impl oio::OneShotDelete for Deleter {
    async fn delete_once(&self, path: String, _: OpDelete) -> Result<()> {
        self.world.delete(&path)
    }
}
