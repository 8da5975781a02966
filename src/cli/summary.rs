//! Plain `mainstay`: one screen of 80 columns and 24 lines. The host, the services with what is wrong first, the last events.

use super::args::Invocation;
use super::exit::{CliError, Exit};
use super::output::{self, COLUMNS_DEFAULT, Look, cut};
use super::{ask, checks, copies, events, host, status};
use crate::api::balancers::{Balancer, Balancers};
use crate::api::checks::{Check, Checks};
use crate::api::client::{ANSWER_TIMEOUT, Access, Client};
use crate::api::proto::{Event, Service, Services};

const LINES: usize = 24;
const EVENTS: usize = 5;
/// Of what is wrong with the host.
const CHECKS: usize = 3;
/// Sets of copies that are not well.
const COPIES: usize = 2;

pub(super) fn run(invocation: &Invocation) -> Result<Exit, CliError> {
    let client = ask::agent(invocation, Access::Read)?;
    let all: Services = client.get_json("/v1/services")?;
    // The journal is not for everybody, and the rest is worth showing without it.
    let events = last_events(&client).unwrap_or_default();
    // An older agent knows none.
    let balancers = client.get_json("/v1/balancers").map_or_else(|_| Vec::new(), |all: Balancers| all.balancers);
    let checks = client.get_json("/v1/checks").map_or_else(|_| Vec::new(), |all: Checks| all.checks);
    let copies = copies::not_well(&client);
    let told =
        Told { services: all.services, balancers: &balancers, checks: &checks, copies: &copies, events: &events };
    output::print(&screen(&host::line(), told, &Look::stdout()))?;
    Ok(Exit::Well)
}

fn last_events(client: &Client) -> Result<Vec<Event>, CliError> {
    let mut lines = client.lines(&format!("/v1/events?tail={EVENTS}"), Some(ANSWER_TIMEOUT))?;
    let mut events = Vec::new();
    while let Some(text) = lines.read_line()? {
        events.extend(serde_json::from_str(&text));
    }
    Ok(events)
}

/// What the agent has told.
struct Told<'a> {
    services: Vec<Service>,
    balancers: &'a [Balancer],
    checks: &'a [Check],
    /// What is wrong with copies, one line each.
    copies: &'a [String],
    events: &'a [Event],
}

fn screen(host: &str, told: Told<'_>, look: &Look) -> String {
    let Told { mut services, balancers, checks, copies, events } = told;
    let columns = look.columns.unwrap_or(COLUMNS_DEFAULT).min(COLUMNS_DEFAULT);
    let look = Look { columns: Some(columns), ..*look };
    let well = services.iter().filter(|service| is_well(service)).count();
    let unwanted = services.iter().filter(|service| !service.wanted).count();
    let wrong = services.len() - well - unwanted;
    let mut out = format!("{}\n", cut(host, look.columns));
    let wrong_host = checks::summary(checks, CHECKS);
    let wrong_copies = &copies[..copies.len().min(COPIES)];
    for text in wrong_host.iter().map(|text| format!("host: {text}")).chain(wrong_copies.iter().cloned()) {
        out.push_str(&format!("{}\n", cut(&text, look.columns)));
    }
    let total = services.len();
    let counts = format!(
        "{total} services: {well} well, {wrong} not well, {unwanted} stopped{}{}",
        in_front(balancers),
        of_host(checks)
    );
    out.push_str(&format!("{}\n\n", cut(&counts, look.columns)));
    // Stable: otherwise in the order of the file.
    services.sort_by_key(|service| is_well(service) || !service.wanted);
    let mut rows = status::listing(&services, &look);
    // Host, counts, a blank, the head, a line for what is left out, a blank and the events.
    let room = LINES - 6 - 1 - EVENTS - wrong_host.len() - wrong_copies.len();
    let replicas = rows.lines().count().saturating_sub(1);
    if replicas > room {
        rows = rows.lines().take(room + 1).map(|line| format!("{line}\n")).collect();
        rows.push_str(&format!("... and {} more (mainstay status)\n", replicas - room));
    }
    out.push_str(&rows);
    if !events.is_empty() {
        out.push('\n');
    }
    for event in &events[events.len().saturating_sub(EVENTS)..] {
        let plain = Look { colour: false, ..look };
        out.push_str(&format!("{}\n", cut(&events::render(event, &plain), look.columns)));
    }
    out
}

/// The balancers, those that are not well by name.
fn in_front(balancers: &[Balancer]) -> String {
    let wrong: Vec<&str> =
        balancers.iter().filter(|balancer| !balancer.is_well()).map(|balancer| balancer.name.as_str()).collect();
    match (balancers.len(), wrong.is_empty()) {
        (0, _) => String::new(),
        (1, true) => "; 1 balancer well".to_owned(),
        (count, true) => format!("; {count} balancers well"),
        (_, false) => format!("; not well: balancer {}", wrong.join(", ")),
    }
}

/// What is wrong has lines of its own.
fn of_host(checks: &[Check]) -> String {
    match checks.iter().filter(|check| check.state == "ok").count() {
        _ if checks.iter().any(|check| !check.is_well()) => String::new(),
        0 => String::new(),
        count => format!("; {count} checks well"),
    }
}

fn is_well(service: &Service) -> bool {
    service.wanted && service.health == "ok"
}

#[cfg(test)]
#[path = "summary_tests.rs"]
mod tests;
