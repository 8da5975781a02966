//! The model of the roles of sets of copies: what lies on their targets, jobs that succeed, fail, are cancelled or are lost with the role, and services whose data is
//! exchanged. It keeps watch over what may never happen, by words of its own:
//!
//! * two jobs of one set at a time, or one by itself while the disk under the source fails;
//! * a prune of what must stay whatever the rules say, or one before a run has succeeded;
//! * data exchanged below processes that run, or a service that starts on half of it.

mod rules;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mainstay::engine::Engine;
use mainstay::engine::copies::catalog::{Catalog, Cause, Copy, Suspicion, TargetState, Unchanged, Verified};
use mainstay::engine::copies::event::{CopyAction, CopyEvent, Hook};
use mainstay::engine::copies::order::{
    Failure, FailureKind, Job, Order, Outcome, Place, Report, Swap, SwapKind, SwapTo, Which,
};
use mainstay::engine::copies::plan::{CopyPlan, Keep, OnChange, OnFull, Quiesce};
use mainstay::engine::event::Event;
use mainstay::engine::plan::{Plan, ServicePlan};
use mainstay::engine::types::Time;

use crate::dice::Dice;
use crate::world::{Happening, World};

/// What happens to a set by itself.
#[derive(Clone, Debug)]
pub(crate) enum Turn {
    /// Its role is there (again) and says so.
    Link(String),
    /// The job of this order goes on.
    Job(String, u64),
    /// A command for this order ends.
    Hook(String, u64, Hook),
    /// Something at the sources has changed.
    Change(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Data {
    Old,
    New,
    /// Somebody has ended while names were exchanged.
    Half,
}

#[derive(Debug, Default)]
pub(crate) struct Sets {
    sets: BTreeMap<String, Set>,
    /// What lies at the sources that were ever exchanged.
    data: BTreeMap<PathBuf, Data>,
    /// By service: the paths that a decision says are being restored.
    restored: BTreeMap<String, Vec<PathBuf>>,
    pub(crate) seen: BTreeMap<&'static str, u64>,
}

#[derive(Debug, Default)]
struct Set {
    catalog: Catalog,
    /// As the agent was last told.
    told: Catalog,
    linked: bool,
    running: Option<Doing>,
    next_seq: u64,
    /// A run of this agent's life has ended well, or for want of room.
    may_prune: bool,
    /// Removals asked for by hand that have not come yet.
    by_hand: u32,
}

#[derive(Debug)]
struct Doing {
    order: Order,
    began: Time,
    step: Step,
    cancelled: bool,
    refused: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Begun,
    /// The service shall hold still.
    Asked,
    Still,
    Ending,
}

/// Some sets, small ones, so that much is removed.
pub(crate) fn random(dice: &mut Dice, services: &[ServicePlan]) -> Vec<CopyPlan> {
    let services: Vec<String> = services.iter().map(|service| service.name.clone()).collect();
    (0..dice.below(3))
        .map(|number| {
            let from = if dice.percent(50) { "/srv/data" } else { "/var/data" };
            let mut plan = CopyPlan::with_defaults(&format!("c{number}"), from.into(), "/mnt/second".into());
            plan.when.every = dice.percent(70).then(|| dice.ms(20_000, 1_200_000));
            plan.when.on_change =
                dice.percent(40).then(|| OnChange { quiet: Duration::from_secs(1), max_wait: Duration::from_secs(10) });
            let mut few = |below| u32::try_from(dice.below(below)).expect("small");
            plan.keep = Keep {
                last: few(4),
                hourly: few(3),
                daily: few(3),
                weekly: few(2),
                monthly: 0,
                yearly: few(2),
                min_keep: 1 + few(3),
            };
            plan.space.on_full = if dice.percent(50) { OnFull::Stop } else { OnFull::PruneOldest };
            plan.scrub_every = dice.percent(50).then(|| dice.ms(60_000, 3_600_000));
            plan.restore_test = dice.percent(50).then(|| dice.ms(60_000, 3_600_000));
            plan.max_age = dice.percent(50).then(|| dice.ms(60_000, 3_600_000));
            plan.quiesce = quiesce(dice, &services);
            plan
        })
        .collect()
}

fn quiesce(dice: &mut Dice, services: &[String]) -> Quiesce {
    let command = || vec!["/bin/true".to_owned()];
    if services.is_empty() {
        return Quiesce::None;
    }
    let service = dice.pick(services).clone();
    match dice.below(5) {
        0 => Quiesce::None,
        1 | 2 => Quiesce::Freeze { service, max: dice.ms(100, 5_000) },
        3 => Quiesce::Stop { service },
        _ => Quiesce::Exec { pre: command(), post: command(), timeout: dice.ms(100, 5_000) },
    }
}

fn is_good(copy: &Copy) -> bool {
    let believed = copy.accepted || (copy.suspect.is_none() && !copy.clock_suspect);
    copy.stale == 0 && copy.bad == 0 && believed
}

impl Sets {
    fn saw(&mut self, what: &'static str) {
        *self.seen.entry(what).or_default() += 1;
    }

    /// The agent is gone: every link with it. The jobs that do not wait for it any longer.
    fn agent_dies(&mut self) -> Vec<(String, u64)> {
        let mut refused = Vec::new();
        for (name, set) in &mut self.sets {
            (set.linked, set.may_prune, set.by_hand) = (false, false, 0);
            if let Some(doing) = set.running.as_mut().filter(|doing| matches!(doing.step, Step::Asked | Step::Still)) {
                doing.refused = true;
                refused.push((name.clone(), doing.order.id));
            }
        }
        refused
    }

    /// And the host with it.
    pub(crate) fn host_dies(&mut self) {
        for set in self.sets.values_mut() {
            if let Some(doing) = set.running.take()
                && let Job::Exchange(exchange) = doing.order.job
            {
                self.data.extend(exchange.swaps.into_iter().map(|swap| (swap.path, Data::Half)));
            }
        }
    }

    /// A decision was handed out: whether it says that a restore is under way.
    pub(crate) fn decided(&mut self, content: &mainstay::engine::event::Decision) {
        if content.replica.is_some() {
            return;
        }
        match &content.restore {
            Some(restore) => {
                let paths = restore.parts.iter().flat_map(|part| part.paths.clone()).collect();
                self.restored.insert(content.service.clone(), paths);
            }
            None => {
                // It is over: what lies there is what another one would begin with.
                for path in self.restored.remove(&content.service).into_iter().flatten() {
                    if self.data.get(&path) == Some(&Data::New) {
                        self.data.remove(&path);
                    }
                }
            }
        }
    }

    /// A service that is being restored starts on the old data or on the new.
    pub(crate) fn check_spawn(&self, service: &str) {
        for path in self.restored.get(service).into_iter().flatten() {
            assert_ne!(self.data.get(path), Some(&Data::Half), "{service} is started on half of {}", path.display());
        }
    }

    pub(crate) fn prune_is_asked_for(&mut self, set: &str) {
        if let Some(set) = self.sets.get_mut(set) {
            set.by_hand += 1;
        }
    }

    pub(crate) fn copies_of(&self, set: &str) -> Vec<u64> {
        self.sets.get(set).map(|set| set.catalog.copies.iter().map(|copy| copy.seq).collect()).unwrap_or_default()
    }

    pub(crate) fn check_rests(&self, plan: &Plan) {
        let half: Vec<_> = self.data.iter().filter(|(_, data)| **data == Data::Half).collect();
        assert!(half.is_empty(), "half exchanged for good: {half:?}");
        // What left the configuration meanwhile is nobody's to bring to an end: both versions lie there.
        let known = |service: &str| plan.services.iter().any(|plan| plan.name == service);
        let for_ever: Vec<_> = self.restored.iter().filter(|(service, _)| known(service)).collect();
        assert!(for_ever.is_empty(), "restored for ever: {for_ever:?}");
    }
}

impl World {
    /// The roles of these sets come to be, or come back to a new agent.
    pub(crate) fn link_sets(&mut self, plans: &[CopyPlan]) {
        self.copies.sets.retain(|name, _| plans.iter().any(|plan| plan.name == *name));
        for plan in plans {
            let set = self.copies.sets.entry(plan.name.clone()).or_default();
            set.catalog.target = TargetState::Ready;
            (set.catalog.free_bytes, set.catalog.size_bytes) = (1 << 40, 1 << 41);
            if !set.linked {
                let after = self.dice.ms(0, 3_000);
                self.later(after, Happening::Copies(Turn::Link(plan.name.clone())));
            }
        }
    }

    fn say(&mut self, set: &str, report: Report) {
        if !self.copies.sets.get(set).is_some_and(|set| set.linked) || !self.agent_lives {
            return;
        }
        let event = Event::Copies(Box::new(CopyEvent::Report { set: set.to_owned(), report }));
        let again = matches!(&event, Event::Copies(event) if matches!(&**event, CopyEvent::Report { report: Report::Done { .. } | Report::Quiesce { .. }, .. }));
        if self.chaos && again && self.dice.percent(5) {
            let after = self.dice.ms(0, 20_000);
            self.later(after, Happening::TellOnce(event.clone()));
        }
        self.told.push(event);
    }

    pub(crate) fn copies_without_agent(&mut self) {
        for (name, order) in self.copies.agent_dies() {
            let after = self.dice.ms(0, 1_000);
            self.later(after, Happening::Copies(Turn::Job(name, order)));
        }
    }

    fn say_catalog(&mut self, name: &str) {
        let Some(set) = self.copies.sets.get_mut(name) else { return };
        set.told.clone_from(&set.catalog);
        let catalog = Box::new(set.catalog.clone());
        self.say(name, Report::Catalog(catalog));
    }

    pub(crate) fn copies_turn(&mut self, engine: &Engine, turn: Turn) {
        match turn {
            Turn::Link(name) => self.link(engine, &name),
            Turn::Job(name, order) => self.job_goes_on(engine, &name, order),
            Turn::Hook(set, order, hook) => {
                let result = if self.chaos && self.dice.percent(20) { Err("exit code 1".to_owned()) } else { Ok(()) };
                if self.agent_lives {
                    self.told.push(Event::Copies(Box::new(CopyEvent::Hooked { set, order, hook, result })));
                }
            }
            Turn::Change(name) => self.say(&name, Report::Changed),
        }
    }

    fn link(&mut self, engine: &Engine, name: &str) {
        let known = engine.plan().copies.iter().any(|plan| plan.name == name);
        let Some(set) = self.copies.sets.get_mut(name).filter(|set| known && !set.linked) else { return };
        if !self.agent_lives {
            return;
        }
        set.linked = true;
        let name = name.to_owned();
        self.told.push(Event::Copies(Box::new(CopyEvent::Linked { set: name.clone() })));
        if let Some(doing) = &self.copies.sets[&name].running {
            let order = doing.order.clone();
            self.copies.saw("a job goes on over a lost link");
            self.told.push(Event::Copies(Box::new(CopyEvent::Running { set: name.clone(), order })));
        }
        self.say_catalog(&name);
    }

    /// A link is lost, often with the role and what it was doing.
    pub(crate) fn lose_a_role(&mut self) {
        let names: Vec<String> = self.copies.sets.keys().cloned().collect();
        if names.is_empty() {
            return;
        }
        let name = self.dice.pick(&names).clone();
        let dies = self.dice.percent(60);
        let after = self.dice.ms(0, 20_000);
        let Some(set) = self.copies.sets.get_mut(&name).filter(|set| set.linked) else { return };
        set.linked = false;
        if dies {
            self.copies.saw("a role dies");
            let doing = self.copies.sets.get_mut(&name).and_then(|set| set.running.take());
            if let Some(Doing { order: Order { job: Job::Exchange(exchange), .. }, .. }) = doing {
                self.copies.saw("a role dies in an exchange");
                for swap in exchange.swaps {
                    self.copies.data.insert(swap.path, Data::Half);
                }
            }
        } else if let Some(doing) = set.running.as_mut().filter(|doing| matches!(doing.step, Step::Asked | Step::Still))
        {
            doing.refused = true;
            let order = doing.order.id;
            let soon = self.dice.ms(0, 1_000);
            self.later(soon, Happening::Copies(Turn::Job(name.clone(), order)));
        }
        self.told.push(Event::Copies(Box::new(CopyEvent::Unlinked { set: name.clone() })));
        self.later(after, Happening::Copies(Turn::Link(name)));
    }

    pub(crate) fn copy_action(&mut self, engine: &Engine, name: &str, what: &CopyAction) {
        let linked = self.copies.sets.get(name).is_some_and(|set| set.linked);
        let soon = self.dice.ms(0, 3_000);
        match what {
            CopyAction::Hook { order, hook, .. } => {
                if !(self.chaos && self.dice.percent(10)) {
                    self.later(soon, Happening::Copies(Turn::Hook(name.to_owned(), *order, *hook)));
                }
            }
            _ if !linked => {}
            CopyAction::Plan(_) => self.say_catalog(name),
            CopyAction::Order(order) => self.begin_job(engine, name, order),
            CopyAction::Cancel { order } => self.job_changes(name, *order, soon, |doing| doing.cancelled = true),
            CopyAction::Quiesced { order, frozen, .. } => {
                self.check_still(engine, name, frozen);
                self.job_changes(name, *order, soon, |doing| doing.step = Step::Still);
            }
            CopyAction::NotQuiesced { order, .. } => self.job_changes(name, *order, soon, |doing| doing.refused = true),
            // It was done with it, or what is copied from now on is unstable, and no more.
            CopyAction::Resumed { order } => {
                let running = self.copies.sets.get(name).and_then(|set| set.running.as_ref());
                if running.is_some_and(|doing| doing.order.id == *order && matches!(doing.step, Step::Still)) {
                    self.copies.saw("held still for too long");
                }
            }
            CopyAction::Keep { .. } => {}
            CopyAction::Switch(_) => panic!("{name}: {what:?}, and no set here says `Restore`"),
        }
    }

    fn job_changes(&mut self, name: &str, order: u64, after: Duration, change: impl FnOnce(&mut Doing)) {
        let doing = self.copies.sets.get_mut(name).and_then(|set| set.running.as_mut());
        if let Some(doing) = doing.filter(|doing| doing.order.id == order) {
            change(doing);
            self.later(after, Happening::Copies(Turn::Job(name.to_owned(), order)));
        }
    }

    fn begin_job(&mut self, engine: &Engine, name: &str, order: &Order) {
        self.check_order(engine, name, &order.job);
        let (began, id) = (self.now.wall, order.id);
        let set = self.copies.sets.get_mut(name).expect("linked");
        assert!(set.running.is_none(), "{name}: {order:?} beside {:?}", set.running);
        set.running = Some(Doing { order: order.clone(), began, step: Step::Begun, cancelled: false, refused: false });
        let after = self.dice.ms(10, 8_000);
        self.later(after, Happening::Copies(Turn::Job(name.to_owned(), id)));
    }

    fn job_goes_on(&mut self, engine: &Engine, name: &str, order: u64) {
        let Some(set) = self.copies.sets.get_mut(name) else { return };
        let Some(doing) = set.running.as_mut().filter(|doing| doing.order.id == order) else { return };
        let plan = engine.plan().copies.iter().find(|plan| plan.name == name);
        let quiet = plan.is_some_and(|plan| matches!(plan.quiesce, Quiesce::Freeze { .. } | Quiesce::Stop { .. }));
        let takes = matches!(doing.order.job, Job::Take { .. });
        let after = self.dice.ms(10, 4_000);
        if doing.cancelled || doing.refused {
            return self.end_job(name);
        }
        let ends = self.dice.percent(20);
        match doing.step {
            Step::Begun if takes && quiet && set.linked => {
                doing.step = Step::Asked;
                self.say(name, Report::Quiesce { order, on: true });
            }
            // Somebody else's turn: it waits for its answer.
            Step::Asked => {}
            Step::Still if !ends => {
                doing.step = Step::Ending;
                self.say(name, Report::Quiesce { order, on: false });
                self.later(after, Happening::Copies(Turn::Job(name.to_owned(), order)));
            }
            Step::Begun | Step::Still | Step::Ending => self.end_job(name),
        }
    }

    fn end_job(&mut self, name: &str) {
        let Some(doing) = self.copies.sets.get_mut(name).and_then(|set| set.running.take()) else { return };
        let order = doing.order.id;
        let fails = self.chaos && self.dice.percent(20);
        let kind = match (doing.cancelled, doing.refused, fails) {
            (true, _, _) if !matches!(doing.order.job, Job::Prune { .. }) => Some(FailureKind::Cancelled),
            (_, true, _) => Some(FailureKind::Quiesce),
            (_, _, true) => Some(*self.dice.pick(&[
                FailureKind::Target,
                FailureKind::Full,
                FailureKind::Full,
                FailureKind::TargetIo,
                FailureKind::Source,
                FailureKind::Busy,
                FailureKind::InUse,
                FailureKind::Other,
            ])),
            (_, _, false) => None,
        };
        let takes = matches!(doing.order.job, Job::Take { .. });
        let outcome = match kind {
            Some(kind) => {
                if kind == FailureKind::Full && takes {
                    self.copies.saw("full");
                    self.say(name, Report::Target(TargetState::Full { missing_bytes: 1_000 }));
                }
                Outcome::Failed(Failure { kind, what: "it would not".to_owned(), remedy: None })
            }
            None => self.does(name, &doing),
        };
        let well = matches!(outcome, Outcome::Taken { .. } | Outcome::Unchanged { .. });
        let full = kind == Some(FailureKind::Full) && takes;
        if let Some(set) = self.copies.sets.get_mut(name).filter(|set| set.linked && (well || full)) {
            set.may_prune = true;
        }
        self.say_catalog(name);
        self.say(name, Report::Done { order, outcome });
        if self.dice.percent(30) {
            let after = self.dice.ms(0, 60_000);
            self.later(after, Happening::Copies(Turn::Change(name.to_owned())));
        }
    }

    #[expect(clippy::too_many_lines, reason = "one arm for each job")]
    fn does(&mut self, name: &str, doing: &Doing) -> Outcome {
        let wall = self.now.wall;
        let chaos = self.chaos;
        if let Job::Exchange(exchange) = &doing.order.job {
            let to = if exchange.to == SwapTo::New { Data::New } else { Data::Old };
            for swap in &exchange.swaps {
                self.copies.data.insert(swap.path.clone(), to);
            }
            return Outcome::Swapped { aside: Vec::new() };
        }
        let (odd, bad) = (chaos && self.dice.percent(8), chaos && self.dice.percent(5));
        let (same, clock) = (self.dice.percent(30), chaos && self.dice.percent(3));
        let cold = self.dice.percent(60);
        let set = self.copies.sets.get_mut(name).expect("it was just there");
        let catalog = &mut set.catalog;
        let newest = catalog.copies.iter().rfind(|copy| is_good(copy)).map(|copy| copy.seq);
        match &doing.order.job {
            Job::Take { cause } => match newest.filter(|_| same) {
                Some(seq) => {
                    catalog.unchanged = Some(Unchanged { at: doing.began, seq });
                    Outcome::Unchanged { seq }
                }
                None => {
                    set.next_seq += 1;
                    let seq = set.next_seq;
                    catalog.copies.push(copy(seq, doing.began, *cause, odd, clock));
                    Outcome::Taken { seq, files: 1, written_bytes: 1, linked: 0 }
                }
            },
            Job::Verify { which } => {
                let seqs: Vec<u64> = catalog
                    .copies
                    .iter()
                    .map(|copy| copy.seq)
                    .filter(|seq| match which {
                        Which::Newest => Some(*seq) == newest,
                        Which::One(one) => seq == one,
                        Which::All => true,
                    })
                    .collect();
                for copy in catalog.copies.iter_mut().filter(|copy| seqs.contains(&copy.seq)) {
                    copy.bad = u64::from(bad);
                    copy.verified = (!bad).then_some(Verified { at: wall, cold });
                }
                Outcome::Verified { copies: seqs, files: 1, bytes: 1, bad: u64::from(bad), mended: 0 }
            }
            Job::Scrub => {
                (catalog.scrubbed, catalog.scrub_permille) = (Some(wall), 0);
                Outcome::Scrubbed
            }
            Job::Prune { copies } => {
                catalog.copies.retain(|copy| !copies.contains(&copy.seq));
                Outcome::Pruned { copies: copies.clone() }
            }
            Job::Pin { seq, pinned } => {
                catalog.copies.iter_mut().filter(|copy| copy.seq == *seq).for_each(|copy| copy.pinned = *pinned);
                Outcome::Pinned
            }
            Job::Accept { seq } => {
                catalog.copies.iter_mut().filter(|copy| copy.seq == *seq).for_each(|copy| copy.accepted = true);
                Outcome::Accepted
            }
            Job::RestoreTest => {
                catalog.restore_tested = Some(wall);
                Outcome::Tested { seq: newest.unwrap_or(1), files: 1 }
            }
            Job::Init { .. } => Outcome::Initialised { uuid: "u".to_owned() },
            Job::Restore(restore) => {
                let seq = restore.seq.or(newest).unwrap_or(1);
                if restore.dry_run {
                    return Outcome::WouldRestore { seq, lines: Vec::new(), more: 0 };
                }
                match restore.place {
                    Place::Beside => {
                        let swaps = restore.paths.iter().map(|path| swap(path)).collect();
                        Outcome::Built { seq, files: 1, bytes: 1, swaps }
                    }
                    Place::Into(_) | Place::Replace => Outcome::Restored { seq, files: 1, bytes: 1, kept: Vec::new() },
                }
            }
            Job::Exchange(_) => Outcome::Swapped { aside: Vec::new() },
            job @ (Job::Materialise(_) | Job::Gather { .. } | Job::Dismiss { .. } | Job::Failback { .. }) => {
                panic!("{name}: {job:?}, and no set here says `Restore`")
            }
        }
    }
}

fn copy(seq: u64, at: Time, cause: Cause, odd: bool, clock_suspect: bool) -> Copy {
    Copy {
        seq,
        directory: format!("{seq:06}"),
        at,
        took: Duration::from_secs(1),
        files: 10,
        bytes: 1_000,
        written_bytes: 100,
        cause,
        stale: u64::from(odd && seq.is_multiple_of(2)),
        unstable: 0,
        suspect: odd.then(|| Suspicion::Empty { source: "/srv/data".to_owned() }),
        clock_suspect,
        pinned: false,
        accepted: false,
        verified: None,
        bad: 0,
        in_use: false,
        large: 0,
        large_over: 0,
    }
}

fn swap(path: &Path) -> Swap {
    Swap {
        path: path.to_owned(),
        kind: SwapKind::Taken,
        built: path.with_extension("built"),
        kept: path.with_extension("kept"),
        aside: path.with_extension("aside"),
        new: 1,
    }
}
