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

/// Performs `Action::Freeze`; of a fence it is told what was done.
pub(super) fn freeze_for_engine(shell: &mut Shell, engine: &Engine, replica: ReplicaId, run: RunId, freezer: Freezer) {
    let live = shell.stations.get_mut(&replica).and_then(|station| station.live_run(run));
    let Some(group) = live.and_then(|live| live.group.as_ref()) else { return };
    let fenced = engine.is_fenced(replica);
    let processes = if fenced { limiting::count(group) } else { 0 };
    let method = if group.path().is_some() { "cgroup.freeze" } else { "SIGSTOP to each of the process tree" };
    let outcome = freeze(shell, engine, replica, run, freezer);
    if fenced {
        let what = if freezer == Freezer::Frozen { Wrote::Freeze } else { Wrote::Thaw };
        let written = Written { method: method.to_owned(), processes, refused: Vec::new() };
        let result = outcome.map(|()| written).map_err(|error| error.to_string());
        let at = super::now().mono;
        shell.events.push_back(Event::Wrote { replica, run, what, at, result });
    }
}

/// What is as wanted already is left alone.
pub(super) fn freeze(
    shell: &mut Shell,
    engine: &Engine,
    replica: ReplicaId,
    run: RunId,
    freezer: Freezer,
) -> io::Result<()> {
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
            // An error was told, and its record says that it is still to be thawed.
            let _ = freeze(shell, engine, replica, run, Freezer::Thawed);
        }
    }
}
