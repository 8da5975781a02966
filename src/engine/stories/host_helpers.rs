//! Helpers of disks come and go with the devices.

use std::time::Duration;

use crate::engine::action::Action;
use crate::engine::event::{Caller, Event, FoundProcess, Remaining};
use crate::engine::host::kind::CheckKind;
use crate::engine::host::plan::CheckPlan;
use crate::engine::host::sample::{Devices, Disk, Mount, SmartBy};
use crate::engine::host::{HostEvent, HostMemory};
use crate::engine::plan::{Launch, Needs, Plan, RestartPolicy, Role, ServicePlan};
use crate::engine::testkit::{Kit, service};
use crate::engine::timers::TimerKey;
use crate::engine::types::{Exit, StateName, Time};

const START: Time = Time(1_000_000_000_000);

pub(super) fn plan(services: Vec<ServicePlan>) -> Plan {
    let mut plan = Kit::plan(services);
    plan.agent.default_checks = true;
    let mut helper = service("@disk");
    helper.launch = Launch::Role(Role::Disk(0));
    helper.restart = RestartPolicy::Always;
    helper.budget = None;
    plan.helper = Some(Box::new(helper));
    plan
}

pub(super) fn disk(name: &str, below: &[&str]) -> Disk {
    let below = below.iter().map(|name| (*name).to_owned()).collect();
    Disk { name: name.to_owned(), below, ..Disk::default() }
}

pub(super) fn mount(point: &str, disk: Option<&str>) -> Mount {
    Mount { point: point.to_owned(), disk: disk.map(str::to_owned), ..Mount::default() }
}

pub(super) fn devices(disks: Vec<Disk>, mounts: Vec<Mount>) -> Event {
    let devices = Devices { disks, mounts, nics: Vec::new() };
    Event::Host(Box::new(HostEvent::Devices(Box::new(devices))))
}

fn begin(services: Vec<ServicePlan>) -> Kit {
    Kit::begin_with(START, plan(services), Vec::new(), Vec::new())
}

fn slots(kit: &Kit) -> Vec<(String, u8)> {
    kit.engine.host.helpers.iter().map(|helper| (helper.service.clone(), helper.slot)).collect()
}

fn host_memory(kit: &Kit) -> Option<HostMemory> {
    let written =
        |action: &Action| if let Action::PersistHost { memory } = action { Some((**memory).clone()) } else { None };
    kit.last.iter().rev().find_map(written)
}

#[test]
fn each_disk_with_a_mount_or_smart_has_a_helper_and_each_mount_without_a_disk() {
    let mut kit = begin(vec![service("api")]);
    let smart = Disk { smart: Some(SmartBy::Nvme), ..disk("nvme0n1", &[]) };
    let mounts = vec![
        mount("/", None),
        mount("/srv", Some("md0")),
        mount("/srv/www", Some("md0")),
        Mount { remote: true, ..mount("/mnt/nfs", None) },
    ];
    let disks = vec![disk("md0", &["sda", "sdb"]), disk("sda", &[]), smart];
    let words = kit.step(devices(disks, mounts));
    assert_eq!(words, ["spawn @disk.md0/0 run 1", "spawn @disk.nvme0n1/0 run 1", "spawn @disk.root/0 run 1"]);
    assert_eq!(kit.engine.host.helpers[0].mounts, ["/srv", "/srv/www"]);
    assert!(kit.notes().is_empty(), "{:?}", kit.notes());
    assert_eq!(host_memory(&kit).map(|memory| memory.helpers.len()), Some(3));
    assert_eq!(kit.engine.next_deadline().map(|_| ()), Some(()), "their start has a limit");
}

#[test]
fn a_remote_mount_has_a_helper_only_where_it_is_named() {
    let nfs = || Mount { remote: true, ..mount("/mnt/nfs", None) };
    let mut api = service("api");
    api.needs = Some(Box::new(Needs { data: vec!["/mnt/nfs/data".into()], ..Needs::default() }));
    let mut kit = begin(vec![api]);
    assert_eq!(kit.step(devices(Vec::new(), vec![nfs()])), ["spawn @disk.mnt-nfs/0 run 1"]);

    let mut plan = plan(Vec::new());
    plan.checks.push(CheckPlan {
        name: "nfs".to_owned(),
        kind: CheckKind::DiskSpace,
        target: Some("/mnt/nfs".to_owned()),
        enabled: true,
        every: None,
        degraded: None,
        failing: None,
        fall: None,
        rise: None,
    });
    let mut kit = Kit::begin_with(START, plan.clone(), Vec::new(), Vec::new());
    assert_eq!(kit.step(devices(Vec::new(), vec![nfs()])), ["spawn @disk.mnt-nfs/0 run 1"]);
    // Without it the helper goes.
    plan.checks.clear();
    kit.exec("@disk.mnt-nfs");
    let words = kit.step(Event::Reload { request: None, caller: Caller::Agent, plan: Box::new(plan) });
    assert_eq!(words, ["SIGTERM to main of @disk.mnt-nfs/0"]);
}

#[test]
fn a_helper_keeps_its_slot_while_others_come_and_go() {
    let mut kit = begin(vec![service("api")]);
    kit.exec("api");
    let both = || vec![mount("/a", Some("sda")), mount("/b", Some("sdb"))];
    kit.step(devices(vec![disk("sda", &[]), disk("sdb", &[])], both()));
    for name in ["@disk.sda", "@disk.sdb"] {
        kit.exec(name);
    }
    let words = kit.step(devices(vec![disk("sdb", &[])], vec![mount("/b", Some("sdb"))]));
    assert_eq!(words, ["SIGTERM to main of @disk.sda/0"]);
    assert_eq!(slots(&kit), [("@disk.sdb".to_owned(), 1)]);
    kit.exit("@disk.sda", 0);
    assert!(kit.engine.service("@disk.sda", kit.now).is_none(), "it left with its device");
    let words = kit.step(devices(vec![disk("sdb", &[]), disk("sdc", &[])], {
        vec![mount("/b", Some("sdb")), mount("/c", Some("sdc"))]
    }));
    assert_eq!(words, ["spawn @disk.sdc/0 run 1"]);
    assert_eq!(slots(&kit), [("@disk.sdb".to_owned(), 1), ("@disk.sdc".to_owned(), 0)]);
}

#[test]
fn the_slot_of_a_stuck_helper_is_nobody_elses() {
    let mut kit = begin(Vec::new());
    kit.step(devices(vec![disk("sda", &[])], vec![mount("/a", Some("sda"))]));
    kit.exec("@disk.sda");
    kit.step(devices(Vec::new(), Vec::new()));
    kit.pass(Duration::from_secs(20));
    let (replica, run) = (kit.id("@disk.sda"), kit.run("@disk.sda"));
    let processes = vec![Remaining {
        pid: 7,
        comm: "mainstay".into(),
        state: 'D',
        wchan: "io_schedule".into(),
        devices: Vec::new(),
    }];
    kit.step(Event::TreeRemains { replica, run, processes });
    assert_eq!(kit.state("@disk.sda"), StateName::Stuck);
    let words = kit.step(devices(vec![disk("sdb", &[])], vec![mount("/b", Some("sdb"))]));
    assert_eq!(words, ["spawn @disk.sdb/0 run 1"]);
    assert_eq!(slots(&kit), [("@disk.sdb".to_owned(), 1)]);
    let memory = host_memory(&kit).expect("written");
    assert_eq!(memory.helpers.len(), 2, "the next agent must know of it");

    // The agent dies; the next one takes it over, and starts none beside it.
    let found = vec![
        kit.found("@disk.sda", FoundProcess::Alive { pid: 7 }),
        kit.found("@disk.sdb", FoundProcess::Alive { pid: 8 }),
    ];
    let host = Some(Box::new(memory));
    let begin = Event::Begin { found, decisions: Vec::new(), host, fences: None, tables: None };
    let mut kit = Kit::begin_on(kit.now.mono, plan(Vec::new()), begin);
    assert_eq!(kit.words(), ["kill @disk.sda/0"]);
    assert_eq!(slots(&kit), [("@disk.sdb".to_owned(), 1)]);

    // The disk comes back while it is stuck: it is the helper of that disk again, once its old process is gone.
    let disks = || vec![disk("sda", &[]), disk("sdb", &[])];
    let words = kit.step(devices(disks(), vec![mount("/a", Some("sda")), mount("/b", Some("sdb"))]));
    assert!(words.is_empty(), "{words:?}");
    kit.pass(Duration::from_secs(10));
    assert_eq!(kit.state("@disk.sda"), StateName::Stuck);
    let words = kit.exit_leaving("@disk.sda", Exit::Signal { signal: 9, core: false }, 0);
    assert_eq!(words, ["release @disk.sda/0", "spawn @disk.sda/0 run 2"]);
    assert_eq!(slots(&kit), [("@disk.sda".to_owned(), 0), ("@disk.sdb".to_owned(), 1)]);
}

#[test]
fn a_reload_keeps_the_helpers_and_devices_disturb_nobody() {
    let mut kit = begin(vec![service("api")]);
    kit.exec("api");
    kit.step(devices(vec![disk("vda", &[])], vec![mount("/", Some("vda"))]));
    kit.exec("@disk.vda");
    let mut new = plan(vec![service("api"), service("web")]);
    // As the runtime hands it on: it knows nothing of helpers.
    new.services.retain(|service| service.launch == Launch::Command);
    let words = kit.step(Event::Reload { request: None, caller: Caller::Agent, plan: Box::new(new) });
    assert_eq!(words, ["spawn web/0 run 1"]);
    assert_eq!(kit.notes(), ["agent: configuration reloaded, asked for by the agent; start web: new"]);
    kit.exec("web");
    let mounts = || vec![mount("/", Some("vda")), mount("/data", Some("vda"))];
    assert!(kit.step(devices(vec![disk("vda", &[])], mounts())).is_empty());
    let watched = kit.last.iter().any(|action| matches!(action, Action::Watch { role: Role::Disk(0) }));
    assert!(watched, "it has another mount to look at: {:?}", kit.last);
    assert_eq!(kit.step(devices(vec![disk("vda", &[])], mounts())), Vec::<String>::new());
    let armed: Vec<_> = kit.engine.timers.iter().map(|(key, _)| key).collect();
    assert_eq!(armed, [TimerKey::Host], "at rest nothing is armed but the deadline of readings");
}

#[test]
fn an_ordered_shutdown_waits_for_no_helper() {
    let mut kit = begin(vec![service("api")]);
    kit.exec("api");
    kit.step(devices(vec![disk("vda", &[])], vec![mount("/", Some("vda"))]));
    kit.exec("@disk.vda");
    assert_eq!(kit.step(Event::Shutdown { caller: Caller::Agent }), ["SIGTERM to main of api/0"]);
    assert_eq!(kit.exit("api", 0), ["release api/0", "exit Clean"]);
}

#[test]
fn beyond_the_most_helpers_it_is_said_once() {
    let mut kit = begin(Vec::new());
    let names: Vec<String> = (0..66).map(|number| format!("sd{number}")).collect();
    let disks = || names.iter().map(|name| disk(name, &[])).collect::<Vec<_>>();
    let mounts = || names.iter().map(|name| mount(&format!("/{name}"), Some(name))).collect::<Vec<_>>();
    kit.step(devices(disks(), mounts()));
    assert_eq!(kit.engine.host.helpers.len(), usize::from(Role::DISKS_MAX));
    let said = |kit: &Kit| kit.notes().iter().filter(|note| note.contains("sd64, sd65")).count();
    assert_eq!(said(&kit), 1);
    kit.step(devices(disks(), mounts()));
    assert_eq!(said(&kit), 0);
}

#[test]
fn names_are_escaped_and_unique() {
    let mut kit = begin(Vec::new());
    kit.step(devices(
        vec![disk("mnt-x", &[]), disk("cciss!c0d0", &[])],
        vec![mount("/a", Some("mnt-x")), mount("/b", Some("cciss!c0d0")), mount("/mnt/x", None), mount("/mnt-x", None)],
    ));
    let names: Vec<String> = slots(&kit).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["@disk.mnt-x", "@disk.cciss-c0d0", "@disk.mnt-x-2", "@disk.mnt-x-3"]);
}
