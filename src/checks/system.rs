//! The host as a whole: memory, pressure, load, files, tasks, clock and what the kernel complains about.

use std::path::Path;

use super::reading::{Buffer, Kept};
use crate::engine::host::sample::{Pressure, System};
use crate::sys::clock;

/// Its files, kept open.
#[derive(Debug)]
pub(super) struct SystemReader {
    buffer: Buffer,
    memory: Kept,
    pressure_memory: Kept,
    pressure_cpu: Kept,
    pressure_io: Kept,
    load: Kept,
    stat: Kept,
    cpus_online: Kept,
    files: Kept,
    pids_max: Kept,
    threads_max: Kept,
    conntrack_count: Kept,
    conntrack_max: Kept,
    vmstat: Kept,
    uptime: Kept,
    tainted: Kept,
    oopses: Kept,
    hung_tasks: Kept,
}

impl SystemReader {
    /// The sentence says why this host cannot tell.
    pub(super) fn new(root: &Path) -> Result<Self, String> {
        let at = |path: &str| Kept::new(root.join(path));
        let reader = Self {
            buffer: Buffer::new(),
            memory: at("proc/meminfo"),
            pressure_memory: at("proc/pressure/memory"),
            pressure_cpu: at("proc/pressure/cpu"),
            pressure_io: at("proc/pressure/io"),
            load: at("proc/loadavg"),
            stat: at("proc/stat"),
            cpus_online: at("sys/devices/system/cpu/online"),
            files: at("proc/sys/fs/file-nr"),
            pids_max: at("proc/sys/kernel/pid_max"),
            threads_max: at("proc/sys/kernel/threads-max"),
            conntrack_count: at("proc/sys/net/netfilter/nf_conntrack_count"),
            conntrack_max: at("proc/sys/net/netfilter/nf_conntrack_max"),
            vmstat: at("proc/vmstat"),
            uptime: at("proc/uptime"),
            tainted: at("proc/sys/kernel/tainted"),
            oopses: at("sys/kernel/oops_count"),
            hung_tasks: at("proc/sys/kernel/hung_task_detect_count"),
        };
        match reader.memory.is_there() {
            true => Ok(reader),
            false => Err("no /proc/meminfo: mount /proc".to_owned()),
        }
    }

    pub(super) fn read(&mut self) -> System {
        let mut system = System::default();
        self.read_usage(&mut system);
        let buffer = &mut self.buffer;
        let mut pressure = |file: &mut Kept| file.value(buffer).and_then(parse_pressure);
        system.pressure_memory = pressure(&mut self.pressure_memory);
        system.pressure_cpu = pressure(&mut self.pressure_cpu);
        system.pressure_io = pressure(&mut self.pressure_io);
        if let Some((open, most)) = self.files.value(buffer).and_then(parse_files) {
            (system.files_open, system.files_max) = (open, most);
        }
        let mut number = |file: &mut Kept| file.number(buffer);
        system.tasks_max =
            [number(&mut self.pids_max), number(&mut self.threads_max)].into_iter().flatten().min().map_or(0, narrow);
        system.conntrack =
            number(&mut self.conntrack_count).map(narrow).zip(number(&mut self.conntrack_max).map(narrow));
        system.tainted = number(&mut self.tainted);
        system.oopses = number(&mut self.oopses);
        system.hung_tasks = number(&mut self.hung_tasks);
        system.uptime_ms = self.uptime.value(buffer).and_then(parse_uptime).unwrap_or_default();
        if let Some(discipline) = clock::discipline() {
            (system.clock_synchronised, system.clock_error_us) = (discipline.synchronised, discipline.error_us);
        }
        system
    }

    fn read_usage(&mut self, system: &mut System) {
        let buffer = &mut self.buffer;
        if let Some(text) = self.memory.table_until(buffer, |_| true) {
            parse_memory(text, system);
        }
        if let Some(text) = self.load.value(buffer) {
            parse_load(text, system);
        }
        // The kernel makes all of it at once, but the counts of interrupts can be long to copy.
        if let Some(text) = self.stat.table_until(buffer, has_blocked) {
            parse_stat(text, system);
        }
        system.cpus = self.cpus_online.value(buffer).map_or(0, count_cpus);
        system.oom_kills = self.vmstat.table(buffer).and_then(|text| value_of(text, "oom_kill "));
    }
}

const BLOCKED: &str = "\nprocs_blocked ";
/// More than one reading brings, and a line of it.
const BLOCKED_WITHIN_BYTES: usize = 2 * 4096;

/// Whether the line of the blocked tasks has come to its end.
fn has_blocked(bytes: &[u8]) -> bool {
    // What came before the last reading was looked at then.
    let bytes = &bytes[bytes.len().saturating_sub(BLOCKED_WITHIN_BYTES)..];
    let Some(at) = bytes.windows(BLOCKED.len()).rposition(|window| window == BLOCKED.as_bytes()) else { return false };
    bytes[at + BLOCKED.len()..].contains(&b'\n')
}

/// A count of tasks or connections never nears the limit of what holds it.
fn narrow(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

fn value_of(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name))?.trim_ascii().parse().ok()
}

fn parse_memory(text: &str, system: &mut System) {
    for line in text.lines() {
        let Some((name, rest)) = line.split_once(':') else { continue };
        let kibibytes = || rest.trim_ascii().trim_end_matches(" kB").parse::<u64>().ok();
        let bytes = || kibibytes().map(|kibibytes| kibibytes.saturating_mul(1024));
        match name {
            "MemTotal" => system.memory_total_bytes = bytes().unwrap_or_default(),
            "MemAvailable" => system.memory_available_bytes = bytes().unwrap_or_default(),
            "SwapTotal" => system.swap_total_bytes = bytes().unwrap_or_default(),
            "SwapFree" => system.swap_free_bytes = bytes().unwrap_or_default(),
            "HardwareCorrupted" => system.memory_poisoned_bytes = bytes(),
            _ => {}
        }
    }
}

/// `some avg10=0.00 avg60=1.23 avg300=0.00 total=17` and, mostly, the same of `full`.
pub(super) fn parse_pressure(text: &str) -> Option<Pressure> {
    let mut pressure = Pressure::default();
    let mut some = false;
    for line in text.lines() {
        let (kind, rest) = line.split_once(' ')?;
        let field =
            |name: &str| rest.split_ascii_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
        let (avg10, avg60) = (field("avg10").and_then(hundredths)?, field("avg60").and_then(hundredths)?);
        match kind {
            "some" => {
                some = true;
                (pressure.some_avg10, pressure.some_avg60) = (avg10, avg60);
                pressure.some_total_us = field("total")?.parse().ok()?;
            }
            "full" => (pressure.full_avg10, pressure.full_avg60) = (Some(avg10), Some(avg60)),
            _ => {}
        }
    }
    some.then_some(pressure)
}

/// `12.34` is 1234.
fn hundredths(text: &str) -> Option<u32> {
    let (whole, part) = text.split_once('.')?;
    if part.len() != 2 {
        return None;
    }
    whole.parse::<u32>().ok()?.checked_mul(100)?.checked_add(part.parse().ok()?)
}

/// `0.00 0.01 0.05 2/512 12345`: the load, and the tasks that there are.
fn parse_load(text: &str, system: &mut System) {
    let mut words = text.split_ascii_whitespace();
    for load in &mut system.load_permille {
        *load = words.next().and_then(hundredths).unwrap_or_default().saturating_mul(10);
    }
    let tasks = words.next().and_then(|word| word.split_once('/')).and_then(|(_, all)| all.parse().ok());
    system.tasks = tasks.unwrap_or_default();
}

/// `cpu  user nice system idle iowait irq softirq steal guest guest_nice`, where guests are part of user and nice.
fn parse_stat(text: &str, system: &mut System) {
    if let Some(rest) = text.strip_prefix("cpu ") {
        let line = rest.lines().next().unwrap_or_default();
        for (index, ticks) in line.split_ascii_whitespace().take(8).enumerate() {
            let ticks = ticks.parse::<u64>().unwrap_or_default();
            system.cpu_ticks = system.cpu_ticks.saturating_add(ticks);
            if index == 3 || index == 4 {
                system.cpu_idle_ticks = system.cpu_idle_ticks.saturating_add(ticks);
            }
        }
    }
    let blocked = text.rfind(BLOCKED).and_then(|at| value_of(&text[at + 1..], &BLOCKED[1..]));
    system.blocked_tasks = blocked.map_or(0, narrow);
}

/// `0-3,8`
fn count_cpus(text: &str) -> u32 {
    let count = |range: &str| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last) = (first.parse::<u32>().ok()?, last.parse::<u32>().ok()?);
        last.checked_sub(first)?.checked_add(1)
    };
    text.trim_ascii().split(',').filter_map(count).fold(0, u32::saturating_add)
}

/// `open 0 max`
fn parse_files(text: &str) -> Option<(u64, u64)> {
    let mut words = text.split_ascii_whitespace();
    let open = words.next()?.parse().ok()?;
    Some((open, words.nth(1)?.parse().ok()?))
}

/// `12345.67 54321.00`
fn parse_uptime(text: &str) -> Option<u64> {
    let (seconds, part) = text.split_ascii_whitespace().next()?.split_once('.')?;
    let hundredths = part.parse::<u64>().ok().filter(|_| part.len() == 2)?;
    seconds.parse::<u64>().ok()?.checked_mul(1000)?.checked_add(hundredths * 10)
}

#[cfg(test)]
mod tests {
    use super::super::reading::testing::{garbage, put, root};
    use super::*;

    const MEMINFO: &str = "MemTotal:       24684092 kB\nMemFree:        20000000 kB\nMemAvailable:   22000000 kB\n\
        SwapTotal:       1048576 kB\nSwapFree:        1048000 kB\nHardwareCorrupted:     4 kB\nDirectMap4k:  1 kB\n";
    const STAT: &str = "cpu  100 20 30 4000 50 6 7 8 9 10\ncpu0 100 20 30 4000 50 6 7 8 9 10\nintr 99 1 2 3\n\
        ctxt 12\nbtime 1700000000\nprocesses 33\nprocs_running 2\nprocs_blocked 5\nsoftirq 1 2 3\n";
    const PRESSURE: &str = "some avg10=12.34 avg60=1.05 avg300=0.10 total=123456\n\
        full avg10=2.00 avg60=0.07 avg300=0.00 total=3456\n";

    fn host() -> super::super::reading::testing::TempDir {
        root(&[
            ("proc/meminfo", MEMINFO),
            ("proc/stat", STAT),
            ("proc/loadavg", "0.52 1.58 12.59 3/612 4242\n"),
            ("proc/pressure/memory", PRESSURE),
            ("proc/pressure/cpu", "some avg10=0.00 avg60=0.00 avg300=0.00 total=9\n"),
            ("proc/sys/fs/file-nr", "1952\t0\t9223372036854775807\n"),
            ("proc/sys/kernel/pid_max", "4194304\n"),
            ("proc/sys/kernel/threads-max", "192000\n"),
            ("proc/sys/kernel/tainted", "4609\n"),
            ("proc/sys/net/netfilter/nf_conntrack_count", "17\n"),
            ("proc/sys/net/netfilter/nf_conntrack_max", "65536\n"),
            ("proc/vmstat", "nr_free_pages 1\noom_kill 3\noom_kill_other 9\n"),
            ("proc/uptime", "20349.05 39876.20\n"),
            ("sys/devices/system/cpu/online", "0-3,8\n"),
            ("sys/kernel/oops_count", "0\n"),
        ])
    }

    #[test]
    fn numbers_of_a_host_are_read() {
        let root = host();
        let system = SystemReader::new(root.path()).unwrap().read();
        let kernel = clock::discipline().unwrap();
        assert_eq!(
            system,
            System {
                memory_total_bytes: 24_684_092 << 10,
                memory_available_bytes: 22_000_000 << 10,
                swap_total_bytes: 1 << 30,
                swap_free_bytes: 1_048_000 << 10,
                memory_poisoned_bytes: Some(4096),
                pressure_memory: Some(Pressure {
                    some_avg10: 1234,
                    some_avg60: 105,
                    some_total_us: 123_456,
                    full_avg10: Some(200),
                    full_avg60: Some(7),
                }),
                pressure_cpu: Some(Pressure { some_total_us: 9, ..Pressure::default() }),
                pressure_io: None,
                load_permille: [520, 1580, 12_590],
                cpus: 5,
                cpu_ticks: 4221,
                cpu_idle_ticks: 4050,
                blocked_tasks: 5,
                files_open: 1952,
                files_max: i64::MAX.unsigned_abs(),
                tasks: 612,
                tasks_max: 192_000,
                conntrack: Some((17, 65_536)),
                oom_kills: Some(3),
                clock_synchronised: kernel.synchronised,
                clock_error_us: system.clock_error_us,
                uptime_ms: 20_349_050,
                tainted: Some(4609),
                oopses: Some(0),
                hung_tasks: None,
            }
        );
    }

    #[test]
    fn interrupts_of_a_large_host_do_not_hide_the_blocked_tasks() {
        let root = host();
        put(root.path(), "proc/stat", STAT.replace("intr 99", &format!("intr 99{}", " 1234567".repeat(20_000))));
        assert_eq!(SystemReader::new(root.path()).unwrap().read().blocked_tasks, 5);
    }

    #[test]
    fn host_without_proc_cannot_tell() {
        let root = root(&[]);
        assert_eq!(SystemReader::new(root.path()).unwrap_err(), "no /proc/meminfo: mount /proc");
    }

    #[test]
    fn garbage_is_read_without_a_panic() {
        let root = host();
        let files = ["proc/meminfo", "proc/stat", "proc/loadavg", "proc/pressure/memory", "proc/vmstat", "proc/uptime"];
        let rest = ["sys/devices/system/cpu/online", "proc/sys/fs/file-nr", "proc/sys/kernel/pid_max"];
        let pieces = [MEMINFO, STAT, PRESSURE, "0.52 1.58 12.59 3/612 4242", "0-3,8", "4294967295-0", "1.5 9.99"];
        let mut reader = SystemReader::new(root.path()).unwrap();
        for seed in 0..300 {
            for (salt, file) in (0..).zip(files.iter().chain(&rest)) {
                put(root.path(), file, garbage(seed * 16 + salt, &pieces));
            }
            reader.read();
        }
    }

    #[test]
    fn this_host_is_read() {
        let system = SystemReader::new(Path::new("/")).unwrap().read();
        assert!(system.memory_total_bytes > 0 && system.cpus > 0 && system.tasks > 0 && system.tasks_max > 0);
        assert!(system.cpu_ticks > system.cpu_idle_ticks && system.uptime_ms > 0 && system.files_open > 0);
    }
}
