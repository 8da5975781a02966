//! `mainstay status`: every service in a table, or some of them in detail.

use super::args::{Format, Invocation, target};
use super::exit::{CliError, Exit};
use super::output::{self, Look, age, clean, human_ms, size};
use super::table::ROLES;
use super::{ask, copies, fences};
use crate::api::client::{self, Access, Client, ClientError};
use crate::api::error::{Code, ErrorDetail};
use crate::api::proto::{LastExit, Replica, Service, ServiceDetail, Services};
use crate::api::render::nearest;
use crate::api::route::encode;
use crate::engine::types::signal_name;
use crate::logs::proto::LogLine;

/// Lines of output that the details show.
const LAST_LINES: u32 = 10;

pub(super) fn run(invocation: &Invocation) -> Result<Exit, CliError> {
    let format = invocation.format()?;
    let names = invocation.names()?;
    let client = ask::agent(invocation, Access::Read)?;
    let roles = invocation.is_set(&ROLES) || names.iter().any(|name| name.starts_with('@'));
    let body = client.get(if roles { "/v1/services?roles=1" } else { "/v1/services" })?;
    let mut all: Services = client::parse(&body)?;
    if !names.is_empty() {
        all.services = select(all.services, &names)?;
    }
    match format {
        Format::Json if names.is_empty() => output::print(&String::from_utf8_lossy(&body))?,
        Format::Json => output::print(&line(&all)?)?,
        Format::Ndjson => {
            let lines: Result<String, CliError> = all.services.iter().map(line).collect();
            output::print(&lines?)?;
        }
        Format::Table if names.is_empty() => output::print(&listing(&all.services, &Look::stdout()))?,
        Format::Table => details(&client, &all.services)?,
    }
    let verdict = verdict(&all.services, !names.is_empty());
    if !names.is_empty() {
        return Ok(verdict);
    }
    // Copies that have silently ceased are noticed where everybody looks.
    let copies = copies::not_well(&client);
    copies.iter().for_each(|text| output::message(text));
    Ok(if copies.is_empty() { verdict } else { Exit::NotWell })
}

/// One of our types as a line of JSON.
pub(super) fn line(value: &impl serde::Serialize) -> Result<String, CliError> {
    let mut text = serde_json::to_string(value).map_err(|error| CliError::Other(Box::new(error)))?;
    text.push('\n');
    Ok(text)
}

fn select(all: Vec<Service>, names: &[&str]) -> Result<Vec<Service>, CliError> {
    let mut chosen = Vec::new();
    for wanted in names {
        let (name, index) = target(wanted)?;
        let Some(service) = all.iter().find(|service| service.name == name) else {
            let near = nearest(name, all.iter().map(|service| service.name.as_str()));
            return Err(unknown(
                format!("no service \"{name}\""),
                near.map(|near| format!("did you mean \"{near}\"?")),
            ));
        };
        let mut service = service.clone();
        if let Some(index) = index {
            service.replicas.retain(|replica| replica.replica == index);
            if service.replicas.is_empty() {
                return Err(unknown(format!("service \"{name}\" has no replica {index}"), None));
            }
        }
        chosen.push(service);
    }
    Ok(chosen)
}

pub(super) fn unknown(message: String, hint: Option<String>) -> CliError {
    let detail = ErrorDetail { code: Code::ServiceUnknown.word().to_owned(), message, hint };
    CliError::Client(ClientError::Refused(detail))
}

/// Well when everything that is wanted is; a service that was asked for by name must also be up.
fn verdict(services: &[Service], named: bool) -> Exit {
    let well = |service: &Service| if service.wanted { service.health == "ok" } else { !named };
    if services.iter().all(well) { Exit::Well } else { Exit::NotWell }
}

/// The table of all services; one row a replica.
pub(super) fn listing(services: &[Service], look: &Look) -> String {
    let rows: Vec<Vec<String>> = services.iter().flat_map(rows_of).collect();
    let head = ["NAME", "STATE", "HEALTH", "SINCE", "RESTARTS", "PID", "CPU", "MEM", "WHY"];
    output::table(&head, &rows, &[1, 2], look)
}

fn rows_of(service: &Service) -> Vec<Vec<String>> {
    let several = service.replicas.len() > 1;
    let row = |replica: &Replica| {
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        let name = if several { format!("{}/{}", service.name, replica.replica) } else { service.name.clone() };
        vec![
            name,
            replica.state.to_string(),
            if replica.wanted { replica.health.to_string() } else { "-".to_owned() },
            age(replica.since_ms),
            replica.restarts.to_string(),
            or_dash(replica.pid.map(|pid| pid.to_string())),
            or_dash(replica.cpu_percent.map(|percent| format!("{percent:.1}%"))),
            or_dash(replica.memory_bytes.map(size)),
            why(service, replica),
        ]
    };
    service.replicas.iter().map(row).collect()
}

fn why(service: &Service, replica: &Replica) -> String {
    let mut parts = Vec::new();
    if replica.flapping {
        parts.push("flapping".to_owned());
    }
    if replica.pending_restart {
        parts.push("restart to apply the new configuration".to_owned());
    }
    parts.extend(replica.why.clone().or_else(|| service.why.clone()));
    if let Some(next) = &replica.next {
        parts.push(format!("{} in {}", next.what, human_ms(next.in_ms)));
    }
    parts.join("; ")
}

fn details(client: &Client, services: &[Service]) -> Result<(), CliError> {
    let look = Look::stdout();
    for (index, service) in services.iter().enumerate() {
        if index > 0 {
            output::print("\n")?;
        }
        let more: ServiceDetail = client.get_json(&format!("/v1/services/{}", encode(&service.name)))?;
        output::print(&describe(service, &more, &look))?;
        output::print(&last_lines(client, service)?)?;
    }
    Ok(())
}

fn describe(service: &Service, more: &ServiceDetail, look: &Look) -> String {
    let wanted = if service.wanted { "" } else { ", not wanted" };
    let state = look.paint(&service.state, &service.state);
    let health = look.paint(&service.health, &service.health);
    let mut out = format!("{}: {state}, health {health}{wanted}\n", service.name);
    let mut field = |name: &str, value: &str| out.push_str(&format!("  {name:9} {}\n", clean(value)));
    if let Some(why) = &service.why {
        field("why", why);
    }
    if service.kind != "daemon" {
        field("kind", &service.kind);
    }
    if !more.command.is_empty() {
        field("command", &more.command.join(" "));
    }
    if let Some(user) = &more.user {
        field("user", user);
    }
    if !more.listen.is_empty() {
        field("listen", &more.listen.join(", "));
    }
    if !service.edges.is_empty() {
        let edges = service.edges.iter().map(|edge| {
            let blocks = if edge.blocking { ", blocks" } else { "" };
            format!("{} ({}{blocks})", edge.to, edge.kind)
        });
        field("needs", &edges.collect::<Vec<_>>().join(", "));
    }
    for replica in &service.replicas {
        describe_replica(&mut out, service, replica, look);
    }
    out
}

fn describe_replica(out: &mut String, service: &Service, replica: &Replica, look: &Look) {
    let state = look.paint(&replica.state, &replica.state);
    out.push_str(&format!("  replica {}: {state} for {}", replica.replica, human_ms(replica.since_ms)));
    if let Some(pid) = replica.pid {
        out.push_str(&format!(", pid {pid}"));
    }
    out.push_str(&format!(", run {}, {} restarts", replica.run, replica.restarts));
    if let Some(port) = replica.port {
        out.push_str(&format!(", port {port}"));
    }
    out.push('\n');
    let mut line = |text: String| out.push_str(&format!("    {}\n", clean(&text)));
    match (replica.cpu_percent, replica.memory_bytes) {
        (Some(percent), Some(bytes)) => line(format!("uses {percent:.1}% of a CPU and {}B of memory", size(bytes))),
        (None, Some(bytes)) => line(format!("uses {}B of memory", size(bytes))),
        (Some(percent), None) => line(format!("uses {percent:.1}% of a CPU")),
        (None, None) => {}
    }
    if let Some(limits) = &replica.limits {
        if let Some(text) = fences::limits_text(limits) {
            line(format!("limits: {text}"));
        }
        for refused in &limits.refused {
            line(format!("not in force: {refused}"));
        }
    }
    if let Some(fence) = &replica.fence {
        let several = service.replicas.len() > 1;
        let name = if several { format!("{}/{}", service.name, replica.replica) } else { service.name.clone() };
        line(format!("fence {}: {}", fence.id, fences::sentence(&name, fence)));
    }
    if let Some(status) = &replica.status {
        line(format!("says: {status}"));
    }
    if let Some(last) = &replica.last_exit {
        line(format!("last exit: {} at {}", exit_text(last), last.at));
    }
    if replica.flapping {
        line("flapping: its state changes again and again".to_owned());
    }
    if replica.pending_restart {
        line("runs with an older configuration; restart to apply the new one".to_owned());
    }
    if let Some(why) = &replica.why {
        line(format!("why: {why}"));
    }
    if let Some(next) = &replica.next {
        line(format!("next: {} in {} ({})", next.what, human_ms(next.in_ms), next.at));
    }
}

fn exit_text(last: &LastExit) -> String {
    let mut text = match (last.code, last.signal) {
        (Some(code), _) => format!("code {code}"),
        (None, Some(signal)) => signal_name(signal),
        (None, None) => "unknown".to_owned(),
    };
    if last.core {
        text.push_str(", core dumped");
    }
    if last.oom {
        text.push_str(", out of memory");
    }
    text
}

fn last_lines(client: &Client, service: &Service) -> Result<String, CliError> {
    let target = format!("/v1/services/{}/logs?tail={LAST_LINES}", encode(&service.name));
    let mut lines = match client.lines(&target, Some(client::ANSWER_TIMEOUT)) {
        Ok(lines) => lines,
        // The state can be shown without the logs role.
        Err(error @ ClientError::Refused(_)) => return Ok(format!("  output: not available: {error}\n")),
        Err(error) => return Err(error.into()),
    };
    let mut out = String::new();
    let several = service.replicas.len() > 1;
    while let Some(text) = lines.read_line()? {
        let Ok(line) = serde_json::from_str::<LogLine>(&text) else { continue };
        let prefix = if several { format!("{}: ", line.replica) } else { String::new() };
        out.push_str(&format!("    {} {prefix}{}\n", line.at, clean(&line.line)));
    }
    Ok(if out.is_empty() { "  output: none\n".to_owned() } else { format!("  output:\n{out}") })
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
