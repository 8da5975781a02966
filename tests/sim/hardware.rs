//! The model of the hardware below the services: two disks and a NIC that fail and heal, the commands of alerts, and what was frozen.
//!
//! The agent is told by readings, as the roles would send them, so that the rules of the checks are between a fault and what follows.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use mainstay::engine::Engine;
use mainstay::engine::action::Note;
use mainstay::engine::action::NoteKind;
use mainstay::engine::event::Event;
use mainstay::engine::host::sample::{Devices, Disk, DiskStat, Mount, Nic, NicKind, NicStat, Pressure, Sample, System};
use mainstay::engine::host::view::AlertBody;
use mainstay::engine::host::{HostEvent, HostMemory};
use mainstay::engine::plan::{Plan, Role};
use mainstay::engine::types::{Now, StateName, Time};

use crate::dice::Dice;
use crate::group::MEMORY;

pub(crate) const READ_EVERY: Duration = Duration::from_secs(5);
const DISKS: [(&str, &str); 2] = [("vda", "/"), ("vdb", "/srv")];

#[derive(Debug)]
pub(crate) struct Hardware {
    /// Requests of it do not complete.
    hung: BTreeMap<&'static str, bool>,
    pub(crate) plugged: BTreeMap<&'static str, bool>,
    carrier: bool,
    carrier_changes: u32,
    /// There is next to no memory left.
    short: bool,
    completed: u64,
    busy_ms: u64,
    /// What is written for the next agent.
    pub(crate) memory: Option<HostMemory>,
    /// By the command: when the latest alerts were sent, each once.
    sent: BTreeMap<usize, VecDeque<(Time, u64)>>,
    /// All alerts of which a try was made.
    told: BTreeSet<u64>,
    pub(crate) petted: Option<Time>,
}

impl Hardware {
    pub(crate) fn new() -> Self {
        Self {
            hung: DISKS.iter().map(|(disk, _)| (*disk, false)).collect(),
            plugged: DISKS.iter().map(|(disk, _)| (*disk, true)).collect(),
            carrier: true,
            carrier_changes: 0,
            short: false,
            completed: 0,
            busy_ms: 0,
            memory: None,
            sent: BTreeMap::new(),
            told: BTreeSet::new(),
            petted: None,
        }
    }

    /// Something breaks, or mends by itself.
    pub(crate) fn turn(&mut self, dice: &mut Dice) {
        let (disk, _) = *dice.pick(&DISKS);
        match dice.below(4) {
            3 => self.short = !self.short,
            0 => {
                self.carrier = !self.carrier;
                self.carrier_changes += 1;
            }
            _ => {
                self.hung.entry(disk).and_modify(|hung| *hung = !*hung);
            }
        }
    }

    pub(crate) fn mend(&mut self) {
        self.carrier = true;
        self.short = false;
        self.hung.values_mut().for_each(|hung| *hung = false);
        self.plugged.values_mut().for_each(|plugged| *plugged = true);
    }

    pub(crate) fn devices(&self) -> Event {
        let there = || DISKS.iter().filter(|(disk, _)| self.plugged[disk]);
        let disk = |name: &str| Disk { name: name.to_owned(), ..Disk::default() };
        let mount = |point: &str, disk: &str| Mount {
            point: point.to_owned(),
            disk: Some(disk.to_owned()),
            fs_type: "ext4".to_owned(),
            ..Mount::default()
        };
        let nic = Nic { name: "eth0".to_owned(), kind: NicKind::Physical, ..Nic::default() };
        let devices = Devices {
            disks: there().map(|(name, _)| disk(name)).collect(),
            mounts: there().map(|(name, point)| mount(point, name)).collect(),
            nics: vec![nic],
        };
        Event::Host(Box::new(HostEvent::Devices(Box::new(devices))))
    }

    pub(crate) fn is_short(&self) -> bool {
        self.short
    }

    fn system(&self) -> System {
        let pressure = Pressure { some_avg10: if self.short { 3_000 } else { 0 }, ..Pressure::default() };
        System {
            memory_total_bytes: MEMORY,
            memory_available_bytes: if self.short { MEMORY / 100 } else { MEMORY / 2 },
            pressure_memory: Some(pressure),
            cpus: 1,
            ..System::default()
        }
    }

    /// What the checks role reads now.
    pub(crate) fn readings(&mut self) -> [Event; 3] {
        self.completed += 100;
        self.busy_ms += 1_000;
        let there = DISKS.iter().filter(|(disk, _)| self.plugged[disk]);
        let disk = |name: &&'static str| {
            let hung = self.hung[name];
            DiskStat {
                name: (*name).to_owned(),
                // It stands where it was when it hung: at the last full hundred below everybody's.
                completed: if hung { 1 } else { self.completed },
                in_flight: u32::from(hung),
                busy_ms: self.busy_ms,
                ..DiskStat::default()
            }
        };
        let disks = there.map(|(name, _)| disk(name)).collect();
        let nic = NicStat {
            name: "eth0".to_owned(),
            admin_up: true,
            carrier: self.carrier,
            carrier_changes: self.carrier_changes,
            ..NicStat::default()
        };
        let event = |sample| {
            let sampled = HostEvent::Sampled { role: Role::Checks, sample: Box::new(sample) };
            Event::Host(Box::new(sampled))
        };
        let system = Sample::System(Box::new(self.system()));
        [event(Sample::Disks(disks)), event(Sample::Nics(vec![nic])), event(system)]
    }

    /// No command is run more often than its plan allows; a second try of one that failed is no second alert.
    pub(crate) fn alerted(&mut self, plan: &Plan, now: Now, alert: u64, index: usize, body: &AlertBody) {
        let rule = plan.alerts.get(index).expect("an alert of the plan");
        let sent = self.sent.entry(index).or_default();
        if !self.told.insert(alert) {
            return;
        }
        sent.push_back((now.mono, alert));
        sent.retain(|(at, _)| now.mono.since(*at) < rule.within);
        let most = usize::try_from(rule.at_most).expect("small");
        assert!(sent.len() <= most, "{} alerts within {:?}, the last: {body:?}", sent.len(), rule.within);
    }

    /// Another configuration, or an agent that knows nothing: it counts anew.
    pub(crate) fn forget_alerts(&mut self) {
        self.sent.clear();
    }

    /// The watchdog is petted only while what it requires is well.
    pub(crate) fn pet(&mut self, engine: &Engine, now: Now, shutting_down: bool) {
        self.petted = Some(now.mono);
        let plan = engine.plan().agent.watchdog.as_ref().expect("no watchdog is configured");
        for name in plan.require.iter().filter(|_| !shutting_down) {
            let Some(view) = engine.service(name, now) else {
                continue;
            };
            let bad = |state| matches!(state, StateName::Failed | StateName::Stuck | StateName::Backoff);
            let disk = view.impaired.as_ref().is_some_and(|why| !why.starts_with("NIC"));
            let all_bad = !disk && view.replicas.iter().all(|replica| bad(replica.state));
            assert!(!view.wanted || !all_bad, "petted while {name} is {}", view.state);
        }
    }
}

/// What is done to a service while its disk or NIC fails: nothing that blames it.
pub(crate) fn check_note(engine: &Engine, now: Now, note: &Note) {
    let blames = match note.kind {
        NoteKind::NotAlive { .. } => true,
        NoteKind::WatchdogMissed { .. } | NoteKind::WatchdogTriggered | NoteKind::NotReadyInTime { .. } => {
            !is_nic_only(engine, now, note)
        }
        _ => false,
    };
    let view = note.subject.as_ref().and_then(|subject| engine.service(&subject.service, now));
    let impaired = view.and_then(|view| view.impaired);
    assert!(!blames || impaired.is_none(), "{} while {impaired:?}", note.sentence());
}

fn is_nic_only(engine: &Engine, now: Now, note: &Note) -> bool {
    let view = note.subject.as_ref().and_then(|subject| engine.service(&subject.service, now));
    view.and_then(|view| view.impaired).is_some_and(|why| why.starts_with("NIC"))
}

/// Nothing is started on a disk that fails.
pub(crate) fn check_spawn(engine: &Engine, now: Now, service: &str) {
    let impaired = engine.service(service, now).and_then(|view| view.impaired);
    assert!(impaired.as_ref().is_none_or(|why| why.starts_with("NIC")), "{service} is started while {impaired:?}");
}
