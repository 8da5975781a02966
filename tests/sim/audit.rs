//! Who watches fences from outside: what an operator asked for, what is on record for the next agent, what is really so in the kernel.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use mainstay::engine::Engine;
use mainstay::engine::copies::plan::Quiesce;
use mainstay::engine::copies::view::CopyView;
use mainstay::engine::event::{Decision, FencedByHand};
use mainstay::engine::fence::note::FenceNote;
use mainstay::engine::fence::plan::FenceLevel;
use mainstay::engine::fence::record::{Record, Standing, Trigger};
use mainstay::engine::host::Health;
use mainstay::engine::host::kind::CheckKind;
use mainstay::engine::memory::Memory;
use mainstay::engine::plan::Plan;
use mainstay::engine::types::{Now, ReplicaId, StateName, Time};

use crate::world::{Key, World};

/// As the agent promises.
const AUTOMATIC_MAX: usize = 3;
const AUTOMATIC_WITHIN: Duration = Duration::from_secs(600);
/// Until the host's check says that a shortage is over.
const SHORT_LATELY: Duration = Duration::from_secs(20);
const READ_LATELY: Duration = Duration::from_secs(30);
/// Until nobody looks any more.
const SHORT_FOR: Duration = Duration::from_secs(180);

#[derive(Debug, Default)]
pub(crate) struct Audit {
    /// What operators have fenced and not lifted, with the hardest level that it has come to.
    by_hand: BTreeMap<Key, FenceLevel>,
    /// The latest `fence` or `unfence` of each replica.
    commanded: BTreeMap<Key, Time>,
    /// Records of fences, probations and holds that are on disk, and when they came there.
    open: BTreeMap<u64, Time>,
    /// Services that were not in the configuration for a while: what was decided of them before may be on disk still.
    left: BTreeSet<String>,
    /// When the agent fenced by itself.
    automatic: VecDeque<(Time, u64)>,
    /// When the wall clock last went otherwise than the monotonic one.
    pub(crate) wall_jumped: Time,
    /// When the host was last short of memory.
    pub(crate) short_at: Option<Time>,
    /// When each was read last for a fence or its causes.
    read: BTreeMap<ReplicaId, Time>,
    /// What has happened, so that nobody takes for safe what never came to pass.
    pub(crate) seen: BTreeMap<String, u64>,
}

impl Audit {
    fn saw(&mut self, what: String) {
        *self.seen.entry(what).or_default() += 1;
    }

    /// An operator says something about fences: from now on they may be others.
    pub(crate) fn command(&mut self, plan: &Plan, service: &str, replica: Option<u16>, now: Now) {
        let concerns = |key: &Key| key.0 == service && replica.is_none_or(|index| index == key.1);
        self.by_hand.retain(|key, _| !concerns(key));
        for key in keys(plan).filter(concerns) {
            self.commanded.insert(key, now.mono);
        }
    }

    /// What is written of a replica: fences come and go as they may.
    pub(crate) fn written(&mut self, engine: &Engine, key: &Key, old: Option<&Memory>, new: &Memory, now: Now) {
        let in_plan = keys(engine.plan()).any(|known| known == *key);
        let fence = new.fence.as_deref();
        match (self.by_hand.get(key), fence.filter(|fence| fence.is_by_hand())) {
            (Some(_), None) => assert!(!in_plan, "{key:?}: a fence by hand is gone, and nobody lifted it"),
            (before, Some(fence)) => {
                let softer = before.is_some_and(|before| *before > fence.level);
                assert!(!softer, "{key:?}: fenced by hand at {before:?}, and at {:?} now", fence.level);
                self.by_hand.insert(key.clone(), fence.level);
            }
            (None, None) => {}
        }
        let held = old.and_then(|old| old.fence.as_deref()).filter(|old| old.level == FenceLevel::Hold);
        if let Some(held) = held.filter(|held| fence.is_none_or(|fence| fence.id != held.id)) {
            let over = held.until.is_some_and(|until| until <= now.boot);
            let asked = self.commanded.get(key).is_some_and(|at| *at >= held.decided);
            assert!(over || asked || !in_plan, "{key:?}: a hold has ended before its time: {held:?}");
        }
        let records = [
            fence.map(|fence| fence.id),
            new.probation.as_ref().map(|probation| probation.id),
            new.hold.and_then(|hold| hold.record),
        ];
        for record in records.into_iter().flatten() {
            self.open.entry(record).or_insert(now.mono);
        }
    }

    /// Nothing is started over a fence.
    pub(crate) fn spawned(&self, key: &Key, memory: &Memory) {
        let level = memory.fence.as_ref().map(|fence| fence.level);
        assert!(level.is_none_or(|level| level == FenceLevel::Throttle), "{key:?} is started while it is {level:?}");
        let by_hand = self.by_hand.get(key);
        let held = by_hand.is_some_and(|level| *level > FenceLevel::Throttle);
        assert!(!held, "{key:?} is started, and an operator has fenced it: {by_hand:?}");
        assert!(!memory.frozen, "{key:?} is born frozen");
    }

    pub(crate) fn forgotten(&mut self, key: &Key) {
        self.by_hand.remove(key);
        self.left.insert(key.0.clone());
    }

    pub(crate) fn has_left(&self, service: &str) -> bool {
        self.left.contains(service)
    }

    /// The host comes up again, and knows of fences by hand what is on disk.
    pub(crate) fn rebooted(&mut self, plan: &Plan, decisions: &BTreeMap<(String, Option<u16>), Decision>) {
        self.by_hand.clear();
        for key in keys(plan) {
            let own = decisions.get(&(key.0.clone(), Some(key.1))).or_else(|| decisions.get(&(key.0.clone(), None)));
            if let Some(FencedByHand { level, .. }) = own.and_then(|own| own.fence.as_deref()) {
                self.saw("a fence by hand outlives the host".to_owned());
                // Nothing runs yet that could be frozen.
                self.by_hand.insert(key, if *level == FenceLevel::Throttle { *level } else { FenceLevel::Freeze });
            }
        }
        self.open.clear();
        self.automatic.clear();
    }

    /// Before a step's actions are performed: what the agent fences by itself is allowed. `world` is as it was before.
    pub(crate) fn allows(world: &World, engine: &Engine, note: &FenceNote, key: &Key) {
        let FenceNote::Fenced { id, .. } = note else {
            return;
        };
        if world.audit.automatic.iter().any(|(_, known)| known == id) || !is_automatic(engine, *id) {
            return;
        }
        let Some(view) = engine.service(&key.0, world.now) else {
            return;
        };
        let others = || view.replicas.iter().filter(|replica| replica.id.index != key.1);
        let fenced = others().find(|replica| replica.memory.fence.is_some());
        let steps = engine.fence_record(*id).map_or(0, |record| record.steps.len());
        assert!(steps > 1 || fenced.is_none(), "{key:?} is fenced beside {:?}", fenced.map(|other| other.id));
        let is_well = |state| matches!(state, StateName::Ready | StateName::Done);
        let was_well = world.records.get(key).is_some_and(|record| is_well(record.memory.state));
        let left = others().filter(|replica| is_well(replica.state)).count();
        let least = usize::from(view.plan.min_healthy);
        assert!(steps > 1 || !was_well || left >= least, "{key:?} is fenced, {left} are left of {least}");
    }

    pub(crate) fn note(&mut self, world: &Facts<'_>, note: &FenceNote) {
        let engine = world.engine;
        match note {
            FenceNote::Fenced { id, level, .. } => {
                let trigger = engine.fence_record(*id).map(|record| record.trigger);
                let word = trigger.map_or("?", Trigger::word);
                self.saw(format!("{} by {word}", level.word()));
                if is_automatic(engine, *id) && !self.automatic.iter().any(|(_, known)| known == id) {
                    let now = world.now.mono;
                    let short = self.short_at.is_some_and(|at| now.since(at) < SHORT_LATELY);
                    assert!(trigger != Some(Trigger::HostMemory) || short, "fenced for a shortage that is long over");
                    self.automatic.push_back((now, *id));
                    self.automatic.retain(|(at, _)| now.since(*at) < AUTOMATIC_WITHIN);
                    assert!(self.automatic.len() <= AUTOMATIC_MAX, "{} fences in ten minutes", self.automatic.len());
                }
            }
            FenceNote::Proven { level, .. } => {
                self.saw(format!("{} proven", level.word()));
                world.check_proof(*level, note);
            }
            FenceNote::Incomplete { id, level, why } => {
                self.saw(format!("{} incomplete", level.word()));
                let record = engine.fence_record(*id).filter(|record| record.standing == Standing::Incomplete);
                let answered = why.contains("pid");
                if let Some(record) = record.filter(|_| *level == FenceLevel::Kill && answered) {
                    assert!(!record.remaining.is_empty(), "nobody is named: {record:?}");
                }
            }
            FenceNote::Closed { record } => {
                let known = self.open.remove(&record.id);
                let straight = known.is_some_and(|since| since > self.wall_jumped);
                check_record(record, straight);
                self.saw(format!("closed: {}", record.standing.word()));
                self.saw(format!("closed of {}", record.trigger.word()));
            }
            FenceNote::Observed { because, .. } => {
                let because: String = because.chars().filter(|letter| !letter.is_ascii_digit()).collect();
                self.saw(format!("observed: {}", because.trim()));
            }
            FenceNote::Released { .. } => self.saw("released".to_owned()),
            FenceNote::Passed { .. } => self.saw("probation passed".to_owned()),
            FenceNote::LimitsRefused { .. } => self.saw("limits refused".to_owned()),
        }
    }

    /// Nobody is read without a reason.
    pub(crate) fn reading(&mut self, engine: &Engine, replica: ReplicaId, now: Now) {
        self.read.insert(replica, now.mono);
        let limited = engine.service_plan(replica.service).is_some_and(|plan| plan.resources.is_some());
        let short = self.short_at.is_some_and(|at| now.mono.since(at) < SHORT_FOR);
        let still = copies_freeze(engine, replica, now);
        let needed = engine.is_fenced(replica) || limited || short || still || is_said_short(engine, now);
        assert!(needed, "{replica:?} is read, and nobody needs that");
    }

    /// When everything was lifted, and has been well for long.
    pub(crate) fn check_all_over(&self, engine: &Engine, now: Now) {
        let fences = engine.fences(now);
        let budget = |id: &u64| fences.active.iter().any(|(record, _)| record.id == *id && is_budget(record));
        let left: Vec<_> = fences.active.iter().filter(|(record, _)| !is_budget(record)).collect();
        assert!(left.is_empty(), "fences that nobody lifts: {left:?}");
        let left: Vec<_> = self.open.keys().filter(|id| !budget(id)).collect();
        assert!(left.is_empty(), "records that were never closed: {left:?}");
        // A check that went back and forth is kept at its worst for a while.
        let lately = |at: &Time| now.mono.since(*at) < READ_LATELY && !is_said_short(engine, now);
        for (replica, _) in self.read.iter().filter(|(_, at)| lately(at)) {
            let limits = engine.service_plan(replica.service).and_then(|plan| plan.resources.as_ref());
            let watched = limits.is_some_and(|resources| {
                resources.limits.cpu_max_permille.is_some() || resources.limits.pids_max.is_some()
            });
            let still = copies_freeze(engine, *replica, now);
            assert!(watched || still, "{replica:?} is read for a fence that is over");
        }
    }
}

/// What is so, whatever the agent says.
pub(crate) struct Facts<'a> {
    pub(crate) engine: &'a Engine,
    pub(crate) now: Now,
    pub(crate) key: Key,
    /// Processes are there.
    pub(crate) populated: bool,
    /// All of them stand still.
    pub(crate) still: bool,
    /// One of them is in uninterruptible sleep.
    pub(crate) asleep: bool,
    /// The limits in force are those that should be.
    pub(crate) limited: bool,
}

impl Facts<'_> {
    fn check_proof(&self, level: FenceLevel, note: &FenceNote) {
        let (key, text) = (&self.key, note.text());
        match level {
            FenceLevel::Throttle => assert!(!self.populated || self.limited, "{key:?}: {text}; it is not limited"),
            FenceLevel::Freeze => {
                assert!(!self.asleep, "{key:?}: {text}; a member sleeps in the kernel");
                // Somebody may have killed it since.
                assert!(!self.populated || self.still, "{key:?}: {text}; it does not stand still");
            }
            FenceLevel::Kill | FenceLevel::Hold => {
                assert!(!self.asleep, "{key:?}: {text}; a member sleeps in the kernel");
                assert!(!self.populated, "{key:?}: {text}; its tree is not empty");
            }
        }
    }
}

fn keys(plan: &Plan) -> impl Iterator<Item = Key> + '_ {
    let services = plan.services.iter();
    services.flat_map(|service| (0..service.replicas).map(|index| (service.name.clone(), index)))
}

/// By its causes, which the radius limits; what fails on probation is not well anyway.
fn is_automatic(engine: &Engine, record: u64) -> bool {
    engine.fence_record(record).is_some_and(|record| match record.trigger {
        Trigger::Cpu | Trigger::Pids | Trigger::Pressure | Trigger::HostMemory => true,
        // By a cause as well, and not because it ended.
        Trigger::Probation => record.evidence.first().is_some_and(|text| text.starts_with("on probation: ")),
        Trigger::Operator | Trigger::Restarts => false,
    })
}

fn is_said_short(engine: &Engine, now: Now) -> bool {
    let check = engine.checks(now).into_iter().find(|check| check.kind == CheckKind::Memory);
    check.is_some_and(|check| check.state >= Health::Degraded)
}

fn is_budget(record: &Record) -> bool {
    record.trigger == Trigger::Restarts
}

/// `straight`: no clock was set while it stood.
fn check_record(record: &Record, straight: bool) {
    assert!(record.ended.is_some(), "closed, and has not ended: {record:?}");
    assert!(!record.evidence.is_empty(), "nobody knows why: {record:?}");
    if record.standing == Standing::Observed {
        assert!(record.observed_because.is_some() && record.steps.is_empty(), "{record:?}");
        return;
    }
    assert_eq!(record.standing, Standing::Released, "{record:?}");
    assert!(!record.steps.is_empty(), "a fence without a step: {record:?}");
    for step in &record.steps {
        let took = [step.written_after_us, step.proven_after_us];
        assert_eq!([step.written.is_some(), step.proven.is_some()], took.map(|took| took.is_some()), "{record:?}");
        assert!(step.proven.is_none() || !step.proof.is_empty(), "proven by nothing: {record:?}");
        // What did not run then is written to at its next start.
        let written = step.written.filter(|_| !step.proof.starts_with("nothing runs"));
        let times = [Some(step.decided), written, step.proven];
        assert!(!straight || times.iter().flatten().is_sorted(), "not in order: {record:?}");
        let emptied = step.proven.is_some() && step.level >= FenceLevel::Kill;
        assert!(!emptied || step.processes_after == Some(0), "{record:?}");
    }
    let steps: Vec<_> = record.steps.iter().map(|step| step.decided).collect();
    assert!(!straight || steps.is_sorted(), "not in order: {record:?}");
    assert_eq!(record.left.is_empty(), record.left_at.is_none(), "{record:?}");
}

/// That a service stands still for a copy is proven by such a reading.
fn copies_freeze(engine: &Engine, replica: ReplicaId, now: Now) -> bool {
    let name = engine.service_plan(replica.service).map(|plan| plan.name.clone()).unwrap_or_default();
    let freezes =
        |view: &CopyView<'_>| matches!(&view.plan.quiesce, Quiesce::Freeze { service, .. } if *service == name);
    engine.copies(now).iter().any(freezes)
}
