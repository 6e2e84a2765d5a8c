//! The world that a seed makes: the objects of a store, whose turn it is, the time, the faults, and what must hold.
//!
//! Clients are threads of which one runs at a time. Each call of the store is a turn: the seed says who makes the next
//! one and what becomes of it. Everything a client does between two calls follows from what it was told, so a run
//! follows from its seed.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use aumbry::clock::Clock;
use aumbry::format::header::HEADER_LENGTH;
use aumbry::id::{BlobId, SnapshotId};
use aumbry::repository::seal::Sealer;
use aumbry::store::layout;
use aumbry::units::Timestamp;
use opendal::{Error, ErrorKind, Result};
use parking_lot::{Condvar, Mutex, MutexGuard};

use super::dice::{Dice, Odds};
use super::promises::{Promise, Promises};
use super::source::Folder;

/// More calls than any run makes that gets anywhere.
const MOST_STEPS: u64 = 60_000;
/// When a world begins, in seconds since 1970.
const BEGINNING: i64 = 1_900_000_000;

/// Who is calling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Actor {
    /// A thread of which the simulation does not know: the engine started one.
    Stranger,
    /// A client, whose calls are turns.
    Client(usize),
    /// Whoever looks at the world from outside: its calls pass at once.
    Onlooker,
}

thread_local! {
    static ACTOR: Cell<Actor> = const { Cell::new(Actor::Stranger) };
}

/// Says who the calling thread is from now on. Returns who it was.
pub fn become_actor(actor: Actor) -> Actor {
    ACTOR.replace(actor)
}

/// An object of the store.
#[derive(Clone)]
pub struct Object {
    /// Its bytes.
    pub bytes: Arc<Vec<u8>>,
    /// When the store made it, by the store's clock, in seconds since 1970.
    pub modified: i64,
    /// At which call.
    made: u64,
}

/// An effect that is still to come.
enum Effect {
    Create(String, Vec<u8>),
    Delete(String),
}

#[derive(Default)]
struct Client {
    asleep_until: u64,
    is_done: bool,
    is_stopped: bool,
    /// Calls that did not go as they should, since somebody last asked.
    faults: u64,
    /// Listings among them.
    unwhole_listings: u64,
    /// It was told to wait until listings are whole, and did.
    is_careful: bool,
    /// It runs a collection.
    collects: bool,
    skew: i64,
    /// Its last call listed the generations, the snapshots or the sessions.
    looked: bool,
}

/// How often what happened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts(pub BTreeMap<&'static str, u64>);

impl Counts {
    /// Once more.
    pub fn add(&mut self, what: &'static str, count: u64) {
        *self.0.entry(what).or_default() += count;
    }

    /// As often as these, too.
    pub fn add_all(&mut self, others: &Counts) {
        for (what, count) in &others.0 {
            self.add(what, *count);
        }
    }
}

/// Everything that changes.
pub struct State {
    dice: Dice,
    odds: Odds,
    step: u64,
    now: i64,
    objects: BTreeMap<String, Object>,
    /// Objects that were removed, and at which call.
    removed: Vec<(String, Object, u64)>,
    later: Vec<(u64, Effect)>,
    clients: Vec<Client>,
    turn: Option<usize>,
    is_calm: bool,
    trace: blake3::Hasher,
    log: Option<String>,
    /// What listings leave out, for everybody: names that begin so.
    hidden: Option<String>,
    /// Names of objects that were damaged, and have not been replaced or taken away.
    pub rotten: BTreeSet<String>,
    /// Revision of the newest keyring that was published.
    pub revision: u32,
    /// A sweep was lost: what it let go may be shown, or missed, until somebody says so.
    pub lost_sweep: bool,
    /// Somebody has said that no collector runs, and so none shall.
    pub nobody_collects: bool,
    /// Names of objects of which a part was stored.
    pub torn: BTreeSet<String>,
    /// What was promised, and what the store needs to keep it.
    pub promises: Promises,
    /// How often what happened.
    pub counts: Counts,
    /// What should never have been.
    pub violation: Option<String>,
}

/// A world.
pub struct World {
    state: Mutex<State>,
    turns: Vec<Condvar>,
}

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Pass,
    FailBefore,
    FailAfter,
    Late,
    Twice,
    Torn,
    LostReply,
    Refused,
    Short,
    Stale,
}

/// Whether the engine gets along with listings of this object's folder that leave it out.
fn may_be_left_out(name: &str, beyond: &str) -> bool {
    // Whom a collector waits for, it knows from listings alone.
    let relied_on = [layout::SESSIONS, layout::KEYS, layout::DAMAGED];
    !relied_on.iter().any(|folder| name.starts_with(folder) && *folder != beyond)
}

impl World {
    /// The world of a seed. `is_told`: it keeps a log.
    pub fn new(mut dice: Dice, odds: Odds, is_told: bool) -> Self {
        let clients = (0..odds.clients).map(|_| Client::default()).collect();
        let turns = (0..odds.clients).map(|_| Condvar::new()).collect();
        let first = dice.below(odds.clients as u64) as usize;
        let state = State {
            dice,
            odds,
            step: 0,
            now: BEGINNING,
            objects: BTreeMap::new(),
            removed: Vec::new(),
            hidden: None,
            rotten: BTreeSet::new(),
            revision: 0,
            lost_sweep: false,
            nobody_collects: false,
            later: Vec::new(),
            clients,
            turn: Some(first),
            is_calm: false,
            trace: blake3::Hasher::new(),
            log: is_told.then(String::new),
            torn: BTreeSet::new(),
            promises: Promises::default(),
            counts: Counts::default(),
            violation: None,
        };
        World { state: Mutex::new(state), turns }
    }

    /// Everything that changes, for whoever's turn it is.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Waits for a client's first turn.
    pub fn begin(&self, client: usize) {
        let mut state = self.state();
        while state.turn != Some(client) {
            self.turns[client].wait(&mut state);
        }
    }

    /// A client makes no calls any more.
    pub fn end(&self, client: usize) {
        let mut state = self.state();
        state.clients[client].is_done = true;
        let next = state.choose(client);
        state.turn = next;
        if let Some(next) = next {
            self.turns[next].notify_one();
        }
    }

    /// From now on listings leave out every object whose name begins so, and no other.
    pub fn hide(&self, names: &str) {
        self.state().hidden = Some(names.to_string());
    }

    /// No faults any more, and what was to come later comes now.
    pub fn calm_down(&self) {
        let mut state = self.state();
        state.is_calm = true;
        for (_, effect) in std::mem::take(&mut state.later) {
            state.happen(effect);
        }
    }

    /// Waits for the caller's turn, and says what becomes of its call.
    fn enter(&self, call: &'static str, name: &str) -> Result<(MutexGuard<'_, State>, Fate)> {
        let actor = ACTOR.get();
        let mut state = self.state();
        let client = match actor {
            Actor::Onlooker => return Ok((state, Fate::Pass)),
            Actor::Client(client) => client,
            // A check reads packs on threads of its own.
            Actor::Stranger if state.is_calm => return Ok((state, Fate::Pass)),
            Actor::Stranger => {
                state.violate(format!("{call} {name}: by a thread that nobody knows"));
                return Err(failure());
            }
        };
        state.pass_time();
        if let Some(next) = state.choose(client).filter(|next| *next != client) {
            state.turn = Some(next);
            self.turns[next].notify_one();
            while state.turn != Some(client) {
                self.turns[client].wait(&mut state);
            }
        }
        state.clients[client].looked =
            call == "list" && matches!(name, "gc/" | "snapshots/" | "sessions/");
        let fate = state.fate(client, call, name);
        state.note(client, call, name, fate);
        if state.violation.is_some() || fate == Fate::FailBefore {
            return Err(failure());
        }
        Ok((state, fate))
    }

    /// The object with this name.
    pub fn read(&self, call: &'static str, name: &str) -> Result<Object> {
        let (state, fate) = self.enter(call, name)?;
        match fate {
            Fate::Pass => {}
            _ => return Err(failure()),
        }
        let not_found = || Error::new(ErrorKind::NotFound, "not found");
        state.objects.get(name).cloned().ok_or_else(not_found)
    }

    /// Every object whose name begins so, or what a listing that is not whole makes of them.
    pub fn list(&self, prefix: &str) -> Result<Vec<(String, Object)>> {
        let (mut state, fate) = self.enter("list", prefix)?;
        match fate {
            Fate::Pass => Ok(state.listed(prefix)),
            Fate::Short | Fate::Stale => Ok(state.list_loosely(prefix, fate)),
            _ => Err(failure()),
        }
    }

    /// Whether objects are made only if they are absent.
    pub fn is_conditional(&self) -> bool {
        self.state().odds.is_conditional
    }

    /// Makes an object; unless there is one, where the store knows that condition.
    pub fn create(&self, name: &str, bytes: Vec<u8>) -> Result<()> {
        let (mut state, fate) = self.enter("create", name)?;
        let taken = || Err(Error::new(ErrorKind::ConditionNotMatch, "already there"));
        let due = state.step + state.delay();
        let again = || Effect::Create(name.to_string(), bytes.clone());
        match fate {
            Fate::Late => state.later.push((due, again())),
            Fate::Twice => state.later.push((due, again())),
            Fate::Torn => {
                let length = state.dice.below(bytes.len() as u64) as usize;
                state.torn.insert(name.to_string());
                state.happen(Effect::Create(name.to_string(), bytes[..length].to_vec()));
                return Err(failure());
            }
            Fate::Refused if !state.objects.contains_key(name) => return taken(),
            _ => {}
        }
        if fate == Fate::Late {
            return Err(failure());
        }
        let is_new = state.happen(Effect::Create(name.to_string(), bytes));
        match fate {
            Fate::FailAfter => Err(failure()),
            Fate::LostReply => taken(),
            _ if is_new => Ok(()),
            _ => taken(),
        }
    }

    /// Removes an object that may be there.
    pub fn delete(&self, name: &str) -> Result<()> {
        let (mut state, fate) = self.enter("delete", name)?;
        let due = state.step + state.delay();
        if matches!(fate, Fate::Late | Fate::Twice) {
            state.later.push((due, Effect::Delete(name.to_string())));
        }
        if fate == Fate::Late {
            return Err(failure());
        }
        state.happen(Effect::Delete(name.to_string()));
        if fate == Fate::FailAfter { Err(failure()) } else { Ok(()) }
    }

    /// The clock of a client.
    pub fn clock(self: &Arc<Self>, client: usize) -> Arc<dyn Clock> {
        Arc::new(WorldClock { world: self.clone(), client })
    }
}

fn failure() -> Error {
    Error::new(ErrorKind::Unexpected, "the simulated store failed")
}

impl State {
    /// Something that should never have been.
    pub fn violate(&mut self, what: String) {
        let step = self.step;
        self.violation.get_or_insert_with(|| format!("step {step}: {what}"));
    }

    /// Whether it is time to stop.
    pub fn is_over(&self) -> bool {
        self.violation.is_some()
    }

    /// A line of the log.
    pub fn tell(&mut self, line: impl FnOnce() -> String) {
        let step = self.step;
        if let Some(log) = &mut self.log {
            let _ = writeln!(log, "{step:6} {}", line());
        }
    }

    /// The log.
    pub fn take_log(&mut self) -> String {
        self.log.take().unwrap_or_default()
    }

    /// What follows from everything that happened.
    pub fn trace(&self) -> [u8; 32] {
        *self.trace.finalize().as_bytes()
    }

    /// How many calls there were.
    pub fn steps(&self) -> u64 {
        self.step
    }

    /// The client was stopped by the seed since this was last asked; it starts again. And how many of its calls did
    /// not go as they should.
    pub fn restart(&mut self, client: usize) -> (bool, u64) {
        let client = &mut self.clients[client];
        client.unwhole_listings = 0;
        (std::mem::take(&mut client.is_stopped), std::mem::take(&mut client.faults))
    }

    fn listed(&self, prefix: &str) -> Vec<(String, Object)> {
        let from = self.objects.range(prefix.to_string()..);
        let listed = from.take_while(|(name, _)| name.starts_with(prefix));
        let is_hidden =
            |name: &str| self.hidden.as_ref().is_some_and(|hidden| name.starts_with(hidden));
        let shown = listed.filter(|(name, _)| !is_hidden(name));
        shown.map(|(name, object)| (name.clone(), object.clone())).collect()
    }

    /// A listing without a page, or one of some time ago.
    fn list_loosely(&mut self, prefix: &str, fate: Fate) -> Vec<(String, Object)> {
        let whole = self.listed(prefix);
        let mut shown = whole.clone();
        let beyond = self.odds.beyond;
        if fate == Fate::Short {
            let length = whole.len() as u64;
            let first = self.dice.below(length);
            let lost = first..first + self.dice.between(1, length.max(1));
            let mut number = 0..;
            shown.retain(|(name, _)| {
                let is_lost = number.next().is_some_and(|number| lost.contains(&number));
                !(is_lost && may_be_left_out(name, beyond))
            });
        } else {
            let most = self.dice.choose(&[5, 50, 500, 5000]);
            let then = self.step.saturating_sub(self.dice.between(1, most));
            shown.retain(|(name, object)| object.made <= then || !may_be_left_out(name, beyond));
            let removed = self.removed.iter().filter(|(name, object, removed)| {
                name.starts_with(prefix) && object.made <= then && *removed > then
            });
            shown.extend(removed.map(|(name, object, _)| (name.clone(), object.clone())));
            shown.sort_by(|(one, _), (other, _)| one.cmp(other));
            shown.dedup_by(|(one, _), (other, _)| one == other);
        }
        let is_whole = shown.iter().map(|(name, _)| name).eq(whole.iter().map(|(name, _)| name));
        if !is_whole {
            let what = if fate == Fate::Short { "listings short" } else { "listings stale" };
            self.counts.add(what, 1);
            let (all, shown) = (whole.len(), shown.len());
            self.tell(|| format!("  it shows {shown} names, and there are {all}"));
            if let Actor::Client(client) = ACTOR.get() {
                self.clients[client].faults += 1;
                self.clients[client].unwhole_listings += 1;
            }
        }
        shown
    }

    /// How many listings were not whole since the client's verb began.
    pub fn unwhole_listings(&self, client: usize) -> u64 {
        self.clients[client].unwhole_listings
    }

    fn note(&mut self, client: usize, call: &'static str, name: &str, fate: Fate) {
        self.trace.update(&[client as u8, fate as u8]);
        self.trace.update(call.as_bytes());
        self.trace.update(name.as_bytes());
        let stopped = if self.clients[client].is_stopped { ", stopped" } else { "" };
        self.tell(|| {
            let fate = if fate == Fate::Pass { String::new() } else { format!(" {fate:?}") };
            format!("{client}: {call} {name}{fate}{stopped}")
        });
    }

    /// Time goes by: what is due happens.
    fn pass_time(&mut self) {
        self.step += 1;
        self.now += 1;
        if self.step > MOST_STEPS {
            self.violate("the clients get nowhere".into());
        }
        let step = self.step;
        if self.later.iter().any(|(due, _)| *due <= step) {
            let (due, later) = std::mem::take(&mut self.later)
                .into_iter()
                .partition::<Vec<_>, _>(|(due, _)| *due <= step);
            self.later = later;
            for (_, effect) in due {
                self.happen(effect);
            }
        }
        if self.odds.rot > 0 && self.dice.hits(self.odds.rot) {
            self.let_rot();
        }
        let day = 86_400;
        if self.dice.hits(self.odds.jump) {
            self.counts.add("clock jumps", 1);
            let distance = self.dice.choose(&[day / 24, day, 10 * day, 60 * day, 3650 * day]);
            if self.dice.hits(500_000) {
                self.now += distance;
            } else {
                let client = self.dice.below(self.clients.len() as u64) as usize;
                let sign = self.dice.choose(&[-1, 1]);
                self.clients[client].skew = sign * distance;
            }
        }
    }

    /// Damages the config, or the newest object of collection, as it stands.
    fn let_rot(&mut self) {
        let name = match self.dice.hits(300_000) {
            true => Some(layout::CONFIG.to_string()),
            false => {
                let listed = self.objects.range(layout::GC.to_string()..);
                let names = listed.map(|(name, _)| name);
                let in_gc = names.take_while(|name| name.starts_with(layout::GC));
                in_gc.filter(|name| *name != layout::MAINTAINER).last().cloned()
            }
        };
        let Some(object) = name.as_ref().and_then(|name| self.objects.get_mut(name)) else {
            return;
        };
        let mut bytes = object.bytes.to_vec();
        // The header of an object says whether it may be a newer version's, which nobody repairs.
        let sealed = (bytes.len() - HEADER_LENGTH) as u64;
        bytes[HEADER_LENGTH + self.dice.below(sealed) as usize] ^= 1;
        object.bytes = Arc::new(bytes);
        self.counts.add("objects damaged", 1);
        self.tell(|| format!("damaged: {name:?}"));
        self.rotten.extend(name);
        for client in &mut self.clients {
            client.faults += 1;
        }
    }

    /// Whether anybody but this client runs a collection, or something that a collector ordered is still to come.
    pub fn somebody_collects(&self, client: usize) -> bool {
        let mut others = self.clients.iter().enumerate();
        let deletes = |effect: &Effect| matches!(effect, Effect::Delete(name) if name.starts_with(layout::PACKS));
        others.any(|(other, state)| other != client && state.collects)
            || self.later.iter().any(|(_, effect)| deletes(effect))
    }

    /// A client begins or ends a collection.
    pub fn set_collects(&mut self, client: usize, collects: bool) {
        self.clients[client].collects = collects;
    }

    /// A client waits until listings are whole before it goes on, or does so no more.
    pub fn set_careful(&mut self, client: usize, is_careful: bool) {
        self.clients[client].is_careful = is_careful;
    }

    /// Who makes the next call; `None`: nobody is left.
    fn choose(&mut self, current: usize) -> Option<usize> {
        // Rather where much depends on what happens next.
        let weight = if self.clients[current].looked { 8 } else { 1 };
        if self.dice.hits(self.odds.sleep * weight) {
            self.counts.add("sleeps", 1);
            let calls = self.dice.choose(&[10, 50, 200, 1000]);
            self.clients[current].asleep_until = self.step + self.dice.between(calls / 2, calls);
        }
        let step = self.step;
        let is_awake = |client: &Client| !client.is_done && client.asleep_until <= step;
        let stays = self.dice.hits(self.odds.stays);
        if is_awake(&self.clients[current]) && stays {
            return Some(current);
        }
        let awake: Vec<usize> =
            (0..self.clients.len()).filter(|client| is_awake(&self.clients[*client])).collect();
        if !awake.is_empty() {
            return Some(self.dice.choose(&awake));
        }
        // All sleep: whoever wakes first finds that months went by.
        let sleepers = self.clients.iter().enumerate().filter(|(_, client)| !client.is_done);
        let (next, _) = sleepers.min_by_key(|(_, client)| client.asleep_until)?;
        self.clients[next].asleep_until = 0;
        self.now += 86_400 * self.dice.between(1, 90) as i64;
        Some(next)
    }

    fn delay(&mut self) -> u64 {
        let most = self.dice.choose(&[5, 50, 500, 3000]);
        self.dice.between(1, most)
    }

    fn fate(&mut self, client: usize, call: &'static str, name: &str) -> Fate {
        if self.clients[client].is_stopped {
            return Fate::FailBefore;
        }
        if self.is_calm {
            return Fate::Pass;
        }
        let odds = self.odds.clone();
        let mut fate = Fate::Pass;
        let mut draw = |dice: &mut Dice, chance: u64, drawn: Fate| {
            if dice.hits(chance) && fate == Fate::Pass {
                fate = drawn;
            }
        };
        draw(&mut self.dice, odds.fail_before, Fate::FailBefore);
        draw(&mut self.dice, odds.fail_after, Fate::FailAfter);
        // The second form does not survive a list of a generation that is written over by an older one.
        let is_over_when_told =
            !odds.is_conditional && (name.starts_with("gc/") || name.starts_with("keys/"));
        if matches!(call, "create" | "delete") && !is_over_when_told {
            draw(&mut self.dice, odds.late, Fate::Late);
            draw(&mut self.dice, odds.twice, Fate::Twice);
        }
        if call == "create" {
            if odds.is_conditional {
                draw(&mut self.dice, odds.lost_reply, Fate::LostReply);
                draw(&mut self.dice, odds.refuse, Fate::Refused);
            }
            let tears = name.starts_with("packs/") || name.starts_with("index/");
            draw(&mut self.dice, if tears { odds.tear } else { 0 }, Fate::Torn);
        }
        let is_careful = self.clients[client].is_careful;
        if call == "list" && odds.short + odds.stale > 0 && !is_careful {
            draw(&mut self.dice, odds.short, Fate::Short);
            draw(&mut self.dice, odds.stale, Fate::Stale);
        }
        if self.dice.hits(odds.kill) {
            self.counts.add("clients stopped", 1);
            self.clients[client].is_stopped = true;
            fate = self.dice.choose(&[Fate::FailBefore, Fate::FailAfter]);
        }
        // What a listing leaves out is counted when that is known.
        if !matches!(fate, Fate::Pass | Fate::Short | Fate::Stale) {
            self.clients[client].faults += 1;
            self.counts.add(
                match fate {
                    Fate::Pass | Fate::Short | Fate::Stale => "passed",
                    Fate::FailBefore => "failed before the effect",
                    Fate::FailAfter => "failed after the effect",
                    Fate::Late => "took effect late",
                    Fate::Twice => "took effect twice",
                    Fate::Torn => "torn",
                    Fate::LostReply => "replies lost",
                    Fate::Refused => "refused",
                },
                1,
            );
        }
        fate
    }

    /// Does it. Whether an object was made, or one that was there removed.
    fn happen(&mut self, effect: Effect) -> bool {
        match effect {
            Effect::Create(name, bytes) => {
                if self.odds.is_conditional && self.objects.contains_key(&name) {
                    return false;
                }
                if let Some(replaced) = self.objects.get(&name) {
                    self.promises.deleted(&name, &replaced.bytes);
                }
                let object = Object { bytes: Arc::new(bytes), modified: self.now, made: self.step };
                if let Err(violation) = self.promises.created(&name, &object.bytes) {
                    self.violate(violation);
                }
                self.objects.insert(name.clone(), object);
                self.rotten.remove(&name);
                self.revision = self.revision.max(layout::parse_key_update(&name).unwrap_or(0));
                self.look(&name);
                true
            }
            Effect::Delete(name) => {
                let Some(object) = self.objects.remove(&name) else { return false };
                self.promises.deleted(&name, &object.bytes);
                if self.rotten.remove(&name) && layout::parse_sweep(&name).is_some() {
                    // Who meets the gap asks a listing which packs there are, and has to be told the truth.
                    self.removed.retain(|(name, _, _)| !name.starts_with(layout::PACKS));
                }
                if self.odds.stale > 0 {
                    self.removed.push((name.clone(), object, self.step));
                }
                self.look(&name);
                true
            }
        }
    }

    /// Whether what changed broke a promise.
    fn look(&mut self, name: &str) {
        let decides = ["packs/", "snapshots/", "tombs/", "gc/"];
        if decides.iter().any(|folder| name.starts_with(folder))
            && let Err(violation) = self.promises.hold(&self.objects)
        {
            self.violate(format!("{name} changed: {violation}"));
        }
    }

    /// Whether every promise holds.
    pub fn look_at_all(&mut self) {
        if let Err(violation) = self.promises.hold(&self.objects) {
            self.violate(violation);
        }
    }

    /// A client was told that this snapshot of `folder`, whose files' contents are `data`, is there.
    pub fn report(&mut self, id: SnapshotId, folder: &Folder, data: Vec<BlobId>) {
        self.counts.add("snapshots reported", 1);
        if let Err(violation) = self.promises.report(&self.objects, id, folder, data) {
            self.violate(violation);
        }
    }

    /// Changes what is known of a snapshot that was reported.
    pub fn with_promise(&mut self, id: SnapshotId, change: impl FnOnce(&mut Promise)) {
        let promise = self.promises.reported.get_mut(&id);
        change(promise.expect("only what was reported is forgotten or brought back"));
    }

    /// A client has opened the repository with these keys.
    pub fn learn_keys(&mut self, sealer: &Sealer) {
        self.promises.learn_keys(sealer, &self.objects);
    }

    /// The objects.
    pub fn objects(&self) -> &BTreeMap<String, Object> {
        &self.objects
    }
}

struct WorldClock {
    world: Arc<World>,
    client: usize,
}

impl Clock for WorldClock {
    fn now(&self) -> Timestamp {
        let state = self.world.state();
        let skew = state.clients.get(self.client).map_or(0, |client| client.skew);
        Timestamp { seconds: state.now + skew, nanoseconds: 0 }
    }

    fn elapsed(&self) -> Duration {
        Duration::from_secs(self.world.state().step)
    }

    fn sleep(&self, duration: Duration) {
        self.world.state().now += duration.as_secs() as i64;
    }
}
