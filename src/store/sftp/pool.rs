//! A few connections to one server, made when there is work for them and made again when they drop.
//!
//! They are made one after another, so that a server never sees more than one of ours that is not yet let in (sshd's
//! MaxStartups). The first is needed, each other is a favour, and so is the first where it is made before there is work:
//! it is made beside the work, asks nobody anything, and when the server refuses it (MaxSessions, a limit of the
//! provider), those that stand have to do.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use opendal::Result;
use parking_lot::Mutex as Lock;
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::connection::Connection;
use super::ssh::{Circumstances, Dialer};

/// More connections than this to one machine help nobody, and each is a process there.
const MOST_CONNECTIONS: usize = 16;

/// How long a connection is waited for that is a favour.
const MOST_PATIENCE: Duration = Duration::from_secs(10);

/// The connections to one server.
pub(super) struct Pool {
    dialer: Dialer,
    wanted: usize,
    // How many the server let us have.
    granted: AtomicUsize,
    standing: Lock<Vec<Arc<Connection>>>,
    dialing: Arc<Mutex<()>>,
    was_reached: AtomicBool,
}

impl Pool {
    pub(super) fn new(dialer: Dialer, wanted: usize) -> Pool {
        let wanted = wanted.clamp(1, MOST_CONNECTIONS);
        Pool {
            dialer,
            wanted,
            granted: AtomicUsize::new(wanted),
            standing: Lock::default(),
            dialing: Arc::default(),
            was_reached: AtomicBool::new(false),
        }
    }

    /// The connection with the least to do.
    pub(super) async fn lease(self: &Arc<Self>) -> Result<Arc<Connection>> {
        if let Some(connection) = self.standing() {
            return Ok(connection);
        }
        let dialing = self.dialing.lock().await;
        // Somebody else's may stand by now.
        if let Some(connection) = self.standing() {
            return Ok(connection);
        }
        self.granted.store(self.wanted, Ordering::Relaxed);
        let connection = self.dial(false).await.map_err(|ended| ended.to_error())?;
        drop(dialing);
        Ok(connection)
    }

    /// The one with the least to do, if any stands; where all are busy, one more is made meanwhile.
    fn standing(self: &Arc<Self>) -> Option<Arc<Connection>> {
        let mut standing = self.standing.lock();
        standing.retain(|connection| !connection.has_ended());
        let connection = Arc::clone(standing.iter().min_by_key(|connection| connection.load())?);
        let count = standing.len();
        drop(standing);
        // One for the pool, one for our caller.
        let is_busy = connection.load() > 2;
        if is_busy && count < self.granted.load(Ordering::Relaxed) {
            self.extend();
        }
        Some(connection)
    }

    /// Makes one more connection beside the work, or the first one before it, unless one is being made.
    pub(super) fn extend(self: &Arc<Self>) {
        let Ok(dialing) = Arc::clone(&self.dialing).try_lock_owned() else { return };
        let pool = Arc::clone(self);
        tokio::spawn(async move {
            // One that does not come soon must not keep those waiting who would make it themselves.
            let dialed = timeout(MOST_PATIENCE, pool.dial(true)).await;
            if !matches!(dialed, Ok(Ok(_))) {
                let count = pool.standing.lock().len();
                pool.granted.store(count.max(1), Ordering::Relaxed);
            }
            drop(dialing);
        });
    }

    async fn dial(
        &self,
        is_extra: bool,
    ) -> std::result::Result<Arc<Connection>, super::connection::Ended> {
        let was_reached = self.was_reached.load(Ordering::Relaxed);
        let connection = self.dialer.dial(Circumstances { is_extra, was_reached }).await?;
        self.was_reached.store(true, Ordering::Relaxed);
        self.standing.lock().push(Arc::clone(&connection));
        Ok(connection)
    }
}
