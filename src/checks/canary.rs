//! The canary of a file system: one block written with fdatasync and another read past the cache, which is what a disk that hangs or a
//! file system that has given up cannot do, whatever statvfs and the mount options say.
//!
//! The file stays where it is between the readings and is not kept open: an open file would make `umount` and a remount read-only of
//! the administrator fail as busy. Each reading opens it anew, so a mount that was replaced is never taken for the one before.

use std::fs::{File, Metadata};
use std::io::{self, ErrorKind};
use std::num::NonZeroUsize;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;

use super::mount_point;
use crate::engine::host::sample::CanaryStat;
use crate::sys::scratch::Scratch;
use crate::sys::{clock, direct, host, statfs};

/// In the root directory of the file system.
pub const CANARY: &str = ".mainstay-canary";

const BLOCK_BYTES: NonZeroUsize = NonZeroUsize::new(4096).expect("a page");
/// The first block is written at each reading, the second one only read.
const READ_OFFSET: u64 = 4096;
const FILE_BYTES: u64 = 2 * READ_OFFSET;

enum Failure {
    /// Which says nothing of the disk.
    Absent(String),
    Errno(i32),
}

/// Writes and reads; waits for the disk for as long as it takes.
#[must_use]
pub fn read_canary(root: &Path, point: &str) -> CanaryStat {
    let path = mount_point::path(root, point).join(CANARY);
    let fits = may_have_one(root, point).map_err(Failure::Absent);
    let read = fits.and_then(|()| exercise(&path).map_err(|error| meaning(&error, root, point, &path)));
    let mut stat = CanaryStat { mount: point.to_owned(), ..CanaryStat::default() };
    match read.and_then(|done| done) {
        Ok(took) => stat.took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
        Err(Failure::Absent(why)) => stat.absent = Some(why),
        Err(Failure::Errno(errno)) => stat.errno = Some(errno),
    }
    stat
}

fn may_have_one(root: &Path, point: &str) -> Result<(), String> {
    mount_point::must_be_mounted(root, point)?;
    match statfs::is_fat(&mount_point::path(root, point)) {
        Ok(true) => Err("it is FAT, which a write that is cut off may damage: nothing is written there".to_owned()),
        // What is wrong is told by the canary itself.
        Ok(false) | Err(_) => Ok(()),
    }
}

/// How long the slower half took.
fn exercise(path: &Path) -> io::Result<Result<Duration, Failure>> {
    let file = match open(path, 0) {
        Err(error) if error.kind() == ErrorKind::NotFound => open(path, libc::O_CREAT | libc::O_EXCL)?,
        opened => opened?,
    };
    let found = file.metadata()?;
    if let Some(why) = is_not_ours(&found, path) {
        return Ok(Err(Failure::Absent(format!("{} {why}: remove it", path.display()))));
    }
    let mut block = Scratch::new(BLOCK_BYTES)?;
    if found.len() < FILE_BYTES {
        file.write_all_at(&block, READ_OFFSET)?;
        file.sync_all()?;
    }
    // Different each time, so that nothing below can leave the write out.
    let text = format!("mainstay writes here to see whether the disk answers: {}\n", clock::clocks().wall_ns);
    block[..text.len()].copy_from_slice(text.as_bytes());
    let begun = Instant::now();
    file.write_all_at(&block, 0)?;
    file.sync_data()?;
    let written = Instant::now();
    read_from_device(&file, &mut block)?;
    Ok(Ok(written.duration_since(begun).max(written.elapsed())))
}

fn open(path: &Path, flags: i32) -> io::Result<File> {
    let mut options = File::options();
    // O_NONBLOCK: a pipe that somebody put there does not hold us.
    let flags = flags | libc::O_NOFOLLOW | libc::O_NONBLOCK;
    options.read(true).write(true).mode(0o600).custom_flags(flags).open(path)
}

/// A file system without owners gives all files the one of its root directory, who may do there as he likes anyway.
fn is_not_ours(found: &Metadata, path: &Path) -> Option<String> {
    let is_of_directory = || path.parent().and_then(|at| at.metadata().ok()).is_some_and(|at| at.uid() == found.uid());
    if !found.is_file() {
        Some("is no regular file".to_owned())
    } else if found.nlink() != 1 {
        Some("has another name as well".to_owned())
    } else if found.uid() != host::uid() && !is_of_directory() {
        Some(format!("belongs to user {}", found.uid()))
    } else {
        None
    }
}

fn read_from_device(file: &File, block: &mut Scratch) -> io::Result<()> {
    if direct::bypass_cache(file)? {
        match file.read_exact_at(block, READ_OFFSET) {
            // Larger blocks than ours, or a file system that only seems to take it.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => direct::use_cache(file)?,
            read => return read,
        }
    }
    direct::drop_cached(file, READ_OFFSET.cast_signed(), READ_OFFSET.cast_signed())?;
    file.read_exact_at(block, READ_OFFSET)
}

/// Whether an error is one of the disk, or of what we may do here.
fn meaning(error: &io::Error, root: &Path, point: &str, path: &Path) -> Failure {
    // A file that is shorter than it says.
    let errno = error.raw_os_error().unwrap_or(libc::EIO);
    let absent = match Errno::from_raw(errno) {
        Errno::EROFS if mount_point::is_read_only_on_purpose(root, point) => "mounted read-only".to_owned(),
        Errno::ENOSPC => "no room is left to write".to_owned(),
        Errno::EDQUOT => "no quota is left to write".to_owned(),
        Errno::EACCES | Errno::EPERM => format!(
            "no permission to write {}: run the agent as root, or disable the checks filesystem and disk_hung here",
            path.display()
        ),
        Errno::ELOOP => format!("{} is a symbolic link: remove it", path.display()),
        Errno::EISDIR => format!("{} is a directory: remove it", path.display()),
        Errno::ENOENT | Errno::ENOTDIR => format!("{point} is no directory"),
        _ => return Failure::Errno(errno),
    };
    Failure::Absent(absent)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;
    use crate::sys::testing::{TempDir, root_or_skip};

    fn absent(root: &TempDir) -> String {
        let stat = read_canary(root.path(), "/");
        assert_eq!((stat.errno, stat.took_us), (None, 0));
        stat.absent.unwrap()
    }

    #[test]
    fn file_is_made_once_and_written_each_time() {
        let root = TempDir::new();
        let path = root.path().join(CANARY);
        let stat = read_canary(root.path(), "/");
        assert_eq!((stat.errno, stat.absent.as_deref()), (None, None));
        assert!(stat.took_us > 0);
        let made = fs::metadata(&path).unwrap();
        assert_eq!((made.len(), made.permissions().mode() & 0o777), (FILE_BYTES, 0o600));
        let first = fs::read(&path).unwrap();
        assert_eq!(read_canary(root.path(), "/").errno, None);
        assert_eq!(fs::metadata(&path).unwrap().ino(), made.ino());
        assert_ne!(fs::read(&path).unwrap(), first);
        fs::remove_file(&path).unwrap();
        assert_eq!(read_canary(root.path(), "/").absent, None, "made again");
    }

    #[test]
    fn what_is_not_our_regular_file_is_left_alone() {
        let root = TempDir::new();
        let path = root.path().join(CANARY);
        let target = root.path().join("target");
        fs::write(&target, "precious").unwrap();
        symlink(&target, &path).unwrap();
        assert!(absent(&root).contains("is a symbolic link"));
        fs::remove_file(&path).unwrap();
        fs::set_permissions(&target, fs::Permissions::from_mode(0o600)).unwrap();
        fs::hard_link(&target, &path).unwrap();
        assert!(absent(&root).contains("has another name"));
        assert_eq!(fs::read(&target).unwrap(), b"precious");
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(absent(&root).contains("is a directory"));
        fs::remove_dir(&path).unwrap();
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
        assert!(absent(&root).contains("is no regular file"));
        fs::remove_file(&path).unwrap();
        if root_or_skip("giving a file away") {
            fs::write(&path, "x").unwrap();
            std::os::unix::fs::chown(&path, Some(65_534), None).unwrap();
            assert!(absent(&root).contains("belongs to user 65534"));
            std::os::unix::fs::chown(root.path(), Some(65_534), None).unwrap();
            assert_eq!(read_canary(root.path(), "/").absent, None, "as on a file system without owners");
        }
    }

    #[test]
    fn place_without_a_mount_has_no_canary() {
        let directory = TempDir::new();
        let point = directory.path().to_str().unwrap();
        let stat = read_canary(Path::new("/"), point);
        assert!(stat.absent.is_some_and(|why| why.contains("nothing is mounted")));
        assert!(!directory.path().join(CANARY).exists());
        assert_eq!(read_canary(directory.path(), "/gone").absent.as_deref(), Some("/gone is no directory"));
    }
}
