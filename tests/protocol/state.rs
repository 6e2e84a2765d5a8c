//! What the store holds and what each process remembers, as one small value.
//!
//! Names in the store are random, so states that differ only in which pack or session has which name are one
//! state: packs and sessions are kept sorted, and whatever concerns one of them (which sweep names it, which
//! process has seen it) is written at it and not in a list of names elsewhere.

pub const WRITERS: usize = 2;
pub const COLLECTORS: usize = 2;
pub const PROCESSES: usize = WRITERS + COLLECTORS;
/// Generations 1 and 2 can be opened; 0 stands for "before the first".
pub const NEWEST_GENERATION: u8 = 2;
const PACKS: usize = 8;
const SESSIONS: usize = 9;

/// A small set of small numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Bits(pub u8);

impl Bits {
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub fn has(self, number: u8) -> bool {
        self.0 >> number & 1 == 1
    }

    pub fn set(&mut self, number: u8, to: bool) {
        self.0 = self.0 & !(1 << number) | u8::from(to) << number;
    }

    pub fn clear(&mut self, numbers: &[u8]) {
        for number in numbers {
            self.set(*number, false);
        }
    }

    pub fn and(self, other: Bits) -> Bits {
        Bits(self.0 & other.0)
    }

    pub fn or(self, other: Bits) -> Bits {
        Bits(self.0 | other.0)
    }

    pub fn without(self, other: Bits) -> Bits {
        Bits(self.0 & !other.0)
    }
}

/// What one process remembers of one pack. Bits of [`Pack::facts`].
pub mod fact {
    /// It was there when the first page of a listing was taken.
    pub const LISTED: u8 = 0;
    /// A sweep or the open generation names it, as far as this session has read.
    pub const BANNED: u8 = 1;
    /// The process believes that it is there.
    pub const KNOWN: u8 = 2;
    /// The process's session uploaded it.
    pub const OWN: u8 = 3;
    /// The process's cache remembers that it was swept.
    pub const REFUSED: u8 = 4;
    /// A collector means to condemn it, and later to delete it.
    pub const CHOSEN: u8 = 5;
}

/// What one collector remembers of one session. Bits of [`Session::marks`].
pub mod mark {
    /// It was there when the first page of a listing was taken.
    pub const LISTED: u8 = 0;
    /// The collector waits until it is decided.
    pub const AWAITED: u8 = 1;
    /// Its snapshot was seen, and is a root unless it is forgotten.
    pub const SEEN: u8 = 2;
}

/// One object under `packs/`, from its upload until nobody mentions it any more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pack {
    /// What it holds. Empty: this place is free.
    pub blobs: Bits,
    /// The generation of the session that wrote it; its name tells.
    pub generation: u8,
    pub is_stored: bool,
    /// An index object names it.
    pub is_indexed: bool,
    /// Bit k: `gc/k.condemned` names it.
    pub condemned: Bits,
    /// Bit k: `gc/k.sweep` names it.
    pub swept: Bits,
    pub facts: [Bits; PROCESSES],
}

/// What somebody was told about a snapshot. Nobody in the protocol reads it; the properties do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Claim {
    #[default]
    Nothing,
    /// Reported as saved, or as brought back.
    Saved,
    Forgotten,
    /// Somebody gave the order to forget it, and did not hear that it was carried out.
    Ordered,
    /// Its tomb is being undone, and nothing was reported yet.
    Returning,
    /// It was forgotten, and whoever wanted it back was told that it may not be. The writer that created it, and
    /// reports it only now, promises nothing against that.
    Refused,
}

/// One session: its object, its slot, its tomb.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Session {
    pub is_used: bool,
    pub generation: u8,
    /// The process that goes on with it.
    pub owner: Option<u8>,
    /// `sessions/<g>-<r>` is there.
    pub is_registered: bool,
    /// The slot holds a snapshot that needs these blobs.
    pub snapshot: Bits,
    /// With create-if-absent: the slot holds ABORT. Without: the abort object is there.
    pub is_aborted: bool,
    /// Without create-if-absent: the confirmation is there.
    pub is_confirmed: bool,
    /// Bit n: tomb n is there.
    pub tombs: Bits,
    /// Bit n: the mark that undoes tomb n is there.
    pub undone: Bits,
    /// Bit k: `gc/k.sweep` lists its snapshot.
    pub live: Bits,
    pub marks: [Bits; COLLECTORS],
    pub claim: Claim,
    /// The undeletion is about it.
    pub is_wanted: bool,
    /// A second delivery of the commit is under way.
    pub late_commit: Bits,
    /// Bit n: tomb n is under way, for the first or the second time.
    pub late_tombs: Bits,
}

impl Session {
    /// Whether it has a tomb that is not undone.
    pub fn is_tombed(&self) -> bool {
        !self.tombs.without(self.undone).is_empty()
    }
}

/// The two objects of a generation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Generation {
    pub is_condemned: bool,
    pub is_swept: bool,
}

/// The next thing a writer does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum WriterStep {
    #[default]
    ReadGeneration,
    Register,
    ReadGenerationAgain,
    ReadSweeps,
    ListPacks,
    ListMorePacks,
    /// In place of a listing, where the cache has followed the sweeps.
    ReadIndex,
    Upload,
    UploadIndex,
    ListOwnPacks,
    Commit,
    /// Without create-if-absent.
    ReadAbort,
    /// Without create-if-absent.
    Confirm,
    CheckSweep,
    Done,
    /// Gave up: fenced more often than the bound has sessions for.
    Gone,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Writer {
    pub step: WriterStep,
    /// What its snapshot needs.
    pub needs: Bits,
    /// The generation it read before it registered.
    pub generation: u8,
    /// The session is not the first one for this snapshot.
    pub is_fenced_before: bool,
    pub sessions_left: u8,
    pub cache: Cache,
}

/// How far a writer's cache has followed the sweeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Cache {
    /// What any sweep of this generation or a later one dropped is remembered.
    pub from: u8,
    /// The newest sweep that was read.
    pub to: u8,
}

/// The next thing a collector does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum CollectorStep {
    #[default]
    ReadGenerations,
    Register,
    ReadGenerationsAgain,
    Mark,
    Copy,
    Condemn,
    AbortOwn,
    ListSessions,
    ListMoreSessions,
    Wait,
    ReadSweeps,
    ListPacks,
    ListMorePacks,
    ListSlots,
    ListTombs,
    Sweep,
    CheckSweep,
    Delete,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Collector {
    pub step: CollectorStep,
    /// The generation it works on.
    pub generation: u8,
    /// What it is about to copy into a new pack.
    pub copies: Bits,
    /// Another collector, or an earlier life, opened the generation.
    pub has_taken_over: bool,
    pub rounds_left: u8,
}

/// The next thing an undeletion does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum UndeleteStep {
    #[default]
    ReadGeneration,
    Register,
    ReadGenerationsAgain,
    ListTombs,
    MarkNext,
    MarkTombs,
    RemoveTombs,
    AbortOwn,
    CheckSweep,
    Done,
    Refused,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Undelete {
    pub step: UndeleteStep,
    pub generation: u8,
    /// The tombs that it has seen.
    pub tombs: Bits,
    /// The first number that it has not seen used.
    pub next: u8,
}

/// What may still happen; counts down from the bounds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Left {
    pub forgets: u8,
    pub late_deliveries: u8,
    pub restarts: u8,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct State {
    pub packs: [Pack; PACKS],
    pub sessions: [Session; SESSIONS],
    pub generations: [Generation; NEWEST_GENERATION as usize + 1],
    pub writers: [Writer; WRITERS],
    pub collectors: [Collector; COLLECTORS],
    pub undelete: Undelete,
    pub left: Left,
}

/// The owner of an undeletion's session.
pub const UNDELETER: u8 = PROCESSES as u8;

impl State {
    /// The newest generation that has begun; 0 before the first.
    pub fn newest(&self) -> u8 {
        let begun = |k: &u8| self.generation(*k).is_condemned || self.generation(*k).is_swept;
        (1..=NEWEST_GENERATION).rev().find(begun).unwrap_or(0)
    }

    /// The newest generation that is swept; 0 before the first.
    pub fn swept(&self) -> u8 {
        (1..=NEWEST_GENERATION).rev().find(|k| self.generation(*k).is_swept).unwrap_or(0)
    }

    /// The generation that is condemned and not swept. Only the newest can be: what stands under an older
    /// number was created too late, by somebody who slept.
    pub fn open(&self) -> Option<u8> {
        let newest = self.newest();
        (newest > self.swept()).then_some(newest)
    }

    pub fn generation(&self, number: u8) -> Generation {
        self.generations[usize::from(number)]
    }

    pub fn generation_mut(&mut self, number: u8) -> &mut Generation {
        &mut self.generations[usize::from(number)]
    }

    pub fn add_pack(&mut self, pack: Pack) {
        let free = self.packs.iter_mut().find(|pack| pack.blobs.is_empty());
        *free.expect("the bounds leave room for every pack") = pack;
    }

    pub fn add_session(&mut self, generation: u8, owner: Option<u8>) -> &mut Session {
        let free = self.sessions.iter_mut().find(|session| !session.is_used);
        let free = free.expect("the bounds leave room for every session");
        *free =
            Session { is_used: true, is_registered: true, generation, owner, ..Session::default() };
        free
    }

    /// The session that the process goes on with.
    pub fn session_of(&mut self, process: u8) -> &mut Session {
        let owned = self.sessions.iter_mut().find(|session| session.owner == Some(process));
        owned.expect("who has registered has a session until it lets go")
    }

    /// The process lets its session be.
    pub fn let_session_go(&mut self, process: u8) {
        for session in &mut self.sessions {
            if session.owner == Some(process) {
                session.owner = None;
            }
        }
    }

    /// The process forgets these facts.
    pub fn forget_facts(&mut self, process: usize, facts: &[u8]) {
        self.packs.iter_mut().for_each(|pack| pack.facts[process].clear(facts));
    }

    pub fn forget_marks(&mut self, collector: usize, marks: &[u8]) {
        self.sessions.iter_mut().for_each(|session| session.marks[collector].clear(marks));
    }

    /// Frees what nobody mentions, and sorts.
    pub fn settle(&mut self) {
        for pack in &mut self.packs {
            let is_mentioned = pack.is_stored
                || pack.is_indexed
                || !pack.condemned.or(pack.swept).is_empty()
                || pack.facts.iter().any(|facts| !facts.is_empty());
            if !is_mentioned {
                *pack = Pack::default();
            }
        }
        for session in &mut self.sessions {
            let is_mentioned = session.is_registered
                || session.owner.is_some()
                || !session.snapshot.or(session.live).or(session.late_commit).is_empty()
                || session.is_aborted
                || !session.tombs.or(session.undone).or(session.late_tombs).is_empty()
                || session.is_wanted
                || session.marks.iter().any(|marks| !marks.is_empty())
                || session.claim == Claim::Saved;
            if !is_mentioned {
                *session = Session::default();
            }
        }
        self.packs.sort_unstable();
        self.sessions.sort_unstable();
    }
}
