//! `mainstay replay FILE`: a flight recording against the engine.

use super::args::Invocation;
use super::exit::{CliError, Exit};
use super::output::{self, message};
use crate::runtime::recorder::{self, Replayed};

/// Prints what the engine says, line by line; exit 1 when it decides otherwise than the recording says.
pub(super) fn run(invocation: &Invocation) -> Result<Exit, CliError> {
    let recording = invocation.file().unwrap_or_default();
    let Replayed { steps, sentences, differs_at_line } =
        recorder::replay(&recording).map_err(|error| CliError::Other(Box::new(error)))?;
    for sentence in sentences {
        output::print(&format!("{sentence}\n"))?;
    }
    match differs_at_line {
        None => {
            message(&format!("{steps} steps, the same actions as recorded\n"));
            Ok(Exit::Well)
        }
        Some(line) => {
            message(&format!(
                "{steps} steps; from line {line} on the actions differ from the recorded ones: another version recorded it, or a bug\n"
            ));
            Ok(Exit::Failed)
        }
    }
}
