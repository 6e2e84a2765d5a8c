//! Forgetting a snapshot, and bringing it back.

use super::rules::{Broken, Protocol};
use super::state::{Bits, Claim, Session, State, UNDELETER, UndeleteStep};

/// When the store carries out the order to create a tomb.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Delivery {
    Now,
    /// Now, and once more at any time.
    Twice,
    /// At any time, and whoever gave the order does not hear of it.
    Late,
}

/// The first number of a tomb that nobody has used, as a listing shows it.
fn next(session: &Session) -> u8 {
    let used = session.tombs.or(session.undone);
    (1..8).find(|number| !used.has(*number)).expect("the bounds leave room for every tomb")
}

impl Protocol {
    /// Creates a tomb, or sends it on its way.
    pub fn forget(&self, state: &mut State, place: usize, delivery: Delivery) {
        let session = &mut state.sessions[place];
        session.claim = match delivery {
            Delivery::Late => Claim::Ordered,
            Delivery::Now | Delivery::Twice => Claim::Forgotten,
        };
        if self.breaks(Broken::ForgetDeletesSnapshot) {
            session.snapshot = Default::default();
            session.is_registered = false;
        } else {
            let number = match self.breaks(Broken::TombNumberUsedAgain) {
                true => 1,
                false => next(session),
            };
            if delivery != Delivery::Late {
                session.tombs.set(number, true);
            }
            if delivery != Delivery::Now {
                session.late_tombs.set(number, true);
            }
        }
        state.left.forgets -= 1;
        if delivery != Delivery::Now {
            state.left.late_deliveries -= 1;
        }
    }

    /// Whether a generation is open or has excluded the snapshot: then it cannot come back.
    fn is_refused(&self, state: &State) -> bool {
        let wanted = state.sessions.iter().find(|session| session.is_wanted);
        let is_excluded = wanted.is_none_or(|wanted| !self.stands(state, wanted));
        is_excluded || (state.open().is_some() && !self.breaks(Broken::UndeleteWhileOpen))
    }

    /// The next step of the undeletion. Its first chooses the snapshot.
    pub fn undelete_step(&self, state: &mut State, choice: usize) -> Option<()> {
        let is_alone = self.breaks(Broken::UndeleteWithoutSession);
        let next = match state.undelete.step {
            UndeleteStep::ReadGeneration => {
                let wanted = &mut state.sessions[choice];
                let is_forgotten = wanted.is_tombed() || wanted.claim == Claim::Ordered;
                if !is_forgotten || wanted.snapshot.is_empty() {
                    return None;
                }
                wanted.is_wanted = true;
                state.undelete.generation = state.newest();
                match is_alone {
                    true => UndeleteStep::ReadGenerationsAgain,
                    false => UndeleteStep::Register,
                }
            }
            UndeleteStep::Register => {
                state.add_session(state.undelete.generation, Some(UNDELETER));
                UndeleteStep::ReadGenerationsAgain
            }
            UndeleteStep::ReadGenerationsAgain => {
                let has_changed = state.newest() != state.undelete.generation;
                match has_changed || self.is_refused(state) {
                    true => self.end_undelete(state, UndeleteStep::Refused),
                    false => UndeleteStep::ListTombs,
                }
            }
            UndeleteStep::ListTombs => {
                if let Some(wanted) = state.sessions.iter().find(|session| session.is_wanted) {
                    state.undelete.tombs = wanted.tombs;
                    state.undelete.next = next(wanted);
                }
                match self.breaks(Broken::TombsNotMarked) {
                    true => UndeleteStep::RemoveTombs,
                    false if self.breaks(Broken::NextTombNotMarked) => UndeleteStep::MarkTombs,
                    false => UndeleteStep::MarkNext,
                }
            }
            UndeleteStep::MarkNext => {
                let mut next = Bits::default();
                next.set(state.undelete.next, true);
                Self::undo(state, next);
                UndeleteStep::MarkTombs
            }
            UndeleteStep::MarkTombs => {
                let tombs = state.undelete.tombs;
                Self::undo(state, tombs);
                // Where no tomb has arrived yet, it seems that there is nothing to undo.
                if self.breaks(Broken::NextTombNotMarked)
                    && let Some(wanted) = Self::wanted(state)
                {
                    Self::let_return(wanted);
                }
                UndeleteStep::RemoveTombs
            }
            UndeleteStep::RemoveTombs => {
                let tombs = state.undelete.tombs;
                if let Some(wanted) = Self::wanted(state) {
                    wanted.tombs = wanted.tombs.without(tombs);
                    if self.breaks(Broken::TombsNotMarked) {
                        Self::let_return(wanted);
                    }
                }
                match is_alone {
                    true => self.end_undelete(state, UndeleteStep::Done),
                    false => UndeleteStep::AbortOwn,
                }
            }
            UndeleteStep::AbortOwn => {
                let own = state.session_of(UNDELETER);
                let is_own = !own.is_aborted;
                own.is_aborted = true;
                match is_own || self.breaks(Broken::UndeleteReportedWhenFenced) {
                    true => UndeleteStep::CheckSweep,
                    false => self.end_undelete(state, UndeleteStep::Refused),
                }
            }
            // Like a writer after its commit: the ABORT that fenced it may have been removed since.
            UndeleteStep::CheckSweep => {
                let wanted = state.sessions.iter().find(|session| session.is_wanted);
                let is_excluded = wanted.is_none_or(|wanted| {
                    state.undelete.generation < state.swept() && !wanted.live.has(state.swept())
                });
                match is_excluded && !self.breaks(Broken::UndeleteNotChecked) {
                    true => self.end_undelete(state, UndeleteStep::Refused),
                    false => self.end_undelete(state, UndeleteStep::Done),
                }
            }
            UndeleteStep::Done | UndeleteStep::Refused => return None,
        };
        state.undelete.step = next;
        Some(())
    }

    fn wanted(state: &mut State) -> Option<&mut Session> {
        state.sessions.iter_mut().find(|session| session.is_wanted)
    }

    /// Creates the marks of these tombs.
    fn undo(state: &mut State, tombs: Bits) {
        if let Some(wanted) = Self::wanted(state) {
            // Cleared away meanwhile: the marks mean nothing, and a later run clears them away.
            if !wanted.snapshot.is_empty() && !tombs.is_empty() {
                wanted.undone = wanted.undone.or(tombs);
                Self::let_return(wanted);
            }
        }
    }

    fn let_return(wanted: &mut Session) {
        let is_forgotten = matches!(wanted.claim, Claim::Forgotten | Claim::Ordered);
        if is_forgotten && !wanted.is_tombed() {
            wanted.claim = Claim::Returning;
        }
    }

    fn end_undelete(&self, state: &mut State, end: UndeleteStep) -> UndeleteStep {
        state.let_session_go(UNDELETER);
        for session in &mut state.sessions {
            if session.is_wanted && session.claim == Claim::Returning {
                let is_done = end == UndeleteStep::Done;
                session.claim = if is_done { Claim::Saved } else { Claim::Refused };
            }
            session.is_wanted = false;
        }
        state.undelete.generation = 0;
        state.undelete.tombs = Bits::default();
        state.undelete.next = 0;
        end
    }
}
