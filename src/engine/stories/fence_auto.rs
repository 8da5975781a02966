//! Fences of the agent's own: their causes, their limits, their end.

use std::time::Duration;

use crate::engine::action::Action;
use crate::engine::balance::plan::BalancerPlan;
use crate::engine::event::{Event, FoundProcess, Verb};
use crate::engine::fence::FenceMemory;
use crate::engine::fence::gauge::{Gauge, Wrote};
use crate::engine::fence::plan::{FenceLevel, FencePlan, Limits, Mode, ReleaseRule, Resources, Rung, Triggers};
use crate::engine::fence::record::{Record, Standing, Trigger};
use crate::engine::host::kind::CheckKind;
use crate::engine::host::plan::{AlertOn, AlertPlan};
use crate::engine::host::sample::{Sample, System};
use crate::engine::host::{Health, HostEvent};
use crate::engine::plan::{Alive, Budget, Role, ServicePlan};
use crate::engine::testkit::{Kit, balancer, ms, service, tcp};
use crate::engine::types::{Exit, StateName, Time};

const FIVE: Duration = Duration::from_secs(5);
const START: Time = Time(1_000_000_000_000);
const GIB: u64 = 1 << 30;

/// With limits, every trigger on, and nobody who must stay well.
fn limited(name: &str) -> ServicePlan {
    let mut plan = service(name);
    let limits =
        Limits { cpu_max_permille: Some(500), pids_max: Some(10), memory_max_bytes: Some(GIB), ..Limits::default() };
    plan.resources = Some(Box::new(Resources { limits, required: false }));
    plan.min_healthy = 0;
    plan.fence = Some(Box::new(FencePlan {
        triggers: Triggers { cpu: Mode::On, ..Triggers::default() },
        ..FencePlan::default()
    }));
    plan
}

fn with_fence(mut plan: ServicePlan, change: impl FnOnce(&mut FencePlan)) -> ServicePlan {
    let mut fence = plan.fence.take().unwrap_or_default();
    change(&mut fence);
    plan.fence = Some(fence);
    plan
}

fn ladder(plan: ServicePlan, rungs: &[Rung]) -> ServicePlan {
    with_fence(plan, |fence| fence.ladder = rungs.to_vec())
}

fn up(services: Vec<ServicePlan>) -> Kit {
    up_with(services, Vec::new())
}

fn up_with(services: Vec<ServicePlan>, balancers: Vec<BalancerPlan>) -> Kit {
    let replicas: Vec<(String, u16)> = services.iter().map(|plan| (plan.name.clone(), plan.replicas)).collect();
    let mut kit = Kit::balanced(services, balancers);
    for (name, replicas) in replicas {
        for index in 0..replicas {
            kit.exec(&format!("{name}/{index}"));
        }
    }
    kit
}

/// The host has 8 GiB.
fn sized(mut kit: Kit) -> Kit {
    let system = System { memory_total_bytes: 8 * GIB, memory_available_bytes: 4 * GIB, ..System::default() };
    let sample = Box::new(Sample::System(Box::new(system)));
    kit.step(Event::Host(Box::new(HostEvent::Sampled { role: Role::Checks, sample })));
    kit
}

/// Readings for so long, each with this much more of what `change` says.
fn readings(kit: &mut Kit, name: &str, times: u64, change: impl Fn(&mut Gauge, u64)) -> Vec<String> {
    let mut words = Vec::new();
    for _ in 0..times {
        words.extend(kit.pass(FIVE));
        let mut gauge = kit.gauge(name);
        change(&mut gauge, kit.now.mono.0 / 1_000_000_000);
        words.extend(kit.gauged(gauge));
    }
    words
}

fn hog(gauge: &mut Gauge, seconds: u64) {
    (gauge.cpu_periods, gauge.cpu_throttled) = (Some(seconds * 10), Some(seconds * 10));
}

fn bomb(gauge: &mut Gauge, seconds: u64) {
    (gauge.pids, gauge.pids_refused) = (Some(10), Some(seconds));
}

fn stalling(gauge: &mut Gauge, seconds: u64) {
    (gauge.memory_full_avg10, gauge.pages_scanned, gauge.memory_bytes) = (Some(6_000), Some(seconds), Some(GIB));
}

fn killed(kit: &mut Kit, name: &str) -> Vec<String> {
    kit.exit_leaving(name, Exit::Signal { signal: 9, core: false }, 0)
}

fn past(kit: &Kit) -> Vec<Record> {
    kit.engine.fences(kit.now).past.into_iter().cloned().collect()
}

fn frozen(kit: &mut Kit, name: &str) {
    let gauge = Gauge { frozen: Some(true), ..kit.gauge(name) };
    kit.gauged(gauge);
}

#[test]
fn a_host_whose_services_have_no_limits_is_asked_nothing() {
    let kit = up(vec![service("api")]);
    assert_eq!(kit.engine.next_deadline(), None);
    let mut kit = up(vec![limited("api")]);
    assert_eq!(kit.pass(FIVE), ["gauge api/0"]);
    kit.command(Verb::Stop, "api");
    kit.persist();
    kit.exit("api", 0);
    kit.pass(FIVE);
    assert_eq!(kit.engine.next_deadline(), None);
}

#[test]
fn a_lasting_cause_climbs_the_ladder_to_a_hold_with_a_proof_at_each_step() {
    let mut kit = up(vec![limited("api")]);
    let words = readings(&mut kit, "api", 12, hog);
    assert!(words.iter().all(|word| word == "gauge api/0"), "a minute is not over: {words:?}");
    let words = readings(&mut kit, "api", 1, hog);
    assert_eq!(words[1..], ["decide api Up fences 1", "limit api/0", "gauge api/0"]);
    let record = kit.record("api");
    assert_eq!((record.trigger, record.run.0), (Trigger::Cpu, 1));
    assert!(record.fault_seen < record.steps[0].decided && record.evidence[0].contains("nine of ten"));
    kit.wrote("api", Wrote::Limits, "cpu.max");
    assert_eq!(kit.word_of("api"), "throttled");
    assert!(kit.why("api").contains("frozen unless it mends in 10s"), "{}", kit.why("api"));
    let words = [readings(&mut kit, "api", 2, hog), kit.pass(ms(500))].concat();
    assert!(words.contains(&"freeze api/0".to_owned()), "{words:?}");
    assert!(kit.record("api").steps[0].proof.starts_with("nr_throttled"));
    frozen(&mut kit, "api");
    // What stands still neither uses anything nor has mended.
    let still = |gauge: &mut Gauge, _| (gauge.cpu_periods, gauge.cpu_throttled) = (Some(9_999), Some(9_999));
    readings(&mut kit, "api", 1, still);
    let words = readings(&mut kit, "api", 2, still);
    assert!(words.ends_with(&["thaw api/0".to_owned(), "kill api/0".to_owned()]), "{words:?}");
    killed(&mut kit, "api");
    assert_eq!((kit.state("api"), kit.word_of("api")), (StateName::Stopped, "held"));
    assert_eq!(kit.why("api"), "it is at its CPU limit; released in 10m");
    let levels: Vec<FenceLevel> = kit.record("api").steps.iter().map(|step| step.level).collect();
    assert_eq!(levels, FenceLevel::ALL);
    assert!(kit.record("api").steps.iter().all(|step| step.proven.is_some()), "{:?}", kit.record("api"));
    assert_eq!(kit.memory("api").failures, 0, "not charged to its budget");
    kit.pass(FIVE);
    assert_eq!(kit.engine.next_deadline(), None, "nobody is asked any more");
}

#[test]
fn a_cause_that_ends_lifts_the_fence_after_a_quiet_step() {
    let mut kit = up(vec![limited("api")]);
    let words = readings(&mut kit, "api", 4, bomb);
    assert!(words.contains(&"limit api/0".to_owned()), "{words:?}");
    let quiet = |gauge: &mut Gauge, _| (gauge.pids, gauge.pids_refused) = (Some(3), Some(9_999));
    let words = readings(&mut kit, "api", 5, quiet);
    assert!(!words.contains(&"freeze api/0".to_owned()), "{words:?}");
    assert!(kit.fence_is_none("api") && kit.memory("api").probation.is_some());
    // Half of the CPU time, for five minutes of ready time.
    let limits = kit.engine.limits(kit.id("api"));
    assert_eq!((limits.cpu_max_permille, limits.pids_max), (Some(250), Some(10)));
    assert!(kit.why("api").starts_with("on probation, it forks beyond its limit"), "{}", kit.why("api"));
    let words = kit.pass(Duration::from_secs(300));
    assert!(words.contains(&"limit api/0".to_owned()), "{words:?}");
    assert_eq!((kit.memory("api").fences, kit.why("api").as_str()), (0, ""));
    assert_eq!(kit.engine.limits(kit.id("api")).cpu_max_permille, Some(500), "reversal is exact");
    assert_eq!(past(&kit)[0].standing, Standing::Released);
}

#[test]
fn a_failure_on_probation_holds_twice_as_long_up_to_the_cap() {
    let plan = ladder(limited("api"), &[Rung::Kill, Rung::Hold]);
    let mut kit = up(vec![plan]);
    readings(&mut kit, "api", 4, bomb);
    killed(&mut kit, "api");
    let mut held = Vec::new();
    for _ in 0..6 {
        let before = kit.now.boot;
        while kit.word_of("api") == "held" {
            kit.pass(Duration::from_secs(60));
        }
        held.push(kit.now.boot.since(before).as_secs() / 60);
        kit.exec("api");
        kit.exit("api", 1);
        assert_eq!((kit.word_of("api"), kit.record("api").trigger), ("held", Trigger::Probation));
    }
    assert_eq!(held, [10, 20, 40, 80, 120, 120]);
    assert_eq!((kit.memory("api").failures, kit.memory("api").fences), (0, 7));
    // The count outlives a reboot, the hold does not.
    assert!(kit.reboot().contains(&"spawn api/0 run 1".to_owned()));
    assert_eq!(kit.memory("api").fences, 7);
    kit.command(Verb::Unfence, "api");
    assert_eq!(kit.memory("api").fences, 0, "an operator wipes the slate");
}

#[test]
fn a_hold_goes_by_the_boot_clock_and_over_the_agents_death() {
    let plan = ladder(limited("api"), &[Rung::Kill, Rung::Hold]);
    let mut kit = up(vec![plan]);
    readings(&mut kit, "api", 4, bomb);
    killed(&mut kit, "api");
    kit.pass(Duration::from_secs(300));
    let id = kit.record("api").id;
    // The host sleeps for four minutes, then the agent is replaced.
    kit.now.boot = kit.now.boot.after(Duration::from_secs(240));
    kit.heir(&[("api", FoundProcess::Gone { exit: None })]);
    assert_eq!((kit.word_of("api"), kit.record("api").id), ("held", id));
    assert!(kit.pass(Duration::from_secs(59)).is_empty());
    assert_eq!(kit.pass(Duration::from_secs(2)), ["spawn api/0 run 2"]);
    let processes = [("api", FoundProcess::Alive { pid: 100 })];
    kit.exec("api");
    kit.pass(Duration::from_secs(200));
    kit.heir(&processes);
    assert!(kit.words().contains(&"limit api/0".to_owned()), "half its limits: {:?}", kit.words());
    assert_eq!(kit.engine.limits(kit.id("api")).cpu_max_permille, Some(250));
    kit.pass(Duration::from_secs(101));
    assert!(kit.memory("api").probation.is_none(), "its ready time counts on");
}

#[test]
fn what_is_frozen_by_hand_on_probation_has_all_its_limits_afterwards() {
    let mut kit = up(vec![ladder(limited("api"), &[Rung::Kill, Rung::Hold])]);
    readings(&mut kit, "api", 4, bomb);
    killed(&mut kit, "api");
    kit.pass(Duration::from_secs(601));
    kit.exec("api");
    assert_eq!(kit.engine.limits(kit.id("api")).cpu_max_permille, Some(250));
    kit.command(Verb::Fence(FenceLevel::Freeze), "api");
    let words = kit.command(Verb::Unfence, "api");
    assert!(words.contains(&"limit api/0".to_owned()), "it ran with half of them: {words:?}");
    assert_eq!(kit.engine.limits(kit.id("api")).cpu_max_permille, Some(500));
}

#[test]
fn a_manual_release_waits_for_an_operator() {
    let plan = ladder(limited("api"), &[Rung::Kill, Rung::Hold]);
    let mut kit = up(vec![with_fence(plan, |fence| fence.release = ReleaseRule::Manual)]);
    readings(&mut kit, "api", 4, bomb);
    killed(&mut kit, "api");
    kit.pass(Duration::from_secs(1_000_000));
    assert_eq!((kit.word_of("api"), kit.why("api").as_str()), ("held", "it forks beyond its limit; until `unfence`"));
    assert!(kit.command(Verb::Unfence, "api").contains(&"spawn api/0 run 2".to_owned()));
    assert!(kit.memory("api").probation.is_none());
}

#[test]
fn a_kill_as_the_last_step_leaves_it_to_the_restart_policy() {
    let mut kit = up(vec![ladder(limited("api"), &[Rung::Kill])]);
    assert!(readings(&mut kit, "api", 4, bomb).ends_with(&["kill api/0".to_owned()]));
    killed(&mut kit, "api");
    assert_eq!((kit.state("api"), kit.memory("api").failures), (StateName::Backoff, 1));
    assert!(kit.memory("api").probation.is_some());
    assert_eq!(kit.pass(Duration::from_secs(1)), ["spawn api/0 run 2"]);
}

#[test]
fn stalling_for_memory_needs_two_signals_and_more_than_its_share() {
    let tight = || {
        let mut kit = sized(up(vec![limited("api"), service("web")]));
        kit.check(CheckKind::PressureMemory, "", Health::Degraded, "some 12 %");
        kit
    };
    let mut kit = tight();
    assert_eq!(kit.pass(FIVE), ["gauge api/0, web/0"], "everybody while memory is short");
    let one_signal = |gauge: &mut Gauge, _| {
        (gauge.memory_full_avg10, gauge.pages_scanned, gauge.memory_bytes) = (Some(9_000), Some(1), Some(GIB));
    };
    assert!(!readings(&mut kit, "api", 6, one_signal).contains(&"kill api/0".to_owned()));
    let small = |gauge: &mut Gauge, seconds| {
        stalling(gauge, seconds);
        gauge.memory_bytes = Some(GIB / 2);
    };
    assert!(
        !readings(&mut kit, "api", 6, small).contains(&"kill api/0".to_owned()),
        "it has not half of its limit, nor its share"
    );
    let mut kit = tight();
    assert!(!readings(&mut kit, "api", 2, stalling).contains(&"kill api/0".to_owned()));
    let words = readings(&mut kit, "api", 1, stalling);
    assert!(words.ends_with(&["kill api/0".to_owned()]), "throttling gives no memory back: {words:?}");
    let record = kit.record("api");
    assert_eq!(record.trigger, Trigger::Pressure);
    assert_eq!(record.evidence[0], "memory.pressure full avg10 60.00%");
    assert_eq!(record.evidence[2], "1024 MiB in use, its share is 4096 MiB, its limit 1024 MiB");
}

#[test]
fn for_the_hosts_memory_the_least_important_goes_first_and_the_next_only_after_its_end_and_a_while() {
    let plain = |name: &str, priority| {
        let mut plan = service(name);
        (plan.priority, plan.min_healthy) = (priority, 0);
        plan
    };
    let mut kit =
        sized(up(vec![plain("db", 10), plain("batch", -5), plain("cache", -5), plain("small", -9), plain("web", 0)]));
    kit.check(CheckKind::Memory, "", Health::Failing, "97 %");
    let sizes = [("db", 3 * GIB), ("batch", 5 * GIB / 2), ("cache", 3 * GIB), ("small", GIB), ("web", 2 * GIB)];
    let read = |kit: &mut Kit| {
        kit.pass(FIVE);
        let live = |kit: &Kit, name| kit.state(name) == StateName::Ready;
        let gauges = sizes.iter().filter(|(name, _)| live(kit, name));
        let gauges = gauges.map(|(name, size)| Gauge { memory_bytes: Some(*size), ..kit.gauge(name) }).collect();
        kit.step(Event::Gauged { asked: kit.engine.fence.asked, gauges })
    };
    assert_eq!(read(&mut kit), ["decide cache Up fences 1", "kill cache/0"], "the larger of the two");
    assert!(read(&mut kit).is_empty() && read(&mut kit).is_empty(), "it is not gone yet");
    killed(&mut kit, "cache");
    assert!(read(&mut kit).is_empty() && read(&mut kit).is_empty(), "its memory does not show yet");
    assert_eq!(read(&mut kit), ["decide batch Up fences 1", "kill batch/0"]);
    killed(&mut kit, "batch");
    kit.check(CheckKind::Memory, "", Health::Degraded, "92 %");
    for _ in 0..10 {
        assert!(read(&mut kit).is_empty());
    }
    let record = kit.record("cache");
    assert_eq!(record.evidence[0], "check memory: failing: 97 %");
    assert_eq!(record.evidence[2], "priority -5, the least of 4 that have more than their share");
}

#[test]
fn the_last_that_is_well_is_only_observed() {
    let mut api = limited("api");
    (api.replicas, api.min_healthy) = (2, 1);
    let mut kit = up(vec![api]);
    readings(&mut kit, "api/0", 4, bomb);
    assert_eq!(kit.word_of("api/0"), "throttled", "another one is there");
    readings(&mut kit, "api/1", 4, bomb);
    assert_eq!(kit.word_of("api/1"), "ready", "one fence at a time");
    let record = &past(&kit)[0];
    assert_eq!((record.standing, record.replica), (Standing::Observed, 1));
    assert!(record.observed_because.as_deref().is_some_and(|because| because.contains("api/0 is fenced already")));
    let mut single = limited("api");
    single.min_healthy = 1;
    let mut kit = up(vec![single]);
    readings(&mut kit, "api", 60, bomb);
    let observed = past(&kit);
    assert_eq!(observed.len(), 1, "told once in a while");
    let because = "0 replicas would be left that are well, and min_healthy is 1";
    assert_eq!(observed[0].observed_because.as_deref(), Some(because));
}

#[test]
fn at_most_three_fences_in_ten_minutes_a_host() {
    let names = ["a", "b", "c", "d"];
    let plans = names.map(|name| ladder(limited(name), &[Rung::Kill, Rung::Hold]));
    let mut kit = up(plans.to_vec());
    for name in names {
        readings(&mut kit, name, 4, bomb);
        if kit.state(name) == StateName::Stopping {
            killed(&mut kit, name);
        }
    }
    assert_eq!(names.map(|name| kit.word_of(name)), ["held", "held", "held", "ready"]);
    let fences = kit.engine.fences(kit.now);
    assert_eq!((fences.automatic_used, fences.automatic_max), (3, 3));
    assert!(past(&kit)[0].observed_because.as_deref().is_some_and(|because| because.starts_with("3 fences")));
    let held = [("a", FoundProcess::Gone { exit: None }), ("d", FoundProcess::Alive { pid: 100 })];
    kit.heir(&held);
    assert_eq!(kit.engine.fences(kit.now).automatic_used, 3, "the next agent counts on");
    kit.pass(Duration::from_secs(600));
    assert_eq!(kit.engine.fences(kit.now).automatic_used, 0);
}

#[test]
fn a_dry_run_says_what_would_be_done_and_does_nothing() {
    let plan = with_fence(limited("api"), |fence| fence.triggers.pids = Mode::DryRun);
    let mut kit = up(vec![plan]);
    let words = readings(&mut kit, "api", 20, bomb);
    assert!(words.iter().all(|word| word == "gauge api/0"), "{words:?}");
    assert_eq!(past(&kit).len(), 1);
    assert_eq!(past(&kit)[0].observed_because.as_deref(), Some("`pids` is a dry run"));
    let off = with_fence(limited("api"), |fence| {
        fence.triggers = Triggers { cpu: Mode::Off, pids: Mode::Off, ..Triggers::default() };
    });
    assert_eq!(up(vec![off]).engine.next_deadline(), None);
}

#[test]
fn on_probation_it_has_a_quarter_of_the_weight_and_waits_for_three_good_probes() {
    let mut api = ladder(limited("api"), &[Rung::Kill, Rung::Hold]);
    (api.replicas, api.port) = (2, Some(9_000));
    let (every, timeout) = (Duration::from_secs(10), Duration::from_secs(6));
    api.alive = Some(Box::new(Alive { probe: tcp(), every, timeout, fall: 3, rise: 2 }));
    let mut kit = up_with(vec![api], vec![balancer("front", "api")]);
    let probes_to = |kit: &mut Kit, words: &[String]| {
        for name in ["api/0", "api/1"] {
            let waits = kit.engine.at(kit.id(name)).run.as_ref().is_some_and(|run| run.probe.is_some());
            if waits && words.contains(&format!("probe {name}")) {
                kit.answer(name, Ok(()));
            }
        }
    };
    for _ in 0..4 {
        let words = readings(&mut kit, "api/1", 1, bomb);
        probes_to(&mut kit, &words);
    }
    killed(&mut kit, "api/1");
    kit.now.boot = kit.now.boot.after(Duration::from_secs(600));
    assert!(kit.pass(ms(1)).contains(&"spawn api/1 run 2".to_owned()));
    kit.exec("api/1");
    let table = |kit: &Kit| {
        let table = kit.engine.tables(kit.now).remove(0);
        table.backends.iter().map(|one| (one.weight, format!("{:?}", one.standing))).collect::<Vec<_>>()
    };
    assert_eq!(table(&kit), [(4, "Up".to_owned()), (1, "Draining".to_owned())]);
    let mut good = 0;
    while table(&kit)[1].1 != "Up" {
        let words = kit.pass(Duration::from_secs(1));
        good += usize::from(words.contains(&"probe api/1".to_owned()));
        probes_to(&mut kit, &words);
        assert!(good <= 3, "three good probes are enough");
    }
    assert_eq!((good, table(&kit)[1].0), (3, 1));
    for _ in 0..300 {
        let words = kit.pass(Duration::from_secs(1));
        probes_to(&mut kit, &words);
    }
    assert_eq!(table(&kit), [(1, "Up".to_owned()), (1, "Up".to_owned())]);
}

#[test]
fn liveness_spares_who_misses_a_dependency_or_suffers_with_the_host() {
    let probed = |name: &str| {
        let mut plan = service(name);
        let (every, timeout) = (Duration::from_secs(10), Duration::from_secs(2));
        plan.alive = Some(Box::new(Alive { probe: tcp(), every, timeout, fall: 3, rise: 2 }));
        plan
    };
    let mut web = probed("web");
    web.wants = vec!["db".to_owned()];
    let mut kit = up(vec![service("db"), web.clone()]);
    kit.command(Verb::Fence(FenceLevel::Throttle), "db");
    let aborts = |kit: &mut Kit, seconds| {
        let words = kit.pass(Duration::from_secs(seconds));
        words.iter().any(|word| word == "SIGABRT to main of web/0")
    };
    assert!(!aborts(&mut kit, 300), "its dependency is fenced");
    assert!(kit.engine.service("web", kit.now).is_some_and(|web| web.state == StateName::Degraded));
    kit.command(Verb::Unfence, "db");
    assert!(!aborts(&mut kit, 20) && aborts(&mut kit, 20), "as many tries as anybody");
    let mut kit = up(vec![service("db"), web.clone()]);
    kit.check(CheckKind::PressureIo, "", Health::Failing, "some 90 %");
    assert!(!aborts(&mut kit, 300), "the host is to blame");
    let told: Vec<String> = kit.notes().into_iter().filter(|note| note.contains("left alone")).collect();
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].ends_with("left alone while check pressure_io is failing"), "{told:?}");
    let off = with_fence(web, |fence| fence.triggers.liveness = Mode::Off);
    assert!(!aborts(&mut up(vec![service("db"), off]), 300));
}

#[test]
fn a_spent_budget_leaves_a_record_until_it_is_full_again() {
    let frail = |mode| {
        let mut plan = service("api");
        plan.budget = Some(Budget { restarts: 1, ..Budget::default() });
        with_fence(plan, |fence| fence.triggers.restarts = mode)
    };
    let spend = |kit: &mut Kit| {
        for _ in 0..2 {
            kit.exec("api");
            kit.exit("api", 1);
            kit.pass(Duration::from_secs(1));
        }
    };
    let mut kit = Kit::new(vec![frail(Mode::On)]);
    spend(&mut kit);
    let record = kit.record("api");
    assert_eq!((record.trigger, record.standing), (Trigger::Restarts, Standing::Proven));
    assert_eq!(kit.word_of("api"), "failed");
    kit.pass(Duration::from_secs(60));
    assert_eq!(kit.record("api").standing, Standing::Probation, "one try");
    kit.exec("api");
    kit.exit("api", 1);
    let record = kit.record("api");
    assert_eq!((record.steps.len(), record.standing), (2, Standing::Proven));
    kit.heir(&[("api", FoundProcess::Gone { exit: None })]);
    assert_eq!(kit.record("api").id, record.id);
    assert!(kit.command(Verb::Unfence, "api").contains(&"spawn api/0 run 4".to_owned()), "as `start` would");
    assert_eq!(past(&kit)[0].standing, Standing::Released);
    let mut kit = Kit::new(vec![frail(Mode::Off)]);
    spend(&mut kit);
    assert_eq!((kit.state("api"), past(&kit).len()), (StateName::Backoff, 0));
    assert_eq!(kit.pass(Duration::from_secs(30)), ["spawn api/0 run 3"], "with its longest delay");
    let mut kit = Kit::new(vec![frail(Mode::DryRun)]);
    spend(&mut kit);
    assert_eq!((kit.state("api"), past(&kit)[0].standing), (StateName::Backoff, Standing::Observed));
}

#[test]
fn fences_are_told_and_their_end_is_too() {
    let mut plan = Kit::plan(vec![limited("api"), service("web")]);
    plan.alerts = vec![AlertPlan {
        exec: vec!["/bin/page".to_owned()],
        user: None,
        on: vec![AlertOn::Fenced, AlertOn::Recovered],
        at_most: 10,
        within: Duration::from_secs(3_600),
        timeout: Duration::from_secs(10),
        cwd: None,
    }];
    let mut kit = Kit::begin_with(START, plan, Vec::new(), Vec::new());
    kit.exec("api");
    kit.exec("web");
    let done = |kit: &mut Kit, words: &[String]| {
        let told: Vec<String> = words.iter().filter(|word| word.starts_with("alert")).cloned().collect();
        let flight = kit
            .last
            .iter()
            .find_map(|action| if let Action::Alert { alert, .. } = action { Some(*alert) } else { None });
        if let Some(alert) = flight {
            kit.step(Event::Host(Box::new(HostEvent::AlertDone { alert, result: Ok(()) })));
        }
        told
    };
    let words = kit.command(Verb::Fence(FenceLevel::Freeze), "web");
    assert_eq!(done(&mut kit, &words), ["alert fenced service web"]);
    kit.persist();
    let words = kit.pass(Duration::from_secs(3));
    let mut told = done(&mut kit, &words);
    assert_eq!(told, ["alert fence_incomplete service web"]);
    kit.pass(Duration::from_secs(60));
    let words = kit.command(Verb::Unfence, "web");
    told = done(&mut kit, &words);
    assert_eq!(told, ["alert recovered service web"]);
}

#[test]
fn a_stall_of_the_agent_is_no_time_for_a_proof_or_a_step() {
    let mut kit = up(vec![limited("api")]);
    kit.command(Verb::Fence(FenceLevel::Freeze), "api");
    kit.persist();
    let stall = Duration::from_secs(30);
    (kit.now.mono, kit.now.boot) = (kit.now.mono.after(stall), kit.now.boot.after(stall));
    kit.step(Event::Stalled { by: stall, suspended: false });
    assert_eq!(kit.record("api").standing, Standing::Proving);
    frozen(&mut kit, "api");
    assert_eq!(kit.record("api").standing, Standing::Proven);
}

#[test]
fn a_fence_whose_record_was_not_written_in_time_counts_all_the_same() {
    let mut kit = up(vec![limited("api")]);
    readings(&mut kit, "api", 4, bomb);
    assert_eq!((kit.word_of("api"), kit.engine.fences(kit.now).automatic_used), ("throttled", 1));
    // The memory of the replica is written first.
    kit.engine.fence.memory = FenceMemory::default();
    kit.heir(&[("api", FoundProcess::Alive { pid: 100 })]);
    assert_eq!((kit.word_of("api"), kit.engine.fences(kit.now).automatic_used), ("throttled", 1));
    kit.heir(&[("api", FoundProcess::Alive { pid: 100 })]);
    assert_eq!(kit.engine.fences(kit.now).automatic_used, 1, "once");
}

#[test]
fn the_count_of_fences_outlives_the_absence_of_its_service() {
    let mut kit = up(vec![limited("api")]);
    readings(&mut kit, "api", 4, bomb);
    let reload = |kit: &mut Kit, services| {
        let plan = Box::new(Kit::plan(services));
        kit.step(Event::Reload { request: None, caller: crate::engine::event::Caller::Agent, plan })
    };
    reload(&mut kit, vec![service("web")]);
    kit.exit("api", 0);
    reload(&mut kit, vec![service("web"), limited("api")]);
    assert_eq!(kit.memory("api").fences, 1);
    reload(&mut kit, vec![service("web")]);
    kit.exit("api", 0);
    kit.heir(&[]);
    reload(&mut kit, vec![service("web"), limited("api")]);
    assert_eq!(kit.memory("api").fences, 1);
}
