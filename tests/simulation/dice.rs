//! What a seed decides: numbers that follow from it, and how likely everything is.

/// Numbers that follow from a seed (splitmix64, Steele, Lea and Flood 2014).
#[derive(Clone)]
pub struct Dice(u64);

impl Dice {
    /// The numbers that follow from `seed`, apart from those of another `stream`.
    pub fn new(seed: u64, stream: u64) -> Self {
        let mut dice = Dice(seed ^ stream.wrapping_mul(0xa076_1d64_78bd_642f));
        dice.next();
        dice
    }

    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut number = self.0;
        number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        number ^ (number >> 31)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    /// A number from `least` to `most`.
    pub fn between(&mut self, least: u64, most: u64) -> u64 {
        least + self.below(most - least + 1)
    }

    /// True so often in a million.
    pub fn hits(&mut self, in_a_million: u64) -> bool {
        self.below(1_000_000) < in_a_million
    }

    /// One of these.
    pub fn choose<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len() as u64) as usize]
    }
}

/// How the seed's run is: chances are in a million for each call of the store.
#[derive(Debug, Clone)]
pub struct Odds {
    /// Clients that run at once.
    pub clients: usize,
    /// Whether listing all packs is cheap: writers look at them in another way then.
    pub lists_cheaply: bool,
    /// Whether the store can create if absent; else it uses the second form of the protocol.
    pub is_conditional: bool,
    /// The chance that the client that just made a call makes the next one too.
    pub stays: u64,
    /// A client is stopped, and starts again.
    pub kill: u64,
    /// A client sleeps while others go on.
    pub sleep: u64,
    /// The clock jumps, or a client's clock does.
    pub jump: u64,
    /// A call fails without an effect.
    pub fail_before: u64,
    /// A call has its effect, and fails.
    pub fail_after: u64,
    /// A call fails, and has its effect later.
    pub late: u64,
    /// A call has its effect, and has it once more later.
    pub twice: u64,
    /// A create finds its own object there: its first reply was lost.
    pub lost_reply: u64,
    /// A create is refused although nothing is there.
    pub refuse: u64,
    /// An upload fails and leaves a part of the object.
    pub tear: u64,
    /// A listing leaves out a page.
    pub short: u64,
    /// A listing is one of some time ago.
    pub stale: u64,
    /// An object of collection, or the config, is damaged.
    pub rot: u64,
    /// Whether clients rekey.
    pub rekeys: bool,
    /// A folder whose listings may leave something out although the engine does not get along with that.
    pub beyond: &'static str,
    /// How many contents there are that files may have.
    pub contents: u64,
    /// Verbs that a client runs.
    pub verbs: u64,
    /// The share of prunes among the verbs, in a million.
    pub prune: u64,
    /// The share of prunes that do not wait.
    pub impatience: u64,
}

impl Odds {
    /// Those of a seed. Many faults are absent from many runs, so that some go far and meet few.
    pub fn draw(dice: &mut Dice) -> Self {
        let rates = [0, 0, 2_000, 6_000, 20_000];
        let base = if dice.hits(250_000) { 0 } else { 1 };
        let rate = |dice: &mut Dice| dice.choose(&rates) * base;
        let lists_loosely = dice.hits(300_000);
        let loose = |dice: &mut Dice| match lists_loosely {
            true => dice.choose(&[0, 10_000, 40_000, 120_000]),
            false => 0,
        };
        let (short, stale) = (loose(dice), loose(dice));
        Odds {
            rot: dice.choose(&[0, 0, 0, 1_000, 4_000]) * base,
            rekeys: dice.hits(250_000),
            short,
            stale,
            beyond: "",
            clients: dice.between(2, 4) as usize,
            lists_cheaply: dice.hits(500_000),
            is_conditional: dice.hits(750_000),
            stays: dice.choose(&[0, 500_000, 900_000, 970_000]),
            kill: dice.choose(&[0, 1_000, 4_000, 10_000]) * base,
            sleep: dice.choose(&[0, 5_000, 20_000, 50_000]),
            jump: dice.choose(&[0, 2_000, 20_000]),
            fail_before: rate(dice),
            fail_after: rate(dice),
            late: rate(dice),
            twice: rate(dice),
            lost_reply: rate(dice),
            refuse: rate(dice) / 4,
            tear: dice.choose(&[0, 0, 0, 50_000]) * base,
            contents: dice.between(3, 16),
            verbs: dice.between(3, 7),
            prune: dice.choose(&[200_000, 350_000, 500_000]),
            impatience: dice.choose(&[0, 300_000, 700_000, 1_000_000]),
        }
    }
}
