//! Which snapshots a policy keeps, and why: pure, so that a table can test it.
//!
//! A snapshot has two times: the one it claims, which its client chose, and the one when the store first showed
//! it, which no client can choose. Where they disagree by more than a day, the store's counts, and the snapshot
//! is *doubted*: it is kept where the rules keep it among all snapshots, but the others are judged as if it were
//! not there. So no claim, of the future or of the past, costs another snapshot its place.
//!
//! What is kept stays kept when others go (each rule looks only at what is newer, and at whether anything is
//! older), so applying a policy twice drops nothing more.

use std::fmt;

use jiff::Zoned;
use jiff::tz::TimeZone;

use crate::id::SnapshotId;
use crate::repository::snapshots::disagree;
use crate::units::Timestamp;
use crate::units::duration::Period;
use crate::units::time::before;

/// A snapshot with this tag is never dropped by a policy.
pub const PIN_TAG: &str = "pin";

/// Of which stretch of the calendar a rule keeps the newest snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Every {
    /// Of none: every snapshot counts.
    Snapshot,
    /// Of an hour by the clock. The hour that comes twice when clocks are turned is two.
    Hour,
    /// Of a day.
    Day,
    /// Of a week from Monday on, as ISO 8601 counts them.
    Week,
    /// Of a month.
    Month,
    /// Of a quarter: January to March and so on.
    Quarter,
    /// Of a year.
    Year,
}

/// All of them, the finest first.
pub const EVERY: [Every; 7] = [
    Every::Snapshot,
    Every::Hour,
    Every::Day,
    Every::Week,
    Every::Month,
    Every::Quarter,
    Every::Year,
];

/// How far back a rule reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// So many of them. While there are fewer, the oldest snapshot is kept, too: it will be the first of them.
    Count(u32),
    /// As far as there are snapshots.
    Unlimited,
    /// All that are younger than this, from [`Anchor`] back.
    Within(Period),
}

/// One rule: keep the newest snapshot of `every` so-and-so, as far back as `reach`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// Of what.
    pub every: Every,
    /// How far.
    pub reach: Reach,
}

/// Where windows ([`Reach::Within`]) are measured from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Anchor {
    /// The newest snapshot of the group that is not doubted, or the present when that lies in its past: a
    /// machine that is silent for a month keeps what it had, and so does one whose clock leaps.
    #[default]
    Newest,
    /// This moment.
    At(Timestamp),
}

/// What is kept. A snapshot that nothing here keeps is dropped.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    /// Rules of the calendar; a snapshot is kept when any of them keeps it.
    pub rules: Vec<Rule>,
    /// Lists of tags: a snapshot with all the tags of one list is kept.
    pub tags: Vec<Vec<String>>,
    /// These snapshots are kept.
    pub ids: Vec<SnapshotId>,
    /// Where windows are measured from.
    pub anchor: Anchor,
    /// Believe the times that snapshots claim, whatever the store has seen: for those that were brought in from
    /// elsewhere with their old times.
    pub trust_claims: bool,
}

impl Policy {
    /// Whether nothing says what is to be kept.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty() && self.tags.is_empty() && self.ids.is_empty()
    }
}

/// What a policy looks at in a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate<'a> {
    /// Its name.
    pub id: SnapshotId,
    /// The time that it claims.
    pub claimed: Timestamp,
    /// When the store first showed it, if that is known.
    pub observed: Option<Timestamp>,
    /// Its tags.
    pub tags: &'a [String],
}

impl Candidate<'_> {
    /// The time that counts, and whether it is another than the claimed one.
    pub fn time(&self) -> (Timestamp, bool) {
        match self.observed {
            Some(observed) if disagree(observed, self.claimed) => (observed, true),
            _ => (self.claimed, false),
        }
    }
}

/// Why a snapshot is kept or dropped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// A rule keeps it, in this slot, counted from the newest as 1.
    Slot {
        /// The rule.
        rule: Rule,
        /// Which of the rule's slots.
        slot: u32,
    },
    /// It is the oldest one, and a rule has slots left.
    Oldest {
        /// The rule.
        rule: Rule,
    },
    /// It has all of these tags.
    Tags(Vec<String>),
    /// The policy names it.
    KeptById,
    /// It has the tag [`PIN_TAG`].
    Pinned,
    /// It was chosen to be forgotten, without a policy.
    Chosen,
    /// Others were chosen to be forgotten, without a policy.
    NotChosen,
    /// No rule keeps it.
    NoRule {
        /// The finest rule that keeps another one for the same hour, day, week …
        in_favour_of: Option<(Every, SnapshotId)>,
    },
}

/// What becomes of a snapshot, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// The snapshot.
    pub id: SnapshotId,
    /// The time that counted.
    pub time: Timestamp,
    /// It claims another time, by more than a day.
    pub doubted: bool,
    /// Whether it is kept.
    pub kept: bool,
    /// Why; never empty.
    pub reasons: Vec<Reason>,
}

/// A candidate with the times that its fate depends on.
struct Dated<'a> {
    candidate: Candidate<'a>,
    time: Timestamp,
    doubted: bool,
    local: Zoned,
}

/// Which snapshots of one group the policy keeps, in the order in which they came. Local times are those of
/// `zone`; `now` only ever moves windows back, so that more is kept (see [`Anchor`]).
pub fn retain(
    snapshots: &[Candidate<'_>],
    policy: &Policy,
    now: Timestamp,
    zone: &TimeZone,
) -> Vec<Verdict> {
    let dated: Vec<_> = snapshots
        .iter()
        .map(|candidate| {
            let (time, doubted) = match policy.trust_claims {
                true => (candidate.claimed, false),
                false => candidate.time(),
            };
            Dated { candidate: *candidate, time, doubted, local: local(time, zone) }
        })
        .collect();
    let mut newest_first: Vec<_> = (0..dated.len()).collect();
    newest_first.sort_by_key(|at| {
        let snapshot = &dated[*at];
        std::cmp::Reverse((snapshot.time, snapshot.candidate.id))
    });
    let trusted: Vec<_> = newest_first.iter().copied().filter(|at| !dated[*at].doubted).collect();
    let newest = trusted.first().map_or(now, |at| dated[*at].time);
    let anchor = match policy.anchor {
        Anchor::Newest => newest.min(now),
        Anchor::At(moment) => moment,
    };

    let mut reasons = vec![Vec::new(); dated.len()];
    let mut stand_ins = vec![None; dated.len()];
    for rule in &policy.rules {
        let start = match rule.reach {
            Reach::Within(period) => before(anchor, &period, zone),
            Reach::Count(_) | Reach::Unlimited => None,
        };
        // The trusted ones as if they were alone, then the doubted ones among all.
        for (order, for_doubted) in [(&trusted, false), (&newest_first, true)] {
            for (at, fate) in apply(rule, start, order, &dated) {
                if dated[at].doubted != for_doubted {
                    continue;
                }
                match fate {
                    Fate::Slot(slot) => reasons[at].push(Reason::Slot { rule: *rule, slot }),
                    Fate::Oldest => reasons[at].push(Reason::Oldest { rule: *rule }),
                    Fate::Behind(other) => {
                        let stand_in = (rule.every, dated[other].candidate.id);
                        let finest = stand_ins[at].get_or_insert(stand_in);
                        if rule.every < finest.0 {
                            *finest = stand_in;
                        }
                    }
                }
            }
        }
    }
    let verdict = |(snapshot, (mut reasons, in_favour_of)): (&Dated<'_>, (Vec<Reason>, _))| {
        let candidate = &snapshot.candidate;
        let has = |tag: &String| candidate.tags.contains(tag);
        let lists = policy.tags.iter().filter(|list| list.iter().all(has));
        reasons.extend(lists.map(|list| Reason::Tags(list.clone())));
        if policy.ids.contains(&candidate.id) {
            reasons.push(Reason::KeptById);
        }
        if candidate.tags.iter().any(|tag| tag == PIN_TAG) {
            reasons.push(Reason::Pinned);
        }
        let kept = !reasons.is_empty();
        if !kept {
            reasons.push(Reason::NoRule { in_favour_of });
        }
        Verdict { id: candidate.id, time: snapshot.time, doubted: snapshot.doubted, kept, reasons }
    };
    dated.iter().zip(reasons.into_iter().zip(stand_ins)).map(verdict).collect()
}

/// What one rule says of a snapshot.
enum Fate {
    Slot(u32),
    Oldest,
    /// Another one, of this index, is kept for the same stretch of the calendar.
    Behind(usize),
}

/// What a rule says of the snapshots in `order`, newest first; those of which it says nothing are left out.
/// A window begins at `start`; `None` is the beginning of time.
fn apply(
    rule: &Rule,
    start: Option<Timestamp>,
    order: &[usize],
    dated: &[Dated<'_>],
) -> Vec<(usize, Fate)> {
    let limit = match rule.reach {
        Reach::Count(count) => count,
        Reach::Unlimited | Reach::Within(_) => u32::MAX,
    };
    let mut fates = Vec::new();
    let mut used = 0;
    let mut last = None;
    for at in order.iter().copied() {
        let snapshot = &dated[at];
        if start.is_some_and(|start| snapshot.time < start) {
            break;
        }
        let stretch = stretch(rule.every, at, &snapshot.local);
        match last {
            Some((kept, before)) if before == stretch => fates.push((at, Fate::Behind(kept))),
            _ if used == limit => break,
            _ => {
                used += 1;
                last = Some((at, stretch));
                fates.push((at, Fate::Slot(used)));
            }
        }
    }
    if let (Reach::Count(count), Some((at, fate))) = (rule.reach, fates.last_mut())
        && used < count
        && matches!(fate, Fate::Behind(_))
        && Some(&*at) == order.last()
    {
        *fate = Fate::Oldest;
    }
    fates
}

/// Numbers that two snapshots share exactly when they are of one stretch of the calendar.
fn stretch(every: Every, at: usize, local: &Zoned) -> [i64; 3] {
    let (year, month) = (i64::from(local.year()), i64::from(local.month()));
    let day = i64::from(local.day_of_year());
    match every {
        Every::Snapshot => [at as i64, 0, 0],
        // Of an hour that comes twice, the offset tells which it is.
        Every::Hour => {
            let hour = i64::from(local.hour());
            [year, day * 24 + hour, i64::from(local.offset().seconds())]
        }
        Every::Day => [year, day, 0],
        Every::Week => {
            let week = local.date().iso_week_date();
            [i64::from(week.year()), i64::from(week.week()), 0]
        }
        Every::Month => [year, month, 0],
        Every::Quarter => [year, (month - 1) / 3, 0],
        Every::Year => [year, 0, 0],
    }
}

/// The local time; of a moment beyond the calendar, the calendar's end.
fn local(time: Timestamp, zone: &TimeZone) -> Zoned {
    let end = if time.seconds < 0 { jiff::Timestamp::MIN } else { jiff::Timestamp::MAX };
    let nanoseconds = i32::try_from(time.nanoseconds).unwrap_or(0);
    let moment = jiff::Timestamp::new(time.seconds, nanoseconds).unwrap_or(end);
    moment.to_zoned(zone.clone())
}

impl Every {
    /// How a rule is called that keeps the newest of each: `daily`.
    pub fn adverb(self) -> &'static str {
        match self {
            Every::Snapshot => "last",
            Every::Hour => "hourly",
            Every::Day => "daily",
            Every::Week => "weekly",
            Every::Month => "monthly",
            Every::Quarter => "quarterly",
            Every::Year => "yearly",
        }
    }

    /// What it is: `day`.
    pub fn noun(self) -> &'static str {
        match self {
            Every::Snapshot => "snapshot",
            Every::Hour => "hour",
            Every::Day => "day",
            Every::Week => "week",
            Every::Month => "month",
            Every::Quarter => "quarter",
            Every::Year => "year",
        }
    }
}

impl fmt::Display for Rule {
    /// `daily 7`, `daily unlimited`, `daily within 30d`, `within 30d`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.reach, self.every) {
            (Reach::Count(count), every) => write!(f, "{} {count}", every.adverb()),
            (Reach::Unlimited, every) => write!(f, "{} unlimited", every.adverb()),
            (Reach::Within(period), Every::Snapshot) => write!(f, "within {period}"),
            (Reach::Within(period), every) => write!(f, "{} within {period}", every.adverb()),
        }
    }
}

impl fmt::Display for Policy {
    /// `daily 7, within 30d, tags a+b, 2 by id`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts: Vec<_> = self.rules.iter().map(Rule::to_string).collect();
        parts.extend(self.tags.iter().map(|list| format!("tags {}", list.join("+"))));
        if !self.ids.is_empty() {
            parts.push(format!("{} by id", self.ids.len()));
        }
        f.write_str(&parts.join(", "))
    }
}

impl fmt::Display for Reason {
    /// `daily 3 of 7`, `within 30d`, `tags a+b`, `no rule keeps it`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Slot { rule: Rule { every, reach: Reach::Count(count) }, slot } => {
                write!(f, "{} {slot} of {count}", every.adverb())
            }
            Reason::Slot { rule: Rule { every, reach: Reach::Unlimited }, slot } => {
                write!(f, "{} {slot}, unlimited", every.adverb())
            }
            Reason::Slot { rule, .. } => rule.fmt(f),
            Reason::Oldest { rule } => write!(f, "oldest, while {rule} has room"),
            Reason::Tags(tags) => write!(f, "tags {}", tags.join("+")),
            Reason::KeptById => f.write_str("kept by id"),
            Reason::Pinned => write!(f, "tag {PIN_TAG}"),
            Reason::Chosen => f.write_str("chosen"),
            Reason::NotChosen => f.write_str("not chosen"),
            Reason::NoRule { in_favour_of: None } => f.write_str("no rule keeps it"),
            Reason::NoRule { in_favour_of: Some((every, id)) } => {
                write!(f, "no rule keeps it; {} is of the same {}", id.short(), every.noun())
            }
        }
    }
}

#[cfg(test)]
#[path = "policy_tests.rs"]
mod tests;
