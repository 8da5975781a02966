//! Limits of one process tree, in the files of its cgroup2 group or of its groups in v1 hierarchies.
//!
//! What is written is read back. A limit that is taken away gets the value of a group that never had one, and files that were never
//! written are left alone. A service at its `memory_max` is not to live on in swap: with that limit it gets none.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::libc;

use super::controllers::{Controller, Controllers, Place};
use super::group::{remove_tree, write_if_there};
use super::mounts::{Device, Mounts};

/// `None`: no limit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// In thousandths of one CPU.
    pub cpu_max_permille: Option<u32>,
    /// 1 to 10000; 100 is everybody's.
    pub cpu_weight: Option<u16>,
    pub memory_max_bytes: Option<u64>,
    /// Processes and threads.
    pub pids_max: Option<u32>,
    pub io_weight: Option<u16>,
    /// Each for the whole disk that its path lies on.
    pub io_max: Vec<(PathBuf, Rates)>,
}

/// Of one device, per second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    pub read_bytes: Option<u64>,
    pub write_bytes: Option<u64>,
    pub read_operations: Option<u64>,
    pub write_operations: Option<u64>,
}

/// What became of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// The files that were written, by comma.
    pub method: String,
    /// What is not in force as it was wanted, each beginning with its key in the configuration (`cpu_max`, `io_max`) and with its reason.
    pub refused: Vec<String>,
    /// Groups were made in v1 hierarchies: the tree has to be moved there.
    pub new_groups: bool,
}

/// The limits of one group, and where they are written.
#[derive(Debug)]
pub struct Limited {
    /// The group in cgroup2.
    v2: Option<PathBuf>,
    /// The name of its groups in v1 hierarchies.
    name: String,
    v1: [Option<PathBuf>; 4],
    /// As last written; `None`: by an earlier agent, unknown.
    now: Option<Limits>,
    rates: BTreeMap<Device, Rates>,
    /// What is in force only in part.
    caveats: Vec<String>,
    /// Processes of the tree could not be moved into its v1 groups.
    astray: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    V1,
    V2,
}

impl Limited {
    /// Of a group that was just made (`None`: there is none in cgroup2). Nothing is written.
    #[must_use]
    pub fn new(group: Option<&Path>, name: &str) -> Self {
        let v1 = [const { None }; 4];
        Self {
            v2: group.map(Path::to_owned),
            name: name.to_owned(),
            v1,
            now: Some(Limits::default()),
            rates: BTreeMap::new(),
            caveats: Vec::new(),
            astray: false,
        }
    }

    /// Of a group that an earlier agent made: whatever it wrote there is unknown, and written anew.
    #[must_use]
    pub fn of_earlier_agent(group: Option<&Path>, name: &str, controllers: &Controllers) -> Self {
        let mut limited = Self { now: None, ..Self::new(group, name) };
        for controller in Controller::ALL {
            if let Place::V1(base) = controllers.place(controller) {
                limited.v1[controller as usize] = Some(base.join(name)).filter(|path| path.is_dir());
            }
        }
        // It may have died between making them and moving the tree there.
        limited.astray = limited.v1.iter().any(Option::is_some);
        limited.rates = match (controllers.place(Controller::Io), &limited.v1[Controller::Io as usize], group) {
            (Place::V1(_), Some(group), _) => devices_in_v1(group),
            (Place::V2, _, Some(group)) => devices_in(&group.join("io.max")),
            (Place::V1(_) | Place::V2 | Place::Absent(_), _, _) => BTreeMap::new(),
        };
        limited
    }

    /// The v1 groups that a process of the tree has to join.
    #[must_use]
    pub fn groups(&self) -> Vec<&Path> {
        let mut groups: Vec<&Path> = self.v1.iter().flatten().map(PathBuf::as_path).collect();
        groups.dedup();
        groups
    }

    /// Whether its processes are (still) to be moved into its v1 groups.
    #[must_use]
    pub fn is_astray(&self) -> bool {
        self.astray
    }

    /// What became of moving its processes into its v1 groups.
    pub fn set_astray(&mut self, astray: bool) {
        self.astray = astray;
    }

    /// The configuration's keys of the limits that hold only what is in its v1 groups.
    #[must_use]
    pub fn keys_in_v1(&self) -> Vec<&'static str> {
        let Some(now) = &self.now else { return Vec::new() };
        let keys = [
            ("cpu_max", Controller::Cpu, now.cpu_max_permille.is_some()),
            ("cpu_weight", Controller::Cpu, now.cpu_weight.is_some()),
            ("memory_max", Controller::Memory, now.memory_max_bytes.is_some()),
            ("pids_max", Controller::Pids, now.pids_max.is_some()),
            ("io_weight", Controller::Io, now.io_weight.is_some()),
            ("io_max", Controller::Io, !now.io_max.is_empty()),
        ];
        let held = keys.into_iter().filter(|(_, controller, is_set)| *is_set && self.v1_group(*controller).is_some());
        held.map(|(key, ..)| key).collect()
    }

    /// Brings the limits into force, in the order of the fields; what is in force already is not written again.
    pub fn apply(&mut self, controllers: &mut Controllers, wanted: &Limits) -> Applied {
        let known = self.now.clone();
        let before = known.clone().unwrap_or_default();
        let mut work = Work {
            limited: self,
            controllers,
            known: known.is_some(),
            written: Vec::new(),
            refused: Vec::new(),
            new_groups: false,
        };
        let now = Limits {
            cpu_max_permille: work.settle(
                "cpu_max",
                Controller::Cpu,
                before.cpu_max_permille,
                wanted.cpu_max_permille,
                cpu_max,
            ),
            cpu_weight: work.settle("cpu_weight", Controller::Cpu, before.cpu_weight, wanted.cpu_weight, cpu_weight),
            memory_max_bytes: work.settle(
                "memory_max",
                Controller::Memory,
                before.memory_max_bytes,
                wanted.memory_max_bytes,
                memory_max,
            ),
            pids_max: work.settle("pids_max", Controller::Pids, before.pids_max, wanted.pids_max, pids_max),
            io_weight: work.settle("io_weight", Controller::Io, before.io_weight, wanted.io_weight, io_weight),
            io_max: work.settle_io(&before.io_max, &wanted.io_max),
        };
        let mut written = std::mem::take(&mut work.written);
        written.dedup();
        let mut refused = std::mem::take(&mut work.refused);
        let new_groups = work.new_groups;
        refused.extend(self.caveats.iter().cloned());
        let applied = Applied { method: written.join(", "), refused, new_groups };
        self.now = Some(now);
        applied
    }

    /// Before a kill: what is to die needs CPU time for it, and must not fork. The group is not used again.
    pub(super) fn open_for_kill(&self) {
        let quota = self.now.as_ref().is_none_or(|now| now.cpu_max_permille.is_some());
        let cpu = match (&self.v1[Controller::Cpu as usize], &self.v2) {
            (Some(group), _) => Some((group.join("cpu.cfs_quota_us"), "-1")),
            (None, Some(group)) => Some((group.join("cpu.max"), "max")),
            (None, None) => None,
        };
        // Only haste: the kill follows, whatever becomes of these.
        if let Some((file, none)) = cpu.filter(|_| quota) {
            let _ = write_if_there(&file, none);
        }
        if let Some(group) = &self.v1[Controller::Pids as usize] {
            let _ = write_if_there(&group.join("pids.max"), "0");
        }
    }

    pub(super) fn v1_group(&self, controller: Controller) -> Option<&Path> {
        self.v1[controller as usize].as_deref()
    }

    /// Processes that the kernel killed for the memory limit of a v1 group (since 4.13).
    pub(super) fn oom_kills(&self) -> Option<u64> {
        let text = fs::read_to_string(self.v1_group(Controller::Memory)?.join("memory.oom_control")).ok()?;
        super::group::number_after(&text, "oom_kill")
    }

    /// Nothing is limited, and there is nothing to remove.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.now == Some(Limits::default()) && self.rates.is_empty() && self.v1.iter().all(Option::is_none)
    }

    /// Whether another one of this name would share its v1 groups.
    #[must_use]
    pub fn is_of(&self, name: &str) -> bool {
        self.name == name
    }

    /// Removes the v1 groups. EBUSY while a process lives in them.
    pub fn remove(&mut self) -> io::Result<()> {
        for group in &mut self.v1 {
            if let Some(path) = group {
                remove_tree(path)?;
                *group = None;
            }
        }
        Ok(())
    }

    /// The directory of this tree for the controller; one in a v1 hierarchy is made.
    fn directory(
        &mut self,
        controllers: &mut Controllers,
        controller: Controller,
    ) -> Result<(PathBuf, Version, bool), String> {
        let base = match controllers.prepare(controller)? {
            Place::V1(base) => base,
            Place::V2 | Place::Absent(_) => {
                let group = self.v2.clone().ok_or("the tree has no cgroup")?;
                return Ok((group, Version::V2, false));
            }
        };
        let mut group = base.join(&self.name);
        if self.v1[controller as usize].is_some() {
            return Ok((group, Version::V1, false));
        }
        group.shrink_to_fit();
        // One that is left of an earlier run holds limits of its own. Controllers that share a hierarchy share the group.
        let shared = self.v1.iter().flatten().any(|other| *other == group);
        if !shared {
            let made = remove_tree(&group).and_then(|()| fs::create_dir(&group));
            made.map_err(|error| format!("cannot make {}: {error}", group.display()))?;
        }
        self.v1[controller as usize] = Some(group.clone());
        Ok((group, Version::V1, !shared))
    }
}

/// One application.
struct Work<'a> {
    limited: &'a mut Limited,
    controllers: &'a mut Controllers,
    /// What was there before is known.
    known: bool,
    written: Vec<&'static str>,
    refused: Vec<String>,
    new_groups: bool,
}

/// Writes one limit; the files that were written, for people.
type Writer<T> = fn(&Path, Version, Option<T>) -> Result<&'static str, String>;

impl Work<'_> {
    /// What is in force afterwards.
    fn settle<T: Copy + PartialEq>(
        &mut self,
        key: &str,
        controller: Controller,
        before: Option<T>,
        wanted: Option<T>,
        write: Writer<T>,
    ) -> Option<T> {
        if self.known && before == wanted {
            return wanted;
        }
        // Nothing to take away where no group holds anything.
        if wanted.is_none() && !self.may_hold(controller) {
            return None;
        }
        let outcome = self.open(controller).and_then(|(group, version)| write(&group, version, wanted));
        match outcome {
            Ok(files) => {
                self.written.push(files);
                wanted
            }
            Err(why) if self.known || wanted.is_some() => {
                self.refused.push(format!("{key}: {why}"));
                before
            }
            // The file is not there: nobody wrote to it.
            Err(_) => None,
        }
    }

    fn may_hold(&self, controller: Controller) -> bool {
        match self.controllers.place(controller) {
            Place::V1(_) => self.limited.v1[controller as usize].is_some(),
            Place::V2 => self.limited.v2.as_ref().is_some_and(|group| group.join(probe_file(controller)).exists()),
            Place::Absent(_) => false,
        }
    }

    fn open(&mut self, controller: Controller) -> Result<(PathBuf, Version), String> {
        let (group, version, new) = self.limited.directory(self.controllers, controller)?;
        self.new_groups |= new;
        Ok((group, version))
    }

    fn settle_io(&mut self, before: &[(PathBuf, Rates)], wanted: &[(PathBuf, Rates)]) -> Vec<(PathBuf, Rates)> {
        if self.known && before == wanted {
            return wanted.to_vec();
        }
        let mut target: BTreeMap<Device, Rates> = BTreeMap::new();
        let mut found = Vec::new();
        let mounts = if wanted.is_empty() { Mounts::default() } else { Mounts::read().unwrap_or_default() };
        for (path, rates) in wanted {
            match mounts.disk_of(path) {
                Ok(device) => {
                    let rates_so_far = target.entry(device).or_default();
                    *rates_so_far = rates_so_far.tighter(*rates);
                    found.push((device, (path.clone(), *rates)));
                }
                Err(why) => self.refused.push(format!("io_max of {}: {why}", path.display())),
            }
        }
        let gone: Vec<Device> =
            self.limited.rates.keys().filter(|device| !target.contains_key(device)).copied().collect();
        let lifted = gone.into_iter().map(|device| (device, Rates::default()));
        for (device, rates) in lifted.chain(target.clone()).collect::<Vec<_>>() {
            if self.known && self.limited.rates.get(&device) == Some(&rates) {
                continue;
            }
            match self.open(Controller::Io).and_then(|(group, version)| io_max(&group, version, device, rates)) {
                Ok(files) => {
                    self.written.push(files);
                    let writes = rates.write_bytes.is_some() || rates.write_operations.is_some();
                    let caveat = (writes && !self.controllers.knows_writers()).then_some(CACHE_ESCAPES);
                    let of_device = format!("io_max of device {device}: ");
                    self.limited.caveats.retain(|caveat| !caveat.starts_with(&of_device));
                    self.limited.caveats.extend(caveat.map(|caveat| of_device + caveat));
                    match rates == Rates::default() {
                        true => self.limited.rates.remove(&device),
                        false => self.limited.rates.insert(device, rates),
                    };
                }
                Err(why) => self.refused.push(format!("io_max of device {device}: {why}")),
            }
        }
        let in_force = |device: &Device| self.limited.rates.get(device) == target.get(device);
        found.into_iter().filter(|(device, _)| in_force(device)).map(|(_, limit)| limit).collect()
    }
}

/// A file of every group that has the controller.
fn probe_file(controller: Controller) -> &'static str {
    match controller {
        Controller::Cpu => "cpu.max",
        Controller::Memory => "memory.max",
        Controller::Pids => "pids.max",
        Controller::Io => "io.stat",
    }
}

impl Rates {
    fn tighter(self, other: Self) -> Self {
        let least = |one: Option<u64>, two: Option<u64>| one.into_iter().chain(two).min();
        Self {
            read_bytes: least(self.read_bytes, other.read_bytes),
            write_bytes: least(self.write_bytes, other.write_bytes),
            read_operations: least(self.read_operations, other.read_operations),
            write_operations: least(self.write_operations, other.write_operations),
        }
    }

    /// Under the kernel's keys of `io.max`.
    fn keyed(self) -> [(&'static str, Option<u64>); 4] {
        [
            ("rbps", self.read_bytes),
            ("wbps", self.write_bytes),
            ("riops", self.read_operations),
            ("wiops", self.write_operations),
        ]
    }
}

const PERIOD_USEC: u64 = 100_000;
/// The kernel takes no quota below a millisecond, and no period above a second.
const QUOTA_USEC_MIN: u64 = 1_000;
const PERIOD_USEC_MAX: u64 = 1_000_000;

/// Quota and period.
fn bandwidth(permille: u32) -> (u64, u64) {
    let quota = |period: u64| u64::from(permille) * period / 1_000;
    let period = if quota(PERIOD_USEC) >= QUOTA_USEC_MIN { PERIOD_USEC } else { PERIOD_USEC_MAX };
    (quota(period).max(QUOTA_USEC_MIN), period)
}

fn cpu_max(group: &Path, version: Version, permille: Option<u32>) -> Result<&'static str, String> {
    let (quota, period) = permille.map(bandwidth).unzip();
    let period = period.unwrap_or(PERIOD_USEC);
    match version {
        Version::V2 => {
            let quota = quota.map_or("max".to_owned(), |quota| quota.to_string());
            write(group, "cpu.max", &format!("{quota} {period}"))
        }
        Version::V1 => {
            write(group, "cpu.cfs_period_us", &period.to_string())?;
            write(group, "cpu.cfs_quota_us", &quota.map_or("-1".to_owned(), |quota| quota.to_string()))
        }
    }
}

fn cpu_weight(group: &Path, version: Version, weight: Option<u16>) -> Result<&'static str, String> {
    let weight = u32::from(weight.unwrap_or(100));
    match version {
        Version::V2 => write(group, "cpu.weight", &weight.to_string()),
        // 2 is the least.
        Version::V1 => write(group, "cpu.shares", &(weight * 1_024 / 100).max(2).to_string()),
    }
}

/// With `memory.oom.group` where there is one; on v1 the kernel kills one process of the group at a time.
fn memory_max(group: &Path, version: Version, bytes: Option<u64>) -> Result<&'static str, String> {
    match version {
        Version::V2 => {
            let number = bytes.map_or("max".to_owned(), |bytes| bytes.to_string());
            optional(group, "memory.oom.group", if bytes.is_some() { "1" } else { "0" })?;
            optional(group, "memory.swap.max", if bytes.is_some() { "0" } else { "max" })?;
            write(group, "memory.max", &number)
        }
        Version::V1 => {
            // Memory and swap together may never be less than memory alone, so the order depends on the direction.
            let number = bytes.map_or("-1".to_owned(), |bytes| bytes.to_string());
            let both = "memory.memsw.limit_in_bytes";
            if write(group, "memory.limit_in_bytes", &number).is_ok() {
                optional(group, both, &number)?;
                return Ok("memory.limit_in_bytes");
            }
            optional(group, both, &number)?;
            write(group, "memory.limit_in_bytes", &number)
        }
    }
}

fn pids_max(group: &Path, _version: Version, most: Option<u32>) -> Result<&'static str, String> {
    write(group, "pids.max", &most.map_or("max".to_owned(), |most| most.to_string()))
}

/// Of the iocost controller, else of the BFQ scheduler, whose scale ends at 1000.
fn io_weight(group: &Path, version: Version, weight: Option<u16>) -> Result<&'static str, String> {
    let weight = weight.unwrap_or(100);
    if version == Version::V2 && group.join("io.weight").exists() {
        return write(group, "io.weight", &format!("default {weight}"));
    }
    let file = if version == Version::V2 { "io.bfq.weight" } else { "blkio.bfq.weight" };
    match group.join(file).exists() {
        true => write(group, file, &weight.min(1_000).to_string()),
        false => Err("this kernel divides no I/O by weight (neither iocost nor BFQ): leave io_weight out".to_owned()),
    }
}

const CACHE_ESCAPES: &str = "holds back direct and synchronous writes only, not those through the page cache: that takes the controllers io and \
                             memory in cgroup2";

fn io_max(group: &Path, version: Version, device: Device, rates: Rates) -> Result<&'static str, String> {
    if version == Version::V2 {
        let max = |rate: Option<u64>| rate.map_or("max".to_owned(), |rate| rate.to_string());
        let rates: Vec<String> = rates.keyed().iter().map(|(key, rate)| format!("{key}={}", max(*rate))).collect();
        let line = format!("{device} {}", rates.join(" "));
        let limited = rates.iter().any(|rate| !rate.ends_with("=max"));
        write_whole(&group.join("io.max"), &line)?;
        let told = fs::read_to_string(group.join("io.max")).unwrap_or_default();
        let in_force = told.lines().any(|found| found == line);
        return match in_force == limited {
            true => Ok("io.max"),
            false => Err(format!("io.max does not say \"{line}\" after it was written")),
        };
    }
    for (file, (_, rate)) in THROTTLES.iter().zip(rates.keyed()) {
        let file = group.join(format!("blkio.throttle.{file}_device"));
        write_whole(&file, &format!("{device} {}", rate.unwrap_or(0)))?;
    }
    Ok("blkio.throttle")
}

/// In the order of [`Rates::keyed`].
const THROTTLES: [&str; 4] = ["read_bps", "write_bps", "read_iops", "write_iops"];

/// The devices that a group limits.
fn devices_in(io_max: &Path) -> BTreeMap<Device, Rates> {
    let text = fs::read_to_string(io_max).unwrap_or_default();
    let rates = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let device = Device::parse(words.next()?)?;
        let words: Vec<&str> = words.collect();
        let rate = |key: &str| words.iter().find_map(|word| word.strip_prefix(key)?.strip_prefix('=')?.parse().ok());
        let rates = Rates {
            read_bytes: rate("rbps"),
            write_bytes: rate("wbps"),
            read_operations: rate("riops"),
            write_operations: rate("wiops"),
        };
        Some((device, rates))
    };
    text.lines().filter_map(rates).collect()
}

fn devices_in_v1(group: &Path) -> BTreeMap<Device, Rates> {
    let mut rates = BTreeMap::new();
    for file in THROTTLES {
        let text = fs::read_to_string(group.join(format!("blkio.throttle.{file}_device"))).unwrap_or_default();
        let devices = text.lines().filter_map(|line| Device::parse(line.split_ascii_whitespace().next()?));
        // That there is a limit is enough: it is written anew.
        rates.extend(devices.map(|device| (device, Rates::default())));
    }
    rates
}

/// Writes a value to a file of the group and reads it back.
fn write(group: &Path, file: &'static str, value: &str) -> Result<&'static str, String> {
    let path = group.join(file);
    write_whole(&path, value)?;
    let told = fs::read_to_string(&path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    match says(told.trim(), value) {
        true => Ok(file),
        false => Err(format!("{} says \"{}\" after \"{value}\" was written", path.display(), told.trim())),
    }
}

/// [`write`] to a file that not every kernel has.
fn optional(group: &Path, file: &'static str, value: &str) -> Result<(), String> {
    if group.join(file).exists() { write(group, file, value).map(drop) } else { Ok(()) }
}

fn write_whole(path: &Path, value: &str) -> Result<(), String> {
    // O_NONBLOCK: since 6.16 the kernel then takes no memory back on our time when `memory.max` is below what is used.
    let file = fs::File::options().write(true).custom_flags(libc::O_NONBLOCK).open(path);
    let written = file.and_then(|mut file| file.write_all(value.as_bytes()));
    written.map_err(|error| format!("cannot write {value} to {}: {error}", path.display()))
}

/// The largest page of a kernel that rounds amounts of memory to pages.
const PAGE_BYTES_MAX: u64 = 65_536;

fn says(told: &str, wanted: &str) -> bool {
    let number = |text: &str| text.parse::<u64>().ok();
    match (number(told), number(wanted)) {
        (Some(told), Some(wanted)) => {
            told == wanted || (told < wanted && wanted - told < PAGE_BYTES_MAX && told % 4_096 == 0)
        }
        // v1 shows "no limit" as the largest amount.
        (Some(told), None) => wanted == "-1" && told > u64::MAX / 4,
        // Weights of single devices may follow the one of all.
        (None, Some(_) | None) => {
            let first = told.lines().next().unwrap_or_default();
            first == wanted || first.strip_prefix("default ") == Some(wanted)
        }
    }
}

#[cfg(test)]
#[path = "limits_tests.rs"]
mod tests;
