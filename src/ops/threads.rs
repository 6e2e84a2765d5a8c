//! Threads that share one piece of work.

use super::OpsError;
use crate::repository::Repository;

/// More threads than this that wait for a store help no walk: they have directories to read, too.
const WAITING: usize = 8;

/// Does `work`, which shares itself among rayon's threads and waits for small objects or directories. Where the store is far
/// away, on more threads than there are cores: as many as it takes calls at once.
pub fn with_waiting<T: Send>(repository: &Repository, work: impl FnOnce() -> T + Send) -> T {
    let wanted = repository.store().connections().map_or(0, |connections| connections.min(WAITING));
    if repository.threads(wanted) <= rayon::current_num_threads() {
        return work();
    }
    match rayon::ThreadPoolBuilder::new().num_threads(wanted).build() {
        Ok(pool) => pool.install(work),
        // It only takes longer.
        Err(_) => work(),
    }
}

/// Runs `work` on `count` threads, this one among them, and waits for all. The error of the first of them that failed;
/// `what` says what such a thread does, for the message when one panicked.
pub fn run_threads(
    count: usize,
    what: &str,
    work: &(dyn Fn() -> Result<(), OpsError> + Sync),
) -> Result<(), OpsError> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = (1..count).map(|_| scope.spawn(work)).collect();
        let mut results = vec![work()];
        for thread in threads {
            results.push(thread.join().unwrap_or_else(|_| {
                Err(OpsError::Invalid(format!("a thread that {what} failed")))
            }));
        }
        results.into_iter().collect()
    })
}
