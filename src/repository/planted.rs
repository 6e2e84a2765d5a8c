//! Steps of the protocol that a test leaves out, to see whether the simulation notices: each is there because
//! something goes wrong without it. Compiled in with the feature `planted` only, which no program is built with.

/// A step of the protocol (`docs/design/collection.md`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// After registering, a writer looks whether a generation began meanwhile.
    LookAfterRegistering,
    /// A writer counts on nothing that the open generation condemns.
    ExcludeCondemned,
    /// After committing, a writer looks whether a sweep was published without it.
    LookAfterCommitting,
    /// A collector waits for the sessions that may count on what it condemned, or fences them.
    WaitForSessions,
    /// Before it sweeps, a collector spares what has come to be needed.
    SpareNeeded,
}

#[cfg(feature = "planted")]
thread_local! {
    static LEFT_OUT: std::cell::Cell<Option<Step>> = const { std::cell::Cell::new(None) };
}

/// From now on the calling thread leaves out this step, and no other.
#[cfg(feature = "planted")]
pub fn leave_out(step: Option<Step>) {
    LEFT_OUT.set(step);
}

/// Whether the calling thread leaves out this step.
#[cfg(feature = "planted")]
pub fn is_left_out(step: Step) -> bool {
    LEFT_OUT.get() == Some(step)
}

/// Whether the calling thread leaves out this step: never.
#[cfg(not(feature = "planted"))]
pub const fn is_left_out(_: Step) -> bool {
    false
}
