//! Disks and NICs of a test, in namespaces of its own, so that the machine and other tests see nothing of them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

/// Runs this as root on a thread with mounts and a network of its own, which whatever it starts shares. `false`: it could not be, and why was
/// said.
#[expect(clippy::print_stdout, reason = "a test says that it is skipped, and why")]
pub(crate) fn apart(story: impl FnOnce() + Send + 'static) -> bool {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: not root");
        return false;
    }
    let thread = std::thread::Builder::new().name(std::thread::current().name().unwrap_or("apart").to_owned());
    let story = thread.spawn(|| {
        if let Err(errno) = unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET) {
            println!("skipped: no namespaces of one's own here: {errno}");
            return false;
        }
        let nothing: Option<&str> = None;
        mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing).unwrap();
        own_sysfs();
        run("ip", &["link", "set", "lo", "up"]).unwrap();
        story();
        true
    });
    match story.unwrap().join() {
        Ok(done) => done,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// The NICs of /sys are those of the network that it was mounted in. The groups stay where they were.
fn own_sysfs() {
    let (groups, nothing): (_, Option<&str>) = ("/sys/fs/cgroup", None);
    let aside = std::env::temp_dir().join(format!("mainstay-groups-{}", nix::unistd::gettid()));
    fs::create_dir(&aside).unwrap();
    let recursively = MsFlags::MS_BIND | MsFlags::MS_REC;
    mount(Some(groups), &aside, nothing, recursively, nothing).unwrap();
    mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), nothing).unwrap();
    mount(Some(&aside), groups, nothing, recursively, nothing).unwrap();
    umount2(&aside, MntFlags::MNT_DETACH).unwrap();
    fs::remove_dir(&aside).unwrap();
}

/// Runs a program to its good end.
pub(crate) fn run(program: &str, arguments: &[&str]) -> Result<(), String> {
    let output = Command::new(program).args(arguments).output().map_err(|error| format!("{program}: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr).trim())),
    }
}

/// ext4 on a loop device.
pub(crate) struct LoopDisk {
    pub(crate) point: PathBuf,
    /// `loop3`
    pub(crate) device: String,
}

impl LoopDisk {
    /// `Err`: this machine has no loop devices or no tools, and which.
    pub(crate) fn on(point: &Path) -> Result<Self, String> {
        fs::create_dir_all(point).unwrap();
        let image = point.with_extension("img");
        fs::File::create(&image).and_then(|file| file.set_len(32 << 20)).unwrap();
        let (image, shown) = (image.to_str().unwrap(), point.to_str().unwrap());
        run("mkfs.ext4", &["-q", "-F", image])?;
        // A number of its own: the kernel's log of the last minutes still has the errors of others that had the same.
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let device = format!("loop{}", 64 + (std::process::id() * 4 + count) % 960);
        let path = format!("/dev/{device}");
        run("losetup", &[&path, image])?;
        let mounted = run("mount", &[&path, shown]);
        // Gone with the mount.
        run("losetup", &["-d", &path])?;
        mounted?;
        Ok(Self { point: point.to_owned(), device })
    }

    /// What ext4 does when it finds itself corrupted.
    pub(crate) fn find_an_error(&self) {
        fs::write(format!("/sys/fs/ext4/{}/trigger_fs_error", self.device), "of a test").unwrap();
    }
}

impl Drop for LoopDisk {
    fn drop(&mut self) {
        let _ = umount2(&self.point, MntFlags::MNT_DETACH);
    }
}
