use std::fs;
use std::os::fd::AsFd;
use std::thread::JoinHandle;

use super::super::testing::{PATIENCE, hear};
use super::*;
use crate::engine::host::sample::Sample;
use crate::sys::packet::{PacketSocket, Received};
use crate::sys::testing::TempDir;

/// A helper in a thread of this process, whose host is a directory, and its agent.
struct Role {
    directory: TempDir,
    thread: Option<JoinHandle<()>>,
    agent: PacketSocket,
}

impl Role {
    fn start(reader: Reader) -> Self {
        Self::leaving_after(reader, PATIENCE)
    }

    fn leaving_after(reader: Reader, agentless_max: Duration) -> Self {
        let directory = TempDir::new();
        let path = directory.path().join("socket");
        let root = directory.path().join("host");
        fs::create_dir(&root).unwrap();
        let listener = PacketListener::bind(&path, 0o600).unwrap();
        let thread = std::thread::spawn(move || {
            Helper::new(listener, Readings::new(reader, &root), agentless_max).unwrap().run().unwrap();
        });
        let agent = PacketSocket::connect(&path).unwrap();
        let mut role = Self { directory, thread: Some(thread), agent };
        role.expect_hello();
        role
    }

    fn another_agent(&mut self) {
        self.agent = PacketSocket::connect(&self.directory.path().join("socket")).unwrap();
        self.expect_hello();
    }

    fn expect_hello(&mut self) {
        let pid = i32::try_from(std::process::id()).unwrap();
        assert_eq!(self.hear(), Some(FromChecks::Hello { pid }));
    }

    fn put(&self, path: &str, text: &str) {
        let path = self.directory.path().join("host").join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn order(&self, order: &ToChecks) {
        assert!(self.agent.send(&serde_json::to_vec(order).unwrap(), &[]).unwrap());
    }

    fn watch(&self, sources: Vec<Source>, every_ms: u64) {
        let orders = sources.into_iter().map(|source| Order { source, every_ms }).collect();
        self.order(&ToChecks::Watch { orders });
    }

    /// `None` when the helper has left.
    fn hear(&mut self) -> Option<FromChecks> {
        hear(&self.agent)
    }

    fn sample(&mut self) -> Sample {
        match self.hear() {
            Some(FromChecks::Sampled { sample }) => *sample,
            other => panic!("expected a sample, not {other:?}"),
        }
    }

    fn missing(&mut self) -> Missing {
        match self.hear() {
            Some(FromChecks::Missing { missing }) => missing,
            other => panic!("expected something missing, not {other:?}"),
        }
    }

    fn joined(&mut self) {
        self.thread.take().unwrap().join().unwrap();
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take().filter(|_| !std::thread::panicking()) {
            self.order(&ToChecks::Quit);
            thread.join().unwrap();
        }
    }
}

fn speed(sample: Sample) -> Option<u32> {
    match sample {
        Sample::LinkModes(modes) => modes[0].speed,
        other => panic!("{other:?}"),
    }
}

fn link_modes() -> Source {
    Source::LinkModes(vec!["eth0".to_owned()])
}

const HOUR_MS: u64 = 3_600_000;

#[test]
fn first_reading_follows_the_order_and_the_others_their_time() {
    let mut role = Role::start(Reader::Sensors);
    role.put("sys/class/net/eth0/speed", "1000\n");
    let begun = Instant::now();
    role.watch(vec![link_modes()], 150);
    assert_eq!(speed(role.sample()), Some(1000));
    role.put("sys/class/net/eth0/speed", "100\n");
    assert_eq!(speed(role.sample()), Some(100));
    assert_eq!(speed(role.sample()), Some(100));
    assert!(begun.elapsed() >= Duration::from_millis(300));
}

#[test]
fn orders_replace_those_before_and_are_read_at_once() {
    let mut role = Role::start(Reader::Disk);
    let space = |mount: &str| Source::Space { mount: mount.to_owned() };
    role.watch(vec![space("/"), space("/gone")], HOUR_MS);
    let mounts: Vec<(String, bool)> = (0..2)
        .map(|_| match role.sample() {
            Sample::Space(stat) => (stat.mount, stat.error.is_some()),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(mounts, [("/".to_owned(), false), ("/gone".to_owned(), true)]);
    role.watch(vec![Source::Canary { mount: "/".to_owned() }], HOUR_MS);
    match role.sample() {
        Sample::Canary(stat) => assert_eq!((stat.errno, stat.absent), (None, None)),
        other => panic!("{other:?}"),
    }
    role.watch(Vec::new(), HOUR_MS);
    role.order(&ToChecks::Quit);
    assert_eq!(role.hear(), None, "nothing else was read");
    role.joined();
}

#[test]
fn what_is_missing_is_said_once_an_order() {
    let mut role = Role::start(Reader::Sensors);
    role.put("sys/class/net/eth0/speed", "10\n");
    role.watch(vec![Source::Sensors, link_modes(), Source::System], 100);
    assert_eq!(role.missing().source, Source::Sensors);
    assert_eq!(speed(role.sample()), Some(10));
    assert_eq!(role.missing(), Missing { source: Source::System, why: "another role reads this".to_owned() });
    for _ in 0..3 {
        assert_eq!(speed(role.sample()), Some(10));
    }
    role.watch(vec![Source::Sensors], 100);
    // A sample of the orders before may still be on its way.
    while !matches!(role.hear(), Some(FromChecks::Missing { .. })) {}
    role.put("sys/class/hwmon/hwmon0/name", "lm75\n");
    role.put("sys/class/hwmon/hwmon0/temp1_input", "42500\n");
    match role.sample() {
        Sample::Sensors(stats) => assert_eq!((stats.len(), stats[0].value), (1, Some(42_500))),
        other => panic!("{other:?}"),
    }
}

#[test]
fn too_many_orders_are_told() {
    let mut role = Role::start(Reader::Sensors);
    role.watch(vec![Source::Gateway; ORDERS_MAX + 1], HOUR_MS);
    assert_eq!(role.missing().why, "one role reads at most 256 things");
}

#[test]
fn newest_agent_has_its_own_orders() {
    let mut role = Role::start(Reader::Sensors);
    role.put("sys/class/net/eth0/speed", "1000\n");
    role.watch(vec![link_modes()], 100);
    role.sample();
    let older = PacketSocket::from_fd(role.agent.as_fd().try_clone_to_owned().unwrap());
    role.another_agent();
    let mut packet = Vec::new();
    while !matches!(older.receive(&mut packet).unwrap(), Received::Closed) {}
    let error = Some("another role probes".to_owned());
    let target = crate::checks::proto::ProbeTarget::Tcp("127.0.0.1:1".to_owned());
    role.order(&ToChecks::Probe { id: 7, target, timeout_ms: 100 });
    assert_eq!(role.hear(), Some(FromChecks::Answer { id: 7, error }), "and nothing that the older one asked for");
}

#[test]
fn helper_leaves_when_no_agent_comes_back() {
    let mut role = Role::leaving_after(Reader::Disk, Duration::from_millis(100));
    role.watch(vec![Source::Space { mount: "/".to_owned() }], HOUR_MS);
    role.sample();
    role.agent = PacketSocket::pair().unwrap().0;
    role.joined();
}
