//! Random configurations. A service depends on those with a smaller number only, so there is never a cycle.

use std::time::Duration;

use mainstay::engine::balance::plan::{Address, BalancerPlan, Delivery, Destination, Rules};
use mainstay::engine::fence::plan::{FencePlan, Limits, Mode, ReleaseRule, Resources, Rung, Triggers};
use mainstay::engine::host::kind::CheckKind;
use mainstay::engine::host::plan::{AlertOn, AlertPlan, CheckPlan, OnDiskFailing};
use mainstay::engine::plan::{
    Alive, Budget, BudgetSpent, Kind, Launch, Needs, Plan, Probe, Readiness, RestartPolicy, Role, ServicePlan,
    WatchdogPlan,
};

use crate::dice::Dice;

const SERVICES_MAX: u64 = 7;
const DRAIN_MAX_MS: u64 = 20_000;
pub(crate) const DRAIN_MAX: Duration = Duration::from_millis(DRAIN_MAX_MS);

pub(crate) fn random(dice: &mut Dice) -> Plan {
    let mut plan = Plan::default();
    plan.agent.shutdown_timeout = crate::SHUTDOWN;
    plan.agent.starting_max = Some(u32::try_from(1 + dice.below(3)).expect("small"));
    let count = 1 + dice.below(SERVICES_MAX);
    for number in 0..count {
        // Holes, so that a reload adds and removes in the middle.
        if !dice.percent(15) {
            let earlier: Vec<String> = plan.services.iter().map(|plan| plan.name.clone()).collect();
            plan.services.push(service(dice, number, &earlier));
        }
    }
    let mut role = ServicePlan::with_defaults(Role::Logs.service_name(), &[]);
    role.launch = Launch::Role(Role::Logs);
    role.restart = RestartPolicy::Always;
    role.budget = None;
    role.backoff.max = Duration::from_secs(5);
    role.ready = Readiness::Notify;
    role.start_timeout = Duration::from_secs(5);
    let mut helper = role.clone();
    helper.launch = Launch::Role(Role::Disk(0));
    plan.helper = Some(Box::new(helper));
    plan.services.insert(0, role);
    plan.balancers = balancers(dice, &plan.services[1..]);
    plan.checks = [CheckKind::DiskHung, CheckKind::NicLink, CheckKind::Memory].map(check).to_vec();
    plan.alerts = (0..dice.below(3)).map(|number| alert(dice, number)).collect();
    let names: Vec<String> = plan.services[1..].iter().map(|service| service.name.clone()).collect();
    plan.agent.watchdog = dice.percent(30).then(|| WatchdogPlan {
        device: "/dev/watchdog".into(),
        timeout: dice.ms(10_000, 60_000),
        require: names.into_iter().take(1).collect(),
    });
    plan
}

/// Read often enough that a disk that hangs is seen soon.
fn check(kind: CheckKind) -> CheckPlan {
    CheckPlan {
        name: kind.word().to_owned(),
        kind,
        target: None,
        enabled: true,
        every: Some(Duration::from_secs(5)),
        degraded: None,
        failing: None,
        fall: None,
        rise: None,
    }
}

fn alert(dice: &mut Dice, number: u64) -> AlertPlan {
    let all = [AlertOn::Failing, AlertOn::Degraded, AlertOn::Recovered, AlertOn::Fenced];
    AlertPlan {
        exec: vec![format!("/bin/alert{number}")],
        user: None,
        on: all.into_iter().filter(|_| dice.percent(70)).collect(),
        at_most: u32::try_from(1 + dice.below(5)).expect("small"),
        within: dice.ms(10_000, 3_600_000),
        timeout: dice.ms(1_000, 30_000),
        cwd: None,
    }
}

fn needs(dice: &mut Dice) -> Needs {
    let data = match dice.below(3) {
        0 => Vec::new(),
        1 => vec!["/var/data".into()],
        _ => vec!["/srv/data".into()],
    };
    let nics = if dice.percent(30) { vec!["eth0".to_owned()] } else { Vec::new() };
    let on_disk_failing = *dice.pick(&[
        OnDiskFailing::Leave,
        OnDiskFailing::Leave,
        OnDiskFailing::Freeze,
        OnDiskFailing::Freeze,
        OnDiskFailing::Kill,
        OnDiskFailing::Hold,
        OnDiskFailing::Ignore,
    ]);
    Needs { data, nics, on_disk_failing }
}

/// Some lead to the same service, some to fixed addresses; after a reload the same name may lead elsewhere.
fn balancers(dice: &mut Dice, services: &[ServicePlan]) -> Vec<BalancerPlan> {
    let mut list = Vec::new();
    for number in 0..dice.below(4) {
        let mut rules = Rules { drain_timeout: dice.ms(0, DRAIN_MAX_MS), ..Rules::default() };
        if dice.percent(10) {
            rules.drain_timeout = Duration::ZERO;
        }
        let fixed = Address::Unix("/run/fixed.sock".into());
        let to = if services.is_empty() || dice.percent(10) {
            Destination::Backends(vec![(fixed.clone(), 1)])
        } else {
            let name = dice.pick(services).name.clone();
            Destination::Service { name, socket: None, weights: Vec::new() }
        };
        let delivery = *dice.pick(&[Delivery::Proxy, Delivery::Proxy, Delivery::HandOff, Delivery::Shared]);
        let name = format!("b{}", number + dice.below(2));
        if list.iter().all(|other: &BalancerPlan| other.name != name) {
            list.push(BalancerPlan { name, listen: vec![fixed], to, delivery, rules });
        }
    }
    list
}

/// The same, with some services changed, others gone, others new.
pub(crate) fn changed(dice: &mut Dice, old: &Plan) -> Plan {
    let mut new = random(dice);
    for plan in &mut new.services {
        if let Some(old) = old.services.iter().find(|old| old.name == plan.name) {
            let (requires, wants) = (plan.requires.clone(), plan.wants.clone());
            let (after, restart_with) = (plan.after.clone(), plan.restart_with.clone());
            let replicas = plan.replicas;
            match dice.below(6) {
                0 => {}
                1 => *plan = ServicePlan { replicas, ..old.clone() },
                2 => {
                    *plan = old.clone();
                    plan.stop.timeout = dice.ms(0, 8_000);
                    plan.alive = alive(dice).map(Box::new);
                }
                3 if plan.launch == Launch::Command => {
                    *plan = old.clone();
                    plan.fence = fence(dice).map(Box::new);
                }
                4 if plan.launch == Launch::Command => {
                    *plan = old.clone();
                    plan.resources = resources(dice).map(Box::new);
                }
                _ => {
                    *plan = old.clone();
                    plan.process.nice += 1;
                }
            }
            (plan.requires, plan.wants, plan.after, plan.restart_with) = (requires, wants, after, restart_with);
        }
    }
    new
}

fn service(dice: &mut Dice, number: u64, earlier: &[String]) -> ServicePlan {
    let mut plan = ServicePlan::with_defaults(&format!("s{number}"), &["/bin/service"]);
    plan.replicas = *dice.pick(&[1, 1, 1, 2, 3]);
    plan.port = Some(u16::try_from(1_000 + 10 * number + dice.below(2)).expect("small"));
    plan.kind = match dice.below(8) {
        0 => Kind::Oneshot,
        1 => Kind::Every(dice.ms(5_000, 60_000)),
        _ => Kind::Daemon,
    };
    plan.restart = *dice.pick(&[
        RestartPolicy::OnFailure,
        RestartPolicy::OnFailure,
        RestartPolicy::OnFailure,
        RestartPolicy::Always,
        RestartPolicy::Never,
    ]);
    plan.backoff.min = *dice.pick(&[Duration::ZERO, Duration::from_millis(100), Duration::from_secs(1)]);
    plan.backoff.max = dice.ms(1_000, 10_000);
    plan.backoff.reset_after = dice.ms(1_000, 60_000);
    plan.budget = (!dice.percent(20)).then(|| Budget {
        restarts: u32::try_from(1 + dice.below(6)).expect("small"),
        within: dice.ms(1_000, 300_000),
        hold: dice.ms(1_000, 30_000),
        hold_max: Duration::from_secs(120),
        then: *dice.pick(&[BudgetSpent::Retry, BudgetSpent::Retry, BudgetSpent::Stay]),
    });
    for name in earlier {
        match dice.below(12) {
            0 | 1 => plan.requires.push(name.clone()),
            2 => plan.wants.push(name.clone()),
            3 => plan.after.push(name.clone()),
            4 => plan.restart_with.push(name.clone()),
            5 => {
                plan.requires.push(name.clone());
                plan.restart_with.push(name.clone());
            }
            _ => {}
        }
    }
    plan.ready = match dice.below(6) {
        0 => Readiness::Notify,
        1 => Readiness::Fd(3),
        2 => Readiness::Log("ready".into()),
        3 => Readiness::Probe(Probe::Tcp("127.0.0.1:1".into())),
        _ => Readiness::Started,
    };
    plan.start_timeout = dice.ms(500, 20_000);
    plan.alive = alive(dice).map(Box::new);
    plan.watchdog = dice.percent(15).then(|| dice.ms(2_000, 10_000));
    plan.stop.timeout = dice.ms(0, 10_000);
    plan.needs = dice.percent(60).then(|| Box::new(needs(dice)));
    plan.resources = resources(dice).map(Box::new);
    plan.fence = fence(dice).map(Box::new);
    plan.priority = i32::try_from(dice.below(3)).expect("small");
    plan.min_healthy = *dice.pick(&[0, 0, 0, 1, 1, 2]);
    plan
}

fn limits(dice: &mut Dice) -> Limits {
    let mut limits = Limits::default();
    if dice.percent(60) {
        limits.cpu_max_permille = Some(*dice.pick(&[100, 200, 500, 1_500]));
    }
    limits.cpu_weight = dice.percent(30).then_some(50);
    limits.memory_max_bytes = dice.percent(50).then_some(256 << 20);
    limits.pids_max = dice.percent(60).then_some(16);
    limits
}

fn resources(dice: &mut Dice) -> Option<Resources> {
    dice.percent(60).then(|| Resources { limits: limits(dice), required: dice.percent(20) })
}

/// Times short enough that what begins in the chaos is over before the calm is.
fn fence(dice: &mut Dice) -> Option<FencePlan> {
    if dice.percent(10) {
        return None;
    }
    let all = [Rung::Throttle(limits(dice)), Rung::Freeze, Rung::Kill, Rung::Hold];
    let mut ladder: Vec<Rung> = all.into_iter().filter(|_| dice.percent(60)).collect();
    if ladder.is_empty() {
        ladder.push(Rung::Kill);
    }
    let mut mode = || *dice.pick(&[Mode::On, Mode::On, Mode::On, Mode::On, Mode::DryRun, Mode::Off]);
    let triggers = Triggers {
        liveness: Mode::On,
        restarts: mode(),
        cpu: mode(),
        pids: mode(),
        pressure: mode(),
        host_memory: mode(),
    };
    let release = if dice.percent(10) { ReleaseRule::Manual } else { ReleaseRule::After(dice.ms(2_000, 60_000)) };
    Some(FencePlan {
        ladder,
        step: dice.ms(1_000, 20_000),
        probation: dice.ms(1_000, 60_000),
        release,
        release_max: dice.ms(60_000, 180_000),
        triggers,
    })
}

fn alive(dice: &mut Dice) -> Option<Alive> {
    dice.percent(30).then(|| Alive {
        probe: Probe::Tcp("127.0.0.1:1".into()),
        every: dice.ms(500, 10_000),
        timeout: dice.ms(100, 3_000),
        fall: u32::try_from(1 + dice.below(3)).expect("small"),
        rise: u32::try_from(1 + dice.below(3)).expect("small"),
    })
}
