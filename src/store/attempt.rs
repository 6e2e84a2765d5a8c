//! One attempt of a call, seen from below: what moved, what the store's server said, and when.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU16, AtomicU64, Ordering};
use std::time::Duration;

/// What is known of an attempt that is under way.
#[derive(Default)]
pub(super) struct Attempt {
    // Milliseconds of the clock when a byte or a reply last moved; 0: nothing has.
    moved_at: AtomicU64,
    // The status of the last reply; 0: none came.
    status: AtomicU16,
    // Milliseconds that the server wants us to wait.
    retry_after: AtomicU64,
    // Seconds by which the server's clock is ahead of ours.
    skew: AtomicI64,
}

tokio::task_local! {
    /// The attempt that the running future belongs to: the transport below OpenDAL's services is handed
    /// requests, and this tells it whose they are.
    pub(super) static ATTEMPT: Arc<Attempt>;
}

#[cfg_attr(not(feature = "http"), allow(dead_code, reason = "only a transport notes these"))]
impl Attempt {
    /// The attempt that the running future belongs to; one that nobody looks at outside of any.
    pub(super) fn current() -> Arc<Attempt> {
        ATTEMPT.try_with(Arc::clone).unwrap_or_default()
    }

    pub(super) fn note_moved(&self, now: Duration) {
        // A clock that has just been started stands at 0, which means something else here.
        self.moved_at.store((now.as_millis() as u64).max(1), Ordering::Relaxed);
    }

    pub(super) fn note_reply(&self, status: u16, retry_after: Option<Duration>, skew: i64) {
        self.status.store(status, Ordering::Relaxed);
        let wait = retry_after.map_or(0, |wait| wait.as_millis() as u64);
        self.retry_after.store(wait, Ordering::Relaxed);
        self.skew.store(skew, Ordering::Relaxed);
    }

    /// When something last moved.
    pub(super) fn moved_at(&self) -> Option<Duration> {
        Some(self.moved_at.load(Ordering::Relaxed)).filter(|at| *at > 0).map(Duration::from_millis)
    }

    /// The status of the last reply.
    pub(super) fn status(&self) -> Option<u16> {
        Some(self.status.load(Ordering::Relaxed)).filter(|status| *status > 0)
    }

    /// How long the server wants to be left alone.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        let wait = self.retry_after.load(Ordering::Relaxed);
        Some(wait).filter(|wait| *wait > 0).map(Duration::from_millis)
    }

    /// Seconds by which the server's clock is ahead of ours.
    pub(super) fn skew(&self) -> i64 {
        self.skew.load(Ordering::Relaxed)
    }
}
