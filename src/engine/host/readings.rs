//! The latest of every reading, for whoever looks at the host; nothing is judged here. As large as the host has devices.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::HostEvent;
use super::sample::{
    CanaryStat, Devices, DiskStat, FilesystemStat, GatewayStat, Hardware, LinkMode, NicStat, Sample, SensorStat,
    SmartStat, SpaceStat, System,
};
use super::watch::{Missing, Source};
use crate::engine::Engine;

/// What roles cannot read on this host, at most.
const MISSING_MAX: usize = 256;

/// Lists are by name and in its order.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Readings {
    pub devices: Devices,
    pub system: Option<Box<System>>,
    /// Of all CPUs between the latest two readings, in thousandths.
    pub cpu_busy_permille: Option<u64>,
    pub disks: BTreeMap<String, DiskStat>,
    pub filesystems: BTreeMap<String, FilesystemStat>,
    pub spaces: BTreeMap<String, SpaceStat>,
    pub canaries: BTreeMap<String, CanaryStat>,
    pub smarts: BTreeMap<String, SmartStat>,
    pub nics: BTreeMap<String, NicStat>,
    pub link_modes: BTreeMap<String, LinkMode>,
    pub gateway: Option<GatewayStat>,
    pub hardware: Option<Box<Hardware>>,
    pub sensors: BTreeMap<String, SensorStat>,
    /// What cannot be read, and why.
    pub missing: Vec<Missing>,
}

impl Readings {
    pub(in crate::engine) fn keep(&mut self, event: &HostEvent) {
        match event {
            HostEvent::Devices(devices) => self.devices(devices),
            HostEvent::Sampled { sample, .. } => self.sample(sample),
            HostEvent::Missing { missing, .. } => self.miss(missing),
            HostEvent::Linked { .. } | HostEvent::AlertDone { .. } => {}
        }
    }

    /// What is gone is forgotten.
    fn devices(&mut self, devices: &Devices) {
        let is_disk = |name: &String| devices.disks.iter().any(|disk| disk.name == *name);
        let is_mount = |point: &String| devices.mounts.iter().any(|mount| mount.point == *point);
        let is_nic = |name: &String| devices.nics.iter().any(|nic| nic.name == *name);
        self.disks.retain(|name, _| is_disk(name));
        self.smarts.retain(|name, _| is_disk(name));
        self.filesystems.retain(|point, _| is_mount(point));
        self.spaces.retain(|point, _| is_mount(point));
        self.canaries.retain(|point, _| is_mount(point));
        self.nics.retain(|name, _| is_nic(name));
        self.link_modes.retain(|name, _| is_nic(name));
        self.missing.retain(|missing| match &missing.source {
            Source::Space { mount } | Source::Canary { mount } | Source::FilesystemErrors { mount } => is_mount(mount),
            Source::Smart { disk, .. } => is_disk(disk),
            Source::System
            | Source::Disks(_)
            | Source::Filesystems(_)
            | Source::Nics(_)
            | Source::Gateway
            | Source::Hardware
            | Source::Kernel
            | Source::Sensors
            | Source::LinkModes(_) => true,
        });
        self.devices = devices.clone();
    }

    fn sample(&mut self, sample: &Sample) {
        match sample {
            Sample::System(system) => {
                self.cpu_busy_permille = self.system.as_ref().and_then(|before| busy(before, system));
                self.system = Some(system.clone());
            }
            Sample::Disks(disks) => self.disks.extend(disks.iter().map(|disk| (disk.name.clone(), disk.clone()))),
            Sample::Filesystems(all) => {
                self.filesystems.extend(all.iter().map(|one| (one.mount.clone(), one.clone())));
            }
            Sample::Nics(nics) => self.nics = nics.iter().map(|nic| (nic.name.clone(), nic.clone())).collect(),
            Sample::Gateway(gateway) => self.gateway = Some(gateway.clone()),
            Sample::Hardware(hardware) => self.hardware = Some(hardware.clone()),
            Sample::Sensors(sensors) => {
                self.sensors = sensors.iter().map(|sensor| (sensor.name.clone(), sensor.clone())).collect();
            }
            Sample::LinkModes(modes) => {
                self.link_modes.extend(modes.iter().map(|mode| (mode.nic.clone(), mode.clone())));
            }
            Sample::Space(space) => {
                self.spaces.insert(space.mount.clone(), space.clone());
            }
            Sample::Canary(canary) => {
                self.canaries.insert(canary.mount.clone(), canary.clone());
            }
            Sample::Smart(smart) => {
                self.smarts.insert(smart.disk.clone(), smart.clone());
            }
            // These are no readings but news.
            Sample::Kernel(_) | Sample::ClockSet { .. } | Sample::FilesystemError { .. } => {}
        }
    }

    fn miss(&mut self, missing: &Missing) {
        self.missing.retain(|known| known.source != missing.source);
        if self.missing.len() < MISSING_MAX {
            self.missing.push(missing.clone());
        }
    }
}

fn busy(before: &System, after: &System) -> Option<u64> {
    let all = after.cpu_ticks.checked_sub(before.cpu_ticks).filter(|ticks| *ticks > 0)?;
    let idle = after.cpu_idle_ticks.saturating_sub(before.cpu_idle_ticks).min(all);
    Some((all - idle).saturating_mul(1_000) / all)
}

impl Engine {
    /// The latest readings, as the roles sent them.
    #[must_use]
    pub fn readings(&self) -> &Readings {
        &self.readings
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::host::sample::{Disk, Mount};
    use crate::engine::plan::Role;

    fn sampled(sample: Sample) -> HostEvent {
        HostEvent::Sampled { role: Role::Checks, sample: Box::new(sample) }
    }

    fn disk(name: &str, completed: u64) -> DiskStat {
        DiskStat { name: name.to_owned(), completed, ..DiskStat::default() }
    }

    #[test]
    fn latest_reading_of_each_device_counts_until_it_is_gone() {
        let mut readings = Readings::default();
        readings.keep(&sampled(Sample::Disks(vec![disk("sda", 1), disk("sdb", 1)])));
        readings.keep(&sampled(Sample::Disks(vec![disk("sda", 2)])));
        let space = SpaceStat { mount: "/".to_owned(), size_bytes: 10, ..SpaceStat::default() };
        readings.keep(&sampled(Sample::Space(space)));
        let counts = |readings: &Readings| readings.disks.values().map(|disk| disk.completed).collect::<Vec<_>>();
        assert_eq!(counts(&readings), [2, 1]);
        let devices = Devices {
            disks: vec![Disk { name: "sda".to_owned(), ..Disk::default() }],
            mounts: vec![Mount { point: "/srv".to_owned(), ..Mount::default() }],
            nics: Vec::new(),
        };
        readings.keep(&HostEvent::Devices(Box::new(devices)));
        assert_eq!((counts(&readings), readings.spaces.len()), (vec![2], 0));
    }

    #[test]
    fn use_of_the_cpus_is_that_between_two_readings() {
        let system = |ticks, idle| {
            sampled(Sample::System(Box::new(System { cpu_ticks: ticks, cpu_idle_ticks: idle, ..System::default() })))
        };
        let mut readings = Readings::default();
        readings.keep(&system(1_000, 900));
        assert_eq!(readings.cpu_busy_permille, None);
        readings.keep(&system(2_000, 1_650));
        assert_eq!(readings.cpu_busy_permille, Some(250));
        readings.keep(&system(10, 10));
        assert_eq!(readings.cpu_busy_permille, None, "it began anew");
    }

    #[test]
    fn what_cannot_be_read_is_said_once_and_for_no_more_than_there_is() {
        let mut readings = Readings::default();
        for number in 0..2 * MISSING_MAX {
            let source = Source::Disks(vec![number.to_string()]);
            let missing = Missing { source, why: "no".to_owned() };
            readings.keep(&HostEvent::Missing { role: Role::Checks, missing: missing.clone() });
            readings.keep(&HostEvent::Missing { role: Role::Checks, missing });
        }
        assert_eq!(readings.missing.len(), MISSING_MAX);
    }
}
