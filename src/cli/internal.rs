//! The commands that the agent gives itself: they are in no help, take their words as they are, and may change with any version.

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};

use super::checks_once;
use super::exit::{CliError, Exit};
use crate::runtime::{load, switching, taker};

/// Carries out an internal command; `None` when the words are none.
pub(super) fn run(words: &[OsString]) -> Option<Result<Exit, CliError>> {
    let word = |index: usize| words.get(index).and_then(|word| word.to_str());
    let rest = |from: usize| words.iter().skip(from).cloned();
    match (word(0)?, word(1)) {
        ("role", Some("logs")) => Some(logs_role(&words[2..])),
        (load::COMMAND, path) => Some(load_config(path)),
        ("role", Some("checks")) => Some(finish(crate::checks::run(rest(2)))),
        ("role", Some("sensors")) => Some(finish(crate::checks::run_sensors(rest(2)))),
        ("role", Some("disk")) => Some(finish(crate::checks::run_disk(rest(2)))),
        ("role", Some("copy")) => Some(finish(crate::copies::run(rest(2), crate::copies::HANDS))),
        ("role", Some("proxy")) => Some(finish(crate::proxy::run(rest(2)))),
        (checks_once::READ, _) => Some(checks_once::read(&words[1..])),
        (switching::COMMAND, Some(_)) => Some(finish(switching::carry_out(&words[1..]))),
        (taker::COMMAND, None) => Some(finish(taker::take())),
        ("sample", _) => Some(finish(crate::sample::run(rest(1)))),
        _ => None,
    }
}

/// `role logs --run-dir R --state-dir S --log-dir L`
fn logs_role(words: &[OsString]) -> Result<Exit, CliError> {
    // First of all: later, descriptor 3 could be one of ours.
    let readiness = crate::sys::inherited::take(3).map_err(|error| CliError::Other(Box::new(error)))?;
    let mut arguments = crate::logs::RoleArguments {
        run_dir: PathBuf::new(),
        state_dir: PathBuf::new(),
        log_dir: PathBuf::new(),
        readiness,
    };
    for pair in words.chunks(2) {
        let [name, value] = pair else { continue };
        match name.to_str() {
            Some("--run-dir") => arguments.run_dir = value.into(),
            Some("--state-dir") => arguments.state_dir = value.into(),
            Some("--log-dir") => arguments.log_dir = value.into(),
            Some(_) | None => {}
        }
    }
    finish(crate::logs::run(arguments))
}

/// The loader's child: prints its answer as JSON, whatever it is.
fn load_config(path: Option<&str>) -> Result<Exit, CliError> {
    let answer = load::answer(path.map(Path::new));
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, &answer).map_err(|error| CliError::Other(Box::new(error)))?;
    out.flush().map_err(|error| CliError::Other(Box::new(error)))?;
    Ok(Exit::Well)
}

fn finish<E: std::error::Error + Send + Sync + 'static>(result: Result<(), E>) -> Result<Exit, CliError> {
    result.map(|()| Exit::Well).map_err(|error| CliError::Other(Box::new(error)))
}
