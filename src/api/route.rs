//! Which request a head and a body mean, and who may make it: paths, methods, queries, bodies. Pure.

mod copies;
mod fence;

use serde::Deserialize;

use super::error::{ApiError, Code};
use super::http::Head;
use super::time;
use crate::engine::copies::order::Job;
use crate::engine::copies::restore_service::RestoreAsked;
use crate::engine::event::{Verb, Wait};

pub use fence::WHY_BYTES_MAX;

/// Services that one request for logs may name.
pub const LOG_TARGETS_MAX: usize = 64;
/// Lines or entries that `tail` may ask for.
pub const TAIL_MAX: u64 = 1_000_000;

/// The two sockets, which are the two levels of rights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Socket {
    /// `mainstay.sock`: everything.
    Admin,
    /// `read.sock`: see [`Request::is_public`].
    Read,
}

/// Everything that can be asked.
#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    Index,
    Services { roles: Roles },
    Service { name: String },
    Why { name: String },
    Logs { targets: Vec<LogTarget>, tail: Option<u64>, since_unix_ms: Option<u64>, follow: bool },
    Events { since: EventsSince, tail: Option<u64>, follow: bool },
    Config,
    Reload { dry_run: bool },
    Verb { service: String, replica: Option<u16>, verb: Verb, wait: Wait, why: Option<String> },
    Fences,
    FenceRecord { id: u64 },
    Copies,
    CopySet { name: String },
    CopyVerb { set: String, job: Job, wait: Wait },
    RestoreService { service: String, asked: RestoreAsked },
    Balancers,
    Checks,
    Host,
    Metrics,
    Healthz,
    Readyz,
}

/// Whether the agent's own processes are listed beside the services.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Roles {
    Hidden,
    Shown,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogTarget {
    pub service: String,
    /// `None`: every replica.
    pub replica: Option<u16>,
}

/// Where a listing of events begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventsSince {
    Beginning,
    /// Entries with a greater number.
    Seq(u64),
    /// Entries not older.
    UnixMs(u64),
}

impl Request {
    /// Whether `read.sock`, which every user of the host can open, answers it.
    #[must_use]
    pub fn is_public(&self) -> bool {
        match self {
            Self::Services { .. }
            | Self::Service { .. }
            | Self::Why { .. }
            | Self::Balancers
            | Self::Checks
            | Self::Copies
            | Self::CopySet { .. }
            | Self::Fences
            | Self::FenceRecord { .. }
            | Self::Host
            | Self::Metrics => true,
            // What services say may hold anything, and on disk it is not for everybody either.
            Self::Logs { .. }
            | Self::Index
            | Self::Events { .. }
            | Self::Config
            | Self::Reload { .. }
            | Self::Verb { .. }
            | Self::CopyVerb { .. }
            | Self::RestoreService { .. }
            | Self::Healthz
            | Self::Readyz => false,
        }
    }
}

/// The links that `GET /v1` lists.
pub const LINKS: [&str; 11] = [
    "/v1/host",
    "/v1/services",
    "/v1/balancers",
    "/v1/checks",
    "/v1/copies",
    "/v1/fences",
    "/v1/events",
    "/v1/config",
    "/metrics",
    "/healthz",
    "/readyz",
];

/// The request that arrived on `socket`.
///
/// # Errors
/// What is wrong with it or why this socket does not answer it.
pub fn route(head: &Head, body: &[u8], socket: Socket) -> Result<Request, ApiError> {
    let (path, query) = head.target.split_once('?').unwrap_or((&head.target, ""));
    let path = decode(path)?;
    let mut query = Query::parse(query)?;
    if socket == Socket::Read && head.method != "GET" {
        return Err(read_only());
    }
    let request = find(head, &path, &mut query, body)?;
    query.finish()?;
    if socket == Socket::Read && !request.is_public() {
        return Err(read_only());
    }
    Ok(request)
}

fn read_only() -> ApiError {
    ApiError::new(
        Code::SocketReadOnly,
        "read.sock answers GET of services, checks, balancers, copies, fences, host and metrics only",
    )
    .hint("use mainstay.sock as root or as a member of the admin group")
}

fn find(head: &Head, path: &str, query: &mut Query, body: &[u8]) -> Result<Request, ApiError> {
    let segments: Vec<&str> = path.split('/').skip(1).collect();
    match segments.as_slice() {
        ["v1"] | ["v1", ""] => get(head, Request::Index),
        ["metrics"] => get(head, Request::Metrics),
        ["healthz"] => get(head, Request::Healthz),
        ["readyz"] => get(head, Request::Readyz),
        ["v1", "services"] => {
            let roles = if query.flag("roles")? { Roles::Shown } else { Roles::Hidden };
            get(head, Request::Services { roles })
        }
        ["v1", "services", name] if !name.is_empty() => get(head, Request::Service { name: (*name).to_owned() }),
        ["v1", "services", name, "why"] => get(head, Request::Why { name: (*name).to_owned() }),
        ["v1", "services", name, "logs"] => logs(head, name, query),
        ["v1", "services", name, "restore"] if !name.is_empty() => copies::service(head, name, body),
        ["v1", "services", name, verb] => self::verb(head, name, None, verb, body),
        ["v1", "services", name, "replicas", index, verb] => {
            let index = index.parse().map_err(|_| invalid(format!("\"{index}\" is no replica number")))?;
            self::verb(head, name, Some(index), verb, body)
        }
        ["v1", "balancers"] => get(head, Request::Balancers),
        ["v1", "checks"] => get(head, Request::Checks),
        ["v1", "copies"] => get(head, Request::Copies),
        ["v1", "copies", name] if !name.is_empty() => get(head, Request::CopySet { name: (*name).to_owned() }),
        ["v1", "copies", name, verb] => copies::verb(head, name, verb, body),
        ["v1", "fences"] => get(head, Request::Fences),
        ["v1", "fences", "records", id] => fence::record(head, id),
        ["v1", "fences", name] => fence::set(head, name, None, body),
        ["v1", "fences", name, "replicas", index] => fence::set(head, name, Some(index), body),
        ["v1", "host"] => get(head, Request::Host),
        ["v1", "events"] => events(head, query),
        ["v1", "config"] => get(head, Request::Config),
        ["v1", "config", "reload"] => {
            let dry_run = query.flag("dry_run")?;
            post(head)?;
            Ok(Request::Reload { dry_run })
        }
        _ => Err(unknown_path(path)),
    }
}

fn unknown_path(path: &str) -> ApiError {
    let shown: String = path.chars().take(80).collect();
    ApiError::new(Code::PathUnknown, format!("no path {shown:?}")).hint("GET /v1 lists the paths")
}

fn invalid(message: impl Into<String>) -> ApiError {
    ApiError::new(Code::RequestInvalid, message)
}

fn get(head: &Head, request: Request) -> Result<Request, ApiError> {
    if head.method == "GET" { Ok(request) } else { Err(wrong_method(head, "GET")) }
}

fn post(head: &Head) -> Result<(), ApiError> {
    if head.method != "POST" {
        return Err(wrong_method(head, "POST"));
    }
    if head.json {
        return Ok(());
    }
    Err(invalid("a POST needs Content-Type: application/json"))
}

fn wrong_method(head: &Head, allow: &'static str) -> ApiError {
    let mut error = ApiError::new(Code::MethodNotAllowed, format!("{} is not allowed here, only {allow}", head.method));
    error.allow = Some(allow);
    error
}

fn logs(head: &Head, name: &str, query: &mut Query) -> Result<Request, ApiError> {
    let mut targets = vec![LogTarget { service: name.to_owned(), replica: query.number("replica")? }];
    if let Some(also) = query.take("also") {
        for item in also.split(',').filter(|item| !item.is_empty()) {
            targets.push(log_target(item)?);
        }
    }
    if targets.len() > LOG_TARGETS_MAX {
        return Err(invalid(format!("more than {LOG_TARGETS_MAX} services in one request for logs")));
    }
    let since_unix_ms = query.take("since").map(|text| instant(&text)).transpose()?;
    let request = Request::Logs { targets, tail: tail(query)?, since_unix_ms, follow: query.flag("follow")? };
    get(head, request)
}

fn log_target(text: &str) -> Result<LogTarget, ApiError> {
    let Some((service, index)) = text.split_once('/') else {
        return Ok(LogTarget { service: text.to_owned(), replica: None });
    };
    let index = index.parse().map_err(|_| invalid(format!("\"{index}\" is no replica number")))?;
    Ok(LogTarget { service: service.to_owned(), replica: Some(index) })
}

fn events(head: &Head, query: &mut Query) -> Result<Request, ApiError> {
    let since = match query.take("since") {
        None => EventsSince::Beginning,
        Some(text) => match text.parse() {
            Ok(seq) => EventsSince::Seq(seq),
            Err(_) => EventsSince::UnixMs(instant(&text)?),
        },
    };
    let request = Request::Events { since, tail: tail(query)?, follow: query.flag("follow")? };
    get(head, request)
}

fn instant(text: &str) -> Result<u64, ApiError> {
    time::parse_rfc3339(text).ok_or_else(|| {
        invalid(format!("since={text:?} is not understood")).hint("RFC 3339, such as 2026-11-22T08:00:00Z")
    })
}

fn tail(query: &mut Query) -> Result<Option<u64>, ApiError> {
    match query.number::<u64>("tail")? {
        Some(lines) if lines > TAIL_MAX => Err(invalid(format!("tail is above {TAIL_MAX}"))),
        lines => Ok(lines),
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct VerbBody {
    wait: Option<bool>,
    all_at_once: Option<bool>,
}

fn verb(head: &Head, service: &str, replica: Option<u16>, word: &str, body: &[u8]) -> Result<Request, ApiError> {
    if !["start", "stop", "restart", "drain", "undrain"].contains(&word) || service.is_empty() {
        return Err(unknown_path(&head.target));
    }
    post(head)?;
    let options: VerbBody = if body.iter().all(u8::is_ascii_whitespace) {
        VerbBody::default()
    } else {
        serde_json::from_slice(body).map_err(|error| {
            invalid(format!("the body is not understood: {error}"))
                .hint("{} or {\"wait\":false}; restart also knows all_at_once")
        })?
    };
    let verb = match (word, options.all_at_once) {
        ("restart", Some(true)) => Verb::RestartAtOnce,
        ("restart", Some(false) | None) => Verb::RestartRolling,
        (_, Some(_)) => return Err(invalid("all_at_once is for restart only")),
        ("start", None) => Verb::Start,
        ("drain", None) => Verb::Drain,
        ("undrain", None) => Verb::Undrain,
        (_, None) => Verb::Stop,
    };
    let wait = if options.wait.unwrap_or(true) { Wait::Outcome } else { Wait::Decision };
    Ok(Request::Verb { service: service.to_owned(), replica, verb, wait, why: None })
}

/// The parameters after `?`; what is left over in the end is an error.
struct Query(Vec<(String, String)>);

impl Query {
    fn parse(text: &str) -> Result<Self, ApiError> {
        let mut pairs: Vec<(String, String)> = Vec::new();
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, "1"));
            let (name, value) = (decode(name)?, decode(value)?);
            if pairs.iter().any(|(known, _)| *known == name) {
                return Err(invalid(format!("{name:?} is given twice")));
            }
            pairs.push((name, value));
        }
        Ok(Self(pairs))
    }

    fn take(&mut self, name: &str) -> Option<String> {
        let at = self.0.iter().position(|(known, _)| known == name)?;
        Some(self.0.swap_remove(at).1)
    }

    fn flag(&mut self, name: &str) -> Result<bool, ApiError> {
        match self.take(name).as_deref() {
            None | Some("0" | "false") => Ok(false),
            Some("1" | "true") => Ok(true),
            Some(other) => Err(invalid(format!("{name}={other:?} is neither 0 nor 1"))),
        }
    }

    fn number<N: std::str::FromStr>(&mut self, name: &str) -> Result<Option<N>, ApiError> {
        self.take(name)
            .map(|text| text.parse().map_err(|_| invalid(format!("{name}={text:?} is no number in range"))))
            .transpose()
    }

    fn finish(&self) -> Result<(), ApiError> {
        match self.0.first() {
            Some((name, _)) => Err(invalid(format!("the parameter {name:?} is not known here"))),
            None => Ok(()),
        }
    }
}

/// Replaces `%41`; `+` stays what it is, so that an RFC 3339 offset needs no care.
fn decode(text: &str) -> Result<String, ApiError> {
    if !text.contains('%') {
        return Ok(text.to_owned());
    }
    let bad = || invalid("the request target is not valid percent-encoded UTF-8");
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let digits = after.get(..2).and_then(|two| std::str::from_utf8(two).ok()).ok_or_else(bad)?;
        if !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(bad());
        }
        bytes.push(u8::from_str_radix(digits, 16).map_err(|_| bad())?);
        rest = &after[2..];
    }
    String::from_utf8(bytes).map_err(|_| bad())
}

/// The inverse of the decoding above, for the client: everything but unreserved characters, `/`, `:` and `@` is escaped.
#[must_use]
pub fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/:@,".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
#[path = "route_tests.rs"]
mod tests;
