//! The end of an ordered stop: all services are gone; the roles go last, so that the last lines are on disk.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::error::RunError;
use super::listeners;
use super::logger;
use super::record;
use super::roles;
use super::saved_plan;
use super::shell::Shell;
use crate::api::server::Server;
use crate::engine::Engine;
use crate::engine::action::Cleanness;
use crate::engine::plan::Role;
use crate::engine::types::{ReplicaId, SIGKILL};
use crate::sys::{child, clock};

/// How long the roles may take to write out what they hold.
const ROLES_DEADLINE: Duration = Duration::from_secs(5);

/// Ends the roles and cleans `run_dir` of what only a living agent needs.
pub(super) fn leave(mut shell: Shell, engine: &Engine, server: Server, cleanness: Cleanness) -> Result<(), RunError> {
    // The sockets close first: no client gets half an answer from an agent that is leaving.
    server.remove_sockets();
    drop(server);
    logger::pass_on(&mut shell.logs);
    listeners::remove_names(&shell);
    // The logs role last: the others may have something to say.
    for role in [Role::Checks, Role::Proxy, Role::Logs] {
        roles::quit(&mut shell, role);
    }
    let roles: Vec<ReplicaId> = Role::SINGLE
        .iter()
        .filter_map(|role| engine.service_id(role.service_name()))
        .map(|service| ReplicaId { service, index: 0 })
        .collect();
    wait_for(&mut shell, &roles);
    for replica in roles {
        end_role(&mut shell, replica);
    }
    shell.dying_pace.restart();
    shell.bury_groups(super::now().mono);
    match cleanness {
        Cleanness::Clean => {
            saved_plan::remove(&shell.directories.run);
            Ok(())
        }
        Cleanness::SomethingRemains => Err(RunError::SomethingRemains),
    }
}

fn wait_for(shell: &mut Shell, roles: &[ReplicaId]) {
    let began = clock::clocks().mono_ns;
    loop {
        shell.logs.flush();
        shell.checks.flush();
        shell.proxy.flush();
        let waited = Duration::from_nanos(clock::clocks().mono_ns.saturating_sub(began));
        let Some(left) = ROLES_DEADLINE.checked_sub(waited) else { return };
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

/// Kills what did not leave, and removes the role's group and record.
fn end_role(shell: &mut Shell, replica: ReplicaId) {
    let Some(station) = shell.stations.get_mut(&replica) else { return };
    let Some(mut live) = station.live.take() else { return };
    if let Some(main) = &live.main {
        // ESRCH: it has left.
        let _ = child::signal(main.pidfd.as_fd(), SIGKILL);
        let _ = child::wait(main.pidfd.as_fd());
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
