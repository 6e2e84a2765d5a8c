//! Which snapshots a policy keeps, and why: pure, so that a table can test it.
//!
//! A snapshot has two times: the one it claims, which its client chose, and the one when the store first showed
//! it. Where they disagree by more than a day, or one of them lies ahead of the present, the snapshot is *doubted*:
//! every other one is judged as if it were not there, and it is judged by each of its times for itself, as if it
//! were the only doubted one, and kept where either keeps it. So no time that is claimed or forged, of the future or
//! of the past, costs another snapshot its place; and a snapshot whose times somebody has spoilt does not lose its own.
//!
//! What is kept stays kept when others go (each rule looks only at what is newer, and at whether anything is
//! older), so applying a policy twice drops nothing more.

use std::collections::BTreeSet;
use std::fmt;

use jiff::Zoned;
use jiff::tz::TimeZone;

use crate::id::SnapshotId;
use crate::units::Timestamp;
use crate::units::duration::Period;
use crate::units::time::before;

/// A snapshot with this tag is never dropped by a policy.
pub const PIN_TAG: &str = "pin";

/// Two times of one snapshot that are further apart than this disagree, in seconds: less is a time zone that was set
/// wrongly, or a long backup.
const DISAGREEMENT: u64 = 86_400;

/// So far, in seconds, a claim may lie ahead of the store's time, and either ahead of the present: no two clocks
/// are the same.
const LEAD: i64 = 3600;

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
    /// The newest snapshot of the group that is not doubted, or the present when that is earlier: a machine that
    /// is silent for a month keeps what it had, and so does one whose clock leaps.
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
    /// The damaged snapshot that it was made for by a repair.
    pub original: Option<SnapshotId>,
}

/// The times that a snapshot is judged by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// The one that counts.
    pub time: Timestamp,
    /// Of a doubted snapshot, the claim, where that may keep it, too.
    pub claim: Option<Timestamp>,
    /// It is doubted.
    pub doubted: bool,
}

impl Candidate<'_> {
    /// The times that count at the moment `now`. `trust_claims` leaves out what the store has seen.
    pub fn times(&self, now: Timestamp, trust_claims: bool) -> Times {
        let claimed = self.claimed;
        let lies_ahead = |time: Timestamp| time.seconds > now.seconds.saturating_add(LEAD);
        let Some(observed) = self.observed.filter(|_| !trust_claims) else {
            return Times { time: claimed, claim: None, doubted: lies_ahead(claimed) };
        };
        let claim = match (lies_ahead(observed), lies_ahead(claimed)) {
            (false, false) if !disagree(observed, claimed) => {
                // The claim is of the beginning of the backup, the store's time of its end.
                let is_late = claimed.seconds > observed.seconds.saturating_add(LEAD);
                let time = if is_late { observed } else { claimed };
                return Times { time, claim: None, doubted: false };
            }
            // Such a claim is no evidence of anything. Where the store's time has not come, the clock here may be slow.
            (false, true) => None,
            _ => Some(claimed),
        };
        Times { time: observed, claim, doubted: true }
    }
}

/// Whether two times of one snapshot are too far apart to be both right.
fn disagree(one: Timestamp, other: Timestamp) -> bool {
    one.seconds.abs_diff(other.seconds) > DISAGREEMENT
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
    /// It is doubted, and would be kept for this reason if its claim were true.
    AsClaimed(Box<Reason>),
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
    /// Its times are in doubt.
    pub doubted: bool,
    /// Whether it is kept.
    pub kept: bool,
    /// Why; never empty.
    pub reasons: Vec<Reason>,
}

/// A moment, and what the calendar calls it.
struct Moment {
    time: Timestamp,
    local: Zoned,
}

/// A candidate with the moments that its fate depends on.
struct Dated<'a> {
    candidate: Candidate<'a>,
    moment: Moment,
    claim: Option<Moment>,
    doubted: bool,
    /// It takes no place from others: it is doubted, or was made for a damaged one that is still there. That one goes
    /// when somebody says so, and not in favour of what a repair has left of it.
    is_guest: bool,
}

/// Which snapshots of one group the policy keeps, in the order in which they came. Local times are those of
/// `zone`; `now` only ever moves windows back and casts doubt, so that more is kept.
pub fn retain(
    snapshots: &[Candidate<'_>],
    policy: &Policy,
    now: Timestamp,
    zone: &TimeZone,
) -> Vec<Verdict> {
    let ids: BTreeSet<SnapshotId> = snapshots.iter().map(|candidate| candidate.id).collect();
    let moment = |time| Moment { time, local: local(time, zone) };
    let dated: Vec<_> = snapshots
        .iter()
        .map(|candidate| {
            let Times { time, claim, doubted } = candidate.times(now, policy.trust_claims);
            let is_second = candidate.original.is_some_and(|original| ids.contains(&original));
            Dated {
                candidate: *candidate,
                moment: moment(time),
                claim: claim.map(moment),
                doubted,
                is_guest: doubted || is_second,
            }
        })
        .collect();
    let mut members: Vec<_> = (0..dated.len()).filter(|at| !dated[*at].is_guest).collect();
    members.sort_by_key(|at| {
        let snapshot = &dated[*at];
        std::cmp::Reverse((snapshot.moment.time, snapshot.candidate.id))
    });
    let newest = members.first().map_or(now, |at| dated[*at].moment.time);
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
        let row = Row::new(*rule, start, &members, &dated);
        for (at, snapshot) in dated.iter().enumerate() {
            let id = snapshot.candidate.id;
            let mut stand_in = None;
            let mut reason = |moment| match row.fate(moment, id) {
                None => None,
                Some(Fate::Slot(slot)) => Some(Reason::Slot { rule: *rule, slot }),
                Some(Fate::Oldest) => Some(Reason::Oldest { rule: *rule }),
                Some(Fate::Behind(other)) => {
                    stand_in = Some((rule.every, dated[other].candidate.id));
                    None
                }
            };
            let claim = |reason| Reason::AsClaimed(Box::new(reason));
            let reason = reason(&snapshot.moment)
                .or_else(|| snapshot.claim.as_ref().and_then(&mut reason).map(claim));
            reasons[at].extend(reason);
            if let Some(stand_in) = stand_in {
                let finest = stand_ins[at].get_or_insert(stand_in);
                if rule.every < finest.0 {
                    *finest = stand_in;
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
        let (time, doubted) = (snapshot.moment.time, snapshot.doubted);
        Verdict { id: candidate.id, time, doubted, kept, reasons }
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

/// The snapshots that take places, newest first, as one rule sees them.
struct Row {
    rule: Rule,
    /// Where a window begins; `None` is the beginning of time.
    start: Option<Timestamp>,
    seats: Vec<Seat>,
}

/// One of them.
struct Seat {
    time: Timestamp,
    id: SnapshotId,
    stretch: Option<[i64; 3]>,
    /// The stretches up to this one, counted from the newest as 1.
    slot: u32,
    /// The newest snapshot of this stretch.
    holder: usize,
}

impl Row {
    fn new(rule: Rule, start: Option<Timestamp>, members: &[usize], dated: &[Dated<'_>]) -> Self {
        let mut seats: Vec<Seat> = Vec::with_capacity(members.len());
        for at in members {
            let Dated { candidate, moment, .. } = &dated[*at];
            let stretch = stretch(rule.every, &moment.local);
            let (slot, holder) = match seats.last() {
                Some(last) if last.is_of(stretch) => (last.slot, last.holder),
                last => (last.map_or(0, |last| last.slot) + 1, *at),
            };
            seats.push(Seat { time: moment.time, id: candidate.id, stretch, slot, holder });
        }
        Row { rule, start, seats }
    }

    /// What becomes of a snapshot at this moment: one of the row, or another that stands beside it alone. `None`: the
    /// rule says nothing of it.
    fn fate(&self, moment: &Moment, id: SnapshotId) -> Option<Fate> {
        if self.start.is_some_and(|start| moment.time < start) {
            return None;
        }
        let limit = match self.rule.reach {
            Reach::Count(count) => count,
            Reach::Unlimited | Reach::Within(_) => u32::MAX,
        };
        let newer = self.seats.partition_point(|seat| (seat.time, seat.id) > (moment.time, id));
        let before = newer.checked_sub(1).map(|at| &self.seats[at]);
        let stretch = stretch(self.rule.every, &moment.local);
        let Some(same) = before.filter(|before| before.is_of(stretch)) else {
            let slot = before.map_or(0, |before| before.slot) + 1;
            return (slot <= limit).then_some(Fate::Slot(slot));
        };
        let is_oldest = self.seats[newer..].iter().all(|seat| seat.id == id);
        match self.rule.reach {
            _ if same.slot > limit => None,
            Reach::Count(count) if is_oldest && same.slot < count => Some(Fate::Oldest),
            _ => Some(Fate::Behind(same.holder)),
        }
    }
}

impl Seat {
    fn is_of(&self, stretch: Option<[i64; 3]>) -> bool {
        stretch.is_some() && self.stretch == stretch
    }
}

/// Numbers that two snapshots share exactly when they are of one stretch of the calendar; `None`: it is of one of
/// its own.
fn stretch(every: Every, local: &Zoned) -> Option<[i64; 3]> {
    let (year, month) = (i64::from(local.year()), i64::from(local.month()));
    let day = i64::from(local.day_of_year());
    Some(match every {
        Every::Snapshot => return None,
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
    })
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
            Reason::AsClaimed(reason) => write!(f, "{reason} by its claim"),
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
