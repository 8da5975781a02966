//! `mainstay logs`: the output of services, as the logs role sends it.

use std::io::{self, Write};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::args::{Format, Invocation, UsageError, parse_duration, target};
use super::ask;
use super::exit::{CliError, Exit};
use super::output::message;
use super::table::{FOLLOW, NO_PREFIX, SINCE, TAIL};
use crate::api::client::{self, Access, Client, Lines};
use crate::api::proto::ServiceDetail;
use crate::api::route::encode;
use crate::api::time;
use crate::logs::proto::LogLine;

const TAIL_DEFAULT: u64 = 100;
const TAIL_DEFAULT_FOLLOW: u64 = 10;

pub(super) fn run(invocation: &Invocation) -> Result<Exit, CliError> {
    let format = invocation.format()?;
    let names = invocation.names()?;
    let query = Query::of(invocation, TAIL_DEFAULT, TAIL_DEFAULT_FOLLOW)?;
    let client = ask::agent(invocation, Access::Admin)?;
    let prefix = match format {
        Format::Table if invocation.is_set(&NO_PREFIX) => Prefix::None,
        Format::Table => prefix(&client, &names)?,
        Format::Json | Format::Ndjson => Prefix::None,
    };
    let mut lines = client.lines(&path(&names, &query)?, query.each())?;
    stream(&mut lines, format, "lines", |text| {
        let line: LogLine = serde_json::from_str(text).ok()?;
        Some(match prefix {
            Prefix::None => line.line,
            Prefix::Name => format!("{} | {}", line.service, line.line),
            Prefix::Replica => format!("{}/{} | {}", line.service, line.replica, line.line),
        })
    })?;
    Ok(Exit::Well)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Prefix {
    None,
    Name,
    Replica,
}

/// Several origins are told apart: by replica where one of the services has several.
fn prefix(client: &Client, names: &[&str]) -> Result<Prefix, CliError> {
    for name in names {
        let (name, index) = target(name)?;
        let detail: ServiceDetail = client.get_json(&format!("/v1/services/{}", encode(name)))?;
        if index.is_none() && detail.service.replicas.len() > 1 {
            return Ok(Prefix::Replica);
        }
    }
    let with_index = names.iter().any(|name| name.contains('/'));
    Ok(match names.len() {
        1 => Prefix::None,
        _ if with_index => Prefix::Replica,
        _ => Prefix::Name,
    })
}

/// What the streams have in common.
pub(super) struct Query {
    tail: Option<u64>,
    since: Option<String>,
    follow: bool,
}

impl Query {
    pub(super) fn of(invocation: &Invocation, tail: u64, tail_follow: u64) -> Result<Self, CliError> {
        let follow = invocation.is_set(&FOLLOW);
        if follow && invocation.format()? == Format::Json {
            return Err(UsageError::endless_json().into());
        }
        let since = match invocation.text(&SINCE)? {
            None => None,
            Some(text) => Some(instant(text).ok_or_else(|| UsageError::bad_time(text))?),
        };
        let default = if follow { tail_follow } else { tail };
        let tail = invocation.number(&TAIL)?.or(since.is_none().then_some(default));
        Ok(Self { tail, since, follow })
    }

    /// How long a line may take: for ever while following.
    pub(super) fn each(&self) -> Option<Duration> {
        if self.follow { None } else { Some(client::ANSWER_TIMEOUT) }
    }

    /// The parameters, each with its `&` in front.
    pub(super) fn parameters(&self) -> String {
        let mut out = String::new();
        if let Some(tail) = self.tail {
            out.push_str(&format!("&tail={tail}"));
        }
        if let Some(since) = &self.since {
            out.push_str(&format!("&since={}", encode(since)));
        }
        if self.follow {
            out.push_str("&follow=1");
        }
        out
    }
}

/// RFC 3339 as given, or so long ago.
fn instant(text: &str) -> Option<String> {
    if time::parse_rfc3339(text).is_some() {
        return Some(text.to_owned());
    }
    let ago = parse_duration(text)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    let then_ms = u64::try_from(now.saturating_sub(ago).as_millis()).ok()?;
    Some(time::rfc3339(then_ms))
}

fn path(names: &[&str], query: &Query) -> Result<String, CliError> {
    let (first, index) = target(names.first().copied().unwrap_or_default())?;
    let mut parameters = index.map_or_else(String::new, |index| format!("&replica={index}"));
    for name in &names[1..] {
        target(name)?;
    }
    if names.len() > 1 {
        let also: Vec<String> = names[1..].iter().map(|name| encode(name)).collect();
        parameters.push_str(&format!("&also={}", also.join(",")));
    }
    parameters.push_str(&query.parameters());
    Ok(format!("/v1/services/{}/logs?{}", encode(first), parameters.trim_start_matches('&')))
}

/// Prints a stream: each line as `render` makes it, or as it came. Lines that nobody could keep are told on stderr.
pub(super) fn stream(
    lines: &mut Lines,
    format: Format,
    what: &str,
    render: impl Fn(&str) -> Option<String>,
) -> Result<(), CliError> {
    let mut stdout = io::BufWriter::new(io::stdout().lock());
    let mut collected = Vec::new();
    while let Some(text) = lines.read_line()? {
        if let Some(missed) = lagged(&text) {
            message(&format!("mainstay: too slow to read, {missed} {what} are missing here"));
        }
        let shown = match format {
            Format::Table => render(&text),
            Format::Ndjson => Some(text),
            Format::Json => {
                collected.push(text);
                None
            }
        };
        if let Some(shown) = shown {
            writeln!(stdout, "{shown}").map_err(CliError::Output)?;
        }
        // Who follows wants to see a line when it comes, not when a buffer is full.
        if !lines.has_more() {
            stdout.flush().map_err(CliError::Output)?;
        }
    }
    if format == Format::Json {
        writeln!(stdout, "{{\"{what}\":[{}]}}", collected.join(",")).map_err(CliError::Output)?;
    }
    stdout.flush().map_err(CliError::Output)
}

fn lagged(text: &str) -> Option<u64> {
    let value: serde_json::Value = text.contains("\"lagged\"").then(|| serde_json::from_str(text).ok()).flatten()?;
    if value.get("type")? != "lagged" || value.get("line").is_some() {
        return None;
    }
    value.get("missed")?.as_u64()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query() -> Query {
        Query { tail: Some(5), since: None, follow: true }
    }

    #[test]
    fn one_request_names_every_service() {
        assert_eq!(path(&["api"], &query()).unwrap(), "/v1/services/api/logs?tail=5&follow=1");
        assert_eq!(
            path(&["api/1", "db", "web/0"], &query()).unwrap(),
            "/v1/services/api/logs?replica=1&also=db,web/0&tail=5&follow=1"
        );
        assert!(path(&["api", "db/x"], &query()).is_err());
    }

    #[test]
    fn since_is_an_instant_or_a_time_ago() {
        assert_eq!(instant("2026-11-22T08:00:00+01:00").unwrap(), "2026-11-22T08:00:00+01:00");
        assert!(time::parse_rfc3339(&instant("10m").unwrap()).is_some());
        assert_eq!(instant("yesterday"), None);
    }

    #[test]
    fn a_gap_is_recognised_but_not_in_the_text_of_a_service() {
        assert_eq!(lagged("{\"type\":\"lagged\",\"missed\":7}"), Some(7));
        assert_eq!(lagged("{\"at\":\"x\",\"line\":\"\\\"lagged\\\"\",\"type\":\"lagged\",\"missed\":7}"), None);
        assert_eq!(lagged("{\"line\":\"\\\"lagged\\\"\"}"), None);
    }
}
