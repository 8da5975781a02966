//! `mainstay check`, and what other commands need from a configuration file.

use std::path::{Path, PathBuf};

use super::args::Invocation;
use super::exit::{CliError, Exit};
use super::output::{self, message};
use super::table::{CONFIG, EXPLAIN};
use crate::config::{self, Context, Diagnostic, Dirs};
use crate::sys;

/// Where the configuration is unless another file is named.
pub(super) const FILE_DEFAULT: &str = "/etc/mainstay/mainstay.ron";

pub(super) fn run(invocation: &Invocation) -> Result<Exit, CliError> {
    let named = invocation.file().or_else(|| invocation.path(&CONFIG));
    let file = named.unwrap_or_else(|| PathBuf::from(FILE_DEFAULT));
    let loaded = match config::load(&file, &context()) {
        Ok(loaded) => loaded,
        Err(findings) => return Err(invalid(&file, &findings)),
    };
    tell(&loaded.warnings);
    if invocation.is_set(&EXPLAIN) {
        output::print(&config::explain(&loaded.plan))?;
    } else {
        let services = loaded.plan.services.len();
        output::print(&format!("{} is valid: {services} services\n", file.display()))?;
    }
    Ok(Exit::Well)
}

/// The run_dir by a file, without looking at its services.
pub(super) fn run_dir(file: &Path) -> Result<PathBuf, CliError> {
    Ok(dirs(Some(file))?.run_dir)
}

/// The agent's directories by a file, or those of an agent without one.
pub(super) fn dirs(file: Option<&Path>) -> Result<Dirs, CliError> {
    match file {
        None => Ok(context().default_dirs()),
        Some(file) => config::load_dirs(file, &context()).map_err(|findings| invalid(file, &findings)),
    }
}

fn context() -> Context {
    Context::host(sys::host::uid())
}

/// Tells the findings; the error that remains has only the exit code.
pub(super) fn invalid(file: &Path, findings: &[Diagnostic]) -> CliError {
    tell(findings);
    CliError::ConfigInvalid { file: file.to_path_buf() }
}

fn tell(findings: &[Diagnostic]) {
    for finding in findings {
        message(&finding.to_string());
    }
}
