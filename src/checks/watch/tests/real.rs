//! With the kernel itself: a link that goes down, a disk and a file system that come and fail, and a gateway. Each runs in a process
//! with namespaces of its own, and says aloud when it cannot.

use std::process::{Child, Command};

use nix::sys::resource::{UsageWho, getrusage};

use super::*;

/// Runs an ignored test of this file in a process with network and mounts of its own.
fn alone(name: &str, needs: &str) {
    if !root_or_skip("a namespace") {
        return;
    }
    if !shell(&format!("command -v unshare {needs} && unshare --net --mount true")) {
        return eprintln!("skipped: no namespaces here, or one of unshare {needs} is not installed");
    }
    let output = Command::new("unshare")
        .args(["--net", "--mount"])
        .arg(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", &format!("checks::watch::tests::real::{name}"), "--nocapture"])
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    println!("{}", String::from_utf8_lossy(&said));
    assert!(output.status.success());
}

#[track_caller]
fn shell(script: &str) -> bool {
    let output = Command::new("sh").arg("-c").arg(script).output().unwrap();
    if !output.status.success() {
        eprintln!("{script}: {}", String::from_utf8_lossy(&output.stderr));
    }
    output.status.success()
}

fn own_host() -> Host {
    Host::with(Settings { root: "/".into(), kmsg: "/dev/kmsg".into(), run_dir: None })
}

fn nics(message: &FromChecks) -> Option<Vec<NicStat>> {
    match sample(message) {
        Some(Sample::Nics(stats)) => Some(stats.clone()),
        _ => None,
    }
}

fn gateway(message: &FromChecks) -> Option<GatewayStat> {
    match sample(message) {
        Some(Sample::Gateway(stat)) => Some(stat.clone()),
        _ => None,
    }
}

/// One cable between `lan0` and `lan1`; /sys of this namespace.
fn cable() -> bool {
    shell(
        "mount -t sysfs none /sys && ip link set lo up && ip link add lan0 type veth peer name lan1 \
        && ip link set lan0 up && ip link set lan1 up",
    )
}

#[test]
fn link_that_goes_down_is_told_within_a_tenth_of_a_second() {
    alone("link_down", "ip");
}

#[test]
#[ignore = "started by other tests"]
fn link_down() {
    if !cable() {
        return eprintln!("skipped: no veth pair");
    }
    let mut host = own_host();
    host.order(&[(Source::Nics(vec!["lan0".to_owned(), "none".to_owned()]), 60_000)]);
    let carrier = |up: bool| move |message: &FromChecks| nics(message).filter(|stats| stats[0].carrier == up);
    let before = host.until(carrier(true));
    assert_eq!((before.len(), before[0].admin_up), (1, true));
    // The kernel itself tells of changes no more than once a second, unless they have been rare.
    let quiet = Instant::now() + Duration::from_millis(1_200);
    while Instant::now() < quiet {
        host.turn(Duration::from_millis(50));
    }
    host.told();
    assert!(shell("ip link set lan1 down"));
    let cut = Instant::now();
    let after = host.until(carrier(false));
    let took = cut.elapsed();
    println!("link down told {took:?} after the command had ended");
    assert!(took < Duration::from_millis(100), "{took:?}");
    assert!(after[0].admin_up && after[0].carrier_changes > before[0].carrier_changes);
    assert!(shell("ip link del lan0"));
    assert_eq!(host.until(nics), [], "it is gone");
    // Told together with it or a little later.
    let knows = |host: &Host| {
        let active = host.watch.active.as_ref().unwrap();
        active.inventory.devices().nics.iter().any(|nic| nic.name == "lan0")
    };
    let gone = Instant::now();
    while knows(&host) {
        assert!(gone.elapsed() < Duration::from_secs(10));
        host.turn(Duration::from_millis(50));
    }
}

/// Another namespace, held by a process that does nothing.
struct Peer(Child);

impl Peer {
    fn start() -> Self {
        let child = Command::new("unshare").args(["--net", "sleep", "60"]).spawn().unwrap();
        let own = std::fs::read_link("/proc/self/ns/net").unwrap();
        let begun = Instant::now();
        while std::fs::read_link(format!("/proc/{}/ns/net", child.id())).is_ok_and(|its| its == own) {
            assert!(begun.elapsed() < Duration::from_secs(10));
            std::thread::yield_now();
        }
        Self(child)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[test]
fn gateway_is_told_to_answer_and_not_to_answer() {
    alone("gateway_answers", "ip nsenter");
}

#[test]
#[ignore = "started by other tests"]
fn gateway_answers() {
    if !cable() {
        return eprintln!("skipped: no veth pair");
    }
    let mut host = own_host();
    host.order(&[(Source::Gateway, 200)]);
    assert_eq!(host.until(gateway), GatewayStat::default(), "there is no route yet");
    let peer = Peer::start();
    let pid = peer.0.id();
    let inside = format!("nsenter --target {pid} --net");
    assert!(shell(&format!(
        "ip link set lan1 netns {pid} && {inside} ip addr add 10.77.0.1/24 dev lan1 && {inside} ip link set lan1 up \
         && ip addr add 10.77.0.2/24 dev lan0 && ip route add default via 10.77.0.1"
    )));
    let answered = |wanted: bool| {
        move |message: &FromChecks| gateway(message).filter(|stat| stat.address.is_some() && stat.answered == wanted)
    };
    let stat = host.until(answered(true));
    assert_eq!((stat.address.as_deref(), stat.nic.as_deref()), (Some("10.77.0.1"), Some("lan0")));
    assert!(shell(&format!("{inside} ip addr del 10.77.0.1/24 dev lan1")));
    host.until(answered(false));
    assert!(shell(&format!("{inside} ip addr add 10.77.0.1/24 dev lan1")));
    host.until(answered(true));
    assert!(shell("ip link set lan0 down && ip link set lan0 up && ip route add default via 10.77.0.1"));
    host.until(answered(true));
}

#[test]
fn file_system_that_comes_and_counts_an_error_is_told() {
    alone("ext4_error", "mkfs.ext4 losetup mount umount");
}

#[test]
#[ignore = "started by other tests"]
fn ext4_error() {
    let mut host = own_host();
    let directory = TempDir::new();
    let at = directory.path().display().to_string();
    let made = format!(
        "truncate -s 16M '{at}/image' && mkdir '{at}/mnt x' && mkfs.ext4 -q -F '{at}/image' \
         && mount -o loop,errors=remount-ro '{at}/image' '{at}/mnt x'"
    );
    if !shell(&made) {
        return eprintln!("skipped: no loop device with ext4");
    }
    let point = format!("{at}/mnt x");
    let find = |message: &FromChecks| {
        let devices = devices(message)?;
        let mount = devices.mounts.iter().find(|mount| mount.point == point)?.clone();
        Some((devices, mount))
    };
    let (devices, mount) = host.until(find);
    let disk = mount.disk.clone().unwrap();
    assert!(devices.disks.iter().any(|found| found.name == disk), "{devices:?}");
    host.order(&[(Source::Filesystems(vec![(point.clone(), mount.device.clone(), mount.fs_type)]), 100)]);
    let errors = |message: &FromChecks| match sample(message) {
        Some(Sample::Filesystems(stats)) => Some((stats[0].errors?, stats[0].forced_read_only)),
        _ => None,
    };
    assert_eq!(host.until(errors), (0, false));
    assert!(shell(&format!("echo broken > /sys/fs/ext4/{}/trigger_fs_error", mount.device.unwrap())));
    let (count, forced) = host.until(|message| errors(message).filter(|(errors, _)| *errors > 0));
    println!("errors_count {count}, shown as forced read-only: {forced}");
    assert!(shell(&format!("umount '{point}'")));
}

/// All of this role every five seconds must cost less than a millisecond of CPU, on an unoptimised build less than ten.
#[test]
fn one_round_of_everything_is_cheap() {
    const ROUNDS: u32 = 1_000;
    let mut host = own_host();
    let first = host.told().iter().find_map(devices).unwrap();
    let mounts = first.mounts.iter().map(|mount| (mount.point.clone(), mount.device.clone(), mount.fs_type.clone()));
    host.order(&[
        (Source::System, 5_000),
        (Source::Disks(first.disks.iter().map(|disk| disk.name.clone()).collect()), 5_000),
        (Source::Filesystems(mounts.collect()), 5_000),
        (Source::Nics(first.nics.iter().map(|nic| nic.name.clone()).collect()), 5_000),
    ]);
    let begun = Instant::now();
    let used = || {
        let usage = getrusage(UsageWho::RUSAGE_THREAD).unwrap();
        let us = |time: nix::sys::time::TimeVal| time.tv_sec() * 1_000_000 + time.tv_usec();
        us(usage.user_time()) + us(usage.system_time())
    };
    host.read_at(begun);
    let before = used();
    let mut bytes = 0;
    for round in 1..=ROUNDS {
        host.read_at(begun + Duration::from_millis(5_000) * round);
        let told = host.told();
        assert!(told.iter().filter_map(sample).count() >= 4);
        bytes = told.iter().map(|message| serde_json::to_vec(message).unwrap().len()).sum::<usize>();
    }
    let us = (used() - before) / i64::from(ROUNDS);
    println!("{us} us of CPU a round, {bytes} bytes of JSON in the last");
    assert!(us < 10_000, "{us}");
}
