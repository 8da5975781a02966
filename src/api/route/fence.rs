//! `/v1/fences/..`: POST sets a fence, DELETE lifts it.

use serde::Deserialize;

use super::super::error::{ApiError, Code};
use super::super::http::Head;
use super::{Request, invalid, post, unknown_path};
use crate::engine::event::{Verb, Wait};
use crate::engine::fence::plan::FenceLevel;

/// Of the reason that an operator gives: it goes into the journal and into every listing.
pub const WHY_BYTES_MAX: usize = 500;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct FenceBody {
    level: Option<String>,
    why: Option<String>,
    wait: Option<bool>,
}

/// The evidence of one fence.
pub(super) fn record(head: &Head, id: &str) -> Result<Request, ApiError> {
    let id = id.parse().map_err(|_| invalid(format!("\"{id}\" is no number of a record")))?;
    super::get(head, Request::FenceRecord { id })
}

/// Sets or lifts the fence of a service or of one replica.
pub(super) fn set(head: &Head, service: &str, index: Option<&str>, body: &[u8]) -> Result<Request, ApiError> {
    if service.is_empty() {
        return Err(unknown_path(&head.target));
    }
    let replica = index.map(|index| index.parse().map_err(|_| invalid(format!("\"{index}\" is no replica number"))));
    let replica = replica.transpose()?;
    let empty = body.iter().all(u8::is_ascii_whitespace);
    let lifts = head.method == "DELETE";
    // A web page cannot send DELETE without asking first, and is refused then; so a body alone needs its type.
    match (lifts, empty) {
        (true, true) => {}
        (true, false) if head.json => {}
        (true, false) => return Err(invalid("a DELETE with a body needs Content-Type: application/json")),
        (false, _) => post(head).map_err(|error| match error.code {
            Code::MethodNotAllowed => super::wrong_method(head, "POST, DELETE"),
            _ => error,
        })?,
    }
    let options: FenceBody = if empty { FenceBody::default() } else { read(body)? };
    let verb = match (lifts, options.level.as_deref()) {
        (true, None) => Verb::Unfence,
        (true, Some(_)) => return Err(invalid("level is for POST only: a DELETE lifts the fence")),
        (false, level) => Verb::Fence(level.map_or(Ok(FenceLevel::Hold), self::level)?),
    };
    let why = options.why.map(|why| reason(&why)).transpose()?.flatten();
    let wait = if options.wait.unwrap_or(true) { Wait::Outcome } else { Wait::Decision };
    Ok(Request::Verb { service: service.to_owned(), replica, verb, wait, why })
}

fn read(body: &[u8]) -> Result<FenceBody, ApiError> {
    serde_json::from_slice(body).map_err(|error| {
        invalid(format!("the body is not understood: {error}"))
            .hint("{\"level\":\"hold\",\"why\":\"a reason\",\"wait\":true}, each of which may be left out")
    })
}

fn level(word: &str) -> Result<FenceLevel, ApiError> {
    FenceLevel::ALL.into_iter().find(|level| level.word() == word).ok_or_else(|| {
        let words = FenceLevel::ALL.map(FenceLevel::word).join(", ");
        invalid(format!("there is no level {word:?}")).hint(format!("there are {words}"))
    })
}

/// One line; `None`: nothing is in it.
fn reason(text: &str) -> Result<Option<String>, ApiError> {
    let text = text.trim();
    if text.len() > WHY_BYTES_MAX {
        return Err(invalid(format!("why has more than {WHY_BYTES_MAX} bytes")));
    }
    if text.chars().any(char::is_control) {
        return Err(invalid("why must be one line without control characters"));
    }
    Ok((!text.is_empty()).then(|| text.to_owned()))
}
