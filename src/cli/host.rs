//! The host line of the summary: read here, where the command runs, since the sockets are of this host.

use std::fs;

use super::output::{human_ms, size};

/// `edge-7 up 3d 2h, load 0.10 0.20 0.30 (2 CPUs), memory 512.0M of 2.0G`; what cannot be read is left out.
pub(super) fn line() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    describe(
        &read("/proc/sys/kernel/hostname"),
        &read("/proc/uptime"),
        &read("/proc/loadavg"),
        &read("/proc/meminfo"),
        std::thread::available_parallelism().map_or(0, usize::from),
    )
}

fn describe(hostname: &str, uptime: &str, loadavg: &str, meminfo: &str, cpus: usize) -> String {
    let mut parts = Vec::new();
    let seconds = uptime.split('.').next().and_then(|text| text.parse::<u64>().ok());
    parts.extend(seconds.map(|seconds| format!("up {}", human_ms(seconds.saturating_mul(1_000)))));
    let loads: Vec<&str> = loadavg.split_whitespace().take(3).collect();
    if loads.len() == 3 {
        parts.push(format!("load {} ({cpus} CPUs)", loads.join(" ")));
    }
    if let (Some(total), Some(free)) = (kib(meminfo, "MemTotal:"), kib(meminfo, "MemAvailable:")) {
        parts.push(format!("memory {} of {}", size(total.saturating_sub(free) << 10), size(total << 10)));
    }
    let name = super::output::clean(hostname.trim());
    format!("{} {}", if name.is_empty() { "host" } else { &name }, parts.join(", "))
}

fn kib(meminfo: &str, field: &str) -> Option<u64> {
    let line = meminfo.lines().find(|line| line.starts_with(field))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_tells_what_the_kernel_tells() {
        let meminfo = "MemTotal:        2097152 kB\nMemFree:   1 kB\nMemAvailable:    1572864 kB\n";
        assert_eq!(
            describe("edge-7\n", "266400.12 1.0\n", "0.10 0.20 0.30 1/100 4711\n", meminfo, 2),
            "edge-7 up 3d 2h, load 0.10 0.20 0.30 (2 CPUs), memory 512.0M of 2.0G"
        );
        assert_eq!(describe("", "", "", "", 1), "host ");
    }
}
