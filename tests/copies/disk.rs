//! A file that is a disk: it can be unmounted, and its power can be cut.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Less is too little for XFS. Nearly all of it is a hole.
const IMAGE_BYTES: u64 = 320 << 20;
/// File systems, by what makes them.
pub(crate) const EXT4: [&str; 2] = ["mkfs.ext4", "-q"];
pub(crate) const XFS: [&str; 2] = ["mkfs.xfs", "-q"];
const UMOUNT_TRIES: u32 = 200;
const UMOUNT_PAUSE: Duration = Duration::from_millis(50);
/// FS_IOC_SHUTDOWN with FSOP_GOING_FLAGS_NOLOGFLUSH.
const CUT: &str =
    "import fcntl, os, sys; fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587d, b'\\x02\\0\\0\\0')";

/// A file with a file system, mounted.
pub(crate) struct Disk {
    image: PathBuf,
    pub(crate) at: PathBuf,
}

impl Disk {
    /// `None`: it cannot be made here; that is told.
    pub(crate) fn new(root: &Path, at: PathBuf, make: &[&str]) -> Option<Self> {
        let skip = |why: &str| eprintln!("skipped: disks made by {}: {why}", make[0]);
        if !nix::unistd::geteuid().is_root() {
            skip("not root");
            return None;
        }
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let image = root.join(format!("image-{}", NEXT.fetch_add(1, Ordering::Relaxed)));
        fs::File::create(&image).and_then(|file| file.set_len(IMAGE_BYTES)).expect("an image");
        if !Command::new(make[0]).args(&make[1..]).arg(&image).output().is_ok_and(|made| made.status.success()) {
            skip("no such program");
            return None;
        }
        fs::create_dir_all(&at).expect("a mount point");
        let disk = Self { image, at };
        if !disk.mount() {
            skip("no loop devices");
            return None;
        }
        Some(disk)
    }

    pub(crate) fn mount(&self) -> bool {
        Command::new("mount")
            .args(["-o", "loop"])
            .arg(&self.image)
            .arg(&self.at)
            .output()
            .is_ok_and(|done| done.status.success())
    }

    /// A program that another test starts has for a moment all that is open here.
    pub(crate) fn umount(&self) -> bool {
        (0..UMOUNT_TRIES).any(|attempt| {
            if attempt > 0 {
                std::thread::sleep(UMOUNT_PAUSE);
            }
            Command::new("umount").arg(&self.at).output().is_ok_and(|done| done.status.success())
        })
    }

    pub(crate) fn cut_power(&self) {
        let cut = Command::new("python3").args(["-c", CUT]).arg(&self.at).status().expect("python3");
        assert!(cut.success());
        assert!(self.umount() && self.mount(), "mounted again");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Whatever still uses it; it may have been unmounted already.
        let _ = Command::new("umount").arg("-l").arg(&self.at).output();
    }
}
