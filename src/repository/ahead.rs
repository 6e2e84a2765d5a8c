//! Bytes of packs that are fetched from a store far away before they are asked for, in the order in which they will be.
//!
//! Whoever reads says what will be read. Threads of their own fetch it: as many requests are under way as the store takes
//! at once, and as many bytes are under way or wait to be taken as the budget says. Nothing depends on it: what was
//! not fetched, or could not be, is read as it would have been, with its retries and its errors. The threads make
//! ordinary calls of the store, so that bounds on bytes and requests hold, and a wish to stop ends them.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

use crate::id::PackId;
use crate::store::{Store, layout};

/// Neighbouring ranges of a pack become one request up to so many bytes: what a fast line carries in the time of a
/// round trip, shared by the requests that are under way at once.
const REQUEST_BYTES: u64 = 1 << 20;
/// So many bytes between two ranges are fetched for nothing rather than to make another request.
const GAP_BYTES: u64 = 64 << 10;
/// What is needed later than this many ranges after the first of a request does not become part of it: it would take
/// room until then.
const REQUEST_RANGES: usize = 64;
/// Whoever reads may take this many requests out of their order before what lies behind is taken for forgotten.
const OUT_OF_ORDER: usize = 16;

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

/// Reads bytes of a pack, or, where that is wanted, all of it.
type Fetch = dyn Fn(&Wanted) -> Option<Vec<u8>> + Send + Sync;

struct Shared {
    fetch: Box<Fetch>,
    budget: u64,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// In the order in which they will be needed.
    requests: Vec<Request>,
    /// Which request has a part.
    by_part: HashMap<(PackId, u64), usize>,
    /// All before it were begun, or are not wanted any more.
    next: usize,
    /// All before it were let go.
    kept_from: usize,
    /// Bytes under way, and those that came and were not taken.
    held: u64,
    /// What was asked for before this number was raised is not wanted any more.
    round: u64,
    threads: usize,
    is_closed: bool,
}

struct Request {
    wanted: Wanted,
    /// Of how many parts nobody has asked for their bytes yet.
    untaken: usize,
    /// It came too late, whenever it comes.
    is_forgotten: bool,
    status: Status,
}

enum Status {
    Waiting,
    UnderWay,
    Here(Vec<u8>),
    /// Taken, or never to come.
    Gone,
}

impl Request {
    fn length(&self) -> u64 {
        self.wanted.range.end - self.wanted.range.start
    }
}

impl Ahead {
    /// Holds up to `budget` bytes, or one request if that is longer. `None` where nothing is gained by it: on a disk, and
    /// where one call at a time is allowed.
    pub fn new(store: &Store, budget: u64) -> Option<Self> {
        let requests = store.connections().filter(|connections| *connections > 1)?;
        let store = store.clone();
        let fetch = move |wanted: &Wanted| {
            let name = layout::pack(wanted.pack);
            // Whoever needs what did not come, or came damaged, reads it, and is told what is wrong.
            match wanted.is_whole {
                // Of several stores, the pack of the first is meant: it is proven.
                true => store.leading().get(&name).ok(),
                false => store.get_range_ahead(&name, wanted.range.clone()),
            }
        };
        Some(Self::over(Box::new(fetch), requests, budget))
    }

    fn over(fetch: Box<Fetch>, requests: usize, budget: u64) -> Self {
        let (state, changed) = (Mutex::default(), Condvar::new());
        Ahead { shared: Arc::new(Shared { fetch, budget, state, changed }), requests }
    }

    /// Says what will be read from now on, in about this order. What was said before is void.
    pub fn replace(&self, wanted: impl IntoIterator<Item = Wanted>) {
        self.shared.state.lock().forget();
        self.add(wanted);
    }

    /// Says what will be read after what was said before.
    pub fn add(&self, wanted: impl IntoIterator<Item = Wanted>) {
        let mut state = self.shared.state.lock();
        if state.next == state.requests.len() && state.held == 0 {
            state.forget();
        }
        let first = state.requests.len();
        let mut open: HashMap<PackId, (usize, usize)> = HashMap::new();
        for (rank, wanted) in wanted.into_iter().enumerate() {
            let Wanted { pack, offset, ref range, is_whole } = wanted;
            if state.by_part.contains_key(&(pack, offset)) {
                continue;
            }
            let joined = open.get(&pack).copied().filter(|(at, first_rank)| {
                let before = &state.requests[*at].wanted.range;
                !is_whole
                    && (before.start..=before.end + GAP_BYTES).contains(&range.start)
                    && before.end.max(range.end) - before.start <= REQUEST_BYTES
                    && rank - first_rank < REQUEST_RANGES
            });
            let at = match joined {
                Some((at, _)) => {
                    let request = &mut state.requests[at];
                    let end = &mut request.wanted.range.end;
                    *end = range.end.max(*end);
                    request.untaken += 1;
                    at
                }
                None => {
                    let at = state.requests.len();
                    if !is_whole {
                        open.insert(pack, (at, rank));
                    }
                    state.requests.push(Request {
                        wanted,
                        untaken: 1,
                        is_forgotten: false,
                        status: Status::Waiting,
                    });
                    at
                }
            };
            state.by_part.insert((pack, offset), at);
        }
        let added = state.requests.len() - first;
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
    pub fn take_pack(&self, pack: PackId) -> Option<Vec<u8>> {
        self.take(pack, 0, &(0..0))
    }

    /// The bytes of a part that was wanted, once. Waits where they are under way. `None`: they have to be read.
    pub fn take(&self, pack: PackId, offset: u64, range: &Range<u64>) -> Option<Vec<u8>> {
        let shared = &self.shared;
        let mut state = shared.state.lock();
        let at = state.by_part.remove(&(pack, offset))?;
        let round = state.round;
        while state.round == round && matches!(state.requests[at].status, Status::UnderWay) {
            shared.changed.wait(&mut state);
        }
        if state.round != round {
            return None;
        }
        if matches!(state.requests[at].status, Status::Waiting) && state.threads > 0 {
            state.drop_forgotten(at, shared.budget);
        }
        let request = &mut state.requests[at];
        request.untaken -= 1;
        let is_last = request.untaken == 0;
        let start = request.wanted.range.start;
        let bytes = match (&mut request.status, is_last) {
            (Status::Here(bytes), true) if request.wanted.is_whole => Some(std::mem::take(bytes)),
            (Status::Here(bytes), _) => cut(bytes, start, range, is_last),
            _ => None,
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
    /// Nothing that was said counts any more.
    fn forget(&mut self) {
        for at in 0..self.requests.len() {
            self.let_go(at);
        }
        self.requests.clear();
        self.by_part.clear();
        (self.next, self.kept_from) = (0, 0);
        self.round += 1;
    }

    /// A request's bytes are not needed any more. Those that are under way count until they come.
    fn let_go(&mut self, at: usize) {
        let request = &mut self.requests[at];
        let length = request.length();
        match std::mem::replace(&mut request.status, Status::Gone) {
            Status::Here(_) => self.held -= length,
            Status::UnderWay => request.status = Status::UnderWay,
            Status::Waiting | Status::Gone => {}
        }
    }

    /// Somebody asks for what was not begun, because there is no room: what should have been taken long before, and was not,
    /// never will be. What should have been fetched before is not any more; whoever needs it reads it.
    fn drop_forgotten(&mut self, at: usize, budget: u64) {
        if self.held + self.requests[at].length() <= budget {
            return;
        }
        self.next = self.next.max(at + 1);
        let until = at.saturating_sub(OUT_OF_ORDER);
        for earlier in self.kept_from..until {
            self.requests[earlier].is_forgotten = true;
            self.let_go(earlier);
        }
        self.kept_from = self.kept_from.max(until);
    }
}

impl Shared {
    /// Fetches what is next, until nobody wants anything any more.
    fn run(&self) {
        let mut state = self.state.lock();
        loop {
            if state.is_closed {
                return;
            }
            while state
                .requests
                .get(state.next)
                .is_some_and(|it| !matches!(it.status, Status::Waiting))
            {
                state.next += 1;
            }
            let at = state.next;
            let length = state.requests.get(at).map(Request::length);
            let Some(length) =
                length.filter(|length| state.held == 0 || state.held + length <= self.budget)
            else {
                self.changed.wait(&mut state);
                continue;
            };
            state.next += 1;
            state.held += length;
            let round = state.round;
            let request = &mut state.requests[at];
            request.status = Status::UnderWay;
            let wanted = request.wanted.clone();
            drop(state);
            let fetched = (self.fetch)(&wanted);
            state = self.state.lock();
            let is_wanted = state.round == round
                && state.requests[at].untaken > 0
                && !state.requests[at].is_forgotten;
            match fetched {
                Some(bytes) if is_wanted => state.requests[at].status = Status::Here(bytes),
                _ => {
                    state.held -= length;
                    if state.round == round {
                        state.requests[at].status = Status::Gone;
                    }
                }
            }
            self.changed.notify_all();
        }
    }
}

#[cfg(test)]
#[path = "ahead_tests.rs"]
mod tests;
