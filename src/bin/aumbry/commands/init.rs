//! `aumbry init`: makes a repository.

use aumbry::format::config::Form;
use aumbry::format::config::LockMode;
use aumbry::format::config::ObjectLock;
use aumbry::format::config::Settings;
use aumbry::repository::CreateOptions;
use aumbry::repository::Repository;
use aumbry::units::bytes::parse_percent;
use aumbry::units::duration::parse_duration;
use clap::Args;
use serde_json::json;

use crate::context::Context;
use crate::context::Location;
use crate::failure::Failure;
use crate::failure::Outcome;
use crate::output::count;

/// How it is made.
#[derive(Args)]
pub struct InitArgs {
    /// What to call the passphrase in `aumbry key list`
    #[arg(long, value_name = "TEXT", default_value = "")]
    label: String,
    /// Keep so much more of every pack, from 1% to 100%, that damage up to that much of it can be mended
    #[arg(long, value_name = "N%", value_parser = parse_parity, default_value = "0%")]
    parity: u8,
    /// Let nobody delete what is written before so much time is over, where the store can: S3 with Object Lock.
    /// `prune` prolongs it for what is still needed: prune every day, and say twice the time that you want to be safe
    /// for. Not with --repo-hot
    #[arg(long, value_name = "TIME")]
    retain: Option<String>,
}

/// A whole number of percent.
fn parse_parity(text: &str) -> Result<u8, String> {
    let percent = parse_percent(text).map_err(|error| error.to_string())?;
    if percent.fract() != 0.0 {
        return Err("parity is a whole number of percent".to_string());
    }
    Ok(percent as u8)
}

/// Makes it.
pub fn run(args: &InitArgs, context: &Context) -> Result<Outcome, Failure> {
    let location = context.location()?;
    let retained = args.retain.as_deref().map(parse_duration).transpose()?;
    // Unless the place says otherwise (-o object-lock-mode): a slip must not cost years of storage.
    let mode = LockMode::Governance;
    let object_lock = retained.map(|time| ObjectLock { seconds: time.as_secs(), mode });
    let settings = Settings { parity_percent: args.parity, object_lock, ..Settings::DEFAULT };
    let options = CreateOptions { settings, label: args.label.clone(), ..CreateOptions::default() };
    let repository = context.create(&location, &options)?;
    let output = &context.output;
    if output.is_json() {
        let mut message = json!({
            "message_type": "initialized",
            "id": repository.id().to_string(),
            "repository": location.shown(),
            "parity_percent": args.parity,
            "retain_seconds": repository.settings().object_lock.map(|lock| lock.seconds),
        });
        if let Some(hot) = location.shown_hot() {
            message["hot"] = json!(hot);
        }
        output.json(&message)?;
        return Ok(Outcome::Done);
    }
    for line in birth_lines(context, &location, &repository) {
        output.say(&line)?;
    }
    Ok(Outcome::Done)
}

/// What a person should know of a new repository.
pub fn birth_lines(context: &Context, location: &Location, repository: &Repository) -> Vec<String> {
    let style = context.output.style();
    let place = location.shown();
    let mut flag = if location.is_default { String::new() } else { format!("-r {place} ") };
    let mut with = String::new();
    if let Some(hot) = location.shown_hot() {
        flag.push_str(&format!("--repo-hot {hot} "));
        with = format!(" and {hot}");
    }
    let parity = match repository.settings().parity_percent {
        0 => String::new(),
        percent => format!(", with {percent}% parity"),
    };
    let form = match repository.settings().form {
        Form::Conditions => "",
        // Whoever plans to use it from several machines should know.
        Form::Confirmations => {
            ", which cannot create objects only once: one machine at a time prunes it"
        }
    };
    let retained = match repository.settings().object_lock {
        None => String::new(),
        Some(lock) => format!(", which retains what is written for {}", lock_in_words(lock)),
    };
    vec![
        format!(
            "made repository {} in {place}{with}{parity}{form}{retained}",
            style.bold(&repository.id().short())
        ),
        "Without the passphrase nobody can read it, not even you. Keep a second way in, on paper:"
            .to_string(),
        format!("  aumbry {flag}key recovery"),
    ]
}

/// For how long objects are locked, and how strictly.
pub fn lock_in_words(ObjectLock { seconds, mode }: ObjectLock) -> String {
    let time = match (seconds / 86_400, seconds % 86_400) {
        (1, 0) => "a day".to_string(),
        (days, 0) => format!("{days} days"),
        _ => count(seconds / 3600, "hour"),
    };
    let mode = match mode {
        LockMode::Governance => "governance",
        LockMode::Compliance => "compliance",
    };
    format!("{time} ({mode})")
}
