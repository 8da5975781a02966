//! Exit codes, and the errors that lead to them.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use super::args::UsageError;
use crate::api::client::ClientError;
use crate::api::error::Code;

/// The codes of `table::EXIT_CODES`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Exit {
    Well = 0,
    Failed = 1,
    Usage = 2,
    NotWell = 3,
    UnknownName = 4,
    Unreachable = 5,
    NotAllowed = 6,
    TimedOut = 7,
    ConfigInvalid = 78,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command could not be carried out.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    #[error(transparent)]
    Usage(#[from] UsageError),
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("cannot write the output")]
    Output(#[source] io::Error),
    /// The findings are on stderr already.
    #[error("{} is no valid configuration", file.display())]
    ConfigInvalid { file: PathBuf },
    #[error("no command \"{0}\" to explain; mainstay help lists them")]
    UnknownCommand(String),
    #[error("no completions for \"{0}\"; there are bash, zsh and fish")]
    UnknownShell(String),
    /// Of a command that is carried out elsewhere in the crate.
    #[error(transparent)]
    Other(Box<dyn std::error::Error + Send + Sync>),
}

impl CliError {
    /// What the process exits with.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::Usage(_) | Self::UnknownCommand(_) | Self::UnknownShell(_) => Exit::Usage,
            // Who reads from the pipe has seen enough.
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => Exit::Well,
            Self::Output(_) | Self::Other(_) => Exit::Failed,
            Self::ConfigInvalid { .. } => Exit::ConfigInvalid,
            Self::Client(error) => of_client(error),
        }
    }

    /// What to do about it, when the agent said so.
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::Client(ClientError::Refused(detail)) => detail.hint.as_deref(),
            Self::Client(_)
            | Self::Usage(_)
            | Self::Output(_)
            | Self::ConfigInvalid { .. }
            | Self::UnknownCommand(_)
            | Self::UnknownShell(_)
            | Self::Other(_) => None,
        }
    }
}

fn of_client(error: &ClientError) -> Exit {
    match error {
        ClientError::Unreachable { .. } | ClientError::Connect { .. } | ClientError::Lost(_) => Exit::Unreachable,
        ClientError::NotAllowed { .. } => Exit::NotAllowed,
        ClientError::TimedOut { .. } => Exit::TimedOut,
        ClientError::Garbled { .. } => Exit::Failed,
        ClientError::Refused(_) => match error.code() {
            Some(Code::ServiceUnknown | Code::FenceUnknown | Code::CopyUnknown) => Exit::UnknownName,
            Some(Code::SocketReadOnly) => Exit::NotAllowed,
            Some(Code::ConfigInvalid) => Exit::ConfigInvalid,
            Some(Code::ConnectionsTooMany | Code::AgentUnavailable) => Exit::Unreachable,
            Some(
                Code::RequestInvalid
                | Code::RequestTooLarge
                | Code::RequestTimeout
                | Code::RequestOrigin
                | Code::RequestHost
                | Code::PathUnknown
                | Code::MethodNotAllowed
                | Code::ServiceFailed
                | Code::ServiceConflict
                | Code::CopyConflict
                | Code::CopyFailed,
            )
            | None => Exit::Failed,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::error::ErrorDetail;
    use crate::cli::table;

    #[test]
    fn every_code_of_the_table_has_its_exit() {
        let exits = [
            Exit::Well,
            Exit::Failed,
            Exit::Usage,
            Exit::NotWell,
            Exit::UnknownName,
            Exit::Unreachable,
            Exit::NotAllowed,
            Exit::TimedOut,
            Exit::ConfigInvalid,
        ];
        assert_eq!(exits.map(|exit| exit as u8), table::EXIT_CODES.map(|(code, _)| code));
    }

    #[test]
    fn a_closed_pipe_is_success_and_a_refusal_goes_by_its_code() {
        let closed = CliError::Output(io::ErrorKind::BrokenPipe.into());
        assert_eq!(closed.exit(), Exit::Well);
        let refused = |code: &str| {
            let detail = ErrorDetail { code: code.to_owned(), message: "no".to_owned(), hint: None };
            CliError::Client(ClientError::Refused(detail)).exit()
        };
        assert_eq!(refused("service.unknown"), Exit::UnknownName);
        assert_eq!(refused("socket.read_only"), Exit::NotAllowed);
        assert_eq!(refused("config.invalid"), Exit::ConfigInvalid);
        assert_eq!(refused("of.a.later.version"), Exit::Failed);
    }
}
