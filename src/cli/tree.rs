//! `mainstay tree`: what needs what, with states.

use std::collections::BTreeSet;

use super::args::{Format, Invocation};
use super::ask;
use super::exit::{CliError, Exit};
use super::output::{self, Look, clean};
use super::status::line;
use super::table::ROLES;
use crate::api::client::{self, Access};
use crate::api::proto::{Edge, Service, Services};

/// Deeper chains are cut; the agent refuses cycles, so this only bounds the width of the screen.
const DEPTH_MAX: usize = 16;

pub(super) fn run(invocation: &Invocation) -> Result<Exit, CliError> {
    let format = invocation.format()?;
    let target = if invocation.is_set(&ROLES) { "/v1/services?roles=1" } else { "/v1/services" };
    let body = ask::agent(invocation, Access::Read)?.get(target)?;
    let all: Services = client::parse(&body)?;
    match format {
        Format::Json => output::print(&String::from_utf8_lossy(&body))?,
        Format::Ndjson => {
            let lines: Result<String, CliError> = all.services.iter().map(line).collect();
            output::print(&lines?)?;
        }
        Format::Table => output::print(&draw(&all.services, &Look::stdout()))?,
    }
    Ok(Exit::Well)
}

fn draw(services: &[Service], look: &Look) -> String {
    let needed: BTreeSet<&str> =
        services.iter().flat_map(|one| one.edges.iter().map(|edge| edge.to.as_str())).collect();
    let mut tree = Tree { services, look, out: String::new(), shown: BTreeSet::new() };
    for root in services.iter().filter(|service| !needed.contains(service.name.as_str())) {
        tree.node(root, None, "", "");
    }
    tree.out
}

struct Tree<'a> {
    services: &'a [Service],
    look: &'a Look,
    out: String,
    /// Whose dependencies have been drawn.
    shown: BTreeSet<&'a str>,
}

impl<'a> Tree<'a> {
    fn node(&mut self, service: &'a Service, edge: Option<&Edge>, branch: &str, below: &str) {
        let state = self.look.paint(&service.state, &service.state);
        let kind = edge.map_or_else(String::new, |edge| format!(" ({})", edge.kind));
        let blocks = if edge.is_some_and(|edge| edge.blocking) {
            self.look.paint("fail", "  <-- blocks")
        } else {
            String::new()
        };
        let why = service.why.as_ref().map_or_else(String::new, |why| format!(": {}", clean(why)));
        let children = edges(service);
        let again = !children.is_empty() && !self.shown.insert(&service.name);
        let more = if again { "  (see above)" } else { "" };
        self.out.push_str(&format!("{branch}{} {state}{kind}{why}{blocks}{more}\n", service.name));
        if again || below.chars().count() / 3 >= DEPTH_MAX {
            return;
        }
        for (index, edge) in children.iter().enumerate() {
            let last = index + 1 == children.len();
            let (elbow, bar) = if last { ("`- ", "   ") } else { ("|- ", "|  ") };
            if let Some(child) = self.services.iter().find(|other| other.name == edge.to) {
                self.node(child, Some(edge), &format!("{below}{elbow}"), &format!("{below}{bar}"));
            }
        }
    }
}

/// One edge to each service: the first, unless a later one blocks.
fn edges(service: &Service) -> Vec<&Edge> {
    let mut kept: Vec<&Edge> = Vec::new();
    for edge in &service.edges {
        match kept.iter_mut().find(|other| other.to == edge.to) {
            Some(other) if edge.blocking && !other.blocking => *other = edge,
            Some(_) => {}
            None => kept.push(edge),
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(name: &str, state: &'static str, edges: &[(&str, bool)]) -> Service {
        let edges = edges.iter().map(|(to, blocking)| Edge {
            to: (*to).to_owned(),
            kind: "requires".into(),
            blocking: *blocking,
        });
        Service {
            name: name.to_owned(),
            state: state.into(),
            health: "ok".into(),
            wanted: true,
            impaired: None,
            why: None,
            kind: "daemon".into(),
            role: false,
            edges: edges.collect(),
            replicas: Vec::new(),
        }
    }

    #[test]
    fn the_blocking_edge_is_marked_and_shared_parts_are_drawn_once() {
        let services = [
            service("web", "waiting", &[("api", true), ("cache", false)]),
            service("api", "waiting", &[("db", true)]),
            service("db", "starting", &[("disk", false)]),
            service("cache", "ready", &[("db", false)]),
            service("disk", "done", &[]),
            service("cron", "ready", &[]),
        ];
        expect_test::expect![[r#"
            web waiting
            |- api waiting (requires)  <-- blocks
            |  `- db starting (requires)  <-- blocks
            |     `- disk done (requires)
            `- cache ready (requires)
               `- db starting (requires)  (see above)
            cron ready
        "#]]
        .assert_eq(&draw(&services, &Look::plain()));
    }
}
