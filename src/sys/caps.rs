//! Capabilities by name and number (capabilities(7)).

use std::fs;
use std::io;

/// In the order of their numbers.
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// The number of a capability written `NET_BIND_SERVICE` or `CAP_NET_BIND_SERVICE`.
#[must_use]
pub fn number(name: &str) -> Option<u8> {
    let bare = name.strip_prefix("CAP_").unwrap_or(name);
    NAMES.iter().position(|known| *known == bare).and_then(|number| u8::try_from(number).ok())
}

/// The name without `CAP_`.
#[must_use]
pub fn name(number: u8) -> Option<&'static str> {
    NAMES.get(usize::from(number)).copied()
}

/// The capabilities that this process may hand on: the permitted set of /proc/self/status, bit N is number N.
pub fn permitted() -> io::Result<u64> {
    set_of("self", "CapPrm")
}

/// The capabilities that a process has in effect.
pub fn effective(pid: u32) -> io::Result<u64> {
    set_of(&pid.to_string(), "CapEff")
}

/// Whether a set has the capability of this name.
#[must_use]
pub fn has(set: u64, name: &str) -> bool {
    number(name).is_some_and(|number| set >> number & 1 == 1)
}

fn set_of(process: &str, which: &str) -> io::Result<u64> {
    let path = format!("/proc/{process}/status");
    let status = fs::read_to_string(&path)?;
    let set = status.lines().find_map(|line| line.strip_prefix(which)?.strip_prefix(':'));
    let set = set.and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok());
    set.ok_or_else(|| io::Error::other(format!("{path} has no {which}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_match() {
        assert_eq!(number("NET_BIND_SERVICE"), Some(10));
        assert_eq!(number("CAP_CHECKPOINT_RESTORE"), Some(40));
        assert_eq!(number("SYSADMIN"), None);
        assert!(has(1 << 21, "SYS_ADMIN") && !has(1 << 20, "SYS_ADMIN") && !has(u64::MAX, "SYSADMIN"));
        assert_eq!(name(21), Some("SYS_ADMIN"));
        assert_eq!(name(41), None);
    }
}
