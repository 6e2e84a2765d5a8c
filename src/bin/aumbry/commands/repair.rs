//! `aumbry repair`: what is damaged is mended, out of what is left.

use aumbry::ops::repair::ConfigRepair;
use aumbry::ops::repair::GenerationsRepair;
use aumbry::ops::repair::IndexRepair;
use aumbry::ops::repair::PacksRepair;
use aumbry::ops::repair::RepairOptions;
use aumbry::ops::repair::SnapshotsRepair;
use aumbry::ops::repair::Trouble;
use aumbry::ops::repair::repair_config;
use aumbry::ops::repair::repair_generations;
use aumbry::ops::repair::repair_index;
use aumbry::ops::repair::repair_packs;
use aumbry::ops::repair::repair_packs_from;
use aumbry::ops::repair::repair_snapshots;
use aumbry::repository::Repository;
use aumbry::repository::chance::Chance;
use aumbry::repository::cold::repair_hot;
use aumbry::store::LocalMode;
use aumbry::store::Store;
use aumbry::units::bytes::format_bytes;
use clap::Args;
use clap::Subcommand;
use serde_json::Value;
use serde_json::json;

use crate::consent;
use crate::context::Context;
use crate::context::MEMORY_BUDGET;
use crate::failure::Failure;
use crate::failure::Outcome;
use crate::output::count;
use crate::output::printable;
use crate::progress::ProgressMonitor;
use crate::progress::stop_when_asked;
use crate::second::MirrorsArgs;

/// How many lines are shown of what a repaired snapshot lacks.
const LINES: usize = 20;

const AFTER_HELP: &str = "\
Without a part, it tells what each of them would do, and does nothing. Repair adds, and moves what \
others make up for to quarantine/; it takes away no pack, no snapshot and no key. In the order given \
above, each part finds what the one before has brought back.";

/// What is mended.
#[derive(Args)]
#[command(after_help = AFTER_HELP)]
pub struct RepairArgs {
    #[command(subcommand)]
    part: Option<Part>,
    /// Tell what would be done, and do nothing
    #[arg(short = 'n', long, global = true)]
    dry_run: bool,
    /// Consent beforehand to what would else be asked about
    #[arg(long, global = true)]
    yes: bool,
}

/// The parts, in the order in which they build on one another.
#[derive(Subcommand)]
enum Part {
    /// Make a lost or damaged config again, of what every key holds
    Config,
    /// Get writing and collecting going again where an object of collection cannot be read
    Generations,
    /// List every pack anew that no readable index object lists
    Index,
    /// Store again what is good in damaged packs; with parity, all of it
    Packs(PacksArgs),
    /// Make snapshots with what is left of damaged ones; the damaged ones stay
    Snapshots(SnapshotsArgs),
    /// Make a lost hot store again out of the cold one, or bring back what it has lost. Nobody else may be at work
    /// in it; no passphrase is needed
    Hot,
}

/// Which packs.
#[derive(Args)]
struct PacksArgs {
    /// Read every byte of every pack to find the damaged ones, beside those that a check has recorded
    #[arg(long)]
    read_data: bool,
    #[command(flatten)]
    mirrors: MirrorsArgs,
}

/// What becomes of the damaged ones.
#[derive(Args)]
struct SnapshotsArgs {
    /// Forget the damaged snapshots that a repaired one stands for
    #[arg(long)]
    forget_originals: bool,
}

/// What a part has to tell.
struct Told {
    part: &'static str,
    /// A line for a person.
    text: String,
    /// More lines.
    details: Vec<String>,
    json: Value,
    /// There was, or is, something to do.
    found: bool,
    /// Something stays damaged.
    remains: bool,
}

/// Mends, or tells what would be.
pub fn run(args: &RepairArgs, context: &Context) -> Result<Outcome, Failure> {
    if let Some(Part::Hot) = args.part {
        return hot(args, context);
    }
    let mut options = RepairOptions {
        dry_run: args.dry_run || args.part.is_none(),
        read_data: false,
        forget_originals: false,
        no_collector_runs: args.yes,
        program: concat!("aumbry ", env!("CARGO_PKG_VERSION")).to_string(),
        memory_budget: MEMORY_BUDGET,
    };
    let repository = match args.part {
        None | Some(Part::Config) => context.open_for_repair()?,
        _ => context.open()?,
    };
    let monitor = context.monitor().with_status();
    let repair = Repairing { context, repository: &repository, monitor: &monitor };
    let told = match &args.part {
        None => repair.plan(&options)?,
        Some(Part::Config) => vec![config(&options, &repair_config(&repository, &options)?)],
        Some(Part::Generations) => vec![repair.generations(&mut options)?],
        Some(Part::Index) => {
            vec![index(&options, &repair_index(&repository, &options, &monitor)?)]
        }
        Some(Part::Packs(packs_args)) => {
            options.read_data = packs_args.read_data;
            let mirrored = packs_args.mirrors.reopen(context, &repository)?;
            let mirrored = mirrored.as_ref();
            vec![packs(&options, &repair_packs_from(&repository, mirrored, &options, &monitor)?)]
        }
        Some(Part::Snapshots(snapshots_args)) => {
            options.forget_originals = snapshots_args.forget_originals;
            vec![repair.snapshots(&options, args.yes)?]
        }
        Some(Part::Hot) => Vec::new(),
    };
    monitor.finish();
    tell(context, &options, args.part.is_none(), &told)?;
    let damaged = told.iter().any(|told| told.remains || options.dry_run && told.found);
    Ok(if damaged { Outcome::Damaged } else { Outcome::Done })
}

/// Of the stores alone: without a hot store nothing can be opened.
fn hot(args: &RepairArgs, context: &Context) -> Result<Outcome, Failure> {
    let location = context.location()?;
    // The folder of a hot store is made anew; nothing else is.
    let mode = if args.dry_run { LocalMode::Open } else { LocalMode::Create };
    let store = context.store_in(&location, LocalMode::Open, mode)?;
    let monitor = context.monitor().with_status();
    stop_when_asked();
    if !args.dry_run {
        consent_to_displace(args, context, &store, &monitor)?;
    }
    let repair = repair_hot(&store, args.dry_run, &Chance::System, &monitor)?;
    monitor.finish();
    let output = &context.output;
    if output.is_json() {
        output.json(&json!({
            "message_type": "repair",
            "part": "hot",
            "dry_run": args.dry_run,
            "found": repair.objects > 0,
            "remains": false,
            "objects": repair.objects,
            "bytes": repair.bytes,
            "new": repair.is_new,
        }))?;
    } else {
        let objects = count(repair.objects, "object");
        let bytes = format_bytes(repair.bytes);
        output.say(&match (repair.objects, args.dry_run) {
            (0, _) => "hot: it has everything that the cold store has a copy of".to_string(),
            (_, true) => format!("hot: would bring back {objects}, {bytes}"),
            (_, false) => format!("hot: brought back {objects}, {bytes}"),
        })?;
    }
    Ok(if args.dry_run && repair.objects > 0 { Outcome::Damaged } else { Outcome::Done })
}

/// A new hot store takes the place of one that may only be out of sight.
fn consent_to_displace(
    args: &RepairArgs,
    context: &Context,
    store: &Store,
    monitor: &ProgressMonitor,
) -> Result<(), Failure> {
    if !repair_hot(store, true, &Chance::System, monitor)?.is_new {
        return Ok(());
    }
    let place = printable(store.location().as_bytes());
    let concern = format!(
        "{place} becomes the hot store. The one before it, if somebody still has it (another machine, a disk that is not \
         mounted), is refused from then on, and what is in that alone is lost"
    );
    let hint = "once it is certain that the hot store is lost, consent beforehand with --yes";
    consent::obtain(context, args.yes, &[concern], "Is the hot store lost?", hint)
}

fn tell(
    context: &Context,
    options: &RepairOptions,
    is_plan: bool,
    told: &[Told],
) -> Result<(), Failure> {
    let output = &context.output;
    for told in told {
        if output.is_json() {
            let mut message = json!({
                "message_type": "repair",
                "part": told.part,
                "dry_run": options.dry_run,
                "found": told.found,
                "remains": told.remains,
            });
            if let (Some(message), Some(more)) = (message.as_object_mut(), told.json.as_object()) {
                message.extend(more.clone());
            }
            output.json(&message)?;
            continue;
        }
        output.line(&format!("{}: {}", output.style().bold(told.part), told.text))?;
        for line in &told.details {
            output.line(&format!("  {}", printable(line.as_bytes())))?;
        }
    }
    if output.is_json() || !options.dry_run {
        return Ok(());
    }
    output.say("nothing was changed; what registered this run goes with the next prune")?;
    let wanted: Vec<_> = told.iter().filter(|told| told.found).map(|told| told.part).collect();
    if is_plan && !wanted.is_empty() {
        let commands: Vec<_> =
            wanted.iter().map(|part| format!("`aumbry repair {part}`")).collect();
        output.say(&format!("to mend it, in this order: {}", commands.join(", ")))?;
    }
    Ok(())
}

struct Repairing<'a> {
    context: &'a Context,
    repository: &'a Repository,
    monitor: &'a ProgressMonitor,
}

impl Repairing<'_> {
    /// What every part would do.
    fn plan(&self, options: &RepairOptions) -> Result<Vec<Told>, Failure> {
        let (repository, monitor) = (self.repository, self.monitor);
        let generations = repair_generations(repository, options, monitor)?;
        let is_blocked = generations.blocked;
        let mut told = vec![
            config(options, &repair_config(repository, options)?),
            tell_generations(options, &generations),
            index(options, &repair_index(repository, options, monitor)?),
        ];
        if is_blocked {
            // Looking into the rest needs what writers need.
            told.extend(["packs", "snapshots"].map(skipped));
            return Ok(told);
        }
        told.push(packs(options, &repair_packs(repository, options, monitor)?));
        told.push(snapshots(options, &repair_snapshots(repository, options, monitor)?));
        Ok(told)
    }

    fn generations(&self, options: &mut RepairOptions) -> Result<Told, Failure> {
        let dry = RepairOptions { dry_run: true, ..options.clone() };
        let plan = repair_generations(self.repository, &dry, self.monitor)?;
        if options.dry_run {
            return Ok(tell_generations(options, &plan));
        }
        let concerns: Vec<_> = plan.needs_consent.into_iter().collect();
        consent::obtain(
            self.context,
            options.no_collector_runs,
            &concerns,
            "Is it certain that none runs?",
            "look on every machine that collects; --yes says that none does",
        )?;
        options.no_collector_runs = true;
        let done = repair_generations(self.repository, options, self.monitor)?;
        Ok(tell_generations(options, &done))
    }

    fn snapshots(&self, options: &RepairOptions, yes: bool) -> Result<Told, Failure> {
        if options.forget_originals && !options.dry_run {
            let dry = RepairOptions { dry_run: true, ..options.clone() };
            let plan = repair_snapshots(self.repository, &dry, self.monitor)?;
            let concerns: Vec<_> = match plan.forgotten.len() as u64 {
                0 => Vec::new(),
                number => vec![format!(
                    "{} will be forgotten: what is missing in them may still come back (from a copy of \
                     the repository, or a backup of the same files), until they are pruned",
                    count(number, "damaged snapshot")
                )],
            };
            consent::obtain(
                self.context,
                yes,
                &concerns,
                "Forget them all the same?",
                "without --forget-originals they stay; --yes consents",
            )?;
        }
        let done = repair_snapshots(self.repository, options, self.monitor)?;
        Ok(snapshots(options, &done))
    }
}

/// `verb` in what was done, `would be verb` in a plan.
fn passive(options: &RepairOptions, number: u64, noun: &str, verb: &str) -> String {
    let things = count(number, noun);
    match (options.dry_run, number) {
        (true, _) => format!("{things} would be {verb}"),
        (false, 1) => format!("{things} was {verb}"),
        (false, _) => format!("{things} were {verb}"),
    }
}

fn lines<'a>(what: &str, troubles: impl IntoIterator<Item = &'a Trouble>) -> Vec<String> {
    let line = |trouble: &Trouble| format!("{what} {}: {}", trouble.item, trouble.message);
    troubles.into_iter().map(line).collect()
}

fn quarantined(names: &[String]) -> Vec<String> {
    names.iter().map(|name| format!("moved to {name}")).collect()
}

fn trouble_json<'a>(troubles: impl IntoIterator<Item = &'a Trouble>) -> Vec<Value> {
    let json = |trouble: &Trouble| json!({ "item": trouble.item, "message": trouble.message });
    troubles.into_iter().map(json).collect()
}

/// A part that could not be looked into.
fn skipped(part: &'static str) -> Told {
    let text = "not looked into before `aumbry repair generations` is done".to_string();
    let json = json!({ "skipped": text });
    Told { part, text, details: Vec::new(), json, found: false, remains: false }
}

fn config(options: &RepairOptions, repair: &ConfigRepair) -> Told {
    let what = if repair.missing { "is gone" } else { "is damaged" };
    let text = match (repair.made, options.dry_run) {
        (false, _) => "nothing to do".to_string(),
        (true, true) => format!("{what}; it would be made again"),
        (true, false) => format!("{what} and was made again"),
    };
    let mut details = lines("damaged", &repair.damaged);
    details.extend(quarantined(&repair.quarantined));
    let json = json!({
        "missing": repair.missing,
        "damaged": trouble_json(&repair.damaged),
        "made": repair.made,
        "quarantined": repair.quarantined,
    });
    Told { part: "config", text, details, json, found: repair.made, remains: false }
}

fn tell_generations(options: &RepairOptions, repair: &GenerationsRepair) -> Told {
    let found = repair.blocked || !repair.damaged.is_empty();
    let text = match repair.ended {
        Some(generation) if options.dry_run => {
            format!("generation {generation} would be ended, and drop nothing")
        }
        Some(generation) => format!(
            "generation {generation} was ended and drops nothing, {} given up",
            count(repair.fenced, "session")
        ),
        None if found => passive(options, repair.damaged.len() as u64, "object", "moved away"),
        None => "nothing to do".to_string(),
    };
    let mut details = lines("damaged", &repair.damaged);
    details.extend(lines("left", &repair.left));
    if let (Some(concern), true) = (&repair.needs_consent, options.dry_run) {
        details.push(format!("needs consent: {concern}"));
    }
    details.extend(quarantined(&repair.quarantined));
    let json = json!({
        "blocked": repair.blocked,
        "damaged": trouble_json(&repair.damaged),
        "left": trouble_json(&repair.left),
        "needs_consent": repair.needs_consent,
        "generation": repair.ended,
        "sessions_given_up": repair.fenced,
        "quarantined": repair.quarantined,
    });
    let remains = !repair.left.is_empty();
    Told { part: "generations", text, details, json, found, remains }
}

fn index(options: &RepairOptions, repair: &IndexRepair) -> Told {
    let found = repair.packs_listed > 0 || !repair.damaged.is_empty();
    let mut parts = Vec::new();
    if repair.packs_listed > 0 {
        parts.push(passive(options, repair.packs_listed, "pack", "listed anew"));
    }
    if !repair.damaged.is_empty() {
        let damaged = repair.damaged.len() as u64;
        parts.push(passive(options, damaged, "damaged index object", "moved away"));
    }
    let text = if parts.is_empty() { "nothing to do".to_string() } else { parts.join(", ") };
    let mut details = lines("damaged", &repair.damaged);
    details.extend(lines("left", &repair.left));
    details.extend(lines("unreadable", &repair.unreadable));
    details.extend(quarantined(&repair.quarantined));
    let json = json!({
        "packs_listed": repair.packs_listed,
        "damaged": trouble_json(&repair.damaged),
        "left": trouble_json(&repair.left),
        "unreadable": trouble_json(&repair.unreadable),
        "quarantined": repair.quarantined,
    });
    let remains = !repair.left.is_empty() || !repair.unreadable.is_empty();
    Told { part: "index", text, details, json, found, remains }
}

fn packs(options: &RepairOptions, repair: &PacksRepair) -> Told {
    let found = !repair.salvaged.is_empty() || !repair.put_back.is_empty();
    let blobs = repair.salvaged.iter().map(|pack| pack.blobs).sum();
    let lost: u64 = repair.salvaged.iter().map(|pack| pack.lost).sum();
    let back = passive(options, repair.put_back.len() as u64, "lost pack", "put back");
    let mut text = match found {
        false => "nothing to do".to_string(),
        true if repair.salvaged.is_empty() => back,
        true => {
            let (packs, blobs) = (repair.salvaged.len() as u64, blobs);
            let is = if packs == 1 { "is" } else { "are" };
            let stored = passive(options, blobs, "blob", "stored again");
            let damaged = format!("{} {is} damaged; {stored}", count(packs, "pack"));
            match repair.put_back.is_empty() {
                true => damaged,
                false => format!("{back}; {damaged}"),
            }
        }
    };
    if lost > 0 {
        text.push_str(&format!("; {} cannot be read anywhere", count(lost, "blob")));
    }
    if repair.packs_read > 0 {
        text.push_str(&format!(" (read {})", count(repair.packs_read, "pack")));
    }
    let mut details: Vec<_> = repair
        .salvaged
        .iter()
        .map(|pack| {
            let left = match (pack.blobs, pack.lost) {
                (_, 0) => "all of it can be read",
                (0, _) => "nothing could be stored again",
                _ => "a part of it can be read",
            };
            format!("pack {}: {}; {left}", pack.pack, pack.what)
        })
        .collect();
    details.extend(repair.put_back.iter().map(|pack| format!("pack {pack}: was gone")));
    details.extend(lines("left", &repair.left));
    let salvaged: Vec<_> = repair
        .salvaged
        .iter()
        .map(|pack| {
            json!({
                "pack": pack.pack.to_string(),
                "message": pack.what,
                "blobs": pack.blobs,
                "lost": pack.lost,
                "is_new": pack.is_new,
            })
        })
        .collect();
    let json = json!({
        "packs_read": repair.packs_read,
        "bytes_read": repair.bytes_read,
        "bytes_written": repair.bytes_written,
        "salvaged": salvaged,
        "put_back": repair.put_back.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "left": trouble_json(&repair.left),
    });
    let remains = lost > 0 || !repair.left.is_empty();
    Told { part: "packs", text, details, json, found, remains }
}

fn snapshots(options: &RepairOptions, repair: &SnapshotsRepair) -> Told {
    let mut parts = Vec::new();
    let mut say = |number: usize, noun: &str, verb: &str| {
        if number > 0 {
            parts.push(passive(options, number as u64, noun, verb));
        }
    };
    say(repair.put_back.len(), "lost snapshot", "put back");
    say(repair.blobs_stored_again as usize, "blob", "stored again");
    say(repair.made.len(), "repaired snapshot", "made");
    say(repair.tombs.len(), "damaged tomb", "moved away");
    say(repair.forgotten.len(), "damaged snapshot", "forgotten");
    let found = !parts.is_empty();
    if !repair.known.is_empty() {
        let known = count(repair.known.len() as u64, "damaged snapshot");
        parts.push(format!("{known} with a repaired one already"));
    }
    let text = if parts.is_empty() { "nothing to do".to_string() } else { parts.join(", ") };
    let mut details = Vec::new();
    for made in &repair.made {
        let original = made.original.short();
        details.push(match made.id {
            Some(id) => format!("snapshot {} stands for {original}", id.short()),
            None => format!("snapshot {original} would get a repaired one"),
        });
        details.extend(made.left_out.iter().take(LINES).map(|line| format!("  {line}")));
        if made.left_out.len() > LINES {
            details.push(format!("  and {} more", made.left_out.len() - LINES));
        }
    }
    if repair.is_pending {
        details.push(
            "a collection that is not finished may have looked before snapshots were put back: finish \
             it with `aumbry prune`, then see whether they are still there"
                .to_string(),
        );
    }
    details.extend(lines("left", &repair.left));
    details.extend(lines("damaged", &repair.tombs));
    details.extend(quarantined(&repair.quarantined));
    let made: Vec<_> = repair
        .made
        .iter()
        .map(|made| {
            json!({
                "original": made.original.to_string(),
                "snapshot_id": made.id.map(|id| id.to_string()),
                "left_out": made.left_out,
            })
        })
        .collect();
    let ids = |ids: &[aumbry::id::SnapshotId]| -> Vec<String> {
        ids.iter().map(ToString::to_string).collect()
    };
    let json = json!({
        "snapshots": repair.snapshots,
        "put_back": ids(&repair.put_back),
        "pending": repair.is_pending,
        "made": made,
        "known": ids(&repair.known),
        "left": trouble_json(&repair.left),
        "blobs_stored_again": repair.blobs_stored_again,
        "damaged": trouble_json(&repair.tombs),
        "quarantined": repair.quarantined,
        "forgotten": ids(&repair.forgotten),
    });
    let remains = !repair.left.is_empty();
    Told { part: "snapshots", text, details, json, found, remains }
}
