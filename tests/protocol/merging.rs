//! Index objects beside each other: two mergers, a collector, and a client that learns where things are.
//!
//! Two packs. Pack 0 is garbage and is swept, deleted, and its sweep removed; pack 1 is needed by a live snapshot
//! and must be found at every moment. Each has an index object at first; each merger writes one more.

use stateright::{Model, Property};

use super::state::Bits;

const MERGERS: usize = 2;
const INDEXES: u8 = 2 + MERGERS as u8;
const GARBAGE: u8 = 0;
const NEEDED: u8 = 1;

/// A rule of merging that is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BrokenMerge {
    /// The merged objects go before the new one is written, and what no index object names is absent.
    OldDeletedFirstAndUnindexedAbsent,
    /// What no index object names is absent.
    UnindexedAbsent,
    /// A collector deletes what no index object names.
    UnindexedIsGarbage,
    /// What an index object names is there.
    IndexBelieved,
}

/// What is checked.
#[derive(Clone, Copy, Debug)]
pub struct Merging {
    pub broken: Option<BrokenMerge>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Step {
    #[default]
    List,
    ListMore,
    Read,
    ReadSweep,
    ListPacks,
    Write,
    Delete,
    Done,
}

/// A merger or a client: what it has listed, read and learnt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Process {
    step: Step,
    listed: Bits,
    /// Index objects that were read.
    read: Bits,
    /// Packs that they name.
    packs: Bits,
}

/// A collector's next step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Sweeping {
    #[default]
    Publish,
    Delete,
    RemoveSweep,
    Done,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct State {
    /// Index objects that are there, and the packs that each names.
    indexes: Bits,
    names: [Bits; INDEXES as usize],
    stored: Bits,
    swept: Bits,
    mergers: [Process; MERGERS],
    client: Process,
    sweeping: Sweeping,
    /// The client counts on a pack that was gone when it had learnt.
    is_misled: bool,
    /// Deletes what no index object names, where that is how a collector thinks.
    cleaner: Process,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    Merge { merger: usize, choice: u8 },
    Learn { choice: u8 },
    Sweep,
    Clean { choice: u8 },
}

impl Merging {
    fn breaks(&self, broken: BrokenMerge) -> bool {
        self.broken == Some(broken)
    }

    /// The steps that mergers and clients share: two pages of a listing, then every object that it shows. One
    /// that is gone: the listing is taken again. `None`: all are read.
    fn read_indexes(state: &State, process: &mut Process, choice: u8) -> Option<()> {
        match process.step {
            Step::List => {
                *process =
                    Process { step: Step::ListMore, listed: state.indexes, ..Process::default() };
            }
            Step::ListMore => {
                let throughout = process.listed.and(state.indexes);
                let changed = process.listed.or(state.indexes).without(throughout);
                if !Bits(choice).without(changed).is_empty() {
                    return None;
                }
                process.listed = throughout.or(Bits(choice));
                process.step = Step::Read;
            }
            _ => {
                let unread = process.listed.without(process.read);
                let number = unread.0.trailing_zeros() as u8;
                if state.indexes.has(number) {
                    process.read.set(number, true);
                    process.packs = process.packs.or(state.names[usize::from(number)]);
                } else {
                    *process = Process::default();
                }
            }
        }
        Some(())
    }

    fn is_all_read(process: &Process) -> bool {
        process.step == Step::Read && process.listed.without(process.read).is_empty()
    }

    fn merge(&self, state: &mut State, number: usize, choice: u8) -> Option<()> {
        let mut merger = state.mergers[number];
        let deletes_first = self.breaks(BrokenMerge::OldDeletedFirstAndUnindexedAbsent);
        match merger.step {
            Step::List | Step::ListMore => Self::read_indexes(state, &mut merger, choice)?,
            Step::Read if !Self::is_all_read(&merger) => {
                Self::read_indexes(state, &mut merger, choice)?;
            }
            // One object is as good as it can be.
            Step::Read if merger.read.0.count_ones() < 2 => merger.step = Step::Done,
            Step::Read => merger.step = Step::ReadSweep,
            Step::ReadSweep => {
                merger.packs = merger.packs.without(state.swept);
                merger.step = if deletes_first { Step::Delete } else { Step::Write };
            }
            Step::Write => {
                let new = 2 + number as u8;
                state.indexes.set(new, true);
                state.names[usize::from(new)] = merger.packs;
                merger.step = if deletes_first { Step::Done } else { Step::Delete };
            }
            Step::Delete => {
                let old = merger.read.0.trailing_zeros() as u8;
                state.indexes.set(old, false);
                merger.read.set(old, false);
                if merger.read.is_empty() {
                    merger.step = if deletes_first { Step::Write } else { Step::Done };
                }
            }
            Step::ListPacks | Step::Done => return None,
        }
        if merger.step == Step::Done {
            merger = Process { step: Step::Done, ..Process::default() };
        }
        state.mergers[number] = merger;
        Some(())
    }

    fn learn(&self, state: &mut State, choice: u8) -> Option<()> {
        let mut client = state.client;
        let unindexed_is_absent = self.breaks(BrokenMerge::UnindexedAbsent)
            || self.breaks(BrokenMerge::OldDeletedFirstAndUnindexedAbsent);
        match client.step {
            Step::List | Step::ListMore => Self::read_indexes(state, &mut client, choice)?,
            Step::Read if !Self::is_all_read(&client) => {
                Self::read_indexes(state, &mut client, choice)?;
            }
            Step::Read => client.step = Step::ReadSweep,
            Step::ReadSweep => {
                // What the sweep names was remembered before the sweep was removed, or is looked for below.
                client.listed = state.swept;
                client.step = Step::ListPacks;
            }
            Step::ListPacks => {
                let there = state.stored.without(client.listed);
                client.packs = if self.breaks(BrokenMerge::IndexBelieved) {
                    client.packs.without(client.listed)
                } else if unindexed_is_absent {
                    client.packs.and(there)
                } else {
                    // What is in no index object is found through its own directory.
                    there
                };
                state.is_misled = !client.packs.without(state.stored).is_empty();
                client = Process { step: Step::Done, packs: client.packs, ..Process::default() };
            }
            Step::Write | Step::Delete | Step::Done => return None,
        }
        state.client = client;
        Some(())
    }

    fn sweep(state: &mut State) -> Option<()> {
        state.sweeping = match state.sweeping {
            Sweeping::Publish => {
                state.swept.set(GARBAGE, true);
                Sweeping::Delete
            }
            Sweeping::Delete => {
                state.stored.set(GARBAGE, false);
                Sweeping::RemoveSweep
            }
            Sweeping::RemoveSweep => {
                state.swept.set(GARBAGE, false);
                Sweeping::Done
            }
            Sweeping::Done => return None,
        };
        Some(())
    }

    fn clean(state: &mut State, choice: u8) -> Option<()> {
        let mut cleaner = state.cleaner;
        if cleaner.step == Step::Done {
            return None;
        }
        if !Self::is_all_read(&cleaner) {
            Self::read_indexes(state, &mut cleaner, choice)?;
        } else {
            state.stored = state.stored.and(cleaner.packs);
            cleaner = Process { step: Step::Done, ..Process::default() };
        }
        state.cleaner = cleaner;
        Some(())
    }
}

impl Model for Merging {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let names = [Bits(1), Bits(2), Bits(0), Bits(0)];
        vec![State { indexes: Bits(3), names, stored: Bits(3), ..State::default() }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        // Which of the index objects that came or went between two pages are shown.
        let choices =
            |process: &Process| if process.step == Step::ListMore { 1 << INDEXES } else { 1 };
        for merger in 0..MERGERS {
            let choices = choices(&state.mergers[merger]);
            actions.extend((0..choices).map(|choice| Action::Merge { merger, choice }));
        }
        actions.extend((0..choices(&state.client)).map(|choice| Action::Learn { choice }));
        actions.push(Action::Sweep);
        if self.breaks(BrokenMerge::UnindexedIsGarbage) {
            actions.extend((0..choices(&state.cleaner)).map(|choice| Action::Clean { choice }));
        }
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = *state;
        match action {
            Action::Merge { merger, choice } => self.merge(&mut next, merger, choice),
            Action::Learn { choice } => self.learn(&mut next, choice),
            Action::Sweep => Self::sweep(&mut next),
            Action::Clean { choice } => Self::clean(&mut next, choice),
        }?;
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(KEPT, |_, state: &State| state.stored.has(NEEDED)),
            Property::always(FOUND, |_, state: &State| {
                state.client.step != Step::Done
                    || !state.stored.has(NEEDED)
                    || state.client.packs.has(NEEDED)
            }),
            Property::always(NOT_BELIEVED, |_, state: &State| !state.is_misled),
            Property::sometimes("both mergers finish", |_, state: &State| {
                state.mergers.iter().all(|merger| merger.step == Step::Done) && state.indexes.has(2)
            }),
            Property::sometimes("a client learns", |_, state: &State| {
                state.client.step == Step::Done
            }),
        ]
    }
}

pub const KEPT: &str = "a needed pack is kept";
pub const FOUND: &str = "a needed pack is found";
pub const NOT_BELIEVED: &str = "a pack that is gone is not believed in";
