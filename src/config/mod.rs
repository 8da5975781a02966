//! The configuration: text in, [`Plan`] out, or everything that is wrong with it.
//!
//! Three steps. `parse` cuts the files into parts and reads each by the `schema`, where only types are judged. `check` asks what the
//! parts mean together and on this host, and fills in what depends on it: defaults, users, paths of commands. What is left is a
//! [`Plan`] that the engine can trust. No step stops at the first mistake: a [`Diagnostic`] with its place in the file is kept for
//! each, so that one run of `mainstay check` shows them all.
//!
//! The check asks the host (users, commands, directories, files of variables) and may therefore hang on a dead disk. It belongs into a
//! short-lived process, never into the agent's loop.
//!
//! The command `mainstay` (as `command[0]`) means the running binary itself, so that the demo needs nothing installed.

mod check;
mod explain;
mod files;
mod locate;
mod look;
mod parse;
mod report;
mod scan;
mod schema;
mod suggest;
mod values;

use std::path::{Path, PathBuf};

use crate::engine::copies::plan::CopyPlan;
use crate::engine::plan::Plan;

pub use check::{ALERTS_MAX, BACKENDS_MAX, BALANCERS_MAX, CHECKS_MAX, REPLICAS_MAX, SERVICES_MAX};
pub use explain::explain;
pub use files::{FILE_BYTES_MAX, FILES_MAX};
pub use look::{COMMAND_PATH, Look};
pub use report::{DIAGNOSTICS_MAX, Diagnostic, Excerpt, Severity};
pub use schema::keys;

/// The demonstration: runs anywhere, as any user, with nothing installed.
pub const DEMO: &str = include_str!("../../configs/demo.ron");

/// Where the agent's directories are for root.
const ROOT_DIRS: [&str; 3] = ["/run/mainstay", "/var/lib/mainstay", "/var/log/mainstay"];

/// A configuration that can be run.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub plan: Plan,
    /// Warnings and notes.
    pub warnings: Vec<Diagnostic>,
    /// Every file that was read, the named one first; without files of variables.
    pub files: Vec<PathBuf>,
}

/// What the check needs to know of its surroundings.
#[derive(Clone, Debug)]
pub struct Context {
    /// The user the agent will run as.
    pub uid: u32,
    pub look: Look,
    /// The running binary: what the command `mainstay` means. `None`: look it up like any other.
    pub own_binary: Option<PathBuf>,
    /// `XDG_RUNTIME_DIR`, `XDG_STATE_HOME` and `HOME`: where an agent without root keeps its files.
    pub xdg_runtime_dir: Option<PathBuf>,
    pub xdg_state_home: Option<PathBuf>,
    pub home: Option<PathBuf>,
}

/// The directories of an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dirs {
    pub run_dir: PathBuf,
    pub state_dir: PathBuf,
    pub log_dir: PathBuf,
}

impl Context {
    /// This host and the environment of this process, for an agent that runs as `uid`.
    #[must_use]
    pub fn host(uid: u32) -> Self {
        let variable = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let own_binary = std::env::current_exe().ok().map(|path| {
            // After an upgrade in place the kernel marks the old file; the new one has its name.
            path.to_str().and_then(|text| text.strip_suffix(" (deleted)")).map(PathBuf::from).unwrap_or(path)
        });
        Self {
            uid,
            look: Look::host(),
            own_binary,
            xdg_runtime_dir: variable("XDG_RUNTIME_DIR"),
            xdg_state_home: variable("XDG_STATE_HOME"),
            home: variable("HOME"),
        }
    }

    /// The directories of an agent whose file names none. Without root: `$XDG_RUNTIME_DIR/mainstay`, else `/tmp/mainstay-UID`;
    /// state in `$XDG_STATE_HOME/mainstay`, else `~/.local/state/mainstay`, else below the `run_dir`; logs in its `log`.
    #[must_use]
    pub fn default_dirs(&self) -> Dirs {
        if self.uid == 0 {
            let [run_dir, state_dir, log_dir] = ROOT_DIRS.map(PathBuf::from);
            return Dirs { run_dir, state_dir, log_dir };
        }
        let runtime = self.xdg_runtime_dir.as_ref().filter(|path| self.look.is_directory(path));
        let run_dir = match runtime {
            Some(runtime) => runtime.join("mainstay"),
            None => PathBuf::from(format!("/tmp/mainstay-{}", self.uid)),
        };
        let state_home =
            self.xdg_state_home.clone().or_else(|| self.home.as_ref().map(|home| home.join(".local/state")));
        let state_dir = state_home.map_or_else(|| run_dir.join("state"), |home| home.join("mainstay"));
        let log_dir = state_dir.join("log");
        Dirs { run_dir, state_dir, log_dir }
    }
}

/// Reads a file and what it includes, and checks it.
///
/// # Errors
/// Everything that was found, warnings and notes included, when one of it is an error.
pub fn load(path: &Path, context: &Context) -> Result<Loaded, Vec<Diagnostic>> {
    let mut report = report::Report::default();
    let gathered = files::gather(path, context, &mut report);
    finish(gathered, context, report)
}

/// Checks a text that is in no file, such as [`DEMO`]; `name` stands in its findings.
///
/// # Errors
/// As [`load`].
pub fn load_text(name: &str, text: &str, context: &Context) -> Result<Loaded, Vec<Diagnostic>> {
    let mut report = report::Report::default();
    let gathered = files::gather_text(name, text, &mut report);
    finish(gathered, context, report)
}

/// The agent's directories by a file, without looking at its services: enough for a command that wants the agent's socket.
///
/// # Errors
/// What is wrong with the file as far as it was looked at.
pub fn load_dirs(path: &Path, context: &Context) -> Result<Dirs, Vec<Diagnostic>> {
    let mut report = report::Report::default();
    let gathered = files::gather(path, context, &mut report);
    let plan = check::agent_only(gathered, context, &mut report);
    if report.failed() {
        return Err(report.into_diagnostics());
    }
    Ok(Dirs { run_dir: plan.run_dir, state_dir: plan.state_dir, log_dir: plan.log_dir })
}

/// The sets of copies of a file, without looking at its services: enough to restore where their programs are not installed.
///
/// # Errors
/// What is wrong with the file as far as it was looked at.
pub fn load_copies(path: &Path, context: &Context) -> Result<Vec<CopyPlan>, Vec<Diagnostic>> {
    let mut report = report::Report::default();
    let gathered = files::gather(path, context, &mut report);
    let copies = check::copies_only(gathered, context, &mut report);
    if report.failed() { Err(report.into_diagnostics()) } else { Ok(copies) }
}

fn finish(gathered: files::Gathered, context: &Context, mut report: report::Report) -> Result<Loaded, Vec<Diagnostic>> {
    let plan = check::check(gathered, context, &mut report);
    if report.failed() {
        return Err(report.into_diagnostics());
    }
    let files = report.sources.iter().filter_map(|source| source.path.clone()).collect();
    Ok(Loaded { plan, warnings: report.into_diagnostics(), files })
}
