//! What is mounted where, as /proc/self/mountinfo says: no mounted path is touched, so that no hung disk can hold up who asks.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// A block device by its numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Device {
    pub major: u32,
    pub minor: u32,
}

impl Device {
    /// From `8:1`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (major, minor) = text.trim().split_once(':')?;
        Some(Self { major: major.parse().ok()?, minor: minor.parse().ok()? })
    }

    /// Its name below /sys/dev/block (`sda1`, `dm-0`).
    #[must_use]
    pub fn name(self) -> Option<String> {
        let link = fs::read_link(self.sysfs()).ok()?;
        Some(link.file_name()?.to_string_lossy().into_owned())
    }

    /// The whole disk that it is a part of, or itself.
    pub(super) fn whole(self) -> Self {
        let part = self.sysfs();
        if !part.join("partition").exists() {
            return self;
        }
        let whole = fs::read_to_string(part.join("../dev")).ok();
        whole.and_then(|numbers| Self::parse(&numbers)).unwrap_or(self)
    }

    fn sysfs(self) -> PathBuf {
        PathBuf::from(format!("/sys/dev/block/{self}"))
    }
}

impl std::fmt::Display for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mount {
    pub(super) id: u64,
    pub(super) device: Device,
    /// The directory of the file system that is seen at `point`.
    pub(super) root: PathBuf,
    pub(super) point: PathBuf,
    pub(super) fs_type: String,
    pub(super) source: PathBuf,
    /// Of the file system itself, by comma, escaped as the kernel writes it.
    pub(super) options: String,
    /// Mounted read-only.
    pub(super) read_only: bool,
}

impl Mount {
    fn not_writable(&self) -> Option<&'static str> {
        let says = |word: &str| self.options.split(',').any(|option| option == word);
        let failed = ["emergency_ro", "shutdown", "ro"].into_iter().find(|word| says(word));
        failed.or(self.read_only.then_some("ro"))
    }

    /// Its own, not that of an overlay's layers; `None` for memory and the kernel's own.
    pub(super) fn block_device(&self) -> Option<Device> {
        if self.device.major != 0 {
            return Some(self.device);
        }
        // btrfs and others show a number that is no device's, but name the device.
        self.source.starts_with("/dev").then(|| number_of(&self.source)).flatten()
    }
}

/// What others of ours need to know of a mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenMount {
    pub point: PathBuf,
    pub fs_type: String,
    /// Mounted read-only, or made so by the kernel since (`emergency_ro`, `shutdown`: the word). An error of ext4 alone does not show here.
    pub not_writable: Option<&'static str>,
}

/// The mount with this number (`stx_mnt_id`), as the kernel lists it; `None` when it is not mounted any more.
pub fn seen(mount_id: u64) -> io::Result<Option<SeenMount>> {
    let mounts = Mounts::read()?;
    Ok(mounts.by_id(mount_id).map(|mount| SeenMount {
        point: mount.point.clone(),
        fs_type: mount.fs_type.clone(),
        not_writable: mount.not_writable(),
    }))
}

/// The whole disk that a path lies on by its name alone; `Err`: why there is none.
pub fn disk_of(path: &Path) -> io::Result<Result<Device, String>> {
    Ok(Mounts::read()?.disk_of(path))
}

/// All mounts of this process, in their order: a later one covers an earlier one of the same point.
#[derive(Clone, Debug, Default)]
pub(super) struct Mounts(Vec<Mount>);

impl Mounts {
    pub(super) fn read() -> io::Result<Self> {
        Ok(Self::parse(&fs::read("/proc/self/mountinfo")?))
    }

    pub(super) fn parse(mountinfo: &[u8]) -> Self {
        Self(mountinfo.split(|byte| *byte == b'\n').filter_map(parse_line).collect())
    }

    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = &Mount> {
        self.0.iter()
    }

    pub(super) fn by_id(&self, id: u64) -> Option<&Mount> {
        self.0.iter().find(|mount| mount.id == id)
    }

    /// The mount that a path lies on by its name alone: links are not followed.
    pub(super) fn of(&self, path: &Path) -> Option<&Mount> {
        let covering = self.0.iter().filter(|mount| path.starts_with(&mount.point));
        // The last of the longest.
        covering.max_by_key(|mount| mount.point.as_os_str().len())
    }

    /// The whole disk that a path lies on; `Err`: why there is none.
    pub(super) fn disk_of(&self, path: &Path) -> Result<Device, String> {
        let mut path = path.to_owned();
        for _ in 0..STACKED_MAX {
            let Some(mount) = self.of(&path) else { return Err(format!("{} lies on no mount", path.display())) };
            if mount.fs_type == "overlay" {
                let upper = mount.options.split(',').find_map(|option| option.strip_prefix("upperdir="));
                let Some(upper) = upper else {
                    return Err(format!("the overlay {} has no upper directory", mount.point.display()));
                };
                path = PathBuf::from(OsStr::from_bytes(&unescape(upper.as_bytes())));
                continue;
            }
            return mount.block_device().map(Device::whole).ok_or_else(|| {
                format!("{} is {}, which lies on no block device", mount.point.display(), mount.fs_type)
            });
        }
        Err(format!("more than {STACKED_MAX} overlays lie on each other"))
    }
}

/// The point of a mount that lies below this directory, and is not mounted at it.
pub fn below(directory: &Path) -> io::Result<Option<PathBuf>> {
    let is_below = |point: &Path| point != directory && point.starts_with(directory);
    Ok(Mounts::read()?.iter().find(|mount| is_below(&mount.point)).map(|mount| mount.point.clone()))
}

/// Overlays of overlays that are followed; the kernel allows two.
const STACKED_MAX: u32 = 4;

/// The number of a device node. It lies in devtmpfs, never on a disk.
fn number_of(node: &Path) -> Option<Device> {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    let found = fs::metadata(node).ok().filter(|found| found.file_type().is_block_device())?;
    let number = |part: u64| u32::try_from(part).ok();
    let (major, minor) = (nix::sys::stat::major(found.rdev()), nix::sys::stat::minor(found.rdev()));
    Some(Device { major: number(major)?, minor: number(minor)? })
}

fn parse_line(line: &[u8]) -> Option<Mount> {
    let mut words = line.split(|byte| *byte == b' ');
    let text = |word: &[u8]| String::from_utf8_lossy(word).into_owned();
    let path = |word: &[u8]| PathBuf::from(OsStr::from_bytes(&unescape(word)));
    let id = text(words.next()?).parse().ok()?;
    let device = Device::parse(&text(words.nth(1)?))?;
    let (root, point) = (path(words.next()?), path(words.next()?));
    let read_only = words.next()?.split(|byte| *byte == b',').any(|option| option == b"ro");
    // Optional fields end with a dash.
    let mut words = words.skip_while(|word| *word != b"-").skip(1);
    let (fs_type, source) = (text(words.next()?), path(words.next()?));
    Some(Mount { id, device, root, point, fs_type, source, options: text(words.next().unwrap_or_default()), read_only })
}

/// The kernel writes space, tab, newline, backslash and `#` as three octal digits.
pub(super) fn unescape(text: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        let digits = after.get(..3).filter(|_| *first == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        let byte = digits.and_then(|digits| u8::from_str_radix(digits, 8).ok());
        plain.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { &after[3..] } else { after };
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "27 1 254:0 / / rw,relatime - ext4 /dev/root rw,discard\n\
        30 27 0:30 / /var/lib/a\\040b rw,relatime shared:4 master:2 - overlay overlay rw,lowerdir=/l,upperdir=/data/up,workdir=/w\n\
        31 27 8:1 /sub /data ro,nosuid - xfs /dev/sda1 rw\n\
        32 27 0:40 / /tmp rw - tmpfs tmpfs rw\n\
        33 31 7:0 / /data rw - ext4 /dev/loop0 rw\n\
        34 27 0:41 / /cow rw - btrfs /dev/null rw\n\
        bent\n";

    #[test]
    fn path_lies_on_the_last_of_the_longest_mounts() {
        let mounts = Mounts::parse(MOUNTS.as_bytes());
        let of = |path: &str| mounts.of(Path::new(path)).unwrap().id;
        assert_eq!((of("/"), of("/data"), of("/data/x"), of("/database")), (27, 33, 33, 27));
        assert_eq!(of("/var/lib/a b/c"), 30);
        assert_eq!(
            mounts.by_id(31).map(|mount| (mount.read_only, mount.root.as_path())),
            Some((true, Path::new("/sub")))
        );
        assert_eq!(mounts.iter().count(), 6);
        let not_writable = |id| mounts.by_id(id).unwrap().not_writable();
        assert_eq!((not_writable(27), not_writable(31)), (None, Some("ro")));
        let failed = Mounts::parse(b"27 1 7:0 / /m rw - ext4 /dev/loop0 rw,emergency_ro\n");
        assert_eq!(failed.by_id(27).unwrap().not_writable(), Some("emergency_ro"));
    }

    #[test]
    fn disk_of_a_path_is_found_through_overlays_and_not_in_memory() {
        let mounts = Mounts::parse(MOUNTS.as_bytes());
        let disk = |path: &str| mounts.disk_of(Path::new(path));
        let device = |major, minor| Ok(Device { major, minor });
        assert_eq!(disk("/var/lib/a b/c"), device(7, 0));
        assert!(disk("/tmp/x").unwrap_err().contains("tmpfs, which lies on no block device"));
        assert!(disk("/cow/x").unwrap_err().contains("no block device"));
        let looped = Mounts::parse(b"30 27 0:30 / / rw - overlay o rw,upperdir=/x\n");
        assert!(looped.disk_of(Path::new("/")).unwrap_err().contains("overlays"));
        assert_eq!(Mounts::parse(b"").disk_of(Path::new("/")).unwrap_err(), "/ lies on no mount");
    }

    #[test]
    fn own_root_has_a_mount_and_partitions_have_a_disk() {
        let mounts = Mounts::read().unwrap();
        assert!(mounts.of(Path::new("/")).is_some());
        for entry in fs::read_dir("/sys/dev/block").into_iter().flatten() {
            let device = Device::parse(&entry.unwrap().file_name().to_string_lossy()).unwrap();
            let (name, whole) = (device.name().unwrap(), device.whole().name().unwrap());
            assert!(name.starts_with(&whole), "{name} of {whole}");
        }
        assert_eq!(Device { major: 4_000, minor: 1 }.name(), None);
    }
}
