//! `mainstay why NAME`: the chain of causes, the present state, and what happens next; of a service, or of a check of the host.

use super::args::{Format, Invocation};
use super::exit::{CliError, Exit};
use super::output::{self, Look, clean, human_ms};
use super::status::line;
use super::{ask, checks, fences};
use crate::api::checks::Checks;
use crate::api::client::{self, ANSWER_TIMEOUT, Access, Client};
use crate::api::proto::{Event, ReplicaStory, Story, Why};
use crate::api::route::encode;

/// Entries of the journal that are looked through for those about a check, and that are shown of it.
const EVENTS_READ: usize = 2_000;
const EVENTS_SHOWN: usize = 10;

pub(super) fn run(invocation: &Invocation) -> Result<Exit, CliError> {
    let format = invocation.format()?;
    let name = invocation.names()?.first().copied().unwrap_or_default();
    let client = ask::agent(invocation, Access::Read)?;
    let body = match of_service(&client, name) {
        Ok(body) => body,
        // It may be a check; if it is not, what was wrong with the service is the answer.
        Err(error) if matches!(error.exit(), Exit::UnknownName | Exit::Usage) => {
            return of_check(&client, name, format)?.ok_or(error);
        }
        Err(error) => return Err(error),
    };
    match format {
        Format::Json => output::print(&String::from_utf8_lossy(&body))?,
        Format::Ndjson => output::print(&line(&client::parse::<Why>(&body)?.story)?)?,
        Format::Table => {
            let why: Why = client::parse(&body)?;
            output::print(&tell(&why.story, 0, &Look::stdout()))?;
        }
    }
    Ok(Exit::Well)
}

fn of_service(client: &Client, name: &str) -> Result<Vec<u8>, CliError> {
    let name = super::args::target(name)?.0;
    Ok(client.get(&format!("/v1/services/{}/why", encode(name)))?)
}

/// `None`: there is no such check either.
fn of_check(client: &Client, name: &str, format: Format) -> Result<Option<Exit>, CliError> {
    // An older agent knows none.
    let Ok(all) = client.get_json::<Checks>("/v1/checks") else { return Ok(None) };
    let Some(check) = checks::find(&all.checks, name) else { return Ok(None) };
    match format {
        Format::Json | Format::Ndjson => output::print(&line(check)?)?,
        // The journal is not for everybody, and the rest is worth showing without it.
        Format::Table => {
            let events = events_of(client, &check.name).unwrap_or_default();
            output::print(&checks::story(check, &events, &Look::stdout()))?;
        }
    }
    Ok(Some(Exit::Well))
}

/// The latest that happened to a check, oldest first.
fn events_of(client: &Client, name: &str) -> Result<Vec<String>, CliError> {
    let mut lines = client.lines(&format!("/v1/events?tail={EVENTS_READ}"), Some(ANSWER_TIMEOUT))?;
    let about = format!("check {name}: ");
    let mut found = Vec::new();
    while let Some(text) = lines.read_line()? {
        let Ok(event) = serde_json::from_str::<Event>(&text) else { continue };
        if let Some(text) = event.text.strip_prefix(&about) {
            found.push(format!("{:24}  {text}", event.at));
        }
    }
    Ok(found.split_off(found.len().saturating_sub(EVENTS_SHOWN)))
}

fn tell(story: &Story, depth: usize, look: &Look) -> String {
    let indent = "  ".repeat(depth);
    let state = look.paint(&story.state, &story.state);
    let wanted = if story.wanted { "" } else { " (not wanted)" };
    let why = story.why.as_ref().map_or_else(String::new, |why| format!(": {}", clean(why)));
    let mut out = format!("{indent}{} is {state}{wanted}{why}\n", story.service);
    for replica in &story.replicas {
        tell_replica(&mut out, replica, story, &indent, look);
    }
    for blocker in &story.blocked_by {
        out.push_str(&format!("{indent}  held back by:\n"));
        out.push_str(&tell(blocker, depth + 2, look));
    }
    out
}

fn tell_replica(out: &mut String, replica: &ReplicaStory, story: &Story, indent: &str, look: &Look) {
    let (several, service) = (story.replicas.len() > 1, story.service.as_str());
    if several {
        out.push_str(&format!("{indent}  replica {}\n", replica.replica));
    }
    for link in &replica.chain {
        out.push_str(&format!("{indent}  {:24}  {}\n", link.at, clean(&link.text)));
    }
    let state = look.paint(&replica.state, &replica.state);
    let why = replica.why.as_ref().map_or_else(String::new, |why| format!(": {}", clean(why)));
    out.push_str(&format!("{indent}  {:24}  {state} for {}{why}\n", "now", human_ms(replica.since_ms)));
    if let Some(fence) = &replica.fence {
        let name = if several { format!("{service}/{}", replica.replica) } else { service.to_owned() };
        out.push_str(&format!("{indent}  {:24}  {}\n", format!("fence {}", fence.id), fences::sentence(&name, fence)));
    }
    if let Some(next) = &replica.next {
        out.push_str(&format!("{indent}  {:24}  {} (in {})\n", next.at, clean(&next.what), human_ms(next.in_ms)));
    }
    if !replica.last_lines.is_empty() && replica.state != "ready" {
        out.push_str(&format!("{indent}  last output of the run that ended:\n"));
        for text in &replica.last_lines {
            out.push_str(&format!("{indent}    | {}\n", clean(text)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::proto::{Link, NextStep};

    fn replica(state: &'static str) -> ReplicaStory {
        ReplicaStory {
            replica: 0,
            state: state.into(),
            since_ms: 12_345,
            why: None,
            chain: Vec::new(),
            next: None,
            fence: None,
            last_lines: Vec::new(),
        }
    }

    #[test]
    fn the_chain_is_told_down_to_the_first_cause() {
        let link = |at: &str, text: &str| Link { at: at.to_owned(), text: text.to_owned() };
        let db = ReplicaStory {
            why: Some("exited with code 1".to_owned()),
            chain: vec![
                link("2026-11-22T08:00:00Z", "started as pid 4711"),
                link("2026-11-22T08:00:01.5Z", "exited with code 1 after 1.5s"),
            ],
            next: Some(NextStep {
                what: "restart 3 of 10".to_owned(),
                at: "2026-11-22T08:00:10Z".to_owned(),
                in_ms: 800,
            }),
            last_lines: vec!["no space left on \x1b[31mdevice".to_owned()],
            ..replica("backoff")
        };
        let story = |service: &str, state: &'static str, replica, blocked_by| Story {
            service: service.to_owned(),
            state: state.into(),
            wanted: true,
            impaired: None,
            why: None,
            replicas: vec![replica],
            blocked_by,
        };
        let blocker = story("db", "backoff", db, Vec::new());
        let told = tell(&story("api", "waiting", replica("waiting"), vec![blocker]), 0, &Look::plain());
        expect_test::expect![[r#"
            api is waiting
              now                       waiting for 12s
              held back by:
                db is backoff
                  2026-11-22T08:00:00Z      started as pid 4711
                  2026-11-22T08:00:01.5Z    exited with code 1 after 1.5s
                  now                       backoff for 12s: exited with code 1
                  2026-11-22T08:00:10Z      restart 3 of 10 (in 800ms)
                  last output of the run that ended:
                    | no space left on  [31mdevice
        "#]]
        .assert_eq(&told);
    }
}
