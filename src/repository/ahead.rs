//! Bytes of packs that are fetched before they are asked for, in the order in which they will be: from a store far away, and
//! in parts from a disk.
//!
//! Whoever reads says what will be read. Threads of their own fetch it: as many requests are under way as the store takes
//! at once, and as many bytes are under way or wait to be taken as the budget says. Nothing depends on it: what was
//! not fetched, or could not be, is read as it would have been, with its retries and its errors. Only where the store could
//! not be reached after all its retries, whoever asks is told so, and does not wait for all of them again. The threads make
//! ordinary calls of the store, so that bounds on bytes and requests hold, and a wish to stop ends them.

use std::collections::{BTreeMap, HashMap};
use std::ops::{Range, RangeInclusive};
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::id::PackId;
use crate::store::{Store, StoreError, layout};

/// Neighbouring ranges of a pack become one request up to so many bytes: what a fast line carries in the time of a
/// round trip, shared by the requests that are under way at once.
const REQUEST_BYTES: u64 = 1 << 20;
/// So many bytes between two ranges are fetched for nothing rather than to make another request.
const GAP_BYTES: u64 = 64 << 10;
/// What is needed later than this many ranges after the first of a request does not become part of it: it would take
/// room until then.
const REQUEST_RANGES: usize = 64;
/// Room for so many requests besides those that are under way, each as long as those that are planned are on average: one that comes next,
/// and one for each of two threads that read.
const SPARE_REQUESTS: u64 = 3;
/// Whoever reads may take this many requests out of their order before what lies behind is taken for forgotten.
const OUT_OF_ORDER: u64 = 16;

/// What will be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// The pack.
    pub pack: PackId,
    /// Which part of it, by where that begins in the pack's plaintext: parts that share a frame have ranges alike.
    pub offset: u64,
    /// Bytes of the object.
    pub range: Range<u64>,
    /// It is the whole object, however long it turns out to be.
    pub is_whole: bool,
}

/// Fetches ahead. Dropped, it begins no more requests, and what is under way is thrown away when it comes.
pub struct Ahead {
    shared: Arc<Shared>,
    requests: usize,
}

/// Reads bytes of a pack, or, where that is wanted, all of it. An error without a reason: whoever needs it reads it, and
/// finds out why.
type Fetch = dyn Fn(&Wanted) -> Result<Vec<u8>, Option<StoreError>> + Send + Sync;

struct Shared {
    fetch: Box<Fetch>,
    /// Bytes that may be held, at the least and at the most.
    budgets: RangeInclusive<u64>,
    /// And now.
    budget: AtomicU64,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// By their numbers, in the order in which they will be needed. Only those that somebody may still ask for: however
    /// much is read, there are as many as are planned and not taken.
    requests: BTreeMap<u64, Request>,
    /// How many there were ever: the number of the next that is made.
    made: u64,
    /// Which request has a part.
    by_part: HashMap<(PackId, u64), u64>,
    /// All before it were begun, or are not wanted any more.
    next: u64,
    /// Bytes under way, and those that came and were not taken.
    held: u64,
    threads: usize,
    is_closed: bool,
}

struct Request {
    wanted: Wanted,
    /// Where its parts begin in the pack's plaintext.
    parts: Vec<u64>,
    /// Of how many of them nobody has asked for their bytes yet.
    untaken: usize,
    status: Status,
}

enum Status {
    Waiting,
    UnderWay,
    Here(Vec<u8>),
    /// It will not come, and would not if it were asked for again.
    Failed(StoreError),
}

impl Request {
    fn length(&self) -> u64 {
        self.wanted.range.end - self.wanted.range.start
    }

    /// Fetches this part of the same pack, too, if it lies near enough. Whether it does.
    fn join(&mut self, part: &Wanted) -> bool {
        let range = &mut self.wanted.range;
        let end = range.end.max(part.range.end);
        let joins = (range.start..=range.end + GAP_BYTES).contains(&part.range.start)
            && end - range.start <= REQUEST_BYTES;
        if joins {
            range.end = end;
            self.parts.push(part.offset);
            self.untaken += 1;
        }
        joins
    }
}

impl Ahead {
    /// For whole packs. Holds up to `budget` bytes, or one request if that is longer. `None` where nothing is gained by it: on
    /// a disk, and where one call at a time is allowed.
    pub fn of_packs(store: &Store, budget: u64) -> Option<Self> {
        Self::beside(store, budget..=budget)
    }

    /// For parts of packs: holds the least of `budgets`, and up to the most where what `replace` was told is long. On a disk, too, which has
    /// nothing to do while segments are opened: one at a time there, as two were no faster.
    pub fn of_parts(store: &Store, budgets: RangeInclusive<u64>) -> Option<Self> {
        match store.connections() {
            None if store.is_disk() => Some(Self::new(store, 1, budgets)),
            _ => Self::beside(store, budgets),
        }
    }

    fn beside(store: &Store, budgets: RangeInclusive<u64>) -> Option<Self> {
        let requests = store.connections().filter(|connections| *connections > 1)?;
        Some(Self::new(store, requests, budgets))
    }

    fn new(store: &Store, requests: usize, budgets: RangeInclusive<u64>) -> Self {
        let store = store.clone();
        let fetch = move |wanted: &Wanted| {
            let name = layout::pack(wanted.pack);
            // Whoever needs what did not come, or came damaged, reads it, and is told what is wrong.
            match wanted.is_whole {
                // Of several stores, the pack of the first is meant: it is proven.
                true => store.leading().get(&name).map_err(StoreError::if_interrupted),
                false => store.get_range_ahead(&name, wanted.range.clone()),
            }
        };
        Self::over(Box::new(fetch), requests, budgets)
    }

    fn over(fetch: Box<Fetch>, requests: usize, budgets: RangeInclusive<u64>) -> Self {
        let (state, changed) = (Mutex::default(), Condvar::new());
        let budget = AtomicU64::new(*budgets.start());
        Ahead { shared: Arc::new(Shared { fetch, budgets, budget, state, changed }), requests }
    }

    /// Bytes that may be held, for what `replace` was told last.
    pub fn budget(&self) -> u64 {
        self.shared.budget()
    }

    /// Says what will be read from now on, in about this order. What was said before is void. How many bytes may be held
    /// is up to it, too.
    pub fn replace(&self, wanted: impl IntoIterator<Item = Wanted>) {
        let mut state = self.shared.state.lock();
        state.forget();
        let added = state.plan(wanted);
        self.shared.make_room(&state, self.requests);
        self.begin(state, added);
    }

    /// Says what will be read after what was said before.
    pub fn add(&self, wanted: impl IntoIterator<Item = Wanted>) {
        let mut state = self.shared.state.lock();
        let added = state.plan(wanted);
        self.begin(state, added);
    }

    /// Has so many more requests made.
    fn begin(&self, mut state: MutexGuard<State>, added: usize) {
        let more = self.requests.min(state.threads + added) - state.threads;
        state.threads += more;
        drop(state);
        self.shared.changed.notify_all();
        for _ in 0..more {
            let shared = self.shared.clone();
            let spawned =
                std::thread::Builder::new().name("ahead".into()).spawn(move || shared.run());
            if spawned.is_err() {
                // Fewer do; with none, everything is read when it is asked for.
                self.shared.state.lock().threads -= 1;
            }
        }
    }

    /// Says which packs will be read whole, each with its length in bytes, in about this order, after what was said before.
    pub fn add_packs(&self, packs: impl IntoIterator<Item = (PackId, u64)>) {
        let whole = |(pack, length)| Wanted { pack, offset: 0, range: 0..length, is_whole: true };
        self.add(packs.into_iter().map(whole));
    }

    /// A whole pack that was wanted, once; else as [`Ahead::take`].
    pub fn take_pack(&self, pack: PackId) -> Option<Result<Vec<u8>, StoreError>> {
        self.take(pack, 0, &(0..0))
    }

    /// The bytes of a part that was wanted, once. Waits where they are under way. `None`: they have to be read.
    ///
    /// # Errors
    ///
    /// The store could not be reached, however often it was tried, or somebody wants to stop.
    pub fn take(
        &self,
        pack: PackId,
        offset: u64,
        range: &Range<u64>,
    ) -> Option<Result<Vec<u8>, StoreError>> {
        let shared = &self.shared;
        let mut state = shared.state.lock();
        let at = state.by_part.remove(&(pack, offset))?;
        while let Some(Request { status: Status::UnderWay, .. }) = state.requests.get(&at) {
            shared.changed.wait(&mut state);
        }
        // Not there: not wanted any more.
        if matches!(state.requests.get(&at)?.status, Status::Waiting) && state.threads > 0 {
            state.drop_forgotten(at, shared.budget());
        }
        let request = state.requests.get_mut(&at)?;
        request.untaken -= 1;
        let is_last = request.untaken == 0;
        let start = request.wanted.range.start;
        let bytes = match (&mut request.status, is_last) {
            (Status::Here(bytes), true) if request.wanted.is_whole => {
                Some(Ok(std::mem::take(bytes)))
            }
            (Status::Here(bytes), _) => cut(bytes, start, range, is_last).map(Ok),
            (Status::Failed(error), _) => Some(Err(error.clone())),
            (Status::Waiting | Status::UnderWay, _) => None,
        };
        if is_last {
            state.let_go(at);
            shared.changed.notify_all();
        }
        bytes
    }

    /// Bytes under way, and those that came and were not taken: for tests.
    pub fn held(&self) -> u64 {
        self.shared.state.lock().held
    }
}

/// The bytes of `range` out of those from `start` on, which nobody needs any more if this is the last.
fn cut(bytes: &mut Vec<u8>, start: u64, range: &Range<u64>, is_last: bool) -> Option<Vec<u8>> {
    let from = usize::try_from(range.start.checked_sub(start)?).ok()?;
    let to = usize::try_from(range.end.checked_sub(start)?).ok()?;
    if is_last && from == 0 && to == bytes.len() {
        return Some(std::mem::take(bytes));
    }
    Some(bytes.get(from..to)?.to_vec())
}

impl Drop for Ahead {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock();
        state.is_closed = true;
        state.forget();
        drop(state);
        self.shared.changed.notify_all();
    }
}

impl State {
    /// Plans requests for these parts behind all that there are. How many.
    fn plan(&mut self, wanted: impl IntoIterator<Item = Wanted>) -> usize {
        let first = self.made;
        // Those that more parts may join, and when each was begun; several of a pack: threads read at several places of it.
        let mut open: HashMap<PackId, Vec<(u64, usize)>> = HashMap::new();
        for (rank, wanted) in wanted.into_iter().enumerate() {
            let part = (wanted.pack, wanted.offset);
            if self.by_part.contains_key(&part) {
                continue;
            }
            let at = if wanted.is_whole {
                self.make(wanted)
            } else {
                let of_pack = open.entry(wanted.pack).or_default();
                of_pack.retain(|(_, begun)| rank - begun < REQUEST_RANGES);
                let joined = of_pack.iter().map(|(at, _)| *at).find(|at| {
                    self.requests.get_mut(at).is_some_and(|request| request.join(&wanted))
                });
                joined.unwrap_or_else(|| {
                    let at = self.make(wanted);
                    of_pack.push((at, rank));
                    at
                })
            };
            self.by_part.insert(part, at);
        }
        (self.made - first) as usize
    }

    /// A request for this alone: its number.
    fn make(&mut self, wanted: Wanted) -> u64 {
        let at = self.made;
        self.made += 1;
        let (parts, status) = (vec![wanted.offset], Status::Waiting);
        self.requests.insert(at, Request { wanted, parts, untaken: 1, status });
        at
    }

    /// Nothing that was said counts any more.
    fn forget(&mut self) {
        while let Some(at) = self.requests.keys().next().copied() {
            self.let_go(at);
        }
        self.next = self.made;
    }

    /// A request's bytes are not needed any more. Those that are under way count until they come.
    fn let_go(&mut self, at: u64) {
        let Some(request) = self.requests.remove(&at) else { return };
        for part in &request.parts {
            let part = (request.wanted.pack, *part);
            // One that was taken may be wanted again by now.
            if self.by_part.get(&part) == Some(&at) {
                self.by_part.remove(&part);
            }
        }
        if matches!(request.status, Status::Here(_)) {
            self.held -= request.length();
        }
    }

    /// Somebody asks for what was not begun, because there is no room: what should have been taken long before, and was not,
    /// never will be. What should have been fetched before is not any more; whoever needs it reads it.
    fn drop_forgotten(&mut self, at: u64, budget: u64) {
        let length = self.requests.get(&at).map_or(0, Request::length);
        if self.held + length <= budget {
            return;
        }
        self.next = self.next.max(at + 1);
        let until = at.saturating_sub(OUT_OF_ORDER);
        while let Some((earlier, _)) = self.requests.range(..until).next() {
            self.let_go(*earlier);
        }
    }
}

impl Shared {
    fn budget(&self) -> u64 {
        self.budget.load(Ordering::Relaxed)
    }

    /// As much room as what is planned wants, with so many requests under way at the most.
    fn make_room(&self, state: &State, requests: usize) {
        let planned: u64 = state.requests.values().map(Request::length).sum();
        let mean = planned.checked_div(state.requests.len() as u64).unwrap_or(0);
        let room = mean.saturating_mul(SPARE_REQUESTS + requests as u64);
        let (least, most) = (*self.budgets.start(), *self.budgets.end());
        self.budget.store(room.clamp(least, most), Ordering::Relaxed);
    }

    /// Fetches what is next, until nobody wants anything any more.
    fn run(&self) {
        let mut state = self.state.lock();
        loop {
            if state.is_closed {
                return;
            }
            let (next, held) = (state.next, state.held);
            let first = state.requests.range_mut(next..).next();
            let first = first.filter(|(_, it)| held == 0 || held + it.length() <= self.budget());
            let Some((&at, request)) = first else {
                self.changed.wait(&mut state);
                continue;
            };
            request.status = Status::UnderWay;
            let (wanted, length) = (request.wanted.clone(), request.length());
            state.next = at + 1;
            state.held += length;
            drop(state);
            // Whoever waits for it must not wait for ever, whatever becomes of it.
            let fetched = panic::catch_unwind(AssertUnwindSafe(|| (self.fetch)(&wanted)));
            state = self.state.lock();
            let request = state.requests.get_mut(&at);
            match (fetched.unwrap_or(Err(None)), request) {
                (Ok(bytes), Some(request)) => request.status = Status::Here(bytes),
                (Err(Some(error)), Some(request)) => {
                    request.status = Status::Failed(error);
                    state.held -= length;
                }
                // Not wanted any more, or left to whoever needs it.
                (_, _) => {
                    state.let_go(at);
                    state.held -= length;
                }
            }
            self.changed.notify_all();
        }
    }
}

#[cfg(test)]
#[path = "ahead_tests.rs"]
mod tests;
