//! `mainstay start`, `stop`, `restart`, `drain`, `undrain`, `fence`, `unfence`. All are sent before the first answer is awaited, so that
//! services of one command do not wait for each other.

use std::time::Duration;

use super::args::{Format, Invocation, UsageError, target};
use super::exit::{CliError, Exit};
use super::status::line;
use super::table::{ALL_AT_ONCE, LEVEL, NO_WAIT, TIMEOUT, WHY};
use super::{ask, output};
use crate::api::client::{self, Access, Client, ClientError, Pending};
use crate::api::proto::Done;
use crate::api::route::encode;
use crate::engine::fence::plan::FenceLevel;

const TIMEOUT_DEFAULT: Duration = Duration::from_secs(600);
/// Verbs under way at once; below the agent's limit of connections.
const SENT_MAX: usize = 16;

pub(super) fn start(invocation: &Invocation) -> Result<Exit, CliError> {
    run(invocation, "start", "started")
}

pub(super) fn stop(invocation: &Invocation) -> Result<Exit, CliError> {
    run(invocation, "stop", "stopped")
}

pub(super) fn restart(invocation: &Invocation) -> Result<Exit, CliError> {
    run(invocation, "restart", "restarted")
}

/// Waits until the replicas have no connection left, or as long as their balancers let them have.
pub(super) fn drain(invocation: &Invocation) -> Result<Exit, CliError> {
    run(invocation, "drain", "drained")
}

pub(super) fn undrain(invocation: &Invocation) -> Result<Exit, CliError> {
    run(invocation, "undrain", "takes connections again")
}

/// Waits until the level is proven.
pub(super) fn fence(invocation: &Invocation) -> Result<Exit, CliError> {
    let level = invocation.text(&LEVEL)?.unwrap_or(FenceLevel::Hold.word());
    let Some(level) = FenceLevel::ALL.into_iter().find(|known| known.word() == level) else {
        return Err(UsageError::bad_level(level, &FenceLevel::ALL.map(FenceLevel::word).join(", ")).into());
    };
    let past = match level {
        FenceLevel::Throttle => "throttled",
        FenceLevel::Freeze => "frozen",
        FenceLevel::Kill => "killed and held",
        FenceLevel::Hold => "held",
    };
    let mut body = reason(invocation)?;
    body["level"] = level.word().into();
    let order = Order { verb: "fence", past, path: fence_path, body: body.to_string(), send: Client::post };
    carry_out(invocation, &order)
}

pub(super) fn unfence(invocation: &Invocation) -> Result<Exit, CliError> {
    let body = reason(invocation)?.to_string();
    let order = Order { verb: "unfence", past: "no longer fenced", path: fence_path, body, send: Client::delete };
    carry_out(invocation, &order)
}

fn reason(invocation: &Invocation) -> Result<serde_json::Value, CliError> {
    let mut body = serde_json::json!({ "wait": !invocation.is_set(&NO_WAIT) });
    if let Some(why) = invocation.text(&WHY)? {
        body["why"] = why.into();
    }
    Ok(body)
}

/// What is sent, and how its outcome is told.
struct Order {
    verb: &'static str,
    past: &'static str,
    path: fn(&str, &str) -> Result<String, CliError>,
    body: String,
    send: fn(&Client, &str, &str, Option<Duration>) -> Result<Pending, ClientError>,
}

fn run(invocation: &Invocation, verb: &'static str, past: &'static str) -> Result<Exit, CliError> {
    carry_out(invocation, &Order { verb, past, path, body: body(invocation), send: Client::post })
}

fn carry_out(invocation: &Invocation, order: &Order) -> Result<Exit, CliError> {
    let format = invocation.format()?;
    let timeout = invocation.duration(&TIMEOUT)?.unwrap_or(TIMEOUT_DEFAULT);
    let names = invocation.names()?;
    let paths = names.iter().map(|name| (order.path)(name, order.verb)).collect::<Result<Vec<String>, CliError>>()?;
    let client = ask::agent(invocation, Access::Admin)?;
    let mut answers = Vec::new();
    let mut failures: Vec<CliError> = Vec::new();
    for (paths, names) in paths.chunks(SENT_MAX).zip(names.chunks(SENT_MAX)) {
        let sent: Vec<Result<Pending, ClientError>> =
            paths.iter().map(|path| (order.send)(&client, path, &order.body, Some(timeout))).collect();
        for (sent, name) in sent.into_iter().zip(names) {
            let answer = sent.and_then(Pending::body).and_then(|body| client::parse::<Done>(&body));
            match answer {
                Ok(done) => {
                    if format == Format::Table {
                        output::print(&told(name, &done, order.verb, order.past))?;
                    }
                    answers.push(done);
                }
                Err(error) => failures.push(error.into()),
            }
        }
    }
    match format {
        Format::Table => {}
        Format::Json => output::print(&line(&serde_json::json!({ "results": answers }))?)?,
        Format::Ndjson => output::print(&answers.iter().map(line).collect::<Result<String, CliError>>()?)?,
    }
    // The last one is told by the caller; its code is the command's.
    let last = failures.pop();
    failures.iter().for_each(super::report);
    last.map_or(Ok(Exit::Well), Err)
}

fn path(name: &str, verb: &str) -> Result<String, CliError> {
    let (service, replica) = target(name)?;
    let service = encode(service);
    Ok(match replica {
        None => format!("/v1/services/{service}/{verb}"),
        Some(index) => format!("/v1/services/{service}/replicas/{index}/{verb}"),
    })
}

fn fence_path(name: &str, _: &str) -> Result<String, CliError> {
    let (service, replica) = target(name)?;
    let service = encode(service);
    Ok(match replica {
        None => format!("/v1/fences/{service}"),
        Some(index) => format!("/v1/fences/{service}/replicas/{index}"),
    })
}

fn body(invocation: &Invocation) -> String {
    let mut body = serde_json::json!({ "wait": !invocation.is_set(&NO_WAIT) });
    if invocation.is_set(&ALL_AT_ONCE) {
        body["all_at_once"] = true.into();
    }
    body.to_string()
}

fn told(name: &str, done: &Done, verb: &str, past: &str) -> String {
    let outcome = if done.outcome == "done" { past.to_owned() } else { format!("{verb} {}", done.outcome) };
    let persisted = if done.persisted { "" } else { " (the decision is not on disk yet: it may not outlive a reboot)" };
    format!("{name}: {outcome}{persisted}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_has_a_path_of_its_own() {
        assert_eq!(path("api", "stop").unwrap(), "/v1/services/api/stop");
        assert_eq!(path("api/2", "restart").unwrap(), "/v1/services/api/replicas/2/restart");
        assert!(path("api/two", "stop").is_err());
        assert_eq!(fence_path("api", "fence").unwrap(), "/v1/fences/api");
        assert_eq!(fence_path("api/0", "unfence").unwrap(), "/v1/fences/api/replicas/0");
    }

    #[test]
    fn a_decision_that_may_be_lost_is_told() {
        let done = |outcome: &'static str, persisted| Done {
            at: String::new(),
            seq: 1,
            service: "api".to_owned(),
            replica: None,
            outcome: outcome.into(),
            persisted,
        };
        assert_eq!(told("api", &done("done", true), "stop", "stopped"), "api: stopped\n");
        assert_eq!(told("api", &done("accepted", true), "stop", "stopped"), "api: stop accepted\n");
        assert!(told("api/1", &done("done", false), "stop", "stopped").contains("not on disk"));
    }
}
