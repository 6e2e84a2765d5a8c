//! A writer: registers, learns which packs it may count on, uploads the others, commits, and starts over with a
//! new session when it was fenced. A reader is a writer that never comes to commit.

use super::rules::{Broken, Class, Protocol};
use super::state::{Bits, Cache, Claim, Pack, State, Writer, WriterStep, fact};

impl Protocol {
    /// Upper bound of the ways in which the writer's next step can turn out.
    pub fn writer_choices(&self, state: &State, number: usize) -> usize {
        let writer = state.writers[number];
        match writer.step {
            WriterStep::ReadGeneration => {
                let guesses = if self.bounds.guesses { usize::from(state.newest()) + 1 } else { 1 };
                guesses * self.wishes(&writer, number)
            }
            WriterStep::Done if !self.bounds.repeats || writer.sessions_left == 0 => 0,
            WriterStep::Gone => 0,
            WriterStep::ListMorePacks => changed_packs(state, number),
            // The commit is delivered once, or twice.
            WriterStep::Commit if state.left.late_deliveries > 0 => 2,
            _ => 1,
        }
    }

    /// How many snapshots it may come to want now.
    fn wishes(&self, writer: &Writer, number: usize) -> usize {
        if writer.needs.is_empty() { self.bounds.writers[number].0.len() } else { 1 }
    }

    /// The writer's next step, which may turn out in several ways.
    pub fn writer_step(&self, state: &mut State, number: usize, choice: usize) -> Option<()> {
        let process = number as u8;
        let mut writer = state.writers[number];
        let next = match writer.step {
            WriterStep::ReadGeneration => {
                let wishes = self.wishes(&writer, number);
                writer.generation = state.newest() - (choice / wishes) as u8;
                writer.sessions_left -= 1;
                if writer.needs.is_empty() {
                    writer.needs = self.bounds.writers[number].0[choice % wishes];
                }
                if self.breaks(Broken::PacksLearntBeforeRegistering) {
                    self.read_sweeps(state, number, &mut writer);
                    state.packs.iter_mut().for_each(|pack| {
                        pack.facts[number].set(fact::KNOWN, pack.is_stored);
                    });
                }
                WriterStep::Register
            }
            WriterStep::Register => {
                state.add_session(writer.generation, Some(process));
                WriterStep::ReadGenerationAgain
            }
            WriterStep::ReadGenerationAgain => {
                if self.breaks(Broken::PacksLearntBeforeRegistering) {
                    self.upload_or_commit(state, number, &writer)
                } else if state.newest() != writer.generation
                    && !self.breaks(Broken::GenerationNotReadAgain)
                {
                    start_over(self, state, number, &mut writer)
                } else if self.bounds.guesses {
                    self.follow(state, number, &mut writer)
                } else {
                    WriterStep::ReadSweeps
                }
            }
            WriterStep::ReadSweeps => self.follow(state, number, &mut writer),
            WriterStep::ListPacks if self.bounds.pages => {
                for pack in &mut state.packs {
                    pack.facts[number].set(fact::LISTED, pack.is_stored);
                }
                WriterStep::ListMorePacks
            }
            WriterStep::ListPacks => {
                for pack in &mut state.packs {
                    self.learn(pack, number, pack.is_stored);
                }
                self.upload_or_commit(state, number, &writer)
            }
            WriterStep::ListMorePacks => {
                let pages = state
                    .packs
                    .iter()
                    .map(|pack| (pack.facts[number].has(fact::LISTED), pack.is_stored));
                let shown = Self::second_page(pages, choice)?;
                for (pack, is_shown) in state.packs.iter_mut().zip(shown) {
                    self.learn(pack, number, is_shown);
                    pack.facts[number].set(fact::LISTED, false);
                }
                self.upload_or_commit(state, number, &writer)
            }
            WriterStep::ReadIndex => {
                for pack in &mut state.packs {
                    let facts = &mut pack.facts[number];
                    if !pack.is_indexed || facts.has(fact::KNOWN) || facts.has(fact::REFUSED) {
                        continue;
                    }
                    // Only sweeps of generations after its own can name it. Where all of those were read, a pack
                    // that the cache does not refuse is there; else it is looked for.
                    let is_certain = pack.generation + 1 >= writer.cache.from
                        || self.breaks(Broken::NewIndexObjectsBelieved);
                    facts.set(fact::KNOWN, is_certain || pack.is_stored);
                }
                self.upload_or_commit(state, number, &writer)
            }
            WriterStep::Upload => {
                let missing = writer.needs.without(self.usable(state, number));
                let generation = writer.generation;
                let mut pack =
                    Pack { blobs: missing, generation, is_stored: true, ..Pack::default() };
                pack.facts[number].set(fact::KNOWN, true);
                pack.facts[number].set(fact::OWN, true);
                state.add_pack(pack);
                match self.bounds.caches {
                    true => WriterStep::UploadIndex,
                    false => WriterStep::ListOwnPacks,
                }
            }
            WriterStep::UploadIndex => {
                for pack in &mut state.packs {
                    if pack.facts[number].has(fact::OWN) {
                        pack.is_indexed = true;
                    }
                }
                WriterStep::ListOwnPacks
            }
            WriterStep::ListOwnPacks => {
                let is_missing = |pack: &Pack| pack.facts[number].has(fact::OWN) && !pack.is_stored;
                match state.packs.iter().any(is_missing) {
                    true => start_over(self, state, number, &mut writer),
                    false => WriterStep::Commit,
                }
            }
            WriterStep::Commit => {
                let session = state.session_of(process);
                if choice == 1 {
                    session.late_commit = writer.needs;
                    state.left.late_deliveries -= 1;
                }
                let session = state.session_of(process);
                match self.class {
                    Class::WriteThenRead => {
                        session.snapshot = writer.needs;
                        WriterStep::ReadAbort
                    }
                    Class::CreateIfAbsent if !session.is_aborted => {
                        session.snapshot = writer.needs;
                        WriterStep::CheckSweep
                    }
                    Class::CreateIfAbsent if self.breaks(Broken::AlreadyThereTakenForSuccess) => {
                        WriterStep::CheckSweep
                    }
                    Class::CreateIfAbsent => start_over(self, state, number, &mut writer),
                }
            }
            WriterStep::ReadAbort => match state.session_of(process).is_aborted {
                true if !self.breaks(Broken::AbortNotRead) => {
                    start_over(self, state, number, &mut writer)
                }
                _ => WriterStep::Confirm,
            },
            WriterStep::Confirm => {
                state.session_of(process).is_confirmed = true;
                WriterStep::CheckSweep
            }
            WriterStep::CheckSweep => {
                let newest = state.swept();
                let skips = self.breaks(Broken::SweepNotCheckedAfterCommit);
                let session = state.session_of(process);
                let is_excluded = session.generation < newest && !session.live.has(newest);
                if is_excluded && !session.is_tombed() && !skips {
                    start_over(self, state, number, &mut writer)
                } else {
                    if session.claim == Claim::Nothing {
                        session.claim = Claim::Saved;
                    }
                    let cache = if self.bounds.caches { fact::LISTED } else { fact::KNOWN };
                    state.let_session_go(process);
                    let over = [fact::LISTED, fact::BANNED, fact::OWN, cache];
                    state.forget_facts(number, &over);
                    WriterStep::Done
                }
            }
            WriterStep::Done => {
                writer.needs = Bits::default();
                writer.is_fenced_before = false;
                WriterStep::ReadGeneration
            }
            WriterStep::Gone => return None,
        };
        writer.step = next;
        state.writers[number] = writer;
        Some(())
    }

    fn follow(&self, state: &mut State, number: usize, writer: &mut Writer) -> WriterStep {
        let is_gapless = self.read_sweeps(state, number, writer);
        match self.bounds.caches && is_gapless {
            true => WriterStep::ReadIndex,
            false => WriterStep::ListPacks,
        }
    }

    /// Takes in the sweeps that are there, and what the open generation condemns. Returns whether the cache has
    /// then followed all sweeps without a gap.
    fn read_sweeps(&self, state: &mut State, number: usize, writer: &mut Writer) -> bool {
        let newest = state.swept();
        let open = state.open();
        let swept: Vec<u8> = (1..=newest).filter(|k| state.generation(*k).is_swept).collect();
        // The chain from the newest sweep down to the first that is not there.
        let chain_from = (1..=newest).rev().take_while(|k| state.generation(*k).is_swept).last();
        let is_gapless = chain_from.is_none_or(|from| from <= writer.cache.to + 1);
        for pack in &mut state.packs {
            let facts = &mut pack.facts[number];
            let is_swept = swept.iter().any(|k| pack.swept.has(*k));
            let is_condemned = open.is_some_and(|k| pack.condemned.has(k))
                && !self.breaks(Broken::CondemnedPacksCountedOn);
            facts.set(fact::BANNED, is_swept || is_condemned);
            if is_swept && self.bounds.caches {
                facts.set(fact::KNOWN, false);
                facts.set(fact::REFUSED, true);
            }
        }
        if self.bounds.caches {
            let from = if is_gapless { writer.cache.from } else { chain_from.unwrap_or(0) };
            writer.cache = Cache { from, to: newest };
        }
        is_gapless || self.breaks(Broken::GapInSweepsIgnored)
    }

    /// A listing has told whether the pack is there. The index objects are read as well, and the cache remembers
    /// which of their packs are not.
    fn learn(&self, pack: &mut Pack, number: usize, is_shown: bool) {
        pack.facts[number].set(fact::KNOWN, is_shown);
        if self.bounds.caches && pack.is_indexed && !is_shown {
            pack.facts[number].set(fact::REFUSED, true);
        }
    }

    fn upload_or_commit(&self, state: &State, number: usize, writer: &Writer) -> WriterStep {
        match writer.needs.without(self.usable(state, number)).is_empty() {
            true => WriterStep::Commit,
            false => WriterStep::Upload,
        }
    }

    /// The blobs that the writer need not upload.
    fn usable(&self, state: &State, number: usize) -> Bits {
        let usable = state.packs.iter().filter(|pack| is_counted_on(pack, number));
        usable.fold(Bits::default(), |blobs, pack| blobs.or(pack.blobs))
    }
}

/// Whether the writer takes the pack for there.
pub fn is_counted_on(pack: &Pack, number: usize) -> bool {
    pack.facts[number].has(fact::KNOWN) && !pack.facts[number].has(fact::BANNED)
}

/// Whether the writer's session is open and it has learnt which packs are there.
pub fn has_learnt(step: WriterStep) -> bool {
    matches!(
        step,
        WriterStep::Upload
            | WriterStep::UploadIndex
            | WriterStep::ListOwnPacks
            | WriterStep::Commit
    )
}

/// How many outcomes a listing's second page has.
fn changed_packs(state: &State, number: usize) -> usize {
    let has_changed = |pack: &&Pack| pack.facts[number].has(fact::LISTED) != pack.is_stored;
    1 << state.packs.iter().filter(has_changed).count()
}

fn start_over(
    protocol: &Protocol,
    state: &mut State,
    number: usize,
    writer: &mut Writer,
) -> WriterStep {
    state.let_session_go(number as u8);
    state.forget_facts(number, &[fact::LISTED, fact::BANNED, fact::OWN]);
    writer.is_fenced_before = true;
    if !protocol.bounds.caches || writer.sessions_left == 0 {
        state.forget_facts(number, &[fact::KNOWN, fact::REFUSED]);
    }
    match writer.sessions_left {
        0 => WriterStep::Gone,
        _ => WriterStep::ReadGeneration,
    }
}
