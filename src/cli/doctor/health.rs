//! What of the host cannot be checked, and how to get it: by the agent's own word where one runs, else by a look at the kernel.

use std::path::Path;

use super::{Finding, ok, warn};
use crate::api::checks::{Check, Checks};
use crate::api::client::{Access, Client};
use crate::cli::args::Invocation;
use crate::cli::ask;
use crate::engine::host::kind::CheckKind;

pub(super) fn findings(invocation: &Invocation) -> Vec<Finding> {
    let checks = ask::agent(invocation, Access::Read).ok().and_then(|client| checks(&client));
    let mut findings = match checks {
        Some(checks) => of_checks(&checks),
        None => of_host(Path::new("/")),
    };
    findings.push(watchdog(Path::new("/")));
    findings
}

/// An older agent knows none.
fn checks(client: &Client) -> Option<Vec<Check>> {
    client.get_json("/v1/checks").ok().map(|all: Checks| all.checks)
}

/// One line for each reason, with all that it keeps from being checked.
fn of_checks(checks: &[Check]) -> Vec<Finding> {
    let counted = checks.iter().filter(|check| check.state != "absent").count();
    let mut findings = vec![ok("checks", format!("{counted} checks of this host"))];
    let silent = checks.iter().filter(|check| check.state == "unknown").count();
    if silent > 0 {
        let remedy = "mainstay checks tells which, and mainstay status --roles whether who reads them is well";
        findings.push(warn("checks", format!("{silent} of them have no state yet, or no answer"), remedy));
    }
    let mut reasons: Vec<(&str, Vec<&Check>)> = Vec::new();
    for check in checks.iter().filter(|check| check.state == "absent") {
        let why = check.why.as_deref().unwrap_or("this host cannot tell");
        match reasons.iter_mut().find(|(known, _)| *known == why) {
            Some((_, names)) => names.push(check),
            None => reasons.push((why, vec![check])),
        }
    }
    for (why, absent) in reasons {
        let names: Vec<&str> = absent.iter().map(|check| check.name.as_str()).collect();
        let (reason, told) = why.split_once(": ").map_or((why, None), |(reason, told)| (reason, Some(told)));
        let text = |reason: &str| format!("not checked: {}: {reason}", names.join(", "));
        let known = absent.first().and_then(|check| CheckKind::by_word(&check.kind)).and_then(remedy);
        findings.push(match (known, told) {
            (Some(remedy), Some(told)) if !remedy.starts_with(told) => warn("checks", text(why), remedy),
            (Some(remedy), _) => warn("checks", text(reason), remedy),
            (None, _) => ok("checks", text(why)),
        });
    }
    findings
}

/// How to get what a kind of check needs; `None`: a host without it lacks nothing.
fn remedy(kind: CheckKind) -> Option<&'static str> {
    match kind {
        CheckKind::PressureMemory | CheckKind::PressureCpu | CheckKind::PressureIo => {
            Some("boot with psi=1 on the kernel's command line (CONFIG_PSI)")
        }
        CheckKind::Smart | CheckKind::DiskWear => {
            Some("run the agent as root with CAP_SYS_RAWIO and CAP_SYS_ADMIN; virtual disks have no SMART")
        }
        CheckKind::Temperature | CheckKind::Fan => {
            Some("load the hwmon module of the board: sensors-detect names it (coretemp, k10temp, nct6775 ..)")
        }
        CheckKind::Power => Some("load the driver of the power supply, and look into /sys/class/power_supply"),
        CheckKind::Ecc => Some("load the EDAC driver of the memory controller (only for memory with ECC)"),
        CheckKind::Pcie => Some("switch AER on in the firmware, and boot without pci=noaer"),
        CheckKind::Throttling => Some("CONFIG_X86_THERMAL_VECTOR; virtual machines do not tell"),
        CheckKind::MachineCheck | CheckKind::Kernel => Some("give the agent CAP_SYSLOG, so that it can read /dev/kmsg"),
        CheckKind::MemoryPoison => Some("CONFIG_MEMORY_FAILURE"),
        CheckKind::Filesystem => Some("run the agent as root: events and canaries of file systems need CAP_SYS_ADMIN"),
        CheckKind::DiskHung | CheckKind::DiskLatency | CheckKind::DiskErrors => Some("mount /sys"),
        CheckKind::DiskSpace
        | CheckKind::DiskInodes
        | CheckKind::DiskFill
        | CheckKind::Raid
        | CheckKind::Btrfs
        | CheckKind::NicLink
        | CheckKind::NicSpeed
        | CheckKind::NicErrors
        | CheckKind::NicDrops
        | CheckKind::Bond
        | CheckKind::Gateway
        | CheckKind::Memory
        | CheckKind::Swap
        | CheckKind::BlockedTasks
        | CheckKind::Files
        | CheckKind::Pids
        | CheckKind::Conntrack
        | CheckKind::Clock => None,
    }
}

/// Without an agent: what its checks would find.
fn of_host(root: &Path) -> Vec<Finding> {
    let has = |path: &str| root.join(path).exists();
    let holds = |path: &str| std::fs::read_dir(root.join(path)).is_ok_and(|mut entries| entries.next().is_some());
    let finding = |there: bool, object, yes: &str, no: &str, kind| match remedy(kind) {
        Some(remedy) if !there => warn(object, no, remedy),
        Some(_) | None => ok(object, if there { yes } else { no }),
    };
    vec![
        finding(
            has("proc/pressure/io"),
            "pressure",
            "the kernel tells of stalls",
            "no /proc/pressure: stalls for memory and I/O are not seen",
            CheckKind::PressureMemory,
        ),
        finding(
            holds("sys/class/hwmon") || holds("sys/class/thermal"),
            "sensors",
            "there are sensors",
            "no sensor in /sys/class/hwmon: temperatures are not seen",
            CheckKind::Temperature,
        ),
        finding(
            std::fs::File::open(root.join("dev/kmsg")).is_ok(),
            "kernel log",
            "can be read",
            "/dev/kmsg cannot be read: what the kernel says of disks and memory is not seen",
            CheckKind::Kernel,
        ),
    ]
}

fn watchdog(root: &Path) -> Finding {
    if root.join("dev/watchdog").exists() || root.join("dev/watchdog0").exists() {
        return ok("watchdog", "there is a hardware watchdog (used with agent: (watchdog: (..)))");
    }
    ok("watchdog", "no hardware watchdog: a host that hangs stays down (modprobe iTCO_wdt, sp5100_tco or softdog)")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::checks::checks;
    use crate::api::testing::{check_views, stamp};

    #[test]
    fn every_reason_is_told_once_with_its_remedy() {
        let mut all = checks(&check_views(), &stamp()).checks;
        let mut also = all[5].clone();
        "pressure_io".clone_into(&mut also.name);
        all.push(also);
        let mut swap = all[5].clone();
        (swap.name, swap.kind, swap.why) = ("swap".to_owned(), "swap".into(), Some("no swap".to_owned()));
        all.push(swap);
        expect_test::expect![[r#"
            ok    checks       5 checks of this host
            warn  checks       1 of them have no state yet, or no answer
                               -> mainstay checks tells which, and mainstay status --roles whether who reads them is well
            warn  checks       not checked: pressure_memory, pressure_io: no /proc/pressure
                               -> boot with psi=1 on the kernel's command line (CONFIG_PSI)
            ok    checks       not checked: swap: no swap
        "#]]
        .assert_eq(&super::super::tell(&of_checks(&all), &crate::cli::output::Look::plain()));
    }

    #[test]
    fn host_without_an_agent_is_looked_at() {
        let nothing = of_host(Path::new("/nosuch"));
        assert!(nothing.iter().all(|finding| finding.remedy.is_some()), "{nothing:?}");
        assert!(watchdog(Path::new("/nosuch")).text.starts_with("no hardware watchdog"));
    }
}
