//! A ready descriptor -> events. What the kernel says is read, checked against the run it belongs to, and queued for the engine.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use super::crash;
use super::key::Key;
use super::notify::{self, Field};
use super::peeks::Peeked;
use super::perform;
use super::record::Process;
use super::shell::Shell;
use super::sockets;
use super::station::Main;
use super::taker;
use crate::engine::Engine;
use crate::engine::event::{Event, NotifyMessage};
use crate::engine::types::{Exit, ReplicaId, RunId, Time};
use crate::logs::proto::ToLogs;
use crate::sys::child::{self, Ended};
use crate::sys::epoll::Interest;
use crate::sys::fifo;
use crate::sys::notify::NotifySocket;
use crate::sys::spawn::ExecStatus;

/// Between two looks at trees without a cgroup that do not end: each reads all of /proc.
const POLL_DELAY_MAX: Duration = Duration::from_secs(1);

/// Orphans reaped in one turn.
pub(super) const ORPHANS_MAX: usize = 256;

/// The pidfd of a main process is readable: it has ended.
pub(super) fn main_ended(shell: &mut Shell, slot: u32, run: u32) {
    let Some((replica, run)) = current(shell, slot, run) else { return };
    // The exec status of a child that failed and ended at once must come first.
    exec_status(shell, slot, run.0);
    let Some(live) = shell.stations.get_mut(&replica).and_then(|station| station.live_run(run)) else { return };
    let Some(main) = &live.main else { return };
    let exit = match child::peek(main.pidfd.as_fd()) {
        Ok(None) => return,
        Ok(Some(Ended::Code(code))) => Exit::Code(code),
        Ok(Some(Ended::Signal { signal, core })) => Exit::Signal { signal, core },
        Ok(Some(Ended::Unknown)) => Exit::Unknown,
        Err(error) => {
            log::error!("agent: cannot learn how pid {} ended: {error}", main.process.pid);
            Exit::Unknown
        }
    };
    let pid = main.process.pid;
    let counts_oom_kills = shell.root.counts_oom_kills();
    crash::point("after_exit");
    let Some(main) = live.main.take() else { return };
    let (populated, oom) = match &live.group {
        Some(group) => {
            let counted = counts_oom_kills || group.limited().is_some();
            let oom_kills = if counted { group.oom_kills() } else { live.oom_kills };
            let before = std::mem::replace(&mut live.oom_kills, oom_kills);
            (group.populated().unwrap_or(false), oom_kills > before)
        }
        None => (false, false),
    };
    let remaining = match &live.group {
        Some(group) if populated => group.processes().map_or(1, |pids| u32::try_from(pids.len()).unwrap_or(u32::MAX)),
        Some(_) | None => 0,
    };
    // A group that holds only zombies is populated without members; its event comes when they are reaped.
    let remaining = if populated { remaining.max(1) } else { 0 };
    shell.mains.remove(&pid);
    shell.forget(main.pidfd.as_fd());
    shell.dead.push(main.pidfd);
    if let Some(station) = shell.stations.get(&replica) {
        let message = ToLogs::RunEnded { stream: station.stream(), run: run.0 };
        shell.tell_logs(&message);
    }
    drop_ready_pipe(shell, replica);
    if remaining > 0 {
        perform::await_tree(shell, replica);
    }
    shell.events.push_back(Event::Exited { replica, run, exit, oom, remaining });
}

/// The gate has something to say: exec succeeded, or the step that failed.
pub(super) fn exec_status(shell: &mut Shell, slot: u32, run: u32) {
    let Some((replica, run)) = current(shell, slot, run) else { return };
    let Some(live) = shell.stations.get_mut(&replica).and_then(|station| station.live_run(run)) else { return };
    let Some(gate) = &live.gate else { return };
    let event = match gate.status() {
        Ok(None) => return,
        Ok(Some(ExecStatus::Executed)) => Event::Executed { replica, run },
        Ok(Some(ExecStatus::Failed { step, errno })) => {
            Event::ExecFailed { replica, run, error: format!("{step}: {}", errno.desc()) }
        }
        Ok(Some(ExecStatus::FailedAt { step, errno, path })) => {
            Event::ExecFailed { replica, run, error: format!("{step}: {}: {}", gate.path(path), errno.desc()) }
        }
        Err(error) => Event::ExecFailed { replica, run, error: format!("exec status cannot be read: {error}") },
    };
    if let Some(gate) = live.gate.take() {
        shell.forget(gate.as_fd());
    }
    shell.events.push_back(event);
}

/// The readiness descriptor: a newline means ready; the end without one means nothing more will come.
pub(super) fn ready_pipe(shell: &mut Shell, slot: u32, run: u32) {
    let Some((replica, run)) = current(shell, slot, run) else { return };
    let Some(live) = shell.stations.get_mut(&replica).and_then(|station| station.live_run(run)) else { return };
    let Some(pipe) = &live.ready_pipe else { return };
    if shell.peeks.contains(Peeked::ReadyPipe(replica, run)) {
        return;
    }
    let mut bytes = [0_u8; 64];
    match fifo::peek(pipe, &mut bytes) {
        Ok(Some(count)) if bytes[..count].contains(&b'\n') => {
            shell.events.push_back(Event::ReadyByFd { replica, run });
            shell.peeks.add(Peeked::ReadyPipe(replica, run), shell.events.len());
        }
        // Something else was written: taken out, so that a newline behind it is seen.
        Ok(Some(_)) => {
            let _ = nix::unistd::read(pipe, &mut bytes);
        }
        Ok(None) => drop_ready_pipe(shell, replica),
        Err(error) => {
            log::warn!("agent: readiness descriptor of replica {replica:?}: {error}");
            drop_ready_pipe(shell, replica);
        }
    }
}

fn drop_ready_pipe(shell: &mut Shell, replica: ReplicaId) {
    let Some(station) = shell.stations.get_mut(&replica) else { return };
    let Some(pipe) = station.live.as_mut().and_then(|live| live.ready_pipe.take()) else { return };
    let key = sockets::replica_key("ready", &station.service, station.index);
    shell.forget(pipe.as_fd());
    shell.tell_logs(&ToLogs::Drop { key });
}

/// `cgroup.events` changed: report the tree's end if it is one.
pub(super) fn tree_changed(shell: &mut Shell, slot: u32, run: u32) {
    let Some((replica, run)) = current(shell, slot, run) else { return };
    report_tree(shell, replica, run);
}

/// Looks whether an awaited tree is empty; `true` when it is (or is not awaited any more).
pub(super) fn report_tree(shell: &mut Shell, replica: ReplicaId, run: RunId) -> bool {
    let Some(live) = shell.stations.get_mut(&replica).and_then(|station| station.live_run(run)) else { return true };
    if !live.tree_awaited {
        return true;
    }
    let Some(group) = &live.group else { return true };
    if group.populated().unwrap_or(true) {
        return false;
    }
    live.tree_awaited = false;
    shell.events.push_back(Event::TreeEmpty { replica, run });
    true
}

/// Trees without a cgroup: looked at on a timer while one is awaited.
pub(super) fn poll_trees(shell: &mut Shell, now: Time) {
    if shell.polled_trees.is_empty() || !shell.tree_pace.is_due(now) {
        return;
    }
    shell.tree_pace.back_off(now, POLL_DELAY_MAX);
    for replica in std::mem::take(&mut shell.polled_trees) {
        let Some(run) = shell.stations.get(&replica).and_then(|station| Some(station.live.as_ref()?.run)) else {
            continue;
        };
        if report_tree(shell, replica, run) {
            continue;
        }
        // A tree without a group may have forked between the look and the kill.
        let live = shell.stations.get(&replica).and_then(|station| station.live.as_ref()).filter(|live| live.killing);
        if let Some(group) = live.and_then(|live| live.group.as_ref())
            && let Err(error) = group.kill()
        {
            log::warn!("agent: cannot kill what is left of replica {replica:?}: {error}");
        }
        shell.polled_trees.push(replica);
    }
}

/// A datagram on a replica's notify socket: one a turn, so many a second, and consumed only when its consequences are recorded
/// ([`consume_peeked`]).
/// Attribution is by socket, whose mode lets nobody write but the service's user and root.
pub(super) fn notified(shell: &mut Shell, engine: &Engine, slot: u32) {
    let Some(replica) = shell.replica_at(slot) else { return };
    if shell.peeks.contains(Peeked::Notification(replica)) {
        return;
    }
    let Some(station) = shell.stations.get_mut(&replica) else { return };
    let rate = station.count_notification(super::now().mono);
    let Some(socket) = &station.notify else { return };
    if let Err(until) = rate {
        // ENOENT: its registration failed and was told.
        let _ = shell.epoll.remove(socket.as_fd());
        return shell.muted.push((until, slot));
    }
    let datagram = match socket.peek() {
        Ok(Some(datagram)) => datagram,
        Ok(None) => return,
        Err(error) => return log::warn!("service {}: notify socket: {error}", station.service),
    };
    station.notify_attached = datagram.attached;
    let run = station.live.as_ref().map(|live| live.run);
    if let Some(run) = run {
        take_fields(shell, engine, replica, run, &datagram.text);
    }
    shell.peeks.add(Peeked::Notification(replica), shell.events.len());
}

/// Notify sockets that have rested long enough are heard again.
pub(super) fn unmute(shell: &mut Shell, now: Time) {
    let rested: Vec<u32> = shell.muted.extract_if(.., |(until, _)| *until <= now).map(|(_, slot)| slot).collect();
    for slot in rested {
        let station = shell.replica_at(slot).and_then(|replica| shell.stations.get(&replica));
        if let Some(socket) = station.and_then(|station| station.notify.as_ref()) {
            shell.listen_to(socket.as_fd(), Key::Notify(slot), Interest::READ);
        }
    }
}

fn take_fields(shell: &mut Shell, engine: &Engine, replica: ReplicaId, run: RunId, text: &[u8]) {
    for field in notify::parse(text) {
        match field {
            Field::Message(NotifyMessage::MainPid(pid)) => {
                if change_main(shell, engine, replica, run, pid) {
                    shell.events.push_back(Event::Notified { replica, run, message: NotifyMessage::MainPid(pid) });
                }
            }
            Field::Message(message) => shell.events.push_back(Event::Notified { replica, run, message }),
            // The barrier is the closing of the descriptor that came with it, which the consumption brings.
            Field::Barrier => {}
            // Not kept for services (yet): closed with the datagram.
            Field::StoreDescriptors => {}
        }
    }
}

/// What was peeked at is recorded now: it may go.
pub(super) fn consume_peeked(shell: &mut Shell) {
    for peeked in shell.peeks.take_due() {
        match peeked {
            Peeked::Notification(replica) => {
                let Some(station) = shell.stations.get(&replica) else { continue };
                if station.notify_attached {
                    taker::start(shell, station.slot);
                    continue;
                }
                let socket = station.notify.as_ref();
                if let Some(Err(error)) = socket.map(NotifySocket::receive) {
                    log::warn!("agent: notify socket of replica {replica:?}: {error}");
                }
            }
            // Not that of a later run, which has said nothing yet.
            Peeked::ReadyPipe(replica, run) => {
                let live = shell.stations.get(&replica).and_then(|station| station.live.as_ref());
                if live.is_some_and(|live| live.run == run) {
                    drop_ready_pipe(shell, replica);
                }
            }
        }
    }
}

/// MAINPID: believed only of a process that is in the replica's own tree; the pidfd is opened before the look.
fn change_main(shell: &mut Shell, engine: &Engine, replica: ReplicaId, run: RunId, pid: i32) -> bool {
    let Some(station) = shell.stations.get_mut(&replica) else { return false };
    let slot = station.slot;
    let Some(live) = station.live_run(run) else { return false };
    if live.main.as_ref().is_some_and(|main| main.process.pid == pid) {
        return false;
    }
    let Ok(pidfd) = child::open(pid) else { return false };
    let member = live.group.as_ref().and_then(|group| group.processes().ok()).is_some_and(|pids| pids.contains(&pid));
    let Ok(identity) = child::identity(pid, pidfd.as_fd()) else { return false };
    if !member {
        // Once a run: a service that goes on saying so must not fill the log.
        if !std::mem::replace(&mut live.refused_main, true) {
            log::warn!("service {}: MAINPID={pid} is not one of its processes, ignored", station.service);
        }
        return false;
    }
    // One whose end would not be noticed does not become the main process.
    if let Err(error) = shell.epoll.add(pidfd.as_fd(), Key::Main(slot, run.0).encode(), Interest::READ) {
        log::error!("service {}: cannot watch MAINPID={pid}, ignored: {error}", station.service);
        return false;
    }
    let new = Main { process: Process::from(&identity), pidfd };
    let old = live.main.replace(new);
    if let Some(old) = old {
        shell.mains.remove(&old.process.pid);
        shell.forget(old.pidfd.as_fd());
    }
    shell.mains.insert(pid, replica);
    if let Some(memory) = engine.memory(replica) {
        shell.write_record(replica, memory);
    }
    true
}

/// Registers an adopted main process.
pub(super) fn watch_main(shell: &Shell, pidfd: BorrowedFd<'_>, slot: u32, run: RunId) {
    shell.listen_to(pidfd, Key::Main(slot, run.0), Interest::READ);
}

/// The replica of a slot, if this is still its live run. A late event of an older one is dropped.
fn current(shell: &Shell, slot: u32, run: u32) -> Option<(ReplicaId, RunId)> {
    let replica = shell.replica_at(slot)?;
    let live = shell.stations.get(&replica)?.live.as_ref()?;
    (live.run.0 == run).then_some((replica, live.run))
}
