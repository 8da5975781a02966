//! Fences by hand: each level with its proof, and what outlives what.

use std::time::Duration;

use crate::engine::action::Action;
use crate::engine::action::NoteKind;
use crate::engine::event::{Caller, Event, FoundProcess, NotifyMessage, Remaining, Verb, Wait};
use crate::engine::fence::gauge::{Gauge, Wrote};
use crate::engine::fence::note::FenceNote;
use crate::engine::fence::plan::{FenceLevel, Limits, Resources};
use crate::engine::fence::record::{Standing, Trigger};
use crate::engine::host::Health;
use crate::engine::host::kind::CheckKind;
use crate::engine::host::plan::OnDiskFailing;
use crate::engine::plan::{Alive, Kind, Needs, ServicePlan};
use crate::engine::stories::host_helpers::{devices, disk, mount};
use crate::engine::testkit::{Kit, balancer, ms, service, tcp};
use crate::engine::types::{Exit, StateName};

const HOLD: Verb = Verb::Fence(FenceLevel::Hold);
const KILL: Verb = Verb::Fence(FenceLevel::Kill);
const FREEZE: Verb = Verb::Fence(FenceLevel::Freeze);
const THROTTLE: Verb = Verb::Fence(FenceLevel::Throttle);

fn probed(mut plan: ServicePlan) -> ServicePlan {
    let (every, timeout) = (Duration::from_secs(10), Duration::from_secs(2));
    plan.alive = Some(Box::new(Alive { probe: tcp(), every, timeout, fall: 3, rise: 2 }));
    plan
}

fn up(services: Vec<ServicePlan>) -> Kit {
    let names: Vec<String> = services.iter().map(|plan| plan.name.clone()).collect();
    let mut kit = Kit::new(services);
    for name in names {
        kit.exec(&name);
    }
    kit
}

fn frozen(kit: &Kit, name: &str) -> Gauge {
    Gauge { frozen: Some(true), ..kit.gauge(name) }
}

/// Its processes are gone.
fn killed(kit: &mut Kit, name: &str) -> Vec<String> {
    kit.exit_leaving(name, Exit::Signal { signal: 9, core: false }, 0)
}

#[test]
fn a_hold_kills_and_is_proven_by_the_empty_tree() {
    let mut kit = up(vec![service("api")]);
    let mut words = kit.command(HOLD, "api");
    assert_eq!(words, ["decide api Up fenced hold", "kill api/0"]);
    let persisted = kit.last.iter().position(|action| matches!(action, Action::Persist { .. }));
    let killing = kit.last.iter().position(|action| matches!(action, Action::KillTree { .. }));
    assert!(persisted < killing, "on record before it is done");
    words = kit.persist();
    assert!(words.is_empty(), "nothing is proven yet: {words:?}");
    assert_eq!(kit.record("api").standing, Standing::Proving);
    kit.now.mono.0 += 250_000;
    kit.now.wall.0 += 250_000;
    kit.wrote("api", Wrote::Kill, "cgroup.kill");
    kit.now.mono.0 += 1_750_000;
    kit.now.wall.0 += 1_750_000;
    assert_eq!(killed(&mut kit, "api"), ["release api/0", "answer 1: done"]);
    assert_eq!((kit.state("api"), kit.word_of("api")), (StateName::Stopped, "held"));
    assert_eq!(kit.why("api"), "fenced by the agent; until `unfence`");
    let record = kit.record("api");
    assert_eq!((record.standing, record.trigger), (Standing::Proven, Trigger::Operator));
    let steps: Vec<_> = record.steps.iter().map(|step| (step.level, step.proof.as_str())).collect();
    let proofs = [(FenceLevel::Kill, "its tree is empty"), (FenceLevel::Hold, "nothing runs, and nothing is started")];
    assert_eq!(steps, proofs);
    let kill = &record.steps[0];
    assert_eq!((kill.method.as_str(), kill.processes_before, kill.processes_after), ("cgroup.kill", 3, Some(0)));
    assert_eq!((kill.written_after_us, kill.proven_after_us), (Some(250), Some(2_000)));
    assert_eq!(kit.engine.next_deadline(), None, "at rest there is no wake-up");
    assert_eq!(kit.pass(Duration::from_secs(100_000)), [""; 0]);
}

#[test]
fn what_is_held_starts_with_unfence_only() {
    let mut kit = up(vec![service("api")]);
    kit.command(KILL, "api");
    kit.persist();
    killed(&mut kit, "api");
    for verb in [Verb::Start, Verb::RestartRolling, Verb::RestartAtOnce] {
        let words = kit.command(verb, "api");
        let [answer] = words.as_slice() else { panic!("{words:?}") };
        assert!(
            answer.contains("conflict, api is held (fenced by the agent;")
                && answer.ends_with("`mainstay unfence api` ends it"),
            "{answer}"
        );
    }
    let words = [kit.command(Verb::Unfence, "api"), kit.persist()].concat();
    assert_eq!(words, ["decide api Up", "spawn api/0 run 2", "answer 5: done"]);
    let past: Vec<_> = kit.engine.fences(kit.now).past.into_iter().cloned().collect();
    assert_eq!((past.len(), past[0].standing), (1, Standing::Released));
    assert!(past[0].ended.as_ref().is_some_and(|(_, why)| why == "by an operator"));
    assert!(kit.memory("api").probation.is_none(), "no probation by hand");
    kit.exec("api");
    assert_eq!((kit.state("api"), kit.why("api").as_str()), (StateName::Ready, ""));
}

#[test]
fn a_frozen_replica_keeps_its_state_and_its_deadlines_wait() {
    let mut api = probed(service("api"));
    api.watchdog = Some(Duration::from_secs(30));
    let mut kit = up(vec![api]);
    let words = kit.command(FREEZE, "api");
    assert_eq!(words, ["decide api Up fenced freeze", "freeze api/0", "gauge api/0"]);
    kit.persist();
    kit.wrote("api", Wrote::Freeze, "cgroup.freeze");
    assert_eq!(kit.pass(ms(35)), ["gauge api/0"; 3], "5, 10, 20 ms");
    assert_eq!(kit.gauged(Gauge { frozen: Some(false), ..kit.gauge("api") }), [""; 0]);
    assert_eq!(kit.gauged(frozen(&kit, "api")), ["answer 1: done"]);
    assert_eq!((kit.state("api"), kit.word_of("api")), (StateName::Ready, "frozen"));
    let shown = &kit.engine.service("api", kit.now).expect("known").replicas[0];
    assert_eq!(shown.since_wall(), kit.record("api").steps[0].decided, "not since it is ready");
    assert_eq!(kit.engine.next_deadline(), None);
    assert!(kit.pass(Duration::from_secs(3_600)).is_empty(), "neither probed nor aborted");
    let (replica, run) = (kit.id("api"), kit.run("api"));
    assert!(kit.step(Event::Notified { replica, run, message: NotifyMessage::Watchdog }).is_empty());
    let words = [kit.command(Verb::Unfence, "api"), kit.persist()].concat();
    assert_eq!(words, ["decide api Up", "thaw api/0", "answer 2: done"]);
    assert_eq!(kit.pass(Duration::from_secs(10)), ["probe api/0"]);
    kit.answer("api", Ok(()));
    assert!(!kit.pass(ms(19_900)).iter().any(|word| word.contains("SIGABRT")), "its whole time");
    let words = kit.pass(Duration::from_secs(1));
    assert!(words.contains(&"SIGABRT to main of api/0".to_owned()), "{words:?}");
}

#[test]
fn a_fence_of_another_level_ends_the_wait_for_the_first() {
    let mut kit = up(vec![service("api")]);
    kit.command(FREEZE, "api");
    kit.persist();
    let words = kit.command(THROTTLE, "api");
    assert!(words.iter().any(|word| word.starts_with("answer 1: conflict, a later `fence")), "{words:?}");
    assert!(!kit.persist().iter().any(|word| word.starts_with("answer 1")));
    // A kill is a hold: both have what they asked for.
    kit.command(HOLD, "api");
    kit.persist();
    kit.command(KILL, "api");
    kit.persist();
    let words = killed(&mut kit, "api");
    assert!(words.ends_with(&["answer 3: done".to_owned(), "answer 4: done".to_owned()]), "{words:?}");
}

#[test]
fn what_does_not_freeze_in_time_is_incomplete_and_looked_at_again() {
    let mut kit = up(vec![service("api")]);
    kit.command(FREEZE, "api");
    kit.persist();
    let words = kit.pass(Duration::from_secs(2));
    let looks = words.iter().filter(|word| *word == "gauge api/0").count();
    assert!((20..30).contains(&looks), "{looks}");
    assert!(
        words.last().is_some_and(|last| last.starts_with("answer 1: failed, api is fenced, but that is not proven"))
    );
    assert_eq!(kit.record("api").standing, Standing::Incomplete);
    assert_eq!(kit.pass(Duration::from_secs(10)), ["gauge api/0"; 2]);
    kit.gauged(frozen(&kit, "api"));
    assert_eq!((kit.record("api").standing, kit.engine.next_deadline()), (Standing::Proven, None));
}

#[test]
fn a_throttle_is_proven_by_what_the_kernel_counts() {
    let mut kit = up(vec![service("api")]);
    let words = kit.command(THROTTLE, "api");
    assert_eq!(words, ["decide api Up fenced throttle", "limit api/0", "gauge api/0"]);
    assert_eq!(kit.engine.limits(kit.id("api")).cpu_max_permille, Some(100));
    kit.persist();
    let reading = |kit: &Kit, throttled| Gauge { cpu_throttled: Some(throttled), ..kit.gauge("api") };
    kit.gauged(reading(&kit, 10));
    kit.wrote("api", Wrote::Limits, "cpu.max");
    kit.gauged(reading(&kit, 12));
    assert!(kit.pass(ms(5)).contains(&"gauge api/0".to_owned()));
    assert_eq!(kit.record("api").standing, Standing::Proving);
    assert_eq!(kit.gauged(reading(&kit, 31)), ["answer 1: done"]);
    assert_eq!(kit.record("api").steps[0].proof, "nr_throttled 12 -> 31");
    assert_eq!((kit.word_of("api"), kit.state("api")), ("throttled", StateName::Ready));
    assert_eq!(kit.engine.next_deadline(), None);
    // A throttled service is restarted as ever, within its limits.
    assert_eq!(kit.exit("api", 1), ["release api/0"]);
    assert_eq!(kit.pass(Duration::from_secs(1)), ["spawn api/0 run 2"]);
    kit.exec("api");
    assert_eq!(kit.engine.limits(kit.id("api")).cpu_max_permille, Some(100));
    let words = [kit.command(Verb::Unfence, "api"), kit.persist()].concat();
    assert_eq!(words, ["decide api Up", "limit api/0", "answer 2: done"]);
    assert_eq!(kit.engine.limits(kit.id("api")), Limits::default());
}

#[test]
fn a_throttled_service_that_is_idle_is_proven_by_what_it_uses() {
    let mut kit = up(vec![service("api")]);
    kit.command(THROTTLE, "api");
    kit.persist();
    kit.wrote("api", Wrote::Limits, "cpu.max");
    let reading = |kit: &Kit, used| Gauge { cpu_usec: Some(used), cpu_throttled: Some(7), ..kit.gauge("api") };
    kit.gauged(reading(&kit, 1_000));
    kit.pass(ms(100));
    kit.gauged(reading(&kit, 1_000));
    assert_eq!(kit.record("api").standing, Standing::Proving, "too soon to say");
    kit.pass(ms(900));
    kit.gauged(reading(&kit, 51_000));
    assert_eq!(kit.record("api").steps[0].proof, "it used 5.0% of a CPU, 10.0% are allowed");
}

#[test]
fn throttling_is_no_reason_to_kill_it_for_its_probes() {
    let mut kit = up(vec![probed(service("api"))]);
    kit.command(THROTTLE, "api");
    let words = kit.pass(Duration::from_secs(120));
    assert!(words.iter().all(|word| !word.contains("SIG")), "{words:?}");
    assert_eq!(kit.state("api"), StateName::Degraded);
    kit.command(Verb::Unfence, "api");
    let words = kit.pass(Duration::from_secs(20));
    assert!(!words.iter().any(|word| word.contains("SIGABRT")), "as many tries as anybody: {words:?}");
    assert!(kit.pass(Duration::from_secs(20)).iter().any(|word| word.contains("SIGABRT")));
}

#[test]
fn a_member_in_uninterruptible_sleep_is_never_called_fenced() {
    let mut kit = up(vec![service("api")]);
    kit.command(HOLD, "api");
    kit.persist();
    assert_eq!(kit.pass(Duration::from_secs(5)), ["inspect api/0"]);
    let asleep = Remaining {
        pid: 7,
        comm: "db".to_owned(),
        state: 'D',
        wchan: "folio_wait_bit_common".to_owned(),
        devices: vec!["dm-0".to_owned()],
    };
    let (replica, run) = (kit.id("api"), kit.run("api"));
    let words = kit.step(Event::TreeRemains { replica, run, processes: vec![asleep.clone()] });
    assert!(
        words[0].starts_with("answer 1: failed, api is stuck: killed, but not gone: pid 7 (db) in state D"),
        "{words:?}"
    );
    let record = kit.record("api");
    assert_eq!((record.standing, record.remaining), (Standing::Incomplete, vec![asleep]));
    assert_eq!((kit.state("api"), kit.word_of("api")), (StateName::Stuck, "stuck"));
    // Looked at again, more and more slowly, and told once.
    let words = kit.pass(Duration::from_secs(60));
    assert!(words.len() < 20 && words.iter().all(|word| word == "kill api/0" || word == "inspect api/0"), "{words:?}");
    assert!(!kit.notes().iter().any(|note| note.contains("incomplete")));
    assert_eq!(killed(&mut kit, "api"), ["release api/0"]);
    let record = kit.record("api");
    assert_eq!((record.standing, record.remaining.len(), kit.word_of("api")), (Standing::Proven, 0, "held"));
}

#[test]
fn it_leaves_its_balancers_before_anything_else_happens() {
    let mut api = service("api");
    (api.replicas, api.port) = (2, Some(9_000));
    let mut kit = Kit::balanced(vec![api], vec![balancer("front", "api")]);
    kit.exec("api/0");
    kit.exec("api/1");
    let words = kit.command(FREEZE, "api/1");
    assert_eq!(words[0], "balance front: api/0 Up, api/1 Draining");
    assert!(words.contains(&"freeze api/1".to_owned()));
    let record = kit.record("api/1");
    assert_eq!((record.left, record.left_at.is_some()), (vec!["front".to_owned()], true));
    let words = kit.command(HOLD, "api/1");
    assert_eq!(words[0], "balance front: api/0 Up, api/1 Fenced", "what it has is reset");
    assert!(words.ends_with(&["thaw api/1".to_owned(), "kill api/1".to_owned()]), "{words:?}");
    assert!(killed(&mut kit, "api/1").contains(&"balance front: api/0 Up, api/1 Out".to_owned()));
    kit.command(Verb::Unfence, "api/1");
    kit.exec("api/1");
    assert_eq!(kit.words().first().map(String::as_str), Some("balance front: api/0 Up, api/1 Up"));
}

#[test]
fn a_dependent_sees_what_is_held_or_frozen_as_gone_and_what_is_throttled_as_up() {
    let mut web = service("web");
    web.requires = vec!["db".to_owned()];
    let mut kit = up(vec![service("db"), web]);
    kit.command(THROTTLE, "db");
    assert_eq!(kit.state("web"), StateName::Ready);
    let words = kit.command_waiting(FREEZE, "db", Wait::Decision);
    assert!(words.contains(&"SIGTERM to main of web/0".to_owned()), "{words:?}");
    kit.exit("web", 0);
    assert_eq!((kit.state("web"), kit.why("web").as_str()), (StateName::Waiting, "waiting for db (frozen)"));
    let words = kit.command(Verb::Unfence, "db");
    assert!(
        words.ends_with(&["decide db Up", "limit db/0", "thaw db/0", "spawn web/0 run 2"].map(str::to_owned)),
        "{words:?}"
    );
    kit.exec("web");
    kit.command(HOLD, "db");
    assert!(kit.words().contains(&"kill db/0".to_owned()), "a kill waits for no dependent");
    assert_eq!(kit.state("web"), StateName::Stopping);
}

#[test]
fn a_hold_by_hand_outlives_the_agent_and_the_host() {
    let mut api = service("api");
    api.replicas = 2;
    let mut kit = up(vec![api]);
    kit.exec("api/1");
    kit.command(HOLD, "api/1");
    killed(&mut kit, "api/1");
    let first = kit.record("api/1").id;
    let processes = [("api/0", FoundProcess::Alive { pid: 100 }), ("api/1", FoundProcess::Gone { exit: None })];
    assert!(kit.heir(&processes).is_empty());
    assert_eq!((kit.word_of("api/1"), kit.record("api/1").id), ("held", first));
    assert_eq!(kit.reboot(), ["spawn api/0 run 1"]);
    assert_eq!(kit.word_of("api/1"), "held");
    let record = kit.record("api/1");
    assert!(record.id > first, "a number is never given twice: {} after {first}", record.id);
    assert_eq!((record.standing, record.evidence), (Standing::Proven, vec!["fenced by the agent".to_owned()]));
    assert!(kit.command(Verb::Unfence, "api/1").contains(&"spawn api/1 run 1".to_owned()));
    assert_eq!(kit.reboot(), ["spawn api/0 run 1", "spawn api/1 run 1"]);
}

#[test]
fn the_next_agent_goes_on_with_every_half_done_fence() {
    // A kill: its processes are still there, or have ended meanwhile, or the main one alone.
    for (process, then) in [
        (FoundProcess::Alive { pid: 100 }, vec!["kill api/0"]),
        (FoundProcess::Leftovers { remaining: 2 }, vec!["kill api/0"]),
        (FoundProcess::Gone { exit: None }, vec![]),
    ] {
        let gone = matches!(process, FoundProcess::Gone { .. });
        let mut kit = up(vec![service("api")]);
        kit.command(HOLD, "api");
        assert_eq!(kit.heir(&[("api", process)]), then);
        if !gone {
            assert_eq!(kit.record("api").standing, Standing::Proving);
            if then.is_empty() {
                killed(&mut kit, "api")
            } else {
                kit.empty("api")
            };
        }
        assert_eq!((kit.word_of("api"), kit.record("api").standing), ("held", Standing::Proven));
        assert_eq!(kit.record("api").steps.len(), 2);
    }
    // A freeze that was not proven.
    let mut kit = up(vec![service("api")]);
    kit.command(FREEZE, "api");
    assert_eq!(kit.heir(&[("api", FoundProcess::Alive { pid: 100 })]), ["freeze api/0", "gauge api/0"]);
    kit.gauged(frozen(&kit, "api"));
    assert_eq!(kit.record("api").standing, Standing::Proven);
    // A frozen one that an operator had unfenced before this agent could thaw it.
    let mut found = kit.found("api", FoundProcess::Alive { pid: 100 });
    found.memory.fence = None;
    let kit = Kit::begin_at(kit.now.mono, vec![service("api")], vec![found], Vec::new());
    assert!(kit.words().contains(&"thaw api/0".to_owned()), "{:?}", kit.words());
}

#[test]
fn a_stop_of_a_frozen_service_thaws_it_first_and_the_fence_stays() {
    let mut kit = up(vec![service("api")]);
    kit.command(FREEZE, "api");
    let words = kit.command(Verb::Stop, "api");
    let end = ["thaw api/0", "SIGTERM to main of api/0"];
    assert_eq!(words[words.len() - 2..], end, "{words:?}");
    assert!(kit.exit("api", 0).contains(&"release api/0".to_owned()));
    assert_eq!(kit.word_of("api"), "held", "there is nothing to freeze any more");
    kit.command(Verb::Unfence, "api");
    assert_eq!((kit.state("api"), kit.why("api").as_str()), (StateName::Stopped, "stopped by an operator"));
}

#[test]
fn the_end_of_the_agent_thaws_what_is_frozen_and_stops_it() {
    let mut kit = up(vec![service("api"), service("web")]);
    kit.command(FREEZE, "api");
    kit.command(HOLD, "web");
    killed(&mut kit, "web");
    let words = kit.step(Event::Shutdown { caller: Caller::Agent });
    assert!(words.ends_with(&["thaw api/0".to_owned(), "SIGTERM to main of api/0".to_owned()]), "{words:?}");
    let words = kit.exit("api", 0);
    assert!(words.contains(&"exit Clean".to_owned()), "{words:?}");
}

#[test]
fn a_service_that_leaves_the_configuration_leaves_no_fence() {
    let mut kit = up(vec![service("api"), service("web"), service("db")]);
    for (verb, name) in [(FREEZE, "api"), (HOLD, "web"), (THROTTLE, "db")] {
        kit.command(verb, name);
    }
    killed(&mut kit, "web");
    let words = kit.step(Event::Reload { request: None, caller: Caller::Agent, plan: Box::new(Kit::plan(Vec::new())) });
    let thawed = words.iter().position(|word| word == "thaw api/0");
    assert!(thawed < words.iter().position(|word| word == "SIGTERM to main of api/0"), "{words:?}");
    assert!(words.contains(&"forget web/0".to_owned()));
    kit.exit("api", 0);
    kit.exit("db", 0);
    assert_eq!(kit.engine.fences(kit.now).active.len(), 0);
    assert_eq!(kit.engine.fences(kit.now).past.len(), 3);
    assert_eq!(kit.engine.next_deadline(), None);
}

#[test]
fn a_hold_by_hand_outlives_the_absence_of_its_service() {
    let mut kit = up(vec![service("api")]);
    kit.command(HOLD, "api");
    killed(&mut kit, "api");
    let reload = |kit: &mut Kit, services| {
        kit.step(Event::Reload { request: None, caller: Caller::Agent, plan: Box::new(Kit::plan(services)) })
    };
    reload(&mut kit, Vec::new());
    assert!(kit.engine.service("api", kit.now).is_none());
    reload(&mut kit, vec![service("web")]);
    let words = reload(&mut kit, vec![service("api"), service("web")]);
    assert!(!words.iter().any(|word| word.starts_with("spawn api")), "{words:?}");
    assert_eq!(kit.word_of("api"), "held");
    let words = [kit.command(Verb::Unfence, "api"), kit.persist()].concat();
    assert!(words.iter().any(|word| word.starts_with("spawn api/0")), "{words:?}");
}

#[test]
fn what_cannot_be_thawed_is_told_and_tried_again() {
    let mut kit = up(vec![service("api")]);
    kit.command(FREEZE, "api");
    kit.persist();
    kit.gauged(frozen(&kit, "api"));
    kit.command(Verb::Unfence, "api");
    kit.persist();
    let (replica, run, at) = (kit.id("api"), kit.run("api"), kit.now.mono);
    let failed = |kit: &mut Kit| {
        let result = Err("EIO".to_owned());
        kit.step(Event::Wrote { replica, run, what: Wrote::Thaw, at, result });
        assert!(kit.memory("api").frozen);
    };
    failed(&mut kit);
    assert!(kit.notes().iter().any(|note| note.contains("cannot be thawed: EIO")), "{:?}", kit.notes());
    assert_eq!(kit.pass(Duration::from_secs(5)), ["thaw api/0"]);
    failed(&mut kit);
    assert_eq!(kit.pass(Duration::from_secs(5)), ["thaw api/0"]);
    kit.wrote("api", Wrote::Thaw, "cgroup.freeze");
    assert!(!kit.memory("api").frozen);
    assert!(kit.pass(Duration::from_secs(60)).is_empty());
}

#[test]
fn a_new_replica_of_a_fenced_service_is_fenced_too() {
    let mut kit = up(vec![service("api")]);
    kit.command(HOLD, "api");
    killed(&mut kit, "api");
    let mut api = service("api");
    api.replicas = 2;
    let plan = Box::new(Kit::plan(vec![api]));
    assert!(kit.step(Event::Reload { request: None, caller: Caller::Agent, plan }).is_empty());
    assert_eq!((kit.word_of("api/0"), kit.word_of("api/1")), ("held", "held"));
}

#[test]
fn limits_that_change_in_the_configuration_come_into_force_at_once() {
    let limited = |pids_max| {
        let mut api = service("api");
        let limits = Limits { pids_max: Some(pids_max), cpu_max_permille: Some(50), ..Limits::default() };
        api.resources = Some(Box::new(Resources { limits, required: false }));
        api
    };
    let mut kit = up(vec![limited(8), service("web")]);
    let reload = |kit: &mut Kit, api| {
        let plan = Box::new(Kit::plan(vec![api, service("web")]));
        kit.step(Event::Reload { request: None, caller: Caller::Agent, plan })
    };
    assert_eq!(reload(&mut kit, limited(9)), ["limit api/0"]);
    assert!(reload(&mut kit, limited(9)).is_empty());
    kit.command(THROTTLE, "api");
    let limits = kit.engine.limits(kit.id("api"));
    assert_eq!((limits.pids_max, limits.cpu_max_permille), (Some(9), Some(50)), "the tighter of both");
    assert_eq!(reload(&mut kit, service("api")), ["limit api/0"]);
    assert_eq!(kit.engine.limits(kit.id("api")).cpu_max_permille, Some(100));
    // An heir whose plan says otherwise loosens what its forerunner had tightened.
    let mut heir = up(vec![limited(8)]);
    let found = heir.found("api", FoundProcess::Alive { pid: 100 });
    heir = Kit::begin_at(heir.now.mono, vec![service("api")], vec![found], Vec::new());
    assert_eq!(heir.words(), ["limit api/0"]);
}

#[test]
fn a_done_task_can_be_held_and_is_done_again_afterwards() {
    let mut setup = service("setup");
    setup.kind = Kind::Oneshot;
    let mut tidy = service("tidy");
    tidy.kind = Kind::Every(Duration::from_secs(900));
    let mut kit = up(vec![setup, tidy]);
    kit.exit("setup", 0);
    kit.exit("tidy", 0);
    for name in ["setup", "tidy"] {
        let words = [kit.command(HOLD, name), kit.persist()].concat();
        assert!(words.last().is_some_and(|last| last.ends_with("done")), "{words:?}");
        assert_eq!(kit.word_of(name), "held");
    }
    assert!(kit.pass(Duration::from_secs(2_000)).is_empty(), "no period begins");
    kit.command(Verb::Unfence, "setup");
    assert_eq!(kit.state("setup"), StateName::Done);
    let words = kit.command(Verb::Unfence, "tidy");
    assert!(words.contains(&"spawn tidy/0 run 2".to_owned()), "its period is long over: {words:?}");
}

#[test]
fn a_failing_disk_and_a_fence_do_not_thaw_each_others_freezing() {
    let mut api = service("api");
    let needs = Needs { data: vec!["/srv/data".into()], nics: Vec::new(), on_disk_failing: OnDiskFailing::Freeze };
    api.needs = Some(Box::new(needs));
    let mut kit = Kit::new(vec![api]);
    kit.step(devices(vec![disk("vda", &[])], vec![mount("/srv", Some("vda"))]));
    kit.exec("api");
    kit.command(FREEZE, "api");
    assert!(kit.check(CheckKind::DiskHung, "vda", Health::Failing, "no answer").is_empty());
    kit.command(Verb::Unfence, "api");
    assert!(!kit.words().contains(&"thaw api/0".to_owned()), "its disk still fails");
    kit.command(FREEZE, "api");
    assert!(kit.check(CheckKind::DiskHung, "vda", Health::Ok, "answers").is_empty());
    assert!(kit.memory("api").frozen, "the fence stands");
    assert!(kit.command(Verb::Unfence, "api").contains(&"thaw api/0".to_owned()));
}

#[test]
fn another_fence_by_hand_takes_the_place_of_the_first() {
    let mut kit = up(vec![service("api")]);
    kit.command_waiting(FREEZE, "api", Wait::Decision);
    kit.command_waiting(THROTTLE, "api", Wait::Decision);
    assert!(kit.words().contains(&"thaw api/0".to_owned()) && kit.words().contains(&"limit api/0".to_owned()));
    kit.command_waiting(HOLD, "api", Wait::Decision);
    killed(&mut kit, "api");
    let before = kit.record("api").id;
    kit.command_waiting(KILL, "api", Wait::Decision);
    assert_eq!(kit.record("api").id, before, "by hand a kill is a hold");
    assert_eq!(kit.record("api").evidence.len(), 2);
    let closed = kit.engine.fences(kit.now).past.len();
    assert_eq!(closed, 2);
}

#[test]
fn ended_records_are_bounded_and_each_is_told_whole() {
    let mut kit = up(vec![service("api"), service("web")]);
    kit.command(HOLD, "web");
    killed(&mut kit, "web");
    for _ in 0..70 {
        kit.command_waiting(THROTTLE, "api", Wait::Decision);
        kit.command_waiting(Verb::Unfence, "api", Wait::Decision);
        let closed = kit.last.iter().any(|action| {
            let Action::Note(note) = action else { return false };
            matches!(&note.kind, NoteKind::Fence(FenceNote::Closed { record }) if record.service == "api")
        });
        assert!(closed);
    }
    let fences = kit.engine.fences(kit.now);
    assert_eq!((fences.past.len(), fences.active.len()), (64, 1), "one that stands is never dropped");
}

#[test]
fn a_reading_that_was_asked_for_in_an_earlier_freeze_does_not_prove_the_next_one() {
    let mut kit = up(vec![service("api")]);
    kit.command(FREEZE, "api");
    kit.persist();
    let earlier = kit.engine.fence.asked;
    kit.command(Verb::Unfence, "api");
    kit.persist();
    kit.command(FREEZE, "api");
    kit.persist();
    let gauge = frozen(&kit, "api");
    kit.step(Event::Gauged { asked: earlier, gauges: vec![gauge.clone()] });
    assert_eq!(kit.record("api").standing, Standing::Proving);
    kit.gauged(gauge);
    assert_eq!(kit.record("api").standing, Standing::Proven);
}

#[test]
fn a_throttle_by_hand_of_what_does_not_run_is_proven_when_it_runs() {
    let mut kit = up(vec![service("api")]);
    kit.command(Verb::Stop, "api");
    kit.persist();
    kit.exit("api", 0);
    let words = [kit.command(THROTTLE, "api"), kit.persist()].concat();
    assert_eq!(words, ["decide api Down fenced throttle", "answer 2: done"], "nothing to wait for");
    assert_eq!(kit.record("api").standing, Standing::Proving);
    assert!(kit.record("api").steps[0].proof.starts_with("nothing runs"));
    assert_eq!(kit.why("api"), "fenced by the agent (from its next start on); until `unfence`");
    assert_eq!(kit.engine.next_deadline(), None);
    kit.heir(&[("api", FoundProcess::Gone { exit: None })]);
    assert_eq!((kit.record("api").standing, kit.engine.next_deadline()), (Standing::Proving, None));
    let words = [kit.command(Verb::Start, "api"), kit.persist()].concat();
    assert!(words.contains(&"spawn api/0 run 2".to_owned()), "{words:?}");
    let words = kit.exec("api");
    assert!(words.contains(&"gauge api/0".to_owned()), "{words:?}");
    assert_eq!(kit.record("api").steps[0].method, "before its start");
    let reading = |kit: &Kit, throttled| Gauge { cpu_throttled: Some(throttled), ..kit.gauge("api") };
    kit.gauged(reading(&kit, 0));
    assert_eq!(kit.record("api").standing, Standing::Proving);
    kit.gauged(reading(&kit, 3));
    assert_eq!(kit.record("api").standing, Standing::Proven);
    assert_eq!(kit.record("api").steps[0].proof, "nr_throttled 0 -> 3");
}

#[test]
fn what_is_on_disk_of_a_service_that_is_not_configured_holds_when_it_comes_back() {
    let mut api = service("api");
    api.replicas = 2;
    let mut kit = up(vec![api.clone(), service("web")]);
    kit.exec("api/1");
    kit.command(HOLD, "api/1");
    kit.persist();
    killed(&mut kit, "api/1");
    let reload = |kit: &mut Kit, services| {
        kit.step(Event::Reload { request: None, caller: Caller::Agent, plan: Box::new(Kit::plan(services)) })
    };
    reload(&mut kit, vec![service("web")]);
    kit.exit("api/0", 0);
    kit.heir(&[("web", FoundProcess::Alive { pid: 100 })]);
    let words = reload(&mut kit, vec![service("api"), service("web")]);
    assert!(words.iter().any(|word| word.starts_with("spawn api/0")), "{words:?}");
    let words = reload(&mut kit, vec![api, service("web")]);
    assert!(!words.iter().any(|word| word.starts_with("spawn api/1")), "{words:?}");
    assert_eq!(kit.word_of("api/1"), "held");
}

/// Found by the simulation: the word that the program runs may be the first one of its process.
#[test]
fn what_is_throttled_at_its_birth_is_limited_whatever_is_heard_of_it_first() {
    let mut kit = Kit::new(vec![service("api")]);
    kit.command(THROTTLE, "api");
    kit.persist();
    let (replica, run) = (kit.id("api"), kit.run("api"));
    let words = kit.step(Event::Executed { replica, run });
    assert!(words.contains(&"limit api/0".to_owned()), "{words:?}");
}
