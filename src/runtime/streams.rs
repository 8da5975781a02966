//! Requests for logs and events on their way to the logs role. Those that come while the role is away (at the start of the agent, after the
//! role's death) wait for it a moment instead of being refused: it is restarted at once.
//!
//! As many may wait as there can be connections; the server limits those.

use std::os::fd::OwnedFd;
use std::time::Duration;

use super::links::{Importance, Link};
use crate::api::error::{ApiError, Code};
use crate::api::http::STREAM_HEAD;
use crate::api::server::{ConnectionId, Server};
use crate::engine::types::Time;
use crate::logs::proto::{Serve, ToLogs};

/// How long a request waits for the role.
const AWAITED: Duration = Duration::from_secs(3);

#[derive(Debug)]
struct Asked {
    connection: ConnectionId,
    request: Serve,
    until: Time,
}

#[derive(Debug, Default)]
pub(super) struct Streams {
    asked: Vec<Asked>,
}

impl Streams {
    /// A client wants a stream; [`Streams::pass_on`] gives its connection away.
    pub(super) fn ask(&mut self, connection: ConnectionId, request: Serve, now: Time) {
        self.asked.push(Asked { connection, request, until: now.after(AWAITED) });
    }

    /// When somebody has waited long enough.
    pub(super) fn next_deadline(&self) -> Option<Time> {
        self.asked.iter().map(|asked| asked.until).min()
    }

    /// Gives the connections to the role, if it is there; who has waited too long is refused.
    pub(super) fn pass_on(&mut self, server: &mut Server, logs: &mut Link, now: Time) {
        for Asked { connection, request, until } in std::mem::take(&mut self.asked) {
            if logs.is_connected() {
                // `None`: the client has left.
                let Some(descriptor) = server.hand_over(connection, STREAM_HEAD) else { continue };
                let descriptors: Vec<OwnedFd> = vec![descriptor];
                logs.send_with(&ToLogs::Serve { request }, descriptors, Importance::Current);
            } else if until <= now {
                let error = ApiError::new(Code::AgentUnavailable, "the logs role is not running at the moment")
                    .hint("the agent restarts it; try again in a second");
                server.respond(now.0, connection, error.response());
            } else if server.is_open(connection) {
                self.asked.push(Asked { connection, request, until });
            }
        }
    }
}
