//! A monitor for a look beforehand: of it only the phase is told, and a wish to stop counts. What is wrong is told by the
//! work itself.

use crate::monitor::{Monitor, Phase, Problem, Progress};

/// Hands on what is not told twice.
pub struct Quiet<'m>(pub &'m dyn Monitor);

impl Monitor for Quiet<'_> {
    fn phase(&self, phase: Phase) {
        if phase == Phase::Plan {
            self.0.phase(phase);
        }
    }

    fn expect(&self, _: Progress) {}

    fn advance(&self, _: Progress) {}

    fn current(&self, _: &str) {}

    fn problem(&self, _: Problem) {}

    fn note(&self, _: &str) {}

    fn interrupted(&self) -> bool {
        self.0.interrupted()
    }
}
