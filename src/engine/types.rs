//! Small value types of the engine: time, identities, outcomes. They are plain data: they can be written to a file,
//! compared in a test and replayed.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A point on one of the kernel's clocks, in nanoseconds since that clock's zero. Never compared across clocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Time(pub u64);

impl Time {
    /// The time `later` after this one; saturates at the end of the clock.
    #[must_use]
    pub fn after(self, later: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(later.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// How long after `earlier` this is; zero when it is before.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// The four readings that every step is given. Timeouts, back-off and budgets go by `mono` (suspend does not count);
/// periods and hold times by `boot`; whatever is shown to people or stored beyond a boot by `wall`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Now {
    /// CLOCK_MONOTONIC.
    pub mono: Time,
    /// CLOCK_BOOTTIME.
    pub boot: Time,
    /// CLOCK_REALTIME, nanoseconds since 1970.
    pub wall: Time,
    /// Whether the kernel says that the wall clock is disciplined (adjtimex without STA_UNSYNC).
    pub wall_synchronised: bool,
}

/// A service, for as long as the engine knows its name; stable over a reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ServiceId(pub u32);

/// One instance of a service: what has at most one process tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ReplicaId {
    pub service: ServiceId,
    pub index: u16,
}

/// The generation of a replica's process: 1 for its first spawn, never reused, kept over the agent's death.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RunId(pub u32);

/// A verb that waits for its answer; given by the shell, returned in `Action::Answer`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RequestId(pub u64);

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exit {
    Code(i32),
    Signal {
        signal: i32,
        core: bool,
    },
    /// The process was not our child and the kernel could not tell (before 6.15), or it died while no agent lived.
    Unknown,
}

impl fmt::Display for Exit {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(out, "exited with code {code}"),
            Self::Signal { signal, core } => {
                write!(out, "killed by {}", signal_name(*signal))?;
                if *core { write!(out, " (core dumped)") } else { Ok(()) }
            }
            Self::Unknown => write!(out, "ended, exit status unknown"),
        }
    }
}

/// `SIGTERM` for 15; `signal 34` for one without a name. Numbers are those of Linux on x86-64 and arm64 (signal(7)).
#[must_use]
pub fn signal_name(signal: i32) -> String {
    match SIGNALS.iter().find(|(number, _)| *number == signal) {
        Some((_, name)) => format!("SIG{name}"),
        None => format!("signal {signal}"),
    }
}

/// The number of a signal written `TERM`, `SIGTERM` or `15`; `None` when there is no such signal.
#[must_use]
pub fn signal_number(text: &str) -> Option<i32> {
    let bare = text.strip_prefix("SIG").unwrap_or(text);
    if let Some((number, _)) = SIGNALS.iter().find(|(_, name)| *name == bare) {
        return Some(*number);
    }
    bare.parse().ok().filter(|number| (1..=64).contains(number))
}

pub const SIGKILL: i32 = 9;
pub const SIGTERM: i32 = 15;
pub const SIGABRT: i32 = 6;

const SIGNALS: [(i32, &str); 30] = [
    (1, "HUP"),
    (2, "INT"),
    (3, "QUIT"),
    (4, "ILL"),
    (5, "TRAP"),
    (6, "ABRT"),
    (7, "BUS"),
    (8, "FPE"),
    (9, "KILL"),
    (10, "USR1"),
    (11, "SEGV"),
    (12, "USR2"),
    (13, "PIPE"),
    (14, "ALRM"),
    (15, "TERM"),
    (16, "STKFLT"),
    (17, "CHLD"),
    (18, "CONT"),
    (19, "STOP"),
    (20, "TSTP"),
    (21, "TTIN"),
    (22, "TTOU"),
    (23, "URG"),
    (24, "XCPU"),
    (25, "XFSZ"),
    (26, "VTALRM"),
    (27, "PROF"),
    (28, "WINCH"),
    (30, "PWR"),
    (31, "SYS"),
];

/// The states a user sees (interface, section 4), as words of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StateName {
    Waiting,
    Starting,
    Ready,
    Degraded,
    Stopping,
    Backoff,
    Done,
    Stopped,
    Failed,
    Stuck,
    Adopting,
}

impl StateName {
    pub const ALL: [Self; 11] = [
        Self::Waiting,
        Self::Starting,
        Self::Ready,
        Self::Degraded,
        Self::Stopping,
        Self::Backoff,
        Self::Done,
        Self::Stopped,
        Self::Failed,
        Self::Stuck,
        Self::Adopting,
    ];

    /// The word of the API.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Degraded => "degraded",
            Self::Stopping => "stopping",
            Self::Backoff => "backoff",
            Self::Done => "done",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
            Self::Stuck => "stuck",
            Self::Adopting => "adopting",
        }
    }
}

impl fmt::Display for StateName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(self.word())
    }
}

/// A duration as people write it: `850ms`, `3s`, `1m 30s`, `2h`; at most two units. The inverse of the configuration's syntax.
#[must_use]
pub fn human(duration: Duration) -> String {
    let ms = duration.as_millis();
    if ms < 1_000 {
        return format!("{ms}ms");
    }
    if ms < 10_000 && ms % 1_000 >= 100 {
        return format!("{}.{}s", ms / 1_000, ms % 1_000 / 100);
    }
    let seconds = ms / 1_000;
    let (big, small) = match seconds {
        0..60 => return format!("{seconds}s"),
        60..3_600 => ((seconds / 60, "m"), (seconds % 60, "s")),
        3_600..86_400 => ((seconds / 3_600, "h"), (seconds % 3_600 / 60, "m")),
        _ => ((seconds / 86_400, "d"), (seconds % 86_400 / 3_600, "h")),
    };
    if small.0 == 0 { format!("{}{}", big.0, big.1) } else { format!("{}{} {}{}", big.0, big.1, small.0, small.1) }
}
