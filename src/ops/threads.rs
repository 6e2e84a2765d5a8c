//! Threads that share one piece of work.

use super::OpsError;

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
