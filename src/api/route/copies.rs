//! `/v1/copies/NAME/VERB`: what is to be done with a set, as a job.

use std::path::PathBuf;

use serde::Deserialize;

use super::super::error::ApiError;
use super::super::http::Head;
use super::{Request, invalid, post, unknown_path};
use crate::engine::copies::catalog::Cause;
use crate::engine::copies::order::{Job, Place, Restore, Which};
use crate::engine::copies::restore_service::RestoreAsked;
use crate::engine::event::Wait;

/// Paths of one restore, and copies of one prune.
const ITEMS_MAX: usize = 1_000;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Body {
    /// A number; of verify also `newest` and `all`.
    copy: Option<Chosen>,
    copies: Option<Vec<u64>>,
    paths: Vec<PathBuf>,
    into: Option<PathBuf>,
    replace: bool,
    dry_run: bool,
    force: bool,
    claim: bool,
    wait: Option<bool>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Chosen {
    Number(u64),
    Word(String),
}

/// A verb on a set. A prune without `copies` is of all that no rule keeps, which only the agent knows: its list is empty here.
pub(super) fn verb(head: &Head, set: &str, word: &str, body: &[u8]) -> Result<Request, ApiError> {
    const VERBS: [&str; 11] =
        ["run", "verify", "scrub", "restore", "test", "pin", "unpin", "prune", "accept", "init", "failback"];
    if set.is_empty() || !VERBS.contains(&word) {
        return Err(unknown_path(&head.target));
    }
    post(head)?;
    let body: Body = if body.iter().all(u8::is_ascii_whitespace) { Body::default() } else { read(body)? };
    let wait = if body.wait.unwrap_or(true) { Wait::Outcome } else { Wait::Decision };
    let job = job(word, body)?;
    Ok(Request::CopyVerb { set: set.to_owned(), job, wait })
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct ServiceBody {
    copy: Option<u64>,
    dry_run: bool,
    force: bool,
    wait: Option<bool>,
}

/// `/v1/services/NAME/restore`: its data from a copy, with the service down meanwhile.
pub(super) fn service(head: &Head, service: &str, body: &[u8]) -> Result<Request, ApiError> {
    post(head)?;
    let empty = body.iter().all(u8::is_ascii_whitespace);
    let read = || {
        serde_json::from_slice(body).map_err(|error| {
            invalid(format!("the body is not understood: {error}"))
                .hint("such as {\"copy\":12,\"dry_run\":false,\"force\":false,\"wait\":true}")
        })
    };
    let ServiceBody { copy, dry_run, force, wait } = if empty { ServiceBody::default() } else { read()? };
    let wait = if wait.unwrap_or(true) { Wait::Outcome } else { Wait::Decision };
    let asked = RestoreAsked { seq: copy, dry_run, force, wait };
    Ok(Request::RestoreService { service: service.to_owned(), asked })
}

fn read(body: &[u8]) -> Result<Body, ApiError> {
    serde_json::from_slice(body).map_err(|error| {
        invalid(format!("the body is not understood: {error}"))
            .hint("such as {\"copy\":12,\"paths\":[\"/etc/fstab\"],\"into\":\"/tmp/x\",\"wait\":true}")
    })
}

fn job(word: &str, body: Body) -> Result<Job, ApiError> {
    let strange = strange_keys(word, &body);
    if !strange.is_empty() {
        return Err(invalid(format!("{} has no meaning for {word}", strange.join(", "))));
    }
    let number = |chosen: Option<Chosen>| match chosen {
        Some(Chosen::Number(seq)) => Ok(seq),
        Some(Chosen::Word(word)) => Err(invalid(format!("{word:?} is no number of a copy"))),
        None => Err(invalid("which one: \"copy\" is missing").hint("GET /v1/copies/NAME lists them")),
    };
    Ok(match word {
        "run" => Job::Take { cause: Cause::ByHand },
        "verify" => Job::Verify { which: which(body.copy)? },
        "scrub" => Job::Scrub,
        "test" => Job::RestoreTest,
        "pin" => Job::Pin { seq: number(body.copy)?, pinned: true },
        "unpin" => Job::Pin { seq: number(body.copy)?, pinned: false },
        "accept" => Job::Accept { seq: number(body.copy)? },
        "prune" => Job::Prune { copies: few(body.copies.unwrap_or_default())? },
        "init" => Job::Init { claim: body.claim },
        "failback" => Job::Failback { dry_run: body.dry_run, force: body.force },
        _ => restore(body)?,
    })
}

fn few<T>(items: Vec<T>) -> Result<Vec<T>, ApiError> {
    if items.len() > ITEMS_MAX { Err(invalid(format!("more than {ITEMS_MAX} at once"))) } else { Ok(items) }
}

fn which(chosen: Option<Chosen>) -> Result<Which, ApiError> {
    match chosen {
        None => Ok(Which::Newest),
        Some(Chosen::Number(seq)) => Ok(Which::One(seq)),
        Some(Chosen::Word(word)) => match word.as_str() {
            "newest" => Ok(Which::Newest),
            "all" => Ok(Which::All),
            other => Err(invalid(format!("{other:?} is neither a number, nor newest, nor all"))),
        },
    }
}

fn restore(body: Body) -> Result<Job, ApiError> {
    let seq = match body.copy {
        None => None,
        Some(Chosen::Number(seq)) => Some(seq),
        Some(Chosen::Word(word)) => return Err(invalid(format!("{word:?} is no number of a copy"))),
    };
    let place = match (body.into, body.replace) {
        (Some(into), false) if into.is_absolute() => Place::Into(into),
        (Some(into), false) => return Err(invalid(format!("{} is not an absolute path", into.display()))),
        (None, true) => Place::Replace,
        (Some(_), true) => return Err(invalid("either \"into\" or \"replace\"")),
        (None, false) => {
            return Err(invalid("where to: \"into\" a directory, or \"replace\" what is there")
                .hint("nothing is overwritten unless it is said"));
        }
    };
    let paths = few(body.paths)?;
    if let Some(relative) = paths.iter().find(|path| !path.is_absolute()) {
        return Err(invalid(format!("{} is not an absolute path", relative.display()))
            .hint("paths are those that the files had when they were copied"));
    }
    Ok(Job::Restore(Box::new(Restore { seq, paths, place, dry_run: body.dry_run, force: body.force })))
}

/// Keys that were given and that the verb does not know.
fn strange_keys(word: &str, body: &Body) -> Vec<&'static str> {
    let is_restore = word == "restore";
    let takes_copy = is_restore || matches!(word, "verify" | "pin" | "unpin" | "accept");
    let given = [
        ("copy", body.copy.is_some(), takes_copy),
        ("copies", body.copies.is_some(), word == "prune"),
        ("paths", !body.paths.is_empty(), is_restore),
        ("into", body.into.is_some(), is_restore),
        ("replace", body.replace, is_restore),
        ("dry_run", body.dry_run, is_restore || word == "failback"),
        ("force", body.force, is_restore || word == "failback"),
        ("claim", body.claim, word == "init"),
    ];
    given.iter().filter(|(_, given, known)| *given && !known).map(|(key, _, _)| *key).collect()
}
