//! `mainstay why NAME`: the chain of causes, the present state, and what happens next.

use super::args::{Format, Invocation};
use super::ask;
use super::exit::{CliError, Exit};
use super::output::{self, Look, clean, human_ms};
use super::status::line;
use crate::api::client::{self, Access};
use crate::api::proto::{ReplicaStory, Story, Why};
use crate::api::route::encode;

pub(super) fn run(invocation: &Invocation) -> Result<Exit, CliError> {
    let format = invocation.format()?;
    let name = invocation.names()?.first().copied().unwrap_or_default();
    let name = super::args::target(name)?.0;
    let body = ask::agent(invocation, Access::Read)?.get(&format!("/v1/services/{}/why", encode(name)))?;
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

fn tell(story: &Story, depth: usize, look: &Look) -> String {
    let indent = "  ".repeat(depth);
    let state = look.paint(&story.state, &story.state);
    let wanted = if story.wanted { "" } else { " (not wanted)" };
    let why = story.why.as_ref().map_or_else(String::new, |why| format!(": {}", clean(why)));
    let mut out = format!("{indent}{} is {state}{wanted}{why}\n", story.service);
    for replica in &story.replicas {
        tell_replica(&mut out, replica, story.replicas.len() > 1, &indent, look);
    }
    for blocker in &story.blocked_by {
        out.push_str(&format!("{indent}  held back by:\n"));
        out.push_str(&tell(blocker, depth + 2, look));
    }
    out
}

fn tell_replica(out: &mut String, replica: &ReplicaStory, several: bool, indent: &str, look: &Look) {
    if several {
        out.push_str(&format!("{indent}  replica {}\n", replica.replica));
    }
    for link in &replica.chain {
        out.push_str(&format!("{indent}  {:24}  {}\n", link.at, clean(&link.text)));
    }
    let state = look.paint(&replica.state, &replica.state);
    let why = replica.why.as_ref().map_or_else(String::new, |why| format!(": {}", clean(why)));
    out.push_str(&format!("{indent}  {:24}  {state} for {}{why}\n", "now", human_ms(replica.since_ms)));
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
