//! `mainstay run`: the agent.

use super::args::Invocation;
use super::exit::{CliError, Exit};
use super::table::CONFIG;

pub(super) fn run(invocation: &Invocation) -> Result<Exit, CliError> {
    let config = invocation.path(&CONFIG);
    // SEAM runtime: match crate::runtime::run(RunOptions { config }) { Ok(()) => Ok(Exit::Well), Err(error) => Err(CliError::Other(Box::new(error))) }
    Err(CliError::NotLinked { config })
}
