//! The block devices of the files that a process has open, as /proc tells without touching one of them.

use std::collections::BTreeSet;
use std::fs;

use super::mounts::{Device, Mount, Mounts};

/// Descriptors that are looked at.
const DESCRIPTORS_MAX: usize = 64;

/// Their names (`dm-0`), each once; empty where nothing can be told. It does not wait: neither for a disk nor for the process.
#[must_use]
pub fn of(pid: i32) -> Vec<String> {
    let Ok(mounts) = Mounts::read() else { return Vec::new() };
    let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fdinfo")) else { return Vec::new() };
    let mut devices = BTreeSet::new();
    for descriptor in descriptors.filter_map(Result::ok).take(DESCRIPTORS_MAX) {
        let Ok(information) = fs::read_to_string(descriptor.path()) else { continue };
        let mount = information.lines().find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse().ok());
        devices.extend(mount.and_then(|id| mounts.by_id(id)).and_then(Mount::block_device));
    }
    devices.into_iter().filter_map(Device::name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::testing::TempDir;

    #[test]
    fn device_of_an_open_file_is_named() {
        let directory = TempDir::new();
        let file = fs::File::create(directory.path().join("open")).unwrap();
        let mut child = std::process::Command::new("sleep").arg("60").stdin(file).spawn().unwrap();
        let devices = of(i32::try_from(child.id()).unwrap());
        child.kill().unwrap();
        child.wait().unwrap();
        let mounts = Mounts::read().unwrap();
        match mounts.of(directory.path()).and_then(Mount::block_device).and_then(Device::name) {
            Some(name) => assert!(devices.contains(&name), "{name} is not in {devices:?}"),
            None => eprintln!("skipped: the temporary directory lies on no block device"),
        }
        assert!(of(i32::MAX).is_empty());
    }
}
