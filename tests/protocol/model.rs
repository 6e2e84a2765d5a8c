//! The protocol as a model for stateright: which steps are possible, and what has to hold after each of them.
//!
//! A step is one call to the store. A process stops (crash, sleep of a month) by taking no further step.

use stateright::{Model, Property};

use super::rules::{Class, Protocol};
use super::state::{
    Bits, Claim, CollectorStep, Left, Pack, Session, State, UndeleteStep, Writer, WriterStep,
};
use super::undelete::Delivery;
use super::writer::{has_learnt, is_counted_on};

/// What may happen next. `choice` numbers the ways in which it can turn out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    Write { writer: usize, choice: usize },
    Collect { collector: usize, choice: usize },
    Fence { session: usize },
    Restart { collector: usize },
    Forget { session: usize, delivery: Delivery },
    Undelete { choice: usize },
    DeliverCommit { session: usize },
    DeliverTomb { session: usize, number: u8 },
    RemoveSession { session: usize },
    RemoveForgotten { session: usize },
    RemoveGeneration { generation: u8 },
}

impl Protocol {
    fn apply(&self, state: &mut State, action: Action) -> Option<()> {
        match action {
            Action::Write { writer, choice } => return self.writer_step(state, writer, choice),
            Action::Collect { collector, choice } => {
                return self.collector_step(state, collector, choice);
            }
            Action::Undelete { choice } => return self.undelete_step(state, choice),
            Action::Fence { session } => Self::fence(state, session),
            Action::Restart { collector } => self.restart(state, collector),
            Action::Forget { session, delivery } => self.forget(state, session, delivery),
            Action::DeliverCommit { session } => {
                let session = &mut state.sessions[session];
                let is_free = session.snapshot.is_empty() && !session.is_aborted;
                if is_free || self.class == Class::WriteThenRead {
                    session.snapshot = session.late_commit;
                }
                session.late_commit = Bits::default();
            }
            Action::DeliverTomb { session, number } => {
                state.sessions[session].tombs.set(number, true);
                state.sessions[session].late_tombs.set(number, false);
            }
            Action::RemoveSession { session } => Self::remove_session(state, session),
            Action::RemoveForgotten { session } => Self::remove_forgotten(state, session),
            Action::RemoveGeneration { generation } => Self::remove_generation(state, generation),
        }
        Some(())
    }

    fn session_actions(&self, state: &State, place: usize, actions: &mut Vec<Action>) {
        let session = &state.sessions[place];
        let mut push = |is_possible: bool, action: Action| {
            if is_possible {
                actions.push(action);
            }
        };
        let can_fence =
            (0..self.bounds.collectors.len()).any(|number| self.can_fence(state, number, place));
        push(can_fence, Action::Fence { session: place });
        let can_forget = state.left.forgets > 0 && self.is_live(state, session);
        push(can_forget, Action::Forget { session: place, delivery: Delivery::Now });
        let is_late = can_forget && self.bounds.undeletes && state.left.late_deliveries > 0;
        push(is_late, Action::Forget { session: place, delivery: Delivery::Twice });
        push(is_late, Action::Forget { session: place, delivery: Delivery::Late });
        let is_late = !session.late_commit.is_empty();
        push(is_late, Action::DeliverCommit { session: place });
        for number in (0..8).filter(|number| session.late_tombs.has(*number)) {
            push(true, Action::DeliverTomb { session: place, number });
        }
        if self.bounds.removes_sessions {
            let can_remove = self.can_remove_session(state, place);
            push(can_remove, Action::RemoveSession { session: place });
            let can_remove = self.can_remove_forgotten(state, place);
            push(can_remove, Action::RemoveForgotten { session: place });
        }
    }
}

impl Model for Protocol {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let bounds = &self.bounds;
        let mut state = State {
            left: Left {
                forgets: bounds.forgets,
                late_deliveries: bounds.late_deliveries,
                restarts: bounds.restarts,
            },
            ..State::default()
        };
        for blobs in bounds.packs {
            let is_indexed = bounds.caches;
            let pack = Pack { blobs: *blobs, is_stored: true, is_indexed, ..Pack::default() };
            state.add_pack(pack);
        }
        for blobs in bounds.snapshots {
            let session = state.add_session(0, None);
            *session = Session {
                snapshot: *blobs,
                is_confirmed: self.class == Class::WriteThenRead,
                claim: Claim::Saved,
                ..*session
            };
        }
        for (number, (_, sessions)) in bounds.writers.iter().enumerate() {
            state.writers[number] = Writer { sessions_left: *sessions, ..Writer::default() };
        }
        for (number, rounds) in bounds.collectors.iter().enumerate() {
            state.collectors[number].rounds_left = *rounds;
        }
        state.settle();
        vec![state]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for writer in 0..self.bounds.writers.len() {
            let choices = self.writer_choices(state, writer);
            actions.extend((0..choices).map(|choice| Action::Write { writer, choice }));
        }
        for collector in 0..self.bounds.collectors.len() {
            let choices = self.collector_choices(state, collector);
            actions.extend((0..choices).map(|choice| Action::Collect { collector, choice }));
            let is_busy = state.collectors[collector].step != CollectorStep::ReadGenerations;
            if state.left.restarts > 0 && is_busy {
                actions.push(Action::Restart { collector });
            }
        }
        if self.bounds.undeletes {
            let is_first = state.undelete.step == UndeleteStep::ReadGeneration;
            let choices = if is_first { state.sessions.len() } else { 1 };
            actions.extend((0..choices).map(|choice| Action::Undelete { choice }));
        }
        for place in 0..state.sessions.len() {
            self.session_actions(state, place, actions);
        }
        if self.bounds.removes_generations {
            for generation in 1..self.bounds.generations {
                if self.can_remove_generation(state, generation) {
                    actions.push(Action::RemoveGeneration { generation });
                }
            }
        }
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = *state;
        self.apply(&mut next, action)?;
        next.settle();
        (next != *state).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always(RESTORABLE, |protocol: &Protocol, state: &State| {
                state.sessions.iter().all(|session| {
                    let is_confirmed =
                        session.is_confirmed || protocol.class == Class::CreateIfAbsent;
                    !is_confirmed
                        || !protocol.is_live(state, session)
                        || session.snapshot.without(safe_blobs(state)).is_empty()
                })
            }),
            Property::always(STAYS, |protocol: &Protocol, state: &State| {
                let mut sessions = state.sessions.iter();
                sessions.all(|session| {
                    session.claim != Claim::Saved || protocol.is_live(state, session)
                })
            }),
            Property::always(GONE, |protocol: &Protocol, state: &State| {
                let mut sessions = state.sessions.iter();
                sessions.all(|session| {
                    session.claim != Claim::Forgotten || !protocol.is_live(state, session)
                })
            }),
            Property::always(HELD, |protocol: &Protocol, state: &State| {
                (0..protocol.bounds.writers.len())
                    .all(|number| !is_holding(state, number) || is_held(state, number))
            }),
        ];
        let bounds = &self.bounds;
        let mut sometimes = |is_expected: bool, name, condition| {
            if is_expected {
                properties.push(Property::sometimes(name, condition));
            }
        };
        sometimes(true, "garbage is collected", |_, state| {
            state.packs.iter().any(|pack| !pack.swept.is_empty() && !pack.is_stored)
        });
        let is_repeated = bounds.writers.iter().any(|(_, sessions)| *sessions > 1);
        sometimes(is_repeated, "a fenced writer commits again", |_, state| {
            state
                .writers
                .iter()
                .any(|writer| writer.step == WriterStep::Done && writer.is_fenced_before)
        });
        let is_taken_over = bounds.collectors.len() > 1 || bounds.restarts > 0;
        sometimes(is_taken_over, "a generation that was taken over is swept", |_, state| {
            state.collectors.iter().any(|collector| {
                collector.has_taken_over && collector.step == CollectorStep::Delete
            })
        });
        sometimes(!bounds.writers.is_empty(), "a condemned pack is rescued", |_, state| {
            state.packs.iter().any(|pack| {
                (1..=state.swept()).any(|k| pack.condemned.has(k) && !pack.swept.has(k))
            })
        });
        sometimes(bounds.generations > 1, "a second generation is swept", |_, state| {
            state.swept() == 2
        });
        sometimes(bounds.repacks, "a partly used pack is replaced", |_, state| {
            state
                .packs
                .iter()
                .any(|pack| !pack.swept.is_empty() && !pack.is_stored && pack.blobs.0 == 3)
        });
        sometimes(bounds.undeletes, "an undeletion succeeds", |_, state| {
            state.undelete.step == UndeleteStep::Done
        });
        sometimes(bounds.undeletes, "an undeletion is refused", |_, state| {
            state.undelete.step == UndeleteStep::Refused
        });
        properties
    }
}

/// Every blob of a live snapshot is in a pack that is there and that no sweep names.
pub const RESTORABLE: &str = "a live snapshot can be restored";
/// What was reported stays live until it is forgotten.
pub const STAYS: &str = "a reported snapshot stays";
/// What was reported as forgotten stays so until somebody brings it back.
pub const GONE: &str = "a forgotten snapshot is gone";
/// What an open session counts on stays until the session is decided. Readers live by this.
pub const HELD: &str = "an open session's packs stay";

fn safe_blobs(state: &State) -> Bits {
    let safe = state.packs.iter().filter(|pack| pack.is_stored && pack.swept.is_empty());
    safe.fold(Bits::default(), |blobs, pack| blobs.or(pack.blobs))
}

/// Whether the writer's session is registered, undecided, and has learnt which packs are there.
fn is_holding(state: &State, number: usize) -> bool {
    let own = state.sessions.iter().find(|session| session.owner == Some(number as u8));
    has_learnt(state.writers[number].step)
        && own.is_some_and(|own| {
            !Protocol::is_decided(own) && own.is_registered && own.generation >= state.swept()
        })
}

fn is_held(state: &State, number: usize) -> bool {
    let is_safe = |pack: &Pack| pack.is_stored && pack.swept.is_empty();
    state.packs.iter().all(|pack| !is_counted_on(pack, number) || is_safe(pack))
}
