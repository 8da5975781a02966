use super::super::reading::testing::{TempDir, garbage, link, put, root};
use super::*;

const MOUNTS: &str = "\
22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 253:0 / / rw,relatime - ext4 /dev/mapper/vg-root rw,discard
30 27 8:1 / /boot rw - ext4 /dev/sda1 rw
31 27 8:1 /efi /also rw - ext4 /dev/sda1 rw
32 27 0:40 /vol /data rw - btrfs /dev/sdb rw,subvolid=5
33 27 0:41 / /mnt/nfs rw - nfs4 server:/export rw
34 27 0:42 / /mnt/a\\040b rw - fuse.sshfs me@host:/ rw
35 27 7:3 / /snap/core/1 ro - squashfs /dev/loop3 ro
36 27 7:4 / /mnt/image ro - ext4 /dev/loop4 ro
37 27 0:43 / /run rw - tmpfs tmpfs rw
38 27 0:44 / /var/lib/docker/overlay2/x rw - overlay overlay rw
39 27 0:45 / /sys/fs/fuse/connections rw - fusectl fusectl rw
40 30 9:0 / /boot rw - xfs /dev/md0 rw
";

/// A disk with a mapped device and an array on it, another one with btrfs, and what is not looked at.
fn host() -> TempDir {
    let root = root(&[("proc/self/mountinfo", MOUNTS)]);
    let at = root.path();
    for (name, number, rotating) in [
        ("sda", "8:0", 1),
        ("sdb", "8:16", 0),
        ("nvme0n1", "259:0", 0),
        ("md0", "9:0", 0),
        ("dm-0", "253:0", 0),
        ("loop3", "7:3", 0),
        ("loop4", "7:4", 0),
        ("loop5", "7:5", 0),
        ("ram0", "1:0", 0),
        ("sr0", "11:0", 1),
        ("nbd0", "43:0", 0),
        ("mmcblk0boot0", "179:8", 0),
    ] {
        put(at, &format!("sys/devices/x/block/{name}/dev"), format!("{number}\n"));
        put(at, &format!("sys/devices/x/block/{name}/queue/rotational"), format!("{rotating}\n"));
        put(at, &format!("sys/devices/x/block/{name}/size"), if name == "nbd0" { "0\n" } else { "4096\n" });
        link(at, &format!("sys/block/{name}"), &format!("../devices/x/block/{name}"));
        link(at, &format!("sys/class/block/{name}"), &format!("../../devices/x/block/{name}"));
        link(at, &format!("sys/dev/block/{number}"), &format!("../../devices/x/block/{name}"));
    }
    for (disk, partition, number) in [("sda", "sda1", "8:1"), ("sda", "sda2", "8:2"), ("nvme0n1", "nvme0n1p1", "259:1")]
    {
        put(at, &format!("sys/devices/x/block/{disk}/{partition}/partition"), "1\n");
        link(at, &format!("sys/class/block/{partition}"), &format!("../../devices/x/block/{disk}/{partition}"));
        link(at, &format!("sys/dev/block/{number}"), &format!("../../devices/x/block/{disk}/{partition}"));
    }
    put(at, "sys/devices/x/block/sda/device/vendor", "ATA     \n");
    put(at, "sys/devices/x/block/sdb/device/vendor", "SEAGATE \n");
    put(at, "sys/devices/x/block/dm-0/dm/name", "vg-root\n");
    link(at, "sys/devices/x/block/dm-0/slaves/md0", "../../md0");
    link(at, "sys/devices/x/block/md0/slaves/sda2", "../../sda/sda2");
    link(at, "sys/devices/x/block/md0/slaves/nvme0n1p1", "../../nvme0n1/nvme0n1p1");
    root
}

fn read(root: &Path) -> Devices {
    super::read(root, &mut Buffer::new())
}

#[test]
fn mounts_are_those_that_can_fail_each_device_once() {
    let root = host();
    let mounts: Vec<_> = read(root.path())
        .mounts
        .into_iter()
        .map(|mount| (mount.point, mount.fs_type, mount.device, mount.disk, mount.read_only, mount.remote))
        .collect();
    let some = |name: &str| Some(name.to_owned());
    let line = |point: &str, fs_type: &str, device, disk, read_only, remote| {
        (point.to_owned(), fs_type.to_owned(), device, disk, read_only, remote)
    };
    assert_eq!(
        mounts,
        [
            line("/", "ext4", some("dm-0"), some("dm-0"), false, false),
            line("/data", "btrfs", some("sdb"), some("sdb"), false, false),
            line("/mnt/nfs", "nfs4", None, None, false, true),
            line("/mnt/a b", "fuse.sshfs", None, None, false, true),
            line("/mnt/image", "ext4", some("loop4"), some("loop4"), true, false),
            line("/boot", "xfs", some("md0"), some("md0"), false, false),
        ],
        "the XFS covers the ext4 of /boot"
    );
}

#[test]
fn each_time_of_being_mounted_has_a_number_of_its_own() {
    let root = host();
    let boot = || read(root.path()).mounts.into_iter().find(|mount| mount.point == "/boot").unwrap();
    assert_eq!(boot().instance, Some(40), "the number of the mount, where there is nothing better");
    let by_device = |inode: &str| {
        let at = root.path().join("sys/fs/xfs/md0");
        std::fs::remove_dir_all(&at).unwrap_or_default();
        put(root.path(), &format!("sys/fs/xfs/md0/{inode}"), "");
        std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(at).unwrap())
    };
    let first = by_device("one");
    assert_eq!(boot().instance, Some(first));
}

#[test]
fn directory_of_another_disk_that_is_mounted_over_one_covers_it() {
    let root = host();
    let mounts = "27 1 253:0 / / rw - ext4 /dev/mapper/vg-root rw\n\
        28 27 8:1 / /data rw - ext4 /dev/sda1 rw\n\
        29 28 253:0 /var/live /data rw - ext4 /dev/mapper/vg-root rw\n\
        30 27 8:2 / /other rw - ext4 /dev/sda2 rw\n\
        31 30 8:2 /below /other rw - ext4 /dev/sda2 rw\n";
    put(root.path(), "proc/self/mountinfo", mounts);
    let found: Vec<_> =
        read(root.path()).mounts.into_iter().map(|mount| (mount.point, mount.device, mount.covered)).collect();
    let line = |point: &str, device: &str, covered| (point.to_owned(), Some(device.to_owned()), covered);
    assert_eq!(found, [line("/", "dm-0", false), line("/data", "sda1", true), line("/other", "sda2", false)]);
}

#[test]
fn disks_are_those_that_can_fail_with_what_is_below_them() {
    let root = host();
    let disks = read(root.path()).disks;
    let names: Vec<&str> = disks.iter().map(|disk| disk.name.as_str()).collect();
    assert_eq!(names, ["dm-0", "loop4", "md0", "nvme0n1", "sda", "sdb"]);
    let by_name = |name: &str| disks.iter().find(|disk| disk.name == name).unwrap();
    let below = ["nvme0n1".to_owned(), "sda".to_owned()];
    assert_eq!((&by_name("dm-0").below[..], &by_name("md0").below[..]), (&below[..], &below[..]));
    assert_eq!(by_name("sda").below, [] as [&str; 0]);
    assert!(by_name("sda").rotating && by_name("sda").number == "8:0");
    let smart = ["sda", "sdb", "nvme0n1", "md0"].map(|name| by_name(name).smart);
    assert_eq!(smart, [Some(SmartBy::Ata), Some(SmartBy::Scsi), Some(SmartBy::Nvme), None]);
}

#[test]
fn overlay_counts_as_the_root_only() {
    let root = host();
    put(root.path(), "proc/self/mountinfo", "1 0 0:50 / / rw - overlay overlay rw\n2 1 0:51 / /x rw - overlay o rw\n");
    let mounts = read(root.path()).mounts;
    assert_eq!(mounts.len(), 1);
    assert_eq!((mounts[0].point.as_str(), &mounts[0].disk, mounts[0].remote), ("/", &None, false));
}

#[test]
fn nics_are_told_by_what_is_below_them() {
    let root = root(&[("sys/class/net/bonding_masters", "bond0\n"), ("sys/class/net/lo/mtu", "65536\n")]);
    let at = root.path();
    put(at, "sys/class/net/eth0/device/vendor", "x");
    put(at, "sys/class/net/wlan0/device/vendor", "x");
    put(at, "sys/class/net/wlan0/phy80211/name", "phy0");
    put(at, "sys/class/net/bond0/bonding/mode", "1");
    put(at, "sys/class/net/veth1/mtu", "1500");
    link(at, "sys/class/net/eth0/master", "../bond0");
    let nic = |name: &str, kind, master: Option<&str>, wireless| Nic {
        name: name.to_owned(),
        kind,
        master: master.map(str::to_owned),
        wireless,
    };
    assert_eq!(
        read(at).nics,
        [
            nic("bond0", NicKind::Bond, None, false),
            nic("eth0", NicKind::Physical, Some("bond0"), false),
            nic("veth1", NicKind::Virtual, None, false),
            nic("wlan0", NicKind::Physical, None, true),
        ]
    );
}

#[test]
fn all_that_is_possible_fits_into_one_packet() {
    let mut devices = Devices::default();
    for number in 0..256 {
        let name = format!("nvme{number}n1");
        let long = "x".repeat(40);
        devices.disks.push(Disk { name: name.clone(), number: "259:100".to_owned(), ..Disk::default() });
        let mount =
            Mount { point: format!("/mnt/{number}/{long}"), source: format!("/dev/{name}p1"), ..Mount::default() };
        devices.mounts.push(Mount { disk: Some(name.clone()), device: Some(format!("{name}p1")), ..mount });
        devices.nics.push(Nic { name: format!("veth{number}abcdef"), ..Nic::default() });
    }
    let bytes = serde_json::to_vec(&devices).unwrap().len();
    assert!(bytes < crate::sys::packet::PACKET_BYTES_MAX, "{bytes}");
}

#[test]
fn garbage_is_read_without_a_panic() {
    let root = host();
    for seed in 0..200 {
        put(
            root.path(),
            "proc/self/mountinfo",
            garbage(seed, &[MOUNTS, " - ext4 /dev/sda ", "8:1 / /", "0:4 - btrfs /dev/../x"]),
        );
        read(root.path());
    }
}

#[test]
fn this_host_has_a_root() {
    let devices = read(Path::new("/"));
    assert!(devices.mounts.iter().any(|mount| mount.point == "/"), "{devices:?}");
}
