//! What a store needs of whoever opens it: secrets, bounds, a clock, and somebody who listens.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};

use tokio::sync::Semaphore;
use zeroize::Zeroizing;

use super::line::{Line, Patience};
use super::rate::Limiter;
use super::traffic::Counters;
use crate::clock::{Clock, SystemClock};
use crate::monitor::{Monitor, SilentMonitor};

/// Calls at once over a network, where nothing else is said.
pub const CONNECTIONS: usize = 8;
/// More calls at once than this help nobody.
pub const CONNECTIONS_MAX: usize = 256;

/// What a store needs of whoever opens it.
#[derive(Clone)]
pub struct Access {
    /// What the person's environment says about the service, by the name that the service has for it
    /// (`account_key`, `password`, `region`): secrets, and what goes with them. An option of the location is
    /// stronger.
    pub settings: BTreeMap<String, Zeroizing<String>>,
    /// At most so many bytes a second up.
    pub upload_limit: Option<u64>,
    /// At most so many bytes a second down.
    pub download_limit: Option<u64>,
    /// So many calls at once; `None`: eight over a network, no bound on a disk.
    pub connections: Option<usize>,
    /// How long to try.
    pub patience: Patience,
    /// Where the time comes from.
    pub clock: Arc<dyn Clock>,
    /// Who is told of waits, and asked whether to stop.
    pub monitor: Arc<dyn Monitor>,
}

impl Default for Access {
    fn default() -> Self {
        Access {
            settings: BTreeMap::new(),
            upload_limit: None,
            download_limit: None,
            connections: None,
            patience: Patience::default(),
            clock: Arc::new(SystemClock::new()),
            monitor: Arc::new(SilentMonitor),
        }
    }
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Names only: values may be secrets.
        f.debug_struct("Access").field("settings", &self.settings.keys()).finish_non_exhaustive()
    }
}

impl Access {
    /// The way to a store at this location.
    pub(super) fn line(&self, location: String, is_remote: bool) -> Line {
        let limiter = |limit: Option<u64>| limit.map(|rate| Limiter::new(rate, self.clock.clone()));
        let connections = match (self.connections, is_remote) {
            (Some(connections), _) => connections.clamp(1, CONNECTIONS_MAX),
            (None, true) => CONNECTIONS,
            (None, false) => Semaphore::MAX_PERMITS,
        };
        Line {
            location,
            clock: self.clock.clone(),
            monitor: self.monitor.clone(),
            up: limiter(self.upload_limit),
            down: limiter(self.download_limit),
            counters: Arc::new(Counters::default()),
            patience: is_remote.then_some(self.patience),
            calls: Semaphore::new(connections),
            connections,
            is_wired: false,
            has_answered: AtomicBool::new(false),
            stop_seen: AtomicU64::new(0),
            noted_at: Arc::default(),
            races: AtomicUsize::new(0),
            retries: AtomicU64::new(0),
        }
    }
}
