//! What limits and walls this host can give, and what of those that services ask for is not in force.

use super::{Finding, ok, warn};
use crate::api::proto::Service;
use crate::sys::controllers::{self, Found, Place};
use crate::sys::group::Choice;
use crate::sys::landlock;

/// The ABI from which on shortening a file is refused too.
const LANDLOCK_TRUNCATE: u32 = 3;

/// Looked at from here.
pub(super) fn findings() -> Vec<Finding> {
    let choice = Choice::Auto { name: "mainstay".to_owned() };
    let mut findings: Vec<Finding> = controllers::survey(&choice).iter().map(limit).collect();
    findings.push(walls(landlock::abi()));
    findings
}

fn limit(found: &Found) -> Finding {
    let controller = found.controller;
    let keys = match controller {
        "cpu" => "cpu_max, cpu_weight",
        "memory" => "memory_max",
        "pids" => "pids_max",
        _ => "io_max, io_weight",
    };
    match &found.place {
        Place::V2 => ok("controller", format!("{controller} ({keys}) in cgroup version 2")),
        Place::V1(path) => ok("controller", format!("{controller} ({keys}) in cgroup version 1, {}", path.display())),
        Place::Absent(why) => {
            let remedy =
                format!("without it, leave {keys} out of `resources`; docs/fencing.md has what each host can do");
            warn("controller", format!("{controller} ({keys}) cannot be had: {why}"), remedy)
        }
    }
}

fn walls(abi: Option<u32>) -> Finding {
    match abi {
        Some(abi) if abi >= LANDLOCK_TRUNCATE => ok("landlock", format!("can_read and can_write: ABI {abi}")),
        Some(abi) => warn(
            "landlock",
            format!("ABI {abi}: behind a wall files can still be shortened to nothing"),
            "boot Linux 6.2 or later, if that matters",
        ),
        None => warn(
            "landlock",
            "none: a service with can_read or can_write does not start",
            "boot a kernel with CONFIG_SECURITY_LANDLOCK and landlock in lsm=",
        ),
    }
}

/// As the agent tells it of its services.
pub(super) fn refused(services: &[Service]) -> Vec<Finding> {
    let of = |service: &Service| {
        let refused =
            service.replicas.iter().filter_map(|replica| replica.limits.as_ref()).flat_map(|limits| &limits.refused);
        let mut texts: Vec<String> = refused.map(|text| format!("{}: not in force: {text}", service.name)).collect();
        texts.sort();
        texts.dedup();
        texts
    };
    let texts = services.iter().flat_map(of);
    texts.map(|text| warn("resources", text, "see the limits above, or remove it from the service")).collect()
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;
    use crate::api::fences::Limits;
    use crate::api::render;
    use crate::api::route::Roles;
    use crate::api::testing::{World, stamp, usage};

    #[test]
    fn each_controller_is_told_with_the_keys_that_need_it() {
        let told = |controller, place| limit(&Found { controller, place });
        assert_eq!(told("cpu", Place::V2).text, "cpu (cpu_max, cpu_weight) in cgroup version 2");
        assert_eq!(
            told("pids", Place::V1("/sys/fs/cgroup/pids/mainstay".into())).text,
            "pids (pids_max) in cgroup version 1, /sys/fs/cgroup/pids/mainstay"
        );
        let absent = told("io", Place::Absent("nobody offers it".to_owned()));
        assert_eq!(absent.text, "io (io_max, io_weight) cannot be had: nobody offers it");
        assert!(absent.verdict == Verdict::Warn && absent.remedy.is_some());
        assert_eq!([Some(4), Some(1), None].map(|abi| walls(abi).verdict), [Verdict::Ok, Verdict::Warn, Verdict::Warn]);
    }

    #[test]
    fn what_is_refused_is_told_once_for_all_replicas() {
        let mut services = render::services(&World::new().views(), Roles::Hidden, &usage, &stamp()).services;
        for replica in &mut services[0].replicas {
            replica.limits = Some(Limits {
                cpu_max_percent: Some(50.0),
                cpu_weight: None,
                memory_max_bytes: None,
                pids_max: None,
                io_weight: None,
                io_max: Vec::new(),
                refused: vec!["cpu_max: no controller".to_owned()],
            });
        }
        let found = refused(&services);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].text, "api: not in force: cpu_max: no controller");
    }
}
