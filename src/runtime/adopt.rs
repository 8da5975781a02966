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
use crate::sys::group::{Group, Root};

/// A replica found, with what the shell needs to go on with it.
#[derive(Debug)]
pub struct Adopted {
    pub found: Found,
    pub process: Option<(Process, OwnedFd)>,
    pub group: Option<Group>,
}

/// The name of a replica's group.
#[must_use]
pub fn group_name(service: &str, index: u16) -> String {
    format!("{service}.{index}")
}

/// Looks at every record and every group of ours. The second list holds sentences about what was left alone.
pub fn look(records: Records, root: &Root, cookie: &dyn Fn(&Record) -> String) -> (Vec<Adopted>, Vec<String>) {
    let mut remarks = records.refused;
    let mut adopted: Vec<Adopted> = Vec::new();
    for record in records.believed {
        let weak_cookie = root.is_weak().then(|| cookie(&record));
        match adopt_one(record, root, weak_cookie) {
            Ok(one) => adopted.push(one),
            Err(remark) => remarks.push(remark),
        }
    }
    leftovers_without_record(root, &mut adopted, &mut remarks);
    (adopted, remarks)
}

fn adopt_one(record: Record, root: &Root, weak_cookie: Option<String>) -> Result<Adopted, String> {
    let name = group_name(&record.service, record.index);
    let group = match (weak_cookie, &record.process) {
        (Some(cookie), Some(process)) => Some(Group::weak(cookie, process.pid)),
        (Some(_), None) => None,
        (None, _) => root.open(&name).map_err(|error| format!("group {name}: left alone: {error}"))?,
    };
    let verified = record.process.and_then(|process| verify(process, group.as_ref()).map(|pidfd| (process, pidfd)));
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
    Ok(Adopted { found, process: verified, group })
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

/// A group of ours that is populated although no record speaks of it: an agent died between the clone and the record.
fn leftovers_without_record(root: &Root, adopted: &mut Vec<Adopted>, remarks: &mut Vec<String>) {
    let groups = match root.list() {
        Ok(groups) => groups,
        Err(error) => return remarks.push(format!("groups cannot be listed: {error}")),
    };
    for (name, ours) in groups {
        let known = adopted.iter().any(|one| group_name(&one.found.service, one.found.index) == name);
        if known {
            continue;
        }
        if !ours {
            remarks.push(format!("group {name}: not of this agent, left alone"));
            continue;
        }
        let Some((service, index)) = split_name(&name) else { continue };
        let Ok(Some(group)) = root.open(&name) else { continue };
        if let Ok(remaining @ 1..) = count(&group) {
            adopted.push(Adopted {
                found: Found {
                    service: service.to_owned(),
                    index,
                    memory: Memory::unknown(),
                    stop: Stop::default(),
                    process: FoundProcess::Leftovers { remaining },
                },
                process: None,
                group: Some(group),
            });
        }
    }
}

fn split_name(name: &str) -> Option<(&str, u16)> {
    let (service, index) = name.rsplit_once('.')?;
    Some((service, index.parse().ok()?))
}
