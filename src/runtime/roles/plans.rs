//! The agent's roles as services: which of them a configuration needs, and as what they are started.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::engine::balance::plan::{Delivery, Destination};
use crate::engine::host::kind::{CheckKind, Scope};
use crate::engine::plan::{Backoff, Launch, Plan, Readiness, RestartPolicy, Role, ServicePlan};
use crate::sys::{caps, host};

/// The descriptor on which a role says that it listens.
const READY_DESCRIPTOR: i32 = 3;

/// Beyond its drains.
const PROXY_STOP_MARGIN: Duration = Duration::from_secs(10);

/// A copy that is under way is given up at once, but may wait for its disk.
const COPY_STOP: Duration = Duration::from_secs(10);

/// Capabilities of the logs role (capability.h): CHOWN 0 and DAC_OVERRIDE 1 for pipes of other users, SYS_RESOURCE 24 for pipe sizes.
const LOGS_CAPABILITIES: [u8; 3] = [0, 1, 24];

/// Capabilities of the checks role: NET_RAW 13 for the gateway, SYSLOG 34 for the kernel's log, SYS_RESOURCE 24 for pressure triggers.
const CHECKS_CAPABILITIES: [u8; 3] = [13, 24, 34];

/// Capabilities of a disk's helper: DAC_OVERRIDE 1 for the canary, SYS_RAWIO 17 and SYS_ADMIN 21 for SMART and fanotify.
const DISK_CAPABILITIES: [u8; 3] = [1, 17, 21];

/// Capabilities of the role of a set of copies: CHOWN 0, DAC_OVERRIDE 1, DAC_READ_SEARCH 2, FOWNER 3, FSETID 4 and SETFCAP 31 to read and to make
/// files of anybody, MKNOD 27 for nodes, SYS_ADMIN 21 for trusted attributes, SYS_NICE 23 for its I/O class, SYS_PTRACE 19 to see who has a file open.
const COPY_CAPABILITIES: [u8; 10] = [0, 1, 2, 3, 4, 19, 21, 23, 27, 31];

/// Capabilities that the proxy role begins with, to become another user: SETGID 6, SETUID 7. It has none of them afterwards.
const PROXY_CAPABILITIES: [u8; 2] = [6, 7];

/// The plan with the roles in front. `privileged`: the agent can hand out capabilities (it is root).
#[must_use]
pub fn with_roles(mut plan: Plan, privileged: bool) -> Plan {
    let mut services = vec![role_plan(Role::Logs, privileged), role_plan(Role::Checks, privileged)];
    if plan.balancers.iter().any(|balancer| balancer.delivery != Delivery::Shared) {
        let mut proxy = role_plan(Role::Proxy, privileged);
        // When the last balancer leaves, it stays for the connections that there are.
        let drains = plan.balancers.iter().map(|balancer| balancer.rules.drain_timeout);
        proxy.stop.timeout = drains.max().unwrap_or_default() + PROXY_STOP_MARGIN;
        services.push(proxy);
    }
    if needs_reader(&plan, is_read_by_sensors) {
        services.push(role_plan(Role::Sensors, privileged));
    }
    services.extend(plan.copies.iter().map(|copies| copy_plan(&copies.name, privileged)));
    services.append(&mut plan.services);
    for service in &mut services {
        // Read from text, with room to grow that nothing will fill.
        service.process.command.shrink_to_fit();
        service.success_exit_codes.shrink_to_fit();
    }
    plan.services = services;
    plan.helper = needs_reader(&plan, is_read_by_helpers).then(|| Box::new(role_plan(Role::Disk(0), privileged)));
    plan
}

/// Whether any check of such kinds may be on. Nothing of the watch over the host is started for a configuration without checks.
fn needs_reader(plan: &Plan, is_read: fn(CheckKind) -> bool) -> bool {
    plan.agent.default_checks || plan.checks.iter().any(|check| check.enabled && is_read(check.kind))
}

/// Of hwmon, thermal zones, supplies and NICs' speeds: what a driver may take its time for.
fn is_read_by_sensors(kind: CheckKind) -> bool {
    matches!(kind, CheckKind::Temperature | CheckKind::Fan | CheckKind::Power | CheckKind::NicSpeed)
}

fn is_read_by_helpers(kind: CheckKind) -> bool {
    matches!(kind.scope(), Scope::Mount | Scope::Disk)
}

/// The plan as the configuration has it, whatever the engine has added to it since (the helpers of disks are such roles).
#[must_use]
pub fn without_roles(plan: &Plan) -> Plan {
    let is_configured = |service: &&ServicePlan| match service.launch {
        Launch::Command => true,
        Launch::Role(_) => false,
    };
    let services = plan.services.iter().filter(is_configured).cloned().collect();
    Plan { services, helper: None, ..plan.clone() }
}

/// Who the proxy becomes, as its argument: the user of the plan, in its own groups and in those that it needs to reach services by Unix
/// sockets.
#[must_use]
pub fn proxy_user(plan: &Plan, launch: &Launch) -> Option<String> {
    if *launch == Launch::Role(Role::Proxy) && host::uid() == 0 { argument(plan) } else { None }
}

fn argument(plan: &Plan) -> Option<String> {
    let user = plan.agent.proxy_user.as_ref()?;
    let groups: BTreeSet<u32> = proxy_groups(plan).union(&user.groups.iter().copied().collect()).copied().collect();
    let groups: Vec<String> = groups.iter().map(u32::to_string).collect();
    let separator = if groups.is_empty() { "" } else { ":" };
    Some(format!("{}:{}{separator}{}", user.uid, user.gid, groups.join(",")))
}

/// The primary groups of the services that the proxy reaches by Unix sockets.
fn proxy_groups(plan: &Plan) -> BTreeSet<u32> {
    let by_socket = |name: &str| {
        plan.balancers.iter().any(|balancer| match &balancer.to {
            Destination::Service { name: to, socket: Some(_), .. } => to == name,
            Destination::Service { socket: None, .. } | Destination::Backends(_) => false,
        })
    };
    let services = plan.services.iter().filter(|service| by_socket(&service.name));
    services.filter_map(|service| service.process.user.as_ref().map(|user| user.gid)).collect()
}

/// Groups that the proxy would need for `new` and has not been started with, which a reload must tell.
#[must_use]
pub fn groups_missing(old: &Plan, new: &Plan) -> Vec<u32> {
    proxy_groups(new).difference(&proxy_groups(old)).copied().collect()
}

/// The role of a set. It keeps its place in the face of a lack of memory no better than any other process: its work can be done again.
fn copy_plan(set: &str, privileged: bool) -> ServicePlan {
    let mut plan = role_plan(Role::of_copies(set), privileged);
    plan.name = Role::copy_service(set);
    plan.process.oom_score_adj = 0;
    plan.stop.timeout = COPY_STOP;
    plan
}

fn role_plan(role: Role, privileged: bool) -> ServicePlan {
    let mut plan = ServicePlan::with_defaults(role.service_name(), &[]);
    plan.launch = Launch::Role(role);
    plan.restart = RestartPolicy::Always;
    plan.backoff = Backoff { min: Duration::ZERO, max: Duration::from_secs(5), ..Backoff::default() };
    plan.budget = None;
    plan.ready = Readiness::Fd(READY_DESCRIPTOR);
    plan.start_timeout = Duration::from_secs(30);
    plan.process.umask = 0o077;
    plan.process.no_new_privileges = true;
    if privileged {
        // As the agent itself, where the kernel let it protect itself.
        plan.process.oom_score_adj = host::oom_score_adj().unwrap_or(0);
        let wanted: &[u8] = match role {
            Role::Logs => &LOGS_CAPABILITIES,
            Role::Checks => &CHECKS_CAPABILITIES,
            Role::Sensors => &[],
            Role::Disk(_) => &DISK_CAPABILITIES,
            Role::Copy(_) => &COPY_CAPABILITIES,
            Role::Proxy => &PROXY_CAPABILITIES,
        };
        // In a container root may lack some of them; the role then does without.
        let permitted = caps::permitted().unwrap_or(0);
        plan.process.capabilities = Some(wanted.iter().copied().filter(|cap| permitted & (1 << cap) != 0).collect());
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::balance::plan::{BalancerPlan, Rules};
    use crate::engine::host::plan::CheckPlan;
    use crate::engine::plan::User;

    fn user(uid: u32, gid: u32, groups: &[u32]) -> User {
        let text = String::new;
        User { name: text(), uid, gid, groups: groups.to_vec(), home: text(), shell: text() }
    }

    fn plan(delivery: Delivery, socket: Option<&str>) -> Plan {
        let mut api = ServicePlan::with_defaults("api", &["/bin/api"]);
        api.process.user = Some(Box::new(user(1_000, 33, &[33, 44])));
        let mut plan = Plan { services: vec![api], ..Plan::default() };
        plan.agent.proxy_user = Some(user(990, 991, &[991]));
        plan.balancers.push(BalancerPlan {
            name: "front".to_owned(),
            listen: Vec::new(),
            to: Destination::Service { name: "api".to_owned(), socket: socket.map(str::to_owned), weights: Vec::new() },
            delivery,
            rules: Rules::default(),
        });
        plan
    }

    #[test]
    fn proxy_is_a_role_while_a_balancer_needs_it() {
        let names = |plan: Plan| {
            let plan = with_roles(plan, false);
            plan.services.iter().map(|service| service.name.clone()).collect::<Vec<_>>()
        };
        assert_eq!(names(plan(Delivery::Proxy, None)), ["@logs", "@checks", "@proxy", "api"]);
        assert_eq!(names(plan(Delivery::HandOff, None)), ["@logs", "@checks", "@proxy", "api"]);
        assert_eq!(names(plan(Delivery::Shared, None)), ["@logs", "@checks", "api"]);
        assert_eq!(without_roles(&with_roles(plan(Delivery::Proxy, None), true)), plan(Delivery::Proxy, None));
    }

    fn check(kind: CheckKind, enabled: bool) -> CheckPlan {
        let (name, target) = (kind.word().to_owned(), None);
        let (every, degraded, failing, fall, rise) = (None, None, None, None, None);
        CheckPlan { name, kind, target, enabled, every, degraded, failing, fall, rise }
    }

    #[test]
    fn nothing_watches_the_host_without_a_check() {
        let plan = |default_checks, checks: &[CheckPlan]| {
            let mut plan = plan(Delivery::Shared, None);
            plan.agent.default_checks = default_checks;
            plan.checks = checks.to_vec();
            let with = with_roles(plan.clone(), true);
            assert_eq!(without_roles(&with), plan);
            (with.services.iter().any(|service| service.name == "@sensors"), with.helper.is_some())
        };
        assert_eq!(plan(true, &[]), (true, true));
        assert_eq!(plan(false, &[]), (false, false));
        assert_eq!(
            plan(false, &[check(CheckKind::Temperature, false), check(CheckKind::Memory, true)]),
            (false, false)
        );
        assert_eq!(plan(false, &[check(CheckKind::NicSpeed, true)]), (true, false));
        assert_eq!(plan(false, &[check(CheckKind::DiskSpace, true)]), (false, true));
    }

    #[test]
    fn helpers_that_the_engine_added_are_no_part_of_the_configuration() {
        let mut with = with_roles(Plan { services: Vec::new(), ..plan(Delivery::Proxy, None) }, true);
        let mut helper = *with.helper.clone().unwrap_or_else(|| Box::new(role_plan(Role::Disk(0), true)));
        (helper.name, helper.launch) = ("@disk.sda".to_owned(), Launch::Role(Role::Disk(3)));
        with.services.push(helper);
        assert_eq!(without_roles(&with), Plan { services: Vec::new(), ..plan(Delivery::Proxy, None) });
    }

    #[test]
    fn proxy_is_in_the_groups_of_the_services_whose_sockets_it_uses() {
        let by_port = plan(Delivery::Proxy, None);
        let by_socket = plan(Delivery::Proxy, Some("/run/api.sock"));
        assert!(proxy_groups(&by_port).is_empty());
        assert_eq!(proxy_groups(&by_socket), BTreeSet::from([33]));
        assert_eq!(groups_missing(&by_port, &by_socket), [33]);
        assert!(groups_missing(&by_socket, &by_port).is_empty());
        assert_eq!(argument(&by_socket).as_deref(), Some("990:991:33,991"));
        assert_eq!(argument(&by_port).as_deref(), Some("990:991:991"));
        assert_eq!(argument(&Plan::default()), None);
    }
}
