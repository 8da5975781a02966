//! Action -> call. Every effect of the agent is here or in what this calls; nothing here decides.

use std::os::fd::AsFd;

use super::alerts;
use super::copying;
use super::crash;
use super::freezing;
use super::handoff;
use super::hardware_watchdog;
use super::kept;
use super::key::Key;
use super::limiting;
use super::links::Importance;
use super::probes;
use super::record;
use super::roles;
use super::serve::Answers;
use super::shell::Shell;
use super::sockets;
use super::start_run;
use super::station::RestingGroup;
use crate::engine::Engine;
use crate::engine::action::{Action, Cleanness, Note, Whom};
use crate::engine::event::{Event, Remaining};
use crate::engine::fence::gauge::{Written, Wrote};
use crate::engine::plan::Role;
use crate::engine::types::{ReplicaId, RunId, SIGKILL, SIGTERM};
use crate::logs::proto::{Settings, ToLogs};
use crate::proxy::proto::ToProxy;
use crate::sys::child;
use crate::sys::epoll::Interest;
use crate::sys::group::{Freezer, Group};
use crate::sys::{open_devices, process};

/// SIGCONT: a stopped process does not see the signal that should end it.
const SIGCONT: i32 = 18;

/// Processes that an inspection names; more are only counted.
const REMAINING_MAX: usize = 16;

/// What an action asks of the loop itself.
#[derive(Debug)]
pub(super) enum Asked {
    Nothing,
    /// To be told once the rest of the turn's actions are performed.
    Tell(Note),
    Exit(Cleanness),
}

/// Performs one action. What became of it is queued as events in `shell.events`.
pub(super) fn perform(shell: &mut Shell, engine: &Engine, answers: &mut Answers, action: Action) -> Asked {
    match action {
        Action::Spawn { replica, run, memory } => start_run::spawn(shell, engine, replica, run, &memory),
        Action::Signal { replica, run, signal, whom } => send_signal(shell, engine, replica, run, signal, whom),
        Action::KillTree { replica, run } => kill_tree(shell, engine, replica, run),
        Action::Inspect { replica, run } => inspect(shell, replica, run),
        Action::Release { replica, run } => release(shell, replica, run),
        Action::Probe { replica, run, generation, probe, timeout } => {
            probes::start(shell, engine, probes::Wanted { replica, run, generation, probe, timeout });
        }
        Action::CancelProbe { replica, run: _, generation } => probes::cancel(shell, replica, generation),
        Action::Persist { replica, memory } => {
            if let Some(plan) = engine.service_plan(replica.service) {
                shell.station(replica, &plan.name, plan.stop);
            }
            shell.write_record(replica, &memory);
        }
        Action::Forget { replica } => forget(shell, engine, replica),
        Action::Refresh { replica } => refresh(shell, engine, replica),
        Action::Decide { decision, content } => {
            if content.restore.is_some() {
                crash::point("restore_step");
            }
            let key = match content.replica {
                Some(index) => format!("{}/{index}", content.service),
                None => content.service.clone(),
            };
            let kept = !engine.is_implied(&content);
            let content = kept.then(|| serde_json::to_string(&content).ok()).flatten();
            shell.logs.send(&ToLogs::Decide { decision, key, content }, Importance::Entry);
        }
        Action::Balance { table } => {
            shell.proxy.send(&ToProxy::Table { table }, Importance::Current);
        }
        Action::Unbalance { balancer } => shell.proxy.send(&ToProxy::Remove { balancer }, Importance::Current),
        Action::Answer { request, outcome } => answers.answer(request, outcome),
        Action::Watch { role } => roles::watch(shell, engine, role),
        Action::PersistHost { memory } => kept::keep(shell, &*memory),
        Action::Alert { alert, plan, body } => alerts::start(shell, engine, alert, plan, *body),
        Action::Freeze { replica, run, frozen } => {
            let freezer = if frozen { Freezer::Frozen } else { Freezer::Thawed };
            freezing::freeze_for_engine(shell, engine, replica, run, freezer);
        }
        Action::Limit { replica, run } => limiting::limit(shell, engine, replica, run),
        Action::Gauge { asked, runs } => limiting::gauge(shell, asked, &runs),
        Action::PersistFences { memory } => kept::keep(shell, &*memory),
        Action::PersistTables { memory } => kept::keep(shell, &*memory),
        Action::Copy { set, what } => copying::perform(shell, engine, &set, *what),
        Action::Pet => hardware_watchdog::pet(shell, engine.plan(), super::now().mono),
        Action::Note(note) => return Asked::Tell(note),
        Action::Exit { clean } => return Asked::Exit(clean),
    }
    Asked::Nothing
}

fn send_signal(shell: &mut Shell, engine: &Engine, replica: ReplicaId, run: RunId, signal: i32, whom: Whom) {
    if signal == SIGTERM
        && whom == Whom::Main
        && let Some(role) = roles::role_of(engine, replica)
    {
        // Deaf to the signal, so that nothing but its agent ends it.
        return roles::quit_or_idle(shell, engine, role);
    }
    if signal != SIGKILL {
        // A frozen process does not see the signal that should end it.
        freezing::thaw_if_frozen(shell, engine, replica, run);
    }
    let Some(live) = shell.stations.get_mut(&replica).and_then(|station| station.live_run(run)) else { return };
    match whom {
        Whom::Main => {
            let Some(main) = &live.main else { return };
            // ESRCH: it has just ended; its exit is on the way.
            let _ = child::signal(main.pidfd.as_fd(), signal);
            if signal != SIGKILL {
                let _ = child::signal(main.pidfd.as_fd(), SIGCONT);
            }
        }
        Whom::Tree => {
            let Some(group) = &live.group else { return };
            if let Err(error) = group.signal_all(signal) {
                log::warn!("agent: cannot signal the tree of replica {replica:?}: {error}");
            } else if signal == SIGTERM {
                // Members that cannot be continued are ended by the kill that follows.
                let _ = group.signal_all(SIGCONT);
            }
        }
    }
}

fn kill_tree(shell: &mut Shell, engine: &Engine, replica: ReplicaId, run: RunId) {
    let Some(live) = shell.stations.get_mut(&replica).and_then(|station| station.live_run(run)) else { return };
    live.killing = true;
    let fenced = engine.is_fenced(replica);
    let processes = if fenced { live.group.as_ref().map_or(0, limiting::count) } else { 0 };
    let killed = live.group.as_ref().map(Group::kill);
    if let Some(Err(error)) = &killed {
        log::warn!("agent: cannot kill the group of replica {replica:?}: {error}; killing its main process");
    }
    if let Some(main) = &live.main {
        let _ = child::signal(main.pidfd.as_fd(), SIGKILL);
    }
    if fenced {
        let written = |method: &str| Written { method: method.to_owned(), processes, refused: Vec::new() };
        let result = match killed {
            Some(Ok(method)) => Ok(written(method)),
            Some(Err(error)) => Err(error.to_string()),
            None => Ok(written("SIGKILL")),
        };
        let at = super::now().mono;
        shell.events.push_back(Event::Wrote { replica, run, what: Wrote::Kill, at, result });
    }
}

fn inspect(shell: &mut Shell, replica: ReplicaId, run: RunId) {
    let Some(live) = shell.stations.get_mut(&replica).and_then(|station| station.live_run(run)) else { return };
    let pids = live.group.as_ref().and_then(|group| group.processes().ok()).unwrap_or_default();
    let populated = live.group.as_ref().is_some_and(|group| group.populated().unwrap_or(true));
    if !populated && live.main.is_none() {
        live.tree_awaited = false;
        shell.events.push_back(Event::TreeEmpty { replica, run });
        return;
    }
    let processes = pids
        .iter()
        .take(REMAINING_MAX)
        .filter_map(|pid| process::process(*pid).ok())
        .map(|info| Remaining {
            pid: info.pid,
            comm: info.comm,
            state: info.state,
            wchan: info.wchan,
            devices: if info.state == 'D' { open_devices::of(info.pid) } else { Vec::new() },
        })
        .collect();
    shell.events.push_back(Event::TreeRemains { replica, run, processes });
}

fn release(shell: &mut Shell, replica: ReplicaId, run: RunId) {
    crash::point("before_release");
    let live = shell.stations.get(&replica).and_then(|station| station.live.as_ref());
    if live.is_none_or(|live| live.run != run) {
        return;
    }
    handoff::close(shell, replica);
    let Some(station) = shell.stations.get_mut(&replica) else { return };
    let Some(mut live) = station.live.take() else { return };
    if let Some(main) = &live.main {
        shell.mains.remove(&main.process.pid);
        shell.forget(main.pidfd.as_fd());
    }
    if let Some(gate) = &live.gate {
        shell.forget(gate.as_fd());
    }
    if let Some(pipe) = &live.ready_pipe {
        shell.forget(pipe.as_fd());
    }
    shell.polled_trees.retain(|polled| *polled != replica);
    if let Some(mut group) = live.group.take() {
        // INVARIANT: out of epoll before the descriptor is closed.
        if live.tree_registered
            && let Ok(Some(events)) = group.watch()
        {
            shell.forget(events);
        }
        // A frozen one would stay so, and freeze the next run at its birth.
        if live.killing || live.frozen {
            return shell.bury(Some(group));
        }
        let resting = RestingGroup { group, since: live.group_since, oom_kills: live.oom_kills };
        shell.resting.push((replica, resting));
    }
}

fn forget(shell: &mut Shell, engine: &Engine, replica: ReplicaId) {
    let Some(station) = shell.stations.remove(&replica) else { return };
    if let Some(notify) = &station.notify {
        shell.forget(notify.as_fd());
        let key = sockets::replica_key("notify", &station.service, station.index);
        shell.logs.send(&ToLogs::Drop { key }, Importance::Current);
    }
    shell.tell_logs(&ToLogs::Unwatch { stream: station.stream() });
    close_unwanted_listeners(shell, engine, replica, &station.service);
    // The pipe goes after the role has read what is left: it holds it open.
    let run_dir = &shell.directories.run;
    for path in [station.pipe(run_dir), station.notify_path(run_dir)] {
        remove_quietly(&path);
    }
    if let Err(error) = record::remove(run_dir, &station.service, station.index) {
        log::warn!("service {}: cannot remove its record: {error}", station.service);
    }
    if Role::is_service_name(&station.service) {
        roles::drop_links_of_the_gone(shell, engine);
    }
}

pub(super) fn remove_quietly(path: &std::path::Path) {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            log::warn!("agent: cannot remove {}: {error}", path.display());
        }
        Ok(()) | Err(_) => {}
    }
}

fn close_unwanted_listeners(shell: &mut Shell, engine: &Engine, replica: ReplicaId, service: &str) {
    let wanted = match engine.service_plan(replica.service) {
        Some(plan) => {
            (0..plan.replicas).flat_map(|index| sockets::expanded_listen(plan, index, &shell.directories.run)).collect()
        }
        None => Vec::new(),
    };
    shell.sockets.retain(service, &wanted, &mut shell.logs);
}

fn refresh(shell: &mut Shell, engine: &Engine, replica: ReplicaId) {
    let Some(plan) = engine.service_plan(replica.service) else { return };
    let Some(station) = shell.stations.get_mut(&replica) else { return };
    station.stop = plan.stop;
    if station.prepared {
        watch(shell, engine, replica);
    }
    close_unwanted_listeners(shell, engine, replica, &plan.name);
}

/// Tells the logs role of a replica's pipe and settings.
pub(super) fn watch(shell: &mut Shell, engine: &Engine, replica: ReplicaId) {
    let Some(plan) = engine.service_plan(replica.service) else { return };
    let Some(station) = shell.stations.get(&replica) else { return };
    let settings = Settings {
        max_size_bytes: plan.logs.max_size_bytes,
        keep: plan.logs.keep,
        lines_per_second: plan.logs.lines_per_second,
    };
    let message = ToLogs::Watch { stream: station.stream(), pipe: station.pipe(&shell.directories.run), settings };
    shell.tell_logs(&message);
}

/// Registers the end of a tree that outlived its main process.
pub(super) fn await_tree(shell: &mut Shell, replica: ReplicaId) {
    let Some(station) = shell.stations.get_mut(&replica) else { return };
    let slot = station.slot;
    let Some(live) = station.live.as_mut() else { return };
    live.tree_awaited = true;
    let key = Key::Tree(slot, live.run.0);
    shell.tree_pace.restart();
    let events = live.group.as_mut().map(|group| group.watch());
    match events {
        Some(Ok(Some(events))) => match shell.epoll.add(events, key.encode(), Interest::PRIORITY) {
            Ok(()) => live.tree_registered = true,
            Err(error) => {
                log::warn!("agent: cannot watch a group, polling it instead: {error}");
                shell.polled_trees.push(replica);
            }
        },
        Some(Ok(None) | Err(_)) | None => shell.polled_trees.push(replica),
    }
}
