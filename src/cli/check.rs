//! `mainstay check`, and what other commands need from a configuration file.

use std::path::{Path, PathBuf};

use super::args::{Format, Invocation};
use super::exit::{CliError, Exit};
use super::output::{self, message};
use super::status::line;
use super::table::{CONFIG, EXPLAIN};
use crate::config::{self, Context, Diagnostic, Dirs, Loaded};
use crate::engine::copies::plan::CopyPlan;
use crate::sys;

/// Where the configuration is unless another file is named.
pub(super) const FILE_DEFAULT: &str = "/etc/mainstay/mainstay.ron";

pub(super) fn run(invocation: &Invocation) -> Result<Exit, CliError> {
    let named = invocation.file().or_else(|| invocation.path(&CONFIG));
    let file = named.unwrap_or_else(|| PathBuf::from(FILE_DEFAULT));
    let format = invocation.format()?;
    let answer = config::load(&file, &context());
    if format != Format::Table {
        output::print(&as_json(&file, &answer, format)?)?;
    }
    let loaded = match answer {
        Ok(loaded) => loaded,
        Err(findings) if format == Format::Table => return Err(invalid(&file, &findings)),
        Err(_) => return Err(CliError::ConfigInvalid { file }),
    };
    if format != Format::Table {
        return Ok(Exit::Well);
    }
    tell(&loaded.warnings);
    if invocation.is_set(&EXPLAIN) {
        output::print(&config::explain(&loaded.plan))?;
    } else {
        let services = loaded.plan.services.len();
        output::print(&format!("{} is valid: {services} services\n", file.display()))?;
    }
    Ok(Exit::Well)
}

/// The findings as data: one object, or one finding a line.
fn as_json(file: &Path, answer: &Result<Loaded, Vec<Diagnostic>>, format: Format) -> Result<String, CliError> {
    let findings = match answer {
        Ok(loaded) => &loaded.warnings,
        Err(findings) => findings,
    };
    match format {
        Format::Ndjson => findings.iter().map(line).collect(),
        Format::Json | Format::Table => line(&serde_json::json!({
            "file": file.display().to_string(),
            "valid": answer.is_ok(),
            "findings": findings,
        })),
    }
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

/// The sets of copies of a file, whatever is wrong with the rest of it.
pub(super) fn copies(file: &Path) -> Result<Vec<CopyPlan>, CliError> {
    config::load_copies(file, &context()).map_err(|findings| invalid(file, &findings))
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
