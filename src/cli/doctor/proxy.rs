//! The proxy role as it runs: who it is, and how many connections it may hold.

use std::fs;

use super::{Finding, ok, warn};
use crate::api::proto::Service;
use crate::sys;

/// Two descriptors a connection; some are its own.
const OWN_DESCRIPTORS: u64 = 64;
/// The longest queue that a listener of ours asks for and the kernel's default since 5.4.
const BACKLOG_WANTED: u64 = 4_096;

/// About the role, if it runs.
pub(super) fn findings(role: &Service) -> Vec<Finding> {
    let Some(pid) = role.replicas.first().and_then(|replica| replica.pid) else { return Vec::new() };
    let file = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
    let somaxconn = fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap_or_default();
    [user(&file("status")), connections(&file("limits")), backlog(&somaxconn)].into_iter().flatten().collect()
}

fn user(status: &str) -> Option<Finding> {
    let uid: u32 = numbers(status, "Uid:")?.first()?.parse().ok()?;
    let groups = numbers(status, "Groups:").unwrap_or_default().join(" ");
    if uid == 0 {
        let remedy = "useradd --system mainstay-proxy, then `mainstay restart @proxy`";
        return Some(warn("proxy user", "the proxy runs as root", remedy));
    }
    let name =
        sys::users::user(&uid.to_string()).ok().flatten().map_or_else(String::new, |user| format!(" ({})", user.name));
    let groups = if groups.is_empty() { "no groups".to_owned() } else { format!("groups {groups}") };
    Some(ok("proxy user", format!("uid {uid}{name}, {groups}")))
}

fn connections(limits: &str) -> Option<Finding> {
    let limit: u64 = numbers(limits, "Max open files")?.first()?.parse().ok()?;
    let connections = limit.saturating_sub(OWN_DESCRIPTORS) / 2;
    Some(ok("connections", format!("about {connections} at once through the proxy ({limit} open files)")))
}

fn backlog(somaxconn: &str) -> Option<Finding> {
    let length: u64 = somaxconn.trim().parse().ok()?;
    if length >= BACKLOG_WANTED {
        return None;
    }
    let text = format!("{length} connections at most wait while nobody accepts");
    Some(warn("backlog", text, format!("sysctl net.core.somaxconn={BACKLOG_WANTED}")))
}

/// The words behind this one, on its line.
fn numbers<'a>(text: &'a str, word: &str) -> Option<Vec<&'a str>> {
    text.lines().find_map(|line| line.strip_prefix(word)).map(|rest| rest.split_whitespace().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxy_is_told_by_what_the_kernel_says_of_it() {
        let status = "Name:\tmainstay\nUid:\t4242\t4242\t4242\t4242\nGid:\t4242\t4242\t4242\t4242\nGroups:\t33 998 \n";
        assert_eq!(user(status).unwrap().text, "uid 4242, groups 33 998");
        let root = user("Uid:\t0\t0\t0\t0\nGroups:\t\n").unwrap();
        assert!(root.remedy.is_some(), "{root:?}");
        let limits = "Limit                     Soft Limit           Hard Limit           Units\n\
                      Max open files            20064                20064                files\n";
        assert_eq!(connections(limits).unwrap().text, "about 10000 at once through the proxy (20064 open files)");
        assert_eq!((backlog("4096\n"), backlog("128\n").is_some()), (None, true));
        assert_eq!((user(""), connections("")), (None, None));
    }
}
