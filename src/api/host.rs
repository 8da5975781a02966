//! The JSON of `GET /v1/host`: what the host has, and the latest reading of each. Nothing is read for it when it is asked: what the roles
//! have sent is put together, so that no disk can keep an answer waiting. A part that nobody has read yet is null.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::proto::Word;
use super::render::Stamp;
use super::time::rfc3339_ns;
use crate::engine::host::readings::Readings;
use crate::engine::host::sample::{self, NicKind, SensorWhat};
use crate::engine::host::view::CheckView;
use crate::engine::host::{Health, kind};
use crate::engine::types::Time;

/// What does not change while the agent lives; read once, when it starts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    pub hostname: String,
    /// `Debian GNU/Linux 12 (bookworm)`
    pub os: Option<String>,
    pub kernel: String,
    /// `x86_64`
    pub machine: String,
    pub cpu_model: Option<String>,
}

/// `GET /v1/host`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Host {
    pub at: String,
    pub seq: u64,
    /// The worst state of a check: `ok`, `degraded`, `failing` or `unknown`.
    pub state: Word,
    #[serde(flatten)]
    pub facts: Facts,
    pub boot_at: String,
    pub uptime_ms: u64,
    pub cpu: Option<Cpu>,
    pub memory: Option<Memory>,
    /// `memory`, `cpu` and `io`, those that the kernel tells.
    pub pressure: BTreeMap<String, Pressure>,
    pub clock: Option<Clock>,
    pub disks: Vec<Disk>,
    /// File systems on no disk: of the network, of memory and others.
    pub mounts: Vec<Mount>,
    pub nics: Vec<Nic>,
    pub gateway: Option<Gateway>,
    pub sensors: Vec<Sensor>,
    /// Checks of the whole host.
    pub checks: Vec<State>,
}

/// A check by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    pub name: String,
    pub kind: Word,
    pub state: Word,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cpu {
    pub count: u32,
    /// Of all CPUs, between the latest two readings.
    pub busy_percent: Option<f64>,
    /// Of 1, 5 and 15 minutes.
    pub load: [f64; 3],
    pub blocked_tasks: u32,
    pub tasks: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    pub total_bytes: u64,
    pub available_bytes: u64,
    pub swap_total_bytes: u64,
    pub swap_free_bytes: u64,
}

/// Percent of the time in which some, or all, tasks waited for it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pressure {
    pub some_avg10: f64,
    pub some_avg60: f64,
    pub full_avg10: Option<f64>,
    pub full_avg60: Option<f64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clock {
    pub synchronised: bool,
    pub error_ms: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Disk {
    pub name: String,
    pub model: Option<String>,
    pub serial: Option<String>,
    pub rotating: bool,
    pub removable: bool,
    /// The whole disks that it is made of.
    pub below: Vec<String>,
    pub in_flight: Option<u32>,
    pub read_bytes: Option<u64>,
    pub written_bytes: Option<u64>,
    pub temperature_celsius: Option<i32>,
    /// Of its life.
    pub used_percent: Option<u32>,
    pub asleep: bool,
    pub mounts: Vec<Mount>,
    pub checks: Vec<State>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    pub point: String,
    pub source: String,
    #[serde(rename = "type")]
    pub fs_type: String,
    pub read_only: bool,
    pub size_bytes: Option<u64>,
    /// What others than root may still use.
    pub available_bytes: Option<u64>,
    pub inodes: Option<u64>,
    pub inodes_available: Option<u64>,
    pub error: Option<String>,
    pub checks: Vec<State>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nic {
    pub name: String,
    /// `physical`, `bond` or `virtual`.
    pub kind: Word,
    pub master: Option<String>,
    /// Somebody wants it up.
    pub up: Option<bool>,
    pub carrier: Option<bool>,
    pub speed_mbit_s: Option<u32>,
    pub full_duplex: Option<bool>,
    pub received_bytes: Option<u64>,
    pub sent_bytes: Option<u64>,
    pub errors: Option<u64>,
    pub drops: Option<u64>,
    pub checks: Vec<State>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gateway {
    pub address: Option<String>,
    pub nic: Option<String>,
    pub answers: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sensor {
    pub name: String,
    pub label: Option<String>,
    /// `temperature`, `fan`, `voltage`, `supply` or `battery`.
    pub what: Word,
    /// Degrees Celsius, rounds a minute, volts, percent; of a supply 1 while it gives power.
    pub value: Option<f64>,
    pub max: Option<f64>,
    pub critical: Option<f64>,
    pub error: Option<String>,
    pub checks: Vec<State>,
}

impl Facts {
    /// Of the host below `root`.
    #[must_use]
    pub fn read(root: &Path) -> Self {
        let file = |path: &str| std::fs::read_to_string(root.join(path)).unwrap_or_default();
        let os_release = file("etc/os-release");
        let os = os_release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
        let cpuinfo = file("proc/cpuinfo");
        let model = ["model name", "Hardware", "cpu model"].iter().find_map(|key| {
            let line = cpuinfo.lines().find(|line| line.starts_with(key))?;
            line.split_once(':').map(|(_, value)| value.trim().to_owned())
        });
        let machine = nix::sys::utsname::uname().map(|name| name.machine().to_string_lossy().into_owned());
        Self {
            hostname: file("proc/sys/kernel/hostname").trim().to_owned(),
            os: os.map(|text| text.trim_matches('"').to_owned()).filter(|text| !text.is_empty()),
            kernel: file("proc/sys/kernel/osrelease").trim().to_owned(),
            machine: machine.unwrap_or_default(),
            cpu_model: model,
        }
    }
}

/// `GET /v1/host`
#[must_use]
pub fn host(facts: &Facts, readings: &Readings, checks: &[CheckView], stamp: &Stamp) -> Host {
    let uptime = stamp.now.boot.since(Time(0));
    let system = readings.system.as_deref();
    let (on_disks, others): (Vec<_>, Vec<_>) = readings
        .devices
        .mounts
        .iter()
        .partition(|mount| readings.devices.disks.iter().any(|disk| Some(&disk.name) == mount.disk.as_ref()));
    Host {
        at: stamp.at(),
        seq: stamp.seq,
        state: worst(checks).word().into(),
        facts: facts.clone(),
        boot_at: rfc3339_ns(stamp.now.wall.0.saturating_sub(stamp.now.boot.0)),
        uptime_ms: u64::try_from(uptime.as_millis()).unwrap_or(u64::MAX),
        cpu: system.map(|system| cpu(system, readings.cpu_busy_permille)),
        memory: system.map(memory),
        pressure: system.map(pressure).unwrap_or_default(),
        clock: system
            .map(|system| Clock { synchronised: system.clock_synchronised, error_ms: system.clock_error_us / 1_000 }),
        disks: readings.devices.disks.iter().map(|disk| self::disk(disk, &on_disks, readings, checks)).collect(),
        mounts: others.into_iter().map(|mount| self::mount(mount, readings, checks)).collect(),
        nics: readings.devices.nics.iter().map(|nic| self::nic(nic, readings, checks)).collect(),
        gateway: readings.gateway.as_ref().map(|gateway| Gateway {
            address: gateway.address.clone(),
            nic: gateway.nic.clone(),
            answers: gateway.answered,
        }),
        sensors: readings.sensors.values().map(|sensor| self::sensor(sensor, checks)).collect(),
        checks: states(checks, kind::Scope::Host, ""),
    }
}

/// Without any reading nothing is known; what is absent or unknown hides nothing that is ok.
fn worst(checks: &[CheckView]) -> Health {
    let known = checks.iter().map(|check| check.state).filter(|state| *state >= Health::Ok);
    known.max().unwrap_or(Health::Unknown)
}

fn states(checks: &[CheckView], scope: kind::Scope, target: &str) -> Vec<State> {
    let of = checks.iter().filter(|check| check.kind.scope() == scope && check.target == target);
    of.map(|check| State { name: check.name.clone(), kind: check.kind.word().into(), state: check.state.word().into() })
        .collect()
}

fn percent(permille: u64) -> f64 {
    f64::from(u32::try_from(permille).unwrap_or(u32::MAX)) / 10.0
}

fn cpu(system: &sample::System, busy_permille: Option<u64>) -> Cpu {
    Cpu {
        count: system.cpus,
        busy_percent: busy_permille.map(percent),
        load: system.load_permille.map(|load| f64::from(load) / 1_000.0),
        blocked_tasks: system.blocked_tasks,
        tasks: system.tasks,
    }
}

fn memory(system: &sample::System) -> Memory {
    Memory {
        total_bytes: system.memory_total_bytes,
        available_bytes: system.memory_available_bytes,
        swap_total_bytes: system.swap_total_bytes,
        swap_free_bytes: system.swap_free_bytes,
    }
}

fn pressure(system: &sample::System) -> BTreeMap<String, Pressure> {
    let hundredths = |value: u32| f64::from(value) / 100.0;
    [("memory", system.pressure_memory), ("cpu", system.pressure_cpu), ("io", system.pressure_io)]
        .into_iter()
        .filter_map(|(name, pressure)| {
            let pressure = pressure?;
            let shown = Pressure {
                some_avg10: hundredths(pressure.some_avg10),
                some_avg60: hundredths(pressure.some_avg60),
                full_avg10: pressure.full_avg10.map(hundredths),
                full_avg60: pressure.full_avg60.map(hundredths),
            };
            Some((name.to_owned(), shown))
        })
        .collect()
}

fn disk(disk: &sample::Disk, mounts: &[&sample::Mount], readings: &Readings, checks: &[CheckView]) -> Disk {
    let stat = readings.disks.get(&disk.name);
    let smart = readings.smarts.get(&disk.name);
    let own = mounts.iter().filter(|mount| mount.disk.as_ref() == Some(&disk.name));
    Disk {
        name: disk.name.clone(),
        model: smart.and_then(|smart| smart.model.clone()),
        serial: smart.and_then(|smart| smart.serial.clone()),
        rotating: disk.rotating,
        removable: disk.removable,
        below: disk.below.clone(),
        in_flight: stat.map(|stat| stat.in_flight),
        read_bytes: stat.map(|stat| stat.read_bytes),
        written_bytes: stat.map(|stat| stat.written_bytes),
        temperature_celsius: smart.and_then(|smart| smart.temperature),
        used_percent: smart.and_then(|smart| smart.used),
        asleep: smart.is_some_and(|smart| smart.asleep),
        mounts: own.map(|mount| self::mount(mount, readings, checks)).collect(),
        checks: states(checks, kind::Scope::Disk, &disk.name),
    }
}

fn mount(mount: &sample::Mount, readings: &Readings, checks: &[CheckView]) -> Mount {
    let space = readings.spaces.get(&mount.point);
    let told = space.filter(|space| space.error.is_none());
    Mount {
        point: mount.point.clone(),
        source: mount.source.clone(),
        fs_type: mount.fs_type.clone(),
        read_only: mount.read_only,
        size_bytes: told.map(|space| space.size_bytes),
        available_bytes: told.map(|space| space.available_bytes),
        inodes: told.map(|space| space.inodes),
        inodes_available: told.map(|space| space.inodes_available),
        error: space.and_then(|space| space.error.clone()),
        checks: states(checks, kind::Scope::Mount, &mount.point),
    }
}

fn nic(nic: &sample::Nic, readings: &Readings, checks: &[CheckView]) -> Nic {
    let stat = readings.nics.get(&nic.name);
    let mode = readings.link_modes.get(&nic.name);
    Nic {
        name: nic.name.clone(),
        kind: match nic.kind {
            NicKind::Physical => "physical",
            NicKind::Bond => "bond",
            NicKind::Virtual => "virtual",
        }
        .into(),
        master: nic.master.clone(),
        up: stat.map(|stat| stat.admin_up),
        carrier: stat.map(|stat| stat.carrier),
        speed_mbit_s: mode.and_then(|mode| mode.speed),
        full_duplex: mode.and_then(|mode| mode.full_duplex),
        received_bytes: stat.map(|stat| stat.received_bytes),
        sent_bytes: stat.map(|stat| stat.sent_bytes),
        errors: stat.map(|stat| stat.errors),
        drops: stat.map(|stat| stat.drops),
        checks: states(checks, kind::Scope::Nic, &nic.name),
    }
}

/// Thousandths, but of what turns and of what is on or off.
pub(super) fn sensor_value(what: SensorWhat, value: i64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "no sensor's value comes near 2^53")]
    let number = value as f64;
    match what {
        SensorWhat::Temperature | SensorWhat::Voltage | SensorWhat::Battery => number / 1_000.0,
        SensorWhat::Fan | SensorWhat::Supply => number,
    }
}

fn sensor(sensor: &sample::SensorStat, checks: &[CheckView]) -> Sensor {
    let number = |value: Option<i64>| value.map(|value| sensor_value(sensor.what, value));
    Sensor {
        name: sensor.name.clone(),
        label: sensor.label.clone(),
        what: match sensor.what {
            SensorWhat::Temperature => "temperature",
            SensorWhat::Fan => "fan",
            SensorWhat::Voltage => "voltage",
            SensorWhat::Supply => "supply",
            SensorWhat::Battery => "battery",
        }
        .into(),
        value: number(sensor.value),
        max: number(sensor.max),
        critical: number(sensor.critical),
        error: sensor.error.clone(),
        checks: states(checks, kind::Scope::Sensor, &sensor.name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::testing::{check_views, readings, stamp};

    #[test]
    #[expect(clippy::too_many_lines, reason = "one whole answer")]
    fn host_is_told_with_its_devices_and_their_checks() {
        let facts = Facts {
            hostname: "edge-7".to_owned(),
            os: Some("Debian GNU/Linux 12 (bookworm)".to_owned()),
            kernel: "6.1.0-18-amd64".to_owned(),
            machine: "x86_64".to_owned(),
            cpu_model: None,
        };
        let host = host(&facts, &readings(), &check_views(), &stamp());
        let text = serde_json::to_string_pretty(&host).unwrap();
        expect_test::expect![[r#"
            {
              "at": "2026-11-22T08:00:00Z",
              "seq": 812,
              "state": "failing",
              "hostname": "edge-7",
              "os": "Debian GNU/Linux 12 (bookworm)",
              "kernel": "6.1.0-18-amd64",
              "machine": "x86_64",
              "cpu_model": null,
              "boot_at": "2026-11-22T07:58:20Z",
              "uptime_ms": 100000,
              "cpu": {
                "count": 2,
                "busy_percent": 12.5,
                "load": [
                  0.1,
                  1.5,
                  0.02
                ],
                "blocked_tasks": 0,
                "tasks": 0
              },
              "memory": {
                "total_bytes": 2147483648,
                "available_bytes": 1073741824,
                "swap_total_bytes": 0,
                "swap_free_bytes": 0
              },
              "pressure": {
                "io": {
                  "some_avg10": 12.34,
                  "some_avg60": 0.5,
                  "full_avg10": 0.07,
                  "full_avg60": null
                }
              },
              "clock": {
                "synchronised": true,
                "error_ms": 1
              },
              "disks": [
                {
                  "name": "sda",
                  "model": "ST1000",
                  "serial": null,
                  "rotating": true,
                  "removable": false,
                  "below": [],
                  "in_flight": 2,
                  "read_bytes": 4096,
                  "written_bytes": 8192,
                  "temperature_celsius": 38,
                  "used_percent": 7,
                  "asleep": false,
                  "mounts": [
                    {
                      "point": "/",
                      "source": "/dev/sda1",
                      "type": "ext4",
                      "read_only": false,
                      "size_bytes": 16000,
                      "available_bytes": 1424,
                      "inodes": 100,
                      "inodes_available": 60,
                      "error": null,
                      "checks": [
                        {
                          "name": "root",
                          "kind": "disk_space",
                          "state": "degraded"
                        }
                      ]
                    }
                  ],
                  "checks": [
                    {
                      "name": "disk_hung sda",
                      "kind": "disk_hung",
                      "state": "failing"
                    },
                    {
                      "name": "smart sda",
                      "kind": "smart",
                      "state": "unknown"
                    }
                  ]
                }
              ],
              "mounts": [
                {
                  "point": "/mnt/nfs",
                  "source": "nas:/export",
                  "type": "nfs4",
                  "read_only": false,
                  "size_bytes": null,
                  "available_bytes": null,
                  "inodes": null,
                  "inodes_available": null,
                  "error": "Stale file handle",
                  "checks": []
                }
              ],
              "nics": [
                {
                  "name": "eth0",
                  "kind": "physical",
                  "master": null,
                  "up": true,
                  "carrier": true,
                  "speed_mbit_s": 1000,
                  "full_duplex": true,
                  "received_bytes": 1000,
                  "sent_bytes": 2000,
                  "errors": 0,
                  "drops": 4,
                  "checks": [
                    {
                      "name": "nic_link eth0",
                      "kind": "nic_link",
                      "state": "ok"
                    }
                  ]
                }
              ],
              "gateway": {
                "address": "10.0.0.1",
                "nic": "eth0",
                "answers": true
              },
              "sensors": [
                {
                  "name": "coretemp/temp1",
                  "label": "Package id 0",
                  "what": "temperature",
                  "value": 42.5,
                  "max": 80.0,
                  "critical": null,
                  "error": null,
                  "checks": [
                    {
                      "name": "temperature coretemp/temp1",
                      "kind": "temperature",
                      "state": "ok"
                    }
                  ]
                }
              ],
              "checks": [
                {
                  "name": "pressure_memory",
                  "kind": "pressure_memory",
                  "state": "absent"
                }
              ]
            }"#]]
        .assert_eq(&text);
        assert_eq!(serde_json::from_str::<Host>(&text).unwrap(), host);
    }

    #[test]
    fn host_of_which_nothing_is_read_yet_is_unknown() {
        let host = host(&Facts::default(), &Readings::default(), &[], &stamp());
        assert_eq!((host.state.as_ref(), host.cpu, host.disks.len()), ("unknown", None, 0));
    }

    #[test]
    fn facts_are_read_below_a_root() {
        let root = std::env::temp_dir().join(format!("mainstay-facts-{}", std::process::id()));
        for (path, text) in [
            ("etc/os-release", "ID=debian\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n"),
            ("proc/cpuinfo", "processor\t: 0\nmodel name\t: A CPU @ 2.00GHz\n"),
            ("proc/sys/kernel/hostname", "edge-7\n"),
            ("proc/sys/kernel/osrelease", "6.1.0-18-amd64\n"),
        ] {
            let path = root.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let facts = Facts::read(&root);
        std::fs::remove_dir_all(&root).unwrap();
        assert_eq!(facts.os.as_deref(), Some("Debian GNU/Linux 12 (bookworm)"));
        assert_eq!(facts.cpu_model.as_deref(), Some("A CPU @ 2.00GHz"));
        assert_eq!((facts.hostname.as_str(), facts.kernel.as_str()), ("edge-7", "6.1.0-18-amd64"));
        assert_eq!(Facts::read(Path::new("/nosuch")).os, None);
    }
}
