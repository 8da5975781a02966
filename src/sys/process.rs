//! One process as /proc shows it.

use std::fs::{self, File};
use std::io::{self, Read};
use std::sync::OnceLock;

use nix::unistd::{SysconfVar, sysconf};

/// A process at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessInfo {
    pub pid: i32,
    /// At most 15 bytes, as the kernel keeps it.
    pub comm: String,
    /// `R`, `S`, `D`, `Z`, `T` ... (proc(5)).
    pub state: char,
    /// The kernel function it sleeps in; empty when it does not, or when the kernel does not tell us.
    pub wchan: String,
    pub ppid: i32,
    pub session: i32,
    pub start_ticks: u64,
    /// User and system time of all its threads.
    pub cpu_usec: u64,
    pub rss_bytes: u64,
}

/// What `/proc/PID/stat` and `/proc/PID/wchan` say; `NotFound` when there is no such process.
pub fn process(pid: i32) -> io::Result<ProcessInfo> {
    let stat = Stat::read(pid)?;
    let wchan = fs::read_to_string(format!("/proc/{pid}/wchan")).unwrap_or_default();
    Ok(ProcessInfo {
        pid,
        comm: stat.comm,
        state: stat.state,
        wchan: if wchan == "0" { String::new() } else { wchan },
        ppid: stat.ppid,
        session: stat.session,
        start_ticks: stat.start_ticks,
        cpu_usec: stat.cpu_ticks.saturating_mul(1_000_000) / ticks_per_second(),
        rss_bytes: stat.rss_pages.saturating_mul(page_bytes()),
    })
}

/// The numbers of all processes that /proc shows.
pub(super) fn all() -> io::Result<Vec<i32>> {
    let mut pids = Vec::new();
    for entry in fs::read_dir("/proc")? {
        pids.extend(entry?.file_name().to_str().and_then(|name| name.parse::<i32>().ok()));
    }
    Ok(pids)
}

/// What [`Stat::start_ticks`] says of a process that was born between these readings of CLOCK_BOOTTIME, which is the clock that the kernel
/// notes a birth by; `None` where a tick ends in between, or so near that it cannot be told.
pub(super) fn start_ticks_between(before_boot_ns: u64, after_boot_ns: u64) -> Option<u64> {
    let tick_ns = NANOS_PER_SECOND / ticks_per_second();
    let first = before_boot_ns.saturating_sub(BIRTH_MARGIN_NS) / tick_ns;
    (after_boot_ns.saturating_add(BIRTH_MARGIN_NS) / tick_ns == first).then_some(first)
}

const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// By how much our reading of the clock may differ from the kernel's own: clock sources that are read per CPU agree to well below it.
const BIRTH_MARGIN_NS: u64 = 50_000;

fn ticks_per_second() -> u64 {
    static TICKS: OnceLock<u64> = OnceLock::new();
    *TICKS.get_or_init(|| positive(SysconfVar::CLK_TCK).unwrap_or(100))
}

pub(super) fn page_bytes() -> u64 {
    static BYTES: OnceLock<u64> = OnceLock::new();
    *BYTES.get_or_init(|| positive(SysconfVar::PAGE_SIZE).unwrap_or(4096))
}

fn positive(variable: SysconfVar) -> Option<u64> {
    let value = sysconf(variable).ok().flatten()?;
    u64::try_from(value).ok().filter(|value| *value > 0)
}

/// The fields of `/proc/PID/stat` that are used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stat {
    pub(super) comm: String,
    pub(super) state: char,
    pub(super) ppid: i32,
    pub(super) session: i32,
    pub(super) cpu_ticks: u64,
    pub(super) start_ticks: u64,
    pub(super) rss_pages: u64,
    /// As wait(2) encodes it; 0 when we may not trace the process.
    pub(super) exit_status: i32,
    /// Of the kernel's own: it never has an environment.
    pub(super) is_kernel_thread: bool,
    /// It is inside exit(2), which it does not leave: its first thread, that is.
    pub(super) is_exiting: bool,
    /// Where its environment lies; 0 while it is inside execve(2), or when we may not trace the process.
    pub(super) environment_start: u64,
    pub(super) environment_end: u64,
}

/// `PF_KTHREAD` and `PF_EXITING` of `linux/sched.h`.
const FLAG_KERNEL_THREAD: u64 = 0x0020_0000;
const FLAG_EXITING: u64 = 0x0000_0004;

/// 52 numbers of at most 20 digits and a name of at most 64 bytes.
const STAT_BYTES_MAX: usize = 2048;

impl Stat {
    pub(super) fn read(pid: i32) -> io::Result<Self> {
        let path = format!("/proc/{pid}/stat");
        let mut bytes = [0; STAT_BYTES_MAX];
        // In one read: the line is made anew for each.
        let length = File::open(path).and_then(|mut file| file.read(&mut bytes)).map_err(gone_is_not_found)?;
        Self::parse(&String::from_utf8_lossy(&bytes[..length])).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, format!("/proc/{pid}/stat is not as proc(5) says"))
        })
    }

    /// The name in parentheses may hold spaces and parentheses itself: it ends at the last one.
    fn parse(text: &str) -> Option<Self> {
        let (head, tail) = text.rsplit_once(')')?;
        let (_, comm) = head.split_once('(')?;
        let fields: Vec<&str> = tail.split_whitespace().collect();
        // Numbers as in proc(5); the state is number 3.
        let field = |number: usize| fields.get(number - 3).copied();
        let number = |index: usize| field(index)?.parse::<u64>().ok();
        Some(Self {
            comm: comm.to_owned(),
            state: field(3)?.chars().next()?,
            ppid: field(4)?.parse().ok()?,
            session: field(6)?.parse().ok()?,
            cpu_ticks: number(14)?.saturating_add(number(15)?),
            start_ticks: number(22)?,
            rss_pages: number(24)?,
            exit_status: field(52).and_then(|status| status.parse().ok()).unwrap_or_default(),
            is_kernel_thread: number(9)? & FLAG_KERNEL_THREAD != 0,
            is_exiting: number(9)? & FLAG_EXITING != 0,
            environment_start: number(50).unwrap_or_default(),
            environment_end: number(51).unwrap_or_default(),
        })
    }

    /// A zombie, or about to vanish.
    pub(super) fn is_dead(&self) -> bool {
        matches!(self.state, 'Z' | 'X' | 'x')
    }

    /// An environment that reads as empty may do so because the process is inside execve(2), or was when it was read.
    pub(super) fn may_get_environment(&self) -> bool {
        let is_empty = self.environment_end != 0 && self.environment_start == self.environment_end;
        !is_empty && !self.is_kernel_thread && !self.is_dead()
    }
}

/// A process that ends during the read answers ESRCH.
fn gone_is_not_found(error: io::Error) -> io::Error {
    if error.raw_os_error() == Some(nix::libc::ESRCH) { io::ErrorKind::NotFound.into() } else { error }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_process_is_shown() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let own = process(pid).unwrap();
        assert_eq!(own.ppid, nix::unistd::getppid().as_raw());
        assert!(own.rss_bytes > 100_000, "{own:?}");
        assert!(own.start_ticks > 0);
        assert_eq!(process(i32::MAX).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert!(all().unwrap().contains(&pid));
    }

    #[test]
    fn birth_is_known_where_no_tick_ends_near_it() {
        assert_eq!(ticks_per_second(), 100);
        let tick_ns = 10_000_000;
        let of = |before, after| start_ticks_between(before, after);
        assert_eq!(of(7 * tick_ns + 60_000, 7 * tick_ns + 200_000), Some(7));
        assert_eq!(of(7 * tick_ns + 40_000, 7 * tick_ns + 200_000), None);
        assert_eq!(of(8 * tick_ns - 200_000, 8 * tick_ns - 40_000), None);
        assert_eq!(of(8 * tick_ns - 200_000, 9 * tick_ns), None);
    }

    #[test]
    fn name_with_spaces_and_parentheses_is_read() {
        let mut fields = vec!["0"; 50];
        fields[0] = "S";
        fields[1] = "7";
        fields[3] = "9";
        fields[6] = "2097216";
        fields[19] = "12345";
        fields[48] = "140737488347119";
        fields[49] = "256";
        let stat = Stat::parse(&format!("42 (a) b (c)) {}\n", fields.join(" "))).unwrap();
        assert_eq!((stat.comm.as_str(), stat.state, stat.ppid, stat.session), ("a) b (c)", 'S', 7, 9));
        assert_eq!((stat.start_ticks, stat.exit_status), (12345, 256));
        assert_eq!(
            (stat.is_kernel_thread, stat.is_exiting, stat.environment_start, stat.environment_end),
            (true, false, 0, 140_737_488_347_119)
        );
        assert_eq!(Stat::parse("42 (short) S 1"), None);
    }
}
