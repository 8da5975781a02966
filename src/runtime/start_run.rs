//! One spawn, in the order that loses nothing: pipe and sockets, group, clone (the child waits at its gate), record, gate.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;

use super::crash;
use super::handoff::{self, Channel};
use super::key::Key;
use super::limiting;
use super::perform;
use super::record::Process;
use super::request::{self, Gifts, RoleKnowledge};
use super::roles;
use super::shell::{Directories, Shell};
use super::sockets;
use super::station::{Live, Main, RestingGroup};
use crate::engine::Engine;
use crate::engine::event::Event;
use crate::engine::fence::gauge::Written;
use crate::engine::memory::Memory;
use crate::engine::plan::{Readiness, ServicePlan};
use crate::engine::types::{ReplicaId, RunId};
use crate::logs::proto::ToLogs;
use crate::sys::child::Identity;
use crate::sys::epoll::Interest;
use crate::sys::group::Group;
use crate::sys::notify::NotifySocket;
use crate::sys::spawn::SpawnError;
use crate::sys::{child, fifo, files, spawn};

/// In [`crate::engine::plan::Process::rlimits`].
const NPROC: &str = "nproc";

/// Why there is no child.
#[derive(Debug)]
struct Failure {
    /// The agent's side (out of processes, memory, descriptors): not the service's fault.
    ours: bool,
    why: String,
}

impl Failure {
    fn ours(what: &str, error: impl std::fmt::Display) -> Self {
        Self { ours: true, why: format!("{what}: {error}") }
    }

    fn theirs(why: String) -> Self {
        Self { ours: false, why }
    }
}

/// Performs `Action::Spawn`; the outcome is queued as an event.
pub(super) fn spawn(shell: &mut Shell, engine: &Engine, replica: ReplicaId, run: RunId, memory: &Memory) {
    let Some(plan) = engine.service_plan(replica.service) else { return };
    shell.station(replica, &plan.name, plan.stop);
    match try_spawn(shell, engine, plan, replica, run, memory) {
        Ok((pid, written)) => {
            shell.events.push_back(Event::Spawned { replica, run, pid });
            if let Some(written) = written {
                limiting::tell(shell, replica, run, written);
            }
        }
        Err(failure) => {
            shell.write_record(replica, memory);
            shell.events.push_back(Event::SpawnFailed { replica, run, ours: failure.ours, error: failure.why });
        }
    }
}

/// The child's pid, and its limits if one of them is not in force.
type Born = (i32, Option<Written>);

fn try_spawn(
    shell: &mut Shell,
    engine: &Engine,
    plan: &ServicePlan,
    replica: ReplicaId,
    run: RunId,
    memory: &Memory,
) -> Result<Born, Failure> {
    prepare(shell, engine, plan, replica)?;
    let run_dir = shell.directories.run.clone();
    let Some(station) = shell.stations.get(&replica) else { return Err(Failure::ours("station", "missing")) };
    let cookie = station.cookie.clone();
    let notify_path = station.notify.as_ref().map(|_| station.notify_path(&run_dir));
    let output = fifo::open_read_write(&station.pipe(&run_dir))
        .map_err(|error| Failure::ours("cannot open the log pipe", error))?;
    let ready = match request::ready_descriptor(plan) {
        Some(number) => {
            let (read, write) = fifo::pipe().map_err(|error| Failure::ours("cannot make the readiness pipe", error))?;
            Some((read, write, number))
        }
        None => None,
    };
    let channels =
        handoff::open(engine.plan(), &plan.name).map_err(|error| Failure::ours("cannot make the channel", error))?;
    let proxy_user = roles::proxy_user(engine.plan(), &plan.launch);
    let mut grouped = make_group(shell, plan, replica)?;
    let bounds = match limiting::before_birth(shell, engine, plan, replica, grouped.as_mut()) {
        Ok(bounds) => bounds,
        Err(why) => {
            shell.bury(grouped.map(|grouped| grouped.group));
            return Err(Failure::theirs(why));
        }
    };
    let gifts = Gifts {
        output: output.as_fd(),
        listeners: shell.sockets.of(plan, replica.index, &run_dir),
        channels: channels.iter().map(|pair| pair.childs.as_fd()).collect(),
        ready: ready.as_ref().map(|(_, write, number)| (write, *number)),
        notify_path: notify_path.as_deref(),
        group: grouped.as_ref().and_then(|grouped| grouped.group.directory()),
        limited: bounds.limited.as_deref(),
        cookie: cookie.clone(),
    };
    let made = match clone_child(shell, plan, replica.index, proxy_user.as_deref(), gifts) {
        Ok(made) => made,
        Err(failure) => {
            let mut group = grouped.map_or_else(|| Group::weak(cookie, 0), |grouped| grouped.group);
            group.set_limited(bounds.limited);
            shell.bury(Some(group));
            return Err(failure);
        }
    };
    let mut grouped = grouped.unwrap_or_else(|| RestingGroup {
        group: Group::weak(cookie, made.pid),
        since: Some(super::now().mono),
        oom_kills: 0,
    });
    grouped.group.set_limited(bounds.limited);
    grouped.group.close_directory();
    let pid = made.pid;
    let ready = ready.map(|(read, _write, _)| read);
    let channels = channels.into_iter().map(|pair| pair.channel).collect();
    let newborn = Newborn { run, child: made, grouped, ready, channels };
    register(shell, plan, replica, newborn, memory)?;
    Ok((pid, bounds.written))
}

/// A child that waits at its gate, with what belongs to it.
struct Newborn {
    run: RunId,
    child: spawn::Child,
    grouped: RestingGroup,
    /// The read end of its readiness pipe.
    ready: Option<OwnedFd>,
    channels: Vec<Channel>,
}

fn clone_child(
    shell: &Shell,
    plan: &ServicePlan,
    index: u16,
    proxy_user: Option<&str>,
    gifts: Gifts<'_>,
) -> Result<spawn::Child, Failure> {
    let Directories { run, state, log } = &shell.directories;
    let knowledge = RoleKnowledge { run, state, log, proxy_user };
    let request = request::build(plan, index, knowledge, &shell.own_user, gifts).map_err(Failure::theirs)?;
    if plan.process.rlimits.contains_key(NPROC) {
        // A process that is not reaped yet counts for the limit.
        shell.reap_dead();
    }
    let made = match spawn::spawn(&request) {
        Err(SpawnError::Clone(Errno::EAGAIN)) if !shell.dead.is_empty() => {
            // The same of a limit of the group, or of all groups.
            shell.reap_dead();
            spawn::spawn(&request)
        }
        other => other,
    };
    crash::point("after_clone");
    made.map_err(|error| Failure { ours: error.ours(), why: error.to_string() })
}

/// Watches the child, records it, lets it go.
fn register(
    shell: &mut Shell,
    plan: &ServicePlan,
    replica: ReplicaId,
    newborn: Newborn,
    memory: &Memory,
) -> Result<(), Failure> {
    let Newborn { run, child: made, grouped, ready, channels } = newborn;
    let Some(slot) = shell.stations.get(&replica).map(|station| station.slot) else { return Ok(()) };
    let identity = match watch_child(shell, &made, slot, run) {
        Ok(identity) => identity,
        Err(failure) => {
            // Its gate never opens: it ends with it, and is reaped as an orphan.
            shell.bury(Some(grouped.group));
            return Err(failure);
        }
    };
    let has_channels = !channels.is_empty();
    let ready_pipe = ready.map(|read| watch_ready_pipe(shell, plan, replica, slot, run, read));
    shell.mains.insert(made.pid, replica);
    shell.new_gates.push((replica, run));
    if let Some(station) = shell.stations.get_mut(&replica) {
        station.live = Some(Live {
            run,
            main: Some(Main { process: Process::from(&identity), pidfd: made.pidfd }),
            group: Some(grouped.group),
            group_since: grouped.since,
            gate: Some(made.gate),
            ready_pipe,
            oom_kills: grouped.oom_kills,
            channels,
            tree_awaited: false,
            tree_registered: false,
            killing: false,
            frozen: false,
            refused_main: false,
        });
    }
    handoff::keep(shell, replica);
    handoff::tell(shell, replica);
    // INVARIANT: the keeper has the sockets and the order to look for the ready line before anything can be said on them.
    let keeper_first =
        plan.ready != Readiness::Started || plan.watchdog.is_some() || !plan.process.listen.is_empty() || has_channels;
    if keeper_first {
        tell_begin(shell, plan, replica, run);
        shell.logs.flush();
    }
    // INVARIANT: the record is written before the gate opens, so that no service code ever runs unrecorded.
    shell.write_record(replica, memory);
    if let Some(gate) = shell.stations.get(&replica).and_then(|station| station.live.as_ref()?.gate.as_ref())
        && let Err(error) = gate.open()
    {
        log::warn!("service {}: its child was gone before its gate opened: {error}", plan.name);
    }
    crash::point("after_gate");
    if !keeper_first {
        tell_begin(shell, plan, replica, run);
    }
    Ok(())
}

fn tell_begin(shell: &mut Shell, plan: &ServicePlan, replica: ReplicaId, run: RunId) {
    let Some(stream) = shell.stations.get(&replica).map(|station| station.stream()) else { return };
    let ready_text = match &plan.ready {
        Readiness::Log(text) => Some(text.clone()),
        Readiness::Started | Readiness::Notify | Readiness::Fd(_) | Readiness::Probe(_) => None,
    };
    shell.tell_logs(&ToLogs::RunBegins { stream, run: run.0, ready_text });
}

/// A child whose end would not be noticed must not run.
fn watch_child(shell: &Shell, made: &spawn::Child, slot: u32, run: RunId) -> Result<Identity, Failure> {
    let identity =
        child::identity_of_newborn(made).map_err(|error| Failure::ours("cannot read the child's identity", error))?;
    let failed = |error| Failure::ours("cannot watch the child", error);
    shell.epoll.add(made.pidfd.as_fd(), Key::Main(slot, run.0).encode(), Interest::READ).map_err(failed)?;
    Ok(identity)
}

/// Directories, pipe and sockets of the replica; all of it once, not at every run.
fn prepare(shell: &mut Shell, engine: &Engine, plan: &ServicePlan, replica: ReplicaId) -> Result<(), Failure> {
    let run_dir = shell.directories.run.clone();
    let owner = plan.process.user.as_ref().map(|user| (user.uid, user.gid));
    let Some(station) = shell.stations.get(&replica) else { return Err(Failure::ours("station", "missing")) };
    let same_owner = station.owner == Some(owner);
    if !same_owner {
        drop_notify_socket(shell, replica);
    }
    let Some(station) = shell.stations.get(&replica) else { return Err(Failure::ours("station", "missing")) };
    if !station.prepared || !same_owner {
        let directory = station.directory(&run_dir);
        files::directory_for(&directory, 0o750, owner)
            .map_err(|error| Failure::ours(&format!("cannot make {}", directory.display()), error))?;
        let pipe = station.pipe(&run_dir);
        fifo::create(&pipe, owner).map_err(|error| Failure::ours(&format!("cannot make {}", pipe.display()), error))?;
        perform::watch(shell, engine, replica);
    }
    shell.sockets.open(plan, replica.index, &run_dir, &mut shell.logs).map_err(Failure::theirs)?;
    if request::wants_notify(plan) {
        open_notify_socket(shell, plan, replica)?;
    }
    if let Some(station) = shell.stations.get_mut(&replica) {
        station.owner = Some(owner);
        if !station.prepared {
            station.hold_pipe(&run_dir);
            station.prepared = true;
        }
    }
    Ok(())
}

/// The socket belongs to another user than the service has now, or nobody knows to whom: the next one is bound for the new one. Its name goes at
/// once: the keeper has a copy until it hears of this, with which the name would still count as somebody's.
fn drop_notify_socket(shell: &mut Shell, replica: ReplicaId) {
    let Some(station) = shell.stations.get_mut(&replica) else { return };
    let key = sockets::replica_key("notify", &station.service, station.index);
    let Some(socket) = station.notify.take() else { return };
    let path = station.notify_path(&shell.directories.run);
    shell.forget(socket.as_fd());
    perform::remove_quietly(&path);
    shell.tell_logs(&ToLogs::Drop { key });
}

/// Binds the notify socket (or takes the one that the keeper held) unless the replica has it.
fn open_notify_socket(shell: &mut Shell, plan: &ServicePlan, replica: ReplicaId) -> Result<(), Failure> {
    let Some(station) = shell.stations.get(&replica) else { return Ok(()) };
    if station.notify.is_some() {
        return Ok(());
    }
    let slot = station.slot;
    let path = station.notify_path(&shell.directories.run);
    let key = sockets::replica_key("notify", &plan.name, replica.index);
    let owner = plan.process.user.as_ref().map(|user| (user.uid, user.gid));
    let socket = match shell.sockets.take_claimed(&key) {
        Some(descriptor) => NotifySocket::from_fd(descriptor),
        None => NotifySocket::bind(&path, owner)
            .map_err(|error| Failure::ours(&format!("cannot bind {}", path.display()), error))?,
    };
    shell.listen_to(socket.as_fd(), Key::Notify(slot), Interest::READ);
    sockets::keep(&mut shell.logs, &key, socket.as_fd());
    if let Some(station) = shell.stations.get_mut(&replica) {
        station.notify = Some(socket);
    }
    Ok(())
}

/// After an adoption: the replica goes on with its notify socket and readiness pipe.
pub(super) fn resume_sockets(shell: &mut Shell, plan: &ServicePlan, replica: ReplicaId) {
    if request::wants_notify(plan)
        && let Err(failure) = open_notify_socket(shell, plan, replica)
    {
        log::error!("service {}: {}", plan.name, failure.why);
    }
    let key = sockets::replica_key("ready", &plan.name, replica.index);
    let Some(pipe) = shell.sockets.take_claimed(&key) else { return };
    let Some(station) = shell.stations.get(&replica) else { return };
    let Some(run) = station.live.as_ref().map(|live| live.run) else { return };
    let pipe = watch_ready_pipe(shell, plan, replica, station.slot, run, pipe);
    if let Some(live) = shell.stations.get_mut(&replica).and_then(|station| station.live.as_mut()) {
        live.ready_pipe = Some(pipe);
    }
}

fn watch_ready_pipe(
    shell: &mut Shell,
    plan: &ServicePlan,
    replica: ReplicaId,
    slot: u32,
    run: RunId,
    pipe: OwnedFd,
) -> OwnedFd {
    shell.listen_to(pipe.as_fd(), Key::ReadyPipe(slot, run.0), Interest::READ);
    let key = sockets::replica_key("ready", &plan.name, replica.index);
    sockets::keep(&mut shell.logs, &key, pipe.as_fd());
    pipe
}

/// The group the child is born into; `None` where there are no cgroups.
fn make_group(shell: &mut Shell, plan: &ServicePlan, replica: ReplicaId) -> Result<Option<RestingGroup>, Failure> {
    if shell.root.is_weak() {
        // Its groups of other hierarchies would be removed under the next run.
        if let Some(resting) = shell.take_resting(replica) {
            shell.bury(Some(resting.group));
        }
        return Ok(None);
    }
    if let Some(mut resting) = shell.take_resting(replica) {
        if resting.group.reopen() {
            return Ok(Some(resting));
        }
        shell.bury(Some(resting.group));
    }
    let name = super::adopt::group_name(&plan.name, replica.index);
    match shell.root.create(&name) {
        Ok(group) => {
            // It has come back to life: nobody removes it any more.
            shell.dying_groups.retain(|dying| dying.path() != group.path());
            Ok(Some(RestingGroup { group, since: Some(super::now().mono), oom_kills: 0 }))
        }
        Err(error) => Err(Failure::ours(&format!("cannot make the group {name}"), error)),
    }
}
