//! `mainstay events`: the journal.

use super::args::Invocation;
use super::ask;
use super::exit::{CliError, Exit};
use super::logs::{Query, stream};
use super::output::{Look, clean};
use crate::api::client::Access;
use crate::api::proto::Event;

const TAIL_DEFAULT: u64 = 50;
const TAIL_DEFAULT_FOLLOW: u64 = 10;

pub(super) fn run(invocation: &Invocation) -> Result<Exit, CliError> {
    let format = invocation.format()?;
    let query = Query::of(invocation, TAIL_DEFAULT, TAIL_DEFAULT_FOLLOW)?;
    let client = ask::agent(invocation, Access::Admin)?;
    let target = format!("/v1/events?{}", query.parameters().trim_start_matches('&'));
    let mut lines = client.lines(&target, query.each())?;
    let look = Look::stdout();
    stream(&mut lines, format, "events", |text| {
        let event: Event = serde_json::from_str(text).ok()?;
        Some(render(&event, &look))
    })?;
    Ok(Exit::Well)
}

/// `2026-11-22T08:00:00Z warn  api/2: exited with code 1`
pub(super) fn render(event: &Event, look: &Look) -> String {
    let object = match (&event.service, event.replica) {
        (Some(service), Some(replica)) => format!("{service}/{replica}: "),
        (Some(service), None) => format!("{service}: "),
        (None, _) => String::new(),
    };
    let by = event.caller.as_ref().map_or_else(String::new, |caller| {
        format!(" (uid {}, {}, pid {})", caller.uid, clean(&caller.comm), caller.pid)
    });
    let level = look.paint(&event.level, &format!("{:5}", event.level));
    format!("{:24} {level} {object}{}{by}", event.at, clean(&event.text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_one_line_with_its_object_first() {
        let text = r#"{"seq":7,"at":"2026-11-22T08:00:00Z","level":"warn","type":"ended","service":"api","replica":2,
            "text":"exited with code 1\nafter 3s","caller":{"uid":0,"pid":9,"comm":"mainstay"},"later":true}"#;
        let event: Event = serde_json::from_str(text).unwrap();
        assert_eq!(
            render(&event, &Look::plain()),
            "2026-11-22T08:00:00Z     warn  api/2: exited with code 1 after 3s (uid 0, mainstay, pid 9)"
        );
    }
}
