//! Which time of being mounted it is: a number that another mount of the same device at the same point does not have.
//!
//! ext4, XFS and f2fs have a directory of /sys for as long as they are mounted; its inode number is the kernel's identifier of that
//! directory, which counts upwards (kernfs: `idr_alloc_cyclic`, and a generation above 32 bits). Elsewhere it is the number of the mount, which is
//! given again, most often to the next one: there, only another source or a longer pause tells two mounts apart.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::libc;

use super::reading::link_name;
use crate::sys::stat;

/// Directories of /sys/fs with one for each mounted device; ext2 and ext3 are ext4's as well.
const BY_DEVICE: [&str; 3] = ["ext4", "xfs", "f2fs"];

/// Of the file system on a device as in /sys/fs/ext4.
pub(super) fn of_device(root: &Path, device: Option<&str>) -> Option<u64> {
    let device = device.filter(|name| super::devices::is_name(name))?;
    let base = root.join("sys/fs");
    BY_DEVICE.iter().find_map(|driver| fs::metadata(base.join(driver).join(device)).ok()).map(|found| found.ino())
}

/// Of what is mounted at a path now. Touches it: for helpers only.
pub(super) fn at(root: &Path, path: &Path) -> Option<u64> {
    let found = stat::of_path(path).ok()?;
    let number = format!("{}:{}", libc::major(found.dev), libc::minor(found.dev));
    let device = link_name(&root.join("sys/dev/block").join(number));
    of_device(root, device.as_deref()).or_else(|| Some(found.mount_id).filter(|id| *id != 0))
}
