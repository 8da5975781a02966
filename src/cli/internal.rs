//! The commands that the agent gives itself: they are in no help, take their words as they are, and may change with any version.

use std::ffi::OsString;

use super::exit::{CliError, Exit};

/// Carries out an internal command; `None` when the words are none.
pub(super) fn run(words: &[OsString]) -> Option<Result<Exit, CliError>> {
    let word = |index: usize| words.get(index).and_then(|word| word.to_str());
    let rest = |from: usize| words.iter().skip(from).cloned();
    match (word(0)?, word(1)) {
        ("role", Some("checks")) => Some(finish(crate::checks::run(rest(2)))),
        ("sample", _) => Some(finish(crate::sample::run(rest(1)))),
        _ => None,
    }
}

fn finish<E: std::error::Error + Send + Sync + 'static>(result: Result<(), E>) -> Result<Exit, CliError> {
    result.map(|()| Exit::Well).map_err(|error| CliError::Other(Box::new(error)))
}
