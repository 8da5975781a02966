//! The model of a host: processes and their trees, what they do, and the records that survive the agent.
//!
//! The world knows nothing of the engine's state. It performs actions as the runtime would, watches that no rule is broken by them, and
//! says what the agent would come to know.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mainstay::engine::Engine;
use mainstay::engine::action::{Action, Cleanness, Note, NoteKind, Whom};
use mainstay::engine::balance::table::{Table, TableMemory};
use mainstay::engine::event::{Decision, Event, Found, FoundProcess};
use mainstay::engine::fence::FenceMemory;
use mainstay::engine::host::HostEvent;
use mainstay::engine::memory::Memory;
use mainstay::engine::plan::{Readiness, Stop};
use mainstay::engine::types::{Exit, Now, ReplicaId, RunId, SIGABRT, SIGKILL, StateName, Time};
use mainstay::engine::view::ReplicaView;

use crate::audit::Audit;
use crate::copies::{Sets, Turn};
use crate::dice::Dice;
use crate::group::{Group, Vice};
use crate::hardware::{self, Hardware};
use crate::proxy::{Proxy, Word};

/// A replica by its name: ids are the engine's own and change with each agent.
pub(crate) type Key = (String, u16);

#[derive(Debug)]
pub(crate) struct Tree {
    pub(crate) key: Key,
    pub(crate) run: u32,
    pub(crate) main: bool,
    pub(crate) exit: Exit,
    pub(crate) others: u32,
    pub(crate) signalled: bool,
    /// Whether the agent was told of the exit.
    pub(crate) exit_told: bool,
    /// In uninterruptible sleep until then.
    pub(crate) asleep_until: Time,
    pub(crate) obeys: bool,
    pub(crate) others_obey: bool,
    pub(crate) ready: bool,
    /// Says so once when it is.
    pub(crate) announces: Option<Readiness>,
    pub(crate) answers: Answers,
    pub(crate) pings: Option<Duration>,
    pub(crate) frozen: bool,
    pub(crate) group: Group,
    /// The agent knows that it was born.
    pub(crate) known: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answers {
    Well,
    Never,
    Badly,
}

impl Tree {
    pub(crate) fn is_populated(&self) -> bool {
        self.main || self.others > 0
    }
}

#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) memory: Memory,
    /// A process is recorded with it.
    pub(crate) identity: bool,
    pub(crate) stop: Stop,
}

/// What is going to happen by itself.
#[derive(Debug)]
pub(crate) enum Happening {
    MainEnds(u64, Exit),
    OthersEnd(u64),
    Ready(u64),
    Ping(u64),
    /// Something on its way to the agent; lost when that dies.
    Tell(Event),
    /// The same, of which there is never a second copy.
    TellOnce(Event),
    ProxySays(Word),
    Copies(Turn),
    /// The checks role reads.
    Reading,
    ProxyIsBack,
}

pub(crate) struct World {
    pub(crate) dice: Dice,
    pub(crate) now: Now,
    pub(crate) chaos: bool,
    /// Few faults but those of the services, so that what takes its time can come to pass.
    pub(crate) patient: bool,
    pub(crate) trees: BTreeMap<u64, Tree>,
    next_tree: u64,
    pub(crate) records: BTreeMap<Key, Record>,
    pub(crate) decisions: BTreeMap<(String, Option<u16>), Decision>,
    agenda: BTreeMap<(Time, u64), Happening>,
    next_happening: u64,
    /// What the agent comes to know now.
    pub(crate) told: Vec<Event>,
    /// Exits noted in this agent's life.
    counted: BTreeSet<(ReplicaId, RunId)>,
    names: BTreeMap<ReplicaId, Key>,
    pub(crate) agent_lives: bool,
    pub(crate) proxy: Proxy,
    pub(crate) hardware: Hardware,
    pub(crate) copies: Sets,
    /// What is written of fences for the next agent.
    pub(crate) fences: Option<FenceMemory>,
    /// What is written of balancers that leave.
    pub(crate) tables: Option<Box<TableMemory>>,
    pub(crate) audit: Audit,
    pub(crate) exited: Option<Cleanness>,
    pub(crate) shutting_down: bool,
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let start = Time(5_000_000_000_000);
        Self {
            dice: Dice::new(seed),
            now: Now { mono: start, boot: start, wall: Time(1_700_000_000_000_000_000), wall_synchronised: true },
            chaos: true,
            patient: seed % 4 == 1,
            trees: BTreeMap::new(),
            next_tree: 1,
            records: BTreeMap::new(),
            decisions: BTreeMap::new(),
            agenda: BTreeMap::new(),
            next_happening: 0,
            told: Vec::new(),
            counted: BTreeSet::new(),
            names: BTreeMap::new(),
            agent_lives: true,
            proxy: Proxy::default(),
            hardware: Hardware::new(),
            copies: Sets::default(),
            fences: None,
            tables: None,
            audit: Audit::default(),
            exited: None,
            shutting_down: false,
        }
    }

    pub(crate) fn advance(&mut self, by: Duration) {
        self.now.mono = self.now.mono.after(by);
        self.now.boot = self.now.boot.after(by);
        self.now.wall = self.now.wall.after(by);
    }

    pub(crate) fn suspend(&mut self, by: Duration) {
        self.audit.wall_jumped = self.now.mono;
        self.now.boot = self.now.boot.after(by);
        self.now.wall = self.now.wall.after(by);
    }

    pub(crate) fn next_happening_at(&self) -> Option<Time> {
        self.agenda.first_key_value().map(|((at, _), _)| *at)
    }

    pub(crate) fn later(&mut self, after: Duration, what: Happening) {
        self.next_happening += 1;
        self.agenda.insert((self.now.mono.after(after), self.next_happening), what);
    }

    /// Does everything that is due, and collects what the agent is told.
    pub(crate) fn happen(&mut self, engine: &Engine) {
        while let Some(entry) = self.agenda.first_entry() {
            if entry.key().0 > self.now.mono {
                break;
            }
            match entry.remove() {
                Happening::MainEnds(tree, exit) => self.main_ends(engine, tree, exit),
                Happening::OthersEnd(tree) => self.others_end(engine, tree),
                Happening::Ready(tree) => self.becomes_ready(engine, tree),
                Happening::Ping(tree) => self.ping(engine, tree),
                Happening::Tell(event) => self.tell(event),
                Happening::TellOnce(event) => self.told.push(event),
                Happening::ProxySays(word) => {
                    if let Some(event) = self.proxy.says(engine, &word) {
                        self.tell(event);
                    }
                }
                Happening::ProxyIsBack if !self.agent_lives => {
                    self.later(Duration::from_millis(500), Happening::ProxyIsBack);
                }
                Happening::ProxyIsBack => self.proxy_begins(engine),
                Happening::Copies(turn) => self.copies_turn(engine, turn),
                Happening::Reading => self.read_host(),
            }
        }
    }

    /// Reads the host from now on.
    pub(crate) fn begin_readings(&mut self) {
        self.later(hardware::READ_EVERY, Happening::Reading);
    }

    fn read_host(&mut self) {
        let lost = self.chaos && self.dice.percent(5);
        if self.hardware.is_short() {
            self.audit.short_at = Some(self.now.mono);
        }
        for event in self.hardware.readings().into_iter().filter(|_| !lost) {
            self.tell(event);
        }
        self.begin_readings();
    }

    pub(crate) fn tell_devices(&mut self) {
        let event = self.hardware.devices();
        self.told.push(event);
    }

    /// A command that was given an alert ends, or is killed, or nobody hears of it.
    fn alert(&mut self, alert: u64) {
        let (result, after) = match self.dice.below(10) {
            0 if self.chaos => return,
            1 | 2 if self.chaos => (Err("exit code 1".to_owned()), self.dice.ms(0, 30_000)),
            _ => (Ok(()), self.dice.ms(0, 2_000)),
        };
        let event = Event::Host(Box::new(HostEvent::AlertDone { alert, result }));
        self.later(after, Happening::Tell(event));
    }

    /// A proxy that knows nothing is told everything.
    pub(crate) fn proxy_begins(&mut self, engine: &Engine) {
        self.proxy.born();
        for table in engine.tables(self.now) {
            self.tell_proxy(&table);
        }
    }

    pub(crate) fn tell_proxy_of(&mut self, leaving: Option<&TableMemory>) {
        for table in leaving.into_iter().flat_map(|memory| &memory.tables) {
            self.tell_proxy(table);
        }
    }

    fn tell_proxy(&mut self, table: &Table) {
        for (after, word) in self.proxy.told(table, self.chaos, &mut self.dice) {
            self.later(after, Happening::ProxySays(word));
        }
    }

    pub(crate) fn kill_proxy(&mut self) {
        if self.proxy.lives {
            self.proxy.dies();
            let after = self.dice.ms(0, 5_000);
            self.later(after, Happening::ProxyIsBack);
        }
    }

    pub(crate) fn tell(&mut self, event: Event) {
        if !self.agent_lives {
            return;
        }
        if self.chaos && self.dice.percent(2) {
            // A late second copy.
            let after = self.dice.ms(0, 3_000);
            self.later(after, Happening::Tell(event.clone()));
        }
        self.told.push(event);
    }

    pub(crate) fn id(engine: &Engine, key: &Key) -> Option<ReplicaId> {
        engine.service_id(&key.0).map(|service| ReplicaId { service, index: key.1 })
    }

    pub(crate) fn asleep(&self, tree: &Tree) -> Duration {
        tree.asleep_until.since(self.now.mono)
    }

    /// The name of a replica; of one that is forgotten in this very step, the name it had.
    pub(crate) fn key(&mut self, engine: &Engine, id: ReplicaId) -> Key {
        if let Some(key) = self.names.get(&id) {
            return key.clone();
        }
        let key = (engine.service_name(id.service).expect("a service that was never seen").to_owned(), id.index);
        self.names.insert(id, key.clone());
        key
    }

    pub(crate) fn known_key(&self, id: ReplicaId) -> Option<Key> {
        self.names.get(&id).cloned()
    }

    pub(crate) fn tree_of(&self, key: &Key, run: RunId) -> Option<u64> {
        self.trees.iter().find(|(_, tree)| tree.key == *key && tree.run == run.0).map(|(number, _)| *number)
    }

    /// Does what an action asks for.
    pub(crate) fn perform(&mut self, engine: &Engine, action: &Action) {
        let key = replica_of(action).map(|id| self.key(engine, id)).unwrap_or_default();
        match action {
            Action::Spawn { replica, run, memory } => self.spawn(engine, *replica, key, *run, memory),
            Action::Signal { run, signal, whom, .. } => self.signal(engine, &key, *run, *signal, *whom),
            Action::KillTree { replica, run } => self.kill_tree(engine, &key, *replica, *run),
            Action::Inspect { replica, run } => self.inspect(&key, *replica, *run),
            Action::Release { run, .. } => {
                if let Some(number) = self.tree_of(&key, *run) {
                    let tree = self.trees.remove(&number).expect("just found");
                    assert!(!tree.is_populated() && !tree.frozen, "released while populated or frozen: {tree:?}");
                }
                if let Some(record) = self.records.get_mut(&key) {
                    record.identity = false;
                }
            }
            Action::Probe { replica, run, generation, .. } => self.probe(&key, *replica, *run, *generation),
            Action::Persist { replica, memory } => {
                let stop = engine.service_plan(replica.service).map(|plan| plan.stop).unwrap_or_default();
                let record = Record { memory: (**memory).clone(), identity: false, stop };
                let old = self.records.get(&key).map(|record| &record.memory);
                self.audit.written(engine, &key, old, memory, self.now);
                let entry = self.records.entry(key).or_insert(record);
                entry.memory = (**memory).clone();
            }
            Action::Forget { .. } => {
                let left = self.trees.values().find(|tree| tree.key == key && tree.is_populated());
                assert!(left.is_none(), "forgotten while populated: {left:?}");
                self.records.remove(&key);
                self.audit.forgotten(&key);
            }
            Action::Decide { decision, content } => self.decide(engine, *decision, content),
            Action::Note(note) => {
                self.check_counted(engine, note);
                hardware::check_note(engine, self.now, note);
                if let NoteKind::Fence(fence) = &note.kind {
                    self.fence_note(engine, key_of(note), fence);
                }
            }
            Action::Exit { clean } => {
                assert_eq!(self.exited, None, "left twice");
                self.exited = Some(*clean);
            }
            Action::Balance { table } => self.tell_proxy(table),
            Action::Unbalance { balancer } => {
                let known = self.proxy.tables.remove(balancer).is_some();
                assert!(known || !self.proxy.lives, "{balancer} leaves, of which nobody was told");
            }
            Action::CancelProbe { .. } | Action::Refresh { .. } | Action::Answer { .. } | Action::Watch { .. } => {}
            Action::Limit { replica, run } => self.limit(engine, &key, *replica, *run),
            Action::Gauge { asked, runs } => self.gauge(engine, *asked, runs),
            Action::PersistFences { memory } => self.persist_fences(memory),
            Action::PersistTables { memory } => self.tables = Some(memory.clone()),
            Action::Copy { set, what } => self.copy_action(engine, set, what),
            Action::PersistHost { memory } => self.hardware.memory = Some((**memory).clone()),
            Action::Alert { alert, plan, body } => {
                self.hardware.alerted(engine.plan(), self.now, *alert, *plan, body);
                self.alert(*alert);
            }
            Action::Freeze { replica, run, frozen } => self.freeze(engine, &key, *replica, *run, *frozen),
            Action::Pet => self.hardware.pet(engine, self.now, self.shutting_down),
        }
    }

    /// Every exit is counted once: in an agent's life, and over the deaths of agents by what was written.
    fn check_counted(&mut self, engine: &Engine, note: &Note) {
        let (NoteKind::Ended { run, .. } | NoteKind::EndedUnseen { run, .. } | NoteKind::StartFailed { run, .. }) =
            note.kind
        else {
            return;
        };
        let subject = note.subject.clone().expect("an exit has a subject");
        let key = (subject.service, subject.replica.unwrap_or(0));
        let written = self.records.get(&key).and_then(|record| record.memory.last_exit);
        assert!(written.is_none_or(|last| last.run != run), "counted by an earlier agent: {}", note.sentence());
        if let Some(replica) = Self::id(engine, &key) {
            assert!(self.counted.insert((replica, run)), "counted twice: {}", note.sentence());
        }
    }

    fn spawn(&mut self, engine: &Engine, id: ReplicaId, key: Key, run: RunId, memory: &Memory) {
        let other = self.trees.values().find(|tree| tree.key == key && tree.is_populated());
        assert!(other.is_none(), "a second tree for {key:?}, run {run:?} beside {other:?}");
        assert_eq!((memory.run, memory.state), (run, StateName::Starting), "what is written with a spawn");
        let before = self.records.get(&key).map_or(RunId(0), |record| record.memory.run);
        assert!(run > before, "{key:?}: run {run:?} after {before:?}");
        hardware::check_spawn(engine, self.now, &key.0);
        self.copies.check_spawn(&key.0);
        let old = self.records.get(&key).map(|record| &record.memory);
        self.audit.written(engine, &key, old, memory, self.now);
        self.audit.spawned(&key, memory);
        let plan = engine.service_plan(id.service).expect("a plan to spawn from").clone();
        if self.chaos && self.dice.percent(4) {
            let ours = self.dice.percent(50);
            return self.tell(Event::SpawnFailed { replica: id, run, ours, error: "no child".into() });
        }
        let Some((limits, refused)) = self.limits_at_birth(engine, id) else {
            let error = "cpu_max: no controller".into();
            return self.tell(Event::SpawnFailed { replica: id, run, ours: false, error });
        };
        self.trees.retain(|_, tree| tree.key != key);
        self.records.insert(key.clone(), Record { memory: memory.clone(), identity: true, stop: plan.stop });
        let number = self.next_tree;
        self.next_tree += 1;
        let faulty = match (self.chaos, self.patient) {
            (false, _) => 0,
            (true, false) => 40,
            (true, true) => 70,
        };
        let mut tree = self.new_tree(&key, run, &plan);
        tree.group = Group::new(limits, faulty, self.now.mono, &mut self.dice);
        tree.group.refused = refused;
        self.trees.insert(number, tree);
        let pid = i32::try_from(number).expect("few processes");
        if !(self.chaos && self.dice.percent(2)) {
            self.tell(Event::Spawned { replica: id, run, pid });
            if refused {
                self.limits_refused(id, run);
            }
        }
        let after = self.dice.ms(0, 5);
        if self.chaos && self.dice.percent(5) {
            self.later(after, Happening::Tell(Event::ExecFailed { replica: id, run, error: "no such file".into() }));
            return self.later(Duration::from_millis(6), Happening::MainEnds(number, Exit::Code(127)));
        }
        self.later(after, Happening::Tell(Event::Executed { replica: id, run }));
        self.live(number, &plan);
    }

    fn signal(&mut self, engine: &Engine, key: &Key, run: RunId, signal: i32, whom: Whom) {
        let Some(number) = self.tree_of(key, run) else {
            return;
        };
        if whom == Whom::Main {
            self.proxy.check_is_out(&format!("{}/{}", key.0, key.1), run);
        }
        let tree = self.trees.get_mut(&number).expect("just found");
        assert!(!tree.frozen, "{key:?} is signalled while it is frozen");
        let first = !std::mem::replace(&mut tree.signalled, true);
        if first && whom == Whom::Main {
            self.check_stop_order(engine, key);
        }
        let tree = &self.trees[&number];
        let (obeys, others_obey) = (tree.obeys, tree.others_obey);
        let after = self.dice.ms(0, 300);
        match whom {
            Whom::Main if obeys || signal == SIGABRT && self.dice.percent(70) => {
                self.later(after, Happening::MainEnds(number, Exit::Signal { signal, core: false }));
            }
            Whom::Tree if others_obey => self.later(after, Happening::OthersEnd(number)),
            Whom::Main | Whom::Tree => {}
        }
    }

    /// In a shutdown nothing is signalled before those that depend on it are gone (or stuck, or being killed).
    fn check_stop_order(&self, engine: &Engine, key: &Key) {
        if !self.shutting_down {
            return;
        }
        for view in engine.services(self.now) {
            let plan = view.plan;
            let depends = [&plan.requires, &plan.wants, &plan.after, &plan.restart_with];
            if !depends.iter().any(|list| list.contains(&key.0)) {
                continue;
            }
            // One that woke up since is still known as stuck.
            let stuck = |tree: &Tree| {
                let of = |replica: &&ReplicaView<'_>| replica.id.index == tree.key.1;
                view.replicas.iter().find(of).is_some_and(|replica| replica.state == StateName::Stuck)
            };
            let awake = |tree: &&Tree| tree.main && self.asleep(tree).is_zero() && !stuck(tree);
            let alive = self.trees.values().find(|tree| tree.key.0 == plan.name && awake(tree));
            assert!(alive.is_none(), "{key:?} is signalled before its dependent {alive:?}");
        }
    }

    fn decide(&mut self, engine: &Engine, decision: u64, content: &Decision) {
        self.copies.decided(content);
        let role = self.trees.values().any(|tree| tree.key.0 == "@logs" && tree.main);
        if !role || (self.chaos && self.dice.percent(10)) {
            return;
        }
        let result = if self.chaos && self.dice.percent(10) { Err("disk full".to_owned()) } else { Ok(()) };
        if result.is_ok() {
            let key = (content.service.clone(), content.replica);
            if engine.is_implied(content) {
                self.decisions.remove(&key);
            } else {
                self.decisions.insert(key, content.clone());
            }
        }
        let after = self.dice.ms(0, 50);
        self.later(after, Happening::Tell(Event::Persisted { decision, result }));
    }

    /// SIGKILL from somewhere.
    pub(crate) fn kill_somebody(&mut self) {
        let numbers: Vec<u64> = self.trees.iter().filter(|(_, tree)| tree.main).map(|(number, _)| *number).collect();
        if !numbers.is_empty() {
            let number = *self.dice.pick(&numbers);
            self.later(Duration::ZERO, Happening::MainEnds(number, Exit::Signal { signal: SIGKILL, core: false }));
        }
    }

    /// The agent is gone, and with it whatever was on its way to it, and every child whose gate was still closed.
    pub(crate) fn agent_dies(&mut self) {
        self.agent_lives = false;
        self.copies_without_agent();
        self.told.clear();
        let told = |happening: &Happening| {
            matches!(
                happening,
                Happening::Tell(_) | Happening::TellOnce(_) | Happening::Copies(Turn::Link(_) | Turn::Hook(..))
            )
        };
        self.agenda.retain(|_, happening| !told(happening));
        self.counted.clear();
        self.names.clear();
    }

    /// What the next agent finds.
    pub(crate) fn found(&mut self) -> Vec<Found> {
        let mut list = Vec::new();
        let keys: Vec<Key> = self.records.keys().cloned().collect();
        for key in keys {
            let record = &self.records[&key];
            let tree = self.trees.values().find(|tree| tree.key == key);
            let process = match tree.filter(|tree| tree.run == record.memory.run.0) {
                Some(tree) if tree.main => FoundProcess::Alive { pid: 77 },
                Some(tree) if tree.others > 0 => FoundProcess::Leftovers { remaining: tree.others },
                Some(tree) if record.identity => {
                    let known = self.dice.percent(50);
                    FoundProcess::Gone { exit: Some(if known { tree.exit } else { Exit::Unknown }) }
                }
                Some(_) | None => FoundProcess::Gone { exit: None },
            };
            let gone = matches!(process, FoundProcess::Gone { .. });
            list.push(Found {
                service: key.0.clone(),
                index: key.1,
                memory: record.memory.clone(),
                stop: record.stop,
                process,
            });
            if gone {
                self.trees.retain(|_, tree| tree.key != key);
            }
        }
        for tree in self.trees.values_mut() {
            tree.exit_told = !tree.main;
            tree.known = tree.main;
        }
        self.agent_lives = true;
        list
    }

    /// Nothing happens any more but that the host is read.
    pub(crate) fn keep_readings(&mut self) {
        self.agenda.retain(|_, happening| matches!(happening, Happening::Reading));
    }

    /// Nobody misbehaves from now on.
    pub(crate) fn calm_down(&mut self) {
        self.chaos = false;
        self.hardware.mend();
        for tree in self.trees.values_mut() {
            tree.obeys = true;
            tree.group.vice = Vice::None;
        }
    }

    pub(crate) fn populated(&self) -> usize {
        self.trees.values().filter(|tree| tree.is_populated() && !tree.key.0.starts_with('@')).count()
    }
}

pub(crate) fn key_of(note: &Note) -> Key {
    let subject = note.subject.clone();
    subject.map(|subject| (subject.service, subject.replica.unwrap_or(0))).unwrap_or_default()
}

fn replica_of(action: &Action) -> Option<ReplicaId> {
    match action {
        Action::Spawn { replica, .. }
        | Action::Signal { replica, .. }
        | Action::KillTree { replica, .. }
        | Action::Inspect { replica, .. }
        | Action::Release { replica, .. }
        | Action::Probe { replica, .. }
        | Action::CancelProbe { replica, .. }
        | Action::Persist { replica, .. }
        | Action::Forget { replica }
        | Action::Freeze { replica, .. }
        | Action::Limit { replica, .. }
        | Action::Refresh { replica } => Some(*replica),
        Action::Balance { .. }
        | Action::Unbalance { .. }
        | Action::Decide { .. }
        | Action::Answer { .. }
        | Action::Watch { .. }
        | Action::PersistHost { .. }
        | Action::PersistFences { .. }
        | Action::PersistTables { .. }
        | Action::Gauge { .. }
        | Action::Alert { .. }
        | Action::Copy { .. }
        | Action::Pet
        | Action::Note(_)
        | Action::Exit { .. } => None,
    }
}
