//! A mount namespace for one test, and a file system in a loop device.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

const IMAGE_BYTES: u64 = 32 << 20;

/// From here on this test's thread and its children have their own mounts. `None`: the test was skipped.
pub(crate) fn own_mounts() -> Option<()> {
    if let Err(errno) = unshare(CloneFlags::CLONE_NEWNS) {
        eprintln!("skipped: a mount namespace of one's own needs root: {errno}");
        return None;
    }
    let private = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
    Some(())
}

/// A fresh directory; the caller removes it.
pub(crate) fn fresh_directory() -> PathBuf {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let name = format!("mainstay-mount-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let directory = std::env::temp_dir().join(name);
    fs::create_dir(&directory).unwrap();
    directory
}

/// A file system of its own; the loop device goes with its mount.
pub(crate) struct Image {
    directory: PathBuf,
}

impl Image {
    /// ext4. `None`: the test was skipped.
    pub(crate) fn mounted(options: &str) -> Option<Self> {
        Self::of("mkfs.ext4", &["-q", "-F"], options)
    }

    /// Of another type. `None`: the test was skipped.
    pub(crate) fn of(maker: &str, arguments: &[&str], options: &str) -> Option<Self> {
        let image = Self { directory: fresh_directory() };
        fs::File::create(image.file()).unwrap().set_len(IMAGE_BYTES).unwrap();
        fs::create_dir(image.path()).unwrap();
        let file = image.file();
        if let Err(why) = run(maker, &[arguments, &[&*file.to_string_lossy()]].concat()) {
            eprintln!("skipped: no file system can be made: {why}");
            return None;
        }
        if let Err(why) = image.try_mount(options) {
            eprintln!("skipped: no loop device: {why}");
            return None;
        }
        Some(image)
    }

    fn file(&self) -> PathBuf {
        self.directory.join("image")
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.directory.join("mnt")
    }

    pub(crate) fn point(&self) -> String {
        self.path().to_str().unwrap().to_owned()
    }

    #[track_caller]
    pub(crate) fn mount(&self, options: &str) {
        self.try_mount(options).unwrap();
    }

    fn try_mount(&self, options: &str) -> Result<(), String> {
        if options.starts_with("remount") {
            return run("mount", &["-o", options, &self.point()]);
        }
        run("mount", &["-o", &format!("loop,{options}"), &self.file().to_string_lossy(), &self.point()])
    }

    #[track_caller]
    pub(crate) fn unmount(&self) {
        run("umount", &[&self.point()]).unwrap();
    }

    /// Lets the file system find an error in itself.
    pub(crate) fn cause_error(&self) {
        let mounts = fs::read_to_string("/proc/thread-self/mounts").unwrap();
        let line = mounts.lines().find(|line| line.split(' ').nth(1) == Some(&self.point())).unwrap();
        let device = Path::new(line.split(' ').next().unwrap()).file_name().unwrap();
        fs::write(Path::new("/sys/fs/ext4").join(device).join("trigger_fs_error"), "test").unwrap();
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        // It may be unmounted by now.
        let _ = run("umount", &["-l", &self.point()]);
        fs::remove_dir_all(&self.directory).unwrap();
    }
}

/// The error is what the program says.
fn run(program: &str, arguments: &[&str]) -> Result<(), String> {
    let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let output = Command::new(program).args(arguments).env("PATH", path).output();
    let output = output.map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()) }
}
