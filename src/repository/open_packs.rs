//! The packs that a session fills: how many there are at a time, and who waits for one.

use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

use super::error::Result;
use super::packer::PackBuilder;

/// Packs of one kind. Shared by the threads that fill them and those that upload them.
pub struct OpenPacks {
    state: Mutex<State>,
    changed: Condvar,
    /// So many are filled at a time, whatever they are needed for.
    wanted: usize,
    /// So many exist at a time, with those on their way to the store.
    most: usize,
}

#[derive(Default)]
struct State {
    /// Packs that nobody adds to at the moment.
    idle: Vec<PackBuilder>,
    /// Those, and those that somebody adds to.
    filling: usize,
    /// Those, and those that are sealed or uploaded.
    existing: usize,
}

/// A pack that is full, until it is in the store.
pub struct Leaving(Arc<OpenPacks>);

impl Drop for Leaving {
    fn drop(&mut self) {
        self.0.state.lock().existing -= 1;
        self.0.changed.notify_all();
    }
}

impl OpenPacks {
    /// None yet.
    pub fn new(wanted: usize, most: usize) -> Arc<Self> {
        let (state, changed) = (Mutex::default(), Condvar::new());
        Arc::new(OpenPacks { state, changed, wanted, most: most.max(wanted) })
    }

    /// Takes a pack to add to: a new one while fewer are filled than wanted, else the one that is `chosen` among so many.
    /// Waits while there may be no more: rather than to fill one alone, which would tell what follows what.
    pub fn take(
        &self,
        new: impl FnOnce() -> PackBuilder,
        chosen: impl FnOnce(usize) -> Result<usize>,
    ) -> Result<PackBuilder> {
        let mut state = self.state.lock();
        loop {
            let is_enough = state.filling >= self.wanted;
            if is_enough && !state.idle.is_empty() {
                let chosen = chosen(state.idle.len())? % state.idle.len();
                return Ok(state.idle.swap_remove(chosen));
            }
            if state.existing < self.most {
                state.filling += 1;
                state.existing += 1;
                drop(state);
                return Ok(new());
            }
            self.changed.wait(&mut state);
        }
    }

    /// Gives back a pack that is not full.
    pub fn give_back(&self, pack: PackBuilder) {
        self.state.lock().idle.push(pack);
        self.changed.notify_all();
    }

    /// A pack that was taken is full: it leaves, and another may be begun when there is room.
    pub fn close(self: &Arc<Self>) -> Leaving {
        self.state.lock().filling -= 1;
        Leaving(self.clone())
    }

    /// Takes those that nobody adds to, all of them.
    pub fn take_idle(&self) -> Vec<PackBuilder> {
        std::mem::take(&mut self.state.lock().idle)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn any(packs: &OpenPacks) -> PackBuilder {
        packs.take(|| PackBuilder::new(100), |count| Ok(count - 1)).unwrap()
    }

    #[test]
    fn as_many_are_filled_as_are_wanted_and_more_only_for_more_threads() {
        let packs = OpenPacks::new(2, 4);
        let first = any(&packs);
        packs.give_back(first);
        let (first, second) = (any(&packs), any(&packs));
        packs.give_back(first);
        packs.give_back(second);
        assert_eq!(packs.take_idle().len(), 2);
        let packs = OpenPacks::new(2, 4);
        let three = [any(&packs), any(&packs), any(&packs)];
        three.into_iter().for_each(|pack| packs.give_back(pack));
        assert_eq!(packs.take_idle().len(), 3);
    }

    #[test]
    fn none_is_filled_alone_whileothers_leave() {
        let packs = OpenPacks::new(2, 4);
        let pack = any(&packs);
        let others = [any(&packs), any(&packs), any(&packs)].map(|_| packs.close());
        packs.give_back(pack);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| any(&packs).body_length());
            for _ in 0..10_000 {
                std::thread::yield_now();
            }
            assert!(!waiting.is_finished(), "it takes the one that is left");
            drop(others);
            waiting.join().unwrap();
        });
        assert_eq!(packs.take_idle().len(), 1);
    }

    #[test]
    fn never_more_exist_than_may_and_whoever_waits_goes_on() {
        let packs = OpenPacks::new(2, 3);
        let (existing, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..6 {
                scope.spawn(|| {
                    for round in 0..500 {
                        let begin = || {
                            most.fetch_max(
                                existing.fetch_add(1, Ordering::SeqCst) + 1,
                                Ordering::SeqCst,
                            );
                            PackBuilder::new(100)
                        };
                        let pack = packs.take(begin, |_| Ok(round)).unwrap();
                        if round % 3 > 0 {
                            packs.give_back(pack);
                            continue;
                        }
                        let leaving = packs.close();
                        std::thread::yield_now();
                        existing.fetch_sub(1, Ordering::SeqCst);
                        drop(leaving);
                    }
                });
            }
        });
        assert!((2..=3).contains(&most.into_inner()));
        assert_eq!(packs.take_idle().len(), existing.into_inner());
    }
}
