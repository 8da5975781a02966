//! What processes do: they become ready, ping, answer, end, and leave others behind.

use std::time::Duration;

use mainstay::engine::Engine;
use mainstay::engine::event::{Event, NotifyMessage, Remaining};
use mainstay::engine::fence::plan::Limits;
use mainstay::engine::plan::{Kind, Readiness, ServicePlan};
use mainstay::engine::types::{Exit, ReplicaId, RunId, SIGKILL, Time};

use crate::dice::Dice;
use crate::group::Group;
use crate::world::{Answers, Happening, Key, Tree, World};

impl World {
    pub(crate) fn main_ends(&mut self, engine: &Engine, number: u64, exit: Exit) {
        let Some(tree) = self.trees.get(&number).filter(|tree| tree.main) else {
            return;
        };
        let wait = self.asleep(tree);
        if !wait.is_zero() {
            return self.later(wait, Happening::MainEnds(number, exit));
        }
        let Some(tree) = self.trees.get_mut(&number) else {
            return;
        };
        if tree.frozen && !matches!(exit, Exit::Signal { signal: SIGKILL, .. }) {
            return self.later(Duration::from_millis(700), Happening::MainEnds(number, exit));
        }
        tree.main = false;
        tree.exit = exit;
        self.tell_exit(engine, number, exit);
    }

    pub(crate) fn tell_exit(&mut self, engine: &Engine, number: u64, exit: Exit) {
        let Some(tree) = self.trees.get_mut(&number) else {
            return;
        };
        if let Some(replica) = Self::id(engine, &tree.key).filter(|_| self.agent_lives) {
            tree.exit_told = true;
            let (run, remaining) = (RunId(tree.run), tree.others);
            let oom = self.chaos && self.dice.percent(3);
            self.tell(Event::Exited { replica, run, exit, oom, remaining });
        }
    }

    pub(crate) fn others_end(&mut self, engine: &Engine, number: u64) {
        let Some(tree) = self.trees.get(&number).filter(|tree| tree.others > 0) else {
            return;
        };
        let wait = self.asleep(tree);
        if !wait.is_zero() {
            return self.later(wait, Happening::OthersEnd(number));
        }
        let Some(tree) = self.trees.get_mut(&number) else {
            return;
        };
        tree.others = 0;
        if !tree.main
            && tree.exit_told
            && let Some(replica) = Self::id(engine, &tree.key)
        {
            let run = RunId(tree.run);
            self.tell(Event::TreeEmpty { replica, run });
        }
    }

    pub(crate) fn becomes_ready(&mut self, engine: &Engine, number: u64) {
        let Some(tree) = self.trees.get_mut(&number).filter(|tree| tree.main) else {
            return;
        };
        if tree.frozen {
            return self.later(Duration::from_millis(700), Happening::Ready(number));
        }
        tree.ready = true;
        let announces = tree.announces.clone();
        let (key, run) = (tree.key.clone(), RunId(tree.run));
        let Some(replica) = Self::id(engine, &key) else {
            return;
        };
        if !self.agent_lives {
            // The descriptor is kept: the next agent reads it.
            return self.later(Duration::from_millis(500), Happening::Ready(number));
        }
        match announces {
            Some(Readiness::Notify) => self.tell(Event::Notified { replica, run, message: NotifyMessage::Ready }),
            Some(Readiness::Fd(_)) => self.tell(Event::ReadyByFd { replica, run }),
            Some(Readiness::Log(_)) => self.tell(Event::ReadyByLog { replica, run }),
            Some(Readiness::Started | Readiness::Probe(_)) | None => {}
        }
    }

    pub(crate) fn ping(&mut self, engine: &Engine, number: u64) {
        let Some((key, run, pause)) =
            self.trees.get(&number).filter(|tree| tree.main).map(|tree| (tree.key.clone(), tree.run, tree.pings))
        else {
            return;
        };
        if let (Some(pause), Some(replica)) = (pause, Self::id(engine, &key)) {
            let silent = self.trees[&number].frozen || (self.chaos && self.dice.percent(5));
            if !silent {
                self.tell(Event::Notified { replica, run: RunId(run), message: NotifyMessage::Watchdog });
            }
            self.later(pause, Happening::Ping(number));
        }
    }

    pub(crate) fn new_tree(&mut self, key: &Key, run: RunId, plan: &ServicePlan) -> Tree {
        let (chaos, dice) = (self.chaos, &mut self.dice);
        let answers = match dice.below(10) {
            0 if chaos => Answers::Never,
            1 if chaos => Answers::Badly,
            _ => Answers::Well,
        };
        let asleep = if chaos && dice.percent(3) { dice.ms(1_000, 60_000) } else { Duration::ZERO };
        Tree {
            key: key.clone(),
            run: run.0,
            main: true,
            exit: Exit::Unknown,
            others: if dice.percent(20) { 2 } else { 0 },
            signalled: false,
            exit_told: false,
            asleep_until: if asleep.is_zero() { Time(0) } else { self.now.mono.after(asleep) },
            obeys: !(chaos && dice.percent(10)),
            others_obey: dice.percent(70),
            ready: false,
            announces: Some(plan.ready.clone()),
            answers,
            pings: plan.watchdog.map(|watchdog| watchdog / 2),
            frozen: false,
            group: Group::new(Limits::default(), 0, self.now.mono, &mut Dice::new(0)),
            known: false,
        }
    }

    /// What the process is going to do.
    pub(crate) fn live(&mut self, number: u64, plan: &ServicePlan) {
        let never_ready = self.chaos && self.dice.percent(8);
        if !never_ready {
            let after = if self.dice.percent(50) { self.dice.ms(0, 3) } else { self.dice.ms(3, 400) };
            self.later(after, Happening::Ready(number));
        }
        if plan.watchdog.is_some() {
            self.later(Duration::from_millis(1), Happening::Ping(number));
        }
        let dies = match plan.kind {
            Kind::Oneshot | Kind::Every(_) => true,
            Kind::Daemon => self.chaos && self.dice.percent(if self.patient { 10 } else { 60 }),
        };
        if dies {
            let after = match self.dice.below(3) {
                0 => self.dice.ms(6, 30),
                1 => self.dice.ms(30, 3_000),
                _ => self.dice.ms(1_000, 60_000),
            };
            let good = !self.chaos || self.dice.percent(60);
            let exit = match (good, self.dice.below(3)) {
                (true, _) => Exit::Code(0),
                (false, 0) => Exit::Signal { signal: 11, core: true },
                (false, _) => Exit::Code(1),
            };
            self.later(after, Happening::MainEnds(number, exit));
        }
    }

    pub(crate) fn inspect(&mut self, key: &Key, replica: ReplicaId, run: RunId) {
        if self.chaos && self.dice.percent(10) {
            return;
        }
        let tree = self.tree_of(key, run).map(|number| &self.trees[&number]);
        let populated = tree.is_some_and(Tree::is_populated);
        let after = self.dice.ms(0, 100);
        let event = if populated {
            let processes = vec![Remaining {
                pid: 1,
                comm: "dd".into(),
                state: 'D',
                wchan: "io_schedule".into(),
                devices: Vec::new(),
            }];
            Event::TreeRemains { replica, run, processes }
        } else {
            Event::TreeEmpty { replica, run }
        };
        self.later(after, Happening::Tell(event));
    }

    pub(crate) fn probe(&mut self, key: &Key, replica: ReplicaId, run: RunId, generation: u64) {
        let Some(number) = self.tree_of(key, run) else {
            return;
        };
        let tree = &self.trees[&number];
        assert!(!tree.frozen, "{key:?} is asked while it is frozen");
        let answers = if self.chaos { tree.answers } else { Answers::Well };
        let result = match (answers, tree.ready && tree.main) {
            (Answers::Never, _) => return,
            (Answers::Badly, _) if self.dice.percent(70) => Err("status 503".to_owned()),
            (Answers::Badly | Answers::Well, true) => Ok(()),
            (Answers::Badly | Answers::Well, false) => Err("connection refused".to_owned()),
        };
        let after = if self.chaos && self.dice.percent(5) { self.dice.ms(0, 5_000) } else { self.dice.ms(0, 50) };
        self.later(after, Happening::Tell(Event::ProbeDone { replica, run, generation, result }));
    }
}
