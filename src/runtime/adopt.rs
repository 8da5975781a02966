//! What an earlier agent left: records and groups become `Found` for the engine, and processes that the shell watches again.
//!
//! Identity is pid + kernel start time + pidfd inode (where the kernel has unique ones) + membership of the replica's group. The
//! pidfd is opened first and everything else compared after, so the comparison speaks of the process that would be signalled.
//! Whatever cannot be verified is not adopted and never signalled by number; its group, if it is ours, is emptied through the group.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use super::record::{Process, Record, Records};
use crate::engine::event::{Found, FoundProcess};
use crate::engine::memory::Memory;
use crate::engine::plan::Stop;
use crate::engine::types::Exit;
use crate::sys::child;
use crate::sys::group::{Freezer, Group, Root};

/// A replica found, with what the shell needs to go on with it.
#[derive(Debug)]
pub struct Adopted {
    pub found: Found,
    pub cookie: String,
    /// The earlier agent had frozen it, or was about to.
    pub frozen: bool,
    pub process: Option<(Process, OwnedFd)>,
    pub group: Option<Group>,
}

/// Groups of exec probes are `@probe.NUMBER`, those of alerts' commands `@alert.NUMBER`.
pub(super) const PROBE_GROUP: &str = "@probe";
pub(super) const ALERT_GROUP: &str = "@alert";
/// Of hooks of copies.
pub(super) const HOOK_GROUP: &str = "@hook";

/// The name of a replica's group.
#[must_use]
pub fn group_name(service: &str, index: u16) -> String {
    format!("{service}.{index}")
}

/// What is there at the start.
#[derive(Debug)]
pub struct Looked {
    pub adopted: Vec<Adopted>,
    /// Sentences about what was left alone.
    pub left_alone: Vec<String>,
    /// Killed, and to be removed once they are empty.
    pub dying: Vec<Group>,
}

/// Looks at every record and every group of ours.
pub fn look(records: Records, root: &Root) -> Looked {
    let mut looked = Looked { adopted: Vec::new(), left_alone: records.refused, dying: Vec::new() };
    for record in records.believed {
        match adopt_one(record, root) {
            Ok(one) => looked.adopted.push(one),
            Err(remark) => looked.left_alone.push(remark),
        }
    }
    leftovers_without_record(root, &mut looked);
    looked
}

fn adopt_one(record: Record, root: &Root) -> Result<Adopted, String> {
    let name = group_name(&record.service, record.index);
    let weak = |process: Option<Process>| match process {
        Some(process) => Group::weak_led_by(&record.cookie, process.pid, process.start_ticks),
        None => Group::weak(record.cookie.clone(), 0),
    };
    let mut group = match root.is_weak() {
        true => Some(weak(record.process)),
        false => root.open(&name).map_err(|error| format!("group {name}: left alone: {error}"))?,
    };
    let mut verified = record.process.and_then(|process| verify(process, group.as_ref()).map(|pidfd| (process, pidfd)));
    if let (None, Some(process), false) = (&verified, record.process, root.is_weak()) {
        // The earlier agent had its groups elsewhere, or none. The process is the recorded one all the same, and no second one may start.
        let elsewhere = weak(Some(process));
        if let Some(pidfd) = verify(process, Some(&elsewhere)) {
            (group, verified) = (Some(elsewhere), Some((process, pidfd)));
        }
    }
    let remaining = match &group {
        Some(group) => count(group).map_err(|error| format!("group {name}: cannot be read: {error}"))?,
        None => 0,
    };
    let process = match (&verified, remaining, record.process) {
        (Some((process, _)), _, _) => FoundProcess::Alive { pid: process.pid },
        (None, 1.., _) => FoundProcess::Leftovers { remaining },
        (None, 0, Some(_)) => FoundProcess::Gone { exit: Some(Exit::Unknown) },
        (None, 0, None) => FoundProcess::Gone { exit: None },
    };
    let found =
        Found { service: record.service, index: record.index, memory: record.memory, stop: record.stop, process };
    let frozen = record.frozen || group.as_ref().and_then(Group::freezer) == Some(Freezer::Frozen);
    Ok(Adopted { found, cookie: record.cookie, frozen, process: verified, group })
}

/// The pidfd of the very process that was recorded, or nothing.
fn verify(process: Process, group: Option<&Group>) -> Option<OwnedFd> {
    let pidfd = child::open(process.pid).ok()?;
    let identity = child::identity(process.pid, pidfd.as_fd()).ok()?;
    let same = identity.start_ticks == process.start_ticks && identity.pidfd_inode == process.pidfd_inode;
    let member = group.is_some_and(|group| group.processes().is_ok_and(|pids| pids.contains(&process.pid)));
    // The process may have died and been replaced between the open and the comparison: then the pidfd says so.
    let alive = child::signal(pidfd.as_fd(), 0).is_ok();
    (same && member && alive).then_some(pidfd)
}

fn count(group: &Group) -> io::Result<u32> {
    if !group.populated()? {
        return Ok(0);
    }
    let members = group.processes()?.len();
    // A zombie keeps a group populated without being listed.
    Ok(u32::try_from(members).unwrap_or(u32::MAX).max(1))
}

/// A group of ours that is populated although no record speaks of it: an agent died between the clone and the record, or while a probe ran.
fn leftovers_without_record(root: &Root, looked: &mut Looked) {
    let groups = match root.list() {
        Ok(groups) => groups,
        Err(error) => return looked.left_alone.push(format!("groups cannot be listed: {error}")),
    };
    for (name, ours) in groups {
        let known = looked.adopted.iter().any(|one| group_name(&one.found.service, one.found.index) == name);
        if known {
            continue;
        }
        if !ours {
            looked.left_alone.push(format!("group {name}: not of this agent, left alone"));
            continue;
        }
        let Some((service, index)) = split_name(&name) else { continue };
        let Ok(Some(group)) = root.open(&name) else { continue };
        if is_errand(service) {
            // Nobody waits for its answer any more.
            if let Err(error) = group.kill() {
                looked.left_alone.push(format!("group {name}: cannot be killed: {error}"));
            }
            looked.dying.push(group);
        } else if let Ok(remaining @ 1..) = count(&group) {
            looked.adopted.push(Adopted {
                found: Found {
                    service: service.to_owned(),
                    index,
                    memory: Memory::unknown(),
                    stop: Stop::default(),
                    process: FoundProcess::Leftovers { remaining },
                },
                cookie: String::new(),
                frozen: group.freezer() == Some(Freezer::Frozen),
                process: None,
                group: Some(group),
            });
        }
    }
}

/// Of a command that the earlier agent ran for itself.
fn is_errand(service: &str) -> bool {
    [PROBE_GROUP, ALERT_GROUP, HOOK_GROUP].contains(&service)
}

fn split_name(name: &str) -> Option<(&str, u16)> {
    let (service, index) = name.rsplit_once('.')?;
    let index = if is_errand(service) { 0 } else { index.parse().ok()? };
    Some((service, index))
}
