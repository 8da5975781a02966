//! Commands of alerts under way. The event's JSON is a file without a name on their standard input, so that no command can keep the agent
//! waiting, whatever it reads and when. What it says on stderr is kept up to a limit and told if it fails.

use std::os::fd::AsFd;

use serde::Serialize;

use super::adopt::ALERT_GROUP;
use super::errand::Order;
use super::errands::{self, Errands};
use super::key::Key;
use super::shell::Shell;
use crate::api::time::rfc3339_ns;
use crate::engine::Engine;
use crate::engine::event::Event;
use crate::engine::host::HostEvent;
use crate::engine::host::view::AlertBody;
use crate::engine::plan::User;
use crate::engine::types::Time;
use crate::sys::memory_file;

/// The engine has one under way for each alert of the configuration; more are refused.
const RUNNING_MAX: usize = 64;

/// What a command finds on its standard input at most.
const BODY_BYTES_MAX: usize = 64 << 10;
/// When it would be more: links of the chain and services that are told, and how long each text may be. JSON may write six bytes for one.
const WHY_MAX: usize = 4;
const SERVICES_MAX: usize = 64;
const TEXT_BYTES_MAX: usize = 1 << 10;

/// By the number that the engine gave them.
pub(super) type Alerts = Errands<u64>;

pub(super) fn none() -> Alerts {
    Errands::new("alerts", RUNNING_MAX)
}

const OF: errands::Of<u64> = |shell| &mut shell.alerts;

/// The body as it is told.
#[derive(Debug, Serialize)]
struct Told<'a> {
    host: &'a str,
    /// RFC 3339
    at: String,
    #[serde(flatten)]
    body: &'a AlertBody,
}

/// Performs `Action::Alert`; a failure to start is its answer.
pub(super) fn start(shell: &mut Shell, engine: &Engine, alert: u64, plan: usize, mut body: AlertBody) {
    if let Err(error) = try_start(shell, engine, alert, plan, &mut body) {
        done(shell, alert, Err(error));
    }
}

fn try_start(shell: &mut Shell, engine: &Engine, alert: u64, plan: usize, body: &mut AlertBody) -> Result<(), String> {
    let plan = engine.plan().alerts.get(plan).ok_or("the configuration has no such alert any more")?;
    let stdin = memory_file::holding(&text(body)).map_err(|error| format!("cannot make its input: {error}"))?;
    let slot = shell.alerts.slot()?;
    let user = plan.user.as_deref().unwrap_or(&shell.own_user).clone();
    let mut order = Order {
        kind: ALERT_GROUP,
        slot,
        key: Key::Alert(slot),
        argv: &plan.exec,
        environment: environment(&user, body),
        user: plan.user.as_deref(),
        no_new_privileges: false,
        capabilities: None,
        wall: None,
        cwd: plan.cwd.as_ref().map_or_else(|| "/".to_owned(), |cwd| cwd.to_string_lossy().into_owned()),
        stdin: Some(stdin.as_fd()),
        keeps_stderr: true,
    };
    errands::start(shell, OF, alert, &mut order, Some(plan.timeout))
}

/// One line of JSON, short enough whatever the body holds.
fn text(body: &mut AlertBody) -> Vec<u8> {
    let host = nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let render = |body: &AlertBody| {
        let told = Told { host: &host, at: rfc3339_ns(body.at_wall.0), body };
        let mut text = serde_json::to_vec(&told).unwrap_or_default();
        text.push(b'\n');
        text
    };
    let whole = render(body);
    if whole.len() <= BODY_BYTES_MAX {
        return whole;
    }
    body.why.truncate(WHY_MAX);
    body.services.truncate(SERVICES_MAX);
    let texts = [&mut body.event, &mut body.subject, &mut body.state, &mut body.text];
    for text in texts.into_iter().chain(&mut body.why) {
        text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX));
    }
    render(body)
}

/// For commands that do not read JSON.
fn environment(user: &User, body: &AlertBody) -> Vec<String> {
    let variables = [
        ("HOME", &user.home),
        ("USER", &user.name),
        ("LOGNAME", &user.name),
        ("SHELL", &user.shell),
        ("MAINSTAY_EVENT", &body.event),
        ("MAINSTAY_SUBJECT", &body.subject),
        ("MAINSTAY_STATE", &body.state),
        ("MAINSTAY_TEXT", &body.text),
    ];
    let line = |(name, value): (&str, &String)| {
        let value = value.get(..value.floor_char_boundary(TEXT_BYTES_MAX)).unwrap_or_default();
        format!("{name}={}", value.replace('\0', ""))
    };
    variables.into_iter().map(line).collect()
}

/// The pidfd of a command is readable.
pub(super) fn ended(shell: &mut Shell, slot: u32) {
    if let Some((alert, result)) = errands::ended(shell, OF, slot) {
        done(shell, alert, result);
    }
}

/// Kills commands that have taken too long.
pub(super) fn expire(shell: &mut Shell, now: Time) {
    for (alert, result) in errands::expire(shell, OF, now) {
        done(shell, alert, result);
    }
}

/// The agent leaves: so do they.
pub(super) fn end_all(shell: &mut Shell) {
    errands::end_all(shell, OF);
}

fn done(shell: &mut Shell, alert: u64, result: Result<(), String>) {
    shell.events.push_back(Event::Host(Box::new(HostEvent::AlertDone { alert, result })));
}

#[cfg(test)]
mod tests;
