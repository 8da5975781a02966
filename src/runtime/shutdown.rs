//! The end of an ordered stop: all services are gone; the roles go last, so that the last lines are on disk.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::alerts;
use super::error::RunError;
use super::hardware_watchdog;
use super::hooks;
use super::links::Link;
use super::listeners;
use super::logger;
use super::record;
use super::roles;
use super::saved_plan;
use super::shell::Shell;
use super::station::Station;
use crate::api::server::Server;
use crate::engine::Engine;
use crate::engine::action::Cleanness;
use crate::engine::plan::Role;
use crate::engine::types::{ReplicaId, SIGKILL};
use crate::sys::{child, clock, process};

/// How long the roles may take to write out what they hold.
const ROLES_DEADLINE: Duration = Duration::from_secs(5);
/// How long after their kill they are waited for. One that waits for a disk may stay for ever.
const KILLED_DEADLINE: Duration = Duration::from_millis(500);

/// Ends the roles and cleans `run_dir` of what only a living agent needs.
pub(super) fn leave(mut shell: Shell, engine: &Engine, server: Server, cleanness: Cleanness) -> Result<(), RunError> {
    // The sockets close first: no client gets half an answer from an agent that is leaving.
    server.remove_sockets();
    drop(server);
    logger::pass_on(&mut shell.logs);
    listeners::remove_names(&shell);
    alerts::end_all(&mut shell);
    hooks::end_all(&mut shell);
    // Before the keeper closes its copy.
    hardware_watchdog::disarm(&mut shell);
    let copies: Vec<Role> = shell.helpers.keys().copied().filter(|role| matches!(role, Role::Copy(_))).collect();
    for role in copies {
        roles::quit(&mut shell, role);
    }
    // The logs role last: the others may have something to say.
    for role in [Role::Checks, Role::Proxy, Role::Logs] {
        roles::quit(&mut shell, role);
    }
    let is_role = |station: &Station| Role::is_service_name(&station.service);
    let roles = shell.stations.iter().filter(|(_, station)| is_role(station)).map(|(replica, _)| *replica);
    let (helpers, roles): (Vec<ReplicaId>, Vec<ReplicaId>) = roles.partition(|replica| is_helper(engine, *replica));
    // They hold nothing that would have to be written out, and may be unable to read an order.
    for replica in &helpers {
        kill(&shell, *replica);
    }
    wait_for(&mut shell, &roles, ROLES_DEADLINE);
    for replica in &roles {
        kill(&shell, *replica);
    }
    let all = [roles, helpers].concat();
    wait_for(&mut shell, &all, KILLED_DEADLINE);
    for replica in all {
        end_role(&mut shell, replica);
    }
    shell.dying_pace.restart();
    shell.bury_groups(super::now().mono);
    shell.controllers.leave();
    match cleanness {
        Cleanness::Clean => {
            saved_plan::remove(&shell.directories.run);
            Ok(())
        }
        Cleanness::SomethingRemains => Err(RunError::SomethingRemains),
    }
}

/// Reads for the engine and keeps nothing.
fn is_helper(engine: &Engine, replica: ReplicaId) -> bool {
    match roles::role_of(engine, replica) {
        Some(Role::Sensors | Role::Disk(_)) => true,
        Some(Role::Logs | Role::Checks | Role::Proxy | Role::Copy(_)) | None => false,
    }
}

fn kill(shell: &Shell, replica: ReplicaId) {
    let live = shell.stations.get(&replica).and_then(|station| station.live.as_ref());
    if let Some(main) = live.and_then(|live| live.main.as_ref()) {
        // ESRCH: it has left.
        let _ = child::signal(main.pidfd.as_fd(), SIGKILL);
    }
}

fn wait_for(shell: &mut Shell, roles: &[ReplicaId], deadline: Duration) {
    let began = clock::clocks().mono_ns;
    loop {
        shell.logs.flush();
        shell.checks.flush();
        shell.proxy.flush();
        shell.helpers.values_mut().for_each(Link::flush);
        let waited = Duration::from_nanos(clock::clocks().mono_ns.saturating_sub(began));
        let Some(left) = deadline.checked_sub(waited) else { return };
        let alive: Vec<BorrowedFd<'_>> = roles
            .iter()
            .filter_map(|replica| Some(shell.stations.get(replica)?.live.as_ref()?.main.as_ref()?.pidfd.as_fd()))
            .filter(|pidfd| matches!(child::wait(*pidfd), Ok(None)))
            .collect();
        if alive.is_empty() {
            return;
        }
        let mut ready: Vec<PollFd<'_>> = alive.iter().map(|pidfd| PollFd::new(*pidfd, PollFlags::POLLIN)).collect();
        // A message may still wait for the socket: look again soon.
        let step = left.min(Duration::from_millis(50));
        // EINTR or an error: the deadline ends the loop.
        let _ = poll(&mut ready, PollTimeout::try_from(step).unwrap_or(PollTimeout::ZERO));
    }
}

/// Removes the group and record of a role that has left or was killed. One that cannot die keeps both: the next agent starts no second one
/// beside it.
fn end_role(shell: &mut Shell, replica: ReplicaId) {
    let Some(station) = shell.stations.get_mut(&replica) else { return };
    let Some(mut live) = station.live.take() else { return };
    let left = live.main.as_ref().filter(|main| matches!(child::wait(main.pidfd.as_fd()), Ok(None)));
    if let Some(main) = left {
        let state =
            process::process(main.process.pid).map(|found| format!(" (state {}, {})", found.state, found.wchan));
        log::warn!(
            "agent: role {} (pid {}) was killed and is not gone{}; it is left to the next agent",
            station.service,
            main.process.pid,
            state.unwrap_or_default()
        );
        return;
    }
    if let Some(group) = &mut live.group {
        if group.populated().unwrap_or(false)
            && let Err(error) = group.kill()
        {
            log::warn!("agent: cannot kill what is left of role {}: {error}", station.service);
        }
        // Still being torn down: the next agent removes it.
        let _ = group.remove();
    }
    if let Err(error) = record::remove(&shell.directories.run, &station.service, station.index) {
        log::warn!("agent: cannot remove the record of role {}: {error}", station.service);
    }
}
