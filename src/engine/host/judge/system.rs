//! Memory, pressure and the tables of the kernel; the clock.

use serde::{Deserialize, Serialize};

use super::super::condition::Verdict;
use super::super::kind::CheckKind;
use super::super::sample::{Pressure, System};
use super::super::words::{bytes, percent, permille, several, signed};
use super::super::{Health, tally};
use super::Bench;
use crate::engine::types::human;
use std::time::Duration;

/// A host that has just booted may look for its time for a while.
const CLOCK_AFTER_UPTIME_MS: u64 = 17 * 60_000;
/// A step of the clock that is worth a word.
const CLOCK_STEP_MS: u64 = 1_000;
const PAGE_BYTES: u64 = 4_096;

/// What is remembered of /proc.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::engine::host) struct SystemSeen {
    oom_kills: Option<u64>,
    /// The latest line of the kernel about it.
    pub(super) oom_text: Option<String>,
    pub(super) hung_tasks: Option<u64>,
    pub(super) oopses: Option<u64>,
}

impl Bench<'_> {
    pub(super) fn system(&mut self, system: &System) {
        self.memory(system);
        self.pressures(system);
        self.tables(system);
        self.clock(system);
        self.out_of_memory(system.oom_kills);
        self.kernel_state(system);
        self.machine_checks((0, 0), None);
    }

    fn memory(&mut self, system: &System) {
        let (total, available) = (system.memory_total_bytes, system.memory_available_bytes);
        let used = permille(total.saturating_sub(available), total);
        let text = format!("{} used, {} of {} available", percent(used), bytes(available), bytes(total));
        self.measure(CheckKind::Memory, "", used, text);

        let (total, free) = (system.swap_total_bytes, system.swap_free_bytes);
        if total == 0 {
            self.absent(CheckKind::Swap, "", "no swap is configured");
        } else {
            let used = permille(total.saturating_sub(free), total);
            let text = format!("{} used, {} of {} free", percent(used), bytes(free), bytes(total));
            self.measure(CheckKind::Swap, "", used, text);
        }
        match system.memory_poisoned_bytes {
            None => self.absent(CheckKind::MemoryPoison, "", "no HardwareCorrupted in /proc/meminfo"),
            Some(poisoned) => {
                let text = format!("the kernel has given up {} of broken memory", bytes(poisoned));
                self.measure(CheckKind::MemoryPoison, "", signed(poisoned.div_ceil(PAGE_BYTES)), text);
            }
        }
    }

    fn pressures(&mut self, system: &System) {
        let full = |pressure: Pressure| pressure.full_avg10;
        let some = |pressure: Pressure| Some(pressure.some_avg60);
        let all = [
            (CheckKind::PressureMemory, system.pressure_memory.and_then(full), "all tasks waited for memory", "10 s"),
            (CheckKind::PressureCpu, system.pressure_cpu.and_then(some), "tasks waited for a CPU", "minute"),
            (CheckKind::PressureIo, system.pressure_io.and_then(some), "tasks waited for I/O", "minute"),
        ];
        for (kind, hundredths, what, span) in all {
            match hundredths {
                None => self.absent(kind, "", "no /proc/pressure: boot with psi=1"),
                Some(hundredths) => {
                    let share = i64::from(hundredths / 10);
                    self.measure(kind, "", share, format!("{what} for {} of the last {span}", percent(share)));
                }
            }
        }
    }

    fn tables(&mut self, system: &System) {
        let blocked = system.blocked_tasks;
        let text = format!("{blocked} tasks in uninterruptible sleep");
        self.measure(CheckKind::BlockedTasks, "", i64::from(blocked), text);
        let mut table = |kind, used: u64, max: u64, what: &str| {
            let share = permille(used, max);
            self.measure(kind, "", share, format!("{} used, {used} {what} of {max}", percent(share)));
        };
        table(CheckKind::Files, system.files_open, system.files_max, "open files");
        table(CheckKind::Pids, u64::from(system.tasks), u64::from(system.tasks_max), "tasks");
        match system.conntrack {
            Some((used, max)) => table(CheckKind::Conntrack, u64::from(used), u64::from(max), "connections"),
            None => self.absent(CheckKind::Conntrack, "", "connections are not tracked"),
        }
    }

    fn clock(&mut self, system: &System) {
        let error_ms = signed(system.clock_error_us / 1_000);
        let may_err = human(Duration::from_micros(system.clock_error_us));
        if system.clock_synchronised || system.uptime_ms < CLOCK_AFTER_UPTIME_MS {
            let word = if system.clock_synchronised { "synchronised" } else { "the host has just booted" };
            let text = format!("{word}, wrong by {may_err} at most");
            if self.check(CheckKind::Clock, "").is_some() {
                self.say(CheckKind::Clock, "", Verdict::plain(Health::Ok, Some(error_ms), text));
            }
            return;
        }
        self.measure(CheckKind::Clock, "", error_ms, format!("not synchronised, may be wrong by {may_err}"));
    }

    pub(super) fn clock_set(&mut self, by_ms: i64) {
        let by = by_ms.unsigned_abs();
        if by > CLOCK_STEP_MS {
            let way = if by_ms < 0 { "back" } else { "forward" };
            self.happened(format!("the wall clock was set {way} by {}", human(Duration::from_millis(by))));
        }
    }

    /// An event and no state: what was killed is told by the services' own groups.
    fn out_of_memory(&mut self, kills: Option<u64>) {
        let Some(kills) = kills else {
            return;
        };
        let before = self.seen.system.oom_kills.replace(kills);
        let Some(more) = before.and_then(|before| tally::grown(before, kills)).filter(|more| *more > 0) else {
            return;
        };
        let line = self.seen.system.oom_text.take().map(|text| format!(": {text}")).unwrap_or_default();
        self.happened(format!("the kernel killed {} for want of memory{line}", several(more, "process", "processes")));
    }

    /// A line of the kernel says so; where it also counts, the counter tells it.
    pub(super) fn out_of_memory_line(&mut self, text: String) {
        if self.seen.system.oom_kills.is_some() {
            self.seen.system.oom_text = Some(text);
        } else {
            self.happened(format!("out of memory: {text}"));
        }
    }
}
