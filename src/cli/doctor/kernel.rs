//! The kernel, its control groups, its limits and its clock.

use std::fs;
use std::path::PathBuf;

use nix::sys::resource::{Resource, getrlimit};
use nix::unistd::{AccessFlags, access};

use super::{Finding, fail, ok, warn};
use crate::sys;

/// pidfd_open.
const KERNEL_NEEDED: (u32, u32) = (5, 3);
/// cgroup.kill.
const KERNEL_WANTED: (u32, u32) = (5, 14);
/// Exit codes of processes that are not our children (PIDFD_GET_INFO with exit information).
const KERNEL_EXIT_INFO: (u32, u32) = (6, 15);
const PIPE_BYTES_WANTED: u64 = 1 << 20;
const FILES_WANTED: u64 = 4_096;

pub(super) fn findings() -> Vec<Finding> {
    let mut findings = vec![kernel(), pidfd()];
    findings.extend(cgroups());
    findings.extend([pipes(), files(), clock()]);
    findings
}

fn kernel() -> Finding {
    let release = match nix::sys::utsname::uname() {
        Ok(name) => name.release().to_string_lossy().into_owned(),
        Err(error) => {
            return warn("kernel", format!("its version is unknown: {error}"), "nothing, if the rest is well");
        }
    };
    let Some(version) = version(&release) else {
        return warn("kernel", format!("version {release} is not understood"), "nothing, if the rest is well");
    };
    if version < KERNEL_NEEDED {
        return fail(
            "kernel",
            format!("{release} has no pidfd_open"),
            "boot Linux 5.3 or later; 5.14 has everything needed",
        );
    }
    if version < KERNEL_WANTED {
        let text = format!("{release} has no cgroup.kill: trees are frozen and killed one by one");
        return warn("kernel", text, "boot Linux 5.14 or later");
    }
    if version < KERNEL_EXIT_INFO {
        let text = format!("{release}: the exit code of a service that ends while no agent lives stays unknown");
        return warn("kernel", text, "boot Linux 6.15 or later, if that matters");
    }
    ok("kernel", release)
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|letter: char| !letter.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

fn pidfd() -> Finding {
    match i32::try_from(std::process::id()).map(sys::child::open) {
        Ok(Ok(_)) => ok("pidfd", "processes can be watched without races"),
        Ok(Err(error)) => {
            fail("pidfd", format!("pidfd_open: {error}"), "allow the pidfd calls (a seccomp filter forbids them)")
        }
        Err(error) => fail("pidfd", format!("own pid: {error}"), "report this"),
    }
}

fn cgroups() -> Vec<Finding> {
    let mountinfo = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let Some(mount) = cgroup2_mount(&mountinfo) else {
        let text =
            "no cgroup2 is mounted: a process that leaves its session and clears its environment may escape a stop";
        return vec![warn(
            "cgroup",
            text,
            "mount -t cgroup2 none /sys/fs/cgroup (or boot with systemd.unified_cgroup_hierarchy=1)",
        )];
    };
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own = own.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    let directory = mount.join(own);
    let mut findings = vec![ok("cgroup", format!("version 2 at {}", mount.display()))];
    findings.push(if access(&mount, AccessFlags::W_OK).is_ok() {
        ok("delegation", "groups can be made")
    } else if access(&directory, AccessFlags::W_OK).is_ok() {
        ok("delegation", format!("{} is ours", directory.display()))
    } else {
        let text = format!("neither {} nor {} can be written by this user", mount.display(), directory.display());
        warn("delegation", text, "run as root, or in a systemd unit with Delegate=yes")
    });
    if !own.is_empty() {
        findings.push(if directory.join("cgroup.kill").exists() {
            ok("cgroup.kill", "whole trees can be killed at once")
        } else {
            warn("cgroup.kill", "trees are frozen and killed one by one", "boot Linux 5.14 or later")
        });
    }
    findings
}

fn cgroup2_mount(mountinfo: &str) -> Option<PathBuf> {
    let line = mountinfo.lines().find(|line| line.contains(" - cgroup2 "))?;
    line.split(' ').nth(4).map(PathBuf::from)
}

fn pipes() -> Finding {
    let text = fs::read_to_string("/proc/sys/fs/pipe-max-size").unwrap_or_default();
    match text.trim().parse::<u64>() {
        Ok(bytes) if bytes >= PIPE_BYTES_WANTED => ok("log pipes", format!("hold up to {bytes} bytes")),
        Ok(bytes) => warn(
            "log pipes",
            format!("hold up to {bytes} bytes: a service waits sooner while the logs role is away"),
            format!("sysctl fs.pipe-max-size={PIPE_BYTES_WANTED}"),
        ),
        Err(_) => warn("log pipes", "their size is unknown", "mount /proc"),
    }
}

fn files() -> Finding {
    match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((_, hard)) if hard >= FILES_WANTED => {
            ok("open files", format!("{hard} at most; a connection through a balancer takes two"))
        }
        Ok((_, hard)) => warn(
            "open files",
            format!("{hard} at most: enough for about {} services", hard / 8),
            format!("raise the hard limit to {FILES_WANTED} or more (LimitNOFILE= of the unit)"),
        ),
        Err(error) => warn("open files", format!("the limit is unknown: {error}"), "nothing, if the rest is well"),
    }
}

fn clock() -> Finding {
    if sys::clock::clocks().synchronised {
        return ok("clock", "synchronised");
    }
    warn("clock", "not synchronised: times in the journal may be wrong", "run chrony or systemd-timesyncd")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_and_mounts_are_found() {
        assert_eq!(version("6.1.0-18-amd64"), Some((6, 1)));
        assert_eq!(version("5.14"), Some((5, 14)));
        assert_eq!(version("6.15-rc1+"), Some((6, 15)));
        assert_eq!(version("unknown"), None);
        let mountinfo = "29 23 0:26 / /sys/fs/cgroup ro - tmpfs tmpfs ro\n30 29 0:27 / /sys/fs/cgroup/unified rw,nosuid - cgroup2 cgroup2 rw\n";
        assert_eq!(cgroup2_mount(mountinfo), Some(PathBuf::from("/sys/fs/cgroup/unified")));
        assert_eq!(cgroup2_mount(""), None);
    }
}
