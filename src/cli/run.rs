//! `mainstay run`: the agent.

use std::path::Path;

use super::args::Invocation;
use super::check::{self, FILE_DEFAULT};
use super::exit::{CliError, Exit};
use super::output::message;
use super::table::CONFIG;
use crate::runtime::error::RunError;
use crate::runtime::{self, RunOptions};
use crate::sys::host;

pub(super) fn run(invocation: &Invocation) -> Result<Exit, CliError> {
    let config = match invocation.path(&CONFIG) {
        Some(path) => Some(path),
        // A user who tries the program has no file yet; root, who forgot it, must not get a demo instead of the services.
        None if host::uid() != 0 && !Path::new(FILE_DEFAULT).exists() => {
            message(&format!("no {FILE_DEFAULT}: running the built-in demonstration\n"));
            None
        }
        None => Some(FILE_DEFAULT.into()),
    };
    match runtime::run(&RunOptions { config: config.clone() }) {
        Ok(()) => Ok(Exit::Well),
        Err(RunError::Config(findings)) => Err(check::invalid(&config.unwrap_or_default(), &findings)),
        Err(error) => Err(CliError::Other(Box::new(error))),
    }
}
