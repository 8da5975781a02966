//! Trees that stand still because the engine wants them to: their disk is failing, or they are fenced. What is frozen is in the record before it is
//! written to the kernel, so that no death of the agent leaves one behind that nobody thaws.

use std::io;

use super::limiting;
use super::shell::Shell;
use crate::engine::Engine;
use crate::engine::action::Action;
use crate::engine::event::Event;
use crate::engine::fence::gauge::{Written, Wrote};
use crate::engine::types::{ReplicaId, RunId};
use crate::sys::group::{Freezer, Group};

/// Why a fence does not freeze here: a tree that was stopped process by process cannot be shown to stand still.
const NO_FREEZER: &str = "this host has no freezer: the service has no cgroup, and a process tree that is stopped by signals is not proven to \
                          stand still; take another level of the fence, or give the agent cgroup2";

/// Performs `Action::Freeze`; of each thaw, and of the freezing of a fence, the engine is told what was done.
pub(super) fn freeze_for_engine(shell: &mut Shell, engine: &Engine, replica: ReplicaId, run: RunId, freezer: Freezer) {
    match freezer {
        Freezer::Thawed => drop(thaw(shell, engine, replica, run)),
        Freezer::Frozen if !engine.is_fenced(replica) => drop(freeze(shell, engine, replica, run, freezer)),
        Freezer::Frozen => {
            let Some(processes) = countable(shell, replica, run) else {
                return tell(shell, replica, run, Wrote::Freeze, Err(NO_FREEZER.to_owned()));
            };
            let outcome = freeze(shell, engine, replica, run, freezer);
            let written = Written { method: "cgroup.freeze".to_owned(), processes, refused: Vec::new() };
            tell(shell, replica, run, Wrote::Freeze, outcome.map(|()| written).map_err(|error| error.to_string()));
        }
    }
}

/// Thaws a run, and tells the engine: what could not be thawed is to be tried again.
pub(super) fn thaw(shell: &mut Shell, engine: &Engine, replica: ReplicaId, run: RunId) -> io::Result<()> {
    let processes = countable(shell, replica, run);
    let method = if processes.is_some() { "cgroup.freeze" } else { "SIGCONT to each of the process tree" };
    let outcome = freeze(shell, engine, replica, run, Freezer::Thawed);
    let result = match &outcome {
        Ok(()) => {
            Ok(Written { method: method.to_owned(), processes: processes.unwrap_or_default(), refused: Vec::new() })
        }
        Err(error) => Err(error.to_string()),
    };
    tell(shell, replica, run, Wrote::Thaw, result);
    outcome
}

/// Before a signal that a frozen process would not see.
pub(super) fn thaw_if_frozen(shell: &mut Shell, engine: &Engine, replica: ReplicaId, run: RunId) {
    let live = shell.stations.get_mut(&replica).and_then(|station| station.live_run(run));
    if live.is_some_and(|live| live.frozen) {
        // An error was told, and its record says that it is still to be thawed.
        let _ = thaw(shell, engine, replica, run);
    }
}

fn tell(shell: &mut Shell, replica: ReplicaId, run: RunId, what: Wrote, result: Result<Written, String>) {
    let at = super::now().mono;
    shell.events.push_back(Event::Wrote { replica, run, what, at, result });
}

/// The processes of a run that has a cgroup.
fn countable(shell: &mut Shell, replica: ReplicaId, run: RunId) -> Option<u32> {
    let live = shell.stations.get_mut(&replica)?.live_run(run)?;
    live.group.as_ref().filter(|group| group.path().is_some()).map(limiting::count)
}

/// What is as wanted already is left alone.
fn freeze(shell: &mut Shell, engine: &Engine, replica: ReplicaId, run: RunId, freezer: Freezer) -> io::Result<()> {
    let live = shell.stations.get_mut(&replica).and_then(|station| station.live_run(run));
    let Some(live) = live else { return Ok(()) };
    let frozen = freezer == Freezer::Frozen;
    let is_frozen = live.group.as_ref().and_then(Group::freezer) == Some(Freezer::Frozen);
    // An earlier agent may have died between its record and the kernel.
    if live.frozen == frozen && (is_frozen || !frozen) {
        return Ok(());
    }
    if frozen {
        // INVARIANT: recorded first.
        live.frozen = true;
        record(shell, engine, replica);
    }
    let Some(station) = shell.stations.get_mut(&replica) else { return Ok(()) };
    let name = format!("{}/{}", station.service, station.index);
    let Some(live) = station.live_run(run) else { return Ok(()) };
    let written = live.group.as_ref().map_or(Ok(()), |group| group.freeze(freezer));
    if let Err(error) = &written {
        let verb = if frozen { "frozen" } else { "thawed" };
        log::error!("service {name}: cannot be {verb}: {error}");
    }
    // What could not be thawed is still to be thawed by somebody.
    live.frozen = frozen == written.is_ok();
    if live.frozen != frozen || !frozen {
        record(shell, engine, replica);
    }
    written
}

fn record(shell: &mut Shell, engine: &Engine, replica: ReplicaId) {
    if let Some(memory) = engine.memory(replica) {
        shell.write_record(replica, memory);
    }
}

/// After an adoption: what an earlier agent has frozen is thawed unless the engine wants it frozen.
pub(super) fn thaw_adopted(shell: &mut Shell, engine: &Engine, actions: &[Action]) {
    let frozen: Vec<(ReplicaId, RunId)> = shell
        .stations
        .iter()
        .filter_map(|(replica, station)| Some((*replica, station.live.as_ref().filter(|live| live.frozen)?.run)))
        .collect();
    for (replica, run) in frozen {
        let stays =
            |action: &Action| matches!(action, Action::Freeze { replica: of, frozen: true, .. } if *of == replica);
        if !actions.iter().any(stays) {
            thaw_if_frozen(shell, engine, replica, run);
        }
    }
}
