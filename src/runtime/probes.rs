//! Probes on their way: network probes go to the checks role, exec probes are children of the agent in a group of their own. The
//! engine keeps the deadlines; a cancelled probe is forgotten here and its late answer dropped.

use std::collections::BTreeMap;
use std::time::Duration;

use super::adopt::PROBE_GROUP;
use super::errand::Order;
use super::errands::{self, Errands};
use super::key::Key;
use super::links::Importance;
use super::request;
use super::shell::Shell;
use crate::checks::proto::{ProbeTarget, ToChecks};
use crate::engine::Engine;
use crate::engine::event::Event;
use crate::engine::plan::{Probe, ServicePlan, expand};
use crate::engine::types::{ReplicaId, RunId};

/// Exec probes that run at once; one more is answered with a failure that says so.
const EXEC_PROBES_MAX: usize = 256;

/// One probe as the engine asked for it.
#[derive(Debug)]
pub(super) struct Wanted {
    pub replica: ReplicaId,
    pub run: RunId,
    pub generation: u64,
    pub probe: Probe,
    pub timeout: Duration,
}

/// A network probe under way.
#[derive(Debug)]
struct Question {
    asker: Asker,
    target: ProbeTarget,
    timeout_ms: u64,
}

/// Whose answer it will be.
#[derive(Clone, Copy, Debug)]
struct Asker {
    replica: ReplicaId,
    run: RunId,
    generation: u64,
}

#[derive(Debug)]
pub struct Probes {
    /// By the id that the checks role was given.
    asked: BTreeMap<u64, Question>,
    /// Questions for a checks role that is not there: its absence is no failure of a service. Each is given up at its deadline by the
    /// engine, so that there is at most one a replica.
    held: Vec<Question>,
    next_id: u64,
    commands: Errands<Asker>,
}

const OF: errands::Of<Asker> = |shell| &mut shell.probes.commands;

impl Default for Probes {
    fn default() -> Self {
        let commands = Errands::new("exec probes", EXEC_PROBES_MAX);
        Self { asked: BTreeMap::new(), held: Vec::new(), next_id: 0, commands }
    }
}

/// Starts a probe; a failure to start is its answer.
pub(super) fn start(shell: &mut Shell, engine: &Engine, wanted: Wanted) {
    let Some(plan) = engine.service_plan(wanted.replica.service) else { return };
    let words = plan.words(wanted.replica.index, &shell.directories.run);
    let asker = Asker { replica: wanted.replica, run: wanted.run, generation: wanted.generation };
    let target = match &wanted.probe {
        Probe::Tcp(address) => ProbeTarget::Tcp(expand(address, &words)),
        Probe::Http(url) => ProbeTarget::Http(expand(url, &words)),
        Probe::Exec(command) => {
            let argv: Vec<String> = command.iter().map(|word| expand(word, &words)).collect();
            if let Err(error) = start_exec(shell, plan, asker, &argv) {
                answer(shell, asker, Err(error));
            }
            return;
        }
    };
    let timeout_ms = u64::try_from(wanted.timeout.as_millis()).unwrap_or(u64::MAX).max(1);
    ask(shell, Question { asker, target, timeout_ms });
}

fn ask(shell: &mut Shell, question: Question) {
    if !shell.checks.is_connected() {
        return shell.probes.held.push(question);
    }
    let id = shell.probes.next_id;
    shell.probes.next_id += 1;
    let message = ToChecks::Probe { id, target: question.target.clone(), timeout_ms: question.timeout_ms };
    shell.probes.asked.insert(id, question);
    shell.checks.send(&message, Importance::Current);
}

/// The checks role has come: it is asked what had to wait.
pub(super) fn ask_held(shell: &mut Shell) {
    for question in std::mem::take(&mut shell.probes.held) {
        ask(shell, question);
    }
}

/// The engine has given up on a probe.
pub(super) fn cancel(shell: &mut Shell, replica: ReplicaId, generation: u64) {
    let is_it = |asker: &Asker| asker.replica == replica && asker.generation == generation;
    shell.probes.held.retain(|question| !is_it(&question.asker));
    let id = shell.probes.asked.iter().find(|(_, question)| is_it(&question.asker)).map(|(id, _)| *id);
    if let Some(id) = id {
        shell.probes.asked.remove(&id);
        shell.checks.send(&ToChecks::Cancel { id }, Importance::Current);
        return;
    }
    errands::cancel(shell, OF, is_it);
}

/// An answer of the checks role.
pub(super) fn answered(shell: &mut Shell, id: u64, error: Option<String>) {
    let Some(question) = shell.probes.asked.remove(&id) else { return };
    answer(shell, question.asker, error.map_or(Ok(()), Err));
}

/// The checks role went away: its successor is asked anew.
pub(super) fn role_lost(shell: &mut Shell) {
    let open = std::mem::take(&mut shell.probes.asked);
    shell.probes.held.extend(open.into_values());
}

/// The pidfd of an exec probe is readable.
pub(super) fn exec_ended(shell: &mut Shell, slot: u32) {
    if let Some((asker, result)) = errands::ended(shell, OF, slot) {
        answer(shell, asker, result);
    }
}

/// Whether a pid is an exec probe's (the reaper of orphans leaves it alone).
#[must_use]
pub(super) fn is_main(probes: &Probes, pid: i32) -> bool {
    probes.commands.is_main(pid)
}

fn answer(shell: &mut Shell, asker: Asker, result: Result<(), String>) {
    let Asker { replica, run, generation } = asker;
    shell.events.push_back(Event::ProbeDone { replica, run, generation, result });
}

fn start_exec(shell: &mut Shell, plan: &ServicePlan, asker: Asker, argv: &[String]) -> Result<(), String> {
    let slot = shell.probes.commands.slot()?;
    let words = plan.words(asker.replica.index, &shell.directories.run);
    // As the user of the service, behind its walls, and with no more rights than it has.
    let mut order = Order {
        kind: PROBE_GROUP,
        slot,
        key: Key::ExecProbe(slot),
        argv,
        environment: Vec::new(),
        user: plan.process.user.as_deref(),
        no_new_privileges: plan.process.no_new_privileges,
        capabilities: plan.process.capabilities.clone(),
        wall: request::wall(plan, asker.replica.index, &words, argv.first())?,
        cwd: "/".to_owned(),
        stdin: None,
        keeps_stderr: false,
    };
    // The engine keeps its deadline.
    errands::start(shell, OF, asker, &mut order, None)
}
