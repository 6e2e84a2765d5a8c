//! Reading from a store far away: how much is asked for at once, and that what is fetched ahead may fail, lie or never come.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;
use std::vec::IntoIter;

use aumbry::clock::{Clock, SystemClock};
use aumbry::monitor::{Monitor, Problem, RecordingMonitor, SilentMonitor};
use aumbry::ops::OpsError;
use aumbry::ops::check::DataSelection;
use aumbry::ops::copy::{CopyOptions, copy};
use aumbry::ops::dump::dump;
use aumbry::ops::restore::restore;
use aumbry::repository::Repository;
use aumbry::store::{Access, Store};
use opendal::raw::oio;
use opendal::raw::{
    OpCopy, OpCreateDir, OpDelete, OpList, OpPresign, OpRead, OpRename, OpStat, OpWrite,
    RpCreateDir, RpPresign, RpRead, RpRename, RpStat, Service, ServiceInfo,
};
use opendal::{
    Buffer, BytesRange, Capability, Error, ErrorKind, Metadata, MetadataBuilder, OperationContext,
    Operator, Result,
};

use crate::model::{assert_same, create_quick, folder_contents, open_quick};
use crate::support::{back_up, checked, create, noise, restore_options, small_settings, snapshots};

/// How many calls a store far away takes at once.
const CONNECTIONS: usize = 8;
/// The thread that fetches ahead: calls run where they are made.
const AHEAD: &str = "ahead";

/// What becomes of reads of packs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// They are answered.
    Plain,
    /// They wait for one another, as long as that takes.
    Gathering,
    /// Those that are made ahead fail.
    FailingAhead,
    /// Those that are made ahead have a wrong byte.
    LyingAhead,
    /// Those that are made ahead end early.
    ShortAhead,
    /// They are never answered.
    Silent,
}

/// Objects in memory, and what is asked for.
#[derive(Clone)]
struct Far {
    state: Arc<State>,
}

struct State {
    objects: Mutex<BTreeMap<String, Buffer>>,
    mode: Mutex<Mode>,
    under_way: AtomicUsize,
    most_under_way: AtomicUsize,
    /// Reads of packs that were made ahead, and all others.
    reads: [AtomicUsize; 2],
}

impl Far {
    fn new() -> Self {
        let state = State {
            objects: Mutex::default(),
            mode: Mutex::new(Mode::Plain),
            under_way: AtomicUsize::new(0),
            most_under_way: AtomicUsize::new(0),
            reads: [AtomicUsize::new(0), AtomicUsize::new(0)],
        };
        Far { state: Arc::new(state) }
    }

    fn operator(&self) -> Operator {
        Operator::from_parts(OperationContext::default(), Arc::new(self.clone()))
    }

    fn store(&self) -> Store {
        Store::remote(self.operator(), "far away")
    }

    fn near(&self) -> Store {
        Store::direct(self.operator(), "near", true)
    }

    fn set(&self, mode: Mode) {
        *self.state.mode.lock().unwrap() = mode;
        self.state.most_under_way.store(0, Ordering::SeqCst);
        self.state.reads.iter().for_each(|reads| reads.store(0, Ordering::SeqCst));
    }

    fn most_under_way(&self) -> usize {
        self.state.most_under_way.load(Ordering::SeqCst)
    }

    fn reads(&self) -> [usize; 2] {
        [0, 1].map(|at| self.state.reads[at].load(Ordering::SeqCst))
    }

    fn find(&self, path: &str) -> Result<Buffer> {
        let found = self.state.objects.lock().unwrap().get(path).cloned();
        found.ok_or_else(|| Error::new(ErrorKind::NotFound, "not found"))
    }

    /// A read of a pack, as the mode says.
    async fn answer(&self, bytes: Buffer) -> Result<Buffer> {
        let state = &self.state;
        let is_ahead = std::thread::current().name() == Some(AHEAD);
        state.reads[usize::from(!is_ahead)].fetch_add(1, Ordering::SeqCst);
        let now = state.under_way.fetch_add(1, Ordering::SeqCst) + 1;
        state.most_under_way.fetch_max(now, Ordering::SeqCst);
        let mode = *state.mode.lock().unwrap();
        let answer = match mode {
            Mode::Gathering => {
                for _ in 0..20_000 {
                    if self.most_under_way() >= CONNECTIONS {
                        break;
                    }
                    yield_once().await;
                }
                Ok(bytes)
            }
            Mode::Silent => std::future::pending().await,
            Mode::FailingAhead if is_ahead => Err(Error::new(ErrorKind::Unexpected, "no")),
            Mode::LyingAhead if is_ahead => {
                let mut wrong = bytes.to_vec();
                let middle = wrong.len() / 2;
                wrong[middle] ^= 1;
                Ok(Buffer::from(wrong))
            }
            Mode::ShortAhead if is_ahead => Ok(bytes.slice(..bytes.len() / 2)),
            _ => Ok(bytes),
        };
        state.under_way.fetch_sub(1, Ordering::SeqCst);
        answer
    }
}

/// Lets other threads go on.
async fn yield_once() {
    std::thread::yield_now();
    std::future::ready(()).await;
}

impl fmt::Debug for Far {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Far")
    }
}

fn metadata(bytes: &Buffer) -> Metadata {
    MetadataBuilder::file(bytes.len() as u64).build()
}

fn unsupported() -> Error {
    Error::new(ErrorKind::Unsupported, "not in this test")
}

impl Service for Far {
    type Reader = Reader;
    type Writer = oio::OneShotWriter<Writer>;
    type Lister = oio::HierarchyLister<Lister>;
    type Deleter = oio::OneShotDeleter<Deleter>;
    type Copier = ();
    type Composer = ();

    fn info(&self) -> ServiceInfo {
        ServiceInfo::new("far", "", "")
    }

    fn capability(&self) -> Capability {
        Capability {
            read: true,
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
        Ok(RpStat::new(metadata(&self.find(path)?)))
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

struct Reader {
    service: Far,
    path: String,
}

impl oio::Read for Reader {
    async fn open(&self, range: BytesRange) -> Result<(RpRead, Box<dyn oio::ReadStreamDyn>)> {
        let (reply, buffer) = self.read(range).await?;
        Ok((reply, Box::new(buffer)))
    }

    async fn read(&self, range: BytesRange) -> Result<(RpRead, Buffer)> {
        let whole = self.service.find(&self.path)?;
        let (start, end) = match range {
            BytesRange::Range { offset, size: Some(length) } => (offset, offset + length),
            BytesRange::Range { offset, size: None } => (offset, whole.len() as u64),
            BytesRange::Suffix { .. } => return Err(unsupported()),
        };
        if end > whole.len() as u64 {
            return Err(Error::new(ErrorKind::RangeNotSatisfied, "beyond the end"));
        }
        let bytes = whole.slice(start as usize..end as usize);
        let bytes = match self.path.starts_with("packs/") {
            true => self.service.answer(bytes).await?,
            false => bytes,
        };
        Ok((RpRead::new(metadata(&whole)), bytes))
    }
}

struct Writer {
    service: Far,
    path: String,
    if_not_exists: bool,
}

impl oio::OneShotWrite for Writer {
    async fn write_once(&self, bytes: Buffer) -> Result<Metadata> {
        let mut objects = self.service.state.objects.lock().unwrap();
        if self.if_not_exists && objects.contains_key(&self.path) {
            return Err(Error::new(ErrorKind::ConditionNotMatch, "taken"));
        }
        let written = metadata(&bytes);
        objects.insert(self.path.clone(), bytes);
        Ok(written)
    }
}

struct Lister {
    service: Far,
    prefix: String,
    entries: Option<IntoIter<oio::Entry>>,
}

impl oio::List for Lister {
    async fn next(&mut self) -> Result<Option<oio::Entry>> {
        let (service, prefix) = (&self.service, self.prefix.trim_start_matches('/'));
        let entries = self.entries.get_or_insert_with(|| {
            let objects = service.state.objects.lock().unwrap();
            let found = objects.iter().filter(|(name, _)| name.starts_with(prefix));
            let entry =
                |(name, bytes): (&String, &Buffer)| oio::Entry::with(name.clone(), metadata(bytes));
            found.map(entry).collect::<Vec<_>>().into_iter()
        });
        Ok(entries.next())
    }
}

struct Deleter {
    service: Far,
}

impl oio::OneShotDelete for Deleter {
    async fn delete_once(&self, path: String, _: OpDelete) -> Result<()> {
        self.service.state.objects.lock().unwrap().remove(&path);
        Ok(())
    }
}

/// A folder in a repository far away, in about forty packs.
struct Fixture {
    far: Far,
    folder: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Self {
        let (far, folder) = (Far::new(), tempfile::tempdir().unwrap());
        for number in 0..120 {
            fs::write(folder.path().join(format!("{number:03}")), noise(20_000, number)).unwrap();
        }
        fs::write(folder.path().join("large"), noise(400_000, 999)).unwrap();
        let repository = create_quick(far.near(), None);
        back_up(&repository, folder.path());
        // Deltas against what is there.
        for number in 0..10 {
            let mut bytes = noise(20_000, number);
            bytes[10_000] ^= 1;
            fs::write(folder.path().join(format!("{number:03}")), bytes).unwrap();
        }
        back_up(&repository, folder.path());
        Fixture { far, folder }
    }

    fn open(&self) -> Repository {
        open_quick(self.far.store(), None)
    }

    fn restores(&self, what: &str) {
        let repository = self.open();
        let target = tempfile::tempdir().unwrap();
        let monitor = RecordingMonitor::default();
        let snapshot = snapshots(&repository).pop().unwrap();
        let done = restore(&repository, &snapshot, target.path(), &restore_options(), &monitor);
        assert_eq!((done.unwrap().entries_failed, monitor.problems()), (0, vec![]), "{what}");
        let wanted = folder_contents(self.folder.path());
        assert_same(&folder_contents(target.path()), &wanted, what);
    }
}

#[test]
fn a_restore_from_far_away_has_as_many_reads_under_way_as_are_allowed() {
    let fixture = Fixture::new();
    fixture.far.set(Mode::Gathering);
    fixture.restores("gathering");
    assert_eq!(fixture.far.most_under_way(), CONNECTIONS);
    assert!(fixture.far.reads()[0] >= CONNECTIONS);
}

#[test]
fn near_by_nothing_is_fetched_ahead() {
    let fixture = Fixture::new();
    fixture.far.set(Mode::Plain);
    let repository = open_quick(fixture.far.near(), None);
    let target = tempfile::tempdir().unwrap();
    let snapshot = snapshots(&repository).pop().unwrap();
    restore(&repository, &snapshot, target.path(), &restore_options(), &SilentMonitor).unwrap();
    assert_eq!(checked(&repository, DataSelection::All).damage, []);
    assert_eq!(fixture.far.reads()[0], 0);
}

#[test]
fn one_call_at_a_time_is_one_at_a_time() {
    let fixture = Fixture::new();
    fixture.far.set(Mode::Plain);
    let access = Access { connections: Some(1), ..Access::default() };
    let store = Store::remote_with(fixture.far.operator(), "far away", &access);
    let repository = open_quick(store, None);
    let target = tempfile::tempdir().unwrap();
    let snapshot = snapshots(&repository).pop().unwrap();
    restore(&repository, &snapshot, target.path(), &restore_options(), &SilentMonitor).unwrap();
    assert_eq!((fixture.far.most_under_way(), fixture.far.reads()[0]), (1, 0));
}

#[test]
fn a_check_a_dump_and_a_copy_fetch_ahead_as_well() {
    let fixture = Fixture::new();
    let repository = fixture.open();
    fixture.far.set(Mode::Gathering);
    assert_eq!(checked(&repository, DataSelection::All).damage, []);
    assert_eq!(fixture.far.most_under_way(), CONNECTIONS);

    let snapshot = snapshots(&repository).pop().unwrap();
    fixture.far.set(Mode::Gathering);
    let mut archive = Vec::new();
    let path = "/tree/large".parse().unwrap();
    dump(&repository, &snapshot, &path, &mut archive, &SilentMonitor).unwrap();
    assert_eq!(archive, fs::read(fixture.folder.path().join("large")).unwrap());
    assert!(fixture.far.reads()[0] > 0);

    fixture.far.set(Mode::Plain);
    let target = create(Store::memory(), small_settings(), None);
    let all = snapshots(&repository);
    let options = CopyOptions { dry_run: false, memory_budget: 256 << 20 };
    copy(&repository, &target, &all, &options, &SilentMonitor).unwrap();
    assert_eq!(checked(&target, DataSelection::All).damage, []);
    assert!(fixture.far.reads()[0] > 0);
}

#[test]
fn what_fails_lies_or_is_cut_short_ahead_is_read_again_and_nobody_hears_of_it() {
    let fixture = Fixture::new();
    for mode in [Mode::FailingAhead, Mode::LyingAhead, Mode::ShortAhead] {
        fixture.far.set(mode);
        fixture.restores(&format!("{mode:?}"));
        assert!(fixture.far.reads()[0] > 0, "{mode:?}");
    }
    fixture.far.set(Mode::FailingAhead);
    assert_eq!(checked(&fixture.open(), DataSelection::All).damage, []);
}

#[test]
fn what_is_fetched_ahead_of_several_stores_comes_from_one_that_has_it_whole() {
    let fixture = Fixture::new();
    let state = &fixture.far.state;
    let mirror = Store::memory();
    let objects: Vec<_> = state.objects.lock().unwrap().clone().into_iter().collect();
    for (name, bytes) in &objects {
        mirror.create(name, bytes.to_vec()).unwrap();
    }
    let packs = objects.iter().filter(|(name, _)| name.starts_with("packs/"));
    let mut damaged = Vec::new();
    for (number, (name, bytes)) in packs.enumerate() {
        let mut bytes = bytes.to_vec();
        let middle = bytes.len() / 2;
        match number % 4 {
            0 => bytes[middle] ^= 1,
            1 => bytes.truncate(middle),
            2 => bytes.clear(),
            _ => continue,
        }
        damaged.push(name.clone());
        let mut objects = state.objects.lock().unwrap();
        match bytes.is_empty() {
            true => objects.remove(name),
            false => objects.insert(name.clone(), Buffer::from(bytes)),
        };
    }
    let open = || open_quick(fixture.far.store().with_mirrors(vec![mirror.clone()]), None);
    for mode in [Mode::Plain, Mode::FailingAhead, Mode::LyingAhead, Mode::ShortAhead] {
        fixture.far.set(mode);
        let (repository, target) = (open(), tempfile::tempdir().unwrap());
        let monitor = RecordingMonitor::default();
        let snapshot = snapshots(&repository).pop().unwrap();
        let done = restore(&repository, &snapshot, target.path(), &restore_options(), &monitor);
        let done = done.unwrap();
        assert_eq!((done.entries_failed, monitor.problems()), (0, vec![]), "{mode:?}");
        let wanted = folder_contents(fixture.folder.path());
        assert_same(&folder_contents(target.path()), &wanted, &format!("{mode:?}"));
        // Each was told, and the store goes on being read.
        assert_eq!(repository.silent_stores(), [], "{mode:?}");
        assert!(done.read_elsewhere > 10, "{mode:?}: {}", done.read_elsewhere);
        assert!(fixture.far.reads()[0] > 0, "{mode:?}");
    }
    // A check says of the first store what that has damaged, whoever has it whole, and that nothing is lost.
    fixture.far.set(Mode::Plain);
    let found = checked(&open(), DataSelection::All).damage;
    assert!(fixture.far.reads()[0] > 0);
    for name in &damaged {
        assert!(found.iter().any(|damage| damage.item == *name), "{name}: {found:?}");
    }
    assert_eq!(found.iter().map(|damage| damage.hit_count).max(), Some(0), "{found:?}");
}

#[test]
fn damage_is_told_far_away_as_it_is_near_by() {
    let fixture = Fixture::new();
    let packs: Vec<_> = {
        let objects = fixture.far.state.objects.lock().unwrap();
        objects.keys().filter(|name| name.starts_with("packs/")).cloned().collect()
    };
    let mut has_failed = false;
    for name in packs.iter().step_by(5) {
        let whole = fixture.far.find(name).unwrap();
        let mut damaged = whole.to_vec();
        let middle = damaged.len() / 2;
        damaged[middle] ^= 1;
        let put = |bytes: Buffer| {
            fixture.far.state.objects.lock().unwrap().insert(name.clone(), bytes);
        };
        put(Buffer::from(damaged));
        let told = [fixture.far.store(), fixture.far.near()].map(|store| {
            let repository = open_quick(store, None);
            let (target, monitor) = (tempfile::tempdir().unwrap(), RecordingMonitor::default());
            let Some(snapshot) = snapshots(&repository).pop() else { return Vec::new() };
            let done = restore(&repository, &snapshot, target.path(), &restore_options(), &monitor);
            let mut items: Vec<_> = match done {
                Ok(_) => monitor.problems().into_iter().map(|problem| problem.item).collect(),
                Err(error) => vec![error.to_string()],
            };
            items.sort();
            items
        });
        assert_eq!(told[0], told[1], "{name}");
        has_failed |= !told[0].is_empty();
        put(whole);
    }
    assert!(has_failed);
}

/// Wants to stop as soon as reads are under way that never end.
struct Impatient {
    far: Far,
    clock: SystemClock,
    /// When it first said so.
    since: OnceLock<Duration>,
}

impl Monitor for Impatient {
    fn problem(&self, _: Problem) {}

    fn interrupted(&self) -> bool {
        let wants =
            *self.far.state.mode.lock().unwrap() == Mode::Silent && self.far.most_under_way() > 0;
        if wants {
            self.since.get_or_init(|| self.clock.elapsed());
        }
        wants
    }
}

#[test]
fn a_wish_to_stop_ends_what_is_under_way_within_seconds() {
    let fixture = Fixture::new();
    let (far, clock) = (fixture.far.clone(), SystemClock::new());
    let monitor = Arc::new(Impatient { far, clock, since: OnceLock::new() });
    let access = Access { monitor: monitor.clone(), ..Access::default() };
    let store = Store::remote_with(fixture.far.operator(), "far away", &access);
    let cache = tempfile::tempdir().unwrap();
    let repository = open_quick(store, Some(cache.path()));
    let snapshot = snapshots(&repository).pop().unwrap();
    let begin = || {
        let target = tempfile::tempdir().unwrap();
        restore(&repository, &snapshot, target.path(), &restore_options(), &*monitor)
    };
    // Directories are in the cache then, so that what hangs is content.
    begin().unwrap();
    fixture.far.set(Mode::Silent);
    let done = begin();
    assert!(matches!(done, Err(OpsError::Interrupted)), "{done:?}");
    // A second, and what a busy machine adds.
    let elapsed = monitor.clock.elapsed() - *monitor.since.get().unwrap();
    assert!(elapsed < Duration::from_secs(5), "{elapsed:?}");
    assert!(fixture.far.reads()[0] > 0);
}
