//! What went over the line: requests by sort, bytes, repetitions.

use std::sync::atomic::{AtomicU64, Ordering};

/// What a request does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sort {
    Read,
    Write,
    List,
    Look,
    Delete,
    Other,
}

/// What has gone over the line so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Requests that read an object or a part of one.
    pub reads: u64,
    /// Requests that write: objects, their moves, folders.
    pub writes: u64,
    /// Requests for a page of a listing.
    pub lists: u64,
    /// Requests that ask for an object's length.
    pub looks: u64,
    /// Requests that delete.
    pub deletes: u64,
    /// Others: for credentials, tokens, regions.
    pub others: u64,
    /// Bytes of objects (and of what surrounds them in requests' bodies) sent.
    pub uploaded_bytes: u64,
    /// Bytes of replies' bodies received.
    pub downloaded_bytes: u64,
    /// Calls that were tried again.
    pub retries: u64,
}

impl Traffic {
    /// All requests together.
    pub fn requests(&self) -> u64 {
        self.reads + self.writes + self.lists + self.looks + self.deletes + self.others
    }

    /// This and what went over another line, together.
    pub(super) fn with(&self, other: &Traffic) -> Traffic {
        Traffic {
            reads: self.reads + other.reads,
            writes: self.writes + other.writes,
            lists: self.lists + other.lists,
            looks: self.looks + other.looks,
            deletes: self.deletes + other.deletes,
            others: self.others + other.others,
            uploaded_bytes: self.uploaded_bytes + other.uploaded_bytes,
            downloaded_bytes: self.downloaded_bytes + other.downloaded_bytes,
            retries: self.retries + other.retries,
        }
    }
}

/// Counts it.
#[derive(Default)]
pub(super) struct Counters {
    requests: [AtomicU64; 6],
    uploaded: AtomicU64,
    downloaded: AtomicU64,
    retries: AtomicU64,
}

impl Counters {
    pub(super) fn count(&self, sort: Sort) {
        self.requests[sort as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn upload(&self, bytes: u64) {
        self.uploaded.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn download(&self, bytes: u64) {
        self.downloaded.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn retry(&self) {
        self.retries.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn snapshot(&self) -> Traffic {
        let of = |sort: Sort| self.requests[sort as usize].load(Ordering::Relaxed);
        Traffic {
            reads: of(Sort::Read),
            writes: of(Sort::Write),
            lists: of(Sort::List),
            looks: of(Sort::Look),
            deletes: of(Sort::Delete),
            others: of(Sort::Other),
            uploaded_bytes: self.uploaded.load(Ordering::Relaxed),
            downloaded_bytes: self.downloaded.load(Ordering::Relaxed),
            retries: self.retries.load(Ordering::Relaxed),
        }
    }
}
