//! Mount points: where they are, whether something is mounted there, and whether it is read-only on purpose.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use super::mounts;
use crate::sys::statfs;

/// How long a remount may take between its two calls.
const REMOUNT_PAUSE: Duration = Duration::from_millis(50);
const REMOUNT_LOOKS: u32 = 10;

/// The mount point below the root that the host's files are read from.
pub(super) fn path(root: &Path, point: &str) -> PathBuf {
    root.join(point.trim_start_matches('/'))
}

/// An error with the sentence when nothing is mounted there. Below another root, or before Linux 5.8, it cannot be known and every
/// directory counts.
pub(super) fn must_be_mounted(root: &Path, point: &str) -> Result<(), String> {
    // In a changed root, `/` is a directory like others.
    if root != Path::new("/") || point == "/" {
        return Ok(());
    }
    match statfs::is_mount_point(Path::new(point)) {
        Ok(Some(true) | None) => Ok(()),
        Ok(Some(false)) => Err(format!("nothing is mounted on {point}")),
        Err(error) => Err(error.to_string()),
    }
}

/// Whether somebody mounted it read-only, asked when a write has failed because of that. What the kernel does to a file system with
/// errors never sets the option of the mount itself, at most that of the file system below (both are in mountinfo).
pub(super) fn is_read_only_on_purpose(root: &Path, point: &str) -> bool {
    let says_so =
        || fs::read_to_string(root.join("proc/self/mountinfo")).is_ok_and(|text| is_read_only_in(&text, point));
    if says_so() {
        return true;
    }
    // A remount stops the writers first, writes back what they left, and sets the option last: syncfs waits for the kernel's part of it,
    // the pause for programs that set the option by a second call. What it says of the file system itself is known already.
    let _ = statfs::sync(&path(root, point));
    (0..REMOUNT_LOOKS).any(|_| {
        thread::sleep(REMOUNT_PAUSE);
        says_so()
    })
}

/// The last line counts: it is mounted over the ones before.
fn is_read_only_in(mountinfo: &str, point: &str) -> bool {
    mounts::lines(mountinfo)
        .filter(|line| mounts::unescape(line.point) == point)
        .last()
        .is_some_and(|line| line.read_only)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTINFO: &str = "\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw,errors=remount-ro
30 22 8:17 / /data rw,relatime shared:2 - btrfs /dev/sdb1 ro,space_cache=v2
31 22 8:33 / /mnt/a\\040b\\134c ro,relatime shared:3 - ext4 /dev/sdc1 ro
32 22 8:34 / /over rw - ext4 /dev/sdc2 rw
33 32 8:35 / /over ro - ext4 /dev/sdc3 rw
";

    #[test]
    fn only_the_option_of_the_mount_itself_is_on_purpose() {
        let read_only = |point| is_read_only_in(MOUNTINFO, point);
        assert!(!read_only("/") && !read_only("/data") && !read_only("/gone"));
        assert!(read_only("/mnt/a b\\c"));
        assert!(read_only("/over"), "the last one is on top");
        assert!(!is_read_only_in("", "/") && !is_read_only_in("1 2 3\n4 5 6 7 /\n", "/"));
    }
}
