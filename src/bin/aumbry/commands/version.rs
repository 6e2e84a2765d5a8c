//! `aumbry version`: what this program is.

use serde_json::json;

use crate::context::Context;
use crate::failure::Failure;
use crate::failure::Outcome;

/// Name and version, as snapshots record them.
pub const PROGRAM: &str = concat!("aumbry ", env!("CARGO_PKG_VERSION"));

/// Prints it.
pub fn run(context: &Context) -> Result<Outcome, Failure> {
    let output = &context.output;
    let (os, arch) = (std::env::consts::OS, std::env::consts::ARCH);
    if output.is_json() {
        output.json(&json!({
            "message_type": "version",
            "version": env!("CARGO_PKG_VERSION"),
            "format_version": aumbry::format::VERSION,
            "os": os,
            "arch": arch,
        }))?;
    } else {
        output.line(&format!("{PROGRAM} (format {}, {os} {arch})", aumbry::format::VERSION))?;
    }
    Ok(Outcome::Done)
}
