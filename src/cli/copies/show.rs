//! The tables: every set; the copies of one; what a prune would remove.

use super::super::args::{Format, Invocation};
use super::super::exit::{CliError, Exit};
use super::super::output::{self, Look, age, human_ms, size};
use super::super::status::line;
use super::verbs::{Place, ask};
use crate::api::client;
use crate::api::copies::{Copies, Copy, Detail, Running, Set};
use crate::api::route::encode;
use crate::api::time::parse_rfc3339;

const HEAD: [&str; 8] = ["SET", "STATE", "AGE", "COPIES", "SIZE", "VERIFIED", "NEXT", "WHY"];
const LIST_HEAD: [&str; 9] = ["COPY", "MADE", "STATE", "FILES", "SIZE", "WRITTEN", "VERIFIED", "CAUSE", "KEPT"];

pub(super) fn table(invocation: &Invocation) -> Result<Exit, CliError> {
    let (all, body): (Copies, Vec<u8>) = match ask(invocation)? {
        Place::Agent(client) => {
            let body = client.get("/v1/copies")?;
            (client::parse(&body)?, body)
        }
        Place::Here(offline) => {
            let all = offline.table();
            let body = line(&all)?.into_bytes();
            (all, body)
        }
    };
    match invocation.format()? {
        Format::Json => output::print(&String::from_utf8_lossy(&body))?,
        Format::Ndjson => {
            let lines: Result<String, CliError> = all.copies.iter().map(line).collect();
            output::print(&lines?)?;
        }
        Format::Table => output::print(&listing(&all.copies, &all.at, &Look::stdout()))?,
    }
    Ok(if all.copies.iter().all(Set::is_well) { Exit::Well } else { Exit::NotWell })
}

fn listing(sets: &[Set], now: &str, look: &Look) -> String {
    if sets.is_empty() {
        return "no copies: the configuration names none\n".to_owned();
    }
    let rows: Vec<Vec<String>> = sets.iter().map(|set| row(set, now)).collect();
    output::table(&HEAD, &rows, &[1], look)
}

fn row(set: &Set, now: &str) -> Vec<String> {
    vec![
        set.name.clone(),
        set.state.to_string(),
        set.age_ms.map_or_else(dash, age),
        set.count.to_string(),
        if set.newest.is_some() { size(set.bytes) } else { dash() },
        since(set.verified_at.as_deref(), now),
        match &set.running {
            Some(running) => format!("{} now", running.job),
            None => set.next_ms.map_or_else(dash, |ms| format!("in {}", age(ms))),
        },
        why(set),
    ]
}

fn why(set: &Set) -> String {
    let mut parts: Vec<String> = Vec::new();
    parts.extend(set.running.as_ref().map(progress_text));
    parts.extend(set.why.clone());
    if set.why.is_none() {
        parts.extend(set.target.why.clone());
    }
    parts.extend(set.failed_over.map(|copy| match set.failover {
        Some(_) => format!("a service runs from copy {copy}"),
        None => format!("what services once went on from (copy {copy}) lies in its live/"),
    }));
    if set.quarantined > 0 {
        parts.push(format!("{} files in quarantine", set.quarantined));
    }
    parts.extend(set.prune_frozen.as_ref().map(|why| format!("nothing is removed: {why}")));
    parts.join("; ")
}

/// How far a job is.
pub(super) fn progress_text(running: &Running) -> String {
    let of = |count: u64, all: Option<u64>, text: fn(u64) -> String| match all {
        Some(all) if all > 0 => format!("{} of {}", text(count), text(all)),
        Some(_) | None => text(count),
    };
    let files = of(running.files, running.files_in_all, |count| count.to_string());
    let bytes = of(running.bytes, running.bytes_in_all, size);
    format!("{} for {}: {}, {files} files, {bytes}", running.job, age(running.since_ms), running.phase)
}

fn dash() -> String {
    "-".to_owned()
}

fn since(at: Option<&str>, now: &str) -> String {
    let ms = at.and_then(|at| Some(parse_rfc3339(now)?.saturating_sub(parse_rfc3339(at)?)));
    ms.map_or_else(dash, |ms| format!("{} ago", age(ms)))
}

pub(super) fn list(invocation: &Invocation, set: &str) -> Result<Exit, CliError> {
    let detail = detail(invocation, set)?;
    match invocation.format()? {
        Format::Json => output::print(&line(&detail)?)?,
        Format::Ndjson => {
            let lines: Result<String, CliError> = detail.copies.iter().map(line).collect();
            output::print(&lines?)?;
        }
        Format::Table => output::print(&describe(&detail, &Look::stdout()))?,
    }
    Ok(if detail.set.is_well() { Exit::Well } else { Exit::NotWell })
}

fn detail(invocation: &Invocation, set: &str) -> Result<Detail, CliError> {
    match ask(invocation)? {
        Place::Agent(client) => Ok(client.get_json(&format!("/v1/copies/{}", encode(set)))?),
        Place::Here(offline) => offline.detail(set),
    }
}

fn describe(detail: &Detail, look: &Look) -> String {
    let set = &detail.set;
    let mut out = format!("{}: {}\n", set.name, look.paint(&set.state, &set.state));
    let mut field = |name: &str, text: &str| out.push_str(&format!("  {name:12} {}\n", output::clean(text)));
    field("from", &set.from.join(", "));
    field("to", &set.to);
    let target = &set.target;
    let free = if target.size_bytes > 0 {
        format!(", {} of {} free", size(target.free_bytes), size(target.size_bytes))
    } else {
        String::new()
    };
    let uuid = target.uuid.as_ref().map(|uuid| format!(", {uuid}")).unwrap_or_default();
    let because = target.why.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
    field("target", &format!("{}{uuid}{free}{because}", target.state));
    if let Some(at) = &set.good_as_of {
        field("good as of", &format!("{at} ({})", since(Some(at), &detail.at)));
    }
    if let Some(ms) = set.next_ms {
        field("next", &format!("in {}", human_ms(ms)));
    }
    if let Some(failure) = &set.failure {
        let remedy = failure.remedy.as_ref().map(|remedy| format!(" ({remedy})")).unwrap_or_default();
        field("failed", &format!("{} times: {}{remedy}", set.failures, failure.what));
    }
    let why = why(set);
    if !why.is_empty() {
        field("why", &why);
    }
    out.push('\n');
    out.push_str(&copies_table(&detail.copies, &detail.at, look));
    out
}

fn copies_table(copies: &[Copy], now: &str, look: &Look) -> String {
    if copies.is_empty() {
        return "no copy yet\n".to_owned();
    }
    let rows: Vec<Vec<String>> = copies.iter().rev().map(|copy| copy_row(copy, now)).collect();
    output::table(&LIST_HEAD, &rows, &[2], look)
}

fn copy_row(copy: &Copy, now: &str) -> Vec<String> {
    let verified = match (&copy.verified_at, copy.verified_cold) {
        (Some(_), false) => format!("{}, warm", since(copy.verified_at.as_deref(), now)),
        (_, _) => since(copy.verified_at.as_deref(), now),
    };
    vec![
        copy.copy.to_string(),
        copy.made_at.clone(),
        state(copy),
        copy.files.to_string(),
        size(copy.bytes),
        size(copy.written_bytes),
        verified,
        copy.cause.to_string(),
        if copy.kept.is_empty() { "goes with the next prune".to_owned() } else { copy.kept.join(" ") },
    ]
}

fn state(copy: &Copy) -> String {
    if copy.bad > 0 {
        return format!("bad: {} files", copy.bad);
    }
    match &copy.suspect {
        Some(suspect) if !copy.accepted => return format!("suspect: {suspect}"),
        Some(_) | None => {}
    }
    if copy.stale > 0 {
        return format!("partial: {} entries are older", copy.stale);
    }
    if copy.unstable > 0 {
        return format!("good, {} changed meanwhile", copy.unstable);
    }
    "good".to_owned()
}

pub(super) fn would_prune(invocation: &Invocation, set: &str) -> Result<Exit, CliError> {
    let mut detail = detail(invocation, set)?;
    detail.copies.retain(|copy| copy.kept.is_empty());
    match invocation.format()? {
        Format::Json => output::print(&line(&detail.copies)?)?,
        Format::Ndjson => {
            let lines: Result<String, CliError> = detail.copies.iter().map(line).collect();
            output::print(&lines?)?;
        }
        Format::Table if detail.copies.is_empty() => output::print("every copy is kept for a reason\n")?,
        Format::Table => output::print(&copies_table(&detail.copies, &detail.at, &Look::stdout()))?,
    }
    if let Some(why) = &detail.set.prune_frozen {
        output::message(&format!("nothing is removed at present: {why}"));
    }
    Ok(Exit::Well)
}
