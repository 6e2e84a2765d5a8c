//! Consent to what cannot be taken back easily: asked for at a terminal, said beforehand in a script.

use std::fs::File;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Write;

use crate::context::Context;
use crate::failure::Code;
use crate::failure::Failure;
use crate::progress::is_stopping;

/// Tells the concerns and asks, unless there is none or consent was given beforehand. Whatever the answer, what
/// was printed until now stands before the question.
pub fn obtain(
    context: &Context,
    given: bool,
    concerns: &[String],
    question: &str,
    hint: &str,
) -> Result<(), Failure> {
    if concerns.is_empty() || given {
        return Ok(());
    }
    let refusal =
        || Failure::failed(format!("without consent, nothing is done: {}", concerns.join("; ")));
    if !context.surroundings.can_ask() {
        return Err(refusal().hint(hint));
    }
    context.output.finish()?;
    for concern in concerns {
        context.output.error_line(&context.output.error_style().yellow(concern));
    }
    let answer = ask(question)?;
    if is_stopping() {
        return Err(Failure::new(Code::Interrupted, "interrupted"));
    }
    if answer.trim().eq_ignore_ascii_case("yes") {
        return Ok(());
    }
    Err(Failure::failed("nothing was done"))
}

/// Standard input may be something else: the question goes to the terminal itself, as that for a passphrase.
fn ask(question: &str) -> Result<String, Failure> {
    let failed = |error| Failure::file("the terminal", &error);
    let terminal = File::options().read(true).write(true).open("/dev/tty").map_err(failed)?;
    write!(&terminal, "{question} Type yes, or anything else: ").map_err(failed)?;
    let mut answer = String::new();
    BufReader::new(&terminal).read_line(&mut answer).map_err(failed)?;
    Ok(answer)
}
