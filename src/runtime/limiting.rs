//! Limits of runs: those that the engine wants are in force before a child leaves its gate, and while it runs whenever they change. And what
//! the groups say of themselves when the engine asks.
//!
//! A service that was never limited costs nothing here: not one system call at its start.

use super::adopt;
use super::shell::Shell;
use super::station::RestingGroup;
use crate::engine::Engine;
use crate::engine::event::Event;
use crate::engine::fence::gauge::{Gauge, Written, Wrote};
use crate::engine::fence::plan;
use crate::engine::plan::ServicePlan;
use crate::engine::types::{ReplicaId, RunId};
use crate::sys::gauge;
use crate::sys::group::Group;
use crate::sys::limits::{Applied, Limited, Limits, Rates};

/// What a child is born into beside its group.
#[derive(Debug, Default)]
pub(super) struct Bounds {
    /// To be given to its group.
    pub limited: Option<Box<Limited>>,
    /// Of those that are not in force, if there are any.
    pub written: Option<Written>,
}

/// Before the child is made. `Err`: why a limit that the service requires cannot be had.
pub(super) fn before_birth(
    shell: &mut Shell,
    engine: &Engine,
    plan: &ServicePlan,
    replica: ReplicaId,
    group: Option<&mut RestingGroup>,
) -> Result<Bounds, String> {
    let wanted = engine.limits(replica);
    let path = group.as_ref().and_then(|resting| resting.group.path().map(ToOwned::to_owned));
    let former = group.and_then(|resting| resting.group.take_limited());
    if former.is_none() && wanted == plan::Limits::default() {
        return Ok(Bounds::default());
    }
    let name = adopt::group_name(&plan.name, replica.index);
    if former.is_none() {
        spare(shell, &name);
    }
    let mut limited = former.unwrap_or_else(|| Box::new(Limited::new(path.as_deref(), &name)));
    limited.set_astray(false);
    let Applied { method, refused, new_groups: _ } = limited.apply(&mut shell.controllers, &of_plan(&wanted));
    let required = plan.resources.as_ref().is_some_and(|resources| resources.required);
    if required && !refused.is_empty() {
        end(&mut limited);
        return Err(format!("resources are required, and not in force: {}", refused.join("; ")));
    }
    if wanted == plan::Limits::default() {
        end(&mut limited);
    }
    let written = (!refused.is_empty()).then_some(Written { method, processes: 0, refused });
    Ok(Bounds { limited: Some(limited).filter(|limited| !limited.is_idle()), written })
}

/// Nobody removes groups of this name in other hierarchies any more: a run is about to have them.
fn spare(shell: &mut Shell, name: &str) {
    shell.dying_groups.retain(|dying| !dying.limited().is_some_and(|limited| limited.is_of(name)));
}

/// Nothing lives in its groups of other hierarchies, and nothing is to.
fn end(limited: &mut Limited) {
    if let Err(error) = limited.remove() {
        log::warn!("agent: cannot remove a group that was limited: {error}; the next agent does");
    }
}

/// Performs `Action::Limit`.
pub(super) fn limit(shell: &mut Shell, engine: &Engine, replica: ReplicaId, run: RunId) {
    if let Some(written) = limit_now(shell, engine, replica, run) {
        tell(shell, replica, run, written);
    }
}

pub(super) fn tell(shell: &mut Shell, replica: ReplicaId, run: RunId, written: Written) {
    let at = super::now().mono;
    shell.events.push_back(Event::Wrote { replica, run, what: Wrote::Limits, at, result: Ok(written) });
}

fn limit_now(shell: &mut Shell, engine: &Engine, replica: ReplicaId, run: RunId) -> Option<Written> {
    let wanted = engine.limits(replica);
    let station = shell.stations.get_mut(&replica)?;
    let name = adopt::group_name(&station.service, station.index);
    let former = station.live_run(run)?.group.as_mut()?.take_limited();
    if former.is_none() {
        spare(shell, &name);
    }
    let group = shell.stations.get_mut(&replica)?.live_run(run)?.group.as_mut()?;
    let mut limited = former.unwrap_or_else(|| Box::new(Limited::new(group.path(), &name)));
    let Applied { method, mut refused, new_groups } = limited.apply(&mut shell.controllers, &of_plan(&wanted));
    let astray = limited.is_astray();
    group.set_limited(Some(limited).filter(|limited| !limited.is_idle()));
    if new_groups || astray {
        refused.extend(gather(group));
    }
    if new_groups && wanted.memory_max_bytes.is_some() {
        refused.push("memory_max: on cgroup v1 what it had before is not counted".to_owned());
    }
    let method = if method.is_empty() { "nothing to write".to_owned() } else { method };
    Some(Written { method, processes: 0, refused })
}

/// Moves its processes into its groups of other hierarchies. Where one stays outside, no limit of those holds for all of it; the next application
/// tries again.
fn gather(group: &mut Group) -> Vec<String> {
    let gathered = group.gather();
    let Some(mut limited) = group.take_limited() else { return Vec::new() };
    limited.set_astray(gathered.is_err());
    let keys = if gathered.is_err() { limited.keys_in_v1() } else { Vec::new() };
    group.set_limited(Some(limited));
    let why = gathered.err().map(|error| error.to_string()).unwrap_or_default();
    keys.into_iter().map(|key| format!("{key}: its processes cannot be moved into their groups: {why}")).collect()
}

/// After an adoption: what an earlier agent wrote is unknown, so the limits of everything that it limited are written anew. Others may have been
/// given some by hand.
pub(super) fn settle_adopted(shell: &mut Shell, engine: &Engine) {
    if !shell.controllers.were_used() {
        return;
    }
    let mut kept = Vec::new();
    let mut limited = Vec::new();
    for (replica, station) in &mut shell.stations {
        let name = adopt::group_name(&station.service, station.index);
        let Some(live) = &mut station.live else { continue };
        let is_limited = engine.memory(*replica).is_none_or(|memory| memory.limited)
            || engine.limits(*replica) != plan::Limits::default();
        if let Some(group) = live.group.as_mut().filter(|_| is_limited) {
            let found = Limited::of_earlier_agent(group.path(), &name, &shell.controllers);
            group.set_limited(Some(Box::new(found)));
            limited.push((*replica, live.run));
        }
        kept.push(name);
    }
    bury_leftovers(shell, kept);
    for (replica, run) in limited {
        limit(shell, engine, replica, run);
    }
}

/// Groups of other hierarchies that no living run has (`kept`) are removed, with the pace of the dying groups where processes end only now.
fn bury_leftovers(shell: &mut Shell, mut kept: Vec<String>) {
    for dying in &mut shell.dying_groups {
        let Some(name) = dying.path().and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned())) else {
            continue;
        };
        let limited = Limited::of_earlier_agent(dying.path(), &name, &shell.controllers);
        dying.set_limited(Some(Box::new(limited)));
        kept.push(name);
    }
    for name in shell.controllers.sweep(&|name| kept.iter().any(|kept| kept == name)) {
        let limited = Limited::of_earlier_agent(None, &name, &shell.controllers);
        shell.bury(Some(Group::of_limits_only(Box::new(limited))));
    }
}

/// Performs `Action::Gauge`.
pub(super) fn gauge(shell: &mut Shell, asked: u64, runs: &[(ReplicaId, RunId)]) {
    let gauges = runs.iter().filter_map(|(replica, run)| {
        let live = shell.stations.get_mut(replica)?.live_run(*run)?;
        Some(of_reading(*replica, *run, gauge::read(live.group.as_ref()?)))
    });
    let gauges = gauges.collect();
    shell.events.push_back(Event::Gauged { asked, gauges });
}

/// Processes in the tree.
pub(super) fn count(group: &Group) -> u32 {
    group.processes().map_or(0, |pids| u32::try_from(pids.len()).unwrap_or(u32::MAX))
}

fn of_plan(limits: &plan::Limits) -> Limits {
    let rates = |limit: &plan::IoMax| Rates {
        read_bytes: limit.read_bytes,
        write_bytes: limit.write_bytes,
        read_operations: limit.read_operations,
        write_operations: limit.write_operations,
    };
    Limits {
        cpu_max_permille: limits.cpu_max_permille,
        cpu_weight: limits.cpu_weight,
        memory_max_bytes: limits.memory_max_bytes,
        pids_max: limits.pids_max,
        io_weight: limits.io_weight,
        io_max: limits.io_max.iter().map(|limit| (limit.path.clone(), rates(limit))).collect(),
    }
}

fn of_reading(replica: ReplicaId, run: RunId, reading: gauge::Gauge) -> Gauge {
    Gauge {
        replica,
        run,
        cpu_usec: reading.cpu_usec,
        cpu_periods: reading.cpu_periods,
        cpu_throttled: reading.cpu_throttled,
        memory_bytes: reading.memory_bytes,
        pages_scanned: reading.pages_scanned,
        memory_limit_met: reading.memory_limit_met,
        memory_full_avg10: reading.memory_full_avg10,
        pids: reading.pids,
        pids_refused: reading.pids_refused,
        frozen: reading.frozen,
    }
}
