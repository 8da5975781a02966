//! A disk or a NIC fails under services.

use std::time::Duration;

use crate::engine::action::Action;
use crate::engine::event::{Caller, Event, FoundProcess, NotifyMessage, Verb};
use crate::engine::host::kind::CheckKind::{Bond, DiskErrors, DiskHung, Filesystem, NicLink, Smart};
use crate::engine::host::plan::OnDiskFailing;
use crate::engine::host::sample::{Devices, Mount, Nic, NicKind};
use crate::engine::host::{Health, HostEvent};
use crate::engine::plan::{Alive, Needs, Plan, Readiness, ServicePlan};
use crate::engine::stories::host_helpers::{devices, disk, mount};
use crate::engine::testkit::{Kit, balancer, service, tcp};
use crate::engine::types::{StateName, Time};

const START: Time = Time(1_000_000_000_000);
const HUNG: &str = "no answer for 12s";

/// A service with its data on vda.
fn on_disk(name: &str, then: OnDiskFailing) -> ServicePlan {
    let mut plan = service(name);
    plan.port = Some(9_000);
    plan.needs = Some(Box::new(Needs { data: vec!["/srv/data".into()], nics: Vec::new(), on_disk_failing: then }));
    plan
}

fn probed(mut plan: ServicePlan) -> ServicePlan {
    let (every, timeout) = (Duration::from_secs(10), Duration::from_secs(2));
    plan.alive = Some(Box::new(Alive { probe: tcp(), every, timeout, fall: 3, rise: 2 }));
    plan
}

/// Everything that is started runs, and the disks are known.
fn begin(plan: Plan) -> Kit {
    let names: Vec<String> = plan.services.iter().map(|plan| plan.name.clone()).collect();
    let mut kit = Kit::begin_with(START, plan, Vec::new(), Vec::new());
    kit.step(devices(
        vec![disk("vda", &[]), disk("vdb", &[])],
        vec![mount("/", Some("vdb")), mount("/srv", Some("vda"))],
    ));
    for name in names {
        kit.exec(&name);
    }
    kit
}

fn with(services: Vec<ServicePlan>) -> Kit {
    begin(Kit::plan(services))
}

fn fails(kit: &mut Kit) -> Vec<String> {
    kit.check(DiskHung, "vda", Health::Failing, HUNG)
}

fn is_well(kit: &mut Kit) -> Vec<String> {
    kit.check(DiskHung, "vda", Health::Ok, "answers again")
}

#[test]
fn only_services_that_need_the_failing_disk_are_concerned() {
    let mut kit = with(vec![on_disk("api", OnDiskFailing::Leave), service("web")]);
    assert!(kit.check(DiskHung, "vdb", Health::Failing, HUNG).is_empty() && kit.notes().is_empty());
    assert!(kit.check(Smart, "vda", Health::Failing, "it says that it will fail").is_empty() && kit.notes().is_empty());
    assert!(kit.check(DiskErrors, "vda", Health::Degraded, "1 error").is_empty() && kit.notes().is_empty());
    fails(&mut kit);
    let impaired = "service api: concerned by disk vda; it runs on, neither killed nor restarted meanwhile";
    assert_eq!(kit.notes(), [impaired]);
    assert_eq!(kit.why("api"), "out of its balancers until this is well: disk vda: no answer for 12s");
    assert_eq!(kit.why("web"), "");
    let causes: Vec<String> = kit.memory("api").causes.into_iter().map(|cause| cause.text).collect();
    assert_eq!(causes[causes.len() - 2..], ["check disk_hung vda: failing: no answer for 12s", impaired]);
    // A second cause is no second story.
    kit.check(Filesystem, "/srv", Health::Failing, "canary: I/O error");
    assert!(kit.notes().is_empty());
    is_well(&mut kit);
    assert_eq!(kit.notes().len(), 1, "now it is the file system: {:?}", kit.notes());
    kit.check(Filesystem, "/srv", Health::Ok, "written");
    assert_eq!(kit.notes(), ["service api: no longer concerned by file system /srv"]);
    assert_eq!((kit.state("api"), kit.why("api").as_str()), (StateName::Ready, ""));
    assert_eq!(kit.engine.next_deadline(), None, "at rest nothing is armed");
}

#[test]
fn liveness_is_counted_and_shown_but_kills_nobody_while_the_disk_fails() {
    let mut kit = with(vec![probed(on_disk("api", OnDiskFailing::Leave))]);
    fails(&mut kit);
    let words = kit.pass(Duration::from_secs(60));
    assert!(words.iter().all(|word| word.contains("probe")), "{words:?}");
    assert_eq!(kit.notes().iter().filter(|note| note.contains("left alone while disk vda fails")).count(), 1);
    assert_eq!(kit.state("api"), StateName::Degraded);
    assert!(kit.why("api").starts_with("alive probe 5 of 3 failed"), "{}", kit.why("api"));
    // Afterwards it has as many tries as anybody.
    is_well(&mut kit);
    let words = kit.pass(Duration::from_secs(20));
    assert!(!words.iter().any(|word| word.contains("SIGABRT")), "{words:?}");
    assert!(kit.pass(Duration::from_secs(10)).contains(&"SIGABRT to main of api/0".to_owned()));
}

#[test]
fn a_watchdog_waits_until_the_disk_is_well() {
    let mut api = on_disk("api", OnDiskFailing::Leave);
    api.watchdog = Some(Duration::from_secs(30));
    let mut kit = with(vec![api]);
    fails(&mut kit);
    assert!(kit.pass(Duration::from_secs(100)).is_empty());
    let (replica, run) = (kit.id("api"), kit.run("api"));
    assert!(kit.step(Event::Notified { replica, run, message: NotifyMessage::WatchdogTrigger }).is_empty());
    is_well(&mut kit);
    assert!(kit.pass(Duration::from_secs(29)).is_empty());
    assert_eq!(kit.pass(Duration::from_secs(1)), ["SIGABRT to main of api/0"]);
}

#[test]
fn a_restart_storm_stops_and_costs_no_budget() {
    let mut kit = with(vec![on_disk("api", OnDiskFailing::Leave)]);
    kit.exit("api", 1);
    assert_eq!(kit.state("api"), StateName::Backoff);
    fails(&mut kit);
    assert_eq!(kit.state("api"), StateName::Waiting, "a pending start waits");
    assert_eq!(kit.why("api"), "waiting for disk vda: no answer for 12s");
    assert!(kit.pass(Duration::from_secs(20)).is_empty());
    assert_eq!(is_well(&mut kit), ["spawn api/0 run 2"]);
    kit.exec("api");
    fails(&mut kit);
    for run in 3..5 {
        kit.exit("api", 1);
        assert_eq!((kit.state("api"), kit.memory("api").failures), (StateName::Waiting, 1));
        let told = "exited with code 1 after 0ms, to be started again when disk vda is well, and not charged for it";
        assert_eq!(kit.notes()[0], format!("service api: {told}"));
        assert!(kit.pass(Duration::from_secs(3_600)).is_empty());
        assert_eq!(is_well(&mut kit), [format!("spawn api/0 run {run}")]);
        kit.exec("api");
        fails(&mut kit);
    }
    assert_eq!((kit.memory("api").budget_marks.len(), kit.memory("api").restarts), (1, 3));
    // An operator who asks is told what it waits for.
    kit.exit("api", 1);
    let words = [kit.command(Verb::Start, "api"), kit.persist()].concat();
    assert!(words.contains(&"answer 1: failed, api waiting for disk vda: no answer for 12s".to_owned()), "{words:?}");
}

#[test]
fn a_start_that_hangs_in_the_disk_is_left_alone() {
    let mut api = on_disk("api", OnDiskFailing::Leave);
    api.ready = Readiness::Notify;
    let mut kit = with(vec![api]);
    fails(&mut kit);
    assert!(kit.pass(Duration::from_secs(200)).is_empty());
    assert_eq!(kit.state("api"), StateName::Starting);
    is_well(&mut kit);
    assert!(kit.pass(Duration::from_secs(59)).is_empty(), "the whole time anew");
    assert_eq!(kit.pass(Duration::from_secs(1)), ["SIGTERM to main of api/0"]);
}

#[test]
fn it_leaves_its_balancers_and_nobody_is_asked_to_wait() {
    let mut plan = Kit::plan(vec![on_disk("api", OnDiskFailing::Leave)]);
    plan.balancers = vec![balancer("front", "api")];
    let mut kit = begin(plan);
    assert_eq!(fails(&mut kit), ["balance front: api/0 Draining"]);
    let hopeful =
        |kit: &Kit| kit.last.iter().any(|action| matches!(action, Action::Balance { table } if table.hopeful));
    assert!(!hopeful(&kit));
    assert!(kit.notes()[0].ends_with("; out of front"), "{:?}", kit.notes());
    assert_eq!(kit.exit("api", 1), ["balance front: api/0 Out", "release api/0"]);
    assert!(!hopeful(&kit), "it may be long");
    assert_eq!(is_well(&mut kit)[1..], ["spawn api/0 run 2"]);
    assert!(hopeful(&kit));
    assert_eq!(kit.exec("api"), ["balance front: api/0 Up"]);
}

#[test]
fn ignore_means_that_nothing_is_done() {
    let mut plan = Kit::plan(vec![on_disk("api", OnDiskFailing::Ignore)]);
    plan.balancers = vec![balancer("front", "api")];
    let mut kit = begin(plan);
    assert!(fails(&mut kit).is_empty() && kit.notes().is_empty());
    kit.exit("api", 1);
    assert_eq!((kit.state("api"), kit.memory("api").failures), (StateName::Backoff, 1));
}

#[test]
fn freeze_suspends_everything_and_thaws_before_anything_else() {
    let mut api = probed(on_disk("api", OnDiskFailing::Freeze));
    api.watchdog = Some(Duration::from_secs(30));
    let mut kit = with(vec![api]);
    assert_eq!(fails(&mut kit), ["freeze api/0"]);
    let place = |wanted: &dyn Fn(&Action) -> bool| kit.last.iter().position(wanted).expect("it is there");
    let recorded = place(&|action| matches!(action, Action::Persist { memory, .. } if memory.frozen));
    assert!(recorded < place(&|action| matches!(action, Action::Freeze { .. })), "it is on record before it is done");
    assert!(kit.pass(Duration::from_secs(300)).is_empty());
    assert_eq!(kit.why("api"), "frozen until the disk is well; disk vda: no answer for 12s");
    assert_eq!(is_well(&mut kit), ["thaw api/0"]);
    assert_eq!(kit.state("api"), StateName::Ready);
    assert_eq!(kit.pass(Duration::from_secs(10)), ["probe api/0"]);
}

#[test]
fn a_freeze_outlives_the_agent_only_while_the_disk_fails() {
    let plan = || Kit::plan(vec![on_disk("api", OnDiskFailing::Freeze)]);
    let mut kit = begin(plan());
    fails(&mut kit);
    let found = || vec![kit.found("api", FoundProcess::Alive { pid: 100 })];
    // It knows nothing of the host: thawed.
    let begin = Event::Begin { found: found(), decisions: Vec::new(), host: None, fences: None, tables: None };
    let next = Kit::begin_on(kit.now.mono, plan(), begin);
    assert_eq!(next.words(), ["thaw api/0"]);
    assert_eq!(next.state("api"), StateName::Ready);
    assert!(!next.memory("api").frozen);
}

/// It fell off its bus: gone from /sys, and still mounted.
#[test]
fn a_disk_that_is_gone_while_it_is_mounted_has_not_recovered() {
    for then in [OnDiskFailing::Freeze, OnDiskFailing::Hold, OnDiskFailing::Kill] {
        let mut kit = with(vec![on_disk("db", then)]);
        fails(&mut kit);
        let dead = Mount { disk: None, device: None, ..mount("/srv", Some("vda")) };
        let done = kit.step(devices(vec![disk("vdb", &[])], vec![mount("/", Some("vdb")), dead]));
        let acts = |word: &String| ["thaw", "spawn db"].iter().any(|act| word.starts_with(act));
        assert!(!done.iter().any(acts), "{then:?}: {done:?}");
        assert!(kit.engine.service("db", kit.now).unwrap().impaired.is_some(), "{then:?}");
    }
}

#[test]
fn an_operators_stop_works_whatever_is_done_about_the_disk() {
    for then in [OnDiskFailing::Leave, OnDiskFailing::Freeze] {
        let mut kit = with(vec![on_disk("api", then)]);
        fails(&mut kit);
        let words = kit.command(Verb::Stop, "api");
        let thawed = (then == OnDiskFailing::Freeze).then(|| "thaw api/0".to_owned());
        let mut expected = vec!["decide api Down".to_owned()];
        expected.extend(thawed);
        expected.push("SIGTERM to main of api/0".to_owned());
        assert_eq!(words, expected);
        kit.exit("api", 0);
        assert_eq!(kit.state("api"), StateName::Stopped);
        assert!(is_well(&mut kit).is_empty());
    }
}

#[test]
fn kill_and_hold_end_the_run_and_start_it_again() {
    let mut kit = with(vec![on_disk("api", OnDiskFailing::Kill)]);
    assert_eq!(fails(&mut kit), ["kill api/0"]);
    kit.exit("api", 0);
    assert_eq!((kit.state("api"), kit.memory("api").failures), (StateName::Waiting, 0));
    assert_eq!(is_well(&mut kit), ["spawn api/0 run 2"]);

    let mut web = service("web");
    web.requires = vec!["api".to_owned()];
    let mut kit = with(vec![on_disk("api", OnDiskFailing::Hold), web]);
    assert_eq!(fails(&mut kit), ["SIGTERM to main of web/0"], "dependents go first");
    assert_eq!(kit.exit("web", 0), ["release web/0", "SIGTERM to main of api/0"]);
    kit.exit("api", 0);
    assert_eq!((kit.state("api"), kit.state("web")), (StateName::Waiting, StateName::Waiting));
    assert!(kit.pass(Duration::from_secs(600)).is_empty());
    assert_eq!(is_well(&mut kit), ["spawn api/0 run 2"]);
    assert_eq!(kit.exec("api"), ["spawn web/0 run 2"]);
}

#[test]
fn a_reload_meanwhile_puts_its_restart_off() {
    let mut kit = with(vec![on_disk("api", OnDiskFailing::Leave)]);
    fails(&mut kit);
    let mut new = on_disk("api", OnDiskFailing::Leave);
    new.process.nice = 5;
    let plan = Box::new(Kit::plan(vec![new]));
    assert!(kit.step(Event::Reload { request: None, caller: Caller::Agent, plan }).is_empty());
    assert_eq!(is_well(&mut kit), ["SIGTERM to main of api/0"]);
    // And its policy can be changed meanwhile.
    let mut kit = with(vec![on_disk("api", OnDiskFailing::Leave)]);
    fails(&mut kit);
    let reload = |then| {
        let plan = Box::new(Kit::plan(vec![on_disk("api", then)]));
        Event::Reload { request: None, caller: Caller::Agent, plan }
    };
    assert_eq!(kit.step(reload(OnDiskFailing::Freeze)), ["freeze api/0"]);
    assert_eq!(kit.step(reload(OnDiskFailing::Ignore)), ["thaw api/0"]);
    assert_eq!(kit.why("api"), "");
}

fn nics(list: &[(&str, NicKind, Option<&str>)]) -> Event {
    let nics = list.iter().map(|(name, kind, master)| Nic {
        name: (*name).to_owned(),
        kind: *kind,
        master: master.map(str::to_owned),
        wireless: false,
    });
    let devices = Devices { nics: nics.collect(), ..Devices::default() };
    Event::Host(Box::new(HostEvent::Devices(Box::new(devices))))
}

#[test]
fn a_failing_nic_takes_it_out_and_holds_liveness_kills_but_no_restarts() {
    let mut api = probed(service("api"));
    api.needs = Some(Box::new(Needs { nics: vec!["eth0".to_owned()], ..Needs::default() }));
    let mut kit = with(vec![api]);
    kit.step(nics(&[("eth0", NicKind::Physical, None)]));
    kit.check(NicLink, "eth0", Health::Failing, "no carrier for 3s");
    assert_eq!(kit.why("api"), "out of its balancers until this is well: NIC eth0: no carrier for 3s");
    let words = kit.pass(Duration::from_secs(60));
    assert!(words.iter().all(|word| word.contains("probe")), "{words:?}");
    kit.exit("api", 1);
    assert_eq!((kit.state("api"), kit.memory("api").failures), (StateName::Backoff, 1));
    kit.check(NicLink, "eth0", Health::Ok, "carrier");
    assert_eq!(kit.notes(), ["service api: no longer concerned by NIC eth0"]);
}

#[test]
fn a_nic_of_a_bond_counts_through_the_bond() {
    let mut api = service("api");
    api.needs = Some(Box::new(Needs { nics: vec!["eth0".to_owned()], ..Needs::default() }));
    let mut kit = with(vec![api]);
    kit.step(nics(&[("eth0", NicKind::Physical, Some("bond0")), ("bond0", NicKind::Bond, None)]));
    kit.check(NicLink, "eth0", Health::Failing, "no carrier for 3s");
    assert_eq!(kit.why("api"), "", "that is what the bond is for");
    kit.check(Bond, "bond0", Health::Failing, "no slave is up");
    assert_eq!(kit.why("api"), "out of its balancers until this is well: NIC bond0: no slave is up");
}

#[test]
fn a_member_of_an_array_counts_through_the_array() {
    let mut kit = with(vec![on_disk("api", OnDiskFailing::Leave)]);
    let disks = vec![disk("dm-0", &["sda", "sdb", "sdc"]), disk("md0", &["sda", "sdb"]), disk("sda", &[])];
    kit.step(devices(disks, vec![mount("/srv", Some("dm-0"))]));
    kit.check(DiskErrors, "sda", Health::Failing, "10 errors");
    assert_eq!(kit.why("api"), "");
    kit.check(DiskHung, "md0", Health::Failing, HUNG);
    assert_eq!(kit.why("api"), "out of its balancers until this is well: disk md0: no answer for 12s");
    kit.check(DiskHung, "md0", Health::Ok, "answers");
    kit.check(DiskHung, "sdc", Health::Failing, HUNG);
    assert_eq!(kit.why("api"), "out of its balancers until this is well: disk sdc: no answer for 12s");
}
