//! How fast bytes may go over a line: a bucket that is let out piece by piece, so that several calls share a line
//! fairly and none of them goes in bursts.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::clock::Clock;

/// What a line may have lost by idling and make up for at once: more would be a burst.
const SLACK: Duration = Duration::from_millis(100);

/// The largest piece that is let through at once, in bytes, where the rate allows it.
#[cfg(any(test, feature = "http"))]
pub(super) const PIECE: usize = 64 << 10;

/// A bound on bytes a second in one direction; clones share it.
#[derive(Clone)]
pub(super) struct Limiter {
    rate: u64,
    clock: Arc<dyn Clock>,
    free_at: Arc<Mutex<Duration>>,
}

impl Limiter {
    /// At most `rate` bytes a second; at least one.
    pub(super) fn new(rate: u64, clock: Arc<dyn Clock>) -> Self {
        let free_at = Arc::new(Mutex::new(clock.elapsed()));
        Limiter { rate: rate.max(1), clock, free_at }
    }

    /// How many bytes to let through at once: what takes a twentieth of a second, at least one byte.
    #[cfg(any(test, feature = "http"))]
    pub(super) fn piece(&self) -> usize {
        usize::try_from(self.rate / 20).unwrap_or(PIECE).clamp(1, PIECE)
    }

    /// Takes its turn with so many bytes: how long to wait before they may go.
    pub(super) fn reserve(&self, bytes: u64) -> Duration {
        let now = self.clock.elapsed();
        let mut free_at = self.free_at.lock();
        let start = (*free_at).max(now.saturating_sub(SLACK));
        *free_at = start + self.time_for(bytes);
        start.saturating_sub(now)
    }

    /// How long so many bytes take.
    pub(super) fn time_for(&self, bytes: u64) -> Duration {
        Duration::from_secs_f64(bytes as f64 / self.rate as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::FakeClock;
    use crate::units::Timestamp;

    fn limiter(rate: u64) -> (Limiter, Arc<FakeClock>) {
        let clock = Arc::new(FakeClock::new(Timestamp { seconds: 0, nanoseconds: 0 }));
        clock.sleep(Duration::from_secs(100));
        (Limiter::new(rate, clock.clone()), clock)
    }

    #[test]
    fn pieces_wait_their_turn_and_the_rate_is_kept() {
        let (limiter, _) = limiter(1000);
        let waits: Vec<u128> = (0..4).map(|_| limiter.reserve(50).as_millis()).collect();
        assert_eq!(waits, [0, 50, 100, 150]);
    }

    #[test]
    fn a_line_that_idled_makes_up_for_a_tenth_of_a_second_and_no_more() {
        let (limiter, clock) = limiter(1000);
        limiter.reserve(50);
        clock.sleep(Duration::from_secs(60));
        let waits: Vec<u128> = (0..4).map(|_| limiter.reserve(50).as_millis()).collect();
        assert_eq!(waits, [0, 0, 0, 50]);
    }

    #[test]
    fn a_piece_is_a_twentieth_of_a_second_and_bounded() {
        assert_eq!(limiter(20_000).0.piece(), 1000);
        assert_eq!(limiter(u64::MAX).0.piece(), PIECE);
        assert_eq!(limiter(1).0.piece(), 1);
        assert_eq!(limiter(0).0.piece(), 1);
    }
}
