//! Why the agent cannot run.

use std::io;
use std::path::PathBuf;

use crate::config::Diagnostic;

#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Every diagnostic, for stderr; exit code 78.
    #[error("the configuration is not valid")]
    Config(Vec<Diagnostic>),
    #[error("{0}")]
    Load(String),
    #[error("cannot use the directory {path}")]
    Directory { path: PathBuf, source: io::Error },
    #[error("another agent (pid {pid}) holds {path}")]
    Locked { path: PathBuf, pid: i32 },
    #[error("cannot take the lock {path}")]
    Lock { path: PathBuf, source: io::Error },
    #[error("cannot set up {what}")]
    Setup { what: &'static str, source: io::Error },
    #[error("cannot open the API")]
    Api(#[source] crate::api::server::ServerError),
    #[error("cannot wait for events")]
    Wait(#[source] io::Error),
    #[error("some processes could not be ended; `mainstay doctor` and the log name them")]
    SomethingRemains,
}
