//! An hour of noise on a host that is well raises no alarm, and every real fault in the same noise is seen.
//!
//! The roles are played by their orders: what the engine says is to be read is read by `host_noise`, with jitter, losses, restarts of roles
//! and of the agent itself, stalls, a suspended host, devices that come and go.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use mainstay::engine::Engine;
use mainstay::engine::action::{Action, NoteKind};
use mainstay::engine::event::Event;
use mainstay::engine::host::kind::CheckKind;
use mainstay::engine::host::note::HostNote;
use mainstay::engine::host::watch::{Order, Source};
use mainstay::engine::host::{Health, HostEvent, HostMemory};
use mainstay::engine::plan::{Launch, Plan, RestartPolicy, Role, ServicePlan};
use mainstay::engine::types::{Now, Time};

use crate::dice::Dice;
use crate::host_noise::{Fault, Noise};

const SEEDS: u64 = 12;
const HOUR_S: u64 = 3_600;
/// Faults come when everything has been seen.
const FAULT_AT_S: u64 = 1_200;
const START: Time = Time(5_000_000_000_000);

struct Host {
    engine: Engine,
    plan: Plan,
    now: Now,
    dice: Dice,
    noise: Noise,
    /// By role: what it reads, and when it reads it next.
    roles: BTreeMap<Role, Vec<(Order, Time)>>,
    /// Helpers of disks that are connected.
    linked: BTreeSet<Role>,
    /// Roles that are away until then.
    away: BTreeMap<Role, Time>,
    kept: Option<HostMemory>,
    /// Checks that became bad, with the second and the reason.
    alarms: Vec<(u64, CheckKind, String, Health, String)>,
    notes: u64,
    persisted: u64,
}

fn plan() -> Plan {
    let mut plan = Plan::default();
    plan.agent.default_checks = true;
    let mut helper = ServicePlan::with_defaults("@disk", &[]);
    helper.launch = Launch::Role(Role::Disk(0));
    helper.restart = RestartPolicy::Always;
    plan.helper = Some(Box::new(helper));
    plan
}

impl Host {
    fn new(seed: u64) -> Self {
        let now = Now { mono: START, boot: START, wall: Time(START.0 * 300), wall_synchronised: true };
        let mut host = Self {
            engine: Engine::new(plan(), seed, now),
            plan: plan(),
            now,
            dice: Dice::new(seed),
            noise: Noise::new(seed),
            roles: BTreeMap::new(),
            linked: BTreeSet::new(),
            away: BTreeMap::new(),
            kept: None,
            alarms: Vec::new(),
            notes: 0,
            persisted: 0,
        };
        host.step(Event::Begin { found: Vec::new(), decisions: Vec::new(), host: None, fences: None, tables: None });
        host.connect();
        host
    }

    fn connect(&mut self) {
        for role in [Role::Checks, Role::Sensors] {
            self.event(HostEvent::Linked { role, connected: true });
            self.watch(role);
        }
        self.event(HostEvent::Devices(Box::new(self.noise.devices.clone())));
    }

    fn seconds(&self) -> u64 {
        self.now.mono.since(START).as_secs()
    }

    fn event(&mut self, event: HostEvent) {
        self.step(Event::Host(Box::new(event)));
    }

    fn step(&mut self, event: Event) {
        for action in self.engine.step(self.now, event) {
            match action {
                Action::Spawn { replica, run, .. } => {
                    self.step(Event::Spawned { replica, run, pid: 100 });
                    self.step(Event::Executed { replica, run });
                    let slots = self.engine.plan().services.iter().map(|service| service.launch).collect::<Vec<_>>();
                    for launch in slots {
                        if let Launch::Role(role @ Role::Disk(_)) = launch
                            && self.linked.insert(role)
                        {
                            self.event(HostEvent::Linked { role, connected: true });
                            self.watch(role);
                        }
                    }
                }
                Action::Watch { role } => self.watch(role),
                Action::PersistHost { memory } => {
                    // As it is read back from its file.
                    let text = serde_json::to_string(&memory).expect("it can be written");
                    self.kept = Some(serde_json::from_str(&text).expect("and read back"));
                    self.persisted += 1;
                }
                Action::Note(note) => self.note(note.kind),
                _ => {}
            }
        }
    }

    fn note(&mut self, kind: NoteKind) {
        self.notes += 1;
        let second = self.seconds();
        match kind {
            NoteKind::Host(HostNote::Check {
                kind,
                target,
                to: to @ (Health::Degraded | Health::Failing),
                why,
                ..
            }) => {
                self.alarms.push((second, kind, target, to, why));
            }
            NoteKind::Host(HostNote::Flapping { kind, target, .. }) => {
                self.alarms.push((second, kind, target, Health::Degraded, "flapping".to_owned()));
            }
            _ => {}
        }
    }

    /// A role takes its orders; the first reading follows at once.
    fn watch(&mut self, role: Role) {
        let orders = self.engine.watch_list(role).into_iter().map(|order| (order, self.now.mono)).collect();
        self.roles.insert(role, orders);
    }

    fn role_dies(&mut self, role: Role) {
        self.event(HostEvent::Linked { role, connected: false });
        let back = self.now.mono.after(self.dice.ms(100, 8_000));
        self.away.insert(role, back);
    }

    fn agent_dies(&mut self) {
        let memory = self.kept.clone().map(Box::new);
        self.advance(Duration::from_millis(300));
        self.engine = Engine::new(self.plan.clone(), self.dice.next(), self.now);
        self.roles.clear();
        self.linked.clear();
        self.away.clear();
        self.step(Event::Begin { found: Vec::new(), decisions: Vec::new(), host: memory, fences: None, tables: None });
        self.connect();
    }

    fn advance(&mut self, by: Duration) {
        self.now.mono = self.now.mono.after(by);
        self.now.boot = self.now.boot.after(by);
        self.now.wall = self.now.wall.after(by);
    }

    fn disturb(&mut self) {
        match self.dice.below(4_000) {
            0..3 => {
                let roles: Vec<Role> = self.roles.keys().copied().collect();
                let role = *self.dice.pick(&roles);
                self.role_dies(role);
            }
            3..5 => self.agent_dies(),
            5..8 => {
                let by = self.dice.ms(500, 20_000);
                self.advance(by);
                self.step(Event::Stalled { by, suspended: false });
            }
            8..10 => {
                // The monotonic clock does not count a sleep.
                let slept = self.dice.ms(60_000, 3_600_000);
                self.now.boot = self.now.boot.after(slept);
                self.now.wall = self.now.wall.after(slept);
                self.step(Event::Stalled { by: slept, suspended: true });
            }
            10..30 => {
                self.noise.plug();
                self.event(HostEvent::Devices(Box::new(self.noise.devices.clone())));
            }
            30..36 => {
                let by_ms = i64::try_from(self.dice.below(7_200_000)).expect("small") - 3_600_000;
                self.now.wall = Time(self.now.wall.0.saturating_add_signed(by_ms * 1_000_000));
                let sample = Box::new(mainstay::engine::host::sample::Sample::ClockSet { by_ms });
                self.event(HostEvent::Sampled { role: Role::Checks, sample });
            }
            36..90 => {
                let sample = Box::new(self.noise.kernel_lines());
                self.event(HostEvent::Sampled { role: Role::Checks, sample });
            }
            _ => {}
        }
    }

    /// One second of the host.
    fn second(&mut self) {
        self.advance(Duration::from_secs(1));
        self.noise.pass(self.seconds());
        self.disturb();
        let back: Vec<Role> = self.away.iter().filter(|(_, at)| **at <= self.now.mono).map(|(role, _)| *role).collect();
        for role in back {
            self.away.remove(&role);
            self.event(HostEvent::Linked { role, connected: true });
            self.watch(role);
        }
        for event in self.noise.events() {
            let sample = Box::new(event);
            self.event(HostEvent::Sampled { role: Role::Checks, sample });
        }
        for role in self.roles.keys().copied().collect::<Vec<_>>() {
            if !self.away.contains_key(&role) {
                self.read(role);
            }
        }
        while self.engine.next_deadline().is_some_and(|at| at <= self.now.mono) {
            self.step(Event::Tick);
        }
    }

    fn read(&mut self, role: Role) {
        let now = self.now.mono;
        let Some(orders) = self.roles.get_mut(&role) else { return };
        let mut due: Vec<Source> = Vec::new();
        for (order, at) in orders {
            if *at <= now && !matches!(order.source, Source::Kernel | Source::FilesystemErrors { .. }) {
                due.push(order.source.clone());
                *at = now.after(Duration::from_millis(order.every_ms)).after(self.dice.ms(0, 400));
            }
        }
        for source in due {
            // Now and then an answer is lost.
            if self.dice.below(200) == 0 {
                continue;
            }
            if let Some(sample) = self.noise.read(&source) {
                self.event(HostEvent::Sampled { role, sample: Box::new(sample) });
            }
        }
    }

    fn hour(&mut self, fault: Option<Fault>) {
        let begin = self.seconds();
        // To see how a disk fills up takes an hour of its own.
        let lasts = if fault == Some(Fault::DiskFillsUp) { 3 * HOUR_S } else { HOUR_S };
        while self.seconds() < begin + lasts {
            if fault.is_some() && self.seconds() >= begin + FAULT_AT_S {
                self.noise.fault = fault;
            }
            self.second();
        }
    }
}

fn each_seed(from: u64, to: u64, one: impl Fn(u64)) {
    let fails = |seed: &u64| catch_unwind(AssertUnwindSafe(|| one(*seed))).is_err();
    let failed: Vec<u64> = (from..to).filter(fails).collect();
    assert!(failed.is_empty(), "seeds {failed:?} failed");
}

#[test]
fn an_hour_of_noise_raises_no_alarm() {
    each_seed(0, SEEDS, |seed| {
        let mut host = Host::new(seed);
        host.hour(None);
        assert!(host.alarms.is_empty(), "{:#?}", host.alarms);
        assert!(host.notes < 400, "{} notes", host.notes);
        assert!(host.persisted < 120, "written {} times", host.persisted);
        let bad = host.engine.checks(host.now).into_iter().filter(|check| check.state >= Health::Degraded);
        assert_eq!(bad.count(), 0);
        let checks = host.engine.checks(host.now);
        let known = checks.iter().filter(|check| check.state == Health::Ok).count();
        assert!(known * 10 > checks.len() * 7, "{known} of {} are known", checks.len());
    });
}

#[test]
fn every_real_fault_is_seen_in_the_same_noise() {
    each_seed(0, Fault::ALL.len() as u64 * 2, |seed| {
        let fault = Fault::ALL[usize::try_from(seed).expect("small") % Fault::ALL.len()];
        let mut host = Host::new(1_000 + seed);
        host.hour(Some(fault));
        let (kind, target, level, within) = fault.expected();
        let seen = host.alarms.iter().find(|alarm| (alarm.1, alarm.2.as_str(), alarm.3) == (kind, target, level));
        let Some((second, .., why)) = seen else {
            let unknown = host.engine.checks(host.now).into_iter().filter(|check| check.state == Health::Unknown);
            let unknown: Vec<_> = unknown.map(|check| (check.name, check.why)).collect();
            panic!("{fault:?} was not seen: {:#?}, unknown: {unknown:?}", host.alarms);
        };
        assert!((FAULT_AT_S..=FAULT_AT_S + within).contains(second), "{fault:?} seen after {second} s: {why}");
        assert!(!why.is_empty());
        let others: Vec<_> = host.alarms.iter().filter(|alarm| !fault.may_follow(alarm.1, &alarm.2)).collect();
        assert!(others.is_empty(), "{fault:?} is blamed on others: {others:#?}");
        // It still is, through every restart of roles and agent.
        let check = host.engine.checks(host.now).into_iter().find(|check| check.kind == kind && check.target == target);
        assert!(check.is_some_and(|check| check.state >= Health::Degraded), "{fault:?} is forgotten");
        let again = host.alarms.iter().filter(|alarm| (alarm.1, alarm.2.as_str(), alarm.3) == (kind, target, level));
        assert!(again.count() <= 2, "{fault:?}: {:#?}", host.alarms);
    });
}
