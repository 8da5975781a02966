//! What the files of a tree's groups say of it. No path of a disk is touched, and nothing is asked of `/proc`: of a tree without a group little
//! is known, because the environment of a process that waits for its memory cannot be read without waiting too.

use std::fs;
use std::path::Path;

use super::controllers::Controller;
use super::group::{Group, groups_in, number_after};
use super::limits::Limited;

/// One reading. `None`: this host cannot tell. Counters are since the birth of the group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gauge {
    /// User and system time.
    pub cpu_usec: Option<u64>,
    /// Periods of its CPU limit in which it ran, and in how many of them it was stopped.
    pub cpu_periods: Option<u64>,
    pub cpu_throttled: Option<u64>,
    /// As the memory controller counts it. Never a sum over processes: that would count once for each what they share.
    pub memory_bytes: Option<u64>,
    /// Pages that the kernel looked at to take them back.
    pub pages_scanned: Option<u64>,
    /// How often it met its memory limit.
    pub memory_limit_met: Option<u64>,
    /// `full avg10` of its memory pressure, in hundredths of a percent.
    pub memory_full_avg10: Option<u32>,
    /// Processes and threads.
    pub pids: Option<u64>,
    /// Forks that its limit refused.
    pub pids_refused: Option<u64>,
    /// Every member stands still.
    pub frozen: Option<bool>,
}

/// Reads all that can be had of this tree without looking for its processes.
#[must_use]
pub fn read(group: &Group) -> Gauge {
    let v1 = |controller| group.limited().and_then(|limited| limited.v1_group(controller));
    let mut gauge = match group.path() {
        Some(path) => read_v2(path),
        None => Gauge::default(),
    };
    if let Some(path) = v1(Controller::Cpu) {
        let text = text(path, "cpu.stat");
        gauge.cpu_periods = number_after(&text, "nr_periods");
        gauge.cpu_throttled = number_after(&text, "nr_throttled");
    }
    if let Some(path) = v1(Controller::Memory) {
        gauge.memory_bytes = number(path, "memory.usage_in_bytes");
        // Some kernels (6.18) do not count how often the limit was met, but all count who was killed for it.
        let met = ["memory.failcnt", "memory.memsw.failcnt"].map(|file| number(path, file));
        let killed = group.limited().and_then(Limited::oom_kills);
        gauge.memory_limit_met = met.into_iter().chain([killed]).flatten().reduce(u64::saturating_add);
    }
    if let Some(path) = v1(Controller::Pids) {
        gauge.pids = number(path, "pids.current");
        gauge.pids_refused = number_after(&text(path, "pids.events"), "max");
    }
    if let Some(path) = group.path()
        && gauge.pids.is_none()
    {
        gauge.pids = threads_below(path);
    }
    gauge
}

fn read_v2(path: &Path) -> Gauge {
    let cpu = text(path, "cpu.stat");
    let events = text(path, "memory.events");
    let met = [number_after(&events, "high"), number_after(&events, "max")];
    Gauge {
        cpu_usec: number_after(&cpu, "usage_usec"),
        cpu_periods: number_after(&cpu, "nr_periods"),
        cpu_throttled: number_after(&cpu, "nr_throttled"),
        memory_bytes: number(path, "memory.current"),
        pages_scanned: number_after(&text(path, "memory.stat"), "pgscan"),
        memory_limit_met: met.into_iter().flatten().reduce(u64::saturating_add),
        memory_full_avg10: full_avg10(&text(path, "memory.pressure")),
        pids: number(path, "pids.current"),
        pids_refused: number_after(&text(path, "pids.events"), "max"),
        frozen: number_after(&text(path, "cgroup.events"), "frozen").map(|frozen| frozen == 1),
    }
}

/// Empty where there is none.
fn text(group: &Path, file: &str) -> String {
    fs::read_to_string(group.join(file)).unwrap_or_default()
}

fn number(group: &Path, file: &str) -> Option<u64> {
    text(group, file).trim().parse().ok()
}

/// `full avg10=12.34 avg60=..`, in hundredths.
fn full_avg10(pressure: &str) -> Option<u32> {
    let full = pressure.lines().find_map(|line| line.strip_prefix("full "))?;
    let (percent, hundredths) =
        full.split_ascii_whitespace().find_map(|word| word.strip_prefix("avg10="))?.split_once('.')?;
    percent.parse::<u32>().ok()?.checked_mul(100)?.checked_add(hundredths.parse().ok()?)
}

fn threads_below(path: &Path) -> Option<u64> {
    let own = fs::read_to_string(path.join("cgroup.threads")).ok()?.lines().count();
    let below = groups_in(path).unwrap_or_default();
    let below = below.iter().filter_map(|group| threads_below(group));
    Some(below.fold(u64::try_from(own).ok()?, u64::saturating_add))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::testing::{TempDir, eventually};

    #[test]
    fn nothing_is_known_of_a_tree_without_groups() {
        let mut child = std::process::Command::new("sleep").arg("60").env("MAINSTAY_RUN", "gauge").spawn().unwrap();
        let group = Group::weak("gauge".to_owned(), i32::try_from(child.id()).unwrap());
        eventually(|| group.processes().ok().filter(|pids| pids.len() == 1));
        assert_eq!(read(&group), Gauge::default());
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn files_of_a_group_are_read_and_what_is_missing_is_unknown() {
        let directory = TempDir::new();
        let path = directory.path();
        assert_eq!(read_v2(path), Gauge::default());
        let files = [
            ("cpu.stat", "usage_usec 70\nuser_usec 50\nnr_periods 9\nnr_throttled 4\nthrottled_usec 12\n"),
            ("memory.current", "8192\n"),
            ("memory.stat", "anon 4096\npgscan_kswapd 3\npgscan 17\n"),
            ("memory.events", "low 0\nhigh 5\nmax 6\noom 1\noom_kill 1\n"),
            ("memory.pressure", "some avg10=1.00 avg60=0.00 total=1\nfull avg10=40.07 avg60=0.00 total=1\n"),
            ("pids.current", "3\n"),
            ("pids.events", "max 2\n"),
            ("cgroup.events", "populated 1\nfrozen 1\n"),
        ];
        for (file, content) in files {
            fs::write(path.join(file), content).unwrap();
        }
        let expected = Gauge {
            cpu_usec: Some(70),
            cpu_periods: Some(9),
            cpu_throttled: Some(4),
            memory_bytes: Some(8_192),
            pages_scanned: Some(17),
            memory_limit_met: Some(11),
            memory_full_avg10: Some(4_007),
            pids: Some(3),
            pids_refused: Some(2),
            frozen: Some(true),
        };
        assert_eq!(read_v2(path), expected);
        for bent in ["full avg10=x.00", "full avg10=1", "some avg10=1.00", "full avg10=99999999999.00", ""] {
            assert_eq!(full_avg10(bent), None, "{bent}");
        }
    }
}
