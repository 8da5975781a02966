//! `mainstay replay FILE`: a flight recording against the engine.

use super::args::Invocation;
use super::exit::{CliError, Exit};

pub(super) fn run(invocation: &Invocation) -> Result<Exit, CliError> {
    let recording = invocation.file();
    // SEAM runtime: crate::runtime::recorder::replay(&recording)
    Err(CliError::NotLinked { config: recording })
}
