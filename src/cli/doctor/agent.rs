//! The agent as it answers: version, roles, and what it says it cannot promise.

use super::{Finding, fail, ok, warn};
use crate::api::client::{Access, Client};
use crate::api::proto::{Index, Services};
use crate::cli::args::Invocation;
use crate::cli::ask;
use crate::cli::exit::CliError;
use crate::engine::plan::Role;

pub(super) fn findings(invocation: &Invocation) -> Vec<Finding> {
    let client = match ask::agent(invocation, Access::Read) {
        Ok(client) => client,
        Err(error) => return vec![warn("agent", error.to_string(), "systemctl start mainstay, or mainstay run")],
    };
    let mut findings = index(&client);
    findings.extend(roles(&client));
    findings
}

fn unanswered(error: &CliError) -> Finding {
    fail(
        "agent",
        format!("it does not answer: {error}"),
        "look into its log; `systemctl restart mainstay` keeps the services running",
    )
}

fn index(client: &Client) -> Vec<Finding> {
    if client.is_read_only() {
        let text = format!("reachable at {}, as far as everybody may ask", client.path().display());
        return vec![warn(
            "agent",
            text,
            "run doctor as root or as a member of the admin group to see what it cannot promise",
        )];
    }
    let index: Index = match client.get_json("/v1") {
        Ok(index) => index,
        Err(error) => return vec![unanswered(&error.into())],
    };
    let own = env!("CARGO_PKG_VERSION");
    let text = format!("version {}, pid {}, since {}", index.version, index.pid, index.started_at);
    let mut findings = vec![if index.version == own {
        ok("agent", text)
    } else {
        warn("agent", format!("{text}; this program is {own}"), "systemctl restart mainstay: the services go on")
    }];
    findings.extend(
        index.limits.into_iter().map(|limit| warn("promise", limit, "see the lines above for what the host lacks")),
    );
    findings
}

fn roles(client: &Client) -> Vec<Finding> {
    let all: Services = match client.get_json("/v1/services?roles=1") {
        Ok(all) => all,
        Err(error) => return vec![unanswered(&error.into())],
    };
    let roles: Vec<_> = all.services.iter().filter(|service| service.role).collect();
    let proxy = roles.iter().find(|role| role.name == Role::Proxy.service_name());
    let proxy = proxy.map_or_else(Vec::new, |role| super::proxy::findings(role));
    let states = roles.iter().map(|role| {
        let text = format!("{} is {}", role.name, role.state);
        let why = role.why.as_ref().map_or_else(String::new, |why| format!(": {why}"));
        if role.health == "ok" {
            ok("role", text)
        } else {
            fail("role", format!("{text}{why}"), format!("mainstay why {}", role.name))
        }
    });
    states.chain(proxy).chain(super::isolation::refused(&all.services)).collect()
}
