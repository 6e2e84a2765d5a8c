//! `aumbry forget`: which snapshots are kept, by a policy or one by one.

use std::ffi::OsString;

use aumbry::id::SnapshotId;
use aumbry::monitor::Monitor;
use aumbry::ops::forget::Concern;
use aumbry::ops::forget::ForgetOptions;
use aumbry::ops::forget::ForgetPlan;
use aumbry::ops::forget::GroupBy;
use aumbry::ops::forget::GroupKey;
use aumbry::ops::forget::Planned;
use aumbry::ops::forget::PlannedGroup;
use aumbry::ops::forget::Unread;
use aumbry::ops::forget::forget;
use aumbry::ops::forget::plan;
use aumbry::ops::forget::plan_chosen;
use aumbry::ops::forget::policy::Anchor;
use aumbry::ops::forget::policy::Every;
use aumbry::ops::forget::policy::Policy;
use aumbry::ops::forget::policy::Reach;
use aumbry::ops::forget::policy::Reason;
use aumbry::ops::forget::policy::Rule;
use aumbry::ops::forget::unread;
use aumbry::ops::prune::PruneOptions;
use aumbry::ops::select::SnapshotChoice;
use aumbry::ops::select::SnapshotFilter;
use aumbry::ops::select::choose;
use aumbry::repository::snapshots::Snapshots;
use aumbry::units::duration::Period;
use clap::Args;
use serde_json::Value;
use serde_json::json;

use crate::commands::prune;
use crate::commands::prune::PruneLimitArgs;
use crate::commands::snapshots::snapshot_json;
use crate::consent;
use crate::context::Context;
use crate::failure::Failure;
use crate::failure::Outcome;
use crate::output::Align;
use crate::output::Table;
use crate::output::count;
use crate::output::printable;
use crate::selection::ChoiceArgs;
use crate::selection::explain;
use crate::selection::parse_snapshot;
use crate::selection::split_tags;

const AFTER_HELP: &str = "\
A snapshot is kept when any rule keeps it; what no rule keeps is forgotten. Snapshots with the tag \
`pin` are always kept. Days, weeks and months are those of the local time zone. A forgotten snapshot \
comes back with `aumbry undelete`, until the repository is collected.";

/// What is kept.
#[derive(Args)]
#[command(after_help = AFTER_HELP, mut_arg("host", |arg| arg.short(None)))]
pub struct ForgetArgs {
    /// Forget these, whatever any rule says: latest, latest~2, 4f2a
    #[arg(value_name = "SNAP")]
    snapshots: Vec<OsString>,

    /// Keep the newest N snapshots; N may be `unlimited`
    #[arg(short = 'l', long, value_name = "N", help_heading = "What is kept")]
    #[arg(value_parser = parse_count, allow_negative_numbers = true)]
    keep_last: Option<Reach>,
    /// Keep the newest of each of the last N hours that have any
    #[arg(short = 'H', long, value_name = "N", help_heading = "What is kept")]
    #[arg(value_parser = parse_count, allow_negative_numbers = true)]
    keep_hourly: Option<Reach>,
    /// The same by days
    #[arg(short = 'd', long, value_name = "N", help_heading = "What is kept")]
    #[arg(value_parser = parse_count, allow_negative_numbers = true)]
    keep_daily: Option<Reach>,
    /// The same by weeks, from Monday on
    #[arg(short = 'w', long, value_name = "N", help_heading = "What is kept")]
    #[arg(value_parser = parse_count, allow_negative_numbers = true)]
    keep_weekly: Option<Reach>,
    /// The same by months
    #[arg(short = 'm', long, value_name = "N", help_heading = "What is kept")]
    #[arg(value_parser = parse_count, allow_negative_numbers = true)]
    keep_monthly: Option<Reach>,
    /// The same by quarters of a year
    #[arg(long, value_name = "N", help_heading = "What is kept")]
    #[arg(value_parser = parse_count, allow_negative_numbers = true)]
    keep_quarterly: Option<Reach>,
    /// The same by years
    #[arg(short = 'y', long, value_name = "N", help_heading = "What is kept")]
    #[arg(value_parser = parse_count, allow_negative_numbers = true)]
    keep_yearly: Option<Reach>,
    /// Keep all that are younger than this: 30d, 1y6m, 2w
    #[arg(long, value_name = "AGE", help_heading = "What is kept", value_parser = parse_window)]
    keep_within: Option<Reach>,
    /// Of those that are younger than this, keep the newest of each hour
    #[arg(long, value_name = "AGE", help_heading = "What is kept", value_parser = parse_window)]
    keep_within_hourly: Option<Reach>,
    /// The same by days
    #[arg(long, value_name = "AGE", help_heading = "What is kept", value_parser = parse_window)]
    keep_within_daily: Option<Reach>,
    /// The same by weeks
    #[arg(long, value_name = "AGE", help_heading = "What is kept", value_parser = parse_window)]
    keep_within_weekly: Option<Reach>,
    /// The same by months
    #[arg(long, value_name = "AGE", help_heading = "What is kept", value_parser = parse_window)]
    keep_within_monthly: Option<Reach>,
    /// The same by quarters of a year
    #[arg(long, value_name = "AGE", help_heading = "What is kept", value_parser = parse_window)]
    keep_within_quarterly: Option<Reach>,
    /// The same by years
    #[arg(long, value_name = "AGE", help_heading = "What is kept", value_parser = parse_window)]
    keep_within_yearly: Option<Reach>,
    /// Keep those with all of these tags, divided by commas (repeatable: any of the lists)
    #[arg(long, value_name = "TAGS", help_heading = "What is kept")]
    keep_tag: Vec<String>,
    /// Keep this one, named by the beginning of its id (repeatable)
    #[arg(long, value_name = "ID", help_heading = "What is kept")]
    keep_id: Vec<OsString>,

    /// Apply the rules to each group for itself: any of host, name, paths, tags; '' is one group
    #[arg(short, long, value_name = "LIST", default_value = "host,name")]
    #[arg(help_heading = "How rules are applied")]
    group_by: String,
    /// Measure ages from `latest`, the newest snapshot of each group, or from a moment: now,
    /// 2026-11-01
    #[arg(long, value_name = "MOMENT", default_value = "latest")]
    #[arg(help_heading = "How rules are applied")]
    relative_to: String,
    /// Believe the times that snapshots claim, even where the store first saw them at another time:
    /// for snapshots that were brought in with their old times
    #[arg(long, help_heading = "How rules are applied")]
    claimed_times: bool,

    #[command(flatten)]
    choice: ChoiceArgs,

    /// Show what would be forgotten, and why; forget nothing
    #[arg(short = 'n', long, help_heading = "How it is done")]
    dry_run: bool,
    /// Consent beforehand to what would else be asked about: a group that loses all its snapshots,
    /// more than half of all snapshots
    #[arg(long, help_heading = "How it is done")]
    yes: bool,
    /// Then give back the space of what no snapshot needs any more, as `aumbry prune` does
    #[arg(long, help_heading = "How it is done")]
    prune: bool,
    #[command(flatten)]
    limits: PruneLimitArgs,
}

/// A count, `unlimited`, or -1 as restic has it.
fn parse_count(text: &str) -> Result<Reach, String> {
    match text {
        "unlimited" | "-1" => Ok(Reach::Unlimited),
        _ => text
            .parse()
            .map(Reach::Count)
            .map_err(|_| "it is a number from 0 on, or `unlimited`".to_string()),
    }
}

fn parse_window(text: &str) -> Result<Reach, String> {
    Period::parse_with_months(text).map(Reach::Within).map_err(|error| error.to_string())
}

/// Plans it, shows the plan, and does it.
pub fn run(args: &ForgetArgs, context: &Context) -> Result<Outcome, Failure> {
    let rules = rules(args);
    let has_policy = !rules.is_empty() || !args.keep_tag.is_empty() || !args.keep_id.is_empty();
    let is_chosen = !args.snapshots.is_empty() || args.choice.at.is_some();
    if has_policy && is_chosen {
        return Err(Failure::usage("snapshots are named, and rules are given: use one of the two"));
    }
    if !has_policy && !is_chosen {
        return Err(Failure::usage("no rule says what to keep, and no snapshot is named").hint(
            "try `aumbry forget --keep-daily 7 --keep-weekly 4 --keep-monthly 12 --dry-run`",
        ));
    }
    let filter = args.choice.filter.filter(context)?;
    let group_by = parse_group_by(&args.group_by)?;
    let anchor = match args.relative_to.as_str() {
        "latest" => Anchor::Newest,
        moment => Anchor::At(context.moment(moment)?),
    };
    let choices = args.snapshots.iter().map(|text| parse_snapshot(text));
    let choices = choices.collect::<Result<Vec<_>, _>>()?;
    let kept = args.keep_id.iter().map(|text| parse_snapshot(text));
    let kept = kept.collect::<Result<Vec<_>, _>>()?;
    let at = args.choice.at.as_deref().map(|text| context.moment(text)).transpose()?;

    let pruning = args.limits.options(false)?;
    let repository = context.open()?;
    let monitor = context.monitor();
    let found = context.snapshots(&repository, &monitor)?;
    let planned = if is_chosen {
        let choices = choices.into_iter().chain(at.map(SnapshotChoice::At));
        let chosen = choices.map(|choice| find_any(context, &found, &choice, &filter));
        plan_chosen(&found, &chosen.collect::<Result<Vec<_>, _>>()?, context.now())?
    } else {
        let ids = kept.iter().map(|choice| find(context, &found, choice, &filter));
        let policy = Policy {
            rules,
            tags: args.keep_tag.iter().map(|tags| split_tags(tags)).collect(),
            ids: ids.collect::<Result<Vec<_>, _>>()?,
            anchor,
            trust_claims: args.claimed_times,
        };
        let zone = context.surroundings.zone.clone();
        plan(&found, &ForgetOptions { filter, group_by, policy, zone }, context.now())?
    };

    let needs_consent = !planned.concerns.is_empty() && !args.yes;
    if context.output.is_json() {
        let groups = planned.groups.iter().map(|group| group_json(context, group));
        let unread = (!planned.unread.is_empty()).then(|| unread_json(&planned.unread));
        context.output.json(&groups.chain(unread).collect::<Vec<_>>())?;
    } else if args.dry_run || !context.output.is_quiet() || needs_consent {
        tell_plan(context, &planned)?;
    }
    let concerns: Vec<_> =
        planned.concerns.iter().map(|concern| printable(concern.to_string().as_bytes())).collect();
    let is_left = |id: &SnapshotId| !planned.unread.iter().any(|unread| unread.id == *id);
    let outcome = match found.damaged.iter().any(|(id, _)| is_left(id)) {
        true => Outcome::Damaged,
        false => Outcome::Done,
    };
    if args.dry_run {
        for concern in &concerns {
            monitor.note(&format!("this will need consent: {concern}"));
        }
        tell_end(context, "dry run: nothing was forgotten")?;
        if args.prune {
            let assume_forgotten = planned.dropped_ids().collect();
            let pruning = PruneOptions { dry_run: true, assume_forgotten, ..pruning };
            return Ok(worse(outcome, prune::run_on(&repository, &pruning, context)?));
        }
        return Ok(outcome);
    }
    let question = match planned.dropped_ids().count() {
        1 => "Forget it all the same?",
        _ => "Forget them all the same?",
    };
    consent::obtain(context, args.yes, &concerns, question, hint(&planned))?;
    let summary = forget(&repository, &planned, true, &monitor)?;
    let forgotten = summary.forgotten.len() as u64;
    tell_end(
        context,
        &match forgotten {
            0 => "nothing was forgotten".to_string(),
            _ if args.prune => format!("forgot {}", count(forgotten, "snapshot")),
            _ => format!(
                "forgot {}; `aumbry undelete ID` brings {} back",
                count(forgotten, "snapshot"),
                if forgotten == 1 { "it" } else { "one" }
            ),
        },
    )?;
    if !args.prune {
        return Ok(outcome);
    }
    Ok(worse(outcome, prune::run_on(&repository, &pruning, context)?))
}

/// What the command came to, when forgetting came to the one and pruning to the other.
fn worse(forgot: Outcome, pruned: Outcome) -> Outcome {
    match pruned {
        Outcome::Done => forgot,
        pruned => pruned,
    }
}

fn rules(args: &ForgetArgs) -> Vec<Rule> {
    let given = [
        (Every::Snapshot, args.keep_last),
        (Every::Hour, args.keep_hourly),
        (Every::Day, args.keep_daily),
        (Every::Week, args.keep_weekly),
        (Every::Month, args.keep_monthly),
        (Every::Quarter, args.keep_quarterly),
        (Every::Year, args.keep_yearly),
        (Every::Snapshot, args.keep_within),
        (Every::Hour, args.keep_within_hourly),
        (Every::Day, args.keep_within_daily),
        (Every::Week, args.keep_within_weekly),
        (Every::Month, args.keep_within_monthly),
        (Every::Quarter, args.keep_within_quarterly),
        (Every::Year, args.keep_within_yearly),
    ];
    // A count of 0 is how a script leaves a rule out.
    let given = given.into_iter().filter(|(_, reach)| *reach != Some(Reach::Count(0)));
    given.filter_map(|(every, reach)| Some(Rule { every, reach: reach? })).collect()
}

fn parse_group_by(text: &str) -> Result<GroupBy, Failure> {
    let mut group_by = GroupBy { host: false, name: false, paths: false, tags: false };
    for word in split_tags(text) {
        match word.as_str() {
            "host" => group_by.host = true,
            "name" => group_by.name = true,
            "path" | "paths" => group_by.paths = true,
            "tag" | "tags" => group_by.tags = true,
            _ => {
                return Err(Failure::usage(format!("{word:?} is nothing to group by"))
                    .hint("--group-by takes a list of host, name, paths and tags"));
            }
        }
    }
    Ok(group_by)
}

fn find(
    context: &Context,
    found: &Snapshots,
    choice: &SnapshotChoice,
    filter: &SnapshotFilter,
) -> Result<SnapshotId, Failure> {
    let chosen = choose(&found.all, choice, filter)
        .map_err(|error| explain(context, error, &found.all, choice, filter))?;
    Ok(chosen.0)
}

/// As [`find`], also among what cannot be read, which only an id can name.
fn find_any(
    context: &Context,
    found: &Snapshots,
    choice: &SnapshotChoice,
    filter: &SnapshotFilter,
) -> Result<SnapshotId, Failure> {
    let SnapshotChoice::Prefix(prefix) = choice else {
        return find(context, found, choice, filter);
    };
    let matches = |id: &SnapshotId| id.starts_with(prefix);
    let unread: Vec<_> = unread(found).map(|unread| unread.id).filter(|id| matches(id)).collect();
    let readable = found.all.iter().map(|(id, _)| *id).filter(|id| matches(id));
    match (&unread[..], readable.count()) {
        ([], _) => find(context, found, choice, filter),
        ([one], 0) => Ok(*one),
        (several, others) => Err(Failure::failed(format!(
            "{prefix:?} begins the ids of {} snapshots; of these cannot be read: {}",
            several.len() + others,
            several.iter().map(|id| id.to_string()).collect::<Vec<_>>().join(", ")
        ))),
    }
}

/// What to type instead, or next.
fn hint(planned: &ForgetPlan) -> &'static str {
    let is_mixed = |concern: &Concern| matches!(concern, Concern::MixedPaths { .. });
    if planned.concerns.iter().any(is_mixed) {
        "give what you save a name (`aumbry backup --name`), or group by paths, too \
         (--group-by host,name,paths); --yes consents"
    } else {
        "--dry-run shows the plan; --yes consents"
    }
}

fn tell_end(context: &Context, text: &str) -> Result<(), Failure> {
    if !context.output.is_json() {
        context.output.say(text)?;
    }
    Ok(())
}

fn tell_plan(context: &Context, planned: &ForgetPlan) -> Result<(), Failure> {
    let output = &context.output;
    let is_doubted = |planned: &Planned| planned.verdict.doubted;
    if planned.groups.iter().flat_map(|group| &group.snapshots).any(is_doubted) {
        output.remark(
            "Where the time that a snapshot claims is more than a day from when the store first showed \
             it, or one of the two has not come yet, it takes no other one's place, and is kept \
             where either time keeps it. --claimed-times believes claims, as after copying a store \
             without its times.",
        );
    }
    for group in &planned.groups {
        let (dropped, all) = (group.dropped().count(), group.snapshots.len());
        let heading = printable(group.key.to_string().as_bytes());
        let heading = output.style().bold(&heading);
        output.line(&format!("{heading}: {} to keep, {dropped} to forget", all - dropped))?;
        let mut table = Table::new(&[
            ("ID", Align::Left),
            ("Time", Align::Left),
            ("Tags", Align::Left),
            ("Fate", Align::Left),
            ("Reason", Align::Left),
            ("Paths", Align::Left),
        ]);
        for planned in &group.snapshots {
            let is_mute = matches!(planned.verdict.reasons[..], [Reason::NotChosen]);
            if !is_mute {
                table.row(row(context, planned));
            }
        }
        table.write(output)?;
        output.line("")?;
    }
    if planned.unread.is_empty() {
        return Ok(());
    }
    let number = planned.unread.len();
    output.line(&format!("{}: {number} to forget", output.style().bold("what cannot be read")))?;
    let columns = [("ID", Align::Left), ("Fate", Align::Left), ("What is wrong", Align::Left)];
    let mut table = Table::new(&columns);
    for unread in &planned.unread {
        table.row([unread.id.short(), "forget".to_string(), wrong_with(unread)]);
    }
    table.write(output)?;
    Ok(output.line("")?)
}

fn wrong_with(unread: &Unread) -> String {
    match &unread.error {
        Some(error) => printable(error.message.as_bytes()),
        None => "the store does not show it".to_string(),
    }
}

fn row(context: &Context, planned: &Planned) -> [String; 6] {
    let (snapshot, verdict) = (&planned.snapshot, &planned.verdict);
    let mut reasons: Vec<_> =
        verdict.reasons.iter().map(|reason| printable(reason.to_string().as_bytes())).collect();
    if verdict.doubted {
        reasons.push(format!("claims {}", context.local(snapshot.time)));
    }
    let paths: Vec<_> = snapshot.paths.iter().map(|path| printable(path)).collect();
    [
        verdict.id.short(),
        context.local(verdict.time),
        printable(snapshot.tags.join(",").as_bytes()),
        if verdict.kept { "keep" } else { "forget" }.to_string(),
        reasons.join("\n"),
        paths.join("\n"),
    ]
}

/// What cannot be read, as a program reads it: a group that only these are in.
fn unread_json(unread: &[Unread]) -> Value {
    let unread = unread
        .iter()
        .map(|unread| json!({ "id": unread.id.to_string(), "message": wrong_with(unread) }));
    json!({
        "host": null,
        "name": null,
        "paths": null,
        "tags": null,
        "keep": [],
        "remove": [],
        "reasons": [],
        "unread": unread.collect::<Vec<_>>(),
    })
}

/// A group as a program reads it.
fn group_json(context: &Context, group: &PlannedGroup) -> Value {
    let GroupKey { host, name, paths, tags } = &group.key;
    let text = |path: &Vec<u8>| String::from_utf8_lossy(path).into_owned();
    let paths: Option<Vec<_>> = paths.as_ref().map(|paths| paths.iter().map(text).collect());
    let of = |kept| -> Vec<Value> {
        let chosen = group.snapshots.iter().filter(|planned| planned.verdict.kept == kept);
        chosen.map(|planned| planned_json(context, planned)).collect()
    };
    let reasons: Vec<_> = group
        .snapshots
        .iter()
        .map(|planned| {
            let verdict = &planned.verdict;
            let reasons: Vec<_> = verdict.reasons.iter().map(Reason::to_string).collect();
            json!({
                "snapshot": planned_json(context, planned),
                "kept": verdict.kept,
                "matches": if verdict.kept { reasons.clone() } else { Vec::new() },
                "reason": reasons.join("; "),
                "time_used": context.rfc3339(verdict.time),
                "time_is_observed": verdict.time != planned.snapshot.time,
                "doubted": verdict.doubted,
            })
        })
        .collect();
    json!({
        "host": host,
        "name": name,
        "paths": paths,
        "tags": tags,
        "keep": of(true),
        "remove": of(false),
        "reasons": reasons,
    })
}

fn planned_json(context: &Context, planned: &Planned) -> Value {
    snapshot_json(context, &(planned.verdict.id, planned.snapshot.clone()))
}
