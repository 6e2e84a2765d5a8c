//! The protocol with its bounds, and the ways in which it can be weakened.

use super::state::{Bits, Session, State};

/// The blobs of the model.
pub const A: Bits = Bits(1);
pub const B: Bits = Bits(2);
pub const AB: Bits = Bits(3);

/// What the store can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// It creates an object only if the name is free, atomically.
    CreateIfAbsent,
    /// It does not: write, then read the other side's object. One maintainer opens generations.
    WriteThenRead,
}

/// A rule that is left out or turned round. Each one has to be caught.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    TimerInsteadOfWaiting,
    AnyNewSnapshotEndsTheWait,
    SessionsListedBeforePublishing,
    PacksLearntBeforeRegistering,
    GenerationNotReadAgain,
    GapInSweepsIgnored,
    NewIndexObjectsBelieved,
    CondemnedPacksCountedOn,
    AlreadyThereTakenForSuccess,
    SweepNotCheckedAfterCommit,
    NotMarkedAgain,
    GenerationsOverlap,
    FreedNumberCounts,
    LiveListIgnored,
    CheckpointNotChecked,
    ForgetDeletesSnapshot,
    UndeleteWithoutSession,
    UndeleteReportedWhenFenced,
    UndeleteWhileOpen,
    UndeleteNotChecked,
    TombsNotMarked,
    NextTombNotMarked,
    TombNumberUsedAgain,
    AbortNotRead,
    FencedSnapshotsNotMarked,
}

/// How much of everything there is. Whatever stays within is explored.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// What the repository holds at first: a pack each.
    pub packs: &'static [Bits],
    /// A snapshot each, saved and reported.
    pub snapshots: &'static [Bits],
    /// For each writer: what its snapshot may need, and how many sessions it may register.
    pub writers: &'static [(&'static [Bits], u8)],
    /// Writers go on with another snapshot while they have sessions left.
    pub repeats: bool,
    /// Writers keep what they know in a cache.
    pub caches: bool,
    /// Writers register under any generation that there was, and what they see when they look after that, in one step,
    /// is what they go by.
    pub guesses: bool,
    /// Listings take two steps.
    pub pages: bool,
    /// Rounds that each collector may begin, one entry a collector.
    pub collectors: &'static [u8],
    pub generations: u8,
    /// Live blobs of partly used packs are copied.
    pub repacks: bool,
    /// What is over is removed: sessions with their ABORTs, forgotten snapshots with their tombs.
    pub removes_sessions: bool,
    /// Objects of older generations are removed.
    pub removes_generations: bool,
    pub forgets: u8,
    pub undeletes: bool,
    /// Commits that are delivered a second time, and tombs that are delivered late or a second time.
    pub late_deliveries: u8,
    /// The maintainer starts again and remembers nothing.
    pub restarts: u8,
    /// The listing of slots may leave out one that the last sweep lists.
    pub short_listings: bool,
}

impl Bounds {
    /// One writer with one session, one collector, one generation, and nothing else.
    pub const SMALL: Bounds = Bounds {
        packs: &[A],
        snapshots: &[A],
        writers: &[(&[A], 1)],
        repeats: false,
        caches: false,
        guesses: false,
        pages: false,
        collectors: &[2],
        generations: 1,
        repacks: false,
        removes_sessions: false,
        removes_generations: false,
        forgets: 0,
        undeletes: false,
        late_deliveries: 0,
        restarts: 0,
        short_listings: false,
    };
}

/// What is checked.
#[derive(Clone, Copy, Debug)]
pub struct Protocol {
    pub class: Class,
    pub broken: Option<Broken>,
    pub bounds: Bounds,
}

impl Protocol {
    pub fn breaks(&self, broken: Broken) -> bool {
        self.broken == Some(broken)
    }

    /// Whether the session holds off nobody any more.
    pub fn is_decided(session: &Session) -> bool {
        !session.snapshot.is_empty() || session.is_aborted
    }

    /// Whether the slot holds a snapshot that newest sweep lets live, forgotten or not.
    pub fn stands(&self, state: &State, session: &Session) -> bool {
        let newest = state.swept();
        let is_let_live = session.generation >= newest || session.live.has(newest);
        !session.snapshot.is_empty()
            && (is_let_live
                || self.breaks(Broken::LiveListIgnored)
                || self.breaks(Broken::ForgetDeletesSnapshot))
    }

    pub fn is_live(&self, state: &State, session: &Session) -> bool {
        self.stands(state, session) && !session.is_tombed()
    }

    /// Which listed things a listing in two pages shows: what was there throughout, and any of what came or
    /// went in between. `choice` says which; `None`, when there are not so many choices.
    pub fn second_page(
        were_there: impl Iterator<Item = (bool, bool)>,
        mut choice: usize,
    ) -> Option<Vec<bool>> {
        let shown = were_there
            .map(|(before, now)| match before == now {
                true => now,
                false => {
                    let is_shown = choice & 1 == 1;
                    choice >>= 1;
                    is_shown
                }
            })
            .collect();
        (choice == 0).then_some(shown)
    }
}
