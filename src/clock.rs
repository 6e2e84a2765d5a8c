//! Now, and sleep: handed in, so that a test can stop and turn the time.

use std::sync::Mutex;
use std::time::Duration;

use crate::units::Timestamp;

/// Where the time comes from.
pub trait Clock: Send + Sync {
    /// The wall clock. It may be wrong, jump and run backwards: nothing's safety rests on it.
    fn now(&self) -> Timestamp;
    /// Seconds since some fixed moment, never running backwards.
    fn elapsed(&self) -> Duration;
    /// Waits.
    fn sleep(&self, duration: Duration);
}

/// The machine's own clock.
pub struct SystemClock {
    start: std::time::Instant,
}

impl SystemClock {
    /// A clock whose [`Clock::elapsed`] starts now.
    #[allow(clippy::disallowed_methods, reason = "this is the one place that asks the machine")]
    pub fn new() -> Self {
        SystemClock { start: std::time::Instant::now() }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods, reason = "this is the one place that asks the machine")]
    fn now(&self) -> Timestamp {
        match std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH) {
            Ok(since) => {
                Timestamp { seconds: since.as_secs() as i64, nanoseconds: since.subsec_nanos() }
            }
            Err(before) => {
                // Downwards, so that the nanoseconds after it stay positive.
                let seconds = before.duration().as_secs() as i64 + 1;
                Timestamp { seconds: -seconds, nanoseconds: 0 }
            }
        }
    }

    fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    #[allow(clippy::disallowed_methods, reason = "this is the one place that waits")]
    fn sleep(&self, duration: Duration) {
        std::thread::sleep(duration);
    }
}

/// A clock that a test sets; sleeping moves it.
pub struct FakeClock {
    now: Mutex<(Timestamp, Duration)>,
}

impl FakeClock {
    /// A clock that stands at `now` until it is moved.
    pub fn new(now: Timestamp) -> Self {
        FakeClock { now: Mutex::new((now, Duration::ZERO)) }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, (Timestamp, Duration)> {
        self.now.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Clock for FakeClock {
    fn now(&self) -> Timestamp {
        self.state().0
    }

    fn elapsed(&self) -> Duration {
        self.state().1
    }

    fn sleep(&self, duration: Duration) {
        let mut state = self.state();
        let nanoseconds = u64::from(state.0.nanoseconds) + u64::from(duration.subsec_nanos());
        state.0.seconds += duration.as_secs() as i64 + (nanoseconds / 1_000_000_000) as i64;
        state.0.nanoseconds = (nanoseconds % 1_000_000_000) as u32;
        state.1 += duration;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sleeping_moves_a_fake_clock() {
        let clock = FakeClock::new(Timestamp { seconds: 10, nanoseconds: 900_000_000 });
        clock.sleep(Duration::from_millis(200));
        assert_eq!(clock.now(), Timestamp { seconds: 11, nanoseconds: 100_000_000 });
        assert_eq!(clock.elapsed(), Duration::from_millis(200));
    }
}
