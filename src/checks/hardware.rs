//! Counters of the hardware that change rarely: memory errors (EDAC), PCIe errors (AER) and how often the CPU throttled itself. The kernel
//! keeps them in memory; no device is asked. Opened for each reading, because there can be some hundred and it is seldom.

use std::path::{Path, PathBuf};

use super::reading::{names_in, read_number, read_value};
use crate::engine::host::sample::Hardware;

/// Memory controllers, PCI devices and CPUs.
const CONTROLLERS_MAX: usize = 256;
const PCI_MAX: usize = 1024;
const CPUS_MAX: usize = 4096;

const MEMORY: &str = "sys/devices/system/edac/mc";
const PCI: &str = "sys/bus/pci/devices";
const CPUS: &str = "sys/devices/system/cpu";

#[derive(Debug)]
pub(super) struct HardwareReader {
    root: PathBuf,
}

impl HardwareReader {
    /// The sentence says why this host cannot tell.
    pub(super) fn new(root: &Path) -> Result<Self, String> {
        let reader = Self { root: root.to_owned() };
        let hardware = reader.read();
        if hardware == Hardware::default() {
            return Err("no EDAC, AER or thermal_throttle counters: a virtual machine has none, elsewhere load the EDAC driver \
                 of the chipset"
                .to_owned());
        }
        Ok(reader)
    }

    pub(super) fn read(&self) -> Hardware {
        let mut hardware = Hardware::default();
        let memory = self.root.join(MEMORY);
        for name in names_in(&memory, CONTROLLERS_MAX) {
            let count = |file: &str| read_number(&memory.join(&name).join(file));
            if let (Some(corrected), Some(uncorrected)) = (count("ce_count"), count("ue_count")) {
                hardware.ecc.insert(name, (corrected, uncorrected));
            }
        }
        let devices = self.root.join(PCI);
        for name in names_in(&devices, PCI_MAX) {
            let total = |file: &str| total(&read_value(&devices.join(&name).join(file))?);
            if let Some(correctable) = total("aer_dev_correctable") {
                let nonfatal = total("aer_dev_nonfatal").unwrap_or_default();
                let fatal = total("aer_dev_fatal").unwrap_or_default();
                hardware.pcie.insert(name, (correctable, nonfatal, fatal));
            }
        }
        hardware.throttled = self.read_throttled();
        hardware
    }

    /// A package counts once for each of its CPUs, which does no harm to a difference.
    fn read_throttled(&self) -> Option<u64> {
        let cpus = self.root.join(CPUS);
        let mut sum = None;
        for name in names_in(&cpus, CPUS_MAX).iter().filter(|name| name.starts_with("cpu")) {
            for file in ["core_throttle_count", "package_throttle_count"] {
                if let Some(count) = read_number(&cpus.join(name).join("thermal_throttle").join(file)) {
                    sum = Some(count.saturating_add(sum.unwrap_or_default()));
                }
            }
        }
        sum
    }
}

/// `TOTAL_ERR_COR 3` at the end; older kernels have only the lines of the kinds (Documentation/ABI/testing/sysfs-bus-pci-devices-aer_stats).
fn total(text: &str) -> Option<u64> {
    let mut sum = None;
    for (name, count) in text.lines().filter_map(|line| line.rsplit_once(' ')) {
        let Ok(count) = count.parse::<u64>() else { continue };
        if name.starts_with("TOTAL_ERR") {
            return Some(count);
        }
        sum = Some(count.saturating_add(sum.unwrap_or_default()));
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::super::reading::testing::{garbage, put, root};
    use super::*;

    const CORRECTABLE: &str = "RxErr 1\nBadTLP 2\nTimeout 0\nTOTAL_ERR_COR 3\n";

    #[test]
    fn counters_are_read_by_controller_device_and_cpu() {
        let root = root(&[
            ("sys/devices/system/edac/mc/mc0/ce_count", "12\n"),
            ("sys/devices/system/edac/mc/mc0/ue_count", "1\n"),
            ("sys/devices/system/edac/mc/power/control", "auto\n"),
            ("sys/bus/pci/devices/0000:00:1c.0/aer_dev_correctable", CORRECTABLE),
            ("sys/bus/pci/devices/0000:00:1c.0/aer_dev_nonfatal", "Undefined 0\nPoisoned TLP 4\n"),
            ("sys/bus/pci/devices/0000:00:1c.0/aer_dev_fatal", "TOTAL_ERR_FATAL 5\n"),
            ("sys/bus/pci/devices/0000:00:00.0/vendor", "0x8086\n"),
            ("sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count", "7\n"),
            ("sys/devices/system/cpu/cpu1/thermal_throttle/package_throttle_count", "8\n"),
        ]);
        let hardware = HardwareReader::new(root.path()).unwrap().read();
        assert_eq!(hardware.ecc, [("mc0".to_owned(), (12, 1))].into());
        assert_eq!(hardware.pcie, [("0000:00:1c.0".to_owned(), (3, 4, 5))].into());
        assert_eq!(hardware.throttled, Some(15));
    }

    #[test]
    fn host_without_any_says_so() {
        let root = root(&[("sys/devices/system/cpu/cpu0/online", "1\n")]);
        assert!(HardwareReader::new(root.path()).unwrap_err().starts_with("no EDAC"));
    }

    #[test]
    fn garbage_is_read_without_a_panic() {
        let root = root(&[]);
        for seed in 0..200 {
            put(root.path(), "sys/bus/pci/devices/0/aer_dev_correctable", garbage(seed, &[CORRECTABLE]));
            put(root.path(), "sys/devices/system/edac/mc/mc0/ce_count", garbage(seed + 500, &["12"]));
            let _ = HardwareReader::new(root.path()).map(|reader| reader.read());
        }
    }
}
