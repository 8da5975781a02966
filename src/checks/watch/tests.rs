use std::fs::File;
use std::io::Write;
use std::path::Path;

use super::super::reading::testing::{TempDir, link, put, root};
use super::*;
use crate::engine::host::sample::{Devices, GatewayStat, NicStat};
use crate::sys::testing::root_or_skip;

/// A watch with its loop, as the server has it.
struct Host {
    watch: Watch,
    epoll: Epoll,
    told: Told,
}

impl Host {
    fn new(root: &Path) -> Self {
        Self::with(Settings { root: root.to_owned(), kmsg: root.join("dev/kmsg"), run_dir: None })
    }

    fn with(settings: Settings) -> Self {
        let mut host = Self { watch: Watch::new(settings), epoll: Epoll::new().unwrap(), told: Vec::new() };
        host.watch.begin(&host.epoll, Instant::now(), &mut host.told);
        host
    }

    fn order(&mut self, orders: &[(Source, u64)]) {
        let orders = orders.iter().map(|(source, every_ms)| Order { source: source.clone(), every_ms: *every_ms });
        self.watch.order(orders.collect(), &self.epoll, Instant::now(), &mut self.told);
    }

    fn read_at(&mut self, now: Instant) {
        self.watch.read_due(&self.epoll, now, false, &mut self.told);
    }

    /// The loop for one turn, at most this long.
    fn turn(&mut self, most: Duration) {
        let now = Instant::now();
        self.read_at(now);
        let due = self.watch.next_deadline().map(|due| due.saturating_duration_since(now));
        let timeout = if self.told.is_empty() { due.map_or(most, |due| due.min(most)) } else { Duration::ZERO };
        let mut ready = Vec::with_capacity(64);
        self.epoll.wait(&mut ready, Some(timeout)).unwrap();
        for event in ready {
            self.watch.hear(event.key, &self.epoll, Instant::now(), &mut self.told);
        }
    }

    fn told(&mut self) -> Told {
        std::mem::take(&mut self.told)
    }

    /// Runs the loop until something is told that fits.
    #[track_caller]
    fn until<T>(&mut self, fits: impl Fn(&FromChecks) -> Option<T>) -> T {
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(10) {
            if let Some(found) = self.told().iter().find_map(&fits) {
                return found;
            }
            self.turn(Duration::from_millis(100));
        }
        panic!("nothing of the kind within ten seconds");
    }
}

fn sample(message: &FromChecks) -> Option<&Sample> {
    match message {
        FromChecks::Sampled { sample } => Some(sample),
        FromChecks::Hello { .. }
        | FromChecks::Answer { .. }
        | FromChecks::Devices { .. }
        | FromChecks::Missing { .. } => None,
    }
}

fn devices(message: &FromChecks) -> Option<Devices> {
    match message {
        FromChecks::Devices { devices } => Some((**devices).clone()),
        FromChecks::Hello { .. }
        | FromChecks::Answer { .. }
        | FromChecks::Sampled { .. }
        | FromChecks::Missing { .. } => None,
    }
}

fn missing(message: &FromChecks) -> Option<Missing> {
    match message {
        FromChecks::Missing { missing } => Some(missing.clone()),
        FromChecks::Hello { .. }
        | FromChecks::Answer { .. }
        | FromChecks::Sampled { .. }
        | FromChecks::Devices { .. } => None,
    }
}

/// With one disk and one NIC.
fn small_host() -> TempDir {
    let root = root(&[
        ("proc/meminfo", "MemTotal: 1024 kB\n"),
        ("proc/self/mountinfo", "27 1 8:0 / / rw - ext4 /dev/sda rw\n"),
        ("proc/net/dev", "eth0: 1 2 0 0 0 0 0 0 1 2 0 0 0 0 0 0\n"),
        ("sys/block/sda/stat", "1 0 0 0 0 0 0 0 0 0 0\n"),
        ("sys/class/net/eth0/flags", "0x1003\n"),
    ]);
    link(root.path(), "sys/dev/block/8:0", "../../devices/x/block/sda");
    root
}

fn sources() -> [(Source, u64); 3] {
    [
        (Source::System, 5_000),
        (Source::Disks(vec!["sda".to_owned()]), 10_000),
        (Source::Nics(vec!["eth0".to_owned()]), 5_000),
    ]
}

#[test]
fn first_reading_follows_at_once_and_what_is_due_together_is_read_together() {
    let root = small_host();
    let mut host = Host::new(root.path());
    let first = host.told();
    assert_eq!(first.iter().filter_map(devices).next().unwrap().disks.len(), 1);
    host.order(&sources());
    let begun = Instant::now();
    let mut count_at = |ms: u64| {
        host.read_at(begun + Duration::from_millis(ms));
        host.told().iter().filter_map(sample).count()
    };
    assert_eq!(count_at(0), 3);
    assert_eq!(count_at(4_000), 0);
    assert_eq!(count_at(5_010), 2);
    assert_eq!(count_at(5_020), 0);
    assert_eq!(count_at(10_010), 3);
    assert_eq!(count_at(47_000), 3, "what was slept through is read once");
    assert_eq!(count_at(50_010), 3);
}

#[test]
fn nothing_is_due_without_orders_and_nothing_is_open_without_an_agent() {
    let mut host = Host::with(Settings { root: "/".into(), kmsg: "/dev/kmsg".into(), run_dir: None });
    if host.watch.next_deadline().is_some() {
        eprintln!("skipped: the kernel tells of no changes here, so there is a look every {LINKS_PAUSE:?}");
        return;
    }
    host.order(&sources());
    assert!(host.watch.next_deadline().is_some());
    host.watch.end();
    assert_eq!(host.watch.next_deadline(), None);
    host.order(&sources());
    host.read_at(Instant::now());
    assert_eq!(host.told().iter().filter_map(sample).count(), 0);
}

#[test]
fn what_cannot_be_told_is_said_once_for_each_order() {
    let root = root(&[]);
    let mut host = Host::new(root.path());
    let orders = [(Source::System, 100), (Source::Hardware, 100), (Source::Kernel, 0), (Source::Sensors, 100)];
    host.order(&orders);
    let begun = Instant::now();
    host.read_at(begun + Duration::from_secs(1));
    host.order(&orders);
    let told: Vec<_> = host.told().iter().filter_map(missing).collect();
    let about: Vec<_> = told.iter().map(|missing| missing.source.clone()).collect();
    assert_eq!(about, [Source::System, Source::Hardware, Source::Kernel, Source::Sensors]);
    put(root.path(), "proc/meminfo", "MemTotal: 1 kB\n");
    host.order(&orders);
    host.read_at(Instant::now());
    assert_eq!(host.told().iter().filter_map(sample).count(), 1, "it has come since");
}

#[test]
fn new_orders_replace_the_old_and_agent_that_is_behind_is_told_nothing() {
    let root = small_host();
    let mut host = Host::new(root.path());
    host.order(&sources());
    host.order(&[(Source::Disks(vec!["sda".to_owned()]), 5_000)]);
    host.told();
    host.watch.read_due(&host.epoll, Instant::now(), true, &mut host.told);
    assert_eq!(host.told().iter().filter_map(sample).count(), 0);
    host.read_at(Instant::now() + Duration::from_secs(6));
    let told = host.told();
    let samples: Vec<_> = told.iter().filter_map(sample).collect();
    assert!(matches!(samples[..], [Sample::Disks(_)]), "{samples:?}");
}

#[test]
fn device_that_comes_below_another_root_is_told() {
    let root = small_host();
    let mut host = Host::new(root.path());
    host.told();
    put(root.path(), "sys/class/net/eth1/flags", "0x1003\n");
    let found = host.until(devices);
    assert_eq!(found.nics.len(), 2);
}

#[test]
fn kernel_log_is_told_as_it_comes_and_goes_on_where_it_was() {
    let root = small_host();
    let run_dir = TempDir::new();
    std::fs::create_dir(run_dir.path().join("roles")).unwrap();
    std::fs::create_dir(root.path().join("dev")).unwrap();
    let kmsg = root.path().join("dev/kmsg");
    nix::unistd::mkfifo(&kmsg, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let settings =
        Settings { root: root.path().to_owned(), kmsg: kmsg.clone(), run_dir: Some(run_dir.path().to_owned()) };
    let mut host = Host::with(settings);
    host.order(&[(Source::Kernel, 0)]);
    let mut writer = File::options().write(true).open(&kmsg).unwrap();
    let now = clock::mono_ns() / 1000;
    writeln!(writer, "3,41,{now},-;I/O error, dev sda, sector 0 op 0x0:(READ)").unwrap();
    let lines = |message: &FromChecks| match sample(message) {
        Some(Sample::Kernel(lines)) => Some(lines.clone()),
        _ => None,
    };
    let told = host.until(lines);
    assert_eq!((told.len(), told[0].target.as_deref()), (1, Some("sda")));
    assert_eq!(kernel_begin(Position::default(), Some(run_dir.path())), Begin::At(Position::at(42)), "for a successor");
    // A new agent: what was told is not told again.
    host.watch.begin(&host.epoll, Instant::now(), &mut host.told);
    host.order(&[(Source::Kernel, 0)]);
    writeln!(writer, "3,41,{now},-;I/O error, dev sda, sector 0 op 0x0:(READ)").unwrap();
    writeln!(writer, "3,42,{now},-;Out of memory: Killed process 1 (x)").unwrap();
    assert_eq!(host.until(lines).len(), 1);
}

#[test]
fn first_role_of_a_boot_looks_back_and_its_successor_does_not() {
    let run_dir = TempDir::new();
    std::fs::create_dir(run_dir.path().join("roles")).unwrap();
    let begin = || kernel_begin(Position::default(), Some(run_dir.path()));
    assert_eq!(begin(), Begin::LookBack);
    save_position(Position::at(7), Some(run_dir.path()));
    assert_eq!(begin(), Begin::At(Position::at(7)));
    put(run_dir.path(), KERNEL_POSITION, "another-boot 7\n");
    assert_eq!(begin(), Begin::LookBack);
}

mod real;
