//! From the parts of the files to a [`Plan`]. Every rule that is more than a type is here, one file a subject: `graph` what services
//! mean to each other, `balancers` what leads to them, `checks`, `needs` and `alerts` the watch over the host, `copies` the copies of data, `process` what a child becomes, `access` and `isolation` what it may use and how it is fenced, `probes` and `sockets` addresses, `policy` restarts and budgets, `words` the `{words}`.
//!
//! A rule that is broken is reported and some harmless value takes the place, so that the next rule can be looked at; the plan is
//! used only when nothing was wrong.

mod access;
mod agent;
mod alerts;
mod balancers;
mod checks;
mod copies;
mod env;
mod graph;
mod isolation;
mod needs;
mod policy;
mod probes;
mod process;
mod sockets;
mod words;

use std::path::{Path, PathBuf};

use super::Context;
use super::files::Gathered;
use super::parse;
use super::report::{Item, Report};
use super::schema::{self, Service};
use crate::engine::copies::plan::CopyPlan;
use crate::engine::plan::{
    AgentPlan, CgroupPlan, Kind, Launch, LogsPlan, Plan, ProcessPlan, Readiness, RestartPolicy, ServicePlan, Stop,
};
use crate::engine::types::signal_number;

pub use alerts::ALERTS_MAX;
pub use balancers::{BACKENDS_MAX, BALANCERS_MAX};
pub use checks::CHECKS_MAX;
pub(super) use checks::level_text;
pub(super) use isolation::rung_name;
pub(super) use process::capability_name;

/// Services in one configuration.
pub const SERVICES_MAX: usize = 10_000;
/// Replicas of one service, and of all services together.
pub const REPLICAS_MAX: u32 = 10_000;
/// The shortest period of a task.
const EVERY_MIN_MS: u64 = 100;
/// A log file smaller than this would be rotated all the time.
const LOG_BYTES_MIN: u64 = 4 << 10;
/// Rotated log files of one replica.
const LOG_KEEP_MAX: u32 = 1_000;
/// `sockaddr_un` holds 108 bytes with the closing zero.
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// A part that was read.
struct Given {
    item: Item,
    service: Service,
}

/// What the rules share.
struct Scope<'a> {
    context: &'a Context,
    report: &'a mut Report,
    run_dir: &'a Path,
    cgroup: &'a CgroupPlan,
}

/// Checks everything. The plan is good only if nothing in the report is an error.
pub(super) fn check(mut gathered: Gathered, context: &Context, report: &mut Report) -> Plan {
    let mut given = Vec::new();
    let mut incomplete = gathered.incomplete;
    for mut item in std::mem::take(&mut gathered.services) {
        match parse::read::<Service>(&mut item, report) {
            Some(service) => given.push(Given { item, service }),
            None => incomplete = true,
        }
    }
    incomplete |= given.iter().any(|given| given.item.is_broken("name"));
    if given.len() > SERVICES_MAX {
        let message = format!("{} services; this version is made for at most {SERVICES_MAX}", given.len());
        report.error(&given[SERVICES_MAX].item, "", message);
    }
    let names =
        if incomplete { None } else { Some(given.iter().map(|given| given.service.name.as_str()).collect::<Vec<_>>()) };
    let agent = agent::agent(gathered.agent, names.as_deref(), context, report);
    let mut scope = Scope { context, report, run_dir: &agent.run_dir, cgroup: &agent.cgroup };
    let mut services: Vec<ServicePlan> = given.iter().map(|given| service(given, &mut scope)).collect();
    graph::check(&given, &services, incomplete, &mut scope);
    let proxy_user = agent.proxy_user.as_ref();
    let balancers = balancers::check(gathered.balancers, &given, &mut services, incomplete, proxy_user, &mut scope);
    let checks = checks::check(gathered.checks, &mut scope);
    let alerts = alerts::check(gathered.alerts, &mut scope);
    let copies = copies::check(gathered.copies, names.as_deref(), &services, &mut scope);
    if given.is_empty() && balancers.is_empty() && copies.is_empty() && !incomplete && !scope.report.failed() {
        let nowhere = Item { source: 0, range: 0..0, prefix: "services".to_owned(), broken: Vec::new() };
        let watches = agent.default_checks || !checks.is_empty();
        let left = if watches { "the agent would only watch the host" } else { "the agent would have nothing to do" };
        scope.report.warning(&nowhere, "", format!("there are no services: {left}"));
    }
    Plan { agent, services, balancers, checks, alerts, copies, helper: None }
}

/// The agent's part alone.
pub(super) fn agent_only(gathered: Gathered, context: &Context, report: &mut Report) -> AgentPlan {
    agent::agent(gathered.agent, None, context, report)
}

/// The sets of copies alone.
pub(super) fn copies_only(mut gathered: Gathered, context: &Context, report: &mut Report) -> Vec<CopyPlan> {
    let items = std::mem::take(&mut gathered.copies);
    let agent = agent::agent(gathered.agent, None, context, report);
    let mut scope = Scope { context, report, run_dir: &agent.run_dir, cgroup: &agent.cgroup };
    copies::check(items, None, &[], &mut scope)
}

fn service(given: &Given, scope: &mut Scope<'_>) -> ServicePlan {
    let Given { item, service } = given;
    name(item, &service.name, scope);
    words::service(item, service, scope.report);
    let mut plan = ServicePlan {
        name: service.name.clone(),
        launch: Launch::Command,
        replicas: replicas(item, service, scope),
        port: service.port,
        kind: kind(item, service, scope),
        restart: match service.restart {
            schema::Restart::Always => RestartPolicy::Always,
            schema::Restart::OnFailure => RestartPolicy::OnFailure,
            schema::Restart::Never => RestartPolicy::Never,
        },
        success_exit_codes: policy::exit_codes(item, &service.success_exit_codes, scope),
        backoff: policy::backoff(item, service.backoff, scope),
        budget: policy::budget(item, service.budget, scope),
        requires: service.requires.clone(),
        wants: service.wants.clone(),
        after: service.after.clone(),
        restart_with: service.restart_with.clone(),
        ready: Readiness::Started,
        start_timeout: positive(item, "start_timeout", service.start_timeout, scope),
        alive: None,
        watchdog: service.watchdog.map(|every| positive(item, "watchdog", every, scope)),
        stop: stop(item, &service.stop, scope),
        process: ProcessPlan { cwd: service.cwd.as_ref().map(PathBuf::from), ..ProcessPlan::default() },
        logs: logs(item, service.logs, scope),
        needs: needs::needs(item, service, scope).map(Box::new),
        resources: isolation::resources(item, service, scope).map(Box::new),
        fence: None,
        priority: service.priority,
        min_healthy: isolation::min_healthy(item, service, scope),
    };
    let user = process::user(item, service, scope);
    plan.process = process::process(item, service, &plan, &user, scope);
    plan.ready = probes::ready(item, service, &plan, &user, scope);
    plan.alive = service.alive.as_ref().and_then(|alive| probes::alive(item, alive, &plan, &user, scope)).map(Box::new);
    plan.fence = isolation::fence(item, service, &plan, scope).map(Box::new);
    policy::lint(item, service, &plan, scope);
    plan
}

/// `[a-z0-9][a-z0-9_.-]{0,47}`: safe as a file name, a cgroup and a label.
fn well_named(item: &Item, name: &str, what: &str, example: &str, scope: &mut Scope<'_>) -> bool {
    if name.is_empty() {
        let missing = scope.report.error(item, "name", "the key `name` is missing or empty");
        missing.hint(format!("each {what} needs a name such as {example:?}"));
        return false;
    }
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let good = name.starts_with(fits) && name.chars().all(|c| fits(c) || matches!(c, '_' | '.' | '-'));
    if !good || name.len() > 48 {
        let message =
            format!("{name:?} cannot be a name: it starts with a-z or 0-9 and has at most 48 of a-z 0-9 _ . -");
        let lower = name.to_lowercase().replace([' ', '/', '@'], "-");
        let usable = lower.starts_with(fits)
            && lower.len() <= 48
            && lower.chars().all(|c| fits(c) || matches!(c, '_' | '.' | '-'));
        scope.report.error(item, "name", message).maybe_hint(usable.then(|| format!("write {lower:?}")));
    }
    good
}

fn name(item: &Item, name: &str, scope: &mut Scope<'_>) {
    let good = well_named(item, name, "service", "web", scope);
    let socket = scope.run_dir.join("svc").join(name).join("notify.65535").as_os_str().len();
    if good && socket > SOCKET_PATH_BYTES_MAX {
        let message = format!(
            "the sockets of {name:?} would have paths of {socket} bytes below {}; the kernel allows {SOCKET_PATH_BYTES_MAX}",
            scope.run_dir.display()
        );
        scope.report.error(item, "name", message).hint("choose a shorter `run_dir` or a shorter name");
    }
}

fn replicas(item: &Item, service: &Service, scope: &mut Scope<'_>) -> u16 {
    let message = match service.replicas {
        0 => "0 replicas: nothing would run".to_owned(),
        1..=REPLICAS_MAX => return u16::try_from(service.replicas).unwrap_or(1),
        more => format!("{more} replicas; at most {REPLICAS_MAX} are possible"),
    };
    let hint = (service.replicas == 0).then(|| "remove the service, or stop it with `mainstay stop`".to_owned());
    scope.report.error(item, "replicas", message).maybe_hint(hint);
    1
}

fn kind(item: &Item, service: &Service, scope: &mut Scope<'_>) -> Kind {
    let (kind, word) = match service.kind {
        schema::Kind::Daemon => return Kind::Daemon,
        schema::Kind::Oneshot => (Kind::Oneshot, "a Oneshot"),
        schema::Kind::Every(every) => {
            let min = std::time::Duration::from_millis(EVERY_MIN_MS);
            if every.0 < min {
                scope.report.error(item, "kind", format!("a period must be at least {EVERY_MIN_MS}ms"));
            }
            (Kind::Every(every.0.max(min)), "a task")
        }
    };
    let unused = [
        ("ready", service.ready != schema::Ready::Started),
        ("alive", service.alive.is_some()),
        ("watchdog", service.watchdog.is_some()),
    ];
    for (key, given) in unused {
        if given {
            let message = format!("`{key}` has no meaning here: {word} is done when it exits with success");
            scope.report.warning(item, key, message).hint("remove it, or use `kind: Daemon`");
        }
    }
    kind
}

fn stop(item: &Item, stop: &schema::Stop, scope: &mut Scope<'_>) -> Stop {
    let default = Stop::default();
    let signal = match signal_number(&stop.signal) {
        Some(signal) => signal,
        None => {
            let upper = stop.signal.to_uppercase();
            let guess = signal_number(&upper).map(|_| format!("did you mean {:?}?", upper.trim_start_matches("SIG")));
            let found = scope.report.error(item, "stop.signal", format!("there is no signal {:?}", stop.signal));
            found.maybe_hint(guess.or_else(|| Some("write a name such as \"TERM\", \"INT\" or \"QUIT\"".to_owned())));
            default.signal
        }
    };
    // CHLD, CONT, STOP, TSTP, TTIN, TTOU, URG and WINCH end no process by default; nginx uses WINCH, but to keep its master.
    if matches!(signal, 17..=23 | 28) {
        let message = format!("{} does not end a process", crate::engine::types::signal_name(signal));
        scope.report.warning(item, "stop.signal", message).hint("after `stop.timeout` it will be killed");
    }
    Stop { signal, timeout: stop.timeout.0 }
}

fn logs(item: &Item, logs: schema::Logs, scope: &mut Scope<'_>) -> LogsPlan {
    if logs.max_size.0 < LOG_BYTES_MIN {
        let message = format!("a log file must be allowed to grow to {LOG_BYTES_MIN} bytes at least");
        scope.report.error(item, "logs.max_size", message);
    }
    if logs.keep > LOG_KEEP_MAX {
        scope.report.error(item, "logs.keep", format!("at most {LOG_KEEP_MAX} rotated files are kept"));
    }
    if logs.lines_per_second == Some(0) {
        scope
            .report
            .error(item, "logs.lines_per_second", "0 lines a second would drop everything")
            .hint("None is no limit");
    }
    LogsPlan { max_size_bytes: logs.max_size.0, keep: logs.keep, lines_per_second: logs.lines_per_second }
}

/// A duration that must not be zero.
fn positive(item: &Item, path: &str, value: super::values::Dur, scope: &mut Scope<'_>) -> std::time::Duration {
    if value.0.is_zero() {
        let key = path.rsplit('.').next().unwrap_or(path);
        scope.report.error(item, path, format!("`{key}` must be longer than 0s"));
    }
    value.0
}

/// A text that will be handed to the kernel, where a zero byte would end it.
fn no_zero_byte(item: &Item, path: &str, text: &str, scope: &mut Scope<'_>) -> bool {
    let good = !text.contains('\0');
    if !good {
        scope.report.error(item, path, "a zero byte cannot stand here");
    }
    good
}
