//! Forgetting a snapshot, and bringing it back.

use super::rules::{Broken, Protocol};
use super::state::{Claim, State, UNDELETER, UndeleteStep};

impl Protocol {
    /// Creates the tomb; `is_late`: and a second delivery of it is under way.
    pub fn forget(&self, state: &mut State, place: usize, is_late: bool) {
        let session = &mut state.sessions[place];
        session.claim = Claim::Forgotten;
        if self.breaks(Broken::ForgetDeletesSnapshot) {
            session.snapshot = Default::default();
            session.is_registered = false;
        } else {
            session.is_tombed = true;
            session.late_tomb = is_late;
        }
        state.left.forgets -= 1;
        if is_late {
            state.left.late_deliveries -= 1;
        }
    }

    /// Whether a generation is open or has excluded the snapshot: then it cannot come back.
    fn is_refused(&self, state: &State) -> bool {
        let wanted = state.sessions.iter().find(|session| session.is_wanted);
        let is_excluded =
            wanted.is_none_or(|wanted| !self.stands(state, wanted) || !wanted.is_tombed);
        is_excluded || (state.open().is_some() && !self.breaks(Broken::UndeleteWhileOpen))
    }

    /// The next step of the undeletion. Its first chooses the snapshot.
    pub fn undelete_step(&self, state: &mut State, choice: usize) -> Option<()> {
        let is_alone = self.breaks(Broken::UndeleteWithoutSession);
        let next = match state.undelete.step {
            UndeleteStep::ReadGeneration => {
                let wanted = &mut state.sessions[choice];
                if !wanted.is_tombed || wanted.snapshot.is_empty() {
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
                    false => UndeleteStep::RemoveTomb,
                }
            }
            UndeleteStep::RemoveTomb => {
                let wanted = state.sessions.iter_mut().find(|session| session.is_wanted);
                if let Some(wanted) = wanted
                    && wanted.is_tombed
                {
                    wanted.is_tombed = false;
                    wanted.claim = Claim::Returning;
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

    fn end_undelete(&self, state: &mut State, end: UndeleteStep) -> UndeleteStep {
        state.let_session_go(UNDELETER);
        for session in &mut state.sessions {
            if session.is_wanted && session.claim == Claim::Returning {
                let is_done = end == UndeleteStep::Done;
                session.claim = if is_done { Claim::Saved } else { Claim::Forgotten };
            }
            session.is_wanted = false;
        }
        state.undelete.generation = 0;
        end
    }
}
