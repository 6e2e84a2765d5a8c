//! The way to a store: how long to try, how much at once, how fast, who is told and who may stop it.
//!
//! A call that fails for a reason that passes is tried again. What passes: a line that broke, a name that cannot be
//! resolved just now, silence, and the statuses 408, 425, 429, 500, 502, 503 and 504. What does not: anything else
//! that a server says. How long: fifteen minutes for a store that has answered this process before, and half a minute
//! for one that never has, because that is more often a slip in its address than a cable.

use std::cell::Cell;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use opendal::ErrorKind;
use tokio::sync::Semaphore;

use super::attempt::Attempt;
use super::error::{Kind, StoreError};
use super::rate::Limiter;
use super::traffic::Counters;
use crate::clock::Clock;
use crate::monitor::Monitor;

/// How often a call under way looks whether somebody wants it to stop.
const TICK: Duration = Duration::from_millis(100);
/// What begins after the wish to stop may say goodbye, in all so long.
const GRACE: Duration = Duration::from_millis(800);
/// Some servers answer "denied" while they lock a file: so often it is tried again.
const DENIED_TRIES: u32 = 3;
/// Notes of waits are told so far apart at least: many calls wait at once.
const NOTE_INTERVAL: Duration = Duration::from_secs(2);
/// Clocks that differ by more seconds than this make signatures invalid.
const SKEW_MAX: i64 = 300;
/// What the system may still hold of an upload when its last byte was handed over.
const BUFFERED_MAX: u64 = 4 << 20;
/// The slowest line whose uploads are not taken for dead, in bytes a second.
const SLOWEST: u64 = 32 << 10;

/// How long to try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// For a call to a store that has answered before.
    pub total: Duration,
    /// For a call to a store that has never answered.
    pub first: Duration,
    /// The first wait; each further one is about twice as long.
    pub shortest_wait: Duration,
    /// No wait is longer, unless the server asks for it.
    pub longest_wait: Duration,
    /// An attempt in which no byte moves for so long has failed.
    pub silence: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Patience {
            total: Duration::from_secs(15 * 60),
            first: Duration::from_secs(30),
            shortest_wait: Duration::from_millis(200),
            longest_wait: Duration::from_secs(30),
            silence: Duration::from_secs(60),
        }
    }
}

/// The way to a store. All clones of a store share one.
pub(super) struct Line {
    pub(super) location: String,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) monitor: Arc<dyn Monitor>,
    pub(super) up: Option<Limiter>,
    pub(super) down: Option<Limiter>,
    pub(super) counters: Arc<Counters>,
    // `None`: calls are neither watched nor repeated, as on a disk.
    pub(super) patience: Option<Patience>,
    pub(super) calls: Semaphore,
    // How many turns it has.
    pub(super) connections: usize,
    // Whether bytes pass through `wire`, which notes and counts them.
    pub(super) is_wired: bool,
    pub(super) has_answered: AtomicBool,
    // Milliseconds of the clock; 0: not yet.
    pub(super) stop_seen: AtomicU64,
    pub(super) noted_at: Arc<AtomicU64>,
    // How many probes race: nothing waits for its bytes' turn meanwhile.
    pub(super) races: AtomicUsize,
    // How often a call was tried again.
    pub(super) retries: AtomicU64,
}

/// A race that is being run; it ends when this is dropped.
pub(super) struct Race<'line>(&'line AtomicUsize);

impl Drop for Race<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How an attempt ended.
pub(super) enum Watched<T> {
    Ended(opendal::Result<T>),
    Silent(Duration),
    Stopped,
}

/// Whether to try again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Passes,
    PassesPerhaps,
    Stays,
}

impl Line {
    /// The same way for one runner of a race: with a turn of its own, and without bounds on bytes, which would put the
    /// runners in a row. `wire` knows only the line that it was made with: [`Line::begin_race`] lifts the bounds of that one.
    pub(super) fn for_a_runner(&self) -> Line {
        let copied = |number: &AtomicU64| AtomicU64::new(number.load(Ordering::Relaxed));
        Line {
            location: self.location.clone(),
            clock: self.clock.clone(),
            monitor: self.monitor.clone(),
            up: None,
            down: None,
            counters: self.counters.clone(),
            patience: self.patience,
            calls: Semaphore::new(1),
            connections: 1,
            is_wired: self.is_wired,
            has_answered: AtomicBool::new(self.has_answered.load(Ordering::Relaxed)),
            stop_seen: copied(&self.stop_seen),
            noted_at: self.noted_at.clone(),
            races: AtomicUsize::new(0),
            retries: AtomicU64::new(0),
        }
    }

    /// Lifts the bounds on bytes for as long as a race lasts: it sends a few kilobytes.
    pub(super) fn begin_race(&self) -> Race<'_> {
        self.races.fetch_add(1, Ordering::Relaxed);
        Race(&self.races)
    }

    /// The bound on bytes up that counts now.
    pub(super) fn up_limit(&self) -> Option<&Limiter> {
        self.up.as_ref().filter(|_| self.races.load(Ordering::Relaxed) == 0)
    }

    /// The bound on bytes down that counts now.
    pub(super) fn down_limit(&self) -> Option<&Limiter> {
        self.down.as_ref().filter(|_| self.races.load(Ordering::Relaxed) == 0)
    }

    /// Waits for a call, until it ends, nothing moves any more, or somebody wants to stop. `turn` is when it had waited
    /// for its turn.
    pub(super) async fn watch<T>(
        &self,
        attempt: &Attempt,
        sent_bytes: u64,
        turn: &Cell<Option<Duration>>,
        call: impl Future<Output = opendal::Result<T>>,
    ) -> Watched<T> {
        let begun = self.clock.elapsed();
        let silence = self.silence(sent_bytes);
        let mut call = pin!(async {
            // The semaphore is never closed; without it, the call would only go out of turn.
            let _permit = self.calls.acquire().await;
            let now = self.clock.elapsed();
            turn.set(Some(now));
            attempt.note_moved(now);
            call.await
        });
        loop {
            if let Ok(result) = tokio::time::timeout(TICK, call.as_mut()).await {
                return Watched::Ended(result);
            }
            if self.must_stop(begun) {
                return Watched::Stopped;
            }
            let now = self.clock.elapsed();
            // Nothing has moved yet: it still waits for its turn.
            let quiet = attempt.moved_at().map_or(Duration::ZERO, |at| now.saturating_sub(at));
            if quiet > silence {
                return Watched::Silent(quiet);
            }
        }
    }

    fn silence(&self, sent_bytes: u64) -> Duration {
        let silence = self.patience.unwrap_or_default().silence;
        match self.is_wired {
            true => silence + Duration::from_secs(sent_bytes.min(BUFFERED_MAX) / SLOWEST),
            // Nobody sees bytes move: all of it at the slowest, and what was not said beforehand in fifteen times.
            false => silence * 15 + Duration::from_secs(sent_bytes / SLOWEST),
        }
    }

    /// Whether a call that began then must end.
    fn must_stop(&self, begun: Duration) -> bool {
        if !self.monitor.interrupted() {
            return false;
        }
        let now = self.clock.elapsed().as_millis() as u64;
        let seen = match self.stop_seen.compare_exchange(
            0,
            now.max(1),
            Ordering::Relaxed,
            Ordering::Relaxed,
        ) {
            Ok(_) => now.max(1),
            Err(seen) => seen,
        };
        (begun.as_millis() as u64) < seen || now > seen + GRACE.as_millis() as u64
    }

    /// Since when a call fails, now that an attempt which had its turn then has failed: since the first that did. It
    /// counts anew after one that showed life, so that a long upload over a line that breaks now and then is not given up.
    pub(super) fn failing_since(
        &self,
        before: Option<Duration>,
        attempt: &Attempt,
        turn: Option<Duration>,
    ) -> Duration {
        match before {
            Some(before) if !self.showed_life(attempt, turn) => before,
            _ => self.clock.elapsed(),
        }
    }

    /// Whether bytes moved for longer than a connection takes to come about and a buffer to fill, which they do on a dead
    /// line, too. That a server answers with a refusal is no life: it may do so for ever.
    fn showed_life(&self, attempt: &Attempt, turn: Option<Duration>) -> bool {
        let is_refused = attempt.status().is_some_and(|status| status >= 400);
        let (Some(turn), Some(moved_at)) = (turn, attempt.moved_at()) else { return false };
        !is_refused && moved_at.saturating_sub(turn) >= self.patience.unwrap_or_default().silence
    }

    /// How long to wait before another attempt; `None`: there is to be none. `tries` attempts have failed, and the first
    /// of them `failing_for` ago; the store said "denied" to `denials` of them.
    pub(super) fn consider(
        &self,
        error: &opendal::Error,
        attempt: &Attempt,
        tries: u32,
        denials: u32,
        failing_for: Duration,
    ) -> Option<Duration> {
        let patience = self.patience?;
        match judge(error, attempt.status()) {
            Verdict::Stays => return None,
            Verdict::PassesPerhaps if denials >= DENIED_TRIES => return None,
            Verdict::PassesPerhaps | Verdict::Passes => {}
        }
        let doubled = patience.shortest_wait.saturating_mul(1 << (tries - 1).min(16));
        let longest = doubled.min(patience.longest_wait);
        // Half of it at least, so that two that failed together do not come back together.
        let wait = longest.mul_f64(0.5 + 0.5 * chance());
        let wait = wait.max(attempt.retry_after().unwrap_or_default());
        let bound = match self.has_answered.load(Ordering::Relaxed) {
            true => patience.total,
            false => patience.first,
        };
        (failing_for + wait <= bound).then_some(wait)
    }

    /// Waits before another attempt, and says so. A wish to stop ends it.
    pub(super) fn wait(&self, name: &str, wait: Duration, reason: &str) -> Result<(), StoreError> {
        self.counters.retry();
        self.retries.fetch_add(1, Ordering::Relaxed);
        let begun = self.clock.elapsed();
        let now = begun.as_millis() as u64;
        let noted = self.noted_at.load(Ordering::Relaxed);
        let is_time = noted == 0 || now >= noted + NOTE_INTERVAL.as_millis() as u64;
        // What is over in a moment is no news.
        if is_time && wait >= Duration::from_secs(1) {
            self.noted_at.store(now.max(1), Ordering::Relaxed);
            let seconds = wait.as_secs_f64().round() as u64;
            self.monitor.note(&format!("{}: {reason}; trying again in {seconds} s", self.location));
        }
        self.sleep(name, begun + wait)
    }

    /// Waits for its turn on a line whose bytes nobody sees, so that the whole of an object goes at once.
    pub(super) fn pace(
        &self,
        name: &str,
        limiter: Option<&Limiter>,
        bytes: u64,
    ) -> Result<(), StoreError> {
        let wait = limiter.map_or(Duration::ZERO, |limiter| limiter.reserve(bytes));
        self.sleep(name, self.clock.elapsed() + wait)
    }

    /// Sleeps until a time of the clock, in steps that end within a tenth of a second of a wish to stop.
    fn sleep(&self, name: &str, until: Duration) -> Result<(), StoreError> {
        loop {
            let left = until.saturating_sub(self.clock.elapsed());
            if left.is_zero() {
                return Ok(());
            }
            // No wait is worth it to somebody who wants to go.
            if self.monitor.interrupted() {
                return Err(StoreError::interrupted(name));
            }
            self.clock.sleep(left.min(TICK));
        }
    }

    /// Whether a call that begins now has any time left.
    pub(super) fn may_begin(&self, name: &str) -> Result<(), StoreError> {
        match self.must_stop(self.clock.elapsed()) {
            true => Err(StoreError::interrupted(name)),
            false => Ok(()),
        }
    }

    /// An error for whoever called, with what is known of the server's clock.
    pub(super) fn explain(
        &self,
        name: &str,
        error: &opendal::Error,
        attempt: &Attempt,
    ) -> StoreError {
        if attempt.status() == Some(507) {
            return StoreError::full(name);
        }
        let mut explained = StoreError::from_opendal(name, error);
        if explained.kind == Kind::Denied && attempt.skew().abs() > SKEW_MAX {
            explained.message.push_str(&format!(
                "; this machine's clock is {} minutes off the store's: set it right",
                attempt.skew().abs() / 60
            ));
        }
        explained
    }

    /// The same of a call that is given up after so many attempts.
    pub(super) fn give_up(&self, error: StoreError, attempt: &Attempt, tries: u32) -> StoreError {
        if error.kind != Kind::Unavailable {
            return error;
        }
        // What a server says is about the object; what a line does, about the place.
        let place = match attempt.status() {
            None if self.is_wired => format!("{}: ", self.location),
            _ => String::new(),
        };
        let after = match tries {
            1 => String::new(),
            tries => format!(", after {tries} attempts"),
        };
        StoreError { message: format!("{place}{}{after}", error.message), ..error }
    }
}

/// A number from 0 to 1.
fn chance() -> f64 {
    let mut bytes = [0; 4];
    // Without any, all wait the longest: nothing's safety rests on it.
    if getrandom::fill(&mut bytes).is_err() {
        return 1.0;
    }
    f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX)
}

fn judge(error: &opendal::Error, status: Option<u16>) -> Verdict {
    match error.kind() {
        ErrorKind::PermissionDenied if error.is_temporary() => return Verdict::PassesPerhaps,
        ErrorKind::PermissionDenied | ErrorKind::NotFound | ErrorKind::ConditionNotMatch => {
            return Verdict::Stays;
        }
        ErrorKind::RateLimited => return Verdict::Passes,
        _ => {}
    }
    if error.kind() == ErrorKind::Unexpected
        && matches!(status, Some(408 | 425 | 429 | 500 | 502 | 503 | 504))
    {
        return Verdict::Passes;
    }
    if !error.is_temporary() || is_about_trust(error) {
        return Verdict::Stays;
    }
    Verdict::Passes
}

/// A server whose certificate does not fit does not get a better one by waiting.
fn is_about_trust(error: &opendal::Error) -> bool {
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let text = error.to_string();
        if text.contains("certificate") || text.contains("InvalidMessage") {
            return true;
        }
        cause = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::FakeClock;
    use crate::store::Access;
    use crate::units::Timestamp;

    #[test]
    fn patience_counts_from_the_first_failure_and_anew_after_an_attempt_that_lived() {
        let clock = Arc::new(FakeClock::new(Timestamp { seconds: 0, nanoseconds: 0 }));
        let access = Access { clock: clock.clone(), ..Access::default() };
        let line = access.line("far away".to_string(), true);
        let seconds = Duration::from_secs;
        clock.sleep(seconds(1000));
        let now = clock.elapsed();
        // When it had its turn, when something last moved and what the server said; whether it counts anew.
        for (turn, moved_at, status, is_anew) in [
            (Some(500), Some(999), None, true),
            (Some(500), Some(560), None, true),
            (Some(500), Some(999), Some(200), true),
            (Some(500), Some(530), None, false),
            (Some(500), Some(500), None, false),
            (Some(500), Some(999), Some(503), false),
            (None, None, None, false),
        ] {
            let attempt = Attempt::default();
            if let Some(moved_at) = moved_at {
                attempt.note_moved(seconds(moved_at));
            }
            if let Some(status) = status {
                attempt.note_reply(status, None, 0);
            }
            let turn = turn.map(seconds);
            let case = format!("{turn:?} {moved_at:?} {status:?}");
            assert_eq!(line.failing_since(None, &attempt, turn), now, "{case}");
            let since = line.failing_since(Some(seconds(300)), &attempt, turn);
            assert_eq!(since, if is_anew { now } else { seconds(300) }, "{case}");
        }
    }

    #[test]
    fn a_denial_after_connection_errors_is_the_first_denial() {
        let access = Access::default();
        let line = access.line("far away".to_string(), true);
        let attempt = Attempt::default();
        let denied = opendal::Error::new(ErrorKind::PermissionDenied, "token").set_temporary();
        let consider = |tries, denials| {
            line.consider(&denied, &attempt, tries, denials, Duration::from_secs(1))
        };
        assert!(consider(6, 1).is_some());
        assert!(consider(7, 2).is_some());
        assert_eq!(consider(8, 3), None);
        assert_eq!(consider(3, 3), None);
    }
}
