//! The difference between two plans, and what of a plan a running process was made from.
//!
//! * Restart needed: what the process was given at its birth. All of it is in the hash that is remembered with each run.
//! * Live: everything else; it applies at once.

use serde::Serialize;

use super::action::{Change, Effect};
use super::balance::plan::{BalancerPlan, Destination, Rules};
use super::copies::plan::CopyPlan;
use super::fence::plan::Access;
use super::host::plan::{AlertPlan, CheckPlan};
use super::plan::{Kind, Launch, Needs, Plan, ProcessPlan, Readiness, Role, ServicePlan};
use std::collections::BTreeMap;
use std::time::Duration;

/// What a restart would change.
#[derive(PartialEq, Serialize)]
struct Spec<'a> {
    launch: Launch,
    kind: Kind,
    port: Option<u16>,
    process: &'a ProcessPlan,
    ready: ReadyChannel,
    watchdog: Option<Duration>,
}

/// The channels of readiness that a process is born with.
#[derive(PartialEq, Serialize)]
enum ReadyChannel {
    Notify,
    Fd(i32),
    Other,
}

fn spec(plan: &ServicePlan) -> Spec<'_> {
    let ready = match plan.ready {
        Readiness::Notify => ReadyChannel::Notify,
        Readiness::Fd(fd) => ReadyChannel::Fd(fd),
        Readiness::Started | Readiness::Probe(_) | Readiness::Log(_) => ReadyChannel::Other,
    };
    Spec {
        launch: plan.launch,
        kind: plan.kind,
        port: plan.port,
        process: &plan.process,
        ready,
        watchdog: plan.watchdog,
    }
}

/// FNV-1a (64 bit) over the JSON of what a restart would change: the same in every build.
pub(super) fn spec_hash(plan: &ServicePlan) -> u64 {
    // A plan is plain data with string keys: it always has a JSON form.
    let text = serde_json::to_string(&spec(plan)).unwrap_or_default();
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

pub(super) fn needs_restart(old: &ServicePlan, new: &ServicePlan) -> bool {
    spec(old) != spec(new)
}

/// Of the changes, those that an operator is told: the agent's own roles are nobody's change.
pub(super) fn told(mut changes: Vec<Change>) -> Vec<Change> {
    changes.retain(|change| !Role::is_service_name(&change.service));
    changes
}

/// One line a service and a balancer, in the order of the new plan; what leaves comes last.
pub(super) fn changes(old: &Plan, new: &Plan) -> Vec<Change> {
    let before: BTreeMap<&str, &ServicePlan> = old.services.iter().map(|plan| (plan.name.as_str(), plan)).collect();
    let after: BTreeMap<&str, &ServicePlan> = new.services.iter().map(|plan| (plan.name.as_str(), plan)).collect();
    let change = |plan: &ServicePlan, effect, why| Change { service: plan.name.clone(), effect, why };
    let mut list: Vec<Change> = new
        .services
        .iter()
        .map(|plan| match before.get(plan.name.as_str()) {
            None => change(plan, Effect::Start, "new".to_owned()),
            Some(old) => changed(old, plan),
        })
        .collect();
    let leaving = old.services.iter().filter(|plan| !after.contains_key(plan.name.as_str()));
    list.extend(leaving.map(|plan| change(plan, Effect::Stop, "no longer configured".to_owned())));
    list.extend(balancer_changes(&old.balancers, &new.balancers));
    list.extend(host_changes(old, new));
    list.extend(copy_changes(&old.copies, &new.copies));
    list
}

/// Balancers apply at once. (A `Shared` one is a socket of its service, which tells of it by itself.)
fn balancer_changes(old: &[BalancerPlan], new: &[BalancerPlan]) -> Vec<Change> {
    let change = |plan: &BalancerPlan, effect, why| Change { service: format!("balancer {}", plan.name), effect, why };
    let mut list: Vec<Change> = new
        .iter()
        .map(|plan| match old.iter().find(|old| old.name == plan.name) {
            None => change(plan, Effect::Start, "new".to_owned()),
            Some(old) => {
                let fields = balancer_fields(old, plan);
                let effect = if fields.is_empty() { Effect::Unchanged } else { Effect::Live };
                change(plan, effect, [fields.join(", "), awaits_restart(&fields, plan)].concat())
            }
        })
        .collect();
    let leaving = old.iter().filter(|old| new.iter().all(|plan| plan.name != old.name));
    list.extend(leaving.map(|plan| change(plan, Effect::Stop, "no longer configured".to_owned())));
    list
}

/// Sets of copies apply at once; what did not change is not told.
fn copy_changes(old: &[CopyPlan], new: &[CopyPlan]) -> Vec<Change> {
    let change =
        |plan: &CopyPlan, effect, why: String| Change { service: format!("copies {}", plan.name), effect, why };
    let mut list: Vec<Change> = Vec::new();
    for plan in new {
        match old.iter().find(|old| old.name == plan.name) {
            None => list.push(change(plan, Effect::Start, "new".to_owned())),
            Some(old) if old == plan => {}
            Some(old) => list.push(change(plan, Effect::Live, copy_fields(old, plan).join(", "))),
        }
    }
    let gone = old.iter().filter(|old| new.iter().all(|plan| plan.name != old.name));
    list.extend(gone.map(|plan| change(plan, Effect::Stop, "no longer configured; what was copied stays".to_owned())));
    list
}

fn copy_fields(old: &CopyPlan, new: &CopyPlan) -> Vec<&'static str> {
    differing(&[
        ("from", old.from != new.from),
        ("exclude", old.exclude != new.exclude),
        ("to", (&old.to, old.same_disk, &old.uuid) != (&new.to, new.same_disk, &new.uuid)),
        ("when", old.when != new.when),
        ("keep", old.keep != new.keep),
        ("quiesce", old.quiesce != new.quiesce),
        ("scrub_every", old.scrub_every != new.scrub_every),
        ("restore_test", old.restore_test != new.restore_test),
        ("max_age", old.max_age != new.max_age),
        ("max_shrink", old.max_shrink_permille != new.max_shrink_permille),
        ("bandwidth", old.bandwidth != new.bandwidth),
        ("space", old.space != new.space),
        ("read_back", old.read_back != new.read_back),
        ("on_source_failing", old.on_source_failing != new.on_source_failing),
        ("failover", old.failover != new.failover),
    ])
}

/// The watch over the host. All of it applies at once; what did not change is not told.
fn host_changes(old: &Plan, new: &Plan) -> Vec<Change> {
    let change = |service: String, effect, why: &str| Change { service, effect, why: why.to_owned() };
    let mut list: Vec<Change> = Vec::new();
    let fields = differing(&[
        ("default_checks", old.agent.default_checks != new.agent.default_checks),
        ("watchdog", old.agent.watchdog != new.agent.watchdog),
    ]);
    if !fields.is_empty() {
        list.push(change("agent".to_owned(), Effect::Live, &fields.join(", ")));
    }
    for plan in &new.checks {
        let name = format!("check {}", plan.name);
        match old.checks.iter().find(|old| old.name == plan.name) {
            None => list.push(change(name, Effect::Live, "new")),
            Some(old) if old == plan => {}
            Some(old) => list.push(change(name, Effect::Live, &check_fields(old, plan).join(", "))),
        }
    }
    let gone = old.checks.iter().filter(|old| new.checks.iter().all(|plan| plan.name != old.name));
    list.extend(gone.map(|plan| change(format!("check {}", plan.name), Effect::Live, "no longer configured")));
    let alert = |plan: &AlertPlan| format!("alert {}", plan.exec.first().map_or("", String::as_str));
    let new_alerts = new.alerts.iter().filter(|plan| !old.alerts.contains(plan));
    list.extend(new_alerts.map(|plan| change(alert(plan), Effect::Live, "new or changed")));
    let gone_alerts = old.alerts.iter().filter(|plan| !new.alerts.contains(plan));
    list.extend(gone_alerts.map(|plan| change(alert(plan), Effect::Live, "no longer so configured")));
    list
}

fn check_fields(old: &CheckPlan, new: &CheckPlan) -> Vec<&'static str> {
    differing(&[
        ("check", (old.kind, &old.target) != (new.kind, &new.target)),
        ("enabled", old.enabled != new.enabled),
        ("every", old.every != new.every),
        ("degraded", old.degraded != new.degraded),
        ("failing", old.failing != new.failing),
        ("fall", old.fall != new.fall),
        ("rise", old.rise != new.rise),
    ])
}

/// A process goes on listening where it was told to at its birth.
fn awaits_restart(fields: &[&str], plan: &BalancerPlan) -> String {
    match plan.service().filter(|_| fields.contains(&"socket") && !fields.contains(&"to")) {
        Some(service) => format!(" (the socket counts from the next run on: `mainstay restart {service}`)"),
        None => String::new(),
    }
}

fn balancer_fields(old: &BalancerPlan, new: &BalancerPlan) -> Vec<&'static str> {
    let parts = |plan: &BalancerPlan| match &plan.to {
        Destination::Service { name, socket, weights } => {
            (Some(name.clone()), socket.clone(), weights.clone(), Vec::new())
        }
        Destination::Backends(list) => (None, None, Vec::new(), list.clone()),
    };
    let (to, socket, weights, backends) = parts(old);
    let (new_to, new_socket, new_weights, new_backends) = parts(new);
    let (was, is) = (&old.rules, &new.rules);
    let fields = [
        ("listen", old.listen != new.listen),
        ("to", to != new_to),
        ("socket", socket != new_socket),
        ("weights", weights != new_weights),
        ("backends", backends != new_backends),
        ("delivery", old.delivery != new.delivery),
        ("algorithm", was.algorithm != is.algorithm),
        ("key", was.key != is.key),
        ("max_load", was.max_load_permille != is.max_load_permille),
        ("replay", was.replay != is.replay),
        ("none_left", was.none_left != is.none_left),
        ("drain_timeout", was.drain_timeout != is.drain_timeout),
        ("ramp", was.ramp != is.ramp),
        ("eject", was.eject != is.eject),
        ("send_proxy", was.send_proxy != is.send_proxy),
        ("accept_proxy_from", was.accept_proxy_from != is.accept_proxy_from),
        ("access_log", was.access_log != is.access_log),
    ];
    [differing(&fields), measure_fields(was, is)].concat()
}

fn measure_fields(was: &Rules, is: &Rules) -> Vec<&'static str> {
    let (old_times, new_times) = (was.timeouts, is.timeouts);
    let (old, new) = (was.limits, is.limits);
    differing(&[
        ("connect_timeout", old_times.connect != new_times.connect),
        ("idle_timeout", old_times.idle != new_times.idle),
        ("half_closed_timeout", old_times.half_closed != new_times.half_closed),
        ("first_bytes_timeout", old_times.first_bytes != new_times.first_bytes),
        ("max_connections", old.connections != new.connections),
        ("max_per_source", old.per_source != new.per_source),
        ("max_per_backend", old.per_backend != new.per_backend),
        ("max_queued", old.queued != new.queued),
        ("peek_bytes", old.peek_bytes != new.peek_bytes),
    ])
}

fn changed(old: &ServicePlan, new: &ServicePlan) -> Change {
    let (born, live) = (born_fields(old, new), live_fields(old, new));
    let mut why: Vec<String> = born.iter().chain(&live).map(|field| (*field).to_owned()).collect();
    if old.replicas != new.replicas {
        why.insert(0, format!("replicas {} -> {}", old.replicas, new.replicas));
    }
    let effect = if needs_restart(old, new) {
        Effect::Restart
    } else if new.replicas > old.replicas {
        Effect::Start
    } else if new.replicas < old.replicas {
        Effect::Stop
    } else if live.is_empty() {
        Effect::Unchanged
    } else {
        Effect::Live
    };
    Change { service: new.name.clone(), effect, why: why.join(", ") }
}

fn born_fields(old: &ServicePlan, new: &ServicePlan) -> Vec<&'static str> {
    let (was, is) = (&old.process, &new.process);
    let fields = [
        ("command", was.command != is.command || old.launch != new.launch),
        ("kind", old.kind != new.kind),
        ("port", old.port != new.port),
        ("user", was.user != is.user),
        ("cwd", was.cwd != is.cwd),
        ("umask", was.umask != is.umask),
        ("env", was.env != is.env),
        ("ready", spec(old).ready != spec(new).ready),
        ("watchdog", old.watchdog != new.watchdog),
        ("rlimits", was.rlimits != is.rlimits),
        ("oom_score_adj", was.oom_score_adj != is.oom_score_adj),
        ("nice", was.nice != is.nice),
        ("no_new_privileges", was.no_new_privileges != is.no_new_privileges),
        ("capabilities", was.capabilities != is.capabilities),
        ("listen", was.listen != is.listen),
        ("can_read", access(was).read != access(is).read),
        ("can_write", access(was).write != access(is).write),
    ];
    differing(&fields)
}

fn live_fields(old: &ServicePlan, new: &ServicePlan) -> Vec<&'static str> {
    let none = Needs::default();
    let (needs, new_needs) = (old.needs.as_deref().unwrap_or(&none), new.needs.as_deref().unwrap_or(&none));
    let fields = [
        ("restart", old.restart != new.restart),
        ("success_exit_codes", old.success_exit_codes != new.success_exit_codes),
        ("backoff", old.backoff != new.backoff),
        ("budget", old.budget != new.budget),
        ("requires", old.requires != new.requires),
        ("wants", old.wants != new.wants),
        ("after", old.after != new.after),
        ("restart_with", old.restart_with != new.restart_with),
        ("ready", old.ready != new.ready && spec(old).ready == spec(new).ready),
        ("start_timeout", old.start_timeout != new.start_timeout),
        ("alive", old.alive != new.alive),
        ("stop", old.stop != new.stop),
        ("logs", old.logs != new.logs),
        ("data", needs.data != new_needs.data),
        ("nics", needs.nics != new_needs.nics),
        ("on_disk_failing", needs.on_disk_failing != new_needs.on_disk_failing),
        ("resources", old.resources != new.resources),
        ("fence", old.fence != new.fence),
        ("priority", old.priority != new.priority),
        ("min_healthy", old.min_healthy != new.min_healthy),
    ];
    differing(&fields)
}

fn access(process: &ProcessPlan) -> Access {
    process.access.as_deref().cloned().unwrap_or_default()
}

fn differing(fields: &[(&'static str, bool)]) -> Vec<&'static str> {
    fields.iter().filter(|(_, differs)| *differs).map(|(name, _)| *name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::fence::plan::{Limits, Resources};
    use crate::engine::host::kind::CheckKind;

    fn plan(services: &[ServicePlan]) -> Plan {
        Plan { services: services.to_vec(), ..Plan::default() }
    }

    #[test]
    fn each_field_has_its_effect() {
        let base = ServicePlan::with_defaults("api", &["/bin/api"]);
        let effect = |change: &dyn Fn(&mut ServicePlan)| {
            let mut new = base.clone();
            change(&mut new);
            let hashes_differ = spec_hash(&new) != spec_hash(&base);
            let change = changes(&plan(std::slice::from_ref(&base)), &plan(&[new])).remove(0);
            assert_eq!(hashes_differ, change.effect == Effect::Restart, "{change:?}");
            (change.effect, change.why)
        };
        assert_eq!(effect(&|_| {}), (Effect::Unchanged, String::new()));
        assert_eq!(effect(&|new| new.process.nice = 5), (Effect::Restart, "nice".into()));
        assert_eq!(effect(&|new| new.ready = Readiness::Notify), (Effect::Restart, "ready".into()));
        assert_eq!(effect(&|new| new.ready = Readiness::Log("up".into())), (Effect::Live, "ready".into()));
        assert_eq!(effect(&|new| new.budget = None), (Effect::Live, "budget".into()));
        assert_eq!(effect(&|new| new.replicas = 3), (Effect::Start, "replicas 1 -> 3".into()));
        let needs = Needs { data: vec!["/srv".into()], ..Needs::default() };
        assert_eq!(effect(&|new| new.needs = Some(Box::new(needs.clone()))), (Effect::Live, "data".into()));
        let limits = Limits { pids_max: Some(8), ..Limits::default() };
        let resources = Resources { limits, required: false };
        let limited = effect(&|new| new.resources = Some(Box::new(resources.clone())));
        assert_eq!(limited, (Effect::Live, "resources".into()));
        assert_eq!(effect(&|new| new.min_healthy = 0), (Effect::Live, "min_healthy".into()));
        let access = Access { write: Some(vec!["/srv".into()]), ..Access::default() };
        let walled = effect(&|new| new.process.access = Some(Box::new(access.clone())));
        assert_eq!(walled, (Effect::Restart, "can_write".into()));
        let both = effect(&|new| {
            new.replicas = 2;
            new.process.umask = 0;
            new.stop.signal = 2;
        });
        assert_eq!(both, (Effect::Restart, "replicas 1 -> 2, umask, stop".into()));
    }

    #[test]
    fn what_changes_in_the_watch_over_the_host_restarts_nothing() {
        let check = |name: &str, every| CheckPlan {
            name: name.to_owned(),
            kind: CheckKind::Memory,
            target: None,
            enabled: true,
            every: Some(Duration::from_secs(every)),
            degraded: None,
            failing: None,
            fall: None,
            rise: None,
        };
        let alert = AlertPlan {
            exec: vec!["/bin/page".to_owned()],
            user: None,
            on: Vec::new(),
            at_most: 1,
            within: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            cwd: None,
        };
        let old = Plan { checks: vec![check("a", 1), check("b", 1), check("c", 1)], ..Plan::default() };
        let mut new =
            Plan { checks: vec![check("b", 1), check("c", 2), check("d", 1)], alerts: vec![alert], ..Plan::default() };
        new.agent.default_checks = true;
        let list = changes(&old, &new);
        assert!(list.iter().all(|change| change.effect == Effect::Live), "{list:?}");
        let told: Vec<String> = list.iter().map(|change| format!("{}: {}", change.service, change.why)).collect();
        let expected = [
            "agent: default_checks",
            "check c: every",
            "check d: new",
            "check a: no longer configured",
            "alert /bin/page: new or changed",
        ];
        assert_eq!(told, expected);
    }

    #[test]
    fn new_and_gone_services_are_listed() {
        let (api, db) = (ServicePlan::with_defaults("api", &["/a"]), ServicePlan::with_defaults("db", &["/d"]));
        let list = changes(&plan(std::slice::from_ref(&api)), &plan(&[db]));
        let effects: Vec<(&str, Effect)> = list.iter().map(|change| (change.service.as_str(), change.effect)).collect();
        assert_eq!(effects, [("db", Effect::Start), ("api", Effect::Stop)]);
    }
}
