//! The commands. `table` says what there is; `args` parses by it; every other file is one family of commands: it asks the agent through
//! `api::client` and prints. Text is made by functions from answers to strings, so that it can be tested without an agent.

mod apart;
pub mod args;
mod ask;
mod balancers;
mod check;
mod checks;
mod checks_once;
mod completions;
mod copies;
mod doctor;
mod events;
pub mod exit;
mod fences;
mod help;
mod host;
mod internal;
mod logs;
mod man;
mod metrics;
mod output;
mod reload;
mod replay;
mod run;
mod status;
mod summary;
pub mod table;
mod tree;
mod verbs;
mod why;

use std::error::Error;
use std::ffi::OsString;

use args::Invocation;
use exit::{CliError, Exit};

/// Carries out the words after the program's name.
///
/// # Errors
/// What could not be done; [`report`] tells it and [`CliError::exit`] is its code.
pub fn main(words: Vec<OsString>) -> Result<Exit, CliError> {
    if let Some(exit) = internal::run(&words) {
        return exit;
    }
    let invocation = args::parse(words)?;
    if invocation.is_set(&table::HELP) {
        return help::of(invocation.command);
    }
    if invocation.is_set(&table::VERSION) {
        return help::version(&invocation);
    }
    let run: fn(&Invocation) -> Result<Exit, CliError> = invocation.command.map_or(summary::run, |command| command.run);
    run(&invocation)
}

/// Tells an error as one line: `error: what: cause: cause (what to do)`. A closed pipe is not told.
pub fn report(error: &CliError) {
    if error.exit() == Exit::Well {
        return;
    }
    let mut line = format!("error: {error}");
    let mut source = error.source();
    while let Some(cause) = source {
        line.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    if let Some(hint) = error.hint() {
        line.push_str(&format!(" ({hint})"));
    }
    output::message(&line);
}
