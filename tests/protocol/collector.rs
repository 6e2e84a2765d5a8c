//! A collector: condemns packs, waits for or fences the sessions that may count on them, marks again, sweeps,
//! deletes. Any number of them, each of which may stop anywhere and be taken over by another.

use super::rules::{Broken, Class, Protocol};
use super::state::{Bits, Claim, Collector, CollectorStep, Pack, State, WRITERS, fact, mark};

impl Protocol {
    /// Upper bound of the ways in which the collector's next step can turn out.
    pub fn collector_choices(&self, state: &State, number: usize) -> usize {
        let process = WRITERS + number;
        match state.collectors[number].step {
            // Any set of packs may be condemned that leaves every live blob somewhere.
            CollectorStep::Mark => {
                1 << state.packs.iter().filter(|pack| is_usable(state, pack)).count()
            }
            CollectorStep::ListMorePacks => {
                let has_changed =
                    |pack: &&Pack| pack.facts[process].has(fact::LISTED) != pack.is_stored;
                1 << state.packs.iter().filter(has_changed).count()
            }
            CollectorStep::ListMoreSessions => {
                let generation = state.collectors[number].generation;
                let changed = state.sessions.iter().filter(|session| {
                    session.marks[number].has(mark::LISTED)
                        != (session.is_registered && session.generation < generation)
                });
                1 << changed.count()
            }
            CollectorStep::ListSlots | CollectorStep::ReadSweeps if self.bounds.short_listings => {
                state.sessions.len() + 1
            }
            CollectorStep::Delete => state.packs.len(),
            _ => 1,
        }
    }

    /// The collector's next step, which may turn out in several ways.
    pub fn collector_step(&self, state: &mut State, number: usize, choice: usize) -> Option<()> {
        let process = WRITERS + number;
        let mut collector = state.collectors[number];
        let generation = collector.generation;
        let next = match collector.step {
            CollectorStep::ReadGenerations => self.begin(state, process, &mut collector)?,
            CollectorStep::Register => {
                state.add_session(generation - 1, Some(process as u8));
                CollectorStep::ReadGenerationsAgain
            }
            CollectorStep::ReadGenerationsAgain => {
                let is_first =
                    state.newest() == generation - 1 || self.breaks(Broken::GenerationsOverlap);
                match is_first {
                    true => CollectorStep::Mark,
                    false => self.stop(state, process),
                }
            }
            CollectorStep::Mark => self.mark(state, process, choice, &mut collector)?,
            CollectorStep::Copy => {
                let mut pack = Pack {
                    blobs: collector.copies,
                    generation: generation - 1,
                    is_stored: true,
                    is_indexed: self.bounds.caches,
                    ..Pack::default()
                };
                pack.facts[process].set(fact::OWN, true);
                state.add_pack(pack);
                collector.copies = Bits::default();
                CollectorStep::Condemn
            }
            CollectorStep::Condemn => {
                if state.generation(generation).is_condemned {
                    self.stop(state, process)
                } else {
                    for pack in &mut state.packs {
                        if pack.facts[process].has(fact::CHOSEN) {
                            pack.condemned.set(generation, true);
                        }
                    }
                    state.generation_mut(generation).is_condemned = true;
                    CollectorStep::AbortOwn
                }
            }
            CollectorStep::AbortOwn => {
                // What it created under a number that others have long left behind is no generation.
                let counts = state.newest() == generation || self.breaks(Broken::FreedNumberCounts);
                let stopped = self.stop(state, process);
                match counts {
                    true if self.breaks(Broken::SessionsListedBeforePublishing) => {
                        CollectorStep::Wait
                    }
                    true => CollectorStep::ListSessions,
                    false => stopped,
                }
            }
            CollectorStep::ListSessions => {
                for session in &mut state.sessions {
                    let is_older = session.is_registered && session.generation < generation;
                    let page = if self.bounds.pages { mark::LISTED } else { mark::AWAITED };
                    session.marks[number].set(page, is_older);
                }
                match self.bounds.pages {
                    true => CollectorStep::ListMoreSessions,
                    false => CollectorStep::Wait,
                }
            }
            CollectorStep::ListMoreSessions => {
                let pages = state.sessions.iter().map(|session| {
                    let is_older = session.is_registered && session.generation < generation;
                    (session.marks[number].has(mark::LISTED), is_older)
                });
                let shown = Self::second_page(pages, choice)?;
                for (session, is_shown) in state.sessions.iter_mut().zip(shown) {
                    session.marks[number].set(mark::LISTED, false);
                    session.marks[number].set(mark::AWAITED, is_shown);
                }
                CollectorStep::Wait
            }
            CollectorStep::Wait => {
                let may_go_on = self.breaks(Broken::TimerInsteadOfWaiting)
                    || (self.breaks(Broken::AnyNewSnapshotEndsTheWait)
                        && state.sessions.iter().any(|session| {
                            session.marks[number].has(mark::AWAITED) && !session.snapshot.is_empty()
                        }))
                    || state.sessions.iter().all(|session| {
                        !session.marks[number].has(mark::AWAITED) || Self::is_decided(session)
                    });
                if !may_go_on {
                    return None;
                }
                state.forget_marks(number, &[mark::AWAITED]);
                CollectorStep::ReadSweeps
            }
            CollectorStep::ReadSweeps => {
                for pack in &mut state.packs {
                    let is_swept = !pack.swept.is_empty();
                    pack.facts[process].set(fact::BANNED, is_swept);
                    // Where listings have no pages, all of marking is one step.
                    let is_shown = pack.is_stored && !self.bounds.pages;
                    pack.facts[process].set(fact::KNOWN, is_shown);
                }
                match self.bounds.pages {
                    true => CollectorStep::ListPacks,
                    false => self.list_slots(state, number, choice)?,
                }
            }
            CollectorStep::ListPacks => {
                for pack in &mut state.packs {
                    pack.facts[process].set(fact::LISTED, pack.is_stored);
                }
                CollectorStep::ListMorePacks
            }
            CollectorStep::ListMorePacks => {
                let pages = state
                    .packs
                    .iter()
                    .map(|pack| (pack.facts[process].has(fact::LISTED), pack.is_stored));
                let shown = Self::second_page(pages, choice)?;
                for (pack, is_shown) in state.packs.iter_mut().zip(shown) {
                    pack.facts[process].set(fact::LISTED, false);
                    pack.facts[process].set(fact::KNOWN, is_shown);
                }
                CollectorStep::ListSlots
            }
            CollectorStep::ListSlots => self.list_slots(state, number, choice)?,
            CollectorStep::ListTombs => self.mark_again(state, number),
            CollectorStep::Sweep => {
                // Under a number that was used before and is free again, it does not fit the hash that the next
                // sweep has of its predecessor: nobody takes it for one.
                let is_chained =
                    generation > state.swept() || self.breaks(Broken::FreedNumberCounts);
                if !state.generation(generation).is_swept && is_chained {
                    for pack in &mut state.packs {
                        let is_chosen = pack.facts[process].has(fact::CHOSEN);
                        pack.swept.set(generation, is_chosen);
                    }
                    for session in &mut state.sessions {
                        let is_live = session.marks[number].has(mark::SEEN)
                            && session.generation < generation;
                        session.live.set(generation, is_live);
                    }
                    state.generation_mut(generation).is_swept = true;
                }
                // The one that stands counts, whoever created it.
                for pack in &mut state.packs {
                    let goes = pack.swept.has(generation) && pack.is_stored;
                    pack.facts[process].set(fact::CHOSEN, goes);
                }
                state.forget_marks(number, &[mark::SEEN]);
                CollectorStep::CheckSweep
            }
            CollectorStep::CheckSweep => {
                let counts = state.newest() == generation;
                match counts || self.breaks(Broken::FreedNumberCounts) {
                    true => self.delete_or_end(state, process),
                    false => self.stop(state, process),
                }
            }
            CollectorStep::Delete => {
                let pack = &mut state.packs[choice];
                if !pack.facts[process].has(fact::CHOSEN) {
                    return None;
                }
                pack.facts[process].set(fact::CHOSEN, false);
                pack.is_stored = false;
                self.delete_or_end(state, process)
            }
        };
        collector.step = next;
        if next == CollectorStep::ReadGenerations {
            collector = Collector { rounds_left: collector.rounds_left, ..Collector::default() };
        }
        state.collectors[number] = collector;
        Some(())
    }

    /// Takes over what is open, helps to delete what is swept, or begins the next generation.
    fn begin(
        &self,
        state: &mut State,
        process: usize,
        collector: &mut Collector,
    ) -> Option<CollectorStep> {
        let is_overlap_allowed = self.breaks(Broken::GenerationsOverlap);
        collector.rounds_left = collector.rounds_left.checked_sub(1)?;
        if let Some(open) = state.open()
            && !is_overlap_allowed
        {
            collector.generation = open;
            collector.has_taken_over = true;
            return Some(CollectorStep::ListSessions);
        }
        let swept = state.swept();
        let is_left = |pack: &Pack| swept > 0 && pack.swept.has(swept) && pack.is_stored;
        if state.packs.iter().any(is_left) && !is_overlap_allowed {
            collector.generation = swept;
            for pack in &mut state.packs {
                let goes = is_left(pack);
                pack.facts[process].set(fact::CHOSEN, goes);
            }
            return Some(CollectorStep::Delete);
        }
        collector.generation = state.newest() + 1;
        (collector.generation <= self.bounds.generations).then_some(CollectorStep::Register)
    }

    /// Chooses what to condemn: any set of usable packs, if every live blob is elsewhere or can be copied.
    /// Nothing rests on this choice being a good one, so all of it happens at once.
    fn mark(
        &self,
        state: &mut State,
        process: usize,
        choice: usize,
        collector: &mut Collector,
    ) -> Option<CollectorStep> {
        let mut remaining = choice;
        let mut kept = Bits::default();
        let mut condemned = Bits::default();
        let usable = state.packs.map(|pack| is_usable(state, &pack));
        for (pack, _) in state.packs.iter_mut().zip(usable).filter(|(_, is_usable)| *is_usable) {
            let goes = remaining & 1 == 1;
            remaining >>= 1;
            pack.facts[process].set(fact::CHOSEN, goes);
            if goes {
                condemned = condemned.or(pack.blobs);
            } else {
                kept = kept.or(pack.blobs);
            }
        }
        let live = state.sessions.iter().filter(|session| self.is_live(state, session));
        let live = live.fold(Bits::default(), |blobs, session| blobs.or(session.snapshot));
        let copies = live.and(condemned).without(kept);
        if choice == 0 || (!copies.is_empty() && !self.bounds.repacks) {
            return None;
        }
        // Copying a pack whole is no gain, and would go on for ever.
        if !copies.is_empty() && copies == condemned {
            return None;
        }
        if self.breaks(Broken::SessionsListedBeforePublishing) {
            for session in &mut state.sessions {
                let is_older = session.is_registered && session.generation < collector.generation;
                session.marks[process - WRITERS].set(mark::AWAITED, is_older);
            }
        }
        collector.copies = copies;
        Some(match copies.is_empty() {
            true => CollectorStep::Condemn,
            false => CollectorStep::Copy,
        })
    }

    /// Which snapshots stand. `choice` says which of them a listing that is not complete leaves out.
    fn list_slots(&self, state: &mut State, number: usize, choice: usize) -> Option<CollectorStep> {
        let seen = state.sessions.map(|session| {
            self.stands(state, &session)
                && !(self.breaks(Broken::FencedSnapshotsNotMarked) && session.is_aborted)
        });
        let left_out = choice.checked_sub(1);
        if let Some(left_out) = left_out
            && !(seen[left_out] && state.sessions[left_out].live.has(state.swept()))
        {
            return None;
        }
        for (place, is_seen) in seen.into_iter().enumerate() {
            let is_shown = is_seen && left_out != Some(place);
            state.sessions[place].marks[number].set(mark::SEEN, is_shown);
        }
        Some(match self.bounds.pages {
            true => CollectorStep::ListTombs,
            false => self.mark_again(state, number),
        })
    }

    /// Decides what is deleted of what was condemned: not the only usable copy of what a root needs.
    fn mark_again(&self, state: &mut State, number: usize) -> CollectorStep {
        let process = WRITERS + number;
        let generation = state.collectors[number].generation;
        let newest = state.swept();
        let is_incomplete = state.sessions.iter().any(|session| {
            newest > 0
                && session.live.has(newest)
                && !session.is_tombed()
                && !session.marks[number].has(mark::SEEN)
        });
        if is_incomplete && !self.breaks(Broken::CheckpointNotChecked) {
            return self.stop(state, process);
        }
        let mut needed = Bits::default();
        for session in &mut state.sessions {
            if session.is_tombed() {
                session.marks[number].set(mark::SEEN, false);
            }
            if session.marks[number].has(mark::SEEN) {
                needed = needed.or(session.snapshot);
            }
        }
        let is_there = |pack: &Pack| {
            pack.facts[process].has(fact::KNOWN) && !pack.facts[process].has(fact::BANNED)
        };
        let mut kept = Bits::default();
        for pack in &state.packs {
            if is_there(pack) && !pack.condemned.has(generation) {
                kept = kept.or(pack.blobs);
            }
        }
        for pack in &mut state.packs {
            let is_condemned = pack.condemned.has(generation);
            let is_rescued = is_condemned
                && is_there(pack)
                && !pack.blobs.and(needed).without(kept).is_empty()
                && !self.breaks(Broken::NotMarkedAgain);
            if is_rescued {
                kept = kept.or(pack.blobs);
            }
            pack.facts[process].set(fact::CHOSEN, is_condemned && !is_rescued);
            pack.facts[process].clear(&[fact::LISTED, fact::BANNED, fact::KNOWN]);
        }
        CollectorStep::Sweep
    }

    /// Lets everything go, and its own session with ABORT in the slot.
    fn stop(&self, state: &mut State, process: usize) -> CollectorStep {
        for session in &mut state.sessions {
            if session.owner == Some(process as u8) {
                session.is_aborted = true;
                session.owner = None;
            }
        }
        let over = [fact::LISTED, fact::BANNED, fact::KNOWN, fact::OWN, fact::CHOSEN];
        state.forget_facts(process, &over);
        let keeps_list = self.breaks(Broken::SessionsListedBeforePublishing);
        let marks: &[u8] =
            if keeps_list { &[mark::SEEN] } else { &[mark::LISTED, mark::AWAITED, mark::SEEN] };
        state.forget_marks(process - WRITERS, marks);
        CollectorStep::ReadGenerations
    }

    fn delete_or_end(&self, state: &mut State, process: usize) -> CollectorStep {
        match state.packs.iter().any(|pack| pack.facts[process].has(fact::CHOSEN)) {
            true => CollectorStep::Delete,
            false => self.stop(state, process),
        }
    }

    /// Whether the collector can fence the session now: it waits for it, and nothing is decided.
    pub fn can_fence(&self, state: &State, number: usize, place: usize) -> bool {
        let session = &state.sessions[place];
        state.collectors[number].step == CollectorStep::Wait
            && session.marks[number].has(mark::AWAITED)
            && match self.class {
                Class::CreateIfAbsent => !Self::is_decided(session),
                // It has read the slot before, and writes whatever has happened since.
                Class::WriteThenRead => !session.is_aborted,
            }
    }

    /// Gives a session up. When is a matter of patience; here it is any time.
    pub fn fence(state: &mut State, place: usize) {
        state.sessions[place].is_aborted = true;
    }

    /// The collector's process dies and starts again with nothing.
    pub fn restart(&self, state: &mut State, number: usize) {
        state.let_session_go((WRITERS + number) as u8);
        state.forget_facts(
            WRITERS + number,
            &[fact::LISTED, fact::BANNED, fact::KNOWN, fact::OWN, fact::CHOSEN],
        );
        state.forget_marks(number, &[mark::LISTED, mark::AWAITED, mark::SEEN]);
        let rounds_left = state.collectors[number].rounds_left;
        state.collectors[number] = Collector { rounds_left, ..Collector::default() };
        state.left.restarts -= 1;
    }

    /// Whether the session's object and its ABORT may go.
    pub fn can_remove_session(&self, state: &State, place: usize) -> bool {
        let session = &state.sessions[place];
        session.generation < state.swept()
            && session.is_aborted
            && session.snapshot.is_empty()
            && session.is_registered
    }

    pub fn remove_session(state: &mut State, place: usize) {
        state.sessions[place].is_registered = false;
        state.sessions[place].is_aborted = false;
    }

    /// Whether the slot, the tombs and the session of a forgotten snapshot may go.
    pub fn can_remove_forgotten(&self, state: &State, place: usize) -> bool {
        let session = &state.sessions[place];
        session.is_tombed()
            && session.generation < state.swept()
            && !session.live.has(state.swept())
            && !session.snapshot.is_empty()
    }

    pub fn remove_forgotten(state: &mut State, place: usize) {
        let session = &mut state.sessions[place];
        session.is_registered = false;
        session.snapshot = Bits::default();
        session.tombs = Bits::default();
        session.undone = Bits::default();
        session.claim = Claim::Forgotten;
    }

    /// Whether the objects of an older generation may go: its packs are gone.
    pub fn can_remove_generation(&self, state: &State, generation: u8) -> bool {
        let it = state.generation(generation);
        generation < state.swept()
            && (it.is_swept || it.is_condemned)
            && !state.packs.iter().any(|pack| pack.swept.has(generation) && pack.is_stored)
    }

    pub fn remove_generation(state: &mut State, generation: u8) {
        *state.generation_mut(generation) = Default::default();
        state.packs.iter_mut().for_each(|pack| {
            pack.condemned.set(generation, false);
            pack.swept.set(generation, false);
        });
        state.sessions.iter_mut().for_each(|session| session.live.set(generation, false));
    }
}

/// Whether the pack is there and no sweep names it.
fn is_usable(state: &State, pack: &Pack) -> bool {
    let named = (1..=state.newest()).filter(|k| state.generation(*k).is_swept);
    pack.is_stored && !named.into_iter().any(|k| pack.swept.has(k))
}
