//! `check --explain`: the plan as it will be run, every default filled in. Values of variables are not shown: they are often secrets.

use std::fmt::{Display, Write};

mod balancer;
mod copies;
mod host;
mod isolation;

use super::values::{duration_text, share_text, size_text};
use crate::engine::balance::plan::BalancerPlan;
use crate::engine::plan::{
    AgentPlan, Alive, Backoff, Budget, BudgetSpent, CgroupPlan, Kind, Launch, Listen, Plan, Probe, ProcessPlan,
    Readiness, RestartPolicy, ServicePlan,
};
use crate::engine::types::signal_name;

/// The plan as text for people: one block for the agent, one for each service.
#[must_use]
pub fn explain(plan: &Plan) -> String {
    let mut out = Lines(String::new());
    agent(&plan.agent, &mut out);
    if let Some(user) = plan.agent.proxy_user.as_ref().filter(|_| plan.balancers.iter().any(BalancerPlan::has_table)) {
        out.line("proxy_user", format!("{} (uid {}, gid {})", user.name, user.uid, user.gid));
    }
    for service in &plan.services {
        out.0.push('\n');
        self::service(service, &mut out);
    }
    for balancer in &plan.balancers {
        out.0.push('\n');
        balancer::balancer(balancer, &mut out);
    }
    for check in &plan.checks {
        out.0.push('\n');
        host::check(check, &mut out);
    }
    for copy in &plan.copies {
        out.0.push('\n');
        copies::copies(copy, &mut out);
    }
    for alert in &plan.alerts {
        out.0.push('\n');
        host::alert(alert, &mut out);
    }
    out.0
}

struct Lines(String);

impl Lines {
    fn line(&mut self, key: &str, value: impl Display) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "  {key:<18} {value}");
    }

    fn list(&mut self, key: &str, values: &[String]) {
        if !values.is_empty() {
            self.line(key, values.join(", "));
        }
    }
}

fn agent(agent: &AgentPlan, out: &mut Lines) {
    out.0.push_str("agent\n");
    out.line("run_dir", agent.run_dir.display());
    out.line("state_dir", agent.state_dir.display());
    out.line("log_dir", agent.log_dir.display());
    match agent.admin_gid {
        Some(gid) => out.line("admin_group", format!("gid {gid}")),
        None => out.line("admin_group", "none: only the agent's own user and root give orders"),
    }
    match &agent.cgroup {
        CgroupPlan::Auto => out.line("cgroup", "Auto"),
        CgroupPlan::Path(path) => out.line("cgroup", path.display()),
        CgroupPlan::Off => out.line("cgroup", "Off"),
    }
    match agent.starting_max {
        Some(count) => out.line("starting_max", count),
        None => out.line("starting_max", "2 x CPUs"),
    }
    out.line("shutdown_timeout", duration_text(agent.shutdown_timeout));
    out.line("default_checks", if agent.default_checks { "true: of all this host has" } else { "false" });
    if let Some(watchdog) = &agent.watchdog {
        host::watchdog(watchdog, out);
    }
}

fn service(service: &ServicePlan, out: &mut Lines) {
    let kind = match service.kind {
        Kind::Daemon => "Daemon".to_owned(),
        Kind::Oneshot => "Oneshot: done when it exits with success".to_owned(),
        Kind::Every(period) => format!("Every {}", duration_text(period)),
    };
    // Writing to a String cannot fail.
    let _ = writeln!(out.0, "service {}", service.name);
    out.line("kind", kind);
    match service.launch {
        Launch::Command => out.line("command", words(&service.process.command)),
        Launch::Role(role) => out.line("role", role.service_name()),
    }
    out.line("replicas", service.replicas);
    match (service.port, service.port_of(service.replicas.saturating_sub(1))) {
        (Some(first), Some(last)) if last > first => out.line("ports", format!("{first} to {last}")),
        (Some(first), _) => out.line("port", first),
        (None, _) => {}
    }
    for (key, list) in [
        ("requires", &service.requires),
        ("wants", &service.wants),
        ("after", &service.after),
        ("restart_with", &service.restart_with),
    ] {
        out.list(key, list);
    }
    readiness(service, out);
    restarts(service, out);
    out.line(
        "stop",
        format!("{}, after {} SIGKILL", signal_name(service.stop.signal), duration_text(service.stop.timeout)),
    );
    process(&service.process, out);
    if let Some(needs) = &service.needs {
        host::needs(needs, out);
    }
    isolation::isolation(service, out);
    let rate = service.logs.lines_per_second.map_or("no limit of lines".to_owned(), |rate| format!("{rate} lines/s"));
    out.line(
        "logs",
        format!("files of {}, {} kept, {rate}", size_text(service.logs.max_size_bytes), service.logs.keep),
    );
}

fn readiness(service: &ServicePlan, out: &mut Lines) {
    if service.kind != Kind::Daemon {
        return out.line("start_timeout", duration_text(service.start_timeout));
    }
    let ready = match &service.ready {
        Readiness::Started => "Started: when exec succeeded".to_owned(),
        Readiness::Notify => "Notify: when it sends READY=1".to_owned(),
        Readiness::Fd(number) => format!("Fd: when it writes a newline to descriptor {number}"),
        Readiness::Probe(probe) => probe_text(probe),
        Readiness::Log(text) => format!("Log: when a line contains {text:?}"),
    };
    out.line("ready", format!("{ready}, within {}", duration_text(service.start_timeout)));
    if let Some(Alive { probe, every, timeout, fall, rise }) = service.alive.as_deref() {
        let (every, timeout) = (duration_text(*every), duration_text(*timeout));
        out.line("alive", format!("{} every {every}, timeout {timeout}, fall {fall}, rise {rise}", probe_text(probe)));
    }
    if let Some(every) = service.watchdog {
        out.line("watchdog", format!("WATCHDOG=1 at least every {}", duration_text(every)));
    }
}

fn restarts(service: &ServicePlan, out: &mut Lines) {
    let policy = match service.restart {
        RestartPolicy::Always => "Always",
        RestartPolicy::OnFailure => "OnFailure",
        RestartPolicy::Never => "Never",
    };
    let codes: Vec<String> = service.success_exit_codes.iter().map(ToString::to_string).collect();
    out.line("restart", format!("{policy}; success is exit code {}", codes.join(", ")));
    if service.restart == RestartPolicy::Never {
        return;
    }
    let Backoff { min, max, factor_permille, jitter_permille, reset_after } = service.backoff;
    out.line(
        "backoff",
        format!(
            "{} to {}, x {}.{:03}, jitter {}, forgotten after {} ready",
            duration_text(min),
            duration_text(max),
            factor_permille / 1_000,
            factor_permille % 1_000,
            share_text(jitter_permille),
            duration_text(reset_after)
        ),
    );
    match service.budget {
        None => out.line("budget", "None: never spent"),
        Some(Budget { restarts, within, hold, hold_max, then }) => {
            let then = match then {
                BudgetSpent::Retry => {
                    format!("one try after {}, doubling up to {}", duration_text(hold), duration_text(hold_max))
                }
                BudgetSpent::Stay => "it stays down".to_owned(),
            };
            out.line("budget", format!("{restarts} restarts within {}; when spent: {then}", duration_text(within)));
        }
    }
}

fn process(process: &ProcessPlan, out: &mut Lines) {
    match &process.user {
        Some(user) => {
            let groups: Vec<String> = user.groups.iter().map(ToString::to_string).collect();
            out.line(
                "user",
                format!("{} (uid {}, gid {}, groups {})", user.name, user.uid, user.gid, groups.join(" ")),
            );
        }
        None => out.line("user", "the agent's own"),
    }
    if let Some(cwd) = &process.cwd {
        out.line("cwd", cwd.display());
    }
    out.line("umask", format!("0o{:03o}", process.umask));
    if !process.env.is_empty() {
        let names: Vec<String> = process.env.keys().map(|name| format!("{name}=***")).collect();
        out.line("env", names.join(" "));
    }
    for (name, (soft, hard)) in &process.rlimits {
        let text = |limit: u64| if limit == u64::MAX { "unlimited".to_owned() } else { limit.to_string() };
        out.line(&format!("rlimits.{name}"), format!("soft {}, hard {}", text(*soft), text(*hard)));
    }
    for (key, value) in [("nice", process.nice), ("oom_score_adj", process.oom_score_adj)] {
        if value != 0 {
            out.line(key, value);
        }
    }
    if process.no_new_privileges {
        out.line("no_new_privileges", "true");
    }
    if let Some(capabilities) = &process.capabilities {
        let names: Vec<&str> =
            capabilities.iter().filter_map(|number| super::check::capability_name(*number)).collect();
        out.line("capabilities", if names.is_empty() { "none".to_owned() } else { names.join(" ") });
    }
    for listen in &process.listen {
        let (kind, text) = match listen {
            Listen::Tcp(text) => ("tcp", text),
            Listen::Udp(text) => ("udp", text),
            Listen::Unix(text) => ("unix", text),
        };
        out.line("listen", format!("{kind}:{text}"));
    }
}

fn probe_text(probe: &Probe) -> String {
    match probe {
        Probe::Tcp(address) => format!("Tcp: when {address} accepts"),
        Probe::Http(url) => format!("Http: when GET {url} answers 200 to 399"),
        Probe::Exec(command) => format!("Exec: when {} exits with 0", words(command)),
    }
}

/// A command so that its words can be told apart.
fn words(command: &[String]) -> String {
    let plain =
        |word: &String| !word.is_empty() && word.chars().all(|c| c.is_alphanumeric() || "/_.-:={}%+,@".contains(c));
    let quoted: Vec<String> =
        command.iter().map(|word| if plain(word) { word.clone() } else { format!("{word:?}") }).collect();
    quoted.join(" ")
}
