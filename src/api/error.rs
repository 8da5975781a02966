//! The error object of the API: a stable code, a sentence, and what to do.

use serde::{Deserialize, Serialize};

use super::http::Response;

/// `{"error":{"code":…,"message":…,"hint":…}}`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    pub error: ErrorDetail,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorDetail {
    /// One of [`Code`]'s words; a client accepts unknown ones.
    pub code: String,
    pub message: String,
    pub hint: Option<String>,
}

/// Everything that can be wrong with a request, with its word and its HTTP status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    RequestInvalid,
    RequestTooLarge,
    RequestTimeout,
    RequestOrigin,
    RequestHost,
    PathUnknown,
    MethodNotAllowed,
    SocketReadOnly,
    ServiceUnknown,
    /// The verb was carried out and the outcome is not what was asked for.
    ServiceFailed,
    /// The present state forbids the verb.
    ServiceConflict,
    /// There is no record of this number.
    FenceUnknown,
    /// There is no set of copies of this name, or no such copy.
    CopyUnknown,
    /// Somebody else works on the set, or files are in use.
    CopyConflict,
    /// The job on a set of copies has failed.
    CopyFailed,
    ConfigInvalid,
    ConnectionsTooMany,
    /// The agent cannot answer this now (its logs role is away, it is shutting down).
    AgentUnavailable,
}

impl Code {
    pub const ALL: [Self; 18] = [
        Self::RequestInvalid,
        Self::RequestTooLarge,
        Self::RequestTimeout,
        Self::RequestOrigin,
        Self::RequestHost,
        Self::PathUnknown,
        Self::MethodNotAllowed,
        Self::SocketReadOnly,
        Self::ServiceUnknown,
        Self::ServiceFailed,
        Self::ServiceConflict,
        Self::FenceUnknown,
        Self::CopyUnknown,
        Self::CopyConflict,
        Self::CopyFailed,
        Self::ConfigInvalid,
        Self::ConnectionsTooMany,
        Self::AgentUnavailable,
    ];

    /// The stable word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::RequestInvalid => "request.invalid",
            Self::RequestTooLarge => "request.too_large",
            Self::RequestTimeout => "request.timeout",
            Self::RequestOrigin => "request.origin",
            Self::RequestHost => "request.host",
            Self::PathUnknown => "path.unknown",
            Self::MethodNotAllowed => "method.not_allowed",
            Self::SocketReadOnly => "socket.read_only",
            Self::ServiceUnknown => "service.unknown",
            Self::ServiceFailed => "service.failed",
            Self::ServiceConflict => "service.conflict",
            Self::FenceUnknown => "fence.unknown",
            Self::CopyUnknown => "copy.unknown",
            Self::CopyConflict => "copy.conflict",
            Self::CopyFailed => "copy.failed",
            Self::ConfigInvalid => "config.invalid",
            Self::ConnectionsTooMany => "connections.too_many",
            Self::AgentUnavailable => "agent.unavailable",
        }
    }

    /// The HTTP status it is answered with.
    #[must_use]
    pub fn status(self) -> u16 {
        match self {
            Self::RequestInvalid | Self::RequestTimeout => 400,
            Self::RequestOrigin | Self::RequestHost | Self::SocketReadOnly => 403,
            Self::PathUnknown | Self::ServiceUnknown | Self::FenceUnknown | Self::CopyUnknown => 404,
            Self::MethodNotAllowed => 405,
            Self::ServiceConflict | Self::CopyConflict => 409,
            Self::RequestTooLarge => 413,
            Self::ServiceFailed | Self::CopyFailed | Self::ConfigInvalid => 422,
            Self::ConnectionsTooMany | Self::AgentUnavailable => 503,
        }
    }

    /// The code of a word read from an answer.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|code| code.word() == word)
    }
}

/// A refusal on its way to the client.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    pub code: Code,
    pub message: String,
    pub hint: Option<String>,
    /// The methods that the path has, with [`Code::MethodNotAllowed`].
    pub allow: Option<&'static str>,
}

impl ApiError {
    #[must_use]
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: None, allow: None }
    }

    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The answer that carries this error.
    #[must_use]
    pub fn response(&self) -> Response {
        let body = ErrorBody {
            error: ErrorDetail {
                code: self.code.word().to_owned(),
                message: self.message.clone(),
                hint: self.hint.clone(),
            },
        };
        let mut response = Response::json(self.code.status(), &body);
        response.allow = self.allow;
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_unique_and_found_again() {
        for code in Code::ALL {
            assert_eq!(Code::from_word(code.word()), Some(code));
        }
        assert_eq!(Code::from_word("service.exploded"), None);
    }

    #[test]
    fn only_the_published_statuses_are_used() {
        for code in Code::ALL {
            assert!([400, 403, 404, 405, 409, 413, 422, 503].contains(&code.status()), "{code:?}");
        }
    }
}
