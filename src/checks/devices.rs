//! What the host has: disks, mounts and NICs. Read from /proc/self/mountinfo, /sys/block and /sys/class/net; no mounted path, no device
//! and no lock of a driver is touched.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::instance;
use super::mounts::{self, MountLine, unescape};
use super::reading::{Buffer, Kept, link_name, names_in, read_number, read_value};
use crate::engine::host::sample::{Devices, Disk, Mount, Nic, NicKind, SmartBy};

/// More are left out: together they must fit into one packet, and the helpers of so many would be more than a host can bear.
pub(super) const DISKS_MAX: usize = 256;
pub(super) const MOUNTS_MAX: usize = 256;
pub(super) const NICS_MAX: usize = 256;
/// Mounts of other machines and processes, which any user may have made: they must not take the places of disks.
const REMOTE_MAX: usize = 32;
/// All that is there as JSON: a packet takes 128 KiB.
const JSON_BYTES_MAX: usize = 100 << 10;
/// Entries of a directory of /sys that are looked at.
const ENTRIES_MAX: usize = 4096;
/// A mount with a longer point or source is left out; 4,096 would be possible.
const NAME_BYTES_MAX: usize = 256;
/// Devices upon devices, as many layers as that.
const LAYERS_MAX: usize = 16;

/// May wait for another machine or process.
const REMOTE: &[&str] = &[
    "9p",
    "acfs",
    "afs",
    "beegfs",
    "ceph",
    "cifs",
    "coda",
    "davfs",
    "glusterfs",
    "gpfs",
    "lustre",
    "ncpfs",
    "ocfs2",
    "orangefs",
    "pvfs2",
    "smb3",
    "smbfs",
    "virtiofs",
];
/// Types by beginning: `nfs4`, `fuse.sshfs`.
const REMOTE_BEGINNINGS: &[&str] = &["nfs", "fuse"];
/// Not of the kind that `fuse` begins: disks by way of a process, and the file system of FUSE's own connections.
const NEVER: &[&str] = &["fusectl", "nfsd"];
/// Images: always full, never written.
const IMAGES: &[&str] = &["squashfs", "erofs", "iso9660", "cramfs", "romfs"];
/// File systems without a block device of their own number in mountinfo that are nevertheless on a disk.
const ON_DISK: &[&str] = &["btrfs", "bcachefs", "zfs"];

/// Reads everything anew.
pub(super) fn read(root: &Path, buffer: &mut Buffer) -> Devices {
    let mounts = read_mounts(root, buffer);
    let mounted: BTreeSet<&str> = mounts.iter().filter_map(|mount| mount.disk.as_deref()).collect();
    let disks = names_in(&root.join("sys/block"), ENTRIES_MAX)
        .into_iter()
        .filter_map(|name| read_disk(root, name, &mounted))
        .take(DISKS_MAX)
        .collect();
    let mut devices = Devices { disks, nics: read_nics(root), mounts };
    while serde_json::to_vec(&devices).is_ok_and(|json| json.len() > JSON_BYTES_MAX) {
        let mounts = &mut devices.mounts;
        let last = mounts.iter().rposition(|mount| mount.remote).or(mounts.len().checked_sub(1));
        let Some(last) = last else { break };
        mounts.remove(last);
    }
    devices
}

fn read_mounts(root: &Path, buffer: &mut Buffer) -> Vec<Mount> {
    let mut table = Kept::new(root.join("proc/self/mountinfo"));
    let text = table.table(buffer).unwrap_or_default();
    // By device: the first of several mounts of one, and by mount point: what was mounted last covers the earlier ones.
    let mut by_device = BTreeMap::new();
    let mut found: Vec<Option<Mount>> = Vec::new();
    let mut remote = 0;
    for line in mounts::lines(text) {
        if found.len() >= MOUNTS_MAX {
            break;
        }
        let Some(mount) = read_mount(root, &line) else { continue };
        if mount.remote {
            if remote == REMOTE_MAX {
                continue;
            }
            remote += 1;
        }
        let device = mount.device.clone().unwrap_or_else(|| format!("{} {}", line.number, mount.source));
        let covered = found.iter_mut().find(|other| other.as_ref().is_some_and(|other| other.point == mount.point));
        if by_device.contains_key(&device) {
            if let Some(Some(covered)) = covered {
                covered.covered = covered.device != mount.device;
            }
            continue;
        }
        if let Some(covered) = covered {
            *covered = None;
        }
        by_device.insert(device, found.len());
        found.push(Some(mount));
    }
    found.into_iter().flatten().collect()
}

/// `None`: nothing that can be full or fail.
fn read_mount(root: &Path, line: &MountLine<'_>) -> Option<Mount> {
    let is_root = line.point == "/";
    if line.point.len() > NAME_BYTES_MAX || line.source.len() > NAME_BYTES_MAX || NEVER.contains(&line.fs_type) {
        return None;
    }
    if IMAGES.contains(&line.fs_type) && !is_root {
        return None;
    }
    let (point, source) = (unescape(line.point), unescape(line.source));
    if [&point, &source].into_iter().any(|name| name.chars().any(char::is_control)) {
        return None;
    }
    let remote = is_remote(line.fs_type);
    // `fuseblk` is a disk behind a process: it waits for both.
    let device = device_of(root, line, &source).filter(|_| !remote || line.fs_type == "fuseblk");
    // A block device of which nothing is left in /sys is dead, not uninteresting.
    let dead = device.is_none() && !line.number.starts_with("0:");
    if device.is_none() && !dead && !remote && !is_root && !ON_DISK.contains(&line.fs_type) {
        return None;
    }
    let disk = device.as_deref().and_then(|device| whole_disk(root, device));
    let instance = instance::of_device(root, device.as_deref()).or_else(|| line.id.parse().ok());
    Some(Mount {
        point,
        source,
        fs_type: line.fs_type.to_owned(),
        disk,
        device,
        read_only: line.read_only || IMAGES.contains(&line.fs_type),
        remote,
        instance,
        covered: false,
    })
}

fn is_remote(fs_type: &str) -> bool {
    REMOTE.contains(&fs_type) || REMOTE_BEGINNINGS.iter().any(|beginning| fs_type.starts_with(beginning))
}

/// The block device by its number, or where the file system has a number of its own, by the name of its source.
fn device_of(root: &Path, line: &MountLine<'_>, source: &str) -> Option<String> {
    if !line.number.starts_with("0:") {
        return link_name(&root.join("sys/dev/block").join(line.number));
    }
    if !ON_DISK.contains(&line.fs_type) {
        return None;
    }
    // bcachefs names all its devices.
    let path = source.split(':').next()?.strip_prefix("/dev/")?;
    match path.strip_prefix("mapper/") {
        Some(mapped) => mapped_device(root, mapped),
        None => Some(path.to_owned()).filter(|name| is_name(name) && root.join("sys/class/block").join(name).exists()),
    }
}

/// `dm-0` of `/dev/mapper/vg-root`
fn mapped_device(root: &Path, mapped: &str) -> Option<String> {
    let block = root.join("sys/block");
    let mut names = names_in(&block, ENTRIES_MAX);
    names.retain(|name| name.starts_with("dm-"));
    names.into_iter().find(|name| read_value(&block.join(name).join("dm/name")).as_deref() == Some(mapped))
}

/// A name of one component, as the kernel gives them.
pub(super) fn is_name(text: &str) -> bool {
    !text.is_empty() && !text.contains('/') && text != "." && text != ".."
}

/// The disk that a partition is of; a whole disk is its own.
pub(super) fn whole_disk(root: &Path, device: &str) -> Option<String> {
    if !is_name(device) {
        return None;
    }
    if root.join("sys/block").join(device).exists() {
        return Some(device.to_owned());
    }
    let link = std::fs::read_link(root.join("sys/class/block").join(device)).ok()?;
    let disk = link.parent()?.file_name()?.to_str()?;
    root.join("sys/block").join(disk).exists().then(|| disk.to_owned())
}

fn read_disk(root: &Path, name: String, mounted: &BTreeSet<&str>) -> Option<Disk> {
    let base = root.join("sys/block").join(&name);
    let begins = |beginnings: &[&str]| beginnings.iter().any(|beginning| name.starts_with(beginning));
    let removable = read_number(&base.join("removable")) == Some(1);
    if begins(&["loop", "zram"]) && !mounted.contains(name.as_str()) || begins(&["ram", "sr", "fd"]) {
        return None;
    }
    // eMMC's own boot areas, and paths of NVMe that the kernel hides itself.
    if name.starts_with("mmcblk") && name.contains("boot") || read_number(&base.join("hidden")) == Some(1) {
        return None;
    }
    // A card reader without a card, and the network block devices that nobody has connected.
    let empty = read_number(&base.join("size")) == Some(0);
    if empty && (removable || name.starts_with("nbd")) {
        return None;
    }
    let mut below = BTreeSet::new();
    disks_below(root, &name, &mut below, LAYERS_MAX);
    Some(Disk {
        number: read_value(&base.join("dev")).unwrap_or_default(),
        rotating: read_number(&base.join("queue/rotational")) == Some(1),
        removable,
        below: below.into_iter().collect(),
        smart: smart_by(&base, &name),
        name,
    })
}

/// The whole disks at the bottom.
fn disks_below(root: &Path, name: &str, found: &mut BTreeSet<String>, layers: usize) {
    let slaves = names_in(&root.join("sys/block").join(name).join("slaves"), ENTRIES_MAX);
    for disk in slaves.iter().filter_map(|slave| whole_disk(root, slave)) {
        let made_of_others = !names_in(&root.join("sys/block").join(&disk).join("slaves"), 1).is_empty();
        if made_of_others && layers > 0 {
            disks_below(root, &disk, found, layers - 1);
        } else if found.len() < DISKS_MAX {
            found.insert(disk);
        }
    }
}

/// A disk behind USB is not asked: the bridges differ, and some hang.
fn smart_by(base: &Path, name: &str) -> Option<SmartBy> {
    if name.starts_with("nvme") {
        return Some(SmartBy::Nvme);
    }
    let behind_usb = std::fs::read_link(base)
        .ok()
        .is_some_and(|link| link.components().any(|part| part.as_os_str().to_string_lossy().starts_with("usb")));
    if !name.starts_with("sd") || behind_usb {
        return None;
    }
    match read_value(&base.join("device/vendor"))?.as_str() {
        "ATA" => Some(SmartBy::Ata),
        _ => Some(SmartBy::Scsi),
    }
}

fn read_nics(root: &Path) -> Vec<Nic> {
    let base = root.join("sys/class/net");
    let mut nics: Vec<Nic> = names_in(&base, ENTRIES_MAX)
        .into_iter()
        .filter(|name| name != "lo")
        .filter_map(|name| {
            let at = base.join(&name);
            // `bonding_masters` is a file beside them.
            if !at.is_dir() {
                return None;
            }
            let kind = match (at.join("bonding").exists(), at.join("device").exists()) {
                (true, _) => NicKind::Bond,
                (false, true) => NicKind::Physical,
                (false, false) => NicKind::Virtual,
            };
            let wireless = at.join("wireless").exists() || at.join("phy80211").exists();
            Some(Nic { kind, master: link_name(&at.join("master")), wireless, name })
        })
        .collect();
    if nics.len() > NICS_MAX {
        // A host of containers: those with a device are the ones to keep.
        nics.sort_by_key(|nic| nic.kind == NicKind::Virtual);
        nics.truncate(NICS_MAX);
        nics.sort_by(|one, other| one.name.cmp(&other.name));
    }
    nics
}

#[cfg(test)]
mod tests;
