//! Work that is handed to rayon's threads: how much of it at a time, and what a thread keeps from one piece to the next.

use parking_lot::{Condvar, Mutex};

/// How many pieces of work may be with the workers at a time.
pub struct Permits {
    free: Mutex<usize>,
    returned: Condvar,
}

impl Permits {
    /// So many that no thread has to wait for the next piece.
    pub fn for_all_threads() -> Self {
        let free = Mutex::new(rayon::current_num_threads() * 2 + 2);
        Permits { free, returned: Condvar::new() }
    }

    /// Waits until one is free.
    pub fn take(&self) -> Permit<'_> {
        let mut free = self.free.lock();
        while *free == 0 {
            self.returned.wait(&mut free);
        }
        *free -= 1;
        Permit { permits: self }
    }
}

/// One piece of work with the workers; over when it is dropped, however the work ended.
pub struct Permit<'p> {
    permits: &'p Permits,
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        *self.permits.free.lock() += 1;
        self.permits.returned.notify_one();
    }
}

/// Workers that are not at work just now, each with what it keeps: its open segment.
pub struct Idle<W>(Mutex<Vec<W>>);

impl<W> Idle<W> {
    /// None yet.
    pub fn new() -> Self {
        Idle(Mutex::new(Vec::new()))
    }

    /// Does a piece of work with one of them, or with a new one where all are busy.
    pub fn with<T, E>(
        &self,
        hire: impl FnOnce() -> Result<W, E>,
        work: impl FnOnce(&mut W) -> Result<T, E>,
    ) -> Result<T, E> {
        let idle = self.0.lock().pop();
        let mut worker = match idle {
            Some(worker) => worker,
            None => hire()?,
        };
        let result = work(&mut worker);
        self.0.lock().push(worker);
        result
    }

    /// All of them, when nothing is left to do.
    pub fn dismiss(&self) -> Vec<W> {
        std::mem::take(&mut *self.0.lock())
    }
}
