//! What the world does for fences: limits, freezing, killing, readings, and the answers to them.

use std::time::Duration;

use mainstay::engine::Engine;
use mainstay::engine::event::{Event, Target};
use mainstay::engine::fence::FenceMemory;
use mainstay::engine::fence::gauge::{Written, Wrote};
use mainstay::engine::fence::note::FenceNote;
use mainstay::engine::fence::plan::{FenceLevel, Limits};
use mainstay::engine::plan::Plan;
use mainstay::engine::types::{Exit, ReplicaId, RunId, SIGKILL, Time};

use crate::audit::Facts;
use crate::group::Vice;
use crate::world::{Happening, Key, Tree, World};

impl Tree {
    /// Every member is stopped by the freezer, which one that sleeps in the kernel is not.
    fn is_still(&self, now: Time) -> bool {
        self.frozen && self.group.still_at <= now && !self.is_asleep(now)
    }

    pub(crate) fn is_asleep(&self, now: Time) -> bool {
        self.asleep_until > now
    }
}

impl World {
    /// What has been done to the kernel is told; by and by, and once.
    fn wrote(&mut self, replica: ReplicaId, run: RunId, what: Wrote, result: Result<Written, String>) {
        let after = if self.chaos && self.dice.percent(5) { self.dice.ms(0, 3_000) } else { self.dice.ms(0, 10) };
        let event = Event::Wrote { replica, run, what, at: self.now.mono, result };
        self.later(after, Happening::TellOnce(event));
    }

    fn processes(tree: &Tree) -> u32 {
        u32::from(tree.main) + tree.others
    }

    /// What a run is born with; `None` where the kernel refuses it and the service cannot do without.
    pub(crate) fn limits_at_birth(&mut self, engine: &Engine, replica: ReplicaId) -> Option<(Limits, bool)> {
        let limits = engine.limits(replica);
        let refuses = self.chaos && limits != Limits::default() && self.dice.percent(3);
        let plan = engine.service_plan(replica.service)?;
        let required = plan.resources.as_ref().is_some_and(|resources| resources.required);
        match refuses {
            true if required => None,
            true => Some((Limits::default(), true)),
            false => Some((limits, false)),
        }
    }

    pub(crate) fn limits_refused(&mut self, replica: ReplicaId, run: RunId) {
        let words = ["cpu_max", "cpu_weight", "memory_max", "pids_max"];
        let refused = words.map(|word| format!("{word}: no controller")).to_vec();
        let result = Ok(Written { method: "cpu.max".to_owned(), processes: 0, refused });
        // With the news that it is born: nothing of it is read before.
        self.tell(Event::Wrote { replica, run, what: Wrote::Limits, at: self.now.mono, result });
    }

    pub(crate) fn limit(&mut self, engine: &Engine, key: &Key, replica: ReplicaId, run: RunId) {
        let fails = if self.chaos { self.dice.below(16) } else { 16 };
        let now = self.now.mono;
        let Some(number) = self.tree_of(key, run) else {
            return self.wrote(replica, run, Wrote::Limits, Err("no such group".to_owned()));
        };
        let tree = self.trees.get_mut(&number).expect("just found");
        let stands = tree.frozen || tree.is_asleep(now);
        tree.group.pass(now, stands);
        tree.group.refused = fails < 2;
        if fails < 2 {
            tree.group.limits = Limits::default();
        } else {
            tree.group.limits = engine.limits(replica);
        }
        match fails {
            0 => self.wrote(replica, run, Wrote::Limits, Err("cpu.max: I/O error".to_owned())),
            1 => self.limits_refused(replica, run),
            _ => {
                let written = Written { method: "cpu.max".to_owned(), ..Written::default() };
                self.wrote(replica, run, Wrote::Limits, Ok(written));
            }
        }
    }

    pub(crate) fn freeze(&mut self, engine: &Engine, key: &Key, replica: ReplicaId, run: RunId, frozen: bool) {
        let recorded = self.records.get(key).is_some_and(|record| record.memory.frozen);
        assert!(recorded || !frozen, "{key:?} is frozen and nobody would know");
        let now = self.now.mono;
        let mut processes = 0;
        let after = self.dice.ms(0, 300);
        if let Some(number) = self.tree_of(key, run) {
            let tree = self.trees.get_mut(&number).expect("just found");
            let stands = tree.frozen || tree.is_asleep(now);
            tree.group.pass(now, stands);
            processes = Self::processes(tree);
            if frozen && !tree.frozen {
                tree.group.still_at = now.max(tree.asleep_until).after(after);
            }
            tree.frozen = frozen;
        }
        if engine.is_fenced(replica) {
            let what = if frozen { Wrote::Freeze } else { Wrote::Thaw };
            let written = Written { method: "cgroup.freeze".to_owned(), processes, refused: Vec::new() };
            self.wrote(replica, run, what, Ok(written));
        }
    }

    pub(crate) fn kill_tree(&mut self, engine: &Engine, key: &Key, replica: ReplicaId, run: RunId) {
        self.proxy.check_is_out(&format!("{}/{}", key.0, key.1), run);
        let fenced = engine.is_fenced(replica);
        let Some(number) = self.tree_of(key, run) else {
            return;
        };
        let tree = &self.trees[&number];
        assert!(!tree.frozen, "{key:?} is killed while it is frozen");
        let processes = Self::processes(tree);
        if self.chaos && self.dice.percent(2) {
            if fenced {
                self.wrote(replica, run, Wrote::Kill, Err("cgroup.kill: I/O error".to_owned()));
            }
            return;
        }
        let after = self.dice.ms(0, 50);
        self.later(after, Happening::MainEnds(number, Exit::Signal { signal: SIGKILL, core: false }));
        let after = self.dice.ms(0, 50);
        self.later(after, Happening::OthersEnd(number));
        if fenced {
            let written = Written { method: "cgroup.kill".to_owned(), processes, refused: Vec::new() };
            self.wrote(replica, run, Wrote::Kill, Ok(written));
        }
    }

    /// Everybody is read at once, and the answer comes when it comes.
    pub(crate) fn gauge(&mut self, engine: &Engine, asked: u64, runs: &[(ReplicaId, RunId)]) {
        let now = self.now.mono;
        let mut gauges = Vec::new();
        for (replica, run) in runs {
            self.audit.reading(engine, *replica, self.now);
            let key = self.key(engine, *replica);
            if let Some(number) = self.tree_of(&key, *run) {
                let tree = self.trees.get_mut(&number).expect("just found");
                let (still, asleep) = (tree.is_still(now), tree.is_asleep(now));
                let stands = tree.frozen || asleep;
                tree.group.pass(now, stands);
                gauges.push(tree.group.gauge(*replica, *run, now, still));
            }
        }
        if !(self.chaos && self.dice.percent(2)) {
            let after = if self.chaos && self.dice.percent(5) { self.dice.ms(0, 2_000) } else { self.dice.ms(0, 20) };
            self.later(after, Happening::TellOnce(Event::Gauged { asked, gauges }));
        }
    }

    /// For the next agent of this boot.
    pub(crate) fn persist_fences(&mut self, memory: &FenceMemory) {
        let text = serde_json::to_string(memory).expect("it can be written");
        self.fences = Some(serde_json::from_str(&text).expect("and read back"));
    }

    pub(crate) fn fence_note(&mut self, engine: &Engine, key: Key, note: &FenceNote) {
        let now = self.now;
        let tree = self.trees.values().find(|tree| tree.key == key && tree.is_populated());
        let limits = Self::id(engine, &key).map(|id| engine.limits(id));
        let facts = Facts {
            engine,
            now,
            key,
            populated: tree.is_some(),
            still: tree.is_some_and(|tree| tree.is_still(now.mono)),
            asleep: tree.is_some_and(|tree| tree.is_asleep(now.mono)),
            limited: tree.is_some_and(|tree| limits.as_ref() == Some(&tree.group.limits)),
        };
        self.audit.note(&facts, note);
    }

    /// Whatever runs has the limits that it should have, unless the kernel refused them.
    pub(crate) fn check_limits(&self, engine: &Engine) {
        for tree in self.trees.values().filter(|tree| tree.main && tree.known && !tree.group.refused) {
            let current = Self::id(engine, &tree.key).filter(|id| engine.current_run(*id) == Some(RunId(tree.run)));
            // What stands still or dies gets them when its fence is over.
            let level = |id| engine.memory(id).and_then(|memory| Some(memory.fence.as_ref()?.level));
            if let Some(id) = current.filter(|id| level(*id).is_none_or(|level| level == FenceLevel::Throttle)) {
                assert_eq!(tree.group.limits, engine.limits(id), "{:?}: the limits in force", tree.key);
            }
        }
    }

    /// What the agent comes to know of births.
    pub(crate) fn hears(&mut self, event: &Event) {
        if let Event::Spawned { replica, run, .. } = event
            && let Some(key) = self.known_key(*replica)
            && let Some(number) = self.tree_of(&key, *run)
        {
            self.trees.get_mut(&number).expect("just found").known = true;
        }
    }

    /// In the calm, when everything is lifted.
    pub(crate) fn check_limits_are_the_plans(&self, plan: &Plan) {
        for tree in self.trees.values().filter(|tree| tree.main && !tree.group.refused) {
            let service = plan.services.iter().find(|service| service.name == tree.key.0);
            let resources = service.and_then(|service| service.resources.as_ref());
            let limits = resources.map(|resources| resources.limits.clone()).unwrap_or_default();
            assert_eq!(tree.group.limits, limits, "{:?} keeps the limits of a fence", tree.key);
        }
    }

    /// An operator was told that it is done.
    pub(crate) fn check_fenced(&self, plan: &Plan, target: &Target, level: FenceLevel) {
        let replicas = plan.services.iter().find(|plan| plan.name == target.service).map_or(0, |plan| plan.replicas);
        for index in (0..replicas).filter(|index| target.replica.is_none_or(|one| one == *index)) {
            let key = (target.service.clone(), index);
            let Some(tree) = self.trees.values().find(|tree| tree.key == key && tree.is_populated()) else {
                continue;
            };
            match level {
                FenceLevel::Throttle => {}
                // Whose main process was killed while it was frozen is being ended by now.
                FenceLevel::Freeze => assert!(tree.frozen || !tree.main, "said to be frozen: {tree:?}"),
                FenceLevel::Kill | FenceLevel::Hold => panic!("said to be gone: {tree:?}"),
            }
        }
    }

    /// An operator was told that the fence is over, and that this is on disk.
    pub(crate) fn check_unfenced(&self, target: &Target) {
        let concerns = |replica: Option<u16>| target.replica.is_none() || replica == target.replica;
        if self.audit.has_left(&target.service) {
            return;
        }
        let left = self.decisions.iter().find(|((service, replica), decision)| {
            *service == target.service && concerns(*replica) && decision.fence.is_some()
        });
        assert!(left.is_none(), "said to be lifted, and fenced again by the next boot: {left:?}");
    }

    /// Some process goes to sleep in the kernel, and wakes by itself.
    pub(crate) fn put_somebody_to_sleep(&mut self) {
        let now = self.now.mono;
        let awake = |tree: &Tree| tree.main && !tree.frozen && !tree.key.0.starts_with('@');
        let numbers: Vec<u64> = self.trees.iter().filter(|(_, tree)| awake(tree)).map(|(number, _)| *number).collect();
        if !numbers.is_empty() {
            let (number, time) = (*self.dice.pick(&numbers), self.dice.ms(200, 40_000));
            let tree = self.trees.get_mut(&number).expect("just found");
            tree.group.pass(now, false);
            tree.asleep_until = now.after(time);
        }
    }

    /// A service takes to some vice, or leaves it.
    pub(crate) fn tempt_somebody(&mut self) {
        let now = self.now.mono;
        let vice = *self.dice.pick(&[Vice::None, Vice::Bomb, Vice::Leaker, Vice::Busy]);
        let numbers: Vec<u64> = self.trees.keys().copied().collect();
        if !numbers.is_empty() {
            let number = *self.dice.pick(&numbers);
            let tree = self.trees.get_mut(&number).expect("just found");
            let stands = tree.frozen || tree.is_asleep(now);
            tree.group.pass(now, stands);
            tree.group.vice = vice;
        }
    }

    /// All processes and all that is not on disk are gone.
    pub(crate) fn reboot(&mut self, plan: &Plan) {
        self.trees.clear();
        self.records.clear();
        self.fences = None;
        self.hardware.memory = None;
        self.hardware.forget_alerts();
        self.proxy.dies();
        self.keep_readings();
        self.copies.host_dies();
        self.audit.rebooted(plan, &self.decisions);
        self.advance(Duration::from_secs(20));
        self.agent_lives = true;
        self.proxy.born();
    }
}
